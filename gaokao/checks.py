"""Checks of a question: is it whole, does it agree with itself, is it copied. No model, no torch.

Every check is calibrated on real questions: GAOKAO-Bench (2010-2022, 2,811 items) is gold, so a check that fires there
is wrong. `python -m tests.benchmarks.calibrate_checks DIR` prints the false-alarm rate of each.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Self

from gaokao.prompts import Question
from gaokao.records import PASSAGES, SECTIONS, TEXTBOOK, Record
from gaokao.text import (
    CHOICE_TYPES,
    OPTION_MARK,
    SPELT_OUT,
    bare,
    fold,
    formulas,
    images,
    letters_and_places,
    ngrams,
    normalize,
    option_run,
    parse_key,
    shared_spans,
    shorten,
    split_options,
    split_statements,
    without,
)

# No real item asks for 材料 in a stem shorter than this: the material itself takes more room.
MATERIAL_STEM = 120
# A table of which print left no rows still has numbers; a stem without one rarely holds so many.
TABLE_NUMBERS = 10
# What a question takes over word for word; shorter common runs are names and terms that two texts on one matter share.
SPAN = 12
# A question may quote its passage as material, so only one that is nothing else is copied. Shorter runs are wordings that
# a question and the passage that it is made from share by their nature. Of 1,382 real items that take over such a run, 2
# keep fewer than 15 characters of their own; 29 fewer than 30, mostly 主观题 with one short task.
COPIED_SPAN = 20
COPIED_REST = 15
# Shorter blocks trip on `|c|c|c` of LaTeX tables.
LOOP_BLOCK = 8
LOOP_TIMES = 4
LOOP_GRAM = 10
LOOP_SHARE = 0.5
# Below this length a list of similar options is half made of repeated 10-grams.
LOOP_LEAST = 80
# 1st percentile of the real items outside English, formulas removed: 0.65.
HAN_SHARE = 0.5
HAN_LEAST = 20
# A quotation shares some wording with its source even where the analysis shortens it.
QUOTE_GRAM = 3
QUOTE_LEAST = 6
QUOTE_SHARE = 0.3

# A text in a loop has a fault in every turn; the first few say what is wrong.
FAULTS_SHOWN = 5


class Outcome(Enum):
    """What a check says; `NOT_APPLICABLE` where the item has nothing for it to look at."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"


class Result(NamedTuple):
    """The outcome of one check on one item, and what it saw: which words, which span, which other item."""

    name: str
    outcome: Outcome
    evidence: str = ""


@dataclass(frozen=True)
class Item:
    """A question as the checks see it: texts and types, wherever they come from."""

    question: str
    answer: tuple[str, ...]
    analysis: str
    subject: str
    type: str
    textbook: str = ""
    outside: str = ""
    finish_reason: str | None = None
    """`stop` where the model ended the text itself; anything else was cut off. `None`: no model wrote it."""
    missing: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()

    def passage(self, name: str) -> str:
        """课本内容 or 课外内容."""
        return self.textbook if name == TEXTBOOK else self.outside

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """The item a record holds."""
        contents = (record.question, record.answer, record.analysis)
        return cls(
            question=record.question,
            answer=record.answer,
            analysis=record.analysis,
            subject=record.subject,
            type=record.type,
            textbook=record.textbook,
            outside=record.outside,
            missing=tuple(section for section, content in zip(SECTIONS, contents, strict=True) if not content),
        )

    @classmethod
    def from_question(cls, prompt: Record, question: Question, finish_reason: str | None = None) -> Self:
        """The item a model wrote for `prompt`; the reference in `prompt` is not looked at."""
        return cls(
            question=question.question,
            answer=question.answer,
            analysis=question.analysis,
            subject=prompt.subject,
            type=prompt.type,
            textbook=prompt.textbook,
            outside=prompt.outside,
            finish_reason=finish_reason,
            missing=question.missing,
            misplaced=question.misplaced,
        )


# --- checks of one item ---------------------------------------------------------------------------------------------


