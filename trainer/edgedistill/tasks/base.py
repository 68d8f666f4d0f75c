"""What every task has: preprocessing, augmented views, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistill.data import Dataset
from edgedistill.errors import SettingsError
from edgedistill.samples import Samples
from edgedistill_runtime import preprocess
from edgedistill_runtime.metrics import METRICS

Steps = tuple[dict[str, Any], ...]
Array = NDArray[Any]
PREPARED_ROWS = 256
"""Rows that are prepared at once: what lies between two steps stays in the cache."""
MIN_STD = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """How decoded samples become a network's inputs, here and on the board."""

    steps: Steps
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that the steps name."""
    encoder: Any = None
    """What turns views into the network's rows where the task alone does not know: the tokens of a
    text's network, the waveforms of a sound's teacher."""
    token_ids: NDArray[np.int64] | None = None
    """The teacher's id of each of the student's tokens, where they share a vocabulary."""


class Task(Protocol):
    """What training needs to know about the kind of data."""

    name: str
    metric: str

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """A student's own.  tokenizer: the teacher's, as JSON."""

    def views(self, x: Array, count: int, seed: int) -> list[Any]:
        """The samples themselves, then count − 1 seeded augmentations of all of them."""

    def samples(self, views: Sequence[Any], encoder: Any) -> Samples:
        """Rows for a network, view after view.  encoder: of the network's `Preprocessing`."""


class Classification:
    """What all classification has in common."""

    def __init__(self, data: Dataset, metric: str = "") -> None:
        self.data = data
        self.metric = metric or ("f1_macro" if data.multi_label else "accuracy")
        if self.metric == "accuracy" and data.multi_label:
            raise SettingsError("metric 'accuracy' is for one label a sample; use f1_macro")

    def score(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
        return METRICS[self.metric](logits, targets)

    def scores(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, float]:
        """Every metric that the task has."""
        names = ("f1_macro",) if self.data.multi_label else ("accuracy", "f1_macro")
        return {name: METRICS[name](logits, targets) for name in names}


class Prepared(Classification):
    """A task whose samples become arrays of one shape, by steps that do not know the network."""

    steps: Steps
    """From what the data hold to the network's input."""

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """The steps of the board: from its decoded sample."""
        return Preprocessing((*self.data.decode, *self.steps))

    def prepare(self, x: Array) -> Tensor:
        """The network's inputs, by the code of the board.  (n, …) -> (n, channels, …)"""
        return prepared(self.steps, x)


def prepared(steps: Steps, x: Array) -> Tensor:
    """Rows after the steps, by the code of the board."""
    run = preprocess.build(steps)
    parts = [run(x[i : i + PREPARED_ROWS]) for i in range(0, len(x), PREPARED_ROWS)]
    return torch.from_numpy(np.concatenate(parts))


def moments(x: Array, axis: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Mean and deviation over all axes but one, to four decimals; no deviation is under 0.001.

    In float64, so that their bits do not hang on how numpy sums.
    """
    mean = x.mean(axis, dtype=np.float64)
    std = x.std(axis, dtype=np.float64)
    return (
        [round(float(m), 4) for m in mean],
        [max(round(float(s), 4), MIN_STD) for s in std],
    )
