"""The named ways to distil, each a list of stages; a recipe's [[stages]] spell out others.

soft            soft targets and labels (Hinton et al. 2015)
hint-then-soft  intermediate features first, through regressors (Romero et al. 2015)
attention       embeddings, hidden states and attention first (TinyBERT, Jiao et al. 2020);
                attention maps for convolutional networks (Zagoruyko & Komodakis 2017)
relation        relations of the last layer first (MiniLMv2, Wang et al. 2021)
assistant       a network of middle size learns from the teacher, and the student from it
                (Mirzadeh et al. 2020)
finetune        soft targets alone, unlabelled data too; then the labels alone

Another package offers a method as an entry point of the group `edgedistill.methods`: a function
like those of `METHODS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from edgedistill.cost.kernels import total_parameters
from edgedistill.errors import SettingsError
from edgedistill.plugins import offered
from edgedistill.recipe import Recipe, Stage, Training
from edgedistill.students import Family

ENTRY_POINTS = "edgedistill.methods"
SOFT = Stage(name="soft")
FEATURE_SHARE = 1 / 3
"""Epochs of a stage on features, as a share of the student's."""


def _soft(training: Training, task: str) -> tuple[Stage, ...]:
    return (SOFT,)


def _features(name: str, training: Training, features: dict[str, float]) -> tuple[Stage, ...]:
    epochs = max(1, round(training.epochs * FEATURE_SHARE))
    return Stage(name=name, features=features, epochs=epochs), SOFT


def _hint(training: Training, task: str) -> tuple[Stage, ...]:
    return _features("hints", training, {"hint": 1.0})


def _attention(training: Training, task: str) -> tuple[Stage, ...]:
    if task != "text-classification":
        return _features("attention", training, {"attention": 1.0})
    return _features("layers", training, {"embeddings": 1.0, "hint": 1.0, "attention": 1.0})


def _relation(training: Training, task: str) -> tuple[Stage, ...]:
    return _features("relations", training, {"relation": 1.0})


def _finetune(training: Training, task: str) -> tuple[Stage, ...]:
    labels = Stage(
        name="labels",
        alpha=(0.0,),
        epochs=max(1, round(training.epochs / 3)),
        learning_rate=training.learning_rate / 5,
    )
    return Stage(name="teacher", alpha=(1.0,)), labels


METHODS: dict[str, Callable[[Training, str], tuple[Stage, ...]]] = {
    "soft": _soft,
    "hint-then-soft": _hint,
    "attention": _attention,
    "relation": _relation,
    "assistant": _soft,
    "finetune": _finetune,
}


def stages(recipe: Recipe, training: Training, task: str) -> tuple[Stage, ...]:
    """The stages of a recipe.  Raises SettingsError for a method that is not known."""
    method = METHODS.get(recipe.distill) or offered(
        ENTRY_POINTS, "distillation method", recipe.distill, METHODS
    )
    made = recipe.stages or tuple(method(training, task))
    names = [stage.name for stage in made]
    if len(set(names)) < len(names):
        raise SettingsError("two stages have the same name; give each its own")
    if made[-1].features and made[-1].alpha is None:
        raise SettingsError(
            f"the last stage, {made[-1].name!r}, has no loss on the answers; give it alpha, "
            "or add a stage after it"
        )
    return made


def assistant_spec(
    family: Family,
    spec: Any,
    sizes: tuple[tuple[int, ...], int],
    teacher_parameters: int,
    wanted: dict[str, Any],
) -> Any:
    """The family's spec whose number of parameters is nearest to the geometric mean of student and
    teacher, larger than the student's, over the same vocabulary.

    sizes: input shape and classes.  wanted: fields it must have.  Raises SettingsError.
    """
    shape, classes = sizes

    def parameters(each: Any) -> int:
        return total_parameters(family.kernels(each, shape, classes, "float32"))

    own = parameters(spec)
    vocabulary = getattr(spec, "vocabulary", None)
    larger = [
        (count, repr(each), each)
        for each in family.specs(shape)
        if getattr(each, "vocabulary", None) == vocabulary
        and all(getattr(each, name, None) == value for name, value in wanted.items())
        and (count := parameters(each)) > own
    ]
    if not larger:
        fields = f" with {wanted}" if wanted else ""
        raise SettingsError(
            f"the family {family.name!r} has no spec{fields} larger than the student for an "
            "assistant; use --distill soft, or a smaller budget"
        )
    middle = math.sqrt(own * max(teacher_parameters, own))
    return min(larger, key=lambda x: (abs(math.log(x[0] / middle)), x[1]))[2]
