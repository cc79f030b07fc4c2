"""Bases, quantization and adapters: what is loaded is what was asked for, or it is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from gaokao import models
from gaokao.errors import UserError


def quiet(line: str) -> None:
    pass


def load(base: Path, quantization: str = "nf4", dtype: str = "fp32") -> Any:
    return models.load_base(base, quantization=quantization, dtype=dtype, attention="sdpa", device="cpu")


@pytest.fixture(scope="module")
def adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was not trained, but whose weights do something."""
    torch.manual_seed(0)
    tokenizer = models.load_tokenizer(small_base)
    model = get_peft_model(load(small_base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("run") / "adapter"
    models.save_adapter(model, tokenizer, models.adapter_record("small", small_base, "nf4", tokenizer), folder)
    return folder


@pytest.fixture
def changed(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the adapter with other weights or another record."""

    def change(weights: Callable[[dict[str, Any]], dict[str, Any]] | None = None, **record: str) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(adapter, folder)
        file = folder / "adapter_model.safetensors"
        if weights:
            save_file(weights(load_file(file)), file, metadata={"format": "pt"})
        path = folder / models.ADAPTER_RECORD
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | record), encoding="utf-8")
        return folder

    return change


def now(base: Path, quantization: str = "nf4") -> models.AdapterRecord:
    return models.adapter_record("small", base, quantization, models.load_tokenizer(base))


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
    ],
)
def test_a_base_that_is_no_folder_and_no_hub_name_is_refused(base: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        models.locate_base(base, "huggingface", None, tmp_path, quiet)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors; other formats can run code"):
        models.locate_base(str(tmp_path), "huggingface", None, tmp_path, quiet)


def test_a_hub_that_cannot_be_reached_names_the_ways_around(tmp_path: Path) -> None:
    # HF_HUB_OFFLINE is set for all tests, so this fails at once, as without a network.
    with pytest.raises(UserError, match=r"cannot be had from huggingface .* model\.hub: modelscope .* HF_ENDPOINT"):
        models.locate_base("Qwen/Qwen2.5-14B-Instruct", "huggingface", None, tmp_path, quiet)


def test_modelscope_without_its_client_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install modelscope"):
        models.locate_base("Qwen/Qwen2.5-14B-Instruct", "modelscope", None, tmp_path, quiet)


def test_automatic_choices_have_reasons_and_a_named_one_that_cannot_run_is_refused() -> None:
    assert models.choose_attention("auto", on_gpu=False) == ("sdpa", "no FlashAttention 2: there is no CUDA GPU")
    assert models.choose_attention("eager", on_gpu=False) == ("eager", "model.attention")
    with pytest.raises(UserError, match="flash_attention_2: there is no CUDA GPU"):
        models.choose_attention("flash_attention_2", on_gpu=False)
    assert models.choose_dtype("fp16", on_gpu=False).value == "fp16"
    assert models.choose_dtype("auto", on_gpu=False).value in ("bf16", "fp32")


def test_a_driver_with_gpus_and_a_torch_without_cuda_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a torch that cannot use a GPU")
    with pytest.raises(UserError, match=r"shows 2 GPU\(s\), but torch"):
        models.check_devices(2)


def test_the_fingerprint_of_a_base_tells_weights_of_the_same_shape(small_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(small_base, other)
    assert models.base_fingerprint(other) == models.base_fingerprint(small_base)
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    assert models.base_fingerprint(other) != models.base_fingerprint(small_base)


def test_an_adapter_loads_whole_and_changes_the_logits(adapter: Path, small_base: Path) -> None:
    models.require_adapter_files(adapter)
    models.check_adapter(adapter, now(small_base))
    adapted = models.load_adapter(load(small_base), adapter)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode(), adapted.disable_adapter():
        bare = adapted(input_ids=ids).logits
    with torch.inference_mode():
        assert not torch.equal(adapted(input_ids=ids).logits, bare)


def test_saving_an_adapter_again_replaces_it_and_leaves_nothing_beside_it(small_base: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(small_base)
    folder = tmp_path / "run" / "adapter"
    for rank in (4, 8):
        model = get_peft_model(load(small_base), LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
        models.save_adapter(model, tokenizer, now(small_base), folder)
    assert json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_an_adapter_folder_that_is_missing_or_not_whole_is_refused(
    tmp_path: Path, changed: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=r"there is no such folder; train first .* --adapter none"):
        models.require_adapter_files(tmp_path / "nope")
    folder = changed()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        models.require_adapter_files(folder)


def test_an_adapter_of_another_base_quantization_or_template_is_refused(
    adapter: Path, changed: Callable[..., Path], small_base: Path
) -> None:
    with pytest.raises(UserError, match="trained with quantization nf4, not none; set model.quantization: nf4"):
        models.check_adapter(adapter, now(small_base, "none"))
    with pytest.raises(UserError, match="trained on base other, not on small"):
        models.check_adapter(changed(base="other", base_fingerprint="x"), now(small_base))


def test_an_adapter_with_another_chat_template_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    with pytest.raises(UserError, match="its chat template differs"):
        models.check_adapter(changed(chat_template="x"), now(small_base))


def test_an_adapter_with_missing_weights_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: dict(list(weights.items())[2:]))
    with pytest.raises(UserError, match=r"2 missing weights \(such as"):
        models.load_adapter(load(small_base), folder)


def test_an_adapter_with_foreign_weights_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()})
    with pytest.raises(UserError, match="missing weights .* and .* foreign weights"):
        models.load_adapter(load(small_base), folder)


def test_an_adapter_that_changes_nothing_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: {n: v * 0 if "lora_B" in n else v for n, v in weights.items()})
    with pytest.raises(UserError, match="changes nothing"):
        models.load_adapter(load(small_base), folder)


def test_merging_happens_on_plain_weights_only_and_keeps_the_logits(small_base: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        load(small_base, "none"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        before = model.eval()(input_ids=ids).logits
        merged, choice = models.merge_if_plain(model, "none")
        assert choice.value == "merged"
        assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-4)
    four_bit, choice = models.merge_if_plain(model, "nf4")
    assert choice.value == "separate" and "round" in choice.reason
    assert four_bit is model


def test_the_adapter_record_is_plain_json(small_base: Path) -> None:
    assert json.loads(json.dumps(asdict(now(small_base))))["quantization"] == "nf4"
