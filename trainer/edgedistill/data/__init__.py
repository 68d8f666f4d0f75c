"""Data sources: a name or a path becomes labelled splits of decoded samples.

Splits are stratified and fixed: they depend on the data alone, never on a recipe's seed, so that
two runs are judged on the same test samples.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.data.sets import Columns, Dataset, Split
from edgedistill.data.splits import split
from edgedistill.errors import DataError, unknown

__all__ = ["BUILT_IN", "Columns", "Dataset", "Split", "load", "split"]

FOUND = Columns()


def load(source: str, columns: Columns = FOUND) -> Dataset:
    """Load a data set by its name or path.  Raises DataError.

    source: a built-in name; an `.npz` file of images; a table of texts (`.csv`, `.tsv`, `.jsonl`,
    `.parquet`); a folder of tables `train`, `validation` and `test`; a folder that `save_to_disk`
    of `datasets` has written; a hub's `name` or `name:config`
    """
    path = Path(source)
    if source in BUILT_IN:
        _refuse_columns(source, columns)
        return split(source, *BUILT_IN[source]())
    if path.suffix == ".npz":
        from edgedistill.data.arrays import read_npz

        _refuse_columns(source, columns)
        return split(path.stem, *read_npz(path))
    from edgedistill.data import hub, tables, texts

    if not _exists(path) and path.suffix.lower() not in tables.READERS:
        if not _may_be_on_the_hub(source):
            raise DataError(
                unknown("data set", tables.clip(source), BUILT_IN)
                + "; or give the path of a file or folder"
            )
        return texts.dataset(source, hub.read_hub(source), columns)
    if not path.is_dir():
        return texts.dataset(path.stem, {"train": tables.read_table(path)}, columns)
    saved = any((path / file).exists() for file in hub.SAVED)
    read = hub.read_saved if saved else tables.read_folder
    return texts.dataset(path.resolve().name, read(path), columns)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _may_be_on_the_hub(source: str) -> bool:
    from edgedistill.data.hub import HUB_NAME

    return bool(HUB_NAME.fullmatch(source)) and not difflib.get_close_matches(source, BUILT_IN)


def _refuse_columns(source: str, columns: Columns) -> None:
    if columns != FOUND:
        raise DataError(f"{source}: holds images; columns are for tables of texts")


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """scikit-learn's digits: 1,797 images of 8×8 pixels, 0 to 16, spread here over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, bunch.target.astype(np.int64), tuple(map(str, bunch.target_names))


BUILT_IN = {"digits": _digits}
