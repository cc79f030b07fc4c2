"""The engine `openai`: each draft is kept as it comes, with the sampling of config.yaml; nothing that fails is lost or hidden.

Against a real HTTP server on loopback whose faults are scripted.

    pip install openai==3.54.0
    python -m pytest tests/test_served.py
"""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, Reply, Server, completion, cut_off, listing, running_server
from conftest import ROOT, record_row

from gaokao.config import GenerateConfig
from gaokao.endpoint import BACKOFF
from gaokao.errors import UserError
from gaokao.prompts import prepare_input
from gaokao.records import parse_record
from gaokao.served import TIMEOUT, Served, connect, seed_of
from gaokao.sources import Raw
from gaokao.writing import Completion, Engine, Job, Round

pytestmark = pytest.mark.usefixtures("plain_environment")

KEY = "sk-test-5ECRET-0123456789"
GOOD = Reply(body=completion("好"))


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        server.models = [listing("base", "gaokao")]
        yield server


def engine(server: Server, **options: Any) -> Served:
    sampling = {"max_new_tokens": 77, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0}
    quick = {"concurrency": 8, "api_key": KEY, "timeout": 5.0, "backoff": 0.01}
    return Served(**{"base_url": server.url, "model": "gaokao", **sampling, **quick, **options})


def jobs(count: int, attempt: int = 1) -> list[Job]:
    """Jobs whose records stand at 10, 11 ... of the list."""
    keys = [hashlib.sha256(f"{number} {attempt}".encode()).hexdigest() for number in range(count)]
    return [
        Job(10 + number, attempt, key, [{"role": "user", "content": f"第{number}题"}])
        for number, key in enumerate(keys)
    ]


class Kept:
    """What an engine handed over, in the order in which it came."""

    def __init__(self) -> None:
        self.done: list[Completion] = []
        self.ticks: list[int] = []

    @property
    def texts(self) -> dict[int, str]:
        return {one.position: one.text for one in self.done}


def write(served: Engine, work: list[Job], kept: Kept | None = None) -> Kept:
    kept = kept or Kept()
    served.write(Round(work, set(kept.texts), kept.done.append, kept.ticks.append))
    return kept


# --- what is asked and what is kept ---------------------------------------------------------------------------------


def test_every_job_gets_its_own_draft_with_its_end_and_its_cost(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion(f"答{seen.topic}"))
    kept = write(engine(server), jobs(6))
    assert kept.texts == {10 + number: f"答{number}" for number in range(6)} and len(kept.done) == 6
    assert {one[2:] for one in kept.done} == {("stop", PROMPT_TOKENS, COMPLETION_TOKENS)}
    assert kept.ticks == [COMPLETION_TOKENS] * 6
    assert sorted(server.topics) == sorted(map(str, range(6)))


def test_two_jobs_of_one_record_are_two_drafts(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion(str(seen.body["seed"])))
    twins = [job._replace(position=3) for job in jobs(2)]
    kept = write(engine(server), twins)
    assert [one.position for one in kept.done] == [3, 3] and len({one.text for one in kept.done}) == 2


def test_the_request_holds_the_sampling_of_the_settings(server: Server) -> None:
    server.models = [listing("gaokao", owner="someone")]
    write(engine(server, repetition_penalty=1.0), jobs(1))
    body = {**server.seen[0].body, "messages": 0, "seed": 0}
    assert body == {"model": "gaokao", "messages": 0, "seed": 0, "max_tokens": 77, "temperature": 0.7, "top_p": 0.9}
    write(engine(server, repetition_penalty=1.1), jobs(1))
    assert server.seen[1].body == {**server.seen[0].body, "repetition_penalty": 1.1}


def test_without_sampling_the_likeliest_token_is_asked_for(server: Server) -> None:
    server.models = []
    write(engine(server, do_sample=False), jobs(1))
    body = {**server.seen[0].body, "messages": 0}
    assert body == {"model": "gaokao", "messages": 0, "max_tokens": 77, "temperature": 0.0}


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
@pytest.mark.parametrize("model", ["gaokao", "base:other"])
def test_what_the_makers_of_a_model_recommend_does_not_slip_in(owner: str, model: str, server: Server) -> None:
    server.models = [listing("base", "gaokao", owner=owner)]
    write(engine(server, model=model), jobs(1))
    body = server.seen[0].body
    assert (body["top_k"], body["min_p"], body["repetition_penalty"], body["top_p"]) == (-1, 0.0, 1.0, 0.9)


