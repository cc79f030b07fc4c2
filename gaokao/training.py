"""Fine-tuning: what is trained on, the trainer and its callbacks, whole checkpoints, the figures of a run."""

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import psutil
import torch
from peft import LoraConfig, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, TrainerCallback, TrainerState
from trl import SFTConfig, SFTTrainer

from gaokao.callbacks import NotTakenOver, OnValidation, Progress, SaveInTime, SpanStart, StopOnNan
from gaokao.config import NO_TRACKER
from gaokao.errors import UserError, disk_full
from gaokao.loss import score_once
from gaokao.pictures import curve, draw_losses
from gaokao.prompts import Example, format_chat
from gaokao.records import Record
from gaokao.resume import step_of
from gaokao.runs import RUN_RECORD, write_json
from gaokao.trackers import PROJECT, start

# Keys of the section train that trl's settings do not have.
OWN_KEYS = {"effective_batch", "save_minutes", "keep", "early_stopping", "resume"}


def as_dataset(records: Sequence[Record], chats: Sequence[Example] = ()) -> datasets.Dataset:
    """Records, and other examples after them, in trl's conversational prompt-completion form."""
    return datasets.Dataset.from_list([*(dict(format_chat(record)) for record in records), *map(dict, chats)])


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Tokenize without a progress bar for each step of it."""
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def sft_arguments(
    *,
    folder: Path,
    dtype: str,
    on_gpu: bool,
    validate: bool,
    max_steps: int | None,
    eval_steps: int | None,
    gradient_checkpointing: bool,
    report_to: str = NO_TRACKER,
    **named_alike: Any,
) -> SFTConfig:
    """trl's settings for completion-only training; without `report_to` nothing is sent anywhere.

    Args:
        folder: where checkpoints go.
        dtype: `bf16`, `fp16` or `fp32`: the precision of autocast.
        on_gpu: whether this process has a CUDA device.
        validate: whether there are validation records.
        max_steps: optimizer steps, or `None` to count epochs.
        eval_steps: optimizer steps between validations, or `None` for the end of each epoch.
        gradient_checkpointing: recompute activations in the backward pass.
        report_to: a tracker, or `none`.
        named_alike: settings that trl calls by the same name (learning_rate, packing, seed, ...).
    """
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=-1 if max_steps is None else max_steps,
        # One row at a time: `_PerTokenValidation` weighs each by its tokens, and the peak is never that of validation.
        per_device_eval_batch_size=1,
        # The name that transformers gives gradient checkpointing since 5.20.
        activation_checkpointing=gradient_checkpointing,
        completion_only_loss=True,
        report_to=report_to,
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
        # Makes the Trainer remember the best step; `OnValidation` saves it, and rotation spares it.
        metric_for_best_model="eval_loss" if validate else None,
        greater_is_better=False if validate else None,
        # Kept in checkpoints, so that a resumed run knows what it has seen; trl's own count starts at 0 again.
        include_num_input_tokens_seen="non_padding",
        run_name=folder.parent.name,
        project=PROJECT,
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


def memory_gb() -> float:
    """The most GB that torch has taken on this process's GPU; without one, what the process has in memory now."""
    return (
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    ) / 1e9


class _PerTokenValidation(SFTTrainer):
    """trl's trainer with a validation loss per completion token, as the training loss is.

    The Trainer takes the mean over rows of each row's mean, so that a token of a short row would count for more. Here
    each row's mean is weighed by its share of the tokens.
    """

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss * (inputs["labels"] != -100).sum().to(loss.device) / self.mean_tokens, logits, labels

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Say how much memory this process takes as well."""
        if "loss" in logs:
            logs["memory_gb"] = round(memory_gb(), 2)
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: Any, *arguments: Any, **named: Any) -> Any:
        self.mean_tokens = count_tokens(dataloader.dataset)["completion_tokens"] / len(dataloader.dataset)
        return super().evaluation_loop(dataloader, *arguments, **named)


def measure_general(trainer: SFTTrainer, chats: Sequence[Example], step: int) -> None:
    """Log the loss per completion token on general chats that are not learnt: what tuning costs the base elsewhere.

    Args:
        trainer: with the adapter that is measured.
        chats: those that are held out; where there are none, nothing is measured.
        step: that the adapter is of; the Trainer would log the last one.
    """
    if chats:
        with without_bars():
            trainer.evaluate(as_dataset([], chats), metric_key_prefix="general")
        trainer.state.log_history[-1]["step"] = step


class _MeasureBase(TrainerCallback):
    """Measures general chats before the first step; a resumed run has that in its history."""

    def __init__(self, trainer: SFTTrainer, chats: Sequence[Example]) -> None:
        self.trainer, self.chats = trainer, chats

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure; a new adapter changes nothing yet."""
        if state.global_step == 0:
            measure_general(self.trainer, self.chats, 0)


