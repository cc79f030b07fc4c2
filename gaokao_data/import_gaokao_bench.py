"""Import GAOKAO-Bench, real gaokao questions of 2010-2022 and later yearly releases, as data files of this project.

    git clone https://github.com/OpenLMLab/GAOKAO-Bench
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/gaokao
    python -m gaokao_data.import_gaokao_bench GAOKAO-Bench --out data/small --types 单选题 --subjects 生物 历史 政治 \
        --max-chars 900 --limit-train 300 --limit-test 48

Writes `train.json` (years before --test-from-year) and `test.json` (the others) into --out. Every item read is either
imported or counted under the reason for which it was left out; the printed table ends with the total. A file of one of
these names that an import did not write, or that was changed since, is never overwritten: the run is refused before any
work. The checksums of what imports wrote there are kept in --out, in the hidden file .imported_sha256.

Passages. The source has none. `--passages related` builds 课本内容 from the 解析 of other items of the same subject and
of strictly earlier years, nearest first; the items of a subject's first year have nothing earlier and get an empty one,
which is counted. `own` takes the item's own 解析 and marks the record `"leaks": true`; `none` leaves 课本内容 empty.
课外内容 is empty in all three.

Exit code 0; 1 where some files could not be read: the others are imported and written, the unreadable ones are listed;
2 for a wrong command line, a folder that is not GAOKAO-Bench, no item left, or a file that is not to be overwritten.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from gaokao.checks import CHECKS, Item, Outcome
from gaokao.errors import UserError, elsewhere, faults_text, run_script
from gaokao.records import OUTSIDE, SUBJECTS, TEXTBOOK, Raw, Record, parse_record
from gaokao.runs import make_folder, write_text
from gaokao.text import columns, containment, near_duplicates, normalize, split_options

# A set is several single-choice questions about one text. Its records are 单选题 with a list of answers; it has a name
# of its own here so that `--types 单选题` selects items with one answer only.
SET = "单选题组"
KINDS = ("单选题", SET, "多选题", "填空题", "主观题")
TEST_FROM_YEAR = 2021
WRITTEN = ("train.json", "test.json")
CHECKSUMS = ".imported_sha256"
PASSAGE_CHARS = (100, 400)
SEED = 20250101

# Answers of models lie in the same folders as `gemini-pro_2010-2022_...`: a data file begins with its years.
FILE_NAME = re.compile(r"^(?P<years>\d{4}(?:-\d{4})?)_(?P<name>.+)\.json$")
SUBJECT_WORDS = {
    "Biology": "生物",
    "Chemistry": "化学",
    "Chinese": "语文",
    "English": "英语",
    "Geography": "地理",
    "History": "历史",
    "Math": "数学",
    "Physics": "物理",
    "Political": "政治",
    "Politics": "政治",
}
FILL_WORDS = re.compile(r"Fill-in|Fill_in|Cloze|Dictation")
# Words of file names that say nothing more in an id.
SLUG_DROPPED = re.compile(r"\b(?:questions|language|lang|and|the|in|science|test|text)\b")
SLUG_SHORT = {"mcqs": "mcq", "open-ended": "open", "fill-in-the-blank": "fill", "political": "politics"}

# At most this share of the answer's 8-grams may stand in a passage: the benchmark's own bound against chance is .02.
LEAK_BOUND = 0.02
# Answers shorter than an 8-gram are searched as they are, from this many characters on; shorter ones occur by chance.
LEAK_SHORTEST = 4


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """One data file: what its name says about all of its items."""

    path: Path
    subject: str
    slug: str
    fill: bool


@dataclass
class Draft:
    """One item on its way from the benchmark to a record."""

    id: str
    subject: str
    kind: str
    year: int
    category: str
    source: str
    question: str
    answer: list[str]
    analysis: str
    passage: str = ""
    passage_ids: list[str] = field(default_factory=list)

    @property
    def type(self) -> str:
        return "单选题" if self.kind == SET else self.kind

    @property
    def characters(self) -> int:
        """Length of question, answer and analysis together."""
        return len(self.question) + sum(map(len, self.answer)) + len(self.analysis)


def find_sources(root: Path) -> list[Source]:
    """The data files under `root`, by the layout of their names, in a stable order.

    Raises:
        UserError: there is no such folder, or no file of the layout in it.
    """
    if not os.path.isdir(root):
        raise UserError(
            f"{root}: there is no such folder{elsewhere(root)}; name a copy of "
            "https://github.com/OpenLMLab/GAOKAO-Bench"
        )
    base = root / "Data" if (root / "Data").is_dir() else root
    sources = []
    for path in sorted(base.rglob("*.json")):
        match = FILE_NAME.match(path.name)
        if match is None:
            continue
        name = match["name"]
        subject = next((SUBJECT_WORDS[word] for word in re.split(r"[_-]", name) if word in SUBJECT_WORDS), None)
        if subject is not None:
            sources.append(Source(path, subject, _slug(name), bool(FILL_WORDS.search(name))))
    if not sources:
        raise UserError(
            f"{root}: is not GAOKAO-Bench; looked under {base} for files such as "
            "Objective_Questions/2010-2022_History_MCQs.json or GAOKAO-Bench-2023/2023_Biology_MCQs.json "
            "(years, subject, kind) and found none; name the folder that holds Data/"
        )
    return sources


def _slug(name: str) -> str:
    words = name.lower().replace("_", " ")
    for long, short in SLUG_SHORT.items():
        words = words.replace(long, short)
    return "-".join(SLUG_DROPPED.sub(" ", words).split())


def read_source(path: Path) -> list[Any]:
    """The entries of one data file, unchecked.

    Raises:
        UserError: it cannot be read, is not UTF-8 or JSON, or has not the layout {"example": [...]}.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); download it again") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not JSON ({error.msg}, column {error.colno}); is it cut off? download it again"
        ) from None
    except (RecursionError, ValueError):
        # Brackets nested a thousand deep, or a number of thousands of digits.
        raise UserError(f"{path}: is not JSON of items; download it again") from None
    if not isinstance(value, dict) or not isinstance(value.get("example"), list):
        raise UserError(f'{path}: has no list "example" of items; it is not a data file of GAOKAO-Bench')
    return list(value["example"])


