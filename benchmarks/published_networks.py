"""The operators of published image networks as their TFLite files have them: no torch, no files.

MobileNet V1 and V2 are those of the published rows that `published_rates.py` fits;
EfficientNet-Lite, MobileNet V3 and ResNet-50 are only ever priced.  Sources of the tables: arXiv
1704.04861 (table 1), 1801.04381 (table 2), 1905.02244 (tables 1 and 2), 1512.03385 (table 1, with
the stride in the 3×3 of MLPerf's model), and tensorflow/tpu models/official/efficientnet/lite.
"""

from __future__ import annotations

import math

from edgedistill.cost.kernels import Kernel, conv, linear

Network = tuple[Kernel, ...]


class Builder:
    """A chain of operators on a square image."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.kernels: list[Kernel] = []
        self.size, self.channels = size, channels

    @property
    def image(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def conv(self, channels: int, kernel: int = 1, stride: int = 1) -> None:
        self.kernels.append(conv("CONV_2D", self.image, channels, kernel, stride, False))
        self.channels, self.size = channels, math.ceil(self.size / stride)

    def depthwise(self, kernel: int, stride: int = 1) -> None:
        made = conv("DEPTHWISE_CONV_2D", self.image, self.channels, kernel, stride, True)
        self.kernels.append(made)
        self.size = math.ceil(self.size / stride)

    def same(self, op: str) -> None:
        """An operator whose output is as large as its input."""
        self.kernels.append(Kernel(op, (1, *self.image), (1, *self.image)))

    def pool(self, op: str = "AVERAGE_POOL_2D", size: int = 1) -> None:
        self.kernels.append(Kernel(op, (1, *self.image), (1, self.channels, size, size)))
        self.size = size

    def squeeze_excite(self, channels: int) -> None:
        size, expanded = self.size, self.channels
        self.pool()
        self.conv(channels)
        self.conv(expanded)
        self.same("ADD")  # the hard sigmoid
        self.same("MUL")
        self.size = size
        self.same("MUL")

    def classes(self, count: int, fully_connected: bool = False) -> Network:
        if fully_connected:
            self.kernels.append(linear("FULLY_CONNECTED", (1, self.channels), count))
        else:
            self.conv(count)
            self.kernels.append(Kernel("RESHAPE", (1, count, 1, 1), (1, count)))
        self.kernels.append(Kernel("SOFTMAX", (1, count), (1, count)))
        return tuple(self.kernels)


def _divisible(channels: float) -> int:
    """The next multiple of eight, as MobileNet V2 rounds."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenet_v1(width: float, size: int) -> Network:
    net = Builder(size)
    net.conv(max(8, int(32 * width)), 3, 2)
    stages = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    for channels, stride in [*stages, *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        net.depthwise(3, stride)
        net.conv(max(8, int(channels * width)))
    net.pool()
    return net.classes(1001)


def _inverted(net: Builder, expand: int, channels: int, kernel: int, stride: int) -> None:
    before = net.channels
    if expand > 1:
        net.conv(before * expand)
    net.depthwise(kernel, stride)
    net.conv(channels)
    if stride == 1 and channels == before:
        net.same("ADD")


def mobilenet_v2(width: float, size: int) -> Network:
    net = Builder(size)
    net.conv(_divisible(32 * width), 3, 2)
    for expand, channels, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(repeats):
            _inverted(net, expand, _divisible(channels * width), 3, 1 if i else stride)
    net.conv(_divisible(1280 * max(1.0, width)))
    net.pool()
    return net.classes(1001)


def efficientnet_lite(number: int) -> Network:
    width, depth, size = (
        (1.0, 1.0, 224),
        (1.0, 1.1, 240),
        (1.1, 1.2, 260),
        (1.2, 1.4, 280),
        (1.4, 1.8, 300),
    )[number]
    net = Builder(size)
    net.conv(32, 3, 2)
    blocks = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    for place, (repeats, kernel, stride, expand, channels) in enumerate(blocks):
        ends = place in (0, len(blocks) - 1)  # Lite leaves their depth
        for i in range(repeats if ends else math.ceil(repeats * depth)):
            _inverted(net, expand, _divisible(channels * width), kernel, 1 if i else stride)
    net.conv(1280)
    net.pool()
    return net.classes(1000, fully_connected=True)


# kernel, expanded, output, squeeze-excite, hard-swish, stride
_V3_LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)


def mobilenet_v3(large: bool) -> Network:
    net = Builder(224)
    net.conv(16, 3, 2)
    net.same("HARD_SWISH")
    for kernel, expanded, channels, excite, swish, stride in _V3_LARGE if large else _V3_SMALL:
        before = net.channels
        if expanded != before:
            net.conv(expanded)
            if swish:
                net.same("HARD_SWISH")
        net.depthwise(kernel, stride)
        if swish:
            net.same("HARD_SWISH")
        if excite:
            net.squeeze_excite(_divisible(expanded / 4))
        net.conv(channels)
        if stride == 1 and channels == before:
            net.same("ADD")
    net.conv(960 if large else 576)
    net.same("HARD_SWISH")
    net.pool()
    net.conv(1280 if large else 1024)
    net.same("HARD_SWISH")
    return net.classes(1001)


def resnet50() -> Network:
    net = Builder(224)
    net.same("PAD")
    net.conv(64, 7, 2)
    net.pool("MAX_POOL_2D", 56)
    for channels, repeats, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            stride = 1 if i else first
            before, size = net.channels, net.size
            if i == 0:
                net.conv(4 * channels, 1, stride)
                net.channels, net.size = before, size
            net.conv(channels)
            if stride == 2:
                net.same("PAD")
            net.conv(channels, 3, stride)
            net.conv(4 * channels)
            net.same("ADD")
    net.pool("MEAN")
    return net.classes(1001, fully_connected=True)


def named(name: str) -> Network:
    """The network of a published row: mobilenet-v2-1.0-224, efficientnet-lite0, resnet50, …"""
    if name == "resnet50":
        return resnet50()
    kind, _, rest = name.partition("-")
    if kind == "efficientnet":
        return efficientnet_lite(int(rest.removeprefix("lite")))
    version, *sizes = rest.split("-")
    if version == "v3":
        return mobilenet_v3(sizes[0] == "large")
    width, size = float(sizes[0]), int(sizes[1])
    return mobilenet_v1(width, size) if version == "v1" else mobilenet_v2(width, size)
