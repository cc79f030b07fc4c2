"""Random data files through `load_records`: no traceback, nothing bad accepted, no long wait.

    python -m tests.fuzz.records --count 1200 --seed 1

Each file holds a few records in JSON, JSON Lines or CSV. In half of them something is changed that a reader has to
refuse (a key away, a value of another type, chat markers, ids twice); in a third the bytes are damaged as well: cut off,
flipped, in another encoding, brackets 100,000 deep, numbers of 5,000 digits, half characters.
"""

import argparse
import csv
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaokao.records import Record, fingerprint, load_records
from tests.fuzz.answers import PIECES, round_trip
from tests.fuzz.tally import Tally

TEXTS = ("课本内容", "课外内容", "question", "analysis")
# None is a value of JSON too; these are wrong for every text.
WRONG: list[Any] = [0, -1, 3.5, 10**400, True, [], ["甲", 1], {}, {"a": {"b": []}}, float("nan"), float("inf")]
ODD: list[Any] = [*WRONG, None, "", " ", "甲" * 3000, "\U0001f600", "\x00", "\u2028", ["甲"], [[["乙"]]], "-1", "null"]


def row(draw: random.Random, number: int) -> dict[str, Any]:
    """A record that has to be accepted."""
    texts = {key: "甲" + "".join(draw.choices("乙B，。\n ①$x^2$*#（", k=draw.randint(0, 30))) for key in TEXTS}
    answer: Any = draw.choice(["B", "（1）甲\n（2）乙", ["甲", "乙"], ["丙\n丁", "戊", "己"]])
    return {"id": f"r{number}", "subject": "生物", "type": draw.choice(["单选题", "大题"]), **texts, "answer": answer}


def harmless(draw: random.Random, rows: list[dict[str, Any]]) -> None:
    """A change that a reader accepts, refuses or reads as something else: only what it accepts is looked at."""
    entry = draw.choice(rows)
    key = draw.choice([*entry, "year", "难度", "topic", "tags", "题干", "A", "选项A", "选项B"])
    entry[key] = draw.choice([*ODD, "".join(draw.choices(PIECES, k=6))])


def refused(draw: random.Random, rows: list[dict[str, Any]]) -> None:
    """A change that no reader may accept."""
    entry, key = draw.choice(rows), draw.choice(TEXTS)
    kind = draw.randrange(8)
    if kind == 0:
        del entry[draw.choice(["subject", "type", "question", "answer", "analysis", "课本内容"])]
    elif kind == 1:
        entry[key] = draw.choice(WRONG)
    elif kind == 2:
        entry[key] += draw.choice(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    elif kind == 3:
        entry[key] += draw.choice(["\n", "\r\n", "\r"]) + draw.choice(["解析：", "**题干：**", "# 参考答案:"])
    elif kind == 4:
        entry["answer"] = draw.choice(
            [["甲", ""], ["甲\n（2）乙", "丙"], "（1）\n（2）乙", [], "", ["甲", 1], {}, 7, [["甲"]]]
        )
    elif kind == 5:
        entry["subject" if draw.random() < 0.5 else "type"] = draw.choice(["音乐", "", "单选", 1, None, ["语文"]])
    elif kind == 6:
        rows.append(dict(entry))
    else:
        entry["题干"] = "甲"


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A file as it should not be."""
    place = draw.randrange(len(data))
    deep = draw.choice([900, 1100, 100_000])
    ways: list[Callable[[], bytes]] = [
        lambda: data[:place],
        lambda: data[:place] + bytes(draw.randrange(256) for _ in range(draw.randint(1, 4))) + data[place + 1 :],
        lambda: data.decode().encode("gb18030"),
        lambda: data.decode().encode("utf-16"),
        lambda: b"\xef\xbb\xbf" * draw.randint(1, 2) + data,
        lambda: data[:place] + b"\0" * draw.randint(1, 9) + data[place:],
        lambda: data.replace("甲".encode(), draw.choice([b"\\ud83d", b"\\udc00", b"\xed\xa0\xbd"]), 1),
        lambda: data.replace(b'"B"', b"9" * draw.choice([400, 5000]), 1),
        lambda: data.replace(b'"id"', b'"x": ' + b"[" * deep + b"]" * deep + b', "id"', 1),
        lambda: data.replace(b'"id"', b'"x": ' + b'{"a":' * deep + b"1" + b"}" * deep + b', "id"', 1),
        lambda: data.replace("甲".encode(), ("“[" * 3000).encode(), 1),
        lambda: data.replace(b"\n", draw.choice([b"\r\n", b"\r", "\u2028".encode(), b"\n\n"])),
        lambda: data.replace(b'"', b"", 1) if draw.random() < 0.5 else data.replace(b",", b";"),
        lambda: data * 2,
    ]
    return draw.choice(ways)()


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; lists as JSON, as the reader takes them."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(dict.fromkeys(key for entry in rows for key in entry)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows)
    return target.getvalue()


def as_json(rows: list[dict[str, Any]]) -> str:
    """A JSON list."""
    return json.dumps(rows, ensure_ascii=False, indent=1)


def as_lines(rows: list[dict[str, Any]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows)


def lost(records: list[Record]) -> str:
    """What is wrong with records that were accepted, or nothing."""
    if len({record.id for record in records}) < len(records):
        return "an id twice"
    fingerprint(records)
    return next((said for record in records if (said := round_trip(record))), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    draw, tally = random.Random(chosen.seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.count):
            rows = [row(draw, index) for index in range(draw.randint(1, 4))]
            change = draw.choice(["none", "harmless", "refused", "refused"])
            if change != "none":
                (harmless if change == "harmless" else refused)(draw, rows)
            suffix, writer = draw.choice([("json", as_json), ("jsonl", as_lines), ("csv", as_csv), ("txt", as_lines)])
            data = writer(rows).encode()
            broken = draw.random() < 0.33
            if broken:
                data = damaged(draw, data)
            path = Path(folder) / f"d.{suffix}"
            path.write_bytes(data)
            label = f"{number} ({suffix}, {change}{', damaged' if broken else ''}) {data!r:.200}"
            records = tally.call(label, lambda: load_records(path))  # noqa: B023
            if records is None:
                if change == "none" and not broken:
                    tally.fault("good files refused", f"{label}: {tally.message}")
                continue
            tally.counts["accepted"] += 1
            # In a table every value is a text, and what was taken away may be what was to be refused.
            if change == "refused" and not broken and suffix != "csv":
                tally.fault("silent acceptances", label + f" {rows}")
            if said := tally.call(label, lambda: lost(records)):  # noqa: B023
                tally.fault("silent acceptances", f"{label}: {said:.600}")
    tally.finish(f"{chosen.count} data files")


if __name__ == "__main__":
    main()
