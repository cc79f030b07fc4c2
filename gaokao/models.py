"""Tokenizer, base model in NF4, attention and dtype choice, adapter.

Every automatic choice returns its reason, and the scripts print it. An adapter is only used on the base, quantization
and chat template that it was trained with, with all of its weights, and only where it changes the output.
"""

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import bitsandbytes as bnb
import torch
from accelerate import PartialState
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from gaokao import tiny
from gaokao.config import BUILTIN_TINY
from gaokao.downloads import download
from gaokao.errors import UserError, elsewhere, first_line
from gaokao.prompts import Message

WEIGHT_INDEX = "model.safetensors.index.json"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


# Other processes wait while the first one downloads 29 GB; with NCCL's own ten minutes they would be killed.
PROCESS_TIMEOUT = timedelta(hours=12)


class Decision(NamedTuple):
    """An automatic choice and why it was made."""

    value: str
    reason: str


class Base(NamedTuple):
    """The base model that a configuration asks for, as this machine runs it: chosen, but not loaded yet."""

    name: str
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    quantization: str
    dtype: Decision
    attention: Decision
    device: str
    trust_remote_code: bool = False

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for; `None` where its configuration does not say."""
        length = json.loads((self.folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
        return length if isinstance(length, int) else None


def choose_base(
    *,
    base: str,
    hub: str = "huggingface",
    revision: str | None = None,
    quantization: str = "nf4",
    dtype: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    tiny_folder: Path,
    gpus: int,
    process: int = 0,
    say: Callable[[str], None] = print,
) -> Base:
    """Find or fetch the base, read its tokenizer, and decide how it runs; the one way from a configuration to a base.

    Args:
        base: name on the hub, local folder, or `builtin:tiny`.
        hub: `huggingface`, `modelscope`, or the address of a mirror.
        revision: branch, tag or commit; `None` for the default.
        quantization: `nf4`, `int8` or `none`.
        dtype: `bf16`, `fp16`, `fp32` or `auto`.
        attention: `flash_attention_2`, `sdpa`, `eager` or `auto`.
        trust_remote_code: run Python code that comes with the model.
        tiny_folder: where built-in bases are kept.
        gpus: how many the driver shows; 0 runs on the CPU.
        process: number of this process on its machine, and of its GPU.
        say: prints a line of progress.

    Raises:
        UserError: the base, its tokenizer, or a device or attention asked for by name is not to be had.
    """
    check_devices(gpus)
    chosen = choose_dtype(dtype, gpus > 0)
    kernel = choose_attention(attention, gpus > 0, chosen.value)
    folder = locate_base(base, hub, revision, tiny_folder, say, trust_remote_code)
    tokenizer = load_tokenizer(folder, trust_remote_code)
    device = f"cuda:{process}" if gpus else "cpu"
    return Base(base, folder, tokenizer, quantization, chosen, kernel, device, trust_remote_code)


def check_devices(gpus: int) -> None:
    """Compare what the driver shows with what torch can use.

    Raises:
        UserError: there is a GPU, but this torch was built without CUDA for it.
    """
    if gpus and not torch.cuda.is_available():
        raise UserError(
            f"the driver shows {gpus} GPU(s), but torch {torch.__version__} cannot use them; install a build with CUDA "
            "for your driver, or hide the GPU: CUDA_VISIBLE_DEVICES= python ..."
        )


def start_processes(gpus: int) -> PartialState:
    """Join the processes that torchrun or accelerate started, one a device; alone without them.

    Raises:
        UserError: the driver shows GPUs, but this torch cannot use them.
    """
    check_devices(gpus)
    return PartialState(cpu=not gpus, timeout=PROCESS_TIMEOUT)


def choose_dtype(wanted: str, on_gpu: bool) -> Decision:
    """What was asked for; with auto bf16 where the hardware computes it, else fp16 on a GPU and fp32 on a CPU.

    Raises:
        UserError: bf16 was asked for by name, and the GPU has none.
    """
    able = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and on_gpu and not able:
        raise UserError(
            f"model.dtype = bf16: {torch.cuda.get_device_name()} has no bf16 units (they came with compute capability 8.0); "
            "use auto, which takes fp16 there"
        )
    if wanted == "fp16" and not on_gpu:
        # It trains with a loss scaler, which a CPU does not have.
        return choose_dtype("auto", on_gpu)._replace(reason="model.dtype is fp16, which needs a GPU")
    if wanted != "auto":
        return Decision(wanted, "model.dtype")
    if on_gpu:
        return Decision("bf16", "the GPU computes bf16") if able else Decision("fp16", "the GPU is too old for bf16")
    if tiny.computes_bf16():
        return Decision("bf16", "the CPU computes bf16")
    return Decision("fp32", "the CPU has no bf16 units")


def choose_attention(wanted: str, on_gpu: bool, dtype: str) -> Decision:
    """FlashAttention 2 where it works: installed whole, compute capability 8.0 or newer, not in fp32; else sdpa.

    Raises:
        UserError: FlashAttention 2 was asked for by name and cannot run.
    """
    missing = _why_no_flash_attention(on_gpu, dtype) if wanted in ("auto", "flash_attention_2") else ""
    if wanted == "flash_attention_2" and missing:
        raise UserError(f"model.attention = flash_attention_2: {missing}; use auto or sdpa, or see the README")
    if wanted != "auto":
        return Decision(wanted, "model.attention")
    if missing:
        return Decision("sdpa", f"no FlashAttention 2: {missing}")
    return Decision("flash_attention_2", "flash-attn is installed and the GPU has it")


def _why_no_flash_attention(on_gpu: bool, dtype: str) -> str:
    if not on_gpu:
        return "there is no CUDA GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "the GPU is older than Ampere (compute capability 8.0)"
    if dtype == "fp32":
        return "it computes in bf16 and fp16 only, not in fp32"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    try:
        importlib.import_module("flash_attn")
    # A build for another torch or CUDA fails in ways of its own: ImportError, OSError, undefined symbols.
    except Exception as error:  # noqa: BLE001
        return f"flash-attn is installed but does not load ({first_line(error)}); build it again for this torch"
    return ""


def locate_base(
    base: str,
    hub: str,
    revision: str | None,
    tiny_folder: Path,
    say: Callable[[str], None],
    trust_remote_code: bool = False,
) -> Path:
    """The local folder of a base model: built, found, or downloaded (safetensors only).

    Args:
        base: hub name, local folder, or `builtin:tiny`.
        hub: `huggingface`, `modelscope`, or the address of a mirror.
        revision: branch, tag or commit; `None` for the default.
        tiny_folder: where built-in bases are kept.
        say: prints a line of progress.
        trust_remote_code: download the model's Python files as well.

    Raises:
        UserError: there is no such folder, or the download failed; with the ways around.
    """
    if base == BUILTIN_TINY:
        return tiny.build(tiny_folder, say)
    # These two of os.path, because those of Path raise where a name is too long or a user unknown.
    folder = Path(os.path.expanduser(base))
    if os.path.isdir(folder):
        if not (folder / "config.json").exists():
            raise UserError(f"model.base = {base}: the folder holds no config.json; name a Transformers model folder")
        return _with_safetensors(base, folder)
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        raise UserError(
            f"model.base = {base}: there is no such folder{elsewhere(folder)}; name a folder, {BUILTIN_TINY}, or a hub "
            "name such as Qwen/Qwen2.5-14B-Instruct"
        )
    return _with_safetensors(base, download(base, hub, revision, trust_remote_code, say))


def _with_safetensors(base: str, folder: Path) -> Path:
    """The folder, if it holds weights that can be loaded, and all of them.

    Raises:
        UserError: there are none, or parts that its index names are missing.
    """
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model.base = {base}: holds no *.safetensors ({folder}); other formats can run code when they are read and "
            "are not loaded: convert it with save_pretrained"
        )
    try:
        index = json.loads((folder / WEIGHT_INDEX).read_text(encoding="utf-8"))
        parts = sorted(set(index["weight_map"].values()))
    except FileNotFoundError:
        return folder
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / WEIGHT_INDEX}: cannot be read ({first_line(error)}); copy or download it again"
        ) from None
    if missing := [part for part in parts if not (folder / str(part)).exists()]:
        raise UserError(
            f"model.base = {base}: {len(missing)} of its {len(parts)} parts are missing in {folder} (such as {missing[0]}); "
            "copy or download it again"
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that a base is loaded from, in the order of their names; others may lie beside them."""
    whole = folder / "model.safetensors"
    if whole.exists():
        return [whole]
    index = json.loads((folder / WEIGHT_INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a base or adapter folder, with padding that is not the end token.

    Were pad the same as eos, a collator that masks padding would mask the end token too, and the model would never
    learn to stop.

    Raises:
        UserError: it cannot be read, has no chat template, or no token that can serve as padding.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"{folder}: its tokenizer cannot be read ({first_line(error)}); is the folder whole?"
        ) from error
    if not tokenizer.chat_template:
        raise UserError(
            f"{folder}: the tokenizer has no chat template; use an Instruct model, such as Qwen2.5-*-Instruct"
        )
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = tokenizer.get_vocab()
        candidates = [t for t in ("<|endoftext|>", "<pad>", "[PAD]") if t in vocabulary and t != tokenizer.eos_token]
        if not candidates:
            raise UserError(f"{folder}: the tokenizer has no padding token besides its end token; use a Qwen2.5 model")
        tokenizer.pad_token = candidates[0]
    return tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """Token ids of a prompt with the header of the assistant's turn, as training and inference both see it."""
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the end of the turn, and the end of the text (Qwen's base models use it)."""
    ids = [tokenizer.eos_token_id]
    vocabulary = tokenizer.get_vocab()
    ids += [vocabulary[token] for token in ("<|im_end|>", "<|endoftext|>") if token in vocabulary]
    return list(dict.fromkeys(ids))


def quantization_config(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """nf4: 4-bit NormalFloat with double quantization (QLoRA, arXiv:2305.14314); int8: LLM.int8 (arXiv:2208.07339)."""
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def through_nf4(weight: torch.Tensor) -> torch.Tensor:
    """What a forward pass sees of a weight that was quantized as `quantization_config` says: same shape and type."""
    config = quantization_config("nf4", weight.dtype)
    assert config is not None
    packed, state = bnb.functional.quantize_4bit(
        weight, quant_type=config.bnb_4bit_quant_type, compress_statistics=config.bnb_4bit_use_double_quant
    )
    seen: torch.Tensor = bnb.functional.dequantize_4bit(packed, state)
    return seen


def quantized_weights(folder: Path, trust_remote_code: bool = False) -> set[str]:
    """Names of the weights of a base that are quantized when it is loaded in 4 bit: of its linear layers but the head."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    layers = model.named_modules()
    return {f"{name}.weight" for name, layer in layers if isinstance(layer, torch.nn.Linear) and layer is not head}


def load_base(base: Base) -> PreTrainedModel:
    """The base model on its device, quantized, in eval mode.

    Raises:
        UserError: the folder cannot be loaded, or the model does not fit.
    """
    torch_dtype = DTYPES[base.dtype.value]
    # A bar for a load that takes a second is noise; for 28 GB it is news.
    if sum(file.stat().st_size for file in base.folder.glob("*.safetensors")) < 1e9:
        transformers_logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base.folder,
            quantization_config=quantization_config(base.quantization, torch_dtype),
            dtype=torch_dtype,
            attn_implementation=base.attention.value,
            device_map={"": base.device},
            use_safetensors=True,
            trust_remote_code=base.trust_remote_code,
        )
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"{base.folder}: does not fit into the memory of {base.device} with model.quantization = {base.quantization}; "
            "use nf4, a smaller base, or free the GPU (nvidia-smi shows who uses it)"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{base.folder}: the model cannot be loaded ({first_line(error)})") from error
    finally:
        transformers_logging.enable_progress_bar()
    return model.eval()


def keep_4bit_layout(model: torch.nn.Module) -> torch.nn.Module:
    """The same model, with its 4-bit weights on the CPU kept in the layout that gradients need.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them for speed in the first forward pass in eval mode. That
    layout has no backward pass, so the training step after a validation would crash or learn from wrong gradients.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def base_fingerprint(folder: Path) -> str:
    """SHA-256 that tells one base from another in a moment, even at 28 GB.

    Taken over the architecture, the names, types and shapes of all tensors, and 64 KiB samples of every file: enough
    to tell an Instruct model from its base model, which have the same shapes.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for volatile in ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"):
        config.pop(volatile, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(header))
            for part in range(16):
                stream.seek(8 + header + (size - 8 - header) * part // 16)
                digest.update(stream.read(65536))
    return digest.hexdigest()


def compile_forward(model: Any, backend: Any = "inductor") -> None:
    """torch.compile the forward pass for rows of any length (PyTorch 2 compiler); the first batches are slow.

    With an adapter, `generate` calls the forward of the model inside, never that of the PeftModel around it.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.forward = torch.compile(inner.forward, dynamic=True, backend=backend)
