"""Scores that people can use: calibrated on the validation split, and "unknown" where they are low.

A student's logits are divided by one temperature (Guo et al. 2017, "On Calibration of Modern Neural
Networks", https://arxiv.org/abs/1706.04599), which changes no answer, only how sure it sounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime import postprocess

Logits = NDArray[np.float32]
Targets = NDArray[np.int64]
TEMPERATURES = (0.05, 20.0)
UNKNOWN = ("unknown", "unsure", "no answer")
"""What the answer is called; the first that no class is called."""
BINS = 15


@dataclass(frozen=True)
class Answers:
    """How logits become answers."""

    multi_label: bool
    temperature: float = 1.0
    threshold: float = 0.0
    """Least score of an answer; 0: always one."""
    unknown: str = ""
    top_k: int = 1

    def steps(self) -> tuple[dict[str, Any], ...]:
        """As the manifest declares them."""
        last: dict[str, Any] = {"op": "sigmoid" if self.multi_label else "softmax"}
        if self.temperature != 1:
            last["temperature"] = self.temperature
        steps = [last]
        if self.threshold:
            steps.append({"op": "threshold", "value": self.threshold, "label": self.unknown})
        if self.top_k > 1:
            steps.append({"op": "top_k", "k": self.top_k})
        return tuple(steps)

    def scores(self, logits: Logits) -> Logits:
        """By the code of the board.  (n, classes) -> (n, classes)"""
        made: Logits = self._built.scores(logits)
        return made

    @property
    def _built(self) -> postprocess.Answer:
        return postprocess.build(self.steps())

    def judged(self, logits: Logits, targets: Targets) -> dict[str, Any]:
        """What the answers are worth on a split, one label a sample."""
        scores = self.scores(logits)
        right = scores.argmax(-1) == targets
        given = self._built.known(scores)
        plain = Answers(False).scores(logits)
        return {
            "temperature": self.temperature,
            "calibration_error": calibration_error(scores, targets),
            "calibration_error_uncalibrated": calibration_error(plain, targets),
            "threshold": self.threshold,
            "unknown": self.unknown,
            "answered": float(given.mean()),
            "answered_metric": float(right[given].mean()) if given.any() else None,
        }


def choose(
    logits: Logits,
    targets: Targets,
    labels: Sequence[str],
    *,
    calibrate: bool = True,
    wanted: float = 0.0,
    top_k: int = 1,
) -> Answers:
    """From a validation split's logits, (n, classes).

    wanted: share of right answers among those given; 0: no "unknown".  Only for one label a sample.
    """
    multi_label = targets.ndim == 2
    answers = Answers(multi_label, temperature(logits, targets) if calibrate else 1.0, top_k=top_k)
    if not wanted:
        return answers
    value = threshold(answers.scores(logits), targets, wanted)
    name = next(name for name in UNKNOWN if name not in labels)
    return Answers(multi_label, answers.temperature, value, name, top_k)


def temperature(logits: Logits, targets: Targets) -> float:
    """The temperature of the least cross-entropy with the labels, to three decimals."""
    from scipy.optimize import minimize_scalar

    exact = logits.astype(np.float64)
    entropy = _binary_entropy if targets.ndim == 2 else _entropy
    low, high = map(math.log, TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: entropy(exact / math.exp(log_t), targets),
        bounds=(low, high),
        method="bounded",
    )
    return round(math.exp(found.x), 3)


def threshold(scores: Logits, targets: Targets, wanted: float) -> float:
    """The lowest score above which a share of `wanted` of the answers is right; 0 if all may stay.

    Where no score is high enough, the one above which the share is largest.
    """
    best = scores.max(-1)
    right = scores.argmax(-1) == targets
    order = np.argsort(-best, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.diff(best[order], append=-1.0))  # equal scores stay together
    enough = ends[share[ends] >= wanted]
    last = int(enough[-1]) if len(enough) else int(ends[np.argmax(share[ends])])
    if last == len(order) - 1:
        return 0.0
    # between this score and the next lower one
    middle = (float(best[order[last]]) + float(best[order[last + 1]])) / 2
    return min(max(round(middle, 6), 1e-6), 1 - 1e-6)


def calibration_error(scores: Logits, targets: Targets) -> float:
    """Mean distance of score and share of right answers, over 15 bins of equal width (ECE, Guo et
    al. 2017, equation 3).  (n, classes), (n,)"""
    best, right = scores.max(-1), scores.argmax(-1) == targets
    bins = np.minimum((best * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - best.astype(np.float64), minlength=BINS)
    return float(np.abs(gaps).sum() / len(best))


def _entropy(logits: NDArray[np.float64], targets: Targets) -> float:
    top = logits.max(-1)
    total = np.log(np.exp(logits - top[:, None]).sum(-1)) + top
    return float((total - logits[np.arange(len(logits)), targets]).mean())


def _binary_entropy(logits: NDArray[np.float64], targets: Targets) -> float:
    return float((np.logaddexp(0, logits) - logits * targets).mean())
