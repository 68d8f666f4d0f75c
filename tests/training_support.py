"""Tiny data, recipes and trainers for the tests of training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from edgedistill import data
from edgedistill.cache import Cache
from edgedistill.data import Dataset, Split
from edgedistill.distill.processes import Processes
from edgedistill.distill.trainer import Student, Trainer
from edgedistill.progress import Silent
from edgedistill.recipe import GivenTeacherTraining, GivenTraining, Recipe
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.students.static import Static, StaticSpec
from edgedistill.students.transformer import Transformer, TransformerSpec
from edgedistill.tasks import task_of
from edgedistill_runtime.manifest import Sample

SEED = 20_261_124
IMAGES = ConvNetSpec("separable", width=4, growth=1.0, stages=1, depth=1, kernel=3)
ENCODER = TransformerSpec(vocabulary=45, embedding=8, layers=2, hidden=16, heads=2, ffn=16)
BAG = StaticSpec(vocabulary=45, dim=8, hidden=0)
FAMILIES = {ConvNetSpec: ConvNet, TransformerSpec: Transformer, StaticSpec: Static}

TRAINING = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.02,
    "views": (2,),
    "alpha": (0.5,),
    "gate": (False,),
    "trial_epochs": 2,
}
TEACHER = {"epochs": 2, "batch_size": 16, "views": 2, "learning_rate": 0.003}
ENCODER_TEACHER = {"epochs": 6, "batch_size": 4, "views": 1, "learning_rate": 0.01}

OPINIONS = {"negative": ("bad", "awful", "hated"), "neutral": ("is", "was", "not")}
OPINIONS |= {"positive": ("good", "great", "loved")}
FILLERS = ("the", "a", "film", "food", "i", "it", "very")


class Stopped(Exception):
    """Stands for a kill, a power cut or an impatient user."""


@dataclass
class Watching(Silent):
    """Remembers how far work came and what was said, and stops the run after so many steps."""

    stop_after: int | None = None
    advances: list[tuple[float, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def advance(self, done: float, total: int) -> None:
        self.advances.append((done, total))
        if len(self.advances) == self.stop_after:
            raise Stopped

    def note(self, text: str) -> None:
        self.notes.append(text)


def stripes(seed: int = 0, count: int = 60) -> Dataset:
    """Noisy 4×4 images: bright above, bright below, or bright on the left."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = random.integers(0, 120, (count, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 130
    x[y == 1, 2:] += 130
    x[y == 2, :, :2] += 130
    sample = Sample("image", "uint8", (4, 4, 1))
    return data.split("stripes", x, y.astype(np.int64), ("above", "below", "left"), sample)


def tones(seed: int = 0, count: int = 60) -> Dataset:
    """Half a second of a low, a middle or a high tone in noise, 4,000 samples a second."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    times = np.arange(2000) / 4000
    hertz = np.array([300, 700, 1500])[y] * random.uniform(0.9, 1.1, count)
    loud = random.uniform(2000, 8000, (count, 1))
    wave = loud * np.sin(2 * np.pi * hertz[:, None] * times) + random.normal(0, 500, (count, 2000))
    log_mel = {
        "op": "log_mel", "rate_hz": 4000, "frame": 128, "step": 64, "bands": 16, "low_hz": 20.0,
        "high_hz": 2000.0,
    }  # fmt: skip
    return data.split(
        "tones", np.rint(wave).astype(np.int16), y.astype(np.int64), ("low", "middle", "high"),
        Sample("audio", "int16", (2000,), 4000.0), features=(log_mel,),
    )  # fmt: skip


def waves(seed: int = 0, count: int = 60) -> Dataset:
    """32 steps of two channels: the first, the second or both of them swing."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    swing = np.sin(np.arange(32) / 2 + random.uniform(0, 6, (count, 1)))
    x = random.normal(0, 0.3, (count, 2, 32))
    x[y != 1, 0] += swing[y != 1]
    x[y != 0, 1] += 3 * swing[y != 0]
    return data.split(
        "waves", x.astype(np.float32), y.astype(np.int64), ("first", "second", "both"),
        Sample("sensor", "float32", (2, 32)),
    )  # fmt: skip


def sentences(seed: int = 0, count: int = 40, unlabelled: int = 0) -> Dataset:
    """Texts of 2 to 8 words; one or two of them say which of the three labels it is.

    count: of the training split; half as many in each of the others.
    """
    random = np.random.default_rng(seed)
    labels = tuple(OPINIONS)

    def split(size: int) -> Split:
        y = np.arange(size) % 3
        texts = np.empty(size, object)
        for i, label in enumerate(y):
            telling = random.choice(OPINIONS[labels[label]], random.integers(1, 3))
            words = [*telling, *random.choice(FILLERS, random.integers(1, 7))]
            random.shuffle(words)
            texts[i] = " ".join(map(str, words))
        return Split(texts, y.astype(np.int64))

    splits = (split(count), split(count // 2), split(count // 2))
    more = split(unlabelled) if unlabelled else None
    if more is not None:
        more = Split(more.x, np.full(unlabelled, -1, np.int64))
    sample = Sample(kind="text", dtype="text", shape=())
    return Dataset("sentences", sample, labels, *splits, unlabelled=more, tokens=12)


def multi_label(found: Dataset) -> Dataset:
    """The same data with a yes or no for each label; every fourth sample has the next one too."""

    def several(split: Split) -> Split:
        y = np.eye(len(found.labels), dtype=np.int64)[split.y]
        y[::4] |= np.roll(y[::4], 1, axis=1)
        x = split.x.copy()
        for i in range(0, len(x), 4):
            other = split.y[(split.y == (split.y[i] + 1) % 3).argmax()]
            x[i] = f"{x[i]} {OPINIONS[found.labels[other]][0]}"
        return Split(x, y)

    splits = {name: several(getattr(found, name)) for name in ("train", "validation", "test")}
    return replace(found, **splits)


def trainer(
    folder: Path,
    found: Dataset | None = None,
    spec: Any = IMAGES,
    progress: Silent | None = None,
    *,
    training: dict[str, Any] | None = None,
    teacher_training: dict[str, Any] | None = None,
    own_losses: dict[str, Any] | None = None,
    family: Any = None,
    **options: Any,
) -> Trainer:
    """A trainer over the pair of caches in a folder, as a new process would make it."""
    found = found or stripes()
    taught = ENCODER_TEACHER if options.get("teacher") else TEACHER
    recipe = Recipe(
        profile="rpi4",
        device="cpu",
        training=GivenTraining(**TRAINING | (training or {})),
        teacher_training=GivenTeacherTraining(**taught | (teacher_training or {})),
        **options,
    )
    task = task_of(found, recipe.metric, recipe.max_length)
    work, shared = Cache(folder / "work"), Cache(folder / "shared")
    processes = Processes("cpu", recipe.mixed_precision, recipe.log, folder)
    return Trainer(
        recipe,
        found,
        task,
        family or FAMILIES[type(spec)](),
        work,
        shared,
        processes,
        progress or Silent(),
        own_losses,
    )


def run(made: Trainer, spec: Any = IMAGES) -> tuple[bytes, str]:
    """Teacher and student.  Returns the student's bytes and the teacher's digest."""
    teacher = made.teacher()
    return weights(made.student(spec, teacher)), teacher.digest


def weights(student: Student) -> bytes:
    state = {name: value.contiguous() for name, value in student.module.state_dict().items()}
    return safetensors.torch.save(state)
