"""What is said of a set: near-duplicates, keys, the line for a training; and how a set is cut into two."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from conftest import ROOT
from test_checks import GOOD, MULTIPLE, OPEN, SUBQUESTIONS, WRONG, caught, passed, skipped

from gaokao import audit
from gaokao.audit import KeyBias, check_key_bias, check_near_duplicates, key_bias, key_of
from gaokao.checks import Item, Outcome
from gaokao.errors import UserError
from gaokao.records import Record, load_records
from gaokao.text import near_duplicates

BUNDLED = load_records(ROOT / "gaokao_data" / "train.json")

TWIN = (
    "已知函数f(x)的图象在点(1,0)处的切线与直线平行，求实数a的值，并讨论函数在区间上的单调性；"
    "若函数在区间内存在两个不同的零点，求实数a的取值范围，并证明两个零点之和大于二。"
)
TWINS = [
    TWIN,
    TWIN + "。",
    "21.（12分）" + TWIN,
    TWIN.replace("，", ","),
    TWIN.replace("(", "（").replace(")", "）"),
    "\n".join(TWIN),
    "  ".join(TWIN),
    TWIN.replace("a", "m"),
    TWIN.replace("f", "g"),
    TWIN.replace("(1,0)", "(2,0)"),
    TWIN.replace("平行", "垂直"),
    TWIN.replace("大于二", "小于二"),
    TWIN.replace("实数", ""),
    TWIN[:70],
    TWIN[8:],
    TWIN + "请写出过程。",
    "（文科）" + TWIN + "（理科不做）",
    TWIN.replace("讨论", "研究").replace("证明", "说明"),
    TWIN.replace("f(x)", "ｆ（ｘ）"),
    f"**{TWIN}**",
    TWIN.replace("零点", "根"),
]


@pytest.mark.parametrize("twin", TWINS)
def test_a_question_with_other_layout_or_numbers_is_a_near_duplicate(twin: str) -> None:
    item = replace(OPEN, question=TWIN)
    within = check_near_duplicates([GOOD, item, replace(OPEN, question=twin)])
    assert [result.outcome for result in within] == [Outcome.PASS, Outcome.FAIL, Outcome.FAIL]
    assert "item 2 of the set" in within[1].evidence and "item 1 of the set" in within[2].evidence
    against = check_near_duplicates([replace(OPEN, question=twin), GOOD], [WRONG, item])
    assert against[0].outcome is Outcome.FAIL and "training item 1" in against[0].evidence


def test_questions_on_one_subject_are_no_near_duplicates() -> None:
    items = [GOOD, MULTIPLE, OPEN, SUBQUESTIONS, replace(OPEN, question=TWIN), replace(OPEN, question="")]
    outcomes = [result.outcome for result in check_near_duplicates(items)]
    assert outcomes == [Outcome.PASS] * 5 + [Outcome.NOT_APPLICABLE]


def bias_of(keys: Iterable[str], longest: bool = False) -> KeyBias:
    return key_bias(map(key_of, keyed(keys, longest)))


def keyed(keys: Iterable[str], longest: bool = False) -> list[Item]:
    items = []
    for number, key in enumerate(keys):
        texts = {letter: f"第{number}题{letter}" + "长" * (longest and letter == key) for letter in "ABCD"}
        question = "正确的是\n" + "\n".join(f"{letter}．{text}" for letter, text in texts.items())
        items.append(replace(GOOD, question=question, answer=(key,)))
    return items


BIASED = ["A" * n for n in (20, 30, 100)] + ["C" * 40, "D" * 25, "AB" * 20, "BC" * 30, "CD" * 50, "AC" * 40]
BIASED += ["ABC" * 15, "BCD" * 20, "ABD" * 30, "AAB" * 20, "AABC" * 20, "ABBBCD" * 10, "CCCABD" * 10, "DDDDABC" * 8]
BIASED += ["AAABCD" * 10, "A" * 60 + "BCD" * 20, "ABCD" * 10 + "B" * 20, "BBCCD" * 12, "A" * 15 + "BCD" * 3]


@pytest.mark.parametrize("keys", BIASED)
def test_a_set_that_prefers_a_letter_is_caught(keys: str) -> None:
    caught(check_key_bias(bias_of(keys)))


def test_a_set_whose_key_is_always_the_longest_option_is_caught() -> None:
    result = check_key_bias(bias_of("ABCD" * 10, longest=True))
    caught(result)
    assert "longest option in 100%" in result.evidence


@pytest.mark.parametrize("keys", ["ABCD" * 5, "ABCD" * 100, "AABBBCCCDD" * 4, "ABCDDCBABD" * 3])
def test_a_set_of_even_keys_passes(keys: str) -> None:
    passed(check_key_bias(bias_of(keys)))


def test_key_shares_count_single_answers_only() -> None:
    assert key_bias(map(key_of, [*keyed("AABD"), MULTIPLE, OPEN, SUBQUESTIONS])) == (
        4,
        {"A": 0.5, "B": 0.25, "C": 0.0, "D": 0.25},
        0.0,
    )
    assert key_bias([]).total == 0
    skipped(check_key_bias(bias_of("AAAA")))


def test_key_bias_is_judged_from_twenty_items_and_three_standard_deviations_on() -> None:
    skipped(check_key_bias(bias_of("ABCD" * 4 + "ABC")))
    passed(check_key_bias(bias_of("ABCD" * 5)))
    # 48 items: 3 sqrt(.1875 / 48) = .1875, so 21 of them are one letter at most.
    passed(check_key_bias(bias_of("A" * 21 + "BCD" * 9)))
    caught(check_key_bias(bias_of("A" * 22 + "BCD" * 8 + "BC")))
    caught(check_key_bias(bias_of("A" * 2 + "BCD" * 15 + "B")))


def test_many_copies_and_templates_cost_no_square_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = audit.find_duplicates(["同一道题目的文字"] * 500)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, number) for number in range(1, 500)]
    assert found.left_out == ""
    template = "一辆汽车在平直公路上匀速行驶，司机发现前方有障碍物后立即刹车，求汽车刹车后的位移，初速度为每秒"
    texts = [f"{template}{number}米" for number in range(20)]
    monkeypatch.setattr(audit, "MANY_PAIRS", 190)
    assert audit.find_duplicates(texts) == (near_duplicates(texts), "")
    monkeypatch.setattr(audit, "MANY_PAIRS", 189)
    found = audit.find_duplicates(texts)
    assert len(found.pairs) == 189 and set(found.pairs) < set(near_duplicates(texts))
    assert found.left_out == "the search ended after 189 pairs, so many questions are alike"
    monkeypatch.setattr(audit, "DUPLICATE_CHARACTERS", 7)
    assert audit.find_duplicates(["同一道题", "同一道题"]).left_out.startswith("not searched: the questions have more")
    assert audit.find_duplicates(["同一道题", "同一道"]).left_out == ""


def test_of_copies_that_are_like_another_text_one_pair_stands_for_all() -> None:
    texts = [
        "甲乙丙丁戊己庚辛壬癸子丑",
        "甲乙丙丁戊己庚辛壬癸子丑",
        "甲乙丙丁戊己庚辛壬癸子寅",
        "甲乙丙丁戊己庚辛壬癸子寅",
    ]
    pairs = [(pair.first, pair.second) for pair in near_duplicates(texts, limit=9)]
    assert sorted(pairs) == [(0, 1), (0, 2), (2, 3)]


def test_percentiles_are_nearest_ranks() -> None:
    assert [audit.percentile(range(1, 101), share) for share in (0, 0.05, 0.5, 0.95, 1)] == [1, 5, 50, 95, 100]
    assert audit.percentile([], 0.5) == 0


def test_the_counts_of_a_file_say_what_the_check_says_of_its_items() -> None:
    items = [Item.from_record(record) for record in BUNDLED]
    counts = audit.Counts("a", keys=Counter(map(key_of, items)))
    assert counts.key_bias() == key_bias(map(key_of, items))
    assert counts.key_bias().total == sum(item.type == "单选题" for item in items)


def test_the_line_for_the_training_script_names_what_fails_and_where_to_look() -> None:
    question = BUNDLED[0].question
    bad = replace(BUNDLED[0], answer=("B" if BUNDLED[0].answer != ("B",) else "C",))
    line = audit.summary_line([bad, replace(bad, question=question + "。")], "my.json")
    assert line == (
        "checks    2 of 2 records fail a hard check (key agrees 2); 1 near-duplicate pair; "
        "python -m gaokao_data.check my.json shows them"
    )


def test_the_line_for_the_training_script_is_short_on_good_records_and_looks_at_the_first_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert audit.summary_line(BUNDLED) == f"checks    {len(BUNDLED)} records pass every hard check; no near-duplicates"
    monkeypatch.setattr(audit, "SUMMARY_RECORDS", 5)
    bad = replace(BUNDLED[0], question="如图，" + BUNDLED[9].question)
    many = audit.summary_line([*BUNDLED[:5], bad])
    assert many == "checks    the first 5 of 6 records pass every hard check; no near-duplicates"
    assert audit.summary_line([*BUNDLED[:4], bad, bad]).startswith("checks    1 of the first 5 of 6 records fail")


# --- split ----------------------------------------------------------------------------------------------------------


def made(count: int, subject: str = "生物", kind: str = "主观题", text: str = "") -> list[Record]:
    """Records whose questions are not alike, unless a text is given that most of each consists of."""
    draw = random.Random(f"{count}{subject}{kind}{text}")
    letters = [chr(code) for code in range(0x4E00, 0x9FA5)]
    questions = [text + "".join(draw.choices(letters, k=4 if text else 30)) for _ in range(count)]
    return [
        Record(f"{subject}{kind}{text}{n}", subject, kind, "课本", "", question, ("答",), "解析。")
        for n, question in enumerate(questions)
    ]


def test_a_test_has_its_share_of_every_subject_and_type_and_both_sides_keep_the_order() -> None:
    records = [*made(100), *made(40, "数学"), *made(60, kind="填空题"), *made(7, "历史")]
    random.Random(1).shuffle(records)
    train, test = audit.split(records, 0.1)
    counts = Counter((record.subject, record.type) for record in test)
    assert len(test) == 21
    for kind, count in Counter((record.subject, record.type) for record in records).items():
        assert abs(counts[kind] - 0.1 * count) < 1, kind
    for part in (train, test):
        assert part == [record for record in records if record in part]
    assert len(train) + len(test) == len(records)


def test_what_is_held_out_depends_on_seed_and_contents_only() -> None:
    records = made(60)
    held = {record.question for record in audit.split(records, 0.2)[1]}
    renamed = [replace(record, id=f"other {n}") for n, record in enumerate(reversed(records))]
    assert {record.question for record in audit.split(renamed, 0.2)[1]} == held
    assert {record.question for record in audit.split(records, 0.2, seed=1)[1]} != held
    # At random, not the first ones.
    assert held != {record.question for record in records[:12]}


def test_near_duplicates_and_what_is_like_one_of_them_stay_on_one_side() -> None:
    text = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地玄黄宇宙洪荒日月盈昃辰宿列张"
    chain = [text[start : start + 24] for start in (0, 4, 8, 12)]
    assert [pair[:2] for pair in near_duplicates(chain)] == [(0, 1), (1, 2), (2, 3)]
    linked = [Record(f"c{n}", "生物", "主观题", "课本", "", text, ("答",), "解析。") for n, text in enumerate(chain)]
    copies = [replace(record, id=f"{record.id} again", subject="化学") for record in made(30)]
    for seed in range(12):
        records = [*linked, *made(30), *copies]
        random.Random(seed).shuffle(records)
        train, test = audit.split(records, 0.3, seed)
        sides = [{record.id.removesuffix(" again") for record in part} for part in (train, test)]
        assert not sides[0] & sides[1]
        assert sum(record in test for record in linked) in (0, len(linked))


def test_a_split_that_leaves_a_side_empty_or_cannot_keep_the_like_together_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"a share of 0.1 of 4 records leaves one side empty; take another share"):
        audit.split(made(4), 0.1)
    with pytest.raises(UserError, match="leaves one side empty"):
        audit.split(made(8, text="甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥" * 2), 0.5)
    monkeypatch.setattr(audit, "MANY_PAIRS", 5)
    with pytest.raises(UserError, match="cannot be kept on one side of the split: the search ended after 5 pairs"):
        audit.split(made(8, text="甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥" * 2), 0.5)
