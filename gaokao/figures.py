"""The figures of a results file by subject and type, how varied its questions are, and all as a few lines for a screen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gaokao.audit import find_duplicates, key_bias, key_of
from gaokao.grounding import note, screen
from gaokao.metrics import rate
from gaokao.records import SUBJECTS
from gaokao.results import REPEATS, Generated
from gaokao.text import gram_hashes, normalize

# With fewer items an interval says nothing but that they are few.
LEAST_ITEMS = 5
LEFT_OUT_SHOWN = 5


def groups(items: Sequence[Generated]) -> dict[str, list[Generated]]:
    """The items of each subject, of each type, and of each pair of both, such as `历史 单选题`."""
    found: dict[str, list[Generated]] = {}
    for item in items:
        record = item.record
        for name in (record.subject, record.type, f"{record.subject} {record.type}"):
            found.setdefault(name, []).append(item)
    # Where all are of one subject or type, the pairs say nothing new.
    return {name: those for name, those in found.items() if " " not in name or len(those) < len(items)}


def usable_table(items: Sequence[Generated]) -> dict[str, Any]:
    """Usable rate with its interval by subject, type and both; groups of fewer than LEAST_ITEMS under `too_few`."""
    found = groups(items)
    rows = {name: rate([item.usable for item in those]) for name, those in found.items() if len(those) >= LEAST_ITEMS}
    return {**rows, "too_few": {name: len(those) for name, those in found.items() if len(those) < LEAST_ITEMS}}


def too_few(table: Mapping[str, Any]) -> dict[str, int]:
    """Subject or type -> its items, of what `usable_table` gives no rate of while it gives one of others."""
    few: dict[str, int] = table["too_few"] if len(table) > 1 else {}
    return {name: count for name, count in few.items() if " " not in name}


def variety(items: Sequence[Generated]) -> dict[str, Any]:
    """How varied the questions are: distinct-2 and distinct-4, near-duplicates, and how the keys are spread.

    distinct-n is the share of different ones among all character n-grams of the 题干 (Li et al. 2016, arXiv:1510.03055).
    It falls with the number of questions, so compare sets of one size.
    """
    stems = [normalize(item.question.question) for item in items]

    def distinct(n: int) -> float | None:
        long = [stem for stem in stems if len(stem) >= n]
        if not long:
            return None
        # All at once, without the n-grams that reach from one stem into the next.
        ends = np.cumsum([len(stem) for stem in long])
        found = np.delete(gram_hashes("".join(long), n), [end - k for end in ends[:-1] for k in range(1, n)])
        return round(len(np.unique(found)) / len(found), 4)

    bias = key_bias(key_of(item.item) for item in items)
    duplicates = find_duplicates([item.question.question for item in items])
    return {
        "distinct_2": distinct(2),
        "distinct_4": distinct(4),
        "near_duplicate_pairs": len(duplicates.pairs),
        "near_duplicates_left_out": duplicates.left_out,
        "keys": {"items": bias.total, **{key: round(share, 4) for key, share in bias.shares.items()}},
        "key_strictly_longest": round(bias.longest, 4),
    }


def attempts_table(items: Sequence[Generated]) -> dict[str, Any]:
    """How many were usable at the first attempt and in the end: `all`, by subject and by type."""
    return {
        name: {
            "items": len(those),
            "usable_first": sum(item.attempts[0]["usable"] if item.attempts else item.usable for item in those),
            "usable": sum(item.usable for item in those),
            "drafts": sum(max(1, len(item.attempts)) for item in those),
        }
        for name, those in {"all": list(items), **groups(items)}.items()
    }


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
    row = summary["attempts"]["all"]
    if row["drafts"] > row["items"]:
        lines.append(
            f"attempts  {row['usable_first']} usable at the first attempt, {row['usable']} in the end, of {row['items']}; "
            f"{row['drafts']} drafts"
        )
    lines += [f"          {line}" for line in _extremes(summary["usable_by"])]
    if few := too_few(summary["usable_by"]):
        lines.append(f"          fewer than {LEAST_ITEMS} items: " + ", ".join(f"{name} {few[name]}" for name in few))
    if summary["checks"][REPEATS]["applicable"] < summary["items"]:
        lines.append("gate      not all were compared with each other yet; an interrupted run does so when it goes on")
    lines.append(f"checks    {_worst_checks(summary['checks'])}")
    lines.append(f"variety   {_variety_text(summary['variety'])}")
    lines += [f"grounding {line}" for line in screen(summary["grounding"])]
    if text := note(summary["grounding"]):
        lines.append(f"          {text}")
    lines += _solved_lines(summary.get("solve_back") or {})
    lines += _judged_lines(summary.get("judge") or {})
    lines.append(
        _similarity_text(summary["similarity"])
        if summary["scored"]
        else "similarity not measured: no references in the data"
    )
    return "\n".join(lines)


def _extremes(table: Mapping[str, Any], count: int = 2) -> list[str]:
    """The subjects and types with the lowest and the highest usable rate."""
    rows = [(name, row) for name, row in table.items() if name != "too_few" and " " not in name]
    if len(rows) < 2 * count:
        return []
    rows.sort(key=lambda pair: pair[1]["rate"])
    if rows[0][1]["rate"] == rows[-1][1]["rate"]:
        return []

    def text(those: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return ", ".join(f"{name} {row['passed']}/{row['items']}" for name, row in those)

    return [f"lowest {text(rows[:count])}; highest {text(rows[-count:][::-1])}"]


def _variety_text(found: Mapping[str, Any]) -> str:
    if found["distinct_2"] is None:
        return "no questions"
    text = f"distinct-2 {found['distinct_2']:.2f}, near-duplicates {found['near_duplicates_left_out'] or found['near_duplicate_pairs']}"
    keys = found["keys"]
    if keys["items"]:
        text += f"; keys of {keys['items']} items " + ", ".join(f"{letter} {keys[letter]:.0%}" for letter in "ABCD")
    return text


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


def rate_text(row: Mapping[str, Any]) -> str:
    """A rate with what it rests on."""
    if not row["items"]:
        return "none of 0"
    low, high = row["interval_95"]
    return f"{row['passed']} of {row['items']}: {row['rate']:.0%} (95% interval {low:.0%} to {high:.0%})"


def _solved_lines(found: Mapping[str, Any]) -> list[str]:
    """How many keys a solver confirms, and how much its word is worth, by subject."""
    if not found:
        return []
    every = found["all"]
    by_whom = found.get("solver") or "the solver of the inference run, drawn again where it did not"
    lines = [
        f"solved    keys confirmed {rate_text(every['agreement'])} by {by_whom}; "
        f"{found['no_answer']} without an answer, {found['not_solved']} not solved"
    ]
    if every["chance"] is None:
        lines.append(
            "          how well it solves references is not known, so that its verdict says nothing yet: "
            "evaluate.py --evaluate.solve_back on data with references"
        )
    else:
        lines.append(
            f"          of the references it solves {rate_text(every['accuracy'])}, chance {every['chance']:.0%}"
        )
        rows = {name: row for name, row in found["by"].items() if name in SUBJECTS}
        parts = [
            f"{name} confirmed {row['agreement']['passed']}/{row['agreement']['items']}, references "
            f"{row['accuracy']['passed']}/{row['accuracy']['items']}"
            for name, row in rows.items()
        ]
        lines += [f"          {'; '.join(parts)}"] if len(rows) > 1 else []
        if blind := [name for name, row in rows.items() if not row["above_chance"]]:
            lines.append(
                f"          not shown to solve references better than chance in {', '.join(blind)}: its verdict there says "
                "nothing"
            )
    return lines + _cost_lines(found)


def _judged_lines(found: Mapping[str, Any]) -> list[str]:
    """The mean of each dimension, and what is not in it."""
    if not found:
        return []
    means = ", ".join(
        f"{name} " + ("-" if row["mean"] is None else f"{row['mean']:.2f}") for name, row in found["dimensions"].items()
    )
    unreadable = sum(row["unreadable"] for row in found["dimensions"].values())
    lines = [
        f"judged    0 to 2, {found['items']} questions by {found['judge']}: {means}",
        f"          {unreadable} answers without marks, {found['not_whole']} questions not whole",
    ]
    if left_out := found["left_out"]:
        names = "; ".join(f"id {row['id']}: “{row['words']}”" for row in left_out[:LEFT_OUT_SHOWN])
        lines.append(f"          {len(left_out)} left out, as they speak to the judge ({names})")
    return lines + _cost_lines(found)


def _cost_lines(found: Mapping[str, Any]) -> list[str]:
    """What the answers took; nothing where they were counted elsewhere."""
    if "answers" not in found:
        return []
    lines = [
        f"          {found['answers']} answers ({found['new']} new, {found['cut_off']} cut off, {found['refused']} refused), "
        f"{found['prompt_tokens']:,} prompt + {found['completion_tokens']:,} completion tokens"
    ]
    lines += [f"          {count} requests failed: {reason}" for reason, count in found["failed"].items()]
    return lines


def _similarity_text(found: Mapping[str, Any]) -> str:
    sections = ", ".join(f"{name} {value:.1f}" for name, value in found["sections"].items())
    text = f"similarity {found['similarity']:.1f}"
    if found["interval_95"]:
        text += " (95% interval {:.1f} to {:.1f})".format(*found["interval_95"])
    if found["chance_level"] is None:
        return f"{text}, no chance level (no subject has two references with different passages); {sections}"
    verdict = "above chance" if found["above_chance"] else "no similarity above chance"
    return (
        f"{text}, chance level {found['chance_level']:.1f}: {verdict} (difference {found['difference']:+.1f}, standard "
        f"error {found['standard_error']:.1f}, {found['compared_items']} items); {sections}"
    )
