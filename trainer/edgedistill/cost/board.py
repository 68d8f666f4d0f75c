"""What networks cost on a board: latency, memory and their bounds, by the best that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill.cost import latency, memory, preprocessing
from edgedistill.cost.kernels import Kernel
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
    Raises SettingsError for rates that the profile names and that cannot be used.
    """
    found = latency.rates_of(profile, precision, threads, engine)
    tables_mib = preprocessing.table_bytes(around.steps) / memory.MIB if around else 0.0
    rates = MemoryRates.of(found.memory) if found and found.memory else None
    latencies = latency.estimate_all(networks, profile, precision, threads, around, engine)
    costs = []
    for kernels, each in zip(networks, latencies, strict=True):
        peak = memory.peak_ram_mib(kernels, precision, rates or memory.DEFAULT)
        peak += tables_mib + extra_mib
        bound = (
            max(peak * CALIBRATED_SPREAD, peak + CALIBRATED_MIB) if rates else peak * memory.SPREAD
        )
        costs.append(Cost(each, peak, bound))
    return costs


__all__ = ["Around", "Cost", "price"]
