"""Tables become labelled texts: columns found, rows checked, duplicates left out, splits made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import splits
from edgedistill.data.columns import SAMPLE_ROWS, check, find, find_text
from edgedistill.data.sets import Columns, Dataset, Split
from edgedistill.data.splits import Index
from edgedistill.data.tables import Table, clip, read_texts
from edgedistill.errors import DataError
from edgedistill_runtime.manifest import Sample

MAX_LABEL = 256
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")

Label = str | tuple[str, ...]
"""A row's label; or its labels, in order and without repetition."""


@dataclass(frozen=True)
class Rows:
    """The checked rows of a table."""

    table: Table
    texts: list[str]
    keys: list[str]
    """The texts as they are compared: without case, and with single spaces."""
    labels: list[Label]
    groups: list[str]
    """Empty where there are none."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | Index) -> Rows:
        texts, keys, labels = ([a[i] for i in rows] for a in (self.texts, self.keys, self.labels))
        groups = [self.groups[i] for i in rows] if self.groups else []
        return Rows(self.table, texts, keys, labels, groups)  # type: ignore[arg-type]


class _Fault(ValueError):
    """What is wrong with a row."""


def dataset(name: str, tables: dict[str, Table], columns: Columns) -> Dataset:
    """Labelled texts in three splits, of which validation and test are made where not given."""
    train = tables["train"]
    for table in tables.values():
        if not table.count:
            raise DataError(f"{table.place}: no rows")
    text, label = find(train, columns)
    notes = _found(columns, text, label)
    several = bool(columns.label_separator) or _has_lists(train, label)
    rows = {}
    for split, table in tables.items():
        check(table, (text, label, columns.group))
        if split != "train" and _unlabelled(table, label):
            notes.append(f"the {split} split has no labels and is not used")
        else:
            rows[split] = _read(table, text, label, columns, several)
    labels = _names(rows, train.classes.get(label))
    if columns.label_separator and not _several(rows):
        raise DataError(
            f"{train.place}: {columns.label_separator!r} separates no labels in {label!r}; leave "
            "out the separator where every row has one label"
        )
    notes += _leave_out(rows)
    notes += _make(rows, labels, several)
    extra = None
    if columns.unlabelled:
        extra, note = _read_unlabelled(columns, text, rows.values(), len(labels) if several else 0)
        notes.append(note)
    parts = {}
    for split, part in rows.items():
        part = part.take(splits.shuffled(len(part)))
        parts[split] = Split(_texts(part.texts), _targets(part.labels, labels, several))
    return Dataset(
        name,
        Sample("text", "text", ()),
        labels,
        parts["train"],
        parts["validation"],
        parts["test"],
        extra,
        notes=tuple(notes),
    )


def _found(columns: Columns, text: str, label: str) -> list[str]:
    if columns.text and columns.label:
        return []
    return [f"texts in the column {clip(text)!r}, labels in {clip(label)!r}"]


# Rows


def _read(table: Table, text: str, label: str, columns: Columns, several: bool) -> Rows:
    """All rows.  Raises DataError, which names the first bad one."""
    bad: list[tuple[int, str]] = []
    labels: list[Label] = []
    names = table.classes.get(label)
    separator = columns.label_separator
    texts = table.read(text)
    groups = table.read(columns.group) if columns.group else []
    for row, (content, cell) in enumerate(zip(texts, table.read(label), strict=True)):
        try:
            _check_text(content)
            labels.append(_labels(cell, separator, names) if several else _label(cell, names))
            if groups and (groups[row] is None or groups[row] == ""):
                raise _Fault(f"no group in {clip(columns.group)!r}")
        except _Fault as fault:
            bad.append((row, str(fault)))
    table.refuse(bad)
    keys = list(map(_key, texts))
    return Rows(table, texts, keys, labels, list(map(str, groups)))


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _check_text(text: Any) -> None:
    if text is None:
        raise _Fault("no text")
    if not isinstance(text, str):
        raise _Fault(f"the text is {_kind(text)}, not a string")
    if not text or text.isspace():
        raise _Fault("the text is empty")
    if "\0" in text:
        raise _Fault("a NUL character in the text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Fault("half of a surrogate pair in the text") from None


def _label(cell: Any, names: tuple[str, ...] | None) -> str:
    if cell is None or cell == "":
        raise _Fault("no label")
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, int):
        if names is None:
            return str(cell)
        if not 0 <= cell < len(names):
            raise _Fault("no label" if cell == -1 else f"the label {cell} has no name")
        return names[cell]
    if not isinstance(cell, str):
        raise _Fault(f"the label is {_kind(cell)}; labels are integers or texts")
    label = cell.strip()
    if not label:
        raise _Fault("no label")
    if len(label) > MAX_LABEL:
        raise _Fault(f"a label of {len(label):,} characters; at most {MAX_LABEL}")
    if _UNPRINTABLE.search(label):
        raise _Fault(f"the label {clip(label)!r} has a control character")
    return label


def _labels(cell: Any, separator: str, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Of a list, or of a text with separators.  An empty one is a row without labels."""
    if separator and isinstance(cell, str | None):
        parts = [part for part in (cell or "").split(separator) if part.strip()]
    elif isinstance(cell, list | tuple):
        parts = list(cell)
    elif separator:
        parts = [cell]
    else:
        raise _Fault("no label" if cell is None else "not a list of labels, as other rows have")
    return tuple(sorted({_label(part, names) for part in parts}))


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a fraction", list: "a list"}
    return kinds.get(type(value), f"of type {type(value).__name__}")


