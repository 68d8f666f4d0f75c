"""Judge exported files by the engine that will run them: parity with the module, and the metric.

Tolerances: float32 may differ from torch by 1e-4 of the largest logit, other precisions by a share
of the logits' own size (`PARITY_SHARE`); a golden output may differ on another machine by 1e-3 of
the largest logit in float32 and by 5 % of it in int8 (a few quantization steps).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.cost.kernels import MIXED
from edgedistill.errors import ExportError
from edgedistill.samples import Samples
from edgedistill_runtime.backends import Session, opener
from edgedistill_runtime.backends.onnx import OnnxSession
from edgedistill_runtime.manifest import Backend
from edgedistill_runtime.verdict import quantile

PARITY = 1e-4
PARITY_SHARE = {"float16": 0.01, "int8": 0.25, MIXED: 0.25, "int4": 0.35}
"""Root mean square by which the logits of a quantized file may differ from the module's, over the
root mean square of those.  Sound files are below a tenth; this finds broken ones, and what the rest
costs is for the accuracy gate to say."""
GOLDEN_TOLERANCE = {"float32": 1e-3, "float16": 1e-3, "int8": 0.05, MIXED: 0.05, "int4": 0.01}
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
    session, feed = _opened(model, samples, backend)
    return np.concatenate([session.run(feed(row))[0] for row in rows])


def _opened(
    model: bytes, samples: Samples, backend: Backend
) -> tuple[Session, Callable[[int], dict[str, NDArray[Any]]]]:
    """The engine, and what it is given for a row."""
    session: Session
    if backend.name == "onnx":
        session = OnnxSession(model, backend, trusted=True)
    else:
        session = opener(backend.name)(model, backend)
    (port,) = session.inputs
    return session, lambda row: {port.name: samples.one(row).astype(port.dtype, copy=False)}


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


def difference(exported: Array, reference: Array) -> float:
    """Root mean square of what two files' logits differ by, over that of the reference's."""
    if not np.isfinite(exported).all():
        return math.inf
    power = float(np.square(reference, dtype=np.float64).mean())
    off = float(np.square(exported.astype(np.float64) - reference).mean())
    return math.sqrt(off / max(power, 1e-30))


def gate(points_lost: float, off: float, precision: str) -> str:
    """Why a quantized file may not ship; empty if it may.  off: its `difference`."""
    if not points_lost <= GATE_POINTS:
        return f"loses {points_lost:.2f} points, and may lose {GATE_POINTS:g}"
    if not off <= PARITY_SHARE[precision]:
        return f"its logits are off by {off:.0%}, and may be by {PARITY_SHARE[precision]:.0%}"
    return ""


def golden_tolerance(precision: str, outputs: Array) -> float:
    """How far another machine's golden outputs may be from these."""
    return GOLDEN_TOLERANCE[precision] * max(1.0, float(np.abs(outputs).max()))


def time_model(
    model: bytes, samples: Samples, rows: Sequence[int], backend: Backend, runs: int = 200
) -> Latency:
    """Time the bare model over `rows` in turn, after a warm-up of a fifth of the runs."""
    session, taken = _opened(model, samples, backend)
    feeds = [taken(row) for row in rows]
    times_ms = []
    for i in range(runs + runs // 5):
        feed = feeds[i % len(feeds)]
        start = time.perf_counter_ns()
        session.run(feed)
        times_ms.append((time.perf_counter_ns() - start) / 1e6)
    times_ms = times_ms[runs // 5 :]
    return Latency(quantile(times_ms, 50), quantile(times_ms, 95))
