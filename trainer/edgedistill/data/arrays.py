"""Images in an `.npz` file: `x` (n, height, width[, channels]) uint8 and `y` (n,) labels."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import DataError


def read_npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Images, label indices and label names.  Raises DataError, which names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            images, answers = file["x"], file["y"]
    except KeyError as error:
        raise DataError(
            f"{path}: no array {error}; the file needs x (images) and y (labels)"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(
            f"{path}: x is {images.dtype.name} of shape {list(images.shape)}; images are uint8 of "
            "shape [n, height, width] or [n, height, width, 1 or 3]"
        )
    if min(images.shape[1:3]) < 4:
        raise DataError(f"{path}: the images are {images.shape[2]}×{images.shape[1]}; at least 4×4")
    if answers.shape != (len(images),) or answers.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: y is {answers.dtype.name} of shape {list(answers.shape)}; it holds one "
            f"integer or text label for each of the {len(images)} images"
        )
    names, targets = np.unique(answers, return_inverse=True)
    return images, targets.astype(np.int64), tuple(map(str, names))
