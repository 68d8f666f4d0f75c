"""A family's `kernels`, made without torch, are those of the file that it exports."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from dataclasses import asdict

import pytest
from tests.networks import exported, spread, student
from torch import nn

from edgedistill.cost import memory
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import moved_elements, table_rows, total_macs, total_parameters
from edgedistill.cost.latency import estimate
from edgedistill.profiles import DeviceProfile
from edgedistill.students import FAMILIES, tasks_of

DIGITS, CLASSES = (1, 8, 8), 10
PHOTOS, PHOTO_CLASSES = (3, 32, 32), 3
TEXTS, TOPICS = (32,), 5
SHORT, MOODS = (7,), 2
IMAGES = [name for name, f in FAMILIES.items() if "image-classification" in tasks_of(f)]
SHAPES = {name: (DIGITS, CLASSES) if name in IMAGES else (TEXTS, TOPICS) for name in FAMILIES}
OTHERS = {name: (PHOTOS, PHOTO_CLASSES) if name in IMAGES else (SHORT, MOODS) for name in FAMILIES}
COUNTS = {"convnet": 12, "vit": 7, "static": 7, "transformer": 9}
CASES = [
    (name, spec, *case)
    for name, family in FAMILIES.items()
    for case, count in ((SHAPES[name], COUNTS[name]), (OTHERS[name], 1))
    for spec in spread(family.specs(case[0]), count)
]
CASES += [
    (name, spec, shape, 4)
    for name, shape, count in (
        ("convnet", (3, 96, 96), 3),
        ("convnet", (1, 40, 61), 3),
        ("convnet", (6, 1, 128), 3),
        ("convnet", (2, 1, 1000), 3),
        ("vit", (3, 64, 64), 1),
        ("vit", (1, 40, 61), 2),
    )
    for spec in spread(FAMILIES[name].specs(shape), count)
]
"""Large images, spectrograms, and sequences."""


def _name(value):
    return "-".join(map(str, asdict(value).values())) if hasattr(value, "__dict__") else None


@pytest.mark.parametrize(("family", "spec", "shape", "classes"), CASES, ids=_name)
def test_a_familys_kernels_are_those_of_its_exported_file(family, spec, shape, classes):
    for precision in ("float32", "int8"):
        told = FAMILIES[family].kernels(spec, shape, classes, precision)
        found = kernels_of(exported(family, spec, shape, classes, precision), length=shape[0])
        assert [k.op for k in told] == [k.op for k in found]
        assert told == found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sample_of_specs_has_every_value_of_every_field(family):
    values, sampled = defaultdict(set), defaultdict(set)
    for spec in FAMILIES[family].specs(SHAPES[family][0]):
        for field, value in asdict(spec).items():
            values[field].add(value)
    for name, spec, shape, _ in CASES:
        if (name, shape) == (family, SHAPES[family][0]):
            for field, value in asdict(spec).items():
                sampled[field].add(value)
    assert sampled == values


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_module_as_it_ships(family, precision):
    shape, classes = SHAPES[family]
    for spec in spread(FAMILIES[family].specs(shape), 60 if family == "convnet" else 12):
        module = student(family, spec, shape, classes)
        module = module.folded() if hasattr(module, "folded") else module
        count = sum(p.numel() for p in module.parameters())
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        folded = count - sum(norm.num_features for norm in norms)  # scale and shift make one bias
        kernels = FAMILIES[family].kernels(spec, shape, classes, precision)
        assert total_parameters(kernels) == folded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_space_has_many_specs_for_a_small_sample_and_none_twice(family):
    specs = list(FAMILIES[family].specs(SHAPES[family][0]))
    assert len(specs) >= {"static": 60, "vit": 50}.get(family, 200)
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_candidates_are_priced_in_less_than_two_seconds(family):
    profile, (shape, classes) = DeviceProfile.load("rpi4"), SHAPES[family]
    candidates = [
        (spec, precision)
        for precision in ("float32", "int8")
        for spec in FAMILIES[family].specs(shape)
    ]

    def price():
        for spec, precision in candidates:
            kernels = FAMILIES[family].kernels(spec, shape, classes, precision)
            estimate(kernels, profile, precision, threads=1)
            memory.peak_ram_mib(kernels, precision)
            memory.bundle_mib(kernels, precision, 64, classes)

    seconds_per_candidate = []
    for _ in range(3):  # the machine may be busy with something else
        start = time.perf_counter()
        price()
        seconds_per_candidate.append((time.perf_counter() - start) / len(candidates))
    assert 1000 * min(seconds_per_candidate) < 2


SIZES = [
    ("convnet", "width"),
    ("convnet", "growth"),
    ("convnet", "depth"),
    ("vit", "depth"),
    ("vit", "heads"),
    ("vit", "ffn"),
    ("static", "vocabulary"),
    ("static", "dim"),
    ("static", "hidden"),
    ("transformer", "vocabulary"),
    ("transformer", "layers"),
    ("transformer", "ffn"),
]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("family", "size"), SIZES)
def test_a_larger_student_never_costs_less(family, size, precision):
    profile, (shape, classes) = DeviceProfile.load("rpi4"), SHAPES[family]
    rows = defaultdict(list)
    for spec in FAMILIES[family].specs(shape):
        others = asdict(spec)
        value = others.pop(size)
        rows[tuple(others.items())].append((value, spec))
    for row in rows.values():
        costs = []
        for _, spec in sorted(row, key=lambda pair: pair[0]):
            kernels = FAMILIES[family].kernels(spec, shape, classes, precision)
            latency = estimate(kernels, profile, precision, threads=1)
            costs.append(
                (
                    total_macs(kernels),
                    total_parameters(kernels),
                    latency.p50_ms,
                    latency.bound_ms,
                    memory.peak_ram_mib(kernels, precision),
                    memory.bundle_mib(kernels, precision, 64, classes),
                )
            )
        for smaller, larger in itertools.pairwise(costs):
            assert all(a <= b for a, b in zip(smaller, larger, strict=True)), row


@pytest.mark.parametrize("family", ["static", "transformer"])
def test_a_call_moves_the_rows_that_it_looks_up_and_not_the_table(family):
    shape, classes = SHAPES[family]
    moved = defaultdict(set)
    for spec in FAMILIES[family].specs(shape):
        others = asdict(spec)
        others.pop("vocabulary")
        kernels = FAMILIES[family].kernels(spec, shape, classes, "float32")
        assert table_rows(kernels) == spec.vocabulary
        moved[tuple(others.items())].add(sum(map(moved_elements, kernels)))
    assert all(len(amounts) == 1 for amounts in moved.values())
