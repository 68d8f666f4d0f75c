"""Training: the same bytes from the same seed, through any interruption, and nothing done twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import safetensors.torch
import torch

from edgedistill import data, distill
from edgedistill.cache import Cache
from edgedistill.distill import Trainer
from edgedistill.progress import Silent
from edgedistill.recipe import Recipe, TeacherTraining, Training
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.tasks import ImageClassification

FAMILY = ConvNet()
SPEC = ConvNetSpec("separable", width=4, growth=1.0, stages=1, depth=1, kernel=3)
TRAINING = Training(
    epochs=4, batch_size=16, learning_rate=0.02, views=2, alpha=(0.5,), alpha_epochs=2
)
TEACHER = TeacherTraining(epochs=3, batch_size=16, views=2)


class Stopped(Exception):
    """Stands for a kill, a power cut or an impatient user."""


@dataclass
class Watching(Silent):
    """Remembers every epoch, and stops the run after so many."""

    stop_after: int | None = None
    epochs: list[tuple[int, int]] = field(default_factory=list)

    def advance(self, done, total):
        self.epochs.append((done, total))
        if len(self.epochs) == self.stop_after:
            raise Stopped


def stripes(seed=0, count=60):
    """Noisy 4×4 images: bright above, bright below, or bright on the left."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = random.integers(0, 120, (count, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 130
    x[y == 1, 2:] += 130
    x[y == 2, :, :2] += 130
    return data.split("stripes", x, y.astype(np.int64), ("above", "below", "left"))


@pytest.fixture
def trainer(tmp_path):
    """A trainer over one pair of caches, as a new process would make it."""

    def trainer(images=None, place="", training=TRAINING, teacher=TEACHER, **options):
        recipe = Recipe(
            profile="rpi4", device="cpu", training=training, teacher_training=teacher, **options
        )
        folder = tmp_path / place if place else tmp_path
        work, shared = Cache(folder / "work"), Cache(folder / "shared")
        return Trainer(recipe, images or stripes(), ImageClassification(), work, shared)

    return trainer


def run(trainer, progress=None, family=FAMILY, spec=SPEC):
    """Teacher and student.  Returns the student's bytes and the teacher's digest."""
    progress = progress or Silent()
    teacher = trainer.teacher(progress)
    student = trainer.student(family, spec, teacher, progress)
    return safetensors.torch.save(student.module.state_dict()), teacher.digest


@pytest.fixture
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(distill, "CHECKPOINT_SECONDS", -1.0)


# The same bytes


def test_the_same_seed_gives_the_same_bytes_whatever_was_random_before(trainer):
    one = run(trainer(place="one"))
    torch.manual_seed(99)
    np.random.default_rng().random()
    assert run(trainer(place="other")) == one


def test_another_seed_gives_another_teacher_and_another_student(trainer):
    (student, teacher), (other_student, other_teacher) = (run(trainer(seed=s)) for s in (0, 1))
    assert teacher != other_teacher
    assert student != other_student


def test_saving_checkpoints_does_not_change_the_result(trainer, every_epoch_is_saved, monkeypatch):
    saving = run(trainer(place="one"))
    monkeypatch.setattr(distill, "CHECKPOINT_SECONDS", 1e9)
    assert run(trainer(place="other")) == saving


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6, 7])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(trainer, every_epoch_is_saved, epochs):
    """Of 3 epochs of the teacher and 4 of the student, the run is stopped after so many."""
    whole = run(trainer(place="whole"))
    with pytest.raises(Stopped):
        run(trainer(place="stopped"), Watching(stop_after=epochs))
    again = Watching()
    assert run(trainer(place="stopped"), again) == whole
    expected = [(n, 3) for n in (1, 2, 3)] + [(n, 4) for n in (1, 2, 3, 4)]
    # the epoch whose end was not heard of is done again, and nothing that was saved before it
    assert again.epochs == expected[epochs - 1 :]


