"""Random configurations and command lines through `load_config`: no traceback, no silent acceptance, no long wait.

    python -m tests.fuzz.configs --count 1700 --seed 1
    python -m tests.fuzz.configs --count 1700 --seed 1 --show 20      # the first messages of each kind, to read
    python -m tests.fuzz.configs --every                              # instead: every odd value at every key, one by one

Each one is the shipped file or a part of it with a few changes: keys misspelt, moved, repeated or of another type; values
of another type, out of range, blank, huge, not finite; YAML that is broken, nested, anchored, tagged, or not text; options
misspelt, shortened, without value. Counted: exceptions other than `UserError`, messages above 500 characters an error,
calls above half a second of processor time, and accepted configurations in which a value is one that no run could mean.
Exits 1 where any of these is found.
"""

import argparse
import itertools
import math
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from gaokao.config import Config
from gaokao.errors import UserError
from gaokao.settings import Resolved, load_config

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = (ROOT / "config.yaml").read_text(encoding="utf-8")
SECONDS, CHARACTERS = 0.5, 500
KEYS = [
    f"{section}.{name}" for section, values in Config().model_dump(exclude={"without_gpu"}).items() for name in values
]

# As YAML or as the value of an option.
VALUES = [
    "1", "0", "-1", "42", "3.5", "1.0e-300", "1e300", "1.0e+400", ".inf", "-.inf", ".nan", "nan", "inf", "Infinity", "9" * 31,
    "9" * 4300, "0x" + "f" * 5000, "010", "1:30", "0x_", "1_0", "true", "false", "yes", "null", "~", "''", "' '", "'\\t'",
    '"a\\nb"', '"a\\0b"', '"\\ud83d"', "x" * 300, "x" * 5000, "高" * 100, "[]", "{}", "[1, 2]", "[a, b]", "{a: 1}", "[[[[a]]]]",
    "auto", "none", "None", "builtin:tiny", "a/b", "..", "CON", "nul.txt", "a.", "'a '", "2026-01-01", "12:00:00",
    "[" * 3000, "[" * 3000 + "]" * 3000, "{a: " * 2000, "&a [*a]", "*a", "!!python/name:os.system", "!own x", "!!int '5'",
    "!!binary aGk=", "|\n    text", ">\n    text", "- a", "? a", "@x", "`x`", "%x", "'open", '"\\q"', "=", "<<", "😀", "\x01",
    "\ufffe", "\u2028", "\xa0", "1e-4", "5.0", "1.", ".5", "+3", "1,5", "$HOME", "#", "0.05", "1024", "4096", "1000000000",
]  # fmt: skip
BROKEN = [
    "\t", ": ", "- ", "&x ", "*x ", "!t ", "{", "}", "[", "]", "'", '"', "|", ">", "%YAML 3\n", "---\n", "...\n", "<<: *x\n",
    "? ", "\x00", "\x07", "\x85", "\r", "#", "1: 2\n", "null: 3\n", "on: 1\n", "[a]: 1\n", "&a a: *a\n", "\ufeff", "😀",
]  # fmt: skip


def random_value(draw: random.Random, key: str) -> str:
    """A value, wrong in half the cases or more."""
    if draw.random() < 0.5:
        return draw.choice(VALUES)
    section, _, name = key.partition(".")
    return str(yaml.safe_dump(getattr(getattr(Config(), section), name), default_flow_style=True)).split("\n")[0]


def mutated_key(draw: random.Random, key: str) -> str:
    """A key that is misspelt, shortened, moved or of another kind."""
    section, _, name = key.partition(".")
    place = draw.randrange(len(name))
    return draw.choice(
        [
            key[:-1],
            key + draw.choice("sx_"),
            f"{section}.{name[:place]}{name[place + 1 :]}",
            f"{draw.choice(KEYS).split('.')[0]}.{name}",
            name,
            section,
            key.upper(),
            key.replace("_", "-"),
            f"without_gpu.{key}",
            "without_gpu.without_gpu",
            "x" * draw.choice([1, 400, 5000]),
        ]
    )


def random_tree(draw: random.Random) -> str:
    """A file of a few keys with random values."""
    lines: list[str] = []
    for _ in range(draw.choice([1, 1, 2, 4])):
        key = draw.choice(KEYS)
        value = random_value(draw, key)
        if draw.random() < 0.15:
            key = mutated_key(draw, key)
        *sections, name = key.split(".")
        lines += [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
        lines.append(f"{'  ' * len(sections)}{name}: {value}")
    return "\n".join(lines) + "\n"


def changed_values(draw: random.Random) -> str:
    """The shipped file with a few values replaced."""
    lines = SHIPPED.splitlines()
    places = [number for number, line in enumerate(lines) if ": " in line.split("#")[0]]
    for number in draw.sample(places, draw.choice([1, 1, 2, 4])):
        lines[number] = f"{lines[number].split(':')[0]}: {draw.choice(VALUES)}"
    return "\n".join(lines) + "\n"


def noisy(draw: random.Random) -> str:
    """The shipped file with characters put in, taken out or repeated."""
    text = draw.choice([SHIPPED, random_tree(draw)])
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(text) + 1)
        text = draw.choice(
            [
                text[:place] + draw.choice(BROKEN) * draw.choice([1, 1, 3, 3000]) + text[place:],
                text[:place] + text[place + draw.randint(1, 40) :],
                text[:place] + text[place : place + 400] * draw.choice([2, 30]) + text[place:],
            ]
        )
    return text


