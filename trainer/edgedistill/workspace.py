"""The folder that a fit writes to: whose it is, and what is finished in it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgedistill.cache import RESULT, Cache
from edgedistill.errors import SettingsError
from edgedistill.recipe import Recipe
from edgedistill_runtime.files import write_atomically


@contextmanager
def open_workspace(recipe: Recipe, fresh: bool, owner: bool = True) -> Iterator[Cache]:
    """Take the recipe's folder for one run, and give the cache of its finished stages.

    owner: whether this process takes it, or only helps the one that does.
    Raises SettingsError if the folder belongs to another recipe, to somebody else, or to a run that
    is going on; OSError if it cannot be written.
    """
    out = recipe.out_folder
    work = out / "work"
    if not owner:
        yield Cache(work)
        return
    mark = work / "recipe.json"
    content = msgspec.json.format(msgspec.json.encode(recipe.unplaced))
    if not mark.exists() and _is_used(out, work):
        raise SettingsError(
            f"{out}: not empty, and not made by fit; choose another folder with --out"
        )
    work.mkdir(parents=True, exist_ok=True)
    with _lock(work / "lock", out):
        other = mark.exists() and mark.read_bytes() != content
        if other and not fresh and _has_results(out, work):
            raise SettingsError(
                f"{out}: belongs to another recipe ({_difference(mark, recipe)}); "
                "choose another folder with --out, or start over with --fresh"
            )
        if fresh:
            _clear(work)
        write_atomically(mark, content)
        yield Cache(work)


@contextmanager
def _lock(path: Path, out: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"{out}: another fit is running in this folder; wait for it"
            ) from None
        yield
    finally:
        os.close(handle)


def _is_used(out: Path, work: Path) -> bool:
    """Whether the folder holds more than a run leaves that was stopped before it marked it."""
    if not out.exists():
        return False
    started = re.compile(r"lock|\.recipe\.json\..+\.tmp")
    inside = work.iterdir() if work.exists() else ()
    return any(path != work for path in out.iterdir()) or not all(
        started.fullmatch(path.name) for path in inside
    )


def _has_results(out: Path, work: Path) -> bool:
    """Whether a student was trained here, or half trained: not after a run that was refused."""
    trained = [*work.glob("student-*.safetensors"), *work.glob("*.checkpoint")]
    return bool(trained) or (out / "model.edge").exists()


def _clear(work: Path) -> None:
    """Remove finished, half-trained and half-written stages: only names that the cache gives."""
    for path in work.iterdir():
        if RESULT.fullmatch(path.name):
            path.unlink()


def _difference(mark: Path, recipe: Recipe) -> str:
    """The first key in which the folder's recipe differs."""
    try:
        old = msgspec.json.decode(mark.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, OSError):
        return "its recipe.json is unreadable"
    new = msgspec.json.decode(msgspec.json.encode(recipe.unplaced))
    return next(_differences(old, new), "written by another version")


def _differences(old: dict[str, Any], new: dict[str, Any], table: str = "") -> Iterator[str]:
    for name, value in new.items():
        was = old.get(name)
        if isinstance(was, dict) and isinstance(value, dict):
            yield from _differences(was, value, f"{table}{name}.")
        elif was != value:
            yield f"{table}{name} was {was!r} and is {value!r}"
