"""How a training starts: new, from its newest whole checkpoint, or not at all because it is finished."""

import contextlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from gaokao.config import OTHER_DIR, OTHER_RUN
from gaokao.errors import UserError, faults_text
from gaokao.runs import (
    ADAPTER,
    CHECKPOINTS,
    GENERATED,
    GENERATED_BASE,
    RUN_RECORD,
    git_revision,
    lock,
    make_folder,
    read_record,
    set_aside,
    versions,
    visible,
    write_json,
)
from gaokao.settings import Resolved

if TYPE_CHECKING:
    from gaokao.adapters import AdapterRecord
    from gaokao.models import Base
    from gaokao.splits import Material

# What a run may change when it goes on: how far it goes, what it writes and looks at, and what costs memory for time.
# Everything else in these sections decides the weights.
FREE_KEYS = {
    "train.num_train_epochs", "train.max_steps", "train.early_stopping", "train.keep", "train.resume",
    "train.logging_steps", "train.eval_steps", "train.save_steps", "train.save_minutes", "train.save_total_limit",
    "train.gradient_checkpointing", "train.report_to",
}  # fmt: skip


# A finished run is trained further, or its other adapter kept, where one of these changes.
GOAL_KEYS = ("train.num_train_epochs", "train.max_steps", "train.early_stopping", "train.keep")


def new_record(
    resolved: Resolved, base: "Base", adapter: "AdapterRecord", material: "Material", processes: int
) -> dict[str, Any]:
    """The record of a run that starts, as `run.json` will spell it.

    `decisive` holds by key what decides the weights: a run goes on only where all of it is unchanged.
    """
    config = resolved.config.model_dump()
    sections = {f"{name}.{key}": value for name in ("lora", "train") for key, value in config[name].items()}
    record: dict[str, Any] = {
        "status": "running",
        "decisive": {
            **{key: value for key, value in sections.items() if key not in FREE_KEYS},
            "model.base": adapter.base_fingerprint[:16],
            "model.quantization": base.quantization,
            "model.dtype": base.dtype.value,
            "model.attention": base.attention.value,
            "data.validation_share": resolved.config.data.validation_share,
            **material.fingerprints(),
            "processes": processes,
        },
        "goal": {key: sections[key] for key in GOAL_KEYS},
        "config": config,
        "replaced_without_gpu": resolved.replaced,
        "adapter": vars(adapter),
        "data": {"file": resolved.config.data.train, **material.record()},
        "dtype": base.dtype._asdict(),
        "attention": base.attention._asdict(),
        "versions": versions(),
        "git_revision": git_revision(),
        "spans": [],
    }
    # A list for a tuple, so that it can be compared with what was read from a file.
    spelt: dict[str, Any] = json.loads(json.dumps(record))
    return spelt


class Checkpoints(NamedTuple):
    """The newest whole checkpoint of a run, and newer ones that are not whole, each with what is wrong."""

    newest: Path | None
    broken: list[tuple[Path, str]]


