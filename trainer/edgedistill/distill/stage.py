"""One stage of one student: what is chosen for it, its loss, and the training itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill import losses
from edgedistill.cache import digest
from edgedistill.distill import outputs
from edgedistill.distill.features import (
    Recorder,
    WithFeatures,
    difference,
    layout,
    own_path,
    pairs,
    paths,
)
from edgedistill.distill.loop import Loss, Rows, Schedule, Score
from edgedistill.distill.records import Choice, Prepared, Teacher, Trial
from edgedistill.distill.weights import load_weights, plain, weights_of
from edgedistill.errors import SettingsError
from edgedistill.recipe import Stage
from edgedistill.samples import Index, Samples

if TYPE_CHECKING:
    from edgedistill.distill.trainer import Trainer


class StageRun:
    """One stage of one student: what can be chosen, and the training itself."""

    def __init__(
        self,
        trainer: Trainer,
        stage: Stage,
        start: nn.Module,
        key: str,
        teacher: Teacher,
        prepared: Prepared,
        seed: int,
    ) -> None:
        self.trainer, self.stage, self.start, self.teacher = trainer, stage, start, teacher
        self.prepared, self.seed = prepared, seed
        self.plan = trainer.training
        self.epochs = stage.epochs or self.plan.epochs
        self.learning_rate = stage.learning_rate or self.plan.learning_rate
        self.has_logits = stage.alpha is not None or not stage.features
        self._key = digest(
            key, plain(stage), self.plan.batch_size, self.plan.weight_decay,
            self.plan.temperature, self.plan.patience, self.learning_rate, trainer.own_code(stage),
        )  # fmt: skip

    def choose(self, trials: list[Trial]) -> Choice:
        """The best alpha, then gate, then number of views, by short trials; they are appended."""
        if not self.has_logits:
            return Choice(0.0, False, min(self.plan.views))
        alphas = self.plan.alpha if self.stage.alpha is None else self.stage.alpha
        views = sorted(set(self.plan.views), reverse=True)
        best = Choice(alphas[0], self.plan.gate[0], views[0])
        scores: dict[Choice, Score] = {}

        def try_(choice: Choice) -> None:
            nonlocal best
            if choice not in scores:
                scores[choice] = score = self._trial(choice)
                trials.append(
                    Trial(
                        self.stage.name, choice.alpha, choice.gate, choice.views, score.metric,
                        -score.minus_cross_entropy,
                    )
                )  # fmt: skip
            if scores[choice] > scores.get(best, Score(-math.inf, -math.inf)):
                best = choice

        def compare(options: list[Choice]) -> None:
            for choice in options if len(options) > 1 else ():
                try_(choice)

        compare([replace(best, alpha=alpha) for alpha in alphas])
        if best.alpha:
            compare([replace(best, gate=gate) for gate in self.plan.gate])
        compare([replace(best, views=count) for count in views])
        return best

    def _trial(self, choice: Choice) -> Score:
        module, _ = self.train(choice, min(self.plan.trial_epochs, self.epochs))
        return self.trainer.score(module, self.prepared.validation)

    def train(self, choice: Choice, epochs: int) -> tuple[nn.Module, str]:
        """The student after this stage, and the key of that."""
        trainer, stage = self.trainer, self.stage
        says = bool(choice.alpha or stage.features)
        key = digest(
            self._key, choice.alpha, choice.gate, choice.views, epochs,
            self.teacher.digest if says else "",
        )  # fmt: skip
        module = copy.deepcopy(self.start)

        def make() -> bytes:
            module.requires_grad_(True)
            stride, labelled = trainer.count, len(trainer.data.train)
            samples = self.prepared.training
            network, loss = module, self._logits_loss(choice)
            if stage.features:
                network, loss = self._with_features(module, samples, choice)
            trainer.run_loop(
                network,
                loss,
                Rows(samples, stride, stride if says else labelled, choice.views),
                Schedule(
                    epochs,
                    self.plan.batch_size,
                    self.learning_rate,
                    self.plan.weight_decay,
                    self.plan.patience,
                ),
                stage.name,
                self.seed,
                key,
                trainer.work,
                (lambda _: trainer.score(module, self.prepared.validation))
                if self.has_logits
                else None,
            )
            if isinstance(network, WithFeatures):
                network.recorder.detach()
            return weights_of(module)

        load_weights(module, trainer.get(trainer.work, "student.safetensors", key, make))
        return module.eval(), key

    def _logits_loss(self, choice: Choice) -> Loss:
        trainer, samples = self.trainer, self.prepared.training
        compare = self._compare(choice)

        def loss(network: nn.Module, rows: Index) -> Tensor:
            return compare(network(*trainer.batch(samples, rows)), rows)

        return loss

    def _compare(self, choice: Choice) -> Callable[[Tensor, Index], Tensor]:
        """(logits, rows) -> α · soft + (1 − α) · hard."""
        trainer, plan = self.trainer, self.plan
        answers = torch.from_numpy(np.array(self.teacher.logits))  # a copy: files are read-only
        answers = answers.flatten(0, 1).to(trainer.device)
        soft = trainer.soft_loss(self.stage)

        def compare(logits: Tensor, rows: Index) -> Tensor:
            at = torch.from_numpy(rows).to(trainer.device)
            return losses.distillation(
                logits,
                answers[at],
                trainer.labels[at % trainer.count],
                choice.alpha,
                plan.temperature,
                trainer.weights,
                soft,
                choice.gate,
            )

        return compare

    def _with_features(
        self, module: nn.Module, samples: Samples, choice: Choice
    ) -> tuple[nn.Module, Loss]:
        """The student with its regressors, and the loss of the stage's features."""
        trainer, stage, teacher = self.trainer, self.stage, self.teacher
        ids = self.prepared.preprocessing.token_ids
        is_text = samples.lengths is not None
        if is_text and ids is None and not teacher.shares_tokens:
            raise SettingsError(
                f"stage {stage.name!r} compares tokens, and {teacher.name} has no fast tokenizer "
                "to share with the student; use --distill soft"
            )
        longest = 0 if samples.lengths is None else int(samples.lengths.max())
        limit = getattr(teacher.encoder, "max_length", longest)
        if longest > limit:
            raise SettingsError(
                f"stage {stage.name!r} compares tokens: texts have up to {longest}, and "
                f"{teacher.name} takes {limit}; give max_length = {limit}, or use --distill soft"
            )
        adapt = outputs.translated(None if teacher.shares_tokens else ids)
        teacher.network.cpu()
        inputs = samples.batch(np.arange(2))
        shown = trainer.shown_to(teacher, self.prepared)
        made = pairs(
            stage.features,
            layout(module, inputs),
            layout(teacher.network, adapt(shown.batch(np.arange(2)))),
            {mine: own_path(teacher.network, theirs) for mine, theirs in stage.layers.items()},
            {n: f for n in stage.features if (f := trainer.feature_loss(n))},
        )
        source = outputs.FeatureSource(
            teacher.network,
            tuple(dict.fromkeys(pair.teacher for pair in made)),
            _first(shown, trainer.count * choice.views),
            adapt,
            trainer.device,
        )
        self._cache(source)
        torch.manual_seed(self.seed)
        network = WithFeatures(
            module, made, _probe(module, inputs, paths(made, "student")), source.of(np.arange(2))
        )
        own = {n: f for n in stage.features if (f := trainer.feature_loss(n))}
        compare = self._compare(choice) if self.has_logits else None

        def loss(wrapped: nn.Module, rows: Index) -> Tensor:
            batch = trainer.batch(samples, rows)
            mask = batch[1] if is_text else None
            logits, features = wrapped(*batch)
            total = compare(logits, rows) if compare else 0 * logits.sum()
            theirs = source.of(rows)
            for pair, mine in zip(made, features, strict=True):
                value = difference(pair, mine, theirs[pair.teacher.key], mask, own)
                total = total + pair.weight * value
            return total

        return network, loss

    def _cache(self, source: outputs.FeatureSource) -> None:
        trainer, mib = self.trainer, source.size / 2**20
        limit = trainer.recipe.cache_mib
        if mib > limit:
            trainer.progress.note(
                f"features of the teacher would take {mib:,.0f} MiB, over cache_mib {limit:,}: "
                "the teacher runs in every step"
            )
            return
        key = digest(
            "features", trainer.machine, self.teacher.digest, self.prepared.digest,
            [feature.key for feature in source.features], source.size,
        )  # fmt: skip
        path = trainer.shared.path("features.f16", key)
        state = "from the cache" if path.exists() else "computed and cached"
        trainer.progress.note(f"features of the teacher, {mib:,.1f} MiB, {state}")
        if trainer.processes.main:
            source.store(path, lambda done: trainer.progress.advance(done, 1))
        trainer.processes.wait()
        source.read_from(path)


def _first(samples: Samples, count: int) -> Samples:
    """The first rows of samples."""
    return samples if count == len(samples) else samples.first(count)


def _probe(network: nn.Module, inputs: tuple[Tensor, ...], wanted: set[str]) -> dict[str, Tensor]:
    recorder = Recorder(network, wanted)
    try:
        with torch.no_grad():
            network.eval()(*inputs)
    finally:
        recorder.detach()
    return recorder.outputs
