"""What a distillation cost, and after how many inferences of the student it has paid that back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"


@dataclass(frozen=True)
class Payback:
    seconds: float
    """Spent on the student in this run; its teacher is there anyway."""
    energy_j: float | None
    """Of the whole machine's processors in that time; None: the machine does not say."""
    saved_ms: float | None
    """Of an inference here, against the teacher's; None: the teacher's is not known."""
    inferences: int | None
    """After so many it is paid back; None: never, or not known."""

    @staticmethod
    def of(
        seconds: float,
        energy_j: float | None,
        teacher_ms: float | None,
        student_ms: float,
    ) -> Payback:
        saved_ms = None if teacher_ms is None else teacher_ms - student_ms
        pays = saved_ms is not None and saved_ms > 0
        inferences = math.ceil(1000 * seconds / saved_ms) if pays and saved_ms else None
        return Payback(seconds, energy_j, saved_ms, inferences)

    @property
    def sentence(self) -> str:
        cost = f"the distillation took {self.seconds:.1f} s"
        if self.energy_j is not None:
            cost += f" and {self.energy_j:,.0f} J"
        if self.saved_ms is None:
            return f"{cost}; the teacher's latency here is not known"
        if self.inferences is None:
            return f"{cost}; the student is not faster than its teacher here: never paid back"
        return (
            f"{cost}: paid back after {self.inferences:,} inferences, each {self.saved_ms:.3g} ms "
            "shorter than the teacher's here"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


class Meter:
    """Energy of the processors over some stretches of time, where RAPL can be read."""

    def __init__(self, folder: Path = RAPL) -> None:
        self._packages = sorted(path for path in folder.glob(PACKAGES) if path.name.count(":") == 1)
        self._started: list[int] | None = None
        self._spent = 0.0
        self._known = bool(self._packages)

    def start(self) -> None:
        self.stop()
        if self._known:
            self._started = self._read("energy_uj")

    def stop(self) -> None:
        started, self._started = self._started, None
        if started is None or not self._known:
            return
        now, largest = self._read("energy_uj"), self._read("max_energy_range_uj")
        for before, after, most in zip(started, now, largest, strict=False):
            self._spent += (after - before) % (most + 1) / 1e6  # the counter begins again at 0

    def joules(self) -> float | None:
        """Spent in all stretches; None where nobody says."""
        self.stop()
        return self._spent if self._known else None

    def _read(self, name: str) -> list[int]:
        try:
            return [int((path / name).read_text(encoding="ascii")) for path in self._packages]
        except (OSError, ValueError):  # only root may read it on most systems
            self._known = False
            return []
