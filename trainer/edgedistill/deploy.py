"""Bring a bundle to boards: to be measured there, or to run from now on.

What a board does to deploy is `edgedistill-run install`: a bundle that fails its check does not
replace the one that worked, and neither does one whose connection dropped.  A bundle that is there
already is not copied again, only tried again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedistill.boards import Board, BoardError, Member, needs_of
from edgedistill.errors import EdgeDistillError
from edgedistill_runtime import bundle
from edgedistill_runtime.bundle import Bundle

MOST_AT_ONCE = 8
REMOTE = "model.edge"
_LIST_SECONDS, _INSTALL_SECONDS, _SPARE_SECONDS = 120.0, 900.0, 600.0


@dataclass(frozen=True)
class Order:
    """What is to be deployed, and how."""

    bundle: Path
    name: str | None = None
    """Under which it is installed; None is its own."""
    allow_downgrade: bool = False
    wheels: Path | None = None
    """Folder of wheels to take the board's from; None is the package index."""
    service: tuple[str, ...] | None = None
    """Arguments of `edgedistill-run service`, which then writes and starts the bundle's unit."""


@dataclass(frozen=True)
class Outcome:
    """How it went on one board."""

    board: str
    host: str
    status: str
    """"installed", "unchanged" (it ran already, and passed the check again), "failed" or
    "not started"."""
    exit_code: int | None
    """As `edgedistill-run` ended there; 2 if it never came to that, None if it was not started."""
    reason: str
    copied: tuple[str, ...] = ()
    """Names of what was copied to the board."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status in ("installed", "unchanged")


@dataclass(frozen=True)
class Deployment:
    bundle: str
    """Its id."""
    boards: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        return all(outcome.ok for outcome in self.boards)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        rows = [asdict(outcome) | {"ok": outcome.ok} for outcome in self.boards]
        count = {
            status: sum(outcome.status == status for outcome in self.boards)
            for status in ("installed", "unchanged", "failed", "not started")
        }
        return {"bundle": self.bundle, "ok": self.ok, "count": count, "boards": rows}


def bench(
    board: Board,
    path: Path,
    options: Sequence[str],
    max_seconds: float,
    wheels: Path | None,
    heard: Callable[[str, str], None],
) -> int:
    """`edgedistill-run bench` of the bundle at `path` on a board.  -> its exit code

    heard: told what it says, with "out" or "err".  Raises BundleError for a file that is none.
    """
    board.provide(needs_of(bundle.read(path).manifest), wheels)
    board.put(REMOTE, path)
    seconds = max_seconds + _SPARE_SECONDS
    return board.run("bench", REMOTE, *options, seconds=seconds, heard=heard).exit_code


def deploy(
    order: Order,
    members: Sequence[Member],
    max_failures: int | None = None,
    at_once: int = MOST_AT_ONCE,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Deployment:
    """Deploy to all boards, several at once; no more are started after `max_failures`.

    done: told each outcome, one at a time, as soon as it is known.
    Raises BundleError for a file that is no bundle; what happens on a board is an outcome.
    """
    opened = bundle.read(order.bundle)
    speaking = threading.Lock()
    failures = 0

    def one(member: Member) -> Outcome:
        nonlocal failures
        with speaking:
            enough = max_failures is not None and failures >= max_failures
        if enough:
            outcome = _outcome(member, "not started", None, f"{failures} others failed")
        else:
            outcome = _deploy_one(order, opened, member)
        with speaking:
            failures += outcome.status == "failed"
            done(outcome)
        return outcome

    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(members)))) as pool:
        return Deployment(opened.id, tuple(pool.map(one, members)))


def _deploy_one(order: Order, opened: Bundle, member: Member) -> Outcome:
    start = time.monotonic()
    copied: list[str] = []
    try:
        _check_profile(opened, member)
        with Board(member.address) as board:
            copied += board.provide(needs_of(opened.manifest, to_predict=True), order.wheels)
            there = _list(board, order.name or opened.manifest.name)
            status, code, reason = _install(order, opened, board, there, copied)
            if order.service is not None and not code:
                _serve(order.service, board, there)
    except (EdgeDistillError, OSError) as error:
        status, code, reason = "failed", 2, str(error)
    seconds = time.monotonic() - start
    return _outcome(member, status, code, reason, tuple(copied), seconds)


def _install(
    order: Order, opened: Bundle, board: Board, there: _Listing, copied: list[str]
) -> tuple[str, int, str]:
    if opened.id in there.ids and opened.signature is None:
        words = ("activate", "--json", "--", there.name, opened.id)
        ran = board.run(*words, seconds=_INSTALL_SECONDS)
        status = "unchanged"
    else:
        options = [*([f"--as={order.name}"] if order.name else [])]
        options += ["--allow-downgrade"] if order.allow_downgrade else []
        ran = board.run(
            *("install", "--json", *options, "-"), stdin=order.bundle, seconds=_INSTALL_SECONDS
        )
        copied.append(order.bundle.name)
        status = "installed"
    if ran.exit_code:
        return "failed", ran.exit_code, ran.sentence
    return status, 0, ran.sentence


@dataclass(frozen=True)
class _Listing:
    """What a board has of bundles of one name."""

    name: str
    state: str
    """The store's folder there."""
    ids: tuple[str, ...]


def _list(board: Board, name: str) -> _Listing:
    ran = board.run("list", "--json", seconds=_LIST_SECONDS)
    if ran.exit_code:
        raise BoardError(f"{board.address}: {ran.sentence}")
    try:
        said = json.loads(ran.stdout)
        rows = [row for row in said["bundles"] if row["name"] == name]
        kept = [e["id"] for row in rows for e in (row["active"], row["previous"]) if e is not None]
        return _Listing(name, str(said["state"]), tuple(kept))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BoardError(
            f"{board.address}: its edgedistill-run list answers strangely; install the same "
            "version there"
        ) from None


def _serve(arguments: Sequence[str], board: Board, there: _Listing) -> None:
    """Raises BoardError if the board cannot; what was installed stays so."""
    words = ("service", there.name, "--install", "--now", *arguments)
    root = {"EDGEDISTILL_STATE": there.state}
    try:
        ran = board.run(*words, seconds=_INSTALL_SECONDS, root=root)
        why = ran.sentence if ran.exit_code else ""
    except BoardError as error:
        why = str(error)
    if why:
        raise BoardError(f"it is installed, but not as a service: {why}")


def _check_profile(opened: Bundle, member: Member) -> None:
    made_for = opened.manifest.board.profile
    if member.profile not in (None, made_for):
        raise BoardError(
            f"the bundle is for {made_for}, and {member.name} is a {member.profile}; fit one for "
            f"it: edgedistill fit --profile {member.profile}"
        )


def _outcome(
    member: Member,
    status: str,
    code: int | None,
    reason: str,
    copied: tuple[str, ...] = (),
    seconds: float = 0.0,
) -> Outcome:
    text = " ".join(reason.split())
    return Outcome(member.name, str(member.address), status, code, text, copied, seconds)
