"""Each check catches what it is for, near misses included, and leaves good questions alone."""

import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from conftest import NEWS, PASSAGE, ROOT

from gaokao import checks
from gaokao.audit import key_of
from gaokao.checks import (
    CHECKS,
    FAULTS_SHOWN,
    LOOP_LEAST,
    MATERIAL_STEM,
    TABLE_NUMBERS,
    Item,
    Outcome,
    Result,
    check_copied,
    check_key,
    check_key_agrees,
    check_language,
    check_latex,
    check_leak,
    check_material,
    check_options,
    check_picture,
    check_quotes,
    check_repetition,
    check_sections,
    check_truncated,
    check_verdicts,
    run_checks,
    usable,
)
from gaokao.prompts import parse
from gaokao.records import Record
from gaokao.text import (
    parse_key,
    split_options,
)

OPTIONS = "A．生态系统的能量可以循环利用\nB．分解者只能是细菌\nC．食物链通常从生产者开始\nD．消费者不参与物质循环"
STEM = "下列关于生态系统的叙述，正确的是（　　）"
ANALYSIS = "能量单向流动，A错误；分解者还有真菌，B错误；食物链从生产者开始，C正确；消费者参与物质循环，D错误。故选C。"

GOOD = Item(f"{STEM}\n{OPTIONS}", ("C",), ANALYSIS, "生物", "单选题")
WRONG = replace(
    GOOD,
    question=f"下列关于生态系统的叙述，错误的是（　　）\n{OPTIONS}",
    analysis="A、B、D三项的说法均正确；C项说法错误。故选C。",
)
MULTIPLE = replace(
    GOOD,
    question="关于匀速圆周运动，下列说法正确的是（　　）\nA. 线速度不变\nB. 角速度不变\nC. 周期不变\nD. 加速度不变",
    answer=("BC",),
    analysis="线速度和加速度的方向改变，故AD错误；角速度和周期不变，故BC正确。故选BC。",
    subject="物理",
    type="多选题",
)
OPEN = Item("简述光合作用的两个阶段及其联系。", ("光反应为暗反应提供ATP和NADPH。",), "见课堂笔记。", "生物", "主观题")
SUBQUESTIONS = replace(
    GOOD,
    question="完成1、2题。\n1．因子是\nA．水 B．热 C．光 D．土\n2．影响是\nA．水 B．热 C．光 D．土",
    answer=("A", "D"),
    analysis="1．水是限制因子，故选A。\n2．土壤变薄，故选D。",
    subject="地理",
)


def caught(result: Result) -> None:
    assert result.outcome is Outcome.FAIL, result
    assert result.evidence


def passed(result: Result) -> None:
    assert result.outcome is Outcome.PASS, result


def skipped(result: Result) -> None:
    assert result.outcome is Outcome.NOT_APPLICABLE, result


# --- sections -------------------------------------------------------------------------------------------------------

BROKEN_TEXTS = [
    "",
    "   \n\n",
    "好的，下面是一道高考题。",
    "题干：下列正确的是",
    "参考答案：A",
    "解析：故选A。",
    "题干：下列正确的是\n参考答案：A",
    "题干：下列正确的是\n解析：故选A。",
    "参考答案：A\n解析：故选A。",
    "题干：\n参考答案：A\n解析：故选A。",
    "题干：下列正确的是\n参考答案：\n解析：故选A。",
    "题干：下列正确的是\n参考答案：A\n解析：",
    "题干：下列正确的是\n参考答案：A\n解析：   \n",
    "参考答案：A\n题干：下列正确的是\n解析：故选A。",
    "题干：下列正确的是\n解析：故选A。\n参考答案：A",
    "解析：故选A。\n参考答案：A\n题干：下列正确的是",
    "题干：一\n题干：二\n参考答案：A\n解析：故选A。",
    "题干：一\n参考答案：A\n解析：故选A。\n解析：再说一遍。",
    "题干：一\n参考答案：A\n参考答案：B\n解析：故选A。",
    "题干：一\n参考答案：A\n解析：故选A。\n题干：二\n参考答案：B\n解析：故选B。",
    "题目：下列正确的是\n参考答案：A\n解析：故选A。",
    "题干：下列正确的是\n答案：A\n解析：故选A。",
    "题干 下列正确的是\n参考答案：A\n解析：故选A。",
    "题干：下列正确的是 参考答案：A 解析：故选A。",
]


@pytest.mark.parametrize("text", BROKEN_TEXTS)
def test_texts_without_the_three_sections_are_caught(text: str) -> None:
    prompt = Record("1", "生物", "单选题", "课文")
    item = Item.from_question(prompt, parse(text), "stop")
    caught(check_sections(item))
    assert not usable(run_checks(item))


@pytest.mark.parametrize(
    "text",
    [
        "题干：下列正确的是\n参考答案：A\n解析：故选A。",
        "题干:下列正确的是\n参考答案:A\n解析:故选A。",
        "题干；一\n参考答案；（1）A\n（2）B\n解析；故选。",
        "**题干：**一\n\n**参考答案：**A\n\n**解析：**故选A。",
    ],
)
def test_whole_texts_pass_the_section_check(text: str) -> None:
    passed(check_sections(Item.from_question(Record("1", "生物", "单选题", "课文"), parse(text))))


def test_a_record_without_analysis_lacks_a_section() -> None:
    result = check_sections(Item.from_record(Record("1", "生物", "单选题", "课文", "", "题", ("A",), "")))
    caught(result)
    assert "解析" in result.evidence


# --- options --------------------------------------------------------------------------------------------------------

BROKEN_OPTIONS = [
    "下列正确的是（　　）",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙",
    "下列正确的是（　　）\nB．甲\nC．乙\nD．丙",
    "下列正确的是（　　）\nA．甲\nB．乙\nD．丁",
    "下列正确的是（　　）\nA．甲\nC．丙\nB．乙\nD．丁",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙\nD．",
    "下列正确的是（　　）\nA．\nB．\nC．\nD．",
    "下列正确的是（　　）\nA．甲\nB．　\nC．丙\nD．丁",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．甲\nD．丁",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙\nD．丙。",
    "下列正确的是（　　）\nA．①②\nB．② ③\nC．②③\nD．③④",
    "下列正确的是（　　）\nA．ＡＴＰ\nB．ATP\nC．ADP\nD．AMP",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙\nD．丁\nE．戊",
    "下列正确的是（　　）\n①甲\n②乙\n③丙\n④丁",
    "下列正确的是（　　）\na. 甲\nb. 乙\nc. 丙\nd. 丁",
    "下列正确的是（　　）\n1. 甲\n2. 乙\n3. 丙\n4. 丁",
    "下列正确的是（　　）\n甲．水\n乙．火\n丙．土\n丁．木",
    "下列正确的是（　　）\nA 甲\nB 乙\nC 丙\nD 丁",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙\nC．丁",
    "下列正确的是（　　）\nD．丁\nC．丙\nB．乙\nA．甲",
    "物体经过A、B、C、D四点，下列正确的是（　　）",
    "下列正确的是（　　）\nA．甲\nB．乙\nC．丙\nD．丁\nA．戊",
    "The word is ABCD. Which one?",
]


