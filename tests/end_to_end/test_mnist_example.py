"""The MNIST example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import examples_support

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("mnist")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return examples_support.prepared("mnist", tmp_path_factory.mktemp("mnist"), limit=200)


def test_the_examples_recipe_ends_in_a_bundle_that_answers(
    prepared, command, board, monkeypatch
) -> None:
    monkeypatch.chdir(prepared)
    done = command("fit", examples_support.small_recipe("mnist", prepared), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["task"] == "image-classification"
    assert report["student"]["params"] == 10_986
    assert report["teacher"]["params"] > 20 * report["student"]["params"]
    with np.load(prepared / "data" / "mnist" / "mnist.npz") as file:
        np.save(prepared / "digit.npy", file["x"][0][..., None])
    (row,) = board("predict", prepared / "build" / "mnist" / "model.edge", "digit.npy")
    assert row["label"] in "0123456789"


def test_the_real_images_are_the_packages(prepared) -> None:
    with np.load(prepared / "data" / "mnist" / "mnist.npz") as file:
        assert file["x"].shape == (200, 28, 28)
        assert np.bincount(file["y"]).tolist() == [20] * 10
        assert file["x"][:, 0].max() == 0  # the margin
        assert file["x"].max() == 255
