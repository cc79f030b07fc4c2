"""Passages from the 解析 of other items: from earlier years, nearest first, as exposition, and without the answer."""

import pytest

from gaokao.records import Record
from gaokao.text import LEAK_BOUND, leak_share
from gaokao_data.related_passages import (
    add_passages,
    build_passage,
    exposition,
    measure_passages,
    own_passage,
    split_sentences,
)

LIGHT = "生长素在胚芽鞘尖端产生，由形态学上端向下端运输。"
LEAVES = "叶绿体色素在层析液中的溶解度不同，扩散的速度也就不同。"
SUGAR = "血糖浓度升高时胰岛的分泌活动增强，多余的葡萄糖合成糖原。"


def record(name: str, year: int, stem: str, analysis: str, right: str = "甲的说法", subject: str = "生物") -> Record:
    question = f"{stem}\nA．{right}\nB．乙的说法\nC．丙的说法\nD．丁的说法"
    return Record(
        name, subject, "单选题", "", question=question, answer=("A",), analysis=analysis, extra={"year": year}
    )  # fmt: skip


def passages(records: list[Record], chars: tuple[int, int] = (10, 60)) -> dict[str, str]:
    return {done.id: done.textbook for done in add_passages(records, "related", chars)}


def test_a_passage_comes_from_the_nearest_item_of_an_earlier_year_of_the_subject() -> None:
    records = [
        record("light", 2011, "植物向光弯曲生长的原因是什么", LIGHT),
        record("leaves", 2012, "叶绿体中色素的提取与分离", LEAVES),
        record("history", 2012, "植物向光弯曲生长的原因是谁发现的", "达尔文父子首先做了有关的研究和记录。", subject="历史"),
        record("now", 2015, "植物向光弯曲生长与哪种激素有关", SUGAR),
        record("later", 2016, "植物向光弯曲生长的意义何在", "植物的向光性使叶片得到更多的光照。"),
    ]  # fmt: skip
    done = add_passages(records, "related", (10, 60))
    assert [each.id for each in done] == [each.id for each in records]
    assert passages(records)["now"] == LIGHT
    assert done[3].extra == {"year": 2015, "passage_source": {"mode": "related", "items": ["light"]}}
    assert passages(records, (30, 90))["now"] == LIGHT + LEAVES
    assert passages(records)["history"] == passages(records)["light"] == ""


def test_items_of_one_year_give_each_other_no_passage() -> None:
    records = [record("a", 2015, "植物向光弯曲生长的原因", LIGHT), record("b", 2015, "叶绿体中色素的提取", LEAVES)]
    later = record("c", 2016, "人体血糖平衡的调节", SUGAR)
    done = passages([*records, later])
    assert (done["a"], done["b"]) == ("", "") and done["c"]


def test_an_item_with_the_same_stem_gives_no_passage() -> None:
    stem = "下列关于人体血糖平衡受激素调节的叙述，正确的是"
    records = [record("a", 2012, stem, SUGAR, right="胰岛素降低血糖"), record("b", 2018, stem, LIGHT)]
    assert passages(records) == {"a": "", "b": ""}


def test_a_related_passage_does_not_contain_the_answer() -> None:
    right = "单侧光使生长素分布不均匀"
    earlier = record("a", 2012, "胚芽鞘弯曲的实验", f"胚芽鞘的弯曲说明{right}。{LIGHT}{LEAVES}")
    now = record("b", 2016, "植物向光弯曲生长的原因", SUGAR, right=right)
    (_, done) = add_passages([earlier, now], "related", (10, 200))
    assert done.textbook == LIGHT + LEAVES
    set_of_two = Record(
        "c", "生物", "单选题", "", answer=("B", "A"), analysis=SUGAR, extra={"year": 2016},
        question=f"读图。\n（1）一\nA．甲甲甲甲\nB．{right}\nC．丙丙丙丙\nD．丁丁丁丁\n（2）二\nA．子子子子\nB．丑丑丑丑\nC．寅寅寅寅\nD．卯卯卯卯",
    )  # fmt: skip
    assert add_passages([earlier, set_of_two], "related", (10, 200))[1].textbook == LIGHT + LEAVES


