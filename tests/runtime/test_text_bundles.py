"""A bundle of texts: the same commands and promises as for images."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.runtime import hostile_texts
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import MISSING, environment, run_cli
from tests.runtime.text_support import (
    GOLDEN,
    IDS,
    LOGITS,
    MAX_LENGTH,
    MODELS,
    MOODS,
    TOKENIZER,
    TOKENS,
    as_json,
    changed,
    text_answers,
    text_manifest,
    text_model,
)
from tests.runtime.zip_bytes import zip_bytes

from edgedistill_runtime import arrays, bundle, load, texts
from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.manifest import Manifest
from edgedistill_runtime.metrics import METRICS
from edgedistill_runtime.modelcheck import check_onnx

SENTENCES = ["it was good", "the day was bad!", "very, very good film.", "čć"]


@pytest.fixture(scope="module", params=MODELS)
def either(request, tmp_path_factory):
    """The path of a good bundle of texts, of each kind of model."""
    path = tmp_path_factory.mktemp("texts") / "model.edge"
    bundle.write(path, *text_manifest(request.param))
    return path


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "model.edge"
    bundle.write(path, *text_manifest())
    return path


@pytest.fixture
def several(repack):
    """A bundle whose samples may have several labels."""
    return repack({"postprocess": [{"op": "sigmoid"}]})


@pytest.fixture
def repack(text_parts, tmp_path):
    """Write a bundle with changes: `manifest` by dotted path, `files` by name."""

    def write(manifest=None, files=None):
        path = tmp_path / "changed.edge"
        path.write_bytes(zip_bytes(text_parts.changed(manifest, files).entries()))
        return path

    return write


def refused(path):
    with pytest.raises(BundleError) as caught:
        load(path)
    return str(caught.value)


# --- the model


def test_a_text_is_answered(either):
    answer = load(either).predict("It was good!")
    assert answer.label in MOODS
    assert answer.labels == (answer.label,)
    assert answer.score == max(answer.scores.values()) == answer.scores[answer.label]
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-6)


def test_the_golden_outputs_agree(either):
    model = load(either)
    assert model.check_golden() <= 1e-5
    assert model.golden_samples() == list(GOLDEN)


def test_the_logits_are_those_of_the_bare_model(edge):
    model = load(edge)
    found = np.stack([model.logits(text) for text in SENTENCES])
    assert np.allclose(found, text_answers(text_model(), SENTENCES), atol=1e-6)


def test_a_text_may_be_of_any_length(either):
    model = load(either)
    for text in ("", "good", "good " * 1000, "x" * 100_000, "\0\n\t", "😀" * 500):
        assert np.isfinite(model.logits(text)).all()
    assert np.array_equal(model.logits("good " * 6), model.logits("good " * 1000))


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        (None, "a NoneType"),
        (b"good", "a bytes"),
        (["good"], "a list"),
        (5, "a int"),
        (np.zeros((1, 3), np.int64), "int64 of shape [1, 3]"),
    ],
)
def test_what_is_no_text_is_refused(edge, sample, found):
    with pytest.raises(InputError) as caught:
        load(edge).predict(sample)
    assert str(caught.value) == f"the sample is {found}; the model takes a text"


def test_numpys_text_is_a_text(edge):
    model = load(edge)
    assert model.predict(np.array(["it was good"])[0]).scores == model.predict("it was good").scores


def test_a_sample_may_have_several_labels_or_none(several):
    model = load(several)
    seen = set()
    for text in (*SENTENCES, *TOKENS):
        answer = model.predict(text)
        logits = model.logits(text)
        scores = 1 / (1 + np.exp(-logits.astype(float)))
        assert np.allclose(list(answer.scores.values()), scores, atol=1e-6)
        assert answer.labels == tuple(m for m, y in zip(MOODS, scores, strict=True) if y >= 0.5)
        assert answer.label == MOODS[logits.argmax()]
        seen.add(len(answer.labels))
    assert len(seen) > 2


def test_the_bare_model_takes_ids_of_any_length(edge):
    model = load(edge)
    for length in (1, 2, MAX_LENGTH):
        ids = np.full((1, length), IDS["good"], np.int64)
        assert model.run({"ids": ids})["logits"].shape == (1, 3)


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros((1, 0), np.int64),
        np.zeros((2, 3), np.int64),
        np.zeros((3,), np.int64),
        np.zeros((1, 3), np.int32),
        [[1, 2]],
    ],
)
def test_ids_of_another_kind_are_refused(edge, ids):
    with pytest.raises(InputError, match=r"'ids' is .*; the model takes int64 of shape \[1, -1\]"):
        load(edge).run({"ids": ids})


@pytest.mark.parametrize("wrong", [len(TOKENS), -len(TOKENS) - 1, 1 << 40, -(1 << 63)])
def test_an_id_outside_of_the_table_is_one_sentence(either, wrong):
    with pytest.raises(EngineError, match="onnxruntime could not run the model") as caught:
        load(either).run({"ids": np.array([[wrong]])})
    assert "\n" not in str(caught.value)


# --- what a bundle of texts must be


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("sample.kind", "image", "images are 'text', not uint8"),
        ("sample.kind", "audio", "audio is 'text' of shape []"),
        ("sample.kind", "video", "no kind of sample named 'video' (known: audio, image, sensor"),
        ("sample.rate_hz", 16000, "sample.rate_hz is 16000; only audio and sensors have one"),
        ("sample.hop", 5, "sample.hop is 5; only audio and sensors have one"),
        ("sample.kind", "texts", "did you mean 'text'?"),
        ("sample.dtype", "uint8", "texts are 'uint8' of shape []"),
        ("sample.shape", [1], "texts are 'text' of shape [1]"),
        ("inputs.0.dtype", "int32", "token ids are int64 [1, -1]"),
        ("inputs.0.shape", [1, 8], "token ids are int64 [1, -1]"),
        ("inputs.0.shape", [-1, -1], "token ids are int64 [1, -1]"),
        ("inputs.0.shape", [-1], "token ids are int64 [1, -1]"),
        ("outputs.0.shape", [-1, 3], "the shape [-1, 3]"),
        ("preprocess", [], "the one step 'tokenize'"),
        ("preprocess.0.op", "normalize", "the one step 'tokenize'"),
        ("accuracy.control.low", 0.5, "a gain outside of its interval"),
        ("accuracy.control.high", 0.0, "a gain outside of its interval"),
        ("accuracy.control.seeds", 0, "number of seeds is 0"),
    ],
)
def test_a_manifest_of_texts_says_what_texts_are(text_parts, path, value, sentence):
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(text_parts.changed({path: value}).manifest_json())
    assert sentence in str(caught.value)


def test_a_model_has_one_input(text_parts):
    both = text_parts.manifest["inputs"] * 2
    with pytest.raises(BundleError, match="names 2 inputs; a sample fills one"):
        Manifest.from_json(text_parts.changed({"inputs": both}).manifest_json())


def test_a_control_may_be_missing(text_parts):
    for value in (None, MISSING):
        data = text_parts.changed({"accuracy.control": value}).manifest_json()
        assert Manifest.from_json(data).accuracy.control is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"preprocess.0.file": "vocab.txt"}, "lacks its file 'vocab.txt'"),
        ({"preprocess.0.file": "model.onnx"}, "the tokenizer"),
        ({"preprocess.0.file": None}, "lacks its file 'None'"),
        ({"preprocess.0.file": ["tokenizer.json"]}, "'tokenize' has wrong arguments"),
        ({"preprocess.0.file": MISSING}, "'tokenize' has wrong arguments"),
        ({"preprocess.0.files": {}}, "'tokenize' has wrong arguments"),
        ({"preprocess.0.lowercase": True}, "'tokenize' has wrong arguments"),
        ({"preprocess.0.max_length": 2}, "leaves no room for the text"),
        ({"preprocess.0.max_length": "8"}, "max_length of texts is '8'"),
        ({"preprocess.0.max_characters": MISSING}, "'tokenize' has wrong arguments"),
        ({"golden.count": 4}, "golden_inputs.json is not a JSON list of 4 texts"),
        ({"golden.inputs": "tokenizer.json"}, "tokenizer.json is not a JSON list of 5 texts"),
        ({"golden.inputs": "golden_outputs.npy"}, "golden_outputs.npy is not a JSON list"),
    ],
)
def test_a_manifest_that_does_not_match_its_files_is_refused(repack, changes, sentence):
    assert sentence in refused(repack(changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[",
        b'["a", "b", "c", "d"]',
        b'["a", "b", "c", "d", 5]',
        b'["a", "b", "c", "d", null]',
        b'["a", "b", "c", "d", ["e"]]',
        b'["a", "b", "c", "d", "\\ud800"]',
        b'["\xff", "b", "c", "d", "e"]',
        b"[" * 100_000,
        b'"abcde"',
        b'["a", "b", "c", "d", "' + b"e" * (1 << 24) + b'"]',
    ],
)
def test_golden_texts_are_a_list_of_texts(repack, data):
    assert refused(repack(files={"golden_inputs.json": data})).startswith("golden_inputs.json")


def test_golden_texts_survive():
    given = ["", "a\nb", '"', "čćž猫😀", "\x00", "\u2028"]
    assert texts.decode("x", texts.encode(given), len(given)) == given


def test_a_table_with_fewer_rows_than_tokens_is_refused_at_once(repack):
    """Else it would be met in the field, with the first rare word."""
    sentence = refused(repack(files={"model.onnx": text_model(rows=len(TOKENS) - 1)}))
    assert "does not answer for the last of the tokenizer's 20 ids" in sentence


@pytest.mark.parametrize("dims", [(1, 8), ("batch", "tokens"), (1, "tokens", 1), ()])
def test_a_model_of_another_input_is_refused(repack, dims):
    nodes = [
        ox.node("Cast", ["ids"], "f", ox.attribute("to", ox.FLOAT)),
        ox.node("MatMul", ["f", "w"], "logits"),
    ]
    weight = ox.floats("w", (8, 3), [0.5] * 24)
    data = ox.model(ox.graph(nodes, [weight], [ox.value("ids", dims, ox.INT64)], LOGITS))
    with pytest.raises((BundleError, EngineError)):
        load(repack(files={"model.onnx": data}))


def test_an_output_that_grows_with_the_text_is_refused(repack):
    nodes = [ox.node("Gather", ["table", "ids"], "logits")]
    table = ox.floats("table", (20, 3), [0.5] * 60)
    ids = [ox.value("ids", (1, "tokens"), ox.INT64)]
    data = ox.model(ox.graph(nodes, [table], ids, [ox.value("logits", (1, "tokens", 3))]))
    assert "outputs are not those" in refused(repack(files={"model.onnx": data}))


def test_real_models_of_texts_are_accepted():
    for make in MODELS.values():
        check_onnx(make())


@pytest.mark.parametrize(
    "nodes",
    [
        [ox.node("Shape", ["ids"], "n"), ox.node("Div", ["n", "n"], "c")],
        [
            ox.node("DynamicQuantizeLinear", ["x"], ["q", "by", "zero"]),
            ox.node("Div", ["q", "q"], "c"),
        ],
        [
            ox.node("DynamicQuantizeLinear", ["x"], ["q", "by", "zero"]),
            ox.node("Div", ["by", "zero"], "c"),
        ],
        [ox.node("MatMulInteger", ["x", "x"], "n"), ox.node("Div", ["n", "n"], "c")],
    ],
)
def test_what_operators_of_texts_make_is_not_divided_as_integers(nodes):
    inputs = [ox.value("ids", (1, "tokens"), ox.INT64), ox.value("x", (1, 4))]
    with pytest.raises(BundleError, match="a Div of integers"):
        check_onnx(ox.model(ox.graph(nodes, (), inputs)))


def test_scales_may_be_divided():
    nodes = [
        ox.node("DynamicQuantizeLinear", ["x"], ["q", "by", "zero"]),
        ox.node("Div", ["by", "by"], "c"),
    ]
    check_onnx(ox.model(ox.graph(nodes, (), [ox.value("x", (1, 4))])))


# --- the commands


def test_verify_and_inspect(either):
    said = run_cli("verify", either)
    assert said.code == 0
    assert "4 files as packed; 5 golden outputs within" in said.sentence()
    said = run_cli("inspect", either)
    assert (said.code, said.err) == (0, "")
    assert "text, 8 tokens of 200 characters" in said.out
    assert "gain +0.0200 over no teacher (+0.0100 to +0.0300, 3 seeds)" in said.out
    assert run_cli("inspect", either, "--json").rows[0]["accuracy"]["control"]["seeds"] == 3


def test_inspecting_needs_no_library(edge):
    code = (
        "import sys; from edgedistill_runtime.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "inspect", str(edge)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert not {"numpy", "onnxruntime", "tokenizers"} & set(done.stderr.split())


def test_a_bench_of_texts(either):
    said = run_cli(
        "bench",
        either,
        "--json",
        "--max-seconds",
        1,
        *("--cold-start-ms", 60_000) * ("int8" in str(either)),
    )
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["verdict"] == "PASS"
    assert result["latency_ms"]["runs"] >= 100


def test_json_lines(edge):
    lines = [
        {"id": "a", "input": SENTENCES[0]},
        {"id": None, "input": SENTENCES[1]},
        {"text": SENTENCES[2]},
        {"id": 4, "input": SENTENCES[3], "label": "neutral", "text": 5},
    ]
    stdin = "\n".join(map(json.dumps, lines)).encode()
    said = run_cli("predict", edge, "-", stdin=stdin)
    assert (said.code, said.err) == (0, "")
    assert [row["id"] for row in said.rows] == ["a", "-:2", "-:3", "4"]
    model = load(edge)
    assert [row["label"] for row in said.rows] == [model.predict(t).label for t in SENTENCES]
    assert said.rows[0].keys() == {"id", "label", "labels", "score", "scores", "top", "latency_ms"}
    assert said.rows[0]["labels"] == [said.rows[0]["label"]]


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"input": null}',
        b'{"input": 5}',
        b'{"input": ["good"]}',
        b'{"input": null, "text": "good"}',
        b'{"text": []}',
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b"good",
        b'"good"',
        b"[]",
    ],
)
def test_a_bad_line_is_an_error_and_the_others_are_answered(edge, line):
    good = b'{"input": "good"}'
    said = run_cli("predict", edge, "-", stdin=b"\n".join([good, line, good]))
    assert (said.code, said.err) == (2, "")
    first, bad, last = said.rows
    assert first["label"] == last["label"]
    assert bad.keys() == {"id", "error"}
    assert '-:2: not {"id": …, "input": text}' in bad["error"]


def test_a_file_of_texts_has_a_text_a_line(edge, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffit was good\r\n\n  \nthe day was bad!\nčć".encode() + b"\n\xff\n")
    said = run_cli("predict", edge, path)
    assert said.code == 2
    assert [row["id"] for row in said.rows] == [f"{path}:{n}" for n in (1, 4, 5, 6)]
    model = load(edge)
    for row, text in zip(said.rows, ["it was good", "the day was bad!", "čć"], strict=False):
        assert row["scores"] == model.predict(text).scores
    assert "not UTF-8" in said.rows[3]["error"]


def test_a_folder_of_texts(edge, tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name} good\n")
    (tmp_path / "x.npy").write_bytes(b"")
    said = run_cli("predict", edge, tmp_path)
    assert [row["id"] for row in said.rows] == [f"{tmp_path}/{n}.txt:1" for n in "ab"]


def test_what_holds_no_texts_is_an_error(edge, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    names = ["x.npy", "x.png", "folder", "absent.txt", "absent"]
    said = run_cli("predict", edge, *(tmp_path / name for name in names))
    assert said.code == 2
    errors = [row["error"] for row in said.rows]
    assert "not what this model reads (a .txt, a .jsonl, a folder" in errors[0]
    assert "not what this model reads" in errors[1]
    assert "no .txt files in this folder" in errors[2]
    assert "No such file" in errors[3]


def test_a_model_of_images_reads_no_texts(tmp_path, pack):
    (tmp_path / "x.txt").write_text("good")
    said = run_cli("predict", pack(), tmp_path / "x.txt", "-", stdin=b'{"input": "good"}')
    assert said.code == 2
    assert "not what this model reads (a .npy, an image" in said.rows[0]["error"]
    assert "not numbers" in said.rows[1]["error"]


def test_a_missing_library_names_the_extra(edge, tmp_path):
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    (poisoned / "tokenizers.py").write_text("raise ImportError('libtok.so: not found')\n")
    for arguments in (["verify", edge], ["predict", edge, "-"], ["bench", edge]):
        done = subprocess.run(
            [sys.executable, "-m", "edgedistill_runtime", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(poisoned),
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "edgedistill-run: tokenizers cannot be imported (libtok.so: not found); "
            "install it with: pip install 'edgedistill-runtime[text]'\n"
        )


def test_a_bundle_of_images_never_imports_what_texts_need(pack):
    code = (
        "import sys; from edgedistill_runtime import load; load(sys.argv[1]).check_golden()\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(pack())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    found = set(done.stdout.split())
    assert "onnxruntime" in found
    texts_only = {"tokenizers", "edgedistill_runtime.tokenize", "edgedistill_runtime.metrics"}
    assert not texts_only & found


# --- evaluate


def labelled(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_metric_of_a_split_of_texts(edge, tmp_path):
    targets = [2, 0, 1, 1]
    rows = [
        {"input" if i else "text": text, "label": MOODS[y]}
        for i, (text, y) in enumerate(zip(SENTENCES, targets, strict=True))
    ]
    said = run_cli("evaluate", edge, labelled(tmp_path / "test.jsonl", rows), "--json")
    expected = METRICS["f1_macro"](text_answers(text_model(), SENTENCES), np.array(targets))
    assert said.code == 0, said.err
    assert said.rows[-1] == {
        "metric": "f1_macro",
        "value": pytest.approx(expected),
        "samples": 4,
    }
    assert said.sentence() == f"f1_macro {expected:.4f} over 4 samples"


@pytest.mark.parametrize("metric", METRICS)
def test_the_metric_of_a_split_with_several_labels(repack, tmp_path, metric):
    path = repack({"postprocess": [{"op": "sigmoid"}], "accuracy.metric": metric})
    given = [["positive", "neutral"], [], "negative", ["neutral"]]
    rows = [{"input": t, "label": y} for t, y in zip(SENTENCES, given, strict=True)]
    said = run_cli("evaluate", path, labelled(tmp_path / "test.jsonl", rows), "--json")
    targets = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0]])
    expected = METRICS[metric](text_answers(text_model(), SENTENCES), targets)
    assert said.rows[-1]["value"] == pytest.approx(expected)


def test_a_list_of_one_label_is_a_label(edge, tmp_path):
    rows = [{"input": "good", "label": ["positive"]}]
    assert run_cli("evaluate", edge, labelled(tmp_path / "test.jsonl", rows)).code == 0


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"input": "good", "label": "happy"}, "the label 'happy' is none of the model's"),
        ({"input": "good", "label": 2}, "the label 2 is none of the model's"),
        ({"input": "good", "label": None}, "the label None is none of the model's"),
        ({"input": "good", "label": ["neutral", "x"]}, "the label 'x' is none of the model's"),
        ({"input": "good", "label": [["neutral"]]}, "the label ['neutral'] is none of the model's"),
        ({"input": "good", "label": ["neutral", "positive"]}, "2 labels; the model's samples have"),
        ({"input": "good", "label": []}, "0 labels; the model's samples have one"),
        ({"input": "good"}, 'not {"label": name, "input": text}'),
        ({"label": "neutral"}, 'not {"label": name, "input": text}'),
        ({"input": 5, "label": "neutral"}, 'not {"label": name, "input": text}'),
        ({"input": "\ud800", "label": "neutral"}, 'not {"label": name, "input": text}'),
        ([], 'not {"label": name, "input": text}'),
    ],
)
def test_a_bad_row_of_a_split_is_named_by_file_and_line(edge, tmp_path, row, sentence):
    path = labelled(tmp_path / "test.jsonl", [{"input": "good", "label": "neutral"}, row])
    said = run_cli("evaluate", edge, path)
    assert (said.code, said.out) == (2, "")
    assert said.sentence().startswith(f"edgedistill-run: {path}:2: ")
    assert sentence in said.sentence()


def test_a_split_of_nothing_is_one_sentence(edge, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n\n")
    said = run_cli("evaluate", edge, path)
    assert (said.code, said.sentence()) == (2, f"edgedistill-run: {path}: no samples in this file")


def test_arrays_are_no_split_of_texts(edge, tmp_path):
    np.savez(tmp_path / "split.npz", x=np.array(["a"]), y=np.array([0]))
    said = run_cli("evaluate", edge, tmp_path / "split.npz")
    assert said.code == 2
    assert "the model takes texts; give a .jsonl with" in said.sentence()


def test_images_may_be_lines_too(pack, images, tmp_path):
    model = load(pack())
    rows = [{"input": x.tolist(), "label": model.predict(x).label} for x in images]
    said = run_cli("evaluate", pack(), labelled(tmp_path / "test.jsonl", rows))
    assert said.sentence() == "accuracy 1.0000 over 5 samples"
    rows[1]["input"] = rows[1]["input"][:4]
    said = run_cli("evaluate", pack(), labelled(tmp_path / "test.jsonl", rows))
    assert "test.jsonl:2: " in said.sentence()
    assert "the shape is [4, 8, 1]; the model takes [8, 8, 1]" in said.sentence()


def test_an_unknown_metric_is_one_sentence(repack, tmp_path):
    rows = [{"input": "good", "label": "neutral"}]
    path = repack({"accuracy.metric": "f1_micro"})
    said = run_cli("evaluate", path, labelled(tmp_path / "test.jsonl", rows))
    assert said.code == 2
    assert "no metric named 'f1_micro'; did you mean 'f1_macro'?" in said.sentence()


# --- hostile files


@pytest.mark.parametrize("family", hostile_texts.FAMILIES)
def test_no_file_of_this_family_is_loaded(text_parts, tmp_path, family):
    path, wrong, count = tmp_path / "model.edge", {}, 0
    for what, data in hostile_texts.FAMILIES[family](text_parts):
        path.write_bytes(data)
        said, count = run_cli("verify", path), count + 1
        if said.code != 2 or said.out or len(said.err.splitlines()) != 1 or len(said.err) > 1100:
            wrong[what] = said
    assert count >= 10
    assert not wrong, f"{len(wrong)}: {dict(list(wrong.items())[:10])}"


def test_hostile_tokenizers_in_processes_of_their_own(text_parts, tmp_path):
    """Nothing is printed behind Python's back: no panic of the library is reached."""
    path = tmp_path / "model.edge"
    for family in hostile_texts.FAMILIES.values():
        for what, data in list(family(text_parts))[::40]:
            path.write_bytes(data)
            command = [sys.executable, "-m", "edgedistill_runtime", "verify", str(path)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment()
            )
            assert done.returncode == 2, (what, done.stderr)
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("model", MODELS)
def test_a_model_with_any_byte_altered_never_crashes(text_parts, repack, model):
    good = MODELS[model]()
    for i in range(0, len(good), 3):
        altered = good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :]
        said = run_cli("verify", repack(files={"model.onnx": altered}))
        assert said.code in (0, 2)
        assert len(said.err.splitlines()) == 1


def test_a_tokenizer_with_any_byte_altered_never_crashes(repack, capfd):
    good = as_json(TOKENIZER)
    for i in range(0, len(good), 3):
        altered = good[:i] + bytes([good[i] ^ (1 << i % 7)]) + good[i + 1 :]
        said = run_cli("verify", repack(files={"tokenizer.json": altered}))
        assert said.code in (0, 2)
        assert len(said.err.splitlines()) == 1
    assert capfd.readouterr().err == ""


def test_another_tokenizer_is_found_by_the_golden_outputs(repack):
    upper = changed(normalizer__lowercase=False)
    said = run_cli("verify", repack(files={"tokenizer.json": as_json(upper)}))
    assert said.code == 2
    assert "golden outputs differ" in said.sentence()


def test_the_fixture_is_a_whole_bundle(edge, text_parts):
    assert Path(edge).read_bytes() == zip_bytes(text_parts.entries())
    manifest = bundle.read(edge).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert dataclasses.replace(manifest).to_json() == manifest.to_json()
    assert arrays.encode(np.zeros((5, 3), np.float32))[:6] == b"\x93NUMPY"
    assert os.path.getsize(edge) < 10_000
