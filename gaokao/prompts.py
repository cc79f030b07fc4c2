"""Record -> chat messages, record -> target text, text -> question. One renderer for training and inference.

Training sees exactly the prompt that inference sends: `format_chat` and `prepare_input` share `render_prompt`.
"""

from dataclasses import dataclass
from typing import TypedDict

from gaokao.records import HEADER, OUTSIDE, SECTIONS, TEXTBOOK, Record, join_answers, split_answers


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class Example(TypedDict):
    """trl's conversational prompt-completion form: the loss is taken over the completion only."""

    prompt: list[Message]
    completion: list[Message]


@dataclass(frozen=True)
class Question:
    """A question read back from a model's text. What is missing is named, never raised."""

    question: str
    answer: tuple[str, ...]
    analysis: str
    missing: tuple[str, ...] = ()
    """Sections without a header or without content."""
    misplaced: tuple[str, ...] = ()
    """Sections that stand twice or out of order."""

    @property
    def complete(self) -> bool:
        """All three sections, each once, in order and not empty."""
        return not self.missing and not self.misplaced


TYPE_HINTS = {
    "单选题": "列出A、B、C、D四个选项，只有一项正确",
    "多选题": "列出A、B、C、D四个选项，有两项或多项正确",
    "填空题": "用横线标出空处",
    "主观题": "可分小问，要求写出过程或要点",
}


def render_prompt(record: Record) -> list[Message]:
    """System and user message of a record. The system message is always sent: Qwen2.5 would add its own otherwise.

    The wording is the one of several by which a bare base model wrote the three parts: tests/benchmarks/prompt_wording.py.
    """
    system = (
        f"你是高考{record.subject}命题人。用户给出{TEXTBOOK}和{OUTSIDE}两段材料，你据此新编一道高考{record.subject}{record.type}"
        f"（{TYPE_HINTS[record.type]}）。回答由三部分组成，分别以{''.join(f'“{section}：”' for section in SECTIONS)}开头。"
    )
    lines = [f"{TEXTBOOK}：{record.textbook or '无'}", f"{OUTSIDE}：{record.outside or '无'}"]
    lines += [f"{name}：{value}" for name, value in (("难度", record.difficulty), ("知识点", record.topic)) if value]
    user = "\n".join(lines)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def render(record: Record) -> str:
    """The target text of a record; `parse` gives its fields back."""
    values = (record.question, join_answers(record.answer), record.analysis)
    return "\n".join(f"{section}：{value}" for section, value in zip(SECTIONS, values, strict=True))


def format_chat(record: Record) -> Example:
    """A record as a training example."""
    return {"prompt": render_prompt(record), "completion": [{"role": "assistant", "content": render(record)}]}


def prepare_input(record: Record) -> list[Message]:
    """A record as the prompt of an inference, to be rendered with `add_generation_prompt=True`."""
    return render_prompt(record)


def parse(text: str) -> Question:
    """Read 题干, 参考答案 and 解析 from a model's text.

    Headers stand at line starts and end in `：`, `:` or `；`; Markdown marks around them are passed over, those at the
    start of a section are kept. The first header of each kind counts; text before the first is dropped.
    """
    found = [(match["name"], match.start(), match.end()) for match in HEADER.finditer(text)]
    names = [name for name, _, _ in found]
    contents: dict[str, str] = {}
    for index, (name, _, end) in enumerate(found):
        stop = found[index + 1][1] if index + 1 < len(found) else len(text)
        contents.setdefault(name, text[end:stop].strip())
    order = [names.index(section) for section in SECTIONS if section in names]
    misplaced = [
        section for section in SECTIONS if names.count(section) > 1 or (section in names and order != sorted(order))
    ]
    return Question(
        question=contents.get("题干", ""),
        answer=split_answers(contents.get("参考答案", "")),
        analysis=contents.get("解析", ""),
        missing=tuple(section for section in SECTIONS if not contents.get(section)),
        misplaced=tuple(misplaced),
    )
