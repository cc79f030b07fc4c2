"""Cleaning what the print of an exam left in a text: hard line breaks, spaces, blanks, numbering, marks, section markers."""

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from gaokao.text import CHOICE_TYPES, columns, normalize, option_run, split_options, split_set

# Several single-choice questions about one text. The records are 单选题 with a list of answers; the name of its own lets
# `--types 单选题` select items with one answer only.
SET = "单选题组"

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
CJK = (
    HAN
    + "\u2190-\u2193\u3001-\u301f\u303f\uff01-\uff65\ufe30-\ufe6f"
    + "\u2013-\u2015\u2018-\u201d\u2022\u2026\u2460-\u24ff\u25aa"
)
MATH = re.compile(r"(\$\$[^$]*\$\$|\$[^$]*\$)")
BLANK = "____"
EMPTY_PARENTHESES = "（　）"

# Symbol fonts of the print (bullets and ornaments) and characters that are only layout.
ORNAMENTS = re.compile(r"[\ue000-\uf8ff\u200b-\u200f\ufeff]")
# What no text can be mended from: C0 and C1 controls but tab and line break, and the replacement character.
DAMAGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")

_EMPTY = re.compile(
    r"\$\s*[（(](?:\s|\\q?quad)*[）)]\s*\$|[（(]\s*\$\s*[）)]\s*\$|\$\s*[（(]\s*\$\s*[）)]|[（(]\s*[）)]"
)
_EMPTY_IN_MATH = re.compile(r"[（(](?:\s|\\q?quad)+[）)]\s*\$")

# Lines that open a block of their own wherever they stand.
_OPENS = re.compile(
    r"[A-G][．.](?!\d)|[（(](?:\d{1,2}|[ivⅰⅱⅲ]{1,3})\s*[）)]|【|材料[一二三四五六七八九十]?(?:\s|[:：]|$)|[\[［（(]?注[\]］）)：:]|"
    r"故\s*(?:本题)?(?:选|答案)|解\s*[:：]|——|﹣﹣|--|\\begin|\\hline|\\end|译\s*[:：]|答案|\$\\(?:therefore|because)"
)
# Lines that do so only where the line before is at an end: the same marks also stand inside sentences.
_MAY_OPEN = re.compile(r"\d{1,2}\s*[．.、](?!\d)|[①-⑳]|[A-G]\s*[、：:]|[A-G]项|[一二三四五六七八九十]、")
_DASHES = "﹣—–-"
_CLOSING = tuple("，。、；：）”’」』》？！．,;)}…")
_ENDS = tuple("。．？！；：”…）.?!;:)")
# Hard line breaks of the print stand at about 30 to 50 Han characters; longer lines are paragraphs.
WRAP_COLUMNS = (50, 112)
_NEARLY_FULL = 0.72
# Rows of a table, or options that are rows of words: at least three short cells without punctuation.
_ROW_CELLS, _ROW_CELL_CHARS = 3, 10
_KEPT_SPACE = "\x02"
# Stands for `（　）` while spaces are cleaned: a full-width mark that no text has.
_KEPT_BLANK = "\u303f"


def wrap_width(text: str) -> int:
    """The column at which the print of a text broke its lines inside sentences; 0 where it did not."""
    low, high = WRAP_COLUMNS
    lines = [line.strip() for line in text.split("\n")]
    widths = [
        columns(line)
        for line, following in pairwise(lines)
        if line and following and not line.endswith(_ENDS) and not _OPENS.match(following)
    ]
    return round(median([width for width in widths if low <= width <= high] or [0]))


