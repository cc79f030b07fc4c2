"""What a training learns from and is validated on: records that fit, split, chats that are mixed in, rows and steps."""

import bisect
import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gaokao.chats import ChatPool, Mixed, choose
from gaokao.config import Config
from gaokao.errors import UserError
from gaokao.prompts import Example, format_chat
from gaokao.records import Record, drop_hints, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Item = TypeVar("Item")

# Below this number an optimizer has hardly left its warm-up, whatever the loss says.
FEW_STEPS = 20
# trl packs so many sequences at a time: what `datasets` hands to a function at once.
PACKED_AT_ONCE = 1000


class Fitted(NamedTuple):
    """Records that fit, and the ids and lengths (tokens, prompt and answer) of all that do not."""

    records: list[Record]
    lengths: list[int]
    overlong: list[tuple[str, int]]


def filter_by_length(records: Sequence[Record], count: Callable[[Example], int], max_length: int) -> Fitted:
    """Measure every record in tokens and leave out what is longer than a row: cut, it would lose its end token.

    Raises:
        UserError: no record fits.
    """
    kept, lengths, overlong = [], [], []
    for record in records:
        length = count(format_chat(record))
        if length > max_length:
            overlong.append((record.id, length))
        else:
            kept.append(record)
            lengths.append(length)
    if not kept:
        shortest = min(length for _, length in overlong)
        raise UserError(
            f"train.max_length = {max_length}: every one of the {len(records)} records is longer; the shortest has "
            f"{shortest} tokens: set train.max_length to {shortest} or more, or shorten the passages"
        )
    return Fitted(kept, lengths, overlong)


