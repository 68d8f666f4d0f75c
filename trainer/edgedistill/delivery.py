"""The steps of a fit that need torch, in the order in which `fit` calls them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import torch

import edgedistill_runtime.manifest as contract
from edgedistill import answers, finalists, repair, report, search, target, verify
from edgedistill import pack as packing
from edgedistill.boards import BoardError
from edgedistill.budget import Limit
from edgedistill.cache import Cache, digest, user_cache
from edgedistill.convert import WEIGHTS_ALONE, Converted, Converter, Form, quantization_of
from edgedistill.cost import memory
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import total_macs
from edgedistill.data import Dataset
from edgedistill.distill.control import Control
from edgedistill.distill.processes import Processes
from edgedistill.distill.records import Student, Teacher
from edgedistill.distill.trainer import Trainer
from edgedistill.errors import ExportError, OverBudget, TrainingError
from edgedistill.payback import Meter, Payback
from edgedistill.progress import Progress
from edgedistill.provenance import versions
from edgedistill.repair import Attempt, Repair
from edgedistill.report import FitResult
from edgedistill.samples import Samples
from edgedistill.search import Candidate, Plan
from edgedistill.search.short import middle, shortened
from edgedistill.setting import Setting
from edgedistill.students import Family
from edgedistill.students.modules import as_if_trained
from edgedistill.target import Measurement
from edgedistill.tasks import TextClassification, task_of
from edgedistill_runtime import bench
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.manifest import Backend
from edgedistill_runtime.model import load

T = TypeVar("T")
CACHE_DAYS = 60
"""Teachers' weights and outputs that no fit has used for so long are removed from the cache."""
PAID_STAGES = ("trials", "distil")
"""What a student costs.  Its teacher is there anyway: without a student it would ship."""
HOST_BENCH_SECONDS = 1.0
TARGET_BENCH_SECONDS = 30.0
"""As `edgedistill bench` does without being asked."""
TIMED_SAMPLES = 20


