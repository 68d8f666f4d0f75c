"""`edgedistill estimate`: any model's cost, said or refused in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.calibration_support import ABOUT, measured
from tests.networks import spread

from edgedistill.calibrate import pieces, saving
from edgedistill.cli import main
from edgedistill.cost import fitting
from edgedistill.cost.rates import UNSEEN_FACTOR, digest
from edgedistill.estimate import estimate
from edgedistill.profiles import DeviceProfile, names
from edgedistill.students import FAMILIES

DATA = Path(__file__).parents[1] / "data"
MODELS = ("tiny.onnx", "tiny_int8.onnx", "call.edge")
BOARDS = [name for name in names() if DeviceProfile.load(name).engine("onnx")]
KEYS = {
    "model",
    "profile",
    "engine",
    "precision",
    "threads",
    "whole_call",
    "latency_ms",
    "standing",
    "basis",
    "unseen",
    "peak_ram_mib",
    "peak_ram_bound_mib",
    "cold_start_ms",
    "size_mib",
    "macs",
    "parameters",
    "energy_mj",
    "energy_bound_mj",
    "table",
}


@pytest.fixture
def run(monkeypatch, capsys):
    """`edgedistill ARGUMENTS` in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgedistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return run


@pytest.fixture
def refused(run):
    """The one sentence with which a command exits 2."""

    def refused(*arguments):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("edgedistill: ")
        return err

    return refused


@pytest.fixture(scope="module")
def fitted():
    """Rates of a made-up board."""
    rng, found = np.random.default_rng(0), []
    for spec in spread(FAMILIES["convnet"].specs((1, 16, 16)), 30):
        for precision in ("float32", "int8"):
            kernels = FAMILIES["convnet"].kernels(spec, (1, 16, 16), 10, precision)
            found.append(measured("net", precision, kernels, rng))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "ROUNDS", 20)
        return fitting.fit(
            found,
            ABOUT,
            jitter={"50": 1.0, "95": 1.5, "99": 2.0},
            predict_us=700.0,
            steps={"normalize": (40.0, 0.0, 0.0), "channels_first": (60.0, 0.0, 0.0)},
            cold_start_ms=(200.0, 10.0, 0.5),
        )


@pytest.fixture
def calibrated(fitted):
    """The name of a profile with those rates."""
    saving.save("mine", DeviceProfile.load("host"), fitted)
    return "mine"


@pytest.fixture
def model(tmp_path):
    """The path of one of `MODELS`."""

    def model(name):
        if name != "call.edge":
            return DATA / name
        pieces.write_call(tmp_path / name)
        return tmp_path / name

    return model


