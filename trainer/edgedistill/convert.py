"""From a trained module to the file that ships: export, parity, quantization, the accuracy gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import nn

from edgedistill import quantize, verify
from edgedistill.cache import Cache, digest
from edgedistill.data import Split
from edgedistill.distill import outputs
from edgedistill.distill.trainer import Trainer
from edgedistill.export import onnx as exporter
from edgedistill.provenance import versions
from edgedistill.samples import Samples
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
        train = trainer.data.train
        order = np.random.default_rng(trainer.recipe.seed).permutation(len(train))
        self.calibration = train.x[np.sort(order[:CALIBRATION_SAMPLES])]
        self.versions = versions()

    def convert(self, module: nn.Module, encoder: Any, precision: str, where: str) -> Converted:
        """The files of `module`, judged.  Raises ExportError if it cannot be, or differs.

        encoder: what makes the network's tokens, for texts.
        """
        samples = self.trainer.samples(self.calibration, encoder)
        float32 = self.float32(module, samples, where)
        shipped = self.in_precision(float32, precision, samples, self.trainer.family.quantization)
        validation = self.trainer.data.validation
        judged = self.metric(float32, validation, encoder)
        return Converted(
            float32,
            shipped,
            precision,
            judged if shipped is float32 else self.metric(shipped, validation, encoder),
            judged,
        )

    def float32(self, module: nn.Module, samples: Samples | None, where: str) -> bytes:
        """The module as float32 ONNX, equal to it on the samples, if there are any."""
        data = self.trainer.data
        text = data.task == "text-classification"
        weights = safetensors.torch.save({k: v.clone() for k, v in module.state_dict().items()})
        shape = data.input_shape
        if samples is not None and not text:
            shape = samples.one(0).shape[1:]  # a teacher may see another form of the data
        key = digest("float32", str(module), weights, self.versions, samples is None, shape)

        def make() -> bytes:
            model = exporter.export(module, shape, text)
            if samples is not None:
                reference = outputs.answers(module, samples, self.trainer.device)
                answers = verify.logits(model, samples, range(len(samples)), self.backend)
                verify.check_parity(answers, reference, where)
            return model

        return self.work.get("float32.onnx", key, make)

    def in_precision(
        self, float32: bytes, precision: str, samples: Samples | None, quantization: str
    ) -> bytes:
        """The same network.  quantization: how int8 is made, "static" over samples or "dynamic"."""
        if precision == "float32":
            return float32
        dynamic = quantization == "dynamic"
        inputs = (
            [samples.one(row) for row in range(len(samples))] if samples and not dynamic else []
        )
        key = digest("int8", float32, dynamic, *(x.tobytes() for x in inputs), self.versions)

        def make() -> bytes:
            if dynamic:
                return quantize.dynamic_int8(float32)
            return quantize.static_int8(float32, exporter.INPUT, np.concatenate(inputs))

        return self.work.get("int8.onnx", key, make)

    def metric(self, model: bytes, split: Split, encoder: Any) -> float:
        """The metric of a file over a split, through the runtime's preprocessing and engine."""
        return float(self.trainer.task.score(self.logits(model, split, encoder), split.y))

    def logits(self, model: bytes, split: Split, encoder: Any) -> NDArray[np.float32]:
        """The answers behind it.  -> (n, classes)"""
        samples = self.trainer.samples(split.x, encoder)
        return verify.logits(model, samples, range(len(samples)), self.backend)


def quantization_of(module: nn.Module) -> str:
    """How int8 is made of a network: static if most of its weights are in convolutions."""
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
    inside = sum(weight.numel() for m in convolutions for weight in m.parameters())
    return "static" if 2 * inside > sum(w.numel() for w in module.parameters()) else "dynamic"
