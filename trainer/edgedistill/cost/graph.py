"""The kernels of an ONNX file, as onnxruntime will execute them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.cost.features import TWO_OPERANDS
from edgedistill.cost.kernels import Kernel

if TYPE_CHECKING:
    import onnx

# Places of an operator's data, its weight, and its biases, among its inputs.
_PLACES: dict[str, tuple[int, int | None, tuple[int, ...]]] = {
    "Add": (0, None, (0, 1)),
    "BiasGelu": (0, None, (1,)),
    "Conv": (0, 1, (2,)),
    "DynamicQuantizeMatMul": (0, 1, (4,)),
    "FusedConv": (0, 1, (2,)),
    "FusedGemm": (0, 1, (2,)),
    "FusedMatMul": (0, 1, ()),
    "Gather": (1, 0, ()),
    "Gemm": (0, 1, (2,)),
    "LayerNormalization": (0, None, (1, 2)),
    "MatMul": (0, 1, ()),
    "MatMulInteger": (0, 1, ()),
    "MatMulIntegerToFloat": (0, 1, (6,)),
    "QGemm": (0, 3, (6,)),
    "QLinearConv": (0, 3, (8,)),
    "SkipLayerNormalization": (0, None, (2, 3)),
    "Slice": (0, 0, ()),
}
# Operators that take their elements as they come.
_ANY_TYPE = frozenset(
    """
    Concat Flatten Gather MaxPool Pad Relu Reshape Slice Split Squeeze Transpose Unsqueeze
    """.split()  # noqa: SIM905 (a line an operator would be a page)
)


def kernels_of(model: bytes, length: int = 1) -> tuple[Kernel, ...]:
    """The nodes of the engine's graph at the EXTENDED level, in order, with their work.

    length: what an open dimension of the input is taken to be, such as the tokens of a text.
    """
    return kernels_and_inputs(model, length)[0]


def kernels_and_inputs(model: bytes, length: int = 1) -> tuple[tuple[Kernel, ...], tuple[int, ...]]:
    """The same, and how many inputs each node has, constants included."""
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
    constants = {t.name for t in optimized.graph.initializer}
    shapes, bytes_of = _shapes(optimized, length)
    nodes = optimized.graph.node
    kernels = tuple(_kernel(node, shapes, bytes_of, constants) for node in nodes)
    return kernels, tuple(len(node.input) for node in nodes)


def _shapes(
    model: onnx.ModelProto, length: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shape of every tensor, and bytes of an element of those that are computed.

    By one run on zeros: fused operators have no shape inference.
    """
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
        t.name: np.zeros(
            [d if isinstance(d, int) else length for d in t.shape],
            onnx.helper.tensor_dtype_to_np_dtype(kinds[t.name]),
        )
        for t in session.get_inputs()
    }
    names = [o.name for o in session.get_outputs()]
    shapes |= {name: array.shape for name, array in zeros.items()}
    arrays = dict(zip(names, session.run(names, zeros), strict=True))
    shapes |= {name: array.shape for name, array in arrays.items()}
    return shapes, {name: array.dtype.itemsize for name, array in arrays.items()}


def _kernel(
    node: onnx.NodeProto,
    shapes: dict[str, tuple[int, ...]],
    bytes_of: dict[str, int],
    constants: set[str],
) -> Kernel:
    data_at, weight_at, biases_at = _PLACES.get(node.op_type, (0, None, ()))
    data, output = shapes.get(node.input[data_at], ()), shapes.get(node.output[0], ())

    def elements(places: Iterable[int]) -> int:
        names = [node.input[i] for i in places if i < len(node.input)]
        return sum(math.prod(shapes[name]) for name in names if name in constants)

    weights = elements([weight_at] if weight_at is not None else [])
    computed = [math.prod(shapes[n]) for n in node.input if n in bytes_of]
    conv = "Conv" in node.op_type
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    window = next((a.ints for a in node.attribute if a.name == "kernel_shape"), data[2:])
    if conv:
        macs = weights * math.prod(output[2:])
    elif "MatMul" in node.op_type or "Gemm" in node.op_type:
        macs = math.prod(output) * data[-1]
    else:
        macs = 0
    return Kernel(
        node.op_type,
        data,
        output,
        weights=weights,
        biases=elements(biases_at),
        macs=macs,
        depthwise=conv and group > 1 and group == data[1],
        element_bytes=bytes_of[node.output[0]] if node.op_type in _ANY_TYPE else 4,
        taps=math.prod(window) if "Pool" in node.op_type else 0,
        broadcast=node.op_type in TWO_OPERANDS and len(set(computed)) > 1,
    )
