"""What each precision costs and brings: metric, size, latency, and the steps on the way.

    python examples/mnist/prepare.py        (and the other examples that are to be measured)
    python benchmarks/quantization.py [ROW …]

Distils the student of each row once, quantizes it in every way, and writes the metric on the test
split, the size of the model file and the median latency of the bare model on one thread to
benchmarks/results/quantization.json.  Trainings are kept under build/bench, so that a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from distillation import ROOT, Told, keep

from edgedistill import Recipe, verify
from edgedistill.convert import Converted, Form, Step
from edgedistill.delivery import Delivery
from edgedistill.distill.processes import Processes
from edgedistill.distill.records import Student, Teacher
from edgedistill.repair import Network, Repair
from edgedistill.search import Candidate
from edgedistill.setting import Setting
from edgedistill.workspace import open_workspace

RESULTS = Path(__file__).parent / "results" / "quantization.json"
RUNS, TIMED_SAMPLES, ROUNDS = 400, 20, 5
TRANSFORMER = {"embedding": 64, "layers": 2, "hidden": 128, "vocabulary": 8000}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("", {"profile": "rpi4"}),
    "digits-vit": ("", {"profile": "rpi4", "student": "vit"}),
    "mnist": ("mnist", {}),
    "mnist-vit": ("mnist", {"student": "vit", "spec": {}}),
    "spoken_digits": ("spoken_digits", {}),
    "keywords": ("keywords", {}),
    "watch": ("watch", {}),
    "tweets": ("tweets", {}),
    "tweets-transformer": (
        "tweets", {"student": "transformer", "spec": TRANSFORMER, "size_mib": 16.0},
    ),
}  # fmt: skip
"""The example of each row, none for the embedded default, and what differs from its recipe."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="some of the rows alone")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    chosen = options.rows or ROWS
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        parser.error(f"no row {unknown[0]!r} (known: {', '.join(ROWS)})")
    for name in chosen:
        keep(options.results, name, measure(name, options.build))
    return 0


def measure(name: str, build: Path) -> dict[str, Any]:
    """One row."""
    example, changes = ROWS[name]
    path = ROOT / "examples" / example / "recipe.toml" if example else None
    given = {"precision": "auto", "min_retention": 0.5} | changes
    recipe = Recipe.build(path, given | {"out": str(build / f"quantization-{name}")})
    setting, progress = Setting.of(recipe), Told(name)
    candidates = setting.plan().require()
    with open_workspace(recipe, fresh=False) as work:
        processes = Processes(recipe.device, recipe.mixed_precision, "", work.folder)
        delivery = Delivery(setting, work, processes, progress)
        candidate = delivery.exportable(candidates)
        teacher = delivery.teacher()
        student = delivery.student(candidate, teacher)
        int8 = next(
            each
            for each in candidates
            if (each.family, each.spec, each.precision)
            == (candidate.family, candidate.spec, "int8")
        )
        return _row(delivery, int8, teacher, student, candidates)


def _row(
    delivery: Delivery,
    candidate: Candidate,
    teacher: Teacher,
    student: Student,
    candidates: tuple[Candidate, ...],
) -> dict[str, Any]:
    made = delivery.convert(candidate, student, teacher, candidates)
    aware = delivery.trainer.quantization_aware(candidate.spec, teacher, student)
    repair = Repair(
        delivery.setting, delivery.converter, candidate, student, (candidate,), lambda _, model: 0.0
    )
    ways = [("float32", None, repair.float32), *_ways(repair, student, aware)]
    p50_ms = _p50_ms(delivery, student, [converted.shipped for _, _, converted in ways])
    data, encoder = delivery.setting.data, student.preprocessing.encoder
    rows = {}
    for (way, step, converted), latency_ms in zip(ways, p50_ms, strict=True):
        metric = delivery.converter.metric(converted.shipped, data.test, encoder)
        rows[way] = {
            "metric": metric,
            "validation": converted.validation,
            "size_kib": len(converted.shipped) / 1024,
            "p50_ms": latency_ms,
            "step": step and asdict(step),
        }
        layers = ", ".join(step.layers) if step else ""
        sys.stderr.write(
            f"{way:45} {metric:.4f}  {len(converted.shipped) / 1024:8.1f} KiB  "
            f"{latency_ms:.4f} ms  {layers}\n"
        )
    return {
        "family": candidate.family,
        "spec": asdict(candidate.spec),
        "params": candidate.parameters,
        "metric": delivery.task.metric,
        "test_samples": len(data.test),
        "teacher": teacher.validation,
        "ways": rows,
        "auto": made and {
            "precision": made[1].precision,
            "path": [asdict(step) for step in made[1].path],
        },
    }  # fmt: skip


def _ways(
    repair: Repair, student: Student, aware: Student
) -> Iterator[tuple[str, Step, Converted]]:
    """int8 by every method; with the fewest layers in float32 that hold the gate; and trained on
    with quantization."""
    network = Network(repair, student.module, "int8")
    for method in network.methods:
        step, made = network.judge(Form("int8", method))
        yield step.name, step, made
    mixed = network.mix(network.methods[0])
    if mixed is not None:
        yield mixed[0].name, *mixed
    trained = Network(repair, aware.module, "quantization-aware int8")
    step, made = trained.judge(Form("int8", trained.methods[0], aware=True))
    yield step.name, step, made


def _p50_ms(delivery: Delivery, student: Student, models: list[bytes]) -> list[float]:
    """Of each model, the least median of a few rounds in turn."""
    data, rows = delivery.setting.data, range(min(TIMED_SAMPLES, len(delivery.setting.data.test)))
    samples = delivery.trainer.samples(data.test.x[: len(rows)], student.preprocessing.encoder)
    backend = replace(delivery.setting.backend, threads=1)
    rounds = [
        [verify.time_model(model, samples, rows, backend, RUNS).p50_ms for model in models]
        for _ in range(ROUNDS)
    ]
    return [float(ms) for ms in np.min(rounds, axis=0)]


if __name__ == "__main__":
    sys.exit(main())
