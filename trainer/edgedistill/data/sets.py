"""What a data source becomes: labelled splits of decoded samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.cache import digest
from edgedistill_runtime.manifest import Sample


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
class Split:
    x: NDArray[Any]
    """Decoded samples: images uint8 (n, height, width, channels), or texts, objects (n,)."""
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

    @property
    def task(self) -> str:
        return f"{self.sample.kind}-classification"

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several labels, or none."""
        return self.train.y.ndim == 2

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every sample and label of the splits."""
        extra = [] if self.unlabelled is None else [self.unlabelled]
        splits = [self.train, self.validation, self.test, *extra]
        return digest(list(self.labels), *(_plain(a) for s in splits for a in (s.x, s.y)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the network sees it: (channels, height, width), or (tokens,)."""
        if self.sample.kind == "text":
            return (self.tokens,)
        height, width, channels = self.sample.shape
        return channels, height, width


def _plain(array: NDArray[Any]) -> Any:
    if array.dtype == object:
        return array.tolist()
    return np.ascontiguousarray(array).tobytes()