def test_a_run_may_be_stopped_again_and_again(trainer, every_epoch_is_saved):
    whole = run(trainer(place="whole"))
    stops = 0
    while True:
        try:
            assert run(trainer(place="stopped"), Watching(stop_after=2)) == whole
            break
        except Stopped:
            stops += 1
    assert stops > 3


def test_without_a_checkpoint_an_interrupted_stage_starts_over(trainer, monkeypatch):
    monkeypatch.setattr(distill, "CHECKPOINT_SECONDS", 1e9)
    whole = run(trainer(place="whole"))
    with pytest.raises(Stopped):
        run(trainer(place="stopped"), Watching(stop_after=2))
    again = Watching()
    assert run(trainer(place="stopped"), again) == whole
    assert again.epochs[0] == (1, 3)


def test_finished_stages_leave_no_checkpoint(trainer, every_epoch_is_saved, tmp_path):
    run(trainer())
    names = sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["logits", "student", "teacher"]
    assert not list(tmp_path.rglob("*.checkpoint"))


# Nothing is done twice


def test_finished_stages_are_not_trained_again(trainer):
    first, second = Watching(), Watching()
    assert run(trainer(), first) == run(trainer(), second)
    assert len(first.epochs) == 3 + 4
    assert second.epochs == []


def test_another_student_is_trained_with_the_same_teacher(trainer):
    run(trainer())
    watch = Watching()
    wider = ConvNetSpec("separable", width=8, growth=1.0, stages=1, depth=1, kernel=3)
    run(trainer(), watch, spec=wider)
    assert watch.epochs == [(n, 4) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "options",
    [
        {"latency_ms": 1.0},
        {"name": "other"},
        {"out": "elsewhere"},
        {"precision": "int8"},
        {"data": "renamed"},
    ],
    ids=str,
)
def test_what_does_not_touch_training_finds_everything_again(trainer, options):
    run(trainer())
    watch = Watching()
    run(trainer(**options), watch)
    assert watch.epochs == []


def test_with_trials_as_long_as_the_run_the_best_trial_is_the_run(trainer):
    training = Training(
        epochs=2, batch_size=16, views=2, alpha=(0.0, 0.5), alpha_epochs=2, learning_rate=0.02
    )
    watch = Watching()
    run(trainer(training=training), watch)
    assert watch.epochs[3:] == [(1, 2), (2, 2)] * 2


# Nothing of others is used


def test_other_data_never_get_the_teacher_of_these(trainer):
    digests, watches = set(), []
    changed = stripes()
    changed.train.x[0, 0, 0, 0] ^= 1  # a single pixel
    for images in (stripes(), stripes(seed=1), changed):
        watches.append(Watching())
        _, digest = run(trainer(images=images), watches[-1])
        digests.add(digest)
    assert len(digests) == 3
    assert {len(watch.epochs) for watch in watches} == {7}


@pytest.mark.parametrize(
    "teacher",
    [
        TeacherTraining(epochs=2, batch_size=16, views=2),
        TeacherTraining(epochs=3, batch_size=8, views=2),
        TeacherTraining(epochs=3, batch_size=16, views=3),
        TeacherTraining(epochs=3, batch_size=16, views=2, learning_rate=0.01),
        TeacherTraining(epochs=3, batch_size=16, views=2, weight_decay=0.0),
    ],
    ids=["epochs", "batch_size", "views", "learning_rate", "weight_decay"],
)
def test_other_settings_of_the_teacher_train_another_teacher_and_student(trainer, teacher):
    _, before = run(trainer())
    watch = Watching()
    _, after = run(trainer(teacher=teacher), watch)
    assert after != before
    assert len(watch.epochs) == teacher.epochs + 4


