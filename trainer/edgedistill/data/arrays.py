"""Arrays in an `.npz` file: `x` (images, audio or sensor data), `y` (labels), `group`, `rate`."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import images
from edgedistill.data.sets import Decoding, Recordings
from edgedistill.errors import DataError
from edgedistill_runtime.manifest import MAX_RATE_HZ

KINDS = (
    "images are uint8 of shape [n, height, width] or [n, height, width, 1 or 3], audio is int16 of "
    "shape [n, samples], sensor data are other numbers of shape [n, channels, steps]"
)


@dataclass(frozen=True)
class Arrays:
    """What a file holds, as it stands there."""

    path: Path
    kind: str
    """ "image", "audio" or "sensor"."""
    x: NDArray[Any]
    y: NDArray[np.int64]
    """Index of each sample's label, (n,)."""
    labels: tuple[str, ...]
    groups: NDArray[np.int64] | None
    """From 0 up without gaps, (n,)."""
    rate_hz: float | None


def load(path: Path) -> Arrays:
    """The file's arrays, checked against each other.  Raises DataError, which names the file."""
    try:
        with path.open("rb") as stream:
            arrays = _arrays(path, stream)
    except (DataError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types
        raise DataError(f"{path}: not a readable .npz file ({_reason(error)})") from error
    x = arrays["x"]
    kind = _kind(x)
    if not kind:
        raise DataError(f"{path}: x is {x.dtype.name} of shape {list(x.shape)}; {KINDS}")
    labels, y = _names(path, "y", "label", arrays["y"], len(x))
    groups = None
    if "group" in arrays:
        _, groups = _names(path, "group", "group", arrays["group"], len(x))
    rate_hz = _rate(path, arrays["rate"]) if "rate" in arrays else None
    return Arrays(path, kind, x, y, labels, groups, rate_hz)


def recordings(found: Arrays, decoding: Decoding) -> Recordings:
    """The samples of a file as they are split.  Raises DataError, which names the file."""
    if found.kind == "image":
        x = found.x if found.x.ndim == 4 else found.x[..., None]
        x, sample, decode = images.of_arrays(str(found.path), x, decoding)
        return Recordings(x, found.y, found.labels, found.groups, sample, decode=decode)
    if found.kind == "audio":
        from edgedistill.data import audio

        return audio.of_arrays(found, decoding)
    from edgedistill.data import sensors

    return sensors.of_arrays(found, decoding)


def _arrays(path: Path, stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(stream):
        raise DataError(f"{path}: not an .npz file, as numpy.savez writes it")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
        for name in ("x", "y"):
            if name not in file:
                raise DataError(
                    f"{path}: no array {name!r}; the file needs x (samples) and y (labels)"
                )
        return {name: file[name] for name in ("x", "y", "group", "rate") if name in file}


def _kind(x: NDArray[Any]) -> str:
    if x.dtype == np.uint8 and x.ndim in (3, 4) and x.shape[3:] in ((), (1,), (3,)):
        return "image"
    if x.dtype == np.int16 and x.ndim == 2:
        return "audio"
    if x.dtype.kind in "iuf" and x.ndim == 3:
        return "sensor"
    return ""


def _names(
    path: Path, name: str, what: str, values: NDArray[Any], count: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The distinct values, sorted, and the index of each sample's."""
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: {name} is {values.dtype.name} of shape {list(values.shape)}; it holds one "
            f"integer or text {what} for each of the {count} samples"
        )
    names, indices = np.unique(values, return_inverse=True)
    return tuple(map(str, names)), indices.astype(np.int64)


def _rate(path: Path, value: NDArray[Any]) -> float:
    if value.shape not in ((), (1,)) or value.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: rate is {value.dtype.name} of shape {list(value.shape)}; it is one number, "
            "samples or steps a second"
        )
    rate_hz = float(value.item())
    if not 0 < rate_hz <= MAX_RATE_HZ:
        raise DataError(f"{path}: rate is {rate_hz:g}; it is over 0 and at most {MAX_RATE_HZ:g}")
    return rate_hz


def _reason(error: Exception) -> str:
    text = str(error)
    if "pickle" in text:  # numpy's advice is to load it all the same
        return "it holds Python objects; only arrays of numbers and texts are read"
    return text
