"""Does `bench` say what the engine's own timing loop says of the same file?

The two take turns: `edgedistill-run bench`, then onnxruntime in a process of its own, called in a
loop on one prepared input.  Compared is the lowest p50 of any process of each side, which is that
of the quietest moments; the model is large enough that the microseconds of pre- and postprocessing
do not matter.  Exit 1 if they differ by more than 3 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "bench_agreement.json"
MOST = 0.03
SECONDS = 6
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

BARE = """\
import sys, time
import numpy as np
import onnxruntime as ort
path, seconds = sys.argv[1], float(sys.argv[2])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.enable_cpu_mem_arena = False
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
x = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
times, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    start = time.perf_counter_ns()
    session.run(None, {given.name: x})
    times.append((time.perf_counter_ns() - start) / 1e6)
warm = sorted(times[len(times) // 3:])
print(warm[len(warm) // 2])
"""


def make(folder: Path) -> tuple[Path, Path]:
    """A network of some milliseconds, as a bundle and as the bare file."""
    import numpy as np
    from tests.runtime import onnx_bytes as ox
    from tests.runtime.runtime_support import STEPS, answers, golden_images, listed, tiny_manifest

    from edgedistill_runtime import arrays, bundle

    rng = np.random.default_rng(0)
    width, layers = 512, 12  # a weight that stays in the cache: what others do to memory disturbs

    def weight(name: str, rows: int, columns: int) -> bytes:
        scale = 1 / np.sqrt(rows)
        return ox.floats(name, (rows, columns), rng.normal(0, scale, rows * columns).tolist())

    nodes = [ox.node("Reshape", ["image", "column"], "x"), ox.node("MatMul", ["x", "first"], "h0")]
    nodes += [ox.node("MatMul", [f"h{i}", "middle"], f"h{i + 1}") for i in range(layers)]
    nodes += [
        ox.node("ReduceMean", [f"h{layers}", "rows"], "mean"),
        ox.node("MatMul", ["mean", "last"], "logits"),
    ]
    weights = [weight("first", 1, width), weight("middle", width, width), weight("last", width, 10)]
    weights += [ox.ints("column", (2,), [64, 1]), ox.ints("rows", (1,), [0])]
    model = ox.model(ox.graph(nodes, weights))
    manifest, files = tiny_manifest("tiny")
    files |= {
        "model.onnx": model,
        "golden_outputs.npy": arrays.encode(answers(model, golden_images(), STEPS)),
    }
    manifest = dataclasses.replace(
        manifest,
        files=listed(files),
        budget=dataclasses.replace(manifest.budget, size_mib=None, latency_ms=None),
    )
    bundle.write(folder / "model.edge", manifest, files)
    (folder / "model.onnx").write_bytes(model)
    return folder / "model.edge", folder / "model.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        edge, onnx = make(Path(name))
        bench = [sys.executable, "-m", "edgedistill_runtime", "bench", str(edge), "--json"]
        bench += ["--max-seconds", str(SECONDS)]
        ours, bare = [], []
        for _ in range(options.turns):
            said = subprocess.run(bench, capture_output=True, text=True, env=ENVIRONMENT)
            timing = json.loads(said.stdout.splitlines()[-1])["latency_ms"]
            ours += [process["p50"] for process in timing["processes"]]
            loop = [sys.executable, "-c", BARE, str(onnx), "1"]
            for _ in range(len(timing["processes"])):
                bare.append(float(subprocess.check_output(loop, text=True, env=ENVIRONMENT)))
    difference = min(ours) / min(bare) - 1
    result = {
        "bench_p50_ms": ours,
        "onnxruntime_p50_ms": bare,
        "difference": difference,
        "most": MOST,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(abs(difference) > MOST)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
