"""The benchmarks of distillation run, on data and a teacher that are too small to say anything."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

WORDS = {"negative": "bad awful", "neutral": "is was", "positive": "good great"}
FILLERS = ("the", "a", "film", "food", "it", "very", "i", "of", "and", "to")


def run(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def tweets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tweets") / "tweets.csv"
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(150):
            label, words = list(WORDS.items())[i % 3]
            text = [*random.choice(FILLERS, random.integers(2, 9)), random.choice(words.split())]
            rows.writerow([f"{' '.join(text)} {i}", label])
    return path


@pytest.fixture(scope="module")
def encoder(tweets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a bare encoder of transformers."""
    from transformers import BertConfig, BertModel

    from edgedistill.students import vocabulary

    folder = tmp_path_factory.mktemp("encoder")
    texts = tweets.read_text(encoding="utf-8").splitlines()
    (folder / "tokenizer.json").write_bytes(vocabulary.train(texts, 90))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = BertConfig(vocab_size=100, num_hidden_layers=2, max_position_embeddings=64, **shape)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def job(tweets: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job with a teacher that was fine-tuned for it."""
    folder = tmp_path_factory.mktemp("job")
    given = ["--data", tweets, "--encoder", encoder, "--out", folder / "teacher"]
    made = run("peers/make_teacher.py", *given, "--rows", 40, "--layers", 1)
    assert made.returncode == 0, made.stderr
    given = ["--data", tweets, "--teacher", folder / "teacher", "--out", folder]
    small = ["--width", 8, "--epochs", 2, "--batch-size", 16]
    made = run("peers/make_job.py", *given, *small)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a comparison script prints: one line of JSON."""
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    return result


def test_a_teacher_names_its_labels(job: Path) -> None:
    config = json.loads((job.parent / "teacher" / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == list(WORDS)


def test_edgedistill_and_the_trainer_take_the_same_steps_on_the_same_job(job: Path) -> None:
    ours = answer(run("peers/edgedistill_run.py", job))
    theirs = answer(run("peers/hf_trainer.py", job))
    assert ours["steps"] == theirs["steps"] == 2 * 8  # of 120 samples in batches of 16
    assert 0 < ours["cached_seconds"] < ours["seconds"]
    assert theirs.keys() == ours.keys() - {"cached_seconds"}


def test_without_torchdistill_the_comparison_says_how_to_get_it(job: Path, tmp_path: Path) -> None:
    missing = tmp_path / "bin" / "python"
    done = run("peers/compare.py", job, "--torchdistill-python", missing, "--out", tmp_path / "x")
    assert done.returncode == 2
    assert "requirements-torchdistill.txt" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_comparison_has_a_row_for_every_tool(job: Path, tmp_path: Path) -> None:
    """The tool of the other environment is given an environment in which it does not run."""
    stub = tmp_path / "python"
    line = {"seconds": 2.0, "cpu_seconds": 1.0, "samples_per_second": 1.0, "accuracy": 0.5}
    line |= {"steps": 16, "options": {}, "versions": {}}
    stub.write_text(f"#!/bin/sh\necho '{json.dumps(line)}'\n", encoding="utf-8")
    stub.chmod(0o755)
    out = tmp_path / "result.json"
    given = ["--torchdistill-python", stub, "--seeds", 1, "--out", out]
    done = run("peers/compare.py", job, *given)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert len(report["results"]) == 4
    assert report["results"][0]["times_slower"] == 1
    assert report["machine"]["cores"]
    assert all(row["tool"] in done.stdout for row in report["results"])


def test_a_cached_step_is_compared_with_the_teacher_in_the_loop(
    tweets: Path, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    size = ["--rows", 32, "--batch-size", 8, "--blocks", 1, "--block", 2]
    done = run("cached_step.py", "--data", tweets, "--teacher", encoder, *size, "--out", out)
    assert out.exists(), done.stderr  # whether or not this teacher is heavier than its student
    rows = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert [row["student"] for row in rows] == ["transformer", "static"]
    assert all(row["cached_cpu_ms"] > 0 and row["in_loop_cpu_ms"] > 0 for row in rows)


def test_a_sample_larger_than_the_data_is_refused(tweets: Path, encoder: Path) -> None:
    done = run("cached_step.py", "--data", tweets, "--teacher", encoder, "--rows", 4000)
    assert done.returncode == 2
    assert done.stderr.startswith("--rows is 4000")
