"""Folders of image files become arrays of one size, by the code that the board runs."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import folders
from edgedistill.data.sets import Decoding, Recordings, Steps
from edgedistill.errors import DataError, unknown
from edgedistill_runtime import images, preprocess
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import ANY_SIZE, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("auto", "grey", "rgb")
DEFAULT_SIZE = (64, 64)
MAX_SIDE = 256
"""Of images that all have one size and keep it."""
MIN_SIDE = 4
MAX_THREADS = 8
"""So many whole files are in memory at once, at most."""
PART = 64
"""Images of one size that are resized at once."""
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Head:
    """What a file says of its image before it is decoded."""

    sides: tuple[int, int]
    """The shorter and the longer: which is the height, EXIF may say."""
    grey: bool


def read_folder(folder: Path, decoding: Decoding) -> Recordings:
    """Every image in the class folders, decoded and brought to one size.  Raises DataError."""
    if decoding.image_colours not in COLOURS:
        raise DataError(unknown("choice of colours", decoding.image_colours, COLOURS))
    tree = folders.find(folder, "image")
    paths = [path for files in tree.splits.values() for path in files.paths]
    heads = in_parallel(_head, paths)
    _refuse_unreadable(path for path, head in zip(paths, heads, strict=True) if head is None)
    known = [head for head in heads if head is not None]
    channels = 1 if _grey(known, decoding) else 3
    common = None if decoding.image_size else _common_size(paths, known)
    size = common or decoding.image_size or DEFAULT_SIZE
    decode: Steps = () if common else (resize(size, decoding),)
    sample = Sample("image", "uint8", (*(common or ANY_SIZE), channels))
    x = _decode(paths, size, channels, decode)
    parts, start = {}, 0
    for name, files in tree.splits.items():
        parts[name] = x[start : start + len(files)], np.array(files.labels, np.int64)
        start += len(files)
    return Recordings(
        *parts["train"],
        tree.labels,
        None,
        sample,
        notes=(*_notes(known, decode, channels), *tree.notes),
        test=parts.get("test"),
        validation=parts.get("validation"),
        decode=decode,
    )


def of_arrays(
    place: str, x: NDArray[np.uint8], decoding: Decoding
) -> tuple[NDArray[np.uint8], Sample, Steps]:
    """Images of one size, (n, height, width, channels), brought to the one that is asked for."""
    height, width, channels = x.shape[1:]
    if decoding.image_colours not in ("auto", "grey" if channels == 1 else "rgb"):
        raise DataError(
            f"{place}: image_colours is {decoding.image_colours!r} and the images have {channels} "
            f"channel{'s' * (channels > 1)}; it is for folders of image files"
        )
    if decoding.image_size is None or not min(height, width):
        if min(height, width) < MIN_SIDE:
            raise DataError(
                f"{place}: the images are {width}×{height}; at least {MIN_SIDE}×{MIN_SIDE}, or "
                "give image_size"
            )
        return x, Sample("image", "uint8", (height, width, channels)), ()
    decode = (resize(decoding.image_size, decoding),)
    bring = preprocess.build(decode)
    made = np.empty((len(x), *decoding.image_size, channels), np.uint8)

    def part(start: int) -> None:
        made[start : start + PART] = bring(x[start : start + PART])

    in_parallel(part, range(0, len(x), PART))
    return made, Sample("image", "uint8", (*ANY_SIZE, channels)), decode


def resize(size: tuple[int, int], decoding: Decoding) -> dict[str, Any]:
    """The step that brings images to (height, width)."""
    return {"op": "resize", "height": size[0], "width": size[1], "fit": decoding.image_fit}


def _head(path: Path) -> _Head | None:
    """None: not an image, or one that cannot be read."""
    try:
        from PIL import Image

        with path.open("rb") as file, Image.open(file, formats=images.FORMATS) as image:
            low, high = sorted(image.size)
            return _Head((low, high), _is_grey(image))
    except Exception:  # the reader says what it is, or that Pillow is missing
        return None


def _is_grey(image: Image) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY_MODES


def _grey(heads: Sequence[_Head], decoding: Decoding) -> bool:
    if decoding.image_colours == "auto":
        return all(head.grey for head in heads)
    return decoding.image_colours == "grey"


def _common_size(paths: Sequence[Path], heads: Sequence[_Head]) -> tuple[int, int] | None:
    """(height, width) of every image, if they have one that a network can take as it is."""
    low, high = heads[0].sides
    if any(head.sides != (low, high) for head in heads) or low < MIN_SIDE or high > MAX_SIDE:
        return None
    if low == high:
        return low, high
    shapes = set(in_parallel(lambda path: _read(path, 1).shape[:2], paths))  # as EXIF turns them
    return shapes.pop() if len(shapes) == 1 else None


def _decode(
    paths: Sequence[Path], size: tuple[int, int], channels: int, decode: Steps
) -> NDArray[np.uint8]:
    """(n, height, width, channels).  A whole image lives no longer than its thread works on it."""
    bring = preprocess.build(decode)
    x = np.empty((len(paths), *size, channels), np.uint8)

    def one(row: int) -> str:
        try:
            x[row] = bring(_read(paths[row], channels))
        except DataError as error:
            return str(error)
        except InputError as error:  # of the step: it does not know the file
            return f"{paths[row]}: {error}"
        return ""

    _refuse(in_parallel(one, range(len(paths))))
    return x


def _refuse_unreadable(paths: Iterable[Path]) -> None:
    def fault(path: Path) -> str:
        try:
            _read(path, 1)
        except DataError as error:
            return str(error)
        return f"{path}: not a readable image"

    _refuse(map(fault, paths))


def _refuse(faults: Iterable[str]) -> None:
    found = [fault for fault in faults if fault]
    if found:
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise DataError(found[0] + more)


def _read(path: Path, channels: int) -> NDArray[np.uint8]:
    try:
        return images.read(path, channels)
    except InputError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def in_parallel(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results in the items' order, whoever is ready first."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # here, since its setting is the process's, not a thread's
        with ThreadPoolExecutor(min(cores or 1, MAX_THREADS)) as pool:
            return list(pool.map(function, items))


def _notes(heads: Sequence[_Head], decode: Steps, channels: int) -> list[str]:
    colours = "grey" if channels == 1 else "RGB"
    if not decode:
        return [f"{len(heads):,} {colours} images of one size"]
    sizes = Counter(head.sides for head in heads)
    step = decode[0]
    how = {"crop": "the middle kept", "pad": "black around", "stretch": "stretched"}[step["fit"]]
    found = f"{len(sizes):,} sizes" if len(sizes) > 1 else "one size"
    return [
        f"{len(heads):,} {colours} images of {found}, brought to "
        f"{step['width']}×{step['height']} ({how})"
    ]
