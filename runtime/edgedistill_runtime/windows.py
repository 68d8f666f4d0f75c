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
    last = max(0, length - window) // hop * hop  # where the last whole one begins
    if last + window < length and 2 * (length - last - hop) >= window:
        last += hop
    missing = last + window - length
    if missing > 0:
        recording = np.pad(recording, [(0, 0)] * (recording.ndim - 1) + [(0, missing)])
    every = np.lib.stride_tricks.sliding_window_view(recording, window, axis=-1)
    return np.moveaxis(every[..., ::hop, :], -2, 0)
