"""Quantize an exported model after training.

static       ranges of activations from calibration samples: for convolutional networks
dynamic      ranges that each call finds: for networks of matrix products
weights      float16 and int4, of weights alone
sensitivity  how much noise each layer takes from it
tflite       either of them for TFLite files
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edgedistill.quantize.dynamic import ROWS, Dynamic, dynamic_int8
from edgedistill.quantize.sensitivity import Layer
from edgedistill.quantize.static import Learned, Static, static_int8
from edgedistill.quantize.tflite import Tflite
from edgedistill.quantize.weights import float16, int4

__all__ = [
    "ROWS",
    "Dynamic",
    "Layer",
    "Learned",
    "Quantizer",
    "Static",
    "Tflite",
    "dynamic_int8",
    "float16",
    "int4",
    "static_int8",
]


class Quantizer(Protocol):
    """A float32 model that can be quantized in several ways."""

    methods: tuple[str, ...]
    """How the ranges of activations can be found, the usual way first."""

    def int8(self, method: str, floats: Collection[str] = ()) -> bytes:
        """The quantized file.  floats: names of the nodes that stay float32."""

    def layers(self, int8: bytes, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> list[Layer]:
        """The layers that `int8` quantizes, the one with most noise first.  feeds: one sample
        each, by the name of the input."""
