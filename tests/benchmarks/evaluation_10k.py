"""Time and memory of `python evaluate.py` on 10,000 predictions; exits 1 above 120 s or 2 GB.

    python -m tests.benchmarks.evaluation_10k
    python -m tests.benchmarks.evaluation_10k --items 1000 --against

The records are those of check_10k, made from the bundled ones with a fixed seed; what is predicted for one is the next
question of its subject and type. So form and lengths are those of real files, and similarity is that of chance. All of
the command is measured: checks, grounding, similarity, intervals, picture and page.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from gaokao.prompts import render
from gaokao.records import Record, parse_record
from gaokao.sources import Raw
from tests.benchmarks.bounded import run_bounded
from tests.benchmarks.check_10k import make_rows

ITEMS, SECONDS, MEGABYTES = 10_000, 120.0, 2048.0


def predictions(count: int, step: int) -> list[dict[str, Any]]:
    """Entries of a results file: for each record, the question `step` records further of its subject and type."""
    records = [parse_record(Raw("made", row), number, "train")[0] for number, row in enumerate(make_rows(count))]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record is not None:
            groups.setdefault((record.subject, record.type), []).append(record)
    return [
        {
            **{key: value for key, value in record.to_dict().items() if key not in ("question", "answer", "analysis")},
            "text": render(group[(place + step) % len(group)]),
            "finish_reason": "stop",
            "adapter": "none",
            "reference": render(record),
        }
        for group in groups.values()
        for place, record in enumerate(group)
    ]


def main() -> None:
    """Write the predictions, score them in a process of its own, print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.evaluation_10k", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--items", metavar="N", type=int, default=ITEMS, help="default: %(default)s")
    parser.add_argument("--against", action="store_true", help="compare with others of the same records too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in (["first.json", "second.json"] if chosen.against else ["first.json"])]
        for step, path in enumerate(paths, 1):
            path.write_text(json.dumps(predictions(chosen.items, step), ensure_ascii=False), encoding="utf-8")
        size = paths[0].stat().st_size / 2**20
        against = ["--against", str(paths[1])] if chosen.against else []
        run_bounded(
            ["evaluate.py", str(paths[0]), *against], f"{chosen.items:,} predictions, {size:.1f} MB", SECONDS, MEGABYTES
        )


if __name__ == "__main__":
    main()
