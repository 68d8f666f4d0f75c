"""Somebody's ONNX file becomes one that a bundle may hold, and its classes get their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import edgedistill_runtime.manifest as contract
from edgedistill import verify
from edgedistill.cost.kernels import Kernel
from edgedistill.errors import EdgeDistillError, SettingsError
from edgedistill.external import files
from edgedistill_runtime.backends.onnx import OnnxSession, open_session
from edgedistill_runtime.errors import BundleError, EngineError
from edgedistill_runtime.modelcheck import MIN_OPSET, check_onnx

if TYPE_CHECKING:
    import onnx

MAX_LABEL = 256
TRIED_SAMPLES = 4
CONVERTED_OPSET = 20
INT8_OPERATORS = frozenset(
    (
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulNBits",
        "QGemm",
    )
)
INPUT_TYPES = {"image": ("float32", "uint8"), "text": ("int64",)}
"""Of all other kinds, float32."""
_FLOAT16, _EXTERNAL = 10, 1  # TensorProto.FLOAT16, TensorProto.EXTERNAL

Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A model as it is packed."""

    model: bytes
    input: contract.Tensor
    precision: str
    """ "float32" or "int8"."""
    softmax: bool
    """Whether it ends in a softmax: its output is scores already."""


def read_labels(given: str) -> tuple[str, ...]:
    """Names of the classes, in the order of the model's output.  Raises SettingsError.

    given: a file with a name a line, a `.json` with a list, or the names with commas between
    """
    path = Path(given)
    if files.is_file(path):
        names = _labels_of(path)
    elif "," in given:
        names = given.split(",")
    else:
        raise SettingsError(
            f"labels: there is no file {given[:64]!r}; give one with a name a line, or the names "
            "with commas between"
        )
    labels = tuple(unicodedata.normalize("NFC", name.strip()) for name in names)
    for label in labels:
        if not 0 < len(label) <= MAX_LABEL or not label.isprintable():
            raise SettingsError(
                f"labels: {label[:64]!r} is no name of a class; one has 1 to {MAX_LABEL} printable "
                "characters"
            )
        if labels.count(label) > 1:
            raise SettingsError(f"labels: {label!r} stands twice; every class has its own name")
    if len(labels) < 2:
        raise SettingsError(f"labels: {len(labels)} given; a classifier has two classes or more")
    return labels


def _labels_of(path: Path) -> list[str]:
    if path.suffix.lower() != ".json":
        return [line for line in files.read_text(path).splitlines() if line.strip()]
    names = files.read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f'{path}: not a JSON list of names, such as ["cat", "dog"]')
    return names


def read(
    path: Path, kind: str, classes: int, max_length: int, backend: contract.Backend
) -> Network:
    """The model in the form in which it is packed.  Raises SettingsError, which names the file.

    max_length: most tokens of a text
    """
    source = _read_onnx(path)
    try:
        given = _for_one_sample(source, kind)
        checked, changed = _allowed(given)
        session = open_session(checked, backend)
        tensor = _only_input(session, kind)
        shape = [size if size > 0 else max_length for size in tensor.shape]
        checked = _with_output(checked, session, _tried(session, tensor, shape), classes)
        if changed:
            _check_unchanged(given, checked, tensor, shape, backend)
        model = _parsed(checked)
        return Network(checked, tensor, _precision(model), _ends_in_softmax(model))
    except EdgeDistillError as error:
        raise SettingsError(f"{path}: {error}") from None


