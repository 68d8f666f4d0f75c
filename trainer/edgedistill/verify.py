"""Judge exported files by the engine that will run them: parity with the module, and the metric.

Tolerances: float32 may differ from torch by 1e-4 of the largest logit; a golden output may differ
on another machine by 1e-3 of it in float32 and by 5 % of it in int8 (a few quantization steps).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ExportError
from edgedistill.samples import Samples
from edgedistill_runtime.backends.onnx import OnnxSession
from edgedistill_runtime.manifest import Backend
from edgedistill_runtime.verdict import quantile

PARITY = 1e-4
GOLDEN_TOLERANCE = {"float32": 1e-3, "int8": 0.05}
GATE_POINTS = 0.5
"""Points of the metric that a precision may lose against float32 on the validation split."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Latency:
    """Wall time of the bare model on this machine, one thread."""

    p50_ms: float
    p95_ms: float


def logits(model: bytes, samples: Samples, rows: Iterable[int], backend: Backend) -> Array:
    """The exported file's answers to some rows, one sample a call.  -> (n, classes)"""
    session = OnnxSession(model, backend, trusted=True)
    name = session.inputs[0].name
    return np.concatenate([session.run({name: samples.one(row)})[0] for row in rows])


def check_parity(exported: Array, reference: Array, where: str) -> float:
    """Largest difference between the file and the module.  Raises ExportError if too large."""
    difference = float(np.abs(exported - reference).max())
    scale = max(1.0, float(np.abs(reference).max()))
    if not difference <= PARITY * scale:
        raise ExportError(
            f"the exported {where} differs from the torch module by {difference:.3g} "
            f"(at most {PARITY * scale:.3g}); this is a fault of the exporter or the engine"
        )
    return difference


def golden_tolerance(precision: str, outputs: Array) -> float:
    """How far another machine's golden outputs may be from these."""
    return GOLDEN_TOLERANCE[precision] * max(1.0, float(np.abs(outputs).max()))


def time_model(
    model: bytes, samples: Samples, rows: Sequence[int], backend: Backend, runs: int = 200
) -> Latency:
    """Time the bare model over `rows` in turn, after a warm-up of a fifth of the runs."""
    session = OnnxSession(model, backend, trusted=True)
    name = session.inputs[0].name
    feeds = [{name: samples.one(row)} for row in rows]
    times_ms = []
    for i in range(runs + runs // 5):
        feed = feeds[i % len(feeds)]
        start = time.perf_counter_ns()
        session.run(feed)
        times_ms.append((time.perf_counter_ns() - start) / 1e6)
    times_ms = times_ms[runs // 5 :]
    return Latency(quantile(times_ms, 50), quantile(times_ms, 95))
