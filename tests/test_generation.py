"""Generation in batches gives each prompt its own answer, counted and cut as it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from gaokao import generation, models
from gaokao.errors import UserError
from gaokao.prompts import prepare_input
from gaokao.records import load_records

RECORDS = load_records(ROOT / "gaokao_data" / "test.json")[:5]
GREEDY: dict[str, Any] = {
    "max_new_tokens": 12,
    "do_sample": False,
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
}


@pytest.fixture(scope="module")
def model(small_base: Path) -> Any:
    return models.load_base(small_base, quantization="none", dtype="fp32", attention="sdpa", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(small_base: Path) -> Any:
    return models.load_tokenizer(small_base)


def outputs(model: Any, tokenizer: Any, batch_size: int = 2, seed: int = 0, **changes: Any) -> list[generation.Output]:
    settings = generation.generation_config(tokenizer, **(GREEDY | changes))
    prompts = generation.build_prompts(RECORDS, tokenizer, 12, 4096)
    return sorted(generation.generate(model, tokenizer, prompts, settings, batch_size=batch_size, seed=seed))


def test_left_padding_changes_no_answer(model: Any, tokenizer: Any) -> None:
    assert outputs(model, tokenizer, batch_size=5) == outputs(model, tokenizer, batch_size=1)


def test_the_kv_cache_changes_no_answer(model: Any, tokenizer: Any) -> None:
    prompt = models.prompt_ids(tokenizer, prepare_input(RECORDS[0]))
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        for _ in range(6):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    whole = tokenizer.decode(ids[0, len(prompt) :].tolist(), skip_special_tokens=True)
    assert outputs(model, tokenizer)[0].text.startswith(whole)


def test_sampling_repeats_for_a_seed_and_differs_for_another(model: Any, tokenizer: Any) -> None:
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 1.5}
    first = outputs(model, tokenizer, **sampled)
    assert outputs(model, tokenizer, **sampled) == first
    assert outputs(model, tokenizer, seed=5, **sampled) != first


def test_an_answer_that_is_cut_says_length_and_one_that_ends_says_stop(model: Any, tokenizer: Any) -> None:
    cut = outputs(model, tokenizer)
    assert {(output.finish_reason, output.completion_tokens) for output in cut} == {("length", 12)}
    bias = torch.nn.Parameter(torch.zeros(model.lm_head.out_features))
    bias.data[tokenizer.eos_token_id] = 1e9
    model.lm_head.bias = bias
    try:
        ended = outputs(model, tokenizer)
    finally:
        model.lm_head.bias = None
    assert {(output.finish_reason, output.completion_tokens, output.text) for output in ended} == {("stop", 1, "")}


def test_what_a_model_ships_as_sampling_defaults_does_not_slip_in(model: Any, tokenizer: Any) -> None:
    settings = generation.generation_config(tokenizer, **(GREEDY | {"do_sample": True}))
    assert (settings.top_k, settings.top_p, settings.temperature, settings.repetition_penalty) == (0, 0.9, 0.7, 1.0)
    assert settings.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]


def test_every_new_token_is_counted_once(model: Any, tokenizer: Any) -> None:
    ticks: list[int] = []
    settings = generation.generation_config(tokenizer, **GREEDY)
    prompts = generation.build_prompts(RECORDS, tokenizer, 12, 4096)
    made = list(generation.generate(model, tokenizer, prompts, settings, batch_size=2, seed=0, tick=ticks.append))
    assert sum(ticks) == sum(output.completion_tokens for output in made) == 5 * 12


def test_torch_compile_gives_the_same_answers(small_base: Path, tokenizer: Any, model: Any) -> None:
    compiled = models.load_base(small_base, quantization="none", dtype="fp32", attention="sdpa", device="cpu")
    models.compile_forward(compiled)
    assert [o.text for o in outputs(compiled, tokenizer, max_new_tokens=4)] == [
        o.text for o in outputs(model, tokenizer, max_new_tokens=4)
    ]


def test_prompts_that_leave_no_room_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"leave no room for generate.max_new_tokens = 4000 .* id chinese-t01"):
        generation.build_prompts(RECORDS, tokenizer, 4000, 4096)


def test_an_entry_holds_input_prompt_text_parts_and_counts(tokenizer: Any) -> None:
    text = "题干：甲\nA．一\nB．二\nC．三\nD．四\n参考答案：B\n解析：故选B。"
    entry = generation.result_entry(RECORDS[0], "prompt", generation.Output(0, text, "stop", 7, 9), "none")
    assert (entry["参考答案"], entry["解析"], entry["missing"]) == ("B", "故选B。", [])
    assert entry["课本内容"] == RECORDS[0].textbook
    assert entry["reference"].startswith("题干：")
    assert (entry["prompt"], entry["text"], entry["finish_reason"], entry["adapter"]) == (
        "prompt",
        text,
        "stop",
        "none",
    )
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (7, 9)


def test_lines_are_on_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    lines = generation.ResultLines(tmp_path / "q.jsonl")
    lines.add({"id": "甲"})
    assert json.loads((tmp_path / "q.jsonl").read_text(encoding="utf-8")) == {"id": "甲"}
    lines.close()
