"""The kernels of an ONNX file, as onnxruntime will execute them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.cost.kernels import Kernel

if TYPE_CHECKING:
    import onnx

# Place of the weight and the bias among an operator's inputs, and of its data.
_WEIGHTS = {
    "Conv": (1, 2),
    "FusedConv": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1, None),
    "QLinearConv": (3, 8),
    "QGemm": (3, 6),
}


def kernels_of(model: bytes) -> tuple[Kernel, ...]:
    """The nodes of the engine's graph at the EXTENDED level, in order, with their work."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 4
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(d.dim_value for d in dims)
    return tuple(_kernel(node, shapes) for node in graph.node)


def _kernel(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Kernel:
    data, output = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if node.op_type not in _WEIGHTS:
        return Kernel(node.op_type, data, output)
    weight_at, bias_at = _WEIGHTS[node.op_type]
    weight = shapes.get(node.input[weight_at], ())
    bias = shapes.get(node.input[bias_at], ()) if bias_at and len(node.input) > bias_at else (0,)
    conv = "Conv" in node.op_type
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    positions = math.prod(output[2:]) if conv else math.prod(output[:-1])
    return Kernel(
        node.op_type,
        data,
        output,
        weights=math.prod(weight),
        biases=math.prod(bias),
        macs=math.prod(weight) * positions,
        depthwise=conv and group > 1 and group == data[1],
    )
