"""The metric of a bundle over a labelled split, computed by the code that serves it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgedistill_runtime.errors import BundleError, unknown
from edgedistill_runtime.inputs import read_split
from edgedistill_runtime.metrics import METRICS, accuracy
from edgedistill_runtime.model import load


@dataclass(frozen=True)
class Evaluation:
    metric: str
    value: float
    samples: int
    answered: float | None = None
    """Share of samples whose best score reaches the bundle's threshold; None if it has none."""
    answered_metric: float | None = None
    """Accuracy among those; None if there are none."""

    def to_json(self) -> str:
        """What is answered only stands there where the bundle has a threshold."""
        table = asdict(self)
        if self.answered is None:
            del table["answered"], table["answered_metric"]
        return json.dumps(table)


def evaluate(bundle: Path, split: Path) -> Evaluation:
    """The bundle's own metric, of the best label whatever its score.

    With a threshold among the postprocessing steps also what is answered, and how well.
    Raises BundleError, EngineError, InputError or OSError.
    """
    model = load(bundle)
    metric = model.manifest.accuracy.metric
    if metric not in METRICS:
        raise BundleError(unknown("metric", metric, METRICS))
    data = read_split(split, model.manifest)
    logits = np.stack([model.logits(x) for x in data.samples])  # (n, classes)
    value = METRICS[metric](logits, data.targets)
    if not model.answer.threshold:
        return Evaluation(metric, value, len(logits))
    with np.errstate(all="ignore"):
        known = model.answer.known(model.answer.scores(logits))  # (n,)
    among = accuracy(logits[known], data.targets[known]) if known.any() else None
    return Evaluation(metric, value, len(logits), float(known.mean()), among)
