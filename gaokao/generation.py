"""Writing questions in batches: left padding, KV cache, sampling, finish reasons, token counts."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from gaokao.errors import Interrupted, UserError
from gaokao.models import prompt_ids, stop_token_ids
from gaokao.prompts import prepare_input
from gaokao.records import Record
from gaokao.results import Generated
from gaokao.runs import Journal

# Keys of the section generate that are sampling parameters.
SAMPLING_KEYS = {"max_new_tokens", "do_sample", "temperature", "top_p", "repetition_penalty"}


class Completion(NamedTuple):
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
) -> Iterator[Completion]:
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
            yield Completion(
                position=index,
                text=tokenizer.decode(new, skip_special_tokens=True),
                finish_reason="length" if end is None else "stop",
                prompt_tokens=len(prompts[index]),
                completion_tokens=len(new) + (end is not None),
            )


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
) -> list[Generated]:
    """Generate a question for every record, each on disk as soon as it is finished, with a progress bar.

    Args (the others are those of `generate`):
        records: what questions are generated for, one for each prompt.
        path: the `questions.jsonl` to append to.
        adapter: its name in the results.

    Returns:
        The questions in the order of the records; the lines of the file are in the order in which they were finished.

    Raises:
        Interrupted: Ctrl-C; what is finished is kept.
        UserError: the GPU's memory is too small for the batch.
    """
    items: dict[int, Generated] = {}
    started, tokens = time.time(), 0
    with Journal(path) as lines, tqdm(total=len(prompts), unit="item", dynamic_ncols=True) as bar:

        def tick(new: int) -> None:
            nonlocal tokens
            tokens += new
            bar.set_postfix_str(f"{tokens} tokens, {tokens / (time.time() - started):.0f} tokens/s", refresh=False)
            bar.update(0)

        try:
            for done in generate(model, tokenizer, prompts, settings, batch_size=batch_size, seed=seed, tick=tick):
                item = Generated.of(
                    records[done.position],
                    prompt=tokenizer.decode(prompts[done.position]),
                    text=done.text,
                    finish_reason=done.finish_reason,
                    prompt_tokens=done.prompt_tokens,
                    completion_tokens=done.completion_tokens,
                    adapter=adapter,
                )
                items[done.position] = item
                lines.add(item.to_dict())
                bar.update(1)
        except KeyboardInterrupt:
            kept = f"{len(items)} of {len(prompts)} questions are finished"
            if items:
                kept += f" and kept in {path}; score them with python evaluate.py {path}"
            raise Interrupted(f"{kept}; the same command starts anew, and keeps these beside") from None
    print(f"wrote     {len(items)} questions, {tokens} tokens in {time.time() - started:.0f} s")
    return [items[place] for place in range(len(prompts))]
