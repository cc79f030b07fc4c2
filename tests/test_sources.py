"""Every way in gives the same records, and every damaged source says what is wrong, where, and what to do.

GAOKAO_BIG_FILE_TEST=1 adds the reading of a 200 MB file in a process of its own whose memory is measured.
"""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, record_row

from gaokao.errors import MAX_FAULTS, UserError
from gaokao.records import load_records
from gaokao.sources import DATA_SUFFIXES, Spec, read_raw

ROWS = [
    record_row(0),
    record_row(1, answer=["甲", "乙"], type="主观题"),
    record_row(2, 课外内容='引号"与逗号,\n与换行'),
]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for k, v in row.items()}
            )
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    return path


def write_excel(path: Path, rows: list[dict[str, Any]], change: Callable[[Any], None] | None = None) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in row.values()])
    if change is not None:
        change(book.active)
    book.save(path)
    return path


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows in the format of the file's suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path
    writers: dict[str, Callable[..., Path]] = {
        ".jsonl": write_lines,
        ".csv": write_csv,
        ".parquet": write_parquet,
        ".xlsx": write_excel,
    }
    return writers[path.suffix](path, rows)


def faults(spec: Spec) -> str:
    with pytest.raises(UserError) as error:
        load_records(spec)
    return str(error.value)


# --- ways in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", DATA_SUFFIXES)
def test_every_format_gives_the_same_records(tmp_path: Path, suffix: str) -> None:
    # A Parquet column has one type, so there the answer of every record is a list.
    rows = [{**row, "answer": row["answer"] if isinstance(row["answer"], list) else [row["answer"]]} for row in ROWS]
    path = write(tmp_path / f"a{suffix}", rows if suffix == ".parquet" else ROWS)
    assert load_records(path) == load_records(write_lines(tmp_path / "same.jsonl", ROWS))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_is_read_with_and_without_bom(tmp_path: Path, encoding: str) -> None:
    records = load_records(write_csv(tmp_path / "a.csv", ROWS, encoding))
    assert [record.id for record in records] == ["r0", "r1", "r2"]
    assert records[1].answer == ("甲", "乙")
    assert records[2].outside == '引号"与逗号,\n与换行'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_the_line_ends_of_windows_are_those_of_others(tmp_path: Path, suffix: str, end: str) -> None:
    path = write(tmp_path / f"a{suffix}", ROWS)
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("}, {", "},\n{")
    path.write_bytes(text.replace("\n", end).encode())
    assert path.read_bytes().count(b"\r\n") == (text.count("\n") if end == "\r\n" else 0)
    assert load_records(path) == load_records(write_lines(tmp_path / "same.jsonl", ROWS))


def test_the_line_ends_of_old_macs_are_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r"))
    assert f"{path}:1: is not CSV from here on (new-line character seen in unquoted field" in faults(path)


def test_a_csv_file_with_chinese_columns_gives_the_same_records(tmp_path: Path) -> None:
    names = {"subject": "科目", "type": "题型", "question": "题干", "answer": "参考答案", "analysis": "解析"}
    chinese = [{names.get(key, key): value for key, value in row.items()} for row in ROWS]
    assert load_records(write_csv(tmp_path / "a.csv", chinese)) == load_records(write_csv(tmp_path / "b.csv", ROWS))


def test_an_interval_in_a_csv_cell_is_an_answer_and_no_list(tmp_path: Path) -> None:
    rows = [record_row(0, answer="[1, 2]"), record_row(1, answer="[0, 1)"), record_row(2, answer="[]", question="[1]")]
    values = [raw.value["answer"] for raw in read_raw(write_csv(tmp_path / "a.csv", rows))]
    assert values == ["[1, 2]", "[0, 1)", "[]"]


def test_rows_of_empty_cells_are_passed_over_in_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS[:1])
    path.write_text(path.read_text(encoding="utf-8") + ",,,,,,,\r\n\r\n", encoding="utf-8")
    assert len(load_records(path)) == 1


