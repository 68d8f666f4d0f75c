"""Turn what users hand to `predict` and `evaluate` into decoded samples."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime import postprocess
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import Manifest, Sample

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))

_BAD_ROW = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Item:
    """One sample to classify, or the sentence that says why it is none."""

    id: str
    sample: NDArray[Any] | str | None
    error: str | None = None


@dataclass(frozen=True)
class Split:
    """A labelled split: n samples, and what they are."""

    samples: Sequence[Any] | NDArray[Any]
    targets: NDArray[np.int64]
    """(n,): the index of each one's label.  (n, classes): 1 for each label that one has, else 0."""


def read_items(source: str, stdin: BinaryIO, spec: Sample) -> Iterator[Item]:
    """Samples of one argument: `-` (JSON Lines), or a file or folder of what `spec` is.

    Files are `.jsonl`; of images also `.npy` and what Pillow reads; of texts also `.txt` with a
    text a line.
    What cannot be read is an Item with its error; nothing is raised.
    """
    path = Path(source)
    try:
        if source == "-":
            yield from _json_lines(stdin, "-", spec)
        elif path.is_dir():
            suffixes = {".txt"} if spec.kind == "text" else IMAGE_SUFFIXES | {".npy"}
            names = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
            if not names:
                kinds = "no .txt" if spec.kind == "text" else "no .npy and no image"
                raise InputError(f"{source}: {kinds} files in this folder")
            for name in names:
                yield from read_items(str(name), stdin, spec)
        else:
            yield from _file(path, spec)
    except InputError as error:
        yield Item(source, None, str(error))
    except OSError as error:
        yield Item(source, None, f"{source}: {error.strerror or error}")


def _file(path: Path, spec: Sample) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        with path.open("rb") as file:
            yield from _json_lines(file, str(path), spec)
    elif suffix == ".txt" and spec.kind == "text":
        yield from _text_lines(path)
    elif suffix == ".npy" and spec.kind == "image":
        yield from _npy(path, spec)
    elif suffix in IMAGE_SUFFIXES and spec.kind == "image":
        yield Item(str(path), _image(path, spec))
    else:
        kinds = "a .txt" if spec.kind == "text" else "a .npy, an image"
        raise InputError(
            f"{path}: not what this model reads ({kinds}, a .jsonl, a folder, or - for JSON Lines)"
        )


def read_split(path: Path, manifest: Manifest) -> Split:
    """A labelled split: a `.jsonl`; of images also an `.npz` with `x` (n, …) and `y` (n,).

    Raises InputError or OSError.
    """
    if path.suffix.lower() == ".jsonl":
        return _labelled_lines(path, manifest)
    if manifest.sample.kind != "image":
        raise InputError(
            f'{path}: the model takes texts; give a .jsonl with {{"input": …, "label": …}} a line'
        )
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


def _labelled_lines(path: Path, manifest: Manifest) -> Split:
    """One object a line, with "input" (or "text") and "label": a name, or a list of names."""
    several = postprocess.multi_label(manifest.postprocess)
    index = {label: i for i, label in enumerate(manifest.labels)}
    samples: list[Any] = []
    targets: list[Any] = []
    with path.open("rb") as file:
        for name, line in _lines(file, str(path)):
            try:
                row = json.loads(line)
                samples.append(_row_sample(row, manifest.sample))
                given = row["label"]
            except _BAD_ROW as error:
                wanted = _wanted(manifest.sample, '"label": name')
                raise InputError(f"{name}: {wanted} ({error})") from None
            names = given if isinstance(given, list) else [given]
            for label in names:
                if not isinstance(label, str) or label not in index:
                    raise InputError(f"{name}: the label {label!r} is none of the model's")
            if not several and len(names) != 1:
                raise InputError(f"{name}: {len(names)} labels; the model's samples have one")
            found = [index[label] for label in names]
            targets.append(np.isin(np.arange(len(index)), found) if several else found[0])
    if not samples:
        raise InputError(f"{path}: no samples in this file")
    return Split(samples, np.array(targets, np.int64))


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


def _lines(lines: BinaryIO, source: str) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its name."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{source}:{number}", line


def _text_lines(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        for name, line in _lines(file, str(path)):
            try:
                text = line.removeprefix(codecs.BOM_UTF8).decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield Item(name, None, f"{name}: not UTF-8 ({error})")
            else:
                yield Item(name, text)


def _json_lines(lines: BinaryIO, source: str, spec: Sample) -> Iterator[Item]:
    for name, line in _lines(lines, source):
        given = None
        try:
            row = json.loads(line)
            given = row.get("id")
            sample = _row_sample(row, spec)
        except _BAD_ROW as error:
            label = name if given is None else str(given)
            yield Item(label, None, f"{label}: {_wanted(spec)} ({error})")
        else:
            yield Item(name if given is None else str(given), sample)


def _wanted(spec: Sample, other: str = '"id": …') -> str:
    kind = "text" if spec.kind == "text" else "[numbers]"
    return f'not {{{other}, "input": {kind}}}'


def _row_sample(row: dict[str, Any], spec: Sample) -> NDArray[Any] | str:
    if spec.kind == "text":
        text = row["text"] if "input" not in row and "text" in row else row["input"]
        if not isinstance(text, str):
            raise ValueError("not a text")
        text.encode()  # half of a surrogate pair is an error
        return text
    numbers = np.array(row["input"])
    if numbers.dtype.kind not in "iuf":
        raise ValueError("not numbers")
    with np.errstate(all="ignore"):
        sample = numbers.astype(spec.dtype)
    if not (sample == numbers).all():
        raise ValueError(f"values that {spec.dtype} cannot hold")
    if sample.shape != spec.shape:
        raise ValueError(f"the shape is {list(sample.shape)}; the model takes {list(spec.shape)}")
    return sample


def _image(path: Path, spec: Sample) -> NDArray[Any]:
    """Decode an image into what the model takes: grey or RGB, 8 bits."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(
            "image files need Pillow; install it with: pip install 'edgedistill-runtime[image]'"
        ) from error
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
