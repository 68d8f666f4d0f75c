"""Small vision transformers (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

Patches that do not overlap, learned positions, layers that normalise first.  Classes come from the
mean over patches and not from a class token: as good on small images (Beyer et al. 2022,
https://arxiv.org/abs/2205.01580), one token less to compute, and the tokens stay a grid, which a
teacher's grid can be averaged down to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgedistill.cost.kernels import Kernel, conv, linear
from edgedistill.errors import SettingsError

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
PATCHES = (2, 4, 7, 8, 16, 32)
MIN_PATCHES, MAX_PATCHES = 16, 200
"""Of one sample; attention costs the square of their number."""
DIMS = (32, 48, 64, 96, 128)
DEPTHS = (2, 4, 6)
HEAD_WIDTHS, LEAST_HEADS = (16, 32), 2
FFN = (2, 4)


@dataclass(frozen=True)
class ViTSpec:
    patch: int
    """Side of a patch, in pixels, or in bands and frames."""
    dim: int
    """Length of a patch's vector."""
    depth: int
    """Encoder layers."""
    heads: int
    """Two or more."""
    ffn: int
    """Units of a layer's feed-forward part."""


class ViT:
    """The `vit` family."""

    name = "vit"
    tasks: tuple[str, ...] = ("image-classification", "audio-classification")
    quantization = "dynamic"

    def specs(self, input_shape: Shape) -> Iterator[ViTSpec]:
        """Every spec that cuts a sample into 16 to 200 patches, those at the edge padded."""
        _, height, width = input_shape
        fitting: dict[tuple[int, int], int] = {}  # by grid: of two patches the one that pads less
        for patch in PATCHES:
            grid = math.ceil(height / patch), math.ceil(width / patch)
            if patch <= min(height, width) and MIN_PATCHES <= math.prod(grid) <= MAX_PATCHES:
                fitting.setdefault(grid, patch)
        if not fitting:
            raise SettingsError(
                f"vit: samples of {height}×{width} cannot be cut into {MIN_PATCHES} to "
                f"{MAX_PATCHES} square patches; choose another size, or the family convnet"
            )
        for patch, dim, depth, ffn in itertools.product(fitting.values(), DIMS, DEPTHS, FFN):
            for heads in sorted({max(LEAST_HEADS, dim // each) for each in HEAD_WIDTHS}):
                yield ViTSpec(patch, dim, depth, heads, ffn * dim)

    def kernels(
        self, spec: ViTSpec, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """The engine's graph.

        The convolution that cuts the patches, scores, softmax and norms stay float32 in int8.
        """
        int8 = precision == "int8"
        channels, height, width = input_shape
        cut = conv("Conv", (channels, height, width), spec.dim, spec.patch, spec.patch, False)
        tokens = math.prod(cut.output[2:])
        flat, states = (1, spec.dim, tokens), (1, tokens, spec.dim)
        found = [
            cut,
            Kernel("Reshape", cut.output, flat),
            Kernel("Transpose", flat, states),
            Kernel("Add", states, states, biases=tokens * spec.dim),
            _norm(states),
            *(kernel for _ in range(spec.depth) for kernel in _layer(spec, tokens, int8)),
        ]
        found[-1] = replace(found[-1], op="SkipLayerNormalization")
        del found[-2]  # the last sum is inside of it
        found.append(Kernel("ReduceMean", states, (1, spec.dim)))
        found.append(linear(_matmul(int8), (1, spec.dim), classes))
        return tuple(found)

    def build(self, spec: ViTSpec, input_shape: Shape, classes: int) -> torch.nn.Module:
        from edgedistill.students.modules import EncoderLayer, Patches, VisionTransformer

        channels, height, width = input_shape
        patches = Patches(channels, (height, width), spec.patch, spec.dim)
        layers = [EncoderLayer(spec.dim, spec.heads, spec.ffn) for _ in range(spec.depth)]
        return VisionTransformer(patches, layers, spec.dim, classes)

    def capacity(self, spec: ViTSpec) -> float:
        """Weights of the layers.  Of two patches the search then takes the faster, larger one.

        With few samples it also learns more in the same epochs: 94.6 % of 1000 digits of MNIST
        after 12 epochs on 4000, with 7×7 patches, and 90.6 % with 4×4 (dim 64, depth 2).
        """
        return spec.depth * spec.dim * (4 * spec.dim + 2 * spec.ffn)


def _layer(spec: ViTSpec, tokens: int, int8: bool) -> Iterator[Kernel]:
    """One encoder layer, and the norm that follows it."""
    rows, states = (tokens, spec.dim), (1, tokens, spec.dim)
    split = (1, tokens, spec.heads, spec.dim // spec.heads)
    by_head = (1, spec.heads, tokens, split[3])
    scores = (1, spec.heads, tokens, tokens)
    macs = tokens * tokens * spec.dim
    yield Kernel("Reshape", states, rows)
    if int8:  # once for all three
        yield Kernel("DynamicQuantizeLinear", rows, rows)
    for name in ("key", "query", "value"):
        yield linear("MatMulIntegerToFloat" if int8 else "Gemm", rows, spec.dim)
        yield Kernel("Reshape", rows, split)
        transposed = (1, spec.heads, split[3], tokens) if name == "key" else by_head
        yield Kernel("Transpose", split, transposed)
        if name == "query":
            yield Kernel("FusedMatMul", by_head, scores, macs=macs)
            yield Kernel("Softmax", scores, scores)
    yield Kernel("MatMul", scores, by_head, macs=macs)
    yield Kernel("Transpose", by_head, split)
    yield Kernel("Reshape", split, rows)
    yield linear(_matmul(int8), rows, spec.dim)
    yield Kernel("Reshape", rows, states)
    yield Kernel("Add", states, states)
    yield _norm(states)
    wide = (tokens, spec.ffn)
    yield Kernel("Reshape", states, rows)
    yield linear(_matmul(int8), rows, spec.ffn)
    yield Kernel("Reshape", wide, (1, *wide))
    yield Kernel("Gelu", (1, *wide), (1, *wide))
    yield Kernel("Reshape", (1, *wide), wide)
    yield linear(_matmul(int8), wide, spec.dim)
    yield Kernel("Reshape", rows, states)
    yield Kernel("Add", states, states)
    yield _norm(states)


def _matmul(int8: bool) -> str:
    return "DynamicQuantizeMatMul" if int8 else "Gemm"


def _norm(states: Shape) -> Kernel:
    return Kernel("LayerNormalization", states, states, biases=2 * states[-1])
