"""Solve-back: what a solver is asked, how its answers are read, what they count for, and that nothing is asked twice.

Servers are real ones on loopback whose answers are scripted; the model at hand is one of random weights.

    pip install openai==3.54.0
    python -m pytest tests/test_solving.py
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Reply, Seen, Server, completion, cut_off, listing, running_server
from conftest import TEXT, item, record_row, save_adapter, write_results

import evaluate
import infer_qwen_gaokao
from gaokao import asking, served, solving
from gaokao.asking import Answer
from gaokao.config import EvaluateConfig
from gaokao.errors import UserError
from gaokao.figures import summary_text
from gaokao.results import SOLVE_BACK, Generated, Solved, best, read_results
from gaokao.settings import load_config

pytestmark = pytest.mark.usefixtures("plain_environment")

MULTIPLE = TEXT.replace("参考答案：B", "参考答案：CA").replace("故选B", "故选AC")


def question(number: int, key: str = "B") -> str:
    """A question of its own wording; its options say what they were."""
    return (
        f"题干：第{number}题。下列正确的是\nA．甲{number}\nB．乙{number}\nC．丙{number}\nD．丁{number}\n"
        f"参考答案：{key}\n解析：符合事实。故选{key}。"
    )


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaokao.settings.cuda_gpus", lambda: 0)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as server:
        server.models = [listing("solver")]
        yield server


def choosing(*texts: str) -> Callable[[Seen], Reply]:
    """A solver that knows the right options by their texts, wherever they stand."""

    def respond(seen: Seen) -> Reply:
        shown = re.findall(r"^([A-H])．(\S+)$", seen.task, re.MULTILINE)
        letters = [letter for letter, text in shown if text.startswith(texts)]
        return Reply(body=completion(f"略加分析。\n答案：{''.join(letters)}"))

    return respond


def solver(server: Server, **changes: Any) -> served.Served:
    made = served.evaluator(EvaluateConfig(base_url=server.url, served_model="solver", **changes))
    made.backoff, made.retries = 0.01, 1
    return made


def solved(folder: Path, server: Server, items: Sequence[Generated], count: int = 1) -> list[Solved | None]:
    with asking.Answers(folder / "solved.jsonl", solver(server)) as answers:
        return solving.solve(items, count, answers)


def order_of(text: str = TEXT, count: int = 8, **changes: Any) -> list[str]:
    found = solving.puzzle(item(text, **changes))
    assert found is not None
    return solving.orders(found, count)


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_what_has_no_options_or_no_key_of_their_letters_is_not_solved() -> None:
    assert solving.puzzle(item()) is not None
    assert solving.puzzle(item(MULTIPLE, type="多选题")) is not None
    for text, kind in [
        (TEXT, "主观题"), (TEXT, "填空题"), (TEXT.replace("D．丁", ""), "单选题"), (TEXT.replace("参考答案：B", "参考答案：乙"), "单选题"),
        (TEXT.replace("参考答案：B", "参考答案：E"), "单选题"), (TEXT[: TEXT.index("参考答案")], "单选题"), ("乱", "单选题"), ("", "单选题"),
        (TEXT.replace("参考答案：B", "参考答案：（1）B\n（2）C"), "单选题"), (TEXT.replace("甲", "甲<|im_end|>"), "单选题"),
    ]:  # fmt: skip
        assert solving.puzzle(item(text, type=kind)) is None, text


def test_in_as_many_answers_as_options_each_option_stands_once_in_each_place() -> None:
    orders = order_of()
    assert len(set(orders)) == 8 and all(sorted(order) == list("ABCD") for order in orders)
    for four in (orders[:4], orders[4:]):
        assert all({order[place] for order in four} == set("ABCD") for place in range(4))
    assert order_of() == orders and order_of(count=3) == orders[:3]
    firsts = {order_of(question(number), count=1)[0] for number in range(12)}
    assert len(firsts) > 4


@pytest.mark.parametrize(
    ("before", "after"),
    [("丁", "以上都对"), ("丁", "A和B"), ("丁", "A项与C项"), ("丁", "都正确"), ("下列正确的是", "与A项矛盾的是"), ("丁", "上述两项均不成立，选项A除外")],
)  # fmt: skip
def test_options_that_name_others_stay_where_they_are(before: str, after: str) -> None:
    assert order_of(TEXT.replace(before, after)) == ["ABCD"]


def test_options_that_only_look_like_it_are_shuffled() -> None:
    for text in ("DNA和RNA", "18岁以上公民", "上述材料", "①②"):
        assert len(order_of(TEXT.replace("丁", text))) == 8, text


def test_the_solver_sees_the_question_and_neither_its_key_nor_its_passages(tmp_path: Path, server: Server) -> None:
    solved(tmp_path, server, [item(TEXT.replace("参考答案：B", "参考答案：C"))])
    (seen,) = server.seen
    system, user = (turn["content"] for turn in seen.body["messages"])
    assert "生物" in system and "下列正确的是" in user and "单选题" in user
    assert {line[2:] for line in user.splitlines() if re.match("[A-D]．", line)} == {"甲", "乙", "丙", "丁"}
    assert "参考答案" not in user and "符合事实" not in user and "细胞" not in system + user
    assert seen.body["temperature"] == 0


def test_one_that_has_no_room_for_thoughts_is_asked_for_the_letter_at_once() -> None:
    found = solving.puzzle(item(MULTIPLE, type="多选题"))
    assert found is not None
    at_once, thought_over = (solving.messages(found, "DCBA", thinks)[1]["content"] for thinks in (False, True))
    assert at_once.splitlines()[1:5] == ["A．丁", "B．丙", "C．乙", "D．甲"]
    assert "不写过程" in at_once and "先简要分析" in thought_over and "两个或两个以上" in at_once


# --- what is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"), (" b", ""), ("答案：C", "C"), ("**答案：** AC", "AC"), ("分析……故选D。\n答案：B", "B"), ("B．乙", "B"), ("B项正确", "B"), ("答案：C、A", "AC"),
        ("所以正确答案是 D。", "D"), (r"最后 \boxed{A}", "A"), ("（B）", "B"), ("Ｂ．乙", "B"), ("A和B都有道理", ""), ("Apple", ""), ("不知道", ""), ("", ""),
        ("<think>先看A，答案：A</think>答案：C", "C"), ("<think>答案：A", ""), ("B\n因为乙符合事实", "B"),
        (r"\boxed{\text{B}}", "B"), (r"答案：$\boxed{\text{B}}$", "B"), ("【答案】B", "B"), ("答案：选项B", "B"), ("答案：“B”", "B"), ("“答案：”B", "B"),
        ("答案：【B】", "B"), ("答案：A；C", "AC"), ("答案：A/C", "AC"), ("答案：A\nC", "AC"), ("答案：A；B项错误", "A"), ("答案：A\nB项不合题意", "A"),
        ("答案：B\nA．错误。\nB．正确。", "B"), ("B\nA. 错误", "B"), ("答案：B\n\nA、甲不对", "B"), ("故选B\nA．与题意不符", "B"), ("答案：A；B、C错误", "A"),
        ("答案：A\nC\nD", "ACD"), ("A;C;D。", "ACD"),
        ("我选择C", "C"), ("不选A", ""), ("答案：\n\nB", "B"),
    ],
)  # fmt: skip
def test_the_letters_of_an_answer_are_read(text: str, letters: str) -> None:
    assert solving.read_letters(Answer(text, "stop"), thinks=True) == letters


def test_thoughts_that_were_cut_off_have_come_to_nothing_yet() -> None:
    cut = Answer("如果答案：A，那么", "length")
    assert solving.read_letters(cut, thinks=True) == ""
    assert solving.read_letters(Answer("答案：A\n解析：", "length"), thinks=False) == "A"


def test_letters_are_mapped_back_to_those_of_the_question(tmp_path: Path, server: Server) -> None:
    server.respond = choosing("乙")
    assert solved(tmp_path, server, [item()], 8) == [Solved(8, ("B",) * 8)]
    server.respond = choosing("丙", "甲")
    found = solved(tmp_path / "..", server, [item(MULTIPLE, type="多选题"), item()], 2)
    assert found == [Solved(2, ("AC", "AC")), Solved(0, ("AC", "AC"))]


def test_a_solver_that_always_says_the_same_letter_confirms_nothing(tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: Reply(body=completion("答案：A"))
    (found,) = solved(tmp_path, server, [item()], 4)
    assert found is not None and sorted(found.answers) == ["A", "B", "C", "D"] and not found.confirmed


@pytest.mark.parametrize("reply", [completion("我不会。"), completion(""), completion("答案：E"), cut_off("答案：B")])
def test_what_is_no_answer_is_none(reply: Any, tmp_path: Path, server: Server) -> None:
    server.respond = lambda seen: Reply(body=reply)
    (found,) = solved(tmp_path, server, [item()])
    assert found == Solved(0, ("",))


def test_half_of_the_answers_is_not_enough() -> None:
    assert not Solved(1, ("B", "C")).confirmed and Solved(2, ("B", "C", "B")).confirmed


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_once_and_kept(tmp_path: Path, server: Server) -> None:
    server.respond = choosing("乙")
    items = [item(question(number)) for number in range(3)]
    first = solved(tmp_path, server, [*items, items[0]], 2)
    assert len(server.seen) == 6
    assert solved(tmp_path, server, items, 2) == first[:3] and len(server.seen) == 6
    solved(tmp_path, server, items, 3)
    assert len(server.seen) == 9
    with asking.Answers(tmp_path / "solved.jsonl", solver(server)) as answers:
        answers.answerer.model = "other"  # type: ignore[attr-defined]
        server.models = [listing("other")]
        solving.solve(items, 1, answers)
    assert len(server.seen) == 12


def test_a_damaged_line_of_the_kept_answers_costs_one_request(tmp_path: Path, server: Server) -> None:
    server.respond = choosing("乙")
    items = [item(question(number)) for number in range(3)]
    first = solved(tmp_path, server, items)
    lines = (tmp_path / "solved.jsonl").read_text("utf-8").splitlines()
    bad = [lines[0][:20], lines[1], '{"key": 3}', "[1]", lines[2][:-9], lines[2].replace('": 30', '": "30"')]
    (tmp_path / "solved.jsonl").write_text("\n".join(bad), "utf-8")
    assert solved(tmp_path, server, items) == first and len(server.seen) == 5


def test_the_answers_of_other_processes_are_read_and_a_server_is_asked_by_the_first_one_only(
    tmp_path: Path, server: Server
) -> None:
    server.respond = choosing("乙")
    met: list[int] = []
    with asking.Answers(tmp_path / "solved.jsonl", solver(server), 1, lambda: met.append(1)) as second:
        assert solving.solve([item()], 1, second) == [None] and not server.seen
        assert solved(tmp_path, server, [item()]) == [Solved(1, ("B",))]
        assert solving.solve([item()], 1, second) == [Solved(1, ("B",))] and len(server.seen) == 1
    assert len(met) == 4 and [path.name for path in tmp_path.iterdir()] == ["solved.jsonl"]


# --- figures ----------------------------------------------------------------------------------------------------------

Evaluate = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def score(tmp_path: Path, server: Server, capsys: Any) -> Evaluate:
    """Evaluate entries with the server as solver; gives the scores and what is printed."""

    def run(entries: list[Any], *options: str) -> tuple[dict[str, Any], str]:
        path = write_results(tmp_path / "questions.json", entries)
        where = [f"--evaluate.base_url={server.url}", "--evaluate.served_model=solver"]
        evaluate.main([str(path), *where, "--evaluate.solve_back=2", *options])
        return json.loads((tmp_path / "scores.json").read_text("utf-8")), capsys.readouterr().out

    return run


def entries(count: int, **changes: Any) -> list[Any]:
    """Of each two one has a wrong key; the references are right."""
    from conftest import entry

    return [
        entry(question(number, "BC"[number % 2]), id=f"r{number}", reference=question(100 + number), **changes)
        for number in range(count)
    ]


def test_agreement_stands_beside_the_accuracy_on_references(server: Server, score: Evaluate, tmp_path: Path) -> None:
    server.respond = choosing("乙")
    scores, printed = score([*entries(10), {**entries(1)[0], "id": "x", "type": "主观题"}])
    found = scores["solve_back"]
    assert (found["all"]["agreement"]["passed"], found["all"]["agreement"]["items"]) == (5, 10)
    assert (found["all"]["accuracy"]["passed"], found["all"]["accuracy"]["items"]) == (10, 10)
    assert found["all"]["above_chance"] and found["all"]["chance"] == 0.25
    assert (found["not_solved"], found["no_answer"], found["failed"]) == (1, 0, {})
    assert (found["answers"], found["new"], found["completion_tokens"]) == (40, 40, 1200)
    assert "solved    keys confirmed 5 of 10: 50%" in printed and "of the references it solves 10 of 10" in printed
    assert "says nothing" not in printed
    assert scores["checks"][SOLVE_BACK] == {
        "hard": False, "passed": 5, "applicable": 10, "interval_95": found["all"]["agreement"]["interval_95"],
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "10 道选择题中，5 道的参考答案得到解题模型证实" in page and "解题模型做出的答案与参考答案不同" in page
    again, _ = score([*entries(10), {**entries(1)[0], "id": "x", "type": "主观题"}])
    assert again["solve_back"] == {**found, "new": 0} and len(server.seen) == 40


def test_a_solver_that_guesses_is_said_to_say_nothing_by_subject(server: Server, score: Evaluate) -> None:
    knows = choosing("乙")
    server.respond = lambda seen: knows(seen) if "历史" in str(seen.body) else Reply(body=completion("答案：A"))
    history = [{**row, "id": f"h{row['id']}"} for row in entries(6, subject="历史")]
    scores, printed = score([*entries(6), *history])
    by = scores["solve_back"]["by"]
    assert by["历史"]["above_chance"] and not by["生物"]["above_chance"]
    assert (by["历史"]["agreement"]["passed"], by["生物"]["agreement"]["passed"]) == (3, 0)
    assert "not shown to solve references better than chance in 生物: its verdict there says nothing" in printed
    assert "历史 confirmed 3/6, references 6/6" in printed


def test_above_chance_is_what_the_interval_says_and_not_the_rate() -> None:
    right, wrong = ({"asked": 1, "agree": agree, "answers": [letter]} for agree, letter in ((1, "B"), (0, "C")))
    few = [item(solved=right)] * 3 + [item(solved=wrong)] * 3
    assert solving.table(few, few)["all"]["above_chance"] is False
    assert solving.table(few * 5, few * 5)["all"]["above_chance"] is True


def test_chance_is_that_of_the_number_of_options_and_letters() -> None:
    found = [solving.puzzle(item(text, type=kind)) for text, kind in ((TEXT, "单选题"), (MULTIPLE, "多选题"))]
    assert [one and round(one.chance, 4) for one in found] == [0.25, 0.0909]


def test_without_references_the_solver_is_said_to_be_unknown(server: Server, score: Evaluate, tmp_path: Path) -> None:
    server.respond = choosing("乙")
    scores, printed = score([{**row, "reference": None} for row in entries(2)])
    assert scores["solve_back"]["all"]["above_chance"] is None
    assert "how well it solves references is not known, so that its verdict says nothing yet" in printed
    assert "没有测过" in (tmp_path / "report.html").read_text("utf-8")


def test_requests_that_fail_are_counted_and_the_others_stay(server: Server, score: Evaluate) -> None:
    knows = choosing("乙")
    server.respond = lambda seen: Reply(404, {"error": {"message": "no"}}) if seen.topic == "3" else knows(seen)
    scores, printed = score(entries(4))
    assert scores["solve_back"]["failed"] == {"HTTP 404: no": 2}
    assert scores["solve_back"]["all"]["agreement"]["items"] == 3 and "2 requests failed: HTTP 404: no" in printed


def test_what_a_server_refuses_is_no_answer_and_not_asked_again(server: Server, score: Evaluate) -> None:
    knows = choosing("乙")
    refused = Reply(400, {"error": {"message": "not this one"}})
    server.respond = lambda seen: refused if seen.topic == "2" else knows(seen)
    scores, _ = score(entries(4))
    found = scores["solve_back"]
    assert (found["refused"], found["no_answer"], found["failed"]) == (2, 1, {})
    assert (found["all"]["agreement"]["passed"], found["all"]["agreement"]["items"]) == (1, 4)
    before = len(server.seen)
    score(entries(4))
    assert len(server.seen) == before


def test_a_server_that_is_busy_for_ever_ends_with_a_message_and_keeps_what_was_answered(
    tmp_path: Path, server: Server
) -> None:
    busy = Reply(429, {"error": {"message": "busy"}})
    server.respond = lambda seen: busy
    with pytest.raises(UserError, match="HTTP 429: busy, 1 retries in vain; check evaluate.served_model"):
        solved(tmp_path, server, [item()])
    knows, items = choosing("乙"), [item(question(number)) for number in range(40)]
    server.respond = lambda seen: busy if len(server.seen) > 20 else knows(seen)
    with pytest.raises(UserError, match="20 questions failed one after the other"):
        solved(tmp_path, server, items)
    kept = len((tmp_path / "solved.jsonl").read_text("utf-8").splitlines())
    assert kept > 5
    server.respond, before = knows, len(server.seen)
    assert all(solved(tmp_path, server, items)) and len(server.seen) == before + 40 - kept


def test_two_results_are_compared_by_agreement(server: Server, score: Evaluate, tmp_path: Path) -> None:
    server.respond = choosing("乙")
    (tmp_path / "other").mkdir()
    right = [{**row, "text": question(number)} for number, row in enumerate(entries(12))]
    other = write_results(tmp_path / "other" / "questions.json", right)
    scores, printed = score(entries(12), f"--against={other}")
    figure = {row["name"]: row for row in scores["against"]["figures"]}[SOLVE_BACK]
    assert (figure["items"], figure["first"], figure["second"]) == (12, 0.5, 1.0)
    assert "答案得到解题模型证实" in printed


def test_without_solve_back_nothing_is_asked_and_nothing_changes(tmp_path: Path, server: Server) -> None:
    path = write_results(tmp_path / "questions.json", entries(2))
    evaluate.main([str(path), f"--evaluate.base_url={server.url}"])
    assert not server.seen and not (tmp_path / "solved.jsonl").exists()
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert scores["solve_back"] is None and scores["checks"][SOLVE_BACK]["applicable"] == 0
    assert "solved" not in summary_text(scores)


# --- the record of it -------------------------------------------------------------------------------------------------


def test_what_was_solved_is_read_back_and_a_question_that_is_not_confirmed_stays_usable() -> None:
    doubtful = item(solved={"asked": 2, "agree": 1, "answers": ["B", ""]})
    assert doubtful.usable and not doubtful.passes and doubtful.failed == [SOLVE_BACK]
    assert doubtful.failed_checks[0]["evidence"] == "1 of 2 blind answers are the key (B, none)"
    assert Generated.from_dict(doubtful.to_dict()) == doubtful
    assert item().solved is None and "solved" not in item().to_dict() and item().passes
    assert best([doubtful, item(attempt=2)]).attempt == 2
    # Off its passages, nobody was asked: the one that is on them is kept.
    assert (
        best([item(off_passages=True), item(attempt=2, solved=doubtful.solved and doubtful.solved.to_dict())]).attempt
        == 2
    )


@pytest.mark.parametrize(
    "value", [None, 3, {}, {"answers": []}, {"answers": ["A"], "agree": 2}, {"answers": [1], "agree": 0}]
)
def test_a_record_of_it_that_is_none_is_named(value: Any) -> None:
    with pytest.raises(UserError, match="solved is .*, not what was written there"):
        item(solved=value)


# --- as a gate of inference -------------------------------------------------------------------------------------------

Infer = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def infer(random_base: Path, write_rows: Callable[..., Path], tmp_path: Path, server: Server) -> Infer:
    """Generate for three records with a server that writes and solves; gives the kept questions."""
    # One passage for all: there is no other one that a question could be nearer to.
    rows = write_rows(
        [record_row(number, 课本内容="细胞是生物体的基本单位。", topic=str(number)) for number in range(3)]
    )

    def run(*options: str) -> list[dict[str, Any]]:
        infer_qwen_gaokao.main(
            [f"--data.test={rows}", f"--output.dir={tmp_path / 'out'}", "--evaluate.samples=0", "--generate.engine=openai",
             f"--generate.base_url={server.url}", "--generate.served_model=writer", "--generate.solve_back=2",
             f"--evaluate.base_url={server.url}", "--evaluate.served_model=solver", *options]
        )  # fmt: skip
        found: list[dict[str, Any]] = json.loads(
            (tmp_path / "out" / "gaokao" / "generated" / "questions.json").read_text("utf-8")
        )
        return found

    return run


def writing(right_from: int) -> Callable[[Seen], Reply]:
    """Writes a question of its own each time, from the draft `right_from` of a record on with the right key; solves, too."""
    drafts: dict[str, int] = {}
    knows = choosing("乙")

    def respond(seen: Seen) -> Reply:
        if seen.body["model"] == "solver":
            return knows(seen)
        drafts[seen.task] = drafts.get(seen.task, 0) + 1
        number = 1 + 10 * drafts[seen.task] + [*drafts].index(seen.task)
        words = "".join(chr(0x4E00 + (number * 997 + step * 131) % 8000) for step in range(40))
        text = question(number, "B" if drafts[seen.task] >= right_from else "C").replace("下列", words)
        return Reply(body=completion(text))

    return respond


def test_a_key_that_is_not_confirmed_is_drawn_again(server: Server, infer: Infer, tmp_path: Path) -> None:
    server.models, server.respond = [listing("writer", "solver")], writing(right_from=2)
    found = infer()
    assert [row["attempt"] for row in found] == [2, 2, 2]
    assert all(row["solved"] == {"asked": 2, "agree": 2, "answers": ["B", "B"]} for row in found)
    assert found[0]["attempts"] == [
        {"attempt": 1, "usable": True, "failed_checks": [SOLVE_BACK]}, {"attempt": 2, "usable": True, "failed_checks": []},
    ]  # fmt: skip
    asked = [seen.body["model"] for seen in server.seen]
    assert (asked.count("writer"), asked.count("solver")) == (6, 12)
    scores = json.loads((tmp_path / "out" / "gaokao" / "generated" / "scores.json").read_text("utf-8"))
    assert scores["solve_back"]["all"]["agreement"]["passed"] == 3
    assert "drawn again where it did not" in summary_text(scores)


def test_one_that_stays_unconfirmed_is_kept_and_marked_and_counts_as_usable(server: Server, infer: Infer) -> None:
    server.models, server.respond = [listing("writer", "solver")], writing(right_from=9)
    found = infer("--generate.attempts=2")
    assert [row["attempt"] for row in found] == [1, 1, 1] and all(row["usable"] for row in found)
    assert all([check["check"] for check in row["failed_checks"]] == [SOLVE_BACK] for row in found)


def test_what_is_drawn_again_anyway_is_not_asked_about(server: Server, infer: Infer) -> None:
    server.models = [listing("writer", "solver")]
    knows = choosing("乙")
    server.respond = lambda seen: knows(seen) if seen.body["model"] == "solver" else Reply(body=completion(TEXT))
    found = infer("--generate.attempts=1")
    # The second and third repeat the first.
    assert ["solved" in row for row in found] == [True, False, False] and len(server.seen) == 5


def test_a_run_that_is_stopped_while_it_solves_goes_on_and_asks_nothing_twice(
    server: Server, infer: Infer, tmp_path: Path
) -> None:
    respond = writing(right_from=1)
    refused = Reply(404, {"error": {"message": "no"}})
    server.models = [listing("writer", "solver")]
    server.respond = lambda seen: refused if seen.body["model"] == "solver" and len(server.seen) > 6 else respond(seen)
    with pytest.raises(UserError, match=r"solve back: \d of the requests to solver at .* failed: HTTP 404: no"):
        infer("--generate.concurrency=1", "--evaluate.concurrency=1")
    folder = tmp_path / "out" / "gaokao" / "generated"
    kept = len((folder / "solved.jsonl").read_text("utf-8").splitlines())
    server.respond, before = respond, len(server.seen)
    found = infer()
    assert kept == 3 and len(server.seen) == before + 3 and all(row["solved"]["agree"] == 2 for row in found)
    infer()
    assert len(server.seen) == before + 3


def test_another_number_of_answers_is_another_run_and_none_is_as_it_was(
    server: Server, infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models, server.respond = [listing("writer", "solver")], writing(right_from=1)
    infer()
    record = tmp_path / "out" / "gaokao" / "generated" / "run.json"
    assert json.loads(record.read_text("utf-8"))["inputs"]["generate.solve_back"] == 2
    infer("--generate.solve_back=0")
    assert "generate.solve_back was 2, is null" in capsys.readouterr().out
    assert not {"generate.solve_back", "solver"} & json.loads(record.read_text("utf-8"))["inputs"].keys()


def test_a_server_that_writes_does_not_solve_unless_it_is_named(server: Server, infer: Infer) -> None:
    with pytest.raises(UserError, match="generate.solve_back = 2 with generate.engine openai needs evaluate.base_url"):
        infer_qwen_gaokao.main(
            ["--generate.engine=openai", f"--generate.base_url={server.url}", "--generate.served_model=w", "--generate.solve_back=2"]
        )  # fmt: skip
    assert not server.seen


# --- the model at hand ------------------------------------------------------------------------------------------------


def local(random_base: Path, tmp_path: Path, adapter: Path | None = None, *options: str) -> Any:
    from gaokao import generation

    resolved = load_config(
        [f"--model.base={random_base}", "--model.quantization=none", f"--output.dir={tmp_path}", *options], "x"
    )
    return generation.Local(resolved, adapter)


def answers_of(engine: Any, folder: Path, items: Sequence[Generated]) -> dict[str, str]:
    with asking.Answers(folder / "solved.jsonl", engine) as answers:
        solving.solve(items, 2, answers)
        return {key: answer.text for key, answer in answers.used.items()}


def test_with_its_adapter_switched_off_the_model_answers_as_the_base_does_and_then_writes_as_before(
    random_base: Path, tmp_path: Path
) -> None:
    from gaokao.prompts import prepare_input
    from gaokao.records import parse_record
    from gaokao.sources import Raw
    from gaokao.writing import Job, Round

    items = [item(question(number)) for number in range(3)]
    base = answers_of(local(random_base, tmp_path), tmp_path, items)
    assert len(base) == 6 and len(set(base.values())) > 1
    adapter = save_adapter(random_base, tmp_path / "trained" / "adapter", "none")
    record = parse_record(Raw("x", record_row(0)), 0, "train")[0]
    assert record is not None
    engine = local(random_base, tmp_path, adapter, "--generate.solve_back=2", "--generate.max_new_tokens=8")
    engine.prompts([record])
    engine.load({})

    def written() -> str:
        texts: list[str] = []
        job = Job(0, 1, "k", prepare_input(record))
        engine.write(Round([job], set(), lambda done: texts.append(done.text)))
        return texts[0]

    before = written()
    (tmp_path / "second").mkdir()
    assert answers_of(engine, tmp_path / "second", items) == base
    assert written() == before


def test_without_a_server_the_bare_base_solves(random_base: Path, tmp_path: Path, capsys: Any) -> None:
    path = write_results(tmp_path / "questions.json", entries(2))
    options = [f"--model.base={random_base}", f"--output.dir={tmp_path / 'out'}", "--evaluate.solve_back=2"]
    evaluate.main([str(path), *options])
    found = json.loads((tmp_path / "scores.json").read_text("utf-8"))["solve_back"]
    assert found["solver"] == f"{random_base} without an adapter"
    assert (found["answers"], found["new"], found["all"]["accuracy"]["items"]) == (8, 8, 2)
    evaluate.main([str(path), *options])
    assert json.loads((tmp_path / "scores.json").read_text("utf-8"))["solve_back"] == {**found, "new": 0}


def test_the_gate_asks_the_base_at_hand_and_a_stopped_run_gives_the_same(
    random_base: Path, tmp_path: Path, write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of random weights writes no question, so its drafts are made whole on their way to the gate."""
    whole = [item(question(number)).question for number in range(50)]
    monkeypatch.setattr(Generated, "question", property(lambda self: whole[len(self.text) % 50]))
    rows = write_rows(
        [record_row(number, 课本内容="细胞是生物体的基本单位。", topic=str(number)) for number in range(3)]
    )

    def run(name: str) -> list[Any]:
        infer_qwen_gaokao.main(
            [f"--model.base={random_base}", f"--data.test={rows}", f"--output.dir={tmp_path / name}", "--adapter=none",
             "--generate.max_new_tokens=4", "--generate.solve_back=2", "--generate.attempts=2", "--evaluate.samples=0"]
        )  # fmt: skip
        found: list[Any] = json.loads(
            (tmp_path / name / "gaokao" / "generated_base" / "questions.json").read_text("utf-8")
        )
        return found

    monkeypatch.setattr(Generated, "usable", property(lambda self: True))
    monkeypatch.setattr("gaokao.gate.Gate.repeats", lambda self, kept, drafts: [""] * len(drafts))
    first = run("a")
    assert all(row["solved"]["asked"] == 2 for row in first)
    folder = tmp_path / "a" / "gaokao" / "generated_base"
    (folder / "questions.json").unlink()
    lines = (folder / "solved.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "solved.jsonl").write_text("".join(lines[:-1]), "utf-8")
    assert run("a") == first and len((folder / "solved.jsonl").read_text("utf-8").splitlines()) == len(lines)
    assert read_results(folder / "questions.json")
