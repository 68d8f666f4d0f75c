"""Where the teacher comes from.  `auto` is a convolutional network that is trained on the spot."""

from __future__ import annotations

from torch import nn

from edgedistill.students.modules import Classifier, conv_block


def auto_image_teacher(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A plain convolutional network in the manner of VGG (Simonyan & Zisserman 2015), batch-normed.

    input_shape: (channels, height, width); two 3×3 convolutions a stage, each stage half the side.
    """
    channels, *sides = input_shape
    blocks: list[nn.Module] = []
    width, side = 64, min(sides)
    while side >= 2 and width <= 256:
        blocks += [conv_block(channels, width, 3, 1), conv_block(width, width, 3, 1)]
        blocks.append(nn.MaxPool2d(2))
        channels, width, side = width, width * 2, side // 2
    return Classifier(blocks, channels, classes)
