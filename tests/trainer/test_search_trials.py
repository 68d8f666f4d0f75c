"""Trials: the best of a few candidates, by one worker or several that share a storage."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import optuna
import pytest

from edgedistill.errors import SettingsError, TrainingError
from edgedistill.search import halving
from edgedistill.search.halving import BUDGETS, Storage, Tried, run, winner

QUICK = {"heartbeat_s": 1, "grace_s": 2, "silent_s": 1.0, "poll_s": 0.05}
GOODNESS = (0.7, 0.9, 0.6, 0.8, 0.5, 0.4)

WORKER = """
    import json, sys, time
    from pathlib import Path
    from edgedistill.search.halving import Storage, run, winner

    url, folder, own, others = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    done = []

    def measure(place, share):
        (folder / own).touch()  # begun; the first trial is held until every worker has one
        until = time.monotonic() + 30
        while not all((folder / other).exists() for other in others):
            assert time.monotonic() < until, "the other worker never began"
            time.sleep(0.01)
        if not done or done[-1] != place:
            done.append(place)
        return {goodness}[place] * (0.5 + share)

    storage = Storage(url, heartbeat_s=1, grace_s=2, silent_s=1.0, poll_s=0.05)
    tried = run({count}, measure, "one-search", storage)
    best = winner(tried, [1.0] * {count}, 1000)
    print(json.dumps([done, [[t.place, t.metrics, t.state] for t in tried], best]))
