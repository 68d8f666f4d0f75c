"""What short distillations of the best few candidates say about their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edgedistill.search import halving
from edgedistill.search.halving import Measure, Storage, Tried
from edgedistill.search.pricing import Candidate


@dataclass(frozen=True)
class Trials:
    """Candidates that were tried, and which one won."""

    candidates: tuple[Candidate, ...]
    tried: tuple[Tried, ...]
    winner: int | None
    """Its place; None if no candidate came to the end."""
    samples: int
    """Of the validation split."""

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The winner, then who came furthest with the best metric.  Empty without a winner."""
        if self.winner is None:
            return ()
        order = sorted(
            self.tried,
            key=lambda t: (t.place != self.winner, -len(t.metrics), -max(t.metrics, default=0.0)),
        )
        return tuple(self.candidates[each.place] for each in order if each.state != "failed")

    def sentences(self, metric: str) -> Iterator[str]:
        if self.winner is None:
            yield "no trial came to its end: the candidates stay in the order of their capacity"
            return
        won = next(each for each in self.tried if each.place == self.winner)
        best = max(each.metrics[-1] for each in self.tried if each.state == "finished")
        value = won.metrics[-1]
        tie = ""
        if value < best:
            tie = f", within a standard error of the best ({best:.4f}) and faster"
        yield f"the winner is {self.candidates[self.winner].spec}: {metric} {value:.4f}{tie}"

    def to_json(self) -> dict[str, Any]:
        return {
            "budgets": list(halving.BUDGETS),
            "winner": self.winner,
            "trials": [
                {
                    **self.candidates[each.place].to_json(),
                    "expected": self.candidates[each.place].expected,
                    "metrics": list(each.metrics),
                    "standard_error": halving.standard_error(each.metrics[-1], self.samples)
                    if each.metrics
                    else None,
                    "state": each.state,
                }
                for each in self.tried
            ],
        }


def hold_trials(
    candidates: tuple[Candidate, ...],
    measure: Measure,
    name: str,
    storage: Storage,
    samples: int,
    note: Callable[[str], None],
) -> Trials:
    """Distil the candidates briefly, together with the workers of the same name and storage.

    samples: of the validation split.  Raises SettingsError.
    """

    def tell(each: Tried) -> None:
        values = " ".join(f"{metric:.4f}" for metric in each.metrics) or "nothing measured"
        candidate = candidates[each.place]
        note(f"trial {each.place}  {values}  {each.state:8}  {candidate.family} {candidate.spec}")

    tried = halving.run(len(candidates), measure, name, storage, tell)
    latencies = [candidate.held["latency_ms"] for candidate in candidates]
    return Trials(candidates, tried, halving.winner(tried, latencies, samples), samples)
