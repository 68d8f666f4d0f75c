"""Readings of sensors: recordings of several channels, cut into windows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import columns as finder
from edgedistill.data import folders
from edgedistill.data.images import in_parallel
from edgedistill.data.sets import Columns, Decoding, Recordings
from edgedistill.data.tables import Table, clip
from edgedistill.errors import DataError
from edgedistill_runtime import windows
from edgedistill_runtime.manifest import Sample

if TYPE_CHECKING:
    from edgedistill.data.arrays import Arrays

DEFAULT_WINDOW = 128
MAX_CHANNELS = 256
TIMES = frozenset(("time", "times", "timestamp", "t", "date", "datetime", "index"))
"""Columns that say when, and are no channel."""

Readings = NDArray[np.floating[Any]]


def of_arrays(found: Arrays, decoding: Decoding) -> Recordings:
    """Windows as they are, (n, channels, steps) of any number type, or cut into shorter ones."""
    place, x = str(found.path), found.x
    if not x.size:
        raise DataError(f"{place}: x has the shape {list(x.shape)}; there are no readings in it")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        sample, channel, step = bad[0]
        raise DataError(
            f"{place}: x[{sample}, {channel}, {step}] is {found.x[tuple(bad[0])]}, which is no "
            f"finite number ({len(bad):,} in all); fill such gaps, or leave these samples out"
        )
    y, groups, hop = found.y, found.groups, None
    steps = x.shape[2]
    if decoding.window is not None and decoding.window != steps:
        window, hop = _window(place, [steps], decoding)
        parts = [windows.cut(sample, window, hop) for sample in x]
        recording = np.repeat(np.arange(len(x)), [len(part) for part in parts])
        x, y = np.concatenate(parts), y[recording]
        groups = recording if groups is None else groups[recording]
    sample = Sample("sensor", "float32", x.shape[1:], found.rate_hz, hop)
    return Recordings(x, y, found.labels, groups, sample)


def read_table(table: Table, columns: Columns, decoding: Decoding) -> Recordings:
    """A table whose rows are steps, one after the other: a column a channel, one of labels, and
    perhaps one of groups.

    Rows that follow each other with the same label and group are one recording.  Raises DataError.
    """
    finder.check(table, (columns.label, columns.group))
    label = columns.label or _label(table, columns.group)
    others = [name for name in table.names if name not in (label, columns.group)]
    names = [name for name in others if name.lower() not in TIMES]
    if not names:
        raise DataError(f"{table.place}: no column of readings beside {label!r}")
    values: Readings = np.stack([_numbers(table, name) for name in names])  # (channels, rows)
    labels, y = _categories(table, label)
    groups = None
    if columns.group:
        _, groups = _categories(table, columns.group)
    changes = y[1:] != y[:-1]
    if groups is not None:
        changes |= groups[1:] != groups[:-1]
    starts = [0, *(np.flatnonzero(changes) + 1).tolist()]
    ends = [*starts[1:], table.count]
    recordings = [values[:, start:end] for start, end in zip(starts, ends, strict=True)]
    of = None if groups is None else groups[starts]
    left_out = [name for name in others if name not in names]
    notes = [f"the column {clip(name)!r} is no channel" for name in left_out]
    return _windows(table.place, recordings, y[starts], labels, of, decoding, notes)


def read_folder(folder: Path, decoding: Decoding) -> Recordings:
    """CSV files in class folders, one a recording: a line of names, a column a channel."""
    tree = folders.find(folder, "sensor")
    paths = [path for files in tree.splits.values() for path in files.paths]
    found = in_parallel(_read, paths)
    names = found[0][0]
    for path, (own, _) in zip(paths, found, strict=True):
        if own != names:
            raise DataError(
                f"{path}: the columns are {_listed(own)}, and {paths[0].name} has {_listed(names)};"
                " all recordings have the same columns"
            )
    channels = [i for i, name in enumerate(names) if name.lower() not in TIMES]
    if not channels:
        raise DataError(f"{paths[0]}: no column of readings (columns: {_listed(names)})")
    notes = [f"the column {clip(n)!r} is no channel" for n in names if n.lower() in TIMES]
    parts, start = {}, 0
    for name, files in tree.splits.items():
        recordings = [values[channels] for _, values in found[start : start + len(files)]]
        y = np.array(files.labels, np.int64)
        place = str(folder) if name == "train" else f"{folder}, {name}"
        parts[name] = _windows(place, recordings, y, tree.labels, None, decoding, [])
        start += len(files)
    train = parts["train"]
    given = {name: (part.x, part.y) for name, part in parts.items()}
    return Recordings(
        train.x,
        train.y,
        tree.labels,
        train.groups,
        train.sample,
        (),
        (*notes, *train.notes, *tree.notes),
        given.get("test"),
        given.get("validation"),
    )


def _windows(
    place: str,
    recordings: Sequence[Readings],
    y: NDArray[np.int64],
    labels: tuple[str, ...],
    groups: NDArray[np.int64] | None,
    decoding: Decoding,
    notes: list[str],
) -> Recordings:
    """Whole windows of every recording; one that is shorter than a window is left out."""
    lengths = [recording.shape[1] for recording in recordings]
    window, hop = _window(place, lengths, decoding)
    kept = [i for i, length in enumerate(lengths) if length >= window]
    for index, label in enumerate(labels):
        if not any(y[i] == index for i in kept):
            longest = max((n for n, of in zip(lengths, y, strict=True) if of == index), default=0)
            raise DataError(
                f"{place}: the class {clip(label)!r} has no recording of {window} steps, its "
                f"longest has {longest}; give a smaller window"
            )
    parts = []
    for i in kept:
        made = windows.cut(recordings[i], window, hop)
        parts.append(made[: (lengths[i] - window) // hop + 1])  # none that zeros have filled
    recording = np.repeat(kept, [len(part) for part in parts])
    short = len(recordings) - len(kept)
    told = f"{len(recordings):,} recordings, {len(recording):,} windows of {window} steps"
    notes = [*notes, told]
    if short:
        notes.append(f"{short:,} recordings are shorter than a window and left out")
    x = np.concatenate(parts).astype(np.float32)
    return Recordings(
        x,
        y[recording],
        labels,
        recording if groups is None else groups[recording],
        Sample("sensor", "float32", x.shape[1:], None, None if hop == window else hop),
        notes=tuple(notes),
    )


def _window(place: str, lengths: Sequence[int], decoding: Decoding) -> tuple[int, int]:
    """Steps of a window, and from one to the next."""
    window = DEFAULT_WINDOW if decoding.window is None else decoding.window
    if window > max(lengths):
        raise DataError(
            f"{place}: a window has {window} steps and the longest recording {max(lengths)}; give "
            "a smaller window"
        )
    hop = max(1, window // 2) if decoding.hop is None else decoding.hop
    if hop > window:
        raise DataError(f"{place}: hop is {hop} and window {window}; a hop is at most a window")
    return window, hop


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


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """The column's readings, (rows,)."""
    cells = table.read(name)
    try:
        values = np.array(cells, np.float64)  # None becomes a NaN
    except (TypeError, ValueError):
        values = np.array([_number(cell) for cell in cells])
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        table.refuse(
            [(int(i), f"{clip(name)!r} is {_told(cells[i])}, not a finite number") for i in bad[:9]]
        )
    return values


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def _told(cell: object) -> str:
    return "empty" if cell in (None, "") else repr(clip(str(cell)))


