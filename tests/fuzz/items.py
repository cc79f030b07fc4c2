"""Random items through `run_checks`: no traceback, no fault unseen, no long wait.

    python -m tests.fuzz.items --count 5000 --seed 1 [--bench DIR]

DIR is a checkout of github.com/OpenLMLab/GAOKAO-Bench; without it the bundled data are used. In half of the cases a usable
real item is spoilt in one way that has to make it unusable; in the other half an item is put together from fragments of
real ones and noise, one in a hundred of them 20,000 characters long.
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gaokao.checks import CHECKS, Item, Outcome, run_checks, usable
from gaokao.prompts import parse
from gaokao.records import SUBJECTS, TYPES, Record, load_records
from gaokao.text import CHOICE_TYPES, split_options
from tests.benchmarks.calibrate_checks import read_items
from tests.fuzz.tally import Tally

ROOT = Path(__file__).resolve().parent.parent.parent
LONG, EVIDENCE = 20_000, 2_000
NOISE = [
    "A．", "B．", "C．", "D．", "E．", "A、", "（A）", "A项正确", "故D错误；", "故选", "故选C。", "答案为", "、", "和", "$", "$$", "\\(", "\\)",
    "\\[", "\\]", "\\left(", "\\begin{array}", "\\end{array}", "\\mathrm{", "{", "}", "![", "](", "“", "”", "材料“", "据“", "课本", "根据教材",
    "如图", "图1", "下表", "|", "（", "）", "（　　）", "？", "。", "\n", "\n\n", " ", "\t", "　", "\u2028", "\x00", "\u0300\u0316", "①", "Ⅳ", "ﷺ", "😀",
    "____", "……", "甲乙丙丁戊己庚辛", "正确", "错误", "没有", "题干：", "参考答案：", "解析：", "（1）", "（2）", "12.5", "The ", "ы",
]  # fmt: skip


def real_items(bench: Path | None) -> list[Item]:
    """The items that fragments are taken from."""
    if bench:
        return [item for _, _, item in read_items(bench)]
    files = [ROOT / "gaokao_data" / name for name in ("train.json", "test.json")]
    return [Item.from_record(record) for file in files for record in load_records(file)]


def spoilt(draw: random.Random, item: Item) -> tuple[str, Item]:
    """A usable choice item with one fault that makes it unusable, and the name of the fault."""
    options = split_options(item.question) or {}
    key = item.answer[0]
    other = draw.choice([letter for letter in "ABCD" if letter not in key])
    stem = item.question.split("\n")[0]
    listed = "\n".join(f"{letter}．{text}" for letter, text in options.items())
    ways: dict[str, Callable[[], Item]] = {
        "no options": lambda: replace(item, question=stem.replace("A", "甲")),
        "no marks": lambda: replace(item, question=f"{stem}\nA{options['A']} B{options['B']} C{options['C']} D"),
        "equal options": lambda: replace(
            item, question=f"{stem}\n" + "\n".join(f"{letter}．{options['A']}" for letter in "ABCD")
        ),
        "three options": lambda: replace(item, question=f"{stem}\n{listed.split(f'{chr(10)}D．')[0]}"),
        "key of words": lambda: replace(item, answer=(draw.choice(["甲", "略", "正确", f"{key}或{other}", "Z", "1"]),)),
        "key outside": lambda: replace(item, answer=(draw.choice("EFGH"),)),
        "another conclusion": lambda: replace(item, analysis=f"{item.analysis}\n故选{other}。"),
        "passage named": lambda: replace(item, question=f"根据课本内容，{item.question}"),
        "picture named": lambda: replace(item, question=f"如图所示，{item.question}"),
        "loop": lambda: replace(item, analysis=item.analysis + "由此可知该选项符合题意" * draw.randint(4, 50) + "。"),
        "cut off": lambda: replace(item, finish_reason="length"),
        "cut in a sentence": lambda: replace(item, analysis=item.analysis + "其次，"),
        "no analysis": lambda: replace(item, analysis="", missing=("解析",)),
    }
    name = draw.choice(list(ways))
    return name, ways[name]()


def fragment(draw: random.Random, item: Item) -> str:
    """A piece of a text of an item."""
    source = draw.choice([item.question, item.analysis, "".join(item.answer)])
    start = draw.randrange(len(source) + 1)
    return source[start : start + draw.choice([3, 20, 200])]


def mixture(draw: random.Random, items: list[Item]) -> Item:
    """An item of fragments and noise; rarely one of a few pieces over and over."""

    def text() -> str:
        if draw.random() < 0.02:
            pieces = draw.choices(NOISE, k=draw.randint(1, 3))
            return "".join(draw.choices(pieces, k=LONG) if draw.random() < 0.5 else pieces * LONG)[:LONG]
        kinds = (
            lambda: fragment(draw, draw.choice(items)),
            lambda: draw.choice(NOISE),
            lambda: chr(draw.randrange(0xD800)),
        )
        return "".join(draw.choices(kinds, weights=(2, 4, 1))[0]() for _ in range(draw.randint(0, 20)))

    subject, kind = draw.choice(SUBJECTS), draw.choice(TYPES)
    textbook, outside = (text() if draw.random() < 0.5 else "" for _ in range(2))
    if draw.random() < 0.5:
        prompt = Record("a", subject, kind, textbook, outside)
        return Item.from_question(prompt, parse(f"题干：{text()}\n参考答案：{text()}\n解析：{text()}"), "stop")
    answer = tuple(text() for _ in range(draw.choice([0, 1, 1, 1, 3])))
    return Item(text(), answer, text(), subject, kind, textbook, outside, draw.choice([None, "stop"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench", type=Path, metavar="DIR", help="a checkout of GAOKAO-Bench")
    chosen = parser.parse_args()
    draw, tally = random.Random(chosen.seed), Tally()
    items = real_items(chosen.bench)
    good = [
        item
        for item in items
        if item.type in CHOICE_TYPES and len(item.answer) == 1 and item.subject != "英语" and len(item.answer[0]) == 1
        if usable(run_checks(item)) and "\n" in item.question and not split_options(item.question.split("\n")[0])
    ]
    for number in range(chosen.count):
        name, item = spoilt(draw, draw.choice(good)) if number % 2 else ("", mixture(draw, items))
        tally.counts["spoilt" if name else "mixed"] += 1
        label = f"{number} {name} {item!r:.500}"
        results = tally.call(label, lambda: run_checks(item))  # noqa: B023
        if results is None:
            continue
        if name and usable(results):
            tally.fault("silent acceptances", f"{label}\n{item.analysis[-60:]}")
        if [result.name for result in results] != [check.name for check in CHECKS]:
            tally.fault("silent acceptances", f"{label}: {results}")
        for result in results:
            if len(result.evidence) > EVIDENCE or (result.outcome is Outcome.FAIL and not result.evidence):
                tally.fault("long messages", f"{label}: {result.name}: {len(result.evidence)} characters")
    tally.finish(f"{chosen.count} items, {len(good)} usable ones to spoil")


if __name__ == "__main__":
    main()
