"""Teachers and students of one recipe, and what is shared by their stages.

Every finished stage is a file, found again by a digest of all that went into it (docs/decisions/
0007-stages-are-files.md).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill import __version__, losses, teachers
from edgedistill.cache import Cache, digest
from edgedistill.data import Dataset
from edgedistill.distill import fakequant, methods, outputs
from edgedistill.distill.features import FEATURES, FeatureLoss
from edgedistill.distill.loop import Loop, Loss, Rows, Schedule, Score
from edgedistill.distill.processes import Processes
from edgedistill.distill.records import Choice, Prepared, Student, Teacher, Trial
from edgedistill.distill.stage import StageRun
from edgedistill.distill.weights import load_weights, plain, state_digest, weights_of
from edgedistill.errors import TeacherError
from edgedistill.plugins import offered
from edgedistill.progress import Progress
from edgedistill.recipe import Recipe, Stage
from edgedistill.samples import Index, Samples
from edgedistill.students import Family, Source
from edgedistill.students import vocabulary as vocabularies
from edgedistill.students.static import VOCABULARIES
from edgedistill.tasks import Preprocessing, TextClassification, Waveforms
from edgedistill_runtime.tokenize import TextEncoder

AUTO_VOCABULARY = 8000
MEASURED_BATCHES = 16
"""Batches of training data on which a student measures what matters in its teacher."""
AWARE_SHARE, AWARE_RATE = 1 / 4, 1 / 10
"""Epochs and learning rate of quantization-aware training, over those of the training before."""
SOFT = {
    "soft_targets": losses.soft_targets,
    "decoupled": losses.decoupled,
    "correlation": losses.correlation,
}
"""Losses that alpha can weigh."""


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
        self._prepared: dict[int, Prepared] = {}
        # what else changes the bits: the versions, and how many threads share a sum
        self.machine = digest(
            __version__, torch.__version__, self.device.type, torch.get_num_threads(),
            processes.count, recipe.mixed_precision,
        )  # fmt: skip
        self._key = digest(data.digest, task.metric, recipe.class_weights, self.machine)

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
            weights = state_digest(network)
        else:
            loaded = self._load(source)
            name, body, encoder = loaded.name, loaded.body, loaded.encoder
            tokenizer, network, weights = loaded.tokenizer_json, loaded.network, loaded.digest
            if self.data.task == "audio-classification":
                encoder = Waveforms(loaded.sample_rate_hz or self.task.rate_hz)
            if encoder is None and self.data.task == TextClassification.name:
                raise TeacherError(
                    f"{name} has no tokenizer; give its module an attribute `tokenizer`, or put "
                    "tokenizer.json beside its file"
                )
            if not loaded.trained:
                plan = self.recipe.teacher_training_of("encoder")
                asked = self.recipe.teacher_training.layers
                loaded.freeze(min(plan.layers, loaded.layers) if asked is None else asked)
                network = self._train_teacher(network, encoder, "encoder", loaded.digest)
                weights = state_digest(network)
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

    def tokenizer(self, source: Any = None) -> bytes | None:
        """The teacher's tokenizer as JSON, for texts; nothing is trained for it."""
        if self.data.task != TextClassification.name:
            return None
        if source is None and self.recipe.teacher == "auto":
            return self._auto()[2]
        return self._load(source).tokenizer_json

    def _load(self, source: Any) -> teachers.LoadedTeacher:
        task: Any = self.task
        norm = (task.mean, task.std) if hasattr(task, "mean") else None
        return teachers.load(
            self.recipe.teacher if source is None else source,
            self.data.task,
            len(self.data.labels),
            self.data.labels,
            max_length=self.recipe.max_length,
            trust_remote_code=self.recipe.trust_remote_code,
            norm=norm,
        )

    def _auto(self) -> tuple[nn.Module, Any, bytes | None, str]:
        torch.manual_seed(self.recipe.seed)
        classes = len(self.data.labels)
        if self.data.task != TextClassification.name:
            network = teachers.auto_convolutional_teacher(self.data.input_shape, classes)
            return network, None, None, self.data.task
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
        key = digest("teacher", self._key, self.recipe.seed, plain(plan), identity)
        if encoder is not None:
            key = digest(key, self.recipe.max_length)

        def make() -> bytes:
            data = self.data
            views = self.task.views(data.train.x, plan.views, self.recipe.seed + 1)
            samples = self.task.samples(views, encoder)
            validation = self.task.samples([self._validation_view()], encoder)
            self.run_loop(
                network,
                lambda module, rows: self._hard(module(*self.batch(samples, rows)), rows),
                Rows(samples, len(data.train), len(data.train), plan.views),
                Schedule(plan.epochs, plan.batch_size, plan.learning_rate, plan.weight_decay),
                "teacher",
                self.recipe.seed,
                key,
                self.shared,
                (lambda module: self.score(module, validation)) if encoder is not None else None,
            )
            return weights_of(network)

        load_weights(network, self.get(self.shared, "teacher.safetensors", key, make))
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
            key = digest("logits", self.machine, weights, outputs.fingerprint(samples))
            path = self.shared.path("logits.npy", key)
            made += not path.exists()
            tell = partial(self._tell_view, place)
            self.get(
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
        prepared = self._prepare(spec, teacher)
        module, adopted, key = self._start(spec, teacher, prepared, seed)
        guide, assistant = self._guide(spec, teacher)
        made: dict[str, Choice] = {}
        trials: list[Trial] = []
        for stage in self.stages:
            run = StageRun(self, stage, module, key, guide, prepared, seed)
            known = choices and run.has_logits  # without a loss on the answers nothing is chosen
            choice = choices[stage.name] if choices and known else run.choose(trials)
            module, key = run.train(choice, run.epochs)
            if run.has_logits:
                made[stage.name] = choice
        return Student(module, prepared.preprocessing, made, tuple(trials), adopted, assistant)

    def quantization_aware(self, spec: Any, teacher: Teacher, student: Student) -> Student:
        """The student trained on with rounded weights and activations (`fakequant`).

        The loss on the answers, its choices and the teacher's cached answers are those of the
        student's last stage that had one.
        """
        prepared = self._prepare(spec, teacher)
        last = next(stage for stage in reversed(self.stages) if stage.name in student.choices)
        start = fakequant.fake_quantized(student.module, self.family.quantization)
        start.to(self.device)
        fakequant.observe(start, self._first_batches(prepared.training))
        start.cpu()
        stage = Stage(
            name="quantization-aware",
            soft=last.soft,
            epochs=max(1, round(self.training.epochs * AWARE_SHARE)),
            learning_rate=(last.learning_rate or self.training.learning_rate) * AWARE_RATE,
        )
        key = digest("quantization-aware", self._key, prepared.digest, state_digest(start))
        guide, _ = self._guide(spec, teacher)
        run = StageRun(self, stage, start, key, guide, prepared, self.recipe.seed)
        module, _ = run.train(student.choices[last.name], run.epochs)
        return replace(student, module=module)

    def _first_batches(self, samples: Samples) -> Iterator[tuple[Tensor, ...]]:
        size = self.training.batch_size
        for start in range(0, min(len(samples), size * MEASURED_BATCHES), size):
            yield self.batch(samples, np.arange(start, min(start + size, len(samples))))

    def control(self, spec: Any, teacher: Teacher, views: int | None, seed: int) -> Student:
        """The same student without its teacher: fresh weights, and the labels alone.

        views: how many it learns from; None tries what the recipe offers.
        """
        prepared = self._prepare(spec, teacher)
        module, _, key = self._start(spec, None, prepared, seed)
        stage = Stage(name="control", alpha=(0.0,))
        run = StageRun(self, stage, module, key, teacher, prepared, seed)
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

    def shown_to(self, teacher: Teacher, prepared: Prepared) -> Samples:
        """What a teacher of intermediate features is shown: the student's own rows, but for
        waveforms."""
        if isinstance(teacher.encoder, Waveforms):
            return cast(Samples, self.task.samples(self.views, teacher.encoder))
        return prepared.training

    def _guide(self, spec: Any, teacher: Teacher) -> tuple[Teacher, str]:
        """Whom the student learns from, and what that is if it is not the teacher."""
        if self.recipe.distill != "assistant":
            return teacher, ""
        return self._assistant(spec, teacher)

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
        run = StageRun(self, stage, module, key, teacher, prepared, self.recipe.seed)
        module, key = run.train(run.choose([]), run.epochs)
        encoder = prepared.preprocessing.encoder
        score = self.score(module, prepared.validation)
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

    def _prepare(self, spec: Any, teacher: Teacher) -> Prepared:
        size = getattr(spec, "vocabulary", 0)
        if size not in self._prepared:
            preprocessing = self.task.preprocessing(spec, teacher.tokenizer)
            training = self.task.samples(self.views, preprocessing.encoder)
            self._prepared[size] = Prepared(
                preprocessing,
                training,
                self.task.samples([self._validation_view()], preprocessing.encoder),
                outputs.fingerprint(training),
            )
        return self._prepared[size]

    def _start(
        self, spec: Any, teacher: Teacher | None, prepared: Prepared, seed: int
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
            return said.encode() + b"\n" + weights_of(module)

        text, _, weights = self.get(self.work, "start.bin", key, make).partition(b"\n")
        load_weights(module, weights)
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

    def batch(self, samples: Samples, rows: Index) -> tuple[Tensor, ...]:
        return tuple(x.to(self.device) for x in samples.batch(rows))

    def _hard(self, logits: Tensor, rows: Index) -> Tensor:
        i = torch.from_numpy(rows % len(self.data.train)).to(self.device)
        return losses.hard_labels(logits, self.labels[i], self.weights)

    def score(self, module: nn.Module, samples: Samples) -> Score:
        logits = outputs.answers(module, samples, self.device)
        module.to(self.device)
        targets = self.data.validation.y
        entropy = losses.hard_labels(torch.from_numpy(logits), torch.from_numpy(targets))
        return Score(float(self.task.score(logits, targets)), -float(entropy))

    def run_loop(
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

    def get(self, cache: Cache, name: str, key: str, make: Callable[[], bytes]) -> bytes:
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


def _code(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return f"{_code(function.func)} {function.args!r} {sorted(function.keywords.items())!r}"
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # no file, or an object that is called: its class
        kind = function if hasattr(function, "__qualname__") else type(function)
        return f"{kind.__module__}.{kind.__qualname__}"
