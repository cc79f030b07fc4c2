"""A tracker that cannot be used is named before anything is loaded; one that can gets every curve, on this machine."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, record_row, run_script

from gaokao import trackers
from gaokao.errors import UserError

TRACKERS = list(trackers.PACKAGES)
LOCAL = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline"}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of whoever runs the tests, and nothing that stays behind."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "SWANLAB_", "MLFLOW_", "TRACKIO_", "TENSORBOARD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in trackers._variables(tmp_path):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def installed(name: str, monkeypatch: pytest.MonkeyPatch, **content: Any) -> None:
    """A package of that name with this content."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda found: SimpleNamespace(origin=f"{found}/__init__.py"))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))


def test_without_a_tracker_nothing_is_looked_for_and_nothing_is_set(tmp_path: Path) -> None:
    before = dict(os.environ)
    trackers.prepare("none", tmp_path)
    trackers.start("none", "run")
    assert dict(os.environ) == before


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [sys.meta_path[-1]])
    for name in [name for name in sys.modules if name.split(".")[0] == tracker]:
        monkeypatch.delitem(sys.modules, name)
    said = f"train.report_to = {tracker}: it is not installed: pip install {tracker}=="
    with pytest.raises(UserError, match=said):
        trackers.prepare(tracker, tmp_path)
    # What an earlier run may have left in the current folder is no package.
    (tmp_path / tracker).mkdir()
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=said):
        trackers.prepare(tracker, tmp_path)


@pytest.mark.parametrize(
    ("mode", "login", "api_key", "taken"),
    [("online", False, None, False), ("online", True, "k", True), ("offline", False, None, True)],
)
@pytest.mark.parametrize("tracker", ["wandb", "swanlab"])
def test_a_tracker_without_login_is_refused_unless_the_curves_stay_here(
    tracker: str, mode: str, login: bool, api_key: str | None, taken: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = SimpleNamespace(mode=mode, api_key=api_key)
    installed(
        tracker,
        monkeypatch,
        setup=lambda: SimpleNamespace(settings=settings),
        login=lambda prompt, verify: login and not prompt and not verify,
        Settings=lambda: settings,
    )
    if taken:
        trackers.prepare(tracker, tmp_path)
    else:
        with pytest.raises(UserError, match=f"nobody is logged in; log in once with `{tracker} login`.*MODE=offline"):
            trackers.prepare(tracker, tmp_path)


def test_a_key_of_the_wrong_form_and_a_server_that_refuses_are_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("API key must be 40 characters")

    installed("wandb", monkeypatch, setup=fail, init=fail)
    with pytest.raises(UserError, match="API key must be 40 characters.; log in once|characters; log in once"):
        trackers.prepare("wandb", tmp_path)
    with pytest.raises(UserError, match=r"could not be started \(API key must .* no step was trained"):
        trackers.start("wandb", "run")


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("mlflow", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    trackers.prepare("mlflow", tmp_path / "run")
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine"
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "trackio")


def test_the_versions_of_trackers_stand_in_the_requirements() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert all(package in text for package in trackers.PACKAGES.values())


def test_a_training_without_its_tracker_ends_before_anything_is_loaded(tmp_path: Path) -> None:
    missing = next((name for name in TRACKERS if importlib.util.find_spec(name) is None), None)
    if missing is None:
        pytest.skip("every tracker is installed")
    done = run_script("train_qwen_gaokao.py", f"--train.report_to={missing}", f"--output.dir={tmp_path / 'out'}")
    assert done.returncode == 2 and f"pip install {missing}==" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracker", ["wandb", "swanlab"])
def test_the_real_tracker_without_login_does_not_ask(tracker: str, tmp_path: Path) -> None:
    pytest.importorskip(tracker)
    out = f"--output.dir={tmp_path / 'out'}"
    done = run_script("train_qwen_gaokao.py", f"--train.report_to={tracker}", out)
    assert done.returncode == 2 and "nobody is logged in" in done.stderr


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_real_tracker_gets_every_curve_and_writes_beside_the_run(
    tracker: str, small_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip(tracker)
    rows = [record_row(number) for number in range(20)]
    (tmp_path / "data.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    out = tmp_path / "out"
    done = run_script(
        "train_qwen_gaokao.py", f"--model.base={small_base}", f"--data.train={tmp_path / 'data.json'}",
        f"--output.dir={out}", "--train.max_steps=3", "--train.max_length=256", "--lora.r=4", "--train.eval_steps=2",
        f"--train.report_to={tracker}", env=LOCAL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(out / "gaokao" / "tensorboard"))
        events.Reload()
        assert set(events.Tags()["scalars"]) >= {
            "train/loss", "eval/loss", "train/learning_rate", "train/train_tokens_per_second", "train/memory_gb",
        }  # fmt: skip
        assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    else:
        place = {"wandb": "wandb", "swanlab": "swanlog", "mlflow": "mlflow.db", "trackio": "trackio"}[tracker]
        assert (out / place).exists() and {path.name for path in tmp_path.iterdir()} <= {"out", "data.json", "home"}
