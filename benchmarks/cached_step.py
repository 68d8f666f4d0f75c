"""What a training step costs with the teacher's cached answers, and with the teacher in the loop.

Both sides are steps of one run of EdgeDistill's loop, over tweets: blocks of steps take turns, so
that a busy machine slows both.  The teacher is a bare encoder with an untrained head, which costs
what a trained one costs.  Exit 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill import data, losses, teachers
from edgedistill.data import Dataset
from edgedistill.distill import outputs
from edgedistill.distill.loop import Loop, Rows, Schedule
from edgedistill.distill.processes import Processes
from edgedistill.errors import EdgeDistillError, SettingsError
from edgedistill.progress import Silent
from edgedistill.samples import Index, TokenSamples
from edgedistill.students import vocabulary
from edgedistill.students.static import Static, StaticSpec
from edgedistill.students.transformer import Transformer, TransformerSpec
from edgedistill.tasks import TextClassification
from edgedistill.teachers import LoadedTeacher

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cached_step.json"
STUDENTS: dict[str, tuple[Any, Any, float | None]] = {
    "transformer": (
        Transformer(),
        TransformerSpec(vocabulary=8000, embedding=64, layers=2, hidden=128, heads=4, ffn=512),
        8.0,
    ),
    "static": (Static(), StaticSpec(vocabulary=8000, dim=64, hidden=128), None),
}
"""Family, spec, and how many times cheaper the cached step is to be."""
WARM_UP_BLOCKS = 2
ALPHA, TEMPERATURE = 0.5, 2.0
HOW = (
    "A step is a batch from its assembly to the optimizer's update, in the loop that trains "
    "students, float32 on the CPU; the two sides take turns in blocks of steps within one run, on "
    "batches of texts of like length, padded to their longest. A block counts with its mean; "
    "given are medians over the blocks, of the wall clock and of the process's processor time. "
    "times_cheaper is the ratio of the two processor times. In the loop the teacher, as "
    "edgedistill.teachers.load gives it (eager attention), reads its own tokens of the same texts, "
    "without gradients. answers_ms_per_text is what caching an answer costs once, in batches of "
    "its own; repaid_after_epochs is how many epochs with the teacher in the loop cost more than "
    "caching and as many without."
)


@dataclass
class Times:
    """Of the steps of one side, block after block, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "tweets" / "tweets.csv")
    parser.add_argument(
        "--teacher", type=Path, default=ROOT / "data" / "tweets" / "minilm", metavar="FOLDER"
    )
    parser.add_argument("--rows", type=int, default=1920, help="texts to sample")
    parser.add_argument("--blocks", type=int, default=16, help="of each side")
    parser.add_argument("--block", type=int, default=10, metavar="STEPS")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    try:
        report = _measured(options)
    except EdgeDistillError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _print(report["results"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(result["ok"] for result in report["results"]) else 1


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    found = data.load(str(options.data))
    if not options.batch_size <= options.rows <= len(found.train):
        raise SettingsError(
            f"--rows is {options.rows}; it must be from the batch size to {len(found.train)}"
        )
    labels = found.labels
    teacher = teachers.load(str(options.teacher), found.task, len(labels), labels, max_length=64)
    results = [_measure(name, found, teacher, options) for name in STUDENTS]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("edgedistill", "accelerate", "torch", "transformers")},
        "teacher": teacher.name,
        "rows": options.rows,
        "blocks": options.blocks,
        "steps_a_block": options.block,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "how": HOW,
        "results": results,
    }


