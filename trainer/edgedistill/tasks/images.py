"""Images: normalised by the mean and deviation of the training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgedistill.data import Dataset
from edgedistill.samples import ArraySamples, Index, Inputs, Samples
from edgedistill.tasks.base import MIN_STD, Array, Prepared, Steps

Warp = Tensor | None
"""Of a view: what each image is turned, scaled and moved by, (n, 2, 3); None leaves them alone."""


class ImageClassification(Prepared):
    """One label an image."""

    name = "image-classification"

    def __init__(self, data: Dataset, metric: str = "") -> None:
        super().__init__(data, metric)
        mean, std = _moments(data.train.x)
        self.mean = [round(float(m), 4) for m in mean]
        self.std = [max(round(float(s), 4), MIN_STD) for s in std]
        normalize = {"op": "normalize", "scale": 1 / 255, "mean": self.mean, "std": self.std}
        self.steps: Steps = (*data.features, normalize, {"op": "channels_first"})

    def views(self, x: Array, count: int, seed: int) -> list[tuple[Tensor, Warp]]:
        """Prepared images, and for the augmented ones the warp that is applied when they are used:
        turned by up to 12°, scaled by up to 10 % and moved by up to 15 % of the side.

        x: (n, height, width, channels) uint8
        """
        images = self.prepare(x)
        generator = torch.Generator().manual_seed(seed)
        made: list[tuple[Tensor, Warp]] = [(images, None)]
        for _ in range(count - 1):
            unit = torch.rand(4, len(images), generator=generator) * 2 - 1
            angle, zoom = unit[0] * math.radians(12), 1 + unit[1] * 0.1
            cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
            shift = unit[2:] * 0.3  # of half a side
            rows = [[cos, -sin, shift[0]], [sin, cos, shift[1]]]
            made.append((images, torch.stack([torch.stack(row, 1) for row in rows], 1)))
        return made

    def samples(self, views: Sequence[tuple[Tensor, Warp]], encoder: Any = None) -> WarpedImages:
        return WarpedImages(views)


class WarpedImages:
    """Views of images that share their pixels; a batch is warped when it is asked for."""

    lengths: Index | None = None

    def __init__(self, views: Sequence[tuple[Tensor, Warp]]) -> None:
        self.views = views
        self.images = views[0][0]
        self.count = len(self.images)
        still = torch.eye(2, 3).expand(self.count, 2, 3)
        self._warps = torch.stack([still if warp is None else warp for _, warp in views])
        self._moved = np.array([warp is not None for _, warp in views])

    def __len__(self) -> int:
        return self.count * len(self.views)

    def batch(self, rows: Index) -> Inputs:
        view, place = np.divmod(rows, self.count)
        made = self.images[torch.from_numpy(place)]
        moved = torch.from_numpy(np.flatnonzero(self._moved[view]))
        if len(moved):
            warps = self._warps[torch.from_numpy(view)[moved], torch.from_numpy(place)[moved]]
            chosen = made[moved]
            grid = F.affine_grid(warps, list(chosen.shape), align_corners=False)
            made[moved] = F.grid_sample(chosen, grid, padding_mode="border", align_corners=False)
        return (made,)

    def one(self, row: int) -> Array:
        array: Array = self.batch(np.array([row]))[0].numpy()
        return array

    def first(self, count: int) -> Samples:
        if count % self.count:
            return ArraySamples(self.batch(np.arange(count))[0])
        return WarpedImages(self.views[: count // self.count])


def _moments(images: Array) -> tuple[Array, Array]:
    """Mean and deviation of each channel, in pixels of 0 to 1, from how often each value is there.

    images: (n, height, width, channels) uint8
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float((share * values).sum())
        means.append(mean)
        deviations.append(math.sqrt(max(0.0, float((share * (values - mean) ** 2).sum()))))
    return np.array(means), np.array(deviations)
