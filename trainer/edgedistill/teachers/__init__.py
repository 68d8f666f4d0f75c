"""Where a teacher comes from, and how it is asked.

`load` takes a local folder or hub id of transformers, `package.module:function`, an ONNX file, a
module, or the name of a function that another package offers as an entry point of the group
`edgedistill.teachers`.
`auto_convolutional_teacher` and `auto_text_teacher` are networks that are trained on the spot,
where nobody brings one.  Whatever it is, its `network` takes the student's batches (of sound:
waveforms): its own preprocessing stands inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from torch import nn

from edgedistill.errors import SettingsError, TeacherError, unknown
from edgedistill.plugins import offered
from edgedistill.teachers import factory, huggingface, onnx_file
from edgedistill.teachers.auto import auto_convolutional_teacher, auto_text_teacher
from edgedistill.teachers.inputs import Normalization
from edgedistill.teachers.loaded import LoadedTeacher, Network, columns
from edgedistill.teachers.request import TASKS, Request
from edgedistill.teachers.text import TeacherEncoder

__all__ = [
    "ENTRY_POINTS",
    "LoadedTeacher",
    "Network",
    "Normalization",
    "TeacherEncoder",
    "auto_convolutional_teacher",
    "auto_text_teacher",
    "columns",
    "load",
]

ENTRY_POINTS = "edgedistill.teachers"


def load(
    source: str | nn.Module,
    task: str,
    classes: int,
    labels: Sequence[str],
    *,
    max_length: int = 512,
    trust_remote_code: bool = False,
    norm: Normalization | None = None,
) -> LoadedTeacher:
    """The teacher that `source` names, in eval mode, on the CPU, in float32.

    classes, labels: the data's; a bare encoder gets a fresh head of so many classes, the same in
    every call.  max_length: most tokens of a text; less where the teacher takes less.
    trust_remote_code: run Python files that come with a model of the hub.
    norm: mean and deviation that the student's images (in pixels of 0 to 1) or readings were
    normalised with; needed for these.
    Raises TeacherError.
    """
    if task not in TASKS:
        raise SettingsError(unknown("task", task, TASKS))
    name = source if isinstance(source, str) else type(source).__name__
    request = Request(name, task, classes, tuple(labels), max_length, trust_remote_code, norm)
    if not isinstance(source, str):
        teacher = factory.of(source, request)
    elif task == "sensor-classification" and not _is_function(source):
        raise TeacherError(
            f"{source}: a teacher for sensors is 'auto' or a module:function that returns a "
            "torch.nn.Module"
        )
    elif source.lower().endswith(".onnx"):
        teacher = onnx_file.load(request)
    elif factory.is_reference(source):
        teacher = factory.load(request)
    elif _is_entry_point(source):
        teacher = factory.made_by(offered(ENTRY_POINTS, "teacher", source, ()), request)
    else:
        teacher = huggingface.load(request)
    if teacher.labels is not None or teacher.outputs is not None:
        try:
            columns(teacher.labels, request.labels, teacher.outputs)
        except TeacherError as error:
            raise TeacherError(f"{name}: {error}") from None
    return teacher


def _is_function(source: str) -> bool:
    return factory.is_reference(source) or _is_entry_point(source)


def _is_entry_point(source: str) -> bool:
    return source in entry_points(group=ENTRY_POINTS).names and not Path(source).exists()
