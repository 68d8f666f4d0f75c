"""TFLite models in their engine: the numbers, texts of every length, and what is refused.

Needs one of the two engines; what is refused before an engine is asked needs none.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from tests.runtime import tflite_nets as nets
from tests.runtime.runtime_support import STEPS, environment, listed, run_cli
from tests.runtime.tflite_bytes import FULLY_CONNECTED, Graph, Quant

from edgedistill_runtime import arrays, bundle, preprocess
from edgedistill_runtime import manifest as contract
from edgedistill_runtime.backends import opener, tflite
from edgedistill_runtime.errors import BundleError, EngineError
from edgedistill_runtime.model import load
from edgedistill_runtime.tflitecheck import check_tflite

NUMPY_1 = np.__version__.startswith("1.")
HAS_LITERT = find_spec("ai_edge_litert") is not None
needs_engine = pytest.mark.skipif(
    not (HAS_LITERT or (NUMPY_1 and find_spec("tflite_runtime") is not None)),
    reason="neither ai-edge-litert nor tflite-runtime (with numpy 1) is installed",
)
SETTINGS = contract.Backend("tflite")


def session(name_or_data, settings=SETTINGS):
    data = nets.FILES[name_or_data]() if isinstance(name_or_data, str) else name_or_data
    return opener("tflite")(data, settings)


def image(seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (1, 8, 8, 1)).astype(np.float32)


def ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, nets.WORDS, (1, count)).astype(np.int32)


@needs_engine
@pytest.mark.parametrize("threads", [1, 2])
def test_float_layers_answer_as_numpy_does(threads):
    loaded = session("cnn", contract.Backend("tflite", threads))
    for seed in range(5):
        (logits,) = loaded.run({"image": image(seed)})
        assert np.abs(logits - nets.cnn_answer(image(seed))).max() < 1e-5


@needs_engine
def test_int8_layers_answer_nearly_so():
    loaded = session("int8_cnn")
    for seed in range(5):
        (logits,) = loaded.run({"image": image(seed)})
        assert np.abs(logits - nets.cnn_answer(image(seed))).max() < 0.15  # a step is 0.047


@needs_engine
def test_a_session_says_what_it_is():
    loaded = session("cnn")
    assert loaded.engine in ("ai-edge-litert", "tflite-runtime")
    assert loaded.version[0].isdigit()
    assert loaded.xnnpack is True
    assert loaded.inputs == (contract.Tensor("image", "float32", (1, 8, 8, 1)),)
    assert loaded.outputs == (contract.Tensor("logits", "float32", (1, 10)),)


@needs_engine
def test_an_answer_stays_when_the_next_one_comes():
    loaded = session("cnn")
    (first,) = loaded.run({"image": image(1)})
    kept = first.copy()
    loaded.run({"image": image(2)})
    assert (first == kept).all()
    first[:] = 0  # its own memory
    assert (loaded.run({"image": image(1)})[0] == kept).all()


@needs_engine
@pytest.mark.parametrize("name", ["bag_of_words", "of_lengths"])
def test_texts_of_every_length(name):
    loaded = session(name)
    assert loaded.inputs == (contract.Tensor("ids", "int32", (1, -1)),)
    for _ in range(2):
        for count in (1, 5, 3, 8, 2, 6, 7, 4, 1):
            (logits,) = loaded.run({"ids": ids(count)})
            assert np.abs(logits - nets.bag_answer(ids(count))).max() < 1e-5


@needs_engine
def test_a_text_that_is_longer_than_all_graphs_is_refused():
    with pytest.raises(EngineError, match=r"the text has 9 tokens, .* at most 8"):
        session("of_lengths").run({"ids": ids(9)})


@needs_engine
@pytest.mark.parametrize("bad", [nets.WORDS, -1, -(1 << 31), (1 << 31) - 1])
def test_an_id_without_a_row_is_one_sentence(bad):
    loaded = session("bag_of_words")
    with pytest.raises(EngineError, match="could not run the model") as caught:
        loaded.run({"ids": np.array([[bad]], np.int32)})
    assert "\n" not in str(caught.value)
    assert np.isfinite(loaded.run({"ids": ids(1)})[0]).all()  # and it goes on


@needs_engine
@pytest.mark.parametrize("name", ["attention", "rearranging"])
def test_other_operators_run(name):
    loaded = session(name)
    (tensor,) = loaded.inputs
    value = ids(7) if name == "attention" else np.ones(tensor.shape, np.float32)
    assert np.isfinite(loaded.run({tensor.name: value})[0]).all()


def hybrid():
    """Floats in and out of weights with an int8 scale for each row."""
    g = Graph()
    x = g.input((1, 8))
    weights = np.random.default_rng(0).integers(-127, 128, (4, 8)).astype(np.int8)
    scales = np.linspace(0.01, 0.03, 4).astype(np.float32)
    y = g.constant(weights, Quant(scales))
    g.outputs = [g.add("FULLY_CONNECTED", [x, y], (1, 4), FULLY_CONNECTED, version=5)]
    return g.bytes(), weights * scales[:, None]


def test_what_tflite_runtime_answers_wrongly_is_refused_for_it():
    checked = check_tflite(hybrid()[0])
    with pytest.raises(EngineError, match=r"FULLY_CONNECTED wrongly.*one scale for each tensor"):
        tflite.check_known_faults("tflite-runtime", "2.14.0", checked)
    tflite.check_known_faults("ai-edge-litert", "2.3.0", checked)
    tflite.check_known_faults("tflite-runtime", "2.14.0", check_tflite(nets.int8_cnn().bytes()))


@pytest.mark.skipif(not HAS_LITERT, reason="tflite-runtime refuses it")
def test_and_the_other_engine_answers_it_rightly():
    data, weights = hybrid()
    x = np.random.default_rng(1).normal(0, 1, (1, 8)).astype(np.float32)
    assert np.abs(session(data).run({"t0": x})[0] - x @ weights.T).max() < 0.1


# --- engines that are not there


def test_no_engine_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tflite, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"neither .* is installed; install an engine with: pip"):
        session("cnn")


def test_an_engine_that_cannot_be_imported_is_named(monkeypatch):
    def broken(name):
        raise ImportError("libc.so.6: version `GLIBC_2.99' not found\nsecond line")

    monkeypatch.setattr(tflite, "find_spec", lambda name: name == "ai_edge_litert" or None)
    monkeypatch.setattr(tflite, "import_module", broken)
    with pytest.raises(EngineError, match=r"ai-edge-litert cannot be imported .*GLIBC_2.99") as it:
        session("cnn")
    assert "\n" not in str(it.value)


@pytest.mark.skipif(NUMPY_1, reason="numpy 1 is what tflite-runtime needs")
def test_tflite_runtime_is_not_even_imported_with_numpy_2(monkeypatch):
    monkeypatch.setattr(tflite, "find_spec", lambda name: name == "tflite_runtime" or None)
    with pytest.raises(EngineError, match=r"tflite-runtime does not work with numpy 2.*'numpy<2'"):
        session("cnn")


@pytest.mark.parametrize(
    "settings",
    [
        contract.Backend("tflite", graph_optimization="all"),
        contract.Backend("tflite", spinning=True),
        contract.Backend("tflite", arena=True),
    ],
)
def test_settings_of_another_engine_are_refused(settings):
    with pytest.raises(BundleError, match="TFLite has 'threads' only"):
        session("cnn", settings)


# --- hostile files in the engine

RUN = """
import sys
from pathlib import Path
import numpy as np
from edgedistill_runtime.backends import opener
from edgedistill_runtime.errors import EdgeDistillError
from edgedistill_runtime.manifest import Backend
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    try:
        session = opener("tflite")(path.read_bytes(), Backend("tflite"))
        for length in (1, 3):
            inputs = {
                t.name: np.ones([n if n > 0 else length for n in t.shape], t.dtype)
                for t in session.inputs
            }
            session.run(inputs)
    except EdgeDistillError as error:
        assert "\\n" not in str(error), error
