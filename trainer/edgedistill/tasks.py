"""What a kind of task brings: preprocessing, augmentation, metric, a teacher to train here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill import teachers
from edgedistill.data import Split
from edgedistill_runtime import preprocess

Steps = tuple[dict[str, Any], ...]


class ImageClassification:
    """One label an image."""

    name = "image-classification"
    metric = "accuracy"
    postprocess: Steps = ({"op": "softmax"},)

    def preprocess(self, train: Split) -> Steps:
        """The declarative steps, with mean and deviation of the training images."""
        scaled = train.x.astype(np.float64) / 255
        mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
        normalize = {
            "op": "normalize",
            "scale": 1 / 255,
            "mean": [round(float(m), 4) for m in mean],
            "std": [max(round(float(s), 4), 1e-3) for s in std],
        }
        return normalize, {"op": "channels_first"}

    def prepare(self, steps: Steps, images: NDArray[np.uint8]) -> Tensor:
        """The network's input, by the code of the board.  -> (n, channels, height, width)"""
        return torch.from_numpy(preprocess.build(steps)(images))

    def views(self, images: Tensor, count: int, seed: int) -> Tensor:
        """The images themselves, then count − 1 seeded augmentations of each.

        Turned by up to 12°, scaled by up to 10 % and moved by up to 15 % of the side.
        images: (n, channels, height, width) -> (count, n, channels, height, width)
        """
        generator = torch.Generator().manual_seed(seed)
        made = [images]
        for _ in range(count - 1):
            unit = torch.rand(4, len(images), generator=generator) * 2 - 1
            angle, zoom = unit[0] * math.radians(12), 1 + unit[1] * 0.1
            cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
            shift = unit[2:] * 0.3  # of half a side
            theta = torch.stack(
                [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1
            )
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            made.append(F.grid_sample(images, grid, padding_mode="border", align_corners=False))
        return torch.stack(made)

    def score(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
        """Share of right answers."""
        return float(np.mean(logits.argmax(-1) == targets))

    def teacher(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return teachers.auto_image_teacher(input_shape, classes)
