"""Teachers and students of one recipe: what they learn from, in which stages, and what was chosen.

Every finished stage is a file, found again by a digest of all that went into it (docs/decisions/
0007-stages-are-files.md); the loop itself is in `loop.py`.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import msgspec
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill import __version__, losses, methods, outputs, teachers
from edgedistill.cache import Cache, digest
from edgedistill.data import Dataset
from edgedistill.errors import SettingsError, TeacherError
from edgedistill.features import (
    FEATURES,
    FeatureLoss,
    Recorder,
    WithFeatures,
    difference,
    layout,
    own_path,
    pairs,
    paths,
)
from edgedistill.loop import Loop, Loss, Rows, Schedule, Score
from edgedistill.plugins import offered
from edgedistill.processes import Processes
from edgedistill.progress import Progress
from edgedistill.recipe import Recipe, Stage
from edgedistill.samples import Index, Samples
from edgedistill.students import Family, Source
from edgedistill.students import vocabulary as vocabularies
from edgedistill.students.static import VOCABULARIES
from edgedistill.tasks import ImageClassification, Preprocessing
from edgedistill_runtime.tokenize import TextEncoder

AUTO_VOCABULARY = 8000
MEASURED_BATCHES = 16
"""Batches of training data on which a student measures what matters in its teacher."""
SOFT = {
    "soft_targets": losses.soft_targets,
    "decoupled": losses.decoupled,
    "correlation": losses.correlation,
}
"""Losses that alpha can weigh."""


@dataclass(frozen=True)
class Teacher:
    """A trained teacher, or an assistant in its place, and its answers to every training view."""

    name: str
    network: nn.Module
    """Its own inputs -> logits in the order of the data's labels."""
    digest: str
    logits: NDArray[np.float32]
    """(views, samples, classes)"""
    parameters: int
    encoder: Any = None
    """Texts -> its own tokens; None for images."""
    tokenizer: bytes | None = None
    body: nn.Module | None = None
    validation: float = math.nan
    """Metric on the validation split."""
    shares_tokens: bool = False
    """Whether it takes the student's own token ids, as an assistant does."""


@dataclass(frozen=True)
class Choice:
    """What the validation split chooses for a stage."""

    alpha: float
    gate: bool
    views: int


@dataclass(frozen=True)
class Trial:
    """A short run that helped to choose."""

    stage: str
    alpha: float
    gate: bool
    views: int
    metric: float
    """On the validation split."""
    cross_entropy: float


@dataclass(frozen=True)
class Student:
    module: nn.Module
    preprocessing: Preprocessing
    choices: Mapping[str, Choice]
    """By stage."""
    trials: tuple[Trial, ...]
    adopted: str
    """What it took over from the teacher before training."""
    assistant: str = ""

    @property
    def alpha(self) -> float:
        """The largest weight that the teacher has in a stage."""
        return max((choice.alpha for choice in self.choices.values()), default=0.0)


@dataclass(frozen=True)
class _Prepared:
    """The data as the students of one vocabulary see them."""

    preprocessing: Preprocessing
    training: Samples
    """All views of training and unlabelled samples."""
    validation: Samples
    digest: str


