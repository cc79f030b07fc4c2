"""What makes a decoding step cheap changes nothing but its time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load
from transformers import DynamicCache, Qwen2Config
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from gaokao import decoding


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, rows, 3, tokens, 8, generator=torch.Generator().manual_seed(seed))
    return keys, values


def test_a_cache_that_grows_in_place_holds_what_transformers_holds() -> None:
    ours, theirs = decoding.RoomyLayer(), DynamicLayer()

    def grow(rows: int, tokens: int, seed: int) -> None:
        for found, expected in zip(
            ours.update(*states(rows, tokens, seed)), theirs.update(*states(rows, tokens, seed)), strict=True
        ):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()

    assert ours.get_seq_length() == 0
    grow(1, 5, 0)
    for layer in (ours, theirs):
        layer.batch_repeat_interleave(4)
    for number in range(3 * decoding.BLOCK):
        grow(4, 1, 1 + number)
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([2, 0]))
    for number in range(decoding.BLOCK + 1):
        grow(2, 1 + number % 2, 1000 + number)


@torch.inference_mode()
def test_a_cache_that_grows_in_place_can_be_traced_for_the_compiler() -> None:
    """All of `torch.compile` but its kernels; with them: GAOKAO_COMPILE_TEST in test_generation."""
    layer, plain = decoding.RoomyLayer(), DynamicLayer()

    def step(cache: Any, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        length, _ = cache.get_mask_sizes(keys.shape[-2])
        known, held = cache.update(keys, values)
        assert length == known.shape[-2]
        return torch.nn.functional.scaled_dot_product_attention(keys, known, held)

    compiled = torch.compile(step, backend="aot_eager", dynamic=True)
    for cache in (layer, plain):
        cache.update(*states(2, 7, 1))
    for number in range(2, 6):
        new = states(2, 1, number)
        assert torch.allclose(compiled(layer, *new), step(plain, *new))
    assert torch.equal(layer.keys, plain.keys)


def test_a_cache_that_grows_in_place_copies_what_is_there_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make_room = [], decoding.make_room

    def noting(*arguments: Any) -> torch.Tensor:
        made.append(arguments)
        return make_room(*arguments)

    monkeypatch.setattr(decoding, "make_room", noting)
    layer = decoding.RoomyLayer()
    for number in range(1 + 2 * decoding.BLOCK):
        layer.update(*states(2, 1, number))
    # Keys and values, at the first token and once after each full block.
    assert len(made) == 2 * 2


@pytest.mark.parametrize("shared", [0, 2])
def test_joined_caches_hold_all_rows_with_the_padding_behind_what_is_shared(shared: int) -> None:
    config = Qwen2Config(num_hidden_layers=2, hidden_size=24, num_attention_heads=3, num_key_value_heads=3)
    caches = [decoding.make_cache(config) for _ in range(3)]
    parts = [states(rows, tokens, tokens) for rows, tokens in ((2, 6), (1, 9), (3, 4))]
    for cache, part in zip(caches, parts, strict=True):
        for layer in range(2):
            cache.update(*part, layer)
    whole = decoding.join(caches, shared)
    assert whole.get_seq_length() == 9 and caches[1].get_seq_length() == 0
    for layer in whole.layers:
        for kind, found in enumerate((layer.keys, layer.values)):
            assert found.shape == (6, 3, 9, 8)
            for rows, part in zip((slice(0, 2), slice(2, 3), slice(3, 6)), parts, strict=True):
                tokens = part[kind].shape[2]
                assert torch.equal(found[rows, :, :shared], part[kind][:, :, :shared])
                assert torch.equal(found[rows, :, 9 - tokens + shared :], part[kind][:, :, shared:])
                assert not found[rows, :, shared : 9 - tokens + shared].any()
        assert torch.equal(layer.update(*states(6, 1, 7))[0][:, :, 9:], states(6, 1, 7)[0])


def test_layers_with_a_sliding_window_stay_those_of_transformers() -> None:
    shape = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    plain = decoding.make_cache(Qwen2Config(**shape))
    assert [type(layer) for layer in plain.layers] == [decoding.RoomyLayer] * 3
    sliding = Qwen2Config(**shape, use_sliding_window=True, sliding_window=32, max_window_layers=1)
    found = [type(layer) for layer in decoding.make_cache(sliding).layers]
    assert found == [decoding.RoomyLayer, DynamicSlidingWindowLayer, DynamicSlidingWindowLayer]


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (2, 7), (128, 1), (3, 60)])
@pytest.mark.parametrize("bias", [True, False])
def test_skinny_products_are_those_of_a_linear_layer(shape: tuple[int, int], bias: bool) -> None:
    layer = torch.nn.Linear(96, 40, bias=bias)
    rows = torch.randn(*shape, 96)
    with torch.inference_mode():
        plain = layer(rows)
        with decoding._SkinnyProducts():
            found = layer(rows)
    assert found.shape == plain.shape and found.is_contiguous()
    assert torch.allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("kind", ["a batch that reads prompts", "bf16"])
def test_only_skinny_products_in_fp32_change_their_order(kind: str) -> None:
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    layer = torch.nn.Linear(512, 256, dtype=dtype)
    rows = torch.randn(4 if kind == "bf16" else decoding.SKINNY_ROWS + 1, 512, dtype=dtype)
    with torch.inference_mode():
        plain = layer(rows)
        with decoding._SkinnyProducts():
            assert torch.equal(layer(rows), plain)


@pytest.mark.parametrize(
    ("dtype", "capability", "changed"),
    [("fp32", "AVX2", True), ("fp32", "AVX512", False), ("bf16", "AVX2", False)],
)
def test_the_order_of_products_depends_on_the_kind_of_machine_alone(
    random_base: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, capability: str, changed: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = load(random_base, quantization="none", dtype=dtype)
    assert isinstance(decoding.quick_products(model), decoding._SkinnyProducts) is changed


def test_a_model_computes_the_same_with_both(random_base: Path) -> None:
    model = load(random_base, quantization="none", dtype="fp32")
    ids = torch.randint(5, 200, (3, 20), generator=torch.Generator().manual_seed(1))
    found = []
    for cache, context in (
        (DynamicCache(config=model.config), torch.no_grad()),
        (decoding.make_cache(model.config), decoding._SkinnyProducts()),
    ):
        with torch.inference_mode(), context:
            logits = [model(input_ids=ids[:, :12], past_key_values=cache).logits[:, -1]]
            logits += [
                model(input_ids=ids[:, at : at + 1], past_key_values=cache).logits[:, -1] for at in range(12, 20)
            ]
        found.append(torch.stack(logits))
    plain, quick = found
    assert torch.allclose(quick, plain, atol=1e-4)
