"""The folder of a run: atomic writes, setting an earlier run aside, what is recorded about how it was made."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gaokao.errors import UserError

# What stands in the folder of a run; both scripts and the README use these names.
CHECKPOINTS, ADAPTER, GENERATED, GENERATED_BASE = "checkpoints", "adapter", "generated", "generated_base"

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
    probe = folder / ".write-test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
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


def set_aside(path: Path, unless_only: Iterable[str] = ()) -> Path | None:
    """Rename what an earlier run left at `path`, so that a new one starts clean and nothing is lost.

    Args:
        path: the folder that is wanted.
        unless_only: names that do not count; a folder with nothing else in it stays.

    Returns:
        Where the earlier results are now, or `None` where there were none.
    """
    if not path.exists() or {entry.name for entry in path.iterdir()} <= set(unless_only):
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
    target = path.with_name(f"{path.name}-{stamp}")
    number = 2
    while target.exists():
        target = path.with_name(f"{path.name}-{stamp}-{number}")
        number += 1
    os.replace(path, target)
    return target


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
