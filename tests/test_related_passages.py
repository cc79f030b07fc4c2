"""课本内容 from an item's own 解析 and related ones: of the training side, as exposition, without key and material."""

from typing import Any

import pytest

from gaokao.records import Record
from gaokao.text import LEAK_BOUND, leak_share
from gaokao_data.related_passages import (
    CHOSEN_BELOW,
    add_textbook,
    build_passage,
    exposition,
    key_texts,
    measure_passages,
    split_sentences,
)

LIGHT = "生长素在胚芽鞘尖端产生，由形态学上端向下端运输。"
BEND = "单侧光照射下，生长素在胚芽鞘尖端由向光侧移向背光侧。"
LEAVES = "叶绿体色素在层析液中的溶解度不同，扩散的速度也就不同。"
SUGAR = "血糖浓度升高时胰岛的分泌活动增强，多余的葡萄糖合成糖原。"
CHARS = (10, 400)


def record(name: str, year: int, stem: str, analysis: str, right: str = "甲的说法", **changes: Any) -> Record:
    question = f"{stem}\nA．{right}\nB．乙的说法\nC．丙的说法\nD．丁的说法"
    fields: dict[str, Any] = {
        "id": name, "subject": "生物", "type": "单选题", "textbook": "", "question": question, "answer": ("A",),
        "analysis": analysis, "extra": {"year": year},
    }  # fmt: skip
    return Record(**fields | changes)


def written(answer: str, subject: str = "历史", **changes: Any) -> Record:
    return record(
        "w", 2015, "", SUGAR, type="主观题", subject=subject, question="说明理由。", answer=(answer,), **changes
    )


def added(*records: Record, chars: tuple[int, int] = CHARS) -> dict[str, Record]:
    return {done.id: done for done in add_textbook(records, 2021, chars)}


def textbook(now: Record, *sentences: str, chars: tuple[int, int] = CHARS) -> str:
    return build_passage(now, [(now.id, sentence) for sentence in sentences], chars)[0]


def test_an_item_draws_on_its_own_analysis_first_and_then_on_related_items_of_the_subject() -> None:
    stem = "植物向光弯曲生长与生长素在胚芽鞘尖端的运输"
    done = added(
        record("now", 2011, stem, f"A、{LIGHT[:-1]}，A正确；\n故选：A。"),
        record("later", 2019, stem, BEND),
        record("far", 2012, "叶绿体中色素的提取与分离", LEAVES),
        record("history", 2012, stem, BEND.replace("下", "之下"), subject="历史"),
    )
    assert list(done) == ["now", "later", "far", "history"]
    assert done["now"].textbook == LIGHT + BEND
    assert done["now"].extra == {"year": 2011, "passage_source": {"mode": "material", "items": ["now", "later"]}}
    assert done["later"].textbook == BEND + LIGHT
    assert done["far"].textbook == LEAVES


def test_no_item_draws_on_the_analysis_of_another_test_item() -> None:
    stem = "植物向光弯曲生长与生长素在胚芽鞘尖端的运输"
    done = added(record("train", 2020, stem, LIGHT), record("test", 2021, stem, BEND), record("too", 2022, stem, SUGAR))
    assert done["train"].textbook == LIGHT
    assert done["test"].textbook == BEND + LIGHT
    assert done["too"].textbook == SUGAR + LIGHT


def test_of_other_items_the_nearest_comes_first() -> None:
    stem = "植物向光弯曲生长与生长素在胚芽鞘尖端的运输"
    nearest, further = f"{stem}有密切的关系。", "植物向光弯曲生长与生长素在胚芽鞘两侧的分布不均有关。"
    done = added(record("now", 2011, stem, ""), record("a", 2012, "问题", further), record("b", 2012, "问题", nearest))
    assert done["now"].textbook.startswith(nearest)
    assert done["now"].extra["passage_source"]["items"] == ["b", "a"]


def test_where_nothing_related_is_found_the_passage_is_empty() -> None:
    done = added(record("a", 2012, "人体血糖平衡的调节", "本题选甲。"), record("b", 2013, "色素的提取与分离", LEAVES))
    assert (done["a"].textbook, done["a"].extra["passage_source"]) == ("", {"mode": "material", "items": []})


def test_enough_of_its_own_takes_no_sentences_of_others() -> None:
    own = [f"{mark}组的{LIGHT}" for mark in "东西南北上下左右"]
    now = record("now", 2015, "问题", "解析")
    candidates = [*((now.id, sentence) for sentence in own), ("b", LEAVES)]
    assert build_passage(now, candidates, CHARS) == ("".join(own), ["now"])
    assert build_passage(now, [*candidates[:2], candidates[-1]], CHARS)[1] == ["now", "b"]


def test_what_states_the_key_is_taken_out_unless_the_stem_says_it_too() -> None:
    key = "单侧光使生长素分布不均匀"
    now = record("now", 2015, "植物向光弯曲生长的原因", SUGAR, right=key)
    told = "可以认为单侧光使生长素在胚芽鞘中重新分布。"
    assert textbook(now, told, LEAVES) == LEAVES
    assert textbook(record("now", 2015, "单侧光使生长素怎样分布", SUGAR, right=key), told) == told


