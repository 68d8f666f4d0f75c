"""What the board says about itself: model, memory, temperature, clock, governor, throttling.

Every reader returns None where the board does not say.  All of them read below `ROOT`.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path("/")
"""Tests put a folder of their own here."""
UNDER_VOLTAGE = 0x1
SLOWED = 0xE
"""Clock capped, throttled, soft temperature limit."""
BOOST_DRIVERS = ("amd-pstate", "amd_pstate")
"""Their highest clock is one that is not held; which one is, they do not say."""
_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_MODELS = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
_FAMILIES = {"x86_64": "x86", "i386": "x86", "i686": "x86", "aarch64": "arm", "arm": "arm"}


def board_model() -> str | None:
    """The device tree's model, such as "Raspberry Pi 4 Model B Rev 1.4"."""
    return next((text for path in _MODELS if (text := text_of(path))), None)


def emulated() -> bool:
    """True where this "board" is a program: no timing of it means anything.

    It is marked as such, its kernel is of another architecture than its programs, or its device
    tree is that of qemu's virtual machine.
    """
    if (ROOT / "etc/edgedistill-emulated").exists() or board_model() == "linux,dummy-virt":
        return True
    kernel, programs = text_of("proc/sys/kernel/arch") or "", platform.machine()
    family = _FAMILIES.get(kernel)
    return family is not None and family != _FAMILIES.get(programs, "arm")


def peak_ram_mib() -> float:
    """Largest resident memory of this process so far (VmHWM), in MiB."""
    found = peak_ram_of(os.getpid())
    if found is None:
        raise OSError("/proc/self/status has no VmHWM")
    return found


def peak_ram_of(process: int) -> float | None:
    """The same of any process; None where the kernel does not say it, or the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else None


def throttled_bits() -> int | None:
    """Raspberry Pi firmware's throttle word: bits 0-3 now, 16-19 since boot."""
    text = text_of(_THROTTLED)
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def throttled_words(bits: int) -> str:
    """The low four bits in words."""
    names = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
    return ", ".join(name for i, name in enumerate(names) if bits >> i & 1) or "none"


