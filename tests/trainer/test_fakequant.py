"""Quantization-aware training: rounding as the file does, and what learning makes of it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.networks import SEED, student
from tests.training_support import Watching, stripes, trainer
from torch import nn

from edgedistill import quantize, verify
from edgedistill.distill import fakequant, outputs
from edgedistill.export import onnx as exporter
from edgedistill.samples import ArraySamples, TokenSamples
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.students.transformer import TransformerSpec
from edgedistill.students.vit import ViTSpec
from edgedistill_runtime.manifest import Backend

SHAPE, CLASSES = (1, 8, 8), 10
NETWORKS = {
    "convnet": ("static", ConvNetSpec("dense", width=8, growth=1.0, stages=1, depth=3, kernel=3)),
    "vit": ("dynamic", ViTSpec(patch=2, dim=32, depth=1, heads=2, ffn=64)),
    "transformer": ("dynamic", TransformerSpec(1000, 32, layers=1, hidden=64, heads=2, ffn=128)),
}
each_family = pytest.mark.parametrize("family", NETWORKS)


def network(family):
    return student(
        family, NETWORKS[family][1], (24,) if family == "transformer" else SHAPE, CLASSES
    )


def samples(family, count=32):
    random = np.random.default_rng(SEED)
    if family == "transformer":
        return TokenSamples([random.integers(0, 1000, 12) for _ in range(count)], pad=0)
    return ArraySamples(torch.from_numpy(random.normal(size=(count, *SHAPE)).astype(np.float32)))


def fake(family):
    made = fakequant.fake_quantized(network(family), NETWORKS[family][0])
    fakequant.observe(made, [samples(family).batch(np.arange(32))])
    return made


def file(family, made):
    """The file that quantization-aware training ends in."""
    plain = fakequant.plain(made, network(family))
    rows = samples(family)
    if NETWORKS[family][0] == "dynamic":
        text = family == "transformer"
        model = exporter.export(plain, (24,) if text else SHAPE, text)
        return quantize.dynamic_int8(model, rows=text)
    model = exporter.export(plain, SHAPE)
    tensors = exporter.inputs_of(model)
    learned = {tensors[path]: r for path, r in fakequant.learned_ranges(made).items()}
    calibration = np.concatenate([rows.one(i) for i in range(len(rows))])
    return quantize.Static(model, exporter.INPUT, calibration, learned).int8("MinMax")


@each_family
def test_the_file_answers_as_the_network_that_rounds(family):
    made, rows = fake(family), samples(family)
    rounding = outputs.answers(made, rows, torch.device("cpu"))
    exact = outputs.answers(network(family), rows, torch.device("cpu"))
    answers = verify.logits(file(family, made), rows, range(len(rows)), Backend("onnx"))
    off, rounded = verify.difference(answers, rounding), verify.difference(rounding, exact)
    assert off < 0.01
    if NETWORKS[family][0] == "dynamic":  # a static file rounds its last two tensors, too
        assert off < 0.7 * rounded


@each_family
def test_rounding_changes_the_answers_a_little(family):
    rows = samples(family).batch(np.arange(8))
    with torch.no_grad():
        exact, rounded = network(family)(*rows).numpy(), fake(family)(*rows).numpy()
    assert 0 < verify.difference(rounded, exact) < 0.05


@each_family
def test_paths_stay_so_that_features_are_found(family):
    before = {path for path, _ in network(family).named_modules()}
    assert before <= {path for path, _ in fake(family).named_modules()}


@each_family
def test_what_is_exported_has_the_weights_that_were_learned(family):
    made = fake(family)
    plain, folded = fakequant.plain(made, network(family)), fakequant.folded(network(family))
    for (name, one), other in zip(folded.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_folding_leaves_no_batch_norm_and_the_same_answers():
    folded = fakequant.folded(network("convnet"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    rows = samples("convnet").batch(np.arange(8))
    with torch.no_grad():
        torch.testing.assert_close(folded(*rows), network("convnet")(*rows), rtol=1e-4, atol=1e-4)


def test_weights_are_whole_steps_of_a_scale_a_channel_and_gradients_pass():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight.requires_grad_(True)
    rounded = fakequant.RoundedWeights()(weight)
    scale = weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    steps = (rounded / scale).detach()
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert steps.abs().amax() == pytest.approx(127, abs=1e-3)
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_learned_range_follows_training_rests_in_evaluation_and_stops_gradients_outside():
    found = fakequant.LearnedRange()
    found.train()(torch.tensor([-1.0, 3.0]))
    assert (float(found.low), float(found.high)) == (-1.0, 3.0)
    found(torch.tensor([0.0, 13.0]))
    assert float(found.high) == pytest.approx(3.0 + 0.01 * 10)
    before = float(found.high)
    values = torch.tensor([-5.0, 0.5, 100.0], requires_grad=True)
    rounded = found.eval()(values)
    assert float(found.high) == before
    scale, zero = found.step()
    assert 0 <= int(zero) <= 255
    torch.testing.assert_close(rounded[2], (255 - zero) * scale)
    rounded.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]


def test_a_range_of_the_sample_does_not_hang_on_the_others_of_its_batch():
    values = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    together = fakequant.SampleRange()(values * torch.tensor([1.0, 50.0, 0.1])[:, None, None])
    alone = fakequant.SampleRange()(values[:1])
    assert torch.equal(together[:1], alone)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trainer, its teacher, and a student of which one channel lies so far out that int8 loses a
    fifth of the metric."""
    spec = NETWORKS["convnet"][1]
    folder, data = tmp_path_factory.mktemp("aware"), stripes(count=240)
    made = trainer(folder, data, spec, Watching(), training={"epochs": 12})
    teacher = made.teacher()
    whole = made.student(spec, teacher)
    module = copy.deepcopy(whole.module)
    with torch.no_grad():
        norm, behind = module.blocks[1][1], module.blocks[2][0]
        for tensor in (norm.weight, norm.bias):
            tensor[0] *= 300
        behind.weight[:, 0] /= 300
    return made, spec, teacher, replace(whole, module=module)


def test_training_on_with_rounding_wins_back_what_int8_lost(taught):
    made, spec, teacher, broken = taught
    rows = made.samples(made.data.validation.x, None)
    rounding = fakequant.fake_quantized(broken.module, "static")
    fakequant.observe(rounding, [made.samples(made.data.train.x, None).batch(np.arange(64))])
    aware = made.quantization_aware(spec, teacher, broken)
    exact, lost, won = (made.score(m, rows) for m in (broken.module, rounding, aware.module))
    assert exact.metric > 0.95
    assert lost.metric < exact.metric - 0.1
    assert won.metric > lost.metric + 0.1
    assert aware.choices == broken.choices


def test_a_finished_quantization_aware_training_is_found_again(taught):
    made, spec, teacher, broken = taught
    watching = made.progress
    first = made.quantization_aware(spec, teacher, broken)
    before = len(watching.advances)
    again = made.quantization_aware(spec, teacher, broken)
    state, other = first.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert len(watching.advances) == before > 0
