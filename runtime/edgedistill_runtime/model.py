"""A loaded bundle that answers: `load(path)`, then `predict` one sample or `run` the bare model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime import arrays, bundle, postprocess, preprocess
from edgedistill_runtime.backends import opener
from edgedistill_runtime.bundle import Bundle
from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.manifest import Manifest, Tensor, check_array

Array = NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    label: str
    score: float
    """The label's score, 0 to 1."""
    scores: dict[str, float]
    """Score of every label."""
    latency_ms: float
    """Wall time of this call, pre- and postprocessing included."""


def load(path: Path | str) -> Model:
    """Open a bundle, check every byte of it, and load its model.

    Raises BundleError, EngineError (engine missing, or it refuses the model) or OSError.
    """
    return Model(bundle.read(path))


class Model:
    """A bundle in its engine.  Not for concurrent calls from several threads."""

    def __init__(self, opened: Bundle) -> None:
        self.manifest: Manifest = opened.manifest
        self.bundle_id = opened.id
        self._golden = _golden(opened)
        self._preprocess = preprocess.build(self.manifest.preprocess)
        self._postprocess = postprocess.build(self.manifest.postprocess)
        self._session = opener(self.manifest.backend.name)(
            opened.files[self.manifest.model], self.manifest.backend
        )
        self.engine, self.engine_version = self._session.engine, self._session.version
        _same("inputs", self._session.inputs, self.manifest.inputs)
        _same("outputs", self._session.outputs, self.manifest.outputs)
        sample = self.manifest.sample
        self._sample = (np.dtype(sample.dtype), sample.shape)
        self._inputs = {t.name: (np.dtype(t.dtype), t.shape) for t in self.manifest.inputs}
        self._input = self.manifest.inputs[0].name
        try:
            with np.errstate(all="ignore"):
                prepared = self._prepare(self._golden[0][0])
            _check_input(self._input, prepared, self._inputs)
        except (ValueError, TypeError, IndexError, InputError) as error:
            raise BundleError(
                f"the preprocessing does not lead to the model's input: {error}"
            ) from None

    def predict(self, sample: Array) -> Prediction:
        """Classify one decoded sample (the manifest's `sample` says its type and shape).

        Raises InputError if it is of another type or shape, or its scores are not finite.
        """
        start = time.perf_counter_ns()
        with np.errstate(all="ignore"):
            scores = self._postprocess(self.logits(sample))
        best = int(scores.argmax())  # that of a NaN, if there is one
        if not math.isfinite(scores[best]):
            raise InputError("the model's scores for this sample are not finite numbers")
        labels = self.manifest.labels
        table = dict(zip(labels, scores.tolist(), strict=True))
        latency_ms = (time.perf_counter_ns() - start) / 1e6
        return Prediction(labels[best], float(scores[best]), table, latency_ms)

    def logits(self, sample: Array) -> Array:
        """The model's first output for one decoded sample.  -> (classes,)"""
        dtype, shape = self._sample
        if not isinstance(sample, np.ndarray) or sample.dtype != dtype or sample.shape != shape:
            raise InputError(
                f"the sample is {_describe(sample)}; the model takes {dtype.name} "
                f"of shape {list(shape)}"
            )
        result: Array = self._answer({self._input: self._prepare(sample)})[0][0]
        return result

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the bare model: preprocessed arrays by input name -> outputs by name.

        Raises InputError if a name, type or shape is not the declared one.
        """
        if inputs.keys() != self._inputs.keys():
            raise InputError(
                f"the model takes the inputs {sorted(self._inputs)}, not {sorted(inputs)}"
            )
        for name, array in inputs.items():
            _check_input(name, array, self._inputs)
        outputs = self._answer(inputs)
        return {t.name: o for t, o in zip(self.manifest.outputs, outputs, strict=True)}

    def _answer(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The engine's outputs.  Their shapes may hang on the data, whatever the file declares."""
        outputs = self._session.run(inputs)
        for declared, output in zip(self.manifest.outputs, outputs, strict=True):
            if output.shape != declared.shape:
                raise EngineError(
                    f"output {declared.name!r} has the shape {list(output.shape)}; "
                    f"the manifest declares {list(declared.shape)}"
                )
        return outputs

    def golden_samples(self) -> Array:
        """The samples that were packed as references.  (count, …)"""
        return self._golden[0]

    def check_golden(self) -> float:
        """Run the golden samples; the largest difference from the packed outputs.

        Raises BundleError if it is over the manifest's tolerance.
        """
        inputs, expected = self._golden
        with np.errstate(all="ignore"):
            outputs = np.stack([self.logits(x) for x in inputs])
            difference = float(np.abs(outputs - expected).max())
        atol = self.manifest.golden.atol
        if not difference <= atol:
            raise BundleError(
                f"golden outputs differ by {difference:.3g}, at most {atol:.3g} is allowed; this "
                f"{self.engine} {self.engine_version} computes not what the packing machine did"
            )
        return difference

    def _prepare(self, sample: Array) -> Array:
        return self._preprocess(sample)[None]


def _golden(opened: Bundle) -> tuple[Array, Array]:
    golden, sample = opened.manifest.golden, opened.manifest.sample
    output = opened.manifest.outputs[0]
    inputs_shape = (golden.count, *sample.shape)
    outputs_shape = (golden.count, *output.shape[1:])
    check_array("golden inputs", sample.dtype, inputs_shape)
    return (
        arrays.decode(golden.inputs, opened.files[golden.inputs], sample.dtype, inputs_shape),
        arrays.decode(golden.outputs, opened.files[golden.outputs], output.dtype, outputs_shape),
    )


def _same(what: str, found: tuple[Tensor, ...], declared: tuple[Tensor, ...]) -> None:
    if found != declared:
        raise BundleError(f"the model's {what} are not those that the manifest declares")


def _check_input(name: str, array: Array, declared: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
    dtype, shape = declared[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise InputError(
            f"input {name!r} is {_describe(array)}; the model takes {dtype.name} "
            f"of shape {list(shape)}"
        )


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} of shape {list(value.shape)}"
    return f"a {type(value).__name__}"
