"""Boards by name: `boards.toml`, read strictly.

[garden]
host = "ssh://pi@garden.local"
profile = "rpi4"
tags = ["camera"]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgedistill import settings
from edgedistill.boards.address import SCHEME, Address
from edgedistill.errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Row(settings.Settings, frozen=True):
    """A table of the file."""

    host: str
    profile: str | None = None
    """The device profile that this board is; bundles for others are not deployed to it."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """A board of the fleet."""

    name: str
    address: Address
    profile: str | None = None
    tags: tuple[str, ...] = ()


def read(targets: str) -> list[Member]:
    """The boards of FILE, or of FILE:TAG those with that tag.  Raises SettingsError."""
    path, tag = _split(targets)
    members = []
    for name, table in settings.read(path).items():
        where = f"{path}: {name}"
        if not isinstance(table, dict) or not _NAME.fullmatch(name):
            raise SettingsError(f"{where!r}: a board is a table, [name], of letters and digits")
        row = settings.convert(table, Row, where)
        text = row.host if row.host.startswith(SCHEME) else SCHEME + row.host
        try:
            address = Address.parse(text)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None
        members.append(Member(name, address, row.profile, row.tags))
    if not members:
        raise SettingsError(f"{path} has no boards; add one: [garden] and host = 'ssh://pi@garden'")
    chosen = [member for member in members if tag is None or tag in member.tags]
    if not chosen:
        tags = sorted({tag for member in members for tag in member.tags})
        raise SettingsError(
            f"{path}: no board has the tag {tag!r} (known: {', '.join(tags) or 'none'})"
        )
    return chosen


def _split(targets: str) -> tuple[Path, str | None]:
    whole = Path(targets)
    if whole.exists() or ":" not in targets:
        return whole, None
    path, _, tag = targets.rpartition(":")
    return Path(path), tag
