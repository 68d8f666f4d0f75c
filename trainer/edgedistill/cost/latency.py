"""Latency on a board: from its rates if it was calibrated, else an estimate; always with a bound.

Three sources, the best that the profile has: rates of a calibration (`rates`), whole families that
somebody published for the board and engine (`published`), or one published latency of MobileNet V1
on the board, or on the nearest board, scaled to the kernels at hand.  One number cannot tell how an
engine treats small or odd layers, so the last interval is wide on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill.cost import preprocessing, rates
from edgedistill.cost.kernels import KNOWN_OPS, WEIGHT_BYTES, Kernel, moved_elements
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile, Published, names

ANCHOR = "mobilenet-v1-1.0-224"
ANCHOR_DENSE_MACS, ANCHOR_DEPTHWISE_MACS = 551.3e6, 17.6e6
DEPTHWISE_COST = 20.0
"""Time of a depthwise multiply-accumulate over a dense one: least squares over the 16 MobileNet V1
of MLPerf's Raspberry Pi 4 rows (TFLite 2.4.1, float32 19.9, int8 19.6)."""
SPEED_UP_EXPONENT = {"float32": 0.64, "int8": 0.83}
"""n threads are n**e times faster: ncnn's MobileNet V1 on the Zero 2 W with one and with four."""
FLOAT16_GAIN = 2.0
"""ncnn computes "float32" in float16 on ARMv8.2 cores, about twice as fast as true float32."""
ENGINE_FACTOR = 2.09
"""ncnn against onnxruntime: the median over networks on a Raspberry Pi 5, as published."""
NODE_US, CALL_US, REFERENCE_MHZ = 1.88, 6.0, 3000.0
"""onnxruntime's overhead for a node and a call on x86-64, scaled by the clock and ..."""
SLOWER_PER_CLOCK = 2.0
"""... by what a small ARM core needs more cycles for (assumed, inside the interval)."""
SPREAD = {"own": 2.6, "class": 3.7, "other": 4.4}
"""Factor up from the estimate.  On one board the effective rate spreads 6.7 times over networks,
√6.7 to a side; a board of the same class is off by up to 42 %, one of another by up to 70 %."""
JITTER = {50: 1.0, 95: 2.4, 99: 2.4}
"""Percentile over p50 on an unmeasured board: median p99 over mean of MLPerf's small networks."""
UNSEEN_FACTOR = rates.UNSEEN_FACTOR
UNKNOWN_MHZ = 2400.0
_PRECISIONS = {"float32": ("float32", "float16"), "int8": ("int8", "float16", "float32")}


@dataclass(frozen=True)
class LatencyEstimate:
    p50_ms: float
    bound_ms: float
    """Upper end of p50's interval."""
    standing: str
    basis: str
    """What the figure rests on."""
    low_ms: float = 0.0
    """Lower end of p50's interval."""
    jitter: Mapping[int, float] = field(default_factory=lambda: JITTER)
    """Percentiles over p50."""
    kernels_ms: tuple[float, ...] = ()
    """Of each kernel, where they were priced one by one."""
    unseen: tuple[str, ...] = ()
    """Classes of kernels that were priced without having been measured."""

    def bound_at(self, percentile: int) -> float:
        """Upper end of the interval of a percentile, in milliseconds."""
        return self.bound_ms * self.jitter[percentile]

    def after(self, preprocessing_ms: float) -> LatencyEstimate:
        """With what runs before the network, whose interval is as wide."""
        factor = (self.p50_ms + preprocessing_ms) / self.p50_ms
        return replace(
            self,
            p50_ms=self.p50_ms * factor,
            bound_ms=self.bound_ms * factor,
            low_ms=self.low_ms * factor,
        )


@dataclass(frozen=True)
class Around:
    """What a call of `predict` does before the network."""

    steps: Sequence[Mapping[str, Any]]
    sample: tuple[int, ...]
    """Shape that the first step is given."""
    characters: int = 0
    """Of a text."""


def estimate_all(
    networks: Sequence[Sequence[Kernel]],
    profile: DeviceProfile,
    precision: str,
    threads: int,
    around: Around | None = None,
    engine: str = "onnxruntime",
) -> list[LatencyEstimate]:
    """Latency of one call of each network on the profile's board, batch 1.

    around: what else a call does; without it, the network alone.
    """
    found = rates_of(profile, precision, threads, engine)
    if found:
        return _calibrated(networks, found, around)
    made = [estimate(kernels, profile, precision, threads, engine) for kernels in networks]
    before = preprocessing.kernels(around.steps, around.sample) if around else ()
    if not before:
        return made
    before_ms = _scaled(before, profile, "float32", 1).p50_ms
    return [each.after(before_ms) for each in made]


def rates_of(
    profile: DeviceProfile, precision: str, threads: int, engine: str = "onnxruntime"
) -> rates.Rates | None:
    """The board's rates for exactly these, checked.  Raises SettingsError."""
    backend = "onnx" if engine == "onnxruntime" else "tflite"
    choice = profile.engine(backend)
    if choice is None or choice.name != engine:
        return None
    row = profile.rates_for(engine, choice.version, threads, precision)
    if row is None:
        return None
    path = Path(profile.path).parent / row.file
    found = rates.load(path, row.sha256)
    for what, has, wanted in (
        ("engine", found.engine, row.engine),
        ("threads", found.threads, row.threads),
        ("architecture", found.machine, profile.board.arch),
    ):
        if has != wanted:
            raise SettingsError(
                f"{path}: rates for the {what} {has}, and the profile names them for {wanted}; "
                "calibrate again"
            )
    return found


