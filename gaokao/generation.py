"""Writing questions in batches: left padding, KV cache, sampling, finish reasons, token counts."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from gaokao.checks import CHECKS, Item, Outcome, run_checks, usable
from gaokao.errors import Interrupted, UserError
from gaokao.models import prompt_ids, stop_token_ids
from gaokao.prompts import parse, prepare_input, render
from gaokao.records import OUTSIDE, SECTIONS, TEXTBOOK, Record, join_answers

# Keys of the section generate that are sampling parameters.
SAMPLING_KEYS = {"max_new_tokens", "do_sample", "temperature", "top_p", "repetition_penalty"}


class Output(NamedTuple):
    """What the model wrote for one prompt."""

    position: int
    """Of the prompt in the list of prompts."""
    text: str
    finish_reason: str
    """`stop`: ended by an end token; `length`: cut at max_new_tokens."""
    prompt_tokens: int
    completion_tokens: int


def build_prompts(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, context: int
) -> list[list[int]]:
    """Token ids of every prompt.

    Args:
        records: what questions are generated for.
        tokenizer: of the base.
        max_new_tokens: room for the answer.
        context: tokens that the model can hold.

    Raises:
        UserError: prompt and answer together do not fit into the context.
    """
    prompts = [prompt_ids(tokenizer, prepare_input(record)) for record in records]
    long = [(r.id, len(p)) for r, p in zip(records, prompts, strict=True) if len(p) + max_new_tokens > context]
    if long:
        raise UserError(
            f"{len(long)} prompt(s) leave no room for generate.max_new_tokens = {max_new_tokens} in the model's context of "
            f"{context} tokens (such as id {long[0][0]}: {long[0][1]} tokens); shorten the passages or max_new_tokens"
        )
    return prompts


def generation_config(
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    do_sample: bool,
    temperature: float,
    top_p: float,
    repetition_penalty: float,
) -> GenerationConfig:
    """Exactly the sampling of config.yaml: what a model ships (Qwen: top_k 20, penalty 1.05) must not slip in."""
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if do_sample else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        repetition_penalty=repetition_penalty,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop_token_ids(tokenizer),
        **sampling,
    )


class _CountTokens(StoppingCriteria):
    """Reports every step of a batch, so that the bar moves while a long batch runs; it never stops anything."""

    def __init__(self, stops: list[int], tick: Callable[[int], None]) -> None:
        self.stops = torch.tensor(stops)
        self.tick = tick
        self.done: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ended = torch.isin(input_ids[:, -1].cpu(), self.stops)
        running = torch.ones(len(ended), dtype=torch.bool) if self.done is None else ~self.done
        self.tick(int(running.sum()))
        self.done = ended if self.done is None else self.done | ended
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    settings: GenerationConfig,
    *,
    batch_size: int,
    seed: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> Iterator[Output]:
    """Yield one output per prompt, batch by batch.

    Prompts of like length share a batch (less padding), longest first: a batch that does not fit fails at once.
    Every batch is seeded on its own, so a batch gives the same texts whatever ran before it.

    Args:
        model: base with or without adapter, in eval mode.
        tokenizer: of the base.
        prompts: token ids of each prompt.
        settings: sampling and stop tokens.
        batch_size: prompts per batch.
        seed: of the sampling.
        tick: called with the number of new tokens at every step.

    Raises:
        UserError: the GPU's memory is too small for the batch.
    """
    model.generation_config = settings
    device = next(model.parameters()).device
    stops = stop_token_ids(tokenizer)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in indices)
        rows = [[tokenizer.pad_token_id] * (width - len(prompts[i])) + prompts[i] for i in indices]
        masks = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in indices]
        torch.manual_seed(seed + start)
        try:
            with torch.inference_mode():
                sequences = model.generate(
                    input_ids=torch.tensor(rows, device=device),
                    attention_mask=torch.tensor(masks, device=device),
                    generation_config=settings,
                    stopping_criteria=StoppingCriteriaList([_CountTokens(stops, tick)]),
                )
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU ran out of memory at generate.batch_size = {batch_size}; halve it, or lower max_new_tokens. "
                "Items finished so far are kept"
            ) from error
        for index, row in zip(indices, sequences[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), None)
            new = row if end is None else row[:end]
            yield Output(
                position=index,
                text=tokenizer.decode(new, skip_special_tokens=True),
                finish_reason="length" if end is None else "stop",
                prompt_tokens=len(prompts[index]),
                completion_tokens=len(new) + (end is not None),
            )


def result_entry(record: Record, prompt: str, output: Output, adapter: str) -> dict[str, Any]:
    """One entry of `questions.json`: input, prompt, raw text, what was read from it, how it ended, failed checks."""
    question = parse(output.text)
    results = run_checks(Item.from_question(record, question, output.finish_reason))
    values = (question.question, join_answers(question.answer), question.analysis)
    return {
        "id": record.id,
        "subject": record.subject,
        "type": record.type,
        TEXTBOOK: record.textbook,
        OUTSIDE: record.outside,
        **{key: value for key, value in (("difficulty", record.difficulty), ("topic", record.topic)) if value},
        "adapter": adapter,
        "prompt": prompt,
        "text": output.text,
        **dict(zip(SECTIONS, values, strict=True)),
        "missing": list(question.missing),
        "misplaced": list(question.misplaced),
        "finish_reason": output.finish_reason,
        "usable": usable(results),
        "failed_checks": [
            {"check": check.name, "hard": check.hard, "evidence": result.evidence}
            for check, result in zip(CHECKS, results, strict=True)
            if result.outcome is Outcome.FAIL
        ],
        "prompt_tokens": output.prompt_tokens,
        "completion_tokens": output.completion_tokens,
        "reference": render(record) if record.has_reference else None,
    }


class ResultLines:
    """`questions.jsonl`, one whole line per finished item, on disk before the next one starts."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Append an item."""
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def write_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    prompts: Sequence[list[int]],
    settings: GenerationConfig,
    path: Path,
    *,
    adapter: str,
    batch_size: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Generate a question for every record, each on disk as soon as it is finished, with a progress bar.

    Args:
        model: base with or without adapter, in eval mode.
        tokenizer: of the base.
        records: what questions are generated for.
        prompts: token ids of each record's prompt.
        settings: sampling and stop tokens.
        path: the `questions.jsonl` to append to.
        adapter: its name in the entries.
        batch_size: prompts per batch.
        seed: of the sampling.

    Returns:
        The entries in the order of the records; the lines of the file are in the order in which they were finished.

    Raises:
        Interrupted: Ctrl-C; what is finished is kept.
        UserError: the GPU's memory is too small for the batch.
    """
    entries: dict[int, dict[str, Any]] = {}
    lines = ResultLines(path)
    started, tokens = time.time(), 0
    with tqdm(total=len(prompts), unit="item", dynamic_ncols=True) as bar:

        def tick(new: int) -> None:
            nonlocal tokens
            tokens += new
            bar.set_postfix_str(f"{tokens} tokens, {tokens / (time.time() - started):.0f} tokens/s", refresh=False)
            bar.update(0)

        try:
            for output in generate(model, tokenizer, prompts, settings, batch_size=batch_size, seed=seed, tick=tick):
                place = output.position
                entry = result_entry(records[place], tokenizer.decode(prompts[place]), output, adapter)
                entries[place] = entry
                lines.add(entry)
                bar.update(1)
        except KeyboardInterrupt:
            kept = f"{len(entries)} of {len(prompts)} questions are finished"
            if entries:
                kept += f" and kept in {path}; score them with python evaluate.py {path}"
            raise Interrupted(f"{kept}; the same command starts anew, and keeps these beside") from None
        finally:
            lines.close()
    print(f"wrote     {len(entries)} questions, {tokens} tokens in {time.time() - started:.0f} s")
    return [entries[place] for place in range(len(prompts))]
