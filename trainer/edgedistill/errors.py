"""The host's errors: the runtime's, and those that only fitting can meet.

EdgeDistillError            2  cannot run (edgedistill_runtime.errors)
├── SettingsError           2  a recipe, a profile or an option is not what it must be
├── DataError               2  the data cannot be read or used
├── TeacherError            2  a teacher cannot be loaded, or is not one for this data
├── TrainingError           2  a training cannot go on
├── ExportError             2  a model cannot be exported, or the exported file disagrees
└── OverBudget              1  no student fits, or the packed file misses a limit
"""

from __future__ import annotations

from edgedistill_runtime.errors import EdgeDistillError, OverBudget, unknown

__all__ = [
    "DataError",
    "EdgeDistillError",
    "ExportError",
    "OverBudget",
    "SettingsError",
    "TeacherError",
    "TrainingError",
    "unknown",
]


class SettingsError(EdgeDistillError):
    """A recipe, a profile or an option holds something it must not."""


class DataError(EdgeDistillError):
    """A data source is missing, unreadable or unusable."""


class TeacherError(EdgeDistillError):
    """A teacher cannot be loaded or used, or does not know the data's labels."""


class TrainingError(EdgeDistillError):
    """A training cannot go on: its loss is not a number any more."""


class ExportError(EdgeDistillError):
    """A model cannot be exported, or the exported file disagrees with the model."""
