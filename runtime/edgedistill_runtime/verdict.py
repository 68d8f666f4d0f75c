"""Decide, while runs come in, whether a latency percentile is within its limit.

Let X of n runs be over the limit.  If the true p-th percentile were over it, X would be at least
binomial with probability 1 − p/100, so a small X is evidence for "within", a large one for "over"
(exact binomial tails).  Looking after every run would find such evidence by luck: the decision
falls only at fixed run counts, and the 5 % error is shared out over them (Bonferroni).
Neighbouring runs are alike, so n and X count as n/τ and X/τ, where τ is the integrated
autocorrelation time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

LOOKS = (100, 200, 400, 800, 1600, 3200, 6400)
ERROR = 0.05


def decide(latencies_ms: Sequence[float], limit_ms: float, percentile: int) -> str | None:
    """ "PASS", "FAIL", or None while the runs do not decide it.  Call it at the LOOKS only."""
    over_rate = 1 - percentile / 100
    tau = autocorrelation_time(latencies_ms)
    n = int(len(latencies_ms) / tau)
    over = sum(x > limit_ms for x in latencies_ms) / tau
    alpha = ERROR / len(LOOKS)
    if n and binomial_cdf(math.ceil(over), n, over_rate) <= alpha:
        return "PASS"
    if n and 1 - binomial_cdf(math.floor(over) - 1, n, over_rate) <= alpha:
        return "FAIL"
    return None


def binomial_cdf(k: int, n: int, p: float) -> float:
    """Probability of at most k successes in n trials."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    log_n = math.lgamma(n + 1)
    terms = (
        math.exp(log_n - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(terms))


def autocorrelation_time(values: Sequence[float], lags: int = 50) -> float:
    """Integrated autocorrelation time τ of the values' ranks, at least 1 (initial positive sums).

    Ranks, so that one outlier of a hundred times the median does not hide what the rest do; equal
    values (a coarse clock) share theirs.
    """
    n = len(values)
    ordered = sorted(values)
    ranks = [(bisect_left(ordered, v) + bisect_right(ordered, v) - n) / 2 for v in values]
    variance = math.fsum(r * r for r in ranks)
    if n < 20 or not variance:
        return 1.0
    tau = 1.0
    for lag in range(1, min(lags, n // 4)):
        rho = math.fsum(a * b for a, b in zip(ranks, ranks[lag:], strict=False)) / variance
        if rho <= 2 / math.sqrt(n):  # no longer distinguishable from noise
            break
        tau += 2 * rho
    return tau


def quantile(values: Sequence[float], percentile: float) -> float:
    """The order statistic at or above the percentile (no interpolation: a run that happened)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percentile / 100) - 1)]
