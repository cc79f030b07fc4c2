"""What is said of a set of records: near-duplicates, key bias."""

import math
import os
import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from gaokao.checks import CHECKS, Item, Outcome, Result, not_applicable, result, run_checks, usable
from gaokao.errors import MAX_FAULTS, UserError, elsewhere
from gaokao.prompts import format_chat
from gaokao.records import LEAKS, OUTSIDE, TEXTBOOK, Record, parse_record
from gaokao.sources import FORMATS, HUB, Raw, read_raw
from gaokao.text import (
    LEAK_BOUND,
    Pair,
    answer_texts,
    leak_share,
    near_duplicates,
    near_duplicates_across,
    normalize,
    parse_key,
    shorten,
    split_options,
)

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


FINDINGS_SHOWN, EXAMPLES_SHOWN = 20, 3


# About 30,000 questions; the index was measured at 55 bytes per character of question, so half a gigabyte at most.
DUPLICATE_CHARACTERS = 8_000_000


# Where so many pairs are found, the file is made from a few templates and their number grows with its square.
# Ten times the questions make a hundred times the pairs: half a million at most.
MANY_PAIRS = 5_000


FIRST_SEARCH, WIDER = 250, 10


# What the training script checks by itself: it should start within seconds.
SUMMARY_RECORDS = 2_000


PERCENTILES = (0.05, 0.5, 0.9, 0.95, 0.99)


PASSAGES = (TEXTBOOK, OUTSIDE)


T = TypeVar("T")


Finding = dict[str, Any]


@dataclass
class Capped(Generic[T]):
    """All are counted, the first `limit` are kept; `None` keeps all."""

    limit: int | None
    count: int = 0
    entries: list[T] = field(default_factory=list)

    def add(self, entry: T) -> None:
        """Count an entry, and keep it if there is room."""
        self.count += 1
        if self.limit is None or len(self.entries) < self.limit:
            self.entries.append(entry)


class Measure(NamedTuple):
    """How long a training example is: the unit, why this unit, and the length of a record in it."""

    unit: str
    reason: str
    length: Callable[[Record], int]


def characters(record: Record) -> int:
    """Characters of a training example: the texts of prompt and answer without the marks of the chat template."""
    example = format_chat(record)
    return sum(len(message["content"]) for message in (*example["prompt"], *example["completion"]))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; 0 where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


