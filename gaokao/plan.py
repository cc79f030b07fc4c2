"""What a training will need, before anything is downloaded: memory, what fits, tokens, steps, hours. Computed, not measured.

python train_qwen_gaokao.py --plan
python train_qwen_gaokao.py --plan --model.base Qwen/Qwen2.5-32B-Instruct --data.train my/train.json
"""

import argparse
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from gaokao.chats import ChatPool
from gaokao.config import Config
from gaokao.errors import UserError, first_line
from gaokao.memory import GB, Setup, Term, decide_checkpointing, fit, memory, peak, setup_of, weights
from gaokao.prompts import Example, format_chat
from gaokao.records import Record
from gaokao.settings import Resolved, cuda_driver
from gaokao.shapes import TABLE, Found, Shape, find_shape
from gaokao.splits import Batch, gather, keys_of, packed_rows

SIZES = (12, 16, 24, 40, 80)
# Qwen2.5's tokens by least squares over 951 bundled and real items: the sum is within 2%, most items within 12%. Letters
# of English cost nothing beside the blanks between their words.
PER_WIDE, PER_OTHER = 0.72, 1.0
# Of the peak below. Assumed: unpacking NF4, dropout and norms take the rest.
SHARE = 1 / 3


class Gpu(NamedTuple):
    """A common GPU: its memory in GB as it is sold, and TFLOP/s in bf16 (fp16 on a T4) without sparsity, by its maker."""

    name: str
    gigabytes: int
    tflops: float


