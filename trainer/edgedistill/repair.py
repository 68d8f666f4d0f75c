"""From a trained student to a file in its precision that holds the accuracy gate.

int8 comes first, then int8 with ranges found in another way, then with the layers in float32 that
take most noise, as few of them as will do; then int8 after quantization-aware distillation, and at
last float32.  Each is a file that is judged as the packed one is: its metric on the validation
split, and its logits against the torch module's.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from torch import nn

from edgedistill import verify
from edgedistill.cache import digest
from edgedistill.convert import Converted, Converter, Form, Step
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import MIXED
from edgedistill.distill import fakequant, outputs
from edgedistill.distill.records import Student
from edgedistill.export.onnx import deduplicated
from edgedistill.quantize import ROWS, Layer, Quantizer
from edgedistill.samples import Samples
from edgedistill.search import Candidate, reprice
from edgedistill.setting import Setting

NOISE_SAMPLES = 64
"""Calibration samples that the noise of layers is measured on."""
SLOWER = 0.03
"""What a precision that no limit asks for may be slower by than float32."""
TIMED_ROUNDS, TIMED_SAMPLES = 3, 20


@dataclass(frozen=True)
class Attempt:
    """What came of quantizing one network."""

    path: tuple[Step, ...]
    candidate: Candidate
    converted: Converted | None
    """What holds the gate."""

    def sentence(self) -> str:
        """The least that it would have cost."""
        best = min(self.path, key=lambda step: step.points_lost)
        return f"{best.problem} ({best.name})"


class Repair:
    """Quantizes one student, and makes good what that costs."""

    def __init__(
        self,
        setting: Setting,
        converter: Converter,
        candidate: Candidate,
        student: Student,
        fitting: Sequence[Candidate],
        bundle_mib: Callable[[Candidate, bytes], float],
    ) -> None:
        """candidate: in int8.  fitting: all that are in the budget.  bundle_mib: size of the
        bundle with a file of a candidate."""
        self.setting, self.converter, self.candidate = setting, converter, candidate
        self.bundle_mib = bundle_mib
        self.trainer = converter.trainer
        self.student, self.encoder = student, student.preprocessing.encoder
        self.auto = setting.recipe.precision == "auto"
        self.float_candidate = next(
            (
                each
                for each in fitting
                if (each.family, each.spec, each.precision)
                == (candidate.family, candidate.spec, "float32")
            ),
            None,
        )

    @cached_property
    def samples(self) -> Samples:
        """Of the calibration."""
        return self.trainer.samples(self.converter.calibration, self.encoder)

    @cached_property
    def float32(self) -> Converted:
        module = self.student.module
        return self.converter.convert(module, self.encoder, Form("float32"), "student")

    def attempt(self, module: nn.Module, name: str = "int8") -> Attempt:
        """Quantize the trained module, or one that was trained on with fake quantization."""
        network = Network(self, module, name)
        path: list[Step] = []
        for method in network.methods:
            step, made = network.judge(Form("int8", method, aware=network.aware))
            path.append(step)
            if not step.problem:
                better = self._by_row(network, step)
                return better or Attempt(tuple(path), self.candidate, made)
        best = min(path, key=lambda step: (step.points_lost, step.difference))
        mixed = None
        if self.auto:
            mixed = network.mix(network.methods[path.index(best)])
        if mixed is None:
            return Attempt(tuple(path), self.candidate, None)
        step, made = mixed
        candidate = self._as_file(made.shipped, MIXED)
        missed = candidate.over(self.setting.budget)
        if not step.problem and missed:
            name, times = max(missed.items(), key=lambda item: item[1])
            step = replace(step, problem=f"{name} is {times:.3g} times its limit")
        holds = None if step.problem else made
        return Attempt((*path, step), candidate, holds)

    def _by_row(self, network: Network, step: Step) -> Attempt | None:
        """With a scale a row for tables, where one for each costs points."""
        if step.points_lost <= 0 or ROWS not in network.methods or step.name.endswith(ROWS):
            return None
        finer, made = network.judge(Form("int8", ROWS, aware=network.aware))
        candidate = self._as_file(made.shipped, "int8")
        if finer.points_lost >= step.points_lost or candidate.over(self.setting.budget):
            return None
        step = replace(step, problem=f"loses {step.points_lost:.2f} points, and tables by row less")
        return Attempt((step, finer), candidate, made)

    def weights_alone(self) -> Attempt:
        """In float16 or int4, as was asked for."""
        converter, form = self.converter, Form(self.candidate.precision)
        made = converter.convert(self.student.module, self.encoder, form, "student")
        reference = outputs.answers(self.student.module, self.samples, self.trainer.device)
        off = verify.difference(converter.board_logits(made.shipped, self.samples), reference)
        problem = verify.gate(made.points_lost, off, form.precision)
        mib = len(made.shipped) / 2**20
        step = Step(form.precision, (), made.points_lost, off, mib, 0, problem)
        return Attempt((step,), self.candidate, None if problem else made)

    def settled(self, attempt: Attempt) -> Attempt:
        """The attempt, or float32 where nothing holds the gate, or what does is slower."""
        last = attempt.path[-1]
        if attempt.converted is not None:
            last = replace(last, problem=self.slower(attempt))
        if not last.problem:
            return attempt
        path, back = (*attempt.path[:-1], last), self.back_to_float32()
        if back is None:
            return replace(attempt, path=path)
        return replace(back, path=path + back.path)

    def back_to_float32(self) -> Attempt | None:
        """float32, if the precision is ours to choose and the budget allows it."""
        candidate, made = self.float_candidate, self.float32
        if not self.auto or candidate is None:
            return None
        mib, limit = self.bundle_mib(candidate, made.float32), self.setting.budget.size_mib
        if limit is not None and mib > limit:
            return None
        step = Step("float32", (), 0.0, 0.0, len(made.float32) / 2**20)
        return Attempt((step,), candidate, made)

    def slower(self, attempt: Attempt) -> str:
        """By how much a file is slower than float32 that fits as well, if it is; else nothing."""
        if attempt.converted is None or self.back_to_float32() is None:
            return ""
        if self.setting.profile.name == "host":
            share, how = self._timed(attempt.converted.shipped), "measured here"
        elif attempt.candidate.latency.standing == "predicted" and self.float_candidate:
            own, other = attempt.candidate.latency, self.float_candidate.latency
            share, how = own.p50_ms / other.p50_ms, "predicted"
        else:
            return ""
        return f"{share - 1:.0%} slower than float32, {how}" if share > 1 + SLOWER else ""

    def _timed(self, model: bytes) -> float:
        """Its latency on this machine over that of float32, from rounds in turn."""
        rows = range(min(TIMED_SAMPLES, len(self.samples)))

        def make() -> bytes:
            def p50_ms(file: bytes) -> float:
                backend = self.setting.backend
                return verify.time_model(file, self.samples, rows, backend).p50_ms

            files = model, self.float32.float32
            rounds = [tuple(map(p50_ms, files)) for _ in range(TIMED_ROUNDS)]
            own, other = (min(times) for times in zip(*rounds, strict=True))
            return json.dumps(own / other).encode()

        key = digest("slower", model, self.float32.float32)
        share: float = json.loads(self.converter.work.get("slower.json", key, make))
        return share

    def _as_file(self, model: bytes, precision: str) -> Candidate:
        data = self.setting.data
        return reprice(
            self.candidate,
            kernels_of(model, data.tokens),
            data,
            self.setting.profile,
            self.setting.budget,
            precision,
            self.bundle_mib(self.candidate, model),
        )


class Network:
    """One network's files, made and judged."""

    def __init__(self, repair: Repair, module: nn.Module, name: str) -> None:
        self.repair, self.module, self.name = repair, module, name
        self.converter, self.samples = repair.converter, repair.samples
        self.learned = fakequant.learned_ranges(module)
        self.aware = name != "int8"
        plain = fakequant.plain(module, repair.student.module) if self.aware else module
        self.float32 = self.converter.float32(plain, self.samples, "student")
        self.kind = self.converter.trainer.family.quantization

    @cached_property
    def quantizer(self) -> Quantizer:
        return self.converter.quantizer(self.float32, self.samples, self.kind, self.learned)

    @property
    def methods(self) -> tuple[str, ...]:
        """After quantization-aware training one is left: it has learned ranges, or rounds tables by
        row."""
        methods = self.quantizer.methods
        if not self.aware:
            return methods
        return (ROWS,) if ROWS in methods else methods[:1]

    @cached_property
    def reference(self) -> verify.Array:
        """The module's own logits.  (n, classes)"""
        device = self.converter.trainer.device
        return outputs.answers(self.module, self.samples, device)

    def file(self, form: Form) -> bytes:
        inputs = outputs.fingerprint(self.samples)
        key = digest(
            "quantized", self.float32, inputs, self.kind, asdict(form), self.learned,
            self.converter.versions,
        )  # fmt: skip

        def make() -> bytes:
            return self.quantizer.int8(form.ranges, form.floats)

        return self.converter.work.get(f"quantized.{self.converter.backend.name}", key, make)

    def judge(self, form: Form, layers: tuple[str, ...] = ()) -> tuple[Step, Converted]:
        converter, quantized = self.converter, self.file(form)
        model = deduplicated(quantized) if converter.backend.name == "onnx" else quantized
        logits = converter.board_logits(model, self.samples)
        validation = converter.trainer.data.validation
        metric = converter.metric(model, validation, self.repair.encoder)
        made = replace(self.repair.float32, shipped=model, form=form, validation=metric)
        off = verify.difference(logits, self.reference)
        name = f"{self.name}, ranges {form.ranges}" + (", float32 layers" if layers else "")
        problem = verify.gate(made.points_lost, off, form.precision)
        shared = len(quantized) - len(model)
        mib = len(model) / 2**20
        return Step(name, layers, made.points_lost, off, mib, shared, problem), made

    def mix(self, method: str) -> tuple[Step, Converted] | None:
        """The fewest most sensitive layers in float32 with which the gate holds; if none do, most
        of them.  None for a network that has nothing to mix."""
        layers = self._layers(method)
        tried: dict[int, tuple[Step, Converted]] = {}

        def kept(count: int) -> tuple[str, ...]:
            return tuple(dict.fromkeys(node for each in layers[:count] for node in each.kept))

        def holds(count: int) -> bool:
            nodes = kept(count)
            names = tuple(each.name for each in layers if each.node in nodes)
            tried[count] = self.judge(Form(MIXED, method, nodes, self.aware), names)
            return not tried[count][0].problem

        counts = [n for n in range(1, len(layers)) if not {x.node for x in layers} <= {*kept(n)}]
        place = bisect_left(counts, True, key=holds)
        return tried[counts[min(place, len(counts) - 1)]] if counts else None

    def _layers(self, method: str) -> list[Layer]:
        name, count = self.converter.input_name, min(NOISE_SAMPLES, len(self.samples))
        feeds = ({name: self.samples.one(row)} for row in range(count))
        return self.quantizer.layers(self.file(Form("int8", method, aware=self.aware)), feeds)


def reason(why: str, path: Sequence[Step]) -> str:
    """The line that says why a bundle has its precision.  why: the plan's reason."""
    failed = [step for step in path if step.problem]
    if not failed:
        return why
    last = path[-1]
    kept = f" ({', '.join(last.layers)})" if last.layers else ""
    return f"{why}; {failed[0].name} {failed[0].problem}: {last.name}{kept}"


__all__ = ["Attempt", "Network", "Repair", "reason"]