# --- cleaning -------------------------------------------------------------------------------------------------------

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
    """Join the lines that the page layout broke; keep breaks before options, sub-questions, paragraphs and verse.

    Args:
        text: the text with its original spaces: an indent or a double space at a line's end marks a paragraph.
        width: the column of the layout's breaks (`wrap_width`), 0 for a text without such breaks.
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
        piece = re.sub(rf"(?<=[{HAN}])  (?=[{HAN}])", "\x01", piece)
        piece = re.sub(rf"(?<=[{CJK}]) +(?=[A-Za-z0-9({CJK}])|(?<=[A-Za-z0-9)%℃{CJK}]) +(?=[{CJK}])", "", piece)
        piece = re.sub(r" +", " ", piece)
        piece = re.sub(rf"(?<=[{CJK}]) (?=\")|(?<=\") (?=[{CJK}])", "", piece)
        piece = re.sub(rf"(?<=\S) (?=[,.;:?!](?:[\s{CJK}]|$))", "", piece)
        piece = re.sub(r"(?<=[A-Za-z]) (?=[’'](?:s|t|re|ve|ll|d|m)\b)", "", piece)
        piece = re.sub(r" ?\n ?", "\n", piece)
        pieces[index] = piece.replace("\x01", " ").replace(_KEPT_SPACE, " ").replace(_KEPT_BLANK, EMPTY_PARENTHESES)
    return "".join(pieces).strip()


def mark_blanks(text: str) -> str:
    """Write blanks to be filled in as `____` and the empty parentheses of a choice question as `（　）`.

    The print shows blanks as underlined spaces, of which only the spaces are left.
    """
    text = ORNAMENTS.sub("", text.replace("\r\n", "\n").replace("\xa0", " ").replace("\t", "    "))
    text = _EMPTY.sub(EMPTY_PARENTHESES, text)
    text = _EMPTY_IN_MATH.sub(f"${EMPTY_PARENTHESES}", text)
    text = re.sub(r"\u3000 +\u3000", BLANK, text)
    text = re.sub(r"(?<=[^\n\u3000 （])\u3000{2,}(?![）\u3000\n])", BLANK, text)
    if len(re.findall(r"[A-Za-z]", text)) > len(re.findall(rf"[{HAN}]", text)) and "$" not in text:
        text = re.sub(r"(?:(?<=\S) {5,}\n?|(?<=\n) {5,})(?=[^\sA-G\d]|[A-G](?!\s*[.．、]))", f" {BLANK} ", text)
    text = re.sub(rf"(?<=[{CJK}]) {{6,}}(?=[，。；、？！”])", BLANK, text)
    text = re.sub(r"(?<=[a-z,.?!’”]) {3,}(\d{2}) {2,}|(?<=[a-z,.?!’”]) {2,}(\d{2}) {3,}", r" __\1\2__ ", text)
    text = re.sub(r"_[_ ]*_", BLANK, text)
    return re.sub(r"_+ *(\d{1,2}) *_+", r"__\1__", text)


def restore_blanks(question: str, others: str, kind: str) -> str:
    """Write `____` where the print's underlined blank shrank to one space, or to nothing at the end of a 填空题.

    Args:
        question: the stem as read.
        others: 解析 and answer of the item: single spaces between Han characters there show that in this print such
            spaces mean nothing, and then none is taken for a blank.
        kind: the kind of the item.
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
    r"现代文阅读|论述类文本阅读?|文学类文本阅读|实用类文本阅读|名[篇句]名[句篇]默写|语言文字运用\s*[ⅠⅡⅢI1-9]*|短文改错|解答题|选择题|"
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
        r"(?:选修\s*\d\s*[-—–－]*\s*\d?\s*[：:]\s*)[^\n。，]{0,14}(?=\n|[\[［（(])",
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
    at = re.search(r"（1）", text)
    number, end = 2, at.end() if at else len(text)
    while match := re.compile(
        rf"(?<=[^\n由据与和及见式到至、（{_DASHES}])（{number}）(?![～〜、和与至题中式{_DASHES}])"
    ).search(text, end):
        text = text[: match.start()].rstrip() + "\n" + text[match.start() :]
        end = text.index(f"（{number}）", match.start()) + 3
        number += 1
    return text


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

    Args:
        several: the item has sub-questions; their `【17题详解】` stays as `17．`.
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
    options = split_options(question)
    if options is None:
        return clean_text(question, width)
    stem = question[: _first_option(question, options)]
    if all(re.fullmatch(r"[①-⑨\s、]+", text) for text in options.values()):
        stem = _statements(stem)
    lines = [f"{letter}．{text}" for letter, text in zip(options, _clean_options(list(options.values())), strict=True)]
    return "\n".join([_NUMBERS.sub("回答问题", clean_text(stem, width)), *lines])


