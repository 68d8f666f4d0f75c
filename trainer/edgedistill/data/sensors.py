"""Readings of sensors: recordings of several channels, cut into windows."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import columns as finder
from edgedistill.data import folders
from edgedistill.data.folders import MAX_LABEL
from edgedistill.data.images import in_parallel
from edgedistill.data.sets import Columns, Decoding, Recordings
from edgedistill.data.splits import count_of
from edgedistill.data.tables import Table, clip
from edgedistill.errors import DataError
from edgedistill_runtime import windows
from edgedistill_runtime.manifest import Sample

if TYPE_CHECKING:
    from edgedistill.data.arrays import Arrays

DEFAULT_WINDOW = 128
TIMES = frozenset(("time", "times", "timestamp", "t", "date", "datetime", "index"))
"""Columns that say when, and are no channel."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Readings = NDArray[np.float32]


@dataclass(frozen=True)
class _File:
    """A recording as it stands in a file."""

    names: tuple[str, ...]
    """Of all columns, channels or not."""
    values: Readings
    """Of the channels, (channels, steps)."""


@dataclass(frozen=True)
class _Windows:
    x: Readings
    """(n, channels, window)"""
    y: NDArray[np.int64]
    recording: NDArray[np.int64]
    """Which recording each window is from, (n,)."""


def of_arrays(found: Arrays, decoding: Decoding) -> Recordings:
    """Windows as they are, (n, channels, steps) of any number type, or cut into shorter ones.

    Raises DataError, which names the file.
    """
    place, x = str(found.path), found.x
    if not x.size:
        raise DataError(f"{place}: x has the shape {list(x.shape)}; there are no readings in it")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        i, channel, step = bad[0]
        raise DataError(
            f"{place}: x[{i}, {channel}, {step}] is {found.x[tuple(bad[0])]}, which is no "
            f"finite number ({len(bad):,} in all); fill such gaps, or leave these samples out"
        )
    y, groups, steps = found.y, found.groups, x.shape[2]
    notes: list[str] = []
    if decoding.window in (None, steps):
        window, hop = steps, _hop(place, steps, decoding, steps)
    else:
        window, hop = _window(place, [steps], decoding)
        made = _joined([windows.cut(recording, window, hop) for recording in x], y)
        notes.append(_told(len(x), len(made.x), window))
        groups = made.recording if groups is None else groups[made.recording]
        x, y = made.x, made.y
    sample = _sample(x, hop, found.rate_hz)
    return Recordings(x, y, found.labels, groups, sample, notes=tuple(notes))


