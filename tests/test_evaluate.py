"""getTotalScore and its siblings: bounds, sections, floor, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_script

from evaluate import floor_score, getTotalScore, read_results, score_parts, summarize
from gaokao.prompts import render
from gaokao.records import load_records

TEXT = "题干：下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁\n参考答案：B\n解析：乙符合事实。故选B。"


def test_identical_texts_score_100() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")]
    assert getTotalScore(texts, texts) == 100


def test_an_empty_prediction_scores_0() -> None:
    assert getTotalScore([""], [TEXT]) == 0
    assert getTotalScore(["  \n"], [TEXT]) == 0
    assert getTotalScore([], []) == 0


def test_unequal_lengths_raise_and_say_how_many() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        getTotalScore([TEXT, TEXT], [TEXT])


def test_headers_are_normalised_before_texts_are_compared() -> None:
    other = TEXT.replace("：", ":").replace("题干", "**题干").replace("题干:", "题干:** ")
    assert getTotalScore([other], [TEXT]) == 100


def test_rouge_l_and_chrf_of_a_known_pair() -> None:
    # LCS of 甲乙丙丁 and 甲丙丁戊 is 甲丙丁: F1 = 2 * 3 / 8.
    parts = score_parts(["题干：甲乙丙丁"], ["题干：甲丙丁戊"])
    assert parts.rouge_l == pytest.approx(75)
    assert 0 < parts.chrf < 75
    assert parts.sections["题干"] == pytest.approx((parts.rouge_l + parts.chrf) / 2)


def test_each_section_is_scored_on_its_own_and_a_missing_one_costs_its_share() -> None:
    without = TEXT.split("\n解析")[0]
    parts = score_parts([without], [TEXT])
    assert parts.sections == {"题干": 100, "参考答案": 100, "解析": 0}
    assert parts.total == pytest.approx(200 / 3)


def test_text_without_any_header_is_compared_as_the_question() -> None:
    parts = score_parts(["下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁"], [TEXT])
    assert parts.sections["题干"] == pytest.approx(100)
    assert parts.sections["解析"] == 0


def test_a_better_text_scores_higher() -> None:
    worse, better = TEXT.replace("乙符合事实", "天气很好啊"), TEXT.replace("乙符合事实", "乙符合实际")
    assert getTotalScore([worse], [TEXT]) < getTotalScore([better], [TEXT]) < 100


def test_the_floor_compares_with_wrong_references_of_the_same_subject_only() -> None:
    texts = ["题干：甲甲甲甲", "题干：乙乙乙乙", "题干：甲甲甲丁"]
    assert floor_score(texts[:2], texts[:2], ["a", "a"]) == 0
    assert floor_score(texts, texts, ["a", "b", "a"], rounds=3) > 50  # type: ignore[operator]
    assert floor_score(texts[:2], texts[:2], ["a", "b"]) is None


def test_the_floor_is_the_same_for_a_seed() -> None:
    texts = [render(record) for record in load_records(ROOT / "gaokao_data" / "test.json")][:12]
    groups = ["x"] * 12
    assert floor_score(texts, texts, groups, 2, seed=1) == floor_score(texts, texts, groups, 2, seed=1)
    assert floor_score(texts, texts, groups, 2, seed=1) != floor_score(texts, texts, groups, 2, seed=2)


def entry(text: str, finish: str = "stop", kind: str = "单选题", reference: str | None = TEXT) -> dict[str, Any]:
    return {
        "text": text,
        "type": kind,
        "subject": "生物",
        "finish_reason": finish,
        "reference": reference,
        "adapter": "a",
    }


def test_summary_counts_sections_stops_and_choice_form() -> None:
    no_key = TEXT.replace("参考答案：B", "参考答案：乙")
    three = TEXT.replace("\nD．丁", "")
    summary = summarize([entry(TEXT), entry(no_key, "length"), entry(three), entry("乱", kind="主观题")])
    assert summary["three_sections"] == 0.75
    assert summary["stopped_by_end_token"] == 0.75
    assert summary["three_sections_and_stopped"] == 0.5
    assert summary["single_choice_items"] == 3
    assert summary["four_options_and_one_letter_key"] == pytest.approx(1 / 3, abs=1e-4)
    assert summary["adapter"] == ["a"]


def test_items_without_reference_are_counted_but_not_scored() -> None:
    summary = summarize([entry(TEXT, reference=None)])
    assert summary["scored"] == 0
    assert "total_score" not in summary


@pytest.mark.parametrize("name", ["questions.json", "questions.jsonl"])
def test_the_command_scores_a_results_file_and_one_of_an_interrupted_run(tmp_path: Path, name: str) -> None:
    entries = [entry(TEXT), entry(TEXT)]
    lines = json.dumps(entries) if name.endswith("json") else "\n".join(map(json.dumps, entries)) + '\n{"id": "to'
    (tmp_path / name).write_text(lines, encoding="utf-8")
    done = run_script("evaluate.py", tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert "total score 100.0" in done.stdout
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["total_score"] == 100


def test_a_last_line_without_a_line_end_counts_where_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, [entry(TEXT), entry(TEXT)])), encoding="utf-8")
    assert len(read_results(tmp_path / "q.jsonl")) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such results file"),
        ("[", "is not a results file"),
        ('[{"a": 1}]', "lacks"),
        ("[]", "holds no results"),
    ],
)
def test_a_file_that_is_no_results_file_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "q.json").write_text(content, encoding="utf-8")
    done = run_script("evaluate.py", tmp_path / "q.json")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
