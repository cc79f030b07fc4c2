"""What is said of a set of records: counts, lengths, keys, near-duplicates, leaks; and how it is cut into two."""

import hashlib
import json
import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gaokao.checks import CHECKS, Item, Outcome, Result, not_applicable, result, run_checks, usable
from gaokao.errors import MAX_FAULTS, Errors, UserError
from gaokao.records import LEAKS, OUTSIDE, PASSAGES, TEXTBOOK, Purpose, Record, parse_record
from gaokao.sources import FORMATS, read_raw
from gaokao.text import (
    LEAK_BOUND,
    Pair,
    answer_texts,
    leak_share,
    near_duplicates,
    near_duplicates_across,
    parse_key,
    shorten,
    split_options,
)

# Key shares of the real items are .23 .27 .27 .23: within 3 standard deviations of .25 for fewer than 4,000 items.
BIAS_SIGMAS = 3.0
BIAS_LEAST = 20
FINDINGS_SHOWN, EXAMPLES_SHOWN = 20, 3
# About 30,000 questions; the index was measured at 55 bytes per character of question, so half a gigabyte at most.
DUPLICATE_CHARACTERS = 8_000_000
# In a file made from a few templates the number of pairs grows with the square of its size. So many are found in some
# seconds and fit in 100 MB.
MANY_PAIRS = 200_000
# What the training script checks by itself: it should start within seconds.
SUMMARY_RECORDS = 2_000
PERCENTILES = (0.05, 0.5, 0.9, 0.95, 0.99)

Finding = dict[str, Any]


# --- keys -----------------------------------------------------------------------------------------------------------


class KeyBias(NamedTuple):
    """Over the single-answer choice items of a set: how often each letter is the key, how often it is the longest."""

    total: int
    shares: dict[str, float]
    longest: float
    """Share of items whose key is strictly the longest option; .084 over the real items, .25 by chance at most."""


def key_of(item: Item) -> tuple[str, bool] | None:
    """The key of a single-answer choice item, and whether it is strictly the longest option; of no other item."""
    key = parse_key(item.answer[0]) if item.type == "单选题" and len(item.answer) == 1 else ""
    options = split_options(item.question) if len(key) == 1 else None
    if options is None or key not in options:
        return None
    lengths = {letter: len("".join(text.split())) for letter, text in options.items()}
    return key, all(lengths[key] > length for letter, length in lengths.items() if letter != key)


def key_bias(keys: Iterable[tuple[str, bool] | None]) -> KeyBias:
    """The distribution of what `key_of` gives; shares are 0 where there are no keys."""
    found = [key for key in keys if key]
    letters, most = Counter(letter for letter, _ in found), max(len(found), 1)
    return KeyBias(len(found), {key: letters[key] / most for key in "ABCD"}, sum(long for _, long in found) / most)


def check_key_bias(bias: KeyBias) -> Result:
    """No letter is the key, and the key is not the longest option, more often than chance (.25) explains."""
    count, shares, longest = bias
    if count < BIAS_LEAST:
        evidence = f"{count} single-answer choice items, {BIAS_LEAST} are needed"
        return Result("key bias", Outcome.NOT_APPLICABLE, evidence)
    margin = BIAS_SIGMAS * math.sqrt(0.25 * 0.75 / count)
    found = [f"{letter} is the key of {share:.0%}" for letter, share in shares.items() if abs(share - 0.25) > margin]
    if longest > 0.25 + margin:
        found.append(f"the key is the longest option in {longest:.0%}")
    summary = f"{count} items; key " + " ".join(f"{letter} {share:.2f}" for letter, share in shares.items())
    summary += f"; strictly the longest option {longest:.3f}"
    return Result("key bias", Outcome.FAIL if found else Outcome.PASS, "; ".join([*found, summary]))


# --- near-duplicates ------------------------------------------------------------------------------------------------


class Duplicates(NamedTuple):
    """Near-duplicate questions by position; `left_out` says what was not searched and why."""

    pairs: list[Pair]
    left_out: str = ""


