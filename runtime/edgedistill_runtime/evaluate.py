"""The metric of a bundle over a labelled split, computed by the code that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedistill_runtime.errors import BundleError, unknown
from edgedistill_runtime.inputs import read_split
from edgedistill_runtime.metrics import METRICS
from edgedistill_runtime.model import load


@dataclass(frozen=True)
class Evaluation:
    metric: str
    value: float
    samples: int


def evaluate(bundle: Path, split: Path) -> Evaluation:
    """The bundle's own metric.  Raises BundleError, EngineError, InputError or OSError."""
    model = load(bundle)
    metric = model.manifest.accuracy.metric
    if metric not in METRICS:
        raise BundleError(unknown("metric", metric, METRICS))
    data = read_split(split, model.manifest)
    logits = np.stack([model.logits(x) for x in data.samples])  # (n, classes)
    return Evaluation(metric, METRICS[metric](logits, data.targets), len(logits))
