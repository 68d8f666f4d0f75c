"""The mean of token vectors and a small network on it: text without word order.

As fastText's classifier (Joulin et al. 2017, https://arxiv.org/abs/1607.01759), with vectors taken
over from a transformer (as Model2Vec, https://github.com/MinishLab/model2vec) and a learned weight
for each token.  A call costs less than the tokenizer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.cost.kernels import Kernel, gather, linear
from edgedistill.students.source import Source

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
VOCABULARIES = (1000, 2000, 3000, 4000, 8000, 16000, 30000)
DIMS = (16, 32, 64, 128)
HIDDEN = (0, 64, 128, 256)

ENOUGH_ROWS = 4000


def capacity_rows(vocabulary: int) -> float:
    """What an embedding table's rows count for: none beyond 4,000, which are too rare to learn.

    On tweets a vocabulary of 1,000, 2,000, 4,000, 8,000 and 16,000 gave an accuracy of .743, .757,
    .767, .768 and .771: about evenly for each doubling, up to 4,000.
    """
    return min(vocabulary, ENOUGH_ROWS) / 125


@dataclass(frozen=True)
class StaticSpec:
    vocabulary: int
    """Rows of the embedding table."""
    dim: int
    """Length of a token's vector."""
    hidden: int
    """Units of the hidden layer; 0: no hidden layer."""


class Static:
    """The `static` family."""

    name = "static"
    tasks: tuple[str, ...] = ("text-classification",)
    quantization = "dynamic"

    def specs(self, input_shape: Shape) -> Iterator[StaticSpec]:
        for vocabulary, dim, hidden in itertools.product(VOCABULARIES, DIMS, HIDDEN):
            yield StaticSpec(vocabulary, dim, hidden)

    def kernels(
        self, spec: StaticSpec, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """The engine's graph: look up, mean, linear layers with the ReLU inside.

        In int8 the looked-up rows are dequantized, and each linear layer quantizes its own input.
        """
        (tokens,) = input_shape
        states, features = (1, tokens, spec.dim), (1, spec.dim)
        int8 = precision == "int8"
        found = [gather(tokens, spec.vocabulary, spec.dim, int8)]
        if int8:
            found.append(Kernel("DequantizeLinear", states, states))
        found.append(Kernel("ReduceMean", states, features))
        if spec.hidden:
            found.append(
                linear("DynamicQuantizeMatMul" if int8 else "FusedGemm", features, spec.hidden)
            )
            features = (1, spec.hidden)
            if int8:
                found.append(Kernel("Relu", features, features))
        found.append(linear("DynamicQuantizeMatMul" if int8 else "Gemm", features, classes))
        return tuple(found)

    def build(self, spec: StaticSpec, input_shape: Shape, classes: int) -> torch.nn.Module:
        from edgedistill.students.textmodules import Bag

        sizes = (spec.dim, spec.hidden) if spec.hidden else (spec.dim,)
        return Bag(spec.vocabulary, sizes, classes)

    def capacity(self, spec: StaticSpec) -> float:
        """Grows with the logarithm of each size, as accuracy does; see `capacity_rows`."""
        return (
            math.log2(capacity_rows(spec.vocabulary))
            * math.log2(spec.dim)
            * math.log2(16 + spec.hidden)
        )

    def adopt(self, student: torch.nn.Module, spec: StaticSpec, source: Source) -> str:
        """Token vectors from the teacher's outputs.

        Token weights begin at 1: inverse frequencies, with which unsupervised sentence vectors
        begin, cost a point on tweets, where frequent tokens such as "not" decide.
        """
        from edgedistill.students import adoption

        return adoption.token_vectors(student, source)
