"""The host's errors: the runtime's, and those that only fitting can meet.

EdgeDistillError            2  cannot run (edgedistill_runtime.errors)
├── SettingsError           2  a recipe, a profile or an option is not what it must be
├── DataError               2  the data cannot be read or used
├── ExportError             2  a model cannot be exported, or the exported file disagrees
└── OverBudget              1  no student fits, or the packed file misses a limit
"""

from __future__ import annotations

from edgedistill_runtime.errors import EdgeDistillError, OverBudget, unknown

__all__ = ["DataError", "EdgeDistillError", "ExportError", "OverBudget", "SettingsError", "unknown"]


class SettingsError(EdgeDistillError):
    """A recipe, a profile or an option holds something it must not."""


class DataError(EdgeDistillError):
    """A data source is missing, unreadable or unusable."""


class ExportError(EdgeDistillError):
    """A model cannot be exported, or the exported file disagrees with the model."""
