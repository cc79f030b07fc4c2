"""Solve-back: choice questions answered by a model that does not see the key. Does it come to the 参考答案?

What its agreement is worth depends on how well it solves real items of the subject, so its accuracy on the references
stands beside it. Other types are not solved: whether two wordings or two formulas are one answer, no rule can tell.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from gaokao.asking import Answer, Answerer, Answers, cost
from gaokao.checks import conclusions
from gaokao.config import OPENAI, Config
from gaokao.errors import UserError
from gaokao.figures import groups
from gaokao.metrics import rate
from gaokao.prompts import Message
from gaokao.records import CHAT_MARKER
from gaokao.results import Generated, Solved
from gaokao.text import CHOICE_TYPES, LETTERS, fold, option_run, parse_key, split_options
from gaokao.writing import Engine, Solve, digest

SOLVED = "solved.jsonl"
HOW_MANY = {"单选题": "只有一个选项正确", "多选题": "有两个或两个以上选项正确"}
AT_ONCE = "不写过程，只回答一行：“答案：”和选项字母。"
THOUGHT_OVER = "先简要分析，最后单独写一行：“答案：”和选项字母。"
# Options that name others, or all of them, have to stay where they are.
_NAMES_OTHERS = re.compile(
    r"(?:以上|上述|前述)(?:都|均|各|全|选|答案|说法|[两三四]项)|^[都均全](?:正确|错误|对|错|是|不)"
    r"|(?<![A-Za-z])[A-H](?:选?项|[、,和与或及][A-H](?![A-Za-z]))|选项[A-H]"
)


class Puzzle(NamedTuple):
    """A choice question in its parts."""

    subject: str
    type: str
    stem: str
    options: dict[str, str]
    """Letter -> text."""
    key: str
    """Sorted letters."""

    @property
    def fixed(self) -> bool:
        """Whether the options have to stay in their order."""
        texts = [fold(text).strip() for text in self.options.values()]
        return any(map(_NAMES_OTHERS.search, texts)) or re.search("[A-H]选?项|选项[A-H]", fold(self.stem)) is not None

    @property
    def chance(self) -> float:
        """How often a guess is right: of one option, or of a set of two or more."""
        count = len(self.options)
        return 1 / count if self.type == "单选题" else 1 / (2**count - count - 1)


def puzzle(item: Generated) -> Puzzle | None:
    """The question to solve; `None` where it has no options, no key of their letters, or several keys."""
    record, question = item.record, item.question
    run, options = option_run(question.question), split_options(question.question)
    key = parse_key(question.answer[0]) if len(question.answer) == 1 else ""
    if record.type not in CHOICE_TYPES or not run or not options or not key or not set(key) <= options.keys():
        return None
    if CHAT_MARKER.search(question.question):
        # A tokenizer would take it for the end of the turn.
        return None
    return Puzzle(record.subject, record.type, question.question[: run[0][1]], options, "".join(sorted(set(key))))


def orders(puzzle: Puzzle, count: int) -> list[str]:
    """Orders of the options, each as the letters in the places of A, B, C and so on; fewer where there are no more.

    One random order that depends on the question, turned by one place each time, so that after as many answers as there
    are options each has stood in each place: models prefer some places (Zheng et al. 2024, arXiv:2309.03882). Then the
    same backwards.
    """
    letters = "".join(puzzle.options)
    if puzzle.fixed:
        return [letters]
    first = Random(digest([puzzle.stem, puzzle.options])).sample(letters, len(letters))
    turned = [way[at:] + way[:at] for way in (first, first[::-1]) for at in range(len(letters))]
    return ["".join(order) for order in turned[:count]]


def messages(puzzle: Puzzle, order: str, thinks: bool) -> list[Message]:
    """What a solver is asked: the 题干 with its options in this order."""
    options = "\n".join(f"{shown}．{puzzle.options[letter]}" for shown, letter in zip(LETTERS, order, strict=False))
    task = f"这是一道{puzzle.type}，{HOW_MANY[puzzle.type]}。{THOUGHT_OVER if thinks else AT_ONCE}"
    return [
        {"role": "system", "content": f"你是参加高考{puzzle.subject}考试的考生。"},
        {"role": "user", "content": f"{puzzle.stem.rstrip()}\n{options}\n\n{task}"},
    ]


# 我选择B; B / B．乙 / B项 at the beginning of an answer.
_CHOSEN = re.compile(r"(?<!不)选择?([A-H](?:[、,和 ]*[A-H])*)(?![A-Za-z])")
# 【答案】B, 答案：“B”, 答案是选项B: what stands before the letters.
_LEAD = re.compile(r"答案[】”\"」]?[:是为]?[】”\"」]?[ ]?(?:选项)?[“\"「【\[(]?(?=[A-H](?![A-Za-z]))")
# A；C, A/C and a letter a line: what stands between them where nothing else follows. `A．错误` below an answer is a verdict.
_BETWEEN = re.compile(r"(?<=[A-H])\s*[;/\n]\s*(?=[A-H](?:\s*[;/,、\n]\s*[A-H])*[。)”\"】]*\s*$)")
_BARE = re.compile(r"\s*[(]?([A-H](?:[、,和 ]*[A-H])*)(?=[).:、。]|选?项|\s*$|[ \t]*\n)")


def read_letters(answer: Answer, thinks: bool) -> str:
    """The letters that an answer names, as it was shown them; empty where it names none.

    Where there was room for thoughts, the end of an answer that was cut off is missing, and with it what it comes to.
    """
    text = answer.text.rpartition("</think>")[2]
    if "<think>" in text or (thinks and answer.finish_reason == "length"):
        return ""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text.replace("*", ""))
    text = fold(re.sub(r"\\boxed\s*\{([^{}]*)\}", r"答案：\1", text))
    text = _LEAD.sub("答案:", re.sub(r":\s+", ":", text))
    text = _BETWEEN.sub("、", text)
    if found := conclusions(text):
        return found[-1][0]
    bare = [match[1] for match in (_BARE.match(text), *_CHOSEN.finditer(text)) if match]
    return "".join(sorted(set(re.sub("[^A-H]", "", bare[-1])))) if bare else ""


def solve(items: Sequence[Generated], count: int, answers: Answers) -> list[Solved | None]:
    """The blind answers to each question; `None` where it cannot be solved, or all of its requests failed."""
    thinks, identity = answers.answerer.thinks, answers.answerer.identity()
    plans: list[tuple[Puzzle, dict[str, str]] | None] = []
    asks: dict[str, list[Message]] = {}
    for item in items:
        found = puzzle(item)
        plans.append(None)
        if found is not None:
            asked = {order: messages(found, order, thinks) for order in orders(found, count)}
            keys = {order: digest([identity, turns]) for order, turns in asked.items()}
            asks |= {keys[order]: turns for order, turns in asked.items()}
            plans[-1] = found, keys
    known = answers.ask(asks)
    return [plan and _solved(*plan, known, thinks) for plan in plans]


def _solved(puzzle: Puzzle, keys: Mapping[str, str], known: Mapping[str, Answer], thinks: bool) -> Solved | None:
    found = []
    for order, key in keys.items():
        if key in known:
            places = [LETTERS.index(letter) for letter in read_letters(known[key], thinks)]
            # A letter that no option has is no answer.
            there = all(place < len(order) for place in places)
            found.append("".join(sorted(order[place] for place in places)) if there else "")
    return Solved(found.count(puzzle.key), tuple(found)) if found else None


# --- as a gate of generation ------------------------------------------------------------------------------------------


class SolveBack:
    """The solver of a run of inference: `count` blind answers to each draft that passes all else."""

    def __init__(self, answerer: Answerer, count: int) -> None:
        """One for a run; nothing is asked or loaded yet."""
        self.answerer, self.count = answerer, count

    def inputs(self) -> dict[str, Any]:
        """How often who is asked."""
        return {"generate.solve_back": self.count, "solver": self.answerer.identity()}

    @contextmanager
    def opened(self, folder: Path, engine: Engine) -> Iterator[Solve]:
        """What solves drafts while the block runs; its answers are kept in `folder`."""
        with Answers(folder / SOLVED, self.answerer, engine.process, engine.meet) as answers:

            def solve_drafts(items: Sequence[Generated]) -> list[Solved | None]:
                # What is drawn again anyway need not be asked about.
                asked = [place for place, item in enumerate(items) if item.passes]
                solved = solve([items[place] for place in asked], self.count, answers)
                if answers.failures:
                    reasons = "; ".join(f"{reason} ({number})" for reason, number in answers.failures.items())
                    raise UserError(
                        f"solve back: {answers.failures.total()} of the requests to {self.answerer.answered_by} failed: {reasons}; "
                        "the answers so far are kept, and the same command goes on"
                    )
                by_place = dict(zip(asked, solved, strict=True))
                return [by_place.get(place) for place in range(len(items))]

            yield solve_drafts


def for_inference(config: Config, engine: Any) -> SolveBack | None:
    """The solver that generate.solve_back asks for: the server of evaluate.base_url, else the engine's own base.

    Raises:
        UserError: there is neither, or what is set cannot be used.
    """
    count = config.generate.solve_back
    if not count:
        return None
    if config.evaluate.base_url is not None:
        from gaokao import served

        return SolveBack(served.evaluator(config.evaluate), count)
    if config.generate.engine == OPENAI:
        raise UserError(
            f"generate.solve_back = {count} with generate.engine {OPENAI} needs evaluate.base_url and evaluate.served_model: "
            "the server that solves, such as the same one with the name of the base"
        )
    return SolveBack(engine, count)


# --- figures ----------------------------------------------------------------------------------------------------------


def solve_results(
    items: Sequence[Generated], folder: Path, answerer: Answerer, count: int
) -> tuple[list[Generated], dict[str, Any]]:
    """Have the questions and their references solved.

    Args:
        items: of one results file.
        folder: where its answers are kept.
        answerer: who solves.
        count: answers to each question.

    Returns:
        The questions with what was answered, and the figures.
    """
    real = references(items)
    with Answers(folder / SOLVED, answerer) as answers:
        solved = solve([*items, *real], count, answers)
    both = [replace(item, solved=one) for item, one in zip([*items, *real], solved, strict=True)]
    ours, theirs = both[: len(items)], both[len(items) :]
    return ours, {"solver": answerer.answered_by, **table(ours, theirs), **cost(answers)}


def references(items: Sequence[Generated]) -> list[Generated]:
    """The references of a results file as questions to solve, each once."""
    once = {(item.record.type, item.reference): item for item in items if item.reference}
    return [
        replace(item, text=text, finish_reason="stop", reference=None, attempts=()) for (_, text), item in once.items()
    ]


def table(items: Sequence[Generated], real: Sequence[Generated] = ()) -> dict[str, Any]:
    """Agreement with the keys, and accuracy on references, of all and by subject and type.

    Args:
        items: questions with what was answered.
        real: references with what was answered; none: how good the solver is, is not known.
    """
    solvable = [item for item in items if item.solved]
    ours, theirs = groups(solvable), groups([item for item in real if item.solved])
    return {
        "not_solved": len(items) - len(solvable),
        "no_answer": sum(not any(item.solved.answers) for item in solvable if item.solved),
        "all": _row(solvable, [item for item in real if item.solved]),
        "by": {name: _row(those, theirs.get(name, [])) for name, those in ours.items()},
    }


def _row(ours: Sequence[Generated], theirs: Sequence[Generated]) -> dict[str, Any]:
    agreement, accuracy = ([bool(one.solved and one.solved.confirmed) for one in those] for those in (ours, theirs))
    guesses = [found.chance for item in theirs if (found := puzzle(item))]
    chance = sum(guesses) / len(guesses) if guesses else None
    right = rate(accuracy)
    return {
        "agreement": rate(agreement),
        "accuracy": right,
        "chance": None if chance is None else round(chance, 4),
        "above_chance": None if chance is None else right["interval_95"][0] > chance,
    }