class Delivery:
    """One recipe on its way to a bundle."""

    def __init__(
        self,
        setting: Setting,
        work: Cache,
        processes: Processes,
        progress: Progress,
        losses: Mapping[str, Any] | None = None,
    ) -> None:
        self.setting, self.processes, self.progress = setting, processes, progress
        recipe, data = setting.recipe, setting.data
        self.out = recipe.out_folder
        self.task = task_of(data, recipe.metric, recipe.max_length)
        shared = Cache(user_cache() / "distill")
        if processes.main:
            shared.evict(CACHE_DAYS)
        self.work, self.shared, self.losses = work, shared, losses
        self._made: dict[str, tuple[Trainer, Converter, Converter]] = {}
        """What trains and converts the students of a family, and converts their teachers."""
        self._teachers: dict[str, Teacher] = {}
        self._use(setting.family)
        self.trials: search.Trials | None = None
        self.refused = ""
        """Why the last student that was converted does not ship."""
        self.finalists: Plan | None = None
        """The plan with what the target measured."""
        self.meter = Meter()
        self.seconds: dict[str, float] = {}
        self._stage, self._start = "", time.monotonic()

    def _use(self, family: Family) -> None:
        """From here on students are of this family."""
        if family.name not in self._made:
            setting = self.setting
            trainer = Trainer(
                setting.recipe, setting.data, self.task, family, self.work, self.shared,
                self.processes, self.progress, self.losses,
            )  # fmt: skip
            engine = setting.engine.name
            converter = onnx = Converter(trainer, setting.backend, self.work, engine)
            if setting.backend.name != "onnx":
                onnx = Converter(trainer, Backend("onnx", setting.backend.threads), self.work)
            self._made[family.name] = trainer, converter, onnx
        self.trainer, self.converter, self.onnx = self._made[family.name]

    def measured(self, found: Plan, source: Any = None) -> Plan:
        """The plan with its finalists measured on the recipe's target, untrained.

        As it is, if the recipe has no target.  source: as in `teacher`.
        """
        setting = self.setting
        if not setting.recipe.target:
            return found
        self._begin("measure", f"the best candidates on {setting.recipe.target}, untrained")

        def make() -> Plan:
            tokenizer = self.trainer.tokenizer(source)

            def pack(candidate: Candidate, path: Path) -> float:
                return self._pack_untrained(candidate, tokenizer, path)

            return finalists.measure(setting, found, pack, self.work, self.progress)

        self.finalists = self._by_main(make)
        return self.finalists

    def tried(self, candidates: Sequence[Candidate], source: Any = None) -> Sequence[Candidate]:
        """The candidates with those first that short distillations found best.

        All of them as they are, if the recipe asks for no trials.  source: as in `teacher`.
        """
        wanted = self.setting.recipe.trials
        if not wanted:
            return candidates
        same = [c for c in candidates if c.precision == candidates[0].precision]
        self._begin("export", "candidates of the trials")
        chosen = search.spread(same, wanted)
        chosen = self._by_main(lambda: tuple(c for c in chosen if self._keeps_size(c)))
        if len(chosen) < 2:
            self.progress.note(f"{len(chosen)} candidate(s) to try: nothing to compare")
            return candidates
        teachers = {}
        for name in dict.fromkeys(c.family for c in chosen):
            self._use(next(each for each in self.setting.families if each.name == name))
            teachers[name] = self.teacher(source)
        self._begin("trials", f"{len(chosen)} candidates, {len(search.BUDGETS)} budgets")

        def measure(place: int, share: float) -> float:
            candidate = chosen[place]
            self._use(self.setting.family_of(candidate))
            trainer, teacher = shortened(self.trainer, share), teachers[candidate.family]
            student = trainer.student(candidate.spec, teacher, choices=middle(trainer))
            samples = self.trainer.samples(
                self.setting.data.validation.x, student.preprocessing.encoder
            )
            return self.trainer.score(student.module, samples).metric

        own = "" if source is None else teachers[chosen[0].family].digest
        self.trials = self._share(chosen, measure, own)
        for line in self.trials.sentences(self.task.metric):
            self.progress.note(line)
        first = self.trials.ranked
        return (*first, *(c for c in candidates if c not in first))

    def _share(
        self, chosen: tuple[Candidate, ...], measure: search.Measure, teacher: str
    ) -> search.Trials:
        """Trials that the first process draws, and all train.

        teacher: digest of one that the recipe does not name.  What the workers of a storage must
        have in common is the recipe and the data; their machines may differ.
        """
        processes, recipe = self.processes, self.setting.recipe
        if not processes.main:
            while (job := processes.agree(cast(tuple[int, float] | None, None))) is not None:
                with suppress(TrainingError):  # the first process counts it
                    measure(*job)
            return processes.agree(cast(search.Trials, None))

        def together(place: int, share: float) -> float:
            processes.agree((place, share))
            return measure(place, share)

        plain = msgspec.to_builtins(recipe.unplaced)
        each = [(c.family, repr(c.spec), c.precision) for c in chosen]
        name = digest("trials", plain, self.setting.data.digest, teacher, each)
        made = search.hold_trials(
            chosen,
            together,
            name[:16],
            search.Storage(recipe.storage),
            len(self.setting.data.validation),
            self.progress.note,
        )
        processes.agree(None)
        return processes.agree(made)

    def _keeps_size(self, candidate: Candidate) -> bool:
        """Whether its untrained network, exported, keeps the size limit.  Raises ExportError."""
        limit = self.setting.budget.size_mib
        return limit is None or self._untrained_mib(candidate) <= limit

    def _untrained_mib(self, candidate: Candidate) -> float:
        return self._bundle_mib(candidate, self._untrained(candidate))

    def _untrained(self, candidate: Candidate) -> bytes:
        """The file of its untrained network, in its precision.  Raises ExportError."""
        data, family = self.setting.data, self.setting.family_of(candidate)
        torch.manual_seed(self.setting.recipe.seed)
        module = as_if_trained(family.build(candidate.spec, data.input_shape, len(data.labels)))
        self._use(family)
        float32 = self.converter.float32(module, None, "student")
        samples = None
        if family.quantization == "static":
            samples = self.trainer.samples(self.converter.calibration, None)
        return self.converter.in_precision(
            float32, candidate.precision, samples, family.quantization
        )

    def _pack_untrained(self, candidate: Candidate, tokenizer: bytes | None, path: Path) -> float:
        """Write its untrained network's bundle, without a budget.  -> MiB, as `_bundle_mib`"""
        setting, data = self.setting, self.setting.data
        model = self._untrained(candidate)
        preprocessing = self.task.preprocessing(candidate.spec, tokenizer)
        validation = self.trainer.samples(data.validation.x, preprocessing.encoder)
        rows = packing.golden_rows(validation, setting.recipe.seed)
        outputs = verify.logits(model, validation, rows, setting.backend)
        contents = packing.Contents(
            name="candidate",
            version=0,
            task=self.task.name,
            model=model,
            precision=candidate.precision,
            backend=setting.backend,
            sample=data.sample,
            labels=data.labels,
            preprocess=preprocessing.steps,
            postprocess=answers.Answers(multi_label=data.multi_label).steps(),
            files=preprocessing.files,
            golden_inputs=data.validation.x[rows],
            golden_outputs=outputs,
            golden_atol=verify.golden_tolerance(candidate.precision, outputs),
            budget=contract.Budget(percentile=setting.budget.percentile),
            predicted=contract.Predicted("unknown"),
            accuracy=contract.Accuracy(self.task.metric, 0.0, None, len(data.validation)),
            provenance={},
        )
        packing.pack(path, contents, setting.profile, setting.engine)
        return self._bundle_mib(candidate, model)

    def exportable(self, candidates: Sequence[Candidate]) -> Candidate:
        """The first candidate whose untrained network, exported, keeps the size limit.

        Raises ExportError if it cannot be exported: here, in seconds, and not after training.
        """
        self._begin("export", "the untrained candidate first")
        candidate = self._by_main(lambda: self._exportable(candidates))
        self._use(self.setting.family_of(candidate))
        return candidate

    def _exportable(self, candidates: Sequence[Candidate]) -> Candidate:
        limit = self.setting.budget.size_mib
        for candidate in candidates:
            size_mib = self._untrained_mib(candidate)
            if limit is None or size_mib <= limit:
                self.progress.note(
                    f"student  {candidate.spec}: {candidate.parameters:,} parameters, "
                    f"{candidate.macs:,} multiply-accumulates, {size_mib * 1024:.1f} KiB"
                )
                return candidate
        raise OverBudget(f"no candidate's exported file keeps size_mib {limit}")

    def teacher(self, source: Any = None) -> Teacher:
        """source: a module in place of the recipe's teacher."""
        family = self.trainer.family.name
        if family in self._teachers:
            return self._teachers[family]
        self._begin("teacher", self.setting.recipe.teacher)
        teacher = self._teachers[family] = self.trainer.teacher(source)
        self.progress.note(
            f"{teacher.name}: {teacher.parameters:,} parameters, validation {self.task.metric} "
            f"{teacher.validation:.4f}"
        )
        return teacher

    def student(self, candidate: Candidate, teacher: Teacher) -> Student:
        self._begin("distil", self.setting.recipe.distill)
        student = self.trainer.student(candidate.spec, teacher)
        if student.adopted:
            self.progress.note(student.adopted)
        for trial in student.trials:
            self.progress.note(
                f"{trial.stage:8} alpha {trial.alpha:g}  gate {'on ' if trial.gate else 'off'}  "
                f"views {trial.views}  validation {self.task.metric} {trial.metric:.4f}, "
                f"cross-entropy {trial.cross_entropy:.4f}"
            )
        for stage, choice in student.choices.items():
            self.progress.note(
                f"{stage:8} alpha {choice.alpha:g}"
                + (", gated" if choice.gate else "")
                + f", {choice.views} view(s)"
                + ("" if choice.alpha else ": the labels alone are better here")
            )
        return student

    def convert(
        self,
        candidate: Candidate,
        student: Student,
        teacher: Teacher,
        fitting: Sequence[Candidate],
    ) -> tuple[Candidate, Converted] | None:
        """The trained student as the file that ships, and the candidate that this makes of it.

        None if no form of it passes the gate: `refused` then says why.
        """
        self._begin("convert")
        why = self.setting.precision_reason(candidate)
        if candidate.precision == "float32":
            made = self._by_main(
                lambda: self.converter.convert(
                    student.module, student.preprocessing.encoder, Form("float32"), "student"
                )
            )
            attempt = Attempt((), candidate, made)
        else:
            attempt = self._quantize(candidate, student, teacher, fitting)
        for step in attempt.path:
            self.progress.note(step.sentence())
        if attempt.converted is None:
            self.refused = attempt.sentence()
            return None
        reason = repair.reason(why, attempt.path)
        self.progress.note(f"{attempt.candidate.precision}  {reason}")
        return attempt.candidate, replace(attempt.converted, path=attempt.path, reason=reason)

    def _quantize(
        self,
        candidate: Candidate,
        student: Student,
        teacher: Teacher,
        fitting: Sequence[Candidate],
    ) -> Attempt:
        """After training, then in training, then not at all: the first that holds the gate."""
        mend = Repair(self.setting, self.converter, candidate, student, fitting, self._bundle_mib)
        if candidate.precision in WEIGHTS_ALONE:
            return self._by_main(mend.weights_alone)
        attempt = self._by_main(lambda: mend.attempt(student.module))
        if attempt.converted is None:
            self._begin("distil", "on, with quantization")
            aware = self.trainer.quantization_aware(candidate.spec, teacher, student)
            self._begin("convert")
            name = "quantization-aware int8"
            more = self._by_main(lambda: mend.attempt(aware.module, name))
            attempt = replace(more, path=attempt.path + more.path)
        return self._by_main(lambda: mend.settled(attempt))

    def control(
        self, candidate: Candidate, teacher: Teacher, student: Student, converted: Converted
    ) -> Control | None:
        """What the teacher was worth, over the recipe's seeds; None if nobody asked."""
        seeds = self.setting.recipe.control
        if not seeds:
            return None
        self._begin("control", f"with and without the teacher, {seeds} seeds")
        # not every seed is trained on with quantization: where that was needed, float32 compares
        form = Form("float32") if converted.form.aware else converted.form
        spec, first = candidate.spec, self.setting.recipe.seed
        with_teacher, without, views = [], [], None
        for seed in range(first, first + seeds):
            pupil = student
            if seed != first:
                pupil = self.trainer.student(spec, teacher, seed=seed, choices=student.choices)
            control = self.trainer.control(spec, teacher, views, seed)
            views = control.choices["control"].views
            with_teacher.append(self._test_metric(pupil, form))
            without.append(self._test_metric(control, form))
            self.progress.note(
                f"seed {seed}  {self.task.metric} with the teacher {with_teacher[-1]:.4f}, "
                f"without {without[-1]:.4f}"
            )
        made = Control.of(with_teacher, without)
        self.progress.note(made.sentence())
        return made

    def _test_metric(self, student: Student, form: Form) -> float:
        """Of the packed form, on the test split."""

        def measure() -> float:
            encoder = student.preprocessing.encoder
            converted = self.converter.convert(student.module, encoder, form, "student")
            return self.converter.metric(converted.shipped, self.setting.data.test, encoder)

        return self._by_main(measure)

    def finish(
        self,
        candidate: Candidate,
        teacher: Teacher,
        student: Student,
        converted: Converted,
        control: Control | None,
    ) -> FitResult:
        """Pack, judge the packed file, report: by the first process."""

        def make() -> FitResult:
            bundle = self.pack(candidate, teacher, student, converted, control)
            return self.report(candidate, teacher, student, converted, control, bundle)

        return self._by_main(make)

    def pack(
        self,
        candidate: Candidate,
        teacher: Teacher,
        student: Student,
        converted: Converted,
        control: Control | None,
    ) -> Path:
        """Write model.edge and the test split beside it."""
        self._begin("pack")
        setting, data, recipe = self.setting, self.setting.data, self.setting.recipe
        preprocessing = student.preprocessing
        validation = self.trainer.samples(data.validation.x, preprocessing.encoder)
        rows = packing.golden_rows(validation, recipe.seed)
        outputs = verify.logits(converted.shipped, validation, rows, setting.backend)
        self.answers = self._answers(converted, preprocessing.encoder)
        self.test_metric = self.converter.metric(
            converted.shipped, data.test, preprocessing.encoder
        )
        self.test_metric_float = self.test_metric
        if converted.float32 is not converted.shipped:
            self.test_metric_float = self.converter.metric(
                converted.float32, data.test, preprocessing.encoder
            )
        test = self.trainer.samples(data.test.x, teacher.encoder)
        self.teacher_metric = float(
            self.task.score(self.trainer.logits(teacher.network, test), data.test.y)
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
            preprocess=preprocessing.steps,
            postprocess=self.answers.steps(),
            files=preprocessing.files,
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
                self.task.metric,
                self.test_metric,
                self.teacher_metric,
                len(data.test),
                None if control is None else control.to_manifest(),
            ),
            provenance=self._provenance(teacher, student),
        )
        path = self.out / "model.edge"
        packing.pack(path, contents, setting.profile, setting.engine)
        name, test_split = _test_file(data)
        write_atomically(self.out / name, test_split)
        return path

    def _answers(self, converted: Converted, encoder: Any) -> answers.Answers:
        """How the student's logits become answers: chosen on the validation split."""
        data, recipe = self.setting.data, self.setting.recipe
        logits = self.converter.logits(converted.shipped, data.validation, encoder)
        chosen = answers.choose(
            logits,
            data.validation.y,
            data.labels,
            calibrate=recipe.calibrate,
            wanted=recipe.unknown,
            top_k=recipe.top_k,
        )
        if chosen.threshold:
            judged = chosen.judged(logits, data.validation.y)
            self.progress.note(
                f"below a score of {chosen.threshold:.3f} the answer is {chosen.unknown!r}: "
                f"{judged['answered']:.1%} of the validation split is answered, "
                f"{judged['answered_metric'] or 0:.1%} of that rightly"
            )
        return chosen

    def report(
        self,
        candidate: Candidate,
        teacher: Teacher,
        student: Student,
        converted: Converted,
        control: Control | None,
        bundle: Path,
    ) -> FitResult:
        """Judge the packed file itself, and write report.json."""
        self._begin("judge", "the packed file, through the runtime")
        data = self.setting.data
        model = load(bundle)
        logits = np.stack([model.logits(x) for x in data.test.x])
        metric = self.task.score(logits, data.test.y)
        if metric != self.test_metric:
            raise ExportError(
                f"the packed file scores {metric:.4f} and the model in it {self.test_metric:.4f}; "
                "preprocessing differs between host and runtime"
            )
        self._begin("baseline", "the teacher, simply quantized")
        baseline = self._teacher_baseline(teacher, student, converted)
        self._begin("bench", "on this machine")
        host = bench.bench(bundle, {}, HOST_BENCH_SECONDS)
        there = self._on_target(bundle)
        self._end()
        limits = self._limits(candidate, bundle, metric)
        if there is not None:
            limits = [report.measured(limit, there) for limit in limits]
        verdict, reason = report.verdict(limits, there)
        contents = {
            "verdict": verdict,
            "reason": reason,
            "bundle": str(bundle),
            "bundle_id": model.bundle_id,
            "profile": self.setting.profile.name,
            "task": self.task.name,
            "metric": self.task.metric,
            "test_samples": len(data.test),
            "notes": list(data.notes),
            "teacher": {"name": teacher.name, "metric": self.teacher_metric, **baseline["teacher"]},
            "student": {
                **{k: v for k, v in candidate.to_json().items() if k != "predicted"},
                "metric": metric,
                "metric_float": self.test_metric_float,
                "distill": self.setting.recipe.distill,
                "adopted": student.adopted,
                "assistant": student.assistant,
                "alpha": student.alpha,
                "choices": {stage: asdict(c) for stage, c in student.choices.items()},
                "trials": [asdict(trial) for trial in student.trials],
                "metrics": self.task.scores(logits, data.test.y),
            },
            "answers": None if data.multi_label else self.answers.judged(logits, data.test.y),
            "retention": metric / self.teacher_metric,
            "precision": converted.precision,
            "precision_reason": converted.reason,
            "quantization": [asdict(step) for step in converted.path],
            "size_mib": bundle.stat().st_size / 2**20,
            "predicted": candidate.to_json()["predicted"] | {"basis": candidate.latency.basis},
            "host": {
                "latency_ms": {p: host.latency_ms[p] for p in ("p50", "p95", "p99")},
                "peak_ram_mib": host.peak_ram_mib,
                "model_latency_ms": baseline["student_latency_ms"],
                "teacher_latency_ms": baseline["teacher_latency_ms"],
            },
            "budget": report.limits_json(limits),
            "target": there and self._target_json(there),
            "search": self.trials and self.trials.to_json(),
            "payback": self._payback(baseline),
            "control": control and {**asdict(control), "sentence": control.sentence()},
            "teacher_quantized": baseline["quantized"],
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
        }
        report.write(self.out / "report.json", contents)
        return FitResult(bundle, contents, tuple(limits))

    def _on_target(self, bundle: Path) -> Measurement | None:
        """What the recipe's target says of the packed file.  Raises BoardError."""
        recipe = self.setting.recipe
        if not recipe.target:
            return None
        self._begin("target", f"the packed file, measured on {recipe.target}")
        try:
            with target.connect(recipe.target, self.setting.profile, recipe.wheels_folder) as there:
                return there.bench(bundle, TARGET_BENCH_SECONDS)
        except BoardError as error:
            raise BoardError(
                f"{error} ({bundle} is packed; started again, fit goes on from there)"
            ) from None

    def _target_json(self, there: Measurement) -> dict[str, Any]:
        measured = self.finalists.measured if self.finalists else ()
        return {
            "target": self.setting.recipe.target,
            "finalists": [candidate.to_json() for candidate in measured],
            "bench": there.to_json(),
        }

    def teacher_files(self, teacher: Teacher) -> tuple[bytes, bytes]:
        """The teacher as a float32 and as an int8 ONNX file.  Raises ExportError."""
        is_text = self.setting.data.task == TextClassification.name
        network = _Unpadded(teacher.network) if is_text else teacher.network
        samples = self.trainer.samples(self.onnx.calibration, teacher.encoder)
        float32 = self.onnx.float32(network, samples, "teacher")
        kind = "dynamic" if is_text else quantization_of(network)
        return float32, self.onnx.in_precision(float32, "int8", samples, kind)

    def _teacher_baseline(
        self, teacher: Teacher, student: Student, converted: Converted
    ) -> dict[str, Any]:
        """The teacher as float32 and as int8 file: what a student must be worth more than.

        Latencies are of the bare models, timed here one after the other.
        """
        data, backend = self.setting.data, self.onnx.backend
        rows = range(min(TIMED_SAMPLES, len(data.validation)))
        theirs = self.trainer.samples(data.validation.x[: len(rows)], teacher.encoder)
        own = self.trainer.samples(data.validation.x[: len(rows)], student.preprocessing.encoder)

        def p50_ms(model: bytes, samples: Samples, backend: Backend = backend) -> float:
            return verify.time_model(model, samples, rows, backend).p50_ms

        known: dict[str, Any] = {
            "student_latency_ms": p50_ms(converted.shipped, own, self.setting.backend),
            "teacher_latency_ms": None,
            "teacher": {"params": teacher.parameters, "macs": None, "size_mib": None},
            "quantized": None,
        }
        try:
            float32, int8 = self.teacher_files(teacher)
        except ExportError as error:
            self.progress.note(f"no figures of the teacher as a file: {error}")
            return known
        known["teacher_latency_ms"] = p50_ms(float32, theirs)
        known["teacher"] |= {
            "macs": total_macs(kernels_of(float32, data.tokens)),
            "size_mib": len(float32) / 2**20,
        }
        known["quantized"] = {
            "metric": self.onnx.metric(int8, data.test, teacher.encoder),
            "latency_ms": p50_ms(int8, theirs),
            "size_mib": len(int8) / 2**20,
        }
        return known

    def _payback(self, baseline: dict[str, Any]) -> dict[str, Any]:
        """What the student cost, and after how many inferences that is paid back."""
        seconds = sum(self.seconds.get(stage, 0.0) for stage in PAID_STAGES)
        return Payback.of(
            seconds,
            self.meter.joules(),
            baseline["teacher_latency_ms"],
            baseline["student_latency_ms"],
        ).to_json()

    def _limits(self, candidate: Candidate, bundle: Path, metric: float) -> list[Limit]:
        """Every limit with the best that is known about it now."""
        budget = self.setting.budget
        retention = metric / self.teacher_metric
        known: dict[str, tuple[float | None, str]] = {
            "latency_ms": (candidate.costs["latency_ms"], candidate.latency.standing),
            "peak_ram_mib": (candidate.costs["peak_ram_mib"], candidate.latency.standing),
            "size_mib": (bundle.stat().st_size / 2**20, "verified"),
            "cold_start_ms": (None, "unknown"),
            "energy_mj": (None, "unknown"),
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
            "recipe": digest(msgspec.to_builtins(recipe.unplaced)),
            "data": self.setting.data.digest,
            "teacher": teacher.digest,
            "alpha": student.alpha,
        }

    def _bundle_mib(self, candidate: Candidate, model: bytes) -> float:
        """Size of the candidate's bundle: the true one of its file, the rest generously."""
        data = self.setting.data
        golden = packing.GOLDEN_SAMPLES * (search.sample_bytes(data) + 4 * len(data.labels))
        tokens = memory.TOKEN_BYTES * getattr(candidate.spec, "vocabulary", 0)
        return (len(model) + golden + tokens + packing.OVERHEAD_BYTES) / 2**20

    def _by_main(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them."""
        return self.processes.agree(make() if self.processes.main else cast(T, None))

    def _spend(self, stage: str) -> None:
        """Count the energy of the stages that training is made of."""
        if stage in PAID_STAGES:
            self.meter.start()
        else:
            self.meter.stop()

    def _begin(self, stage: str, detail: str = "") -> None:
        self._end()
        self._stage, self._start = stage, time.monotonic()
        self._spend(stage)
        self.progress.stage(stage, detail)

    def _end(self) -> None:
        if self._stage:
            spent = time.monotonic() - self._start
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + spent


class _Unpadded(torch.nn.Module):
    """A text teacher in the form that is exported: batch of one, no padding, and so no mask."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.float32)
        logits: torch.Tensor = self.network(ids, mask)
        return logits


def _test_file(data: Dataset) -> tuple[str, bytes]:
    """Name and bytes of the test split, as `edgedistill-run evaluate` reads it."""
    test = data.test
    if data.task != TextClassification.name:
        buffer = io.BytesIO()
        np.savez(buffer, x=test.x, y=test.y)
        return "test.npz", buffer.getvalue()
    rows = []
    for text, answer in zip(test.x, test.y, strict=True):
        several = [data.labels[i] for i in np.flatnonzero(answer)] if data.multi_label else None
        label = data.labels[int(answer)] if several is None else several
        rows.append(json.dumps({"input": text, "label": label}, ensure_ascii=False))
    return "test.jsonl", ("\n".join(rows) + "\n").encode()
