"""How long work tells about itself.  `fit` speaks to this interface; the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins (and the one before ends); `detail` says why or with what."""

    def note(self, text: str) -> None:
        """One line that says what was chosen, and why."""

    def advance(self, done: float, total: int) -> None:
        """So much of the stage is done: epochs, or views, with parts of one."""


class Silent:
    """Says nothing."""

    def stage(self, name: str, detail: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def advance(self, done: float, total: int) -> None:
        pass
