"""Check data files before they train anything: faults, counts, lengths, calibrated checks, duplicates, leaks.

    python -m gaokao_data.check gaokao_data/train.json gaokao_data/test.json
    python -m gaokao_data.check my_items.jsonl --verbose          # every finding instead of the first few
    python -m gaokao_data.check my_items.jsonl --json > check.json
    python -m gaokao_data.check my_items.jsonl --tokens DIR       # lengths by the tokenizer in this folder

FILE is whatever data.train may name: JSON, JSON Lines, CSV, Parquet, a folder of them, or hub:owner/name.
Files are checked as training data: every record needs question, answer and 解析. Lengths are those of a whole training
example, prompt and answer, in tokens where the tokenizer of config.yaml is on this machine already (nothing is
downloaded or built), else in characters.

Exit code 0: no faults, whatever the warnings. 1: faults, which a training would refuse: a bad record, an id twice in a
file, a file without records. 2: a file that cannot be read, or a wrong command line. Everything else is a warning, a
failed hard check too: it makes a record unusable as a question, but checks judge by rules, and the owner of the data
decides.

Memory. JSON Lines are streamed. What grows with the number of records: id and place of each (about 0.3 KB), a few
numbers, and the texts of the questions with their n-gram index for the near-duplicate search, which is therefore left
out above DUPLICATE_CHARACTERS. A JSON list is read whole; --verbose and --json keep every finding.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaokao.audit import (
    BIAS_LEAST,
    FINDINGS_SHOWN,
    PASSAGES,
    PERCENTILES,
    Capped,
    CheckCounts,
    FileCounts,
    Measure,
    Report,
    _leak_figures,
    _missing,
    _stand_ins,
    characters,
    check_files,
    check_key_bias,
    key_bias,
    percentile,
    warnings,
)
from gaokao.checks import Outcome, Result
from gaokao.config import BUILTIN_TINY, Config
from gaokao.errors import UserError, elsewhere, run_script
from gaokao.prompts import format_chat
from gaokao.records import SUBJECTS, TYPES, Record
from gaokao.settings import DEFAULT_CONFIG, Resolved, load_config
from gaokao.text import (
    DUPLICATE_THRESHOLD,
    LEAK_BOUND,
    Pair,
    columns,
)

EVIDENCE_SHOWN = 160


# --- lengths --------------------------------------------------------------------------------------------------------


def choose_measure(wanted: str, resolved: Resolved | None) -> Measure:
    """Tokens where a tokenizer is at hand, else characters, with the reason.

    Args:
        wanted: `auto`, `none` (characters), or a tokenizer's folder.
        resolved: the configuration that names the base model; `None` where there is none.

    Raises:
        UserError: a folder was asked for by name and holds no usable tokenizer.
    """
    if wanted == "none":
        return Measure("characters", "--tokens none", characters)
    if wanted != "auto":
        if not os.path.exists(Path(wanted) / "tokenizer.json"):
            raise UserError(f"--tokens {wanted}: holds no tokenizer.json; name a Transformers folder, auto or none")
        return _by_tokens(Path(wanted))
    if resolved is None:
        return Measure("characters", f"there is no {DEFAULT_CONFIG} here{elsewhere(DEFAULT_CONFIG)}", characters)
    model = resolved.config.model
    folder = find_tokenizer(model.base, model.revision, Path(resolved.config.output.dir))
    if folder is None:
        return Measure("characters", f"the tokenizer of {model.base} is not on this machine yet", characters)
    try:
        return _by_tokens(folder)
    except UserError as error:
        return Measure("characters", str(error), characters)


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


def _by_tokens(folder: Path) -> Measure:
    # The class that the training uses: others read the same folder with a slightly different pre-tokenizer. It brings
    # torch along, which is why nothing else here does.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the tokenizer in {folder} cannot be read ({reason})") from None
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {folder} has no chat template; use that of an Instruct model")

    def length(record: Record) -> int:
        example = format_chat(record)
        messages = [*example["prompt"], *example["completion"]]
        return len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])

    return Measure("tokens", f"tokenizer of {folder}", length)


# --- what is counted ------------------------------------------------------------------------------------------------


# --- near-duplicates ------------------------------------------------------------------------------------------------


# --- keys -----------------------------------------------------------------------------------------------------------


# --- the text -------------------------------------------------------------------------------------------------------


def report_text(report: Report) -> str:
    """The whole report for a reader; faults come first."""
    sections = [
        _faults_text(report),
        _records_text(report),
        _lengths_text(report),
        _checks_text(report),
        _duplicates_text(report),
        _keys_text(report),
        _passages_text(report),
        _result_text(report),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections)


def _faults_text(report: Report) -> list[str]:
    lines = [f"unreadable  {file.unreadable}" for file in report.files if file.unreadable]
    lines += [f"            {file.records} records before it were checked" for file in report.files if _partly(file)]
    if not report.faults.count:
        return [*lines, "faults    none"]
    lines.append(f"faults    {report.faults.count} in the records; they train only when all are mended:")
    lines += [f"  - {fault}" for fault in report.faults.entries]
    return lines + _rest(report.faults)


def _partly(file: FileCounts) -> bool:
    return bool(file.unreadable and file.records)


def _records_text(report: Report) -> list[str]:
    total = report.total
    lines = [f"records   {total.records:,}, by subject and type"]
    lines += [f"          {file.records:,} in {file.name}" for file in report.files if len(report.files) > 1]
    lines.append(" " * 10 + "".join(_left(kind, 8) for kind in (*TYPES, "all")))
    for subject in (*SUBJECTS, "all"):
        cells = [
            sum(count for (a, b), count in total.kinds.items() if subject in (a, "all") and kind in (b, "all"))
            for kind in (*TYPES, "all")
        ]
        if cells[-1]:
            lines.append("  " + _right(subject, 8) + "".join(_left(f"{cell:,}" if cell else "-", 8) for cell in cells))
    return lines


def _lengths_text(report: Report) -> list[str]:
    unit, limit = report.measure.unit, report.max_length
    lines = [f"lengths   {unit} of a training example, prompt and answer ({report.measure.reason})"]
    if unit == "characters":
        lines.append("          train.max_length is in tokens; one of Qwen2.5 is about 1.5 characters of such a record")
    names = [f"{share:.0%}" for share in PERCENTILES]
    lines.append("  " + "".join(_left(name, 8) for name in ("least", *names, "most")) + f"  over {limit}")
    for file in report.rows:
        ordered = sorted(file.lengths)
        cells = [percentile(ordered, share) for share in (0, *PERCENTILES, 1)]
        over = _left(f"{file.over:,}", len(f"over {limit}") + 2)
        lines.append("  " + "".join(_left(f"{cell:,}", 8) for cell in cells) + f"{over}  {file.name}")
    lines += [
        f"  over {limit}: {entry['where']} (id {entry['id']}): {entry['length']:,}" for entry in report.over.entries
    ]
    return lines + _rest(report.over)


def _checks_text(report: Report) -> list[str]:
    records = report.total.records
    unusable = f"; {report.unusable:,} are unusable" if report.unusable else ""
    lines = [f"checks    {records - report.unusable:,} of {records:,} records pass every hard check{unusable}"]
    for counts in _ranked(report):
        rank = "hard" if counts.hard else "soft"
        lines.append(
            f"  {rank}  {counts.name}: {counts.failures.count:,} of {counts.applied:,} that it applies to fail"
        )
        for entry in counts.failures.entries:
            lines.append(f"        {entry['where']} (id {entry['id']}): {_short(entry['evidence'], report)}")
        lines += _rest(counts.failures, "      ")
    passed = [counts.name for counts in report.checks.values() if not counts.failures.count]
    return [*lines, f"  nothing found by: {', '.join(passed)}"] if passed else lines


def _ranked(report: Report) -> list[CheckCounts]:
    """The checks that found something, by how many records fail."""
    found = [counts for counts in report.checks.values() if counts.failures.count]
    return sorted(found, key=lambda counts: -counts.failures.count)


def _duplicates_text(report: Report) -> list[str]:
    pairs, left_out = report.duplicates
    across = sum(map(report.across, pairs))
    lines = [
        f"alike     {len(pairs) - across:,} near-duplicate pairs within a file, {across:,} across files "
        f"(5-gram Jaccard of the questions at least {DUPLICATE_THRESHOLD})"
    ]
    lines += [f"          {left_out}"] if left_out else []
    shown = Capped[Pair](report.keep)
    # A pair across files means that the test measures memory: it comes first.
    for pair in sorted(pairs, key=lambda pair: (not report.across(pair), -pair.similarity)):
        shown.add(pair)
    for pair in shown.entries:
        (where, identity), (other_where, other) = report.places[pair.first], report.places[pair.second]
        lines.append(f"  {pair.similarity:.2f}  {where} (id {identity}) and {other_where} (id {other})")
    lines += _rest(shown)
    if report.shared_ids.count:
        lines.append(f"ids       {report.shared_ids.count:,} stand in two files; read together they would be faults:")
        lines += [f"  {entry['id']}: {' and '.join(entry['where'])}" for entry in report.shared_ids.entries]
        lines += _rest(report.shared_ids)
    return lines


def _keys_text(report: Report) -> list[str]:
    lines = [
        "keys      single-answer choice items: how often each letter is the key, and the key strictly the longest option",
        "  " + "".join(_left(name, 8) for name in ("items", *"ABCD")) + "   longest",
    ]
    for file in report.rows:
        count, shares, longest = key_bias(_stand_ins(file.keys))
        cells = [f"{count:,}", *(f"{shares[letter]:.3f}" for letter in "ABCD")]
        verdict = _key_verdict(check_key_bias(_stand_ins(file.keys)))
        lines.append("  " + "".join(_left(cell, 8) for cell in cells) + f"{longest:10.3f}  {file.name}: {verdict}")
    return lines


def _key_verdict(result: Result) -> str:
    if result.outcome is Outcome.NOT_APPLICABLE:
        return f"too few to judge (under {BIAS_LEAST})"
    return f"biased: {result.evidence}" if result.outcome is Outcome.FAIL else "no more than chance explains"


def _passages_text(report: Report) -> list[str]:
    lines = [
        "passages  share of the answer's 8-grams that a passage contains, 0 to 1",
        "  " + " " * 8 + "".join(_left(name, 9) for name in ("measured", "empty", "above 0", "median", "95%", "most")),
    ]
    for file in report.rows:
        for name in PASSAGES:
            figures = _leak_figures(file, name)
            cells = [f"{figures['measured']:,}", f"{figures['empty']:,}", f"{figures['above_0']:.1%}"]
            cells += [f"{figures[key]:.3f}" for key in ("median", "p95", "most")]
            lines.append(f"  {_right(name, 8)}" + "".join(_left(cell, 9) for cell in cells) + f"  {file.name}")
    lines.append(
        f"  {report.leaking.count:,} records leak: their passages together contain more than {LEAK_BOUND:.0%} of the answer"
        + (f"; {report.marked:,} more are marked leaks: true" if report.marked else "")
    )
    lines += [
        f"  leaks: {entry['where']} (id {entry['id']}): {entry['share']:.0%} of the answer"
        for entry in report.leaking.entries
    ]
    return lines + _rest(report.leaking)


def _result_text(report: Report) -> list[str]:
    unreadable = sum(bool(file.unreadable) for file in report.files)
    parts = [f"{unreadable} file(s) cannot be read"] if unreadable else []
    parts.append(f"{report.faults.count:,} faults" if report.faults.count else "no faults")
    parts.append("warnings: " + ", ".join(warnings(report)) if warnings(report) else "no warnings")
    return [f"result    {'; '.join(parts)}"]


def _rest(capped: Capped[Any], indent: str = "") -> list[str]:
    rest = capped.count - len(capped.entries)
    return [f"{indent}  … and {rest:,} more (--verbose lists all)"] if rest else []


def _short(text: str, report: Report) -> str:
    return text if report.keep is None or len(text) <= EVIDENCE_SHOWN else text[:EVIDENCE_SHOWN] + "…"


def _left(text: str, width: int) -> str:
    return " " * (width - columns(text)) + text


def _right(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


# --- for machines ---------------------------------------------------------------------------------------------------


def report_json(report: Report) -> dict[str, Any]:
    """The whole report as plain values; shares are 0 to 1, lengths in `lengths.unit`."""
    pairs, left_out = report.duplicates
    return {
        "exit_code": report.exit_code,
        "faults": {"count": report.faults.count, "entries": report.faults.entries},
        "warnings": warnings(report),
        "files": [_file_json(file) for file in report.files],
        "all": _file_json(report.total),
        "lengths": {
            "unit": report.measure.unit,
            "reason": report.measure.reason,
            "max_length": report.max_length,
            "over": report.over.entries,
        },
        "usable": report.total.records - report.unusable,
        "checks": [
            {
                "name": counts.name,
                "hard": counts.hard,
                "applied": counts.applied,
                "failed": counts.failures.count,
                "failures": counts.failures.entries,
            }
            for counts in report.checks.values()
        ],
        "near_duplicates": {
            "threshold": DUPLICATE_THRESHOLD,
            "left_out": left_out,
            "pairs": [_pair_json(report, pair) for pair in pairs],
        },
        "shared_ids": report.shared_ids.entries,
        "leaks": {"bound": LEAK_BOUND, "marked": report.marked, "entries": report.leaking.entries},
    }


def _file_json(file: FileCounts) -> dict[str, Any]:
    ordered = sorted(file.lengths)
    bias = check_key_bias(_stand_ins(file.keys))
    count, shares, longest = key_bias(_stand_ins(file.keys))
    kinds: dict[str, dict[str, int]] = {}
    for (subject, kind), number in sorted(file.kinds.items()):
        kinds.setdefault(subject, {})[kind] = number
    return {
        "file": file.name,
        "unreadable": file.unreadable,
        "records": file.records,
        "faults": file.faults,
        "subjects": kinds,
        "lengths": {
            "least": percentile(ordered, 0),
            **{f"p{share * 100:.0f}": percentile(ordered, share) for share in PERCENTILES},
            "most": percentile(ordered, 1),
            "over": file.over,
        },
        "keys": {
            "items": count,
            "shares": shares,
            "longest": longest,
            "outcome": bias.outcome.value,
            "evidence": bias.evidence,
        },
        "passages": {name: _leak_figures(file, name) for name in PASSAGES},
    }


def _pair_json(report: Report, pair: Pair) -> dict[str, Any]:
    ends = [dict(zip(("where", "id"), report.places[number], strict=True)) for number in (pair.first, pair.second)]
    return {
        "first": ends[0],
        "second": ends[1],
        "similarity": round(pair.similarity, 4),
        "across": report.across(pair),
    }


# --- for the training script ----------------------------------------------------------------------------------------


# --- the command ----------------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gaokao_data.check", description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    add: Callable[..., Any] = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="data file; several are also compared with each other")
    add("--json", action="store_true", help="print one JSON object with every finding, and nothing else")
    add("--verbose", action="store_true", help="list every finding instead of the first few")
    add("--config", metavar="FILE", type=Path, help=f"names base model and train.max_length; default: {DEFAULT_CONFIG}")
    add("--tokens", metavar="auto|none|DIR", default="auto", help="tokenizer of the configuration, none, or a folder's")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Check the files, print the report, exit with its code."""
    chosen = parse_arguments(arguments)
    resolved = None
    if chosen.config or DEFAULT_CONFIG.exists():
        resolved = load_config(["--config", str(chosen.config or DEFAULT_CONFIG)], "python -m gaokao_data.check")
    config = resolved.config if resolved else Config()
    names = list(dict.fromkeys(chosen.files))
    # A wrong name should be answered before a tokenizer is loaded.
    if all(missing := [_missing(name) for name in names]):
        raise UserError("\n".join(missing))
    measure = choose_measure(chosen.tokens, resolved)
    keep = None if chosen.verbose or chosen.json else FINDINGS_SHOWN
    report = check_files(names, measure, config.train.max_length, keep)
    print(json.dumps(report_json(report), ensure_ascii=False) if chosen.json else report_text(report))
    sys.exit(report.exit_code)


if __name__ == "__main__":
    run_script(main)