def trainable_in_fp32(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Cast trainable parameters to fp32; returns how many there are.

    trl casts the adapter of a quantized base to bf16, where small optimizer updates are lost, and a resumed run
    reloads it as fp32: its losses would drift away from those of an uninterrupted one.
    """
    count = 0
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            count += parameter.numel()
    return count


def build_trainer(
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: SFTConfig,
    lora: LoraConfig,
    train_records: Sequence[Record],
    validation_records: Sequence[Record],
    chats: tuple[Sequence[Example], Sequence[Example]] = ((), ()),
    keep: str = "last",
    early_stopping: int | None = None,
) -> SFTTrainer:
    """trl's trainer with the adapter in fp32 and callbacks for progress, NaN and validation.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        arguments: trl's settings.
        lora: the adapter.
        train_records: what is learnt.
        validation_records: what the validation loss is measured on; may be empty.
        chats: general ones that are learnt beside the records, and others that are measured before the first step.
        keep: `best` saves every step with the lowest validation loss so far.
        early_stopping: validations without a lower loss that end the training, or `None`.

    Raises:
        UserError: one of the adapter's target modules is not in the model.
    """
    _require_modules(model, lora.target_modules)
    try:
        with without_bars():
            trainer = _PerTokenValidation(
                model=model,
                args=arguments,
                processing_class=tokenizer,
                peft_config=lora,
                train_dataset=as_dataset(train_records, chats[0]),
                eval_dataset=as_dataset(validation_records) if validation_records else None,
            )
    except ValueError as error:
        if "arget modules" not in str(error):
            raise
        raise UserError(
            f"lora.target_modules = {lora.target_modules}: the model has none of them; use all-linear"
        ) from error
    trainable_in_fp32(trainer.model.parameters())
    score_once(trainer.model.get_base_model())
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    trainer.add_callback(StopOnNan())
    trainer.add_callback(NotTakenOver())
    trainer.add_callback(_MeasureBase(trainer, chats[1]))
    if validation_records:
        trainer.add_callback(OnValidation(keep == "best", early_stopping))
    return trainer


def _require_modules(model: torch.nn.Module, modules: str | Collection[str] | None) -> None:
    """peft adapts what it finds of a list and says nothing of the rest."""
    if modules is None or isinstance(modules, str):
        return
    names = [name for name, _ in model.named_modules()]
    if missing := sorted(one for one in modules if not any(n == one or n.endswith(f".{one}") for n in names)):
        raise UserError(
            f"lora.target_modules: the model has no {', '.join(missing)}; correct the name, or use all-linear"
        )


class Span(NamedTuple):
    """What one call of `run_training` did: a run that was interrupted has several."""

    first_step: int
    last_step: int
    finished: bool
    """Every step is done, or early stopping ended the run; otherwise a signal stopped it, with a checkpoint."""
    tokens: int
    """Read in this span, without padding, on all processes."""
    seconds: float

    @property
    def steps(self) -> int:
        """Optimizer steps of this span."""
        return self.last_step - self.first_step


def run_training(trainer: SFTTrainer, checkpoint: Path | None, steps: int, save_minutes: float | None = None) -> Span:
    """Train to step number `steps`, from a checkpoint where one is given; one that is there already trains no step more.

    Raises:
        UserError: the loss became NaN, the GPU's memory is too small, the disk is full, or a tracker does not answer.
    """
    if checkpoint is not None and step_of(checkpoint) >= steps:
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        load_weights(trainer.model, checkpoint)
        return Span(trainer.state.global_step, trainer.state.global_step, True, 0, 0.0)
    for tracker in trainer.args.report_to if trainer.is_world_process_zero() else ():
        start(tracker, trainer.args.run_name)
    watch, started = SaveInTime(save_minutes), time.monotonic()
    before = SpanStart()
    trainer.add_callback(watch)
    trainer.add_callback(before)
    try:
        # peft casts what goes into an adapter to fp32 and autocast casts it back, where peft does not see the autocast: on
        # the CPU, and everywhere on a base that is not quantized. Left out, both change no number.
        with watch.listening(), disable_input_dtype_casting(trainer.model):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            "the GPU ran out of memory; in this order: train.per_device_train_batch_size: 1, "
            "train.gradient_checkpointing: true, a smaller train.max_length, a smaller lora.r, a smaller model.base"
        ) from error
    except Exception as error:
        if not disk_full(error):
            raise
        raise UserError(
            f"the disk was full while step {trainer.state.global_step} was saved; the checkpoints before it are whole and stay in "
            f"{trainer.args.output_dir}. Make room there: the same command goes on from the last of them"
        ) from error
    return Span(
        before.step,
        trainer.state.global_step,
        not watch.asked or trainer.state.global_step >= steps,
        trainer.state.num_input_tokens_seen - before.tokens,
        time.monotonic() - started,
    )


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Put the adapter of a checkpoint into the model."""
    set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))


