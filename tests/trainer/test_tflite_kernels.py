"""Any .tflite file becomes kernels, and a file that is none is refused in one sentence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

pytest.importorskip("tflite")  # the extra
import flatbuffers  # type: ignore[import-untyped]
import tflite

from edgedistill.cost.kernels import Kernel
from edgedistill.cost.tflite import kernels_of, precision_of
from edgedistill.errors import EdgeDistillError, ExportError

FLOAT, HALF, INT8, INT32 = (
    tflite.TensorType.FLOAT32,
    tflite.TensorType.FLOAT16,
    tflite.TensorType.INT8,
    tflite.TensorType.INT32,
)
OPERATORS = tflite.BuiltinOperator


@dataclass
class Writer:
    """A .tflite file with one graph, written with the schema's own builder."""

    tensors: list[tuple[tuple[int, ...], int, bool]] = field(default_factory=list)
    operators: list[tuple[int | str, list[int], list[int], int]] = field(default_factory=list)

    def tensor(self, *shape: int, kind: int = FLOAT, constant: bool = False) -> int:
        self.tensors.append((shape, kind, constant))
        return len(self.tensors) - 1

    def run(
        self, op: int | str, inputs: list[int], *shape: int, kind: int = FLOAT, window: int = 0
    ) -> int:
        out = self.tensor(*shape, kind=kind)
        self.operators.append((op, inputs, [out], window))
        return out

    def bytes(self) -> bytes:
        b = flatbuffers.Builder(1024)
        buffers = [self._buffer(b, False), self._buffer(b, True)]
        tensors = [self._tensor(b, *each) for each in self.tensors]
        codes = list(dict.fromkeys(op for op, *_ in self.operators))
        operators = [
            self._operator(b, codes.index(op), ins, outs, window)
            for op, ins, outs, window in self.operators
        ]
        start = tflite.SubGraphStartTensorsVector
        tensor_list = _list(b, start, tensors)
        operator_list = _list(b, tflite.SubGraphStartOperatorsVector, operators)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensor_list)
        tflite.SubGraphAddOperators(b, operator_list)
        graph = tflite.SubGraphEnd(b)
        code_list = _list(
            b, tflite.ModelStartOperatorCodesVector, [self._code(b, op) for op in codes]
        )
        graphs = _list(b, tflite.ModelStartSubgraphsVector, [graph])
        buffer_list = _list(b, tflite.ModelStartBuffersVector, buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, code_list)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffer_list)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _buffer(self, b: flatbuffers.Builder, filled: bool) -> int:
        data = b.CreateByteVector(b"\x01\x02\x03\x04") if filled else None
        tflite.BufferStart(b)
        if data is not None:
            tflite.BufferAddData(b, data)
        return int(tflite.BufferEnd(b))

    def _tensor(
        self, b: flatbuffers.Builder, shape: tuple[int, ...], kind: int, constant: bool
    ) -> int:
        sizes = _numbers(b, tflite.TensorStartShapeVector, shape)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, sizes)
        tflite.TensorAddType(b, kind)
        tflite.TensorAddBuffer(b, 1 if constant else 0)
        return int(tflite.TensorEnd(b))

    def _operator(
        self,
        b: flatbuffers.Builder,
        code: int,
        inputs: list[int],
        outputs: list[int],
        window: int,
    ) -> int:
        options = 0
        if window:
            tflite.Pool2DOptionsStart(b)
            tflite.Pool2DOptionsAddFilterHeight(b, window)
            tflite.Pool2DOptionsAddFilterWidth(b, window)
            options = tflite.Pool2DOptionsEnd(b)
        ins = _numbers(b, tflite.OperatorStartInputsVector, inputs)
        outs = _numbers(b, tflite.OperatorStartOutputsVector, outputs)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, code)
        tflite.OperatorAddInputs(b, ins)
        tflite.OperatorAddOutputs(b, outs)
        if window:
            tflite.OperatorAddBuiltinOptionsType(b, tflite.BuiltinOptions.Pool2DOptions)
            tflite.OperatorAddBuiltinOptions(b, options)
        return int(tflite.OperatorEnd(b))

    def _code(self, b: flatbuffers.Builder, op: int | str) -> int:
        name = b.CreateString(op) if isinstance(op, str) else None
        tflite.OperatorCodeStart(b)
        code = OPERATORS.CUSTOM if isinstance(op, str) else op
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        if name is not None:
            tflite.OperatorCodeAddCustomCode(b, name)
        return int(tflite.OperatorCodeEnd(b))