def test_the_seed_belongs_to_the_job_and_fits_into_31_bits(server: Server) -> None:
    write(engine(server, concurrency=3), jobs(5))
    first = {seen.topic: seen.body["seed"] for seen in server.seen}
    server.seen.clear()
    write(engine(server), list(reversed(jobs(5))))
    assert {seen.topic: seen.body["seed"] for seen in server.seen} == first
    server.seen.clear()
    write(engine(server), jobs(5, attempt=2))
    second = {seen.topic: seen.body["seed"] for seen in server.seen}
    assert len({*first.values(), *second.values()}) == 10
    assert all(0 <= seed < 2**31 for seed in [*first.values(), *second.values()])


def test_seeds_of_digests_differ_where_their_ends_do() -> None:
    assert seed_of("0" * 64) == 0 and seed_of("f" * 64) == 2**31 - 1
    assert len({seed_of(f"{number:064x}") for number in range(1000)}) == 1000


def test_a_draft_that_is_cut_off_or_empty_is_a_draft(server: Server) -> None:
    filtered = completion("好", choices=[{"message": {"content": "好"}, "finish_reason": "content_filter"}])
    server.faults = [
        Reply(body=cut_off("半")),
        Reply(body=completion(None)),
        Reply(body=filtered),
        Reply(body=completion("好", choices=[{"message": {"content": "好"}}], usage=None)),
    ]
    kept = write(engine(server, concurrency=1), jobs(4))
    assert [(one.text, one.finish_reason) for one in kept.done] == [
        ("半", "length"), ("", "stop"), ("好", "content_filter"), ("好", "stop"),
    ]  # fmt: skip
    assert kept.ticks == [COMPLETION_TOKENS] * 3 + [0]


def test_a_draft_is_kept_while_others_are_still_written(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion("好"), delay=0.6 if seen.topic == "1" else 0.0)
    kept = write(engine(server, concurrency=2), jobs(5))
    assert [one.position for one in kept.done] == [10, 12, 13, 14, 11]


def test_no_more_than_concurrency_are_asked_for_at_a_time_and_the_second_round_starts_with_all(server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion("好"), delay=0.1)
    served = engine(server, concurrency=3)
    write(served, jobs(7))
    assert server.most == 3 and server.seen[1].at - server.seen[0].at >= 0.1
    server.seen.clear()
    write(served, jobs(3, attempt=2))
    assert server.seen[2].at - server.seen[0].at < 0.1
    assert len(server.models_asked) == 1


def test_no_jobs_are_no_request(server: Server) -> None:
    write(engine(server), [])
    assert not server.seen and not server.models_asked


def test_usage_counts_all_rounds(server: Server) -> None:
    served = engine(server)
    write(served, jobs(2))
    write(served, jobs(1, attempt=2))
    assert served.usage.replies == 3 and served.usage.completion_tokens == 3 * COMPLETION_TOKENS


# --- before the first draft -----------------------------------------------------------------------------------------


def test_an_unknown_model_is_an_error_that_lists_those_the_server_has(server: Server) -> None:
    server.models = [listing("Qwen/Qwen2.5-14B-Instruct", "gaokao")]
    served = engine(server, model="gaoako")
    message = r"/v1: has no model gaoako \(generate\.served_model\); it has: gaokao, Qwen/Qwen2\.5-14B-Instruct$"
    with pytest.raises(UserError, match=message):
        served.load({})
    with pytest.raises(UserError, match=message):
        write(served, jobs(3))
    assert not server.seen


def test_of_a_long_list_the_likeliest_are_shown(server: Server) -> None:
    server.models = [listing(*(f"other-{number}" for number in range(200)), "gaokao-14b\x1b[31m")]
    with pytest.raises(UserError, match=r"it has: gaokao-14b \[31m, .* …$") as caught:
        engine(server, model="gaokao-14").load({})
    assert str(caught.value).count("other-") == 19


@pytest.mark.parametrize("model", ["gaokao", "base", "base:gaokao", "base:free"])
def test_a_name_that_the_server_may_know_is_left_to_it(model: str, server: Server) -> None:
    engine(server, model=model).load({})
    assert not server.seen


def test_a_server_without_a_list_is_asked_all_the_same(server: Server) -> None:
    server.models = []
    served = engine(server, model="anything")
    served.load({})
    assert len(write(served, jobs(2)).done) == 2
    assert "top_k" not in server.seen[0].body and len(server.models_asked) == 1


