"""The contract: what `manifest.json` must say, and what the runtime answers if it does not."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tests.runtime.runtime_support import MISSING, fields, fits

from edgedistill_runtime import manifest as contract
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.manifest import Manifest

FIELDS = list(fields())  # the first is format_version, which has sentences of its own
NAMES = [path for path, _, _ in FIELDS]


def read(parts, **changes):
    return Manifest.from_json(parts.changed(manifest=changes).manifest_json())


def refused(parts, path, value):
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(parts.changed(manifest={path: value}).manifest_json())
    return str(caught.value)


def test_a_manifest_survives_json(tiny):
    manifest, _ = tiny
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_same_manifest_is_the_same_json(tiny):
    manifest, _ = tiny
    assert dataclasses.replace(manifest).to_json() == manifest.to_json()
    assert manifest.to_json().endswith(b"}\n")


def test_text_of_any_language_survives(parts):
    labels = [*"čćđšž", "猫", "قطة", "ネコ", "😀", "a\u3000b"]
    manifest = read(parts, labels=labels)
    assert manifest.labels == tuple(labels)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_unknown_keys_are_passed_over(parts, tiny):
    manifest, _ = tiny
    changes = {"novelty": [1], "budget.noise_db": 3, "sample.sample_rate_hz": None}
    assert read(parts, **changes) == manifest


def test_a_newer_format_is_refused(parts):
    sentence = refused(parts, "format_version", contract.FORMAT_VERSION + 1)
    assert "bundle format 2 is newer than this runtime reads (1)" in sentence
    assert "pip install -U edgedistill-runtime" in sentence


def test_a_newer_format_is_refused_before_its_keys_are_read():
    with pytest.raises(BundleError, match="newer"):
        Manifest.from_json(b'{"format_version": 7, "everything": "else"}')


@pytest.mark.parametrize("value", [None, "1", 1.0, True, 0, -1, [1], MISSING])
def test_a_format_version_must_be_a_whole_number_from_1(parts, value):
    assert refused(parts, "format_version", value) == "the manifest has no format_version"


@pytest.mark.parametrize("path", [p for p, _, default in FIELDS[1:] if not default])
def test_a_missing_key_is_named(parts, path):
    where = path.replace(".0.", "[0].")
    assert refused(parts, path, MISSING) == f"the manifest lacks {where}"


@pytest.mark.parametrize("path", [p for p, _, default in FIELDS if default])
def test_a_key_with_a_default_may_be_missing(parts, path):
    read(parts, **{path: MISSING})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (path, value)
        for path, hint, _ in FIELDS[1:]
        for value in (True, "x", 1.5, [[]], [None], {"x": 1}, None)
        if not fits(hint, value)
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_key(parts, path, value):
    assert path.split(".")[0] in refused(parts, path, value)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("files.0.name", "../model.onnx", "a file with the name '../model.onnx'"),
        ("files.0.name", "/etc/passwd", "a file with the name '/etc/passwd'"),
        ("files.0.name", "Model.onnx", "a file with the name 'Model.onnx'"),
        ("files.0.name", "", "a file with the name ''"),
        ("files.0.name", ".", "a file with the name '.'"),
        ("files.0.name", "..", "a file with the name '..'"),
        ("files.0.name", "-rf", "a file with the name '-rf'"),
        ("files.0.name", "a" * 65, "a file with the name"),
        ("files.0.name", "model.onnx\n", "has a control character"),
        ("files.0.name", "manifest.json", "a file with the name 'manifest.json'"),
        ("files.0.name", "manifest.sig", "a file with the name 'manifest.sig'"),
        ("files.0.name", "golden_inputs.npy", "lists a file twice"),
        ("files.0.size", -1, "a size of -1 bytes"),
        ("files.0.size", 1 << 40, "a size of 1099511627776 bytes"),
        ("files.0.sha256", "A" * 64, "is not a SHA-256"),
        ("files.0.sha256", "0" * 63, "is not a SHA-256"),
        ("model", "absent.onnx", "refers to 'absent.onnx', which it does not list"),
        ("golden.inputs", "absent.npy", "refers to 'absent.npy'"),
        ("golden.outputs", "absent.npy", "refers to 'absent.npy'"),
        ("golden.count", 0, "number of golden samples is 0"),
        ("golden.count", 1025, "number of golden samples is 1025"),
        ("golden.atol", -0.1, "golden tolerance is -0.1"),
        ("sample.dtype", "object", "images are 'object', not uint8"),
        ("sample.dtype", "float64", "images are 'float64', not uint8"),
        ("sample.shape", [8, 0, 1], "the shape [8, 0, 1]"),
        ("sample.shape", [8, -8, 1], "the shape [8, -8, 1]"),
        ("sample.shape", [1 << 20, 1 << 20, 1], "the shape"),
        ("sample.shape", [1] * 9, "the shape"),
        ("sample.shape", [8, 8], "images have the shape [8, 8]"),
        ("sample.shape", [8, 8, 4], "images have the shape [8, 8, 4]"),
        ("inputs", [], "no input or no output"),
        ("outputs", [], "no input or no output"),
        ("outputs.0.dtype", "int8", "must be float32 [1, labels]"),
        ("outputs.0.shape", [10], "must be float32 [1, labels]"),
        ("outputs.0.shape", [2, 10], "must be float32 [1, labels]"),
        ("labels", ["a"], "there are 1 labels"),
        ("labels", ["a"] * 10, "two classes the same label"),
        ("backend.threads", 0, "number of threads is 0"),
        ("backend.threads", 1000, "number of threads is 1000"),
        ("budget.percentile", 100, "percentile is 100"),
        ("budget.latency_ms", 0, "budget.latency_ms is 0; a limit is over 0"),
        ("budget.size_mib", -1.5, "budget.size_mib is -1.5; a limit is over 0"),
        ("board.models", ["Raspberry Pi 4", ""], "board.models has an empty text"),
        ("version", -1, "version is -1"),
        ("preprocess", [{"op": "channels_first"}] * 17, "preprocessing steps is 17"),
        ("postprocess", [{"op": "softmax"}] * 17, "postprocessing steps is 17"),
    ],
)
def test_a_value_out_of_range_is_named(parts, path, value, sentence):
    assert sentence in refused(parts, path, value)


def test_more_than_64_files_are_refused(parts):
    files = [{"name": f"f{i}", "size": 0, "sha256": "0" * 64} for i in range(65)]
    assert "lists 65 files" in refused(parts, "files", files)


def test_more_than_2_gib_in_all_are_refused(parts):
    """Each file could be allowed; together they would not fit the zip's 32 bits."""
    files = [{"name": f"f{i}", "size": 1 << 30, "sha256": "0" * 64} for i in range(3)]
    assert "bytes" in refused(parts, "files", files)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"format_version": 1, "format_version": 1}', "a key stands twice"),
        (b'{"format_version": 1, "x": {"y": 1, "y": 2}}', "a key stands twice"),
        (b'{"format_version": NaN}', "NaN is not a finite number"),
        (b'{"format_version": 1, "x": -Infinity}', "-Infinity is not a finite number"),
        (b'{"format_version": 1, "x": 1e999}', "1e999 is not a finite number"),
        (b'{"format_version": 9223372036854775808}', "does not fit 64 bits"),
        (b'{"format_version": 1, "x": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"format_version": 1, "x": "\\ud800"}', "not valid JSON"),
        (b'{"format_version": 1, "\\ud800": 1}', "not valid JSON"),
        (b'{"format_version": 1, "x": "\\u001b[2J"}', "a control character"),
        (b'{"format_version": 1, "x": "a\\nPASS: within the budget"}', "a control character"),
        (b'{"format_version": 1, "x": "' + b"a" * 5000 + b'"}', "a text of 5000 characters"),
        (b'{"format_version": 1, "x": ' + b"[" * 17 + b"]" * 17 + b"}", "nested more than 16 deep"),
        (b'{"format_version": 1, "x": ' + b"[" * 400_000 + b"}", "not valid JSON"),
        (b'{"x": ' * 100_000, "not valid JSON"),
        (b" " * (1 << 20) + b"{}", "at most 1048576"),
    ],
)
def test_json_that_others_read_otherwise_is_refused(text, sentence):
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(text)
    assert sentence in str(caught.value)