def priced(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """Those that work on data: what works on a single number computes a shape."""
    return tuple(kernel for kernel in kernels if kernel.output)


def _read_onnx(path: Path) -> onnx.ModelProto:
    if path.suffix.lower() != ".onnx":
        raise SettingsError(
            f"{path}: not an .onnx or .tflite file; export the model first, with "
            "torch.onnx.export or the exporter of its framework"
        )
    content = files.read_bytes(path)
    try:
        model = _parsed(content)
    except Exception as error:  # protobuf's have no public base
        raise SettingsError(
            f"{path}: not a readable ONNX file ({files.first_line(error)})"
        ) from error
    if not model.graph.node:
        raise SettingsError(f"{path}: not an ONNX model, or one without operators")
    for tensor in model.graph.initializer:
        if tensor.data_location == _EXTERNAL:
            raise SettingsError(
                f"{path}: its weights stand in another file ({tensor.name[:64]!r} does); export "
                "the model again as one file, without external data"
            )
    return model


def _parsed(content: bytes) -> onnx.ModelProto:
    import onnx

    return onnx.load_model_from_string(content)


def _for_one_sample(source: onnx.ModelProto, kind: str) -> bytes:
    """The model with an open batch fixed to one, and nothing of the machine that exported it."""
    from edgedistill.export.onnx import canonical

    weights = {tensor.name for tensor in source.graph.initializer}
    inputs = [value for value in source.graph.input if value.name not in weights]
    del source.graph.input[:]  # old exporters list weights among the inputs
    source.graph.input.extend(inputs)
    for value in source.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value > 1:
            raise SettingsError(
                f"the input {value.name!r} has a batch of {dims[0].dim_value}, and a board "
                "classifies one sample at a time; export the model with an open batch, or one of 1"
            )
        for place, dim in enumerate(dims):
            if place == 0:
                dim.Clear()
                dim.dim_value = 1
            elif dim.dim_value < 1 and (kind, place) != ("text", 1):
                name = f" ({dim.dim_param})" if dim.dim_param else ""
                raise SettingsError(
                    f"the input {value.name!r} leaves size {place}{name} open; export the model "
                    "with samples of one size"
                )
    for value in source.graph.output:
        value.type.tensor_type.ClearField("shape")  # the old one may tell of the old batch
    return canonical(source)


def _allowed(given: bytes) -> tuple[bytes, bool]:
    """The model if bundles may hold it; else simplified, and True.  Raises BundleError."""
    try:
        check_onnx(given)
        return given, False
    except BundleError as error:
        refused = error
    try:
        simpler = _simplified(given)
    except Exception:  # two libraries do what they like with what they do not know
        raise refused from None
    check_onnx(simpler)
    return simpler, True


def _simplified(given: bytes) -> bytes:
    """Old operators as new ones, constants folded, batch normalisation merged into convolutions."""
    import onnx.version_converter
    import onnxslim

    from edgedistill.export.onnx import canonical
    from edgedistill.export.quiet import quiet

    model = _parsed(given)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    with quiet():
        if opset < MIN_OPSET:
            model = onnx.version_converter.convert_version(model, CONVERTED_OPSET)
        return canonical(onnxslim.slim(model))


def _only_input(session: OnnxSession, kind: str) -> contract.Tensor:
    if len(session.inputs) != 1:
        raise SettingsError(
            f"the model has {len(session.inputs)} inputs ({_names(session.inputs)}), and a "
            "bundle's has one; export it with the others made inside"
        )
    (tensor,) = session.inputs
    types = INPUT_TYPES.get(kind, ("float32",))
    if tensor.dtype not in types:
        raise SettingsError(
            f"the input {tensor.name!r} is {tensor.dtype}; for {kind} classification it is "
            f"{' or '.join(types)}"
        )
    if kind == "text" and tensor.shape != (1, -1):
        raise SettingsError(
            f"the input {tensor.name!r} has the shape {list(tensor.shape)}; of texts it is "
            "[1, tokens], with any number of tokens"
        )
    return tensor


def _tried(session: OnnxSession, tensor: contract.Tensor, shape: Sequence[int]) -> list[Array]:
    """The outputs for zeros."""
    try:
        return session.run({tensor.name: np.zeros(shape, tensor.dtype)})
    except EngineError as error:
        if -1 not in tensor.shape:
            raise
        raise SettingsError(f"{error}, with {shape[1]} tokens (--max-length)") from None


def _with_output(
    model: bytes, session: OnnxSession, outputs: Sequence[Array], classes: int
) -> bytes:
    """The model with the shape of its one output declared."""
    from edgedistill.export.onnx import canonical

    if len(outputs) != 1:
        raise SettingsError(
            f"the model has {len(outputs)} outputs ({_names(session.outputs)}), and a bundle's has "
            "one, the logits; export it without the others"
        )
    shape, dtype = outputs[0].shape, outputs[0].dtype.name
    if len(shape) != 2 or shape[0] != 1 or dtype != "float32":
        raise SettingsError(
            f"the model's output is {dtype} of shape {list(shape)}; a classifier's is float32 of "
            "shape [1, classes]"
        )
    if shape[1] != classes:
        raise SettingsError(
            f"the model has {shape[1]} classes, and {classes} labels are given; name each class"
        )
    parsed = _parsed(model)
    declared = parsed.graph.output[0].type.tensor_type
    declared.ClearField("shape")
    for size in shape:
        declared.shape.dim.add().dim_value = size
    return canonical(parsed)


def _check_unchanged(
    given: bytes,
    packed: bytes,
    tensor: contract.Tensor,
    shape: Sequence[int],
    backend: contract.Backend,
) -> None:
    """Raise SettingsError if a simplified model does not answer as the one that was given."""
    random = np.random.default_rng(0)
    sessions = [OnnxSession(model, backend, trusted=True) for model in (given, packed)]
    for _ in range(TRIED_SAMPLES):
        values = random.normal(size=shape)
        sample = (values if tensor.dtype == "float32" else values > 0).astype(tensor.dtype)
        before, after = (session.run({tensor.name: sample})[0] for session in sessions)
        difference = float(np.abs(before - after).max())
        if not difference <= verify.PARITY * max(1.0, float(np.abs(before).max())):
            raise SettingsError(
                f"simplified to what bundles may hold, the model answers otherwise (by "
                f"{difference:.3g}); export it again with constants folded, for opset "
                f"{CONVERTED_OPSET}"
            )


def _precision(model: onnx.ModelProto) -> str:
    if any(tensor.data_type == _FLOAT16 for tensor in model.graph.initializer):
        raise SettingsError(
            "the model has float16 weights; export it in float32 or int8, which this version packs"
        )
    return "int8" if any(n.op_type in INT8_OPERATORS for n in model.graph.node) else "float32"


def _ends_in_softmax(model: onnx.ModelProto) -> bool:
    name = model.graph.output[0].name
    last = next((node.op_type for node in model.graph.node if name in node.output), "")
    if last == "Sigmoid":
        raise SettingsError(
            "the model ends in a sigmoid, which scores every label by itself; this version packs "
            "models that give a sample one label"
        )
    return last == "Softmax"


def _names(tensors: Sequence[contract.Tensor]) -> str:
    return ", ".join(tensor.name[:64] for tensor in tensors) or "none"