def _has_lists(table: Table, label: str) -> bool:
    cells = [cell for cell in table.read(label)[:SAMPLE_ROWS] if cell is not None]
    return 2 * sum(isinstance(cell, list | tuple) for cell in cells) > len(cells)


def _unlabelled(table: Table, label: str) -> bool:
    """Whether no row has a label: hubs give out contests' test splits so."""
    nothing = (None, "", -1) if label in table.classes else (None, "")
    return all(cell in nothing for cell in table.read(label))


# Labels


def _names(rows: dict[str, Rows], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The labels in their order: as the features name them, else sorted, integers by value."""
    used = {
        split: {name for label in part.labels for name in _tuple(label)}
        for split, part in rows.items()
    }
    for split in ("validation", "test"):
        strange = used.get(split, set()) - used["train"]
        if strange:
            part = rows[split]
            row = next(i for i, label in enumerate(part.labels) if strange & set(_tuple(label)))
            name = min(strange & set(_tuple(part.labels[row])))
            raise DataError(
                f"{part.table.where(row)}: the label {name!r} does not occur in "
                f"{rows['train'].table.place}"
            )
    if given is not None:
        return given
    if all(map(_INTEGER.fullmatch, used["train"])):
        return tuple(sorted(used["train"], key=lambda name: (int(name), name)))
    return tuple(sorted(used["train"]))


def _several(rows: dict[str, Rows]) -> bool:
    return any(len(label) != 1 for part in rows.values() for label in part.labels)


def _tuple(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label


def _targets(labels: Sequence[Label], names: tuple[str, ...], several: bool) -> NDArray[np.int64]:
    index = {name: i for i, name in enumerate(names)}
    if not several:
        return np.array([index[label] for label in labels], np.int64)  # type: ignore[index]
    targets = np.zeros((len(labels), len(names)), np.int64)
    for row, label in enumerate(labels):
        targets[row, [index[name] for name in label]] = 1
    return targets


def _texts(texts: Sequence[str]) -> NDArray[Any]:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


# Splits


def _leave_out(rows: dict[str, Rows]) -> list[str]:
    """No text and no group in two splits.  Given test samples stay, then validation samples."""
    notes = []
    if len(rows) < 3:  # a split is made from the training rows: one copy of each of its texts
        kept, duplicates, conflicting = _distinct(rows["train"])
        rows["train"] = rows["train"].take(kept)
        if duplicates or conflicting:
            parts = [_count(duplicates, "duplicate text")] if duplicates else []
            parts += [f"{conflicting:,} with conflicting labels"] if conflicting else []
            notes.append(f"{' and '.join(parts)} left out")
    for split, stays in (("validation", "test"), ("train", "test"), ("train", "validation")):
        if split not in rows or stays not in rows:
            continue
        part, other = rows[split], rows[stays]
        texts, groups = set(other.keys), set(other.groups)
        kept = [i for i, key in enumerate(part.keys) if key not in texts]
        if len(kept) < len(part):
            left = _count(len(part) - len(kept), f"{split} text")
            notes.append(f"{left} left out, standing in the {stays} split too")
            part = part.take(kept)
        if part.groups:
            kept = [i for i, group in enumerate(part.groups) if group not in groups]
            if len(kept) < len(part):
                left = _count(len(part) - len(kept), f"{split} text")
                notes.append(f"{left} left out, of groups in the {stays} split")
                part = part.take(kept)
        if not len(part):
            raise DataError(
                f"{part.table.place}: nothing is left; every row stands in the {stays} split too"
            )
        rows[split] = part
    return notes


def _distinct(rows: Rows) -> tuple[list[int], int, int]:
    """Rows to keep, with the number of further copies and of rows whose copies disagree."""
    first: dict[str, int] = {}
    conflicting = set()
    for row, key in enumerate(rows.keys):
        if rows.labels[first.setdefault(key, row)] != rows.labels[row]:
            conflicting.add(key)
    kept = [row for key, row in first.items() if key not in conflicting]
    dropped = sum(key in conflicting for key in rows.keys)
    return kept, len(rows) - len(kept) - dropped, dropped


def _make(rows: dict[str, Rows], labels: tuple[str, ...], several: bool) -> list[str]:
    """Hold out what is not given from the training rows, once there are enough of each class."""
    shares = {"test": splits.TEST_SHARE, "validation": splits.VALIDATION_SHARE}
    missing = {split: share for split, share in shares.items() if split not in rows}
    place, train = rows["train"].table.place, rows["train"]
    least = splits.MIN_PER_CLASS if missing else 1
    y = _targets(train.labels, labels, several)
    counts = y.sum(0) if several else np.bincount(y, minlength=len(labels))
    splits.check_classes(place, counts, labels, len(train), least)
    if train.groups and len(set(train.groups)) <= len(missing):
        raise DataError(
            f"{place}: {_count(len(set(train.groups)), 'group')}; at least {len(missing) + 1} are "
            "needed, since none may be in two splits"
        )
    for split, share in missing.items():
        train = rows["train"]
        y = _targets(train.labels, labels, several)
        if train.groups:
            number = {group: i for i, group in enumerate(dict.fromkeys(train.groups))}
            groups = np.array([number[group] for group in train.groups])
            stay, held = splits.hold_out_groups(y, groups, share)
        else:
            stay, held = splits.hold_out(y, share)
        rows["train"], rows[split] = train.take(stay), train.take(held)
    notes = []
    if missing:
        made = " and ".join(f"{split} ({len(rows[split]):,})" for split in missing)
        whole = len(rows["train"]) + sum(len(rows[split]) for split in missing)
        notes.append(f"{made} held out of {_count(whole, 'text')}")
    for split, part in rows.items():
        there = {name for label in part.labels for name in _tuple(label)}
        lost = next((name for name in labels if name not in there), None)
        if lost is not None and split == "train":
            raise DataError(f"{place}: the class {lost!r} has no sample left to train with")
        if lost is not None:
            notes.append(f"the {split} split has no {lost!r}")
    return notes


def _read_unlabelled(columns: Columns, text: str, parts: Any, classes: int) -> tuple[Split, str]:
    """More texts, without those of the splits; `classes` is 0 where every sample has one label."""
    table = read_texts(Path(columns.unlabelled))
    column = text if text in table.names else find_text(table, table.names)
    bad = []
    texts = table.read(column)
    for row, content in enumerate(texts):
        try:
            _check_text(content)
        except _Fault as fault:
            bad.append((row, str(fault)))
    table.refuse(bad)
    seen = {key for part in parts for key in part.keys}
    new = {key: t for t in reversed(texts) if (key := _key(t)) not in seen}
    if not new:
        raise DataError(f"{table.place}: no text that is not in the labelled data already")
    kept = _texts(list(new.values()))[splits.shuffled(len(new))]
    y = np.full((len(kept), classes) if classes else len(kept), -1, np.int64)
    note = f"{_count(len(kept), 'unlabelled text')}, {_count(len(texts) - len(kept), 'duplicate')}"
    return Split(kept, y), f"{note} left out"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
