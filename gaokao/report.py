"""`report.html`: a results file as a teacher reads it, one page that needs nothing but itself."""

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from gaokao.checks import SPAN
from gaokao.comparison import ZH_NAMES
from gaokao.records import PASSAGES, SUBJECTS, TYPES
from gaokao.results import OFF_PASSAGES, REPEATS, Generated
from gaokao.runs import write_text
from gaokao.text import OPTION_MARK, fold, formulas, letters_and_places, option_run, shared_spans

TEMPLATE = Path(__file__).with_name("report.html")
# What a teacher is told of a check that failed.
FAILURES = {
    "sections": "缺少题干、参考答案或解析", "options": "选项不齐、为空或相同", "key": "答案不是选项字母", "key agrees": "解析的结论与答案不一致",
    "verdicts": "解析对选项的判断与答案矛盾", "leak words": "题干提到课本或课外内容", "material": "题干没有给出所说的材料", "picture": "要看图才能做",
    "quotes": "解析的引文不在材料里", "copied": "除了照抄的材料没有自己的话", "latex": "公式不完整", "repetition": "文字陷入重复", "truncated": "没有写完",
    "language": "不是中文题", REPEATS: "与别的题重复", OFF_PASSAGES: "更接近别的材料",
}  # fmt: skip
# Elements that latex2mathml makes; anything else came from the text of a model.
MATHML = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "munder", "mover", "munderover", "mfrac", "msqrt", "mroot",
    "mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "menclose", "mmultiscripts", "mprescripts", "none", "merror",
}  # fmt: skip
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_ATTRIBUTES = {
    "display",
    "mathvariant",
    "stretchy",
    "fence",
    "form",
    "columnalign",
    "linethickness",
    "width",
    "accent",
    "notation",
}
_MACROS = re.compile(r"\\(?:def|newcommand|renewcommand|newenvironment|DeclareMathOperator)(?![A-Za-z])")
_RULE = re.compile(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?")


def write_report(
    path: Path, items: Sequence[Generated], summary: Mapping[str, Any], against: Sequence[str] = ()
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the page.
        items: the questions, in the order in which they stand on it.
        summary: their figures, as `evaluate.summarize` gives them.
        against: the sentences of a comparison.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.0f}%"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    failures = Counter(name for item in items for name in item.failed)
    page = template.render(
        title="/".join(path.resolve().parts[-3:-1]),
        summary=summary,
        against=against,
        bars=[(name, row) for name in (*SUBJECTS, *TYPES) if (row := summary["usable_by"].get(name))],
        failures=[(name, FAILURES[name], count) for name, count in failures.most_common()],
        subjects=[*dict.fromkeys(item.record.subject for item in items)],
        types=[*dict.fromkeys(item.record.type for item in items)],
        cards=[card(number, item) for number, item in enumerate(items, 1)],
        names=ZH_NAMES,
    )
    # Half of a surrogate pair, which JSON may hold, is no character of a page.
    write_text(path, page.encode("utf-8", "replace").decode())


def card(number: int, item: Generated) -> dict[str, Any]:
    """What the page shows of one question."""
    record, sections = item.record, item.sections
    whole, latex = not item.question.missing, record.subject != "英语"
    return {
        "number": number,
        "id": record.id,
        "subject": record.subject,
        "type": record.type,
        "hints": [hint for hint in (record.difficulty, record.topic, str(record.extra.get("passage", ""))) if hint],
        "usable": item.usable,
        "failures": [
            (row["check"], FAILURES[row["check"]], row["evidence"], row["hard"]) for row in item.failed_checks
        ],
        "attempts": len(item.attempts),
        "question": marked_up(sections["题干"], latex) if whole else marked_up(item.text, latex),
        "answer": marked_up(sections["参考答案"], latex) if whole else Markup(""),
        "analysis": marked_up(sections["解析"], latex) if whole else Markup(""),
        "passages": [
            (name, marked_passage(passage, item.question.question))
            for name in PASSAGES
            if (passage := record.passage(name))
        ],
        "reference": marked_up(item.reference, latex) if item.reference else Markup(""),
        "words": f"{item.text} {record.topic} {record.id}".lower(),
    }


def marked_passage(passage: str, question: str) -> Markup:
    """A passage with what the question takes over word for word between marks."""
    text, places = letters_and_places(passage)
    pieces, done = [], 0
    for start, end in shared_spans(text, letters_and_places(question)[0], SPAN):
        begin, stop = places[start], places[end - 1] + 1
        pieces += [escape(passage[done:begin]), Markup("<mark>{}</mark>").format(passage[begin:stop])]
        done = stop
    return Markup("").join([*pieces, escape(passage[done:])])


def marked_up(text: str, latex: bool = True) -> Markup:
    """Paragraphs, options, Markdown tables and formulas of a text as HTML; whatever else it holds stays text.

    Args:
        text: as a model wrote it.
        latex: whether dollars are marks of formulas; in an English text they are money.
    """
    blocks: list[Markup] = []
    # An odd dollar would make formulas of what stands between the others.
    latex = latex and re.sub(r"\\\\|\\\$", "", text).count("$") % 2 == 0
    text = _options_apart(text.strip())
    lines = (_on_one_line(text) if latex else text).split("\n")
    place = 0
    while place < len(lines):
        end = place + 1
        if "|" in lines[place] and end < len(lines) and _RULE.fullmatch(lines[end].strip()):
            while end < len(lines) and "|" in lines[end]:
                end += 1
            blocks.append(_table(lines[place], lines[place + 2 : end], latex))
        elif line := lines[place].strip():
            kind = "option" if OPTION_MARK.match(fold(line)) else "line"
            blocks.append(Markup('<p class="{}">{}</p>').format(kind, _inline(line, latex)))
        place = end
    return Markup("\n").join(blocks)


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


def _table(head: str, rows: Sequence[str], latex: bool) -> Markup:
    def cells(line: str, tag: str) -> Markup:
        inner = line.strip().removeprefix("|").removesuffix("|").split("|")
        return Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(_inline(cell.strip(), latex)) for cell in inner)

    body = Markup("").join(Markup("<tr>{}</tr>").format(cells(row, "td")) for row in rows)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(cells(head, "th"), body)


