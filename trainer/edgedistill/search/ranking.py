"""What candidates are expected to learn: one scale for all families, and one order on it.

Within a family, capacity says it.  Between families a scale needs pairs that learned equally well:
`REFERENCES` has one student of each family, and an expectation is a capacity over that of its
family's reference (docs/search.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedistill.search.pricing import Candidate

CLASS_STEP = 4 / 3
"""Candidates whose expectations differ by less are held to learn equally well."""
DOUBT = 4.0
"""What a family that is not its task's default must be ahead by: two doublings.  A doubling gained
half a point on tweets, and two students that were measured there may be a point apart by chance."""
REFERENCES = {
    "convnet": 18_370.0,  # the embedded default's student
    "vit": 18_370.0 * 46 * DOUBT,  # 46 weights of layers learned as much as one parameter of those
    "transformer": 13_762_560.0,  # 8,000 × 64, 2 layers of 128: .7823 of tweets right
    "static": 179.25 * DOUBT,  # 4,000 × 32, hidden 128: .7824
}
"""Capacities of students that are held to learn equally well, by family (docs/search.md)."""
PRECISION_SHARE = {"float32": 1.0, "int8": 2**-0.2}
"""What is left of a capacity: on tweets int8 cost the static student 0.1 points, and a doubling of
its capacity gains half a point."""


def expectation(family: str, capacity: float, precision: str) -> float:
    """How much a student is expected to learn; 1 is what the family's reference learns.

    A family that nobody has compared counts its own capacity: it stands alone in its plan.
    """
    return capacity / REFERENCES.get(family, 1.0) * PRECISION_SHARE.get(precision, 1.0)


def capacity_class(expected: float) -> int:
    """Larger is better; class 0 begins at the references.

    The edges are the same for every budget: so a larger budget never yields a worse plan.
    """
    return math.floor(math.log(expected) / math.log(CLASS_STEP) + 1e-9)


def rank(
    candidate: Candidate, precisions: Sequence[str], families: Sequence[str]
) -> tuple[Any, ...]:
    """The first is the best: by precision, class of expectation, family, latency, then by name.

    precisions: the preferred one first; empty where the figures decide.  families: likewise.
    """
    preferred = precisions.index(candidate.precision) if precisions else 0
    return (
        preferred,
        -capacity_class(candidate.expected),
        families.index(candidate.family),
        candidate.p50_ms,
        repr(candidate.spec),
        candidate.precision,
    )


def front(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other one beats in bound latency, size and expectation at once.

    By expectation, the largest first.
    """
    ordered = sorted(candidates, key=lambda c: (-c.expected, *_costs(c), repr(c.spec)))
    kept: list[Candidate] = []
    stairs: list[tuple[float, float]] = []  # costs of the kept ones that no other of them beats
    for candidate in ordered:
        latency_ms, size_mib = _costs(candidate)
        if any(ms <= latency_ms and mib <= size_mib for ms, mib in stairs):
            continue
        stairs = [(ms, mib) for ms, mib in stairs if ms < latency_ms or mib < size_mib]
        stairs.append((latency_ms, size_mib))
        kept.append(candidate)
    return tuple(kept)


def _costs(candidate: Candidate) -> tuple[float, float]:
    return candidate.held["latency_ms"], candidate.held["size_mib"]


def spread(ranked: Sequence[Candidate], count: int) -> tuple[Candidate, ...]:
    """The `count` best that are no twins: of each family and class the best one.

    The first of each family are among them, as far as there is room: how families compare is what
    a ranking by capacity knows least about.  In the order of `ranked`.
    """
    best: dict[tuple[str, int], Candidate] = {}
    for candidate in ranked:
        best.setdefault((candidate.family, capacity_class(candidate.expected)), candidate)
    each = list(best.values())
    firsts = {c.family: c for c in reversed(each)}
    order = sorted(each, key=lambda c: (c is not each[0], c is not firsts[c.family]))
    chosen = {id(c) for c in order[:count]}
    return tuple(c for c in each if id(c) in chosen)


def evenly(points: Sequence[Candidate], count: int) -> Iterator[Candidate]:
    """At most `count` of them, evenly spread, both ends among them."""
    most = len(points) - 1
    places = {round(i * most / max(1, count - 1)) for i in range(count)}
    yield from (points[i] for i in sorted(places) if 0 <= i <= most)
