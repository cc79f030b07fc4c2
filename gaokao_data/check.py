"""Check data files before they train anything: faults, counts, lengths, calibrated checks, duplicates, leaks.

    python -m gaokao_data.check gaokao_data/train.json gaokao_data/test.json
    python -m gaokao_data.check my_items.jsonl --verbose          # every finding instead of the first few
    python -m gaokao_data.check my_items.jsonl --json > check.json
    python -m gaokao_data.check my_items.jsonl --tokens DIR       # lengths by the tokenizer in this folder

FILE is whatever data.train may name: JSON, JSON Lines, CSV, Parquet, a folder of them, or hub:owner/name.
Files are checked as training data: every record needs question, answer and 解析. Lengths are those of a whole training
example, prompt and answer, in tokens where the tokenizer of config.yaml is on this machine already (nothing is
downloaded or built), else in characters.

Exit code 0: no faults, whatever the warnings. 1: faults, which a training would refuse: a bad record, an id twice in a
file, a file without records. 2: a file that cannot be read, or a wrong command line. Everything else is a warning, a
failed hard check too: it makes a record unusable as a question, but checks judge by rules, and the owner of the data
decides.

Memory. JSON Lines are streamed. What grows with the number of records: id and place of each (about 0.3 KB), a few
numbers, and the texts of the questions with their n-gram index for the near-duplicate search, which is therefore left
out above DUPLICATE_CHARACTERS. A JSON list is read whole; --verbose and --json keep every finding.
"""

import argparse
import json
import math
import os
import sys
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from gaokao.audit import BIAS_LEAST, check_key_bias, key_bias
from gaokao.checks import CHECKS, Item, Outcome, Result, run_checks, usable
from gaokao.config import BUILTIN_TINY, Config
from gaokao.errors import MAX_FAULTS, UserError, elsewhere, run_script
from gaokao.prompts import format_chat
from gaokao.records import OUTSIDE, SUBJECTS, TEXTBOOK, TYPES, Record, parse_record
from gaokao.settings import DEFAULT_CONFIG, Resolved, load_config
from gaokao.sources import FORMATS, HUB, Raw, read_raw
from gaokao.text import (
    DUPLICATE_THRESHOLD,
    LEAK_BOUND,
    Pair,
    answer_texts,
    columns,
    leak_share,
    near_duplicates,
    normalize,
    parse_key,
)
from gaokao_data.write_passages import LEAKS

FINDINGS_SHOWN, EXAMPLES_SHOWN = 20, 3
EVIDENCE_SHOWN = 160
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


# --- lengths --------------------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """How long a training example is: the unit, why this unit, and the length of a record in it."""

    unit: str
    reason: str
    length: Callable[[Record], int]


def characters(record: Record) -> int:
    """Characters of a training example: the texts of prompt and answer without the marks of the chat template."""
    example = format_chat(record)
    return sum(len(message["content"]) for message in (*example["prompt"], *example["completion"]))


def choose_measure(wanted: str, resolved: Resolved | None) -> Measure:
    """Tokens where a tokenizer is at hand, else characters, with the reason.

    Args:
        wanted: `auto`, `none` (characters), or a tokenizer's folder.
        resolved: the configuration that names the base model; `None` where there is none.

    Raises:
        UserError: a folder was asked for by name and holds no usable tokenizer.
    """
    if wanted == "none":
        return Measure("characters", "--tokens none", characters)
    if wanted != "auto":
        if not os.path.exists(Path(wanted) / "tokenizer.json"):
            raise UserError(f"--tokens {wanted}: holds no tokenizer.json; name a Transformers folder, auto or none")
        return _by_tokens(Path(wanted))
    if resolved is None:
        return Measure("characters", f"there is no {DEFAULT_CONFIG} here{elsewhere(DEFAULT_CONFIG)}", characters)
    model = resolved.config.model
    folder = find_tokenizer(model.base, model.revision, Path(resolved.config.output.dir))
    if folder is None:
        return Measure("characters", f"the tokenizer of {model.base} is not on this machine yet", characters)
    try:
        return _by_tokens(folder)
    except UserError as error:
        return Measure("characters", str(error), characters)


