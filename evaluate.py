"""Score generated questions: form, checks, and similarity to references beside its chance level.

    python evaluate.py outputs/gaokao/generated/questions.json

Similarity says how close a text is to one reference, not how good a question is; without its chance level (the same
texts against wrong references of their subject) it says nothing.
"""

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rapidfuzz.distance import LCSseq

from gaokao.checks import CHECKS, Item, Outcome, Result, run_checks, usable
from gaokao.errors import UserError, run_script
from gaokao.prompts import Question, parse
from gaokao.records import CHOICE_TYPES, HEADER, OUTSIDE, SECTIONS, SUBJECTS, TEXTBOOK, TYPES, Record, join_answers
from gaokao.runs import write_json

CHANCE_ROUNDS = 20
# A pair takes 2 ms at the length of real questions, .1 s at 20,000 characters.
MAX_CHANCE_PAIRS = 2000
# Half the width of a 95% interval in standard errors.
SIGNIFICANT = 1.96

SCORES = "scores.json"
TEXT_KEYS = ("id", "subject", "type", TEXTBOOK, OUTSIDE, "text", "finish_reason")
TEXT_OR_NULL_KEYS = ("reference", "adapter")


@dataclass(frozen=True)
class Scores:
    """Means over the items, 0-100: per section, the mean of character ROUGE-L F1 and chrF."""

    total: float
    sections: dict[str, float]
    """Without the sections that no pair of texts has."""
    rouge_l: float
    chrf: float


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


def score_parts(pred: Sequence[str], label: Sequence[str]) -> Scores:
    """`getTotalScore` with its parts: each section, and each metric on its own.

    Raises:
        TypeError: a list is a text, or an item is none; it is named.
        ValueError: the lists differ in length.
    """
    for name, texts in (("pred", pred), ("label", label)):
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            raise TypeError(f"{name} is {_shown(texts)}; give a list of texts")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{index}] is {_shown(text)}; give a text")
    if len(pred) != len(label):
        raise ValueError(f"{len(pred)} predictions for {len(label)} references: give one reference for each prediction")
    return _mean([_pair_scores(p, r) for p, r in zip(pred, label, strict=True)])


def _shown(value: object) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"


PairScores = dict[str, tuple[float, float]]


def _pair_scores(pred: str, label: str, left_out: str | None = None) -> PairScores:
    """(ROUGE-L, chrF) of each section, 0-100. Sections that neither text has do not count."""
    ours, theirs = _section_texts(pred), _section_texts(label)
    return {
        section: (_rouge_l(ours[section], theirs[section]), _chrf(ours[section], theirs[section]))
        for section in SECTIONS
        if section != left_out and (ours[section] or theirs[section])
    }


def _mean(pairs: Sequence[PairScores]) -> Scores:
    by_section: dict[str, list[float]] = {section: [] for section in SECTIONS}
    for pair in pairs:
        for section, metrics in pair.items():
            by_section[section].append(statistics.fmean(metrics))
    return Scores(
        total=_average([_total(pair) for pair in pairs]),
        sections={section: _average(values) for section, values in by_section.items() if values},
        rouge_l=_average([_average([rouge for rouge, _ in pair.values()]) for pair in pairs]),
        chrf=_average([_average([chrf for _, chrf in pair.values()]) for pair in pairs]),
    )


def _total(pair: PairScores) -> float:
    return _average([statistics.fmean(metrics) for metrics in pair.values()])


