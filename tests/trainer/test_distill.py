"""Training: the same bytes from the same seed, through any interruption, and nothing done twice."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import teachers_support
from tests.training_support import (
    BAG,
    ENCODER,
    IMAGES,
    OPINIONS,
    Stopped,
    Watching,
    multi_label,
    run,
    sentences,
    stripes,
    trainer,
    weights,
)

from edgedistill import answers, data
from edgedistill.distill import loop
from edgedistill.distill import trainer as distill
from edgedistill.distill.trainer import Choice
from edgedistill.errors import SettingsError, TeacherError, TrainingError
from edgedistill.recipe import Stage
from edgedistill.students.convnet import ConvNet, ConvNetSpec
from edgedistill.students.transformer import Transformer
from edgedistill.teachers import TeacherEncoder

LARGER = replace(ENCODER, hidden=32, ffn=32)
WIDER = ConvNetSpec("separable", width=8, growth=1.0, stages=1, depth=1, kernel=3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A pretrained text encoder's folder; its head and layers are trained for the sentences."""
    folder = tmp_path_factory.mktemp("teacher") / "encoder"
    return str(teachers_support.text_teacher(folder, "bert", None, initializer_range=0.05))


@pytest.fixture(scope="module")
def taught(encoder, tmp_path_factory):
    """The teacher of the sentences, trained."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "CHECKPOINT_SECONDS", 1e9)
        return trainer(
            tmp_path_factory.mktemp("taught"), sentences(), ENCODER, teacher=encoder
        ).teacher()


def asked(teacher, made):
    """The teacher with its answers to a trainer's data."""
    samples = [made.task.samples([view], teacher.encoder) for view in made.views]
    answers = np.stack([made.logits(teacher.network, each) for each in samples])
    return replace(teacher, logits=answers)


@pytest.fixture
def every_step_is_saved(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 0)


@pytest.fixture
def every_step_is_told(monkeypatch):
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", -1.0)


@pytest.fixture
def nothing_is_saved(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)


def epochs_of(watch, epochs):
    """Whole epochs that were told, of trainings of so many."""
    return [done for done, total in watch.advances if total == epochs and isinstance(done, int)]


# The same bytes


def test_the_same_seed_gives_the_same_bytes_whatever_was_random_before(tmp_path):
    one = run(trainer(tmp_path / "one"))
    torch.manual_seed(99)
    np.random.default_rng().random()
    assert run(trainer(tmp_path / "other")) == one


def test_another_seed_gives_another_teacher_and_another_student(tmp_path):
    (student, teacher), (other_student, other_teacher) = (
        run(trainer(tmp_path, seed=s)) for s in (0, 1)
    )
    assert teacher != other_teacher
    assert student != other_student


def test_a_student_may_have_a_seed_of_its_own(tmp_path):
    made = trainer(tmp_path)
    teacher = made.teacher()
    one, same, other = (
        weights(made.student(IMAGES, teacher, seed=seed)) for seed in (None, made.recipe.seed, 5)
    )
    assert one == same
    assert one != other


