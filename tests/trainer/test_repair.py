"""A network that int8 ruins: it is caught, repaired as far as it takes, and named in the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from tests.networks import exported
from torch import nn

from edgedistill import fit, quantize
from edgedistill.cache import Cache
from edgedistill.convert import Converter, Form, Step
from edgedistill.cost.kernels import Kernel, conv, linear
from edgedistill.distill.processes import Processes
from edgedistill.distill.records import Student
from edgedistill.distill.trainer import Trainer
from edgedistill.errors import OverBudget
from edgedistill.progress import Silent
from edgedistill.recipe import GivenTeacherTraining, GivenTraining, Recipe
from edgedistill.repair import Attempt, Repair
from edgedistill.setting import Setting
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.tasks import task_of

OUTLIER = 3000.0
"""How far the first channel's activations lie out."""


@dataclass(frozen=True)
class FragileSpec:
    width: int


class Fragile:
    """Two convolutions, and between them activations of which one channel is far out.

    A range that holds that channel has no step for the others, and no training can change it: the
    factors are constants.
    """

    name = "fragile"
    tasks = ("image-classification",)
    quantization = "static"

    def specs(self, input_shape: tuple[int, ...]) -> Iterator[FragileSpec]:
        yield FragileSpec(24)

    def kernels(
        self, spec: FragileSpec, input_shape: tuple[int, ...], classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        channels, height, width = input_shape
        op = "QLinearConv" if precision == "int8" else "FusedConv"
        first = conv(op, (channels, height, width), spec.width, 3, 1, False)
        second = conv(op, (spec.width, height, width), 2 * spec.width, 3, 2, False)
        mean = Kernel("ReduceMean", second.output, (1, 2 * spec.width))
        gemm = "QGemm" if precision == "int8" else "Gemm"
        return first, second, mean, linear(gemm, (1, 2 * spec.width), classes)

    def build(self, spec: FragileSpec, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return FragileNet(input_shape[0], spec.width, classes)


class FragileNet(nn.Module):
    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()
        )
        self.head = nn.Linear(2 * width, classes)
        factors = torch.ones(1, width, 1, 1)
        factors[:, 0] = OUTLIER
        self.register_buffer("factors", factors)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        far = self.first(image) * self.factors
        return self.head(self.second(far / self.factors).mean((2, 3)))


def options(**more):
    given = {
        "profile": "rpi4",
        "data": "digits",
        "min_retention": 0.5,
        "training": GivenTraining(
            epochs=6, views=(2,), alpha=(0.5,), gate=(False,), trial_epochs=1
        ),
        "teacher_training": GivenTeacherTraining(epochs=4, views=2),
    }
    return given | more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the teacher and the student, which all fits here share."""
    return tmp_path_factory.mktemp("fragile")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.mark.end_to_end
@pytest.mark.xdist_group("fragile")
def test_a_fragile_network_is_repaired_by_mixed_precision_and_named_in_the_report(folder):
    """The size limit leaves no float32 candidate, and is kept."""
    made = fit(student=Fragile(), out=str(folder / "auto"), size_mib=0.045, **options())
    report = json.loads((folder / "auto" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "fits"
    assert made.exit_code == 0
    assert report["precision"] == "int8-mixed"
    *failed, last = report["quantization"]
    assert [step["name"] for step in failed] == [
        f"int8, ranges {method}" for method in quantize.Static.methods
    ]
    assert all("points, and may lose 0.5" in step["problem"] for step in failed)
    assert failed[0]["points_lost"] > 5
    assert (last["layers"], last["problem"]) == (["first.0"], "")
    assert last["points_lost"] <= 0.5
    assert "first.0" in report["precision_reason"]
    assert report["size_mib"] <= 0.045
    assert report["predicted"]["peak_ram_mib"] > 0


@pytest.mark.end_to_end
@pytest.mark.xdist_group("fragile")
def test_a_fragile_network_that_must_be_int8_is_refused_with_what_it_would_lose(folder):
    with pytest.raises(OverBudget) as caught:
        fit(student=Fragile(), out=str(folder / "int8"), precision="int8", **options())
    assert caught.value.exit_code == 1
    assert "in int8, which loses" in str(caught.value)
    assert "points, and may lose 0.5" in str(caught.value)
    assert not (folder / "int8" / "model.edge").exists()


# After the steps


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """-> (profile, with float32 among what fits) -> Repair of an untrained student"""
    folder = tmp_path_factory.mktemp("untrained")

    def make(profile: str = "rpi4", float_fits: bool = True, **more) -> Repair:
        setting = Setting.of(Recipe(**options(profile=profile, device="cpu", **more)), Fragile())
        data = setting.data
        processes = Processes("cpu", "no", "", folder)
        trainer = Trainer(
            setting.recipe, data, task_of(data, "", 64), Fragile(), Cache(folder / "work"),
            Cache(folder / "shared"), processes, Silent(),
        )  # fmt: skip
        torch.manual_seed(0)
        module = Fragile().build(FragileSpec(24), data.input_shape, len(data.labels)).eval()
        prepared = trainer.task.preprocessing(FragileSpec(24), None)
        candidates = setting.plan().fitting
        int8 = next((c for c in candidates if c.precision == "int8"), candidates[0])
        fitting = [c for c in candidates if float_fits or c is int8]
        return Repair(
            setting,
            Converter(trainer, setting.backend, trainer.work),
            int8,
            Student(module, prepared, {}, (), ""),
            fitting,
            lambda candidate, model: len(model) / 2**20,
        )

    return make


FAILED = Step("int8", (), 9.0, 0.5, 0.02, 0, "loses 9.00 points, and may lose 0.5")


def test_answers_that_are_off_are_caught_where_the_metric_cannot_tell(untrained):
    """An untrained network is at chance, whatever int8 does to it."""
    made = untrained()
    attempt = made.attempt(made.student.module)
    assert "its logits are off by" in attempt.path[0].problem
    assert attempt.candidate.precision == attempt.converted.precision == "int8-mixed"
    assert attempt.path[-1].layers == ("first.0",)
    assert attempt.path[-1].difference < 0.05


def test_float32_is_the_last_resort(untrained):
    made = untrained()
    failed = Attempt((FAILED,), made.candidate, None)
    settled = made.settled(failed)
    assert [step.name for step in settled.path] == ["int8", "float32"]
    assert settled.candidate.precision == settled.converted.precision == "float32"
    assert settled.converted.shipped == settled.converted.float32


def test_where_float32_does_not_fit_nothing_ships(untrained):
    made = untrained(float_fits=False)
    settled = made.settled(Attempt((FAILED,), made.candidate, None))
    assert settled.converted is None
    assert settled.sentence() == "loses 9.00 points, and may lose 0.5 (int8)"


def test_a_precision_that_was_asked_for_is_never_float32_in_the_end(untrained):
    made = untrained(precision="int8")
    settled = made.settled(Attempt((FAILED,), made.candidate, None))
    assert settled.converted is None


def test_what_is_slower_than_float32_here_ships_as_float32(untrained):
    """On the profile of this machine both are timed."""
    made = untrained(profile="host")
    wide = ConvNetSpec("dense", width=64, growth=2.0, stages=3, depth=3, kernel=3)
    slow = exported("convnet", wide, (1, 8, 8), 10, "float32")
    holds = Step("int8", (), 0.0, 0.01, 0.02)
    converted = replace(made.float32, shipped=slow, form=Form("int8"))
    settled = made.settled(Attempt((holds,), made.candidate, converted))
    assert settled.converted.precision == "float32"
    assert settled.path[0].problem.endswith("% slower than float32, measured here")
    small = ConvNetSpec("dense", width=4, growth=1.0, stages=1, depth=1, kernel=3)
    fast = replace(converted, shipped=exported("convnet", small, (1, 8, 8), 10, "float32"))
    kept = made.settled(Attempt((holds,), made.candidate, fast))
    assert kept.converted is fast
    assert kept.path[0].problem == ""
