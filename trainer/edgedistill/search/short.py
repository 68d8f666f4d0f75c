"""A trainer for less than its recipe's epochs, with nothing to choose: what a trial runs on."""

from __future__ import annotations

import copy
import math

import msgspec

from edgedistill.distill.records import Choice
from edgedistill.distill.trainer import Trainer


def shortened(trainer: Trainer, share: float) -> Trainer:
    """The same trainer, which gives every stage this share of its epochs, and at least one."""

    def fewer(epochs: int) -> int:
        return max(1, math.ceil(share * epochs))

    made = copy.copy(trainer)
    made.training = msgspec.structs.replace(trainer.training, epochs=fewer(trainer.training.epochs))
    made.stages = tuple(
        stage
        if stage.epochs is None
        else msgspec.structs.replace(stage, epochs=fewer(stage.epochs))
        for stage in trainer.stages
    )
    return made


def middle(trainer: Trainer) -> dict[str, Choice]:
    """For each stage the middle one of the weights that are offered, no gate, and every view.

    What a recipe lets the validation split choose is chosen for the winner alone.
    """
    training = trainer.training
    made = {}
    for stage in trainer.stages:
        alphas = sorted(training.alpha if stage.alpha is None else stage.alpha)
        made[stage.name] = Choice(alphas[len(alphas) // 2], training.gate[0], max(training.views))
    return made