def _statements(stem: str) -> str:
    """Put the statements ①②③④ that the options combine on lines of their own, where each is numbered once."""
    marks = re.findall("[①-⑨]", stem)
    if marks != sorted(set(marks)) or len(marks) < 3:
        return stem
    return re.sub(r"\s*(?=[①-⑨])", "\n\n", stem)


def _first_option(question: str, options: dict[str, str]) -> int:
    """Where the mark of the first option stands."""
    begin = len(question)
    for text in reversed(options.values()):
        begin = question.rindex(text, 0, begin) if text else begin
    mark = re.search(r"[（(]?\s*A\s*[^\sA-Za-z]?\s*$", question[:begin])
    return mark.start() if mark else begin


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
    """A text with several single-choice questions, each as `（1）stem` and one line per option.

    Returns:
        The question, and the number that its first sub-question had in print (to renumber the 解析 too). It is 0 where
        the sub-questions were not found one by one, or number blanks in the text: then only the layout is cleaned.
    """
    question = strip_head(question)
    if not re.search(r"_\s*\d{2}\s*_|\D {2,}\d{2} {2,}\D", question):
        for first in range(1, 80):
            starts = _run_of_numbers(question, first, count)
            ends = [start for start, _ in starts[1:]] + [len(question)]
            parts = [question[text:end] for (_, text), end in zip(starts, ends, strict=False)]
            if parts and all(split_options(part) for part in parts):
                stems = [f"（{n}）{strip_head(clean_choice(part, width))}" for n, part in enumerate(parts, 1)]
                text = _NUMBERS.sub("完成下列各题", clean_text(question[: starts[0][0]], width))
                return "\n".join([text, *stems]), first
    return clean_text(question, width), 0


def _run_of_numbers(text: str, first: int, count: int) -> list[tuple[int, int]]:
    """Where the sub-questions `first`, `first` + 1 ... are numbered in a text: (begin of number, end of number).

    Sought from the end: the text before the questions may be numbered too.
    """
    found: list[tuple[int, int]] = []
    for number in range(first + count - 1, first - 1, -1):
        pattern = rf"(?<![\d.])(?:{number}\s*[．.、](?!\d)|[（(]\s*{number}\s*[）)])"
        before = text[: found[-1][0]] if found else text
        match = list(re.finditer(pattern, before, re.MULTILINE))
        if not match:
            return []
        found.append(match[-1].span())
    return found[::-1]


def renumber(text: str, first: int, count: int) -> str:
    """Number the sub-questions of a 解析 from （1）, as `clean_set` does in the question."""
    for number in range(first, first + count):
        text = re.sub(rf"^{number}\s*[．.、]\s*(?!\d)", f"（{number - first + 1}）", text, count=1, flags=re.MULTILINE)
    return text


# --- items ----------------------------------------------------------------------------------------------------------


MISSING_FIELD = "damaged: year, question or answer missing"


