"""A made-up board: every kernel's time follows a law, so that what a fit finds can be checked."""

from __future__ import annotations

import numpy as np

from edgedistill.cost import features
from edgedistill.cost.fitting import Measured
from edgedistill.cost.kernels import Kernel
from edgedistill.profiles import DeviceProfile

ABOUT = {
    "kind": "about",
    "format": 1,
    "engine": "onnxruntime",
    "engine_version": "1.32.0",
    "threads": 1,
    "date": "2026-11-24",
    "machine": DeviceProfile.load("host").board.arch,
    "cpu": "made up",
}
CALL_US, NODE_US, INPUT_US = 9.0, 1.7, 0.4
NOISE = 0.01


def law_us(kernel: Kernel) -> float:
    """a + b · multiply-accumulates + c · bytes, other ones for each class."""
    rng = np.random.default_rng(list(features.kernel_class(kernel).encode()))
    start, mac, byte = rng.uniform([1, 1e-4, 1e-4], [4, 6e-4, 6e-4])
    moved = sum(features.moved_bytes(kernel)) + features.stored_bytes(kernel)
    return float(start + mac * kernel.macs + byte * moved)


def floor_us(kernels) -> float:
    return CALL_US + sum(map(law_us, kernels))


def measured(name: str, precision: str, kernels, rng: np.random.Generator) -> Measured:
    inputs = tuple(int(n) for n in rng.integers(1, 9, len(kernels)))
    noise = np.exp(NOISE * rng.standard_normal(len(kernels)))
    nodes = np.array([law_us(k) for k in kernels]) * noise
    seen = nodes + NODE_US + INPUT_US * np.array(inputs)
    floor = CALL_US + float(nodes.sum())
    return Measured(name, precision, tuple(kernels), inputs, floor, tuple(seen.tolist()))
