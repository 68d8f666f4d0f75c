"""The verdict on a percentile: exact tails, and wrong in fewer than 5 % of boundary cases."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest

from edgedistill_runtime.verdict import (
    ERROR,
    LOOKS,
    autocorrelation_time,
    binomial_cdf,
    decide,
    quantile,
)

TRIALS = 200
P95 = math.exp(1.6448536 * 0.3)
"""The 95th percentile of a lognormal with median 1 and σ = 0.3."""


@pytest.mark.parametrize(
    ("percentile", "confidence", "runs"),
    [
        (99, 0.95, [299, 473, 628, 773, 913, 1049, 1182, 1312, 1441]),
        (99, 0.99, [459, 662, 838, 1001]),
        (95, 0.95, [59, 93, 124]),
        (90, 0.95, [29, 46, 61]),
    ],
)
def test_as_many_runs_are_needed_as_the_binomial_says(percentile, confidence, runs):
    """n runs with X over the limit exclude "more than 1 in 100 are", and n − 1 do not."""
    for over, n in enumerate(runs):
        assert binomial_cdf(over, n, 1 - percentile / 100) <= 1 - confidence
        assert binomial_cdf(over, n - 1, 1 - percentile / 100) > 1 - confidence


def test_the_binomial_is_its_sum():
    for n, p in [(10, 0.05), (30, 0.5), (200, 0.01)]:
        terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        for k in range(n + 1):
            assert binomial_cdf(k, n, p) == pytest.approx(math.fsum(terms[: k + 1]), rel=1e-10)


def test_the_binomial_at_its_ends():
    assert binomial_cdf(-1, 10, 0.3) == 0
    assert binomial_cdf(10, 10, 0.3) == 1
    assert binomial_cdf(11, 10, 0.3) == 1
    assert 0 < binomial_cdf(6399, 6400, 0.01) <= 1


def test_runs_far_below_the_limit_pass_at_the_first_look():
    assert decide([1.0] * LOOKS[0], limit_ms=10, percentile=95) == "PASS"


def test_runs_far_above_the_limit_fail_at_the_first_look():
    assert decide([11.0] * LOOKS[0], limit_ms=10, percentile=95) == "FAIL"


def test_a_run_at_the_limit_is_within_it():
    assert decide([10.0] * LOOKS[0], limit_ms=10, percentile=95) == "PASS"


def test_p99_needs_more_runs_than_the_first_looks_have():
    assert [decide([1.0] * n, 10, 99) for n in LOOKS[:4]] == [None, None, None, "PASS"]


def test_no_runs_decide_nothing():
    assert decide([], 10, 95) is None


def verdict(latencies_ms, limit_ms, percentile=95):
    """What `bench` says after its looks."""
    decisions = (decide(latencies_ms[:n], limit_ms, percentile) for n in LOOKS[:5])
    return next((d for d in decisions if d), None)


def traces(seed, sigma=0.3, rho=0.0):
    """Seeded lognormal traces with median 1; rho: correlation of neighbours."""
    rng = np.random.default_rng(seed)
    for _ in range(TRIALS):
        noise = rng.normal(0, 1, LOOKS[4])
        for i in range(1, len(noise) if rho else 0):
            noise[i] = rho * noise[i - 1] + math.sqrt(1 - rho * rho) * noise[i]
        yield np.exp(sigma * noise).tolist()


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_a_percentile_just_over_the_limit_rarely_passes(rho):
    """At the boundary both verdicts are wrong; either may be given in at most 5 % of cases."""
    verdicts = [verdict(trace, P95 * 0.9999) for trace in traces(1, rho=rho)]
    most = ERROR * TRIALS + 3 * math.sqrt(ERROR * TRIALS)
    assert verdicts.count("PASS") <= most
    assert verdicts.count("FAIL") <= most


def test_a_percentile_well_within_the_limit_passes():
    verdicts = [verdict(trace, P95 * 1.25) for trace in traces(2)]
    assert verdicts.count("PASS") >= 0.95 * TRIALS
    assert "FAIL" not in verdicts


def test_a_percentile_well_over_the_limit_fails():
    verdicts = [verdict(trace, P95 * 0.8) for trace in traces(3)]
    assert verdicts.count("FAIL") >= 0.95 * TRIALS
    assert "PASS" not in verdicts


def test_independent_runs_count_as_they_are():
    values = np.random.default_rng(4).lognormal(0, 0.3, 3200).tolist()
    assert autocorrelation_time(values) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("rho", "expected"), [(0.5, 3), (0.8, 9)])
def test_correlated_runs_count_less(rho, expected):
    """τ of a first-order process is (1 + ρ) / (1 − ρ)."""
    found = np.mean([autocorrelation_time(t) for t in islice(traces(5, rho=rho), 10)])
    assert found == pytest.approx(expected, rel=0.3)


def test_one_outlier_does_not_hide_the_correlation():
    trace = next(iter(traces(6, rho=0.8)))
    spoilt = [*trace[:700], 1e6, *trace[701:]]
    assert autocorrelation_time(spoilt) == pytest.approx(autocorrelation_time(trace), rel=0.1)


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 500, list(range(19))])
def test_too_few_or_equal_values_have_no_correlation(values):
    assert autocorrelation_time(values) == 1


def test_a_drift_counts_as_correlation():
    assert autocorrelation_time(list(range(400))) > 50


def test_a_quantile_is_a_run_that_happened():
    assert quantile([3, 1, 2], 50) == 2
    assert quantile(list(range(1, 101)), 95) == 95
    assert quantile(list(range(1, 101)), 99) == 99
    assert quantile([7], 99) == 7
