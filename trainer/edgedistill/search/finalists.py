"""Measure the candidates that a plan would train, and let what was measured decide.

A prediction may be far off, so what one measurement says is believed of its neighbours too: a
candidate that was not measured is priced at its prediction times what the nearest measured one was
over its own.  Then the best of all candidates may be others than before, and those are measured
next, until the best ones are all measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from edgedistill.search import ranking
from edgedistill.search.planning import Plan, binding, nearest_to
from edgedistill.search.pricing import Candidate

FEWEST = 3
"""Finalists, each in every precision: as many candidates as `fit` trains before it gives up."""

Measure = Callable[[Candidate], Candidate]
"""A candidate -> the same with the size of its file and, if that fits, what its target says."""


def measured_plan(
    found: Plan, measure: Measure, count: int = FEWEST, in_time: Callable[[], bool] = lambda: True
) -> Plan:
    """The plan in which only what was measured fits.

    count: finalists, no near-twins among them.  in_time: whether another one may be measured; the
    first always is.  Without a candidate that could fit, whatever is measured, the plan stays.
    """
    known: dict[int, Candidate] = {}
    while not known or in_time():
        place = _next(_priced(found, known), known, found, count)
        if place is None:
            break
        known[place] = measure(found.space[place])
    if not known:
        return found
    tried = _ranked(list(known.values()), found)
    fitting = tuple(c for c in tried if c.measured and not c.over(found.budget))
    nearest = nearest_to(tried, found.budget)
    return replace(
        found,
        fitting=fitting,
        front=ranking.front(fitting),
        binding=binding(tried, nearest, found.budget, bool(fitting)),
        nearest=nearest,
        measured=tuple(c for c in tried if c.measured),
    )


def _next(
    priced: list[Candidate], known: Mapping[int, Candidate], found: Plan, count: int
) -> int | None:
    """Place of what is to be measured next; None if nothing is left that could change the choice.

    First the finalists; then of each family and precision of which nothing is known the candidate
    that misses its limits by the least, as long as none that is known without measuring.
    """
    places = {id(c): place for place, c in enumerate(priced)}
    fitting = [c for c in priced if not c.over(found.budget)]
    precisions: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in _ranked(fitting, found, measured_first=True):
        precisions.setdefault((candidate.family, repr(candidate.spec)), []).append(candidate)
    finalists = ranking.spread([each[0] for each in precisions.values()], count)
    wanted = [c for f in finalists for c in precisions[f.family, repr(f.spec)]]
    possible: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in priced:
        if "size_mib" not in candidate.over(found.budget):
            possible.setdefault((candidate.family, candidate.precision), []).append(candidate)
    wanted += [
        nearest_to(kind, found.budget)
        for kind in possible.values()
        if not fitting or not any(c.measured for c in kind)
    ]
    return next((places[id(c)] for c in wanted if places[id(c)] not in known), None)


def _ranked(
    candidates: list[Candidate], found: Plan, measured_first: bool = False
) -> list[Candidate]:
    """The best first; the figures decide between precisions.

    measured_first: of a family's class, so that one that was measured stands for the whole class.
    """

    def key(candidate: Candidate) -> tuple[Any, ...]:
        *before, p50_ms, spec, precision = ranking.rank(candidate, (), found.families)
        later = measured_first and candidate.measured is None
        return (*before, later, p50_ms, spec, precision)

    return sorted(candidates, key=key)


def _priced(found: Plan, known: Mapping[int, Candidate]) -> list[Candidate]:
    """Every candidate by the best that is known of it."""
    if not known:
        return list(found.space)
    return [
        known[place] if place in known else _corrected(candidate, known.values())
        for place, candidate in enumerate(found.space)
    ]


def _corrected(candidate: Candidate, known: Collection[Candidate]) -> Candidate:
    measured = [c for c in known if c.measured]
    if not measured:
        return candidate
    like = (
        [c for c in measured if (c.family, c.precision) == (candidate.family, candidate.precision)]
        or [c for c in measured if c.precision == candidate.precision]
        or measured
    )
    near = min(like, key=lambda c: abs(math.log(c.latency.p50_ms / candidate.latency.p50_ms)))
    costs = {
        name: cost * (near.held[name] / near.costs[name] if name != "size_mib" else 1.0)
        for name, cost in candidate.costs.items()
    }
    p50_ms = candidate.latency.p50_ms * near.p50_ms / near.latency.p50_ms
    return replace(candidate, costs=costs, latency=replace(candidate.latency, p50_ms=p50_ms))
