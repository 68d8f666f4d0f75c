"""A teacher's outputs: the same from the disk as from the network, and never those of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training_support import Stopped
from torch import nn

from edgedistill.distill import outputs
from edgedistill.distill.features import Attention, Feature
from edgedistill.distill.outputs import FeatureSource, answers, fingerprint, translated
from edgedistill.samples import ArraySamples, TokenSamples
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.students.textmodules import TextTransformer

CPU = torch.device("cpu")
SEED = 4


def texts(count=150, longest=12, vocabulary=30, seed=SEED):
    random = np.random.default_rng(seed)
    return [random.integers(1, vocabulary, n) for n in random.integers(1, longest + 1, count)]


@pytest.fixture
def encoder():
    torch.manual_seed(SEED)
    return TextTransformer(30, 16, 2, 16, 2, 32, 16, 3).eval()


@pytest.fixture
def convolutional():
    torch.manual_seed(SEED)
    return ConvNet().build(ConvNetSpec("dense", 8, 2.0, 2, 1, 3), (1, 8, 8), 3).eval()


def images(count=70):
    return ArraySamples(
        torch.from_numpy(np.random.default_rng(1).normal(size=(count, 1, 8, 8))).float()
    )


# Answers


def test_answers_are_in_the_order_of_the_rows(encoder):
    """Whatever batches they were computed in."""
    samples = TokenSamples(texts(), pad=0)
    made = answers(encoder, samples, CPU)
    assert made.shape == (150, 3)
    with torch.no_grad():
        for i in (0, 7, 149):
            alone = encoder(torch.from_numpy(samples.one(i)))
            np.testing.assert_allclose(made[i], alone[0].numpy(), atol=1e-5)


def test_answers_tell_how_far_they_are(encoder):
    told = []
    answers(encoder.train(), TokenSamples(texts(1200), pad=0), CPU, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 1
    assert not encoder.training


# Fingerprints


def test_a_fingerprint_is_that_of_every_row():
    rows = texts(700)
    one = fingerprint(TokenSamples(rows, pad=0))
    assert fingerprint(TokenSamples(texts(700), pad=0)) == one
    for place in (0, 699):
        changed = [row.copy() for row in rows]
        changed[place][-1] += 1
        assert fingerprint(TokenSamples(changed, pad=0)) != one
    assert fingerprint(TokenSamples(rows[:-1], pad=0)) != one
    swapped = [rows[1], rows[0], *rows[2:]]
    assert fingerprint(TokenSamples(swapped, pad=0)) != one


def test_a_fingerprint_tells_tokens_from_padding():
    one = TokenSamples([np.array([5, 0]), np.array([5, 1])], pad=0)
    other = TokenSamples([np.array([5]), np.array([5, 1])], pad=0)
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_of_images_is_that_of_every_pixel():
    one = images()
    changed = ArraySamples(one.rows.clone())
    changed.rows[69, 0, 7, 7] += 1e-3
    assert fingerprint(one) == fingerprint(images())
    assert fingerprint(one) != fingerprint(changed)


# Features


def features(of):
    """Of every kind: embeddings, hidden states, attention scores, a query, one vector a text."""
    layers = [
        Attention(f"layers.{i}.attention.query", f"layers.{i}.attention.key", "", 2)
        for i in range(2)
    ]
    return (
        Feature(("embeddings",)),
        *(Feature((f"layers.{i}",)) for i in range(2)),
        *(Feature((a.query, a.key), a.heads) for a in layers),
        Feature((layers[-1].query,)),
        Feature(("head",)),
    )


def test_features_of_texts_from_the_disk_are_those_of_the_network(encoder, tmp_path):
    """Up to half precision, of each token; padding is 0."""
    samples = TokenSamples(texts(), pad=0)
    source = FeatureSource(encoder, features(encoder), samples, translated(None), CPU)
    stored = FeatureSource(encoder, features(encoder), samples, translated(None), CPU)
    path = tmp_path / "features.f16"
    stored.store(path, lambda done: None)
    assert path.stat().st_size == source.size == stored.size
    stored.read_from(path)
    random = np.random.default_rng(SEED)
    for rows in (random.choice(150, 16, replace=False), np.array([149, 0])):
        mask = samples.batch(rows)[1]
        computed, read = source.of(rows), stored.of(rows)
        assert computed.keys() == read.keys() == {f.key for f in features(encoder)}
        for feature in features(encoder):
            one, other = computed[feature.key], read[feature.key]
            assert one.shape == other.shape
            real = torch.ones(len(rows), 1)
            if feature.heads:
                real = (mask[:, :, None] * mask[:, None, :])[:, None]
            elif one.ndim == 3:
                real = mask[:, :, None]
            torch.testing.assert_close(other, one * real, rtol=2e-3, atol=1e-3)


def test_features_of_images_from_the_disk_are_those_of_the_network(convolutional, tmp_path):
    wanted = (Feature(("blocks.0",)), Feature(("blocks.1",)))
    source, stored = (
        FeatureSource(convolutional, wanted, images(), translated(None), CPU) for _ in range(2)
    )
    stored.store(tmp_path / "features.f16", lambda done: None)
    stored.read_from(tmp_path / "features.f16")
    rows = np.array([69, 3, 3, 0])
    for key, value in source.of(rows).items():
        torch.testing.assert_close(stored.of(rows)[key], value, rtol=2e-3, atol=1e-3)
    assert stored.size == 2 * 70 * (8 * 8 * 8 + 16 * 4 * 4)


def test_features_from_the_disk_ask_the_network_nothing(encoder, tmp_path):
    samples = TokenSamples(texts(), pad=0)
    source = FeatureSource(encoder, features(encoder), samples, translated(None), CPU)
    source.store(tmp_path / "f", lambda done: None)
    source.read_from(tmp_path / "f")
    source.network = None
    source.of(np.arange(5))


def test_features_are_stored_once(encoder, tmp_path):
    source = FeatureSource(
        encoder, features(encoder), TokenSamples(texts(), 0), translated(None), CPU
    )
    told = []
    source.store(tmp_path / "f", told.append)
    assert told == [pytest.approx(64 / 150), pytest.approx(128 / 150), 1.0]
    source.store(tmp_path / "f", told.append)
    assert len(told) == 3


def test_features_half_written_are_not_there(encoder, tmp_path):
    source = FeatureSource(
        encoder, features(encoder), TokenSamples(texts(), 0), translated(None), CPU
    )

    def stop(done):
        raise Stopped

    with pytest.raises(Stopped):
        source.store(tmp_path / "f", stop)
    assert not list(tmp_path.iterdir())


def test_computing_features_leaves_the_network_without_hooks(encoder):
    source = FeatureSource(
        encoder, features(encoder), TokenSamples(texts(), 0), translated(None), CPU
    )
    source.of(np.arange(3))
    assert not [m for m in encoder.modules() if m._forward_hooks]


def test_a_teacher_sees_the_students_tokens_by_its_own_ids():
    seen = []

    class Teacher(nn.Module):
        def forward(self, ids, mask):
            seen.append((ids.tolist(), mask.tolist()))

    adapt = translated(np.array([7, 9, 40]))
    Teacher()(*adapt((torch.tensor([[2, 0], [1, 1]]), torch.ones(2, 2))))
    assert seen == [([[40, 7], [9, 9]], [[1.0, 1.0], [1.0, 1.0]])]
    inputs = (torch.zeros(1), torch.ones(1))
    assert translated(None)(inputs) is inputs


def test_an_array_is_written_as_numpy_reads_it():
    import io

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(np.load(io.BytesIO(outputs.npy(array))), array)
