"""Prove the budget on this machine, or say by how much it is missed.

Golden outputs must agree before anything is timed; then latency, memory and cold start are measured
in processes of their own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill_runtime import bundle, telemetry
from edgedistill_runtime.errors import EngineError
from edgedistill_runtime.manifest import Board, Budget

EXIT_CODES = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 3}


@dataclass(frozen=True)
class Line:
    """One limit of the budget and what was measured against it."""

    name: str
    limit: float
    value: float | None
    standing: str
    ok: bool | None
    """None: the runs did not decide it."""


@dataclass(frozen=True)
class BenchResult:
    verdict: str
    reason: str
    standing: str
    """"verified" (the profile's own board and engine) or "measured elsewhere"."""
    bundle: str
    profile: str
    board: str | None
    engine: str
    emulated: bool
    latency_ms: dict[str, Any]
    peak_ram_mib: float
    cold_start_ms: float | None
    size_mib: float
    golden_difference: float
    budget: tuple[Line, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def bench(path: Path, overrides: dict[str, float | None], max_seconds: float = 30) -> BenchResult:
    """Measure the bundle at `path` against its budget; `overrides` replaces limits by name.

    max_seconds: most time spent on the latency runs.
    Raises BundleError or EngineError if it cannot run, or its golden outputs disagree.
    """
    opened = bundle.read(path)
    given = {name: value for name, value in overrides.items() if value is not None}
    budget = dataclasses.replace(opened.manifest.budget, **given)  # type: ignore[arg-type]
    golden = _child("golden", path)
    timing = _child(
        "latency", path, json.dumps(budget.latency_ms), str(budget.percentile), str(max_seconds)
    )
    peak_ram_mib = float(_child("memory", path)["peak_ram_mib"])
    cold_start_ms = _cold_start_ms(path) if budget.cold_start_ms is not None else None
    size_mib = opened.size / 2**20
    emulated, board = telemetry.emulated(), telemetry.board_model()
    standing = _standing(opened.manifest.board, board, golden, emulated)
    lines = _lines(budget, timing, peak_ram_mib, cold_start_ms, size_mib, standing)
    verdict, reason = _verdict(lines, timing, budget)
    return BenchResult(
        verdict=verdict,
        reason=reason,
        standing=standing,
        bundle=opened.id,
        profile=opened.manifest.board.profile,
        board=board,
        engine=f"{golden['engine']} {golden['engine_version']}",
        emulated=emulated,
        latency_ms=timing,
        peak_ram_mib=peak_ram_mib,
        cold_start_ms=cold_start_ms,
        size_mib=size_mib,
        golden_difference=golden["difference"],
        budget=lines,
    )


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


def _verdict(lines: tuple[Line, ...], timing: dict[str, Any], budget: Budget) -> tuple[str, str]:
    rose = (timing["after"]["throttled"] or 0) & ~(timing["before"]["throttled"] or 0)
    if rose or (timing["after"]["throttled"] or 0) & 0xF:
        return "INVALID", "the board throttled or lacked voltage during the runs; cool or power it"
    missed = [line for line in lines if line.ok is False]
    if missed:
        return "FAIL", "; ".join(
            f"{m.name} is {m.value:.4g}, over its limit of {m.limit:.4g} "
            f"by {(m.value or 0) / m.limit - 1:.0%}"
            for m in missed
        )
    if any(line.ok is None for line in lines):
        return "INCONCLUSIVE", (
            f"{timing['runs']} runs do not decide whether p{budget.percentile} is within "
            f"{budget.latency_ms:.4g} ms; give more time with --max-seconds"
        )
    return "PASS", "within the budget" if lines else "no limits were given"


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
        _child("first", path)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[starts // 2]


def _child(kind: str, path: Path, *arguments: str) -> dict[str, Any]:
    """Run `measure` in a fresh process and return its result."""
    command = [sys.executable, "-m", "edgedistill_runtime.measure", kind, str(path), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        detail = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EngineError(f"the {kind} measurement ended early ({detail[:300]})")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in result:
        raise EngineError(result["error"])
    return result
