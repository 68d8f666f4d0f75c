"""pytest plug-in for tests that run on boards (docs/hardware-in-the-loop.md).

pytest loads it wherever this package is installed, so it imports nothing until a test asks for a
board.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from edgedistill.boards import Board, Facts, Member, Ran

LOOK_SECONDS = 0.5
"""Between two looks whether a board is free."""
_MEMBERS = pytest.StashKey["list[Member]"]()


@dataclass(frozen=True)
class HeldBoard:
    """A board that a test has for itself.  What fails on it is raised as BoardError."""

    member: Member
    """Its name, address, profile and tags, as boards.toml has them."""
    connected: Board
    wheels: Path | None = None

    @property
    def facts(self) -> Facts:
        """Processor, Python, model, and whether it is emulated, as the board says."""
        return self.connected.facts

    def bring(self, bundle: Path) -> str:
        """Copy a bundle, and the wheels that it needs and the board lacks.  -> its name there"""
        return self.connected.bring(bundle, self.wheels)

    def put(self, name: str, source: Path) -> None:
        """Copy a file into the folder where `run` runs; it is gone when the tests end."""
        self.connected.put(name, source)

    def run(self, *words: str, stdin: Path | None = None, seconds: float = 600.0) -> Ran:
        """`edgedistill-run WORDS` there, to its end: exit code, stdout and stderr."""
        return self.connected.run(*words, stdin=stdin, seconds=seconds)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("edgedistill", "boards (edgedistill)")
    group.addoption("--boards", metavar="FILE[:TAG]", help="boards.toml of the boards to test on")
    group.addoption(
        "--require-boards",
        action="store_true",
        help="a board that cannot be had is a failure, not a skip",
    )
    group.addoption(
        "--board-wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for a board that others are testing on",
    )
    group.addoption(
        "--board-wheels",
        type=Path,
        metavar="FOLDER",
        help="wheels for the boards, instead of the package index",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "board(profile=None, needs=()): runs on the boards of that profile with all those tags; "
        "every test that asks for a board has it",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Read boards.toml, if there is one."""
    session.config.stash[_MEMBERS] = []
    targets = session.config.getoption("--boards")
    if targets is None:
        return
    from edgedistill import boards
    from edgedistill.errors import EdgeDistillError

    try:
        session.config.stash[_MEMBERS] = boards.read(targets)
    except EdgeDistillError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of a board once for each board that will do."""
    if "board_member" not in metafunc.fixturenames:
        return
    chosen = _chosen(metafunc)
    if isinstance(chosen, str):
        params = [pytest.param(chosen, id="no board", marks=pytest.mark.board)]
    else:
        params = [pytest.param(m, id=m.name, marks=_marks(metafunc.config, m)) for m in chosen]
    metafunc.parametrize("board_member", params, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Say in the JUnit report which board it was."""
    board = getattr(item, "funcargs", {}).get("board")
    if isinstance(board, HeldBoard):
        item.user_properties += _properties(board)


@pytest.fixture(scope="session")
def board_member(request: pytest.FixtureRequest) -> Member:
    """The board's entry in boards.toml."""
    if isinstance(request.param, str):
        _refuse(request.config, request.param)
    member: Member = request.param
    return member


@pytest.fixture(scope="session")
def board_power(board_member: Member) -> None:
    """Yours to override: switch the board on before it is reached, and off after its tests."""


@pytest.fixture(scope="session")
def board(
    request: pytest.FixtureRequest, board_member: Member, board_power: None
) -> Iterator[HeldBoard]:
    """The board of this test, connected, and nobody else's until its tests are over."""
    from edgedistill.boards import Board, BoardError

    config = request.config
    try:
        connected = Board(board_member.address)
    except BoardError as error:
        _refuse(config, str(error))
    with connected:
        _hold(config, connected)
        yield HeldBoard(board_member, connected, config.getoption("--board-wheels"))


def _chosen(metafunc: pytest.Metafunc) -> list[Member] | str:
    """The boards that a test runs on, or why there are none."""
    members = metafunc.config.stash[_MEMBERS]
    if not members:
        return "there are no boards; name them with --boards boards.toml"
    profiles: set[str] = set()
    tags: set[str] = set()
    for marker in metafunc.definition.iter_markers("board"):
        profile, needs = _wanted(metafunc, marker)
        profiles |= {profile} if profile is not None else set()
        tags |= needs
    chosen = [m for m in members if profiles <= {m.profile} and tags <= set(m.tags)]
    if chosen:
        return chosen
    wanted = [f"of profile {profile}" for profile in sorted(profiles)]
    wanted += [f"with the tags {', '.join(sorted(tags))}"] if tags else []
    return (
        f"{metafunc.config.getoption('--boards')} has no board {' and '.join(wanted)} "
        f"(it has: {', '.join(map(_describe, members))})"
    )


def _wanted(metafunc: pytest.Metafunc, marker: pytest.Mark) -> tuple[str | None, set[str]]:
    def read(profile: str | None = None, needs: Any = ()) -> tuple[str | None, set[str]]:
        return profile, {needs} if isinstance(needs, str) else set(needs)

    try:
        return read(*marker.args, **marker.kwargs)
    except TypeError:
        raise pytest.Collector.CollectError(
            f"{metafunc.definition.nodeid}: the marker board takes profile='rpi4' and "
            f"needs=['camera'], not {marker.args or marker.kwargs}"
        ) from None


def _marks(config: pytest.Config, member: Member) -> list[pytest.MarkDecorator]:
    """pytest-xdist keeps a board's tests in one process, with --dist loadgroup."""
    marks = [pytest.mark.board()]
    if config.pluginmanager.hasplugin("xdist"):
        marks.append(pytest.mark.xdist_group(member.name))
    return marks


def _describe(member: Member) -> str:
    about = [*([member.profile] if member.profile else []), *member.tags]
    return member.name + (f" [{', '.join(about)}]" if about else "")


def _hold(config: pytest.Config, connected: Board) -> None:
    seconds = config.getoption("--board-wait")
    deadline = time.monotonic() + seconds
    while not connected.hold():
        if time.monotonic() >= deadline:
            _refuse(
                config,
                f"others are testing on {connected.address}; wait for them with --board-wait"
                + (f", longer than {seconds:g} s" if seconds else " SECONDS"),
            )
        time.sleep(LOOK_SECONDS)


def _refuse(config: pytest.Config, why: str) -> NoReturn:
    if config.getoption("--require-boards"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _properties(board: HeldBoard) -> list[tuple[str, object]]:
    from edgedistill import __version__

    facts = board.facts
    return [
        ("board", board.member.name),
        ("board_address", str(board.member.address)),
        ("board_profile", board.member.profile or ""),
        ("board_model", facts.model),
        ("board_system", str(facts)),
        ("board_emulated", facts.emulated),
        ("edgedistill_version", __version__),
    ]