"""


@pytest.fixture
def worker():
    """Starts workers, and leaves none behind."""
    started = []

    def start(*arguments):
        started.append(_worker(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _worker(url, folder, own, *others):
    code = textwrap.dedent(WORKER).replace("{goodness}", str(GOODNESS))
    code = code.replace("{count}", str(len(GOODNESS)))
    return subprocess.Popen(
        [sys.executable, "-c", code, url, str(folder), own, *others],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(params=["database", "journal"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/t.db" if request.param == "database" else f"{tmp_path}/journal"


def scripted(goodness=GOODNESS, calls=None):
    def measure(place, share):
        if calls is not None:
            calls.append((place, share))
        return goodness[place] * (0.5 + share)

    return measure


# One worker


def test_the_better_half_goes_on_and_every_candidate_is_tried():
    calls = []
    tried = run(6, scripted(calls=calls), "one", Storage())
    assert [each.place for each in tried] == list(range(6))
    assert winner(tried, [1.0] * 6, 1000) == 1
    assert tried[1].state == "finished"
    assert tried[1].metrics == tuple(0.9 * (0.5 + share) for share in BUDGETS)
    stopped = [each for each in tried if each.state == "stopped"]
    assert len(stopped) >= 3
    assert all(len(each.metrics) < len(BUDGETS) for each in stopped)
    assert len(calls) == sum(len(each.metrics) for each in tried) < 6 * len(BUDGETS)
    for place in range(6):  # each from small to large
        shares = [share for tried_place, share in calls if tried_place == place]
        assert shares == list(BUDGETS[: len(shares)])


def test_the_same_search_gives_the_same_answer():
    assert run(6, scripted(), "one", Storage()) == run(6, scripted(), "one", Storage())


def test_a_training_that_fails_is_counted_and_the_others_go_on():
    def measure(place, share):
        if place == 0:
            raise TrainingError("the loss is not a number")
        return GOODNESS[place]

    told = []
    tried = run(3, measure, "one", Storage(), told.append)
    assert [each.state for each in tried] == ["failed", "finished", "stopped"]
    assert tried[0].metrics == ()
    assert winner(tried, [1.0] * 3, 1000) == 1
    assert told == list(tried)


def test_without_a_finished_trial_nobody_wins():
    assert winner([Tried(0, (0.5,), "stopped"), Tried(1, (), "failed")], [1.0, 1.0], 100) is None


@pytest.mark.parametrize(
    ("metrics", "expected"), [((0.90, 0.89, 0.80), 1), ((0.90, 0.80, 0.70), 0)]
)
def test_of_those_within_a_standard_error_the_fastest_wins(metrics, expected):
    tried = [Tried(i, (0.5, 0.6, metric), "finished") for i, metric in enumerate(metrics)]
    assert halving.standard_error(0.9, 100) == pytest.approx(0.03)
    assert winner(tried, [3.0, 2.0, 1.0], 100) == expected


def test_what_was_finished_is_not_tried_again(url):
    whole = run(6, scripted(), "whole", Storage())
    calls = []

    def impatient(place, share):
        if len(calls) == 5:
            raise KeyboardInterrupt
        return scripted(calls=calls)(place, share)

    with pytest.raises(KeyboardInterrupt):
        run(6, impatient, "stopped", Storage(url, **QUICK))
    before = list(calls)
    tried = run(6, scripted(calls=calls), "stopped", Storage(url, **QUICK))
    again = set(calls[len(before) :]) & set(before)
    assert len({place for place, _ in again}) <= 1  # the one that was interrupted
    assert winner(tried, [1.0] * 6, 1000) == winner(whole, [1.0] * 6, 1000)
    assert {each.place for each in tried} == set(range(6))
    more = len(calls)
    assert run(6, scripted(calls=calls), "stopped", Storage(url, **QUICK)) == tried
    assert len(calls) == more


def test_searches_of_two_names_share_a_storage_and_nothing_else(url):
    one = run(2, scripted((0.9, 0.5)), "one", Storage(url, **QUICK))
    other = run(2, scripted((0.5, 0.9)), "other", Storage(url, **QUICK))
    assert winner(one, [1.0, 1.0], 1000) == 0
    assert winner(other, [1.0, 1.0], 1000) == 1


@pytest.mark.parametrize(
    "bad", ["postgresql://nobody@localhost:1/x", "sqlite:////nowhere/at/all.db", "/nowhere/journal"]
)
def test_a_storage_that_cannot_be_used_is_one_sentence(bad):
    with pytest.raises(SettingsError, match="storage '") as caught:
        run(2, scripted(), "one", Storage(bad, **QUICK))
    assert "\n" not in str(caught.value)


# Several workers


def test_two_workers_split_the_trials_and_agree(worker, url, tmp_path):
    both = [worker(url, tmp_path, "a", "b"), worker(url, tmp_path, "b", "a")]
    (mine, tried, best), (theirs, also, other) = map(answer, both)
    assert mine
    assert theirs
    assert not set(mine) & set(theirs)
    assert set(mine) | set(theirs) == set(range(len(GOODNESS)))
    assert tried == also
    assert best == other
    assert {place for place, _, _ in tried} == set(range(len(GOODNESS)))


def test_a_worker_that_dies_before_its_first_heartbeat_keeps_nobody_waiting(worker, tmp_path):
    url = f"sqlite:///{tmp_path}/t.db"
    study = optuna.create_study(
        study_name="one-search", storage=Storage(url, **QUICK).open(), direction="maximize"
    )
    study.enqueue_trial({halving.CANDIDATE: 0})
    with pytest.warns(UserWarning, match="Heartbeat"):
        study.ask()  # it runs now, and nobody has said so
    done, tried, best = answer(worker(url, tmp_path, "b"))
    assert set(done) == set(range(len(GOODNESS)))
    assert {place: state for place, _, state in tried}[0] != "failed"
    assert best == 1


def test_a_worker_that_dies_in_the_middle_keeps_nobody_waiting(worker, url, tmp_path):
    dying = worker(url, tmp_path, "a", "never")
    until = time.monotonic() + 30
    while not (tmp_path / "a").exists():
        assert time.monotonic() < until
        assert dying.poll() is None, dying.stderr.read()
        time.sleep(0.05)
    dying.kill()
    dying.wait()
    survivor = answer(worker(url, tmp_path, "b"))
    done, tried, best = survivor
    states = {place: state for place, _, state in tried}
    taken_again = url.startswith("sqlite")  # a database has heartbeats, a journal has not
    assert (states[0] != "failed") == taken_again
    assert (0 in done) == taken_again
    assert set(done) >= set(range(1, len(GOODNESS)))
    assert best == 1