def _measure(
    name: str, found: Dataset, teacher: LoadedTeacher, options: argparse.Namespace
) -> dict[str, Any]:
    family, spec, target = STUDENTS[name]
    texts, labels = found.train.x[: options.rows], torch.from_numpy(found.train.y[: options.rows])
    task = TextClassification(found)
    known = vocabulary.available(teacher.tokenizer_json, list(found.train.x))
    spec = replace(spec, vocabulary=min(spec.vocabulary, known))
    own = task.samples([texts], task.preprocessing(spec, teacher.tokenizer_json).encoder)
    theirs = task.samples([texts], teacher.encoder)
    torch.manual_seed(0)
    student = family.build(spec, found.input_shape, len(found.labels))

    teacher.network.requires_grad_(False)
    start = time.process_time()
    answers = torch.from_numpy(outputs.answers(teacher.network, theirs, torch.device("cpu")))
    caching_ms = 1e3 * (time.process_time() - start) / options.rows

    cached, in_loop = _train(student, own, theirs, teacher.network, answers, labels, options)
    ms = {
        f"{side}_{clock}": 1e3 * statistics.median(getattr(times, clock))
        for side, times in (("cached", cached), ("in_loop", in_loop))
        for clock in ("wall", "cpu")
    }
    ratio = ms["in_loop_cpu"] / ms["cached_cpu"]
    saved_a_text = (ms["in_loop_cpu"] - ms["cached_cpu"]) / options.batch_size
    rounded = {f"{key}_ms": round(value, 3) for key, value in ms.items()}
    return {
        "student": name,
        "spec": repr(spec),
        "mean_tokens": round(sum(len(own.one(row)[0]) for row in range(len(own))) / len(own), 1),
        **rounded,
        "times_cheaper": round(ratio, 2),
        "times_cheaper_wall": round(ms["in_loop_wall"] / ms["cached_wall"], 2),
        "answers_ms_per_text": round(caching_ms, 3),
        "repaid_after_epochs": round(caching_ms / saved_a_text, 2),
        "target": target,
        "ok": target is None or ratio >= target,
    }


def _train(
    student: nn.Module,
    own: TokenSamples,
    theirs: TokenSamples,
    teacher: nn.Module,
    answers: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
) -> tuple[Times, Times]:
    """Blocks of the two sides in turn.  A step ends where the loss of the next begins."""
    blocks = 2 * (WARM_UP_BLOCKS + options.blocks)
    marks: list[tuple[float, float]] = []

    def loss(network: nn.Module, rows: Index) -> Tensor:
        at = torch.from_numpy(rows)
        marks.append((time.perf_counter(), time.process_time()))
        soft = answers[at]
        if (len(marks) - 1) // options.block % 2:
            with torch.no_grad():
                soft = teacher(*theirs.batch(rows))
        return losses.distillation(network(*own.batch(rows)), soft, labels[at], ALPHA, TEMPERATURE)

    steps = blocks * options.block + 1
    count = options.rows - options.rows % options.batch_size  # whole batches
    with tempfile.TemporaryDirectory() as folder:
        Loop(
            student,
            loss,
            Rows(own, stride=count, count=count, views=1),
            Schedule(-(-steps * options.batch_size // count), options.batch_size, 1e-3, 1e-2),
            name="student",
            seed=0,
            checkpoint=Path(folder) / "student.checkpoint",
            processes=Processes("cpu", "no", "", Path(folder)),
            progress=Silent(),
        ).run()
    taken = np.diff(np.array(marks[:steps]), axis=0)  # (steps, clocks)
    mean = taken.reshape(blocks, options.block, 2).mean(1)[2 * WARM_UP_BLOCKS :]
    sides = (Times(*mean[side::2].T.tolist()) for side in (0, 1))
    return next(sides), next(sides)


def _print(results: list[dict[str, Any]]) -> None:
    line = "{:<12}{:>12}{:>12}{:>10}{:>10}{:>8} {}\n"
    sys.stdout.write(line.format("", "cached ms", "in loop ms", "times", "(wall)", "target", "ok"))
    for row in results:
        sys.stdout.write(
            line.format(
                row["student"],
                f"{row['cached_cpu_ms']:.2f}",
                f"{row['in_loop_cpu_ms']:.2f}",
                f"{row['times_cheaper']:.1f}",
                f"{row['times_cheaper_wall']:.1f}",
                "-" if row["target"] is None else f"{row['target']:g}",
                "yes" if row["ok"] else "NO",
            )
        )


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [
        x.partition(":")[2].strip() for x in cpuinfo.splitlines() if x.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


if __name__ == "__main__":
    sys.exit(main())