def find_duplicates(questions: Sequence[str]) -> Duplicates:
    """Near-duplicates in bounded time and memory; of copies of one text, each is paired with the first one."""
    if sum(map(len, questions)) > DUPLICATE_CHARACTERS:
        most = f"{DUPLICATE_CHARACTERS:,}"
        return Duplicates([], f"not searched: the questions have more than {most} characters; check them in parts")
    pairs = near_duplicates(questions, limit=MANY_PAIRS + 1)
    left_out = f"the search ended after {MANY_PAIRS:,} pairs, so many questions are alike"
    return Duplicates(pairs[:MANY_PAIRS], left_out if len(pairs) > MANY_PAIRS else "")


def check_near_duplicates(items: Sequence[Item], training: Sequence[Item] = ()) -> list[Result]:
    """One result per item: its question is no near-duplicate of another one of the set, or of a training question."""
    questions = [item.question for item in items]
    found: list[list[str]] = [[] for _ in items]
    for first, second, similarity in near_duplicates(questions):
        found[first].append(f"like item {second} of the set ({similarity:.2f}): “{shorten(questions[second])}”")
        found[second].append(f"like item {first} of the set ({similarity:.2f}): “{shorten(questions[first])}”")
    for first, second, similarity in near_duplicates_across(questions, [item.question for item in training]):
        found[first].append(f"like training item {second} ({similarity:.2f}): “{shorten(training[second].question)}”")
    return [
        result("near-duplicate", those) if item.question else not_applicable("near-duplicate")
        for item, those in zip(items, found, strict=True)
    ]


# --- files ----------------------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """How long a record is as an example or prompt: the unit, why this unit, and the length of a record in it."""

    unit: str
    reason: str
    length: Callable[[Record], int]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; 0 where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


