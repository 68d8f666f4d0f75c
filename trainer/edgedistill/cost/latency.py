"""Latency on a board for which nobody has calibrated this engine: an estimate, and its interval.

The estimate scales a published latency of MobileNet V1 on the board, or on the nearest board, to
the kernels at hand.  One number cannot tell how an engine treats small or odd layers, so the
interval is wide on purpose; a calibration on the board replaces it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from edgedistill.cost.kernels import WEIGHT_BYTES, Kernel, moved_elements
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

    def after(self, preprocessing_ms: float) -> LatencyEstimate:
        """With what runs before the network, whose interval is as wide."""
        factor = (self.p50_ms + preprocessing_ms) / self.p50_ms
        return replace(self, p50_ms=self.p50_ms * factor, bound_ms=self.bound_ms * factor)


def estimate(
    kernels: Sequence[Kernel], profile: DeviceProfile, precision: str, threads: int
) -> LatencyEstimate:
    """Latency of one call of a network on the profile's board, batch 1."""
    anchor, owner, kinship = _anchor(profile, precision)
    anchor_ms = anchor.latency_ms * (FLOAT16_GAIN if anchor.precision == "float16" else 1.0)
    exponent = SPEED_UP_EXPONENT[precision]
    clocks = _mhz(owner) / _mhz(profile) if owner is not profile else 1.0
    one_thread_ms = anchor_ms * anchor.threads**exponent * ENGINE_FACTOR * clocks
    ms_per_mac = one_thread_ms / (ANCHOR_DENSE_MACS + DEPTHWISE_COST * ANCHOR_DEPTHWISE_MACS)
    work = sum(k.macs * (DEPTHWISE_COST if k.depthwise else 1.0) for k in kernels)
    compute_ms = work * ms_per_mac / threads**exponent
    overhead_us = (
        (CALL_US + NODE_US * len(kernels)) * SLOWER_PER_CLOCK * REFERENCE_MHZ / _mhz(profile)
    )
    p50_ms = compute_ms + overhead_us / 1e3 + _memory_ms(kernels, profile, precision)
    return LatencyEstimate(
        p50_ms,
        p50_ms * SPREAD[kinship],
        "estimated",
        f"{anchor.engine} {ANCHOR} {anchor.precision} on {owner.name} ({anchor.source})",
    )


def _memory_ms(kernels: Sequence[Kernel], profile: DeviceProfile, precision: str) -> float:
    """Time to move weights and activations once; a copy moves every byte twice."""
    if profile.memory.copy_mb_s is None:
        return 0.0
    size = WEIGHT_BYTES[precision]
    moved = sum(size * moved_elements(k) for k in kernels)
    return moved / (2 * profile.memory.copy_mb_s * 1e6) * 1e3


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
