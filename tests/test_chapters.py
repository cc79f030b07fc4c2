"""A chapter becomes records without a data file: nothing of it is lost, and what cannot be used says why."""

import argparse
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from gaokao.chapters import LIMIT, MAX_BYTES, MAX_CHARS, MAX_OUTSIDE_CHARS, add_options, asked, cut
from gaokao.config import OutputConfig
from gaokao.errors import UserError
from gaokao.records import HEADER, Record
from gaokao.settings import load_config

SENTENCE = "中华人民共和国成立以后，土地改革在全国范围内展开，农民得到了土地。"


def actions(*arguments: str) -> argparse.Namespace:
    argv = ["--config", str(ROOT / "config.yaml"), *arguments]
    return load_config(argv, "infer_qwen_gaokao.py", add=add_options).actions


def chapter(path: Path | str, *more: str, count: int = 1) -> list[Record]:
    found = asked(
        actions("--textbook", str(path), "--subject", "历史", "--type", "单选题", "--count", str(count), *more)
    )
    assert found is not None
    return found.records


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        asked(actions(*arguments))
    return str(error.value)


def refused_file(path: Path | str, *more: str) -> str:
    return refused("--textbook", str(path), "--subject", "历史", "--type", "单选题", *more)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "chapter.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


# --- options ----------------------------------------------------------------------------------------------------------


def test_without_a_textbook_nothing_is_asked() -> None:
    assert asked(actions()) is None


@pytest.mark.parametrize("option", [("outside", "a.txt"), ("subject", "历史"), ("type", "单选题"), ("count", "1")])
def test_an_option_of_a_chapter_without_one_is_an_error(option: tuple[str, str]) -> None:
    name, value = option
    said = refused(f"--{name}", value)
    assert said.startswith(f"command line: --{name} belongs to --textbook; give --textbook FILE as well")


def test_all_that_is_wrong_with_the_options_is_said_at_once() -> None:
    said = refused("--textbook", "missing.txt", "--subject", "音乐", "--count", "0")
    assert said.startswith("the command line has 3 error(s):")
    assert "--subject 音乐: must be one of 语文 数学 英语 物理 化学 生物 政治 历史 地理" in said
    assert "--type is missing; it must be one of 单选题 多选题 填空题 主观题 大题 解答题 简答题" in said
    assert "--count 0: must be from 1 to 1,000" in said
    said = refused("--textbook", "missing.txt", "--subject", "历史", "--type", "判断题")
    assert said.startswith("command line: --type 判断题: must be one of")


@pytest.mark.parametrize("count", ["-1", "1001"])
def test_a_count_out_of_bounds_is_refused(write: Callable[..., Path], count: str) -> None:
    assert f"--count {count}: must be from 1 to 1,000" in refused_file(write(SENTENCE), f"--count={count}")


def test_a_count_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="argument --count: invalid int value: 'drei'"):
        actions("--count", "drei")


def test_two_texts_cannot_both_come_from_standard_input() -> None:
    assert "there is one standard input; give one of them as a file" in refused_file("-", "--outside", "-")


def test_several_processes_do_not_share_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "which several processes cannot read; give a file instead" in refused_file("-")


def test_the_help_says_what_can_be_given() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    said = " ".join(parser.format_help().split())
    assert "or - for stdin" in said and "历史" in said and "主观题" in said


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_short_chapter_is_one_record(write: Callable[..., Path]) -> None:
    path = write("# 第三单元 土地改革\n\n" + SENTENCE)
    found = asked(actions("--textbook", str(path), "--subject", "历史", "--type", "解答题"))
    assert found is not None and found.name == "chapter"
    assert found.records == [
        Record(
            "chapter-01",
            "历史",
            "主观题",
            f"# 第三单元 土地改革\n\n{SENTENCE}",
            extra={"passage": "第1段，共1段：第三单元 土地改革"},
        )
    ]


