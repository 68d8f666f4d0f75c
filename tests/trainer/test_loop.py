"""The training loop: its schedule, what a checkpoint holds, and which epoch is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.training_support import Stopped, Watching
from torch import nn

from edgedistill.distill import loop
from edgedistill.distill.loop import Loop, Rows, Schedule, Score, learning_rate
from edgedistill.distill.processes import Processes
from edgedistill.errors import TrainingError
from edgedistill.progress import Silent
from edgedistill.samples import ArraySamples

X = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))


def squares(module, rows):
    return (module(X[rows]) - Y[rows]).pow(2).mean()


@pytest.fixture
def train(tmp_path):
    """Train a network on 20 rows in batches of 4.  Returns its weights."""

    def train(module=None, loss=squares, progress=None, validate=None, **schedule):
        module = module or network()
        plan = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "weight_decay": 0.0}
        made = Loop(
            module,
            loss,
            Rows(ArraySamples(X), 20, 20, 1),
            Schedule(**plan | schedule),
            name="test",
            seed=5,
            checkpoint=tmp_path / "work" / "test.checkpoint",
            processes=Processes("cpu", "no", "", tmp_path),
            progress=progress or Silent(),
            validate=validate,
        )
        made.run()
        return {name: value.clone() for name, value in module.state_dict().items()}

    return train


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# The schedule


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine():
    schedule = Schedule(1, 4, 0.1, 0.0)
    rates = [learning_rate(schedule, step, 100) for step in range(100)]
    assert rates[:15] == pytest.approx([0.1 * (i + 1) / 15 for i in range(15)])
    assert rates[15] == pytest.approx(0.1)
    half = 15 + 85 / 2
    assert learning_rate(schedule, half, 100) == pytest.approx(0.05)
    assert rates[15:] == sorted(rates[15:], reverse=True)
    expected = 0.05 * (1 + math.cos(math.pi * 84 / 85))
    assert rates[-1] == pytest.approx(max(1e-4, expected))
    assert min(rates[15:]) >= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_trainings_have_a_rate_at_every_step(steps):
    schedule = Schedule(1, 4, 0.1, 0.0)
    rates = [learning_rate(schedule, step, steps) for step in range(steps)]
    assert rates[0] == 0.1
    assert all(0 < rate <= 0.1 for rate in rates)


def test_the_optimizer_gets_the_rate_of_every_step(train, monkeypatch):
    used = []

    def loss(module, rows):
        used.append(len(rows))
        return squares(module, rows)

    told = []
    monkeypatch.setattr(
        loop, "learning_rate", lambda s, step, steps: told.append((step, steps)) or 0.01
    )
    train(loss=loss, epochs=2)
    assert told == [(i, 10) for i in range(10)]
    assert used == [4] * 10


# Interruption


@pytest.fixture
def every_step(monkeypatch):
    """Saved, and told but for the first of a run."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 0)
    monkeypatch.setattr(loop, "PROGRESS_SECONDS", -1.0)


@pytest.mark.parametrize("stop", range(1, 13))
def test_a_training_that_was_stopped_at_a_step_goes_on_to_the_same_weights(train, every_step, stop):
    """Dropout, order, learning rate and optimizer go on as if nothing had happened."""
    whole = train()
    seen = []

    def counting(module, rows):
        seen.append(rows.tolist())
        return squares(module, rows)

    with pytest.raises(Stopped):
        train(loss=counting, progress=Watching(stop_after=stop))
    before = len(seen)
    assert same(train(loss=counting), whole)
    # only the step whose end was not heard of is done again
    assert len(seen) <= 15 + 1
    assert before + 1 <= 15


def test_a_stopped_training_keeps_the_best_epoch_and_how_long_it_waited(train, every_step):
    def validator():
        scores = iter([0.1, 0.9, 0.5, 0.5])
        return lambda module: Score(next(scores), 0.0)

    watch = Watching()
    whole = train(validate=validator(), progress=watch, epochs=9, patience=2)
    assert watch.advances[-1] == (4, 9)
    scores = validator()
    with pytest.raises(Stopped):  # in the fourth epoch: two are saved, the third is not better
        train(validate=scores, progress=Watching(stop_after=17), epochs=9, patience=2)
    assert same(train(validate=scores, epochs=9, patience=2), whole)


