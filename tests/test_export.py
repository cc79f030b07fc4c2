"""A finished run becomes a model of its own: whole or not at all, with the weights that base and adapter make together."""

import json
import math
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import load, quiet, run_arguments, run_script, save_adapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gaokao import adapters, models
from gaokao.errors import UserError
from gaokao.export import _correct_index

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On all linear layers, with weights that do something."""
    return save_adapter(small_base, tmp_path_factory.mktemp("run") / "adapter")


@pytest.fixture
def changed(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the adapter with other weights or settings."""

    def change(weights: Callable[[dict[str, Any]], dict[str, Any]] = dict, **config: Any) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(adapter, folder)
        file, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        save_file(weights(load_file(file)), file, metadata={"format": "pt"})
        settings.write_text(json.dumps(json.loads(settings.read_text("utf-8")) | config), encoding="utf-8")
        return folder

    return change


def merge(base: Path, adapter: Path, target: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The merged weights by name."""
    target.mkdir(exist_ok=True)
    adapters.merge_into_files(base, adapter, target, say=quiet, **options)
    return {name: value for file in target.glob("*.safetensors") for name, value in load_file(file).items()}


# --- the weights ----------------------------------------------------------------------------------------------------


def test_merged_weights_are_those_of_peft_rounded_once(small_base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = merge(small_base, adapter, tmp_path / "out")
    adapted = adapters.load_adapter(load(small_base, "none", "fp32"), adapter)
    expected = adapted.merge_and_unload().state_dict()
    assert merged.keys() == load_file(small_base / "model.safetensors").keys()
    for name, value in merged.items():
        assert value.dtype == torch.bfloat16
        # Half of the last of bf16's eight bits.
        assert torch.allclose(value.float(), expected[name], rtol=2**-8, atol=1e-7), name
    base = load_file(small_base / "model.safetensors")
    untouched = [name for name in base if "_proj.weight" not in name]
    assert untouched and all(torch.equal(merged[name], base[name].to(torch.bfloat16)) for name in untouched)


def test_files_keep_their_names_and_a_model_in_several_gives_the_same_weights(
    small_base: Path, adapter: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    AutoModelForCausalLM.from_pretrained(small_base).save_pretrained(parts, max_shard_size="300KB")
    names = sorted(file.name for file in parts.glob("*.safetensors"))
    assert len(names) > 2
    # What lies beside the files of the index is none of the model's.
    shutil.copyfile(parts / names[0], parts / "consolidated.safetensors")
    merged = merge(parts, adapter, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    index = tmp_path / "out" / "model.safetensors.index.json"
    shutil.copyfile(parts / index.name, index)
    _correct_index(index)
    said, before = (json.loads(file.read_text(encoding="utf-8")) for file in (index, parts / index.name))
    assert said["weight_map"] == before["weight_map"]
    assert said["metadata"] == {"total_size": sum((tmp_path / "out" / name).stat().st_size for name in names)}
    assert said["metadata"]["total_size"] < before["metadata"]["total_size"]
    shutil.copyfile(small_base / "config.json", tmp_path / "out" / "config.json")
    _, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not found["missing_keys"]
    whole = merge(small_base, adapter, tmp_path / "whole")
    assert merged.keys() == whole.keys() and all(torch.equal(merged[name], whole[name]) for name in whole)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_dequantized_weights_are_those_that_training_saw(
    small_base: Path, changed: Callable[..., Path], tmp_path: Path, dtype: str
) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    nothing = changed(lambda weights: {name: value * ("lora_A" in name) for name, value in weights.items()})
    merged = merge(small_base, nothing, tmp_path / "out", nf4_dtype=models.DTYPES[dtype])
    model = load(small_base, "nf4", dtype)
    four_bit = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    assert {f"{name}.weight" for name in four_bit} == models.quantized_weights(small_base)
    base = load_file(small_base / "model.safetensors")
    for name, layer in four_bit.items():
        seen = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(torch.bfloat16)
        assert torch.equal(merged[f"{name}.weight"], seen)
        assert not torch.equal(seen, base[f"{name}.weight"].to(torch.bfloat16))
    others = base.keys() - {f"{name}.weight" for name in four_bit}
    assert all(torch.equal(merged[name], base[name].to(torch.bfloat16)) for name in others)


def test_the_adapter_is_added_to_the_dequantized_weights(small_base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = merge(small_base, adapter, tmp_path / "out", nf4_dtype=torch.float32)
    weights = load_file(adapter / "adapter_model.safetensors")
    a, b = (weights[f"base_model.model.{LAYER}.lora_{side}.weight"] for side in "AB")
    scaling = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["lora_alpha"] / 4
    base = models.through_nf4(load_file(small_base / "model.safetensors")[f"{LAYER}.weight"].float())
    expected = base + scaling * b @ a
    assert torch.allclose(merged[f"{LAYER}.weight"].float(), expected, rtol=2**-8, atol=1e-7)


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("weights", "config", "said"),
    [
        (renamed("layers.1.", "layers.7."), {}, "7 of its weights cannot be merged .such as model.layers.7"),
        (renamed(f"{LAYER}.lora_A", f"{LAYER}.other"), {}, "cannot be merged"),
        (lambda w: {n: v for n, v in w.items() if n != f"base_model.model.{LAYER}.lora_B.weight"}, {}, "1 of its weights"),
        (renamed("lora_A.weight", "lora_embedding_A"), {}, "train with lora.target_modules: all-linear"),
        (lambda w: w | {"base_model.model.lm_head.modules_to_save.weight": torch.zeros(2)}, {}, "cannot be merged"),
        (dict, {"use_rslora": True}, "sets use_rslora, which train_qwen_gaokao.py never does"),
        (dict, {"use_dora": True, "alpha_pattern": {"q_proj": 3}}, "sets use_dora, alpha_pattern"),
    ],
)  # fmt: skip
def test_an_adapter_of_which_anything_would_be_left_out_is_refused(
    small_base: Path, changed: Callable[..., Path], tmp_path: Path, weights: Any, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        merge(small_base, changed(weights, **config), tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_a_base_that_is_quantized_is_refused(small_base: Path, adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    weights = load_file(base / "model.safetensors")
    weights[f"{LAYER}.weight"] = torch.zeros(64, 64, dtype=torch.uint8)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"down_proj\.weight is of type U8: the base is quantized"):
        merge(base, adapter, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    small_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 2 * sum(math.prod(value.shape) for value in load_file(small_base / "model.safetensors").values())
    for free in (needed, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free))
        if free == needed:
            merge(small_base, adapter, tmp_path / "fits")
        else:
            with pytest.raises(UserError, match="GB are needed there and .* are free; make room"):
                merge(small_base, adapter, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("export")
    base = folder / "base"
    shutil.copytree(small_base, base)
    (base / "LICENSE").write_text("                 Apache License\n", encoding="utf-8")
    (base / "training_args.bin").write_bytes(b"pickled")
    options = {"train.learning_rate": "1e-2", "generate.limit": 2, "generate.temperature": 0.6}
    return run_arguments(base, folder, **options)


@pytest.fixture(scope="module")
def run(arguments: list[str]) -> Path:
    for script in ("train_qwen_gaokao.py", "infer_qwen_gaokao.py"):
        done = run_script(script, *arguments)
        assert done.returncode == 0, done.stderr
    return Path(arguments[3].split("=")[1]) / "gaokao"


def export(arguments: list[str], target: Path, *more: str, **options: Any) -> Any:
    return run_script("train_qwen_gaokao.py", *arguments, f"--export={target}", *more, **options)


@pytest.fixture(scope="module")
def exported(arguments: list[str], run: Path) -> Path:
    target = run.parent / "models" / "gaokao-tiny"
    done = export(arguments, target)
    assert done.returncode == 0, done.stderr
    assert "vllm serve" in done.stdout and f"ollama create gaokao -f {target / 'Modelfile'}" in done.stdout
    return target


def test_an_export_loads_like_any_model_and_says_what_base_and_adapter_say(
    arguments: list[str], run: Path, exported: Path
) -> None:
    base = Path(arguments[0].split("=")[1])
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.dtype == torch.bfloat16 and not getattr(model.config, "quantization_config", None)
    adapted = adapters.load_adapter(load(base, "none", "fp32"), run / "adapter")
    ids = torch.arange(20, 60).unsqueeze(0)
    with torch.inference_mode():
        ours, theirs = model.float()(input_ids=ids).logits, adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            bare = adapted(input_ids=ids).logits
    assert (ours - theirs).norm() < 0.05 * (bare - theirs).norm()
    assert AutoTokenizer.from_pretrained(exported).get_vocab() == models.load_tokenizer(base).get_vocab()
    assert models.load_tokenizer(exported).chat_template == models.load_tokenizer(base).chat_template


def test_an_export_generates_with_the_settings_of_the_run_and_stops_at_both_end_tokens(exported: Path) -> None:
    settings = json.loads((exported / "generation_config.json").read_text("utf-8"))
    tokenizer = models.load_tokenizer(exported)
    assert settings["temperature"] == 0.6 and settings["top_p"] == 0.9 and settings["top_k"] == 0
    assert settings["repetition_penalty"] == 1.05 and settings["do_sample"] is True
    assert settings["eos_token_id"] == models.stop_token_ids(tokenizer)
    lines = (exported / "Modelfile").read_text("utf-8").splitlines()
    assert lines[0] == "FROM ." and "PARAMETER temperature 0.6" in lines and 'PARAMETER stop "<|im_end|>"' in lines


def test_an_export_is_a_base_for_generation(arguments: list[str], exported: Path) -> None:
    more = [f"--model.base={exported}", "--model.quantization=none", "--adapter=none", "--output.run=merged"]
    done = run_script("infer_qwen_gaokao.py", *arguments[1:], *more)
    assert done.returncode == 0, done.stderr


def test_the_card_names_data_settings_figures_and_licence_and_no_path(
    arguments: list[str], run: Path, exported: Path
) -> None:
    card = (exported / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "apache-2.0" and head["language"] == "zh" and "base_model" not in head
    record = json.loads((run / "run.json").read_text("utf-8"))
    metrics = record["metrics"]
    for said in (
        f"20 records of `data.json` (fingerprint {record['decisive']['data.train']}): 19 learnt, 1 held out",
        f"| train loss | {metrics['train_loss_first']:.3f} | {metrics['train_loss_last']:.3f} |",
        f"| validation loss | {metrics['validation_loss_first']:.3f} |",
        "form      2 questions",
        "It was trained on nf4 weights, around their rounding errors",
        "max_steps: 3",
        "system: 你是高考历史命题人",
        "see LICENSE in this folder",
    ):
        assert said in card, said
    # A path of this machine says nothing to others.
    assert str(run.parent.parent) not in card
    assert {file.name for file in exported.iterdir()} >= {"LICENSE", "config.json", "tokenizer.json"}
    assert not (exported / "training_args.bin").exists()


def test_an_export_onto_the_dequantized_weights_is_another_model_and_says_so(
    arguments: list[str], run: Path, exported: Path
) -> None:
    target = run.parent / "dequantized"
    done = export(arguments, target, "--onto=dequantized")
    assert done.returncode == 0, done.stderr
    ours, other = (load_file(folder / "model.safetensors") for folder in (target, exported))
    assert not torch.equal(ours[f"{LAYER}.weight"], other[f"{LAYER}.weight"])
    card = (target / "README.md").read_text("utf-8")
    assert "merged into its NF4 weights as in training, dequantized" in card and "rounding errors" not in card


def test_the_base_is_that_of_the_run_where_the_gpu_is_missing(arguments: list[str], run: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    text = (Path(__file__).parent.parent / "config.yaml").read_text("utf-8")
    config.write_text(text, encoding="utf-8")
    done = export([f"--config={config}", arguments[3]], tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert f"base      {arguments[0].split('=')[1]}, its own weights" in done.stdout


def test_another_base_than_that_of_the_run_is_refused(
    arguments: list[str], run: Path, random_base: Path, tmp_path: Path
) -> None:
    done = export([f"--model.base={random_base}", *arguments[1:]], tmp_path / "model")
    assert done.returncode == 2
    assert "it was trained on base" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_folder_that_is_not_empty_is_left_as_it_is(arguments: list[str], run: Path, tmp_path: Path) -> None:
    target = tmp_path / "full"
    target.mkdir()
    (target / "mine.txt").write_text("x", encoding="utf-8")
    done = export(arguments, target)
    assert done.returncode == 2
    assert f"--export {target}: is not empty (mine.txt); nothing is written over: give another folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    done = export(arguments, target / "mine.txt")
    assert done.returncode == 2 and "is a file; give another folder" in done.stderr


def test_an_empty_folder_is_taken(arguments: list[str], run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = export(arguments, tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (None, "holds no run that could be exported .* train first"),
        ("running", "this run has not finished .*says 'running'.* the same command without --export goes on"),
        ("interrupted", "after 3 of 3 steps"),
    ],
)
def test_a_run_that_never_finished_is_refused(
    arguments: list[str], run: Path, tmp_path: Path, status: str | None, said: str
) -> None:
    other = tmp_path / "out" / "gaokao"
    shutil.copytree(run, other)
    if status is None:
        (other / "run.json").unlink()
    else:
        record = json.loads((other / "run.json").read_text("utf-8")) | {"status": status}
        (other / "run.json").write_text(json.dumps(record), encoding="utf-8")
    more = [argument for argument in arguments if not argument.startswith("--output.dir")]
    done = export([*more, f"--output.dir={tmp_path / 'out'}"], tmp_path / "model")
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "model").exists()


def test_a_run_trained_on_whole_weights_has_none_to_dequantize(arguments: list[str], run: Path, tmp_path: Path) -> None:
    other = tmp_path / "out" / "gaokao"
    shutil.copytree(run, other)
    record = json.loads((other / "run.json").read_text("utf-8"))
    record["adapter"]["quantization"] = "none"
    (other / "run.json").write_text(json.dumps(record), encoding="utf-8")
    done = export([*arguments, f"--output.dir={tmp_path / 'out'}"], tmp_path / "model", "--onto=dequantized")
    assert done.returncode == 2 and "trained with quantization none, not nf4" in done.stderr


def test_onto_without_an_export_is_refused(arguments: list[str]) -> None:
    done = run_script("train_qwen_gaokao.py", *arguments, "--onto=base")
    assert done.returncode == 2 and "--onto belongs to an export; add --export DIR" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit, which Windows has not")
def test_a_disk_that_is_full_in_the_middle_leaves_nothing_half(arguments: list[str], run: Path, tmp_path: Path) -> None:
    # The weights have more.
    limit = (300_000, 300_000)
    done = export(arguments, tmp_path / "model", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 2
    assert "cannot be written (File too large); make room" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_a_killed_export_left_is_replaced(arguments: list[str], run: Path, tmp_path: Path) -> None:
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "old.safetensors").touch()
    done = export(arguments, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "model" / "old.safetensors").exists() and not (tmp_path / ".model.part").exists()
    assert (tmp_path / "model" / "README.md").exists()


def test_a_template_that_is_not_chatml_is_left_to_ollama() -> None:
    from gaokao.card import modelfile

    settings = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0, "max_new_tokens": 64, "do_sample": False}
    text = modelfile("{{ messages }}", settings)
    assert "TEMPLATE" not in text and "stop" not in text and "PARAMETER temperature 0\n" in text


def test_a_card_without_licence_or_scores_says_so(run: Path, tmp_path: Path) -> None:
    from gaokao.card import model_card

    record = json.loads((run / "run.json").read_text("utf-8"))
    record["adapter"]["base"] = "Qwen/Qwen2.5-14B-Instruct"
    card = model_card("x", record, {}, "its own weights, in bf16", tmp_path / "LICENSE")
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "other" and head["base_model"] == "Qwen/Qwen2.5-14B-Instruct"
    assert "came without a file of its licence" in card and "No questions have been generated" in card
