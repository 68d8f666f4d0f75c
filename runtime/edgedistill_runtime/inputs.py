"""Turn what users hand to `predict` and `evaluate` into decoded samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import Manifest, Sample

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))

_BAD_ROW = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Item:
    """One sample to classify, or the sentence that says why it is none."""

    id: str
    sample: NDArray[Any] | None
    error: str | None = None


@dataclass(frozen=True)
class Split:
    """A labelled split: samples (n, …) and the index of each one's label."""

    samples: NDArray[Any]
    targets: NDArray[np.int64]


def read_items(source: str, stdin: BinaryIO, spec: Sample) -> Iterator[Item]:
    """Samples of one argument: `-` (JSON Lines), a folder, a `.npy`, a `.jsonl` or an image.

    What cannot be read is an Item with its error; nothing is raised.
    """
    path = Path(source)
    try:
        if source == "-":
            yield from _json_lines(stdin, "-", spec)
        elif path.is_dir():
            known = IMAGE_SUFFIXES | {".npy"}
            names = sorted(p for p in path.iterdir() if p.suffix.lower() in known)
            if not names:
                raise InputError(f"{source}: no .npy and no image files in this folder")
            for name in names:
                yield from read_items(str(name), stdin, spec)
        elif path.suffix == ".jsonl":
            with path.open("rb") as file:
                yield from _json_lines(file, source, spec)
        elif path.suffix == ".npy":
            yield from _npy(path, spec)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield Item(source, _image(path, spec))
        else:
            kinds = ".npy, .jsonl, an image, a folder, or - for JSON Lines"
            raise InputError(f"{source}: not a kind of input this runtime reads ({kinds})")
    except InputError as error:
        yield Item(source, None, str(error))
    except OSError as error:
        yield Item(source, None, f"{source}: {error.strerror or error}")


def read_split(path: Path, manifest: Manifest) -> Split:
    """A labelled split from an `.npz` with `x` (n, …) and `y` (labels, or their indices).

    Raises InputError or OSError.
    """
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            samples, answers = arrays["x"], arrays["y"]
    except KeyError as error:
        raise InputError(f"{path}: no array {error}; a split has the arrays x and y") from error
    except OSError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have a dozen types for a damaged file
        raise InputError(f"{path}: not a readable .npz file ({error})") from error
    expected = manifest.sample
    if samples.dtype != expected.dtype or samples.shape[1:] != expected.shape:
        raise InputError(
            f"{path}: x is {samples.dtype.name} of shape {list(samples.shape)}; the model takes "
            f"{expected.dtype} of shape [n, {', '.join(map(str, expected.shape))}]"
        )
    if answers.shape != (len(samples),) or not len(samples):
        raise InputError(
            f"{path}: x has {len(samples)} samples and y has shape {list(answers.shape)}"
        )
    return Split(samples, _targets(path, answers, manifest.labels))


def _targets(path: Path, answers: NDArray[Any], labels: tuple[str, ...]) -> NDArray[np.int64]:
    if answers.dtype.kind in "iu":
        if answers.min() < 0 or answers.max() >= len(labels):
            raise InputError(f"{path}: y has indices outside of the model's {len(labels)} labels")
        return answers.astype(np.int64)
    index = {label: i for i, label in enumerate(labels)}
    try:
        return np.array([index[str(answer)] for answer in answers], np.int64)
    except KeyError as error:
        raise InputError(
            f"{path}: y has the label {error}, which the model does not know"
        ) from error


def _npy(path: Path, spec: Sample) -> Iterator[Item]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # a header that lies allocates nothing
    except (ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: not a readable .npy file ({error})") from error
    if array.shape == spec.shape:
        yield Item(str(path), array)
    elif array.shape[1:] == spec.shape:
        for i, sample in enumerate(array):
            yield Item(f"{path}[{i}]", sample)
    else:
        raise InputError(
            f"{path}: an array of shape {list(array.shape)}; the model takes {list(spec.shape)}, "
            "or several of them"
        )


def _json_lines(lines: BinaryIO, source: str, spec: Sample) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name = f"{source}:{number}"
        try:
            row = json.loads(line)
            name = str(row.get("id", name))
            sample = _sample(np.array(row["input"]), spec)
        except _BAD_ROW as error:
            yield Item(name, None, f'{name}: not {{"id": …, "input": [numbers]}} ({error})')
        else:
            yield Item(name, sample)


def _sample(numbers: NDArray[Any], spec: Sample) -> NDArray[Any]:
    """The numbers in the sample's type: rounded if it has fractions, else exactly as they are."""
    if numbers.dtype.kind not in "iuf":
        raise ValueError("not numbers")
    with np.errstate(all="ignore"):
        sample = numbers.astype(spec.dtype)
    held = np.isfinite(sample) if sample.dtype.kind == "f" else sample == numbers
    if not held.all():
        raise ValueError(f"values that {spec.dtype} cannot hold")
    return sample


def _image(path: Path, spec: Sample) -> NDArray[Any]:
    """Decode an image into what the model takes: grey or RGB, 8 bits."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(
            "image files need Pillow; install it with: pip install 'edgedistill-runtime[image]'"
        ) from error
    if spec.kind != "image":
        raise InputError(f"{path}: the model takes {spec.kind}, not images")
    height, width, channels = spec.shape
    try:
        with Image.open(path) as image:
            found = image.size
            if sorted(found) == sorted((width, height)):  # else not worth decoding
                upright = ImageOps.exif_transpose(image)
                found, pixels = upright.size, upright.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise InputError(f"{path}: not a readable image ({error})") from error
    if found != (width, height):
        size = f"{found[0]}×{found[1]}"
        raise InputError(f"{path}: the image is {size} pixels; the model takes {width}×{height}")
    return np.asarray(pixels).reshape(spec.shape)
