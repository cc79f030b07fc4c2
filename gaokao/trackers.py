"""Where else the curves of a training go: whether a tracker is there and logged in, where it writes, its start.

transformers reports the losses, the learning rate, tokens a second and memory to it; what is set here is that a tracker
that cannot be used is found before anything is loaded, and that one on this machine keeps its files beside the runs.
"""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from gaokao.config import NO_TRACKER
from gaokao.errors import UserError, first_line

PROJECT = "gaokao"
# Tested with these.
PACKAGES = {
    "tensorboard": "tensorboard==2.21.0",
    "wandb": "wandb==0.31.0",
    "swanlab": "swanlab==0.10.3",
    "mlflow": "mlflow==3.17.2",
    "trackio": "trackio==0.43.0",
}
LOGIN = {
    "wandb": "log in once with `wandb login`, or set the variable WANDB_API_KEY; WANDB_MODE=offline keeps the curves on this "
    "machine",
    "swanlab": "log in once with `swanlab login`, or set the variable SWANLAB_API_KEY; SWANLAB_MODE=offline keeps the curves "
    "on this machine",
}


def prepare(tracker: str, run: Path) -> None:
    """Make sure that a tracker can be used; nothing is sent.

    Args:
        tracker: `train.report_to`.
        run: folder of the run; what a tracker writes goes into it, or beside it where one file is of all runs.

    Raises:
        UserError: its package is not installed, or nobody is logged in.
    """
    if tracker == NO_TRACKER:
        return
    found = importlib.util.find_spec(tracker)
    # Trackers name their folders after themselves, and any folder of that name looks like a package.
    if found is None or found.origin is None:
        raise UserError(
            f"train.report_to = {tracker}: it is not installed: pip install {PACKAGES[tracker]} (or set it to {NO_TRACKER})"
        )
    for name, value in _variables(run).items():
        os.environ.setdefault(name, value)
    if tracker in LOGIN and not _logged_in(tracker):
        raise UserError(
            f"train.report_to = {tracker}: nobody is logged in; {LOGIN[tracker]}. Or set it to {NO_TRACKER}"
        )


def _variables(run: Path) -> dict[str, str]:
    """Where trackers write, and that they send nothing about themselves; what the user has set stays."""
    runs = Path(os.path.abspath(run.parent))
    return {
        "TENSORBOARD_LOGGING_DIR": str(runs / run.name / "tensorboard"),
        "WANDB_DIR": str(runs),
        "WANDB_PROJECT": PROJECT,
        "WANDB_ERROR_REPORTING": "false",
        "SWANLAB_LOG_DIR": str(runs / "swanlog"),
        "SWANLAB_INTERACTIVE": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{(runs / 'mlflow.db').as_posix()}",
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(runs / "trackio"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


def _logged_in(tracker: str) -> bool:
    """Whether a key is there, without asking for one; also where the curves stay on this machine.

    Raises:
        UserError: what is set does not have the form of a key, or another setting is wrong.
    """
    package: Any = importlib.import_module(tracker)
    try:
        if tracker == "wandb":
            return package.setup().settings.mode != "online" or bool(package.login(prompt=False, verify=False))
        settings = package.Settings()
        return settings.mode != "online" or bool(settings.api_key)
    # Of types of their own, which other versions name otherwise.
    except Exception as error:
        raise UserError(f"train.report_to = {tracker}: {first_line(error)}; {LOGIN[tracker]}") from error


def start(tracker: str, run_name: str) -> None:
    """Begin a run of a tracker that may be on another machine; transformers goes on with it.

    Raises:
        UserError: it does not answer, or refuses the key.
    """
    if tracker not in ("wandb", "swanlab", "mlflow"):
        return
    package: Any = importlib.import_module(tracker)
    try:
        if tracker == "wandb":
            package.init(project=os.environ["WANDB_PROJECT"], name=run_name)
        elif tracker == "swanlab":
            package.init(project=os.environ.get("SWANLAB_PROJ_NAME", PROJECT), name=run_name)
        else:
            package.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
            package.start_run(run_name=run_name)
    except Exception as error:
        remedy = LOGIN.get(tracker, "check the variable MLFLOW_TRACKING_URI")
        raise UserError(
            f"train.report_to = {tracker}: it could not be started ({first_line(error)}); {remedy}. Or set it to {NO_TRACKER}; "
            "no step was trained"
        ) from error
