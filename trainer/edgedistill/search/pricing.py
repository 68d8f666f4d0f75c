"""What every student costs on a board, from its kernels: nothing is built and nothing trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgedistill.cost import board, memory, preprocessing
from edgedistill.cost.board import Around
from edgedistill.cost.kernels import Kernel, total_macs, total_parameters
from edgedistill.cost.latency import LatencyEstimate
from edgedistill.data import Dataset
from edgedistill.profiles import DeviceProfile
from edgedistill.search.ranking import expectation
from edgedistill.students import Family
from edgedistill_runtime.manifest import Budget

if TYPE_CHECKING:
    from edgedistill.target import Measurement

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
    expected: float
    """How much it is expected to learn, compared with others of any family (`ranking`)."""
    macs: int
    latency: LatencyEstimate
    costs: dict[str, float]
    """What is predicted for each limit, by its name: bounds, not midpoints."""
    measured: Measurement | None = None
    """What a target said of its untrained form: what a call takes does not hang on the weights."""
    exported_mib: float | None = None
    """Size of that form's bundle, once it is exported."""

    @property
    def held(self) -> dict[str, float]:
        """What is held against each limit: what was measured, else the predicted bounds."""
        known = dict(self.costs)
        if self.exported_mib is not None:
            known["size_mib"] = self.exported_mib
        if self.measured is not None:
            known["latency_ms"] = self.measured.latency_ms.at_percentile
            known["peak_ram_mib"] = self.measured.peak_ram_mib
        return known

    @property
    def p50_ms(self) -> float:
        """Measured, else predicted."""
        return self.measured.latency_ms.p50 if self.measured else self.latency.p50_ms

    @property
    def standing(self) -> str:
        """Of what is held against the limits of latency and memory."""
        return "measured" if self.measured else self.latency.standing

    def over(self, budget: Budget) -> dict[str, float]:
        """Limits that it misses, and how many times over each it is."""
        ratios = {name: cost / getattr(budget, name) for name, cost in self.limited(budget)}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}

    def slack(self, budget: Budget) -> dict[str, float]:
        """The share of each limit that it leaves free."""
        return {name: 1 - cost / getattr(budget, name) for name, cost in self.limited(budget)}

    def limited(self, budget: Budget) -> Iterator[tuple[str, float]]:
        for name, cost in self.held.items():
            if getattr(budget, name) is not None:
                yield name, cost

    def to_json(self) -> dict[str, Any]:
        measured = {} if self.measured is None else {"measured": self.measured.to_json()}
        return measured | {
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


def price(
    specs: Sequence[tuple[Family, Any]],
    data: Dataset,
    profile: DeviceProfile,
    budget: Budget,
    precision: str,
    engine: str = "onnxruntime",
) -> list[Candidate]:
    """Every spec in one precision, as the engine runs it on the profile's board."""
    shape, classes, one = data.input_shape, len(data.labels), sample_bytes(data)
    around = _around(data)
    built = [family.kernels(spec, shape, classes, precision) for family, spec in specs]
    priced = board.price(built, profile, precision, profile.budget.threads, around, engine)
    candidates = []
    for (family, spec), kernels, cost in zip(specs, built, priced, strict=True):
        parameters = total_parameters(kernels)
        own = getattr(family, "capacity", None)
        capacity = own(spec) if own else parameters
        costs = {
            "latency_ms": cost.latency.bound_at(budget.percentile),
            "peak_ram_mib": cost.peak_ram_bound_mib,
            "size_mib": memory.bundle_mib(kernels, precision, one, classes),
        }
        candidates.append(
            Candidate(
                family.name,
                spec,
                precision,
                parameters,
                capacity,
                expectation(family.name, capacity, precision),
                total_macs(kernels),
                cost.latency,
                costs,
            )
        )
    return candidates


def reprice(
    candidate: Candidate,
    kernels: Sequence[Kernel],
    data: Dataset,
    profile: DeviceProfile,
    budget: Budget,
    precision: str,
    size_mib: float,
) -> Candidate:
    """The candidate as a file that was made of it in another precision."""
    (cost,) = board.price([kernels], profile, precision, profile.budget.threads, _around(data))
    costs = {
        "latency_ms": cost.latency.bound_at(budget.percentile),
        "peak_ram_mib": cost.peak_ram_bound_mib,
        "size_mib": size_mib,
    }
    return replace(
        candidate,
        precision=precision,
        latency=cost.latency,
        costs=costs,
        measured=None,
        exported_mib=None,
    )


def _around(data: Dataset) -> Around:
    """What a call does before the network."""
    if data.sample.kind == "text":
        characters = round(data.input_shape[0] * preprocessing.CHARACTERS_A_TOKEN)
        return Around(({"op": "tokenize"},), (), characters)
    return Around((*data.features, *_LAST_STEPS[data.sample.kind]), data.sample.shape)


_ROW_STEPS = ({"op": "standardize"}, {"op": "insert_axis"})
_LAST_STEPS = {
    "image": ({"op": "normalize"}, {"op": "channels_first"}),
    "audio": _ROW_STEPS,
    "sensor": _ROW_STEPS,
}
"""What a task puts behind the steps of its data."""


def sample_bytes(data: Dataset) -> int:
    """Of one sample in a bundle."""
    if data.sample.kind != "text":
        return int(data.validation.x[0].nbytes)
    sizes = [len(text.encode()) for text in data.validation.x]
    return sum(sizes) // len(sizes) + 4
