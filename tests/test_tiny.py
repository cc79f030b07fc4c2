"""The built-in base is an ordinary Transformers folder, the same for the same inputs."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from gaokao import tiny
from gaokao.models import load_tokenizer
from gaokao.records import load_records

FAST = tiny.Recipe(
    vocabulary=1024, hidden=32, layers=1, heads=2, key_value_heads=1, intermediate=64, steps=5, rows=2, row_tokens=32
)


def quiet(line: str) -> None:
    pass


def test_the_shipped_recipe_is_a_qwen2_of_4_to_8_million_parameters() -> None:
    recipe = tiny.Recipe()
    model = tiny.new_model(recipe, recipe.vocabulary, 0, 2)
    assert model.config.model_type == "qwen2"
    assert 4e6 <= model.num_parameters() <= 8e6


def test_muon_moves_as_torchs_own_does_in_bf16_and_nearly_so_in_fp32() -> None:
    moved = []
    for make in (
        lambda matrices: torch.optim.Muon(matrices, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        lambda matrices: tiny.Muon(matrices, lr=0.1, weight_decay=0.1, dtype=torch.bfloat16),
        lambda matrices: tiny.Muon(matrices, lr=0.1, weight_decay=0.1, dtype=torch.float32),
    ):
        draw = torch.Generator().manual_seed(0)
        matrices = [torch.randn(*size, generator=draw).requires_grad_() for size in ((8, 4), (4, 8), (8, 4), (6, 6))]
        optimizer = make(matrices)
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=draw)
            optimizer.step()
        moved.append(torch.cat([matrix.detach().flatten() for matrix in matrices]))
    assert torch.allclose(moved[1], moved[0], atol=2e-3)
    assert torch.allclose(moved[2], moved[0], atol=2e-2)
    assert not torch.allclose(moved[2], torch.zeros_like(moved[2]), atol=0.1)


def test_the_same_inputs_give_the_same_weights_and_leave_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = tiny.build(tmp_path / "a", quiet, recipe=FAST)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = tiny.build(tmp_path / "b", quiet, recipe=FAST)
    assert first.name == second.name
    one, two = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_base_is_made_once_and_again_for_another_recipe(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tiny.build(tmp_path, said.append, recipe=FAST)
    assert said
    said.clear()
    assert tiny.build(tmp_path, said.append, recipe=FAST) == folder
    assert not said
    assert tiny.build(tmp_path, quiet, recipe=tiny.Recipe(**{**FAST.__dict__, "seed": 9})) != folder


def test_no_chat_form_no_header_and_no_test_item_is_pretrained_on() -> None:
    assert tiny.BUNDLED.name == "train.json"
    for record in load_records(tiny.BUNDLED):
        for piece in tiny.plain_pieces(record):
            assert "<|im_" not in piece
            assert not any(f"{section}：" in piece for section in ("题干", "参考答案", "解析"))


def test_the_tokenizer_represents_any_text_and_has_qwens_special_tokens(small_base: Path) -> None:
    tokenizer = load_tokenizer(small_base)
    for text in ("光合作用 $\\frac{1}{2}$\n A．甲", "𠮷 emoji 🙂 é", "  two  spaces "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("<|im_end|>")["input_ids"]) == 1


def test_the_base_is_pretrained_on_the_tokens_that_it_will_be_given(tmp_path: Path) -> None:
    texts = [piece for record in load_records(tiny.BUNDLED)[:40] for piece in tiny.plain_pieces(record)]
    trained = tiny.train_tokenizer(texts, FAST)
    base = tiny.build(tmp_path, quiet, recipe=FAST)
    trained.save_pretrained(base)
    loaded = load_tokenizer(base)
    assert [loaded(text)["input_ids"] for text in texts] == [trained(text)["input_ids"] for text in texts]
    assert any("1200" in text for text in texts)


def test_chatml_adds_a_default_system_message_as_qwen_does(small_base: Path) -> None:
    tokenizer = load_tokenizer(small_base)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "甲"}], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_the_folder_is_an_ordinary_transformers_folder(small_base: Path) -> None:
    assert AutoConfig.from_pretrained(small_base).architectures == ["Qwen2ForCausalLM"]
    assert (small_base / "model.safetensors").exists()
