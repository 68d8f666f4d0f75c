"""What a student can take over from: the teacher, and what the two have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Source:
    """A teacher, seen from an untrained student."""

    teacher: nn.Module | None
    """A network of `transformers`, in eval mode; its classification head is not used."""
    token_ids: NDArray[np.int64] | None
    """(vocabulary,): the teacher's id of each of the student's tokens; None: nothing in common."""
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    """Some training data as (teacher's ids, mask), to measure what matters in the teacher."""


def uniform_layers(count: int, of: int) -> tuple[int, ...]:
    """Which of a teacher's layers a student's layers stand for: evenly spread, the last included.

    As DistilBERT and TinyBERT; 2 of 6 are layers 2 and 5, counted from 0.
    """
    return tuple(-(-(i + 1) * of // count) - 1 for i in range(count))
