"""Static int8, as QDQ: weights as int8 per channel, and activations as uint8 with fixed ranges.

The ranges come from calibration samples, or from a quantization-aware training.  onnxruntime runs
it as integer kernels on ARM and x86.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.export.onnx import canonical
from edgedistill.export.quiet import quiet
from edgedistill.quantize.sensitivity import Layer, sensitivities

Array = NDArray[np.float32]
OPTIONS: dict[str, dict[str, float]] = {
    "MinMax": {},
    "Percentile": {"percentile": 99.99},
    # with as many bins as steps, which is onnxruntime's default, there is nothing to choose from
    "Entropy": {"num_bins": 512, "num_quantized_bins": 128},
}
METHODS = tuple(OPTIONS)
"""How ranges are found: everything that was seen, all but the outermost values of which there are
few, or the range whose histogram loses the least information."""
Learned = Mapping[str, tuple[float, int]]
"""Scale and zero point of tensors by name."""


def static_int8(model: bytes, input_name: str, calibration: Array) -> bytes:
    """The model with int8 weights and uint8 activations.

    calibration: preprocessed samples, (n, …), n of about 256.  Returns the quantized ONNX file.
    """
    return Static(model, input_name, calibration).int8(METHODS[0])


class Static:
    """A float32 model that is calibrated once and quantized in several ways."""

    methods: tuple[str, ...] = METHODS

    def __init__(
        self, model: bytes, input_name: str, calibration: Array, learned: Learned | None = None
    ) -> None:
        """calibration: preprocessed samples, (n, …).  learned: of tensors whose ranges a training
        has found; they hold whatever the method."""
        self.model, self.input_name, self.calibration = model, input_name, calibration
        self.learned = learned or {}
        self._ranges: dict[str, Any] = {}

    def layers(self, int8: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> list[Layer]:
        """The layers that `int8` quantizes, the one with most noise first."""
        return sensitivities(self.prepared, feeds, ("Conv", "Gemm", "MatMul"), int8)

    def int8(self, method: str, floats: Collection[str] = ()) -> bytes:
        """The quantized ONNX file.  floats: names of the nodes that stay float32."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        overrides = {
            name: [{"scale": np.array(scale, np.float32), "zero_point": np.array(zero, np.uint8)}]
            for name, (scale, zero) in self.learned.items()
        }
        with quiet():
            quantizer = QDQQuantizer(
                onnx.shape_inference.infer_shapes(onnx.load_from_string(self.prepared)),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self._range(method),
                nodes_to_quantize=[],
                nodes_to_exclude=list(floats),
                op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
                extra_options={"TensorQuantOverrides": overrides},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        return canonical(quantizer.model.model)

    @cached_property
    def prepared(self) -> bytes:
        """The model as the quantizer wants it: constants folded, shapes known."""
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder, quiet():
            before, after = Path(folder) / "exported.onnx", Path(folder) / "prepared.onnx"
            before.write_bytes(self.model)
            quant_pre_process(before, after, skip_symbolic_shape=True)
            return after.read_bytes()

    def _range(self, method: str) -> Any:
        if method not in self._ranges:
            self._ranges[method] = self._calibrate(method)
        return self._ranges[method]

    def _calibrate(self, method: str) -> Any:
        """onnxruntime's ranges of every tensor over the calibration samples."""
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            create_calibrator,
        )
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        name, calibration = self.input_name, self.calibration

        class Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
            def __init__(self) -> None:
                self.rest = iter(calibration)

            def get_next(self) -> Mapping[str, Any] | None:
                sample = next(self.rest, None)
                return None if sample is None else {name: sample[None]}

        with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder, quiet():
            path = Path(folder) / "prepared.onnx"
            path.write_bytes(self.prepared)
            calibrator = create_calibrator(
                path,
                sorted({*QLinearOpsRegistry, *QDQRegistry}),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
                extra_options=OPTIONS[method],
            )
            calibrator.collect_data(Samples())
            return calibrator.compute_data()
