"""Cleaning of printed exams: lines, spaces, blanks, numbering and markers go, what an item says stays."""

import pytest

from gaokao_data.exam_print import clean_analysis, clean_choice, clean_text, end_sentence, strip_head, wrap_width


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
