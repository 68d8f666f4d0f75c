"""Peak memory of the whole process (VmHWM), and the bundle's size, from kernels alone.

A process is largest at one of three moments.  When the engine has read the file, it holds what the
file says three times: the bytes it was given, the parsed file, and its own tensors; but it has not
yet touched most of its code.  When it sets up the graph, there are two of each weight, and for a
moment a third of one of them.  When it runs, there are packed copies of some weights, what each
node needs, and live activations.  The built-in rates were fitted on x86-64 with onnxruntime 1.32
on 104 small networks of typical blocks, float32 and int8; on a board they are an estimate until it
is calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from edgedistill.cost.kernels import DYNAMIC_OPS, Kernel, table_rows, weight_bytes
from edgedistill.errors import SettingsError, unknown

Kernels = Sequence[Kernel]
MIB = 2**20
LARGE_BYTES = MIB
"""From here on what a weight leaves behind when it is packed is not used again."""
PARSED = 3.0
"""Copies of the file while the engine reads it."""
UNRUN_MIB = 0.75
"""Of the base, what only the first run adds."""
RUNTIME_MIB = 5.4
"""What the runtime's own modules add to a process with numpy and onnxruntime."""
TOKENIZER_MIB, TOKENIZER_ENTRY_MIB = 5.7, 305e-6
"""What `tokenizers` takes, and each entry of the vocabulary: fitted on 20 text models."""
SPREAD = 1.3
"""Factor up from the estimate on a board that was not calibrated."""