def test_a_short_key_counts_as_a_whole_and_names_in_blanks_by_shorter_runs() -> None:
    now = record("now", 2015, "能溶解多种金属的是哪种酸", SUGAR, right="硝酸")
    assert textbook(now, "硝酸具有很强的氧化性，能溶解多种金属。", LEAVES) == LEAVES
    assert textbook(record("now", 2015, "血糖怎样变化", SUGAR, right="高"), SUGAR) == SUGAR, (
        "one character says nothing"
    )
    told = "血糖升高时胰岛素的分泌会随之增加。"
    assert textbook(written("胰岛素 糖原", "生物"), told, LEAVES) == LEAVES
    assert textbook(written("胰岛素分泌增加使糖原合成加快，血糖随之下降。", "历史"), told) == told


def test_the_statements_of_a_keyed_option_are_the_key() -> None:
    question = "这表明（　）\n①细胞膜具有流动性的特点②色素在滤纸上扩散\n③血糖由胰岛素来降低\n④生长素向下端运输\nA．①③\nB．①④\nC．②③\nD．②④"
    now = record("now", 2015, "", SUGAR, question=question, answer=("B",))
    assert key_texts(now) == ["细胞膜具有流动性的特点", "生长素向下端运输"]
    assert (
        textbook(now, "生长素向下端运输的速度与温度有关。", "色素在滤纸上扩散的速度并不相同。")
        == "色素在滤纸上扩散的速度并不相同。"
    )


def test_what_repeats_the_material_is_taken_out() -> None:
    now = record("now", 2015, "问题", SUGAR, outside="某同学发现，生长素在胚芽鞘尖端产生，于是做了一个实验加以验证。")
    assert textbook(now, LIGHT, LEAVES) == LEAVES


def test_a_sentence_is_left_out_already_below_what_counts_as_a_leak() -> None:
    answer = LIGHT[:9] + "".join(chr(0x4E00 + number) for number in range(60))
    now = record(
        "now", 2015, "", SUGAR, type="主观题", question=f"说明{LIGHT[:9]}的理由。", answer=(answer,), subject="历史"
    )
    assert CHOSEN_BELOW < leak_share(now, LIGHT) < LEAK_BOUND
    assert textbook(now, LIGHT, LEAVES) == LEAVES


def test_a_passage_is_whole_sentences_each_once_between_the_lengths() -> None:
    now = record("now", 2015, "问题", "解析")
    sentences = (LIGHT, LIGHT[:-1] + "！", LEAVES * 4, SUGAR, LEAVES)
    assert textbook(now, *sentences, chars=(30, 60)) == LIGHT + SUGAR
    assert textbook(now, *sentences, chars=(300, 400)) == ""


def test_an_item_whose_passages_hold_the_answer_is_marked() -> None:
    reading = written(LIGHT, outside=f"材料说：{LIGHT}")
    done = added(reading, record("b", 2015, "问题", SUGAR, outside=LIGHT))
    assert done["w"].extra["leaks"] is True
    assert "leaks" not in done["b"].extra


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


def explained(analysis: str, **changes: Any) -> list[str]:
    return exposition(record("a", 2015, "问题", analysis, **changes))


def test_exposition_drops_verdicts_and_words_about_the_item() -> None:
    analysis = (
        "A、血糖浓度升高时，胰岛素的分泌量增加，A正确；\nB．胰高血糖素能促进肝糖原分解为葡萄糖，故B错误；\n"
        "①错误，社会实践是艺术创作的源泉与动力；\n②不合题意，依法行政是对政府机关的要求，不选；\n"
        "本题考查血糖调节的有关知识和应用能力。\n故选：A。"
    )
    assert explained(analysis) == [
        "血糖浓度升高时，胰岛素的分泌量增加。",
        "胰高血糖素能促进肝糖原分解为葡萄糖。",
        "社会实践是艺术创作的源泉与动力。",
        "依法行政是对政府机关的要求。",
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
        "“血糖浓度升高时胰岛活动增强”说明激素调节血糖。",
        "原因结合所学知识进行归纳概括就可以得出。",
        "甲的血糖浓度升高时胰岛的分泌活动比乙更强。",
        "血糖的调节要从激素的分泌与靶器官的反应等方面分析。",
        "元素 $a 、 b$ 的原子序数依次增大并且位于同一个周期。",
    ],
)
def test_a_sentence_that_does_not_stand_alone_is_no_exposition(sentence: str) -> None:
    assert explained(sentence + SUGAR) == [SUGAR]


def test_a_step_of_a_calculation_and_what_explains_a_text_are_no_exposition() -> None:
    step = "物体的加速度为$a=2$时，物体做匀加速直线运动。"
    assert explained(step + SUGAR, subject="化学") == [step, SUGAR]
    assert explained(step + SUGAR, subject="物理") == [SUGAR]
    assert explained(SUGAR, subject="语文") == [SUGAR]
    assert explained(SUGAR, subject="语文", outside=LIGHT) == []


def test_words_with_an_item_word_inside_are_kept() -> None:
    told = "大众传媒只是文化传播的手段，解决环境问题要正确处理人与自然的关系。"
    assert explained(told) == [told]


def test_a_full_stop_inside_a_formula_ends_no_sentence() -> None:
    assert split_sentences("设$x=1．5；y$成立．又有$a$。没有句号的一行\n下一句！") == [
        "设$x=1．5；y$成立。",
        "又有$a$。",
        "下一句！",
    ]
