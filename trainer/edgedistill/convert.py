"""From a trained module to the file that ships: export, parity, quantization, the accuracy gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import safetensors.torch
from torch import nn

from edgedistill import quantize, verify
from edgedistill.cache import Cache, digest
from edgedistill.data import Split
from edgedistill.distill import Trainer
from edgedistill.export import onnx as exporter
from edgedistill.provenance import versions
from edgedistill_runtime.manifest import Backend

CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Converted:
    """One network as files."""

    float32: bytes
    shipped: bytes
    precision: str
    validation: float
    """Metric of the shipped file on the validation split."""
    validation_float32: float

    @property
    def points_lost(self) -> float:
        """Points of the metric that the precision costs, on the validation split."""
        return 100 * (self.validation_float32 - self.validation)


class Converter:
    """Exports networks of one recipe, and keeps what is finished."""

    def __init__(self, trainer: Trainer, backend: Backend, work: Cache) -> None:
        self.trainer, self.backend, self.work = trainer, backend, work
        rows = np.random.default_rng(trainer.recipe.seed).permutation(len(trainer.images))
        self.calibration = trainer.images[np.sort(rows[:CALIBRATION_SAMPLES])]
        self.versions = versions()

    def convert(self, module: nn.Module, precision: str, where: str) -> Converted:
        """The files of `module`, judged.  Raises ExportError if it cannot be, or differs."""
        float32 = self.float32(module, where)
        shipped = self.in_precision(float32, precision)
        validation = self.trainer.data.validation
        return Converted(
            float32,
            shipped,
            precision,
            self.metric(shipped, validation),
            self.metric(float32, validation),
        )

    def float32(self, module: nn.Module, where: str) -> bytes:
        """The module as float32 ONNX, equal to it on the calibration samples."""
        shape = self.trainer.data.input_shape
        weights = safetensors.torch.save(module.state_dict())
        key = digest("float32", str(module), weights, self.versions)

        def make() -> bytes:
            model = exporter.export(module, shape)
            reference = self.trainer.logits(module, self.calibration)
            answers = verify.logits(model, self.calibration.numpy(), self.backend)
            verify.check_parity(answers, reference, where)
            return model

        return self.work.get("float32.onnx", key, make)

    def in_precision(self, float32: bytes, precision: str) -> bytes:
        """The same network; int8 is quantized statically over the calibration samples."""
        if precision == "float32":
            return float32
        key = digest("int8", float32, self.calibration.numpy().tobytes(), self.versions)
        return self.work.get(
            "int8.onnx",
            key,
            lambda: quantize.static_int8(float32, exporter.INPUT, self.calibration.numpy()),
        )

    def metric(self, model: bytes, split: Split) -> float:
        """The metric of a file over a split, through the runtime's preprocessing and engine."""
        inputs = self.trainer.task.prepare(self.trainer.steps, split.x).numpy()
        return self.trainer.task.score(verify.logits(model, inputs, self.backend), split.y)
