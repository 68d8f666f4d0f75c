"""From the student's normalised batch back to pixels or readings, which other networks take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Normalization = tuple[Sequence[float], Sequence[float]]
"""(mean, deviation) of each channel: of images in pixels of 0 to 1, of readings in their unit."""


class Unnormalized(nn.Module):
    """(batch, channels, height, width) -> the same with mean and deviation of the data again."""

    mean: Tensor
    std: Tensor

    def __init__(self, norm: Normalization) -> None:
        super().__init__()
        for name, values in zip(("mean", "std"), norm, strict=True):
            column = torch.tensor(tuple(values), dtype=torch.float32)[:, None, None]
            self.register_buffer(name, column, persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        return batch * self.std + self.mean


class Readings(Unnormalized):
    """The student's windows, (batch, channels, 1, steps) -> readings (batch, channels, steps)."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch).squeeze(2)