def check_sections(item: Item) -> Result:
    """题干, 参考答案 and 解析, each once, in order and not empty."""
    faults = [f"{section} is missing or empty" for section in item.missing]
    faults += [f"{section} stands twice or out of order" for section in item.misplaced]
    return result("sections", faults)


def check_options(item: Item) -> Result:
    """A choice item has the options A, B, C and D, with distinct texts, and so have the statements that they combine."""
    if not _one_choice(item) or not item.question:
        return not_applicable("options")
    options = split_options(item.question)
    if options is None:
        marks = " ".join(match.group(1) for match in OPTION_MARK.finditer(fold(item.question)))
        return result("options", [f"no run of options A, B, C, D; found: {shorten(marks) or 'none'}"])
    faults = []
    if len(options) > 4:
        faults.append(f"options {''.join(options)} instead of ABCD")
    faults += _alike("option", options)
    if all("①" <= mark <= "⑨" for text in options.values() for mark in text if not mark.isspace()):
        faults += _alike("statement", split_statements(item.question))
    for letter, text in options.items():
        if twice := re.search(r"\n[ \t]*\(?([A-D])[ \t]*[.、:)]", fold(text)):
            faults.append(f"option {twice.group(1)} stands again inside option {letter}")
    return result("options", faults)


def _alike(what: str, texts: Mapping[str, str]) -> Iterator[str]:
    """The texts that are empty or equal to one before."""
    seen: dict[str, str] = {}
    for mark, text in texts.items():
        # Signs and brackets tell options apart ($-1$ and $1$), so only layout and the closing point are dropped.
        bare = "".join(text.translate(SPELT_OUT).split()).rstrip(".;,。")
        if not bare:
            yield f"{what} {mark} is empty"
        elif bare in seen:
            yield f"{what}s {seen[bare]} and {mark} are both “{shorten(text)}”"
        seen.setdefault(bare, mark)


def check_key(item: Item) -> Result:
    """单选题: one letter; 多选题: two to four; each among the options. Several answers are not judged."""
    if item.type not in CHOICE_TYPES or not item.answer:
        return not_applicable("key")
    if len(item.answer) > 1:
        # Sub-questions may have more options than four (cloze texts run to G), or be open ones.
        return not_applicable("key")
    key = parse_key(item.answer[0])
    if not key:
        return result("key", [f"参考答案 “{shorten(item.answer[0])}” is not option letters"])
    faults = []
    if len(set(key)) < len(key):
        faults.append(f"key {shorten(key)} names a letter twice")
    if item.type == "单选题" and len(key) != 1:
        faults.append(f"key {shorten(key)} of a 单选题 has {len(key)} letters")
    if item.type == "多选题" and not 2 <= len(key) <= 4:
        faults.append(f"key {shorten(key)} of a 多选题 has {len(key)} letter(s)")
    options = split_options(item.question) or dict.fromkeys("ABCD", "")
    faults += [f"key {letter} is not among the options {''.join(options)}" for letter in key if letter not in options]
    return result("key", faults)


# 故选 C / 故选：AC / 答案为B / 故本题正确答案是 D / 应选A / 由此可知选 B. A Latin letter behind it makes it a word.
_CONCLUSION = re.compile(
    r"(?:(?:故|应|因此|所以|综上|综上所述)[,:]?(?:本题|此题)?(?:的?正确)?(?:答案|选项)?(?:应?该?[为是])?(?:应|该|可|只能)?选择?"
    r"|本题选|(?:答案|正确选项)(?:应该|应当|应|就)?(?:选择|[为是选])?"
    r"|(?:^|[,;。\n)]|可知|可得|\\therefore)选(?=[A-H]+项?(?:[.。;,\n]|$)))"
    r"[:]?[(]?([A-H](?:[、,和]?[A-H])*+)(?![A-Za-z']|项?[都均]?[不错])"
)


def conclusions(analysis: str) -> list[tuple[str, str]]:
    """Every conclusion of an analysis as (sorted letters, words)."""
    found = _CONCLUSION.finditer(_plain(analysis))
    return [("".join(sorted(set(re.sub(r"[^A-H]", "", match.group(1))))), match.group()) for match in found]


