"""Kill trainings at random moments and compare what the resumed ones learn with an unbroken one.

    python -m tests.fuzz.kill_training --kills 20 --processes 1
    python -m tests.fuzz.kill_training --kills 20 --processes 2

A small base trains for 16 steps, with validations and checkpoints. Each trial starts the same run, kills it with
SIGKILL (the whole process group) at a random moment of its training, every other time while a checkpoint is being written, and
starts it again until it is finished. Losses, validation losses and the bytes of the adapter must be those of the run
that nobody killed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = 16


def command(base: Path, out: Path, run: str, processes: int, port: int) -> list[str]:
    """A training that validates and saves often, with dropout, so that every random state counts."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    options = {
        "model.base": base, "output.dir": out, "output.run": run, "train.max_steps": STEPS, "train.save_steps": 2,
        "train.eval_steps": 3, "train.max_length": 700, "train.effective_batch": 2, "lora.r": 4, "lora.dropout": 0.1,
        "data.train": out / "data.json", "data.validation_share": 0.2,
    }  # fmt: skip
    return [*start, "train_qwen_gaokao.py", *(f"--{key}={value}" for key, value in options.items())]


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def result(run: Path) -> tuple[list[Any], bytes]:
    """Losses of every step and validation, and the adapter's bytes."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    losses = [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in record["history"]]
    return [row for row in losses if row[1:] != (None, None)], (run / "adapter/adapter_model.safetensors").read_bytes()


def being_written(checkpoints: Path) -> bool:
    """Whether a checkpoint is there that is not whole yet."""
    return any(not (path / "trainer_state.json").exists() for path in checkpoints.glob("checkpoint-*"))


def kill(process: "subprocess.Popen[bytes]", checkpoints: Path, draw: random.Random, while_writing: bool) -> str:
    """Kill at a random moment after training began; says when, empty where the run was quicker."""
    while not any(checkpoints.glob("checkpoint-*")):
        if process.poll() is not None:
            return ""
        time.sleep(0.01)
    end = time.time() + draw.uniform(0, 3)
    while process.poll() is None:
        if time.time() >= end and (not while_writing or being_written(checkpoints)):
            time.sleep(draw.uniform(0, 0.01))
            writing = being_written(checkpoints)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "while a checkpoint was written" if writing else "between checkpoints"
        time.sleep(0.0005)
    return ""


def main() -> None:
    """Run the trials and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    from gaokao import tiny
    from gaokao.records import load_records

    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        rows = sorted(load_records(tiny.BUNDLED), key=lambda record: len(record.question + record.analysis))[:24]
        (out / "data.json").write_text(json.dumps([row.to_dict() for row in rows], ensure_ascii=False), "utf-8")
        small = tiny.Recipe(
            vocabulary=2048, hidden=64, layers=2, heads=2, key_value_heads=1, intermediate=128, steps=10, row_tokens=64
        )
        base = tiny.build(out / "base", print, recipe=small)
        port = draw.randrange(20000, 30000)
        whole = start(command(base, out, "whole", chosen.processes, port))
        if whole.wait():
            sys.exit((whole.stderr.read() if whole.stderr else b"").decode())
        losses, adapter = result(out / "whole")
        print(f"unbroken: {len(losses)} losses, the last {losses[-1]}", flush=True)
        kills = bad = 0
        moments: dict[str, int] = {}
        while kills < chosen.kills:
            run = out / "broken"
            shutil.rmtree(run, ignore_errors=True)
            starts = 0
            while True:
                starts += 1
                process = start(command(base, out, "broken", chosen.processes, port + starts))
                # Two kills a trial at most, then it may finish.
                moment = kill(process, run / "checkpoints", draw, kills % 2 == 1) if starts <= 2 else ""
                if not moment and process.wait():
                    said = (process.stderr.read() if process.stderr else b"").decode()
                    sys.exit(f"start {starts} failed:\n{said[-3000:]}")
                if not moment:
                    break
                kills += 1
                moments[moment] = moments.get(moment, 0) + 1
            same = result(run) == (losses, adapter)
            bad += not same
            print(f"{kills} kills, {starts} starts: {'the same' if same else 'DIFFERENT'}", flush=True)
        print(f"{chosen.processes} process(es), {kills} kills {moments}: {bad} trials differ")
        sys.exit(bool(bad))


if __name__ == "__main__":
    main()
