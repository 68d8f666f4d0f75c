"""Calibrated scores, and "unknown" where they are low."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill import answers

LABELS = ("a", "b", "c")


def made(temperature: float, count: int = 20_000, seed: int = 0):
    """Logits whose classes were drawn from softmax(logits / temperature)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, 3)).astype(np.float32)
    scores = np.exp(logits / temperature)
    scores /= scores.sum(1, keepdims=True)
    targets = (random.random((count, 1)) > np.cumsum(scores, 1)).sum(1)
    return logits, np.minimum(targets, 2)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    assert answers.temperature(*made(true)) == pytest.approx(true, rel=0.05)


def test_a_temperature_for_several_labels_is_found():
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (20_000, 3)).astype(np.float32)
    targets = (random.random(logits.shape) < 1 / (1 + np.exp(-logits / 2))).astype(np.int64)
    chosen = answers.choose(logits, targets, LABELS)
    assert chosen.temperature == pytest.approx(2, rel=0.05)
    assert chosen.steps() == ({"op": "sigmoid", "temperature": chosen.temperature},)


def test_calibration_lowers_the_error_and_changes_no_answer():
    logits, targets = made(3.0)
    fresh, fresh_targets = made(3.0, seed=1)
    chosen = answers.choose(logits, targets, LABELS)
    judged = chosen.judged(fresh, fresh_targets)
    assert judged["calibration_error"] < 0.02 < judged["calibration_error_uncalibrated"]
    assert (chosen.scores(fresh).argmax(1) == fresh.argmax(1)).all()


def test_calibration_error_is_as_defined():
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.3, 0.7]], np.float32)
    targets = np.array([0, 1, 0, 1])
    # two bins: 0.9 with half of two right, 0.7 with both of two right
    assert answers.calibration_error(scores, targets) == pytest.approx((2 * 0.4 + 2 * 0.3) / 4)


def test_unknown_keeps_the_wanted_share_right():
    logits, targets = made(1.0)
    fresh, fresh_targets = made(1.0, seed=1)
    plain = answers.choose(logits, targets, LABELS)
    chosen = answers.choose(logits, targets, LABELS, wanted=0.95)
    before, after = plain.judged(fresh, fresh_targets), chosen.judged(fresh, fresh_targets)
    assert before["answered_metric"] < 0.94
    assert after["answered_metric"] == pytest.approx(0.95, abs=0.01)
    assert 0.3 < after["answered"] < 1 == before["answered"]
    assert [step["op"] for step in chosen.steps()] == ["softmax", "threshold"]


def test_no_threshold_where_all_answers_may_stay():
    logits, targets = made(1.0, 500)
    assert answers.choose(logits, targets, LABELS, wanted=0.01).threshold == 0


def test_the_best_that_can_be_had_where_the_share_is_out_of_reach():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32)
    value = answers.threshold(scores, np.array([1, 0, 0, 1]), 0.99)
    assert 0.6 < value < 0.7  # two of three, against one of two for all others


def test_equal_scores_stay_together():
    scores = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]] * 2, np.float32)
    value = answers.threshold(scores, np.array([0, 0, 0, 0, 1]), 0.8)
    assert value == 0
    assert 0.6 < answers.threshold(scores, np.array([0, 0, 0, 0, 1]), 0.9) < 0.9


def test_unknown_is_called_as_no_class_is():
    logits, targets = made(1.0, 500)
    chosen = answers.choose(logits, targets, ("a", "unknown", "c"), wanted=0.99)
    assert chosen.unknown == "unsure"


def test_top_k_is_declared():
    logits, targets = made(1.0, 500)
    chosen = answers.choose(logits, targets, LABELS, calibrate=False, top_k=2)
    assert chosen.steps() == ({"op": "softmax"}, {"op": "top_k", "k": 2})
