"""Texts without a model: comparison forms, n-grams, near-duplicates, options, keys, formulas, and what a leak is."""

import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gaokao.records import Record

# Two questions whose 5-grams overlap this much are one question with other numbers: the 139 such pairs among the real
# items all come from one year, mostly the two mathematics papers.
DUPLICATE_THRESHOLD = 0.6


DUPLICATE_GRAM = 5


# Of the rarest grams of two texts so many must be the same before all are compared.
SHARED_RARE = 8


# Sets of n-grams that one is compared with in one call.
CANDIDATES_AT_ONCE = 256


COPY_GRAM = 8


# So few grams are looked up in a passage faster than the passage is cut into its own.
FEW_GRAMS = 32


LETTERS = "ABCDEFGH"
# The types of question that have options.
CHOICE_TYPES = ("单选题", "多选题")


class Pair(NamedTuple):
    """Two texts, by their positions, and the Jaccard similarity of their n-grams (0 to 1)."""

    first: int
    second: int
    similarity: float


class _Compatible(dict[int, str]):
    """A table for `str.translate`: NFKC of each character alone, or the character where that is longer than `longest`.

    Whole texts are never normalized: the time for a run of combining marks is the square of its length.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKC", chr(code))
        self[code] = folded if len(folded) <= self.longest else chr(code)
        return self[code]


_FOLDED = _Compatible(longest=1)


# Above 8 there is only one Arabic phrase of 18 letters.
SPELT_OUT = _Compatible(longest=8)


# The checks of one question ask for the same few texts again and again.
@lru_cache(maxsize=32)
def normalize(text: str) -> str:
    """Han and alphanumerics only, after NFKC: what is left of a text when layout and punctuation do not count."""
    return re.sub(r"[\W_]+", "", text if text.isascii() else text.translate(SPELT_OUT))


@lru_cache(maxsize=32)
def fold(text: str) -> str:
    """NFKC character by character: as long as `text`, so that positions found in one hold in the other."""
    return text if text.isascii() else text.translate(_FOLDED)


def ngrams(text: str, n: int) -> set[str]:
    """Character n-grams; a shorter text is its own only gram, an empty one has none."""
    if len(text) <= n:
        return {text} if text else set()
    return {text[start : start + n] for start in range(len(text) - n + 1)}


def near_duplicates(
    texts: Sequence[str], threshold: float = DUPLICATE_THRESHOLD, n: int = DUPLICATE_GRAM, limit: int | None = None
) -> list[Pair]:
    """All pairs of texts with a Jaccard similarity of character n-grams of at least `threshold`, exactly.

    Texts are compared as `normalize` leaves them; an empty one is like no other. `first` < `second`, in order. With a
    `limit`, the search ends after so many pairs, and of copies of one text each is paired with the first one only.
    """
    pairs = _similar([normalize(text) for text in texts], None, threshold, n, copies_once=limit is not None)
    return sorted(Pair(min(a, b), max(a, b), similarity) for a, b, similarity in islice(pairs, limit))


def near_duplicates_across(
    left: Sequence[str], right: Sequence[str], threshold: float = DUPLICATE_THRESHOLD, n: int = DUPLICATE_GRAM
) -> list[Pair]:
    """`near_duplicates` between two lists only: `first` is a position in `left`, `second` one in `right`."""
    pairs = _similar([normalize(text) for text in (*left, *right)], len(left), threshold, n)
    return sorted(Pair(min(a, b), max(a, b) - len(left), similarity) for a, b, similarity in pairs)


def _similar(
    texts: list[str], border: int | None, threshold: float, n: int, copies_once: bool = False
) -> Iterable[tuple[int, int, float]]:
    """The similar pairs of normalized texts; with a `border`, only pairs of one text on each side of it.

    An exact set-similarity join by prefix filter (Chaudhuri et al. 2006, Bayardo et al. 2007): two sets with Jaccard
    >= t share k grams among the first |x| - ceil(t|x|) + k of each, in any one order of all grams. With rare grams
    first, hardly any other text is met k times there. The order needs no exact counts, so grams are counted in hashed buckets;
    a gram alone in its bucket is met by no other text and is not even indexed, which keeps the index small. Grams are
    compared by hashes of 64 bits: that two different ones have the same is a matter of one in 10^19.
    """
    # Long because its four steps share their tables.
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
    # Equal texts are compared once: files with many copies would cost the square of their number otherwise.
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if text:
            places.setdefault(text, []).append(place)
    unique = list(places)

    grams = [_hashed_ngrams(text, n) for text in unique]
    sizes = list(map(len, grams))
    buckets = 1 << 22
    count = np.zeros(buckets, np.uint32)
    for hashes in grams:
        np.add.at(count, hashes % buckets, 1)

    def across(a: int, b: int) -> bool:
        return border is None or (a < border) != (b < border)

    for copies in places.values():
        for position, a in enumerate(copies[:1] if copies_once else copies):
            yield from ((a, b, 1.0) for b in copies[position + 1 :] if across(a, b))
        if copies_once:
            del copies[1:]

    index: dict[int, list[int]] = {}
    for number in sorted(range(len(unique)), key=sizes.__getitem__):
        own, size = grams[number], sizes[number]
        least = math.ceil(threshold * size - 1e-9)
        shared_rare = min(SHARED_RARE, least)
        rarity = count[own % buckets]
        order = np.lexsort((own, rarity))[: size - least + SHARED_RARE]
        met: dict[int, int] = {}
        for gram in own[order[rarity[order] > 1]].tolist():
            others = index.setdefault(gram, [])
            for other in others:
                met[other] = met.get(other, 0) + 1
            others.append(number)
        # The other sets are smaller ones: large enough to reach the threshold at all, and with a pair across the border.
        candidates = [
            (other, pairs)
            for other, times in met.items()
            if times >= shared_rare
            and sizes[other] >= threshold * size - 1e-9
            and (pairs := [(a, b) for a in places[unique[other]] for b in places[unique[number]] if across(a, b)])
        ]
        for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
            some = candidates[start : start + CANDIDATES_AT_ONCE]
            theirs = np.concatenate([grams[other] for other, _ in some])
            found = np.searchsorted(own, theirs).clip(max=size - 1)
            begins = np.cumsum([0, *(sizes[other] for other, _ in some[:-1])])
            counts = np.add.reduceat(own[found] == theirs, begins, dtype=np.int64).tolist()
            for shared, (other, pairs) in zip(counts, some, strict=True):
                similarity = shared / (size + sizes[other] - shared)
                if similarity >= threshold:
                    yield from ((a, b, similarity) for a, b in pairs)


def _hashed_ngrams(text: str, n: int) -> NDArray[np.uint64]:
    """`ngrams` as hashes of 64 bits, each once: a fraction of the time and memory of the texts."""
    # No character is 0, so a short text is like no gram of a longer one.
    return np.unique(gram_hashes(text.ljust(n, "\0"), n))


def gram_hashes(text: str, n: int) -> NDArray[np.uint64]:
    """A hash of 64 bits of each character n-gram of a text of `n` characters or more, in order."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1 << 63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.zeros(len(codes) - n + 1, np.uint64)
    for place, factor in enumerate(factors):
        hashes += codes[place : place + len(hashes)] * factor
    return hashes