def join_lines(text: str, width: int) -> str:
    """Join the lines that the page layout broke at column `width`; keep options, sub-questions, paragraphs and verse.

    Spaces are cleaned later: an indent, or a double space at a line's end, marks a paragraph.
    """
    lines: list[str] = []
    raws = text.split("\n")
    rows = _table_rows(raws)
    previous = ""
    gap = kept = False
    for number, raw in enumerate(raws):
        line = raw.strip()
        if not line:
            gap = True
            continue
        if number in rows:
            line = _KEPT_SPACE.join(line.split())
        opens = number in rows or kept or not lines
        if not opens and _joins(lines[-1], previous, raw, gap, width, first=len(lines) == 1):
            space = "" if re.search(f"[{CJK}]$", lines[-1]) or re.match(f"[{CJK}]", line) else " "
            lines[-1] += space + line
        else:
            lines.append(line)
        previous, gap, kept = raw, False, number in rows
    return "\n".join(lines)


def _table_rows(lines: Sequence[str]) -> set[int]:
    """Numbers of the lines that are rows of a table: two or more such lines one after the other."""
    filled = [(number, _is_row(line)) for number, line in enumerate(lines) if line.strip()]
    return {n for (first, is_row), (second, too) in pairwise(filled) if is_row and too for n in (first, second)}


def _is_row(line: str) -> bool:
    wide = re.split(r" {2,}", line.strip())
    if len(wide) >= _ROW_CELLS and len(line) <= 2 * _ROW_CELL_CHARS * len(wide):
        return not re.search(r"[。？！$_]|[a-z]{3}", line)
    cells = line.split()
    if len(cells) < _ROW_CELLS or len("".join(cells)) > _ROW_CELL_CHARS * len(cells):
        return False
    return bool(re.search(f"[{HAN}]", line)) and not re.search(r'[，。；？！“”"$_,;]|(?<![A-G])．|[a-z]{3}', line)


def _joins(so_far: str, previous: str, raw: str, gap: bool, width: int, *, first: bool) -> bool:
    line = raw.strip()
    if line.startswith("$$") or so_far.endswith("$$"):
        return False
    if line.startswith(_CLOSING) or so_far.endswith("、"):
        return True
    ended = so_far.endswith(_ENDS)
    # Formulas are set off by empty lines, but a page break leaves such lines inside a sentence.
    page_break = (
        not ended and "$" not in so_far + line and re.search(rf"[{HAN}]$", so_far) and re.match(rf"[{HAN}]", line)
    )
    if (gap and not page_break) or _OPENS.match(line):
        return False
    if not ended and re.search(r"[A-Za-z]{2},?$", so_far) and re.match(r"[a-z]{2}", line):
        return True
    # A marker such as 【解答】 was cut from the first line, so it may be shorter than the others.
    length = columns(previous.strip()) + (10 if first else 0)
    if width == 0 or length < _NEARLY_FULL * width or re.match(r" {3}|\u3000", raw):
        return False
    if not ended:
        return True
    latin = bool(re.search(r"[A-Za-z]{2}[.?!,]?\s*$", previous))
    full = width - 4 <= length <= width + 12
    return full and not _MAY_OPEN.match(line) and not (previous.endswith("  ") and not latin)


def clean_spaces(text: str) -> str:
    """Remove doubled spaces and spaces beside Han characters and full-width marks; formulas stay as they are."""
    pieces = MATH.split(text)
    # Odd pieces are formulas. A wide gap between two Han characters separates cells or verses: one space is left.
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"[ \t\u3000\xa0\u2002-\u200a]", " ", pieces[index].replace(EMPTY_PARENTHESES, _KEPT_BLANK))
        piece = re.sub(rf"(?<=[{CJK}]) (?=[{CJK}])|(?<=[{CJK}]) +(?=_)|(?<=_) +(?=[{CJK}])", "", piece)
        piece = re.sub(r"(?<=[(（\[]) +| +(?=[)）\]])", "", piece)
        piece = re.sub(rf" +(?={_KEPT_BLANK})", "", piece)
        piece = re.sub(r" {2,}", "  ", piece)
        piece = re.sub(rf"(?<=[{HAN}])  (?=[{HAN}])", _KEPT_SPACE, piece)
        piece = re.sub(rf"(?<=[{CJK}]) +(?=[A-Za-z0-9({CJK}])|(?<=[A-Za-z0-9)%℃{CJK}]) +(?=[{CJK}])", "", piece)
        piece = re.sub(r" +", " ", piece)
        piece = re.sub(rf"(?<=[{CJK}]) (?=\")|(?<=\") (?=[{CJK}])", "", piece)
        piece = re.sub(rf"(?<=\S) (?=[,.;:?!](?:[\s{CJK}]|$))", "", piece)
        piece = re.sub(r"(?<=[A-Za-z]) (?=[’'](?:s|t|re|ve|ll|d|m)\b)", "", piece)
        pieces[index] = piece.replace(_KEPT_SPACE, " ").replace(_KEPT_BLANK, EMPTY_PARENTHESES)
    return "".join(pieces).strip()


