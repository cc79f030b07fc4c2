"""What a run prints: what was chosen, what is replaced, what the figures must not be taken for."""

from typing import Any

import pytest

from gaokao.config import BUILTIN_TINY
from gaokao.console import banner, closing_line, next_command, sample_text
from gaokao.settings import Resolved, load_config


def resolved(gpus: int, *arguments: str) -> Resolved:
    return load_config(list(arguments), "test")._replace(gpus=gpus)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaokao.settings.cuda_gpus", lambda: 0)


def test_training_on_several_gpus_is_told_of_torchrun_and_generation_that_one_is_used() -> None:
    several = resolved(4)
    training = banner(several, device="cuda:0", base="b")
    assert "4 GPUs are there: torchrun --nproc_per_node 4 uses all of them" in training
    generation = banner(several, device="cuda:0", base="b", several_gpus=False)
    assert "4 GPUs are there: generation uses this one, the others are idle" in generation
    assert "torchrun" not in generation
    for quiet in (
        banner(several, device="4 processes, cuda:0 and so on", base="b"),
        banner(resolved(1), device="cuda:0", base="b"),
        banner(resolved(1), device="cuda:0", base="b", several_gpus=False),
    ):
        assert "GPUs" not in quiet and "torchrun" not in quiet


def test_what_was_replaced_without_a_gpu_is_named() -> None:
    text = banner(resolved(0), device="cpu", base="b")
    assert "no GPU    the section without_gpu replaced: model.base builtin:tiny" in text
    assert "its questions are not of any quality" in text
    assert "no GPU" not in banner(resolved(0, "--without_gpu", "null"), device="cpu", base="b")


def test_the_last_line_of_a_run_says_that_the_tiny_model_was_used() -> None:
    line = closing_line(resolved(0))
    assert line and "no GPU was found" in line and "the pipeline only, not question quality" in line
    assert "\n" not in line
    chosen = closing_line(resolved(1, "--model.base", BUILTIN_TINY))
    assert chosen and "tiny model" in chosen and "no GPU" not in chosen
    assert closing_line(resolved(0, "--model.base", "some/model")) is None


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "id": "r1", "subject": "生物", "type": "单选题", "finish_reason": "stop", "text": " 乱写 ", "missing": [],
        "题干": "甲", "参考答案": "B", "解析": "丙", "failed_checks": [], **changes,
    }  # fmt: skip


def test_a_sample_shows_parts_or_raw_text_and_the_checks_that_fail() -> None:
    lines = sample_text(entry()).splitlines()
    assert lines[1:-1] == [
        "生物 单选题 (id r1, finish reason stop, passes every check)",
        "题干：甲",
        "参考答案：B",
        "解析：丙",
    ]
    failed = [{"check": "sections", "hard": True, "evidence": "x"}, {"check": "latex", "hard": False, "evidence": "y"}]
    lines = sample_text(entry(missing=["解析"], failed_checks=failed)).splitlines()
    assert lines[1:-1] == ["生物 单选题 (id r1, finish reason stop, fails sections, latex)", "乱写"]


def test_the_next_command_can_be_pasted_into_a_shell() -> None:
    assert next_command("infer_qwen_gaokao.py", ["--output.run", "a b"]) == (
        "python infer_qwen_gaokao.py --output.run 'a b'"
    )
