"""The engine `openai`: any server that speaks OpenAI's chat completions writes, such as vLLM or SGLang; no torch is needed."""

import asyncio
import re
import signal
import sys
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, TypeVar

from gaokao.config import OPENAI, EvaluateConfig, GenerateConfig
from gaokao.endpoint import (
    BACKOFF,
    MAX_TOKENS,
    RETRIES,
    Answer,
    Endpoint,
    ForbiddenError,
    MalformedError,
    OptionNames,
    RefusedError,
    RequestError,
    Usage,
    ask_all,
    check_url,
    read_key,
)
from gaokao.errors import Errors, UserError
from gaokao.prompts import prepare_input
from gaokao.records import Record
from gaokao.runs import several_processes
from gaokao.writing import Completion, Job, Round

OPTIONS = OptionNames(
    address="generate.base_url",
    key="generate.api_key_env",
    model="generate.served_model",
    timeout="lower generate.concurrency",
    max_tokens="generate.max_new_tokens",
)
EVALUATE_OPTIONS = OptionNames(
    address="evaluate.base_url",
    key="evaluate.api_key_env",
    model="evaluate.served_model",
    timeout="lower evaluate.concurrency",
)
# Seconds for one draft. A busy server on a CPU takes minutes for a long one, and whoever gives up too early asks anew.
TIMEOUT = 900.0
# Requests for one draft while the replies are no chat completions.
ASKS = 3
# These take every sampling parameter, and where one is not given, what the model's makers recommend: Qwen's would add
# top_k 20 and a repetition penalty of 1.05 to what the user has set (vLLM reads generation_config.json).
KNOWN_SERVERS = ("vllm", "sglang")
NAMES_SHOWN = 20
# The finish reason of a draft that the server would not write.
REFUSED = "refused"
# Nobody objects to it: a server that refuses this as well refuses the run and not a question.
GREETING, GREETING_TOKENS = Job(-1, 1, "0", [{"role": "user", "content": "你好"}]), 16
# As vLLM and OpenAI, llama.cpp, DashScope and others put it.
_TOO_LONG = re.compile(r"context.(?:length|size|window)|input length|prompt is too long|exceed_context", re.IGNORECASE)

Result = TypeVar("Result")


