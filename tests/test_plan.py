"""The forecast: shapes that are exact, terms that are those of the libraries, what fits, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, record_row, run_script

from gaokao import memory, plan, shapes, splits
from gaokao.chats import ChatPool
from gaokao.config import BUILTIN_TINY, Config
from gaokao.errors import UserError
from gaokao.prompts import format_chat
from gaokao.records import load_records
from gaokao.settings import Resolved, load_config

SMALLEST_GPU = plan.smallest_gpu
RECORDS = load_records(ROOT / "gaokao_data" / "train.json")[:40]
SHIPPED = memory.setup_of(Config(), attention="sdpa")
# G, as the model cards state.
PUBLISHED = {
    "Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-3B": 3.09, "Qwen2.5-7B": 7.61, "Qwen2.5-14B": 14.77,
    "Qwen2.5-32B": 32.76, "Qwen2.5-72B": 72.71, "Qwen3-0.6B": 0.60, "Qwen3-1.7B": 1.72, "Qwen3-4B": 4.02,
    "Qwen3-8B": 8.19, "Qwen3-14B": 14.77, "Qwen3-32B": 32.76,
}  # fmt: skip


def resolved(*arguments: str, gpus: int = 1) -> Resolved:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gaokao.settings.cuda_gpus", lambda: gpus)
        return load_config(["--config", str(ROOT / "config.yaml"), *arguments], "test", add=plan.add_options)


@pytest.fixture(autouse=True)
def _nothing_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has, a GPU or models of the hub, decides nothing here."""
    monkeypatch.setattr(plan, "smallest_gpu", lambda: None)
    monkeypatch.setattr(shapes, "downloaded", lambda base, revision: None)


class Driver:
    """A driver with a large and a small GPU."""

    sizes = (24_000_000_000, 4_000_000_000)

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802 - the driver's names
        count._obj.value = len(self.sizes)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802
        size._obj.value = self.sizes[device.value]
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = f"GPU {device.value}".encode()
        return 0


@pytest.mark.parametrize(("processes", "name"), [("", "GPU 0"), ("1", "GPU 0"), ("2", "GPU 1"), ("8", "GPU 1")])
def test_the_smallest_gpu_is_that_of_those_that_are_used(
    processes: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "cuda_driver", Driver)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    found = SMALLEST_GPU()
    assert found and found[0] == name


def card(monkeypatch: pytest.MonkeyPatch, gigabytes: float, name: str = "NVIDIA GeForce RTX 4090") -> None:
    """A machine whose smallest GPU is this one."""
    monkeypatch.setattr(plan, "smallest_gpu", lambda: (name, int(gigabytes * 1e9)))


def total(setup: memory.Setup, base: str = "Qwen2.5-14B") -> float:
    return memory.peak(memory.memory(shapes.TABLE[base], setup))