def containment(text: str, passages: str | Sequence[str], n: int = COPY_GRAM) -> float:
    """Share of the text's character n-grams that occur in the passages, 0 to 1; 0 for an empty text.

    A text shorter than `n` is one gram: 1 where a passage contains it, 0 otherwise.
    """
    wanted = ngrams(normalize(text), n)
    if not wanted:
        return 0.0
    passages = [passages] if isinstance(passages, str) else passages
    sources = [normalize(passage) for passage in passages]
    if len(wanted) <= FEW_GRAMS:
        return sum(any(gram in source for source in sources) for gram in wanted) / len(wanted)
    there = {gram for source in sources for gram in ngrams(source, n)}
    return len(wanted & there) / len(wanted)


# `A．` `A.` `A、` `A:` `A)` and `(A)`, all but `A)` also right behind a digit: page numbers of the print stand there in real items.
# A letter behind a Latin letter ends a word; `A、B两点` and `A、B、C` name things; in `P(B)` and `v(A)` it is an argument.
OPTION_MARK = re.compile(
    r"(?<![A-Za-z\\])(?:(?<!\})\([ \t]?|(?<!\S)|(?<=[)\u3001-\u9fff;,])|(?![A-H][ \t]*\)))([A-H])[ \t]*(?:[.:)﹒]|、(?![ \t]*[A-H][ \t]*(?:[、,和与或及]|两|三|四)))"
)


