"""课本内容 for real items, from the 解析 of others: sentences that explain the matter by themselves and give no answer away."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gaokao.records import HEADER, Record
from gaokao.text import answer_texts, leak_share, near_duplicates, normalize, split_options
from gaokao_data.exam_print import HAN, MATH

MODES = ("related", "own", "none")
SEED = 20250101
# A passage is chosen more strictly than LEAK_BOUND tells a leak: other sentences are at hand, and this is what a random
# passage of the subject shares with an answer.
CHOSEN_BELOW = 0.02

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
# Words about the item, its material and its options: what is said with them is not said of the matter alone.
_REFERS = re.compile(
    r"题|选项|故选|应选|可选|不选|选[A-G]|答案|排除|正误|错误|正确|不符|考查|考点|点评|材料|上文|下文|文中|文章|原文|作者|诗中|词中|段|句意|设问|考生|"
    r"同学|解答|作答|依据|如图|下图|图[中示1-9甲乙]|表中|由[图表]|据[图表]|[A-G]项|[A-G]、|【|】|[①-⑳]|____|说法|表述|信息|这里|此处|语境|句中|空格|"
    r"该空|个空|本句|填|教材|课本|表格|实验结果|该实验|本实验|该图|此图|可知[A-G]|[A-G][错对]"
)
# Sentences that go on from one before.
_GOES_ON = re.compile(
    r"[则可其该这它他此且即]|前者|后者|上述|以上|同理|综上|验证|据|根据[^，]*可[知得见]?$|和|与|也|仍|仅"
)


def exposition(analysis: str) -> list[str]:
    """The sentences of a 解析 that explain the matter by themselves, freed of option letters, verdicts and 故选X."""
    sentences = []
    for sentence in split_sentences(analysis):
        for _ in range(3):
            sentence = _LABELS.sub("", sentence).strip()
        sentence = _VERDICT.sub("", sentence).strip("，,；;。．. ：:、！？")
        if _stands_alone(sentence):
            sentences.append(sentence + "。")
    return sentences


def _stands_alone(sentence: str) -> bool:
    return bool(
        12 <= len(sentence) <= 220
        and re.match(rf"[{HAN}《“A-Z]", sentence)
        and len(re.findall(f"[{HAN}]", sentence)) >= max(8, len(sentence) * 0.3)
        # Half of a formula was cut off.
        and sentence.count("$") % 2 == 0
        and not _GOES_ON.match(sentence)
        and not _REFERS.search(sentence)
        # No passage may begin like a section of the answer.
        and not HEADER.match(sentence)
    )


def split_sentences(text: str) -> list[str]:
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


def add_passages(records: Sequence[Record], mode: str, chars: tuple[int, int]) -> list[Record]:
    """The records with 课本内容, and in `passage_source` what it was made from.

    Args:
        records: items of all years and subjects, each with its year among the extra keys.
        mode: `related` takes the 解析 of other items; `own` that of the item, which gives the answer away, so that the
            record is marked `leaks`; `none` leaves the passage empty.
        chars: minimum and maximum length of a passage in characters.
    """
    passages: dict[str, tuple[str, list[str]]] = {}
    if mode == "related":
        passages = related_passages(records, chars)
    elif mode == "own":
        passages = {record.id: (own_passage(record, chars[1]), [record.id]) for record in records}
    finished = []
    for record in records:
        passage, ids = passages.get(record.id, ("", []))
        extra = record.extra | {"passage_source": {"mode": mode, "items": ids} if passage else {"mode": mode}}
        if mode == "own" and passage:
            extra["leaks"] = True
        finished.append(replace(record, textbook=passage, extra=extra))
    return finished


def related_passages(records: Sequence[Record], chars: tuple[int, int]) -> dict[str, tuple[str, list[str]]]:
    """For each id a passage and the ids it is made from: items of the subject and of strictly earlier years.

    Nearest stems come first, by the cosine of TF-IDF over character 2- and 3-grams of the stems without options; an
    item whose stem is a near-duplicate is passed over. Where too little is found, the passage is empty.
    """
    # scikit-learn takes a second to import: a wrong folder should be answered before.
    from sklearn.feature_extraction.text import TfidfVectorizer

    passages = {}
    sentences = {record.id: exposition(record.analysis) for record in records}
    for subject in {record.subject for record in records}:
        group = [record for record in records if record.subject == subject]
        group.sort(key=lambda record: (record.extra["year"], record.id))
        stems = [stem_of(record.question) for record in group]
        twins = {(pair.first, pair.second) for pair in near_duplicates(stems)}
        vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 3), sublinear_tf=True).fit_transform(stems)
        similarity = (vectors @ vectors.T).toarray().round(9).tolist()
        for number, record in enumerate(group):
            earlier = [
                other
                for other in range(number)
                if group[other].extra["year"] < record.extra["year"] and (other, number) not in twins
            ]
            earlier.sort(key=lambda other: (-similarity[number][other], group[other].id))
            candidates = [(group[other].id, sentences[group[other].id]) for other in earlier]
            passages[record.id] = build_passage(record, candidates, chars)
    return passages


def build_passage(
    record: Record, candidates: Iterable[tuple[str, list[str]]], chars: tuple[int, int]
) -> tuple[str, list[str]]:
    """Join whole sentences of the candidates (id and sentences), in order, until the passage has the minimum length.

    Returns:
        The passage and the ids it is made from; both empty where the candidates do not suffice.
    """
    minimum, maximum = chars
    passage = ""
    ids: list[str] = []
    seen: set[str] = set()
    for identity, sentences in candidates:
        before = passage
        for sentence in sentences:
            longer, bare = passage + sentence, normalize(sentence)
            if len(longer) <= maximum and bare not in seen and leak_share(record, longer) <= CHOSEN_BELOW:
                seen.add(bare)
                passage = longer
        if passage != before:
            ids.append(identity)
        if len(passage) >= minimum:
            return passage, ids
    return "", []


def own_passage(record: Record, maximum: int) -> str:
    """The exposition of the item's own 解析, cut at a sentence end."""
    passage = ""
    for sentence in exposition(record.analysis) or split_sentences(record.analysis):
        if len(passage + sentence) > maximum:
            break
        passage += sentence
    return passage


def measure_passages(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Of each record whose answer can be measured: the leak share of its passage, and of a random one of the subject."""
    chooser = random.Random(SEED)
    pools: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.textbook:
            pools[record.subject].append(record)
    shares = []
    for record in records:
        others = [other for other in pools[record.subject] if other is not record]
        if record.textbook and others and answer_texts(record):
            shares.append((leak_share(record, record.textbook), leak_share(record, chooser.choice(others).textbook)))
    return shares
