"""A teacher's chapter becomes records: a text, Markdown or Word file, cut into passages that a prompt takes.

    python infer_qwen_gaokao.py --textbook chapter.txt --subject 历史 --type 单选题 --count 5 --outside news.txt

Nothing of the text is lost but white space, whatever it looks like; what cannot be read as text is refused. Of a Word
file, pictures, footnotes, and the numbers that Word counts itself are not read.
"""

import argparse
import io
import os
import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gaokao.config import MAX_RUN_BYTES, WINDOWS_NAMES
from gaokao.errors import Errors, UserError, elsewhere, faults_text, first_line
from gaokao.records import HEADER, OUTSIDE, SUBJECTS, TEXTBOOK, TYPE_ALIASES, TYPES, Record, parse_record
from gaokao.runs import several_processes
from gaokao.sources import OLE2, ZIP, Raw, decode_lines
from gaokao.text import shorten

STDIN = "-"
MAX_COUNT = 1000
MAX_CHARS = 500_000
MAX_OUTSIDE_CHARS = 2_000
# No character has more bytes in UTF-8. Beyond this a text file is too long whatever it holds, and is not read on.
MAX_BYTES = 4 * MAX_CHARS

# Characters of a passage. A question needs the facts of a few paragraphs, not more: 800 characters are about 550 tokens
# of Qwen2.5, so that a prompt with its instructions and an answer of 1,024 tokens stay within the 2,048 tokens of a
# training row. Below a third of it a passage is filled up with what follows, and one shorter than the shortest is left
# only where the text itself is.
LIMIT, FULL_ENOUGH, SHORTEST = 800, 267, 100

# Where a text is cut, the best place first: before a heading (a chapter before a section), at a blank line, where a
# sentence ends with its line, where one ends, where a line does (many texts are broken into lines of one length), where a
# clause ends; behind a heading and anywhere else only where nothing else is left.
HEADINGS = (
    re.compile(
        r"#(?!#)|第[一二三四五六七八九十百零〇两\d]+(?:章|单元|编|篇|部分)|(?:Unit|Chapter|Lesson)\s*\d", re.IGNORECASE
    ),
    re.compile(r"##(?!#)|第[一二三四五六七八九十百零〇两\d]+(?:节|课|讲|框|目)"),
    re.compile(r"#{3,6}(?!#)|[一二三四五六七八九十]+、"),
    re.compile(r"[（(][一二三四五六七八九十]+[）)]"),
)
BLANK_LINE, PARAGRAPH, SENTENCE, LINE, CLAUSE, HEADING, ANYWHERE = range(len(HEADINGS), len(HEADINGS) + 7)
HEADING_CHARS = 40
SENTENCE_END = re.compile(r"[。！？!?；;…]+[”’」』）)\"']*|\.[”\"')]*(?=\s)")
SENTENCE_AT_END = re.compile(r"[。！？!?；;…：:.][”’」』）)\"']*\Z")
CLAUSE_END = re.compile(r"[，、：,:]+")
TEXT_REMEDY = "save it as .docx or as UTF-8 text"


