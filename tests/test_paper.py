"""The paper for Word, read back: what stands on it, that formulas are Word's own, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, entry, item, run_script, write_results

import evaluate
from gaokao.errors import UserError
from gaokao.paper import POINTS, TITLE, marked, paper_groups, stated_points, write_paper
from gaokao.results import Generated, text_digest

docx = pytest.importorskip("docx")

M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
ESSAY = "题干：阅读材料，回答问题。\n（1）概括特点。（4分）\n（2）说明原因。（6分）\n参考答案：（1）甲\n（2）乙\n解析：甲乙。"
TABLE = "题干：下表是产量。\n| 年份 | 产量 |\n|---|---|\n| 2012 | $x^2$ |\n| 2022 |\n正确的是\nA．甲\nB．乙\nC．丙\nD．丁\n参考答案：B\n解析：乙。"


def paper(folder: Path, items: list[Generated], title: str | None = None) -> Any:
    path = folder / "paper.docx"
    write_paper(path, items, title)
    return docx.Document(str(path))


def lines(document: Any) -> list[str]:
    return [paragraph.text for paragraph in document.paragraphs]


def choice(*options: str) -> str:
    marks = "\n".join(f"{letter}．{text}" for letter, text in zip("ABCD", options, strict=True))
    return f"题干：正确的是\n{marks}\n参考答案：B\n解析：乙。"


def test_a_paper_has_title_subject_groups_options_and_answers_with_the_same_numbers(tmp_path: Path) -> None:
    items = [item(ESSAY, id="e", type="主观题"), item(id="c"), item(TEXT.replace("：B", "：AB"), id="m", type="多选题")]
    assert lines(paper(tmp_path, items, "期中练习")) == [
        "期中练习",
        "生物　　共 3 题　　满分 17 分",
        "一、单选题（本大题共 1 小题，每小题 3 分，共 3 分。在每小题给出的选项中，只有一项符合题目要求）",
        "1．\t下列正确的是",
        "A．甲\tB．乙\tC．丙\tD．丁",
        "二、多选题（本大题共 1 小题，每小题 4 分，共 4 分。在每小题给出的选项中，有多项符合题目要求）",
        "2．\t下列正确的是",
        "A．甲\tB．乙\tC．丙\tD．丁",
        "三、主观题（本大题共 1 小题，每小题 10 分，共 10 分）",
        "3．\t阅读材料，回答问题。",
        "（1）概括特点。（4分）",
        "（2）说明原因。（6分）",
        "参考答案与解析",
        "一、单选题（本大题共 1 小题，每小题 3 分，共 3 分。在每小题给出的选项中，只有一项符合题目要求）",
        "1．\t【答案】B",
        "【解析】乙符合事实。故选B。",
        "二、多选题（本大题共 1 小题，每小题 4 分，共 4 分。在每小题给出的选项中，有多项符合题目要求）",
        "2．\t【答案】AB",
        "【解析】乙符合事实。故选B。",
        "三、主观题（本大题共 1 小题，每小题 10 分，共 10 分）",
        "3．\t【答案】（1）甲",
        "（2）乙",
        "【解析】甲乙。",
    ]


def test_the_answers_begin_on_a_new_page_of_a4_with_page_numbers(tmp_path: Path) -> None:
    document = paper(tmp_path, [item()])
    (new_page,) = [one for one in document.paragraphs if one._p.xpath("w:pPr/w:pageBreakBefore")]
    assert new_page.text == "参考答案与解析"
    section = document.sections[0]
    assert (round(section.page_width.mm), round(section.page_height.mm)) == (210, 297)
    footer = section.footer.paragraphs[0]._p
    assert footer.xpath("w:fldSimple/@w:instr") == ["PAGE", "NUMPAGES"]
    assert "".join(footer.xpath(".//w:t/text()")) == "第 1 页　共 1 页"


def test_texts_are_in_song_and_headings_in_hei(tmp_path: Path) -> None:
    styles = paper(tmp_path, [item()]).styles
    fonts = {name: styles[name].element.rPr.rFonts for name in ("Normal", "Title", "Heading 1", "Heading 2")}
    qn = docx.oxml.ns.qn
    assert [one.get(qn("w:eastAsia")) for one in fonts.values()] == ["宋体", "黑体", "黑体", "黑体"]
    # A font of the theme would be taken before the one that is named.
    assert not [key for one in fonts.values() for key in one.attrib if key.endswith("Theme")]


def test_several_subjects_have_sections_and_numbers_go_on(tmp_path: Path) -> None:
    items = [item(id="b"), item(id="h", subject="历史"), item(id="m", subject="数学"), item(id="n", subject="数学")]
    document = paper(tmp_path, items)
    shown = lines(document)
    assert shown[1] == "数学、生物、历史　　共 4 题　　满分 12 分"
    assert [one for one in shown if one in ("数学", "生物", "历史")] == ["数学", "生物", "历史"] * 2
    assert [one[:2] for one in shown if "\t下列" in one] == ["1．", "2．", "3．", "4．"]
    assert sum(one.startswith("一、单选题") for one in shown) == 6
    groups = paper_groups(items)
    assert [question.item.record.id for group in groups for question in group.questions] == ["m", "n", "b", "h"]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("甲",) * 4, ["A．甲\tB．甲\tC．甲\tD．甲"]),
        (("甲" * 9,) * 4, [f"A．{'甲' * 9}\tB．{'甲' * 9}", f"C．{'甲' * 9}\tD．{'甲' * 9}"]),
        (("甲", "甲", "甲", "甲" * 19), ["A．甲", "B．甲", "C．甲", f"D．{'甲' * 19}"]),
    ],
)
def test_options_stand_in_as_many_columns_as_the_longest_has_room_in(
    tmp_path: Path, options: tuple[str, ...], rows: list[str]
) -> None:
    shown = lines(paper(tmp_path, [item(choice(*options))]))
    begin = shown.index("1．\t正确的是") + 1
    assert shown[begin : begin + len(rows) + 1] == [*rows, "参考答案与解析"]


def test_a_fraction_takes_the_room_of_what_is_drawn_and_not_of_its_source(tmp_path: Path) -> None:
    shown = lines(paper(tmp_path, [item(choice(*[r"$\frac{1}{2}\mathrm{~kg}$"] * 4))]))
    assert "A．\tB．\tC．\tD．" in shown


def test_a_question_stays_with_its_options(tmp_path: Path) -> None:
    document = paper(tmp_path, [item(TABLE), item(ESSAY, type="主观题")])
    kept = {one.text: bool(one.paragraph_format.keep_with_next) for one in document.paragraphs}
    assert kept["1．\t下表是产量。"] and kept["正确的是"] and not kept["A．甲\tB．乙\tC．丙\tD．丁"]
    # A long question may be parted, but not behind its first line.
    assert kept["2．\t阅读材料，回答问题。"] and not kept["（1）概括特点。（4分）"]
    assert all(cell.paragraphs[0].paragraph_format.keep_with_next for cell in document.tables[0].rows[0].cells)


def test_formulas_and_tables_are_words_own(tmp_path: Path) -> None:
    text = TABLE.replace("A．甲", r"A．$\frac{1}{2}$").replace("解析：", "解析：由$$\na^2\n$$得")
    document = paper(tmp_path, [item(text, subject="数学")])
    (table,) = document.tables
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["年份", "产量"], ["2012", ""], ["2022", ""]]
    assert len(table._tbl.findall(f".//{M}oMath")) == 1
    assert len(document.element.findall(f".//{M}oMath")) == 3
    assert [one.text for one in document.element.findall(f".//{M}num//{M}t")] == ["1"]
    assert "$" not in "".join(document.element.itertext())


@pytest.mark.parametrize(
    "latex",
    [
        r"\sum\limits x_i=10",
        r"x\limits",
        r"\frac{1}{",
        r"\sqrt{" * 300 + "x" + "}" * 300,
        r"\sqrt{" * 90 + "x" + "}" * 90,
    ],
)
def test_formulas_that_cannot_be_drawn_are_shown_as_they_are_written(tmp_path: Path, latex: str) -> None:
    document = paper(tmp_path, [item(TEXT.replace("下列", f"已知${latex}$，下列"))])
    assert f"1．\t已知${latex}$，下列正确的是" in lines(document)
    assert not document.element.findall(f".//{M}oMath")


def test_money_in_english_is_no_formula(tmp_path: Path) -> None:
    text = "题干：How much is it?\nA. $5\nB. $10\nC. $15\nD. $20\n参考答案：B\n解析：故选B。"
    assert "A. $5\tB. $10\tC. $15\tD. $20" in lines(paper(tmp_path, [item(text, subject="英语")]))


@pytest.mark.parametrize(
    ("question", "points"),
    [
        ("（12分）阅读材料，回答（1）甲（4分）（2）乙（8分）", 12),
        ("(本小题满分 12 分) 已知", 12),
        ("（本题共10分）已知", 10),
        ("回答问题。\n（1）甲。（4分）\n（2）乙。（6 分）", 10),
        ("补写空缺。（每空2分，共6分）", 6),
        ("三分球（3分球）得分多少？用时（5分钟）", 0),
        ("满分是（150分）", 0),
        ("阅读材料，完成下列要求。（14分）\n材料。\n（1）甲。（4分）\n（2）乙。（4分）\n（3）丙。（6分）", 14),
        ("17．（12分）（1）甲（4分）（2）乙（8分）", 12),
        ("回答。（1）甲（6分）（2）乙（6分）", 12),
        ("回答①甲（5分）②乙（5分）", 10),
        ("⑴甲（6分）⑵乙（6分）", 12),
        ("（Ⅰ）求a（6分）\n（Ⅱ）求b（6分）", 12),
        ("1．（4分）甲\n2．（8分）乙", 12),
        ("据此完成1～2题。\n1．甲（4分）\n2．乙（4分）", 8),
        ("在（" + " " * 20_000 + "）里填写。（6分）", 6),
        ("无", 0),
    ],
)
def test_points_are_those_that_the_question_states(question: str, points: int) -> None:
    assert stated_points(question) == points


def test_points_that_no_question_states_are_shown_at_those_that_are_written_out(tmp_path: Path) -> None:
    plain = "题干：说明原因。\n参考答案：略\n解析：略。"
    shown = lines(paper(tmp_path, [item(plain, type="主观题"), item(ESSAY, type="主观题")]))
    total = POINTS["主观题"] + 10
    assert f"一、主观题（本大题共 2 小题，共 {total} 分）" in shown and f"生物　　共 2 题　　满分 {total} 分" in shown
    assert f"1．\t（{POINTS['主观题']} 分）说明原因。" in shown and "2．\t阅读材料，回答问题。" in shown


# --- what models write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["单选题", "主观题"])
@pytest.mark.parametrize(
    ("text", "stem", "answer"),
    [
        ("没有分成三部分", "没有分成三部分", "（缺）"),
        ("题干：只有题干", "只有题干", "（缺）"),
        ("题干：甲\n参考答案：B", "甲", "B"),
        ("", "（没有题干）", "（缺）"),
    ],
)
def test_what_is_cut_off_is_printed_as_far_as_it_goes(
    tmp_path: Path, kind: str, text: str, stem: str, answer: str
) -> None:
    shown = lines(paper(tmp_path, [item(text, type=kind, finish_reason="length", 课本内容="")]))
    assert any(one.startswith("1．\t") and one.endswith(stem) for one in shown)
    assert f"1．\t【答案】{answer}" in shown and "【解析】（缺）" in shown


def test_what_no_file_can_hold_is_left_out_and_the_rest_is_there(tmp_path: Path) -> None:
    evil = "题干：甲\ud800乙\x00\x0b\u2028<w:p>&amp;$\\text{\ud83d}$\n参考答案：B\n解析：\ufffe"
    document = paper(tmp_path, [item(evil)], "卷\ud800\x01")
    assert lines(document)[0] == "卷\ufffd\ufffd"
    assert any(one.startswith("1．\t甲\ufffd乙\ufffd") and "<w:p>&amp;" in one for one in lines(document))


def test_lines_end_as_they_do_on_windows_too(tmp_path: Path) -> None:
    shown = lines(paper(tmp_path, [item("题干：甲\r\n乙\r\n参考答案：丙\r\n解析：丁", type="主观题")]))
    assert shown[3:5] == [f"1．\t（{POINTS['主观题']} 分）甲", "乙"]


def test_a_very_long_answer_is_there_to_its_end(tmp_path: Path) -> None:
    for long in ("很长" * 100_000, "长\n" * 5_000, "$x$长" * 1_000, "| a " * 500 + "\n|---|\n" + "| b " * 500):
        document = paper(tmp_path, [item(f"题干：甲\n参考答案：{long}完\n解析：略")])
        assert "完" in "".join(document.element.body.itertext())
        (tmp_path / "paper.docx").unlink()


def test_a_table_without_lines_around_it_begins_a_question(tmp_path: Path) -> None:
    text = "题干：| 甲 | 乙 |\n|---|---|\n| 1 | 2 |\n参考答案：| 丙 |\n|---|\n| 3 |\n解析：略"
    document = paper(tmp_path, [item(text, type="填空题")])
    assert len(document.tables) == 2 and "1．\t" in lines(document) and "1．\t【答案】" in lines(document)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    bad = TEXT.replace("参考答案：B", "参考答案：乙")
    entries = [entry(id="r0"), entry(bad, id="r1"), entry(id="r2", subject="历史")]
    return write_results(tmp_path / "questions.json", entries)


def refused(results: Path, *arguments: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        evaluate.main([str(results), *map(str, arguments)])
    return str(caught.value)


def test_the_command_writes_the_paper_and_names_what_fails_a_check(tmp_path: Path, results: Path) -> None:
    (tmp_path / "marked.json").write_text(json.dumps({"ids": ["r2", "r1"]}), encoding="utf-8")
    done = run_script(
        "evaluate.py", results, "--paper", tmp_path / "a.docx", "--only", tmp_path / "marked.json", "--title", "周测"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"paper     {tmp_path / 'a.docx'}: 2 questions, 6 points; 1 of them fail a hard check (r1)"
    )
    shown = lines(docx.Document(str(tmp_path / "a.docx")))
    assert shown[:2] == ["周测", "生物、历史　　共 2 题　　满分 6 分"]


def test_all_questions_are_printed_without_a_choice(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([str(results), "--paper", str(tmp_path / "a.DOCX")])
    assert "3 questions, 9 points; 1 of them fail" in capsys.readouterr().out
    assert lines(docx.Document(str(tmp_path / "a.DOCX")))[0] == TITLE


def test_no_paper_is_written_where_none_was_asked_for(tmp_path: Path, results: Path) -> None:
    evaluate.main([str(results)])
    assert not list(tmp_path.glob("*.docx"))


def test_bad_names_are_refused_before_anything_is_written(tmp_path: Path, results: Path) -> None:
    assert "a.pdf: is no name of a Word file; name one that ends in .docx" in refused(results, "--paper", "a.pdf")
    (tmp_path / "folder.docx").mkdir()
    assert "folder.docx: is there already" in refused(results, "--paper", tmp_path / "folder.docx")
    assert "there is no folder" in refused(results, "--paper", tmp_path / "no" / "a.docx")
    assert "--only: is about a paper; add --paper" in refused(results, "--only", "marked.json")
    assert "--title: is about a paper; add --paper" in refused(results, "--title", "卷")
    assert not (tmp_path / "scores.json").exists()


def test_a_paper_that_someone_may_have_worked_on_is_not_replaced(tmp_path: Path, results: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"mine")
    assert "a.docx: is there already; name another file, or remove it" in refused(
        results, "--paper", tmp_path / "a.docx"
    )
    assert (tmp_path / "a.docx").read_bytes() == b"mine"


def test_a_paper_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path, results: Path) -> None:
    (tmp_path / "a.docx.part").mkdir()
    assert "a.docx: cannot be written (" in refused(results, "--paper", tmp_path / "a.docx")
    assert not (tmp_path / "a.docx").exists()


def test_without_the_package_the_command_says_how_to_get_it(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    assert refused(results, "--paper", tmp_path / "a.docx").endswith(
        "writing .docx needs python-docx: pip install python-docx==1.2.0"
    )
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"ids": []}', "names no question; choose questions in report.html"),
        ("", "is no JSON file, or damaged"),
        ('{"ids": ["r0"', "is no JSON file, or damaged"),
        ("[" * 100_000, "is no JSON file, or damaged"),
        ('["r0"]', 'is ["r0"] instead of {"ids": [...]}'),
        ('{"ids": ["r0"], "texts": [{}]}', "texts is [{}], not one for each id"),
        ('{"ids": ["r0"], "texts": []}', "texts is [], not one for each id"),
        ('{"ids": [0]}', 'is {"ids": [0]} instead of'),
        ('{"id": "r0"}', 'is {"id": "r0"} instead of'),
        ('{"ids": ["r0", "x", "x", "y"]}', '2 of 3 ids are not in these results'),
    ],
)  # fmt: skip
def test_a_choice_that_is_none_of_these_results_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "marked.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        marked([item(id="r0")], file)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_many_unknown_ids_are_counted_and_a_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "marked.json"
    file.write_text(json.dumps({"ids": [f"x{number}" for number in range(30)]}), encoding="utf-8")
    with pytest.raises(UserError, match="and 20 more"):
        marked([item()], file)
    with pytest.raises(UserError, match="gone.json: cannot be read"):
        marked([item()], tmp_path / "gone.json")


def test_the_choice_gives_the_order_and_each_question_once(tmp_path: Path) -> None:
    file = tmp_path / "marked.json"
    # As an editor on Windows saves it.
    file.write_text(json.dumps({"ids": ["b", "a", "b"]}), encoding="utf-8-sig")
    items = [item(id="a"), item(id="b"), item(id="c")]
    assert [one.record.id for one in marked(items, file)] == ["b", "a"]


def test_a_choice_of_questions_that_were_written_anew_since_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "marked.json"
    items = [item(id="a"), item(TEXT.replace("甲", "戊"), id="a"), item(id="b")]
    file.write_text(json.dumps({"ids": ["b", "a"], "texts": [text_digest(items[2]), text_digest(items[1])]}), "utf-8")
    # Of two of one id the one that was chosen.
    assert marked(items, file) == [items[2], items[1]]
    with pytest.raises(UserError, match=r"1 of 2 questions were written anew since they were chosen.*\n.*a"):
        marked([items[0], items[2]], file)
