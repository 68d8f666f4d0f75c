"""Peak memory of the whole process (VmHWM), and the bundle's size, from kernels alone.

The coefficients are fitted on x86-64 with onnxruntime 1.32 (56 networks; 1.3 % mean error there).
On a board they are an estimate until it is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.cost.kernels import Kernel, peak_activation_bytes, weight_bytes

MB = 1e6
MIB = 2**20
BASE_MB = 44.9 + 18.0
"""Python, numpy and onnxruntime imported; a session opened."""
CONV_FACTOR = {"float32": 3.37, "int8": 3.15}
"""Resident bytes for a stored byte of convolution weights: the engine repacks them."""
GEMM_FACTOR = {"float32": 1.71, "int8": 2.71}
ACTIVATION_FACTOR = 1.42
SPREAD = 1.3
"""Factor up from the estimate on a board that was not calibrated."""

# Bytes that a node adds to the ONNX file beside its weights, and that a bundle adds to its model.
NODE_BYTES = {"float32": 170, "int8": 420}
BUNDLE_BYTES = 4096


def peak_ram_mib(kernels: Sequence[Kernel], precision: str) -> float:
    """Estimated VmHWM of a process that loads the bundle and answers."""
    conv = weight_bytes(tuple(k for k in kernels if "Conv" in k.op), precision)
    gemm = weight_bytes(tuple(k for k in kernels if "Conv" not in k.op), precision)
    total = BASE_MB + (CONV_FACTOR[precision] * conv + GEMM_FACTOR[precision] * gemm) / MB
    total += ACTIVATION_FACTOR * peak_activation_bytes(tuple(kernels)) / MB
    return total * MB / MIB


def bundle_mib(kernels: Sequence[Kernel], precision: str, sample_bytes: int, classes: int) -> float:
    """Estimated size of the bundle; the export of the untrained candidate makes it exact."""
    golden = 20 * (sample_bytes + 4 * classes)
    model = weight_bytes(tuple(kernels), precision) + NODE_BYTES[precision] * len(kernels)
    return (model + golden + BUNDLE_BYTES) / MIB
