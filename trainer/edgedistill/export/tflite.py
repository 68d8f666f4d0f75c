"""Export to TFLite by litert-torch, and int8 by ai-edge-quantizer.

Their pins exclude those of this package, so they live in an environment of their own
(`environments`).  A TFLite graph has fixed shapes; texts get a graph for each of a few lengths,
with shared weights, and are filled up with −1 (`edgedistill_runtime.backends.tflite`).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.environments import LITERT
from edgedistill.errors import ExportError
from edgedistill.export import layers
from edgedistill.export.quiet import quiet

SHORTEST = 8
"""Tokens of the smallest graph."""
SECONDS = 1800
SIGNATURE = "serving_default"
_WORKER = Path(__file__).with_name("litert_worker.py")


def lengths(longest: int) -> tuple[int, ...]:
    """Tokens of the graphs for texts of at most `longest`: powers of two, and the longest."""
    found, length = [], SHORTEST
    while length < longest:
        found.append(length)
        length *= 2
    return (*found, longest)


def export(module: nn.Module, input_shape: tuple[int, ...], text: bool = False) -> bytes:
    """The module as a TFLite file: (1, *input_shape) float32 -> (1, classes) float32.

    With `text` the input is token ids (1, tokens) int32, and `input_shape` the most tokens that a
    text may have.  A module that has `folded()` is exported in that form.  Raises ExportError with
    the layer that cannot be translated, SettingsError if there is no converter.
    """
    python = LITERT.python()
    module = module.eval().cpu()
    folded = getattr(module, "folded", None)
    module = module if folded is None else folded().eval()
    examples: dict[str, Tensor]
    if text:
        module = Filled(module).eval()
        examples = {
            f"tokens_{n}": torch.zeros(1, n, dtype=torch.int32) for n in lengths(input_shape[0])
        }
    else:
        examples = {SIGNATURE: torch.zeros(1, *input_shape)}
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as name:
        folder, programs = Path(name), []
        for key, example in examples.items():
            program = _program(module, example)
            with quiet():
                torch.export.save(program, folder / f"{key}.pt2")
            programs.append((key, f"{key}.pt2"))
        try:
            return _work(python, folder, {"do": "convert", "programs": programs})
        except ExportError as error:
            where = layers.holding(module, example, str(error))
            raise ExportError(
                f"this network cannot be exported to TFLite: {error}{where}"
            ) from None


def int8(
    model: bytes, samples: Sequence[NDArray[Any]] | None, name: str, tensorwise: bool = False
) -> bytes:
    """The model in int8, with float inputs and outputs.

    samples: inputs (1, …) float32 over which activations get their ranges; None: weights alone are
    int8, and each call finds the ranges.  name: the input's.  tensorwise: one scale for a whole
    weight, because some engines are wrong with one for each channel.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as place:
        folder = Path(place)
        (folder / "float32.tflite").write_bytes(model)
        if samples is not None:
            np.save(folder / "inputs.npy", np.concatenate(samples))
        job = {
            "do": "quantize",
            "static": samples is not None,
            "tensorwise": tensorwise,
            "input": (SIGNATURE, name),
        }
        try:
            return _work(LITERT.python(), folder, job)
        except ExportError as error:
            raise ExportError(f"this network cannot be quantized in TFLite: {error}") from None


class Filled(nn.Module):
    """A network for texts that were filled up with −1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids >= 0).to(torch.float32)
        logits: Tensor = self.network(ids.clamp(min=0), mask)
        return logits


def _program(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    try:
        with quiet():
            return torch.export.export(module, (example,))
    except Exception as error:  # many failures and no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"this network cannot be exported to TFLite: {reason}") from error


def _work(python: str, folder: Path, job: dict[str, Any]) -> bytes:
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, "-I", str(_WORKER), str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"the converter did not finish in {SECONDS} s") from None
    made, failed = folder / "model.tflite", folder / "error"
    if failed.exists():
        text = failed.read_text(encoding="utf-8")
        raise ExportError((text.strip().splitlines() or ["for an unknown reason"])[0][:400])
    if done.returncode or not made.exists():
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise ExportError(
            f"the converter ({python}) ended with {done.returncode}: {said[-1][:300]}"
        )
    return made.read_bytes()
