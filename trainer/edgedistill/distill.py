"""Train teachers and students: one loop, resumable at any moment to the same bytes.

Every random choice of an epoch comes from the seed and the epoch's number, and the learning rate
from the step's, so a checkpoint holds weights and optimizer state and nothing else.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill import __version__, losses
from edgedistill.cache import Cache, digest
from edgedistill.data import Dataset
from edgedistill.progress import Progress
from edgedistill.recipe import Recipe, Training
from edgedistill.students import Family
from edgedistill.tasks import ImageClassification, Steps
from edgedistill_runtime.files import write_atomically

CHECKPOINT_SECONDS = 2.0
WARM_UP_SHARE = 0.15

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, view indices, sample indices) -> scalar"""


@dataclass(frozen=True)
class Schedule:
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Teacher:
    """A trained teacher, and its answers to every training view."""

    module: nn.Module
    digest: str
    logits: NDArray[np.float32]
    """(views, samples, classes), memory-mapped."""


@dataclass(frozen=True)
class Trial:
    """A short run that helped to choose alpha."""

    alpha: float
    metric: float
    """On the validation split."""
    cross_entropy: float


@dataclass(frozen=True)
class Student:
    module: nn.Module
    alpha: float
    trials: tuple[Trial, ...]


class Trainer:
    """Everything that training needs to know about one recipe and its data."""

    def __init__(
        self, recipe: Recipe, data: Dataset, task: ImageClassification, work: Cache, shared: Cache
    ) -> None:
        self.recipe, self.data, self.task, self.work, self.shared = recipe, data, task, work, shared
        self.device = _device(recipe.device)
        self.steps: Steps = task.preprocess(data.train)
        self.labels = torch.from_numpy(data.train.y).to(self.device)
        self.images = task.prepare(self.steps, data.train.x)
        self.validation = task.prepare(self.steps, data.validation.x)
        # what else changes the bits: the versions, and how many threads share a sum
        machine = [__version__, torch.__version__, self.device.type, torch.get_num_threads()]
        self._key = digest(data.digest, list(self.steps), recipe.seed, machine)

    def teacher(self, progress: Progress) -> Teacher:
        """The teacher from the user's cache, or trained now; then its answers to the views."""
        plan = self.recipe.teacher_training
        module = self.task.teacher(self.data.input_shape, len(self.data.labels))
        key = digest("teacher", self._key, _plain(plan), str(module))

        def make() -> bytes:
            views = self.task.views(self.images, plan.views, self.recipe.seed + 1)
            schedule = Schedule(plan.epochs, plan.batch_size, plan.learning_rate, plan.weight_decay)
            torch.manual_seed(self.recipe.seed)
            fresh = self.task.teacher(self.data.input_shape, len(self.data.labels))
            self._train(
                fresh,
                views,
                lambda logits, _, i: losses.hard_labels(logits, self.labels[i]),
                schedule,
                self.shared.path("teacher.checkpoint", key),
                progress,
            )
            return safetensors.torch.save(fresh.state_dict())

        weights = self.shared.get("teacher.safetensors", key, make)
        module.load_state_dict(safetensors.torch.load(weights))
        module.eval()
        return Teacher(module, digest(weights), self._teacher_logits(module, digest(weights)))

    def student(
        self, family: Family, spec: object, teacher: Teacher, progress: Progress
    ) -> Student:
        """Distil `spec`: alpha chosen by short trials on the validation split, then a full run."""
        plan = self.recipe.training
        key = digest("student", self._key, _plain(plan), family.name, repr(spec), teacher.digest)
        trials: tuple[Trial, ...] = ()
        if len(plan.alpha) > 1:
            trials = tuple(self._trial(family, spec, teacher, a, key, progress) for a in plan.alpha)
            alpha = max(trials, key=lambda t: (t.metric, -t.cross_entropy)).alpha
        else:
            alpha = plan.alpha[0]
        module = self._run(family, spec, teacher, alpha, plan.epochs, key, progress)
        return Student(module, alpha, trials)

    def logits(self, module: nn.Module, inputs: Tensor) -> NDArray[np.float32]:
        """The module's answers, in batches.  (n, …) -> (n, classes)"""
        module.to(self.device).eval()
        with torch.no_grad():
            parts = [module(b.to(self.device)).cpu() for b in inputs.split(512)]
        module.cpu()
        return torch.cat(parts).numpy()

    def _trial(
        self,
        family: Family,
        spec: object,
        teacher: Teacher,
        alpha: float,
        key: str,
        progress: Progress,
    ) -> Trial:
        epochs = min(self.recipe.training.alpha_epochs, self.recipe.training.epochs)
        module = self._run(family, spec, teacher, alpha, epochs, key, progress)
        logits = self.logits(module, self.validation)
        targets = self.data.validation.y
        entropy = float(losses.hard_labels(torch.from_numpy(logits), torch.from_numpy(targets)))
        return Trial(alpha, self.task.score(logits, targets), entropy)

    def _run(
        self,
        family: Family,
        spec: object,
        teacher: Teacher,
        alpha: float,
        epochs: int,
        key: str,
        progress: Progress,
    ) -> nn.Module:
        """One student trained with one alpha for so many epochs, or the finished one of before."""
        plan = self.recipe.training
        answers = torch.from_numpy(np.array(teacher.logits)).to(self.device)

        def loss(logits: Tensor, view: Tensor, i: Tensor) -> Tensor:
            return losses.distillation(
                logits, answers[view, i], self.labels[i], alpha, plan.temperature
            )

        def build() -> nn.Module:
            return family.build(spec, self.data.input_shape, len(self.data.labels))

        def make() -> bytes:
            torch.manual_seed(self.recipe.seed)
            fresh = build()
            self._train(
                fresh,
                self._student_views(),
                loss,
                Schedule(epochs, plan.batch_size, plan.learning_rate, plan.weight_decay),
                self.work.path("student.checkpoint", run_key),
                progress,
            )
            return safetensors.torch.save(fresh.state_dict())

        module = build()
        run_key = digest(key, alpha, epochs, str(module))  # a user's family may change
        weights = self.work.get("student.safetensors", run_key, make)
        module.load_state_dict(safetensors.torch.load(weights))
        return module.eval()

    def _student_views(self) -> Tensor:
        return self.task.views(self.images, self.recipe.training.views, self.recipe.seed + 2)

    def _teacher_logits(self, module: nn.Module, teacher_digest: str) -> NDArray[np.float32]:
        """The teacher's answers to the student's views, computed once and memory-mapped."""
        key = digest("logits", self._key, teacher_digest, self.recipe.training.views)

        def make() -> bytes:
            answers = np.stack([self.logits(module, view) for view in self._student_views()])
            buffer = io.BytesIO()
            np.save(buffer, answers)
            return buffer.getvalue()

        self.shared.get("logits.npy", key, make)
        path = self.shared.path("logits.npy", key)
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped

    def _train(
        self,
        module: nn.Module,
        views: Tensor,
        loss: Loss,
        schedule: Schedule,
        checkpoint: Path,
        progress: Progress,
    ) -> None:
        """Train in place.  views: (views, samples, …); every epoch sees each sample once."""
        views = views.to(self.device)
        module.to(self.device).train()
        count, samples = views.shape[:2]
        optimizer = torch.optim.AdamW(
            module.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        steps_per_epoch = math.ceil(samples / schedule.batch_size)
        start = _resume(checkpoint, module, optimizer)
        saved = time.monotonic()
        with _deterministic(self.device):
            for epoch in range(start, schedule.epochs):
                generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + epoch)
                torch.manual_seed(self.recipe.seed * 100_003 + epoch)
                order = torch.randperm(samples, generator=generator)
                view = torch.randint(count, (samples,), generator=generator)
                for step, batch in enumerate(order.split(schedule.batch_size)):
                    if len(batch) < 2:  # batch norm has no variance of one sample
                        continue
                    rate = _learning_rate(
                        schedule, epoch * steps_per_epoch + step, schedule.epochs * steps_per_epoch
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    i, v = batch.to(self.device), view[batch].to(self.device)
                    optimizer.zero_grad()
                    loss(module(views[v, i]), v, i).backward()
                    optimizer.step()
                progress.advance(epoch + 1, schedule.epochs)
                if time.monotonic() - saved > CHECKPOINT_SECONDS and epoch + 1 < schedule.epochs:
                    _save(checkpoint, module, optimizer, epoch + 1)
                    saved = time.monotonic()
        module.cpu().eval()
        checkpoint.unlink(missing_ok=True)


def _learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a thousandth (Loshchilov & Hutter 2017)."""
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return schedule.learning_rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * done)))


def _save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    buffer = io.BytesIO()
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def _resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint if there is one.  Returns the number of finished epochs."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    return torch.device(name)


def _plain(plan: Training | object) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(plan)
    return plain
