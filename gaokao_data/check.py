"""Check data files before they train anything, or split one into train and test.

    python -m gaokao_data.check my_items.csv                      # by the rules of training
    python -m gaokao_data.check my_passages.csv --for generate    # by those of generation: no question, answer, 解析
    python -m gaokao_data.check my_items.csv --verbose            # every finding instead of the first few
    python -m gaokao_data.check my_items.csv --json > check.json
    python -m gaokao_data.check my_items.csv --split 0.1 --out my_data

Exit code 0: no errors, whatever the warnings. 1: errors, which training and generation refuse. 2: a file that cannot be
read, a wrong command line, or a split that was not made.
"""

import argparse
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gaokao.audit import (
    FINDINGS_SHOWN,
    Audit,
    Counts,
    Measure,
    check_key_bias,
    split,
)
from gaokao.checks import CHECKS, Outcome
from gaokao.config import BUILTIN_TINY, Config
from gaokao.errors import Errors, UserError, first_line, run_script
from gaokao.grounding import LEAST_ITEMS, grounding, note
from gaokao.prompts import format_chat, prepare_input
from gaokao.records import PASSAGES, SUBJECTS, TYPES, Purpose, Record, load_records
from gaokao.runs import make_folder, write_json
from gaokao.settings import DEFAULT_CONFIG, load_config
from gaokao.sources import HUB
from gaokao.text import DUPLICATE_THRESHOLD, LEAK_BOUND, columns, pad, shorten

EVIDENCE_SHOWN = 160


# --- lengths --------------------------------------------------------------------------------------------------------


def choose_measure(wanted: str, config: Config, purpose: Purpose) -> Measure:
    """Tokens where a tokenizer is at hand, else characters, with the reason.

    Args:
        wanted: `auto`, `none` (characters), or a tokenizer's folder.
        config: names the base model.
        purpose: `train` measures whole examples, `generate` prompts.

    Raises:
        UserError: a folder was asked for by name and holds no usable tokenizer.
    """

    def messages(record: Record) -> list[Any]:
        example = format_chat(record)
        return prepare_input(record) if purpose == "generate" else [*example["prompt"], *example["completion"]]

    tokenizer, reason = None, "--tokens none"
    if wanted != "none":
        base = config.model.base
        auto = wanted == "auto"
        folder = find_tokenizer(base, config.model.revision, Path(config.output.dir)) if auto else Path(wanted)
        reason = f"the tokenizer of {base} is not on this machine yet"
        try:
            if folder is not None:
                tokenizer, reason = _load_tokenizer(folder), f"tokenizer of {folder}"
        except UserError as error:
            if not auto:
                raise
            reason = str(error)
    if tokenizer is None:
        return Measure("characters", reason, lambda record: sum(len(turn["content"]) for turn in messages(record)))
    options = {"add_generation_prompt": purpose == "generate", "tokenize": True, "return_dict": True}
    return Measure(
        "tokens", reason, lambda record: len(tokenizer.apply_chat_template(messages(record), **options)["input_ids"])
    )


def find_tokenizer(base: str, revision: str | None, tiny_folder: Path) -> Path | None:
    """The folder of a base model's tokenizer, if it is on this machine; never downloads or builds one."""
    if base == BUILTIN_TINY:
        built = [file.parent for file in tiny_folder.glob("tiny-*/tokenizer.json") if ".part" not in file.parent.name]
        return max(built, key=lambda folder: folder.stat().st_mtime, default=None)
    folder = Path(os.path.expanduser(base))
    if os.path.exists(folder / "tokenizer.json"):
        return folder
    if os.path.isdir(folder) or base.count("/") != 1 or base.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "tokenizer.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _load_tokenizer(folder: Path) -> Any:
    # The class that the training uses: others read the same folder with a slightly different pre-tokenizer. It brings
    # torch along, which is why nothing else here does.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"the tokenizer in {folder} cannot be read ({first_line(error)})") from None
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {folder} has no chat template; use that of an Instruct model")
    return tokenizer


# --- for a reader ---------------------------------------------------------------------------------------------------


