"""Comparison forms, n-grams, options and formulas, against their plain definitions."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import NEWS, PASSAGE

from gaokao.records import Record, load_records
from gaokao.text import (
    LEAK_BOUND,
    Pair,
    answer_texts,
    bare,
    columns,
    containment,
    fold,
    formulas,
    images,
    keyed_texts,
    leak_share,
    near_duplicates,
    near_duplicates_across,
    normalize,
    pad,
    parse_key,
    shared_spans,
    split_options,
    split_set,
    without,
)

OPTIONS = "A．生态系统的能量可以循环利用\nB．分解者只能是细菌\nC．食物链通常从生产者开始\nD．消费者不参与物质循环"


STEM = "下列关于生态系统的叙述，正确的是（　　）"


LETTERS_24 = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地"


def noise(chance: random.Random, pieces: str | list[str], most: int) -> str:
    return "".join(chance.choices(pieces, k=chance.randint(0, most)))


def test_option_texts_are_given_as_written() -> None:
    question = "A、B两点的电势（　　）\nＡ．相等 B． 不 等　C．为$x^{2}$\nD．无法判断"
    assert split_options(question) == {"A": "相等", "B": "不 等", "C": "为$x^{2}$", "D": "无法判断"}


@pytest.mark.parametrize("name", ["P({})", "v({})", r"\frac{{1}}{{2}}f({})", r"$P({}|A)$"])
def test_a_letter_that_a_function_takes_is_no_option_mark(name: str) -> None:
    texts = {letter: f"{name.format(letter)}=0.{number}" for number, letter in enumerate("ABCD", 1)}
    assert split_options("下列正确的是\n" + "\n".join(f"{letter}．{text}" for letter, text in texts.items())) == texts


@pytest.mark.parametrize("mark", ["({})", "{})", "( {})", "{}.", "{}:"])
def test_option_marks_with_and_without_brackets_are_read(mark: str) -> None:
    question = "下列正确的是( )\n" + "\n".join(f"{mark.format(letter)} 乙" for letter in "ABCD")
    assert split_options(question) == dict.fromkeys("ABCD", "乙")


@pytest.mark.parametrize(
    "question", ["下列（  ）A)甲 B)乙 C)丙 D)丁", "A）甲；B）乙；C）丙；D）丁", "正确的是A)甲B)乙C)丙D)丁"]
)
def test_option_marks_behind_a_word_or_a_bracket_are_read(question: str) -> None:
    found = split_options(question) or {}
    assert [text.strip("；") for text in found.values()] == ["甲", "乙", "丙", "丁"]


def test_of_several_option_runs_the_last_counts() -> None:
    assert split_options("A．1 B．2 C．3 D．4\n第二题\nA．5 B．6 C．7 D．8") == dict(zip("ABCD", "5678", strict=True))


def test_options_beyond_d_are_read() -> None:
    question = "\n".join(f"{letter}. text {letter.lower()}" for letter in "ABCDEFG")
    found = split_options(question)
    assert found is not None and "".join(found) == "ABCDEFG"


def test_key_letters_are_read_through_punctuation() -> None:
    assert parse_key("Ａ、 C。") == "AC"
    assert parse_key("A. 甲") == ""
    assert parse_key("") == ""


def test_shared_spans_are_those_of_brute_force() -> None:
    draw = random.Random(5)
    for _ in range(500):
        text, source = ("".join(draw.choices("甲乙丙", k=draw.randint(0, 30))) for _ in range(2))
        least = draw.randint(2, 5)
        covered = {
            place
            for start in range(len(text) - least + 1)
            if text[start : start + least] in source
            for place in range(start, start + least)
        }
        spans = shared_spans(text, source, least)
        assert {place for start, end in spans for place in range(start, end)} == covered
        assert spans == sorted(spans) and all(end - start >= least for start, end in spans)
        rest = without(text, spans)
        assert rest.replace(" ", "") == "".join(letter for place, letter in enumerate(text) if place not in covered)


def test_formulas_do_not_make_texts_alike() -> None:
    assert bare("由$\\frac{\\mathrm{Na}}{2}$，Ｘ为 0.5") == "由na2x为05"


def test_formulas_are_those_of_their_plain_definition() -> None:
    plain = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
    chance = random.Random(11)
    for _ in range(3000):
        text = noise(chance, ["$", "$$", "\\(", "\\)", "\\[", "\\]", "x", "\n"], 12)
        expected = [(m.start(), m.end(), next(g for g in m.groups() if g is not None)) for m in plain.finditer(text)]
        assert list(formulas(text)) == expected, text


def test_images_are_those_of_their_plain_definition() -> None:
    plain = re.compile(r"!\[[^]]*\]\([^)]*\)")
    chance = random.Random(12)
    for _ in range(3000):
        text = noise(chance, ["![", "[", "](", "]", "(", ")", "x"], 12) + ")"
        assert list(images(text)) == [match.span() for match in plain.finditer(text)], text


def test_option_runs_are_those_of_their_plain_definition() -> None:
    def plain(marks: str, wide: list[bool]) -> str | None:
        for start in range(len(marks) - 1, -1, -1):
            run = ""
            for place in range(start, len(marks)):
                if len(run) < 8 and marks[place] == "ABCDEFGH"[len(run)] and (len(run) < 4 or wide[place]):
                    run += f"{marks[place]}"
            if len(run) >= 4:
                return run
        return None

    chance = random.Random(13)
    found = 0
    for _ in range(3000):
        marks = "".join(chance.choices("AABBCCDDEFGH", k=chance.randint(4, 16)))
        gaps = chance.choices(["", " ", "  ", "\t ", "\n", "\n ", "甲 ", "甲  "], k=len(marks))
        question = "甲" + "".join(f"{gap}{letter}．乙" for gap, letter in zip(gaps, marks, strict=True))
        wide = ["\n" in gap or gap.endswith(("  ", "\t ")) for gap in gaps]
        expected = plain(marks, wide)
        options = split_options(question)
        assert (None if options is None else "".join(options)) == expected, question
        found += expected is not None
    assert found > 200


def test_containment_is_one_figure_for_few_grams_and_many() -> None:
    chance = random.Random(16)
    for _ in range(500):
        text, passages = noise(chance, "甲乙丙", 60), [noise(chance, "甲乙丙", 60) for _ in range(2)]
        for n in (1, 3, 8):
            grams = {text[i : i + n] for i in range(max(len(text) - n + 1, 1))} if text else set()
            expected = sum(any(g in passage for passage in passages) for g in grams) / len(grams) if grams else 0.0
            assert containment(text, passages, n) == expected


def test_texts_are_near_duplicates_from_six_in_ten_on() -> None:
    first, second = LETTERS_24[:12], LETTERS_24[:10] + "xy"
    assert near_duplicates([first, second]) == [Pair(0, 1, 6 / 10)]
    assert near_duplicates([first, LETTERS_24[:9] + "xyz"]) == []


def jaccard(first: str, second: str, n: int) -> float:
    sets = []
    for text in (normalize(first), normalize(second)):
        sets.append({text[i : i + n] for i in range(max(len(text) - n + 1, 1))} if text else set())
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] and sets[1] else 0.0


def families(chance: random.Random, count: int) -> list[str]:
    """Random texts, most of them edited copies of earlier ones, some short, empty or equal."""
    texts: list[str] = []
    for _ in range(count):
        if texts and chance.random() < 0.7:
            characters = list(chance.choice(texts))
            for _ in range(chance.randint(0, 4)):
                if characters:
                    characters[chance.randrange(len(characters))] = chance.choice("甲乙丙丁，。 A1")
            texts.append("".join(characters))
        else:
            texts.append("".join(chance.choices("甲乙丙丁戊己，。 A1", k=chance.choice([0, 2, 5, 12, 40, 90]))))
    return texts


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.75, 1.0])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_near_duplicates_are_those_of_brute_force(threshold: float, n: int) -> None:
    texts = families(random.Random(n), 90)
    expected = [
        Pair(a, b, jaccard(texts[a], texts[b], n))
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
        if jaccard(texts[a], texts[b], n) >= threshold
    ]
    assert expected
    assert near_duplicates(texts, threshold, n) == expected


def test_near_duplicates_are_the_same_however_many_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = families(random.Random(4), 90)
    whole = near_duplicates(texts, 0.3)
    monkeypatch.setattr("gaokao.text.CANDIDATES_AT_ONCE", 1)
    assert near_duplicates(texts, 0.3) == whole


def test_near_duplicates_across_are_those_of_brute_force() -> None:
    texts = families(random.Random(9), 120)
    left, right = texts[:50], texts[50:]
    expected = [
        Pair(a, b, jaccard(first, second, 5))
        for a, first in enumerate(left)
        for b, second in enumerate(right)
        if jaccard(first, second, 5) >= 0.6
    ]
    assert expected
    assert near_duplicates_across(left, right) == expected
    assert near_duplicates_across(left, []) == near_duplicates_across([], right) == near_duplicates([]) == []


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_that_means_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["甲", "乙"], threshold)


def test_thousands_of_equal_and_templated_texts_are_compared_in_seconds() -> None:
    texts = [
        f"第{n}题：{chr(0x4E00 + n % 4000) * 3}的{chr(0x5E00 + n % 3989)}值为（　　）A．1 B．2" for n in range(4000)
    ]
    near_duplicates(texts, 0.9)
    assert len(near_duplicates(["完全相同的一道题目"] * 300)) == 300 * 299 // 2


def test_normalize_keeps_han_and_alphanumerics_after_nfkc() -> None:
    assert normalize("（１）“光合 作用”：CO₂＋H₂O，①x_1！") == "1光合作用CO2H2O1x1"


def test_containment_is_the_share_of_grams_in_the_passages() -> None:
    assert containment(PASSAGE, PASSAGE) == containment(PASSAGE[5:40], [NEWS, PASSAGE]) == 1.0
    assert containment(PASSAGE, NEWS) == 0.0
    assert containment("甲乙丙丁", "甲乙丙丁戊") == 1.0
    assert containment("", PASSAGE) == containment(PASSAGE, []) == 0.0
    assert containment("甲乙丙丁戊己", ["甲乙丙丁"], n=3) == 0.5


def test_normalize_and_fold_read_character_by_character() -> None:
    assert normalize("㎏Ⅳ①ｘ") == "kgIV1x"
    assert fold("（Ａ）㎏①") == "(A)㎏1"
    for text in ("e\u0301" * 40, "a" + "\u0300\u0316" * 40, "\ufdfa"):
        assert len(fold(text)) == len(text)
        assert len(normalize(text)) <= len(text)


def test_a_text_is_padded_to_its_printed_width() -> None:
    assert pad("甲a", 5) == "甲a  "
    assert columns(pad("题型（组）", 13)) == 13
    assert pad("甲乙丙", 4) == "甲乙丙"


# --- leaks ----------------------------------------------------------------------------------------------------------

KEYED = "把二氧化碳和水合成为糖类"
CHOICE = Record(
    "r0", "生物", "单选题", "",
    question=f"第0题。下列属于叶绿体功能的是\nA．分解尿素\nB．{KEYED}\nC．储存胆汁\nD．过滤血液",
    answer=("B",), analysis="叶绿体是光合作用的场所。故选B。",
)  # fmt: skip
SET = (
    "读图，完成7～8题。\n7．叶绿体的作用是（　）\nA．分解尿素\nB．把二氧化碳和水合成为糖类\nC．储存胆汁\nD．过滤血液\n"
    "8．细胞膜的支架是（　）\nA．纤维素和果胶\nB．磷脂双分子层\nC．糖原颗粒\nD．核糖核酸"
)


@pytest.mark.parametrize(
    ("changes", "passage", "leak"),
    [
        ({}, "植物" + KEYED + "。", 1.0),
        ({}, "植物把二氧化碳 和水，合成为糖类。", 1.0),
        ({}, "肾脏过滤血液，胆囊储存胆汁。", 0.0),
        ({"type": "多选题", "answer": ("BC",)}, "胆囊储存胆汁。", 1.0),
        ({"type": "单选题", "answer": ("B", "A")}, KEYED, 0.0),
        ({"question": SET, "answer": ("B", "B")}, "磷脂双分子层构成支架。", 1.0),
        ({"question": SET, "answer": ("D", "B")}, KEYED + "，细胞壁有纤维素和果胶。", 0.0),
        ({"type": "填空题", "answer": ("类囊体薄膜；暗反应",), "question": "场所是____，其后是____。"}, "在类囊体薄膜上", 1.0),
        ({"type": "填空题", "answer": ("2",), "question": "共____种。"}, "共2种", 0.0),
        ({"type": "填空题", "answer": ("叶绿体",), "question": "场所是____。"}, "在叶绿体中进行", 0.0),
        ({"type": "填空题", "answer": ("叶绿体膜",), "question": "场所是____。"}, "在叶绿体膜上进行", 1.0),
        (
            {"type": "主观题", "answer": ("光照强度减弱使产生的ATP减少",), "question": "为什么？"},
            "光照强度减弱使产量下降",
            1 / 9,
        ),
    ],
)  # fmt: skip
def test_the_leak_is_the_share_of_the_answer_in_the_passages(
    changes: dict[str, Any], passage: str, leak: float
) -> None:
    assert leak_share(replace(CHOICE, **changes), passage) == pytest.approx(leak, abs=0.02)


def test_a_single_word_of_english_is_no_leak() -> None:
    record = replace(CHOICE, type="填空题", question="____ it ____", answer=("with；which were built",))
    assert answer_texts(record) == ("which were built",)


def test_the_leak_counts_the_passages_together_and_the_worst_of_the_answers() -> None:
    record = replace(CHOICE, type="多选题", answer=("BC",))
    assert leak_share(record, KEYED[:10], KEYED[3:]) == 1.0
    assert leak_share(record, KEYED[:9], "胆囊") == pytest.approx(2 / 5)


def test_the_questions_of_a_set_are_found_by_their_numbers_and_options() -> None:
    options = "\nA．甲\nB．乙\nC．丙\nD．丁\n"
    assert split_set(f"1．材料一\n2．材料二\n（2）问{options}（3）又问{options}", 2) == (
        2,
        ["1．材料一\n2．材料二\n", f"问{options}", f"又问{options}"],
    )
    assert split_set(f"7．问{options}9．又问{options}", 2) is None
    assert split_set(f"7．问\n8．又问{options}", 2) is None
    assert split_set(f"1.5倍{options}2.5倍{options}", 2) is None
    assert answer_texts(replace(CHOICE, answer=("B", "A"))) == ()


def test_the_bundled_passages_are_below_the_bound() -> None:
    for name in ("train.json", "test.json"):
        for record in load_records(Path(__file__).resolve().parent.parent / "gaokao_data" / name):
            assert leak_share(record, record.textbook, record.outside) <= LEAK_BOUND, record.id


def test_an_option_that_combines_statements_is_keyed_by_these() -> None:
    question = (
        "这表明（　）\n①民主监督的对象是国家机关\n②政协不是国家机关\n③群众有了新的参与渠道　④决策由代表作出\n"
        "A．①②\nB．①④\nC．②③\nD．③④"
    )
    assert keyed_texts(question, "B") == ["民主监督的对象是国家机关", "决策由代表作出"]
    record = Record("r", "政治", "单选题", "课文", "", question, ("B",), "故选B。")
    assert answer_texts(record) == ("民主监督的对象是国家机关", "决策由代表作出")
    assert leak_share(record, "有人说，民主监督的对象是国家机关。") == 1.0
    assert leak_share(record, "群众有了新的参与渠道，政协不是国家机关。") == 0.0
    # Statements that the option does not name are no key, nor is an option that only mentions a mark.
    assert keyed_texts("下列正确的是\nA．①中含氧\nB．乙\nC．丙\nD．丁", "A") == ["①中含氧"]
