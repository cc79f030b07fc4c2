"""One generated question, and the results files that hold them: written by inference, read back by the evaluation."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from gaokao.checks import CHECKS, Item, Outcome, Result, not_applicable, result, run_checks, taken_over
from gaokao.errors import UserError, shown
from gaokao.parallel import on_cores
from gaokao.prompts import Question, parse, render
from gaokao.records import OUTSIDE, SECTIONS, TEXTBOOK, Record, join_answers, parse_record
from gaokao.sources import Raw, read_raw

SCORES, REPORT, PICTURE = "scores.json", "report.html", "usable.png"
# What the gate of generation adds to the checks of one question.
REPEATS, OFF_PASSAGES, SOLVE_BACK = "repeats", "off passages", "solve back"
# Every check of a generated question, in the order of `Generated.results`: its name, and whether it is hard.
ALL_CHECKS = (
    *((check.name, check.hard) for check in CHECKS),
    (REPEATS, True),
    (OFF_PASSAGES, False),
    (SOLVE_BACK, False),
)
# Where a record comes from within a chapter: carried through to its question.
PASSAGE_KEY = "passage"
ASKED_KEYS = ("id", "subject", "type", TEXTBOOK, OUTSIDE, "difficulty", "topic", PASSAGE_KEY)
_NAME_ONE = "name a questions.json or questions.jsonl that infer_qwen_gaokao.py wrote"


class Solved(NamedTuple):
    """How a solver that does not see the key has answered a choice question."""

    agree: int
    """Answers that are the key."""
    answers: tuple[str, ...]
    """Option letters as the question has them; empty where the solver named none."""

    @property
    def confirmed(self) -> bool:
        """Whether more than half of the answers are the key."""
        return 2 * self.agree > len(self.answers)

    def to_dict(self) -> dict[str, Any]:
        """As `questions.json` has it."""
        return {"asked": len(self.answers), "agree": self.agree, "answers": list(self.answers)}


@dataclass(frozen=True)
class Generated:
    """What a model wrote for one record. The text is read once, and checked once, when first asked for."""

    record: Record
    """What the question was asked for: subject, type, passages, difficulty and topic; no reference."""
    prompt: str
    text: str
    finish_reason: str
    """`stop`: ended by an end token; `length`: cut at max_new_tokens; `refused`: a server would not write it; or what else
    a server says."""
    prompt_tokens: int
    completion_tokens: int
    adapter: str
    reference: str | None = None
    """The text that the record's own question would have, where it has one."""
    attempt: int = 1
    """The draft that this is, from 1."""
    repeats: str | None = None
    """The question that this one repeats, in words; empty for none; `None` where the gate has not compared it yet."""
    off_passages: bool | None = None
    """Nearer to passages of other records than to each of its own; `None` as above."""
    solved: Solved | None = None
    """What a solver made of it; `None` where none was asked."""
    attempts: tuple[dict[str, Any], ...] = ()
    """All drafts of the record, this one among them: `attempt`, `usable` and the names of `failed_checks`."""

    @classmethod
    def of(cls, record: Record, **written: Any) -> Self:
        """What was written for a record; its own question becomes the reference."""
        return cls(asked(record), reference=render(record) if record.has_reference else None, **written)

    @cached_property
    def question(self) -> Question:
        """题干, 参考答案 and 解析 as read from the text, and what is missing or misplaced."""
        return parse(self.text)

    @cached_property
    def sections(self) -> dict[str, str]:
        """The three parts by their headers."""
        values = (self.question.question, join_answers(self.question.answer), self.question.analysis)
        return dict(zip(SECTIONS, values, strict=True))

    @cached_property
    def item(self) -> Item:
        """What the checks look at."""
        return Item.from_question(self.record, self.question, self.finish_reason)

    @cached_property
    def checks(self) -> list[Result]:
        """The result of every check of one question, in the order of `CHECKS`."""
        return run_checks(self.item)

    @cached_property
    def results(self) -> list[Result]:
        """These and what the gate found, in the order of `ALL_CHECKS`."""
        repeats = [f"is like {self.repeats}"] if self.repeats else []
        off = ["the 题干 is nearer to passages of other records than to its own"] if self.off_passages else []
        return [
            *self.checks,
            not_applicable(REPEATS) if self.repeats is None else result(REPEATS, repeats),
            not_applicable(OFF_PASSAGES) if self.off_passages is None else result(OFF_PASSAGES, off),
            self._solve_back(),
        ]

    def _solve_back(self) -> Result:
        if self.solved is None:
            return not_applicable(SOLVE_BACK)
        answers = ", ".join(answer or "none" for answer in self.solved.answers)
        fault = f"{self.solved.agree} of {len(self.solved.answers)} blind answers are the key ({answers})"
        return result(SOLVE_BACK, [] if self.solved.confirmed else [fault])

    @cached_property
    def taken_over(self) -> dict[str, list[str]]:
        """What the 题干 takes over from each passage word for word."""
        return taken_over(self.item)

    @property
    def usable(self) -> bool:
        """Whether no hard check failed."""
        return not any(row["hard"] for row in self.failed_checks)

    @property
    def passes(self) -> bool:
        """Whether generation need not try again."""
        return self.usable and not self.off_passages and (self.solved is None or self.solved.confirmed)

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [str(row["check"]) for row in self.failed_checks]

    @property
    def failed_checks(self) -> list[dict[str, Any]]:
        """The checks that failed: `check`, `hard` and `evidence`."""
        return [
            {"check": name, "hard": hard, "evidence": found.evidence}
            for (name, hard), found in zip(ALL_CHECKS, self.results, strict=True)
            if found.outcome is Outcome.FAIL
        ]

    def to_dict(self) -> dict[str, Any]:
        """An entry of `questions.json`."""
        row = self.record.to_dict()
        return {
            **{key: row[key] for key in ASKED_KEYS if key in row},
            "adapter": self.adapter,
            "prompt": self.prompt,
            "text": self.text,
            **self.sections,
            "missing": list(self.question.missing),
            "misplaced": list(self.question.misplaced),
            "finish_reason": self.finish_reason,
            "usable": self.usable,
            "failed_checks": self.failed_checks,
            "attempt": self.attempt,
            **({"repeats": self.repeats} if self.repeats else {}),
            **({"off_passages": True} if self.off_passages else {}),
            **({"solved": self.solved.to_dict()} if self.solved else {}),
            **({"attempts": list(self.attempts)} if self.attempts else {}),
            "taken_over": self.taken_over,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "reference": self.reference,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], where: str = "entry") -> Self:
        """The question of an entry; what was read from its text is read anew, with today's checks.

        Raises:
            UserError: something is missing or of another kind; with `where`.
        """
        record, problems = parse_record(
            Raw(where, {key: entry[key] for key in ASKED_KEYS if key in entry}), 0, "generate"
        )
        texts = {key: entry.get(key, "") for key in ("text", "finish_reason", "prompt", "adapter")}
        problems += [f"{where}: {key} is missing" for key in ("id", "text", "finish_reason") if key not in entry]
        problems += [
            f"{where}: {key} is {shown(value)}, not a text"
            for key, value in texts.items()
            if not isinstance(value, str)
        ]
        if not isinstance(reference := entry.get("reference"), str | None):
            problems.append(f"{where}: reference is {shown(reference)}, not a text")
        attempt, attempts = entry.get("attempt", 1), entry.get("attempts", [])
        # What the gate found is written where it found something; that it has looked at all, the attempts say.
        repeats = entry.get("repeats", "" if attempts else None)
        if not isinstance(repeats, str | None) or not isinstance(attempt, int) or not _are_attempts(attempts):
            problems.append(f"{where}: attempt, attempts or repeats is not what was written there")
        solved = _solved(entry["solved"]) if "solved" in entry else None
        if "solved" in entry and solved is None:
            problems.append(f"{where}: solved is {shown(entry['solved'])}, not what was written there")
        if record is None or problems:
            raise UserError("; ".join([*problems, _NAME_ONE]))
        counts = [entry.get(key) for key in ("prompt_tokens", "completion_tokens")]
        prompt_tokens, completion_tokens = (count if isinstance(count, int) else 0 for count in counts)
        return cls(
            record,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            reference=reference or None,
            attempt=attempt,
            repeats=repeats,
            off_passages=entry.get("off_passages", False) is True if attempts or "off_passages" in entry else None,
            solved=solved,
            attempts=tuple(attempts),
            **texts,
        )


