"""What the board says about itself: model, memory, temperature, clock, governor, throttling.

Every reader returns None where the board does not say.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

EMULATED_MARK = Path("/etc/edgedistill-emulated")
_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_MODELS = (Path("/proc/device-tree/model"), Path("/sys/firmware/devicetree/base/model"))


def board_model() -> str | None:
    """The device tree's model, such as "Raspberry Pi 4 Model B Rev 1.4"."""
    return next((text for path in _MODELS if (text := _text(path))), None)


def emulated() -> bool:
    """True where this "board" is a program: no timing of it means anything."""
    return EMULATED_MARK.exists()


def peak_ram_mib() -> float:
    """Largest resident memory of this process so far (VmHWM), in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def throttled_bits() -> int | None:
    """Raspberry Pi firmware's throttle word: bits 0-3 now, 16-19 since boot."""
    text = _text(_THROTTLED)
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def cpu_name() -> str | None:
    """What /proc/cpuinfo calls the processor, where it does."""
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip() or None
    return None


def busy_processors(seconds: float = 0.5) -> float:
    """How many processors other programs keep busy, over so much time; 0 where nobody says."""
    before = _busy_ticks()
    time.sleep(seconds)
    after = _busy_ticks()
    if before is None or after is None:
        return 0.0
    return (after - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks() -> int | None:
    """User, nice, system, interrupt and steal time of all processors since boot."""
    try:
        fields = (_text(Path("/proc/stat")) or "").splitlines()[0].split()[1:]
        return sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    except (IndexError, ValueError):
        return None


def snapshot() -> dict[str, float | str | int | None]:
    """Temperature, clock, governor, throttle word and load, as they are now."""
    return {
        "temperature_c": _number(Path("/sys/class/thermal/thermal_zone0/temp"), 1000),
        "clock_mhz": _number(_CPUFREQ / "scaling_cur_freq", 1000),
        "governor": _text(_CPUFREQ / "scaling_governor"),
        "throttled": throttled_bits(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _number(path: Path, divisor: float) -> float | None:
    text = _text(path)
    try:
        return float(text) / divisor if text else None
    except ValueError:
        return None
