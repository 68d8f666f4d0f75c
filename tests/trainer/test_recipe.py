"""A recipe: options win over its file, the file over the embedded default; mistakes are told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgedistill import budget
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.recipe import (
    TEACHER_TRAINING,
    TRAINING,
    Recipe,
    Stage,
    TeacherTraining,
    Training,
)

LIMITS = ("latency_ms", "peak_ram_mib", "size_mib", "cold_start_ms", "energy_mj", "min_retention")


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "recipe.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refusal(path, **options):
    with pytest.raises(SettingsError) as caught:
        Recipe.build(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_profile_alone_fits_the_digits_of_the_embedded_default():
    recipe = Recipe.build(None, {"profile": "rpi4"})
    assert recipe.data == "digits"
    assert recipe.size_mib is not None
    assert recipe.min_retention is not None
    assert recipe.bundle_name == "digits-rpi4"
    assert recipe.out_folder == Path("build/digits-rpi4")


def test_an_option_wins_over_the_embedded_default():
    assert Recipe.build(None, {"profile": "rpi4", "size_mib": 2.5}).size_mib == 2.5


def test_an_option_wins_over_the_file_and_the_file_over_the_embedded_default(write):
    file = write('profile = "rpi5"\nsize_mib = 1.5\nseed = 3\n')
    recipe = Recipe.build(file, {"seed": 7})
    assert (recipe.profile, recipe.size_mib, recipe.seed) == ("rpi5", 1.5, 7)
    assert recipe.min_retention is None  # the embedded default is another recipe


def test_an_option_that_is_not_given_leaves_the_file_alone(write):
    file = write('profile = "rpi5"\nsize_mib = 1.5\n')
    assert Recipe.build(file, {"size_mib": None, "profile": None}).size_mib == 1.5


def test_other_data_do_not_take_the_limits_of_the_digits():
    recipe = Recipe.build(None, {"profile": "rpi4", "data": "cats.npz"})
    assert all(getattr(recipe, name) is None for name in LIMITS)
    assert recipe.bundle_name == "cats-rpi4"


def test_no_profile_is_a_sentence_that_says_how_to_name_one(write):
    for path in (None, write("seed = 1")):
        sentence = refusal(path)
        assert sentence.startswith("no device profile given; name one with --profile")


def test_every_option_can_stand_in_the_file_under_the_same_name(write):
    recipe = Recipe.build(
        None,
        {
            "profile": "rpi4",
            "data": "cats.npz",
            "name": "cats",
            "version": 3,
            "precision": "int8",
            "latency_ms": 2.5,
            "percentile": 99,
            "peak_ram_mib": 100,
            "size_mib": 0.5,
            "cold_start_ms": 900,
            "energy_mj": 40,
            "min_retention": 0.9,
            "seed": 5,
            "device": "cpu",
            "out": "somewhere",
        },
    )
    lines = [
        f"{key} = {value!r}" if isinstance(value, str) else f"{key} = {value}"
        for key, value in msgspec.to_builtins(recipe).items()
        if value is not None and not isinstance(value, dict | tuple | bool)
    ]
    assert Recipe.load(write("\n".join(lines))) == recipe


def test_a_misspelt_key_is_told_with_the_nearest_one(write):
    file = write('profile = "rpi4"\n[training]\nlearning_rat = 0.1\n')
    assert refusal(file) == (
        f"{file}: unknown key 'training.learning_rat'; did you mean 'training.learning_rate'?"
    )
    assert refusal(write("latncy_ms = 3"), profile="rpi4").endswith("did you mean 'latency_ms'?")


def test_a_misspelt_option_is_told_with_the_nearest_one():
    assert "did you mean 'latency_ms'?" in refusal(None, profile="rpi4", latncy_ms=3)


def test_a_wrong_type_names_the_file_and_the_key(write):
    file = write('profile = "rpi4"\nlatency_ms = "fast"\n')
    assert refusal(file) == f"{file}: latency_ms is 'fast'; expected float | null, got str"
    file = write('profile = "rpi4"\n[training]\nepochs = 1.5\n')
    assert refusal(file) == f"{file}: training.epochs is 1.5; expected int | null, got float"


def test_a_wrong_option_is_not_blamed_on_the_file(write):
    sentence = refusal(write('profile = "rpi4"'), precision="int2")
    known = "auto, float16, float32, int4, int8"
    assert sentence == f"options: precision is 'int2'; expected one of: {known}"


@pytest.mark.parametrize("percentile", [50, 95, 99])
def test_a_percentile_that_bench_can_decide_is_taken(percentile):
    assert (
        Recipe.build(None, {"profile": "rpi4", "percentile": percentile}).percentile == percentile
    )


@pytest.mark.parametrize("percentile", [0, 90, 99.9, 100, "95"])
def test_any_other_percentile_is_refused(percentile):
    sentence = refusal(None, profile="rpi4", percentile=percentile)
    assert sentence.startswith(f"options: percentile is {percentile!r}; expected")


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit, value):
    assert refusal(None, profile="rpi4", **{limit: value}).startswith(f"options: {limit} is ")


@pytest.mark.parametrize(
    "table",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"views": 2},
        {"views": []},
        {"views": [0]},
        {"gate": []},
        {"gate": [1]},
        {"trial_epochs": 0},
        {"patience": 0},
        {"temperature": 0.0},
        {"alpha": []},
        {"alpha": [1.5]},
        {"alpha": 0.5},
    ],
    ids=str,
)
def test_training_that_cannot_work_is_refused(table):
    assert refusal(None, profile="rpi4", training=table).startswith("options: training.")


def test_a_version_that_no_manifest_can_hold_is_refused():
    assert Recipe.build(None, {"profile": "rpi4", "version": 2**53}).version == 2**53
    assert refusal(None, profile="rpi4", version=2**53 + 1).startswith("options: version is ")


def test_a_recipe_is_built_again_from_its_own_fields():
    recipe = Recipe.build(None, {"profile": "rpi4", "training": {"alpha": [0.5]}})
    fields = {name: getattr(recipe, name) for name in recipe.__struct_fields__}
    assert Recipe.build(None, fields) == recipe


# What is left out comes from the family, or from the kind of teacher


@pytest.mark.parametrize("family", TRAINING)
def test_training_that_is_left_out_is_the_familys(family):
    task = "image-classification" if family == "convnet" else "text-classification"
    assert Recipe(profile="rpi4").training_of(family, task) == TRAINING[family]
    recipe = Recipe.build(None, {"profile": "rpi4", "training": {"epochs": 3, "gate": [False]}})
    made = recipe.training_of(family, task)
    assert (made.epochs, made.gate) == (3, (False,))
    assert made == msgspec.structs.replace(TRAINING[family], epochs=3, gate=(False,))


def test_a_family_of_ones_own_trains_as_the_tasks_first():
    recipe = Recipe(profile="rpi4")
    assert recipe.training_of("mine", "image-classification") == TRAINING["convnet"]
    assert recipe.training_of("mine", "text-classification") == TRAINING["static"]


@pytest.mark.parametrize("kind", TEACHER_TRAINING)
def test_a_teachers_training_that_is_left_out_is_that_of_its_kind(kind):
    assert Recipe(profile="rpi4").teacher_training_of(kind) == TEACHER_TRAINING[kind]
    recipe = Recipe.build(None, {"profile": "rpi4", "teacher_training": {"layers": 0}})
    assert recipe.teacher_training_of(kind) == msgspec.structs.replace(
        TEACHER_TRAINING[kind], layers=0
    )


def test_every_key_of_training_can_be_given(write):
    """The keys that may be left out are those of the whole settings, and take the same values."""
    recipe = Recipe.build(
        None,
        {
            "profile": "rpi4",
            "training": msgspec.to_builtins(TRAINING["static"]),
            "teacher_training": msgspec.to_builtins(TeacherTraining(layers=1)),
        },
    )
    assert recipe.training_of("convnet", "image-classification") == TRAINING["static"]
    assert recipe.teacher_training_of("encoder") == TeacherTraining(layers=1)
    for given, whole in (("training", Training), ("teacher_training", TeacherTraining)):
        fields = getattr(recipe, given).__struct_fields__
        assert fields == whole.__struct_fields__


# Methods


def test_stages_are_tables_of_the_recipe(write):
    file = write(
        """
        profile = "rpi4"
        [spec]
        layers = 2
        [[stages]]
        name = "layers"
        features = {hint = 1.0, attention = 0.5}
        layers = {"layers.0" = "bert.encoder.layer.2"}
        epochs = 3
        [[stages]]
        name = "answers"
        soft = "decoupled"
        alpha = [0.0, 0.9]
        learning_rate = 1e-4
        """
    )
    recipe = Recipe.load(file)
    assert recipe.stages == (
        Stage(
            name="layers",
            features={"hint": 1.0, "attention": 0.5},
            layers={"layers.0": "bert.encoder.layer.2"},
            epochs=3,
        ),
        Stage(name="answers", soft="decoupled", alpha=(0.0, 0.9), learning_rate=1e-4),
    )
    assert recipe.spec == {"layers": 2}


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"name": "One"}, "stages[0].name is 'One'; expected str matching regex"),
        ({"name": "x" * 33}, "stages[0].name is "),
        ({"name": "x", "features": {"hint": 0}}, "stages[0].features[...]: expected float > 0"),
        ({"name": "x", "alpha": [2]}, "stages[0].alpha[0] is 2; expected float <= 1.0"),
        ({"name": "x", "epochs": 0}, "stages[0].epochs is 0; expected int >= 1"),
        ({"name": "x", "soff": "y"}, "unknown key 'stages[0].soff'; did you mean"),
        ({}, "key 'stages[0].name' is missing"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_work_is_refused(stage, sentence):
    assert refusal(None, profile="rpi4", stages=[stage]).startswith(f"options: {sentence}")


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_control_needs_enough_seeds_for_an_interval(seeds):
    assert refusal(None, profile="rpi4", control=seeds) == (
        "options: control needs at least 3 seeds for an interval; 0 leaves it out"
    )


def test_a_profile_and_data_given_by_path_are_named_by_their_files():
    recipe = Recipe(profile="boards/my-board.toml", data="pictures/cats.npz")
    assert recipe.bundle_name == "cats-my-board"
    assert Recipe(profile="rpi4", name="other").bundle_name == "other"
    assert Recipe(profile="rpi4", out="here").out_folder == Path("here")


def test_the_recipes_limits_win_over_the_profiles_and_the_rest_have_defaults():
    profile = DeviceProfile.load("rpi4")
    combined = budget.combine(Recipe(profile="rpi4", latency_ms=1.5, percentile=99), profile)
    assert (combined.latency_ms, combined.percentile) == (1.5, 99)
    assert combined.peak_ram_mib == profile.budget.peak_ram_mib
    assert combined.size_mib == profile.budget.size_mib
    assert combined.min_retention == budget.DEFAULT_RETENTION
    plain = budget.combine(Recipe(profile="rpi4"), profile)
    assert (plain.latency_ms, plain.percentile) == (profile.budget.latency_ms, 95)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 1}, "trials needs at least 2 candidates to compare"),
        ({"storage": "sqlite:///trials.db"}, "storage is where trials are shared; give trials too"),
        ({"trials": -1}, "trials"),
    ],
)
def test_trials_that_make_no_sense_are_refused(options, words):
    assert words in refusal(None, profile="rpi4", **options)
