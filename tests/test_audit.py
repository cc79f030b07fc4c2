"""What is said of a set: near-duplicates and key bias."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from test_checks import GOOD, MULTIPLE, OPEN, SUBQUESTIONS, WRONG, caught, passed, skipped

from gaokao.audit import check_key_bias, check_near_duplicates, key_bias
from gaokao.checks import Item, Outcome

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
    caught(check_key_bias(keyed(keys)))


def test_a_set_whose_key_is_always_the_longest_option_is_caught() -> None:
    result = check_key_bias(keyed("ABCD" * 10, longest=True))
    caught(result)
    assert "longest option in 100%" in result.evidence


@pytest.mark.parametrize("keys", ["ABCD" * 5, "ABCD" * 100, "AABBBCCCDD" * 4, "ABCDDCBABD" * 3])
def test_a_set_of_even_keys_passes(keys: str) -> None:
    passed(check_key_bias(keyed(keys)))


def test_key_shares_count_single_answers_only() -> None:
    assert key_bias([*keyed("AABD"), MULTIPLE, OPEN, SUBQUESTIONS]) == (
        4,
        {"A": 0.5, "B": 0.25, "C": 0.0, "D": 0.25},
        0.0,
    )
    assert key_bias([]).total == 0
    skipped(check_key_bias(keyed("AAAA")))


def test_key_bias_is_judged_from_twenty_items_and_three_standard_deviations_on() -> None:
    skipped(check_key_bias(keyed("ABCD" * 4 + "ABC")))
    passed(check_key_bias(keyed("ABCD" * 5)))
    # 48 items: 3 sqrt(.1875 / 48) = .1875, so 21 of them are one letter at most.
    passed(check_key_bias(keyed("A" * 21 + "BCD" * 9)))
    caught(check_key_bias(keyed("A" * 22 + "BCD" * 8 + "BC")))
    caught(check_key_bias(keyed("A" * 2 + "BCD" * 15 + "B")))