def test_a_folder_is_read_by_name_and_only_its_data_files(tmp_path: Path) -> None:
    write(tmp_path / "b.json", [record_row(2)])
    write(tmp_path / "a.jsonl", [record_row(1)])
    write(tmp_path / "c.csv", [record_row(3)])
    write(tmp_path / "d.PARQUET".lower(), [record_row(4)])
    for name in ("README.md", "LICENSE", "dataset_info.json", ".hidden.json", "a.jsonl.part", "~$open.xlsx"):
        (tmp_path / name).write_text("no data", encoding="utf-8")
    (tmp_path / "folder.json").mkdir()
    assert [record.id for record in load_records(tmp_path)] == ["r1", "r2", "r3", "r4"]


def test_several_sources_are_read_in_the_order_given(tmp_path: Path) -> None:
    first, second = write(tmp_path / "z.json", [record_row(0)]), write(tmp_path / "a.csv", [record_row(1)])
    assert [record.id for record in load_records([first, str(second)])] == ["r0", "r1"]


def test_a_hub_dataset_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> list[dict[str, Any]]:
        calls.append((name, split))
        return [record_row(0), record_row(1, picture=b"\x89PNG")]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    first, second = read_raw("hub:some/questions")
    assert (first.where, first.value) == ("hub:some/questions:train[0]", record_row(0))
    assert second.problem == "holds a value of the type bytes, neither text nor number; drop that column"
    list(read_raw("hub:some/questions:test[:10]"))
    assert calls == [("some/questions", "train"), ("some/questions", "test[:10]")]


