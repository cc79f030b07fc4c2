"""The memory forecast of `--plan` beside a real training on this machine's CPU: peak of the process, term by term.

    python -m tests.benchmarks.memory_forecast --base DIR
    python -m tests.benchmarks.memory_forecast --base DIR --length 384 --steps 2

DIR is a folder of a real model, such as Qwen2.5-0.5B-Instruct. Each row of the table is a process of its own, the training
script with so many steps; its peak is what the operating system counts (Linux and macOS). Run one thing at a time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gaokao import memory, models
from gaokao.errors import UserError, run_script
from gaokao.settings import load_config
from gaokao.shapes import find_shape

ROOT = Path(__file__).resolve().parents[2]
# What makes a difference on a CPU.
WAYS = (
    ["--train.gradient_checkpointing=true"],
    ["--train.gradient_checkpointing=false"],
    ["--train.gradient_checkpointing=false", "--lora.dropout=0"],
)


def main(argv: list[str]) -> None:
    """Train in each way, and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a real model")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args(argv)
    dtype = models.choose_dtype("auto", False).value
    shape = find_shape(options.base).shape
    print(f"{options.base}: {shape.parameters / 1e9:.3f} G parameters, {dtype}, rows of {options.length} tokens")
    with tempfile.TemporaryDirectory() as folder:
        common = [
            f"--model.base={options.base}", f"--train.max_length={options.length}", f"--train.max_steps={options.steps}",
            "--lora.r=32", "--lora.dropout=0.05", f"--output.dir={folder}", "--train.resume=false",
            "--data.validation_share=0",
        ]  # fmt: skip
        for way in WAYS:
            arguments = [*common, *way]
            config = load_config(["--config", str(ROOT / "config.yaml"), *arguments], "memory_forecast").config
            setup = memory.setup_of(config, on_gpu=False, dtype=dtype)
            terms = memory.memory(shape, setup)
            measured, expected = peak_of(arguments), memory.peak(terms)
            print(
                f"{' '.join(way)}: {measured / memory.GB:.2f} GB measured, {expected / memory.GB:.2f} forecast ", end=""
            )
            print(f"({expected / measured - 1:+.0%}): ", end="")
            print(", ".join(f"{term.name} {term.bytes / memory.GB:.2f}" for term in terms if term.counts), flush=True)


def peak_of(arguments: list[str]) -> int:
    """Most bytes of main memory that a training had at once.

    Raises:
        UserError: the training failed; with its last line.
    """
    command = [sys.executable, "train_qwen_gaokao.py", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            raise UserError(f"{' '.join(command)}: failed ({output.read().strip().splitlines()[-1]})")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    run_script(main)
