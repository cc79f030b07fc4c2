"""What happens between the steps of a training: progress, NaN, early stopping, checkpoints in time."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from transformers import ProgressCallback, TrainerCallback

from gaokao.errors import UserError

# A GradScaler starts at 2^16 and halves its scale at every overflow: after so many in a row the scale is not the reason.
OVERFLOWS_IN_A_ROW = 25


class Progress(ProgressCallback):
    """A progress bar with the latest losses, instead of a line per step."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, str] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the losses behind the bar."""
        for key, name in (("loss", "train loss"), ("eval_loss", "validation loss")):
            if key in (logs or {}):
                self.shown[name] = f"{float(logs[key]):.3f}"
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)


class StopOnNan(TrainerCallback):
    """Stop when the loss is not a number: the adapter is lost from that step on."""

    def __init__(self) -> None:
        self.overflows = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raise on a loss or validation loss that is NaN or infinite, and on such a gradient norm.

        With fp16 an infinite norm is how a GradScaler finds its scale: that step is skipped and nothing is lost, so
        only many in a row count.
        """
        logs = logs or {}
        for key in ("loss", "eval_loss"):
            if key in logs and not math.isfinite(logs[key]):
                self._stop(key, logs[key], args, state)
        if "grad_norm" in logs:
            finite = math.isfinite(logs["grad_norm"])
            self.overflows = 0 if finite else self.overflows + 1
            if self.overflows >= (OVERFLOWS_IN_A_ROW if args.fp16 else 1):
                self._stop("grad_norm", logs["grad_norm"], args, state)

    def _stop(self, key: str, value: float, args: Any, state: Any) -> None:
        # fp32 would double the 3 GB that a 14B keeps unquantized and the activations with it: 16 GB cannot hold that.
        narrow = (
            "; fp16 overflows easily: a GPU with bf16 (Ampere or newer) does not, and a 7B base fits 16 GB with "
            "model.dtype: fp32"
            if args.fp16
            else ""
        )
        raise UserError(
            f"{key} became {value} at step {state.global_step}: training stopped. Lower train.learning_rate (now "
            f"{args.learning_rate:g}) and start new with --train.resume false{narrow}. Earlier checkpoints are in "
            f"{args.output_dir}"
        )


class OnValidation(TrainerCallback):
    """Save a step with a lower validation loss than all before it, and stop when there was none for a while."""

    def __init__(self, keep_best: bool, patience: int | None) -> None:
        self.keep_best = keep_best
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Decide by the history, which a resumed run has as well."""
        if "eval_loss" not in metrics:
            # What was measured are the general chats, and they decide nothing.
            return
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        since = len(losses) - 1 - losses.index(min(losses))
        if self.keep_best and since == 0:
            control.should_save = True
        if self.patience is not None and since >= self.patience:
            control.should_training_stop = True
            control.should_save = True


class SaveInTime(TrainerCallback):
    """Save when `minutes` have passed or a signal asked to stop, on all processes at the same step.

    The first Ctrl-C (or SIGTERM, which torchrun and batch systems send) ends training after the running step with a
    checkpoint; another one, some seconds later, ends it at once. What comes sooner is the same Ctrl-C: a terminal sends
    it to every process, and torchrun hands it on once more.
    """

    ONE_PRESS = 3.0

    def __init__(self, minutes: float | None) -> None:
        self.seconds = math.inf if minutes is None else 60 * minutes
        self.saved = self.asked_at = time.monotonic()
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM while training."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._ask) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked and now - self.asked_at > self.ONE_PRESS:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.asked_at = True, now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save, and stop where that was asked."""
        due = time.monotonic() - self.saved >= self.seconds
        if dist.is_available() and dist.is_initialized():
            flags = torch.tensor([self.asked, due], dtype=torch.int32, device=args.device)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
            self.asked, due = (bool(flag) for flag in flags.tolist())
        if self.asked or due:
            control.should_save = True
        if self.asked:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An interrupted epoch has not ended: a validation here is one that an unbroken run does not have."""
        if self.asked:
            control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count from here."""
        self.saved = time.monotonic()


class NotTakenOver(TrainerCallback):
    """What a resumed run must not take over from its checkpoint, and a log of the last step whatever the interval."""

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Take intervals from the configuration of now, and optimizer states as what they are now.

        The Trainer reads the intervals from its saved state. Tensors of a paged optimizer carry a mark that they are
        paged, which a checkpoint keeps; on several GPUs they are loaded into plain memory, and prefetching that ends the
        process (https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1708). A new state is made in the first step.
        """
        state.compute_steps(args, state.max_steps)
        for values in optimizer.state.values() if optimizer is not None else ():
            for value in values.values():
                if hasattr(value, "is_paged"):
                    del value.is_paged

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run that is shorter than the interval has a training loss, too."""
        if state.global_step >= state.max_steps:
            control.should_log = True


class SpanStart(TrainerCallback):
    """Where a span starts, which is known once its checkpoint has been read."""

    def __init__(self) -> None:
        self.step = self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note it."""
        self.step, self.tokens = state.global_step, state.num_input_tokens_seen