def mark_blanks(text: str) -> str:
    """Write blanks to be filled in as `____` and the empty parentheses of a choice question as `（　）`.

    The print shows blanks as underlined spaces, of which only the spaces are left.
    """
    text = ORNAMENTS.sub("", text.replace("\r\n", "\n").replace("\xa0", " ").replace("\t", "    "))
    text = _EMPTY.sub(EMPTY_PARENTHESES, text)
    text = _EMPTY_IN_MATH.sub(f"${EMPTY_PARENTHESES}", text)
    text = re.sub(r"\u3000 +\u3000", BLANK, text)
    if len(re.findall(r"[A-Za-z]", text)) > len(re.findall(rf"[{HAN}]", text)) and "$" not in text:
        text = re.sub(r"(?:(?<=\S) {5,}\n?|(?<=\n) {5,})(?=[^\sA-G\d]|[A-G](?!\s*[.．、]))", f" {BLANK} ", text)
    text = re.sub(rf"(?<=[{CJK}]) {{6,}}(?=[，。；、？！”])", BLANK, text)
    text = re.sub(r"(?<=[a-z,.?!’”]) {3,}(\d{2}) {2,}|(?<=[a-z,.?!’”]) {2,}(\d{2}) {3,}", r" __\1\2__ ", text)
    text = re.sub(r"_[_ ]*_", BLANK, text)
    return re.sub(r"_+ *(\d{1,2}) *_+", r"__\1__", text)


def restore_blanks(question: str, others: str, kind: str) -> str:
    """Write `____` where the print's underlined blank shrank to one space, or to nothing at the end of a 填空题.

    `others` are 解析 and answers: where single spaces stand between Han characters there too, they mean nothing.
    """
    stray = re.search(rf"(?<=[{CJK}]) (?=[{CJK}])", others)
    if kind in ("填空题", "主观题") and not stray and not re.search(r"\$|  \n|（ ", question):
        # Rows of a table have such spaces too, but no punctuation.
        blank = re.compile(rf"(?<=[{HAN}]) +(?=[，。；．、{HAN}]|[（(][填答])")
        lines = question.split("\n")
        question = "\n".join(blank.sub(BLANK, line) if re.search("[，。；？]", line) else line for line in lines)
    if kind == "填空题" and "__" not in question:
        question = re.sub(r"(?<=[有为是]) +(?=[种个])", BLANK, question)
        question = re.sub(r"((?:为|是|等于|=\s*\$))\s*[.．。]?\s*$", rf"\1{BLANK}。", question)
    return question


def clean_text(text: str, width: int) -> str:
    """Remove what the page layout left in a text: hard line breaks, doubled and stray spaces, ornaments."""
    return clean_spaces(join_lines(mark_blanks(text), width))


