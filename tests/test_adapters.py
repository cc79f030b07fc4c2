"""An adapter is used whole, on the base it was trained on, and only where it changes something."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import chosen, load, save_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from gaokao import adapters, models
from gaokao.config import BUILTIN_TINY
from gaokao.errors import UserError


@pytest.fixture(scope="module")
def adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(small_base, tmp_path_factory.mktemp("run") / "adapter")


@pytest.fixture
def changed(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the adapter with other weights or another record."""

    def change(weights: Callable[[dict[str, Any]], dict[str, Any]] | None = None, **record: str) -> Path:
        folder = tmp_path / "adapter"
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        file = folder / "adapter_model.safetensors"
        if weights:
            save_file(weights(load_file(file)), file, metadata={"format": "pt"})
        path = folder / adapters.ADAPTER_RECORD
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | record), encoding="utf-8")
        return folder

    return change


def now(base: Path, quantization: str = "nf4") -> adapters.AdapterRecord:
    return adapters.adapter_record(chosen(base, quantization))


def test_an_old_adapter_stays_when_the_new_one_cannot_be_put_in_its_place(
    adapter: Path, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "adapter"
    shutil.copytree(adapter, folder)
    before = (folder / "adapter_model.safetensors").read_bytes()
    model = get_peft_model(load(small_base), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        adapters.save_adapter(model, models.load_tokenizer(small_base), now(small_base), folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_an_adapter_loads_whole_and_changes_the_logits(adapter: Path, small_base: Path) -> None:
    adapters.require_adapter(adapter, str(small_base))
    adapters.check_adapter(adapter, now(small_base))
    adapted = adapters.load_adapter(load(small_base), adapter)
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
        adapters.save_adapter(model, tokenizer, now(small_base), folder)
    assert json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_an_adapter_folder_that_is_missing_or_not_whole_is_refused(
    tmp_path: Path, changed: Callable[..., Path], small_base: Path
) -> None:
    with pytest.raises(UserError, match=r"there is no such folder; train first .* --adapter none"):
        adapters.require_adapter(tmp_path / "nope", str(small_base))
    folder = changed()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        adapters.require_adapter(folder, str(small_base))
    folder = changed()
    (folder / adapters.ADAPTER_RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"gaokao_adapter\.json is damaged .*; train again or restore it"):
        adapters.require_adapter(folder, str(small_base))


def test_an_adapter_of_the_built_in_base_or_not_is_refused_by_name_before_a_base_is_fetched_or_made(
    changed: Callable[..., Path], small_base: Path
) -> None:
    folder = changed(base="Qwen/Qwen2.5-14B-Instruct")
    with pytest.raises(
        UserError, match=r"trained on base Qwen/\S+, not on builtin:tiny; use that one: --model\.base Qwen"
    ):
        adapters.require_adapter(folder, BUILTIN_TINY)
    # The same weights may lie under another name of a hub or in a folder: what decides is in the files.
    adapters.require_adapter(folder, "someone/Qwen2.5-14B-Instruct")
    adapters.require_adapter(folder, str(small_base))
    folder = changed(base=BUILTIN_TINY)
    with pytest.raises(UserError, match=r"trained on base builtin:tiny, not on Qwen/Qwen2\.5-14B-Instruct"):
        adapters.require_adapter(folder, "Qwen/Qwen2.5-14B-Instruct")
    adapters.require_adapter(folder, BUILTIN_TINY)
    adapters.require_adapter(folder, str(small_base))


def test_an_adapter_of_another_base_quantization_or_template_is_refused(
    adapter: Path, changed: Callable[..., Path], small_base: Path
) -> None:
    with pytest.raises(UserError, match="trained with quantization nf4, not none; set model.quantization: nf4"):
        adapters.check_adapter(adapter, now(small_base, "none"))
    # Whoever asks for it is told what the results will say.
    said = "trained with quantization nf4, used with none"
    assert adapters.check_adapter(adapter, now(small_base, "none"), other_quantization=True) == said
    assert adapters.check_adapter(adapter, now(small_base), other_quantization=True) == ""
    with pytest.raises(UserError, match="trained on base other, not on .*tiny-"):
        adapters.check_adapter(changed(base="other", base_fingerprint="x"), now(small_base))


def test_an_adapter_with_another_chat_template_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    with pytest.raises(UserError, match="its chat template differs"):
        adapters.check_adapter(changed(chat_template="x"), now(small_base))


def test_an_adapter_with_missing_weights_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: dict(list(weights.items())[2:]))
    with pytest.raises(UserError, match=r"2 missing weights \(such as"):
        adapters.load_adapter(load(small_base), folder)


def test_an_adapter_with_foreign_weights_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: {name.replace("layers.1.", "layers.7."): value for name, value in weights.items()})
    with pytest.raises(UserError, match="missing weights .* and .* foreign weights"):
        adapters.load_adapter(load(small_base), folder)


def test_an_adapter_with_one_weight_too_many_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: weights | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)})
    with pytest.raises(UserError, match=r"has 1 foreign weights \(such as .*lm_head.*\); it is damaged"):
        adapters.load_adapter(load(small_base), folder)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_an_adapter_has_the_compute_type_and_says_nearly_what_it_says_in_fp32(
    adapter: Path, small_base: Path, dtype: str
) -> None:
    adapted = adapters.load_adapter(load(small_base, dtype=dtype), adapter)
    weights = [parameter for name, parameter in adapted.named_parameters() if "lora_" in name]
    assert weights and {parameter.dtype for parameter in weights} == {models.DTYPES[dtype]}
    plain = PeftModel.from_pretrained(load(small_base, dtype=dtype), adapter).eval()
    assert {p.dtype for name, p in plain.named_parameters() if "lora_" in name} == {torch.float32}
    ids = torch.arange(20, 40).unsqueeze(0)
    with torch.inference_mode():
        cast, whole = (model(input_ids=ids).logits.float() for model in (adapted, plain))
        with plain.disable_adapter():
            bare = plain(input_ids=ids).logits.float()
    # Rounding is small beside what the adapter does.
    assert (cast - whole).norm() <= 0.05 * (whole - bare).norm()
    assert torch.equal(cast, whole) is (dtype == "fp32")


def test_an_adapter_that_changes_one_layer_only_is_taken(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(
        lambda weights: {n: v * ("layers.1.mlp.down_proj" in n or "lora_A" in n) for n, v in weights.items()}
    )
    assert adapters.load_adapter(load(small_base), folder)


def test_an_adapter_that_changes_nothing_is_refused(changed: Callable[..., Path], small_base: Path) -> None:
    folder = changed(lambda weights: {n: v * 0 if "lora_B" in n else v for n, v in weights.items()})
    with pytest.raises(UserError, match="changes nothing"):
        adapters.load_adapter(load(small_base), folder)


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
        merged, choice = adapters.merge_if_plain(model, "none")
        assert choice.value == "merged"
        assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-4)
    four_bit, choice = adapters.merge_if_plain(model, "nf4")
    assert choice.value == "separate" and "round" in choice.reason
    assert four_bit is model


def test_the_adapter_record_is_plain_json(small_base: Path) -> None:
    assert json.loads(json.dumps(asdict(now(small_base))))["quantization"] == "nf4"
