"""The watch example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import examples_support

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("watch")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return examples_support.prepared("watch", tmp_path_factory.mktemp("watch"), limit=490)


def test_the_examples_recipe_ends_in_a_bundle_that_answers(
    prepared, command, board, monkeypatch
) -> None:
    monkeypatch.chdir(prepared)
    done = command("fit", examples_support.small_recipe("watch", prepared), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["task"] == "sensor-classification"
    assert report["student"]["params"] == 38_523
    assert report["teacher"]["params"] > 8 * report["student"]["params"]
    with np.load(prepared / "data" / "watch" / "watch.npz") as file:
        np.save(prepared / "window.npy", file["x"][0])
        exercises = set(file["y"].tolist())
    (row,) = board("predict", prepared / "build" / "watch" / "model.edge", "window.npy")
    assert row["label"] in exercises


def test_the_real_windows_have_every_exercise_of_every_subject(prepared) -> None:
    with np.load(prepared / "data" / "watch" / "watch.npz") as file:
        assert file["x"].shape == (490, 6, 128)
        assert file["rate"] == 50
        pairs = set(zip(file["y"].tolist(), file["group"].tolist(), strict=True))
    assert len(pairs) == 7 * 10
