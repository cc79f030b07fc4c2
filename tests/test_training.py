"""Fine-tuning learns the completion only, keeps every record whole, and is repeatable, also with validation in 4 bit."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, load, record_row
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from gaokao import callbacks, models, resume, splits, training
from gaokao.chats import ChatPool, Mixed
from gaokao.config import TrainConfig
from gaokao.errors import UserError
from gaokao.pictures import curve
from gaokao.prompts import format_chat, render
from gaokao.records import Record, load_records, parse_record
from gaokao.sources import Raw

BUNDLED = load_records(ROOT / "gaokao_data" / "train.json")


def records(count: int) -> list[Record]:
    made = [parse_record(Raw("x", record_row(number)), number, "train")[0] for number in range(count)]
    return [record for record in made if record is not None]


def trainer(
    base: Path, folder: Path, *, validation: int = 0, dtype: str = "fp32", quantization: str = "nf4",
    dropout: float = 0.0, **changes: Any,
) -> Any:  # fmt: skip
    """The project's own trainer on the small base, a few steps."""
    settings: dict[str, Any] = {
        "max_steps": 4,
        "eval_steps": 2,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_checkpointing": False,
        "seed": 1,
        "max_length": 600,
        "packing": True,
        "learning_rate": 5e-3,
        "optim": "adamw_torch",
        "save_steps": 100,
        "logging_steps": 1,
    }
    ours = {key: changes.pop(key) for key in ("keep", "early_stopping", "chats") if key in changes}
    learn = changes.pop("learn", records(12))
    model = load(base, quantization, dtype)
    models.keep_4bit_layout(model)
    return training.build_trainer(
        model=model,
        tokenizer=models.load_tokenizer(base),
        arguments=training.sft_arguments(
            folder=folder, dtype=dtype, on_gpu=False, validate=validation > 0, **(settings | changes)
        ),
        lora=training.lora_config(r=4, alpha=8, dropout=dropout, target_modules="all-linear"),
        train_records=learn,
        validation_records=records(20)[12 : 12 + validation],
        **ours,
    )


def fit(built: Any, checkpoint: Path | None = None, minutes: float | None = None) -> training.Span:
    return training.run_training(built, checkpoint, built.args.max_steps, minutes)


def losses(built: Any) -> list[float]:
    return [entry["loss"] for entry in built.state.log_history if "loss" in entry]


def test_only_the_completion_carries_loss_and_it_ends_with_the_end_token(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, packing=False)
    tokenizer = models.load_tokenizer(small_base)
    for record, row in zip(records(12), built.train_dataset, strict=True):
        learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learnt) == render(record) + "<|im_end|>\n"