def test_a_sentence_is_left_out_already_below_what_counts_as_a_leak() -> None:
    quoted = "生长素在胚芽鞘尖端产生"
    answer = quoted + "".join(chr(0x4E00 + number) for number in range(60))
    written = Record("a", "生物", "主观题", "", question="说明理由。", answer=(answer,), analysis=SUGAR)
    assert 0 < leak_share(written, LIGHT) < LEAK_BOUND
    assert build_passage(written, [("b", [LIGHT, LEAVES])], (10, 60)) == (LEAVES, ["b"])


def test_a_passage_is_whole_sentences_each_once_between_the_lengths() -> None:
    now = record("now", 2015, "问题", "解析")
    candidates = [("a", [LIGHT]), ("b", [LIGHT[:-1] + "！"]), ("c", [LEAVES * 4]), ("d", [SUGAR, LEAVES])]
    assert build_passage(now, candidates, (30, 60)) == (LIGHT + SUGAR, ["a", "d"])
    assert build_passage(now, candidates, (24, 60)) == (LIGHT, ["a"])
    assert build_passage(now, candidates, (300, 400)) == ("", [])


def test_an_own_passage_ends_with_a_sentence_and_is_marked_as_leaking() -> None:
    now = record("now", 2015, "问题", f"A、{LIGHT[:-1]}，A正确；\n{LEAVES}{SUGAR}故选：A。")
    assert own_passage(now, 60) == LIGHT + LEAVES
    bare = record("bare", 2015, "问题", "本题选甲。故选：A。")
    assert own_passage(bare, 60) == "本题选甲。故选：A。", "where nothing stands alone, the 解析 as it is"
    done, none = (add_passages([now], mode, (10, 60))[0] for mode in ("own", "none"))
    assert done.extra == {"year": 2015, "passage_source": {"mode": "own", "items": ["now"]}, "leaks": True}
    assert (none.textbook, none.extra) == ("", {"year": 2015, "passage_source": {"mode": "none"}})
    (short,) = add_passages([now], "own", (1, 5))
    assert (short.textbook, short.extra) == ("", {"year": 2015, "passage_source": {"mode": "own"}})


def test_the_shares_of_passages_stand_beside_those_of_random_ones() -> None:
    right = "生长素在胚芽鞘尖端产生"
    given = [("a", LIGHT, right), ("b", LEAVES, right), ("c", "", right), ("d", LEAVES, "甲")]
    records = [
        Record(name, "生物", "填空题", text, question="____", answer=(answer,), analysis=SUGAR)
        for name, text, answer in given
    ]
    shares = measure_passages(records)
    assert len(shares) == 2, "neither an empty passage nor an answer too short to measure"
    assert shares[0] == (1.0, 0.0)
    assert shares[1][0] == 0.0
    assert measure_passages(records[:1]) == [], "no other passage to compare with"


def test_exposition_drops_verdicts_and_words_about_the_item() -> None:
    analysis = (
        "A、血糖浓度升高时，胰岛素的分泌量增加，A正确；\nB．胰高血糖素能促进肝糖原分解为葡萄糖，故B错误；\n"
        "本题考查血糖调节的有关知识和应用能力。\n故选：A。"
    )
    assert exposition(analysis) == [
        "血糖浓度升高时，胰岛素的分泌量增加。",
        "胰高血糖素能促进肝糖原分解为葡萄糖。",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "太短的一句话。",
        "这使血糖浓度升高时胰岛的分泌活动增强。",
        "解析：血糖浓度升高时胰岛的分泌活动增强。",
        "血糖浓度为$x时胰岛的分泌活动增强得很快。",
        "AB is the median of ABC，所以两角相等。",
        "长句" * 111 + "。",
        "由表可以看出血糖浓度升高时胰岛活动增强。",
    ],
)
def test_a_sentence_that_does_not_stand_alone_is_no_exposition(sentence: str) -> None:
    assert exposition(sentence + SUGAR) == [SUGAR]


def test_a_full_stop_inside_a_formula_ends_no_sentence() -> None:
    assert split_sentences("设$x=1．5；y$成立．又有$a$。没有句号的一行\n下一句！") == [
        "设$x=1．5；y$成立。",
        "又有$a$。",
        "下一句！",
    ]
