"""Which column of a table holds the texts, and which the labels."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.data.sets import Columns
from edgedistill.data.tables import Table, clip
from edgedistill.errors import DataError, unknown

TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "tweet",
    "message",
    "comment",
    "document",
    "body",
    "question",
    "query",
    "utterance",
    "post",
)
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "emotion",
    "intent",
    "topic",
    "polarity",
    "rating",
    "tag",
    "tags",
    "activity",
    "gesture",
    "exercise",
    "y",
)
SAMPLE_ROWS = 200  # looked at to tell what a column holds


def find(table: Table, columns: Columns) -> tuple[str, str]:
    """The columns of the texts and of the labels: as named, or else by their names and contents."""
    check(table, (columns.text, columns.label, columns.group))
    others = [name for name in table.names if name not in (columns.label, columns.group)]
    text = columns.text or find_text(table, others)
    others = [name for name in table.names if name not in (text, columns.group)]
    label = columns.label or _find_label(table, others)
    if text == label:
        raise DataError(f"{table.place}: {text!r} is named for the texts and for the labels")
    return text, label


def find_text(table: Table, names: Sequence[str]) -> str:
    """The one of these columns that holds the texts."""
    named = _named(names, TEXT_NAMES)
    if named:
        return _only(table, named, "texts")
    lengths = {
        name: length
        for name in names
        if name not in _named(names, LABEL_NAMES) and (length := _text_length(table, name))
    }
    longest = sorted(lengths, key=lambda name: -lengths[name])
    if not longest:
        raise DataError(
            f"{table.place}: no column holds texts; name the text column {_columns(table)}"
        )
    if len(longest) > 1 and lengths[longest[0]] < 2 * lengths[longest[1]]:
        return _only(table, longest[:2], "texts")
    return longest[0]


def _find_label(table: Table, names: Sequence[str]) -> str:
    found = (
        _named(names, LABEL_NAMES)
        or [name for name in names if name in table.classes]
        or (list(names) if len(names) == 1 else [])
    )
    if not found:
        raise DataError(
            f"{table.place}: no column is named like labels; name the label column "
            f"{_columns(table)}"
        )
    return _only(table, found, "labels")


def _named(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those named like one of `wanted`; only the first of `wanted` is sure of itself."""
    found = [name for name in names if name.lower() in wanted]
    sure = [name for name in found if name.lower() == wanted[0]]
    return sure or found


def _only(table: Table, found: Sequence[str], what: str) -> str:
    if len(found) == 1:
        return found[0]
    either = " or ".join(repr(clip(name)) for name in found[:5])
    raise DataError(
        f"{table.place}: the {what} may be in {either}; name the {what[:-1]} column "
        f"{_columns(table)}"
    )


def _text_length(table: Table, name: str) -> float:
    """Mean length of a column's texts; 0 if it holds something else, numbers included."""
    cells = [cell for cell in table.read(name)[:SAMPLE_ROWS] if cell not in (None, "")]
    if not cells or not all(isinstance(cell, str) for cell in cells):
        return 0
    return 0 if all(map(_is_number, cells)) else sum(map(len, cells)) / len(cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check(table: Table, names: Sequence[str]) -> None:
    """Raise DataError if one of these columns does not exist; empty names are passed over."""
    for name in filter(None, names):
        if name not in table.names:
            raise DataError(f"{table.place}: " + unknown("column", name, _shown(table)))


def _columns(table: Table) -> str:
    return f"(columns: {', '.join(_shown(table))})"


def _shown(table: Table) -> list[str]:
    return [clip(name) for name in table.names[:50]]
