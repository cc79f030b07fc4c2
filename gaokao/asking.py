"""Questions put to a model about questions: every answer is kept by its content, so that a rerun asks nothing twice."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from tqdm import tqdm

from gaokao.console import quiet_libraries
from gaokao.errors import UserError
from gaokao.prompts import Message
from gaokao.runs import Journal
from gaokao.settings import Resolved, require_device
from gaokao.writing import Completion, Job, Round


class Answerer(Protocol):
    """What answers: the model at hand without its adapter (`generation.Local`) or a server (`served.Served`)."""

    answered_by: str
    """What the figures call it."""
    processes: int
    thinks: bool
    """There is room for thoughts before the answer; otherwise it has to come at once."""

    def identity(self) -> dict[str, Any]:
        """What the answers depend on beside the messages."""

    def answer(self, work: Round) -> dict[int, str]:
        """Write the likeliest completion of each missing job.

        Returns:
            Position -> reason, for those that failed for good.
        """


class Answer(NamedTuple):
    """One answer as it is kept."""

    text: str
    finish_reason: str
    """`stop`; `length`: cut off; `refused`: a server would not answer; or what else a server says."""
    prompt_tokens: int = 0
    """0, as below, where nobody has counted them."""
    completion_tokens: int = 0


class Answers:
    """The answers of one model that lie in a folder, and how to get more; to be used in `with`."""

    def __init__(
        self, path: Path, answerer: Answerer, process: int = 0, meet: Callable[[], None] = lambda: None
    ) -> None:
        """Read what is there.

        Args:
            path: the journal, such as `solved.jsonl`; other processes than the first have one of their own beside it.
            answerer: who is asked. Where it is one process (a server) among several, the first one asks for all.
            process: number of this process.
            meet: waits for the others.

        Raises:
            UserError: the journal cannot be written to, or another process has it open.
        """
        self.path, self.answerer, self.process, self.meet = path, answerer, process, meet
        self.known: dict[str, Answer] = {}
        self.used: dict[str, Answer] = {}
        """Those of `known` that this run has asked for."""
        self.failures: Counter[str] = Counter()
        """Reasons, and how many requests failed for each."""
        self.asked = 0
        """New answers, as far as this process has asked for them."""
        self._journal = Journal(path.with_name(f"{path.stem}-{process}{path.suffix}") if process else path)
        self._read()

    def ask(self, asks: Mapping[str, list[Message]]) -> dict[str, Answer]:
        """The answers to these messages, by their keys; those that failed are left out and counted in `failures`.

        Args:
            asks: key -> messages. The key says what is asked and of whom; messages of one key may differ.

        Raises:
            UserError: the run had to stop; the answers so far are kept.
        """
        jobs = [Job(place, 1, key, messages) for place, (key, messages) in enumerate(asks.items())]
        done = {job.position for job in jobs if job.key in self.known}
        if len(done) < len(jobs):
            if self.process < self.answerer.processes:
                self._ask(jobs, done)
            self.meet()
            self._read()
            # Nobody asks on before all have read the same.
            self.meet()
        found = {key: self.known[key] for key in asks if key in self.known}
        self.used |= found
        return found

    def _ask(self, jobs: Sequence[Job], done: Collection[int]) -> None:
        def keep(completion: Completion) -> None:
            bar.update()
            row = {"key": jobs[completion.position].key, **completion._asdict()}
            del row["position"]
            self._journal.add(row)
            self.asked += 1

        work = Round(jobs, done, keep)
        share = work.share(self.answerer.processes)
        with tqdm(total=share, desc=self.path.stem, unit="answer", dynamic_ncols=True, disable=self.process > 0) as bar:
            failed = self.answerer.answer(work)
        self.failures.update(failed.values())

    def _read(self) -> None:
        """Take in what all processes have kept."""
        for path in sorted(self.path.parent.glob(f"{self.path.stem}*{self.path.suffix}")):
            for row in _rows(path):
                found: list[Any] = [row.get(name) for name in ("key", *Answer._fields)]
                if list(map(type, found)) == [str, str, str, int, int]:
                    self.known.setdefault(found[0], Answer(*found[1:]))

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal that another process may be writing to; a damaged line costs another request, no more."""
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def evaluator(resolved: Resolved) -> Answerer | None:
    """Who answers for `evaluate.py`: the server of evaluate.base_url, else the base; `None` where nobody is to.

    Raises:
        UserError: there is no server for the judge, or what is set cannot be used.
    """
    settings = resolved.config.evaluate
    if not settings.solve_back and not settings.judge:
        return None
    if settings.base_url is not None:
        from gaokao import served

        return served.evaluator(settings)
    if settings.judge:
        raise UserError(
            "evaluate.judge: true needs evaluate.base_url, the server of another model: the base that the questions come "
            "from is no judge of them"
        )
    require_device(resolved)
    quiet_libraries()
    from gaokao import generation

    return generation.Local(resolved, None)


def cost(answers: Answers) -> dict[str, Any]:
    """The answers that a run used, what they took, now or in an earlier run, and the requests that failed."""
    used = answers.used.values()
    return {
        "answers": len(used),
        "new": answers.asked,
        "cut_off": sum(answer.finish_reason == "length" for answer in used),
        "refused": sum(answer.finish_reason == "refused" for answer in used),
        "prompt_tokens": sum(answer.prompt_tokens for answer in used),
        "completion_tokens": sum(answer.completion_tokens for answer in used),
        "failed": dict(answers.failures),
    }
