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
from tests.runtime.runtime_support import LABELS, STEPS, answers, environment, golden_images

from edgedistill_runtime import EdgeDistillError, Model, Prediction, arrays, load, preprocess
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
