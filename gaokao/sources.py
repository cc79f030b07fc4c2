"""Where raw entries come from: JSON, JSON Lines, CSV, Excel and Parquet files, folders of them, datasets on the hub.

Nothing is validated here beyond the file format: an entry is whatever stands there, with the place it stands at.
JSON Lines and CSV are read line by line, so memory stays bounded whatever the size of the file (13 MB for one of
200 MB); Parquet by row groups, as large as its writer made them; Excel row by row, but for the list of its texts. A JSON
list has to be read whole: a huge one belongs into JSON Lines.
"""

import codecs
import csv
import datetime
import decimal
import itertools
import json
import os
import re
import shlex
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.parsers import expat

from gaokao.errors import Errors, UserError, elsewhere, first_line, shown

Spec = str | Path | Sequence[str | Path]
"""One file, folder or `hub:owner/name[:split]`, or several of them."""

HUB = "hub:"
# What counts as data in a folder. A file that is named itself may be called anything; other suffixes are read as JSON.
DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".xlsx", ".parquet")
# What `datasets` and the hub write beside the data, in JSON as well.
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json")
REMEDIES = {
    **dict.fromkeys((".xls", ".xlsm", ".et", ".ods"), "is a spreadsheet; save it as CSV UTF-8 or as .xlsx"),
    **dict.fromkeys(
        (".gz", ".zip", ".7z", ".rar", ".bz2", ".xz", ".zst"), "is packed; unpack it and name what is inside"
    ),
    **dict.fromkeys(
        (".doc", ".docx", ".pdf"), "is a document; bring its questions into a table and save that as .xlsx or CSV"
    ),
    ".arrow": "is an Arrow file; write it as Parquet: datasets.load_from_disk(...).to_parquet(...)",
}
# Columns of a table (CSV, Excel) whose cells may hold a JSON list: several sub-questions, the turns of a chat.
LIST_COLUMNS = ("answer", "参考答案", "messages")
FORMATS = "a data file is a JSON list, JSON Lines with one record a line, CSV, Excel (.xlsx) or Parquet"

PARQUET_ROWS_AT_ONCE = 256

# What a file begins with that a program of Word, Excel or WPS wrote: before 2007 (or with a password), and since.
OLE2, ZIP = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PK\x03\x04"
# Formats of East Asian dates that an Excel file names by number only, so that openpyxl takes their cells for numbers.
DATES_BY_NUMBER = {*range(27, 37), *range(50, 59)}
DATES_WITH_YEAR = {27, 30, 31, 36, 50, 52, 57}
CALCULATE = "save the file in Excel or WPS, or put the value in its place"


class Raw(NamedTuple):
    """One entry before validation: where it stands (`file:line` or `file[index]`), and the object or what is wrong."""

    where: str
    value: Any = None
    problem: str = ""


@contextmanager
def collect_errors(spec: Spec, option: str = "") -> Iterator[Errors[str]]:
    """Errors that are added while a data set is read, raised together at the end, with that at which it breaks off.

    Args:
        spec: what is read.
        option: the option that names it, such as `data.train`, for the head of the message.

    Raises:
        UserError: at the end, for all of them.
    """
    errors, name = Errors[str](), f"{option} = " if option else ""
    try:
        yield errors
    except UserError as error:
        if not errors.count:
            raise UserError(f"{name}{error}") from None
        # The only file breaks off: what was wrong above the break is worth as much as the break.
        errors.add(str(error))
    if errors.count:
        raise UserError(errors.text(f"{name}{spec_text(spec)}: {errors.count:,} error(s) in the records:"))


