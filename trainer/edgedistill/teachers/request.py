"""What is asked for, in one piece for the modules that load."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistill.teachers.inputs import Normalization

TASKS = (
    "text-classification",
    "image-classification",
    "audio-classification",
    "sensor-classification",
)


@dataclass(frozen=True)
class Request:
    source: str
    task: str
    classes: int
    labels: tuple[str, ...]
    max_length: int
    trust_remote_code: bool
    norm: Normalization | None
    """What the student's images or readings were normalised with."""
