"""What a task brings: the board's own preprocessing, seeded views, a metric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import teachers_support
from tests.training_support import BAG, multi_label, sentences, stripes, tones, waves

from edgedistill.data import Dataset, Split
from edgedistill.errors import SettingsError
from edgedistill.tasks import (
    TOKENIZER,
    ImageClassification,
    TextClassification,
    Waveforms,
    task_of,
)
from edgedistill_runtime import preprocess
from edgedistill_runtime.manifest import Sample
from edgedistill_runtime.tokenize import TextEncoder

SEED = 7
SHAPES = [(8, 8, 1), (4, 4, 1), (7, 11, 3), (32, 24, 3)]


def split(shape, count=12):
    random = np.random.default_rng(SEED)
    return Split(random.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % 3)


def task_for(train):
    sample = Sample(kind="image", dtype="uint8", shape=train.x.shape[1:])
    return ImageClassification(Dataset("x", sample, ("a", "b", "c"), train, train, train))


@pytest.mark.parametrize("shape", SHAPES)
def test_training_sees_bit_for_bit_what_the_board_computes_for_one_image(shape):
    task = task_for(split(shape))
    steps = task.preprocessing(None, None).steps
    others = np.random.default_rng(SEED + 1).integers(0, 256, (20, *shape), np.uint8)
    prepared = task.prepare(others)
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
    prepared = task_for(train).prepare(train.x)
    assert prepared.mean((0, 2, 3)).abs().max() < 1e-2
    assert (prepared.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_the_steps_are_plain_values_that_a_manifest_can_hold():
    image = task_for(split((8, 8, 3))).preprocessing(None, None)
    text = TextClassification(sentences()).preprocessing(BAG, None)
    for step in (*image.steps, *text.steps):
        for value in step.values():
            values = value if isinstance(value, list) else [value]
            assert all(type(each) in (str, float, int) for each in values)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_value_are_prepared_to_finite_numbers(value):
    train = Split(np.full((10, 8, 8, 1), value, np.uint8), np.arange(10) % 2)
    prepared = task_for(train).prepare(train.x)
    assert torch.isfinite(prepared).all()
    assert prepared.abs().max() < 1


def test_a_channel_of_one_value_does_not_disturb_the_others():
    train = split((8, 8, 3), count=200)
    train.x[..., 1] = 9
    prepared = task_for(train).prepare(train.x)
    assert torch.isfinite(prepared).all()
    assert (prepared[:, [0, 2]].std((0, 2, 3)) - 1).abs().max() < 1e-2


MAKERS = {"images": stripes, "texts": sentences, "audio": tones, "sensors": waves}


def task_and_samples(kind):
    found = MAKERS[kind]()
    return task_of(found, "", 16), found.train.x


def seen(task, views):
    """What a network is given: an array of rows for each view; texts as they are."""
    if isinstance(task, TextClassification):
        return views
    return [samples.batch(np.arange(len(samples)))[0] for samples in map(alone(task), views)]


def alone(task):
    return lambda view: task.samples([view], None)


# Views of images


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_view_is_the_image_itself_and_all_have_its_shape(shape):
    train = split(shape)
    task = task_for(train)
    views = seen(task, task.views(train.x, 4, SEED))
    images = task.prepare(train.x)
    assert len(views) == 4
    assert torch.equal(views[0], images)
    for view in views[1:]:
        assert view.shape == images.shape
        assert torch.isfinite(view).all()
        assert not torch.equal(view, images)


@pytest.mark.parametrize("kind", MAKERS)
def test_views_depend_on_their_seed_and_on_nothing_else_that_is_random(kind):
    task, x = task_and_samples(kind)
    one = seen(task, task.views(x, 3, SEED))
    torch.manual_seed(99)
    torch.rand(10)
    assert equal(seen(task, task.views(x, 3, SEED)), one)
    assert not equal(seen(task, task.views(x, 3, SEED + 1))[1:], one[1:])


def equal(views, others):
    return all(np.array_equal(a, b) for a, b in zip(views, others, strict=True))


@pytest.mark.parametrize("kind", MAKERS)
def test_making_views_leaves_the_global_generators_alone(kind):
    task, x = task_and_samples(kind)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    task.views(x, 3, SEED)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", MAKERS)
def test_more_views_begin_with_the_fewer_ones(kind):
    task, x = task_and_samples(kind)
    few = seen(task, task.views(x, 3, SEED))
    assert equal(seen(task, task.views(x, 5, SEED))[:3], few)
    assert equal(seen(task, task.views(x, 1, SEED)), few[:1])


def test_a_view_is_no_other_image_only_turned_scaled_and_moved():
    train = Split(np.full((6, 8, 8, 1), 128, np.uint8), np.arange(6) % 2)
    task = task_for(train)
    for view in seen(task, task.views(train.x, 4, SEED)):
        assert torch.allclose(view, task.prepare(train.x), atol=1e-5)
    train = split((8, 8, 1), count=30)
    task = task_for(train)
    images, *views = seen(task, task.views(train.x, 4, SEED))
    low, high = images.amin((1, 2, 3)), images.amax((1, 2, 3))
    for view in views:
        assert (view.amin((1, 2, 3)) >= low - 1e-4).all()
        assert (view.amax((1, 2, 3)) <= high + 1e-4).all()


def test_the_rows_of_images_are_view_after_view():
    train = split((8, 8, 1))
    task = task_for(train)
    views = task.views(train.x, 3, SEED)
    samples = task.samples(views, None)
    assert len(samples) == 36
    (batch,) = samples.batch(np.array([2 * 12 + 5, 7, 12 + 5]))
    apart = seen(task, views)
    assert torch.allclose(batch, torch.stack([apart[2][5], apart[0][7], apart[1][5]]), atol=1e-6)
    assert torch.equal(torch.from_numpy(samples.one(7)[0]), apart[0][7])
    assert len(samples.first(24)) == 24
    assert equal(samples.first(24).batch(np.arange(24)), samples.batch(np.arange(24)))


# Sound and sensors


@pytest.mark.parametrize("kind", ["audio", "sensors"])
def test_sound_and_readings_are_what_the_board_computes_for_one(kind):
    task, x = task_and_samples(kind)
    board = preprocess.build(task.preprocessing(None, None).steps)
    prepared = task.prepare(x)
    assert tuple(prepared.shape[1:]) == task.data.input_shape
    for tensor, sample in zip(prepared, x, strict=True):
        assert tensor.numpy().tobytes() == board(sample).tobytes()


@pytest.mark.parametrize("kind", ["audio", "sensors"])
def test_each_band_or_channel_gets_mean_zero_and_deviation_one(kind):
    task, x = task_and_samples(kind)
    prepared = task.prepare(x)
    over = (0, 1, 3) if kind == "audio" else (0, 2, 3)
    assert prepared.mean(over).abs().max() < 1e-2
    assert (prepared.std(over) - 1).abs().max() < 5e-2


def test_views_of_sound_stay_within_16_bits_and_near_the_clip():
    task, x = task_and_samples("audio")
    for view in task.views(x, 4, SEED):
        assert view.dtype == np.int16
        assert view.shape == x.shape
        assert 0.3 < view.astype(float).std() / x.astype(float).std() < 2.1


def test_a_teacher_of_waveforms_hears_the_same_views_at_its_own_rate():
    task, x = task_and_samples("audio")
    views = task.views(x, 2, SEED)
    same = task.samples(views, Waveforms(task.rate_hz))
    assert torch.equal(
        same.batch(np.array([len(x) + 1]))[0][0], torch.from_numpy(views[1][1] / np.float32(32768))
    )
    double = task.samples(views, Waveforms(2 * task.rate_hz))
    assert double.batch(np.array([0, 1]))[0].shape == (2, 2 * x.shape[1])
    assert double.first(len(x)).batch(np.array([3]))[0].shape == (1, 2 * x.shape[1])


def test_views_of_readings_keep_to_their_range():
    task, x = task_and_samples("sensors")
    first, *others = seen(task, task.views(x, 4, SEED))
    assert torch.equal(first, task.prepare(x))
    for view in others:
        assert view.shape == first.shape
        assert 0.05 < (view - first).std() < 1.5


# Texts


def test_a_view_of_a_text_is_the_text_with_some_words_left_out():
    task, x = task_and_samples("texts")
    first, *others = task.views(x, 6, SEED)
    assert list(first) == list(x)
    dropped = total = 0
    for view in others:
        for text, whole in zip(view, x, strict=True):
            words = iter(whole.split())
            assert text.split()
            assert all(word in words for word in text.split())  # in their order
            dropped += len(whole.split()) - len(text.split())
            total += len(whole.split())
    assert 0.1 < dropped / total < 0.2


@pytest.mark.parametrize("text", ["", "   ", "one"])
def test_a_text_of_few_words_is_never_left_without_any(text):
    found = sentences()
    found.train.x[0] = text
    task = task_of(found, "", 16)
    for view in task.views(found.train.x, 12, SEED):
        assert view[0] == text


def test_the_tokenizer_is_the_teachers_trimmed_or_one_of_the_texts_own():
    found = sentences()
    task = TextClassification(found, max_length=9)
    tokenizer = teachers_support.word_piece().backend_tokenizer
    own, trimmed = (task.preprocessing(BAG, t) for t in (None, tokenizer.to_str().encode()))
    assert own.token_ids is None
    names = {i: token for token, i in tokenizer.get_vocab().items()}
    entries = TextEncoder.build(trimmed.files[TOKENIZER], 9, 10_000)
    assert trimmed.token_ids.shape == (BAG.vocabulary,)
    assert len(set(trimmed.token_ids.tolist())) == BAG.vocabulary
    assert {"good", "bad", "[CLS]", "[SEP]"} <= {names[i] for i in trimmed.token_ids.tolist()}
    theirs = tokenizer.encode("the film was good").ids
    assert trimmed.token_ids[entries.encode("the film was good")].tolist() == theirs
    for made in (own, trimmed):
        assert made.encoder.vocabulary_size == BAG.vocabulary
        assert made.steps == (
            {
                "op": "tokenize",
                "file": TOKENIZER,
                "max_length": 9,
                "max_characters": 10_000,
            },
        )


def test_training_sees_the_tokens_that_the_board_computes_for_one_text():
    found = sentences()
    task = TextClassification(found, max_length=6)
    made = task.preprocessing(BAG, None)
    board = TextEncoder.build(made.files[TOKENIZER], 6, 10_000)
    samples = task.samples([found.test.x], made.encoder)
    for row, text in enumerate(found.test.x):
        np.testing.assert_array_equal(samples.one(row)[0], board.encode(text))
    assert samples.lengths.max() == 6


# Metric


def test_the_score_is_the_share_of_right_answers():
    task = task_of(stripes(), "", 16)
    logits = np.array([[2, 1], [0, 3], [1, 0], [5, 1]], np.float32)
    assert task.metric == "accuracy"
    assert task.score(logits, np.array([0, 1, 1, 0])) == 0.75
    assert task.scores(logits, np.array([0, 1, 1, 0])).keys() == {"accuracy", "f1_macro"}


def test_several_labels_a_sample_are_scored_by_macro_f1():
    task = task_of(multi_label(sentences()), "", 16)
    assert task.metric == "f1_macro"
    answers = np.array([[1, -1, -1], [1, 1, -1], [-1, 1, -1]], np.float32)
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    # of the first class one of two answers is right and none missing; of the second both are
    assert task.score(answers, targets) == pytest.approx((2 / 3 + 1) / 2)
    assert task.scores(answers, targets).keys() == {"f1_macro"}


def test_accuracy_is_not_for_several_labels():
    with pytest.raises(SettingsError, match="metric 'accuracy' is for one label a sample"):
        task_of(multi_label(sentences()), "accuracy", 16)
