"""What the teacher was worth: students with and without it, several seeds each, and an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import edgedistill_runtime.manifest as contract

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Control:
    """Metrics of packed files on the test split, by seed."""

    student: tuple[float, ...]
    control: tuple[float, ...]
    """The same student without a teacher: fresh weights, the labels alone, the same views, epochs
    and choice of the best epoch."""
    gain: float
    """Mean difference, in units of the metric."""
    low: float
    high: float
    """95 % interval of the gain."""

    @property
    def seeds(self) -> int:
        return len(self.student)

    @staticmethod
    def of(student: Sequence[float], control: Sequence[float]) -> Control:
        """Student's t over the paired differences; both have the metrics of the same seeds."""
        from scipy import stats

        differences = np.subtract(student, control)
        gain = float(differences.mean())
        error = float(differences.std(ddof=1)) / len(differences) ** 0.5
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
        return Control(tuple(student), tuple(control), gain, gain - reach, gain + reach)

    def to_manifest(self) -> contract.Control:
        return contract.Control(self.gain, self.low, self.high, self.seeds)

    def sentence(self) -> str:
        """What it says, for people."""
        points = f"{100 * self.gain:+.2f} points (95 % interval {100 * self.low:+.2f} to "
        points += f"{100 * self.high:+.2f}, {self.seeds} seeds)"
        if self.low > 0:
            return f"the teacher is worth {points}"
        if self.high < 0:
            return f"the teacher does harm: {points}"
        return f"no gain by the teacher is shown: {points}"
