"""What a power cut can leave behind: the store's operations, and every disk they may have made.

Data that was not synced may be there, in part or not at all.  Changes of a folder that was not
synced may be there or not, each on its own.  Nothing else is promised by POSIX, so nothing else is
assumed; that a rename replaces its target at once is.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from edgedistill_runtime.disk import Disk


class Recorder(Disk):
    """Does it, and writes down what was done."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.open = root, [], {}
        self._files = itertools.count()

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def mark(self, what: object) -> None:
        """From here on, `what` is how it has to be."""
        self.log.append(("mark", what))

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.log.append(("folder", self._name(path)))

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self.open[handle] = next(self._files)
        self.log.append(("create", self._name(path), self.open[handle]))
        return handle

    def write(self, handle: int, data: bytes) -> None:
        super().write(handle, data)
        self.log.append(("write", self.open[handle], data))

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self.log.append(("sync", self.open[handle]))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.log.append(("rename", self._name(old), self._name(new)))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.log.append(("sync folder", self._name(path)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(("remove", self._name(path)))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.log.append(("remove folder", self._name(path)))


def _parent(name: str) -> str:
    return str(Path(name).parent)


class Cut:
    """The disk after some operations: what is certain, and what may have happened besides."""

    def __init__(self) -> None:
        self.entries: dict[str, object] = {}
        """Path -> number of a file, or "folder": on the disk for certain."""
        self.pending: list[tuple] = []
        """Changes of folders, with the folders whose sync makes them certain."""
        self.data: dict[int, bytes] = {}
        self.synced: dict[int, int] = {}

    def apply(self, step: tuple) -> None:
        kind, *rest = step
        if kind == "folder":
            self.pending.append(({_parent(rest[0])}, "set", rest[0], "folder"))
        elif kind == "create":
            self.data[rest[1]], self.synced[rest[1]] = b"", 0
            self.pending.append(({_parent(rest[0])}, "set", rest[0], rest[1]))
        elif kind == "write":
            self.data[rest[0]] += rest[1]
        elif kind == "sync":
            self.synced[rest[0]] = len(self.data[rest[0]])
        elif kind == "rename":
            file = self._now()[rest[0]]
            self.pending.append(({_parent(rest[1])}, "set", rest[1], file))
            self.pending.append(({_parent(rest[0])}, "drop", rest[0], None))
        elif kind == "sync folder":
            certain = [p for p in self.pending if rest[0] in p[0]]
            self.pending = [p for p in self.pending if rest[0] not in p[0]]
            self._do(self.entries, certain)
        else:
            self.pending.append(({_parent(rest[0])}, "drop", rest[0], None))

    def _now(self) -> dict[str, object]:
        return self._do(dict(self.entries), self.pending)

    @staticmethod
    def _do(entries: dict[str, object], changes: list[tuple]) -> dict[str, object]:
        for _, what, name, file in changes:
            if what == "set":
                entries[name] = file
            else:
                entries.pop(name, None)
        return entries

    def disks(self, rng: random.Random, most: int) -> Iterator[dict[str, bytes | None]]:
        """Path -> content (None: a folder), for every choice of what happened, at most `most`."""
        choices = list(itertools.product([False, True], repeat=len(self.pending)))
        if len(choices) > most:
            choices = [choices[0], choices[-1], *rng.sample(choices, most - 2)]
        for choice in choices:
            happened = [p for p, took in zip(self.pending, choice, strict=True) if took]
            entries = self._do(dict(self.entries), happened)
            unsure = any(
                isinstance(file, int) and self.synced[file] < len(self.data[file])
                for file in entries.values()
            )
            for part in (0.0, 0.5, 1.0) if unsure else (1.0,):
                yield {name: self._content(file, part) for name, file in entries.items()}

    def _content(self, file: object, part: float) -> bytes | None:
        if not isinstance(file, int):
            return None
        data, synced = self.data[file], self.synced[file]
        return data[: synced + int(part * (len(data) - synced))]


def lay_out(disk: dict[str, bytes | None], root: Path) -> None:
    """Make that disk under `root`; what stands in a folder that is lost is lost with it."""
    for name in sorted(disk):
        path, content = root / name, disk[name]
        if not path.parent.is_dir():
            continue
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
