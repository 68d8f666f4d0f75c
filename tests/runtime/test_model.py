"""A loaded bundle: what it answers, what it refuses, and that it is the model that was checked."""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import (
    KINDS,
    LABELS,
    STEPS,
    answers,
    environment,
    golden_images,
    kind_manifest,
    kind_samples,
)

from edgedistill_runtime import (
    EdgeDistillError,
    Model,
    Prediction,
    arrays,
    bundle,
    load,
    preprocess,
)
from edgedistill_runtime.backends import GROUP, opener
from edgedistill_runtime.backends.onnx import open_session
from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.manifest import Backend


@pytest.fixture
def model(edge):
    return load(edge)


def test_a_bundle_answers_with_a_label(model, images):
    answer = model.predict(images[0])
    assert isinstance(answer, Prediction)
    assert answer.label in LABELS
    assert answer.score == max(answer.scores.values()) == answer.scores[answer.label]
    assert list(answer.scores) == list(LABELS)
    assert sum(answer.scores.values()) == pytest.approx(1)
    assert answer.latency_ms > 0


def test_the_logits_are_those_of_the_bare_model(model, tiny, images):
    found = np.stack([model.logits(image) for image in images])
    assert np.allclose(found, answers(tiny[1]["model.onnx"], images), atol=1e-5)


def test_both_precisions_agree_with_their_golden_outputs(either_edge):
    model = load(either_edge)
    assert model.check_golden() <= 1e-5
    assert model.golden_samples().shape == (4, 8, 8, 1)


def test_a_path_may_be_text(edge):
    assert load(str(edge)).manifest.name == "tiny"


def test_two_bundles_answer_independently(edge, pack, images):
    one, other = load(edge), load(pack({"labels": list("abcdefghij")}))
    assert "abcdefghij"[int(one.predict(images[0]).label)] == other.predict(images[0]).label


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        (np.zeros((8, 8, 1), np.float32), "float32 of shape [8, 8, 1]"),
        (np.zeros((8, 8), np.uint8), "uint8 of shape [8, 8]"),
        (np.zeros((1, 8, 8, 1), np.uint8), "uint8 of shape [1, 8, 8, 1]"),
        (np.zeros((0,), np.uint8), "uint8 of shape [0]"),
        ([[0]], "a list"),
        (None, "a NoneType"),
        ("cat.png", "a str"),
    ],
)
def test_a_sample_of_another_kind_is_refused(model, sample, found):
    with pytest.raises(InputError) as caught:
        model.predict(sample)
    assert str(caught.value) == f"the sample is {found}; the model takes uint8 of shape [8, 8, 1]"


def test_the_bare_model_runs_on_prepared_arrays(model, tiny, images):
    prepared = preprocess.build(STEPS)(images[0])[None]
    outputs = model.run({"image": prepared})
    assert list(outputs) == ["logits"]
    assert np.allclose(outputs["logits"], answers(tiny[1]["model.onnx"], images[:1]), atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "takes the inputs ['image'], not []"),
        ({"picture": np.zeros((1, 1, 8, 8), np.float32)}, "not ['picture']"),
        ({"image": np.zeros((1, 1, 8, 8))}, "'image' is float64 of shape [1, 1, 8, 8]"),
        ({"image": np.zeros((2, 1, 8, 8), np.float32)}, "'image' is float32 of shape [2, 1, 8, 8]"),
        ({"image": [[0.0]]}, "'image' is a list"),
    ],
)
def test_prepared_arrays_of_another_kind_are_refused(model, inputs, sentence):
    with pytest.raises(InputError) as caught:
        model.run(inputs)
    assert sentence in str(caught.value)


def test_a_user_catches_one_error(pack):
    with pytest.raises(EdgeDistillError):
        load(pack(raw=b"nonsense"))
    assert issubclass(BundleError, EdgeDistillError)
    assert issubclass(EngineError, EdgeDistillError)
    assert issubclass(InputError, EdgeDistillError)


