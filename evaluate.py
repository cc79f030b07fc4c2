"""Score generated questions against references: getTotalScore, its parts, and the floor beside which it is read.

    python evaluate.py outputs/gaokao/generated/questions.json

Similarity says how close a text is to one reference, not how good a question is; a score without its floor (the same
texts against the wrong references of their subject) says nothing.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import LCSseq

from gaokao.checks import split_options
from gaokao.errors import UserError, run_script
from gaokao.prompts import Question, parse
from gaokao.records import SECTIONS, join_answers
from gaokao.runs import write_json


@dataclass(frozen=True)
class Scores:
    """Means over the items, 0-100: per section, the mean of character ROUGE-L F1 and chrF."""

    total: float
    sections: dict[str, float]
    rouge_l: float
    chrf: float


def getTotalScore(pred: Sequence[str], label: Sequence[str]) -> float:  # noqa: N802 - the name users know
    """Similarity of generated texts to their references, 0-100: the mean over items and sections.

    Args:
        pred: generated texts, with the headers 题干, 参考答案 and 解析.
        label: reference texts of the same form, one for each prediction.

    Raises:
        ValueError: the lists differ in length.
    """
    return score_parts(pred, label).total


def score_parts(pred: Sequence[str], label: Sequence[str]) -> Scores:
    """`getTotalScore` with its parts: each section, and each metric on its own.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(pred) != len(label):
        raise ValueError(f"{len(pred)} predictions for {len(label)} references: give one reference for each prediction")
    pairs = [_pair_scores(p, r) for p, r in zip(pred, label, strict=True)]
    return _mean(pairs)


PairScores = dict[str, tuple[float, float]]


@cache
def _pair_scores(pred: str, label: str) -> PairScores:
    """(ROUGE-L, chrF) of each section, 0-100. Sections that neither text has do not count."""
    if pred.strip() == label.strip() and pred.strip():
        return {section: (100.0, 100.0) for section in SECTIONS}
    ours, theirs = _section_texts(pred), _section_texts(label)
    return {
        section: (_rouge_l(ours[section], theirs[section]), _chrf(ours[section], theirs[section]))
        for section in SECTIONS
        if ours[section] or theirs[section]
    }


def _mean(pairs: Sequence[PairScores]) -> Scores:
    by_section: dict[str, list[float]] = {section: [] for section in SECTIONS}
    totals, rouges, chrfs = [], [], []
    for pair in pairs:
        for section, (rouge, chrf) in pair.items():
            by_section[section].append((rouge + chrf) / 2)
        totals.append(_average([(rouge + chrf) / 2 for rouge, chrf in pair.values()]))
        rouges.append(_average([rouge for rouge, _ in pair.values()]))
        chrfs.append(_average([chrf for _, chrf in pair.values()]))
    return Scores(
        total=_average(totals),
        sections={section: _average(values) for section, values in by_section.items()},
        rouge_l=_average(rouges),
        chrf=_average(chrfs),
    )


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _section_texts(text: str) -> dict[str, str]:
    question = parse(text)
    texts = dict(zip(SECTIONS, (question.question, join_answers(question.answer), question.analysis), strict=True))
    if not any(texts.values()):
        # No header at all: the whole text stands for the question, so that a bare stem is still compared.
        texts[SECTIONS[0]] = text.strip()
    return texts


def _rouge_l(pred: str, label: str) -> float:
    """Character ROUGE-L F1 = 2 LCS / (|p| + |r|), 0-100 (Lin 2004), white space left out."""
    p, r = "".join(pred.split()), "".join(label.split())
    if not p or not r:
        return 0.0
    return 200.0 * LCSseq.similarity(p, r) / (len(p) + len(r))


@cache
def _chrf_metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _chrf(pred: str, label: str) -> float:
    """Sentence chrF2, 0-100 (Popovic 2015), by sacrebleu."""
    if not pred.strip() or not label.strip():
        return 0.0
    return float(_chrf_metric().sentence_score(pred, [label]).score)


