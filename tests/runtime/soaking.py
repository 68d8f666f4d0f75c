"""A process that predicts, or loads a bundle, again and again, and says what memory it has then.

    python -m tests.runtime.soaking loads|predictions BUNDLE COUNT

Needs what a board has, and Linux's /proc.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.runtime.runtime_support import environment

from edgedistill_runtime import load

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).parents[2]
LIBC = ctypes.CDLL(None)
ROLLUP = Path("/proc/self/smaps_rollup")
LOOKS = 100
"""At the memory, in a run of predictions; one after each load."""


@dataclass(frozen=True)
class Soak:
    """What a process had at each look, after `done` loads or predictions."""

    done: list[int]
    rss_kib: list[int]
    uss_kib: list[int]
    """Memory that no other process shares."""
    descriptors: list[int]
    seconds: float

    def slope_kib(self, after: int) -> float:
        """Least-squares slope of the unshared memory past `after`, in KiB a load or prediction."""
        first = self._first(after)
        return float(np.polyfit(self.done[first:], self.uss_kib[first:], 1)[0])

    def growth_kib(self, after: int) -> int:
        """The unshared memory at the end, less that at the first look past `after`."""
        return self.uss_kib[-1] - self.uss_kib[self._first(after)]

    def more_descriptors(self) -> int:
        """The largest number, less that at the first look."""
        return max(self.descriptors) - self.descriptors[0]

    def _first(self, after: int) -> int:
        return next(i for i, count in enumerate(self.done) if count > after)


def soak(what: str, path: Path, count: int) -> Soak:
    """Load the bundle `count` times ("loads") or predict so often ("predictions"), elsewhere."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.soaking", what, str(path), str(count)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env=environment(ROOT),
    )
    return Soak(**json.loads(done.stdout))


def loads(path: Path, count: int) -> Array:
    """Load, predict once, drop.  A look after each."""
    rows = _table(count)
    for i, row in enumerate(rows):
        model = load(path)
        samples = model.golden_samples()
        model.predict(samples[i % len(samples)])
        del model, samples
        row[:] = _look(i + 1)
    return rows


def predictions(path: Path, count: int) -> Array:
    """Predict the golden samples in turn."""
    model, rows = load(path), _table(LOOKS)
    samples = list(model.golden_samples())
    ends = [count * (i + 1) // LOOKS for i in range(LOOKS)]
    for row, start, end in zip(rows, [0, *ends], ends, strict=False):
        for i in range(start, end):
            model.predict(samples[i % len(samples)])
        row[:] = _look(end)
    return rows


def _table(looks: int) -> Array:
    """Room for all looks, already resident: the looks themselves must not grow."""
    return np.full((looks, 4), -1, np.int64)


def _look(done: int) -> tuple[int, int, int, int]:
    """First glibc gives back what it holds free: a leak would fill that for long, unseen."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    lines = [line.split() for line in ROLLUP.read_text(encoding="utf-8").splitlines()[1:]]
    kib = {words[0]: int(words[1]) for words in lines}
    own = kib["Private_Clean:"] + kib["Private_Dirty:"]
    return done, kib["Rss:"], own, len(os.listdir("/proc/self/fd"))


def main() -> None:
    what, path, count = sys.argv[1:]
    start = time.monotonic()
    rows = {"loads": loads, "predictions": predictions}[what](Path(path), int(count))
    found = Soak(*rows.T.tolist(), seconds=round(time.monotonic() - start, 1))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
