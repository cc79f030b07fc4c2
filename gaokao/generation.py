"""Completions from the model at hand, in batches: left padding, KV cache, rows that leave when they have ended."""

import copy
import sys
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import gather_object
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from gaokao import adapters, models
from gaokao.config import BARE_BASE
from gaokao.console import banner
from gaokao.decoding import RoomyLayer, join, make_cache, quick_products
from gaokao.errors import UserError
from gaokao.models import prompt_ids, stop_token_ids
from gaokao.prompts import prepare_input
from gaokao.records import Record
from gaokao.sampling import ItemSampler
from gaokao.settings import Resolved
from gaokao.writing import Completion, Round

# Keys of the section generate that are sampling parameters.
SAMPLING_KEYS = {"max_new_tokens", "do_sample", "temperature", "top_p", "repetition_penalty"}
# Twice as many are a tenth faster on a CPU (see the README), show their first answers later, and have more to write again.
MOST_ROWS_ON_CPU, MOST_ROWS_ON_GPU = 32, 128
# What may be used of the memory that is free: allocators cut it into pieces.
MEMORY_SHARE = 0.7
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
# A batch is gathered anew when one in so many of its rows has ended, and once at its first end; gathering copies the cache.
LEAVING_SHARE = 8
# Fewer tokens that all prompts of a batch begin with are read with each of them.
SHARED_TOKENS = 32
# Prompts that are read at once: more are not quicker, and need more memory and padding.
READ_ROWS = 8
# A blind answer is “答案：” and a few letters.
ANSWER_TOKENS = 24


