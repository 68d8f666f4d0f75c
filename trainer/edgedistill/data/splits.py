"""Splits, fixed by the data alone: no recipe's seed moves a sample from one to another."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.data.sets import Dataset, Split, Steps
from edgedistill.errors import DataError
from edgedistill_runtime.manifest import Sample

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2  # of what is left for training
MIN_PER_CLASS = 8


Index = NDArray[np.int64]


def split(
    name: str,
    x: NDArray[Any],
    y: NDArray[np.int64],
    labels: tuple[str, ...],
    sample: Sample,
    groups: NDArray[np.int64] | None = None,
    *,
    validation: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    test: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    decode: Steps = (),
    features: Steps = (),
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Train, validation and test splits of labelled arrays, those given left as they are.

    Those that are made are stratified, and no group stands in two of them.  Of equal samples one
    is kept, or none if their labels differ.  Raises DataError if a class is too small.

    x: (n, …), y: (n,), groups: (n,)
    """
    given = {"validation": validation, "test": test}
    parts = {k: Split(*arrays) for k, arrays in given.items() if arrays is not None}
    missing = [part for part in given if part not in parts]
    noun = "image" if sample.kind == "image" else "window"
    rows, said = _leave_out(x, y, parts, noun)
    place = f"{name} ({'; '.join(said)})" if said else name
    for part, arrays in parts.items():
        if not len(arrays):
            raise DataError(f"{place}: the {part} split has no samples")
    counts = np.bincount(y[rows], minlength=len(labels))
    check_classes(place, counts, labels, len(rows), MIN_PER_CLASS if missing else 1)
    made = _made(place, y, rows, groups, labels, missing)
    for part, chosen in made.items():
        parts[part] = Split(x[chosen], y[chosen])
    if missing:
        held = " and ".join(f"{part} ({len(parts[part]):,})" for part in reversed(missing))
        said.append(f"{held} held out of {count_of(len(rows), noun)}")
    for part in given:
        there = np.bincount(parts[part].y, minlength=len(labels))
        said += [f"the {part} split has no {labels[i]!r}" for i in np.flatnonzero(there == 0)[:1]]
    return Dataset(
        name,
        sample,
        labels,
        parts["train"],
        parts["validation"],
        parts["test"],
        notes=(*notes, *said),
        decode=decode,
        features=features,
    )


def _leave_out(
    x: NDArray[Any], y: NDArray[np.int64], given: dict[str, Split], noun: str
) -> tuple[Index, list[str]]:
    """The training rows to keep, and what is said about the others.

    Changes `given`: validation samples that stand in the test split are taken out.
    """
    rows, keys, notes = np.arange(len(y)), _keys(x), []
    if len(given) < 2:  # a split is made from these: one copy of each
        _, first, number = np.unique(keys, return_index=True, return_inverse=True)
        differs = np.zeros(len(first), bool)
        np.logical_or.at(differs, number, y != y[first[number]])
        rows = np.sort(first[~differs])
        conflicting = int(differs[number].sum())
        duplicates = len(y) - conflicting - len(rows)
        said = [f"{count_of(duplicates, f'duplicate {noun}')}"] if duplicates else []
        said += [f"{count_of(conflicting, noun)} with conflicting labels"] if conflicting else []
        notes += [f"{' and '.join(said)} left out"] if said else []
    others = {part: _keys(arrays.x) for part, arrays in given.items()}
    if len(given) == 2:
        fresh = ~np.isin(others["validation"], others["test"])
        if not fresh.all():
            left = count_of(int((~fresh).sum()), f"validation {noun}")
            notes.append(f"{left} left out, standing in the test split too")
            part = given["validation"]
            given["validation"] = Split(part.x[fresh], part.y[fresh])
    for name, seen in others.items():
        fresh = ~np.isin(keys[rows], seen)
        if not fresh.all():
            left = count_of(int((~fresh).sum()), f"train {noun}")
            notes.append(f"{left} left out, standing in the {name} split too")
            rows = rows[fresh]
    return rows, notes


def _keys(x: NDArray[Any]) -> NDArray[np.bytes_]:
    """A digest of each sample's bytes, (n,)."""
    digests = [sha256(sample.tobytes()).hexdigest() for sample in x]
    return np.array(digests, "S64")


def _made(
    place: str,
    y: NDArray[np.int64],
    rows: Index,
    groups: NDArray[np.int64] | None,
    labels: tuple[str, ...],
    missing: list[str],
) -> dict[str, Index]:
    """Rows of the training split and of the `missing` ones, in an order unlike the file's."""
    from sklearn.model_selection import train_test_split

    shares = {"validation": VALIDATION_SHARE, "test": TEST_SHARE}
    made: dict[str, Index] = {}
    if groups is None:
        for part in reversed(missing):
            rows, made[part] = train_test_split(
                rows, test_size=shares[part], stratify=y[rows], random_state=0
            )
        made["train"] = rows if missing else rows[shuffled(len(rows))]
        return made
    if (count := len(np.unique(groups[rows]))) <= len(missing):
        raise DataError(
            f"{place}: {count_of(count, 'group')}; at least {len(missing) + 1} are needed, since "
            "none may be in two splits"
        )
    for part in reversed(missing):
        _, numbers = np.unique(groups[rows], return_inverse=True)
        stay, held = hold_out_groups(y[rows], numbers, shares[part])
        rows, made[part] = rows[stay], rows[held]
    made["train"] = rows
    for label in np.flatnonzero(np.bincount(y[rows], minlength=len(labels)) == 0)[:1]:
        count = len(np.unique(groups[y == label]))
        raise DataError(
            f"{place}: the class {labels[label]!r} has no sample left to train with: it stands in "
            f"{count_of(count, 'group')} (a recording is one), and none may be in two splits; "
            "give it more of them"
        )
    return {part: chosen[shuffled(len(chosen))] for part, chosen in made.items()}


def count_of(count: int, noun: str) -> str:
    """As in "1 image" and "2,000 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


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
