"""Which layer of a network holds what an exporter cannot translate."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from edgedistill.export.quiet import quiet

_OPERATOR = re.compile(r"\baten[.:]+(\w+)")


def holding(module: nn.Module, example: Tensor, reason: str) -> str:
    """ " (in the layer 'NAME')" for the first operator that `reason` names; "" if it names none."""
    names = _OPERATOR.findall(reason)
    if not names:
        return ""
    try:
        with quiet():
            program = torch.export.export(module, (example,))
            decomposed = program.run_decompositions()
        graphs = [program.graph, decomposed.graph]
    except Exception:  # many failures and no common base; the reason stands alone
        return ""
    for node in (node for graph in graphs for node in graph.nodes):
        if node.op == "call_function" and any(
            f"aten.{name}." in f"{node.target}." for name in names
        ):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack:
                return f" (in the layer {stack[-1][0].removeprefix('network.') or 'at the top'!r})"
    return ""
