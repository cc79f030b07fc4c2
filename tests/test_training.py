"""Fine-tuning learns the completion only, keeps every record whole, and is repeatable, also with validation in 4 bit."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, record_row
from transformers import TrainerCallback, TrainerControl, TrainerState

from gaokao import models, training
from gaokao.errors import UserError
from gaokao.prompts import format_chat, render
from gaokao.records import Raw, Record, load_records, parse_record

BUNDLED = load_records(ROOT / "gaokao_data" / "train.json")


def records(count: int) -> list[Record]:
    made = [parse_record(Raw("x", record_row(number)), number, "train")[0] for number in range(count)]
    return [record for record in made if record is not None]


def trainer(base: Path, folder: Path, *, validation: int = 0, dtype: str = "fp32", **changes: Any) -> Any:
    """The project's own trainer on the small base, a few steps."""
    settings: dict[str, Any] = {
        "max_steps": 4,
        "eval_steps": 2,
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
    model = models.load_base(base, quantization="nf4", dtype=dtype, attention="sdpa", device="cpu")
    models.keep_4bit_layout(model)
    return training.build_trainer(
        model=model,
        tokenizer=models.load_tokenizer(base),
        arguments=training.sft_arguments(
            folder=folder, dtype=dtype, on_gpu=False, validate=validation > 0, **(settings | changes)
        ),
        lora=training.lora_config(r=4, alpha=8, dropout=0.0, target_modules="all-linear"),
        train=records(12),
        validation=records(20)[12 : 12 + validation],
    )


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
    lengths = [len(training.example_ids(tokenizer, format_chat(record))) for record in records(12)]
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


def test_validation_in_4_bit_does_not_disturb_training(small_base: Path, tmp_path: Path) -> None:
    # bf16 is what makes bitsandbytes repack the weights on CPUs with AVX512-BF16; elsewhere this holds as well.
    with_validation = trainer(small_base, tmp_path / "a", validation=3, dtype="bf16", eval_steps=1)
    training.fit(with_validation, None)
    without = trainer(small_base, tmp_path / "b", dtype="bf16")
    training.fit(without, None)
    assert losses(with_validation) == losses(without)
    assert sum("eval_loss" in entry for entry in with_validation.state.log_history) == 4


def test_a_seed_gives_the_same_losses_and_another_one_others(small_base: Path, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        built = trainer(small_base, tmp_path / name, seed=seed)
        training.fit(built, None)
        runs.append(losses(built))
    assert runs[0] == runs[1] != runs[2]
    assert all(map(math.isfinite, runs[0]))


def test_the_loss_falls(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, max_steps=40, learning_rate=5e-3)
    training.fit(built, None)
    assert losses(built)[-1] < 0.95 * losses(built)[0]


def test_a_resumed_run_goes_on_with_the_losses_of_an_uninterrupted_one(small_base: Path, tmp_path: Path) -> None:
    whole = trainer(small_base, tmp_path / "a", max_steps=4)
    training.fit(whole, None)
    trainer_until_2 = trainer(small_base, tmp_path / "b", max_steps=4, save_steps=2)
    trainer_until_2.add_callback(_StopAt(2))
    assert training.fit(trainer_until_2, None) == 2
    checkpoint = training.last_checkpoint(tmp_path / "b")
    assert checkpoint is not None and checkpoint.name == "checkpoint-2"
    resumed = trainer(small_base, tmp_path / "b", max_steps=4)
    training.fit(resumed, checkpoint)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_training_stop = True


def test_overlong_records_are_left_out_whole_and_named(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    lengths = sorted(len(training.example_ids(tokenizer, format_chat(record))) for record in BUNDLED)
    limit = lengths[len(lengths) // 2]
    fitted = training.fit_records(BUNDLED, tokenizer, limit)
    assert len(fitted.records) + len(fitted.overlong) == len(BUNDLED)
    assert max(fitted.lengths) <= limit < min(length for _, length in fitted.overlong)


def test_every_record_overlong_is_an_error_that_names_the_shortest(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    with pytest.raises(UserError, match=r"every one of the 207 records is longer; the shortest has \d+ tokens"):
        training.fit_records(BUNDLED, tokenizer, 64)


def test_the_held_out_share_is_taken_at_random_once_for_a_seed() -> None:
    train, validation = training.hold_out(BUNDLED, 0.1, 1)
    assert len(validation) == round(0.1 * len(BUNDLED))
    assert {r.id for r in train}.isdisjoint(r.id for r in validation)
    assert training.hold_out(BUNDLED, 0.1, 1) == (train, validation)
    assert training.hold_out(BUNDLED, 0.1, 2)[1] != validation
    assert training.hold_out(BUNDLED, 0.0, 1)[1] == []
    assert len(training.hold_out(BUNDLED[:5], 0.01, 1)[1]) == 1


def test_a_loss_that_is_not_a_number_stops_with_the_remedy(tmp_path: Path) -> None:
    arguments = training.sft_arguments(
        folder=tmp_path, dtype="fp32", on_gpu=False, validate=False, max_steps=1, eval_steps=None,
        per_device_train_batch_size=1, gradient_checkpointing=False, seed=1, learning_rate=0.5,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"loss became nan at step 3.*Lower train.learning_rate \(now 0.5\)"):
        training.StopOnNan().on_log(arguments, TrainerState(global_step=3), TrainerControl(), {"loss": math.nan})


def test_diverging_training_really_ends_in_that_message(small_base: Path, tmp_path: Path) -> None:
    built = trainer(small_base, tmp_path, max_steps=3)
    with torch.no_grad():
        next(p for p in built.model.parameters() if p.requires_grad).fill_(math.nan)
    with pytest.raises(UserError, match="became nan at step 1"):
        training.fit(built, None)


def test_nothing_is_reported_to_any_tracker(tmp_path: Path) -> None:
    arguments = training.sft_arguments(
        folder=tmp_path, dtype="fp32", on_gpu=False, validate=False, max_steps=1, eval_steps=None,
        per_device_train_batch_size=1, gradient_checkpointing=False, seed=1,
    )  # fmt: skip
    assert arguments.report_to == []


def test_unknown_target_modules_are_a_users_mistake(small_base: Path, tmp_path: Path) -> None:
    model = models.load_base(small_base, quantization="nf4", dtype="fp32", attention="sdpa", device="cpu")
    with pytest.raises(UserError, match="the model has none of them; use all-linear"):
        training.build_trainer(
            model=model,
            tokenizer=models.load_tokenizer(small_base),
            arguments=trainer(small_base, tmp_path).args,
            lora=training.lora_config(r=4, alpha=8, dropout=0.0, target_modules=["c_attn"]),
            train=records(2),
            validation=[],
        )


def test_the_loss_plot_is_a_png(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 1.5}]
    training.plot_loss(history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
