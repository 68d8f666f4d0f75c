"""Read TOML written by people into frozen structs, strictly: an unknown key is an error."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgedistill.errors import SettingsError


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that people write: frozen, by keyword, no unknown keys."""


T = TypeVar("T", bound=Settings)


def load(path: Path, kind: type[T]) -> T:
    """Read a TOML file as `kind`.  Raises SettingsError, which names the file and the key."""
    return convert(read(path), kind, where=str(path))


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.  Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text.  `where` names its origin in errors.  Raises SettingsError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: not valid TOML: {error}") from error


def convert(table: dict[str, Any], kind: type[T], where: str) -> T:
    """Check a table of plain values against `kind`.  `where` names its origin in errors."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {_sentence(str(error), kind)}") from error


def _sentence(message: str, kind: type[Settings]) -> str:
    """msgspec's message, with the full key first and a did-you-mean for unknown ones."""
    text, _, path = message.partition(" - at `$")
    key = re.sub(r"\[\.\.\.\]", "", path.rstrip("`")).lstrip(".")
    found = re.fullmatch(r"Object contains unknown field `(.+)`", text)
    if not found:
        missing = re.fullmatch(r"Object missing required field `(.+)`", text)
        if missing:
            return f"key {_join(key, missing[1])!r} is missing"
        return f"{key}: {text[0].lower()}{text[1:]}" if key else text
    import difflib

    near = difflib.get_close_matches(found[1], _fields(kind, key), n=1)
    hint = f"; did you mean {_join(key, near[0])!r}?" if near else ""
    return f"unknown key {_join(key, found[1])!r}{hint}"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _fields(kind: type[Settings], key: str) -> list[str]:
    """Names of the fields of the struct that stands at the dotted `key` below `kind`."""
    import msgspec.inspect as inspect

    here: Any = inspect.type_info(kind)
    for part in filter(None, re.sub(r"\[\d*\]", "", key).split(".")):
        here = next((f.type for f in getattr(here, "fields", ()) if f.encode_name == part), None)
        while here is not None and not hasattr(here, "fields"):
            inner = getattr(here, "item_type", None) or getattr(here, "value_type", None)
            options = [t for t in getattr(here, "types", ()) if hasattr(t, "fields")]
            here = inner or (options[0] if options else None)
    return [f.encode_name for f in getattr(here, "fields", ())]
