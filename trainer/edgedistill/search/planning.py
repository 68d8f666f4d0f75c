"""The plan: what fits the budget, best first; and where nothing does, what would."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill.data import Dataset
from edgedistill.errors import OverBudget, SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.search import ranking
from edgedistill.search.pricing import UNITS, Candidate, price
from edgedistill.students import Family
from edgedistill_runtime.manifest import Budget

SHOWN = 12
"""Points of a front that are listed."""


@dataclass(frozen=True)
class Plan:
    """The whole space, and the part of it that fits, best first."""

    families: tuple[str, ...]
    """Those that have a candidate."""
    profile: str
    budget: Budget
    space: tuple[Candidate, ...]
    """Every candidate, all families and precisions together."""
    fitting: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    """Of what fits: by expectation, the largest first."""
    binding: str | None
    """The limit that keeps out most candidates; None if none does."""
    nearest: Candidate
    """The candidate that misses its worst limit by the least."""
    alternatives: tuple[str, ...] = ()
    """Options with which something fits, where nothing does."""
    measured: tuple[Candidate, ...] = ()
    """What a target measured, those over a limit among them."""

    @property
    def size(self) -> int:
        """Candidates in the space."""
        return len(self.space)

    @property
    def family(self) -> str:
        return ", ".join(self.families)

    def require(self) -> tuple[Candidate, ...]:
        """The candidates that fit.  Raises OverBudget, which says what would."""
        if not self.fitting:
            raise OverBudget(self.infeasible())
        return self.fitting

    def shown(self) -> tuple[Candidate, ...]:
        """The first candidate and the front, evenly thinned out, by expectation."""
        points = [*ranking.evenly(self.front, SHOWN), *self.fitting[:1]]
        return tuple(sorted({id(c): c for c in points}.values(), key=lambda c: -c.expected))

    def to_json(self) -> dict[str, Any]:
        return {
            "candidates": [c.to_json() for c in self.fitting],
            "front": [
                c.to_json() | {"expected": c.expected, "slack": c.slack(self.budget)}
                for c in self.front
            ],
            "binding": self.binding,
            "measured": [c.to_json() for c in self.measured],
        }

    def infeasible(self) -> str:
        """What binds, by how much the nearest candidate misses it, and what would fit."""
        missed = self.nearest.over(self.budget)
        worst = max(missed, key=missed.__getitem__)
        held = self.nearest.held
        limit, cost = getattr(self.budget, worst), held[worst]
        options = " ".join(f"--{name.replace('_', '-')} {_round_up(held[name])}" for name in missed)
        at = f" p{self.budget.percentile}" if worst == "latency_ms" else ""
        families = " or ".join(map(repr, self.families))
        also = f"; also fits: {', or '.join(self.alternatives)}" if self.alternatives else ""
        return (
            f"no student of {families} fits {self.profile}: {worst}{at} binds, the nearest "
            f"candidate needs {cost:.3g} {UNITS[worst]} ({self.nearest.standing}), "
            f"{missed[worst]:.3g} times the limit of {limit:.3g}{also}; "
            f"the nearest budget that fits: {options}"
        )


def plan(
    families: Family | Sequence[Family],
    data: Dataset,
    profile: DeviceProfile,
    budget: Budget,
    precisions: tuple[str, ...],
    wanted: Mapping[str, Any] | None = None,
    vocabulary: int | None = None,
    engine: str = "onnxruntime",
) -> Plan:
    """Price every spec in every precision; keep those whose bounds fit, best first (`ranking`).

    precisions: the preferred one first.  Where every latency rests on measured rates, the figures
    decide between them.  wanted: fields that a spec must have.  vocabulary: tokens that the texts
    use; specs with more are left out, unless all of a family have more: then those with the fewest
    stay.
    """
    several = families if isinstance(families, Sequence) else (families,)
    specs = _specs(several, data, wanted or {}, vocabulary)
    candidates = [
        candidate
        for precision in precisions
        for candidate in price(specs, data, profile, budget, precision, engine)
    ]
    measured = all(c.latency.standing == "predicted" for c in candidates)
    preferred = () if measured else precisions
    names = [family.name for family in several]
    fitting = sorted(
        (c for c in candidates if not c.over(budget)),
        key=lambda c: ranking.rank(c, preferred, names),
    )
    nearest = nearest_to(candidates, budget)
    return Plan(
        tuple(dict.fromkeys(c.family for c in candidates)),
        profile.name,
        budget,
        tuple(candidates),
        tuple(fitting),
        ranking.front(fitting),
        binding(candidates, nearest, budget, bool(fitting)),
        nearest,
    )


def _specs(
    families: Sequence[Family],
    data: Dataset,
    wanted: Mapping[str, Any],
    vocabulary: int | None,
) -> list[tuple[Family, Any]]:
    """What there is to price.  Raises SettingsError if no family has anything."""
    found: list[tuple[Family, Any]] = []
    refused: list[SettingsError] = []
    for family in families:
        try:
            specs = list(family.specs(data.input_shape))
        except SettingsError as error:
            refused.append(error)
            continue
        has = [s for s in specs if all(getattr(s, n, None) == v for n, v in wanted.items())]
        if vocabulary is not None:
            sizes = [getattr(spec, "vocabulary", 0) for spec in has]
            most = max(vocabulary, min(sizes, default=0))
            has = [spec for spec, size in zip(has, sizes, strict=True) if size <= most]
        found += [(family, spec) for spec in has]
    if found:
        return found
    if len(refused) == len(families):
        raise refused[0]
    names = " or ".join(repr(family.name) for family in families)
    raise SettingsError(
        f"the student family {names} has no spec for {_kind(data)}"
        + (f" with {dict(wanted)}" if wanted else "; choose another family or larger samples")
    )


def nearest_to(candidates: Sequence[Candidate], budget: Budget) -> Candidate:
    """The candidate that misses its worst limit by the least."""
    return min(candidates, key=lambda c: max(c.over(budget).values(), default=0.0))


def binding(
    candidates: Sequence[Candidate], nearest: Candidate, budget: Budget, fits: bool
) -> str | None:
    if not fits:
        over = nearest.over(budget)
        return max(over, key=over.__getitem__)
    kept_out: dict[str, int] = {}
    for candidate in candidates:
        for name in candidate.over(budget):
            kept_out[name] = kept_out.get(name, 0) + 1
    return max(kept_out, key=kept_out.__getitem__, default=None)


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