def test_a_hub_that_is_not_reached_names_the_ways_around(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach 'some/questions' on the Hub\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    said = faults("hub:some/questions")
    for part in ("Couldn't reach", "HF_ENDPOINT=https://hf-mirror.com", "download its files on another machine"):
        assert part in said
    assert "more" not in said


def test_a_proxy_that_refuses_ends_in_the_same_message(tmp_path: Path) -> None:
    # In a process of its own, for the library reads its settings when it is imported.
    code = (
        "from gaokao.errors import UserError\nfrom gaokao.sources import read_raw\n"
        "try:\n    list(read_raw('hub:some/questions'))\nexcept UserError as error:\n    print(error)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        env |= {"HTTPS_PROXY": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_ENDPOINT": "https://hub.invalid"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**env, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.stdout.startswith("hub:some/questions: cannot be loaded (ProxyError: 403 Forbidden)"), done.stderr
    assert "HF_ENDPOINT=https://hf-mirror.com" in done.stdout


def test_a_missing_library_names_the_command_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in faults("hub:some/questions")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install pyarrow" in faults(tmp_path / "a.parquet")
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install openpyxl (or save it as CSV UTF-8)" in faults(tmp_path / "a.xlsx")


@pytest.mark.parametrize("spec", ["hub:", "hub:questions", "hub:some/questions/more"])
def test_a_misspelt_hub_name_says_how_it_is_written(spec: str) -> None:
    assert "write hub:owner/name or hub:owner/name:split" in faults(spec)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_faults_of_several_files_are_reported_together_and_in_place(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.json", [record_row(0), record_row(1, subject="音乐")]),
        write(tmp_path / "b.jsonl", [record_row(2), record_row(3, type="判断题")]),
        write(tmp_path / "c.csv", [record_row(4, 课外内容="一行\n两行"), record_row(5, analysis="")]),
        write(tmp_path / "d.parquet", [record_row(6), record_row(7, question=None)]),
        write(tmp_path / "e.json", [record_row(0)]),
    ]
    said = faults(files)
    a, b, c, d, e = files
    for part in (
        f'{a}[1] (id r1): subject (科目) is "音乐"; it must be one of',
        f'{b}:2 (id r3): type (题型) is "判断题"; it must be one of',
        f"{d}[1] (id r7): question (题干) is missing; add it",
        f"{e}[0] (id r0): the id is also that of {a}[0]; give it another",
        "5 error(s)",
    ):
        assert part in said
    # The record begins behind a header of one line and a record of six: one, and five line ends inside texts.
    (place,) = [line for line in said.splitlines() if "analysis (解析) is empty" in line]
    text = c.read_text(encoding="utf-8")
    assert place.startswith(f"  - {c}:{text[: text.index('r5')].count(chr(10)) + 1} (id r5)")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("b.json", lambda data: data[: data.rindex("引号".encode())], "is not JSON"),
        ("b.json", lambda data: data[: data.rindex("引号".encode()) + 1], "ends in the middle of a character"),
        ("b.jsonl", lambda data: data[: data.rindex("引号".encode())], "the file may be cut off here"),
        ("b.csv", lambda data: data[: data.rindex("引号".encode()) + 6], "is not CSV from here on"),
        ("b.parquet", lambda data: data[: len(data) // 2], "is not Parquet, or damaged or cut off"),
        ("b.parquet", lambda data: b"", "is not Parquet, or damaged or cut off"),
        ("b.xlsx", lambda data: data[: len(data) // 2], "is not an .xlsx file, or damaged or cut off"),
        ("b.xlsx", lambda data: b"", "is not an .xlsx file; open it in Excel or WPS"),
        ("b.json", lambda data: b"", "the file is empty"),
        ("b.csv", lambda data: b"", "the file is empty"),
        ("b.jsonl", lambda data: b"\x00" * 4096, "is not JSON"),
    ],
)
def test_a_damaged_file_in_the_middle_is_named_with_the_faults_of_the_others(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], said: str
) -> None:
    write(tmp_path / "a.jsonl", [record_row(10, subject="音乐")])
    rows = [{**row, "answer": ["甲"]} for row in ROWS]
    middle = write(tmp_path / name, rows)
    middle.write_bytes(damage(middle.read_bytes()))
    write(tmp_path / "c.jsonl", [record_row(11, type="判断题")])
    text = faults(tmp_path)
    assert [line for line in text.splitlines() if name in line and said in line], text
    assert "a.jsonl:1 (id r10)" in text and "c.jsonl:1 (id r11)" in text


def test_a_missing_and_an_unreadable_file_in_the_middle_are_named(tmp_path: Path) -> None:
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    good = write(tmp_path / "a.json", [record_row(0)])
    said = faults([good, tmp_path / "loop.json", tmp_path / "none.json", good])
    assert "loop.json: cannot be read (Too many levels of symbolic links)" in said
    assert "none.json: there is no such data file" in said
    assert "a.json: is named twice, or lies in a folder that is named as well" in said


def test_what_is_wrong_above_the_break_of_an_only_file_is_not_lost(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [record_row(0, subject="音乐"), record_row(1)])
    path.write_bytes(path.read_bytes() + b'{"id": "\xff"}\n')
    said = faults(path)
    assert "a.jsonl:1 (id r0): subject" in said
    assert "a.jsonl:3: is not UTF-8 (byte 9 of the line)" in said


def test_mixed_types_are_named_by_what_they_are(tmp_path: Path) -> None:
    rows = [record_row(0), 7, None, ["甲"], "乙", True, {}, record_row(1, question=["甲"], answer={"1": "A"}, id=[1])]
    for path, place in ((write(tmp_path / "a.json", rows), "[{}]"), (write(tmp_path / "b.jsonl", rows), ":{}")):
        said = faults(path)
        start = 0 if "[" in place else 1
        for number, shown in ((1, "7"), (2, "null"), (3, '["甲"]'), (4, '"乙"'), (5, "true")):
            assert f"{path}{place.format(number + start)}: is {shown} instead of an object with keys" in said
        assert 'question (题干) is ["甲"]; it must be a text' in said
        assert 'answer (参考答案) is {"1": "A"}; it must be a text, or a list of texts' in said
        assert "id is [1]; it must be a text" in said


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_gb18030_text_says_so_and_how_to_convert_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    said = faults(path)
    assert "is not UTF-8 but looks like GB18030/GBK" in said
    assert f"iconv -f GB18030 -t UTF-8 {name} > utf8-{name}" in said


def test_utf16_text_says_so_and_how_to_convert_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    assert "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 a.csv > utf8-a.csv" in faults(path)
    # A first line of Chinese letters alone holds no zero byte.
    path.write_bytes(b"\xff\xfe" + "科目\n".encode("utf-16-le"))
    assert "is UTF-16 text" in faults(path)


def test_damaged_utf8_is_not_taken_for_gb18030(tmp_path: Path) -> None:
    text = json.dumps([record_row()], ensure_ascii=False).encode()
    at = text.index("课本内容".encode()) + 1
    (tmp_path / "a.json").write_bytes(text[:at] + b"\xff" + text[at + 1 :])
    assert "is not UTF-8 (byte " in faults(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(text[: at + 1])
    assert "ends in the middle of a character: the file is cut off" in faults(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id;subject;题干\n1;数学;甲\n", "a.csv:1: its cells are separated by ';'; save it with commas"),
        ("id\tsubject\n1\t数学\n", "its cells are separated by '\\t'"),
        (
            ",id,subject\n0,1,数学\n",
            "a.csv:1: column 1 has no name; name it or remove it (pandas: to_csv(..., index=False))",
        ),
        ("id,题干,题干\n1,甲,乙\n", "a.csv:1: has the column 题干 twice; keep one"),
        ("id,subject\n1,数学\n2,数学,多\n3\n", "a.csv:3: has 3 cells, the header 2; put texts that hold commas"),
        ('id,subject\n1,数学\n2,"数学\n3,数学\n', "a.csv:3: is not CSV from here on (unexpected end of data)"),
        ("id,subject\n", "holds no records"),
    ],
)
def test_a_csv_file_that_is_not_one_says_why(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert said in faults(tmp_path / "a.csv")


def test_values_that_json_does_not_know_are_text_or_a_fault(tmp_path: Path) -> None:
    import datetime

    rows = [record_row(0, day=datetime.date(2024, 6, 7)), record_row(1, day=None)]
    path = write(tmp_path / "a.parquet", rows)
    assert [record.extra["day"] for record in load_records(path)] == ["2024-06-07", None]
    write(path, [record_row(0, picture=b"\x89PNG")])
    assert "a.parquet[0]: holds a value of the type bytes, neither text nor number; drop that column" in faults(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"题干": "\\ud83d"}]', "[0]: holds half of a character (\\ud83d without its other half)"),
        ('{"id": "a"}\n{"题干": "\\ud83d"}', ":2: holds half of a character"),
        ("[" * 100_000, "brackets nested a thousand deep"),
        (f'[{{"id": {"9" * 5000}}}]', "is not JSON (Exceeds the limit"),
        ('[{"id": "a"},', "it ends too early"),
        (
            '{\n  "id": "a"\n}\n',
            "a data file is a JSON list, JSON Lines with one record a line, CSV, Excel (.xlsx) or Parquet",
        ),
    ],
)
def test_json_that_cannot_be_used_is_a_fault_and_no_traceback(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert said in faults(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xls", "is a spreadsheet; save it as CSV UTF-8 or as .xlsx"),
        ("a.et", "is a spreadsheet; save it as CSV UTF-8 or as .xlsx"),
        ("a.json.gz", "is packed; unpack it"),
        ("a.docx", "is a document"),
        ("a.arrow", "write it as Parquet"),
    ],
)
def test_other_formats_name_the_way_to_one_that_is_read(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    assert said in faults(tmp_path / name)


def test_a_folder_without_data_lists_what_it_holds(tmp_path: Path) -> None:
    assert "is a folder without data files (.json, .jsonl, .csv, .xlsx, .parquet); it is empty" in faults(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert "it holds notes.txt" in faults(tmp_path)


def test_faults_beyond_a_screenful_are_counted(tmp_path: Path) -> None:
    said = faults(write(tmp_path / "a.jsonl", [record_row(n, subject="音乐") for n in range(MAX_FAULTS + 70)]))
    assert f"{MAX_FAULTS + 70} error(s)" in said
    assert "and 70 more; fix these and run it again" in said
    assert len(said.splitlines()) == MAX_FAULTS + 2


def test_a_file_that_lies_in_the_projects_folder_says_where_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"(there is one in the project's folder; start from there: cd {ROOT})" in faults("gaokao_data/train.json")
    assert "project" not in faults("gaokao_data/none.json")


# --- Excel -----------------------------------------------------------------------------------------------------------


SHEET = "xl/worksheets/sheet1.xml"


def excel_cells(path: Path) -> list[dict[str, Any] | str]:
    """What the rows of a file become: their values, or what is wrong with them."""
    return [raw.problem or raw.value for raw in read_raw(path)]


def test_an_excel_file_with_chinese_columns_names_its_rows(tmp_path: Path) -> None:
    names = {"subject": "科目", "type": "题型", "question": "题干", "answer": "参考答案", "analysis": "解析"}
    rows = [{names.get(key, key): value for key, value in row.items()} for row in ROWS]
    path = write_excel(tmp_path / "a.xlsx", rows)
    assert load_records(path) == load_records(write_csv(tmp_path / "b.csv", ROWS))
    assert [raw.where for raw in read_raw(path)] == [f"{path}:2", f"{path}:3", f"{path}:4"]
    rows[2]["科目"] = "音乐"
    assert f'{path}:4 (id r2): subject (科目) is "音乐"' in faults(write_excel(path, rows))


def test_excel_cells_become_the_texts_that_are_shown(tmp_path: Path) -> None:
    import datetime

    values = [
        1,
        3.0,
        0.1 + 0.2,
        -2.5,
        True,
        0.07,
        datetime.datetime(2024, 6, 7),
        " 甲_x000D_\n乙 ",
        None,
        '["甲", "乙"]',
    ]
    names = [*"abcdefghi", "answer"]

    def change(sheet: Any) -> None:
        sheet["F2"].number_format = "0%"
        sheet["G2"].number_format = "yyyy-mm-dd"

    path = write_excel(tmp_path / "a.xlsx", [dict(zip(names, values, strict=True))], change)
    shown = ["1", "3", "0.3", "-2.5", "TRUE", "7%", "2024-06-07", " 甲\n乙 ", "", ["甲", "乙"]]
    assert excel_cells(path) == [dict(zip(names, shown, strict=True))]


@pytest.mark.parametrize(
    ("form", "value"), [("m/d", 46024), ('m"月"d"日"', 46024), ("h:mm", 0.0847), ("mmm-yy", 13271)]
)
def test_a_fraction_that_excel_took_for_a_date_is_named(tmp_path: Path, form: str, value: float) -> None:
    path = write_excel(tmp_path / "a.xlsx", [{"a": value}], lambda sheet: setattr(sheet["A2"], "number_format", form))
    assert excel_cells(path) == [
        "A2 holds a date or time, which Excel makes of 1/2, 3-5 or 2:1; format it as text and write it anew"
    ]


def test_a_fraction_that_excel_keeps_as_decimals_is_named(tmp_path: Path) -> None:
    path = write_excel(
        tmp_path / "a.xlsx", [{"a": 1 / 3}], lambda sheet: setattr(sheet["A2"], "number_format", "# ?/?")
    )
    assert excel_cells(path) == [
        "A2 holds a fraction, of which the file has only the decimals; format it as text and write it anew"
    ]


@pytest.mark.parametrize(("number", "said"), [(58, "A2 holds a date or time"), (31, "2026-01-02")])
def test_dates_of_a_chinese_excel_have_a_format_without_a_name(tmp_path: Path, number: int, said: str) -> None:
    path = write_excel(
        tmp_path / "a.xlsx", [{"a": 46024}], lambda sheet: setattr(sheet["A2"], "number_format", "0.00%")
    )
    rewrite(path, "xl/styles.xml", 'numFmtId="10"', f'numFmtId="{number}"')
    (found,) = excel_cells(path)
    assert found == {"a": said} if isinstance(found, dict) else found.startswith(said)


def rewrite(path: Path, part: str, pattern: str, new: str) -> None:
    """Change what a pattern finds in one part of an Excel file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts[part], times = re.subn(pattern, new, parts[part])
    assert times
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_empty_rows_and_columns_of_an_excel_file_are_passed_over(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        sheet.insert_rows(1, 2)
        sheet["A6"], sheet["B8"], sheet["A9"], sheet["F9"] = "r9", " ", None, "  "

    path = write_excel(tmp_path / "a.xlsx", [{"id": "r1", "b": "甲"}], change)
    # The size that a file gives of itself may be wrong.
    rewrite(path, SHEET, '<dimension ref="A3:F9"', '<dimension ref="A1:A1"')
    assert list(read_raw(path)) == [
        (f"{path}:4", {"id": "r1", "b": "甲"}, ""),
        (f"{path}:6", {"id": "r9", "b": ""}, ""),
    ]


def test_the_first_sheet_with_data_that_is_shown_is_read(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        book = sheet.parent
        book.create_sheet("empty", 0)
        book.create_sheet("hidden", 0).append(["hidden"])
        book["hidden"].sheet_state = "hidden"
        book.create_sheet("last").append(["last"])
        book.active = 1

    assert excel_cells(write_excel(tmp_path / "a.xlsx", [{"id": "r1"}], change)) == [{"id": "r1"}]
    openpyxl = pytest.importorskip("openpyxl")
    openpyxl.Workbook().save(tmp_path / "b.xlsx")
    assert "b.xlsx: the file is empty; the first row of a sheet holds the names" in faults(tmp_path / "b.xlsx")


def test_formulas_are_read_by_their_values_and_named_without_one(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        sheet["B2"], sheet["B3"] = "=1+2", "=1/0"

    path = write_excel(
        tmp_path / "a.xlsx", [{"id": "r1", "b": ""}, {"id": "r2", "b": ""}, {"id": "r3", "b": "甲"}], change
    )
    assert excel_cells(path) == [
        *(
            f"B{n} holds a formula without a value; save the file in Excel or WPS, or put the value in its place"
            for n in (2, 3)
        ),
        {"id": "r3", "b": "甲"},
    ]
    rewrite(path, SHEET, r"<f>1\+2</f><v ?/?>(</v>)?", "<f>1+2</f><v>3</v>")
    rewrite(path, SHEET, '<c r="B3"', '<c r="B3" t="e"')
    rewrite(path, SHEET, "<f>1/0</f><v ?/?>(</v>)?", "<f>1/0</f><v>#DIV/0!</v>")
    assert excel_cells(path)[:2] == [
        {"id": "r1", "b": "3"},
        "B3 holds the error #DIV/0!; save the file in Excel or WPS, or put the value in its place",
    ]


def test_a_formula_below_an_empty_row_is_named_in_its_own_and_one_in_the_header_ends_the_reading(
    tmp_path: Path,
) -> None:
    path = write_excel(tmp_path / "a.xlsx", [{"id": "r1"}], lambda sheet: sheet.__setitem__("A5", "=1"))
    assert [(raw.where, raw.problem[:8]) for raw in read_raw(path)] == [(f"{path}:2", ""), (f"{path}:5", "A5 holds")]
    write_excel(path, [{"id": "r1"}], lambda sheet: sheet.__setitem__("A1", "=1"))
    with pytest.raises(UserError, match="a.xlsx:1: A1 holds a formula without a value"):
        list(read_raw(path))


def test_a_formula_that_gives_an_empty_text_has_a_value(tmp_path: Path) -> None:
    path = write_excel(tmp_path / "a.xlsx", [{"id": "r1", "b": 7}])
    rewrite(path, SHEET, '<c r="B2" t="n"><v>7</v>', '<c r="B2" t="str"><f>T(1)</f><v></v>')
    assert excel_cells(path) == [{"id": "r1", "b": ""}]


def test_merged_cells_are_named(tmp_path: Path) -> None:
    path = write_excel(tmp_path / "a.xlsx", ROWS, lambda sheet: sheet.merge_cells("D2:D4"))
    assert f"{path}: has merged cells (D2:D4), of which only the first holds a value; unmerge them" in faults(path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["id", None, "b"], [1, 2, 3]], "a.xlsx:1: column 2 has no name"),
        ([["id", "b", "b"], [1, 2, 3]], "a.xlsx:1: has the column b twice"),
        ([["id", "b"], [1, 2, None, "多"]], 'a.xlsx:2: D2 holds "多", but its column has no name; name it or empty it'),
        ([["id", "=1"], [1, 2]], "a.xlsx:1: B1 holds a formula without a value"),
        ([["id", "b"]], "a.xlsx: holds no records"),
    ],
)
def test_an_excel_file_that_is_no_table_says_why(tmp_path: Path, rows: list[list[Any]], said: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert said in faults(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "is an .xls under another name; open it and save it as .xlsx",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le"),
            "has a password; open it and save it as .xlsx without a password, or as CSV UTF-8",
        ),
        ("科目,题型\n".encode(), "is not an .xlsx file; open it in Excel or WPS and save it as .xlsx"),
        (b"PK\x03\x04" + bytes(100), "is not an .xlsx file, or damaged or cut off (File is not a zip file)"),
    ],
)
def test_what_is_only_named_xlsx_is_told_by_its_first_bytes(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    assert said in faults(tmp_path / "a.xlsx")


def test_lists_to_choose_from_are_read_without_a_warning(tmp_path: Path) -> None:
    path = write_excel(tmp_path / "a.xlsx", [{"id": "r1"}])
    rewrite(
        path,
        SHEET,
        "</worksheet>",
        '<extLst><ext uri="{CCE6A557-97BC-4b89-ADB6-D9C93CAAB3DF}"/></extLst></worksheet>',
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert excel_cells(path) == [{"id": "r1"}]


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [record_row(n, 课本内容="细胞" * 2_500) for n in range(600)])
    assert path.stat().st_size > 9_000_000
    tracemalloc.start()
    try:
        assert sum(not raw.problem for raw in read_raw(path)) == 600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.skipif(os.environ.get("GAOKAO_BIG_FILE_TEST") != "1", reason="writes 200 MB; GAOKAO_BIG_FILE_TEST=1")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_of_200_mb_is_read_below_150_mb(tmp_path: Path, suffix: str) -> None:
    path, size = tmp_path / f"big{suffix}", 200_000_000
    rows = [record_row(n, 课本内容=f"{n}" + "细胞是生物体结构和功能的基本单位。" * 20) for n in range(1_000)]
    piece = write(tmp_path / f"piece{suffix}", rows)
    times = size // piece.stat().st_size + 1
    body = piece.read_bytes()
    header = body.index(b"\n") + 1 if suffix == ".csv" else 0
    with path.open("wb") as file:
        file.write(body)
        for _ in range(times):
            file.write(body[header:])
    assert path.stat().st_size >= size
    # Not getrusage, whose peak a process takes over from the one that started it: here pytest with all it has loaded.
    code = (
        "import re, sys\n"
        "from gaokao.sources import read_raw\n"
        "print(sum(not raw.problem for raw in read_raw(sys.argv[1])))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True
    )
    count, kilobytes = map(int, done.stdout.split())
    path.unlink()
    print(f"{suffix}: {count} entries, {kilobytes / 1024:.0f} MB")
    assert count >= 1_000
    assert kilobytes < 150 * 1024
