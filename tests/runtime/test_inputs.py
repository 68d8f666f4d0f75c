"""`predict` and `evaluate` on files of every kind: recordings, tables, lines, folders, splits."""

from __future__ import annotations

import json
import wave

import numpy as np
import pytest
from tests.runtime.runtime_support import (
    KINDS,
    LABELS,
    RATE_HZ,
    WINDOW,
    kind_manifest,
    kind_samples,
    run_cli,
)

from edgedistill_runtime import bundle, load

HOP, STEPS = 800, 8


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    """The paths of good bundles, by kind."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        bundle.write(folder / f"{kind}.edge", *kind_manifest(kind))
    return {kind: folder / f"{kind}.edge" for kind in KINDS}


@pytest.fixture(scope="module")
def models(edges):
    return {kind: load(path) for kind, path in edges.items()}


def write_wav(path, samples, rate_hz=RATE_HZ):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def write_csv(path, recording):
    """recording: (channels, steps)."""
    lines = [",".join(f"c{i}" for i in range(len(recording)))]
    lines += [",".join(repr(float(v)) for v in step) for step in recording.T]
    path.write_text("\n".join(lines) + "\n")


def scores(model, samples):
    return [model.predict(np.ascontiguousarray(x)).scores for x in samples]


def recording(windows, last, seed=1):
    """PCM of whole windows by their hop, and `last` samples more."""
    count = WINDOW + (windows - 1) * HOP + last
    return kind_samples("audio", -(-count // WINDOW), seed).reshape(-1)[:count]


# --- audio


def test_a_recording_of_one_window_has_the_name_of_its_file(edges, models, tmp_path):
    pcm = recording(1, 0)
    write_wav(tmp_path / "x.wav", pcm)
    np.save(tmp_path / "x.npy", pcm)
    said = run_cli("predict", edges["audio"], tmp_path / "x.wav", tmp_path / "x.npy")
    assert (said.code, said.err) == (0, "")
    assert [row["id"] for row in said.rows] == [f"{tmp_path}/x.wav", f"{tmp_path}/x.npy"]
    assert [row["scores"] for row in said.rows] == scores(models["audio"], [pcm, pcm])


@pytest.mark.parametrize("suffix", ["wav", "npy", "WAV"])
def test_a_longer_recording_is_answered_window_by_window(edges, models, tmp_path, suffix):
    pcm, path = recording(3, 0), tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, pcm)
    else:
        write_wav(path, pcm)
    said = run_cli("predict", edges["audio"], path)
    assert said.code == 0
    assert [row["id"] for row in said.rows] == [f"{path}[{i}]" for i in range(3)]
    cut = [pcm[i * HOP :][:WINDOW] for i in range(3)]
    assert [row["scores"] for row in said.rows] == scores(models["audio"], cut)


def test_a_short_recording_is_padded_with_silence(edges, models, tmp_path):
    pcm = recording(1, 0)[:100]
    write_wav(tmp_path / "x.wav", pcm)
    said = run_cli("predict", edges["audio"], tmp_path / "x.wav")
    padded = np.concatenate([pcm, np.zeros(WINDOW - 100, np.int16)])
    assert [row["scores"] for row in said.rows] == scores(models["audio"], [padded])


def test_another_rate_is_refused_with_the_one_that_is_wanted(edges, tmp_path):
    write_wav(tmp_path / "x.wav", recording(1, 0), 44100)
    said = run_cli("predict", edges["audio"], tmp_path / "x.wav")
    assert said.code == 2
    [row] = said.rows
    assert "has 44100 samples a second and the model takes 8000; resample it" in row["error"]


def test_several_recordings_of_one_window_in_an_array(edges, models, tmp_path):
    samples = kind_samples("audio", 3, 5)
    np.save(tmp_path / "x.npy", samples)
    said = run_cli("predict", edges["audio"], tmp_path / "x.npy")
    assert [row["id"] for row in said.rows] == [f"{tmp_path}/x.npy[{i}]" for i in range(3)]
    assert [row["scores"] for row in said.rows] == scores(models["audio"], samples)


def test_big_endian_arrays_are_read(edges, models, tmp_path):
    pcm = recording(1, 0)
    np.save(tmp_path / "x.npy", pcm.astype(">i2"))
    said = run_cli("predict", edges["audio"], tmp_path / "x.npy")
    assert [row["scores"] for row in said.rows] == scores(models["audio"], [pcm])


def test_what_is_no_audio_is_an_error_and_the_others_are_answered(edges, tmp_path):
    write_wav(tmp_path / "good.wav", recording(1, 0))
    write_wav(tmp_path / "empty.wav", np.zeros(0))
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:30])
    np.save(tmp_path / "float.npy", np.zeros(WINDOW))
    np.save(tmp_path / "empty.npy", np.zeros(0, np.int16))
    np.save(tmp_path / "shape.npy", np.zeros((2, 100), np.int16))
    np.save(tmp_path / "scalar.npy", np.int16(3))
    (tmp_path / "x.csv").write_text("a\n1\n")
    (tmp_path / "folder").mkdir()
    bad = ["empty.wav", "text.wav", "cut.wav", "absent.wav", "float.npy", "empty.npy", "shape.npy"]
    paths = [tmp_path / name for name in [*bad, "scalar.npy", "x.csv", "folder"]]
    said = run_cli("predict", edges["audio"], *paths, tmp_path / "good.wav")
    assert (said.code, said.err) == (2, "")
    *errors, good = said.rows
    assert good["label"] in LABELS
    assert [row["id"] for row in errors] == list(map(str, paths))
    assert all(row.keys() == {"id", "error"} for row in errors)
    found = dict(zip([path.name for path in paths], errors, strict=True))
    assert "float64; the model takes audio as int16, at 8000" in found["float.npy"]["error"]
    assert "[2, 100]; the model takes [1600], or several" in found["shape.npy"]["error"]
    assert "not what this model reads (a .wav, a .npy, a .jsonl" in found["x.csv"]["error"]
    assert "no .wav and no .npy files in this folder" in found["folder"]["error"]


# --- sensors


def test_a_table_is_a_recording_of_a_sensor(edges, models, tmp_path):
    signal = kind_samples("sensor", 1, 3)[0]
    write_csv(tmp_path / "x.csv", signal)
    said = run_cli("predict", edges["sensor"], tmp_path / "x.csv")
    assert (said.code, said.err) == (0, "")
    assert [row["id"] for row in said.rows] == [str(tmp_path / "x.csv")]
    assert [row["scores"] for row in said.rows] == scores(models["sensor"], [signal])


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_a_longer_recording_of_a_sensor_is_cut_into_windows(edges, models, tmp_path, suffix):
    signal, path = np.concatenate(kind_samples("sensor", 2, 3), 1), tmp_path / f"x.{suffix}"
    write_csv(path, signal) if suffix == "csv" else np.save(path, signal)
    said = run_cli("predict", edges["sensor"], path)
    assert [row["id"] for row in said.rows] == [f"{path}[{i}]" for i in range(3)]
    cut = [signal[:, i * 4 :][:, :STEPS] for i in range(3)]
    assert [row["scores"] for row in said.rows] == scores(models["sensor"], cut)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, ">f4"])
def test_numbers_of_any_type_become_single_precision(edges, models, tmp_path, dtype):
    signal = np.round(kind_samples("sensor", 1, 3)[0] * 100).astype(dtype)
    np.save(tmp_path / "x.npy", signal)
    np.save(tmp_path / "many.npy", signal[None])
    said = run_cli("predict", edges["sensor"], tmp_path / "x.npy", tmp_path / "many.npy")
    expected = scores(models["sensor"], [signal.astype(np.float32)])
    assert [row["scores"] for row in said.rows] == expected * 2
    assert said.rows[1]["id"] == f"{tmp_path}/many.npy[0]"


def test_a_table_may_have_a_mark_in_front_and_blank_lines(edges, models, tmp_path):
    signal = kind_samples("sensor", 1, 3)[0]
    write_csv(tmp_path / "x.csv", signal)
    text = (tmp_path / "x.csv").read_text().replace("\n", "\r\n\r\n")
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    said = run_cli("predict", edges["sensor"], tmp_path / "x.csv")
    assert [row["scores"] for row in said.rows] == scores(models["sensor"], [signal])


HEADER = "a,b,c,d,e,f,g,h\n"
ROW = "1,2,3,4,5,6,7,8\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "x.csv: an empty file; a .csv has a header line"),
        (HEADER, "x.csv: no steps below the header line"),
        (HEADER + ROW + "1,2,3\n", "x.csv:3: 3 columns; the model takes 8, one a channel"),
        (HEADER + "1,2,3,4,5,6,7,8,9\n", "x.csv:2: 9 columns; the model takes 8"),
        (HEADER + ROW + ROW + "1,2,3,4,x,6,7,8\n", "x.csv:4: not a number"),
        (HEADER + "1,2,3,4,,6,7,8\n", "x.csv:2: not a number"),
        (HEADER + "1,2,3,4,nan,6,7,8\n", "x.csv:2: a value that is not a finite number"),
        (HEADER + "1,2,3,4,-inf,6,7,8\n", "x.csv:2: a value that is not a finite number"),
        (HEADER + "1,2,3,4,1e300,6,7,8\n", "not finite numbers"),
        (HEADER + "1;2;3;4;5;6;7;8\n", "x.csv:2: 1 columns; the model takes 8"),
        (HEADER + '"' + "1" * 200_000 + '",2\n', "x.csv: not a readable .csv file"),
        (HEADER + "\udcff,2\n", "x.csv: not a readable .csv file"),
    ],
)
def test_a_table_that_is_no_recording_is_one_sentence(edges, tmp_path, text, sentence):
    (tmp_path / "x.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    said = run_cli("predict", edges["sensor"], tmp_path / "x.csv")
    assert (said.code, said.err) == (2, "")
    [row] = said.rows
    assert sentence in row["error"]
    assert "\n" not in row["error"]


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((3, 8)), "[3, 8]; the model takes 8 channels, [8, steps]"),
        (np.zeros((2, 8, 9)), "[2, 8, 9]; the model takes [8, 8], or several of them"),
        (np.zeros(8), "[8]; the model takes [8, 8], or several"),
        (np.zeros((8, 0)), "an empty recording"),
        (np.zeros((8, 8), complex), "complex128; the model takes real numbers"),
        (np.zeros((8, 8), bool), "bool; the model takes real numbers"),
        (np.full((8, 8), np.nan), "values that are not finite numbers (NaN or infinity)"),
        (np.full((8, 8), -np.inf), "values that are not finite numbers (NaN or infinity)"),
        (np.full((8, 8), 1e300), "values that are not finite numbers (NaN or infinity)"),
    ],
)
def test_an_array_that_is_no_recording_is_one_sentence(edges, tmp_path, array, sentence):
    np.save(tmp_path / "x.npy", array)
    said = run_cli("predict", edges["sensor"], tmp_path / "x.npy")
    assert (said.code, said.err) == (2, "")
    assert sentence in said.rows[0]["error"]


# --- images of any size


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (5, 30), (64, 48)])
def test_images_of_any_size_are_answered(edges, models, tmp_path, size):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(7).integers(0, 256, (*size, 1), np.uint8)
    pillow.fromarray(pixels[..., 0]).save(tmp_path / "x.png")
    np.save(tmp_path / "one.npy", pixels)
    np.save(tmp_path / "many.npy", pixels[None])
    line = json.dumps({"input": pixels.tolist()}).encode()
    names = [tmp_path / name for name in ("x.png", "one.npy", "many.npy")]
    said = run_cli("predict", edges["any_size"], *names, "-", stdin=line)
    assert (said.code, said.err) == (0, "")
    assert [row["scores"] for row in said.rows] == scores(models["any_size"], [pixels]) * 4


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (0, 8, 1), (2, 0, 0, 1)])
def test_what_is_no_image_of_any_size_is_an_error(edges, tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    said = run_cli("predict", edges["any_size"], tmp_path / "x.npy")
    assert said.code == 2
    assert "the model takes" in said.rows[0]["error"]
    assert "[height, width, 1]" in said.rows[0]["error"]


def test_an_image_of_more_than_64_megapixels_is_an_error(edges, tmp_path):
    header = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (10_000, 10_000, 1))
    del header  # a file of zeros, which takes no room
    said = run_cli("predict", edges["any_size"], tmp_path / "x.npy")
    assert said.code == 2
    assert "100000000 pixels, more than 67108864 (64 megapixels)" in said.rows[0]["error"]


# --- lines, folders, splits


@pytest.mark.parametrize("kind", KINDS)
def test_json_lines_of_every_kind(edges, models, kind):
    samples = kind_samples(kind, 2, 9)
    lines = [json.dumps({"id": i, "input": x.tolist()}) for i, x in enumerate(samples)]
    said = run_cli("predict", edges[kind], "-", stdin="\n".join(lines).encode())
    assert (said.code, said.err) == (0, "")
    assert [row["id"] for row in said.rows] == ["0", "1"]
    assert [row["scores"] for row in said.rows] == scores(models[kind], samples)


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("audio", [0] * 1599, "the shape is [1599]; the model takes [1600]"),
        ("audio", [0.5] * WINDOW, "values that int16 cannot hold"),
        ("audio", [40_000] * WINDOW, "values that int16 cannot hold"),
        ("sensor", [[0.5] * 8] * 7, "the shape is [7, 8]; the model takes [8, 8]"),
        ("sensor", [[float("nan")] * 8] * 8, "values that are not finite numbers"),
        ("sensor", [[1e300] * 8] * 8, "values that are not finite numbers"),
        ("any_size", [[0] * 8] * 8, "the shape is [8, 8]; the model takes [height, width, 1]"),
        ("any_size", [[[256]]], "values that uint8 cannot hold"),
    ],
)
def test_a_line_that_is_no_sample_is_named(edges, kind, values, sentence):
    said = run_cli("predict", edges[kind], "-", stdin=json.dumps({"input": values}).encode())
    assert said.code == 2
    assert sentence in said.rows[0]["error"]


def test_numbers_of_a_line_are_rounded_to_single_precision(edges, models):
    said = run_cli(
        "predict", edges["sensor"], "-", stdin=json.dumps({"input": [[0.1] * 8] * 8}).encode()
    )
    expected = scores(models["sensor"], [np.full((8, 8), 0.1, np.float32)])
    assert [row["scores"] for row in said.rows] == expected


def test_a_folder_of_recordings_is_read_in_the_order_of_its_names(edges, tmp_path):
    write_wav(tmp_path / "b.wav", recording(2, 0))
    write_wav(tmp_path / "a.WAV", recording(1, 0))
    np.save(tmp_path / "c.npy", recording(1, 0))
    (tmp_path / "labels.csv").write_text("passed,over\n")
    said = run_cli("predict", edges["audio"], tmp_path)
    names = ["a.WAV", "b.wav[0]", "b.wav[1]", "c.npy"]
    assert [row["id"] for row in said.rows] == [f"{tmp_path}/{name}" for name in names]
    for name in ("b", "a"):
        write_csv(tmp_path / f"{name}.csv", kind_samples("sensor", 1, 3)[0])
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "c.npy").unlink()
    said = run_cli("predict", edges["sensor"], tmp_path)
    assert [row["id"] for row in said.rows] == [f"{tmp_path}/{name}.csv" for name in "ab"]


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_a_split_of_every_kind(edges, models, tmp_path, kind):
    samples = kind_samples(kind, 5, 13)
    names = [models[kind].predict(x).label for x in samples]
    answers = [LABELS.index(name) for name in names]
    answers[0] = (answers[0] + 1) % 10
    np.savez(tmp_path / "x.npz", x=samples, y=np.array(answers))
    np.savez(tmp_path / "names.npz", x=samples, y=np.array(names))
    rows = [{"input": x.tolist(), "label": y} for x, y in zip(samples, names, strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, value in (("x.npz", 0.8), ("names.npz", 1.0), ("x.jsonl", 1.0)):
        said = run_cli("evaluate", edges[kind], tmp_path / name, "--json")
        assert said.code == 0
        assert said.rows == [{"metric": "accuracy", "value": value, "samples": 5}]


def test_images_of_a_split_may_have_another_size_than_the_golden_ones(edges, models, tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (3, 20, 12, 1), np.uint8)
    names = [models["any_size"].predict(x).label for x in images]
    np.savez(tmp_path / "x.npz", x=images, y=np.array(names))
    said = run_cli("evaluate", edges["any_size"], tmp_path / "x.npz")
    assert said.sentence() == "accuracy 1.0000 over 3 samples"


@pytest.mark.parametrize(
    ("kind", "x", "sentence"),
    [
        ("audio", np.zeros((2, WINDOW)), "x is float64 of shape [2, 1600]; the model takes int16"),
        ("audio", np.zeros((2, 9), np.int16), "[2, 9]; the model takes int16 of shape [n, 1600]"),
        ("sensor", np.zeros((2, 8, 9)), "float64 of shape [2, 8, 9]; the model takes float32 of"),
        ("sensor", np.zeros((2, 8, 8), complex), "x is complex128"),
        ("sensor", np.full((2, 8, 8), np.nan), "values that are not finite numbers"),
        ("any_size", np.zeros((2, 8, 8), np.uint8), "takes uint8 of shape [n, height, width, 1]"),
    ],
)
def test_arrays_that_are_no_split_are_one_sentence(edges, tmp_path, kind, x, sentence):
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(2, int))
    said = run_cli("evaluate", edges[kind], tmp_path / "x.npz")
    assert said.code == 2
    assert sentence in said.sentence()


def test_a_split_of_sensors_may_have_double_precision(edges, models, tmp_path):
    samples = kind_samples("sensor", 3, 1).astype(np.float64) / 3
    names = [models["sensor"].predict(x.astype(np.float32)).label for x in samples]
    np.savez(tmp_path / "x.npz", x=samples, y=np.array(names))
    said = run_cli("evaluate", edges["sensor"], tmp_path / "x.npz")
    assert said.sentence() == "accuracy 1.0000 over 3 samples"
