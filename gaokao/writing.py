"""From records to kept questions: rounds of attempts, each draft on disk at once, the gate, and going on after a stop.

The first round writes a draft for every record, each later one for the records whose drafts all failed. What a round
writes depends on the rounds before it only, so a run that was interrupted goes on as if it had not been.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from tqdm import tqdm

from gaokao.console import sample_text
from gaokao.errors import Interrupted, UserError
from gaokao.gate import Gate
from gaokao.prompts import Message, prepare_input
from gaokao.records import DIFFICULTIES, SUBJECTS, TYPES, Record, fingerprint
from gaokao.results import Generated, Solved, asked, attempt_row, best
from gaokao.runs import RUN_RECORD, Journal, make_folder, read_record, set_aside, visible, write_json

QUESTIONS = "questions.json"
JOURNAL = "questions.jsonl"
# Whatever the prompt of a record can hold.
_EVERY = [
    Record("", subject, kind, "甲", "乙", difficulty=difficulty, topic="丙")
    for subject in SUBJECTS
    for kind in TYPES
    for difficulty in ("", *DIFFICULTIES)
]
RESTART = "--restart sets these results aside and draws anew"


class Job(NamedTuple):
    """One draft that is to be written."""

    position: int
    """Of the record in the list of records."""
    attempt: int
    """From 1."""
    key: str
    """What the draws depend on: a digest of the run's seed, the record and the attempt."""
    messages: list[Message]


class Completion(NamedTuple):
    """What an engine wrote for one job."""

    position: int
    """That of the job."""
    text: str
    finish_reason: str
    """`stop`: ended by an end token; `length`: cut at max_new_tokens; `refused`: a server would not write it; or what else
    a server says."""
    prompt_tokens: int
    completion_tokens: int


