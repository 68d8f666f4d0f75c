"""Student families: what can be built, what it costs, how it is built.

A family enumerates its specs, gives the kernels of each without torch, and builds one.  Pass an
object with these methods to `fit(student=…)`, name one of `FAMILIES`, or name one that another
package offers as an entry point of the group `edgedistill.students`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from edgedistill.cost.kernels import Kernel
from edgedistill.plugins import offered
from edgedistill.students.convnet import ConvNet
from edgedistill.students.source import Source
from edgedistill.students.static import Static
from edgedistill.students.transformer import Transformer
from edgedistill.students.vit import ViT

if TYPE_CHECKING:
    import torch

__all__ = ["ENTRY_POINTS", "FAMILIES", "Family", "Source", "family", "tasks_of"]

Shape = tuple[int, ...]
ENTRY_POINTS = "edgedistill.students"


class Family(Protocol):
    """A space of students.

    A family may also have

    - `adopt(student, spec, source: Source) -> str`: copies into the untrained student what it can
      take over from a teacher, and returns a sentence that says what;
    - `capacity(spec) -> float`: how much a student can learn, to compare specs of the family; the
      number of its parameters where it is missing.
    """

    name: str
    tasks: tuple[str, ...]
    """Such as "image-classification"; a family for one may have `task`, a text, instead."""
    quantization: str
    """How int8 is made: "static" (from calibration samples) or "dynamic"."""

    def specs(self, input_shape: Shape) -> Iterable[Any]:
        """Every spec of the space for one preprocessed sample's shape.

        That is (channels, height, width) for images, (1, bands, frames) for sound, (channels, 1,
        steps) for sensors, and (tokens,) for texts: the length that is priced.  A text spec has
        `vocabulary`, the rows of its embedding table.
        """

    def kernels(
        self, spec: Any, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """What the engine will execute, equal to the exported graph.  Needs no torch."""

    def build(self, spec: Any, input_shape: Shape, classes: int) -> torch.nn.Module:
        """The untrained network: a batch -> logits (batch, classes).

        One input, (batch, *input_shape) float32.  Texts: ids (batch, tokens) int64, and
        a mask (batch, tokens) float32 that may be left out.
        """


FAMILIES: dict[str, Family] = {f.name: f for f in (ConvNet(), ViT(), Static(), Transformer())}


def tasks_of(made: Any) -> tuple[str, ...]:
    """The tasks that a family is for."""
    tasks: tuple[str, ...] = getattr(made, "tasks", ())
    return tuple(tasks) or (made.task,)


def family(name: str | Family) -> Family:
    """A family by name, built in or of an entry point, or the object itself.

    Raises SettingsError.
    """
    if not isinstance(name, str):
        return name
    if name in FAMILIES:
        return FAMILIES[name]
    found = offered(ENTRY_POINTS, "student family", name, FAMILIES)
    made: Family = found() if isinstance(found, type) else found
    return made