def test_golden_outputs_that_disagree_are_refused(tiny, pack):
    shifted = arrays.encode(answers(tiny[1]["model.onnx"], golden_images()) + 0.5)
    model = load(pack(files={"golden_outputs.npy": shifted}))
    with pytest.raises(BundleError, match=r"golden outputs differ by 0\.5, at most 0\.01"):
        model.check_golden()


def test_golden_outputs_may_differ_by_their_tolerance(tiny, pack):
    shifted = arrays.encode(answers(tiny[1]["model.onnx"], golden_images()) + 0.009)
    assert load(pack(files={"golden_outputs.npy": shifted})).check_golden() < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_golden_outputs_that_are_no_numbers_disagree(pack, value):
    outputs = arrays.encode(np.full((4, 10), value, np.float32))
    with pytest.raises(BundleError, match="golden outputs differ"):
        load(pack(files={"golden_outputs.npy": outputs})).check_golden()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs.0.name": "picture"}, "the model's inputs are not those that the manifest"),
        ({"inputs.0.shape": [1, 1, 8, 9]}, "the model's inputs are not those that the manifest"),
        ({"inputs.0.dtype": "uint8"}, "the model's inputs are not those that the manifest"),
        ({"outputs.0.name": "scores"}, "the model's outputs are not those that the manifest"),
        ({"preprocess": []}, "the preprocessing does not lead to the model's input"),
        ({"preprocess": [STEPS[0]]}, "the preprocessing does not lead to the model's input"),
        ({"preprocess": [STEPS[1]]}, "the preprocessing does not lead to the model's input"),
        ({"preprocess.0.mean": [0.5] * 2, "preprocess.0.std": [1] * 2}, "2 means for 1 channels"),
        ({"preprocess.0.op": "normalise"}, "did you mean 'normalize'"),
        ({"postprocess.0.op": "argmax"}, "no postprocessing step named 'argmax'"),
        ({"postprocess.0.axis": 1}, "'softmax' has unknown arguments (axis)"),
        ({"golden.count": 3}, "golden_inputs.npy is not an array of uint8 with the shape"),
        ({"golden.inputs": "golden_outputs.npy"}, "golden_outputs.npy is not an array of uint8"),
        ({"model": "golden_inputs.npy"}, "the model"),
        ({"backend.graph_optimization": "turbo"}, "no graph optimization level 'turbo'"),
    ],
)
def test_a_manifest_that_does_not_match_its_files_is_refused(pack, changes, sentence):
    with pytest.raises(BundleError) as caught:
        load(pack(changes))
    assert sentence in str(caught.value)


def test_an_unknown_backend_is_named(pack):
    with pytest.raises(EngineError, match=r"no backend named 'onx'; did you mean 'onnx'\?"):
        load(pack({"backend.name": "onx"}))


def test_a_model_with_a_free_batch_size_is_refused(pack):
    data = ox.model(ox.graph(ox.head(), ox.HEAD, [ox.value("image", ("batch", 1, 8, 8))]))
    with pytest.raises(BundleError, match="inputs are not those"):
        load(pack(files={"model.onnx": data}))


def test_a_model_that_the_engine_refuses_is_an_engine_error(pack):
    data = ox.model(ox.graph([ox.node("Relu", ["image", "image"], "logits")]))
    with pytest.raises(EngineError, match="does not accept the model"):
        load(pack(files={"model.onnx": data}))


