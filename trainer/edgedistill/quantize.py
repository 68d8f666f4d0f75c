"""Quantize an exported ONNX model after training.

Static QDQ for convolutional networks: uint8 activations, int8 weights per channel, ranges by MinMax
over calibration samples.  Dynamic for networks of matrix products: the same, but each call finds
the ranges of its own activations.  onnxruntime runs both as integer kernels on ARM and x86.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.export.onnx import canonical, quiet

Array = NDArray[np.float32]


def static_int8(model: bytes, input_name: str, calibration: Array) -> bytes:
    """The model with int8 weights and uint8 activations.

    calibration: preprocessed samples, (n, …), n of about 256.  Returns the quantized ONNX file.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.rest = iter(calibration)

        def get_next(self) -> Mapping[str, Any] | None:
            sample = next(self.rest, None)
            return None if sample is None else {input_name: sample[None]}

    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        exported, prepared, quantized = (
            Path(folder) / f"{name}.onnx" for name in ("exported", "prepared", "quantized")
        )
        exported.write_bytes(model)
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Samples(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return canonical(onnx.load(quantized))


def dynamic_int8(model: bytes) -> bytes:
    """The model with int8 weights, and activations quantized as they come.

    Weights get a scale a column, an embedding table has one scale and uint8 entries.  Returns the
    quantized ONNX file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder, quiet():
        quantized = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            onnx.load_from_string(model),
            quantized,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return canonical(onnx.load(quantized))
