"""The metrics against their definitions, computed one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill_runtime.metrics import METRICS

CLASSES = 5
RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 1, (200, CLASSES)).astype(np.float32)
ONE = RNG.integers(0, CLASSES, 200)
SEVERAL = RNG.integers(0, 2, (200, CLASSES))


def f1(given, right):
    """Harmonic mean of precision and recall over pairs of booleans; None without any True."""
    hits = sum(g and r for g, r in zip(given, right, strict=True))
    if not any(given) and not any(right):
        return None
    if not hits:
        return 0.0
    precision, recall = hits / sum(given), hits / sum(right)
    return 2 * precision * recall / (precision + recall)


def test_accuracy_of_one_label():
    right = [row.argmax() == y for row, y in zip(LOGITS, ONE, strict=True)]
    assert METRICS["accuracy"](LOGITS, ONE) == pytest.approx(sum(right) / 200)


def test_accuracy_of_several_labels_wants_them_all():
    right = [list(row > 0) == list(y > 0) for row, y in zip(LOGITS, SEVERAL, strict=True)]
    assert METRICS["accuracy"](LOGITS, SEVERAL) == pytest.approx(sum(right) / 200)


def test_f1_of_one_label():
    answers = LOGITS.argmax(1)
    scores = [f1(list(answers == c), list(c == ONE)) for c in range(CLASSES)]
    assert METRICS["f1_macro"](LOGITS, ONE) == pytest.approx(np.mean(scores))


def test_f1_of_several_labels():
    scores = [f1(list(LOGITS[:, c] > 0), list(SEVERAL[:, c] > 0)) for c in range(CLASSES)]
    assert METRICS["f1_macro"](LOGITS, SEVERAL) == pytest.approx(np.mean(scores))


def test_a_class_that_nobody_has_is_left_out_of_f1():
    logits = np.array([[2, 1, 0, -9], [2, 1, 0, -9], [0, 3, 0, -9]], np.float32)
    assert METRICS["f1_macro"](logits, np.array([0, 1, 1])) == pytest.approx(2 / 3)
    several = np.array([[1, 1, 0, 0]] * 3)
    assert METRICS["f1_macro"](np.sign(several - 0.5).astype(np.float32), several) == 1


def test_a_class_that_is_only_answered_or_only_meant_counts_as_nothing():
    logits = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
    assert METRICS["f1_macro"](logits, np.array([0, 1])) == pytest.approx((2 / 3 + 0) / 2)


def test_f1_without_any_label_is_nothing():
    assert METRICS["f1_macro"](-np.ones((3, 2), np.float32), np.zeros((3, 2), np.int64)) == 0
