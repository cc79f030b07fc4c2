"""The rounds of generation: what is tried again, what is kept, and that no stop loses or doubles a draft."""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import record_row

from gaokao import prompts
from gaokao.errors import Interrupted, UserError
from gaokao.gate import Gate, Seen, fingerprint
from gaokao.prompts import parse
from gaokao.records import Record, parse_record
from gaokao.results import Generated, read_results
from gaokao.sources import Raw
from gaokao.writing import Completion, Round, job_key, several, write_questions

WORDS = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光"
)


def record(number: int, **changes: Any) -> Record:
    made = parse_record(Raw("x", record_row(number, **changes)), number, "train")[0]
    assert made is not None
    return made


# One passage for all: there is no other one that a question could be nearer to.
RECORDS = [record(number, 课本内容="细胞是生物体结构和功能的基本单位。") for number in range(7)]


def text(key: str, whole: bool) -> str:
    """A question whose wording is drawn from the key; one that is not whole names no key."""
    draw = random.Random(key)
    stem, *options = ("".join(draw.choices(WORDS, k=length)) for length in (30, 6, 7, 8, 9))
    lines = "\n".join(f"{letter}．{option}" for letter, option in zip("ABCD", options, strict=True))
    return f"题干：{stem}（  ）\n{lines}\n参考答案：{'B' if whole else '无'}\n解析：乙符合事实。故选B。"


class Scripted:
    """An engine without a model: its texts depend on the job only; the drafts in `bad` are not whole."""

    name, process, processes = "scripted", 0, 1

    def __init__(
        self,
        bad: Collection[tuple[int, int]] = (),
        stop_after: int | None = None,
        *,
        temperature: float = 0.7,
        **settings: Any,
    ) -> None:
        self.bad, self.stop_after, self.temperature, self.settings = bad, stop_after, temperature, settings
        self.written: list[tuple[int, int]] = []
        self.same_text: dict[tuple[int, int], str] = {}
        self.loads = 0

    def inputs(self) -> dict[str, Any]:
        return {"generate.temperature": self.temperature, **self.settings}

    def prompts(self, records: Sequence[Record]) -> list[str]:
        return [f"prompt of {record.id}" for record in records]

    def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        self.loads += 1
        return {"batch_size": recorded.get("batch_size", 4)}

    def write(self, work: Round) -> None:
        for job in work.missing:
            if self.stop_after is not None and len(self.written) >= self.stop_after:
                raise KeyboardInterrupt
            place = (job.position, job.attempt)
            self.written.append(place)
            work.tick(5)
            key = self.same_text.get(place, job.key)
            work.keep(Completion(job.position, text(key, place not in self.bad), "stop", 10, 20))

    def meet(self) -> None:
        pass


def run(folder: Path, engine: Scripted, records: Sequence[Record] = RECORDS, **options: Any) -> list[Generated]:
    settings: dict[str, Any] = {"attempts": 3, "seed": 1, **options}
    return write_questions(records, engine, Gate(records, Seen()), folder, **settings)


def lines(folder: Path) -> list[tuple[str, int]]:
    rows = (folder / "questions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [(row["id"], row["attempt"]) for row in map(json.loads, rows)]


BAD = {(1, 1), (4, 1), (4, 2), (5, 1), (5, 2), (5, 3)}


def test_the_first_usable_draft_is_kept_and_what_fails_in_all_attempts_is_marked(tmp_path: Path) -> None:
    engine = Scripted(BAD)
    items = run(tmp_path / "g", engine)
    assert [item.record.id for item in items] == [record.id for record in RECORDS]
    assert [item.attempt for item in items] == [1, 2, 1, 1, 3, 1, 1]
    assert [item.usable for item in items] == [True, True, True, True, True, False, True]
    assert [len(item.attempts) for item in items] == [1, 2, 1, 1, 3, 3, 1]
    assert items[4].attempts[0] == {"attempt": 1, "usable": False, "failed_checks": ["key"]}
    assert [row["usable"] for row in items[4].attempts] == [False, False, True]
    assert engine.written == [(n, 1) for n in range(7)] + [(1, 2), (4, 2), (5, 2), (4, 3), (5, 3)]
    assert read_results(tmp_path / "g" / "questions.json") == items
    assert items[0].reference and items[0].prompt == "prompt of r0"


def test_one_attempt_takes_what_comes(tmp_path: Path) -> None:
    engine = Scripted(BAD)
    items = run(tmp_path / "g", engine, attempts=1)
    assert len(engine.written) == 7 and sum(item.usable for item in items) == 4


@pytest.mark.parametrize("stop", range(12))
def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_questions(tmp_path: Path, stop: int) -> None:
    run(tmp_path / "whole", Scripted(BAD))
    first, second = Scripted(BAD, stop_after=stop), Scripted(BAD)
    with pytest.raises(
        Interrupted, match=f"{min(stop, 7)} of 7 questions are written and kept in .*; the same command goes on"
    ):
        run(tmp_path / "g", first)
    items = run(tmp_path / "g", second)
    assert first.written + second.written == [(n, 1) for n in range(7)] + [(1, 2), (4, 2), (5, 2), (4, 3), (5, 3)]
    assert (tmp_path / "g" / "questions.json").read_bytes() == (tmp_path / "whole" / "questions.json").read_bytes()
    assert len(set(lines(tmp_path / "g"))) == len(lines(tmp_path / "g")) == 12
    assert len(items) == 7


def test_a_torn_line_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "g", Scripted(stop_after=3))
    journal = tmp_path / "g" / "questions.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    engine = Scripted()
    run(tmp_path / "g", engine)
    assert engine.written == [(place, 1) for place in range(2, 7)]
    assert lines(tmp_path / "g") == [(f"r{n}", 1) for n in range(7)]