def _list(b: flatbuffers.Builder, start, items: Sequence[int]) -> int:
    start(b, len(items))
    for item in reversed(items):
        b.PrependUOffsetTRelative(item)
    return int(b.EndVector())


def _numbers(b: flatbuffers.Builder, start, numbers: Sequence[int]) -> int:
    start(b, len(numbers))
    for number in reversed(numbers):
        b.PrependInt32(number)
    return int(b.EndVector())


def classifier(kind: int = FLOAT) -> Writer:
    """A stem, a depthwise block with hard-swish, a mean, and a classifier of ten."""
    file = Writer()

    def constant(*shape: int, kind: int = kind) -> int:
        return file.tensor(*shape, kind=kind, constant=True)

    bias = INT32 if kind == INT8 else FLOAT
    x = file.tensor(1, 32, 24, 3, kind=kind)
    x = file.run(
        OPERATORS.CONV_2D,
        [x, constant(16, 3, 3, 3), constant(16, kind=bias)],
        *(1, 16, 12, 16),
        kind=kind,
    )
    x = file.run(
        OPERATORS.DEPTHWISE_CONV_2D,
        [x, constant(1, 5, 5, 16), constant(16, kind=bias)],
        *(1, 16, 12, 16),
        kind=kind,
    )
    x = file.run(OPERATORS.HARD_SWISH, [x], 1, 16, 12, 16, kind=kind)
    x = file.run(OPERATORS.MEAN, [x, constant(2, kind=INT32)], 1, 16, kind=kind)
    file.run(
        OPERATORS.FULLY_CONNECTED,
        [x, constant(10, 16), constant(10, kind=bias)],
        *(1, 10),
        kind=kind,
    )
    return file


def test_every_operator_is_a_kernel_with_channels_first() -> None:
    assert kernels_of(classifier().bytes()) == (
        Kernel("CONV_2D", (1, 3, 32, 24), (1, 16, 16, 12), 432, 16, 432 * 16 * 12),
        Kernel("DEPTHWISE_CONV_2D", (1, 16, 16, 12), (1, 16, 16, 12), 400, 16, 400 * 192, True),
        Kernel("HARD_SWISH", (1, 16, 16, 12), (1, 16, 16, 12)),
        Kernel("MEAN", (1, 16, 16, 12), (1, 16)),
        Kernel("FULLY_CONNECTED", (1, 16), (1, 10), 160, 10, 160),
    )


def test_the_precision_is_that_of_most_of_the_work() -> None:
    assert precision_of(classifier().bytes()) == "float32"
    assert precision_of(classifier(INT8).bytes()) == "int8"
    shapes = [kernel.macs for kernel in kernels_of(classifier(INT8).bytes())]
    assert shapes == [kernel.macs for kernel in kernels_of(classifier().bytes())]


def test_half_precision_weights_count_as_weights_and_their_expansion_costs_nothing() -> None:
    file = Writer()
    x = file.tensor(1, 8, 8, 4)
    stored = file.tensor(8, 1, 1, 4, kind=HALF, constant=True)
    weights = file.run(OPERATORS.DEQUANTIZE, [stored], 8, 1, 1, 4)
    file.run(OPERATORS.CONV_2D, [x, weights, -1], 1, 8, 8, 8)
    (only,) = kernels_of(file.bytes())
    assert (only.op, only.weights, only.biases, only.macs) == ("CONV_2D", 32, 0, 32 * 64)


