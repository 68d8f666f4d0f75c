"""The unit of cost: one kernel that the engine executes (a node of its graph after fusion)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WEIGHT_BYTES = {"float32": 4, "int8": 1}
MIXED = "int8-mixed"
"""The precision of a network in int8 of which some layers are float32."""
FLOAT_OPS = frozenset(
    ("Add", "BiasGelu", "Conv", "LayerNormalization", "SkipLayerNormalization", "Slice")
)
"""Operators whose constants stay float32 in an int8 file."""
DYNAMIC_OPS = frozenset(("DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"))
"""Operators with int8 weights that find the range of their input at each call."""

KNOWN_OPS = frozenset(
    """
    Add AveragePool BiasGelu Cast Concat Conv DequantizeLinear DynamicQuantizeLinear
    DynamicQuantizeMatMul FusedConv FusedGemm FusedMatMul Gather Gelu Gemm HardSigmoid
    LayerNormalization MatMul MatMulInteger MatMulIntegerToFloat MaxPool Mul QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearConv QLinearMul QLinearSigmoid QuantizeLinear QuickGelu
    ReduceMean Relu Reshape Shape Sigmoid SkipLayerNormalization Slice Softmax Squeeze Tanh
    Transpose Unsqueeze
    """.split()  # noqa: SIM905 (a line an operator would be a page)
)
"""Operators whose work the cost model knows; others are priced by the bytes that they move."""


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
    element_bytes: int = 4
    """Of what it reads and writes, where its name leaves that open: a MaxPool of uint8 has 1."""
    taps: int = 0
    """Elements that a pooling window has."""
    broadcast: bool = False
    """Of two operands, one is smaller, and used again and again."""


_PRODUCTS = frozenset(("FusedGemm", "FusedMatMul", "Gemm", "MatMul"))


def conv(
    op: str,
    image: tuple[int, int, int],
    channels: int,
    kernel: int,
    stride: int,
    depthwise: bool,
    flat: bool = False,
) -> Kernel:
    """A convolution with "same" padding.  image: (channels, height, width).

    flat: of height one, with a kernel of 1×kernel and a stride along the width alone.
    """
    c, h, w = image
    out = (channels, math.ceil(h / stride), math.ceil(w / stride))  # a height of 1 stays 1
    weights = channels * kernel * (1 if flat else kernel) * (1 if depthwise else c)
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


def gather(tokens: int, vocabulary: int, dim: int, int8: bool = False) -> Kernel:
    """A row of an embedding table for each token: (1, tokens) -> (1, tokens, dim)."""
    return Kernel(
        "Gather",
        (1, tokens),
        (1, tokens, dim),
        weights=vocabulary * dim,
        element_bytes=1 if int8 else 4,
    )


def total_macs(kernels: tuple[Kernel, ...]) -> int:
    return sum(k.macs for k in kernels)


def total_parameters(kernels: tuple[Kernel, ...]) -> int:
    return sum(k.weights + k.biases for k in kernels)


def weight_bytes(kernels: tuple[Kernel, ...], precision: str) -> int:
    """Bytes of the constants as stored."""
    return sum(_stored(kernel, precision) for kernel in kernels)


def _stored(kernel: Kernel, precision: str) -> int:
    """In int8, biases are int32 with a scale a channel, or float32 where ranges are dynamic."""
    if precision == "float16":  # what has one axis stays float32, and so do constants of sums
        return (4 if kernel.op in FLOAT_OPS - {"Conv", "Slice"} else 2) * kernel.weights + (
            4 * kernel.biases
        )
    if precision == "int4":
        if kernel.op == "Gather":  # int8, a scale a row
            return kernel.weights + 4 * kernel.weights // kernel.output[-1]
        if kernel.op in _PRODUCTS:  # half a byte, a scale for 32
            return kernel.weights * 5 // 8 + 4 * kernel.biases
        return 4 * (kernel.weights + kernel.biases)
    is_float = kernel.op in FLOAT_OPS or (precision == MIXED and not _is_int8(kernel))
    if precision == "float32" or is_float:
        return 4 * (kernel.weights + kernel.biases)
    if kernel.op in DYNAMIC_OPS:  # a column has a scale and a zero
        return kernel.weights + 4 * kernel.biases + (4 + 1) * kernel.output[-1]
    return kernel.weights + (4 + 4 + 4 + 1 + 4) * kernel.biases


def _is_int8(kernel: Kernel) -> bool:
    """Whether its weights are, in a network that mixes them."""
    one_byte = kernel.op == "Gather" and kernel.element_bytes == 1
    return one_byte or kernel.op.startswith("Q") or kernel.op in DYNAMIC_OPS


def table_rows(kernels: Sequence[Kernel]) -> int:
    """Rows of the embedding tables: the size of a text model's vocabulary, 0 for images."""
    return sum(k.weights // k.output[-1] for k in kernels if k.op == "Gather")


def moved_elements(kernel: Kernel) -> int:
    """Elements that a call reads and writes: of an embedding table only the rows it looks up."""
    weights = 0 if kernel.op in ("Gather", "Slice") else kernel.weights
    data = kernel.output if kernel.op == "Slice" else kernel.input
    return weights + math.prod(data) + math.prod(kernel.output)


def peak_activation_bytes(kernels: tuple[Kernel, ...]) -> int:
    """Largest input plus output of a kernel: what must live at once in a chain."""
    return max(4 * (math.prod(k.input) + math.prod(k.output)) for k in kernels)
