"""Time and memory of `python -m gaokao_data.check` on 10,000 records; exits 1 above 60 s or 1 GB.

    python -m tests.benchmarks.check_10k
    python -m tests.benchmarks.check_10k --records 1000 --tokens DIR

The records are made from the bundled ones, with a fixed seed: question, passages and explanation are joined from
sentences of different records and their numbers changed, so that lengths, types and vocabulary are those of real files
while most questions differ; one in a hundred is a copy with other numbers. Processor time is printed beside the time of
the clock, to tell a slow check from a busy machine.
"""

import argparse
import json
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaokao.records import OUTSIDE, TEXTBOOK, Record, load_records
from gaokao.text import CHOICE_TYPES, split_options
from tests.benchmarks.bounded import run_bounded

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS, SECONDS, MEGABYTES = 10_000, 60.0, 1024.0
SEED = 20250101
COPY_SHARE = 0.01


def sentences(text: str) -> list[str]:
    """The sentences of a text with their ends."""
    return [part for part in re.split(r"(?<=[。？！；])", text) if part.strip()]


def other_numbers(text: str, chooser: random.Random) -> str:
    """The text with other numbers of the same length."""
    return re.sub(r"\d", lambda _: str(chooser.randint(1, 9)), text)


def mixed(texts: Sequence[str], length: int, chooser: random.Random) -> str:
    """Sentences drawn from the texts until `length` characters are reached."""
    made = ""
    while len(made) < length:
        made += chooser.choice(sentences(chooser.choice(texts)) or [""])
    return other_numbers(made, chooser)


def stem(record: Record) -> str:
    """The question without its options."""
    options = split_options(record.question) if record.type in CHOICE_TYPES else None
    return record.question[: record.question.find(options["A"]) - 2] if options else record.question


def make_rows(count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Varied records in the keys of a data file, the same for the same seed."""
    chooser = random.Random(seed)
    bundled = [record for name in ("train", "test") for record in load_records(ROOT / "gaokao_data" / f"{name}.json")]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in bundled:
        groups.setdefault((record.subject, record.type), []).append(record)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        identity = f"made-{len(rows):05d}"
        if rows and chooser.random() < COPY_SHARE:
            copy = dict(chooser.choice(rows))
            rows.append({**copy, "id": identity, "question": other_numbers(copy["question"], chooser)})
            continue
        base = chooser.choice(bundled)
        rows.append({**make_row(base, groups[base.subject, base.type], chooser), "id": identity})
    return rows


def make_row(base: Record, group: Sequence[Record], chooser: random.Random) -> dict[str, Any]:
    """One record with the lengths of `base`, its texts joined from those of its subject and type."""
    question = mixed([stem(record) for record in group], len(stem(base)), chooser)
    options = split_options(base.question) if base.type in CHOICE_TYPES else None
    if options:
        drawn = [chooser.choice(sentences(chooser.choice(group).analysis) or [letter]) for letter in options]
        question += "".join(f"\n{letter}．{text}" for letter, text in zip(options, drawn, strict=True))
    # The conclusion stays last, so that key and explanation agree.
    analysis = mixed([record.analysis for record in group], len(base.analysis), chooser)
    conclusion = f"故选{base.answer[0]}。" if options else ""
    return {
        **base.to_dict(),
        TEXTBOOK: mixed([record.textbook for record in group], len(base.textbook), chooser),
        OUTSIDE: mixed([record.outside or record.textbook for record in group], len(base.outside), chooser),
        "question": question,
        "analysis": analysis + conclusion,
    }


def main(arguments: list[str] | None = None) -> None:
    """Write the records, check them in a process of its own, print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.check_10k", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--records", metavar="N", type=int, default=RECORDS, help="default: %(default)s")
    parser.add_argument("--tokens", metavar="auto|none|DIR", default="auto", help="passed on to the check")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        rows = make_rows(chosen.records)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        size = path.stat().st_size / 2**20
        run_bounded(
            ["-m", "gaokao_data.check", str(path), "--tokens", chosen.tokens],
            f"{chosen.records:,} records, {size:.1f} MB",
            SECONDS,
            MEGABYTES,
        )


if __name__ == "__main__":
    main()
