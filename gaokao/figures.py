"""The figures of a results file: how many attempts they took, and all of them as a few lines for a screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from gaokao.grounding import note, screen
from gaokao.results import Generated


def attempts_table(items: Sequence[Generated]) -> dict[str, Any]:
    """How many were usable at the first attempt and in the end: `all`, by subject and by type."""
    groups: dict[str, list[Generated]] = {"all": list(items)}
    for item in items:
        groups.setdefault(item.record.subject, []).append(item)
        groups.setdefault(item.record.type, []).append(item)
    return {
        name: {
            "items": len(those),
            "usable_first": sum(item.attempts[0]["usable"] if item.attempts else item.usable for item in those),
            "usable": sum(item.usable for item in those),
            "drafts": sum(max(1, len(item.attempts)) for item in those),
        }
        for name, those in groups.items()
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
    lines.append(f"checks    {_worst_checks(summary['checks'])}")
    lines += [f"grounding {line}" for line in screen(summary["grounding"])]
    if text := note(summary["grounding"]):
        lines.append(f"          {text}")
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
