"""The named ways to distil: their stages, and the assistant's size."""

from __future__ import annotations

import pytest

from edgedistill.cost.kernels import total_parameters
from edgedistill.distill import methods
from edgedistill.errors import SettingsError
from edgedistill.recipe import Recipe, Stage, Training
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.students.transformer import Transformer, TransformerSpec

TRAINING = Training(epochs=30, learning_rate=0.01)
TASKS = ("image-classification", "text-classification")


def stages(method, task=TASKS[0], training=TRAINING, **options):
    return methods.stages(Recipe(profile="rpi4", distill=method, **options), training, task)


@pytest.mark.parametrize("method", methods.METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_every_method_ends_in_a_loss_on_the_answers(method, task):
    made = stages(method, task)
    assert not made[-1].features
    assert all(stage.epochs is None or stage.epochs >= 1 for stage in made)
    assert len({stage.name for stage in made}) == len(made)


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("method", methods.METHODS)
def test_no_training_is_too_short_for_a_stage(method, epochs):
    for stage in stages(method, training=Training(epochs=epochs)):
        assert stage.epochs is None or 1 <= stage.epochs <= epochs


def test_soft_and_assistant_are_one_stage_with_the_trainings_alpha():
    for method in ("soft", "assistant"):
        assert stages(method) == (Stage(name="soft"),)


@pytest.mark.parametrize(
    ("method", "task", "features"),
    [
        ("hint-then-soft", TASKS[0], {"hint": 1.0}),
        ("hint-then-soft", TASKS[1], {"hint": 1.0}),
        ("attention", TASKS[0], {"attention": 1.0}),
        ("attention", TASKS[1], {"embeddings": 1.0, "hint": 1.0, "attention": 1.0}),
        ("relation", TASKS[1], {"relation": 1.0}),
    ],
)
def test_methods_on_features_spend_a_third_of_the_epochs_before_the_soft_stage(
    method, task, features
):
    first, last = stages(method, task)
    assert first.features == features
    assert (first.alpha, first.epochs) == (None, 10)
    assert last == Stage(name="soft")


def test_finetune_is_the_teacher_alone_and_then_the_labels_alone_more_slowly():
    first, last = stages("finetune")
    assert (first.alpha, first.epochs, first.learning_rate) == ((1.0,), None, None)
    assert (last.alpha, last.epochs, last.learning_rate) == ((0.0,), 10, 0.002)


def test_stages_of_the_recipe_take_the_methods_place():
    own = (Stage(name="one", features={"hint": 1.0}), Stage(name="two"))
    assert stages("relation", stages=own) == own


def test_a_method_that_is_not_known_is_told_with_the_nearest():
    with pytest.raises(SettingsError) as caught:
        stages("hint-than-soft")
    assert "no distillation method named 'hint-than-soft'; did you mean 'hint-then-soft'?" in str(
        caught.value
    )


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(SettingsError, match="two stages have the same name; give each its own"):
        stages("soft", stages=(Stage(name="one"), Stage(name="one")))


def test_a_last_stage_that_never_sees_an_answer_is_refused():
    features = Stage(name="layers", features={"hint": 1.0})
    with pytest.raises(SettingsError) as caught:
        stages("soft", stages=(features,))
    assert str(caught.value) == (
        "the last stage, 'layers', has no loss on the answers; give it alpha, "
        "or add a stage after it"
    )
    both = Stage(name="layers", features={"hint": 1.0}, alpha=(0.5,))
    assert stages("soft", stages=(both,)) == (both,)


# Assistants

SHAPE = (1, 8, 8)
SMALL = ConvNetSpec("separable", 4, 1.0, 2, 1, 3)


def parameters(family, spec, shape):
    return total_parameters(family.kernels(spec, shape, 10, "float32"))


@pytest.mark.parametrize("teacher", [10_000, 1_000_000])
def test_an_assistant_is_nearest_to_the_geometric_mean_of_both(teacher):
    family = ConvNet()
    made = methods.assistant_spec(family, SMALL, (SHAPE, 10), teacher, {})
    own = parameters(family, SMALL, SHAPE)
    middle = (own * teacher) ** 0.5
    ratio = max(size := parameters(family, made, SHAPE), middle) / min(size, middle)
    assert size > own
    for spec in family.specs(SHAPE):
        other = parameters(family, spec, SHAPE)
        assert other <= own or ratio <= max(other, middle) / min(other, middle) + 1e-12


def test_an_assistant_is_larger_than_the_student_even_if_the_teacher_is_not():
    family = ConvNet()
    made = methods.assistant_spec(family, SMALL, (SHAPE, 10), 10, {})
    assert parameters(family, made, SHAPE) > parameters(family, SMALL, SHAPE)


def test_an_assistant_has_the_students_vocabulary_and_the_fields_asked_for():
    small = TransformerSpec(2000, 32, 1, 64, 2, 128)
    made = methods.assistant_spec(Transformer(), small, ((16,), 3), 20_000_000, {"layers": 3})
    assert (made.vocabulary, made.layers) == (2000, 3)


def test_where_nothing_is_larger_there_is_no_assistant():
    with pytest.raises(SettingsError) as caught:
        methods.assistant_spec(ConvNet(), SMALL, (SHAPE, 10), 10_000, {"width": 5})
    assert str(caught.value) == (
        "the family 'convnet' has no spec with {'width': 5} larger than the student for an "
        "assistant; use --distill soft, or a smaller budget"
    )


@pytest.mark.parametrize("task", ["image", "audio", "sensor"])
def test_attention_compares_maps_alone_where_there_are_no_tokens(task):
    recipe = Recipe(profile="rpi4", distill="attention")
    first, _ = methods.stages(recipe, recipe.training_of("convnet", f"{task}-classification"),
                              f"{task}-classification")  # fmt: skip
    assert first.features == {"attention": 1.0}
