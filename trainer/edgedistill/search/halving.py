"""Short distillations of the best few candidates, by successive halving through Optuna.

Each candidate learns for a small budget first; the better half goes on to the next budget (Li et
al. 2020, https://arxiv.org/abs/1810.05934).  Workers that share a storage share the candidates:
what Optuna's storages do is all the coordination there is.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedistill.errors import SettingsError, TrainingError

if TYPE_CHECKING:
    import sqlite3

    import optuna
    import sqlalchemy

BUDGETS = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the epochs of a full distillation."""
FACTOR = 2
"""A budget over the one before; one candidate in so many goes on."""
HEARTBEAT_S, GRACE_S = 30, 120
"""How often a worker on a database says that it lives, and when it is taken to be gone."""
SILENT_S = 1800.0
"""In a journal, which has no heartbeats: without any news for so long, others are taken to be
gone."""
POLL_S, OPENINGS = 1.0, 3
RETRIES = 2
CANDIDATE = "candidate"

Measure = Callable[[int, float], float]
"""(place of a candidate, share of the epochs) -> metric on the validation split"""
News = Callable[["Tried"], None]


@dataclass(frozen=True)
class Storage:
    """Where trials are kept, and how a worker that died is noticed."""

    url: str = ""
    """An Optuna URL, the path of a journal, or nothing: this process's memory."""
    heartbeat_s: int = HEARTBEAT_S
    grace_s: int = GRACE_S
    silent_s: float = SILENT_S
    poll_s: float = POLL_S

    @property
    def has_heartbeats(self) -> bool:
        return "://" in self.url

    def open(self) -> optuna.storages.BaseStorage:
        """Raises SettingsError."""
        import optuna

        if not self.url:
            return optuna.storages.InMemoryStorage()
        for attempt in range(OPENINGS):
            try:
                return self._open()
            except Exception as error:  # SQLAlchemy's, a driver's, an importer's, or the system's
                if attempt == OPENINGS - 1:
                    raise SettingsError(
                        f"storage {self.url!r} cannot be opened ({_first_line(error)}); give a URL "
                        "such as sqlite:///trials.db, or the path of a journal's file"
                    ) from error
                time.sleep(self.poll_s)  # another worker may be making the same tables
        raise AssertionError

    def _open(self) -> optuna.storages.BaseStorage:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        if not self.has_heartbeats:
            return optuna.storages.JournalStorage(JournalFileBackend(self.url))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = optuna.storages.RDBStorage(
                self.url,
                heartbeat_interval=self.heartbeat_s,
                grace_period=self.grace_s,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(
                    max_retry=RETRIES
                ),
            )
        if made.engine.dialect.name == "sqlite":
            _lock_from_the_start(made.engine)
        return made