def check_key_agrees(item: Item) -> Result:
    """The last 故选 / 答案为 / 应选 of the 解析 names the key; not applicable where it states none."""
    key = parse_key(item.answer[0]) if _one_choice(item) and item.answer else ""
    found = conclusions(item.analysis) if key else []
    if not found:
        return not_applicable("key agrees")
    letters, words = found[-1]
    if letters == "".join(sorted(set(key))):
        return Result("key agrees", Outcome.PASS, f"“{shorten(words)}”")
    return result("key agrees", [f"the 解析 concludes “{shorten(words)}”, the key is {shorten(key)}"])


# 故A项正确 / 选项B错误 / ACD错误 / C项符合题意 / D说法不正确
_VERDICT_LETTERS = re.compile(r"[A-D](?:[、和]?[A-D])*")
_VERDICT_WORD = re.compile(
    r"(?:选?项)?(?:的)?(?:说法|表述|叙述|观点|结论|判断|描述)?(?:都|均|是|也)?"
    r"(不正确|正确|错误|不?符合题意|不合题意)(?!率|答案|的是)"
)
_AFTER_VERDICT = re.compile(r"[^。;\n]{0,24}")
# What the question asks for, up to the bracket: a stem that asks for the wrong statement turns 正确 and 错误 round.
_ASKS_WRONG = re.compile(
    r"(?:错误|不正确|有误|不合理|不恰当|不准确|不科学|不妥当?|不当|有错)的?(?:一项|一组|选项)?的?是?[^。?]{0,2}$"
)
# What may stand behind the last word of a stem, read from the end.
_BLANK = re.compile(r"[()\s:_?。.]*")
_NEGATIVE = re.compile(r"[不没无非未错误除]|异常|谬")
_CONCESSION = re.compile(r"但|不符|不合|无关|排除|不是|未体现|不能|没有|与题|与材料|与本题|然而|而非|不选")


def check_verdicts(item: Item) -> Result:
    """The 解析 calls the keyed option right and no other: no 故A项正确 before 故选D, no 故D错误 for the key D.

    A stem that asks for the wrong statement turns the words round; one with another negation is not judged by them.
    """
    key = parse_key(item.answer[0]) if _one_choice(item) and item.answer else ""
    analysis = _plain(item.analysis) if key else ""
    verdicts = list(_verdicts(analysis))
    if not verdicts:
        return not_applicable("verdicts")
    turned = _asks_wrong(item.question)
    faults = []
    judged = False
    for letters, match in verdicts:
        word = match.group(1)
        chosen = word in ("正确", "符合题意")
        if word in ("正确", "不正确", "错误"):
            if turned is None:
                continue
            chosen = chosen != turned
        rest = _AFTER_VERDICT.match(analysis, match.end())
        if chosen and rest and _CONCESSION.search(rest.group()):
            continue
        judged = True
        if any(chosen != (letter in key) for letter in re.sub(r"[、和]", "", letters)):
            faults.append(
                f"the 解析 says “{shorten(letters)}{match.group()}”, the key is {shorten(key)}"
                + (" (the stem asks for the wrong one)" if turned else "")
            )
    if not judged:
        return not_applicable("verdicts")
    return result("verdicts", faults)


def _verdicts(analysis: str) -> Iterator[tuple[str, re.Match[str]]]:
    """The letters of each verdict as written, and the words behind them up to the verdict."""
    # Lists of letters are found whole before the words are looked for: `A、A、A、` would be read from each A otherwise.
    for match in _VERDICT_LETTERS.finditer(analysis):
        word = _VERDICT_WORD.match(analysis, match.end())
        if word is None:
            continue
        letters = match.group()
        # A letter behind a Latin letter, a backslash or an arrow is part of a name; the rest of the list may not be.
        if re.match(r"[A-Za-z\\>→]", analysis[match.start() - 1 : match.start()]):
            letters = re.sub(r"^[A-D]+[、和]?", "", letters)
        if letters:
            yield letters, word