def read_item(value: Any, source: Source, position: int) -> Draft:
    """One entry of a data file, cleaned.

    Raises:
        ValueError: it is not an item; the text is the reason, for the table.
    """
    if not isinstance(value, dict):
        raise ValueError("damaged: not an item")
    try:
        json.dumps([value, source.path.name], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # An escape such as \\ud83d without its other half: no file can hold it.
        raise ValueError("damaged: half of a character") from None
    answer, analysis = value.get("answer"), value.get("analysis")
    texts = [value.get("question"), *(answer if isinstance(answer, list) else [answer])]
    year = re.match(r"\s*((?:19|20)\d\d)", str(value.get("year", "")))
    if year is None or len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(MISSING_FIELD)
    question, *answers = map(str, texts)
    if not isinstance(analysis, str) or not normalize(analysis):
        raise ValueError("no 解析")
    if any(DAMAGE.search(text) for text in (question, *answers, analysis)):
        raise ValueError("damaged: control characters")
    kind = _kind(answers, source)
    # A short field shows too little of its layout: then the whole item's counts.
    common = wrap_width("\n".join([question, analysis, *answers]))
    width, width_analysis, *width_answers = (
        wrap_width(text) if text.count("\n") > 5 else common for text in (question, analysis, *answers)
    )
    if kind in ("填空题", "主观题"):
        question = restore_blanks(question, "".join([analysis, *answers]), kind)
        cleaned = [clean_answer(text, at, analysis) for text, at in zip(answers, width_answers, strict=True)]
    else:
        cleaned = [text.strip() for text in answers]
    first = 0
    if kind == SET:
        stem, first = clean_set(question, len(answers), width)
    else:
        stem = clean_choice(question, width) if kind in ("单选题", "多选题") else clean_text(question, width)
    several = kind not in ("单选题", "多选题")
    explained = clean_analysis(analysis, width_analysis, several)
    explained = end_sentence(explained)
    if not explained or not all(cleaned):
        raise ValueError(MISSING_FIELD)
    index = value.get("index")
    number = index if isinstance(index, int) and not isinstance(index, bool) else position
    return Draft(
        id=f"{year[1]}-{source.slug}-{number:03d}",
        subject=source.subject,
        kind=kind,
        year=int(year[1]),
        category=str(value.get("category", "")).strip().strip("（）()"),
        source=source.path.name,
        question=break_numbers(strip_marks(strip_head(stem))) if kind == "主观题" else strip_marks(strip_head(stem)),
        answer=cleaned,
        analysis=renumber(explained, first, len(answers)) if first else explained,
    )


def _kind(letters: Sequence[str], source: Source) -> str:
    if all(re.fullmatch(r"\s*[A-G]{1,5}\s*", text) for text in letters):
        if len(letters) > 1:
            return SET
        return "单选题" if len(letters[0].strip()) == 1 else "多选题"
    return "填空题" if source.fill else "主观题"


def to_record(draft: Draft, passages: str) -> Record:
    """The record of a draft, in the canonical form of the record contract.

    Raises:
        ValueError: the record contract rejects it.
    """
    row: dict[str, Any] = {
        "id": draft.id,
        "subject": draft.subject,
        "type": draft.type,
        TEXTBOOK: draft.passage,
        OUTSIDE: "",
        "question": draft.question,
        "answer": draft.answer,
        "analysis": draft.analysis,
        "year": draft.year,
        "category": draft.category,
        "source": draft.source,
        "passage_source": {"mode": passages, "items": draft.passage_ids} if draft.passage_ids else {"mode": passages},
    }
    if passages == "own" and draft.passage:
        row["leaks"] = True
    record, faults = parse_record(Raw(draft.id, row), 0, "train")
    if record is None:
        raise ValueError("; ".join(faults))
    return record


# --- passages -------------------------------------------------------------------------------------------------------

_STOP = re.compile(r"(?<=[^\s\d])．(?!\d)|(?<=\d)．(?=\s|$)|\.(?=\s|$)|;(?=\s|$)", re.MULTILINE)
_LABELS = re.compile(
    r"^\s*(?:[（(]\d{1,2}[）)]|\d{1,2}\s*[．.、]|[①-⑳]+[、，．.：:]?|(?:选项)?[A-G](?:选?项)?[．.、，：:]\s*|[A-G](?:选?项)|解\s*[:：]|"
    r"(?:[则即且又而并以]|从而|综上所述|综上|同理|再)(?=[^\w])[，,]?|结合所学(?:知识)?(?:可知|可得)?[，,]?|根据所学(?:知识)?(?:可知)?[，,]?|由此可知[，,]?|分析[:：]|故|因此|所以|但|而且|可见)\s*"
)
_VERDICT = re.compile(
    r"[，,；;。]?\s*(?:故|因此|所以|则|，|即)?\s*(?:选项)?(?:[A-G]|[①-⑳])(?:[、，]?(?:[A-G]|[①-⑳]))*\s*(?:选?项|选项|观点)?(?:的)?"
    r"(?:叙述|说法|表述|观点)?(?:均|都|是)?(?:正确|错误|有误|不?符合(?:题意|题干|史实|要求)?|不合题意|不符|应?排除|不选|不对|入选|当选|可选|不正确)"
    r"[^，。；]{0,6}(?=[，。；]|$)"
)
_REFERS = re.compile(
    r"本题|此题|该题|本小题|题干|题目|题意|题中|题设|题肢|小题|选项|故选|应选|可选|不选|选[A-G]|答案|排除|正误|错误|正确|不符|符合题|考查|考点|点评|材料|"
    r"上文|下文|文中|文章|原文|作者|诗中|词中|段|句意|设问|考生|同学|解答|解题|作答|答题|依据|如图|下图|图[中示1-9甲乙]|表中|由[图表]|据[图表]|"
    r"[A-G]项|[A-G]、|【|】|[①-⑳]|____|说法|表述|题|信息|这里|此处|语境|句中|空格|该空|个空|本句|填|教材|课本|表格|实验结果|该实验|本实验|该图|此图|由表|可知[A-G]|[A-G][错对]"
)
_SENTENCE_CHARS = (12, 220)


def exposition(analysis: str) -> list[str]:
    """The sentences of a 解析 that explain the matter by themselves, freed of option letters, verdicts and 故选X."""
    sentences = []
    for piece in _split_sentences(analysis):
        sentence = piece
        for _ in range(3):
            sentence = _LABELS.sub("", sentence).strip()
        sentence = _VERDICT.sub("", sentence).strip("，,；;。．. ：:、！？")
        low, high = _SENTENCE_CHARS
        if not low <= len(sentence) <= high or _REFERS.search(sentence) or sentence.count("$") % 2:
            continue
        if not re.match(rf"[{HAN}《“A-Z]", sentence) or len(re.findall(f"[{HAN}]", sentence)) < max(
            8, len(sentence) * 0.3
        ):
            continue
        if re.match(
            r"[则可其该这它他此且即]|前者|后者|上述|以上|同理|综上|验证|据|根据[^，]*可[知得见]?$|和|与|也|仍|仅",
            sentence,
        ):
            continue
        sentences.append(sentence + "。")
    return sentences


def _split_sentences(text: str) -> list[str]:
    """The whole sentences of a text, each with its stop; a full stop inside a formula ends none."""
    formulas: list[str] = []

    def hide(match: re.Match[str]) -> str:
        formulas.append(match[0])
        return f"\x00{len(formulas) - 1}\x00"

    text = _STOP.sub("。", MATH.sub(hide, text))
    # A line without a stop at its end is a heading, or a sentence that the layout broke.
    pieces = [piece for line in text.split("\n") for piece in re.findall(r"[^。；！？]+[。；！？]", line)]
    return [re.sub(r"\x00(\d+)\x00", lambda match: formulas[int(match[1])], piece).strip() for piece in pieces]


def stem_of(question: str) -> str:
    """A question without its options."""
    options = split_options(question)
    if options is None:
        return question
    at = question.rfind(next(iter(options.values())))
    return question[:at] if at > 0 else question


def answer_text(draft: Draft) -> str:
    """What a passage must not contain: the texts of the keyed options, or the written answer."""
    if draft.kind in ("填空题", "主观题"):
        return "\n".join(draft.answer)
    starts = [end for _, end in _run_of_numbers(draft.question, 1, len(draft.answer))] if draft.kind == SET else [0]
    parts = [draft.question[begin:end] for begin, end in pairwise([*starts, len(draft.question)])]
    keyed = []
    for part, letters in zip(parts, draft.answer, strict=False):
        options = split_options(part) or {}
        keyed += [options.get(letter, "") for letter in letters]
    return "\n".join(keyed)


def gives_away(answer: str, passage: str) -> bool:
    """Whether a passage contains more of an answer than chance: its 8-grams, or all of a short answer."""
    bare = normalize(answer)
    return len(bare) >= LEAK_SHORTEST and containment(answer, passage) > LEAK_BOUND


def add_related_passages(drafts: Sequence[Draft], chars: tuple[int, int]) -> None:
    """Give each draft a passage from other items' 解析 of its subject, nearest stems of strictly earlier years first.

    Nearness is the cosine of TF-IDF over character 2- and 3-grams of the stems without options. A source whose stem is
    a near-duplicate is passed over, and so is a sentence that would give the answer away. A draft for which no
    passage of the least length is found keeps an empty one.

    Args:
        drafts: items of all years and subjects.
        chars: least and greatest length of a passage in characters.
    """
    # scikit-learn takes a second to import: a wrong folder should be answered before.
    from sklearn.feature_extraction.text import TfidfVectorizer

    sentences = {draft.id: exposition(draft.analysis) for draft in drafts}
    for subject in sorted({draft.subject for draft in drafts}):
        group = sorted(
            (draft for draft in drafts if draft.subject == subject), key=lambda draft: (draft.year, draft.id)
        )
        stems = [stem_of(draft.question) for draft in group]
        twins = {(pair.first, pair.second) for pair in near_duplicates(stems)}
        vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 3), sublinear_tf=True).fit_transform(stems)
        similarity = (vectors @ vectors.T).toarray()
        for number, draft in enumerate(group):
            earlier = [
                other
                for other in range(number)
                if group[other].year < draft.year and (other, number) not in twins and sentences[group[other].id]
            ]
            earlier.sort(key=lambda other: (-round(float(similarity[number, other]), 9), group[other].id))
            candidates = [(group[other].id, sentences[group[other].id]) for other in earlier]
            draft.passage, draft.passage_ids = build_passage(answer_text(draft), draft.question, candidates, chars)


