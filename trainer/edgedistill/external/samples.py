"""The labelled test split on which a packed model is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill import data
from edgedistill.data import Columns, Decoding, Recordings
from edgedistill.errors import DataError, unknown
from edgedistill.external.steps import Steps
from edgedistill.recipe import Recipe
from edgedistill_runtime.manifest import Sample, Tensor

KINDS = ("image", "audio", "sensor", "text")
SHOWN_LABELS = 50
COLOURS = {1: "grey", 3: "rgb"}

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """A test split, decoded."""

    x: NDArray[Any]
    """(n, …), or n texts: objects."""
    y: Index
    """Places among the model's labels, (n,)."""
    sample: Sample
    notes: tuple[str, ...] = ()


def read(
    recipe: Recipe, kind: str, steps: Steps, tensor: Tensor, labels: tuple[str, ...]
) -> Samples:
    """The recipe's data, as the steps take them.  Raises DataError.

    A folder with a test split is that split alone; a built-in data set too.
    """
    path = Path(recipe.data)
    columns = Columns(recipe.text_column, recipe.label_column, recipe.group_column)
    if kind == "text":
        return _texts(path, columns, labels)
    if recipe.data in data.BUILT_IN:
        _check_kind(path, "image", kind)
        found = _built_in(recipe.data, _decoding(kind, recipe, steps, tensor))
    else:
        found = _recordings(path, kind, columns, _decoding(kind, recipe, steps, tensor))
    if found.sample.any_size and steps[0]["op"] != "resize":
        raise DataError(
            f"{path}: images of several sizes, which only steps that begin with 'resize' take"
        )
    x, y = found.test or (found.x, found.y)
    if not len(y):
        raise DataError(f"{path}: no samples")
    targets = _targets(str(path), y, found.labels, labels)
    return Samples(x, targets, found.sample, found.notes)


def _recordings(path: Path, kind: str, columns: Columns, decoding: Decoding) -> Recordings:
    if path.suffix.lower() == ".npz":
        from edgedistill.data import arrays

        found = arrays.load(path)
        _check_kind(path, found.kind, kind)
        return arrays.recordings(found, decoding)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        if kind == "sensor" and path.suffix.lower() == ".csv":
            from edgedistill.data import sensors, tables

            return sensors.read_table(tables.read_table(path), columns, decoding)
        files = "an .npz or .csv file" if kind == "sensor" else "an .npz file"
        raise DataError(
            f"{path}: no test split for {kind} classification, which is {files}, or a folder with "
            "a folder for each class"
        )
    from edgedistill.data import folders

    held = folders.kind_of(path)
    if not held:
        folders.refuse_without_classes(path)
    _check_kind(path, held, kind)
    return _reader(kind)(path, decoding)


def _check_kind(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise DataError(
            f"{path}: holds {data.HELD.get(found, 'nothing that can be classified')}, and the task "
            f"is for {data.HELD[wanted]}"
        )


def _reader(kind: str) -> Callable[[Path, Decoding], Recordings]:
    if kind == "image":
        from edgedistill.data import images

        return images.read_folder
    if kind == "audio":
        from edgedistill.data import audio

        return audio.read_folder
    from edgedistill.data import sensors

    return sensors.read_folder


def _decoding(kind: str, recipe: Recipe, steps: Steps, tensor: Tensor) -> Decoding:
    """How files become samples that the steps take."""
    first, shape = steps[0], tensor.shape
    if kind == "image":
        channels = shape[1] if any(s["op"] == "channels_first" for s in steps) else shape[-1]
        resized = first["op"] == "resize"
        return Decoding(
            image_size=(first["height"], first["width"]) if resized else None,
            image_fit=first.get("fit", recipe.image_fit),
            image_colours=COLOURS.get(channels, "auto"),
        )
    arrays = recipe.data.lower().endswith(".npz")  # windows already
    if kind == "sensor":
        return Decoding(window=None if arrays else shape[-1], hop=recipe.hop)
    rate_hz, length = recipe.sample_rate_hz, shape[-1]
    if first["op"] == "log_mel":  # the shortest sound that has so many frames
        rate_hz, length = first["rate_hz"], first["frame"] + (length - 1) * first["step"]
    window_s = None if arrays else recipe.window_s or length / rate_hz
    return Decoding(rate_hz=rate_hz, window_s=window_s, hop_s=recipe.hop_s)


def _built_in(name: str, decoding: Decoding) -> Recordings:
    """The test split of a data set that comes with the package: images of one size."""
    from edgedistill.data import images

    found = data.load(name)
    x, sample, decode = images.of_arrays(name, found.test.x, decoding)
    return Recordings(x, found.test.y, found.labels, None, sample, decode=decode)


def _texts(path: Path, columns: Columns, labels: tuple[str, ...]) -> Samples:
    from edgedistill.data import columns as finder
    from edgedistill.data import tables

    if path.is_dir():
        found = tables.read_folder(path)
        table = found.get("test", found["train"])
    else:
        table = tables.read_table(path)
    if not table.count:
        raise DataError(f"{table.place}: no rows")
    text, label = finder.find(table, columns)
    texts, cells = table.read(text), table.read(label)
    table.refuse(
        [(row, "no text") for row, each in enumerate(texts) if not _is_text(each)]
        + [(row, "no label") for row, cell in enumerate(cells) if cell in (None, "")]
    )
    names, y = np.unique([str(cell).strip() for cell in cells], return_inverse=True)
    x = np.empty(len(texts), object)
    x[:] = texts
    targets = _targets(table.place, y, [str(name) for name in names], labels)
    return Samples(x, targets, Sample("text", "text", ()))


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell.strip())


def _targets(place: str, y: Index, names: Sequence[str], labels: tuple[str, ...]) -> Index:
    """The data's classes as places among the model's; numbers are places already, if no label is
    one.  Raises DataError for a class that the model does not have."""
    index = {label: i for i, label in enumerate(labels)}
    if all(name.isdecimal() for name in names) and index.keys().isdisjoint(names):
        index = {str(i): i for i in range(len(labels))}
    for name in names:
        if name not in index:
            known = list(index)[:SHOWN_LABELS]
            raise DataError(f"{place}: {unknown('label of the model', name[:64], known)}")
    return np.array([index[name] for name in names], np.int64)[y]
