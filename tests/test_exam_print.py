"""Cleaning of printed exams: lines, spaces, blanks, numbering and markers go, what an item says stays."""

import pytest

from gaokao_data.exam_print import (
    SET,
    clean_analysis,
    clean_choice,
    clean_item,
    clean_text,
    end_sentence,
    strip_head,
    wrap_width,
)


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("12．（4分）", "下列说法正确的是"),
        ("3．（ 6分）", "下列说法正确的是"),
        ("7. (5 分) ", "设集合"),
        ("（2020·全国）", "下列说法正确的是"),
        ("9.", "1861年的政变"),
        ("14.", "4名同学参加活动"),
        ("2.", "2021年1月的通知"),
        ("一、现代文阅读（ 9分）\n1．（ 9分）", "阅读下面的文字"),
        ("（二）实用类文本阅读（本题共3小题，12分）\n", "阅读下面的文字"),
        ("[选修 4-5：不等式选讲](10分)\n", "已知函数"),
        ("", "1861年的政变"),
        ("", "（1）式中的常数是"),
        ("", "2.5倍于此的速度"),
    ],
)
def test_exam_numbering_and_marks_leave_the_head(head: str, rest: str) -> None:
    assert strip_head(head + rest) == rest


def test_hard_line_breaks_inside_sentences_are_joined_and_others_kept() -> None:
    lines = [
        "春秋时期诸侯争霸，周天子的权威日益衰落，各国纷纷变法图强，社会面貌",
        "随之发生了深刻的变化，史家称之为大变革的时代，其影响延续到秦汉之后，",
        "直到今天仍被人提起。",
    ]
    text = "    " + "\n".join(lines) + "  \n    战国时期继续变化。  \n（1）概括变化。\n①经济上\n②政治上\n"
    assert clean_text(text, wrap_width(text)).split("\n") == [
        "".join(lines), "战国时期继续变化。", "（1）概括变化。", "①经济上", "②政治上",
    ]  # fmt: skip


def test_verse_and_table_rows_keep_their_lines() -> None:
    verse = "秋夜\n月落寒江静\n风来远树鸣\n孤舟人未睡\n独对一灯明"
    assert clean_text(verse, 70) == verse
    table = "年份  人口  粮食  \n1950  120  33  \n1960  150  41  \n由此可见变化很大。"
    assert clean_text(table, 70) == "年份 人口 粮食\n1950 120 33\n1960 150 41\n由此可见变化很大。"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("中国 古代 的科学 ，很发达 。", "中国古代的科学，很发达。"),
        ("常用32P标记 DNA分子", "常用32P标记DNA分子"),
        ("I was  happy  when  the toys worked .", "I was happy when the toys worked."),
        ("the theater ’s door", "the theater’s door"),
        ("已知 $x  = 1$ 是 方程", "已知 $x  = 1$ 是方程"),
        ("作用是\u3000   \u3000。", "作用是____。"),
        ("正确的是（ \u3000\u3000） ", "正确的是（　）"),
        ("则 $M \\cap N=(\\quad)$", "则 $M \\cap N=$（　）"),
        ("正确的是（ $)$", "正确的是（　）"),
    ],
)
def test_spaces_and_blanks(raw: str, clean: str) -> None:
    assert clean_text(raw, 0) == clean


def test_markers_of_the_analysis_go_and_the_conclusion_stays() -> None:
    raw = "【分析】}\n先求导数。\n【详解】因为导数为正, 故 $\\mathrm{A}$ 正确;\n\n故选: $\\mathrm{A}$ 。\n"
    raw += "【点评】本题考查导数的应用．\n第二节\n"
    assert clean_analysis(raw, 0, several=False) == "先求导数。\n因为导数为正, 故A正确;\n故选：A。"
    assert end_sentence("答案是三") == "答案是三。"
    assert end_sentence("故排除A项，") == "故排除A项，"


def test_options_of_words_keep_the_spaces_between_the_words() -> None:
    question = "依次填入横线上的词语，最恰当的是\nA．遐想 限制  B．联想 限定  C．遐想 限定  D．联想 限制\n"
    assert clean_choice(question, 0).split("\n")[1:] == [
        "A．遐想 限制",
        "B．联想 限定",
        "C．遐想 限定",
        "D．联想 限制",
    ]


def test_statements_that_the_options_combine_stand_on_lines_of_their_own() -> None:
    options = "A．①②  B．①③  C．②④  D．③④"
    lines = ["A．①②", "B．①③", "C．②④", "D．③④"]
    stem = "下列变化与此有关的是①人口增长②市场扩大③气候变化④战争频繁"
    assert clean_choice(f"{stem}\n{options}", 0).split("\n") == [
        "下列变化与此有关的是", "①人口增长", "②市场扩大", "③气候变化", "④战争频繁", *lines,
    ]  # fmt: skip
    quoted = "①处的变化说明①处的人口增长"
    assert clean_choice(f"{quoted}\n{options}", 0).split("\n") == [quoted, *lines], "not numbered once each"


def test_an_opening_bracket_before_the_first_option_leaves_the_stem() -> None:
    assert clean_choice("正确的是（\nA．甲 B．乙 C．丙 D．丁", 0).split("\n")[:2] == ["正确的是", "A．甲"]
    assert clean_choice("正确的是\n（A）甲 （B）乙 （C）丙 （D）丁", 0).split("\n")[:2] == ["正确的是", "A．甲"]


def test_a_short_field_is_joined_by_the_layout_of_the_whole_item() -> None:
    line = "春秋时期诸侯争霸天子权威日益衰落各国纷纷变法图强面貌"
    short = "据此概括这一时期社会面貌变化的主要"
    assert clean_item("主观题", f"{short}\n原因。", ["变法"], "理由充分。")[0] == f"{short}\n原因。"
    assert clean_item("主观题", f"{short}\n原因。", ["变法"], "\n".join([line] * 7))[0] == f"{short}原因。"


def test_a_written_item_is_cleaned_in_all_its_parts() -> None:
    question = "16．（12分）读图回答问题。（6分）\n（1）指出原因。（2）说明影响。"
    answers = ["【分析】先看人口的变化。【详解】（1）人口增长（4分）（2）市场扩大（答出一点给2分）"]
    assert clean_item("主观题", question, answers, "【分析】先看人口的变化。") == (
        "读图回答问题。\n（1）指出原因。\n（2）说明影响。",
        ["（1）人口增长\n（2）市场扩大"],
        "先看人口的变化。",
    )


def test_a_blank_of_one_space_is_written_out_unless_such_spaces_mean_nothing() -> None:
    question = "光合作用的场所是 ，产物是糖类。"
    assert clean_item("填空题", question, ["叶绿体"], "理由充分。")[0] == "光合作用的场所是____，产物是糖类。"
    assert clean_item("填空题", question, ["叶绿体"], "理由 充分。")[0] == "光合作用的场所是，产物是糖类。"
    assert clean_item("填空题", "产物的名称为", ["糖类"], "理由 充分。")[0] == "产物的名称为____。"


def test_a_set_of_which_the_questions_are_not_found_keeps_its_numbers() -> None:
    question = "6．据此完成 6～7 题。\n6．作用是（ ） A．甲 B．乙 C．丙 D．丁\n7．影响是什么？"
    cleaned, answers, analysis = clean_item(SET, question, ["A ", "B"], "6．理由一。\n7．理由二。")
    assert "7．影响是什么？" in cleaned and "（1）" not in cleaned
    assert (answers, analysis) == (["A", "B"], "6．理由一。\n7．理由二。")
