"""onnxruntime as a backend: verified bytes in; one thread, no arena unless the manifest says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, EngineError
from edgedistill_runtime.manifest import Backend, Tensor
from edgedistill_runtime.modelcheck import check_onnx

_TYPES = {f"tensor({onnx})": name for onnx, name in [("float", "float32"), ("uint8", "uint8")]}
_TYPES |= {f"tensor({name})": name for name in ("int8", "int16", "int32", "int64")}
_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class OnnxSession:
    """A model in onnxruntime's CPU provider."""

    engine = "onnxruntime"

    def __init__(
        self, data: bytes, settings: Backend, trusted: bool = False, profile: str = ""
    ) -> None:
        """trusted: the model is this process's own work, not a file's; it may hold anything.

        profile: where the engine writes the time of each node, if anywhere; see `end_profile`.
        """
        if not trusted:
            check_onnx(data)
        if settings.graph_optimization not in _LEVELS:
            raise BundleError(f"no graph optimization level {settings.graph_optimization!r}")
        ort = engine()
        ort.set_default_logger_severity(4)  # errors reach the user as exceptions, once
        self.version: str = ort.__version__
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(
            ort.GraphOptimizationLevel, _LEVELS[settings.graph_optimization]
        )
        options.enable_cpu_mem_arena = settings.arena
        options.log_severity_level = 4
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
        )
        # a file can be ONNX, which was checked, and an ORT flatbuffer, which was not, at once
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types, most of them not exported
            raise EngineError(
                f"onnxruntime {ort.__version__} does not accept the model: {_first_line(error)}"
            ) from error
        # tuples of lists: see `_convert` of the manifest
        self.inputs = tuple([_tensor(value) for value in self._session.get_inputs()])
        self.outputs = tuple([_tensor(value) for value in self._session.get_outputs()])
        self._names = [tensor.name for tensor in self.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return cast(list[NDArray[Any]], self._session.run(self._names, inputs))
        except Exception as error:
            raise EngineError(
                f"onnxruntime could not run the model: {_first_line(error)}"
            ) from error

    def end_profile(self) -> str:
        """The file with the times of all runs so far."""
        return cast(str, self._session.end_profiling())


def engine() -> Any:
    """onnxruntime, which reports to its makers, and keeps files for that, unless told not to."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, while it is imported
    import onnxruntime

    return onnxruntime


def open_session(data: bytes, settings: Backend) -> OnnxSession:
    """Load a model.  Raises BundleError (not allowed in a bundle) or EngineError."""
    try:
        return OnnxSession(data, settings)
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}); "
            "install it with: pip install 'edgedistill-runtime[onnx]'"
        ) from error


def _tensor(value: Any) -> Tensor:
    shape = tuple([size if isinstance(size, int) else -1 for size in value.shape])
    return Tensor(value.name, _TYPES.get(value.type, value.type), shape)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
