"""课本内容 for real items: what their own and related 解析 say of the matter in general, without what gives the answer away."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from gaokao.records import HEADER, LEAKS, Record
from gaokao.text import (
    CHOICE_TYPES,
    LEAK_BOUND,
    answer_texts,
    bare,
    keyed_texts,
    leak_share,
    ngrams,
)
from gaokao_data.exam_material import LANGUAGES
from gaokao_data.exam_print import HAN, MATH

SEED = 20250101
# A sentence is taken out if it shares a run of so many characters with the key that stands nowhere else in the item, or
# one of so many with the material.
KEY_RUN = 5
# Written answers outside these subjects are names and words in blanks, so shorter runs give them away.
BLANK_RUN = 3
IN_SENTENCES = ("政治", "历史", "地理")
MATERIAL_RUN = 8
# What a passage may share with the answer besides: less than LEAK_BOUND, as a random passage of the subject does.
CHOSEN_BELOW = 0.02
# Sentences from other items: cosine of TF-IDF over character 2-4-grams between the sentence and what is asked with its
# own 解析. Of 60 looked at, most at .15 were on something else, from .20 on two in three on the matter, above .25 nearly all.
RELATED = 0.25
# Longer passages take no more sentences from other items.
ENOUGH_CHARS = 150

_STRIPPED = "，,；;。．. ：:、！？"
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
# A verdict without a letter, before or behind what is said of an option.
_BARE_VERDICT = re.compile(
    r"^(?:[①-⑳、]*(?:此项|该项)?(?:不?符合?题意|不合题意|与题意(?:无关|不符)|(?:说法|表述|观点|叙述)?(?:错误|正确|有误|不选|排除|入选|当选|不正确))(?:[，,：:；]|$)\s*)+"
    r"|[，,]?\s*(?:所以|因此|应|故)*(?:不选|排除|入选|当选|错误|正确)[A-G]?项?$"
)
# Words about the item, its material and its options: what is said with them is not said of the matter alone.
_REFERS = re.compile(
    r"(?<![问主专课难议命标])题|选项|故选|应选|可选|不选|选[A-G]|答案|排除|正误|错误|正确(?![处发认价把对引的理思方文行])|不符|考查|考点|点评|材料|上文|下文|文中|文章|原文|作者|诗中|词中|(?<![手阶时路片])段|句意|设问|考生|"
    r"同学|解答|作答|依据|如图|下图|图[中示1-9甲乙]|表中|由[图表]|据[图表]|[A-G]项|[A-G]、|【|】|[①-⑳]|____|说法|表述|信息|这里|此处|语境|句中|空格|"
    r"该空|个空|本句|填|教材|课本|表格|实验结果|该实验|本实验|该图|此图|可知[A-G]|[A-G][错对]|所学|知识|归纳|概括|运用|第.{0,2}[问空小]|[如答][:：]|小说|诗|主人公|"
    r"分析可知|由分析|即可|角度|前一?句|后一?句|入选|[甲乙丙丁]|(?<![A-Za-z])[W-Z](?![A-Za-z])|[A-G]组|“[^”]{8,}”|求[解得出]|得证|"
    r"此项|注意|阐述|分析出|根据分析|事迹|句子|主语|宾语|学生|故[A-G]|方面(?:分析|考虑|说明)|\$\s*[A-Za-z]\s*、"
)
# There a formula is a step of the calculation.
_CALCULATES = ("数学", "物理")
# What is said of one word, rule or calculation there is said of no other item.
_OWN_ONLY = (*LANGUAGES, "数学")
# Sentences that go on from one before.
_GOES_ON = re.compile(
    r"[则可其该这它他此且即]|前者|后者|上述|以上|同理|综上|验证|据|根据[^，]*可[知得见]?$|表示|意为|通过这|为如何|有利影响|不利影响|和|与|也|仍|仅"
)


def exposition(record: Record) -> list[str]:
    """The sentences of the 解析 that explain the matter by themselves, freed of option letters, verdicts and 故选X.

    None of an item of a language about a text: its 解析 explains that text.
    """
    if record.subject in LANGUAGES and record.outside:
        return []
    sentences = []
    for sentence in split_sentences(record.analysis):
        for _ in range(3):
            sentence = _LABELS.sub("", sentence).strip()
        sentence = _VERDICT.sub("", sentence).strip(_STRIPPED)
        sentence = _BARE_VERDICT.sub("", sentence).strip(_STRIPPED)
        if _stands_alone(sentence) and not ("$" in sentence and record.subject in _CALCULATES):
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


def add_textbook(records: Sequence[Record], test_from_year: int, chars: tuple[int, int]) -> list[Record]:
    """The records with 课本内容, the ids that it is made from as `passage_source`, and `leaks` where a passage does.

    Own sentences come first, in their order, then those of other items by relatedness. A training item draws on items
    before `test_from_year` only, a test item on those and itself. Where too little is found, the passage is empty.

    Args:
        records: items of all years and subjects, with 课外内容, each with its year among the extra keys.
        test_from_year: the first year of the test side.
        chars: minimum and maximum length of a passage in characters.
    """
    finished: dict[str, Record] = {}
    for subject in dict.fromkeys(record.subject for record in records):
        group = [record for record in records if record.subject == subject]
        for record, candidates in zip(group, _candidates(group, test_from_year), strict=True):
            passage, ids = build_passage(record, candidates, chars)
            extra = record.extra | {"passage_source": {"mode": "material", "items": ids}}
            if leak_share(record, passage, record.outside) > LEAK_BOUND:
                extra[LEAKS] = True
            finished[record.id] = replace(record, textbook=passage, extra=extra)
    return [finished[record.id] for record in records]


def _candidates(group: Sequence[Record], test_from_year: int) -> list[list[tuple[str, str]]]:
    """For each item of one subject the sentences that it may draw on, with the ids that they come from."""
    # scikit-learn takes a second to import: a wrong folder should be answered before.
    from sklearn.feature_extraction.text import TfidfVectorizer

    own = [exposition(record) for record in group]
    pool = [
        (record.id, sentence)
        for record, sentences in zip(group, own, strict=True)
        for sentence in sentences
        if record.extra["year"] < test_from_year and record.subject not in _OWN_ONLY
    ]
    candidates = [
        [(record.id, sentence) for sentence in sentences] for record, sentences in zip(group, own, strict=True)
    ]
    if not pool:
        return candidates
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), lowercase=False, sublinear_tf=True)
    known = vectorizer.fit_transform([bare(sentence).ljust(2) for _, sentence in pool])
    asked = [bare(_without_material(record) + record.analysis) for record in group]
    for found, row in zip(candidates, (vectorizer.transform(asked) @ known.T).toarray().round(9).tolist(), strict=True):
        near = sorted((-similarity, number) for number, similarity in enumerate(row) if similarity >= RELATED)
        found += [pool[number] for _, number in near]
    return candidates


def _without_material(record: Record) -> str:
    return record.question.replace(record.outside, "") if record.outside else record.question


def build_passage(
    record: Record, candidates: Sequence[tuple[str, str]], chars: tuple[int, int]
) -> tuple[str, list[str]]:
    """Join the sentences of the candidates (id and sentence), in order, that give nothing away and repeat no material.

    Returns:
        The passage and the ids it is made from; both empty where the candidates do not suffice.
    """
    minimum, maximum = chars
    run = KEY_RUN if record.type in CHOICE_TYPES or record.subject in IN_SENTENCES else BLANK_RUN
    key, material = _key_grams(record, run), ngrams(bare(record.outside), MATERIAL_RUN)
    passage = ""
    ids: list[str] = []
    for identity, sentence in candidates:
        longer, plain = passage + sentence, bare(sentence)
        if identity != record.id and len(passage) >= ENOUGH_CHARS:
            break
        if (
            len(longer) > maximum
            or plain in bare(passage)
            or any(gram in plain for gram in key)
            or not material.isdisjoint(ngrams(plain, MATERIAL_RUN))
            or leak_share(record, longer) > CHOSEN_BELOW
        ):
            continue
        passage = longer
        ids += [identity] if identity not in ids else []
    return (passage, ids) if len(passage) >= minimum else ("", [])


def _key_grams(record: Record, run: int) -> set[str]:
    """Runs of so many characters of the key, a shorter one as a whole, that stand nowhere else in the item."""
    texts = [bare(text) for text in key_texts(record)]
    rest = bare(record.question)
    for text in texts:
        rest = rest.replace(text, "\n")
    return {gram for text in texts for gram in ngrams(text, run) if len(gram) > 1 and gram not in rest}


def key_texts(record: Record) -> list[str]:
    """The texts of the key: those of `answer_texts`, and keyed options that are shorter."""
    if record.type in CHOICE_TYPES and len(record.answer) == 1:
        return keyed_texts(record.question, record.answer[0])
    return list(answer_texts(record))


def measure_passages(records: Sequence[Record]) -> list[tuple[float, float]]:
    """Of each record whose answer can be measured: the leak share of its 课本内容, and of a random one of the subject."""
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
