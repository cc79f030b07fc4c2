"""write_passages asks each thing once, survives faults and kills, and keeps the key to itself.

Against a real HTTP server on loopback. GAOKAO_SERVE_TEST=1 adds a run against a real model server: GAOKAO_SERVE_PYTHON
names a Python that has `transformers[serving]`, GAOKAO_SERVE_MODEL a (tiny) model folder.

    pip install openai==3.54.0
    python -m pytest tests/test_write_passages.py
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import PROMPT_TOKENS, Reply, Seen, Server, completion, free_port, running_server
from conftest import ROOT

from gaokao.endpoint import OPENAI_PIN, Endpoint, MalformedError
from gaokao.errors import UserError
from gaokao.records import load_records
from gaokao_data import write_passages as module
from gaokao_data.write_passages import OPTIONS, Summary, count_words, main, parse_passages, write_passages

pytestmark = pytest.mark.usefixtures("plain_environment")

KEY = "sk-test-5ECRET-0123456789"

TEXTBOOK_PART = "光合作用是绿色植物利用光能合成有机物并释放氧气的过程，它为几乎所有生物提供物质和能量来源。" * 3
OUTSIDE_PART = "某农业研究团队在温室中安装了可调光谱的照明设备，用以观察蔬菜在不同季节的生长速度和品质变化。" * 3


def answer(textbook: str = TEXTBOOK_PART, outside: str = OUTSIDE_PART) -> str:
    """An answer in the format that is asked for."""
    return f"课本内容：{textbook}\n课外内容：{outside}"


GOOD = Reply(body=completion(answer()))


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        server.respond = lambda seen: GOOD
        yield server


def item(number: int, **changes: Any) -> dict[str, Any]:
    """A record of which the topic is its number."""
    return {
        "id": f"r{number}",
        "subject": "生物",
        "type": "单选题",
        "课本内容": "",
        "question": f"第{number}题。下列属于叶绿体功能的是\nA．分解尿素\nB．把二氧化碳和水合成为糖类\nC．储存胆汁\nD．过滤血液",
        "answer": "B",
        "analysis": "叶绿体是光合作用的场所。故选B。",
        **changes,
    }


def write_items(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six records without passages."""
    return write_items(tmp_path / "in.json", *(item(number) for number in range(6)))


def run(source: Path, out: Path, server: Server, **options: Any) -> Summary:
    """A run with an endpoint that waits and retries briefly; `options` of the endpoint and of the run."""
    own = {
        name: options.pop(name) for name in ("concurrency", "limit", "overwrite", "give_up_after") if name in options
    }
    settings = {"base_url": server.url, "model": "m", "api_key": KEY, "backoff": 0.01, "timeout": 5.0, **options}
    return write_passages(source, out, Endpoint(**settings, names=OPTIONS), **own)


