"""What the programs of this folder count: exceptions that no user should see, acceptances in silence, long waits."""

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from gaokao.errors import UserError

SECONDS, CHARACTERS = 0.5, 500
T = TypeVar("T")


class Tally:
    """Counts over all cases of a run, with the first faults in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.slowest = 0.0
        self.message = ""
        """Of the last case that was refused."""

    def fault(self, kind: str, text: str) -> None:
        """Count a fault of a kind."""
        self.counts[kind] += 1
        self.faults.append(f"{kind}: {text}")

    def call(self, label: str, function: Callable[[], T]) -> T | None:
        """What the function gives, or `None` where it refuses or breaks; processor time and messages are looked at."""
        started, result = time.process_time(), None
        try:
            result = function()
        except UserError as error:
            self.message = str(error)
            self.counts["refused"] += 1
            if longest := max(
                (line for line in self.message.split("\n") if len(line) > CHARACTERS), key=len, default=""
            ):
                self.fault("long messages", f"{label}: {len(longest)} characters: {longest[:200]!r}")
        except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
            self.fault("tracebacks", f"{label}:\n{traceback.format_exc(limit=-4)[-2000:]}")
        seconds = time.process_time() - started
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS:
            self.fault("slow", f"{label}: {seconds:.2f} s")
        return result

    def finish(self, what: str) -> None:
        """Print the counts and exit, with 1 where a fault was found."""
        print("\n".join(self.faults[:30]))
        kinds = ("tracebacks", "silent acceptances", "long messages", "slow")
        found = ", ".join(f"{self.counts[kind]} {kind}" for kind in kinds)
        rest = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()) if name not in kinds)
        print(f"{what}: {rest}; {found} (slowest {self.slowest:.2f} s, allowed {SECONDS})")
        sys.exit(1 if self.faults else 0)