def test_saving_checkpoints_does_not_change_the_result(tmp_path, monkeypatch, every_step_is_saved):
    saving = run(trainer(tmp_path / "one"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e9)
    assert run(trainer(tmp_path / "other")) == saving


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_a_run_that_was_stopped_ends_in_the_same_bytes(tmp_path, every_step_is_saved, epochs):
    """Of 2 epochs of the teacher and 3 of the student, the run is stopped after so many."""
    whole = run(trainer(tmp_path / "whole"))
    watch = StoppedAfterEpochs(epochs)
    with pytest.raises(Stopped):
        run(trainer(tmp_path / "stopped", progress=watch))
    again = Watching()
    assert run(trainer(tmp_path / "stopped", progress=again)) == whole
    done = [d for d, _ in again.advances if isinstance(d, int)]
    expected = [1, 2, 1, 2, 3]
    # the epoch whose end was not heard of is ended again, and nothing that was saved before it
    assert done == expected[epochs - 1 :]


class StoppedAfterEpochs(Watching):
    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def advance(self, done, total):
        self.left -= isinstance(done, int)
        if not self.left:
            raise Stopped


def test_a_run_may_be_stopped_at_every_step(tmp_path, every_step_is_saved, every_step_is_told):
    """Of a teacher and a student of several steps an epoch."""
    whole = run(trainer(tmp_path / "whole"))
    assert again_and_again(lambda watch: run(trainer(tmp_path / "stopped", progress=watch)), whole)


def again_and_again(start, expected, least=3):
    """Stop a run after every two steps, until it is done.  Returns whether it ends as it should."""
    for stops in range(60):
        try:
            found = start(Watching(stop_after=2))
        except Stopped:
            continue
        assert stops >= least
        return found == expected
    raise AssertionError("a run that is stopped comes no further")


class Encoders(Transformer):
    """The tiny encoder, and a larger one."""

    def specs(self, input_shape):
        return [ENCODER, LARGER]


IMAGE_METHODS = ("hint-then-soft", "attention", "relation", "assistant", "finetune")
TEXT_METHODS = ("soft", *IMAGE_METHODS)


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_every_method_for_images_may_be_stopped_at_every_step(
    tmp_path, every_step_is_saved, every_step_is_told, method
):
    options = {"training": {"epochs": 2, "batch_size": 12, "views": (1,)}, "distill": method}
    teacher = trainer(tmp_path / "teacher").teacher()

    def start(watch, place="stopped"):
        made = trainer(tmp_path / place, progress=watch, **options)
        return weights(made.student(IMAGES, teacher))

    whole = start(Watching(), "whole")
    assert again_and_again(start, whole)
    assert not list((tmp_path / "stopped").rglob("*.checkpoint"))


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_every_method_for_texts_may_be_stopped_at_every_step(
    tmp_path, every_step_is_saved, every_step_is_told, taught, method
):
    found = sentences(unlabelled=12)
    options = {"training": {"epochs": 2}, "distill": method, "cache_mib": 0}
    family = Encoders()

    def start(watch, place="stopped"):
        made = trainer(tmp_path / place, found, ENCODER, watch, family=family, **options)
        return weights(made.student(ENCODER, asked(taught, made)))

    whole = start(Watching(), "whole")
    assert again_and_again(start, whole)


def test_without_a_checkpoint_an_interrupted_stage_starts_over(tmp_path, nothing_is_saved):
    whole = run(trainer(tmp_path / "whole"))
    with pytest.raises(Stopped):
        run(trainer(tmp_path / "stopped", progress=Watching(stop_after=2)))
    again = Watching()
    assert run(trainer(tmp_path / "stopped", progress=again)) == whole
    assert again.advances[0] == (1, 2)


def test_finished_stages_leave_no_checkpoint(tmp_path, every_step_is_saved):
    run(trainer(tmp_path))
    names = sorted(path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["logits", "logits", "student", "teacher"]
    assert not list(tmp_path.rglob("*.checkpoint"))


# Nothing is done twice


@pytest.mark.parametrize("method", ["soft", "hint-then-soft", "assistant", "finetune"])
def test_finished_stages_are_not_trained_again(tmp_path, method):
    first, second = Watching(), Watching()
    assert run(trainer(tmp_path, progress=first, distill=method)) == run(
        trainer(tmp_path, progress=second, distill=method)
    )
    assert first.advances
    assert second.advances == []


def test_another_student_is_trained_with_the_same_teacher(tmp_path):
    run(trainer(tmp_path))
    watch = Watching()
    run(trainer(tmp_path, progress=watch), WIDER)
    assert watch.advances == [(n, 3) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "options",
    [
        {"latency_ms": 1.0},
        {"name": "other"},
        {"out": "elsewhere"},
        {"precision": "int8"},
        {"data": "renamed"},
        {"control": 3},
    ],
    ids=str,
)
def test_what_does_not_touch_training_finds_everything_again(tmp_path, options):
    run(trainer(tmp_path))
    watch = Watching()
    run(trainer(tmp_path, progress=watch, **options))
    assert watch.advances == []


def test_with_trials_as_long_as_the_run_the_best_trial_is_the_run(tmp_path):
    watch = Watching()
    training = {"epochs": 2, "alpha": (0.0, 0.5)}
    made = trainer(tmp_path, progress=watch, training=training)
    teacher = made.teacher()
    watch.advances.clear()
    made.student(IMAGES, teacher)
    assert watch.advances == [(1, 2), (2, 2)] * 2


def test_choices_of_an_earlier_run_are_not_tried_again(tmp_path):
    """Also those of a method with a stage in which there is nothing to choose."""
    watch = Watching()
    training = {"alpha": (0.0, 0.5), "gate": (False, True)}
    made = trainer(tmp_path, progress=watch, training=training, distill="hint-then-soft")
    teacher = made.teacher()
    student = made.student(IMAGES, teacher)
    watch.advances.clear()
    again = made.student(IMAGES, teacher, seed=7, choices=student.choices)
    assert again.choices == student.choices
    assert again.trials == ()
    assert epochs_of(watch, 3) == [1, 2, 3]


# Nothing of others is used


def test_other_data_never_get_the_teacher_of_these(tmp_path):
    digests, counts = set(), set()
    changed = stripes()
    changed.train.x[0, 0, 0, 0] ^= 1  # a single pixel
    for images in (stripes(), stripes(seed=1), changed):
        watch = Watching()
        digests.add(run(trainer(tmp_path, images, progress=watch))[1])
        counts.add(len(watch.advances))
    assert len(digests) == 3
    assert counts == {2 + 2 + 3}  # the teacher's epochs, the views it answers to, the student's


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 1}, {"batch_size": 8}, {"views": 3}, {"learning_rate": 0.01}, {"weight_decay": 0}],
    ids=str,
)
def test_other_settings_of_the_teacher_train_another_teacher_and_student(tmp_path, settings):
    before = run(trainer(tmp_path))
    after = run(trainer(tmp_path, teacher_training=settings))
    assert after[1] != before[1]
    assert after[0] != before[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 4},
        {"batch_size": 8},
        {"views": (1,)},
        {"learning_rate": 0.01},
        {"weight_decay": 0.1},
        {"temperature": 2.0},
        {"alpha": (0.6,)},
    ],
    ids=str,
)
def test_other_settings_of_the_student_train_another_one(tmp_path, settings):
    before = run(trainer(tmp_path))
    after = run(trainer(tmp_path, training=settings))
    assert after[1] == before[1]
    assert after[0] != before[0]