def _asks_wrong(question: str) -> bool | None:
    """Whether a choice stem asks for the wrong statement; `None` where it is negative in another way."""
    run = option_run(question)
    stem = _plain(question[: run[0][1]] if run else question)
    # A table or a list may stand between the bracket to fill in and the options.
    bracket = list(re.finditer(r"\((?:\\q?quad|[\s_\\])*\)", stem))
    stem = stem[: bracket[-1].start()] if bracket else stem
    blank = _BLANK.match(stem[::-1])
    ask = re.split(r"[。?!;；]", stem[: len(stem) - (blank.end() if blank else 0)])[-1][-40:]
    if _ASKS_WRONG.search(ask):
        return True
    return None if _NEGATIVE.search(ask) else False


# Words that point at a passage the candidate does not have. 材料 is legitimate. Two real stems have 课外 (课外体育,
# 课外小组) and four 教材 as a thing talked about (教材目录, 编写教材): there only a reference to it counts.
_LEAK = re.compile(
    r"课本(?!剧)|课内(?!外)|课内?外(?:内容|材料|资料|知识|文本|信息|素材|文献|拓展|补充|短文|文段|片段|链接|所[给述])"
    r"|(?:根据|依据|结合|按照|参照|参考|阅读|联系|运用|利用|回顾|回归|由|从|在|据|见|与)[^《》,。，;；:\n]{0,8}教材(?!目录|编写|建设|出版|改革)"
    r"|教材(?:内容|知识|中|里|上|所|原文|原句|观点|介绍|指出|认为|提到|第|的(?:内容|知识|观点|说法|表述|介绍|相关))"
)


def check_leak(item: Item) -> Result:
    """The 题干 does not speak of 课本内容 or 课外内容, which a candidate never sees."""
    if not item.question:
        return not_applicable("leak words")
    text = "".join(item.question.split())
    return result("leak words", [f"the 题干 says “{_around(text, *match.span())}”" for match in _LEAK.finditer(text)])


_MATERIAL = re.compile(
    r"(?:根据|阅读|结合|依据|按照|据(?!报|研究|统计|悉|了解)|上述|以上)[^。?!]{0,12}?"
    r"(?<![新原])(?<!建筑)(?<!组成)(?<!磁性)(?<!导体)(?<!墨烯)(?<!复合)(?<!金属)(?<!导电)(?<!储能)(?<!超导)(?<!纳米)(?<!高分子)材料(?!的?(?:性|密|导|强|硬|成|用|种|制|是|有|中的|组|为|研))"
)


def check_material(item: Item) -> Result:
    """A stem that says 根据材料 holds the material: a short one only where it is marked (材料：) or quoted."""
    if not item.question:
        return not_applicable("material")
    text = "".join(fold(item.question).split())
    match = _MATERIAL.search(text)
    if match is None or len(text) >= MATERIAL_STEM:
        return Result("material", Outcome.PASS)
    shown = re.search(r"材料[一二三四]?:(.*)", text)
    quoted = re.search(r"[“\"「]([^”\"」]{12,})[”\"」]", text)
    if quoted or (shown and len(normalize(shown.group(1))) >= 20):
        return Result("material", Outcome.PASS)
    return result("material", [f"the 题干 of {len(text)} characters says “{match.group()}” and holds no material"])


_PICTURE = re.compile(
    r"如图(?![书案腾]|像(?!所))|(?<!天)[下左右附]图(?![书案形章腾])|(?<!面)上图(?![书案形章腾文像])|(?<![河版地插企试意])图(?:[0-9]{1,2}(?![0-9.]*[0-9幅张部册])|[甲乙丙丁])"
    r"|图\([0-9a-zA-Z甲乙]\)|(?<![企试意妄力宏版蓝拼])图[一二三四](?![个种家])|图[a-dA-D](?![a-zA-Z])|(?<=[。.,;\n])图为|见图(?!强)|(?<![企试意妄力宏版蓝拼])图中|图示|示意图如下"
)
# 周期表中, 电流表中, 资产负债表中 and 发表中 name no table that has to be there.
_TABLE = re.compile(
    r"[下上附右左]表(?![面示达明现述层皮演彰决态奏疏言曰扬])|如表(?![面达演情现])|表[0-9一二三](?=所示|中|[,、。])|表格如下|(?<![代期流压债发词电钟手仪外秒水报润地])(?<![多万]用)表中"
)