class _UnreadableError(UserError):
    """A source, or its rest, cannot be read."""

    def __init__(self, where: object, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = str(where), problem


def spec_text(spec: Spec) -> str:
    """The sources in a few words, for the head of a message."""
    names = [str(spec)] if isinstance(spec, str | Path) else [str(part) for part in spec]
    return ", ".join(names if len(names) <= 3 else [*names[:2], f"and {len(names) - 2} more"])


def as_arguments(spec: Spec) -> str:
    """The sources as a shell command takes them."""
    return shlex.join([str(spec)] if isinstance(spec, str | Path) else map(str, spec))


def read_raw(spec: Spec) -> Iterator[Raw]:
    """Yield the entries of one source or several, in the order given; the files of a folder by name.

    A source that cannot be read to its end is an entry with a problem where it is one of several, so that the others are
    checked as well.

    Raises:
        UserError: it is the only source: missing, unreadable, cut off, not UTF-8, or not of its format at all.
    """
    sources = _expand([spec] if isinstance(spec, str | Path) else spec)
    seen: set[str] = set()
    for source in sources:
        try:
            place = os.path.realpath(source) if isinstance(source, Path) else source
            if place in seen:
                raise _UnreadableError(
                    source, "is named twice, or lies in a folder that is named as well; name it once"
                )
            seen.add(place)
            yield from _read_source(source)
        except _UnreadableError as error:
            if len(sources) == 1:
                raise UserError(str(error)) from None
            yield Raw(error.where, problem=error.problem)


def _expand(parts: Iterable[str | Path]) -> list[str | Path]:
    """Folders replaced by their data files; one without any stays, for `_read_source` to complain about."""
    sources: list[str | Path] = []
    for part in parts:
        if isinstance(part, str) and part.startswith(HUB):
            sources.append(part)
        else:
            sources += _data_files(Path(part)) or [Path(part)]
    return sources


def _data_files(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    # ~$ begins the name of what Excel leaves beside a file as long as it is open.
    files = [folder / name for name in names if not name.startswith((".", "~$")) and name not in NOT_DATA]
    return [file for file in files if file.suffix.lower() in DATA_SUFFIXES and file.is_file()]


def _read_source(source: str | Path) -> Iterator[Raw]:
    if isinstance(source, str):
        yield from _read_hub(source)
        return
    suffix = source.suffix.lower()
    try:
        if os.path.isdir(source):
            raise _UnreadableError(
                source, f"is a folder without data files ({', '.join(DATA_SUFFIXES)}); {_listing(source)}"
            )
        if suffix in REMEDIES and source.exists():
            raise _UnreadableError(source, REMEDIES[suffix])
        yield from _READERS.get(suffix, _read_json)(source)
    except FileNotFoundError:
        raise _UnreadableError(
            source,
            f"there is no such data file; check the name (a dataset on the hub is written {HUB}owner/name)"
            f"{elsewhere(source)}",
        ) from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}); check the file and its permissions"
        raise _UnreadableError(source, problem) from None


def _listing(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    return f"it holds {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "it is empty"


def _text_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from decode_lines(file, path)


def decode_lines(lines: Iterable[bytes], source: Path | str) -> Iterator[str]:
    """The lines of a UTF-8 text with their ends, without a BOM. Decoded one by one, so that a bad byte has a line.

    Args:
        lines: as a file opened in binary mode gives them.
        source: the file, or the name of what is none, for messages.

    Raises:
        UserError: not UTF-8; the message names the line, the encoding where it is known, and how to convert it.
    """
    ascii_so_far = True
    for number, line in enumerate(lines, 1):
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise _UnreadableError(source, f"is UTF-16 text; {_conversion(source, 'UTF-16')}")
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.end == len(line):
                problem = "ends in the middle of a character: the file is cut off; copy or download it again"
            elif ascii_so_far and _is_chinese_in_gb18030(line):
                problem = f"is not UTF-8 but looks like GB18030/GBK; {_conversion(source, 'GB18030')}"
            else:
                problem = f"is not UTF-8 (byte {error.start + 1} of the line); fix the line, or save the file as UTF-8"
            raise _UnreadableError(f"{source}:{number}", problem) from None
        ascii_so_far = ascii_so_far and text.isascii()
        yield text


def _conversion(source: Path | str, encoding: str) -> str:
    command = f"iconv -f {encoding} -t UTF-8"
    if isinstance(source, str):
        return f"send it through {command}"
    name = shlex.quote(source.name)
    return f"convert it: {command} {name} > utf8-{name} (or save it as UTF-8 in an editor)"


def _is_chinese_in_gb18030(line: bytes) -> bool:
    # Damaged UTF-8 often decodes as well, but into rare characters; running text stays within GB2312's 7,000.
    try:
        letters = [letter for letter in line.decode("gb18030") if not letter.isascii()]
    except UnicodeDecodeError:
        return False
    return len("".join(letters).encode("gb2312", "ignore")) >= 2 * 0.8 * len(letters)


def _read_json(path: Path) -> Iterator[Raw]:
    lines = enumerate(_text_lines(path), 1)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        raise _UnreadableError(path, f"the file is empty; {FORMATS}")
    if first[1].lstrip().startswith("["):
        yield from _read_list(path, first[0], first[1] + "".join(line for _, line in lines))
    else:
        yield from _read_lines(path, itertools.chain([first], lines))


def _read_list(path: Path, line: int, text: str) -> Iterator[Raw]:
    rows, problem, offset = _parse_json(text)
    if problem:
        raise _UnreadableError(f"{path}:{line + offset}", f"{problem}; fix it, or copy or download the file again")
    escaped = "\\u" in text
    for index, row in enumerate(rows):
        yield Raw(f"{path}[{index}]", row, _half_character(row) if escaped else "")


def _read_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Raw]:
    good = False
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}:{number}"
        value, problem, _ = _parse_json(line)
        if problem and not good:
            raise _UnreadableError(where, f"{problem}; {FORMATS}")
        if problem:
            # Only the last line can lack its end.
            cut = "" if line.endswith("\n") else ": the file may be cut off here"
            yield Raw(where, problem=f"{problem}{cut}; fix or remove the line")
            continue
        good = True
        yield Raw(where, value, _half_character(value) if "\\u" in line else "")