def long_text(passages: int) -> str:
    return "\n".join(f"第{number}节 第{number}次改革\n" + SENTENCE * 20 for number in range(1, passages + 1))


@pytest.mark.parametrize(
    ("count", "ids"),
    [
        (1, ["03"]),
        (2, ["02", "04"]),
        (5, ["01", "02", "03", "04", "05"]),
        (7, ["01", "02", "02-2", "03", "04", "04-2", "05"]),
        (10, ["01", "01-2", "02", "02-2", "03", "03-2", "04", "04-2", "05", "05-2"]),
    ],
)
def test_questions_are_spread_evenly_over_the_passages(write: Callable[..., Path], count: int, ids: list[str]) -> None:
    records = chapter(write(long_text(5)), count=count)
    assert [record.id for record in records] == [f"chapter-{name}" for name in ids]
    for record in records:
        number = int(record.id.split("-")[1])
        assert record.textbook.startswith(f"第{number}节")
        assert record.extra == {"passage": f"第{number}段，共5段：第{number}节 第{number}次改革"}


@given(st.integers(1, 60), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_every_count_gives_so_many_questions_with_ids_of_their_own(passages: int, count: int) -> None:
    from gaokao.chapters import _spread

    records = _spread([Record(f"c-{n:02}", "历史", "单选题", "甲") for n in range(1, passages + 1)], count)
    assert len({record.id for record in records}) == len(records) == count
    times = [sum(record.id.startswith(f"c-{n:02}") for record in records) for n in range(1, passages + 1)]
    assert max(times) - min(times) <= 1


def test_the_other_material_goes_to_every_question(write: Callable[..., Path]) -> None:
    outside = write(f"\ufeff  {SENTENCE}\r\n", "news.txt")
    records = chapter(write(long_text(3)), "--outside", str(outside), count=3)
    assert [record.outside for record in records] == [SENTENCE] * 3


def test_too_much_other_material_is_refused(write: Callable[..., Path]) -> None:
    path, outside = write(SENTENCE), write("甲" * MAX_OUTSIDE_CHARS, "news.txt")
    assert chapter(path, "--outside", str(outside))[0].outside == "甲" * MAX_OUTSIDE_CHARS
    said = refused_file(path, "--outside", str(write("甲" * (MAX_OUTSIDE_CHARS + 1), "news.txt")))
    assert said == f"{outside}: has 2,001 characters, at most 2,000 are taken; keep what the questions are to use"


def test_what_a_record_must_not_hold_is_named_as_in_a_data_file(write: Callable[..., Path]) -> None:
    path = write(f"{long_text(3)}\n<|im_end|>\n{SENTENCE * 20}\n解析：{SENTENCE}")
    outside = write("题干：甲", "news.txt")
    said = refused_file(path, "--outside", str(outside))
    assert f"{path}: 3 error(s) in the text:" in said
    assert f"{path} (id chapter-04): 课本内容 contains the chat marker <|im_end|>, which would end the turn" in said
    assert f"{path} (id chapter-04): 课本内容 has a line that begins with '解析：', a header of the answer" in said
    assert f"{outside} (id 课外内容): 课外内容 has a line that begins with '题干：'" in said


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("必修 一.第三章.docx", "必修 一.第三章"),
        ('a:b*c?"<d>|\\e\n.txt', "a_b_c___d___e_"),
        (" .txt", "_"),
        ("con.x.txt", "_con.x"),
        ("章节. .md", "章节"),
        ("\udcff.txt", "_"),
        ("长" * 90 + ".txt", "长" * 66),
    ],
)
def test_the_folder_is_named_after_the_file_as_a_run_can_be(file: str, name: str) -> None:
    from gaokao.chapters import _folder_name

    assert _folder_name(file) == name
    assert OutputConfig(run=name).run == name


# --- cutting ----------------------------------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    return "".join(text.split())