def find_checkpoints(folder: Path, processes: int, fp16: bool) -> Checkpoints:
    """Look for the newest checkpoint that a run of so many processes can go on from exactly.

    The Trainer writes a checkpoint in place, file by file, and looks at nothing but the number when it resumes: a
    missing optimizer state would be a fresh one, a missing random state other dropout.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    broken: list[tuple[Path, str]] = []
    for path in sorted(numbered, key=step_of, reverse=True):
        fault = _what_is_broken(path, processes, fp16)
        if not fault:
            return Checkpoints(path, broken)
        broken.append((path, fault))
    return Checkpoints(None, broken)


def _what_is_broken(checkpoint: Path, processes: int, fp16: bool) -> str:
    random_states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in ["optimizer.pt", "scheduler.pt", *random_states, *(["scaler.pt"] if fp16 else [])]:
        # torch.save writes a zip file, whose directory stands at its end.
        if not zipfile.is_zipfile(checkpoint / name):
            return f"{name} is missing or cut off"
    try:
        with safe_open(checkpoint / "adapter_model.safetensors", framework="numpy"):
            pass
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        return f"{Path(str(error.filename or 'adapter_model.safetensors')).name} is missing"
    except (OSError, ValueError, SafetensorError):
        return "adapter_model.safetensors or trainer_state.json is cut off"
    if not isinstance(state, dict) or state.get("global_step") != step_of(checkpoint):
        return "trainer_state.json is of another step"
    return ""


class Start(NamedTuple):
    """How a training begins: new, from a checkpoint, or not at all because it is finished."""

    text: str = "a new run"
    checkpoint: Path | None = None
    finished: bool = False
    spans: tuple[Any, ...] = ()
    """What was trained before."""
    steps: int | None = None
    """Where a finished run ended, if it only gets another adapter; `None`: as the configuration says."""
    broken: tuple[Path, ...] = ()
    """Checkpoints that are newer than the one it goes on from, and not whole."""


def plan_start(folder: Path, resume: bool | str, asked: dict[str, Any]) -> Start:
    """Decide whether a training goes on, starts new, or has nothing left to do.

    Args:
        folder: of the run.
        resume: `train.resume`: `auto`, true or false.
        asked: the record of what this command asks for; an interrupted run goes on only where all that is decisive is
            unchanged.

    Raises:
        UserError: `resume` is true and there is nothing to go on from; or the interrupted run was another one.
    """
    record = read_record(folder) if resume is not False else None
    before = record.get("decisive") if record else None
    if record is None or not isinstance(before, dict):
        if resume is True:
            raise UserError(f"train.resume: {folder} holds no run to go on with; leave it at auto")
        return Start()
    found = find_checkpoints(folder / CHECKPOINTS, before.get("processes", 1), before.get("model.dtype") == "fp16")
    passed_over = "".join(f"; {path} is passed over: {fault}" for path, fault in found.broken)
    broken = tuple(path for path, _ in found.broken)
    now, goal, goal_before = asked["decisive"], asked["goal"], record.get("goal", {})
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    done, spans = record.get("status") == "finished", tuple(record.get("spans", ()))
    if done and not changed and goal_before == goal and (folder / ADAPTER).is_dir():
        # Its checkpoints may have made room for others.
        text = (
            f"{folder} is finished, after {record.get('steps')} steps: nothing to train. Train it again: --train.resume "
            "false; further: a larger --train.num_train_epochs or --train.max_steps"
        )
        return Start(text, found.newest, True, spans)
    if found.newest is None:
        if resume is True:
            raise UserError(f"train.resume: {folder} holds no whole checkpoint; leave it at auto{passed_over}")
        return Start(f"a new run{passed_over}")
    if changed and done and resume == "auto":
        return Start()
    if changed:
        raise UserError(
            faults_text(
                f"the {'finished' if done else 'interrupted'} run in {folder} is another one than this command asks for. Put "
                "these back to go on with it, or start new with --train.resume false (it is set aside) or under another "
                "name, --output.run NAME:",
                changed,
            )
        )
    if not done or any(goal_before.get(key) != goal[key] for key in GOAL_KEYS if key != "train.keep"):
        text = f"goes on from {found.newest}{passed_over} (to start new instead: --train.resume false)"
        return Start(text, found.newest, False, spans, None, broken)
    text = f"{folder} is finished; only its adapter is written again"
    return Start(text, found.newest, False, spans, step_of(found.newest), broken)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def open_run(run: Path, record: dict[str, Any], start: Start) -> str:
    """Write the record of a run that starts, after setting aside what stands in the place of a new one.

    Args:
        run: its folder.
        record: what it is made from.
        start: how it starts.

    Returns:
        Where an earlier run is now, in words; empty where there was none.

    Raises:
        UserError: the folder cannot be written to, or questions are being generated in it.
    """
    aside = None
    if start.checkpoint is None:
        # The Trainer makes its folder before there is anything to put into it.
        for folder in (run / CHECKPOINTS, run):
            with contextlib.suppress(OSError):
                folder.rmdir()
    if start.checkpoint is None and visible(run) - {GENERATED_BASE}:
        with lock(run / GENERATED, "a training", OTHER_RUN), lock(run / GENERATED_BASE, "a training", OTHER_RUN):
            aside = set_aside(run)
    # No file of them may be taken for one of the checkpoint that is written next.
    for path in start.broken:
        shutil.rmtree(path, ignore_errors=True)
    make_folder(run, OTHER_DIR)
    write_json(run / RUN_RECORD, record)
    return f"the earlier run was moved to {aside}" if aside else ""
