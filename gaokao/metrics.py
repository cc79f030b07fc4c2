"""Similarity of generated texts to their references, beside its chance level, and rates with intervals."""

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import LCSseq

from gaokao.errors import shown
from gaokao.parallel import on_cores
from gaokao.prompts import parse
from gaokao.records import HEADER, PASSAGES, SECTIONS, Record, join_answers
from gaokao.text import CHOICE_TYPES

if TYPE_CHECKING:
    from gaokao.results import Generated

CHANCE_ROUNDS = 20
# A pair takes 2 ms at the length of real questions, .1 s at 20,000 characters.
MAX_CHANCE_PAIRS = 2000
# Half the width of a 95% interval in standard errors.
SIGNIFICANT = 1.96
CHRF_ORDER = 6


@dataclass(frozen=True)
class Scores:
    """Means over the items, 0-100: per section, the mean of character ROUGE-L F1 and chrF."""

    total: float
    sections: dict[str, float]
    """Without the sections that no pair of texts has."""
    rouge_l: float
    chrf: float


def score_parts(pred: Sequence[str], label: Sequence[str]) -> Scores:
    """`getTotalScore` with its parts: each section, and each metric on its own.

    Raises:
        TypeError: a list is a text, or an item is none; it is named.
        ValueError: the lists differ in length.
    """
    for name, texts in (("pred", pred), ("label", label)):
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
            raise TypeError(f"{name} is {shown(texts)} ({type(texts).__name__}); give a list of texts")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{index}] is {shown(text)} ({type(text).__name__}); give a text")
    if len(pred) != len(label):
        raise ValueError(f"{len(pred)} predictions for {len(label)} references: give one reference for each prediction")
    return _mean([_pair_scores(section_texts(p), section_texts(r)) for p, r in zip(pred, label, strict=True)])


Texts = dict[str, str]
PairScores = dict[str, tuple[float, float]]


def _pair_scores(ours: Texts, theirs: Texts, left_out: str | None = None) -> PairScores:
    """(ROUGE-L, chrF) of each section, 0-100. Sections that neither text has do not count."""
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


def section_texts(text: str) -> Texts:
    """The three parts of a text by their headers."""
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