PIECES = st.one_of(
    st.sampled_from(
        [
            "\n",
            "\n\n",
            "。",
            "，",
            "\r\n",
            "　　",
            " ",
            "第三章 光\n",
            "\n一、背景\n",
            "（二）影响\n",
            "# 标题\n",
            "解析：",
            "\x0c",
            ". ",
            "”",
        ]
    ),
    st.text(max_size=20),
    st.integers(1, 60).map(lambda length: "光合作用把二氧化碳和水变成有机物，"[: length % 17 + 1] * (length // 17 + 1)),
)


@given(st.lists(PIECES, max_size=120).map("".join), st.sampled_from([8, 30, 120, LIMIT]))
@settings(max_examples=400, deadline=None)
def test_nothing_is_lost_and_no_passage_is_empty_or_over_the_limit(text: str, limit: int) -> None:
    passages = cut(text, limit)
    assert squeezed("".join(passages)) == squeezed(text)
    assert all(passage == passage.strip() and 0 < len(passage) <= limit for passage in passages)


HEADINGS = [
    "第三章 生态系统",
    "第2节　能量流动",
    "# 标题",
    "### 小标题",
    "一、背景",
    "（二）影响",
    "第三单元",
    "第十课 明清",
    "Unit 3",
]


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(HEADINGS), max_size=3), st.integers(1, 60), st.booleans()), min_size=1),
    st.lists(st.sampled_from(HEADINGS), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_a_heading_leads_the_passage_behind_it(sections: list[tuple[list[str], int, bool]], tail: list[str]) -> None:
    lines: list[str] = []
    for headings, sentences, one_line in sections:
        lines += [*headings, *(["".join([SENTENCE] * sentences)] if one_line else [SENTENCE] * sentences)]
    passages = cut("\n".join([*lines, *tail]))
    for passage in passages:
        assert not all(line in HEADINGS for line in passage.split("\n")), passage
    for passage in passages[:-1]:
        assert passage.split("\n")[-1] not in HEADINGS


def test_headings_at_the_end_stay_with_what_stands_before_them() -> None:
    headings = [f"{number}、{'很长的标题' * 6}" for number in "一二三四五六七八九十"]
    for sentences in range(14, 40):
        assert SENTENCE in cut("\n".join([SENTENCE * 10, *[SENTENCE] * sentences, *headings]))[-1]


def test_a_text_is_cut_at_its_headings_and_at_paragraphs_between_them() -> None:
    first, second = [f"第{number}节 标题\n" + "\n".join(["　　" + SENTENCE * 3] * 6) for number in (1, 2)]
    passages = cut(f"{first}\n\n{second}\n{SENTENCE * 6}\n{SENTENCE * 6}")
    assert [passage.split("\n")[0] for passage in passages] == ["第1节 标题", "第2节 标题", SENTENCE * 6]
    # A higher heading goes before a lower one that would fill the passage better.
    text = "\n".join([SENTENCE * 12, "第二章 甲", "一、乙", SENTENCE * 4, "（二）丙", SENTENCE * 12])
    assert [passage.split("\n")[0] for passage in cut(text)] == [SENTENCE * 12, "第二章 甲"]


def test_the_rows_of_a_table_are_left_whole() -> None:
    rows = [f"| {number} | {SENTENCE * 2} | 甲 |" for number in range(60)]
    assert "\n".join(cut("\n".join(rows))).split("\n") == rows
    assert max(map(len, cut(f"| {SENTENCE * 50} |"))) <= LIMIT


def test_paragraphs_are_kept_whole_and_a_blank_line_goes_before_the_end_of_a_line() -> None:
    paragraphs = [SENTENCE * times for times in (7, 9, 20, 8, 3, 12, 22, 1, 10)]
    assert "\n".join(cut("\n".join(paragraphs))).split("\n") == paragraphs
    assert cut("\n".join([SENTENCE * 10, "", *[SENTENCE * 4] * 5])) == [SENTENCE * 10, "\n".join([SENTENCE * 4] * 5)]
    # Lines as a program broke them: a passage ends where a sentence does.
    wrapped = "\n".join((SENTENCE * 60)[start : start + 37] for start in range(0, len(SENTENCE) * 60, 37))
    assert all(passage.endswith("。") for passage in cut(wrapped))


def test_a_paragraph_that_is_too_long_is_cut_at_sentence_ends() -> None:
    passages = cut("甲说：“" + SENTENCE * 100 + "”")
    assert all(passage.endswith(("。", "。”")) for passage in passages)
    assert min(map(len, passages)) > LIMIT // 3
    assert all(passage.endswith("，") for passage in cut(SENTENCE.replace("。", "，") * 100)[:-1])
    assert list(map(len, cut("甲" * 2000))) == [800, 800, 400]
    assert list(map(len, cut("甲" * 810))) == [543, 267]


def test_a_cut_does_not_make_a_header_of_the_answer() -> None:
    text = f"{SENTENCE}解析：{SENTENCE}" * 40
    passages = cut(text)
    assert len(passages) > 3 and not any(HEADER.search(passage) for passage in passages)
    assert squeezed("".join(passages)) == text


def test_short_paragraphs_are_put_together() -> None:
    passages = cut("\n".join(["一、" + "短" * 20, "甲" * 30 + "。"] * 200))
    assert min(map(len, passages)) > LIMIT // 3


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chapter.txt", "chapter.md", "chapter", "chapter.TEXT"])
def test_any_text_file_is_read_with_and_without_bom(write: Callable[..., Path], name: str) -> None:
    for bom in ("", "\ufeff"):
        assert chapter(write(f"{bom}{SENTENCE}\r\n{SENTENCE}\r", name))[0].textbook == f"{SENTENCE}\n{SENTENCE}"


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, SENTENCE.encode())
    (record,) = chapter("-")
    assert (record.id, record.textbook) == ("stdin-01", SENTENCE)


