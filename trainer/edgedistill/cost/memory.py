"""Peak memory of the whole process (VmHWM), and the bundle's size, from kernels alone.

The coefficients are fitted on x86-64 with onnxruntime 1.32 (56 networks; 1.3 % mean error there).
On a board they are an estimate until it is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.cost.kernels import Kernel, peak_activation_bytes, table_rows, weight_bytes

MB = 1e6
MIB = 2**20
BASE_MB = 44.9 + 18.0
"""Python, numpy and onnxruntime imported; a session opened."""
CONV_FACTOR = {"float32": 3.37, "int8": 3.15}
"""Resident bytes for a stored byte of convolution weights: the engine repacks them."""
GEMM_FACTOR = {"float32": 1.71, "int8": 2.71}
ACTIVATION_FACTOR = 1.42
TABLE_FACTOR, TEXT_FACTOR = {"float32": 2.91, "int8": 2.37}, {"float32": 2.56, "int8": 2.60}
"""The same for an embedding table, and for the other weights of a text model."""
TEXT_KERNEL_MB = 0.016
TOKENIZER_MB, TOKENIZER_ENTRY_MB = 6.0, 320e-6
"""What `tokenizers` takes, and each entry of the vocabulary.  Fitted, as the three above, on 20
text models with and without their tokenizer; with them the sum is off by at most 3.2 MB."""
SPREAD = 1.3
"""Factor up from the estimate on a board that was not calibrated."""

LAYER_BYTES = {"float32": 317, "int8": 1246}
"""What a layer adds to the ONNX file beside its weights: nodes and the names of tensors."""
FILE_BYTES = {"float32": 37, "int8": 466}
"""The rest of the file.  Fitted, with the layers, on 40 exported networks; off by at most 0.7 %."""
TOKEN_BYTES = 30
"""What an entry of the vocabulary takes in tokenizer.json, generously."""
TEXT_FILE_BYTES, TEXT_KERNEL_BYTES = {"float32": 272, "int8": 515}, {"float32": 98, "int8": 265}
"""The file of a text model beside its weights.  Fitted on 20; off by at most 0.6 %."""
TOKENIZER_BYTES = 20
"""Of an entry in tokenizer.json: WordPiece 12 to 15, BPE 22 to 27, Unigram 31."""
BUNDLE_BYTES = 4096
"""What a bundle adds to its model beside the golden samples, generously."""


def peak_ram_mib(kernels: Sequence[Kernel], precision: str) -> float:
    """Estimated VmHWM of a process that loads the bundle and answers."""
    total = BASE_MB + ACTIVATION_FACTOR * peak_activation_bytes(tuple(kernels)) / MB
    rows = table_rows(kernels)
    if rows:
        tables = weight_bytes(tuple(k for k in kernels if k.op == "Gather"), precision)
        others = weight_bytes(tuple(kernels), precision) - tables
        total += (TABLE_FACTOR[precision] * tables + TEXT_FACTOR[precision] * others) / MB
        total += TEXT_KERNEL_MB * len(kernels) + TOKENIZER_MB + TOKENIZER_ENTRY_MB * rows
    else:
        conv = weight_bytes(tuple(k for k in kernels if "Conv" in k.op), precision)
        gemm = weight_bytes(tuple(k for k in kernels if "Conv" not in k.op), precision)
        total += (CONV_FACTOR[precision] * conv + GEMM_FACTOR[precision] * gemm) / MB
    return total * MB / MIB


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
