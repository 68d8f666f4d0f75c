"""A log-mel spectrogram whose bits are the same on every machine.

Fourier transforms and logarithms of numerical libraries differ in their last bits from machine to
machine.  Here the transform is a matrix product of whole numbers, exact in float64; filters are
summed frequency by frequency; the logarithm is a fixed polynomial.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_FRAME, MAX_BANDS, MAX_RATE_HZ = 2048, 256, 192_000
MAX_ELEMENTS = 1 << 24
"""Of all frames of one call together."""
TABLE = 1 << 14
"""Sines and cosines are whole numbers up to this."""
WEIGHT = 1 << 15
"""Filters' weights are multiples of one over this."""
ENERGY = 2.0**-58
"""So that samples and tables count as −1 to 1: (2**15 · 2**14)**−2."""
FLOOR = 2.0**-24
"""About the energy of the noise that 16 bits make; nothing is quieter."""


class LogMel:
    """(…, samples) int16 -> (…, bands, frames) float32; frames = 1 + (samples − frame) // step.

    Of each frame: Hann window, energy of each frequency, triangular filters evenly spaced on the
    mel scale of HTK (2595 · log10(1 + f / 700)) with a peak of one, log2 of the energy plus 2**−24.
    """

    def __init__(
        self, rate_hz: float, frame: int, step: int, bands: int, low_hz: float, high_hz: float
    ) -> None:
        _check(rate_hz, frame, step, bands, low_hz, high_hz)
        self.frame, self.step, self.bands = frame, step, bands
        filters = _filters(rate_hz, frame, bands, low_hz, high_hz)
        used = np.flatnonzero(filters.any(0))
        low, high = int(used[0]), int(used[-1]) + 1
        self._table = _table(frame, low, high)  # (frame, 2 · frequencies)
        self._places, self._weights = _by_tap(filters[:, low:high])  # (taps, bands)

    def __call__(self, x: Array) -> Array:
        if x.dtype != np.int16 or not x.ndim or x.shape[-1] < self.frame:
            raise ValueError(
                f"sound is int16 of {self.frame} samples or more, not {x.dtype} {x.shape}"
            )
        frames = 1 + (x.shape[-1] - self.frame) // self.step
        if frames * self.frame > MAX_ELEMENTS:
            raise ValueError(f"{frames} frames of {self.frame} samples are too many")
        if x.ndim == 1:
            return self._one(x)
        return np.stack([self._one(row) for row in x.reshape(-1, x.shape[-1])]).reshape(
            *x.shape[:-1], self.bands, frames
        )

    def _one(self, x: Array) -> Array:
        cut = np.lib.stride_tricks.sliding_window_view(x, self.frame)[:: self.step]
        waves = cut.astype(np.float64) @ self._table  # whole numbers under 2**42
        half = waves.shape[1] // 2
        energy = waves[:, :half] ** 2 + waves[:, half:] ** 2
        energy *= ENERGY
        total = np.zeros((len(cut), self.bands))
        for places, weights in zip(self._places, self._weights, strict=True):
            total += energy[:, places] * weights
        return np.ascontiguousarray(_log2(total + FLOOR).astype(np.float32).T)


def frames_of(samples: int, frame: int, step: int) -> int:
    """How many frames a window has."""
    return 1 + (samples - frame) // step


def _check(
    rate_hz: float, frame: int, step: int, bands: int, low_hz: float, high_hz: float
) -> None:
    for name, value, most in (
        ("frame", frame, MAX_FRAME),
        ("step", step, MAX_FRAME),
        ("bands", bands, MAX_BANDS),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}")
    numbers = (rate_hz, low_hz, high_hz)
    if any(not isinstance(n, int | float) or isinstance(n, bool) for n in numbers):
        raise ValueError("rate_hz, low_hz and high_hz must be numbers")
    if not 0 < rate_hz <= MAX_RATE_HZ or not 0 <= low_hz < high_hz <= rate_hz / 2:
        raise ValueError(
            f"0 <= low_hz < high_hz <= rate_hz / 2 and rate_hz up to {MAX_RATE_HZ} must hold"
        )
    if frame < 16:
        raise ValueError("frame must be at least 16")


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def _filters(
    rate_hz: float, frame: int, bands: int, low_hz: float, high_hz: float
) -> NDArray[np.float64]:
    """(bands, frequencies), multiples of 2**−15.

    A filter that falls between two frequencies gets the nearest one.
    """
    low, high = _mel(low_hz), _mel(high_hz)
    edges = [
        700 * (10 ** ((low + (high - low) * i / (bands + 1)) / 2595) - 1) for i in range(bands + 2)
    ]
    hertz = [k * rate_hz / frame for k in range(frame // 2 + 1)]
    made = np.zeros((bands, len(hertz)))
    for band, (left, middle, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k, f in enumerate(hertz):
            weight = min((f - left) / (middle - left), (right - f) / (right - middle))
            made[band, k] = round(max(0.0, weight) * WEIGHT) / WEIGHT
        if not made[band].any():
            made[band, min(range(len(hertz)), key=lambda k: abs(hertz[k] - middle))] = 1.0
    return made


def _table(frame: int, low: int, high: int) -> NDArray[np.float64]:
    """Windowed cosines, then sines, of the frequencies from `low` to before `high`, times 2**14."""
    turn = 2 * math.pi / frame
    window = [0.5 - 0.5 * math.cos(turn * n) for n in range(frame)]
    wave = [(math.cos(turn * n), math.sin(turn * n)) for n in range(frame)]
    places = np.arange(frame)[:, None] * np.arange(low, high) % frame
    scale = np.array(window)[:, None] * TABLE
    parts = [np.array([pair[part] for pair in wave])[places] * scale for part in (0, 1)]
    made: NDArray[np.float64] = np.rint(np.concatenate(parts, axis=1))
    return made


def _by_tap(filters: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each filter as a run of frequencies from its first one on: (taps, bands), (taps, bands)."""
    first = (filters > 0).argmax(1)
    widths = filters.shape[1] - (filters > 0)[:, ::-1].argmax(1) - first
    taps = np.arange(widths.max())[:, None]
    places = np.minimum(first + taps, filters.shape[1] - 1)
    weights = np.where(taps < widths, filters[np.arange(len(filters)), places], 0.0)
    return places, weights


def _log2(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2 of positive numbers, to 1e-9: 2**e · m, and the series of atanh at m around √½."""
    mantissa, exponent = np.frexp(x)  # 0.5 <= mantissa < 1
    root = 0.7071067811865476
    s = (mantissa - root) / (mantissa + root)
    square = s * s
    series = square * (1 / 11) + 1 / 9
    for coefficient in (1 / 7, 1 / 5, 1 / 3, 1.0):
        series = series * square + coefficient
    return exponent - 0.5 + s * series * 2.8853900817779268  # 2 / ln 2