def floor_score(
    pred: Sequence[str], label: Sequence[str], groups: Sequence[str], rounds: int = 20, seed: int = 0
) -> float | None:
    """Mean total score of predictions against wrong references of the same group, 0-100.

    Args:
        pred: generated texts.
        label: references, one for each.
        groups: subject of each; references are only exchanged within a subject, where there are two or more.
        rounds: how many shufflings are averaged.
        seed: of the shuffling.

    Returns:
        The floor, or `None` where no item has another reference to be compared with.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    draw = random.Random(seed)
    pairs: list[PairScores] = []
    for _ in range(rounds):
        for indices in members.values():
            if len(indices) < 2:
                continue
            # A rotation of a random order gives everyone a reference that is not its own.
            order = draw.sample(indices, len(indices))
            for own, other in zip(order, order[1:] + order[:1], strict=True):
                pairs.append(_pair_scores(pred[own], label[other]))
    return _mean(pairs).total if pairs else None


def summarize(results: Sequence[dict[str, Any]], rounds: int = 20, seed: int = 0) -> dict[str, Any]:
    """All figures of a results file: form of the outputs, and similarity beside its floor.

    Args:
        results: entries of `questions.json`.
        rounds: shufflings for the floor.
        seed: of the shuffling.
    """
    parsed: list[Question] = [parse(entry["text"]) for entry in results]
    stopped = [entry["finish_reason"] == "stop" for entry in results]
    complete = [question.complete for question in parsed]
    choice = [
        _one_choice(question) for entry, question in zip(results, parsed, strict=True) if entry["type"] == "单选题"
    ]
    scored = [entry for entry in results if entry.get("reference")]
    texts, labels = [entry["text"] for entry in scored], [entry["reference"] for entry in scored]
    summary: dict[str, Any] = {
        "items": len(results),
        "adapter": sorted({str(entry.get("adapter")) for entry in results}),
        "three_sections": _share(complete),
        "stopped_by_end_token": _share(stopped),
        "three_sections_and_stopped": _share([a and b for a, b in zip(complete, stopped, strict=True)]),
        "single_choice_items": len(choice),
        "four_options_and_one_letter_key": _share(choice),
        "scored": len(scored),
    }
    if scored:
        parts = score_parts(texts, labels)
        floor = floor_score(texts, labels, [entry["subject"] for entry in scored], rounds, seed)
        summary |= {
            "total_score": round(parts.total, 2),
            "floor": None if floor is None else round(floor, 2),
            "sections": {name: round(value, 2) for name, value in parts.sections.items()},
            "rouge_l": round(parts.rouge_l, 2),
            "chrf": round(parts.chrf, 2),
        }
    return summary


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), 4) if flags else None


def _one_choice(question: Question) -> bool:
    """Exactly the options A to D, and one of these letters as the key."""
    options = split_options(question.question)
    return (
        options is not None
        and list(options) == list("ABCD")
        and len(question.answer) == 1
        and question.answer[0].strip(" 。．.") in options
    )


def summary_text(summary: dict[str, Any]) -> str:
    """The figures as a few lines for a screen."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}%"

    lines = [
        f"items {summary['items']}: three sections {percent(summary['three_sections'])}, stopped by the end token "
        f"{percent(summary['stopped_by_end_token'])}, both {percent(summary['three_sections_and_stopped'])}",
    ]
    if summary["single_choice_items"]:
        lines.append(
            f"single-choice {summary['single_choice_items']}: four options and a one-letter key "
            f"{percent(summary['four_options_and_one_letter_key'])}"
        )
    if summary["scored"]:
        sections = ", ".join(f"{name} {value:.1f}" for name, value in summary["sections"].items())
        floor = "no floor (one item a subject)" if summary["floor"] is None else f"floor {summary['floor']:.1f}"
        lines.append(f"total score {summary['total_score']:.1f} ({floor}); {sections}")
    else:
        lines.append("no references in the data: no similarity scores")
    return "\n".join(lines)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Entries of `questions.json`, or of a `questions.jsonl` that an interrupted run left.

    Raises:
        UserError: the file is missing, not JSON, or not a results file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if text.lstrip().startswith("[") else _whole_lines(text)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such results file; run infer_qwen_gaokao.py first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not a results file ({error}); name a questions.json or questions.jsonl") from None
    needed = {"text", "type", "subject", "finish_reason"}
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not needed <= row.keys():
            raise UserError(
                f"{path}[{index}]: lacks {', '.join(sorted(needed))}; name a file that infer_qwen_gaokao.py wrote"
            )
    if not rows:
        raise UserError(f"{path}: holds no results; run infer_qwen_gaokao.py first")
    return rows


def _whole_lines(text: str) -> list[Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and not text.endswith("\n"):
        # A killed run can leave half a line at the end, of an item that it never finished; a whole one counts.
        try:
            json.loads(lines[-1])
        except json.JSONDecodeError:
            lines.pop()
    return [json.loads(line) for line in lines]


def main(argv: list[str]) -> None:
    """Score a results file and write `scores.json` beside it."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", type=Path, help="questions.json or questions.jsonl of a run")
    parser.add_argument("--floor_rounds", type=int, default=20, help="shufflings that the floor is the mean of")
    parser.add_argument("--seed", type=int, default=0, help="seed of the shuffling")
    args = parser.parse_args(argv)
    summary = summarize(read_results(args.results), args.floor_rounds, args.seed)
    print(summary_text(summary))
    target = args.results.with_name("scores.json")
    write_json(target, summary)
    print(f"all figures: {target}")


if __name__ == "__main__":
    run_script(main)