def find_tokenizer(base: str, revision: str | None, tiny_folder: Path) -> Path | None:
    """The folder of a base model's tokenizer, if it is on this machine; never downloads or builds one."""
    if base == BUILTIN_TINY:
        built = [file.parent for file in tiny_folder.glob("tiny-*/tokenizer.json") if ".part" not in file.parent.name]
        return max(built, key=lambda folder: folder.stat().st_mtime, default=None)
    folder = Path(os.path.expanduser(base))
    if os.path.exists(folder / "tokenizer.json"):
        return folder
    if os.path.isdir(folder) or base.count("/") != 1 or base.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "tokenizer.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _by_tokens(folder: Path) -> Measure:
    # The class that the training uses: others read the same folder with a slightly different pre-tokenizer. It brings
    # torch along, which is why nothing else here does.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the tokenizer in {folder} cannot be read ({reason})") from None
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {folder} has no chat template; use that of an Instruct model")

    def length(record: Record) -> int:
        example = format_chat(record)
        messages = [*example["prompt"], *example["completion"]]
        return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])

    return Measure("tokens", f"tokenizer of {folder}", length)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; 0 where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0


# --- what is counted ------------------------------------------------------------------------------------------------


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
    for result in results:
        counts = report.checks[result.name]
        counts.applied += result.outcome is not Outcome.NOT_APPLICABLE
        if result.outcome is Outcome.FAIL:
            counts.failures.add({**place, "evidence": result.evidence})

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


# --- near-duplicates ------------------------------------------------------------------------------------------------


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


# --- keys -----------------------------------------------------------------------------------------------------------


def _key_of(item: Item) -> tuple[str, bool] | None:
    bias = key_bias([item])
    return (parse_key(item.answer[0]), bias.longest > 0) if bias.total else None


def _stand_ins(keys: Counter[tuple[str, bool]]) -> Iterator[Item]:
    """Items that the key-bias check cannot tell from the real ones, whose texts need not be kept for it then."""
    for letter, longest in keys.elements():
        letters = "ABCDEFGH"[: max(4, ord(letter) - ord("A") + 1)]
        options = [f"{option}．{'正正' if longest and option == letter else '正'}" for option in letters]
        yield Item("\n".join(options), (letter,), "", "", "单选题")


# --- the text -------------------------------------------------------------------------------------------------------


def report_text(report: Report) -> str:
    """The whole report for a reader; faults come first."""
    sections = [
        _faults_text(report),
        _records_text(report),
        _lengths_text(report),
        _checks_text(report),
        _duplicates_text(report),
        _keys_text(report),
        _passages_text(report),
        _result_text(report),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections)


def _faults_text(report: Report) -> list[str]:
    lines = [f"unreadable  {file.unreadable}" for file in report.files if file.unreadable]
    lines += [f"            {file.records} records before it were checked" for file in report.files if _partly(file)]
    if not report.faults.count:
        return [*lines, "faults    none"]
    lines.append(f"faults    {report.faults.count} in the records; they train only when all are mended:")
    lines += [f"  - {fault}" for fault in report.faults.entries]
    return lines + _rest(report.faults)


def _partly(file: FileCounts) -> bool:
    return bool(file.unreadable and file.records)


def _records_text(report: Report) -> list[str]:
    total = report.total
    lines = [f"records   {total.records:,}, by subject and type"]
    lines += [f"          {file.records:,} in {file.name}" for file in report.files if len(report.files) > 1]
    lines.append(" " * 10 + "".join(_left(kind, 8) for kind in (*TYPES, "all")))
    for subject in (*SUBJECTS, "all"):
        cells = [
            sum(count for (a, b), count in total.kinds.items() if subject in (a, "all") and kind in (b, "all"))
            for kind in (*TYPES, "all")
        ]
        if cells[-1]:
            lines.append("  " + _right(subject, 8) + "".join(_left(f"{cell:,}" if cell else "-", 8) for cell in cells))
    return lines


def _lengths_text(report: Report) -> list[str]:
    unit, limit = report.measure.unit, report.max_length
    lines = [f"lengths   {unit} of a training example, prompt and answer ({report.measure.reason})"]
    if unit == "characters":
        lines.append("          train.max_length is in tokens; one of Qwen2.5 is about 1.5 characters of such a record")
    names = [f"{share:.0%}" for share in PERCENTILES]
    lines.append("  " + "".join(_left(name, 8) for name in ("least", *names, "most")) + f"  over {limit}")
    for file in report.rows:
        ordered = sorted(file.lengths)
        cells = [percentile(ordered, share) for share in (0, *PERCENTILES, 1)]
        over = _left(f"{file.over:,}", len(f"over {limit}") + 2)
        lines.append("  " + "".join(_left(f"{cell:,}", 8) for cell in cells) + f"{over}  {file.name}")
    lines += [
        f"  over {limit}: {entry['where']} (id {entry['id']}): {entry['length']:,}" for entry in report.over.entries
    ]
    return lines + _rest(report.over)