def build_passage(
    answer: str, question: str, candidates: Iterable[tuple[str, list[str]]], chars: tuple[int, int]
) -> tuple[str, list[str]]:
    """Join whole sentences of the candidates, in order, until the passage has the least length.

    Returns:
        The passage and the ids it is made from; both empty where the candidates do not suffice.
    """
    least, greatest = chars
    passage = ""
    ids: list[str] = []
    seen: set[str] = set()
    for identity, sentences in candidates:
        before = passage
        for sentence in sentences:
            longer = passage + sentence
            if len(longer) > greatest or normalize(sentence) in seen or gives_away(answer, longer):
                continue
            seen.add(normalize(sentence))
            passage = longer
        if passage != before:
            ids.append(identity)
        if len(passage) >= least:
            return passage, ids
    return "", []


def add_own_passages(drafts: Sequence[Draft], chars: tuple[int, int]) -> None:
    """Give each draft the exposition of its own 解析, cut at a sentence end; such a passage leaks the answer."""
    for draft in drafts:
        passage = ""
        for sentence in exposition(draft.analysis) or _split_sentences(draft.analysis):
            if len(passage + sentence) > chars[1]:
                break
            passage += sentence
        draft.passage = passage
        draft.passage_ids = [draft.id] if passage else []


class Leak(NamedTuple):
    """Share of the answers' 8-grams found in passages, 0 to 1, over so many items; a shorter answer is one gram."""

    items: int
    mean: float
    median: float
    p95: float

    def __str__(self) -> str:
        return f"median {self.median:.3f}, 95th percentile {self.p95:.3f}, mean {self.mean:.4f}"


