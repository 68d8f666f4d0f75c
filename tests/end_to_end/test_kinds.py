"""Images, sound and sensors, from the user's files to a bundle that answers for new ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests import kinds
from tests.conftest import Fitted, run_fit

from edgedistill_runtime import load

pytestmark = [pytest.mark.slow, pytest.mark.end_to_end]


@pytest.fixture(scope="module", params=["image", "audio", "sensor"])
def made(request, tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp(request.param)
    path = kinds.recipe(folder, request.param, precision="int8", unknown=0.9, top_k=2)
    done = run_fit(folder / "out", cache, str(path), check=False)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    return request.param, folder, Fitted(folder / "out", report, done.stdout, done.stderr)


def run(*words):
    command = [sys.executable, "-m", "edgedistill_runtime", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_student_learns_and_the_packed_file_scores_what_is_reported(made):
    kind, _, fitted = made
    student = fitted.report["student"]["metric"]
    assert fitted.report["task"] == f"{kind}-classification"
    assert fitted.report["teacher"]["metric"] > 0.8
    assert student > 0.7
    done = run("evaluate", fitted.bundle, fitted.test_split, "--json")
    found = json.loads(done.stdout)
    assert found["value"] == pytest.approx(student, abs=1e-9)
    assert found["samples"] == fitted.report["test_samples"]


def test_the_answers_are_those_that_the_report_promises(made):
    _, _, fitted = made
    promised = fitted.report["answers"]
    model = load(fitted.bundle)
    with np.load(fitted.test_split, allow_pickle=False) as split:
        answers = [model.predict(x) for x in split["x"]]
        y = split["y"]
    given = np.array([answer.label != promised["unknown"] for answer in answers])
    assert given.mean() == pytest.approx(promised["answered"])
    labels = model.manifest.labels
    right = [a.label == labels[i] for a, i in zip(answers, y, strict=True) if a.labels]
    if right:
        assert np.mean(right) == pytest.approx(promised["answered_metric"])
    for answer in answers:
        assert len(answer.top) == 2
        assert answer.top[0][1] >= answer.top[1][1]


def test_a_new_file_is_answered_as_its_own_kind(made, tmp_path):
    kind, folder, fitted = made
    if kind == "image":
        source = sorted((folder / "photos" / "рамка").iterdir())[0]
    elif kind == "audio":
        source = sorted((folder / "sounds" / "high").iterdir())[0]
    else:
        lines = (folder / "readings.csv").read_text(encoding="utf-8").splitlines()
        rows = [line.rsplit(",", 2)[0] for line in lines[:33]]
        source = tmp_path / "new.csv"
        source.write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = run("predict", fitted.bundle, source)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[0])
    expected = {"image": "рамка", "audio": "high", "sensor": "rest"}[kind]
    assert answer["top"][0][0] == expected


def test_a_group_never_stands_in_two_splits(made):
    kind, folder, fitted = made
    if kind != "sensor":
        pytest.skip("only the readings have groups")
    with np.load(fitted.test_split, allow_pickle=False) as split:
        seen = {x.tobytes() for x in split["x"]}
    lines = (folder / "readings.csv").read_text(encoding="utf-8").splitlines()[1:]
    subjects = set()
    for start in range(0, len(lines), 96):  # a recording
        block = [line.split(",") for line in lines[start : start + 96]]
        values = np.array([[float(a), float(b)] for a, b, *_ in block], np.float32).T
        if (
            values[:, :32].tobytes() in seen
            or np.ascontiguousarray(values[:, :32]).tobytes() in seen
        ):
            subjects.add(block[0][3])
    assert 0 < len(subjects) < 12
    windows = sum(1 for _ in seen)
    assert windows == len(subjects) * 3 * ((96 - 32) // 16 + 1)


def test_a_wav_of_another_rate_is_refused_in_one_sentence(made, tmp_path: Path):
    kind, _, fitted = made
    if kind != "audio":
        pytest.skip("only sound has a rate")
    sound = kinds.tone(0, np.random.default_rng(1))
    source = kinds.write_wav(tmp_path / "other.wav", sound, 16_000)
    done = run("predict", fitted.bundle, source)
    answer = json.loads(done.stdout.splitlines()[0])
    assert "16000" in answer["error"].replace(",", "")
    assert "8000" in answer["error"].replace(",", "")
