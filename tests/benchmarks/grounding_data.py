"""Data for one question: do passages that belong to their questions teach a model to use its passages?

    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/bench --types 单选题 --subjects 生物 历史 政治
    python -m tests.benchmarks.grounding_data data/bench --out data/grounding --train 300 --test 48 --max-chars 900

Writes train.json, shuffled.json (the same items, each with the passages of another one of its subject) and test.json,
of items with 课外内容, those that have 课本内容 as well before the others. Train on the first two alike, and compare what `evaluate.py` says of grounding.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gaokao.checks import Item
from gaokao.grounding import grounding, screen
from gaokao.records import LEAKS, Record, load_records
from gaokao.runs import make_folder, write_json

SEED = 7


def choose(records: Sequence[Record], count: int, max_chars: int) -> list[Record]:
    """Items that do not leak and are short enough, drawn with a fixed seed, those with both passages first."""
    fit = [r for r in records if r.outside and not r.extra.get(LEAKS) and characters(r) <= max_chars]
    random.Random(SEED).shuffle(fit)
    return sorted(fit, key=lambda record: not record.textbook)[:count]


def characters(record: Record) -> int:
    """Length of prompt and answer, roughly."""
    return sum(map(len, (record.textbook, record.outside, record.question, *record.answer, record.analysis)))


def shuffled(records: Sequence[Record]) -> list[Record]:
    """The same items in the same order, each with the passages of the next one of its subject."""
    nexts: dict[str, Record] = {}
    for subject in {record.subject for record in records}:
        group = [record for record in records if record.subject == subject]
        nexts |= {record.id: other for record, other in zip(group, [*group[1:], group[0]], strict=True)}
    return [replace(record, textbook=nexts[record.id].textbook, outside=nexts[record.id].outside) for record in records]


def main() -> None:
    """Write the three files and print the figure of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with train.json and test.json of an import")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=48)
    parser.add_argument(
        "--max-chars", type=int, default=900, help="of a training item; test items may have twice as many"
    )
    options = parser.parse_args()
    train = choose(load_records(options.source / "train.json"), options.train, options.max_chars)
    test = choose(load_records(options.source / "test.json"), options.test, 2 * options.max_chars)
    folder = make_folder(options.out)
    for name, records in (("train", train), ("shuffled", shuffled(train)), ("test", test)):
        write_json(folder / f"{name}.json", [record.to_dict() for record in records])
        print(f"{name}.json: {len(records)} items")
        print("\n".join(f"  {line}" for line in screen(grounding([Item.from_record(record) for record in records]))))


if __name__ == "__main__":
    main()