def split_options(question: str) -> dict[str, str] | None:
    """The options of a question, letter -> text as written, from `A` on; `None` without a run of A, B, C and D.

    Of several runs (sub-questions) the last counts.
    """
    run = option_run(question)
    if run is None:
        return None
    ends = [begin for _, begin, _ in run[1:]] + [len(question)]
    return {letter: question[end:stop].strip() for (letter, _, end), stop in zip(run, ends, strict=True)}


def option_run(question: str) -> list[tuple[str, int, int]] | None:
    """The option marks as (letter, where the mark begins, where it ends)."""
    folded = fold(question)
    marks = [(match.group(1), match.start(), match.end()) for match in OPTION_MARK.finditer(folded)]
    # Backwards from the end, the last A that has B, C and D behind it.
    wanted = "DCBA"
    first = len(marks)
    while wanted and first:
        first -= 1
        wanted = wanted.removeprefix(marks[first][0])
    if wanted:
        return None
    run: list[tuple[str, int, int]] = []
    for mark in marks[first:]:
        if len(run) == len(LETTERS):
            break
        # A fifth option opens a line or stands behind a wide gap: `E. coli` inside option D is not one.
        if mark[0] == LETTERS[len(run)] and (len(run) < 4 or _opens_line(folded, mark[1])):
            run.append(mark)
    return run


def _opens_line(text: str, position: int) -> bool:
    """Whether a line end or two blanks stand before the position."""
    before = position
    while before and text[before - 1] in " \t":
        before -= 1
    return position - before >= 2 or text[before - 1 : before] == "\n"


def parse_key(answer: str) -> str:
    """The option letters of an answer (`AC`, `A、C`, `Ｂ`, `(B)`, `B，`), empty where it is anything but letters."""
    letters = re.sub(r"[\s.,、;。()]", "", fold(answer))
    return letters if re.fullmatch(r"[A-H]+", letters) else ""


def bare(text: str) -> str:
    """A text as wordings are compared: letters and digits in lower case, without LaTeX words, which all formulas share."""
    return normalize(re.sub(r"\\[a-zA-Z]+", "", text)).lower()


def letters_and_places(text: str) -> tuple[str, list[int]]:
    """Letters and digits of a text in lower case, and where each of them stands."""
    text = fold(text)
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    return "".join(text[place].lower()[:1] for place in places), places


def shared_spans(text: str, source: str, least: int) -> list[tuple[int, int]]:
    """Where runs of `least` characters or more of `source` stand in `text`; both are taken as they are, see `bare`."""
    there = {source[start : start + least] for start in range(len(source) - least + 1)}
    found: list[tuple[int, int]] = []
    for start in range(len(text) - least + 1):
        if text[start : start + least] in there:
            begin = found.pop()[0] if found and found[-1][1] >= start else start
            found.append((begin, start + least))
    return found


def shorten(text: str, limit: int = 24) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "…"


class _Places:
    """Where a mark stands in a text. Looking for the next one costs no second reading of the text."""

    def __init__(self, text: str, mark: str) -> None:
        self.starts = [match.start() for match in re.finditer(f"(?={re.escape(mark)})", text)]

    def next(self, position: int) -> int | None:
        """The first one from `position` on."""
        index = bisect_left(self.starts, position)
        return self.starts[index] if index < len(self.starts) else None


_FORMULA_MARKS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def formulas(text: str) -> Iterator[tuple[int, int, str]]:
    """Each formula as (where it begins, where it ends, what is between its marks)."""
    if "$" not in text and "\\" not in text:
        return
    ends = {mark: _Places(text, mark) for _, mark in _FORMULA_MARKS}
    done = 0
    for opening in re.finditer(r"\$|\\[(\[]", text):
        start = opening.start()
        if start < done:
            continue
        for begin, mark in _FORMULA_MARKS:
            # Something stands between the marks: `$$` alone is no formula.
            end = ends[mark].next(start + len(begin) + 1) if text.startswith(begin, start) else None
            if end is not None:
                done = end + len(mark)
                yield start, done, text[start + len(begin) : end]
                break


