"""Ways to quantize: ranges, layers in float32, tables by row; and what noise says of layers."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tests.networks import SEED, exported, student

from edgedistill import quantize, verify
from edgedistill.cost import board, memory
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import MIXED, weight_bytes
from edgedistill.export import onnx as exporter
from edgedistill.profiles import DeviceProfile
from edgedistill.samples import ArraySamples, TokenSamples
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.students.static import StaticSpec
from edgedistill.students.transformer import TransformerSpec
from edgedistill_runtime import modelcheck
from edgedistill_runtime.manifest import Backend

SHAPE, CLASSES, TOKENS = (1, 8, 8), 10, 24
SPEC = ConvNetSpec("separable", width=8, growth=1.5, stages=2, depth=1, kernel=5)
TEXTS = {
    "static": StaticSpec(1000, dim=32, hidden=64),
    "transformer": TransformerSpec(1000, 32, layers=2, hidden=64, heads=2, ffn=128),
}
FAR = 500.0


def images(count=32):
    return np.random.default_rng(SEED).normal(size=(count, *SHAPE)).astype(np.float32)


def feeds(count=16):
    return [{exporter.INPUT: image[None]} for image in images(count)]


def texts(count=16):
    generator = np.random.default_rng(SEED)
    return [generator.integers(0, 1000, int(n)) for n in generator.integers(1, TOKENS, count)]


def static(model=None):
    model = model or exported("convnet", SPEC, SHAPE, CLASSES, "float32")
    return quantize.Static(model, exporter.INPUT, images())


def text_file(family):
    return exported(family, TEXTS[family], (TOKENS,), CLASSES, "float32")


def answers(model):
    is_text = onnx.load_from_string(model).graph.input[0].name == exporter.TEXT_INPUT
    rows = TokenSamples(texts(), pad=0) if is_text else ArraySamples(torch.from_numpy(images()))
    return verify.logits(model, rows, range(len(rows)), Backend("onnx"))


def off(model, reference):
    return verify.difference(answers(model), answers(reference))


def constants(model):
    return {t.name: t for t in onnx.load_from_string(model).graph.initializer}


def imbalanced():
    """The network with one channel of the second block's activations far out, and taken back by the
    third: the same answers in float32, and no step for the other channels in int8."""
    module = copy.deepcopy(student("convnet", SPEC, SHAPE, CLASSES))
    with torch.no_grad():
        norm, next_ = module.blocks[1][1], module.blocks[2][0]
        for tensor in (norm.weight, norm.bias):
            tensor[0] *= FAR
        next_.weight[:, 0] /= FAR
    return exporter.export(module, SHAPE)


def test_imbalance_is_nothing_to_float32():
    assert off(imbalanced(), exported("convnet", SPEC, SHAPE, CLASSES, "float32")) < 1e-5


# What noise says


def test_the_layer_that_outliers_ruin_has_the_most_noise_by_far():
    made = static(imbalanced())
    first, second, *_ = made.layers(made.int8("MinMax"), feeds())
    assert first.name == "blocks.2.0"
    assert first.input_noise > 100 * second.noise
    assert {"node_Conv_79", "node_relu_1"} <= set(first.kept)  # the block that makes its input


def test_that_layer_in_float32_brings_the_answers_back():
    model = imbalanced()
    made = static(model)
    plain = made.int8("MinMax")
    worst = made.layers(plain, feeds())[0]
    assert off(plain, model) > 0.1
    assert off(made.int8("MinMax", worst.kept), model) < 0.03


def test_a_sound_network_has_little_noise_everywhere():
    made = static()
    layers = made.layers(made.int8("MinMax"), feeds())
    assert {x.name for x in layers} == {*(f"blocks.{i}.0" for i in range(5)), "head"}
    assert all(0 < layer.noise < 1e-3 for layer in layers)
    assert [x.noise for x in layers] == sorted((x.noise for x in layers), reverse=True)


@pytest.mark.parametrize("family", TEXTS)
def test_the_layers_of_a_text_network_are_named_by_their_modules(family):
    made = quantize.Dynamic(text_file(family))
    inputs = [{exporter.TEXT_INPUT: row[None]} for row in texts()]
    names = {x.name for x in made.layers(made.int8(made.methods[0]), inputs)}
    if family == "static":
        assert names == {"tokens", "hidden.0", "head"}
    else:
        assert {"embeddings.tokens", "layers.1.attention.query", "layers.0.up", "head"} <= names
        assert len(names) == 2 + 2 * 6 + 1  # table, its projection, layers, head


# Ranges


def test_a_rare_outlier_stretches_the_range_of_min_max_alone():
    calibration = images(400)
    calibration[0, 0, 0, 0] = 60.0
    model = exported("convnet", SPEC, SHAPE, CLASSES, "float32")
    made = quantize.Static(model, exporter.INPUT, calibration)
    scale = {
        m: float(numpy_helper.to_array(constants(made.int8(m))["input_scale"]))
        for m in made.methods
    }
    assert scale["MinMax"] > 0.2
    assert max(scale["Percentile"], scale["Entropy"]) < scale["MinMax"] / 2


def test_learned_ranges_are_those_of_the_file():
    model = exported("convnet", SPEC, SHAPE, CLASSES, "float32")
    tensor = exporter.inputs_of(model)["blocks.2.0"]
    made = quantize.Static(model, exporter.INPUT, images(), {tensor: (0.125, 7)})
    stored = constants(made.int8("MinMax"))
    assert float(numpy_helper.to_array(stored[f"{tensor}_scale"])) == 0.125
    assert int(numpy_helper.to_array(stored[f"{tensor}_zero_point"])) == 7


# Layers in float32


@pytest.mark.parametrize("family", TEXTS)
def test_a_layer_of_matrix_products_that_stays_float32_is_stored_so(family):
    made = quantize.Dynamic(text_file(family))
    head = next(
        n.name for n in onnx.load_from_string(made.model).graph.node if "logits" in n.output
    )
    mixed, whole = made.int8(made.methods[0], (head,)), made.int8(made.methods[0])
    count = 64 * CLASSES
    floats = [t for t in constants(mixed).values() if t.data_type == TensorProto.FLOAT]
    assert count in [numpy_helper.to_array(t).size for t in floats]
    assert count < len(mixed) - len(whole) < 3 * count
    modelcheck.check_onnx(mixed)


def test_a_mixture_is_priced_by_what_each_layer_is():
    made = static()
    layers = made.layers(made.int8("MinMax"), feeds())
    layer = next(each for each in layers if each.name == "head")
    model = made.int8("MinMax", layer.nodes)
    kernels = kernels_of(model)
    weights = {p: weight_bytes(kernels, p) for p in ("int8", MIXED, "float32")}
    assert weights["int8"] < weights[MIXED] < weights["float32"]
    assert 0 < weights[MIXED] < len(model)
    profile = DeviceProfile.load("rpi4")
    (mixed,) = board.price([kernels], profile, MIXED, 1)
    pure = [board.price([kernels], profile, p, 1)[0] for p in ("float32", "int8")]
    assert mixed.latency.bound_ms == max(cost.latency.bound_ms for cost in pure) > 0
    assert mixed.latency.standing == "estimated"
    assert mixed.peak_ram_mib >= memory.DEFAULT.base_mib


# Tables


def test_tables_by_row_keep_small_vectors_exact():
    module = copy.deepcopy(student("static", TEXTS["static"], (TOKENS,), CLASSES))
    with torch.no_grad():
        module.tokens.weight *= 30
        module.tokens.weight[0] *= 100  # one scale for the table has no step for the others
    model = exporter.export(module, (TOKENS,), text=True)
    made = quantize.Dynamic(model)
    one, rows = (made.int8(method) for method in made.methods)
    assert off(rows, model) < 0.02
    assert off(one, model) > 0.1
    assert len(rows) - len(one) == pytest.approx(4 * 1000, abs=300)
    modelcheck.check_onnx(rows)


def test_a_network_without_a_table_has_one_way_to_be_quantized():
    vit_like = exported("convnet", SPEC, SHAPE, CLASSES, "float32")
    assert len(quantize.Dynamic(vit_like).methods) == 1
    assert len(quantize.Dynamic(text_file("static")).methods) == 2


# Constants


def test_the_same_constant_is_stored_once_and_the_answers_stay():
    model = static().int8("MinMax")
    smaller = exporter.deduplicated(model)
    assert len(smaller) < 0.97 * len(model)
    assert np.array_equal(answers(smaller), answers(model))
    arrays = map(numpy_helper.to_array, constants(smaller).values())
    values = [(str(a.dtype), a.shape, a.tobytes()) for a in arrays]
    assert len(set(values)) == len(values)
    assert exporter.deduplicated(smaller) == smaller
    modelcheck.check_onnx(smaller)


# The gate


@pytest.mark.parametrize(
    ("lost", "difference", "says"),
    [
        (0.5, 0.25, ""),
        (-1.0, 0.0, ""),
        (0.51, 0.0, "loses 0.51 points, and may lose 0.5"),
        (float("nan"), 0.0, "loses nan points"),
        (0.0, 0.3, "its logits are off by 30%, and may be by 25%"),
        (0.0, float("inf"), "its logits are off by inf"),
    ],
)
def test_the_gate_refuses_what_loses_points_or_answers_otherwise(lost, difference, says):
    found = verify.gate(lost, difference, "int8")
    assert found.startswith(says)
    assert bool(found) == bool(says)


def test_a_difference_is_relative_to_the_logits_and_infinite_for_what_is_no_number():
    reference = np.array([[3.0, -4.0]], np.float32)
    assert verify.difference(reference * np.float32(1.1), reference) == pytest.approx(0.1, rel=1e-4)
    assert verify.difference(reference, reference) == 0
    assert verify.difference(reference * np.nan, reference) == float("inf")