def check_picture(item: Item) -> Result:
    """The 题干 needs no picture, and no table that it does not contain."""
    if not item.question:
        return not_applicable("picture")
    text = fold(item.question)
    # Print breaks words at line ends and around numbers (如图 4 所示).
    tight = re.sub(r"(?<=[\u4e00-\u9fff])[ \t\n]+(?=[\u4e00-\u9fff0-9(])", "", text)
    faults = [f"the 题干 refers to a picture: “{_around(tight, *match.span())}”" for match in _PICTURE.finditer(tight)]
    faults += [f"the 题干 holds a picture: “{_around(tight, *span)}”" for span in images(tight)]
    if (match := _TABLE.search(tight)) and not _has_table(text):
        faults.append(f"the 题干 refers to a table that it does not contain: “{_around(tight, *match.span())}”")
    return result("picture", faults)


def _has_table(text: str) -> bool:
    """LaTeX and Markdown tables, and what print leaves of one: lines of cells, or at least many numbers."""
    if re.search(r"\\begin\{(?:array|tabular)", text):
        return True
    run = option_run(text)
    stem = text[: run[0][1]] if run else text
    rows = [len(re.split(r"[ \t|:]+", line.strip(" \t|"))) for line in stem.splitlines() if len(line.strip()) < 60]
    if sum(cells >= 3 for cells in rows) >= 2 or sum(cells >= 2 for cells in rows) >= 4:
        return True
    return len(re.findall(r"\d+(?:\.\d+)?", stem)) >= TABLE_NUMBERS


# What asks: a question mark, something to fill in, options, or a word that sets a task.
_ASKS = re.compile(
    r"[?]|[(][ \t\u3000]*[)]|_{2,}|的是|什么|哪|何|几|是否|说明|分析|简述|概括|阐述|阐释|评价|评析|指出|写出|列举|比较|谈谈|解释|判断"
    r"|推断|翻译|描述|归纳|理由|原因|证明|求|计算|选择|填|作文|不少于|完成|补写?|修改|改写|提出|找出"
    r"|(?<![a-z])(?:which|what|why|how|who|when|where|whose|choose|fill|complete|write|answer|find)(?![a-z])",
    re.IGNORECASE,
)


def check_copied(item: Item) -> Result:
    """Without what the 题干 takes over word for word, runs of 20 characters or more, a question is left that asks something.

    Quoting a passage as the material of a question is what a 材料题 does; consisting of it is copying.
    """
    passages = [passage for passage in (item.textbook, item.outside) if passage]
    if not item.question or not passages:
        return not_applicable("copied")
    # Layout and punctuation neither break a run nor make one longer.
    letters, places = letters_and_places(item.question)
    taken = [
        (places[start], places[end - 1] + 1)
        for passage in passages
        for start, end in shared_spans(letters, letters_and_places(passage)[0], COPIED_SPAN)
    ]
    if not taken:
        return Result("copied", Outcome.PASS)
    rest = fold(without(item.question, sorted(taken)))
    left, longest = len(normalize(rest)), max(taken, key=lambda span: span[1] - span[0])
    quoted = f"the longest run taken over is “{shorten(item.question[slice(*longest)])}”"
    found = []
    if left < COPIED_REST:
        found.append(f"{left} of {len(letters)} characters of the 题干 are its own; {quoted}")
    if not _ASKS.search(rest) and split_options(rest) is None:
        found.append(f"without what is taken over the 题干 asks nothing; {quoted}")
    return result("copied", found)


