"""The runtime on emulated ARM boards, over SSH: what it answers there, never how fast."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import kinds, opinions
from tests.conftest import Fitted, run_fit

from edgedistill_runtime import load

pytestmark = pytest.mark.hil

BUNDLE = "model.edge"
SPLIT = "test.npz"


@pytest.fixture(scope="module")
def loaded_board(board: Any, fitted: Any) -> Any:
    """The 64-bit board with a bundle and its test split in the home folder."""
    board.put(fitted.bundle, BUNDLE)
    board.put(fitted.test_split, SPLIT)
    return board


def test_the_board_has_only_what_a_board_has(board: Any) -> None:
    assert board.run("uname", "-m").stdout.strip() == "aarch64"
    names = ["torch", "transformers", "onnx", "pip", "setuptools", "edgedistill"]
    find = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert board.run("python3", "-c", find, *names).stdout.strip() == "[]"
    assert board.run("sh", "-c", "command -v cc gcc clang make pip pip3").stdout == ""


def test_the_bundle_verifies_on_the_board(loaded_board: Any) -> None:
    done = loaded_board.runtime("verify", BUNDLE)
    assert done.returncode == 0, done.stderr


def test_the_board_describes_the_same_bundle(loaded_board: Any, fitted: Any) -> None:
    inspected = result(loaded_board.runtime("inspect", BUNDLE, "--json"))
    assert inspected["id"] == load(fitted.bundle).bundle_id


def test_accuracy_on_the_board_is_the_reported_one(loaded_board: Any, fitted: Any) -> None:
    assert_accuracy_as_reported(loaded_board, fitted)


def test_a_board_with_256_mib_still_evaluates(small_board: Any, fitted: Any) -> None:
    too_much = small_board.run("python3", "-c", "bytearray(300 << 20)")
    assert too_much.returncode == 128 + signal.SIGKILL, "the limit does not hold"
    small_board.put(fitted.bundle, BUNDLE)
    small_board.put(fitted.test_split, SPLIT)
    assert_accuracy_as_reported(small_board, fitted)


def test_predictions_on_the_board_are_those_of_the_host(
    loaded_board: Any, fitted: Any, tmp_path: Path
) -> None:
    model = load(fitted.bundle)
    samples = model.golden_samples()
    np.save(tmp_path / "golden.npy", samples)
    loaded_board.put(tmp_path / "golden.npy", "golden.npy")
    done = loaded_board.runtime("predict", BUNDLE, "golden.npy")
    assert done.returncode == 0, done.stderr
    for line, here in zip(done.stdout.splitlines(), map(model.predict, samples), strict=True):
        there = json.loads(line)
        assert there["label"] == here.label
        assert there["scores"] == pytest.approx(here.scores, abs=model.manifest.golden.atol)


def test_a_time_on_an_emulator_is_never_verified(loaded_board: Any) -> None:
    done = loaded_board.runtime("bench", BUNDLE, "--json", "--max-seconds", "10", timeout=300)
    assert done.returncode in (0, 1, 3), done.stderr
    certificate = last_line(done)
    assert certificate["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")
    assert certificate["standing"] == "measured elsewhere"
    assert certificate["emulated"] is True


def test_one_flipped_byte_is_refused_in_one_sentence(
    loaded_board: Any, fitted: Any, tmp_path: Path
) -> None:
    data = bytearray(fitted.bundle.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.edge").write_bytes(data)
    loaded_board.put(tmp_path / "flipped.edge", "flipped.edge")
    for command in (["verify", "flipped.edge"], ["evaluate", "flipped.edge", SPLIT, "--json"]):
        done = loaded_board.runtime(*command)
        assert done.returncode == 2
        assert_one_sentence(done.stderr)


@pytest.mark.parametrize("family", ["static", "transformer"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_text_bundle_answers_on_the_board_as_on_the_host(
    board: Any, tmp_path: Path, cache: Path, family: str, precision: str
) -> None:
    fitted = fit_texts(tmp_path, cache, family, precision)
    board.put(fitted.bundle, BUNDLE)
    board.put(fitted.out / "test.jsonl", "test.jsonl")
    verified = board.runtime("verify", BUNDLE)
    assert verified.returncode == 0, verified.stderr
    evaluated = result(board.runtime("evaluate", BUNDLE, "test.jsonl", "--json", timeout=300))
    assert evaluated["value"] == pytest.approx(fitted.report["student"]["metric"], abs=0.02)
    texts = ["what a great day", "", "Schöne Grüße, not so bad 😀", "word " * 500]
    lines = "".join(json.dumps({"input": text}) + "\n" for text in texts)
    (tmp_path / "texts.jsonl").write_text(lines, encoding="utf-8")
    board.put(tmp_path / "texts.jsonl", "texts.jsonl")
    done = board.runtime("predict", BUNDLE, "texts.jsonl")
    assert done.returncode == 0, done.stderr
    model = load(fitted.bundle)
    for line, here in zip(done.stdout.splitlines(), map(model.predict, texts), strict=True):
        assert json.loads(line)["scores"] == pytest.approx(here.scores, abs=0.02)


def test_the_steps_before_a_network_give_the_same_bits_on_the_board(board: Any) -> None:
    script = Path(__file__).with_name("parity_digests.py")
    board.put(script, script.name)
    there = board.python(script.name, timeout=600)
    assert there.returncode == 0, there.stderr
    here = subprocess.run(
        [sys.executable, str(script)], capture_output=True, encoding="utf-8", check=True
    )
    assert json.loads(there.stdout) == json.loads(here.stdout)


@pytest.mark.parametrize("kind", ["image", "audio", "sensor"])
def test_a_bundle_of_each_kind_answers_on_the_board_as_on_the_host(
    board: Any, tmp_path: Path, cache: Path, kind: str
) -> None:
    recipe = kinds.recipe(tmp_path, kind, precision="int8")
    done = run_fit(tmp_path / "out", cache, str(recipe))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    fitted = Fitted(tmp_path / "out", report, done.stdout, done.stderr)
    board.put(fitted.bundle, BUNDLE)
    board.put(fitted.test_split, SPLIT)
    verified = board.runtime("verify", BUNDLE)
    assert verified.returncode == 0, verified.stderr
    assert_accuracy_as_reported(board, fitted)


def fit_texts(folder: Path, cache: Path, family: str, precision: str) -> Fitted:
    """A small bundle for texts, from a teacher that nobody had to train."""
    data = opinions.write_csv(folder / "opinions.csv", opinions.sentences(240))
    spec = opinions.STATIC if family == "static" else opinions.ENCODER
    options = opinions.recipe(
        data, family, spec, teacher="tests.opinions:Counts", precision=precision
    )
    out = folder / "out"
    done = run_fit(out, cache, str(opinions.write_toml(folder / "recipe.toml", options)))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Fitted(out, report, done.stdout, done.stderr)


def test_a_32_bit_board_runs_the_command_line(armhf_board: Any) -> None:
    assert armhf_board.run("uname", "-m").stdout.strip() == "armv7l"
    assert armhf_board.run("python3", "-c", "import numpy").returncode == 0
    done = armhf_board.runtime("--help")
    assert done.returncode == 0, done.stderr
    assert "verify" in done.stdout


def test_a_board_without_the_engine_says_so_in_one_sentence(armhf_board: Any, fitted: Any) -> None:
    armhf_board.put(fitted.bundle, BUNDLE)
    done = armhf_board.runtime("verify", BUNDLE)
    assert done.returncode == 2
    assert_one_sentence(done.stderr)
    assert "onnxruntime" in done.stderr


def assert_accuracy_as_reported(board: Any, fitted: Any) -> None:
    evaluated = result(board.runtime("evaluate", BUNDLE, SPLIT, "--json", timeout=300))
    assert evaluated["metric"] == fitted.report["metric"]
    assert evaluated["value"] == pytest.approx(fitted.report["student"]["metric"], abs=0.002)
    with np.load(fitted.test_split, allow_pickle=False) as split:
        assert evaluated["samples"] == len(split["y"])


def assert_one_sentence(stderr: str) -> None:
    assert len(stderr.strip().splitlines()) == 1, stderr


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return last_line(done)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line