class Local:
    """The model at hand as an engine, one process a GPU: chosen and compared at once, loaded when there is work.

    With its adapter switched off it answers questions (`asking.Answerer`): the base is a solver that costs no second model.
    """

    thinks = False

    def __init__(self, resolved: Resolved, adapter: Path | None) -> None:
        """Join the other processes, find or fetch the base, and refuse an adapter of another one.

        Args:
            resolved: the configuration.
            adapter: its folder; `None` for the bare base.

        Raises:
            UserError: the base or the adapter is not to be had, or they do not belong together.
        """
        config = resolved.config
        self.resolved, self.options, self.adapter = resolved, config.generate, adapter
        self._processes = models.start_processes(resolved.gpus)
        self.process, self.processes = self._processes.process_index, self._processes.num_processes
        with self._processes.main_process_first():
            self.base = models.choose_base(
                **config.model.model_dump(),
                tiny_folder=Path(config.output.dir),
                gpus=resolved.gpus,
                process=self._processes.local_process_index,
                say=print if self.process == 0 else lambda line: None,
            )
        self._record, note = adapters.adapter_record(self.base), ""
        if adapter is not None:
            note = adapters.check_adapter(adapter, self._record, self.options.other_quantization)
        self.name = BARE_BASE if adapter is None else f"{adapter}{f' ({note})' if note else ''}"
        self.answered_by = f"{self.base.name} without an adapter"
        # The base alone has to answer what the adapter has written.
        self._apart = self.options.solve_back > 0 and config.evaluate.base_url is None
        self._model: Any = None

    def meet(self) -> None:
        """Wait until all processes have come here."""
        self._processes.wait_for_everyone()

    def inputs(self) -> dict[str, Any]:
        """Base, adapter and sampling."""
        sampling = self.options.model_dump(include=SAMPLING_KEYS)
        record = asdict(self._record)
        return {
            "model.base": record.pop("base"),
            "model.quantization": record.pop("quantization"),
            "model.dtype": self.base.dtype.value,
            **record,
            "adapter": None if self.adapter is None else adapters.adapter_digest(self.adapter),
            **{f"generate.{name}": value for name, value in sampling.items()},
        }

    def prompts(self, records: Sequence[Record]) -> list[str]:
        """The text of each record's prompt.

        Raises:
            UserError: prompt and answer together do not fit into the context.
        """
        context = self.base.context or sys.maxsize
        self._ids = build_prompts(records, self.base.tokenizer, self.options.max_new_tokens, context)
        return [str(text) for text in self.base.tokenizer.batch_decode(self._ids)]

    def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Load base and adapter, and say so; an interrupted run goes on with the batch size that it began with."""
        words = self._load_model()
        size = self._batch_size(self._ids, self.options.max_new_tokens, recorded.get("batch_size"))
        sampling = self.options.model_dump(include=SAMPLING_KEYS)
        self._writer = Writer(self._model, self.base.tokenizer, batch_size=size, **sampling)
        if self.process == 0:
            print(banner(self.resolved, self.base, processes=self.processes, adapter=words))
            print(f"batch     {size} prompts at once")
        return {"batch_size": size}

    def _load_model(self) -> str:
        """Load base and adapter; which adapter, in words."""
        self._model = models.load_base(self.base)
        words = "none: the bare base model"
        if self.adapter is not None:
            self._model = adapters.load_adapter(self._model, self.adapter)
            if self._apart:
                words = f"{self.name}, separate (generate.solve_back switches it off)"
            else:
                self._model, merged = adapters.merge_if_plain(self._model, self.base.quantization)
                words = f"{self.name}, {merged.value} ({merged.reason})"
        if self.options.torch_compile:
            models.compile_forward(self._model)
        return words

    def _batch_size(self, ids: Sequence[list[int]], new: int, recorded: Any = None) -> int:
        """What the user has set, what an interrupted run began with, or what fits: the same in all processes."""
        if fixed := [size for size in (self.options.batch_size, recorded) if isinstance(size, int)]:
            return fixed[0]
        # The free memory of the processes differs, and their plan must not.
        most = min(gather_object([fitting_batch(self._model, max(map(len, ids)) + new, self.processes)]))
        return even_batch(int(most), len(ids), self.processes)

    def write(self, work: Round) -> None:
        """Write this process's share of the batches.

        Raises:
            UserError: one row alone is too much for the memory.
        """
        self._write(self._writer, [self._ids[job.position] for job in work.jobs], work)

    def identity(self) -> dict[str, Any]:
        """The base as it runs: what its answers depend on beside the messages."""
        return {
            "base": self._record.base_fingerprint,
            "quantization": self._record.quantization,
            "dtype": self.base.dtype.value,
            "max_tokens": ANSWER_TOKENS,
        }

    def answer(self, work: Round) -> dict[int, str]:
        """Write this process's share of short answers without the adapter, the likeliest tokens; none fails alone.

        Raises:
            UserError: one row alone is too much for the memory.
        """
        if self._model is None:
            self._load_model()
        ids = [prompt_ids(self.base.tokenizer, job.messages) for job in work.jobs]
        writer = Writer(
            self._model,
            self.base.tokenizer,
            batch_size=self._batch_size(ids, ANSWER_TOKENS),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            repetition_penalty=1.0,
        )
        with nullcontext() if self.adapter is None else self._model.disable_adapter():
            self._write(writer, ids, work)
        return {}

    def _write(self, writer: "Writer", ids: Sequence[list[int]], work: Round) -> None:
        there = {number for number, job in enumerate(work.jobs) if job.position in work.done}
        keys, part = [job.key for job in work.jobs], (self.process, self.processes)
        for completion in writer.write(ids, keys, done=there, part=part, tick=work.tick):
            work.keep(completion._replace(position=work.jobs[completion.position].position))


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


def generation_config(tokenizer: PreTrainedTokenizerBase, repetition_penalty: float = 1.0) -> GenerationConfig:
    """Greedy decoding, and nothing that a model ships (Qwen: top_k 20, penalty 1.05); `ItemSampler` makes it draw."""
    return GenerationConfig(
        do_sample=False,
        repetition_penalty=repetition_penalty,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stop_token_ids(tokenizer),
    )


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions of the prompts of each batch: like lengths together (less padding).

    A plan depends on the lengths and the size only. The shortest prompts come first, so that the first question is there
    sooner; then the longest, because a batch that does not fit should fail early.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches[-1:] + batches[:-1]


def even_batch(most: int, prompts: int, processes: int) -> int:
    """Rows of a batch, `most` at most, with which several processes have about as many rows and batches each."""
    if processes == 1:
        # A smaller last batch keeps nobody waiting.
        return most
    turns = max(1, -(-prompts // (most * processes)))
    return max(1, -(-prompts // (turns * processes)))


def shared_tokens(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with and that are worth reading once for all of them; one of each prompt is left.

    Several questions on one passage share all of it, those of one subject and type their system message.
    """
    if len(prompts) < 2:
        return 0
    alike = (len(set(tokens)) == 1 for tokens in zip(*prompts, strict=False))
    common = min(sum(takewhile(bool, alike)), min(map(len, prompts)) - 1)
    return common if common >= SHARED_TOKENS else 0


