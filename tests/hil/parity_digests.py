"""Print a SHA-256 of what each preprocessing step makes of random samples, as one JSON line.

Run it on two machines with the runtime and numpy: both must print the same.  The samples are made
in whole numbers, so that they are the same everywhere too.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgedistill_runtime import preprocess, wav, windows

ROUNDS = 40


class Numbers:
    """SplitMix64: whole numbers modulo 2**64 (Steele et al. 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = np.uint64(seed)

    def bits(self, count: int) -> np.ndarray:
        """(count,), uint64."""
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = np.full(count, self._state, np.uint64) + steps
        self._state = x[-1]
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

    def array(self, dtype: str, *shape: int) -> np.ndarray:
        """Any value of a whole-number type; of float32 -128 to 128 in steps of 2**-16."""
        raw = self.bits(int(np.prod(shape)))
        if dtype == "float32":
            values = (raw >> np.uint64(40)).astype(np.float32) / 65536 - 128
        else:
            values = (raw >> np.uint64(32)).astype(dtype)
        return values.astype(dtype).reshape(shape)

    def below(self, low: int, high: int) -> int:
        """low to high - 1."""
        return low + int(self.bits(1)[0]) % (high - low)

    def side(self, most: int) -> int:
        """1 to 2 * most - 1, small ones often."""
        return self.below(1, 2 << self.below(0, most.bit_length()))

    def moments(self, channels: int) -> dict[str, list[float]]:
        return {
            "mean": [self.below(-999, 1000) / 7 for _ in range(channels)],
            "std": [self.below(1, 1000) / 9 for _ in range(channels)],
        }


def image(numbers: Numbers) -> np.ndarray:
    batch = () if numbers.below(0, 2) else (numbers.below(1, 4),)
    channels = (1, 3)[numbers.below(0, 2)]
    return numbers.array("uint8", *batch, numbers.side(256), numbers.side(256), channels)


def recording(numbers: Numbers, samples: int) -> np.ndarray:
    return numbers.array("int16", samples) >> numbers.below(0, 16)


def resize(numbers: Numbers) -> np.ndarray:
    fit = ("stretch", "crop", "pad")[numbers.below(0, 3)]
    step = {"op": "resize", "height": numbers.side(96), "width": numbers.side(96), "fit": fit}
    return preprocess.build([step])(image(numbers))


def crop(numbers: Numbers) -> np.ndarray:
    x = image(numbers)
    height, width = (numbers.below(1, size + 1) for size in x.shape[-3:-1])
    return preprocess.build([{"op": "crop", "height": height, "width": width}])(x)


def normalize(numbers: Numbers) -> np.ndarray:
    x = image(numbers)
    step = {"op": "normalize", "scale": 1 / numbers.below(1, 999), **numbers.moments(x.shape[-1])}
    return preprocess.build([step, {"op": "channels_first"}])(x)


def standardize(numbers: Numbers) -> np.ndarray:
    channels = numbers.below(1, 12)
    dtype = ("float32", "int16", "int32")[numbers.below(0, 3)]
    x = numbers.array(dtype, numbers.below(1, 4), channels, numbers.below(1, 300))
    step = {"op": "standardize", **numbers.moments(channels)}
    return preprocess.build([step, {"op": "insert_axis", "axis": -2}])(x)


def log_mel(numbers: Numbers) -> np.ndarray:
    rate_hz = (4000, 8000, 11_025, 16_000, 44_100, 48_000)[numbers.below(0, 6)]
    frame, bands = numbers.below(16, 2049), numbers.below(1, 129)
    mel = {
        "op": "log_mel",
        "rate_hz": rate_hz,
        "frame": frame,
        "step": numbers.below(frame // 4, frame + 1),
        "bands": bands,
        "low_hz": numbers.below(0, rate_hz) / 16,
        "high_hz": rate_hz / 2 - numbers.below(0, rate_hz) / 16,
    }
    standard = {"op": "standardize", **numbers.moments(bands)}
    run = preprocess.build([mel, standard, {"op": "insert_axis", "axis": -3}])
    return run(recording(numbers, frame + numbers.below(0, 8000)))


def sound_file(numbers: Numbers) -> np.ndarray:
    """PCM, and floats; any bytes are samples of the one, the others are made of whole numbers."""
    bits, channels, count = 8 * numbers.below(1, 5), numbers.below(1, 5), numbers.below(1, 3000)
    kind, sound = 1, numbers.array("uint8", count * channels * bits // 8).tobytes()
    if numbers.below(0, 3) == 0:
        kind, bits = 3, 32
        sound = (numbers.array("float32", count * channels) / 100).astype("<f4").tobytes()
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, 8000, 8000 * width, width, bits)
    content = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    content += b"data" + struct.pack("<I", len(sound)) + sound
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sound.wav")
        path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
        return wav.read(path)[0]


def cut(numbers: Numbers) -> np.ndarray:
    x = numbers.array("float32", numbers.below(1, 5), numbers.below(1, 2000))
    return windows.cut(x, numbers.below(1, 600), numbers.below(1, 600))


PARTS: tuple[Callable[[Numbers], np.ndarray], ...] = (
    resize,
    crop,
    normalize,
    standardize,
    log_mel,
    sound_file,
    cut,
)


def digests() -> Iterator[tuple[str, str]]:
    for seed, part in enumerate(PARTS):
        numbers, digest = Numbers(seed), hashlib.sha256()
        for _ in range(ROUNDS):
            made = part(numbers)
            little = np.ascontiguousarray(made, made.dtype.newbyteorder("<"))
            digest.update(f"{little.dtype.str} {little.shape}".encode() + little.tobytes())
        yield part.__name__, digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dict(digests())) + "\n")
