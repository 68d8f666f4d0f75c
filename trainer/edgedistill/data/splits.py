"""Splits, fixed by the data alone: no recipe's seed moves a sample from one to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgedistill.data.sets import Dataset, Split
from edgedistill.errors import DataError
from edgedistill_runtime.manifest import Sample

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2  # of what is left for training
MIN_PER_CLASS = 8

Index = NDArray[np.int64]


def split(
    name: str, images: NDArray[np.uint8], targets: NDArray[np.int64], labels: tuple[str, ...]
) -> Dataset:
    """Stratified train, validation and test splits.  Raises DataError if a class is too small."""
    from sklearn.model_selection import train_test_split

    check_classes(name, np.bincount(targets, minlength=len(labels)), labels, len(targets))
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
        train=Split(images[train], targets[train]),
        validation=Split(images[validation], targets[validation]),
        test=Split(images[test], targets[test]),
    )


def check_classes(
    place: str,
    counts: NDArray[np.int64],
    labels: tuple[str, ...],
    samples: int,
    least: int = MIN_PER_CLASS,
) -> None:
    """Raise DataError unless there are two classes or more, each of them large enough."""
    if len(labels) < 2:
        found = "only one class" if labels else "no labels" if samples else "no samples"
        raise DataError(f"{place}: {found}; a classifier needs two classes or more")
    if counts.min() < least:
        label, count = labels[int(counts.argmin())], int(counts.min())
        purpose = "to train, choose and test" if least > 1 else "to train"
        raise DataError(
            f"{place}: the class {label!r} has {count} sample{'s' * (count != 1)}; at least "
            f"{least} {'are' if least > 1 else 'is'} needed {purpose}"
        )


def hold_out(y: NDArray[np.int64], share: float) -> tuple[Index, Index]:
    """Rows that stay and rows held out, with nearly the same share of every label.

    The rows are laid out by label, in random order within a label, and one in every 1/share is
    taken.  Rows with several labels are laid out by the rarest of them first.

    y: (n,), or (n, classes) 0 and 1
    """
    keys = [y] if y.ndim == 1 else [y[:, i] for i in np.argsort(-y.sum(0), kind="stable")]
    shuffled = _random().permutation(len(y))
    order = np.lexsort((shuffled, *keys))  # the last key counts most
    every = round(1 / share)
    held = np.zeros(len(y), bool)
    held[order[every // 2 :: every]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def hold_out_groups(
    y: NDArray[np.int64], groups: NDArray[np.int64], share: float
) -> tuple[Index, Index]:
    """As `hold_out`, and no group is in both.

    The groups, those with most rows first, are dealt into 1/share heaps: each to the heap that has
    least of its labels so far.

    groups: (n,), from 0 up without gaps; at least two
    """
    labels = y if y.ndim == 2 else np.eye(y.max() + 1, dtype=np.int64)[y]
    counts = np.zeros((groups.max() + 1, labels.shape[1] + 1))
    np.add.at(counts, groups, np.column_stack([labels, np.ones(len(y), np.int64)]))
    counts /= np.maximum(counts.sum(0), 1)  # share of each label, and of the rows
    heaps = min(round(1 / share), len(counts))
    loads = np.zeros((heaps, counts.shape[1]))
    heap_of = np.empty(len(counts), np.int64)
    shuffled = _random().permutation(len(counts))
    for group in shuffled[np.argsort(-counts[shuffled].max(1), kind="stable")]:
        heap_of[group] = (loads @ counts[group]).argmin()
        loads[heap_of[group]] += counts[group]
    uneven = np.square(loads - share).sum(1)
    held = heap_of[groups] == uneven.argmin()
    return np.flatnonzero(~held), np.flatnonzero(held)


def shuffled(count: int) -> Index:
    """Every row once, in an order that does not follow the file's."""
    return _random().permutation(count)


def _random() -> np.random.RandomState:
    return np.random.RandomState(0)  # its stream is the same in every version of numpy
