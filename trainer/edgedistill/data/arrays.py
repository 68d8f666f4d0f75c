"""Images in an `.npz` file: `x` (n, height, width[, channels]) uint8 and `y` (n,) labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import DataError


def read_npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Images, label indices and label names.  Raises DataError, which names the file."""
    try:
        with path.open("rb") as stream:
            images, answers = _arrays(path, stream)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types
        raise DataError(f"{path}: not a readable .npz file ({_reason(error)})") from error
    colours = images.shape[3:]
    if images.dtype != np.uint8 or images.ndim < 3 or colours not in ((), (1,), (3,)):
        raise DataError(
            f"{path}: x is {images.dtype.name} of shape {list(images.shape)}; images are uint8 of "
            "shape [n, height, width] or [n, height, width, 1 or 3]"
        )
    if images.ndim == 3:
        images = images[..., None]
    if min(images.shape[1:3]) < 4:
        raise DataError(f"{path}: the images are {images.shape[2]}×{images.shape[1]}; at least 4×4")
    if answers.shape != (len(images),) or answers.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: y is {answers.dtype.name} of shape {list(answers.shape)}; it holds one "
            f"integer or text label for each of the {len(images)} images"
        )
    names, targets = np.unique(answers, return_inverse=True)
    return images, targets.astype(np.int64), tuple(map(str, names))


def _arrays(path: Path, stream: IO[bytes]) -> tuple[NDArray[Any], NDArray[Any]]:
    if not zipfile.is_zipfile(stream):
        raise DataError(f"{path}: not an .npz file, as numpy.savez writes it")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
        for name in ("x", "y"):
            if name not in file:
                raise DataError(
                    f"{path}: no array {name!r}; the file needs x (images) and y (labels)"
                )
        return file["x"], file["y"]


def _reason(error: Exception) -> str:
    text = str(error)
    if "pickle" in text:  # numpy's advice is to load it all the same
        return "it holds Python objects; only arrays of numbers and texts are read"
    return text
