"""The MNIST example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from tests import examples_support

from edgedistill import teachers
from edgedistill.data import load
from edgedistill.errors import TeacherError

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("mnist")]

DIGITS = tuple("0123456789")


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
    assert row["label"] in DIGITS


def test_the_real_images_are_the_packages(prepared) -> None:
    with np.load(prepared / "data" / "mnist" / "mnist.npz") as file:
        assert file["x"].shape == (200, 28, 28)
        assert np.bincount(file["y"]).tolist() == [20] * 10
        assert file["x"][:, 0].max() == 0  # the margin
        assert file["x"].max() == 255


REFERENCE = "examples.mnist.efficientnet:teacher"


@pytest.fixture
def lite(prepared, monkeypatch):
    """The EfficientNet as `fit --teacher` loads it."""
    monkeypatch.chdir(prepared)
    monkeypatch.setattr(sys, "path", [*sys.path])  # its module and its wheel add to it
    try:
        return teachers.load(REFERENCE, "image-classification", 10, DIGITS, norm=((0.5,), (0.5,)))
    except TeacherError as error:
        if "pip could not download" in str(error):
            pytest.skip(str(error))
        raise


def test_a_network_of_imagenet_is_a_teacher_by_reference(lite) -> None:
    assert lite.labels == DIGITS
    assert sum(weight.numel() for weight in lite.network.parameters()) == 3_383_818
    test = load("data/mnist/mnist.npz").test
    pixels = torch.from_numpy(test.x).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        answers = lite.network((pixels - 0.5) / 0.5).argmax(1)
    assert (answers.numpy() == test.y).mean() > 0.5  # of 50 images; chance is 0.1


def test_that_teacher_is_fetched_once_and_fitted_on_no_image_that_is_held_out(
    lite, prepared, monkeypatch
) -> None:
    data = load("data/mnist/mnist.npz")
    seen = {image.tobytes() for image in data.train.x}
    with np.load("data/mnist/mnist.npz") as file:
        x, y = file["x"], file["y"]
    held_out = [image.tobytes() not in seen for image in x]
    assert sum(held_out) == len(data.validation) + len(data.test)
    x[held_out] = 255 - x[held_out]
    np.savez("negatives.npz", x=x, y=y)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("examples.mnist.efficientnet.IMAGES", prepared / "negatives.npz")
    after = teachers.load(REFERENCE, "image-classification", 10, DIGITS, norm=((0.5,), (0.5,)))
    assert after.digest == lite.digest
