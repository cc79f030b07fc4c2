"""What a training needs of memory, term by term, from the shape of its base: computed, before anything is loaded.

The terms follow the installed libraries: NF4 in blocks of 64 with doubly quantized scales (bitsandbytes, QLoRA,
arXiv:2305.14314), an adapter in fp32 under autocast, trl's loss in tiles (on a CPU ours, `loss`). GB are 10^9 bytes. No torch is imported.
"""

import importlib.util
import math
from collections.abc import Iterator
from typing import NamedTuple

from gaokao.config import Config
from gaokao.shapes import Shape

GB = 1e9
# bitsandbytes: a scale of 8 bits for 64 weights, and one of 32 bits for 256 of these scales.
NF4_BLOCK, SCALE_BLOCK = 64, 256
# bitsandbytes' 8-bit optimizers: two states of a byte, and for each of them a scale of 32 bits for 256 numbers.
OPTIMIZER_BLOCK = 256
# trl's loss: so many positions by so many words of the vocabulary at a time.
TILE_TOKENS, TILE_WORDS = 4096, 32768
# Ours on a CPU: the logits and the probabilities, in fp32, of so many targets at a time.
TARGETS_AT_ONCE = 128
# What CUDA, cuBLAS and the kernels of torch and bitsandbytes take beside torch's own memory: 0.4 to 0.7 GB.
CUDA_CONTEXT = 0.6 * GB
# Of the activations: blocks that torch's allocator holds and cannot use.
GAPS = 0.1
# On a CPU, measured with Qwen2.5-0.5B in fp32 (tests/benchmarks/memory_forecast.py): Python with torch, transformers and
# trl; what the heap holds beside the activations, because short-lived copies leave holes between those that stay; and
# bytes that loading leaves in the heap for each quantized weight, from its copies (2 to 5, from run to run).
LIBRARIES, HEAP_GAPS, LOADING_LEFT = 0.7 * GB, 0.3, 3
# Of a memory, what the forecast without gradient checkpointing may take: it errs by a tenth and more.
ROOM = 0.85
# How far a remedy goes: shorter rows leave records out, and a lower rank learns less.
LEAST_LENGTH, LEAST_RANK = 512, 8


class Setup(NamedTuple):
    """What memory depends on beside the shape."""

    quantization: str
    dtype: str
    attention: str
    r: int
    targets: str | list[str]
    dropout: float
    optim: str
    length: int
    """Tokens of a row."""
    rows: int
    """On a device at once."""
    checkpointing: bool
    on_gpu: bool = True
    processes: int = 1

    @property
    def tokens(self) -> int:
        """On a device at once, every row filled to its end."""
        return self.rows * self.length

    @property
    def width(self) -> int:
        """Bytes of a number of the computation."""
        return 4 if self.dtype == "fp32" else 2


def setup_of(config: Config, *, on_gpu: bool = True, dtype: str = "", attention: str = "", processes: int = 1) -> Setup:
    """The setup of a configuration; what is `auto` is taken to be bf16, and FlashAttention 2 where it is installed.

    Gradient checkpointing that is `auto` counts as on; `decide_checkpointing` decides it for a size.

    Args:
        config: what is asked for.
        on_gpu: False for the main memory of a machine without one.
        dtype: as it was chosen on this machine; the configuration's if empty.
        attention: likewise.
        processes: how many share the work.
    """
    dtype, attention = dtype or config.model.dtype, attention or config.model.attention
    if attention == "auto":
        attention = "flash_attention_2" if on_gpu and importlib.util.find_spec("flash_attn") else "sdpa"
    train = config.train
    return Setup(
        quantization=config.model.quantization,
        dtype="bf16" if dtype == "auto" else dtype,
        attention=attention,
        r=config.lora.r,
        targets=config.lora.target_modules,
        dropout=config.lora.dropout,
        optim=train.optim,
        length=train.max_length,
        rows=train.per_device_train_batch_size,
        checkpointing=train.gradient_checkpointing is not False,
        on_gpu=on_gpu,
        processes=processes,
    )


class Term(NamedTuple):
    """A part of the memory."""

    name: str
    bytes: float
    formula: str
    counts: bool = True
    """It is there at the peak; others are shown to compare with."""


def peak(terms: list[Term]) -> float:
    """Bytes at the highest moment of a training."""
    return sum(term.bytes for term in terms if term.counts)


def memory(shape: Shape, setup: Setup) -> list[Term]:
    """Every term of one GPU, or of the main memory of a training on the CPU."""
    kept, other = _kept(shape, setup, setup.checkpointing), _kept(shape, setup, not setup.checkpointing)
    layer, loss = _layer(shape, setup), _loss(shape, setup)
    # While the loss is computed no layer is at work, and the other way round.
    layer = layer._replace(counts=layer.bytes >= loss.bytes)
    loss = loss._replace(counts=not layer.counts)
    activations = [kept, other._replace(counts=False), layer, loss]
    share = GAPS if setup.on_gpu else HEAP_GAPS
    gaps = Term("gaps", share * peak(activations), f"{share:.0%} of the activations: what the allocator cannot use")
    training = [*_adapter(shape, setup), *activations, gaps]
    if setup.on_gpu:
        context = Term("CUDA context", CUDA_CONTEXT, "driver, cuBLAS and kernels; not measured here")
        return [*weights(shape, setup), *training, context]
    return [*weights(shape, setup), *_on_cpu(shape, setup, training)]


