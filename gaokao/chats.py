"""General chats mixed into the training data, so that tuning on questions does not cost the base its other abilities.

An entry is `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, with a system turn
first and earlier turns where wanted. The last assistant turn is what is learnt, all before it is the prompt.
"""

import hashlib
import heapq
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gaokao.errors import Errors, UserError, shown
from gaokao.prompts import Example, Message
from gaokao.records import CHAT_MARKER
from gaokao.sources import FORMATS, Raw, Spec, collect_errors, read_raw, spec_text

ROLES = ("system", "user", "assistant")
FORM = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
# Drawn beyond what is needed, to stand in for those that turn out too long.
SPARE = 2


@dataclass(frozen=True)
class ChatPool:
    """Chats drawn from a data set, in random order, and what the set was. Empty where nothing is mixed in."""

    spec: Spec | None = None
    examples: list[Example] = field(default_factory=list)
    available: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class Mixed:
    """The chats that are trained on, and what `run.json` and the screen say of them (`None`: nothing is mixed in)."""

    examples: list[Example] = field(default_factory=list)
    record: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The counts in one line."""
        if self.record is None:
            return "none"
        used, wanted, available = (self.record[key] for key in ("used", "wanted", "available"))
        short = f" ({wanted} were wanted)" if used < wanted else ""
        return (
            f"{used} general chats{short} of {available} in {spec_text(self.record['file'])} mixed in, "
            f"{self.record['tokens']} tokens; {self.record['overlong']} left out as too long"
        )


def load_pool(spec: Spec | None, ratio: float, records: int, seed: int, option: str = "") -> ChatPool:
    """Validate a data set of chats and draw from it at random, in memory that depends on what is drawn only.

    Args:
        spec: where they are (`gaokao.sources`); `None` mixes nothing in.
        ratio: chats per record.
        records: number of records in the training data.
        seed: of the draw.
        option: what names the data set on the command line, for messages.

    Raises:
        UserError: a source cannot be read, holds no chats, or bad ones: all of them, each with place and remedy.
    """
    if spec is None or ratio == 0:
        return ChatPool()
    digest, available = hashlib.sha256(), 0

    def valid(errors: Errors[str]) -> Iterator[tuple[float, int, Example]]:
        nonlocal available
        draw = random.Random(seed)
        for raw in read_raw(spec):
            example, found = parse_chat(raw)
            errors.add(*found)
            if example is not None:
                digest.update(json.dumps(example, ensure_ascii=False, sort_keys=True).encode() + b"\n")
                available += 1
                yield draw.random(), available, example

    with collect_errors(spec, option) as errors:
        drawn = heapq.nsmallest(SPARE * math.ceil(ratio * records), valid(errors))
        if not available and not errors.count:
            raise UserError(f"{spec_text(spec)}: holds no chats; {FORMATS}, each {FORM}")
    return ChatPool(spec, [example for _, _, example in drawn], available, digest.hexdigest())


def parse_chat(raw: Raw) -> tuple[Example | None, list[str]]:
    """Validate one entry; return it as prompt and completion, or `None` and every error with place and remedy."""
    if raw.problem:
        return None, [f"{raw.where}: {raw.problem}"]
    messages = raw.value.get("messages") if isinstance(raw.value, dict) else None
    if not isinstance(messages, list) or not messages:
        found = f"keys {', '.join(map(str, raw.value)) or 'none'}" if isinstance(raw.value, dict) else shown(raw.value)
        if messages is not None:
            found = f"messages {shown(messages)}"
        return None, [f"{raw.where}: has {found}, no list of messages; a chat is written {FORM}"]
    turns: list[Message] = []
    errors: list[str] = []
    for number, message in enumerate(messages, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            errors.append(f"message {number} has the role {shown(role)}; it must be one of {' '.join(ROLES)}")
        elif role == "system" and number > 1:
            errors.append(f"message {number} is a system turn; only the first can be, remove it")
        elif not isinstance(content, str) or not content.strip():
            errors.append(
                f"message {number} ({role}) has the content {shown(content)}; it must be a text that is not empty"
            )
        elif marker := CHAT_MARKER.search(content):
            errors.append(f"message {number} ({role}) contains the chat marker {marker.group()}; remove it")
        else:
            turns.append({"role": role, "content": content})
    if not errors and turns[-1]["role"] != "assistant":
        errors.append(
            f"ends in a turn of {turns[-1]['role']}; the last turn is what is learnt and must be the assistant's"
        )
    if not errors and all(turn["role"] != "user" for turn in turns):
        errors.append("has no turn of user; the assistant must have something to answer")
    if errors:
        return None, [f"{raw.where}: {error}" for error in errors]
    return {"prompt": turns[:-1], "completion": turns[-1:]}, []


def choose(pool: ChatPool, wanted: int, length: Callable[[Example], int], max_length: int) -> Mixed:
    """Take chats from the pool in its random order until there are enough, passing over those that are too long.

    Args:
        pool: what was drawn.
        wanted: how many are to be trained on; fewer are taken where the pool does not hold as many.
        length: tokens of an example, prompt and completion.
        max_length: the longest that is trained on, in tokens. Longer ones are left out, never cut.

    Raises:
        UserError: every one of them is too long.
    """
    if pool.spec is None:
        return Mixed()
    examples: list[Example] = []
    tokens, overlong = 0, 0
    for example in pool.examples:
        if len(examples) == wanted:
            break
        size = length(example)
        if size > max_length:
            overlong += 1
        else:
            examples.append(example)
            tokens += size
    if overlong and not examples:
        raise UserError(
            f"{spec_text(pool.spec)}: every one of the {overlong} chats drawn is longer than train.max_length = "
            f"{max_length}; raise it, or take shorter chats for data.mix"
        )
    record = {
        "file": pool.spec,
        "fingerprint": pool.fingerprint,
        "available": pool.available,
        "wanted": wanted,
        "used": len(examples),
        "overlong": overlong,
        "tokens": tokens,
    }
    return Mixed(examples, record)
