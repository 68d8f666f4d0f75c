"""Data with smaller samples, as far as their cost goes: what else would fit a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgedistill.data import Dataset, Split
from edgedistill.data.images import MIN_SIDE
from edgedistill.recipe import Recipe
from edgedistill_runtime.manifest import ANY_SIZE

SHARES = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
"""Of a side, or of a length, that are tried, the largest first."""
LEAST_STEPS, LEAST_TOKENS = 8, 4
LEAST_FRAMES = 4


@dataclass(frozen=True)
class Smaller:
    """A recipe's data with smaller samples; for pricing alone, its splits are empty of content."""

    option: str
    """As the command line has it."""
    keys: dict[str, Any]
    """As the recipe has it."""
    data: Dataset


def smaller(data: Dataset, recipe: Recipe) -> Iterator[Smaller]:
    """Sizes of one sample that the recipe could ask for, the largest first."""
    kind = data.sample.kind
    make = {"image": _image, "audio": _sound, "sensor": _readings, "text": _text}[kind]
    seen = set()
    for share in SHARES:
        found = make(data, recipe, share)
        if found is not None and found.option not in seen:
            seen.add(found.option)
            yield found


def _image(data: Dataset, recipe: Recipe, share: float) -> Smaller | None:
    channels, height, width = data.input_shape
    size = max(1, round(height * share)), max(1, round(width * share))
    if min(size) < MIN_SIDE or size == (height, width):
        return None
    step = {"op": "resize", "height": size[0], "width": size[1], "fit": recipe.image_fit}
    sample = replace(data.sample, shape=(*ANY_SIZE, channels))
    one = _one(np.zeros((1, *size, channels), np.uint8))
    square = size[0] == size[1]
    return Smaller(
        f"--image-size {size[0]}" + ("" if square else f"x{size[1]}"),
        {"image_size": size[0] if square else size},
        replace(data, sample=sample, decode=(step,), train=one, validation=one, test=one),
    )


def _sound(data: Dataset, recipe: Recipe, share: float) -> Smaller | None:
    (mel,) = (step for step in data.features if step["op"] == "log_mel")
    rate = float(mel["rate_hz"])
    window_s = math.floor(100 * share * data.sample.shape[0] / rate) / 100
    window = round(window_s * rate)
    if window < mel["frame"] + LEAST_FRAMES * mel["step"] or window_s < (recipe.hop_s or 0):
        return None
    sample = replace(data.sample, shape=(window,), hop=data.sample.hop if recipe.hop_s else None)
    one = _one(np.zeros((1, window), np.int16))
    return Smaller(
        f"--window-s {window_s:g}",
        {"window_s": window_s},
        replace(data, sample=sample, train=one, validation=one, test=one),
    )


def _readings(data: Dataset, recipe: Recipe, share: float) -> Smaller | None:
    channels, _, steps = data.input_shape
    window = round(steps * share)
    if window < max(LEAST_STEPS, recipe.hop or 0):
        return None
    one = _one(np.zeros((1, channels, window), np.float32))
    sample = replace(data.sample, shape=(channels, window))
    return Smaller(
        f"--window {window}",
        {"window": window},
        replace(data, sample=sample, train=one, validation=one, test=one),
    )


def _text(data: Dataset, recipe: Recipe, share: float) -> Smaller | None:
    tokens = round(data.tokens * share)
    if tokens < LEAST_TOKENS:
        return None
    return Smaller(f"--max-length {tokens}", {"max_length": tokens}, replace(data, tokens=tokens))


def _one(x: Any) -> Split:
    return Split(x, np.zeros(1, np.int64))