def measure_leak(drafts: Sequence[Draft]) -> tuple[Leak, Leak]:
    """The leak of the passages that the drafts have, and that of random passages of the same subject (chance)."""
    chooser = random.Random(SEED)
    pools: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        if draft.passage:
            pools[draft.subject].append(draft)
    found, chance = [], []
    for draft in drafts:
        answer = answer_text(draft)
        others = [other for other in pools[draft.subject] if other is not draft]
        if draft.passage and normalize(answer) and others:
            found.append(containment(answer, draft.passage))
            chance.append(containment(answer, chooser.choice(others).passage))
    return _leak(found), _leak(chance)


def _leak(shares: list[float]) -> Leak:
    if not shares:
        return Leak(0, 0.0, 0.0, 0.0)
    return Leak(len(shares), fmean(shares), median(shares), sorted(shares)[int(len(shares) * 0.95)])


# --- the import -----------------------------------------------------------------------------------------------------


def drop_duplicates(drafts: list[Draft]) -> tuple[list[Draft], int]:
    """Keep the first of each group of near-duplicates, by year and then in the order given."""
    drafts = sorted(drafts, key=lambda draft: draft.year)
    twins: dict[int, list[int]] = defaultdict(list)
    for pair in near_duplicates([draft.question for draft in drafts]):
        twins[pair.second].append(pair.first)
    kept: set[int] = set()
    for number in range(len(drafts)):
        if not any(other in kept for other in twins[number]):
            kept.add(number)
    return [drafts[number] for number in sorted(kept)], len(drafts) - len(kept)


def spread(drafts: list[Draft], limit: int) -> list[Draft]:
    """At most `limit` drafts, spread evenly over their subjects; within one, drawn with a fixed seed.

    Drafts with a passage are drawn first. The order of the result is that of `drafts`.
    """
    queues: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        queues[draft.subject].append(draft)
    for subject, queue in queues.items():
        random.Random(f"{SEED} {subject}").shuffle(queue)
        queue.sort(key=lambda draft: not draft.passage)
    chosen: set[str] = set()
    while len(chosen) < limit and any(queues.values()):
        for subject in SUBJECTS:
            if queues[subject] and len(chosen) < limit:
                chosen.add(queues[subject].pop(0).id)
    return [draft for draft in drafts if draft.id in chosen]


# The checks that drop an item, with the row of the table they count under. `latex` is a soft check of generated
# questions, but a model learns broken formulas from the few real items that have them.
REASONS = {
    "picture": "missing picture or table",
    "options": "damaged: options missing, empty or alike",
    "key agrees": "damaged: 解析 concludes another key",
    "verdicts": "damaged: 解析 contradicts the key",
    "truncated": "damaged: 解析 cut off",
    "latex": "damaged: unbalanced LaTeX",
}
DROPPING = tuple(check for check in CHECKS if check.hard or check.name == "latex")