@dataclass(frozen=True)
class MemoryRates:
    """MiB of a process, MiB for a kernel, and MiB for a MiB of each kind of weight."""

    base_mib: float
    """Everything imported, and a network of no size loaded and run."""
    unread_mib: float
    """Of that, what the engine has not touched yet when it reads the file."""
    kernel_mib: float
    quantized_kernel_mib: float
    """What a kernel with quantized weights adds to that: its scales and zeros are tensors."""
    stored: float
    """Any constant: in the file, which is held, and in the engine."""
    gemm: float
    """Float weights of a Gemm: their packed copy, as far as it finds no freed memory ..."""
    gemm_large: float
    """... and what is added to that for weights of at least 1 MiB."""
    matmul: float
    """The same for a MatMul; weights of float convolutions are not packed."""
    quantized: float
    """Quantized weights of convolutions and Gemms ..."""
    dynamic: float
    """... and of matrix products that quantize as they go."""
    activation: float
    """The kernel with most data in work, float32 ..."""
    quantized_activation: float
    """... and in a quantized network, beyond what the parsed file leaves free: its tensors are
    small, so the allocator keeps and reuses their memory."""

    def to_dict(self) -> dict[str, float]:
        """Plain values, for a profile."""
        return asdict(self)

    @staticmethod
    def of(values: Mapping[str, Any]) -> MemoryRates:
        """Rates as `to_dict` gave them.  Raises SettingsError."""
        for name in values:
            if name not in _NAMES:
                raise SettingsError(unknown("memory rate", name, _NAMES))
        for name in _NAMES:
            value = values.get(name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                found = "is missing" if value is None else f"is {value!r}"
                raise SettingsError(
                    f"the memory rate {name!r} {found}; it must be a number of at least 0: "
                    "calibrate the board again"
                )
        return MemoryRates(**{name: float(values[name]) for name in _NAMES})


_NAMES = tuple(field.name for field in fields(MemoryRates))
ENGINE = MemoryRates(
    base_mib=55.6,
    unread_mib=8.7,
    kernel_mib=0.015,
    quantized_kernel_mib=0.063,
    stored=1.984,
    gemm=0.251,
    gemm_large=0.442,
    matmul=0.493,
    quantized=0.863,
    dynamic=0.871,
    activation=2.242,
    quantized_activation=1.879,
)
"""Of a process that imports numpy and onnxruntime and nothing else."""
DEFAULT = replace(ENGINE, base_mib=ENGINE.base_mib + RUNTIME_MIB)
"""Of the runtime's process."""
FEWEST_NETWORKS, LEAST_SPREAD_MIB = 12, 1.0
TOLERANCE, TOLERANCE_MIB = 0.05, 3.0
"""An error counts by the larger of the two."""
_QUANTIZED = ("QLinearConv", "QGemm")
_TRUST = 2.0
"""Copies are the engine's doing more than the board's; the base is the board's."""
_ROUNDS = 40
# A rate that is so far from the built-in one costs as much as a network that misses the tolerance
# _TRUST times.
_LEEWAY = {
    "base_mib": 50.0,
    "unread_mib": 5.0,
    "kernel_mib": 0.02,
    "quantized_kernel_mib": 0.05,
    "stored": 0.1,
    "activation": 2.0,
    "quantized_activation": 1.0,
}
_LEEWAY_OF_COPIES = 0.5
GEMM_FACTOR = {
    "float32": ENGINE.stored + ENGINE.gemm + ENGINE.gemm_large,
    "int8": ENGINE.stored + ENGINE.dynamic,
}
"""Resident bytes for a stored byte of weights of which only the size is known."""

LAYER_BYTES = {"float32": 317, "float16": 403, "int8": 1246, "int4": 635}
"""What a layer adds to the ONNX file beside its weights: nodes and the names of tensors."""
FILE_BYTES = {"float32": 37, "float16": 45, "int8": 466, "int4": 466}
"""The rest of the file.  Fitted, with the layers, on 40 exported networks; off by at most 0.7 %."""
TOKEN_BYTES = 30
"""What an entry of the vocabulary takes in tokenizer.json, generously."""
TEXT_FILE_BYTES = {"float32": 272, "float16": 433, "int8": 515, "int4": 543}
TEXT_KERNEL_BYTES = {"float32": 98, "float16": 112, "int8": 265, "int4": 126}
"""The file of a text model beside its weights.  Fitted on 20; off by at most 0.6 %."""
TOKENIZER_BYTES = 20
"""Of an entry in tokenizer.json: WordPiece 12 to 15, BPE 22 to 27, Unigram 31."""
BUNDLE_BYTES = 4096
"""What a bundle adds to its model beside the golden samples, generously."""


def peak_ram_mib(kernels: Kernels, precision: str, rates: MemoryRates = DEFAULT) -> float:
    """Estimated VmHWM of a process that loads the bundle and answers."""
    rows = table_rows(kernels)
    tokenizer_mib = TOKENIZER_MIB + TOKENIZER_ENTRY_MIB * rows if rows else 0.0
    return network_mib(kernels, precision, rates) + tokenizer_mib


def network_mib(kernels: Kernels, precision: str, rates: MemoryRates) -> float:
    """The same without a tokenizer: the process of the bare network."""
    values = rates.to_dict()
    return max(
        moment.fixed_mib + sum(values[name] * amount for name, amount in moment.amounts.items())
        for moment in _moments(kernels, precision)
    )


def fit(rows: Sequence[tuple[Kernels, str, float]], prior: MemoryRates = DEFAULT) -> MemoryRates:
    """Rates from (kernels, precision, VmHWM in MiB) of networks that one board has run.

    Each network counts at the moment at which the rates so far say that it was largest: from there
    non-negative least squares in units of the tolerance, outliers held back (a residual beyond 0.4
    of it counts by its root), drawn towards `prior` where the networks say little.  Raises
    SettingsError.
    """
    import numpy as np
    from scipy.optimize import nnls

    _require_spread(rows)
    moments = [_moments(kernels, precision) for kernels, precision, _ in rows]
    # (networks, moments, rates) and (networks, moments)
    amounts = np.array([[[m.amounts.get(n, 0.0) for n in _NAMES] for m in row] for row in moments])
    fixed = np.array([[m.fixed_mib for m in row] for row in moments])
    peaks = np.array([peak for _, _, peak in rows])
    tolerance = np.maximum(TOLERANCE_MIB, TOLERANCE * peaks)
    start = np.array([getattr(prior, name) for name in _NAMES])
    pull = np.array([_TRUST / _LEEWAY.get(name, _LEEWAY_OF_COPIES) for name in _NAMES])
    found, each = start, np.arange(len(rows))
    for _ in range(_ROUNDS):
        told = amounts @ found + fixed
        largest = told.argmax(1)
        error = np.abs(told[each, largest] - peaks) / tolerance
        weight = np.sqrt(np.minimum(1, 0.4 / np.maximum(error, 1e-9))) / tolerance
        solved, _ = nnls(
            np.vstack([amounts[each, largest] * weight[:, None], np.diag(pull)]),
            np.concatenate([(peaks - fixed[each, largest]) * weight, start * pull]),
        )
        found = (found + solved) / 2  # a whole step can go to and fro between two moments
    return MemoryRates(**{name: float(x) for name, x in zip(_NAMES, found, strict=True)})


def _require_spread(rows: Sequence[tuple[Kernels, str, float]]) -> None:
    if len(rows) < FEWEST_NETWORKS:
        raise SettingsError(
            f"memory was measured on {len(rows)} networks; a fit needs {FEWEST_NETWORKS}: "
            "calibrate for longer (--max-seconds)"
        )
    for _, _, peak in rows:
        if not 0 < peak < math.inf:
            raise SettingsError(
                f"a peak memory of {peak!r} MiB was measured, which no process has; calibrate again"
            )
    stored = [weight_bytes(tuple(kernels), precision) / MIB for kernels, precision, _ in rows]
    if max(stored) - min(stored) < LEAST_SPREAD_MIB:
        raise SettingsError(
            f"memory was measured on networks of {min(stored):.1f} to {max(stored):.1f} MiB; "
            f"a fit needs sizes at least {LEAST_SPREAD_MIB:g} MiB apart: calibrate for longer "
            "(--max-seconds)"
        )


@dataclass(frozen=True)
class _Moment:
    """When a process may be largest: what each rate is multiplied by, and what comes on top."""

    amounts: dict[str, float]
    fixed_mib: float = 0.0


def _moments(kernels: Kernels, precision: str) -> tuple[_Moment, _Moment, _Moment]:
    """The file has been read; the graph is set up; the network runs."""
    weights = [weight_bytes((kernel,), precision) / MIB for kernel in kernels]
    stored, largest = sum(weights), max(weights, default=0.0)
    read = _Moment({"base_mib": 1.0, "unread_mib": -1.0}, PARSED * stored)
    set_up = _Moment({"base_mib": 1.0, "stored": stored}, largest - UNRUN_MIB)
    runs = dict.fromkeys(_NAMES, 0.0)
    runs |= {"base_mib": 1.0, "kernel_mib": float(len(kernels)), "stored": stored}
    del runs["unread_mib"]
    for kernel, mib in zip(kernels, weights, strict=True):
        for kind in _copied(kernel):
            runs[kind] += mib
        runs["quantized_kernel_mib"] += kernel.op in _QUANTIZED
    work = max((_working_bytes(kernel) for kernel in kernels), default=0) / MIB
    if runs["quantized_kernel_mib"]:
        runs["quantized_activation"] = max(0.0, work - stored)
    else:
        runs["activation"] = work
    return read, set_up, _Moment(runs)


def _copied(kernel: Kernel) -> Iterator[str]:
    """The rates that its weights count for, beside `stored`."""
    if kernel.op in _QUANTIZED:
        yield "quantized"
    elif kernel.op in DYNAMIC_OPS:
        yield "dynamic"
    elif "Gemm" in kernel.op:
        yield "gemm"
        if 4 * kernel.weights >= LARGE_BYTES:
            yield "gemm_large"
    elif "MatMul" in kernel.op:
        yield "matmul"


def _working_bytes(kernel: Kernel) -> int:
    """Input, output, and what the kernel allocates for itself while it runs."""
    data, output = math.prod(kernel.input), math.prod(kernel.output)
    if kernel.op == "QLinearConv":  # both also channels last, and sums in int32
        return 2 * data + (2 if kernel.depthwise else 2 + 4) * output
    if "Conv" in kernel.op:
        return 4 * (data + output + _unfolded(kernel))
    read, written = kernel.element_bytes, kernel.element_bytes
    if kernel.op in ("QuantizeLinear", "DynamicQuantizeLinear"):
        written = 1
    elif kernel.op == "DequantizeLinear":
        read = 1
    elif kernel.op.startswith("QLinear") or kernel.op in _QUANTIZED:
        read, written = 1, 1
    return read * data + written * output


def _unfolded(kernel: Kernel) -> int:
    """Elements of the image with a column a window; the engine does this when channels are many."""
    channels, pixels = kernel.output[1], math.prod(kernel.output[2:])
    pointwise = kernel.weights == channels * kernel.input[1]
    if kernel.depthwise or pointwise or channels <= pixels:
        return 0
    return kernel.weights // channels * pixels


def bundle_mib(kernels: Sequence[Kernel], precision: str, sample_bytes: int, classes: int) -> float:
    """Estimated size of the bundle; the export of the untrained candidate makes it exact."""
    golden = 20 * (sample_bytes + 4 * classes)
    model = weight_bytes(tuple(kernels), precision)
    rows = table_rows(kernels)
    if rows:
        model += TEXT_FILE_BYTES[precision] + TEXT_KERNEL_BYTES[precision] * len(kernels)
    else:
        layers = sum(bool(k.weights) for k in kernels)
        model += FILE_BYTES[precision] + LAYER_BYTES[precision] * layers
    return (model + golden + TOKENIZER_BYTES * rows + BUNDLE_BYTES) / MIB
