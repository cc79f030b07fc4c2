"""A Word paper of generated questions: by subject and type, with points; answers and 解析 from a new page at the end.

The formulas are Word's own, made from the MathML that `report.html` shows, so that both draw the same ones.
"""

import argparse
import importlib.util
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from gaokao.blocks import Line, Pieces, Table, read_blocks
from gaokao.errors import UserError, faults_text, shown
from gaokao.records import SUBJECTS, TYPES
from gaokao.results import Generated, text_digest
from gaokao.runs import write_bytes
from gaokao.word import (
    MOST_COLUMNS,
    OPTIONS,
    keep_with_next,
    line_width,
    new_document,
    paragraph,
    printable,
    table,
)

# Points of a question whose 题干 states none; most papers of the national exam since 2020 give about as many.
POINTS = {"单选题": 3, "多选题": 4, "填空题": 5, "主观题": 12}
TITLE = "高考模拟练习"
PIP = "pip install python-docx==1.2.0"
_ASKS = {
    "单选题": "在每小题给出的选项中，只有一项符合题目要求。",
    "多选题": "在每小题给出的选项中，有多项符合题目要求。",
}
# （12分）（本小题满分12分）（本题共12分）（每空2分，共12分）
_STATED = re.compile(
    # What is possessive keeps a bracket of many blanks from being read in every way that they can be shared out.
    r"[（(]\s*+(?:本[大小]?题)?\s*+(?:满分|共|总计)?\s*+(?:每[空小问题]+\s*+\d+\s*+分\s*+[,，;；]\s*+共)?\s*+(\d{1,2})\s*+分\s*+[)）]"
)
_SUB_QUESTION = re.compile(r"[（(]\s*(?:[1-9一二三]|[ivIVⅠⅡⅢⅰⅱⅲ]{1,3}|[a-c])\s*[)）]|[①②⑴⑵]|第[一1][问小]")
# `17．（12分）`: the number in print, or that of a sub-question where there are several.
_NUMBER = re.compile(r"^\s*\d{1,2}\s*[．.、)）](?!\d)", re.MULTILINE)


class Numbered(NamedTuple):
    """A question of the paper: its number there, and its points."""

    number: int
    item: Generated
    points: int
    stated: bool
    """Whether the 题干 says them."""

    @property
    def stem(self) -> str:
        """The 题干; all that was written where there is none."""
        return printable(self.item.sections["题干"] or self.item.text)

    @property
    def latex(self) -> bool:
        """Whether dollars are marks of formulas; in an English text they are money."""
        return self.item.record.subject != "英语"


class Group(NamedTuple):
    """The questions of one type and subject."""

    subject: str
    heading: str
    questions: list[Numbered]


def add_paper_options(parser: argparse.ArgumentParser) -> None:
    """`--paper` and what goes with it."""
    parser.add_argument("--paper", type=Path, metavar="OUT.docx", help="write the questions as a paper for Word")
    parser.add_argument(
        "--only", type=Path, metavar="FILE", help="on the paper: what was saved in report.html (marked.json)"
    )
    parser.add_argument("--title", metavar="TEXT", help=f"of the paper: {TITLE} otherwise")


def paper_questions(
    items: Sequence[Generated], paper: Path | None, only: Path | None, title: str | None
) -> list[Generated]:
    """The questions of the paper that was asked for; none where no paper was. Nothing is written yet.

    Raises:
        UserError: a paper cannot be written there, python-docx is not installed, or `only` names what these results do
            not hold, see `marked`.
    """
    if paper is None:
        if only or title:
            raise UserError(f"{'--only' if only else '--title'}: is about a paper; add --paper OUT.docx")
        return []
    if paper.suffix.lower() != ".docx":
        raise UserError(f"--paper {paper}: is no name of a Word file; name one that ends in .docx")
    if not paper.parent.is_dir():
        raise UserError(f"--paper {paper}: there is no folder {paper.parent}; create it, or name another")
    if paper.exists():
        # Someone may have worked on it.
        raise UserError(f"--paper {paper}: is there already; name another file, or remove it")
    if importlib.util.find_spec("docx") is None:
        raise UserError(f"--paper {paper}: writing .docx needs python-docx: {PIP}")
    return list(items) if only is None else marked(items, only)


