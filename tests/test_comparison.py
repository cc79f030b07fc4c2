"""Comparing two results: the same records, intervals and p-values that are known, and sentences that say no more."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, entry, item, write_results
from scipy.stats import binomtest

import evaluate
from gaokao.comparison import compare, comparison_text, holm, items_needed, pair, paired_interval, sentence
from gaokao.errors import UserError
from gaokao.metrics import bootstrap_interval, passage_groups
from gaokao.results import Generated

BAD = TEXT.replace("参考答案：B", "参考答案：乙")


def results(flags: list[bool], **changes: Any) -> list[Generated]:
    """A question for each flag, usable where it is true."""
    return [item(TEXT if flag else BAD, id=f"r{number}", **changes) for number, flag in enumerate(flags)]


def table(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    ours = [True] * (both + first) + [False] * (second + neither)
    theirs = [True] * both + [False] * first + [True] * second + [False] * neither
    return ours, theirs


def test_records_are_paired_by_id_and_by_what_was_asked() -> None:
    first = [item(id="a"), item(id="b"), item(id="c"), item(id="only")]
    second = [item(id="c"), item(id="b", type="主观题"), item(id="a"), item(id="other")]
    found = pair(first, second)
    assert [(a.record.id, b.record.id) for a, b in found.pairs] == [("a", "a"), ("c", "c")]
    assert (found.only_first, found.only_second, found.asked_otherwise) == (["only"], ["other"], ["b"])
    with pytest.raises(UserError, match="share no record .such as a and x, .* from the same data.test"):
        pair(first, [item(id="x")])


def test_the_interval_is_the_published_one() -> None:
    # Newcombe 1998, table II, method 10.
    assert paired_interval(*table(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize(
    "cells", [(36, 12, 2, 0), (0, 1, 0, 49), (25, 0, 0, 25), (50, 0, 0, 0), (1, 0, 0, 0), (3, 9, 9, 4)]
)
def test_intervals_hold_the_difference_and_turn_with_the_sides(cells: tuple[int, int, int, int]) -> None:
    ours, theirs = table(*cells)
    low, high = paired_interval(ours, theirs)
    assert -1 <= low < (sum(ours) - sum(theirs)) / len(ours) < high <= 1
    assert paired_interval(theirs, ours) == pytest.approx((-high, -low))


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    draw, held = random.Random(1), 0
    for _ in range(400):
        cells = draw.choices([(True, True), (True, False), (False, True), (False, False)], [5, 3, 1, 3], k=60)
        low, high = paired_interval([a for a, _ in cells], [b for _, b in cells])
        held += low <= 2 / 12 <= high
    assert 0.92 <= held / 400 <= 0.99


def test_the_usable_rate_is_tested_by_mcnemar() -> None:
    ours, theirs = table(20, 9, 1, 5)
    figure = compare(list(zip(results(ours), results(theirs), strict=True)))[0]
    assert (figure.name, figure.items) == ("usable", 35)
    assert (figure.first, figure.second) == (29 / 35, 21 / 35)
    assert figure.p == pytest.approx(binomtest(9, 10).pvalue)
    assert figure.interval_95 == paired_interval(ours, theirs)


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    figures = compare(list(zip(results(table(20, 9, 1, 5)[0]), results(table(20, 9, 1, 5)[1]), strict=True)))
    assert [figure.p_holm for figure in figures] == pytest.approx(holm([figure.p for figure in figures]))


def test_better_worse_and_no_difference_shown() -> None:
    ours, theirs = table(10, 30, 2, 8)
    for first, second, verdict in ((ours, theirs, "better"), (theirs, ours, "worse"), (ours, ours, "none")):
        figure = compare(list(zip(results(first), results(second), strict=True)))[0]
        assert figure.verdict == verdict
    # One record more is no news.
    few = table(10, 2, 1, 2)
    figure = compare(list(zip(results(few[0]), results(few[1]), strict=True)))[0]
    assert figure.verdict == "none" and figure.needed is not None and figure.needed > 15
    assert f"about {figure.needed:,} records would show" in sentence(figure, "en")
    assert "看不出差别" in sentence(figure, "zh") and f"大约需要 {figure.needed:,} 条" in sentence(figure, "zh")


def test_the_number_that_is_needed_shows_such_a_difference_four_times_in_five() -> None:
    # One question in five is better in the first, one in ten in the second.
    needed = items_needed(0.1, 0.3**0.5, (0.3 - 0.01) ** 0.5, 1.96)
    assert needed is not None
    draw, shown = random.Random(2), 0
    for _ in range(400):
        kinds = draw.choices("+-=", [0.2, 0.1, 0.7], k=needed)
        shown += binomtest(kinds.count("+"), kinds.count("+") + kinds.count("-")).pvalue < 0.05
    assert 0.72 <= shown / 400 <= 0.88
    assert items_needed(0.0, 0.5, 0.5, 1.96) is None


def test_similarity_is_compared_record_by_record() -> None:
    texts = [TEXT.replace("乙符合事实", "乙" + "符合事实" * number) for number in range(1, 13)]
    ours = [item(text, id=f"r{number}", reference=text) for number, text in enumerate(texts)]
    theirs = [replace(one, text=TEXT.replace("乙符合事实", "完全不同的话语")) for one in ours]
    figure = compare(list(zip(ours, theirs, strict=True)))[-1]
    assert (figure.name, figure.percent, figure.verdict, figure.items) == ("similarity", False, "better", 12)
    assert figure.first == pytest.approx(100) and figure.interval_95[0] > 0
    assert figure.interval_95[0] < figure.difference < figure.interval_95[1]
    equal = compare(list(zip(ours, ours, strict=True)))[-1]
    assert (equal.difference, equal.verdict, equal.p, equal.needed) == (0, "none", 1.0, None)
    # Twelve of twelve: every flip of the signs is tried, so that no seed counts.
    assert compare(list(zip(ours, theirs, strict=True)), seed=1)[-1].p == figure.p == pytest.approx(2 / 2**12)


def test_checks_that_no_pair_differs_in_are_left_out() -> None:
    ours, theirs = results([True] * 4), results([True, True, True, False])
    assert [figure.name for figure in compare(list(zip(ours, theirs, strict=True)))] == [
        "usable", "three sections and stopped", "key", "own 课本内容 first", "similarity"
    ]  # fmt: skip


@pytest.mark.parametrize(("choices", "compared"), [(5, False), (6, True)])
def test_a_check_that_applies_to_too_few_pairs_to_show_anything_costs_the_others_nothing(
    choices: int, compared: bool
) -> None:
    kinds = ["单选题"] * choices + ["主观题"] * 9
    ours = [item(TEXT, id=f"r{number}", type=kind) for number, kind in enumerate(kinds)]
    theirs = [item(BAD, id=f"r{number}", type=kind) for number, kind in enumerate(kinds)]
    figures = {figure.name: figure for figure in compare(list(zip(ours, theirs, strict=True)))}
    assert ("key" in figures) is compared
    assert figures["usable"].items == choices + 9


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def write(ours: list[bool], theirs: list[bool], **changes: Any) -> tuple[Path, Path]:
        paths = tmp_path / "a.json", tmp_path / "b.json"
        for path, flags in zip(paths, (ours, theirs), strict=True):
            write_results(path, [entry(TEXT if f else BAD, id=f"r{n}", **changes) for n, f in enumerate(flags)])
        return paths

    return write


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("zh", "可用率：更好，80% 对 24%（50 条记录，相差 +56%"),
        ("en", "usable: better, 80% against 24% (50 records, difference +56%"),
    ],
)
def test_the_command_compares_in_both_languages_and_keeps_the_figures(
    files: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], language: str, said: str
) -> None:
    first, second = files(*table(10, 30, 2, 8))
    evaluate.main([str(first), "--against", str(second), "--evaluate.language", language])
    assert said in capsys.readouterr().out
    against = json.loads((first.parent / "a.scores.json").read_text(encoding="utf-8"))["against"]
    assert against["file"] == str(second)
    assert against["figures"][0]["verdict"] == "better" and against["figures"][0]["interval_95"][0] > 0.3


def test_records_that_are_not_compared_are_counted_and_named() -> None:
    found = pair([item(id=f"r{n}") for n in range(9)], [item(id="r0"), item(id="x", type="主观题")])
    text = comparison_text(found, [], "en")
    assert "1 records are in both" in text
    assert "8 are in the first only (r1, r2, r3, r4, r5 …); 1 are in the second only (x)" in text
    assert "只在第一个里的 8 条" in comparison_text(found, [], "zh")


@pytest.mark.parametrize("changes", [{"reference": None}, {"课本内容": "", "课外内容": ""}])
def test_results_without_references_or_passages_of_one_item_are_compared(
    files: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    first, second = files([True], [False], **changes)
    evaluate.main([str(first), "--against", str(second)])
    assert "可用率：看不出差别，100% 对 0%" in capsys.readouterr().out


def test_both_sides_are_ranked_among_the_same_passages() -> None:
    passages = ["".join(random.Random(n).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往", k=60)) for n in range(20)]
    right = [
        item(TEXT.replace("下列", passage[:30]), id=f"r{n}", 课本内容=passage) for n, passage in enumerate(passages)
    ]
    # The second side wrote nothing for most of them: it has no fewer rivals for that.
    few = [one if n < 6 else replace(one, text="没有") for n, one in enumerate(right)]
    figures = {figure.name: figure for figure in compare(list(zip(right, few, strict=True)))}
    own = figures["own 课本内容 first"]
    assert (own.items, own.first, own.second) == (6, 1.0, 1.0)


def test_a_number_that_the_records_exceed_already_is_not_named_as_needed() -> None:
    # Five of five: the exact test on five records cannot show it, and a formula would ask for fewer.
    figure = compare(list(zip(results([True] * 5), results([False] * 5), strict=True)))[0]
    assert figure.verdict == "none"
    few, many = figure._replace(needed=4), figure._replace(needed=60)
    assert "would show" not in sentence(few, "en") and "大约需要" not in sentence(few, "zh")
    assert "about 60 records would show" in sentence(many, "en")


def test_more_figures_ask_for_more_records() -> None:
    assert items_needed(0.1, 0.5, 0.49, 1.96) < items_needed(0.1, 0.5, 0.49, 2.8)  # type: ignore[operator]


# --- shared passages --------------------------------------------------------------------------------------------------


def test_records_that_share_a_passage_are_one_group_also_by_way_of_others() -> None:
    asked = [("甲", "一"), ("乙", "二"), ("丙", " 一 "), ("甲", "三"), ("", ""), ("", "甲"), ("四", "三")]
    records = [item(id=f"r{n}", 课本内容=book, 课外内容=news).record for n, (book, news) in enumerate(asked)]
    groups = passage_groups(records)
    assert [groups.index(group) for group in groups] == [0, 1, 0, 0, 4, 5, 0]


def repeated(flags: list[bool], times: int) -> list[Generated]:
    """Each flag several times, of one passage."""
    return [replace_id(one, again) for one in results(flags) for again in range(times)]


def replace_id(one: Generated, again: int) -> Generated:
    return replace(one, record=replace(one.record, id=f"{one.record.id}-{again}"))


def test_records_asked_of_one_passage_several_times_say_no_more_than_once() -> None:
    ours, theirs = table(10, 4, 1, 3)
    once = compare(list(zip(results(ours), results(theirs), strict=True)))[0]
    pairs = list(zip(repeated(ours, 5), repeated(theirs, 5), strict=True))
    five = compare(pairs)[0]
    assert five.items == 90 and five.p == pytest.approx(once.p) and five.difference == pytest.approx(once.difference)
    assert five.interval_95 == pytest.approx(once.interval_95, abs=0.06)
    # Five times as many records of as many passages.
    assert five.needed == pytest.approx(5 * (once.needed or 0), rel=0.1)
    found = pair([a for a, _ in pairs], [b for _, b in pairs])
    assert "90 records are in both and are compared; records that share a passage count together: 18 groups" in (
        comparison_text(found, [], "en")
    )
    assert "材料相同的记录合在一起算，共 18 组" in comparison_text(found, [], "zh")
    assert "groups" not in comparison_text(pair(results(ours), results(theirs)), [], "en")


def test_a_comparison_with_an_interrupted_run_says_so() -> None:
    ours, theirs = results([True] * 6), results([True] * 6)
    assert "interrupted" not in comparison_text(pair(ours, theirs), [], "en")
    judged = [replace(item, repeats="") for item in ours]
    assert "one of the two is of an interrupted run" in comparison_text(pair(judged, theirs), [], "en")
    assert "其中一个是中断的生成" in comparison_text(pair(theirs, judged), [], "zh")


def test_groups_of_several_sizes_are_flipped_whole() -> None:
    # Sums of the groups +3, +1, -1: of the eight ways to sign them six are as far from 0 as +3.
    ours, theirs = [True] * 4 + [False], [False] * 4 + [True]
    passages = ["甲", "甲", "甲", "乙", "丙"]
    pairs = [
        (item(TEXT if a else BAD, id=f"r{n}", 课本内容=passage), item(TEXT if b else BAD, id=f"r{n}", 课本内容=passage))
        for n, (a, b, passage) in enumerate(zip(ours, theirs, passages, strict=True))
    ]
    assert compare(pairs)[0].p == pytest.approx(6 / 8)


def test_one_passage_says_nothing_about_others_and_a_sure_thing_of_three_is_not_certain() -> None:
    pairs = list(zip(repeated([True], 9), repeated([False], 9), strict=True))
    usable, *_, similarity = compare(pairs)
    assert (usable.interval_95, usable.p, similarity.interval_95) == ((-1, 1), 1, (-100, 100))
    three = compare(list(zip(repeated([True] * 3, 9), repeated([False] * 3, 9), strict=True)))[0]
    assert three.interval_95 == paired_interval([True] * 3, [False] * 3) and three.p == pytest.approx(0.25)


def test_intervals_over_shared_passages_hold_the_true_difference_as_often_as_they_say() -> None:
    draw, held, alone = random.Random(3), 0, 0
    for _ in range(30):
        # Records of a passage are all alike: 40 passages of five records.
        gains = draw.choices([1.0, 0.0, -1.0], [3, 6, 1], k=40)
        differences, groups = [gain for gain in gains for _ in range(5)], [n // 5 for n in range(200)]
        low, high = bootstrap_interval(differences, 0, groups)
        held += low <= 0.2 <= high
        low, high = bootstrap_interval(differences, 0)
        alone += low <= 0.2 <= high
    assert alone < 23 < 26 <= held