@pytest.mark.parametrize(
    "options",
    [
        {"stages": (Stage(name="soft", soft="decoupled"),)},
        {"class_weights": "balanced"},
        {"metric": "f1_macro"},
        {"mixed_precision": "bf16"},
    ],
    ids=str,
)
def test_other_options_train_anew(tmp_path, options):
    run(trainer(tmp_path))
    watch = Watching()
    run(trainer(tmp_path, progress=watch, **options))
    assert epochs_of(watch, 3) == [1, 2, 3]


@pytest.mark.parametrize("setting", ["threads", "edgedistill", "torch"])
def test_what_changes_the_bits_trains_anew(tmp_path, monkeypatch, setting):
    """A bundle's bytes must not depend on what an earlier run left in the cache."""
    run(trainer(tmp_path))
    if setting == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif setting == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        monkeypatch.setattr(distill, "__version__", "9.9.9")
    watch = Watching()
    run(trainer(tmp_path, progress=watch))
    assert len(watch.advances) == 7


class Changed(ConvNet):
    """A family whose author has changed what a spec means."""

    def build(self, spec, input_shape, classes):
        module = super().build(spec, input_shape, classes)
        return torch.nn.Sequential(module, torch.nn.Dropout(0.5))


def test_a_family_that_was_changed_under_its_name_is_trained_anew(tmp_path):
    run(trainer(tmp_path))
    watch = Watching()
    run(trainer(tmp_path, progress=watch, family=Changed()))
    assert watch.advances == [(n, 3) for n in (1, 2, 3)]


# The teacher


@pytest.mark.parametrize("views", [1, 2])
def test_the_teachers_answers_are_to_the_very_views_that_the_student_sees(tmp_path, views):
    made = trainer(tmp_path, training={"views": (views,)})
    teacher = made.teacher()
    found = made.task.views(made.data.train.x, views, made.recipe.seed + 2)
    assert teacher.logits.shape == (views, len(made.data.train), 3)
    for expected, view in zip(teacher.logits, found, strict=True):
        samples = made.task.samples([view], None)
        np.testing.assert_array_equal(expected, made.logits(teacher.network, samples))


