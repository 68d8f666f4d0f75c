"""Measure a board's engine, fit its rates, and write them into a device profile.

`calibrate` does it on this machine, `calibrate_board` on one that is reached over SSH; a board that
cannot be reached from here is calibrated by hand with `write_packs`, `edgedistill-run calibrate`
there, and `from_results`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edgedistill.boards import Address, Board
from edgedistill.cache import user_cache
from edgedistill.calibrate import folder as packs_folder
from edgedistill.calibrate import pieces, remote
from edgedistill.calibrate.saving import check, save
from edgedistill.cost import fitting, memory, preprocessing
from edgedistill.cost.fitting import Measured
from edgedistill.cost.kernels import weight_bytes
from edgedistill.cost.rates import Rates
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.progress import Progress, Silent
from edgedistill_runtime.calibrate import PASSES, read_index

MOST_STRANGE = 0.2
"""Share of networks whose graph the board's engine may build otherwise than this machine's."""

Time = Annotated[float, Meta(gt=0)]
Amount = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Calibration:
    profile: Path
    rates: Rates
    seconds_measuring: float
    seconds_fitting: float

    def to_json(self) -> dict[str, Any]:
        """For programs: where the profile is, and how good its rates are."""
        rates = self.rates
        return {
            "profile": str(self.profile),
            "engine": f"{rates.engine} {rates.engine_version}",
            "threads": rates.threads,
            "quality": rates.quality,
            "bound": rates.bound,
            "jitter": rates.jitter,
            "seconds": {"measuring": self.seconds_measuring, "fitting": self.seconds_fitting},
        }


def calibrate(
    save_as: str,
    *,
    profile: str = "host",
    threads: int | None = None,
    max_seconds: float = 360,
    allow_busy: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate this machine, and write the profile `save_as` with its rates.

    profile: what the new profile is a copy of.  threads: of the engine; the profile's default.
    A calibration that was interrupted goes on where it was, unless `fresh`.
    Raises SettingsError, or EngineError of the runtime (busy, throttled).
    """
    progress = progress or Silent()
    base = DeviceProfile.load(profile)
    check(save_as, base)
    threads = threads or base.budget.threads
    progress.stage("packs", "networks to measure, made once")
    folder = packs_folder.prepare(progress)
    results = _results(save_as, threads, fresh)
    progress.stage("measure", f"{threads} thread(s), at most {max_seconds:.0f} s; {results}")
    start = time.monotonic()
    _run_here(folder, results, threads, max_seconds, allow_busy, progress)
    return _fitted(save_as, results, profile, time.monotonic() - start, progress)


