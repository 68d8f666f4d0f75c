"""From a sample to a model's input: steps of a file, or those that the input's shape asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill import settings
from edgedistill.data.audio import log_mel as spectrogram
from edgedistill.errors import SettingsError
from edgedistill.external.files import read_bytes, read_json
from edgedistill.recipe import Recipe
from edgedistill_runtime import preprocess
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.manifest import Tensor
from edgedistill_runtime.tokenize import TextEncoder

Steps = tuple[dict[str, Any], ...]
Array = NDArray[Any]
Numbers = tuple[float, ...]

TOKENIZER = "tokenizer.json"
MAX_CHARACTERS = 10_000
"""Of a text that are looked at, as in `fit`."""
FULL_SCALE = 32_768.0
WANTED = {
    "image": "[1, channels, height, width] or [1, height, width, channels], with 1 or 3 channels",
    "audio": "[1, 1, bands, frames], [1, bands, frames] or [1, 1, samples]",
    "sensor": "[1, channels, 1, steps] or [1, channels, steps]",
}
"""Inputs that the steps made here lead to."""


def files(kind: str, tokenizer: str) -> dict[str, bytes]:
    """What the steps need beside them, by the name in the bundle."""
    if kind == "text":
        if not tokenizer:
            raise SettingsError("a model for texts needs its tokenizer.json; give it, --tokenizer")
        return {TOKENIZER: read_bytes(Path(tokenizer))}
    if tokenizer:
        raise SettingsError(f"a tokenizer is for texts, and the task is {kind}-classification")
    return {}


def read(path: Path, kind: str, mean: Numbers, std: Numbers) -> Steps:
    """Steps of a file: `[[preprocess]]` tables, or a JSON list.  Raises SettingsError."""
    if kind == "text":
        raise SettingsError("texts are tokenized, and have no other preprocessing to choose")
    if mean or std:
        raise SettingsError("mean and std stand in the file of the preprocessing, if there is one")
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".json"):
        raise SettingsError(f"{path}: preprocessing stands in a .toml or a .json file")
    table = settings.read(path) if suffix == ".toml" else read_json(path)
    steps = table.get("preprocess") if isinstance(table, dict) else table
    if not isinstance(steps, list) or not steps or not all(isinstance(s, dict) for s in steps):
        form = "[[preprocess]] tables" if suffix == ".toml" else "a list of objects"
        raise SettingsError(f'{path}: no steps; they are {form}, each with "op" and its arguments')
    try:
        preprocess.build(steps)
    except BundleError as error:
        raise SettingsError(f"{path}: {error}") from None
    return tuple(steps)


def default(
    kind: str, tensor: Tensor, recipe: Recipe, mean: Numbers = (), std: Numbers = ()
) -> Steps:
    """Steps that lead to an input of this shape.  Raises SettingsError if none do.

    mean, std: of the channels, in what the network sees before them (pixels of 0 to 1); of a
    spectrogram, of its bands.  One number stands for all; empty: 0 and 1.
    """
    make = {"image": _image, "audio": _audio, "sensor": _sensor, "text": _text}[kind]
    steps = make(tensor, recipe, mean, std)
    if not steps:
        raise SettingsError(
            f"the model's input has the shape {list(tensor.shape)}; for {kind} classification it "
            f"is {WANTED[kind]}; say with --preprocess how samples become such an input"
        )
    return steps


def prepared(steps: Steps, bundled: Mapping[str, bytes], x: Array, tensor: Tensor) -> list[Array]:
    """The model's input for every sample.  Raises SettingsError if the steps do not lead there."""
    if bundled:
        (step,) = steps
        encoder = TextEncoder.build(bundled[TOKENIZER], step["max_length"], step["max_characters"])
        return [ids[None] for ids in encoder.encode_batch(x.tolist())]
    run, shape = preprocess.build(steps), list(x.shape[1:])
    try:
        with np.errstate(all="ignore"):
            one = run(x[0])[None]
    except (ValueError, TypeError, IndexError) as error:
        raise SettingsError(
            f"the preprocessing does not take samples of shape {shape} ({error})"
        ) from None
    if (one.dtype, one.shape) != (np.dtype(tensor.dtype), tensor.shape):
        raise SettingsError(
            f"the preprocessing makes {one.dtype.name} {list(one.shape)} of a sample of {shape}, "
            f"and the model takes {tensor.dtype} {list(tensor.shape)}; give other steps "
            "(--preprocess) or other data"
        )
    return [run(each)[None] for each in x]


def _text(tensor: Tensor, recipe: Recipe, mean: Numbers, std: Numbers) -> Steps:
    if mean or std:
        raise SettingsError("mean and std are for images, audio and sensors, not for texts")
    step = {"op": "tokenize", "file": TOKENIZER, "max_length": recipe.max_length}
    return ({**step, "max_characters": MAX_CHARACTERS},)


def _image(tensor: Tensor, recipe: Recipe, mean: Numbers, std: Numbers) -> Steps:
    shape = tensor.shape
    if len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
        return ()
    first = shape[1] in (1, 3)
    channels, height, width = shape[1:] if first else (shape[3], *shape[1:3])
    steps: list[dict[str, Any]] = [
        {"op": "resize", "height": height, "width": width, "fit": recipe.image_fit}
    ]
    if tensor.dtype == "float32":
        steps.append({"op": "normalize", "scale": 1 / 255, **_moments(mean, std, channels)})
    elif mean or std:
        raise SettingsError("the model takes 8-bit pixels as they are; leave out mean and std")
    if first:
        steps.append({"op": "channels_first"})
    return tuple(steps)


def _audio(tensor: Tensor, recipe: Recipe, mean: Numbers, std: Numbers) -> Steps:
    shape, rate_hz = tensor.shape, recipe.sample_rate_hz
    if len(shape) == 3 and shape[1] == 1:  # a waveform, −1 to 1
        scaled = _moments(mean, std, 1, FULL_SCALE)
        return {"op": "insert_axis", "axis": -2}, {"op": "standardize", **scaled}
    if len(shape) != 3 and (len(shape) != 4 or shape[1] != 1):
        return ()
    log_mel = spectrogram(str(list(shape)), rate_hz, rate_hz, shape[-2])
    steps = (log_mel, {"op": "standardize", **_moments(mean, std, shape[-2])})
    return (*steps, {"op": "insert_axis", "axis": -3}) if len(shape) == 4 else steps


def _sensor(tensor: Tensor, recipe: Recipe, mean: Numbers, std: Numbers) -> Steps:
    shape = tensor.shape
    if len(shape) != 3 and (len(shape) != 4 or shape[2] != 1):
        return ()
    standardize = {"op": "standardize", **_moments(mean, std, shape[1])}
    insert = {"op": "insert_axis", "axis": -2}
    return (standardize, insert) if len(shape) == 4 else (standardize,)


def _moments(mean: Numbers, std: Numbers, count: int, scale: float = 1.0) -> dict[str, list[float]]:
    return {"mean": _each("mean", mean, count, 0.0), "std": _each("std", std, count, scale)}


def _each(name: str, values: Numbers, count: int, default: float) -> list[float]:
    """One number for each channel."""
    if len(values) not in (0, 1, count):
        raise SettingsError(
            f"{name} has {len(values)} numbers; it is one, or one for each of the {count} channels"
        )
    return list(values) if len(values) == count else list(values or (default,)) * count