def taken_over(item: Item) -> dict[str, list[str]]:
    """The runs of `SPAN` characters or more that the 题干 takes over from each passage, without layout and punctuation."""
    question = bare(item.question)
    return {
        name: [question[start:end] for start, end in shared_spans(question, bare(item.passage(name)), SPAN)]
        for name in PASSAGES
    }


def check_latex(item: Item) -> Result:
    """Formulas are whole: `$` in pairs, and braces, left/right and begin/end balanced in each formula."""
    fields = [("题干", item.question), *(("参考答案", part) for part in item.answer), ("解析", item.analysis)]
    # English texts write $5, not formulas.
    if item.subject == "英语" or not any(re.search(r"\$|\\[()\[\]]", text) for _, text in fields):
        return not_applicable("latex")
    return result("latex", [f"{name}: {fault}" for name, text in fields for fault in _latex_faults(text)])


def _latex_faults(text: str) -> Iterator[str]:
    # An escaped backslash (a line break in LaTeX) or dollar is no delimiter.
    text = re.sub(r"\\\\|\\\$", "  ", text)
    if text.count("$") % 2:
        yield f"{text.count('$')} dollar signs, the last before “{shorten(text[text.rindex('$') :])}”"
        return
    for begin, end in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.count(begin) != text.count(end):
            yield f"{text.count(begin)} {begin} but {text.count(end)} {end}"
            return
    for _, _, span in formulas(text):
        if fault := _unbalanced(span):
            yield f"{fault} in “{shorten(span)}”"


def _unbalanced(span: str) -> str:
    depth = 0
    for brace in re.findall(r"[{}]", re.sub(r"\\[{}]", "", span)):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return "a closing brace without an opening one"
    if depth:
        return "an open brace"
    left, right = (len(re.findall(rf"\\{side}(?![a-zA-Z])", span)) for side in ("left", "right"))
    if left != right:
        return f"{left} \\left but {right} \\right"
    stack: list[str] = []
    for word, name in re.findall(r"\\(begin|end)\s*\{(\w+\*?)\}", span):
        if word == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            return f"\\end{{{name}}} without its \\begin"
    return f"\\begin{{{stack[-1]}}} without its \\end" if stack else ""


_SIGNS = re.compile(rf"([\W_]{{{LOOP_BLOCK - 1}}})[\W_]+")


def check_repetition(item: Item) -> Result:
    """No block of 8 characters or more stands 4 times in a row, and most 10-grams occur once."""
    if not (item.question or item.analysis):
        return not_applicable("repetition")
    faults = []
    for name, text in (("题干", item.question), ("参考答案", "".join(item.answer)), ("解析", item.analysis)):
        # LaTeX words repeat in any long formula (\\overrightarrow), whatever it says.
        # Rules, dots and blanks to fill in repeat by nature; what is left of them is shorter than a block.
        text = re.sub(r"([\W_])\1{2,}", r"\1", re.sub(r"\\[a-zA-Z]+|[{}$\s]", "", text))
        text = _SIGNS.sub(r"\1", text)
        if block := _looping_block(text):
            faults.append(f"{name}: “{shorten(block)}” stands {LOOP_TIMES} times in a row")
            continue
        total = len(text) - LOOP_GRAM + 1
        if len(text) >= LOOP_LEAST and (share := 1 - len(ngrams(text, LOOP_GRAM)) / total) > LOOP_SHARE:
            counts = Counter(text[start : start + LOOP_GRAM] for start in range(total))
            faults.append(
                f"{name}: {share:.0%} of the {LOOP_GRAM}-grams are repeats, first “{counts.most_common(1)[0][0]}”"
            )
    return result("repetition", faults)