GPUS = (
    Gpu("RTX 3060", 12, 25), Gpu("T4", 16, 65), Gpu("RTX 4060 Ti", 16, 44), Gpu("RTX 3090", 24, 71),
    Gpu("L4", 24, 121), Gpu("A10", 24, 125), Gpu("RTX 4090", 24, 165), Gpu("RTX 5090", 32, 210), Gpu("A100", 80, 312),
    Gpu("L40S", 48, 362), Gpu("H20", 96, 148), Gpu("H100", 80, 989),
)  # fmt: skip
# What others say of QLoRA on a base of this size; none of it was measured here.
PUBLISHED = (
    "12 GB for 14B in the table of LLaMA-Factory's README",
    "8.5 GB for 14B as the least in Unsloth's documentation, which is below the weights of Qwen2.5-14B alone",
    "22.6 GB measured for Llama-2-13B",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the training can be asked for beside the keys of config.yaml."""
    parser.add_argument("--plan", action="store_true", help="print memory, tokens, steps and hours, and train nothing")


# --- at every start ---------------------------------------------------------------------------------------------------


def require_room(resolved: Resolved) -> None:
    """Refuse, before the download, a base that cannot be loaded; whatever else is too much is only warned of.

    Raises:
        UserError: the weights alone are more than the memory of the smallest GPU that is used.
    """
    card = smallest_gpu() if resolved.gpus else None
    found = _known_shape(resolved.config)
    if card is None or found is None:
        return
    name, size = card
    setup = setup_of(resolved.config)
    needed = peak(weights(found.shape, setup))
    if needed > size:
        raise UserError(
            f"model.base = {resolved.config.model.base}: its weights alone take {needed / GB:.1f} GB with model.quantization = "
            f"{setup.quantization}, and {name} has {size / GB:.1f} GB; {_smaller(found.shape, setup, size)}; if there is a larger GPU, CUDA_VISIBLE_DEVICES "
            "chooses it (nvidia-smi lists them)"
        )


def settle_memory(resolved: Resolved, base: Any, processes: int) -> tuple[Resolved, str]:
    """The configuration with `train.gradient_checkpointing` decided, and the forecast in words: the peak and its parts.

    `auto` is off where the smallest GPU, or a process's share of the main memory that is free now, holds the training
    without it.

    Args:
        resolved: the configuration.
        base: the base as it runs (`models.Base`).
        processes: how many share the work.
    """
    config, on_gpu = resolved.config, bool(resolved.gpus)
    asked = config.train.gradient_checkpointing
    try:
        shape = find_shape(str(base.folder)).shape
    except UserError as error:
        unknown = f"forecast  none: {first_line(error).partition(';')[0]}"
        return _with_checkpointing(resolved, asked is not False), unknown
    setup = setup_of(config, on_gpu=on_gpu, dtype=base.dtype.value, attention=base.attention.value, processes=processes)
    card = smallest_gpu() if on_gpu else None
    # A GPU whose memory the driver does not tell counts as one without any to spare.
    on_cpu = 0.0 if on_gpu else psutil.virtual_memory().available / processes
    setup = decide_checkpointing(shape, setup, asked, card[1] if card else on_cpu)
    return _with_checkpointing(resolved, setup.checkpointing), _forecast(shape, setup, card)


def _with_checkpointing(resolved: Resolved, on: bool) -> Resolved:
    train = resolved.config.train.model_copy(update={"gradient_checkpointing": on})
    return resolved._replace(config=resolved.config.model_copy(update={"train": train}))


def _forecast(shape: Shape, setup: Setup, card: tuple[str, int] | None) -> str:
    """The peak and its parts, with a warning where it is more than the memory of a GPU."""
    terms = memory(shape, setup)
    where = "of each GPU" if setup.on_gpu else "of main memory"
    how = f"with{'' if setup.checkpointing else 'out'} gradient checkpointing"
    text = f"forecast  {peak(terms) / GB:.1f} GB {where} at the peak, {how}: {_parts(terms)}; computed, --plan shows each term"
    if card is None or peak(terms) <= card[1]:
        return text
    wanted = fit(shape, setup, card[1])
    remedy = _options(wanted.changes) if wanted.fits else _smaller(shape, setup, card[1])
    return f"{text}\nWARNING   {card[0]} has {card[1] / GB:.1f} GB, which is less: {remedy}"


def time_line(resolved: Resolved, base: Any, tokens: dict[str, int], steps: int, batch: Batch) -> str:
    """How long the training is expected to take on the GPU of this machine; empty where its speed is not in the table.

    Args:
        resolved: the configuration.
        base: the base as it runs (`models.Base`).
        tokens: as `training.count_tokens` counts them.
        steps: of the whole run.
        batch: the rows of each.
    """
    card = smallest_gpu() if resolved.gpus else None
    gpu = card and find_gpu(card[0])
    if not gpu:
        return ""
    try:
        shape = find_shape(str(base.folder)).shape
    except UserError:
        return ""
    setup = setup_of(resolved.config, dtype=base.dtype.value, attention=base.attention.value)
    read = steps * batch.at_once * batch.accumulated * tokens["tokens"] / tokens["rows"]
    flops = flops_per_token(shape, setup, tokens["tokens"] / tokens["sequences"])
    expected = _time(read * flops, gpu, batch.processes)
    return f"          about {expected} on {gpu.name} at {gpu.tflops * SHARE:.0f} TFLOP/s (a third of its maker's, assumed)"


def smallest_gpu() -> tuple[str, int] | None:
    """Name and memory in bytes of the GPU with the least among those that are used; `None` without one.

    The processes of this machine use the first ones that the driver shows, one each.
    """
    driver, count = cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None
    found = []
    for number in range(min(count.value, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))):
        device, size, name = ctypes.c_int(0), ctypes.c_size_t(0), ctypes.create_string_buffer(256)
        if (
            driver.cuDeviceGet(ctypes.byref(device), number) == 0
            and driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) == 0
            and driver.cuDeviceGetName(name, len(name), device) == 0
        ):
            found.append((name.value.decode(errors="replace"), size.value))
    return min(found, key=lambda card: card[1], default=None)


def find_gpu(name: str) -> Gpu | None:
    """The row of the table for a name of the driver, such as `NVIDIA GeForce RTX 4090`."""
    words = name.replace("-", " ").split()
    rows = [gpu for gpu in GPUS if set(gpu.name.split()) <= set(words)]
    return max(rows, key=lambda gpu: len(gpu.name), default=None)


def _known_shape(config: Config) -> Found | None:
    try:
        return find_shape(config.model.base, config.model.revision)
    except UserError:
        return None


def _parts(terms: list[Term]) -> str:
    """The terms that count, in the few groups that a reader can change."""
    groups = {
        "weights": terms[:2],
        "adapter with gradients and optimizer": terms[2:5],
        "activations and loss": terms[5:10],
        "loading": terms[10:-1],
        "CUDA" if terms[-1].name == "CUDA context" else "Python and libraries": terms[-1:],
    }
    return ", ".join(f"{name} {peak(group) / GB:.1f}" for name, group in groups.items() if peak(group))


def _options(changes: dict[str, str]) -> str:
    return " ".join(f"--{key} {value}" for key, value in changes.items())


def _smaller(shape: Shape, setup: Setup, size: float) -> str:
    """What to take instead of a base that does not fit, with what it needs then."""
    if setup.quantization != "nf4" and (quantized := fit(shape, setup, size)).fits:
        return f"take {_options(quantized.changes)}: {quantized.peak / GB:.1f} GB"
    # Of the same family, which has the same prompt form; rather a smaller one than one whose rows have to be short.
    family = [row for row in TABLE.items() if row[1].head_norms == shape.head_norms]
    smaller = sorted(
        (row for row in family if row[1].parameters < shape.parameters), key=lambda row: -row[1].parameters
    )
    fits = [(name, found) for name, other in smaller if (found := fit(other, setup, size)).fits]
    if not fits:
        return "no base of the table fits; use a larger GPU"
    name, found = next((row for row in fits if not row[1].changes), fits[0])
    options = {"model.base": f"Qwen/{name}{'' if shape.head_norms else '-Instruct'}", **found.changes}
    return f"take {_options(options)}: {found.peak / GB:.1f} GB"


# --- tokens, steps, hours ---------------------------------------------------------------------------------------------


def token_counter(folder: Path | None) -> tuple[Callable[[Example], int], str]:
    """Counts the tokens of an example with the tokenizer in a folder, else estimates them; and which of the two, in words.

    The chat form is ChatML, which all Qwen models have; Qwen3's template adds four tokens to an answer.

    Raises:
        UserError: the folder's tokenizer.json cannot be read.
    """
    file = folder / "tokenizer.json" if folder else None
    if file is None or not file.is_file():

        def estimate(example: Example) -> int:
            text = "".join(turn["content"] for turn in _turns(example))
            # Chinese characters and their punctuation; digits, signs and blanks.
            wide = sum(letter >= "\u2000" for letter in text)
            other = sum(letter < "\u2000" and not letter.isalpha() for letter in text)
            return round(PER_WIDE * wide + PER_OTHER * other)

        return estimate, "ESTIMATED from the characters: no tokenizer of the base is on this disk"
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy or download it again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(example: Example) -> int:
        text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in _turns(example))
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    return count, f"counted with {file}"


def _turns(example: Example) -> list[Any]:
    return [*example["prompt"], *example["completion"]]


class Work(NamedTuple):
    """What a training reads in an epoch."""

    sequences: int
    tokens: int
    rows: int
    filled: float
    """Share of the rows' tokens that are none of padding."""


def work(lengths: list[int], max_length: int, packing: bool) -> Work:
    """Rows of an epoch, from the tokens of each sequence; without packing each sequence is a row of its own."""
    rows = packed_rows(lengths, max_length) if packing else lengths
    return Work(len(lengths), sum(lengths), len(rows), sum(rows) / (len(rows) * (max_length if packing else max(rows))))


def flops_per_token(shape: Shape, setup: Setup, sequence: float) -> float:
    """Floating-point operations for a token: forward, backward through frozen weights, and recomputation.

    A weight costs 2 in each pass. The base gets no gradients of its own, so its backward pass is 2, not 4; the adapter's
    is 4. The output head counts as if every position carried loss; its tiles are computed twice.

    Args:
        shape: of the base.
        setup: checkpointing, adapter and attention.
        sequence: mean tokens of a sequence: FlashAttention looks back no further, sdpa computes the whole masked row.
    """
    again = 1 if setup.checkpointing else 0
    adapter = shape.lora_parameters(setup.r, setup.targets)
    seen = sequence / 2 if setup.attention == "flash_attention_2" else setup.length
    # Scores and weighted values; their backward pass computes the scores again.
    attention = shape.layers * 4 * seen * shape.query_width * (1 + again + 2.5)
    return (4 + 2 * again) * shape.linear_parameters + (6 + 2 * again) * adapter + 6 * shape.head_parameters + attention


# --- the whole plan ---------------------------------------------------------------------------------------------------


def text(resolved: Resolved, records: list[Record], pool: ChatPool) -> str:
    """The whole plan of a training on GPUs, as lines for a screen; on a machine without one, for a machine that has one.

    Raises:
        UserError: the shape of the base is not known, its tokenizer cannot be read, or no record fits a row.
    """
    config = with_gpu(resolved)
    found = find_shape(config.model.base, config.model.revision)
    setup = setup_of(config)
    count, how = token_counter(found.folder)
    material = gather(records, pool, count, context=None, **keys_of(config))
    lengths = [count(format_chat(record)) for record in material.train_records]
    lengths += map(count, material.chats[0])
    lines = ["plan      computed, not measured, for a machine with a GPU; GB are 10^9 bytes"]
    lines += _shape_lines(config, found, setup)
    lines += _memory_lines(found.shape, setup)
    lines += _fit_lines(found.shape, setup, config.train.gradient_checkpointing, lengths)
    lines += material.text(setup.length).splitlines()
    lines += _work_lines(config, found.shape, setup, lengths, how)
    if not resolved.gpus:
        lines.append(
            "no GPU    on this machine: without --plan, the section without_gpu replaces what does not run here"
        )
    return "\n".join(lines)


def with_gpu(resolved: Resolved) -> Config:
    """The configuration as a machine with a GPU would have it."""
    changes: dict[str, dict[str, Any]] = {}
    for key, (before, _) in resolved.replaced.items():
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = before
    sections = {name: getattr(resolved.config, name).model_copy(update=values) for name, values in changes.items()}
    return resolved.config.model_copy(update=sections)


def _shape_lines(config: Config, found: Found, setup: Setup) -> list[str]:
    targets = found.shape.targets(setup.targets)
    trained = found.shape.lora_parameters(setup.r, setup.targets)
    return [
        f"base      {config.model.base}: {found.shape.parameters / GB:.3f} G parameters ({found.source})",
        f"adapter   {trained / 1e6:.1f} M trainable parameters: lora.r {setup.r} on {' '.join(targets)}",
    ]


def _memory_lines(shape: Shape, setup: Setup) -> list[str]:
    terms = memory(shape, setup)
    rows = f"{setup.rows} row{'s' if setup.rows > 1 else ''} of {setup.length:,} tokens at once"
    lines = [f"memory    of each GPU; {rows}, {setup.dtype}, attention {setup.attention}; in brackets: not at the peak"]
    for term in terms:
        amount = f"{term.bytes / GB:.2f}"
        shown = f"{amount} GB" if term.counts else f"({amount} GB)"
        lines.append(f"          {term.name:<29} {shown:>10}  {term.formula}")
    shared = shape.lora_parameters(setup.r, setup.targets) * 4
    lines.append(
        f"          {'peak':<29} {peak(terms) / GB:>7.2f} GB  and {shared / GB:.2f} GB more with several GPUs, for DDP's buckets"
    )
    if 13e9 < shape.parameters < 16e9:
        lines.append("published for QLoRA, not measured here: " + "; ".join(PUBLISHED))
    return lines


def _fit_lines(shape: Shape, setup: Setup, checkpointing: str | bool, lengths: list[int]) -> list[str]:
    lines = []
    for size in SIZES:
        decided = decide_checkpointing(shape, setup, checkpointing, size * GB)
        found = fit(shape, decided, size * GB)
        if not found.fits:
            said = f"does not fit ({found.peak / GB:.1f} GB at the least); {_smaller(shape, setup, size * GB)}"
        elif found.changes:
            row = int(found.changes.get("train.max_length", setup.length))
            longer = sum(length > row for length in lengths)
            lost = f", which leaves {longer} of {len(lengths)} records out" if longer else ""
            if longer > len(lengths) / 2:
                lost += f"; rather {_smaller(shape, setup, size * GB)}"
            said = f"fits with {_options(found.changes)}: {found.peak / GB:.1f} GB{lost}"
        else:
            said = f"fits as it is, {size - found.peak / GB:.1f} GB free"
            if checkpointing == "auto":
                said += f", with{'' if decided.checkpointing else 'out'} gradient checkpointing"
        lines.append(f"{'GPU of' if size == SIZES[0] else '':<9} {size} GB: {said}")
    return lines


def _work_lines(config: Config, shape: Shape, setup: Setup, lengths: list[int], how: str) -> list[str]:
    train = config.train
    done = work(lengths, train.max_length, train.packing)
    batch = Batch(train.effective_batch, train.per_device_train_batch_size, 1)
    steps = batch.steps(done.rows, train.num_train_epochs, train.max_steps)
    read = steps * batch.at_once * batch.accumulated * done.tokens / done.rows

    def flops(gpu: Gpu) -> float:
        decided = decide_checkpointing(shape, setup, train.gradient_checkpointing, gpu.gigabytes * GB)
        return flops_per_token(shape, decided, done.tokens / done.sequences)

    least, most = min(map(flops, GPUS)) / GB, max(map(flops, GPUS)) / GB
    each_token = f"{least:.0f}" if least == most else f"{least:.0f} (without gradient checkpointing) or {most:.0f}"
    lines = [
        f"tokens    {done.tokens:,} an epoch, {how}",
        f"rows      {done.rows} of {done.sequences} sequences, {done.filled:.0%} full",
        *batch.text(steps).splitlines(),
        f"time      {read:,.0f} tokens x {each_token} GFLOP / TFLOP/s, on one GPU; the speeds are a third of the maker's, "
        "assumed",
    ]
    each = [f"{gpu.name} ({gpu.tflops * SHARE:.0f}) {_time(read * flops(gpu), gpu)}" for gpu in GPUS]
    return [*lines, *(f"          {', '.join(each[start : start + 4])}" for start in range(0, len(each), 4))]


def _time(flops: float, gpu: Gpu, processes: int = 1) -> str:
    """How long so many operations take on so many of these GPUs, in words."""
    minutes = flops / (gpu.tflops * SHARE * 1e12 * processes) / 60
    if minutes < 100:
        return f"{max(1, minutes):.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 600 else f"{minutes / 60:.0f} h"