def test_a_finished_run_says_so_and_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "g", Scripted())
    before = (tmp_path / "g" / "questions.json").read_bytes()
    engine = Scripted()
    assert run(tmp_path / "g", engine) == []
    assert (engine.loads, engine.written) == (0, [])
    assert "finished  " in (said := capsys.readouterr().out) and "--restart sets these results aside" in said
    assert (tmp_path / "g" / "questions.json").read_bytes() == before
    again = Scripted()
    assert len(run(tmp_path / "g", again, restart=True)) == 7 and len(again.written) == 7
    assert "a new run (--restart); the earlier questions were moved to" in capsys.readouterr().out
    (aside,) = tmp_path.glob("g-*")
    assert (aside / "questions.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine": Scripted(temperature=0.5)}, "generate.temperature was 0.7, is 0.5"),
        ({"engine": Scripted(adapter="x" * 64)}, "adapter changed"),
        ({"seed": 2}, "generate.seed was 1, is 2"),
        ({"attempts": 2}, "generate.attempts was 3, is 2"),
        ({"records": RECORDS[:6]}, "data changed"),
    ],
)
def test_other_inputs_set_the_results_aside_and_say_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "g", Scripted(stop_after=3))
    before = (tmp_path / "g" / "questions.jsonl").read_bytes()
    run(tmp_path / "g", **{"engine": Scripted(), **change})
    assert f"a new run ({said}); the earlier questions were moved to" in capsys.readouterr().out
    (aside,) = tmp_path.glob("g-*")
    assert (aside / "questions.jsonl").read_bytes() == before


def test_results_of_an_unknown_origin_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "questions.jsonl").write_text('{"id": "r0"}\n', encoding="utf-8")
    run(tmp_path / "g", Scripted())
    assert "nothing says what the earlier ones were made with" in capsys.readouterr().out


