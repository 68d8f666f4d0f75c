"""Which students are worth training: every one is priced first, the best few may be tried."""

from __future__ import annotations

from edgedistill.search.finalists import FEWEST, measured_plan
from edgedistill.search.halving import BUDGETS, Measure, Storage
from edgedistill.search.planning import Plan, plan
from edgedistill.search.pricing import Candidate, reprice, sample_bytes
from edgedistill.search.ranking import spread
from edgedistill.search.trials import Trials, hold_trials

__all__ = [
    "BUDGETS",
    "FEWEST",
    "Candidate",
    "Measure",
    "Plan",
    "Storage",
    "Trials",
    "hold_trials",
    "measured_plan",
    "plan",
    "reprice",
    "sample_bytes",
    "spread",
]
