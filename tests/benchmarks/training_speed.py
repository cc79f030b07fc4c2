"""How fast a small model is tuned on a CPU: trl's own defaults, ours, ours without each lever, and LLaMA-Factory beside it.

    python -m tests.benchmarks.training_speed --base DIR --data data/bench/train.json
    python -m tests.benchmarks.training_speed --base DIR --data data/bench/train.json --llamafactory lf/bin/python

Every way learns the same records once, with the same adapter, in the same number of optimizer steps and in a process of its
own. Prints a line a way, with ratios to the first one: real tokens (no padding) a second and a CPU second (which neighbours on
the machine disturb less), peak memory of the process, and the loss per completion token on the same validation records.
Compare within one run only: machines and moments differ. `--llamafactory` names the Python of an environment with LLaMA-Factory.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from gaokao import models, splits, training
from gaokao.prompts import format_chat
from gaokao.records import Record, load_records

SEED = 5
# What trl takes at once by default, and what LLaMA-Factory's examples accumulate.
RECORDS_A_STEP = 8
# How each of our ways differs from the first.
LEVERS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, without packing": {"packing": False},
    "ours, trl's own loss": {"plain_loss": True},
    "ours, dropout 0.05": {"dropout": 0.05},
    "ours, gradient checkpointing": {"gradient_checkpointing": True},
    "ours, rows twice as long": {"rows": 2},
}
# Does something only where there is an autocast.
CAST = {"ours, adapter inputs cast": {"cast": True}}
# LLaMA-Factory 0.9.5 imports torchaudio, of which there is no build for torch 2.13, and uses it for sound only.
LLAMA_FACTORY = """
import importlib.machinery, json, sys, time, types
from transformers import TrainerCallback
sound = types.ModuleType("torchaudio")
sound.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
sys.modules["torchaudio"] = sound
from llamafactory.train.tuner import run_exp

class Watch(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter(), time.process_time()
    def on_train_end(self, args, state, control, **kwargs):
        found = {"seconds": time.perf_counter() - self.start[0], "cpu": time.process_time() - self.start[1]}
        found |= {"tokens": int(state.num_input_tokens_seen), "steps": state.global_step}
        json.dump(found, open(sys.argv[2], "w"))

run_exp(json.load(open(sys.argv[1])), [Watch()])
"""


def main() -> None:
    """Run every way in a process of its own, then one that measures what they have learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a real model")
    parser.add_argument("--data", type=Path, required=True, help="records that are learnt")
    parser.add_argument("--llamafactory", metavar="PYTHON", help="of its environment; left out without it")
    parser.add_argument("--steps", type=int, default=3, help=f"optimizer steps, {RECORDS_A_STEP} records each")
    parser.add_argument("--max-length", type=int, default=384, help="tokens of the longest record and of a row")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--validation", type=int, default=8, help="records that the loss is measured on")
    parser.add_argument("--dtype", default="fp32", choices=("bf16", "fp32"))
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options, options.child[0], Path(options.child[1]))
        return
    levers = LEVERS | (CAST if options.dtype != "fp32" else {})
    ways = options.ways or ["trl's defaults", *(["LLaMA-Factory"] if options.llamafactory else []), *levers]
    with tempfile.TemporaryDirectory() as folder:
        peaks = {way: measure(options, way, Path(folder) / str(number)) for number, way in enumerate(ways)}
        measure(options, "judge", Path(folder))
        losses = json.loads((Path(folder) / "losses.json").read_text(encoding="utf-8"))
        print(f"the base without an adapter: validation loss {losses['base']:.4f}")
        first: dict[str, float] = {}
        for number, (way, peak) in enumerate(peaks.items()):
            found = json.loads((Path(folder) / str(number) / "found.json").read_text(encoding="utf-8"))
            wall, cpu = found["tokens"] / found["seconds"], found["tokens"] / found["cpu"]
            first = first or {"wall": wall, "cpu": cpu}
            print(
                f"{way:30} {found['tokens']:6} tokens in {found['steps']} steps  {wall:6.1f} tokens/s {wall / first['wall']:5.2f}x  "
                f"{cpu:6.1f} a CPU second {cpu / first['cpu']:5.2f}x  peak {peak:.1f} GB  validation loss {losses[str(number)]:.4f}"
            )


def measure(options: argparse.Namespace, way: str, folder: Path) -> float:
    """Run one way; returns the peak memory of its process in GB."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    if way == "LLaMA-Factory":
        command = llama_factory(options, folder)
    else:
        command = [sys.executable, "-m", "tests.benchmarks.training_speed", *sys.argv[1:], "--child", way, str(folder)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{way} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    print(f"          {way} done, {usage.ru_utime + usage.ru_stime:.0f} CPU seconds with loading", file=sys.stderr)
    return usage.ru_maxrss / 2**20


def choose(options: argparse.Namespace, tokenizer: Any) -> tuple[list[Record], list[Record]]:
    """What is learnt and what is validated on, all short enough."""
    records = load_records(options.data, "train")
    fitted = splits.filter_by_length(records, splits.counter(tokenizer), options.max_length)
    wanted = RECORDS_A_STEP * options.steps
    drawn = random.Random(SEED).sample(fitted.records, wanted + options.validation)
    return drawn[:wanted], drawn[wanted:]


def child(options: argparse.Namespace, way: str, folder: Path) -> None:
    """One way, or the judge of all, in this process."""
    base = models.choose_base(
        base=options.base, quantization="none", dtype=options.dtype, attention="sdpa", tiny_folder=folder, gpus=0
    )
    learnt, validated = choose(options, base.tokenizer)
    if way == "judge":
        judge(models.load_base(base), base.tokenizer, validated, folder)
        return
    if way == "trl's defaults":
        trainer = plain_trainer(options, base, learnt, folder)
    else:
        trainer = our_trainer(options, base, learnt, folder, **(LEVERS | CAST)[way])
    watch = _Watch()
    trainer.add_callback(watch)
    training.run_training(trainer, None, options.steps) if way != "trl's defaults" else trainer.train()
    trainer.model.save_pretrained(folder / "adapter")
    tokens = sum(len(splits.example_ids(base.tokenizer, format_chat(record))) for record in learnt)
    found = {"seconds": watch.seconds, "cpu": watch.cpu, "tokens": tokens, "steps": trainer.state.global_step}
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


class _Watch(TrainerCallback):
    """Time and CPU time of all steps, without loading."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds, self.cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]