def test_whole_numbers_are_taken_where_a_fraction_may_stand(parts):
    assert read(parts, **{"budget.latency_ms": 7}).budget.latency_ms == 7.0


def test_a_limit_may_be_left_out(parts):
    assert read(parts, **{"budget.latency_ms": None}).budget.latency_ms is None


def test_every_field_is_covered_here():
    assert len(NAMES) == len(set(NAMES)) > 50


def test_a_manifest_full_of_files_is_refused_in_a_moment(parts, pack):
    files = [{"name": "", "size": 0, "sha256": ""}] * 25_000
    text = parts.changed(manifest={"files": []}).manifest
    text["files"] = files
    with pytest.raises(BundleError, match="lists 25000 files"):
        Manifest.from_json(json.dumps(text).encode())


# --- kinds of samples

RESIZE = {"op": "resize", "height": 8, "width": 8, "fit": "crop"}
KINDS = {
    "image": {"dtype": "uint8", "shape": [-1, -1, 3]},
    "audio": {"dtype": "int16", "shape": [16000], "rate_hz": 16000, "hop": 8000},
    "sensor": {"dtype": "float32", "shape": [6, 128]},
}


def of_kind(parts, kind, **changes):
    """A manifest of samples of a kind, with other values of its sample or of its steps."""
    steps = changes.pop("preprocess", [RESIZE])
    sample = {"kind": kind, **KINDS[kind], **changes}
    return Manifest.from_json(
        parts.changed(manifest={"sample": sample, "preprocess": steps}).manifest_json()
    )