def rows(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8")))


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial.jsonl")


# --- a run without faults -------------------------------------------------------------------------------------------


def test_each_record_is_asked_once_and_out_is_in_input_order(source: Path, tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion(answer(f"第{seen.topic}段。{TEXTBOOK_PART}")), delay=0.05)
    summary = run(source, out := tmp_path / "out.json", server)
    assert sorted(server.topics) == [str(number) for number in range(6)]
    assert [row["id"] for row in rows(out)] == [f"r{number}" for number in range(6)]
    assert all(row["课本内容"].startswith(f"第{number}段") for number, row in enumerate(rows(out)))
    assert (summary.written, summary.failed, summary.reused) == (6, {}, 0)
    assert not partial(out).exists()
    assert len(load_records(out)) == 6, "the file is a data file for training"


def test_provenance_is_recorded_and_other_keys_are_carried_through(tmp_path: Path, server: Server) -> None:
    earlier = {"year": 2019, "leaks": True, "passage_source": {"mode": "own"}}
    source = write_items(tmp_path / "in.json", item(0, **earlier))
    run(source, out := tmp_path / "out.json", server)
    (row,) = rows(out)
    assert row["year"] == 2019 and "leaks" not in row
    assert row["passage_source"] | {"key": ""} == {"mode": "model", "model": "m", "leak": 0.0, "key": ""}


def test_the_prompt_shows_question_answer_and_analysis_and_forbids_the_answer(
    source: Path, tmp_path: Path, server: Server
) -> None:
    run(source, tmp_path / "out.json", server, limit=1, temperature=0.5, max_tokens=77)
    (seen,) = server.seen
    for text in (
        "第0题",
        "叶绿体是光合作用的场所",
        "不得给出答案",
        "正好能命制出这一道题",
        "80到300字",
        "课本内容：",
        "课外内容：",
    ):
        assert text in seen.task
    assert seen.path == "/v1/chat/completions"
    assert {**seen.body, "messages": 0} == {"model": "m", "messages": 0, "max_tokens": 77, "temperature": 0.5}


def test_the_wording_of_the_prompt_belongs_to_its_version() -> None:
    wording = module.SYSTEM + module.TASK + module.MALFORMED_NOTE + module.LEAK_NOTE
    digest = hashlib.sha256(wording.encode()).hexdigest()[:12]
    assert (module.PROMPT_VERSION, digest) == (2, "6f9948c08cf7"), (
        "the wording changed: raise PROMPT_VERSION, note the digest"
    )


def test_records_with_passages_are_kept_untouched_unless_overwrite(tmp_path: Path, server: Server) -> None:
    kept = item(1, 课本内容="自己写的一段。", passage_source={"mode": "related", "items": ["x"]})
    outside_only = item(2, 课外内容="自己写的另一段。")
    source = write_items(tmp_path / "in.json", item(0), kept, outside_only)
    summary = run(source, out := tmp_path / "out.json", server)
    assert server.topics == ["0"] and summary.kept == 2
    assert rows(out)[1] == kept | {"课外内容": ""}
    run(source, out, server, overwrite=True)
    assert sorted(server.topics) == ["0", "1", "2"], "the finished one is not asked for again"
    assert rows(out)[1]["课本内容"] == TEXTBOOK_PART


def test_records_need_no_passage_key_but_question_answer_and_analysis(tmp_path: Path, server: Server) -> None:
    bare = item(0)
    del bare["课本内容"]
    source = write_items(tmp_path / "in.json", bare)
    assert run(source, tmp_path / "out.json", server).written == 1
    del bare["analysis"]
    with pytest.raises(UserError, match=r"analysis \(解析\) is missing"):
        run(write_items(tmp_path / "bad.json", bare), tmp_path / "out.json", server)
    assert len(server.seen) == 1


def test_out_named_jsonl_is_json_lines(source: Path, tmp_path: Path, server: Server) -> None:
    run(source, out := tmp_path / "out.jsonl", server)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 6
    run(source, out, server)
    assert len(server.seen) == 6


# --- replies and names of another kind -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=completion(answer("【" * 100_000))),
        Reply(body=completion(answer(TEXTBOOK_PART + "（" * 100_000))),
        Reply(body=completion("课本内容" + " " * 100_000 + "x\n课外内容" + "*" * 100_000 + "x")),
        Reply(body=completion(answer(TEXTBOOK_PART + " " * 100_000 + "x" + "\t" * 100_000))),
    ],
    ids=["only brackets", "brackets behind", "heads of blanks", "blanks"],
)
def test_an_answer_of_100_000_signs_is_asked_for_again(
    reply: Reply, source: Path, tmp_path: Path, server: Server
) -> None:
    server.faults = [reply]
    summary = run(source, out := tmp_path / "out.json", server, limit=1)
    assert (summary.written, len(server.seen)) == (1, 2)
    assert rows(out)[0]["课本内容"] == TEXTBOOK_PART


