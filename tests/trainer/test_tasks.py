"""What a task brings: the board's own preprocessing, seeded views, a metric, a teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill.data import Split
from edgedistill.tasks import ImageClassification
from edgedistill_runtime import preprocess

SEED = 7
SHAPES = [(8, 8, 1), (4, 4, 1), (7, 11, 3), (32, 24, 3)]
TASK = ImageClassification()


def split(shape, count=12):
    random = np.random.default_rng(SEED)
    return Split(random.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_sees_bit_for_bit_what_the_board_computes_for_one_image(shape):
    train = split(shape)
    steps = TASK.preprocess(train)
    others = np.random.default_rng(SEED + 1).integers(0, 256, (20, *shape), np.uint8)
    prepared = TASK.prepare(steps, others)
    on_the_board = preprocess.build(steps)
    assert prepared.dtype == torch.float32
    assert prepared.shape == (20, shape[2], *shape[:2])
    for tensor, image in zip(prepared, others, strict=True):
        array = on_the_board(image)
        assert array.dtype == np.float32
        assert tensor.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_training_images_get_mean_zero_and_deviation_one_in_each_channel(shape):
    train = split(shape, count=200)
    prepared = TASK.prepare(TASK.preprocess(train), train.x)
    assert prepared.mean((0, 2, 3)).abs().max() < 1e-2
    assert (prepared.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_the_steps_are_plain_values_that_a_manifest_can_hold():
    for step in TASK.preprocess(split((8, 8, 3))):
        for value in step.values():
            values = value if isinstance(value, list) else [value]
            assert all(type(each) in (str, float) for each in values)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_value_are_prepared_to_finite_numbers(value):
    train = Split(np.full((10, 8, 8, 1), value, np.uint8), np.arange(10) % 2)
    prepared = TASK.prepare(TASK.preprocess(train), train.x)
    assert torch.isfinite(prepared).all()
    assert prepared.abs().max() < 1


def test_a_channel_of_one_value_does_not_disturb_the_others():
    train = split((8, 8, 3), count=200)
    train.x[..., 1] = 9
    prepared = TASK.prepare(TASK.preprocess(train), train.x)
    assert torch.isfinite(prepared).all()
    assert (prepared[:, [0, 2]].std((0, 2, 3)) - 1).abs().max() < 1e-2


# Views


def prepared_images(shape=(8, 8, 1), count=12):
    train = split(shape, count)
    return TASK.prepare(TASK.preprocess(train), train.x)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_view_is_the_image_itself_and_all_have_its_shape(shape):
    images = prepared_images(shape)
    views = TASK.views(images, 4, SEED)
    assert views.shape == (4, *images.shape)
    assert torch.equal(views[0], images)
    for view in views[1:]:
        assert torch.isfinite(view).all()
        assert not torch.equal(view, images)


def test_one_view_is_the_image_alone():
    images = prepared_images()
    assert torch.equal(TASK.views(images, 1, SEED), images[None])


def test_views_depend_on_their_seed_and_on_nothing_else_that_is_random():
    images = prepared_images()
    one = TASK.views(images, 3, SEED)
    torch.manual_seed(99)
    torch.rand(10)
    assert torch.equal(TASK.views(images, 3, SEED), one)
    assert not torch.equal(TASK.views(images, 3, SEED + 1)[1:], one[1:])


def test_making_views_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TASK.views(prepared_images(), 3, SEED)
    assert torch.equal(torch.rand(3), expected)


def test_more_views_begin_with_the_fewer_ones():
    images = prepared_images()
    assert torch.equal(TASK.views(images, 5, SEED)[:3], TASK.views(images, 3, SEED))


def test_a_view_is_no_other_image_only_turned_scaled_and_moved():
    images = torch.full((6, 1, 8, 8), 0.5)
    assert torch.allclose(TASK.views(images, 4, SEED), torch.tensor(0.5))
    images = prepared_images(count=30)
    views = TASK.views(images, 4, SEED)
    low, high = images.amin((1, 2, 3)), images.amax((1, 2, 3))
    for view in views:
        assert (view.amin((1, 2, 3)) >= low - 1e-4).all()
        assert (view.amax((1, 2, 3)) <= high + 1e-4).all()


# Metric and teacher


def test_the_score_is_the_share_of_right_answers():
    logits = np.array([[2, 1], [0, 3], [1, 0], [5, 1]], np.float32)
    assert TASK.score(logits, np.array([0, 1, 1, 0])) == 0.75


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 7, 11)])
def test_the_teacher_takes_the_images_and_gives_logits(shape):
    teacher = TASK.teacher(shape, 5).eval()
    assert teacher(torch.zeros(2, *shape)).shape == (2, 5)
