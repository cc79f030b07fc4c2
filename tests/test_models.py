"""Bases, quantization and adapters: what is loaded is what was asked for, or it is refused."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import chosen, load, quiet
from safetensors.torch import load_file, save_file

from gaokao import models
from gaokao.errors import UserError


def test_padding_is_not_the_end_token_and_both_end_tokens_stop(small_base: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert models.stop_token_ids(tokenizer) == [tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_a_tokenizer_that_pads_with_its_end_token_gets_another(small_base: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    assert models.load_tokenizer(tmp_path).pad_token == "<|endoftext|>"


def test_a_tokenizer_without_chat_template_is_refused(small_base: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat template; use an Instruct model"):
        models.load_tokenizer(tmp_path)


def test_nf4_is_4_bit_with_double_quantization(small_base: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    layer = next(module for module in load(small_base).modules() if isinstance(module, Linear4bit))
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert layer.weight.dtype == torch.uint8


def test_int8_and_none_load_as_asked(small_base: Path) -> None:
    from bitsandbytes.nn import Linear8bitLt

    assert any(isinstance(module, Linear8bitLt) for module in load(small_base, "int8").modules())
    plain = load(small_base, "none", "bf16")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("./nowhere", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("Qwen", "there is no such folder; name a folder, builtin:tiny, or a hub name"),
        ("x" * 300, "there is no such folder"),
        ("~nobody-of-this-name/x", "there is no such folder"),
    ],
)
def test_a_base_that_is_no_folder_and_no_hub_name_is_refused(base: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        models.locate_base(base, "huggingface", None, tmp_path, quiet)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors .*; other formats can run code"):
        models.locate_base(str(tmp_path), "huggingface", None, tmp_path, quiet)


def test_on_a_cpu_choices_have_reasons_and_a_named_one_that_cannot_run_is_refused() -> None:
    assert models.choose_attention("auto", False, "bf16") == ("sdpa", "no FlashAttention 2: there is no CUDA GPU")
    assert models.choose_attention("eager", False, "fp32") == ("eager", "model.attention")
    with pytest.raises(UserError, match="flash_attention_2: there is no CUDA GPU"):
        models.choose_attention("flash_attention_2", False, "bf16")
    able = torch.cpu.get_capabilities()
    expected = "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
    assert models.choose_dtype("auto", on_gpu=False).value == expected
    # A file for a T4, tried on a laptop: there is no loss scaler for a CPU.
    assert models.choose_dtype("fp16", on_gpu=False) == (expected, "model.dtype is fp16, which needs a GPU")


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16"), (False, "fp16")])
def test_on_a_gpu_bf16_is_taken_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: str
) -> None:
    # Emulated bf16, which old GPUs offer as well, is slower than fp16.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or able)
    assert models.choose_dtype("auto", on_gpu=True).value == expected
    assert models.choose_dtype("fp32", on_gpu=True) == ("fp32", "model.dtype")
    if able:
        assert models.choose_dtype("bf16", on_gpu=True) == ("bf16", "model.dtype")
        return
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(UserError, match="model.dtype = bf16: Tesla T4 has no bf16 units .*use auto"):
        models.choose_dtype("bf16", on_gpu=True)


@pytest.fixture
def flash_attn_as_found() -> Iterator[None]:
    """What a test imports under this name is gone after it: others ask whether the package is there."""
    before = sys.modules.pop("flash_attn", None)
    yield
    sys.modules.pop("flash_attn", None)
    if before is not None:
        sys.modules["flash_attn"] = before


@pytest.mark.usefixtures("flash_attn_as_found")
@pytest.mark.parametrize(
    ("capability", "dtype", "package", "expected"),
    [
        ((8, 0), "bf16", "", "flash_attention_2"),
        ((9, 0), "fp16", "", "flash_attention_2"),
        ((7, 5), "fp16", "", "older than Ampere"),
        ((8, 0), "fp32", "", "bf16 and fp16 only"),
        ((8, 0), "bf16", None, "flash-attn is not installed"),
        ((8, 0), "bf16", "raise OSError('undefined symbol: _ZN3c10')", "does not load (undefined symbol"),
        ((8, 0), "bf16", "import a_module_that_is_not_there", "does not load (No module named"),
    ],
)
def test_flash_attention_is_taken_where_gpu_dtype_and_build_allow_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capability: tuple[int, int],
    dtype: str,
    package: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if package is not None:
        (tmp_path / "flash_attn").mkdir()
        (tmp_path / "flash_attn" / "__init__.py").write_text(package, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    choice = models.choose_attention("auto", True, dtype)
    if expected == "flash_attention_2":
        assert choice.value == expected
        assert models.choose_attention(expected, True, dtype).value == expected
    else:
        assert choice.value == "sdpa" and expected in choice.reason
        with pytest.raises(UserError, match="model.attention = flash_attention_2"):
            models.choose_attention("flash_attention_2", True, dtype)


def test_a_base_is_not_chosen_for_a_gpu_that_torch_cannot_use(
    small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"the driver shows 1 GPU\(s\), but torch .* cannot use them"):
        models.choose_base(base=str(small_base), tiny_folder=small_base, gpus=1)


def test_the_context_of_a_base_is_what_its_configuration_says(small_base: Path, tmp_path: Path) -> None:
    assert chosen(small_base).context == 8192
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert chosen(small_base)._replace(folder=tmp_path).context is None


def test_the_fingerprint_of_a_base_reads_shapes_and_weights_apart(small_base: Path, tmp_path: Path) -> None:
    whole = models.base_fingerprint(small_base)

    def changed(change: Callable[[Path], None]) -> str:
        folder = tmp_path / "b"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(small_base, folder)
        change(folder)
        return models.base_fingerprint(folder)

    def last_weight(folder: Path) -> None:
        data = bytearray((folder / "model.safetensors").read_bytes())
        # The sixteenth sample begins here.
        header = 8 + int.from_bytes(data[:8], "little")
        data[header + (len(data) - header) * 15 // 16] ^= 1
        (folder / "model.safetensors").write_bytes(data)

    def other_shape(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}), encoding="utf-8")

    def other_version(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "1"}), encoding="utf-8")

    def renamed_tensor(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["other"] = weights.pop("model.norm.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    assert changed(lambda folder: None) == changed(other_version) == whole
    assert len({whole, changed(last_weight), changed(other_shape), changed(renamed_tensor)}) == 4


def test_a_driver_with_gpus_and_a_torch_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"shows 2 GPU\(s\), but torch"):
        models.check_devices(2)


def test_the_fingerprint_of_a_base_tells_weights_of_the_same_shape(small_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_base, other)
    assert models.base_fingerprint(other) == models.base_fingerprint(small_base)
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    assert models.base_fingerprint(other) != models.base_fingerprint(small_base)


def test_a_folder_without_all_of_its_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model-1.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of its 2 parts are missing in .*such as model-2\.safetensors\)"):
        models.locate_base(str(tmp_path), "huggingface", None, tmp_path, quiet)
    (tmp_path / "model-2.safetensors").touch()
    assert models.locate_base(str(tmp_path), "huggingface", None, tmp_path, quiet) == tmp_path
    index.write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: cannot be read"):
        models.locate_base(str(tmp_path), "huggingface", None, tmp_path, quiet)
