"""Export to ONNX: batch of one, opset of the boards' runtimes, nothing of this machine inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"this network cannot be exported to ONNX: {reason}") from error
    assert program is not None
    return canonical(onnxslim.slim(program.model_proto))


def canonical(model: onnx.ModelProto) -> bytes:
    """The model without names, notes and unused operator sets: the same bytes on every machine."""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    for message in (model, model.graph):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.graph.name = "model"
    used = {node.domain for node in model.graph.node} | {""}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings, which no user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
