"""The gate of generation: what a draft must pass beyond the checks of one question before it is kept.

It repeats no training question and no other question of the run, and it is nearer to one of its own passages than to
those of all others, where there are others to compare with.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gaokao.errors import UserError, first_line
from gaokao.grounding import LEAST_ITEMS, own_first
from gaokao.records import PASSAGES, Record
from gaokao.results import Generated
from gaokao.text import DUPLICATE_GRAM, DUPLICATE_THRESHOLD, bare, ngrams, normalize

# Beside the adapter, so that the run folder can move to another machine: hashes of n-grams, not the questions.
TRAINING_QUESTIONS = "training_questions.safetensors"


def fingerprint(question: str) -> np.ndarray:
    """The hashed character 5-grams of a question, sorted: enough to tell its near-duplicates, too little to read it."""
    grams = ngrams(normalize(question), DUPLICATE_GRAM)
    return np.unique(np.fromiter((crc32(gram.encode()) for gram in grams), np.uint32, len(grams)))


class Seen:
    """Questions that a new one must not repeat."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._names: list[str] = []
        self._index: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, grams: np.ndarray, name: str) -> None:
        """Add a question under the name that a repetition of it is reported with."""
        for gram in grams.tolist():
            self._index.setdefault(gram, []).append(len(self._sizes))
        self._sizes.append(len(grams))
        self._names.append(name)

    def like(self, grams: np.ndarray) -> str:
        """The name of the most similar question with a Jaccard similarity of DUPLICATE_THRESHOLD or more; else empty."""
        shared = Counter(number for gram in grams.tolist() for number in self._index.get(gram, ()))
        likeness = {number: count / (len(grams) + self._sizes[number] - count) for number, count in shared.items()}
        best = max(likeness, key=lambda number: (likeness[number], -number), default=None)
        return "" if best is None or likeness[best] < DUPLICATE_THRESHOLD else self._names[best]


def save_training_questions(records: Iterable[Record], folder: Path) -> None:
    """Write the fingerprints of the questions that an adapter has learnt beside it."""
    prints = [fingerprint(record.question) for record in records]
    sizes = np.array([len(grams) for grams in prints], np.int64)
    grams = np.concatenate([*prints, np.empty(0, np.uint32)])
    save_file({"sizes": sizes, "grams": grams}, folder / TRAINING_QUESTIONS)


def load_training_questions(folder: Path | None) -> Seen:
    """What `save_training_questions` wrote; nothing where there is no adapter, or one from before this file was written.

    Raises:
        UserError: the file is damaged.
    """
    seen = Seen()
    if folder is None or not (folder / TRAINING_QUESTIONS).exists():
        return seen
    try:
        stored = load_file(folder / TRAINING_QUESTIONS)
        ends = np.cumsum(stored["sizes"])
        parts = [stored["grams"][end - size : end] for end, size in zip(ends, stored["sizes"], strict=True)]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder / TRAINING_QUESTIONS}: cannot be read ({first_line(error)}); restore it, or remove it to generate "
            "without comparing with the training questions"
        ) from None
    for grams in parts:
        seen.add(grams, "a training question")
    return seen


class Gate:
    """What is asked of the drafts of one run."""

    def __init__(self, records: Sequence[Record], training: Seen) -> None:
        """Compare with the passages of these records, and with these training questions."""
        self._training = training
        # Subject -> passages of all of its records: those of one record are never compared alone.
        self._passages = {
            name: {
                subject: [*dict.fromkeys(bare(p) for r in records if r.subject == subject and (p := r.passage(name)))]
                for subject in {record.subject for record in records}
            }
            for name in PASSAGES
        }

    def off_passages(self, items: Sequence[Generated]) -> list[bool]:
        """Whether each question is nearer to passages of others than to each of its own that can be compared."""
        # Own passage first on one of them is enough: a question may use the other one for its knowledge only, in words
        # of its own. Of the real items with material none is off by this rule.
        judged: list[list[bool]] = [[] for _ in items]
        for name in PASSAGES:
            for subject, passages in self._passages[name].items():
                if len(passages) < LEAST_ITEMS:
                    continue
                places = [
                    place
                    for place, item in enumerate(items)
                    if item.record.subject == subject and item.record.passage(name)
                ]
                own = [bare(items[place].record.passage(name)) for place in places]
                texts = [bare(items[place].question.question) for place in places]
                # Those of this round first, as `own_first` takes the passage at the place of the text for its own.
                flags = own_first(texts, [*own, *passages])
                for place, flag in zip(places, flags, strict=True):
                    judged[place].append(flag)
        return [bool(flags) and not any(flags) for flags in judged]

    def learnt(self, item: Generated) -> str:
        """The training question that a draft repeats, in words; empty for none."""
        return self._training.like(fingerprint(item.question.question))

    def repeats(self, kept: Sequence[Generated], drafts: Sequence[Generated]) -> list[str]:
        """For each draft what it repeats: a training question, one that is kept, or a usable draft before it."""
        seen = Seen()
        for item in kept:
            seen.add(fingerprint(item.question.question), f"the question of id {item.record.id}")
        found = []
        for item in drafts:
            grams = fingerprint(item.question.question)
            found.append(self.learnt(item) or seen.like(grams))
            # What is drawn again anyway is no reason to draw another one again.
            if item.usable and not found[-1]:
                seen.add(grams, f"the question of id {item.record.id}")
        return found
