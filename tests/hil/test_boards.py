"""What any board must do, over SSH, by the commands that users type: answers, never how fast."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Fitted
from tests.hil.conftest import KINDS, READINGS, numpy_answers
from tests.runtime.runtime_support import listed

from edgedistill.hil import HeldBoard
from edgedistill_runtime import arrays, bundle, load

pytestmark = pytest.mark.hil

SPLIT = "test.npz"
NAME = "hil-test"
TEXTS = ["what a great day", "", "Schöne Grüße, not so bad 😀", "word " * 500]


@pytest.fixture
def onnx_board(board: HeldBoard) -> HeldBoard:
    if board.facts.bits == 32:
        pytest.skip("nobody publishes onnxruntime for a 32-bit user land")
    return board


@pytest.fixture
def able_board(board: HeldBoard, shell: Any) -> HeldBoard:
    if board.facts.bits == 32 and shell("grep", "-q", "vfpv4", "/proc/cpuinfo").code:
        pytest.skip("the TFLite that is published for 32-bit ARM needs VFPv4")
    return board


@pytest.fixture
def some_bundle(board: HeldBoard, request: pytest.FixtureRequest) -> Path:
    """One that the board has an engine for."""
    if board.facts.bits == 32:
        return request.getfixturevalue("tflite_bundle")
    return request.getfixturevalue("fitted").bundle


@pytest.fixture
def deployed(board: HeldBoard, edgedistill: Any) -> Any:
    """`edgedistill deploy BUNDLE` to the board: its outcome.  What it installed is removed."""

    done = []

    def deploy(path: Path) -> dict[str, Any]:
        sent = edgedistill("deploy", path, "--target", board.member.address, "--as", NAME, "--json")
        (row,) = sent.row["boards"]
        assert sent.code == row["exit_code"]
        if row["ok"]:
            done.append(path)
        outcome: dict[str, Any] = row
        return outcome

    yield deploy
    if done:
        board.bring(done[0])
        assert board.run("remove", NAME).exit_code == 0


# --- any board


def test_nothing_keeps_a_board_from_running(able_board: HeldBoard, some_bundle: Path) -> None:
    done = able_board.run("doctor", able_board.bring(some_bundle), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["runs"] is True


def test_the_steps_before_a_network_give_the_same_bits(
    board: HeldBoard, some_bundle: Path, shell: Any
) -> None:
    board.bring(some_bundle)  # and with it the runtime
    script = Path(__file__).with_name("parity_digests.py")
    wheels = '"${XDG_CACHE_HOME:-$HOME/.cache}"/edgedistill/wheels/*'
    path = f"PYTHONPATH=$(printf %s: {wheels})"
    there = shell("sh", "-c", f"{path} exec python3 -", stdin=script.read_text(), seconds=600)
    assert there.code == 0, there.err
    here = subprocess.run(
        [sys.executable, str(script)], capture_output=True, encoding="utf-8", check=True
    )
    assert there.row == json.loads(here.stdout)


def test_a_tflite_bundle_is_deployed_and_answers_as_numpy_does(
    able_board: HeldBoard, tflite_bundle: Path, deployed: Any, tmp_path: Path
) -> None:
    first = deployed(tflite_bundle)
    assert first["status"] == "installed", first
    assert first["copied"][-1] == tflite_bundle.name
    again = deployed(tflite_bundle)
    assert (again["status"], again["copied"]) == ("unchanged", [])
    able_board.bring(tflite_bundle)
    names = [f"{i}.npy" for i in range(len(READINGS))]
    for name, readings in zip(names, READINGS, strict=True):
        np.save(tmp_path / name, readings)
        able_board.put(name, tmp_path / name)
    done = able_board.run("predict", NAME, *names)
    assert done.exit_code == 0, done.stderr
    labels = bundle.read(tflite_bundle).manifest.labels
    wanted = [labels[int(answer.argmax())] for answer in numpy_answers()]
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == wanted


def test_a_second_version_replaces_the_first_and_a_rollback_brings_it_back(
    able_board: HeldBoard, some_bundle: Path, deployed: Any, tmp_path: Path
) -> None:
    first, second = bundle.read(some_bundle), tmp_path / "second.edge"
    manifest = dataclasses.replace(first.manifest, version=first.manifest.version + 1)
    bundle.write(second, manifest, first.files)
    assert deployed(some_bundle)["status"] == "installed"
    assert deployed(second)["status"] == "installed"
    golden = manifest.golden.outputs
    files = dict(first.files)
    files[golden] = arrays.encode(np.load(io.BytesIO(files[golden])) + 1)
    third = dataclasses.replace(manifest, version=manifest.version + 1, files=listed(files))
    bundle.write(tmp_path / "third.edge", third, files)
    failed = deployed(tmp_path / "third.edge")
    assert (failed["status"], failed["exit_code"]) == ("failed", 2)
    assert "golden" in failed["reason"]
    able_board.bring(some_bundle)
    assert last_line(able_board.run("inspect", NAME, "--json"))["version"] == manifest.version
    assert able_board.run("rollback", NAME).exit_code == 0
    assert last_line(able_board.run("inspect", NAME, "--json"))["id"] == first.id
    downgrade = deployed(some_bundle)
    assert downgrade["status"] == "unchanged", downgrade


def test_bench_over_ssh_judges_and_on_an_emulator_never_verifies(
    able_board: HeldBoard, some_bundle: Path, edgedistill: Any
) -> None:
    options = ("--target", able_board.member.address, "--max-seconds", "5", "--json")
    done = edgedistill("bench", some_bundle, *options)
    assert done.code in (0, 1, 3), done.err
    certificate = done.row
    assert certificate["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")
    assert certificate["emulated"] is able_board.facts.emulated
    if able_board.facts.emulated:
        assert certificate["standing"] == "measured elsewhere"


def test_evaluate_scores_a_labelled_file(
    able_board: HeldBoard, tflite_bundle: Path, tmp_path: Path
) -> None:
    name = able_board.bring(tflite_bundle)
    wanted = numpy_answers().argmax(1)
    wanted[0] = (wanted[0] + 1) % 10  # one label is wrong
    np.savez(tmp_path / SPLIT, x=READINGS, y=wanted)
    able_board.put(SPLIT, tmp_path / SPLIT)
    evaluated = last_line(able_board.run("evaluate", name, SPLIT, "--json"))
    assert evaluated["value"] == pytest.approx(1 - 1 / len(wanted))


# --- boards that onnxruntime is built for


def test_the_bundle_is_the_same_there(onnx_board: HeldBoard, fitted: Fitted) -> None:
    name = onnx_board.bring(fitted.bundle)
    verified = onnx_board.run("verify", name)
    assert verified.exit_code == 0, verified.stderr
    inspected = last_line(onnx_board.run("inspect", name, "--json"))
    assert inspected["id"] == load(fitted.bundle).bundle_id
    assert_accuracy_as_reported(onnx_board, name, fitted)


def test_predictions_are_those_of_the_host(
    onnx_board: HeldBoard, fitted: Fitted, tmp_path: Path
) -> None:
    model = load(fitted.bundle)
    samples = model.golden_samples()
    np.save(tmp_path / "golden.npy", samples)
    name = onnx_board.bring(fitted.bundle)
    onnx_board.put("golden.npy", tmp_path / "golden.npy")
    done = onnx_board.run("predict", name, "golden.npy")
    assert done.exit_code == 0, done.stderr
    for line, here in zip(done.stdout.splitlines(), map(model.predict, samples), strict=True):
        there = json.loads(line)
        assert there["label"] == here.label
        assert there["scores"] == pytest.approx(here.scores, abs=model.manifest.golden.atol)


def test_one_flipped_byte_is_refused_in_one_sentence(
    onnx_board: HeldBoard, fitted: Fitted, tmp_path: Path
) -> None:
    onnx_board.bring(fitted.bundle)
    data = bytearray(fitted.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.edge").write_bytes(data)
    onnx_board.put("flipped.edge", tmp_path / "flipped.edge")
    onnx_board.put(SPLIT, fitted.test_split)
    for command in (["verify", "flipped.edge"], ["evaluate", "flipped.edge", SPLIT, "--json"]):
        done = onnx_board.run(*command)
        assert done.exit_code == 2
        assert_one_sentence(done.stderr)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_of_each_kind_is_deployed_and_answers_as_on_the_host(
    onnx_board: HeldBoard, made: Any, deployed: Any, tmp_path: Path, kind: str
) -> None:
    fitted = made(kind)
    first = deployed(fitted.bundle)
    assert first["status"] == "installed", first
    again = deployed(fitted.bundle)
    assert (again["status"], again["copied"]) == ("unchanged", [])
    name = onnx_board.bring(fitted.bundle)
    verified = onnx_board.run("verify", name)
    assert verified.exit_code == 0, verified.stderr
    assert onnx_board.run("doctor", name).exit_code == 0
    if kind.startswith("text"):
        assert_texts_as_on_the_host(onnx_board, fitted, tmp_path)
    else:
        assert_accuracy_as_reported(onnx_board, NAME, fitted)
        assert_predictions_as_on_the_host(onnx_board, fitted, tmp_path)


STARTING = """
import sys, time
from edgedistill import boards, cli
def run(board, *words, **more):
    print(words[0], flush=True)
    sys.exit(0)
