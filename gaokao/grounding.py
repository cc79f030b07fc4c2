"""Whether questions are made from their passages: own passage first, beside chance, copying, and what is taken over.

A question is compared with its own passage and with those of all other items of its subject. How often its own is the
nearest says how far a set depends on what it was given. Copying reaches that too, so the figure also stands with the
verbatim spans taken out, and beside a baseline that pastes the outside passage as the question.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gaokao.checks import SPAN, Item
from gaokao.metrics import rate
from gaokao.parallel import on_cores
from gaokao.records import PASSAGES, SUBJECTS, TEXTBOOK
from gaokao.text import bare, shared_spans, without

GRAMS = (2, 4)
# With fewer passages of a subject there is hardly a wrong one to be nearer to.
LEAST_ITEMS = 3
# Of a larger subject the first ones: the time grows with their square.
MOST_ITEMS = 5_000
ROWS_AT_ONCE = 500
# Passage -> subject or `all` -> own_first, without_spans, pasted (see `metrics.rate`), chance, above_chance.
Grounding = dict[str, dict[str, dict[str, Any]]]


def grounding(items: Sequence[Item]) -> Grounding:
    """Own passage first for 课本内容 and 课外内容 apart: by subject, and `all` subjects pooled.

    `own_first` is a rate of items; `without_spans` the same with the verbatim spans of the own passage taken out of the
    question; `pasted` with 课外内容 in place of the question (of 课外内容 itself it would be all, so nothing is counted);
    `chance` is one in the different passages of a subject; `above_chance` says whether the interval of `own_first` lies above it.
    Subjects with fewer than `LEAST_ITEMS` different passages are left out.
    """
    found: Grounding = {}
    for name in PASSAGES:
        compared = _compared(items, name)
        calls = [([items[place] for place in places], name) for places in compared.values()]
        flags = dict(zip(compared, on_cores(_flags, calls, len(items)), strict=True))
        rows = {subject: _row([those]) for subject, those in flags.items()}
        found[name] = rows | ({"all": _row([*flags.values()])} if len(rows) > 1 else {})
    return found


def grounded(items: Sequence[Item], name: str) -> dict[int, bool]:
    """Place of each question that `grounding` compares -> whether its own passage comes first."""
    found: dict[int, bool] = {}
    for places in _compared(items, name).values():
        passages = [bare(items[place].passage(name)) for place in places]
        questions = [bare(items[place].question) for place in places]
        found |= zip(places, own_first(questions, passages), strict=True)
    return found


def _compared(items: Sequence[Item], name: str) -> dict[str, list[int]]:
    """Subject -> places of the questions with this passage, where there are enough different ones of it."""
    groups: dict[str, list[int]] = {subject: [] for subject in SUBJECTS}
    for place, item in enumerate(items):
        if item.question and item.passage(name) and len(groups[item.subject]) < MOST_ITEMS:
            groups[item.subject].append(place)
    return {
        subject: places
        for subject, places in groups.items()
        if len({bare(items[place].passage(name)) for place in places}) >= LEAST_ITEMS
    }


class _Flags(NamedTuple):
    own_first: list[bool]
    without_spans: list[bool]
    pasted: list[bool]
    passages: int
    """Different ones."""


def _flags(group: Sequence[Item], name: str) -> _Flags:
    passages = [bare(item.passage(name)) for item in group]
    questions = [bare(item.question) for item in group]
    rest = [without(q, shared_spans(q, p, SPAN)) for q, p in zip(questions, passages, strict=True)]
    pasted = [bare(item.outside) or None for item in group] if name == TEXTBOOK else []
    ranked = ranking(passages)
    own = ranked(questions)
    # Most questions take over nothing, and need not be ranked again.
    again = iter(ranked([r if r != q else None for r, q in zip(rest, questions, strict=True)]))
    left = [flag if r == q else next(again) for flag, r, q in zip(own, rest, questions, strict=True)]
    return _Flags(own, left, ranked(pasted), len(set(passages)))


def _row(groups: Sequence[_Flags]) -> dict[str, Any]:
    own = rate([flag for group in groups for flag in group.own_first])
    rest = rate([flag for group in groups for flag in group.without_spans])
    pasted = rate([flag for group in groups for flag in group.pasted])
    # A group's chance level is one in its different passages.
    chance = round(sum(len(g.own_first) / g.passages for g in groups) / own["items"], 4) if own["items"] else None
    above = chance is not None and own["interval_95"][0] > chance
    return {"own_first": own, "without_spans": rest, "pasted": pasted, "chance": chance, "above_chance": above}


def own_first(texts: Sequence[str | None], passages: Sequence[str]) -> list[bool]:
    """For each text that is there, whether the passage at its place is nearer to it than every other one.

    Nearness is the cosine of TF-IDF over character 2-4-grams (Salton and Buckley 1988), fitted on the passages. Equal
    passages are one; an empty text is near to none.
    """
    return ranking(passages)(texts) if any(text is not None for text in texts) else []


def ranking(passages: Sequence[str]) -> Callable[[Sequence[str | None]], list[bool]]:
    """`own_first` for several lists of texts with the same passages, which are read once."""
    # scikit-learn takes a second to import: whoever only asks for help should not wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer

    places = {passage: place for place, passage in enumerate(dict.fromkeys(passages))}
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=GRAMS, lowercase=False)
    known = vectorizer.fit_transform([passage.ljust(GRAMS[0]) for passage in places]).T.tocsr()

    def ranked(texts: Sequence[str | None]) -> list[bool]:
        there = [(text, passage) for text, passage in zip(texts, passages, strict=False) if text is not None]
        flags: list[bool] = []
        for start in range(0, len(there), ROWS_AT_ONCE):
            some = there[start : start + ROWS_AT_ONCE]
            similarity = (vectorizer.transform([text for text, _ in some]) @ known).toarray()
            for row, (_, passage) in zip(similarity, some, strict=True):
                own = row[places[passage]]
                # Equal to another one is not nearer; rounding makes equal ones differ in the last digits.
                flags.append(bool(own > 0 and (row >= own - 1e-12).sum() == 1))
        return flags

    return ranked


def note(found: Grounding) -> str:
    """What must be said of rows that are not above chance; empty where there are none."""
    low = []
    for name, rows in found.items():
        subjects = [subject for subject, row in rows.items() if not row["above_chance"]]
        if subjects:
            low.append(name if len(subjects) == len(rows) else f"{name} {' '.join(subjects)}")
    if not low:
        return ""
    return (
        f"not shown to be above chance: {'; '.join(low)}. Either these questions do not depend on the passage, or wording "
        "cannot show it (a grammar rule shares none with a sentence that tests it), or the items are too few"
    )


def screen(found: Grounding) -> list[str]:
    """A line for each passage: all subjects pooled, or the only one."""
    lines = []
    for name, rows in found.items():
        if not rows:
            lines.append(f"{name} not compared: no subject has questions with {LEAST_ITEMS} different ones")
            continue
        row = rows["all"] if "all" in rows else next(iter(rows.values()))
        first = row["own_first"]
        low, high = first["interval_95"]
        text = f"{name} own passage first {first['passed']} of {first['items']} (95% interval {low:.0%} to {high:.0%})"
        text += f", chance {row['chance']:.0%}; without verbatim spans {row['without_spans']['passed']}"
        if row["pasted"]["items"]:
            text += f"; 课外内容 pasted as the question {row['pasted']['passed']} of {row['pasted']['items']}"
        lines.append(text)
    return lines