def _on_cpu(shape: Shape, setup: Setup, training: list[Term]) -> list[Term]:
    """The terms of a CPU beside the weights: a small base needs the most while it is loaded, not while it is trained."""
    file = Term("weight file", 2 * shape.parameters, f"{shape.parameters / GB:.2f} G x 2 bytes, mapped while loading")
    loading = file.bytes > peak(training)
    quantized = 0 if setup.quantization == "none" else shape.linear_parameters
    left = Term(
        "left by loading",
        LOADING_LEFT * quantized,
        f"{quantized / GB:.2f} G quantized x {LOADING_LEFT} bytes, measured",
    )
    return [
        *(term._replace(counts=term.counts and not loading) for term in training),
        file._replace(counts=loading),
        left,
        Term("Python and libraries", LIBRARIES, "torch, transformers, peft, trl; measured"),
    ]


def weights(shape: Shape, setup: Setup) -> list[Term]:
    """The base as it is loaded: its linear layers quantized, the rest as it is."""
    count, rest = shape.linear_parameters, shape.parameters - shape.linear_parameters
    giga = f"{count / GB:.2f} G in linear layers"
    if setup.quantization == "nf4":
        name, formula = "NF4 weights", f"{giga} x {nf4_bits():.3f} bits (4 + 8/64 + 32/(64 x 256))"
        size = shape.layers * sum(nf4_bytes(inputs * outputs) for inputs, outputs in shape.linear.values())
    elif setup.quantization == "int8":
        name, formula = "int8 weights", f"{giga} x 1 byte, and 4 bytes for each output"
        size = count + 4 * shape.layers * sum(outputs for _, outputs in shape.linear.values())
    else:
        name, formula, size = f"{setup.dtype} weights", f"{giga} x {setup.width} bytes", setup.width * count
    what = "embeddings, norms, biases" if shape.tied else "embeddings, output head, norms, biases"
    return [
        Term(name, size, formula),
        Term(f"{setup.dtype} rest", setup.width * rest, f"{rest / GB:.2f} G ({what}) x {setup.width} bytes"),
    ]


def nf4_bits() -> float:
    """Bits of a weight in NF4 with double quantization."""
    return 4 + 8 / NF4_BLOCK + 32 / (NF4_BLOCK * SCALE_BLOCK)


def nf4_bytes(weights: int) -> int:
    """Bytes of a matrix of so many weights: two of them in a byte, and their scales."""
    scales = math.ceil(weights / NF4_BLOCK)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / SCALE_BLOCK)


def _adapter(shape: Shape, setup: Setup) -> list[Term]:
    count = shape.lora_parameters(setup.r, setup.targets)
    mega = f"{count / 1e6:.1f} M"
    # Autocast keeps its copies of trainable weights until the forward pass ends, and the backward pass uses them.
    copies = "" if setup.dtype == "fp32" else f" in fp32, 2 for autocast's copy in {setup.dtype}"
    # DistributedDataParallel gathers gradients in buckets of its own.
    buckets = setup.processes > 1
    eight_bit = setup.optim.endswith("8bit")
    states = 2 * (1 + 4 / OPTIMIZER_BLOCK) if eight_bit else 8
    formula = "2 x (1 + 4/256) bytes" if eight_bit else "2 x 4 bytes"
    if setup.optim.startswith("paged"):
        formula += "; can move to main memory"
    return [
        Term("LoRA", count * (6 if copies else 4), f"{mega} x {6 if copies else 4} bytes (4{copies})"),
        Term(
            "gradients",
            count * (8 if buckets else 4),
            f"{mega} x {8 if buckets else 4} bytes (fp32{', and as much for the buckets of DDP' if buckets else ''})",
        ),
        Term("optimizer", count * states, f"{mega} x {formula}"),
    ]


def _kept(shape: Shape, setup: Setup, checkpointing: bool) -> Term:
    """What stays from the forward to the backward pass."""
    tokens, layers = f"{setup.tokens:,} tokens", f"{shape.layers} layers"
    if checkpointing:
        size = shape.layers * setup.tokens * shape.hidden * setup.width
        formula = f"{layers} x {tokens} x {shape.hidden:,} x {setup.width} bytes"
        return Term("activations, checkpointing", size, formula)
    each = layer_bytes(shape, setup)
    formula = f"{layers} x {tokens} x {each / 1e3:,.0f} kB"
    return Term("activations, no checkpointing", shape.layers * setup.tokens * each, formula)


