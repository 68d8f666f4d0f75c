"""The spoken digits example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import examples_support

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("spoken_digits")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return examples_support.prepared(
        "spoken_digits", tmp_path_factory.mktemp("spoken_digits"), limit=200
    )


def test_the_examples_recipe_ends_in_a_bundle_that_answers(
    prepared, command, board, monkeypatch
) -> None:
    monkeypatch.chdir(prepared)
    done = command("fit", examples_support.small_recipe("spoken_digits", prepared), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["task"] == "sensor-classification"
    assert report["student"]["params"] == 39_522
    assert report["teacher"]["params"] > 8 * report["student"]["params"]
    with np.load(prepared / "data" / "spoken_digits" / "spoken_digits.npz") as file:
        np.save(prepared / "digit.npy", file["x"][0])
    (row,) = board("predict", prepared / "build" / "spoken_digits" / "model.edge", "digit.npy")
    assert row["label"] in "0123456789"


def test_the_real_recordings_are_the_packages(prepared) -> None:
    with np.load(prepared / "data" / "spoken_digits" / "spoken_digits.npz") as file:
        assert file["x"].shape == (200, 13, 92)
        assert np.bincount(file["y"]).tolist() == [20] * 10
        frames = file["x"].any(1).cumsum(1).max(1)
        assert 6 <= frames.min() <= frames.max() <= 92
        assert np.isfinite(file["x"]).all()