def calibrate_board(
    save_as: str,
    address: Address,
    *,
    profile: str | None = None,
    threads: int | None = None,
    max_seconds: float = 360,
    allow_busy: bool = False,
    fresh: bool = False,
    wheels: Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate the board at `address`, and write the profile `save_as` with its rates.

    profile: what the new profile is a copy of; the one of the model that the board says it is.
    wheels: folder of wheels to take the board's from; the package index.
    What was measured before a connection was lost is kept, and gone on with, unless `fresh`.
    Raises SettingsError or BoardError.
    """
    progress = progress or Silent()
    progress.stage("connect", str(address))
    with Board(address) as board:
        profile = profile or remote.profile_of(board)
        base = DeviceProfile.load(profile)
        check(save_as, base)
        if board.facts.architecture != base.board.arch:
            raise SettingsError(
                f"{address} has {board.facts.architecture}, and {base.name} is a board of "
                f"{base.board.arch}; give the right one with --profile"
            )
        threads = threads or base.budget.threads
        for name in board.provide(remote.needs(), wheels):
            progress.note(f"copied {name}")
        progress.stage("packs", "networks to measure, made once")
        folder = packs_folder.prepare(progress)
        results = _results(save_as, threads, fresh)
        progress.stage("measure", f"{threads} thread(s), at most {max_seconds:.0f} s; {results}")
        start = time.monotonic()
        remote.measure(board, folder, results, threads, max_seconds, allow_busy, progress)
        measuring = time.monotonic() - start
    return _fitted(save_as, results, profile, measuring, progress)


def _results(save_as: str, threads: int, fresh: bool) -> Path:
    """Where an interrupted calibration of that name is gone on with."""
    path = user_cache() / "calibrate" / f"{save_as}-{threads}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    return path


def _fitted(
    save_as: str, results: Path, profile: str, measuring: float, progress: Progress
) -> Calibration:
    made = from_results(save_as, results, profile=profile, progress=progress)
    results.unlink()  # the next calibration starts anew
    return dataclasses.replace(made, seconds_measuring=measuring)


def write_packs(path: Path, progress: Progress | None = None) -> None:
    """A copy of the packs, to carry to a board.  Raises SettingsError if something is there."""
    if path.exists() and any(path.iterdir()):
        raise SettingsError(f"{path} is not empty; give a new folder for the packs")
    folder = packs_folder.prepare(progress or Silent())
    left_out = shutil.ignore_patterns(packs_folder.KERNELS)
    shutil.copytree(folder, path, dirs_exist_ok=True, ignore=left_out)


def from_results(
    save_as: str, results: Path, *, profile: str, progress: Progress | None = None
) -> Calibration:
    """Fit what a board measured, and write the profile `save_as` with its rates."""
    progress = progress or Silent()
    base = DeviceProfile.load(profile)
    check(save_as, base)
    progress.stage("fit")
    start = time.monotonic()
    found = read(packs_folder.prepare(progress), results)
    _check_board(found.about, base, results)
    rates = fitting.fit(
        found.measured,
        found.about,
        jitter=found.jitter,
        predict_us=found.predict_us,
        steps=found.steps,
        memory=found.memory,
        cold_start_ms=found.cold_start_ms,
    )
    path = save(save_as, base, rates)
    return Calibration(path, rates, 0.0, time.monotonic() - start)


class About(msgspec.Struct, frozen=True):
    """First line of the results: the board and its engine, as it described itself."""

    format: int
    packs: str
    """Digest of the networks that were measured."""
    threads: Annotated[int, Meta(ge=1)]
    engine: Literal["onnxruntime"]
    engine_version: Annotated[str, Meta(pattern=r"^\d+\.\d+(\.\d+)*$")]
    """A release: rates are valid for those up to the next minor one."""
    machine: str
    emulated: bool
    date: datetime.date


class Step(msgspec.Struct, frozen=True):
    """A line of preprocessing, or of the call around a network."""

    name: str
    floor_us: Time
    inside_us: Amount = 0.0


class Memory(msgspec.Struct, frozen=True):
    peak_mib: Time
    cold_start_ms: Time


class Jitter(msgspec.Struct, frozen=True):
    """Percentiles over the least time."""

    p50: Amount = msgspec.field(name="50")
    p95: Amount = msgspec.field(name="95")
    p99: Amount = msgspec.field(name="99")


class Turn(msgspec.Struct, frozen=True):
    """A line of one network in one pass."""

    name: str
    turn: Annotated[int, Meta(ge=0, lt=PASSES)] = msgspec.field(name="pass")
    floor_us: Time
    nodes: tuple[tuple[str, Amount], ...]
    memory: Memory | None = None
    jitter: Jitter | None = None


_KINDS: dict[str, type[msgspec.Struct]] = {"step": Step, "call": Step, "pack": Turn}


@dataclass(frozen=True)
class Results:
    """What a board measured, put together with what the host knows of the packs."""

    about: dict[str, Any]
    measured: list[Measured]
    jitter: dict[str, float]
    predict_us: float
    steps: dict[str, tuple[float, ...]]
    memory: dict[str, Any]
    cold_start_ms: tuple[float, ...]


def read(folder: Path, results: Path) -> Results:
    """Raises SettingsError where the file is none, or of other packs or engines."""
    about, rows = _lines(results)
    if about["packs"] != read_index(folder).digest:
        raise SettingsError(
            f"{results} is of other packs than this version has; calibrate the board again, with "
            "packs of: edgedistill calibrate --packs"
        )
    known = packs_folder.known(folder)
    by_name: dict[str, dict[int, Turn]] = defaultdict(dict)
    for row in rows["pack"]:
        by_name[row.name][row.turn] = row
    whole = {
        name: list(passes.values())
        for name, passes in by_name.items()
        if len(passes) == PASSES and name in known
    }
    same = {
        name: passes
        for name, passes in whole.items()
        if all([op for op, _ in p.nodes] == [k.op for k in known[name].kernels] for p in passes)
    }
    if len(same) < (1 - MOST_STRANGE) * len(whole):
        raise SettingsError(
            f"{results}: onnxruntime {about['engine_version']} of the board builds other graphs "
            f"than this machine's for {len(whole) - len(same)} of {len(whole)} networks; install "
            "the same version on both"
        )
    turns = [row for passes in same.values() for row in passes]
    return Results(
        about=about,
        measured=[_measured(name, passes, known[name]) for name, passes in same.items()],
        jitter=_jitter([row.jitter for row in turns if row.jitter]),
        predict_us=max((0.0, *(row.floor_us - row.inside_us for row in rows["call"]))),
        steps=_steps({row.name: row.floor_us for row in rows["step"]}),
        memory=_memory(same, known),
        cold_start_ms=_cold_start_ms(same, known),
    )


def _lines(results: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The first line of the results, and the others by kind; one that was cut off is left out."""
    found: dict[str, list[Any]] = defaultdict(list)
    try:
        lines = results.read_bytes().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
        if rows[0]["kind"] != "about":
            raise ValueError("its first line is not about a board")
        msgspec.convert(rows[0], About)
        for row in rows[1:]:
            if row["kind"] in _KINDS:
                found[row["kind"]].append(msgspec.convert(row, _KINDS[row["kind"]]))
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        reason = "it is empty" if isinstance(error, IndexError) else str(error)
        raise SettingsError(
            f"{results} is no result of a calibration ({reason}); make one with: "
            "edgedistill-run calibrate"
        ) from error
    return rows[0], found


def _measured(name: str, passes: Sequence[Turn], known: packs_folder.Known) -> Measured:
    """The lower one of two passes, for the network and for each of its nodes."""
    return Measured(
        name,
        known.precision,
        known.kernels,
        known.inputs,
        min(row.floor_us for row in passes),
        tuple(
            min(times) for times in zip(*([us for _, us in p.nodes] for p in passes), strict=True)
        ),
    )


def _steps(times_us: dict[str, float]) -> dict[str, tuple[float, ...]]:
    return preprocessing.fit(
        (row["steps"][0], tuple(row["shape"]), len(row.get("text", "")), times_us[row["name"]])
        for row in pieces.steps()
        if row["name"] in times_us
    )


def _jitter(rows: Sequence[Jitter]) -> dict[str, float]:
    if not rows:
        return {"50": 1.0}
    percentiles = zip(*((row.p50, row.p95, row.p99) for row in rows), strict=True)
    medians = (max(1.0, float(np.median(values))) for values in percentiles)
    return dict(zip(("50", "95", "99"), medians, strict=True))


def _memory(same: dict[str, list[Turn]], known: dict[str, packs_folder.Known]) -> dict[str, Any]:
    """The base of a process on this board; copies of weights are the engine's, and known.

    The packs are too small and alike to tell the copies apart again (docs/cost-model.md).
    """
    over = [
        row.memory.peak_mib
        - memory.network_mib(known[name].kernels, known[name].precision, memory.DEFAULT)
        for name, passes in same.items()
        for row in passes
        if row.memory
    ]
    if len(over) < memory.FEWEST_NETWORKS:
        return {}
    base = memory.DEFAULT.base_mib + float(np.median(over))
    return dataclasses.replace(memory.DEFAULT, base_mib=base).to_dict()


def _cold_start_ms(
    same: dict[str, list[Turn]], known: dict[str, packs_folder.Known]
) -> tuple[float, ...]:
    """Milliseconds of a process, for a MiB of its weights, and for a kernel."""
    from scipy.optimize import nnls

    terms, times = [], []
    for name, passes in same.items():
        for row in passes:
            if row.memory:
                each = known[name]
                mib = weight_bytes(each.kernels, each.precision) / memory.MIB
                terms.append((1.0, mib, len(each.kernels)))
                times.append(row.memory.cold_start_ms)
    if len(times) < memory.FEWEST_NETWORKS:
        return ()
    weighted, _ = nnls(np.array(terms) / np.array(times)[:, None], np.ones(len(times)))
    return tuple(map(float, weighted))


def _check_board(about: dict[str, Any], base: DeviceProfile, results: Path) -> None:
    if about["machine"] != base.board.arch:
        raise SettingsError(
            f"{results} was measured on {about['machine']}, and {base.name} is a board of "
            f"{base.board.arch}; give the right one with --profile"
        )
    if about["emulated"]:
        raise SettingsError(
            f"{results} was measured on an emulated board, whose times mean nothing; calibrate a "
            "real one"
        )


def _run_here(
    folder: Path,
    results: Path,
    threads: int,
    max_seconds: float,
    allow_busy: bool,
    progress: Progress,
) -> None:
    """The runtime's own command in a process of its own; what it says goes to the user."""
    command = [
        *(sys.executable, "-m", "edgedistill_runtime"),
        *remote.arguments(str(folder), str(results), threads, max_seconds, allow_busy),
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    count = PASSES * len(read_index(folder).packs)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as p:
        assert p.stderr is not None
        os.set_blocking(p.stderr.fileno(), False)
        read = done = 0  # only what is new: this machine is being timed
        while p.poll() is None:
            time.sleep(0.5)
            if results.exists() and results.stat().st_size > read:
                with results.open("rb") as file:
                    file.seek(read)
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                read += len(whole)
                done += whole.count(b'"kind": "pack"')
                progress.advance(done, count)
        said = (p.stderr.read() or "").strip().splitlines()
    if p.returncode:
        reason = (
            said[-1].removeprefix("edgedistill-run: ") if said else f"exit status {p.returncode}"
        )
        raise SettingsError(reason)


__all__ = ["Calibration", "calibrate", "calibrate_board", "from_results", "read", "write_packs"]
