"""Students for the tests: sampled over a family's whole space, exported once a session."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from edgedistill import quantize
from edgedistill.export import onnx as exporter
from edgedistill.students import FAMILIES, tasks_of
from edgedistill.students.modules import as_if_trained

SEED = 20_261_124
Shape = tuple[int, ...]


def spread(specs: Iterable[Any], count: int) -> list[Any]:
    """A seeded sample in which, if `count` allows, every value of every field stands once."""
    left = list(specs)
    random.Random(SEED).shuffle(left)
    chosen: list[Any] = []
    seen: set[Any] = set()
    while len(chosen) < count:
        best = max(left, key=lambda spec: len(asdict(spec).items() - seen))
        left.remove(best)
        chosen.append(best)
        seen |= asdict(best).items()
    return chosen


def student(family: str, spec: Any, shape: Shape, classes: int) -> nn.Module:
    """A student with the weights and statistics of no training, but none of them zero or one.

    Biases of zero are left out of a file, and a trained network has none.
    """
    torch.manual_seed(SEED)
    return as_if_trained(FAMILIES[family].build(spec, shape, classes))


@cache
def exported(family: str, spec: Any, shape: Shape, classes: int, precision: str) -> bytes:
    """The student's ONNX file."""
    text = "text-classification" in tasks_of(FAMILIES[family])
    if precision == "float32":
        return exporter.export(student(family, spec, shape, classes), shape, text)
    float32 = exported(family, spec, shape, classes, "float32")
    if FAMILIES[family].quantization == "dynamic":
        return quantize.dynamic_int8(float32)
    samples = np.random.default_rng(SEED).normal(size=(8, *shape)).astype(np.float32)
    return quantize.static_int8(float32, exporter.INPUT, samples)