def marked(items: Sequence[Generated], file: Path) -> list[Generated]:
    """The questions that `report.html` saved as chosen, in the order of that file.

    Raises:
        UserError: it is no such file, names no question, or names some that are not there or were written anew.
    """
    remedy = "choose questions in report.html and save them there"
    try:
        saved = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--only {file}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, RecursionError):
        raise UserError(f"--only {file}: is no JSON file, or damaged; {remedy}") from None
    ids = saved.get("ids") if isinstance(saved, dict) else None
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise UserError(f'--only {file}: is {shown(saved)} instead of {{"ids": [...]}}; {remedy}')
    # Files of earlier versions hold ids only.
    texts = saved.get("texts", [None] * len(ids))
    if not isinstance(texts, list) or len(texts) != len(ids) or not all(isinstance(text, str | None) for text in texts):
        raise UserError(f"--only {file}: texts is {shown(texts)}, not one for each id; {remedy}")
    if not ids:
        raise UserError(f"--only {file}: names no question; {remedy}")
    there: dict[str, list[Generated]] = defaultdict(list)
    for item in items:
        there[item.record.id].append(item)
    if unknown := [shown(name) for name in dict.fromkeys(ids) if name not in there]:
        count = len(unknown)
        raise UserError(
            faults_text(
                f"--only {file}: {count} of {len(set(ids))} ids are not in these results; {remedy}, on their own page",
                [*unknown[:10], *([f"and {count - 10} more"] if count > 10 else [])],
            )
        )
    chosen = dict.fromkeys(zip(ids, texts, strict=True))
    anew = [name for name, text in chosen if text and text not in map(text_digest, there[name])]
    if anew:
        raise UserError(
            faults_text(
                f"--only {file}: {len(anew)} of {len(chosen)} questions were written anew since they were chosen; {remedy} again",
                [shown(name) for name in anew[:10]],
            )
        )
    return [item for name, text in chosen for item in there[name] if not text or text == text_digest(item)]


def paper_groups(items: Sequence[Generated]) -> list[Group]:
    """The questions as the paper has them: subjects and types in their usual order, numbers from first to last."""
    order = sorted(items, key=lambda item: (SUBJECTS.index(item.record.subject), TYPES.index(item.record.type)))
    groups: list[Group] = []
    number, place = 0, 0
    for (subject, kind), members in groupby(order, key=lambda item: (item.record.subject, item.record.type)):
        questions = []
        for number, item in enumerate(members, number + 1):  # noqa: B020 - the numbers go on in the next group
            stated = stated_points(item.sections["题干"])
            questions.append(Numbered(number, item, stated or POINTS[kind], bool(stated)))
        place = place + 1 if groups and groups[-1].subject == subject else 0
        groups.append(Group(subject, f"{'一二三四'[place]}、{_heading(kind, questions)}", questions))
    return groups


def _heading(kind: str, questions: Sequence[Numbered]) -> str:
    points = {question.points for question in questions}
    each = f"，每小题 {points.pop()} 分" if len(points) == 1 else ""
    total = sum(question.points for question in questions)
    return f"{kind}（本大题共 {len(questions)} 小题{each}，共 {total} 分。{_ASKS.get(kind, '')}）".replace("。）", "）")


def stated_points(question: str) -> int:
    """Points that a 题干 states for all of it, or else those of its sub-questions together; 0 where it states none.

    Those for all stand at its beginning, or before the sub-questions, of which they are the sum.
    """
    found = [(match.start(), int(match.group(1))) for match in _STATED.finditer(question)]
    if not found:
        return 0
    first, rest = found[0][1], sum(points for _, points in found[1:])
    before = question[: found[0][0]]
    if _SUB_QUESTION.search(before) or (_NUMBER.search(before) and len(_NUMBER.findall(question)) > 1):
        return first + rest
    return first if first == rest or not re.search(r"\w", _NUMBER.sub("", before, count=1)) else first + rest


def write_paper(path: Path, items: Sequence[Generated], title: str | None = None) -> str:
    """Write the paper, whole or not at all.

    Args:
        path: of the .docx file.
        items: the questions, as `paper_questions` gives them.
        title: above the paper, and in the properties of the file.

    Returns:
        What the screen says of it.

    Raises:
        OSError: it cannot be written.
    """
    groups, title = paper_groups(items), printable(title or "").strip() or TITLE
    document = new_document(title)
    body = document.element.body
    # It ends every Word file.
    section = body[-1]
    for element in _content(title, groups):
        body.append(element)
    body.append(section)
    content = io.BytesIO()
    document.save(content)
    write_bytes(path, content.getvalue())
    points = sum(question.points for group in groups for question in group.questions)
    failing = [shown(item.record.id).strip('"') for item in items if not item.usable]
    names = ", ".join(failing[:5]) + (", ..." if len(failing) > 5 else "")
    warning = f"; {len(failing)} of them fail a hard check ({names})" if failing else ""
    return f"paper     {path}: {len(items)} questions, {points} points{warning}"


