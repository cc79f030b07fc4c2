"""A command in a process of its own, with its time and the memory of all its processes, and what they must not exceed."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_BETWEEN_LOOKS = 0.2


def run_bounded(command: list[str], what: str, seconds: float, megabytes: float) -> None:
    """Run a Python command in the project's folder and print its end and its figures.

    Args:
        command: arguments of Python.
        what: is worked on, in words.
        seconds: bound of the time.
        megabytes: bound of the peak memory of the command and the processes that it starts, together.

    Raises:
        SystemExit: the command failed, or a bound is exceeded.
    """
    started = time.perf_counter()
    peak = 0.0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        done = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        while done.poll() is None:
            peak = max(peak, memory(done.pid) / 2**20)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        took = time.perf_counter() - started
        output.seek(0)
        print(output.read()[-4000:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{what}: {took:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of processor time), peak {peak:.0f} MB; "
        f"bounds {seconds:.0f} s, {megabytes:.0f} MB"
    )
    if done.returncode:
        sys.exit(f"the command itself ended with exit code {done.returncode}")
    if took > seconds or peak > megabytes:
        sys.exit("over the bound")


def memory(process: int) -> float:
    """Bytes that a process and those that it has started hold now; what they share counts once (Linux) or each time."""
    total = 0.0
    try:
        whole = psutil.Process(process)
        for one in (whole, *whole.children(recursive=True)):
            found = one.memory_full_info()
            total += getattr(found, "pss", found.rss)
    except psutil.Error:
        # One has ended between two looks.
        return total
    return total