@pytest.mark.parametrize("question", BROKEN_OPTIONS)
def test_choice_questions_without_four_distinct_options_are_caught(question: str) -> None:
    caught(check_options(replace(GOOD, question=question)))
    caught(check_options(replace(MULTIPLE, question=question)))


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        "A. 一 B. 二 C. 三 D. 四",
        "A．①② B．②③ C．③④ D．①④",
        "A、一\nB、二\nC、三\nD、四",
        "A:一\nB:二\nC:三\nD:四",
        "A：一\nB：二\nC：三\nD：四",
        "A）一\nB）二\nC）三\nD）四",
        "（A）一（B）二（C）三（D）四",
        "(A) 一\n(B) 二\n(C) 三\n(D) 四",
        "Ａ．一\nＢ．二\nＣ．三\nＤ．四",
        "𝐀. 一\n𝐁. 二\n𝐂. 三\n𝐃. 四",
        "A. $-1$\nB. $1$\nC. $(0,2)$\nD. $[0,2]$",
        "A．一B．二C．三D．四",
        "A．B和C两点\nB．A、B两点\nC．C点\nD．A、B、C三点",
        "A．大肠杆菌\nB．酵母\nC．病毒\nD．蓝细菌和 E. coli",
        "A．①→③→②B．①→②→③C．②→①→③D．③→②→①",
    ],
)
def test_four_options_in_any_usual_layout_pass(options: str) -> None:
    item = replace(GOOD, question=f"{STEM}\n{options}")
    passed(check_options(item))
    found = split_options(item.question)
    assert found is not None and list(found) == list("ABCD")


@pytest.mark.parametrize("options", ["A．①② B．②③ C．③④ D．①④", "A．①②④ B．②③④ C．③④ D．①③④"])
def test_statements_that_the_options_combine_are_distinct(options: str) -> None:
    same = "①市场调节具有滞后性\n②市场调节具有滞后性\n③价格由价值决定\n④供求影响价格"
    caught(result := check_options(replace(GOOD, question=f"这说明（　）\n{same}\n{options}")))
    assert "statements ① and ② are both “市场调节具有滞后性”" in result.evidence
    other = same.replace("②市场调节具有滞后性", "②市场调节具有自发性")
    passed(check_options(replace(GOOD, question=f"这说明（　）\n{other}\n{options}")))
    # Where the options do not combine them, they may be anything: steps, parts of a figure.
    passed(check_options(replace(GOOD, question=f"反应①加热至沸腾②加热至沸腾\n{STEM}\n{OPTIONS}")))


def test_options_are_not_asked_of_open_questions_and_of_sub_questions() -> None:
    skipped(check_options(OPEN))
    skipped(check_options(SUBQUESTIONS))
    skipped(check_options(replace(GOOD, question="")))


# --- key ------------------------------------------------------------------------------------------------------------

BROKEN_KEYS = [
    ("单选题", "AB"),
    ("单选题", "A、C"),
    ("单选题", "ABCD"),
    ("单选题", "E"),
    ("单选题", "Ｆ"),
    ("单选题", "甲"),
    ("单选题", "正确"),
    ("单选题", "①"),
    ("单选题", "C．食物链通常从生产者开始"),
    ("单选题", "故选C"),
    ("单选题", "c"),
    ("单选题", "3"),
    ("单选题", "AA"),
    ("单选题", "A或B"),
    ("单选题", "无"),
    ("多选题", "B"),
    ("多选题", "D。"),
    ("多选题", "ABCDE"),
    ("多选题", "AE"),
    ("多选题", "BB"),
    ("多选题", "B和C"),
    ("多选题", "全部"),
    ("多选题", "A,C,C"),
    ("多选题", "①③"),
]


@pytest.mark.parametrize(("kind", "key"), BROKEN_KEYS)
def test_keys_that_cannot_be_marked_are_caught(kind: str, key: str) -> None:
    caught(check_key(replace(GOOD if kind == "单选题" else MULTIPLE, answer=(key,))))


@pytest.mark.parametrize(
    ("kind", "key"),
    [("单选题", "A"), ("单选题", "Ｄ"), ("单选题", "B。"), ("单选题", " C\n"), ("多选题", "AB"), ("多选题", "A、C、D")]
    + [("多选题", "ＡＢＣＤ"), ("多选题", "A,B")],
)
def test_letters_among_the_options_are_a_key(kind: str, key: str) -> None:
    passed(check_key(replace(GOOD if kind == "单选题" else MULTIPLE, answer=(key,))))


@pytest.mark.parametrize(
    "key", ["B", "Ｂ", "(B)", "（B）", "（ Ｂ ）", "B，", "B,", "B。", "B．", "B.", "B、", " B \n", "B；"]
)
def test_a_letter_in_any_usual_dress_is_the_key(key: str) -> None:
    item = replace(GOOD, answer=(key,), analysis="分解者还有真菌，故选B。")
    assert parse_key(key) == "B"
    passed(check_key(item))
    passed(check_key_agrees(item))
    assert key_of(item) == ("B", False)


@pytest.mark.parametrize(
    "options", ["A甲 B甲", "A甲 B乙 C丙 D丁", "A甲\nB乙\nC丙\nD丁", "A．甲 B．甲", "A．甲 B．甲 C．丙 D．丁"]
)
def test_letters_without_marks_and_equal_texts_are_no_options(options: str) -> None:
    item = replace(GOOD, question=f"{STEM}\n{options}")
    caught(check_options(item))
    assert not usable(run_checks(item))


def test_keys_are_not_asked_of_open_questions_and_sub_questions() -> None:
    skipped(check_key(OPEN))
    skipped(check_key(SUBQUESTIONS))
    skipped(check_key(replace(SUBQUESTIONS, answer=("G", "A", "E"))))


# --- the key agrees with the 解析 -----------------------------------------------------------------------------------

DISAGREEING = [  # all for the key C
    "故选D。",
    "故选：A。",
    "故选 B",
    "故选：$\\mathrm{B}$。",
    "故选: $A$.",
    "因此，答案为D。",
    "所以正确答案是 A。",
    "答案：B",
    "【答案】略。本题应选A。",
    "故答案选D。",
    "故本题选A。",
    "故本题答案为B。",
    "综上，选D。",
    "故选Ｄ。",
    "故选CD。",
    "故选A、C。",
    "故选C。经检验，应选B。",
    "因为能量单向流动，所以选A。",
    "由此可知选 D.",
    "正确选项为B。",
    "故\n选：A。",
    "故此题选D项。",
    "故应选 B．",
    "因此本题的正确答案为 A，其余各项均不符合题意。",
]


@pytest.mark.parametrize("analysis", DISAGREEING)
def test_an_analysis_that_concludes_another_letter_is_caught(analysis: str) -> None:
    item = replace(GOOD, analysis=analysis)
    caught(check_key_agrees(item))
    assert not usable(run_checks(item))


