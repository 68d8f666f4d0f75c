"""The plan: what fits keeps every limit, and where nothing fits it says what would."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import dataclass

import numpy as np
import pytest

from edgedistill.cost.kernels import Kernel
from edgedistill.errors import OverBudget, SettingsError
from edgedistill.pipeline import plan
from edgedistill.profiles import DeviceProfile, names
from edgedistill.recipe import Recipe
from edgedistill.search.ranking import CLASS_STEP, capacity_class

SEED = 5
PLANNED = ("latency_ms", "peak_ram_mib", "size_mib")


def planned(**options):
    return plan(Recipe.build(None, {"profile": "rpi4"} | options))


def budgets(count):
    """Seeded budgets from far too small to far too large, some limits left to the profile."""
    generator = random.Random(SEED)
    for _ in range(count):
        yield {
            "latency_ms": 10 ** generator.uniform(-2, 2),
            "percentile": generator.choice([50, 95, 99]),
            "peak_ram_mib": generator.choice([40, 78, 80, 100, 500]),
            "size_mib": 10 ** generator.uniform(-2.5, 0.5),
        }


# What fits


@pytest.mark.parametrize("budget", list(budgets(12)), ids=lambda b: f"{b['latency_ms']:.2g} ms")
def test_every_candidate_that_fits_keeps_every_limit_and_no_other_does(budget):
    found = planned(**budget)
    everything = planned(latency_ms=1e9, peak_ram_mib=1e9, size_mib=1e9, percentile=50)
    assert len(everything.fitting) == everything.size == found.size
    for candidate in found.fitting:
        for name in PLANNED:
            assert candidate.costs[name] <= budget[name]
    kept = {(c.spec, c.precision) for c in found.fitting}
    left_out = [c for c in everything.fitting if (c.spec, c.precision) not in kept]
    ratio = {50: 1.0, 95: 2.4, 99: 2.4}[budget["percentile"]]
    for candidate in left_out:
        costs = candidate.costs | {"latency_ms": candidate.costs["latency_ms"] * ratio}
        assert any(costs[name] > budget[name] for name in PLANNED)


def test_a_latency_limit_is_held_against_the_bound_and_not_the_midpoint():
    for candidate in planned(percentile=50).fitting[:20]:
        assert candidate.costs["latency_ms"] == candidate.latency.bound_ms
        assert candidate.latency.bound_ms > candidate.latency.p50_ms


@pytest.mark.parametrize("limit", PLANNED)
def test_a_larger_budget_never_yields_fewer_candidates(limit):
    scale = {"latency_ms": 1.0, "peak_ram_mib": 80.0, "size_mib": 0.03}[limit]
    kept = [
        {(c.spec, c.precision) for c in planned(**{limit: scale * factor}).fitting}
        for factor in (0.01, 0.3, 0.9, 1.0, 1.1, 2, 10)
    ]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(kept))
    assert len(kept[0]) < len(kept[-1])


def test_no_candidate_stands_twice():
    found = planned()
    assert len({(c.spec, c.precision) for c in found.fitting}) == len(found.fitting)


def test_the_best_comes_first_by_precision_then_class_then_latency():
    found = planned(size_mib=0.05, student="convnet")
    precisions = [c.precision for c in found.fitting]
    assert precisions == sorted(precisions)  # float32 before int8
    for precision in ("float32", "int8"):
        ranked = [c for c in found.fitting if c.precision == precision]
        keys = [(-capacity_class(c.expected), c.latency.p50_ms) for c in ranked]
        assert keys == sorted(keys)
        best = max(c.expected for c in ranked)
        assert ranked[0].expected > best / CLASS_STEP


def test_the_same_recipe_gives_the_same_plan():
    assert planned() == planned()


def test_the_binding_limit_is_the_one_that_keeps_out_most():
    assert planned(latency_ms=1e6, size_mib=0.02).binding == "size_mib"
    assert planned(latency_ms=0.5, size_mib=10).binding == "latency_ms"
    roomy = planned(latency_ms=1e6, size_mib=100, peak_ram_mib=1e6)
    assert roomy.binding is None
    assert len(roomy.fitting) == roomy.size


def test_a_candidate_says_in_json_what_it_is_and_what_it_will_cost():
    row = json.loads(json.dumps(planned().fitting[0].to_json()))
    assert row["family"] == "convnet"
    assert row["spec"]["block"] in ("separable", "dense")
    assert row["precision"] == "float32"
    predicted = row["predicted"]
    assert predicted["standing"] == "estimated"
    assert 0 < predicted["latency_ms"]["p50"] < predicted["latency_ms"]["bound"]
    assert predicted["peak_ram_mib"] > 0
    assert predicted["size_mib"] > 0


# Where nothing fits

TOO_SMALL = [
    {"latency_ms": 1e-4},
    {"peak_ram_mib": 10},
    {"size_mib": 0.001},
    {"latency_ms": 0.01, "size_mib": 0.004},
    {"latency_ms": 0.2, "peak_ram_mib": 77, "size_mib": 0.0072},
    {"latency_ms": 1e-3, "peak_ram_mib": 1, "size_mib": 1e-4, "percentile": 99},
    {"size_mib": 0.005, "precision": "int8"},
]


@pytest.mark.parametrize("budget", TOO_SMALL, ids=str)
@pytest.mark.parametrize("profile", ["rpi4", "rpi-zero-2w", "host"])
def test_an_infeasible_budget_is_told_with_one_that_fits_and_it_really_does(profile, budget):
    budget = {"profile": profile} | budget
    found = planned(**budget)
    if found.fitting:
        pytest.skip("this board is fast enough")
    with pytest.raises(OverBudget) as caught:
        found.require()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert found.binding in budget
    binds = re.search(r"(\w+)(?: p(\d+))? binds", sentence)
    assert binds is not None
    assert binds[1] == found.binding
    said = re.search(
        r"needs (\S+) (ms|MiB) \(estimated\), (\S+) times the limit of (\S+);", sentence
    )
    assert said is not None
    needs, factor, limit = float(said[1]), float(said[3]), float(said[4])
    assert limit == pytest.approx(budget[found.binding], rel=0.01)
    assert factor == pytest.approx(needs / limit, rel=0.02)
    assert factor > 1
    options = dict(re.findall(r"--([a-z-]+) (\S+)", sentence.partition("fits: ")[2]))
    assert found.binding.replace("_", "-") in options
    nearest = {name.replace("-", "_"): float(value) for name, value in options.items()}
    again = planned(**budget | nearest)
    assert found.nearest.spec in {c.spec for c in again.require()}


def test_the_nearest_budget_is_hardly_larger_than_it_must_be():
    found = planned(latency_ms=1e-4)
    value = float(re.findall(r"--latency-ms (\S+)", found.infeasible())[0])
    assert planned(latency_ms=value).fitting
    assert not planned(latency_ms=value * 0.9).fitting


def test_a_latency_limit_that_binds_is_told_with_its_percentile():
    assert "latency_ms p99 binds" in planned(latency_ms=1e-4, percentile=99).infeasible()
    assert "peak_ram_mib binds" in planned(peak_ram_mib=1).infeasible()


def test_over_budget_is_exit_code_one():
    assert OverBudget.exit_code == 1


@pytest.mark.parametrize("name", names())
def test_every_built_in_board_ends_in_a_plan_or_in_one_sentence(name):
    try:
        found = planned(profile=name)
    except SettingsError as error:
        sentence = str(error)
    else:
        assert found.require()
        assert found.profile == name
        return
    assert sentence.startswith(f"{name} has no engine")
    assert "\n" not in sentence
    assert DeviceProfile.load(name).engine("onnx") is None


# Precision


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_precision_that_was_asked_for_is_the_only_one(precision):
    assert {c.precision for c in planned(precision=precision).fitting} == {precision}


def test_without_a_wish_float32_goes_first_and_int8_is_there():
    found = planned()
    assert found.fitting[0].precision == "float32"
    assert {c.precision for c in found.fitting} == {"float32", "int8"}
    assert found.size == sum(planned(precision=p).size for p in ("float32", "int8"))


@dataclass(frozen=True)
class OneSpec:
    weights: int


class OneLinear:
    """A user's own family: one linear layer with many weights."""

    name = "one-linear"
    task = "image-classification"
    quantization = "static"

    def specs(self, input_shape):
        return [OneSpec(200_000)]

    def kernels(self, spec, input_shape, classes, precision):
        shape = (1, int(np.prod(input_shape)))
        return (Kernel("Gemm", shape, (1, classes), spec.weights, classes, spec.weights),)

    def build(self, spec, input_shape, classes):
        raise AssertionError("a plan builds nothing")


def test_int8_comes_first_only_where_the_size_limit_leaves_no_float32():
    recipe = Recipe.build(None, {"profile": "rpi4", "size_mib": 0.5})
    found = plan(recipe, student=OneLinear())
    assert [c.precision for c in found.fitting] == ["int8"]
    recipe = Recipe.build(None, {"profile": "rpi4", "size_mib": 2})
    found = plan(recipe, student=OneLinear())
    assert [c.precision for c in found.fitting] == ["float32", "int8"]


def test_a_family_can_be_passed_as_an_object():
    found = plan(Recipe.build(None, {"profile": "rpi4", "size_mib": 2}), student=OneLinear())
    assert found.family == found.fitting[0].family == "one-linear"
    assert found.fitting[0].parameters == 200_010


def test_a_family_without_a_spec_for_the_data_is_one_sentence() -> None:
    class Nothing:
        name = "nothing"
        task = "image-classification"

        def specs(self, input_shape: object) -> list[object]:
            return []

    with pytest.raises(SettingsError, match="'nothing' has no spec for inputs of 1×8×8"):
        plan(Recipe(profile="rpi4"), Nothing())  # type: ignore[arg-type]
