"""Train and generate at full size with random weights on this machine, and print memory, speed and what holds.

    python -m tests.gpu_check                     # 14B on a GPU: writes 30 GB to a temporary folder, twenty minutes or so
    python -m tests.gpu_check --size 7B
    python -m tests.gpu_check --folder /big/disk  # where the random base is written; it is removed at the end

Needs no download: the base is the real Qwen2.5 architecture with random bf16 weights, which cost the same memory and
time as trained ones. Everything else is the project's own path with the shipped config.yaml: load in NF4, ten training
steps, checkpoint, resume, generation with the adapter; with sdpa, with FlashAttention 2 where it is installed, in bf16
where the GPU has it, and in fp16. Losses and texts mean nothing here. Without a GPU the same path runs on a tiny size.

TFLOP/s count 6 x parameters of the linear layers x tokens/s: forward, the same again for gradient checkpointing, and a
backward pass that needs the gradients of the activations only, because the base is frozen.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from gaokao import adapters, generation, memory, models, runs, splits, tiny, training
from gaokao.chats import ChatPool
from gaokao.config import Config
from gaokao.console import quiet_libraries
from gaokao.errors import UserError, run_script
from gaokao.records import load_records
from gaokao.settings import load_config
from gaokao.shapes import TABLE, TINY, Shape

STEPS, SAVED_AT = 10, 5
PROMPTS, NEW_TOKENS = 8, 128
GB = 1e9


SHAPES = {"tiny": TINY, **{size: TABLE[f"Qwen2.5-{size}"] for size in ("0.5B", "7B", "14B")}}
# What README.md says of the shipped settings at 14B, computed, in GB.
CLAIMED = {"weights of the loaded base": 9.9, "peak of training": 14.4, "memory of the smallest GPU named": 24.0}


class Measured(NamedTuple):
    """Figures of one pass; memory in bytes."""

    weights: int
    training_peak: int
    tokens_per_second: float
    losses: list[float]
    resumed: list[float]
    generation_peak: int
    generated_per_second: float
    scale_overflows: int


def tensors(shape: Shape) -> Iterator[dict[str, torch.Size]]:
    """Names and shapes of the weights, in groups that are written to a file each."""
    width = shape.key_width
    yield {"model.embed_tokens.weight": torch.Size([shape.vocabulary, shape.hidden])}
    for number in range(shape.layers):
        prefix = f"model.layers.{number}."
        sizes: dict[str, list[int]] = {
            "self_attn.q_proj.weight": [shape.hidden, shape.hidden], "self_attn.q_proj.bias": [shape.hidden],
            "self_attn.k_proj.weight": [width, shape.hidden], "self_attn.k_proj.bias": [width],
            "self_attn.v_proj.weight": [width, shape.hidden], "self_attn.v_proj.bias": [width],
            "self_attn.o_proj.weight": [shape.hidden, shape.hidden],
            "mlp.gate_proj.weight": [shape.intermediate, shape.hidden],
            "mlp.up_proj.weight": [shape.intermediate, shape.hidden],
            "mlp.down_proj.weight": [shape.hidden, shape.intermediate],
            "input_layernorm.weight": [shape.hidden], "post_attention_layernorm.weight": [shape.hidden],
        }  # fmt: skip
        yield {prefix + name: torch.Size(size) for name, size in sizes.items()}
    last = {"model.norm.weight": torch.Size([shape.hidden])}
    yield last if shape.tied else {**last, "lm_head.weight": torch.Size([shape.vocabulary, shape.hidden])}


def write_base(folder: Path, shape: Shape) -> None:
    """A Transformers folder with random weights, written group by group, so that it never is in memory as a whole."""
    folder.mkdir(parents=True)
    tokenizer = tiny.train_tokenizer([record.textbook + record.question for record in load_records(tiny.BUNDLED)])
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "dtype": "bfloat16",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.key_value_heads, "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied, "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    runs.write_json(folder / "config.json", config)
    draw = torch.Generator().manual_seed(0)
    groups = list(tensors(shape))
    places: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        weights = {}
        for name, size in group.items():
            ones = name.endswith("norm.weight")
            # Drawn in bf16: a GPU machine has little more main memory than the largest matrix needs.
            drawn = torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02, generator=draw)
            weights[name] = torch.ones(size, dtype=torch.bfloat16) if ones else drawn
            places[name] = file
        save_file(weights, folder / file, {"format": "pt"})
        print(f"\rwriting the random base: {number} of {len(groups)} files", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    runs.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def peak(device: str) -> int:
    """Most bytes that torch held on the GPU since the last call; 0 on a CPU."""
    if device == "cpu":
        return 0
    most = int(torch.cuda.max_memory_reserved())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return most


def loaded_bytes(model: Any, on_gpu: bool) -> int:
    """What a model that was just loaded holds, the constants of its quantization included on a GPU."""
    return int(torch.cuda.memory_allocated() if on_gpu else model.get_memory_footprint())


def measure(base: Path, out: Path, config: Config, device: str, dtype: str, attention: str) -> Measured:
    """One pass: load, train, resume, generate, with the functions that the scripts call."""
    on_gpu = device != "cpu"
    chosen = models.choose_base(
        base=str(base), dtype=dtype, attention=attention, tiny_folder=out, gpus=torch.cuda.device_count()
    )
    tokenizer = chosen.tokenizer
    records = load_records(tiny.BUNDLED)
    # `auto` would leave it off on a large card, and the forecast beside it is that of `memory.setup_of`.
    fixed = {"gradient_checkpointing": config.train.gradient_checkpointing is not False}
    settings = config.train.model_copy(update={"max_steps": STEPS, "save_steps": SAVED_AT, "eval_steps": None, **fixed})
    material = splits.gather(
        records,
        ChatPool(),
        splits.counter(tokenizer),
        context=chosen.context,
        max_length=settings.max_length,
        validation_share=0.0,
        mix_ratio=0.0,
        seed=1,
    )
    peak(device)

    def load() -> Any:
        return models.load_base(chosen)

    def trainer() -> Any:
        batch = splits.Batch(settings.effective_batch, settings.per_device_train_batch_size, 1)
        return training.build_trainer(
            model=models.keep_4bit_layout(load()),
            tokenizer=tokenizer,
            arguments=training.sft_arguments(
                folder=out,
                dtype=dtype,
                on_gpu=on_gpu,
                validate=False,
                gradient_accumulation_steps=batch.accumulated,
                **settings.model_dump(exclude=training.OWN_KEYS),
            ),
            lora=training.lora_config(**config.lora.model_dump()),
            train_records=material.train_records,
            validation_records=[],
        )

    def losses(state: Any) -> list[float]:
        return [entry["loss"] for entry in state.log_history if "loss" in entry]

    weights = loaded_bytes(load(), on_gpu)
    peak(device)
    first = trainer()
    span = training.run_training(first, None, STEPS)
    training_peak = peak(device)
    norms = [entry.get("grad_norm", 0.0) for entry in first.state.log_history if "loss" in entry]
    seen = losses(first.state)
    record = adapters.adapter_record(chosen)
    adapters.save_adapter(first.model, tokenizer, record, out / "adapter")
    del first
    second = trainer()
    training.run_training(second, out / f"checkpoint-{SAVED_AT}", STEPS)
    resumed = losses(second.state)
    del second
    peak(device)

    adapters.check_adapter(out / "adapter", record)
    model: Any = adapters.load_adapter(load(), out / "adapter")
    options = config.generate.model_dump(include=generation.SAMPLING_KEYS) | {"max_new_tokens": NEW_TOKENS}
    size = config.generate.batch_size
    writer = generation.Writer(model, tokenizer, batch_size=size if isinstance(size, int) else PROMPTS, **options)
    # Random weights end where they like: every answer is made as long as the others.
    writer.settings.min_new_tokens = NEW_TOKENS
    prompts = generation.build_prompts(records[:PROMPTS], tokenizer, NEW_TOKENS, model.config.max_position_embeddings)
    started = time.perf_counter()
    outputs = list(writer.write(prompts, [str(number) for number in range(PROMPTS)]))
    seconds = time.perf_counter() - started
    return Measured(
        weights,
        training_peak,
        span.tokens / span.seconds,
        seen,
        resumed,
        peak(device),
        sum(output.completion_tokens for output in outputs) / seconds,
        sum(not torch.isfinite(torch.tensor(norm)).item() for norm in norms),
    )


def variants(on_gpu: bool) -> Iterator[tuple[str, str]]:
    """Dtype and attention of each pass, and on the screen why a pass is left out."""
    if not on_gpu:
        yield models.choose_dtype("auto", False).value, "sdpa"
        return
    for dtype in ("bf16", "fp16"):
        if dtype == "bf16" and models.choose_dtype("auto", True).value != "bf16":
            print("left out: bf16, which this GPU does not compute")
            continue
        yield dtype, "sdpa"
        try:
            yield dtype, models.choose_attention("flash_attention_2", True, dtype).value
        except UserError as error:
            print(f"left out: {error}")


def report(name: str, shape: Shape, measured: Measured, setup: memory.Setup) -> None:
    """The figures of a pass, with the forecast and the claims of README.md beside them."""
    drift = max(abs(a - b) for a, b in zip(measured.losses, measured.resumed, strict=True))
    flops = 6 * (shape.linear_parameters + shape.head_parameters) * measured.tokens_per_second / 1e12
    # What torch does not hold is not in its figures.
    terms = [term for term in memory.memory(shape, setup) if term.name != "CUDA context"]
    weights, expected = memory.peak(memory.weights(shape, setup)), memory.peak(terms)
    print(
        f"{name}\n"
        f"  weights of the loaded base   {measured.weights / GB:8.2f} GB; forecast {weights / GB:.2f}\n"
        f"  peak of training             {measured.training_peak / GB:8.2f} GB reserved by torch; forecast {expected / GB:.2f}"
        f"{'' if setup.on_gpu else ' (no GPU: not measured; tests.benchmarks.memory_forecast does it for a CPU)'}\n"
        f"  training                     {measured.tokens_per_second:8.0f} tokens/s, {flops:.1f} TFLOP/s\n"
        f"  losses                       {measured.losses[0]:8.3f} -> {measured.losses[-1]:.3f}; resumed at step {SAVED_AT}: "
        f"largest difference {drift:.1e}\n"
        f"  steps skipped for the scale  {measured.scale_overflows:8d}\n"
        f"  peak of generation           {measured.generation_peak / GB:8.2f} GB\n"
        f"  generation                   {measured.generated_per_second:8.1f} tokens/s, {PROMPTS} prompts at once"
    )
    for term in terms if setup.on_gpu else ():
        print(f"    {term.name:<30} {term.bytes / GB:6.2f} GB{'' if term.counts else ' (not at the peak)'}")
    if shape == SHAPES["14B"] and setup.on_gpu:
        for what, claimed, found in (
            ("weights of the loaded base", CLAIMED["weights of the loaded base"], measured.weights),
            ("peak of training", CLAIMED["peak of training"], measured.training_peak + memory.CUDA_CONTEXT),
            ("peak fits the smallest GPU named", CLAIMED["memory of the smallest GPU named"], measured.training_peak),
        ):
            verdict = "holds" if found / GB <= 1.05 * claimed else "DOES NOT HOLD"
            print(f"  README: {what} {claimed} GB: {verdict}")


def main(argv: list[str]) -> None:
    """Write the base, go through every pass, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--size", choices=[name for name in SHAPES if name != "tiny"], default="14B")
    parser.add_argument("--folder", type=Path, default=None, help="where the random base is written")
    chosen = parser.parse_args(argv)
    quiet_libraries()
    resolved = load_config([], "python -m tests.gpu_check")
    on_gpu = resolved.gpus > 0
    models.check_devices(resolved.gpus)
    size, device = (chosen.size, "cuda:0") if on_gpu else ("tiny", "cpu")
    shape = SHAPES[size]
    whole, linear = shape.parameters, shape.linear_parameters + shape.head_parameters
    card = (
        torch.cuda.get_device_name()
        if on_gpu
        else "no GPU: the same path on a tiny size, which shows no more than that"
    )
    print(f"{card}\n{size}: {whole / 1e9:.3f} G parameters, {linear / 1e9:.3f} G in linear layers")
    if chosen.folder and not chosen.folder.is_dir():
        raise UserError(f"--folder {chosen.folder}: there is no such folder; name one on a disk with room")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        free, needed = shutil.disk_usage(temporary).free, 2 * whole + int(2 * GB)
        print(f"writing {2 * whole / GB:.1f} GB to {temporary}, removed at the end")
        if free < needed:
            raise UserError(
                f"{temporary}: {free / GB:.0f} GB are free, {needed / GB:.0f} are needed; name another --folder"
            )
        base = Path(temporary) / "base"
        write_base(base, shape)
        figures = {}
        for dtype, attention in variants(on_gpu):
            name = f"{dtype}, {attention}"
            measured = measure(
                base, Path(temporary) / f"{dtype}-{attention}", resolved.config, device, dtype, attention
            )
            figures[name] = measured._asdict()
            setup = memory.setup_of(resolved.config, on_gpu=on_gpu, dtype=dtype, attention=attention)
            report(name, shape, measured, setup)
        print(json.dumps({"card": card, "size": size, "passes": figures}))


if __name__ == "__main__":
    run_script(main)
