"""getTotalScore and its parts, and similarity beside its chance level."""

import itertools
import random
from itertools import pairwise
from typing import Any

import pytest
from conftest import ROOT, TEXT, item

from evaluate import getTotalScore, summarize
from gaokao import metrics
from gaokao.figures import summary_text
from gaokao.metrics import score_parts, similarity
from gaokao.prompts import render
from gaokao.records import load_records


def stem(text: str, reference: str, **changes: Any) -> Any:
    """A question of which only stems are compared, whose chrF is 0 where they share no character; of its own passage."""
    # Questions of one passage would be one case.
    passage = f"有关{reference}的一段。"
    return item(f"题干：{text}", reference=f"题干：{reference}", type="主观题", 课本内容=passage, **changes)


# --- getTotalScore --------------------------------------------------------------------------------------------------


def test_identical_texts_score_100() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")]
    assert getTotalScore(texts, texts) == pytest.approx(100)


def test_an_empty_prediction_scores_0() -> None:
    assert getTotalScore([""], [TEXT]) == 0
    assert getTotalScore(["  \n"], [TEXT]) == 0
    assert getTotalScore([], []) == 0


@pytest.mark.parametrize("text", ["", " \n\t", "题干：\n参考答案：\n解析："])
def test_two_texts_without_content_are_nothing_alike(text: str) -> None:
    assert getTotalScore([text], [text]) == 0


def test_white_space_does_not_count() -> None:
    loose = TEXT.replace("下列正确的是", " 下列 正确\u3000的是").replace("乙符合", "乙\n符 合").replace("：B", "：\tB ")
    assert getTotalScore([loose], [TEXT]) == pytest.approx(100)


def test_unequal_lengths_raise_and_say_how_many() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        getTotalScore([TEXT, TEXT], [TEXT])


