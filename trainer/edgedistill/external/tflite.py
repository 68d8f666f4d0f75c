"""Somebody's TFLite file, checked as a board checks it, and packed as it is."""

from __future__ import annotations

from pathlib import Path

import edgedistill_runtime.manifest as contract
from edgedistill.errors import EdgeDistillError, SettingsError
from edgedistill.external import files
from edgedistill.external.network import INPUT_TYPES, Network
from edgedistill.profiles import Choice
from edgedistill_runtime.backends.tflite import check_known_faults, open_session
from edgedistill_runtime.tflitecheck import Entry, Port, check_tflite


def read(path: Path, kind: str, classes: int, engine: Choice, backend: contract.Backend) -> Network:
    """The model as it is packed.  Raises SettingsError, which names the file.

    engine: the board's; some answer wrongly to models that others run
    """
    content = files.read_bytes(path)
    try:
        if kind == "text":
            raise SettingsError(
                "texts in TFLite files are not packed by this version, which cannot tell what "
                "their lengths cost; give the model as .onnx"
            )
        model = _nameless(content)
        checked = check_tflite(model)
        check_known_faults(engine.name, engine.version, checked)
        (entry,) = checked.entries
        _check_input(entry, kind)
        _check_output(entry, classes)
        session = open_session(model, backend)
        return Network(model, session.inputs[0], _precision(model), entry.last == "SOFTMAX")
    except EdgeDistillError as error:
        raise SettingsError(f"{path}: {error}") from None


def _nameless(content: bytes) -> bytes:
    """The model with a blank description: some converters write paths of their machine there."""
    import struct

    import tflite

    try:
        table = tflite.Model.GetRootAs(content, 0)._tab
        if not (field := table.Offset(10)):
            return content
        start, size = int(table.Vector(field)), int(table.VectorLen(field))
    except (struct.error, IndexError, TypeError, ValueError, OverflowError):
        return content  # the check says what is wrong
    if not 0 < start <= start + size <= len(content):
        return content
    return content[:start] + b" " * size + content[start + size :]


def _check_input(entry: Entry, kind: str) -> None:
    if len(entry.inputs) != 1:
        raise SettingsError(
            f"the model has {len(entry.inputs)} inputs ({_names(entry.inputs)}), and a bundle's "
            "has one; convert it with the others made inside"
        )
    (port,) = entry.inputs
    types = INPUT_TYPES.get(kind, ("float32",))
    if port.dtype not in types:
        raise SettingsError(
            f"the input {port.name!r} is {port.dtype}; for {kind} classification it is "
            f"{' or '.join(types)}"
        )
    if any(size < 1 for size in port.shape) or port.shape[:1] != (1,):
        raise SettingsError(
            f"the input {port.name!r} has the shape {list(port.shape)}; convert the model for one "
            "sample of one size"
        )


def _check_output(entry: Entry, classes: int) -> None:
    if len(entry.outputs) != 1:
        raise SettingsError(
            f"the model has {len(entry.outputs)} outputs ({_names(entry.outputs)}), and a "
            "bundle's has one, the logits; convert it without the others"
        )
    (port,) = entry.outputs
    if (port.dtype, len(port.shape), port.shape[:1]) != ("float32", 2, (1,)):
        raise SettingsError(
            f"the model's output is {port.dtype} of shape {list(port.shape)}; a classifier's is "
            "float32 of shape [1, classes] (a quantized model is converted with float outputs)"
        )
    if port.shape[1] != classes:
        raise SettingsError(
            f"the model has {port.shape[1]} classes, and {classes} labels are given; name each "
            "class"
        )
    if entry.last == "LOGISTIC":
        raise SettingsError(
            "the model ends in a sigmoid, which scores every label by itself; this version packs "
            "models that give a sample one label"
        )


def _precision(model: bytes) -> str:
    from edgedistill.cost.tflite import precision_of

    return precision_of(model)


def _names(ports: tuple[Port, ...]) -> str:
    return ", ".join(port.name[:64] for port in ports) or "none"
