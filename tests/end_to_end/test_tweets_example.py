"""The tweets example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.opinions import write_toml

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("tweets")]

EXAMPLE = ROOT / "examples" / "tweets"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder in which the example's first command was run, at small size."""
    folder = tmp_path_factory.mktemp("tweets")
    command = [sys.executable, EXAMPLE / "prepare.py", "--out", folder / "data" / "tweets"]
    done = subprocess.run([*command, "--rows", "400"], capture_output=True, text=True, check=False)
    if done.returncode and "pip could not download" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return folder


def test_prepare_writes_a_stratified_sample_and_the_model(prepared: Path) -> None:
    folder = prepared / "data" / "tweets"
    lines = (folder / "tweets.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "text,label"
    assert len(lines) == 401
    shares = [
        sum(line.endswith(f",{label}") for line in lines) for label in ("negative", "neutral")
    ]
    assert shares == [172, 156]  # as among 36,583
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= {
        path.name for path in (folder / "minilm").iterdir()
    }


def test_the_examples_recipe_ends_in_a_bundle_that_answers(
    prepared, command, board, monkeypatch
) -> None:
    monkeypatch.chdir(prepared)
    options = tomllib.loads((EXAMPLE / "recipe.toml").read_text(encoding="utf-8"))
    # so little data have too few different words for the example's vocabulary
    options["spec"] = options.get("spec", {}) | {"vocabulary": 1000}
    options["min_retention"] = 0.1
    options["training"] = {"epochs": 2, "trial_epochs": 1, "views": [1], "alpha": [0.5, 0.9]}
    options["teacher_training"] = {"epochs": 2, "layers": 0, "learning_rate": 0.01}
    toml = write_toml(prepared / "small.toml", options)
    done = command("fit", toml, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["teacher"]["name"] == "bert, 6 layers of 384"
    assert report["teacher"]["params"] > 22_000_000
    assert report["student"]["params"] < report["teacher"]["params"] / 20
    assert "main components of the teacher's 384" in report["student"]["adopted"]
    (prepared / "some.txt").write_text("I love this phone\nworst day ever\n", encoding="utf-8")
    rows = board("predict", prepared / "build" / "tweets" / "model.edge", "some.txt")
    assert [row["label"] in ("negative", "neutral", "positive") for row in rows] == [True, True]
