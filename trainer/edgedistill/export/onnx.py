"""Export to ONNX: batch of one, opset of the boards' runtimes, nothing of this machine inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgedistill.errors import ExportError
from edgedistill.export import layers
from edgedistill.export.quiet import quiet

if TYPE_CHECKING:
    import onnx

OPSET = 20
INPUT, TEXT_INPUT, OUTPUT = "input", "ids", "logits"


def export(module: nn.Module, input_shape: tuple[int, ...], text: bool = False) -> bytes:
    """The module as an ONNX file: `input` (1, *input_shape) float32 -> `logits` (1, classes).

    With `text` the input is `ids` (1, tokens) int64 of any length, and `input_shape` the (tokens,)
    that it is traced at.  A module that has `folded()` is exported in that form.  Raises
    ExportError, which says what torch could not translate.
    """
    import onnxslim

    module = module.eval().cpu()
    folded = getattr(module, "folded", None)
    module = module if folded is None else folded().eval()
    kind = torch.int64 if text else torch.float32
    shape = (max(2, *input_shape),) if text else input_shape  # one token would be traced as fixed
    example = torch.zeros(1, *shape, dtype=kind)
    try:
        with quiet(), _registered_once():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[TEXT_INPUT if text else INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({1: "tokens"},) if text else None,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has many failures and no common base
        reason = _reason(error)
        where = layers.holding(module, example, reason)
        raise ExportError(f"this network cannot be exported to ONNX: {reason}{where}") from error
    assert program is not None
    return canonical(onnxslim.slim(program.model_proto))


@contextmanager
def _registered_once() -> Iterator[None]:
    """Let torch keep its table of operators, which it makes anew for every export: a second each.

    A torch that has no such table is left as it is.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    registry: Any = ONNXRegistry
    registry.from_torchlib = _kept(registry)
    try:
        yield
    finally:
        registry.from_torchlib = original


@cache
def _kept(registry: Any) -> Any:
    return staticmethod(cache(registry.from_torchlib))


def inputs_of(model: bytes) -> dict[str, str]:
    """The tensor that each layer reads, by the path of its module, where the file tells it."""
    import onnx

    nodes = onnx.load_from_string(model).graph.node
    return {
        name.removesuffix(".weight"): node.input[0]
        for node in nodes
        for name in node.input[1:2]
        if name.endswith(".weight") and node.op_type in ("Conv", "Gemm", "MatMul")
    }


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


def deduplicated(model: bytes) -> bytes:
    """The model with every constant once: quantizers write the same zeros for each layer."""
    import onnx

    proto = onnx.load_from_string(model)
    first: dict[bytes, str] = {}
    others: dict[str, str] = {}
    kept = []
    for tensor in proto.graph.initializer:
        name, tensor.name = tensor.name, ""
        same = first.setdefault(tensor.SerializeToString(deterministic=True), name)
        tensor.name = name
        if same == name:
            kept.append(tensor)
        else:
            others[name] = same
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for node in proto.graph.node:
        node.input[:] = [others.get(name, name) for name in node.input]
    return canonical(proto)


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