def test_teacher_and_student_are_handed_over_ready_to_answer(tmp_path):
    made = trainer(tmp_path)
    teacher = made.teacher()
    student = made.student(IMAGES, teacher)
    assert not teacher.network.training
    assert not student.module.training
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_a_student_of_easy_images_learns_them(tmp_path):
    wide = ConvNetSpec("dense", width=16, growth=1.0, stages=1, depth=2, kernel=3)
    made = trainer(tmp_path, training={"epochs": 15})
    student = made.student(wide, made.teacher())
    samples = made.samples(made.data.test.x, None)
    assert made.task.score(made.logits(student.module, samples), made.data.test.y) > 0.9


def test_a_student_of_easy_texts_learns_them_and_says_what_it_took_over(tmp_path, taught):
    made = trainer(tmp_path, sentences(count=120), ENCODER, training={"epochs": 6, "alpha": (0.0,)})
    student = made.student(ENCODER, asked(taught, made))
    samples = made.samples(made.data.test.x, student.preprocessing.encoder)
    assert made.task.score(made.logits(student.module, samples), made.data.test.y) > 0.9
    assert student.adopted.startswith("layers 2, 3 of 3, 16 of 32 hidden dimensions")


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_teacher_whose_classes_stand_in_another_order_is_refused(tmp_path, monkeypatch, kind):
    """It answers as if its labels were the data's, and is wrong about every sample."""
    reference = teacher_module(tmp_path, monkeypatch, kind, order=(1, 2, 0))
    found = stripes() if kind == "image" else sentences()
    made = trainer(tmp_path, found, IMAGES if kind == "image" else BAG, teacher=reference)
    with pytest.raises(TeacherError) as caught:
        made.teacher()
    assert str(caught.value) == (
        f"the teacher {reference} is at chance on the validation split (balanced accuracy 0.000, "
        "chance 0.333); check its labels' order, its preprocessing and that it was trained for "
        "these classes"
    )


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_teacher_in_the_right_order_is_taken(tmp_path, monkeypatch, kind):
    reference = teacher_module(tmp_path, monkeypatch, kind, order=(0, 1, 2))
    found = stripes() if kind == "image" else sentences()
    made = trainer(tmp_path, found, IMAGES if kind == "image" else BAG, teacher=reference)
    assert made.teacher().validation == 1.0


def test_a_teacher_that_names_its_classes_may_have_them_in_any_order(tmp_path, monkeypatch):
    names = ("below", "left", "above")
    reference = teacher_module(tmp_path, monkeypatch, "image", order=(1, 2, 0), names=names)
    made = trainer(tmp_path, stripes(), teacher=reference)
    teacher = made.teacher()
    assert teacher.validation == 1.0
    assert (teacher.logits[0].argmax(-1) == made.data.train.y).all()


def test_a_teacher_that_always_gives_one_answer_is_refused(tmp_path, monkeypatch):
    reference = teacher_module(tmp_path, monkeypatch, "image", order=(0, 0, 0))
    with pytest.raises(TeacherError, match="at chance"):
        trainer(tmp_path, stripes(), teacher=reference).teacher()


TEACHERS = """
import torch
from torch import nn

class Knowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))
        {tokenizer}
        {names}

    def forward(self, x, mask=None):
        return self.scale * {told}[:, {order}]

def build():
    return Knowing()
"""
TOLD = {
    "image": "torch.stack([x[:, 0, :2].mean((1, 2)), x[:, 0, 2:].mean((1, 2)), "
    "x[:, 0, :, :2].mean((1, 2))], 1)",
    "text": "torch.stack([torch.isin(x, torch.tensor(ids)).sum(1).float() for ids in {ids}], 1)",
}


def teacher_module(folder, monkeypatch, kind, order, names=None):
    """A module with a teacher that knows the answers, as a user would write it."""
    told, tokenizer = TOLD[kind], ""
    if kind == "text":
        words = teachers_support.word_piece()
        words.save_pretrained(folder / "words")
        ids = [
            [words.convert_tokens_to_ids(word) for word in told_by] for told_by in OPINIONS.values()
        ]
        told = told.format(ids=ids)
        tokenizer = (
            "from tokenizers import Tokenizer; self.tokenizer = "
            f"Tokenizer.from_file({str(folder / 'words' / 'tokenizer.json')!r})"
        )
    text = TEACHERS.format(
        told=told,
        tokenizer=tokenizer,
        order=list(order),
        names=f"self.labels = {list(names)!r}" if names else "",
    )
    name = f"knowing_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return f"{name}:build"


