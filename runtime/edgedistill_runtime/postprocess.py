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


STEPS: dict[str, Callable[[Scores], Scores]] = {"softmax": softmax}


def build(steps: Sequence[Mapping[str, Any]]) -> Callable[[Scores], Scores]:
    """One function that runs all `steps` in order.  Raises BundleError for a step it cannot do."""
    functions = []
    for step in steps:
        op = step.get("op")
        if not isinstance(op, str) or op not in STEPS:
            raise BundleError(unknown("postprocessing step", str(op), STEPS))
        functions.append(STEPS[op])

    def run(x: Scores) -> Scores:
        for function in functions:
            x = function(x)
        return x

    return run
