"""The client asks again where that helps, stops where it does not, counts what it costs, and tells the key to nobody else.

Against a real HTTP server on loopback whose faults are scripted.

    pip install openai==3.54.0
    python -m pytest tests/test_endpoint.py
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import openai
import pytest
from chat_server import (
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    Reply,
    Server,
    completion,
    cut_off,
    free_port,
    listing,
    running_server,
)

from gaokao.endpoint import (
    MAX_TOKENS,
    OPENAI_PIN,
    Answer,
    Endpoint,
    MalformedError,
    OptionNames,
    ask_all,
    check_url,
    is_this_machine,
    read_key,
    retry_after,
)
from gaokao.errors import UserError

pytestmark = pytest.mark.usefixtures("plain_environment")

KEY = "sk-test-5ECRET-0123456789"
NAMES = OptionNames("--url", "--key", "--judge", "--wait", "--length")


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


class Run:
    """A few questions to a server: answers and failures by number."""

    def __init__(self, server: Server, count: int = 6, **options: Any) -> None:
        limits = {name: options.pop(name) for name in ("concurrency", "give_up_after", "bar") if name in options}
        settings = {"base_url": server.url, "model": "m", "api_key": KEY, "backoff": 0.01, "timeout": 5.0, **options}
        self.endpoint = Endpoint(**settings)
        self.answers: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.items = {str(number): f"第{number}题" for number in range(count)}
        self.limits = limits

    def start(self) -> "Run":
        work = ask_all(self.endpoint, self.items, self.ask, self.answers.__setitem__, unit="item", **self.limits)
        # So that what never ends fails here.
        self.failed = asyncio.run(asyncio.wait_for(work, 30))
        return self

    async def ask(self, item: str) -> str:
        return await self.endpoint.complete([{"role": "user", "content": item}])


def run(server: Server, count: int = 6, **options: Any) -> Run:
    return Run(server, count, **options).start()


# --- a run without faults -------------------------------------------------------------------------------------------


def test_each_item_is_asked_once_and_its_answer_is_kept_under_its_key(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion(f"答{seen.topic}"))
    done = run(server, temperature=0.5, max_tokens=77)
    assert done.answers == {str(number): f"答{number}" for number in range(6)} and done.failed == {}
    assert sorted(server.topics) == sorted(done.items)
    seen = server.seen[0]
    assert seen.path == "/v1/chat/completions"
    assert {**seen.body, "messages": 0} == {"model": "m", "messages": 0, "max_tokens": 77, "temperature": 0.5}
    assert str(done.endpoint.usage) == "600 prompt + 180 completion in 6 replies; 0 retries, 0 answers asked for again"


def test_the_first_item_is_asked_about_alone_and_no_more_than_concurrency_at_a_time(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion("好"), delay=0.1)
    run(server, 13, concurrency=4)
    assert server.most == 4
    first, second = server.seen[:2]
    assert second.at - first.at >= 0.1


# --- what is tried again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Reply(429, {"error": {"message": "slow down"}}),
        Reply(425, {}),
        Reply(409, {}),
        Reply(408, {}),
        Reply(500, "<html>oops</html>"),
        Reply(503, {"detail": "loading"}),
        Reply(delay=2.5, body=completion("晚")),
        Reply(dribble=2.5, body=completion("晚")),
    ],
    ids=["429", "425", "409", "408", "500", "503", "hangs", "dribbles"],
)
@pytest.mark.parametrize("place", ["first", "later"])
def test_passing_faults_are_tried_again(fault: Reply, place: str, server: Server) -> None:
    good = Reply(body=completion("好"))
    server.faults = [fault, fault] if place == "first" else [good, fault, good, fault]
    # Long enough for a good answer on a busy machine.
    done = run(server, timeout=1.0 if fault.delay or fault.dribble else 30.0)
    assert set(done.answers.values()) == {"好"} and len(done.answers) == 6
    usage = done.endpoint.usage
    assert (usage.retries, usage.prompt_tokens, usage.completion_tokens, len(server.seen)) == (2, 600, 180, 8)


@pytest.mark.parametrize(
    "fault", [Reply(hang_up=True), Reply(body=completion("半"), half=True)], ids=["hangs up", "half"]
)
def test_a_connection_that_breaks_later_is_tried_again(fault: Reply, server: Server) -> None:
    good = Reply(body=completion("好"))
    server.faults = [good, fault, good]
    done = run(server, concurrency=1)
    assert done.endpoint.usage.retries == 1 and set(done.answers.values()) == {"好"}
    assert len(server.seen) == 7


def test_retry_after_is_waited_for_by_all(server: Server) -> None:
    good = completion("好")
    server.faults = [Reply(body=good), Reply(429, {}, headers={"Retry-After": "0.6"}), Reply(body=good, delay=0.2)]
    run(server, concurrency=2)
    refused = server.seen[1].at
    assert len(server.seen) == 7
    assert all(seen.at - refused >= 0.55 for seen in server.seen[3:])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "-2"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ],
)
def test_retry_after_is_read_as_seconds(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_is_read_as_a_date() -> None:
    headers = {"retry-after": formatdate(time.time() + 1000, usegmt=True)}
    assert retry_after(headers) == pytest.approx(1000, abs=30)


def test_an_item_that_fails_after_all_retries_is_the_only_one_missing(server: Server) -> None:
    server.respond = lambda seen: Reply(500, "boom") if seen.topic == "3" else Reply(body=completion("好"))
    done = run(server, retries=2)
    assert done.failed == {"3": "HTTP 500: boom, 2 retries in vain"} and len(done.answers) == 5
    assert server.topics.count("3") == 3 and len(server.seen) == 8


def test_models_that_want_max_completion_tokens_get_it(server: Server) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.respond = lambda seen: (
        Reply(400, {"error": {"message": message}}) if "max_tokens" in seen.body else Reply(body=completion("好"))
    )
    assert len(run(server).answers) == 6
    assert len(server.seen) == 7 and server.seen[-1].body["max_completion_tokens"] == MAX_TOKENS


# --- more than a text -----------------------------------------------------------------------------------------------


def answer(server: Server, **fields: Any) -> Answer:
    async def ask() -> Answer:
        async with Run(server).endpoint as endpoint:
            return await endpoint.answer([{"role": "user", "content": "第1题"}], **fields)

    return asyncio.run(ask())


def test_an_answer_says_how_it_ended_and_what_it_cost_and_may_be_cut_off_or_empty(server: Server) -> None:
    paid = (PROMPT_TOKENS, COMPLETION_TOKENS)
    server.faults = [
        Reply(body=completion("好")),
        Reply(body=cut_off("好")),
        Reply(body=completion(None)),
        Reply(body=completion("好", choices=[{"message": {}}])),
        Reply(body=completion("好", usage={"prompt_tokens": 7})),
    ]
    assert answer(server) == ("好", "stop", *paid)
    assert answer(server) == ("好", "length", *paid)
    assert answer(server) == ("", "stop", *paid)
    assert answer(server) == ("", None, *paid)
    assert answer(server) == ("好", "stop", 0, 0)


def test_fields_of_one_request_stand_in_its_body_also_those_that_the_client_does_not_know(server: Server) -> None:
    answer(server, seed=7, repetition_penalty=1.1)
    body = server.seen[0].body
    assert (body["seed"], body["repetition_penalty"], body["max_tokens"]) == (7, 1.1, MAX_TOKENS)


def test_fields_are_sent_again_when_the_model_wants_max_completion_tokens(server: Server) -> None:
    server.faults = [Reply(400, {"error": {"message": "Use 'max_completion_tokens' instead."}})]
    answer(server, seed=7)
    assert [seen.body["seed"] for seen in server.seen] == [7, 7]


def models(server: Server, **options: Any) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        async with Run(server, **options).endpoint as endpoint:
            return await endpoint.models()

    return asyncio.run(ask())


def test_the_models_of_a_server_come_with_who_offers_them(server: Server) -> None:
    server.models = [listing("base", "gaokao")]
    assert models(server) == {"base": "vllm", "gaokao": "vllm"}
    assert server.models_asked[0]["authorization"] == f"Bearer {KEY}"


NO_LIST = {
    "no route": Reply(404, {"detail": "Not Found"}),
    "not allowed": Reply(403, {"error": {"message": "missing scope"}}),
    "no method": Reply(405, ""),
    "redirect": Reply(307, "", headers={"Location": "http://127.0.0.1:9/v1/models"}),
    "not JSON": Reply(body="<html>welcome</html>"),
    "brackets": Reply(body="[" * 100_000),
    "no data": Reply(body={"models": []}),
    "names of another kind": Reply(body={"data": ["base"]}),
    "null": Reply(body={"data": None}),
    "a number for a name": Reply(body={"data": [{"id": 3}]}),
    "always 500": Reply(500, "boom"),
}


@pytest.mark.parametrize("reply", NO_LIST.values(), ids=NO_LIST)
def test_a_server_that_does_not_list_its_models_has_none_and_can_be_asked_all_the_same(
    reply: Reply, server: Server
) -> None:
    server.models = [reply]
    assert models(server) == {} and not server.seen
    assert len(server.models_asked) == (3 if reply.status == 500 else 1)


def test_passing_trouble_does_not_hide_the_list(server: Server) -> None:
    server.models = [Reply(503, "loading"), Reply(429, {}), listing("base")]
    assert models(server) == {"base": "vllm"}


def test_a_refused_key_and_a_server_that_is_down_are_said_when_the_models_are_asked_for(server: Server) -> None:
    server.models = [Reply(401, {"error": {"message": f"bad {KEY}"}})]
    with pytest.raises(UserError, match=r"refuses the key \(HTTP 401: bad \*\*\*\); .*--key"):
        models(server, names=NAMES)
    with pytest.raises(UserError, match="cannot be reached"):
        models(server, base_url=f"http://127.0.0.1:{free_port()}/v1", names=NAMES)


def test_the_progress_bar_can_be_left_out(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run(server, 2, bar=False)
    assert capsys.readouterr().err == ""
    run(server, 2)
    assert "2/2" in capsys.readouterr().err


# --- replies of another kind ----------------------------------------------------------------------------------------

MALFORMED = {
    "broken JSON": '{"choices": [{"message": {"content": "课本',
    "not JSON": "<html>welcome</html>",
    "brackets": "[" * 100_000,
    "objects": '{"choices":' * 50_000,
    "digits": "9" * 5_000,
    "another shape": {"error": {"message": "upstream"}},
    "no choices": completion(None, choices=[]),
    "choices null": completion(None, choices=None),
    "no content": completion(None),
    "empty content": completion("  "),
    "cut off": cut_off("好"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_reply_without_a_whole_text_is_malformed_and_counted_where_it_was_paid_for(body: Any, server: Server) -> None:
    server.respond = lambda seen: Reply(body=body)
    asked = Run(server, names=NAMES)

    async def ask() -> None:
        async with asked.endpoint:
            await asked.ask("第1题")

    with pytest.raises(MalformedError) as caught:
        asyncio.run(ask())
    assert len(str(caught.value)) < 300 and len(server.seen) == 1
    paid = isinstance(body, dict) and bool(body.get("choices"))
    assert asked.endpoint.usage.prompt_tokens == paid * PROMPT_TOKENS and asked.endpoint.answered.is_set() is paid
    if body is MALFORMED["cut off"]:
        assert str(caught.value) == "the answer was cut off at --length 2048; raise it"


def test_half_a_surrogate_pair_in_an_answer_does_no_harm(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion("好\ud83d"))
    assert run(server, 1).answers == {"0": "好?"}


def test_a_reply_without_usage_is_counted_as_such(server: Server) -> None:
    server.faults = [Reply(body=completion("好", usage=None))]
    usage = run(server).endpoint.usage
    assert (usage.replies, usage.without_usage, usage.prompt_tokens) == (6, 1, 500)
    assert "(1 without a count)" in str(usage)


# --- what is not tried again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_request_that_is_refused_later_fails_its_item_only_and_is_not_repeated(status: int, server: Server) -> None:
    server.respond = lambda seen: (
        Reply(status, {"error": {"message": "risk"}}) if seen.topic in "45" else Reply(body=completion("好"))
    )
    done = run(server)
    assert done.failed == {"4": f"HTTP {status}: risk", "5": f"HTTP {status}: risk"}
    assert len(server.seen) == 6 and len(done.answers) == 4


def test_where_all_requests_are_refused_none_hangs(server: Server) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": "bad temperature"}})
    done = run(server)
    assert len(done.failed) == 6 and len(server.seen) == 6


def test_many_failures_in_a_row_stop_the_run_and_a_success_between_starts_the_count_anew(server: Server) -> None:
    bad, good = Reply(400, {"error": {"message": "nonsense"}}), Reply(body=completion("好"))
    server.faults = [good, bad, bad, bad, good, bad, bad, bad, bad, bad]
    with pytest.raises(UserError, match=r"/v1: 4 items failed one after the other, the last with: HTTP 400: nonsense"):
        run(server, 30, give_up_after=4, concurrency=1)
    assert len(server.seen) == 9


FATAL = {
    "401": (
        Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
        r"refuses the key \(.*\*\*\*.*\(--key",
    ),
    "403": (Reply(403, {"error": {"message": "not allowed"}}), "refuses the key.*not allowed"),
    "404": (Reply(404, {"error": {"message": "no such model"}}), "does not know --judge m.*no such model.*--url.*/v1"),
    "402": (Reply(402, {"error": {"message": "pay"}}), "no credit left"),
    "quota": (Reply(429, {"error": {"message": "x", "code": "insufficient_quota"}}), "no credit left"),
    "redirect": (Reply(307, "", headers={"Location": "http://127.0.0.1:9/v1"}), "redirects to http://127.0.0.1:9.*--url"),
    "long wait": (Reply(429, {}, headers={"Retry-After": "4000"}), "asks to wait 4000 s"),
    "brackets": (Reply(401, "[" * 100_000), "refuses the key"),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "message"), FATAL.values(), ids=FATAL)
def test_what_no_retry_can_fix_stops_at_the_first_request(reply: Reply, message: str, server: Server) -> None:
    server.respond = lambda seen: reply
    with pytest.raises(UserError, match=message) as caught:
        run(server, names=NAMES)
    assert len(server.seen) == 1
    assert server.url in str(caught.value) and KEY not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("reply", [FATAL["401"][0], FATAL["402"][0], FATAL["quota"][0], FATAL["long wait"][0]])
def test_a_key_without_use_stops_the_run_in_the_middle_too(reply: Reply, server: Server) -> None:
    server.faults = [Reply(body=completion("好"))] * 3 + [reply]
    asked = Run(server, concurrency=1)
    with pytest.raises(UserError):
        asked.start()
    assert len(asked.answers) == 3 and len(server.seen) == 4


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Reply(503, "loading"), "HTTP 503: loading"), (Reply(delay=0.4), r"no answer within 0\.2 s \(--wait\)")],
    ids=["503", "hangs"],
)
def test_an_endpoint_that_never_answers_stops_the_run(
    fault: Reply, said: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.respond = lambda seen: fault
    with pytest.raises(UserError, match=rf"{said}, 2 retries in vain; check --judge, or try later"):
        run(server, retries=2, timeout=0.2, names=NAMES)
    assert len(server.seen) == 3
    assert "retry 1 of 2" in capsys.readouterr().err


def test_an_endpoint_that_is_down_stops_at_once(server: Server) -> None:
    asked = Run(server, base_url=f"http://127.0.0.1:{free_port()}/v1", backoff=60, names=NAMES)
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*cannot be reached.*is the server running, and --url right"):
        asked.start()
    assert asked.endpoint.usage.retries == 0


def test_messages_speak_in_words_where_the_caller_has_no_options(server: Server) -> None:
    server.respond = lambda seen: Reply(404, {"error": {"message": "what?"}})
    with pytest.raises(UserError, match=r"does not know the model m, .*; the address usually ends in /v1$") as caught:
        run(server)
    assert "--" not in str(caught.value)


# --- the key and the address ----------------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere_and_nothing_of_another_endpoint_is(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-endpoint")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another-endpoint")
    server.respond = lambda seen: (
        Reply(400, {"error": {"message": f"odd: {seen.headers['authorization']}"}})
        if seen.topic == "5"
        else Reply(body=completion("好"))
    )
    done = run(server)
    assert done.failed == {"5": "HTTP 400: odd: Bearer ***"}
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in server.seen)
    assert not any("another-endpoint" in str(seen.headers) for seen in server.seen)
    assert KEY not in repr(done.endpoint)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("api.openai.com", True),
        ("eu.api.openai.com", True),
        ("api.notopenai.com", False),
        ("openai.com.example", False),
    ],
)
def test_organization_and_project_are_told_to_openai_only(host: str, told: bool) -> None:
    async def headers() -> set[str]:
        async with Endpoint(f"https://{host}/v1", "m", api_key=KEY) as endpoint:
            return set(endpoint._headers)

    assert (asyncio.run(headers()) == set()) is told


def test_without_a_key_no_authorization_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    run(server, 1, api_key="")
    assert "authorization" not in server.seen[0].headers
    server.respond = lambda seen: Reply(401, {"error": {"message": "who?"}})
    with pytest.raises(UserError, match=r"refuses a request without a key .*who\?.*\(--key\)"):
        run(server, 1, api_key="", names=NAMES)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_of_the_environment_hears_nothing_of_what_is_meant_for_this_machine(
    variable: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server() as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        assert len(run(server, 1).answers) == 1 and len(server.seen) == 1
        assert not proxy.seen
        # What is meant for another machine goes through it as the user has set it up.
        Run(server, 1, base_url="http://models.example:8000/v1").start()
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9", "http://proxy:abc"])
def test_a_proxy_that_the_client_does_not_know_is_named_and_does_not_concern_this_machine(
    proxy: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)
    assert len(run(server, 1).answers) == 1
    with pytest.raises(UserError, match=r"ALL_PROXY.*cannot be used .*pip install socksio.*NO_PROXY=models\.example"):
        run(server, 1, base_url="http://models.example/v1")


def test_trouble_on_the_way_through_a_proxy_names_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    server.respond = lambda seen: Reply(503, "no such host")
    with pytest.raises(UserError, match=r"through the proxy of the environment; NO_PROXY=models\.example goes past it"):
        run(server, 1, base_url="http://models.example/v1", retries=0)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"cannot be reached.*NO_PROXY=models\.example"):
        run(server, 1, base_url="http://models.example/v1")
    with pytest.raises(UserError) as caught:
        run(server, 1, retries=0)
    assert "NO_PROXY" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:8000/v1", True),
        ("http://LOCALHOST/v1", True),
        ("http://a.localhost/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.8.8/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://192.168.0.1/v1", False),
        ("http://localhost.example/v1", False),
        ("http://[2001:db8::1]/v1", False),
    ],
)
def test_which_addresses_are_of_this_machine(url: str, here: bool) -> None:
    assert is_this_machine(url) is here


def test_bad_keys_are_not_repeated_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_key(None) == ""
    with pytest.raises(UserError, match="--key: .*NAME of one that holds the key") as caught:
        read_key(KEY, NAMES)  # the key itself instead of a name
    assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_KEY", f"{KEY}\nx")
    with pytest.raises(UserError, match="no key has") as caught:
        read_key("MY_KEY")
    assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    assert read_key("MY_KEY") == KEY


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000/v1", "is not an address"),
        ("ftp://host/v1", "is not an address"),
        ("http://my host/v1", "is not an address"),
        ("http://host/v1\n", "is not an address"),
        ("http://host:99999/v1", "is not an address"),
        ("http://host:0/v1", "is not an address"),
        ("http:///v1", "is not an address"),
        ("http://host/v1/chat/completions", "leave out /chat/completions"),
        (f"http://user:{KEY}@host/v1", r"must hold no user, password.*\(--key\)"),
        (f"http://host/v1?key={KEY}", "must hold no user, password"),
    ],
)
def test_an_address_that_cannot_work_is_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s)^--url.*{message}") as caught:
        check_url(url, NAMES)
    assert KEY not in str(caught.value)
    assert check_url("https://api.example.org/v1/") == "https://api.example.org/v1"


# --- the client -----------------------------------------------------------------------------------------------------


def test_a_missing_client_is_named_with_its_pin(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=f"pip install {OPENAI_PIN}"):
        run(server)
    assert not server.seen


def test_the_pin_is_what_the_tests_run_with() -> None:
    assert f"openai=={openai.__version__}" == OPENAI_PIN
