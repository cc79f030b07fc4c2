"""Results files: what infer_qwen_gaokao.py wrote, read back and checked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gaokao.errors import UserError
from gaokao.records import OUTSIDE, SUBJECTS, TEXTBOOK, TYPES

SCORES = "scores.json"


TEXT_KEYS = ("id", "subject", "type", TEXTBOOK, OUTSIDE, "text", "finish_reason")


TEXT_OR_NULL_KEYS = ("reference", "adapter")


def read_results(path: Path) -> list[dict[str, Any]]:
    """Entries of `questions.json`, or of a `questions.jsonl` that an interrupted run left.

    Half a line at the end, of an item that a killed run never finished, is left out.

    Raises:
        UserError: the file is missing or not a results file, or an entry is faulty: it is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such results file; run infer_qwen_gaokao.py first") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {_NAME_ONE}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_NAME_ONE}") from None
    start = text.lstrip()[:2]
    if start in ("{\n", "{\r"):
        # One object over several lines, as scores are written.
        placed = [Placed(str(path), _json(text, str(path)))]
    elif start.startswith("["):
        placed = [Placed(f"{path}[{index}]", value) for index, value in enumerate(_json(text, str(path)))]
    else:
        placed = list(_lines(text, path))
    if not placed:
        raise UserError(f"{path}: holds no results; run infer_qwen_gaokao.py first")
    for where, value in placed:
        if isinstance(value, dict) and "items" in value and "three_sections" in value:
            raise UserError(f"{where}: holds scores, not results; {_NAME_ONE}")
        if fault := _entry_fault(value):
            raise UserError(f"{where}: {fault}; name a file that infer_qwen_gaokao.py wrote")
    return [value for _, value in placed]


_NAME_ONE = "name a questions.json or questions.jsonl"


class Placed(NamedTuple):
    """A JSON value and where it stands: `file[index]` or `file:line`."""

    where: str
    value: Any


def _lines(text: str, path: Path) -> Iterator[Placed]:
    # Not str.splitlines, which also cuts at U+2028, U+2029 and U+0085; JSON leaves them in a text.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield Placed(f"{path}:{number}", _json(line, f"{path}:{number}"))
        except UserError:
            if number < len(lines) or number == 1:
                raise


def _json(text: str, where: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise UserError(f"{where}: is nested too deep; {_NAME_ONE}") from None
    except ValueError as error:
        raise UserError(f"{where}: is not JSON ({error}); {_NAME_ONE}") from None


def _entry_fault(entry: Any) -> str:
    """What is wrong with an entry, empty where nothing is."""
    if not isinstance(entry, dict):
        return f"holds {_shown(entry)} instead of an entry"
    if missing := [key for key in TEXT_KEYS if key not in entry]:
        return f"lacks {', '.join(missing)}"
    for key in (*TEXT_KEYS, *TEXT_OR_NULL_KEYS):
        value = entry.get(key)
        if value is None and key in TEXT_OR_NULL_KEYS:
            continue
        if not isinstance(value, str):
            return f"{key} is {_shown(value)}, not a text"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"{key} holds half a character ({value[error.start]!a}) at position {error.start}"
    for key, known in (("subject", SUBJECTS), ("type", TYPES)):
        if entry[key] not in known:
            return f"{key} is {_shown(entry[key])}, not one of {' '.join(known)}"
    return ""


def scores_file(results: Path) -> Path:
    """Where the scores of a results file go: `scores.json` beside `questions.json`, `NAME.scores.json` beside others.

    Raises:
        UserError: `results` is itself named like a scores file, or what stands there is no scores file.
    """
    if results.name == SCORES:
        raise UserError(f"{results}: is the name of the file that this command writes; {_NAME_ONE}")
    usual = results.name in ("questions.json", "questions.jsonl")
    name = results.stem if results.suffix == ".json" else results.name
    target = results.with_name(SCORES if usual else f"{name}.{SCORES}")
    if target.exists():
        try:
            kept = json.loads(target.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            kept = None
        if not isinstance(kept, dict) or "three_sections" not in kept:
            raise UserError(f"{target}: is not a file that this command wrote; move it away first")
    return target


def _shown(value: object) -> str:
    return f"{str(value)[:40]!r} ({type(value).__name__})"
