"""Dynamic int8: weights as int8 per column, and activations as uint8 with the range of the call.

onnxruntime runs it as integer kernels on ARM and x86.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.export.onnx import canonical
from edgedistill.export.quiet import quiet
from edgedistill.quantize.sensitivity import LEAST, Layer, sensitivities

if TYPE_CHECKING:
    import onnx

OPERATORS = ("MatMul", "Gather")
"""What is quantized; a Gemm is made a MatMul first."""
ONE, ROWS = "of each call", "of each call, tables by row"


class Dynamic:
    """A float32 model that is quantized with all of its layers, or some."""

    def __init__(self, model: bytes) -> None:
        import onnx

        self.model = model
        has_tables = tables(onnx.load_from_string(model))
        self.methods: tuple[str, ...] = (ONE, ROWS) if has_tables else (ONE,)

    def int8(self, method: str, floats: Collection[str] = ()) -> bytes:
        """The quantized ONNX file.  floats: names of the nodes that stay float32."""
        return dynamic_int8(self.model, floats, rows=method == ROWS)

    def layers(self, int8: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> list[Layer]:
        """Its layers, the one with most noise first."""
        return sensitivities(self.model, feeds, (*OPERATORS, "Gemm"))


def dynamic_int8(model: bytes, floats: Collection[str] = (), rows: bool = False) -> bytes:
    """The model with int8 weights, and activations quantized as they come.

    Weights get a scale a column, an embedding table has one scale and uint8 entries.
    floats: names of the nodes that stay float32.  rows: embedding tables have int8 entries and a
    scale a row: four bytes more for each, and vectors of any size are as exact.
    Returns the quantized ONNX file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load_from_string(model)
    by_rows = [node.name for node in tables(proto, floats)] if rows else []
    excluded = [name for node in (*floats, *by_rows) for name in (node, f"{node}_MatMul")]
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder, quiet():
        quantized = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            proto,
            quantized,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=excluded,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(quantized)
    for name in by_rows:
        by_row(made, name)
    return canonical(made)


def tables(model: onnx.ModelProto, floats: Collection[str] = ()) -> list[onnx.NodeProto]:
    """The nodes that look up rows of a constant matrix."""
    constants = {t.name for t in model.graph.initializer if len(t.dims) == 2}
    return [
        node
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in constants and node.name not in floats
    ]


def by_row(model: onnx.ModelProto, name: str) -> None:
    """Let a node look up int8 rows and their scales, and multiply them."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    place, node = next((i, n) for i, n in enumerate(graph.node) if n.name == name)
    table, ids = node.input
    stored = next(t for t in graph.initializer if t.name == table)
    weights = numpy_helper.to_array(stored)
    scales = np.maximum(np.abs(weights).max(1, keepdims=True) / 127, LEAST).astype(np.float32)
    rows = np.rint(weights / scales).astype(np.int8)
    del graph.node[place]
    new = [
        helper.make_node("Gather", [f"{table}_quantized", ids], [f"{name}_rows"], f"{name}_rows"),
        helper.make_node(
            "Cast", [f"{name}_rows"], [f"{name}_cast"], f"{name}_cast", to=TensorProto.FLOAT
        ),
        helper.make_node("Gather", [f"{table}_scale", ids], [f"{name}_scales"], f"{name}_scales"),
        helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], list(node.output), name),
    ]
    for offset, each in enumerate(new):
        graph.node.insert(place + offset, each)
    graph.initializer.append(numpy_helper.from_array(rows, f"{table}_quantized"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{table}_scale"))
    if not any(table in each.input for each in graph.node):
        graph.initializer.remove(stored)