def _parse_json(text: str) -> tuple[Any, str, int]:
    """The value, what is wrong with the text, and how many lines down."""
    try:
        return json.loads(text), "", 0
    except json.JSONDecodeError as error:
        cut = ": it ends too early" if error.pos >= len(text.rstrip()) else ""
        return None, f"is not JSON ({error.msg}, column {error.colno}{cut})", error.lineno - 1
    except RecursionError:
        return None, "is not JSON of records (brackets nested a thousand deep)", 0
    except ValueError as error:
        # A number of thousands of digits.
        return None, f"is not JSON ({error})", 0


def _half_character(value: Any) -> str:
    """The problem where an escape stands for half of a character; such a text cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start]
        return f"holds half of a character (\\u{ord(half):04x} without its other half); rewrite that text"
    return ""


def _read_csv(path: Path) -> Iterator[Raw]:
    rows = csv.reader(_text_lines(path), strict=True)
    start = 1
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(f"{path}:1", header)
        start = rows.line_num + 1
        for row in rows:
            where, start = f"{path}:{start}", rows.line_num + 1
            # Spreadsheets leave rows of empty cells at the end.
            if not any(row):
                continue
            if len(row) != len(header):
                yield Raw(
                    where,
                    problem=f"has {len(row)} cells, the header {len(header)}; put texts that hold commas, quotation marks or "
                    'line ends in "…", and double the quotation marks in them',
                )
                continue
            yield _row(where, header, row)
    except csv.Error as error:
        raise _UnreadableError(
            f"{path}:{start}",
            f"is not CSV from here on ({error}); is a quotation mark not closed or not doubled, or the file cut off?",
        ) from None


def _check_header(where: str, header: list[str]) -> None:
    if not any(header):
        raise _UnreadableError(
            where.rpartition(":")[0], "the file is empty; the first line of a CSV file holds the names of the columns"
        )
    if len(header) == 1 and (found := re.search(r"[;\t]", header[0])):
        raise _UnreadableError(where, f"its cells are separated by {found.group()!r}; save it with commas")
    if "" in header:
        raise _UnreadableError(
            where,
            f"column {header.index('') + 1} has no name; name it or remove it (pandas: to_csv(..., index=False))",
        )
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise _UnreadableError(where, f"has the column {', '.join(twice)} twice; keep one")


def _row(where: str, header: Sequence[str], row: Sequence[str]) -> Raw:
    """The entry of a row of texts."""
    cells = {name: _cell(name, cell) for name, cell in zip(header, row, strict=True)}
    return Raw(where, cells, _half_character(cells) if any("\\u" in cell for cell in row) else "")


def _cell(name: str, cell: str) -> Any:
    if name in LIST_COLUMNS and cell.lstrip().startswith("["):
        value, problem, _ = _parse_json(cell)
        # An interval such as [1, 2] is an answer, not a list of answers.
        if not problem and value and isinstance(value, list) and all(isinstance(part, str | dict) for part in value):
            return value
    return cell


def _read_excel(path: Path) -> Iterator[Raw]:
    with path.open("rb") as file:
        start = file.read(len(OLE2))
        if start == OLE2:
            file.seek(0)
            secret = "EncryptedPackage".encode("utf-16-le") in file.read()
            what = "has a password" if secret else "is an .xls under another name"
            raise _UnreadableError(path, f"{what}; open it and save it as .xlsx without a password, or as CSV UTF-8")
        if not start.startswith(ZIP):
            raise _UnreadableError(path, "is not an .xlsx file; open it in Excel or WPS and save it as .xlsx")
        try:
            import openpyxl
        except ImportError:
            raise _UnreadableError(
                path, "reading .xlsx needs openpyxl: pip install openpyxl (or save it as CSV UTF-8)"
            ) from None
        try:
            # It warns of what it does not keep, such as lists to choose from; nothing of that is data.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            yield from _excel_rows(path, book)
        except _UnreadableError:
            raise
        except Exception as error:  # noqa: BLE001 - what a damaged file does to zip, XML and openpyxl has no common type
            raise _UnreadableError(
                path,
                f"is not an .xlsx file, or damaged or cut off ({first_line(error)}); open it in Excel or WPS and save it "
                "again, or copy it again",
            ) from None


def _excel_rows(path: Path, book: Any) -> Iterator[Raw]:
    """The rows below the header of the first sheet that shows anything."""
    sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
    for sheet in sheets:
        # What a file says of its own size is often wrong, and rows would be cut there.
        sheet.reset_dimensions()
        merged, unfilled = _merged_and_unfilled(sheet)
        header: list[str] = []
        for number, cells in enumerate(_quietly(sheet.iter_rows()), 1):
            where = f"{path}:{number}"
            problems = [f"{cell} holds a formula without a value; {CALCULATE}" for cell in unfilled.get(number, ())]
            row: list[str] = []
            for cell in cells:
                text, problem = _excel_text(cell)
                row.append(text)
                problems += [f"{cell.coordinate} {problem}"] if problem else []
            while row and not row[-1].strip():
                row.pop()
            if problems and not header:
                raise _UnreadableError(where, "; ".join(problems))
            if problems:
                yield Raw(where, problem="; ".join(problems))
            elif not row:
                continue
            elif not header:
                if merged:
                    raise _UnreadableError(
                        path,
                        f"has merged cells ({', '.join(merged[:3])}{' …' if len(merged) > 3 else ''}), of which only the "
                        "first holds a value; unmerge them and fill each one (a title above the table has to go)",
                    )
                header = [name.strip() for name in row]
                _check_header(where, header)
            elif len(row) > len(header):
                at = next(at for at in range(len(header), len(row)) if row[at].strip())
                problem = (
                    f"{cells[at].coordinate} holds {shown(row[at])}, but its column has no name; name it or empty it"
                )
                yield Raw(where, problem=problem)
            else:
                yield _row(where, header, row + [""] * (len(header) - len(row)))
        if header:
            return
    raise _UnreadableError(path, "the file is empty; the first row of a sheet holds the names of the columns")


def _quietly(rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = next(rows, None)
        if row is None:
            return
        yield row


def _merged_and_unfilled(sheet: Any) -> tuple[list[str], dict[int, list[str]]]:
    """The merged ranges of a sheet, and by row its cells with a formula that nothing has calculated yet.

    openpyxl gives neither where it reads row by row.
    """
    merged: list[str] = []
    unfilled: dict[int, list[str]] = defaultdict(list)
    row = 0
    cell: dict[str, str] = {}
    inside = ""

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal row, cell, inside
        inside = name.rpartition(" ")[2]
        if inside == "row":
            row = int(attributes.get("r", row + 1))
        elif inside == "c":
            cell = {"r": "a cell", **attributes}
        elif inside in ("f", "v"):
            cell[inside] = ""
        elif inside == "mergeCell":
            merged.append(attributes["ref"])

    def text(data: str) -> None:
        if inside == "v":
            cell["v"] += data

    def end(name: str) -> None:
        nonlocal inside
        inside = ""
        # A formula may well give an empty text.
        if (
            name.rpartition(" ")[2] == "c"
            and "f" in cell
            and not cell.get("v")
            and not (cell.get("t") == "str" and "v" in cell)
        ):
            unfilled[row].append(cell["r"])

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.CharacterDataHandler, parser.EndElementHandler = start, text, end
    source: IO[bytes]
    with sheet._get_source() as source:
        parser.ParseFile(source)
    return merged, unfilled


def _excel_text(cell: Any) -> tuple[str, str]:
    """What a cell shows, as far as it can be told, and what is wrong with it."""
    value = cell.value
    if value is None:
        return "", ""
    if cell.data_type == "e":
        return str(value), f"holds the error {value}; {CALCULATE}"
    if isinstance(value, str):
        # How a carriage return is written in these files.
        return value.replace("_x000D_", ""), ""
    if isinstance(value, bool):
        return str(value).upper(), ""
    number, form = cell.style_array.numFmtId, cell.number_format
    if number in DATES_BY_NUMBER or not isinstance(value, int | float):
        # 5/36 becomes a month of 1936, which is shown without a day.
        whole = {"y", "d"} <= set(form.lower())
        if number not in DATES_WITH_YEAR and (number in DATES_BY_NUMBER or not whole):
            return "", "holds a date or time, which Excel makes of 1/2, 3-5 or 2:1; format it as text and write it anew"
        return _date_text(value), ""
    if "?/" in form:
        return "", "holds a fraction, of which the file has only the decimals; format it as text and write it anew"
    return (f"{value * 100:.15g}%" if "%" in form else f"{value:.15g}"), ""


def _date_text(value: Any) -> str:
    if isinstance(value, int | float):
        from openpyxl.utils.datetime import from_excel

        value = from_excel(value)
    return str(value).removesuffix(" 00:00:00")


def _read_parquet(path: Path) -> Iterator[Raw]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise _UnreadableError(path, "reading Parquet needs pyarrow: pip install pyarrow") from None
    index = 0
    try:
        with path.open("rb") as opened, parquet.ParquetFile(opened, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield _plain(f"{path}[{index}]", row)
                    index += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise _UnreadableError(
            f"{path}[{index}]" if index else path,
            f"is not Parquet, or damaged or cut off ({first_line(error)}); copy or download it again",
        ) from None


def _read_hub(spec: str) -> Iterator[Raw]:
    name, _, split = spec.removeprefix(HUB).partition(":")
    split = split or "train"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise _UnreadableError(spec, f"is not a dataset on the hub; write {HUB}owner/name or {HUB}owner/name:split")
    # Read when the library is imported, which is before the scripts quiet it. Nothing is sent anywhere.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError:
        raise _UnreadableError(spec, "reading from the hub needs datasets: pip install datasets") from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # noqa: BLE001 - network, rights, names: four libraries raise errors of their own here
        raise _UnreadableError(
            spec,
            f"cannot be loaded ({type(error).__name__}: {first_line(error)}); check the name and the split; where the hub "
            "is not reached, set HF_ENDPOINT to a mirror (HF_ENDPOINT=https://hf-mirror.com), or download its files on "
            "another machine and name their folder instead; a private one needs: hf auth login",
        ) from None
    for index, row in enumerate(rows):
        yield _plain(f"{HUB}{name}:{split}[{index}]", row)


def _plain(where: str, row: Any) -> Raw:
    """A row in the types of JSON, as if it had been read from it."""
    try:
        return Raw(where, json.loads(json.dumps(row, default=_as_text)))
    except TypeError as error:
        return Raw(where, problem=f"holds {error}; drop that column")


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"a value of the type {type(value).__name__}, neither text nor number")


_READERS: dict[str, Callable[[Path], Iterator[Raw]]] = {
    ".csv": _read_csv,
    ".xlsx": _read_excel,
    ".parquet": _read_parquet,
}