def report_text(audit: Audit) -> str:
    """The whole report for a reader; errors come first."""
    writers = (_errors, _records, _lengths, _checks, _duplicates, _keys, _passages, _grounding, _result)
    return "\n\n".join("\n".join(line.rstrip() for line in writer(audit)) for writer in writers)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns: the first one left, the others right."""
    cells = [header, *rows]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        right = [" " * (width - columns(cell)) + cell for width, cell in zip(widths[1:], rest, strict=True)]
        lines.append("  ".join(["", pad(first, widths[0]), *right]))
    return lines


def _listed(found: Errors[Any], line: Callable[[Any], str], indent: str = "  ") -> list[str]:
    rest = [f"{indent}… and {found.rest:,} more (--verbose lists all)"] if found.rest else []
    return [*(indent + line(entry) for entry in found.entries), *rest]


def _at(entry: dict[str, Any]) -> str:
    return f"{entry['where']} (id {entry['id']})"


def _errors(audit: Audit) -> list[str]:
    lines = []
    for file in audit.files:
        if file.unreadable:
            before = f"; the {file.records:,} records before it were checked" if file.records else ""
            lines.append(f"unreadable  {file.unreadable}{before}")
    if not audit.errors.count:
        return [*lines, "errors    none"]
    lines.append(f"errors    {audit.errors.count:,} in the records, which are used only when all of them are fixed:")
    return lines + _listed(audit.errors, "- {}".format)


def _records(audit: Audit) -> list[str]:
    lines = [f"records   {audit.total.records:,}, by subject and type"]
    lines += [f"          {file.records:,} in {file.name}" for file in audit.files if len(audit.files) > 1]
    return lines + _kinds_table(audit.total.kinds)


def _kinds_table(kinds: Counter[tuple[str, str]]) -> list[str]:
    """Records by subject and type, with sums."""
    rows = []
    for subject in (*SUBJECTS, "all"):
        cells = [
            sum(count for (a, b), count in kinds.items() if subject in (a, "all") and kind in (b, "all"))
            for kind in (*TYPES, "all")
        ]
        if cells[-1]:
            rows.append([subject, *(f"{cell:,}" if cell else "-" for cell in cells)])
    return _table(["", *TYPES, "all"], rows)


def _lengths(audit: Audit) -> list[str]:
    what = "a training example, prompt and answer" if audit.purpose == "train" else "a prompt"
    lines = [f"lengths   {audit.measure.unit} of {what} ({audit.measure.reason})"]
    if audit.max_length and audit.measure.unit == "characters":
        lines.append("          train.max_length is in tokens; one of Qwen2.5 is about 1.5 characters of a record")
    figures = {file.name: file.length_figures() for file in audit.rows}
    names = [*next(iter(figures.values()))][:-1]
    rows = [[name, *(f"{value:,}" for value in those.values())] for name, those in figures.items()]
    if audit.max_length:
        lines += _table(["", *names, f"over {audit.max_length}"], rows)
    else:
        lines += _table(["", *names], [row[:-1] for row in rows])
    return lines + _listed(audit.too_long, lambda entry: f"too long: {_at(entry)}: {entry['length']:,}")


def _checks(audit: Audit) -> list[str]:
    unusable = audit.checked - audit.usable
    without = audit.total.records - audit.checked
    limit = EVIDENCE_SHOWN if audit.keep else sys.maxsize
    lines = [
        f"checks    {audit.usable:,} of {audit.checked:,} records pass every hard check"
        + (f"; {unusable:,} are unusable" if unusable else "")
        + (f"; {without:,} without question, answer or 解析 were not checked" if without else "")
    ]
    for check in sorted(CHECKS, key=lambda check: -audit.failures[check.name].count):
        failures = audit.failures[check.name]
        if failures.count:
            rank, applied = "hard" if check.hard else "soft", audit.applied[check.name]
            lines.append(f"  {rank}  {check.name}: {failures.count:,} of {applied:,} that it applies to fail")
            lines += _listed(failures, lambda entry: f"{_at(entry)}: {shorten(entry['evidence'], limit)}", " " * 8)
    passed = [check.name for check in CHECKS if not audit.failures[check.name].count]
    return [*lines, f"  nothing found by: {', '.join(passed)}"] if passed and audit.checked else lines


def _duplicates(audit: Audit) -> list[str]:
    lines = [
        f"alike     {audit.alike.count - audit.across:,} near-duplicate pairs within a file, {audit.across:,} across files "
        f"(5-gram Jaccard of the questions at least {DUPLICATE_THRESHOLD})"
    ]
    lines += [f"          {audit.left_out}"] if audit.left_out else []
    lines += _listed(
        audit.alike, lambda pair: f"{pair['similarity']:.2f}  {_at(pair['first'])} and {_at(pair['second'])}"
    )
    if audit.shared_ids.count:
        lines.append(f"ids       {audit.shared_ids.count:,} stand in two files; read together they would be errors:")
        lines += _listed(audit.shared_ids, lambda entry: f"{entry['id']}: {' and '.join(entry['where'])}")
    return lines


def _keys(audit: Audit) -> list[str]:
    lines = ["keys      single-answer choice items: how often each letter is the key, and the key the longest option"]
    for file in audit.rows:
        _, outcome, evidence = check_key_bias(file.key_bias())
        lines.append(f"  {file.name}: {'biased: ' if outcome is Outcome.FAIL else ''}{evidence}")
    return lines


def _passages(audit: Audit) -> list[str]:
    lines = ["passages  share of the answer's 8-grams that a passage contains, 0 to 1"]
    rows = []
    for file in audit.rows:
        for name in PASSAGES:
            measured, empty, above, *shares = file.leak_figures(name).values()
            cells = [f"{measured:,}", f"{empty:,}", f"{above:.1%}", *(f"{share:.3f}" for share in shares)]
            rows.append([f"{name} {file.name}", *cells])
    lines += _table(["", "measured", "empty", "above 0", "median", "p95", "maximum"], rows)
    lines.append(
        f"  {audit.leaking.count:,} records leak: their passages together contain more than {LEAK_BOUND:.0%} of the answer"
        + (f"; {audit.marked:,} more are marked leaks: true" if audit.marked else "")
    )
    return lines + _listed(audit.leaking, lambda entry: f"leaks: {_at(entry)}: {entry['share']:.0%} of the answer")


def _grounding(audit: Audit) -> list[str]:
    """Own passage first in each file, by subject."""
    lines = [
        "grounding share of questions that are nearer to their own passage than to every other one of their subject;"
    ]
    lines.append("          bare: without verbatim spans of the passage; pasted: 课外内容 in place of the question")
    header = ["", "课本内容", "bare", "pasted", "chance", "课外内容", "bare", "chance"]
    for file in audit.files:
        found = grounding(file.items)
        textbook, outside = (found[name] for name in PASSAGES)
        rows = []
        for subject in [subject for subject in (*SUBJECTS, "all") if subject in textbook or subject in outside]:
            cells = [
                [row["own_first"], row["without_spans"], row["pasted"], row["chance"]]
                if (row := those.get(subject))
                else [None] * 4
                for those in (textbook, outside)
            ]
            rows.append([subject, *map(_rate, [*cells[0], *cells[1][:2], cells[1][3]])])
        lines += (
            _table([f"{file.name}", *header[1:]], rows)
            if rows
            else [f"  {file.name}: no subject has {LEAST_ITEMS} items"]
        )
        if text := note(found):
            lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="  ")
    return lines


def _rate(value: dict[str, Any] | float | None) -> str:
    share = value["rate"] if isinstance(value, dict) else value
    return "-" if share is None else f"{share:.0%}"


def _result(audit: Audit) -> list[str]:
    unreadable = sum(bool(file.unreadable) for file in audit.files)
    parts = [f"{unreadable} file(s) cannot be read"] if unreadable else []
    parts.append(f"{audit.errors.count:,} errors" if audit.errors.count else "no errors")
    found = warnings(audit)
    parts.append("warnings: " + ", ".join(found) if found else "no warnings")
    return [f"result    {'; '.join(parts)}"]


def warnings(audit: Audit) -> list[str]:
    """What an owner should look at, one phrase each."""
    biased = [file for file in audit.rows if check_key_bias(file.key_bias()).outcome is Outcome.FAIL]
    found = [
        (audit.checked - audit.usable, "unusable records"),
        (sum(audit.failures[check.name].count for check in CHECKS if not check.hard), "soft checks failed"),
        (audit.too_long.count, f"records over {audit.max_length} tokens, which a training leaves out"),
        (audit.alike.count, "near-duplicate pairs"),
        (audit.shared_ids.count, "ids in two files"),
        (len(biased), "biased key distributions"),
        (audit.leaking.count, "leaking passages"),
    ]
    return [f"{count:,} {what}" for count, what in found if count]


# --- for machines ---------------------------------------------------------------------------------------------------


def exit_code(audit: Audit) -> int:
    """2 where a file could not be read, 1 where records are wrong, else 0."""
    if any(file.unreadable for file in audit.files):
        return 2
    return 1 if audit.errors.count else 0


def report_json(audit: Audit) -> dict[str, Any]:
    """The whole report as plain values; shares are 0 to 1, lengths in `lengths.unit`."""
    checks = [
        {
            "name": check.name,
            "hard": check.hard,
            "applied": audit.applied[check.name],
            **_plain(audit.failures[check.name]),
        }
        for check in CHECKS
    ]
    unit, reason, _ = audit.measure
    return {
        "exit_code": exit_code(audit),
        "errors": _plain(audit.errors),
        "warnings": warnings(audit),
        "files": [_file_json(file) for file in audit.files],
        "all": _file_json(audit.total),
        "lengths": {"unit": unit, "reason": reason, "max_length": audit.max_length, "too_long": _plain(audit.too_long)},
        "checked": audit.checked,
        "usable": audit.usable,
        "checks": checks,
        "near_duplicates": {
            "threshold": DUPLICATE_THRESHOLD,
            "left_out": audit.left_out,
            "across": audit.across,
            **_plain(audit.alike),
        },
        "shared_ids": _plain(audit.shared_ids),
        "leaks": {"bound": LEAK_BOUND, "marked": audit.marked, **_plain(audit.leaking)},
        "grounding": [{"name": file.name, **grounding(file.items)} for file in audit.files],
    }


def _plain(found: Errors[Any]) -> dict[str, Any]:
    return {"count": found.count, "entries": found.entries}


def _file_json(file: Counts) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {}
    for (subject, kind), number in sorted(file.kinds.items()):
        kinds.setdefault(subject, {})[kind] = number
    bias = file.key_bias()
    _, outcome, evidence = check_key_bias(bias)
    return {
        **{name: getattr(file, name) for name in ("name", "unreadable", "records", "errors")},
        "subjects": kinds,
        "lengths": file.length_figures(),
        "keys": {**bias._asdict(), "outcome": outcome.value, "evidence": evidence},
        "passages": {name: file.leak_figures(name) for name in PASSAGES},
    }


# --- the command ----------------------------------------------------------------------------------------------------


def write_split(names: Sequence[str], purpose: Purpose, share: float, folder: Path) -> list[str]:
    """Write a share of the records to test.json and the rest to train.json; give the lines to print.

    Raises:
        UserError: the records hold errors, cannot be split, or one of the two files is there already.
    """
    paths = [folder / "train.json", folder / "test.json"]
    for path in paths:
        if os.path.lexists(path):
            raise UserError(f"{path}: exists already and is not overwritten; name another folder with --out")
    parts = split(load_records(names, purpose), share)
    make_folder(folder)
    lines = []
    for path, records in zip(paths, parts, strict=True):
        write_json(path, [record.to_dict() for record in records])
        lines.append(f"records   {len(records):,} in {path}, by subject and type")
        lines += _kinds_table(Counter((record.subject, record.type) for record in records))
    return [*lines, "No question in one file is a near-duplicate of one in the other."]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0 and below 1, such as 0.1")
    return share


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.check", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add: Callable[..., Any] = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="JSON, JSON Lines, CSV, Parquet, a folder of them, or hub:owner/name")
    add("--for", dest="purpose", choices=("train", "generate"), default="train", help="by which rules (train)")
    add("--json", action="store_true", help="print one JSON object with every finding, and nothing else")
    add("--verbose", action="store_true", help="list every finding instead of the first few")
    add("--config", metavar="FILE", type=Path, help=f"names base model and train.max_length; default: {DEFAULT_CONFIG}")
    add("--tokens", metavar="auto|none|DIR", default="auto", help="tokenizer of the configuration, none, or a folder's")
    add("--split", metavar="SHARE", type=_share, help="write so much of the records (0 to 1) to a test file instead")
    add("--out", metavar="DIR", type=Path, help="where --split writes train.json and test.json")
    chosen = parser.parse_args(arguments)
    if (chosen.split is None) != (chosen.out is None):
        parser.error("--split SHARE and --out DIR belong together")
    return chosen


def main(arguments: list[str]) -> None:
    """Check the files, print the report, exit with its code; or split them."""
    chosen = parse_arguments(arguments)
    names = list(dict.fromkeys(chosen.files))
    if chosen.split is not None:
        print("\n".join(write_split(names, chosen.purpose, chosen.split, chosen.out)))
        return
    config = Config()
    if chosen.config or DEFAULT_CONFIG.exists():
        # By the settings of a real training: the data is the same whatever this machine has.
        arguments = ["--config", str(chosen.config or DEFAULT_CONFIG), "--without_gpu", "null"]
        config = load_config(arguments, "python -m gaokao_data.check").config
    # A wrong name is answered before a tokenizer is loaded.
    there = any(name.startswith(HUB) or os.path.lexists(name) for name in names)
    measure = choose_measure(chosen.tokens if there else "none", config, chosen.purpose)
    max_length = config.train.max_length if chosen.purpose == "train" else None
    keep = None if chosen.verbose or chosen.json else FINDINGS_SHOWN
    audit = Audit(measure, max_length, chosen.purpose, keep)
    for name in names:
        audit.read(name, _show_progress)
    if all(file.unreadable and not file.records and not file.errors for file in audit.files):
        raise UserError("\n".join(file.unreadable for file in audit.files))
    audit.search()
    print(json.dumps(report_json(audit), ensure_ascii=False) if chosen.json else report_text(audit))
    sys.exit(exit_code(audit))


def _show_progress(count: int) -> None:
    if count % 500 == 0 and sys.stderr.isatty():
        print(f"\r{count:,} records\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(main)
