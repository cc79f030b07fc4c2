"""The figures of a results file, the screen, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, entry, item, run_script, write_results

import evaluate
from evaluate import summarize
from gaokao.checks import CHECKS
from gaokao.errors import UserError
from gaokao.figures import summary_text
from gaokao.metrics import rate
from gaokao.results import OFF_PASSAGES, REPEATS, SOLVE_BACK


def test_summary_counts_sections_and_stops() -> None:
    three = TEXT.replace("\n解析：乙符合事实。故选B。", "")
    summary = summarize([item(), item(finish_reason="length"), item(three), item("乱", type="主观题")])
    assert (summary["items"], summary["adapter"]) == (4, ["a"])
    assert summary["three_sections"] == 0.5
    assert summary["stopped_by_end_token"] == 0.75
    assert summary["three_sections_and_stopped"] == 0.25


def counts(summary: dict[str, Any], name: str) -> tuple[bool, int, int]:
    """Whether a check is hard, and how many pass it of how many that it applies to."""
    row = summary["checks"][name]
    assert (
        row["interval_95"] is None
        or row["interval_95"][0] <= row["passed"] / row["applicable"] <= row["interval_95"][1]
    )
    return row["hard"], row["passed"], row["applicable"]


def test_every_check_is_counted_where_it_applies() -> None:
    no_key, twice = TEXT.replace("参考答案：B", "参考答案：乙"), TEXT.replace("D．丁", "D．丙")
    again = item(repeats="the question of id r0")
    judged = item(repeats="", off_passages=False)
    summary = summarize([judged, item(no_key), item(twice), item(type="主观题", off_passages=True), again])
    assert list(summary["checks"]) == [*(check.name for check in CHECKS), REPEATS, OFF_PASSAGES, SOLVE_BACK]
    assert counts(summary, "options") == (True, 3, 4)
    assert counts(summary, "key") == (True, 3, 4)
    assert summary["checks"]["latex"]["hard"] is False
    # Of the others the gate has said nothing.
    assert counts(summary, REPEATS) == (True, 1, 2)
    assert counts(summary, OFF_PASSAGES) == (False, 1, 2)
    assert (summary["usable"]["passed"], summary["usable"]["items"]) == (2, 5)


@pytest.mark.parametrize("key", ["Ｂ", "(B)", "B，", " B 。"])
def test_a_key_letter_is_valid_whatever_stands_around_it(key: str) -> None:
    summary = summarize([item(TEXT.replace("参考答案：B", f"参考答案：{key}"))])
    assert summary["checks"]["key"]["passed"] == 1


def test_letters_without_a_mark_are_no_options() -> None:
    summary = summarize([item("题干：下列正确的是 A甲 B乙 C丙 D丁\n参考答案：B\n解析：乙符合事实。")])
    assert counts(summary, "options") == (True, 0, 1)


def test_the_passages_and_the_finish_reason_reach_the_checks() -> None:
    passage = "线粒体是细胞进行有氧呼吸的主要场所，为生命活动提供能量，其内膜向内折叠形成嵴。"
    copied = f"题干：{passage}\n参考答案：略\n解析：见教材所述，符合事实。"
    for key in ("课本内容", "课外内容"):
        assert summarize([item(copied, type="主观题", **{key: passage})])["checks"]["copied"]["passed"] == 0
    assert summarize([item(finish_reason="length")])["usable"]["passed"] == 0


def test_a_failed_soft_check_leaves_an_item_usable() -> None:
    soft = TEXT.replace("乙符合事实", "$x$ 与 $y")
    summary = summarize([item(soft)])
    assert counts(summary, "latex") == (False, 0, 1)
    assert summary["usable"]["rate"] == 1
    assert "worst: latex 0/1 (soft)" in summary_text(summary)


def test_the_screen_names_the_three_checks_that_most_items_fail() -> None:
    failing = TEXT.replace("参考答案：B", "参考答案：乙")
    summary = summarize([item()] * 4)
    assert "checks    all passed" in summary_text(summary)
    for number, name in enumerate(("key", "picture", "latex", "language"), 1):
        summary["checks"][name] |= {"applicable": 5, "passed": 5 - number}
    assert "worst: language 1/5, latex 2/5 (soft), picture 3/5" in summary_text(summary)
    assert "worst: key 0/1" in summary_text(summarize([item(failing)]))


def test_the_usable_rate_has_a_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for passed, items, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = rate([True] * passed + [False] * (items - passed))
        assert found["interval_95"] == pytest.approx([low, high], abs=1e-4)
        assert (found["passed"], found["items"], found["rate"]) == (passed, items, round(passed / items, 4))
    assert "usable    1 of 1 pass every hard check: 100% (95% interval 21% to 100%)" in summary_text(
        summarize([item()])
    )


def test_items_without_reference_are_counted_but_not_scored() -> None:
    assert summarize([item(), item(reference=None), item(reference="")])["scored"] == 1
    summary = summarize([item(reference=None)])
    assert (summary["items"], summary["scored"], summary["similarity"]) == (1, 0, None)
    assert "no references in the data" in summary_text(summary)


def test_no_items_have_no_rates() -> None:
    summary = summarize([])
    assert summary["three_sections"] is None
    assert summary["usable"] == {"passed": 0, "items": 0, "rate": None, "interval_95": None}
    assert "three sections -" in summary_text(summary)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("questions.json", "scores.json"),
        ("questions.jsonl", "scores.json"),
        ("mine.json", "mine.scores.json"),
        ("mine.jsonl", "mine.jsonl.scores.json"),
        ("mine", "mine.scores.json"),
    ],
)
def test_scores_go_beside_the_results_and_not_over_others(tmp_path: Path, name: str, scores: str) -> None:
    write_results(tmp_path / name, [entry(), entry()])
    if scores != "scores.json":
        (tmp_path / "scores.json").write_text("of another file", encoding="utf-8")
    for _ in range(2):
        evaluate.main([str(tmp_path / name)])
    assert json.loads((tmp_path / scores).read_text(encoding="utf-8"))["similarity"]["similarity"] == 100
    if scores != "scores.json":
        assert (tmp_path / "scores.json").read_text(encoding="utf-8") == "of another file"


def test_rounds_and_seed_of_the_configuration_reach_the_chance_level(tmp_path: Path) -> None:
    # Unlike each other in different degrees, so that other wrong references give another level.
    texts = [TEXT.replace("乙符合事实", "乙符合事实" + "甲丙丁戊己庚辛壬"[:number] * number) for number in range(8)]
    path = write_results(
        tmp_path / "questions.json", [entry(text, reference=text, id=f"r{n}") for n, text in enumerate(texts)]
    )
    levels = set()
    for seed in range(6):
        evaluate.main([str(path), "--evaluate.chance_rounds", "1", "--evaluate.seed", str(seed)])
        scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["similarity"]
        assert scores["compared_pairs"] == 8
        levels.add((scores["chance_level"], scores["standard_error"]))
    assert len(levels) > 1


def test_scores_do_not_replace_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    write_results(tmp_path / "mine.json", [entry()])
    for content in ("[]", "{}", "keep me"):
        (tmp_path / "mine.scores.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="mine.scores.json: is not a file that this command wrote"):
            evaluate.main([str(tmp_path / "mine.json")])
        assert (tmp_path / "mine.scores.json").read_text(encoding="utf-8") == content


def test_a_scores_file_is_refused_as_input_and_stays_as_it_is(tmp_path: Path) -> None:
    evaluate.main([str(write_results(tmp_path / "questions.json", [entry()]))])
    content = (tmp_path / "scores.json").read_bytes()
    (tmp_path / "copy.json").write_bytes(content)
    with pytest.raises(UserError, match="is the name of the file that this command writes"):
        evaluate.main([str(tmp_path / "scores.json")])
    with pytest.raises(UserError, match="copy.json: holds scores, not results"):
        evaluate.main([str(tmp_path / "copy.json")])
    assert (tmp_path / "scores.json").read_bytes() == content
    # Results under that name would be overwritten by their scores.
    results = write_results(tmp_path / "scores.json", [entry()]).read_bytes()
    with pytest.raises(UserError, match="is the name of the file that this command writes"):
        evaluate.main([str(tmp_path / "scores.json")])
    assert (tmp_path / "scores.json").read_bytes() == results


def test_the_command_prints_the_figures_and_where_all_of_them_are(tmp_path: Path) -> None:
    done = run_script(
        "evaluate.py", write_results(tmp_path / "questions.json", [entry(), entry()]), "--evaluate.chance_rounds", "3"
    )
    assert done.returncode == 0, done.stderr
    starts = [line.split()[0] for line in done.stdout.splitlines()]
    # These entries are not of a finished run.
    assert starts == ["form", "usable", "gate", "checks", "variety", "grounding", "grounding", "similarity", "files"]
    assert done.stdout.splitlines()[-1].endswith("report.html")


@pytest.mark.parametrize(
    "arguments", [("--evaluate.chance_rounds", "0"), ("--evaluate.chance_rounds", "1e4"), ("--chance", "3")]
)
def test_bad_options_are_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    path = write_results(tmp_path / "questions.json", [entry()])
    with pytest.raises(UserError, match="chance"):
        evaluate.main([str(path), *arguments])
    assert not (tmp_path / "scores.json").exists()


HARD: dict[str, dict[str, Any]] = {
    "without passages and reference": {"课本内容": "", "课外内容": "", "reference": None},
    "an answer of 200,000 characters": {"text": TEXT.replace("乙符合事实", "很长" * 100_000)},
    "broken formulas": {"text": TEXT.replace("乙符合", r"$\frac{1}{$ 与 $$ \left( $x 乙符合")},
    "edited by hand": {"usable": "yes", "failed_checks": None, "题干": 5, "prompt_tokens": "many", "taken_over": []},
    "nothing written": {"text": ""},
    "cut off": {"text": TEXT[:20], "finish_reason": "length"},
}


@pytest.mark.parametrize("kinds", [*([name] for name in HARD), [*HARD]], ids=[*HARD, "all of them"])
def test_hard_results_are_scored_compared_drawn_and_shown(tmp_path: Path, kinds: list[str]) -> None:
    entries = [entry(**({"id": f"r{number}"} | HARD[name])) for number, name in enumerate(kinds)]
    path = write_results(tmp_path / "questions.jsonl", entries)
    # A killed run leaves half a line.
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "r9", "te', encoding="utf-8")
    evaluate.main([str(path), "--against", str(path)])
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["items"] == len(kinds)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<article") == len(kinds)
    assert (tmp_path / "usable.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["scores.json", "usable.png", "report.html"])
def test_a_file_that_cannot_be_written_is_named_and_the_results_stay(tmp_path: Path, name: str) -> None:
    path = write_results(tmp_path / "questions.json", [entry()])
    before = path.read_bytes()
    # What nobody can write to, not even root.
    (tmp_path / f"{name}.part").mkdir()
    with pytest.raises(UserError, match=rf"{name}: cannot be written .*; copy the results to a folder of yours"):
        evaluate.main([str(path)])
    assert path.read_bytes() == before


def test_a_fault_ends_the_command_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = run_script("evaluate.py", tmp_path / "q.json")
    assert done.returncode == 2
    assert "there is no such results file" in done.stderr
    assert "Traceback" not in done.stderr
