"""What training is about: teachers, students, what is chosen for them and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgedistill.samples import Samples
from edgedistill.tasks import Preprocessing


@dataclass(frozen=True)
class Teacher:
    """A trained teacher, or an assistant in its place, and its answers to every training view."""

    name: str
    network: nn.Module
    """Its own inputs -> logits in the order of the data's labels."""
    digest: str
    logits: NDArray[np.float32]
    """(views, samples, classes)"""
    parameters: int
    encoder: Any = None
    """Texts -> its own tokens; None for images."""
    tokenizer: bytes | None = None
    body: nn.Module | None = None
    validation: float = math.nan
    """Metric on the validation split."""
    shares_tokens: bool = False
    """Whether it takes the student's own token ids, as an assistant does."""


@dataclass(frozen=True)
class Choice:
    """What the validation split chooses for a stage."""

    alpha: float
    gate: bool
    views: int


@dataclass(frozen=True)
class Trial:
    """A short run that helped to choose."""

    stage: str
    alpha: float
    gate: bool
    views: int
    metric: float
    """On the validation split."""
    cross_entropy: float


@dataclass(frozen=True)
class Student:
    module: nn.Module
    preprocessing: Preprocessing
    choices: Mapping[str, Choice]
    """By stage."""
    trials: tuple[Trial, ...]
    adopted: str
    """What it took over from the teacher before training."""
    assistant: str = ""

    @property
    def alpha(self) -> float:
        """The largest weight that the teacher has in a stage."""
        return max((choice.alpha for choice in self.choices.values()), default=0.0)


@dataclass(frozen=True)
class Prepared:
    """The data as the students of one vocabulary see them."""

    preprocessing: Preprocessing
    training: Samples
    """All views of training and unlabelled samples."""
    validation: Samples
    digest: str
