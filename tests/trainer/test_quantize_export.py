"""From a module to the file that ships: the same bytes every time, with nothing of this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from tests.networks import SEED, exported, student
from torch import nn

from edgedistill import quantize, verify
from edgedistill.cost import memory
from edgedistill.errors import ExportError
from edgedistill.export import onnx as exporter
from edgedistill.samples import ArraySamples, TokenSamples
from edgedistill.students import FAMILIES
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.students.static import StaticSpec
from edgedistill.students.transformer import MAX_TOKENS, TransformerSpec
from edgedistill_runtime import modelcheck
from edgedistill_runtime.manifest import Backend

SHAPE, CLASSES = (1, 8, 8), 10
SPECS = [
    ConvNetSpec("separable", width=8, growth=1.5, stages=2, depth=1, kernel=5),
    ConvNetSpec("dense", width=8, growth=2.0, stages=2, depth=2, kernel=3),
]
CASES = [(spec, precision) for spec in SPECS for precision in ("float32", "int8")]
each_file = pytest.mark.parametrize(
    ("spec", "precision"), CASES, ids=lambda v: getattr(v, "block", v)
)


def file(spec, precision="float32"):
    return exported("convnet", spec, SHAPE, CLASSES, precision)


def answers(model, inputs):
    """The file's logits through the runtime's engine, one sample a call."""
    if isinstance(inputs, list):
        rows = TokenSamples([row[0] for row in inputs], pad=0)
    else:
        rows = ArraySamples(torch.from_numpy(inputs))
    return verify.logits(model, rows, range(len(rows)), Backend("onnx"))


def samples(count=64):
    return np.random.default_rng(SEED).normal(size=(count, *SHAPE)).astype(np.float32)


def initializers(model: bytes):
    return {t.name: t for t in onnx.load_from_string(model).graph.initializer}


# Export


def test_the_same_module_gives_the_same_bytes():
    again = exporter.export(student("convnet", SPECS[0], SHAPE, CLASSES), SHAPE)
    assert again == file(SPECS[0])


def test_the_same_float_file_gives_the_same_int8_bytes():
    one, other = (quantize.static_int8(file(SPECS[0]), "input", samples(8)) for _ in range(2))
    assert one == other


def test_another_process_in_another_folder_gives_the_same_bytes(tmp_path):
    code = (
        "import hashlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tests.networks import exported\n"
        "from edgedistill.students.convnet import ConvNetSpec\n"
        "for precision in ('float32', 'int8'):\n"
        f"    model = exported('convnet', {SPECS[0]!r}, {SHAPE}, {CLASSES}, precision)\n"
        "    print(hashlib.sha256(model).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "12", "TMPDIR": str(tmp_path), "USER": "somebody"},
    )
    here = [hashlib.sha256(file(SPECS[0], p)).hexdigest() for p in ("float32", "int8")]
    assert done.stdout.split() == here


@each_file
def test_a_file_holds_nothing_of_this_machine(spec, precision):
    proto = onnx.load_from_string(file(spec, precision))
    for tensor in proto.graph.initializer:
        tensor.raw_data = b""  # among so many numbers anything can stand by chance
    text = str(proto)
    assert "blocks.0.0.weight" in text
    for trace in ("/", "\\", ".py", "site-packages", "doc_string", "metadata_props"):
        assert trace not in text
    whole = file(spec, precision)
    for path in (Path(__file__).parents[2], Path(sys.prefix), tempfile.gettempdir()):
        assert str(path).encode() not in whole


@each_file
def test_a_file_passes_the_boards_own_check(spec, precision):
    modelcheck.check_onnx(file(spec, precision))


@each_file
def test_a_file_takes_one_sample_and_gives_its_logits(spec, precision):
    graph = onnx.load_from_string(file(spec, precision)).graph
    ((one,), (other,)) = graph.input, graph.output
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (one, other)]
    assert (one.name, other.name) == (exporter.INPUT, exporter.OUTPUT)
    assert shapes == [[1, *SHAPE], [1, CLASSES]]
    assert {v.type.tensor_type.elem_type for v in (one, other)} == {TensorProto.FLOAT}


@each_file
def test_a_file_is_of_the_opset_that_boards_run(spec, precision):
    model = onnx.load_from_string(file(spec, precision))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", exporter.OPSET)]
    assert model.ir_version <= 10  # onnxruntime 1.24, the oldest of a profile, reads it


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.block)
def test_the_file_answers_as_the_module_does(spec):
    module, inputs = student("convnet", spec, SHAPE, CLASSES), samples()
    with torch.no_grad():
        reference = module(torch.from_numpy(inputs)).numpy()
    assert verify.check_parity(answers(file(spec), inputs), reference, "student") < 1e-3


def test_a_file_that_answers_otherwise_is_refused():
    zeros = np.zeros((4, CLASSES), np.float32)
    for other in (zeros + 1e-2, zeros + np.nan):
        with pytest.raises(ExportError, match="the exported student differs from the torch module"):
            verify.check_parity(other, zeros, "student")


# What cannot be exported


class Branching(nn.Module):
    """Decides by its data, which no fixed graph can."""

    def forward(self, image):
        return image.mean((2, 3)) if image.sum() > 0 else image.amax((2, 3))


class NoSuchOperator(nn.Module):
    def forward(self, image):
        return torch.linalg.eigvals(image[:, 0]).real


class Failing(nn.Module):
    def forward(self, image):
        raise ValueError("no such layer\nand more lines")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Branching(), "data-dependent"),
        (NoSuchOperator(), "linalg_eig"),
        (Failing(), "no such layer"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_cannot_be_exported_is_refused_in_one_sentence(module, reason, capfd):
    disabled = logging.root.manager.disable
    with pytest.raises(ExportError) as caught:
        exporter.export(module, SHAPE)
    sentence = str(caught.value)
    assert sentence.startswith("this network cannot be exported to ONNX: ")
    assert reason in sentence
    assert "\n" not in sentence
    assert "\x1b" not in sentence  # no colours
    assert capfd.readouterr() == ("", "")  # the exporter's own talk is held back
    assert logging.root.manager.disable == disabled


# The canonical form


def test_notes_and_metadata_are_stripped_at_every_depth():
    model = onnx.load_from_string(file(SPECS[0], "int8"))
    graph = model.graph
    constant = onnx.helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    graph.node[0].attribute.append(onnx.helper.make_attribute("note", constant))
    graph.value_info.append(onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]))
    attribute = graph.node[0].attribute[-1]
    noted = [model, graph, graph.node[0], graph.input[0], graph.output[0], graph.initializer[0]]
    for message in (*noted, attribute, attribute.t, graph.value_info[0]):
        message.doc_string = "written in /home/somebody"
        if hasattr(message, "metadata_props"):
            message.metadata_props.add(key="where", value="/home/somebody")
    graph.name = "main_graph of /home/somebody"
    model.opset_import.add(domain="a.domain.that.nothing.uses", version=1)
    stripped = exporter.canonical(model)
    assert b"somebody" not in stripped
    assert b"a.domain" not in stripped
    rest = onnx.load_from_string(stripped)
    assert rest.graph.node[0].attribute[-1].t.float_data == [1.0]  # what is no note stays


@each_file
def test_a_canonical_file_stays_as_it_is(spec, precision):
    model = file(spec, precision)
    assert exporter.canonical(onnx.load_from_string(model)) == model


# Quantization


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.block)
def test_an_int8_file_holds_every_weight_in_one_byte(spec):
    stored = initializers(file(spec, "int8")).values()
    kernels = FAMILIES["convnet"].kernels(spec, SHAPE, CLASSES, "int8")
    weights = [t for t in stored if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert sum(numpy_helper.to_array(t).size for t in weights) == sum(k.weights for k in kernels)
    floats = [numpy_helper.to_array(t).size for t in stored if t.data_type == TensorProto.FLOAT]
    assert max(floats) <= max(k.biases for k in kernels)  # scales, one a channel


def test_every_channel_has_a_scale_of_its_own_and_weights_are_symmetric():
    stored = initializers(file(SPECS[1], "int8"))
    for name, tensor in stored.items():
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            scale = stored[name.replace("_quantized", "_scale")]
            assert list(scale.dims) == [tensor.dims[0]]
            zero = stored[name.replace("_quantized", "_zero_point")]
            assert not numpy_helper.to_array(zero).any()


def test_activations_are_unsigned_bytes():
    model = onnx.load_from_string(file(SPECS[0], "int8"))
    stored = initializers(file(SPECS[0], "int8"))
    zeros = [stored[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {zero.data_type for zero in zeros} == {TensorProto.UINT8}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.block)
def test_int8_answers_are_near_the_float_ones(spec):
    inputs = samples()
    model = quantize.static_int8(file(spec), exporter.INPUT, inputs)
    float32, int8 = (answers(m, inputs) for m in (file(spec), model))
    assert np.abs(int8 - float32).max() < 0.2 * np.abs(float32).max()
    assert not np.array_equal(int8, float32)


def test_the_calibration_samples_set_the_ranges():
    narrow, wide = (
        quantize.static_int8(file(SPECS[0]), exporter.INPUT, factor * samples(8))
        for factor in (1, 10)
    )
    scales = [float(numpy_helper.to_array(initializers(m)["input_scale"])) for m in (narrow, wide)]
    assert scales[1] == pytest.approx(10 * scales[0], rel=1e-3)


def test_the_students_of_these_tests_are_of_the_familys_space():
    assert set(SPECS) <= set(FAMILIES["convnet"].specs(SHAPE))
    assert TEXTS["narrow"][1] in set(FAMILIES["transformer"].specs((TOKENS,)))


# Texts: a length of 1 to as many tokens as a network has positions

TOKENS = 24
TEXTS = {
    "bag": ("static", StaticSpec(1000, dim=32, hidden=64)),
    "bag without hidden layer": ("static", StaticSpec(1000, dim=16, hidden=0)),
    "narrow": ("transformer", TransformerSpec(2000, 32, layers=2, hidden=96, heads=3, ffn=192)),
    "wide": ("transformer", TransformerSpec(1000, 64, layers=1, hidden=64, heads=2, ffn=256)),
}
each_text = pytest.mark.parametrize("name", TEXTS)
each_text_file = pytest.mark.parametrize(
    ("name", "precision"), [(n, p) for n in TEXTS for p in ("float32", "int8")]
)


def text_file(name, precision="float32"):
    family, spec = TEXTS[name]
    return exported(family, spec, (TOKENS,), CLASSES, precision)


def texts(lengths=(1, 2, 3, 7, TOKENS, 64, MAX_TOKENS)):
    generator = np.random.default_rng(SEED)
    return [generator.integers(0, 1000, (1, length)) for length in lengths]


@each_text
def test_a_file_for_texts_answers_as_the_module_does_at_every_length(name):
    family, spec = TEXTS[name]
    module = student(family, spec, (TOKENS,), CLASSES)
    with torch.no_grad():
        reference = np.concatenate([module(torch.from_numpy(ids)).numpy() for ids in texts()])
    assert verify.check_parity(answers(text_file(name), texts()), reference, "student") < 1e-4


@each_text_file
def test_a_file_for_texts_takes_ids_of_any_length(name, precision):
    graph = onnx.load_from_string(text_file(name, precision)).graph
    ((ids,), (logits,)) = graph.input, graph.output
    assert (ids.name, logits.name) == (exporter.TEXT_INPUT, exporter.OUTPUT) == ("ids", "logits")
    assert ids.type.tensor_type.elem_type == TensorProto.INT64
    one, tokens = ids.type.tensor_type.shape.dim
    assert (one.dim_value, tokens.dim_param) == (1, "tokens")
    assert [d.dim_value for d in logits.type.tensor_type.shape.dim] == [1, CLASSES]


@each_text_file
def test_a_file_for_texts_passes_the_boards_own_check(name, precision):
    modelcheck.check_onnx(text_file(name, precision))


@each_text_file
def test_a_file_for_texts_is_the_same_every_time_and_holds_nothing_of_this_machine(name, precision):
    family, spec = TEXTS[name]
    again = exporter.export(student(family, spec, (TOKENS,), CLASSES), (TOKENS,), text=True)
    again = again if precision == "float32" else quantize.dynamic_int8(again)
    assert again == text_file(name, precision)
    proto = onnx.load_from_string(again)
    for tensor in proto.graph.initializer:
        tensor.raw_data = b""
    for trace in ("/", "\\", ".py", "site-packages", "doc_string", "metadata_props"):
        assert trace not in str(proto)


@each_text
def test_the_length_that_a_network_is_traced_at_is_not_in_its_file(name):
    family, spec = TEXTS[name]
    for tokens in (1, 50):
        other = exporter.export(student(family, spec, (tokens,), CLASSES), (tokens,), text=True)
        assert other == text_file(name)


def test_what_ships_of_a_bag_has_one_table():
    names = initializers(text_file("bag"))
    assert [n for n, t in names.items() if t.dims[:1] == [1000]] == ["tokens.weight"]
    ops = [node.op_type for node in onnx.load_from_string(text_file("bag")).graph.node]
    assert ops == ["Gather", "ReduceMean", "Gemm", "Relu", "Gemm"]


@each_text
def test_dynamic_int8_is_about_a_quarter_of_the_size(name):
    share = len(text_file(name, "int8")) / len(text_file(name))
    assert 0.25 < share < 0.35


@each_text
def test_dynamic_int8_answers_are_near_the_float_ones(name):
    float32, int8 = (answers(text_file(name, p), texts()) for p in ("float32", "int8"))
    assert np.abs(int8 - float32).max() < 0.05 * np.abs(float32).max()
    assert not np.array_equal(int8, float32)


@each_text
def test_dynamic_int8_holds_tables_and_matrices_in_one_byte(name):
    family, spec = TEXTS[name]
    stored = initializers(text_file(name, "int8")).values()
    in_bytes = [t for t in stored if t.data_type in (TensorProto.INT8, TensorProto.UINT8)]
    matrices = sum(numpy_helper.to_array(t).size for t in in_bytes if len(t.dims) == 2)
    kernels = FAMILIES[family].kernels(spec, (TOKENS,), CLASSES, "int8")
    positions = sum(k.weights for k in kernels if k.op == "Slice")  # are added, so stay float32
    assert matrices == sum(k.weights for k in kernels) - positions


@each_text_file
def test_the_size_of_a_file_for_texts_is_known_before_it_is_made(name, precision):
    family, spec = TEXTS[name]
    kernels = FAMILIES[family].kernels(spec, (TOKENS,), CLASSES, precision)
    estimate = memory.bundle_mib(kernels, precision, 0, 0) * 2**20
    estimate -= memory.BUNDLE_BYTES + memory.TOKENIZER_BYTES * spec.vocabulary
    assert estimate == pytest.approx(len(text_file(name, precision)), rel=0.01)


def test_quantizing_says_nothing(capfd, caplog):
    quantize.dynamic_int8(text_file("bag"))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_layer_that_cannot_be_translated_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])

    odd = nn.Sequential()
    odd.add_module("plain", nn.Linear(4, 4))
    odd.add_module("strange", Odd())
    with pytest.raises(ExportError, match=r"to ONNX: .*eigh.* \(in the layer 'strange'\)$"):
        exporter.export(odd, (4,))
