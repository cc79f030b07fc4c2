"""A text of a model as what it is made of, for whoever shows it: lines, options, Markdown tables and formulas."""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple
from xml.etree import ElementTree

from gaokao.text import OPTION_MARK, fold, formulas, option_run

# Elements that latex2mathml makes; anything else came from the text of a model.
MATHML = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "munder", "mover", "munderover", "mfrac", "msqrt", "mroot",
    "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose", "mmultiscripts", "mprescripts", "none", "merror",
}  # fmt: skip
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
# How many parts an element must have; of `\sum\limits x` the converter makes one without any.
_PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
_MACROS = re.compile(r"\\(?:def|newcommand|renewcommand|newenvironment|DeclareMathOperator)(?![A-Za-z])")
# What the converter does not know, or would number, and what draws the same.
_ENVIRONMENTS = {"aligned": "split", "align": "split", "align*": "split", "gathered": "matrix"}
_ENVIRONMENT = re.compile(r"\\(begin|end) *\{(aligned|align\*?|gathered)\}")
_RULE = re.compile(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?")


class Formula(NamedTuple):
    """A formula as it is written, with its marks, and as MathML; `None` where it cannot be drawn."""

    source: str
    drawn: ElementTree.Element | None


Pieces = list[str | Formula]


class Line(NamedTuple):
    """A line that is not empty."""

    pieces: Pieces
    is_option: bool


class Table(NamedTuple):
    """A Markdown table: rows of cells, the head first. Rows may differ in length."""

    rows: list[list[Pieces]]


def read_blocks(text: str, latex: bool = True) -> Iterator[Line | Table]:
    """The lines and tables of a text, each option on a line of its own.

    Args:
        text: as a model wrote it.
        latex: whether dollars are marks of formulas; in an English text they are money.
    """
    # An odd dollar would make formulas of what stands between the others.
    latex = latex and re.sub(r"\\\\|\\\$", "", text).count("$") % 2 == 0
    text = _options_apart(text.strip())
    lines = (_on_one_line(text) if latex else text).split("\n")
    starts = [*accumulate((len(line) + 1 for line in lines), initial=0)]
    marks: set[int] = set()
    rest = text
    while run := option_run(rest):
        marks |= {begin for _, begin, _ in run}
        rest = rest[: run[0][1]]
    place = 0
    while place < len(lines):
        end = place + 1
        if "|" in lines[place] and end < len(lines) and _RULE.fullmatch(lines[end].strip()):
            while end < len(lines) and "|" in lines[end]:
                end += 1
            yield Table([_cells(line, latex) for line in (lines[place], *lines[place + 2 : end])])
        elif line := lines[place].strip():
            mark = OPTION_MARK.match(fold(line))
            # `A: Hi, Tom.` is an option only among others, not in a dialogue.
            begin = starts[place] + lines[place].index(line)
            yield Line(_pieces(line, latex), bool(mark and (mark.group()[-1] != ":" or begin in marks)))
        place = end


def _options_apart(text: str) -> str:
    """The text with each option on a line of its own; many papers print two or four on one."""
    for _, begin, _ in reversed(option_run(text) or []):
        if begin and text[begin - 1] != "\n":
            text = text[:begin].rstrip(" \t\u3000") + "\n" + text[begin:]
    return text


def _on_one_line(text: str) -> str:
    """The text without line ends inside of formulas."""
    pieces, done = [], 0
    for start, end, _ in formulas(text):
        pieces += [text[done:start], text[start:end].replace("\n", " ")]
        done = end
    return "".join([*pieces, text[done:]])


def _cells(line: str, latex: bool) -> list[Pieces]:
    return [_pieces(cell.strip(), latex) for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _pieces(text: str, latex: bool) -> Pieces:
    pieces: Pieces = []
    done = 0
    for start, end, formula in formulas(text) if latex else ():
        pieces += [text[done:start], Formula(text[start:end], _mathml(formula))]
        done = end
    return [piece for piece in (*pieces, text[done:]) if piece]


# The same letters and small formulas stand in many questions; nothing changes what is drawn.
@lru_cache(maxsize=10_000)
def _mathml(latex: str) -> ElementTree.Element | None:
    from latex2mathml.converter import convert

    if _MACROS.search(latex):
        # A few definitions within each other make a text without end of some letters.
        return None
    try:
        # A percent sign begins a comment, which would swallow the rest.
        latex = re.sub(r"(?<!\\)\\?%", "\ue000", latex)
        # Of a single letter the converter forgets that it is upright.
        latex = re.sub(r"\\mathrm *\{ *([A-Za-z]) *\}", r"\\mathrm{{\1}}", latex)
        latex = _ENVIRONMENT.sub(lambda mark: f"\\{mark[1]}{{{_ENVIRONMENTS[mark[2]]}}}", latex)
        # The converter passes text on as it is: what would be markup is written as LaTeX writes it.
        drawn = ElementTree.fromstring(
            convert(latex.replace("<", r"\lt ").replace(">", r"\gt ")).replace("\ue000", "%")
        )
    # It raises errors of its own and of its parts for whatever is no LaTeX, and markup that is none for more.
    except Exception:  # noqa: BLE001
        return None
    names = [(element.tag.removeprefix(NAMESPACE), len(element)) for element in drawn.iter()]
    return drawn if all(name in MATHML and parts == _PARTS.get(name, parts) for name, parts in names) else None
