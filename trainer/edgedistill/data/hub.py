"""Data sets of the `datasets` library: folders that it has saved, and names on its hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill.data.tables import SPLITS, Table, clip, optional, reason
from edgedistill.errors import DataError

HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?::[\w.-]+)?", re.ASCII)
PROBE_SECONDS = 5
SAVED = ("dataset_dict.json", "state.json")
"""A file of either name stands in a folder that `save_to_disk` has written."""


def read_saved(folder: Path) -> dict[str, Table]:
    """The splits of a folder that `save_to_disk` has written.  Raises DataError."""
    library = optional("datasets")
    try:
        found = library.load_from_disk(str(folder))
    except Exception as error:  # json, pyarrow and datasets raise a dozen types
        raise DataError(f"{folder}: not a readable saved data set ({reason(error)})") from error
    return _tables(str(folder), found)


def read_hub(source: str) -> dict[str, Table]:
    """The splits of `name` or `name:config`, from the hub or its cache.  Raises DataError."""
    library = optional("datasets")
    name, _, config = source.partition(":")
    with _no_retries_offline(name):
        try:
            found = library.load_dataset(name, config or None)
        except Exception as error:  # network, hub and readers raise a dozen types
            raise DataError(
                f"no file, folder or built-in data set {source!r}, and none to be had from the "
                f"hub ({reason(error)})"
            ) from error
    return _tables(source, found)


@contextmanager
def _no_retries_offline(name: str) -> Iterator[None]:
    """Without a network only the cache is asked: the library would try for half a minute."""
    hub = optional("huggingface_hub")
    before = hub.constants.HF_HUB_OFFLINE
    try:
        if not before:
            hub.HfApi().dataset_info(name, timeout=PROBE_SECONDS)
    except Exception as error:
        # an answer, if only a refusal, is a network; load_dataset puts it in better words
        hub.constants.HF_HUB_OFFLINE = getattr(error, "response", None) is None
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE = before


def _tables(place: str, found: Any) -> dict[str, Table]:
    if not isinstance(found, dict):
        return {"train": _table(place, found)}
    tables = {}
    for split, names in SPLITS.items():
        present = [name for name in names if name in found]
        if len(present) > 1:
            raise DataError(f"{place}: both {present[0]!r} and {present[1]!r} are among its splits")
        if present:
            tables[split] = _table(f"{place}, {present[0]}", found[present[0]])
    if "train" not in tables:
        raise DataError(
            f"{place}: no split named 'train' (found: {', '.join(map(clip, found)) or 'none'})"
        )
    return tables


def _table(place: str, rows: Any) -> Table:
    rows = rows.with_format(None)
    classes = {}
    for name, feature in rows.features.items():
        feature = getattr(feature, "feature", feature)  # a list's items
        if hasattr(feature, "int2str"):
            classes[name] = tuple(feature.names)

    @cache
    def read(name: str) -> list[Any]:
        try:
            cells: list[Any] = rows.select_columns([name])[:][name]
        except Exception as error:
            raise DataError(f"{place}: {name!r} cannot be read ({reason(error)})") from error
        return cells

    return Table(place, tuple(rows.column_names), len(rows), read, classes=classes)