@pytest.mark.parametrize(
    ("pred", "label", "said"),
    [
        (TEXT, [TEXT], "pred is .* give a list of texts"),
        ([TEXT], TEXT, "label is .* give a list of texts"),
        (None, [TEXT], "pred is null"),
        ({TEXT}, [TEXT], "pred is .* give a list of texts"),
        ([TEXT, None], [TEXT, TEXT], r"pred\[1\] is null \(NoneType\); give a text"),
        ([TEXT], [TEXT.encode()], r"label\[0\] is .*\(bytes\)"),
        ([TEXT], [["B"]], r"label\[0\] is .*\(list\)"),
    ],
)
def test_texts_for_lists_and_items_that_are_no_texts_are_named(pred: Any, label: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        getTotalScore(pred, label)


def test_headers_are_normalised_before_texts_are_compared() -> None:
    other = TEXT.replace("：", ":").replace("题干", "**题干").replace("题干:", "题干:** ")
    assert getTotalScore([other], [TEXT]) == pytest.approx(100)


def test_rouge_l_and_chrf_of_a_known_pair() -> None:
    # LCS of 甲乙丙丁 and 甲丙丁戊 is 甲丙丁: F1 = 2 * 3 / 8.
    parts = score_parts(["题干：甲乙丙丁"], ["题干：甲丙丁戊"])
    assert parts.rouge_l == pytest.approx(75)
    # 3 of 4 characters, 1 of 3 pairs, 0 of 2 triples and 0 of 1 quadruple: F2 of the mean precision and recall.
    assert parts.chrf == pytest.approx(100 * (3 / 4 + 1 / 3) / 4)
    assert parts.sections["题干"] == pytest.approx((parts.rouge_l + parts.chrf) / 2)


def test_chrf_is_that_of_sacrebleu_on_questions_and_on_texts_of_a_few_letters() -> None:
    from sacrebleu.metrics.chrf import CHRF

    chance = random.Random(0)
    real = [record.question for record in load_records(ROOT / "gaokao_data" / "test.json")]
    short = ["".join(chance.choices("甲乙a \n", k=chance.randint(1, 12))) for _ in range(300)]
    # More different letters than fit into a number of 64 bits six at a time.
    wide = "".join(map(chr, range(0x4E00, 0x4E00 + 5000)))
    pairs = [*pairwise(real), *pairwise(short), (wide, wide[1:] + wide[0]), ("a" * 3000, "a" * 2000), ("甲", "甲乙")]
    scores = [(score_parts([f"题干：{p}"], [f"题干：{r}"]).chrf, p, r) for p, r in pairs if p.strip() and r.strip()]
    assert len(scores) > 250
    for found, pred, label in scores:
        assert found == pytest.approx(CHRF().sentence_score(pred, [label]).score, abs=1e-9)


def test_rouge_l_is_that_of_the_definition_on_real_questions() -> None:
    texts = [record.analysis[:120] for record in load_records(ROOT / "gaokao_data" / "test.json")][:12]
    for pred, label in itertools.pairwise(texts):
        p, r = ("".join(text.split()) for text in (pred, label))
        # Lin 2004, by the textbook's table.
        row = [0] * (len(r) + 1)
        for letter in p:
            above, row = row, [0]
            for place, other in enumerate(r):
                row.append(above[place] + 1 if letter == other else max(above[place + 1], row[place]))
        precision, recall = row[-1] / len(p), row[-1] / len(r)
        expected = 100 * 2 * precision * recall / (precision + recall)
        assert score_parts([f"题干：{pred}"], [f"题干：{label}"]).rouge_l == pytest.approx(expected)


def test_each_section_is_scored_on_its_own_and_a_missing_one_costs_its_share() -> None:
    without = TEXT.split("\n解析")[0]
    parts = score_parts([without], [TEXT])
    assert parts.sections == pytest.approx({"题干": 100, "参考答案": 100, "解析": 0})
    assert parts.total == pytest.approx(200 / 3)
    assert score_parts([TEXT], [without]).total == pytest.approx(200 / 3)


def test_sections_that_neither_text_has_do_not_count() -> None:
    without = TEXT.split("\n解析")[0]
    parts = score_parts([without], [without])
    assert parts.sections == pytest.approx({"题干": 100, "参考答案": 100})
    assert parts.total == pytest.approx(100)


def test_text_without_any_header_is_compared_as_the_question() -> None:
    parts = score_parts(["下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁"], [TEXT])
    assert parts.sections["题干"] == pytest.approx(100)
    assert parts.sections["解析"] == 0


def test_a_better_text_scores_higher() -> None:
    worse, better = TEXT.replace("乙符合事实", "天气很好啊"), TEXT.replace("乙符合事实", "乙符合实际")
    assert getTotalScore([worse], [TEXT]) < getTotalScore([better], [TEXT]) < 100


def test_the_key_letter_counts_in_the_total_score() -> None:
    assert score_parts([TEXT.replace("参考答案：B", "参考答案：C")], [TEXT]).sections["参考答案"] == 0


# --- similarity beside its chance level -----------------------------------------------------------------------------


def test_chance_level_and_paired_difference_of_a_worked_example() -> None:
    # Own references: 100, 100, 0. The first item scores 100 against the third's reference and 0 against the second's,
    # so 50 by chance; the second 0; the third 50 (100 against the first's, 0 against the second's).
    found = similarity(
        [stem("甲甲甲甲", "甲甲甲甲"), stem("乙乙乙乙", "乙乙乙乙"), stem("甲甲甲甲", "甲甲 甲甲丁丁丁丁丁丁丁丁")]
    )
    third = score_parts(["题干：甲甲甲甲"], ["题干：甲甲甲甲丁丁丁丁丁丁丁丁"]).total
    assert 0 < third < 100
    assert found.similarity == pytest.approx((100 + 100 + third) / 3)
    chance = [third / 2, 0, 50]
    differences = [100 - chance[0], 100 - chance[1], third - chance[2]]
    mean = sum(differences) / 3
    assert found.chance_level == pytest.approx(sum(chance) / 3)
    assert found.difference == pytest.approx(mean)
    assert found.standard_error == pytest.approx((sum((d - mean) ** 2 for d in differences) / 2 / 3) ** 0.5)
    assert (found.compared_items, found.compared_pairs) == (3, 6)


def test_wrong_references_are_those_of_other_items_of_the_same_subject_only() -> None:
    entries = [
        stem(text, text, subject=subject)
        for text, subject in zip("甲乙丙丁戊", ["生物"] * 2 + ["历史"] * 2 + ["政治"], strict=True)
    ]
    assert sorted(metrics.wrong_pairs(entries, 20, 0)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_another_item_with_the_same_reference_is_no_wrong_reference() -> None:
    entries = [stem("甲", "甲"), stem("乙", "甲"), stem("丙", "丙")]
    assert sorted(metrics.wrong_pairs(entries, 20, 0)) == [(0, 2), (1, 2), (2, 0), (2, 1)]


def test_every_item_and_every_reference_is_used_as_often_as_the_others() -> None:
    pairs = metrics.wrong_pairs([stem(str(n), str(n)) for n in range(30)], 4, 0)
    assert len(set(pairs)) == 120
    for side in (0, 1):
        assert {sum(pair[side] == n for pair in pairs) for n in range(30)} == {4}
    assert all(item != other for item, other in pairs)


@pytest.mark.parametrize(("items", "rounds"), [(100, 1000), (2500, 1)])
def test_no_more_than_2000_pairs_are_compared_whatever_the_rounds(items: int, rounds: int) -> None:
    pairs = metrics.wrong_pairs([stem(str(n), str(n)) for n in range(items)], rounds, 0)
    assert len(set(pairs)) == 2000


def test_the_wrong_references_are_the_same_for_a_seed() -> None:
    entries = [stem(str(n), str(n)) for n in range(30)]
    assert metrics.wrong_pairs(entries, 2, 1) == metrics.wrong_pairs(entries, 2, 1)
    assert metrics.wrong_pairs(entries, 2, 1) != metrics.wrong_pairs(entries, 2, 2)


def test_without_a_second_reference_in_a_subject_there_is_no_chance_level() -> None:
    summary = summarize([item(id="a"), item(id="b", subject="政治")])
    assert summary["similarity"]["chance_level"] is None
    assert "similarity 100.0 (95% interval 100.0 to 100.0), no chance level" in summary_text(summary)


def test_the_key_letter_of_a_choice_item_is_left_out_of_similarity() -> None:
    # Stem and analysis are alike, the key is not: that says nothing, for the options are other ones.
    other = TEXT.replace("参考答案：B", "参考答案：C")
    for kind in ("单选题", "多选题"):
        found = similarity([item(other, type=kind)])
        assert found.similarity == pytest.approx(100)
        assert set(found.sections) == {"题干", "解析"}
    assert similarity([item(other, type="填空题")]).sections["参考答案"] == 0


def test_the_key_letter_is_left_out_of_the_chance_level_too() -> None:
    first, second = ("题干：{0}\n参考答案：B\n解析：{0}".format(letter * 4) for letter in "甲乙")
    found = similarity([item(first, reference=first, id="a"), item(second, reference=second, id="b")])
    assert found.chance_level == 0


def test_texts_like_their_references_are_above_chance_and_shuffled_ones_are_not() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")][:12]
    right = summarize([item(text, reference=text, id=f"r{n}") for n, text in enumerate(texts)])
    assert right["similarity"]["above_chance"] is True
    assert ": above chance (difference +" in summary_text(right)
    shuffled = zip(texts, texts[1:] + texts[:1], strict=True)
    wrong = summarize([item(text, reference=other, id=f"r{n}") for n, (text, other) in enumerate(shuffled)])
    assert wrong["similarity"]["above_chance"] is False
    assert "no similarity above chance" in summary_text(wrong)


def test_a_difference_counts_from_1_96_standard_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["甲甲甲甲", "乙乙乙乙", "丙丙丙丙", "丁丁丁丁"]
    entries = [stem(text, text) for text in texts[:3]] + [stem("戊", texts[3])]
    found = similarity(entries)
    assert found.difference and found.standard_error
    sigmas = found.difference / found.standard_error
    assert found.above_chance is (sigmas > 1.96) is True
    monkeypatch.setattr(metrics, "SIGNIFICANT", sigmas)
    assert similarity(entries).above_chance is False
