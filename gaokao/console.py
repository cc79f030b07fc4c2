"""What a normal run prints: the banner, the next command, and which lines of the libraries are left out."""

import logging
import os
import shlex
import warnings
from typing import Any

from gaokao.config import BUILTIN_TINY
from gaokao.results import Generated
from gaokao.settings import Resolved


def banner(resolved: Resolved, base: Any, *, processes: int = 1, adapter: str = "") -> str:
    """What was chosen and why, and what `without_gpu` replaced.

    Args:
        resolved: the configuration.
        base: the base as it runs (`models.Base`).
        processes: how many share the work.
        adapter: which one, in words; empty while one is trained.
    """
    lines = [f"run       {resolved.config.run_folder}", f"base      {base.name}, quantization {base.quantization}"]
    if adapter:
        lines.append(f"adapter   {adapter}")
    device = base.device if processes == 1 else f"{processes} processes, {base.device} and so on"
    lines.append(
        f"device    {device}; dtype {base.dtype.value} ({base.dtype.reason}), attention {base.attention.value} "
        f"({base.attention.reason})"
    )
    if resolved.gpus > 1 and processes == 1:
        lines.append(
            f"          {resolved.gpus} GPUs are there: torchrun --nproc_per_node {resolved.gpus} uses all of them"
        )
    if resolved.replaced:
        names = ", ".join(f"{key} {now}" for key, (_, now) in resolved.replaced.items())
        lines.append(f"no GPU    the section without_gpu replaced: {names}")
    if resolved.config.model.base == BUILTIN_TINY:
        lines.append("          The tiny model shows that the pipeline works; its questions are not of any quality.")
    return "\n".join(lines)


def closing_line(resolved: Resolved) -> str | None:
    """The last line of a run with the built-in base, which must not be taken for a result; `None` for others."""
    if resolved.config.model.base != BUILTIN_TINY:
        return None
    reason = "" if resolved.gpus else "no GPU was found; "
    return f"note      {reason}the built-in tiny model was used: this shows the pipeline only, not question quality"


def last_lines(resolved: Resolved, next_step: str) -> list[str]:
    """What a training ends with: the next command, and that the tiny model is no result."""
    return [f"next      {next_step}", *filter(None, [closing_line(resolved)])]


def next_command(script: str, argv: list[str]) -> str:
    """The command that goes on with the same overrides, which lead to the same run folder."""
    return shlex.join(["python", script, *argv])


def sample_text(item: Generated) -> str:
    """A generated question to read, in the order of the answer format; the raw text where a part is missing."""
    record, failed = item.record, ", ".join(item.failed)
    whole = "\n".join(f"{name}：{text}" for name, text in item.sections.items())
    head = f"{record.subject} {record.type} (id {record.id}, finish reason {item.finish_reason}, " + (
        f"fails {failed})" if failed else "passes every check)"
    )
    rule = "-" * 72
    return f"{rule}\n{head}\n{item.text.strip() if item.question.missing else whole}\n{rule}"


def quiet_libraries() -> None:
    """Leave out the lines of libraries that a user can do nothing about, each by name. Call before importing them."""
    # trl pings the hub once per trainer otherwise. Nothing is sent anywhere.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # bitsandbytes tells every user of a CPU that an optional package with faster kernels is not installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "gemm_4bit_forward" not in record.getMessage()
    )
    # peft 0.21 still reads the name that transformers 5.20 gave up.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