class Round(NamedTuple):
    """The jobs of one call of a model, and what becomes of their completions."""

    jobs: Sequence[Job]
    done: Collection[int]
    """Positions whose completion is there already."""
    keep: Callable[[Completion], None]
    """Takes each completion as soon as it is there."""
    tick: Callable[[int], None] = lambda tokens: None
    """Told the number of new tokens now and then."""

    @property
    def missing(self) -> list[Job]:
        """The jobs without a completion."""
        return [job for job in self.jobs if job.position not in self.done]

    def share(self, processes: int) -> int:
        """How many missing jobs one of so many processes has, about: they share them by batches."""
        return -(-len(self.missing) // processes)


class Engine(Protocol):
    """What writes the drafts: the model at hand (`generation.Local`) or a server (`served.Served`)."""

    name: str
    """What the results call it: the adapter, or the model of a server."""
    process: int
    """Number of this process among those that share the work; only the first one prints and writes results."""
    processes: int
    """How many they are."""

    def inputs(self) -> dict[str, Any]:
        """What the questions depend on beside the records, by the name that a user knows it by."""

    def prompts(self, records: Sequence[Record]) -> list[str]:
        """The text of each record's prompt; nothing large is loaded for it.

        Raises:
            UserError: prompt and answer do not fit into the context.
        """

    def load(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Make ready to write; what a run that goes on has to do alike is given, and returned to be recorded."""

    def write(self, work: Round) -> None:
        """Write a completion of each missing job."""

    def meet(self) -> None:
        """Wait until all processes have come here."""


Solve = Callable[[Sequence[Generated]], list[Solved | None]]


class Solver(Protocol):
    """What answers the questions of the drafts without seeing their keys (`solving.SolveBack`)."""

    def inputs(self) -> dict[str, Any]:
        """What the kept questions depend on besides, by the name that a user knows it by."""

    def opened(self, folder: Path, engine: Engine) -> AbstractContextManager[Solve]:
        """What solves drafts while the block runs; its answers are kept in `folder`."""


# --- the folder of the results ----------------------------------------------------------------------------------------


def is_finished(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the questions of these inputs are there already."""
    return (folder / QUESTIONS).exists() and (read_record(folder) or {}).get("inputs") == inputs


def open_results(folder: Path, inputs: Mapping[str, Any], restart: bool) -> str:
    """Make the folder ready: an interrupted run of these inputs goes on, other results are set aside.

    Returns:
        A line for the screen about what was there; empty for a folder without results.
    """
    if not visible(folder):
        return ""
    before = (read_record(folder) or {}).get("inputs")
    if before == inputs and not restart:
        return "going on where an earlier run was interrupted"
    why = "--restart" if restart else _changed(before, inputs)
    return f"a new run ({why}); the earlier questions were moved to {set_aside(folder)}"


def _changed(before: Any, inputs: Mapping[str, Any]) -> str:
    if not isinstance(before, dict):
        return "nothing says what the earlier ones were made with"
    changes = []
    for name in [*inputs, *(name for name in before if name not in inputs)]:
        then, now = before.get(name), inputs.get(name)
        if then != now:
            # Of a digest only that it changed can be said.
            texts = [json.dumps(value, ensure_ascii=False) for value in (then, now)]
            long = any(len(text) > 60 for text in texts)
            changes.append(f"{name} changed" if long else f"{name} was {texts[0]}, is {texts[1]}")
    return "; ".join(changes)


def digest(value: Any) -> str:
    """A digest of a JSON value, to be compared as an input."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def several(records: Sequence[Record], count: int, do_sample: bool = True) -> list[Record]:
    """Each record `count` times, under ids that end in -1, -2 and so on: a question is written for each.

    Raises:
        UserError: without sampling they would all be the same.
    """
    if count > 1 and not do_sample:
        raise UserError(
            f"generate.questions_per_record = {count} needs generate.do_sample: true; all would be the same"
        )
    if count == 1:
        return list(records)
    return [replace(record, id=f"{record.id}-{number}") for record in records for number in range(1, count + 1)]


# --- the rounds -------------------------------------------------------------------------------------------------------


class Drafts:
    """Every draft of a run, by place of its record and attempt, and the journals that hold them."""

    def __init__(self, records: Sequence[Record], folder: Path, process: int = 0) -> None:
        """Read the journals of all processes; this one's is opened for more.

        Raises:
            UserError: a journal is damaged, or holds a draft of no record of the run.
        """
        self.records = records
        self.folder = folder
        self.by_place: dict[tuple[int, int], Generated] = {}
        self._places = {record.id: place for place, record in enumerate(records)}
        self._journal = Journal(folder / (f"questions-{process}.jsonl" if process else JOURNAL))
        try:
            self.read()
        except BaseException:
            self._journal.close()
            raise

    def read(self) -> None:
        """Take in what the processes have written since."""
        for path in sorted({self.folder / JOURNAL, *self.folder.glob("questions-*.jsonl"), self._journal.path}):
            rows = self._journal.rows if path == self._journal.path else _whole_rows(path)
            if path == self._journal.path and self._journal.damaged:
                numbers = ", ".join(map(str, self._journal.damaged[:5]))
                raise UserError(f"{path}: line {numbers} holds no draft; take it out of the file, or {RESTART}")
            for number, row in enumerate(rows, 1):
                self._take(row, f"{path}:{number}")

    def _take(self, row: dict[str, Any], where: str) -> None:
        place = self._places.get(str(row.get("id")))
        if place is None:
            raise UserError(f"{where}: is of id {row.get('id')}, which is not in the data; take it out, or {RESTART}")
        known = (place, row["attempt"]) if isinstance(row.get("attempt"), int) else None
        if known not in self.by_place:
            item = Generated.from_dict(row, where)
            self.by_place[place, item.attempt] = replace(item, record=asked(self.records[place]))

    @property
    def written(self) -> int:
        """Records with a draft on the disk, as far as this process knows."""
        ours = {self._places[str(row["id"])] for row in self._journal.rows}
        return len(ours | {place for place, _ in self.by_place})

    def add(self, place: int, item: Generated) -> None:
        """Keep a draft; it is on the disk when this returns."""
        self._journal.add(item.to_dict())
        self.by_place[place, item.attempt] = item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of another process's journal, which may be writing the next one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        # A process that had nothing to write has closed it.
        return []
    rows = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{path}: line {number} holds no draft; take it out of the file, or {RESTART}") from None
    return rows


def job_key(record: Record, seed: int, attempt: int) -> str:
    """What the draws of a draft depend on."""
    return digest([fingerprint([asked(record)]), seed, attempt])


class _Progress:
    """The bar of a round: items, tokens, usable so far, time left; the first question of the run in full."""

    def __init__(self, total: int, done: int, attempt: int, quiet: bool) -> None:
        name = "questions" if attempt == 1 else f"attempt {attempt}"
        self.bar = tqdm(total=total, initial=done, desc=name, unit="item", dynamic_ncols=True, disable=quiet)
        self.started, self.tokens, self.items, self.usable = time.monotonic(), 0, 0, 0

    def tick(self, new: int) -> None:
        self.tokens += new
        self._show()

    def item(self, item: Generated, show: bool) -> None:
        self.items += 1
        self.usable += item.usable
        if show and not self.bar.disable:
            self.bar.write(f"{sample_text(item)}\nfirst     question after {time.monotonic() - self.started:.0f} s")
        self._show()
        self.bar.update(1)

    def _show(self) -> None:
        speed = self.tokens / max(time.monotonic() - self.started, 1e-9)
        self.bar.set_postfix_str(
            f"{self.usable}/{self.items} usable, {self.tokens} tokens, {speed:.0f} tokens/s", refresh=False
        )
        self.bar.update(0)


def write_questions(
    records: Sequence[Record],
    engine: Engine,
    gate: Gate,
    folder: Path,
    *,
    attempts: int,
    seed: int,
    restart: bool = False,
    solver: Solver | None = None,
) -> list[Generated]:
    """Write a question for every record, up to `attempts` times until one passes the gate.

    Args:
        records: what questions are generated for.
        engine: writes the drafts.
        gate: what they must pass beside their own checks.
        folder: of the results; its parent exists.
        attempts: drafts of a record at most.
        seed: of the draws.
        restart: begin anew even where the same inputs have results.
        solver: must confirm the key of a draft that has passed all else; `None` where nobody is asked.

    Returns:
        The kept question of each record, in their order, also where every draft failed; nothing where an earlier run
        has finished with the same inputs.

    Raises:
        Interrupted: Ctrl-C; what is finished is kept.
        UserError: the engine failed, or a journal is not whole.
    """
    first, prompts = engine.process == 0, engine.prompts(records)
    inputs = _inputs(records, engine, solver) | {"generate.attempts": attempts, "generate.seed": seed}
    engine.meet()
    if is_finished(folder, inputs) and not restart:
        if first:
            print(f"finished  {folder / QUESTIONS} holds the questions of these inputs; {RESTART}")
        return []
    before = read_record(folder) or {}
    recorded = engine.load(before if before.get("inputs") == inputs and not restart else {})
    if first:
        _begin(folder, inputs, restart, recorded)
    engine.meet()
    opened = nullcontext(None) if solver is None else solver.opened(folder, engine)
    with Drafts(records, folder, engine.process) as drafts, opened as solve:
        engine.meet()
        try:
            kept = _Rounds(records, prompts, engine, gate, drafts, seed, solve).run(attempts)
        except KeyboardInterrupt:
            again = "the same command without --restart goes on" if restart else "the same command goes on"
            raise Interrupted(
                f"{drafts.written} of {len(records)} questions are written and kept in {folder}; {again}"
            ) from None
        if first:
            write_json(folder / QUESTIONS, [item.to_dict() for item in kept])
            print(f"wrote     {len(kept)} questions of {len(drafts.by_place)} drafts")
    return kept


def _inputs(records: Sequence[Record], engine: Engine, solver: Solver | None) -> dict[str, Any]:
    asked_for = {"data": fingerprint(records), "prompt": digest([prepare_input(record) for record in _EVERY])}
    return engine.inputs() | asked_for | (solver.inputs() if solver else {})


def _begin(folder: Path, inputs: Mapping[str, Any], restart: bool, recorded: Mapping[str, Any]) -> None:
    if text := open_results(folder, inputs, restart):
        print(f"start     {text}")
    make_folder(folder)
    write_json(folder / RUN_RECORD, {"inputs": inputs, **recorded})


class _Rounds(NamedTuple):
    """The work of one run."""

    records: Sequence[Record]
    prompts: Sequence[str]
    engine: Engine
    gate: Gate
    drafts: Drafts
    seed: int
    solve: Solve | None

    def run(self, attempts: int) -> list[Generated]:
        """All rounds; the best draft of each record."""
        judged: dict[int, list[Generated]] = {place: [] for place in range(len(self.records))}
        missing = list(judged)
        for attempt in range(1, attempts + 1):
            if any((place, attempt) not in self.drafts.by_place for place in missing):
                self.write(attempt, missing)
                self.engine.meet()
                self.drafts.read()
                # Nobody writes on before all have read the same.
                self.engine.meet()
            written = [self.drafts.by_place[place, attempt] for place in missing]
            kept = [best(those) for those in judged.values() if those and best(those).passes]
            repeats, off = self.gate.repeats(kept, written), self.gate.off_passages(written)
            for place, item, like, far in zip(missing, written, repeats, off, strict=True):
                judged[place].append(replace(item, repeats=like, off_passages=far))
            if self.solve:
                latest = [judged[place][-1] for place in missing]
                for place, item, solved in zip(missing, latest, self.solve(latest), strict=True):
                    judged[place][-1] = replace(item, solved=solved)
            missing = [place for place in missing if not judged[place][-1].passes]
        return self.final(judged.values())

    def final(self, judged: Collection[list[Generated]]) -> list[Generated]:
        """The best draft of each record, compared once more: one that fails every time stays, and may be repeated by others."""
        kept = [best(those) for those in judged]
        likes = self.gate.repeats([], kept)
        marked = [replace(item, repeats=item.repeats or like) for item, like in zip(kept, likes, strict=True)]
        return [
            replace(item, attempts=tuple(attempt_row(item if one.attempt == item.attempt else one) for one in those))
            for item, those in zip(marked, judged, strict=True)
        ]

    def write(self, attempt: int, places: Sequence[int]) -> None:
        """The drafts of one round that are not there yet."""
        jobs = [
            Job(place, attempt, job_key(self.records[place], self.seed, attempt), prepare_input(self.records[place]))
            for place in places
        ]
        done = {place for place in places if (place, attempt) in self.drafts.by_place}

        def keep(completion: Completion) -> None:
            place = completion.position
            item = Generated.of(
                self.records[place],
                prompt=self.prompts[place],
                text=completion.text,
                finish_reason=completion.finish_reason,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                adapter=self.engine.name,
                attempt=attempt,
            )
            self.drafts.add(place, item)
            # What else is judged of it depends on the others of the round.
            progress.item(
                replace(item, repeats=self.gate.learnt(item)), show=attempt == 1 and not done and not progress.items
            )

        work = Round(jobs, done, keep, lambda tokens: progress.tick(tokens))
        # Of what is missing each process writes its share; the bar shows that of the first one.
        total = len(done) + work.share(self.engine.processes)
        progress = _Progress(total, len(done), attempt, quiet=self.engine.process > 0)
        with progress.bar:
            self.engine.write(work)
