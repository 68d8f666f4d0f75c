"""Tables as they stand in files: CSV, TSV, JSON Lines and Parquet, every row with its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from edgedistill.errors import DataError

DELIMITERS = ",;\t|"
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Each split by the names that it goes under."""


@dataclass(frozen=True)
class Table:
    """A table whose columns are read when they are asked for."""

    place: str
    names: tuple[str, ...]
    count: int
    read: Callable[[str], list[Any]]
    """The cells of a column; None is an empty one."""
    lines: Sequence[int] = ()
    """Line of each row in the file; empty where rows have no lines."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the labels in columns that hold their indices."""

    def where(self, row: int) -> str:
        return f"{self.place}, " + (f"line {self.lines[row]}" if self.lines else f"row {row + 1}")

    def refuse(self, bad: Sequence[tuple[int, str]]) -> None:
        """Raise DataError, which names the first of the bad rows, if there are any."""
        if bad:
            row, fault = bad[0]
            raise DataError(f"{self.where(row)}: {fault}" + _others(len(bad) - 1))


def clip(text: str, length: int = 60) -> str:
    """A name from somebody's file, short enough for a sentence."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"


def read_table(path: Path) -> Table:
    """The table in a file.  Raises DataError, which names the file and the line."""
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: not a kind of file that holds a table ({', '.join(READERS)})")
    try:
        return READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_folder(folder: Path) -> dict[str, Table]:
    """The tables `train`, `validation` and `test` of a folder; all but the first may be missing."""
    tables = {}
    for split, names in SPLITS.items():
        stems = [folder / name for name in names]
        found = [
            p for stem in stems for s in READERS if (p := stem.with_name(stem.name + s)).exists()
        ]
        if len(found) > 1:
            raise DataError(
                f"{folder}: both {found[0].name} and {found[1].name}; keep one of the two"
            )
        if found:
            tables[split] = read_table(found[0])
        elif split == "train":
            raise DataError(
                f"{folder}: no table train{', train'.join(READERS)}, and not a folder that "
                "datasets' save_to_disk has written"
            )
    return tables


def read_texts(path: Path) -> Table:
    """Texts without labels: a table, or a `.txt` file with one a line."""
    if path.suffix.lower() != ".txt":
        return read_table(path)
    try:
        lines = _lines(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    rows = [(number, line) for number, line in lines if line.strip()]
    texts = [line for _, line in rows]
    return Table(str(path), ("text",), len(rows), lambda _: texts, [number for number, _ in rows])


def optional(module: str) -> ModuleType:
    """A package that only some data need.  Raises DataError if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"the package {module.split('.')[0]!r} is needed for these data; install it with: "
            "pip install 'edgedistill[datasets]'"
        ) from error


def reason(error: Exception) -> str:
    """The first line of another library's message."""
    return clip((str(error).strip() or type(error).__name__).splitlines()[0], 200)


def _read_separated(path: Path) -> Table:
    text = _text(path)
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
        rows, lines = (delimiter == "\t" and _unquoted(text)) or _records(path, text, delimiter)
    finally:
        csv.field_size_limit(limit)
    header = [name.strip() for name in rows.pop(0)] if rows else []
    del lines[:1]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise DataError(f"{path}: two columns are named {clip(twice)!r}")
    cells = dict(zip(header, map(list, zip(*rows, strict=True)), strict=False))
    names = tuple(name for name in header if name)
    table = Table(str(path), names, len(rows), lambda name: cells.get(name, []), lines)
    return table


def _records(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Records, each with the line it begins at."""
    rows: list[list[str]] = []
    lines: list[int] = []
    begin, wrong = 1, []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:  # else an empty line
                rows.append(row)
                lines.append(begin)
                if len(row) != len(rows[0]):
                    wrong.append((begin, len(row)))
            begin = reader.line_num + 1
    except csv.Error as error:
        what = (
            "a quoted field does not end" if "end of data" in str(error) else "quotes out of place"
        )
        raise DataError(
            f"{path}, line {begin}: {what}; a field with quotes stands in quotes, with its own "
            "doubled"
        ) from error
    if wrong:
        line, found = wrong[0]
        shown = "a tab" if delimiter == "\t" else repr(delimiter)
        raise DataError(
            f"{path}, line {line}: {found} field{'s' * (found != 1)}, and the first line names "
            f"{len(rows[0])}; a text that holds {shown} stands in quotes" + _others(len(wrong) - 1)
        )
    return rows, lines


def _unquoted(text: str) -> tuple[list[list[str]], list[int]] | None:
    """Rows and lines between tabs, if no field has a tab or a line's end; quotes are then text."""
    numbered = [(i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), 1)]
    rows = [(i, line.split("\t")) for i, line in numbered if line]
    if any(len(fields) != len(rows[0][1]) for _, fields in rows):
        return None
    return [list(map(_unwrap, fields)) for _, fields in rows], [i for i, _ in rows]


def _unwrap(field: str) -> str:
    """A field without its quotes, if it is quoted as a whole and in order."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        inside = field[1:-1]
        if '"' not in inside.replace('""', ""):
            return inside.replace('""', '"')
    return field


def _delimiter(text: str) -> str:
    """The delimiter under which most of the first records are as long as the header."""

    def fit(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(text[:1_000_000], newline=""), delimiter=delimiter)
        lengths = [len(row) for row in islice(reader, 50) if row]
        if not lengths or lengths[0] < 2:
            return 0, 0
        return lengths.count(lengths[0]), lengths[0]

    return max(DELIMITERS, key=fit)


def _read_json_lines(path: Path) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    wrong = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong.append((number, f"not JSON ({reason(error)})"))
            continue
        if isinstance(row, dict):
            rows.append(row)
            lines.append(number)
        else:
            wrong.append((number, 'not a JSON object; one a line, {"text": …, "label": …}'))
    if wrong:
        number, fault = wrong[0]
        raise DataError(f"{path}, line {number}: {fault}" + _others(len(wrong) - 1))
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(str(path), names, len(rows), lambda name: [row.get(name) for row in rows], lines)


def _read_parquet(path: Path) -> Table:
    parquet = optional("pyarrow.parquet")
    with path.open("rb") as stream:
        try:
            content = parquet.ParquetFile(stream).read()
        except MemoryError:
            raise
        except Exception as error:  # pyarrow raises half a dozen types
            raise DataError(f"{path}: not a readable Parquet file ({reason(error)})") from error

    @cache
    def read(name: str) -> list[Any]:
        column = content.column(name)
        try:
            cells: list[Any] = column.to_pylist()
        except UnicodeDecodeError:
            cells = []
            for row, cell in enumerate(column, 1):
                try:
                    cells.append(cell.as_py())
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, row {row}: {name!r} is not UTF-8") from error
        return cells

    names = tuple(dict.fromkeys(content.column_names))
    if len(names) < content.num_columns:
        twice = next(n for n in names if content.column_names.count(n) > 1)
        raise DataError(f"{path}: two columns are named {clip(twice)!r}")
    return Table(str(path), names, content.num_rows, read)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a NUL character; this is no text file in UTF-8")
    return text


def _lines(path: Path) -> list[tuple[int, str]]:
    return [(i, line.rstrip("\r")) for i, line in enumerate(_text(path).split("\n"), 1)]


def _others(count: int) -> str:
    return f" (and {count:,} more row{'s' * (count > 1)})" if count else ""


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