def images(text: str) -> Iterator[tuple[int, int]]:
    """Where Markdown images stand: `![…](…)`, of one cut off the beginning."""
    squares, rounds = _Places(text, "]"), _Places(text, ")")
    done = 0
    for opening in re.finditer(r"!\[", text):
        square = squares.next(opening.end())
        if opening.start() < done or square is None or not text.startswith("](", square):
            continue
        end = rounds.next(square + 2)
        done = square + 2 if end is None else end + 1
        yield opening.start(), done


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a blank in place of each span; they come in order, and may overlap."""
    kept, done = [], 0
    for start, end in spans:
        kept.append(text[done:start])
        done = max(done, end)
    return " ".join([*kept, text[done:]])


def columns(text: str) -> int:
    """Printed width of a text: two columns for a Han or full-width character, one for others."""
    return sum(2 if unicodedata.east_asian_width(character) in "WFA" else 1 for character in text)


def pad(text: str, width: int) -> str:
    """The text with blanks behind it up to a printed width."""
    return text + " " * (width - columns(text))


# What counts as a leak. The 467 passages written by hand for the bundled set reach .091 at most, and .02 once.
LEAK_BOUND = 0.1
# Shorter answers occur in any passage on the subject.
LEAK_SHORTEST = 4


def split_set(question: str, count: int) -> tuple[int, list[str]] | None:
    """The parts of a set, several choice questions about one text, that are numbered one after the other.

    Returns:
        The number of the first, and `count` + 1 texts: the one before it, then each question without its number; `None`
        where not each of them is found with options of its own.
    """
    for first in range(1, 80):
        # From the end: the text before the questions may be numbered too.
        parts: list[str] = []
        before = question
        for number in range(first + count - 1, first - 1, -1):
            marks = [*re.finditer(rf"(?<![\d.])(?:{number}\s*[．.、](?!\d)|[（(]\s*{number}\s*[）)])", before)]
            if not marks or split_options(before[marks[-1].end() :]) is None:
                break
            parts.append(before[marks[-1].end() :])
            before = before[: marks[-1].start()]
        else:
            return first, [before, *reversed(parts)]
    return None


# A statement ends at the next one, at the line's end or at the first option.
_STATEMENT = re.compile(r"([①-⑨])((?:(?!A\s*[．.、])[^①-⑨\n]){4,})")


def split_statements(question: str) -> dict[str, str]:
    """The statements that options combine, mark -> text: ①甲 ②乙. Of a mark that stands twice the last counts."""
    return dict(_STATEMENT.findall(question))


def keyed_texts(question: str, answer: str) -> list[str]:
    """The texts of the options that an answer names; of one that combines statements (①③), these statements."""
    options, statements = split_options(question) or {}, split_statements(question)
    texts: list[str] = []
    for option in (options.get(letter, "") for letter in parse_key(answer)):
        combined = [statements[mark] for mark in re.findall("[①-⑨]", option) if mark in statements]
        texts += combined or [option]
    return texts


def answer_texts(record: "Record") -> tuple[str, ...]:
    """What a passage must not contain: the texts of the key (`keyed_texts`), each blank's filling, or the written answer as a whole.

    Empty where nothing can be measured: a shorter text occurs by chance, and the key letters of a set name no options
    where its questions are not found (`split_set`).
    """
    return _answer_texts(record.type, record.question, record.answer)


# A passage that is built sentence by sentence is measured again and again.
@lru_cache(maxsize=16)
def _answer_texts(kind: str, question: str, answers: tuple[str, ...]) -> tuple[str, ...]:
    if kind in CHOICE_TYPES:
        found = split_set(question, len(answers)) if len(answers) > 1 else (1, ["", question])
        parts = found[1][1:] if found else []
        texts = [text for part, answer in zip(parts, answers, strict=False) for text in keyed_texts(part, answer)]
    elif kind == "填空题":
        # A single word of English stands in any passage.
        texts = [piece for answer in answers for piece in re.split(r"[；;\n]", answer)]
        texts = [text for text in texts if not re.fullmatch(r"[\sA-Za-z'’-]*", text) or " " in text.strip()]
    else:
        texts = ["\n".join(answers)]
    return tuple(text for text in texts if len(normalize(text)) >= LEAK_SHORTEST)


def leak_share(record: "Record", *passages: str) -> float:
    """How much of the answer the passages contain together, by `containment`: 0 to 1; a leak above LEAK_BOUND."""
    return max((containment(text, passages) for text in answer_texts(record)), default=0.0)
