"""What a run prints: what was chosen, what is replaced, what the figures must not be taken for."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import item

from gaokao.config import BUILTIN_TINY
from gaokao.console import banner, closing_line, next_command, sample_text
from gaokao.settings import Resolved, load_config


def base(device: str) -> Any:
    choice = SimpleNamespace(value="x", reason="y")
    return SimpleNamespace(name="b", quantization="nf4", device=device, dtype=choice, attention=choice)


def resolved(gpus: int, *arguments: str) -> Resolved:
    return load_config(list(arguments), "test")._replace(gpus=gpus)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaokao.settings.cuda_gpus", lambda: 0)


def test_whoever_has_several_gpus_is_told_of_torchrun() -> None:
    several = resolved(4)
    assert "4 GPUs are there: torchrun --nproc_per_node 4 uses all of them" in banner(several, base("cuda:0"))
    for quiet in (
        banner(several, base("cuda:0"), processes=4),
        banner(resolved(1), base("cuda:0")),
    ):
        assert "GPUs" not in quiet and "torchrun" not in quiet


def test_what_was_replaced_without_a_gpu_is_named() -> None:
    text = banner(resolved(0), base("cpu"))
    assert "no GPU    the section without_gpu replaced: model.base builtin:tiny" in text
    assert "its questions are not of any quality" in text
    assert "no GPU" not in banner(resolved(0, "--without_gpu", "null"), base("cpu"))


def test_the_last_line_of_a_run_says_that_the_tiny_model_was_used() -> None:
    line = closing_line(resolved(0))
    assert line and "no GPU was found" in line and "the pipeline only, not question quality" in line
    assert "\n" not in line
    chosen = closing_line(resolved(1, "--model.base", BUILTIN_TINY))
    assert chosen and "tiny model" in chosen and "no GPU" not in chosen
    assert closing_line(resolved(0, "--model.base", "some/model")) is None


def test_a_sample_shows_parts_or_raw_text_and_the_checks_that_fail() -> None:
    lines = sample_text(item("前言\n题干: 甲\n参考答案：丙丁\n解析；丙丁是对的。", type="主观题")).splitlines()
    assert lines[1:-1] == [
        "生物 主观题 (id r0, finish reason stop, passes every check)",
        "题干：甲",
        "参考答案：丙丁",
        "解析：丙丁是对的。",
    ]
    lines = sample_text(item(" 乱写 ", type="主观题", finish_reason="length")).splitlines()
    assert lines[1:-1] == ["生物 主观题 (id r0, finish reason length, fails sections, truncated)", "乱写"]


def test_the_adapter_is_named_where_one_is_used() -> None:
    assert "adapter   none: the bare base model" in banner(
        resolved(1), base("cuda:0"), adapter="none: the bare base model"
    )
    assert "adapter" not in banner(resolved(1), base("cuda:0"))


def test_the_next_command_can_be_pasted_into_a_shell() -> None:
    assert next_command("infer_qwen_gaokao.py", ["--output.run", "a b"]) == (
        "python infer_qwen_gaokao.py --output.run 'a b'"
    )
