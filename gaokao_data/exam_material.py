"""课外内容 of real items: the material that a stem brings along, without what the paper says about it or asks of it."""

import re

from gaokao.records import Record
from gaokao.text import CHOICE_TYPES, option_run, split_set
from gaokao_data.exam_print import BLANK, EMPTY_PARENTHESES, HAN, MATH

# Shorter ones are a name or a condition rather than a text from which something could be asked.
MATERIAL_CHARS = 40
# What stands before the ask there is the condition of a calculation; in 24 of 921 items it might have been a text.
_WITHOUT = ("数学", "物理", "化学")
LANGUAGES = ("语文", "英语")
# The clause that asks at the end of a sentence is no longer than this.
_CLAUSE_CHARS = 40
_STOPS = ("。", "．", "！", "？", "”", "）", ".", ")")

_SENTENCE = re.compile(
    rf".*?(?:[。！？!?]|(?<=[^\d．])．(?![\d．])|(?<!^\d)(?<!^\d\d)(?<=\d)．(?=\s|$|[“《{HAN}])|(?<=[^\s\d.])\.(?=\s|$))[”’」』）)》]*|.+",
    re.DOTALL,
)
# Where the first sub-question, a first option or a first statement begins.
_FIRST_PART = re.compile(
    r"(?:^|(?<=[。！？．：:；.）)”》]))[ \t]*[（(]\s*(?:1|[IiⅠⅰ])\s*[）)]"
    r"|(?:^|(?<=[。？）]))[ \t]*\d{1,3}\s*[.．、](?!\d)(?=[^\n]*(?:[？?]|的是|请|下列|文中|翻译))"
    r"|^[ \t]*(?:\d{1,2}\s*[.．]\s*)?A\s*[.．]|^[ \t]*①(?=[^\n]*\n[ \t]*②)",
    re.MULTILINE,
)
_INLINE_OPTIONS = re.compile(r"（　）\s*(?:A\s*[．.]|$)")
_DO = r"(?:完成|回答|作答)"
# What the paper says to whoever sits it.
_INSTRUCTS = re.compile(
    rf"(?:[（(]?本题[^。]*|[^。]{{0,12}}阅读(?:下面|下列|以下|如下|材料|资料|图文)[^。]*|[^。]{{0,24}}(?:根据|依据|结合|阅读|按)[^。]{{0,30}}{_DO}[^。]*"
    rf"|(?:请|据此|由此|请据此)?{_DO}(?:下列|下面|以下|各|第|问题|小题|[（(])[^。]*|请?回答|根据短文内容[^。]*|选项中有两项[^。]*"
    r"|假定[^。]*|(?:增加|删除|修改|注意)\s*[:：].*|\d[.．]\s*(?:每处错误|只允许).*|作?文中共有[^。]*|每处错误[^。]*|[A-G]|材料|读[图表]|\d{1,3})[。．：:；\s]*"
)
# In 语文 the text to be worked on comes behind the task.
_TASK = re.compile(
    r".*(?:横线处|画线处|空白处|压缩|修改|仿照|仿写|改写|续写|改成|补写|不超过|不少于|要求|存在问题).*", re.DOTALL
)
# `中外历史人物评说` and the like, which some history papers print above their material.
_HEADING = re.compile(r"\A[^，：\n]{3,24}\n(?=\s*材料)")
_LONE_LABEL = re.compile(r"\A材料[ \t]*[:：]?\s*(?![一二三四五六ⅠⅡ：:]|\d(?!\d))")
_LAST_TASK = re.compile(
    r"[，、,；;：:]?(?:请|据此)*(?:完成|[回问]答)[^。，]{0,10}[题求][。．：:]?\s*$|[（(]要求[^\n]*$"
)
_TASK_INSIDE = re.compile(r"(?<=[^。！？\s])[，、；]?(?:请|据此)*[回问]答(?:下列|下面|以下)?问题[。．：:]")
# How a sentence begins that asks, and how one goes on that comes to the ask.
_ASKS = re.compile(
    r"\s*(?:请|试|简述|简析|说明|分析|指出|概括|概述|评价|评析|提出|推测|比较|阐述|阐释|阐明|为什么|列举|写出|解释|判断|谈谈|论证|归纳|运用|结合|根据|依据|据此|由此|下列"
    r"|以下|[^，。]{0,16}(?:什么|哪|怎样|如何))"
)
_COMES_TO_ASK = re.compile(
    r"[，,：:；;](?=(?:这|此|该|其|上述|由此|据此|对此|从中|从[^，]{1,10}看|以上|可见|之所以|他们|主要|原因|目的|表明|说明|反映|体现|意味|促成|下列))"
)