@dataclass
class FileCounts:
    """What is counted in one file, or in all of them."""

    name: str
    records: int = 0
    faults: int = 0
    unreadable: str = ""
    """Why the file could not be read, or not to its end."""
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    over: int = 0
    keys: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Single-answer choice items by key letter and whether the key is strictly the longest option."""
    empty: Counter[str] = field(default_factory=Counter)
    """Records without the passage."""
    leaks: "dict[str, array[float]]" = field(default_factory=lambda: {name: array("d") for name in PASSAGES})
    """Share of the answer in the passage, for each record with both passage and measurable answer."""

    def add(self, other: "FileCounts") -> None:
        """Add the counts of another file."""
        self.records += other.records
        self.faults += other.faults
        self.over += other.over
        self.kinds += other.kinds
        self.lengths += other.lengths
        self.keys += other.keys
        self.empty += other.empty
        for name in PASSAGES:
            self.leaks[name] += other.leaks[name]


@dataclass
class CheckCounts:
    """How one check went over all records."""

    name: str
    hard: bool
    failures: Capped[Finding]
    applied: int = 0


class Duplicates(NamedTuple):
    """Near-duplicate questions by position; `left_out` says which records were not searched and why."""

    pairs: list[Pair]
    left_out: str = ""


@dataclass
class Report:
    """Everything that was found; `keep` is how many findings of a kind are kept (`None`: all)."""

    measure: Measure
    max_length: int
    keep: int | None
    files: list[FileCounts] = field(default_factory=list)
    unusable: int = 0
    marked: int = 0
    """Records marked `leaks: true`."""
    duplicates: Duplicates = field(default_factory=lambda: Duplicates([]))

    def __post_init__(self) -> None:
        examples = None if self.keep is None else EXAMPLES_SHOWN
        self.faults: Capped[str] = Capped(None if self.keep is None else MAX_FAULTS)
        self.checks = {check.name: CheckCounts(check.name, check.hard, Capped(examples)) for check in CHECKS}
        self.over: Capped[Finding] = Capped(self.keep)
        self.leaking: Capped[Finding] = Capped(self.keep)
        self.shared_ids: Capped[Finding] = Capped(self.keep)
        self.places: list[tuple[str, str]] = []
        """Where each record stands, and its id."""
        self.starts: list[int] = []
        """Number of the first record of each file."""

    @property
    def rows(self) -> list[FileCounts]:
        """The counts of each file, and of all where there are several."""
        return self.files if len(self.files) == 1 else [*self.files, self.total]

    @property
    def total(self) -> FileCounts:
        """The counts of all files together."""
        total = FileCounts("all files")
        for file in self.files:
            total.add(file)
        return total

    @property
    def exit_code(self) -> int:
        """2 where a file could not be read, 1 where records are faulty, else 0."""
        if any(file.unreadable for file in self.files):
            return 2
        return 1 if self.faults.count else 0

    def file_of(self, number: int) -> int:
        """The file that a record stands in."""
        return bisect_right(self.starts, number) - 1

    def across(self, pair: Pair) -> bool:
        """Whether a pair lies in two files."""
        return self.file_of(pair.first) != self.file_of(pair.second)


def check_files(names: Sequence[str], measure: Measure, max_length: int, keep: int | None = FINDINGS_SHOWN) -> Report:
    """Read and check the files one after the other; one that cannot be read does not stop the others.

    Args:
        names: the data files.
        measure: how lengths are taken.
        max_length: the longest training example in tokens.
        keep: findings kept of each kind, `None` for all; everything is counted.

    Raises:
        UserError: none of the files can be read.
    """
    report = Report(measure, max_length, keep)
    seen: dict[str, int] = {}
    questions: Questions = Questions()
    for name in names:
        file = FileCounts(name)
        report.files.append(file)
        report.starts.append(len(report.places))
        file.unreadable = _missing(name)
        if file.unreadable:
            continue
        try:
            for position, raw in enumerate(read_raw(name)):
                _add_entry(report, file, raw, position, seen, questions)
                _show_progress(len(report.places))
        except UserError as error:
            file.unreadable = str(error)
        if not (file.records or file.faults or file.unreadable):
            file.faults += 1
            report.faults.add(f"{name}: holds no records; {FORMATS}")
    if all(file.unreadable and not file.records and not file.faults for file in report.files):
        raise UserError("\n".join(file.unreadable for file in report.files))
    report.duplicates = questions.search()
    return report


def _missing(name: str) -> str:
    """What is wrong with the name of a file that is not there; empty where it is."""
    there = name.startswith(HUB) or os.path.lexists(name)
    return "" if there else f"{name}: there is no such data file; check the name{elsewhere(name)}"


def _show_progress(count: int) -> None:
    if count % 500 == 0 and sys.stderr.isatty():
        print(f"\r{count:,} records\r", end="", file=sys.stderr, flush=True)


def _add_entry(
    report: Report, file: FileCounts, raw: Raw, position: int, seen: dict[str, int], questions: "Questions"
) -> None:
    record, faults = parse_record(raw, position, "train")
    if record is not None:
        number = len(report.places)
        earlier = seen.setdefault(record.id, number)
        report.places.append((raw.where, record.id))
        if earlier >= report.starts[-1] and earlier != number:
            first = report.places[earlier][0]
            faults = [f"{raw.where} (id {record.id}): the id is also that of {first}; give it another"]
        elif earlier != number:
            report.shared_ids.add({"id": record.id, "where": [report.places[earlier][0], raw.where]})
        questions.add(record.question)
        _add_record(report, file, raw.where, record)
    for fault in faults:
        file.faults += 1
        report.faults.add(fault)


def _add_record(report: Report, file: FileCounts, where: str, record: Record) -> None:
    place = {"where": where, "id": record.id}
    item = Item.from_record(record)
    file.records += 1
    file.kinds[record.subject, record.type] += 1
    length = report.measure.length(record)
    file.lengths.append(length)
    if length > report.max_length:
        file.over += 1
        # Fewer are too long in tokens, and which ones is not known.
        if report.measure.unit == "tokens":
            report.over.add({**place, "length": length})
    if key := _key_of(item):
        file.keys[key] += 1

    results = run_checks(item)
    report.unusable += not usable(results)
    for one in results:
        counts = report.checks[one.name]
        counts.applied += one.outcome is not Outcome.NOT_APPLICABLE
        if one.outcome is Outcome.FAIL:
            counts.failures.add({**place, "evidence": one.evidence})

    _add_leak(report, file, place, record)


def _add_leak(report: Report, file: FileCounts, place: Finding, record: Record) -> None:
    passages = {TEXTBOOK: record.textbook, OUTSIDE: record.outside}
    measurable = bool(answer_texts(record))
    for name, passage in passages.items():
        if not passage:
            file.empty[name] += 1
        elif measurable:
            file.leaks[name].append(leak_share(record, passage))
    # A CSV has only texts.
    if str(record.extra.get(LEAKS, "")).lower() == "true":
        report.marked += 1
    elif measurable and (share := leak_share(record, *filter(None, passages.values()))) > LEAK_BOUND:
        report.leaking.add({**place, "share": round(share, 4)})


class Questions:
    """The questions seen so far, as `normalize` leaves them; given up above `DUPLICATE_CHARACTERS`."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.characters = 0

    def add(self, question: str) -> None:
        """Keep a question, unless there are too many already."""
        if self.characters > DUPLICATE_CHARACTERS:
            return
        text = normalize(question)
        self.characters += len(text)
        self.texts.append(text)
        if self.characters > DUPLICATE_CHARACTERS:
            self.texts.clear()

    def search(self) -> Duplicates:
        """The near-duplicates among them."""
        if self.characters > DUPLICATE_CHARACTERS:
            limit = f"{DUPLICATE_CHARACTERS:,}"
            return Duplicates([], f"not searched: the questions have more than {limit} characters; check them in parts")
        return find_duplicates(self.texts)


