"""One renderer for training and inference, and a reader that gives a record's fields back."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, record_row
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gaokao.prompts import TYPE_HINTS, format_chat, parse, prepare_input, render
from gaokao.records import SUBJECTS, TYPES, Record, drop_hints, load_records, parse_record
from gaokao.sources import Raw

RECORD = Record(
    "a", "物理", "单选题", "牛顿第一定律。", "小车实验。", "下列正确的是\nA．甲\nB．乙\nC．丙\nD．丁", ("B",), "故选B。"
)


def test_training_and_inference_share_the_prompt() -> None:
    assert format_chat(RECORD)["prompt"] == prepare_input(RECORD)


def test_the_system_message_is_always_there_and_names_type_subject_and_format() -> None:
    for subject in SUBJECTS:
        for kind in TYPES:
            system, user = prepare_input(replace(RECORD, subject=subject, type=kind))
            assert (system["role"], user["role"]) == ("system", "user")
            assert subject in system["content"] and kind in system["content"]
            assert "课本内容和课外内容" in system["content"] and TYPE_HINTS[kind] in system["content"]
            assert system["content"].endswith("分别以“题干：”“参考答案：”“解析：”开头。")


def test_passages_stand_in_the_user_message() -> None:
    assert prepare_input(RECORD)[1]["content"] == "课本内容：牛顿第一定律。\n课外内容：小车实验。"
    assert prepare_input(replace(RECORD, outside=""))[1]["content"].endswith("\n课外内容：无")
    assert prepare_input(replace(RECORD, textbook=""))[1]["content"].startswith("课本内容：无\n")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("单选题", "只有一项正确"), ("多选题", "有两项或多项正确"), ("填空题", "横线"), ("主观题", "小问")],
)
def test_the_system_message_says_what_the_type_is(kind: str, said: str) -> None:
    assert [said in prepare_input(replace(RECORD, type=name))[0]["content"] for name in TYPES] == [
        name == kind for name in TYPES
    ]


@pytest.mark.parametrize(
    ("difficulty", "topic", "lines"),
    [
        ("", "", ""),
        ("压轴", "", "\n难度：压轴"),
        ("", "惯性", "\n知识点：惯性"),
        ("基础", "惯性", "\n难度：基础\n知识点：惯性"),
    ],
)
def test_difficulty_and_topic_follow_the_passages_where_given(difficulty: str, topic: str, lines: str) -> None:
    system, user = prepare_input(replace(RECORD, difficulty=difficulty, topic=topic))
    assert user["content"] == "课本内容：牛顿第一定律。\n课外内容：小车实验。" + lines
    assert system == prepare_input(RECORD)[0]


def test_the_prompt_shows_nothing_of_the_answer() -> None:
    bare = replace(RECORD, question="", answer=(), analysis="")
    assert prepare_input(bare) == prepare_input(RECORD)


def test_parse_gives_the_fields_of_every_bundled_record_back() -> None:
    for name in ("train.json", "test.json"):
        for record in load_records(ROOT / "gaokao_data" / name):
            question = parse(render(record))
            assert (question.question, question.answer, question.analysis) == (
                record.question,
                record.answer,
                record.analysis,
            )
            assert question.complete


PIECES = [
    "甲",
    "B",
    "（1）",
    "（2）",
    "(2)",
    "①",
    "\n",
    "\r\n",
    "\r",
    " ",
    "\t",
    "　",
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "\x1c",
    "*",
    "**",
]
PIECES += [
    "#",
    "题干",
    "参考答案",
    "解析",
    "：",
    ":",
    "；",
    "题干：",
    "**解析：**",
    "<|im_end|>",
    "$x^2$",
    "A．",
    "\ufeff",
    "\x00",
    "😀",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(st.characters(exclude_categories=["Cs"]))


@given(question=TEXTS, answer=TEXTS | st.lists(TEXTS, max_size=4), analysis=TEXTS, textbook=TEXTS)
@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.filter_too_much])
def test_every_record_that_the_loader_accepts_is_read_back_from_its_text_and_from_its_row(
    question: str, answer: str | list[str], analysis: str, textbook: str
) -> None:
    row = record_row(question=question, answer=answer, analysis=analysis, 课本内容=textbook)
    record, faults = parse_record(Raw("x", row), 0, "train")
    assume(record)
    assert record is not None and not faults
    found = parse(render(record))
    assert (found.question, found.answer, found.analysis) == (record.question, record.answer, record.analysis)
    assert found.complete
    assert parse_record(Raw("x", record.to_dict()), 0, "train") == (record, [])


@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_parse_makes_a_question_of_any_text(text: str) -> None:
    found = parse(text)
    contents = {"题干": found.question, "参考答案": "".join(found.answer), "解析": found.analysis}
    for section, content in contents.items():
        assert not content or section not in found.missing


@pytest.mark.parametrize(
    "text", ["*甲", "**甲**", "* 甲\n* 乙", "# 甲", "*", "：甲", "；", "甲*", "甲\n**", "甲\u2028乙", "甲\x85解析：乙"]
)
def test_marks_at_the_edges_of_a_section_are_kept(text: str) -> None:
    record, faults = parse_record(Raw("x", record_row(question=text, answer=[text, text], analysis=text)), 0, "train")
    assert record is not None, faults
    found = parse(render(record))
    assert (found.question, found.answer, found.analysis) == (text, (text, text), text)


@pytest.mark.parametrize("colon", ["：", ":", "；"])
def test_three_colons_are_accepted(colon: str) -> None:
    question = parse(f"题干{colon}甲\n参考答案{colon}B\n解析{colon}乙")
    assert (question.question, question.answer, question.analysis) == ("甲", ("B",), "乙")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("**题干：** 甲", "甲"),
        ("**题干：**甲", "甲"),
        ("**题干**：甲", "甲"),
        ("**题干**：**甲**", "**甲**"),
        ("### 题干：甲", "甲"),
        ("### **题干：** *甲", "甲"),
        ("* **题干：** 甲", "甲"),
        ("  * 题干 ** :\t甲", "甲"),
        ("题干：*甲*", "*甲*"),
        ("题干：\t甲", "甲"),
        ("# 题干：# 甲", "# 甲"),
    ],
)
def test_markdown_around_headers_is_passed_over(text: str, content: str) -> None:
    question = parse(f"好的。\n{text}\n### 参考答案：B\n**解析**：乙")
    assert (question.question, question.answer, question.analysis) == (content, ("B",), "乙")
    assert question.complete


@pytest.mark.parametrize(
    ("text", "missing", "misplaced"),
    [
        ("", ("题干", "参考答案", "解析"), ()),
        ("题干：甲\n解析：乙", ("参考答案",), ()),
        ("题干：甲\n参考答案：\n解析：乙", ("参考答案",), ()),
        ("解析：乙\n题干：甲\n参考答案：B", (), ("题干", "参考答案", "解析")),
        ("题干：甲\n参考答案：B\n解析：乙\n题干：丙", (), ("题干",)),
        ("这道题的解析：乙", ("题干", "参考答案", "解析"), ()),
    ],
)
def test_what_is_missing_or_misplaced_is_named_and_never_raised(
    text: str, missing: tuple[str, ...], misplaced: tuple[str, ...]
) -> None:
    question = parse(text)
    assert (question.missing, question.misplaced) == (missing, misplaced)
    assert not question.complete


def test_of_several_headers_of_a_kind_the_first_counts() -> None:
    found = parse("题干：甲\n参考答案：B\n解析：乙\n题干：丙\n参考答案：C")
    assert (found.question, found.answer, found.analysis) == ("甲", ("B",), "乙")


@pytest.mark.parametrize("which", ["tiny", "qwen"])
def test_prompt_token_ids_of_training_and_inference_are_equal(which: str, small_base: Path) -> None:
    """With GAOKAO_QWEN_FOLDER=DIR the same holds on a real Qwen2.5 tokenizer."""
    from gaokao.models import load_tokenizer, prompt_ids
    from gaokao.splits import example_ids

    if which == "qwen" and "GAOKAO_QWEN_FOLDER" not in os.environ:
        pytest.skip("needs GAOKAO_QWEN_FOLDER, a folder with a real Qwen2.5 tokenizer")
    folder = small_base if which == "tiny" else Path(os.environ["GAOKAO_QWEN_FOLDER"])
    tokenizer = load_tokenizer(folder)
    # The records as they are, with difficulty and topic, and as a training shows them.
    records = load_records(ROOT / "gaokao_data" / "test.json")
    for record in [*records, *drop_hints(records, seed=1)]:
        prompt = prompt_ids(tokenizer, prepare_input(record))
        whole = example_ids(tokenizer, format_chat(record))
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole[len(prompt) :]) == render(record) + "<|im_end|>\n"
