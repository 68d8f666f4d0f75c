"""Decide, while runs come in, whether a latency percentile is within its limit.

Let X of n runs be over the limit.  If the true p-th percentile were over it, X would be at least
binomial with probability 1 − p/100, so a small X is evidence for "within", a large one for "over"
(exact binomial tails).  Looking after every run would find such evidence by luck: the decision
falls only at the run counts of a plan, and the 5 % error is shared out over them (Bonferroni).
Neighbouring runs are alike, so n and X count as n/τ and X/τ, where τ is the autocorrelation time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

ERROR = 0.05
MOST_RUNS = 6400
MOST_LOOKS = 3
BLOCKS = 20
PROCESSES = 3
"""In the first look: where a process's memory lies changes its speed."""
SLOW_DEVIATIONS = 4
"""How far the slow part of the latency may still go, in its standard deviations."""


@dataclass(frozen=True)
class Plan:
    """When the runs are looked at, made before the first of them."""

    looks: tuple[int, ...]
    """Run counts, each twice the one before.  The first is a quarter of all, where so few can
    decide: a board that has just begun is not yet as warm as it will be."""
    alpha: float
    """Error that may be spent at each look, on either verdict."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Runs of each process, one after the other; every look is the end of one."""
        first = self.looks[0]
        thirds = tuple((first + i) // PROCESSES for i in range(PROCESSES))
        return thirds + (first,) * ((self.looks[-1] - first) // first)


def plan(runs: int, percentile: int) -> Plan:
    """The looks at up to `runs` runs, as many as could pass at the first of them."""
    runs = min(runs, MOST_RUNS)
    for looks in range(MOST_LOOKS, 0, -1):
        first = runs >> (looks - 1)
        if first >= least_runs(percentile, ERROR / looks):
            return Plan(tuple(first << i for i in range(looks)), ERROR / looks)
    return Plan((max(PROCESSES, runs),), ERROR)


def least_runs(percentile: int, alpha: float = ERROR) -> int:
    """Fewest independent runs, all within the limit, that pass."""
    return math.ceil(math.log(alpha) / math.log(percentile / 100))


FAR = 4.0
"""Factor between a run and the limit that no clock, cache or other program explains."""


def decide(
    latencies_ms: Sequence[float],
    limit_ms: float,
    percentile: int,
    alpha: float = ERROR,
    of_runs: int = 0,
) -> str | None:
    """ "PASS", "FAIL", or None while the runs do not decide it.  Call it at a plan's looks only.

    of_runs: how many the plan has in all.  Latencies that rise must pass at what they rise to by
    then.

    The runs' slow part (modes of processes, drift) makes them count less, as far as it goes: where
    it is small against the way to the limit, it is put at its worst instead, and the runs count as
    what they are without it.  Where even the slowest run is far from the limit, or the fastest is
    far over it, no disturbance of the runs makes them count less.
    """
    if verdict := far_off(latencies_ms, limit_ms, percentile, alpha):
        return verdict
    runs = _Runs(latencies_ms)
    slow = _slow_part(latencies_ms)
    if slow is None:
        return runs.decide(limit_ms, percentile, alpha)
    rise = slow.rise * (max(1.0, of_runs / len(latencies_ms)) - 0.5)
    risen = runs.decide(limit_ms / math.exp(rise), percentile, alpha)
    if risen == "PASS" or runs.decide(limit_ms, percentile, alpha) == "FAIL":
        return "PASS" if risen == "PASS" else "FAIL"
    rest = _Runs(slow.rest)
    for wanted, worst in (
        ("PASS", rise + SLOW_DEVIATIONS * (slow.spread_about_rise if rise else slow.spread)),
        ("FAIL", -SLOW_DEVIATIONS * slow.spread),
    ):
        at_worst = limit_ms / (slow.typical * math.exp(worst))
        if rest.decide(at_worst, percentile, alpha) == wanted:
            return wanted
    return None


def far_off(
    latencies_ms: Sequence[float], limit_ms: float, percentile: int, alpha: float = ERROR
) -> str | None:
    """ "PASS" or "FAIL" where every run is far from the limit, and they are enough; else None."""
    if not latencies_ms or _tail(0, len(latencies_ms), 1 - percentile / 100, alpha) != "PASS":
        return None
    if max(latencies_ms) * FAR < limit_ms:
        return "PASS"
    return "FAIL" if min(latencies_ms) > FAR * limit_ms else None


def effective_runs(latencies_ms: Sequence[float]) -> float:
    """How many independent runs these are worth."""
    return len(latencies_ms) / autocorrelation_time(latencies_ms)


class _Runs:
    """Runs that are tested against several limits."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values
        self._tau: float | None = None

    def decide(self, limit: float, percentile: int, alpha: float) -> str | None:
        over = sum(x > limit for x in self._values)
        verdict = _tail(over, len(self._values), 1 - percentile / 100, alpha)
        if verdict is None:  # not even if each run stood for itself
            return None
        if self._tau is None:
            self._tau = autocorrelation_time(self._values)
        n = int(len(self._values) / self._tau)
        return _tail(over / self._tau, n, 1 - percentile / 100, alpha)


def _tail(over: float, n: int, over_rate: float, alpha: float) -> str | None:
    """Whether as few, or as many, would come with at most `alpha` probability at the boundary."""
    if n and binomial_cdf(math.ceil(over), n, over_rate) <= alpha:
        return "PASS"
    if n and 1 - binomial_cdf(math.floor(over) - 1, n, over_rate) <= alpha:
        return "FAIL"
    return None


@dataclass(frozen=True)
class _Slow:
    """The medians of blocks, as one number each for what they say."""

    rest: list[float]
    """The values over their block's median."""
    typical: float
    spread: float
    """Standard deviation of the medians' logarithms.  What only noise makes is in there too: that
    errs towards no decision."""
    spread_about_rise: float
    """The same about a straight line."""
    rise: float
    """Of the logarithm from the first to the last, by that line; 0 where it does not rise, or
    no more than its standard error: noise does as much once in six times, and costs more runs."""


def _slow_part(values: Sequence[float]) -> _Slow | None:
    if len(values) < BLOCKS or min(values) <= 0:
        return None
    blocks = _blocks(values)
    medians = [quantile(block, 50) for block in blocks]
    logs = [math.log(m) for m in medians]
    mean = math.fsum(logs) / BLOCKS
    squares = math.fsum((x - mean) ** 2 for x in logs)
    places = [i - (BLOCKS - 1) / 2 for i in range(BLOCKS)]
    width = math.fsum(i * i for i in places)
    slope = math.fsum(i * x for i, x in zip(places, logs, strict=True)) / width
    about_line = math.sqrt(max(0.0, squares - slope * slope * width) / (BLOCKS - 2))
    return _Slow(
        [x / m for block, m in zip(blocks, medians, strict=True) for x in block],
        math.exp(mean),
        math.sqrt(squares / (BLOCKS - 1)),
        about_line,
        slope * BLOCKS if slope > about_line / math.sqrt(width) else 0.0,
    )


def _blocks(values: Sequence[float]) -> list[Sequence[float]]:
    n = len(values)
    return [values[n * i // BLOCKS : n * (i + 1) // BLOCKS] for i in range(BLOCKS)]


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
    """Autocorrelation time τ of the values' ranks, at least 1: the larger of two estimates.

    The one sums the correlations up to the first that is no longer distinguishable from noise; the
    other compares the means of blocks, which sees what is slower than that.
    Ranks, so that one outlier of a hundred times the median does not hide what the rest do; equal
    values (a coarse clock) share theirs.
    """
    n = len(values)
    ordered = sorted(values)
    ranks = [(bisect_left(ordered, v) + bisect_right(ordered, v) - n) / 2 for v in values]
    variance = sum(map(mul, ranks, ranks))
    if n < BLOCKS or not variance:
        return 1.0
    between = math.fsum(sum(block) ** 2 / len(block) for block in _blocks(ranks))
    slow: float = between / (BLOCKS - 1) / (variance / n)
    if slow >= 2 * lags:  # more than the sum below can become
        return slow
    tau: float = 1.0
    for lag in range(1, min(lags, n // 4)):
        rho = sum(map(mul, ranks, ranks[lag:])) / variance
        if rho <= 2 / math.sqrt(n):
            break
        tau += 2 * rho
    return max(tau, slow)


def quantile(values: Sequence[float], percentile: float) -> float:
    """The order statistic at or above the percentile (no interpolation: a run that happened)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percentile / 100) - 1)]
