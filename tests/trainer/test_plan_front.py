"""The plan's front and its answers: what a budget buys, and what would fit where nothing does."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from tests import opinions

from edgedistill.cli import cli
from edgedistill.errors import EdgeDistillError, SettingsError
from edgedistill.pipeline import plan
from edgedistill.profiles import names
from edgedistill.recipe import Recipe, Stage
from edgedistill.search import plan as plan_of
from edgedistill.search import spread
from edgedistill.search.ranking import capacity_class
from edgedistill.setting import PRECISIONS, Setting

SEED = 11
AXES = ("latency_ms", "size_mib")


def planned(**options):
    return plan(Recipe.build(None, {"profile": "rpi4"} | options))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two hundred images of 48×32 in colour."""
    path = tmp_path_factory.mktemp("images") / "noise.npz"
    generator = np.random.default_rng(SEED)
    x = generator.integers(0, 255, (200, 48, 32, 3), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(200) % 4)
    return str(path)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "opinions.csv"
    return str(opinions.write_csv(path, opinions.sentences(240)))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "noise.npz"
    generator = np.random.default_rng(SEED)
    x = generator.integers(-9000, 9000, (60, 16_000)).astype(np.int16)
    np.savez(path, x=x, y=np.arange(60) % 3)
    return str(path)


@pytest.fixture(scope="module")
def readings(tmp_path_factory):
    path = tmp_path_factory.mktemp("readings") / "swings.npz"
    x = np.random.default_rng(SEED).normal(size=(60, 3, 128)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(60) % 3)
    return str(path)


# Families


def test_without_a_wish_every_family_that_suits_is_searched(images, texts, sounds, readings):
    assert planned(data=images).families == ("convnet", "vit")
    assert planned(data=sounds).families == ("convnet", "vit")
    assert planned(data=readings).families == ("convnet",)
    assert planned(data=texts).families == ("transformer", "static")


@pytest.mark.parametrize("family", ["convnet", "vit"])
def test_a_family_that_was_asked_for_is_the_only_one(family, images):
    found = planned(data=images, student=family)
    assert {c.family for c in found.fitting} == {family}


def test_the_defaults_of_the_tasks_stay_first(texts):
    assert planned().fitting[0].family == "convnet"
    assert planned(data=texts, latency_ms=100).fitting[0].family == "transformer"


def test_a_method_that_compares_layers_keeps_to_one_family(texts):
    for method in ("attention", "relation", "hint-then-soft", "assistant"):
        assert planned(data=texts, distill=method).families == ("transformer",)
    own = (Stage(name="hints", features={"hint": 1.0}), Stage(name="soft"))
    recipe = Recipe(profile="rpi4", data=texts, stages=own)
    assert [f.name for f in Setting.of(recipe).families] == ["transformer"]
    assert planned(data=texts, distill="finetune").families == ("transformer", "static")


def test_a_family_that_takes_no_texts_so_long_is_left_out_and_refused_by_name(texts):
    assert planned(data=texts, max_length=256).families == ("static",)
    with pytest.raises(SettingsError, match="'transformer' takes at most 128 tokens"):
        planned(data=texts, max_length=256, student="transformer")


def test_fields_of_a_spec_leave_the_families_that_have_them(texts):
    found = planned(data=texts, spec={"layers": 2}, latency_ms=100)
    assert found.families == ("transformer",)
    assert {c.spec.layers for c in found.fitting} == {2}
    with pytest.raises(SettingsError, match="'transformer' or 'static' has no spec for texts"):
        planned(data=texts, spec={"layers": 77})


# The front


def beats(one, other):
    better = [one.costs[name] <= other.costs[name] for name in AXES]
    strictly = any(one.costs[name] < other.costs[name] for name in AXES)
    return (
        all(better)
        and one.expected >= other.expected
        and (strictly or one.expected > other.expected)
    )


@pytest.mark.parametrize("options", [{}, {"size_mib": 0.03}, {"student": "vit"}], ids=str)
def test_nothing_that_fits_beats_a_point_of_the_front_and_every_other_is_beaten(options):
    found = planned(**options)
    places = {id(c) for c in found.front}
    for candidate in found.fitting:
        beaten = any(beats(other, candidate) for other in found.fitting)
        twin = any(
            other.expected == candidate.expected and other.costs == candidate.costs
            for other in found.front
        )
        assert beaten != (id(candidate) in places) or (twin and not beaten)


def test_a_front_has_at_least_five_points_where_the_space_has_them(images, texts, sounds):
    for options in ({}, {"data": images}, {"data": texts}, {"data": sounds}):
        assert len(planned(**options).front) >= 5


def test_the_front_in_json_has_expectation_and_slack_and_the_table_says_what_binds():
    done = CliRunner().invoke(cli, ["fit", "--profile", "rpi4", "--plan", "--json"])
    assert done.exit_code == 0
    made = json.loads(done.stdout)
    assert made["binding"] == "size_mib"
    assert len(made["candidates"]) > len(made["front"]) >= 5
    expected = [row["expected"] for row in made["front"]]
    assert expected == sorted(expected, reverse=True)
    for row in made["front"]:
        assert row["slack"].keys() == {"latency_ms", "peak_ram_mib", "size_mib"}
        assert all(0 <= share < 1 for share in row["slack"].values())
        size = row["predicted"]["size_mib"]
        assert row["slack"]["size_mib"] == pytest.approx(1 - size / 0.09375)
    assert "binding: size_mib 0.09375 keeps out most candidates" in done.stderr
    assert re.search(r"slack of it: latency_ms \d+%, peak_ram_mib \d+%, size_mib \d+%", done.stderr)
    chosen = [line for line in done.stderr.splitlines() if line.startswith(">")]
    assert len(chosen) == 1
    assert "ConvNetSpec" in chosen[0]


