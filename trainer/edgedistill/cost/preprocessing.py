"""What the steps before the network cost on a board.

A calibrated board has measured each step in several sizes.  Elsewhere a log-mel spectrogram counts
as a kernel of like work: a matrix product in float64 (two multiply-accumulates of float32 each) of
half frames by a table of sines and cosines; beside it the other steps are small.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgedistill.cost.kernels import Kernel

FLOAT64 = 2
CHARACTERS_A_TOKEN = 4.5
CAMERA = (480, 640)
"""Height and width that an image of any size is taken to have."""
_LIKE = {"crop": "resize"}
"""Steps that are not measured, and a dearer one that is."""
Shape = tuple[int, ...]
Step = Mapping[str, Any]


def kernels(steps: Sequence[Step], sample: Shape) -> tuple[Kernel, ...]:
    """sample: shape that the first step is given."""
    return tuple(_log_mel(step, sample[-1]) for step in steps if step.get("op") == "log_mel")


def table_bytes(steps: Sequence[Step]) -> int:
    """What the steps keep in memory."""
    return sum(
        4 * step["frame"] * _columns(step["frame"]) for step in steps if step["op"] == "log_mel"
    )


def fit(rows: Iterable[tuple[Step, Shape, int, float]]) -> dict[str, tuple[float, ...]]:
    """Microseconds of each operator: of a call, and for each unit of `_work`.

    rows: a step, the shape of its sample, the characters of its text, and what it took.
    """
    import numpy as np
    from scipy.optimize import nnls

    by_op: dict[str, list[tuple[tuple[float, ...], float]]] = defaultdict(list)
    for step, shape, characters, us in rows:
        by_op[step["op"]].append(((1.0, *_work(step, shape, characters)[0]), us))
    found = {}
    for op, measured in by_op.items():
        terms = np.array([terms for terms, _ in measured])
        times = np.array([us for _, us in measured])
        weighted, _ = nnls(terms / times[:, None], np.ones(len(times)))
        found[op] = tuple(map(float, weighted))
    return found


def time_us(
    steps: Sequence[Step],
    sample: Shape,
    characters: int,
    rates: Mapping[str, tuple[float, ...]],
) -> float:
    """Microseconds of all steps for one sample; nothing for one like no step that was measured."""
    total, shape = 0.0, sample
    if shape[:2] == (-1, -1):
        shape = (*CAMERA, *shape[2:])
    for step in steps:
        work, shape = _work(step, shape, characters)
        coefficients = rates.get(step["op"]) or rates.get(_LIKE.get(step["op"], ""))
        if coefficients:
            total += sum(c * w for c, w in zip(coefficients, (1.0, *work), strict=True))
    return total


def _work(step: Step, shape: Shape, characters: int) -> tuple[tuple[float, float], Shape]:
    """Two measures of a step's work on a sample of a shape, and the shape that it makes."""
    op = step["op"]
    if op == "tokenize":
        return (characters, 0.0), (math.ceil(characters / CHARACTERS_A_TOKEN),)
    if op in ("resize", "crop"):
        made = (step["height"], step["width"], *shape[2:])
        return (math.prod(shape), math.prod(made)), made
    if op == "log_mel":
        frames = 1 + (shape[-1] - step["frame"]) // step["step"]
        product = frames * (step["frame"] // 2) * _columns(step["frame"])
        return (product, frames * step["bands"]), (step["bands"], frames)
    if op == "channels_first":
        return (math.prod(shape), 0.0), (shape[-1], *shape[:-1])
    return (math.prod(shape), 0.0), shape


def _log_mel(step: Step, samples: int) -> Kernel:
    frame = step["frame"]
    frames = 1 + (samples - frame) // step["step"]
    columns = _columns(frame)
    return Kernel(
        "Gemm",
        (frames, frame // 2),
        (frames, columns),
        weights=FLOAT64 * (frame // 2) * columns,
        macs=FLOAT64 * frames * (frame // 2) * columns,
    )


def _columns(frame: int) -> int:
    """Sines and cosines of every frequency."""
    return 2 * (frame // 2 + 1)
