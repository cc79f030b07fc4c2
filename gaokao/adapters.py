"""The adapter: what it was trained on, saving, and loading it on that base only, whole and with an effect."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gaokao.errors import UserError, first_line
from gaokao.gate import save_training_questions
from gaokao.models import Base, Decision, base_fingerprint
from gaokao.records import Record
from gaokao.runs import write_json

ADAPTER_RECORD = "gaokao_adapter.json"


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


def require_adapter_files(folder: Path) -> None:
    """Check that a folder holds an adapter of ours; quick, so it comes before a base is downloaded.

    Raises:
        UserError: the folder or one of its files is missing.
    """
    if not folder.is_dir():
        raise UserError(
            f"adapter {folder}: there is no such folder; train first (python train_qwen_gaokao.py), name another with "
            "--adapter DIR, or use the bare base model with --adapter none"
        )
    for name in ("adapter_config.json", "adapter_model.safetensors", ADAPTER_RECORD):
        if not (folder / name).exists():
            raise UserError(
                f"adapter {folder}: {name} is missing; name a folder that train_qwen_gaokao.py wrote (outputs/RUN/adapter)"
            )


def adapter_digest(folder: Path) -> str:
    """SHA-256 of the weights of an adapter and of what scales them."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
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
    try:
        then = AdapterRecord(**json.loads((folder / ADAPTER_RECORD).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"adapter {folder}: {ADAPTER_RECORD} is damaged ({error}); train again or restore it"
        ) from error
    faults = []
    if then.base_fingerprint != now.base_fingerprint:
        faults.append(f"it was trained on base {then.base}, not on {now.base}; set model.base to that base")
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
    file = folder / "adapter_model.safetensors"
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
