"""The vision transformers: built for any size, exported, quantized, taught by a larger one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests import teachers_support
from tests.networks import spread

from edgedistill import data, quantize, teachers
from edgedistill.distill.features import (
    FEATURES,
    Recorder,
    WithFeatures,
    difference,
    layout,
    pairs,
    paths,
)
from edgedistill.errors import SettingsError
from edgedistill.export import onnx as exporter
from edgedistill.students.vit import MAX_PATCHES, MIN_PATCHES, ViT, ViTSpec

VIT = ViT()
SHAPES = [(1, 8, 8), (3, 28, 28), (3, 64, 64), (3, 224, 224), (1, 40, 61), (1, 64, 98)]
SMALL = ViTSpec(patch=2, dim=32, depth=2, heads=2, ffn=64)


def student(spec, shape, classes=3):
    torch.manual_seed(0)
    return VIT.build(spec, shape, classes).eval()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_built_student_maps_a_batch_to_logits(shape):
    for spec in spread(VIT.specs(shape), 6):
        with torch.no_grad():
            logits = student(spec, shape, 5)(torch.rand(2, *shape))
        assert logits.shape == (2, 5)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sample_has_from_16_to_200_patches_and_each_grid_once(shape):
    grids = {}
    for spec in VIT.specs(shape):
        cut = VIT.kernels(spec, shape, 5, "float32")[0]
        grids.setdefault(cut.output[2:], set()).add(spec.patch)
    assert grids
    for (rows, columns), patches in grids.items():
        assert MIN_PATCHES <= rows * columns <= MAX_PATCHES
        assert len(patches) == 1


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 500), (3, 1000, 1000)])
def test_samples_that_cannot_be_cut_are_refused(shape):
    with pytest.raises(SettingsError, match=f"samples of {shape[1]}×{shape[2]} cannot be cut"):
        list(VIT.specs(shape))


def test_heads_share_the_width_and_attend_to_two_things_at_least():
    for spec in VIT.specs((3, 28, 28)):
        assert spec.dim % spec.heads == 0
        assert spec.heads >= 2


def test_every_pixel_counts_at_the_padded_edge_too():
    shape = (1, 13, 29)  # no patch divides these
    for spec in spread(VIT.specs(shape), 4):
        image = torch.zeros(1, *shape, requires_grad=True)
        student(spec, shape)(image).square().sum().backward()
        assert (image.grad.abs() > 0).all()


def test_positions_tell_where_a_patch_is():
    module, image = student(SMALL, (1, 8, 8)), torch.rand(1, 1, 8, 8)
    swapped = torch.cat([image[..., 4:], image[..., :4]], 3)
    with torch.no_grad():
        assert not torch.allclose(module(image), module(swapped), atol=1e-5)
        module.embeddings.positions.zero_()
        torch.testing.assert_close(module(image), module(swapped))


def test_more_weights_in_the_layers_mean_more_capacity_whatever_the_patch():
    def capacity(**fields):
        return VIT.capacity(ViTSpec(**{"patch": 4, "dim": 64, "depth": 2, "heads": 2, "ffn": 128,
                                       **fields}))  # fmt: skip

    assert capacity(patch=2) == capacity() == capacity(patch=7)
    assert capacity(depth=4) > capacity() < capacity(ffn=256)


# What ships


@pytest.fixture(scope="module")
def trained():
    """A student after some epochs on scikit-learn's digits, and the digits it did not see."""
    digits = data.load("digits")
    x = digits.train.x.astype(np.float32).reshape(-1, 1, 8, 8)
    mean, std = x.mean(), x.std()
    train = torch.from_numpy((x - mean) / std), torch.from_numpy(digits.train.y)
    test = (digits.test.x.astype(np.float32).reshape(-1, 1, 8, 8) - mean) / std
    torch.manual_seed(0)
    module = VIT.build(SMALL, (1, 8, 8), 10)
    epochs, batch = 12, 32
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=0.05)
    steps = epochs * (len(train[0]) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(train[0]), (batch,))
        F.cross_entropy(module(train[0][rows]), train[1][rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return module.eval(), test, digits.test.y


def answers(model, samples):
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {exporter.INPUT: s[None]})[0] for s in samples])