def test_old_samples_have_neither_rate_nor_hop(parts):
    old = {"kind": "image", "dtype": "uint8", "shape": [8, 8, 1]}
    sample = read(parts, sample=old).sample
    assert (sample.rate_hz, sample.hop, sample.any_size) == (None, None, False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sample_survives_json(parts, kind):
    manifest = of_kind(parts, kind)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.sample.kind == kind


def test_golden_images_of_any_size_have_the_size_of_the_first_step(parts):
    manifest = of_kind(parts, "image", preprocess=[{**RESIZE, "height": 24, "width": 32}])
    assert manifest.sample.any_size
    assert manifest.golden_shape == (24, 32, 3)
    assert of_kind(parts, "audio").golden_shape == (16000,)
    assert of_kind(parts, "sensor").golden_shape == (6, 128)
    assert read(parts).golden_shape == (8, 8, 1)


@pytest.mark.parametrize("hop", [None, 1, 16000, 40000])
@pytest.mark.parametrize("rate_hz", [1, 8000.0, 44100, 192_000])
def test_audio_has_a_whole_rate_and_perhaps_a_hop(parts, hop, rate_hz):
    sample = of_kind(parts, "audio", rate_hz=rate_hz, hop=hop).sample
    assert (sample.rate_hz, sample.hop) == (rate_hz, hop)


@pytest.mark.parametrize("rate_hz", [None, 0.1, 12.5, 50])
def test_a_sensor_may_have_a_rate(parts, rate_hz):
    assert of_kind(parts, "sensor", rate_hz=rate_hz, hop=64).sample.rate_hz == rate_hz


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("image", {"shape": [-1, 8, 3]}, "the shape [-1, 8, 3]"),
        ("image", {"shape": [8, -1, 3]}, "the shape [8, -1, 3]"),
        ("image", {"shape": [-1, -1, -1]}, "the shape [-1, -1, -1], not [height, width, 1 or 3"),
        ("image", {"shape": [-1, -1]}, "the shape [-1, -1], not [height, width, 1 or 3"),
        ("image", {"shape": [-1, -1, 4]}, "the shape [-1, -1, 4]"),
        ("image", {"dtype": "int16"}, "images are 'int16', not uint8"),
        ("image", {"rate_hz": 30}, "sample.rate_hz is 30; only audio and sensors have one"),
        ("image", {"hop": 1}, "sample.hop is 1; only audio and sensors have one"),
        ("image", {"preprocess": []}, "not 'resize' with a height and a width"),
        ("image", {"preprocess": [{"op": "normalize"}, RESIZE]}, "not 'resize' with a height"),
        ("image", {"preprocess": [{"op": "resize"}]}, "not 'resize' with a height and a width"),
        ("image", {"preprocess": [{**RESIZE, "height": 0}]}, "at least 1"),
        ("image", {"preprocess": [{**RESIZE, "width": -1}]}, "at least 1"),
        ("image", {"preprocess": [{**RESIZE, "width": 8.0}]}, "at least 1"),
        ("image", {"preprocess": [{**RESIZE, "width": True}]}, "at least 1"),
        ("image", {"preprocess": [{**RESIZE, "width": 1 << 40}]}, "the shape [8, 1099511627776"),
        ("audio", {"dtype": "float32"}, "audio is 'float32' of shape [16000], not int16"),
        ("audio", {"shape": [2, 16000]}, "audio is 'int16' of shape [2, 16000], not int16 of"),
        ("audio", {"shape": []}, "not int16 of shape [samples]"),
        ("audio", {"shape": [0]}, "the shape [0]"),
        ("audio", {"shape": [-1]}, "the shape [-1]"),
        ("audio", {"shape": [1 << 40]}, "the shape [1099511627776]"),
        ("audio", {"rate_hz": None}, "sample.rate_hz is missing; audio has a whole number"),
        ("audio", {"rate_hz": 16000.5}, "sample.rate_hz is 16000.5; audio has a whole number"),
        ("audio", {"rate_hz": 0}, "sample.rate_hz is 0; a rate is over 0"),
        ("audio", {"rate_hz": -16000}, "sample.rate_hz is -16000; a rate is over 0"),
        ("audio", {"rate_hz": 1e300}, "sample.rate_hz is 1e+300; a rate is over 0 and at most"),
        ("audio", {"hop": 0}, "sample.hop is 0, not 1 to 268435456, or null"),
        ("audio", {"hop": -1}, "sample.hop is -1"),
        ("audio", {"hop": 1 << 40}, "sample.hop is 1099511627776"),
        (
            "audio",
            {"preprocess": [{"op": "log_mel", "rate_hz": 8000}]},
            "audio has 16000 samples a second, and its step 'log_mel' takes 8000",
        ),
        ("audio", {"preprocess": [{"op": "log_mel"}]}, "its step 'log_mel' takes None"),
        ("sensor", {"dtype": "float64"}, "sensor data is 'float64' of shape [6, 128], not float32"),
        ("sensor", {"shape": [128]}, "not float32 of shape [channels, steps]"),
        ("sensor", {"shape": [6, 1, 128]}, "not float32 of shape [channels, steps]"),
        ("sensor", {"shape": [6, -1]}, "the shape [6, -1]"),
        ("sensor", {"shape": [0, 128]}, "the shape [0, 128]"),
        ("sensor", {"rate_hz": 0}, "sample.rate_hz is 0; a rate is over 0"),
        ("sensor", {"hop": 0}, "sample.hop is 0"),
    ],
)
def test_a_sample_that_cannot_be_is_named(parts, kind, changes, sentence):
    with pytest.raises(BundleError) as caught:
        of_kind(parts, kind, **changes)
    assert sentence in str(caught.value)
