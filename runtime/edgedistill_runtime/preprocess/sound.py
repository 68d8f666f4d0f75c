"""A log-mel spectrogram whose bits are the same on every machine.

Fourier transforms, sines and logarithms of numerical libraries differ in their last bits from
machine to machine.  Here the transform is a matrix product of whole numbers, exact in float64;
filters are summed frequency by frequency; sines and logarithms are fixed polynomials.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
MAX_FRAME, MAX_BANDS, MAX_RATE_HZ = 2048, 256, 192_000
MAX_ELEMENTS = 1 << 24
"""Of all frames of one sound together, and of its spectrogram."""
BLOCK = 1 << 18
"""Samples whose frames are worked on at once."""
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
        self._low, self._high = int(used[0]), int(used[-1]) + 1
        self._taps = _by_tap(filters[:, self._low : self._high])

    @cached_property
    def _tables(self) -> tuple[Floats, Floats]:
        """Made when the first sound comes: of steps that cannot follow each other, none is."""
        return _tables(self.frame, self._low, self._high)

    def __call__(self, x: Array) -> Array:
        if x.dtype != np.int16 or not x.ndim or x.shape[-1] < self.frame:
            raise ValueError(
                f"sound is int16 of {self.frame} samples or more, not {x.dtype} {x.shape}"
            )
        frames = frames_of(x.shape[-1], self.frame, self.step)
        if frames * max(self.frame, self.bands) > MAX_ELEMENTS:
            raise ValueError(
                f"{frames} frames of {self.frame} samples and {self.bands} bands are too many"
            )
        made = np.empty((*x.shape[:-1], self.bands, frames), np.float32)
        for sound, values in zip(
            x.reshape(-1, x.shape[-1]), made.reshape(-1, self.bands, frames), strict=True
        ):
            self._fill(values, np.lib.stride_tricks.sliding_window_view(sound, self.frame))
        return made

    def _fill(self, values: Array, cut: Array) -> None:
        """values: (bands, frames).  cut: (samples − frame + 1, frame), a frame at every sample."""
        cut = cut[:: self.step]
        size = max(1, BLOCK // max(self.frame, self.bands))
        for start in range(0, len(cut), size):
            energy = self._energy(cut[start : start + size])  # (frequencies, frames)
            total = np.zeros((self.bands, energy.shape[1]))
            for first, places, weights in self._taps:
                total[first:] += energy[places] * weights
            values[:, start : start + size] = _log2(total + FLOOR)

    def _energy(self, cut: Array) -> Floats:
        """Window and cosine are the same from both ends of a frame, a sine changes its sign: the
        samples n and N − n are added, or subtracted, before they are multiplied."""
        cosines, sines = self._tables
        near = cut[:, 1 : self.frame // 2 + 1].astype(np.float64)
        far = cut[:, : (self.frame - 1) // 2 : -1].astype(np.float64)
        real = cosines @ (near + far).T  # whole numbers under 2**42
        imaginary = sines @ (near - far).T
        real *= real
        imaginary *= imaginary
        real += imaginary
        real *= ENERGY
        return real


def frames_of(samples: int, frame: int, step: int) -> int:
    """How many frames a window has."""
    return 1 + (samples - frame) // step


def _check(
    rate_hz: float, frame: int, step: int, bands: int, low_hz: float, high_hz: float
) -> None:
    for name, value, least, most in (
        ("frame", frame, 16, MAX_FRAME),
        ("step", step, 1, MAX_FRAME),
        ("bands", bands, 1, MAX_BANDS),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}")
    numbers = (rate_hz, low_hz, high_hz)
    if any(not isinstance(n, int | float) or isinstance(n, bool) for n in numbers):
        raise ValueError("rate_hz, low_hz and high_hz must be numbers")
    if not 0 < rate_hz <= MAX_RATE_HZ or not 0 <= low_hz < high_hz <= rate_hz / 2:
        raise ValueError(
            f"0 <= low_hz < high_hz <= rate_hz / 2 and rate_hz up to {MAX_RATE_HZ} must hold"
        )


def _filters(rate_hz: float, frame: int, bands: int, low_hz: float, high_hz: float) -> Floats:
    """(bands, frequencies), multiples of 2**−15.

    A filter that falls between two frequencies gets the nearest one.
    """
    edges = _edges(bands, low_hz, high_hz)
    if not (np.diff(edges) > 0).all():
        raise ValueError("high_hz is too near to low_hz for so many bands")
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.arange(frame // 2 + 1) * float(rate_hz) / frame
    with np.errstate(over="ignore"):
        weights = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle))
    made: Floats = np.rint(np.maximum(weights, 0) * WEIGHT) / WEIGHT
    for band in np.flatnonzero(~made.any(1)):
        made[band, np.abs(hertz - middle[band]).argmin()] = 1.0
    return made


def _edges(bands: int, low_hz: float, high_hz: float) -> Floats:
    """Evenly spaced on the mel scale, (bands + 2,), Hz: their distances from −700 Hz have a
    constant ratio."""
    with localcontext(Context(prec=40)):  # correctly rounded, which powers of floats are not
        low, high = 700 + Decimal(low_hz), 700 + Decimal(high_hz)
        ratio = (high / low).ln() / (bands + 1)
        return np.array([float(low * (ratio * i).exp() - 700) for i in range(bands + 2)])


def _tables(frame: int, low: int, high: int) -> tuple[Floats, Floats]:
    """Windowed cosines, and sines, of the frequencies from `low` to before `high`, times 2**14.

    (frequencies, frame // 2): for the samples from 1 to the middle.
    """
    cosine, sine = _circle(frame)
    n = np.arange(1, frame // 2 + 1)
    window = (0.5 - 0.5 * cosine[n]) * TABLE
    places = np.arange(low, high)[:, None] * n % frame
    tables = [np.rint(wave[places] * window) for wave in (cosine, sine)]
    if frame % 2 == 0:
        tables[0][:, -1] /= 2  # the middle is added to itself
    return tables[0], tables[1]


def _circle(count: int) -> tuple[Floats, Floats]:
    """Cosine and sine of n / count of a full turn, for n from 0 to before count."""
    quarter, rest = np.divmod(4 * np.arange(count), count)
    beyond = 2 * rest > count  # over 45°: as of what is left to 90°, cosine and sine swapped
    angle = np.where(beyond, count - rest, rest) * (math.pi / 2) / count
    square = angle * angle
    even, odd = np.zeros(count), np.zeros(count)
    for power in range(18, -1, -2):
        sign = 1 - power % 4
        even = even * square + sign / math.factorial(power)
        odd = odd * square + sign / math.factorial(power + 1)
    odd *= angle
    a, b = np.where(beyond, odd, even), np.where(beyond, even, odd)
    return np.choose(quarter, [a, -b, -a, b]), np.choose(quarter, [b, a, -b, -a])


def _by_tap(filters: Floats) -> list[tuple[int, NDArray[np.int64], Floats]]:
    """Each filter as a run of frequencies from its first one on.

    Of the first frequency of all filters, then the second, …: the first filter that has so many,
    and of it and those after it the places (filters,) and weights (filters, 1).
    """
    start = (filters > 0).argmax(1)
    widths = filters.shape[1] - (filters > 0)[:, ::-1].argmax(1) - start
    made = []
    for tap in range(int(widths.max())):
        first = int((widths > tap).argmax())
        bands = np.arange(first, len(filters))
        places = np.minimum(start[bands] + tap, filters.shape[1] - 1)
        weights = np.where(tap < widths[bands], filters[bands, places], 0.0)
        made.append((first, places, weights[:, None]))
    return made


def _log2(x: Floats) -> Floats:
    """log2 of positive numbers, to 1e-9: 2**e · m, and the series of atanh at m around √½."""
    mantissa, exponent = np.frexp(x)  # 0.5 <= mantissa < 1
    root = 0.7071067811865476
    s = (mantissa - root) / (mantissa + root)
    square = s * s
    series = square * (1 / 11) + 1 / 9
    for coefficient in (1 / 7, 1 / 5, 1 / 3, 1.0):
        series = series * square + coefficient
    return exponent - 0.5 + s * series * 2.8853900817779268  # 2 / ln 2