def test_the_engine_is_that_of_the_section_generate(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    options = GenerateConfig(
        engine="openai", base_url=f"{server.url}/", served_model="gaokao", api_key_env="MY_KEY", concurrency=3,
        max_new_tokens=77, do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.0,
    )  # fmt: skip
    assert connect(options) == engine(server, concurrency=3, timeout=TIMEOUT, backoff=BACKOFF)
    assert not server.models_asked


def test_what_the_engine_cannot_do_without_is_named(server: Server) -> None:
    with pytest.raises(UserError, match=r"^generate\.base_url: the engine openai needs it; .*127\.0\.0\.1:8000/v1"):
        connect(GenerateConfig(engine="openai", served_model="gaokao"))
    with pytest.raises(UserError, match=r"^generate\.base_url 127\.0\.0\.1:8000: is not an address"):
        connect(GenerateConfig(engine="openai", base_url="127.0.0.1:8000", served_model="gaokao"))
    with pytest.raises(UserError, match=r"^generate\.api_key_env: no environment variable of this name"):
        connect(GenerateConfig(engine="openai", base_url=server.url, served_model="gaokao", api_key_env="MY_KEY"))
    unnamed = GenerateConfig(engine="openai", base_url=server.url)
    with pytest.raises(UserError, match=r"^generate\.served_model: name the model .*; the server has: base, gaokao$"):
        connect(unnamed)
    server.models = []
    with pytest.raises(UserError, match=r"^generate\.served_model: .*does not say which it has$"):
        connect(unnamed)


def test_several_processes_are_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    options = GenerateConfig(engine="openai", base_url=server.url, served_model="gaokao")
    monkeypatch.setenv("WORLD_SIZE", "1")
    connect(options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several processes .*start it with python"):
        connect(options)


def test_questions_depend_on_the_model_and_the_sampling_and_not_on_address_or_key(server: Server) -> None:
    inputs = engine(server).inputs()
    moved = engine(server, base_url="http://elsewhere.example/v1", api_key="", concurrency=1)
    assert moved.inputs() == inputs and KEY not in str(inputs)
    others = {"model": "base", "temperature": 0.1, "top_p": 0.5, "max_new_tokens": 1, "do_sample": False,
              "repetition_penalty": 1.2}  # fmt: skip
    assert all(engine(server, **{name: value}).inputs() != inputs for name, value in others.items())
    assert engine(server).name == f"gaokao at {server.url}"


def test_the_prompts_of_the_results_are_the_messages_that_are_sent(server: Server) -> None:
    record = parse_record(Raw("x", record_row(1)), 0, "generate")[0]
    assert record is not None
    served = engine(server)
    [text] = served.prompts([record])
    write(served, [jobs(1)[0]._replace(messages=prepare_input(record))])
    sent = server.seen[0].body["messages"]
    assert text == f"system: {sent[0]['content']}\n\nuser: {sent[1]['content']}"


def test_what_is_asked_is_said_before_it_is(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine(server).load({"batch_size": 8}) == {}
    assert capsys.readouterr().out == f"server    {server.url}, model gaokao; 8 requests at a time\n"
    assert not server.seen


def test_an_address_where_nobody_answers_is_named_by_its_option(server: Server) -> None:
    with pytest.raises(UserError, match=r"cannot be reached.*generate\.base_url right\?"):
        engine(server, base_url="http://127.0.0.1:9/v1").load({})


def test_the_key_is_in_no_message_and_no_text_of_the_object(server: Server) -> None:
    server.models = [Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})]
    served = engine(server)
    with pytest.raises(UserError, match=r"refuses the key .*\*\*\*.*\(generate\.api_key_env\)") as caught:
        served.load({})
    assert KEY not in str(caught.value) + repr(served)


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Reply(500, "boom"),
        Reply(429, {}, headers={"Retry-After": "0.1"}),
        Reply(body=completion("半"), half=True),
        Reply(hang_up=True),
        Reply(delay=1.0, body=completion("晚")),
        Reply(body='{"choices": [{"message": {"content": "半'),
        Reply(body=""),
    ],
    ids=["500", "429", "half a body", "nothing", "hangs", "half of the JSON", "empty"],
)
def test_passing_trouble_costs_no_draft(fault: Reply, server: Server) -> None:
    server.faults = [GOOD, fault, GOOD, fault]
    kept = write(engine(server, timeout=0.5), jobs(6))
    assert set(kept.texts.values()) == {"好"} and len(kept.done) == 6
    assert len(server.seen) == 8