@pytest.mark.parametrize(
    "analysis",
    [
        "故选C。",
        "故选: $\\mathrm{C}$ 。",
        "答案为 C．",
        "故选A？不对，A与题意不符。故选C。",
        "应选Ｃ",
        "综上所述，本题选C。",
    ],
)
def test_an_analysis_that_concludes_the_key_agrees(analysis: str) -> None:
    passed(check_key_agrees(replace(GOOD, analysis=analysis)))


@pytest.mark.parametrize(
    "analysis",
    [
        "食物链从生产者开始。", "由题意可得，因此答案A、B、D错误。", "所以答案A不正确。", "A错误，C正确。", "答案为A number of birds的说法不对。", "",
    ],
)  # fmt: skip
def test_an_analysis_without_a_conclusion_is_not_judged(analysis: str) -> None:
    skipped(check_key_agrees(replace(GOOD, analysis=analysis)))


def test_the_order_of_letters_in_a_multiple_key_does_not_count() -> None:
    passed(check_key_agrees(replace(MULTIPLE, answer=("CB",), analysis="故选：B、C。")))
    caught(check_key_agrees(replace(MULTIPLE, answer=("BC",), analysis="故选：B、D。")))
    caught(check_key_agrees(replace(MULTIPLE, answer=("BC",), analysis="故选B。")))


def test_conclusions_of_sub_questions_are_not_mixed_up() -> None:
    skipped(check_key_agrees(SUBQUESTIONS))
    skipped(check_verdicts(SUBQUESTIONS))


# --- verdicts -------------------------------------------------------------------------------------------------------

CONTRADICTING = [  # (asks for the wrong one, key, 解析)
    (False, "D", "能量单向流动，故A项正确。故选D。"),
    (False, "D", "故A项正确；B项错误；C项错误；D项错误。故选D。"),
    (False, "C", "A错误；B错误；C错误；D错误。故选C。"),
    (False, "C", "C项说法不正确。故选C。"),
    (False, "C", "选项C错误。故选C。"),
    (False, "C", "故 $\\mathrm{B}$ 正确；故选: C。"),
    (False, "C", "A、B、C项均错误，故选C。"),
    (False, "C", "ABD正确，C错误，故选C。"),
    (False, "B", "综上，C选项正确。答案为B。"),
    (False, "A", "D项符合题意。故选A。"),
    (False, "A", "A项不符合题意，故选A。"),
    (False, "B", "B不合题意，故选B。"),
    (False, "C", "B\n正确，故选C。"),
    (False, "D", "材料强调平等，故Ｂ项正确。故选D。"),
    (False, "C", "B的表述正确，故选C。"),
    (False, "A", "所以B和D正确，A也正确。故选A。"),
    (False, "C", "C项观点错误，因为食物链从生产者开始。故选C。"),
    (True, "C", "C项正确，A、B、D项错误。故选C。"),
    (True, "C", "A错误，能量单向流动。故选C。"),
    (True, "B", "B说法正确，故选B。"),
    (True, "D", "故D正确，故选D。"),
    (True, "A", "B项错误，故选A。"),
    (True, "A", "A项不符合题意，故选A。"),
]


@pytest.mark.parametrize(("wrong", "key", "analysis"), CONTRADICTING)
def test_an_analysis_that_contradicts_the_key_is_caught(wrong: bool, key: str, analysis: str) -> None:
    caught(check_verdicts(replace(WRONG if wrong else GOOD, answer=(key,), analysis=analysis)))


@pytest.mark.parametrize(
    ("key", "analysis"), [("BC", "故A正确，故选BC。"), ("BC", "B错误，C正确，故选BC。"), ("AD", "C项正确。")]
)
def test_a_multiple_choice_analysis_that_contradicts_the_key_is_caught(key: str, analysis: str) -> None:
    caught(check_verdicts(replace(MULTIPLE, answer=(key,), analysis=analysis)))


def test_the_contradiction_a_tuned_small_model_wrote_is_caught_by_its_words() -> None:
    result = check_verdicts(replace(GOOD, answer=("D",), analysis="材料强调流动，故A项正确。B、C不符。故选D。"))
    caught(result)
    assert "A项正确" in result.evidence and "the key is D" in result.evidence


@pytest.mark.parametrize(
    "item",
    [
        GOOD,
        WRONG,
        MULTIPLE,
        replace(GOOD, analysis="A项说法正确，但与题意无关，排除；C项正确。故选C。"),
        replace(GOOD, analysis="故ABD错误，C正确；故选: C。"),
        replace(GOOD, analysis="能量单向流动，排除A，C正确。故选C\nB错误，分解者还有真菌。"),
        replace(GOOD, analysis="C符合题意，A、B、D不符合题意。故选C。"),
        replace(WRONG, analysis="A正确；B正确；C错误，食物链从生产者开始；D正确。故选C。"),
    ],
)
def test_an_analysis_that_agrees_with_the_key_passes(item: Item) -> None:
    passed(check_verdicts(item))


@pytest.mark.parametrize("end", ["", "（　　）", "____。", "？", "：", "。（ ）", " (\\quad)"])
def test_a_stem_asks_for_the_wrong_one_whatever_stands_behind_its_last_word(end: str) -> None:
    item = replace(WRONG, question=f"下列叙述错误的是{end}\n{OPTIONS}", analysis="C项正确。故选C。")
    assert "the stem asks for the wrong one" in check_verdicts(item).evidence


@pytest.mark.parametrize(
    "question",
    ["下列过程不属于胞吐作用的是（　　）", "下列实验不能达到目的的是（　　）", "下列选项中没有语病的一项是（　　）"],
)
def test_stems_negative_in_another_way_are_not_judged_by_right_and_wrong(question: str) -> None:
    skipped(check_verdicts(replace(GOOD, question=f"{question}\n{OPTIONS}", analysis="A正确，B正确，C错误，D正确。")))


# --- leak words -----------------------------------------------------------------------------------------------------

LEAKING = [
    "根据课本内容，说明光合作用的过程。",
    "结合课本和课外材料，谈谈你的看法。",
    "课本中提到的“细胞学说”由谁建立？",
    "依据课 本知识回答。",
    "课内知识告诉我们，能量怎样流动？",
    "结合课内外内容，回答问题。",
    "阅读课外内容，概括其主旨。",
    "由课外材料可知，该地的气候类型是什么？",
    "课外资料显示产量上升，请分析原因。",
    "运用课外知识解释这一现象。",
    "根据课外文献，指出作者的观点。",
    "结合课外信息，分析人口变化。",
    "根据教材，下列说法正确的是（　　）\nA．甲 B．乙 C．丙 D．丁",
    "结合教材知识，说明市场的作用。",
    "教材中关于惯性的说法，正确的是（　　）",
    "运用教材所学原理，分析材料。",
    "教材指出，实践是认识的基础。请举例说明。",
    "据教材可知，秦朝的中央官制是什么？",
    "依据教\n材内容，完成下列要求。",
    "教材第三章介绍了哪些方法？",
    "回顾教材，说出三大改造的内容。",
    "下列与教材观点一致的是（　　）",
    "课外拓展内容中提到的“碳汇”是什么？",
    "从课本和生活经验看，摩擦力的方向如何？",
]


@pytest.mark.parametrize("question", LEAKING)
def test_stems_that_speak_of_the_passages_are_caught(question: str) -> None:
    caught(check_leak(replace(OPEN, question=question)))