def test_blank_lines_and_spaces_around_lines_leave_a_passage() -> None:
    first, second = TEXTBOOK_PART[:60], TEXTBOOK_PART[60:]
    text = answer(f"\n  {first} \t\n \n\n\u3000{second}  \n")
    assert parse_passages(text) == (f"{first}\n{second}", OUTSIDE_PART)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 201, "the name of the file has more than 200 bytes"),
        ("高" * 67, "the name of the file has more than 200 bytes"),
        ("x" * 300 + "/a.json", "cannot be made"),
    ],
)
def test_a_name_that_no_file_can_have_is_told_before_anything_is_asked(
    name: str, said: str, source: Path, tmp_path: Path, server: Server
) -> None:
    with pytest.raises(UserError, match=said):
        run(source, tmp_path / name, server)
    assert server.seen == []
    with pytest.raises(UserError, match="cannot be read .File name too long"):
        run(tmp_path / ("x" * 300), tmp_path / "out.json", server)


def test_the_longest_name_is_written_and_set_aside(source: Path, tmp_path: Path, server: Server) -> None:
    out = tmp_path / ("x" * 195 + ".json")
    run(source, out, server)
    server.respond = lambda seen: Reply(body=completion(answer(OUTSIDE_PART, TEXTBOOK_PART)))
    run(source, out, server, model="other")
    assert len(list(tmp_path.glob("x*"))) == 2


# --- nothing is asked twice -----------------------------------------------------------------------------------------


def test_a_rerun_asks_nothing_and_changes_nothing(source: Path, tmp_path: Path, server: Server) -> None:
    run(source, out := tmp_path / "out.json", server)
    before = out.read_bytes()
    summary = run(source, out, server)
    assert len(server.seen) == 6 and out.read_bytes() == before
    assert summary.reused == 6 and summary.usage.replies == 0


def test_results_belong_to_the_content_and_not_to_the_position(tmp_path: Path, server: Server) -> None:
    source = write_items(tmp_path / "in.json", item(0), item(1), item(2))
    run(source, out := tmp_path / "out.json", server)
    changed = item(1, analysis="换了一种讲法。故选B。")
    write_items(source, item(2, difficulty="基础"), item(3), changed, item(0, id="renamed"))
    summary = run(source, out, server)
    assert sorted(server.topics) == ["0", "1", "1", "2", "3"]
    assert (summary.written, summary.reused) == (2, 2)
    assert [row["id"] for row in rows(out)] == ["r2", "r3", "r1", "renamed"]


def test_records_with_the_same_texts_are_one_request(tmp_path: Path, server: Server) -> None:
    source = write_items(tmp_path / "in.json", item(0), item(0, id="twin"))
    run(source, out := tmp_path / "out.json", server)
    assert len(server.seen) == 1 and len(rows(out)) == 2


def test_limit_asks_for_so_many_and_a_later_run_goes_on(source: Path, tmp_path: Path, server: Server) -> None:
    summary = run(source, out := tmp_path / "out.json", server, limit=2)
    assert (summary.written, summary.left, len(rows(out))) == (2, 4, 2)
    run(source, out, server, limit=2)
    run(source, out, server)
    assert sorted(server.topics) == [str(number) for number in range(6)] and len(rows(out)) == 6


def test_another_model_asks_anew_and_the_earlier_file_is_set_aside(
    source: Path, tmp_path: Path, server: Server
) -> None:
    run(source, out := tmp_path / "out.json", server)
    first = out.read_bytes()
    server.respond = lambda seen: Reply(body=completion(answer("别的。" + TEXTBOOK_PART)))
    summary = run(source, out, server, model="other")
    assert len(server.seen) == 12
    assert summary.set_aside and summary.set_aside.read_bytes() == first


