"""Student families: what can be built, what it costs, how it is built.

A family enumerates its specs, gives the kernels of each without torch, and builds one.  Pass an
object with these methods to `fit(student=…)`, or name one of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from edgedistill.cost.kernels import Kernel
from edgedistill.errors import SettingsError, unknown
from edgedistill.students.convnet import ConvNet

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


class Family(Protocol):
    """A space of students."""

    name: str

    def specs(self, input_shape: Shape) -> Iterable[Any]:
        """Every spec of the space for one preprocessed sample's shape (channels, height, width)."""

    def kernels(
        self, spec: Any, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """What the engine will execute, equal to the exported graph.  Needs no torch."""

    def build(self, spec: Any, input_shape: Shape, classes: int) -> torch.nn.Module:
        """The untrained network: (batch, *input_shape) float32 -> logits (batch, classes)."""


FAMILIES: dict[str, Family] = {"convnet": ConvNet()}


def family(name: str | Family) -> Family:
    """A family by name, or the object itself.  Raises SettingsError."""
    if not isinstance(name, str):
        return name
    if name not in FAMILIES:
        raise SettingsError(unknown("student family", name, FAMILIES))
    return FAMILIES[name]
