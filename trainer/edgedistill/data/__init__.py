"""Data sources: a name or a path becomes labelled splits of decoded samples.

Splits are stratified and fixed: they depend on the data alone, never on a recipe's seed, so that
two runs are judged on the same test samples.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedistill.data.sets import Columns, Dataset, Decoding, Recordings, Split
from edgedistill.data.splits import split
from edgedistill.errors import DataError, unknown

if TYPE_CHECKING:
    from edgedistill.data.tables import Table

__all__ = ["BUILT_IN", "Columns", "Dataset", "Decoding", "Recordings", "Split", "load", "split"]

FOUND = Columns()
DEFAULT = Decoding()
HELD = {"image": "images", "audio": "sound", "sensor": "sensor data", "text": "texts"}
SETTINGS = {
    **dict.fromkeys(("image_size", "image_fit", "image_colours"), "image"),
    **dict.fromkeys(("rate_hz", "window_s", "hop_s", "mel_bands"), "audio"),
    **dict.fromkeys(("window", "hop"), "sensor"),
}
"""The kind of data that each field of `Decoding` is for."""


def load(source: str, columns: Columns = FOUND, decoding: Decoding = DEFAULT) -> Dataset:
    """Load a data set by its name or path.  Raises DataError.

    source: a built-in name; an `.npz` file of images, audio or sensor data; a folder of class
    folders with images, `.wav` or `.csv` files; a table of texts (`.csv`, `.tsv`, `.jsonl`,
    `.parquet`) or of sensor data (`.csv`); a folder of tables `train`, `validation` and `test`; a
    folder that `save_to_disk` of `datasets` has written; a hub's `name` or `name:config`
    """
    path = Path(source)
    if source in BUILT_IN:
        from edgedistill.data import images

        _refuse_others(source, "image", decoding, columns)
        pixels, targets, labels = BUILT_IN[source]()
        pixels, sample, decode = images.of_arrays(source, pixels, decoding)
        return split(source, pixels, targets, labels, sample, decode=decode)
    if path.suffix == ".npz":
        from edgedistill.data import arrays

        found = arrays.load(path)
        _refuse_others(source, found.kind, decoding, columns)
        return _split(path.stem, arrays.recordings(found, decoding))
    from edgedistill.data import hub, tables, texts

    if not _exists(path) and path.suffix.lower() not in tables.READERS:
        if not _may_be_on_the_hub(source):
            raise DataError(
                unknown("data set", tables.clip(source), BUILT_IN)
                + "; or give the path of a file or folder"
            )
        _refuse_others(source, "text", decoding)
        return texts.dataset(source, hub.read_hub(source), columns)
    if not path.is_dir():
        table = tables.read_table(path)
        if path.suffix.lower() == ".csv" and _holds_readings(table, columns):
            from edgedistill.data import sensors

            _refuse_others(source, "sensor", decoding)
            return _split(path.stem, sensors.read_table(table, columns, decoding))
        _refuse_others(source, "text", decoding)
        return texts.dataset(path.stem, {"train": table}, columns)
    name, saved = path.resolve().name, any((path / file).exists() for file in hub.SAVED)
    kind = "" if saved else _kind_of_files(path)
    if kind:
        _refuse_others(source, kind, decoding, columns)
        return _split(name, _read_files(path, kind, decoding))
    _refuse_others(source, "text", decoding)
    read = hub.read_saved if saved else tables.read_folder
    return texts.dataset(name, read(path), columns)


def _split(name: str, found: Recordings) -> Dataset:
    return split(
        name,
        found.x,
        found.y,
        found.labels,
        found.sample,
        found.groups,
        validation=found.validation,
        test=found.test,
        decode=found.decode,
        features=found.features,
        notes=found.notes,
    )


def _read_files(folder: Path, kind: str, decoding: Decoding) -> Recordings:
    if kind == "image":
        from edgedistill.data import images

        return images.read_folder(folder, decoding)
    if kind == "audio":
        from edgedistill.data import audio

        return audio.read_folder(folder, decoding)
    from edgedistill.data import sensors

    return sensors.read_folder(folder, decoding)


def _kind_of_files(folder: Path) -> str:
    """What stands in its class folders; empty for a folder of tables of texts."""
    from edgedistill.data import folders, tables

    if any(
        path.stem == "train" and path.suffix in tables.READERS for path in folder.glob("train.*")
    ):
        return ""
    kind = folders.kind_of(folder)
    if not kind:
        folders.refuse_without_classes(folder)
    return kind


def _holds_readings(table: Table, columns: Columns) -> bool:
    """Whether a table is of sensor data: beside label and group, every column holds numbers."""
    from edgedistill.data.columns import LABEL_NAMES, TEXT_NAMES
    from edgedistill.data.sensors import TIMES

    if columns.text or columns.label_separator or columns.unlabelled or not table.count:
        return False
    names = [name for name in table.names if name not in (columns.label, columns.group)]
    names = [name for name in names if name.lower() not in TIMES]
    if any(name.lower() in TEXT_NAMES for name in names):
        return False
    words = [name for name in names if not _holds_numbers(table, name)]
    if columns.label:
        return not words and bool(names)
    labels = [name for name in names if name.lower() in LABEL_NAMES]
    return bool(labels) and len(names) > 1 and len(words) <= 1 and set(words) <= set(labels)


def _holds_numbers(table: Table, name: str) -> bool:
    from edgedistill.data.columns import SAMPLE_ROWS

    try:
        for cell in table.read(name)[:SAMPLE_ROWS]:
            float(cell or 0)  # an empty cell may be a sensor's gap, which is refused with its line
    except ValueError:
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _may_be_on_the_hub(source: str) -> bool:
    from edgedistill.data.hub import HUB_NAME

    return bool(HUB_NAME.fullmatch(source)) and not difflib.get_close_matches(source, BUILT_IN)


def _refuse_others(source: str, kind: str, decoding: Decoding, columns: Columns = FOUND) -> None:
    """Raise DataError for settings that are for another kind of data."""
    if columns != FOUND:
        raise DataError(f"{source}: holds {HELD[kind]}; columns are for tables")
    for field in dataclasses.fields(decoding):
        whose = SETTINGS[field.name]
        if whose != kind and getattr(decoding, field.name) != field.default:
            name = "sample_rate_hz" if field.name == "rate_hz" else field.name
            raise DataError(f"{source}: holds {HELD[kind]}; {name} is for {HELD[whose]}")


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """scikit-learn's digits: 1,797 images of 8×8 pixels, 0 to 16, spread here over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, bunch.target.astype(np.int64), tuple(map(str, bunch.target_names))


BUILT_IN = {"digits": _digits}