@pytest.mark.parametrize(
    "question",
    [
        "根据材料并结合所学知识，说明变化的原因。",
        "分别统计甲、乙两位同学16周的各周课外体育运动时长。",
        "学校组织各种课外小组，开设选修课。",
        "材料 世界近代史教材目录对比（节选）",
        "他带病编写出一整套农林大学的教材纲要。",
        "——据人教版《高中历史教材》整理",
        "参赛诗词主要选自中小学教材，聚焦爱国、仁义。",
        "学校排演课本剧《雷雨》，请写一段串词。",
        "某校调查学生每天的课外阅读时间。",
    ],
)
def test_stems_that_only_mention_school_matters_pass(question: str) -> None:
    passed(check_leak(replace(OPEN, question=question)))


# --- material -------------------------------------------------------------------------------------------------------

WITHOUT_MATERIAL = [
    "根据材料，分析原因。",
    "根据上述材料，回答问题。",
    "阅读材料，完成下列要求。",
    "阅读下列材料，回答问题。（1）概括特点。（2）分析原因。",
    "结合材料，运用《经济生活》知识说明理由。",
    "结合材料和所学知识，谈谈你的认识。",
    "根据材料一，指出变化。",
    "根据材料一、二，概括英国工业化的影响。",
    "依据材料，下列说法正确的是（　　）\nA．甲 B．乙 C．丙 D．丁",
    "根据以上材料，概括作者的观点。",
    "上述材料反映了（　　）\nA．甲\nB．乙\nC．丙\nD．丁",
    "以上材料说明，城市化（　　）",
    "按照材料所述，指出改革措施。",
    "根据所给材料，分析该地气候特征。",
    "阅读下面的材料，根据要求写作。不少于800字。",
    "结合上述两则材料，说明货币政策的作用。",
    "根据材 料，\n分析成因。",
    "据材料可知，当时的社会主要矛盾是（　　）",
    "阅读材料：回答问题。",
    "根据材料“略”，分析原因。",
    "（12分）阅读图文材料，完成下列要求。说明该地区发展农业的有利条件。",
    "根据材料二中的数据，计算该企业的利润率。",
]


@pytest.mark.parametrize("question", WITHOUT_MATERIAL)
def test_short_stems_that_ask_for_absent_material_are_caught(question: str) -> None:
    caught(check_material(replace(OPEN, question=question)))


@pytest.mark.parametrize(
    "question",
    [
        "材料：1840年后，通商口岸陆续开放，外国商品大量输入，沿海手工业受到冲击。根据材料概括影响。",
        "“苟利国家生死以，岂因祸福避趋之”。根据材料，说明作者的情感。",
        "阅读材料，完成下列要求。\n" + "近代以来，长江流域的市镇随着航运的发展而变化，商人和工匠迁入。" * 5,
        "下列四组材料中应选择的一组是（　　）",
        "以豌豆为材料发现性状遗传规律的科学家是谁？",
        "单质硅是将太阳能转化为电能的常用材料。这一说法正确吗？",
        "根据材料的导电性，可将固体分为哪几类？",
        "桥梁根据建筑材料不同可分为哪几类？",
        "据报道，科学家用石墨烯材料做成电极，说明其优点。",
        "结合新材料产业发展，说明政府的经济职能。",
        "简述光合作用的过程。",
    ],
)
def test_stems_with_their_material_or_about_substances_pass(question: str) -> None:
    passed(check_material(replace(OPEN, question=question)))


# --- picture --------------------------------------------------------------------------------------------------------

WITHOUT_PICTURE = [
    "如图，质量为m的物块静止在斜面上，求摩擦力。",
    "如图所示，电路中的电源电动势为6 V。",
    "如 图 所示，一质点沿x轴运动。",
    "某细胞的分裂过程如图1所示，判断时期。",
    "下图为某地气候资料，判断其类型。",
    "读下图，回答1～2题。",
    "右图是某生态系统的食物网。",
    "左图表示酶活性的变化。",
    "读上图，说出甲地的地形。",
    "图1为等高线示意，图2为剖面。",
    "图甲表示光照强度，图乙表示产量。",
    "图（a）是装置，图（b）是读数。",
    "该过程可用图一表示，说明其含义。",
    "据图中信息，判断河流流向。",
    "实验装置的示意图如下：",
    "准确反映供给变化的图示是（　　）\nA．甲 B．乙 C．丙 D．丁",
    "装置见附图，指出其错误。",
    "导致供给曲线移动（见图）的是什么？",
    "雾霾危害健康。图为某市污染物来源，请分析。",
    "图a到图b的变化说明了什么？",
    "![](https://example.org/a.jpg) 指出甲的名称。",
    "下表为某地人口变化，说明其特点。",
    "实验结果如表所示，得出结论。",
    "数据见右表，计算平均值。",
    "统计结果见下 表，分析原因。",
    "根据表中数据，计算反应速率。",
    "利用表中数据，计算反应速率。",
    "表1中甲、乙两组的差异说明什么？",
]


@pytest.mark.parametrize("question", WITHOUT_PICTURE)
def test_stems_that_need_a_picture_or_an_absent_table_are_caught(question: str) -> None:
    caught(check_picture(replace(OPEN, question=question)))


@pytest.mark.parametrize(
    "question",
    [
        "在平面直角坐标系中作出该函数的图象，并说明其单调性。",
        "画作上历代藏家盖上图章、写下题跋。",
        "活塞下表面相对于气缸底部的高度为h。",
        "《清明上河图3.0》是一场高科技互动展演。",
        "全书共计638万字，插图2353幅。",
        "式中n代表中子，求反应能。",
        "请试图说明其中的原因。",
        "公共文化设施（如图书馆、博物馆）应免费开放，说明理由。",
        "日军企图一举歼灭守军，企图中止谈判，这说明什么？",
        "世界经济版图中新兴国家的地位怎样？",
        "平台上图文并茂，线上图像识别很快，说明其影响。",
        "影响酶活性的因素有哪些（例如表面活性蛋白）？",
        "网上表演节目要遵守哪些规定？大会上表彰了谁？",
        "实验结果见下表：\n温度 10 20 30\n速率 1 2 4\n说明温度的影响。",
        "结果见下表。\n| 组别 | 甲 | 乙 |\n|---|---|---|\n| 数量 | 3 | 5 |",
        "数据如下表：\\begin{tabular}{|c|c|} 1 & 2 \\end{tabular}",
        "铝在元素周期表中的位置是____。",
        "通过电流表中的电流方向如何判断？",
        "多用表中红表笔接哪一极？",
        "资产负债表中属于资产的是哪一项？",
        "毛泽东在抗日战争时期发表中国革命的著作，说明其意义。",
    ],
)
def test_stems_that_are_whole_without_a_picture_pass(question: str) -> None:
    passed(check_picture(replace(OPEN, question=question)))


# --- copied ---------------------------------------------------------------------------------------------------------

