"""Small random networks as ONNX, of the operators that exported students have.

Built node by node: exporting the thousands of kernels of a calibration from torch would take an
hour.  Weights are one small random pattern over and over, so that files compress; what a kernel
costs does not depend on their values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 20
RANGE = 3.0
"""Activations are taken to lie within ± this where an int8 file needs a range."""
INPUT, OUTPUT = "input", "logits"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph."""

    name: str
    shape: Shape


@dataclass
class Graph:
    """One network under construction."""

    input: Value
    integers: bool = False
    """The input is int64 tokens, of which there may be any number."""
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    positive: set[str] = field(default_factory=set)
    """Tensors that are never below zero."""
    macs: int = 0

    def add(self, op: str, inputs: Sequence[Value | str], shape: Shape, **attributes: Any) -> Value:
        import onnx

        name = f"t{len(self.nodes)}"
        names = [value if isinstance(value, str) else value.name for value in inputs]
        self.nodes.append(onnx.helper.make_node(op, names, [name], f"n_{name}", **attributes))
        return Value(name, shape)

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(np.resize(_pattern(), shape).astype(np.float32))

    # convolutional networks: (1, channels, height, width)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        depthwise: bool = False,
        act: str = "relu",
    ) -> Value:
        """With "same" padding and a bias, as batch normalisation folds to."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        sh, sw = (1 if kh < kw else stride), stride
        _, c, h, w = x.shape
        group = c if depthwise else 1
        self.macs += channels * (c // group) * kh * kw * math.ceil(h / sh) * math.ceil(w / sw)
        y = self.add(
            "Conv",
            [x, self.weight(channels, c // group, kh, kw), self.weight(channels)],
            (1, channels, math.ceil(h / sh), math.ceil(w / sw)),
            kernel_shape=[kh, kw],
            strides=[sh, sw],
            pads=[kh // 2, kw // 2, kh // 2, kw // 2],
            group=group,
        )
        return self.activation(y, act)

    def patches(self, x: Value, channels: int, size: int) -> Value:
        _, c, h, w = x.shape
        self.macs += channels * c * h * w
        return self.add(
            "Conv",
            [x, self.weight(channels, c, size, size), self.weight(channels)],
            (1, channels, h // size, w // size),
            kernel_shape=[size, size],
            strides=[size, size],
        )

    def activation(self, x: Value, act: str) -> Value:
        if act == "relu":
            x = self.add("Relu", [x], x.shape)
            self.positive.add(x.name)
        elif act == "relu6":
            low, high = self.constant(np.float32(0)), self.constant(np.float32(6))  # type: ignore[arg-type]
            x = self.add("Clip", [x, low, high], x.shape)
            self.positive.add(x.name)
        elif act == "hardswish":
            x = self.add("HardSwish", [x], x.shape)
        elif act == "silu":
            x = self.add("Mul", [x, self.sigmoid(x)], x.shape)
        return x

    def sigmoid(self, x: Value, hard: bool = False) -> Value:
        y = (
            self.add("HardSigmoid", [x], x.shape, alpha=1 / 6, beta=0.5)
            if hard
            else self.add("Sigmoid", [x], x.shape)
        )
        self.positive.add(y.name)
        return y

    def shortcut(self, x: Value, shape: Shape, stride: int) -> Value:
        """Brings a residual block's input to the shape of its output."""
        return self.conv(x, shape[1], 1, stride, act="none")

    def sum(self, x: Value, y: Value) -> Value:
        return self.add("Add", [x, y], x.shape)

    def excite(self, x: Value, narrow: int, hard: bool) -> Value:
        """Squeeze-and-excite."""
        c = x.shape[1]
        mean = self.mean(x, keep=True)
        inner = self.conv(mean, narrow, 1, act="relu" if hard else "silu")
        scale = self.sigmoid(self.conv(inner, c, 1, act="none"), hard)
        return self.add("Mul", [x, scale], x.shape)

    def concat(self, *parts: Value) -> Value:
        channels = sum(part.shape[1] for part in parts)
        y = self.add("Concat", parts, (1, channels, *parts[0].shape[2:]), axis=1)
        if all(part.name in self.positive for part in parts):
            self.positive.add(y.name)
        return y

    def pool(self, x: Value, op: str, size: int, stride: int, pad: int) -> Value:
        _, c, h, w = x.shape
        extra: dict[str, Any] = {"count_include_pad": 1} if op == "AveragePool" else {}
        y = self.add(
            op,
            [x],
            (1, c, (h + 2 * pad - size) // stride + 1, (w + 2 * pad - size) // stride + 1),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[pad] * 4,
            **extra,
        )
        self.positive |= {y.name} if x.name in self.positive else set()
        return y

    def mean(self, x: Value, keep: bool = False) -> Value:
        shape = (*x.shape[:2], 1, 1) if keep else x.shape[:2]
        axes = self.constant(np.array([2, 3], np.int64))
        y = self.add("ReduceMean", [x, axes], shape, keepdims=int(keep))
        self.positive |= {y.name} if x.name in self.positive else set()
        return y

    def gemm(self, x: Value, outputs: int) -> Value:
        """A linear layer of (rows, features)."""
        weight, bias = self.weight(outputs, x.shape[-1]), self.weight(outputs)
        self.macs += math.prod(x.shape) * outputs
        return self.add("Gemm", [x, weight, bias], (x.shape[0], outputs), transB=1)

    # transformers: (1, tokens, features)

    def matmul(self, x: Value, outputs: int, bias: bool = True) -> Value:
        shape = (*x.shape[:-1], outputs)
        self.macs += math.prod(x.shape) * outputs
        y = self.add("MatMul", [x, self.weight(x.shape[-1], outputs)], shape)
        return self.add("Add", [y, self.weight(outputs)], shape) if bias else y

    def reshape(self, x: Value, *shape: int) -> Value:
        given = list(shape)
        if self.integers:  # any number of tokens
            given[shape.index(self.input.shape[1])] = -1
        return self.add("Reshape", [x, self.constant(np.array(given, np.int64))], shape)

    def transpose(self, x: Value, *order: int) -> Value:
        shape = tuple(x.shape[axis] for axis in order)
        return self.add("Transpose", [x], shape, perm=list(order))

    def dense(self, x: Value, outputs: int, flat: bool) -> Value:
        """A linear layer over tokens; flat as some exports have it, between two reshapes."""
        if not flat:
            return self.matmul(x, outputs)
        rows = self.gemm(self.reshape(x, x.shape[1], x.shape[2]), outputs)
        return self.reshape(rows, 1, x.shape[1], outputs)

    def norm(self, x: Value) -> Value:
        scale, bias = self.weight(x.shape[-1]), self.weight(x.shape[-1])
        return self.add("LayerNormalization", [x, scale, bias], x.shape, axis=-1, epsilon=1e-5)

    def gelu(self, x: Value) -> Value:
        return self.add("Gelu", [x], x.shape)

    def attention(self, x: Value, heads: int, flat: bool) -> Value:
        _, t, d = x.shape
        width = d // heads
        key, query, value = (
            self.reshape(self.dense(x, d, flat), 1, t, heads, width) for _ in range(3)
        )
        scaled = self.add(
            "Mul",
            [self.transpose(query, 0, 2, 1, 3), self.constant(np.float32(width**-0.5))],  # type: ignore[arg-type]
            (1, heads, t, width),
        )
        keys = self.transpose(key, 0, 2, 3, 1)
        scores = self.add("MatMul", [scaled, keys], (1, heads, t, t))
        weights = self.add("Softmax", [scores], scores.shape, axis=-1)
        gathered = self.add(
            "MatMul", [weights, self.transpose(value, 0, 2, 1, 3)], (1, heads, t, width)
        )
        merged = self.reshape(self.transpose(gathered, 0, 2, 1, 3), 1, t, d)
        return self.dense(merged, d, flat)

    def feed_forward(self, x: Value, width: int, flat: bool) -> Value:
        return self.dense(self.gelu(self.dense(x, width, flat)), x.shape[-1], flat)

    def embed(self, ids: Value, vocabulary: int, dim: int) -> Value:
        table = self.weight(vocabulary, dim)
        return self.add("Gather", [table, ids], (1, ids.shape[1], dim), axis=0)

    def positions(self, ids: Value, dim: int) -> Value:
        """A row for each token of a table of positions."""
        tokens = ids.shape[1]
        table = self.weight(512, dim)
        size = self.add("Shape", [ids], (1,), start=1, end=2)
        zero = self.constant(np.array([0], np.int64))
        return self.add("Slice", [table, zero, size, zero], (tokens, dim))

    def pooled(self, x: Value) -> Value:
        axes = self.constant(np.array([1], np.int64))
        return self.add("ReduceMean", [x, axes], (1, x.shape[-1]), keepdims=0)

    def model(self, output: Value) -> onnx.ModelProto:
        """The finished file's contents, its one output being `output`."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        self.nodes[-1].output[0] = OUTPUT
        kind = TensorProto.INT64 if self.integers else TensorProto.FLOAT
        shape: list[int | str] = [1, "tokens"] if self.integers else list(self.input.shape)
        graph = helper.make_graph(
            self.nodes,
            "model",
            [helper.make_tensor_value_info(self.input.name, kind, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output.shape)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        made.ir_version = 10
        inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(made)
        return inferred


def static_int8(graph: Graph, model: onnx.ModelProto) -> onnx.ModelProto:
    """As the product quantizes convolutional networks, with fixed ranges for measured ones."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    def interval(name: str) -> TensorData:
        low = 0.0 if name in graph.positive else -RANGE
        return TensorData(lowest=np.float32(low), highest=np.float32(RANGE))

    tensors = [INPUT, *(output for node in model.graph.node for output in node.output)]
    ranges = TensorsData(CalibrationMethod.MinMax, {name: interval(name) for name in tensors})
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


@functools.cache
def _pattern() -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (0.05 * rng.standard_normal(4099)).astype(np.float32)
