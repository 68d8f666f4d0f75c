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


SOUND_SHARE = 0.25
"""Of the time to the next window of sound: longest latency that is allowed without being asked."""


def combine(recipe: Recipe, profile: DeviceProfile, hop_s: float | None = None) -> contract.Budget:
    """The recipe's limits laid over the profile's defaults.

    hop_s: from one window of sound to the next.  The default limit of latency is then at least a
    quarter of it: what answers before the next window is there is fast enough.
    """
    names = (
        "latency_ms",
        "percentile",
        "peak_ram_mib",
        "size_mib",
        "cold_start_ms",
        "energy_mj",
        "min_retention",
    )
    limits = {}
    for name in names:
        own = getattr(recipe, name)
        limits[name] = own if own is not None else getattr(profile.budget, name)
    if recipe.latency_ms is None and limits["latency_ms"] is not None and hop_s is not None:
        limits["latency_ms"] = max(limits["latency_ms"], 1000 * SOUND_SHARE * hop_s)
    if limits["percentile"] is None:
        limits["percentile"] = 95
    if limits["min_retention"] is None:
        limits["min_retention"] = DEFAULT_RETENTION
    return contract.Budget(**limits)
