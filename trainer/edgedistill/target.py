"""Where a fit measures its students: this machine, or a board over SSH.

What measures is `edgedistill-run bench`, here as there, so that a figure means the same everywhere.
"""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgedistill.boards import Address, Board, BoardError, Facts, Ran, agent, needs_of
from edgedistill.boards.address import SCHEME
from edgedistill.cache import digest
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.provenance import versions
from edgedistill_runtime import bundle, processes

LOCAL = "local"
REMOTE = "model.edge"
_SPARE_SECONDS = 600.0
"""Over the time of the latency runs: processes' starts, warming up, memory and cold start."""

Amount = Annotated[float, Meta(gt=0)]


class Timing(msgspec.Struct, frozen=True):
    """Latencies of whole calls, in milliseconds."""

    p50: Amount
    p95: Amount
    p99: Amount
    at_percentile: Amount
    """At the percentile of the bundle's budget."""
    runs: int


class Line(msgspec.Struct, frozen=True):
    """A limit of the budget, and what was measured against it."""

    name: str
    limit: float
    value: float | None
    standing: str
    ok: bool | None


class Measurement(msgspec.Struct, frozen=True):
    """What a target's `bench` said of one bundle, and when."""

    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
    reason: str
    notes: tuple[str, ...]
    standing: Literal["verified", "measured elsewhere"]
    board: str | None
    engine: str
    emulated: bool
    latency_ms: Timing
    peak_ram_mib: Amount
    cold_start_ms: float | None
    budget: tuple[Line, ...]
    machine: dict[str, Any]
    date: str = ""
    """Set by the host, UTC."""

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        table: dict[str, Any] = msgspec.to_builtins(self)
        return table


@dataclass(frozen=True)
class Target:
    """A machine that is reached, and that measures."""

    name: str
    facts: Facts
    _bench: Callable[[Path, Sequence[str], float], Ran]

    @property
    def key(self) -> str:
        """Digest of what figures of it hang on, besides the bundle."""
        return digest(self.name, dataclasses.asdict(self.facts), versions())

    def bench(self, path: Path, max_seconds: float) -> Measurement:
        """Measure the bundle at `path`, its latency for at most `max_seconds`.

        Raises BoardError if the target is lost, emulated, or cannot run the bundle.
        """
        options = ["--json", f"--max-seconds={max_seconds:g}"]
        ran = self._bench(path, options, max_seconds + _SPARE_SECONDS)
        if ran.exit_code == 2:
            raise BoardError(f"{self.name}: {ran.sentence}")
        try:
            made = msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Measurement)
        except (IndexError, msgspec.MsgspecError, UnicodeError):
            raise BoardError(
                f"{self.name}: its edgedistill-run bench answers strangely ({ran.sentence[:200]}); "
                "install the same version there"
            ) from None
        if made.emulated:
            raise BoardError(_emulated(self.name))
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return msgspec.structs.replace(made, date=today)


def check(text: str) -> None:
    """Raises SettingsError for what is neither "local" nor ssh://[user@]host[:port]."""
    if text != LOCAL and not text.startswith(SCHEME):
        raise SettingsError(f"target {text!r} is not 'local' or ssh://user@host")
    if text != LOCAL:
        Address.parse(text)


@contextmanager
def connect(text: str, profile: DeviceProfile, wheels: Path | None = None) -> Iterator[Target]:
    """The target, as long as it is needed.

    wheels: folder of wheels to take a board's from; None is the package index.
    Raises BoardError if it cannot be reached, is emulated, or is no board of the profile's
    architecture; SettingsError for a text that is none.
    """
    check(text)
    if text == LOCAL:
        facts = Facts.from_json(agent.facts([]))
        _refuse("this machine", facts, profile)
        yield Target(LOCAL, facts, _bench_here)
        return
    with Board(Address.parse(text)) as board:
        _refuse(text, board.facts, profile)

        def bench(path: Path, options: Sequence[str], seconds: float) -> Ran:
            board.provide(needs_of(bundle.read(path).manifest), wheels)
            board.put(REMOTE, path)
            return board.run("bench", REMOTE, *options, seconds=seconds)

        yield Target(text, board.facts, bench)


def _refuse(name: str, facts: Facts, profile: DeviceProfile) -> None:
    if facts.architecture != profile.board.arch:
        raise BoardError(
            f"{name} has {facts.architecture}, and {profile.name} is a board of "
            f"{profile.board.arch}; give the right one with --profile"
        )
    if facts.emulated:
        raise BoardError(_emulated(name))


def _emulated(name: str) -> str:
    return f"{name} is an emulated board, whose times mean nothing; measure on a real one"


def _bench_here(path: Path, options: Sequence[str], seconds: float) -> Ran:
    command = [sys.executable, "-m", "edgedistill_runtime", "bench", str(path), *options]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=processes.environment(),
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise BoardError(f"bench did not finish in {seconds:.0f} s on this machine") from None
    if done.returncode < 0:
        raise BoardError(f"bench ended early here ({processes.ended(done.returncode, '')})")
    return Ran(done.returncode, done.stdout, done.stderr)