def asked(record: Record) -> Record:
    """What a question is asked for: the record without its own question, which the model does not see."""
    extra = {PASSAGE_KEY: record.extra[PASSAGE_KEY]} if PASSAGE_KEY in record.extra else {}
    return replace(record, question="", answer=(), analysis="", extra=extra)


def attempt_row(draft: Generated) -> dict[str, Any]:
    """What the kept question of a record says of each of its drafts."""
    return {"attempt": draft.attempt, "usable": draft.usable, "failed_checks": draft.failed}


def text_digest(item: Generated) -> str:
    """What tells a question from another one that was written for the same record."""
    return hashlib.sha256(item.text.encode("utf-8", "replace")).hexdigest()[:16]


def best(drafts: Sequence[Generated]) -> Generated:
    """The draft of a record to keep: the first with the fewest hard failures, and of those one that passes, or fails least."""
    return min(
        drafts,
        key=lambda item: (
            sum(row["hard"] for row in item.failed_checks),
            not item.passes,
            bool(item.off_passages),
            item.attempt,
        ),
    )


def _best_of_journal(drafts: Sequence[Generated]) -> Generated:
    kept = best(drafts)
    return kept if len(drafts) == 1 else replace(kept, attempts=tuple(map(attempt_row, drafts)))


def _solved(value: Any) -> Solved | None:
    """What `Solved.to_dict` wrote, or `None` where it is something else."""
    answers, agree = (value.get("answers"), value.get("agree")) if isinstance(value, dict) else (None, None)
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        return None
    return Solved(agree, tuple(answers)) if type(agree) is int and 0 <= agree <= len(answers) else None


