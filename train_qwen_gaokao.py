"""Fine-tune the base model of config.yaml with 4-bit QLoRA to write gaokao questions.

python train_qwen_gaokao.py                                  # one GPU, or a laptop: see without_gpu in config.yaml
torchrun --nproc_per_node 8 train_qwen_gaokao.py             # all GPUs of a machine (or: accelerate launch ...)
python train_qwen_gaokao.py --train.resume true              # go on after an interruption
python train_qwen_gaokao.py --help                           # every key of config.yaml
"""

import time
from pathlib import Path
from typing import Any

from gaokao.config import Resolved, load_config, require_device
from gaokao.console import banner, next_command, quiet_libraries
from gaokao.errors import Interrupted, UserError, run_script
from gaokao.mix import Mixed, Pool, choose, load_pool
from gaokao.records import Record, fingerprint, load_records
from gaokao.runs import ADAPTER, CHECKPOINTS, git_revision, make_folder, set_aside, versions, write_json
from gaokao.sources import as_arguments


def main(argv: list[str]) -> None:
    """Config -> records -> tokenizer and 4-bit base -> LoRA fine-tuning -> adapter and run record."""
    resolved = load_config(argv, prog="train_qwen_gaokao.py")
    config = resolved.config
    records = load_records(config.data.train, purpose="train")
    pool = load_pool(config.data.mix, config.data.mix_ratio, len(records), config.train.seed)
    require_device(resolved)
    train(resolved, records, pool, next_command("infer_qwen_gaokao.py", argv))


