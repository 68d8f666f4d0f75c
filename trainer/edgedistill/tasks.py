"""What a kind of task brings: preprocessing, augmentation, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgedistill.data import Dataset
from edgedistill.errors import SettingsError
from edgedistill.samples import ArraySamples, Samples, TokenSamples
from edgedistill.students import vocabulary
from edgedistill_runtime import preprocess
from edgedistill_runtime.metrics import METRICS
from edgedistill_runtime.tokenize import TextEncoder

Steps = tuple[dict[str, Any], ...]
Array = NDArray[Any]
MAX_CHARACTERS = 10_000
TOKENIZER = "tokenizer.json"
WORD_DROPOUT = 0.15


@dataclass(frozen=True)
class Preprocessing:
    """How decoded samples become a network's inputs, here and on the board."""

    steps: Steps
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files that the steps name."""
    encoder: TextEncoder | None = None
    token_ids: NDArray[np.int64] | None = None
    """The teacher's id of each of the student's tokens, where they share a vocabulary."""


class Task(Protocol):
    """What training needs to know about the kind of data."""

    name: str
    metric: str
    postprocess: Steps

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """A student's own.  tokenizer: the teacher's, as JSON."""

    def views(self, x: Array, count: int, seed: int) -> list[Any]:
        """The samples themselves, then count − 1 seeded augmentations of all of them."""

    def samples(self, views: Sequence[Any], encoder: Any) -> Samples:
        """Rows for a network, view after view.  encoder: the network's own, for texts."""


class Classification:
    """What all classification has in common."""

    def __init__(self, data: Dataset, metric: str = "") -> None:
        self.data = data
        self.metric = metric or ("f1_macro" if data.multi_label else "accuracy")
        if self.metric == "accuracy" and data.multi_label:
            raise SettingsError("metric 'accuracy' is for one label a sample; use f1_macro")
        self.postprocess: Steps = ({"op": "sigmoid" if data.multi_label else "softmax"},)

    def score(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
        return METRICS[self.metric](logits, targets)

    def scores(self, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[str, float]:
        """Every metric that the task has."""
        names = ("f1_macro",) if self.data.multi_label else ("accuracy", "f1_macro")
        return {name: METRICS[name](logits, targets) for name in names}


class ImageClassification(Classification):
    """One label an image."""

    name = "image-classification"

    def __init__(self, data: Dataset, metric: str = "") -> None:
        super().__init__(data, metric)
        scaled = data.train.x.astype(np.float64) / 255
        mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
        self.mean = [round(float(m), 4) for m in mean]
        self.std = [max(round(float(s), 4), 1e-3) for s in std]
        normalize = {"op": "normalize", "scale": 1 / 255, "mean": self.mean, "std": self.std}
        self.steps: Steps = (normalize, {"op": "channels_first"})

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """The declarative steps, with mean and deviation of the training images."""
        return Preprocessing(self.steps)

    def prepare(self, images: Array) -> Tensor:
        """The network's input, by the code of the board.  -> (n, channels, height, width)"""
        return torch.from_numpy(preprocess.build(self.steps)(images))

    def views(self, x: Array, count: int, seed: int) -> list[Tensor]:
        """Prepared images; the augmented ones are turned by up to 12°, scaled by up to 10 % and
        moved by up to 15 % of the side.  x: (n, height, width, channels) uint8
        """
        images = self.prepare(x)
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
        return made

    def samples(self, views: Sequence[Tensor], encoder: Any = None) -> ArraySamples:
        return ArraySamples(torch.cat(list(views)))


class TextClassification(Classification):
    """One label a text, or several."""

    name = "text-classification"
    max_characters = MAX_CHARACTERS

    def __init__(self, data: Dataset, metric: str = "", max_length: int = 64) -> None:
        super().__init__(data, metric)
        self.max_length = max_length

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """The teacher's tokenizer trimmed to the spec's vocabulary, or one trained on the texts."""
        texts = list(self.data.train.x)
        token_ids = None
        if tokenizer is None:
            trimmed = vocabulary.train(texts, spec.vocabulary)
        else:
            trimmed, token_ids = vocabulary.trim(tokenizer, texts, spec.vocabulary)
        step = {
            "op": "tokenize",
            "file": TOKENIZER,
            "max_length": self.max_length,
            "max_characters": MAX_CHARACTERS,
        }
        encoder = TextEncoder.build(trimmed, self.max_length, MAX_CHARACTERS)
        return Preprocessing((step,), {TOKENIZER: trimmed}, encoder, token_ids)

    def views(self, x: Array, count: int, seed: int) -> list[Array]:
        """Texts; of the augmented ones each word is left out with a chance of 15 %."""
        generator = np.random.default_rng(seed)
        split = [str(text).split() for text in x]
        made = [x]
        for _ in range(count - 1):
            view = np.empty(len(x), object)
            for i, words in enumerate(split):
                kept = generator.random(len(words)) >= WORD_DROPOUT
                view[i] = " ".join(w for w, keep in zip(words, kept, strict=True) if keep) or x[i]
            made.append(view)
        return made

    def samples(self, views: Sequence[Array], encoder: Any) -> TokenSamples:
        texts = [str(text) for view in views for text in view]
        return TokenSamples(encoder.encode_batch(texts), encoder.pad_id)


def task_of(data: Dataset, metric: str, max_length: int) -> Any:
    """The task of the data."""
    if data.task == ImageClassification.name:
        return ImageClassification(data, metric)
    return TextClassification(data, metric, max_length)
