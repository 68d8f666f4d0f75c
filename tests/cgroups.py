"""A control group with a memory limit, where this machine lets us make one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    folder: Path

    def running(self, *command: str | Path) -> list[str]:
        """The command that joins the group and becomes `command`."""
        join = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", join, str(self.folder / "cgroup.procs"), *map(str, command)]


@contextlib.contextmanager
def memory_limit(mib: float) -> Iterator[Group]:
    """A group whose processes get so much memory and no swap; the test is skipped without one."""
    folder = _base() / f"edgedistill-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory control group can be made here ({error.strerror})")
    try:
        for file, value in _limits(folder, int(mib * 2**20)):
            (folder / file).write_text(value, encoding="ascii")
        yield Group(folder)
    finally:
        folder.rmdir()


def _base() -> Path:
    if (TOP / "memory").is_dir():
        return TOP / "memory"
    control = TOP / "cgroup.subtree_control"
    if not control.exists():
        pytest.skip("there is no memory control group")
    if "memory" not in control.read_text(encoding="ascii").split():
        try:
            control.write_text("+memory", encoding="ascii")
        except OSError as error:
            pytest.skip(f"no memory control group can be made here ({error.strerror})")
    return TOP


def _limits(folder: Path, size: int) -> Iterator[tuple[str, str]]:
    if (folder / "memory.limit_in_bytes").exists():
        yield "memory.limit_in_bytes", str(size)
        yield "memory.swappiness", "0"
    else:
        yield "memory.max", str(size)
        if (folder / "memory.swap.max").exists():  # a kernel that does not count swap has none
            yield "memory.swap.max", "0"
