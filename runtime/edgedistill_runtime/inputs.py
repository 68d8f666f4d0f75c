"""Turn what users hand to `predict` and `evaluate` into decoded samples."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime import postprocess
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.images import SUFFIXES as IMAGE_SUFFIXES
from edgedistill_runtime.manifest import MAX_ELEMENTS, Manifest, Sample

_BAD_ROW = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Item:
    """One sample to classify, or the sentence that says why it is none."""

    id: str
    sample: NDArray[Any] | str | None
    error: str | None = None
    dropped: int | None = None
    """How many a live source wrote since the one before, too late to be taken; None: not live."""


@dataclass(frozen=True)
class Split:
    """A labelled split: n samples, and what they are."""

    samples: Sequence[Any] | NDArray[Any]
    targets: NDArray[np.int64]
    """(n,): the index of each one's label.  (n, classes): 1 for each label that one has, else 0."""


@dataclass(frozen=True)
class _Kind:
    """How samples of one kind stand in files."""

    files: str
    """For people."""
    none: str
    """What a folder lacks that has none of them."""
    suffixes: frozenset[str]
    read: Callable[[Path, Sample], Iterator[Item]]
    """The samples of one file that has one of the suffixes."""


def read_items(source: str, stdin: BinaryIO, spec: Sample) -> Iterator[Item]:
    """Samples of one argument: `-` (JSON Lines), or a file or folder of what `spec` is.

    Files are `.jsonl`; of images also `.npy` and what Pillow reads; of audio also `.wav` and
    `.npy`, of sensors `.csv` and `.npy`, where a longer recording is cut into windows; of texts
    also `.txt` with a text a line.
    What cannot be read is an Item with its error; nothing is raised.
    """
    path, kind = Path(source), _KINDS[spec.kind]
    try:
        if source == "-":
            yield from _json_lines(stdin, "-", spec)
        elif path.is_dir():
            names = sorted(p for p in path.iterdir() if p.suffix.lower() in kind.suffixes)
            if not names:
                raise InputError(f"{source}: {kind.none} files in this folder")
            for name in names:
                yield from read_items(str(name), stdin, spec)
        elif path.suffix.lower() == ".jsonl":
            with path.open("rb") as file:
                yield from _json_lines(file, str(path), spec)
        elif path.suffix.lower() in kind.suffixes:
            yield from kind.read(path, spec)
        else:
            raise InputError(
                f"{path}: not what this model reads "
                f"({kind.files}, a .jsonl, a folder, or - for JSON Lines)"
            )
    except InputError as error:
        yield Item(source, None, str(error))
    except OSError as error:
        yield Item(source, None, f"{source}: {error.strerror or error}")


# --- files


def _images(path: Path, spec: Sample) -> Iterator[Item]:
    if path.suffix.lower() != ".npy":
        from edgedistill_runtime import images

        height, width, channels = spec.shape
        size = None if spec.any_size else (height, width)
        yield Item(str(path), images.read(path, channels, size))
        return
    found = _npy(path)
    if _has_shape(found.shape, spec):
        yield Item(str(path), found)
    else:
        yield from _several(path, found, spec)


def _audio(path: Path, spec: Sample) -> Iterator[Item]:
    rate_hz = int(spec.rate_hz or 0)
    if path.suffix.lower() == ".wav":
        from edgedistill_runtime import wav

        recording, found_hz = wav.read(path)
        if found_hz != rate_hz:
            raise InputError(
                f"{path}: the recording has {found_hz} samples a second and the model takes "
                f"{rate_hz}; resample it"
            )
    else:
        recording = _npy(path)
        if recording.dtype != np.int16:
            raise InputError(
                f"{path}: an array of {recording.dtype.name}; the model takes audio as int16, "
                f"at {rate_hz} samples a second"
            )
    if recording.ndim == 1:
        yield from _windows(path, recording, spec)
    else:
        yield from _several(path, recording, spec)


def _sensors(path: Path, spec: Sample) -> Iterator[Item]:
    recording = _csv(path, spec) if path.suffix.lower() == ".csv" else _npy(path)
    if recording.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: an array of {recording.dtype.name}; the model takes real numbers"
        )
    if recording.ndim != 2:
        yield from _several(path, recording, spec)
    elif len(recording) != spec.shape[0]:
        raise InputError(
            f"{path}: an array of shape {list(recording.shape)}; the model takes "
            f"{spec.shape[0]} channels, [{spec.shape[0]}, steps]"
        )
    else:
        yield from _windows(path, recording, spec)


def _texts(path: Path, _: Sample) -> Iterator[Item]:
    with path.open("rb") as file:
        for name, line in _lines(file, str(path)):
            try:
                yield Item(name, text_line(name, line))
            except InputError as error:
                yield Item(name, None, str(error))


def text_line(name: str, line: bytes) -> str:
    """The text of one line.  Raises InputError."""
    try:
        return line.removeprefix(codecs.BOM_UTF8).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 ({error})") from None


