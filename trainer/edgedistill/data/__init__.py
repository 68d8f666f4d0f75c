"""Data sources: a name or a path becomes labelled splits of decoded samples.

Splits are stratified and fixed: they depend on the data alone, never on a recipe's seed, so that
two runs are judged on the same test samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.cache import digest
from edgedistill.errors import DataError, unknown
from edgedistill_runtime.manifest import Sample

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2  # of what is left for training
MIN_PER_CLASS = 8


@dataclass(frozen=True)
class Split:
    x: NDArray[np.uint8]
    """Decoded samples, (n, height, width, channels)."""
    y: NDArray[np.int64]
    """Index of each sample's label, (n,)."""

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

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every sample and label of the three splits."""
        arrays = [a for s in (self.train, self.validation, self.test) for a in (s.x, s.y)]
        return digest(list(self.labels), *(np.ascontiguousarray(a).tobytes() for a in arrays))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample as the network sees it: (channels, height, width)."""
        height, width, channels = self.sample.shape
        return channels, height, width


def load(source: str) -> Dataset:
    """Load a data set by its built-in name or from an `.npz` file.  Raises DataError."""
    if source in BUILT_IN:
        return split(source, *BUILT_IN[source]())
    path = Path(source)
    if path.suffix != ".npz" and not path.exists():
        raise DataError(
            unknown("data set", source, BUILT_IN) + "; or give the path of an .npz file"
        )
    from edgedistill.data.arrays import read_npz

    return split(path.stem, *read_npz(path))


def split(
    name: str, images: NDArray[np.uint8], targets: NDArray[np.int64], labels: tuple[str, ...]
) -> Dataset:
    """Stratified train, validation and test splits.  Raises DataError if a class is too small."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(targets, minlength=len(labels))
    if len(labels) < 2:
        found = "only one class" if labels else "no samples"
        raise DataError(f"{name}: {found}; a classifier needs two classes or more")
    if counts.min() < MIN_PER_CLASS:
        label = labels[int(counts.argmin())]
        raise DataError(
            f"{name}: the class {label!r} has {counts.min()} samples; at least {MIN_PER_CLASS} are "
            "needed to train, choose and test"
        )
    rest, test = train_test_split(
        np.arange(len(targets)), test_size=TEST_SHARE, stratify=targets, random_state=0
    )
    train, validation = train_test_split(
        rest, test_size=VALIDATION_SHARE, stratify=targets[rest], random_state=0
    )
    return Dataset(
        name,
        Sample("image", "uint8", images.shape[1:]),
        labels,
        *(Split(images[i], targets[i]) for i in (train, validation, test)),
    )


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """scikit-learn's digits: 1,797 images of 8×8 pixels, 0 to 16, spread here over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, bunch.target.astype(np.int64), tuple(map(str, bunch.target_names))


BUILT_IN = {"digits": _digits}
