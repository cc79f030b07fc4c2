"""One process at a time owns a results folder, and files appear whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file

from gaokao import runs
from gaokao.config import Config
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
        assert "--output.run NAME" in str(refused.value)
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
    (folder / "generated_base").mkdir(parents=True)
    assert runs.set_aside(folder, unless_only=("generated_base",)) is None
    assert (folder / "generated_base").is_dir()
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


def asked(**changes: Any) -> dict[str, Any]:
    """The record of a command, as `new_record` makes it; changes by section, `train={"seed": 7}`."""
    config = Config().model_dump()
    for section, values in changes.items():
        config[section] |= values
    return runs.new_record(config, {"processes": 1, "data.train": "a"}, more=(1, 2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a whole checkpoint, as the Trainer writes them."""
    folder = tmp_path_factory.mktemp("checkpoint") / "checkpoint-4"
    folder.mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("x", "y")
    save_file({"w": np.zeros(2)}, folder / "adapter_model.safetensors")
    (folder / "trainer_state.json").write_text('{"global_step": 4}', encoding="utf-8")
    return folder


def left(folder: Path, checkpoint: Path | None, **record: Any) -> Path:
    """A run that an earlier command left."""
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    if checkpoint:
        shutil.copytree(checkpoint, run / "checkpoints" / checkpoint.name)
    (run / "adapter").mkdir()
    runs.write_json(run / "run.json", asked() | {"steps": 4} | record)
    return run


def test_a_new_run_starts_new_and_true_needs_one_to_go_on_with(tmp_path: Path) -> None:
    for resume in ("auto", False):
        assert runs.plan_start(tmp_path / "run", resume, asked()) == runs.Start()
    with pytest.raises(UserError, match="holds no run to go on with"):
        runs.plan_start(tmp_path / "run", True, asked())


@pytest.mark.parametrize("resume", ["auto", True])
def test_an_interrupted_run_goes_on_from_its_newest_whole_checkpoint(
    tmp_path: Path, checkpoint: Path, resume: bool | str
) -> None:
    run = left(tmp_path, checkpoint, spans=[{"a": 1}])
    half = run / "checkpoints" / "checkpoint-9"
    half.mkdir()
    start = runs.plan_start(run, resume, asked())
    assert start.checkpoint == run / "checkpoints" / "checkpoint-4"
    assert (start.finished, start.spans, start.broken) == (False, ({"a": 1},), (half,))
    assert f"{half} is passed over: optimizer.pt is missing" in start.text
    # What may change, may change.
    free = {key.split(".")[1]: 1 for key in runs.FREE_KEYS if key != "train.resume"}
    assert runs.plan_start(run, resume, asked(train=free)).checkpoint == start.checkpoint
    assert runs.plan_start(run, False, asked()) == runs.Start()
    said = runs.open_run(run, asked(), start)
    assert not half.exists() and "moved" not in said


@pytest.mark.parametrize("key", sorted(f"{s}.{k}" for s in ("lora", "train") for k in Config().model_dump()[s]))
def test_every_key_that_decides_the_weights_is_compared_by_name(tmp_path: Path, checkpoint: Path, key: str) -> None:
    run = left(tmp_path, checkpoint)
    section, name = key.split(".")
    other = asked(**{section: {name: "other"}})
    if key in runs.FREE_KEYS:
        assert runs.plan_start(run, "auto", other).checkpoint
    else:
        with pytest.raises(UserError, match=f"{key} was .*, is 'other'"):
            runs.plan_start(run, "auto", other)


def test_another_number_of_processes_or_data_is_refused_by_name(tmp_path: Path, checkpoint: Path) -> None:
    run = left(tmp_path, checkpoint)
    other = asked()
    other["decisive"] |= {"processes": 2, "data.train": "b"}
    with pytest.raises(UserError) as error:
        runs.plan_start(run, "auto", other)
    assert "processes was 1, is 2" in str(error.value) and "data.train was 'a', is 'b'" in str(error.value)


def test_a_finished_run_is_left_alone_trained_further_or_replaced(tmp_path: Path, checkpoint: Path) -> None:
    run = left(tmp_path, checkpoint, status="finished")
    for resume in ("auto", True):
        start = runs.plan_start(run, resume, asked())
        assert start.finished and "nothing to train" in start.text
    further = runs.plan_start(run, "auto", asked(train={"num_train_epochs": 9}))
    assert (further.finished, further.steps) == (False, None) and further.checkpoint
    # Another step to keep, or an adapter that is gone: it is written again, and nothing is trained.
    assert runs.plan_start(run, "auto", asked(train={"keep": "last"})).steps == 4
    (run / "adapter").rmdir()
    assert runs.plan_start(run, "auto", asked()).steps == 4
    # Other settings make another run; nothing of a finished one is lost by that.
    assert runs.plan_start(run, "auto", asked(lora={"r": 5})) == runs.Start()
    with pytest.raises(UserError, match="the finished run in .* is another one"):
        runs.plan_start(run, True, asked(lora={"r": 5}))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"decisive": 3}', "[" * 100_000])
def test_a_record_that_is_damaged_or_of_an_older_version_starts_a_new_run(
    tmp_path: Path, checkpoint: Path, text: str
) -> None:
    run = left(tmp_path, checkpoint)
    (run / "run.json").write_text(text, encoding="utf-8")
    assert runs.plan_start(run, "auto", asked()) == runs.Start()


def test_an_unfinished_run_without_a_whole_checkpoint_starts_new_and_says_what_is_broken(tmp_path: Path) -> None:
    run = left(tmp_path, None)
    (run / "checkpoints" / "checkpoint-2").mkdir()
    start = runs.plan_start(run, "auto", asked(lora={"r": 5}))
    assert start.checkpoint is None and "checkpoint-2 is passed over" in start.text
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        runs.plan_start(run, True, asked())
    assert "the earlier run was moved to" in runs.open_run(run, asked(), start)


def test_a_folder_that_the_trainer_has_just_made_is_no_earlier_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    assert runs.open_run(run, asked(), runs.Start()) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    # Questions of the bare base do not depend on a training.
    other = tmp_path / "other"
    (other / "generated_base").mkdir(parents=True)
    assert "moved" not in runs.open_run(other, asked(), runs.Start())
    assert (other / "generated_base").is_dir()