def _are_attempts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and isinstance(row.get("usable"), bool) and isinstance(row.get("failed_checks"), list)
        for row in value
    )


def read_results(path: Path) -> list[Generated]:
    """The questions of `questions.json`, or of a `questions.jsonl` that an interrupted run left.

    Half a line at the end, of an item that a killed run never finished, is left out; of several drafts of a record the
    best one counts.

    Raises:
        UserError: the file is missing or not a results file, or an entry is not whole: it is named.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the file in it, such as {path / 'questions.json'}")
    if not path.exists():
        raise UserError(f"{path}: there is no such results file; run infer_qwen_gaokao.py first")
    if _holds_scores(path):
        raise UserError(f"{path}: holds scores, not results; {_NAME_ONE}")
    try:
        raws = list(read_raw(path))
    except UserError as error:
        raise UserError(f"{error}; {_NAME_ONE}") from None
    if len(raws) > 1 and raws[-1].problem and raws[-1].value is None and not path.read_bytes().endswith(b"\n"):
        raws.pop()
    drafts: dict[tuple[str, int], list[Generated]] = {}
    same: Counter[tuple[str, int]] = Counter()
    for raw in raws:
        if raw.problem:
            raise UserError(f"{raw.where}: {raw.problem}; {_NAME_ONE}")
        if not isinstance(raw.value, dict):
            raise UserError(f"{raw.where}: holds {shown(raw.value)} instead of an entry; {_NAME_ONE}")
        item = Generated.from_dict(raw.value, raw.where)
        # The same attempt once more is another question, whoever gave it that id.
        same[item.record.id, item.attempt] += 1
        drafts.setdefault((item.record.id, same[item.record.id, item.attempt]), []).append(item)
    if not drafts:
        raise UserError(f"{path}: holds no results; run infer_qwen_gaokao.py first")
    return on_cores(_best_of_journal, [(those,) for those in drafts.values()], len(drafts))


def scores_file(results: Path) -> Path:
    """Where the scores of a results file go: `scores.json` beside `questions.json`, `NAME.scores.json` beside others.

    Raises:
        UserError: `results` is itself named like a scores file, or what stands there is no scores file.
    """
    if results.name == SCORES:
        raise UserError(f"{results}: is the name of the file that this command writes; {_NAME_ONE}")
    usual = results.name in ("questions.json", "questions.jsonl")
    name = results.stem if results.suffix == ".json" else results.name
    target = results.with_name(SCORES if usual else f"{name}.{SCORES}")
    if target.exists() and not _holds_scores(target):
        raise UserError(f"{target}: is not a file that this command wrote; move it away first")
    return target


def report_file(scores: Path) -> Path:
    """Where the page of a results file goes, beside its scores."""
    return scores.with_name(scores.name.removesuffix(SCORES) + REPORT)


def picture_file(scores: Path) -> Path:
    """Where the picture of a results file goes, beside its scores."""
    return scores.with_name(scores.name.removesuffix(SCORES) + PICTURE)


def _holds_scores(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        # A list of questions is not parsed only to see that it holds none.
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "three_sections" in value