def cpu_name() -> str | None:
    """What /proc/cpuinfo calls the processor, where it does."""
    for line in (text_of("proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip() or None
    return None


def cpu_flags() -> frozenset[str]:
    """Features of the first processor that lists any."""
    for line in (text_of("proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def memory_mib() -> dict[str, float]:
    """ "MemTotal" and "MemAvailable" of /proc/meminfo, those that it has."""
    found = {}
    for line in (text_of("proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if name in ("MemTotal", "MemAvailable") and words and words[0].isdigit():
            found[name] = int(words[0]) / 1024
    return found


def os_name() -> str | None:
    """The distribution's own name, such as "Debian GNU/Linux 12 (bookworm)"."""
    for line in (text_of("etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'") or None
    return None


def busy_processors(seconds: float = 0.5) -> float:
    """How many processors other programs keep busy, over so much time; 0 where nobody says."""
    before = _busy_seconds()
    time.sleep(seconds)
    after = _busy_seconds()
    if before is None or after is None:
        return 0.0
    return (after - before) / seconds


def _busy_seconds() -> float | None:
    """User, nice, system, interrupt and steal time of all processors since boot."""
    try:
        fields = (text_of("proc/stat") or "").splitlines()[0].split()[1:]
        ticks = sum(int(fields[i]) for i in (0, 1, 2, 5, 6, 7))
    except (IndexError, ValueError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def snapshot() -> dict[str, float | str | int | None]:
    """Temperature, clock, governor, throttle word and load, as they are now."""
    clock = _clock()
    return {
        "temperature_c": temperature_c(),
        "clock_mhz": clock[0] if clock else None,
        "clock_share": clock[1] if clock else None,
        "governor": governor(),
        "throttled": throttled_bits(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def temperature_c() -> float | None:
    """The warmest zone."""
    zones = (ROOT / "sys/class/thermal").glob("thermal_zone*/temp")
    found = [t for zone in zones if (t := number(zone, 1000)) is not None]
    return max(found) if found else None


def governor() -> str | None:
    """Of every clock domain; several names if they differ."""
    names = {name for policy in _policies() if (name := read(policy / "scaling_governor"))}
    return ", ".join(sorted(names)) or None


def quota_stops() -> int | None:
    """How often the control group's CPU quota has stopped this process and its neighbours."""
    for name in _cgroups("cpu"):
        for line in (text_of(f"{name}/cpu.stat") or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "nr_throttled" and value.isdigit():
                return int(value)
    return None


def memory_cap_mib() -> float | None:
    """The control group's memory limit, if it has one."""
    found = []
    for name in _cgroups("memory"):
        for file in ("memory.max", "memory.limit_in_bytes"):
            text = text_of(f"{name}/{file}")
            if text and text.isdigit() and int(text) < 1 << 60:  # v1 says "none" as a huge number
                found.append(int(text) / 2**20)
    return min(found) if found else None


def _cgroups(controller: str) -> list[str]:
    """Folders of this process's control groups that may have `controller`, innermost first."""
    folders = []
    for line in (text_of("proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            base = "sys/fs/cgroup"
        elif controller in names.split(","):
            base = f"sys/fs/cgroup/{controller}"
        else:
            continue
        here = Path(path.strip("/"))
        folders += [f"{base}/{p}" for p in (here, *here.parents)]
    return folders


def _policies() -> list[Path]:
    """Clock domains of the processors, in a board of several kinds of core one each."""
    base = ROOT / "sys/devices/system/cpu"
    return sorted((base / "cpufreq").glob("policy*")) or [base / "cpu0/cpufreq"]


def _clock() -> tuple[float, float | None] | None:
    """MHz of the domain that is nearest to its highest clock, and how near: the busy one."""
    found: list[tuple[float, float | None]] = []
    for policy in _policies():
        now = number(policy / "scaling_cur_freq", 1000)
        if now is None:
            continue
        driver = read(policy / "scaling_driver") or ""
        most = number(policy / "base_frequency", 1000)  # Intel: what it holds without boost
        if most is None and not driver.startswith(BOOST_DRIVERS):
            most = number(policy / "cpuinfo_max_freq", 1000)
        found.append((now, now / most if most else None))
    return max(found, key=lambda clock: clock[1] or 0, default=None)


@dataclass(frozen=True)
class Watched:
    """What a watch saw."""

    seconds: float
    temperature_c: tuple[float, float] | None
    """Lowest and highest."""
    clock_mhz: float | None
    """Median."""
    clock_share: float | None
    """Median of the clock as a part of the highest that it can hold."""
    governors: tuple[str, ...]
    """All that were seen."""
    throttled_before: int | None
    throttled: int | None
    """All bits that were seen at any time, before or during."""
    quota_stops: int
    busy_processors: float | None
    """Kept busy by other programs, on average."""
    samples: tuple[dict[str, Any], ...]

    @property
    def throttled_rose(self) -> int:
        """Bits 0-3 that came up meanwhile, also where only their "since boot" twin did."""
        rose = (self.throttled or 0) & ~(self.throttled_before or 0)
        return (rose | rose >> 16) & 0xF

    @property
    def throttled_newly(self) -> int:
        """Those of them that had not come up before either, since the board was started."""
        return ((self.throttled or 0) & ~(self.throttled_before or 0)) >> 16 & 0xF


class Watch:
    """Looks at the board each second, from a thread beside a process that waits for its children.

    Used with `with`; `result` is there afterwards.
    """

    result: Watched

    def __init__(self, period_s: float = 1.0) -> None:
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="telemetry", daemon=True)
        self._samples: list[dict[str, Any]] = []

    def __enter__(self) -> Watch:
        self._start = time.monotonic()
        self._busy, self._own, self._stops = _busy_seconds(), own_seconds(), quota_stops()
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        seconds = time.monotonic() - self._start
        busy, stops = _busy_seconds(), quota_stops()
        others = None
        if busy is not None and self._busy is not None:
            used = busy - self._busy - (own_seconds() - self._own)
            others = max(0.0, used / seconds)
        samples = self._samples
        # while the runs go on: the first and last sample are of a board that has nothing to do
        running = samples[1:-1] or samples
        temperatures = _known(samples, "temperature_c")
        words = _known(samples, "throttled")
        shares, clocks = _known(running, "clock_share"), _known(running, "clock_mhz")
        self.result = Watched(
            seconds=seconds,
            temperature_c=(min(temperatures), max(temperatures)) if temperatures else None,
            clock_mhz=median(clocks) if clocks else None,
            clock_share=median(shares) if shares and len(samples) > 2 else None,
            governors=tuple(dict.fromkeys(_known(samples, "governor"))),
            throttled_before=samples[0]["throttled"],
            throttled=_union(words) if words else None,
            quota_stops=stops - self._stops if stops and self._stops is not None else 0,
            busy_processors=others,
            samples=tuple(samples),
        )

    def _look(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        at = round(time.monotonic() - self._start, 2)
        self._samples.append({"at_s": at, **snapshot()})


def _known(samples: list[dict[str, Any]], key: str) -> list[Any]:
    return [s[key] for s in samples if s[key] is not None]


def _union(words: list[int]) -> int:
    bits = 0
    for word in words:
        bits |= word
    return bits


def text_of(path: str) -> str | None:
    """The file's text without what surrounds it; None where there is none."""
    return read(ROOT / path)


def read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def number(path: Path, divisor: float) -> float | None:
    text = read(path)
    try:
        return float(text) / divisor if text else None
    except ValueError:
        return None