def fault_of(draft: Draft) -> str | None:
    """Why a cleaned item cannot be used, as a row of the table; `None` for a sound one."""
    try:
        item = Item.from_record(to_record(draft, "none"))
    except ValueError:
        return "damaged: not a record"
    options = split_options(draft.question) or {}
    if draft.type in ("单选题", "多选题") and len(draft.answer) == 1 and len(options) > 4:
        return "more than four options"
    for check in DROPPING:
        if check.function(item).outcome is Outcome.FAIL:
            return REASONS.get(check.name, f"damaged: {check.name}")
    return None


@dataclass
class Import:
    """What an import did: the records of both files, and where every item read went."""

    train: list[Draft]
    test: list[Draft]
    dropped: Counter[str]
    items: int
    unreadable: list[str]


def import_bench(
    root: Path,
    *,
    test_from_year: int = TEST_FROM_YEAR,
    passages: str = "related",
    passage_chars: tuple[int, int] = PASSAGE_CHARS,
    kinds: Sequence[str] = KINDS,
    subjects: Sequence[str] = SUBJECTS,
    max_chars: int | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Import:
    """Read, clean, check and split all items under `root`, and give them passages.

    Args:
        root: a copy of GAOKAO-Bench.
        test_from_year: first year of the test items; the split is by year, never at random.
        passages: `related`, `own` or `none`.
        passage_chars: least and greatest length of a passage in characters.
        kinds: names of `KINDS` to keep.
        subjects: subjects to keep.
        max_chars: greatest length of question, answer and analysis together; `None` for any.
        limit_train: number of training items to keep, spread evenly over the subjects; `None` for all.
        limit_test: the same for test items.

    Raises:
        UserError: `root` is not GAOKAO-Bench, or none of its files could be read.
    """
    sources = find_sources(root)
    drafts: list[Draft] = []
    dropped: Counter[str] = Counter()
    unreadable: list[str] = []
    items = 0
    for source in sources:
        try:
            values = read_source(source.path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        items += len(values)
        for position, value in enumerate(values):
            try:
                draft = read_item(value, source, position)
            except ValueError as reason:
                dropped[str(reason)] += 1
                continue
            fault = fault_of(draft)
            if fault is None:
                drafts.append(draft)
            else:
                dropped[fault] += 1
    if len(unreadable) == len(sources):
        raise UserError(faults_text(f"{root}: none of the files could be read:", unreadable))
    drafts, dropped["near-duplicate"] = drop_duplicates(drafts)
    _unique_ids(drafts)
    if passages == "related":
        add_related_passages(drafts, passage_chars)
    elif passages == "own":
        add_own_passages(drafts, passage_chars)

    wanted: list[Draft] = []
    for draft in drafts:
        if draft.kind not in kinds:
            dropped["filtered: --types"] += 1
        elif draft.subject not in subjects:
            dropped["filtered: --subjects"] += 1
        elif max_chars is not None and draft.characters > max_chars:
            dropped["filtered: --max-chars"] += 1
        else:
            wanted.append(draft)
    train = [draft for draft in wanted if draft.year < test_from_year]
    test = [draft for draft in wanted if draft.year >= test_from_year]
    for part, limit, name in ((train, limit_train, "--limit-train"), (test, limit_test, "--limit-test")):
        if limit is not None:
            kept = spread(part, limit)
            dropped[f"filtered: {name}"] += len(part) - len(kept)
            part[:] = kept
    return Import(train, test, dropped, items, unreadable)


def _unique_ids(drafts: list[Draft]) -> None:
    """Number the ids that two files share (a later release that repeats a year)."""
    seen: Counter[str] = Counter()
    for draft in drafts:
        seen[draft.id] += 1
        if seen[draft.id] > 1:
            draft.id += f"-{seen[draft.id]}"


def report(result: Import) -> str:
    """The tables of an import: where every item went, and the imported ones by subject and type."""
    rows = [("imported: train.json", len(result.train)), ("imported: test.json", len(result.test))]
    rows += [
        (reason if ":" in reason else f"dropped: {reason}", n) for reason, n in sorted(result.dropped.items()) if n
    ]
    rows.append(("items read", result.items))
    lines = [f"{name:<44}{number:>7,}" for name, number in rows]
    lines.insert(-1, "-" * 51)
    lines += ["", "imported (train + test)  " + "".join(f"{_pad(kind, 13)}" for kind in (*KINDS, "all"))]
    for subject in (*SUBJECTS, "all"):
        cells = []
        for kind in (*KINDS, "all"):
            counts = [
                sum(subject in (draft.subject, "all") and kind in (draft.kind, "all") for draft in part)
                for part in (result.train, result.test)
            ]
            cells.append(_pad(f"{counts[0]}+{counts[1]}" if any(counts) else "-", 13))
        lines.append(_pad(subject, 25) + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _pad(text: str, width: int) -> str:
    return text + " " * max(0, width - columns(text))


def passage_report(result: Import, passages: str) -> str:
    """How many items have a passage, how long, and how much of the answers stands in the passages."""
    lines = []
    for name, part in (("train", result.train), ("test", result.test)):
        lengths = sorted(len(draft.passage) for draft in part if draft.passage)
        if not lengths:
            lines.append(f"passages, {name}: none")
            continue
        leak, chance = measure_leak(part)
        lines += [
            f"passages, {name}: {len(lengths)} of {len(part)} items, {lengths[0]}-{lengths[-1]} characters, "
            f"median {median(lengths):.0f}; empty: {len(part) - len(lengths)}",
            f"  share of the answer's 8-grams in the passage ({leak.items} items): {leak}",
            f"  in a random passage of the subject (chance): {chance}",
        ]
    return "\n".join(lines)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.import_gaokao_bench",
        description=(__doc__ or "").split("\n")[0],
        allow_abbrev=False,
    )
    add: Callable[..., Any] = parser.add_argument
    add("source", metavar="SRC", type=Path, help="a copy of GAOKAO-Bench, the folder that holds Data/")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for train.json and test.json")
    add("--test-from-year", metavar="YEAR", type=int, default=TEST_FROM_YEAR, help="default: %(default)s")
    add("--passages", choices=("related", "own", "none"), default="related", help="default: %(default)s")
    add("--passage-chars", metavar=("MIN", "MAX"), type=int, nargs=2, default=PASSAGE_CHARS, help="default: 100 400")
    add("--types", nargs="+", choices=KINDS, default=KINDS, help=f"default: all; {SET} has several answers each")
    add("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS, help="default: all")
    add("--max-chars", metavar="N", type=int, help="greatest length of question, answer and 解析 together")
    add("--limit-train", metavar="N", type=int, help="that many training items, spread over the subjects")
    add("--limit-test", metavar="N", type=int, help="that many test items, spread over the subjects")
    chosen = parser.parse_args(arguments)
    least, greatest = chosen.passage_chars
    if not 0 < least < greatest:
        parser.error(f"--passage-chars {least} {greatest}: MIN must be above 0 and below MAX")
    for name in ("max_chars", "limit_train", "limit_test"):
        value = getattr(chosen, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: must be 1 or more")
    if not 1900 <= chosen.test_from_year <= 2100:
        parser.error(f"--test-from-year {chosen.test_from_year}: must be a year from 1900 to 2100")
    return chosen


def require_own(folder: Path) -> list[str]:
    """Make sure that what an import would overwrite was written by one; returns the checksums known so far.

    Raises:
        UserError: a file was not, or was changed since, or is a folder.
    """
    try:
        known = (folder / CHECKSUMS).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        known = []
    for path in (folder / name for name in WRITTEN):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give --out another one")
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() not in known:
            raise UserError(
                f"{path}: was not written by an import, or was changed since, and is not overwritten; give --out another "
                "folder, or move the file away"
            )
    return known


def main(arguments: list[str]) -> None:
    """Import, write both files, print the tables."""
    chosen = parse_arguments(arguments)
    find_sources(chosen.source)
    try:
        folder = make_folder(chosen.out)
    except UserError:
        raise UserError(f"{chosen.out}: cannot be written to; give --out a folder of yours") from None
    known = require_own(folder)
    result = import_bench(
        chosen.source,
        test_from_year=chosen.test_from_year,
        passages=chosen.passages,
        passage_chars=tuple(chosen.passage_chars),
        kinds=chosen.types,
        subjects=chosen.subjects,
        max_chars=chosen.max_chars,
        limit_train=chosen.limit_train,
        limit_test=chosen.limit_test,
    )
    if not result.train and not result.test:
        raise UserError(f"{chosen.source}: no item is left, so nothing is written\n{report(result)}")
    rows = [[to_record(draft, chosen.passages).to_dict() for draft in part] for part in (result.train, result.test)]
    texts = [json.dumps(part, ensure_ascii=False, indent=2) + "\n" for part in rows]
    # First the checksums: a run that is killed between the two leaves files that the next one knows.
    known += [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    write_text(folder / CHECKSUMS, "\n".join(dict.fromkeys(known)) + "\n")
    for name, text in zip(WRITTEN, texts, strict=True):
        write_text(folder / name, text)
    print(report(result))
    print(passage_report(result, chosen.passages))
    print(f"written: {', '.join(str(folder / name) for name in WRITTEN)}")
    if result.unreadable:
        print(faults_text(f"{len(result.unreadable)} file(s) could not be read:", result.unreadable), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
