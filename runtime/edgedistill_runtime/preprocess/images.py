"""Resizing and cropping of 8-bit images, in integers.

A row of the result is a weighted mean of some rows of the image, and a column of some columns; the
weights are a triangle (bilinear; when shrinking as wide as the shrinking, so that nothing aliases),
whole numbers that sum to 2**14.  Their products with pixels and all sums of these are whole numbers
under 2**24, which float32 holds exactly: the matrix products give the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import InputError

Array = NDArray[Any]
Step = Callable[[Any], Array]
Tap = tuple[int, int, NDArray[np.float32]]
"""First pixel, one past the last, and their weights."""

MAX_SIDE, MAX_PIXELS = 4096, 1 << 22
MAX_IMAGE_SIDE = 1 << 16
"""Of what is resized; the weights of one side are as many."""
BITS = 14
FITS = ("stretch", "crop", "pad")


def resize(height: int, width: int, fit: str = "stretch") -> Step:
    """(…, h, w, channels) uint8 -> (…, height, width, channels) uint8, for any h and w.

    fit: `stretch` changes the proportions; `crop` takes the middle that has the new proportions;
    `pad` keeps all, with black around it.  An image of the new size stays as it is.
    The step raises InputError for an image with a side of over 65,536 pixels.
    """
    _check_size(height, width)
    if fit not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}")

    def step(x: Array) -> Array:
        _check_image(x)
        h, w = x.shape[-3:-1]
        if (h, w) == (height, width):
            return x
        if max(h, w) > MAX_IMAGE_SIDE:
            raise InputError(
                f"an image of {w}×{h} has a side of over {MAX_IMAGE_SIDE:,} pixels; make it smaller"
            )
        if fit == "crop":
            h, w = _proportioned(h, w, height, width)
            return _resized(_middle(x, h, w), height, width)
        if fit == "pad":
            inner_h, inner_w = _proportioned(height, width, h, w)
            inner = _resized(x, inner_h, inner_w)
            made = np.zeros((*x.shape[:-3], height, width, x.shape[-1]), np.uint8)
            top, left = (height - inner_h) // 2, (width - inner_w) // 2
            made[..., top : top + inner_h, left : left + inner_w, :] = inner
            return made
        return _resized(x, height, width)

    return step


def crop(height: int, width: int) -> Step:
    """The middle of images that are at least as large.  (…, h, w, c) -> (…, height, width, c)."""
    _check_size(height, width)

    def step(x: Array) -> Array:
        _check_image(x)
        h, w = x.shape[-3:-1]
        if h < height or w < width:
            raise ValueError(f"an image of {w}×{h} has no middle of {width}×{height}")
        return np.ascontiguousarray(_middle(x, height, width))

    return step


def _check_size(height: int, width: int) -> None:
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= MAX_SIDE:
            raise ValueError(f"height and width must be whole numbers from 1 to {MAX_SIDE}")
    if height * width > MAX_PIXELS:
        raise ValueError(f"{height}×{width} are over {MAX_PIXELS} pixels")


def _check_image(x: Array) -> None:
    if x.dtype != np.uint8 or x.ndim < 3 or not min(x.shape[-3:]):
        raise ValueError(f"an image is uint8 [height, width, channels], not {x.dtype} {x.shape}")


def _proportioned(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """The largest size within h×w that has the proportions of height×width, to a pixel."""
    if h * width > w * height:
        return max(1, (2 * w * height + width) // (2 * width)), w
    return h, max(1, (2 * h * width + height) // (2 * height))


def _middle(x: Array, height: int, width: int) -> Array:
    top, left = (x.shape[-3] - height) // 2, (x.shape[-2] - width) // 2
    return x[..., top : top + height, left : left + width, :]


def _resized(x: Array, height: int, width: int) -> Array:
    """Rows first, but columns first if rows are added: between the two it is never larger than
    both the image and the result."""
    if x.shape[-3] >= height:
        return _wide(_high(x, height), width)
    return _high(_wide(x, width), height)


def _high(x: Array, height: int) -> Array:
    """(…, h, w, channels) -> (…, height, w, channels)."""
    *batch, h, w, channels = x.shape
    if h == height:
        return x
    rows = x.reshape(-1, h, w * channels)
    made = np.empty((len(rows), height, w * channels), np.uint8)
    for i, (low, high, weights) in enumerate(_taps(h, height)):
        made[:, i] = _rounded(weights @ rows[:, low:high].astype(np.float32))
    return made.reshape(*batch, height, w, channels)


def _wide(x: Array, width: int) -> Array:
    """(…, h, w, channels) -> (…, h, width, channels)."""
    if x.shape[-2] == width:
        return np.ascontiguousarray(x)
    return np.ascontiguousarray(np.swapaxes(_high(np.swapaxes(x, -2, -3), width), -2, -3))


def _rounded(sums: NDArray[np.float32]) -> NDArray[np.uint8]:
    whole = sums.astype(np.int32) + (1 << BITS - 1)
    return (whole >> BITS).astype(np.uint8)


@lru_cache(maxsize=32)
def _taps(size: int, wanted: int) -> tuple[Tap, ...]:
    """For each of the wanted pixels, which pixels it is made of.

    The middle of pixel x of the image lies at (2x + 1) · wanted, that of pixel i of the result at
    (2i + 1) · size; a weight falls from 2 · max(size, wanted) by their distance.
    """
    reach = 2 * max(size, wanted)
    made = []
    for i in range(wanted):
        middle = (2 * i + 1) * size
        low = max(0, ((middle - reach) // wanted - 1) // 2)
        high = min(size, ((middle + reach) // wanted + 1) // 2 + 1)
        weights = reach - np.abs((2 * np.arange(low, high, dtype=np.int64) + 1) * wanted - middle)
        kept = np.flatnonzero(weights > 0)
        low, weights = low + int(kept[0]), weights[kept[0] : kept[-1] + 1]
        total = int(weights.sum())
        sums = (2 * weights.cumsum() * (1 << BITS) + total) // (2 * total)
        scaled = np.diff(sums, prepend=0)  # rounded so that errors do not add up, and none is lost
        made.append((low, low + len(scaled), scaled.astype(np.float32)))
    return tuple(made)
