"""One measurement, in a process of its own: `python -m edgedistill_runtime.measure KIND BUNDLE`.

`bench` starts these, so that latency, memory, energy and cold start do not disturb one another.
The last line on stdout is the result as JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from edgedistill_runtime import telemetry
from edgedistill_runtime.errors import EdgeDistillError
from edgedistill_runtime.model import Model, load
from edgedistill_runtime.verdict import MOST_RUNS, Plan, plan, quantile

STEADY = 0.02
"""Two stretches whose medians differ by less are a steady state."""
STRETCHES = 10
"""Most stretches of warming up."""
LEAST_STRETCHES = 3
"""Fewest; in processes after the first, whose board is warm already, one less."""
HEADROOM = 0.8
"""Part of the time that is planned for: the board may become slower."""
MOST_STRIDE = 1000


@dataclass(frozen=True)
class Work:
    """What a latency process has to do."""

    max_seconds: float
    """Of all processes together."""
    percentile: int
    rate_hz: float | None = None
    """Calls a second; None is one after the other."""
    count: int = 0
    """Runs to record; 0 in the first process, which makes the plan."""
    of_runs: int = 0
    """Runs that all processes record together, if the plan is carried out."""
    stride: int = 1
    """Calls from one recorded run to the next."""


class Calls:
    """Calls of `predict` over the golden samples in turn, paced or not."""

    def __init__(self, model: Model, rate_hz: float | None) -> None:
        self._model = model
        self._samples = itertools.cycle(model.golden_samples())
        self._period = 1 / rate_hz if rate_hz else 0.0
        self._next = time.monotonic()
        self.late = 0
        """Calls that began after their time, because the one before took longer than the period."""

    def __iter__(self) -> Iterator[float]:
        """Latencies in ms, without end."""
        while True:
            if self._period:
                wait = self._next - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                else:
                    self.late += wait < -self._period
                self._next = max(self._next + self._period, time.monotonic())
            yield self._model.predict(next(self._samples)).latency_ms


def latency(path: str, work: Work) -> dict[str, Any]:
    """Warm up, then record runs; the first process also plans how many there will be in all."""
    model = load(path)
    calls = Calls(model, work.rate_hz)
    runs = iter(calls)
    stretch_s = min(1.0, work.max_seconds / 20)
    warm_up_runs, mean_ms, steady = _warm_up(runs, stretch_s, LEAST_STRETCHES - bool(work.count))
    count, of_runs, stride, looks = work.count, work.of_runs, work.stride, None
    if not count:
        looks, stride = _plan(mean_ms, work, len(model.golden_samples()))
        count, of_runs = looks.parts[0], looks.looks[-1]
    calls.late = 0
    start = time.monotonic()
    deadline = start + work.max_seconds * count / of_runs
    latencies_ms: list[float] = []
    for i, latency_ms in enumerate(runs):
        if i % stride == 0:
            latencies_ms.append(latency_ms)
            if len(latencies_ms) >= count or time.monotonic() >= deadline:
                break
    return {
        "latencies_ms": latencies_ms,
        "seconds": time.monotonic() - start,
        "warm_up_runs": warm_up_runs,
        "steady": steady,
        "late": calls.late,
        "stride": stride,
        "plan": None if looks is None else dataclasses.asdict(looks),
    }


def _plan(mean_ms: float, work: Work, samples: int) -> tuple[Plan, int]:
    """The looks, and how many calls lie between two recorded runs, so that they fill the time."""
    call_s = max(mean_ms / 1e3, 1 / work.rate_hz if work.rate_hz else 0.0)
    calls = max(1, int(work.max_seconds * HEADROOM / call_s))
    stride = max(1, min(MOST_STRIDE, calls // MOST_RUNS))
    while math.gcd(stride, samples) > 1:  # else some samples would never be recorded
        stride -= 1
    return plan(calls // stride, work.percentile), stride


def load_for(path: str, seconds: float, rate_hz: float | None) -> dict[str, Any]:
    """Call for so long; the median and 95th percentile of each minute."""
    runs = iter(Calls(load(path), rate_hz))
    start, calls = time.monotonic(), 0
    minutes: list[dict[str, float]] = []
    while (now := time.monotonic() - start) < seconds:
        end = min(seconds, now + 60)
        minute: list[float] = []
        while time.monotonic() - start < end:
            minute.append(next(runs))
        minutes.append({"p50": quantile(minute, 50), "p95": quantile(minute, 95)})
        calls += len(minute)
    return {"minutes": minutes, "runs": calls}


def energy(path: str, seconds: float, rate_hz: float | None, windows: int) -> dict[str, Any]:
    """Be idle, then call, `windows` times each, and measure what both take."""
    from edgedistill_runtime.energy import Metered, meter

    found = meter()
    if found is None:
        return {"meter": None}
    runs = iter(Calls(load(path), rate_hz))
    _warm_up(runs, min(1.0, seconds), 2)
    gross: list[float] = []
    net: list[float] = []
    idle_w: list[float] = []
    for _ in range(windows):
        with Metered(found) as idle:
            time.sleep(seconds)
        count, end = 0, time.monotonic() + seconds
        with Metered(found) as busy:
            while time.monotonic() < end or not count:
                next(runs)
                count += 1
        if idle.joules is None or busy.joules is None:
            return {"meter": None}
        idle_w.append(idle.joules / idle.seconds)
        gross.append(busy.joules / count * 1e3)
        net.append((busy.joules - idle_w[-1] * busy.seconds) / count * 1e3)
    return {"meter": found.name, "gross_mj": gross, "net_mj": net, "idle_w": idle_w}


def golden(path: str) -> dict[str, Any]:
    """Whether this machine's engine computes what the packing machine's did."""
    import platform

    import numpy

    model = load(path)
    return {
        "difference": model.check_golden(),
        "engine": model.engine,
        "engine_version": model.engine_version,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
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


def _warm_up(runs: Iterator[float], stretch_s: float, least: int) -> tuple[int, float, bool]:
    """Call until the medians of two stretches agree: calls, their last mean in ms, whether so."""
    median, count = 0.0, 0
    for i in range(1, STRETCHES + 1):
        stretch: list[float] = []
        end = time.monotonic() + stretch_s
        while time.monotonic() < end or not stretch:
            stretch.append(next(runs))
        count += len(stretch)
        last, median = median, quantile(stretch, 50)
        steady = abs(median - last) < STEADY * median
        if steady and i >= least:
            break
    return count, sum(stretch) / len(stretch), steady


def main() -> None:
    kind, path, *arguments = sys.argv[1:]
    given = [json.loads(text) for text in arguments]
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "energy": energy,
        "first": first,
        "golden": golden,
        "latency": lambda path, work: latency(path, Work(**work)),
        "load_for": load_for,
        "memory": memory,
    }
    try:
        result = kinds[kind](path, *given)
    except EdgeDistillError as error:
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
