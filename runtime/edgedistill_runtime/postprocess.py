"""The steps from the model's output to an answer, declared in the manifest like preprocessing.

`softmax` and `sigmoid` make scores of logits; behind them, `threshold` and `top_k` say what is made
of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, unknown

Scores = NDArray[np.float32]
MAX_LABEL = 64


def softmax(logits: Scores) -> Scores:
    """Class probabilities.  (…, classes) -> (…, classes), float32."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True), np.float32)


def sigmoid(logits: Scores) -> Scores:
    """A probability of its own for every class.  (…, classes) -> (…, classes), float32."""
    small = np.exp(-np.abs(logits))  # 0 to 1: nothing overflows
    return np.asarray(np.where(logits < 0, small, 1) / (1 + small), np.float32)


SCORES: dict[str, Callable[[Scores], Scores]] = {"sigmoid": sigmoid, "softmax": softmax}
STEPS: dict[str, frozenset[str]] = {
    "sigmoid": frozenset(("temperature",)),
    "softmax": frozenset(("temperature",)),
    "threshold": frozenset(("value", "label")),
    "top_k": frozenset(("k",)),
}
"""The arguments of each step; those of `threshold` and `top_k` are required."""


@dataclass(frozen=True)
class Answer:
    """What is made of logits."""

    scores: Callable[[Scores], Scores]
    """Logits to scores.  (…, classes) -> (…, classes), float32."""
    multi_label: bool = False
    """Whether a sample has any number of labels instead of one."""
    threshold: float = 0.0
    """A sample whose best score is under it is `unknown`; 0: there is none."""
    unknown: str = ""
    k: int = 1
    """How many of the best labels are named."""

    def known(self, scores: Scores) -> NDArray[np.bool_]:
        """Whether the best score reaches the threshold.  (…, classes) -> (…)"""
        # as doubles, whatever numpy makes of a float32 and a Python number
        return np.asarray(scores.max(axis=-1).astype(np.float64) >= self.threshold)


def build(steps: Sequence[Mapping[str, Any]], labels: Sequence[str] | None = None) -> Answer:
    """What `steps` make of logits.  Raises BundleError for steps or arguments that it cannot do.

    labels: the names of the classes, which `threshold` and `top_k` are then checked against.
    """
    functions: list[Callable[[Scores], Scores]] = []
    choice: dict[str, Any] = {}
    for step in steps:
        op = _op(step)
        if op in SCORES:
            if choice:
                raise BundleError(f"the postprocessing step {op!r} must stand before the others")
            functions.append(_scaled(SCORES[op], op, step.get("temperature", 1)))
            continue
        if not functions:
            raise BundleError(
                f"the postprocessing step {op!r} needs scores; "
                "'softmax' or 'sigmoid' must stand before it"
            )
        chosen = _threshold(step, labels) if op == "threshold" else _top_k(step, labels)
        if not choice.keys().isdisjoint(chosen):
            raise BundleError(f"the postprocessing step {op!r} stands twice")
        choice |= chosen
    return Answer(_in_order(functions), multi_label(steps), **choice)


def multi_label(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a sample has any number of labels instead of one."""
    return any(step.get("op") == "sigmoid" for step in steps)


def _op(step: Mapping[str, Any]) -> str:
    op = step.get("op")
    if not isinstance(op, str) or op not in STEPS:
        raise BundleError(unknown("postprocessing step", str(op), STEPS))
    given = step.keys() - {"op"}
    if given - STEPS[op]:
        raise BundleError(
            f"the postprocessing step {op!r} has unknown arguments "
            f"({', '.join(sorted(given - STEPS[op]))[:64]})"
        )
    if op not in SCORES and STEPS[op] - given:
        raise BundleError(
            f"the postprocessing step {op!r} lacks {', '.join(sorted(STEPS[op] - given))}"
        )
    return op


def _scaled(
    function: Callable[[Scores], Scores], op: str, temperature: object
) -> Callable[[Scores], Scores]:
    """Divide the logits first, if there is something to divide by."""
    with np.errstate(over="ignore", under="ignore"):
        divisor = np.float32(_number(op, "temperature", temperature))
    if not 0 < divisor < math.inf:
        raise _wrong(op, "temperature", temperature, "a finite number over 0 in single precision")
    if divisor == 1:
        return function
    return lambda logits: function(logits / divisor)


def _threshold(step: Mapping[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    value, label = _number("threshold", "value", step["value"]), step["label"]
    if not 0 < value < 1:
        raise _wrong("threshold", "value", value, "a number over 0 and under 1")
    if not isinstance(label, str) or not label.isprintable() or not 0 < len(label) <= MAX_LABEL:
        wanted = f"a text of 1 to {MAX_LABEL} printable characters"
        raise _wrong("threshold", "label", label, wanted)
    if not label.strip():
        raise _wrong("threshold", "label", label, "a text that can be seen")
    if labels is not None and label in labels:
        raise _wrong("threshold", "label", label, "a text that is not the name of a class")
    return {"threshold": value, "unknown": label}


def _top_k(step: Mapping[str, Any], labels: Sequence[str] | None) -> dict[str, Any]:
    k = step["k"]
    if type(k) is not int or k < 1 or (labels is not None and k > len(labels)):
        most = "" if labels is None else f" to {len(labels)}, the number of classes"
        raise _wrong("top_k", "k", k, f"a whole number from 1{most}")
    return {"k": k}


def _number(op: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(op, name, value, "a finite number")
    return float(value)


def _wrong(op: str, name: str, value: object, wanted: str) -> BundleError:
    return BundleError(
        f"the postprocessing step {op!r} has the {name} {str(value)[:64]!r}; it must be {wanted}"
    )


def _in_order(functions: list[Callable[[Scores], Scores]]) -> Callable[[Scores], Scores]:
    if len(functions) == 1:
        return functions[0]

    def run(x: Scores) -> Scores:
        for function in functions:
            x = function(x)
        return x

    return run