@pytest.mark.parametrize("setting", ["threads", "edgedistill", "torch"])
def test_what_changes_the_bits_trains_anew(trainer, monkeypatch, setting):
    """A bundle's bytes must not depend on what an earlier run left in the cache."""
    run(trainer())
    if setting == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif setting == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        monkeypatch.setattr(distill, "__version__", "9.9.9")
    watch = Watching()
    run(trainer(), watch)
    assert len(watch.epochs) == 7


class Changed(ConvNet):
    """A family whose author has changed what a spec means."""

    def build(self, spec, input_shape, classes):
        module = super().build(spec, input_shape, classes)
        return torch.nn.Sequential(module, torch.nn.Dropout(0.5))


def test_a_family_that_was_changed_under_its_name_is_trained_anew(trainer):
    run(trainer())
    watch = Watching()
    run(trainer(), watch, family=Changed())
    assert watch.epochs == [(n, 4) for n in (1, 2, 3, 4)]


# Teacher and alpha


def test_the_teachers_answers_are_to_the_very_views_that_the_student_sees(trainer):
    made = trainer()
    teacher = made.teacher(Silent())
    views = made.task.views(made.images, TRAINING.views, made.recipe.seed + 2)
    assert teacher.logits.shape == (2, len(made.data.train), 3)
    for answers, view in zip(teacher.logits, views, strict=True):
        np.testing.assert_array_equal(answers, made.logits(teacher.module, view))
    assert isinstance(teacher.logits, np.memmap)


def test_teacher_and_student_are_handed_over_ready_to_answer(trainer):
    made = trainer()
    teacher = made.teacher(Silent())
    student = made.student(FAMILY, SPEC, teacher, Silent())
    assert not teacher.module.training
    assert not student.module.training


def test_a_student_of_easy_images_learns_them(trainer):
    training = Training(epochs=15, batch_size=16, learning_rate=0.02, views=2, alpha=(0.5,))
    made = trainer(training=training)
    teacher = made.teacher(Silent())
    wide = ConvNetSpec("dense", width=16, growth=1.0, stages=1, depth=2, kernel=3)
    student = made.student(FAMILY, wide, teacher, Silent())
    images = made.task.prepare(made.steps, made.data.test.x)
    assert made.task.score(made.logits(student.module, images), made.data.test.y) > 0.9


def test_alpha_is_the_trials_best_on_the_validation_split(trainer):
    alphas = (0.0, 0.5, 0.9)
    made = trainer(
        training=Training(epochs=3, batch_size=16, views=2, alpha=alphas, alpha_epochs=2)
    )
    student = made.student(FAMILY, SPEC, made.teacher(Silent()), Silent())
    assert tuple(trial.alpha for trial in student.trials) == alphas
    best = max(student.trials, key=lambda t: (t.metric, -t.cross_entropy))
    assert student.alpha == best.alpha


def test_a_single_alpha_needs_no_trials(trainer):
    watch = Watching()
    made = trainer()
    student = made.student(FAMILY, SPEC, made.teacher(Silent()), watch)
    assert (student.alpha, student.trials) == (0.5, ())
    assert len(watch.epochs) == TRAINING.epochs


def test_with_alpha_zero_the_teacher_has_no_say(trainer):
    training = Training(epochs=3, batch_size=16, views=2, alpha=(0.0,))
    other = TeacherTraining(epochs=1, batch_size=16, views=1)
    (one, teacher), (same, another) = (
        run(trainer(training=training, teacher=each)) for each in (TEACHER, other)
    )
    assert teacher != another
    assert one == same


def test_with_a_weight_of_its_own_the_teacher_has_a_say(trainer):
    other = TeacherTraining(epochs=1, batch_size=16, views=1)
    one, another = (run(trainer(teacher=each))[0] for each in (TEACHER, other))
    assert one != another


def test_a_last_batch_of_one_sample_is_no_obstacle(trainer):
    made = trainer(training=Training(epochs=1, batch_size=7, views=1, alpha=(0.0,)))
    assert len(made.data.train) % 7 == 1
    run(made)