def _average(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _section_texts(text: str) -> dict[str, str]:
    if not HEADER.search(text):
        # The whole text stands for the question, so that a bare stem is still compared.
        return dict.fromkeys(SECTIONS, "") | {SECTIONS[0]: text.strip()}
    question = parse(text)
    return dict(zip(SECTIONS, (question.question, join_answers(question.answer), question.analysis), strict=True))


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
    """Sentence chrF2, 0-100 (Popovic 2015), by sacrebleu, white space left out."""
    if not pred.strip() or not label.strip():
        return 0.0
    return float(_chrf_metric().sentence_score(pred, [label]).score)


# --- a results file -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Similarity:
    """Similarity of questions to their references, 0-100, and to wrong references of their subject.

    The key letters of choice items are left out: they name options of which the other text has others.
    """

    similarity: float
    sections: dict[str, float]
    rouge_l: float
    chrf: float
    chance_level: float | None = None
    """Mean over the items of the mean over wrong references; `None` where no item has a wrong reference."""
    difference: float | None = None
    """Mean over the same items of own reference minus mean over wrong references."""
    standard_error: float | None = None
    """Of the difference."""
    above_chance: bool | None = None
    """Whether the difference exceeds 1.96 standard errors."""
    compared_items: int = 0
    compared_pairs: int = 0
    """Of an item and a wrong reference, 2,000 at most."""


def similarity(entries: Sequence[Mapping[str, Any]], rounds: int = CHANCE_ROUNDS, seed: int = 0) -> Similarity:
    """How like their references the questions are, and whether more than wrong references of the subject.

    Args:
        entries: of `questions.json`, each with a reference.
        rounds: wrong references that each item is compared with, at most; 2,000 in all.
        seed: of the choice of wrong references.
    """
    own = [_compare(entry, entry) for entry in entries]
    mean = _mean(own)
    found = Similarity(mean.total, mean.sections, mean.rouge_l, mean.chrf)
    wrong: dict[int, list[float]] = defaultdict(list)
    for item, other in wrong_pairs(entries, rounds, seed):
        wrong[item].append(_total(_compare(entries[item], entries[other])))
    if not wrong:
        return found
    chance = [_average(scores) for scores in wrong.values()]
    differences = [_total(own[item]) - level for item, level in zip(wrong, chance, strict=True)]
    difference = _average(differences)
    # Whoever has a wrong reference is one to somebody else: there are two items at least.
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return replace(
        found,
        chance_level=_average(chance),
        difference=difference,
        standard_error=error,
        above_chance=difference > SIGNIFICANT * error,
        compared_items=len(wrong),
        compared_pairs=sum(map(len, wrong.values())),
    )


def _compare(entry: Mapping[str, Any], other: Mapping[str, Any]) -> PairScores:
    return _pair_scores(entry["text"], other["reference"], SECTIONS[1] if entry["type"] in CHOICE_TYPES else None)


def wrong_pairs(entries: Sequence[Mapping[str, Any]], rounds: int, seed: int) -> list[tuple[int, int]]:
    """(item, other item of its subject and with another reference), `rounds` for each item and 2,000 in all at most."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        members[entry["subject"]].append(index)
    draw = random.Random(seed)
    orders = [draw.sample(indices, len(indices)) for indices in members.values() if len(indices) > 1]
    # In a random order, the neighbours at distance 1, 2, ... are wrong references that each serve equally often.
    rounds = max(1, min(rounds, MAX_CHANCE_PAIRS // max(1, sum(map(len, orders)))))
    pairs = [
        (item, order[(place + step) % len(order)])
        for order in orders
        for step in range(1, min(rounds, len(order) - 1) + 1)
        for place, item in enumerate(order)
    ]
    pairs = [(item, other) for item, other in pairs if entries[item]["reference"] != entries[other]["reference"]]
    return draw.sample(pairs, min(len(pairs), MAX_CHANCE_PAIRS))


def check_entry(entry: Mapping[str, Any], question: Question) -> list[Result]:
    """Every check of `gaokao.checks` on one generated question."""
    record = Record(entry["id"], entry["subject"], entry["type"], entry[TEXTBOOK], entry[OUTSIDE])
    return run_checks(Item.from_question(record, question, entry["finish_reason"]))


def summarize(results: Sequence[Mapping[str, Any]], rounds: int = CHANCE_ROUNDS, seed: int = 0) -> dict[str, Any]:
    """All figures of a results file: form, checks, usable rate, and similarity beside its chance level.

    Args:
        results: entries of `questions.json`.
        rounds: wrong references that each item is compared with, at most; 2,000 in all.
        seed: of the choice of wrong references.
    """
    parsed = [parse(entry["text"]) for entry in results]
    stopped = [entry["finish_reason"] == "stop" for entry in results]
    complete = [question.complete for question in parsed]
    checked = [check_entry(entry, question) for entry, question in zip(results, parsed, strict=True)]
    scored = [entry for entry in results if entry.get("reference")]
    found = asdict(similarity(scored, rounds, seed)) if scored else None
    return {
        "items": len(results),
        "adapter": sorted({str(entry.get("adapter")) for entry in results}),
        "three_sections": _share(complete),
        "stopped_by_end_token": _share(stopped),
        "three_sections_and_stopped": _share([a and b for a, b in zip(complete, stopped, strict=True)]),
        "usable": usable_rate([usable(results_of_one) for results_of_one in checked]),
        "checks": {
            check.name: {"hard": check.hard, **_passed([row[column] for row in checked])}
            for column, check in enumerate(CHECKS)
        },
        "scored": len(scored),
        "similarity": found and _rounded(found),
    }


def usable_rate(flags: Sequence[bool]) -> dict[str, Any]:
    """How many items fail no hard check, and the Wilson 95% interval of the share (Wilson 1927); `None` without items."""
    passed = sum(flags)
    if not flags:
        return {"passed": 0, "items": 0, "rate": None, "interval_95": None}
    from scipy.stats import binomtest

    interval = binomtest(passed, len(flags)).proportion_ci(confidence_level=0.95, method="wilson")
    bounds = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return {"passed": passed, "items": len(flags), "rate": _share(flags), "interval_95": bounds}


def _passed(results: Sequence[Result]) -> dict[str, int]:
    outcomes = [result.outcome for result in results]
    return {
        "passed": outcomes.count(Outcome.PASS),
        "applicable": len(outcomes) - outcomes.count(Outcome.NOT_APPLICABLE),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), 4) if flags else None


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    return round(tree, 2) if isinstance(tree, float) else tree


def summary_text(summary: Mapping[str, Any]) -> str:
    """The figures as a few lines for a screen."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f}%"

    lines = [
        f"form      {summary['items']} questions: three sections {percent(summary['three_sections'])}, stopped by the "
        f"end token {percent(summary['stopped_by_end_token'])}, both {percent(summary['three_sections_and_stopped'])}",
    ]
    rate = summary["usable"]
    if rate["items"]:
        low, high = rate["interval_95"]
        lines.append(
            f"usable    {rate['passed']} of {rate['items']} pass every hard check: {percent(rate['rate'])} "
            f"(95% interval {percent(low)} to {percent(high)})"
        )
    lines.append(f"checks    {_worst_checks(summary['checks'])}")
    lines.append(
        _similarity_text(summary["similarity"])
        if summary["scored"]
        else "similarity not measured: no references in the data"
    )
    return "\n".join(lines)


def _worst_checks(checks: Mapping[str, Mapping[str, Any]], count: int = 3) -> str:
    """The checks that the most items fail, with passed/applicable."""
    failed = {name: row["applicable"] - row["passed"] for name, row in checks.items()}
    worst = sorted((name for name in checks if failed[name]), key=lambda name: -failed[name])[:count]
    if not worst:
        return "all passed"
    return "worst: " + ", ".join(
        f"{name} {checks[name]['passed']}/{checks[name]['applicable']}{'' if checks[name]['hard'] else ' (soft)'}"
        for name in worst
    )


def _similarity_text(found: Mapping[str, Any]) -> str:
    sections = ", ".join(f"{name} {value:.1f}" for name, value in found["sections"].items())
    text = f"similarity {found['similarity']:.1f}"
    if found["chance_level"] is None:
        return f"{text}, no chance level (no subject has two references); {sections}"
    verdict = "above chance" if found["above_chance"] else "no similarity above chance"
    return (
        f"{text}, chance level {found['chance_level']:.1f}: {verdict} (difference {found['difference']:+.1f}, standard "
        f"error {found['standard_error']:.1f}, {found['compared_items']} items); {sections}"
    )


def read_results(path: Path) -> list[dict[str, Any]]:
    """Entries of `questions.json`, or of a `questions.jsonl` that an interrupted run left.

    Half a line at the end, of an item that a killed run never finished, is left out.

    Raises:
        UserError: the file is missing or not a results file, or an entry is faulty: it is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such results file; run infer_qwen_gaokao.py first") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {_NAME_ONE}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_NAME_ONE}") from None
    start = text.lstrip()[:2]
    if start in ("{\n", "{\r"):
        # One object over several lines, as scores are written.
        placed = [Placed(str(path), _json(text, str(path)))]
    elif start.startswith("["):
        placed = [Placed(f"{path}[{index}]", value) for index, value in enumerate(_json(text, str(path)))]
    else:
        placed = list(_lines(text, path))
    if not placed:
        raise UserError(f"{path}: holds no results; run infer_qwen_gaokao.py first")
    for where, value in placed:
        if isinstance(value, dict) and "items" in value and "three_sections" in value:
            raise UserError(f"{where}: holds scores, not results; {_NAME_ONE}")
        if fault := _entry_fault(value):
            raise UserError(f"{where}: {fault}; name a file that infer_qwen_gaokao.py wrote")
    return [value for _, value in placed]


_NAME_ONE = "name a questions.json or questions.jsonl"


class Placed(NamedTuple):
    """A JSON value and where it stands: `file[index]` or `file:line`."""

    where: str
    value: Any


def _lines(text: str, path: Path) -> Iterator[Placed]:
    # Not str.splitlines, which also cuts at U+2028, U+2029 and U+0085; JSON leaves them in a text.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Placed(f"{path}:{number}", _json(line, f"{path}:{number}"))
        except UserError:
            if number < len(lines) or number == 1:
                raise


def _json(text: str, where: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise UserError(f"{where}: is nested too deep; {_NAME_ONE}") from None
    except ValueError as error:
        raise UserError(f"{where}: is not JSON ({error}); {_NAME_ONE}") from None


def _entry_fault(entry: Any) -> str:
    """What is wrong with an entry, empty where nothing is."""
    if not isinstance(entry, dict):
        return f"holds {_shown(entry)} instead of an entry"
    if missing := [key for key in TEXT_KEYS if key not in entry]:
        return f"lacks {', '.join(missing)}"
    for key in (*TEXT_KEYS, *TEXT_OR_NULL_KEYS):
        value = entry.get(key)
        if value is None and key in TEXT_OR_NULL_KEYS:
            continue
        if not isinstance(value, str):
            return f"{key} is {_shown(value)}, not a text"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"{key} holds half a character ({value[error.start]!a}) at position {error.start}"
    for key, known in (("subject", SUBJECTS), ("type", TYPES)):
        if entry[key] not in known:
            return f"{key} is {_shown(entry[key])}, not one of {' '.join(known)}"
    return ""


def scores_file(results: Path) -> Path:
    """Where the scores of a results file go: `scores.json` beside `questions.json`, `NAME.scores.json` beside others.

    Raises:
        UserError: `results` is itself named like a scores file, or what stands there is no scores file.
    """
    if results.name == SCORES:
        raise UserError(f"{results}: is the name of the file that this command writes; {_NAME_ONE}")
    usual = results.name in ("questions.json", "questions.jsonl")
    name = results.stem if results.suffix == ".json" else results.name
    target = results.with_name(SCORES if usual else f"{name}.{SCORES}")
    if target.exists():
        try:
            kept = json.loads(target.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            kept = None
        if not isinstance(kept, dict) or "three_sections" not in kept:
            raise UserError(f"{target}: is not a file that this command wrote; move it away first")
    return target


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{number} is not between 1 and 1000")
    return number


def main(argv: list[str]) -> None:
    """Score a results file and write the scores beside it."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", type=Path, help="questions.json or questions.jsonl of a run")
    parser.add_argument(
        "--chance-rounds",
        type=_count,
        default=CHANCE_ROUNDS,
        metavar="N",
        help="wrong references that each question is compared with",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of wrong references")
    args = parser.parse_args(argv)
    target = scores_file(args.results)
    summary = summarize(read_results(args.results), args.chance_rounds, args.seed)
    print(summary_text(summary))
    try:
        write_json(target, summary)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}); copy the results to a folder of yours"
        ) from None
    print(f"files     {target}")


if __name__ == "__main__":
    run_script(main)
