"""What a training learns from and is validated on: records that fit, split, and the chats that are mixed in."""

import hashlib
import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gaokao.chats import ChatPool, Mixed, choose
from gaokao.errors import UserError
from gaokao.prompts import Example, format_chat
from gaokao.records import Record, drop_hints, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Fitted(NamedTuple):
    """Records that fit, and the ids and lengths (tokens, prompt and answer) of all that do not."""

    records: list[Record]
    lengths: list[int]
    overlong: list[tuple[str, int]]


def filter_by_length(records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Fitted:
    """Measure every record in tokens and leave out what is longer than a row: cut, it would lose its end token.

    Raises:
        UserError: no record fits.
    """
    kept, lengths, overlong = [], [], []
    for record in records:
        length = len(example_ids(tokenizer, format_chat(record)))
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


def split_validation(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into training and validation records at random, both in file order; one is held out at least if share > 0."""
    count = 0 if share == 0 or len(records) < 2 else max(1, round(share * len(records)))
    chosen = set(random.Random(seed).sample(range(len(records)), count))
    train = [record for index, record in enumerate(records) if index not in chosen]
    return train, [record for index, record in enumerate(records) if index in chosen]


class Material(NamedTuple):
    """What a run learns from and is validated on."""

    train_records: list[Record]
    validation_records: list[Record]
    mixed: Mixed
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
            lines.append(f"mix       {self.mixed.text}")
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return {
            "records": len(self.fitted.lengths) + len(self.fitted.overlong),
            "train": len(self.train_records),
            "validation": [record.id for record in self.validation_records],
            "overlong": [{"id": identity, "tokens": length} for identity, length in self.fitted.overlong],
            "mix": self.mixed.record,
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


def gather(
    records: Sequence[Record],
    pool: ChatPool,
    tokenizer: "PreTrainedTokenizerBase",
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
        tokenizer: of the base.
        context: tokens that the base was made for, where it says so.
        max_length: tokens of the longest example that is trained on.
        validation_share: of the records that fit.
        mix_ratio: chats for each record that is trained on.
        seed: of the split, and of the difficulties and topics that are left out of half of the prompts.

    Raises:
        UserError: no record, or none of the chats, fits; or `max_length` is above the context, with positions that the
            model never saw.
    """
    if context is not None and max_length > context:
        raise UserError(
            f"train.max_length = {max_length} is above the context of the base, {context} tokens; set it to {context} or less"
        )
    fitted = filter_by_length(records, tokenizer, max_length)
    train_records, validation_records = split_validation(drop_hints(fitted.records, seed), validation_share, seed)
    mixed = choose(
        pool,
        wanted=round(mix_ratio * len(train_records)),
        length=lambda example: len(example_ids(tokenizer, example)),
        max_length=max_length,
    )
    return Material(train_records, validation_records, mixed, fitted, fingerprint(records))
