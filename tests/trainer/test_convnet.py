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
SHAPES = [(1, 4, 4), (1, 8, 8), (3, 7, 11), (3, 32, 32)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_built_student_maps_a_batch_to_logits(shape):
    for spec in spread(CONVNET.specs(shape), 12):
        module = CONVNET.build(spec, shape, 5).eval()
        with torch.no_grad():
            logits = module(torch.zeros(3, *shape))
        assert logits.shape == (3, 5)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_last_stage_still_has_two_pixels_a_side(shape):
    for spec in CONVNET.specs(shape):
        last = [k for k in CONVNET.kernels(spec, shape, 5, "float32") if "Conv" in k.op][-1]
        assert min(last.output[2:]) >= 2


def test_larger_images_get_deeper_students():
    deepest = [max(s.stages for s in CONVNET.specs((1, side, side))) for side in (4, 8, 16, 32)]
    assert deepest == [2, 3, 4, 5]


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
