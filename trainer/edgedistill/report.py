"""What a fit came to: the contents of report.json, and the table that closes a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.budget import Limit
from edgedistill_runtime.files import write_atomically


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
        return 0 if self.verdict == "fits" else 1


def verdict(limits: Sequence[Limit]) -> tuple[str, str]:
    """ "fits" or "over budget", and the sentence that says why."""
    missed = [limit for limit in limits if limit.ok is False]
    if missed:
        return "over budget", "; ".join(_miss(limit) for limit in missed)
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