def fitting_batch(model: Any, longest: int, processes: int = 1) -> int:
    """Rows of `longest` tokens, prompt and answer, whose KV cache and logits fit into the memory that is free now.

    Processes on the CPU share its memory.
    """
    config, device = model.config, next(model.parameters()).device
    on_gpu = device.type == "cuda"
    if on_gpu:
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + idle
    else:
        free = psutil.virtual_memory().available // processes
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * model.dtype.itemsize
    # The widest activations of a layer while a prompt is read, a few of them at once.
    reading = longest * 4 * (config.hidden_size + config.intermediate_size) * model.dtype.itemsize
    # A cache that outgrows its room is copied: for a moment there are two of a layer, and two of all when rows leave.
    # Logits, scores and probabilities of a step in fp32.
    row = longest * 2 * token + 4 * 4 * config.vocab_size
    most = MOST_ROWS_ON_GPU if on_gpu else MOST_ROWS_ON_CPU
    space = MEMORY_SHARE * free
    rows = space / (row + reading)
    if rows > READ_ROWS:
        rows = (space - READ_ROWS * reading) / row
    return max(1, min(most, int(rows)))


class _Stretch(StoppingCriteria):
    """Ends a call of `generate` for all rows once so many of them have ended; reports the new tokens of every step."""

    def __init__(self, stops: Sequence[int], most: int, tick: Callable[[int], None]) -> None:
        self.stops, self.most, self.tick = torch.tensor(stops), most, tick
        self.ended: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ends = torch.isin(input_ids[:, -1].cpu(), self.stops)
        before = torch.zeros_like(ends) if self.ended is None else self.ended
        self.tick(int((~before).sum()))
        self.ended = before | ends
        stop = int(self.ended.sum()) >= self.most
        return torch.full((len(input_ids),), stop, device=input_ids.device)


