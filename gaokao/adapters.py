"""The adapter: what it was trained on, saving, loading it on that base only, whole and with an effect, and merging."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaokao.config import BUILTIN_TINY
from gaokao.errors import UserError, first_line
from gaokao.gate import save_training_questions
from gaokao.models import Base, Decision, base_fingerprint, quantized_weights, through_nf4, weight_files
from gaokao.records import Record
from gaokao.runs import write_json

ADAPTER_RECORD, ADAPTER_WEIGHTS = "gaokao_adapter.json", "adapter_model.safetensors"
# What peft puts before the names of a model's modules.
LORA_PREFIX = "base_model.model."
# Types of weights that are not quantized, as safetensors names them.
FLOATING = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class AdapterRecord:
    """What an adapter was trained on; inference refuses it on anything else."""

    base: str
    base_fingerprint: str
    quantization: str
    chat_template: str
    """SHA-256 of the chat template."""


def adapter_record(base: Base) -> AdapterRecord:
    """What an adapter that is trained or used on this base depends on."""
    template = hashlib.sha256(str(base.tokenizer.chat_template).encode()).hexdigest()
    return AdapterRecord(base.name, base_fingerprint(base.folder), base.quantization, template)


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    record: AdapterRecord,
    folder: Path,
    learnt: Iterable[Record] = (),
) -> None:
    """Write adapter, tokenizer, chat template, `gaokao_adapter.json` and fingerprints of the questions that were learnt.

    The folder appears whole or not at all.
    """
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part, safe_serialization=True)
    tokenizer.save_pretrained(part)
    write_json(part / ADAPTER_RECORD, asdict(record))
    save_training_questions(learnt, part)
    # A resumed run that had already finished writes its adapter again. A full folder cannot be replaced, and the old
    # one must not be gone before the new one stands there.
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def require_adapter(folder: Path, base: str) -> None:
    """Check that a folder holds an adapter of ours for such a base; quick, so it comes before a base is fetched or made.

    Args:
        folder: of the adapter.
        base: as the configuration names it. Of two hub names or folders, only a look at the files says whether they
            hold the same; the built-in base is none of them.

    Raises:
        UserError: the folder or one of its files is missing or damaged, or one base is the built-in one and the other not.
    """
    if not folder.is_dir():
        raise UserError(
            f"adapter {folder}: there is no such folder; train first (python train_qwen_gaokao.py), name another with "
            "--adapter DIR, or use the bare base model with --adapter none"
        )
    for name in ("adapter_config.json", ADAPTER_WEIGHTS, ADAPTER_RECORD):
        if not (folder / name).exists():
            raise UserError(
                f"adapter {folder}: {name} is missing; name a folder that train_qwen_gaokao.py wrote (outputs/RUN/adapter)"
            )
    then = _read_adapter_record(folder).base
    if (then == BUILTIN_TINY) != (base == BUILTIN_TINY) and not os.path.isdir(os.path.expanduser(base)):
        raise UserError(f"adapter {folder}: {_other_base(then, base)}")


def _other_base(then: str, now: str) -> str:
    # Without a GPU the file's model.base is replaced; the command line always counts.
    return f"it was trained on base {then}, not on {now}; use that one: --model.base {then}"


def _read_adapter_record(folder: Path) -> AdapterRecord:
    try:
        return AdapterRecord(**json.loads((folder / ADAPTER_RECORD).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"adapter {folder}: {ADAPTER_RECORD} is damaged ({error}); train again or restore it"
        ) from error


def adapter_digest(folder: Path) -> str:
    """SHA-256 of the weights of an adapter and of what scales them."""
    with (folder / ADAPTER_WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update((folder / "adapter_config.json").read_bytes())
    return digest.hexdigest()


def check_adapter(folder: Path, now: AdapterRecord, other_quantization: bool = False) -> str:
    """Refuse an adapter that was not trained on what is loaded now; needs no model, so it runs before one is loaded.

    Args:
        folder: of the adapter.
        now: what is loaded.
        other_quantization: take it although the base was quantized otherwise: it learnt around other rounding errors.

    Returns:
        What is to be said of it in the results; empty where nothing differs.

    Raises:
        UserError: base, quantization or chat template differ, or the adapter's record cannot be read.
    """
    then = _read_adapter_record(folder)
    faults = []
    if then.base_fingerprint != now.base_fingerprint:
        faults.append(_other_base(then.base, now.base))
    if then.quantization != now.quantization and not other_quantization:
        faults.append(
            f"it was trained with quantization {then.quantization}, not {now.quantization}; set model.quantization: "
            f"{then.quantization}, or generate.other_quantization: true to use it all the same"
        )
    if then.chat_template != now.chat_template:
        faults.append("its chat template differs from the base's; use the tokenizer that it was trained with")
    if faults:
        raise UserError(f"adapter {folder}: " + "; and ".join(faults))
    if then.quantization == now.quantization:
        return ""
    return f"trained with quantization {then.quantization}, used with {now.quantization}"


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put an adapter on a base, in the base's compute type; make sure that all of it arrived and does something.

    Raises:
        UserError: weights are missing or foreign (peft only warns), or the adapter leaves the logits as they were.
    """
    file = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(file, framework="pt") as weights:
            stored = set(weights.keys())
        adapted = PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"adapter {folder}: cannot be loaded ({first_line(error)}); train again or restore it"
        ) from error
    expected = set(get_peft_model_state_dict(adapted))
    if stored != expected:
        missing, foreign = sorted(expected - stored), sorted(stored - expected)
        said = [
            f"{len(keys)} {what} weights (such as {keys[0]})"
            for what, keys in (("missing", missing), ("foreign", foreign))
            if keys
        ]
        raise UserError(f"adapter {folder}: {file.name} has {' and '.join(said)}; it is damaged or of another model")
    # peft keeps the weights in fp32, as they were trained; every layer would cast its input to fp32 and back.
    for name, weight in adapted.named_parameters():
        if adapted.base_model.prefix in name:
            weight.data = weight.data.to(model.dtype)
    adapted.eval()
    device = next(adapted.parameters()).device
    probe = torch.arange(16, device=device).unsqueeze(0)
    with torch.inference_mode():
        with_adapter = adapted(input_ids=probe).logits
        with adapted.disable_adapter():
            without = adapted(input_ids=probe).logits
    if torch.equal(with_adapter, without):
        raise UserError(f"adapter {folder}: changes nothing (its weights are zero): it was never trained; train again")
    return adapted