def train(resolved: Resolved, records: list[Record], pool: Pool, next_step: str) -> None:
    """Everything that needs torch."""
    quiet_libraries()
    from accelerate import PartialState

    from gaokao import models, training
    from gaokao_data.check import summary_line

    config, started = resolved.config, time.time()
    on_gpu = resolved.gpus > 0
    models.check_devices(resolved.gpus)
    state = PartialState(cpu=not on_gpu)
    device = f"cuda:{state.local_process_index}" if on_gpu else "cpu"
    say = print if state.is_main_process else lambda *_: None

    # 1. Where it goes: an earlier run of the same name is kept beside the new one.
    run = config.run_folder
    checkpoint = training.last_checkpoint(run / CHECKPOINTS) if config.train.resume else None
    if config.train.resume and checkpoint is None:
        raise UserError(f"train.resume: {run / CHECKPOINTS} holds no checkpoint; start without --train.resume")
    if state.is_main_process:
        make_folder(Path(config.output.dir))
        aside = None if config.train.resume else set_aside(run)
        make_folder(run)
        if aside:
            say(f"the earlier run was moved to {aside} (to go on with it instead: --train.resume true)")
    state.wait_for_everyone()

    # 2. What is trained: base, types, attention, and the records that fit.
    dtype = models.choose_dtype(config.model.dtype, on_gpu)
    attention = models.choose_attention(config.model.attention, on_gpu)
    with state.main_process_first():
        base = models.locate_base(
            config.model.base,
            config.model.hub,
            config.model.revision,
            Path(config.output.dir),
            say,
            trust_remote_code=config.model.trust_remote_code,
        )
    tokenizer = models.load_tokenizer(base, config.model.trust_remote_code)
    fitted = training.fit_records(records, tokenizer, config.train.max_length)
    learn, validation = training.hold_out(fitted.records, config.data.validation_share, config.train.seed)
    mixed = choose(
        pool,
        wanted=round(config.data.mix_ratio * len(learn)),
        length=lambda example: len(training.example_ids(tokenizer, example)),
        max_length=config.train.max_length,
    )
    say(
        banner(
            resolved,
            device=device if state.num_processes == 1 else f"{state.num_processes} processes, {device} and so on",
            base=f"{config.model.base}, quantization {config.model.quantization}",
            dtype=dtype,
            attention=attention,
        )
    )
    say(
        f"data      {len(records)} records: {len(learn)} to train on, {len(validation)} to validate, "
        f"{len(fitted.overlong)} over {config.train.max_length} tokens left out; "
        f"longest {max(fitted.lengths)} tokens, mean {sum(fitted.lengths) / len(fitted.lengths):.0f}"
    )
    for identity, length in fitted.overlong[:5]:
        say(f"          left out: {identity} ({length} tokens; train.max_length {config.train.max_length})")
    if state.is_main_process:
        say(summary_line(records, as_arguments(config.data.train)))
    if mixed.record:
        say(f"mix       {mixed.text}")

    # 3. The trainer: 4-bit base, LoRA adapter in fp32, loss on the completion only.
    model = models.load_base(
        base,
        quantization=config.model.quantization,
        dtype=dtype.value,
        attention=attention.value,
        device=device,
        trust_remote_code=config.model.trust_remote_code,
    )
    models.keep_4bit_layout(model)
    arguments = training.sft_arguments(
        folder=run / CHECKPOINTS,
        dtype=dtype.value,
        on_gpu=on_gpu,
        validate=bool(validation),
        **config.train.model_dump(exclude={"resume"}),
    )
    trainer = training.build_trainer(
        model=model,
        tokenizer=tokenizer,
        arguments=arguments,
        lora=training.lora_config(**config.lora.model_dump()),
        train=learn,
        validation=validation,
        mixed=mixed.examples,
    )
    tokens = training.count_tokens(trainer.train_dataset)
    say(f"training  {tokens['tokens']} tokens in {tokens['rows']} rows; {training.trainable_text(trainer.model)}")

    # 4. Train; Ctrl-C keeps a checkpoint.
    steps = training.fit(trainer, checkpoint)
    finished = steps >= trainer.state.max_steps
    if not finished:
        kept = training.last_checkpoint(run / CHECKPOINTS)
        where = f"the checkpoint {kept} is kept; go on with --train.resume true" if kept else "no step was finished"
        raise Interrupted(f"after {steps} of {trainer.state.max_steps} steps; {where}")

    # 5. Adapter, loss curve, run record.
    if state.is_main_process:
        record = models.adapter_record(config.model.base, base, config.model.quantization, tokenizer)
        models.save_adapter(trainer.model, tokenizer, record, run / ADAPTER)
        training.plot_loss(trainer.state.log_history, run / "loss.png")
        metrics = training.final_metrics(trainer.state.log_history)
        write_json(
            run / "run.json",
            run_record(resolved, records, fitted, learn, validation, mixed, tokens)
            | {
                "dtype": dtype._asdict(),
                "attention": attention._asdict(),
                "processes": state.num_processes,
                "adapter": vars(record),
                "metrics": metrics,
                "seconds": round(time.time() - started, 1),
                "history": trainer.state.log_history,
            },
        )
        say(f"result    {training.metrics_text(metrics)}, {time.time() - started:.0f} s")
        say(f"files     {run / ADAPTER}, {run / 'loss.png'}, {run / 'run.json'}")
        say(f"next      {next_step}")
    state.wait_for_everyone()


def run_record(
    resolved: Resolved,
    records: list[Record],
    fitted: Any,
    learn: list[Record],
    validation: list[Record],
    mixed: Mixed,
    tokens: dict[str, int],
) -> dict[str, Any]:
    """What the run was made from."""
    return {
        "config": resolved.config.model_dump(),
        "replaced_without_gpu": {key: list(pair) for key, pair in resolved.replaced.items()},
        "data": {
            "file": resolved.config.data.train,
            "fingerprint": fingerprint(records),
            "records": len(records),
            "train": len(learn),
            "validation": [record.id for record in validation],
            "overlong": [{"id": identity, "tokens": length} for identity, length in fitted.overlong],
            "mix": mixed.record,
            "tokens": tokens,
        },
        "versions": versions(),
        "git_revision": git_revision(),
    }


if __name__ == "__main__":
    run_script(main)
