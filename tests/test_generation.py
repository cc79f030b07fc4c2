"""Generation in batches gives each prompt its own answer, counted and cut as it says.

The base has random weights: it answers every prompt differently, and every token of a prompt changes its answer.
"""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, load
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from gaokao import generation, models
from gaokao.errors import Interrupted, UserError
from gaokao.prompts import prepare_input
from gaokao.records import Record, load_records
from gaokao.results import Generated

RECORDS = load_records(ROOT / "gaokao_data" / "test.json")[:5]
# Tokens of each prompt that the batches get: short, so that it is quick, and not in order.
LENGTHS = (60, 25, 90, 40, 75)
NEW = 12
GREEDY: dict[str, Any] = {
    "max_new_tokens": NEW,
    "do_sample": False,
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
}
SAMPLED: dict[str, Any] = GREEDY | {"do_sample": True, "temperature": 1.5}


@pytest.fixture(scope="module")
def model(random_base: Path) -> Any:
    return load(random_base, quantization="none")


@pytest.fixture(scope="module")
def tokenizer(random_base: Path) -> Any:
    return models.load_tokenizer(random_base)


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    """The ends of five prompts, of very different lengths."""
    whole = generation.build_prompts(RECORDS, tokenizer, NEW, 4096)
    return [prompt[-length:] for prompt, length in zip(whole, LENGTHS, strict=True)]


def outputs(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    batch_size: int = 2,
    seed: int = 0,
    options: dict[str, Any] = GREEDY,
    **changes: Any,
) -> list[generation.Completion]:
    """What is generated, in the order of the prompts."""
    settings = generation.generation_config(tokenizer, **(options | changes))
    return sorted(generation.generate(model, tokenizer, prompts, settings, batch_size=batch_size, seed=seed))


def texts(made: list[generation.Completion]) -> list[str]:
    return [output.text for output in made]


