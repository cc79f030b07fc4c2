"""Score generated questions: form, checks, and similarity to references beside its chance level.

    python evaluate.py outputs/gaokao/generated/questions.json
    python evaluate.py outputs/new/generated/questions.json --against outputs/gaokao/generated/questions.json
    python evaluate.py outputs/gaokao/generated/questions.json --paper paper.docx --only marked.json
    python evaluate.py outputs/gaokao/generated/questions.json --evaluate.solve_back 4 # are the keys right?

Similarity says how close a text is to one reference, not how good a question is; without its chance level (the same
texts against wrong references of their subject) it says nothing.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gaokao import asking, judging, solving
from gaokao.checks import Outcome, Result
from gaokao.comparison import compare, comparison_text, pair
from gaokao.errors import UserError, run_script
from gaokao.figures import attempts_table, summary_text, usable_table, variety
from gaokao.grounding import grounding
from gaokao.metrics import CHANCE_ROUNDS, rate, rounded, score_parts, share, similarity
from gaokao.paper import add_paper_options, paper_questions, write_paper
from gaokao.pictures import draw_usable
from gaokao.report import write_report
from gaokao.results import ALL_CHECKS, Generated, picture_file, read_results, report_file, scores_file
from gaokao.runs import write_json
from gaokao.settings import load_config


def getTotalScore(pred: Sequence[str], label: Sequence[str]) -> float:  # noqa: N802 - the name users know
    """Similarity of generated texts to their references, 0-100: the mean over items and sections.

    Args:
        pred: generated texts, with the headers 题干, 参考答案 and 解析.
        label: reference texts of the same form, one for each prediction.

    Raises:
        TypeError: a list is a text, or an item is none; it is named.
        ValueError: the lists differ in length.
    """
    return score_parts(pred, label).total


def summarize(items: Sequence[Generated], rounds: int = CHANCE_ROUNDS, seed: int = 0) -> dict[str, Any]:
    """All figures of a results file: form, checks, usable rate, and similarity beside its chance level.

    Args:
        items: questions as `results.read_results` gives them.
        rounds: wrong references that each item is compared with, at most; 2,000 in all.
        seed: of the choice of wrong references.
    """
    stopped = [item.finish_reason == "stop" for item in items]
    complete = [item.question.complete for item in items]
    scored = [item for item in items if item.reference]
    found = asdict(similarity(scored, rounds, seed)) if scored else None
    return {
        "items": len(items),
        "adapter": sorted({item.adapter for item in items}),
        "three_sections": share(complete),
        "stopped_by_end_token": share(stopped),
        "three_sections_and_stopped": share([a and b for a, b in zip(complete, stopped, strict=True)]),
        "usable": rate([item.usable for item in items]),
        "usable_by": usable_table(items),
        "attempts": attempts_table(items),
        "variety": variety(items),
        "checks": {
            name: {"hard": hard, **_passed([item.results[column] for item in items])}
            for column, (name, hard) in enumerate(ALL_CHECKS)
        },
        "grounding": grounding([item.item for item in items]),
        "solve_back": solving.table(items) if any(item.solved for item in items) else None,
        "scored": len(scored),
        "similarity": found and rounded(found),
    }


def _passed(results: Sequence[Result]) -> dict[str, Any]:
    outcomes = [result.outcome for result in results]
    row = rate([outcome is Outcome.PASS for outcome in outcomes if outcome is not Outcome.NOT_APPLICABLE])
    return {"passed": row["passed"], "applicable": row["items"], "interval_95": row["interval_95"]}


def main(argv: list[str]) -> None:
    """Score a results file and write the scores beside it."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("results", type=Path, help="questions.json or questions.jsonl of a run")
        parser.add_argument(
            "--against", type=Path, metavar="FILE", help="results of the same records: which is better?"
        )
        add_paper_options(parser)

    resolved = load_config(argv, "evaluate.py", description=__doc__, explain=["evaluate"], add=add)
    actions, settings = resolved.actions, resolved.config.evaluate
    results, against = actions.results, actions.against
    target, items = scores_file(results), read_results(results)
    asked = paper_questions(items, actions.paper, actions.only, actions.title)
    others = [] if against is None else read_results(against)
    found = pair(items, others) if others else None
    answerer, opinions = asking.evaluator(resolved), {}
    if answerer and settings.solve_back:
        items, opinions["solve_back"] = solving.solve_results(items, results.parent, answerer, settings.solve_back)
        if against is not None:
            others, _ = solving.solve_results(others, against.parent, answerer, settings.solve_back)
            found = pair(items, others)
    if answerer and settings.judge:
        opinions["judge"] = judging.judge_results(items, results.parent, answerer, settings.seed)
    summary = {**summarize(items, settings.chance_rounds, settings.seed), **opinions}
    print(summary_text(summary))
    sentences: list[str] = []
    drawn = [(results, items)]
    if found is not None:
        drawn = [(results, [first for first, _ in found.pairs]), (against, [second for _, second in found.pairs])]
        figures = compare(found.pairs, settings.seed)
        summary["against"] = {"file": str(against), "figures": [figure.to_dict() for figure in figures]}
        sentences = comparison_text(found, figures, settings.language).split("\n")
        print("\n".join([f"against   {against}", *sentences]))
    page, picture = report_file(target), picture_file(target)
    try:
        write_json(target, summary)
        draw_usable(drawn, picture)
        write_report(page, items, summary, sentences)
        paper = write_paper(actions.paper, asked, actions.title) if asked else ""
    except OSError as error:
        raise UserError(
            f"{error.filename or target}: cannot be written ({error.strerror}); copy the results to a folder of yours"
        ) from None
    print(f"files     {target}, {picture}, {page}")
    if paper:
        print(paper)


if __name__ == "__main__":
    run_script(main)