COPIES = [
    PASSAGE,
    NEWS,
    f"{PASSAGE}请说明。",
    f"阅读下文：{NEWS}概括大意。",
    PASSAGE[:60],
    PASSAGE[30:],
    NEWS[10:70] + "这说明什么？",
    PASSAGE.replace("，", ",").replace("。", "."),
    PASSAGE.replace("光", " 光\n"),
    PASSAGE.replace("ATP", "ＡＴＰ"),
    PASSAGE + NEWS,
    NEWS + PASSAGE,
    PASSAGE[:45] + NEWS[:45],
    PASSAGE[40:] + NEWS[:30] + "说明理由。",
    "下列说法正确的是（　　）A．" + PASSAGE[:50] + "B．" + NEWS[:50],
    NEWS.replace("近日", "最近"),
    NEWS.replace("五百", "六百"),
    "（12分）" + NEWS + "请用所学知识解释。",
    PASSAGE[:30] + "？",
    "*".join(PASSAGE),
    f"{PASSAGE}\n{PASSAGE}",
]


@pytest.mark.parametrize("question", COPIES)
def test_stems_that_are_the_passages_over_again_are_caught(question: str) -> None:
    caught(check_copied(replace(OPEN, question=question, textbook=PASSAGE, outside=NEWS)))


@pytest.mark.parametrize(
    "question",
    [
        GOOD.question,
        "光反应和暗反应分别在叶绿体的什么部位进行？二者怎样相互依存？试以光照突然减弱为例说明。",
        (
            "某研究团队在盐碱地上种植耐盐水稻。从渗透调节的角度看，把钠离子排出细胞的意义是（　　）\n"
            "A．降低细胞液浓度，便于吸水\nB．避免钠离子过多而毒害细胞\nC．为光合作用提供还原剂\nD．加快水的光解"
        ),
        "说明光合作用过程中光反应如何为暗反应提供物质和能量，并分析光照突然停止后短时间内三碳化合物含量的变化。",
    ],
)
def test_stems_that_use_the_passages_pass(question: str) -> None:
    passed(check_copied(replace(OPEN, question=question, textbook=PASSAGE, outside=NEWS)))


def test_copying_is_not_judged_without_passages() -> None:
    skipped(check_copied(GOOD))
    passed(check_copied(replace(OPEN, question="何为光合作用？", textbook=PASSAGE)))


# --- LaTeX ----------------------------------------------------------------------------------------------------------

BROKEN_LATEX = [
    "已知$x=1，求值。",
    "已知x=1$，求值。",
    "$a$ 与 $b 之和",
    "$$x^2+1$",
    "价格 \\$5 与 $x",
    "$\\frac{1}{2$",
    "$\\frac{1}2}$",
    "$x^{2}}$",
    "$}{$",
    "$\\sqrt{x$ 与 $y}$",
    "$\\left(x+1)$",
    "$(x+1\\right)$",
    "$\\left\\{x \\mid x>0\\}$",
    "$\\left(\\left(x\\right)$",
    "$\\begin{array}{c} 1 $",
    "$1 \\end{cases}$",
    "$\\begin{cases} x \\end{array}$",
    "$\\begin{array}{c}\\begin{cases} x \\end{array}\\end{cases}$",
    "$$\\begin{aligned} x &= 1 $$",
    "\\(x+1",
    "x+1\\)",
    "\\[\\frac{1}{2\\]",
    "\\(\\left[0,1)\\)",
    "求 $x_{1}$ 与 $x_{2$ 的和",
]


@pytest.mark.parametrize("text", BROKEN_LATEX)
def test_broken_formulas_are_caught_wherever_they_stand(text: str) -> None:
    caught(check_latex(replace(OPEN, question=text)))
    caught(check_latex(replace(OPEN, answer=("1", text))))
    caught(check_latex(replace(OPEN, analysis=text)))


@pytest.mark.parametrize(
    "text",
    [
        "$x$",
        "$$x^{2}$$",
        "$\\left\\{x \\mid x>0\\right\\}$",
        "$\\left.\\frac{1}{2}\\right|_{0}$",
        "$a \\leftarrow b \\rightarrow c$",
        "$\\{1,2\\}$",
        "价格为 \\$5，$x=1$",
        "\\(x\\)与\\[y\\]",
        "$\\begin{cases} x=1 \\\\ y=2 \\end{cases}$",
        "$\\begin{array}{c}\\begin{cases} x \\end{cases}\\end{array}$",
        "$a$$b$",
        "区间 $[0,1)$",
    ],
)
def test_whole_formulas_pass(text: str) -> None:
    passed(check_latex(replace(OPEN, question=text)))


def test_latex_is_not_asked_of_texts_without_formulas_and_of_dollars_in_english() -> None:
    skipped(check_latex(GOOD))
    skipped(check_latex(replace(OPEN, subject="英语", question="It costs $5 to join.")))


# --- repetition -----------------------------------------------------------------------------------------------------

LOOPS = [
    "生态系统的能量流动" * 4,
    "生态系统的能量流动，" * 30,
    "前文说明。" + "因此该选项是错误的。" * 4 + "故选C。",
    "甲乙丙丁戊己庚辛" * 4,
    "甲乙丙丁戊己庚辛" * 5 + "后",
    "哈" * 32,
    "正确" * 40,
    "正确，" * 12,
    "The answer is C. " * 4,
    "故A错误；故B错误；" * 4,
    "\n".join(["该过程需要消耗能量。"] * 4),
    "该过程 需要消耗能量。该过程需要消耗 能量。 该过程需要消耗能量。该过程需要消耗能量。",
    "1234567890" * 4,
    "$x+1=2,y$，" * 6,
    "一二三四五六七八九一二三四五六七八十" * 4,
    "第一步求导数，第二步判断单调性，第三步求极值。" * 4,
    "由题意可知" * 8,
    "".join(f"第{n}点，光合作用需要光照和二氧化碳参与，并且释放出氧气。" for n in range(8)),
    "".join(f"{n}、该同学认为市场在资源配置中起决定性作用，政府要更好发挥作用；" for n in "甲乙丙丁戊"),
    ("故选C。因为食物链从生产者开始，分解者不在其中。" + "综上所述，可以得出结论。") * 4,
    "题目要求说明理由，" * 3 + "题目要求说明理由，" + "完。",
    "ATP水解释放能量" * 6,
    "，。" + "答案是C，理由如上" * 5,
]


@pytest.mark.parametrize("text", LOOPS)
def test_texts_in_a_loop_are_caught(text: str) -> None:
    caught(check_repetition(replace(OPEN, analysis=text)))
    caught(check_repetition(replace(OPEN, question=text)))


@pytest.mark.parametrize(
    "text",
    [
        ANALYSIS,
        PASSAGE + NEWS,
        "甲乙丙丁戊己庚辛" * 3,
        "甲乙丙丁戊己庚" * 4,
        "|c|c|c|c|c|c|c|",
        "填空：" + "_" * 60,
        "……" * 40,
        "$\\overrightarrow{A B}+\\overrightarrow{B C}+\\overrightarrow{C D}+\\overrightarrow{D E}$",
        "A错误；B错误；C正确；D错误。",
    ],
)
def test_texts_that_repeat_as_texts_do_pass(text: str) -> None:
    passed(check_repetition(replace(OPEN, analysis=text)))


