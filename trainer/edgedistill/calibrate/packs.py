"""What a board is calibrated with: small random networks of 1 to 24 typical blocks.

Sums of single operators' timings miss whole networks by up to a third, since a kernel's time
depends on what else is in the cache; so kernels are measured inside networks of many sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgedistill.calibrate.graphs import INPUT, Graph, Value, static_int8

BLOCKS = (1, 2, 5, 12, 24)
MAX_MACS, MIN_MACS = 5e8, 5e5
"""Each network stops growing at a number of multiply-accumulates drawn between these."""
MAX_WEIGHTS = 3_000_000
KERNELS = (3, 3, 3, 5, 7)
RELU, HARD, SILU = ("relu", "relu6"), ("relu", "hardswish"), ("silu",)


@dataclass(frozen=True)
class Pack:
    name: str
    style: str
    precision: str
    model: bytes
    length: int
    """Tokens that it is measured with; 1 where it takes none."""


def packs(count: int, seed: int = 0) -> Iterator[Pack]:
    """`count` networks, the same ones for the same seed.

    Every second one is int8; styles take turns.
    """
    styles = list(STYLES)
    for number in range(count):
        style = styles[number // 2 % len(styles)]
        precision = ("float32", "int8")[number % 2]
        rng = np.random.default_rng([seed, number])
        name = f"{number:03d}-{style}-{precision}"
        yield Pack(name, style, precision, *_build(style, precision, rng))


def _build(style: str, precision: str, rng: np.random.Generator) -> tuple[bytes, int]:
    from edgedistill import quantize
    from edgedistill.export.onnx import canonical

    graph, output = STYLES[style](_Dice(rng))
    model = graph.model(output)
    length = graph.input.shape[1] if graph.integers else 1
    if precision == "int8":
        if style in TRANSFORMERS:
            return quantize.dynamic_int8(model.SerializeToString()), length
        model = static_int8(graph, model)
    return canonical(model), length


class _Dice:
    """Random choices, and how large the network may become."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.blocks = int(rng.choice(BLOCKS))
        self.macs = self.log(MIN_MACS, MAX_MACS)

    def of(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def word(self, *choices: str) -> str:
        return str(self.rng.choice(choices))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def log(self, low: float, high: float) -> float:
        return float(math.exp(self.rng.uniform(math.log(low), math.log(high))))

    def width(self, low: int, high: int, step: int = 4) -> int:
        return max(step, round(self.log(low, high) / step) * step)

    def room(self, graph: Graph) -> bool:
        """Whether the network may have another block."""
        used = sum(array.size for array in graph.constants.values())
        return graph.macs < self.macs and used < MAX_WEIGHTS


def _image(dice: _Dice, most: int = 224) -> tuple[Graph, Value]:
    """A network's beginning: its stem on an image, or a feature map of its middle."""
    if dice.chance(0.6):
        channels, side = dice.of(1, 3, 3), max(dice.width(8, most, 4), dice.width(8, most, 4))
        other = side if dice.chance(0.8) else dice.width(8, most, 1)
        start = Value(INPUT, (1, channels, side, other))
        graph = Graph(start)
        kernel = dice.of(*KERNELS)
        stride = 2 if side > 48 else dice.of(1, 2)
        act = dice.word("relu", "relu6", "hardswish", "silu", "none")
        x = graph.conv(start, dice.width(4, 64), kernel, stride, act=act)
        if dice.chance(0.5) and side > 32:
            x = graph.pool(x, "MaxPool", *((3, 2, 1) if dice.chance(0.7) else (2, 2, 0)))
        return graph, x
    # the further down, the smaller and wider
    side = dice.width(2, most // 2, 1)
    channels = dice.width(max(4, 64 // side), min(768, max(8, 4000 // side)))
    start = Value(INPUT, (1, channels, side, side if dice.chance(0.85) else dice.width(2, 64, 1)))
    graph = Graph(start)
    # the first kernel reads what a network's would: the output of another
    return graph, graph.conv(start, channels, 1, act="relu") if dice.chance(0.3) else start


def _stages(dice: _Dice, x: Value, most: int = 512) -> tuple[int, int]:
    """Channels and stride of the next block: now and then half the side and more channels."""
    channels = x.shape[1]
    if min(x.shape[2:]) >= 4 and dice.chance(0.3):
        return min(most, max(4, round(channels * dice.of(1, 2, 2) / 4) * 4)), 2
    if dice.chance(0.3):
        return min(most, dice.width(max(4, channels // 2), channels * 2)), 1
    return channels, 1


def _head(dice: _Dice, graph: Graph, x: Value) -> tuple[Graph, Value]:
    if dice.chance(0.1) and min(x.shape[2:]) > 1:
        x = graph.pool(x, "AveragePool", min(x.shape[2:]), 1, 0)
    if dice.chance(0.2):
        x = graph.conv(x, min(1280, x.shape[1] * 4), 1, act=dice.word("relu6", "hardswish", "silu"))
    features = graph.mean(x)
    return graph, graph.gemm(features, dice.of(2, 10, 35, 100, 1000))


def _convolutional(block: Callable[[_Dice, Graph, Value, int, int], Value]) -> Style:
    def style(dice: _Dice) -> tuple[Graph, Value]:
        graph, x = _image(dice)
        for _ in range(dice.blocks):
            if not dice.room(graph):
                break
            x = block(dice, graph, x, *_stages(dice, x))
        return _head(dice, graph, x)

    return style


def _separable(dice: _Dice, graph: Graph, x: Value, channels: int, stride: int) -> Value:
    act = dice.word(*RELU)
    x = graph.conv(x, x.shape[1], dice.of(3, 3, 5), stride, depthwise=True, act=act)
    return graph.conv(x, channels, 1, act=act)


def _inverted(dice: _Dice, graph: Graph, x: Value, channels: int, stride: int) -> Value:
    kind = dice.word("plain", "hard", "silu")
    act = {"plain": "relu6", "hard": dice.word(*HARD), "silu": "silu"}[kind]
    given = x
    wide = round(x.shape[1] * dice.of(1, 2, 3, 4, 6) / 4) * 4
    if wide != x.shape[1]:
        x = graph.conv(x, wide, 1, act=act)
    x = graph.conv(x, wide, dice.of(3, 3, 5), stride, depthwise=True, act=act)
    if kind != "plain" and dice.chance(0.7):
        x = graph.excite(x, max(4, wide // dice.of(4, 8, 24)), hard=kind == "hard")
    x = graph.conv(x, channels, 1, act="none")
    return graph.sum(given, x) if given.shape == x.shape else x


def _dense(dice: _Dice, graph: Graph, x: Value, channels: int, stride: int) -> Value:
    if stride == 2 and dice.chance(0.4):
        x, stride = graph.pool(x, "MaxPool", 2, 2, 0), 1
    return graph.conv(x, channels, dice.of(3, 3, 3, 5), stride, act=dice.word(*RELU))


def _residual(dice: _Dice, graph: Graph, x: Value, channels: int, stride: int) -> Value:
    given = x
    if dice.chance(0.7):
        x = graph.conv(x, channels, 3, stride)
        x = graph.conv(x, channels, 3, act="none")
    else:
        narrow = max(4, channels // 4)
        x = graph.conv(x, narrow, 1)
        x = graph.conv(x, narrow, 3, stride)
        x = graph.conv(x, channels, 1, act="none")
    if given.shape != x.shape:
        given = graph.shortcut(given, x.shape, stride)
    return graph.activation(graph.sum(x, given), "relu")


def _fire(dice: _Dice, graph: Graph, x: Value, channels: int, stride: int) -> Value:
    if stride == 2 or dice.chance(0.2):
        x = graph.pool(x, "MaxPool", 3, 2, dice.of(0, 1)) if min(x.shape[2:]) > 4 else x
    narrow = max(4, channels // dice.of(4, 8) // 4 * 4)
    x = graph.conv(x, narrow, 1)
    half = max(4, channels // 2)
    return graph.concat(graph.conv(x, half, 1), graph.conv(x, half, 3))


def _sequence(dice: _Dice) -> tuple[Graph, Value]:
    """One-dimensional: sensors, or sound as bands along the channels."""
    steps, channels = dice.width(32, 1024, 1), dice.width(1, 64, 1)
    start = Value(INPUT, (1, channels, 1, steps))
    graph = Graph(start)
    x = graph.conv(start, dice.width(4, 64), (1, dice.of(3, 5, 9)), dice.of(1, 2))
    for _ in range(dice.blocks):
        if not dice.room(graph):
            break
        wider, stride = _stages(dice, x, 256)
        kernel = (1, dice.of(3, 5, 9))
        if dice.chance(0.6):
            x = graph.conv(x, x.shape[1], kernel, stride, depthwise=True)
            x = graph.conv(x, wider, 1)
        else:
            x = graph.conv(x, wider, kernel, stride)
    return _head(dice, graph, x)


def _layers(dice: _Dice, graph: Graph, x: Value, flat: bool, before: bool) -> Value:
    """Transformer layers, with their norms before or after."""
    dim = x.shape[2]
    heads = next(h for h in (12, 8, 6, 4, 3, 2, 1) if (dim % h == 0 and dim // h >= 8) or h == 1)
    wide = dim * dice.of(1, 2, 3, 4, 4)
    for _ in range(max(1, dice.blocks // 2)):
        if before:
            x = graph.sum(x, graph.attention(graph.norm(x), heads, flat))
            x = graph.sum(x, graph.feed_forward(graph.norm(x), wide, flat))
        else:
            x = graph.norm(graph.sum(x, graph.attention(x, heads, flat)))
            x = graph.norm(graph.sum(x, graph.feed_forward(x, wide, flat)))
        if not dice.room(graph):
            break
    return graph.norm(x) if before else x


def _bert(dice: _Dice) -> tuple[Graph, Value]:
    tokens, dim = dice.width(4, 256, 1), dice.width(32, 512, 16)
    ids = Value(INPUT, (1, tokens))
    graph = Graph(ids, integers=True)
    narrow = dice.of(32, 64) if dice.chance(0.3) else dim
    x = graph.embed(ids, dice.width(200, max(400, 2_000_000 // narrow), 1), narrow)
    if narrow != dim:
        x = graph.matmul(x, dim, bias=False)
    x = graph.norm(graph.add("Add", [x, graph.positions(ids, dim)], x.shape))
    x = _layers(dice, graph, x, flat=dice.chance(0.2), before=False)
    features = graph.pooled(x)
    if dice.chance(0.3):
        features = graph.add("Tanh", [graph.gemm(features, dim)], features.shape)
    return graph, graph.gemm(features, dice.of(2, 6, 20))


def _static(dice: _Dice) -> tuple[Graph, Value]:
    tokens, dim = dice.width(2, 256, 1), dice.width(16, 256, 8)
    ids = Value(INPUT, (1, tokens))
    graph = Graph(ids, integers=True)
    x = graph.pooled(graph.embed(ids, dice.width(200, 16_000, 1), dim))
    for _ in range(dice.of(0, 1, 1, 2, 4, 8)):
        x = graph.activation(graph.matmul(x, dice.width(16, 512, 8)), "relu")
    return graph, graph.matmul(x, dice.of(2, 6, 20))


def _vit(dice: _Dice) -> tuple[Graph, Value]:
    patch = dice.of(4, 8, 16)
    side, dim = patch * dice.width(2, 14, 1), dice.width(32, 384, 16)
    start = Value(INPUT, (1, dice.of(1, 3), side, side))
    graph = Graph(start)
    x = graph.patches(start, dim, patch)
    x = graph.reshape(x, 1, dim, x.shape[2] * x.shape[3])
    x = graph.transpose(x, 0, 2, 1)
    x = graph.add("Add", [x, graph.weight(*x.shape)], x.shape)
    x = _layers(dice, graph, x, flat=dice.chance(0.5), before=True)
    return graph, graph.gemm(graph.pooled(x), dice.of(2, 10, 100, 1000))


Style = Callable[[_Dice], tuple[Graph, Value]]
TRANSFORMERS: dict[str, Style] = {"bert": _bert, "vit": _vit, "static": _static}
STYLES: dict[str, Style] = {
    "separable": _convolutional(_separable),
    "inverted": _convolutional(_inverted),
    "dense": _convolutional(_dense),
    "bert": _bert,
    "residual": _convolutional(_residual),
    "fire": _convolutional(_fire),
    "sequence": _sequence,
    "vit": _vit,
    "static": _static,
}
