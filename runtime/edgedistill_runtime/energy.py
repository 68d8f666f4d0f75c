"""Where a board can measure its power, and what it says.

Three kinds: a power monitor chip that Linux reads (hwmon, by name: its number changes at boot), the
energy counters of x86 processors (powercap), and the Raspberry Pi 5's power chip (vcgencmd).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgedistill_runtime import telemetry

CHIPS = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina260", "ina3221")
INPUT_LABELS = ("VDD_IN", "POM_5V_IN")
"""Of chips with several channels, the one that feeds the board (NVIDIA's)."""
_RAIL = re.compile(r"(\S+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]")


@dataclass(frozen=True)
class Meter:
    name: str
    """What is measured, for people."""
    watts: Callable[[], float | None] | None = None
    """Power now."""
    joules: Callable[[], float | None] | None = None
    """Energy since some moment, wherever there is a counter of it."""
    wraps_at: float = 0.0
    """Joules at which that counter begins again."""
    every_s: float = 0.05
    """How often it is asked for its power: no more than costs nothing."""


def meter() -> Meter | None:
    """This board's meter, if it has one that can be read: the whole board's before a part's."""
    return _hwmon() or _pmic() or _powercap()


class Metered:
    """Energy of the time inside a `with`; afterwards `joules` and `seconds`."""

    joules: float | None
    seconds: float

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stop = threading.Event()
        self._samples: list[float] = []
        self._thread = threading.Thread(target=self._look, name="energy", daemon=True)

    def __enter__(self) -> Metered:
        self._counter = self._meter.joules() if self._meter.joules else None
        self._start = time.monotonic()
        if self._meter.watts:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
        self.joules = None
        if self._meter.joules:
            end = self._meter.joules()
            if end is not None and self._counter is not None:
                used = end - self._counter
                self.joules = used if used >= 0 else used + self._meter.wraps_at
            return
        self._stop.set()
        self._thread.join()
        if self._samples:
            self.joules = sum(self._samples) / len(self._samples) * self.seconds

    def _look(self) -> None:
        while True:
            watts = self._meter.watts() if self._meter.watts else None
            if watts is not None:
                self._samples.append(watts)
            if self._stop.wait(self._meter.every_s):
                return


def _hwmon() -> Meter | None:
    for chip in sorted((telemetry.ROOT / "sys/class/hwmon").glob("hwmon*")):
        name = telemetry.read(chip / "name") or ""
        if name not in CHIPS:
            continue
        channel = "1"
        for label in chip.glob("in*_label"):
            if telemetry.read(label) in INPUT_LABELS:
                channel = label.name[2:-6]
        watts = _channel(chip, channel)
        if watts() is not None:
            return Meter(f"{name} ({chip.name}, channel {channel})", watts=watts)
    return None


def _channel(chip: Path, channel: str) -> Callable[[], float | None]:
    def watts() -> float | None:
        power = telemetry.number(chip / f"power{channel}_input", 1e6)
        if power is not None:
            return power
        volts = telemetry.number(chip / f"in{channel}_input", 1e3)
        amperes = telemetry.number(chip / f"curr{channel}_input", 1e3)
        return None if volts is None or amperes is None else volts * amperes

    return watts


def _powercap() -> Meter | None:
    """Processor packages alone: memory, disk and supply are not in it.  Root's to read."""
    packages = [
        zone
        for zone in sorted((telemetry.ROOT / "sys/class/powercap").glob("intel-rapl:*"))
        if (telemetry.read(zone / "name") or "").startswith("package")
    ]

    def joules() -> float | None:
        found = [telemetry.number(zone / "energy_uj", 1e6) for zone in packages]
        return sum(x for x in found if x is not None) if found and None not in found else None

    if joules() is None:
        return None
    wraps = [telemetry.number(zone / "max_energy_range_uj", 1e6) or 0.0 for zone in packages]
    return Meter("processor package (RAPL)", joules=joules, wraps_at=max(wraps))


def _pmic() -> Meter | None:
    """The Raspberry Pi 5's rails behind its power chip; what the chip itself loses is not in it."""
    program = shutil.which("vcgencmd")
    if program is None or not (telemetry.board_model() or "").startswith("Raspberry Pi 5"):
        return None

    def watts() -> float | None:
        try:
            done = subprocess.run(
                [program, "pmic_read_adc"], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return rails_watts(done.stdout)

    return None if watts() is None else Meter("PMIC rails (vcgencmd)", watts=watts, every_s=0.5)


def rails_watts(text: str) -> float | None:
    """Sum over the rails that `vcgencmd pmic_read_adc` gives both a current and a voltage of."""
    found: dict[str, dict[str, float]] = {}
    for rail, kind, value in _RAIL.findall(text):
        found.setdefault(rail, {})[kind] = float(value)
    powers = [rail["A"] * rail["V"] for rail in found.values() if len(rail) == 2]
    return sum(powers) if powers else None
