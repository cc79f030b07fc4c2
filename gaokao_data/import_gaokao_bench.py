"""Import GAOKAO-Bench, real gaokao questions of 2010-2022 and later yearly releases, as data files of this project.

    git clone https://github.com/OpenLMLab/GAOKAO-Bench
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/gaokao
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/small --types 单选题 --subjects 生物 历史 政治 \\
        --max-chars 900 --limit-train 300 --limit-test 48

Writes train.json (years before --test-from-year) and test.json (the others). Each item read is imported, or counted in
the printed table under the reason why not. The benchmark has no passages: `--passages material` takes as 课外内容 the
material that a stem brings along, and as 课本内容 what the 解析 says of the matter in general, without what gives the key
away; test items take it from the 解析 of training items and their own. Where there is none, a passage is empty; `none`
leaves all empty. 单选题组 are several 单选题 about one text. Files that an import did not write, or that were changed
since, are never overwritten.

Exit code 0; 1 where some files could not be read (the others are imported); 2 for a wrong command line, a folder that
is not GAOKAO-Bench, no item left, or a file that is not to be overwritten.
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
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, median
from typing import Any

from gaokao.checks import CHECKS, Item, Outcome, check_copied
from gaokao.errors import UserError, elsewhere, faults_text, run_script
from gaokao.grounding import grounding
from gaokao.records import LEAKS, OUTSIDE, PASSAGES, SUBJECTS, TEXTBOOK, Record, parse_record
from gaokao.runs import make_folder, write_text
from gaokao.sources import Raw
from gaokao.text import CHOICE_TYPES, near_duplicates, normalize, pad, split_options
from gaokao_data.exam_material import material
from gaokao_data.exam_print import DAMAGE, SET, clean_item
from gaokao_data.related_passages import SEED, add_textbook, measure_passages

KINDS = ("单选题", SET, "多选题", "填空题", "主观题")
TEST_FROM_YEAR = 2021
WRITTEN = ("train.json", "test.json")
CHECKSUMS = ".imported_sha256"
MODES = ("material", "none")
PASSAGE_CHARS = (40, 400)

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


# --- files --------------------------------------------------------------------------------------------------------


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
    """What an id says of its file: `Political_Science_MCQs` is `politics-mcq`."""
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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON in UTF-8 ({error}); is it cut off? download it again") from None
    if not isinstance(value, dict) or not isinstance(value.get("example"), list):
        raise UserError(f'{path}: has no list "example" of items; it is not a data file of GAOKAO-Bench')
    return list(value["example"])


# --- items ----------------------------------------------------------------------------------------------------------


class LeftOut(Exception):
    """An item cannot be used; the text is the reason, as a row of the table."""


MISSING_FIELD = "damaged: year, question or answer missing"


def read_item(value: Any, source: Source, position: int) -> Record:
    """One entry of a data file as a clean record without passages, its year, category and source among the extra keys.

    Raises:
        LeftOut: it is not an item.
    """
    if not isinstance(value, dict):
        raise LeftOut("damaged: not an item")
    try:
        json.dumps([value, source.path.name], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # An escape such as \ud83d without its other half: no file can hold it.
        raise LeftOut("damaged: half of a character") from None
    answer, analysis = value.get("answer"), value.get("analysis")
    texts = [value.get("question"), *(answer if isinstance(answer, list) else [answer])]
    year = re.match(r"\s*((?:19|20)\d\d)", str(value.get("year", "")))
    if year is None or len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise LeftOut(MISSING_FIELD)
    if not isinstance(analysis, str) or not normalize(analysis):
        raise LeftOut("no 解析")
    if any(DAMAGE.search(text) for text in (*texts, analysis)):
        raise LeftOut("damaged: control characters")
    kind = _kind(texts[1:], source)
    question, answers, analysis = clean_item(kind, texts[0], texts[1:], analysis)
    if not analysis or not all(answers):
        raise LeftOut(MISSING_FIELD)
    index = value.get("index")
    number = index if isinstance(index, int) and not isinstance(index, bool) else position
    row: dict[str, Any] = {
        "id": f"{year[1]}-{source.slug}-{number:03d}",
        "subject": source.subject,
        "type": "单选题" if kind == SET else kind,
        TEXTBOOK: "",
        OUTSIDE: "",
        "question": question,
        "answer": answers,
        "analysis": analysis,
        "year": int(year[1]),
        "category": str(value.get("category", "")).strip().strip("（）()"),
        "source": source.path.name,
    }
    record, _ = parse_record(Raw(row["id"], row), 0, "train")
    if record is None:
        raise LeftOut("damaged: not a record")
    return record


def _kind(answers: Sequence[str], source: Source) -> str:
    if not all(re.fullmatch(r"\s*[A-G]{1,5}\s*", text) for text in answers):
        return "填空题" if source.fill else "主观题"
    if len(answers) > 1:
        return SET
    return "单选题" if len(answers[0].strip()) == 1 else "多选题"


def kind_of(record: Record) -> str:
    """One of `KINDS`."""
    return SET if record.type == "单选题" and len(record.answer) > 1 else record.type


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


def require_usable(record: Record) -> Record:
    """The record itself.

    Raises:
        LeftOut: a check fails on it.
    """
    options = split_options(record.question) or {}
    if record.type in CHOICE_TYPES and len(record.answer) == 1 and len(options) > 4:
        raise LeftOut("more than four options")
    item = Item.from_record(record)
    for check in DROPPING:
        if check.function(item).outcome is Outcome.FAIL:
            raise LeftOut(REASONS.get(check.name, f"damaged: {check.name}"))
    return record


# --- the import -----------------------------------------------------------------------------------------------------


@dataclass
class Import:
    """The records of both files, and where each item read went."""

    train: list[Record] = field(default_factory=list)
    test: list[Record] = field(default_factory=list)
    items: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def import_bench(
    source: Path,
    *,
    test_from_year: int = TEST_FROM_YEAR,
    passages: str = "material",
    passage_chars: tuple[int, int] = PASSAGE_CHARS,
    types: Sequence[str] = KINDS,
    subjects: Sequence[str] = SUBJECTS,
    max_chars: int | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Import:
    """Read, clean, check and split all items under `source`, and give them passages; the options are the command's.

    Raises:
        UserError: `source` is not GAOKAO-Bench, or none of its files could be read.
    """
    result = Import()
    records = read_items(source, result)
    if passages == "material":
        records = [with_material(record) for record in records]
    records = with_unique_ids(drop_duplicates(records, result))
    if passages == "material":
        records = add_textbook(records, test_from_year, passage_chars)
    for record in records:
        if kind_of(record) not in types:
            result.dropped["filtered: --types"] += 1
        elif record.subject not in subjects:
            result.dropped["filtered: --subjects"] += 1
        elif max_chars is not None and len("".join([record.question, *record.answer, record.analysis])) > max_chars:
            result.dropped["filtered: --max-chars"] += 1
        else:
            (result.train if record.extra["year"] < test_from_year else result.test).append(record)
    for part, limit, name in ((result.train, limit_train, "--limit-train"), (result.test, limit_test, "--limit-test")):
        if limit is not None:
            kept = spread(part, limit)
            result.dropped[f"filtered: {name}"] += len(part) - len(kept)
            part[:] = kept
    return result


def read_items(root: Path, result: Import) -> list[Record]:
    """The usable items under `root`; the others, and files that cannot be read, are counted in `result`.

    Raises:
        UserError: `root` is not GAOKAO-Bench, or none of its files could be read.
    """
    sources = find_sources(root)
    records: list[Record] = []
    for source in sources:
        try:
            values = read_source(source.path)
        except UserError as error:
            result.unreadable.append(str(error))
            continue
        result.items += len(values)
        for position, value in enumerate(values):
            try:
                records.append(require_usable(read_item(value, source, position)))
            except LeftOut as reason:
                result.dropped[str(reason)] += 1
    if len(result.unreadable) == len(sources):
        raise UserError(faults_text(f"{root}: none of the files could be read:", result.unreadable))
    return records


def with_material(record: Record) -> Record:
    """The record with the material of its stem as 课外内容, unless no question is left beside it."""
    given = replace(record, outside=material(record))
    return record if check_copied(Item.from_record(given)).outcome is Outcome.FAIL else given


def drop_duplicates(records: list[Record], result: Import) -> list[Record]:
    """The records by year and then in the order given, without near-duplicates of earlier ones.

    Items of one year may share their material; in later years it is used up.
    """
    records = sorted(records, key=lambda record: int(record.extra["year"]))
    twins: dict[int, list[int]] = defaultdict(list)
    for pair in near_duplicates([record.question for record in records]):
        twins[pair.second].append(pair.first)
    for pair in near_duplicates([record.outside for record in records]):
        if records[pair.first].extra["year"] < records[pair.second].extra["year"]:
            twins[pair.second].append(pair.first)
    kept: dict[int, Record] = {}
    for number, record in enumerate(records):
        if not any(other in kept for other in twins[number]):
            kept[number] = record
    result.dropped["near-duplicate"] = len(records) - len(kept)
    return list(kept.values())


def with_unique_ids(records: list[Record]) -> list[Record]:
    """Number the ids that two files share (a later release that repeats a year)."""
    seen: Counter[str] = Counter()
    numbered = []
    for record in records:
        seen[record.id] += 1
        numbered.append(replace(record, id=f"{record.id}-{seen[record.id]}") if seen[record.id] > 1 else record)
    return numbered


def spread(records: list[Record], limit: int) -> list[Record]:
    """At most `limit` records, spread evenly over their subjects; within one, drawn with a fixed seed.

    Records with more passages are drawn first. The order of the result is that of `records`.
    """
    queues: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        queues[record.subject].append(record)
    for subject, queue in queues.items():
        random.Random(f"{SEED} {subject}").shuffle(queue)
        queue.sort(key=lambda record: (record.textbook == "") + (record.outside == ""))
    turns = zip_longest(*(queues[subject] for subject in SUBJECTS))
    drawn = [record.id for turn in turns for record in turn if record is not None]
    chosen = set(drawn[:limit])
    return [record for record in records if record.id in chosen]


# --- the command ----------------------------------------------------------------------------------------------------


def report(result: Import) -> str:
    """Where each item went, and the imported ones by subject and type."""
    rows = [("imported: train.json", len(result.train)), ("imported: test.json", len(result.test))]
    rows += [(name if ":" in name else f"dropped: {name}", n) for name, n in sorted(result.dropped.items()) if n]
    lines = [f"{pad(name, 44)}{number:>7,}" for name, number in rows]
    lines += ["-" * 51, f"{'items read':<44}{result.items:>7,}", ""]
    train, test = (
        Counter(
            (subject, kind)
            for record in part
            for subject in (record.subject, "all")
            for kind in (kind_of(record), "all")
        )
        for part in (result.train, result.test)
    )
    columns = (*KINDS, "all")
    lines.append(pad("imported (train + test)", 25) + "".join(pad(kind, 13) for kind in columns))
    for subject in (*SUBJECTS, "all"):
        counts = [(train[subject, kind], test[subject, kind]) for kind in columns]
        cells = [f"{first}+{second}" if first or second else "-" for first, second in counts]
        lines.append(pad(subject, 25) + "".join(pad(cell, 13) for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def passage_report(result: Import) -> str:
    """The passages by subject: how many, how long, how often nearest to their question; and what they give away."""
    records = [*result.train, *result.test]
    found = grounding([Item.from_record(record) for record in records])
    # Where one subject only could be compared, it is all.
    rows = {name: {"all": row} | of for name, of in found.items() for row in list(of.values())[:1]}
    lines = [pad("passages", 25) + "".join(pad(f"{name}: items, median length, own first", 44) for name in PASSAGES)]
    for subject in (*SUBJECTS, "all"):
        part = [record for record in records if subject in (record.subject, "all")]
        cells = (pad(_passages(part, name, rows.get(name, {}).get(subject)), 44) for name in PASSAGES)
        lines += [pad(subject, 25) + "".join(cells)] if part else []
    shares = measure_passages(records)
    lines += [
        f"answers' 8-grams in 课本内容 ({len(shares)} items): {_figures([own for own, _ in shares])}",
        f"  in a random one of the subject (chance level): {_figures([chance for _, chance in shares])}",
        f'marked "{LEAKS}": true, as the material holds the answer (reading, translation): '
        f"{sum(LEAKS in record.extra for record in records)}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _passages(records: Sequence[Record], name: str, row: dict[str, Any] | None) -> str:
    """Number, median length in characters, and own passage first with its chance level."""
    lengths = [len(text) for record in records if (text := record.textbook if name == TEXTBOOK else record.outside)]
    if not lengths:
        return "-"
    first = f"{row['own_first']['rate']:.0%} (chance {row['chance']:.1%})" if row else "too few"
    return f"{len(lengths)} of {len(records)}, {median(lengths):.0f}, {first}"


def _figures(shares: list[float]) -> str:
    if not shares:
        return "-"
    p95 = sorted(shares)[int(len(shares) * 0.95)]
    return f"median {median(shares):.3f}, 95th percentile {p95:.3f}, mean {fmean(shares):.4f}"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; its names are the parameters of `import_bench`, and `out`."""
    parser = argparse.ArgumentParser(
        usage="python -m gaokao_data.import_gaokao_bench SRC --out DIR [options]",
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        allow_abbrev=False,
    )
    add: Callable[..., Any] = parser.add_argument
    add("source", metavar="SRC", type=Path, help="a copy of GAOKAO-Bench, the folder that holds Data/")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for train.json and test.json")
    add("--test-from-year", metavar="YEAR", type=int, default=TEST_FROM_YEAR, help="default: %(default)s")
    add("--passages", choices=MODES, default="material", help="default: %(default)s")
    add(
        "--passage-chars",
        metavar=("MIN", "MAX"),
        type=int,
        nargs=2,
        default=PASSAGE_CHARS,
        help="length of 课本内容; default: 40 400",
    )
    add("--types", metavar="TYPE", nargs="+", choices=KINDS, default=KINDS, help=f"default: {' '.join(KINDS)}")
    add("--subjects", metavar="NAME", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="default: all nine")
    add("--max-chars", metavar="N", type=int, help="maximum length of question, answer and 解析 together")
    add("--limit-train", metavar="N", type=int, help="that many training items, spread over the subjects")
    add("--limit-test", metavar="N", type=int, help="that many test items, spread over the subjects")
    chosen = parser.parse_args(arguments)
    minimum, maximum = chosen.passage_chars
    if not 0 < minimum < maximum:
        parser.error(f"--passage-chars {minimum} {maximum}: MIN must be above 0 and below MAX")
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
    options = vars(parse_arguments(arguments))
    # A wrong folder is told before anything is made or overwritten.
    find_sources(options["source"])
    out = options.pop("out")
    try:
        folder = make_folder(out)
    except UserError:
        raise UserError(f"{out}: cannot be written to; give --out a folder of yours") from None
    known = require_own(folder)
    result = import_bench(**options)
    if not result.train and not result.test:
        raise UserError(f"{options['source']}: no item is left, so nothing is written\n{report(result)}")
    rows = [[record.to_dict() for record in part] for part in (result.train, result.test)]
    texts = [json.dumps(part, ensure_ascii=False, indent=2) + "\n" for part in rows]
    # First the checksums: a run that is killed between the two leaves files that the next one knows.
    known += [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    write_text(folder / CHECKSUMS, "\n".join(dict.fromkeys(known)) + "\n")
    for name, text in zip(WRITTEN, texts, strict=True):
        write_text(folder / name, text)
    print(report(result))
    print(passage_report(result))
    print(f"written: {', '.join(str(folder / name) for name in WRITTEN)}")
    if result.unreadable:
        print(faults_text(f"{len(result.unreadable)} file(s) could not be read:", result.unreadable), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
