"""What a fit came to: the contents of report.json, and the table that closes a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.budget import Limit
from edgedistill_runtime.files import write_atomically

if TYPE_CHECKING:
    from edgedistill.target import Measurement

EXIT_CODES = {"fits": 0, "over budget": 1, "inconclusive": 3, "invalid": 3}
TIMED = ("latency_ms", "cold_start_ms", "energy_mj")
"""What invalid runs say nothing about."""


@dataclass(frozen=True)
class FitResult:
    """A finished fit."""

    bundle: Path
    report: dict[str, Any]
    budget: tuple[Limit, ...]

    @property
    def verdict(self) -> str:
        return str(self.report["verdict"])

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def measured(limit: Limit, there: Measurement) -> Limit:
    """The limit with what a target's bench says of it, if it does; a size needs no board."""
    lines = {line.name.split()[0]: line for line in there.budget}  # "latency_ms p95"
    line = lines.get(limit.name)
    if line is None or limit.name == "size_mib":
        return limit
    invalid = there.verdict == "INVALID" and limit.name in TIMED
    return Limit(limit.name, limit.limit, line.value, line.standing, None if invalid else line.ok)


def verdict(limits: Sequence[Limit], there: Measurement | None = None) -> tuple[str, str]:
    """ "fits", "over budget", "inconclusive" or "invalid", and the sentence that says why.

    there: what a target's bench says; the last two are its own.
    """
    missed = [limit for limit in limits if limit.ok is False]
    if missed:
        return "over budget", "; ".join(_miss(limit) for limit in missed)
    if there is not None and there.verdict in ("INCONCLUSIVE", "INVALID"):
        return there.verdict.lower(), there.reason
    open_ = [x.name for x in limits if x.standing in ("estimated", "unknown")]
    if open_:
        return (
            "fits",
            f"{', '.join(open_)} {'are' if len(open_) > 1 else 'is'} not measured on the "
            "board yet; run edgedistill-run bench there",
        )
    return "fits", "within the budget"


def _miss(limit: Limit) -> str:
    value = float("nan") if limit.value is None else limit.value
    below = limit.name == "min_retention"
    word = "under" if below else "over"
    return (
        f"{limit.name} is {value:.4g}, {word} its limit of {limit.limit:.4g} by "
        f"{abs(value / limit.limit - 1):.1%}"
    )


def write(path: Path, report: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(report, indent=1, ensure_ascii=False).encode() + b"\n")


def limits_json(limits: Sequence[Limit]) -> list[dict[str, Any]]:
    return [asdict(limit) for limit in limits]