def _inline(text: str, latex: bool) -> Markup:
    pieces, done = [], 0
    for start, end, formula in formulas(text) if latex else ():
        pieces += [escape(text[done:start]), _formula(formula, text[start:end])]
        done = end
    return Markup("").join([*pieces, escape(text[done:])])


def _formula(latex: str, source: str) -> Markup:
    """A formula as MathML; as its source where it cannot be drawn."""
    from latex2mathml.converter import convert

    if _MACROS.search(latex):
        # A few definitions within each other make a text without end of some letters.
        return Markup('<code class="broken">{}</code>').format(source)
    try:
        # A percent sign begins a comment, which would swallow the rest.
        latex = re.sub(r"(?<!\\)\\?%", "\ue000", latex)
        # The converter passes text on as it is: what would be markup is written as LaTeX writes it.
        drawn = ElementTree.fromstring(
            convert(latex.replace("<", r"\lt ").replace(">", r"\gt ")).replace("\ue000", "%")
        )
        return Markup("".join(_clean(drawn)))
    # It raises errors of its own and of its parts for whatever is no LaTeX, and markup that is none for more.
    except Exception:  # noqa: BLE001
        return Markup('<code class="broken">{}</code>').format(source)


def _clean(element: ElementTree.Element) -> Iterator[str]:
    """The element again, of known names and attributes only."""
    name = element.tag.removeprefix(NAMESPACE)
    if name not in MATHML:
        raise ValueError(name)
    attributes = "".join(
        f' {key}="{html.escape(value)}"' for key, value in element.attrib.items() if key in _ATTRIBUTES
    )
    yield f"<{name}{attributes}>{html.escape(element.text or '')}"
    for child in element:
        yield from _clean(child)
        yield html.escape(child.tail or "")
    yield f"</{name}>"
