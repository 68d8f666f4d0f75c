"""The finalists of a fit, measured on its target before anything is trained."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from edgedistill import search, target
from edgedistill.boards import BoardError
from edgedistill.cache import Cache, digest
from edgedistill.progress import Progress
from edgedistill.search import Candidate, Plan
from edgedistill.setting import Setting
from edgedistill.target import Measurement, Target
from edgedistill_runtime import bundle

LONGEST_S, SHARE = 8.0, 1 / 25
"""Most time for the latency of one candidate, and most of the time for all: two dozen find room.
Without a limit to decide on, `bench` records for a quarter of it."""

Pack = Callable[[Candidate, Path], float]
"""Write the bundle of an untrained candidate.  -> its size in MiB, generously"""


def measure(setting: Setting, found: Plan, pack: Pack, work: Cache, progress: Progress) -> Plan:
    """The plan with its finalists measured on the recipe's target (`search.measured_plan`).

    Figures are kept in `work` by bundle and target: a second run measures nothing again.
    Raises BoardError if the target is lost or refuses; what was measured is kept.
    """
    recipe, start = setting.recipe, time.monotonic()
    seconds = min(LONGEST_S, SHARE * recipe.target_seconds)
    count = max(search.FEWEST, recipe.trials)

    def in_time() -> bool:
        return time.monotonic() - start < recipe.target_seconds

    with (
        target.connect(recipe.target, setting.profile, recipe.wheels_folder) as there,
        tempfile.TemporaryDirectory(prefix="edgedistill-") as folder,
    ):

        def one(candidate: Candidate) -> Candidate:
            path = Path(folder) / "candidate.edge"
            made = replace(candidate, exported_mib=pack(candidate, path))
            if "size_mib" in made.over(setting.budget):
                return made
            made = replace(made, measured=_measured(there, path, seconds, work))
            progress.note(_line(made, setting))
            return made

        made = search.measured_plan(found, one, count, in_time)
    if made.measured and not in_time():
        progress.note(
            f"the {recipe.target_seconds:g} s are over, and better candidates may not be measured; "
            "target_seconds gives more"
        )
    return made


def _measured(there: Target, path: Path, seconds: float, work: Cache) -> Measurement:
    key = digest("finalist", there.key, bundle.read(path).id, seconds)

    def make() -> bytes:
        found = there.bench(path, seconds)
        if found.verdict == "INVALID":
            raise BoardError(f"{there.name}: {found.reason}")
        return msgspec.json.encode(found)

    return msgspec.json.decode(work.get("measured.json", key, make), type=Measurement)


def _line(candidate: Candidate, setting: Setting) -> str:
    assert candidate.measured is not None
    timing, budget = candidate.measured.latency_ms, setting.budget
    over = ", ".join(candidate.over(budget))
    bound = candidate.costs["latency_ms"]
    said = "".join(f"; {note}" for note in candidate.measured.notes)
    return (
        f"{'over ' + over if over else 'fits'}: {candidate.precision} {candidate.spec}: "
        f"p50 {timing.p50:.3f} ms (predicted {candidate.latency.p50_ms:.3f}), p{budget.percentile} "
        f"{timing.at_percentile:.3f} (bound {bound:.3f}), "
        f"{candidate.measured.peak_ram_mib:.1f} MiB{said}"
    )