def find_duplicates(texts: Sequence[str]) -> Duplicates:
    """Near-duplicate pairs of normalized texts, in bounded memory.

    A further copy of a text is paired with the first one only. The search widens step by step and ends where it finds
    `MANY_PAIRS`: in a file made from one template every two questions are a pair.
    """
    first: dict[str, int] = {}
    pairs = []
    for number, text in enumerate(texts):
        if text and (earlier := first.setdefault(text, number)) != number:
            pairs.append(Pair(earlier, number, 1.0))
    different = list(first)
    size, found = FIRST_SEARCH, list[Pair]()
    while True:
        found = near_duplicates(different[:size])
        if size >= len(different) or len(found) >= MANY_PAIRS:
            break
        size *= WIDER
    pairs += [Pair(first[different[a]], first[different[b]], similarity) for a, b, similarity in found]
    left_out = ""
    if size < len(different):
        left_out = f"searched among the first {size:,} of {len(different):,} different questions, so many are alike"
    return Duplicates(sorted(pairs), left_out)


def _key_of(item: Item) -> tuple[str, bool] | None:
    bias = key_bias([item])
    return (parse_key(item.answer[0]), bias.longest > 0) if bias.total else None


def _stand_ins(keys: Counter[tuple[str, bool]]) -> Iterator[Item]:
    """Items that the key-bias check cannot tell from the real ones, whose texts need not be kept for it then."""
    for letter, longest in keys.elements():
        letters = "ABCDEFGH"[: max(4, ord(letter) - ord("A") + 1)]
        options = [f"{option}．{'正正' if longest and option == letter else '正'}" for option in letters]
        yield Item("\n".join(options), (letter,), "", "", "单选题")


def _leak_figures(file: FileCounts, passage: str) -> dict[str, float]:
    shares = sorted(file.leaks[passage])
    return {
        "measured": len(shares),
        "empty": file.empty[passage],
        "above_0": sum(share > 0 for share in shares) / max(len(shares), 1),
        "median": percentile(shares, 0.5),
        "p95": percentile(shares, 0.95),
        "most": shares[-1] if shares else 0.0,
    }


def warnings(report: Report) -> list[str]:
    """What an owner should look at, one phrase each."""
    soft = sum(counts.failures.count for counts in report.checks.values() if not counts.hard)
    biased = [file for file in report.rows if check_key_bias(_stand_ins(file.keys)).outcome is Outcome.FAIL]
    found = [
        (report.unusable, "unusable records"),
        (soft, "soft checks failed"),
        (report.over.count, f"records over {report.max_length} tokens, which a training leaves out"),
        (len(report.duplicates.pairs), "near-duplicate pairs"),
        (report.shared_ids.count, "ids in two files"),
        (len(biased), "biased key distributions"),
        (report.leaking.count, "leaking passages"),
    ]
    return [f"{count:,} {what}" for count, what in found if count]


def summary_line(records: Sequence[Record], file: str = "FILE") -> str:
    """One line on valid records: hard checks and near-duplicates, of the first `SUMMARY_RECORDS` (about a second).

    Args:
        records: what is about to be trained on.
        file: what the command at the end of the line names.
    """
    some = records[:SUMMARY_RECORDS]
    failed: Counter[str] = Counter()
    unusable = 0
    hard = [check for check in CHECKS if check.hard]
    for record in some:
        item = Item.from_record(record)
        names = [check.name for check in hard if check.function(item).outcome is Outcome.FAIL]
        failed.update(names)
        unusable += bool(names)
    pairs = len(find_duplicates([normalize(record.question) for record in some]).pairs)
    whole = f"{len(some)} records" if len(some) == len(records) else f"the first {len(some)} of {len(records)} records"
    if not unusable and not pairs:
        return f"checks    {whole} pass every hard check; no near-duplicates"
    ranking = ", ".join(f"{name} {count}" for name, count in failed.most_common())
    parts = [f"{unusable} of {whole} fail a hard check" + (f" ({ranking})" if ranking else "")]
    parts.append(f"{pairs} near-duplicate pair{'' if pairs == 1 else 's'}" if pairs else "no near-duplicates")
    return f"checks    {'; '.join(parts)}; python -m gaokao_data.check {file} shows them"