def plain_trainer(options: argparse.Namespace, base: models.Base, learnt: Sequence[Record], folder: Path) -> Any:
    """trl as it is without settings: eight rows at once, padded, with gradient checkpointing; only the type is said."""
    return SFTTrainer(
        model=models.load_base(base),
        args=SFTConfig(
            output_dir=str(folder / "checkpoints"),
            max_length=options.max_length,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            bf16=options.dtype == "bf16",
            seed=SEED,
            use_cpu=True,
            report_to="none",
        ),
        processing_class=base.tokenizer,
        peft_config=training.lora_config(
            r=options.rank, alpha=2 * options.rank, dropout=0.0, target_modules="all-linear"
        ),
        train_dataset=training.as_dataset(learnt),
    )


def our_trainer(
    options: argparse.Namespace,
    base: models.Base,
    learnt: Sequence[Record],
    folder: Path,
    *,
    packing: bool = True,
    plain_loss: bool = False,
    dropout: float = 0.0,
    gradient_checkpointing: bool = False,
    rows: int = 1,
    cast: bool = False,
) -> Any:
    """Ours; as many rows a step as make so many steps of the whole."""
    if plain_loss:
        setattr(training, "score_once", lambda model: None)  # noqa: B010 - mypy knows it as loss's
    if cast:
        setattr(training, "disable_input_dtype_casting", contextlib.nullcontext)  # noqa: B010 - mypy knows it as peft's
    lengths = [len(splits.example_ids(base.tokenizer, format_chat(record))) for record in learnt]
    count = len(splits.packed_rows(lengths, rows * options.max_length)) if packing else len(learnt)
    return training.build_trainer(
        model=models.load_base(base),
        tokenizer=base.tokenizer,
        arguments=training.sft_arguments(
            folder=folder / "checkpoints",
            dtype=options.dtype,
            on_gpu=False,
            validate=False,
            max_steps=options.steps,
            eval_steps=None,
            gradient_checkpointing=gradient_checkpointing,
            packing=packing,
            max_length=rows * options.max_length,
            learning_rate=options.learning_rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=-(-count // options.steps),
            optim="adamw_torch",
            logging_steps=1,
            seed=SEED,
        ),
        lora=training.lora_config(r=options.rank, alpha=2 * options.rank, dropout=dropout, target_modules="all-linear"),
        train_records=learnt,
        validation_records=[],
    )


def llama_factory(options: argparse.Namespace, folder: Path) -> list[str]:
    """Its command, with the records in its form; settings not named here are its defaults."""
    tokenizer = models.load_tokenizer(Path(options.base))
    learnt, _ = choose(options, tokenizer)
    examples = [format_chat(record) for record in learnt]
    rows = [{"messages": [*example["prompt"], *example["completion"]]} for example in examples]
    (folder / "train.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "file_name": "train.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**tags, "system_tag": "system"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"bench": info}), encoding="utf-8")
    settings = {
        "model_name_or_path": str(in_type(Path(options.base), options.dtype, folder / "base")),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": options.rank,
        "lora_alpha": 2 * options.rank,
        "template": "qwen",
        "dataset": "bench",
        "dataset_dir": str(folder),
        "cutoff_len": options.max_length,
        "output_dir": str(folder / "adapter"),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": RECORDS_A_STEP,
        "max_steps": options.steps,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant",
        "bf16": options.dtype == "bf16",
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "seed": SEED,
        "use_cpu": True,
        "report_to": "none",
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return [options.llamafactory, "-c", LLAMA_FACTORY, str(folder / "settings.json"), str(folder / "found.json")]


def in_type(base: Path, dtype: str, folder: Path) -> Path:
    """The model for a program that loads it in the type of its config.json: links to its files, and a config of its own."""
    folder.mkdir()
    for file in base.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = {"bf16": "bfloat16", "fp32": "float32"}[dtype]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def judge(model: Any, tokenizer: Any, validated: Sequence[Record], folder: Path) -> None:
    """The loss per completion token of the base and of every adapter on the same records."""
    losses = {"base": loss(model, tokenizer, validated)}
    adapted: Any = None
    for adapter in sorted(folder.glob("*/adapter")):
        name = adapter.parent.name
        if adapted is None:
            adapted = PeftModel.from_pretrained(model, adapter, adapter_name=name)
        else:
            adapted.load_adapter(adapter, adapter_name=name)
        adapted.set_adapter(name)
        losses[name] = loss(adapted, tokenizer, validated)
    (folder / "losses.json").write_text(json.dumps(losses), encoding="utf-8")


def loss(model: Any, tokenizer: Any, records: Sequence[Record]) -> float:
    """Per completion token, from plain logits, one record at a time."""
    total, tokens = 0.0, 0
    model.eval()
    for record in records:
        example = format_chat(record)
        ids = torch.tensor([splits.example_ids(tokenizer, example)])
        start = len(models.prompt_ids(tokenizer, example["prompt"]))
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum"))
        tokens += ids.shape[1] - start
    return total / tokens


if __name__ == "__main__":
    main()