def test_what_fails_for_good_is_said_when_the_others_are_done_and_can_be_asked_for_again(server: Server) -> None:
    refused = {"1": Reply(404, {"error": {"message": "no host"}}), "3": Reply(404, {"error": {"message": "no host"}}),
               "4": Reply(500, "boom"), "5": Reply(body="<html>")}  # fmt: skip
    server.respond = lambda seen: refused.get(seen.topic, GOOD)
    served, kept = engine(server, retries=1), Kept()
    with pytest.raises(UserError) as caught:
        write(served, jobs(8), kept)
    head, *reasons = str(caught.value).split("\n")
    assert "4 of 8 questions failed; the others are kept, and the same command goes on with those" in head
    assert sorted(reasons) == [
        "  - record 12, 14: HTTP 404: no host",
        "  - record 15: HTTP 500: boom, 1 retries in vain",
        "  - record 16: the reply is not a chat completion: <html> (3 answers)",
    ]
    assert sorted(kept.texts) == [10, 12, 16, 17]
    server.respond = lambda seen: GOOD
    write(served, jobs(8), kept)
    assert sorted(kept.texts) == list(range(10, 18)) and len(kept.done) == 8


def test_what_a_server_refuses_is_kept_without_a_text_so_that_the_run_ends(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": "risk"}}) if seen.topic == "3" else GOOD
    kept = write(engine(server), jobs(6))
    assert len(kept.done) == 6 and kept.texts[13] == ""
    assert [one.finish_reason for one in kept.done if not one.text] == ["refused"]
    assert "record 14: HTTP 400: risk; it is kept without a text" in capsys.readouterr().err


def test_questions_that_are_refused_one_after_the_other_do_not_stop_a_run(server: Server) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": "risk"}}) if "题" in str(seen.body) else GOOD
    kept = write(engine(server), jobs(30))
    assert [one.finish_reason for one in kept.done] == ["refused"] * 30


@pytest.mark.parametrize(
    "reason",
    [
        "request (5200 tokens) exceeds the available context size (4096 tokens)",
        "Range of input length should be [1, 30720]",
    ],
)
def test_prompts_that_are_all_too_long_stop_the_run_and_leave_no_empty_drafts(reason: str, server: Server) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": reason}}) if "题" in str(seen.body) else GOOD
    kept = Kept()
    with pytest.raises(UserError, match="--max-model-len"):
        write(engine(server), jobs(25), kept)
    assert not kept.done


def test_a_server_that_refuses_everything_is_given_up_after_a_greeting(server: Server) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": "temperature must be 1"}})
    with pytest.raises(UserError, match="refuses whatever it is asked, a greeting too .*temperature must be 1"):
        write(engine(server), jobs(50))
    assert len(server.seen) == 2


def test_an_account_that_runs_empty_in_the_midst_stops_the_run_and_leaves_no_empty_drafts(server: Server) -> None:
    server.faults = [GOOD] * 3
    server.respond = lambda seen: Reply(400, {"error": {"message": "not in good standing", "code": "Arrearage"}})
    kept = Kept()
    with pytest.raises(UserError, match=r"not in good standing.*account behind the key \(generate\.api_key_env\)"):
        write(engine(server, concurrency=2), jobs(9), kept)
    assert sorted(kept.texts.values()) == ["好"] * 3


def test_a_run_goes_on_where_only_what_is_refused_is_left(server: Server) -> None:
    server.respond = lambda seen: Reply(403, {"error": {"message": "flagged"}}) if seen.topic == "3" else GOOD
    kept = Kept()
    kept.done = [Completion(10 + number, "好", "stop", 1, 1) for number in (0, 1, 2)]
    write(engine(server), jobs(4), kept)
    assert (kept.done[-1].position, kept.done[-1].finish_reason) == (13, "refused")


FATAL = {
    "401": (Reply(401, {"error": {"message": "expired"}}), r"refuses the key .*expired.*generate\.api_key_env"),
    "quota": (Reply(429, {"error": {"message": "x", "code": "insufficient_quota"}}), "no credit left"),
    "long wait": (Reply(429, {}, headers={"Retry-After": "4000"}), "asks to wait 4000 s"),
}


@pytest.mark.parametrize(("reply", "message"), FATAL.values(), ids=FATAL)
def test_what_no_retry_can_fix_stops_the_run_and_what_is_done_is_kept(
    reply: Reply, message: str, server: Server
) -> None:
    server.faults = [GOOD] * 3 + [reply]
    kept = Kept()
    with pytest.raises(UserError, match=message):
        write(engine(server, concurrency=1), jobs(9), kept)
    assert len(kept.done) == 3 and len(server.seen) == 4


def test_a_page_that_is_no_api_is_said_at_the_first_question(server: Server) -> None:
    server.models, server.respond = [], lambda seen: Reply(body="<html>welcome</html>")
    with pytest.raises(UserError, match=r"not a chat completion: <html>.*generate\.base_url usually ends in /v1"):
        write(engine(server), jobs(5))
    assert len(server.seen) == 3


def test_trouble_while_a_draft_is_kept_ends_the_run(server: Server) -> None:
    def keep(done: Completion) -> None:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        engine(server).write(Round(jobs(30), (), keep))
    assert len(server.seen) < 10


# --- servers of other kinds -----------------------------------------------------------------------------------------


def test_a_server_without_a_repetition_penalty_names_the_option(server: Server) -> None:
    server.models = []
    server.respond = lambda seen: (
        Reply(400, {"error": {"message": "Unrecognized request argument supplied: repetition_penalty"}})
        if "repetition_penalty" in seen.body
        else GOOD
    )
    with pytest.raises(UserError, match=r"takes no repetition penalty .*set generate\.repetition_penalty to 1\.0"):
        write(engine(server, repetition_penalty=1.1), jobs(5))
    assert len(server.seen) == 1
    assert len(write(engine(server), jobs(5)).done) == 5


def test_a_server_without_seeds_is_asked_without_and_that_is_said_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.respond = lambda seen: (
        Reply(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}) if "seed" in seen.body else GOOD
    )
    served = engine(server)
    assert len(write(served, jobs(5)).done) == 5
    assert len(server.seen) == 6
    write(served, jobs(5, attempt=2))
    assert len(server.seen) == 11 and capsys.readouterr().err.count("takes no seed") == 1