# --- truncated ------------------------------------------------------------------------------------------------------

CUT = [
    "能量单向流动，",
    "能量单向流动、",
    "理由如下：",
    "食物链从生产者开始，因此该生态系统的能量",
    "由于分解者还包括真菌，所以选项B的说法",
    "能量流动的特点是单向流动（",
    "作者认为“",
    "所以 $x=1$，则 $y=2$，",
    "由此可得 $a+b=",
    "综上，本题的",
    "故A错误；故B",
    "首先计算总量，其次计算比例，最后",
    "第一，经济发展；第二，政治稳定；第三，",
    "根据平均值公式可得该组数据的方差",
    "In the second paragraph the author says that the",
    "因为该反应是放热反应，升高温度，平衡向",
    "故选",
    "故答案为：略。\n（2）由图像可知",
    "能量单向流动。\n食物链从",
    "解得 x =",
    "根据《中华人民共和国宪法",
    "A项错误，B项错误，C项",
    "故选 C. 其次，",
    "故选用责无旁贷，",
    "故选C；其次分析",
    "故答案为：甲，",
]


@pytest.mark.parametrize("analysis", CUT)
def test_an_analysis_cut_in_a_sentence_is_caught(analysis: str) -> None:
    caught(check_truncated(replace(GOOD, analysis=analysis)))
    caught(check_truncated(replace(GOOD, analysis=analysis, finish_reason="stop")))


@pytest.mark.parametrize("reason", ["length", "max_tokens", "time", ""])
def test_a_text_without_end_token_is_caught_whatever_it_ends_in(reason: str) -> None:
    caught(check_truncated(replace(GOOD, finish_reason=reason)))


@pytest.mark.parametrize(
    "analysis",
    [
        ANALYSIS,
        "故选C",
        "故选：$\\mathrm{C}$",
        "故答案为：细胞核",
        "故答案为：12",
        "则 $x=2$",
        "答案：略（言之有理即可）",
        "D．表述正确",
        "The answer is C.",
        "解得 x = 25",
        "可从气候、地形、水源等角度作答，言之成理即可",
        "见教师用书【点评】",
        "作者说“不可”",
    ],
)
def test_finished_analyses_pass(analysis: str) -> None:
    passed(check_truncated(replace(GOOD, analysis=analysis)))
    passed(check_truncated(replace(GOOD, analysis=analysis, finish_reason="stop")))


# --- language -------------------------------------------------------------------------------------------------------

