"""The limits a student must keep: the recipe's, else the profile's, else none."""

from __future__ import annotations

from dataclasses import dataclass

import edgedistill_runtime.manifest as contract
from edgedistill.profiles import DeviceProfile
from edgedistill.recipe import Recipe

DEFAULT_RETENTION = 0.95


@dataclass(frozen=True)
class Limit:
    """One line of the budget with what is known about it."""

    name: str
    limit: float
    value: float | None
    standing: str
    """unknown, estimated, predicted, measured elsewhere or verified."""
    ok: bool | None
    """None: nobody knows yet; `edgedistill-run bench` on the board will."""


def combine(recipe: Recipe, profile: DeviceProfile) -> contract.Budget:
    """The recipe's limits laid over the profile's defaults."""
    names = (
        "latency_ms",
        "percentile",
        "peak_ram_mib",
        "size_mib",
        "cold_start_ms",
        "min_retention",
    )
    limits = {}
    for name in names:
        own = getattr(recipe, name)
        limits[name] = own if own is not None else getattr(profile.budget, name)
    if limits["percentile"] is None:
        limits["percentile"] = 95
    if limits["min_retention"] is None:
        limits["min_retention"] = DEFAULT_RETENTION
    return contract.Budget(**limits)