_MARKS = r"[（(\[【〔]\s*(?:本题|本小题|每小题|每题)?\s*(?:满分|共)?\s*\d{1,3}(?:\.\d)?\s*分\s*[）)\]】〕]"
_TITLES = (
    r"现代文阅读|论述类文本阅读?|文\s*学\s*类文本阅读|实用类文本阅读|名[篇句]名[句篇]默写|语言文字运用\s*[ⅠⅡⅢI1-9]*|短文改错|解答题|选择题|"
    r"古代诗文阅读|古代诗歌阅读|文言文阅读|短文填空|完形填空|书面表达"
)
_HEADS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-{2,}\s*",
        r"[（(]\s*本题共[^（）()\n]*分\s*[）)]",
        r"[【\[][^\]】\n]{2,12}[】\]]",
        r"\d{1,2}\s*[．、]\s*",
        r"\d{1,2}\s*[.](?!\d)\s*|\d{1,2}\.(?=\d{4}|\d{1,2}\s*(?:世纪|名|个|位|月))",
        _MARKS,
        r"[（(][^（）()\n]{0,12}(?:19|20)\d\d[^（）()\n]{0,14}(?:全国|课标|卷|模拟|高考)[^（）()\n]*[）)]",
        rf"(?:[一二三四五六七八九十]、)?(?:[（(]?[一二三四五六七八九十][）)])?(?:{_TITLES})\s*"
        rf"(?:(?=阅读下面)|[（(][^（）()\n]*分[^（）()\n]*[）)]|[：:。，](?=\s*\S)|(?=\n))[：:。]?",
        r"[\[［【（(][^\]］】）)\n]{0,24}(?:选修|选做)[^\]］】）)\n]{0,24}[\]］】）)]",
    )
)


def strip_head(text: str) -> str:
    """Remove exam numbering, marks, source and section title from a stem's head: `12．（4分）`, `（2020·全国）`."""
    text = re.sub(r"^(\d{1,2}\s*[.．]\s*)?[（(]\s*\d{1,2}\s*分\s*\$\s*[）)]", "$", text.strip())
    found = True
    while found:
        found = False
        for pattern in _HEADS:
            match = pattern.match(text)
            if match and match.end() and text[match.end() :].strip():
                text, found = text[match.end() :].strip(), True
    return text


def strip_marks(text: str) -> str:
    """Remove the marks that sub-questions carry behind their number or at the end of a line."""
    text = re.sub(rf"^([（(]\d+[）)]|\d{{1,2}}[．.、])\s*{_MARKS}", r"\1", text, flags=re.MULTILINE)
    return re.sub(rf"{_MARKS}(?=\s*$)", "", text, flags=re.MULTILINE)


def break_numbers(text: str) -> str:
    """Begin a line at each of the sub-questions （1）, （2） ... that follow one another inside a line."""
    first, mark, rest = text.partition("（1）")
    done, number = first + mark, 2
    while match := re.search(
        rf"(?<=[^\n由据与和及见式到至、（{_DASHES}])（{number}）(?![～〜、和与至题中式{_DASHES}])", rest
    ):
        done += rest[: match.start()].rstrip() + "\n" + match[0]
        rest = rest[match.end() :]
        number += 1
    return done + rest


_LABEL = r"[【\[［]\s*{}\s*[】\]］]\s?[}}】]*"
_BOILERPLATE = re.compile(
    _LABEL.format("点\\s*[评睛晴]") + r".*?(?=" + _LABEL.format("\\d+\\s*题详解|小问[^】]*") + r"|\Z)", re.DOTALL
)
_SECTION = re.compile(_LABEL.format("(?:解\\s*析|解\\s*答|分\\s*析|详\\s*解|导\\s*语|答\\s*案|考\\s*点|专\\s*题)"))
_CONCLUSION = re.compile(
    r"故[^\S\n]*(?:本题)?(?:答案|正确答案)?(?:应?选择?|为)[^\S\n]*[:：]?[^\S\n]*(?:\$\s*)?(?:\\mathrm\{\s*)?"
    r"([A-G]{1,5})\s*\}?\s*\$?(?:[^\S\n]*项)?[^\S\n]*(?:[。．.](?!\d)|$)",
    re.MULTILINE,
)


