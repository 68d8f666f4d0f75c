"""Sound: networks of ours see a log-mel spectrogram, teachers of transformers the waveform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch

from edgedistill.data import Dataset
from edgedistill.samples import ArraySamples, Index, Inputs, Samples
from edgedistill.tasks.base import Array, Prepared, Steps, moments, prepared

MAX_SHIFT_S = 0.1
MAX_GAIN_DB = 6.0
NOISE_DB = (-45.0, -15.0)
"""Of the added noise, against the clip's own level."""
FULL_SCALE = 32768.0


@dataclass(frozen=True)
class Waveforms:
    """The encoder of a teacher that takes waveforms."""

    rate_hz: int


class AudioClassification(Prepared):
    """One label a window of sound."""

    name = "audio-classification"

    def __init__(self, data: Dataset, metric: str = "") -> None:
        super().__init__(data, metric)
        self.rate_hz = int(data.sample.rate_hz or 0)
        spectra = prepared(data.features, data.train.x).numpy()  # (n, bands, frames)
        self.mean, self.std = moments(spectra, (0, 2))
        standardize = {"op": "standardize", "mean": self.mean, "std": self.std}
        self.steps: Steps = (*data.features, standardize, {"op": "insert_axis", "axis": -3})

    def views(self, x: Array, count: int, seed: int) -> list[Array]:
        """Waveforms; the augmented ones are moved by up to 0.1 s, 6 dB louder or softer, and have
        white noise added, 15 to 45 dB below their own level.

        x: (n, samples) int16
        """
        generator = np.random.default_rng(seed)
        made = [x]
        shifts = round(MAX_SHIFT_S * self.rate_hz)
        for _ in range(count - 1):
            view = np.empty_like(x)
            for i, clip in enumerate(x):
                moved = _moved(clip, int(generator.integers(-shifts, shifts + 1)))
                gain = 10 ** (generator.uniform(-MAX_GAIN_DB, MAX_GAIN_DB) / 20)
                wave = moved.astype(np.float32) * np.float32(gain)
                level = np.sqrt(np.mean(np.square(wave, dtype=np.float64)))
                noise = level * 10 ** (generator.uniform(*NOISE_DB) / 20)
                wave += generator.standard_normal(len(wave), np.float32) * np.float32(noise)
                view[i] = np.clip(np.rint(wave), -32768, 32767)
            made.append(view)
        return made

    def samples(self, views: Sequence[Array], encoder: Waveforms | None) -> Samples:
        if encoder is not None:
            return WaveformSamples(views, self.rate_hz, encoder.rate_hz)
        return ArraySamples(torch.cat([self.prepare(view) for view in views]))


class WaveformSamples:
    """Rows of waveforms, −1 to 1, at a teacher's rate.  views: (n, samples) int16 each"""

    lengths: Index | None = None

    def __init__(self, views: Sequence[Array], rate_hz: int, wanted_hz: int) -> None:
        self.views, self.count = views, len(views[0])
        self.rates = rate_hz, wanted_hz
        divisor = gcd(rate_hz, wanted_hz)
        self.up, self.down = wanted_hz // divisor, rate_hz // divisor

    def __len__(self) -> int:
        return self.count * len(self.views)

    def batch(self, rows: Index) -> Inputs:
        """-> (b, samples) float32"""
        clips = np.stack([self.views[row // self.count][row % self.count] for row in rows])
        waves = clips.astype(np.float32) / np.float32(FULL_SCALE)
        if self.up != self.down:
            from scipy.signal import resample_poly

            waves = resample_poly(waves, self.up, self.down, axis=1).astype(np.float32)
        return (torch.from_numpy(waves),)

    def one(self, row: int) -> Array:
        array: Array = self.batch(np.array([row]))[0].numpy()
        return array

    def first(self, count: int) -> Samples:
        if count % self.count:
            return ArraySamples(self.batch(np.arange(count))[0])
        return WaveformSamples(self.views[: count // self.count], *self.rates)


def _moved(clip: Array, shift: int) -> Array:
    """The clip later by `shift` samples, with silence before it (or after it, if negative)."""
    moved = np.zeros_like(clip)
    if shift >= 0:
        moved[shift:] = clip[: len(clip) - shift]
    else:
        moved[:shift] = clip[-shift:]
    return moved
