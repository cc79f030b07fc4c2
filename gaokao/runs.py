"""The folder of a run: atomic writes, setting an earlier run aside, what is recorded about how it was made."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout, lock_descriptor
from safetensors import SafetensorError, safe_open

from gaokao.errors import UserError, faults_text

# What stands in the folder of a run; both scripts and the README use these names.
CHECKPOINTS, ADAPTER, GENERATED, GENERATED_BASE = "checkpoints", "adapter", "generated", "generated_base"
RUN_RECORD = "run.json"

# What a run may change when it goes on: how far it goes, what it writes and looks at, and what costs memory for time.
# Everything else in these sections decides the weights.
FREE_KEYS = {
    "train.num_train_epochs", "train.max_steps", "train.early_stopping", "train.keep", "train.resume",
    "train.logging_steps", "train.eval_steps", "train.save_steps", "train.save_minutes", "train.save_total_limit",
    "train.gradient_checkpointing",
}  # fmt: skip
# A finished run is trained further, or its other adapter kept, where one of these changes.
GOAL_KEYS = ("train.num_train_epochs", "train.max_steps", "train.early_stopping", "train.keep")

RECORDED_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "flash-attn")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Write readable UTF-8 JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def make_folder(folder: Path) -> Path:
    """Create a folder for results and try that it can be written to.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own: the processes of a training try this at the same moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); set output.dir to a folder of yours, --output.dir DIR"
        ) from None
    return folder