def test_a_teacher_of_several_labels_is_held_against_chance_too(tmp_path, taught):
    made = trainer(tmp_path, multi_label(sentences()), BAG)
    upside_down = copy.deepcopy(taught.network)
    with pytest.raises(TeacherError, match="at chance"):
        made._check_chance("it", Negated(upside_down), taught.encoder)
    assert made._check_chance("it", taught.network, taught.encoder) > 0


class Negated(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return -self.network(*inputs)


# Alpha, gate and views


def test_alpha_is_the_trials_best_on_the_validation_split(tmp_path):
    alphas = (0.0, 0.5, 0.9)
    made = trainer(tmp_path, training={"alpha": alphas})
    student = made.student(IMAGES, made.teacher())
    assert tuple(trial.alpha for trial in student.trials) == alphas
    best = max(student.trials, key=lambda t: (t.metric, -t.cross_entropy))
    assert student.alpha == best.alpha
    assert student.choices == {"soft": Choice(best.alpha, False, 2)}


def test_the_gate_is_tried_with_the_best_alpha_and_then_the_views(tmp_path):
    training = {"alpha": (0.5, 0.9), "gate": (False, True), "views": (1, 2)}
    made = trainer(tmp_path, training=training)
    student = made.student(IMAGES, made.teacher())
    tried = [(t.alpha, t.gate, t.views) for t in student.trials]
    assert tried[:2] == [(0.5, False, 2), (0.9, False, 2)]
    key = {(t.alpha, t.gate, t.views): (t.metric, -t.cross_entropy) for t in student.trials}
    alpha = max(tried[:2], key=key.__getitem__)[0]
    assert tried[2] == (alpha, True, 2)
    gate = max([(alpha, False, 2), (alpha, True, 2)], key=key.__getitem__)[1]
    assert tried[3:] == [(alpha, gate, 1)]
    best = max(tried, key=key.__getitem__)
    assert student.choices["soft"] == Choice(*best)


def test_without_a_teacher_there_is_no_gate_to_try(tmp_path):
    made = trainer(tmp_path, training={"alpha": (0.0,), "gate": (False, True)})
    assert made.student(IMAGES, made.teacher()).trials == ()


def test_single_choices_need_no_trials(tmp_path):
    watch = Watching()
    made = trainer(tmp_path, progress=watch)
    teacher = made.teacher()
    watch.advances.clear()
    student = made.student(IMAGES, teacher)
    assert (student.alpha, student.trials) == (0.5, ())
    assert len(watch.advances) == 3


def test_with_alpha_zero_the_teacher_has_no_say(tmp_path):
    training = {"alpha": (0.0,)}
    (one, teacher), (same, another) = (
        run(trainer(tmp_path, training=training, teacher_training={"epochs": epochs}))
        for epochs in (2, 1)
    )
    assert teacher != another
    assert one == same


def test_with_a_weight_of_its_own_the_teacher_has_a_say(tmp_path):
    one, another = (
        run(trainer(tmp_path, teacher_training={"epochs": epochs}))[0] for epochs in (2, 1)
    )
    assert one != another


def test_the_gate_keeps_a_teachers_mistakes_from_the_student(tmp_path, taught):
    """A teacher wrong about every sample is, behind the gate, no teacher."""
    made = trainer(tmp_path, sentences(), BAG)
    wrong = replace(taught, logits=np.roll(one_hot(made.data.train.y), 1, -1)[None].repeat(2, 0))
    none = made.student(BAG, wrong, choices={"soft": Choice(0.0, False, 2)})
    gated = made.student(BAG, wrong, choices={"soft": Choice(0.9, True, 2)})
    followed = made.student(BAG, wrong, choices={"soft": Choice(0.9, False, 2)})
    assert distance(gated, none) < 1e-5
    assert distance(followed, none) > 1e-2


def one_hot(y):
    return (9 * np.eye(3)[y]).astype(np.float32)


def distance(one, other):
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_a_last_batch_of_one_sample_is_no_obstacle(tmp_path):
    made = trainer(tmp_path, training={"epochs": 1, "batch_size": 7, "views": (1,)})
    assert len(made.data.train) % 7 == 1
    run(made)


def test_the_control_learns_from_the_labels_alone(tmp_path):
    watch = Watching()
    made = trainer(tmp_path, progress=watch, training={"views": (1, 2)})
    teacher = made.teacher()
    control = made.control(IMAGES, teacher, 2, 0)
    assert control.choices == {"control": Choice(0.0, False, 2)}
    assert control.trials == ()
    other = replace(teacher, digest="other", logits=-teacher.logits)
    assert weights(made.control(IMAGES, other, 2, 0)) == weights(control)
    tried = made.control(IMAGES, teacher, None, 0)
    assert [t.views for t in tried.trials] == [2, 1]


# Samples without label, several labels, weights


def test_unlabelled_samples_are_learnt_from_with_the_teacher_alone(tmp_path, encoder):
    """With alpha 0 they change nothing; with another alpha the answers to them do."""
    found = sentences(unlabelled=12)
    made = trainer(tmp_path, found, BAG, teacher=encoder)
    teacher = made.teacher()
    assert teacher.logits.shape == (2, 52, 3)
    changed = teacher.logits.copy()
    changed[:, 40:] *= -1
    other = replace(teacher, logits=changed, digest="other")
    for alpha, same in ((0.0, True), (0.5, False)):
        choices = {"soft": Choice(alpha, False, 2)}
        one, two = (weights(made.student(BAG, t, choices=choices)) for t in (teacher, other))
        assert (one == two) is same


def test_the_gate_leaves_unlabelled_samples_to_the_teacher(tmp_path, taught):
    made = trainer(tmp_path, sentences(unlabelled=12), BAG)
    answers = one_hot(np.concatenate([made.data.train.y, np.zeros(12, np.int64)]))
    logits = np.roll(answers, 1, -1)[None].repeat(2, 0)  # wrong about all that have a label
    changed = logits.copy()
    changed[:, 40:] *= -1
    choices = {"soft": Choice(0.5, True, 2)}
    one, two = (
        weights(made.student(BAG, replace(taught, logits=x, digest=d), choices=choices))
        for x, d in ((logits, "one"), (changed, "two"))
    )
    assert one != two


def test_several_labels_a_sample_are_learnt(tmp_path, encoder):
    found = multi_label(sentences(count=120))
    made = trainer(
        tmp_path,
        found,
        BAG,
        teacher=encoder,
        training={"epochs": 30, "alpha": (0.5,), "views": (1,)},
        teacher_training={"learning_rate": 0.002, "batch_size": 8},
    )
    teacher = made.teacher()
    assert made.task.metric == "f1_macro"
    student = made.student(BAG, teacher)
    samples = made.samples(found.test.x, student.preprocessing.encoder)
    logits = made.logits(student.module, samples)
    assert made.task.score(logits, found.test.y) > 0.8
    chosen = answers.choose(logits, found.test.y, found.labels, calibrate=False)
    assert chosen.steps() == ({"op": "sigmoid"},)


def test_balanced_class_weights_are_the_inverse_of_the_counts(tmp_path):
    images = stripes()
    keep = np.flatnonzero((images.train.y != 2) | (np.arange(36) < 12))
    images = replace(images, train=data.Split(images.train.x[keep], images.train.y[keep]))
    counts = np.bincount(images.train.y)
    made = trainer(tmp_path, images, class_weights="balanced")
    np.testing.assert_allclose(made.weights, len(keep) / (3 * counts), rtol=1e-6)
    assert trainer(tmp_path, images).weights is None


def test_class_weights_help_the_rare_class(tmp_path):
    """Of samples that look alike, an unweighted student takes the frequent class."""
    images = stripes(count=90)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, images.train.x.shape).astype(np.uint8)
    y = (np.arange(len(x)) % 9 == 0).astype(np.int64)
    train = data.Split(x, y)
    found = data.Dataset("noise", images.sample, ("often", "rare"), train, train, train)
    rare = {}
    for kind in ("none", "balanced"):
        made = trainer(
            tmp_path,
            found,
            class_weights=kind,
            metric="f1_macro",
            teacher_training={"epochs": 12},
            training={"epochs": 1, "alpha": (0.0,), "views": (1,)},
        )
        student = made.control(IMAGES, nobody(), 1, 0)
        samples = made.samples(x, None)
        logits = torch.from_numpy(made.logits(student.module, samples))
        rare[kind] = logits.softmax(-1)[:, 1].mean().item()
    assert rare["balanced"] > rare["none"] + 0.05


