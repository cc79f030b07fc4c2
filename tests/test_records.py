"""A data file is read whole or refused with every fault in place; what is read can be told by its fingerprint."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, record_row

from gaokao.errors import UserError
from gaokao.records import (
    KEY_ALIASES,
    SUBJECTS,
    TYPE_ALIASES,
    TYPES,
    Record,
    drop_hints,
    fingerprint,
    join_answers,
    load_records,
    split_answers,
)

Write = Callable[..., Path]


def faults(path: Path, purpose: Any = "train") -> str:
    with pytest.raises(UserError) as error:
        load_records(path, purpose)
    return str(error.value)


def test_json_list_and_json_lines_with_and_without_bom_read_alike(tmp_path: Path) -> None:
    rows = [record_row(0), record_row(1)]
    listed = json.dumps(rows, ensure_ascii=False)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    prints = set()
    for name, text in (
        ("a.json", listed),
        ("b.jsonl", lines),
        ("c.json", "\ufeff" + listed),
        ("d.jsonl", "\ufeff" + lines),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        prints.add(fingerprint(load_records(tmp_path / name)))
    assert len(prints) == 1


def test_aliases_of_keys_and_types_are_read(write_rows: Write) -> None:
    row = record_row()
    renamed = {
        "科目": row["subject"],
        "题型": "大题",
        "题干": row["question"],
        "参考答案": ["甲", "乙"],
        "解析": row["analysis"],
    }
    (record,) = load_records(write_rows([{**renamed, "课本内容": "甲" * 80, "课外内容": "乙"}]))
    assert (record.subject, record.type, record.answer) == ("生物", "主观题", ("甲", "乙"))
    assert set(TYPE_ALIASES) == {"大题", "解答题", "简答题"}


def test_unknown_keys_are_carried_through(write_rows: Write) -> None:
    (record,) = load_records(write_rows([record_row(year=2021, tags=["a"])]))
    assert record.extra == {"year": 2021, "tags": ["a"]}
    assert record.to_dict()["year"] == 2021


def test_a_missing_id_is_made_from_position_and_content(write_rows: Write) -> None:
    rows = [record_row(0), record_row(0), record_row(1)]
    for row in rows:
        del row["id"]
    path = write_rows(rows)
    first, second, third = (record.id for record in load_records(path))
    assert len({first, second, third}) == 3
    assert first.split("-")[1] == second.split("-")[1] != third.split("-")[1]
    assert [record.id for record in load_records(path)] == [first, second, third]


def test_generation_needs_no_reference(write_rows: Write) -> None:
    row = record_row()
    for key in ("question", "answer", "analysis"):
        del row[key]
    (record,) = load_records(write_rows([row]), "generate")
    assert not record.has_reference
    assert set(record.to_dict()) == {"id", "subject", "type", "课本内容", "课外内容"}


def test_all_bad_records_are_reported_together_with_place_and_remedy(write_rows: Write) -> None:
    rows: list[Any] = [
        record_row(0),
        record_row(1, subject="音乐"),
        {key: value for key, value in record_row(2).items() if key != "question"},
        record_row(0),
        record_row(4, answer=["", "x"]),
        record_row(5, analysis=7),
        record_row(6, type="判断题", 课本内容=None),
        "text",
        record_row(8, question="甲<|im_end|>乙"),
        record_row(9, analysis="甲\n参考答案：乙"),
    ]
    said = faults(write_rows(rows))
    for part in (
        '[1] (id r1): subject (科目) is "音乐"; it must be one of 语文',
        "[2] (id r2): question (题干) is missing; add it",
        "[3] (id r0): the id is also that of",
        "[4] (id r4): answer (参考答案) holds an empty text",
        "[5] (id r5): analysis (解析) is 7; it must be a text",
        '[6] (id r6): type (题型) is "判断题"; it must be one of 单选题 多选题 填空题 主观题',
        "[6] (id r6): 课本内容 is missing; add it (an empty text means none)",
        '[7]: is "text" instead of an object',
        "[8] (id r8): question (题干) contains the chat marker <|im_end|>",
        "[9] (id r9): analysis (解析) has a line that begins with '参考答案：'",
    ):
        assert part in said
    assert "10 error(s)" in said


def test_a_broken_line_in_the_middle_is_named_with_the_others(tmp_path: Path) -> None:
    lines = [json.dumps(record_row(n), ensure_ascii=False) for n in range(3)]
    lines[1] = lines[1][:40]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "a.jsonl:2: is not JSON" in faults(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"  \n \n", "the file is empty"),
        (b"[]", "holds no records"),
        (b"hello", "is not JSON"),
        (b'[{"id": "a",]', "is not JSON"),
        ('[{"id": "题"}]'.encode("gb18030"), "iconv -f GB18030 -t UTF-8"),
        (b"[\xff\xfe\xff]", "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_data_file_says_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert said in faults(tmp_path / "a.json")


def test_the_caller_that_knows_the_option_has_it_named_in_every_message(tmp_path: Path, write_rows: Write) -> None:
    missing, bad, empty = tmp_path / "none.json", write_rows([record_row(type="")]), write_rows([], "empty.json")
    for path, said in (
        (missing, "there is no such data file; check the name"),
        (bad, "1 error(s) in the records:"),
        (empty, "holds no records"),
    ):
        with pytest.raises(UserError) as error:
            load_records(path, "train", "data.train")
        assert str(error.value).startswith(f"data.train = {path}: {said}")
        with pytest.raises(UserError) as error:
            load_records(path)
        assert str(error.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    "answers",
    [["A"], ["甲", "乙"], ["甲\n（2）乙", "丙"], ["（1）甲\n（2）乙"], ["一", "二", "三\n四"], ["(1) x\n(2) y"]],
)
def test_answers_have_one_canonical_form(answers: list[str]) -> None:
    once = split_answers(join_answers(answers))
    assert split_answers(join_answers(once)) == once


def test_numbered_text_and_list_are_the_same_answer(write_rows: Write) -> None:
    rows = [record_row(0, answer=["甲", "乙"]), record_row(1, answer="（1）甲\n（2）乙")]
    first, second = load_records(write_rows(rows))
    assert first.answer == second.answer == ("甲", "乙")


def test_difficulty_and_topic_are_read_under_both_names_and_written_back(write_rows: Write) -> None:
    rows = [record_row(0, difficulty=" 压轴 ", topic=" 细胞呼吸 "), record_row(1, 难度="基础", 知识点="光合作用")]
    first, second = load_records(write_rows(rows))
    assert (first.difficulty, first.topic) == ("压轴", "细胞呼吸")
    assert (second.difficulty, second.topic) == ("基础", "光合作用")
    assert first.extra == second.extra == {}
    assert second.to_dict()["difficulty"] == "基础" and second.to_dict()["topic"] == "光合作用"
    assert load_records(write_rows([first.to_dict(), second.to_dict()])) == [first, second]


@pytest.mark.parametrize("purpose", ["train", "generate"])
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_difficulty_and_topic_may_be_absent_or_empty(write_rows: Write, empty: Any, purpose: Any) -> None:
    bare, blank = load_records(write_rows([record_row(0), record_row(1, difficulty=empty, topic=empty)]), purpose)
    for record in (bare, blank):
        assert (record.difficulty, record.topic) == ("", "")
        assert not {"difficulty", "topic"} & set(record.to_dict())


@pytest.mark.parametrize(
    ("word", "difficulty"),
    [
        *((name, name) for name in ("基础", "中档", "压轴")),
        *(("易", "基础"), ("容易", "基础"), ("中", "中档"), ("中等", "中档"), ("难", "压轴"), ("困难", "压轴")),
    ],
)
def test_usual_words_for_the_three_difficulties_are_read(write_rows: Write, word: str, difficulty: str) -> None:
    (record,) = load_records(write_rows([record_row(难度=word)]))
    assert record.difficulty == difficulty


@pytest.mark.parametrize("value", ["很难", "0.65", 0.65, 0, False, ["基础"]])
def test_another_difficulty_is_refused_by_value_with_the_three_that_may_stand(write_rows: Write, value: Any) -> None:
    said = faults(write_rows([record_row(difficulty=value)]))
    shown = json.dumps(value, ensure_ascii=False)
    assert f"data.json[0] (id r0): difficulty (难度) is {shown}; it must be one of 基础 中档 压轴 " in said
    assert said.endswith("or leave it out")


def test_a_topic_is_one_line_of_at_most_fifty_characters(write_rows: Write) -> None:
    (record,) = load_records(write_rows([record_row(topic="甲" * 50)]))
    assert record.topic == "甲" * 50
    for topic in ("甲" * 51, "甲\n乙", "甲\r乙", "甲\u2028乙"):
        assert "(id r0): topic (知识点) is " in (said := faults(write_rows([record_row(topic=topic)])))
        assert said.endswith("it must be one line of at most 50 characters")


def test_a_topic_cannot_end_the_turn_and_is_a_text(write_rows: Write) -> None:
    assert "topic (知识点) contains the chat marker <|im_end|>" in faults(
        write_rows([record_row(topic="甲<|im_end|>")])
    )
    assert 'topic (知识点) is ["甲", "乙"]; it must be a text' in faults(write_rows([record_row(topic=["甲", "乙"])]))


def test_fingerprint_tells_difficulty_and_topic(write_rows: Write) -> None:
    changes: list[dict[str, str]] = [
        {},
        {"difficulty": "基础"},
        {"difficulty": "中档"},
        {"topic": "甲"},
        {"topic": "乙"},
    ]
    prints = {fingerprint(load_records(write_rows([record_row(0, **change)]))) for change in changes}
    assert len(prints) == 5


def test_hints_are_dropped_from_half_of_the_records_each_on_its_own(write_rows: Write) -> None:
    records = load_records(write_rows([record_row(n, difficulty="基础", topic=f"第{n}点") for n in range(400)]))
    dropped = drop_hints(records, seed=3)
    kept = Counter((bool(record.difficulty), bool(record.topic)) for record in dropped)
    assert len(kept) == 4 and all(60 <= count <= 140 for count in kept.values()), kept
    for before, after in zip(records, dropped, strict=True):
        assert replace(after, difficulty=before.difficulty, topic=before.topic) == before
        assert after.difficulty in ("", before.difficulty) and after.topic in ("", before.topic)


def test_what_hints_are_dropped_depends_on_seed_and_id_only(write_rows: Write) -> None:
    records = load_records(write_rows([record_row(n, difficulty="基础", topic="点") for n in range(40)]))
    dropped = drop_hints(records, seed=3)
    assert drop_hints(records[::-1], seed=3) == dropped[::-1]
    assert drop_hints(records[7:8], seed=3) == dropped[7:8]
    other = [replace(record, question="另一题", textbook="另一段") for record in records]
    assert [record.topic for record in drop_hints(other, seed=3)] == [record.topic for record in dropped]
    for key in ("difficulty", "topic"):
        assert [getattr(r, key) for r in drop_hints(records, seed=4)] != [getattr(r, key) for r in dropped]
    # The same in every process and on every machine: a run that is resumed must see the prompts it began with.
    assert [int(bool(record.topic)) for record in dropped[:12]] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_records_without_hints_stay_as_they_are(write_rows: Write) -> None:
    records = load_records(write_rows([record_row(n) for n in range(20)]))
    assert drop_hints(records, seed=3) == records


def test_fingerprint_tells_content_and_order(write_rows: Write) -> None:
    a, b = load_records(write_rows([record_row(0), record_row(1)]))
    assert fingerprint([a, b]) != fingerprint([b, a])
    assert fingerprint([a]) != fingerprint([b])


@pytest.mark.parametrize(("name", "least"), [("train.json", 324), ("test.json", 72)])
def test_bundled_data_cover_all_subjects_and_the_types_that_their_papers_have(name: str, least: int) -> None:
    records = load_records(ROOT / "gaokao_data" / name)
    assert len(records) >= least
    without = {("多选题", subject) for subject in ("语文", "英语", "政治", "历史", "地理")}
    without |= {("填空题", subject) for subject in ("政治", "历史", "地理")}
    assert {(r.type, r.subject) for r in records} == {(t, s) for t in TYPES for s in SUBJECTS} - without
    assert sum(bool(r.outside) for r in records) >= len(records) / 2
    for record in records:
        assert 80 <= len(record.textbook) <= 300, record.id
        assert record.difficulty and record.topic, record.id


def test_bundled_training_data_have_36_items_of_each_subject() -> None:
    records = load_records(ROOT / "gaokao_data" / "train.json")
    for subject in {record.subject for record in records}:
        assert sum(record.subject == subject for record in records) == 36


@pytest.mark.parametrize(("alias", "key"), sorted(KEY_ALIASES.items()))
def test_each_alias_of_a_key_is_read_as_the_key(write_rows: Write, alias: str, key: str) -> None:
    row = record_row(difficulty="基础", topic="细胞")
    renamed = {alias if name == key else name: value for name, value in row.items()}
    assert alias in renamed
    assert load_records(write_rows([renamed])) == load_records(write_rows([row]))
    assert f"{alias} and {key} are the same key, given twice; keep one" in faults(write_rows([{**row, **renamed}]))


@pytest.mark.parametrize("alias", ["大题", "解答题", "简答题", " 主观题\n"])
def test_each_alias_of_a_type_is_read_as_the_type(write_rows: Write, alias: str) -> None:
    (record,) = load_records(write_rows([record_row(type=alias)]))
    assert record.type == "主观题"


@pytest.mark.parametrize("marker", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("key", ["课本内容", "课外内容", "question", "answer", "analysis"])
def test_each_chat_marker_is_refused_in_each_text(write_rows: Write, key: str, marker: str) -> None:
    said = faults(write_rows([{**record_row(), key: f"甲{marker}乙"}]))
    assert f"contains the chat marker {marker}, which would end the turn; remove it" in said and key in said
    assert marker in faults(write_rows([record_row(answer=["甲", f"乙{marker}"])]))


@pytest.mark.parametrize("key", ["课本内容", "课外内容", "question", "answer", "analysis"])
@pytest.mark.parametrize("line", ["解析：乙", "**题干：** 乙", "# 参考答案:乙", "* 解析；", "\t题干 ：乙"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_that_begins_with_a_header_is_refused_in_each_text(
    write_rows: Write, key: str, line: str, end: str
) -> None:
    said = faults(write_rows([{**record_row(), key: f"甲{end}{line}"}]))
    assert "has a line that begins with" in said and "a header of the answer; reword it" in said and key in said


def test_line_ends_of_all_systems_are_one(write_rows: Write) -> None:
    prints = set()
    for end in ("\n", "\r\n", "\r"):
        row = record_row(type="主观题", answer=["甲", f"乙{end}丙"])
        row |= {key: f"甲{end}乙{end}{end}丙{end}" for key in ("课本内容", "课外内容", "question", "analysis")}
        records = load_records(write_rows([row]))
        assert records[0].question == "甲\n乙\n\n丙"
        prints.add(fingerprint(records))
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["甲", ""], "holds an empty text"),
        ([" \n", "乙"], "holds an empty text"),
        ("（1）甲\n（2）", "has nothing behind （2）"),
        ("（1）\n（2）乙", "has nothing behind （1）"),
        (["（1）甲\n(2)\t\n（3）丙"], "has nothing behind （2）"),
        (["甲\n（2）乙", "丙"], "begins like the next sub-answer"),
        (["甲", "乙\n(3) 丙"], "begins like the next sub-answer"),
        (["甲", "乙\r（3）丙"], "begins like the next sub-answer"),
        ("（1）题干：甲\n（2）乙", "has a line that begins with '题干：'"),
    ],
)
def test_an_answer_that_would_be_read_back_as_another_is_refused(write_rows: Write, answer: Any, said: str) -> None:
    text = faults(write_rows([record_row(answer=answer)]))
    assert "data.json[0] (id r0): answer (参考答案) " in text and said in text


def test_answers_that_carry_their_numbers_are_numbered_once(write_rows: Write) -> None:
    (record,) = load_records(write_rows([record_row(answer=["（1）甲", "(2) 乙"])]))
    assert record.answer == ("甲", "乙")


@pytest.mark.parametrize(
    "answer", [["（1）甲", "乙"], ["*甲", "# 乙"], ["甲\n（3）乙", "丙"], ["甲\n(1) 乙", "丙"], ["（2）甲"]]
)
def test_an_answer_that_can_be_read_back_is_kept_as_given(write_rows: Write, answer: list[str]) -> None:
    (record,) = load_records(write_rows([record_row(answer=answer)]))
    assert record.answer == tuple(answer)


@pytest.mark.parametrize(
    "text",
    [
        "（01）甲\n（02）乙",
        "（１）甲\n（２）乙",
        "（0）甲\n（1）乙",
        "（1）甲",
        "甲（1）\n（2）乙",
        "甲\n（1）乙\n（2）丙",
    ],
)
def test_only_a_text_that_is_numbered_from_one_at_line_starts_is_split(text: str) -> None:
    assert split_answers(text) == (text,)


def test_numbers_out_of_their_order_belong_to_the_text() -> None:
    assert split_answers("（1）甲\n（3）乙\n(2)\t丙\n（2）丁") == ("甲\n（3）乙", "丙\n（2）丁")
    assert split_answers(" \n ") == ()


def test_two_hundred_thousand_sub_answers_are_split_by_one_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a pattern for each number")

    parts = tuple(f"甲{number}" for number in range(200_000))
    text = join_answers(parts)
    monkeypatch.setattr("re.compile", refuse)
    assert split_answers(text) == parts


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "　", "\u2028"])
def test_white_space_is_no_text(write_rows: Write, blank: str) -> None:
    row = record_row(question=blank, answer=blank, analysis=blank)
    said = faults(write_rows([row]))
    assert "question (题干) is empty" in said and "analysis (解析) is empty" in said and "answer (参考答案) " in said
    (record,) = load_records(write_rows([record_row(question=f"{blank}甲{blank}", answer=f"{blank}B{blank}")]))
    assert (record.question, record.answer) == ("甲", ("B",))


def test_half_a_character_in_a_list_of_a_table_is_named(tmp_path: Path) -> None:
    row = record_row(answer='["甲", "\\ud83d"]')
    header, cells = (
        ",".join(row),
        ",".join(f'"{value}"' for value in {**row, "answer": '[""甲"", ""\\ud83d""]'}.values()),
    )
    (tmp_path / "a.csv").write_text(f"{header}\n{cells}\n", encoding="utf-8")
    assert "a.csv:2: holds half of a character (\\ud83d" in faults(tmp_path / "a.csv")


CHANGES: dict[str, Any] = {
    "id": "other",
    "subject": "物理",
    "type": "多选题",
    "textbook": "另一段",
    "outside": "另一段",
    "question": "另一题",
    "answer": ("C",),
    "analysis": "故选C。",
    "difficulty": "压轴",
    "topic": "另一点",
    "extra": {"year": 2020},
}


@pytest.mark.parametrize("name", [field.name for field in fields(Record)])
def test_a_change_of_one_field_alone_changes_the_fingerprint(write_rows: Write, name: str) -> None:
    (record,) = load_records(write_rows([record_row()]))
    assert fingerprint([replace(record, **{name: CHANGES[name]})]) != fingerprint([record])


def test_fingerprint_tells_where_answers_and_records_end(write_rows: Write) -> None:
    (record,) = load_records(write_rows([record_row()]))
    prints = {
        fingerprint([replace(record, answer=answer)])
        for answer in (("甲", "乙"), ("甲乙",), ("甲\n乙",), ("甲", "乙", "乙"))
    }
    assert len(prints) == 4
    assert fingerprint([record]) != fingerprint([record, record]) != fingerprint([])


# --- options in keys of their own -----------------------------------------------------------------------------------


def split_row(**changes: Any) -> dict[str, Any]:
    """A record whose options stand in keys of their own."""
    options = {"选项A": "甲", "选项B": "乙", "选项C": "丙", "选项D": "丁"}
    return {**record_row(question="下列叙述正确的是"), **options, **changes}


def test_options_in_keys_of_their_own_are_joined_to_the_question(write_rows: Write) -> None:
    bare = {key.removeprefix("选项"): value for key, value in split_row(id="bare", F="").items()}
    five = split_row(id="five", 选项E=" 戊 ", 选项F="", 选项G=None, E="another key")
    blank = split_row(id="blank", type="填空题", **dict.fromkeys(["选项A", "选项B", "选项C", "选项D"], " "))
    rows = [split_row(), bare, five, blank, record_row(4, B="a letter without A is a key as any other")]
    first, second, third, fourth, last = load_records(write_rows(rows))
    assert first.question == second.question == "下列叙述正确的是\nA．甲\nB．乙\nC．丙\nD．丁"
    assert third.question == first.question + "\nE．戊"
    assert fourth.question == "下列叙述正确的是"
    assert first.extra == second.extra == fourth.extra == {} and third.extra == {"E": "another key"}
    assert last.extra == {"B": "a letter without A is a key as any other"}
    assert set(first.to_dict()) == set(record_row()) and first.to_dict()["question"] == first.question
    assert load_records(write_rows([first.to_dict()])) == [first]


@pytest.mark.parametrize("key", ["options", "选项"])
@pytest.mark.parametrize(
    "value",
    [dict(zip("ABCD", "甲乙丙丁", strict=True)), ["甲", "乙", "丙", "丁"], ["A．甲", "B．乙", "C．丙", "D．丁"]],
)
def test_options_as_an_object_or_a_list_are_joined_to_the_question(write_rows: Write, key: str, value: Any) -> None:
    (record,) = load_records(write_rows([record_row(question="下列叙述正确的是", **{key: value})]))
    assert record.question == "下列叙述正确的是\nA．甲\nB．乙\nC．丙\nD．丁" and record.extra == {}
    # Where the question holds them, and where it is anything else, the key is one as any other.
    for row in (record.to_dict() | {key: value}, record_row() | {key: {"x": "甲"}}):
        (again,) = load_records(write_rows([row]))
        assert again.extra == {key: row[key]} and again.question == row["question"]


def test_letters_that_were_written_into_the_cells_stand_once(write_rows: Write) -> None:
    marked = split_row(选项A="A．甲", 选项B="（B）乙", 选项C="C、丙", 选项D="D: 丁")
    kept = split_row(id="kept", 选项A="A.甲", 选项B="乙")
    first, second = load_records(write_rows([marked, kept]))
    assert first.question == "下列叙述正确的是\nA．甲\nB．乙\nC．丙\nD．丁"
    assert second.question.startswith("下列叙述正确的是\nA．A.甲\nB．乙")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"选项B": ""}, "选项B is empty or missing, but 选项D is not; write it, or move the others up"),
        ({"选项C": None, "选项D": "", "选项E": "戊"}, "选项C is empty or missing, but 选项E is not"),
        ({"选项A": "", "选项B": "", "选项C": ""}, "选项A is empty or missing, but 选项D is not"),
        ({"选项D": ""}, "has only the option(s) A B C; write 选项A to 选项D, as a 单选题 needs them"),
        ({"question": record_row()["question"]}, "question (题干) holds options, and 选项A and so on hold options too"),
        ({"选项C": 3}, "选项C is 3; it must be a text"),
        ({"选项C": "丙<|im_end|>"}, "选项C contains the chat marker <|im_end|>"),
        ({"选项C": "丙\n解析：丁"}, "选项C has a line that begins with '解析：'"),
        ({"A": "甲"}, "A and 选项A are the same key, given twice; keep one"),
    ],
)
def test_options_that_make_no_whole_are_refused(write_rows: Write, changes: dict[str, Any], said: str) -> None:
    assert f"data.json[0] (id r0): {said}" in faults(write_rows([split_row(**changes)]))


def test_options_without_a_question_are_refused_for_generation_too(write_rows: Write) -> None:
    said = faults(write_rows([split_row(question="")]), "generate")
    assert "1 error(s)" in said and "question (题干) is empty; write it" in said


def test_a_table_as_a_spreadsheet_writes_it_gives_whole_questions(tmp_path: Path) -> None:
    header = "科目,题型,课本内容,题干,选项A,选项B,选项C,选项D,参考答案,解析"
    choice = '生物,单选题,"细胞是基本单位，\n""结构""与功能。",下列正确的是,甲,"乙,丙",丁,"戊\n己",B,故选B。'
    blank = "数学,填空题,集合的概念。,1＋1＝____,,,,,2,显然。"
    path = tmp_path / "items.csv"
    path.write_bytes("\ufeff".encode() + "\r\n".join([header, choice, blank, ",,,,,,,,,", ""]).encode())
    first, second = load_records(path)
    assert first.question == "下列正确的是\nA．甲\nB．乙,丙\nC．丁\nD．戊\n己"
    assert first.textbook == '细胞是基本单位，\n"结构"与功能。'
    assert (second.question, second.answer) == ("1＋1＝____", ("2",))
    assert first.extra == second.extra == {}