@contextlib.contextmanager
def lock(folder: Path, what: str) -> Iterator[None]:
    """Keep every other process out of a results folder until the block ends; a killed process holds nothing.

    The lock lies beside the folder, as `.NAME.lock`, because the folder itself is renamed when it is set aside.

    Args:
        folder: what is written to; its parent must exist.
        what: the command that holds it, for the message that others get.

    Raises:
        UserError: another process holds it: who, where and since when.
    """
    file = folder.with_name(f".{folder.name}.lock")
    holder = folder.with_name(f".{folder.name}.holder")
    guard = FileLock(file, timeout=0)
    try:
        guard.acquire()
    except Timeout:
        try:
            who = holder.read_text(encoding="utf-8").strip()
        except OSError:
            # It was taken this very moment, or the holder's disk is full.
            who = "another process"
        raise UserError(
            f"{folder}: is in use by {who}; wait for it or stop it, or give this run another name: --output.run NAME"
        ) from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_text(holder, f"{what} (process {os.getpid()} on {platform.node()}, since {since})\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        guard.release()


class Journal:
    """Finished work as JSON Lines: each row is a whole line on the disk before `add` returns, and is there when opened again.

    A process that is killed leaves whole lines and at most the beginning of one more, which is cut off on opening. No
    other process can open the file meanwhile; a killed one holds nothing. A journal without rows leaves no file.
    """

    def __init__(self, path: Path, remedy: str = "choose another place") -> None:
        """Open the file, which need not be there, and read its rows.

        Args:
            path: its folder must exist.
            remedy: what a user can do where the file cannot be written, for the message.

        Raises:
            UserError: it cannot be written to, or another process has it open.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """What earlier runs have left and what this one has added."""
        self.damaged: list[int] = []
        """Numbers, from 1, of lines that hold no JSON object; they stay in the file."""
        try:
            # Unbuffered, so that each line is one write; a file opened to append is not cut off.
            self._file = path.open("a+b", buffering=0)
            try:
                self._lock()
                self._read()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise UserError(f"{path}: cannot be written to ({error.strerror}); {remedy}") from None

    def add(self, row: dict[str, Any]) -> None:
        """Append a row.

        Raises:
            UserError: the disk is full; the rows before are kept.
        """
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                # Or the next row would be glued to half a line.
                self._file.truncate(whole)
            raise UserError(
                f"{self.path}: cannot be written to ({error.strerror}); make room on that disk, the rows before are kept"
            ) from None
        self.rows.append(row)

    def discard(self) -> None:
        """Forget all rows, which stand elsewhere by now; the file goes when the journal is closed."""
        self._file.truncate(0)
        self.rows.clear()

    def close(self) -> None:
        """Close the file, and remove it where it is empty."""
        if self._file.closed:
            return
        empty = os.fstat(self._file.fileno()).st_size == 0
        # While it is locked, so that it is not another process's by then; but Windows removes no file that is open.
        if empty and os.name != "nt":
            self.path.unlink(missing_ok=True)
        self._file.close()
        if empty and os.name == "nt":
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _lock(self) -> None:
        try:
            free = lock_descriptor(self._file.fileno(), blocking=False)
        except OSError:
            # A file system without locks: the work is worth doing all the same.
            free = True
        # The other process may have removed it after it was opened here.
        if not free or os.fstat(self._file.fileno()).st_nlink == 0:
            raise UserError(f"{self.path}: another process is writing to it; wait for it or stop it")

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.readall()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        # Not at what str.splitlines takes for an end of a line; JSON leaves U+2028 in a text.
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                self.rows.append(row)
            else:
                self.damaged.append(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def set_aside(path: Path, unless_only: Iterable[str] = ()) -> Path | None:
    """Rename what an earlier run left at `path`, so that a new one starts clean and nothing is lost.

    Args:
        path: the folder that is wanted.
        unless_only: names that do not count, as hidden files (locks) do not; a folder with nothing else in it stays.

    Returns:
        Where the earlier results are now, or `None` where there were none.
    """
    if not path.exists():
        return None
    if {entry.name for entry in path.iterdir() if not entry.name.startswith(".")} <= set(unless_only):
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
    target = path.with_name(f"{path.name}-{stamp}")
    number = 2
    while target.exists():
        target = path.with_name(f"{path.name}-{stamp}-{number}")
        number += 1
    os.replace(path, target)
    return target


def read_record(folder: Path) -> dict[str, Any] | None:
    """The run record in a folder, or `None` where there is none that can be read."""
    try:
        record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def new_record(config: dict[str, Any], decisive: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """The record of a run that starts.

    Args:
        config: the resolved configuration as plain values.
        decisive: what decides the weights beside the configuration, by key: fingerprints, choices, processes.
        facts: more to write down.
    """
    sections = {f"{name}.{key}": value for name in ("lora", "train") for key, value in config[name].items()}
    decisive = {key: value for key, value in sections.items() if key not in FREE_KEYS} | decisive
    decisive["model.quantization"] = config["model"]["quantization"]
    decisive["data.validation_share"] = config["data"]["validation_share"]
    record = {
        "status": "running",
        "decisive": decisive,
        "goal": {key: sections[key] for key in GOAL_KEYS},
        "config": config,
        **facts,
        "versions": versions(),
        "git_revision": git_revision(),
        "spans": [],
    }
    # As the file will spell it (a list for a tuple), so that it can be compared with what was read from one.
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
    if found.newest is None:
        if resume is True:
            raise UserError(f"train.resume: {folder} holds no whole checkpoint; leave it at auto{passed_over}")
        return Start(f"a new run{passed_over}")
    now, goal, goal_before = asked["decisive"], asked["goal"], record.get("goal", {})
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    done = record.get("status") == "finished"
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
    spans = tuple(record.get("spans", ()))
    if not done or any(goal_before.get(key) != goal[key] for key in GOAL_KEYS if key != "train.keep"):
        text = f"goes on from {found.newest}{passed_over} (to start new instead: --train.resume false)"
        return Start(text, found.newest, False, spans, None, broken)
    if goal_before == goal and (folder / ADAPTER).is_dir():
        text = (
            f"{folder} is finished, after {record.get('steps')} steps: nothing to train. Train it again: --train.resume "
            "false; further: a larger --train.num_train_epochs or --train.max_steps"
        )
        return Start(text, found.newest, True, spans)
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
    if start.checkpoint is None and run.is_dir():
        with lock(run / GENERATED, "a training"), lock(run / GENERATED_BASE, "a training"):
            aside = set_aside(run, unless_only=(GENERATED_BASE,))
    # No file of them may be taken for one of the checkpoint that is written next.
    for path in start.broken:
        shutil.rmtree(path, ignore_errors=True)
    make_folder(run)
    write_json(run / RUN_RECORD, record)
    return f"the earlier run was moved to {aside}" if aside else ""


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Commit of this checkout, `-dirty` where files differ from it; `None` outside git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
