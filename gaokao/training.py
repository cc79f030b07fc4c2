"""Fine-tuning: what is trained on, the trainer and its callbacks, the loss curve."""

import contextlib
import math
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
import torch.distributed as dist
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from gaokao.errors import UserError
from gaokao.models import trainable_in_fp32
from gaokao.prompts import Example, format_chat
from gaokao.records import Record


class Fitted(NamedTuple):
    """Records that fit, and the ids and lengths (tokens, prompt and answer) of all that do not."""

    records: list[Record]
    lengths: list[int]
    overlong: list[tuple[str, int]]


def fit_records(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Fitted:
    """Measure every record in tokens and leave out what is longer than a row: cut, it would lose its end token.

    Raises:
        UserError: no record fits.
    """
    kept, lengths, overlong = [], [], []
    for record in records:
        length = len(example_ids(tokenizer, format_chat(record)))
        if length > max_length:
            overlong.append((record.id, length))
        else:
            kept.append(record)
            lengths.append(length)
    if not kept:
        shortest = min(length for _, length in overlong)
        raise UserError(
            f"train.max_length = {max_length}: every one of the {len(records)} records is longer; the shortest has "
            f"{shortest} tokens: set train.max_length to {shortest} or more, or shorten the passages"
        )
    return Fitted(kept, lengths, overlong)


def example_ids(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[int]:
    """Token ids of a whole training example."""
    encoded = tokenizer.apply_chat_template(
        [*example["prompt"], *example["completion"]], tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def hold_out(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into training and validation records at random, both in file order; one is held out at least if share > 0."""
    count = 0 if share == 0 or len(records) < 2 else max(1, round(share * len(records)))
    chosen = set(random.Random(seed).sample(range(len(records)), count))
    train = [record for index, record in enumerate(records) if index not in chosen]
    return train, [record for index, record in enumerate(records) if index in chosen]


def as_dataset(records: Sequence[Record], mixed: Sequence[Example] = ()) -> datasets.Dataset:
    """Records, and other examples after them, in trl's conversational prompt-completion form."""
    return datasets.Dataset.from_list([*(dict(format_chat(record)) for record in records), *map(dict, mixed)])


def sft_arguments(
    *,
    folder: Path,
    dtype: str,
    on_gpu: bool,
    validate: bool,
    max_steps: int | None,
    eval_steps: int | None,
    per_device_train_batch_size: int,
    gradient_checkpointing: bool,
    seed: int,
    **named_alike: Any,
) -> SFTConfig:
    """trl's settings for completion-only training that sends nothing anywhere.

    Args:
        folder: where checkpoints go.
        dtype: `bf16`, `fp16` or `fp32`: the precision of autocast.
        on_gpu: whether this process has a CUDA device.
        validate: whether there are validation records.
        max_steps: optimizer steps, or `None` to count epochs.
        eval_steps: optimizer steps between validations, or `None` for the end of each epoch.
        per_device_train_batch_size: rows per device and step, in validation too.
        gradient_checkpointing: recompute activations in the backward pass.
        seed: of weights, dropout and order.
        named_alike: settings that trl calls by the same name (learning_rate, packing, ...).
    """
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=-1 if max_steps is None else max_steps,
        per_device_train_batch_size=per_device_train_batch_size,
        per_device_eval_batch_size=per_device_train_batch_size,
        # The name that transformers gives gradient checkpointing since 5.20.
        activation_checkpointing=gradient_checkpointing,
        seed=seed,
        completion_only_loss=True,
        packing_strategy="bfd",
        bf16=dtype == "bf16",
        fp16=dtype == "fp16",
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,
        eval_strategy="no" if not validate else "epoch" if eval_steps is None else "steps",
        eval_steps=eval_steps if validate else None,
        logging_strategy="steps",
        # Otherwise the Trainer replaces NaN by the last good loss, and nobody sees it.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        report_to="none",
        dataloader_pin_memory=on_gpu,
        **named_alike,
    )
    # One process uses one device. Without this, a single process that sees eight GPUs would ask for DataParallel,
    # which trl refuses; torchrun and accelerate launch are the way to use all of them.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def lora_config(*, r: int, alpha: float, dropout: float, target_modules: str | list[str]) -> LoraConfig:
    """A LoRA adapter (arXiv:2106.09685) on the named modules, or on all linear layers but the output head."""
    return LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, bias="none", task_type="CAUSAL_LM"
    )


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

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Raise on a loss, validation loss or gradient norm that is NaN or infinite."""
        for key in ("loss", "eval_loss", "grad_norm"):
            value = (logs or {}).get(key)
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"{key} became {value} at step {state.global_step}: training stopped. Lower train.learning_rate "
                    f"(now {args.learning_rate:g}), and on an fp16 GPU try model.dtype: fp32; earlier checkpoints are "
                    f"in {args.output_dir}"
                )


class StopOnSignal(TrainerCallback):
    """Ctrl-C ends training after the running step with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM (what torchrun and batch systems send) while training."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._ask) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop, on all processes at the same step."""
        if dist.is_available() and dist.is_initialized():
            flag = torch.tensor([self.asked], dtype=torch.int32, device=args.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            self.asked = bool(flag.item())
        if self.asked:
            control.should_save = True
            control.should_training_stop = True


def build_trainer(
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: SFTConfig,
    lora: LoraConfig,
    train: Sequence[Record],
    validation: Sequence[Record],
    mixed: Sequence[Example] = (),
) -> SFTTrainer:
    """trl's trainer with the adapter in fp32 and callbacks for progress and NaN.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        arguments: trl's settings.
        lora: the adapter.
        train: what is learnt.
        validation: what the validation loss is measured on; may be empty.
        mixed: general chats learnt beside the records, never validated on.

    Raises:
        UserError: the adapter's target modules are not in the model.
    """
    datasets.disable_progress_bars()
    try:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            peft_config=lora,
            train_dataset=as_dataset(train, mixed),
            eval_dataset=as_dataset(validation) if validation else None,
        )
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise UserError(
            f"lora.target_modules = {lora.target_modules}: the model has none of them; use all-linear"
        ) from (error)
    finally:
        datasets.enable_progress_bars()
    trainable_in_fp32(trainer.model.parameters())
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    trainer.add_callback(StopOnNan())
    return trainer


def fit(trainer: SFTTrainer, checkpoint: Path | None) -> int:
    """Train, from a checkpoint where one is given, and validate once more at the end; returns the steps done.

    Fewer steps than `trainer.state.max_steps` mean that Ctrl-C or SIGTERM stopped it, with a checkpoint.

    Raises:
        UserError: the loss became NaN, or the GPU's memory is too small.
    """
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            "the GPU ran out of memory; in this order: train.per_device_train_batch_size: 1, "
            "train.gradient_checkpointing: true, a smaller train.max_length, a smaller lora.r, a smaller model.base"
        ) from error
    steps: int = trainer.state.global_step
    _, validation = curves(trainer.state.log_history)
    unseen = not validation or validation[-1][0] != steps
    if steps >= trainer.state.max_steps and trainer.eval_dataset is not None and unseen:
        trainer.evaluate()
    return steps


def trainable_text(model: torch.nn.Module) -> str:
    """How much of the model is trained, in words."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return f"{trainable / 1e6:.1f}M trainable parameters in {' and '.join(sorted(dtypes))}"


def final_metrics(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """First and last losses, and the Trainer's own totals."""
    train, validation = curves(history)
    metrics = {"train_loss_first": train[0][1], "train_loss_last": train[-1][1]} if train else {}
    if validation:
        metrics |= {"validation_loss_first": validation[0][1], "validation_loss_last": validation[-1][1]}
    totals: dict[str, Any] = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    tokens = max((entry.get("num_tokens", 0) for entry in history), default=0)
    if totals:
        metrics |= {"train_seconds": totals["train_runtime"], "tokens_seen": tokens}
        metrics["tokens_per_second"] = round(tokens / totals["train_runtime"], 1)
    return metrics


def metrics_text(metrics: dict[str, float]) -> str:
    """The losses in one line."""
    parts = [
        f"{name} loss {metrics[f'{name}_loss_first']:.3f} -> {metrics[f'{name}_loss_last']:.3f}"
        for name in ("train", "validation")
        if f"{name}_loss_first" in metrics
    ]
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:.0f} tokens/s")
    return ", ".join(parts)


def count_tokens(dataset: datasets.Dataset) -> dict[str, int]:
    """Rows, sequences, tokens, and tokens that carry loss, in a prepared dataset."""
    sequences = (
        sum(len(row) for row in dataset["seq_lengths"]) if "seq_lengths" in dataset.column_names else len(dataset)
    )
    labels = dataset["labels"]
    return {
        "rows": len(dataset),
        "sequences": sequences,
        "tokens": sum(len(row) for row in labels),
        "completion_tokens": sum(sum(label != -100 for label in row) for row in labels),
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or `None`."""
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    return Path(found) if found else None


def curves(history: Sequence[dict[str, Any]]) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, loss) of training and validation from the Trainer's log history."""
    train = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    validation = [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    return train, validation


def plot_loss(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw both loss curves to a PNG, whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    train, validation = curves(history)
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    axes.plot(*zip(*train, strict=True), label="train", color="tab:blue", linewidth=1.2)
    if validation:
        axes.plot(*zip(*validation, strict=True), label="validation", color="tab:orange", marker="o", markersize=4)
    axes.set(xlabel="optimizer step", ylabel="loss per completion token", title=path.parent.name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png")
    plt.close(figure)
    os.replace(part, path)
