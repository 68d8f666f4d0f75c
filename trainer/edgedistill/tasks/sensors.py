"""Windows of sensor readings: normalised per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgedistill.data import Dataset
from edgedistill.samples import ArraySamples
from edgedistill.tasks.base import Array, Prepared, Steps, moments

MAX_SHIFT = 0.1
"""Of a window's steps."""
MAX_SCALE = 0.1
JITTER = 0.05
"""Standard deviation of the noise, as a share of the channel's."""


class SensorClassification(Prepared):
    """One label a window of several channels."""

    name = "sensor-classification"

    def __init__(self, data: Dataset, metric: str = "") -> None:
        super().__init__(data, metric)
        self.mean, self.std = moments(data.train.x, (0, 2))
        standardize = {"op": "standardize", "mean": self.mean, "std": self.std}
        self.steps: Steps = (*data.features, standardize, {"op": "insert_axis", "axis": -2})

    def views(self, x: Array, count: int, seed: int) -> list[Tensor]:
        """Prepared windows; in the augmented ones the readings are moved in time by up to 10 % of
        the window (its first or last reading fills the gap), each channel is scaled by up to 10 %
        and a little noise is added.

        x: (n, channels, steps)
        """
        windows = self.prepare(x)  # (n, channels, 1, steps)
        generator = torch.Generator().manual_seed(seed)
        made = [windows]
        n, channels, _, steps = windows.shape
        for _ in range(count - 1):
            unit = torch.rand(n, channels + 1, generator=generator) * 2 - 1
            shift = (unit[:, 0] * MAX_SHIFT * steps).round().long()
            places = (torch.arange(steps) + shift[:, None]).clamp(0, steps - 1)
            moved = windows.gather(3, places[:, None, None].expand_as(windows))
            noise = torch.randn(windows.shape, generator=generator) * JITTER
            made.append(moved * (1 + unit[:, 1:, None, None] * MAX_SCALE) + noise)
        return made

    def samples(self, views: Sequence[Tensor], encoder: Any = None) -> ArraySamples:
        return ArraySamples(views[0] if len(views) == 1 else torch.cat(list(views)))