def test_standard_input_that_is_no_utf8_names_the_command_between(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, SENTENCE.encode("gb18030"))
    assert refused_file("-") == (
        "standard input:1: is not UTF-8 but looks like GB18030/GBK; send it through iconv -f GB18030 -t UTF-8"
    )
    stdin(monkeypatch, b"")
    assert refused_file("-").startswith("standard input: holds no text")
    monkeypatch.setattr(sys, "stdin", None)
    assert refused_file("-").startswith("standard input: is closed")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no text; put the text itself into it"),
        ("\ufeff \n\u3000\n".encode(), "holds no text"),
        (
            SENTENCE.encode("gb18030"),
            "chapter.txt:1: is not UTF-8 but looks like GB18030/GBK; convert it: iconv -f GB18030",
        ),
        (
            SENTENCE.encode("utf-16"),
            "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 chapter.txt > utf8-chapter.txt",
        ),
        (SENTENCE.encode()[:-1], "ends in the middle of a character"),
        (
            b"\n%PDF-1.7\n%\xe2\xe3",
            "is a PDF; save it as .docx or as UTF-8 text, or copy its text out (a scanned PDF is",
        ),
        (b"%PDF-1.7\n" + bytes(MAX_BYTES), "is a PDF"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
            "is a .doc of old, or has a password; open it and save it as .docx",
        ),
        (b"PK\x03\x04" + bytes(99), "is a Word file or another packed one, not text; name it .docx if it is Word"),
        (b"{\\rtf1\\ansi", "is an RTF file; save it as .docx or as UTF-8 text"),
        (b"\r\n<!DOCTYPE html><html>", "is a web page; open it, copy its text"),
        (
            b"\x89PNG\r\n\x1a\n\x00\x00",
            "is not text (it holds NUL bytes); save it as .docx or as UTF-8 text (a picture of",
        ),
    ],
)
def test_what_is_not_text_is_told_by_its_first_bytes(write: Callable[..., Path], content: bytes, said: str) -> None:
    path = write(content)
    found = refused_file(path)
    assert found.startswith(str(path)) and said in found


