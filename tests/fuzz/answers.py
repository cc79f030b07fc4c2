"""Random answers and texts through `parse`, `split_answers` and back: what is accepted is read back as it was.

    python -m tests.fuzz.answers --count 15000 --seed 1

Half are records, of which each one that `parse_record` accepts must come back from its own text and from its own data
file row; half are texts as a model may write them, of which `parse` must make a question whatever they are.
"""

import argparse
import random
from typing import Any

from gaokao.prompts import Question, parse, render
from gaokao.records import (
    CHAT_MARKER,
    HEADER,
    SECTIONS,
    Record,
    fingerprint,
    join_answers,
    parse_record,
    split_answers,
)
from gaokao.sources import Raw
from tests.fuzz.tally import Tally

PIECES = [
    "甲", "乙", "B", "（1）", "（2）", "（3）", "(1)", "(2)", "（10）", "（０）", "（１）", "（01）", "①", "1.", "\n", "\n\n", "\r\n", "\r",
    "\t", " ", "　", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x00", "\ufeff", "\u200b", "*", "**", "#", "###", "> ", "- ",
    "题干", "参考答案", "解析", "：", ":", "；", "题干：", "参考答案：", "解析：", "**题干：**", "# 解析:", "\n参考答案：", "\n*解析*；",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|", "|>", "$x^2$", "\\(", "A．", "故选B。", "____", "😀", "\U0010ffff", "e\u0301",
]  # fmt: skip


def text(draw: random.Random, pieces: list[str]) -> str:
    """A short text of the pieces, or rarely a long one."""
    return "".join(draw.choices(pieces, k=5000 if draw.random() < 0.003 else draw.randint(0, 9)))


def row(draw: random.Random, pieces: list[str]) -> dict[str, Any]:
    """An entry of a data file, whole but for what stands in its texts."""
    answer: Any = text(draw, pieces)
    if draw.random() < 0.5:
        answer = [text(draw, pieces) or "甲" for _ in range(draw.choice([1, 2, 2, 3, 12]))]
    passages = {"课本内容": text(draw, pieces), "课外内容": text(draw, pieces) if draw.random() < 0.2 else ""}
    wanted = {"id": "a", "subject": "数学", "type": draw.choice(["单选题", "大题"]), **passages}
    return {
        **wanted,
        "question": "题" + text(draw, pieces),
        "answer": answer,
        "analysis": text(draw, pieces) or "故选B。",
    }


def round_trip(record: Record) -> str:
    """What is lost of an accepted record, or nothing."""
    found = parse(render(record))
    if (found.question, found.answer, found.analysis) != (record.question, record.answer, record.analysis):
        return f"{record} is read back as {found}"
    if record.has_reference and not found.complete:
        return f"{record} is whole, but read back without {found.missing} or with {found.misplaced} misplaced"
    again, faults = parse_record(Raw("again", record.to_dict()), 0, "train" if record.has_reference else "generate")
    if again != record:
        return f"{record} written to a file and read again: {again} {faults}"
    texts = (record.textbook, record.outside, record.question, *record.answer, record.analysis)
    if any(CHAT_MARKER.search(part) or HEADER.search(part) or "\r" in part for part in texts) or "" in record.answer:
        return f"{record} holds a chat marker, a header, an empty sub-answer or a carriage return"
    fingerprint([record])
    return ""


def consistent(text: str, question: Question) -> str:
    """What contradicts itself in a question that was read from a text, or nothing."""
    contents = dict(zip(SECTIONS, (question.question, "".join(question.answer), question.analysis), strict=True))
    if any(not content and section not in question.missing for section, content in contents.items()):
        if question.answer and not any(question.answer):
            return ""  # （1）（2） with nothing behind: there is an answer, of empty texts
        return f"{text!r}: an empty section that is not missing: {question}"
    if any(HEADER.search(content) for content in contents.values() if content != contents["参考答案"]):
        # A header may open a section only behind another one: 题干：解析：
        heads = [content for content in contents.values() if (found := HEADER.search(content)) and found.start()]
        return f"{text!r}: a header inside a section: {question}" if heads else ""
    once = split_answers(join_answers(question.answer))
    return f"{text!r}: {once} is not stable" if split_answers(join_answers(once)) != once else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    draw, tally = random.Random(chosen.seed), Tally()
    for number in range(chosen.count):
        # Few kinds of pieces in one case: with all of them hardly any record would be accepted.
        pieces = draw.sample(PIECES, 5)
        if number % 2:
            entry = row(draw, pieces)
            result = tally.call(f"{number} {entry!r:.300}", lambda: parse_record(Raw("x", entry), 0, "train"))  # noqa: B023
            record = result[0] if result else None
            tally.counts["records accepted" if record else "records refused"] += 1
            lost = tally.call(f"{number} {record!r:.300}", lambda: round_trip(record)) if record else ""  # noqa: B023
        else:
            written = "\n".join(text(draw, pieces) for _ in range(6))
            tally.counts["texts"] += 1
            question = tally.call(f"{number} {written!r:.300}", lambda: parse(written))  # noqa: B023
            lost = tally.call("consistent", lambda: consistent(written, question)) if question else ""  # noqa: B023
        if lost:
            tally.fault("silent acceptances", f"{number}: {lost:.600}")
    tally.finish(f"{chosen.count} answers and texts")


if __name__ == "__main__":
    main()