def _categories(table: Table, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    cells = table.read(name)
    empty = [(i, f"{clip(name)!r} is empty") for i, c in enumerate(cells) if c in (None, "")]
    table.refuse(empty[:9])
    names, indices = np.unique(np.array([str(cell) for cell in cells]), return_inverse=True)
    return tuple(map(str, names)), indices.astype(np.int64)


def _read(path: Path) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names of the columns, and (columns, steps)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
            values = _loaded(file.read())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    if not names:
        raise DataError(f"{path}: an empty file; a recording has a line of names and then numbers")
    if values is None or not np.isfinite(values).all() or values.shape[1] != len(names):
        _refuse(path, len(names))
        raise DataError(f"{path}: no readings after the line of names")
    return tuple(name.strip() for name in names), values.T


def _loaded(text: str) -> NDArray[np.float64] | None:
    """(steps, columns); None if there are none, or not numbers alone."""
    if not text.strip():
        return None
    try:
        return np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2, quotechar='"', comments=None)
    except ValueError:
        return None


def _refuse(path: Path, columns: int) -> None:
    """Raise DataError for the first line that is not as many finite numbers."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if row and len(row) != columns:
                raise DataError(f"{where}: {len(row)} values in {columns} columns")
            for cell in row:
                if not math.isfinite(_number(cell)):
                    raise DataError(f"{where}: {_told(cell)} is not a finite number")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(clip(name) for name in names[:20])