def test_int8_keeps_the_accuracy_within_a_point(trained):
    module, x, y = trained
    float32 = exporter.export(module, (1, 8, 8))
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    exact = answers(float32, x)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    accuracy = (exact.argmax(1) == y).mean()
    quantized = answers(quantize.dynamic_int8(float32), x)
    assert accuracy > 0.9
    assert abs((quantized.argmax(1) == y).mean() - accuracy) <= 0.01


# Learning from a larger one


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A ViT of transformers: images of 16×16, patches of 4×4, and a class token."""
    folder = teachers_support.image_teacher(tmp_path_factory.mktemp("teacher") / "vit")
    names = teachers_support.NAMES
    return teachers.load(
        str(folder), "image-classification", 3, names, norm=([0.5], [0.2])
    ).network.eval()


def recorded(network, wanted, images):
    recorder = Recorder(network, wanted)
    with torch.no_grad():
        network(images)
    recorder.detach()
    return recorder.outputs


@pytest.mark.parametrize("side", [8, 12, 7], ids=["equal", "finer", "padded"])
@pytest.mark.parametrize("loss", FEATURES)
def test_a_student_learns_every_kind_of_feature_from_a_teacher_with_a_class_token(
    teacher, loss, side
):
    module, images = student(SMALL, (1, side, side)), torch.rand(2, 1, side, side)
    made = pairs({loss: 1.0}, layout(module, (images,)), layout(teacher, (images,)), {}, {})
    theirs = recorded(teacher, paths(made, "teacher"), images)
    features = {pair.teacher.key: pair.teacher.of(theirs) for pair in made}
    mine = recorded(module, paths(made, "student"), images)
    network = WithFeatures(module, made, mine, features)
    _, got = network(images)
    total = 0 * images.sum()
    for pair, each in zip(made, got, strict=True):
        assert each.shape[-2] == features[pair.teacher.key].shape[-2] == 16  # 4×4 patches
        total = total + difference(pair, each, features[pair.teacher.key], None, {})
    assert total > 0
    total.backward()
    touched = [n for n, p in module.named_parameters() if p.grad is not None and p.grad.any()]
    assert "embeddings.project.weight" in touched


def test_scores_of_a_finer_grid_are_means_over_the_patches_of_the_coarser(teacher):
    module, images = student(SMALL, (1, 16, 16)), torch.rand(2, 1, 16, 16)  # 8×8 over 4×4
    found = layout(module, (images,))
    (pair, *_) = pairs({"attention": 1.0}, found, layout(teacher, (images,)), {}, {})
    outputs = recorded(module, set(pair.student.paths), images)
    got = pair.student.of(outputs)
    query, key = (
        outputs[path].unflatten(2, (2, 16)).transpose(1, 2) for path in pair.student.paths
    )
    scores = (query @ key.transpose(2, 3) / 4).unflatten(3, (4, 2, 4, 2)).unflatten(2, (4, 2, 4, 2))
    means = scores.mean((3, 5, 7, 9)).flatten(4).flatten(2, 3)  # (b, heads, 4·4, 4·4)
    torch.testing.assert_close(got, means, rtol=1e-4, atol=1e-5)


def test_features_of_two_grids_are_kept_apart_in_the_cache(teacher):
    keys = set()
    for side in (6, 8):
        images = (torch.rand(2, 1, side, side),)
        module = student(SMALL, (1, side, side))
        made = pairs({"relation": 1.0}, layout(module, images), layout(teacher, images), {}, {})
        keys.add(made[0].teacher.key)
    assert len(keys) == 2