def test_packed_rows_hold_every_record_whole_and_isolated(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path)
    tokenizer = models.load_tokenizer(small_base)
    counts = training.count_tokens(built.train_dataset)
    lengths = [len(splits.example_ids(tokenizer, format_chat(record))) for record in records(12)]
    assert counts["sequences"] == 12 > counts["rows"]
    assert counts["tokens"] == sum(lengths)
    batch = built.data_collator([built.train_dataset[0]])
    starts = [place for place, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
    assert len(starts) == len(built.train_dataset[0]["seq_lengths"])


def test_packing_changes_no_logits_of_a_record(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path)
    row = next(row for row in built.train_dataset if len(row["seq_lengths"]) > 1)
    batch = built.data_collator([row])
    first = row["seq_lengths"][0]
    second = slice(first, first + row["seq_lengths"][1])
    model = built.model.eval()
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[
            0, second
        ]
        alone = model(input_ids=batch["input_ids"][:, second]).logits[0]
    assert torch.allclose(packed, alone, atol=1e-4)


def test_trainable_parameters_are_the_adapter_in_fp32(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, dtype="bf16")
    trainable = {name: p.dtype for name, p in built.model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    assert set(trainable.values()) == {torch.float32}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_disk_that_is_full_while_saving_leaves_the_last_whole_checkpoint(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, save_steps=2)
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "optimizer.pt").symlink_to("/dev/full")
    with pytest.raises(UserError, match="the disk was full while step 4 was saved; .* goes on from the last of them"):
        fit(built)
    # Whoever reads /dev/full never comes to its end.
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    found = resume.find_checkpoints(tmp_path, 1, False)
    assert found.newest == tmp_path / "checkpoint-2"
    assert [path.name for path, _ in found.broken] == ["checkpoint-4"]


def test_every_point_of_the_training_loss_says_speed_learning_rate_and_memory(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, validation=2)
    fit(built)
    points = [entry for entry in built.state.log_history if "loss" in entry]
    assert len(points) == 4
    assert all(0.05 < point["memory_gb"] < 64 and point["train_tokens_per_second"] > 0 for point in points)
    assert all("learning_rate" in point for point in points)


def test_validation_in_4_bit_does_not_disturb_training(small_base: Path, tmp_path: Path) -> None:
    # bf16 is what makes bitsandbytes repack the weights on CPUs with AVX512-BF16; elsewhere this holds as well.
    with_validation = trainer(small_base, tmp_path / "a", validation=3, dtype="bf16", eval_steps=1)
    fit(with_validation)
    without = trainer(small_base, tmp_path / "b", dtype="bf16")
    fit(without)
    assert losses(with_validation) == losses(without)
    assert sum("eval_loss" in entry for entry in with_validation.state.log_history) == 4


def test_a_seed_gives_the_same_losses_and_another_one_others(small_base: Path, tmp_path: Path) -> None:
    seen = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        built = trainer(small_base, tmp_path / name, seed=seed)
        fit(built)
        seen.append(losses(built))
    assert seen[0] == seen[1] != seen[2]
    assert all(map(math.isfinite, seen[0]))


def test_the_loss_falls(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, max_steps=40, learning_rate=5e-3)
    fit(built)
    assert losses(built)[-1] < 0.95 * losses(built)[0]


def adapter_bytes(built: Any) -> dict[str, bytes]:
    return {n: p.detach().numpy().tobytes() for n, p in built.model.named_parameters() if p.requires_grad}


def test_a_resumed_run_is_the_unbroken_one_bit_by_bit_and_repeats_no_step(small_base: Path, tmp_path: Path) -> None:
    # Dropout, so that a lost random state shows; a validation beside the stop, for its own state.
    settings: dict[str, Any] = {"max_steps": 5, "validation": 3, "dropout": 0.2, "per_device_train_batch_size": 1}
    whole = trainer(small_base, tmp_path / "a", **settings)
    span = fit(whole)
    assert (span.first_step, span.last_step, span.finished, span.steps) == (0, 5, True, 5)
    stopped = trainer(small_base, tmp_path / "b", **settings)
    stopped.add_callback(_StopAt(3))
    first = fit(stopped)
    assert (first.first_step, first.last_step, first.finished) == (0, 3, False)
    found = resume.find_checkpoints(tmp_path / "b", 1, fp16=False)
    assert found.newest is not None and found.newest.name == "checkpoint-3"
    resumed = trainer(small_base, tmp_path / "b", **settings)
    steps = _StepsDone()
    resumed.add_callback(steps)
    second = fit(resumed, found.newest)
    assert steps.done == [4, 5]
    assert (second.first_step, second.last_step, second.finished) == (3, 5, True)
    assert losses(resumed) == losses(whole)
    assert adapter_bytes(resumed) == adapter_bytes(whole)
    assert first.tokens + second.tokens == span.tokens == resumed.state.num_input_tokens_seen > 0


class _StopAt(TrainerCallback):
    """What Ctrl-C does, at a step of our choice."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            signal.raise_signal(signal.SIGINT)


class _StepsDone(TrainerCallback):
    def __init__(self) -> None:
        self.done: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.done.append(state.global_step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_running_step_and_gives_the_handlers_back(
    number: signal.Signals, small_base: Path, tmp_path: Path
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    built = trainer(small_base, tmp_path)
    stop = _StopAt(2)
    stop.on_step_begin = lambda args, state, control, **_: (  # type: ignore[method-assign]
        signal.raise_signal(number) if state.global_step == 1 else None
    )
    built.add_callback(stop)
    assert not fit(built).finished
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_resumed_run_has_the_intervals_of_now_and_plain_optimizer_states() -> None:
    state, weight = TrainerState(max_steps=100, eval_steps=500, logging_steps=1), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight])
    # As torch.load gives back what a paged optimizer has saved.
    paged = torch.ones(2)
    paged.is_paged = True  # type: ignore[attr-defined]
    optimizer.state[weight] = {"state1": paged, "step": 3}
    args = SimpleNamespace(eval_steps=0.5, logging_steps=10, save_steps=None)
    callback, control = callbacks.NotTakenOver(), SimpleNamespace(should_log=False)
    callback.on_train_begin(args, state, control, optimizer=optimizer)
    assert (state.eval_steps, state.logging_steps) == (50, 10) and not hasattr(paged, "is_paged")
    for step, logged in ((99, False), (100, True)):
        state.global_step = step
        callback.on_step_end(args, state, control)
        assert control.should_log is logged


def test_another_signal_ends_at_once_but_an_echo_of_the_first_does_not() -> None:
    watch = callbacks.SaveInTime(None)
    with watch.listening():
        signal.raise_signal(signal.SIGINT)
        # torchrun hands on what the terminal has sent already.
        signal.raise_signal(signal.SIGTERM)
        assert watch.asked
        watch.asked_at -= 2 * watch.ONE_PRESS
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_epoch_is_not_validated_as_if_it_had_ended(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, validation=3, eval_steps=None, per_device_train_batch_size=1)
    built.add_callback(_StopAt(1))
    fit(built)
    assert not any("eval_loss" in entry for entry in built.state.log_history)


def test_minutes_without_a_checkpoint_bring_one(small_base: Path, tmp_path: Path) -> None:
    for minutes, expected in ((None, {4}), (1e-9, {3, 4}), (60.0, {4})):
        built = trainer(small_base, tmp_path / str(minutes), save_total_limit=2)
        fit(built, minutes=minutes)
        steps = {resume.step_of(path) for path in (tmp_path / str(minutes)).glob("checkpoint-*")}
        assert steps == expected, minutes


def test_a_finished_run_trains_no_step_more(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, max_steps=2)
    fit(built)
    again = trainer(small_base, tmp_path, max_steps=2)
    steps = _StepsDone()
    again.add_callback(steps)
    span = fit(again, tmp_path / "checkpoint-2")
    assert steps.done == [] and span == (2, 2, True, 0, 0.0)
    assert losses(again) == losses(built)
    assert adapter_bytes(again) == adapter_bytes(built)


WHOLE = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def checkpoints(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    fit(trainer(small_base, folder, max_steps=3, save_steps=1, save_total_limit=3))
    return folder


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("cut", [False, True])
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_named(
    checkpoints: Path, tmp_path: Path, name: str, cut: bool
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(checkpoints, folder)
    file = folder / "checkpoint-3" / name
    if cut:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    found = resume.find_checkpoints(folder, 1, fp16=False)
    assert found.newest == folder / "checkpoint-2"
    ((path, fault),) = found.broken
    assert path == folder / "checkpoint-3" and name in fault


def test_checkpoints_are_ordered_by_number_and_need_the_states_of_every_process(
    checkpoints: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    shutil.copytree(checkpoints, folder)
    (folder / "checkpoint-2").rename(folder / "checkpoint-10")
    assert resume.find_checkpoints(folder, 1, fp16=False).broken[0][1] == "trainer_state.json is of another step"
    assert resume.find_checkpoints(folder, 1, fp16=False).newest == folder / "checkpoint-3"
    assert resume.find_checkpoints(folder, 1, fp16=True).newest is None
    three = folder / "checkpoint-3"
    shutil.copy(three / "rng_state.pth", three / "rng_state_0.pth")
    assert resume.find_checkpoints(folder, 2, fp16=False).newest is None
    shutil.copy(three / "rng_state.pth", three / "rng_state_1.pth")
    assert resume.find_checkpoints(folder, 2, fp16=False).newest == three
    assert resume.find_checkpoints(tmp_path / "none", 1, fp16=False) == (None, [])


def spoilt(base: Path, folder: Path, **changes: Any) -> Any:
    """Learns for three steps and is then broken, so that its validation loss is the lowest in the middle."""
    built = trainer(base, folder, **({"max_steps": 7, "eval_steps": 1, "validation": 3} | changes))
    built.add_callback(_Spoil(4))
    return built


class _Spoil(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step - 1:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_" in name:
                        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))


def validations(built: Any) -> list[float]:
    return [loss for _, loss in curve(built.state.log_history, "eval_loss")]


def test_the_best_step_is_kept_whatever_comes_after_it(small_base: Path, tmp_path: Path) -> None:
    built = spoilt(small_base, tmp_path, keep="best", save_total_limit=2)
    fit(built)
    seen = validations(built)
    assert len(seen) == 7 and seen.index(min(seen)) == 2
    last = adapter_bytes(built)
    assert training.keep_step(built, "last") == (7, "the last step, as train.keep says")
    assert adapter_bytes(built) == last
    assert training.keep_step(built, "best") == (3, "the lowest validation loss")
    assert adapter_bytes(built) != last
    stored = load_file(tmp_path / "checkpoint-3" / "adapter_model.safetensors")
    kept = {name.replace(".default", ""): value for name, value in built.model.named_parameters()}
    assert all(torch.equal(value, kept[name]) for name, value in stored.items())


def test_without_validation_or_with_a_best_step_that_was_not_saved_the_last_one_is_kept(
    small_base: Path, tmp_path: Path
) -> None:
    blind = trainer(small_base, tmp_path / "a", max_steps=1)
    fit(blind)
    assert training.keep_step(blind, "best") == (1, "the last step, because nothing was validated")
    lost = spoilt(small_base, tmp_path / "b", keep="last", save_total_limit=2)
    fit(lost)
    step, why = training.keep_step(lost, "best")
    assert step == 7 and "train.keep was last" in why


def test_early_stopping_ends_after_so_many_validations_without_a_lower_loss(small_base: Path, tmp_path: Path) -> None:
    built = spoilt(small_base, tmp_path, early_stopping=2)
    span = fit(built)
    assert (span.last_step, span.finished) == (5, True)
    assert len(validations(built)) == 5
    assert (tmp_path / "checkpoint-5").is_dir()


def test_the_validation_loss_is_the_mean_over_completion_tokens(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, validation=2, packing=False)
    rows = list(built.eval_dataset)
    # One row much longer than the other: the mean of row means is another number.
    rows[0] = {**rows[0], "input_ids": rows[0]["input_ids"] * 3, "labels": rows[0]["labels"] * 3}
    built.eval_dataset = type(built.eval_dataset).from_list(rows)
    total, tokens = 0.0, 0
    means: list[float] = []
    model = built.model.eval()
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum")
        count = int((labels[0, 1:] != -100).sum())
        total, tokens, means = total + float(loss), tokens + count, [*means, float(loss) / count]
    assert built.evaluate()["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert abs(total / tokens - sum(means) / 2) > 1e-3


@pytest.mark.parametrize(
    ("wanted", "per_device", "processes", "accumulated"),
    [(8, 1, 1, 8), (8, 1, 8, 1), (8, 2, 2, 2), (8, 1, 16, 1), (8, 3, 1, 3), (1, 1, 1, 1)],
)
def test_the_effective_batch_is_divided_by_processes_and_rows_at_once(
    wanted: int, per_device: int, processes: int, accumulated: int
) -> None:
    batch = splits.Batch(wanted, per_device, processes)
    assert batch.accumulated == accumulated
    text = batch.text(100)
    assert f"{per_device * processes * accumulated} rows for each of 100 optimizer steps" in text
    assert ("is no multiple of" in text) == (per_device * processes * accumulated != wanted)
    assert "WARNING" not in text


def test_fewer_than_twenty_steps_are_warned_of_with_the_remedy() -> None:
    assert "WARNING" not in splits.Batch(8, 1, 1).text(20)
    assert "WARNING   19 optimizer steps hardly train" in splits.Batch(8, 1, 1).text(19)
    assert "Lower train.effective_batch (now 8)" in splits.Batch(8, 1, 1).text(19)


@pytest.mark.parametrize("epochs", [1, 1.5, 3])
def test_steps_are_counted_as_the_trainer_counts_them(small_base: Path, tmp_path: Path, epochs: float) -> None:
    built = trainer(
        small_base, tmp_path, max_steps=None, num_train_epochs=epochs, packing=False, gradient_accumulation_steps=2,
        per_device_train_batch_size=2, learn=records(11),
    )  # fmt: skip
    batch = splits.Batch(4, 2, 1)
    steps = batch.steps(len(built.train_dataset), epochs, None)
    span = training.run_training(built, None, steps)
    assert span.last_step == built.state.max_steps == steps
    assert batch.steps(11, epochs, 7) == 7


def test_every_process_waits_for_a_download_of_hours(tmp_path: Path) -> None:
    program = tmp_path / "wait.py"
    program.write_text(
        "import datetime, torch.distributed as dist\n"
        "from gaokao import models\n"
        "state = models.start_processes(0)\n"
        "assert state.num_processes == 2, state\n"
        "group = dist.distributed_c10d._get_default_group()\n"
        "import torch\n"
        "assert group._get_backend(torch.device('cpu')).options._timeout == datetime.timedelta(hours=12)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29519", str(program)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_overlong_records_are_left_out_whole_and_named(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    lengths = sorted(len(splits.example_ids(tokenizer, format_chat(record))) for record in BUNDLED)
    limit = lengths[len(lengths) // 2]
    fitted = splits.filter_by_length(BUNDLED, splits.counter(tokenizer), limit)
    assert len(fitted.records) + len(fitted.overlong) == len(BUNDLED)
    assert max(fitted.lengths) <= limit < min(length for _, length in fitted.overlong)


def test_every_record_overlong_is_an_error_that_names_the_shortest(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    with pytest.raises(UserError, match=r"every one of the 324 records is longer; the shortest has \d+ tokens"):
        splits.filter_by_length(BUNDLED, splits.counter(tokenizer), 64)


def test_the_held_out_share_is_taken_at_random_once_for_a_seed() -> None:
    train, validation = splits.split_validation(BUNDLED, 0.1, 1)
    assert len(validation) == round(0.1 * len(BUNDLED))
    assert {r.id for r in train}.isdisjoint(r.id for r in validation)
    assert splits.split_validation(BUNDLED, 0.1, 1) == (train, validation)
    assert splits.split_validation(BUNDLED, 0.1, 2)[1] != validation
    assert splits.split_validation(BUNDLED, 0.0, 1)[1] == []
    assert len(splits.split_validation(BUNDLED[:5], 0.01, 1)[1]) == 1


def arguments(folder: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "folder": folder, "dtype": "fp32", "on_gpu": False, "validate": False, "max_steps": 1, "eval_steps": None,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "seed": 1,
    }  # fmt: skip
    return training.sft_arguments(**(settings | changes))


@pytest.fixture
def half(tmp_path: Path) -> Any:
    """Settings of a GPU without bf16; the flag alone, because no CPU trains in fp16."""
    made = arguments(tmp_path, learning_rate=0.5)
    made.fp16 = True
    return made


def test_a_loss_that_is_not_a_number_stops_with_the_remedy(tmp_path: Path, half: Any) -> None:
    for key in ("loss", "eval_loss"):
        for made, advice in ((arguments(tmp_path, learning_rate=0.5), False), (half, True)):
            with pytest.raises(UserError) as error:
                callbacks.StopOnNan().on_log(made, TrainerState(global_step=3), TrainerControl(), {key: math.nan})
            said = str(error.value)
            assert f"{key} became nan at step 3" in said and "Lower train.learning_rate (now 0.5)" in said
            assert ("a GPU with bf16" in said) == advice


def test_an_infinite_gradient_norm_stops_bf16_at_once_and_fp16_only_when_the_scale_is_not_the_reason(
    tmp_path: Path, half: Any
) -> None:
    def logged(made: Any, norms: list[float]) -> int:
        watch = callbacks.StopOnNan()
        for number, norm in enumerate(norms):
            try:
                watch.on_log(made, TrainerState(), TrainerControl(), {"loss": 1.0, "grad_norm": norm})
            except UserError:
                return number
        return len(norms)

    overflow = [math.inf] * 24
    assert logged(arguments(tmp_path), [1.0, math.inf]) == 1
    assert logged(half, [*overflow, 1.0, *overflow, 1.0]) == 50
    assert logged(half, [1.0, *overflow, math.inf]) == 25


def test_diverging_training_really_ends_in_that_message(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, max_steps=3)
    with torch.no_grad():
        next(p for p in built.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(UserError, match="became nan at step 1"):
        fit(built)


def test_settings_reach_trl_as_they_are_meant(tmp_path: Path) -> None:
    plain = arguments(tmp_path)
    assert plain.report_to == []
    assert plain.completion_only_loss and plain.packing_strategy == "bfd"
    # Otherwise the Trainer replaces NaN by the last good loss, and nobody sees it.
    assert plain.logging_nan_inf_filter is False
    assert plain.per_device_eval_batch_size == 1
    assert (plain.max_steps, plain.eval_strategy) == (1, "no")
    assert arguments(tmp_path, max_steps=None).max_steps == -1
    assert arguments(tmp_path, validate=True).eval_strategy == "epoch"
    assert arguments(tmp_path, validate=True, eval_steps=7).eval_steps == 7
    assert arguments(tmp_path, gradient_checkpointing=True).activation_checkpointing is True
    assert plain.activation_checkpointing is False
    assert arguments(tmp_path, dtype="bf16").bf16 and not plain.bf16 and not plain.fp16
    lora = training.lora_config(r=3, alpha=7, dropout=0.25, target_modules=["q_proj"])
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (3, 7, 0.25, {"q_proj"})


def test_every_key_of_the_section_is_known_to_trl_or_handled_here(tmp_path: Path) -> None:
    keys = TrainConfig().model_dump(exclude=training.OWN_KEYS)
    made = training.sft_arguments(
        folder=tmp_path, dtype="fp32", on_gpu=False, validate=True, gradient_accumulation_steps=3,
        **(keys | {"optim": "adamw_torch"}),
    )  # fmt: skip
    assert (made.gradient_accumulation_steps, made.learning_rate, made.warmup_steps) == (3, 1e-4, 0.05)
    assert set(TrainConfig.model_fields) >= training.OWN_KEYS


def test_alpha_and_dropout_act(small_base: Path, tmp_path: Path) -> None:
    first = trainer(small_base, tmp_path / "a", max_steps=3, dropout=0.5)
    second = trainer(small_base, tmp_path / "b", max_steps=3)
    fit(first)
    fit(second)
    assert losses(first)[1:] != losses(second)[1:]


def test_gradient_checkpointing_changes_no_loss(small_base: Path, tmp_path: Path) -> None:
    seen = []
    for name, on in (("a", True), ("b", False)):
        built = trainer(small_base, tmp_path / name, gradient_checkpointing=on, dropout=0.2)
        fit(built)
        seen.append(losses(built))
        assert built.model.is_activation_checkpointing == on
    assert seen[0] == pytest.approx(seen[1], rel=1e-6)


def test_the_head_sees_targets_only_and_loss_metrics_and_gradients_are_those_of_all_positions(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float, list[torch.Tensor]]] = []
    widths: list[int] = []
    for name in ("targets", "all"):
        if name == "all":
            monkeypatch.setattr(training, "score_once", lambda model: None)
        built = trainer(small_base, tmp_path / name)
        batch = next(iter(built.get_train_dataloader()))
        causal = built.model.get_base_model()
        outputs = causal(**{**batch, "fused_lm_head": True})
        widths.append(outputs.log_probs.numel())
        built.model.train()
        built.compute_loss(built.model, dict(batch)).backward()
        gradients = [p.grad.clone() for p in built.model.parameters() if p.grad is not None]
        seen.append((-outputs.log_probs.sum().item(), outputs.entropy.sum().item(), gradients))
    assert widths[0] == int((batch["labels"][:, 1:] != -100).sum()) < widths[1]
    assert seen[0][0] == pytest.approx(seen[1][0], rel=1e-5)
    assert seen[0][1] == pytest.approx(seen[1][1], rel=1e-5)
    assert len(seen[0][2]) == len(seen[1][2]) > 0
    for one, other in zip(seen[0][2], seen[1][2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_what_goes_into_an_adapter_is_not_cast_to_fp32_and_back_and_every_gradient_stays_the_same(
    small_base: Path, tmp_path: Path, quantization: str
) -> None:
    built = trainer(small_base, tmp_path, dtype="bf16", quantization=quantization, max_steps=1)
    layer = built.model.get_base_model().model.layers[0].mlp.up_proj
    # An adapter starts as zeros in B, and no gradient would reach A.
    for name, parameter in built.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    seen: list[torch.dtype] = []
    layer.lora_A["default"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    batch = next(iter(built.get_train_dataloader()))
    gradients = []
    for active in (False, True):
        built.model.train()
        built.model.zero_grad()
        with disable_input_dtype_casting(built.model, active), torch.autocast("cpu", torch.bfloat16):
            loss = built.compute_loss(built.model, dict(batch))
        loss.backward()
        gradients.append([p.grad.clone() for p in built.model.parameters() if p.requires_grad])
    assert seen == [torch.float32, torch.bfloat16]
    assert all(bool(one.any()) for one in gradients[0])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    fit(built)
    assert seen[2:] == [torch.bfloat16]
    assert all(part.cast_input_dtype_enabled for part in built.model.modules() if isinstance(part, BaseTunerLayer))


def test_a_row_without_targets_gives_a_loss_of_zero(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path)
    batch = next(iter(built.get_train_dataloader()))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    built.model.train()
    loss = built.compute_loss(built.model, batch)
    loss.backward()
    assert float(loss) == 0.0


def general_chats(count: int, words: int = 1) -> list[Any]:
    return [
        {
            "prompt": [{"role": "user", "content": "问"}],
            "completion": [{"role": "assistant", "content": f"独特{n}" * words}],
        }
        for n in range(count)
    ]


def general_loss_by_hand(built: Any, chats: list[Any]) -> float:
    """Per completion token over all chats, with the adapter as it is, from plain logits."""
    total, tokens = 0.0, 0
    for row in trainer_rows(built, chats):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logits = built.model.eval()(input_ids=ids, use_cache=False).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum"))
        tokens += int((labels != -100).sum())
    return total / tokens


def general_losses(built: Any) -> list[tuple[int, float]]:
    return curve(built.state.log_history, "general_loss")


def trainer_rows(built: Any, chats: list[Any]) -> list[Any]:
    """Chats as trl tokenizes them, one a row."""
    prepared = built._prepare_dataset(
        training.as_dataset([], chats), built.processing_class, built.args, False, None, "by hand"
    )
    return list(prepared)


def test_general_chats_are_measured_before_the_first_step_and_with_the_adapter_that_is_kept(
    small_base: Path, tmp_path: Path
) -> None:
    # Of different lengths, so that a mean of rows is another number.
    held = [*general_chats(2), *general_chats(1, words=40)]
    settings: dict[str, Any] = {"validation": 3, "keep": "best", "learn": records(12), "save_total_limit": 2}
    built = spoilt(small_base, tmp_path / "a", chats=(general_chats(3), held), **settings)
    untouched = general_loss_by_hand(built, held)
    fit(built)
    ((start, before),) = general_losses(built)
    assert start == 0 and before == pytest.approx(untouched, rel=1e-4)
    # Neither early stopping nor the best step looks at them.
    assert len(validations(built)) == 7
    step, _ = training.keep_step(built, "best")
    training.measure_general(built, held, step)
    after = general_loss_by_hand(built, held)
    ((at, kept),) = general_losses(built)[1:]
    assert at == step and kept == pytest.approx(after, rel=1e-4)
    metrics = training.final_metrics(built.state, training.Span(0, 7, True, 10, 1.0))
    assert metrics["general_loss_before"] == pytest.approx(untouched, rel=1e-4)
    assert metrics["general_loss_after"] == pytest.approx(after, rel=1e-4)
    assert f"general loss {untouched:.3f} -> {after:.3f}" in training.metrics_text(metrics)
    assert abs(after - untouched) > 1e-3

    blind = spoilt(small_base, tmp_path / "b", chats=(general_chats(3), []), **settings)
    fit(blind)
    training.measure_general(blind, [], 3)
    assert general_losses(blind) == []
    assert losses(blind) == losses(built) and validations(blind) == validations(built)


def test_a_resumed_run_keeps_the_loss_of_the_base_on_general_chats_and_measures_it_no_second_time(
    small_base: Path, tmp_path: Path
) -> None:
    held = general_chats(2)
    first = trainer(small_base, tmp_path, max_steps=2, chats=([], held), dtype="bf16")
    fit(first)
    resumed = trainer(small_base, tmp_path, max_steps=4, chats=([], held), dtype="bf16")
    fit(resumed, tmp_path / "checkpoint-2")
    assert general_losses(resumed) == general_losses(first)
    assert len(general_losses(resumed)) == 1


def test_chats_are_learnt_beside_the_records_and_never_validated_on(small_base: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    built = trainer(small_base, tmp_path, packing=False, validation=3, chats=(general_chats(3), general_chats(2)))
    assert (len(built.train_dataset), len(built.eval_dataset)) == (15, 3)
    texts = [tokenizer.decode(row["input_ids"]) for row in built.train_dataset]
    assert sum("独特" in text for text in texts) == 3
    assert not any("独特" in tokenizer.decode(row["input_ids"]) for row in built.eval_dataset)


def test_rows_longer_than_the_context_of_the_base_are_refused(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)

    def gather(context: int | None) -> splits.Material:
        return splits.gather(
            records(4),
            ChatPool(),
            splits.counter(tokenizer),
            context=context,
            max_length=4096,
            validation_share=0,
            mix_ratio=1,
            seed=1,
        )

    assert len(gather(4096).train_records) == len(gather(None).train_records) == 4
    with pytest.raises(
        UserError, match=r"train.max_length = 4096 is above the context of the base, 4095 tokens; set it"
    ):
        gather(4095)


def test_what_is_held_out_is_taken_from_what_fits(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    lengths = sorted(len(splits.example_ids(tokenizer, format_chat(record))) for record in BUNDLED)
    limit = lengths[len(lengths) // 2]
    material = splits.gather(
        BUNDLED,
        ChatPool(),
        splits.counter(tokenizer),
        context=None,
        max_length=limit,
        validation_share=0.25,
        mix_ratio=1.0,
        seed=1,
    )
    fits = {record.id for record in material.fitted.records}
    assert {record.id for record in (*material.train_records, *material.validation_records)} == fits
    # All of them have a difficulty; half of the prompts show it.
    shown = sum(bool(record.difficulty) for record in material.train_records) / len(material.train_records)
    assert 0.3 < shown < 0.7
    assert len(material.validation_records) == round(0.25 * len(fits))
    assert material.mixed == Mixed() and material.chats == ([], [])
    text = material.text(limit)
    assert f"{len(BUNDLED)} records: {len(material.train_records)} to train on" in text
    assert f"and {len(BUNDLED) - len(fits) - 5} more; all of them are in run.json" in text


def test_the_same_share_of_the_chats_is_held_out_and_the_record_and_the_screen_say_so(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    pool = ChatPool("chats.jsonl", general_chats(100), 100, "f")

    def gather(share: float) -> splits.Material:
        return splits.gather(
            records(20), pool, splits.counter(tokenizer), context=None, max_length=600, validation_share=share,
            mix_ratio=2.0, seed=1,
        )  # fmt: skip

    material = gather(0.1)
    learnt, held = material.chats
    assert (len(learnt), len(held)) == (36, 4)
    assert sorted(map(str, [*learnt, *held])) == sorted(map(str, pool.examples[:40]))
    assert material.record()["mix"]["held_out"] == 4
    assert "; 4 of them held out, to measure what is forgotten" in material.text(600)
    assert gather(0.0).chats == (pool.examples[:40], [])


@pytest.mark.parametrize("modules", [["c_attn"], ["q_proj", "c_attn"], ["self_attn.q_proj", "c_attn"]])
def test_unknown_target_modules_are_a_users_mistake_also_among_known_ones(
    modules: list[str], small_base: Path, tmp_path: Path
) -> None:
    model = load(small_base)
    with pytest.raises(UserError, match="the model has no c_attn; correct the name, or use all-linear"):
        training.build_trainer(
            model=model,
            tokenizer=models.load_tokenizer(small_base),
            arguments=trainer(small_base, tmp_path).args,
            lora=training.lora_config(r=4, alpha=8, dropout=0.0, target_modules=modules),
            train_records=records(2),
            validation_records=[],
        )
