"""What the steps before the network cost on a board, as kernels of like work.

A log-mel spectrogram is a matrix product in float64 (two multiply-accumulates of float32 each) of
half frames by a table of sines and cosines; beside it the other steps are small.  Resizing a
camera's image depends on the camera, and is not in the estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistill.cost.kernels import Kernel

FLOAT64 = 2


def kernels(steps: Sequence[Mapping[str, Any]], sample: tuple[int, ...]) -> tuple[Kernel, ...]:
    """sample: shape that the first step is given."""
    return tuple(_log_mel(step, sample[-1]) for step in steps if step.get("op") == "log_mel")


def table_bytes(steps: Sequence[Mapping[str, Any]]) -> int:
    """What the steps keep in memory."""
    return sum(
        4 * step["frame"] * _columns(step["frame"]) for step in steps if step["op"] == "log_mel"
    )


def _log_mel(step: Mapping[str, Any], samples: int) -> Kernel:
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