FOREIGN = [
    "Which of the following statements about photosynthesis is correct?",
    "The answer is C because the food chain starts with producers. 故选C。",
    "下列正确的是 A. Energy flows in one direction B. Decomposers are fungi C. Both D. Neither",
    "光合作用 photosynthesis 的 light reaction 发生在 thylakoid membrane 上",
    "次の記述のうち、せいたいけいについて ただしいものは どれですか",
    "다음 중 생태계에 대한 설명으로 옳은 것은 무엇입니까",
    "Какое из следующих утверждений об экосистеме верно?",
    "ข้อใดต่อไปนี้ถูกต้องเกี่ยวกับระบบนิเวศ",
    "أي العبارات التالية صحيحة حول النظام البيئي",
    "Quelle affirmation sur les écosystèmes est correcte ?",
    "解：Let the mass be m, then the force on it equals the product of mass and acceleration.",
    "def solve(question): return the answer that the teacher wants, 然后输出",
    "Ｗｈｉｃｈ　ｓｔａｔｅｍｅｎｔ　ｉｓ　ｃｏｒｒｅｃｔ　ａｂｏｕｔ　ｅｃｏｓｙｓｔｅｍｓ",
    "lorem ipsum dolor sit amet consectetur 下列",
    "Xia lie guan yu sheng tai xi tong de xu shu zheng que de shi",
    "Вопрос：下列正确的是哪一项？Объясните свой выбор подробно.",
    "$x=1$ is the solution of the equation, so the correct option is B",
    "Please choose the best option 请选择 and explain your reasons in detail",
    "JSON object with keys question answer analysis and nothing else 题干",
    "Câu nào sau đây đúng về hệ sinh thái và dòng năng lượng",
    "\\text{中文} The gradient of the curve at the given point is two",
    "ποιο a from the list is the right one, tell us why 选",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_questions_in_another_language_are_caught(text: str) -> None:
    caught(check_language(replace(OPEN, question=text, answer=("B",), analysis="")))


@pytest.mark.parametrize(
    "text",
    [
        GOOD.question,
        "已知 $\\overrightarrow{AB}=(2,3)$，$\\overrightarrow{AC}=(3,t)$，且两向量垂直，则实数的值为多少？写出过程。",
        "植物细胞中 ATP、NADPH 和 DNA 的作用各是什么？请结合光合作用与呼吸作用的过程分别加以说明。",
        "设角 α、β、γ 满足给定的条件，求它们的正弦值，并说明理由，写出必要的文字说明。",
        "若a=log2(3)，b=ln2，c=e^(-1)，比较它们的大小，下列各式中成立的一个是哪一个\nA．a>b>c B．a>c>b C．b>a>c D．c>b>a",
        "下列离子方程式正确的是\nA．CH3COOH+OH-=CH3COO-+H2O\nB．2Na+2H2O=2NaOH+H2↑\nC．Fe+CuSO4=FeSO4+Cu\nD．H2+Cl2=2HCl",
    ],
)
def test_chinese_questions_with_formulas_and_names_pass(text: str) -> None:
    passed(check_language(replace(OPEN, question=text)))


def test_language_is_not_asked_of_english_and_of_bare_formulas() -> None:
    skipped(check_language(replace(OPEN, subject="英语", question=FOREIGN[0])))
    skipped(check_language(replace(OPEN, question="$x=1$", answer=("1",), analysis="$y$")))


# --- quotes ---------------------------------------------------------------------------------------------------------

QUOTE_STEM = "宋代江南市镇兴起，“商贾往来，船只不绝”，农民多种桑养蚕，出售丝绸换取粮食。这反映了（　　）\n" + (
    "A．商品经济发展 B．重农政策放松 C．海外贸易发达 D．工商业主兴起"
)
INVENTED = [
    "材料“政府设立市舶司管理海外贸易”说明外贸发达。",
    "材料中“人口大量南迁带来先进技术”可知劳动力增加。",
    "据“交子首先在四川地区流通使用”可知商业发展。",
    "根据“坊市之间的界限被完全打破”可得出结论。",
    "由“朝廷下令减免江南各州赋税”可以看出政策变化。",
    "题干“土地兼并严重，流民四起”表明社会矛盾尖锐。",
    "题干中的“夜市直至三更尽，才五更又复开张”反映城市繁荣。",
    "材料一“苏湖熟，天下足，粮食有余”体现粮食生产中心南移。",
    "依据“行会组织垄断了全部生产”可排除A。",
    "材料提到“瓷器远销东南亚和非洲”，故C正确。",
    "材料指出“活字印刷术降低了书价”，说明文化普及。",
    '材料"指南针已用于海上航行事业"说明科技进步。',
    "材料「科举制度扩大了统治基础」说明政治变化。",
    "从“官府专营盐铁茶酒的买卖”可知政府干预经济。",
    "材料二中的“机器生产逐步取代手工劳动”表明工业化。",
    "结合“列强强占通商口岸和租界”可知，社会性质改变。",
    "文中“他在灯下缝补着旧衣裳”写出人物的勤劳。",
    "原文“万里长江水自向东流去”烘托了离愁。",
    "题目说“实验温度保持在三十七度”，因此酶活性最高。",
    "材料\n“中央集权进一步\n得到加强”说明制度变化。",
    "材料：“佃农获得了人身的自由”，故选A。",
    "材料“商贾往来”说明商业发展；材料“朝廷重开西域商路通道”说明外交变化。",
]


@pytest.mark.parametrize("analysis", INVENTED)
def test_an_analysis_that_quotes_absent_material_is_caught(analysis: str) -> None:
    item = replace(GOOD, subject="历史", question=QUOTE_STEM, answer=("A",), analysis=analysis)
    caught(check_quotes(item))
    caught(check_quotes(replace(item, textbook=analysis)))


@pytest.mark.parametrize(
    "analysis",
    [
        "材料“商贾往来，船只不绝”说明商业发展。",
        "据“农民多种桑养蚕…换取粮食”可知商品经济发展。",
        "根据“商贾往来,船只 不绝”可知。",
        "题干中的“宋代江南市镇的兴起”表明经济发展。",
        '材料"出售丝绸换取粮食"说明市场扩大。',
    ],
)
def test_an_analysis_that_quotes_the_stem_passes(analysis: str) -> None:
    passed(check_quotes(replace(GOOD, subject="历史", question=QUOTE_STEM, analysis=analysis)))


@pytest.mark.parametrize(
    "analysis",
    [
        "“重农抑商”是传统政策。",
        "材料没有体现“海外贸易的发达程度”。",
        "材料“繁荣”一词可知。",
        "材料未提及“政府设立市舶司的原因”。",
    ],
)
def test_quotations_that_are_not_from_the_material_are_not_judged(analysis: str) -> None:
    skipped(check_quotes(replace(GOOD, subject="历史", question=QUOTE_STEM, analysis=analysis)))


def test_english_analyses_may_quote_in_translation() -> None:
    skipped(check_quotes(replace(GOOD, subject="英语", analysis="根据“他的视力开始明显衰退了”可知。")))


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_check_names_itself_as_the_table_does() -> None:
    assert [result.name for result in run_checks(GOOD)] == [check.name for check in CHECKS]
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_every_check_has_twenty_bad_items_here() -> None:
    tables: list[Sequence[object]] = [
        BROKEN_TEXTS,
        BROKEN_OPTIONS,
        BROKEN_KEYS,
        DISAGREEING,
        CONTRADICTING,
        LEAKING,
        WITHOUT_MATERIAL,
    ]
    tables += [WITHOUT_PICTURE, COPIES, BROKEN_LATEX, LOOPS, CUT, FOREIGN, INVENTED]
    assert len(tables) == len(CHECKS)
    assert all(len(set(table)) >= 20 for table in tables)


@pytest.mark.parametrize("item", [GOOD, WRONG, MULTIPLE, OPEN, SUBQUESTIONS])
def test_good_items_are_usable_and_fail_nothing(item: Item) -> None:
    results = run_checks(item)
    assert usable(results)
    assert not [result for result in results if result.outcome is Outcome.FAIL]


def test_a_soft_fault_leaves_an_item_usable() -> None:
    item = replace(GOOD, analysis="由 $x 可知，C正确。故选C。")
    results = run_checks(item)
    assert [result.name for result in results if result.outcome is Outcome.FAIL] == ["latex"]
    assert usable(results)


def test_no_check_raises_on_hostile_texts() -> None:
    chance = random.Random(5)
    alphabet = "ABCD．.、:（）()$\\{}“”\n 材料如图正确错误故选课本题干\x00\u200b\ud83d😀①Ⅳ"
    for _ in range(300):
        texts = ["".join(chance.choices(alphabet, k=chance.randint(0, 120))) for _ in range(5)]
        kind = chance.choice(["单选题", "多选题", "填空题", "主观题"])
        item = Item(texts[0], (texts[1],), texts[2], "数学", kind, texts[3], texts[4], chance.choice([None, "stop"]))
        assert len(run_checks(item)) == len(CHECKS)


HOSTILE = """
import random
from gaokao.audit import check_near_duplicates, key_of
from gaokao.checks import Item, run_checks
draw = random.Random(1)
chinese = [chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(400)]
units = ["A．", "E．", "A、", "A项正确；", "\\(", "\\)", "$", "![", "![](", "据“甲乙丙丁戊己庚”", "如图", "?", "哈", "\u0300\u0316", "\ufdfa"]
texts = [unit * (20_000 // len(unit)) for unit in units]
texts += ["\\)" * 10_000 + "\\(" * 10_000, "\\rm{" + " " * 20_000, "甲" + "?" * 20_000 + "乙", "A．1B．2C．3D．4" + "E．" * 10_000]
texts += ["".join("甲乙丙丁戊己庚辛" * 3 + "".join(draw.choices(chinese, k=draw.randint(1, 8))) for _ in range(1_000))]
for text in texts:
    items = [
        Item(text, ("A",), text, "数学", "单选题", text, text[::-1], "stop"),
        Item("下列正确的是\\nA．1\\nB．2\\nC．3\\nD．4", ("A",), text, "数学", "单选题", text, text, "stop"),
        Item(text, (text,), text, "数学", "主观题", text, text, "stop"),
    ]
    evidence = [result.evidence for item in items for result in run_checks(item)]
    assert max(map(len, evidence)) < 2_000, (text[:20], max(evidence, key=len)[:100])
    check_near_duplicates(items)
    [key_of(item) for item in items]
print("done")
"""


def test_texts_of_twenty_thousand_characters_are_answered_in_short_words() -> None:
    # Linear checks take some seconds here; with the square of the length in one of them, this would be many minutes.
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.stdout == "done\n", done.stderr


def noise(chance: random.Random, pieces: str | list[str], most: int) -> str:
    return "".join(chance.choices(pieces, k=chance.randint(0, most)))


def test_of_an_image_that_is_cut_off_only_the_beginning_is_no_text() -> None:
    passed(check_language(replace(OPEN, question="![图](a" + "甲" * 20, answer=(), analysis="")))
    caught(check_picture(replace(OPEN, question="![图](a" + "甲" * 20)))


def test_verdicts_are_those_of_their_plain_definition() -> None:
    plain = re.compile(
        r"(?<![A-Za-z\\>→])([A-D](?:[、和]?[A-D])*)(?:选?项)?(?:的)?(?:说法|表述|叙述|观点|结论|判断|描述)?"
        r"(?:都|均|是|也)?(不正确|正确|错误|不?符合题意|不合题意)(?!率|答案|的是)"
    )
    chance = random.Random(14)
    found = 0
    pieces = ["A", "B", "D", "、", "和", "E", "x", "→", "项", "均", "正确", "错误", "率", "。"]
    for _ in range(5000):
        text = noise(chance, pieces, 14)
        expected = [(match.group(1), match.group(2), match.end()) for match in plain.finditer(text)]
        assert [(letters, m.group(1), m.end()) for letters, m in checks._verdicts(text)] == expected, text
        found += len(expected)
    assert found > 200


def test_loops_are_those_of_brute_force() -> None:
    chance = random.Random(15)
    seen = set()
    for _ in range(1500):
        block = noise(chance, "甲乙丙", 14)
        text = noise(chance, "甲乙", 9) + block * chance.randint(2, 5) + noise(chance, "甲乙", 9)
        expected = any(
            text.startswith(text[start : start + period] * 4, start)
            for start in range(len(text))
            for period in range(8, (len(text) - start) // 4 + 1)
        )
        # Shorter than the length from which repeated grams count on their own.
        if len(text) < LOOP_LEAST:
            outcome = check_repetition(replace(OPEN, question=text)).outcome
            assert outcome is (Outcome.FAIL if expected else Outcome.PASS), text
            seen.add(expected)
    assert seen == {True, False}


def test_evidence_of_many_faults_shows_the_first_ones_and_their_number() -> None:
    result = check_leak(replace(OPEN, question="课本，" * 100))
    assert result.evidence.count("the 题干 says") == FAULTS_SHOWN == 5
    assert result.evidence.endswith("; and 95 more")
    assert "more" not in check_leak(replace(OPEN, question="课本，" * 5)).evidence


# --- bounds: the last text on this side, the first on the other -----------------------------------------------------

LETTERS_24 = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地"


def test_a_run_counts_as_taken_over_from_twenty_characters_on() -> None:
    for length, expected in ((20, caught), (19, passed)):
        expected(
            check_copied(replace(OPEN, question=LETTERS_24[:length] + "？", textbook="前" + LETTERS_24[:length] + "后"))
        )
    # Two passages are not one: each run must stand in one of them.
    passed(check_copied(replace(OPEN, question=LETTERS_24 + "？", textbook=LETTERS_24[:12], outside=LETTERS_24[12:])))


def test_what_is_left_must_have_fifteen_characters_and_ask() -> None:
    own = "以上文字说明了怎样的变化与其中的缘由"
    for length, expected in ((15, passed), (14, caught)):
        question = f"{LETTERS_24}。{own[:length]}"
        expected(check_copied(replace(OPEN, question=question, outside=LETTERS_24)))
    result = check_copied(replace(OPEN, question=LETTERS_24 + "这些字依次排成一行" * 4 + "。", outside=LETTERS_24))
    assert result.outcome is Outcome.FAIL and "asks nothing" in result.evidence and LETTERS_24[:20] in result.evidence
    for ask in ("？", "（　　）", "____", "Which is right"):
        passed(check_copied(replace(OPEN, question=LETTERS_24 + "这些字依次排成一行" * 4 + ask, outside=LETTERS_24)))


def test_a_question_may_quote_its_outside_passage_as_material() -> None:
    question = (
        f"阅读材料。\n{NEWS}\n结合材料，运用水分吸收和无机盐运输的知识，说明这种水稻在盐碱地上能够正常生长的原因。"
    )
    passed(check_copied(replace(OPEN, question=question, outside=NEWS)))
    caught(check_copied(replace(OPEN, question=f"{NEWS}说明原因。", outside=NEWS)))
    passed(check_copied(replace(GOOD, question=f"{NEWS}这表明这种水稻\n{OPTIONS}", outside=NEWS)))


def test_letters_of_any_width_and_case_are_one_and_places_stay_those_of_the_text() -> None:
    question = "ＡＢＣ" + LETTERS_24[:20] + "İ㎏"
    result = check_copied(replace(OPEN, question=question, textbook="abc" + LETTERS_24[:20]))
    assert result.outcome is Outcome.FAIL and "ＡＢＣ" + LETTERS_24[:20] in result.evidence


def test_a_block_counts_from_eight_characters_and_four_times_on() -> None:
    for times, size, expected in ((4, 8, caught), (3, 8, passed), (4, 7, passed)):
        expected(check_repetition(replace(OPEN, question="前" + LETTERS_24[:size] * times + "后")))


def test_repeated_grams_count_from_eighty_characters_on() -> None:
    # Three times a third of the text: two thirds of the grams are repeats, but no block stands four times.
    third = "".join(chr(0x4E00 + number) for number in range(27))
    assert len(third * 3) == LOOP_LEAST + 1
    caught(check_repetition(replace(OPEN, question=third * 3)))
    caught(check_repetition(replace(OPEN, question=(third * 3)[:-1])))
    passed(check_repetition(replace(OPEN, question=(third * 3)[:-2])))
    # 51 repeats among 101 or 102 grams.
    text = "".join(chr(0x4E00 + number) for number in range(30)) * 3
    tail = "".join(chr(0x5000 + number) for number in range(21))
    caught(check_repetition(replace(OPEN, question=text + tail[:20])))
    passed(check_repetition(replace(OPEN, question=text + tail)))


def test_half_of_twenty_letters_are_enough_han() -> None:
    passed(check_language(replace(OPEN, question="甲" * 10 + "x" * 10, answer=(), analysis="")))
    caught(check_language(replace(OPEN, question="甲" * 9 + "x" * 11, answer=(), analysis="")))
    skipped(check_language(replace(OPEN, question="甲" * 9 + "x" * 10, answer=(), analysis="")))


def test_quotations_count_from_six_characters_and_three_in_ten_on() -> None:
    def quoting(quote: str, stem: str) -> Result:
        return check_quotes(replace(OPEN, question=stem, analysis=f"材料“{quote}”可知。"))

    skipped(quoting(LETTERS_24[:5], "子丑寅"))
    caught(quoting(LETTERS_24[:6], "子丑寅"))
    passed(quoting(LETTERS_24[:12], LETTERS_24[:5]))  # 3 of 10
    caught(quoting(LETTERS_24[:12], LETTERS_24[:4]))


@pytest.mark.parametrize(("between", "expected"), [("，" + "甲" * 9, caught), ("甲" * 7, skipped), ("甲" * 8, caught)])
def test_a_negation_up_to_eight_characters_before_a_quotation_says_it_is_none(
    between: str, expected: Callable[[Result], None]
) -> None:
    expected(check_quotes(replace(OPEN, question="子丑寅", analysis=f"没有{between}中材料“{LETTERS_24[:8]}”。")))


def test_a_stem_of_a_hundred_and_twenty_characters_has_room_for_its_material() -> None:
    stem = "根据材料，分析原因。"
    passed(check_material(replace(OPEN, question=stem + "甲" * (MATERIAL_STEM - len(stem)))))
    caught(check_material(replace(OPEN, question=stem + "甲" * (MATERIAL_STEM - 1 - len(stem)))))


def test_ten_numbers_may_be_a_table() -> None:
    stem = "下表为某地人口，说明其特点。"
    passed(check_picture(replace(OPEN, question=stem + "，".join(map(str, range(TABLE_NUMBERS))))))
    caught(check_picture(replace(OPEN, question=stem + "，".join(map(str, range(TABLE_NUMBERS - 1))))))
