"""A command in a process of its own, with its time and memory, and what they must not exceed."""

import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run_bounded(command: list[str], what: str, seconds: float, megabytes: float) -> None:
    """Run a Python command in the project's folder and print its end and its figures.

    Args:
        command: arguments of Python.
        what: is worked on, in words.
        seconds: bound of the time.
        megabytes: bound of the peak memory.

    Raises:
        SystemExit: the command failed, or a bound is exceeded.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    took = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Kilobytes on Linux, bytes on macOS.
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(done.stdout[-4000:] + done.stderr)
    print(
        f"{what}: {took:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of processor time), peak {peak:.0f} MB; "
        f"bounds {seconds:.0f} s, {megabytes:.0f} MB"
    )
    if done.returncode:
        sys.exit(f"the command itself ended with exit code {done.returncode}")
    if took > seconds or peak > megabytes:
        sys.exit("over the bound")
