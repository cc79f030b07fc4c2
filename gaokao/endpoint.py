"""A client for endpoints that speak OpenAI's chat completions: retries, tokens, many requests at a time."""

import asyncio
import email.utils
import json
import os
import random
import ssl
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from gaokao.errors import UserError, first_line
from gaokao.prompts import Message

if TYPE_CHECKING:
    import openai

OPENAI_PIN = "openai==3.54.0"
TIMEOUT = 120.0
MAX_TOKENS = 2048
CONCURRENCY = 8
# Seconds before a first retry, doubled each time up to the greatest: 6 retries outlast about a minute.
RETRIES = 6
# For what a run can do without.
OPTIONAL_RETRIES = 2
BACKOFF = 1.0
GREATEST_BACKOFF = 60.0
# A longer Retry-After is a spent quota: better to stop and say so than to sleep.
GREATEST_RETRY_AFTER = 600.0
# Statuses below 500 that pass.
PASSING = (408, 409, 425, 429)
# So many failures one after the other mean that the endpoint, not an item, is at fault; each may cost money.
GIVE_UP_AFTER = 20

Item = TypeVar("Item")
Result = TypeVar("Result")


class RequestError(Exception):
    """One request failed for good; others may succeed. The text is the reason."""


class RefusedError(RequestError):
    """The endpoint will not answer this request, such as one that its moderation objects to."""


class ForbiddenError(UserError):
    """The endpoint has answered nothing yet and forbids this request: for want of a key, or for what it asks.

    Attributes:
        reason: what the endpoint says.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class MalformedError(Exception):
    """The endpoint answered, but not with what was asked for; asking again may help. The text is the reason."""


class OptionNames(NamedTuple):
    """What the caller's options are called, so that messages name what a user can change."""

    address: str = "the address"
    key: str = "the key"
    model: str = "the model"
    timeout: str = "the timeout"
    max_tokens: str = "the maximum of tokens"


IN_WORDS = OptionNames()


class Answer(NamedTuple):
    """One answer of a model, whole or not."""

    text: str
    """Empty where the reply holds none."""
    finish_reason: str | None
    """In the server's words: `stop`, `length` and others; `None` where it gives none."""
    prompt_tokens: int
    """0, as below, where the reply has no count."""
    completion_tokens: int