def layer_bytes(shape: Shape, setup: Setup) -> float:
    """Bytes that the backward pass of one decoder layer needs for each token."""
    width, queries = setup.width, shape.query_width
    targets = shape.targets(setup.targets)
    # RMSNorm computes in fp32.
    norms = 4 * (2 * shape.hidden + (queries + shape.key_width) * shape.head_norms)
    # LoRA's A needs its input. Dropout makes a new one for each target, with a mask: a byte on a GPU, fp32 on a CPU. Without
    # dropout q, k and v share theirs, and so do gate and up, but in bf16 on a CPU, where peft casts each of them.
    if setup.dropout or (not setup.on_gpu and setup.dtype != "fp32"):
        mask = (1 if setup.on_gpu else 4) if setup.dropout else 0
        inputs = sum(size for size, _ in targets.values()) * (width + mask)
    else:
        groups = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}
        inputs = sum({groups[name]: size for name, (size, _) in targets.items()}.values()) * width
    ranks = len(targets) * setup.r * width
    # sdpa takes a mask for packed rows, and then keys and values repeated for every query head.
    keys = shape.key_width if setup.attention == "flash_attention_2" else queries
    attention = width * (2 * queries + 2 * keys)
    if setup.attention == "eager":
        attention += shape.heads * setup.length * (4 + width)
    # The two halves of the gated feed-forward part, and SiLU of one of them.
    return norms + inputs + ranks + attention + 3 * shape.intermediate * width


def _layer(shape: Shape, setup: Setup) -> Term:
    """The layer that the backward pass is in: recomputed with checkpointing, and its gradients in any case."""
    largest = max(inputs * outputs for inputs, outputs in shape.linear.values())
    size = setup.tokens * 4 * shape.intermediate * setup.width
    formula = f"{setup.tokens:,} tokens x (4 x {shape.intermediate:,} x {setup.width} bytes of gradients"
    if setup.checkpointing:
        each = layer_bytes(shape, setup)
        size += int(setup.tokens * each)
        formula += f" + {each / 1e3:,.0f} kB recomputed"
    formula += ")"
    if setup.quantization != "none":
        size += largest * setup.width
        formula += f" + {largest / 1e6:.0f} M weights unpacked x {setup.width}"
    if setup.attention != "flash_attention_2":
        # The mask of packed rows, as yes or no and as numbers.
        size += setup.rows * setup.length**2 * (1 + setup.width)
        formula += f" + mask of {setup.length:,} x {setup.length:,} x {1 + setup.width}"
    return Term("layer at work", size, formula)


def _loss(shape: Shape, setup: Setup) -> Term:
    """As if every position carried a target; of real rows about a third does."""
    if setup.on_gpu:
        rows, words, each = min(setup.tokens, TILE_TOKENS), min(shape.vocabulary, TILE_WORDS), setup.width
    else:
        rows, words, each = min(setup.tokens, TARGETS_AT_ONCE), shape.vocabulary, 2 * 4
    states = setup.tokens * shape.hidden * (2 * setup.width + 4)
    formula = f"{rows:,} x {words:,} x {each} bytes + {setup.tokens:,} tokens x {shape.hidden:,} x {2 * setup.width + 4} bytes"
    return Term("loss", rows * words * each + states, formula)


def decide_checkpointing(shape: Shape, setup: Setup, asked: str | bool, size: float) -> Setup:
    """The setup with gradient checkpointing as it was asked for; `auto`: off where `size` bytes hold the training without."""
    without = setup._replace(checkpointing=False)
    on = asked if isinstance(asked, bool) else peak(memory(shape, without)) > ROOM * size
    return setup._replace(checkpointing=on)


class Fit(NamedTuple):
    """What has to change for a GPU of some size (key -> value); nothing where it fits as it is."""

    changes: dict[str, str]
    peak: float
    fits: bool


def fit(shape: Shape, setup: Setup, size: float) -> Fit:
    """The first changes, cheapest first, with which a training fits into `size` bytes; all of them where none is enough."""
    changes: dict[str, str] = {}
    needed = peak(memory(shape, setup))
    for key, value, changed in _remedies(setup):
        if needed <= size:
            break
        changes[key] = value
        setup = changed
        needed = peak(memory(shape, setup))
    return Fit(changes, needed, needed <= size)


def _remedies(setup: Setup) -> Iterator[tuple[str, str, Setup]]:
    """Key, value, and the setup with this and all changes before it: first what costs time, then what costs quality."""
    if setup.rows > 1:
        setup = setup._replace(rows=1)
        yield "train.per_device_train_batch_size", "1", setup
    if not setup.checkpointing:
        setup = setup._replace(checkpointing=True)
        yield "train.gradient_checkpointing", "true", setup
    if not setup.optim.endswith("8bit"):
        setup = setup._replace(optim="paged_adamw_8bit")
        yield "train.optim", setup.optim, setup
    if setup.quantization != "nf4":
        setup = setup._replace(quantization="nf4")
        yield "model.quantization", setup.quantization, setup
    while setup.length // 2 >= LEAST_LENGTH or setup.r // 2 >= LEAST_RANK:
        if setup.length // 2 >= LEAST_LENGTH:
            setup = setup._replace(length=setup.length // 2)
            yield "train.max_length", str(setup.length), setup
        if setup.r // 2 >= LEAST_RANK:
            setup = setup._replace(r=setup.r // 2)
            yield "lora.r", str(setup.r), setup
