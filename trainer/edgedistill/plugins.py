"""What other packages offer by entry points: loaded only when named."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from edgedistill.errors import SettingsError, unknown


def offered(group: str, what: str, name: str, known: Iterable[str]) -> Any:
    """The object that an installed package offers as `name` in the entry-point group.

    what: "loss", "student family", …, for errors.  known: the built-in names, which are looked up
    first and cannot be replaced.  Raises SettingsError if nobody offers it, two packages do, or it
    cannot be loaded.
    """
    found = entry_points(group=group)
    named = [point for point in found if point.name == name]
    if not named:
        raise SettingsError(unknown(what, name, {*known, *found.names}))
    if len(named) > 1:
        packages = ", ".join(sorted(point.value for point in named))
        raise SettingsError(
            f"the {what} {name!r} is offered {len(named)} times ({packages}); "
            "uninstall all but one of the packages"
        )
    try:
        return named[0].load()
    except Exception as error:  # whatever a foreign module does when it is imported
        raise SettingsError(
            f"the {what} {name!r} ({named[0].value}) cannot be loaded: {error}"
        ) from error
