"""A mistake is a message and a code; a bug keeps its traceback; a closed pipe is quiet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from gaokao.errors import Errors, elsewhere, first_line, shown


def run(body: str, close_stdout: bool = False, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `main` with this body through `run_script`, on request with a standard output that nobody reads any more."""
    code = (
        "import sys\nfrom gaokao.errors import Interrupted, UserError, run_script\n"
        f"def main(argv):\n    {body}\nrun_script(main)\n"
    )
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
            stdout=write if close_stdout else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(1)", 1, ""),
        ("raise UserError('the place')", 2, "error: the place\n"),
        ("raise Interrupted('what was kept')", 130, "\nstopped: what was kept\n"),
        ("raise KeyboardInterrupt", 130, "\nstopped by Ctrl-C\n"),
    ],
)
def test_each_way_to_end_has_its_code_and_its_words(body: str, code: int, said: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("body", ["print('x' * 100_000)", "print('x')", "print('x'); sys.exit(1)"])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(body: str, unbuffered: bool) -> None:
    done = run(body, close_stdout=True, unbuffered=unbuffered)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_a_message_and_other_trouble_with_files_a_bug() -> None:
    full = run("from pathlib import Path; Path('/dev/full').write_text('x')")
    assert (full.returncode, full.stderr) == (
        2, "error: a file: cannot be written (No space left on device); make room, and run it again\n"
    )  # fmt: skip
    # As torch.save and safetensors say it, whose errors are no OSError.
    for text in (
        "[enforce fail] . unexpected pos 64 vs 0",
        "basic_ios::clear: iostream error",
        "No space left on device",
    ):
        library = run(f"raise RuntimeError('{text}')")
        assert library.returncode == 2 and f"cannot be written ({text}); make room" in library.stderr
    missing = run("open('/nowhere/at/all', 'w')")
    assert missing.returncode == 1 and "FileNotFoundError" in missing.stderr


def test_a_broken_connection_is_no_closed_pipe() -> None:
    done = run("raise BrokenPipeError('the server')")
    assert done.returncode == 1
    assert "BrokenPipeError: the server" in done.stderr


def test_where_to_start_is_said_of_what_lies_in_the_project_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"cd {ROOT}" in elsewhere("config.yaml")
    assert elsewhere("nowhere.yaml") == elsewhere(tmp_path / "config.yaml") == elsewhere("x" * 300) == ""
    (tmp_path / "config.yaml").touch()
    assert elsewhere("config.yaml") == ""


def test_all_errors_are_counted_and_the_first_ones_kept() -> None:
    errors = Errors[str](limit=3)
    errors.add("a", "b")
    assert errors.text("title:") == "title:\n  - a\n  - b"
    errors.add("c", "d", "e")
    errors.add("f")
    assert (errors.count, errors.entries, errors.rest) == (6, ["a", "b", "c"], 3)
    assert errors.text("title:").endswith("  - c\n  - and 3 more; fix these and run it again")
    everything = Errors[int](limit=None)
    everything.add(*range(1000))
    assert (everything.count, len(everything.entries), everything.rest) == (1000, 1000, 0)


def test_values_and_errors_are_shown_in_short_words() -> None:
    assert shown({"题": [1, None]}) == '{"题": [1, null]}'
    assert shown("甲" * 40) == '"' + "甲" * 39 + "…"
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert first_line(ValueError("x" * 300)) == "x" * 200
