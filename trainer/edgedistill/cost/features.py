"""What a kernel's time depends on: its class, its work, and how much else wants the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedistill.cost.kernels import DYNAMIC_OPS, Kernel

Array = NDArray[np.float64]

LANES = 16
"""Channels that a vector kernel computes at once, at most."""
WORKING_SET_STEPS = 2
"""Working sets are rounded up to so many steps a doubling: kernels of many networks then agree."""
TWO_OPERANDS = frozenset(("Add", "Mul", "QLinearAdd", "QLinearMul", "SkipLayerNormalization"))
_CONVOLUTIONS = frozenset(("Conv", "FusedConv", "QLinearConv"))
_LOOKS_UP = frozenset(("Gather", "Slice"))
_ONE_BYTE_IN = frozenset(("DequantizeLinear", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"))
_ONE_BYTE_OUT = frozenset(("DynamicQuantizeLinear", "QuantizeLinear", "QGemm"))

LINEAR = ("1", "kMAC", "padded kMAC", "KB in and out", "KB of weights")
"""Terms of the linear part; pools have kilo-elements under their windows for MACs."""
TREES = (
    "log rows", "log columns", "log depth", "log input channels", "log MACs", "log bytes in",
    "log bytes out", "log weight bytes", "log working set", "stride", "taps", "columns mod lanes",
    "depth mod lanes", "last axis kept", "fused", "axes", "log last axis", "class",
)  # fmt: skip
WORKING_SET = TREES.index("log working set")


def kernel_class(kernel: Kernel) -> str:
    """Kernels of one class are the same code."""
    op = kernel.op
    if op in _CONVOLUTIONS:
        kind = "pointwise"
        if kernel.depthwise:
            kind = "depthwise"
        elif kernel.weights > kernel.output[1] * kernel.input[1]:
            kind = "dense"
        along = " along a row" if kind != "pointwise" and _is_row(kernel) else ""
        return f"{'int8' if op.startswith('Q') else 'float32'} {kind} convolution{along}"
    if op in ("Gemm", "FusedGemm"):
        return "Gemm"
    if op in ("MatMul", "FusedMatMul"):
        return "MatMul" if kernel.weights else "MatMul of activations"
    if kernel.broadcast:
        return f"{op} by channel"
    return f"{op} of bytes" if kernel.element_bytes == 1 else op


def _is_row(kernel: Kernel) -> bool:
    """Sequences have a height of one, and windows of 1×k."""
    return len(kernel.output) == 4 and kernel.output[2] == 1 < kernel.output[3]


def tree_group(name: str) -> str:
    """Classes whose trees are grown together, told apart by their number."""
    if "convolution" in name:
        return name.split()[0] + " convolutions"
    if "Gemm" in name or "MatMul" in name:
        return "matrix products"
    return "others"


def stored_bytes(kernel: Kernel) -> int:
    """Of the constants that a call reads: of tables only the rows looked up, which is output."""
    if kernel.op in _LOOKS_UP:
        return 0
    one = kernel.op.startswith("Q") or kernel.op in DYNAMIC_OPS
    return kernel.weights * (1 if one else 4) + 4 * kernel.biases


def moved_bytes(kernel: Kernel) -> tuple[int, int]:
    """Bytes of activations that are read and written."""
    op, size = kernel.op, kernel.element_bytes
    inside, outside = math.prod(kernel.input), math.prod(kernel.output)
    if op in _LOOKS_UP or "Concat" in op:
        inside = outside
    elif op in TWO_OPERANDS and not (kernel.biases or kernel.weights or kernel.broadcast):
        inside *= 2
    elif op in ("MatMul", "FusedMatMul") and not kernel.weights:
        inside += math.prod(kernel.output[:-2]) * kernel.input[-1] * kernel.output[-1]
    quantized = op.startswith("QLinear")
    read = 1 if quantized or op in _ONE_BYTE_IN else size
    written = 1 if quantized or op in _ONE_BYTE_OUT else size
    return read * inside, written * outside


def working_set(kernels: Sequence[Kernel]) -> float:
    """Bytes that want to stay in the cache from call to call, rounded up a little.

    All weights, and the largest input and output of a kernel.
    """
    total = sum(map(stored_bytes, kernels)) + max((sum(moved_bytes(k)) for k in kernels), default=0)
    steps = math.ceil(WORKING_SET_STEPS * math.log2(max(1, total)) - 1e-9)
    return float(2 ** (steps / WORKING_SET_STEPS))


def sizes(kernel: Kernel) -> tuple[float, ...]:
    """What both parts of the model are made of, in the order of ROWS, COLUMNS, … below."""
    outputs = math.prod(kernel.output)
    columns, channels, stride = kernel.output[-1] if kernel.output else 1, 1, 1.0
    if "Conv" in kernel.op:
        columns, channels = kernel.output[1], 0 if kernel.depthwise else kernel.input[1]
    elif kernel.input:
        channels = kernel.input[-1]
    if len(kernel.input) > 2 and ("Conv" in kernel.op or "Pool" in kernel.op):
        stride = kernel.input[-1] / max(1, kernel.output[-1])
    read, written = moved_bytes(kernel)
    weights = stored_bytes(kernel)
    return (
        outputs / max(1, columns),
        columns,
        kernel.macs / outputs if outputs else 0,
        channels,
        read,
        written,
        weights - 4 * kernel.biases,
        4 * kernel.biases,
        stride,
        kernel.taps,
        float(kernel.input[-1:] == kernel.output[-1:]),
        float(kernel.op.startswith("Fused")),
        len(kernel.output),
        kernel.output[-1] if kernel.output else 1,
    )


ROWS, COLUMNS, DEPTH, CHANNELS, READ, WRITTEN, WEIGHTS, BIASES = range(8)
STRIDE, TAPS, KEPT, FUSED, AXES, LAST = range(8, 14)


def linear_terms(x: Array) -> Array:
    """x: (n, 14) -> (n, len(LINEAR))."""
    macs = x[:, ROWS] * x[:, COLUMNS] * x[:, DEPTH]
    padded = x[:, ROWS] * np.ceil(x[:, COLUMNS] / LANES) * LANES * x[:, DEPTH]
    pooled = x[:, ROWS] * x[:, COLUMNS] * x[:, TAPS]
    moved, weights = x[:, READ] + x[:, WRITTEN], x[:, WEIGHTS] + x[:, BIASES]
    terms = np.stack([macs + pooled, padded, moved, weights], 1) / 1e3
    return np.concatenate([np.ones((len(x), 1)), terms], 1)


def tree_terms(x: Array, working_sets: Array, number: int) -> Array:
    """x: (n, 14), working_sets: (n,) bytes -> (n, len(TREES)).

    number: of the class, among those that share their trees.
    """

    def log(values: Array) -> Array:
        return np.log(np.maximum(1, values))

    return np.stack(
        [
            log(x[:, ROWS]),
            log(x[:, COLUMNS]),
            log(x[:, DEPTH]),
            log(x[:, CHANNELS]),
            log(x[:, ROWS] * x[:, COLUMNS] * x[:, DEPTH]),
            log(x[:, READ]),
            log(x[:, WRITTEN]),
            log(x[:, WEIGHTS] + x[:, BIASES]),
            log(working_sets),
            x[:, STRIDE],
            x[:, TAPS],
            np.mod(x[:, COLUMNS], LANES),
            np.mod(x[:, DEPTH], LANES),
            x[:, KEPT],
            x[:, FUSED],
            x[:, AXES],
            log(x[:, LAST]),
            np.full(len(x), number),
        ],
        1,
    )
