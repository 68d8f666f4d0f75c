"""Precisions of weights alone: activations stay float32, and so do small constants.

float16 halves the file and nothing else: the engine widens the weights when it loads them.  int4 is
for matrix products: blocks of 32 weights share a scale.  Embedding tables become int8 then: for
int4 onnxruntime has GatherBlockQuantized, which in version 1.32 takes ids that lie outside of the
table, so bundles may not hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.export.onnx import canonical
from edgedistill.quantize.dynamic import by_row, tables
from edgedistill.quantize.sensitivity import LEAST

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]
BLOCK = 32
"""Weights of a column that share a scale."""
_MICROSOFT = "com.microsoft"
_ZERO = 8
"""Of the numbers 0 to 15."""


def float16(model: bytes) -> bytes:
    """The model with its matrices and kernels as float16.  Returns the ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load_from_string(model)
    widened = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, most = tensor.name, float(np.finfo(np.float16).max)
        halves = np.clip(numpy_helper.to_array(tensor), -most, most).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        widened.append(
            helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT)
        )
    for node in reversed(widened):
        proto.graph.node.insert(0, node)
    return canonical(proto)


def int4(model: bytes) -> bytes:
    """The model with the weights of its matrix products as int4, and its tables as int8 by row.

    Returns the ONNX file, with an operator of onnxruntime's own.
    """
    import onnx

    proto = onnx.load_from_string(model)
    for node in tables(proto):
        by_row(proto, node.name)
    for node in list(proto.graph.node):
        if node.op_type in ("MatMul", "Gemm") and _matrix(proto, node.input[1]) is not None:
            _pack_product(proto, node)
    used = {name for node in proto.graph.node for name in node.input}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    proto.opset_import.add(domain=_MICROSOFT, version=1)
    return canonical(proto)


def rounded(rows: Array) -> tuple[NDArray[np.uint8], Array]:
    """Numbers 0 to 15 and scales: (n, k) -> (n, blocks, 32) and (n, blocks); 8 is zero.

    The largest weight of a block is -8 or 8 of its steps, so that all sixteen are used.
    """
    blocks = -(-rows.shape[1] // BLOCK)
    padded = np.pad(rows, ((0, 0), (0, blocks * BLOCK - rows.shape[1])))
    cut = padded.reshape(len(rows), blocks, BLOCK)
    at = np.abs(cut).argmax(2)[..., None]
    far = np.take_along_axis(cut, at, 2)
    scales: Array = np.where(np.abs(far) < LEAST, LEAST, far / -_ZERO).astype(np.float32)
    steps: NDArray[np.uint8] = np.clip(np.rint(cut / scales) + _ZERO, 0, 15).astype(np.uint8)
    return steps, scales[..., 0]


def _packed(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two in a byte, the first in its low half."""
    low, high = steps[..., ::2], steps[..., 1::2]
    return (low + 16 * high).astype(np.uint8)


def _matrix(model: onnx.ModelProto, name: str) -> Array | None:
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == name and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT:
            array: Array = numpy_helper.to_array(tensor)
            return array
    return None


def _store(model: onnx.ModelProto, name: str, array: NDArray[Any]) -> str:
    from onnx import numpy_helper

    if name not in {tensor.name for tensor in model.graph.initializer}:
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    place = next(i for i, each in enumerate(model.graph.node) if each.name == node.name)
    del model.graph.node[place]
    for offset, each in enumerate(new):
        model.graph.node.insert(place + offset, each)


def _pack_product(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    from onnx import helper

    data, name, *bias = node.input
    weights = _matrix(model, name)
    assert weights is not None
    if not any(a.name == "transB" and a.i for a in node.attribute):
        weights = weights.T
    steps, scales = rounded(weights)  # a row for each output
    inputs = [
        data,
        _store(model, f"{name}_int4", _packed(steps)),
        _store(model, f"{name}_scale", scales.reshape(-1)),
    ]
    output = node.output[0]
    made = helper.make_node(
        "MatMulNBits", inputs, [f"{output}_product" if bias else output], node.name,
        domain=_MICROSOFT, K=weights.shape[1], N=weights.shape[0], bits=4, block_size=BLOCK,
    )  # fmt: skip
    new = [made]
    if bias:
        new.append(
            helper.make_node("Add", [made.output[0], bias[0]], [output], f"{node.name}_bias")
        )
    _replace(model, node, new)
