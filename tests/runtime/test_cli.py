"""`edgedistill-run`: what it says, where, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.runtime_support import LABELS, answers, environment, golden_images

from edgedistill_runtime import __version__, arrays, load

COMMANDS = ["bench", "predict", "evaluate", "inspect", "verify"]


def process(*arguments, env=None, **options):
    """`edgedistill-run ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-m", "edgedistill_runtime", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=env or environment(),
        **options,
    )


def imported_by(*arguments):
    """The modules that `edgedistill-run ARGUMENTS` has imported when it ends."""
    code = (
        "import sys; from edgedistill_runtime.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return {name.partition(".")[0] for name in done.stderr.split()}


# --- the command line itself


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_on_stdout_and_exits_0(run, command):
    shown = run(*filter(None, [command]), "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("Usage: edgedistill-run")


def test_the_version_is_the_packages(run):
    assert __version__ in run("--version").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing command"),
        (["fly"], "No such command 'fly'"),
        (["verify"], "Missing argument 'BUNDLE'"),
        (["predict", "model.edge"], "Missing argument 'INPUTS...'"),
        (["verify", "--fast", "model.edge"], "No such option"),
        (["bench", "model.edge", "--latency-ms", "fast"], "'fast' is not a valid float"),
        (["bench", "model.edge", "--latency-ms", "0"], "--latency-ms: a limit must be over 0"),
        (["bench", "model.edge", "--peak-ram-mib", "-1"], "a limit must be over 0"),
        (["bench", "model.edge", "--size-mib", "nan"], "a limit must be over 0"),
        (["bench", "model.edge", "--cold-start-ms", "inf"], "a limit must be over 0"),
        (["bench", "model.edge", "--percentile", "100"], "percentile"),
    ],
)
def test_bad_usage_is_one_sentence_and_exits_2(run, arguments, sentence):
    said = run(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.sentence().startswith("edgedistill-run: ")
    assert sentence in said.sentence()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_does_not_exist_is_one_sentence_and_exits_2(run, tmp_path, command):
    said = run(command, tmp_path / "absent.edge", *["-"] * (command in ("predict", "evaluate")))
    assert said.code == 2
    assert said.sentence() == f"edgedistill-run: {tmp_path}/absent.edge: No such file or directory"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_bundle_is_one_sentence_and_exits_2(run, pack, command):
    path = pack(raw=b"no bundle" * 100)
    said = run(command, path, *["-"] * (command in ("predict", "evaluate")))
    assert said.code == 2
    assert said.sentence() == f"edgedistill-run: {path}: not a bundle (it does not begin as one)"


def test_help_imports_neither_numpy_nor_an_engine():
    for arguments in (["--help"], ["bench", "--help"], ["predict", "--help"]):
        assert not imported_by(*arguments) & {"numpy", "onnxruntime", "PIL"}


def test_inspecting_needs_no_engine(edge):
    assert not imported_by("inspect", edge) & {"numpy", "onnxruntime"}


def test_what_a_board_does_not_have_is_never_imported(edge, tmp_path, images):
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "split.npz", x=images, y=np.zeros(5, int))
    heavy = {"torch", "transformers", "edgedistill", "onnx", "onnxslim", "sklearn", "msgspec"}
    assert not imported_by("predict", edge, tmp_path / "x.npy") & heavy
    assert not imported_by("evaluate", edge, tmp_path / "split.npz") & heavy
    assert not imported_by("verify", edge) & heavy


def test_a_missing_engine_names_the_extra(edge, tmp_path):
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    (poisoned / "onnxruntime.py").write_text("raise ImportError('libonnx.so: not found')\n")
    for arguments in (["verify", edge], ["predict", edge, "-"], ["bench", edge]):
        said = process(*arguments, env=environment(poisoned), stdin=subprocess.DEVNULL)
        assert (said.returncode, said.stdout) == (2, "")
        assert said.stderr == (
            "edgedistill-run: onnxruntime cannot be imported (libonnx.so: not found); "
            "install it with: pip install 'edgedistill-runtime[onnx]'\n"
        )


def test_a_reader_that_stops_reading_is_no_error_and_no_verdict(edge, tmp_path):
    np.save(tmp_path / "x.npy", np.repeat(golden_images(), 1000, 0))
    command = [sys.executable, "-m", "edgedistill_runtime", "predict", edge, tmp_path / "x.npy"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment()) as child:
        assert json.loads(child.stdout.readline())["label"]
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141  # what a shell says of a program that SIGPIPE ended


# --- verify and inspect


def test_a_good_bundle_verifies(run, either_edge):
    said = run("verify", either_edge, "--json")
    assert said.code == 0
    assert "3 files as packed; 4 golden outputs within" in said.sentence()
    assert said.rows[-1].keys() == {"id", "golden_difference"}
    assert said.rows[-1]["id"] == load(either_edge).bundle_id


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_golden_outputs_that_disagree_exit_2(run, pack, tiny, command):
    shifted = arrays.encode(answers(tiny[1]["model.onnx"], golden_images()) + 1)
    said = run(command, pack(files={"golden_outputs.npy": shifted}))
    assert said.code == 2
    assert "golden outputs differ by 1, at most 0.01 is allowed" in said.sentence()


def test_inspect_says_what_a_bundle_promises(run, edge):
    said = run("inspect", edge)
    assert (said.code, said.err) == (0, "")
    for expected in ("tiny, version 3", "rpi4: latency_ms 1000", "uint8 [8, 8, 1]", "signed    no"):
        assert expected in said.out


def test_inspect_as_json_is_the_manifest_and_its_id(run, edge, parts):
    row = run("inspect", edge, "--json").rows[-1]
    assert row.pop("id") == load(edge).bundle_id
    assert row == parts.manifest


# --- predict


@pytest.fixture
def expected(edge, images):
    return [load(edge).predict(image).label for image in images]


def test_an_array_file_of_one_sample(run, edge, images, tmp_path, expected):
    path = tmp_path / "one.npy"
    np.save(path, images[0])
    said = run("predict", edge, path)
    assert (said.code, said.err) == (0, "")
    [row] = said.rows
    assert row.keys() == {"id", "label", "labels", "score", "scores", "top", "latency_ms"}
    assert row["top"] == [[row["label"], row["score"]]]
    assert (row["id"], row["label"]) == (str(path), expected[0])
    assert row["labels"] == [expected[0]]
    assert row["scores"].keys() == set(LABELS)


def test_an_array_file_of_several_samples(run, edge, images, tmp_path, expected):
    path = tmp_path / "many.npy"
    np.save(path, images)
    said = run("predict", edge, path)
    assert [row["label"] for row in said.rows] == expected
    assert [row["id"] for row in said.rows] == [f"{path}[{i}]" for i in range(5)]


def test_json_lines(run, edge, images, tmp_path, expected):
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"id": f"n{i}", "input": x.tolist()}) for i, x in enumerate(images)]
    path.write_text("\n\n".join(lines))
    for said in (run("predict", edge, path), run("predict", edge, "-", stdin=path.read_bytes())):
        assert said.code == 0
        assert [row["label"] for row in said.rows] == expected
        assert [row["id"] for row in said.rows] == ["n0", "n1", "n2", "n3", "n4"]


def test_json_lines_without_an_id_are_named_by_their_line(run, edge, images):
    line = json.dumps({"input": images[0].tolist()}).encode()
    said = run("predict", edge, "-", stdin=b"\n" + line + b"\n" + line)
    assert [row["id"] for row in said.rows] == ["-:2", "-:3"]


def test_a_folder_is_read_in_the_order_of_its_names(run, edge, images, tmp_path, expected):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (3, 1, 4, 0, 2):
        np.save(folder / f"{i}.npy", images[i])
    (folder / "readme.txt").write_text("not for a model")
    said = run("predict", edge, folder)
    assert [row["label"] for row in said.rows] == expected


def test_several_inputs_are_answered_in_their_order(run, edge, images, tmp_path, expected):
    for i in (0, 1):
        np.save(tmp_path / f"{i}.npy", images[i])
    said = run("predict", edge, tmp_path / "1.npy", tmp_path / "0.npy")
    assert [row["label"] for row in said.rows] == [expected[1], expected[0]]


IMAGE = [[[0]] * 8] * 8
BAD_LINES = [
    b"not json",
    b"[]",
    b"3",
    b"null",
    b'"text"',
    b"{}",
    b'{"input": null}',
    b'{"input": "text"}',
    b'{"input": []}',
    b'{"input": {}}',
    b'{"input": 5}',
    b'{"input": [[1, 2], [3]]}',
    b'{"input": [[["1"]]]}',
    b'{"input": [[[true]]]}',
    json.dumps({"input": [[[256]] * 8] * 8}).encode(),
    json.dumps({"input": [[[-1]] * 8] * 8}).encode(),
    json.dumps({"input": [[[0.5]] * 8] * 8}).encode(),
    json.dumps({"input": [[[1e300]] * 8] * 8}).encode(),
    json.dumps({"input": [[[float("nan")]] * 8] * 8}).encode(),
    json.dumps({"input": [[[float("inf")]] * 8] * 8}).encode(),
    json.dumps({"input": [[[10**400, 0.5]] * 8] * 8}).encode(),
    json.dumps({"input": IMAGE[:7]}).encode(),
    json.dumps({"input": [IMAGE]}).encode(),
    b'{"input": ' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"input": ' + b"[" * 100_000,
    b'{"id": {"input": 1}}',
    b'\xff\xfe{"input": []}',
    b'{"id": "\xff"}',
    b"\x00",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_an_error_and_the_others_are_answered(run, edge, images, expected, line):
    good = [json.dumps({"id": i, "input": images[i].tolist()}).encode() for i in (0, 1)]
    said = run("predict", edge, "-", stdin=b"\n".join([good[0], line, good[1]]))
    assert (said.code, said.err) == (2, "")
    first, bad, last = said.rows
    assert [first["label"], last["label"]] == expected[:2]
    assert bad.keys() == {"id", "error"}
    assert bad["error"]


def test_a_bad_input_is_an_error_and_the_others_are_answered(run, edge, images, tmp_path, expected):
    np.save(tmp_path / "good.npy", images[0])
    np.save(tmp_path / "shape.npy", images[0][:4])
    np.save(tmp_path / "dtype.npy", images[0].astype(np.float64))
    np.save(tmp_path / "object.npy", np.array([None], object), allow_pickle=True)
    np.savez(tmp_path / "archive", x=images)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    lying = arrays.encode(images[0]).replace(b"(8, 8, 1), }   ", b"(8, 8, 9000000), }")
    (tmp_path / "lying.npy").write_bytes(lying)
    huge = arrays.encode(images[0]).replace(
        b"(8, 8, 1), }" + b" " * 10, b"(99999999999999999999,)}"
    )
    (tmp_path / "huge.npy").write_bytes(huge)
    bad = ["shape", "dtype", "object", "archive", "empty", "zip", "lying", "huge", "absent"]
    names = [*(f"{name}.npy" for name in bad), "notes.txt", "folder", "absent.jsonl", "absent"]
    paths = [tmp_path / name for name in names]
    said = run("predict", edge, *paths, tmp_path / "good.npy")
    assert (said.code, said.err) == (2, "")
    *errors, good = said.rows
    assert good["label"] == expected[0]
    assert [row["id"] for row in errors] == list(map(str, paths))
    assert all(row.keys() == {"id", "error"} and row["error"] for row in errors)


def test_an_unreadable_name_is_still_json(edge, images, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.npy"  # Latin-1, as on an old USB stick
    with open(path, "wb") as file:
        np.save(file, images[0])
    said = process("predict", edge, tmp_path / os.fsdecode(b"caf\xe9.npy"))
    assert (said.returncode, said.stderr) == (0, "")
    assert os.fsencode(json.loads(said.stdout)["id"]) == path


def test_labels_of_any_language_are_printed_to_any_terminal(pack, images, tmp_path):
    np.save(tmp_path / "x.npy", images[0])
    edge = pack({"labels": [f"猫{i}" for i in range(10)]})
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    said = process("predict", edge, tmp_path / "x.npy", env=ascii_only)
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout)["label"].startswith("猫")


def test_a_number_with_a_point_is_taken_if_it_is_whole(run, edge, images, expected):
    lines = [json.dumps({"input": (images[0] + value).tolist()}) for value in (0.0, 0.5)]
    said = run("predict", edge, "-", stdin="\n".join(lines).encode())
    assert said.rows[0]["label"] == expected[0]
    assert "uint8 cannot hold" in said.rows[1]["error"]


def test_an_id_of_null_is_none(run, edge, images):
    lines = [json.dumps({"id": i, "input": images[0].tolist()}) for i in (None, 7, "a", 0, "")]
    said = run("predict", edge, "-", stdin="\n".join(lines).encode())
    assert [row["id"] for row in said.rows] == ["-:1", "7", "a", "0", ""]


# --- predict, images


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tiff"])
def test_an_image_file(run, edge, images, tmp_path, expected, pillow, suffix):
    path = tmp_path / f"x.{suffix}"
    pillow.fromarray(images[0][..., 0]).save(path)
    said = run("predict", edge, path)
    assert (said.code, said.err) == (0, "")
    assert said.rows[0]["label"] == expected[0]


def test_a_colour_image_becomes_grey(run, edge, images, tmp_path, expected, pillow):
    pillow.fromarray(np.repeat(images[0], 3, 2)).save(tmp_path / "x.png")
    assert run("predict", edge, tmp_path / "x.png").rows[0]["label"] == expected[0]


def test_an_image_is_turned_as_its_camera_says(run, edge, images, tmp_path, expected, pillow):
    turned = pillow.fromarray(np.rot90(images[0][..., 0]).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held so that the right is the top
    turned.save(tmp_path / "x.png", exif=exif)
    upright = np.rot90(np.rot90(images[0]), -1)
    assert run("predict", edge, tmp_path / "x.png").rows[0]["label"] == expected[0]
    assert np.array_equal(upright, images[0])


def test_a_bad_image_is_an_error(run, edge, images, tmp_path, pillow):
    good = tmp_path / "good.png"
    pillow.fromarray(images[0][..., 0]).save(good)
    pillow.fromarray(images[0][:4, :, 0]).save(tmp_path / "small.png")
    pillow.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    data = good.read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    names = ["small", "bomb", "cut", "empty", "text", "absent"]
    said = run("predict", edge, *(tmp_path / f"{name}.png" for name in names), good)
    assert (said.code, said.err) == (2, "")
    *errors, answer = said.rows
    assert "label" in answer
    assert all(row.keys() == {"id", "error"} for row in errors)
    assert "the image is 8×4 pixels; the model takes 8×8" in errors[0]["error"]
    assert "No such file" in errors[-1]["error"]


def test_without_pillow_an_image_names_the_extra(run, edge, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    said = run("predict", edge, tmp_path / "x.png")
    assert said.code == 2
    assert "pip install 'edgedistill-runtime[image]'" in said.rows[0]["error"]


# --- evaluate


def test_labels_by_index(run, edge, images, tmp_path, expected):
    targets = [int(label) for label in expected]
    targets[0] = (targets[0] + 1) % 10
    np.savez(tmp_path / "split.npz", x=images, y=np.array(targets))
    said = run("evaluate", edge, tmp_path / "split.npz", "--json")
    assert said.code == 0
    assert said.sentence() == "accuracy 0.8000 over 5 samples"
    assert said.rows == [{"metric": "accuracy", "value": 0.8, "samples": 5}]


def test_labels_by_name(run, pack, images, tmp_path, expected):
    names = [f"class {i}" for i in range(10)]
    np.savez(tmp_path / "split.npz", x=images, y=np.array([names[int(e)] for e in expected]))
    said = run("evaluate", pack({"labels": names}), tmp_path / "split.npz")
    assert (said.code, said.out) == (0, "")
    assert said.sentence() == "accuracy 1.0000 over 5 samples"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": None}, "no array 'y"),
        ({"x": None}, "no array 'x"),
        ({"x": np.zeros((5, 8, 8, 1))}, "x is float64 of shape [5, 8, 8, 1]"),
        ({"x": np.zeros((5, 4, 4, 1), np.uint8)}, "takes uint8 of shape [n, 8, 8, 1]"),
        ({"x": np.zeros((0, 8, 8, 1), np.uint8)}, "x has 0 samples"),
        ({"x": np.zeros((), np.uint8)}, "x is uint8 of shape []"),
        ({"y": np.zeros(4, int)}, "y has shape [4]"),
        ({"y": np.zeros((5, 1), int)}, "y has shape [5, 1]"),
        ({"y": np.full(5, 10)}, "indices outside of the model's 10 labels"),
        ({"y": np.full(5, -1)}, "indices outside of the model's 10 labels"),
        ({"y": np.full(5, "cat")}, "the label 'cat', which the model does not know"),
        ({"y": np.full(5, 0.5)}, "the label '0.5', which the model does not know"),
        ({"y": np.array([None] * 5, object)}, "not a readable .npz file"),
    ],
)
def test_a_split_that_does_not_fit_is_one_sentence(run, edge, images, tmp_path, change, sentence):
    arrays_ = {"x": images, "y": np.zeros(5, int), **change}
    path = tmp_path / "split.npz"
    np.savez(path, **{name: a for name, a in arrays_.items() if a is not None})
    said = run("evaluate", edge, path)
    assert said.code == 2
    assert sentence in said.sentence()


def test_a_damaged_split_is_one_sentence(run, edge, images, tmp_path):
    path = tmp_path / "split.npz"
    np.savez_compressed(path, x=images, y=np.zeros(5, int))
    data = path.read_bytes()
    np.save(tmp_path / "array.npy", images)
    for bad in [
        b"",
        b"text",
        data[: len(data) // 2],
        data[:100] + b"\xff" * 50 + data[150:],
        (tmp_path / "array.npy").read_bytes(),
        b"\x80\x04N.",
    ]:
        path.write_bytes(bad)
        said = run("evaluate", edge, path)
        assert said.code == 2
        assert str(path) in said.sentence()


def test_a_folder_is_no_split(run, edge, tmp_path):
    said = run("evaluate", edge, tmp_path)
    assert said.code == 2
    assert said.sentence() == f"edgedistill-run: {tmp_path}: Is a directory"


# --- unknown, top, and what inspect says of other kinds

SOFTMAX = {"op": "softmax"}
UNSURE = {"op": "threshold", "value": 0.5, "label": "unknown"}


def test_predict_prints_what_is_unknown_and_the_best_few(run, pack, images, tmp_path):
    np.save(tmp_path / "x.npy", images[0])
    steps = [SOFTMAX, {**UNSURE, "value": 0.9999999}, {"op": "top_k", "k": 3}]
    [row] = run("predict", pack({"postprocess": steps}), tmp_path / "x.npy").rows
    assert (row["label"], row["labels"]) == ("unknown", [])
    best = sorted(row["scores"].items(), key=lambda item: -item[1])[:3]
    assert row["top"] == [list(item) for item in best]
    assert row["score"] == best[0][1]


def test_evaluate_says_how_much_is_answered_and_how_well(run, edge, pack, images, tmp_path):
    answers_ = [load(edge).predict(image) for image in images]
    targets = [int(answer.label) for answer in answers_]
    order = np.argsort([answer.score for answer in answers_])
    for i in order[[0, 4]]:  # wrong: the least sure and the most sure
        targets[i] = (targets[i] + 1) % 10
    np.savez(tmp_path / "split.npz", x=images, y=np.array(targets))
    steps = [SOFTMAX, {**UNSURE, "value": answers_[order[1]].score}]
    said = run("evaluate", pack({"postprocess": steps}), tmp_path / "split.npz", "--json")
    assert said.rows == [
        {
            "metric": "accuracy",
            "value": pytest.approx(0.6),
            "samples": 5,
            "answered": 0.8,
            "answered_metric": 0.75,
        }
    ]
    assert said.sentence() == (
        "accuracy 0.6000 over 5 samples; 80.0% over the threshold, accuracy 0.7500 there"
    )


def test_evaluate_of_nothing_but_unknown_has_no_accuracy_of_it(run, pack, images, tmp_path):
    np.savez(tmp_path / "split.npz", x=images, y=np.zeros(5, int))
    edge = pack({"postprocess": [SOFTMAX, {**UNSURE, "value": 0.9999999}]})
    said = run("evaluate", edge, tmp_path / "split.npz", "--json")
    assert (said.rows[0]["answered"], said.rows[0]["answered_metric"]) == (0, None)
    assert said.sentence().endswith("over 5 samples; none over the threshold")


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        ({"kind": "image", "dtype": "uint8", "shape": [-1, -1, 3]}, "of any size, 3 channel(s)"),
        (
            {"kind": "audio", "dtype": "int16", "shape": [8000], "rate_hz": 16000, "hop": 4000},
            "audio, int16 [8000], 16000 a second (0.5 s), a window every 4000",
        ),
        (
            {"kind": "sensor", "dtype": "float32", "shape": [6, 128], "rate_hz": 50},
            "sensor, float32 [6, 128], 50 a second (2.56 s)",
        ),
        ({"kind": "sensor", "dtype": "float32", "shape": [6, 128]}, "sensor, float32 [6, 128]"),
    ],
)
def test_inspect_says_kind_rate_and_steps(run, pack, sample, line):
    first = {"op": "resize", "height": 8, "width": 9, "fit": "pad"}
    steps = [first, {"op": "normalize", "scale": 1, "mean": [0], "std": [1]}]
    post = [{"op": "softmax", "temperature": 1.5}, UNSURE, {"op": "top_k", "k": 3}]
    changes = {"sample": sample, "preprocess": steps, "postprocess": post}
    said = run("inspect", pack(changes))
    assert (said.code, said.err) == (0, "")
    lines = {row.split(maxsplit=1)[0]: row.split(maxsplit=1)[1] for row in said.out.splitlines()}
    assert lines["sample"].endswith(line)
    assert lines["steps"] == "resize (fit pad, height 8, width 9), normalize (scale 1)"
    assert lines["answer"] == (
        "softmax (temperature 1.5), threshold (label unknown, value 0.5), top_k (k 3)"
    )


def test_inspect_of_steps_that_nobody_checked_is_still_lines(run, pack):
    steps = [{}, {"op": None}, {"op": [1], "x": {"y": 1}}, {"op": "x" * 4000, "y": "z" * 4000}]
    said = run("inspect", pack({"preprocess": [], "postprocess": steps}))
    assert (said.code, said.err) == (0, "")
    assert "steps     none" in said.out
    assert max(map(len, said.out.splitlines())) < 500


def test_the_module_is_the_command(edge):
    assert process("verify", edge).returncode == 0
    assert Path(sys.executable).exists()
