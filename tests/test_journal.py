"""A journal holds each finished row as a whole line, whatever ends the process, and belongs to one process at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from gaokao.errors import UserError
from gaokao.runs import Journal

ADD_FOREVER = """
import sys
from pathlib import Path
from gaokao.runs import Journal
journal = Journal(Path(sys.argv[1]))
number = len(journal.rows)
while True:
    number += 1
    journal.add({"number": number, "text": "光合作用" * 5000})
    print(number, flush=True)
"""
FILL = """
import resource, sys
from pathlib import Path
from gaokao.errors import UserError
from gaokao.runs import Journal
with Journal(Path(sys.argv[1])) as journal:
    journal.add({"text": "甲"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
    try:
        journal.add({"text": "乙" * 100})
    except UserError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.add({"text": "丙"})
"""


def python(code: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def test_each_row_is_a_whole_line_on_the_disk_when_it_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    synced = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        # What the system has been given by now.
        synced.append(path.read_text(encoding="utf-8"))

    monkeypatch.setattr(os, "fsync", spy)
    with Journal(path) as journal:
        journal.add({"id": "甲\u2028"})
        journal.add({"id": "乙"})
    assert synced == ['{"id": "甲\u2028"}\n', '{"id": "甲\u2028"}\n{"id": "乙"}\n']


def test_rows_are_read_back_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        assert journal.rows == []
        journal.add({"id": "甲\u2028\r\n", "n": 1})
    with Journal(path) as journal:
        assert journal.rows == [{"id": "甲\u2028\r\n", "n": 1}]
        journal.add({"id": "乙"})
        assert len(journal.rows) == 2
    with Journal(path) as journal:
        assert [row["id"] for row in journal.rows] == ["甲\u2028\r\n", "乙"] and journal.damaged == []


def test_a_torn_last_line_is_cut_off_and_damaged_lines_are_named_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    whole = b'{"id": 1}\n\x00\xff nonsense\n[1]\n\n' + b"[" * 100_000 + b'\n{"id": 6}\n'
    path.write_bytes(whole + '{"id": "光'.encode()[:-1])
    with Journal(path) as journal:
        assert journal.rows == [{"id": 1}, {"id": 6}]
        assert journal.damaged == [2, 3, 4, 5]
        journal.add({"id": 7})
    assert path.read_bytes() == whole + b'{"id": 7}\n'


def test_a_file_of_nothing_but_half_a_line_holds_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"id": 1}')
    with Journal(path) as journal:
        assert (journal.rows, journal.damaged) == ([], [])
    assert not path.exists()


def test_a_killed_process_leaves_its_rows_and_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with python(ADD_FOREVER, path) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(5)]
        with pytest.raises(UserError, match=r"j\.jsonl: another process is writing to it; wait for it or stop it"):
            Journal(path)
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    with Journal(path) as journal:
        numbers = [row["number"] for row in journal.rows]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= len(said) >= 5
        assert journal.damaged == []


def test_who_is_refused_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add({"id": 1})
        with path.open("ab") as torn:
            torn.write(b'{"id"')
        for _ in range(2):
            with pytest.raises(UserError, match="another process"):
                Journal(path)
        assert path.read_bytes() == b'{"id": 1}\n{"id"'


def test_a_journal_that_was_removed_between_opening_and_locking_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j.jsonl"
    lock = Journal._lock

    def then_lock(journal: Journal) -> None:
        path.unlink()
        lock(journal)

    monkeypatch.setattr(Journal, "_lock", then_lock)
    with pytest.raises(UserError, match="another process"):
        Journal(path)


def test_a_discarded_or_empty_journal_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        assert path.exists()
    assert not path.exists()
    with Journal(path) as journal:
        journal.add({"id": 1})
        journal.discard()
        assert journal.rows == []
    assert not path.exists()
    with Journal(path) as journal:
        journal.add({"id": 1})
        journal.discard()
        journal.add({"id": 2})
        journal.close()
        journal.close()
    assert path.read_bytes() == b'{"id": 2}\n'


def test_a_full_disk_is_told_and_leaves_no_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with python(FILL, path) as process:
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert said.startswith(f"{path}: cannot be written to (File too large); make room on that disk")
    assert path.read_text(encoding="utf-8") == '{"text": "甲"}\n{"text": "丙"}\n'


def test_a_place_that_cannot_be_written_to_is_named_with_the_callers_remedy(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "j.jsonl"):
        with pytest.raises(UserError) as caught:
            Journal(path, "choose another --out")
        assert str(caught.value).startswith(f"{path}: cannot be written to (")
        assert str(caught.value).endswith("; choose another --out")
