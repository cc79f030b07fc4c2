"""The folder of a run: atomic writes, setting an earlier run aside, what is recorded about how it was made."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout, lock_descriptor

from gaokao.errors import UserError

# What stands in the folder of a run; both scripts and the README use these names.
CHECKPOINTS, ADAPTER, GENERATED, GENERATED_BASE = "checkpoints", "adapter", "generated", "generated_base"
RUN_RECORD = "run.json"


RECORDED_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "flash-attn")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            # Some file systems keep the new name of a file and lose its content where the power fails.
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # A full disk is noticed while writing, and then the error names no file.
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write readable UTF-8 JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def several_processes() -> bool:
    """Whether torchrun or a like command started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def make_folder(folder: Path, remedy: str = "choose a folder of yours") -> Path:
    """Create a folder for results and try that it can be written to; `remedy` ends the message if not.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own: the processes of a training try this at the same moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); {remedy}") from None
    return folder


@contextlib.contextmanager
def lock(folder: Path, what: str, remedy: str = "choose another folder") -> Iterator[None]:
    """Keep every other process out of a results folder until the block ends; a killed process holds nothing.

    The lock lies beside the folder, as `.NAME.lock`, because the folder itself is renamed when it is set aside.

    Args:
        folder: what is written to; its parent must exist.
        what: the command that holds it, for the message that others get.
        remedy: what this command can do instead of waiting, for its own message.

    Raises:
        UserError: another process holds it: who, where and since when; or the disk or its rights allow no lock.
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
        raise UserError(f"{folder}: is in use by {who}; wait for it or stop it, or {remedy}") from None
    except OSError as error:
        # A network disk without locks, or the file of a colleague.
        raise UserError(f"{file}: cannot be locked ({error.strerror}); {remedy}") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        # Only for the message that others get.
        with contextlib.suppress(OSError):
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
        # Bytes, because texts are also cut at U+2028, which JSON leaves as it is.
        for number, line in enumerate(content[:whole].splitlines(), 1):
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


def set_aside(path: Path) -> Path | None:
    """Rename what an earlier run left at `path`, so that a new one starts clean and nothing is lost.

    Returns:
        Where the earlier results are now, or `None` where there were none but hidden files (locks).
    """
    if not visible(path):
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
    target = path.with_name(f"{path.name}-{stamp}")
    number = 2
    while target.exists():
        target = path.with_name(f"{path.name}-{stamp}-{number}")
        number += 1
    os.replace(path, target)
    return target


def visible(folder: Path) -> set[str]:
    """Names of what is in a folder, hidden files left out; empty where there is no folder."""
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} if folder.exists() else set()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The run record in a folder, or `None` where there is none that can be read."""
    try:
        record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


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
