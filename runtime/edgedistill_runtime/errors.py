"""The errors users can meet: one base class, one sentence each, and its exit code.

EdgeDistillError             2  cannot run
├── BundleError              2  the file is not a bundle that this runtime accepts
├── EngineError              2  the inference engine is missing, or refuses the model
├── InputError               2  a sample is not what the model takes
├── StoreError (store.py)    2  the store cannot do what was asked
├── SourceError (streams.py) 2  a camera's or microphone's command failed
└── OverBudget               1  it runs, and misses a limit
"""

from __future__ import annotations

from collections.abc import Iterable


class EdgeDistillError(Exception):
    """Base of all errors that a user can cause or meet."""

    exit_code = 2


class BundleError(EdgeDistillError):
    """The bundle is damaged, altered, or of a format this runtime does not read."""


class EngineError(EdgeDistillError):
    """The inference engine is missing, or does not accept the model."""


class InputError(EdgeDistillError):
    """A sample does not have the type or shape that the model takes."""


class OverBudget(EdgeDistillError):
    """A limit of the budget is missed."""

    exit_code = 1


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {kind} named {name!r}{hint} (known: {', '.join(names)})"
