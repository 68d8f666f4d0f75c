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

LAYER_BYTES = {"float32": 317, "int8": 1246}
"""What a layer adds to the ONNX file beside its weights: nodes and the names of tensors."""
FILE_BYTES = {"float32": 37, "int8": 466}
"""The rest of the file.  Fitted, with the layers, on 40 exported networks; off by at most 0.7 %."""
TOKEN_BYTES = 30
"""What an entry of the vocabulary takes in tokenizer.json, generously."""
BUNDLE_BYTES = 4096
"""What a bundle adds to its model beside the golden samples, generously."""


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
    layers = sum(bool(k.weights) for k in kernels)
    model = weight_bytes(tuple(kernels), precision) + LAYER_BYTES[precision] * layers
    model += FILE_BYTES[precision]
    return (model + golden + BUNDLE_BYTES) / MIB
