"""Read a WAV file as 16-bit mono: one implementation for training and device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MAX_BYTES = 1 << 30
MAX_CHANNELS = 64
BLOCK = 1 << 18
"""Samples that are converted at once."""


def read(path: Path) -> tuple[NDArray[np.int16], int]:
    """The samples, (n,), and their rate in Hz.

    PCM of 8, 16, 24 and 32 bits and floats of 32 and 64.  Channels are averaged; what is finer than
    16 bits is rounded, halves to even, and what is louder is clipped.  Raises InputError, or
    OSError.
    """
    form, sound = _chunks(path)
    kind, channels, rate, bits = _format(form)
    convert = CONVERSIONS.get((kind, bits))
    if convert is None or not 1 <= channels <= MAX_CHANNELS or not rate:
        raise InputError(
            f"{path}: a WAV file of format {kind} with {bits} bits, {channels} channels and "
            f"{rate} Hz; read are PCM of 8, 16, 24 or 32 bits and floats of 32 or 64"
        )
    width = bits // 8 * channels
    count = len(sound) // width
    if not count:
        raise InputError(f"{path}: a WAV file without a sample")
    if (kind, bits, channels) == (PCM, 16, 1):
        return np.frombuffer(sound, "<i2", count).astype(np.int16), rate
    made = np.empty(count, np.int16)
    for start in range(0, count, BLOCK):  # an hour of sound does not fit a board in float64
        stop = min(start + BLOCK, count)
        mean = _mean(convert(sound[start * width : stop * width]).reshape(-1, channels))
        if not np.isfinite(mean).all():
            raise InputError(f"{path}: a WAV file with samples that are not finite numbers")
        made[start:stop] = np.clip(np.rint(mean), -32768, 32767)
    return made, rate


def _chunks(path: Path) -> tuple[bytes, memoryview]:
    """The format and the sound, as they stand in the file."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size:,} bytes; a WAV file has at most {MAX_BYTES:,}")
    data = path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError(f"{path}: not a WAV file (it does not begin with RIFF and WAVE)")
    form, place = b"", 12
    while place + 8 <= len(data):
        name, length = (
            data[place : place + 4],
            int.from_bytes(data[place + 4 : place + 8], "little"),
        )
        body = memoryview(data)[place + 8 : place + 8 + length]  # writers cut off declare more
        if name == b"fmt ":
            form = bytes(body)
        elif name == b"data":
            if len(form) < 16:
                break
            return form, body
        place += 8 + length + length % 2
    raise InputError(f"{path}: a damaged WAV file (no format, or no data after it)")


def _format(form: bytes) -> tuple[int, int, int, int]:
    """Kind, channels, rate, bits."""
    kind, channels = (int.from_bytes(form[i : i + 2], "little") for i in (0, 2))
    rate, bits = int.from_bytes(form[4:8], "little"), int.from_bytes(form[14:16], "little")
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")
    return kind, channels, rate, bits


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the channels, one after the other: (n, channels) -> (n,)."""
    total: NDArray[np.float64] = rows[:, 0].copy()
    for channel in range(1, rows.shape[1]):
        total += rows[:, channel]
    total /= rows.shape[1]
    return total


def _24_bits(sound: memoryview) -> NDArray[np.float64]:
    padded = np.zeros((len(sound) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(sound, np.uint8).reshape(-1, 3)
    return padded.view("<i4")[:, 0].astype(np.float64) / 65536


CONVERSIONS: dict[tuple[int, int], Callable[[memoryview], NDArray[np.float64]]] = {
    (PCM, 8): lambda x: (np.frombuffer(x, np.uint8).astype(np.float64) - 128) * 256,
    (PCM, 16): lambda x: np.frombuffer(x, "<i2").astype(np.float64),
    (PCM, 24): _24_bits,
    (PCM, 32): lambda x: np.frombuffer(x, "<i4").astype(np.float64) / 65536,
    (FLOAT, 32): lambda x: np.frombuffer(x, "<f4").astype(np.float64) * 32768,
    (FLOAT, 64): lambda x: np.frombuffer(x, "<f8").astype(np.float64) * 32768,
}
"""From a file's bytes to steps of 16 bits, exact, by kind and bits."""
