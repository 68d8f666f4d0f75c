"""Make `tiny.onnx` and `tiny_int8.onnx`, the smallest networks with the shape of a real student.

Conv, Relu, ReduceMean and Gemm from (1, 1, 8, 8) to 10 logits, with seeded weights; the second is
its static QDQ version.  Run it again only to change them: `python tests/data/make_tiny.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

SEED = 7
CHANNELS, CLASSES = 4, 10
OPSET, IR_VERSION = 20, 10


def tiny() -> onnx.ModelProto:
    """The float network: every layer's weights drawn from one seeded generator."""
    rng = np.random.default_rng(SEED)
    weights = {
        "conv.weight": rng.normal(0, 0.5, (CHANNELS, 1, 3, 3)),
        "conv.bias": rng.normal(0, 0.1, CHANNELS),
        "head.weight": rng.normal(0, 1, (CLASSES, CHANNELS)),
        "head.bias": rng.normal(0, 0.1, CLASSES),
    }
    initializers = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    conv = ["image", "conv.weight", "conv.bias"]
    nodes = [
        helper.make_node("Conv", conv, ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [*initializers, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


class Images(CalibrationDataReader):  # type: ignore[misc]
    """A few seeded inputs over the range that preprocessing gives."""

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED + 1)
        images = rng.uniform(-2, 2, (16, 1, 1, 8, 8)).astype(np.float32)
        self.left: Iterator[NDArray[np.float32]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self.left, None)
        return None if image is None else {"image": image}


def main(folder: Path) -> None:
    onnx.save(tiny(), folder / "tiny.onnx")
    with TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "tiny_int8.onnx"
        quantize_static(
            folder / "tiny.onnx",
            quantized,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantized)
    model.producer_version = ""
    model.ir_version = IR_VERSION
    onnx.save(model, folder / "tiny_int8.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
