"""The steps behind the model: scores, what is too unsure to be an answer, and the best few."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill_runtime import postprocess
from edgedistill_runtime.errors import BundleError

LABELS = ("cat", "dog", "fish")
SOFTMAX = {"op": "softmax"}
UNSURE = {"op": "threshold", "value": 0.62, "label": "unknown"}
LOGITS = np.random.default_rng(6).normal(0, 3, (7, 10)).astype(np.float32)


def softmax_of(logits):
    """By its definition, in double precision."""
    exp = np.exp(logits.astype(float))
    return exp / exp.sum(-1, keepdims=True)


def refused(*steps, labels=LABELS):
    with pytest.raises(BundleError) as caught:
        postprocess.build(steps, labels)
    return str(caught.value)


# --- scores


def test_softmax_is_its_definition():
    scores = postprocess.build([SOFTMAX]).scores(LOGITS)
    assert scores.dtype == np.float32
    assert np.allclose(scores, softmax_of(LOGITS), atol=1e-6)
    assert np.allclose(scores.sum(-1), 1, atol=1e-6)


def test_softmax_of_large_logits_does_not_overflow():
    scores = postprocess.softmax(np.array([1e38, 1e38, -1e38], np.float32))
    assert scores.tolist() == [0.5, 0.5, 0]


def test_sigmoid_is_its_definition():
    scores = postprocess.build([{"op": "sigmoid"}]).scores(LOGITS)
    assert scores.dtype == np.float32
    assert np.allclose(scores, 1 / (1 + np.exp(-LOGITS.astype(float))), rtol=1e-6)


def test_sigmoid_of_large_logits_does_not_overflow():
    scores = postprocess.sigmoid(np.array([3e38, -3e38, 0, -np.inf], np.float32))
    assert scores.tolist() == [1, 0, 0.5, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.7, 3])
def test_a_temperature_divides_the_logits(temperature):
    softmax = postprocess.build([{"op": "softmax", "temperature": temperature}])
    assert np.allclose(softmax.scores(LOGITS), softmax_of(LOGITS / temperature), atol=1e-6)
    sigmoid = postprocess.build([{"op": "sigmoid", "temperature": temperature}])
    expected = 1 / (1 + np.exp(-LOGITS.astype(float) / temperature))
    assert np.allclose(sigmoid.scores(LOGITS), expected, rtol=1e-5)
    assert softmax.scores(LOGITS).dtype == sigmoid.scores(LOGITS).dtype == np.float32


@pytest.mark.parametrize("op", postprocess.SCORES)
def test_a_temperature_of_1_changes_no_bit(op):
    plain, divided = ({"op": op}, {"op": op, "temperature": 1.0})
    scores = [postprocess.build([step]).scores(LOGITS) for step in (plain, divided)]
    assert np.array_equal(*scores)


def test_a_batch_is_its_samples():
    answer = postprocess.build([{"op": "softmax", "temperature": 2}, UNSURE])
    scores = answer.scores(LOGITS)
    assert np.array_equal(scores, np.stack([answer.scores(row) for row in LOGITS]))
    assert answer.known(scores).tolist() == [bool(answer.known(row)) for row in scores]


def test_no_steps_leave_the_logits():
    answer = postprocess.build([])
    assert answer.scores(LOGITS) is LOGITS
    assert (answer.threshold, answer.unknown, answer.k, answer.multi_label) == (0, "", 1, False)


def test_a_sigmoid_means_several_labels():
    assert postprocess.build([{"op": "sigmoid"}, UNSURE]).multi_label
    assert not postprocess.build([SOFTMAX, UNSURE]).multi_label


# --- threshold and top_k


def test_threshold_and_top_k_are_read_in_any_order():
    for steps in ([UNSURE, {"op": "top_k", "k": 3}], [{"op": "top_k", "k": 3}, UNSURE]):
        answer = postprocess.build([SOFTMAX, *steps], LABELS)
        assert (answer.threshold, answer.unknown, answer.k) == (0.62, "unknown", 3)


def test_a_score_at_the_threshold_is_known():
    """Compared as doubles: 0.625 is one in single precision too, 0.61 is not."""
    steps = [SOFTMAX, {**UNSURE, "value": 0.625}]
    scores = np.array([[0.625, 0.375], [np.nextafter(np.float32(0.625), 0), 0.375]], np.float32)
    assert postprocess.build(steps).known(scores).tolist() == [True, False]
    below = np.float32(0.61)  # 0.61000001430…, and the threshold is a little over it
    value = float(below) + 1e-12
    assert not postprocess.build([SOFTMAX, {**UNSURE, "value": value}]).known(np.array([below]))


def test_without_a_threshold_everything_is_known():
    scores = np.zeros((3, 2), np.float32)
    assert postprocess.build([SOFTMAX]).known(scores).all()


@pytest.mark.parametrize("label", ["unbekannt", "не знам", "知らない", "I don't know", "?", "-"])
def test_the_word_for_unknown_may_be_of_any_language(label):
    assert postprocess.build([SOFTMAX, {**UNSURE, "label": label}], LABELS).unknown == label


@pytest.mark.parametrize(
    "label",
    ["", " ", "\u00a0", "a\nb", "\x1b[2J", "\u202eabc", "\ud800", "x" * 65, None, 5, ["a"], True],
)
def test_the_word_for_unknown_is_short_and_printable(label):
    sentence = refused(SOFTMAX, {**UNSURE, "label": label})
    assert sentence.startswith("the postprocessing step 'threshold' has the label ")
    assert sentence.isprintable()
    assert len(sentence) < 250


def test_the_word_for_unknown_is_no_class():
    sentence = refused(SOFTMAX, {**UNSURE, "label": "dog"})
    assert "has the label 'dog'; it must be a text that is not the name of a class" in sentence
    assert postprocess.build([SOFTMAX, {**UNSURE, "label": "dog"}]).unknown == "dog"


@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, 1e300, None, "0.5", True, [0.5], float("nan")])
def test_a_threshold_is_over_0_and_under_1(value):
    sentence = refused(SOFTMAX, {**UNSURE, "value": value})
    assert sentence.startswith("the postprocessing step 'threshold' has the value ")


@pytest.mark.parametrize(
    "temperature", [0, -1, 1e300, 1e-300, None, "1", True, [1], float("nan"), float("inf")]
)
@pytest.mark.parametrize("op", postprocess.SCORES)
def test_a_temperature_is_finite_and_over_0(op, temperature):
    sentence = refused({"op": op, "temperature": temperature})
    assert sentence.startswith(f"the postprocessing step '{op}' has the temperature ")


@pytest.mark.parametrize("k", [0, -1, 4, 1.0, "1", None, True, [1], 1 << 62])
def test_k_is_1_to_the_number_of_classes(k):
    sentence = refused(SOFTMAX, {"op": "top_k", "k": k})
    assert "it must be a whole number from 1 to 3, the number of classes" in sentence


@pytest.mark.parametrize("k", [1, 2, 3])
def test_k_may_be_as_many_as_there_are_classes(k):
    assert postprocess.build([SOFTMAX, {"op": "top_k", "k": k}], LABELS).k == k


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([UNSURE], "'threshold' needs scores; 'softmax' or 'sigmoid' must stand before it"),
        ([{"op": "top_k", "k": 1}, SOFTMAX], "'top_k' needs scores"),
        ([SOFTMAX, UNSURE, SOFTMAX], "'softmax' must stand before the others"),
        ([SOFTMAX, UNSURE, UNSURE], "'threshold' stands twice"),
        ([SOFTMAX, *[{"op": "top_k", "k": 2}] * 2], "'top_k' stands twice"),
        ([SOFTMAX, {"op": "threshold"}], "'threshold' lacks label, value"),
        ([SOFTMAX, {"op": "threshold", "value": 0.5}], "'threshold' lacks label"),
        ([SOFTMAX, {"op": "top_k"}], "'top_k' lacks k"),
        ([{"op": "softmax", "axis": 1, "temperature": 2}], "unknown arguments (axis)"),
        ([SOFTMAX, {**UNSURE, "op": "top_k", "k": 1}], "unknown arguments (label, value)"),
        ([{"op": "softmaxx"}], "no postprocessing step named 'softmaxx'; did you mean 'softmax'"),
        ([SOFTMAX, {"op": "treshold"}], "did you mean 'threshold'"),
    ],
)
def test_steps_that_cannot_be_are_refused(steps, sentence):
    assert sentence in refused(*steps)


@pytest.mark.parametrize("step", [{}, {"op": None}, {"op": ["softmax"]}, {"op": {}}, {"op": ""}])
def test_a_step_without_a_name_is_refused(step):
    assert "no postprocessing step" in refused(step)
