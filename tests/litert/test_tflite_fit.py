"""Fits for boards on which only TFLite runs, and the same student in both forms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests import opinions
from tests.conftest import ROOT, fit_environment
from tests.end_to_end.conftest import SHORT

from edgedistill.environments import TFLITE_RUNTIME
from edgedistill_runtime import load

pytestmark = [pytest.mark.end_to_end]


def fit(out: Path, cache: Path, *options: str | Path) -> dict:
    command = [sys.executable, "-m", "edgedistill.cli", "fit", *options, "--out", out]
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env=fit_environment(cache),
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    path.write_text(SHORT, encoding="utf-8")
    return path


EVALUATE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from edgedistill_runtime.evaluate import evaluate
from edgedistill_runtime.model import load
model = load(sys.argv[2])
model.check_golden()
print(model.engine, evaluate(Path(sys.argv[2]), Path(sys.argv[3])).value)
"""


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_a_board_without_onnxruntime_gets_tflite(precision, short, cache, tmp_path) -> None:
    """And its own engine answers as this machine's does."""
    report = fit(
        tmp_path / "out", cache, short, "--profile", "stm32mp157", "--precision", precision
    )
    model = load(report["bundle"])
    assert model.manifest.backend.name == "tflite"
    assert model.manifest.board.engine == "tflite-runtime"
    command = [TFLITE_RUNTIME.python(), "-I", "-c", EVALUATE, ROOT / "runtime", report["bundle"]]
    done = subprocess.run(
        [str(word) for word in [*command, tmp_path / "out" / "test.npz"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    engine, metric = done.stdout.split()
    assert engine == "tflite-runtime"
    assert float(metric) == pytest.approx(report["student"]["metric"], abs=0.003)


def test_both_forms_of_a_student_agree(short, cache, tmp_path) -> None:
    spec = '\nspec = { block = "separable", width = 8, growth = 1.5, stages = 2, depth = 2 }\n'
    recipe = tmp_path / "one.toml"
    recipe.write_text(spec + short.read_text(encoding="utf-8"), encoding="utf-8")
    reports = [
        fit(tmp_path / name, cache, recipe, "--profile", "rpi4", "--backend", name)
        for name in ("onnx", "tflite")
    ]
    models = [load(report["bundle"]) for report in reports]
    samples = np.load(tmp_path / "onnx" / "test.npz")["x"]
    answers = [np.array([model.logits(x) for x in samples]) for model in models]
    assert np.mean(answers[0].argmax(1) == answers[1].argmax(1)) >= 0.995
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)


@pytest.mark.parametrize("family", ["static", "transformer"])
def test_texts_of_every_length(family, cache, tmp_path) -> None:
    specs = {"static": opinions.STATIC, "transformer": opinions.ENCODER}
    data = opinions.write_csv(tmp_path / "texts.csv", opinions.sentences(300))
    recipe = opinions.write_toml(
        tmp_path / "recipe.toml", opinions.recipe(data, family, specs[family], precision="int8")
    )
    report = fit(tmp_path / "out", cache, recipe, "--backend", "tflite")
    model = load(report["bundle"])
    model.check_golden()
    assert {model.predict("good " * count).label for count in (1, 3, 60, 5000)}
