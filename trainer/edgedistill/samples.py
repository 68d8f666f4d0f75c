"""Samples as one network takes them: rows of prepared inputs, cut into batches.

Several views of a split are one run of rows: view v of sample i of n is row v · n + i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Inputs = tuple[Tensor, ...]
"""What a network is called with."""
Index = NDArray[np.int64]
EVALUATION_TOKENS = 1024
"""Of a batch that learns nothing: its activations stay in a core's cache."""
ACCELERATOR_TOKENS = 16_384
EVALUATION_ROWS = 512


class Samples(Protocol):
    """Rows of inputs."""

    lengths: Index | None
    """Tokens of each row, where rows differ in length."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Index) -> Inputs:
        """The inputs of these rows, padded to the longest of them."""

    def one(self, row: int) -> NDArray[np.generic]:
        """The input of the exported model for one row, batch of one."""

    def first(self, count: int) -> Samples:
        """The first rows alone."""


class ArraySamples:
    """Rows of equal shape.  rows: (n, …) float32"""

    lengths: Index | None = None

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Index) -> Inputs:
        return (self.rows[torch.from_numpy(rows)],)

    def one(self, row: int) -> NDArray[np.generic]:
        array: NDArray[np.generic] = self.rows[row : row + 1].numpy()
        return array

    def first(self, count: int) -> ArraySamples:
        return ArraySamples(self.rows[:count])


class TokenSamples:
    """Rows of token ids, each of its own length."""

    def __init__(self, rows: Sequence[NDArray[Any]], pad: int) -> None:
        self.pad = pad
        self.lengths: Index | None = np.array([len(row) for row in rows], np.int64)
        self._lengths = self.lengths
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._ids = np.concatenate(rows).astype(np.int32)

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, rows: Index) -> Inputs:
        """-> ids (b, tokens) int64, mask (b, tokens) float32: 1 for a token, 0 for padding."""
        lengths = self._lengths[rows]
        places = np.arange(lengths.max())
        real = places < lengths[:, None]
        ids = np.full(real.shape, self.pad, np.int64)
        ids[real] = self._ids[(self._starts[rows, None] + places)[real]]
        return torch.from_numpy(ids), torch.from_numpy(real.astype(np.float32))

    def one(self, row: int) -> NDArray[np.generic]:
        start = self._starts[row]
        return self._ids[start : start + self._lengths[row]].astype(np.int64)[None]

    def first(self, count: int) -> TokenSamples:
        return TokenSamples(np.split(self._ids, self._starts[1:])[:count], self.pad)


def evaluation_batches(samples: Samples, tokens: int = EVALUATION_TOKENS) -> Iterator[Index]:
    """All rows, in batches of like lengths and like cost.  tokens: about so many in a batch."""
    if samples.lengths is None:
        rows = np.arange(len(samples))
        yield from (rows[i : i + EVALUATION_ROWS] for i in range(0, len(rows), EVALUATION_ROWS))
        return
    order, start = np.argsort(samples.lengths, kind="stable"), 0
    while start < len(order):
        # the longest comes last; one more doubling round is not worth its code
        count = max(1, tokens // int(samples.lengths[order[start]]))
        rows = order[start : start + min(count, EVALUATION_ROWS)]
        yield rows
        start += len(rows)


def training_batches(
    samples: Samples,
    stride: int,
    count: int,
    views: int,
    batch_size: int,
    generator: np.random.Generator,
) -> list[Index]:
    """One epoch: the first `count` samples of every view once, under a view of its own, in random
    order.  stride: samples of a view.

    Rows of like length share a batch (within 50 batches of each other), and the batches are
    shuffled again, so that little is spent on padding.
    """
    rows = generator.permutation(count) + stride * generator.integers(0, views, count)
    if samples.lengths is None:
        return [rows[i : i + batch_size] for i in range(0, count, batch_size)]
    window = 50 * batch_size
    batches = []
    for start in range(0, count, window):
        part = rows[start : start + window]
        part = part[np.argsort(samples.lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    generator.shuffle(batches)
    return batches
