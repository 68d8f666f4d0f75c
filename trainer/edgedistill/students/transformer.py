"""Small encoders of BERT's form (Devlin et al. 2019, https://arxiv.org/abs/1810.04805) for text.

Embeddings may be narrower than the rest and are then projected (ALBERT, Lan et al. 2020,
https://arxiv.org/abs/1909.11942).  Classes come from the mean over tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.cost.kernels import Kernel, gather, linear
from edgedistill.students.source import Source
from edgedistill.students.static import VOCABULARIES, capacity_rows

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
LAYERS = (1, 2, 3, 4, 6)
HIDDEN = (64, 96, 128, 192, 256)
FFN = (2, 4)
EMBEDDINGS = (32, 64)
HEAD_WIDTH = 32
MAX_TOKENS = 128
"""Rows of the position table: no text may have more tokens."""


@dataclass(frozen=True)
class TransformerSpec:
    vocabulary: int
    """Rows of the embedding table."""
    embedding: int
    """Length of a token's vector; projected to `hidden` if that is another."""
    layers: int
    hidden: int
    heads: int
    ffn: int
    """Units of a layer's feed-forward part."""


class Transformer:
    """The `transformer` family."""

    name = "transformer"
    tasks: tuple[str, ...] = ("text-classification",)
    quantization = "dynamic"
    max_tokens = MAX_TOKENS

    def specs(self, input_shape: Shape) -> Iterator[TransformerSpec]:
        space = itertools.product(VOCABULARIES, LAYERS, HIDDEN, FFN)
        for vocabulary, layers, hidden, ffn in space:
            for embedding in (*(e for e in EMBEDDINGS if e < hidden), hidden):
                yield TransformerSpec(
                    vocabulary, embedding, layers, hidden, hidden // HEAD_WIDTH, ffn * hidden
                )

    def kernels(
        self, spec: TransformerSpec, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """The engine's graph.

        In int8 a matrix product with weights quantizes its own input, but for query, key and value,
        which share one.  Scores, softmax and norms stay float32.
        """
        (tokens,) = input_shape
        int8 = precision == "int8"
        states = (1, tokens, spec.hidden)
        found = [
            *_embeddings(spec, tokens, int8),
            *(kernel for _ in range(spec.layers) for kernel in _layer(spec, tokens, int8)),
            Kernel("ReduceMean", states, (1, spec.hidden)),
            linear("DynamicQuantizeMatMul" if int8 else "Gemm", (1, spec.hidden), classes),
        ]
        return tuple(found)

    def build(self, spec: TransformerSpec, input_shape: Shape, classes: int) -> torch.nn.Module:
        from edgedistill.students.textmodules import TextTransformer

        return TextTransformer(
            spec.vocabulary,
            spec.embedding,
            spec.layers,
            spec.hidden,
            spec.heads,
            spec.ffn,
            MAX_TOKENS,
            classes,
        )

    def capacity(self, spec: TransformerSpec) -> float:
        """Weights of the layers, times what the table adds, by the logarithm of its sizes."""
        layer = spec.hidden * (4 * spec.hidden + 2 * spec.ffn)
        table = math.log2(capacity_rows(spec.vocabulary)) * math.log2(2 * spec.embedding)
        return spec.layers * layer * table

    def adopt(self, student: torch.nn.Module, spec: TransformerSpec, source: Source) -> str:
        """The teacher's layers, evenly spread, cut to the student's widths."""
        from edgedistill.students import adoption

        return adoption.encoder(student, source)


def _embeddings(spec: TransformerSpec, tokens: int, int8: bool) -> Iterator[Kernel]:
    narrow, states = (1, tokens, spec.embedding), (1, tokens, spec.hidden)
    positions = (
        Kernel("Shape", (1, tokens), (1,)),
        Kernel(
            "Slice",
            (MAX_TOKENS, spec.hidden),
            (tokens, spec.hidden),
            weights=MAX_TOKENS * spec.hidden,
        ),
    )
    if not int8:
        yield from positions
    yield gather(tokens, spec.vocabulary, spec.embedding, int8)
    if spec.embedding != spec.hidden:
        yield linear("MatMulInteger" if int8 else "MatMul", narrow, spec.hidden, bias=False)
        if int8:
            yield Kernel("Cast", states, states)
            yield Kernel("Mul", states, states)
    elif int8:
        yield Kernel("DequantizeLinear", states, states)
    if int8:
        yield from positions
    yield Kernel("Add", states, states)
    yield _norm(states)


def _layer(spec: TransformerSpec, tokens: int, int8: bool) -> Iterator[Kernel]:
    states = (1, tokens, spec.hidden)
    split = (1, tokens, spec.heads, spec.hidden // spec.heads)
    by_head = (1, spec.heads, tokens, split[3])
    scores = (1, spec.heads, tokens, tokens)
    macs = tokens * tokens * spec.hidden
    if int8:
        yield Kernel("DynamicQuantizeLinear", states, states)
    for name in ("key", "query", "value"):
        if int8:
            yield linear("MatMulIntegerToFloat", states, spec.hidden)
        else:
            yield from _biased(states, spec.hidden)
        yield Kernel("Reshape", states, split)
        transposed = (1, spec.heads, split[3], tokens) if name == "key" else by_head
        yield Kernel("Transpose", split, transposed)
        if name == "query":
            yield Kernel("FusedMatMul", by_head, scores, macs=macs)
            yield Kernel("Softmax", scores, scores)
    yield Kernel("MatMul", scores, by_head, macs=macs)
    yield Kernel("Transpose", by_head, split)
    yield Kernel("Reshape", split, states)
    yield from _dense(states, spec.hidden, int8)
    yield Kernel("Add", states, states)
    yield _norm(states)
    wide = (1, tokens, spec.ffn)
    if int8:
        yield linear("DynamicQuantizeMatMul", states, spec.ffn)
        yield Kernel("Gelu", wide, wide)
    else:
        yield linear("MatMul", states, spec.ffn, bias=False)
        yield Kernel("BiasGelu", wide, wide, biases=spec.ffn)
    yield from _dense(wide, spec.hidden, int8)
    yield Kernel("Add", states, states)
    yield _norm(states)


def _dense(data: Shape, outputs: int, int8: bool) -> Iterator[Kernel]:
    if int8:
        yield linear("DynamicQuantizeMatMul", data, outputs)
    else:
        yield from _biased(data, outputs)


def _biased(data: Shape, outputs: int) -> Iterator[Kernel]:
    yield linear("MatMul", data, outputs, bias=False)
    yield Kernel("Add", (*data[:-1], outputs), (*data[:-1], outputs), biases=outputs)


def _norm(states: Shape) -> Kernel:
    return Kernel("LayerNormalization", states, states, biases=2 * states[-1])