@dataclass
class Counts:
    """What is counted in one file, or in all of them."""

    name: str
    records: int = 0
    errors: int = 0
    unreadable: str = ""
    """Why the file could not be read, or not to its end."""
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records by subject and type."""
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    over: int = 0
    keys: Counter[tuple[str, bool] | None] = field(default_factory=Counter)
    """What `key_of` gives for each record."""
    empty: Counter[str] = field(default_factory=Counter)
    """Records without the passage."""
    items: list[Item] = field(default_factory=list)
    """What own passage first is measured on: the first records with a question, by `DUPLICATE_CHARACTERS`."""
    leaks: "dict[str, array[float]]" = field(default_factory=lambda: {name: array("d") for name in PASSAGES})
    """Share of the answer in the passage, for each record with both passage and measurable answer."""

    def length_figures(self) -> dict[str, float]:
        """Minimum, percentiles and maximum of the lengths, and how many are too long."""
        ordered = sorted(self.lengths)
        figures = {f"p{share * 100:.0f}": percentile(ordered, share) for share in PERCENTILES}
        return {"minimum": percentile(ordered, 0), **figures, "maximum": percentile(ordered, 1), "too_long": self.over}

    def key_bias(self) -> KeyBias:
        """The distribution of keys."""
        return key_bias(self.keys.elements())

    def leak_figures(self, passage: str) -> dict[str, float]:
        """What a passage shares with the answers, 0 to 1, and of how many records."""
        shares = sorted(self.leaks[passage])
        return {
            "measured": len(shares),
            "empty": self.empty[passage],
            "above_0": sum(share > 0 for share in shares) / max(len(shares), 1),
            "median": percentile(shares, 0.5),
            "p95": percentile(shares, 0.95),
            "maximum": percentile(shares, 1),
        }


class Audit:
    """Everything that is found in files that are read one after the other; all is counted.

    What grows with the number of records: id and place of each (about 0.5 KB), a few numbers, and the questions until
    they have `DUPLICATE_CHARACTERS`.

    Args:
        measure: how lengths are taken.
        max_length: the longest example, in tokens; `None` where there is no bound.
        purpose: by the rules of training or of generation.
        keep: findings kept of each kind; `None` for all.
    """

    def __init__(self, measure: Measure, max_length: int | None, purpose: Purpose, keep: int | None) -> None:
        self.measure = measure
        self.max_length = max_length
        self.purpose: Purpose = purpose
        self.keep = keep
        self.files: list[Counts] = []
        self.total = Counts("all files")
        self.errors = Errors[str](None if keep is None else MAX_FAULTS)
        self.checked = self.usable = 0
        """Records with a reference, which checks can look at, and those that pass every hard check."""
        self.applied: Counter[str] = Counter()
        examples = None if keep is None else EXAMPLES_SHOWN
        self.failures = {check.name: Errors[Finding](examples) for check in CHECKS}
        self.too_long, self.leaking, self.shared_ids, self.alike = (Errors[Finding](keep) for _ in range(4))
        self.across = 0
        """Pairs of near-duplicates that lie in two files."""
        self.left_out = ""
        """What was not searched for near-duplicates, and why."""
        self.marked = 0
        """Records marked `leaks: true`."""
        self._places: list[Finding] = []
        self._starts: list[int] = []
        self._numbers: dict[str, int] = {}
        self._questions: list[str] = []
        self._characters = 0

    @property
    def rows(self) -> list[Counts]:
        """The counts of each file, and of all where there are several."""
        return self.files if len(self.files) == 1 else [*self.files, self.total]

    def read(self, name: str, progress: Callable[[int], None]) -> None:
        """Check a file; one that cannot be read, or not to its end, says so in its counts.

        `progress` is called with the number of records so far.
        """
        file = Counts(name)
        self.files.append(file)
        self._starts.append(len(self._places))
        try:
            for position, raw in enumerate(read_raw(name)):
                record, errors = parse_record(raw, position, self.purpose)
                if record is not None:
                    errors += self._add_identity(raw.where, record.id)
                    self._add_record(file, self._places[-1], record)
                file.errors += len(errors)
                self.errors.add(*errors)
                progress(len(self._places))
        except UserError as error:
            file.unreadable = str(error)
        if not (file.records or file.errors or file.unreadable):
            file.errors += 1
            self.errors.add(f"{name}: holds no records; {FORMATS}")
        self.total.errors += file.errors

    def search(self) -> None:
        """Find the near-duplicates among all records; a pair across files comes first: the test measures memory."""
        pairs, self.left_out = find_duplicates(self._questions)
        found: list[Finding] = []
        for first, second, similarity in pairs:
            across = bisect_right(self._starts, first) != bisect_right(self._starts, second)
            ends = {"first": self._places[first], "second": self._places[second]}
            found.append({**ends, "similarity": round(similarity, 4), "across": across})
            self.across += across
        self.alike.add(*sorted(found, key=lambda pair: (not pair["across"], -pair["similarity"])))

    def _add_identity(self, where: str, identity: str) -> list[str]:
        number = len(self._places)
        earlier = self._numbers.setdefault(identity, number)
        self._places.append({"where": where, "id": identity})
        if earlier == number:
            return []
        first = self._places[earlier]["where"]
        if earlier >= self._starts[-1]:
            return [f"{where} (id {identity}): the id is also that of {first}; give it another"]
        self.shared_ids.add({"id": identity, "where": [first, where]})
        return []

    def _add_record(self, file: Counts, place: Finding, record: Record) -> None:
        item = Item.from_record(record)
        key, length = key_of(item), self.measure.length(record)
        over = self.max_length is not None and length > self.max_length
        # Fewer are too long in tokens, and which ones is not known.
        if over and self.measure.unit == "tokens":
            self.too_long.add({**place, "length": length})
        if self._characters <= DUPLICATE_CHARACTERS:
            self._characters += len(record.question)
            self._questions.append(record.question)
            file.items.append(item)
        for counts in (file, self.total):
            counts.records += 1
            counts.kinds[record.subject, record.type] += 1
            counts.lengths.append(length)
            counts.over += over
            counts.keys[key] += 1
        if record.has_reference:
            results = run_checks(item)
            self.checked += 1
            self.usable += usable(results)
            for one in results:
                self.applied[one.name] += one.outcome is not Outcome.NOT_APPLICABLE
                if one.outcome is Outcome.FAIL:
                    self.failures[one.name].add({**place, "evidence": one.evidence})
        self._add_leak(file, place, record)

    def _add_leak(self, file: Counts, place: Finding, record: Record) -> None:
        passages = {TEXTBOOK: record.textbook, OUTSIDE: record.outside}
        measurable = bool(answer_texts(record))
        for name, passage in passages.items():
            shares = [leak_share(record, passage)] if passage and measurable else []
            for counts in (file, self.total):
                counts.empty[name] += not passage
                counts.leaks[name].extend(shares)
        # A CSV has only texts.
        if str(record.extra.get(LEAKS, "")).lower() == "true":
            self.marked += 1
        elif measurable and (share := leak_share(record, *filter(None, passages.values()))) > LEAK_BOUND:
            self.leaking.add({**place, "share": round(share, 4)})


# --- for a training -------------------------------------------------------------------------------------------------


def summary_line(records: Sequence[Record], file: str = "FILE") -> str:
    """One line on valid records: hard checks and near-duplicates, of the first `SUMMARY_RECORDS` (about a second).

    Args:
        records: what is about to be trained on.
        file: what the command at the end of the line names.
    """
    some = records[:SUMMARY_RECORDS]
    hard = [check for check in CHECKS if check.hard]
    failed = [
        [check.name for check in hard if check.function(item).outcome is Outcome.FAIL]
        for item in map(Item.from_record, some)
    ]
    unusable = sum(map(bool, failed))
    pairs = len(find_duplicates([record.question for record in some]).pairs)
    whole = f"{len(some)} records" if len(some) == len(records) else f"the first {len(some)} of {len(records)} records"
    if not unusable and not pairs:
        return f"checks    {whole} pass every hard check; no near-duplicates"
    ranks = Counter(name for names in failed for name in names)
    ranking = ", ".join(f"{name} {count}" for name, count in ranks.most_common())
    parts = [f"{unusable} of {whole} fail a hard check" + (f" ({ranking})" if ranking else "")]
    parts.append(f"{pairs} near-duplicate pair{'' if pairs == 1 else 's'}" if pairs else "no near-duplicates")
    return f"checks    {'; '.join(parts)}; python -m gaokao_data.check {file} shows them"


def split(records: Sequence[Record], share: float, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Cut a set into train and test, each in the order given.

    The test has its share of every subject and type. What goes where depends on seed and contents only, not on ids or
    order. Near-duplicate questions, and what is like one of them, stay on one side: a test would measure memory.

    Args:
        records: the set.
        share: of the records that go to the test, above 0 and below 1.
        seed: of the choice.

    Raises:
        UserError: one side would be empty, or there are too many questions or near-duplicates to keep together.
    """
    pairs, left_out = find_duplicates([record.question for record in records])
    if left_out:
        raise UserError(f"near-duplicate questions cannot be kept on one side of the split: {left_out}")
    groups = {number: [number] for number in range(len(records))}
    for first, second, _ in pairs:
        if groups[first] is not groups[second]:
            small, large = sorted((groups[first], groups[second]), key=len)
            large += small
            groups.update(dict.fromkeys(small, large))

    def rank(number: int) -> tuple[str, str, str]:
        record = records[number]
        content = {key: value for key, value in record.to_dict().items() if key != "id"}
        text = json.dumps([seed, content], ensure_ascii=False, sort_keys=True)
        return record.subject, record.type, hashlib.sha256(text.encode()).hexdigest()

    # By subject and type, and at random within: a group is taken where the test lacks at least half of its size.
    test: set[int] = set()
    seen = 0
    for group in sorted(
        {id(group): group for group in groups.values()}.values(), key=lambda group: min(map(rank, group))
    ):
        seen += len(group)
        if share * seen - len(test) >= len(group) / 2:
            test.update(group)
    if not 0 < len(test) < len(records):
        raise UserError(f"a share of {share} of {len(records)} records leaves one side empty; take another share")
    train, held = ([record for n, record in enumerate(records) if (n in test) is side] for side in (False, True))
    return train, held
