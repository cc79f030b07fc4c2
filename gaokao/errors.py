"""One way to fail: a user's mistake is a message and exit code 2, a bug keeps its traceback."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

USER_ERROR_EXIT_CODE = 2
# What a shell reports of a command that SIGPIPE ended, as it ends `cat` in `cat FILE | head`.
BROKEN_PIPE_EXIT_CODE = 141
# Faults named in one message; a file of another kind can have a fault in each of its million lines.
MAX_FAULTS = 50

PROJECT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake that the user can mend: the text names place, value found and remedy."""


class Interrupted(UserError):
    """The user pressed Ctrl-C: the text says what was kept and how to go on."""


def faults_text(title: str, faults: Sequence[str]) -> str:
    """One message for many faults, so that a user mends all of them in one go."""
    return "\n".join([title, *(f"  - {fault}" for fault in faults)])


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
