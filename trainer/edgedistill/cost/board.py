"""What networks cost on a board: latency, memory and their bounds, by the best that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgedistill.cost import latency, memory, preprocessing
from edgedistill.cost.kernels import MIXED, Kernel
from edgedistill.cost.latency import Around, LatencyEstimate
from edgedistill.cost.memory import MemoryRates
from edgedistill.profiles import DeviceProfile

CALIBRATED_SPREAD, CALIBRATED_MIB = 1.05, 3.0
"""What a calibrated board's peak memory may be over the prediction, whichever is more: two runs of
one process differ by as much."""


@dataclass(frozen=True)
class Cost:
    """Of one call, batch 1, and of the process that makes it."""

    latency: LatencyEstimate
    peak_ram_mib: float
    peak_ram_bound_mib: float


def price(
    networks: Sequence[Sequence[Kernel]],
    profile: DeviceProfile,
    precision: str,
    threads: int,
    around: Around | None = None,
    engine: str = "onnxruntime",
    extra_mib: float = 0.0,
) -> list[Cost]:
    """Every network on the profile's board.

    around: what a call of `predict` does before the network; without it, the network alone.
    extra_mib: what the process holds beside the network.
    Where nothing was measured, a mixture of int8 and float32 is held to take as long as the slower.
    float16 takes as long as float32, and so does int4, within an interval that says it is a guess.
    Raises SettingsError for rates that the profile names and that cannot be used.
    """
    found = latency.rates_of(profile, _rated(precision), threads, engine)
    tables_mib = preprocessing.table_bytes(around.steps) / memory.MIB if around else 0.0
    rates = MemoryRates.of(found.memory) if found and found.memory else None
    latencies = latency.estimate_all(networks, profile, _rated(precision), threads, around, engine)
    if precision == MIXED and not found:
        floats = latency.estimate_all(networks, profile, "float32", threads, around, engine)
        pairs = zip(latencies, floats, strict=True)
        latencies = [max(pair, key=lambda each: each.bound_ms) for pair in pairs]
    if precision == "int4":
        latencies = [_unmeasured(each, "MatMulNBits") for each in latencies]
    costs = []
    for kernels, each in zip(networks, latencies, strict=True):
        loaded = "float32" if precision == "float16" else precision
        peak = memory.peak_ram_mib(kernels, loaded, rates or memory.DEFAULT)
        peak += tables_mib + extra_mib
        bound = (
            max(peak * CALIBRATED_SPREAD, peak + CALIBRATED_MIB) if rates else peak * memory.SPREAD
        )
        costs.append(Cost(each, peak, bound))
    return costs


def _rated(precision: str) -> str:
    """The precision whose rates, by class of kernel, hold for a network."""
    if precision in ("float16", "int4"):  # the engine widens these weights, and computes in float32
        return "float32"
    return "int8" if precision == MIXED else precision


def _unmeasured(found: LatencyEstimate, operator: str) -> LatencyEstimate:
    """Priced by float32's products, which nobody has compared with this operator on the board."""
    return replace(
        found,
        bound_ms=found.bound_ms * latency.UNSEEN_FACTOR,
        standing="estimated",
        basis=f"{found.basis}; {operator} is not measured",
        unseen=(*found.unseen, operator),
    )


__all__ = ["Around", "Cost", "price"]
