"""What a data source becomes: labelled splits of decoded samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.cache import digest
from edgedistill_runtime.manifest import Sample

Steps = tuple[dict[str, Any], ...]
"""Preprocessing steps, as the manifest has them."""


@dataclass(frozen=True)
class Columns:
    """Where a table holds what; empty is found by name and content."""

    text: str = ""
    label: str = ""
    group: str = ""
    """Rows of one group (a writer, a conversation) never stand in two splits; empty: no groups."""
    label_separator: str = ""
    """Between the labels of one cell, where a row may have several or none."""
    unlabelled: str = ""
    """Path of a table or text file with more texts, without labels."""


@dataclass(frozen=True)
class Decoding:
    """How files become samples of one shape."""

    image_size: tuple[int, int] | None = None
    """(height, width); None: that of the files if they have one of at most 256 a side, else
    64×64."""
    image_fit: str = "crop"
    """What happens to images of another shape: "crop", "pad" or "stretch"."""
    image_colours: str = "auto"
    """Colours that a sample has: "grey", "rgb", or "auto", grey where every file is."""
    rate_hz: int = 16_000
    """Of audio, as the model hears it."""
    window_s: float | None = None
    """Length of audio that is classified at once; None: the longest clip, up to 2 s."""
    hop_s: float | None = None
    """From one window of audio to the next; None: the window."""
    mel_bands: int = 40
    window: int | None = None
    """Steps of a sensor's recording that are classified at once; None: 128."""
    hop: int | None = None
    """Steps from one window to the next; None: half a window."""


@dataclass(frozen=True)
class Recordings:
    """Images, or windows cut from recordings of sound or of sensors, before they are split."""

    x: NDArray[Any]
    """Images uint8 (n, height, width, channels), audio int16 (n, samples), or sensor data float32
    (n, channels, steps)."""
    y: NDArray[np.int64]
    """Index of each sample's label, (n,)."""
    labels: tuple[str, ...]
    groups: NDArray[np.int64] | None
    """Samples of one group never stand in two splits, (n,); None: every sample may go anywhere."""
    sample: Sample
    features: Steps = ()
    notes: tuple[str, ...] = ()
    test: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    """x and y of a test split that was given."""
    validation: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    decode: Steps = ()


@dataclass(frozen=True)
class Split:
    x: NDArray[Any]
    """Decoded samples: images uint8 (n, height, width, channels), audio int16 (n, samples), sensor
    data float32 (n, channels, steps), or texts, objects (n,)."""
    y: NDArray[np.int64]
    """Index of each sample's label, (n,); or 0 and 1, (n, classes); -1 is not labelled."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    name: str
    sample: Sample
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    unlabelled: Split | None = None
    """Samples to learn from the teacher's answers alone."""
    tokens: int = 64
    """Of a text, as the network sees it at most."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what was found, made and left out."""
    decode: Steps = ()
    """Steps from the device's sample to what x holds: the `resize` of images of any size."""
    features: Steps = ()
    """Steps from x to what is normalised: the `log_mel` of audio."""

    @property
    def task(self) -> str:
        return f"{self.sample.kind}-classification"

    @property
    def hop_s(self) -> float | None:
        """From one window of sound to the next; None for other data."""
        if self.sample.kind != "audio" or not self.sample.rate_hz:
            return None
        return (self.sample.hop or self.sample.shape[0]) / self.sample.rate_hz

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several labels, or none."""
        return self.train.y.ndim == 2

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every sample and label of the splits, and how samples are made and read."""
        extra = [] if self.unlabelled is None else [self.unlabelled]
        splits = [self.train, self.validation, self.test, *extra]
        parts: list[Any] = []
        if self.sample.kind in ("audio", "sensor") or self.decode:
            parts = [asdict(self.sample), self.decode, self.features]
        return digest(list(self.labels), *(_plain(a) for s in splits for a in (s.x, s.y)), *parts)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the network sees it.

        (channels, height, width) of an image, (1, bands, frames) of audio, (channels, 1, steps) of
        a sensor, (tokens,) of a text
        """
        shape = self.sample.shape
        if self.sample.kind == "text":
            return (self.tokens,)
        if self.sample.kind == "audio":
            (mel,) = (step for step in self.features if step["op"] == "log_mel")
            return 1, mel["bands"], 1 + (shape[0] - mel["frame"]) // mel["step"]
        if self.sample.kind == "sensor":
            return shape[0], 1, shape[1]
        if self.sample.any_size:
            (size,) = (step for step in self.decode if step["op"] == "resize")
            return shape[2], size["height"], size["width"]
        return shape[2], shape[0], shape[1]


def _plain(array: NDArray[Any]) -> Any:
    if array.dtype == object:
        return array.tolist()
    return np.ascontiguousarray(array).tobytes()
