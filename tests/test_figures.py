"""Figures by subject and type with intervals, and how varied a set is."""

from dataclasses import replace

import pytest
from conftest import TEXT, item

from evaluate import summarize
from gaokao.figures import LEAST_ITEMS, summary_text, usable_table, variety
from gaokao.metrics import bootstrap_interval, rate
from gaokao.text import normalize

BAD = TEXT.replace("参考答案：B", "参考答案：乙")


def test_the_usable_rate_stands_by_subject_type_and_both_and_small_groups_are_named() -> None:
    items = [item(TEXT if number < 4 else BAD, id=f"b{number}") for number in range(6)]
    items += [item(id=f"h{number}", subject="历史") for number in range(LEAST_ITEMS)]
    items += [item(id="x", subject="地理"), item(id="y", subject="地理")]
    table = usable_table(items)
    assert table["生物"] == table["生物 单选题"] == rate([True] * 4 + [False] * 2)
    assert table["历史"] == rate([True] * 5) and table["单选题"]["items"] == 13
    assert table["too_few"] == {"地理": 2, "地理 单选题": 2}


def test_pairs_of_subject_and_type_are_left_out_where_they_say_nothing_new() -> None:
    assert set(usable_table([item(id=str(number)) for number in range(6)])) == {"生物", "单选题", "too_few"}


def test_variety_counts_grams_repetitions_and_keys() -> None:
    same, other = (
        item(id="a"),
        item(TEXT.replace("B\n", "C\n").replace("故选B", "故选C").replace("下列", "以下四项里"), id="b"),
    )
    found = variety([same, same, other])
    assert found["near_duplicate_pairs"] == 1
    assert found["keys"] == {
        "items": 3,
        "A": 0.0,
        "B": pytest.approx(2 / 3, abs=1e-4),
        "C": pytest.approx(1 / 3, abs=1e-4),
        "D": 0.0,
    }
    assert 0 < found["distinct_2"] < variety([same])["distinct_2"] == 1.0
    assert found["distinct_2"] <= found["distinct_4"]
    # Equal n-grams count once in all questions together; none reaches from one question into the next.
    stems = [normalize(one.question.question) for one in (same, same, other)]
    for n in (2, 4):
        grams = [stem[at : at + n] for stem in stems for at in range(len(stem) - n + 1)]
        assert found[f"distinct_{n}"] == round(len(set(grams)) / len(grams), 4)
    empty = variety([item("没有")])
    assert (empty["distinct_2"], empty["keys"]["items"]) == (None, 0)


def test_the_screen_names_the_lowest_and_the_highest_groups_and_the_keys() -> None:
    items = [
        item(TEXT if good else BAD, id=f"{subject}{number}", subject=subject)
        for subject, good in (("历史", True), ("生物", False), ("地理", True))
        for number in range(5)
    ]
    text = summary_text(summarize(items))
    assert "lowest 生物 0/5, 单选题 10/15; highest" in text
    assert "lowest" not in summary_text(summarize([replace(one, text=BAD) for one in items]))
    assert "variety   distinct-2" in text and "keys of 10 items A 0%, B 100%, C 0%, D 0%" in text


def test_the_screen_names_groups_of_too_few_items() -> None:
    items = [item(id=f"r{n}", subject="历史" if n < 5 else "地理") for n in range(7)]
    assert "\n          fewer than 5 items: 地理 2\n" in summary_text(summarize(items))
    assert "fewer than" not in summary_text(summarize(items[:5]))


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide_and_repeatable() -> None:
    values = [float(number % 10) for number in range(100)]
    low, high = bootstrap_interval(values, 3)
    assert (low, high) == bootstrap_interval(values, 3)
    assert low < 4.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 2.8723 / 10, rel=0.1)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)


def test_one_question_has_no_interval() -> None:
    summary = summarize([item()])
    assert summary["similarity"]["interval_95"] is None
    assert "similarity 100.0, no chance level" in summary_text(summary)


def test_questions_of_one_passage_only_have_no_interval_and_no_chance_level() -> None:
    items = [item(id=f"r{n}", 课本内容="同一段。", reference=TEXT + "。" * n) for n in range(4)]
    found = summarize(items)["similarity"]
    assert (found["interval_95"], found["chance_level"], found["above_chance"]) == (None, None, None)