def one_operator(path, op, **attributes):
    """A network of a convolution and one operator that has no rates."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 16, 16])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = onnx.numpy_helper.from_array(np.ones((8, 1, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node(op, ["c"], ["y"], **attributes),
    ]
    graph = helper.make_graph(nodes, "net", [given], [made], [weight])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


# What is said


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("profile", BOARDS)
def test_every_model_has_a_cost_on_every_board(model, name, profile):
    found = estimate(model(name), profile)
    latency = found.latency
    assert 0 < latency.low_ms < latency.p50_ms < latency.bound_ms
    assert latency.bound_at(50) <= latency.bound_at(95) <= latency.bound_at(99)
    assert 0 < found.peak_ram_mib < found.peak_ram_bound_mib
    assert found.size_mib == pytest.approx(model(name).stat().st_size / 2**20)
    assert found.macs > 0
    assert found.parameters > 0
    assert found.cold_start_ms is None
    assert sum(row.share for row in found.table) == pytest.approx(1)
    assert sum(row.macs for row in found.table) == found.macs
    assert [row.ms for row in found.table] == sorted((r.ms for r in found.table), reverse=True)
    assert (found.precision == "int8") == ("int8" in name)
    assert found.whole_call == name.endswith(".edge")


@pytest.mark.parametrize("name", MODELS)
def test_a_calibrated_board_says_more(model, calibrated, fitted, name):
    found = estimate(model(name), calibrated)
    assert found.latency.standing == "predicted"
    assert "calibrated 2026-11-24" in found.latency.basis
    assert found.latency.low_ms < found.latency.p50_ms < found.latency.bound_ms
    assert found.latency.bound_at(95) == pytest.approx(1.5 * found.latency.bound_ms)
    assert found.cold_start_ms == pytest.approx(
        200 + 0.5 * sum(row.count for row in found.table), abs=1
    )
    assert sum(row.share for row in found.table) == pytest.approx(1)


def test_a_bundles_latency_is_that_of_a_whole_call(model, calibrated, tmp_path):
    from edgedistill_runtime import bundle

    whole = estimate(model("call.edge"), calibrated)
    (tmp_path / "model.onnx").write_bytes(bundle.read(model("call.edge")).files["model.onnx"])
    engine = estimate(tmp_path / "model.onnx", calibrated)
    assert whole.latency.p50_ms - engine.latency.p50_ms == pytest.approx(0.7 + 0.04 + 0.06)
    assert whole.latency.bound_ms > engine.latency.bound_ms + 0.8


def test_json_is_one_line_and_has_every_figure(run, model):
    code, out, err = run("estimate", model("tiny.onnx"), "--profile", "rpi4", "--json")
    assert code == 0
    assert out.count("\n") == 1
    said = json.loads(out)
    assert said.keys() == KEYS
    assert said["latency_ms"].keys() == {"p50", "low", "bound", "p95_bound", "p99_bound"}
    assert said["table"][0].keys() == {"kernels", "count", "macs", "ms", "share", "measured"}
    assert "peak" in err


def test_what_is_said_names_the_costliest_kernels(run, model, calibrated):
    code, out, err = run("estimate", model("tiny.onnx"), "--profile", calibrated)
    assert (code, out) == (0, "")
    found = estimate(model("tiny.onnx"), calibrated)
    lines = err.splitlines()
    assert lines[-len(found.table)].strip().startswith(f"{found.table[0].share:.1%}")
    assert found.table[0].kernels in lines[-len(found.table)]


@pytest.mark.parametrize("op", ["Erf", "Softplus", "LpNormalization"])
def test_an_operator_without_rates_is_named_and_costs_and_widens(tmp_path, calibrated, run, op):
    found = estimate(one_operator(tmp_path / "a.onnx", op), calibrated)
    known = estimate(one_operator(tmp_path / "b.onnx", "ReduceMean", keepdims=1), calibrated)
    assert op in found.latency.unseen
    (row,) = [row for row in found.table if row.kernels == op]
    assert row.ms > 0
    assert not row.measured
    width = found.latency.bound_ms - found.latency.p50_ms
    assert width > (UNSEEN_FACTOR - 1) * row.ms
    assert op not in known.latency.unseen
    said = run("estimate", tmp_path / "a.onnx", "--profile", calibrated)[2]
    assert "the interval is wider" in said
    assert f"{op} (not measured)" in said


def test_an_operator_that_no_model_knows_widens_an_estimate_too(tmp_path):
    found = estimate(one_operator(tmp_path / "a.onnx", "Softplus"), "rpi4")
    known = estimate(one_operator(tmp_path / "b.onnx", "Sigmoid"), "rpi4")
    assert found.latency.unseen == ("Softplus",)
    assert known.latency.unseen == ()
    ratio = [each.latency.bound_ms / each.latency.p50_ms for each in (found, known)]
    assert ratio[0] > ratio[1]


def test_a_transposed_convolution_is_no_convolution_that_was_measured(tmp_path, calibrated):
    path = tmp_path / "a.onnx"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = onnx.numpy_helper.from_array(np.ones((8, 8, 2, 2), np.float32), "w")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    graph = helper.make_graph([node], "net", [given], [made], [weight])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    assert estimate(path, calibrated).latency.unseen == ("ConvTranspose",)


def test_more_tokens_cost_more(tmp_path, calibrated):
    from edgedistill.calibrate.packs import packs

    pack = next(p for p in packs(8) if p.style == "bert")
    (tmp_path / "text.onnx").write_bytes(pack.model)
    for profile in ("rpi4", calibrated):
        found = [estimate(tmp_path / "text.onnx", profile, length=n) for n in (8, 64, 256)]
        times = [each.latency.p50_ms for each in found]
        assert times == sorted(set(times))
        assert found[0].macs < found[1].macs < found[2].macs


def test_threads_are_the_profiles_or_those_given(model, run):
    assert estimate(model("tiny.onnx"), "rpi4").threads == 1
    four = estimate(model("tiny.onnx"), "rpi4", threads=4)
    assert four.threads == 4
    assert four.latency.p50_ms <= estimate(model("tiny.onnx"), "rpi4").latency.p50_ms


def test_a_tflite_file_is_priced_for_the_boards_engine_for_it(tmp_path, run, refused):
    tflite = pytest.importorskip("tflite")
    from tests.trainer.test_tflite_kernels import Writer

    ops, net = tflite.BuiltinOperator, Writer()
    image = net.tensor(1, 32, 32, 3)
    weight, bias = net.tensor(8, 3, 3, 3, constant=True), net.tensor(8, constant=True)
    x = net.run(ops.CONV_2D, [image, weight, bias], 1, 32, 32, 8)
    net.run(ops.SOFTMAX, [x], 1, 32, 32, 8)
    path = tmp_path / "net.tflite"
    path.write_bytes(net.bytes())
    found = estimate(path, "rpi4", threads=4)
    assert found.engine == "ai-edge-litert"
    assert found.macs == 32 * 32 * 8 * 27
    assert 0 < found.latency.low_ms < found.latency.p50_ms < found.latency.bound_ms
    assert sum(row.share for row in found.table) == pytest.approx(1)
    assert run("estimate", path, "--profile", "rpi4")[0] == 0
    path.write_bytes(net.bytes()[:90])
    assert "net.tflite" in refused("estimate", path, "--profile", "rpi4")


# Refused


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("none.onnx", None, "No such file"),
        ("net.pt", b"", ".pt; give an .onnx, .tflite or .edge"),
        ("net", b"", "no suffix; give an .onnx"),
        ("net.onnx", b"", "cannot run this model"),
        ("net.onnx", b"junk" * 99, "cannot run this model"),
        ("net.onnx", (DATA / "tiny.onnx").read_bytes()[:300], "cannot run this model"),
        ("net.edge", b"PK\x03\x04", "net.edge"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, refused, name, data, sentence):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert sentence in refused("estimate", tmp_path / name, "--profile", "rpi4")


def test_a_folder_is_no_model(tmp_path, refused):
    (tmp_path / "net.onnx").mkdir()
    assert "Is a directory" in refused("estimate", tmp_path / "net.onnx", "--profile", "rpi4")


def test_a_board_without_an_engine_for_it_says_so(tmp_path, refused):
    tflite = pytest.importorskip("tflite")
    from tests.trainer.test_tflite_kernels import Writer

    net = Writer()
    net.run(tflite.BuiltinOperator.SOFTMAX, [net.tensor(1, 8)], 1, 8)
    (tmp_path / "net.tflite").write_bytes(net.bytes())
    said = refused("estimate", tmp_path / "net.tflite", "--profile", "host")
    assert "host has no engine for TFLite; give an .onnx" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--profile", "rpi44"], "did you mean 'rpi4'?"),
        ([], "Missing option '--profile'"),
        (["--profile", "rpi4", "--threads", "0"], "--threads"),
        (["--profile", "rpi4", "--length", "0"], "--length"),
    ],
)
def test_bad_usage_is_one_sentence(refused, model, arguments, sentence):
    assert sentence in refused("estimate", model("tiny.onnx"), *arguments)


# A profile whose rates cannot be used


def spoil(path, what):
    """Change a calibrated profile, or its file of rates."""
    file = next(path.parent.glob("mine-*.json"))
    text, data = path.read_text(encoding="utf-8"), file.read_bytes()

    def named(new):
        """Other rates, which the profile names."""
        file.write_bytes(new)
        path.write_text(text.replace(digest(data), digest(new)), encoding="utf-8")

    if what == "missing":
        file.unlink()
    elif what == "altered":
        file.write_bytes(data + b" ")
    elif what == "not JSON":
        named(b"rates")
    elif what == "field":
        path.write_text(text.replace("threads = 1\nprec", "thread = 1\nprec"), encoding="utf-8")
    elif what == "outside":
        path.write_text(text.replace('file = "', 'file = "../'), encoding="utf-8")
    else:
        key, value = what
        named(json.dumps(json.loads(data) | {key: value}).encode())


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("missing", "the profile's rates cannot be read"),
        ("altered", "their SHA-256 differs"),
        ("not JSON", "no rates"),
        ("field", "did you mean 'rates[0].threads'?"),
        ("outside", "must lie beside the profile"),
        (("engine", "ai-edge-litert"), "rates for the engine ai-edge-litert"),
        (("threads", 2), "rates for the threads 2"),
        (("machine", "pdp11"), "rates for the architecture pdp11"),
        (("call_us", -3.0), "no rates"),
        (("cal_us", 3.0), "unknown field `cal_us`"),
        (("bound", 0.1), "no rates"),
        (("memory", {"base_mib": 50.0}), "the memory rate"),
        (("memory", {"bass_mib": 50.0}), "did you mean 'base_mib'?"),
        (("cold_start_ms", [1.0]), "cold_start_ms has 1 numbers"),
    ],
)
def test_rates_that_cannot_be_used_are_one_sentence(
    calibrated, refused, model, fitted, what, sentence
):
    path = DeviceProfile.load(calibrated).path
    spoil(Path(path), what)
    assert sentence in refused("estimate", model("tiny.onnx"), "--profile", calibrated)
    assert sentence in refused("fit", "--profile", calibrated, "--plan")


def test_rates_for_other_threads_are_not_used(calibrated, model):
    assert estimate(model("tiny.onnx"), calibrated, threads=2).latency.standing == "estimated"


def test_an_estimate_needs_no_torch(model, calibrated):
    code = (
        "import sys; from edgedistill.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    for name in ("tiny.onnx", "call.edge"):
        done = subprocess.run(
            [sys.executable, "-c", code, "estimate", str(model(name)), "--profile", calibrated],
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(done.stderr.split())
        assert "edgedistill.estimate" in loaded
        assert loaded & {"torch", "transformers"} == set()