def _lock_from_the_start(engine: sqlalchemy.Engine) -> None:
    """Make a SQLite database's transactions exclusive when they begin, not when they first write.

    Optuna reads that a trial waits, and then takes it; between the two another worker could as
    well: SQLite has no row to lock.
    """
    from sqlalchemy import event

    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself

    def begun(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    engine.dispose()  # connections from before know nothing of it


@dataclass(frozen=True)
class Tried:
    """What is known of one candidate after its trial."""

    place: int
    metrics: tuple[float, ...]
    """On the validation split, after each budget that it got."""
    state: str
    """finished, stopped or failed"""


def run(
    count: int,
    measure: Measure,
    name: str,
    storage: Storage,
    news: News = lambda _: None,
) -> tuple[Tried, ...]:
    """Try `count` candidates, together with every worker that has the same name and storage.

    Ends when all of them are tried, by whomever: then each worker gets the same answer.  Those that
    are expected to be best should stand first.  Raises SettingsError.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        opened = storage.open()
        study = optuna.create_study(
            study_name=name,
            storage=opened,
            sampler=optuna.samplers.RandomSampler(seed=0),  # asked only by who lost a race
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR),
            direction="maximize",
            load_if_exists=True,
        )
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        raise SettingsError(
            f"storage {storage.url!r} cannot be used ({_first_line(error)})"
        ) from error
    beats = opened if isinstance(opened, optuna.storages.RDBStorage) else None
    _Worker(study, count, measure, storage, news, beats).run()
    return _tried(study, count)


class _Worker:
    def __init__(
        self,
        study: optuna.Study,
        count: int,
        measure: Measure,
        storage: Storage,
        news: News,
        beats: optuna.storages.RDBStorage | None,
    ) -> None:
        """beats: the storage, if it has heartbeats."""
        self.study, self.count, self.measure = study, count, measure
        self.storage, self.news, self.beats = storage, news, beats
        self._beaten: set[int] = set()

    def run(self) -> None:
        from optuna.exceptions import ExperimentalWarning
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        known = {_place(t) for t in self._trials() if t.state != TrialState.FAIL}
        for place in range(self.count):
            if place not in known:
                self.study.enqueue_trial({CANDIDATE: place})
        heard, news = time.monotonic(), 0
        while True:
            states = [t.state for t in self._trials()]
            if TrialState.WAITING in states:
                self._next()
            elif TrialState.RUNNING in states:
                self._beat_once()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    fail_stale_trials(self.study)
                said = sum(len(t.intermediate_values) for t in self._trials())
                if said != news:
                    heard, news = time.monotonic(), said
                elif self.beats is None and time.monotonic() - heard > self.storage.silent_s:
                    self._bury()
                time.sleep(self.storage.poll_s)
            else:
                return

    def _beat_once(self) -> None:
        """One heartbeat for each running trial: Optuna never takes a trial without one to be stale,
        and a worker can die before its first."""
        from optuna.trial import TrialState

        if self.beats is None:
            return
        study = self.beats.get_study_id_from_name(self.study.study_name)
        for number in (t.number for t in self._trials() if t.state == TrialState.RUNNING):
            if number not in self._beaten:
                self._beaten.add(number)
                trial = self.beats.get_trial_id_from_study_id_trial_number(study, number)
                self.beats.record_heartbeat(trial)

    def _next(self) -> None:
        """Take one waiting trial.

        Another worker may end it first: it took the same one, or took this worker to be gone.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self.study.optimize(self._objective, n_trials=1, catch=(TrainingError,))
        except UpdateFinishedTrialError:
            pass
        except ValueError as error:
            if not str(error).startswith("Cannot tell"):
                raise

    def _objective(self, trial: optuna.Trial) -> float:
        import optuna

        place = int(trial.suggest_categorical(CANDIDATE, list(range(self.count))))
        if self._is_double(trial.number, place):
            raise optuna.TrialPruned
        metrics: list[float] = []
        state = "failed"
        try:
            for budget, share in enumerate(BUDGETS):
                metrics.append(self.measure(place, share))
                trial.report(metrics[-1], FACTOR**budget)
                if budget < len(BUDGETS) - 1 and trial.should_prune():
                    state = "stopped"
                    raise optuna.TrialPruned
            state = "finished"
            return metrics[-1]
        finally:
            self.news(Tried(place, tuple(metrics), state))

    def _is_double(self, number: int, place: int) -> bool:
        """Whether two workers began at once: an earlier trial of the same candidate stands."""
        from optuna.trial import TrialState

        return any(
            t.number < number and _place(t) == place and t.state != TrialState.FAIL
            for t in self._trials()
        )

    def _bury(self) -> None:
        """Count trials of workers that are gone as failed."""
        import optuna

        for trial in self._trials():
            if trial.state == optuna.trial.TrialState.RUNNING:
                try:
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                    continue  # it was alive, or another worker was faster

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def _place(trial: optuna.trial.FrozenTrial) -> int | None:
    """The candidate of a trial, begun or not."""
    asked: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return trial.params.get(CANDIDATE, asked.get(CANDIDATE))


def _tried(study: optuna.Study, count: int) -> tuple[Tried, ...]:
    """By candidate: its trial that came furthest."""
    from optuna.trial import TrialState

    words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped"}
    best: dict[int, Tried] = {}
    for trial in study.get_trials(deepcopy=False):
        place = _place(trial)
        if place is None or not 0 <= place < count:
            continue
        metrics = tuple(value for _, value in sorted(trial.intermediate_values.items()))
        made = Tried(place, metrics, words.get(trial.state, "failed"))
        if not metrics and made.state == "stopped":
            continue  # one of a race
        if place not in best or (made.state != "failed", len(metrics)) > (
            best[place].state != "failed",
            len(best[place].metrics),
        ):
            best[place] = made
    return tuple(best[place] for place in sorted(best))


def winner(tried: Sequence[Tried], latencies_ms: Sequence[float], samples: int) -> int | None:
    """The candidate with the best metric; of those within its standard error, the fastest.

    Only candidates that had every budget are compared.  samples: of the validation split.
    None if no trial came so far.
    """
    finished = [each for each in tried if each.state == "finished"]
    if not finished:
        return None
    best = max(each.metrics[-1] for each in finished)
    least = best - standard_error(best, samples)
    ties = [each for each in finished if each.metrics[-1] >= least]
    return min(ties, key=lambda each: (latencies_ms[each.place], each.place)).place


def standard_error(share: float, samples: int) -> float:
    """Of a share of right answers; of F1 about."""
    return math.sqrt(max(0.0, share * (1 - share)) / max(1, samples))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
