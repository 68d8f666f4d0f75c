"""Inference engines behind one small interface.

Another package can offer one through the entry-point group `edgedistill_runtime.backends`; its
value is a function like those in `BACKENDS`.  Nothing is imported before a bundle names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from edgedistill_runtime.errors import EngineError, unknown
from edgedistill_runtime.manifest import Backend, Tensor

GROUP = "edgedistill_runtime.backends"


class Session(Protocol):
    """A loaded model."""

    engine: str
    version: str
    inputs: tuple[Tensor, ...]
    """As the model declares them; −1 is a size that it leaves open."""
    outputs: tuple[Tensor, ...]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays by input name, in the declared types and shapes -> the outputs in order."""


Opener = Callable[[bytes, Backend], Session]
BACKENDS = {
    "onnx": "edgedistill_runtime.backends.onnx:open_session",
    "tflite": "edgedistill_runtime.backends.tflite:open_session",
}


def opener(name: str) -> Opener:
    """The function that loads models for the backend `name`.  Raises EngineError."""
    if name in BACKENDS:
        module, _, function = BACKENDS[name].partition(":")
        found: Opener = getattr(import_module(module), function)
        return found
    from importlib.metadata import entry_points

    offers = entry_points(group=GROUP, name=name)
    if len(offers) > 1:
        owners = ", ".join(sorted(o.value for o in offers))
        raise EngineError(
            f"the backend {name!r} is offered twice ({owners}); uninstall one of them"
        )
    for offer in offers:
        loaded: Opener = offer.load()
        return loaded
    raise EngineError(unknown("backend", name, BACKENDS))
