"""Which students are worth training: every one is priced first, the best few may be tried."""

from __future__ import annotations

from edgedistill.search.halving import BUDGETS, Measure, Storage
from edgedistill.search.planning import Plan, plan
from edgedistill.search.pricing import Candidate, sample_bytes
from edgedistill.search.ranking import spread
from edgedistill.search.trials import Trials, hold_trials

__all__ = [
    "BUDGETS",
    "Candidate",
    "Measure",
    "Plan",
    "Storage",
    "Trials",
    "hold_trials",
    "plan",
    "sample_bytes",
    "spread",
]
