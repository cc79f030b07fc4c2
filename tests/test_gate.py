"""The gate: repetitions of training questions and of other questions of the run, and questions off their passages."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import item, record_row

from gaokao.errors import UserError
from gaokao.gate import Gate, Seen, fingerprint, load_training_questions, save_training_questions
from gaokao.records import Record, parse_record
from gaokao.results import Generated
from gaokao.sources import Raw
from gaokao.text import near_duplicates

FARMING = "某县三年前苹果收购价每斤四元，农户纷纷扩种，今年果树集中挂果，收购价跌到每斤八角，近两万吨苹果滞销。"
RAILWAY = "一八八一年，唐山至胥各庄的铁路建成，用来把开平煤矿的煤运往运河码头，起初火车只得由骡马拖拉。"
LAMP = "镁空气应急灯注入淡盐水后即可点亮，连续使用八小时后镁片由十二克减为七克，盐水中出现白色沉淀。"
STEMS = (
    "苹果从每斤四元跌到每斤八角，近两万吨滞销。这说明市场调节具有",
    "唐山至胥各庄的铁路起初由骡马拖拉火车。这反映出洋务运动中",
    "应急灯中镁片由十二克减为七克，白色沉淀的成分是",
)


def record(number: int, outside: str, textbook: str = "") -> Record:
    made = parse_record(Raw("x", record_row(number, 课外内容=outside, 课本内容=textbook)), number, "generate")[0]
    assert made is not None
    return made


RECORDS = [record(number, outside) for number, outside in enumerate((FARMING, RAILWAY, LAMP))]


def generated(source: Record, stem: str, number: int = 0) -> Generated:
    options = "".join(
        f"\n{letter}．第{number}组的{word}项内容" for letter, word in zip("ABCD", "甲乙丙丁", strict=True)
    )
    made: Generated = item(f"题干：{stem}（  ）{options}\n参考答案：A\n解析：甲项正确。故选A。")
    return replace(made, record=source)


def test_a_question_is_off_its_passages_where_another_ones_is_nearer() -> None:
    gate = Gate(RECORDS, Seen())
    own = [generated(source, stem) for source, stem in zip(RECORDS, STEMS, strict=True)]
    assert gate.off_passages(own) == [False, False, False]
    turned = [generated(source, stem) for source, stem in zip(RECORDS, STEMS[1:] + STEMS[:1], strict=True)]
    assert gate.off_passages(turned) == [True, True, True]
    assert gate.off_passages([generated(RECORDS[0], "下列说法正确的是")]) == [True]
    assert gate.off_passages([own[1], turned[0], own[0]]) == [False, True, False]


def test_either_passage_of_its_own_is_enough() -> None:
    records = [
        record(n, outside, book)
        for n, (outside, book) in enumerate([(FARMING, LAMP), (RAILWAY, FARMING), (LAMP, RAILWAY)])
    ]
    gate = Gate(records, Seen())
    assert gate.off_passages([generated(records[0], STEMS[0]), generated(records[0], STEMS[2])]) == [False, False]
    assert gate.off_passages([generated(records[0], STEMS[1])]) == [True]


def test_nothing_is_said_where_there_is_nothing_to_compare_with() -> None:
    assert Gate(RECORDS[:2], Seen()).off_passages([generated(RECORDS[0], STEMS[1])]) == [False]
    assert Gate([replace(RECORDS[0], id=str(n)) for n in range(5)], Seen()).off_passages(
        [generated(RECORDS[0], STEMS[1])]
    ) == [False]
    other = replace(RECORDS[2], subject="历史")
    assert Gate([*RECORDS[:2], other], Seen()).off_passages([generated(RECORDS[0], STEMS[1])]) == [False]


def test_repetitions_are_of_training_questions_of_kept_ones_and_of_drafts_before() -> None:
    training = Seen()
    training.add(fingerprint(generated(RECORDS[2], STEMS[2]).question.question), "a training question")
    gate = Gate(RECORDS, training)
    first, second = (
        generated(source, stem, n) for n, (source, stem) in enumerate(zip(RECORDS[:2], STEMS[:2], strict=True))
    )
    again = replace(first, record=replace(RECORDS[1], id="again"))
    assert gate.repeats([], [first, second, again]) == ["", "", "the question of id r0"]
    assert gate.repeats([first], [again, second]) == ["the question of id r0", ""]
    assert gate.repeats([], [again, first]) == ["", "the question of id again"]
    assert gate.repeats([first, second], [generated(RECORDS[2], STEMS[2])]) == ["a training question"]


def test_an_empty_question_repeats_nothing() -> None:
    empty = replace(item("没有"), record=RECORDS[0])
    assert Gate(RECORDS, Seen()).repeats([], [empty, empty]) == ["", ""]


def test_the_same_pairs_are_found_as_by_the_exact_search(bundled: list[Record]) -> None:
    texts = [record.question for record in bundled]
    # Near-duplicates by construction: other numbers, a word less.
    texts += [text.replace("1", "2").replace("的", "", 1) for text in texts[:40]]
    seen, found = Seen(), set()
    for number, text in enumerate(texts):
        grams = fingerprint(text)
        if name := seen.like(grams):
            found.add((int(name), number))
        seen.add(grams, str(number))
    pairs = {(pair.first, pair.second) for pair in near_duplicates(texts)}
    assert len(pairs) >= 20
    assert {second for _, second in found} == {second for _, second in pairs} and found <= pairs


@pytest.fixture(scope="module")
def bundled() -> list[Record]:
    from conftest import ROOT

    from gaokao.records import load_records

    return load_records(ROOT / "gaokao_data" / "train.json")[:80]


def test_fingerprints_travel_with_the_adapter_and_hold_no_text(bundled: list[Record], tmp_path: Path) -> None:
    save_training_questions(bundled, tmp_path)
    seen = load_training_questions(tmp_path)
    assert len(seen) == len(bundled)
    assert seen.like(fingerprint(bundled[7].question)) == "a training question"
    assert seen.like(fingerprint(STEMS[0])) == ""
    content = (tmp_path / "training_questions.safetensors").read_bytes()
    assert bundled[7].question[:6].encode() not in content


def test_an_adapter_without_fingerprints_or_none_compares_with_nothing(tmp_path: Path) -> None:
    assert len(load_training_questions(None)) == len(load_training_questions(tmp_path)) == 0
    save_training_questions([], tmp_path)
    assert len(load_training_questions(tmp_path)) == 0


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_fingerprints_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "training_questions.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="training_questions.safetensors: cannot be read .* restore it, or remove it"):
        load_training_questions(tmp_path)
