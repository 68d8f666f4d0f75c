"""Samples: every row once, in batches that a network can take."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from edgedistill import samples as samples_module
from edgedistill.samples import (
    ArraySamples,
    TokenSamples,
    evaluation_batches,
    training_batches,
)

SEED = 3


def texts(count=50, longest=20, seed=SEED):
    random = np.random.default_rng(seed)
    return [random.integers(1, 90, n) for n in random.integers(1, longest + 1, count)]


def images(count=50):
    return ArraySamples(torch.arange(count * 4, dtype=torch.float32).reshape(count, 1, 2, 2))


# Rows


def test_images_are_given_by_row():
    made = images()
    (batch,) = made.batch(np.array([3, 0, 3]))
    assert torch.equal(batch, made.rows[[3, 0, 3]])
    assert made.lengths is None
    assert len(made) == 50


def test_texts_are_padded_to_the_longest_of_the_batch():
    rows = texts()
    made = TokenSamples(rows, pad=99)
    chosen = np.array([4, 0, 7, 4])
    ids, mask = made.batch(chosen)
    longest = max(len(rows[i]) for i in chosen)
    assert ids.shape == mask.shape == (4, longest)
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.float32)
    for i, row in enumerate(chosen):
        count = len(rows[row])
        assert ids[i, :count].tolist() == rows[row].tolist()
        assert (ids[i, count:] == 99).all()
        assert mask[i].tolist() == [1.0] * count + [0.0] * (longest - count)
    assert made.lengths.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_one_row_is_what_the_exported_model_takes(kind):
    if kind == "images":
        made = images()
        np.testing.assert_array_equal(made.one(7), made.rows[7:8].numpy())
        return
    rows = texts()
    made = TokenSamples(rows, pad=0)
    for i in (0, 7, len(rows) - 1):
        one = made.one(i)
        assert one.dtype == np.int64
        np.testing.assert_array_equal(one, rows[i][None])


def test_the_first_rows_alone_are_the_same_rows():
    rows = texts()
    for count in (1, 7, 50):
        few = TokenSamples(rows, pad=5).first(count)
        assert len(few) == count
        chosen = np.arange(count)
        for one, other in zip(few.batch(chosen), TokenSamples(rows, 5).batch(chosen), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(images().first(count).rows, images().rows[:count])


# Batches


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 1500])
def test_evaluation_shows_every_image_once(count):
    batches = list(evaluation_batches(images(count)))
    assert np.concatenate(batches).tolist() == list(range(count))
    assert max(map(len, batches)) <= samples_module.EVALUATION_ROWS


@pytest.mark.parametrize("count", [1, 2, 513, 1500])
def test_evaluation_shows_every_text_once_beside_texts_of_like_length(count):
    made = TokenSamples(texts(count), pad=0)
    batches = list(evaluation_batches(made))
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    lengths = [made.lengths[rows] for rows in batches]
    assert all(a.max() <= b.min() for a, b in pairwise(lengths))


def test_a_text_longer_than_a_batch_may_be_is_a_batch_of_its_own():
    rows = [np.ones(n, np.int64) for n in (samples_module.EVALUATION_TOKENS + 1, 3)]
    batches = list(evaluation_batches(TokenSamples(rows, pad=0)))
    assert sorted(np.concatenate(batches).tolist()) == [0, 1]


@pytest.mark.parametrize("kind", ["images", "texts"])
@pytest.mark.parametrize(("count", "views", "batch_size"), [(20, 1, 8), (20, 3, 8), (17, 2, 4)])
def test_an_epoch_shows_every_sample_once_under_one_view(kind, count, views, batch_size):
    """Of 20 samples in 3 views; those after `count` are not labelled, and so left out."""
    made = images(60) if kind == "images" else TokenSamples(texts(60), pad=0)
    batches = training_batches(made, 20, count, views, batch_size, np.random.default_rng(SEED))
    rows = np.concatenate(batches)
    assert sorted(rows % 20) == list(range(count))
    assert set(rows // 20) == set(range(views))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-count // batch_size)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_an_epoch_depends_on_its_generator_alone(kind):
    made = images(60) if kind == "images" else TokenSamples(texts(60), pad=0)
    one, same, other = (
        np.concatenate(training_batches(made, 20, 20, 3, 4, np.random.default_rng(seed)))
        for seed in (1, 1, 2)
    )
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()


def test_texts_of_like_length_share_a_batch_and_long_ones_do_not_come_last():
    made = TokenSamples(texts(400, longest=60), pad=0)
    batches = training_batches(made, 400, 400, 1, 8, np.random.default_rng(SEED))
    padded = sum(made.lengths[rows].max() * len(rows) for rows in batches)
    assert padded < 1.1 * made.lengths.sum()
    longest = [made.lengths[rows].max() for rows in batches]
    assert longest != sorted(longest)


def test_only_texts_near_each_other_in_the_random_order_share_a_batch():
    """Within 50 batches: an epoch is still random."""
    made = TokenSamples(texts(400), pad=0)
    order = np.random.default_rng(SEED).permutation(400)
    batches = training_batches(made, 400, 400, 1, 2, np.random.default_rng(SEED))
    place = np.empty(400, np.int64)
    place[order] = np.arange(400)
    for rows in batches:
        assert len(set(place[rows] // 100)) == 1
