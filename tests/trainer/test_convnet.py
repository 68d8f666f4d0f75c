"""The convolutional students: every spec of the space can be built, and gives logits."""

from __future__ import annotations

import pytest
import torch
from tests.networks import spread
from torch import nn

from edgedistill.errors import SettingsError
from edgedistill.students import FAMILIES, family
from edgedistill.students.convnet import ConvNet, ConvNetSpec

CONVNET = ConvNet()
IMAGES = [(1, 4, 4), (1, 8, 8), (3, 7, 11), (3, 32, 32), (3, 64, 64), (3, 224, 160)]
SOUNDS = [(1, 40, 61), (1, 64, 98)]
SEQUENCES = [(3, 1, 5), (6, 1, 128), (1, 1, 4000)]
SHAPES = IMAGES + SOUNDS + SEQUENCES


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_built_student_maps_a_batch_to_logits(shape):
    for spec in spread(CONVNET.specs(shape), 12):
        module = CONVNET.build(spec, shape, 5).eval()
        with torch.no_grad():
            logits = module(torch.zeros(3, *shape))
        assert logits.shape == (3, 5)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", IMAGES + SOUNDS, ids=str)
def test_the_last_stage_still_has_two_pixels_a_side(shape):
    for spec in CONVNET.specs(shape):
        last = [k for k in CONVNET.kernels(spec, shape, 5, "float32") if "Conv" in k.op][-1]
        assert min(last.output[2:]) >= 2


def test_larger_images_get_deeper_students():
    deepest = [max(s.stages for s in CONVNET.specs((1, side, side))) for side in (4, 8, 16, 32)]
    assert deepest == [2, 3, 4, 5]


@pytest.mark.parametrize("shape", SEQUENCES, ids=str)
def test_a_sequence_is_read_along_its_steps_alone(shape):
    for spec in spread(CONVNET.specs(shape), 12):
        layers = [m for m in CONVNET.build(spec, shape, 5).modules() if isinstance(m, nn.Conv2d)]
        assert {m.kernel_size[0] for m in layers} == {1}
        assert {m.kernel_size[1] for m in layers} <= {1, 3, 5, 7, 9}
        assert {m.stride[0] for m in layers} == {1}
        last = [k for k in CONVNET.kernels(spec, shape, 5, "float32") if "Conv" in k.op][-1]
        assert last.output[2] == 1
        assert last.output[3] >= min(8, shape[2])


def test_longer_sequences_get_deeper_students():
    deepest = [max(s.stages for s in CONVNET.specs((3, 1, n))) for n in (8, 32, 128, 500)]
    assert deepest == [1, 3, 5, 6]


def test_the_stem_of_a_large_input_has_a_stride_and_that_of_others_none():
    def strides(shape):
        return {spec.stem_stride for spec in CONVNET.specs(shape)}

    assert strides((3, 63, 63)) == strides((1, 40, 300)) == strides((6, 1, 511)) == {1}
    assert strides((3, 64, 64)) == strides((3, 96, 300)) == strides((6, 1, 512)) == {2}
    assert strides((3, 224, 224)) == strides((1, 1, 2000)) == {4}


def test_a_stem_with_a_stride_reads_every_pixel():
    for stride in (2, 4, 8):
        spec = ConvNetSpec("dense", 8, 1.0, 1, 1, 3, stem_stride=stride)
        stem = next(m for m in CONVNET.build(spec, (3, 96, 96), 5).modules()
                    if isinstance(m, nn.Conv2d))  # fmt: skip
        assert stem.stride == (stride, stride)
        assert stem.kernel_size[0] > stride


def test_specs_of_square_images_are_those_of_earlier_versions():
    blocks = (("separable", 3), ("separable", 5), ("dense", 3))
    for side, stages in ((8, (1, 2, 3)), (28, (2, 3, 4)), (32, (3, 4, 5))):
        assert list(CONVNET.specs((3, side, side))) == [
            ConvNetSpec(block, width, growth, count, depth, kernel)
            for block, kernel in blocks
            for width in (4, 8, 12, 16, 24, 32, 48, 64)
            for growth in (1.0, 1.5, 2.0)
            for count in stages
            for depth in (1, 2, 3)
            if count > 1 or growth == 1.0
        ]


@pytest.mark.parametrize("shape", [(6, 1, 128), (2, 1, 1000), (1, 40, 61), (3, 96, 96)], ids=str)
def test_every_kind_of_sample_has_a_space_of_comparable_size(shape):
    usual = len(list(CONVNET.specs((3, 32, 32))))
    assert 0.5 * usual <= len(list(CONVNET.specs(shape))) <= 1.5 * usual


def test_specs_come_in_the_same_order_every_time():
    assert list(CONVNET.specs((1, 8, 8))) == list(CONVNET.specs((1, 8, 8)))


def test_the_same_seed_builds_the_same_weights():
    spec = next(iter(CONVNET.specs((1, 8, 8))))
    built = []
    for _ in range(2):
        torch.manual_seed(4)
        built.append(CONVNET.build(spec, (1, 8, 8), 5).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])


def test_a_separable_block_is_a_depthwise_and_a_pointwise_convolution():
    spec = ConvNetSpec("separable", width=8, growth=2.0, stages=2, depth=1, kernel=5)
    layers = [m for m in CONVNET.build(spec, (3, 8, 8), 5).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.groups) for m in layers] == [
        (3, 8, 3, 1),
        (8, 8, 5, 8),
        (8, 8, 1, 1),
        (8, 8, 5, 8),
        (8, 16, 1, 1),
    ]
    assert [m.stride[0] for m in layers] == [1, 1, 1, 2, 1]


def test_a_dense_networks_stem_is_its_first_block():
    spec = ConvNetSpec("dense", width=8, growth=2.0, stages=2, depth=2, kernel=3)
    layers = [m for m in CONVNET.build(spec, (3, 8, 8), 5).modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in layers] == [
        (3, 8, 1),
        (8, 8, 1),
        (8, 16, 2),
        (16, 16, 1),
    ]


def test_a_family_is_found_by_name_or_is_the_object_itself():
    assert family("convnet") is FAMILIES["convnet"]
    assert family(CONVNET) is CONVNET


def test_an_unknown_family_is_told_with_the_nearest_one():
    with pytest.raises(SettingsError, match="did you mean 'convnet'"):
        family("convet")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_registered_under_its_own_name(name):
    assert FAMILIES[name].name == name
