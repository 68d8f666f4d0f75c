"""A model that was trained elsewhere becomes a bundle that the runtime runs, or is refused."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tests import kinds

from edgedistill import cli
from edgedistill.export.quiet import quiet
from edgedistill.students import vocabulary
from edgedistill_runtime import load
from edgedistill_runtime.evaluate import evaluate

DATA = Path(__file__).parents[1] / "data"
GUIDE = Path(__file__).parents[2] / "docs" / "packing-your-own-model.md"
SEED = 20_261_124
DIGITS = ",".join(map(str, range(10)))
TEXTS = [
    *(
        "good film",
        "a great film",
        "i loved it",
        "great food it was",
        "very good food",
        "good it is",
    ),
    *("bad film", "awful food", "i hated it", "a very bad film", "it was awful", "not good is bad"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """`edgedistill pack` in this process -> (exit code, stdout, stderr)."""

    def run(model, task="image", data="digits", labels=DIGITS, *options):
        words = ["pack", model, "--task", f"{task}-classification", "--profile", "rpi4"]
        words += ["--labels", labels, *(["--data", data] if data else []), *options]
        monkeypatch.setattr(sys, "argv", ["edgedistill", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def refusal(run):
    """The one sentence with which something is refused."""

    def refusal(*arguments):
        code, out, error = run(*arguments)
        assert (code, out) == (2, "")
        (line,) = error.splitlines()
        assert not Path("model.edge").exists()
        return line

    return refusal


def network(
    path="net.onnx",
    shape=("batch", 1, 8, 8),
    classes=10,
    *,
    kind=TensorProto.FLOAT,
    last="",
    middle=(),
    opset=17,
    output=None,
    weights=None,
):
    """An ONNX file: [middle,] Flatten, Gemm [, last].  Its weights are seeded."""
    random = np.random.default_rng(SEED)
    size = int(np.prod([n for n in shape[1:] if isinstance(n, int)]))
    matrix = random.normal(0, 0.3, (size, classes)) if weights is None else weights
    arrays = {"w": matrix, "b": random.normal(0, 0.3, classes)}
    nodes, x = [], "x"
    for name, inputs, attributes, constants in middle:
        arrays |= constants
        nodes.append(helper.make_node(name, [x, *inputs], [f"{name}_out"], **attributes))
        x = f"{name}_out"
    nodes.append(helper.make_node("Flatten", [x], ["flat"], axis=1))
    nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["gemm" if last else "logits"]))
    if last:
        nodes.append(helper.make_node(last, ["gemm"], ["logits"]))
    shape_out = output or [shape[0] if shape else None, classes]
    graph = helper.make_graph(
        nodes,
        "made at /home/someone/secret",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()],
        doc_string="/home/someone/secret",
    )
    return save(graph, path, opset)


def save(graph, path="net.onnx", opset=17):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return Path(path)


def bag_of_words(tokens="tokens", kind=TensorProto.INT64, rows=60, positions=0):
    """An ONNX file for texts: the mean of the tokens' vectors, then a matrix."""
    random = np.random.default_rng(SEED)
    arrays = {"table": random.normal(0, 1, (rows, 8)), "w": random.normal(0, 1, (8, 2))}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bag",
        [helper.make_tensor_value_info("ids", kind, ["batch", tokens])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()],
    )
    return save(graph, "bag.onnx")


