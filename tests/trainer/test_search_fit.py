"""Whole fits with trials: one worker ends in the same bytes, two agree on one winner."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import fit_environment, run_fit

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.xdist_group("trials")]

SHORT = """
size_mib = 0.09375
min_retention = 0.5
trials = 4
[training]
epochs = 8
trial_epochs = 2
views = [2]
alpha = [0.5]
gate = [false]
[teacher_training]
epochs = 6
views = 2
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "trials.toml"
    path.write_text(SHORT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run_fit(folder / "out", folder / "cache", recipe)
    return folder / "out"


def report_of(out: Path):
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def start(recipe: str, out: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgedistill.cli", "fit", recipe, "--profile", "rpi4"]
    return subprocess.Popen(
        [*command, "--out", str(out), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=fit_environment(cache),
    )


def test_the_trials_are_in_the_report_and_the_winner_ships(alone):
    report = report_of(alone)
    search = report["search"]
    trials = search["trials"]
    assert len(trials) == 4
    assert {trial["family"] for trial in trials} == {"convnet", "vit"}
    assert {trial["state"] for trial in trials} <= {"finished", "stopped"}
    assert all(1 <= len(trial["metrics"]) <= len(search["budgets"]) for trial in trials)
    won = trials[search["winner"]]
    assert won["state"] == "finished"
    assert won["spec"] == report["student"]["spec"]
    best = max(t["metrics"][-1] for t in trials if t["state"] == "finished")
    assert won["metrics"][-1] >= best - 0.03
    payback = report["payback"]
    spent = report["seconds"]["trials"] + report["seconds"]["distil"]
    assert payback["seconds"] == pytest.approx(spent, abs=0.02)
    saved = report["host"]["teacher_latency_ms"] - report["host"]["model_latency_ms"]
    assert payback["saved_ms"] == pytest.approx(saved)
    assert payback["inferences"] == pytest.approx(1000 * payback["seconds"] / saved, abs=1)


def test_interrupted_in_the_middle_it_ends_in_the_same_bytes(alone, recipe, tmp_path):
    process = start(recipe, tmp_path / "out", tmp_path / "cache")
    for line in process.stderr:
        if line.split()[:2] == ["trial", "1"]:
            break
    else:
        raise AssertionError("there was no second trial")
    process.kill()
    process.communicate()
    assert not (tmp_path / "out" / "model.edge").exists()
    run_fit(tmp_path / "out", tmp_path / "cache", recipe)
    assert (tmp_path / "out" / "model.edge").read_bytes() == (alone / "model.edge").read_bytes()
    again, before = (report_of(out)["search"] for out in (tmp_path / "out", alone))
    assert again == before


def test_two_workers_on_one_storage_agree_and_pack_the_same_bundle(recipe, tmp_path):
    url = f"sqlite:///{tmp_path}/trials.db"
    workers = [
        start(recipe, tmp_path / f"out{i}", tmp_path / f"cache{i}", "--storage", url)
        for i in range(2)
    ]
    began = time.monotonic()
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert time.monotonic() - began < 300
    assert [worker.returncode for worker in workers] == [0, 0], said
    one, other = (report_of(tmp_path / f"out{i}") for i in range(2))
    assert one["search"] == other["search"]
    assert len(one["search"]["trials"]) == 4
    bundles = [(tmp_path / f"out{i}" / "model.edge").read_bytes() for i in range(2)]
    assert bundles[0] == bundles[1]
    told = [sum("  trial " in line for line in text.splitlines()) for text in said]
    assert sum(told) == 4
