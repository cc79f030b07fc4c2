"""Import GAOKAO-Bench, real gaokao questions of 2010-2022 and later yearly releases, as data files of this project.

    git clone https://github.com/OpenLMLab/GAOKAO-Bench
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/gaokao
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/small --types 单选题 --subjects 生物 历史 政治 \
        --max-chars 900 --limit-train 300 --limit-test 48

Writes `train.json` (years before --test-from-year) and `test.json` (the others) into --out. Every item read is either
imported or counted under the reason for which it was left out; the printed table ends with the total. A file of one of
these names that an import did not write, or that was changed since, is never overwritten: the run is refused before any
work. The checksums of what imports wrote there are kept in --out, in the hidden file .imported_sha256.

Passages. The source has none. `--passages related` builds 课本内容 from the 解析 of other items of the same subject and
of strictly earlier years, nearest first; the items of a subject's first year have nothing earlier and get an empty one,
which is counted. `own` takes the item's own 解析 and marks the record `"leaks": true`; `none` leaves 课本内容 empty.
课外内容 is empty in all three.

Exit code 0; 1 where some files could not be read: the others are imported and written, the unreadable ones are listed;
2 for a wrong command line, a folder that is not GAOKAO-Bench, no item left, or a file that is not to be overwritten.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gaokao.checks import CHECKS, Item, Outcome
from gaokao.errors import UserError, elsewhere, faults_text, run_script
from gaokao.records import OUTSIDE, SUBJECTS, TEXTBOOK, Raw, Record, parse_record
from gaokao.runs import make_folder, write_text
from gaokao.text import columns, near_duplicates, normalize, split_options
from gaokao_data.exam_print import (
    DAMAGE,
    break_numbers,
    clean_analysis,
    clean_answer,
    clean_choice,
    clean_set,
    clean_text,
    end_sentence,
    renumber,
    restore_blanks,
    strip_head,
    strip_marks,
    wrap_width,
)
from gaokao_data.related_passages import SEED, SET, Draft, add_own_passages, add_related_passages, measure_leak

KINDS = ("单选题", SET, "多选题", "填空题", "主观题")
TEST_FROM_YEAR = 2021
WRITTEN = ("train.json", "test.json")
CHECKSUMS = ".imported_sha256"
PASSAGE_CHARS = (100, 400)

# Answers of models lie in the same folders as `gemini-pro_2010-2022_...`: a data file begins with its years.
FILE_NAME = re.compile(r"^(?P<years>\d{4}(?:-\d{4})?)_(?P<name>.+)\.json$")
SUBJECT_WORDS = {
    "Biology": "生物",
    "Chemistry": "化学",
    "Chinese": "语文",
    "English": "英语",
    "Geography": "地理",
    "History": "历史",
    "Math": "数学",
    "Physics": "物理",
    "Political": "政治",
    "Politics": "政治",
}
FILL_WORDS = re.compile(r"Fill-in|Fill_in|Cloze|Dictation")
# Words of file names that say nothing more in an id.
SLUG_DROPPED = re.compile(r"\b(?:questions|language|lang|and|the|in|science|test|text)\b")
SLUG_SHORT = {"mcqs": "mcq", "open-ended": "open", "fill-in-the-blank": "fill", "political": "politics"}


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """One data file: what its name says about all of its items."""

    path: Path
    subject: str
    slug: str
    fill: bool


def find_sources(root: Path) -> list[Source]:
    """The data files under `root`, by the layout of their names, in a stable order.

    Raises:
        UserError: there is no such folder, or no file of the layout in it.
    """
    if not os.path.isdir(root):
        raise UserError(
            f"{root}: there is no such folder{elsewhere(root)}; name a copy of "
            "https://github.com/OpenLMLab/GAOKAO-Bench"
        )
    base = root / "Data" if (root / "Data").is_dir() else root
    sources = []
    for path in sorted(base.rglob("*.json")):
        match = FILE_NAME.match(path.name)
        if match is None:
            continue
        name = match["name"]
        subject = next((SUBJECT_WORDS[word] for word in re.split(r"[_-]", name) if word in SUBJECT_WORDS), None)
        if subject is not None:
            sources.append(Source(path, subject, _slug(name), bool(FILL_WORDS.search(name))))
    if not sources:
        raise UserError(
            f"{root}: is not GAOKAO-Bench; looked under {base} for files such as "
            "Objective_Questions/2010-2022_History_MCQs.json or GAOKAO-Bench-2023/2023_Biology_MCQs.json "
            "(years, subject, kind) and found none; name the folder that holds Data/"
        )
    return sources


def _slug(name: str) -> str:
    words = name.lower().replace("_", " ")
    for long, short in SLUG_SHORT.items():
        words = words.replace(long, short)
    return "-".join(SLUG_DROPPED.sub(" ", words).split())


def read_source(path: Path) -> list[Any]:
    """The entries of one data file, unchecked.

    Raises:
        UserError: it cannot be read, is not UTF-8 or JSON, or has not the layout {"example": [...]}.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); download it again") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}, column {error.colno}); is it cut off? download it again"
        ) from None
    except (RecursionError, ValueError):
        # Brackets nested a thousand deep, or a number of thousands of digits.
        raise UserError(f"{path}: is not JSON of items; download it again") from None
    if not isinstance(value, dict) or not isinstance(value.get("example"), list):
        raise UserError(f'{path}: has no list "example" of items; it is not a data file of GAOKAO-Bench')
    return list(value["example"])


