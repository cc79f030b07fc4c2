"""What is said of a set of records: near-duplicates, key bias."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gaokao.checks import Item, Outcome, Result, not_applicable, result
from gaokao.text import near_duplicates, near_duplicates_across, parse_key, shorten, split_options

# Key shares of the real items are .23 .27 .27 .23: within 3 standard deviations of .25 for fewer than 4,000 items.
BIAS_SIGMAS = 3.0
BIAS_LEAST = 20


def check_near_duplicates(items: Sequence[Item], training: Sequence[Item] = ()) -> list[Result]:
    """One result per item: its question is no near-duplicate of another one of the set, or of a training question."""
    questions = [item.question for item in items]
    faults: list[list[str]] = [[] for _ in items]
    for first, second, similarity in near_duplicates(questions):
        faults[first].append(f"like item {second} of the set ({similarity:.2f}): “{shorten(questions[second])}”")
        faults[second].append(f"like item {first} of the set ({similarity:.2f}): “{shorten(questions[first])}”")
    for first, second, similarity in near_duplicates_across(questions, [item.question for item in training]):
        faults[first].append(f"like training item {second} ({similarity:.2f}): “{shorten(training[second].question)}”")
    return [
        result("near-duplicate", found) if item.question else not_applicable("near-duplicate")
        for item, found in zip(items, faults, strict=True)
    ]


class KeyBias(NamedTuple):
    """Over the single-answer choice items of a set: how often each letter is the key, how often it is the longest."""

    total: int
    shares: dict[str, float]
    longest: float
    """Share of items whose key is strictly the longest option; .084 over the real items, .25 by chance at most."""


def key_bias(items: Iterable[Item]) -> KeyBias:
    """Key distribution of the single-answer choice items with options A to D; shares are 0 where there are none."""
    keys: Counter[str] = Counter()
    longest = 0
    for item in items:
        key = parse_key(item.answer[0]) if item.type == "单选题" and len(item.answer) == 1 else ""
        options = split_options(item.question) if len(key) == 1 else None
        if options is None or key not in options:
            continue
        keys[key] += 1
        lengths = {letter: len("".join(text.split())) for letter, text in options.items()}
        longest += all(lengths[key] > length for letter, length in lengths.items() if letter != key)
    count = keys.total()
    return KeyBias(count, {letter: keys[letter] / max(count, 1) for letter in "ABCD"}, longest / max(count, 1))


def check_key_bias(items: Iterable[Item]) -> Result:
    """No letter is the key, and the key is not the longest option, more often than chance (.25) explains."""
    count, shares, longest = key_bias(items)
    if count < BIAS_LEAST:
        return Result(
            "key bias", Outcome.NOT_APPLICABLE, f"{count} single-answer choice items, {BIAS_LEAST} are needed"
        )
    margin = BIAS_SIGMAS * math.sqrt(0.25 * 0.75 / count)
    faults = [f"{letter} is the key of {share:.0%}" for letter, share in shares.items() if abs(share - 0.25) > margin]
    if longest > 0.25 + margin:
        faults.append(f"the key is the longest option in {longest:.0%}")
    summary = f"{count} items; key " + " ".join(f"{letter} {share:.2f}" for letter, share in shares.items())
    summary += f"; strictly the longest option {longest:.3f}"
    return Result("key bias", Outcome.FAIL if faults else Outcome.PASS, "; ".join([*faults, summary]))
