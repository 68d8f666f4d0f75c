"""The kernels of a TFLite file: every operator of its main graph, in order, with its work.

TFLite runs its operators as they stand in the file: what could be fused was fused when the file was
written, so nothing has to be executed or optimised to know them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from edgedistill.cost.kernels import Kernel
from edgedistill.errors import ExportError, SettingsError

IDENTIFIER = b"TFL3"
_READ_ERRORS = (struct.error, IndexError, TypeError, ValueError, AttributeError, OverflowError)
"""What the flatbuffers reader raises on bytes that it cannot follow."""

_LARGEST = 1000
"""Above the numbers of operators and types that any schema will have."""

# Places of an operator's data, its weight, and its biases, among its inputs.
_PLACES: dict[str, tuple[int, int | None, tuple[int, ...]]] = {
    "BATCH_MATMUL": (0, 1, ()),
    "CONV_2D": (0, 1, (2,)),
    "CONV_3D": (0, 1, (2,)),
    "DEPTHWISE_CONV_2D": (0, 1, (2,)),
    "EMBEDDING_LOOKUP": (0, 1, ()),
    "FULLY_CONNECTED": (0, 1, (2,)),
    "GATHER": (1, 0, ()),
    "SPLIT": (1, None, ()),
    "TRANSPOSE_CONV": (2, 1, (3,)),
}
_RECURRENT = frozenset(
    (
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "LSTM",
        "RNN",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
    )
)
_POOLING = frozenset(("AVERAGE_POOL_2D", "L2_POOL_2D", "MAX_POOL_2D"))
_BYTES = {"BOOL": 1, "FLOAT16": 2, "FLOAT64": 8, "INT16": 2, "INT64": 8, "INT8": 1, "UINT8": 1}
"""Of an element, where it does not have four."""
_JOINING = frozenset(("CONCATENATION", "PACK"))
_AS_THEY_ARE = frozenset(("BATCH_MATMUL",))
"""Operators whose four dimensions are not an image."""
_PREPARED = frozenset(("DENSIFY", "DEQUANTIZE"))
"""Operators that TFLite runs once, when the model is loaded, where their input is constant."""


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: str
    """FLOAT32, INT8, …"""
    constant: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Integers of 32 or more bits are shapes, axes and indices, or a quantized bias."""
        return self.constant and self.kind not in ("BOOL", "INT32", "INT64", "STRING", "UINT32")


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[_Tensor | None, ...]
    outputs: tuple[_Tensor, ...]
    window: int = 0
    """Elements of a pooling window."""


def kernels_of(model: bytes) -> tuple[Kernel, ...]:
    """The operators of a .tflite file in order, named as TFLite names them (CONV_2D, …).

    TFLite keeps images as (1, height, width, channels); here they are (1, channels, height, width)
    as in every Kernel.  Open dimensions have the size that the file gives them, usually one.
    Constants that TFLite expands while loading (float16 or sparse weights) count as weights.
    """
    return tuple(_kernel(node) for node in _nodes(model))


def precision_of(model: bytes) -> str:
    """ "int8" if most multiply-accumulates have 8-bit weights, else "float32"."""
    work = {"float32": 0, "int8": 0}
    for node in _nodes(model):
        weight = _weight(node)
        eight_bits = weight is not None and weight.kind in ("INT8", "UINT8")
        work["int8" if eight_bits else "float32"] += _kernel(node).macs
    return max(work, key=lambda name: (work[name], name == "float32"))


def _nodes(model: bytes) -> list[_Node]:
    if model[4:8] != IDENTIFIER:
        raise ExportError(
            f"this is not a TFLite file: bytes 4 to 8 are {model[4:8]!r}, not {IDENTIFIER!r}; "
            "give a .tflite, .onnx or .edge file"
        )
    try:
        return list(_walk(model))
    except _READ_ERRORS as error:
        raise ExportError(
            f"the TFLite file is damaged ({len(model)} bytes, and a reference inside points to "
            "nothing); copy or convert it again"
        ) from error


def _walk(model: bytes) -> Iterator[_Node]:
    root = _schema().Model.GetRootAs(model, 0)
    codes = [_operator(code) for code in _each(model, root.OperatorCodesLength, root.OperatorCodes)]
    if _length(model, root.SubgraphsLength) < 1:
        raise ValueError("no graph")
    graph = root.Subgraphs(0)
    tensors = [
        _tensor(model, root, each) for each in _each(model, graph.TensorsLength, graph.Tensors)
    ]
    for each in _each(model, graph.OperatorsLength, graph.Operators):
        op = codes[_place(each.OpcodeIndex(), codes)]
        inputs = [int(i) for i in _each(model, each.InputsLength, each.Inputs)]
        outputs = [_place(i, tensors) for i in _each(model, each.OutputsLength, each.Outputs)]
        if op in _PREPARED and inputs and tensors[_place(inputs[0], tensors)].constant:
            for out in outputs:
                tensors[out] = replace(tensors[out], constant=True)
            continue
        yield _Node(
            op,
            tuple(tensors[_place(i, tensors)] if i >= 0 else None for i in inputs),
            tuple(tensors[i] for i in outputs),
            _window(each) if op in _POOLING else 0,
        )