boards.Board.run = run
cli.main()
"""


def test_a_warm_bench_starts_measuring_within_three_seconds(
    onnx_board: HeldBoard, fitted: Fitted, record_property: Any
) -> None:
    """From the command's start until the board is told to measure."""
    onnx_board.bring(fitted.bundle)
    words = ["bench", str(fitted.bundle), "--target", str(onnx_board.member.address)]
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", STARTING, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said, seconds = process.stdout.readline(), time.monotonic() - start
        process.stdout.read()
    record_property("warm_bench_seconds", round(seconds, 2))
    assert said == "bench\n"
    assert seconds < 3


# --- what is asserted of several


def assert_accuracy_as_reported(board: HeldBoard, name: str, fitted: Fitted) -> None:
    board.put(SPLIT, fitted.test_split)
    evaluated = last_line(board.run("evaluate", name, SPLIT, "--json"))
    assert evaluated["metric"] == fitted.report["metric"]
    assert evaluated["value"] == pytest.approx(fitted.report["student"]["metric"], abs=0.002)
    with np.load(fitted.test_split, allow_pickle=False) as split:
        assert evaluated["samples"] == len(split["y"])


def assert_predictions_as_on_the_host(board: HeldBoard, fitted: Fitted, folder: Path) -> None:
    model = load(fitted.bundle)
    samples = model.golden_samples()
    for i, sample in enumerate(samples):
        np.save(folder / f"{i}.npy", sample)
        board.put(f"{i}.npy", folder / f"{i}.npy")
    done = board.run("predict", NAME, *(f"{i}.npy" for i in range(len(samples))))
    assert done.exit_code == 0, done.stderr
    for line, here in zip(done.stdout.splitlines(), map(model.predict, samples), strict=True):
        assert json.loads(line)["scores"] == pytest.approx(here.scores, abs=0.02)


def assert_texts_as_on_the_host(board: HeldBoard, fitted: Fitted, folder: Path) -> None:
    board.put("test.jsonl", fitted.out / "test.jsonl")
    evaluated = last_line(board.run("evaluate", NAME, "test.jsonl", "--json"))
    assert evaluated["value"] == pytest.approx(fitted.report["student"]["metric"], abs=0.002)
    lines = "".join(json.dumps({"input": text}) + "\n" for text in TEXTS)
    (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
    board.put("texts.jsonl", folder / "texts.jsonl")
    done = board.run("predict", NAME, "texts.jsonl")
    assert done.exit_code == 0, done.stderr
    model = load(fitted.bundle)
    for line, here in zip(done.stdout.splitlines(), map(model.predict, TEXTS), strict=True):
        assert json.loads(line)["scores"] == pytest.approx(here.scores, abs=0.02)


def assert_one_sentence(stderr: str) -> None:
    assert len(stderr.strip().splitlines()) == 1, stderr


def last_line(done: Any) -> dict[str, Any]:
    assert done.exit_code == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line
