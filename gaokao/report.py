"""`report.html`: a results file as a teacher reads it, one page that needs nothing but itself."""

import html
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from gaokao.blocks import NAMESPACE, Formula, Line, Pieces, Table, read_blocks
from gaokao.checks import SPAN
from gaokao.comparison import ZH_NAMES
from gaokao.figures import LEAST_ITEMS, too_few
from gaokao.parallel import on_cores
from gaokao.records import PASSAGES, SUBJECTS, TYPES
from gaokao.results import OFF_PASSAGES, REPEATS, SOLVE_BACK, Generated, text_digest
from gaokao.runs import write_text
from gaokao.text import letters_and_places, shared_spans

TEMPLATE = Path(__file__).with_name("report.html")
# What a teacher is told of a check that failed.
FAILURES = {
    "sections": "缺少题干、参考答案或解析", "options": "选项不齐、为空或相同", "key": "答案不是选项字母", "key agrees": "解析的结论与答案不一致",
    "verdicts": "解析对选项的判断与答案矛盾", "leak words": "题干提到课本或课外内容", "material": "题干没有给出所说的材料", "picture": "要看图才能做",
    "quotes": "解析的引文不在材料里", "copied": "除了照抄的材料没有自己的话", "latex": "公式不完整", "repetition": "文字陷入重复", "truncated": "没有写完",
    "language": "不是中文题", REPEATS: "与别的题重复", OFF_PASSAGES: "更接近别的材料",
    SOLVE_BACK: "解题模型做出的答案与参考答案不同",
}  # fmt: skip
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
        opinions=opinions(summary),
        bars=[(name, row) for name in (*SUBJECTS, *TYPES) if (row := summary["usable_by"].get(name))],
        few=too_few(summary["usable_by"]),
        least=LEAST_ITEMS,
        failures=[(name, FAILURES[name], count) for name, count in failures.most_common()],
        subjects=[*dict.fromkeys(item.record.subject for item in items)],
        types=[*dict.fromkeys(item.record.type for item in items)],
        cards=on_cores(card, [*enumerate(items, 1)], len(items)),
        names=ZH_NAMES,
    )
    # Half of a surrogate pair, which JSON may hold, is no character of a page.
    write_text(path, page.encode("utf-8", "replace").decode())


def opinions(summary: Mapping[str, Any]) -> list[str]:
    """What other models say of the questions, and what that is worth."""
    sentences = []
    if found := summary.get("solve_back"):
        row, real = found["all"]["agreement"], found["all"]["accuracy"]
        text = f"不看答案解题：能解的 {row['items']} 道选择题中，{row['passed']} 道的参考答案得到解题模型证实。"
        if found["all"]["above_chance"] is None:
            text += "它做真题的正确率没有测过，这个数字还不能说明什么。"
        else:
            text += f"同一模型做参考题，{real['items']} 道对 {real['passed']} 道"
            text += "。" if found["all"]["above_chance"] else "，看不出比乱猜好，它的判断不能说明什么。"
        sentences.append(text)
    if judged := summary.get("judge"):
        means = "，".join(
            f"{name} {'–' if row['mean'] is None else format(row['mean'], '.2f')}"
            for name, row in judged["dimensions"].items()
        )
        sentences.append(f"评审模型打分（0 到 2 分，{judged['items']} 道）：{means}。")
    return sentences


def card(number: int, item: Generated) -> dict[str, Any]:
    """What the page shows of one question."""
    record, sections = item.record, item.sections
    whole, latex = not item.question.missing, record.subject != "英语"
    return {
        "number": number,
        "id": record.id,
        "digest": text_digest(item),
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
    return Markup("\n").join(_block(block) for block in read_blocks(text, latex))


def _block(block: Line | Table) -> Markup:
    if isinstance(block, Table):
        return _table(block.rows)
    return Markup('<p class="{}">{}</p>').format("option" if block.is_option else "line", _inline(block.pieces))


def _table(rows: Sequence[Sequence[Pieces]]) -> Markup:
    def cells(row: Sequence[Pieces], tag: str) -> Markup:
        return Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(_inline(cell)) for cell in row)

    body = Markup("").join(Markup("<tr>{}</tr>").format(cells(row, "td")) for row in rows[1:])
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(cells(rows[0], "th"), body)


def _inline(pieces: Pieces) -> Markup:
    return Markup("").join(_formula(piece) if isinstance(piece, Formula) else escape(piece) for piece in pieces)


def _formula(formula: Formula) -> Markup:
    """A formula as MathML; as its source where it cannot be drawn."""
    if formula.drawn is None:
        return Markup('<code class="broken">{}</code>').format(formula.source)
    return _drawn(formula.drawn)


# Equal formulas are drawn once, see `blocks`, and stand in a question, its explanation and its reference.
@lru_cache(maxsize=10_000)
def _drawn(formula: ElementTree.Element) -> Markup:
    return Markup("".join(_markup(formula)))


def _markup(element: ElementTree.Element) -> Iterator[str]:
    """The element again, of known attributes only."""
    name = element.tag.removeprefix(NAMESPACE)
    attributes = "".join(
        f' {key}="{html.escape(value)}"' for key, value in element.attrib.items() if key in _ATTRIBUTES
    )
    yield f"<{name}{attributes}>{html.escape(element.text or '')}"
    for child in element:
        yield from _markup(child)
        yield html.escape(child.tail or "")
    yield f"</{name}>"
