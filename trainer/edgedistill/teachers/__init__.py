"""Where a teacher comes from, and how it is asked.

`load` takes a local folder or hub id of transformers, `package.module:function`, or an ONNX file.
`auto_image_teacher` and `auto_text_teacher` are networks that are trained on the spot, where
nobody brings one.  Whatever it is, its `network` takes the student's batches: its own
preprocessing stands inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.errors import SettingsError, TeacherError, unknown
from edgedistill.teachers import factory, huggingface, onnx_file
from edgedistill.teachers.auto import auto_image_teacher, auto_text_teacher
from edgedistill.teachers.images import Normalization
from edgedistill.teachers.loaded import LoadedTeacher, Network, columns
from edgedistill.teachers.request import TASKS, Request
from edgedistill.teachers.text import TeacherEncoder

__all__ = [
    "LoadedTeacher",
    "Network",
    "Normalization",
    "TeacherEncoder",
    "auto_image_teacher",
    "auto_text_teacher",
    "columns",
    "load",
]


def load(
    source: str,
    task: str,
    classes: int,
    labels: Sequence[str],
    *,
    max_length: int = 512,
    trust_remote_code: bool = False,
    image_norm: Normalization | None = None,
) -> LoadedTeacher:
    """The teacher that `source` names, in eval mode, on the CPU, in float32.

    classes, labels: the data's; a bare encoder gets a fresh head of so many classes, the same in
    every call.  max_length: most tokens of a text; less where the teacher takes less.
    trust_remote_code: run Python files that come with a model of the hub.
    image_norm: mean and deviation, in pixels of 0 to 1, that the student's images were normalised
    with; needed for images.
    Raises TeacherError.
    """
    if task not in TASKS:
        raise SettingsError(unknown("task", task, TASKS))
    request = Request(
        source, task, classes, tuple(labels), max_length, trust_remote_code, image_norm
    )
    if source.lower().endswith(".onnx"):
        teacher = onnx_file.load(request)
    elif factory.is_reference(source):
        teacher = factory.load(request)
    else:
        teacher = huggingface.load(request)
    if teacher.labels is not None or teacher.outputs is not None:
        try:
            columns(teacher.labels, request.labels, teacher.outputs)
        except TeacherError as error:
            raise TeacherError(f"{source}: {error}") from None
    return teacher