class Writer:
    """Writes completions with a model that is loaded; `generate.batch_size` is the plan, memory has the last word."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        max_new_tokens: int,
        do_sample: bool,
        temperature: float,
        top_p: float,
        repetition_penalty: float,
    ) -> None:
        """One for a run.

        Args:
            model: base with or without adapter, in eval mode.
            tokenizer: of the base.
            batch_size: prompts per batch.
            max_new_tokens: where an answer is cut.
            do_sample: draw; otherwise always the likeliest token.
            temperature: of the drawing.
            top_p: of the drawing.
            repetition_penalty: above 1 punishes what the prompt or the answer holds.
        """
        self.model, self.tokenizer = model, tokenizer
        # The plan stays, whatever the memory of this process says later: other processes go by the same one.
        self.planned = self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.do_sample, self.temperature, self.top_p = do_sample, temperature, top_p
        self.settings = generation_config(tokenizer, repetition_penalty)
        self.stops = self.settings.eos_token_id
        model.generation_config = self.settings

    def write(
        self,
        prompts: Sequence[list[int]],
        keys: Sequence[str],
        *,
        done: Container[int] = (),
        part: tuple[int, int] = (0, 1),
        tick: Callable[[int], None] = lambda tokens: None,
    ) -> Iterator[Completion]:
        """Yield one completion per prompt as soon as it has ended.

        Args:
            prompts: token ids of each.
            keys: what the draws of each depend on.
            done: places of prompts whose completion is there; a batch in which one is missing is written again whole,
                so that the missing ones come out as they would have.
            part: this process and the number of processes, which share the batches.
            tick: called with the number of new tokens at every step.

        Raises:
            UserError: one row alone is too much for the memory.
        """
        process, processes = part
        plan = plan_batches([len(prompt) for prompt in prompts], self.planned)[process::processes]
        batches = deque(batch for batch in plan if not all(place in done for place in batch))
        finished: set[int] = set()
        while batches:
            batch = batches.popleft()
            if len(batch) > self.batch_size:
                half = (len(batch) + 1) // 2
                batches.extendleft([batch[half:], batch[:half]])
                continue
            full = False
            try:
                for completion in self._batch(batch, prompts, keys, tick):
                    finished.add(completion.position)
                    if completion.position not in done:
                        yield completion
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise UserError(
                        "the memory is too small for one row; lower generate.max_new_tokens, shorten the passages, use a "
                        "smaller base, or free memory (nvidia-smi shows who uses it). Items finished so far are kept"
                    ) from error
                full = True
            # Here the traceback is gone, and with it what it held of the cache.
            if full:
                self.batch_size = (len(batch) + 1) // 2
                torch.cuda.empty_cache()
                print(
                    f"\nmemory    {len(batch)} rows at once are too many: going on with {self.batch_size}", flush=True
                )
                batches.appendleft([place for place in batch if place not in finished])

    def _batch(
        self, batch: Sequence[int], prompts: Sequence[list[int]], keys: Sequence[str], tick: Callable[[int], None]
    ) -> Iterator[Completion]:
        """The completions of one batch, in stretches on one KV cache; the rows that have ended leave between two."""
        rows = list(batch)
        # A repetition penalty looks at the padding as well, which the mask hides from the model only. The pad token is an
        # end token here, so that padded rows would be kept from ending; the first token stands in every prompt anyway.
        filler = prompts[rows[0]][0]
        chosen = [prompts[place] for place in rows]
        shared = shared_tokens(chosen)
        ids, mask = self._padded(chosen, shared, filler)
        width = ids.shape[1]
        cache = self._read(chosen, shared, filler)
        while rows:
            written = ids.shape[1] - width
            # The first answer of every batch is shown at once; which rows leave together depends on the batch alone,
            # so that a batch that is written again comes out the same.
            most = 1 if len(rows) == len(batch) else max(1, len(rows) // LEAVING_SHARE)
            stretch = _Stretch(self.stops, most, tick)
            sampler = ItemSampler([keys[place] for place in rows], self.temperature, self.top_p, written)
            settings = copy.copy(self.settings)
            settings.max_new_tokens = self.max_new_tokens - written
            with torch.inference_mode(), quick_products(self.model):
                # The whole of ids and mask, although the cache holds all but the last token: a repetition penalty
                # looks at all of them.
                ids = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    generation_config=settings,
                    logits_processor=LogitsProcessorList([sampler] if self.do_sample else []),
                    stopping_criteria=StoppingCriteriaList([stretch]),
                )
            full = ids.shape[1] - width >= self.max_new_tokens
            going: list[int] = []
            for number, (place, row) in enumerate(zip(rows, ids[:, width:].tolist(), strict=True)):
                end = next((at for at, token in enumerate(row) if token in self.stops), None)
                if end is None and not full:
                    going.append(number)
                    continue
                new = row if end is None else row[:end]
                yield Completion(
                    position=place,
                    text=self.tokenizer.decode(new, skip_special_tokens=True),
                    finish_reason="length" if end is None else "stop",
                    prompt_tokens=len(prompts[place]),
                    completion_tokens=len(new) + (end is not None),
                )
            rows = [rows[number] for number in going]
            if rows:
                kept = torch.tensor(going, device=ids.device)
                with torch.inference_mode():
                    cache.batch_select_indices(kept)
                    ids = ids[kept]
                    mask = torch.cat([mask[kept], mask.new_ones(len(rows), ids.shape[1] - mask.shape[1])], dim=1)

    def _padded(self, prompts: Sequence[list[int]], shared: int, filler: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask of rows of one length; the padding lies behind the tokens that all of them share."""
        device, width = next(self.model.parameters()).device, max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        ids = [prompt[:shared] + [filler] * pad + prompt[shared:] for pad, prompt in zip(pads, prompts, strict=True)]
        mask = [[1] * shared + [0] * pad + [1] * (width - shared - pad) for pad in pads]
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _read(self, prompts: Sequence[list[int]], shared: int, filler: int) -> DynamicCache:
        """The KV cache of all tokens but the last of each prompt.

        What all prompts begin with is read once, the rest a few rows at a time: they are of like lengths, need little
        padding, and their activations are small.
        """
        beginning = make_cache(self.model.config)
        if shared:
            self._forward(*self._padded([prompts[0][:shared]], 0, filler), beginning)
        at_once = READ_ROWS if all(isinstance(layer, RoomyLayer) for layer in beginning.layers) else len(prompts)
        parts = []
        for start in range(0, len(prompts), at_once):
            some = [prompt[:-1] for prompt in prompts[start : start + at_once]]
            part = copy.deepcopy(beginning)
            part.batch_repeat_interleave(len(some))
            self._forward(*self._padded(some, shared, filler), part)
            parts.append(part)
        return join(parts, shared)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> None:
        """Read what the cache does not hold yet."""
        there = cache.get_seq_length()
        if there < ids.shape[1]:
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, there:]
            with torch.inference_mode():
                self.model(
                    input_ids=ids[:, there:],
                    attention_mask=mask,
                    position_ids=places,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )


def _out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch names some by their type, others in words only."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