@pytest.mark.parametrize("count", [2, 3, 6, 500])
def test_what_is_tried_has_every_familys_first_and_no_near_twins(count):
    ranked = [c for c in planned().fitting if c.precision == "float32"]
    chosen = spread(ranked, count)
    assert chosen[0] == ranked[0]
    assert {c.family for c in chosen} == {"convnet", "vit"}
    kinds = [(c.family, capacity_class(c.expected)) for c in chosen]
    assert len(set(kinds)) == len(kinds)
    places = [ranked.index(c) for c in chosen]
    assert places == sorted(places)
    for candidate in chosen:  # the best of its class
        kind = candidate.family, capacity_class(candidate.expected)
        alike = [c for c in ranked if (c.family, capacity_class(c.expected)) == kind]
        assert candidate == alike[0]
    assert len(chosen) == min(count, len({(c.family, capacity_class(c.expected)) for c in ranked}))


# A larger budget


@pytest.mark.parametrize("kind", ["digits", "texts"])
@pytest.mark.parametrize("limit", ["latency_ms", "peak_ram_mib", "size_mib"])
def test_a_larger_budget_never_yields_a_worse_plan(kind, limit, texts):
    options = {"data": texts} if kind == "texts" else {"data": "digits"}
    free = {"latency_ms": 1e6, "peak_ram_mib": 1e6, "size_mib": 1e6}
    everything = planned(**options, **free)
    places = {(c.spec, c.precision): i for i, c in enumerate(everything.fitting)}
    generator = random.Random(SEED)
    costs = sorted(c.costs[limit] for c in everything.fitting)
    limits = sorted(generator.choice(costs) * generator.uniform(0.99, 1.3) for _ in range(8))
    plans = [planned(**options, **free | {limit: value}) for value in limits]
    for smaller, larger in itertools.pairwise(plans):
        assert {(c.spec, c.precision) for c in smaller.fitting} <= {
            (c.spec, c.precision) for c in larger.fitting
        }
        if smaller.fitting:
            first = [places[p.fitting[0].spec, p.fitting[0].precision] for p in (smaller, larger)]
            assert first[1] <= first[0]
    assert len(plans[0].fitting) < len(plans[-1].fitting)


# Where nothing fits


def suggested(sentence):
    """The options behind "also fits", each as a recipe has it."""
    said = re.search(r"; also fits: (.+?); the nearest budget", sentence)
    for each in said[1].split(", or ") if said else ():
        name, value = re.fullmatch(r"--([a-z-]+) (\S+)(?: without spec| \(.+\))?", each).groups()
        key = name.replace("-", "_")
        if key == "image_size":
            sides = [int(side) for side in value.split("x")]
            yield key, sides[0] if len(sides) == 1 else tuple(sides)
        elif key in ("window", "max_length"):
            yield key, int(value)
        else:
            yield key, float(value) if key == "window_s" else value


@pytest.mark.parametrize(
    ("kind", "options", "limit", "wanted"),
    [
        ("images", {"student": "vit"}, "latency_ms", ("student", "image_size")),
        ("images", {}, "latency_ms", ("image_size",)),
        ("texts", {"student": "transformer"}, "latency_ms", ("student", "max_length")),
        ("texts", {"precision": "float32"}, "size_mib", ("precision",)),
        ("sounds", {}, "latency_ms", ("window_s",)),
        ("readings", {}, "latency_ms", ("window",)),
    ],
    ids=lambda x: str(x),
)
def test_what_else_would_fit_is_told_and_really_does(kind, options, limit, wanted, request):
    options = {"data": request.getfixturevalue(kind)} | options
    roomy = planned(**options, latency_ms=1e6, peak_ram_mib=1e6, size_mib=1e6)
    least = min(c.costs[limit] for c in roomy.fitting)
    options |= {limit: 0.96 * least}
    found = planned(**options)
    assert not found.fitting
    given = dict(suggested(found.infeasible()))
    assert given.keys() >= set(wanted), found.infeasible()
    for key, value in given.items():
        assert planned(**options | {key: value}).require(), key


def test_nothing_is_suggested_that_does_not_fit(images):
    found = planned(data=images, latency_ms=1e-6)
    assert found.alternatives == ()
    assert "also fits" not in found.infeasible()
    assert "\n" not in found.infeasible()


# Boards, and speed


@pytest.mark.parametrize("name", names())
def test_the_command_ends_in_a_plan_or_an_answer_for_every_board(name):
    done = CliRunner().invoke(cli, ["fit", "--profile", name, "--plan", "--json"])
    if done.exit_code == 0:
        assert json.loads(done.stdout)["front"]
        return
    assert isinstance(done.exception, EdgeDistillError)
    assert done.exception.exit_code in (1, 2)
    assert name in str(done.exception)
    assert "\n" not in str(done.exception)


def test_thousands_of_candidates_are_planned_in_seconds(texts):
    setting = Setting.of(Recipe(profile="rpi4", data=texts))
    start = time.process_time()
    found = plan_of(setting.families, setting.data, setting.profile, setting.budget, PRECISIONS)
    spent = time.process_time() - start
    assert found.size >= 2000  # every vocabulary, however few words the texts have
    assert spent < 8


def test_a_plan_needs_no_optuna():
    code = (
        "import sys\nfrom edgedistill.pipeline import plan\nfrom edgedistill.recipe import Recipe\n"
        "plan(Recipe(profile='rpi4'))\nprint({'optuna', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