def test_a_chapter_that_is_too_long_says_how_long(write: Callable[..., Path]) -> None:
    remedy = "cut it into chapters, one file each"
    text = (SENTENCE * (MAX_CHARS // len(SENTENCE) + 1))[:MAX_CHARS]
    assert len(chapter(write(text), count=1000)) == 1000
    path = write(text + "多")
    assert refused_file(path) == f"{path}: has 500,001 characters, at most 500,000 are taken; {remedy}"
    write(b"a" * (MAX_BYTES + 5))
    assert refused_file(path) == f"{path}: has {MAX_BYTES + 5:,} bytes, at most 500,000 characters are taken; {remedy}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused_file(tmp_path / "none.txt") == f"{tmp_path / 'none.txt'}: there is no such file; check the name"
    assert refused_file(tmp_path) == f"{tmp_path}: is a folder; name one file in it"
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    assert "loop.txt: cannot be read (Too many levels of symbolic links); check" in refused_file(tmp_path / "loop.txt")
    assert "cannot be read (embedded null byte)" in refused_file("a\0b")
    monkeypatch.chdir(tmp_path)
    assert "(there is one in the project's folder" in refused_file("README.md")


# --- Word -------------------------------------------------------------------------------------------------------------


def word(path: Path, build: Callable[[Any], None]) -> Path:
    document = pytest.importorskip("docx").Document()
    build(document)
    document.save(path)
    return path


def test_paragraphs_and_tables_of_a_word_file_come_in_their_order(tmp_path: Path) -> None:
    def build(document: Any) -> None:
        document.add_heading("第三章 土地改革", 1)
        document.add_paragraph(SENTENCE).add_run("\t又\n行")
        table = document.add_table(2, 3)
        for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
            cell.text = f"格|{number}\n二"
        table.cell(1, 0).merge(table.cell(1, 1))
        document.add_heading("意义", 2)
        document.add_table(1, 1).cell(0, 0).text = "知识链接\n框里的话。"
        document.add_paragraph("完。")

    (record,) = chapter(word(tmp_path / "chapter.DOCX", build))
    assert record.textbook == "\n\n".join(
        [
            "# 第三章 土地改革",
            f"{SENTENCE}\t又\n行",
            "| 格\\|0 二 | 格\\|1 二 | 格\\|2 二 |\n| --- | --- | --- |\n| 格\\|3 二 格\\|4 二 |  | 格\\|5 二 |",
            "## 意义",
            "知识链接\n框里的话。",
            "完。",
        ]
    )


def test_the_text_of_a_word_file_is_the_one_that_is_seen(tmp_path: Path) -> None:
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    mc = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    run = "<w:r><w:t>{}</w:t></w:r>".format
    box = "<w:txbxContent><w:p>{}</w:p></w:txbxContent>".format
    inside = "".join(
        [
            f'<w:pPr><w:tabs><w:tab w:val="left" w:pos="1"/></w:tabs></w:pPr>{run("一")}',
            f"<w:ins>{run('二')}</w:ins><w:del><w:r><w:delText>删</w:delText></w:r></w:del>",
            f"<w:moveFrom>{run('走')}</w:moveFrom><w:hyperlink>{run('三')}</w:hyperlink>",
            f"<w:sdt><w:sdtContent>{run('四')}</w:sdtContent></w:sdt><w:r><w:noBreakHyphen/></w:r>",
            f"<mc:AlternateContent><mc:Choice>{box(run('框'))}</mc:Choice><mc:Fallback>{box(run('框'))}</mc:Fallback>",
            "</mc:AlternateContent>",
        ]
    )

    def build(document: Any) -> None:
        from docx.oxml import parse_xml

        body = document.element.body
        body.insert(0, parse_xml(f"<w:p {namespace} {mc}>{inside}</w:p>"))
        content = f"<w:sdtContent><w:p>{run('五')}</w:p></w:sdtContent>"
        body.insert(1, parse_xml(f"<w:sdt {namespace}>{content}</w:sdt>"))

    assert chapter(word(tmp_path / "a.docx", build))[0].textbook == "一二三四-\n框\n\n五"


def test_raised_and_lowered_letters_of_a_word_file_stay_so_and_pinyin_is_left_out(tmp_path: Path) -> None:
    def build(document: Any) -> None:
        from docx.oxml import parse_xml
        from docx.oxml.ns import nsdecls

        paragraph = document.add_paragraph("速度为3×10")
        paragraph.add_run("8").font.superscript = True
        paragraph.add_run("，H")
        paragraph.add_run("2").font.subscript = True
        paragraph.add_run("O，v")
        paragraph.add_run("max").font.subscript = True
        ruby = (
            "<w:ruby><w:rt><w:r><w:t>háng</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>行</w:t></w:r></w:rubyBase></w:ruby>"
        )
        paragraph._p.append(parse_xml(f"<w:r {nsdecls('w')}>{ruby}</w:r>"))

    assert chapter(word(tmp_path / "a.docx", build))[0].textbook == "速度为3×10⁸，H₂O，v_{max}行"


@pytest.mark.parametrize(
    "inside", [r"<w:instrText> EQ \f(s,t)</w:instrText>", '<w:sym w:font="Symbol" w:char="F061"/>']
)
def test_a_field_that_draws_a_formula_would_be_missing_and_is_named(inside: str, tmp_path: Path) -> None:
    def build(document: Any) -> None:
        from docx.oxml import parse_xml
        from docx.oxml.ns import nsdecls

        document.add_paragraph("速度v=")._p.append(parse_xml(f"<w:r {nsdecls('w')}>{inside}</w:r>"))

    assert "a.docx: has 1 formula(s)" in refused_file(word(tmp_path / "a.docx", build))


def test_formulas_of_a_word_file_would_be_missing_and_are_named(tmp_path: Path) -> None:
    math = "http://schemas.openxmlformats.org/officeDocument/2006/math"

    def build(document: Any) -> None:
        from docx.oxml import parse_xml

        paragraph = document.add_paragraph("函数")
        for _ in range(2):
            paragraph._p.append(parse_xml(f'<m:oMath xmlns:m="{math}"><m:r><m:t>x</m:t></m:r></m:oMath>'))

    said = refused_file(word(tmp_path / "a.docx", build))
    assert "a.docx: has 2 formula(s) or other embedded objects, which would be missing from the text" in said


def test_a_word_file_without_text_is_refused(tmp_path: Path) -> None:
    said = refused_file(word(tmp_path / "a.docx", lambda document: document.add_table(2, 2) and None))
    assert "a.docx: holds no text" in said and "OCR" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no text"),
        (SENTENCE.encode(), "is not a .docx file; open it in Word or WPS and save it as .docx, or name it .txt"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is a .doc of old, or has a password"),
        (b"PK\x03\x04" + bytes(99), "is not a .docx file, or damaged or cut off"),
        (b"%PDF-1.4", "is a PDF"),
    ],
)
def test_what_is_only_named_docx_is_told_by_its_first_bytes(
    write: Callable[..., Path], content: bytes, said: str
) -> None:
    pytest.importorskip("docx")
    assert said in refused_file(write(content, "a.docx"))


def test_a_word_file_with_a_part_missing_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    path = word(tmp_path / "a.docx", lambda document: document.add_paragraph(SENTENCE) and None)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for missing in ("word/document.xml", "[Content_Types].xml"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                if name != missing:
                    archive.writestr(name, content)
        assert "a.docx: is not a .docx file, or damaged or cut off (" in refused_file(path)


def test_without_the_library_the_command_that_brings_it_is_named(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docx", None)
    said = refused_file(write(b"PK\x03\x04", "a.docx"))
    assert said.endswith("a.docx: reading .docx needs python-docx: pip install python-docx (or save it as UTF-8 text)")