def _kernel(node: _Node) -> Kernel:
    data_at, weight_at, bias_at = _PLACES.get(node.op, (0, None, ()))
    data = _data(node, data_at)
    output = node.outputs[0] if node.outputs else None
    weight = _weight(node)
    biases = sum(t.elements for i in bias_at if (t := _input(node, i)) and t.constant)
    weights = weight.elements if weight and weight.constant else 0
    constants = [t for t in node.inputs if t and t.is_weight]
    if node.op in _RECURRENT:
        weights = sum(t.elements for t in constants if len(t.shape) > 1)
        biases = sum(t.elements for t in constants if len(t.shape) <= 1)
    elif weight_at is None:
        biases = sum(t.elements for t in constants)
    image = node.op not in _AS_THEY_ARE
    shape = _channels_first(output.shape if output else (), image)
    return Kernel(
        node.op,
        shape if node.op in _JOINING else _channels_first(data.shape if data else (), image),
        shape,
        weights=weights,
        biases=biases,
        macs=_macs(node, data, weight, output, weights),
        depthwise=node.op == "DEPTHWISE_CONV_2D",
        element_bytes=_BYTES.get(output.kind, 4) if output else 4,
        taps=node.window,
    )


def _macs(
    node: _Node, data: _Tensor | None, weight: _Tensor | None, output: _Tensor | None, weights: int
) -> int:
    if data is None or output is None:
        return 0
    if node.op in _RECURRENT:
        return weights * data.elements // max(1, data.shape[-1] if data.shape else 1)
    if weight is None or node.op in ("EMBEDDING_LOOKUP", "GATHER"):
        return 0
    if node.op == "TRANSPOSE_CONV":
        return weight.elements * math.prod(data.shape[:-1])
    if "CONV" in node.op:  # each weight is used once for each place of the output
        return weight.elements * math.prod(output.shape[:-1])
    if node.op == "FULLY_CONNECTED":
        return output.elements * (weight.shape[-1] if weight.shape else 1)
    columns = output.shape[-1] if output.shape else 1
    rows = output.elements // max(1, columns)
    return rows * weight.elements // max(1, math.prod(weight.shape[:-2])) if rows else 0


def _weight(node: _Node) -> _Tensor | None:
    at = _PLACES.get(node.op, (0, None, ()))[1]
    return _input(node, at) if at is not None else None


def _input(node: _Node, place: int) -> _Tensor | None:
    return node.inputs[place] if place < len(node.inputs) else None


def _data(node: _Node, place: int) -> _Tensor | None:
    """The input that changes from call to call: of a sum with a constant, the other one."""
    wanted = _input(node, place)
    if wanted is not None and not wanted.constant:
        return wanted
    return next((t for t in node.inputs if t and not t.constant), wanted)


def _channels_first(shape: tuple[int, ...], image: bool) -> tuple[int, ...]:
    if not image or len(shape) != 4:
        return shape
    batch, height, width, channels = shape
    return batch, channels, height, width


def _tensor(model: bytes, root: Any, tensor: Any) -> _Tensor:
    shape = tuple(int(d) for d in _each(model, tensor.ShapeLength, tensor.Shape))
    if any(d < 0 for d in shape):
        raise ValueError(f"a tensor of shape {shape}")
    place = tensor.Buffer()
    stored = root.Buffers(place) if 0 < place < _length(model, root.BuffersLength) else None
    filled = stored is not None and (stored.DataLength() > 0 or stored.Offset() > 1)
    return _Tensor(shape, _name("TensorType", tensor.Type()), filled)


def _window(operator: Any) -> int:
    stored = operator.BuiltinOptions()
    if stored is None:
        return 0
    options = _schema().Pool2DOptions()
    options.Init(stored.Bytes, stored.Pos)
    return int(options.FilterHeight() * options.FilterWidth())


def _operator(code: Any) -> str:
    """The builtin's name, or the name that a custom operator goes by."""
    # a code above 127 stands in the newer field alone, an old file has only the older one
    name = _name("BuiltinOperator", max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
    if name != "CUSTOM":
        return name
    custom = code.CustomCode()
    return custom.decode("utf-8") if custom else name


def _each(model: bytes, length: Callable[[], int], item: Callable[[int], Any]) -> Iterable[Any]:
    return (item(i) for i in range(_length(model, length)))


def _length(model: bytes, length: Callable[[], int]) -> int:
    """Length of a vector, whose items take four bytes each."""
    count = length()
    if not 0 <= 4 * count <= len(model):
        raise ValueError(f"a list of {count}")
    return count


def _place(index: Any, items: list[Any]) -> int:
    place = int(index)
    if not 0 <= place < len(items):
        raise IndexError(f"item {place} of {len(items)}")
    return place


def _name(enum: str, number: int) -> str:
    """Of a value of the schema; one that is newer than the schema keeps its number."""
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{enum} {number}")
    return _names(enum).get(number, f"{enum}_{number}")


@cache
def _names(enum: str) -> dict[int, str]:
    names = vars(getattr(_schema(), enum))
    return {value: name for name, value in names.items() if isinstance(value, int)}


def _schema() -> Any:
    try:
        import tflite
    except ImportError:
        raise SettingsError(
            "reading a .tflite file needs the extra 'tflite'; install it with: "
            "pip install 'edgedistill[tflite]'"
        ) from None
    return tflite