def test_a_custom_operator_goes_by_its_own_name() -> None:
    file = Writer()
    file.run("TFLite_Detection_PostProcess", [file.tensor(1, 100, 4)], 1, 10, 4)
    assert [kernel.op for kernel in kernels_of(file.bytes())] == ["TFLite_Detection_PostProcess"]


def test_an_operator_newer_than_the_old_field_keeps_its_name() -> None:
    file = Writer()
    file.run(OPERATORS.GELU, [file.tensor(1, 8)], 1, 8)
    assert kernels_of(file.bytes())[0].op == "GELU"


def test_an_operator_newer_than_the_schema_is_named_by_its_number() -> None:
    file = Writer()
    file.run(700, [file.tensor(1, 8)], 1, 8)
    assert kernels_of(file.bytes())[0].op == "BuiltinOperator_700"


def test_a_product_of_two_results_has_work_and_no_weights() -> None:
    file = Writer()
    query, key = file.tensor(1, 2, 16, 8), file.tensor(1, 2, 8, 32)
    file.run(OPERATORS.BATCH_MATMUL, [query, key], 1, 2, 16, 32)
    (product,) = kernels_of(file.bytes())
    assert (product.input, product.weights) == ((1, 2, 16, 8), 0)
    assert product.macs == 2 * 16 * 8 * 32


def test_a_pool_has_its_window_and_the_width_of_its_elements() -> None:
    file = Writer()
    x = file.tensor(1, 8, 8, 16, kind=INT8)
    file.run(OPERATORS.MAX_POOL_2D, [x], 1, 4, 4, 16, kind=INT8, window=3)
    assert kernels_of(file.bytes()) == (
        Kernel("MAX_POOL_2D", (1, 16, 8, 8), (1, 16, 4, 4), element_bytes=1, taps=9),
    )


def test_a_lookup_has_its_table_as_weights() -> None:
    file = Writer()
    tokens = file.tensor(1, 12, kind=INT32)
    table = file.tensor(1000, 64, constant=True)
    file.run(OPERATORS.GATHER, [table, tokens], 1, 12, 64)
    (lookup,) = kernels_of(file.bytes())
    assert (lookup.input, lookup.weights, lookup.macs) == ((1, 12), 64_000, 0)


def test_a_sum_with_a_constant_has_the_other_term_as_its_input() -> None:
    file = Writer()
    shift = file.tensor(16, constant=True)
    file.run(OPERATORS.ADD, [shift, file.tensor(1, 4, 4, 16)], 1, 4, 4, 16)
    (total,) = kernels_of(file.bytes())
    assert (total.input, total.biases) == ((1, 16, 4, 4), 16)


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x08\x00\x00\x00ONNX", b"PK\x03\x04" + b"0" * 64]
)
def test_another_file_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(ExportError, match="not a TFLite file") as caught:
        kernels_of(content)
    assert "\n" not in str(caught.value)


def said(content: bytes) -> str:
    """What is said about a file; nothing if it can be read."""
    try:
        kernels_of(content)
        precision_of(content)
    except EdgeDistillError as error:
        return str(error)
    return ""


def test_every_truncation_is_refused_or_read() -> None:
    whole = classifier().bytes()
    sentences = [said(whole[:size]) for size in range(8, len(whole))]
    refused = [each for each in sentences if each]
    assert len(refused) > len(whole) / 2
    assert all("damaged" in each and "\n" not in each for each in refused)


def test_no_altered_byte_ends_in_another_error() -> None:
    whole, chance = classifier(INT8).bytes(), random.Random(5)
    sentences = []
    for _ in range(2000):
        altered = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            altered[chance.randrange(8, len(whole))] = chance.choice((0, 1, 127, 128, 255))
        sentences.append(said(bytes(altered)))
    refused = [each for each in sentences if each]
    assert len(refused) > 100
    assert all("damaged" in each for each in refused)