def texts():
    """A table of labelled texts and a tokenizer of its words."""
    lines = ["text,label", *(f"{t},{'good' if i < 6 else 'bad'}" for i, t in enumerate(TEXTS))]
    Path("texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("tokenizer.json").write_bytes(vocabulary.train(TEXTS, 50))
    return Path("texts.csv")


def arrays(path="test.npz", shape=(8, 8, 1), classes=10, dtype=np.uint8, **more):
    random = np.random.default_rng(SEED)
    x = (
        random.normal(0, 50, (30, *shape))
        if dtype != np.uint8
        else random.integers(0, 256, (30, *shape))
    )
    np.savez(path, x=x.astype(dtype), y=np.arange(30) % classes, **more)
    return Path(path)


def reported(done):
    code, out, error = done
    assert code == 0, error
    return json.loads(out)


def test_the_bundle_runs_and_scores_what_was_reported(run):
    test = arrays()
    report = reported(run(network(), "image", test, DIGITS, "--json"))
    model = load("model.edge")
    assert model.check_golden() == 0
    found = evaluate(Path("model.edge"), test)
    assert (found.metric, found.value, found.samples) == ("accuracy", report["value"], 30)
    manifest = model.manifest
    assert manifest.labels == tuple(DIGITS.split(","))
    assert manifest.inputs[0].shape == (1, 1, 8, 8)
    assert manifest.outputs[0].shape == (1, 10)
    assert (manifest.name, manifest.version, manifest.task) == ("net-rpi4", 1, report["task"])
    assert (manifest.board.profile, manifest.budget.latency_ms) == ("rpi4", 20)
    assert manifest.budget.min_retention is None
    assert manifest.golden.count == 20
    assert report["bundle_id"] == model.bundle_id


def test_what_is_predicted_is_held_against_the_limits(run):
    report = reported(run(network(), "image", "digits", DIGITS, "--size-mib", "1", "--json"))
    limits = {limit["name"]: limit for limit in report["budget"]}
    assert limits.keys() == {"latency_ms", "peak_ram_mib", "size_mib"}
    assert limits["size_mib"]["value"] == Path("model.edge").stat().st_size / 2**20
    assert limits["size_mib"]["standing"] == "verified"
    assert limits["latency_ms"]["standing"] == "estimated"
    assert report["predicted"]["latency_ms"]["p50"] < limits["latency_ms"]["value"] < 20
    assert (report["macs"], report["params"]) == (640, 650)


def test_a_limit_of_energy_is_packed_for_the_board_to_judge(run):
    report = reported(run(network(), "image", "digits", DIGITS, "--energy-mj", "40", "--json"))
    limits = {limit["name"]: limit for limit in report["budget"]}
    assert (limits["energy_mj"]["standing"], limits["energy_mj"]["ok"]) == ("unknown", None)
    assert "energy_mj" in report["reason"]
    assert load("model.edge").manifest.budget.energy_mj == 40


def test_a_missed_limit_is_exit_code_1_and_names_what_is_missed(run):
    code, _, error = run(network(), "image", "digits", DIGITS, "--latency-ms", "0.001")
    assert code == 1
    assert "over budget: latency_ms is" in error
    assert "over its limit of 0.001" in error
    assert load("model.edge").manifest.budget.latency_ms == 0.001


def test_the_same_command_gives_the_same_bytes(run):
    network()
    run("net.onnx", "image", "digits", DIGITS, "--out", "a.edge")
    run("net.onnx", "image", "digits", DIGITS, "--out", "b.edge")
    assert Path("a.edge").read_bytes() == Path("b.edge").read_bytes()


def test_nothing_of_the_machine_that_exported_the_model_is_packed(run):
    run(network())
    assert b"secret" not in Path("model.edge").read_bytes()


def test_logits_are_those_of_the_model_after_the_preprocessing(run):
    model = network()
    run(model, "image", arrays(), DIGITS, "--mean", "0.5", "--std", "0.25")
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    packed = load("model.edge")
    image = packed.golden_samples()[0]
    pixels = (image[..., 0].astype(np.float64) / 255 - 0.5) / 0.25
    expected = pixels.ravel() @ weights["w"] + weights["b"]
    assert packed.logits(image) == pytest.approx(expected, abs=1e-4)


def test_an_int8_model_is_packed_as_it_is(run):
    report = reported(run(DATA / "tiny_int8.onnx", "image", "digits", DIGITS, "--json"))
    assert report["precision"] == "int8"
    assert load("model.edge").manifest.precision == "int8"


def test_images_of_any_size_are_brought_to_the_models(run):
    random = np.random.default_rng(SEED)
    for i, label in enumerate(("cat", "dog", "cat")):
        path = Path("photos") / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    model = network(shape=(1, 3, 8, 12), classes=2)
    report = reported(run(model, "image", "photos", "dog,cat", "--mean", "0.4,0.5,0.6", "--json"))
    assert [step["op"] for step in report["preprocess"]] == [
        "resize",
        "normalize",
        "channels_first",
    ]
    packed = load("model.edge")
    assert packed.manifest.sample.any_size
    assert packed.golden_samples().shape == (3, 8, 12, 3)
    assert packed.predict(random.integers(0, 256, (41, 77, 3), np.uint8)).label in ("dog", "cat")


def test_a_model_with_channels_last_and_one_that_takes_pixels(run):
    test = arrays(shape=(8, 8, 3))
    model = network(shape=(1, 8, 8, 3))
    report = reported(run(model, "image", test, DIGITS, "--json"))
    assert [step["op"] for step in report["preprocess"]] == ["resize", "normalize"]
    cast = ("Cast", [], {"to": TensorProto.FLOAT}, {})
    pixels = network(shape=(1, 8, 8, 3), kind=TensorProto.UINT8, middle=[cast])
    report = reported(run(pixels, "image", test, DIGITS, "--json"))
    assert [step["op"] for step in report["preprocess"]] == ["resize"]


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_the_steps_can_stand_in_a_file(run, suffix):
    steps = [
        {"op": "normalize", "scale": 0.5, "mean": [0.1], "std": [2.0]},
        {"op": "channels_first"},
    ]
    lines = [
        "[[preprocess]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in step.items())
        for step in steps
    ]
    content = json.dumps(steps) if suffix == "json" else "\n".join(lines)
    Path(f"steps.{suffix}").write_text(content, encoding="utf-8")
    options = ("--preprocess", f"steps.{suffix}", "--json")
    report = reported(run(network(), "image", "digits", DIGITS, *options))
    assert report["preprocess"] == steps
    assert load("model.edge").manifest.sample.shape == (8, 8, 1)


def test_sound_becomes_the_spectrogram_that_the_input_asks_for(run):
    kinds.folder_of_sounds(Path("sounds"), 12)
    model = network(shape=("n", 1, 20, 24), classes=3)
    options = ("--sample-rate-hz", "8000", "--json")
    report = reported(run(model, "audio", "sounds", "low,middle,high", *options))
    assert [s["op"] for s in report["preprocess"]] == ["log_mel", "standardize", "insert_axis"]
    packed = load("model.edge")
    assert packed.manifest.sample.rate_hz == 8000
    mel = report["preprocess"][0]
    assert packed.manifest.sample.shape == (mel["frame"] + 23 * mel["step"],)
    np.savez("split.npz", x=packed.golden_samples(), y=np.zeros(12, np.int64))
    assert evaluate(Path("model.edge"), Path("split.npz")).samples == 12


def test_sound_may_go_in_as_a_waveform(run):
    test = arrays(shape=(800,), classes=2, dtype=np.int16, rate=8000)
    model = network(shape=(1, 1, 800), classes=2)
    run(model, "audio", test, "no,yes", "--sample-rate-hz", "8000", "--window-s", "0.1")
    packed = load("model.edge")
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    sound = packed.golden_samples()[0]
    assert packed.logits(sound) == pytest.approx(
        sound / 32768 @ weights["w"] + weights["b"], abs=1e-4
    )


@pytest.mark.parametrize("shape", [(1, 3, 1, 40), (1, 3, 40)])
def test_readings_of_sensors(run, shape):
    test = arrays(shape=(3, 40), classes=2, dtype=np.float64)
    options = ("--mean", "1,2,3", "--std", "50", "--json")
    report = reported(run(network(shape=shape, classes=2), "sensor", test, "no,yes", *options))
    assert report["preprocess"][0] == {
        "op": "standardize",
        "mean": [1.0, 2.0, 3.0],
        "std": [50.0, 50.0, 50.0],
    }
    assert evaluate(Path("model.edge"), test).value == report["value"]


def test_a_table_of_readings_is_cut_into_the_models_windows(run):
    table = kinds.table_of_readings(Path("readings.csv"), 4)
    options = ("--label-column", "activity", "--group-column", "subject", "--hop", "16", "--json")
    labels = "rest,one arm,both arms"
    model = network(shape=(1, 2, 1, 32), classes=3)
    report = reported(run(model, "sensor", table, labels, *options))
    assert report["test_samples"] == 4 * 3 * 5
    sample = load("model.edge").manifest.sample
    assert (sample.shape, sample.hop) == ((2, 32), 16)


def test_texts_are_tokenized_by_the_given_tokenizer(run):
    model, table = bag_of_words(), texts()
    options = ("--tokenizer", "tokenizer.json", "--max-length", "16", "--json")
    report = reported(run(model, "text", table, "bad,good", *options))
    packed = load("model.edge")
    assert packed.predict("a film that nobody knows").label in ("bad", "good")
    assert report["test_samples"] == 12
    right = [packed.predict(t).label == ("good" if i < 6 else "bad") for i, t in enumerate(TEXTS)]
    assert report["value"] == pytest.approx(np.mean(right))


def test_what_bundles_may_not_hold_is_simplified_and_answers_as_before(run):
    random = np.random.default_rng(SEED)
    constants = {
        "conv": random.normal(0, 0.5, (4, 1, 3, 3)),
        "scale": random.uniform(0.5, 2, 4),
        "bias": random.normal(0, 1, 4),
        "mean": random.normal(0, 1, 4),
        "var": random.uniform(0.5, 2, 4),
    }
    middle = [
        ("Conv", ["conv"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, constants),
        ("BatchNormalization", ["scale", "bias", "mean", "var"], {}, {}),
    ]
    matrix = random.normal(0, 0.2, (256, 10))
    model = network(middle=middle, weights=matrix, opset=11)  # bundles have opset 13 or newer
    run(model, "image", arrays(), DIGITS)
    packed = load("model.edge")
    image = packed.golden_samples()[0]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = (image[..., 0] / np.float32(255))[None, None]
    expected = session.run(None, {"x": pixels.astype(np.float32)})[0][0]
    assert packed.logits(image) == pytest.approx(expected, abs=1e-4)


def test_a_model_that_ends_in_softmax_gives_its_own_scores(run):
    run(network(last="Softmax"), "image", arrays(), DIGITS)
    packed = load("model.edge")
    assert packed.manifest.postprocess == ()
    answer = packed.predict(packed.golden_samples()[0])
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
    assert answer.score == pytest.approx(float(packed.logits(packed.golden_samples()[0]).max()))


def test_labels_come_from_a_file_with_one_a_line_or_a_json_list(run):
    names = [f"Ziffer {i}" for i in range(10)]
    Path("names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    Path("names.json").write_text(json.dumps(names), encoding="utf-8")
    for file in ("names.txt", "names.json"):
        run(network(), "image", "digits", file)
        assert load("model.edge").manifest.labels == tuple(names)


def test_a_bundle_that_is_there_stays_if_the_new_one_cannot_be_made(run):
    Path("model.edge").write_bytes(b"the one that worked")
    assert run(network(shape=(1, 1, 9, 9)), "image", "digits", "a,b")[0] == 2
    assert Path("model.edge").read_bytes() == b"the one that worked"


def test_files_that_are_no_model_are_refused(refusal):
    Path("net.tflite").write_bytes(b"TFL3")
    Path("net.pt").write_bytes(b"PK")
    Path("noise.onnx").write_bytes(b"no model at all")
    assert "net.tflite: the model is not a TFLite file" in refusal("net.tflite")
    assert "not an .onnx or .tflite file; export the model first" in refusal("net.pt")
    assert "noise.onnx: not a" in refusal("noise.onnx")
    assert "missing.onnx: cannot be read (No such file or directory)" in refusal("missing.onnx")


def test_weights_in_another_file_are_refused(refusal):
    model = onnx.load(network())
    onnx.save(model, "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert "its weights stand in another file" in refusal("big.onnx")


def test_operators_of_others_are_refused(refusal):
    model = onnx.load(network())
    model.graph.node[0].domain = "com.somebody"
    model.opset_import.append(helper.make_opsetid("com.somebody", 1))
    onnx.save(model, "own.onnx")
    assert "the operator 'com.somebody.Flatten', which bundles may not hold" in refusal("own.onnx")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"shape": (8, 1, 8, 8)}, "has a batch of 8, and a board classifies one sample at a time"),
        ({"shape": ("n", 1, "h", 8)}, "leaves size 2 (h) open"),
        ({"shape": (1, 64)}, "the model's input has the shape [1, 64]; for image classification"),
        ({"classes": 9}, "the model has 9 classes, and 10 labels are given"),
        ({"last": "Sigmoid"}, "the model ends in a sigmoid"),
        ({"kind": TensorProto.DOUBLE}, "net.onnx: "),
    ],
)
def test_a_model_that_no_sample_fits_is_refused(refusal, made, words):
    assert words in refusal(network(**made))


