"""Which student to train: every spec of the family, priced before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgedistill.cost import memory, preprocessing
from edgedistill.cost.kernels import total_macs, total_parameters
from edgedistill.cost.latency import JITTER, LatencyEstimate, estimate
from edgedistill.data import Dataset
from edgedistill.errors import OverBudget, SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.students import Family
from edgedistill_runtime.manifest import Budget

CAPACITY_SHARE = 0.75
"""Candidates with this share of the largest capacity are held to learn as well as it."""
UNITS = {"latency_ms": "ms", "peak_ram_mib": "MiB", "size_mib": "MiB"}


@dataclass(frozen=True)
class Candidate:
    """One student in one precision, with what it will cost."""

    family: str
    spec: Any
    precision: str
    parameters: int
    capacity: float
    """How much it can learn, compared with others of its family."""
    macs: int
    latency: LatencyEstimate
    costs: dict[str, float]
    """What is held against each limit, by its name: bounds, not midpoints."""

    def over(self, budget: Budget) -> dict[str, float]:
        """Limits that it misses, and how many times over each it is."""
        ratios = {name: cost / getattr(budget, name) for name, cost in self.limited(budget)}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}

    def limited(self, budget: Budget) -> Iterator[tuple[str, float]]:
        for name, cost in self.costs.items():
            if getattr(budget, name) is not None:
                yield name, cost

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "spec": asdict(self.spec),
            "precision": self.precision,
            "params": self.parameters,
            "macs": self.macs,
            "predicted": {
                "latency_ms": {"p50": self.latency.p50_ms, "bound": self.latency.bound_ms},
                "peak_ram_mib": self.costs["peak_ram_mib"],
                "size_mib": self.costs["size_mib"],
                "cold_start_ms": None,
                "standing": self.latency.standing,
            },
        }


@dataclass(frozen=True)
class Plan:
    """The whole space, and the part of it that fits, best first."""

    family: str
    profile: str
    budget: Budget
    size: int
    """Candidates in the space, all precisions together."""
    fitting: tuple[Candidate, ...]
    binding: str | None
    """The limit that keeps out most candidates; None if none does."""
    nearest: Candidate
    """The candidate that misses its worst limit by the least."""

    def require(self) -> tuple[Candidate, ...]:
        """The candidates that fit.  Raises OverBudget, which says what would."""
        if not self.fitting:
            raise OverBudget(self.infeasible())
        return self.fitting

    def infeasible(self) -> str:
        """What binds, by how much the nearest candidate misses it, and the budget that fits."""
        missed = self.nearest.over(self.budget)
        worst = max(missed, key=missed.__getitem__)
        limit, cost = getattr(self.budget, worst), self.nearest.costs[worst]
        options = " ".join(
            f"--{name.replace('_', '-')} {_round_up(self.nearest.costs[name])}" for name in missed
        )
        at = f" p{self.budget.percentile}" if worst == "latency_ms" else ""
        return (
            f"no student of {self.family!r} fits {self.profile}: {worst}{at} binds, the nearest "
            f"candidate needs {cost:.3g} {UNITS[worst]} ({self.nearest.latency.standing}), "
            f"{missed[worst]:.3g} times the limit of {limit:.3g}; "
            f"the nearest budget that fits: {options}"
        )


def plan(
    family: Family,
    data: Dataset,
    profile: DeviceProfile,
    budget: Budget,
    precisions: tuple[str, ...],
    wanted: Mapping[str, Any] | None = None,
    vocabulary: int | None = None,
) -> Plan:
    """Price every spec in every precision; keep those whose bounds fit, best first.

    Best is the first precision of `precisions` that fits at all; then capacity, where all within
    `CAPACITY_SHARE` of the largest count as equal; then least latency.

    wanted: fields that a spec must have.  vocabulary: tokens that the texts use; specs with more
    are left out, unless all have more: then those with the fewest stay.
    """
    specs = [
        spec
        for spec in family.specs(data.input_shape)
        if all(getattr(spec, name, None) == value for name, value in (wanted or {}).items())
    ]
    if vocabulary is not None:
        sizes = [getattr(spec, "vocabulary", 0) for spec in specs]
        most = max(vocabulary, min(sizes, default=0))
        specs = [spec for spec, size in zip(specs, sizes, strict=True) if size <= most]
    one = sample_bytes(data)
    before = preprocessing.kernels(data.features, data.sample.shape)
    first = estimate(before, profile, "float32", 1).p50_ms if before else 0.0
    candidates = [
        _price(family, spec, data, one, first, profile, budget, precision)
        for precision in precisions
        for spec in specs
    ]
    if not candidates:
        raise SettingsError(
            f"the student family {family.name!r} has no spec for {_kind(data)}"
            + (f" with {wanted}" if wanted else "; choose another family or larger samples")
        )
    fitting = [c for c in candidates if not c.over(budget)]
    largest = {
        p: max((c.capacity for c in fitting if c.precision == p), default=0) for p in precisions
    }
    order = {precision: i for i, precision in enumerate(precisions)}
    fitting.sort(
        key=lambda c: (
            order[c.precision],
            _capacity_class(c.capacity, largest[c.precision]),
            c.latency.p50_ms,
            repr(c.spec),
        )
    )
    kept_out: dict[str, int] = {}
    for candidate in candidates:
        for name in candidate.over(budget):
            kept_out[name] = kept_out.get(name, 0) + 1
    nearest = min(candidates, key=lambda c: max(c.over(budget).values(), default=0.0))
    binding = max(kept_out, key=kept_out.__getitem__, default=None)
    if not fitting:
        over = nearest.over(budget)
        binding = max(over, key=over.__getitem__)
    return Plan(
        family.name, profile.name, budget, len(candidates), tuple(fitting), binding, nearest
    )


def _price(
    family: Family,
    spec: Any,
    data: Dataset,
    one: int,
    preprocessing_ms: float,
    profile: DeviceProfile,
    budget: Budget,
    precision: str,
) -> Candidate:
    classes = len(data.labels)
    kernels = family.kernels(spec, data.input_shape, classes, precision)
    latency = estimate(kernels, profile, precision, profile.budget.threads).after(preprocessing_ms)
    parameters = total_parameters(kernels)
    capacity = getattr(family, "capacity", None)
    return Candidate(
        family.name,
        spec,
        precision,
        parameters,
        capacity(spec) if capacity else parameters,
        total_macs(kernels),
        latency,
        {
            "latency_ms": latency.bound_ms * JITTER[budget.percentile],
            "peak_ram_mib": (
                memory.peak_ram_mib(kernels, precision)
                + preprocessing.table_bytes(data.features) / memory.MIB
            )
            * memory.SPREAD,
            "size_mib": memory.bundle_mib(kernels, precision, one, classes),
        },
    )


def _capacity_class(capacity: float, largest: float) -> int:
    """0 for the largest and those like it, 1 for those about CAPACITY_SHARE as large, and so on."""
    return math.floor(math.log(capacity / largest) / math.log(CAPACITY_SHARE))


def sample_bytes(data: Dataset) -> int:
    """Of one sample in a bundle."""
    if data.sample.kind != "text":
        return int(data.validation.x[0].nbytes)
    sizes = [len(text.encode()) for text in data.validation.x]
    return sum(sizes) // len(sizes) + 4


def _kind(data: Dataset) -> str:
    if data.sample.kind == "text":
        return "texts"
    shape = "×".join(map(str, data.input_shape))
    return f"inputs of {shape} (channels×height×width)"


def _round_up(value: float) -> str:
    """Two digits, never below the value."""
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.6g}"
