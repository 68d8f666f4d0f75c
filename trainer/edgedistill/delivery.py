"""The steps of a fit that need torch, in the order in which `fit` calls them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import edgedistill_runtime.manifest as contract
from edgedistill import pack as packing
from edgedistill import report, verify
from edgedistill.budget import Limit
from edgedistill.cache import Cache, digest, user_cache
from edgedistill.convert import Converted, Converter
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import total_macs
from edgedistill.data import Split
from edgedistill.distill import Student, Teacher, Trainer
from edgedistill.errors import ExportError, OverBudget
from edgedistill.progress import Progress
from edgedistill.provenance import versions
from edgedistill.report import FitResult
from edgedistill.search import Candidate
from edgedistill.setting import Setting
from edgedistill.students.modules import as_if_trained, parameters
from edgedistill.tasks import ImageClassification
from edgedistill_runtime import bench
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.model import load

HOST_BENCH_SECONDS = 1.0


class Delivery:
    """One recipe on its way to a bundle."""

    def __init__(self, setting: Setting, work: Cache, progress: Progress) -> None:
        self.setting, self.progress = setting, progress
        self.out = setting.recipe.out_folder
        self.task = ImageClassification()
        shared = Cache(user_cache() / "distill")
        self.trainer = Trainer(setting.recipe, setting.data, self.task, work, shared)
        self.converter = Converter(self.trainer, setting.backend, work)
        self.seconds: dict[str, float] = {}
        self._stage, self._start = "", time.monotonic()

    def exportable(self, candidates: Sequence[Candidate]) -> Candidate:
        """The first candidate whose untrained network, exported, keeps the size limit.

        Raises ExportError if it cannot be exported: here, in seconds, and not after training.
        """
        self._begin("export", "the untrained candidate first")
        data, limit = self.setting.data, self.setting.budget.size_mib
        for candidate in candidates:
            torch.manual_seed(self.setting.recipe.seed)
            module = self.setting.family.build(candidate.spec, data.input_shape, len(data.labels))
            float32 = self.converter.float32(as_if_trained(module), "student")
            model = self.converter.in_precision(float32, candidate.precision)
            size_mib = (len(model) + self._bundle_overhead()) / 2**20
            if limit is None or size_mib <= limit:
                self.progress.note(
                    f"student  {candidate.spec}: {candidate.parameters:,} parameters, "
                    f"{candidate.macs:,} multiply-accumulates, {size_mib * 1024:.1f} KiB"
                )
                return candidate
        raise OverBudget(f"no candidate's exported file keeps size_mib {limit}")

    def teacher(self) -> Teacher:
        self._begin("teacher")
        return self.trainer.teacher(self.progress)

    def student(self, candidate: Candidate, teacher: Teacher) -> Student:
        self._begin("distil")
        student = self.trainer.student(self.setting.family, candidate.spec, teacher, self.progress)
        for trial in student.trials:
            self.progress.note(
                f"alpha {trial.alpha:g}  validation {self.task.metric} {trial.metric:.4f}, "
                f"cross-entropy {trial.cross_entropy:.4f}"
            )
        chosen = "no teacher is better here" if not student.alpha else "the teacher's weight"
        self.progress.note(f"alpha {student.alpha:g} ({chosen})")
        return student

    def convert(self, candidate: Candidate, student: Student) -> Converted | None:
        """The trained student as the file that ships; None if it does not pass the gate."""
        self._begin("convert")
        converted = self.converter.convert(student.module, candidate.precision, "student")
        reason = self.setting.precision_reason(candidate.precision)
        self.progress.note(
            f"{candidate.precision}  {converted.points_lost:.2f} points lost on validation "
            f"(at most {verify.GATE_POINTS}); {reason}"
        )
        return converted if converted.points_lost <= verify.GATE_POINTS else None

    def pack(
        self, candidate: Candidate, teacher: Teacher, student: Student, converted: Converted
    ) -> Path:
        """Write model.edge and the test split beside it."""
        self._begin("pack")
        setting, data, recipe = self.setting, self.setting.data, self.setting.recipe
        rows = packing.golden_rows(len(data.validation), recipe.seed)
        inputs = self.trainer.validation[rows].numpy()
        outputs = verify.logits(converted.shipped, inputs, setting.backend)
        self.test_metric = self.converter.metric(converted.shipped, data.test)
        self.test_metric_float = self.converter.metric(converted.float32, data.test)
        test = self.task.prepare(self.trainer.steps, data.test.x)
        self.teacher_metric = self.task.score(
            self.trainer.logits(teacher.module, test), data.test.y
        )
        contents = packing.Contents(
            name=recipe.bundle_name,
            version=recipe.version,
            task=self.task.name,
            model=converted.shipped,
            precision=converted.precision,
            backend=setting.backend,
            sample=data.sample,
            labels=data.labels,
            preprocess=self.trainer.steps,
            postprocess=self.task.postprocess,
            golden_inputs=data.validation.x[rows],
            golden_outputs=outputs,
            golden_atol=verify.golden_tolerance(converted.precision, outputs),
            budget=setting.budget,
            predicted=contract.Predicted(
                candidate.latency.standing,
                contract.Latency(candidate.latency.p50_ms, candidate.latency.bound_ms),
                candidate.costs["peak_ram_mib"],
            ),
            accuracy=contract.Accuracy(
                self.task.metric, self.test_metric, self.teacher_metric, len(data.test)
            ),
            provenance=self._provenance(teacher, student),
        )
        path = self.out / "model.edge"
        packing.pack(path, contents, setting.profile, setting.engine)
        write_atomically(self.out / "test.npz", _npz(data.test))
        return path

    def report(
        self,
        candidate: Candidate,
        teacher: Teacher,
        student: Student,
        converted: Converted,
        bundle: Path,
    ) -> FitResult:
        """Judge the packed file itself, and write report.json."""
        self._begin("judge", "the packed file, through the runtime")
        data = self.setting.data
        model = load(bundle)
        answers = np.stack([model.logits(x) for x in data.test.x])
        metric = self.task.score(answers, data.test.y)
        if metric != self.test_metric:
            raise ExportError(
                f"the packed file scores {metric:.4f} and the model in it {self.test_metric:.4f}; "
                "preprocessing differs between host and runtime"
            )
        self._begin("baseline", "the teacher, simply quantized")
        baseline = self._teacher_baseline(teacher, converted)
        self._begin("bench", "on this machine")
        host = bench.bench(bundle, {}, HOST_BENCH_SECONDS)
        self._end()
        limits = self._limits(candidate, bundle, metric)
        verdict, reason = report.verdict(limits)
        contents = {
            "verdict": verdict,
            "reason": reason,
            "bundle": str(bundle),
            "bundle_id": model.bundle_id,
            "profile": self.setting.profile.name,
            "task": self.task.name,
            "metric": self.task.metric,
            "test_samples": len(data.test),
            "teacher": baseline["teacher"] | {"metric": self.teacher_metric},
            "student": {
                **{k: v for k, v in candidate.to_json().items() if k != "predicted"},
                "metric": metric,
                "metric_float": self.test_metric_float,
                "alpha": student.alpha,
                "trials": [asdict(trial) for trial in student.trials],
            },
            "retention": metric / self.teacher_metric,
            "precision": converted.precision,
            "precision_reason": self.setting.precision_reason(converted.precision),
            "size_mib": bundle.stat().st_size / 2**20,
            "predicted": candidate.to_json()["predicted"] | {"basis": candidate.latency.basis},
            "host": {
                "latency_ms": {p: host.latency_ms[p] for p in ("p50", "p95", "p99")},
                "peak_ram_mib": host.peak_ram_mib,
                "model_latency_ms": baseline["student_latency_ms"],
                "teacher_latency_ms": baseline["teacher_latency_ms"],
            },
            "budget": report.limits_json(limits),
            "control": None,
            "teacher_quantized": baseline["quantized"],
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
        }
        report.write(self.out / "report.json", contents)
        return FitResult(bundle, contents, tuple(limits))

    def _teacher_baseline(self, teacher: Teacher, student: Converted) -> dict[str, Any]:
        """The teacher as float32 and as int8 file: what a student must be worth more than.

        Latencies are of the bare models, timed here one after the other.
        """
        converted = self.converter.convert(teacher.module, "int8", "teacher")
        inputs = self.trainer.validation[:20].numpy()

        def p50_ms(model: bytes) -> float:
            return verify.time_model(model, inputs, self.setting.backend).p50_ms

        return {
            "student_latency_ms": p50_ms(student.shipped),
            "teacher_latency_ms": p50_ms(converted.float32),
            "teacher": {
                "params": parameters(teacher.module),
                "macs": total_macs(kernels_of(converted.float32)),
                "size_mib": len(converted.float32) / 2**20,
            },
            "quantized": {
                "metric": self.converter.metric(converted.shipped, self.setting.data.test),
                "latency_ms": p50_ms(converted.shipped),
                "size_mib": len(converted.shipped) / 2**20,
            },
        }

    def _limits(self, candidate: Candidate, bundle: Path, metric: float) -> list[Limit]:
        """Every limit with the best that is known about it now."""
        budget = self.setting.budget
        retention = metric / self.teacher_metric
        known: dict[str, tuple[float | None, str]] = {
            "latency_ms": (candidate.costs["latency_ms"], candidate.latency.standing),
            "peak_ram_mib": (candidate.costs["peak_ram_mib"], candidate.latency.standing),
            "size_mib": (bundle.stat().st_size / 2**20, "verified"),
            "cold_start_ms": (None, "unknown"),
            "min_retention": (retention, "measured elsewhere"),
        }
        limits = []
        for name, (value, standing) in known.items():
            limit = getattr(budget, name)
            if limit is None:
                continue
            kept = None
            if value is not None:
                kept = value >= limit if name == "min_retention" else value <= limit
            limits.append(Limit(name, limit, value, standing, kept))
        return limits

    def _provenance(self, teacher: Teacher, student: Student) -> dict[str, Any]:
        recipe = self.setting.recipe
        return {
            "versions": versions(),
            "seed": recipe.seed,
            "threads": torch.get_num_threads(),
            "recipe": digest(msgspec.to_builtins(msgspec.structs.replace(recipe, out=""))),
            "data": self.setting.data.digest,
            "teacher": teacher.digest,
            "alpha": student.alpha,
        }

    def _bundle_overhead(self) -> int:
        sample = int(np.prod(self.setting.data.sample.shape))
        golden = packing.GOLDEN_SAMPLES * (sample + 4 * len(self.setting.data.labels))
        return golden + packing.OVERHEAD_BYTES

    def _begin(self, stage: str, detail: str = "") -> None:
        self._end()
        self._stage, self._start = stage, time.monotonic()
        self.progress.stage(stage, detail)

    def _end(self) -> None:
        if self._stage:
            spent = time.monotonic() - self._start
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent


def _npz(split: Split) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=split.x, y=split.y)
    return buffer.getvalue()