def test_a_finished_training_leaves_no_checkpoint(train, every_step, tmp_path):
    train()
    assert not list((tmp_path / "work").iterdir())


def test_checkpoints_take_a_small_part_of_the_time(train, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    written = []
    monkeypatch.setattr(loop, "write_atomically", lambda path, data: written.append(data))
    train(epochs=20)
    # each call of the clock is a second later: a checkpoint takes one, and 20 must lie between
    assert 2 <= len(written) < 100 / 10


# The best epoch


def test_the_best_epochs_weights_are_kept(train):
    states, scores = [], iter([0.2, 0.8, 0.8, 0.1])

    def validate(module):
        assert next(module.parameters()).grad is not None
        states.append({k: v.clone() for k, v in module.state_dict().items()})
        return Score(next(scores), 0.0)

    kept = train(validate=validate, epochs=4)
    assert same(kept, states[1])
    assert not same(kept, states[3])


def test_of_equal_metrics_the_smaller_cross_entropy_is_better(train):
    states, scores = [], iter([-0.5, -0.2, -0.3])

    def validate(module):
        states.append({k: v.clone() for k, v in module.state_dict().items()})
        return Score(0.8, next(scores))

    assert same(train(validate=validate), states[1])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (None, 8)])
def test_patience_ends_a_training_that_does_not_get_better(train, patience, epochs):
    scores = iter([0.5, 0.6, *[0.1] * 8])
    watch = Watching()
    train(
        validate=lambda module: Score(next(scores), 0.0),
        progress=watch,
        epochs=8,
        patience=patience,
    )
    assert watch.advances[-1] == (epochs, 8)


def test_validation_may_leave_the_network_as_it_likes(train):
    """Dropout is on again in the next epoch."""
    modes = []

    def loss(module, rows):
        modes.append(module.training)
        return squares(module, rows)

    train(loss=loss, validate=lambda module: Score(float(module.eval().training), 0.0))
    assert all(modes)


def test_a_trained_network_is_ready_to_answer(train):
    module = network()
    train(module)
    assert not module.training


# What goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_one_sentence(train, value):
    def loss(module, rows):
        return squares(module, rows) * value

    with pytest.raises(TrainingError) as caught:
        train(loss=loss)
    assert str(caught.value).startswith("the stage 'test' came to a loss of ")
    assert str(caught.value).endswith(" in epoch 1; lower its learning rate")
    assert TrainingError.exit_code == 2


def test_a_last_batch_of_one_row_is_left_out(tmp_path, train):
    sizes = []

    def loss(module, rows):
        sizes.append(len(rows))
        return squares(module, rows)

    train(loss=loss, batch_size=19, epochs=1)
    assert sizes == [19]


def test_weights_that_are_not_to_be_trained_stay(train):
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    last = module[3].weight.clone()
    train(module)
    assert torch.equal(module[0].weight, before)
    assert not torch.equal(module[3].weight, last)


def test_deterministic_algorithms_are_the_loops_alone(train):
    inside = []

    def loss(module, rows):
        inside.append(torch.are_deterministic_algorithms_enabled())
        return squares(module, rows)

    train(loss=loss)
    assert all(inside)
    assert not torch.are_deterministic_algorithms_enabled()


def test_curves_are_logged_for_every_epoch(tmp_path):
    """TensorBoard's files, one run after the other in the same process."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    processes = Processes("cpu", "no", "tensorboard", tmp_path / "logs")
    for name in ("first", "second"):
        Loop(
            network(),
            squares,
            Rows(ArraySamples(X), 20, 20, 1),
            Schedule(3, 4, 0.01, 0.0),
            name=name,
            seed=5,
            checkpoint=tmp_path / "test.checkpoint",
            processes=processes,
            progress=Silent(),
            validate=lambda module: Score(0.25, 0.0),
        ).run()
        events = EventAccumulator(str(tmp_path / "logs" / name))
        events.Reload()
        assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "validation"}
        assert [e.step for e in events.Scalars("loss")] == [1, 2, 3]
        assert [e.value for e in events.Scalars("validation")] == [0.25] * 3
