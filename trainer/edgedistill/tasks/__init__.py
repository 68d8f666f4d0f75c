"""What a kind of task brings: preprocessing, augmentation, metrics."""

from __future__ import annotations

from typing import Any

from edgedistill.data import Dataset
from edgedistill.tasks.audio import AudioClassification, Waveforms
from edgedistill.tasks.base import Preprocessing, Steps, Task
from edgedistill.tasks.images import ImageClassification
from edgedistill.tasks.sensors import SensorClassification
from edgedistill.tasks.texts import TOKENIZER, TextClassification

__all__ = [
    "TASKS",
    "TOKENIZER",
    "AudioClassification",
    "ImageClassification",
    "Preprocessing",
    "SensorClassification",
    "Steps",
    "Task",
    "TextClassification",
    "Waveforms",
    "task_of",
]

TASKS: dict[str, Any] = {
    task.name: task
    for task in (
        ImageClassification,
        AudioClassification,
        SensorClassification,
        TextClassification,
    )
}


def task_of(data: Dataset, metric: str, max_length: int) -> Any:
    """The task of the data.  max_length: most tokens of a text."""
    if data.task == TextClassification.name:
        return TextClassification(data, metric, max_length)
    return TASKS[data.task](data, metric)
