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
        raise SettingsError(f"{where}: {_sentence(str(error), kind, table)}") from error


def _sentence(message: str, kind: type[Settings], table: dict[str, Any]) -> str:
    """msgspec's message in our words: the full key, what was found, what was wanted."""
    text, _, path = message.partition(" - at `$")
    key = path.rstrip("`").lstrip(".")
    places = re.findall(r"[^.\[\]]+|\.{3}", key)
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return f"key {_join(key, missing[1])!r} is missing"
    types = _types(kind, places)
    found = re.fullmatch(r"Object contains unknown field `(.+)`", text)
    if found:
        import difflib

        known = [field.encode_name for each in types for field in getattr(each, "fields", ())]
        near = difflib.get_close_matches(found[1], known, n=1)
        hint = f"; did you mean {_join(key, near[0])!r}?" if near else ""
        return f"unknown key {_join(key, found[1])!r}{hint}"
    if text.startswith("Invalid enum value"):
        choices = [str(value) for each in types for value in getattr(each, "values", ())]
        wanted = "expected one of: " + ", ".join(choices)
    elif text.startswith("Expected"):
        wanted = text[0].lower() + text[1:].replace("`", "")
    else:  # a struct's own words
        return f"{key}: {text}" if key else text
    if "..." in places:  # msgspec does not say which key of a dict
        return f"{key}: {wanted}"
    return f"{key} is {_value(table, places)!r}; {wanted}"


def _value(table: Any, places: list[str]) -> Any:
    """What stands at a path of keys and list places."""
    for place in places:
        table = table[int(place)] if isinstance(table, list | tuple) else table[place]
    return table


def _types(kind: type[Settings], places: list[str]) -> list[Any]:
    """msgspec's descriptions of what may stand at a path below `kind`, unions taken apart."""
    import msgspec.inspect as inspect

    found: list[Any] = [inspect.type_info(kind)]
    for place in places:
        below = [each for one in found for each in _below(one, place)]
        found = [option for each in below for option in getattr(each, "types", (each,))]
    return found


def _below(kind: Any, place: str) -> list[Any]:
    if hasattr(kind, "fields"):
        return [field.type for field in kind.fields if field.encode_name == place]
    return [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
