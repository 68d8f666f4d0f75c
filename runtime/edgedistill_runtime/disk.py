"""The file operations of the store, one method each.

Everything that the store changes on the disk goes through here, so that tests can record the
operations, fail them and stop at them: what a power cut leaves behind hangs on their order.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgedistill_runtime import files


class Disk:
    """The real one."""

    def make_folder(self, path: Path) -> None:
        os.mkdir(path)
        os.chmod(path, 0o755)  # whatever the umask: a service's own user must be able to read it

    def create(self, path: Path) -> int:
        """A new, empty file, open for writing; never one that is there, nor through a link."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.fchmod(handle, 0o644)
        return handle

    def write(self, handle: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def sync_folder(self, path: Path) -> None:
        files.sync_folder(path)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        os.rmdir(path)