def term(name: str, setup: memory.Setup = SHIPPED, base: str = "Qwen2.5-14B") -> memory.Term:
    (found,) = (t for t in memory.memory(shapes.TABLE[base], setup) if t.name == name)
    return found


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*shapes.TABLE, BUILTIN_TINY])
def test_a_shape_has_exactly_the_parameters_of_the_model_and_of_its_adapter(name: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape = shapes.find_shape(name if name == BUILTIN_TINY else f"Qwen/{name}").shape
    values = {key: getattr(shape, field) for field, key in shapes.KEYS.items()}
    values |= {"tie_word_embeddings": shape.tied, "layer_types": None}
    with torch.device("meta"):
        if shape.head_norms:
            model: Any = Qwen3ForCausalLM(Qwen3Config(**values, head_dim=shape.head_size))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**values))
        assert sum(p.numel() for p in model.parameters()) == shape.parameters
        for targets in ("all-linear", ["q_proj", "down_proj"]):
            adapted = get_peft_model(model, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"))
            trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
            assert trained == shape.lora_parameters(8, targets)
            model = adapted.unload()


@pytest.mark.parametrize("name", shapes.TABLE)
def test_the_table_has_the_parameters_that_the_model_cards_state(name: str) -> None:
    assert shapes.TABLE[name].parameters / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_the_built_in_base_has_the_shape_of_its_recipe() -> None:
    from gaokao import tiny

    recipe = tiny.Recipe()
    for field in ("hidden", "intermediate", "layers", "heads", "key_value_heads", "vocabulary"):
        assert getattr(shapes.TINY, field) == getattr(recipe, field)


@pytest.mark.parametrize(
    ("base", "row"),
    [
        ("Qwen/Qwen2.5-14B-Instruct", "Qwen2.5-14B"),
        ("mirror/Qwen2.5-7B", "Qwen2.5-7B"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen3-4B"),
        ("Qwen/Qwen3-14B-Base", "Qwen3-14B"),
    ],
)
def test_a_name_of_the_hub_is_found_in_the_table(base: str, row: str) -> None:
    found = shapes.find_shape(base)
    assert found.shape == shapes.TABLE[row] and f"config.json of Qwen/{row}" in found.source and found.folder is None


@pytest.mark.parametrize(
    "base", ["Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-VL-7B-Instruct", "meta/Llama-3.1-8B", "./nowhere"]
)
def test_a_shape_that_nobody_knows_is_said_with_what_can_be_given(base: str) -> None:
    with pytest.raises(UserError) as raised:
        shapes.find_shape(base)
    for word in (f"model.base = {base}", "Qwen2.5-14B", "Qwen3-0.6B", BUILTIN_TINY, "config.json"):
        assert word in str(raised.value)


def test_a_folder_states_its_own_shape_and_its_weights_are_not_needed(small_base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    shutil.copy(small_base / "config.json", tmp_path)
    found = shapes.find_shape(str(tmp_path))
    assert found.source == str(tmp_path / "config.json") and found.folder == tmp_path
    model = AutoModelForCausalLM.from_pretrained(small_base)
    assert found.shape.parameters == sum(p.numel() for p in model.parameters())


def test_a_model_that_was_downloaded_before_counts_as_a_folder(
    small_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "downloaded", lambda base, revision: small_base)
    found = shapes.find_shape("some/model")
    assert found.folder == small_base and found.shape.hidden == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "model_type is null; a forecast is made for qwen2 and qwen3 only"),
        ('{"model_type": "mixtral"}', 'model_type is "mixtral"'),
        ('{"model_type": "qwen2", "hidden_size": 8}', "num_hidden_layers = null"),
        ('{"model_type": "qwen2", "hidden_size": -8}', "hidden_size = -8"),
        ('{"model_type": "qwen2", "hidden_size": "8"}', 'hidden_size = "8"'),
    ],
)
def test_a_config_json_that_states_no_shape_is_named_with_what_is_wrong(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        shapes.find_shape(str(tmp_path))
    assert str(tmp_path / "config.json") in str(raised.value)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_nf4_weights_have_the_bytes_that_bitsandbytes_gives_them() -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    for weights in (64 * 256, 896 * 896, 5120 * 72):
        packed, state = quantize_4bit(torch.ones(weights, 1), compress_statistics=True, quant_type="nf4")
        held = (packed, state.absmax, state.state2.absmax)
        assert memory.nf4_bytes(weights) == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert round(memory.nf4_bits(), 3) == 4.127


def test_the_weights_are_those_of_the_loaded_base(random_base: Path) -> None:
    from conftest import load

    shape = shapes.find_shape(str(random_base)).shape
    for quantization in ("nf4", "int8", "none"):
        setup = SHIPPED._replace(quantization=quantization)
        model = load(random_base, quantization=quantization, dtype="bf16")
        # The scales of NF4 are no parameters, and so not in the library's count.
        scales = shape.linear_parameters / 64 * (1 + 4 / 256) if quantization == "nf4" else 0
        expected = memory.peak(memory.weights(shape, setup)) - scales
        assert model.get_memory_footprint() == pytest.approx(expected, rel=0.02), quantization


def test_the_shipped_settings_need_what_the_readme_says() -> None:
    assert memory.peak(memory.weights(shapes.TABLE["Qwen2.5-14B"], SHIPPED)) / 1e9 == pytest.approx(9.94, abs=0.01)
    assert total(SHIPPED) / 1e9 == pytest.approx(14.4, abs=0.05)
    assert term("LoRA").bytes == 137_625_600 * 6 and term("gradients").bytes == 137_625_600 * 4
    assert term("optimizer").bytes == pytest.approx(137_625_600 * 2 * (1 + 4 / 256))
    assert term("activations, checkpointing").bytes == 48 * 2048 * 5120 * 2


def test_only_what_is_there_at_the_same_time_counts_for_the_peak() -> None:
    for setup in (SHIPPED, SHIPPED._replace(checkpointing=False), SHIPPED._replace(length=128)):
        counted = {t.name for t in memory.memory(shapes.TABLE["Qwen2.5-0.5B"], setup) if t.counts}
        assert len(counted & {"layer at work", "loss"}) == 1
        assert ("activations, checkpointing" in counted) is setup.checkpointing
        assert ("activations, no checkpointing" in counted) is not setup.checkpointing
    # A narrow model with a large vocabulary.
    assert term("loss", SHIPPED._replace(checkpointing=False), "Qwen2.5-0.5B").counts
    assert term("layer at work", SHIPPED, "Qwen2.5-14B").counts


def test_on_a_cpu_the_loss_holds_logits_and_probabilities_of_the_whole_vocabulary_in_fp32() -> None:
    setup = SHIPPED._replace(on_gpu=False)
    states = setup.tokens * 896 * (2 * setup.width + 4)
    assert term("loss", setup, "Qwen2.5-0.5B").bytes == 128 * 151_936 * 8 + states
    assert term("loss", SHIPPED, "Qwen2.5-0.5B").bytes == min(setup.tokens, 4096) * 32_768 * 2 + states


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"rows": 2}, True), ({"length": 4096}, True), ({"checkpointing": False}, True), ({"r": 64}, True),
        ({"optim": "adamw_torch"}, True), ({"quantization": "int8"}, True), ({"quantization": "none"}, True),
        ({"dtype": "fp32"}, True), ({"processes": 2}, True), ({"attention": "eager"}, True),
        ({"attention": "flash_attention_2"}, False), ({"dropout": 0.0}, False), ({"targets": ["q_proj"]}, False),
    ],
)  # fmt: skip
def test_every_setting_moves_the_peak_in_its_direction(change: dict[str, Any], more: bool) -> None:
    assert (total(SHIPPED._replace(**change)) > total(SHIPPED)) is more
    assert total(SHIPPED._replace(**change)) != total(SHIPPED)