def test_a_prompt_that_is_too_long_for_the_server_is_said_with_its_remedy(server: Server) -> None:
    long = "This model's maximum context length is 1024 tokens. However, you requested 77 output tokens"
    server.respond = lambda seen: Reply(400, {"error": {"message": long}}) if seen.topic == "2" else GOOD
    with pytest.raises(
        UserError,
        match=r"record 13: HTTP 400: This model's .*--max-model-len.*generate\.max_new_tokens are other inputs",
    ):
        write(engine(server), jobs(4))


def test_models_that_want_max_completion_tokens_get_it_with_all_the_rest(server: Server) -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.respond = lambda seen: Reply(400, {"error": {"message": message}}) if "max_tokens" in seen.body else GOOD
    assert len(write(engine(server), jobs(3)).done) == 3
    body = server.seen[-1].body
    assert (body["max_completion_tokens"], body["top_p"], "seed" in body) == (77, 0.9, True)


# --- the process ----------------------------------------------------------------------------------------------------

# As infer_qwen_gaokao.py takes the two signals.
PROGRAM = """
import signal, sys
from gaokao.config import GenerateConfig
from gaokao.served import connect
from gaokao.writing import Job, Round

assert not {"torch", "transformers"} & set(sys.modules), "they take seconds and gigabytes"
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == "background" else signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.default_int_handler)
work = [Job(number, 1, "ab", [{"role": "user", "content": f"第{number}题"}]) for number in range(100)]
try:
    engine = connect(GenerateConfig(engine="openai", base_url=sys.argv[1], served_model="gaokao", concurrency=4))
    engine.write(Round(work, (), lambda done: print(done.position, flush=True)))
except KeyboardInterrupt:
    sys.exit(77 if signal.getsignal(signal.SIGTERM) is signal.default_int_handler else 1)
"""


@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, "terminal"), (signal.SIGTERM, "terminal"), (signal.SIGTERM, "background")],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background"],
)
def test_a_signal_ends_the_run_at_once_and_what_is_done_is_kept(number: int, where: str, server: Server) -> None:
    # Nine answers come at once, the others never would.
    server.respond = lambda seen: GOOD if int(seen.topic) < 9 else Reply(delay=60, body=completion("晚"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", PROGRAM, server.url, where]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        kept = [process.stdout.readline() for _ in range(9)]
        process.send_signal(number)
        code = process.wait(30)
        assert (code, process.stderr.read()) == (77, "")
        assert sorted(map(int, kept)) == list(range(9)) and process.stdout.read() == ""
