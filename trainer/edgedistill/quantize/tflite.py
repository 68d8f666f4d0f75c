"""int8 of a TFLite file, by ai-edge-quantizer: in one way, for whole networks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgedistill.export import tflite
from edgedistill.quantize.sensitivity import Layer


class Tflite:
    """A float32 TFLite model that can be quantized."""

    methods: tuple[str, ...] = ("MinMax",)

    def __init__(
        self,
        float32: bytes,
        samples: Sequence[NDArray[Any]] | None,
        input_name: str,
        tensorwise: bool,
    ) -> None:
        """See `tflite.int8`."""
        self.float32, self.samples = float32, samples
        self.input_name, self.tensorwise = input_name, tensorwise

    def int8(self, method: str, floats: Collection[str] = ()) -> bytes:
        """The quantized TFLite file."""
        return tflite.int8(self.float32, self.samples, self.input_name, self.tensorwise)

    def layers(self, int8: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> list[Layer]:
        """None: all layers are quantized, or the network stays float32."""
        return []
