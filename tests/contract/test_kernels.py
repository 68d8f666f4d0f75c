"""A family's `kernels`, made without torch, are those of the file that it exports."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from dataclasses import asdict

import pytest
from tests.networks import exported, spread, student
from torch import nn

from edgedistill import search
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import total_macs, total_parameters
from edgedistill.cost.latency import estimate
from edgedistill.data import load
from edgedistill.profiles import DeviceProfile
from edgedistill.students import FAMILIES
from edgedistill_runtime.manifest import Budget

DIGITS, CLASSES = (1, 8, 8), 10
PHOTOS, PHOTO_CLASSES = (3, 32, 32), 3
CASES = [
    (name, spec, *case)
    for name, family in FAMILIES.items()
    for case, count in (((DIGITS, CLASSES), 12), ((PHOTOS, PHOTO_CLASSES), 1))
    for spec in spread(family.specs(case[0]), count)
]


def _name(value):
    return "-".join(map(str, asdict(value).values())) if hasattr(value, "__dict__") else None


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("family", "spec", "shape", "classes"), CASES, ids=_name)
def test_a_familys_kernels_are_those_of_its_exported_file(family, spec, shape, classes, precision):
    told = FAMILIES[family].kernels(spec, shape, classes, precision)
    found = kernels_of(exported(family, spec, shape, classes, precision))
    assert [k.op for k in told] == [k.op for k in found]
    assert told == found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sample_of_specs_has_every_value_of_every_field(family):
    values, sampled = defaultdict(set), defaultdict(set)
    for spec in FAMILIES[family].specs(DIGITS):
        for field, value in asdict(spec).items():
            values[field].add(value)
    for name, spec, shape, _ in CASES:
        if (name, shape) == (family, DIGITS):
            for field, value in asdict(spec).items():
                sampled[field].add(value)
    assert sampled == values


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_module_with_its_batch_norms_folded(family, precision):
    for spec in spread(FAMILIES[family].specs(DIGITS), 60):
        module = student(family, spec, DIGITS, CLASSES)
        count = sum(p.numel() for p in module.parameters())
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        folded = count - sum(norm.num_features for norm in norms)  # scale and shift make one bias
        kernels = FAMILIES[family].kernels(spec, DIGITS, CLASSES, precision)
        assert total_parameters(kernels) == folded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_space_has_at_least_200_specs_for_a_small_image_and_none_twice(family):
    specs = list(FAMILIES[family].specs(DIGITS))
    assert len(specs) >= 200
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_candidates_are_priced_in_less_than_two_seconds(family):
    data, profile = load("digits"), DeviceProfile.load("rpi4")
    precisions = ("float32", "int8")

    def price():
        return search.plan(FAMILIES[family], data, profile, Budget(), precisions)

    seconds_per_candidate = []
    for _ in range(3):  # the machine may be busy with something else
        start = time.perf_counter()
        size = price().size
        seconds_per_candidate.append((time.perf_counter() - start) / size)
    assert 1000 * min(seconds_per_candidate) < 2


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("size", ["width", "growth", "depth"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_student_never_costs_less(family, size, precision):
    profile = DeviceProfile.load("rpi4")
    rows = defaultdict(list)
    for spec in FAMILIES[family].specs(DIGITS):
        others = asdict(spec)
        if size in others:
            value = others.pop(size)
            rows[tuple(others.items())].append((value, spec))
    for row in rows.values():
        costs = []
        for _, spec in sorted(row, key=lambda pair: pair[0]):
            kernels = FAMILIES[family].kernels(spec, DIGITS, CLASSES, precision)
            latency = estimate(kernels, profile, precision, threads=1)
            costs.append(
                (
                    total_macs(kernels),
                    total_parameters(kernels),
                    latency.p50_ms,
                    latency.bound_ms,
                )
            )
        for smaller, larger in itertools.pairwise(costs):
            assert all(a <= b for a, b in zip(smaller, larger, strict=True)), row
