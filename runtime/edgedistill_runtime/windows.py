"""Windows of a recording, for training as on the board."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def cut(recording: Array, window: int, hop: int) -> Array:
    """Windows along the last axis, one every `hop`: (…, n) -> (windows, …, window), read-only.

    A last one that begins within the recording and ends after it is filled with zeros, if at least
    half of it is recording and the one before does not already reach the end.  A recording shorter
    than a window is one window.
    """
    length = recording.shape[-1]
    starts = list(range(0, max(1, length - window + 1), hop))
    end = starts[-1] + window
    rest = length - (starts[-1] + hop)
    if end < length and 2 * rest >= window:
        starts.append(starts[-1] + hop)
    missing = max(0, starts[-1] + window - length)
    if missing:
        padding = [(0, 0)] * (recording.ndim - 1) + [(0, missing)]
        recording = np.pad(recording, padding)
    every = np.lib.stride_tricks.sliding_window_view(recording, window, axis=-1)
    return np.moveaxis(every[..., ::hop, :], -2, 0)
