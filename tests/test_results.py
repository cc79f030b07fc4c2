"""Results files are read back as they were written, or what is wrong in them is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TEXT, entry, item, write_results

from gaokao.checks import Outcome
from gaokao.errors import UserError
from gaokao.prompts import render
from gaokao.records import Record, load_records
from gaokao.results import Generated, read_results


def written(record: Record, text: str = TEXT, finish_reason: str = "stop") -> Generated:
    return Generated.of(
        record, prompt="p", text=text, finish_reason=finish_reason, prompt_tokens=7, completion_tokens=9, adapter="none"
    )


def test_a_question_holds_input_prompt_text_parts_and_counts_and_is_read_back_as_it_was() -> None:
    for record in load_records(ROOT / "gaokao_data" / "test.json"):
        made = written(record)
        entry = made.to_dict()
        assert (entry["id"], entry["subject"], entry["type"]) == (record.id, record.subject, record.type)
        assert (entry["课本内容"], entry["课外内容"]) == (record.textbook, record.outside)
        assert (entry["difficulty"], entry["topic"]) == (record.difficulty, record.topic)
        assert (entry["参考答案"], entry["解析"], entry["missing"]) == ("B", "乙符合事实。故选B。", [])
        assert entry["reference"] == render(record)
        assert (entry["prompt"], entry["text"], entry["adapter"]) == ("p", TEXT, "none")
        assert (entry["finish_reason"], entry["prompt_tokens"], entry["completion_tokens"]) == ("stop", 7, 9)
        # What is read from the text is not what the record's own question says.
        assert made.record.question == "" and entry["题干"].startswith("下列正确的是")
        again = Generated.from_dict(json.loads(json.dumps(entry)))
        assert again == made and again.to_dict() == entry


def test_a_question_says_what_it_takes_over_from_each_passage() -> None:
    passage = "线粒体是细胞进行有氧呼吸的主要场所，为生命活动提供能量。"
    text = TEXT.replace("下列正确的是", "线粒体是细胞进行有氧呼吸的主要场所。据此，下列正确的是")
    entry = written(Record("r", "生物", "单选题", "细胞是基本单位。", passage), text).to_dict()
    assert entry["taken_over"] == {"课本内容": [], "课外内容": ["线粒体是细胞进行有氧呼吸的主要场所"]}


def test_a_record_without_difficulty_topic_and_question_leaves_them_out() -> None:
    entry = written(Record("r", "生物", "单选题", "细胞。")).to_dict()
    assert not {"difficulty", "topic"} & entry.keys()
    assert entry["reference"] is None and (entry["usable"], entry["failed_checks"]) == (True, [])


def test_a_question_names_the_checks_that_it_fails_with_evidence() -> None:
    record = Record("r", "生物", "单选题", "细胞是生物体结构和功能的基本单位。")
    text = TEXT.replace("D．丁", "D．丙").replace("符合事实", "符合事实，$x")
    made = written(record, text, "length")
    assert made.failed == ["options", "latex", "truncated"]
    entry = made.to_dict()
    assert entry["usable"] is made.usable is False
    assert [(failed["check"], failed["hard"]) for failed in entry["failed_checks"]] == [
        ("options", True),
        ("latex", False),
        ("truncated", True),
    ]
    assert "options C and D are both" in entry["failed_checks"][0]["evidence"]


def test_both_passages_reach_the_checks() -> None:
    passage = "线粒体是细胞进行有氧呼吸的主要场所，为生命活动提供能量，其内膜向内折叠形成嵴。"
    text = TEXT.replace("下列正确的是", passage)
    for passages in ((passage, ""), ("细胞。", passage)):
        made = written(Record("r", "生物", "单选题", *passages), text)
        assert made.failed == ["copied"] and not made.usable


def test_checks_and_parts_are_those_of_today_whatever_the_file_says() -> None:
    old = entry() | {"题干": "旧", "failed_checks": [{"check": "key"}], "usable": False}
    made = Generated.from_dict(old)
    assert made.usable and made.failed == [] and made.sections["题干"] != "旧"


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_line_separators_within_a_text_are_read_back(tmp_path: Path, name: str) -> None:
    odd = TEXT.replace("乙符合事实", "乙\u2028符\u2029合\u0085事\x0b实\x1e。\r")
    assert read_results(write_results(tmp_path / name, [entry(odd), entry()])) == [item(odd), item()]


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(entry()).encode() + b"\r\n\r\n" + json.dumps(entry()).encode() + b"\r\n"
    )
    assert len(read_results(path)) == 2


def test_half_a_last_line_is_left_out_and_a_whole_one_counts(tmp_path: Path) -> None:
    path = write_results(tmp_path / "q.jsonl", [entry(), entry()])
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.rstrip("\n"), encoding="utf-8")
    assert len(read_results(path)) == 2
    path.write_text(whole[:-40], encoding="utf-8")
    assert len(read_results(path)) == 1


def test_drafts_that_the_gate_has_not_judged_do_not_pass_it(tmp_path: Path) -> None:
    twice = [entry(), entry() | {"attempt": 2, "text": TEXT.replace("参考答案：B", "参考答案：乙")}]
    (kept,) = read_results(write_results(tmp_path / "q.jsonl", twice))
    gate = {result.name: result.outcome for result in kept.results}
    assert gate["repeats"] is gate["off passages"] is Outcome.NOT_APPLICABLE
    assert [(row["attempt"], row["usable"]) for row in kept.attempts] == [(1, True), (2, False)]
    judged = entry() | {"attempts": [{"attempt": 1, "usable": True, "failed_checks": []}]}
    (kept,) = read_results(write_results(tmp_path / "q.json", [judged]))
    gate = {result.name: result.outcome for result in kept.results}
    assert gate["repeats"] is gate["off passages"] is Outcome.PASS


def test_half_a_line_before_the_last_is_named(tmp_path: Path) -> None:
    path = write_results(tmp_path / "q.jsonl", [entry(), entry(), entry()])
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2], ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2: is not JSON"):
        read_results(path)
    # A line end behind it says that it is no line that was being written.
    path.write_text("\n".join([lines[0], lines[1][:40], ""]), encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2: is not JSON"):
        read_results(path)


FAULTY: list[tuple[Any, str]] = [
    (entry(text=5), r"text is 5, not a text"),
    (entry(text=None), r"text is null, not a text"),
    (entry(finish_reason=["stop"]), r"finish_reason is \[.stop.\], not a text"),
    (entry(reference=7), r"reference is 7, not a text"),
    (entry(adapter={}), r"adapter is \{\}, not a text"),
    (entry(subject="体育"), r".*subject \(科目\) is \"体育\"; it must be one of 语文"),
    (entry(type="单选"), r".*type \(题型\) is \"单选\"; it must be one of 单选题"),
    ({key: value for key, value in entry().items() if key != "id"}, "id is missing"),
    ({key: value for key, value in entry().items() if key != "课本内容"}, ".*课本内容 is missing"),
    ({key: value for key, value in entry().items() if key != "text"}, "text is missing"),
    ([entry()], r"holds \[.* instead of an entry"),
    ("x" * 100_000, r"holds \"x{39}… instead of an entry"),
    (None, r"holds null instead of an entry"),
]


@pytest.mark.parametrize(("value", "said"), FAULTY)
@pytest.mark.parametrize(("name", "where"), [("q.json", r"q\.json\[1\]"), ("q.jsonl", r"q\.jsonl:2")])
def test_a_faulty_entry_is_named(tmp_path: Path, name: str, where: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"{where}(?: \(id .*?\))?: {said}"):
        read_results(write_results(tmp_path / name, [entry(), value]))


@pytest.mark.parametrize("key", ["id", "text", "reference", "课本内容", "adapter"])
def test_half_a_character_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps([entry(), entry(**{key: "题\ud83d"})]), encoding="ascii")
    with pytest.raises(UserError, match=r"q\.json\[1\]: holds half of a character"):
        read_results(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '[{"a":' * 50_000, '{"a":' * 100_000, '{"text": ' + "[" * 100_000])
def test_deep_nesting_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "q.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.json.*(nested too deep|not JSON)"):
        read_results(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such results file"),
        (b"[", "is not JSON"),
        (b"[]", "holds no results"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe[", "is UTF-16 text"),
        (b'{"a": 1}', "id is missing"),
        (b'{"text": ', "q.json:1: is not JSON"),
    ],
)
def test_a_file_that_is_no_results_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_results(tmp_path / "q.json")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_folder_is_no_results_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name the file in it, such as .*questions.json"):
        read_results(tmp_path)
