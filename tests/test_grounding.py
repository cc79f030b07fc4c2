"""Own passage first: worked sets, copying beside it, what is not counted, and what is said of low figures."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import ROOT

from gaokao.checks import SPAN, Item, taken_over
from gaokao.grounding import LEAST_ITEMS, grounding, note, own_first, screen
from gaokao.records import OUTSIDE, TEXTBOOK, load_records
from gaokao.text import bare

TOPICS = {
    "光合作用": "叶绿体吸收光能，把二氧化碳和水合成为糖类，并且释放氧气",
    "细胞呼吸": "线粒体分解有机物，把其中的能量逐步转移到腺苷三磷酸里",
    "遗传定律": "等位基因在减数分裂时分开，分别进入两个不同的配子中去",
    "生态系统": "生产者固定的能量沿着食物链单向流动，并且逐级地递减",
}
ASKS = {
    "光合作用": "给叶绿体补充二氧化碳，糖类的合成会怎样变化？",
    "细胞呼吸": "线粒体受损的人，有机物的分解和能量的转移会怎样？",
    "遗传定律": "减数分裂时等位基因没有分开，配子会怎样？",
    "生态系统": "食物链越长，最后一级得到的能量越少，为什么？",
}


def item(topic: str, question: str = "", outside: str = "", subject: str = "生物") -> Item:
    return Item(question or ASKS[topic], ("略",), "略。", subject, "主观题", TOPICS[topic], outside)


def shuffled(items: Sequence[Item]) -> list[Item]:
    """The same questions, each with the passages of the next one."""
    return [
        Item(one.question, one.answer, one.analysis, one.subject, one.type, other.textbook, other.outside)
        for one, other in zip(items, [*items[1:], items[0]], strict=True)
    ]


def test_questions_made_from_their_passages_have_them_first_and_shuffled_ones_do_not() -> None:
    items = [item(topic) for topic in TOPICS]
    row = grounding(items)["课本内容"]["生物"]
    assert (row["own_first"]["passed"], row["own_first"]["items"], row["chance"]) == (4, 4, 0.25)
    assert row["above_chance"] is True
    row = grounding(shuffled(items))["课本内容"]["生物"]
    assert row["own_first"]["passed"] == 0 and row["above_chance"] is False


def test_above_chance_is_said_by_the_interval_and_not_by_the_share() -> None:
    items = [item(topic) for topic in TOPICS]
    half = [*items[:2], *shuffled(items)[2:]]
    row = grounding(half)["课本内容"]["生物"]
    assert row["own_first"]["rate"] == 0.5 > row["chance"] > row["own_first"]["interval_95"][0]
    assert row["above_chance"] is False


def test_spans_of_twelve_characters_are_taken_out_and_shorter_ones_stay() -> None:
    for length, expected in ((SPAN, 0), (SPAN - 1, 4)):
        quoting = [item(topic, f"甲{bare(text)[:length]}乙？") for topic, text in TOPICS.items()]
        row = grounding(quoting)["课本内容"]["生物"]
        assert (row["own_first"]["passed"], row["without_spans"]["passed"]) == (4, expected)


def test_a_pasted_passage_is_first_but_not_once_its_spans_are_out() -> None:
    news = {topic: text[::-1] for topic, text in TOPICS.items()}
    rows = grounding([item(topic, news[topic], news[topic]) for topic in TOPICS])
    outside = rows["课外内容"]["生物"]
    assert (outside["own_first"]["passed"], outside["without_spans"]["passed"]) == (4, 0)
    assert outside["without_spans"]["items"] == 4
    # Nothing to paste in the place of what is pasted itself.
    assert outside["pasted"]["items"] == 0


def test_pasting_the_outside_passage_is_measured_on_the_textbook_passage() -> None:
    items = [item(topic, outside=text) for topic, text in TOPICS.items()]
    items.append(item("光合作用", "无关的一句话？"))
    row = grounding(items)["课本内容"]["生物"]
    # Four have an outside passage, and all of these are their textbook passage over again.
    assert (row["pasted"]["passed"], row["pasted"]["items"]) == (4, 4)
    assert row["own_first"]["items"] == 5


def test_equal_passages_are_one_and_a_tie_or_no_common_wording_is_not_first() -> None:
    assert own_first(["甲乙丙"], ["甲乙丙丁", "甲乙丙丁", "戊己庚辛"]) == [True]
    assert own_first(["甲乙", "甲乙"], ["甲乙丙丁", "丁丙甲乙"]) == [False, False]
    assert own_first(["子丑寅", ""], ["甲乙丙丁", "戊己庚辛"]) == [False, False]
    assert own_first([None, "戊己"], ["甲乙丙丁", "戊己庚辛"]) == [True]
    assert own_first([], []) == own_first([None], ["甲"]) == []


def test_passages_shorter_than_a_gram_do_not_stop_the_measure() -> None:
    assert own_first(["甲"], ["甲", "乙"]) == [False]


def test_markup_of_formulas_does_not_make_passages_near() -> None:
    formula = "$\\alpha\\times\\Delta\\rightarrow\\theta$"
    items = [item(topic, question=formula + ASKS[topic]) for topic in TOPICS]
    heavy = Item("略", ("略",), "略。", "生物", "主观题", formula * 5 + TOPICS["光合作用"])
    row = grounding([heavy, *items[1:]])["课本内容"]["生物"]
    assert row["own_first"]["passed"] == 3


def test_small_subjects_and_missing_passages_or_questions_are_left_out() -> None:
    items = [item(topic) for topic in list(TOPICS)[: LEAST_ITEMS - 1]]
    assert grounding(items) == {"课本内容": {}, "课外内容": {}}
    assert "课本内容 not compared: no subject has questions with 3 different ones" in screen(grounding(items))
    items += [Item("", (), "", "生物", "主观题", text) for text in TOPICS.values()]
    assert grounding(items)["课本内容"] == {}
    assert note(grounding(items)) == ""


def test_subjects_are_compared_apart_and_pooled() -> None:
    items = [item(topic) for topic in TOPICS]
    items += [item(topic, subject="化学") for topic in list(TOPICS)[:3]]
    rows = grounding(items)["课本内容"]
    assert list(rows) == ["化学", "生物", "all"]
    assert rows["all"]["own_first"]["items"] == 7 and rows["all"]["chance"] == pytest.approx(2 / 7, abs=1e-4)


def test_the_questions_made_from_their_passages_are_nearest_to_them() -> None:
    for name, least in (("train", 0.95), ("test", 1.0)):
        records = load_records(ROOT / "gaokao_data" / f"{name}.json")
        row = grounding([Item.from_record(record) for record in records])[OUTSIDE]["all"]
        assert row["own_first"]["rate"] == 1.0 and row["without_spans"]["rate"] >= least


def test_the_bundled_questions_are_above_chance_on_both_passages_and_low_subjects_are_named() -> None:
    found = grounding([Item.from_record(record) for record in load_records(ROOT / "gaokao_data" / "train.json")])
    assert all(found[name]["all"]["above_chance"] for name in found)
    low = [subject for rows in found.values() for subject, row in rows.items() if not row["above_chance"]]
    text = note(found)
    assert all(subject in text for subject in low) and bool(text) is bool(low)
    lines = screen(found)
    assert len(lines) == 2 and "课外内容 pasted as the question" in lines[0] and "pasted" not in lines[1]


def test_spans_count_from_twelve_characters_on_whatever_stands_between() -> None:
    draw = random.Random(3)
    passage = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(60))
    for length, expected in ((SPAN, 1), (SPAN - 1, 0)):
        question = f"某人说：{passage[5:10]}，\n{passage[10 : 5 + length]}。这是什么？"
        found = taken_over(Item(question, (), "", "生物", "主观题", passage))
        assert [len(span) for span in found["课本内容"]] == [length] * expected
        assert found["课外内容"] == []


def test_chance_is_one_in_the_different_passages() -> None:
    texts = ["".join(random.Random(n).choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往", k=60)) for n in range(3)]
    items = [
        Item(question=texts[0][:40], answer=("A",), analysis="", subject="生物", type="单选题", textbook=texts[n % 3])
        for n in range(30)
    ]
    row = grounding(items)[TEXTBOOK]["生物"]
    assert (row["own_first"]["passed"], row["chance"], row["above_chance"]) == (10, 0.3333, False)
    assert grounding([replace(one, textbook=texts[0]) for one in items])[TEXTBOOK] == {}
