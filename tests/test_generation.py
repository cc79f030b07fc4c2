"""Generation in batches gives each prompt its own answer, counted and cut as it says.

The base has random weights: it answers every prompt differently, and every token of a prompt changes its answer.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, load
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from gaokao import generation, models
from gaokao.errors import UserError
from gaokao.prompts import prepare_input
from gaokao.records import load_records
from gaokao.writing import Completion

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


def writer(model: Any, tokenizer: Any, batch_size: int = 2, **changes: Any) -> generation.Writer:
    return generation.Writer(model, tokenizer, batch_size=batch_size, **(GREEDY | changes))


def outputs(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    batch_size: int = 2,
    seed: int = 0,
    options: dict[str, Any] = GREEDY,
    **changes: Any,
) -> list[Completion]:
    """What is generated, in the order of the prompts."""
    keys = [f"{seed}/{number}" for number in range(len(prompts))]
    return sorted(writer(model, tokenizer, batch_size, **(options | changes)).write(prompts, keys))


def texts(made: list[Completion]) -> list[str]:
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


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1] * 50], 0), ([[1] * 50] * 3, 49), ([[1] * 40 + [2, 3], [1] * 40 + [4]], 40), ([[1] * 40, [1] * 60], 39),
        ([[1] * 20 + [2] * 40, [1] * 60], 0), ([[1] * 60, [2] + [1] * 59], 0),
    ],
)  # fmt: skip
def test_what_all_prompts_of_a_batch_begin_with_is_found(prompts: list[list[int]], shared: int) -> None:
    assert generation.shared_tokens(prompts) == shared


@pytest.mark.parametrize("shared", [0, 40])
def test_prompts_are_read_a_few_at_a_time_whatever_they_share(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    same = [prompts[2][:shared] + prompt for prompt in prompts]
    alone = outputs(model, tokenizer, same, batch_size=1)
    monkeypatch.setattr(generation, "READ_ROWS", 2)
    read: list[tuple[int, ...]] = []
    watching = model.register_forward_pre_hook(
        lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    assert outputs(model, tokenizer, same, batch_size=5) == alone
    watching.remove()
    # Each part is as wide as its own longest prompt: 90 and 75, 60 and 40, 25 tokens.
    assert read[bool(shared) :][:4] == [(2, 89), (2, 59), (1, 24), (5, 1)]


def test_a_base_with_a_sliding_window_answers_alike_in_every_batch(
    random_base: Path, tokenizer: Any, prompts: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(random_base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1}
    window["layer_types"] = ["full_attention", "sliding_attention"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | window), encoding="utf-8")
    sliding = load(tmp_path / "base", quantization="none")
    same = [prompts[2][:40] + prompt for prompt in prompts]
    monkeypatch.setattr(generation, "READ_ROWS", 2)
    assert outputs(sliding, tokenizer, same, batch_size=5) == outputs(sliding, tokenizer, same, batch_size=1)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, SAMPLED | {"repetition_penalty": 1.3}])
def test_what_all_prompts_begin_with_is_read_once_and_changes_no_answer(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    # Two questions on one passage, and others of the same system message.
    first = prompts[2][:45]
    same = [*(first + prompt for prompt in prompts), first + prompts[0]]
    apart = outputs(model, tokenizer, same, batch_size=1, options=options)
    read: list[int] = []
    watching = model.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    together = outputs(model, tokenizer, same, batch_size=6, options=options)
    watching.remove()
    assert together == apart
    # All tokens but the last of each: that one is the first step.
    assert read[:3] == [45, 6 * (max(LENGTHS) - 1), 6]
    monkeypatch.setattr(generation, "SHARED_TOKENS", 10**6)
    assert outputs(model, tokenizer, same, batch_size=6, options=options) == apart


def test_the_kv_cache_changes_no_answer(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = outputs(model, tokenizer, prompts, batch_size=5)
    for prompt, output in zip(prompts, made, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(output.completion_tokens):
                ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert output.text == tokenizer.decode(ids[0, len(prompt) :].tolist(), skip_special_tokens=True)


def test_a_plan_has_like_lengths_together_the_shortest_first_then_the_longest() -> None:
    assert generation.plan_batches([3, 9, 5, 9, 1], 2) == [[4], [1, 3], [2, 0]]
    assert generation.plan_batches([], 2) == []
    assert generation.plan_batches([1], 8) == [[0]]


def test_an_item_draws_the_same_in_every_batch_and_place(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    alone = outputs(model, tokenizer, prompts, batch_size=1, options=SAMPLED)
    assert outputs(model, tokenizer, prompts, batch_size=5, options=SAMPLED) == alone
    turned = writer(model, tokenizer, 3, **SAMPLED).write(prompts[::-1], [f"0/{number}" for number in (4, 3, 2, 1, 0)])
    assert texts(sorted(turned))[::-1] == texts(alone)
    assert outputs(model, tokenizer, prompts, options=SAMPLED, seed=8) != alone


def test_what_others_draw_changes_nothing(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    made = []
    for output in writer(model, tokenizer, **SAMPLED).write(prompts, ["a", "b", "c", "d", "e"]):
        made.append(output)
        torch.rand(3)
    assert sorted(made) == sorted(writer(model, tokenizer, **SAMPLED).write(prompts, ["a", "b", "c", "d", "e"]))


def test_the_same_prompt_with_other_keys_gives_other_texts(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
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
    punished = texts(outputs(model, tokenizer, prompts, repetition_penalty=10.0))
    assert plain != punished


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


@pytest.fixture
def ending(model: Any, tokenizer: Any, prompts: list[list[int]]) -> Any:
    """A tokenizer whose end token is one that the model writes: rows end at different steps."""
    settings = generation.generation_config(tokenizer)
    ids = [
        model.generate(input_ids=torch.tensor([prompt]), generation_config=settings, max_new_tokens=NEW)[0]
        for prompt in prompts
    ]
    written = [row[len(prompt) :].tolist() for row, prompt in zip(ids, prompts, strict=True)]
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(written[0][4])
    # What stands behind an end is no end itself, and no token of the answer either.
    other.pad_token = "<|im_start|>"
    return other, written


def test_rows_that_have_ended_leave_and_the_others_go_on_unchanged(
    model: Any, prompts: list[list[int]], ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, written = ending
    stop = written[0][4]
    ticks: list[int] = []
    rows: list[int] = []
    generate = model.generate

    def noting(**options: Any) -> Any:
        rows.append(len(options["input_ids"]))
        return generate(**options)

    monkeypatch.setattr(model, "generate", noting)
    keys = ["a", "b", "c", "d", "e"]
    for penalty in (1.0, 1.3):
        rows.clear()
        ticks.clear()
        made = sorted(writer(model, other, 5, repetition_penalty=penalty).write(prompts, keys, tick=ticks.append))
        if penalty == 1.0:
            for output, row in zip(made, written, strict=True):
                end = row.index(stop) if stop in row else None
                assert output.finish_reason == ("length" if end is None else "stop")
                assert output.text == other.decode(row[:end], skip_special_tokens=True)
                assert output.completion_tokens == (NEW if end is None else end + 1)
            # Five rows, of which one at least has ended before the last step.
            assert rows[0] == 5 and len(rows) > 1 and rows == sorted(rows, reverse=True) and rows[1] < 5
        assert sum(ticks) == sum(output.completion_tokens for output in made)
        assert made == sorted(writer(model, other, 1, repetition_penalty=penalty).write(prompts, keys))


def test_the_first_answer_of_a_batch_comes_at_once_though_rows_leave_in_numbers(
    model: Any, prompts: list[list[int]], ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, written = ending
    monkeypatch.setattr(generation, "LEAVING_SHARE", 1)
    steps: list[int] = []
    next(iter(writer(model, other, 5).write(prompts, ["a", "b", "c", "d", "e"], tick=steps.append)))
    assert len(steps) == 1 + min(row.index(written[0][4]) for row in written if written[0][4] in row) < NEW


def test_a_row_that_leaves_takes_no_draw_of_another_along(model: Any, prompts: list[list[int]], ending: Any) -> None:
    other, _ = ending
    keys = ["a", "b", "c", "d", "e"]
    together = sorted(writer(model, other, 5, **SAMPLED).write(prompts, keys))
    assert together == sorted(writer(model, other, 1, **SAMPLED).write(prompts, keys))


def test_tokens_are_counted_in_every_batch(
    model: Any, tokenizer: Any, prompts: list[list[int]], forced: Callable[[int], None]
) -> None:
    forced(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    ticks: list[int] = []
    list(writer(model, tokenizer).write(prompts, list("abcde"), tick=ticks.append))
    assert ticks == [1] * NEW + [2] * NEW + [2] * NEW


def test_a_batch_in_which_one_is_missing_is_written_again_whole_and_only_that_one_comes_out(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    generate = model.generate
    whole = outputs(model, tokenizer, prompts)

    def noting(**options: Any) -> Any:
        rows.append(len(options["input_ids"]))
        return generate(**options)

    monkeypatch.setattr(model, "generate", noting)
    # Batches of two: (1), (2, 4), (0, 3).
    made = list(writer(model, tokenizer).write(prompts, list("abcde"), done={2, 3, 4}))
    assert sorted(made) == [whole[0], whole[1]]
    assert rows == [1, 2]


def test_processes_share_the_batches(model: Any, tokenizer: Any, prompts: list[list[int]]) -> None:
    parts = [sorted(writer(model, tokenizer).write(prompts, list("abcde"), part=(p, 2))) for p in (0, 1)]
    assert [[output.position for output in part] for part in parts] == [[0, 1, 3], [2, 4]]
    assert sorted(parts[0] + parts[1]) == outputs(model, tokenizer, prompts)


@pytest.mark.parametrize(
    ("most", "prompts", "processes", "rows"),
    [(128, 200, 8, 25), (128, 500, 8, 63), (128, 1100, 8, 69), (128, 1024, 8, 128), (32, 48, 1, 32), (32, 0, 4, 1)],
)
def test_several_processes_share_the_prompts_evenly(most: int, prompts: int, processes: int, rows: int) -> None:
    assert generation.even_batch(most, prompts, processes) == rows


@pytest.mark.parametrize(("asked", "recorded", "rows"), [("auto", None, 3), ("auto", 7, 7), (5, None, 5), (5, 7, 5)])
def test_the_automatic_batch_size_leaves_no_process_without_prompts(
    asked: Any, recorded: int | None, rows: int, model: Any
) -> None:
    engine: Any = SimpleNamespace(options=SimpleNamespace(batch_size=asked), _model=model, processes=4)
    assert generation.Local._batch_size(engine, [[1] * 5] * 10, 8, recorded) == rows


def test_processes_that_run_out_of_memory_keep_to_the_common_plan(
    model: Any, tokenizer: Any, prompts: list[list[int]]
) -> None:
    writers = [writer(model, tokenizer), writer(model, tokenizer)]
    writers[0].batch_size = 1
    places = [
        output.position
        for process, one in enumerate(writers)
        for output in one.write(prompts, list("abcde"), part=(process, 2))
    ]
    assert sorted(places) == [0, 1, 2, 3, 4]


def test_out_of_memory_after_some_rows_have_ended_goes_on_with_the_others(
    model: Any, prompts: list[list[int]], ending: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = ending
    whole, generate, calls = sorted(writer(model, other, 5).write(prompts, list("abcde"))), model.generate, []

    def later(**options: Any) -> Any:
        calls.append(len(options["input_ids"]))
        if len(calls) == 2:
            raise RuntimeError("CUDA error: out of memory")
        return generate(**options)

    monkeypatch.setattr(model, "generate", later)
    assert sorted(writer(model, other, 5).write(prompts, list("abcde"))) == whole
    assert calls[1] < calls[0] == 5


def test_out_of_memory_halves_the_batches_and_loses_nothing(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole, generate = outputs(model, tokenizer, prompts), model.generate
    rows: list[int] = []

    def small(**options: Any) -> Any:
        rows.append(len(options["input_ids"]))
        if rows[-1] > 2:
            raise (
                torch.cuda.OutOfMemoryError
                if rows[-1] > 3
                else RuntimeError("DefaultCPUAllocator: can't allocate memory")
            )
        return generate(**options)

    monkeypatch.setattr(model, "generate", small)
    assert sorted(writer(model, tokenizer, 5).write(prompts, list("abcde"))) == whole
    assert rows == [5, 3, 2, 1, 2]
    assert "5 rows at once are too many: going on with 3" in capsys.readouterr().out


def test_memory_for_not_even_one_row_is_a_users_problem(
    model: Any, tokenizer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(UserError, match="too small for one row; lower generate.max_new_tokens"):
        outputs(model, tokenizer, prompts)

    def broken(**_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        outputs(model, tokenizer, prompts)


def test_an_automatic_batch_size_grows_with_the_memory_and_shrinks_with_the_length(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"value": 2**40}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free["value"]}))
    assert generation.fitting_batch(model, 2048) == generation.MOST_ROWS_ON_CPU
    free["value"] = 100 * 2**20
    some = generation.fitting_batch(model, 2048)
    assert 1 < some < generation.MOST_ROWS_ON_CPU
    assert generation.fitting_batch(model, 8192) < some
    # Two processes on one machine have half of it each.
    free["value"] *= 2
    assert generation.fitting_batch(model, 2048, processes=2) == some
    free["value"] = 1
    assert generation.fitting_batch(model, 2048) == 1


def test_what_a_model_ships_as_sampling_defaults_does_not_slip_in(tokenizer: Any) -> None:
    settings = generation.generation_config(tokenizer, 1.2)
    assert (settings.do_sample, settings.repetition_penalty) == (False, 1.2)
    assert not settings.top_k and not settings.top_p and not settings.temperature
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
    "GAOKAO_COMPILE_TEST" not in os.environ, reason="needs GAOKAO_COMPILE_TEST=1: the real compiler, a minute"
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
