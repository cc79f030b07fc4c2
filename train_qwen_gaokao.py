"""Fine-tune the base model of config.yaml with 4-bit QLoRA to write gaokao questions.

python train_qwen_gaokao.py                          # one GPU, or a laptop: see without_gpu in config.yaml
python train_qwen_gaokao.py                          # the same command goes on after an interruption
torchrun --nproc_per_node 8 train_qwen_gaokao.py     # all GPUs of a machine
python train_qwen_gaokao.py --plan                   # memory, tokens, steps and hours; trains nothing
python train_qwen_gaokao.py --export DIR             # the finished run as a model, its adapter merged
python train_qwen_gaokao.py --help                   # its keys of config.yaml
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gaokao import export, plan, resume, runs, trackers
from gaokao.audit import summary_line
from gaokao.chats import ChatPool, load_pool
from gaokao.config import OTHER_DIR, OTHER_RUN
from gaokao.console import banner, last_lines, next_command, quiet_libraries
from gaokao.errors import Interrupted, run_script
from gaokao.records import Record, load_records
from gaokao.settings import Resolved, load_config, require_device
from gaokao.sources import as_arguments


def main(argv: list[str]) -> None:
    """Config -> records -> tokenizer and 4-bit base -> LoRA fine-tuning -> adapter and run record."""
    explain = ("train", "data", "lora", "model", "output")
    resolved = load_config(argv, prog="train_qwen_gaokao.py", description=__doc__, explain=explain, add=add_options)
    config = resolved.config
    if export.asked(resolved.actions):
        return export.export(resolved)
    records = load_records(config.data.train, "train", "data.train")
    pool = load_pool(config.data.mix, config.data.mix_ratio, len(records), config.train.seed, "data.mix")
    if resolved.actions.plan:
        print(plan.text(resolved, records, pool))
        return
    require_device(resolved)
    plan.require_room(resolved)
    trackers.prepare(config.train.report_to, config.run_folder)

    quiet_libraries()
    from gaokao import models

    processes = models.start_processes(resolved.gpus)
    first = processes.is_main_process
    runs.make_folder(Path(config.output.dir), OTHER_DIR)
    with runs.lock(config.run_folder, "train_qwen_gaokao.py", OTHER_RUN) if first else nullcontext():
        train(resolved, records, pool, processes, print if first else lambda *_: None)
        if first:
            print("\n".join(last_lines(resolved, next_command("infer_qwen_gaokao.py", argv))))
        processes.wait_for_everyone()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command can be asked for beside the keys of config.yaml."""
    plan.add_options(parser)
    export.add_options(parser)


def train(resolved: Resolved, records: list[Record], pool: ChatPool, processes: Any, say: Any) -> None:
    """One process of a training; an earlier run stays in its place until everything that can fail has not."""
    from accelerate.utils import broadcast_object_list

    from gaokao import adapters, models, splits, training

    # 1. What is trained: base, types, attention, and the records that fit.
    config, run, first = resolved.config, resolved.config.run_folder, processes.is_main_process
    options = {**config.model.model_dump(), "gpus": resolved.gpus, "process": processes.local_process_index}
    with processes.main_process_first():
        base = models.choose_base(**options, tiny_folder=Path(config.output.dir), say=say)
    count = splits.counter(base.tokenizer)
    material = splits.gather(records, pool, count, context=base.context, **splits.keys_of(config))
    adapter = adapters.adapter_record(base)
    say(f"{banner(resolved, base, processes=processes.num_processes)}\n{material.text(config.train.max_length)}")
    resolved, forecast = plan.settle_memory(resolved, base, processes.num_processes)
    say(forecast)
    if first:
        say(summary_line(records, as_arguments(config.data.train)))

    # 2. New, from a checkpoint, or finished: the first process decides for all.
    record = resume.new_record(resolved, base, adapter, material, processes.num_processes)
    start = resume.plan_start(run, config.train.resume, record) if first else resume.Start()
    say(f"start     {start.text}")
    (start,) = broadcast_object_list([start])
    if start.finished:
        return

    # 3. Train. The record stands there from the first step on: a resumed run is compared with it.
    trainer, batch = build(resolved, base, material, processes.num_processes)
    tokens = training.count_tokens(trainer.train_dataset)
    steps = start.steps or batch.steps(tokens["rows"], config.train.num_train_epochs, config.train.max_steps)
    say(f"training  {tokens['tokens']} tokens in {tokens['rows']} rows; {training.trainable_text(trainer.model)}")
    say("\n".join(filter(None, [batch.text(steps), plan.time_line(resolved, base, tokens, steps, batch)])))
    record |= {"steps_planned": steps, "tokens": tokens, "spans": [*start.spans]}
    if first and (aside := resume.open_run(run, record, start)):
        say(f"earlier   {aside}")
    processes.wait_for_everyone()
    span = training.run_training(trainer, start.checkpoint, steps, config.train.save_minutes)
    record |= {"steps": span.last_step, "history": trainer.state.log_history}
    record["spans"] += [span._asdict()] if span.tokens else []
    if not span.finished:
        if not first:
            sys.exit(130)
        runs.write_json(run / runs.RUN_RECORD, record | {"status": "interrupted"})
        raise Interrupted(f"after {span.last_step} of {steps} steps, all of them saved; the same command goes on")

    # 4. Adapter, loss curve, run record.
    step, why = training.keep_step(trainer, config.train.keep)
    training.measure_general(trainer, material.chats[1], step)
    if first:
        adapters.save_adapter(trainer.model, base.tokenizer, adapter, run / runs.ADAPTER, material.train_records)
        record |= {"adapter_step": step, "adapter_step_reason": why}
        training.finish(run, trainer.state, span, record)
        say(f"adapter   {run / runs.ADAPTER}, of step {step} of {span.last_step}: {why}")


def build(resolved: Resolved, base: Any, material: Any, processes: int) -> tuple[Any, Any]:
    """The trainer (4-bit base, LoRA adapter in fp32, loss on the completion only), and what an optimizer step learns from."""
    from gaokao import models, splits, training

    config = resolved.config
    batch = splits.Batch(config.train.effective_batch, config.train.per_device_train_batch_size, processes)
    arguments = training.sft_arguments(
        folder=config.run_folder / runs.CHECKPOINTS,
        dtype=base.dtype.value,
        on_gpu=resolved.gpus > 0,
        validate=bool(material.validation_records),
        gradient_accumulation_steps=batch.accumulated,
        **config.train.model_dump(exclude=training.OWN_KEYS),
    )
    trainer = training.build_trainer(
        model=models.keep_4bit_layout(models.load_base(base)),
        tokenizer=base.tokenizer,
        arguments=arguments,
        lora=training.lora_config(**config.lora.model_dump()),
        train_records=material.train_records,
        validation_records=material.validation_records,
        chats=material.chats,
        keep=config.train.keep,
        early_stopping=config.train.early_stopping,
    )
    return trainer, batch


if __name__ == "__main__":
    run_script(main)
