"""float16 and int4: what is stored, what it answers, what it costs, and for whom it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tests.networks import SEED, exported, spread

from edgedistill import quantize, verify
from edgedistill.cost import board, memory
from edgedistill.cost.graph import kernels_of
from edgedistill.errors import OverBudget, SettingsError
from edgedistill.export import onnx as exporter
from edgedistill.profiles import DeviceProfile
from edgedistill.quantize import weights
from edgedistill.recipe import Recipe
from edgedistill.samples import ArraySamples, TokenSamples
from edgedistill.setting import Setting
from edgedistill.students import FAMILIES
from edgedistill_runtime import modelcheck
from edgedistill_runtime.manifest import Backend

IMAGE, TEXT, CLASSES = (1, 8, 8), (32,), 10
PRODUCTS = [name for name, family in FAMILIES.items() if family.quantization == "dynamic"]
MAKE = {"float16": quantize.float16, "int4": quantize.int4}
CASES = [("float16", "convnet"), *((p, f) for p in MAKE for f in PRODUCTS)]
each_case = pytest.mark.parametrize(("precision", "family"), CASES)


def shape_of(family):
    return TEXT if family in ("static", "transformer") else IMAGE


def spec_of(family):
    return spread(FAMILIES[family].specs(shape_of(family)), 1)[0]


def float32(family):
    return exported(family, spec_of(family), shape_of(family), CLASSES, "float32")


def answers(model):
    random = np.random.default_rng(SEED)
    is_text = onnx.load_from_string(model).graph.input[0].name == exporter.TEXT_INPUT
    if is_text:
        rows = TokenSamples([random.integers(0, 1000, n) for n in (1, 2, 9, 32)], pad=0)
    else:
        images = random.normal(size=(8, *IMAGE)).astype(np.float32)
        rows = ArraySamples(torch.from_numpy(images))
    return verify.logits(model, rows, range(len(rows)), Backend("onnx"))


@each_case
def test_a_file_answers_nearly_as_float32_and_passes_the_boards_check(precision, family):
    model = MAKE[precision](float32(family))
    off = verify.difference(answers(model), answers(float32(family)))
    assert 0 < off < {"float16": 1e-3, "int4": 0.2}[precision]
    assert off < verify.PARITY_SHARE[precision]
    modelcheck.check_onnx(model)
    assert MAKE[precision](float32(family)) == model  # the same bytes every time


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_runs_the_same_kernels_on_float16(family):
    assert kernels_of(quantize.float16(float32(family)), 9) == kernels_of(float32(family), 9)


@each_case
def test_the_size_of_a_file_is_known_before_it_is_made(precision, family):
    for spec in spread(FAMILIES[family].specs(shape_of(family)), 3):
        model = exported(family, spec, shape_of(family), CLASSES, "float32")
        kernels = FAMILIES[family].kernels(spec, shape_of(family), CLASSES, precision)
        told = memory.bundle_mib(kernels, precision, 0, 0) * 2**20 - memory.BUNDLE_BYTES
        told -= memory.TOKENIZER_BYTES * getattr(spec, "vocabulary", 0)
        assert told == pytest.approx(len(MAKE[precision](model)), rel=0.1)


def test_float16_halves_what_has_two_axes_and_leaves_the_rest():
    stored = onnx.load_from_string(quantize.float16(float32("convnet"))).graph.initializer
    kinds = {t.data_type for t in stored if len(t.dims) > 1}
    assert kinds == {TensorProto.FLOAT16}
    assert TensorProto.FLOAT in {t.data_type for t in stored if len(t.dims) == 1}


def test_a_weight_beyond_float16_is_its_largest_number_and_not_infinite():
    proto = onnx.load_from_string(float32("convnet"))
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    kernel = numpy_helper.to_array(tensor).copy()
    kernel.flat[0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(kernel, tensor.name))
    stored = onnx.load_from_string(quantize.float16(proto.SerializeToString())).graph.initializer
    halves = [numpy_helper.to_array(t) for t in stored if t.data_type == TensorProto.FLOAT16]
    assert max(float(each.max()) for each in halves) == 65504
    assert all(np.isfinite(each).all() for each in halves)


@pytest.mark.parametrize("columns", [32, 33, 31, 64, 5])
def test_a_block_is_rounded_to_sixteen_steps_of_its_largest(columns):
    rows = np.random.default_rng(SEED).normal(size=(7, columns)).astype(np.float32)
    rows[2] = 0
    steps, scales = weights.rounded(rows)
    assert steps.max() <= 15
    back = ((steps.astype(np.float32) - 8) * scales[..., None]).reshape(7, -1)[:, :columns]
    worst = np.abs(scales).repeat(weights.BLOCK, 1)[:, :columns]
    assert (np.abs(back - rows) <= worst * 1.001).all()  # one step where the sign is the other
    assert np.abs(back - rows).mean() < 0.3 * worst.mean()
    assert not back[2].any()


def test_int4_is_not_measured_anywhere_so_it_is_an_estimate_with_a_wide_interval():
    kernels = FAMILIES["vit"].kernels(spec_of("vit"), IMAGE, CLASSES, "int4")
    profile = DeviceProfile.load("rpi4")
    (whole,), (packed,) = (board.price([kernels], profile, p, 1) for p in ("float32", "int4"))
    assert packed.latency.standing == "estimated"
    assert packed.latency.p50_ms == whole.latency.p50_ms > 0
    assert packed.latency.bound_ms > 2 * whole.latency.bound_ms
    assert "MatMulNBits" in packed.latency.unseen
    assert packed.peak_ram_mib < whole.peak_ram_mib


def setting(**options):
    return Setting.of(Recipe(profile="rpi4", **options))


def test_int4_of_convolutions_is_refused():
    with pytest.raises(SettingsError, match="int4 is for networks of matrix products"):
        setting(precision="int4", student="convnet")


def test_int4_of_all_families_is_of_those_that_have_it():
    assert [family.name for family in setting(precision="int4").families] == ["vit"]


def size_between_int8_and_int4():
    least = {p: min(c.costs["size_mib"] for c in setting(student="vit", precision=p).plan().fitting)
             for p in ("int8", "int4")}  # fmt: skip
    return (least["int8"] + least["int4"]) / 2


def test_where_int8_does_not_fit_and_int4_does_auto_takes_it_and_says_why():
    made = setting(student="vit", size_mib=size_between_int8_and_int4())
    chosen = made.plan().require()[0]
    assert chosen.precision == "int4"
    assert made.precision_reason(chosen) == "no float32 or int8 candidate is within the limits"


def test_where_int8_was_asked_for_and_does_not_fit_int4_is_named_if_it_would():
    limit = size_between_int8_and_int4()
    with pytest.raises(OverBudget, match="also fits: --precision int4"):
        setting(student="vit", size_mib=limit, precision="int8").plan().require()