@dataclass
class Usage:
    """What a run asked for; tokens are those the replies report."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    replies: int = 0
    without_usage: int = 0
    retries: int = 0
    asked_again: int = 0
    """Counted by the caller, who alone knows that an answer will not do."""

    def __str__(self) -> str:
        unknown = f" ({self.without_usage} without a count)" if self.without_usage else ""
        return (
            f"{self.prompt_tokens:,} prompt + {self.completion_tokens:,} completion in {self.replies} replies"
            f"{unknown}; {self.retries} retries, {self.asked_again} answers asked for again"
        )


@dataclass
class Endpoint:
    """A model behind an address, to be used in `async with`; `answer` is one answer, `complete` the text of a whole one.

    The retries are ours and not the client's, because they are counted and reported, share one pause when the endpoint
    asks for it, and end the run at once where no retry can help.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    """Sent to the endpoint and nowhere else; empty for none."""
    timeout: float = TIMEOUT
    """Seconds for one answer, from the first byte sent to the last received."""
    max_tokens: int = MAX_TOKENS
    """Of one answer, thoughts included."""
    temperature: float | None = None
    """`None` leaves it to the endpoint."""
    retries: int = RETRIES
    """After 408, 409, 425, 429, 5xx, timeouts and broken connections, per answer."""
    backoff: float = BACKOFF
    """Seconds before the first retry, doubled each time; less a random share of up to half."""
    names: OptionNames = IN_WORDS
    usage: Usage = field(default_factory=Usage, init=False)
    answered: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set by the first chat completion: until then every trouble is that of the whole run."""
    _tokens_parameter: str = field(default="max_tokens", init=False)
    _paused_until: float = field(default=0.0, init=False)

    async def __aenter__(self) -> Self:
        """Open the client.

        Raises:
            UserError: it is not installed, or cannot use the proxy of the environment.
        """
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Omit
        except ImportError:
            raise UserError(
                "the openai client is not installed, or too old; it is needed only here: pip install " + OPENAI_PIN
            ) from None
        here = is_this_machine(self.base_url)
        try:
            http_client = DefaultAsyncHttpxClient(
                # A redirect would carry what is asked to a host that nobody named.
                follow_redirects=False,
                # The client sends even what is meant for this machine to a proxy of the environment. The environment's
                # certificates are what the default context takes.
                **({"trust_env": False, "verify": ssl.create_default_context()} if here else {}),
            )
        except Exception as error:  # noqa: BLE001 - the client has kinds of its own for an address that it cannot use
            raise UserError(
                f"{self.base_url}: the proxy of the environment (ALL_PROXY, HTTPS_PROXY) cannot be used ({first_line(error)}); "
                f"pip install socksio makes socks5://HOST:PORT known, NO_PROXY={urlsplit(self.base_url).hostname} goes past it"
            ) from None
        # A placeholder key keeps the client from taking one from the environment that was meant for another endpoint.
        self._client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key or "none",
            max_retries=0,
            # One bound for the whole answer stands in `answer`: the client's own counts anew with each byte received.
            timeout=None,
            http_client=http_client,
        )
        self._headers: dict[str, str | Omit] = {} if self.api_key else {"Authorization": Omit()}
        if not f".{urlsplit(self.base_url).hostname}".endswith(".openai.com"):
            # The client takes these from OPENAI_ORG_ID and OPENAI_PROJECT_ID and would tell them to anyone.
            self._headers |= {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def complete(self, messages: list[Message]) -> str:
        """The text of one answer.

        Raises:
            UserError: the run must stop, for the reason in the text.
            RequestError: this request was refused, or failed after all retries.
            MalformedError: the reply holds no text, or only the beginning of one.
        """
        answer = await self.answer(messages)
        if answer.finish_reason == "length":
            raise MalformedError(f"the answer was cut off at {self.names.max_tokens} {self.max_tokens}; raise it")
        if not answer.text.strip():
            raise MalformedError(f"the answer holds no text (finish_reason {self._shown(str(answer.finish_reason))})")
        return answer.text

    async def answer(self, messages: list[Message], max_tokens: int | None = None, **fields: Any) -> Answer:
        """One answer, which may be empty or cut off.

        Args:
            messages: the chat so far.
            max_tokens: of this answer; otherwise those of all.
            fields: more of the request's body, such as `seed` or `top_p`, whether the client knows them or not.

        Raises:
            UserError: the run must stop, for the reason in the text.
            RequestError: this request was refused, or failed after all retries.
            MalformedError: the reply is not a chat completion.
        """
        return self._answer_of(await self._try(lambda: self._send(messages, max_tokens or self.max_tokens, fields)))

    async def models(self) -> dict[str, str]:
        """What the server offers: name of the model -> who offers it; empty where it does not say.

        Raises:
            UserError: the server cannot be reached, or refuses the key.
        """

        async def send() -> str:
            reply = await self._client.models.with_raw_response.list(extra_headers=self._headers)
            return str(reply.http_response.text)

        # Not every server has the list; other trouble than these two comes back with the first answer.
        with suppress(RequestError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            rows = json.loads(await self._try(send, optional=True))["data"]
            return {self._shown(row["id"]): str(row.get("owned_by")) for row in rows}
        return {}

    async def _try(self, send: Callable[[], Awaitable[str]], optional: bool = False) -> str:
        """The body of the reply, after as many retries as it takes; what is `optional` may be refused from the start."""
        import openai

        retry = 0
        retries = min(self.retries, OPTIONAL_RETRIES) if optional else self.retries
        while True:
            await self._pause()
            delay = 0.0
            try:
                async with asyncio.timeout(self.timeout):
                    return await send()
            except TimeoutError:
                problem = f"no answer within {self.timeout:g} s ({self.names.timeout})"
            except openai.APIStatusError as error:
                problem = f"HTTP {error.status_code}: {self._shown(_message_of(error))}"
                if optional and error.status_code not in (401, *PASSING) and error.status_code < 500:
                    raise RequestError(problem) from None
                self._check_status(error, problem)
                delay = retry_after(error.response.headers)
            except openai.APIConnectionError as error:
                problem = self._shown(f"{error.message} {error.__cause__ or ''}")
                if not self.answered.is_set():
                    raise UserError(
                        f"{self.base_url}: cannot be reached ({problem}); is the server running, and "
                        f"{self.names.address} right?{self._proxy()}"
                    ) from None
            if retry == retries:
                problem = f"{problem}, {retry} retries in vain"
                if not self.answered.is_set() and not optional:
                    raise UserError(
                        f"{self.base_url}: {problem}; check {self.names.model}, or try later{self._proxy()}"
                    )
                raise RequestError(problem)
            await self._back_off(retry, retries, delay, problem)
            retry += 1

    async def _send(self, messages: list[Message], max_tokens: int, fields: dict[str, Any]) -> str:
        import openai

        parameter = self._tokens_parameter
        options: dict[str, Any] = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            # The raw body, because the client builds its objects without checking them: any JSON would pass for a reply.
            reply = await self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=messages,
                extra_headers=self._headers,
                extra_body={parameter: max_tokens, **fields},
                **options,
            )
        except openai.BadRequestError as error:
            if parameter != "max_tokens" or "max_completion_tokens" not in _message_of(error):
                raise
            self._tokens_parameter = "max_completion_tokens"
            return await self._send(messages, max_tokens, fields)
        return str(reply.http_response.text)

    def _answer_of(self, body: str) -> Answer:
        try:
            reply = json.loads(body)
            choice = reply["choices"][0]
            text, reason = choice["message"].get("content"), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise MalformedError(f"the reply is not a chat completion: {self._shown(body) or 'empty'}") from None
        self.answered.set()
        # JSON may hold half of a surrogate pair, which no file can.
        text = text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""
        return Answer(text, reason if isinstance(reason, str) else None, *self._count(reply.get("usage")))

    def _count(self, usage: Any) -> tuple[int, int]:
        self.usage.replies += 1
        counts = usage if isinstance(usage, dict) else {}
        prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            self.usage.prompt_tokens += prompt
            self.usage.completion_tokens += completion
            return prompt, completion
        self.usage.without_usage += 1
        return 0, 0

    def _proxy(self) -> str:
        """The end of a message, where a proxy of the environment stands between: the trouble may be its own."""
        parts, proxies = urlsplit(self.base_url), urllib.request.getproxies()
        host = parts.hostname or ""
        if is_this_machine(self.base_url) or urllib.request.proxy_bypass(host):
            return ""
        if not (proxies.get(parts.scheme) or proxies.get("all")):
            return ""
        return f" It was asked through the proxy of the environment; NO_PROXY={host} goes past it"

    def _check_status(self, error: "openai.APIStatusError", problem: str) -> None:
        """Raise where trying the same request again is of no use: for the run, or for this request."""
        status, early, names = error.status_code, not self.answered.is_set(), self.names
        # Later on, 403 and 404 are also said of single requests: by moderation, or by a router without a host for them.
        if status == 401 or (status == 403 and early):
            refused = "the key" if self.api_key else "a request without a key"
            text = f"{self.base_url}: refuses {refused} ({problem}); set a valid one ({names.key})"
            raise (UserError(text) if status == 401 else ForbiddenError(text, problem)) from None
        if status == 404 and early:
            raise UserError(
                f"{self.base_url}: does not know {names.model} {self._shown(self.model)}, or is not the address of the API "
                f"({problem}); {names.address} usually ends in /v1"
            ) from None
        if status == 402 or error.code == "insufficient_quota":
            raise UserError(f"{self.base_url}: the account has no credit left ({problem})") from None
        if 300 <= status < 400:
            target = self._shown(error.response.headers.get("location", "elsewhere"))
            raise UserError(
                f"{self.base_url}: redirects to {target}, which is not followed; correct {names.address}"
            ) from None
        if status not in PASSING and status < 500:
            # A router that has no host for a model right now says 404.
            raise (RequestError if status == 404 else RefusedError)(problem) from None

    async def _pause(self) -> None:
        """Wait as long as the endpoint has asked all of us to."""
        clock = asyncio.get_running_loop().time
        while (rest := self._paused_until - clock()) > 0:
            # Spread out, so that not all waiting requests come back in the same moment.
            await asyncio.sleep(rest + random.uniform(0, self.backoff))

    async def _back_off(self, retry: int, retries: int, asked: float, problem: str) -> None:
        self.usage.retries += 1
        if not self.answered.is_set():
            # The progress bar stands still until the first answer: say why.
            print(f"\n{self.base_url}: {problem}; retry {retry + 1} of {retries}", file=sys.stderr)
        if not asked:
            await asyncio.sleep(min(self.backoff * 2**retry, GREATEST_BACKOFF) * random.uniform(0.5, 1.0))
            return
        if asked > GREATEST_RETRY_AFTER:
            raise UserError(f"{self.base_url}: asks to wait {asked:.0f} s ({problem}); run the same command again then")
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + asked)

    def _shown(self, text: str, limit: int = 200) -> str:
        """A text of the server as it may be printed: one line, short, without the key, without control characters."""
        if self.api_key:
            text = text.replace(self.api_key, "***")
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return text if len(text) <= limit else text[:limit] + "…"


async def ask_all(
    endpoint: Endpoint,
    items: Mapping[str, Item],
    ask: Callable[[Item], Awaitable[Result]],
    keep: Callable[[str, Result], None],
    *,
    unit: str,
    concurrency: int = CONCURRENCY,
    give_up_after: int = GIVE_UP_AFTER,
    bar: bool = True,
) -> dict[str, str]:
    """Ask about many items at a time and hand each result, by its key, to `keep` as it comes, with a progress bar.

    The first item is asked about alone, so that a wrong key or model costs one request. A `RequestError` fails its item
    only, but `give_up_after` of them one after the other stop the run.

    Returns:
        Key -> reason, for the items that failed.

    Raises:
        UserError: the run had to stop.
    """
    failed: dict[str, str] = {}
    in_a_row = 0
    queue = iter(items.items())

    async def work(first: bool) -> None:
        nonlocal in_a_row
        if not first:
            await endpoint.answered.wait()
        for key, item in queue:
            try:
                result = await ask(item)
            except RequestError as reason:
                failed[key] = str(reason)
                in_a_row += 1
                if in_a_row >= give_up_after:
                    raise UserError(
                        f"{endpoint.base_url}: {in_a_row} {unit}s failed one after the other, the last with: {reason}"
                    ) from None
            else:
                in_a_row = 0
                keep(key, result)
            progress.set_postfix_str(f"{len(failed)} failed" if failed else "", refresh=False)
            progress.update()
        # The first worker ends here without an answer only if all items were refused: let the others end, too.
        endpoint.answered.set()

    async with endpoint:
        with tqdm(total=len(items), unit=unit, disable=not bar) as progress:
            tasks = [asyncio.create_task(work(number == 0)) for number in range(min(concurrency, len(items)))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    return failed


def _message_of(error: "openai.APIStatusError") -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.response.text)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a reply asks to wait (`Retry-After` as seconds or date, `retry-after-ms`); 0 where it does not."""
    seconds = 0.0
    with suppress(KeyError, ValueError):
        seconds = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    with suppress(KeyError, ValueError):
        seconds = float(headers["retry-after"])
    with suppress(KeyError, ValueError):
        seconds = float(headers["retry-after-ms"]) / 1000
    # What is no number is not above 0 either.
    return seconds if seconds > 0 else 0.0


