"""One measurement, in a process of its own: `python -m edgedistill_runtime.measure KIND BUNDLE`.

`bench` starts these, so that latency, memory and cold start do not disturb one another.  The last
line on stdout is the result as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

from edgedistill_runtime import telemetry
from edgedistill_runtime.errors import EdgeDistillError
from edgedistill_runtime.model import Model, load
from edgedistill_runtime.verdict import LOOKS, decide, quantile

WARM_UP_SECONDS = 1.0


def latency(
    path: str, limit_ms: float | None, percentile: int, max_seconds: float
) -> dict[str, Any]:
    """Time `predict` over the golden samples until the percentile is decided or time is up."""
    model = load(path)
    warm_up_runs = _warm_up(model, min(WARM_UP_SECONDS, max_seconds / 4))
    before = telemetry.snapshot()
    deadline = time.monotonic() + max_seconds
    samples = itertools.cycle(model.golden_samples())
    latencies_ms: list[float] = []
    decision = None
    for look in LOOKS:
        while len(latencies_ms) < look and time.monotonic() < deadline:
            latencies_ms.append(model.predict(next(samples)).latency_ms)
        if len(latencies_ms) < look:
            break
        if limit_ms is not None:
            decision = decide(latencies_ms, limit_ms, percentile)
        if decision or (limit_ms is None and look >= 400):
            break
    return {
        "decision": decision,
        "runs": len(latencies_ms),
        "warm_up_runs": warm_up_runs,
        "mean_ms": sum(latencies_ms) / max(1, len(latencies_ms)),
        **{f"p{p}": quantile(latencies_ms, p) for p in (50, 95, 99) if latencies_ms},
        "at_percentile": quantile(latencies_ms, percentile) if latencies_ms else None,
        "before": before,
        "after": telemetry.snapshot(),
    }


def golden(path: str) -> dict[str, Any]:
    """Whether this machine's engine computes what the packing machine's did."""
    model = load(path)
    return {
        "difference": model.check_golden(),
        "engine": model.engine,
        "engine_version": model.engine_version,
    }


def memory(path: str) -> dict[str, Any]:
    """Peak memory of a process that loads the bundle and answers each golden sample once."""
    model = load(path)
    for sample in model.golden_samples():
        model.predict(sample)
    return {"peak_ram_mib": telemetry.peak_ram_mib()}


def first(path: str) -> dict[str, Any]:
    """Load and answer once; `bench` times the whole process."""
    model = load(path)
    return {"label": model.predict(model.golden_samples()[0]).label}


def _warm_up(model: Model, seconds: float) -> int:
    """Run until the medians of two stretches agree within 2 %, for `seconds`, at most 2.5 times."""
    samples = itertools.cycle(model.golden_samples())
    median, runs = 0.0, 0
    for _ in range(5):
        stretch: list[float] = []
        end = time.monotonic() + seconds / 2
        while time.monotonic() < end or not stretch:
            stretch.append(model.predict(next(samples)).latency_ms)
        runs += len(stretch)
        last, median = median, quantile(stretch, 50)
        if abs(median - last) < 0.02 * median:
            break
    return runs


def main() -> None:
    kind, path, *arguments = sys.argv[1:]
    try:
        if kind == "latency":
            limit, percentile, seconds = arguments
            result = latency(path, json.loads(limit), int(percentile), float(seconds))
        else:
            result = {"golden": golden, "memory": memory, "first": first}[kind](path)
    except EdgeDistillError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
