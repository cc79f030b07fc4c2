"""How fast questions are written: the loop of the scripts that this project grew out of, ours, and a server beside it.

    python -m tests.benchmarks.generation_speed --base DIR --data data/bench/test.json
    python -m tests.benchmarks.generation_speed --base DIR --data data/bench/test.json --adapter outputs/my/adapter --natural
    python -m tests.benchmarks.generation_speed --base DIR --data data/bench/test.json --server http://127.0.0.1:8000/v1 --model base

Prints a line a way, each with its ratio to the first one: new tokens a second over all prompts, peak memory of the process,
seconds to the first whole answer. Without --natural every answer has --new tokens; with it answers end where the model ends
them. Compare within one run only: machines and moments differ. Run one thing at a time.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from gaokao import adapters, generation, models
from gaokao.prompts import prepare_input
from gaokao.records import Record, load_records
from gaokao.served import Served
from gaokao.writing import Completion, Job, Round, job_key

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0}
SEED = 5
WAYS = ("original", "greedy", "ours", "continuous", "server")


def main() -> None:
    """Measure the ways that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of a real model")
    parser.add_argument("--data", type=Path, required=True, help="records whose prompts are taken")
    parser.add_argument("--adapter", type=Path, help="what a run has trained; the bare base without it")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=int, default=128, help="tokens of each answer, or the most of them")
    parser.add_argument("--natural", action="store_true", help="answers end where the model ends them")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 24, 32, 64])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["original", "ours"])
    parser.add_argument("--server", help="address of a server that serves the same model")
    parser.add_argument("--model", default="base", help="its name there")
    options = parser.parse_args()
    records = choose(load_records(options.data, "generate"), options.prompts)
    base = models.choose_base(
        base=options.base,
        quantization="none",
        dtype=options.dtype,
        attention="sdpa",
        tiny_folder=Path("outputs"),
        gpus=0,
    )
    model: Any = models.load_base(base)
    if options.adapter:
        model = adapters.merge_if_plain(adapters.load_adapter(model, options.adapter), "none")[0]
    prompts = generation.build_prompts(records, base.tokenizer, options.new, model.config.max_position_embeddings)
    lengths = sorted(map(len, prompts))
    print(
        f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens, {base.dtype.value}, {torch.get_num_threads()} threads"
    )
    first = 0.0
    for name, way in ways(options, records, model, base.tokenizer, prompts):
        started = time.perf_counter()
        tokens, answered = 0, 0.0
        for completion in way():
            answered = answered or time.perf_counter() - started
            tokens += completion.completion_tokens
        speed = tokens / (time.perf_counter() - started)
        first = first or speed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:24} {tokens:7} tokens {speed:7.1f} tokens/s {speed / first:5.2f}x   first answer {answered:5.1f} s   "
            f"peak so far {peak:.1f} GB",
            flush=True,
        )


def choose(records: Sequence[Record], count: int) -> list[Record]:
    """So many records of mixed length, in the order of the file."""
    step = max(1, len(records) // count)
    return list(records[::step][:count])


def ways(
    options: argparse.Namespace, records: Sequence[Record], model: Any, tokenizer: Any, prompts: Sequence[list[int]]
) -> Iterator[tuple[str, Callable[[], Iterator[Completion]]]]:
    """Each way with its name."""
    keys = [job_key(record, SEED, 1) for record in records]

    def writer(size: int, **changes: Any) -> generation.Writer:
        made = generation.Writer(model, tokenizer, batch_size=size, max_new_tokens=options.new, **(SAMPLING | changes))
        if not options.natural:
            made.settings.min_new_tokens = options.new
        return made

    for way in options.ways:
        if way == "original":
            yield "original, batches of 4", lambda: original(model, tokenizer, prompts, options.new, options.natural)
        elif way == "continuous":
            yield "continuous batching", lambda: continuous(model, tokenizer, prompts, options.new, options.natural)
        elif way in ("ours", "greedy"):
            sizes = [*options.batch_sizes] if way == "ours" else options.batch_sizes[-1:]
            for size in sizes:
                made = writer(size, do_sample=way == "ours")
                yield f"{way}, batches of {size}", lambda made=made: made.write(prompts, keys)  # type: ignore[misc]
            if way == "ours":
                size = generation.fitting_batch(model, max(map(len, prompts)) + options.new)
                if size not in sizes:
                    made = writer(size)
                    yield f"ours, auto ({size})", lambda made=made: made.write(prompts, keys)  # type: ignore[misc]
    if options.server:
        yield "server", lambda: served(options, records, keys)


def original(model: Any, tokenizer: Any, prompts: Sequence[list[int]], new: int, natural: bool) -> Iterator[Completion]:
    """Batches of four in input order, transformers' own sampling, every batch as long as its longest answer."""
    stops = models.stop_token_ids(tokenizer)
    settings = GenerationConfig(
        max_new_tokens=new,
        min_new_tokens=None if natural else new,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
        **SAMPLING,
    )
    torch.manual_seed(SEED)
    for start in range(0, len(prompts), 4):
        batch = prompts[start : start + 4]
        width = max(map(len, batch))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:].tolist()
        for number, row in enumerate(rows):
            yield Completion(start + number, "", "", 0, written(row, stops))


def continuous(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], new: int, natural: bool
) -> Iterator[Completion]:
    """transformers' continuous batching with its own sampling."""
    stops = models.stop_token_ids(tokenizer)
    settings = GenerationConfig(
        max_new_tokens=new,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops if natural else -1,
        **SAMPLING,
    )
    torch.manual_seed(SEED)
    for number, output in enumerate(model.generate_batch(inputs=list(prompts), generation_config=settings).values()):
        yield Completion(
            number, "", "", 0, written(output.generated_tokens, stops) if natural else len(output.generated_tokens)
        )


def written(row: Sequence[int], stops: Sequence[int]) -> int:
    """Tokens of an answer with its end."""
    return next((place + 1 for place, token in enumerate(row) if token in stops), len(row))


def served(options: argparse.Namespace, records: Sequence[Record], keys: Sequence[str]) -> Iterator[Completion]:
    """All prompts at once at a server; its answers end where the model ends them."""
    server = Served(options.server, options.model, options.new, concurrency=len(records), **SAMPLING)
    server.load({})
    jobs = [
        Job(place, 1, key, prepare_input(record)) for place, (record, key) in enumerate(zip(records, keys, strict=True))
    ]
    found: list[Completion] = []
    server.write(Round(jobs, set(), found.append))
    yield from found


if __name__ == "__main__":
    main()
