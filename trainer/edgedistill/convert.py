"""From a trained module to the file that ships: export, parity, quantization, the accuracy gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import nn

from edgedistill import engines, quantize, verify
from edgedistill.cache import Cache, digest
from edgedistill.data import Split
from edgedistill.distill import outputs
from edgedistill.distill.trainer import Trainer
from edgedistill.export import onnx as exporter
from edgedistill.export import tflite
from edgedistill.provenance import versions
from edgedistill.quantize import Learned, Quantizer
from edgedistill.samples import Samples
from edgedistill_runtime.backends import opener
from edgedistill_runtime.manifest import Backend

CALIBRATION_SAMPLES = 256
WEIGHTS_ALONE = {"float16": quantize.float16, "int4": quantize.int4}
"""What makes the file, by precision: activations stay float32, and nothing is calibrated."""
TENSORWISE = ("tflite-runtime",)
"""Engines that are wrong about int8 weights with one scale for each channel and float inputs."""


@dataclass(frozen=True)
class Form:
    """How a network is quantized, so that another one of its kind can be, too."""

    precision: str
    ranges: str = ""
    """The method that found the ranges of activations; empty is the usual one."""
    floats: tuple[str, ...] = ()
    """Nodes that stay float32."""
    aware: bool = False
    """Whether it was trained on with fake quantization."""


@dataclass(frozen=True)
class Step:
    """Something that was tried to hold the accuracy gate, and what came of it."""

    name: str
    layers: tuple[str, ...]
    """Those that stay float32."""
    points_lost: float
    """Of the metric on the validation split, against float32."""
    difference: float
    """From the torch module over the calibration samples; see `verify.difference`."""
    size_mib: float
    """Of the model."""
    shared_bytes: int = 0
    """Of constants that were written several times, and now stand once."""
    problem: str = ""
    """Why it does not ship."""

    def sentence(self) -> str:
        kept = f" ({', '.join(self.layers)})" if self.layers else ""
        return (
            f"{self.name}{kept}: {self.points_lost:.2f} points lost on validation, logits off by "
            f"{self.difference:.1%}, {self.size_mib:.3f} MiB"
            + (f"; {self.problem}" if self.problem else "")
        )


@dataclass(frozen=True)
class Converted:
    """One network as files."""

    float32: bytes
    shipped: bytes
    form: Form
    validation: float
    """Metric of the shipped file on the validation split."""
    validation_float32: float
    path: tuple[Step, ...] = ()
    """What was tried; the last one ships."""
    reason: str = ""
    """Why it ships in its precision."""

    @property
    def precision(self) -> str:
        return self.form.precision

    @property
    def points_lost(self) -> float:
        """Points of the metric that the precision costs, on the validation split."""
        return 100 * (self.validation_float32 - self.validation)


class Converter:
    """Exports networks of one recipe, and keeps what is finished."""

    def __init__(
        self, trainer: Trainer, backend: Backend, work: Cache, engine: str = "onnxruntime"
    ) -> None:
        """engine: the board's, which may be pickier than this machine's."""
        self.trainer, self.backend, self.work, self.engine = trainer, backend, work, engine
        train = trainer.data.train
        order = np.random.default_rng(trainer.recipe.seed).permutation(len(train))
        self.calibration = train.x[np.sort(order[:CALIBRATION_SAMPLES])]
        self.versions = versions()
        self.text = trainer.data.task == "text-classification"
        self.input_name = exporter.TEXT_INPUT if self.text else exporter.INPUT

    def convert(self, module: nn.Module, encoder: Any, form: Form, where: str) -> Converted:
        """The files of `module`, judged.  Raises ExportError if it cannot be, or differs.

        encoder: what makes the network's tokens, for texts.
        """
        samples = self.trainer.samples(self.calibration, encoder)
        float32 = self.float32(module, samples, where)
        kind = self.trainer.family.quantization
        if form.ranges or form.floats:
            quantizer = self.quantizer(float32, samples, kind)
            shipped = quantizer.int8(form.ranges or quantizer.methods[0], form.floats)
        else:
            shipped = self.in_precision(float32, form.precision, samples, kind)
        validation = self.trainer.data.validation
        judged = self.metric(float32, validation, encoder)
        return Converted(
            float32,
            shipped,
            form,
            judged if shipped is float32 else self.metric(shipped, validation, encoder),
            judged,
        )

    def float32(self, module: nn.Module, samples: Samples | None, where: str) -> bytes:
        """The module as a float32 file, equal to it on the samples, if there are any."""
        weights = safetensors.torch.save({k: v.clone() for k, v in module.state_dict().items()})
        shape = self.trainer.data.input_shape
        if self.text and self._tflite:
            shape = (self.trainer.recipe.max_length,)
        elif samples is not None and not self.text:
            shape = samples.one(0).shape[1:]  # a teacher may see another form of the data
        key = digest(
            "float32", str(module), weights, self.versions, samples is None, shape,
            self.backend.name,
        )  # fmt: skip

        def make() -> bytes:
            export = tflite.export if self._tflite else exporter.export
            model = export(module, shape, self.text)
            if samples is not None:
                reference = outputs.answers(module, samples, self.trainer.device)
                answers = self.board_logits(model, samples)
                verify.check_parity(answers, reference, where)
            return model

        return self.work.get(f"float32.{self.backend.name}", key, make)

    def in_precision(
        self, float32: bytes, precision: str, samples: Samples | None, quantization: str
    ) -> bytes:
        """The same network.  quantization: how int8 is made, "static" over samples or "dynamic"."""
        if precision == "float32":
            return float32
        if precision in WEIGHTS_ALONE:
            make_file = WEIGHTS_ALONE[precision]
            key = digest(precision, float32, self.versions)
            return self.work.get(f"{precision}.onnx", key, lambda: make_file(float32))
        dynamic = quantization == "dynamic"
        inputs = (
            [samples.one(row) for row in range(len(samples))] if samples and not dynamic else []
        )
        key = digest(
            "int8", float32, dynamic, self.engine, *(x.tobytes() for x in inputs),
            self.versions,
        )  # fmt: skip

        def make() -> bytes:
            if self._tflite:
                return self._tflite_quantizer(float32, inputs or None).int8("")
            if dynamic:
                return quantize.dynamic_int8(float32)
            return quantize.static_int8(float32, exporter.INPUT, np.concatenate(inputs))

        return self.work.get(f"int8.{self.backend.name}", key, make)

    def quantizer(
        self, float32: bytes, samples: Samples, quantization: str, learned: Learned | None = None
    ) -> Quantizer:
        """What quantizes a float32 file in more than the usual way.

        learned: ranges of the inputs of layers, by path, from quantization-aware training.
        """
        dynamic = quantization == "dynamic"
        rows = [] if dynamic else [samples.one(row) for row in range(len(samples))]
        if self._tflite:
            return self._tflite_quantizer(float32, rows or None)
        if dynamic:
            return quantize.Dynamic(float32)
        inputs = np.concatenate(rows)
        tensors = exporter.inputs_of(float32)
        known = {tensors[p]: r for p, r in (learned or {}).items() if p in tensors}
        return quantize.Static(float32, exporter.INPUT, inputs, known)

    @property
    def _tflite(self) -> bool:
        return self.backend.name == "tflite"

    def _tflite_quantizer(self, float32: bytes, rows: list[NDArray[Any]] | None) -> quantize.Tflite:
        name = opener("tflite")(float32, self.backend).inputs[0].name
        return quantize.Tflite(float32, rows, name, self.engine in TENSORWISE)

    def board_logits(self, model: bytes, samples: Samples) -> NDArray[np.float32]:
        """Answers to all samples by the engine that the board has.  -> (n, classes)

        Raises ExportError if it refuses the model, or dies of it.
        """
        rows = range(len(samples))
        if self.engine != "tflite-runtime":
            return verify.logits(model, samples, rows, self.backend)
        kind = opener("tflite")(model, self.backend).inputs[0].dtype
        return engines.tflite_runtime(
            model, [samples.one(row).astype(kind, copy=False) for row in rows]
        )

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