def test_attention_and_dtype_are_those_of_the_configuration_whatever_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    asked = resolved("--model.attention", "sdpa", "--model.dtype", "fp32").config
    assert memory.setup_of(asked)[1:3] == ("fp32", "sdpa")
    assert memory.setup_of(asked, dtype="bf16", attention="eager")[1:3] == ("bf16", "eager")
    assert memory.setup_of(Config())[1:3] == ("bf16", "flash_attention_2")


def test_without_checkpointing_a_layer_keeps_the_tensors_that_autograd_saves() -> None:
    """Counted on a real decoder layer, with an adapter in bf16 as autocast has it on a GPU, and without dropout."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = shapes.Shape(128, 512, 2, 4, 2, 256, False)
    values = {key: getattr(shape, field) for field, key in shapes.KEYS.items()}
    saved: list[int] = []
    for layers in (1, 2):
        config = Qwen2Config(**values | {"num_hidden_layers": layers}, attn_implementation="sdpa")
        model: Any = Qwen2ForCausalLM(config).to(torch.bfloat16)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"), autocast_adapter_dtype=False)
        adapted.train()
        kept: dict[int, int] = {}
        weights = {p.data_ptr() for p in adapted.parameters()}

        def keep(tensor: Any, kept: dict[int, int] = kept, weights: set[int] = weights) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        ids = torch.randint(256, (1, 512))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = adapted(input_ids=ids, output_hidden_states=False, use_cache=False).logits
        saved.append(sum(kept.values()))
        assert states.requires_grad
    each = (saved[1] - saved[0]) / 512
    # Without a mask, sdpa does not repeat keys and values either.
    setup = SHIPPED._replace(r=4, dropout=0.0, attention="flash_attention_2")
    assert each == pytest.approx(memory.layer_bytes(shape, setup), rel=0.1)


def test_a_cpu_needs_the_most_while_it_loads_or_while_it_trains() -> None:
    setup = SHIPPED._replace(on_gpu=False, length=512, optim="adamw_torch")
    short = {t.name: t for t in memory.memory(shapes.TABLE["Qwen2.5-0.5B"], setup)}
    assert short["weight file"].counts and not short["LoRA"].counts and "CUDA context" not in short
    long = {t.name: t for t in memory.memory(shapes.TABLE["Qwen2.5-0.5B"], setup._replace(checkpointing=False))}
    assert long["LoRA"].counts and not long["weight file"].counts
    for found in (short, long):
        assert found["Python and libraries"].counts and found["left by loading"].bytes == 3 * 357_826_560


# GB at the peak of real trainings of a Qwen2.5-0.5B with an output head of its own: fp32, NF4, rank 32, rows of 512 tokens,
# one step (tests/benchmarks/memory_forecast.py). The same run differs by half a GB from one time to the next;
# the first one, which needs the most while it loads, took 3.6, 3.6 and 4.7 GB at other times.
@pytest.mark.parametrize(
    ("checkpointing", "dropout", "measured"), [(True, 0.05, 4.95), (False, 0.05, 5.59), (False, 0.0, 5.44)]
)
def test_the_forecast_for_a_cpu_is_within_a_fifth_of_what_was_measured(
    checkpointing: bool, dropout: float, measured: float
) -> None:
    setup = SHIPPED._replace(
        on_gpu=False, dtype="fp32", length=512, optim="adamw_torch", checkpointing=checkpointing, dropout=dropout
    )
    shape = shapes.TABLE["Qwen2.5-0.5B"]._replace(tied=False)
    assert memory.peak(memory.memory(shape, setup)) / 1e9 == pytest.approx(measured, rel=0.2)


def test_what_does_not_fit_is_changed_where_it_costs_the_least_first() -> None:
    shape = shapes.TABLE["Qwen2.5-14B"]
    assert memory.fit(shape, SHIPPED, 16e9).changes == {}
    wasteful = SHIPPED._replace(rows=4, checkpointing=False, optim="adamw_torch", quantization="none")
    found = memory.fit(shape, wasteful, 16e9)
    assert list(found.changes) == [
        "train.per_device_train_batch_size", "train.gradient_checkpointing", "train.optim", "model.quantization",
    ]  # fmt: skip
    assert found.fits and found.peak == total(SHIPPED)
    short = memory.fit(shape, SHIPPED, 12e9)
    assert short.fits and set(short.changes) == {"train.max_length", "lora.r"}
    assert not memory.fit(shape, SHIPPED, 9e9).fits


# --- tokens, steps, time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_those_that_trl_packs(seed: int) -> None:
    import random

    import datasets
    from trl.data_utils import pack_dataset

    draw = random.Random(seed)
    lengths = [draw.randint(1, 300) for _ in range(1300)]
    dataset = datasets.Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    packed = pack_dataset(dataset, 300, "bfd")
    assert sorted(splits.packed_rows(lengths, 300)) == sorted(map(len, packed["input_ids"]))


def test_tokens_are_counted_as_the_training_counts_them(small_base: Path) -> None:
    from gaokao import models

    count, how = plan.token_counter(small_base)
    real = splits.counter(models.load_tokenizer(small_base))
    for record in RECORDS[:10]:
        # Qwen's template ends the last turn with a line end as well.
        assert count(format_chat(record)) == real(format_chat(record))
    assert how == f"counted with {small_base / 'tokenizer.json'}"


def test_tokens_without_a_tokenizer_are_estimated_and_marked() -> None:
    count, how = plan.token_counter(None)
    assert "ESTIMATED from the characters" in how
    # As Qwen2.5's own tokenizer counts them: Chinese, formulas, English.
    counted = {"history-03": 623, "chinese-02": 787, "math-05": 821, "chemistry-07": 939, "english-33": 1492}
    found = {record.id: count(format_chat(record)) for record in load_records(ROOT / "gaokao_data" / "train.json")}
    for name, tokens in counted.items():
        assert found[name] == pytest.approx(tokens, rel=0.1), name


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        plan.token_counter(tmp_path)


def test_rows_and_their_filling() -> None:
    assert plan.work([60, 60, 40, 40], 100, True) == (4, 200, 2, 1.0)
    assert plan.work([60, 60, 40, 40], 100, False) == (4, 200, 4, 200 / 240)


def test_a_token_of_14b_takes_the_operations_of_three_passes_through_its_weights() -> None:
    shape = shapes.TABLE["Qwen2.5-14B"]
    setup = SHIPPED._replace(attention="flash_attention_2")
    flops = plan.flops_per_token(shape, setup, 570)
    # README.md says 84 GFLOP, of linear layers and output head alone.
    assert flops / 1e9 == pytest.approx(6 * 13.21 + 6 * 0.78 + 8 * 0.138, rel=0.02)
    less = plan.flops_per_token(shape, setup._replace(checkpointing=False), 570)
    assert 1.4 < flops / less < 1.5
    # 48 layers of 5,120: two products forward, again in the recomputation, and five backward; sdpa looks over the whole row.
    more = plan.flops_per_token(shape, SHIPPED, 570) - flops
    assert more == pytest.approx(48 * 4 * (2048 - 285) * 5120 * 4.5)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA A100-SXM4-80GB", "A100"), ("Tesla T4", "T4"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)  # fmt: skip
def test_a_gpu_is_found_by_the_name_that_its_driver_gives(name: str, row: str | None) -> None:
    found = plan.find_gpu(name)
    assert (found and found.name) == row


# --- what is printed, refused and warned of ---------------------------------------------------------------------------


def test_a_base_whose_weights_alone_do_not_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 8)
    with pytest.raises(UserError) as raised:
        plan.require_room(resolved(gpus=1))
    said = str(raised.value)
    assert "Qwen2.5-14B-Instruct: its weights alone take 9.9 GB" in said and "has 8.0 GB" in said
    (found,) = re.findall(r"take --model\.base Qwen/(\S+)-Instruct.*: ([\d.]+) GB", said)
    assert found[0] == "Qwen2.5-3B" and float(found[1]) <= 8


def test_an_unquantized_base_that_does_not_fit_is_quantized_first(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 24)
    with pytest.raises(UserError, match=r"take --model\.quantization nf4: 14\.4 GB"):
        plan.require_room(resolved("--model.quantization", "none", "--model.attention", "sdpa"))


def test_what_can_be_loaded_is_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, arguments in ((10.5, ()), (10.5, ("--train.max_length", "32768")), (1, ("--model.base", "some/model"))):
        card(monkeypatch, size)
        plan.require_room(resolved(*arguments))
    card(monkeypatch, 1)
    plan.require_room(resolved(gpus=0))


def running(base: str, folder: Path | str = "") -> Any:
    choice = SimpleNamespace(value="bf16", reason="")
    return SimpleNamespace(name=base, folder=folder, dtype=choice, attention=SimpleNamespace(value="sdpa", reason=""))


@pytest.fixture
def base_14b(tmp_path: Path) -> Path:
    """The config.json of 14B, as it lies in a folder after the download."""
    shape = shapes.TABLE["Qwen2.5-14B"]
    config = {key: getattr(shape, field) for field, key in shapes.KEYS.items()} | {"model_type": "qwen2"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_every_start_says_the_peak_in_one_line_and_warns_only_where_it_does_not_fit(
    base_14b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(monkeypatch, 24)
    _, line = plan.settle_memory(resolved(), running("Qwen/Qwen2.5-14B-Instruct", base_14b), 1)
    said = "forecast  14.4 GB of each GPU at the peak, with gradient checkpointing: weights 9.9, adapter"
    assert line.startswith(said) and "\n" not in line
    numbers = [float(number) for number in re.findall(r" (\d+\.\d)(?:,|;)", line)]
    assert sum(numbers) == pytest.approx(14.4, abs=0.25)
    card(monkeypatch, 14)
    _, warning = plan.settle_memory(resolved(), running("Qwen/Qwen2.5-14B-Instruct", base_14b), 1)[1].split("\n")
    assert warning.startswith("WARNING   NVIDIA GeForce RTX 4090 has 14.0 GB, which is less: --train.max_length 1024")


@pytest.mark.parametrize(
    ("asked", "gigabytes", "gpus", "on"),
    [
        ("auto", 24, 1, True), ("auto", 48, 1, True), ("auto", 80, 1, False), ("true", 80, 1, True), ("false", 24, 1, False),
        ("auto", 500, 0, False), ("auto", 16, 0, True),
    ],
)  # fmt: skip
def test_gradient_checkpointing_is_left_off_where_the_forecast_fits_without(
    base_14b: Path, monkeypatch: pytest.MonkeyPatch, asked: str, gigabytes: float, gpus: int, on: bool
) -> None:
    card(monkeypatch, gigabytes)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=gigabytes * 1e9))
    asking = resolved("--train.gradient_checkpointing", asked, gpus=gpus)
    settled, line = plan.settle_memory(asking, running("Qwen/Qwen2.5-14B-Instruct", base_14b), 1)
    assert settled.config.train.gradient_checkpointing is on
    assert f"at the peak, with{'' if on else 'out'} gradient checkpointing: " in line
    assert settled.config.model_copy(update={"train": asking.config.train}) == asking.config


def test_processes_on_a_cpu_share_the_memory_that_decides_on_gradient_checkpointing(
    base_14b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=150e9))
    found = [
        plan.settle_memory(resolved(gpus=0), running("x", base_14b), processes)[0].config.train.gradient_checkpointing
        for processes in (1, 4)
    ]
    assert found == [False, True]


def test_a_start_with_an_unknown_shape_goes_on_without_a_forecast(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}', encoding="utf-8")
    settled, line = plan.settle_memory(resolved(), running("some/model", tmp_path), 1)
    assert settled.config.train.gradient_checkpointing is True
    assert line.startswith("forecast  none: ") and "mixtral" in line and "\n" not in line


def test_the_time_is_said_for_a_gpu_whose_speed_is_known(base_14b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"rows": 100, "sequences": 300, "tokens": 190_000}
    batch = splits.Batch(8, 1, 1)
    card(monkeypatch, 24)
    line = plan.time_line(resolved(), running("x", base_14b), tokens, 360, batch)
    flops = 360 * 8 * 1900 * plan.flops_per_token(shapes.TABLE["Qwen2.5-14B"], SHIPPED, 190_000 / 300)
    assert f"about {flops / 55e12 / 3600:.1f} h on RTX 4090 at 55 TFLOP/s" in line
    two = plan.time_line(resolved(), running("x", base_14b), tokens, 360, splits.Batch(8, 1, 2))
    assert two != line
    card(monkeypatch, 24, "NVIDIA GeForce GTX 1080")
    assert plan.time_line(resolved(), running("x", base_14b), tokens, 360, batch) == ""
    assert plan.time_line(resolved(gpus=0), running("x", base_14b), tokens, 360, batch) == ""


def test_the_plan_shows_terms_sizes_tokens_steps_and_times() -> None:
    said = plan.text(resolved("--model.attention", "sdpa"), RECORDS, ChatPool())
    for words in (
        "14.770 G parameters", "137.6 M trainable", "NF4 weights", "13.21 G in linear layers x 4.127 bits",
        "(29.39 GB)", "peak                            14.39 GB", "12 GB: fits with --train.max_length",
        "24 GB: fits as it is", "ESTIMATED", "% full", "optimizer steps", "RTX 4090 (55)", "8.5 GB for 14B",
    ):  # fmt: skip
        assert words in said, words
    assert "published" not in plan.text(resolved("--model.base", "Qwen/Qwen2.5-7B-Instruct"), RECORDS, ChatPool())


def test_the_plan_leaves_gradient_checkpointing_off_on_the_sizes_that_hold_the_training_without() -> None:
    arguments = ("--model.base", "Qwen/Qwen2.5-3B-Instruct", "--model.attention", "sdpa")
    said = plan.text(resolved(*arguments), RECORDS, ChatPool())
    sizes = dict(re.findall(r"(\d+) GB: fits as it is, .* free, (with\w*) gradient checkpointing", said))
    assert sizes["12"] == "with" and sizes["40"] == sizes["80"] == "without"
    quick, slow = map(int, re.findall(r"x (\d+) \(without gradient checkpointing\) or (\d+) GFLOP", said)[0])
    assert 0.6 < quick / slow < 0.8
    always = plan.text(resolved(*arguments, "--train.gradient_checkpointing", "true"), RECORDS, ChatPool())
    assert f"x {slow} GFLOP" in always and "free, with" not in always
    never = plan.text(resolved(*arguments, "--train.gradient_checkpointing", "false"), RECORDS, ChatPool())
    left = [re.findall(r"80 GB: fits as it is, (\S+) GB free", text)[0] for text in (said, never, always)]
    # What is said to be free is free in the way that is said.
    assert left[0] == left[1] != left[2]


def test_the_plan_names_records_that_a_remedy_leaves_out_and_bases_that_fit() -> None:
    said = plan.text(resolved("--model.attention", "sdpa"), RECORDS, ChatPool())
    (line,) = (line for line in said.splitlines() if "12 GB: fits with" in line)
    left = re.search(r"--train\.max_length 512 --lora\.r 8: .*, which leaves (\d+) of 38 records out", line)
    assert left and int(left[1]) > 19
    # A fit without most of the records is none.
    assert line.endswith("rather take --model.base Qwen/Qwen2.5-7B-Instruct: 8.7 GB")
    said = plan.text(
        resolved("--model.base", "Qwen/Qwen2.5-32B-Instruct", "--model.attention", "sdpa"), RECORDS, ChatPool()
    )
    assert re.search(r"16 GB: does not fit .*; take --model\.base Qwen/Qwen2\.5-14B-Instruct", said)
    assert re.search(r"12 GB: does not fit .*; take --model\.base Qwen/Qwen2\.5-7B-Instruct: 8\.7 GB", said)


def test_a_plan_without_a_gpu_is_that_of_the_values_for_one() -> None:
    without = resolved(gpus=0)
    assert without.config.model.base == BUILTIN_TINY and without.config.train.max_length != 2048
    planned = plan.with_gpu(without).model_dump(exclude={"without_gpu"})
    assert planned == Config().model_dump(exclude={"without_gpu"})
    said = plan.text(without, RECORDS, ChatPool())
    assert "no GPU    on this machine" in said and "14.770 G" in said


def test_the_command_plans_without_torch_and_makes_nothing(tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    data = write_rows([record_row(number) for number in range(30)])
    arguments = ["--plan", f"--data.train={data}", f"--output.dir={tmp_path / 'out'}"]
    done = run_script("train_qwen_gaokao.py", *arguments)
    assert done.returncode == 0 and "peak" in done.stdout, done.stderr
    assert not (tmp_path / "out").exists()
    code = "import sys, train_qwen_gaokao as t; t.main(sys.argv[1:]); print('torch' in sys.modules)"
    done = run_script("-c", code, *arguments)
    assert done.stdout.splitlines()[-1] == "False"
    done = run_script("train_qwen_gaokao.py", *arguments, "--model.base=some/model")
    assert done.returncode == 2 and "shape is not known" in done.stderr and "Traceback" not in done.stderr
