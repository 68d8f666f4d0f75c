"""The steps from the model's output to scores, declared in the manifest like preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, unknown

Scores = NDArray[np.float32]


def softmax(logits: Scores) -> Scores:
    """Class probabilities.  (…, classes) -> (…, classes), float32."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: Scores) -> Scores:
    """A probability of its own for every class.  (…, classes) -> (…, classes), float32."""
    small = np.exp(-np.abs(logits))  # 0 to 1: nothing overflows
    return np.asarray(np.where(logits < 0, small, 1) / (1 + small), np.float32)


STEPS: dict[str, Callable[[Scores], Scores]] = {"sigmoid": sigmoid, "softmax": softmax}


def build(steps: Sequence[Mapping[str, Any]]) -> Callable[[Scores], Scores]:
    """One function that runs all `steps` in order.  Raises BundleError for a step it cannot do."""
    functions = []
    for step in steps:
        op = step.get("op")
        if not isinstance(op, str) or op not in STEPS:
            raise BundleError(unknown("postprocessing step", str(op), STEPS))
        if len(step) > 1:
            raise BundleError(
                f"the postprocessing step {op!r} has unknown arguments "
                f"({', '.join(sorted(step.keys() - {'op'}))[:64]})"
            )
        functions.append(STEPS[op])

    def run(x: Scores) -> Scores:
        for function in functions:
            x = function(x)
        return x

    return run


def multi_label(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sample has any number of labels instead of one."""
    return any(step.get("op") == "sigmoid" for step in steps)
