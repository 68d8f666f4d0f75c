"""Read a WAV file as 16-bit mono: one implementation for training and device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import InputError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
GUID = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the kind of an extensible format, where it is one of the others."""
MAX_SAMPLES = 1 << 28
MAX_CHANNELS = 64
MAX_CHUNKS = 1000
BLOCK = 1 << 18
"""Values that are converted at once."""


def read(path: Path) -> tuple[NDArray[np.int16], int]:
    """The samples, (n,), and their rate in Hz.

    PCM of 8, 16, 24 and 32 bits and floats of 32 and 64.  Channels are averaged, of PCM exactly;
    what is finer than 16 bits is rounded, halves to even, and what is louder is clipped.  Raises
    InputError, or OSError.
    """
    with path.open("rb") as file:
        form, length = _chunks(file, path)
        kind, channels, rate, bits = _format(form)
        convert = CONVERSIONS.get((kind, bits))
        if convert is None or not 1 <= channels <= MAX_CHANNELS or not rate:
            raise InputError(
                f"{path}: a WAV file of format {kind} with {bits} bits, {channels} channels and "
                f"{rate} Hz; read are PCM of 8, 16, 24 or 32 bits and floats of 32 or 64, of 1 to "
                f"{MAX_CHANNELS} channels"
            )
        width = bits // 8 * channels
        count = length // width
        if not count:
            raise InputError(f"{path}: a WAV file without a sample")
        if count > MAX_SAMPLES:
            raise InputError(
                f"{path}: a WAV file of {count:,} samples; at most {MAX_SAMPLES:,} are read, "
                "so split it"
            )
        made = np.empty(count, np.int16)
        size = BLOCK // channels
        for start in range(0, count, size):  # an hour of sound does not fit a board in float64
            part = made[start : start + size]
            block = file.read(len(part) * width)
            if len(block) < len(part) * width:
                raise InputError(f"{path}: a WAV file that became shorter while it was read")
            values = convert(block)
            if np.isnan(values).any():
                raise InputError(f"{path}: a WAV file with samples that are not finite numbers")
            part[:] = np.clip(np.rint(_mean(values.reshape(-1, channels))), -32768, 32767)
    return made, rate


def _chunks(file: BinaryIO, path: Path) -> tuple[bytes, int]:
    """The format, and how many bytes of sound the file, then at its first, has."""
    end = file.seek(0, 2)
    file.seek(0)
    head, form = file.read(12), b""
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(f"{path}: not a WAV file (it does not begin with RIFF and WAVE)")
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        name, length, place = head[:4], int.from_bytes(head[4:], "little"), file.tell()
        if name == b"data" and len(form) >= 16:
            return form, min(length, end - place)  # a writer that was cut off declares more
        if len(head) < 8 or name == b"data":
            break
        if name == b"fmt ":
            form = file.read(min(length, 40))
        file.seek(place + length + length % 2)
    raise InputError(f"{path}: a damaged WAV file (no format, or no data after it)")


def _format(form: bytes) -> tuple[int, int, int, int]:
    """Kind, channels, rate, bits."""
    kind, channels = (int.from_bytes(form[i : i + 2], "little") for i in (0, 2))
    rate, bits = int.from_bytes(form[4:8], "little"), int.from_bytes(form[14:16], "little")
    if kind == EXTENSIBLE and form[26:] == GUID:
        kind = int.from_bytes(form[24:26], "little")
    return kind, channels, rate, bits


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the channels, one after the other: (n, channels) -> (n,)."""
    total: NDArray[np.float64] = rows[:, 0].copy()
    for channel in range(1, rows.shape[1]):
        total += rows[:, channel]
    total /= rows.shape[1]
    return total


def _24_bits(sound: bytes) -> NDArray[np.float64]:
    padded = np.zeros((len(sound) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(sound, np.uint8).reshape(-1, 3)
    return padded.view("<i4")[:, 0].astype(np.float64) / 65536


def _floats(sound: bytes, dtype: str) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a NaN may signal
        values = np.frombuffer(sound, dtype).astype(np.float64)
    values[np.isinf(values)] = np.nan
    return np.clip(values, -65536, 65536) * 32768  # that much too loud: nothing overflows


CONVERSIONS: dict[tuple[int, int], Callable[[bytes], NDArray[np.float64]]] = {
    (PCM, 8): lambda x: (np.frombuffer(x, np.uint8).astype(np.float64) - 128) * 256,
    (PCM, 16): lambda x: np.frombuffer(x, "<i2").astype(np.float64),
    (PCM, 24): _24_bits,
    (PCM, 32): lambda x: np.frombuffer(x, "<i4").astype(np.float64) / 65536,
    (FLOAT, 32): lambda x: _floats(x, "<f4"),
    (FLOAT, 64): lambda x: _floats(x, "<f8"),
}
"""From a file's bytes to steps of 16 bits, exact, by kind and bits."""