def nobody():
    """A teacher that a control never asks."""
    logits = np.zeros((1, 54, 2), np.float32)
    return distill.Teacher("nobody", torch.nn.Identity(), "none", logits, 0)


# Intermediate outputs


def test_a_stage_on_features_leaves_no_trace_on_the_student(tmp_path):
    made = trainer(tmp_path, distill="hint-then-soft")
    student = made.student(IMAGES, made.teacher())
    assert not [m for m in student.module.modules() if m._forward_hooks]
    copied = copy.deepcopy(student.module)
    assert copied.state_dict().keys() == student.module.state_dict().keys()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_student_just_trained_answers_as_one_from_the_cache(tmp_path, precision):
    made = trainer(tmp_path, mixed_precision=precision)
    teacher = made.teacher()
    student = made.student(IMAGES, teacher)
    samples = made.samples(made.data.test.x, None)
    again = trainer(tmp_path, mixed_precision=precision).student(IMAGES, teacher)
    one, two = (made.logits(s.module, samples) for s in (student, again))
    np.testing.assert_array_equal(one, two)
    assert "forward" not in vars(student.module)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("hint-then-soft", "image"),
        ("attention", "image"),
        ("hint-then-soft", "text"),
        ("attention", "text"),
        ("relation", "text"),
    ],
)
def test_over_cache_mib_the_teacher_runs_in_the_loop_to_the_same_student(
    tmp_path, taught, method, kind
):
    """But for the rounding to float16 on the disk, which few steps can make much of."""
    training = {"epochs": 1, "learning_rate": 0.002}
    found, spec = (stripes(), IMAGES) if kind == "image" else (sentences(), ENCODER)
    students, notes = [], []
    for mib in (2048, 0):
        watch = Watching()
        made = trainer(
            tmp_path / str(mib),
            found,
            spec,
            watch,
            training=training,
            distill=method,
            cache_mib=mib,
        )
        teacher = taught if kind == "text" else made.teacher()
        students.append(made.student(spec, teacher))
        notes.append(" ".join(watch.notes))
        assert bool(list((tmp_path / str(mib)).rglob("features-*.f16"))) is bool(mib)
    assert "computed and cached" in notes[0]
    assert "over cache_mib 0: the teacher runs in every step" in notes[1]
    cached, computed = (s.module.state_dict() for s in students)
    for name, value in cached.items():
        torch.testing.assert_close(value, computed[name], rtol=0.01, atol=2e-3)


