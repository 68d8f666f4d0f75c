"""The metric of a bundle over a labelled split, computed by the code that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedistill_runtime.inputs import read_split
from edgedistill_runtime.model import load


@dataclass(frozen=True)
class Evaluation:
    metric: str
    value: float
    samples: int


def evaluate(bundle: Path, split: Path) -> Evaluation:
    """Accuracy of the bundle's answers.  Raises BundleError, EngineError, InputError or OSError."""
    model = load(bundle)
    data = read_split(split, model.manifest)
    answers = np.array([model.logits(x).argmax() for x in data.samples])
    return Evaluation("accuracy", float(np.mean(answers == data.targets)), len(answers))
