"""A process that predicts, or loads a bundle, again and again, and says what memory it has then.

    python -m tests.runtime.soaking loads|predictions BUNDLE COUNT

Needs what a board has, and Linux's /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tests.runtime.runtime_support import environment

from edgedistill_runtime import load

ROOT = Path(__file__).parents[2]
ROLLUP = Path("/proc/self/smaps_rollup")
LOOKS = 100
"""At the memory, in a run of predictions; one after each load."""


@dataclass
class Soak:
    """What a process had at each look, after `done` loads or predictions."""

    done: list[int] = field(default_factory=list)
    rss_kib: list[int] = field(default_factory=list)
    uss_kib: list[int] = field(default_factory=list)
    """Memory that no other process shares."""
    descriptors: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def look(self, done: int) -> None:
        table = [line.split() for line in ROLLUP.read_text(encoding="utf-8").splitlines()[1:]]
        kib = {words[0]: int(words[1]) for words in table}
        self.done.append(done)
        self.rss_kib.append(kib["Rss:"])
        self.uss_kib.append(kib["Private_Clean:"] + kib["Private_Dirty:"])
        self.descriptors.append(len(os.listdir("/proc/self/fd")))

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


def loads(path: Path, count: int) -> Soak:
    """Load, predict once, drop.  A look after each."""
    found = Soak()
    for i in range(count):
        model = load(path)
        samples = model.golden_samples()
        model.predict(samples[i % len(samples)])
        del model, samples
        found.look(i + 1)
    return found


def predictions(path: Path, count: int) -> Soak:
    """Predict the golden samples in turn."""
    model, found = load(path), Soak()
    samples = list(model.golden_samples())
    for i in range(count):
        model.predict(samples[i % len(samples)])
        if (i + 1) % (count // LOOKS) == 0:
            found.look(i + 1)
    return found


def main() -> None:
    what, path, count = sys.argv[1:]
    start = time.monotonic()
    found = {"loads": loads, "predictions": predictions}[what](Path(path), int(count))
    found.seconds = round(time.monotonic() - start, 1)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