def clean_analysis(text: str, width: int, several: bool) -> str:
    """Clean a 解析: no section markers, no 点评 boilerplate, and a conclusion written in one way, `故选：C。`.

    Where an item has several sub-questions, their `【17题详解】` stays as `17．`.
    """
    text = mark_blanks(text)
    text = re.sub(r"【点评(?!】)", "【点评】", text)
    text = _BOILERPLATE.sub("\n", text)
    text = _SECTION.sub("\n", text)
    text = re.sub(r"[【\[［]\s*小问\s*(\d+)[^】\]］]*[】\]］]\s?[}】]*", r"\n（\1）", text)
    text = re.sub(
        r"[【\[［]\s*(\d{1,2})\s*(?:小?题)\s*(?:详\s*解)?\s*[】\]］]\s?[}】]*", r"\n\1．" if several else "\n", text
    )
    text = clean_spaces(join_lines(text, width))
    text = re.sub(
        r"^(?:参考)?(?:解析|解答|答案|分析|详解)?\s*解?\s*[:：]\s*|^(?:解析|解答)$", "", text, flags=re.MULTILINE
    )
    text = re.sub(r"^(\d{1,2}．|（\d{1,2}）)\n", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"^(\d{1,2})．\1[．.]\s*", r"\1．", text, flags=re.MULTILINE)
    text = re.sub(r"故\s*\$\\mathrm\{([A-G]{1,5})\}\$\s*(?=[正错不选])", r"故\1", text)
    text = re.sub(r"^答案\s*[A-D]\s*[．.]?\s*(?=\S)", "", text) if re.search(r"故[^。\n]{0,4}选", text) else text
    text = _CONCLUSION.sub(r"故选：\1。", text)
    # A number, or the keys of the whole paper (41-45 CBDAA 46-50 ...), that the print had above the text.
    text = re.sub(r"^\d{1,2}\n|^(?:\d{2}\s*[-~～﹣—]+\s*\d{2}\s*[A-G]{5}\s*)+", "", text)
    text = re.sub(r"\s解$", "", text)
    text = re.sub(r"(?:\n(?:第[一二三四]节|[一二三四五六]、[^\n]{0,12}|第?\s*\d+\s*页?))+\Z", "", text)
    text = re.sub(r"，(?=[。；])", "", text)
    return re.sub(r"\n{2,}", "\n", text).strip()


def end_sentence(text: str) -> str:
    """Set the last full stop where the print left it out; a comma shows that the text was cut off, and stays."""
    return text + "。" if re.search(rf"(?<!\$)[{HAN}0-9A-Za-z$}}\]”℃%+]$", text) else text


def clean_answer(text: str, width: int, analysis: str) -> str:
    """Clean a written answer; a 分析 that the answer repeats from the 解析 is cut off it."""
    cut = re.search(_LABEL.format("详\\s*解|解\\s*答"), text)
    if cut and normalize(_SECTION.sub("", text[: cut.start()]))[:40] in normalize(analysis):
        text = text[cut.end() :]
    text = clean_analysis(text, width, several=True)
    text = re.sub(r"^(?:[】}\s]+|(?:参考答案|答案)\s*[:：]?\s*)", "", text)
    text = re.sub(r"(?<=\d[.．][A-G])(?=\d{1,2}[.．])", "\n", text)
    text = re.sub(r"(?<=。)\d{1,2}$", "", text)
    # What the marker of the paper is told: （6分）, （每答出一点给2分，意思对即可）.
    text = re.sub(rf"{_MARKS}|[（(][^（）()]{{0,40}}[给得]\s*\d\s*分[^（）()]{{0,40}}[）)]", "", text)
    return break_numbers(re.sub(r"(?<=[0-9A-Za-z})$]) ?[.．。]$", "", text).strip())