def material(record: Record) -> str:
    """The text that the stem of an item brings along, of at least `MATERIAL_CHARS` characters; empty where it has none."""
    several = len(record.answer) > 1
    choice = record.type in CHOICE_TYPES
    # A choice item of a language asks about the language; its stem is the example.
    if record.subject in _WITHOUT or (record.subject in LANGUAGES and choice and not several):
        return ""
    parts = split_set(record.question, len(record.answer)) if choice and several else None
    if parts:
        units = _units(parts[1][0])
    elif choice and not several:
        units = _without_ask(_units(_before_options(record.question)))
    else:
        question = _HEADING.sub("", record.question) if record.subject == "历史" else record.question
        first = _FIRST_PART.search(question)
        units = _units(question[: first.start()] if first else question)
        if first:
            while units and units[-1].lstrip().startswith("请"):
                units.pop()
        elif record.subject in LANGUAGES:
            # There the task stands in front of the text.
            while units and _ASKS.match(units[-1]):
                units.pop()
        else:
            while len(units) > 1 and units[-1].lstrip().startswith(("（要求", "(要求")):
                units.pop()
            units = _without_ask(units)
    while units and _instructs(units[0], record.subject):
        units.pop(0)
    # Questions of a set that could not be told apart.
    inside = next((number for number, unit in enumerate(units) if _INLINE_OPTIONS.search(unit)), len(units))
    units = units[:inside]
    text = "".join(unit for unit in units if not _INSTRUCTS.fullmatch(unit.strip())).strip()
    text = _LONE_LABEL.sub("", text, count=1)
    if task := _LAST_TASK.search(text):
        text = text[: task.start()].rstrip() + ("" if text[: task.start()].rstrip().endswith(_STOPS) else "。")
    text = _TASK_INSIDE.sub("。", text)
    text = re.sub(r"_+\d{1,2}_+", BLANK, text).strip()
    return text if len(text) >= MATERIAL_CHARS else ""


def _instructs(unit: str, subject: str) -> bool:
    unit = unit.strip()
    return bool(_INSTRUCTS.fullmatch(unit) or (subject == "语文" and _TASK.fullmatch(unit)))


def _before_options(question: str) -> str:
    """A choice question up to its empty parentheses, or its first option."""
    options = option_run(question)
    before = question[: options[0][1]] if options else question
    return before.partition(EMPTY_PARENTHESES)[0]


def _units(text: str) -> list[str]:
    """The sentences of a text, each with the line ends behind it; a formula ends none."""
    formulas: list[str] = []

    def hide(match: re.Match[str]) -> str:
        formulas.append(match[0])
        return f"\x00{len(formulas) - 1}\x01"

    units: list[str] = []
    for line in MATH.sub(hide, text).splitlines(keepends=True):
        for piece in _SENTENCE.findall(line):
            if units and not piece.strip():
                units[-1] += piece
            elif piece:
                units.append(piece)
    return [re.sub(r"\x00(\d+)\x01", lambda match: formulas[int(match[1])], unit) for unit in units]


def _without_ask(units: list[str]) -> list[str]:
    """All before the sentence that asks, and of that one what stands before its asking clause."""
    *kept, ask = units or [""]
    while kept and (_ASKS.match(kept[-1]) or len(kept[-1].strip()) == 1):
        ask = kept.pop()
    for clause in _COMES_TO_ASK.finditer(ask):
        told = ask[: clause.start()]
        if len(ask) - clause.end() <= _CLAUSE_CHARS and len(told) >= MATERIAL_CHARS // 2 and not _ASKS.match(ask):
            return [*kept, told + "。"]
    return kept
