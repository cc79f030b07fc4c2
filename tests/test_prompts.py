"""One renderer for training and inference, and a reader that gives a record's fields back."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, record_row

from gaokao.prompts import format_chat, parse, prepare_input, render
from gaokao.records import SUBJECTS, TYPES, Raw, Record, load_records, parse_record

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
            assert system["content"].endswith("题干：\n参考答案：\n解析：")


def test_passages_stand_in_the_user_message() -> None:
    assert prepare_input(RECORD)[1]["content"] == "课本内容：牛顿第一定律。\n课外内容：小车实验。"
    assert prepare_input(replace(RECORD, outside=""))[1]["content"].endswith("\n课外内容：无")


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


def test_parse_gives_back_every_record_that_the_loader_accepts() -> None:
    draw = random.Random(0)
    pieces = ["甲", "（1）", "（2）", "\n", "：", "A．", "$x^2$", "题干", "解析", " ", "故选B", "#"]
    accepted = 0
    for number in range(1000):
        question, first, second, analysis = ("".join(draw.choices(pieces, k=8)) for _ in range(4))
        answer = draw.choice([first, [first, second], f"（1）{first}\n（2）{second}"])
        row = record_row(number, question=question, answer=answer, analysis=analysis)
        record, _ = parse_record(Raw("x", row), number, "train")
        if record is None:
            continue
        accepted += 1
        found = parse(render(record))
        assert (found.question, found.answer, found.analysis) == (record.question, record.answer, record.analysis)
    assert accepted > 500


@pytest.mark.parametrize("colon", ["：", ":", "；"])
def test_three_colons_are_accepted(colon: str) -> None:
    question = parse(f"题干{colon}甲\n参考答案{colon}B\n解析{colon}乙")
    assert (question.question, question.answer, question.analysis) == ("甲", ("B",), "乙")


def test_markdown_around_headers_is_passed_over() -> None:
    question = parse("好的。\n**题干：** 甲\n### 参考答案：B\n**解析**：乙")
    assert (question.question, question.answer, question.analysis) == ("甲", ("B",), "乙")
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


@pytest.mark.parametrize("which", ["tiny", "qwen"])
def test_prompt_token_ids_of_training_and_inference_are_equal(which: str, small_base: Path) -> None:
    """With GAOKAO_QWEN_FOLDER=DIR the same holds on a real Qwen2.5 tokenizer."""
    from gaokao.models import load_tokenizer, prompt_ids
    from gaokao.training import example_ids

    if which == "qwen" and "GAOKAO_QWEN_FOLDER" not in os.environ:
        pytest.skip("needs GAOKAO_QWEN_FOLDER, a folder with a real Qwen2.5 tokenizer")
    folder = small_base if which == "tiny" else Path(os.environ["GAOKAO_QWEN_FOLDER"])
    tokenizer = load_tokenizer(folder)
    for record in load_records(ROOT / "gaokao_data" / "test.json"):
        prompt = prompt_ids(tokenizer, prepare_input(record))
        whole = example_ids(tokenizer, format_chat(record))
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole[len(prompt) :]) == render(record) + "<|im_end|>\n"