def odd_whole(draw: random.Random) -> str:
    """A file of another kind."""
    size = draw.choice([10, 1000, 60_000])
    return draw.choice(
        [
            "", " " * size, "# x\n" * (size // 4), "[" * size, "- " * (size // 2), "{a: " * (size // 4), "a" * size, "a: " * (size // 3),
            "".join(f"k{n}: {n}\n" for n in range(size // 10)), "".join(" " * n + "a:\n" for n in range(min(size, 250))),
            f"model: [{'1,' * (size // 2)}]", "x: &x [a]\n" + "y: *x\n" * (size // 6), "without_gpu:\n" * (size // 13),
            yaml.safe_dump({key: draw.random() for key in KEYS}), yaml.safe_dump([KEYS] * 9), '{"train": {"seed": 1}}',
        ]
    )  # fmt: skip


def no_file(draw: random.Random) -> str:
    """The shipped file: the errors are in the command line."""
    return draw.choice([SHIPPED, "{}", "train: {seed: 1}\n"])


KINDS: dict[str, Callable[[random.Random], str]] = {
    "keys and values": random_tree,
    "values changed": changed_values,
    "noise": noisy,
    "another kind": odd_whole,
    "command line": no_file,
}


def options(draw: random.Random, many: bool) -> list[str]:
    """Options, most of them wrong in some way."""
    argv: list[str] = []
    for _ in range(draw.choice([1, 1, 2, 4]) if many else draw.choice([0, 0, 0, 1])):
        key = draw.choice(KEYS)
        # No option can hold a NUL.
        value = random_value(draw, key).replace("\0", "")
        if draw.random() < 0.15:
            key = mutated_key(draw, key)
        argv += draw.choice(
            [[f"--{key}", value, value], [f"--{key}={value}"], [f"--{key}"], [value]] + [[f"--{key}", value]] * 4
        )
    if many and draw.random() < 0.1:
        argv += draw.choice(
            [["--without_gpu", "null"], ["--without_gpu", "x" * 5000], ["--conf", "x"], ["--adapter", "null"]]
        )
    return argv


def meaningless(resolved: Resolved, text: str) -> list[str]:
    """Values of an accepted configuration that no run could mean."""
    found = []
    for section, values in resolved.config.model_dump(exclude={"without_gpu"}).items():
        for name, value in values.items():
            key = f"{section}.{name}"
            parts = value if isinstance(value, list) else [value]
            for part in parts:
                if isinstance(part, float) and (not math.isfinite(part) or 0 < part < 1e-9 or part > 1e6):
                    found.append(f"{key} = {part}")
                if isinstance(part, int) and not isinstance(part, bool) and abs(part) > 2**32:
                    found.append(f"{key} = {part}")
                if isinstance(part, str) and (not part.strip() or not part.isprintable() or len(part) > 1024):
                    found.append(f"{key} = {part[:40]!r}")
            if (
                isinstance(value, bool)
                and not isinstance(getattr(getattr(Config(), section), name), bool)
                and key != "train.resume"
            ):
                found.append(f"{key} = {value}")
    if len(resolved.config.output.run.encode()) > 255:
        found.append("output.run is no name of a folder")
    if "without_gpu" in (resolved.config.without_gpu or {}):
        found.append("without_gpu in itself")
    if any(mark in text for mark in ("&a [*a]", "!!python", "!own")) and "#" not in text:
        found.append("anchors or tags")
    return found


def cases(count: int, seed: int, every: bool) -> Iterator[tuple[str, str, list[str]]]:
    """What kind it is, the text of the file, the options."""
    if every:
        for key, value in itertools.product(KEYS, VALUES):
            section, _, name = key.partition(".")
            yield key, f"{section}:\n  {name}: {value}\n", []
        return
    draw = random.Random(seed)
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        yield kind, KINDS[kind](draw), options(draw, kind == "command line")


def main() -> None:
    """Make them, load them, count."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.configs", allow_abbrev=False)
    parser.add_argument("--count", type=int, default=1700)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", action="store_true", help="every odd value at every key")
    parser.add_argument("--show", type=int, default=0, help="print so many messages of each kind")
    chosen = parser.parse_args()
    counts: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    slowest = longest = 0.0
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        for number, (kind, text, argv) in enumerate(cases(chosen.count, chosen.seed, chosen.every), 1):
            path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
            started, message = time.process_time(), ""
            try:
                resolved = load_config(
                    ["--config", str(path), *argv], "x.py", shortcuts={"generate.adapter": "adapter"}
                )
            except UserError as error:
                message = str(error).replace(folder, "")
                counts["refused"] += 1
                lines = message.splitlines()
                longest = max(longest, *map(len, lines))
                if any(len(line) > CHARACTERS for line in lines):
                    problems.append(
                        f"{number} ({kind}): a message of {max(map(len, lines))} characters: {message[:200]!r}"
                    )
            except SystemExit:
                counts["help"] += 1
            except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
                problems.append(f"{number} ({kind}), {argv!r:.200}:\n{traceback.format_exc(limit=-3)}")
                counts["tracebacks"] += 1
            else:
                counts["accepted"] += 1
                if found := meaningless(resolved, text):
                    counts["silent acceptances"] += 1
                    problems.append(f"{number} ({kind}): accepted {found}")
            seconds = time.process_time() - started
            slowest = max(slowest, seconds)
            if seconds > SECONDS:
                counts["slow"] += 1
                problems.append(f"{number} ({kind}): {seconds:.2f} s: {text[:80]!r}")
            if message and shown[kind] < chosen.show:
                shown[kind] += 1
                print(f"--- {kind}\n{message[:600]}")
    print("\n".join(problems[:30]))
    print(
        f"{number} configurations: {counts['accepted']} accepted, {counts['refused']} refused, "
        f"{counts['help']} help; {counts['tracebacks']} tracebacks, {counts['silent acceptances']} silent acceptances, "
        f"{counts['slow']} above {SECONDS} s (slowest {slowest:.2f}), longest line of a message {longest:.0f} characters"
    )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