def test_a_model_of_several_inputs_or_outputs_is_refused(refusal):
    model = onnx.load(network())
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 4]))
    onnx.save(model, "two.onnx")
    assert "the model has 2 inputs (x, mask), and a bundle's has one" in refusal("two.onnx")
    model = onnx.load(network())
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, None))
    onnx.save(model, "two.onnx")
    assert "the model has 2 outputs (logits, flat), and a bundle's has one" in refusal("two.onnx")


def test_texts_need_open_int64_ids_and_a_tokenizer(refusal):
    table, options = texts(), ("--tokenizer", "tokenizer.json")
    assert "needs its tokenizer.json" in refusal(bag_of_words(), "text", table, "bad,good")
    fixed = refusal(bag_of_words(tokens=16), "text", table, "bad,good", *options)
    assert "has the shape [1, 16]; of texts it is [1, tokens]" in fixed
    small = refusal(bag_of_words(kind=TensorProto.INT32), "text", table, "bad,good", *options)
    assert "the input 'ids' is int32; for text classification it is int64" in small
    few = refusal(bag_of_words(rows=5), "text", table, "bad,good", *options)
    assert "onnxruntime could not run the model" in few


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("image", ""), "data are missing; give a labelled test split with --data"),
        (("imge",), "no task named 'imge-classification'; did you mean 'image-classification'?"),
        (("sensor",), "digits: holds images, and the task is for sensor data"),
        (("image", "nothing.npz"), "nothing.npz: cannot be read"),
        (("image", "digits", "a"), "there is no file 'a'"),
        (("image", "digits", "a,b,a"), "'a' stands twice"),
        (("image", "digits", DIGITS, "--mean", "1,2"), "mean has 2 numbers; it is one, or one"),
        (("image", "digits", DIGITS, "--mean", "x"), "'x' is not numbers with commas between"),
        (("image", "digits", DIGITS, "--std", "0"), "std positive"),
        (("image", "digits", DIGITS, "--latency-ms", "-1"), "latency_ms is -1.0; expected"),
        (("image", "digits", DIGITS, "--tokenizer", "t.json"), "a tokenizer is for texts"),
        (("image", "digits", DIGITS, "--out", "net.onnx"), "net.onnx: is the model itself"),
        (("image", "digits", DIGITS, "--profile", "coral-dev"), "coral-dev has no engine"),
        (("image", "digits", DIGITS, "--preprocess", "s.yaml"), "s.yaml: preprocessing stands in"),
    ],
)
def test_a_wrong_option_is_one_sentence(refusal, arguments, words):
    model = network(shape=(1, 1, 64)) if "sensor" in arguments else network()
    assert words in refusal(model, *arguments)


