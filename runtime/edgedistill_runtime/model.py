"""A loaded bundle that answers: `load(path)`, then `predict` one sample or `run` the bare model."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime import arrays, bundle, postprocess, preprocess, texts
from edgedistill_runtime.backends import opener
from edgedistill_runtime.bundle import Bundle
from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.manifest import MAX_PIXELS, Manifest, Tensor, check_array

if TYPE_CHECKING:
    from edgedistill_runtime.tokenize import TextEncoder

Array = NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    label: str
    """The one with the highest score, or the bundle's word for a score under its threshold."""
    score: float
    """The highest score, 0 to 1."""
    labels: tuple[str, ...]
    """What the sample is: `label`; where it may be several things, all that score at least 0.5.
    Empty under the threshold."""
    top: tuple[tuple[str, float], ...]
    """The labels with the highest scores and those, best first: as many as the bundle asks for."""
    scores: dict[str, float]
    """Score of every label."""
    latency_ms: float
    """Wall time of this call, pre- and postprocessing included."""


def load(path: Path | str) -> Model:
    """Open a bundle, check every byte of it, and load its model.

    path: a bundle's file, or the name under which one is installed: the active one of that name.
    Raises BundleError, EngineError (engine missing, or it refuses the model), StoreError (nothing
    of that name is installed) or OSError.
    """
    if bundle.is_path(path):
        return Model(bundle.read(path))
    from edgedistill_runtime import store  # a start from a file does without it

    return Model(store.of(str(path)).open_active(str(path)))