def _looping_block(text: str) -> str:
    """A block of at least `LOOP_BLOCK` characters that stands `LOOP_TIMES` times in a row, or nothing."""
    grams = [text[start : start + LOOP_BLOCK] for start in range(len(text) - LOOP_BLOCK + 1)]
    number = {gram: place for place, gram in enumerate(grams)}
    places = [number[gram] for gram in grams]
    if len(places) - len(number) < LOOP_TIMES - 1:
        return ""
    for period in range(LOOP_BLOCK, len(text) // LOOP_TIMES + 1):
        # Every such row covers three multiples of its period with the same gram at each; the sum over all periods of
        # these multiples is n log n.
        anchors = places[::period]
        checked = 0
        for step, (one, two, three) in enumerate(zip(anchors, anchors[1:], anchors[2:], strict=False)):
            if not one == two == three or step * period < checked:
                continue
            start = end = step * period
            while end + period < len(text) and text[end] == text[end + period]:
                end += 1
            checked = end
            # The row reaches two periods from its first multiple, and less than one before it.
            if end - start < (LOOP_TIMES - 2) * period:
                continue
            while start and text[start - 1] == text[start - 1 + period]:
                start -= 1
            if end - start >= (LOOP_TIMES - 1) * period:
                return text[start : start + period]
    return ""


# What a sentence, a formula, a bracket or a conclusion ends in.
_FINISHED = re.compile(
    r"[。.!?…;)\]】』」》”’\"'$}]$|(?<!故)(?<!故 )[A-H]$|[0-9%℃°]$|(?:正确|错误|即可|等)$"
    r"|故选[^。:.;]{0,19}[^。:.;,、(]$|答案[为是:]+[^。:]{0,59}[^。:,、(]$"
)


def check_truncated(item: Item) -> Result:
    """The model ended the text itself, and the last sentence of the 解析 is finished."""
    if item.finish_reason not in (None, "stop"):
        return result(
            "truncated",
            [f"no end token (finish reason {item.finish_reason}), the text ends in “{item.analysis[-20:]}”"],
        )
    text = item.analysis.strip()
    if not text:
        return not_applicable("truncated")
    last = fold(text).splitlines()[-1].strip()
    if not _FINISHED.search(last):
        return result("truncated", [f"the 解析 stops in the middle of a sentence: “{last[-20:]}”"])
    return Result("truncated", Outcome.PASS)


def check_language(item: Item) -> Result:
    """Outside English, at least half of the letters are Han; formulas are set aside, with dollars or without."""
    text = f"{item.question}\n{' '.join(item.answer)}\n{item.analysis}"
    if item.subject == "英语":
        return not_applicable("language")
    text = without(text, ((start, end) for start, end, _ in formulas(text)))
    text = re.sub(r"\\[a-zA-Z]+", " ", without(text, images(text)))
    han = len(re.findall(r"[\u3400-\u9fff]", text))
    # Greek letters and a few Latin ones (CH3COOH, log2, ab) are formulas; words, and every other script, in a Chinese
    # question are a slip of the model.
    text = text.translate(SPELT_OUT)
    words = re.findall(r"[^\W\d_\u3400-\u9fff\u0370-\u03ff]+", text)
    words = [word for word in words if not word.isascii() or re.fullmatch(r"[A-Za-z][a-z]{3,}", word)]
    other = sum(map(len, [*words, *re.findall(r"(?<=[a-z] )[a-z]{1,3}(?= [a-z])", text)]))
    if han + other < HAN_LEAST:
        return not_applicable("language")
    share = han / (han + other)
    evidence = f"{share:.0%} of the {han + other} letters are Han"
    return Result("language", Outcome.FAIL if share < HAN_SHARE else Outcome.PASS, evidence)


_QUOTE = re.compile(
    r"(?:(?:材料|题干|题目|原文|文中|文章|图表)[一二三四五1-5]?(?:中|里|第[一二三四五]段)?(?:的|说|提到|指出|所说的|强调|显示|信息)?|(?:根据|依据|结合|由|据|从))[,:]?(?:的)?"
    r"[“\"「]([^“”\"「」]{2,300})[”\"」]"
)
_NOT_QUOTED = re.compile(r"(?:没有|未|无|不|应|补|填|改|若|如果)[^,。;]{0,8}$")


def check_quotes(item: Item) -> Result:
    """What the 解析 quotes from the material (材料“…”, 据“…”可知) stands in the stem, at least in part."""
    # English analyses quote in translation.
    if item.subject == "英语" or not item.question:
        return not_applicable("quotes")
    analysis = "".join(fold(item.analysis).split())
    stem = normalize(item.question)
    there = ngrams(stem, QUOTE_GRAM)
    faults, found = [], False
    for match in _QUOTE.finditer(analysis):
        # An ellipsis joins pieces from different places.
        pieces = [
            piece for piece in re.split(r"…+|\.{3,}|—{2,}", match.group(1)) if len(normalize(piece)) >= QUOTE_LEAST
        ]
        # The longest negation and the eight characters behind it are ten characters.
        if not pieces or _NOT_QUOTED.search(analysis[max(0, match.start() - 10) : match.start()]):
            continue
        found = True
        wanted = [ngrams(normalize(piece), QUOTE_GRAM) for piece in pieces]
        if max(len(grams & there) / len(grams) for grams in wanted) < QUOTE_SHARE:
            faults.append(f"the 解析 quotes “{shorten(match.group(1), 40)}”, which the 题干 does not contain")
    return result("quotes", faults) if found else not_applicable("quotes")


# --- the table ------------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """One row of the table: an item that fails a hard check is unusable."""

    name: str
    function: Callable[[Item], Result]
    hard: bool


CHECKS: tuple[Check, ...] = (
    Check("sections", check_sections, True),  # nothing can be read from it
    Check("options", check_options, True),  # cannot be answered
    Check("key", check_key, True),  # cannot be marked
    Check("key agrees", check_key_agrees, True),  # one of key and 解析 is wrong
    Check("verdicts", check_verdicts, True),  # the 解析 contradicts the key
    Check("leak words", check_leak, True),  # asks about a text the candidate does not have
    Check("material", check_material, True),  # the same
    Check("picture", check_picture, True),  # cannot be solved without it
    Check("quotes", check_quotes, False),  # the 解析 is unreliable, question and key may still be right
    Check("copied", check_copied, True),  # there is no question beside the passage
    Check("latex", check_latex, False),  # a renderer shows the source, a reader can mend it
    Check("repetition", check_repetition, True),  # the model was stuck
    Check("truncated", check_truncated, True),  # the end is missing
    Check("language", check_language, True),  # not a Chinese question
)


def run_checks(item: Item) -> list[Result]:
    """Every item check, in the order of the table."""
    return [check.function(item) for check in CHECKS]


def usable(results: Iterable[Result]) -> bool:
    """Whether no hard check failed."""
    hard = {check.name for check in CHECKS if check.hard}
    return not any(result.name in hard and result.outcome is Outcome.FAIL for result in results)


# --- shared by the checks -------------------------------------------------------------------------------------------


def result(name: str, faults: Sequence[str]) -> Result:
    more = [f"and {len(faults) - FAULTS_SHOWN} more"] if len(faults) > FAULTS_SHOWN else []
    return Result(name, Outcome.FAIL if faults else Outcome.PASS, "; ".join([*faults[:FAULTS_SHOWN], *more]))


def not_applicable(name: str) -> Result:
    return Result(name, Outcome.NOT_APPLICABLE)


def _one_choice(item: Item) -> bool:
    """A choice item with at most one answer: with several, options and verdicts belong to several sub-questions."""
    return item.type in CHOICE_TYPES and len(item.answer) < 2


def _plain(text: str) -> str:
    """Text without layout, and letters without LaTeX dress (`$\\mathrm{A}$` is A)."""
    text = re.sub(r"\\(?:mathrm|mathbf|text|rm)[ \t]*\{([^{}]*)\}", r"\1", fold(text))
    text = re.sub(r"[$ \t\u3000]+", "", text)
    # Line breaks of the print may split a verdict, but they also keep 故选C and the next line's B正确 apart.
    return re.sub(r"(?<![A-H])\n(?=[^\n])|(?<=[A-H])\n(?=[^\nA-H])", "", text)


def _around(text: str, start: int, end: int, margin: int = 8) -> str:
    return shorten(text[max(0, start - margin) : end + margin], 60)