def test_data_with_labels_that_the_model_lacks_are_refused(refusal):
    np.savez("t.npz", x=np.zeros((9, 8, 8), np.uint8), y=np.array(["cat", "dgo", "cat"] * 3))
    model = network(classes=2)
    assert "no label of the model named 'dgo'; did you mean 'dog'?" in refusal(
        model, "image", "t.npz", "cat,dog"
    )


def test_steps_that_do_not_lead_to_the_model_are_refused(refusal):
    Path("s.json").write_text('[{"op": "channels_first"}]', encoding="utf-8")
    options = ("--preprocess", "s.json")
    text = refusal(network(), "image", "digits", DIGITS, *options)
    assert "makes uint8 [1, 1, 8, 8] of a sample of [8, 8, 1], and the model takes float32" in text
    Path("s.json").write_text('[{"op": "chanels_first"}]', encoding="utf-8")
    text = refusal(network(), "image", "digits", DIGITS, *options)
    assert "s.json: no preprocessing step named 'chanels_first'; did you mean" in text


def test_answers_that_are_no_numbers_are_refused(refusal):
    weights = np.full((64, 10), np.nan)
    assert "is not a finite number (450 such samples)" in refusal(network(weights=weights))


@pytest.mark.slow
def test_the_guides_example_does_what_it_says(monkeypatch, capsys):
    text = GUIDE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (console,) = re.findall(r"```console\n\$ (.*?)```", text, re.DOTALL)
    command, _, promised = console.partition("\n")
    made: dict = {}
    with quiet():
        exec(code, made)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == promised.splitlines()[0]
    assert lines[-1] == promised.splitlines()[-1]
    test = made["digits"].test
    value = made["found"].score(test.x.reshape(len(test), -1) / 255, test.y)
    assert lines[1] == f"accuracy {value:.4f} over 450 samples"


def test_the_guides_steps_are_steps(run):
    (steps,) = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    Path("steps.toml").write_text(steps, encoding="utf-8")
    pool = ("GlobalAveragePool", [], {}, {})
    model = network(shape=("n", 3, 224, 224), classes=2, middle=[pool], weights=np.eye(3)[:, :2])
    test = arrays(shape=(30, 40, 3), classes=2)
    report = reported(run(model, "image", test, "a,b", "--preprocess", "steps.toml", "--json"))
    assert [step["op"] for step in report["preprocess"]][:2] == ["resize", "crop"]
    assert load("model.edge").manifest.sample.any_size