def test_features_are_cached_once_for_every_student_of_a_teacher(tmp_path):
    made = trainer(tmp_path, distill="hint-then-soft")
    teacher = made.teacher()
    made.student(IMAGES, teacher)
    before = sorted(tmp_path.rglob("features-*"))
    watch = Watching()
    again = trainer(tmp_path, progress=watch, distill="hint-then-soft")
    again.student(WIDER, teacher)
    assert sorted(tmp_path.rglob("features-*")) == before
    assert any("from the cache" in note for note in watch.notes if "features" in note)


def test_features_of_another_teacher_or_of_other_data_are_never_used(tmp_path):
    for options in ({}, {"teacher_training": {"epochs": 1}}):
        for images in (stripes(), stripes(seed=1)):
            made = trainer(tmp_path, images, distill="hint-then-soft", **options)
            made.student(IMAGES, made.teacher())
    assert len(list(tmp_path.rglob("features-*"))) == 4


def test_a_network_without_layers_cannot_learn_from_layers(tmp_path, taught):
    made = trainer(tmp_path, sentences(), BAG, distill="hint-then-soft")
    with pytest.raises(SettingsError) as caught:
        made.student(BAG, taught)
    assert str(caught.value) == (
        "the student has no layers for the loss 'hint' (it needs layers of one kind in both); "
        "use --distill soft, or another teacher or family"
    )


def test_a_teacher_that_shares_no_tokens_cannot_be_compared_token_by_token(tmp_path, taught):
    made = trainer(tmp_path, sentences(), ENCODER, distill="hint-then-soft")
    with pytest.raises(SettingsError, match="has no fast tokenizer to share with the student"):
        made.student(ENCODER, replace(taught, tokenizer=None))


