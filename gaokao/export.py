"""A finished run as a model of its own: the adapter merged into the base, with all that a server wants, and its card."""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaokao import runs
from gaokao.card import model_card, modelfile
from gaokao.console import quiet_libraries
from gaokao.errors import UserError
from gaokao.settings import Resolved

if TYPE_CHECKING:
    from gaokao.models import Base

BASE, DEQUANTIZED = "base", "dequantized"
OTHER_FOLDER = "give another folder: --export DIR"
# Beside the weights; never *.bin or *.pt.
COPIED = ("*.json", "*.txt", "*.jinja", "*.model", "LICENSE*")


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a command is asked for an export."""
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the finished run as a model with the adapter merged"
    )
    parser.add_argument(
        "--onto",
        choices=[BASE, DEQUANTIZED],
        help="into the bf16 base, or its 4-bit weights dequantized",
    )


def asked(actions: argparse.Namespace) -> bool:
    """Whether an export is asked for.

    Raises:
        UserError: only a part of it is.
    """
    if actions.onto and not actions.export:
        raise UserError("command line: --onto belongs to an export; add --export DIR")
    return actions.export is not None


def export(resolved: Resolved) -> None:
    """Merge the adapter of a finished run on the CPU, and write the model into a folder that is whole or not there.

    The base is that of the run where `without_gpu` has replaced the configured one, so that a model trained on a GPU can
    be exported on a machine without.

    Raises:
        UserError: the folder is not empty, the run is not finished, or its adapter does not fit the base.
    """
    run, onto = resolved.config.run_folder, resolved.actions.onto or BASE
    target = _free_folder(resolved.actions.export)
    record = _finished(run)
    _check_onto(run, onto, record["adapter"]["quantization"])

    quiet_libraries()
    from gaokao import adapters, models

    configured = resolved.config.model.model_dump()
    asked = record["config"]["model"] if "model.base" in resolved.replaced else configured
    adapters.require_adapter(run / runs.ADAPTER, asked["base"])
    base = models.choose_base(
        **{key: asked[key] for key in ("base", "hub", "revision", "trust_remote_code")},
        tiny_folder=Path(resolved.config.output.dir),
        gpus=0,
    )
    adapters.check_adapter(run / runs.ADAPTER, adapters.adapter_record(base), other_quantization=True)
    print(f"run       {run}, adapter of step {record['adapter_step']}\nbase      {base.name}, {_words(onto)}")

    runs.make_folder(target.parent, OTHER_FOLDER)
    part = target.with_name(f".{target.name}.part")
    with runs.lock(target, "an export", OTHER_FOLDER):
        # An export that was killed has left it.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            adapters.merge_into_files(
                base.folder,
                run / runs.ADAPTER,
                part,
                nf4_dtype=models.DTYPES[record["dtype"]["value"]] if onto == DEQUANTIZED else None,
                trust_remote_code=base.trust_remote_code,
            )
            _write_rest(base, run, record, onto, part, target.name)
            if target.exists():
                target.rmdir()
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    print(_next_steps(target))


def _free_folder(folder: Path) -> Path:
    """The folder, which must not be there yet or be empty.

    Raises:
        UserError: it holds something, or is a file.
    """
    folder = Path(os.path.realpath(folder))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--export {folder}: is a file; {OTHER_FOLDER}")
    if folder.exists() and (names := sorted(path.name for path in folder.iterdir())):
        raise UserError(
            f"--export {folder}: is not empty ({names[0]}{' and more' if names[1:] else ''}); nothing is written over: "
            f"{OTHER_FOLDER}"
        )
    return folder


def _finished(run: Path) -> dict[str, Any]:
    """The record of a run that is finished.

    Raises:
        UserError: there is none, or it has never finished.
    """
    record = runs.read_record(run)
    if record is None:
        raise UserError(
            f"{run}: holds no run that could be exported (no {runs.RUN_RECORD}); train first, or name the run: "
            "--output.run NAME"
        )
    if record.get("status") != "finished":
        raise UserError(
            f"{run}: this run has not finished ({runs.RUN_RECORD} says {record.get('status')!r}, after "
            f"{record.get('steps', 'an unknown number of')} of {record.get('steps_planned', '?')} steps); the same command "
            "without --export goes on with it"
        )
    return record


def _check_onto(run: Path, onto: str, quantization: str) -> None:
    if onto == DEQUANTIZED and quantization != "nf4":
        raise UserError(
            f"--onto {DEQUANTIZED}: the run in {run} was trained with quantization {quantization}, not nf4: there are no "
            f"4-bit weights to merge into; leave --onto out"
        )


def _words(onto: str) -> str:
    """What an adapter was merged into."""
    return "its NF4 weights as in training, dequantized to bf16" if onto == DEQUANTIZED else "its own weights, in bf16"


def _write_rest(base: "Base", run: Path, record: dict[str, Any], onto: str, part: Path, name: str) -> None:
    """All but the weights: tokenizer, chat template and licence as they are, configurations, card, Modelfile."""
    from gaokao.models import WEIGHT_INDEX, stop_token_ids, weight_files

    patterns = (*COPIED, "*.py") if base.trust_remote_code else COPIED
    for file in sorted(file for pattern in patterns for file in base.folder.glob(pattern)):
        # On the hub's cache these are links.
        shutil.copyfile(file, part / file.name)
    config = _read(part / "config.json")
    # transformers 5 has given the key another name.
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    runs.write_json(part / "config.json", config | dict.fromkeys(keys, "bfloat16"))
    if len(weight_files(base.folder)) > 1:
        _correct_index(part / WEIGHT_INDEX)
    settings = record["config"]["generate"]
    sampling = {key: settings[key] for key in ("do_sample", "temperature", "top_p", "repetition_penalty")}
    stops = stop_token_ids(base.tokenizer)
    generation = _read(part / "generation_config.json") | sampling
    # 0 turns top-k off, which generation with this project never uses; otherwise it would be 50.
    generation |= {"top_k": 0, "eos_token_id": stops, "pad_token_id": base.tokenizer.pad_token_id}
    runs.write_json(part / "generation_config.json", generation)
    scores = _read(run / runs.GENERATED / "scores.json")
    runs.write_text(part / "README.md", model_card(name, record, scores, _words(onto), part / "LICENSE"))
    runs.write_text(part / "Modelfile", modelfile(str(base.tokenizer.chat_template), settings))


def _correct_index(file: Path) -> None:
    """Which file a weight is in stays as it was; the size is that of bf16."""
    total = sum(weights.stat().st_size for weights in file.parent.glob("*.safetensors"))
    runs.write_json(file, _read(file) | {"metadata": {"total_size": total}})


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _next_steps(target: Path) -> str:
    return (
        f"files     {target}: weights, tokenizer, generation_config.json, README.md (the model's card), Modelfile\n"
        f"vLLM      vllm serve {target} --served-model-name gaokao --max-model-len 4096\n"
        f"Ollama    ollama create gaokao -f {target / 'Modelfile'}"
    )
