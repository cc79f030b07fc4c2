"""One way to fail: a user's mistake is a message and exit code 2, a bug keeps its traceback."""

import sys
from collections.abc import Callable, Sequence

USER_ERROR_EXIT_CODE = 2


class UserError(Exception):
    """A mistake that the user can mend: the text names place, value found and remedy."""


class Interrupted(UserError):
    """The user pressed Ctrl-C: the text says what was kept and how to go on."""


def faults_text(title: str, faults: Sequence[str]) -> str:
    """One message for many faults, so that a user mends all of them in one go."""
    return "\n".join([title, *(f"  - {fault}" for fault in faults)])


def run_script(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the command-line arguments; turn a `UserError` into exit code 2 without a traceback.

    Ctrl-C outside the two long loops, which handle it themselves, ends quietly with the shell's usual code 130.
    """
    # Chinese text must survive on consoles and pipes that are not UTF-8 (Windows code pages, LANG=C).
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")
    try:
        main(sys.argv[1:])
    except Interrupted as stop:
        print(f"\nstopped: {stop}", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR_EXIT_CODE)
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