def test_results_of_another_model_stay_in_the_partial_file(source: Path, tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: GOOD if len(server.seen) <= 3 else Reply(401, {"error": {"message": "expired"}})
    with pytest.raises(UserError, match="3 finished records are kept"):
        run(source, out := tmp_path / "out.json", server, concurrency=1)
    server.respond = lambda seen: GOOD
    assert run(source, out, server, model="other").written == 6
    server.seen.clear()
    assert run(source, out, server).reused == 3
    assert len(server.seen) == 3


def test_files_that_are_set_aside_in_the_same_second_get_names_of_their_own(tmp_path: Path, server: Server) -> None:
    source, out = write_items(tmp_path / "in.json", item(0)), tmp_path / "out.json"
    for number in range(5):
        passages = answer(f"第{number}次。{TEXTBOOK_PART}")
        server.faults = [Reply(body=completion(passages))]
        run(source, out, server, model=f"m{number}")
    found = {rows(path)[0]["课本内容"][:3] for path in tmp_path.glob("out*.json")}
    assert found == {f"第{number}次" for number in range(5)}


def test_a_file_that_is_not_ours_is_set_aside_or_refused(source: Path, tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match="is the input file"):
        run(source, source, server)
    (text := tmp_path / "notes.txt").write_text("买菜", encoding="utf-8")
    with pytest.raises(UserError, match="not a data file"):
        run(source, text, server)
    with pytest.raises(UserError, match="is a folder"):
        run(source, tmp_path, server)
    assert not server.seen
    out = write_items(tmp_path / "out.json", item(99, 课本内容="很珍贵的一段。"))
    summary = run(source, out, server)
    assert summary.set_aside and "很珍贵的一段" in summary.set_aside.read_text(encoding="utf-8")


def test_a_torn_last_line_and_a_damaged_one_are_passed_over(
    source: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(UserError):  # leaves a partial file with two lines
        server.respond = lambda seen: GOOD if len(server.seen) <= 2 else Reply(401, {"error": {"message": "no"}})
        run(source, out, server, concurrency=1)
    lines = partial(out).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    partial(out).write_bytes(lines[0] + b"\x00\xff nonsense\n[1]\n" + lines[1][: len(lines[1]) // 2])
    server.respond = lambda seen: GOOD
    server.seen.clear()
    summary = run(source, out, server)
    assert (summary.reused, summary.written, len(server.seen)) == (1, 5, 5)
    assert f"{partial(out)}: 2 damaged line(s) are passed over" in capsys.readouterr().err
    assert len(rows(out)) == 6 and not partial(out).exists()


def command(source: Path, out: Path, url: str, *more: str) -> list[str]:
    arguments = [str(source), "--out", str(out), "--base-url", url, "--model", "m", *more]
    return [sys.executable, "-m", "gaokao_data.write_passages", *arguments]


def wait_for_lines(path: Path, count: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never had {count} lines")


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_stopped(stop: signal.Signals, tmp_path: Path, server: Server) -> None:
    source, out = write_items(tmp_path / "in.json", *(item(number) for number in range(12))), tmp_path / "out.json"
    hang = {"8", "9", "10", "11"}
    server.respond = lambda seen: Reply(body=completion(answer()), delay=60 if seen.topic in hang else 0)
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    with subprocess.Popen(
        command(source, out, server.url, "--concurrency", "4"), cwd=ROOT, env=environment, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_for_lines(partial(out), 8)
        process.send_signal(stop)
        stdout, stderr = process.communicate(timeout=20)
    assert not out.exists()
    if stop is signal.SIGINT:
        assert process.returncode == 130
        assert "8 finished records are kept in" in stderr and partial(out).name in stderr and "Traceback" not in stderr
    server.respond = lambda seen: GOOD
    server.seen.clear()
    done = subprocess.run(
        command(source, out, server.url), cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(server.topics, key=int) == ["8", "9", "10", "11"]
    assert "4 written, 8 from an earlier run" in done.stdout
    assert "400 prompt + 120 completion in 4 replies" in done.stdout
    assert [row["id"] for row in rows(out)] == [f"r{number}" for number in range(12)]
    for text in (stdout, stderr, done.stdout, done.stderr, *(path.read_text("utf-8") for path in tmp_path.iterdir())):
        assert KEY not in text


# --- faults of the endpoint -----------------------------------------------------------------------------------------


def test_a_record_that_fails_after_all_retries_is_the_only_one_missing(
    source: Path, tmp_path: Path, server: Server
) -> None:
    server.respond = lambda seen: Reply(500, "boom") if seen.topic == "3" else GOOD
    summary = run(source, out := tmp_path / "out.json", server, retries=2)
    assert summary.failed == {"r3": "HTTP 500: boom, 2 retries in vain"}
    assert server.topics.count("3") == 3 and len(server.seen) == 8
    assert [row["id"] for row in rows(out)] == ["r0", "r1", "r2", "r4", "r5"]
    server.respond = lambda seen: GOOD
    server.seen.clear()
    assert run(source, out, server).failed == {}
    assert server.topics == ["3"]
    assert [row["id"] for row in rows(out)] == [f"r{number}" for number in range(6)]
    assert len(list(tmp_path.iterdir())) == 2, "nothing to set aside"


MALFORMED = {
    "not JSON": "<html>welcome</html>",
    "no heads": completion("好的，我来写。" * 40),
    "one part": completion(f"课本内容：{TEXTBOOK_PART}"),
    "too short": completion(answer("太短。")),
    "too long": completion(answer(TEXTBOOK_PART * 9)),
    "header of the answer format": completion(answer(TEXTBOOK_PART + "\n解析：略")),
    "chat marker": completion(answer(TEXTBOOK_PART + "<|im_end|>")),
    "cut off": completion(None, choices=[{"index": 0, "message": {"content": answer()}, "finish_reason": "length"}]),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_answers_are_asked_for_again_a_bounded_number_of_times(
    body: Any, source: Path, tmp_path: Path, server: Server
) -> None:
    def respond(seen: Seen) -> Reply:
        bad = seen.topic == "4" or (seen.topic == "2" and server.topics.count("2") < 3)
        return Reply(body=body) if bad else GOOD

    server.respond = respond
    summary = run(source, out := tmp_path / "out.json", server)
    assert list(summary.failed) == ["r4"] and "(3 answers)" in summary.failed["r4"]
    assert server.topics.count("2") == 3 and server.topics.count("4") == 3 and len(server.seen) == 10
    assert len(rows(out)) == 5 and summary.usage.asked_again == 4
    again = [seen.task for seen in server.seen if seen.topic == "2"]
    assert "上一次" not in again[0] and "上一次的回复不合要求" in again[1]
    # Also malformed answers are paid for.
    replies = 10 if isinstance(body, dict) and body.get("choices") else 5
    assert summary.usage.prompt_tokens == replies * PROMPT_TOKENS


def test_where_all_requests_are_refused_none_hangs_and_out_is_not_written(
    source: Path, tmp_path: Path, server: Server
) -> None:
    server.respond = lambda seen: Reply(400, {"error": {"message": "bad temperature"}})
    summary = run(source, out := tmp_path / "out.json", server)
    assert len(summary.failed) == 6 and len(server.seen) == 6 and not out.exists() and not partial(out).exists()


def test_many_failures_in_a_row_stop_the_run(tmp_path: Path, server: Server) -> None:
    source = write_items(tmp_path / "in.json", *(item(number) for number in range(30)))
    server.respond = lambda seen: GOOD if len(server.seen) <= 3 else Reply(body="nonsense")
    with pytest.raises(
        UserError, match=r"4 records failed one after the other.*nonsense[^$]*3 finished records are kept"
    ):
        run(source, out := tmp_path / "out.json", server, give_up_after=4, concurrency=1)
    assert len(server.seen) == 3 + 4 * 3 and partial(out).exists()


def test_a_key_that_is_refused_in_the_middle_keeps_what_is_finished(
    source: Path, tmp_path: Path, server: Server
) -> None:
    server.respond = lambda seen: GOOD if len(server.seen) <= 3 else Reply(401, {"error": {"message": "expired"}})
    with pytest.raises(UserError, match=r"expired[^$]*3 finished records are kept in .*out\.json\.partial\.jsonl"):
        run(source, out := tmp_path / "out.json", server, concurrency=1)
    server.respond = lambda seen: GOOD
    assert run(source, out, server).reused == 3
    assert len(server.seen) == 4 + 3


def test_nonsense_from_the_start_stops_with_the_likely_cause(source: Path, tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: Reply(body="<html>welcome</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(UserError, match=r"not a chat completion: <html>welcome</html>; --base-url usually ends in /v1"):
        run(source, tmp_path / "out.json", server)
    assert len(server.seen) == module.ASKS


# --- leaks ----------------------------------------------------------------------------------------------------------

KEYED = "把二氧化碳和水合成为糖类"


def test_a_leaking_passage_is_asked_for_again(source: Path, tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: (
        Reply(body=completion(answer(TEXTBOOK_PART, OUTSIDE_PART + KEYED))) if "上一次" not in seen.task else GOOD
    )
    summary = run(source, out := tmp_path / "out.json", server, limit=1)
    assert len(server.seen) == 2 and "答案中的原话" in server.seen[1].task and KEYED not in server.seen[1].task[-80:]
    assert summary.leaking == [] and "leaks" not in rows(out)[0]


def test_the_least_leaking_of_all_answers_is_kept_and_flagged(source: Path, tmp_path: Path, server: Server) -> None:
    tails = [KEYED, KEYED[:9], KEYED]
    server.faults = [Reply(body=completion(answer(TEXTBOOK_PART + tail))) for tail in tails]
    summary = run(source, out := tmp_path / "out.json", server, limit=1)
    (row,) = rows(out)
    assert len(server.seen) == module.ASKS and summary.leaking == ["r0"]
    assert row["leaks"] is True and row["passage_source"]["leak"] == 0.4 and row["课本内容"].endswith(KEYED[:9])
    assert run(source, out, server, limit=5).leaking == ["r0"], "it is flagged in a later run, too"
    assert len(server.seen) == module.ASKS + 5


def test_a_leaking_answer_is_kept_where_the_next_ones_are_malformed(
    source: Path, tmp_path: Path, server: Server
) -> None:
    server.faults = [Reply(body=completion(answer(TEXTBOOK_PART + KEYED))), Reply(body=completion("?")), Reply(400, {})]
    summary = run(source, out := tmp_path / "out.json", server, limit=1)
    assert summary.leaking == ["r0"] and not summary.failed and rows(out)[0]["leaks"] is True


# --- parsing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"课本内容：{TEXTBOOK_PART}\n课外内容：{OUTSIDE_PART}",
        f"好的，以下是两段文字。\n\n**课本内容：**\n\n{TEXTBOOK_PART}\n\n---\n\n**课外内容**：{OUTSIDE_PART}\n",
        f"## 课本内容\n{TEXTBOOK_PART}\n## 课外内容\n{OUTSIDE_PART}",
        f"【课本内容】{TEXTBOOK_PART}\n【课外内容】\n{OUTSIDE_PART}",
        f"一、课本内容（教科书口吻）:\n{TEXTBOOK_PART}\n二、课外内容（新闻口吻）：\n{OUTSIDE_PART}",
        f"<think>课本内容：先想想\n课外内容：再想想</think>\n课本内容; {TEXTBOOK_PART}\n课外内容: {OUTSIDE_PART}".replace(
            ";", "；"
        ),
        f"```text\n课外内容：{OUTSIDE_PART}\n课本内容：{TEXTBOOK_PART}\n```",
    ],
)
def test_parts_are_found_however_a_model_heads_them(text: str) -> None:
    assert parse_passages(text) == (TEXTBOOK_PART, OUTSIDE_PART)


def test_a_head_inside_a_sentence_is_none() -> None:
    with pytest.raises(MalformedError, match="no 课外内容"):
        parse_passages(f"课本内容：{TEXTBOOK_PART}这里的课外内容：{OUTSIDE_PART}")


def test_length_is_counted_in_han_characters_and_words() -> None:
    assert count_words("光合作用，light-dependent reactions 2020年。") == 4 + 3 + 2


# --- the key and the command line -----------------------------------------------------------------------------------


def test_the_key_is_sent_and_written_nowhere(
    source: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-endpoint")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-endpoint")
    server.respond = lambda seen: (
        Reply(400, {"error": {"message": f"odd: {seen.headers['authorization']}"}}) if seen.topic == "5" else GOOD
    )
    arguments = command(source, tmp_path / "out.json", server.url, "--api-key-env", "MY_KEY")[3:]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert "r5: HTTP 400: odd: Bearer ***" in printed.err and "5 written" in printed.out and "1 failed" in printed.out
    assert all(seen.headers["authorization"] == f"Bearer {KEY}" for seen in server.seen)
    assert not any("another-endpoint" in str(seen.headers) for seen in server.seen)
    # Five answers alike are one passage.
    assert "grounding 课本内容 not compared: no subject has questions with 3 different ones" in printed.out
    assert "grounding 课外内容" in printed.out
    for text in (printed.out, printed.err, *(path.read_text("utf-8") for path in tmp_path.iterdir())):
        assert KEY not in text


def test_without_a_key_no_authorization_is_sent(
    source: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(source, tmp_path / "out.json", server.url, "--limit", "1")[3:])
    assert "authorization" not in server.seen[0].headers
    assert (
        "1 written, 0 from an earlier run, 0 had some already, 0 failed, 5 left by --limit" in capsys.readouterr().out
    )
    server.respond = lambda seen: Reply(401, {"error": {"message": "who?"}})
    with pytest.raises(UserError, match=r"refuses a request without a key .*who.*\(--api-key-env\)"):
        main(command(source, tmp_path / "out.json", server.url)[3:])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--concurrency", "0"], "--concurrency 0: must be 1 or more"),
        (["--timeout", "nan"], "--timeout nan: must be above 0"),
        (["--timeout", "0"], "--timeout 0.0: must be above 0"),
        (["--temperature", "2.1"], "--temperature 2.1: must be from 0 to 2"),
        (["--temperature", "-0.1"], "--temperature -0.1: must be from 0 to 2"),
        (["--limit", "0"], "--limit 0: must be 1 or more"),
        (["--max-tokens", "-1"], "--max-tokens -1: must be 1 or more"),
        (["--model", " "], "--model: must be the name of a model"),
        (["--model", "\udcff"], "--model: must be the name of a model, in UTF-8"),
        (["--out", "out.csv"], "--out out.csv: what is written is JSON; name it .json or .jsonl"),
        (["--over"], "unrecognized arguments: --over"),
        (["--lim", "1"], "unrecognized arguments: --lim 1"),
    ],
)
def test_options_out_of_bounds_are_refused(
    more: list[str], said: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command(source, tmp_path / "out.json", "http://127.0.0.1:9/v1", *more)[3:])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_client_is_named_with_its_pin(
    source: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=f"pip install {OPENAI_PIN}"):
        run(source, tmp_path / "out.json", server)
    assert list(tmp_path.iterdir()) == [source]


def test_the_commands_install_the_pinned_client() -> None:
    assert OPENAI_PIN in (module.__doc__ or "")


# --- a real model server --------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.environ.get("GAOKAO_SERVE_TEST") != "1", reason="GAOKAO_SERVE_TEST=1 runs a real model server")
def test_against_a_real_model_server(source: Path, tmp_path: Path) -> None:
    python, model = os.environ["GAOKAO_SERVE_PYTHON"], os.environ["GAOKAO_SERVE_MODEL"]
    port = free_port()
    start = f"import sys; sys.argv = ['transformers', 'serve', '--port', '{port}', '--host', '127.0.0.1', '--device', 'cpu']"
    start += "; from transformers.cli.transformers import main; main()"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([python, "-c", start], env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end and process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.5)
            # A tiny model writes no passages: each of its answers is counted, asked for again and given up.
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model, max_tokens=64)
            summary = write_passages(source, tmp_path / "out.json", endpoint, limit=2, concurrency=2)
        finally:
            process.terminate()
            process.wait(20)
    usage = summary.usage
    assert summary.written + len(summary.failed) == 2
    assert usage.replies == 2 + usage.asked_again and usage.without_usage == 0
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0 and usage.retries == 0
