"""What the teacher was worth: a paired interval, held against scipy and against hand values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgedistill.distill.control import Control

SEED = 11


def test_the_interval_is_that_of_a_paired_t_test():
    random = np.random.default_rng(SEED)
    for count in (3, 5, 20):
        student, control = random.normal(0.9, 0.02, (2, count))
        made = Control.of(student, control)
        low, high = stats.ttest_rel(student, control).confidence_interval(0.95)
        assert made.gain == pytest.approx(student.mean() - control.mean())
        assert made.low == pytest.approx(low)
        assert made.high == pytest.approx(high)
        assert made.seeds == count


def test_the_interval_by_hand():
    """Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01, t of 2 degrees 4.302653."""
    made = Control.of((0.91, 0.92, 0.93), (0.9, 0.9, 0.9))
    reach = 4.302653 * 0.01 / 3**0.5
    assert made.gain == pytest.approx(0.02)
    assert (made.low, made.high) == pytest.approx((0.02 - reach, 0.02 + reach), abs=1e-7)
    assert made.student == (0.91, 0.92, 0.93)
    assert made.control == (0.9, 0.9, 0.9)


def test_the_same_difference_of_every_seed_is_an_interval_of_no_width():
    made = Control.of((0.75, 0.5, 1.0), (0.5, 0.25, 0.75))
    assert (made.gain, made.low, made.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("student", "control", "sentence"),
    [
        (
            (0.91, 0.92, 0.93),
            (0.88, 0.9, 0.91),
            "the teacher is worth +2.33 points (95 % interval +0.90 to +3.77, 3 seeds)",
        ),
        (
            (0.88, 0.9, 0.91),
            (0.91, 0.92, 0.93),
            "the teacher does harm: -2.33 points (95 % interval -3.77 to -0.90, 3 seeds)",
        ),
        (
            (0.91, 0.9, 0.93),
            (0.9, 0.91, 0.92),
            "no gain by the teacher is shown: +0.33 points (95 % interval -2.54 to +3.20, 3 seeds)",
        ),
        (
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
            "no gain by the teacher is shown: +0.00 points (95 % interval +0.00 to +0.00, 3 seeds)",
        ),
    ],
)
def test_it_says_no_more_than_the_interval_shows(student, control, sentence):
    assert Control.of(student, control).sentence() == sentence


def test_the_manifest_has_the_interval_and_the_seeds():
    made = Control.of((0.91, 0.92, 0.93), (0.9, 0.9, 0.9))
    held = made.to_manifest()
    assert (held.gain, held.low, held.high, held.seeds) == (made.gain, made.low, made.high, 3)
