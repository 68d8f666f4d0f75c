"""Small convolutional networks for images, spectrograms and sequences, in two kinds of block.

`separable`: depthwise 3×3 or 5×5 and pointwise 1×1 pairs (MobileNets, Howard et al. 2017,
https://arxiv.org/abs/1704.04861).  `dense`: plain 3×3 convolutions.  Separable blocks have fewer
multiply-accumulates; on small images engines still run dense ones faster, parameter for parameter
(docs/decisions/0004-two-kinds-of-block.md).

A stem convolution, then stages of blocks; each stage after the first halves the image and widens
it; global average pooling and one linear layer at the end.  A sequence is an image of height one,
with 1×k kernels, and halved along its steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.cost.kernels import Kernel, conv

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
WIDTHS = (4, 8, 12, 16, 24, 32, 48, 64)
GROWTHS = (1.0, 1.5, 2.0)
MIN_SIDE, MIN_STEPS = 2, 8
"""Of the last stage's image, and of its sequence."""
LARGE_SIDE, LARGE_STEPS = 64, 512
"""From here on the stem has a stride."""
IMAGE_BLOCKS = (("separable", 3), ("separable", 5), ("dense", 3))
SEQUENCE_BLOCKS = (("separable", 5), ("separable", 9), ("dense", 3), ("dense", 5))


@dataclass(frozen=True)
class ConvNetSpec:
    block: str
    """"separable" or "dense"."""
    width: int
    """Channels of the stem."""
    growth: float
    """How many times wider each stage is than the one before."""
    stages: int
    depth: int
    """Blocks in each stage; the stem counts as a dense network's first."""
    kernel: int
    """Side of the depthwise, or dense, kernels."""
    stem_stride: int = 1
    """Large inputs begin with one above 1."""


@dataclass(frozen=True)
class _Layer:
    channels: int
    kernel: int
    stride: int
    depthwise: bool


class ConvNet:
    """The `convnet` family."""

    name = "convnet"
    tasks: tuple[str, ...] = (
        "image-classification",
        "audio-classification",
        "sensor-classification",
    )
    quantization = "static"

    def specs(self, input_shape: Shape) -> Iterator[ConvNetSpec]:
        """Every spec whose last stage still has at least 2×2 pixels, or 8 steps.

        The stem of an image halves it until a side is under 64, a sequence's until it has fewer
        than 512 steps.
        """
        _, height, side = input_shape
        blocks: tuple[tuple[str, int], ...] = IMAGE_BLOCKS
        least, large = MIN_SIDE, LARGE_SIDE
        if height == 1:
            blocks, least, large = SEQUENCE_BLOCKS, MIN_STEPS, LARGE_STEPS
        else:
            side = min(height, side)
        stride = 1
        while side >= large:
            stride, side = 2 * stride, (side + 1) // 2
        deepest = max(1, (side // least).bit_length())
        stages = range(max(1, deepest - 2), deepest + 1)
        space = itertools.product(blocks, WIDTHS, GROWTHS, stages, (1, 2, 3))
        for (block, kernel), width, growth, count, depth in space:
            if count > 1 or growth == GROWTHS[0]:  # one stage has nothing to grow to
                yield ConvNetSpec(block, width, growth, count, depth, kernel, stride)

    def kernels(
        self, spec: ConvNetSpec, input_shape: Shape, classes: int, precision: str
    ) -> tuple[Kernel, ...]:
        """The engine's graph: convolutions with their ReLU inside, mean, linear layer.

        In int8 the image is quantized first, the mean is computed in float between a
        dequantization and a quantization, and the logits are dequantized.
        """
        quantized = precision == "int8"
        image, flat = (input_shape[0], input_shape[1], input_shape[2]), input_shape[1] == 1
        kernels = [Kernel("QuantizeLinear", (1, *image), (1, *image))] if quantized else []
        for layer in _layers(spec):
            op = "QLinearConv" if quantized else "FusedConv"
            kernels.append(
                conv(op, image, layer.channels, layer.kernel, layer.stride, layer.depthwise, flat)
            )
            image = (kernels[-1].output[1], kernels[-1].output[2], kernels[-1].output[3])
        features = (1, image[0])
        logits = (1, classes)
        mean = Kernel("ReduceMean", (1, *image), features)
        linear = Kernel(
            "QGemm" if quantized else "Gemm",
            features,
            logits,
            weights=image[0] * classes,
            biases=classes,
            macs=image[0] * classes,
        )
        if not quantized:
            return (*kernels, mean, linear)
        return (
            *kernels,
            Kernel("DequantizeLinear", (1, *image), (1, *image)),
            mean,
            Kernel("QuantizeLinear", features, features),
            linear,
            Kernel("DequantizeLinear", logits, logits),
        )

    def build(self, spec: ConvNetSpec, input_shape: Shape, classes: int) -> torch.nn.Module:
        from edgedistill.students.modules import Classifier, conv_block

        blocks, channels, flat = [], input_shape[0], input_shape[1] == 1
        for layer in _layers(spec):
            groups = channels if layer.depthwise else 1
            blocks.append(
                conv_block(channels, layer.channels, layer.kernel, layer.stride, groups, flat)
            )
            channels = layer.channels
        return Classifier(blocks, channels, classes)


def _layers(spec: ConvNetSpec) -> Iterator[_Layer]:
    channels = spec.width
    yield _Layer(channels, max(3, 2 * (spec.stem_stride // 2) + 1), spec.stem_stride, False)
    for stage in range(spec.stages):
        wider = max(4, round(spec.width * spec.growth**stage / 4) * 4)
        dense_stem = spec.block == "dense" and not stage
        for block in range(1 if dense_stem else 0, spec.depth):
            stride = 2 if stage and not block else 1
            if spec.block == "dense":
                yield _Layer(wider, spec.kernel, stride, False)
            else:
                yield _Layer(channels, spec.kernel, stride, True)
                yield _Layer(wider, 1, 1, False)
            channels = wider