def merge_if_plain(adapted: PeftModel, quantization: str) -> tuple[torch.nn.Module, Decision]:
    """Merge the adapter into unquantized weights, which saves its share of every step; keep it separate on others."""
    if quantization == "none":
        return adapted.merge_and_unload(), Decision("merged", "the base is not quantized")
    return adapted, Decision("separate", f"merging into {quantization} weights would round the adapter away")


def merge_into_files(
    base: Path,
    adapter: Path,
    target: Path,
    *,
    nf4_dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write the weights of a base with an adapter added to them, in bf16, into files of the names that they have.

    One weight after the other is read, added to in fp32, rounded once and written: neither a model nor a whole file is
    ever held in memory.

    Args:
        base: folder of the base, which is not quantized.
        adapter: folder of an adapter that was trained on it.
        target: folder that the files go to.
        nf4_dtype: the type that the base had when it was quantized for training: its linear layers are then taken as
            the 4-bit ones that training saw. `None`: as they are.
        trust_remote_code: run Python code of the base, for the names of its linear layers.
        say: prints a line of progress.

    Raises:
        UserError: the base is quantized, the adapter holds anything but plain LoRA for it, or the disk is too small;
            nothing has been written then.
    """
    files = weight_files(base)
    scaling = _scaling(adapter)
    rounded = set() if nf4_dtype is None else quantized_weights(base, trust_remote_code)
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as lora:
        pairs = _lora_pairs(set(lora.keys()), _names_and_room(files, target), adapter)

        def merged(name: str, weight: torch.Tensor) -> torch.Tensor:
            if nf4_dtype is not None and name in rounded:
                weight = through_nf4(weight.to(nf4_dtype))
            if name in pairs:
                a, b = (lora.get_tensor(matrix).float() for matrix in pairs[name])
                weight = torch.addmm(weight.float(), b, a, alpha=scaling)
            return weight.to(torch.bfloat16)

        for number, file in enumerate(files, 1):
            say(f"weights   {file.name}, {number} of {len(files)}")
            _write_bf16(file, target / file.name, merged)


def _scaling(adapter: Path) -> float:
    """What the product of an adapter's two matrices is multiplied with.

    Raises:
        UserError: it is another kind than `train_qwen_gaokao.py` makes, and its product is not all.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    others = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
    if found := [name for name in others if config.get(name)]:
        raise UserError(
            f"adapter {adapter}: adapter_config.json sets {', '.join(found)}, which train_qwen_gaokao.py never does; merge it "
            "with the program that trained it"
        )
    return float(config["lora_alpha"] / config["r"])


def _lora_pairs(keys: set[str], names: set[str], adapter: Path) -> dict[str, tuple[str, str]]:
    """The names of the two matrices of each weight that an adapter changes; every key of it is one of them.

    Raises:
        UserError: a key is left over, its partner is missing, or the base has no such weight.
    """
    modules = {key.removeprefix(LORA_PREFIX).rsplit(".lora_", 1)[0] for key in keys}
    pairs = {
        f"{module}.weight": (f"{LORA_PREFIX}{module}.lora_A.weight", f"{LORA_PREFIX}{module}.lora_B.weight")
        for module in modules
    }
    wrong = sorted(keys ^ {key for pair in pairs.values() for key in pair}) + sorted(pairs.keys() - names)
    if wrong:
        raise UserError(
            f"adapter {adapter}: {len(wrong)} of its weights cannot be merged (such as {wrong[0]}): they are no LoRA "
            "matrices in pairs, or the base has no weight of that name. Only adapters on linear layers are merged; train "
            "with lora.target_modules: all-linear"
        )
    return pairs


def _names_and_room(files: list[Path], target: Path) -> set[str]:
    """The names of all weights, after a look at their types and at the room on the disk.

    Raises:
        UserError: a weight is quantized, or the disk is too small for all of them in bf16.
    """
    names, needed = set(), 0
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.offset_keys():
                part = weights.get_slice(name)
                if part.get_dtype() not in FLOATING:
                    raise UserError(
                        f"{file}: {name} is of type {part.get_dtype()}: the base is quantized, and an adapter merged into it "
                        "would be rounded away; set model.base to the unquantized model"
                    )
                needed += 2 * math.prod(part.get_shape())
                names.add(name)
    if (free := shutil.disk_usage(target).free) < needed:
        raise UserError(
            f"{target}: {needed / 1e9:.1f} GB are needed there and {free / 1e9:.1f} are free; make room, or give a folder "
            "on another disk"
        )
    return names


def _write_bf16(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Write a file of weights weight by weight; the library's own way wants all of them in memory at once.

    The format: https://github.com/huggingface/safetensors#format
    """
    with safe_open(source, framework="pt") as weights:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in weights.offset_keys():
            shape = weights.get_slice(name).get_shape()
            start, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with target.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in weights.offset_keys():
                value = change(name, weights.get_tensor(name))
                file.write(value.reshape(-1).view(torch.uint8).numpy().data)
