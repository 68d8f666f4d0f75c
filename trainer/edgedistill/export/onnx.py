"""Export to ONNX: batch of one, opset of the boards' runtimes, nothing of this machine inside."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgedistill.errors import ExportError

if TYPE_CHECKING:
    import onnx

OPSET = 20
INPUT, OUTPUT = "input", "logits"


def export(module: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """The module as an ONNX file: `input` (1, *input_shape) float32 -> `logits` (1, classes).

    Raises ExportError, which says what torch could not translate.
    """
    import onnxslim

    module = module.eval().cpu()
    example = torch.zeros(1, *input_shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has many failures and no common base
        raise ExportError(f"this network cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None
    return canonical(onnxslim.slim(program.model_proto))


def canonical(model: onnx.ModelProto) -> bytes:
    """The model without notes, shapes and unused operator sets: the same bytes on every machine."""
    _strip(model)
    model.graph.ClearField("value_info")
    model.graph.name = "model"
    used = {node.domain for node in model.graph.node} | {""}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _strip(message: Any) -> None:
    """Clear notes and metadata, in which exporters leave paths and times, at every depth."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for below in [value] if hasattr(value, "ListFields") else value:
                _strip(below)


def _reason(error: BaseException) -> str:
    """First line of the innermost cause; the outer ones only say which step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter warns of and prints, which no user can act on."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
