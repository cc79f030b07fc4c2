"""Two results files of the same records: which is better, figure by figure, and how sure that is.

Only records that both have, asked for in the same way, are compared, each with itself. Rates: exact McNemar test
(McNemar 1947) and Newcombe's interval for paired proportions (Newcombe 1998, method 10). Means: bootstrap over records
and a sign-flip test. Where records share a passage, they go well or badly together: all figures then have a bootstrap
over the groups that share one and a test that flips the signs of whole groups, which for groups of one record is
McNemar's. The p-values of all figures of a comparison are corrected together (Holm 1979).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from gaokao.checks import CHECKS, Outcome
from gaokao.errors import UserError
from gaokao.grounding import grounded
from gaokao.metrics import bootstrap_interval, group_sums, item_similarity, passage_groups, standard_error
from gaokao.records import PASSAGES
from gaokao.results import ALL_CHECKS, OFF_PASSAGES, REPEATS, SOLVE_BACK, Generated

LEVEL = 0.05
# A power of 80%, as studies plan with.
Z_POWER = 0.841621
RESAMPLES = 10_000
# An exact test of fewer pairs never comes below 5%.
FEWEST = 6
NAMES_SHOWN = 5


class Pairing(NamedTuple):
    """Which records of two files belong together."""

    pairs: list[tuple[Generated, Generated]]
    only_first: list[str]
    """Ids."""
    only_second: list[str]
    asked_otherwise: list[str]
    """Both have the id, but with another subject, type or passage."""


def pair(first: Sequence[Generated], second: Sequence[Generated]) -> Pairing:
    """Each question with the other file's question for the same record.

    Raises:
        UserError: there is none.
    """
    others = {item.record.id: item for item in second}
    both = [(item, others[item.record.id]) for item in first if item.record.id in others]
    same = [(a, b) for a, b in both if _asked(a) == _asked(b)]
    ids = {item.record.id for item in first}
    found = Pairing(
        same,
        [item.record.id for item in first if item.record.id not in others],
        [item.record.id for item in second if item.record.id not in ids],
        [a.record.id for a, b in both if _asked(a) != _asked(b)],
    )
    if not same:
        raise UserError(
            f"the two results share no record (such as {first[0].record.id} and {second[0].record.id}, or the same ids with "
            "other passages); generate both from the same data.test"
        )
    return found


def _asked(item: Generated) -> tuple[str, ...]:
    record = item.record
    return record.subject, record.type, record.textbook, record.outside


class Figure(NamedTuple):
    """One figure of a comparison; rates and differences are shares (0 to 1), similarity 0 to 100."""

    name: str
    items: int
    first: float
    second: float
    interval_95: tuple[float, float]
    """Of first minus second."""
    p: float
    needed: int | None
    """Records that would show a difference of this size with a power of 80%; `None` where there is none."""
    p_holm: float = 1.0
    percent: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The figure as `scores.json` has it."""
        return {**self._asdict(), "difference": self.difference, "verdict": self.verdict}

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `none`: no difference shown."""
        if self.p_holm >= LEVEL:
            return "none"
        return "better" if self.difference > 0 else "worse"


def compare(pairs: Sequence[tuple[Generated, Generated]], seed: int = 0) -> list[Figure]:
    """All figures that both files have, the usable rate first, with corrected p-values.

    What applies to fewer than `FEWEST` of the pairs is left out: it could show nothing, and would cost the others.
    """
    flags = {name: those for name, those in _flags(pairs).items() if len(those[0]) >= min(FEWEST, len(pairs))}
    groups = passage_groups([first.record for first, _ in pairs])
    scored = [place for place, (a, b) in enumerate(pairs) if a.reference and b.reference]
    # What one figure among so many has to reach.
    z = NormalDist().inv_cdf(1 - LEVEL / (len(flags) + (len(scored) > 1)) / 2)
    figures = [
        _figure(name, ours, theirs, [groups[place] for place in places], seed, z, rates=True)
        for name, (places, ours, theirs) in flags.items()
    ]
    if len(scored) > 1:
        ours, theirs = ([item_similarity(pairs[place][side]) for place in scored] for side in (0, 1))
        figures.append(_figure("similarity", ours, theirs, [groups[place] for place in scored], seed, z, rates=False))
    return [
        figure._replace(p_holm=p) for figure, p in zip(figures, holm([figure.p for figure in figures]), strict=True)
    ]


Flags = tuple[list[int], list[bool], list[bool]]


def _flags(pairs: Sequence[tuple[Generated, Generated]]) -> dict[str, Flags]:
    """Name -> the pairs of which both questions can be judged, and what holds of each first and second of them."""
    rates: dict[str, Callable[[Generated], bool | None]] = {
        "usable": lambda item: item.usable,
        "three sections and stopped": lambda item: item.question.complete and item.finish_reason == "stop",
    }
    for column, (name, _) in enumerate(ALL_CHECKS):
        rates[name] = lambda item, column=column: _passed(item.results[column].outcome)  # type: ignore[misc]
    found: dict[str, Flags] = {}
    for name, judge in rates.items():
        judged = [(judge(a), judge(b)) for a, b in pairs]
        known = [(place, a, b) for place, (a, b) in enumerate(judged) if a is not None and b is not None]
        if name in ("usable", "three sections and stopped") or any(a != b for _, a, b in known):
            found[name] = ([place for place, _, _ in known], [a for _, a, _ in known], [b for _, _, b in known])
    # Both are compared with the same passages: whoever writes fewer questions would have fewer rivals.
    both = [place for place, (a, b) in enumerate(pairs) if a.item.question and b.item.question]
    for name in PASSAGES:
        sides = [grounded([pairs[place][side].item for place in both], name) for side in (0, 1)]
        shared = sorted(sides[0].keys() & sides[1].keys())
        found[f"own {name} first"] = (
            [both[at] for at in shared], [sides[0][at] for at in shared], [sides[1][at] for at in shared],
        )  # fmt: skip
    return found


def _passed(outcome: Outcome) -> bool | None:
    return None if outcome is Outcome.NOT_APPLICABLE else outcome is Outcome.PASS


def _figure(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    groups: Sequence[int],
    seed: int,
    z: float,
    rates: bool,
) -> Figure:
    """One figure of flags (`rates`) or of scores of 0 to 100; see `compare` for `z`."""
    count = len(ours)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    sums, _ = group_sums(differences, groups)
    if rates and len(sums) == count:
        interval, p = paired_interval(ours, theirs), _mcnemar(differences)
    else:
        interval, p = _grouped_interval(ours, theirs, groups, seed, rates), _sign_flip(sums, seed)
    # As if there were no difference in the mean, and with this one, both of as many independent records.
    spread_without = math.sqrt(float((sums**2).sum()) / count)
    spread_with = standard_error(differences, groups) * math.sqrt(count) if len(sums) > 1 else spread_without
    difference = sum(differences) / count
    needed = items_needed(difference, spread_without if rates else spread_with, spread_with, z)
    return Figure(name, count, sum(ours) / count, sum(theirs) / count, interval, p, needed, percent=rates)


def _mcnemar(differences: Sequence[float]) -> float:
    from scipy.stats import binomtest

    gained, lost = (sum(difference == sign for difference in differences) for sign in (1, -1))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _sign_flip(sums: Any, seed: int) -> float:
    """P-value of the sums of groups by flipping their signs: exact where there are few, by 10,000 draws otherwise."""
    import numpy as np
    from scipy.stats import permutation_test

    # A group without a difference has no sign.
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    if (abs(sums) == abs(sums[0])).all():
        return _mcnemar(np.sign(sums).tolist())
    found = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=200,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _grouped_interval(
    ours: Sequence[float], theirs: Sequence[float], groups: Sequence[int], seed: int, rates: bool
) -> tuple[float, float]:
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(set(groups)) == 1:
        # One passage says nothing about others.
        most = 1.0 if rates else 100.0
        return -most, most
    if rates and min(differences) == max(differences):
        # No resample would differ, however few there are: the interval of one record of each group.
        places = list({group: place for place, group in enumerate(groups)}.values())
        return paired_interval([ours[place] for place in places], [theirs[place] for place in places])
    return bootstrap_interval(differences, seed, groups)


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """95% interval of the difference of two paired proportions of flags (Newcombe 1998, method 10)."""
    from scipy.stats import binomtest

    count = len(ours)
    table = {key: 0 for key in ((True, True), (True, False), (False, True), (False, False))}
    for a, b in zip(ours, theirs, strict=True):
        table[bool(a), bool(b)] += 1
    both, only_ours, only_theirs, neither = table.values()
    bounds = [
        binomtest(sum(flags), count).proportion_ci(confidence_level=0.95, method="wilson") for flags in (ours, theirs)
    ]
    a, b = sum(ours) / count, sum(theirs) / count
    product = sum(ours) * (count - sum(ours)) * sum(theirs) * (count - sum(theirs))
    surplus: float = both * neither - only_ours * only_theirs
    surplus = max(0.0, surplus - count / 2) if surplus > 0 else surplus
    phi = surplus / math.sqrt(product) if product else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    low = a - b - reach(a - bounds[0].low, bounds[1].high - b)
    high = a - b + reach(bounds[0].high - a, b - bounds[1].low)
    return max(-1.0, low), min(1.0, high)


def items_needed(difference: float, spread_without: float, spread_with: float, z: float) -> int | None:
    """Records at which a difference of this size would be shown with a power of 80%.

    Args:
        difference: of the two figures.
        spread_without: standard deviation of the differences if there were no difference in the mean.
        spread_with: with this difference in the mean.
        z: standard errors that a difference must reach.
    """
    if not difference:
        return None
    return math.ceil(((z * spread_without + Z_POWER * spread_with) / difference) ** 2)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = least
    return corrected


# --- in words ---------------------------------------------------------------------------------------------------------

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "better": "better", "worse": "worse", "none": "no difference shown",
        "line": "{name}: {verdict}, {first} against {second} ({items} records, difference {difference}, 95% interval {low} to {high}, p = {p})",
        "needed": "; about {needed} records would show a difference of this size",
        "paired": "{pairs} records are in both and are compared",
        "groups": "records that share a passage count together: {groups} groups",
        "only_first": "{count} are in the first only ({names})",
        "only_second": "{count} are in the second only ({names})",
        "asked_otherwise": "{count} have the same id but another subject, type or passage ({names})",
        "unjudged": "one of the two is of an interrupted run, whose questions were not compared with each other yet: finish it before you decide",
        "holm": "p-values are corrected for {count} figures (Holm)",
    },
    "zh": {
        "better": "更好", "worse": "更差", "none": "看不出差别",
        "line": "{name}：{verdict}，{first} 对 {second}（{items} 条记录，相差 {difference}，95% 区间 {low} 到 {high}，p = {p}）",
        "needed": "；要看出这么大的差别，大约需要 {needed} 条记录",
        "paired": "两边都有的记录 {pairs} 条，逐条比较",
        "groups": "材料相同的记录合在一起算，共 {groups} 组",
        "only_first": "只在第一个里的 {count} 条（{names}）",
        "only_second": "只在第二个里的 {count} 条（{names}）",
        "asked_otherwise": "编号相同而科目、题型或材料不同的 {count} 条（{names}）",
        "unjudged": "其中一个是中断的生成，题目之间还没有比较过：先让它跑完，再作决定",
        "holm": "p 值已按 {count} 项校正（Holm）",
    },
}  # fmt: skip
ZH_NAMES = {
    "usable": "可用率", "three sections and stopped": "三部分齐全且自行结束", "similarity": "与参考题的相似度", REPEATS: "不重复", OFF_PASSAGES: "不离开材料",
    SOLVE_BACK: "答案得到解题模型证实",
    "own 课本内容 first": "自己的课本内容排第一", "own 课外内容 first": "自己的课外内容排第一",
    "sections": "三部分齐全", "options": "选项", "key": "答案格式", "key agrees": "答案与解析一致", "verdicts": "解析的判断与答案一致",
    "leak words": "不提课本课外", "material": "材料在题干里", "picture": "不需要图", "quotes": "引文", "copied": "不是照抄", "latex": "公式完整",
    "repetition": "不重复循环", "truncated": "没有截断", "language": "语言",
}  # fmt: skip


# A check is called by what it finds; what is compared is how many pass it.
EN_NAMES = {check.name: f"passes the check of {check.name}" for check in CHECKS} | {
    REPEATS: "repeats no other question",
    OFF_PASSAGES: "stays with its passages",
    SOLVE_BACK: "has its key confirmed by a solver",
    "similarity": "similarity to the references (says little)",
}


def comparison_text(found: Pairing, figures: Sequence[Figure], language: str) -> str:
    """One plain sentence a figure, and which records were compared."""
    words = WORDS[language]
    parts = [words["paired"].format(pairs=len(found.pairs))]
    groups = len(set(passage_groups([first.record for first, _ in found.pairs])))
    if groups < len(found.pairs):
        parts.append(words["groups"].format(groups=groups))
    for key in ("only_first", "only_second", "asked_otherwise"):
        ids: list[str] = getattr(found, key)
        if ids:
            names = ", ".join(ids[:NAMES_SHOWN]) + (" …" if len(ids) > NAMES_SHOWN else "")
            parts.append(words[key].format(count=len(ids), names=names))
    if len({item.repeats is None for both in found.pairs for item in both}) > 1:
        parts.append(words["unjudged"])
    joint = "; " if language == "en" else "；"
    lines = [joint.join(parts), *(sentence(figure, language) for figure in figures)]
    return "\n".join([*lines, words["holm"].format(count=len(figures))])


def sentence(figure: Figure, language: str) -> str:
    """Better, worse, or no difference shown, with what that rests on."""
    words = WORDS[language]

    def shown(value: float, signed: bool = False) -> str:
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.0f}%" if figure.percent else f"{value:{sign}.1f}"

    text = (
        words["line"]
        .format(
            name=(ZH_NAMES if language == "zh" else EN_NAMES).get(figure.name, figure.name),
            verdict=words[figure.verdict],
            first=shown(figure.first),
            second=shown(figure.second),
            items=figure.items,
            difference=shown(figure.difference, signed=True),
            low=shown(figure.interval_95[0], signed=True),
            high=shown(figure.interval_95[1], signed=True),
            p=f"{figure.p_holm:.3f}" if figure.p_holm >= 0.001 else "< 0.001",
        )
        .replace("p = <", "p <")
    )
    if figure.verdict == "none" and figure.needed and figure.needed > figure.items:
        text += words["needed"].format(needed=f"{figure.needed:,}")
    return text