def is_this_machine(url: str) -> bool:
    """Whether an address is one of the machine that asks: localhost, 127.0.0.1, ::1 and the like."""
    host = (urlsplit(url).hostname or "").removesuffix(".")
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def check_url(url: str, names: OptionNames = IN_WORDS) -> str:
    """The address of the API without a slash at its end.

    Raises:
        UserError: it is not one, or holds a key, which would end up in messages.
    """
    if "@" in url or "?" in url:
        raise UserError(f"{names.address}: must hold no user, password or ?query; give the key apart ({names.key})")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        sound = sound and all(letter.isprintable() and letter != " " for letter in url)
    except ValueError:
        sound = False
    if not sound:
        raise UserError(f"{names.address} {url}: is not an address; write it like http://127.0.0.1:8000/v1")
    if parts.path.rstrip("/").endswith("/completions"):
        raise UserError(f"{names.address} {url}: leave out /chat/completions, the client adds it")
    return url.rstrip("/")


def read_key(variable: str | None, names: OptionNames = IN_WORDS) -> str:
    """The key from an environment variable, `None` for OPENAI_API_KEY, which need not be set. It is in no message.

    Raises:
        UserError: the named variable is not set, or what it holds cannot be a key.
    """
    key = os.environ.get(variable or "OPENAI_API_KEY", "").strip()
    # Whoever gives the key itself instead of a name must not see it printed: the name is not repeated either.
    if variable is not None and not key:
        raise UserError(
            f"{names.key}: no environment variable of this name is set; it takes the NAME of one that holds the key"
        )
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(
            "the environment variable with the key holds spaces or other characters no key has; set it again"
        )
    return key