_KINDS = {
    "audio": _Kind("a .wav, a .npy", "no .wav and no .npy", frozenset((".wav", ".npy")), _audio),
    "image": _Kind("a .npy, an image", "no .npy and no image", IMAGE_SUFFIXES | {".npy"}, _images),
    "sensor": _Kind("a .csv, a .npy", "no .csv and no .npy", frozenset((".csv", ".npy")), _sensors),
    "text": _Kind("a .txt", "no .txt", frozenset((".txt",)), _texts),
}


def _windows(path: Path, recording: NDArray[Any], spec: Sample) -> Iterator[Item]:
    """The windows of a recording, along its last axis."""
    from edgedistill_runtime import windows

    if not recording.size:
        raise InputError(f"{path}: an empty recording")
    window = spec.shape[-1]
    samples = windows.cut(_rounded(recording, spec), window, spec.hop or window)  # (n, …, window)
    for i, sample in enumerate(samples):
        yield Item(str(path) if len(samples) == 1 else f"{path}[{i}]", sample)


def _several(path: Path, samples: NDArray[Any], spec: Sample) -> Iterator[Item]:
    """The samples along the first axis."""
    if not _has_shape(samples.shape[1:], spec) or not samples.ndim:
        raise InputError(
            f"{path}: an array of shape {list(samples.shape)}; the model takes {_shape(spec)}, "
            "or several of them"
        )
    for i, sample in enumerate(samples):
        yield Item(f"{path}[{i}]", _rounded(sample, spec))


def _has_shape(shape: tuple[int, ...], spec: Sample) -> bool:
    if not spec.any_size:
        return shape == spec.shape
    return len(shape) == 3 and shape[2] == spec.shape[2]


def _shape(spec: Sample) -> str:
    return f"[height, width, {spec.shape[2]}]" if spec.any_size else str(list(spec.shape))


def _rounded(sample: NDArray[Any], spec: Sample) -> NDArray[Any]:
    """Sensor values in single precision; anything else as it is, for the model to judge."""
    if spec.kind != "sensor" or sample.dtype.kind not in "iuf":
        return sample
    with np.errstate(over="ignore"):  # infinity is refused later
        return sample.astype(np.float32, copy=False)


def _npy(path: Path) -> NDArray[Any]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # a header that lies allocates nothing
    except (ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: not a readable .npy file ({error})") from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _csv(path: Path, spec: Sample) -> NDArray[np.float32]:
    """A header line, then a line a step with a number a channel.  (channels, steps)"""
    import csv
    from array import array

    channels, values = spec.shape[0], array("f")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            if next(rows, None) is None:
                raise InputError(f"{path}: an empty file; a .csv has a header line")
            for row in rows:
                if not row:
                    continue
                where = f"{path}:{rows.line_num}"
                values.extend(csv_step(where, row, channels))
                if len(values) > MAX_ELEMENTS:
                    raise InputError(f"{where}: more than {MAX_ELEMENTS} values in one file")
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a readable .csv file ({error})") from error
    if not values:
        raise InputError(f"{path}: no steps below the header line")
    return np.frombuffer(values, np.float32).reshape(-1, channels).T


def csv_step(where: str, row: Sequence[str], channels: int) -> list[float]:
    """The numbers of one row, one a channel.  Raises InputError."""
    if len(row) != channels:
        raise InputError(f"{where}: {len(row)} columns; the model takes {channels}, one a channel")
    try:
        step = [float(cell) for cell in row]
    except ValueError as error:
        raise InputError(f"{where}: not a number ({error})") from None
    if not all(map(math.isfinite, step)):
        raise InputError(f"{where}: a value that is not a finite number")
    return step


# --- lines


def _lines(lines: BinaryIO, source: str) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its name."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{source}:{number}", line


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
    if spec.dtype == "float32":
        if not np.isfinite(sample).all():
            raise ValueError("values that are not finite numbers")
    elif not (sample == numbers).all():
        raise ValueError(f"values that {spec.dtype} cannot hold")
    if not _has_shape(sample.shape, spec):
        raise ValueError(f"the shape is {list(sample.shape)}; the model takes {_shape(spec)}")
    return sample


# --- labelled splits


def read_split(path: Path, manifest: Manifest) -> Split:
    """A labelled split: a `.jsonl`; but of texts also an `.npz` with `x` (n, …) and `y` (n,).

    Raises InputError or OSError.
    """
    if path.suffix.lower() == ".jsonl":
        return _labelled_lines(path, manifest)
    spec = manifest.sample
    if spec.kind == "text":
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
    found, samples = samples.dtype.name, _rounded(samples, spec)
    if samples.dtype != spec.dtype or not samples.ndim or not _has_shape(samples.shape[1:], spec):
        raise InputError(
            f"{path}: x is {found} of shape {list(samples.shape)}; the model takes "
            f"{spec.dtype} of shape [n, {_shape(spec)[1:]}"
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