def example_ids(tokenizer: "PreTrainedTokenizerBase", example: Example) -> list[int]:
    """Token ids of a whole training example."""
    encoded = tokenizer.apply_chat_template(
        [*example["prompt"], *example["completion"]], tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def counter(tokenizer: "PreTrainedTokenizerBase") -> Callable[[Example], int]:
    """Counts the tokens of a whole training example."""
    return lambda example: len(example_ids(tokenizer, example))


def split_validation(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Split into training and validation items at random, both in file order; one is held out at least if share > 0."""
    count = 0 if share == 0 or len(items) < 2 else max(1, round(share * len(items)))
    chosen = set(random.Random(seed).sample(range(len(items)), count))
    train = [item for index, item in enumerate(items) if index not in chosen]
    return train, [item for index, item in enumerate(items) if index in chosen]


class Material(NamedTuple):
    """What a run learns from and is validated on."""

    train_records: list[Record]
    validation_records: list[Record]
    mixed: Mixed
    chats: tuple[list[Example], list[Example]]
    """The general ones that are learnt, and those that are held out."""
    fitted: Fitted
    fingerprint: str
    """Of all records."""

    def text(self, max_length: int) -> str:
        """Counts, and the first records that are left out, as lines for a screen."""
        lengths, overlong = self.fitted.lengths, self.fitted.overlong
        lines = [
            f"data      {len(lengths) + len(overlong)} records: {len(self.train_records)} to train on, {len(self.validation_records)} to "
            f"validate, {len(overlong)} over {max_length} tokens left out; longest {max(lengths)} tokens, mean "
            f"{sum(lengths) / len(lengths):.0f}"
        ]
        lines += [f"          left out: {identity} ({length} tokens)" for identity, length in overlong[:5]]
        if len(overlong) > 5:
            lines.append(f"          and {len(overlong) - 5} more; all of them are in run.json (train.max_length)")
        if self.mixed.record:
            lines.append(
                f"mix       {self.mixed.text}; {len(self.chats[1])} of them held out, to measure what is forgotten"
            )
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return {
            "records": len(self.fitted.lengths) + len(self.fitted.overlong),
            "train": len(self.train_records),
            "validation": [record.id for record in self.validation_records],
            "overlong": [{"id": identity, "tokens": length} for identity, length in self.fitted.overlong],
            "mix": self.mixed.record and self.mixed.record | {"held_out": len(self.chats[1])},
        }

    def fingerprints(self) -> dict[str, str | None]:
        """What tells records, prompts and chats from others, 16 hex digits each."""
        prompts = [format_chat(record)["prompt"] for record in self.fitted.records]
        chats = self.mixed.examples if self.mixed.record else None
        digests = [
            hashlib.sha256(json.dumps(texts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]
            for texts in (prompts, chats)
        ]
        return {"data.train": self.fingerprint[:16], "the prompt's wording": digests[0], "data.mix": digests[1]}


def keys_of(config: Config) -> dict[str, Any]:
    """The keys of a configuration that `gather` takes."""
    return {
        "max_length": config.train.max_length,
        "validation_share": config.data.validation_share,
        "mix_ratio": config.data.mix_ratio,
        "seed": config.train.seed,
    }


def gather(
    records: Sequence[Record],
    pool: ChatPool,
    count: Callable[[Example], int],
    *,
    context: int | None,
    max_length: int,
    validation_share: float,
    mix_ratio: float,
    seed: int,
) -> Material:
    """Leave out what does not fit, hold out what is validated on, and take the general chats that are mixed in.

    Args:
        records: the data set.
        pool: general chats.
        count: tokens of an example, prompt and answer.
        context: tokens that the base was made for, where it says so.
        max_length: tokens of the longest example that is trained on.
        validation_share: of the records that fit, and of the chats.
        mix_ratio: chats for each record that fits.
        seed: of the split, and of the difficulties and topics that are left out of half of the prompts.

    Raises:
        UserError: no record, or none of the chats, fits; or `max_length` is above the context, with positions that the
            model never saw.
    """
    if context is not None and max_length > context:
        raise UserError(
            f"train.max_length = {max_length} is above the context of the base, {context} tokens; set it to {context} or less"
        )
    fitted = filter_by_length(records, count, max_length)
    train_records, validation_records = split_validation(drop_hints(fitted.records, seed), validation_share, seed)
    mixed = choose(
        pool,
        wanted=round(mix_ratio * len(fitted.records)),
        length=count,
        max_length=max_length,
    )
    chats = split_validation(mixed.examples, validation_share, seed)
    return Material(train_records, validation_records, mixed, chats, fitted, fingerprint(records))


def packed_rows(lengths: Sequence[int], max_length: int) -> list[int]:
    """Tokens of each row that trl packs from sequences of these lengths: longest first, each where the least room is left.

    Best-fit decreasing (arXiv:2404.10830), of `PACKED_AT_ONCE` sequences at a time and in their order.
    """
    rows: list[int] = []
    for start in range(0, len(lengths), PACKED_AT_ONCE):
        # Free tokens of each row, in ascending order.
        free: list[int] = []
        for length in sorted(lengths[start : start + PACKED_AT_ONCE], reverse=True):
            place = bisect.bisect_left(free, length)
            room = free.pop(place) if place < len(free) else max_length
            bisect.insort(free, room - length)
        rows += [max_length - room for room in free]
    return rows


class Batch(NamedTuple):
    """How the rows that an optimizer step learns from come together."""

    wanted: int
    """`train.effective_batch`."""
    per_device: int
    processes: int

    @property
    def at_once(self) -> int:
        """Rows that all processes take together."""
        return self.per_device * self.processes

    @property
    def accumulated(self) -> int:
        """Batches whose gradients are summed: as near to `wanted` rows as `at_once` allows, one at least."""
        return max(1, round(self.wanted / self.at_once))

    def steps(self, rows: int, epochs: float, max_steps: int | None) -> int:
        """Optimizer steps of a whole run: `max_steps`, or those of so many epochs as the Trainer counts them."""
        if max_steps is not None:
            return max_steps
        return math.ceil(epochs * math.ceil(math.ceil(rows / self.at_once) / self.accumulated))

    def text(self, steps: int) -> str:
        """The effective batch and its parts, with a warning where so few steps hardly train."""
        rows = self.at_once * self.accumulated
        text = (
            f"batch     {rows} rows for each of {steps} optimizer steps: {self.per_device} a device x {self.processes} "
            f"process(es) x {self.accumulated} accumulated"
        )
        if rows != self.wanted:
            text += f"; train.effective_batch {self.wanted} is no multiple of the {self.at_once} rows taken at once"
        if steps < FEW_STEPS:
            text += (
                f"\nWARNING   {steps} optimizer steps hardly train anything; {FEW_STEPS} are the least that makes sense. "
                f"Lower train.effective_batch (now {self.wanted}), raise train.num_train_epochs, or add items"
            )
        return text
