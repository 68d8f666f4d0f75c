"""How good answers are: one implementation for the host's reports and the board's `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Targets = NDArray[np.int64]


def accuracy(logits: Logits, targets: Targets) -> float:
    """Share of right answers, 0 to 1; with several labels a sample, all of them must be right.

    logits: (n, classes).  targets: the index of each one's label (n,), or 0 and 1 (n, classes).
    """
    if targets.ndim == 2:
        return float(np.mean(((logits > 0) == (targets > 0)).all(1)))
    return float(np.mean(logits.argmax(1) == targets))


def f1_macro(logits: Logits, targets: Targets) -> float:
    """Mean over the classes of 2·tp / (2·tp + fp + fn), 0 to 1.

    The answer is the largest logit; with several labels a sample, every logit over 0.  A class that
    neither the targets nor the answers have is left out of the mean.
    logits: (n, classes).  targets: the index of each one's label (n,), or 0 and 1 (n, classes).
    """
    if targets.ndim == 2:
        given, right = logits > 0, targets > 0
    else:
        classes = np.arange(logits.shape[1])
        given, right = logits.argmax(1)[:, None] == classes, targets[:, None] == classes
    hits = (given & right).sum(0)  # (classes,)
    marked = given.sum(0) + right.sum(0)
    scores: NDArray[Any] = 2 * hits[marked > 0] / marked[marked > 0]
    return float(scores.mean()) if len(scores) else 0.0


METRICS: dict[str, Callable[[Logits, Targets], float]] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
}
