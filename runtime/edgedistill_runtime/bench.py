"""Prove the budget on this machine, or say by how much it is missed.

Golden outputs must agree before anything is timed; then latency, memory, cold start and energy are
measured in processes of their own, while this one watches the board.  `docs/bench.md` says how.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill_runtime import __version__, bundle, processes, telemetry
from edgedistill_runtime.manifest import Board, Budget, Predicted
from edgedistill_runtime.telemetry import Watch, Watched
from edgedistill_runtime.verdict import Plan, decide, effective_runs, far_off, quantile

EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 3}
LEAST_CLOCK = 0.98
"""Median clock under which a board does not run as it could, as a part of its highest."""
MOST_BUSY = 0.05
"""Part of all processors that other programs may use."""
ENERGY_WINDOWS = 3
BUCKETS_PER_DOUBLING = 8


@dataclass(frozen=True)
class Line:
    """One limit of the budget and what was measured against it."""

    name: str
    limit: float
    value: float | None
    standing: str
    ok: bool | None
    """None: the runs did not decide it, or this board cannot measure it."""


@dataclass(frozen=True)
class BenchResult:
    verdict: str
    reason: str
    notes: tuple[str, ...]
    """What else a reader must know: emulated, paced, throttled, busy, not steady."""
    standing: str
    """"verified" (the profile's own board and engine) or "measured elsewhere"."""
    bundle: str
    name: str
    version: int
    profile: str
    board: str | None
    engine: str
    emulated: bool
    latency_ms: dict[str, Any]
    peak_ram_mib: float
    cold_start_ms: float | None
    energy_mj: dict[str, Any] | None
    """None: nobody asked; its "meter" is null where the board cannot measure it."""
    sustained: dict[str, Any] | None
    size_mib: float
    golden_difference: float
    budget: tuple[Line, ...]
    promised: dict[str, Any]
    """The budget that held, and what was predicted when the bundle was made."""
    telemetry: dict[str, Any]
    """While the latency was measured."""
    machine: dict[str, Any]
    versions: dict[str, str]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    max_seconds: float = 30
    """Most time spent on the latency runs, processes' starts and warming up not counted."""
    sustained_minutes: float = 0
    """Load the board for so long before the latency is measured."""
    rate_hz: float | None = None
    """Calls a second; None is one after the other."""


def bench(
    path: Path,
    overrides: dict[str, float | None],
    max_seconds: float = 30,
    settings: Settings | None = None,
) -> BenchResult:
    """Measure the bundle at `path` against its budget; `overrides` replaces limits by name.

    max_seconds: for callers that have no `settings`.
    Raises BundleError or EngineError if it cannot run, or its golden outputs disagree.
    """
    how = settings or Settings(max_seconds)
    opened = bundle.read(path)
    given = {name: value for name, value in overrides.items() if value is not None}
    budget = dataclasses.replace(opened.manifest.budget, **given)  # type: ignore[arg-type]
    golden = processes.measure("golden", path)
    emulated, board = telemetry.emulated(), telemetry.board_model()
    standing = _standing(opened.manifest.board, board, golden, emulated)
    sustained = _sustained(path, how) if how.sustained_minutes else None
    timing, watched = _latency(path, budget, how)
    peak_ram_mib = float(processes.measure("memory", path)["peak_ram_mib"])
    cold_start_ms = _cold_start_ms(path) if budget.cold_start_ms is not None else None
    energy = _energy(path, how, budget)
    size_mib = opened.size / 2**20
    lines = _lines(budget, timing, peak_ram_mib, cold_start_ms, size_mib, standing)
    if budget.energy_mj is not None:
        lines += (_energy_line(budget.energy_mj, energy, standing),)
    verdict, reason = _verdict(lines, timing, budget, watched, how, sustained)
    return BenchResult(
        verdict=verdict,
        reason=reason,
        notes=_notes(timing, watched, how, emulated),
        standing=standing,
        bundle=opened.id,
        name=opened.manifest.name,
        version=opened.manifest.version,
        profile=opened.manifest.board.profile,
        board=board,
        engine=f"{golden['engine']} {golden['engine_version']}",
        emulated=emulated,
        latency_ms=timing,
        peak_ram_mib=peak_ram_mib,
        cold_start_ms=cold_start_ms,
        energy_mj=energy,
        sustained=sustained,
        size_mib=size_mib,
        golden_difference=golden["difference"],
        budget=lines,
        promised=_promised(budget, opened.manifest.predicted),
        telemetry=dataclasses.asdict(watched),
        machine=_machine(),
        versions=_versions(golden),
    )


def _sustained(path: Path, how: Settings) -> dict[str, Any]:
    """Load the board until it is as warm as it gets."""
    with Watch() as watch:
        done = processes.measure("load_for", path, how.sustained_minutes * 60, how.rate_hz)
    seen = watch.result
    return done | {"temperature_c": seen.temperature_c, "throttled": seen.throttled_rose}


def _latency(path: Path, budget: Budget, how: Settings) -> tuple[dict[str, Any], Watched]:
    """Runs of one process after the other, until a look decides or the plan is at its end."""
    work: dict[str, Any] = {
        "max_seconds": how.max_seconds,
        "percentile": budget.percentile,
        "rate_hz": how.rate_hz,
    }
    with Watch() as watch:
        parts = [processes.measure("latency", path, work)]
        plan = Plan(tuple(parts[0]["plan"]["looks"]), parts[0]["plan"]["alpha"])
        latencies_ms: list[float] = list(parts[0]["latencies_ms"])
        work |= {"of_runs": plan.looks[-1], "stride": parts[0]["stride"]}
        decision, ends, planned = None, [len(latencies_ms)], plan.parts[0]
        for count in plan.parts[1:]:
            parts.append(processes.measure("latency", path, work | {"count": count}))
            latencies_ms += parts[-1]["latencies_ms"]
            ends.append(len(latencies_ms))
            planned += count
            if planned not in plan.looks:
                continue
            if budget.latency_ms is None or len(latencies_ms) < planned:
                break  # nothing to decide, or slower than planned for: the time is up
            decision = decide(
                latencies_ms, budget.latency_ms, budget.percentile, plan.alpha, plan.looks[-1]
            )
            if decision:
                break
    watched = watch.result
    limit = budget.latency_ms
    if limit is not None:  # also where time ran out before a look
        decision = decision or far_off(latencies_ms, limit, budget.percentile, plan.alpha)
    return {
        "decision": decision,
        "runs": len(latencies_ms),
        "effective_runs": round(effective_runs(latencies_ms), 1),
        "over_limit": None if limit is None else sum(x > limit for x in latencies_ms),
        "processes": [_process(latencies_ms[a:b]) for a, b in zip([0, *ends], ends, strict=False)],
        "looks": list(plan.looks),
        "stride": parts[0]["stride"],
        "seconds": sum(part["seconds"] for part in parts),
        "warm_up_runs": sum(part["warm_up_runs"] for part in parts),
        "steady": all(part["steady"] for part in parts),
        "rate_hz": how.rate_hz,
        "late_calls": sum(part["late"] for part in parts),
        "mean_ms": sum(latencies_ms) / len(latencies_ms),
        "p10": quantile(latencies_ms, 10),
        **{f"p{p}": quantile(latencies_ms, p) for p in (50, 95, 99)},
        "at_percentile": quantile(latencies_ms, budget.percentile),
        "histogram": histogram(latencies_ms),
        "before": watched.samples[0],
        "after": watched.samples[-1],
    }, watched


def _process(latencies_ms: list[float]) -> dict[str, float]:
    return {"runs": len(latencies_ms), "p50": quantile(latencies_ms, 50)}


def histogram(latencies_ms: list[float]) -> list[tuple[float, int]]:
    """Runs by latency: (upper edge in ms, runs up to it and over the edge before), rising.

    Edges are the powers of 2^(1/8), so that they are the same everywhere; empty ones are left out.
    """
    steps = BUCKETS_PER_DOUBLING
    counts = Counter(math.ceil(math.log2(max(x, 1e-6)) * steps) for x in latencies_ms)
    return [(round(2 ** (k / steps), 9), counts[k]) for k in sorted(counts)]


def _lines(
    budget: Budget,
    timing: dict[str, Any],
    peak_ram_mib: float,
    cold_start_ms: float | None,
    size_mib: float,
    standing: str,
) -> tuple[Line, ...]:
    lines = []
    if budget.latency_ms is not None:
        ok = {"PASS": True, "FAIL": False}.get(timing["decision"])
        name = f"latency_ms p{budget.percentile}"
        lines.append(Line(name, budget.latency_ms, timing["at_percentile"], standing, ok))
    for name, limit, value in (
        ("peak_ram_mib", budget.peak_ram_mib, peak_ram_mib),
        ("size_mib", budget.size_mib, size_mib),
        ("cold_start_ms", budget.cold_start_ms, cold_start_ms),
    ):
        if limit is not None and value is not None:
            lines.append(Line(name, limit, value, standing, value <= limit))
    return tuple(lines)


def _energy(path: Path, how: Settings, budget: Budget) -> dict[str, Any] | None:
    from edgedistill_runtime.energy import meter

    if budget.energy_mj is None and meter() is None:
        return None
    seconds = max(0.5, min(3.0, how.max_seconds / 10))
    found = processes.measure("energy", path, seconds, how.rate_hz, ENERGY_WINDOWS)
    if found["meter"] is None:
        return found
    return found | {k: sorted(found[f"{k}_mj"])[ENERGY_WINDOWS // 2] for k in ("gross", "net")}


def _energy_line(limit: float, energy: dict[str, Any] | None, standing: str) -> Line:
    if energy is None or energy["meter"] is None:
        return Line("energy_mj", limit, None, "unknown", None)
    within = {value <= limit for value in energy["net_mj"]}
    ok = within.pop() if len(within) == 1 else None
    return Line("energy_mj", limit, energy["net"], standing, ok)


def _verdict(
    lines: tuple[Line, ...],
    timing: dict[str, Any],
    budget: Budget,
    watched: Watched,
    how: Settings,
    sustained: dict[str, Any] | None = None,
) -> tuple[str, str]:
    invalid = _invalid(watched, how, sustained)
    if invalid:
        return "INVALID", invalid
    missed = [line for line in lines if line.ok is False]
    busy = _busy(watched)
    if missed and busy:  # what disturbs makes slower: a PASS stands, and what has no time in it
        disturbed, missed = missed, [m for m in missed if not _hangs_on_others(m, timing)]
        if not missed:
            names = ", ".join(line.name for line in disturbed)
            return "INVALID", f"{busy} during the runs, in which {names} was missed; stop them"
    if missed:
        return "FAIL", "; ".join(
            f"{m.name} is {m.value:.4g}, over its limit of {m.limit:.4g} "
            f"by {(m.value or 0) / m.limit - 1:.0%}"
            for m in missed
        )
    for line in lines:
        if line.ok is None and line.value is None:
            return "INCONCLUSIVE", f"this board has no meter that can be read for {line.name}"
        if line.ok is None and line.name == "energy_mj":
            return "INCONCLUSIVE", f"the windows differ on whether energy_mj is within {line.limit}"
        if line.ok is None:
            return "INCONCLUSIVE", (
                f"{timing['runs']} runs do not decide whether p{budget.percentile} is within "
                f"{budget.latency_ms:.4g} ms; give more time with --max-seconds"
            )
    return "PASS", "within the budget" if lines else "no limits were given"


def _hangs_on_others(line: Line, timing: dict[str, Any]) -> bool:
    """Whether it may be other programs that keep this line from being met."""
    if line.name.startswith("latency_ms"):
        return bool(timing["p10"] <= line.limit)
    return line.name in ("cold_start_ms", "energy_mj")


def _invalid(watched: Watched, how: Settings, sustained: dict[str, Any] | None) -> str | None:
    """Why these runs say nothing about this board, if that is so."""
    now = (watched.throttled or 0) & 0xF
    bad = watched.throttled_rose | now
    if sustained:  # a board that was loaded until it was hot is measured as it is then
        bad = watched.throttled_newly | (now | sustained["throttled"]) & telemetry.UNDER_VOLTAGE
    if bad:
        return (
            "the board throttled or lacked voltage during the runs "
            f"({telemetry.throttled_words(bad)}); cool or power it"
        )
    if len(watched.governors) > 1:
        return f"the governor changed during the runs ({' to '.join(watched.governors)})"
    if watched.quota_stops:
        return (
            f"a CPU quota stopped the runs {watched.quota_stops} times; "
            "run outside of that control group"
        )
    share = watched.clock_share
    slow = share is not None and share < LEAST_CLOCK and not how.rate_hz
    if slow and not (sustained and now & telemetry.SLOWED):
        governor = ", ".join(watched.governors) or "unknown"
        return (
            f"the clock ran at {share:.0%} of its highest (governor {governor}); "
            "cool the board, or set its governor to performance"
        )
    return None


def _busy(watched: Watched) -> str | None:
    if watched.busy_processors is None:
        return None
    processors = os.cpu_count() or 1
    if watched.busy_processors <= MOST_BUSY * processors:
        return None
    return f"other programs kept {watched.busy_processors:.2g} of {processors} processor(s) busy"


def _notes(
    timing: dict[str, Any], watched: Watched, how: Settings, emulated: bool
) -> tuple[str, ...]:
    notes = []
    if emulated:
        notes.append("this board is emulated: no time of it means anything")
    if how.rate_hz:
        notes.append(f"paced: {how.rate_hz:g} calls a second")
    if timing.get("late_calls"):
        notes.append(f"{timing['late_calls']} calls began a period late: the model is too slow")
    if how.sustained_minutes:
        notes.append(f"measured after {how.sustained_minutes:g} minutes of load")
    if (watched.throttled or 0) & 0xF:
        notes.append(f"the board says: {telemetry.throttled_words(watched.throttled or 0)}")
    busy = _busy(watched)
    if busy:
        notes.append(f"{busy}: an undisturbed board is no slower")
    if timing.get("steady") is False:
        notes.append("the latency did not become steady while warming up")
    return tuple(notes)


def _promised(budget: Budget, predicted: Predicted) -> dict[str, Any]:
    limits = {k: v for k, v in dataclasses.asdict(budget).items() if v is not None}
    return {"budget": limits, "predicted": dataclasses.asdict(predicted)}


def _machine() -> dict[str, Any]:
    return {
        "arch": platform.machine(),
        "cpu": telemetry.cpu_name(),
        "os": telemetry.os_name(),
        "kernel": platform.release(),
        **{k: round(v) for k, v in telemetry.memory_mib().items() if k == "MemTotal"},
    }


def _versions(golden: dict[str, Any]) -> dict[str, str]:
    names = ("python", "numpy")
    return {
        "edgedistill-runtime": __version__,
        golden["engine"]: golden["engine_version"],
        **{name: golden[name] for name in names if name in golden},
    }


def _standing(expected: Board, board: str | None, golden: dict[str, Any], emulated: bool) -> str:
    same_board = (
        board is not None and board.startswith(expected.models) if expected.models else False
    )
    same_engine = (golden["engine"], golden["engine_version"]) == (
        expected.engine,
        expected.engine_version,
    )
    return "verified" if same_board and same_engine and not emulated else "measured elsewhere"


def _cold_start_ms(path: Path, starts: int = 5) -> float:
    """Median wall time from process start to the first result."""
    times = []
    for _ in range(starts):
        start = time.perf_counter()
        processes.measure("first", path)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[starts // 2]