def keep_step(trainer: SFTTrainer, keep: str) -> tuple[int, str]:
    """Give the model the adapter that is to be kept; returns the step that it is of, and why that one.

    Args:
        trainer: after training.
        keep: `best` (the lowest validation loss) or `last`.
    """
    last, best = int(trainer.state.global_step), trainer.state.best_global_step
    if keep == "last":
        return last, "the last step, as train.keep says"
    if not best:
        return last, "the last step, because nothing was validated"
    checkpoint = Path(trainer.args.output_dir) / f"checkpoint-{best}"
    if best != last and not checkpoint.is_dir():
        return last, f"the last step: step {best} had the lowest validation loss, but train.keep was last and lost it"
    if best != last:
        load_weights(trainer.model, checkpoint)
    return int(best), "the lowest validation loss"


def finish(run: Path, state: TrainerState, span: Span, record: dict[str, Any]) -> None:
    """Loss curve and run record; the record says `finished` only once everything else is written."""
    draw_losses(state.log_history, run / "loss.png")
    metrics = final_metrics(state, span)
    write_json(run / RUN_RECORD, record | {"status": "finished", "metrics": metrics})
    print(f"result    {metrics_text(metrics)}; {span.seconds:.0f} s for {span.steps} steps")
    print(f"files     {run / 'loss.png'}, {run / RUN_RECORD}")


def trainable_text(model: torch.nn.Module) -> str:
    """How much of the model is trained, in words."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad}
    return f"{trainable / 1e6:.1f}M trainable parameters in {' and '.join(sorted(dtypes))}"


def final_metrics(state: TrainerState, span: Span) -> dict[str, float]:
    """First, last and best losses and tokens of the whole run, and the speed of its last span.

    Args:
        state: of the Trainer, which a resumed run takes up from its checkpoint.
        span: what was done since the last start.
    """
    train, validation = (curve(state.log_history, key) for key in ("loss", "eval_loss"))
    metrics: dict[str, float] = {"tokens_seen": state.num_input_tokens_seen}
    if train:
        metrics |= {"train_loss_first": train[0][1], "train_loss_last": train[-1][1]}
    if validation:
        losses = [loss for _, loss in validation]
        metrics |= {"validation_loss_first": losses[0], "validation_loss_last": losses[-1]}
        metrics["validation_loss_best"] = min(losses)
    general = [loss for _, loss in curve(state.log_history, "general_loss")]
    if len(general) > 1:
        metrics |= {"general_loss_before": general[0], "general_loss_after": general[-1]}
    if span.tokens:
        metrics["tokens_per_second"] = round(span.tokens / span.seconds, 1)
    return metrics


def metrics_text(metrics: dict[str, float]) -> str:
    """The losses in one line."""
    parts = [
        f"{name} loss {metrics[f'{name}_loss_first']:.3f} -> {metrics[f'{name}_loss_last']:.3f}"
        for name in ("train", "validation")
        if f"{name}_loss_first" in metrics
    ]
    if "general_loss_before" in metrics:
        parts.append(f"general loss {metrics['general_loss_before']:.3f} -> {metrics['general_loss_after']:.3f}")
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
