"""How Word keeps a paper: its paragraphs, formulas, tables, styles and page, through python-docx."""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from gaokao.blocks import Formula, Pieces
from gaokao.omml import office_math, width
from gaokao.text import columns

_NO_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A line holds 43 Han characters; what is within it is measured in halves of one, and tab stops in points.
SIZE, INDENT, LINE = 10.5, 27, 453
# So many options stand on a line where each of them is at most so wide.
OPTIONS = {4: 19, 2: 39, 1: None}
# Word has no table with more.
MOST_COLUMNS = 63


def printable(text: str) -> str:
    """The text without what no XML file can hold: halves of surrogate pairs and control characters."""
    return _NO_XML.sub("\ufffd", text.replace("\r\n", "\n"))


def line_width(pieces: Pieces) -> int:
    """Printed width of a line, in half-width characters."""
    return sum(
        columns(piece) if isinstance(piece, str)
        else columns(piece.source) if piece.drawn is None
        else width(piece.drawn)
        for piece in pieces
    )  # fmt: skip


def _element(name: str, /, *children: Any, **attributes: str | int) -> Any:
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    element = OxmlElement(f"w:{name}")
    for key, value in attributes.items():
        element.set(qn(f"w:{key}"), str(value))
    element.extend(children)
    return element


def paragraph(style: str, pieces: Sequence[str | Formula], *, new_page: bool = False) -> Any:
    """A paragraph of texts and formulas, as an element of python-docx; `style` is the id of one."""
    properties = _element("pPr", _element("pStyle", val=style))
    if new_page:
        properties.append(_element("pageBreakBefore"))
    return _element("p", properties, *(_run(piece) if isinstance(piece, str) else _formula(piece) for piece in pieces))


def _run(text: str) -> Any:
    run = _element("r")
    run.text = text
    return run


def _formula(formula: Formula) -> Any:
    """A formula; its source where it cannot be drawn."""
    from docx.oxml import parse_xml

    if formula.drawn is not None:
        with suppress(ValueError):
            return parse_xml(ElementTree.tostring(office_math(formula.drawn)))
    return _run(formula.source)


def keep_with_next(element: Any) -> None:
    """Keep a paragraph, or every row of a table, on the page of what follows it."""
    from docx.oxml.ns import qn

    for part in [element] if element.tag == qn("w:p") else element.iter(qn("w:p")):
        part.pPr.keepNext_val = True


def table(rows: Sequence[Sequence[Pieces]]) -> Any:
    """A table with lines, centred, as wide as its texts; at most as wide as the page."""
    across = max(map(len, rows))
    cells = [[*row, *([[]] * (across - len(row)))] for row in rows]
    # In points, with room on both sides of a text; a table that is wider than the page is made narrower.
    wide = [max(line_width(row[place]) for row in cells) * SIZE / 2 + 14 for place in range(across)]
    scale = min(1, (LINE - INDENT) / sum(wide))
    grid = [round(20 * scale * points) for points in wide]
    return _element(
        "tbl",
        _element("tblPr", _element("tblStyle", val="TableGrid"), _element("tblW", w=0, type="auto"), _element("jc", val="center")),
        _element("tblGrid", *(_element("gridCol", w=twips) for twips in grid)),
        *(
            _element(
                "tr",
                _element("trPr", _element("cantSplit")),
                *(
                    _element("tc", _element("tcPr", _element("tcW", w=twips, type="dxa")), paragraph("表格", cell))
                    for twips, cell in zip(grid, row, strict=True)
                ),
            )
            for row in cells
        ),
    )  # fmt: skip


def new_document(title: str) -> Any:
    """An empty A4 document of python-docx with the styles and the footer of a paper."""
    import docx
    from docx.oxml.ns import qn
    from docx.shared import Cm

    document: Any = docx.Document()
    section = document.sections[0]
    section.page_width, section.page_height = Cm(21), Cm(29.7)
    section.left_margin = section.right_margin = section.top_margin = section.bottom_margin = Cm(2.5)
    _add_styles(document.styles)
    language = document.styles.element.find(".//" + qn("w:lang"))
    language.set(qn("w:eastAsia"), "zh-CN")
    # Word names every file without it one of an older Word.
    mode = _element("compatSetting", name="compatibilityMode", uri="http://schemas.microsoft.com/office/word", val=15)
    document.settings.element.find(qn("w:compat")).append(mode)
    properties = document.core_properties
    properties.title, properties.author, properties.comments = title[:255], "", ""
    properties.created = properties.modified = datetime.now(UTC)
    footer = section.footer.paragraphs[0]
    footer.style = document.styles["页码"]
    for piece in ("第 ", "PAGE", " 页　共 ", "NUMPAGES", " 页"):
        footer._p.append(_element("fldSimple", _run("1"), instr=piece) if piece.isupper() else _run(piece))
    return document


def _add_styles(styles: Any) -> None:
    """The styles of the template that are used, as a Chinese paper has them, and its own."""
    from docx.enum.style import WD_STYLE_TYPE
    from docx.enum.text import WD_ALIGN_PARAGRAPH
    from docx.oxml.ns import qn
    from docx.shared import Pt

    def style(name: str, size: float = SIZE, font: str = "宋体", indent: float = 0, hanging: float = 0) -> Any:
        found = styles[name] if name in styles else styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH)
        _set_font(found, size, font)
        layout = found.paragraph_format
        layout.left_indent, layout.first_line_indent = Pt(indent), Pt(-hanging)
        layout.space_before = layout.space_after = Pt(0)
        layout.line_spacing = 1.25
        return found

    style("Normal")
    centred = [style("Title", 18, "黑体"), style("卷头"), style("表格"), style("页码", 9)]
    for found in centred:
        found.paragraph_format.alignment = WD_ALIGN_PARAGRAPH.CENTER
    centred[0].element.pPr.remove(centred[0].element.pPr.find(qn("w:pBdr")))
    headings = [style("Heading 1", 15, "黑体"), style("Heading 2", 12, "黑体"), style("学科", 12, "黑体")]
    for found in [*headings, centred[0]]:
        found.paragraph_format.space_before = found.paragraph_format.space_after = Pt(6)
        found.paragraph_format.keep_with_next = True
    headings[0].paragraph_format.alignment = WD_ALIGN_PARAGRAPH.CENTER
    question = style("题目", indent=INDENT, hanging=INDENT).paragraph_format
    question.space_before, question.keep_together = Pt(4), True
    style("题文", indent=INDENT)
    style("表后", 4).paragraph_format.line_spacing = 1.0
    for across in OPTIONS:
        hanging = 18 if across == 1 else 0
        options = style(f"选项{across}", indent=INDENT + hanging, hanging=hanging)
        for place in range(1, across):
            options.paragraph_format.tab_stops.add_tab_stop(Pt(INDENT + place * (LINE - INDENT) / across))


def _set_font(style: Any, size: float, name: str) -> None:
    from docx.oxml.ns import qn
    from docx.shared import Pt, RGBColor

    font = style.font
    font.name, font.size, font.bold, font.color.rgb = "Times New Roman", Pt(size), False, RGBColor(0, 0, 0)
    fonts = style.element.rPr.rFonts
    for key in [key for key in fonts.attrib if key.endswith("Theme")]:
        del fonts.attrib[key]
    fonts.set(qn("w:eastAsia"), name)