def _checks_text(report: Report) -> list[str]:
    records = report.total.records
    unusable = f"; {report.unusable:,} are unusable" if report.unusable else ""
    lines = [f"checks    {records - report.unusable:,} of {records:,} records pass every hard check{unusable}"]
    for counts in _ranked(report):
        rank = "hard" if counts.hard else "soft"
        lines.append(
            f"  {rank}  {counts.name}: {counts.failures.count:,} of {counts.applied:,} that it applies to fail"
        )
        for entry in counts.failures.entries:
            lines.append(f"        {entry['where']} (id {entry['id']}): {_short(entry['evidence'], report)}")
        lines += _rest(counts.failures, "      ")
    passed = [counts.name for counts in report.checks.values() if not counts.failures.count]
    return [*lines, f"  nothing found by: {', '.join(passed)}"] if passed else lines


def _ranked(report: Report) -> list[CheckCounts]:
    """The checks that found something, by how many records fail."""
    found = [counts for counts in report.checks.values() if counts.failures.count]
    return sorted(found, key=lambda counts: -counts.failures.count)


def _duplicates_text(report: Report) -> list[str]:
    pairs, left_out = report.duplicates
    across = sum(map(report.across, pairs))
    lines = [
        f"alike     {len(pairs) - across:,} near-duplicate pairs within a file, {across:,} across files "
        f"(5-gram Jaccard of the questions at least {DUPLICATE_THRESHOLD})"
    ]
    lines += [f"          {left_out}"] if left_out else []
    shown = Capped[Pair](report.keep)
    # A pair across files means that the test measures memory: it comes first.
    for pair in sorted(pairs, key=lambda pair: (not report.across(pair), -pair.similarity)):
        shown.add(pair)
    for pair in shown.entries:
        (where, identity), (other_where, other) = report.places[pair.first], report.places[pair.second]
        lines.append(f"  {pair.similarity:.2f}  {where} (id {identity}) and {other_where} (id {other})")
    lines += _rest(shown)
    if report.shared_ids.count:
        lines.append(f"ids       {report.shared_ids.count:,} stand in two files; read together they would be faults:")
        lines += [f"  {entry['id']}: {' and '.join(entry['where'])}" for entry in report.shared_ids.entries]
        lines += _rest(report.shared_ids)
    return lines


def _keys_text(report: Report) -> list[str]:
    lines = [
        "keys      single-answer choice items: how often each letter is the key, and the key strictly the longest option",
        "  " + "".join(_left(name, 8) for name in ("items", *"ABCD")) + "   longest",
    ]
    for file in report.rows:
        count, shares, longest = key_bias(_stand_ins(file.keys))
        cells = [f"{count:,}", *(f"{shares[letter]:.3f}" for letter in "ABCD")]
        verdict = _key_verdict(check_key_bias(_stand_ins(file.keys)))
        lines.append("  " + "".join(_left(cell, 8) for cell in cells) + f"{longest:10.3f}  {file.name}: {verdict}")
    return lines


def _key_verdict(result: Result) -> str:
    if result.outcome is Outcome.NOT_APPLICABLE:
        return f"too few to judge (under {BIAS_LEAST})"
    return f"biased: {result.evidence}" if result.outcome is Outcome.FAIL else "no more than chance explains"


def _passages_text(report: Report) -> list[str]:
    lines = [
        "passages  share of the answer's 8-grams that a passage contains, 0 to 1",
        "  " + " " * 8 + "".join(_left(name, 9) for name in ("measured", "empty", "above 0", "median", "95%", "most")),
    ]
    for file in report.rows:
        for name in PASSAGES:
            figures = _leak_figures(file, name)
            cells = [f"{figures['measured']:,}", f"{figures['empty']:,}", f"{figures['above_0']:.1%}"]
            cells += [f"{figures[key]:.3f}" for key in ("median", "p95", "most")]
            lines.append(f"  {_right(name, 8)}" + "".join(_left(cell, 9) for cell in cells) + f"  {file.name}")
    lines.append(
        f"  {report.leaking.count:,} records leak: their passages together contain more than {LEAK_BOUND:.0%} of the answer"
        + (f"; {report.marked:,} more are marked leaks: true" if report.marked else "")
    )
    lines += [
        f"  leaks: {entry['where']} (id {entry['id']}): {entry['share']:.0%} of the answer"
        for entry in report.leaking.entries
    ]
    return lines + _rest(report.leaking)


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


def _result_text(report: Report) -> list[str]:
    unreadable = sum(bool(file.unreadable) for file in report.files)
    parts = [f"{unreadable} file(s) cannot be read"] if unreadable else []
    parts.append(f"{report.faults.count:,} faults" if report.faults.count else "no faults")
    parts.append("warnings: " + ", ".join(warnings(report)) if warnings(report) else "no warnings")
    return [f"result    {'; '.join(parts)}"]


