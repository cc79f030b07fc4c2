"""Fine-tune the base model of config.yaml with 4-bit QLoRA to write gaokao questions.

python train_qwen_gaokao.py                                  # one GPU, or a laptop: see without_gpu in config.yaml
python train_qwen_gaokao.py                                  # the same command goes on after an interruption
torchrun --nproc_per_node 8 train_qwen_gaokao.py             # all GPUs of a machine
python train_qwen_gaokao.py --help                           # every key of config.yaml
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gaokao import runs
from gaokao.audit import summary_line
from gaokao.chats import ChatPool, load_pool
from gaokao.console import banner, last_lines, next_command, quiet_libraries
from gaokao.errors import Interrupted, run_script
from gaokao.records import Record, fingerprint, load_records
from gaokao.settings import Resolved, load_config, require_device
from gaokao.sources import as_arguments


def main(argv: list[str]) -> None:
    """Config -> records -> tokenizer and 4-bit base -> LoRA fine-tuning -> adapter and run record."""
    resolved = load_config(argv, prog="train_qwen_gaokao.py")
    config = resolved.config
    records = load_records(config.data.train, purpose="train")
    pool = load_pool(config.data.mix, config.data.mix_ratio, len(records), config.train.seed)
    require_device(resolved)

    quiet_libraries()
    from gaokao import models, training

    models.check_devices(resolved.gpus)
    processes = training.start_processes(resolved.gpus > 0)
    runs.make_folder(Path(config.output.dir))
    with runs.lock(config.run_folder, "train_qwen_gaokao.py") if processes.is_main_process else nullcontext():
        train(resolved, records, pool, processes, next_command("infer_qwen_gaokao.py", argv))
        processes.wait_for_everyone()


def train(resolved: Resolved, records: list[Record], pool: ChatPool, processes: Any, next_step: str) -> None:
    """One process of a training; an earlier run stays in its place until everything that can fail has not."""
    from accelerate.utils import broadcast_object_list

    from gaokao import adapters, models, training

    config, run, on_gpu = resolved.config, resolved.config.run_folder, resolved.gpus > 0
    say = print if processes.is_main_process else lambda *_: None

    # 1. What is trained: base, types, attention, and the records that fit.
    device = f"cuda:{processes.local_process_index}" if on_gpu else "cpu"
    dtype = models.choose_dtype(config.model.dtype, on_gpu)
    attention = models.choose_attention(config.model.attention, on_gpu, dtype.value)
    with processes.main_process_first():
        origin = (config.model.base, config.model.hub, config.model.revision)
        base = models.locate_base(*origin, Path(config.output.dir), say, config.model.trust_remote_code)
    models.require_context(base, config.train.max_length)
    tokenizer = models.load_tokenizer(base, config.model.trust_remote_code)
    material = splits.gather(
        records,
        pool,
        tokenizer,
        max_length=config.train.max_length,
        validation_share=config.data.validation_share,
        mix_ratio=config.data.mix_ratio,
        seed=config.train.seed,
    )
    adapter = adapters.adapter_record(config.model.base, base, config.model.quantization, tokenizer)
    named = device if processes.num_processes == 1 else f"{processes.num_processes} processes, {device} and so on"
    kind = f"{config.model.base}, quantization {config.model.quantization}"
    say(banner(resolved, device=named, base=kind, dtype=dtype, attention=attention))
    say(material.text(config.train.max_length))
    if processes.is_main_process:
        say(summary_line(records, as_arguments(config.data.train)))

    # 2. New, from a checkpoint, or finished: the first process decides for all.
    record = resume.new_record(
        config.model_dump(),
        decisive={
            "model.base": adapter.base_fingerprint[:16],
            "model.dtype": dtype.value,
            "model.attention": attention.value,
            "data.train": fingerprint(records)[:16],
            **material.fingerprints(),
            "processes": processes.num_processes,
        },
        replaced_without_gpu=resolved.replaced,
        adapter=vars(adapter),
        data={"file": config.data.train, "records": len(records), **material.record()},
        dtype=dtype._asdict(),
        attention=attention._asdict(),
    )
    start = resume.Start()
    if processes.is_main_process:
        start = resume.plan_start(run, config.train.resume, record)
        say(f"start     {start.text}")
    (start,) = broadcast_object_list([start])
    if start.finished:
        say("\n".join(last_lines(resolved, next_step)))
        return

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
    at_once = config.train.per_device_train_batch_size
    batch = training.Batch(config.train.effective_batch, at_once, processes.num_processes)
    trainer = training.build_trainer(
        model=model,
        tokenizer=tokenizer,
        arguments=training.sft_arguments(
            folder=run / runs.CHECKPOINTS,
            dtype=dtype.value,
            on_gpu=on_gpu,
            validate=bool(material.validation),
            gradient_accumulation_steps=batch.accumulated,
            **config.train.model_dump(exclude=training.OWN_KEYS),
        ),
        lora=training.lora_config(**config.lora.model_dump()),
        train=material.learn,
        validation=material.validation,
        mixed=material.mixed.examples,
        keep=config.train.keep,
        early_stopping=config.train.early_stopping,
    )
    tokens = training.count_tokens(trainer.train_dataset)
    steps = start.steps or batch.steps(tokens["rows"], config.train.num_train_epochs, config.train.max_steps)
    say(f"training  {tokens['tokens']} tokens in {tokens['rows']} rows; {training.trainable_text(trainer.model)}")
    say(batch.text(steps))

    # 4. Train. The record stands there from the first step on: a resumed run is compared with it.
    record |= {"steps_planned": steps, "tokens": tokens, "spans": [*start.spans]}
    if processes.is_main_process and (aside := resume.open_run(run, record, start)):
        say(f"earlier   {aside}")
    processes.wait_for_everyone()
    span = training.run_training(trainer, start.checkpoint, steps, config.train.save_minutes)
    record |= {"steps": span.last_step, "history": trainer.state.log_history}
    record["spans"] += [span._asdict()] if span.tokens else []
    if not span.finished:
        if not processes.is_main_process:
            sys.exit(130)
        runs.write_json(run / runs.RUN_RECORD, record | {"status": "interrupted"})
        raise Interrupted(f"after {span.last_step} of {steps} steps, all of them saved; the same command goes on")

    # 5. Adapter, loss curve, run record.
    step, why = training.keep_step(trainer, config.train.keep)
    if processes.is_main_process:
        adapters.save_adapter(trainer.model, tokenizer, adapter, run / runs.ADAPTER)
        training.plot_loss(trainer.state.log_history, run / "loss.png")
        metrics = training.final_metrics(trainer.state, span)
        record |= {"status": "finished", "adapter_step": step, "adapter_step_reason": why, "metrics": metrics}
        runs.write_json(run / runs.RUN_RECORD, record)
        say(f"result    {training.metrics_text(metrics)}; {span.seconds:.0f} s for {span.steps} steps")
        say(f"adapter   of step {step} of {span.last_step}: {why}")
        say(f"files     {run / runs.ADAPTER}, {run / 'loss.png'}, {run / runs.RUN_RECORD}")
        say("\n".join(last_lines(resolved, next_step)))


if __name__ == "__main__":
    run_script(main)
