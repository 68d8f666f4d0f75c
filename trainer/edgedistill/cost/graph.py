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
        path = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(path)
    shapes = _shapes(optimized)
    return tuple(_kernel(node, shapes) for node in optimized.graph.node)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by one run on zeros: fused operators have no shape inference."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    given = {o.name for o in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = {t.name: t.type.tensor_type.elem_type for t in model.graph.input}
    zeros = {
        t.name: np.zeros(t.shape, onnx.helper.tensor_dtype_to_np_dtype(kinds[t.name]))
        for t in session.get_inputs()
    }
    names = [o.name for o in session.get_outputs()]
    shapes |= {name: array.shape for name, array in zeros.items()}
    return shapes | {
        name: array.shape for name, array in zip(names, session.run(names, zeros), strict=True)
    }


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