def clean_choice(question: str, width: int) -> str:
    """A choice question as stem and one `A．text` line per option; as it is where its options do not parse."""
    run, options = option_run(question), split_options(question)
    if not run or not options:
        return clean_text(question, width)
    # An opening bracket there is half of empty parentheses, or the mark's: `（A）`.
    stem = re.sub(r"[（(]?\s*$", "", question[: run[0][1]])
    marks = re.findall("[①-⑨]", stem)
    if len(marks) > 2 and marks == sorted(set(marks)) and re.fullmatch(r"[①-⑨\s、]+", "".join(options.values())):
        # Statements that the options combine stand on lines of their own.
        stem = re.sub(r"\s*(?=[①-⑨])", "\n\n", stem)
    lines = [f"{letter}．{text}" for letter, text in zip(options, _clean_options(list(options.values())), strict=True)]
    return "\n".join([_NUMBERS.sub("回答问题", clean_text(stem, width)), *lines])


def _clean_options(options: list[str]) -> list[str]:
    cells = [len(option.split()) for option in options]
    # Every option has as many words as the others: the spaces separate them (一览无余 易如反掌).
    rows = min(cells) == max(cells) > 1 and not re.search(r"[，。；$_a-z]", "".join(options))
    cleaned = []
    for option in options:
        text = re.sub(rf"(?<=[{CJK}])\s*\n\s*|\s*\n\s*(?=[{CJK}])", "", mark_blanks(option).strip())
        text = _KEPT_SPACE.join(text.split()) if rows else re.sub(r"\s*\n\s*", " ", text)
        cleaned.append(clean_spaces(text))
    return cleaned


_NUMBERS = re.compile(r"(?:完成|回答)(?:下面|下列)?第?[（(]?\d{1,2}[）)]?[-~～〜﹣—–]+[（(]?\d{1,2}[）)]?(?:小?题)?")


def clean_set(question: str, count: int, width: int) -> tuple[str, int]:
    """A set as its text, each question as `（1）stem` and one line per option, and the number of the first in print.

    The number is 0 where the questions are not found one by one, or number blanks: then only the layout is cleaned.
    """
    question = strip_head(question)
    blanks = re.search(r"_\s*\d{2}\s*_|\D {2,}\d{2} {2,}\D", question)
    found = None if blanks else split_set(question, count)
    if found is None:
        return clean_text(question, width), 0
    first, (shared, *parts) = found
    stems = [f"（{number}）{strip_head(clean_choice(part, width))}" for number, part in enumerate(parts, 1)]
    return "\n".join([_NUMBERS.sub("完成下列各题", clean_text(shared, width)), *stems]), first


def renumber(text: str, first: int, count: int) -> str:
    """Number the sub-questions of a 解析 from （1）, as `clean_set` does in the question."""
    for number in range(first, first + count):
        text = re.sub(rf"^{number}\s*[．.、]\s*(?!\d)", f"（{number - first + 1}）", text, count=1, flags=re.MULTILINE)
    return text


def clean_item(kind: str, question: str, answers: Sequence[str], analysis: str) -> tuple[str, list[str], str]:
    """Question, answers and 解析 of one item, cleaned; a text may be empty where nothing but print was in it."""
    # A short field shows too little of its layout: then the whole item's counts.
    common = wrap_width("\n".join([question, analysis, *answers]))

    def width(text: str) -> int:
        return wrap_width(text) if text.count("\n") > 5 else common

    stem_width = width(question)
    explained = end_sentence(clean_analysis(analysis, width(analysis), kind not in CHOICE_TYPES))
    if kind in CHOICE_TYPES:
        stem = clean_choice(question, stem_width)
    elif kind == SET:
        stem, first = clean_set(question, len(answers), stem_width)
        explained = renumber(explained, first, len(answers)) if first else explained
    else:
        stem = clean_text(restore_blanks(question, "".join([analysis, *answers]), kind), stem_width)
        answers = [clean_answer(text, width(text), analysis) for text in answers]
    stem = strip_marks(strip_head(stem))
    return break_numbers(stem) if kind == "主观题" else stem, [text.strip() for text in answers], explained
