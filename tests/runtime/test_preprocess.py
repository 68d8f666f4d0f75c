"""The steps before the model: what they compute, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistill_runtime import preprocess
from edgedistill_runtime.errors import BundleError

NORMALIZE = {"op": "normalize", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
FIRST = {"op": "channels_first"}
STEPS = [NORMALIZE, FIRST]


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (6, 4, 5, 3), np.uint8)


def test_normalize_is_its_definition(images):
    normalized = preprocess.build([NORMALIZE])(images)
    expected = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert normalized.dtype == np.float32
    assert np.allclose(normalized, expected, rtol=0, atol=1e-6)


def test_channels_first_moves_the_last_axis(images):
    moved = preprocess.build([FIRST])(images)
    assert moved.shape == (6, 3, 4, 5)
    assert moved.flags.c_contiguous
    assert np.array_equal(moved[2, 1], images[2, :, :, 1])


def test_a_batch_is_its_samples(images):
    """The host prepares whole splits, the board one sample: the very same numbers."""
    run = preprocess.build(STEPS)
    assert np.array_equal(run(images), np.stack([run(image) for image in images]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_every_number_type_becomes_float32(images, dtype):
    assert preprocess.build(STEPS)(images.astype(dtype)).dtype == np.float32


def test_no_steps_change_nothing(images):
    assert preprocess.build([])(images) is images


def test_the_input_stays_as_it_was(images):
    before = images.copy()
    preprocess.build(STEPS)(images)
    assert np.array_equal(images, before)


def test_a_misspelt_step_gets_a_hint():
    with pytest.raises(BundleError, match="named 'normalise'; did you mean 'normalize'"):
        preprocess.build([{"op": "normalise"}])


@pytest.mark.parametrize("step", [{}, {"op": None}, {"op": ["normalize"]}, {"op": {}}, {"op": ""}])
def test_a_step_without_a_name_is_refused(step):
    with pytest.raises(BundleError, match="no preprocessing step"):
        preprocess.build([step])


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0, 1, 1]},
        {"std": [-1, 1, 1]},
        {"std": [1, 1]},
        {"std": []},
        {"mean": []},
        {"mean": 0.5, "std": 0.5},
        {"mean": [[0.5]], "std": [[0.5]]},
        {"mean": "abc", "std": "abc"},
        {"mean": [None] * 3},
        {"mean": ["1", "2", "3"]},
        {"mean": {"0": 1}, "std": {"0": 1}},
        {"scale": None},
        {"scale": "1"},
        {"scale": [1, 2, 3]},
        {"scale": 1e300},
        {"mean": [1e300, 0, 0]},
        {"std": [1e300, 1, 1]},
        {"std": [1e-300, 1, 1]},
        {"stdd": [1, 1, 1]},
    ],
)
def test_wrong_arguments_are_refused(changes):
    with pytest.raises(BundleError, match="the preprocessing step 'normalize' has wrong arguments"):
        preprocess.build([{**NORMALIZE, **changes}])


def test_more_means_than_channels_are_an_error_and_no_broadcast(images):
    with pytest.raises(ValueError, match="3 means for 1 channels"):
        preprocess.build([NORMALIZE])(images[..., :1])


def test_a_step_that_needs_a_file_says_which():
    step = {"op": "tokenize", "file": "tokenizer.json", "max_length": 8, "max_characters": 8}
    with pytest.raises(BundleError, match=r"'tokenize' lacks its file 'tokenizer\.json'"):
        preprocess.build([step])
