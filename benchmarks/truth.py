"""What whole networks cost on this machine: the truth that the cost model is judged against.

Latency is that of the engine alone, in this process, in the settings that bundles ship with; peak
memory is that of a fresh process which reads the model from a file, loads it and runs it.

    python benchmarks/truth.py mobilenet-v2-1.0-224        (all of the zoo: about five minutes)
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from zoo import CATALOGUE, Network, networks

from edgedistill_runtime.backends.onnx import OnnxSession
from edgedistill_runtime.manifest import Backend

SECONDS, RUNS = 0.12, 20
"""A pass over a network lasts at least as long, and has at least as many runs."""
WARM_UP_RUNS = 3
MEMORY_RUNS = 3
PROCESSES = 3
"""The allocator's luck differs between processes by up to 7 MiB; the median counts."""
SEED = 5
TOKENS = 1000
"""Ids are below it: no vocabulary is smaller."""
SETTINGS = Backend("onnx", threads=1)
PEAK = f"""
import sys
import numpy as np
import onnxruntime as ort
path, length = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    model = file.read()
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.enable_cpu_mem_arena = {SETTINGS.arena}
options.add_session_config_entry("session.intra_op.allow_spinning", "{int(SETTINGS.spinning)}")
options.add_session_config_entry("session.load_model_format", "ONNX")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
kinds = {{"tensor(float)": np.float32, "tensor(int64)": np.int64}}
given = {{
    t.name: np.ones([d if isinstance(d, int) else length for d in t.shape], kinds[t.type])
    for t in session.get_inputs()
}}
for _ in range({MEMORY_RUNS}):
    session.run(None, given)
for line in open("/proc/self/status", encoding="ascii"):
    if line.startswith("VmHWM:"):
        print(line.split()[1])
"""
"""Engine and numpy alone: what the runtime adds to a process is no part of the model's cost."""


@dataclass(frozen=True)
class Truth:
    name: str
    family: str
    precision: str
    floor_ms: float
    """The fastest of all runs."""
    p50_ms: float
    """The median of all runs."""
    peak_mib: float


def measure(networks: Iterable[Network], passes: int = 2) -> list[Truth]:
    """Latency in shuffled passes over all networks, then peak memory in fresh processes."""
    chosen = list(networks)
    assert len({network.id for network in chosen}) == len(chosen), "a network is given twice"
    shuffled = random.Random(SEED)
    runs_ms: dict[str, list[float]] = {network.id: [] for network in chosen}
    for _ in range(passes):
        for network in shuffled.sample(chosen, len(chosen)):
            runs_ms[network.id] += latencies_ms(network.model, network.length)
    return [
        Truth(
            network.name,
            network.family,
            network.precision,
            min(runs_ms[network.id]),
            statistics.median(runs_ms[network.id]),
            statistics.median(peak_mib(network.model, network.length) for _ in range(PROCESSES)),
        )
        for network in chosen
    ]


def latencies_ms(
    model: bytes, length: int = 1, seconds: float = SECONDS, runs: int = RUNS
) -> list[float]:
    """Of single calls, after a short warm-up."""
    session = OnnxSession(model, SETTINGS, trusted=True)  # also what no bundle may hold
    given = _inputs(session, length)
    for _ in range(WARM_UP_RUNS):
        session.run(given)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < runs or time.perf_counter() < end:
        start = time.perf_counter_ns()
        session.run(given)
        found.append((time.perf_counter_ns() - start) / 1e6)
    return found


def peak_mib(model: bytes, length: int = 1) -> float:
    """VmHWM of a fresh process that reads the model from a file, loads it and runs it."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path), str(length)],
            capture_output=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return int(done.stdout) / 1024


def _inputs(session: OnnxSession, length: int) -> dict[str, Any]:
    """Noise, or token ids, in the declared shape."""
    noise = np.random.default_rng(SEED)
    given: dict[str, Any] = {}
    for tensor in session.inputs:
        shape = [size if size > 0 else length for size in tensor.shape]
        if tensor.dtype == "float32":
            given[tensor.name] = noise.normal(size=shape).astype(np.float32)
        else:
            given[tensor.name] = noise.integers(1, TOKENS, shape).astype(tensor.dtype)
    return given


def _row(truth: Truth) -> str:
    return (
        f"{truth.name:<44} {truth.precision:<8} {truth.floor_ms:8.3f} {truth.p50_ms:8.3f} ms"
        f" {truth.peak_mib:7.1f} MiB\n"
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the networks alone")
    parser.add_argument("--passes", type=int, default=2)
    options = parser.parse_args(words)
    unknown = sorted(set(options.names) - {entry.name for entry in CATALOGUE})
    if unknown:
        parser.error(f"the zoo has no network {unknown[0]!r}")
    for truth in measure(networks(options.names), options.passes):
        sys.stdout.write(_row(truth))
    return 0


if __name__ == "__main__":
    sys.exit(main())
