"""Images, sound and sensors: what the examples' recipes reach, over several seeds.

    python examples/mnist/prepare.py        (and the other examples that are to be measured)
    python benchmarks/kinds.py

Fits each example with its control, and writes teacher, student, control with its interval and the
teacher simply quantized to benchmarks/results/kinds.json.  Sizes are those of the model files,
latencies those of the bare models on one thread.  Everything that is finished is kept under
build/bench, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from distillation import ROOT, Told, keep

from edgedistill import Recipe, fit
from edgedistill_runtime import bundle

RESULTS = Path(__file__).parent / "results" / "kinds.json"
SMALL = {"block": "separable", "width": 16, "growth": 1.5, "stages": 4, "depth": 2, "kernel": 5}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist": ("mnist", {}),
    "spoken_digits": ("spoken_digits", {}),
    "keywords": ("keywords", {}),
    "watch": ("watch", {}),
    "watch-small": ("watch", {"spec": SMALL}),
}
"""The example of each row, and what differs from its recipe."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="some of the rows alone")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    chosen = options.rows or ROWS
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        parser.error(f"no row {unknown[0]!r} (known: {', '.join(ROWS)})")
    for name in chosen:
        keep(options.results, name, measure(name, options))
    return 0


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    example, changes = ROWS[name]
    recipe = Recipe.build(
        ROOT / "examples" / example / "recipe.toml",
        changes
        | {
            "control": options.seeds,
            "min_retention": 0.5,  # the table says what it is
            "out": str(options.build / name),
        },
    )
    report = fit(recipe, progress=Told(name)).report
    teacher, student, host = report["teacher"], report["student"], report["host"]
    retention = [metric / teacher["metric"] for metric in report["control"]["student"]]
    row = {
        "test_samples": report["test_samples"],
        "metric": report["metric"],
        "teacher": teacher | {"latency_ms": host["teacher_latency_ms"]},
        "teacher_int8": report["teacher_quantized"],
        "student": {
            "spec": student["spec"],
            "params": student["params"],
            "precision": report["precision"],
            "metric": student["metric"],
            "choices": student["choices"],
            "model_mib": len(bundle.read(report["bundle"]).files["model.onnx"]) / 2**20,
            "bundle_mib": report["size_mib"],
            "model_latency_ms": host["model_latency_ms"],
            "call_latency_ms": host["latency_ms"]["p50"],
        },
        "retention": statistics.fmean(retention),
        "retention_by_seed": retention,
        "control": report["control"],
        "answers": report["answers"],
        "times_fewer_parameters": teacher["params"] / student["params"],
        "seconds": report["seconds"],
    }
    if teacher["size_mib"] is not None:
        row["times_smaller"] = teacher["size_mib"] / row["student"]["model_mib"]
        row["times_faster"] = host["teacher_latency_ms"] / host["model_latency_ms"]
    show(name, row)
    return row


def show(name: str, row: dict[str, Any]) -> None:
    student = row["student"]
    sys.stderr.write(
        f"{name:14} teacher {row['teacher']['metric']:.4f}  student {student['metric']:.4f} "
        f"({student['params']:,} parameters, {student['precision']})  "
        f"retention {row['retention']:.4f}  "
        f"{row.get('times_smaller', 0):.0f} times smaller, "
        f"{row.get('times_faster', 0):.0f} times faster\n"
        f"{'':14} {row['control']['sentence']}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