# --- what stands on the paper -----------------------------------------------------------------------------------------


def _content(title: str, groups: Sequence[Group]) -> Iterator[Any]:
    subjects = [*dict.fromkeys(group.subject for group in groups)]
    questions = [question for group in groups for question in group.questions]
    points = sum(question.points for question in questions)
    yield paragraph("Title", [title])
    yield paragraph("卷头", [f"{'、'.join(subjects)}　　共 {len(questions)} 题　　满分 {points} 分"])
    for heading, question in _in_order(groups, len(subjects) > 1, "Heading1"):
        yield from heading
        yield from _question(question)
    yield paragraph("Heading1", ["参考答案与解析"], new_page=True)
    for heading, question in _in_order(groups, len(subjects) > 1, "学科"):
        yield from heading
        yield from _answer(question)


def _in_order(groups: Sequence[Group], by_subject: bool, style: str) -> Iterator[tuple[list[Any], Numbered]]:
    """Every question, with the headings above it."""
    before = ""
    for group in groups:
        heading = [paragraph(style, [group.subject])] if by_subject and group.subject != before else []
        heading.append(paragraph("Heading2", [group.heading]))
        before = group.subject
        for question in group.questions:
            yield heading, question
            heading = []


def _question(question: Numbered) -> Iterator[Any]:
    start = f"{question.number}．\t"
    if question.item.record.type == "主观题" and not question.stated:
        start += f"（{question.points} 分）"
    blocks = list(read_blocks(question.stem, question.latex)) or [Line(["（没有题干）"], False)]
    # The stem of a choice stays with its options; a longer one may be parted anywhere but behind its first line.
    together = any(isinstance(block, Line) and block.is_option for block in blocks)
    elements = [element for run in _runs(blocks, start) for element in run]
    for place, element in enumerate(elements[:-1]):
        if together or not place:
            keep_with_next(element)
    yield from elements


def _runs(blocks: Sequence[Line | Table], start: str) -> Iterator[list[Any]]:
    """The blocks of a stem, its first line behind `start`; options that follow each other are set in columns."""
    first = blocks[0]
    if isinstance(first, Line):
        yield [paragraph("题目", [start, *first.pieces])]
        blocks = blocks[1:]
    else:
        yield [paragraph("题目", [start])]
    for are_options, run in groupby(blocks, key=lambda block: isinstance(block, Line) and block.is_option):
        if are_options:
            yield list(_options([block.pieces for block in run if isinstance(block, Line)]))
        else:
            yield [element for block in run for element in _block(block)]


def _options(options: Sequence[Pieces]) -> Iterator[Any]:
    widest = max(line_width(pieces) for pieces in options)
    across = next(number for number, most in OPTIONS.items() if most is None or widest <= most)
    for begin in range(0, len(options), across):
        pieces: Pieces = []
        for place, option in enumerate(options[begin : begin + across]):
            pieces += ["\t", *option] if place else option
        yield paragraph(f"选项{across}", pieces)


def _answer(question: Numbered) -> Iterator[Any]:
    sections = question.item.sections
    # Without a 题干 all of the text stands above.
    parts = [sections["参考答案"], sections["解析"]] if sections["题干"] else ["", ""]
    start = f"{question.number}．\t"
    for name, text in zip(("【答案】", "【解析】"), parts, strict=True):
        blocks = list(read_blocks(printable(text), question.latex)) or [Line(["（缺）"], False)]
        first = blocks[0]
        style = "题目" if start else "题文"
        if isinstance(first, Line):
            yield paragraph(style, [start, name, *first.pieces])
            blocks = blocks[1:]
        else:
            yield paragraph(style, [start, name])
        for block in blocks:
            yield from _block(block)
        start = ""


def _block(block: Line | Table) -> list[Any]:
    if isinstance(block, Line):
        return [paragraph("题文", block.pieces)]
    if max(map(len, block.rows)) <= MOST_COLUMNS:
        return [table(block.rows), paragraph("表后", [])]
    return [paragraph("题文", [piece for cell in row for piece in (*cell, " | ")][:-1]) for row in block.rows]
