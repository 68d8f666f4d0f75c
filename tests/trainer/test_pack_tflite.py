"""`edgedistill pack` of .tflite files: what is packed runs, and what cannot run is not packed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite")  # the extra
pytest.importorskip("ai_edge_litert")  # the runtime's

from tests.runtime import tflite_bytes as tb
from tests.runtime import tflite_nets as nets
from tests.runtime.tflite_bytes import FULLY_CONNECTED, Graph, Quant

from edgedistill import cli
from edgedistill_runtime.model import load

DIGITS = "0,1,2,3,4,5,6,7,8,9"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """`edgedistill pack` in this process -> (exit code, stdout, stderr)."""

    def run(data, *options, task="image", labels=DIGITS, profile="rpi4"):
        Path("net.tflite").write_bytes(data)
        words = ["pack", "net.tflite", "--task", f"{task}-classification", "--profile", profile]
        words += ["--labels", labels, "--data", str(images()), *options]
        monkeypatch.setattr(sys, "argv", ["edgedistill", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def refusal(run):
    """The one sentence with which something is refused."""

    def refusal(*arguments, **named):
        code, out, error = run(*arguments, **named)
        assert (code, out) == (2, "")
        (line,) = error.splitlines()
        assert not Path("model.edge").exists()
        return line

    return refusal


def images():
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    np.savez("test.npz", x=x, y=np.arange(30) % 10)
    return Path("test.npz")


def ending(op, shape=(1, 10), **changes):
    """The float network with one more operator behind it."""
    g = nets.cnn()
    options = tb.SOFTMAX if op == "SOFTMAX" else None
    g.outputs = [g.add(op, g.outputs, shape, options, **changes)]
    return g.bytes()


@pytest.mark.parametrize(("name", "precision"), [("cnn", "float32"), ("int8_cnn", "int8")])
def test_the_bundle_answers_as_the_network_does(run, name, precision):
    code, out, error = run(nets.FILES[name](), "--json")
    assert code == 0, error
    report, model = json.loads(out), load("model.edge")
    assert model.check_golden() == 0
    manifest = model.manifest
    assert (manifest.backend.name, manifest.model) == ("tflite", "model.tflite")
    assert (manifest.board.engine, model.engine) == ("ai-edge-litert", "ai-edge-litert")
    assert manifest.precision == report["precision"] == precision
    assert [step["op"] for step in manifest.preprocess] == ["resize", "normalize"]
    assert "onnx" not in manifest.provenance["versions"]
    image = model.golden_samples()[0]
    expected = nets.cnn_answer(image[None].astype(np.float32) / 255)
    allowed = 1e-5 if precision == "float32" else 0.15
    assert np.abs(model.logits(image) - expected[0]).max() < allowed
    assert report["predicted"]["latency_ms"]["p50"] > 0
    assert report["macs"] > 0


def test_channels_may_come_first(run):
    assert run(nets.cnn(channels_last=False).bytes())[0] == 0
    assert [s["op"] for s in load("model.edge").manifest.preprocess][-1] == "channels_first"


def test_the_same_command_gives_the_same_bytes(run):
    run(nets.cnn().bytes(), "--out", "a.edge")
    run(nets.cnn().bytes(), "--out", "b.edge")
    assert Path("a.edge").read_bytes() == Path("b.edge").read_bytes()


def test_nothing_of_the_machine_that_converted_the_model_is_packed(run):
    g = nets.cnn()
    g.more = {3: "made at /home/someone/secret"}
    assert run(g.bytes())[0] == 0
    assert b"secret" not in Path("model.edge").read_bytes()


def test_a_softmax_in_the_model_is_not_done_twice(run):
    assert run(ending("SOFTMAX"))[0] == 0
    model = load("model.edge")
    assert model.manifest.postprocess == ()
    assert sum(model.predict(model.golden_samples()[0]).scores.values()) == pytest.approx(1)


def test_a_sigmoid_is_refused(refusal):
    assert "ends in a sigmoid" in refusal(ending("LOGISTIC"))


def test_an_int8_output_is_refused(refusal):
    data = ending("QUANTIZE", kind=tb.INT8, quant=Quant(0.05))
    assert "net.tflite: the model's output is int8 of shape [1, 10]" in refusal(data)


def test_another_number_of_classes_is_refused(refusal):
    assert "has 10 classes, and 2 labels are given" in refusal(nets.cnn().bytes(), labels="a,b")


def test_an_operator_that_boards_do_not_run_is_refused(refusal):
    g = nets.cnn()
    g.outputs = [g.add(32, g.outputs, (1, 10))]
    assert "net.tflite: the model has the operator CUSTOM" in refusal(g.bytes())


def test_a_damaged_file_is_refused(refusal):
    assert "net.tflite: the TFLite model is damaged" in refusal(nets.cnn().bytes()[:1000])
    assert "net.tflite: the model is not a TFLite file" in refusal(b"\0" * 100)


def test_texts_are_refused(refusal):
    Path("tokenizer.json").write_text("{}", encoding="utf-8")
    said = refusal(nets.bag_of_words().bytes(), "--tokenizer", "tokenizer.json", task="text")
    assert "texts in TFLite files are not packed" in said


def test_what_the_boards_engine_answers_wrongly_is_refused_for_it(refusal):
    """stm32mp157 has tflite-runtime; this machine's engine answers rightly."""
    g = Graph()
    x = g.input((1, 8, 8, 1))
    shape = g.constant(np.array([1, 64], np.int32))
    x = g.add("RESHAPE", [x, shape], (1, 64), tb.RESHAPE)
    weights = np.random.default_rng(0).integers(-127, 128, (10, 64)).astype(np.int8)
    y = g.constant(weights, Quant(np.full(10, 0.01, np.float32)))
    g.outputs = [g.add("FULLY_CONNECTED", [x, y], (1, 10), FULLY_CONNECTED, version=5)]
    said = refusal(g.bytes(), profile="stm32mp157")
    assert "tflite-runtime 2.14.0 computes FULLY_CONNECTED wrongly" in said


def test_a_board_without_an_engine_is_refused(refusal):
    said = refusal(nets.cnn().bytes(), profile="beaglebone-black")
    assert "no engine for TFLite bundles" in said
