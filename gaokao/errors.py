"""One way to fail: a user's mistake is a message and exit code 2, a bug keeps its traceback."""

import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

USER_ERROR_EXIT_CODE = 2
# What a shell reports of a command that SIGPIPE ended, as it ends `cat` in `cat FILE | head`.
BROKEN_PIPE_EXIT_CODE = 141
# The disk is full, or the quota, or it is of a kind that takes no file of that size (FAT32), wherever one was being written.
DISK_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
# How libraries say it that raise types of their own: safetensors, and torch.save (the last three).
DISK_TEXTS = (
    "No space left on device", "Disk quota exceeded", "File too large",
    "PytorchStreamWriter failed writing", "iostream error", "unexpected pos ",
)  # fmt: skip
# Errors named in one message; a file of another kind can have an error in each of its million lines.
MAX_FAULTS = 50

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake that the user can fix: the text names place, value found and remedy."""


class Interrupted(UserError):
    """The user pressed Ctrl-C: the text says what was kept and how to go on."""


def faults_text(title: str, faults: Sequence[str]) -> str:
    """One message for many errors, so that a user fixes all of them in one go."""
    return "\n".join([title, *(f"  - {fault}" for fault in faults)])


class Errors(Generic[T]):
    """Errors or other findings: all are counted, the first `limit` are kept (`None`: all)."""

    def __init__(self, limit: int | None = MAX_FAULTS) -> None:
        self.limit = limit
        self.count = 0
        self.entries: list[T] = []

    def add(self, *entries: T) -> None:
        """Count the entries, and keep those that there is room for."""
        self.count += len(entries)
        self.entries += entries if self.limit is None else entries[: max(0, self.limit - len(self.entries))]

    @property
    def rest(self) -> int:
        """How many were counted only."""
        return self.count - len(self.entries)

    def text(self, title: str) -> str:
        """One message for all of them."""
        more = [f"and {self.rest:,} more; fix these and run it again"] if self.rest else []
        return faults_text(title, [*map(str, self.entries), *more])


def shown(value: Any, limit: int = 40) -> str:
    """A value as JSON writes it, cut to `limit` characters, for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[:limit] + "…"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters; the name of its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because there is no room for it."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    return any(text in str(error) for text in DISK_TEXTS)


def elsewhere(path: str | Path) -> str:
    """The end of a message about a missing file: where to start from, if it lies in the project's folder; else empty."""
    if os.path.exists(path) or not os.path.exists(PROJECT / path):
        return ""
    return f" (there is one in the project's folder; start from there: cd {PROJECT})"


def run_script(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the command-line arguments; turn a `UserError` into exit code 2 without a traceback.

    Ctrl-C outside the two long loops, which handle it themselves, ends quietly with the shell's usual code 130, and so
    does a reader of the output that has seen enough (`| head`), with 141.
    """
    # Chinese text must survive on consoles and pipes that are not UTF-8 (Windows code pages, LANG=C).
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")
    try:
        code = _exit_code(main)
        # Not left to the interpreter, which would complain of a closed pipe when it ends.
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_gone():
            raise
        code = BROKEN_PIPE_EXIT_CODE
    if code:
        sys.exit(code)


def _exit_code(main: Callable[[list[str]], None]) -> int | str | None:
    try:
        main(sys.argv[1:])
    except SystemExit as stop:
        return stop.code
    except Interrupted as stop:
        print(f"\nstopped: {stop}", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except Exception as error:
        if not disk_full(error):
            raise
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        print(
            f"error: {name or 'a file'}: cannot be written ({reason or first_line(error)}); make room, and run it again",
            file=sys.stderr,
        )
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _reader_gone() -> bool:
    """Whether it was standard output that broke, and not some connection; then the rest of it goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
