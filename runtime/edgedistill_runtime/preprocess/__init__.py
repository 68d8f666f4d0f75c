"""The steps from a decoded sample to the model's input: one implementation for training and device.

A step is an object of the manifest with `op` and its arguments.  All but `tokenize` work on one
sample or on a batch of them (leading dimensions pass through), and give the same bits on every
machine: with integers, with matrix products whose sums are exact, and with float operations one
after the other, never with sums or functions whose last bit is the library's choice.  So the host
trains on the very arrays that the board computes.  `tokenize` takes one text, and needs a file of
the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, unknown
from edgedistill_runtime.preprocess.images import crop, resize

Array = NDArray[Any]
Step = Callable[[Any], Array]


def normalize(scale: float, mean: Sequence[float], std: Sequence[float]) -> Step:
    """(x · scale − mean) / std, per channel.  (…, channels) of any number type -> float32."""
    if len(mean) != len(std) or not all(isinstance(n, float | int) for n in (scale, *mean, *std)):
        raise ValueError("scale must be a number, mean and std lists of numbers of one length")
    with np.errstate(over="ignore"):
        a, b, c = np.float32(scale), np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if not np.isfinite((a, *b, *c)).all() or not (c > 0).all():
        raise ValueError("the numbers must be finite, and std positive")

    def step(x: Array) -> Array:
        if x.shape[-1] != len(b):
            raise ValueError(f"{len(b)} means for {x.shape[-1]} channels")
        return cast(Array, (x.astype(np.float32) * a - b) / c)

    return step


def channels_first() -> Step:
    """(…, height, width, channels) -> (…, channels, height, width)."""
    return lambda x: np.ascontiguousarray(np.moveaxis(x, -1, -3))


def standardize(mean: Sequence[float], std: Sequence[float]) -> Step:
    """(x − mean) / std, per channel.  (…, channels, steps) of any number type -> float32."""
    step = normalize(1.0, mean, std)
    return lambda x: np.ascontiguousarray(np.moveaxis(step(np.moveaxis(x, -2, -1)), -1, -2))


def insert_axis(axis: int) -> Step:
    """An axis of size one.  −2: (…, channels, steps) -> (…, channels, 1, steps), a row for each
    channel; −3: (…, bands, frames) -> (…, 1, bands, frames), one channel."""
    if not isinstance(axis, int) or axis not in (-2, -3):
        raise ValueError("axis must be -2 or -3")
    return lambda x: np.expand_dims(x, axis)


def log_mel(
    rate_hz: float, frame: int, step: int, bands: int, low_hz: float, high_hz: float
) -> Step:
    """The spectrogram of a sound, see `sound.LogMel`.  (…, samples) int16 -> (…, bands, frames)."""
    from edgedistill_runtime.preprocess.sound import LogMel  # a camera starts without it

    return LogMel(rate_hz, frame, step, bands, low_hz, high_hz)


def tokenize(
    files: Mapping[str, bytes], /, file: str, max_length: int, max_characters: int
) -> Step:
    """A text -> the ids of its tokens.  (tokens,), int64, 1 to max_length of them."""
    from edgedistill_runtime.tokenize import TextEncoder  # a board for images starts without it

    if file not in files:
        raise BundleError(f"the preprocessing step 'tokenize' lacks its file {str(file)[:64]!r}")
    return TextEncoder.build(files[file], max_length, max_characters)


STEPS: dict[str, Callable[..., Step]] = {
    "channels_first": channels_first,
    "crop": crop,
    "insert_axis": insert_axis,
    "log_mel": log_mel,
    "normalize": normalize,
    "resize": resize,
    "standardize": standardize,
    "tokenize": tokenize,
}


def build(steps: Sequence[Mapping[str, Any]], files: Mapping[str, bytes] | None = None) -> Step:
    """One function that runs all `steps` in order.

    files: the bundle's, by name, for steps that need one.
    Raises BundleError for a step it cannot do, EngineError where a step's library is missing.
    """
    functions = [_step(step, files or {}) for step in steps]
    if len(functions) == 1:
        return functions[0]

    def run(x: Any) -> Array:
        for function in functions:
            x = function(x)
        return cast(Array, x)

    return run


def _step(step: Mapping[str, Any], files: Mapping[str, bytes]) -> Step:
    arguments = dict(step)
    op = arguments.pop("op", None)
    if not isinstance(op, str) or op not in STEPS:
        raise BundleError(unknown("preprocessing step", str(op), STEPS))
    try:
        return tokenize(files, **arguments) if op == "tokenize" else STEPS[op](**arguments)
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"the preprocessing step {op!r} has wrong arguments ({error})") from error