class Trainer:
    """Everything that training needs to know about one recipe and its data."""

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        task: Any,
        family: Family,
        work: Cache,
        shared: Cache,
        processes: Processes,
        progress: Progress,
        own_losses: Mapping[str, Callable[..., Tensor]] | None = None,
    ) -> None:
        self.recipe, self.data, self.task, self.family = recipe, data, task, family
        self.work, self.shared = work, shared
        self.processes, self.progress = processes, progress
        self.device = processes.device
        self.training = recipe.training_of(family.name, data.task)
        self.stages = methods.stages(recipe, self.training, data.task)
        self.own_losses = dict(own_losses or {})
        self._check_losses()
        samples = [data.train] if data.unlabelled is None else [data.train, data.unlabelled]
        self.count = sum(map(len, samples))
        self.labels = torch.from_numpy(np.concatenate([s.y for s in samples])).to(self.device)
        self.weights = _class_weights(data) if recipe.class_weights == "balanced" else None
        self.views = task.views(
            np.concatenate([s.x for s in samples]), max(self.training.views), recipe.seed + 2
        )
        self._prepared: dict[int, _Prepared] = {}
        # what else changes the bits: the versions, and how many threads share a sum
        self._machine = digest(
            __version__, torch.__version__, self.device.type, torch.get_num_threads(),
            processes.count, recipe.mixed_precision,
        )  # fmt: skip
        self._key = digest(data.digest, task.metric, recipe.class_weights, self._machine)

    # Teachers

    def teacher(self, source: Any = None) -> Teacher:
        """The recipe's teacher, trained first if it must be; then its answers to the views.

        source: a module in place of the recipe's.  Raises TeacherError.
        """
        if source is None and self.recipe.teacher == "auto":
            network, encoder, tokenizer, kind = self._auto()
            name, body = "trained here", getattr(network, "model", None)
            body = getattr(body, "base_model", None)
            network = self._train_teacher(network, encoder, kind, f"auto {network}")
            weights = _state_digest(network)
        else:
            loaded = self._load(source)
            name, body, encoder = loaded.name, loaded.body, loaded.encoder
            tokenizer, network, weights = loaded.tokenizer_json, loaded.network, loaded.digest
            if encoder is None and self.data.task == "text-classification":
                raise TeacherError(
                    f"{name} has no tokenizer; give its module an attribute `tokenizer`, or put "
                    "tokenizer.json beside its file"
                )
            if not loaded.trained:
                plan = self.recipe.teacher_training_of("encoder")
                asked = self.recipe.teacher_training.layers
                loaded.freeze(min(plan.layers, loaded.layers) if asked is None else asked)
                network = self._train_teacher(network, encoder, "encoder", loaded.digest)
                weights = _state_digest(network)
            else:
                probe = self.samples(self.data.validation.x[:2], encoder)
                found = self.logits(network, probe).shape[1]
                columns = teachers.columns(loaded.labels, self.data.labels, found)
                network = _Reordered(network, columns)
                weights = digest(weights, columns.tolist())
        network.requires_grad_(False)
        validation = self._check_chance(name, network, encoder)
        return Teacher(
            name,
            network,
            weights,
            self._answers(network, encoder, weights),
            sum(p.numel() for p in network.parameters()),
            encoder,
            tokenizer,
            body,
            validation,
        )

    def _load(self, source: Any) -> teachers.LoadedTeacher:
        norm = None
        if isinstance(self.task, ImageClassification):
            norm = (self.task.mean, self.task.std)
        return teachers.load(
            self.recipe.teacher if source is None else source,
            self.data.task,
            len(self.data.labels),
            self.data.labels,
            max_length=self.recipe.max_length,
            trust_remote_code=self.recipe.trust_remote_code,
            image_norm=norm,
        )

    def _auto(self) -> tuple[nn.Module, Any, bytes | None, str]:
        torch.manual_seed(self.recipe.seed)
        classes = len(self.data.labels)
        if self.data.task == "image-classification":
            image = teachers.auto_image_teacher(self.data.input_shape, classes)
            return image, None, None, self.data.task
        texts = list(self.data.train.x)
        used = min(AUTO_VOCABULARY, vocabularies.available(None, texts))
        size = max(used, VOCABULARIES[0])  # no student is made for fewer
        tokenizer = vocabularies.train(texts, size)
        encoder = TextEncoder.build(tokenizer, self.recipe.max_length, self.task.max_characters)
        network = teachers.auto_text_teacher(size, classes, self.recipe.max_length)
        return network, encoder, tokenizer, self.data.task

    def _train_teacher(
        self, network: nn.Module, encoder: Any, kind: str, identity: str
    ) -> nn.Module:
        """Train on the labels what of it is to be trained, or load what was trained before."""
        plan = self.recipe.teacher_training_of(kind)
        key = digest("teacher", self._key, self.recipe.seed, _plain(plan), identity)
        if encoder is not None:
            key = digest(key, self.recipe.max_length)

        def make() -> bytes:
            data = self.data
            views = self.task.views(data.train.x, plan.views, self.recipe.seed + 1)
            samples = self.task.samples(views, encoder)
            validation = self.task.samples([self._validation_view()], encoder)
            self._train(
                network,
                lambda module, rows: self._hard(module(*self._batch(samples, rows)), rows),
                Rows(samples, len(data.train), len(data.train), plan.views),
                Schedule(plan.epochs, plan.batch_size, plan.learning_rate, plan.weight_decay),
                "teacher",
                self.recipe.seed,
                key,
                self.shared,
                (lambda module: self._score(module, validation)) if encoder is not None else None,
            )
            return _weights(network)

        _load_weights(network, self._get(self.shared, "teacher.safetensors", key, make))
        return network.eval()

    def _check_chance(self, name: str, network: nn.Module, encoder: Any) -> float:
        """The teacher's metric on the validation split.  Raises TeacherError if it is at chance."""
        data = self.data.validation
        samples = self.task.samples([self._validation_view()], encoder)
        logits = self.logits(network, samples)
        if logits.shape[1] != len(self.data.labels):
            raise TeacherError(
                f"{name} answers with {logits.shape[1]} classes, the data have "
                f"{len(self.data.labels)}; bring a teacher for these labels"
            )
        found, chance, deviation = _above_chance(logits, data.y)
        if not found > chance + 2 * deviation:
            raise TeacherError(
                f"the teacher {name} is at chance on the validation split (balanced accuracy "
                f"{found:.3f}, chance {chance:.3f}); check its labels' order, its preprocessing "
                "and that it was trained for these classes"
            )
        return float(self.task.score(logits, data.y))

    def _answers(self, network: nn.Module, encoder: Any, weights: str) -> NDArray[np.float32]:
        """The network's answers to each view of training and unlabelled samples.

        Each view is computed once, and memory-mapped from then on.
        """
        parts, made = [], 0
        for place, view in enumerate(self.views):
            samples = self.task.samples([view], encoder)
            key = digest("logits", self._machine, weights, outputs.fingerprint(samples))
            path = self.shared.path("logits.npy", key)
            made += not path.exists()
            tell = partial(self._tell_view, place)
            self._get(
                self.shared,
                "logits.npy",
                key,
                lambda samples=samples, tell=tell: outputs.npy(  # type: ignore[misc]
                    outputs.answers(network, samples, self.device, tell)
                ),
            )
            parts.append(np.load(path, mmap_mode="r", allow_pickle=False))
        size = sum(part.nbytes for part in parts)
        state = "computed and cached" if made else "from the cache"
        self.progress.note(
            f"answers to {len(parts)} view(s) of {self.count:,} samples {state}, "
            f"{size / 2**20:.2f} MiB"
        )
        return cast(NDArray[np.float32], np.stack(parts) if len(parts) > 1 else parts[0][None])

    def _tell_view(self, place: int, done: float) -> None:
        self.progress.advance(place + done, len(self.views))

    # Students

    def preprocessing(self, spec: Any, teacher: Teacher) -> Preprocessing:
        return self._prepare(spec, teacher).preprocessing

    def student(
        self,
        spec: Any,
        teacher: Teacher,
        *,
        seed: int | None = None,
        choices: Mapping[str, Choice] | None = None,
    ) -> Student:
        """Distil `spec`: stage after stage, what is to be chosen by short trials first.

        seed: of everything random but the views; the recipe's if None.
        choices: of an earlier run, so that nothing is tried again.
        """
        seed = self.recipe.seed if seed is None else seed
        assistant = ""
        prepared = self._prepare(spec, teacher)
        module, adopted, key = self._start(spec, teacher, prepared, seed)
        guide = teacher
        if self.recipe.distill == "assistant":
            guide, assistant = self._assistant(spec, teacher)
        made: dict[str, Choice] = {}
        trials: list[Trial] = []
        for stage in self.stages:
            run = _Run(self, stage, module, key, guide, prepared, seed)
            known = choices and run.has_logits  # without a loss on the answers nothing is chosen
            choice = choices[stage.name] if choices and known else run.choose(trials)
            module, key = run.train(choice, run.epochs)
            if run.has_logits:
                made[stage.name] = choice
        return Student(module, prepared.preprocessing, made, tuple(trials), adopted, assistant)

    def control(self, spec: Any, teacher: Teacher, views: int | None, seed: int) -> Student:
        """The same student without its teacher: fresh weights, and the labels alone.

        views: how many it learns from; None tries what the recipe offers.
        """
        prepared = self._prepare(spec, teacher)
        module, _, key = self._start(spec, None, prepared, seed)
        stage = Stage(name="control", alpha=(0.0,))
        run = _Run(self, stage, module, key, teacher, prepared, seed)
        trials: list[Trial] = []
        choice = run.choose(trials) if views is None else Choice(0.0, False, views)
        module, _ = run.train(choice, run.epochs)
        return Student(module, prepared.preprocessing, {stage.name: choice}, tuple(trials), "")

    def logits(self, module: nn.Module, samples: Samples) -> NDArray[np.float32]:
        """The module's answers to all samples.  -> (n, classes)"""
        return outputs.answers(module, samples, self.device)

    def samples(self, x: NDArray[Any], encoder: Any) -> Samples:
        """Samples of a split, as they are."""
        return cast(Samples, self.task.samples(self.task.views(x, 1, 0), encoder))

    def _assistant(self, spec: Any, teacher: Teacher) -> tuple[Teacher, str]:
        """A student of middle size, trained by the teacher, in the teacher's place."""
        chosen = methods.assistant_spec(
            self.family,
            spec,
            (self.data.input_shape, len(self.data.labels)),
            teacher.parameters,
            self.recipe.assistant,
        )
        prepared = self._prepare(chosen, teacher)
        module, _, key = self._start(chosen, teacher, prepared, self.recipe.seed)
        stage = Stage(name="assistant")
        run = _Run(self, stage, module, key, teacher, prepared, self.recipe.seed)
        module, key = run.train(run.choose([]), run.epochs)
        encoder = prepared.preprocessing.encoder
        score = self._score(module, prepared.validation)
        text = f"{chosen}, validation {self.task.metric} {score.metric:.4f}"
        self.progress.note(f"assistant  {text}")
        answers = self._answers(module, encoder, key)
        return (
            replace(
                teacher,
                name=f"assistant {chosen}",
                network=module.requires_grad_(False),
                digest=key,
                logits=answers,
                encoder=encoder,
                parameters=sum(p.numel() for p in module.parameters()),
                shares_tokens=True,
            ),
            text,
        )

    def _prepare(self, spec: Any, teacher: Teacher) -> _Prepared:
        size = getattr(spec, "vocabulary", 0)
        if size not in self._prepared:
            preprocessing = self.task.preprocessing(spec, teacher.tokenizer)
            training = self.task.samples(self.views, preprocessing.encoder)
            self._prepared[size] = _Prepared(
                preprocessing,
                training,
                self.task.samples([self._validation_view()], preprocessing.encoder),
                outputs.fingerprint(training),
            )
        return self._prepared[size]

    def _start(
        self, spec: Any, teacher: Teacher | None, prepared: _Prepared, seed: int
    ) -> tuple[nn.Module, str, str]:
        """The untrained student with what it takes over, what that is, and its key."""
        torch.manual_seed(seed)
        module = self.family.build(spec, self.data.input_shape, len(self.data.labels))
        key = digest(
            "student", self._key, self.family.name, repr(spec), str(module), prepared.digest, seed
        )  # fmt: skip
        adopt = getattr(self.family, "adopt", None)
        if teacher is None or adopt is None:
            return module, "", key
        source = Source(
            teacher.body,
            prepared.preprocessing.token_ids,
            lambda: self._teacher_batches(teacher),
        )
        key = digest(key, teacher.digest)

        def make() -> bytes:
            said: str = adopt(module, spec, source)
            return said.encode() + b"\n" + _weights(module)

        text, _, weights = self._get(self.work, "start.bin", key, make).partition(b"\n")
        _load_weights(module, weights)
        return module, text.decode(), key

    def _teacher_batches(self, teacher: Teacher) -> Iterable[tuple[Tensor, Tensor]]:
        count = min(len(self.data.train), 32 * MEASURED_BATCHES)
        samples = self.task.samples([self.data.train.x[:count]], teacher.encoder)
        for start in range(0, count, 32):
            ids, mask = samples.batch(np.arange(start, min(start + 32, count)))
            yield ids, mask

    # What stages share

    def _validation_view(self) -> Any:
        return self.task.views(self.data.validation.x, 1, 0)[0]

    def _batch(self, samples: Samples, rows: Index) -> tuple[Tensor, ...]:
        return tuple(x.to(self.device) for x in samples.batch(rows))

    def _hard(self, logits: Tensor, rows: Index) -> Tensor:
        i = torch.from_numpy(rows % len(self.data.train)).to(self.device)
        return losses.hard_labels(logits, self.labels[i], self.weights)

    def _score(self, module: nn.Module, samples: Samples) -> Score:
        logits = outputs.answers(module, samples, self.device)
        module.to(self.device)
        targets = self.data.validation.y
        entropy = losses.hard_labels(torch.from_numpy(logits), torch.from_numpy(targets))
        return Score(float(self.task.score(logits, targets)), -float(entropy))

    def _train(
        self,
        network: nn.Module,
        loss: Loss,
        rows: Rows,
        schedule: Schedule,
        name: str,
        seed: int,
        key: str,
        cache: Cache,
        validate: Callable[[nn.Module], Score] | None,
    ) -> None:
        loop = Loop(
            network,
            loss,
            rows,
            schedule,
            name=name,
            seed=seed,
            checkpoint=cache.path(f"{name.replace('-', '_')}.checkpoint", key),
            processes=self.processes,
            progress=self.progress,
            validate=validate,
        )
        loop.run()

    def _get(self, cache: Cache, name: str, key: str, make: Callable[[], bytes]) -> bytes:
        """The stored result, or `make()` by all processes together, stored by the first."""
        if self.processes.count == 1:
            return cache.get(name, key, make)
        there = self.processes.agree(cache.path(name, key).exists())
        data = b"" if there else make()
        stored = cache.get(name, key, lambda: data) if self.processes.main else b""
        return self.processes.agree(stored)

    def _check_losses(self) -> None:
        for stage in self.stages:
            self.soft_loss(stage)
            for name in stage.features:
                self.feature_loss(name)

    def soft_loss(self, stage: Stage) -> Callable[..., Tensor]:
        return cast(Callable[..., Tensor], self._named(stage.soft, SOFT))

    def feature_loss(self, name: str) -> FeatureLoss | None:
        """A loss of the user's own; None for a built-in one."""
        if name in FEATURES:
            return None
        return cast(FeatureLoss, self._named(name, dict.fromkeys(FEATURES)))

    def own_code(self, stage: Stage) -> list[str]:
        """What the stage's losses do that are not built in."""
        soft = [] if stage.soft in SOFT else [self.soft_loss(stage)]
        own = [*soft, *filter(None, map(self.feature_loss, stage.features))]
        return [_code(loss) for loss in own]

    def _named(self, name: str, known: Mapping[str, Any]) -> Any:
        if name in known:
            return known[name]
        if name in self.own_losses:
            return self.own_losses[name]
        return offered("edgedistill.losses", "loss", name, known)