def _chrf(pred: str, label: str) -> float:
    """Sentence chrF2, 0-100 (Popovic 2015), white space left out: the figure of sacrebleu in a third of its time.

    Precision and recall of character n-grams, n from 1 to 6, are averaged over the n that both texts are long enough for.
    """
    import numpy as np

    p, r = "".join(pred.split()), "".join(label.split())
    if not p or not r:
        return 0.0
    # Equal letters get equal numbers from 0 on, then equal pairs, and so on: no two different n-grams share one.
    codes = np.frombuffer((p + r).encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = np.unique(codes, return_inverse=True)[1]
    grams, base = letters, int(letters.max()) + 1
    precisions, recalls = [], []
    for n in range(1, min(CHRF_ORDER, len(p), len(r)) + 1):
        if n > 1:
            grams = np.unique(grams[:-1] * base + letters[n - 1 :], return_inverse=True)[1]
        # Those between them are half of one text and half of the other.
        ours, theirs = grams[: len(p) - n + 1], grams[len(p) :]
        size = int(grams.max()) + 1
        shared = int(np.minimum(np.bincount(ours, minlength=size), np.bincount(theirs, minlength=size)).sum())
        precisions.append(shared / len(ours))
        recalls.append(shared / len(theirs))
    precision, recall = statistics.fmean(precisions), statistics.fmean(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision else 0.0


@dataclass(frozen=True)
class Similarity:
    """Similarity of questions to their references, 0-100, and to wrong references of their subject.

    The key letters of choice items are left out: they name options of which the other text has others.
    """

    similarity: float
    sections: dict[str, float]
    rouge_l: float
    chrf: float
    interval_95: tuple[float, float] | None
    """Of `similarity`, by bootstrap over the records, those that share a passage together; `None` where that is one."""
    chance_level: float | None = None
    """Mean over the items of the mean over wrong references; `None` where no two items of different passages have one."""
    difference: float | None = None
    """Mean over the same items of own reference minus mean over wrong references."""
    standard_error: float | None = None
    """Of the difference."""
    above_chance: bool | None = None
    """Whether the difference exceeds 1.96 standard errors."""
    compared_items: int = 0
    compared_pairs: int = 0
    """Of an item and a wrong reference, 2,000 at most."""


def similarity(items: "Sequence[Generated]", rounds: int = CHANCE_ROUNDS, seed: int = 0) -> Similarity:
    """How like their references the questions are, and whether more than wrong references of the subject.

    Args:
        items: questions with references.
        rounds: wrong references that each item is compared with, at most; 2,000 in all.
        seed: of the choice of wrong references.
    """
    ours = [_own_texts(item) for item in items]
    theirs = [section_texts(item.reference or "") for item in items]

    def compare(pairs: Sequence[tuple[int, int]]) -> list[PairScores]:
        calls = [(ours[item], theirs[other], _left_out(items[item])) for item, other in pairs]
        return on_cores(_pair_scores, calls, len(calls))

    own = compare([(item, item) for item in range(len(items))])
    mean = _mean(own)
    groups = passage_groups([item.record for item in items])
    several = len(set(groups)) > 1
    interval = bootstrap_interval([_total(pair) for pair in own], seed, groups) if several else None
    found = Similarity(mean.total, mean.sections, mean.rouge_l, mean.chrf, interval)
    wrong: dict[int, list[float]] = defaultdict(list)
    pairs = wrong_pairs(items, rounds, seed)
    for (item, _), scores in zip(pairs, compare(pairs), strict=True):
        wrong[item].append(_total(scores))
    if len({groups[item] for item in wrong}) < 2:
        return found
    chance = [_average(scores) for scores in wrong.values()]
    differences = [_total(own[item]) - level for item, level in zip(wrong, chance, strict=True)]
    difference = _average(differences)
    error = standard_error(differences, [groups[item] for item in wrong])
    return replace(
        found,
        chance_level=_average(chance),
        difference=difference,
        standard_error=error,
        above_chance=difference > SIGNIFICANT * error,
        compared_items=len(wrong),
        compared_pairs=sum(map(len, wrong.values())),
    )


def item_similarity(item: "Generated") -> float:
    """Similarity of one question to its reference, 0-100, as `similarity` takes the mean of."""
    return _total(_pair_scores(_own_texts(item), section_texts(item.reference or ""), _left_out(item)))


def _own_texts(item: "Generated") -> Texts:
    return item.sections if HEADER.search(item.text) else section_texts(item.text)


def _left_out(item: "Generated") -> str | None:
    return SECTIONS[1] if item.record.type in CHOICE_TYPES else None


def wrong_pairs(items: "Sequence[Generated]", rounds: int, seed: int) -> list[tuple[int, int]]:
    """(item, other item of its subject and with another reference), `rounds` for each item and 2,000 in all at most."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, generated in enumerate(items):
        members[generated.record.subject].append(index)
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
    pairs = [(item, other) for item, other in pairs if items[item].reference != items[other].reference]
    return draw.sample(pairs, min(len(pairs), MAX_CHANCE_PAIRS))


def rate(flags: Sequence[bool]) -> dict[str, Any]:
    """How many are true, their share, and its Wilson 95% interval (Wilson 1927); `None` without any."""
    passed = sum(flags)
    if not flags:
        return {"passed": 0, "items": 0, "rate": None, "interval_95": None}
    from scipy.stats import binomtest

    interval = binomtest(passed, len(flags)).proportion_ci(confidence_level=0.95, method="wilson")
    bounds = [round(float(interval.low), 4), round(float(interval.high), 4)]
    return {"passed": passed, "items": len(flags), "rate": share(flags), "interval_95": bounds}


def passage_groups(records: Sequence[Record]) -> list[int]:
    """For each record the number of its group; records that share a 课本内容 or a 课外内容 are in one, also by way of others.

    What is asked of one passage several times goes well or badly together, so that such records say less than as many
    that are independent: the intervals of means and the tests take whole groups (those of rates, by `rate`, do not).
    """
    from scipy.cluster.hierarchy import DisjointSet

    sets = DisjointSet(range(len(records)))
    first: dict[tuple[str, str], int] = {}
    for place, record in enumerate(records):
        for name in PASSAGES:
            if passage := "".join(record.passage(name).split()):
                sets.merge(place, first.setdefault((name, passage), place))
    return [int(sets[place]) for place in range(len(records))]


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, groups: Sequence[int] | None = None
) -> tuple[float, float]:
    """95% interval of the mean by percentile bootstrap (Efron 1979) with 10,000 resamples.

    Args:
        values: of two groups or more.
        seed: of the resamples.
        groups: the group of each value, see `passage_groups`; whole groups are drawn (Field and Welsh 2007). By default
            each value is one.
    """
    if min(values) == max(values):
        # Every resample is the same, and scipy warns of it.
        return values[0], values[0]
    import numpy as np
    from scipy.stats import bootstrap

    sums, counts = group_sums(values, range(len(values)) if groups is None else groups)

    def mean(sums: Any, counts: Any, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    found = bootstrap(
        (sums, counts),
        mean,
        n_resamples=10_000,
        batch=200,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def standard_error(values: Sequence[float], groups: Sequence[int]) -> float:
    """Of the mean of values of two groups or more, which are independent of each other; values of a group are not."""
    sums, counts = group_sums(values, groups)
    count = len(counts)
    apart = sums - counts * sums.sum() / len(values)
    return float(math.sqrt((apart**2).sum() * count / (count - 1)) / len(values))


def group_sums(values: Sequence[float], groups: Sequence[int]) -> tuple[Any, Any]:
    """The sum of the values of each group and their number, two arrays of as many floats as there are groups."""
    import numpy as np

    places = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.bincount(places, weights=np.asarray(values, dtype=float)), np.bincount(places).astype(float)


def share(flags: Sequence[bool]) -> float | None:
    """How many of them are true, 0 to 1; `None` without any."""
    return round(sum(flags) / len(flags), 4) if flags else None


def rounded(tree: Any) -> Any:
    """The same dictionaries with two digits behind the point of every float."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return [rounded(value) for value in tree]
    return round(tree, 2) if isinstance(tree, float) else tree