def _rest(capped: Capped[Any], indent: str = "") -> list[str]:
    rest = capped.count - len(capped.entries)
    return [f"{indent}  … and {rest:,} more (--verbose lists all)"] if rest else []


def _short(text: str, report: Report) -> str:
    return text if report.keep is None or len(text) <= EVIDENCE_SHOWN else text[:EVIDENCE_SHOWN] + "…"


def _left(text: str, width: int) -> str:
    return " " * (width - columns(text)) + text


def _right(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


# --- for machines ---------------------------------------------------------------------------------------------------


def report_json(report: Report) -> dict[str, Any]:
    """The whole report as plain values; shares are 0 to 1, lengths in `lengths.unit`."""
    pairs, left_out = report.duplicates
    return {
        "exit_code": report.exit_code,
        "faults": {"count": report.faults.count, "entries": report.faults.entries},
        "warnings": warnings(report),
        "files": [_file_json(file) for file in report.files],
        "all": _file_json(report.total),
        "lengths": {
            "unit": report.measure.unit,
            "reason": report.measure.reason,
            "max_length": report.max_length,
            "over": report.over.entries,
        },
        "usable": report.total.records - report.unusable,
        "checks": [
            {
                "name": counts.name,
                "hard": counts.hard,
                "applied": counts.applied,
                "failed": counts.failures.count,
                "failures": counts.failures.entries,
            }
            for counts in report.checks.values()
        ],
        "near_duplicates": {
            "threshold": DUPLICATE_THRESHOLD,
            "left_out": left_out,
            "pairs": [_pair_json(report, pair) for pair in pairs],
        },
        "shared_ids": report.shared_ids.entries,
        "leaks": {"bound": LEAK_BOUND, "marked": report.marked, "entries": report.leaking.entries},
    }


def _file_json(file: FileCounts) -> dict[str, Any]:
    ordered = sorted(file.lengths)
    bias = check_key_bias(_stand_ins(file.keys))
    count, shares, longest = key_bias(_stand_ins(file.keys))
    kinds: dict[str, dict[str, int]] = {}
    for (subject, kind), number in sorted(file.kinds.items()):
        kinds.setdefault(subject, {})[kind] = number
    return {
        "file": file.name,
        "unreadable": file.unreadable,
        "records": file.records,
        "faults": file.faults,
        "subjects": kinds,
        "lengths": {
            "least": percentile(ordered, 0),
            **{f"p{share * 100:.0f}": percentile(ordered, share) for share in PERCENTILES},
            "most": percentile(ordered, 1),
            "over": file.over,
        },
        "keys": {
            "items": count,
            "shares": shares,
            "longest": longest,
            "outcome": bias.outcome.value,
            "evidence": bias.evidence,
        },
        "passages": {name: _leak_figures(file, name) for name in PASSAGES},
    }


def _pair_json(report: Report, pair: Pair) -> dict[str, Any]:
    ends = [dict(zip(("where", "id"), report.places[number], strict=True)) for number in (pair.first, pair.second)]
    return {
        "first": ends[0],
        "second": ends[1],
        "similarity": round(pair.similarity, 4),
        "across": report.across(pair),
    }


# --- for the training script ----------------------------------------------------------------------------------------


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


# --- the command ----------------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.check", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add: Callable[..., Any] = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="data file; several are also compared with each other")
    add("--json", action="store_true", help="print one JSON object with every finding, and nothing else")
    add("--verbose", action="store_true", help="list every finding instead of the first few")
    add("--config", metavar="FILE", type=Path, help=f"names base model and train.max_length; default: {DEFAULT_CONFIG}")
    add("--tokens", metavar="auto|none|DIR", default="auto", help="tokenizer of the configuration, none, or a folder's")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Check the files, print the report, exit with its code."""
    chosen = parse_arguments(arguments)
    resolved = None
    if chosen.config or DEFAULT_CONFIG.exists():
        resolved = load_config(["--config", str(chosen.config or DEFAULT_CONFIG)], "python -m gaokao_data.check")
    config = resolved.config if resolved else Config()
    names = list(dict.fromkeys(chosen.files))
    # A wrong name should be answered before a tokenizer is loaded.
    if all(missing := [_missing(name) for name in names]):
        raise UserError("\n".join(missing))
    measure = choose_measure(chosen.tokens, resolved)
    keep = None if chosen.verbose or chosen.json else FINDINGS_SHOWN
    report = check_files(names, measure, config.train.max_length, keep)
    print(json.dumps(report_json(report), ensure_ascii=False) if chosen.json else report_text(report))
    sys.exit(report.exit_code)


if __name__ == "__main__":
    run_script(main)