@dataclass
class Served:
    """A model behind an address as an engine; one object for all rounds of a run."""

    base_url: str
    model: str
    """As the server calls it: a base, or an adapter that it serves."""
    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_p: float
    repetition_penalty: float
    concurrency: int
    """Maximum of requests at a time."""
    api_key: str = field(default="", repr=False)
    names: OptionNames = OPTIONS
    unit: str = "record"
    """What a job is about, for messages."""
    timeout: float = TIMEOUT
    retries: int = RETRIES
    backoff: float = BACKOFF
    """Seconds before the first retry."""
    name: str = field(init=False)
    """What the results call it."""
    answered_by: str = field(init=False)
    process: int = field(default=0, init=False)
    processes: int = field(default=1, init=False)
    thinks: bool = field(default=True, init=False)
    """There is room for thoughts before an answer."""
    usage: Usage = field(default_factory=Usage, init=False)
    """Of all rounds together."""
    _sampling: dict[str, Any] | None = field(default=None, init=False)
    _takes_seed: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.name = self.answered_by = f"{self.model} at {self.base_url}"

    def meet(self) -> None:
        """There is one process: the server is what runs many at a time."""

    def inputs(self) -> dict[str, Any]:
        """Model and sampling; not the address, which may change when a server is started again."""
        sampling = ("max_new_tokens", "do_sample", "temperature", "top_p", "repetition_penalty")
        return {
            "generate.engine": OPENAI,
            "generate.served_model": self.model,
            **{f"generate.{name}": getattr(self, name) for name in sampling},
        }

    def prompts(self, records: Sequence[Record]) -> list[str]:
        """The messages of each record as a text; their tokens only the server knows."""
        return ["\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prepare_input(one)) for one in records]

    def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the server for its models, so that a wrong address, key or name is found before anything else is done.

        Raises:
            UserError: the server cannot be reached, refuses the key, or has no such model: the text says which it has.
        """
        _run(self._ask_server())
        print(f"server    {self.base_url}, model {self.model}; {self.concurrency} requests at a time")
        return {}

    def write(self, work: Round) -> None:
        """Have a draft written for every missing job.

        What the server refuses to write, although it answers a greeting, is kept as an empty draft: it would refuse it
        again, and the run would never end.

        Raises:
            UserError: the run had to stop, or some requests failed after all retries; what was kept stays kept.
            KeyboardInterrupt: Ctrl-C, or SIGTERM where it is taken as such; the same.
        """
        failed = self.answer(work)
        if not failed:
            return
        records: dict[str, list[int]] = {}
        for position, reason in failed.items():
            records.setdefault(reason, []).append(position + 1)
        errors = Errors[str]()
        for reason, numbers in records.items():
            some = ", ".join(map(str, sorted(numbers)[:NAMES_SHOWN])) + (" …" if len(numbers) > NAMES_SHOWN else "")
            errors.add(f"record {some}: {reason}")
        raise UserError(
            errors.text(
                f"{self.base_url}: {len(failed)} of {len(work.missing)} questions failed; the others are kept, and the "
                "same command goes on with those that are missing:"
            )
        )

    def identity(self) -> dict[str, Any]:
        """What its answers depend on beside the messages; not the address."""
        return {"served_model": self.model, "max_tokens": self.max_new_tokens}

    def answer(self, work: Round) -> dict[int, str]:
        """`write`, except that single failures are not raised.

        Returns:
            Position -> reason, for the jobs whose requests failed for good.

        Raises:
            UserError: the run had to stop; what was kept stays kept.
        """
        return _run(self._write(work)) if work.missing else {}

    async def offers(self) -> str:
        """The models of the server, in words."""
        async with self._endpoint() as endpoint:
            offered = await endpoint.models()
        return f"the server has: {_few(offered, '')}" if offered else "the server does not say which it has"

    async def _ask_server(self) -> dict[str, Any]:
        """The sampling parameters to send to this server; it is asked for its models once."""
        if self._sampling is None:
            async with self._endpoint() as endpoint:
                offered = await endpoint.models()
            # What follows a colon is a variant or an adapter (`base:adapter`), which not every server lists.
            if offered and self.model.partition(":")[0] not in {name.partition(":")[0] for name in offered}:
                raise UserError(
                    f"{self.base_url}: has no model {self.model} ({self.names.model}); it has: {_few(offered, self.model)}"
                )
            self._sampling = self._parameters(offered.get(self.model) or next(iter(offered.values()), ""))
        return self._sampling

    def _parameters(self, server: str) -> dict[str, Any]:
        sampling: dict[str, Any] = {"top_p": self.top_p} if self.do_sample else {}
        known = server in KNOWN_SERVERS
        if known or self.repetition_penalty != 1.0:
            sampling["repetition_penalty"] = self.repetition_penalty
        if known and self.do_sample:
            sampling |= {"top_k": -1, "min_p": 0.0}
        return sampling

    def _endpoint(self) -> Endpoint:
        endpoint = Endpoint(
            self.base_url,
            self.model,
            api_key=self.api_key,
            timeout=self.timeout,
            max_tokens=self.max_new_tokens,
            temperature=self.temperature if self.do_sample else 0.0,
            retries=self.retries,
            backoff=self.backoff,
            names=self.names,
        )
        endpoint.usage = self.usage
        if self.usage.replies:
            # An earlier round has shown that address, key and model are right.
            endpoint.answered.set()
        return endpoint

    async def _write(self, work: Round) -> dict[int, str]:
        sampling = await self._ask_server()
        endpoint, jobs = self._endpoint(), work.missing

        async def ask(number: int) -> Completion:
            job = jobs[number]
            try:
                return _completion(job, await self._ask(endpoint, job, sampling))
            except (RefusedError, ForbiddenError) as refusal:
                await self._greet(endpoint, sampling)
                reason = refusal.reason if isinstance(refusal, ForbiddenError) else refusal
                print(
                    f"\nrefused   {self.unit} {job.position + 1}: {reason}; it is kept without a text", file=sys.stderr
                )
                return Completion(job.position, "", REFUSED, 0, 0)

        def finished(_: str, done: Completion) -> None:
            work.tick(done.completion_tokens)
            work.keep(done)

        items = {str(number): number for number in range(len(jobs))}
        failed = await ask_all(endpoint, items, ask, finished, unit="question", concurrency=self.concurrency, bar=False)
        return {jobs[int(key)].position: reason for key, reason in failed.items()}

    async def _greet(self, endpoint: Endpoint, sampling: dict[str, Any]) -> None:
        """Ask for a greeting, to tell whether the server refuses one question or the whole run.

        Raises:
            UserError: it refuses the greeting as well.
            RequestError: no answer could be used.
        """
        try:
            await self._ask(endpoint, GREETING, sampling, GREETING_TOKENS)
        except RefusedError as refusal:
            raise UserError(
                f"{self.base_url}: refuses whatever it is asked, a greeting too ({refusal}); check the account behind the "
                f"key ({self.names.key}) and {self.names.model}. What is written is kept, and the same command goes on"
            ) from None

    async def _ask(
        self, endpoint: Endpoint, job: Job, sampling: dict[str, Any], max_tokens: int | None = None
    ) -> Answer:
        """The answer to one job, of `max_tokens` where they are fewer than usual.

        Raises:
            UserError: the run must stop.
            RequestError: no answer could be used.
        """
        reason = ""
        for ask in range(ASKS):
            self.usage.asked_again += ask > 0
            seed = {"seed": seed_of(job.key)} if self._takes_seed and self.do_sample else {}
            try:
                return await endpoint.answer(job.messages, max_tokens, **sampling, **seed)
            except MalformedError as problem:
                reason = str(problem)
            except RequestError as refusal:
                reason = str(refusal)
                if "repetition_penalty" in reason and "repetition_penalty" in sampling:
                    raise UserError(
                        f"{self.base_url}: takes no repetition penalty ({reason}); set generate.repetition_penalty to 1.0"
                    ) from None
                if _TOO_LONG.search(reason):
                    raise RequestError(
                        f"{reason} (let the server hold more: vllm serve --max-model-len; shorter passages or a lower "
                        f"{self.names.max_tokens} are other inputs, with which a run begins anew)"
                    ) from None
                if not seed or not re.search(r"\bseed\b", reason):
                    raise
                if self._takes_seed:
                    print(f"{self.base_url}: takes no seed, so that a second run gives other texts", file=sys.stderr)
                self._takes_seed = False
        if not endpoint.answered.is_set():
            raise UserError(f"{self.base_url}: {reason}; {self.names.address} usually ends in /v1")
        raise RequestError(f"{reason} ({ASKS} answers)")


def connect(options: GenerateConfig) -> Served:
    """The engine that the section generate describes. The server is asked only where the model is not named.

    Raises:
        UserError: address, model or key are missing or cannot be right.
    """
    if several_processes():
        raise UserError(
            f"several processes were started, and the engine {OPENAI} takes one: start it with python. The server is what "
            "uses several GPUs; generate.concurrency says how many requests it gets at a time"
        )
    if options.base_url is None:
        raise UserError(f"{OPTIONS.address}: the engine {OPENAI} needs it; write it like http://127.0.0.1:8000/v1")
    served = Served(
        check_url(options.base_url, OPTIONS),
        options.served_model or "",
        options.max_new_tokens,
        options.do_sample,
        options.temperature,
        options.top_p,
        options.repetition_penalty,
        options.concurrency,
        read_key(options.api_key_env, OPTIONS),
    )
    if not served.model:
        raise UserError(f"{OPTIONS.model}: name the model that is to write; {_run(served.offers())}")
    return served


def evaluator(options: EvaluateConfig) -> Served:
    """The server that solves and judges, as the section evaluate describes it: greedy, with room for thoughts.

    Raises:
        UserError: address, model or key are missing or cannot be right.
    """
    names = EVALUATE_OPTIONS
    if options.base_url is None:
        raise UserError(f"{names.address}: is missing; write it like http://127.0.0.1:8000/v1")
    served = Served(
        check_url(options.base_url, names),
        options.served_model or "",
        MAX_TOKENS,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
        concurrency=options.concurrency,
        api_key=read_key(options.api_key_env, names),
        names=names,
        unit="request",
    )
    if not served.model:
        raise UserError(f"{names.model}: name the model that is to solve and judge; {_run(served.offers())}")
    return served


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which a SIGTERM that is taken as Ctrl-C stops in order, as asyncio does with Ctrl-C.

    A handler that raises would do so in the midst of the loop, which then tells of a task that nobody has waited for.
    """
    taken_as_interrupt = signal.getsignal(signal.SIGTERM) is signal.default_int_handler

    async def main() -> Result:
        task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()

        def stop(number: int, frame: object) -> None:
            loop.call_soon_threadsafe(task.cancel)

        if taken_as_interrupt:
            signal.signal(signal.SIGTERM, stop)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        if taken_as_interrupt:
            signal.signal(signal.SIGTERM, signal.default_int_handler)


def seed_of(key: str) -> int:
    """A seed as servers take it, below 2**31, from a hex digest."""
    return int(key, 16) % 2**31


def _few(names: Collection[str], like: str) -> str:
    """Names for a message, those that resemble `like` first."""
    ordered = sorted(names, key=lambda name: -SequenceMatcher(None, name, like).ratio())
    return ", ".join(ordered[:NAMES_SHOWN]) + (" …" if len(names) > NAMES_SHOWN else "")


def _completion(job: Job, answer: Answer) -> Completion:
    """What the answer to a job holds; servers that give no reason for the end have ended by themselves."""
    return Completion(
        position=job.position,
        text=answer.text,
        finish_reason=answer.finish_reason or "stop",
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
    )