# --- items ----------------------------------------------------------------------------------------------------------


MISSING_FIELD = "damaged: year, question or answer missing"


def read_item(value: Any, source: Source, position: int) -> Draft:
    """One entry of a data file, cleaned.

    Raises:
        ValueError: it is not an item; the text is the reason, for the table.
    """
    if not isinstance(value, dict):
        raise ValueError("damaged: not an item")
    try:
        json.dumps([value, source.path.name], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # An escape such as \\ud83d without its other half: no file can hold it.
        raise ValueError("damaged: half of a character") from None
    answer, analysis = value.get("answer"), value.get("analysis")
    texts = [value.get("question"), *(answer if isinstance(answer, list) else [answer])]
    year = re.match(r"\s*((?:19|20)\d\d)", str(value.get("year", "")))
    if year is None or len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(MISSING_FIELD)
    question, *answers = map(str, texts)
    if not isinstance(analysis, str) or not normalize(analysis):
        raise ValueError("no 解析")
    if any(DAMAGE.search(text) for text in (question, *answers, analysis)):
        raise ValueError("damaged: control characters")
    kind = _kind(answers, source)
    # A short field shows too little of its layout: then the whole item's counts.
    common = wrap_width("\n".join([question, analysis, *answers]))
    width, width_analysis, *width_answers = (
        wrap_width(text) if text.count("\n") > 5 else common for text in (question, analysis, *answers)
    )
    if kind in ("填空题", "主观题"):
        question = restore_blanks(question, "".join([analysis, *answers]), kind)
        cleaned = [clean_answer(text, at, analysis) for text, at in zip(answers, width_answers, strict=True)]
    else:
        cleaned = [text.strip() for text in answers]
    first = 0
    if kind == SET:
        stem, first = clean_set(question, len(answers), width)
    else:
        stem = clean_choice(question, width) if kind in ("单选题", "多选题") else clean_text(question, width)
    several = kind not in ("单选题", "多选题")
    explained = clean_analysis(analysis, width_analysis, several)
    explained = end_sentence(explained)
    if not explained or not all(cleaned):
        raise ValueError(MISSING_FIELD)
    index = value.get("index")
    number = index if isinstance(index, int) and not isinstance(index, bool) else position
    return Draft(
        id=f"{year[1]}-{source.slug}-{number:03d}",
        subject=source.subject,
        kind=kind,
        year=int(year[1]),
        category=str(value.get("category", "")).strip().strip("（）()"),
        source=source.path.name,
        question=break_numbers(strip_marks(strip_head(stem))) if kind == "主观题" else strip_marks(strip_head(stem)),
        answer=cleaned,
        analysis=renumber(explained, first, len(answers)) if first else explained,
    )


def _kind(letters: Sequence[str], source: Source) -> str:
    if all(re.fullmatch(r"\s*[A-G]{1,5}\s*", text) for text in letters):
        if len(letters) > 1:
            return SET
        return "单选题" if len(letters[0].strip()) == 1 else "多选题"
    return "填空题" if source.fill else "主观题"


def to_record(draft: Draft, passages: str) -> Record:
    """The record of a draft, in the canonical form of the record contract.

    Raises:
        ValueError: the record contract rejects it.
    """
    row: dict[str, Any] = {
        "id": draft.id,
        "subject": draft.subject,
        "type": draft.type,
        TEXTBOOK: draft.passage,
        OUTSIDE: "",
        "question": draft.question,
        "answer": draft.answer,
        "analysis": draft.analysis,
        "year": draft.year,
        "category": draft.category,
        "source": draft.source,
        "passage_source": {"mode": passages, "items": draft.passage_ids} if draft.passage_ids else {"mode": passages},
    }
    if passages == "own" and draft.passage:
        row["leaks"] = True
    record, faults = parse_record(Raw(draft.id, row), 0, "train")
    if record is None:
        raise ValueError("; ".join(faults))
    return record


# --- the import -----------------------------------------------------------------------------------------------------


def drop_duplicates(drafts: list[Draft]) -> tuple[list[Draft], int]:
    """Keep the first of each group of near-duplicates, by year and then in the order given."""
    drafts = sorted(drafts, key=lambda draft: draft.year)
    twins: dict[int, list[int]] = defaultdict(list)
    for pair in near_duplicates([draft.question for draft in drafts]):
        twins[pair.second].append(pair.first)
    kept: set[int] = set()
    for number in range(len(drafts)):
        if not any(other in kept for other in twins[number]):
            kept.add(number)
    return [drafts[number] for number in sorted(kept)], len(drafts) - len(kept)


def spread(drafts: list[Draft], limit: int) -> list[Draft]:
    """At most `limit` drafts, spread evenly over their subjects; within one, drawn with a fixed seed.

    Drafts with a passage are drawn first. The order of the result is that of `drafts`.
    """
    queues: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        queues[draft.subject].append(draft)
    for subject, queue in queues.items():
        random.Random(f"{SEED} {subject}").shuffle(queue)
        queue.sort(key=lambda draft: not draft.passage)
    chosen: set[str] = set()
    while len(chosen) < limit and any(queues.values()):
        for subject in SUBJECTS:
            if queues[subject] and len(chosen) < limit:
                chosen.add(queues[subject].pop(0).id)
    return [draft for draft in drafts if draft.id in chosen]


# The checks that drop an item, with the row of the table they count under. `latex` is a soft check of generated
# questions, but a model learns broken formulas from the few real items that have them.
REASONS = {
    "picture": "missing picture or table",
    "options": "damaged: options missing, empty or alike",
    "key agrees": "damaged: 解析 concludes another key",
    "verdicts": "damaged: 解析 contradicts the key",
    "truncated": "damaged: 解析 cut off",
    "latex": "damaged: unbalanced LaTeX",
}
DROPPING = tuple(check for check in CHECKS if check.hard or check.name == "latex")


def fault_of(draft: Draft) -> str | None:
    """Why a cleaned item cannot be used, as a row of the table; `None` for a sound one."""
    try:
        item = Item.from_record(to_record(draft, "none"))
    except ValueError:
        return "damaged: not a record"
    options = split_options(draft.question) or {}
    if draft.type in ("单选题", "多选题") and len(draft.answer) == 1 and len(options) > 4:
        return "more than four options"
    for check in DROPPING:
        if check.function(item).outcome is Outcome.FAIL:
            return REASONS.get(check.name, f"damaged: {check.name}")
    return None


@dataclass
class Import:
    """What an import did: the records of both files, and where every item read went."""

    train: list[Draft]
    test: list[Draft]
    dropped: Counter[str]
    items: int
    unreadable: list[str]


def import_bench(
    root: Path,
    *,
    test_from_year: int = TEST_FROM_YEAR,
    passages: str = "related",
    passage_chars: tuple[int, int] = PASSAGE_CHARS,
    kinds: Sequence[str] = KINDS,
    subjects: Sequence[str] = SUBJECTS,
    max_chars: int | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Import:
    """Read, clean, check and split all items under `root`, and give them passages.

    Args:
        root: a copy of GAOKAO-Bench.
        test_from_year: first year of the test items; the split is by year, never at random.
        passages: `related`, `own` or `none`.
        passage_chars: least and greatest length of a passage in characters.
        kinds: names of `KINDS` to keep.
        subjects: subjects to keep.
        max_chars: greatest length of question, answer and analysis together; `None` for any.
        limit_train: number of training items to keep, spread evenly over the subjects; `None` for all.
        limit_test: the same for test items.

    Raises:
        UserError: `root` is not GAOKAO-Bench, or none of its files could be read.
    """
    sources = find_sources(root)
    drafts: list[Draft] = []
    dropped: Counter[str] = Counter()
    unreadable: list[str] = []
    items = 0
    for source in sources:
        try:
            values = read_source(source.path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        items += len(values)
        for position, value in enumerate(values):
            try:
                draft = read_item(value, source, position)
            except ValueError as reason:
                dropped[str(reason)] += 1
                continue
            fault = fault_of(draft)
            if fault is None:
                drafts.append(draft)
            else:
                dropped[fault] += 1
    if len(unreadable) == len(sources):
        raise UserError(faults_text(f"{root}: none of the files could be read:", unreadable))
    drafts, dropped["near-duplicate"] = drop_duplicates(drafts)
    _unique_ids(drafts)
    if passages == "related":
        add_related_passages(drafts, passage_chars)
    elif passages == "own":
        add_own_passages(drafts, passage_chars)

    wanted: list[Draft] = []
    for draft in drafts:
        if draft.kind not in kinds:
            dropped["filtered: --types"] += 1
        elif draft.subject not in subjects:
            dropped["filtered: --subjects"] += 1
        elif max_chars is not None and draft.characters > max_chars:
            dropped["filtered: --max-chars"] += 1
        else:
            wanted.append(draft)
    train = [draft for draft in wanted if draft.year < test_from_year]
    test = [draft for draft in wanted if draft.year >= test_from_year]
    for part, limit, name in ((train, limit_train, "--limit-train"), (test, limit_test, "--limit-test")):
        if limit is not None:
            kept = spread(part, limit)
            dropped[f"filtered: {name}"] += len(part) - len(kept)
            part[:] = kept
    return Import(train, test, dropped, items, unreadable)


def _unique_ids(drafts: list[Draft]) -> None:
    """Number the ids that two files share (a later release that repeats a year)."""
    seen: Counter[str] = Counter()
    for draft in drafts:
        seen[draft.id] += 1
        if seen[draft.id] > 1:
            draft.id += f"-{seen[draft.id]}"


def report(result: Import) -> str:
    """The tables of an import: where every item went, and the imported ones by subject and type."""
    rows = [("imported: train.json", len(result.train)), ("imported: test.json", len(result.test))]
    rows += [
        (reason if ":" in reason else f"dropped: {reason}", n) for reason, n in sorted(result.dropped.items()) if n
    ]
    rows.append(("items read", result.items))
    lines = [f"{name:<44}{number:>7,}" for name, number in rows]
    lines.insert(-1, "-" * 51)
    lines += ["", "imported (train + test)  " + "".join(f"{_pad(kind, 13)}" for kind in (*KINDS, "all"))]
    for subject in (*SUBJECTS, "all"):
        cells = []
        for kind in (*KINDS, "all"):
            counts = [
                sum(subject in (draft.subject, "all") and kind in (draft.kind, "all") for draft in part)
                for part in (result.train, result.test)
            ]
            cells.append(_pad(f"{counts[0]}+{counts[1]}" if any(counts) else "-", 13))
        lines.append(_pad(subject, 25) + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - columns(text))


def passage_report(result: Import, passages: str) -> str:
    """How many items have a passage, how long, and how much of the answers stands in the passages."""
    lines = []
    for name, part in (("train", result.train), ("test", result.test)):
        lengths = sorted(len(draft.passage) for draft in part if draft.passage)
        if not lengths:
            lines.append(f"passages, {name}: none")
            continue
        leak, chance = measure_leak(part)
        lines += [
            f"passages, {name}: {len(lengths)} of {len(part)} items, {lengths[0]}-{lengths[-1]} characters, "
            f"median {median(lengths):.0f}; empty: {len(part) - len(lengths)}",
            f"  share of the answer's 8-grams in the passage ({leak.items} items): {leak}",
            f"  in a random passage of the subject (chance): {chance}",
        ]
    return "\n".join(lines)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.import_gaokao_bench",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    add: Callable[..., Any] = parser.add_argument
    add("source", metavar="SRC", type=Path, help="a copy of GAOKAO-Bench, the folder that holds Data/")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for train.json and test.json")
    add("--test-from-year", metavar="YEAR", type=int, default=TEST_FROM_YEAR, help="default: %(default)s")
    add("--passages", choices=("related", "own", "none"), default="related", help="default: %(default)s")
    add("--passage-chars", metavar=("MIN", "MAX"), type=int, nargs=2, default=PASSAGE_CHARS, help="default: 100 400")
    add("--types", nargs="+", choices=KINDS, default=KINDS, help=f"default: all; {SET} has several answers each")
    add("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="default: all")
    add("--max-chars", metavar="N", type=int, help="greatest length of question, answer and 解析 together")
    add("--limit-train", metavar="N", type=int, help="that many training items, spread over the subjects")
    add("--limit-test", metavar="N", type=int, help="that many test items, spread over the subjects")
    chosen = parser.parse_args(arguments)
    least, greatest = chosen.passage_chars
    if not 0 < least < greatest:
        parser.error(f"--passage-chars {least} {greatest}: MIN must be above 0 and below MAX")
    for name in ("max_chars", "limit_train", "limit_test"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    if not 1900 <= chosen.test_from_year <= 2100:
        parser.error(f"--test-from-year {chosen.test_from_year}: must be a year from 1900 to 2100")
    return chosen


def require_own(folder: Path) -> list[str]:
    """Make sure that what an import would overwrite was written by one; returns the checksums known so far.

    Raises:
        UserError: a file was not, or was changed since, or is a folder.
    """
    try:
        known = (folder / CHECKSUMS).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        known = []
    for path in (folder / name for name in WRITTEN):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give --out another one")
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() not in known:
            raise UserError(
                f"{path}: was not written by an import, or was changed since, and is not overwritten; give --out another "
                "folder, or move the file away"
            )
    return known


def main(arguments: list[str]) -> None:
    """Import, write both files, print the tables."""
    chosen = parse_arguments(arguments)
    find_sources(chosen.source)
    try:
        folder = make_folder(chosen.out)
    except UserError:
        raise UserError(f"{chosen.out}: cannot be written to; give --out a folder of yours") from None
    known = require_own(folder)
    result = import_bench(
        chosen.source,
        test_from_year=chosen.test_from_year,
        passages=chosen.passages,
        passage_chars=tuple(chosen.passage_chars),
        kinds=chosen.types,
        subjects=chosen.subjects,
        max_chars=chosen.max_chars,
        limit_train=chosen.limit_train,
        limit_test=chosen.limit_test,
    )
    if not result.train and not result.test:
        raise UserError(f"{chosen.source}: no item is left, so nothing is written\n{report(result)}")
    rows = [[to_record(draft, chosen.passages).to_dict() for draft in part] for part in (result.train, result.test)]
    texts = [json.dumps(part, ensure_ascii=False, indent=2) + "\n" for part in rows]
    # First the checksums: a run that is killed between the two leaves files that the next one knows.
    known += [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    write_text(folder / CHECKSUMS, "\n".join(dict.fromkeys(known)) + "\n")
    for name, text in zip(WRITTEN, texts, strict=True):
        write_text(folder / name, text)
    print(report(result))
    print(passage_report(result, chosen.passages))
    print(f"written: {', '.join(str(folder / name) for name in WRITTEN)}")
    if result.unreadable:
        print(faults_text(f"{len(result.unreadable)} file(s) could not be read:", result.unreadable), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
