"""Finished work on disk, found again by a digest of everything that went into it.

A stage's result is one file, written atomically: if it is there, it is whole.  So a run that was
killed at any moment and is started again does only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill_runtime.files import write_atomically

RESULT = re.compile(r"\.?[a-z0-9_]+-[0-9a-f]{16}\.[a-z0-9]+(\.\w+\.tmp)?")
"""Names of results, and of those that a killed run left half written."""


def digest(*parts: Any) -> str:
    """SHA-256 over plain values and bytes."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


class Cache:
    """A folder of results by name and key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, key: str) -> Path:
        """Where the result `name` (with its suffix) made from `key` stands, or would."""
        stem, dot, suffix = name.partition(".")
        return self.folder / f"{stem}-{key[:16]}{dot}{suffix}"

    def evict(self, days: float) -> None:
        """Remove results that nobody has used for so many days.  Only names that `path` gives."""
        if not self.folder.is_dir():
            return
        oldest = time.time() - days * 86_400
        for path in self.folder.iterdir():
            if RESULT.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def get(self, name: str, key: str, make: Callable[[], bytes]) -> bytes:
        """The stored result, or `make()`, stored first and read back."""
        path = self.path(name, key)
        if path.exists():
            os.utime(path)  # used: not yet to be evicted
        else:
            data = make()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        return path.read_bytes()


def user_cache() -> Path:
    """The user's cache folder for EdgeDistill."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgedistill"