def _calibrated(
    networks: Sequence[Sequence[Kernel]], found: rates.Rates, around: Around | None
) -> list[LatencyEstimate]:
    extra_us = 0.0
    if around:
        steps_us = preprocessing.time_us(
            around.steps, around.sample, around.characters, found.steps
        )
        extra_us = found.predict_us + steps_us
    typical = found.jitter["50"]
    jitter = {p: found.jitter.get(str(p), typical) / typical for p in JITTER}
    basis = f"{found.engine} {found.engine_version}, calibrated {found.date}"
    scale = typical / 1e3
    return [
        LatencyEstimate(
            (priced.floor_us + extra_us) * scale,
            (priced.bound_us + extra_us * found.bound) * scale,
            "predicted",
            basis,
            (priced.low_us + extra_us / found.bound) * scale,
            jitter,
            tuple(us * scale for us in priced.kernels_us),
            priced.unseen,
        )
        for priced in rates.price(networks, found)
    ]


def estimate(
    kernels: Sequence[Kernel],
    profile: DeviceProfile,
    precision: str,
    threads: int,
    engine: str = "onnxruntime",
) -> LatencyEstimate:
    """Latency of one call of a network on the profile's board, batch 1, without calibration."""
    from edgedistill.cost import published  # builds on this module

    known = published.price(kernels, profile, precision, threads, engine)
    return known or _scaled(kernels, profile, precision, threads)


def _scaled(
    kernels: Sequence[Kernel], profile: DeviceProfile, precision: str, threads: int
) -> LatencyEstimate:
    """From one published latency."""
    anchor, owner, kinship = _anchor(profile, precision)
    anchor_ms = anchor.latency_ms * (FLOAT16_GAIN if anchor.precision == "float16" else 1.0)
    exponent = SPEED_UP_EXPONENT[precision]
    clocks = _mhz(owner) / _mhz(profile) if owner is not profile else 1.0
    one_thread_ms = anchor_ms * anchor.threads**exponent * ENGINE_FACTOR * clocks
    ms_per_mac = one_thread_ms / (ANCHOR_DENSE_MACS + DEPTHWISE_COST * ANCHOR_DEPTHWISE_MACS)
    slower = SLOWER_PER_CLOCK * REFERENCE_MHZ / _mhz(profile) / 1e3
    ms_per_element = _ms_per_element(profile, precision)
    own_ms = tuple(
        k.macs * (DEPTHWISE_COST if k.depthwise else 1.0) * ms_per_mac / threads**exponent
        + NODE_US * slower
        + moved_elements(k) * ms_per_element
        for k in kernels
    )
    p50_ms = CALL_US * slower + sum(own_ms)
    unseen = sorted({k.op for k in kernels if k.op not in KNOWN_OPS})
    unseen_ms = sum(ms for ms, k in zip(own_ms, kernels, strict=True) if k.op in unseen)
    return LatencyEstimate(
        p50_ms,
        (p50_ms + (UNSEEN_FACTOR - 1) * unseen_ms) * SPREAD[kinship],
        "estimated",
        f"{anchor.engine} {ANCHOR} {anchor.precision} on {owner.name} ({anchor.source})",
        p50_ms / SPREAD[kinship],
        kernels_ms=own_ms,
        unseen=tuple(unseen),
    )


def _ms_per_element(profile: DeviceProfile, precision: str) -> float:
    """Time to move a weight or an activation once; a copy moves every byte twice."""
    if profile.memory.copy_mb_s is None:
        return 0.0
    return WEIGHT_BYTES[precision] / (2 * profile.memory.copy_mb_s * 1e6) * 1e3


def _anchor(profile: DeviceProfile, precision: str) -> tuple[Published, DeviceProfile, str]:
    """The published row to scale, whose board it is, and how near that board is."""
    for wanted in _PRECISIONS[precision]:
        own = _row(profile, wanted)
        if own:
            return own, profile, "own"
    others = [other for other in _built_in() if any(_row(other, p) for p in _PRECISIONS[precision])]
    nearest = min(
        others,
        key=lambda other: (
            other.isa != profile.isa,
            other.board.arch != profile.board.arch,
            abs(math.log(_mhz(other) / _mhz(profile))),
            other.name,
        ),
    )
    row = next(row for p in _PRECISIONS[precision] if (row := _row(nearest, p)))
    return row, nearest, "class" if nearest.isa == profile.isa else "other"


def _row(profile: DeviceProfile, precision: str) -> Published | None:
    rows = [r for r in profile.published if (r.model, r.precision) == (ANCHOR, precision)]
    return min(rows, key=lambda r: r.threads, default=None)


def _mhz(profile: DeviceProfile) -> float:
    """Clock of the fastest cluster."""
    return max((c.mhz for c in profile.cluster if c.mhz), default=UNKNOWN_MHZ)


@cache
def _built_in() -> tuple[DeviceProfile, ...]:
    return tuple(DeviceProfile.load(name) for name in names())