class Model:
    """A bundle in its engine.  Not for concurrent calls from several threads."""

    def __init__(self, opened: Bundle) -> None:
        self.manifest: Manifest = opened.manifest
        self.bundle_id = opened.id
        self._golden = _golden(opened)
        self._preprocess = preprocess.build(self.manifest.preprocess, opened.files)
        self.answer = postprocess.build(self.manifest.postprocess, self.manifest.labels)
        self._labels = self.manifest.labels
        self._session = opener(self.manifest.backend.name)(
            opened.files[self.manifest.model], self.manifest.backend
        )
        self.engine, self.engine_version = self._session.engine, self._session.version
        self.xnnpack: bool | None = getattr(self._session, "xnnpack", None)
        """Whether TFLite's engine runs operators in XNNPACK; None: another engine, or not told."""
        _same("inputs", self._session.inputs, self.manifest.inputs)
        _same("outputs", self._session.outputs, self.manifest.outputs)
        sample, declared = self.manifest.sample, self.manifest.inputs[0]
        self._is_text = sample.kind == "text"
        self._any_size = sample.any_size
        self._may_be_nan = sample.dtype == "float32"
        self._sample = (None if self._is_text else np.dtype(sample.dtype), sample.shape)
        self._input = declared.name
        self._declared = (np.dtype(declared.dtype), declared.shape)
        try:
            with np.errstate(all="ignore"):
                prepared = self._prepare(self._golden[0][0])
            self._check_input(prepared)
        except (ValueError, TypeError, IndexError, InputError) as error:
            raise BundleError(
                f"the preprocessing does not lead to the model's input: {error}"
            ) from None
        if self._is_text:
            self._check_vocabulary(cast("TextEncoder", self._preprocess).vocabulary_size)

    def predict(self, sample: Array | str) -> Prediction:
        """Classify one decoded sample (the manifest's `sample` says its type and shape), or a text.

        Raises InputError if it is of another type or shape, or its scores are not finite.
        """
        start = time.perf_counter_ns()
        answer = self.answer
        with np.errstate(all="ignore"):
            scores = answer.scores(self.logits(sample))
        best, values = int(scores.argmax()), scores.tolist()
        score = values[best]  # a NaN, if there is one
        if not math.isfinite(score):
            raise InputError("the model's scores for this sample are not finite numbers")
        label = self._labels[best]
        table = dict(zip(self._labels, values, strict=True))
        top: tuple[tuple[str, float], ...] = ((label, score),)
        labels: tuple[str, ...] = (label,)
        if answer.k > 1:
            top = tuple(sorted(table.items(), key=_by_score, reverse=True)[: answer.k])
        if score < answer.threshold:
            label, labels = answer.unknown, ()
        elif answer.multi_label:
            labels = tuple(name for name, value in table.items() if value >= 0.5)
        latency_ms = (time.perf_counter_ns() - start) / 1e6
        return Prediction(label, score, labels, top, table, latency_ms)

    def logits(self, sample: Array | str) -> Array:
        """The model's first output for one decoded sample, or for a text.  -> (classes,)"""
        dtype, shape = self._sample
        if self._is_text:
            if not isinstance(sample, str):
                raise InputError(f"the sample is {_describe(sample)}; the model takes a text")
        elif not isinstance(sample, np.ndarray) or sample.dtype != dtype or sample.shape != shape:
            self._check_any_size(sample)
        if self._may_be_nan and not np.isfinite(cast(Array, sample)).all():
            raise InputError("the sample has values that are not finite numbers (NaN or infinity)")
        result: Array = self._answer({self._input: self._prepare(sample)})[0][0]
        return result

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the bare model: preprocessed arrays by input name -> outputs by name.

        Raises InputError if a name, type or shape is not the declared one.
        """
        if list(inputs) != [self._input]:
            raise InputError(f"the model takes the inputs {[self._input]}, not {sorted(inputs)}")
        self._check_input(inputs[self._input])
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

    def golden_samples(self) -> Array | list[str]:
        """The samples that were packed as references.  (count, …), or a list of texts."""
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

    def _prepare(self, sample: Array | str) -> Array:
        prepared = self._preprocess(sample)[None]
        # ids have 64 bits, and TFLite's have 32
        return prepared.astype(self._declared[0], copy=False) if self._is_text else prepared

    def _check_any_size(self, sample: Any) -> None:
        """Raises InputError if this is no image, or the model takes no other size than its own."""
        dtype, shape = self._sample
        if (
            self._any_size
            and isinstance(sample, np.ndarray)
            and sample.dtype == dtype
            and sample.ndim == 3
            and sample.shape[2] == shape[2]
            and sample.size
        ):
            if sample.shape[0] * sample.shape[1] <= MAX_PIXELS:
                return
            raise InputError(
                f"the image has {sample.shape[0] * sample.shape[1]} pixels, more than "
                f"{MAX_PIXELS} (64 megapixels); make it smaller"
            )
        wanted = f"[height, width, {shape[2]}]" if self._any_size else str(list(shape))
        raise InputError(
            f"the sample is {_describe(sample)}; the model takes {self.manifest.sample.dtype} "
            f"of shape {wanted}"
        )

    def _check_vocabulary(self, size: int) -> None:
        """Look up the last id: a smaller table would fail in the field, at the first rare word."""
        try:
            self._answer({self._input: np.array([[size - 1]], self._declared[0])})
        except EngineError as error:
            raise BundleError(
                f"the model does not answer for the last of the tokenizer's {size} ids: {error}"
            ) from None

    def _check_input(self, array: Array) -> None:
        dtype, shape = self._declared
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != dtype
            or len(array.shape) != len(shape)
            or any(
                n != size and (size > 0 or not n)
                for n, size in zip(array.shape, shape, strict=True)
            )
        ):
            raise InputError(
                f"input {self._input!r} is {_describe(array)}; the model takes {dtype.name} "
                f"of shape {list(shape)}"
            )


def _golden(opened: Bundle) -> tuple[Array | list[str], Array]:
    golden, sample = opened.manifest.golden, opened.manifest.sample
    output = opened.manifest.outputs[0]
    inputs: Array | list[str]
    if sample.kind == "text":
        inputs = texts.decode(golden.inputs, opened.files[golden.inputs], golden.count)
    else:
        shape = (golden.count, *opened.manifest.golden_shape)
        check_array("golden inputs", sample.dtype, shape)
        inputs = arrays.decode(golden.inputs, opened.files[golden.inputs], sample.dtype, shape)
    shape = (golden.count, *output.shape[1:])
    return inputs, arrays.decode(golden.outputs, opened.files[golden.outputs], output.dtype, shape)


def _same(what: str, found: tuple[Tensor, ...], declared: tuple[Tensor, ...]) -> None:
    if found != declared:
        raise BundleError(f"the model's {what} are not those that the manifest declares")


def _by_score(item: tuple[str, float]) -> float:
    return item[1]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} of shape {list(value.shape)}"
    return f"a {type(value).__name__}"