def test_a_model_whose_output_has_another_shape_than_declared_is_refused(pack):
    """Where a shape hangs on the data, no engine can tell before it runs."""
    count = [
        ox.node("ReduceMean", ["image"], "mean", ox.attribute("keepdims", 0)),
        ox.node("Cast", ["mean"], "whole", ox.attribute("to", ox.INT64)),
        ox.node("Clip", ["whole", "two", "two"], "twice"),
        ox.node("Unsqueeze", ["twice", "zero"], "count"),
        ox.node("Slice", ["weights", "zero", "count", "zero"], "logits"),
    ]
    constants = [
        ox.ints("two", (), [2]),
        ox.ints("zero", (1,), [0]),
        ox.floats("weights", (3, 10), [0.5] * 30),
    ]
    model = load(pack(files={"model.onnx": ox.model(ox.graph(count, constants))}))
    with pytest.raises(EngineError, match=r"'logits' has the shape \[2, 10\]; .* \[1, 10\]"):
        model.predict(golden_images()[0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_no_answer(pack, value):
    weights = ox.floats("weight", (64, 10), [value] * 640)
    data = ox.model(ox.graph(ox.head(), [ox.HEAD[0], weights]))
    with pytest.raises(InputError, match="not finite numbers"):
        load(pack(files={"model.onnx": data})).predict(golden_images()[0])


def test_the_engine_loads_what_was_checked():
    """A file can be ONNX and an ORT flatbuffer at once; onnxruntime decides by bytes 4 to 7.

    The check reads it as ONNX.  An engine that chose by itself would load the other, unchecked.
    """
    two_faced = ox.message((2, "xxORTM" + "x" * 20)) + ox.plain()
    assert two_faced[4:8] == b"ORTM"
    session = open_session(two_faced, Backend("onnx"))
    assert session.inputs[0].name == "image"


def test_a_backend_may_come_from_another_package(monkeypatch):
    offer = importlib.metadata.EntryPoint("other", "json:dumps", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (offer,))
    assert opener("other") is json.dumps


def test_a_backend_that_is_offered_twice_is_an_error(monkeypatch):
    offer = importlib.metadata.EntryPoint("other", "json:dumps", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (offer, offer))
    with pytest.raises(EngineError, match="'other' is offered twice"):
        opener("other")


def test_a_built_in_backend_cannot_be_replaced(monkeypatch):
    offer = importlib.metadata.EntryPoint("onnx", "json:dumps", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (offer,))
    assert opener("onnx") is open_session


def test_the_package_exports_what_it_promises():
    import edgedistill_runtime

    assert edgedistill_runtime.__all__ == ["EdgeDistillError", "Model", "Prediction", "load"]
    assert Model is load.__globals__["Model"]
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        edgedistill_runtime.fit  # noqa: B018


def test_answers_do_not_depend_on_the_process(edge, images):
    """The same bundle and sample give the same numbers in another process."""
    code = (
        "import sys, json, numpy as np; from edgedistill_runtime import load; "
        "m = load(sys.argv[1]); x = np.array(json.load(sys.stdin), np.uint8); "
        "print(json.dumps(m.predict(x).scores))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, edge],
        input=json.dumps(images[0].tolist()),
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert json.loads(done.stdout) == load(edge).predict(images[0]).scores


# --- what is made of the scores

SOFTMAX = {"op": "softmax"}


def unsure(value):
    return {"op": "threshold", "value": value, "label": "unknown"}


def test_the_best_label_is_the_top_of_one(model, images):
    answer = model.predict(images[0])
    assert answer.top == ((answer.label, answer.score),)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_best_labels_come_best_first(pack, images, k):
    model = load(pack({"postprocess": [SOFTMAX, {"op": "top_k", "k": k}]}))
    for image in images:
        answer = model.predict(image)
        best = sorted(answer.scores.items(), key=lambda item: -item[1])[:k]
        assert answer.top == tuple(best)
        assert answer.top[0] == (answer.label, answer.score)


def test_equal_scores_keep_the_order_of_the_labels(pack):
    weights = ox.floats("weight", (64, 10), [0.0] * 640)
    data = ox.model(ox.graph(ox.head(), [ox.HEAD[0], weights]))
    changes = {"postprocess": [SOFTMAX, {"op": "top_k", "k": 4}]}
    answer = load(pack(changes, {"model.onnx": data})).predict(golden_images()[0])
    assert [label for label, _ in answer.top] == ["0", "1", "2", "3"]
    assert answer.label == "0"


def test_a_score_under_the_threshold_is_the_word_for_it(edge, pack, images):
    plain = [load(edge).predict(image) for image in images]
    middle = sorted(answer.score for answer in plain)[2]
    steps = [SOFTMAX, unsure(middle), {"op": "top_k", "k": 2}]
    model = load(pack({"postprocess": steps}))
    answers_ = [model.predict(image) for image in images]
    assert sorted(answer.label == "unknown" for answer in answers_) == [False] * 3 + [True] * 2
    for before, answer in zip(plain, answers_, strict=True):
        known = before.score >= middle
        assert (answer.score, answer.scores) == (before.score, before.scores)
        assert answer.label == (before.label if known else "unknown")
        assert answer.labels == ((before.label,) if known else ())
        assert answer.top[0] == (before.label, before.score)


def test_several_labels_under_the_threshold_are_none(pack, images):
    several = load(pack({"postprocess": [{"op": "sigmoid"}]})).predict(images[0])
    assert several.labels
    for value, known in ((several.score, True), (several.score + 1e-9, False)):
        answer = load(pack({"postprocess": [{"op": "sigmoid"}, unsure(value)]})).predict(images[0])
        assert answer.labels == (several.labels if known else ())
        assert answer.label == (several.label if known else "unknown")


def test_a_temperature_makes_scores_less_sure_and_keeps_the_label(edge, pack, images):
    plain = load(edge)
    warm = load(pack({"postprocess": [{"op": "softmax", "temperature": 3}]}))
    for image in images:
        before, after = plain.predict(image), warm.predict(image)
        assert before.label == after.label
        assert before.score > after.score
        assert np.array_equal(plain.logits(image), warm.logits(image))


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (unsure(1.0), "'threshold' has the value '1.0'; it must be a number over 0 and under 1"),
        ({**unsure(0.5), "label": "7"}, "must be a text that is not the name of a class"),
        ({"op": "top_k", "k": 11}, "must be a whole number from 1 to 10, the number of classes"),
    ],
)
def test_a_step_that_does_not_fit_the_classes_is_refused(pack, step, sentence):
    with pytest.raises(BundleError) as caught:
        load(pack({"postprocess": [SOFTMAX, step]}))
    assert sentence in str(caught.value)


# --- images of any size, audio, sensors


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    """The name and the loaded model of a small bundle of each other kind."""
    bundle.write(tmp_path / "kind.edge", *kind_manifest(request.param))
    return request.param, load(tmp_path / "kind.edge")


def test_every_kind_agrees_with_its_golden_outputs(kind):
    name, model = kind
    assert model.check_golden() <= 1e-5
    assert np.array_equal(model.golden_samples(), kind_samples(name))


def test_every_kind_answers_and_takes_no_other(kind):
    name, model = kind
    sample = kind_samples(name, 1, 2)[0]
    assert model.predict(sample).label in LABELS
    others = [sample.astype(np.float64), sample[None], sample[..., None], sample[..., :0], None]
    for other in [*others, sample.tolist(), "text"]:
        with pytest.raises(InputError, match=r"the sample is .*; the model takes"):
            model.predict(other)


def test_images_of_any_size_have_their_channels(tmp_path):
    bundle.write(tmp_path / "any.edge", *kind_manifest("any_size"))
    model = load(tmp_path / "any.edge")
    for shape in ((1, 1, 1), (8, 8, 1), (3, 50, 1), (300, 200, 1)):
        assert model.predict(np.full(shape, 7, np.uint8)).scores
    with pytest.raises(InputError, match=r"of shape \[8, 8, 3\]; .* of shape \[height, width, 1\]"):
        model.predict(np.zeros((8, 8, 3), np.uint8))
    wide = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (8193, 8192, 1), (0, 0, 0))
    with pytest.raises(InputError, match=r"67117056 pixels, more than 67108864 \(64 megapixels\)"):
        model.predict(wide)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sensor_that_measures_no_number_is_refused(tmp_path, value):
    bundle.write(tmp_path / "sensor.edge", *kind_manifest("sensor"))
    sample = kind_samples("sensor")[0]
    sample[3, 4] = value
    with pytest.raises(InputError, match=r"not finite numbers \(NaN or infinity\)"):
        load(tmp_path / "sensor.edge").predict(sample)
