"""Measure the packs on a board over SSH, a stretch of them at a time.

All packs together are some hundred MiB, more than many boards have to spare and far more than a
slow one gets to measure.  So each stretch is copied when the one before it has been measured, while
nothing is timed, and removed after it.  Results come back as they are written: when the connection
drops, what was measured is here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgedistill.boards import Board, BoardError, Needs
from edgedistill.calibrate.folder import KERNELS
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile, names
from edgedistill.progress import Progress
from edgedistill_runtime.calibrate import PASSES, STRETCH, Index, Pack, read_index

REMOTE, RESULTS = "packs", "results.jsonl"
_SPARE_SECONDS = 300.0
"""Over the time of measuring: an engine's start, and the network that is measured last."""


def needs() -> Needs:
    """The engine of this machine: others build other graphs."""
    return Needs("onnx", "onnxruntime", metadata.version("onnxruntime"), exactly=True)


def profile_of(board: Board) -> str:
    """The built-in or own profile of this board.  Raises SettingsError if none or several are."""
    found = [name for name in names() if DeviceProfile.load(name).is_board(board.facts.model)]
    if len(found) == 1:
        return found[0]
    what = board.facts.model or f"a board of {board.facts.architecture} that does not say its model"
    which = "no profile is" if not found else f"{', '.join(found)} are"
    raise SettingsError(f"{board.address} is {what}, and {which} of it; choose one with --profile")


def measure(
    board: Board,
    folder: Path,
    results: Path,
    threads: int,
    max_seconds: float,
    allow_busy: bool,
    progress: Progress,
) -> None:
    """Measure the packs of `folder` on the board into `results`, going on where that file ends.

    Raises BoardError; what was measured stands in `results`.
    """
    index = read_index(folder)
    results.parent.mkdir(parents=True, exist_ok=True)
    measured = _Results(results, index, progress)
    _copy_rest(board, folder, index)
    if measured.size:
        board.put(RESULTS, results)
    spent = 0.0
    for part in _stretches(index.packs):
        if measured.has(part):
            continue
        for pack in part:
            board.put(f"{REMOTE}/{pack.file}", folder / pack.file)
        left = max(1.0, max_seconds - spent)
        start = time.monotonic()
        ran = board.run(
            *arguments(REMOTE, RESULTS, threads, left, allow_busy),
            seconds=left + _SPARE_SECONDS,
            follow=RESULTS,
            offset=measured.size,
            grown=measured.add,
        )
        spent += time.monotonic() - start
        if not ran.exit_code:
            return
        if not measured.has(part):
            raise BoardError(f"{board.address}: {ran.sentence}")
        board.drop([f"{REMOTE}/{pack.file}" for pack in part])  # it ended where the next begins
        if spent >= max_seconds:
            return


def arguments(
    packs: str, out: str, threads: int, max_seconds: float, allow_busy: bool
) -> list[str]:
    """Of `edgedistill-run`, which does the measuring here as there."""
    options = ["--out", out, "--threads", str(threads), "--max-seconds", str(max_seconds)]
    return ["calibrate", packs, *options, *(["--allow-busy"] if allow_busy else [])]


class _Results:
    """The file of what was measured, and which networks stand in it."""

    def __init__(self, path: Path, index: Index, progress: Progress) -> None:
        self._path, self._progress = path, progress
        self._count = PASSES * len(index.packs)
        data = path.read_bytes() if path.exists() else b""
        self._data = data[: data.rfind(b"\n") + 1]
        if self._data != data:
            path.write_bytes(self._data)

    @property
    def size(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)
        self._data += data
        self._progress.advance(self._data.count(b'"kind": "pack"'), self._count)

    def has(self, part: list[Pack]) -> bool:
        """Whether all of these were measured in all passes."""
        return all(self._data.count(_mark(pack)) >= PASSES for pack in part)


def _mark(pack: Pack) -> bytes:
    return f'"kind": "pack", "name": "{pack.name}",'.encode()


def _stretches(packs: list[Pack]) -> Iterator[list[Pack]]:
    """As `edgedistill-run calibrate` measures them: the first one is short."""
    half = STRETCH // 2
    yield packs[:half]
    for first in range(half, len(packs), STRETCH):
        yield packs[first : first + STRETCH]


def _copy_rest(board: Board, folder: Path, index: Index) -> None:
    """What is not a pack: the index, a tokenizer, a bundle."""
    later = {pack.file for pack in index.packs} | {KERNELS}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in later and not path.name.startswith("."):
            board.put(f"{REMOTE}/{path.name}", path)