class Chapter(NamedTuple):
    """The records of the questions that were asked for, and the name of the folder for them."""

    records: list[Record]
    name: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that ask for questions on a chapter."""
    parser.add_argument(
        "--textbook", metavar="FILE", help="questions on this chapter: .txt, .md, .docx, or - for stdin"
    )
    parser.add_argument("--subject", help=f"with --textbook: {' '.join(SUBJECTS)}")
    parser.add_argument("--type", help=f"with --textbook: {' '.join(TYPES)}")
    parser.add_argument("--count", type=int, metavar="N", help="with --textbook: so many questions; not given: 1")
    parser.add_argument(
        "--outside", metavar="FILE", help="with --textbook: other material for all of them, as 课外内容"
    )


def asked(actions: argparse.Namespace) -> Chapter | None:
    """The questions that the options of `add_options` ask for; `None` without --textbook.

    Raises:
        UserError: options that are missing, unknown or out of bounds, all of them together; or a file that cannot be
            used: not there, not text, empty, too long, or with what a record must not hold.
    """
    kind = TYPE_ALIASES.get(_word(actions.type), _word(actions.type))
    if problems := list(_problems(actions, kind)):
        if len(problems) == 1:
            raise UserError(f"command line: {problems[0]}")
        raise UserError(faults_text(f"the command line has {len(problems)} error(s):", problems))
    if actions.textbook is None:
        return None
    text = read_text(actions.textbook, MAX_CHARS, "cut it into chapters, one file each")
    outside = ""
    if actions.outside is not None:
        outside = read_text(actions.outside, MAX_OUTSIDE_CHARS, "keep what the questions are to use")
    base = {"subject": _word(actions.subject), "type": kind}
    name = _folder_name(actions.textbook)
    records = _records(cut(text), outside, base, name, _shown(actions.textbook), _shown(actions.outside))
    return Chapter(_spread(records, actions.count or 1), name)


def _word(value: str | None) -> str:
    return (value or "").strip()


def _problems(actions: argparse.Namespace, kind: str) -> Iterator[str]:
    """What is wrong with the options."""
    if actions.textbook is None:
        for name in ("outside", "subject", "type", "count"):
            if getattr(actions, name) is not None:
                yield f"--{name} belongs to --textbook; give --textbook FILE as well, or leave --{name} out"
        return
    if actions.textbook == actions.outside == STDIN:
        yield "--textbook and --outside are both -, but there is one standard input; give one of them as a file"
    if STDIN in (actions.textbook, actions.outside) and several_processes():
        yield "- is the standard input, which several processes cannot read; give a file instead"
    choices = (("subject", _word(actions.subject), SUBJECTS, SUBJECTS), ("type", kind, TYPES, (*TYPES, *TYPE_ALIASES)))
    for name, value, known, shown in choices:
        if not value:
            yield f"--{name} is missing; it must be one of {' '.join(shown)}"
        elif value not in known:
            yield f"--{name} {shorten(value)}: must be one of {' '.join(shown)}"
    if actions.count is not None and not 1 <= actions.count <= MAX_COUNT:
        yield f"--count {actions.count}: must be from 1 to {MAX_COUNT:,}"


def _shown(source: str | None) -> str:
    return "standard input" if source == STDIN else str(source)


def _folder_name(source: str) -> str:
    """The name of a file as `output.run` takes it."""
    stem = "stdin" if source == STDIN else Path(source).stem
    name = "".join(
        "_" if letter in '/\\:*?"<>|' or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter in stem
    )
    name = name.encode()[:MAX_RUN_BYTES].decode("utf-8", "ignore").strip().rstrip(". ")
    return f"_{name}" if not name or name.split(".")[0].upper() in WINDOWS_NAMES else name


# --- records ----------------------------------------------------------------------------------------------------------


def _records(
    passages: Sequence[str], outside: str, base: dict[str, str], name: str, source: str, outside_source: str
) -> list[Record]:
    """One record for each passage, checked as those of a data file.

    Raises:
        UserError: a passage or the other material holds what a record must not hold.
    """
    errors = Errors[str]()
    other, found = parse_record(
        Raw(outside_source, {**base, "id": OUTSIDE, TEXTBOOK: "", OUTSIDE: outside}), 0, "generate"
    )
    errors.add(*found)
    records: list[Record] = []
    digits = max(2, len(str(len(passages))))
    for number, passage in enumerate(passages, 1):
        words = passage.splitlines()[0].lstrip("# ")
        row = {
            **base,
            "id": f"{name}-{number:0{digits}}",
            TEXTBOOK: passage,
            "passage": f"第{number}段，共{len(passages)}段：{shorten(words)}",
        }
        record, found = parse_record(Raw(source, row), number - 1, "generate")
        errors.add(*found)
        if record is not None and other is not None:
            records.append(replace(record, outside=other.outside))
    if errors.count:
        raise UserError(errors.text(f"{source}: {errors.count:,} error(s) in the text:"))
    return records


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """So many questions, spread evenly over the passages and in their order; each has an id of its own."""
    asked_for = [0] * len(records)
    for number in range(count):
        # The middle of each of `count` equal parts of the chapter.
        asked_for[(2 * number + 1) * len(records) // (2 * count)] += 1
    return [
        record if number == 1 else replace(record, id=f"{record.id}-{number}")
        for record, times in zip(records, asked_for, strict=True)
        for number in range(1, times + 1)
    ]


# --- cutting ----------------------------------------------------------------------------------------------------------


def cut(text: str, limit: int = LIMIT) -> list[str]:
    """The passages of a text, none longer than `limit`, none empty; only white space is dropped.

    A passage ends at a heading or a paragraph where it can; one paragraph that is too long is cut at sentence ends. A
    heading leads the passage behind it.
    """
    lines = [line.strip() for line in text.splitlines()]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    places = _places(text)
    full, shortest = (max(1, limit * size // LIMIT) for size in (FULL_ENOUGH, SHORTEST))
    passages: list[str] = []
    start = 0
    while len(text) - start > limit:
        rest = len(text) - start
        stop = (
            _best(places[: PARAGRAPH + 1], start + full, start + min(limit, rest - full))
            or _best(places[: PARAGRAPH + 1], start + shortest, start + min(limit, rest - shortest))
            or _best(places, start + full, start + min(limit, rest - full))
            or start + min(limit, rest - full)
        )
        passages.append(text[start:stop].strip())
        start = stop
    return [passage for passage in (*passages, text[start:].strip()) if passage]


def _best(places: Sequence[Sequence[int]], low: int, high: int) -> int | None:
    """The last place of the best kind from `low` to `high`."""
    for positions in places:
        at = bisect_right(positions, high)
        if at > bisect_left(positions, low):
            return positions[at - 1]
    return None


def _places(text: str) -> list[list[int]]:
    """Where the text may be cut, by kind from the best to the worst; positions in rising order."""
    places: list[list[int]] = [[] for _ in range(ANYWHERE)]
    lines = text.split("\n")
    levels = [_level(line) for line in lines]
    # Headings at the end lead nothing; they stay with what stands before them.
    last = max(
        (number for number, (line, level) in enumerate(zip(lines, levels, strict=True)) if line and level is None),
        default=0,
    )
    start, behind_heading, before = 0, False, ""
    for number, (line, level) in enumerate(zip(lines, levels, strict=True)):
        if line and start:
            if behind_heading or number > last:
                kind = HEADING
            elif level is not None:
                kind = level
            elif not lines[number - 1]:
                kind = BLANK_LINE
            else:
                kind = PARAGRAPH if before[-1] == "|" or SENTENCE_AT_END.search(before) else LINE
            places[kind].append(start)
        if line:
            behind_heading, before = level is not None, line
        # The row of a table is left whole if it can be.
        if level is None and number <= last and (line[:1] != "|" or len(line) > LIMIT):
            for kind, pattern in ((SENTENCE, SENTENCE_END), (CLAUSE, CLAUSE_END)):
                stops = [match.end() for match in pattern.finditer(line)]
                # What follows would become the first line of a passage, and must not become a header of the answer.
                places[kind] += [start + stop for stop in stops if not HEADER.match(line[stop : stop + 60].strip())]
        start += len(line) + 1
    return places


def _level(line: str) -> int | None:
    """How high a heading stands, 0 the highest; `None` for other lines."""
    if len(line) > HEADING_CHARS or line.endswith(tuple("。；;，,、…")):
        return None
    return next((level for level, pattern in enumerate(HEADINGS) if pattern.match(line)), None)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_text(source: str, most: int, remedy: str) -> str:
    """The text of a file in UTF-8 or of a Word file (.docx), or of standard input (`-`).

    Args:
        source: the file, or `-`.
        most: characters that it may have, white space around it not counted.
        remedy: what to do about a longer one.

    Raises:
        UserError: it cannot be read, is not text, is empty, or too long.
    """
    where = _shown(source)
    word = source != STDIN and source.lower().endswith(".docx")
    data, size = _read_bytes(source, None if word else MAX_BYTES + 1)
    if problem := _other_format(data, word):
        raise UserError(f"{where}: {problem}")
    if not word and size > MAX_BYTES:
        raise UserError(f"{where}: has {size:,} bytes, at most {most:,} characters are taken; {remedy}")
    if word:
        text = _read_word(where, data)
    else:
        text = "".join(decode_lines(io.BytesIO(data), where if source == STDIN else Path(source)))
    text = text.strip()
    if not text:
        raise UserError(f"{where}: holds no text; put the text itself into it (pictures of pages need OCR first)")
    if len(text) > most:
        raise UserError(f"{where}: has {len(text):,} characters, at most {most:,} are taken; {remedy}")
    return text


def _read_bytes(source: str, most: int | None) -> tuple[bytes, int]:
    """The first `most` bytes, and how many there are as far as that is known."""
    if source == STDIN:
        if sys.stdin is None:
            raise UserError("standard input: is closed; send the text to it, or name a file")
        data = sys.stdin.buffer.read()
        return data, len(data)
    try:
        if os.path.isdir(source):
            raise UserError(f"{source}: is a folder; name one file in it")
        with open(source, "rb") as file:
            data = file.read(-1 if most is None else most)
            return data, max(len(data), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise UserError(f"{source}: there is no such file; check the name{elsewhere(source)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{source}: cannot be read ({reason}); check the file and its permissions") from None


def _other_format(data: bytes, word: bool) -> str:
    """What is wrong with a file that begins like this, whatever its name; empty if it may be text, or Word if `word`."""
    start = data[:1024].lstrip().lower()
    if b"%PDF" in data[:1024]:
        return f"is a PDF; {TEXT_REMEDY}, or copy its text out (a scanned PDF is pictures of pages and needs OCR first)"
    if data.startswith(OLE2):
        return "is a .doc of old, or has a password; open it and save it as .docx without a password, or as UTF-8 text"
    if start.startswith(b"{\\rtf"):
        return f"is an RTF file; {TEXT_REMEDY}"
    if start.startswith((b"<!doctype html", b"<html")):
        return f"is a web page; open it, copy its text, and {TEXT_REMEDY}"
    if data.startswith(ZIP):
        if word:
            return ""
        return "is a Word file or another packed one, not text; name it .docx if it is Word, else unpack it"
    if word and data:
        return "is not a .docx file; open it in Word or WPS and save it as .docx, or name it .txt if it is text"
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"is not text (it holds NUL bytes); {TEXT_REMEDY} (a picture of a page needs OCR first)"
    return ""


def _read_word(where: str, data: bytes) -> str:
    if not data:
        return ""
    try:
        import docx
    except ImportError:
        raise UserError(
            f"{where}: reading .docx needs python-docx: pip install python-docx (or save it as UTF-8 text)"
        ) from None
    try:
        document: Any = docx.Document(io.BytesIO(data))
        # Those of Word, the embedded ones of MathType, fields that draw one, and letters of a font of symbols.
        field = "starts-with(translate(normalize-space(.), 'EQ', 'eq'), 'eq ')"
        formulas = len(document.element.body.xpath(f".//m:oMath | .//w:object | .//w:instrText[{field}] | .//w:sym"))
        text = "\n\n".join(_blocks(document))
    except Exception as error:  # noqa: BLE001 - what a damaged file does to zip, XML and python-docx has no common type
        raise UserError(
            f"{where}: is not a .docx file, or damaged or cut off ({first_line(error)}); open it in Word or WPS and save "
            "it again, or copy it again"
        ) from None
    if formulas:
        raise UserError(
            f"{where}: has {formulas:,} formula(s) or other embedded objects, which would be missing from the text; save "
            "it as UTF-8 text in Word, which writes its own formulas out, or write them as text"
        )
    return text


def _blocks(document: Any) -> Iterator[str]:
    """Paragraphs and tables in their order, those in frames and content controls as well."""
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    for block in document.element.body.xpath(".//*[self::w:p or self::w:tbl][not(ancestor::w:p or ancestor::w:tbl)]"):
        if block.tag.endswith("}tbl"):
            yield _table(Table(block, document))
            continue
        style = Paragraph(block, document).style
        found = re.match(r"(?:heading|标题) ?([1-6])|title$", (style and style.name) or "", re.IGNORECASE)
        text = _word_text(block)
        yield f"{'#' * int(found[1] or 1)} {text}" if found and text.strip() else text


def _table(table: Any) -> str:
    """A table as Markdown; one of a single column is a frame around paragraphs."""
    seen: set[Any] = set()
    rows: list[list[str]] = []
    for row in table.rows:
        cells: list[str] = []
        for cell in row.cells:
            # A merged cell is given once for each that it covers.
            cells.append(
                "" if cell._tc in seen else "\n".join(map(_word_text, cell._tc.xpath("./*[not(self::w:tcPr)]")))
            )
            seen.add(cell._tc)
        rows.append(cells)
    if not any(text.strip() for cells in rows for text in cells):
        return ""
    if max(map(len, rows)) < 2:
        return "\n\n".join(text for cells in rows for text in cells)
    lines = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _word_text(element: Any) -> str:
    """The text in an element, with hyperlinks, insertions and text boxes, without what was deleted, moved away or is pinyin.

    Not `Paragraph.text` of python-docx, which knows neither insertions nor content controls.
    """
    parts = element.xpath(
        ".//*[self::w:p or parent::w:r and (self::w:t or self::w:tab or self::w:br or self::w:cr or self::w:noBreakHyphen)]"
        "[not(ancestor::*[local-name() = 'Fallback'] or ancestor::w:moveFrom or ancestor::w:rt)]"
    )
    marks = {"tab": "\t", "br": "\n", "cr": "\n", "p": "\n", "noBreakHyphen": "-"}
    names = ((part, part.tag.rpartition("}")[2]) for part in parts)
    return "".join(_raised(part) if name == "t" else marks[name] for part, name in names)


# 10⁸ and H₂O; what has no such letter is written as in LaTeX.
_RAISED = {
    "superscript": ("^", str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")),
    "subscript": ("_", str.maketrans("0123456789+-−()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎")),
}


def _raised(part: Any) -> str:
    """The text of a `w:t`, raised or lowered where its run is."""
    text = part.text or ""
    for how in part.xpath("../w:rPr/w:vertAlign/@w:val"):
        if how in _RAISED and text.strip():
            mark, letters = _RAISED[how]
            moved = text.translate(letters)
            return moved if not set(moved) & set(text) else f"{mark}{{{text}}}"
    return text
