"""A training goes on exactly where it stopped, starts new, or is left alone; never something else."""

import shutil
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gaokao import resume, runs
from gaokao.adapters import AdapterRecord
from gaokao.chats import Mixed
from gaokao.config import Config
from gaokao.errors import UserError
from gaokao.records import Record
from gaokao.settings import Resolved
from gaokao.splits import Fitted, Material


def asked(**changes: Any) -> dict[str, Any]:
    """The record of a command, as `new_record` makes it; changes by section, `train={"seed": 7}`."""
    plain = Config()
    sections = {name: getattr(plain, name).model_copy(update=values) for name, values in changes.items()}
    resolved = Resolved(plain.model_copy(update=sections), {}, 0, Namespace())
    record = Record("r", "生物", "单选题", "课文", "", "题", ("A",), "析")
    material = Material([record], [], Mixed(), ([], []), Fitted([record], [9], []), "a" * 64)
    adapter = AdapterRecord("b", "b", "nf4", "c")
    choice = SimpleNamespace(value="fp32", _asdict=dict)
    base: Any = SimpleNamespace(quantization="nf4", dtype=choice, attention=choice)
    return resume.new_record(resolved, base, adapter, material, 1)


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
    for wanted in ("auto", False):
        assert resume.plan_start(tmp_path / "run", wanted, asked()) == resume.Start()
    with pytest.raises(UserError, match="holds no run to go on with"):
        resume.plan_start(tmp_path / "run", True, asked())


@pytest.mark.parametrize("wanted", ["auto", True])
def test_an_interrupted_run_goes_on_from_its_newest_whole_checkpoint(
    tmp_path: Path, checkpoint: Path, wanted: bool | str
) -> None:
    run = left(tmp_path, checkpoint, spans=[{"a": 1}])
    half = run / "checkpoints" / "checkpoint-9"
    half.mkdir()
    start = resume.plan_start(run, wanted, asked())
    assert start.checkpoint == run / "checkpoints" / "checkpoint-4"
    assert (start.finished, start.spans, start.broken) == (False, ({"a": 1},), (half,))
    assert f"{half} is passed over: optimizer.pt is missing" in start.text
    # What may change, may change.
    free = {key.split(".")[1]: 1 for key in resume.FREE_KEYS if key != "train.resume"}
    assert resume.plan_start(run, wanted, asked(train=free)).checkpoint == start.checkpoint
    assert resume.plan_start(run, False, asked()) == resume.Start()
    said = resume.open_run(run, asked(), start)
    assert not half.exists() and "moved" not in said


@pytest.mark.parametrize("key", sorted(f"{s}.{k}" for s in ("lora", "train") for k in Config().model_dump()[s]))
def test_every_key_that_decides_the_weights_is_compared_by_name(tmp_path: Path, checkpoint: Path, key: str) -> None:
    run = left(tmp_path, checkpoint)
    section, name = key.split(".")
    other = asked(**{section: {name: "other"}})
    if key in resume.FREE_KEYS:
        assert resume.plan_start(run, "auto", other).checkpoint
    else:
        with pytest.raises(UserError, match=f"{key} was .*, is 'other'"):
            resume.plan_start(run, "auto", other)


def test_another_number_of_processes_or_data_is_refused_by_name(tmp_path: Path, checkpoint: Path) -> None:
    run = left(tmp_path, checkpoint)
    other = asked()
    other["decisive"] |= {"processes": 2, "data.train": "b"}
    with pytest.raises(UserError) as error:
        resume.plan_start(run, "auto", other)
    assert "processes was 1, is 2" in str(error.value) and "data.train was 'aaaaaaaaaaaaaaaa', is 'b'" in str(
        error.value
    )


def test_a_finished_run_is_left_alone_trained_further_or_replaced(tmp_path: Path, checkpoint: Path) -> None:
    run = left(tmp_path, checkpoint, status="finished")
    for wanted in ("auto", True):
        start = resume.plan_start(run, wanted, asked())
        assert start.finished and "nothing to train" in start.text
    # Whoever needs the room removes the checkpoints.
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    start = resume.plan_start(run, "auto", asked())
    assert start.finished and start.checkpoint is None
    (tmp_path / "elsewhere").rename(run / "checkpoints")
    further = resume.plan_start(run, "auto", asked(train={"num_train_epochs": 9}))
    assert (further.finished, further.steps) == (False, None) and further.checkpoint
    # Another step to keep, or an adapter that is gone: it is written again, and nothing is trained.
    assert resume.plan_start(run, "auto", asked(train={"keep": "last"})).steps == 4
    (run / "adapter").rmdir()
    assert resume.plan_start(run, "auto", asked()).steps == 4
    # Other settings make another run; nothing of a finished one is lost by that.
    assert resume.plan_start(run, "auto", asked(lora={"r": 5})) == resume.Start()
    with pytest.raises(UserError, match="the finished run in .* is another one"):
        resume.plan_start(run, True, asked(lora={"r": 5}))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"decisive": 3}', "[" * 100_000])
def test_a_record_that_is_damaged_or_of_an_older_version_starts_a_new_run(
    tmp_path: Path, checkpoint: Path, text: str
) -> None:
    run = left(tmp_path, checkpoint)
    (run / "run.json").write_text(text, encoding="utf-8")
    assert resume.plan_start(run, "auto", asked()) == resume.Start()


def test_an_unfinished_run_without_a_whole_checkpoint_starts_new_and_says_what_is_broken(tmp_path: Path) -> None:
    run = left(tmp_path, None)
    (run / "checkpoints" / "checkpoint-2").mkdir()
    start = resume.plan_start(run, "auto", asked(lora={"r": 5}))
    assert start.checkpoint is None and "checkpoint-2 is passed over" in start.text
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        resume.plan_start(run, True, asked())
    assert "the earlier run was moved to" in resume.open_run(run, asked(), start)


def test_a_folder_that_the_trainer_has_just_made_is_no_earlier_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    assert resume.open_run(run, asked(), resume.Start()) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    # Questions of the bare base do not depend on a training.
    other = tmp_path / "other"
    (other / "generated_base").mkdir(parents=True)
    assert "moved" not in resume.open_run(other, asked(), resume.Start())
    assert (other / "generated_base").is_dir()
