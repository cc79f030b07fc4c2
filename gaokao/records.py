"""What a record is: one question with the passages it is made from. Load, validate, fingerprint.

A data set is one file or several, of JSON, JSON Lines, CSV or Parquet (`gaokao.sources`). All errors are reported
together; nothing is trained or generated until they are fixed.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gaokao.errors import UserError, shown
from gaokao.sources import FORMATS, Raw, Spec, collect_errors, read_raw, spec_text
from gaokao.text import CHOICE_TYPES, split_options

SUBJECTS = ("语文", "数学", "英语", "物理", "化学", "生物", "政治", "历史", "地理")
TYPES = ("单选题", "多选题", "填空题", "主观题")
TYPE_ALIASES = {"大题": "主观题", "解答题": "主观题", "简答题": "主观题"}
DIFFICULTIES = ("基础", "中档", "压轴")
DIFFICULTY_ALIASES = {"易": "基础", "容易": "基础", "中": "中档", "中等": "中档", "难": "压轴", "困难": "压轴"}
TOPIC_CHARS = 50
KEY_ALIASES = {
    "科目": "subject",
    "题型": "type",
    "题干": "question",
    "参考答案": "answer",
    "解析": "analysis",
    "难度": "difficulty",
    "知识点": "topic",
}
TEXTBOOK, OUTSIDE = "课本内容", "课外内容"
PASSAGES = (TEXTBOOK, OUTSIDE)
RECORD_KEYS = ("id", "subject", "type", TEXTBOOK, OUTSIDE, "question", "answer", "analysis", "difficulty", "topic")
# Where a table has its options in columns of their own, they are called 选项A, 选项B and so on, or A, B and so on.
OPTION_KEYS = {letter: f"选项{letter}" for letter in "ABCDEFGH"}
# An extra key that is true where a passage is known to state the answer.
LEAKS = "leaks"

# The headers of the answer format. They stand here because a record must not contain such a line itself. Stars behind
# the colon belong to the header only where it opened with stars and has not closed them: `**题干：** 甲`, not `题干：*甲`.
SECTIONS = ("题干", "参考答案", "解析")
HEADER = re.compile(
    r"^[ \t#]*(?P<open>\*[ \t#*]*)?(?P<name>题干|参考答案|解析)[ \t]*(?P<close>\*[ \t*]*)?[：:；]"
    r"(?(open)(?(close)|[ \t*]*))",
    re.MULTILINE,
)
_NUMBERED = re.compile(r"^[（(]([0-9]+)[）)][ \t]*", re.MULTILINE)
# A tokenizer would read these as the end of a turn, whatever stands around them.
CHAT_MARKER = re.compile(r"<\|(?:im_start|im_end|endoftext)\|>")

Purpose = Literal["train", "generate"]


@dataclass(frozen=True)
class Record:
    """One question and what it is made from; texts are stripped, `answer` has one entry per sub-question.

    `question`, `answer` and `analysis` are empty where a file for generation does not give them.
    """

    id: str
    subject: str
    type: str
    textbook: str
    outside: str = ""
    question: str = ""
    answer: tuple[str, ...] = ()
    analysis: str = ""
    difficulty: str = ""
    """基础, 中档 or 压轴; empty where the file does not say."""
    topic: str = ""
    """知识点 in one line; empty where the file does not say."""
    extra: dict[str, Any] = field(default_factory=dict)

    def passage(self, name: str) -> str:
        """课本内容 or 课外内容."""
        return self.textbook if name == TEXTBOOK else self.outside

    @property
    def has_reference(self) -> bool:
        """Whether the record carries all that an answer consists of."""
        return bool(self.question and self.answer and self.analysis)

    def to_dict(self) -> dict[str, Any]:
        """The record in the keys of a data file; unknown extra keys are carried through."""
        row: dict[str, Any] = {
            "id": self.id,
            "subject": self.subject,
            "type": self.type,
            TEXTBOOK: self.textbook,
            OUTSIDE: self.outside,
        }
        if self.question or self.answer or self.analysis:
            row["question"] = self.question
            row["answer"] = self.answer[0] if len(self.answer) == 1 else list(self.answer)
            row["analysis"] = self.analysis
        hints = {"difficulty": self.difficulty, "topic": self.topic}
        return {**row, **{key: value for key, value in hints.items() if value}, **self.extra}


def drop_hints(records: Iterable[Record], seed: int) -> list[Record]:
    """The records as a training shows them: difficulty and topic each left out of half of those that have it.

    So the model learns the prompt with them and without. What is left out depends on the seed and on the record's id
    only, whatever stands beside it and in whatever order.
    """
    return [
        replace(
            record,
            difficulty="" if _coin(seed, record.id, "difficulty") else record.difficulty,
            topic="" if _coin(seed, record.id, "topic") else record.topic,
        )
        for record in records
    ]


def _coin(*values: object) -> bool:
    # Python's own hash of a text differs from process to process.
    return bool(hashlib.sha256(json.dumps(values).encode()).digest()[0] & 1)


def join_answers(answers: Iterable[str]) -> str:
    """One text for the answers of all sub-questions: several are numbered （1）（2）…, one stands alone."""
    parts = list(answers)
    if len(parts) == 1:
        return parts[0]
    return "\n".join(f"（{number}）{part}" for number, part in enumerate(parts, 1))


def split_answers(text: str) -> tuple[str, ...]:
    """The inverse of `join_answers`; a text that is not numbered from （1） at line starts is one answer."""
    text = text.strip()
    marks: list[re.Match[str]] = []
    for mark in _NUMBERED.finditer(text):
        if not marks and mark.start():
            break
        if mark.group(1) == str(len(marks) + 1):
            marks.append(mark)
    if len(marks) < 2:
        return (text,) if text else ()
    stops = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(text[mark.end() : stop].strip() for mark, stop in zip(marks, stops, strict=True))


def parse_record(raw: Raw, position: int, purpose: Purpose) -> tuple[Record | None, list[str]]:
    """Validate one entry; return the record, or `None` and every error with place, value found and remedy.

    Args:
        raw: the entry.
        position: its number in the file from 0, part of the id of a record that has none.
        purpose: `train` asks for question, answer and analysis, `generate` does not.
    """
    if raw.problem:
        return None, [f"{raw.where}: {raw.problem}"]
    if not isinstance(raw.value, dict):
        return None, [f"{raw.where}: is {shown(raw.value)} instead of an object with keys; write a record"]
    errors: list[str] = []
    row = _by_name(raw.value, errors)
    _spread_options(row)

    def text(key: str, *, needed: bool, empty: bool = False) -> str:
        value = row.get(key)
        label = next((f"{key} ({alias})" for alias, name in KEY_ALIASES.items() if name == key), key)
        if value is None:
            if needed:
                errors.append(f"{label} is missing; add it{' (an empty text means none)' if empty else ''}")
            return ""
        if not isinstance(value, str):
            errors.append(f"{label} is {shown(value)}; it must be a text")
            return ""
        value = value.strip()
        if not value and needed and not empty:
            errors.append(f"{label} is empty; write it, or remove the record")
        return _checked(label, value, errors)

    train = purpose == "train"
    subject = _one_of("subject (科目)", row.get("subject"), SUBJECTS, {}, errors)
    kind = _one_of("type (题型)", row.get("type"), TYPES, TYPE_ALIASES, errors)
    textbook = text(TEXTBOOK, needed=True, empty=True)
    outside = text(OUTSIDE, needed=False)
    options = {letter: text(key, needed=False) for letter, key in OPTION_KEYS.items()}
    question = text("question", needed=train or any(options.values()))
    question = _with_options(question, options, kind, errors)
    analysis = text("analysis", needed=train)
    answer = _answer(row.get("answer"), train, errors)
    difficulty = _one_of(
        "difficulty (难度)", row.get("difficulty"), DIFFICULTIES, DIFFICULTY_ALIASES, errors, optional=True
    )
    topic = text("topic", needed=False)
    if len(topic) > TOPIC_CHARS or len(topic.splitlines()) > 1:
        errors.append(f"topic (知识点) is {shown(topic)}; it must be one line of at most {TOPIC_CHARS} characters")
    identity = row.get("id")
    if identity is None or identity == "":
        digest = hashlib.sha256(json.dumps(row, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:8]
        identity = f"{position:05d}-{digest}"
    elif not isinstance(identity, str | int) or isinstance(identity, bool):
        errors.append(f"id is {shown(identity)}; it must be a text")
    if errors:
        return None, [f"{raw.where} (id {identity}): {error}" for error in errors]
    extra = {key: value for key, value in row.items() if key not in (*RECORD_KEYS, *OPTION_KEYS.values())}
    texts = (subject, kind, textbook, outside, question, answer, analysis, difficulty, topic)
    return Record(str(identity), *texts, extra), []


def _by_name(entry: dict[Any, Any], errors: list[str]) -> dict[str, Any]:
    """The values of an entry by the name of each key, whichever alias it was written under."""
    # A letter alone may be anything; from A on they are options.
    aliases = KEY_ALIASES | (OPTION_KEYS if "A" in entry else {})
    row: dict[str, Any] = {}
    for key, value in entry.items():
        name = aliases.get(str(key), str(key))
        if name in row:
            errors.append(f"{key} and {name} are the same key, given twice; keep one")
        row[name] = value
    return row


def _spread_options(row: dict[str, Any]) -> None:
    """Put options that are written as an object or a list of texts under keys of their own, where the question holds none."""
    for key in ("options", "选项"):
        value = row.get(key)
        given = dict(zip(OPTION_KEYS, value, strict=False)) if isinstance(value, list) else value
        if not isinstance(given, dict) or not given or not given.keys() <= OPTION_KEYS.keys():
            continue
        # Of a longer list some would be lost.
        if len(given) == len(row[key]) and not split_options(str(row.get("question", ""))):
            row |= {OPTION_KEYS[letter]: text for letter, text in given.items()}
            del row[key]


def _with_options(question: str, options: dict[str, str], kind: str, errors: list[str]) -> str:
    """The question with the options from keys of their own behind it; empty ones at the end are none."""
    given = [letter for letter, text in options.items() if text]
    if not given or not question:
        return question
    wanted = list(options)[: len(given)]
    if given != wanted:
        gap = next(letter for letter in wanted if letter not in given)
        errors.append(f"选项{gap} is empty or missing, but 选项{given[-1]} is not; write it, or move the others up")
    elif kind in CHOICE_TYPES and len(given) < 4:
        errors.append(f"has only the option(s) {' '.join(given)}; write 选项A to 选项D, as a {kind} needs them")
    elif split_options(question):
        errors.append("question (题干) holds options, and 选项A and so on hold options too; keep one of the two")
    marks = [re.match(rf"[(（]?{letter}[ \t]*[．.、:：)）][ \t]*", options[letter]) for letter in given]
    # Some write the letter into the cell as well.
    starts = [mark.end() if mark else 0 for mark in marks] if all(marks) else [0] * len(given)
    lines = [f"{letter}．{options[letter][start:]}" for letter, start in zip(given, starts, strict=True)]
    return "\n".join([question, *lines])


def _one_of(
    label: str,
    value: Any,
    choices: tuple[str, ...],
    aliases: dict[str, str],
    errors: list[str],
    *,
    optional: bool = False,
) -> str:
    if isinstance(value, str):
        name = aliases.get(value.strip(), value.strip())
        if name in choices or (optional and not name):
            return name
    elif optional and value is None:
        return ""
    found = "is missing" if value is None else f"is {shown(value)}"
    other = ", or leave it out" if optional else ""
    errors.append(f"{label} {found}; it must be one of {' '.join([*choices, *aliases])}{other}")
    return ""


def _answer(value: Any, needed: bool, errors: list[str]) -> tuple[str, ...]:
    label = "answer (参考答案)"
    if value is None or value == "" or value == []:
        if needed:
            errors.append(f"{label} is {'missing' if value is None else 'empty'}; write it, or remove the record")
        return ()
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        errors.append(f"{label} is {shown(value)}; it must be a text, or a list of texts, one per sub-question")
        return ()
    given = tuple(_unix(part.strip()) for part in parts)
    # Some write the numbers into the list as well.
    marks = [re.match(rf"[（(]{number}[)）]\s*", part) for number, part in enumerate(given, 1)]
    if len(given) > 1 and all(marks):
        given = tuple(part[mark.end() :] for part, mark in zip(given, marks, strict=True) if mark)
    # One canonical form, so that parse(render(record)) gives it back whichever way the file spelt it.
    answer = split_answers(join_answers(given))
    if not all(given):
        errors.append(f"{label} holds an empty text: {shown(value)}; write it, or remove the record")
    elif not all(answer):
        errors.append(
            f"{label} has nothing behind （{answer.index('') + 1}）: {shown(value)}; write that sub-answer, or take "
            "its number out"
        )
    elif len(given) > 1 and answer != given:
        errors.append(
            f"{label} has a line in one of its texts that begins like the next sub-answer: {shown(value)}; number "
            "lines within a text in another way, such as ① or 1."
        )
    for part in answer:
        _checked(label, part, errors)
    return answer


def _checked(label: str, value: str, errors: list[str]) -> str:
    value = _unix(value)
    if found := CHAT_MARKER.search(value):
        errors.append(f"{label} contains the chat marker {found.group()}, which would end the turn; remove it")
    if found := HEADER.search(value):
        errors.append(
            f"{label} has a line that begins with {found.group().strip()!r}, a header of the answer; reword it"
        )
    return value


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load_records(spec: Spec, purpose: Purpose = "train", option: str = "") -> list[Record]:
    """Read and validate one data file, or several, a folder, or a dataset on the hub (`gaokao.sources`).

    Args:
        spec: what is read.
        purpose: as for `parse_record`.
        option: what names the data on the command line, such as `data.train`, for messages.

    Raises:
        UserError: a source cannot be read, holds no records, or bad ones: all of them, each with place and remedy.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}
    with collect_errors(spec, option) as errors:
        for position, raw in enumerate(read_raw(spec)):
            record, found = parse_record(raw, position, purpose)
            errors.add(*found)
            if record is None:
                continue
            if record.id in seen:
                errors.add(f"{raw.where} (id {record.id}): the id is also that of {seen[record.id]}; give it another")
            seen.setdefault(record.id, raw.where)
            records.append(record)
        if not records and not errors.count:
            raise UserError(f"{spec_text(spec)}: holds no records; {FORMATS}")
    return records


def fingerprint(records: Iterable[Record]) -> str:
    """SHA-256 over the records in order: equal exactly where a training would see the same data."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record.to_dict(), ensure_ascii=False, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()