def test_going_on_keeps_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Sized(Scripted):
        def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
            self.seen = recorded.get("batch_size")
            return {"batch_size": self.seen or 9}

    with pytest.raises(Interrupted):
        run(tmp_path / "g", Sized(stop_after=2))
    second = Sized()
    run(tmp_path / "g", second)
    assert second.seen == 9
    assert "going on where an earlier run was interrupted" in capsys.readouterr().out
    third = Sized()
    run(tmp_path / "g", third, restart=True)
    assert third.seen is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not JSON", r"questions.jsonl: line 3 holds no draft; take it out of the file, or --restart"),
        ('{"id": "other", "attempt": 1, "text": "x", "finish_reason": "stop"}', "is of id other, which is not in the data"),
        ('{"id": "r5", "attempt": "1", "text": "x", "finish_reason": "stop"}', "attempt, attempts or repeats is not what"),
        ('{"id": "r5", "attempt": 1, "finish_reason": "stop"}', "r5|text is missing"),
    ],
)  # fmt: skip
def test_a_journal_that_was_edited_by_hand_is_named_and_left_alone(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "g", Scripted(stop_after=2))
    journal = tmp_path / "g" / "questions.jsonl"
    journal.write_text(journal.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    before = journal.read_bytes()
    with pytest.raises(UserError, match=said):
        run(tmp_path / "g", Scripted())
    assert journal.read_bytes() == before


def test_the_journals_of_other_processes_are_read_too(tmp_path: Path) -> None:
    run(tmp_path / "whole", Scripted(BAD))
    with pytest.raises(Interrupted):
        run(tmp_path / "g", Scripted(BAD, stop_after=5))
    rows = (tmp_path / "g" / "questions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "g" / "questions.jsonl").write_bytes(rows[0] + rows[3])
    # The third is about to be written whole by a process that was killed.
    (tmp_path / "g" / "questions-1.jsonl").write_bytes(rows[1] + rows[4] + rows[2][:30])
    engine = Scripted(BAD)
    run(tmp_path / "g", engine)
    assert engine.written[:3] == [(2, 1), (5, 1), (6, 1)]
    assert (tmp_path / "g" / "questions.json").read_bytes() == (tmp_path / "whole" / "questions.json").read_bytes()


def test_a_repetition_is_drawn_again_and_marked_where_it_stays(tmp_path: Path) -> None:
    engine = Scripted()
    # 2 repeats 0 once; 6 repeats 0 always.
    engine.same_text = {(0, 1): "x", (2, 1): "x", (6, 1): "x", (6, 2): "x", (6, 3): "x"}
    items = run(tmp_path / "g", engine)
    assert [item.attempt for item in items] == [1, 1, 2, 1, 1, 1, 1]
    assert (items[2].repeats, items[6].repeats) == ("", "the question of id r0")
    assert not items[6].usable and items[6].failed == ["repeats"]
    assert items[2].attempts[0] == {"attempt": 1, "usable": False, "failed_checks": ["repeats"]}
    assert read_results(tmp_path / "g" / "questions.json") == items


def test_a_question_off_its_passages_is_drawn_again_but_stays_usable(tmp_path: Path) -> None:
    engine = Scripted()
    passages = ["".join(random.Random(f"p{n}").choices(WORDS[::-1], k=80)) for n in range(4)]
    records = [record(n, 课本内容=passage) for n, passage in enumerate(passages)]
    items = run(tmp_path / "g", engine, records, attempts=2)
    assert any(len(item.attempts) == 2 for item in items) and all(item.usable for item in items)
    off = [item for item in items if item.off_passages]
    assert off and all("off passages" in item.failed for item in off)
    assert read_results(tmp_path / "g" / "questions.json") == items


def test_a_draw_depends_on_seed_attempt_and_what_is_asked_and_on_nothing_else() -> None:
    one = RECORDS[0]
    keys = [job_key(one, 1, 1), job_key(one, 2, 1), job_key(one, 1, 2), job_key(RECORDS[1], 1, 1)]
    keys += [job_key(replace(one, outside="别的"), 1, 1), job_key(replace(one, id="other"), 1, 1)]
    assert len(set(keys)) == 6
    assert job_key(replace(one, question="另一题", answer=("C",), extra={"source": "x"}), 1, 1) == keys[0]


def test_several_questions_of_a_record_have_ids_of_their_own() -> None:
    assert several(RECORDS, 1) == RECORDS
    assert [record.id for record in several(RECORDS[:2], 3)] == ["r0-1", "r0-2", "r0-3", "r1-1", "r1-2", "r1-3"]
    assert several(RECORDS[:1], 2)[1] == replace(RECORDS[0], id="r0-2")


def test_the_first_question_is_shown_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "g", Scripted())
    out = capsys.readouterr()
    assert out.out.count("生物 单选题 (id r0") == 1 and "first     question after" in out.out
    assert "7/7 usable, 35 tokens" in out.err


def test_what_repeats_a_training_question_is_not_called_usable_while_it_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, engine = Seen(), Scripted()
    engine.same_text = {(0, 1): "x"}
    training.add(fingerprint(parse(text("x", True)).question), "a training question")
    write_questions(RECORDS, engine, Gate(RECORDS, training), tmp_path / "g", attempts=1, seed=1)
    out = capsys.readouterr()
    assert "(id r0, finish reason stop, fails repeats)" in out.out and "6/7 usable" in out.err


def test_a_kept_question_that_failed_every_time_is_not_repeated_unmarked(tmp_path: Path) -> None:
    # 0 is never whole; 3, which is drawn again, ends with the words of 0.
    engine = Scripted({(0, 1), (0, 2), (0, 3), (3, 1)})
    engine.same_text = {(0, 1): "x", (0, 2): "x", (0, 3): "x", (3, 2): "x"}
    items = run(tmp_path / "g", engine)
    assert (items[3].repeats, items[3].usable) == ("", True)
    # Among those that pass, the first one stays.
    engine = Scripted({(3, 1)})
    passages = ["".join(random.Random(f"p{n}").choices(WORDS[::-1], k=80)) for n in range(4)]
    records = [record(n, 课本内容=passage) for n, passage in enumerate(passages)]
    engine.same_text = {(place, attempt): "x" for place in (0, 3) for attempt in (1, 2, 3)}
    items = run(tmp_path / "h", engine, records)
    assert (items[0].repeats, items[3].repeats) == ("", "the question of id r0")
    assert items[3].attempts[items[3].attempt - 1]["usable"] is False


def test_what_was_recorded_for_other_inputs_is_not_gone_by(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path / "g", Scripted(stop_after=2))
    seen: list[Any] = []

    class Noting(Scripted):
        def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
            seen.append(recorded.get("batch_size"))
            return {"batch_size": 4}

    run(tmp_path / "g", Noting(), seed=9)
    run(tmp_path / "h", Noting())
    assert seen == [None, None]


def test_an_interrupted_restart_says_that_it_would_begin_again(tmp_path: Path) -> None:
    run(tmp_path / "g", Scripted())
    with pytest.raises(Interrupted, match="the same command without --restart goes on"):
        run(tmp_path / "g", Scripted(stop_after=2), restart=True)


def test_several_questions_without_sampling_are_refused() -> None:
    with pytest.raises(UserError, match="questions_per_record = 3 needs generate.do_sample: true"):
        several(RECORDS, 3, do_sample=False)
    assert several(RECORDS, 1, do_sample=False) == RECORDS


def test_every_kind_of_prompt_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run(tmp_path / "g", Scripted())
    monkeypatch.setitem(prompts.TYPE_HINTS, "主观题", "另一种要求")
    run(tmp_path / "g", Scripted())
    assert "a new run (prompt changed)" in capsys.readouterr().out