class _Run:
    """One stage of one student: what can be chosen, and the training itself."""

    def __init__(
        self,
        trainer: Trainer,
        stage: Stage,
        start: nn.Module,
        key: str,
        teacher: Teacher,
        prepared: _Prepared,
        seed: int,
    ) -> None:
        self.trainer, self.stage, self.start, self.teacher = trainer, stage, start, teacher
        self.prepared, self.seed = prepared, seed
        self.plan = trainer.training
        self.epochs = stage.epochs or self.plan.epochs
        self.learning_rate = stage.learning_rate or self.plan.learning_rate
        self.has_logits = stage.alpha is not None or not stage.features
        self._key = digest(
            key, _plain(stage), self.plan.batch_size, self.plan.weight_decay,
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
        return self.trainer._score(module, self.prepared.validation)

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
            trainer._train(
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
                (lambda _: trainer._score(module, self.prepared.validation))
                if self.has_logits
                else None,
            )
            if isinstance(network, WithFeatures):
                network.recorder.detach()
            return _weights(module)

        _load_weights(module, trainer._get(trainer.work, "student.safetensors", key, make))
        return module.eval(), key

    def _logits_loss(self, choice: Choice) -> Loss:
        trainer, samples = self.trainer, self.prepared.training
        compare = self._compare(choice)

        def loss(network: nn.Module, rows: Index) -> Tensor:
            return compare(network(*trainer._batch(samples, rows)), rows)

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
        made = pairs(
            stage.features,
            layout(module, inputs),
            layout(teacher.network, adapt(inputs)),
            {mine: own_path(teacher.network, theirs) for mine, theirs in stage.layers.items()},
            {n: f for n in stage.features if (f := trainer.feature_loss(n))},
        )
        source = outputs.FeatureSource(
            teacher.network,
            tuple(dict.fromkeys(pair.teacher for pair in made)),
            _first(samples, trainer.count * choice.views),
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
            batch = trainer._batch(samples, rows)
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
            "features", trainer._machine, self.teacher.digest, self.prepared.digest,
            [feature.key for feature in source.features], source.size,
        )  # fmt: skip
        path = trainer.shared.path("features.f16", key)
        state = "from the cache" if path.exists() else "computed and cached"
        trainer.progress.note(f"features of the teacher, {mib:,.1f} MiB, {state}")
        if trainer.processes.main:
            source.store(path, lambda done: trainer.progress.advance(done, 1))
        trainer.processes.wait()
        source.read_from(path)


class _Reordered(nn.Module):
    """A teacher whose logits stand in the order of the data's labels."""

    def __init__(self, network: nn.Module, columns: NDArray[np.int64]) -> None:
        super().__init__()
        self.network = network
        self.columns = tuple(int(c) for c in columns)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(*inputs)
        if self.columns == tuple(range(logits.shape[-1])):
            return logits
        return logits[:, list(self.columns)]


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


def _above_chance(
    logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Balanced accuracy, what chance gives, and its standard deviation.

    For several labels a sample: the mean over classes of the area under the ROC curve.
    """
    if targets.ndim == 2:
        from sklearn.metrics import roc_auc_score

        usable = [c for c in range(targets.shape[1]) if 0 < targets[:, c].sum() < len(targets)]
        areas = [roc_auc_score(targets[:, c], logits[:, c]) for c in usable]
        return float(np.mean(areas)), 0.5, 0.29 / math.sqrt(max(1, len(targets)))
    right = logits.argmax(-1) == targets
    classes = np.unique(targets)
    recalls = [right[targets == c].mean() for c in classes]
    chance = 1 / logits.shape[1]
    variance = sum(chance * (1 - chance) / (targets == c).sum() for c in classes)
    return float(np.mean(recalls)), chance, math.sqrt(variance) / len(classes)


def _class_weights(data: Dataset) -> Tensor:
    """n / (classes · n of the class)."""
    y = data.train.y
    counts = y.sum(0) if y.ndim == 2 else np.bincount(y, minlength=len(data.labels))
    return torch.from_numpy(len(y) / (len(counts) * np.maximum(counts, 1))).float()


def _weights(module: nn.Module) -> bytes:
    state = {name: value.contiguous().cpu().clone() for name, value in module.state_dict().items()}
    return safetensors.torch.save(state)


def _load_weights(module: nn.Module, weights: bytes) -> None:
    module.load_state_dict(safetensors.torch.load(weights))


def _state_digest(module: nn.Module) -> str:
    return hashlib.sha256(_weights(module)).hexdigest()


def _code(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # no file, or no plain function
        return repr(function)


def _plain(settings: msgspec.Struct) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(settings)
    return plain