def read_table(table: Table, columns: Columns, decoding: Decoding) -> Recordings:
    """A table whose rows are steps, one after the other: a column a channel, one of labels, and
    perhaps one of groups.

    Rows that follow each other with the same label and group are one recording.  Its windows are
    whole; one that is shorter than a window is left out.  Raises DataError, which names the line.
    """
    finder.check(table, (columns.label, columns.group))
    if not table.count:
        raise DataError(f"{table.place}: no rows")
    label = columns.label or _label(table, columns.group)
    if label == columns.group:
        raise DataError(f"{table.place}: {clip(label)!r} is named for the labels and the groups")
    others = [name for name in table.names if name not in (label, columns.group)]
    names = [name for name in others if name.lower() not in TIMES]
    if not names:
        raise DataError(f"{table.place}: no column of readings beside {clip(label)!r}")
    values = np.stack([_numbers(table, name) for name in names])  # (channels, rows)
    labels, y = _categories(table, label)
    groups = _categories(table, columns.group)[1] if columns.group else None
    changes = y[1:] != y[:-1]
    if groups is not None:
        changes |= groups[1:] != groups[:-1]
    starts = np.array([0, *(np.flatnonzero(changes) + 1)])
    lengths = np.diff([*starts, table.count])
    window, hop = _window(
        table.place, lengths, decoding, " (rows that follow each other with one label and group)"
    )
    kept = np.flatnonzero(lengths >= window)
    _refuse_lost(table.place, labels, y[starts], lengths, kept, window)
    parts = [
        windows.cut(values[:, start : start + length], window, hop)[: (length - window) // hop + 1]
        for start, length in zip(starts[kept].tolist(), lengths[kept].tolist(), strict=True)
    ]  # windows that zeros would fill are none
    made = _joined(parts, y[starts[kept]])
    notes = [_no_channel(name) for name in others if name not in names]
    notes.append(_told(len(starts), len(made.x), window))
    short = len(starts) - len(kept)
    if short:
        notes.append(f"{count_of(short, 'recording')} shorter than a window, left out")
    return Recordings(
        made.x,
        made.y,
        labels,
        made.recording if groups is None else groups[starts[kept]][made.recording],
        _sample(made.x, hop),
        notes=tuple(notes),
    )


def read_folder(folder: Path, decoding: Decoding) -> Recordings:
    """CSV files in class folders, one a recording: a line of names, a column a channel.

    They are cut as on the board: what is shorter than a window is filled with zeros.  Raises
    DataError, which names the file and the line.
    """
    tree = folders.find(folder, "sensor")
    paths = [path for files in tree.splits.values() for path in files.paths]
    found = in_parallel(_read, paths)
    names = found[0].names
    for path, file in zip(paths, found, strict=True):
        if file.names != names:
            raise DataError(
                f"{path}: the columns are {_listed(file.names)}, and {paths[0]} has "
                f"{_listed(names)}; all recordings have the same columns"
            )
    lengths = [file.values.shape[1] for file in found]
    window, hop = _window(str(folder), lengths[: len(tree.splits["train"])], decoding)
    parts, start = {}, 0
    for name, files in tree.splits.items():
        cut = [windows.cut(file.values, window, hop) for file in found[start : start + len(files)]]
        parts[name] = _joined(cut, np.array(files.labels, np.int64))
        start += len(files)
    train = parts["train"]
    given = {name: (part.x, part.y) for name, part in parts.items()}
    notes = [_no_channel(name) for name in names if not _is_channel(name)]
    notes.append(_told(len(found), sum(len(part.x) for part in parts.values()), window))
    short = sum(length < window for length in lengths)
    if short:
        notes.append(f"{count_of(short, 'recording')} shorter than a window, filled with zeros")
    return Recordings(
        train.x,
        train.y,
        tree.labels,
        train.recording,
        _sample(train.x, hop),
        notes=(*notes, *tree.notes),
        test=given.get("test"),
        validation=given.get("validation"),
    )


# --- windows


def _window(
    place: str, lengths: Sequence[int] | NDArray[np.int64], decoding: Decoding, what: str = ""
) -> tuple[int, int]:
    """Steps of a window, and from one to the next.

    lengths: of the recordings; what: they are, for people
    """
    window, longest = decoding.window, int(max(lengths))
    if window is None:
        window = DEFAULT_WINDOW
    if not 1 <= window <= longest:
        raise DataError(
            f"{place}: a window has {window} steps and the longest recording{what} {longest}; give "
            "a smaller window"
        )
    return window, _hop(place, window, decoding, max(1, window // 2))


def _hop(place: str, window: int, decoding: Decoding, default: int) -> int:
    hop = default if decoding.hop is None else decoding.hop
    if not 1 <= hop <= window:
        raise DataError(
            f"{place}: hop is {hop} and window {window}; a hop is from 1 step to a window"
        )
    return hop


def _joined(parts: Sequence[Readings], y: NDArray[np.int64]) -> _Windows:
    """parts: the windows of each recording, (n, channels, window); y: its label"""
    recording = np.repeat(np.arange(len(parts)), list(map(len, parts)))
    return _Windows(np.concatenate(parts), y[recording], recording)


def _refuse_lost(
    place: str,
    labels: tuple[str, ...],
    y: NDArray[np.int64],
    lengths: NDArray[np.int64],
    kept: NDArray[np.int64],
    window: int,
) -> None:
    """Raise DataError for a class that has no recording as long as a window."""
    for index in np.setdiff1d(y, y[kept])[:1]:
        raise DataError(
            f"{place}: the class {clip(labels[index])!r} has no recording of {window} steps, its "
            f"longest has {lengths[y == index].max()}; give a smaller window"
        )


def _sample(x: Readings, hop: int, rate_hz: float | None = None) -> Sample:
    return Sample("sensor", "float32", x.shape[1:], rate_hz, None if hop == x.shape[2] else hop)


def _told(recordings: int, count: int, window: int) -> str:
    cut = count_of(count, "window")
    return f"{count_of(recordings, 'recording')}, {cut} of {window} steps"


def _is_channel(name: str) -> bool:
    return bool(name) and name.lower() not in TIMES


def _no_channel(name: str) -> str:
    named = repr(clip(name)) if name else "without a name"
    return f"the column {named} is no channel"


# --- tables


def _label(table: Table, group: str) -> str:
    named = [n for n in table.names if n.lower() in finder.LABEL_NAMES and n != group]
    if len(named) > 1:
        named = [n for n in named if n.lower() != "y"]  # an axis
    if len(named) != 1:
        found = " or ".join(repr(clip(name)) for name in named[:5]) or "no column"
        raise DataError(
            f"{table.place}: the labels may be in {found}; name the label column "
            f"(columns: {_listed(table.names)})"
        )
    return named[0]


def _numbers(table: Table, name: str) -> Readings:
    """The column's readings, (rows,)."""
    cells = table.read(name)
    try:
        values = _single(np.fromiter(map(float, cells), np.float64, len(cells)))
    except (TypeError, ValueError):
        values = _single(np.array([_number(cell) for cell in cells]))
    bad = np.flatnonzero(~np.isfinite(values)).tolist()
    table.refuse([(row, f"{clip(name)!r} is {_fault(cells[row])}") for row in bad])
    return values


def _categories(table: Table, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The distinct texts of a column in their order, whole numbers by value; and each row's."""
    cells = table.read(name)
    texts = {cell: "" if cell is None else str(cell).strip() for cell in dict.fromkeys(cells)}
    bad = {
        cell: f"{clip(name)!r} is {fault}" for cell, text in texts.items() if (fault := _no(text))
    }
    if bad:
        table.refuse([(row, bad[cell]) for row, cell in enumerate(cells) if cell in bad])
    names = sorted(set(texts.values()))
    if all(map(_INTEGER.fullmatch, names)):
        names.sort(key=int)
    index = {text: i for i, text in enumerate(names)}
    of = {cell: index[text] for cell, text in texts.items()}
    return tuple(names), np.fromiter(map(of.__getitem__, cells), np.int64, len(cells))


def _no(label: str) -> str:
    """Why a text cannot be a label; empty if it can."""
    if not label:
        return "empty"
    if len(label) > MAX_LABEL:
        return f"a text of {len(label):,} characters; at most {MAX_LABEL}"
    return f"{clip(label)!r}, with a control character" if _UNPRINTABLE.search(label) else ""


# --- files


def _read(path: Path) -> _File:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parsed(path, file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{path}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error


def _parsed(path: Path, file: TextIO) -> _File:
    reader = csv.reader(file)
    header = next((row for row in reader if row), None)
    if header is None:
        raise DataError(f"{path}: an empty file; a recording has a line of names and then numbers")
    names = tuple(name.strip() for name in header)
    channels = [i for i, name in enumerate(names) if _is_channel(name)]
    _check_names(path, names, channels)
    text = file.read()
    values = _fast(text, len(names), channels)
    if values is None:
        values = _careful(path, text, reader.line_num, len(names), channels)
    return _File(names, np.ascontiguousarray(values.T))


def _check_names(path: Path, names: tuple[str, ...], channels: Sequence[int]) -> None:
    if not channels:
        raise DataError(f"{path}: no column of readings (columns: {_listed(names)})")
    for delimiter in ";\t" if len(names) == 1 else "":
        if delimiter in names[0]:
            raise DataError(
                f"{path}: one column {clip(names[0])!r}; columns are separated by commas, not by "
                f"{delimiter!r}"
            )
    numbers = all(math.isfinite(_number(name)) for name in names)
    if numbers and names != tuple(map(str, range(len(names)))):  # which pandas writes
        raise DataError(
            f"{path}: the first line holds numbers ({_listed(names)}); it names the columns"
        )


def _fast(text: str, columns: int, channels: Sequence[int]) -> Readings | None:
    """(steps, channels); None if they are not numbers alone."""
    if not text.strip():
        return None
    others: dict[int | str, Callable[[str], float]] = {
        i: _nothing for i in range(columns) if i not in channels
    }
    try:
        found = np.loadtxt(
            io.StringIO(text),
            delimiter=",",
            ndmin=2,
            quotechar='"',
            comments=None,
            converters=others,  # not `usecols`, which takes lines of any length
        )
    except ValueError:
        return None
    if found.shape[1] != columns:
        return None
    values = _single(found[:, channels])
    return values if np.isfinite(values).all() else None


def _nothing(_: str) -> float:
    return 0.0


def _careful(path: Path, text: str, above: int, columns: int, channels: Sequence[int]) -> Readings:
    """(steps, channels), whatever the other columns hold.

    Raises DataError, which names the first bad line.  above: lines before the text
    """
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""))
    for row in filter(None, reader):
        lines.append(above + reader.line_num)
        if len(row) != columns:
            raise DataError(
                f"{path}, line {lines[-1]}: {count_of(len(row), 'value')}, and the first line "
                f"names {columns}"
            )
        rows.append([row[i] for i in channels])
    if not rows:
        raise DataError(f"{path}: no readings after the line of names")
    values = _single(np.array([[_number(cell) for cell in row] for row in rows]))
    for row, place in np.argwhere(~np.isfinite(values))[:1].tolist():
        raise DataError(f"{path}, line {lines[row]}: a reading is {_fault(rows[row][place])}")
    return values


def _number(cell: object) -> float:
    """NaN if it is none."""
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _single(values: NDArray[np.float64]) -> Readings:
    """In single precision, as the network has them; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _fault(cell: object) -> str:
    if cell is None or not str(cell).strip():
        return "empty; fill the gap, or leave the line out"
    return f"{clip(str(cell))!r}, and not a finite number; correct it, or leave the line out"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(clip(name) for name in names[:20])
