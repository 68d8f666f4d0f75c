"""The unit of cost: one kernel that the engine executes (a node of its graph after fusion)."""

from __future__ import annotations

import math
from dataclasses import dataclass

WEIGHT_BYTES = {"float32": 4, "int8": 1}


@dataclass(frozen=True)
class Kernel:
    """One node of the engine's graph at the EXTENDED optimisation level, batch 1."""

    op: str
    """The engine's operator: FusedConv, QLinearConv, ReduceMean, Gemm, …"""
    input: tuple[int, ...]
    output: tuple[int, ...]
    weights: int = 0
    """Elements of its constant inputs, biases left out."""
    biases: int = 0
    macs: int = 0
    depthwise: bool = False


def conv(
    op: str, image: tuple[int, int, int], channels: int, kernel: int, stride: int, depthwise: bool
) -> Kernel:
    """A convolution with "same" padding.  image: (channels, height, width)."""
    c, h, w = image
    out = (channels, math.ceil(h / stride), math.ceil(w / stride))
    weights = channels * kernel * kernel * (1 if depthwise else c)
    return Kernel(
        op,
        (1, *image),
        (1, *out),
        weights=weights,
        biases=channels,
        macs=weights * out[1] * out[2],
        depthwise=depthwise,
    )


def linear(op: str, data: tuple[int, ...], outputs: int, bias: bool = True) -> Kernel:
    """A matrix product with constant weights: (…, inputs) -> (…, outputs)."""
    weights = data[-1] * outputs
    return Kernel(
        op,
        data,
        (*data[:-1], outputs),
        weights=weights,
        biases=outputs if bias else 0,
        macs=weights * math.prod(data[:-1]),
    )


def gather(tokens: int, vocabulary: int, dim: int) -> Kernel:
    """A row of an embedding table for each token: (1, tokens) -> (1, tokens, dim)."""
    return Kernel("Gather", (1, tokens), (1, tokens, dim), weights=vocabulary * dim)


def total_macs(kernels: tuple[Kernel, ...]) -> int:
    return sum(k.macs for k in kernels)


def total_parameters(kernels: tuple[Kernel, ...]) -> int:
    return sum(k.weights + k.biases for k in kernels)


def weight_bytes(kernels: tuple[Kernel, ...], precision: str) -> int:
    """Bytes of the constants as stored: int8 keeps biases as int32, with a scale a channel."""
    per_bias = 4 if precision == "float32" else 4 + 4 + 4 + 1 + 4
    return sum(k.weights * WEIGHT_BYTES[precision] + k.biases * per_bias for k in kernels)


def peak_activation_bytes(kernels: tuple[Kernel, ...]) -> int:
    """Largest input plus output of a kernel: what must live at once in a chain."""
    return max(4 * (math.prod(k.input) + math.prod(k.output)) for k in kernels)
