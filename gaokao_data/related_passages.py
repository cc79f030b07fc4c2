"""Passages from the 解析 of other items: sentences that explain the matter by themselves and give no answer away."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from gaokao.text import containment, near_duplicates, normalize, split_options
from gaokao_data.exam_print import HAN, MATH, _run_of_numbers

# A set is several single-choice questions about one text. Its records are 单选题 with a list of answers; it has a name
# of its own here so that `--types 单选题` selects items with one answer only.
SET = "单选题组"
SEED = 20250101

# At most this share of the answer's 8-grams may stand in a passage: the benchmark's own bound against chance is .02.
LEAK_BOUND = 0.02
# Answers shorter than an 8-gram are searched as they are, from this many characters on; shorter ones occur by chance.
LEAK_SHORTEST = 4


@dataclass
class Draft:
    """One item on its way from the benchmark to a record."""

    id: str
    subject: str
    kind: str
    year: int
    category: str
    source: str
    question: str
    answer: list[str]
    analysis: str
    passage: str = ""
    passage_ids: list[str] = field(default_factory=list)

    @property
    def type(self) -> str:
        return "单选题" if self.kind == SET else self.kind

    @property
    def characters(self) -> int:
        """Length of question, answer and analysis together."""
        return len(self.question) + sum(map(len, self.answer)) + len(self.analysis)


_STOP = re.compile(r"(?<=[^\s\d])．(?!\d)|(?<=\d)．(?=\s|$)|\.(?=\s|$)|;(?=\s|$)", re.MULTILINE)
_LABELS = re.compile(
    r"^\s*(?:[（(]\d{1,2}[）)]|\d{1,2}\s*[．.、]|[①-⑳]+[、，．.：:]?|(?:选项)?[A-G](?:选?项)?[．.、，：:]\s*|[A-G](?:选?项)|解\s*[:：]|"
    r"(?:[则即且又而并以]|从而|综上所述|综上|同理|再)(?=[^\w])[，,]?|结合所学(?:知识)?(?:可知|可得)?[，,]?|根据所学(?:知识)?(?:可知)?[，,]?|由此可知[，,]?|分析[:：]|故|因此|所以|但|而且|可见)\s*"
)
_VERDICT = re.compile(
    r"[，,；;。]?\s*(?:故|因此|所以|则|，|即)?\s*(?:选项)?(?:[A-G]|[①-⑳])(?:[、，]?(?:[A-G]|[①-⑳]))*\s*(?:选?项|选项|观点)?(?:的)?"
    r"(?:叙述|说法|表述|观点)?(?:均|都|是)?(?:正确|错误|有误|不?符合(?:题意|题干|史实|要求)?|不合题意|不符|应?排除|不选|不对|入选|当选|可选|不正确)"
    r"[^，。；]{0,6}(?=[，。；]|$)"
)
_REFERS = re.compile(
    r"本题|此题|该题|本小题|题干|题目|题意|题中|题设|题肢|小题|选项|故选|应选|可选|不选|选[A-G]|答案|排除|正误|错误|正确|不符|符合题|考查|考点|点评|材料|"
    r"上文|下文|文中|文章|原文|作者|诗中|词中|段|句意|设问|考生|同学|解答|解题|作答|答题|依据|如图|下图|图[中示1-9甲乙]|表中|由[图表]|据[图表]|"
    r"[A-G]项|[A-G]、|【|】|[①-⑳]|____|说法|表述|题|信息|这里|此处|语境|句中|空格|该空|个空|本句|填|教材|课本|表格|实验结果|该实验|本实验|该图|此图|由表|可知[A-G]|[A-G][错对]"
)
_SENTENCE_CHARS = (12, 220)


def exposition(analysis: str) -> list[str]:
    """The sentences of a 解析 that explain the matter by themselves, freed of option letters, verdicts and 故选X."""
    sentences = []
    for piece in _split_sentences(analysis):
        sentence = piece
        for _ in range(3):
            sentence = _LABELS.sub("", sentence).strip()
        sentence = _VERDICT.sub("", sentence).strip("，,；;。．. ：:、！？")
        low, high = _SENTENCE_CHARS
        if not low <= len(sentence) <= high or _REFERS.search(sentence) or sentence.count("$") % 2:
            continue
        if not re.match(rf"[{HAN}《“A-Z]", sentence) or len(re.findall(f"[{HAN}]", sentence)) < max(
            8, len(sentence) * 0.3
        ):
            continue
        if re.match(
            r"[则可其该这它他此且即]|前者|后者|上述|以上|同理|综上|验证|据|根据[^，]*可[知得见]?$|和|与|也|仍|仅",
            sentence,
        ):
            continue
        sentences.append(sentence + "。")
    return sentences


def _split_sentences(text: str) -> list[str]:
    """The whole sentences of a text, each with its stop; a full stop inside a formula ends none."""
    formulas: list[str] = []

    def hide(match: re.Match[str]) -> str:
        formulas.append(match[0])
        return f"\x00{len(formulas) - 1}\x00"

    text = _STOP.sub("。", MATH.sub(hide, text))
    # A line without a stop at its end is a heading, or a sentence that the layout broke.
    pieces = [piece for line in text.split("\n") for piece in re.findall(r"[^。；！？]+[。；！？]", line)]
    return [re.sub(r"\x00(\d+)\x00", lambda match: formulas[int(match[1])], piece).strip() for piece in pieces]


def stem_of(question: str) -> str:
    """A question without its options."""
    options = split_options(question)
    if options is None:
        return question
    at = question.rfind(next(iter(options.values())))
    return question[:at] if at > 0 else question


def answer_text(draft: Draft) -> str:
    """What a passage must not contain: the texts of the keyed options, or the written answer."""
    if draft.kind in ("填空题", "主观题"):
        return "\n".join(draft.answer)
    starts = [end for _, end in _run_of_numbers(draft.question, 1, len(draft.answer))] if draft.kind == SET else [0]
    parts = [draft.question[begin:end] for begin, end in pairwise([*starts, len(draft.question)])]
    keyed = []
    for part, letters in zip(parts, draft.answer, strict=False):
        options = split_options(part) or {}
        keyed += [options.get(letter, "") for letter in letters]
    return "\n".join(keyed)


def gives_away(answer: str, passage: str) -> bool:
    """Whether a passage contains more of an answer than chance: its 8-grams, or all of a short answer."""
    bare = normalize(answer)
    return len(bare) >= LEAK_SHORTEST and containment(answer, passage) > LEAK_BOUND


def add_related_passages(drafts: Sequence[Draft], chars: tuple[int, int]) -> None:
    """Give each draft a passage from other items' 解析 of its subject, nearest stems of strictly earlier years first.

    Nearness is the cosine of TF-IDF over character 2- and 3-grams of the stems without options. A source whose stem is
    a near-duplicate is passed over, and so is a sentence that would give the answer away. A draft for which no
    passage of the least length is found keeps an empty one.

    Args:
        drafts: items of all years and subjects.
        chars: least and greatest length of a passage in characters.
    """
    # scikit-learn takes a second to import: a wrong folder should be answered before.
    from sklearn.feature_extraction.text import TfidfVectorizer

    sentences = {draft.id: exposition(draft.analysis) for draft in drafts}
    for subject in sorted({draft.subject for draft in drafts}):
        group = sorted(
            (draft for draft in drafts if draft.subject == subject), key=lambda draft: (draft.year, draft.id)
        )
        stems = [stem_of(draft.question) for draft in group]
        twins = {(pair.first, pair.second) for pair in near_duplicates(stems)}
        vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 3), sublinear_tf=True).fit_transform(stems)
        similarity = (vectors @ vectors.T).toarray()
        for number, draft in enumerate(group):
            earlier = [
                other
                for other in range(number)
                if group[other].year < draft.year and (other, number) not in twins and sentences[group[other].id]
            ]
            earlier.sort(key=lambda other: (-round(float(similarity[number, other]), 9), group[other].id))
            candidates = [(group[other].id, sentences[group[other].id]) for other in earlier]
            draft.passage, draft.passage_ids = build_passage(answer_text(draft), draft.question, candidates, chars)


def build_passage(
    answer: str, question: str, candidates: Iterable[tuple[str, list[str]]], chars: tuple[int, int]
) -> tuple[str, list[str]]:
    """Join whole sentences of the candidates, in order, until the passage has the least length.

    Returns:
        The passage and the ids it is made from; both empty where the candidates do not suffice.
    """
    least, greatest = chars
    passage = ""
    ids: list[str] = []
    seen: set[str] = set()
    for identity, sentences in candidates:
        before = passage
        for sentence in sentences:
            longer = passage + sentence
            if len(longer) > greatest or normalize(sentence) in seen or gives_away(answer, longer):
                continue
            seen.add(normalize(sentence))
            passage = longer
        if passage != before:
            ids.append(identity)
        if len(passage) >= least:
            return passage, ids
    return "", []


def add_own_passages(drafts: Sequence[Draft], chars: tuple[int, int]) -> None:
    """Give each draft the exposition of its own 解析, cut at a sentence end; such a passage leaks the answer."""
    for draft in drafts:
        passage = ""
        for sentence in exposition(draft.analysis) or _split_sentences(draft.analysis):
            if len(passage + sentence) > chars[1]:
                break
            passage += sentence
        draft.passage = passage
        draft.passage_ids = [draft.id] if passage else []


class Leak(NamedTuple):
    """Share of the answers' 8-grams found in passages, 0 to 1, over so many items; a shorter answer is one gram."""

    items: int
    mean: float
    median: float
    p95: float

    def __str__(self) -> str:
        return f"median {self.median:.3f}, 95th percentile {self.p95:.3f}, mean {self.mean:.4f}"


def measure_leak(drafts: Sequence[Draft]) -> tuple[Leak, Leak]:
    """The leak of the passages that the drafts have, and that of random passages of the same subject (chance)."""
    chooser = random.Random(SEED)
    pools: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        if draft.passage:
            pools[draft.subject].append(draft)
    found, chance = [], []
    for draft in drafts:
        answer = answer_text(draft)
        others = [other for other in pools[draft.subject] if other is not draft]
        if draft.passage and normalize(answer) and others:
            found.append(containment(answer, draft.passage))
            chance.append(containment(answer, chooser.choice(others).passage))
    return _leak(found), _leak(chance)


def _leak(shares: list[float]) -> Leak:
    if not shares:
        return Leak(0, 0.0, 0.0, 0.0)
    return Leak(len(shares), fmean(shares), median(shares), sorted(shares)[int(len(shares) * 0.95)])
