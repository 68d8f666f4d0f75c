"""The main job on real data: what one command promises, judged from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Fitted, fit_environment, run_fit

from edgedistill_runtime import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("fit")]


def test_the_student_keeps_the_teachers_accuracy_in_96_kib(fitted: Fitted) -> None:
    report = fitted.report
    assert report["verdict"] == "fits"
    assert report["teacher"]["metric"] >= 0.985
    assert report["retention"] >= 0.98
    assert fitted.bundle.stat().st_size <= 96 * 1024
    assert report["teacher"]["macs"] >= 10 * report["student"]["macs"]


def test_the_report_has_every_field_and_is_the_json_line(fitted: Fitted) -> None:
    report = json.loads(fitted.stdout.splitlines()[-1])
    assert report == fitted.report
    assert report["predicted"]["standing"] == "estimated"
    assert report["predicted"]["latency_ms"]["bound"] > report["predicted"]["latency_ms"]["p50"]
    assert {line["name"]: line["standing"] for line in report["budget"]} == {
        "latency_ms": "estimated",
        "peak_ram_mib": "estimated",
        "size_mib": "verified",
        "min_retention": "measured elsewhere",
    }
    assert all(line["ok"] for line in report["budget"])
    assert report["teacher_quantized"]["metric"] > 0.9
    assert report["host"]["teacher_latency_ms"] > report["host"]["model_latency_ms"]
    assert report["teacher"]["name"] == "trained here"
    student = report["student"]
    assert [trial["alpha"] for trial in student["trials"][:3]] == [0.0, 0.5, 0.9]
    assert {trial["stage"] for trial in student["trials"]} == {"soft"}
    assert student["alpha"] == student["choices"]["soft"]["alpha"]
    assert student["choices"]["soft"]["views"] == 8
    assert student["metrics"]["accuracy"] == student["metric"]
    assert 0.9 < student["metrics"]["f1_macro"] <= 1
    assert report["control"] is None
    assert sum(report["seconds"].values()) > 0


def test_the_table_says_limit_value_standing_and_ok(fitted: Fitted) -> None:
    assert "retention" in fitted.stderr
    line = next(x for x in fitted.stderr.splitlines() if x.startswith("latency_ms"))
    assert line.split()[1] == "20"
    assert line.split()[-2:] == ["estimated", "yes"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_each_precision_keeps_accuracy_and_size(
    precision: str, tmp_path: Path, cache: Path, fitted: Fitted
) -> None:
    done = run_fit(tmp_path / "out", cache, "--precision", precision)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["precision"] == precision
    assert report["retention"] >= 0.98
    assert report["size_mib"] * 1024 <= 96
    assert report["teacher"]["macs"] >= 10 * report["student"]["macs"]
    model = load(tmp_path / "out" / "model.edge")
    assert model.manifest.precision == precision


def test_evaluate_without_torch_gives_the_reports_accuracy(
    fitted: Fitted, board_python: Path
) -> None:
    missing = subprocess.run([board_python, "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode, "this environment must not have torch"
    command = [board_python, "-m", "edgedistill_runtime", "evaluate", "--json"]
    done = subprocess.run(
        [*command, fitted.bundle, fitted.test_split], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["value"] == fitted.report["student"]["metric"]
    assert answer["samples"] == fitted.report["test_samples"]


def test_predict_without_torch_answers_the_golden_samples(
    fitted: Fitted, board_python: Path, tmp_path: Path
) -> None:
    model = load(fitted.bundle)
    np.save(tmp_path / "samples.npy", model.golden_samples())
    command = [board_python, "-m", "edgedistill_runtime", "predict", fitted.bundle]
    done = subprocess.run(
        [*command, tmp_path / "samples.npy"], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["label"] for r in rows] == [model.predict(x).label for x in model.golden_samples()]


def test_bench_without_torch_passes_and_calls_its_figures_measured_elsewhere(
    fitted: Fitted, board_python: Path
) -> None:
    command = [board_python, "-m", "edgedistill_runtime", "bench", fitted.bundle, "--json"]
    done = subprocess.run(
        [*command, "--max-seconds", "10"], capture_output=True, text=True, check=False
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["verdict"]) == (0, "PASS")
    assert result["standing"] == "measured elsewhere"
    over = subprocess.run(
        [*command, "--latency-ms", "0.000001"], capture_output=True, text=True, check=False
    )
    assert over.returncode == 1
    assert "latency_ms p95" in over.stderr


def test_a_missing_extra_is_named(fitted: Fitted, board_python: Path, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    program = (
        "import sys; sys.modules['PIL'] = None; from edgedistill_runtime import cli; cli.main()"
    )
    command = [board_python, "-c", program, "predict"]
    done = subprocess.run(
        [*command, fitted.bundle, tmp_path / "digit.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "edgedistill-runtime[image]" in json.loads(done.stdout)["error"]


def test_the_same_command_gives_the_same_bytes_with_no_path_inside(
    short_recipe: Path, tmp_path: Path
) -> None:
    bundles = []
    for name in ("one", "two"):
        folder = tmp_path / name
        run_fit(folder / "out", folder / "cache", str(short_recipe), fresh=True)
        bundles.append((tmp_path / name / "out" / "model.edge").read_bytes())
    assert bundles[0] == bundles[1]
    with zipfile.ZipFile(tmp_path / "one" / "out" / "model.edge") as file:
        members = b"".join(file.read(name) for name in file.namelist())
    for word in ("site-packages", str(tmp_path), str(Path.home()), os.getcwd(), ".py"):
        assert word.encode() not in members


def test_a_finished_stage_is_not_done_again(short_recipe: Path, tmp_path: Path) -> None:
    first = run_fit(tmp_path / "out", tmp_path / "cache", str(short_recipe))
    before = (tmp_path / "out" / "model.edge").read_bytes()
    stages = {p: p.stat().st_ino for p in (tmp_path / "out" / "work").glob("*-*.*")}
    assert len(stages) >= 6
    again = run_fit(tmp_path / "out", tmp_path / "cache", str(short_recipe))
    assert (tmp_path / "out" / "model.edge").read_bytes() == before
    assert {p: p.stat().st_ino for p in stages} == stages
    seconds = [json.loads(r.stdout.splitlines()[-1])["seconds"] for r in (first, again)]
    done = [s["teacher"] + s["distil"] for s in seconds]
    assert done[1] < done[0] / 2


def test_your_own_images_work(tmp_path: Path, cache: Path, short_recipe: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.array(["cat", "dog", "Vögel ☃"])[np.arange(120) % 3]
    x = rng.integers(0, 80, (120, 12, 10, 3), dtype=np.uint8)
    for i in range(120):
        x[i, :, :, i % 3] += 150  # the channel tells the class
    np.savez(tmp_path / "pets.npz", x=x, y=y)
    done = run_fit(tmp_path / "out", cache, str(short_recipe), "--data", str(tmp_path / "pets.npz"))
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["student"]["metric"] > 0.9
    model = load(tmp_path / "out" / "model.edge")
    assert model.manifest.labels == ("Vögel ☃", "cat", "dog")
    assert model.manifest.name == "pets-rpi4"


def test_the_python_api_does_what_the_command_does(
    fitted: Fitted, cache: Path, tmp_path: Path
) -> None:
    script = (
        "from edgedistill import Recipe, fit\n"
        f"result = fit(profile='rpi4', out={str(tmp_path / 'out')!r})\n"
        "print(result.exit_code, result.report['retention'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=fit_environment(cache),
    )
    assert done.stdout.split() == ["0", str(fitted.report["retention"])]
    assert (tmp_path / "out" / "model.edge").read_bytes() == fitted.bundle.read_bytes()


def test_a_retention_that_is_missed_is_exit_1(
    short_recipe: Path, tmp_path: Path, cache: Path
) -> None:
    done = run_fit(
        tmp_path / "out", cache, str(short_recipe), "--min-retention", "1.5", check=False
    )
    assert done.returncode == 1
    assert "min_retention is" in done.stderr
    assert "under its limit of 1.5" in done.stderr
