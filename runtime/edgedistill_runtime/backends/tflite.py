"""TFLite as a backend: ai-edge-litert if it is installed, tflite-runtime otherwise.

Verified bytes in, copies out.  XNNPACK is used as the engine does by itself; `xnnpack` says
whether it was.  A text has the length it has: a graph of open length is set up once for each
length and a few are kept; of graphs with fixed lengths the shortest that fits runs, filled up
with −1.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, EngineError
from edgedistill_runtime.manifest import Backend, Tensor
from edgedistill_runtime.tflitecheck import LENGTH_KEY, Checked, Port, check_tflite

ENGINES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
"""By package, the preferred one first."""
KEPT_LENGTHS = 4
"""Of a graph with an open length: each has its own copy of the prepared weights."""
NO_TOKEN = -1
INSTALL = "pip install 'edgedistill-runtime[tflite]'"

Array = NDArray[Any]


class TfliteSession:
    """A model in TFLite's interpreter.  Not for concurrent calls from several threads."""

    def __init__(self, data: bytes, settings: Backend) -> None:
        checked = check_tflite(data)
        if settings != Backend(settings.name, settings.threads):
            raise BundleError(
                "the manifest's backend has settings of another engine; TFLite has 'threads' only"
            )
        self._package, module = _engine()
        self.engine, self.version = ENGINES[self._package], _version(self._package)
        check_known_faults(self.engine, self.version, checked)
        self._new = module.Interpreter
        self._data, self._threads = data, settings.threads
        first = checked.entries[0]
        self._ports = first.inputs
        self._lengths: list[tuple[int, str]] = []
        """Of graphs with fixed lengths: those and their signatures, the shortest first."""
        if LENGTH_KEY.fullmatch(first.key):
            self._lengths = [(entry.inputs[0].shape[1], entry.key) for entry in checked.entries]
        self._open = any(-1 in port.shape for port in first.inputs)
        self._outputs = [port.index for port in first.outputs]
        self.inputs = tuple(_declared(port, bool(self._lengths)) for port in first.inputs)
        self.outputs = tuple(_declared(port) for port in first.outputs)
        self._ready: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        with self._errors("does not accept the model"), _quiet():
            self._interpreter = self._allocated(())
            self.xnnpack: bool = _is_delegated(self._interpreter)
            """Whether XNNPACK runs some of the operators."""
            if self._lengths:
                self._runners = [
                    (length, self._interpreter.get_signature_runner(key))
                    for length, key in self._lengths
                ]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        with self._errors("could not run the model"):
            if self._lengths:
                return self._run_filled(inputs)
            interpreter = self._interpreter
            if self._open:
                interpreter = self._of_shapes(tuple(inputs[p.name].shape for p in self._ports))
            for port in self._ports:
                interpreter.set_tensor(port.index, inputs[port.name])
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._outputs]

    def _run_filled(self, inputs: Mapping[str, Array]) -> list[Array]:
        """One text in the shortest graph that it fits into."""
        name = self._ports[0].name
        ids = inputs[name]
        tokens = ids.shape[1]
        for length, runner in self._runners:
            if tokens <= length:
                filled = np.full((1, length), NO_TOKEN, np.int32)
                filled[:, :tokens] = ids
                outputs = runner(**{name: filled})
                return [outputs[tensor.name] for tensor in self.outputs]
        raise EngineError(
            f"the text has {tokens} tokens, and the model was made for at most {length}"
        )

    def _of_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """An interpreter for inputs of these shapes; those used last are kept."""
        found = self._ready.get(shapes)
        if found is not None:
            self._ready.move_to_end(shapes)
            return found
        with _quiet():
            found = self._allocated(shapes)
        self._ready[shapes] = found
        if len(self._ready) > KEPT_LENGTHS:
            self._ready.popitem(last=False)
        return found

    def _allocated(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        interpreter = self._new(model_content=self._data, num_threads=self._threads)
        for port, shape in zip(self._ports, shapes, strict=False):
            interpreter.resize_tensor_input(port.index, shape)
        interpreter.allocate_tensors()
        return interpreter

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError, TypeError, SystemError, MemoryError, KeyError) as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineError(f"{self.engine} {self.version} {what}: {line}") from error


def open_session(data: bytes, settings: Backend) -> TfliteSession:
    """Load a model.  Raises BundleError (not allowed in a bundle) or EngineError."""
    return TfliteSession(data, settings)


def _engine() -> tuple[str, Any]:
    """Package and its module with the interpreter.  Raises EngineError."""
    reasons: list[str] = []
    for package, name in ENGINES.items():
        try:
            if find_spec(package) is None:
                continue
            if package == "tflite_runtime":
                _check_numpy(reasons)
            return package, import_module(f"{package}.interpreter")
        except ImportError as error:
            reasons.append(f"{name} cannot be imported ({' '.join(str(error).split())[:300]})")
    found = "; ".join(reasons) or "neither ai-edge-litert nor tflite-runtime is installed"
    raise EngineError(f"{found}; install an engine with: {INSTALL}")


def _check_numpy(reasons: list[str]) -> None:
    """tflite-runtime was built for numpy 1: with 2 it ends in a SystemError, and says nothing."""
    if int(np.__version__.split(".")[0]) >= 2:
        before = "".join(f"{reason}; " for reason in reasons)
        raise EngineError(
            f"{before}tflite-runtime does not work with numpy {np.__version__}; install numpy 1 "
            "with: pip install 'numpy<2', or ai-edge-litert"
        )


def _version(package: str) -> str:
    return str(getattr(import_module(package), "__version__", "of an unknown version"))


def check_known_faults(engine: str, version: str, checked: Checked) -> None:
    """Raises EngineError for a model that an engine runs, and answers wrongly."""
    if engine == "tflite-runtime" and checked.hybrid:
        raise EngineError(
            f"tflite-runtime {version} computes {checked.hybrid} wrongly with float inputs and an "
            "int8 scale for each channel; quantize with one scale for each tensor"
        )


def _declared(port: Port, any_length: bool = False) -> Tensor:
    return Tensor(port.name, port.dtype, (1, -1) if any_length else port.shape)


def _is_delegated(interpreter: Any) -> bool:
    """XNNPACK is the one delegate that these engines bring and use by themselves."""
    listing = getattr(interpreter, "_get_ops_details", None)
    return listing is not None and any("DELEGATE" in op["op_name"].upper() for op in listing())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While engines are set up they write to stderr past Python; what matters, they raise."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed: nothing can be written
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