print("done")
"""


@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize("name", nets.FILES)
def test_whatever_passes_the_check_runs_or_is_refused_by_the_engine(name, tmp_path):
    """2,000 files with bytes altered: those that are not refused, in a process of their own."""
    whole, chance = nets.FILES[name](), random.Random(11)
    count = 0
    for number in range(2000):
        altered = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(altered))
            altered[place] = chance.choice((0, 1, 127, 128, 255, altered[place] ^ 1))
        try:
            check_tflite(bytes(altered))
        except BundleError:
            continue
        (tmp_path / f"{number:04}").write_bytes(altered)
        count += 1
    assert count > 50
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=environment(),
    )
    last = done.stdout.splitlines()[-1:]
    assert (done.returncode, last, done.stderr) == (0, ["done"], "")


# --- in a bundle


def bundled(tiny, path, data, **changes):
    """The small bundle with another model: images with their channels last."""
    manifest, files = tiny
    loaded = session(data)
    steps = STEPS[:1]
    golden = arrays.decode("g", files["golden_inputs.npy"], "uint8", (4, 8, 8, 1))
    prepared = preprocess.build(steps)(golden)
    logits = np.concatenate([loaded.run({"image": x[None]})[0] for x in prepared])
    contents = {
        "model.tflite": data,
        "golden_inputs.npy": files["golden_inputs.npy"],
        "golden_outputs.npy": arrays.encode(logits),
    }
    manifest = dataclasses.replace(
        manifest,
        backend=SETTINGS,
        model="model.tflite",
        files=listed(contents),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        preprocess=steps,
        **changes,
    )
    bundle.write(path, manifest, contents)
    return path


@needs_engine
@pytest.mark.parametrize("name", ["cnn", "int8_cnn"])
def test_a_bundle_is_loaded_checked_and_answers(tiny, tmp_path, images, name):
    path = bundled(tiny, tmp_path / "m.edge", nets.FILES[name]())
    model = load(path)
    assert model.check_golden() <= 1e-6
    assert model.engine in ("ai-edge-litert", "tflite-runtime")
    for sample in images:
        assert model.predict(sample).label in model.manifest.labels
    said = run_cli("verify", path)
    assert (said.code, len(said.err.splitlines())) == (0, len(said.err.splitlines()))


@needs_engine
def test_nothing_of_the_engine_is_printed(tiny, tmp_path):
    """It tells of its delegate on stderr, past Python."""
    path = bundled(tiny, tmp_path / "m.edge", nets.cnn().bytes())
    command = [sys.executable, "-m", "edgedistill_runtime", "verify", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "delegate" not in (done.stdout + done.stderr).lower()


@needs_engine
def test_a_model_that_is_none_is_refused_in_one_sentence(tiny, tmp_path):
    good = nets.cnn().bytes()
    path = bundled(tiny, tmp_path / "m.edge", good)
    manifest, files = bundle.read(path).manifest, dict(bundle.read(path).files)
    for size in range(0, len(good) - 8, 37):
        files["model.tflite"] = good[:size]
        bundle.write(path, dataclasses.replace(manifest, files=listed(files)), files)
        said = run_cli("verify", path)
        assert said.code == 2
        assert "TFLite" in said.sentence() or "model" in said.sentence()


@needs_engine
def test_a_bundle_of_texts(tmp_path):
    from tests.runtime.text_support import text_manifest

    from edgedistill_runtime import tokenize

    pytest.importorskip("tokenizers")
    manifest, files = text_manifest()
    step = manifest.preprocess[0]
    encoder = tokenize.TextEncoder.build(
        files[step["file"]], step["max_length"], step["max_characters"]
    )
    from tests.runtime import tflite_bytes as tb

    labels, rows = len(manifest.labels), encoder.vocabulary_size
    rng = np.random.default_rng(0)
    g = Graph()
    x = g.input((1, 1), tb.INT32, "ids", open_shape=(1, -1))
    x = g.add("GATHER", [g.constant(rng.normal(0, 1, (rows, 4))), x], (1, 1, 4), (23, {}))
    x = g.add("MEAN", [x, g.constant(np.array([1], np.int32))], (1, 4), tb.DROP_DIMS)
    head = g.constant(rng.normal(0, 1, (labels, 4)))
    g.outputs = [g.add("FULLY_CONNECTED", [x, head], (1, labels), FULLY_CONNECTED)]
    from edgedistill_runtime import texts

    loaded = session(g.bytes())
    words = texts.decode(
        manifest.golden.inputs, files[manifest.golden.inputs], manifest.golden.count
    )
    encoded = encoder.encode_batch(words)
    logits = [loaded.run({"ids": row[None].astype(np.int32)})[0] for row in encoded]
    contents = {name: data for name, data in files.items() if name != manifest.model}
    contents |= {"model.tflite": g.bytes()}
    contents[manifest.golden.outputs] = arrays.encode(np.concatenate(logits))
    path = tmp_path / "texts.edge"
    bundle.write(
        path,
        dataclasses.replace(
            manifest,
            backend=SETTINGS,
            model="model.tflite",
            files=listed(contents),
            inputs=loaded.inputs,
            outputs=loaded.outputs,
        ),
        contents,
    )
    model = load(path)
    assert model.check_golden() == 0
    assert model.predict("some words, or none").label in manifest.labels