def test_a_teacher_of_shorter_texts_cannot_be_compared_token_by_token(tmp_path, taught):
    found = sentences()
    found.train.x[0] = "good film " * 30
    short = replace(taught, encoder=TeacherEncoder(taught.encoder._tokenizer, 20))
    made = trainer(tmp_path, found, ENCODER, distill="hint-then-soft")
    with pytest.raises(SettingsError) as caught:
        made.student(ENCODER, short)
    assert str(caught.value) == (
        f"stage 'hints' compares tokens: texts have up to 62, and {taught.name} takes 20; "
        "give max_length = 20, or use --distill soft"
    )
    trainer(tmp_path, found, ENCODER, distill="hint-then-soft", max_length=20).student(
        ENCODER, asked(short, made)
    )


def test_hints_may_be_between_layers_that_the_recipe_names(tmp_path, taught):
    layers = {"layers.0": "model.bert.encoder.layer.2", "head": "model.classifier"}
    stage = Stage(name="by-hand", features={"hint": 1.0}, layers=layers)
    for mib in (2048, 0):
        made = trainer(
            tmp_path / str(mib),
            sentences(),
            ENCODER,
            stages=(stage, Stage(name="soft")),
            cache_mib=mib,
        )
        made.student(ENCODER, taught)


# Own losses


def test_losses_of_ones_own_are_called_by_name(tmp_path):
    called = set()

    def soft(student, teacher, temperature):
        called.add("soft")
        return (student - teacher).pow(2).mean()

    def feature(student, teacher):
        called.add("feature")
        assert student.shape[:2] == teacher.shape[:2]  # a regressor makes it as wide
        return (student.mean((2, 3)) - teacher.mean((2, 3))).abs().mean()

    stages = (
        Stage(name="layers", features={"mine": 2.0, "hint": 1.0}),
        Stage(name="answers", soft="other", alpha=(0.5,)),
    )
    own = {"mine": feature, "other": soft}
    one = run(trainer(tmp_path / "one", stages=stages, own_losses=own))
    assert called == {"soft", "feature"}
    assert run(trainer(tmp_path / "one", stages=stages, own_losses=own)) == one


def test_a_loss_that_was_changed_under_its_name_trains_anew(tmp_path):
    stages = (Stage(name="soft", soft="mine"),)
    one = run(trainer(tmp_path, stages=stages, own_losses={"mine": squares}))
    two = run(trainer(tmp_path, stages=stages, own_losses={"mine": absolutes}))
    assert one[0] != two[0]


def squares(student, teacher, temperature):
    return (student - teacher).pow(2).mean()


def absolutes(student, teacher, temperature):
    return (student - teacher).abs().mean()


def test_a_loss_that_nobody_has_is_told_before_anything_is_trained(tmp_path):
    for stage in (
        Stage(name="x", soft="soft_target"),
        Stage(name="x", features={"hnt": 1.0}, alpha=(0.5,)),
    ):
        with pytest.raises(SettingsError, match=r"no loss named '.*'; did you mean"):
            trainer(tmp_path, stages=(stage,))


# Assistant


def test_an_assistant_stands_between_the_two(tmp_path):
    watch = Watching()
    made = trainer(tmp_path, progress=watch, distill="assistant")
    teacher = made.teacher()
    student = made.student(IMAGES, teacher)
    assert "ConvNetSpec(" in student.assistant
    assert "validation accuracy" in student.assistant
    assert epochs_of(watch, 3) == [1, 2, 3] * 2
    assert trainer(tmp_path).student(IMAGES, teacher).assistant == ""


def test_behind_an_assistant_a_student_still_takes_over_from_the_teacher_itself(tmp_path, taught):
    """Which measures what matters on the teacher's own tokens."""
    made, plain = (
        trainer(tmp_path / method, sentences(), ENCODER, distill=method, family=Encoders())
        for method in ("assistant", "soft")
    )
    starts = []
    for each in (made, plain):
        each.student(ENCODER, taught)
        files = each.work.folder.glob("start-*.bin")
        starts.append({path.read_bytes() for path in files})
    assert starts[1] <= starts[0]


def test_a_loss_that_is_no_number_any_more_is_one_sentence(tmp_path):
    made = trainer(tmp_path, training={"learning_rate": 1e9, "epochs": 4})
    teacher = made.teacher()
    own = {"mine": lambda student, teacher, temperature: student.sum() * float("nan")}
    stages = (Stage(name="broken", soft="mine"),)
    with pytest.raises(TrainingError) as caught:
        trainer(tmp_path, stages=stages, own_losses=own).student(IMAGES, teacher)
    assert str(caught.value) == (
        "the stage 'broken' came to a loss of nan in epoch 1; lower its learning rate"
    )
