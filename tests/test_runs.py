"""One process at a time owns a results folder, and files appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from gaokao import runs
from gaokao.errors import UserError

HOLD = "import sys, time; from pathlib import Path; from gaokao.runs import lock\nwith lock(Path(sys.argv[1]), 'train_qwen_gaokao.py'): print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused, runs.lock(folder, "infer_qwen_gaokao.py"):
            pass
        assert f"train_qwen_gaokao.py (process {holder.pid} on " in str(refused.value)
        assert "or choose another folder" in str(refused.value)
        # A killed process holds nothing.
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
        with runs.lock(folder, "infer_qwen_gaokao.py"):
            pass
    finally:
        holder.kill()
        holder.wait(timeout=30)
        if holder.stdout:
            holder.stdout.close()


def test_a_disk_that_knows_no_locks_is_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: Any, *_: Any, **__: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("gaokao.runs.FileLock.acquire", acquire)
    with (
        pytest.raises(UserError, match=r"\.out\.lock: cannot be locked \(No locks available\); choose another folder"),
        runs.lock(tmp_path / "out", "a command"),
    ):
        pass


def test_the_lock_holds_while_the_folder_is_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    with runs.lock(folder, "first"):
        runs.set_aside(folder)
        folder.mkdir()
        with pytest.raises(UserError, match=f"in use by first .process {os.getpid()} on"), runs.lock(folder, "second"):
            pass
    with runs.lock(folder, "third"):
        pass


def test_folders_set_aside_in_the_same_second_get_names_of_their_own(tmp_path: Path) -> None:
    moved = []
    for number in range(4):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "x").write_text(str(number), encoding="utf-8")
        os.utime(folder, (1_700_000_000, 1_700_000_000))
        moved.append(runs.set_aside(folder))
    assert len(set(moved)) == 4
    assert [path.joinpath("x").read_text(encoding="utf-8") for path in moved if path] == ["0", "1", "2", "3"]


def test_a_folder_with_nothing_but_what_does_not_count_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert runs.set_aside(folder) is None
    folder.mkdir()
    (folder / ".generated.lock").touch()
    assert runs.set_aside(folder) is None and folder.is_dir()
    (folder / "generated_base").mkdir()
    assert runs.set_aside(folder) is not None
    assert not folder.exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    runs.write_json(file, {"a": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # What a kill between writing and renaming leaves.
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.write_json(file, {"a": 2})
    assert file.read_text(encoding="utf-8") == '{\n  "a": 1\n}\n'


def test_a_full_disk_names_the_file_keeps_the_old_one_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    runs.write_json(file, {"a": 1})

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        runs.write_json(file, {"a": 2})
    assert caught.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and '"a": 1' in file.read_text(encoding="utf-8")
    # The note for others about who holds the folder is not worth a run.
    with runs.lock(tmp_path / "out", "this"):
        pass


def test_processes_try_a_folder_at_the_same_moment_without_a_race(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from gaokao.runs import make_folder\n"
        "for number in range(300): make_folder(Path(sys.argv[1]))"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "out"], cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=120) for process in started] == [0] * 3
    assert list((tmp_path / "out").iterdir()) == []


def test_processes_that_start_together_end_in_one_owner_and_messages(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from gaokao.errors import UserError\n"
        "from gaokao.runs import lock, make_folder, set_aside, write_json\n"
        "for number in range(30):\n"
        "    folder = Path(sys.argv[1]) / 'run'\n"
        "    try:\n"
        "        with lock(folder, 'x'):\n"
        "            set_aside(folder); make_folder(folder); write_json(folder / 'run.json', number)\n"
        "    except UserError as error: assert 'is in use by' in str(error), error\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=ROOT) for _ in range(6)]
    assert [process.wait(timeout=120) for process in started] == [0] * 6
    assert (tmp_path / "run" / "run.json").exists()