def test_every_prompt_gets_its_own_answer(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = outputs(model, tokenizer, prompts)
    assert len(set(texts(made))) == len(prompts)
    assert [output.position for output in made] == list(range(len(prompts)))
    assert [output.prompt_tokens for output in made] == [len(prompt) for prompt in prompts]
    for place, prompt in enumerate(prompts):
        assert outputs(model, tokenizer, [prompt])[0].text == made[place].text


def test_the_first_token_of_a_prompt_counts(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    other = [[prompt[0] + 1, *prompt[1:]] for prompt in prompts]
    changed = zip(texts(outputs(model, tokenizer, other)), texts(outputs(model, tokenizer, prompts)), strict=True)
    assert sum(one != other for one, other in changed) >= 3


def test_padding_changes_no_answer(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    alone = outputs(model, tokenizer, prompts, batch_size=1)
    for batch_size in (2, 5, 8):
        assert outputs(model, tokenizer, prompts, batch_size=batch_size) == alone


def test_the_kv_cache_changes_no_answer(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = outputs(model, tokenizer, prompts, batch_size=5)
    for prompt, output in zip(prompts, made, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(output.completion_tokens):
                ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert output.text == tokenizer.decode(ids[0, len(prompt) :].tolist(), skip_special_tokens=True)


def test_the_longest_prompts_come_first(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    settings = generation.generation_config(tokenizer, **GREEDY)
    made = list(generation.generate(model, tokenizer, prompts, settings, batch_size=2, seed=0))
    lengths = [output.prompt_tokens for output in made]
    assert lengths == sorted(lengths, reverse=True)


def test_a_batch_gets_the_same_texts_whatever_drew_random_numbers_before_it(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    settings = generation.generation_config(tokenizer, **SAMPLED)
    made = []
    for output in generation.generate(model, tokenizer, prompts, settings, batch_size=2, seed=7):
        made.append(output)
        torch.rand(3)
    assert sorted(made) == outputs(model, tokenizer, prompts, options=SAMPLED, seed=7)
    assert sorted(made) != outputs(model, tokenizer, prompts, options=SAMPLED, seed=8)


def test_batches_do_not_share_their_random_numbers(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = texts(outputs(model, tokenizer, [prompts[0]] * 6, batch_size=2, options=SAMPLED))
    assert len(set(made)) == 6


def test_temperature_and_top_p_reach_the_sampling(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    greedy = outputs(model, tokenizer, prompts)
    assert outputs(model, tokenizer, prompts, options=SAMPLED) != greedy
    assert outputs(model, tokenizer, prompts, options=SAMPLED, temperature=0.001, top_p=1.0) == greedy
    assert outputs(model, tokenizer, prompts, options=SAMPLED, top_p=0.001) == greedy


def test_a_repetition_penalty_changes_the_answers_where_it_is_set(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    plain = texts(outputs(model, tokenizer, prompts))
    punished = texts(outputs(model, tokenizer, prompts, repetition_penalty=2.0))
    assert sum(one != other for one, other in zip(plain, punished, strict=True)) >= 2


@pytest.fixture
def forced(model: Any) -> Any:
    """Make the model write one token, whatever the prompt."""

    def force(token: int) -> None:
        bias = torch.zeros(model.lm_head.out_features)
        bias[token] = 1e9
        model.lm_head.bias = torch.nn.Parameter(bias)

    yield force
    model.lm_head.bias = None


@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>"])
def test_both_end_tokens_end_an_answer_and_are_counted(
    model: Any, tokenizer: Any, prompts: list[list[int]], forced: Callable[[int], None], token: str
) -> None:
    forced(tokenizer.convert_tokens_to_ids(token))
    ended = {
        (output.text, output.finish_reason, output.completion_tokens) for output in outputs(model, tokenizer, prompts)
    }
    assert ended == {("", "stop", 1)}


def test_special_tokens_do_not_stand_in_a_text_but_are_counted(
    model: Any, tokenizer: Any, prompts: list[list[int]], forced: Callable[[int], None]
) -> None:
    forced(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    cut = {
        (output.text, output.finish_reason, output.completion_tokens) for output in outputs(model, tokenizer, prompts)
    }
    assert cut == {("", "length", NEW)}


def test_a_row_that_ends_early_is_cut_and_counted_at_its_end(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    # The fifth token of one answer becomes the end token.
    free = outputs(model, tokenizer, prompts, batch_size=1)
    settings = generation.generation_config(tokenizer, **GREEDY)
    ids = model.generate(input_ids=torch.tensor([prompts[0]]), generation_config=settings)[
        0, len(prompts[0]) :
    ].tolist()
    place = ids.index(ids[4])
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(ids[4])
    # What stands behind an end is no end itself, and no token of the answer either.
    other.pad_token = "<|im_start|>"
    ticks: list[int] = []
    settings = generation.generation_config(other, **GREEDY)
    made = sorted(generation.generate(model, other, prompts, settings, batch_size=5, seed=0, tick=ticks.append))
    assert (made[0].finish_reason, made[0].completion_tokens) == ("stop", place + 1)
    assert made[0].text == tokenizer.decode(ids[:place])
    assert any(output.finish_reason == "length" for output in made)
    for output, whole in zip(made[1:], free[1:], strict=True):
        assert output.finish_reason == "stop" or output == whole
    assert sum(ticks) == sum(output.completion_tokens for output in made)
    assert len(ticks) == NEW and ticks[0] == 5


def test_tokens_are_counted_in_every_batch(
    model: Any, tokenizer: Any, prompts: list[list[int]], forced: Callable[[int], None]
) -> None:
    forced(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    ticks: list[int] = []
    settings = generation.generation_config(tokenizer, **GREEDY)
    list(generation.generate(model, tokenizer, prompts, settings, batch_size=2, seed=0, tick=ticks.append))
    assert ticks == [2] * NEW + [2] * NEW + [1] * NEW


def test_what_a_model_ships_as_sampling_defaults_does_not_slip_in(tokenizer: Any) -> None:
    settings = generation.generation_config(tokenizer, **SAMPLED)
    assert (settings.top_k, settings.top_p, settings.temperature, settings.repetition_penalty) == (0, 0.9, 1.5, 1.0)
    assert settings.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert settings.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_models_own_sampling_defaults_are_not_used(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = outputs(model, tokenizer, prompts)
    shipped = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=2.0, max_new_tokens=3)
    monkeypatch.setattr(model, "generation_config", shipped)
    assert outputs(model, tokenizer, prompts) == plain


def adapted(random_base: Path) -> Any:
    """The base with an adapter that does something and is not merged, as on a quantized base."""
    base = load(random_base, quantization="none")
    torch.manual_seed(0)
    made = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def test_padding_changes_no_answer_with_an_adapter(random_base: Path, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = adapted(random_base)
    alone = outputs(made, tokenizer, prompts, batch_size=1)
    assert outputs(made, tokenizer, prompts, batch_size=5) == alone
    with made.disable_adapter():
        assert set(texts(outputs(made, tokenizer, prompts))).isdisjoint(texts(alone))


@pytest.mark.parametrize("kind", ["plain", "adapter"])
def test_what_generate_calls_is_what_is_compiled(
    random_base: Path, tokenizer: Any, prompts: list[list[int]], kind: str
) -> None:
    made: Any = adapted(random_base) if kind == "adapter" else load(random_base, quantization="none")
    plain = outputs(made, tokenizer, prompts[:2], max_new_tokens=4)
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        # The compiler's own work takes half a minute; whether its result is called does not depend on it.
        def run(*arguments: Any) -> Any:
            calls.append(graph)
            return graph(*arguments)

        return run

    models.compile_forward(made, backend)
    assert outputs(made, tokenizer, prompts[:2], max_new_tokens=4) == plain
    # Once for the prompts, and once for every token after the first.
    assert len(calls) >= 4


@pytest.mark.skipif(
    "GAOKAO_COMPILE_TEST" not in os.environ, reason="GAOKAO_COMPILE_TEST=1: the real compiler, a minute"
)
def test_the_compiler_changes_no_answer(random_base: Path, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = adapted(random_base)
    plain = outputs(made, tokenizer, prompts)
    models.compile_forward(made)
    assert texts(outputs(made, tokenizer, prompts)) == texts(plain)


def test_prompts_that_leave_no_room_are_refused(tokenizer: Any) -> None:
    lengths = [len(models.prompt_ids(tokenizer, prepare_input(record))) for record in RECORDS]
    longest = max(lengths)
    assert [len(prompt) for prompt in generation.build_prompts(RECORDS, tokenizer, 100, longest + 100)] == lengths
    place = lengths.index(longest)
    said = (
        f"1 prompt.s. leave no room for generate.max_new_tokens = 101 in the model's context of {longest + 100} tokens "
        f".such as id {RECORDS[place].id}: {longest} tokens"
    )
    with pytest.raises(UserError, match=said):
        generation.build_prompts(RECORDS, tokenizer, 101, longest + 100)


def test_prompts_are_those_of_the_records_in_order(tokenizer: Any) -> None:
    for record, prompt in zip(RECORDS, generation.build_prompts(RECORDS, tokenizer, NEW, 4096), strict=True):
        assert prompt == models.prompt_ids(tokenizer, prepare_input(record))


def test_a_gpu_that_is_too_small_is_told_what_to_change(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(UserError, match="out of memory at generate.batch_size = 2; halve it"):
        outputs(model, tokenizer, prompts)


# --- files ----------------------------------------------------------------------------------------------------------


def questions(
    model: Any, tokenizer: Any, prompts: list[list[int]], path: Path, records: list[Record] = RECORDS
) -> list[Generated]:
    settings = generation.generation_config(tokenizer, **GREEDY)
    return generation.write_questions(
        model, tokenizer, records, prompts, settings, path, adapter="outputs/a", batch_size=2, seed=0
    )


def test_questions_come_in_the_order_of_the_records_and_lines_as_they_are_finished(
    model: Any, tokenizer: Any, prompts: list[list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = questions(model, tokenizer, prompts, tmp_path / "q.jsonl")
    assert [item.record.id for item in items] == [record.id for record in RECORDS]
    assert [item.text for item in items] == texts(outputs(model, tokenizer, prompts))
    assert [item.prompt for item in items] == [tokenizer.decode(prompt) for prompt in prompts]
    assert {item.adapter for item in items} == {"outputs/a"}
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert sorted(lines, key=lambda line: -line["prompt_tokens"]) == lines
    assert sorted(lines, key=lambda line: line["id"]) == sorted(
        (item.to_dict() for item in items), key=lambda entry: str(entry["id"])
    )
    tokens = sum(item.completion_tokens for item in items)
    assert f"wrote     5 questions, {tokens} tokens in" in capsys.readouterr().out


@pytest.mark.parametrize(("batches", "kept"), [(0, 0), (1, 2)])
def test_an_interruption_keeps_whole_lines_and_says_how_to_go_on(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
    kept: int,
) -> None:
    generate, calls = model.generate, []

    def interrupted(**options: Any) -> Any:
        calls.append(options)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return generate(**options)

    monkeypatch.setattr(model, "generate", interrupted)
    path = tmp_path / "q.jsonl"
    with pytest.raises(Interrupted) as caught:
        questions(model, tokenizer, prompts, path)
    assert f"{kept} of 5 questions are finished" in str(caught.value)
    assert (f"score them with python evaluate.py {path}" in str(caught.value)) is (kept > 0)
    assert "the same command starts anew" in str(caught.value)
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    assert len([json.loads(line) for line in lines if line]) == kept


def test_a_record_without_a_reference_is_answered_too(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    records = [Record("r", "生物", "单选题", "细胞是生物体结构和功能的基本单位。")]
    prompts = generation.build_prompts(records, tokenizer, NEW, 4096)
    assert questions(model, tokenizer, prompts, tmp_path / "q.jsonl", records)[0].reference is None
