"""Small TFLite networks, and what numpy says they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.runtime import tflite_bytes as tb
from tests.runtime.tflite_bytes import FULLY_CONNECTED, INT8, INT32, Graph, Quant

Array = np.ndarray[Any, Any]
WORDS, WIDTH = 20, 8


def _weights(*shape: int, seed: int, scale: float = 0.5) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def _whole(graph: Graph, *values: int) -> int:
    return graph.constant(np.array(values, np.int32))


CNN = {
    "stem": _weights(4, 3, 3, 1, seed=1),
    "stem.bias": _weights(4, seed=2),
    "depthwise": _weights(1, 3, 3, 4, seed=3),
    "depthwise.bias": _weights(4, seed=4),
    "head": _weights(10, 4, seed=5, scale=1.0),
    "head.bias": _weights(10, seed=6),
}


def cnn(channels_last: bool = True) -> Graph:
    """Convolution, depthwise convolution, pool, mean, classifier of ten; images of 8×8."""
    g = Graph()
    constants = {name: g.constant(values, name=name) for name, values in CNN.items()}
    x = g.input((1, 8, 8, 1) if channels_last else (1, 1, 8, 8), name="image")
    if not channels_last:
        x = g.add("TRANSPOSE", [x, _whole(g, 0, 2, 3, 1)], (1, 8, 8, 1), (26, {}))
    x = g.add(
        "CONV_2D",
        [x, constants["stem"], constants["stem.bias"]],
        (1, 8, 8, 4),
        tb.conv(activation=tb.RELU),
    )
    x = g.add(
        "DEPTHWISE_CONV_2D",
        [x, constants["depthwise"], constants["depthwise.bias"]],
        (1, 8, 8, 4),
        tb.depthwise(activation=tb.RELU6),
    )
    x = g.add("AVERAGE_POOL_2D", [x], (1, 4, 4, 4), tb.pool(2))
    x = g.add("MEAN", [x, _whole(g, 1, 2)], (1, 4), tb.DROP_DIMS)
    x = g.add(
        "FULLY_CONNECTED",
        [x, constants["head"], constants["head.bias"]],
        (1, 10),
        FULLY_CONNECTED,
        name="logits",
    )
    g.outputs = [x]
    return g


def _windows(x: Array) -> Array:
    """(1, h, w, c) -> (h, w, 3, 3, c), with zeros around."""
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return np.moveaxis(views, 2, -1)


def cnn_answer(x: Array) -> Array:
    """(1, 8, 8, 1) -> (1, 10)"""
    stem = np.einsum("hwijc,oijc->hwo", _windows(x), CNN["stem"]) + CNN["stem.bias"]
    stem = np.maximum(stem, 0)[None]
    depthwise = np.einsum("hwijc,ijc->hwc", _windows(stem), CNN["depthwise"][0])
    depthwise = np.clip(depthwise + CNN["depthwise.bias"], 0, 6)
    return (depthwise.mean((0, 1)) @ CNN["head"].T + CNN["head.bias"])[None]


def _steps(values: Array, axis: int) -> tuple[Array, Array]:
    """int8 values, and their scale for each slice along the axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(others) / 127
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return np.round(values / scale.reshape(shape)).astype(np.int8), scale.astype(np.float32)


def int8_cnn() -> Graph:
    """`cnn` with int8 inside: weights for each channel, activations over ranges that hold."""
    g = Graph()
    ranges = {"image": (2 / 127, 0), "stem": (6 / 255, -128), "depthwise": (6 / 255, -128)}
    ranges["logits"] = (12 / 255, 0)

    def layer(op: str, x: int, name: str, came: float, axis: int, shape: Any, options: Any) -> int:
        weights, scales = _steps(CNN[name], axis)
        bias = np.round(CNN[f"{name}.bias"] / (scales * np.float32(came))).astype(np.int32)
        made = Quant(*ranges["logits" if name == "head" else name])
        inputs = [
            x,
            g.constant(weights, Quant(scales, 0, axis)),
            g.constant(bias, Quant(scales * np.float32(came))),
        ]
        version = 5 if name == "head" else 3
        return g.add(op, inputs, shape, options, INT8, made, version)

    x = g.input((1, 8, 8, 1), name="image")
    x = g.add("QUANTIZE", [x], (1, 8, 8, 1), (89, {}), INT8, Quant(*ranges["image"]))
    wide = (1, 8, 8, 4)
    x = layer("CONV_2D", x, "stem", 2 / 127, 0, wide, tb.conv(activation=tb.RELU))
    options = tb.depthwise(activation=tb.RELU6)
    x = layer("DEPTHWISE_CONV_2D", x, "depthwise", 6 / 255, 3, wide, options)
    seen = Quant(*ranges["depthwise"])
    x = g.add("AVERAGE_POOL_2D", [x], (1, 4, 4, 4), tb.pool(2), INT8, seen, 2)
    x = g.add("MEAN", [x, _whole(g, 1, 2)], (1, 4), tb.DROP_DIMS, INT8, seen, 2)
    x = layer("FULLY_CONNECTED", x, "head", 6 / 255, 0, (1, 10), FULLY_CONNECTED)
    g.outputs = [g.add("DEQUANTIZE", [x], (1, 10), (38, {}), version=2, name="logits")]
    return g


TABLE = _weights(WORDS, WIDTH, seed=7, scale=1.0)
READER = _weights(10, WIDTH, seed=8, scale=1.0)


def bag_of_words() -> Graph:
    """The mean of the tokens' vectors, then a matrix; for texts of any length."""
    g = Graph()
    x = g.input((1, 1), INT32, "ids", open_shape=(1, -1))
    x = g.add("GATHER", [g.constant(TABLE), x], (1, 1, WIDTH), (23, {}), open_shape=(1, -1, WIDTH))
    x = g.add("MEAN", [x, _whole(g, 1)], (1, WIDTH), tb.DROP_DIMS)
    g.outputs = [
        g.add("FULLY_CONNECTED", [x, g.constant(READER)], (1, 10), FULLY_CONNECTED, name="logits")
    ]
    return g


def bag_answer(ids: Array) -> Array:
    """(1, tokens) -> (1, 10)"""
    return TABLE[ids[0]].mean(0)[None] @ READER.T


def _masked(g: Graph, length: int) -> None:
    x = g.input((1, length), INT32)
    there = g.add("GREATER_EQUAL", [x, _whole(g, 0)], (1, length), (45, {}), tb.BOOL)
    there = g.add("CAST", [there], (1, length), (37, {}))
    there = g.add("EXPAND_DIMS", [there, _whole(g, 2)], (1, length, 1), (52, {}))
    x = g.add("MAXIMUM", [x, _whole(g, 0)], (1, length), (39, {}), INT32)
    x = g.add("GATHER", [g.constant(TABLE), x], (1, length, WIDTH), (23, {}))
    x = g.add("MUL", [x, there], (1, length, WIDTH), tb.MUL)
    x = g.add("SUM", [x, _whole(g, 1)], (1, WIDTH), tb.DROP_DIMS)
    count = g.add("SUM", [there, _whole(g, 1)], (1, 1), tb.DROP_DIMS)
    x = g.add("DIV", [x, count], (1, WIDTH), (29, {}))
    g.outputs = [g.add("FULLY_CONNECTED", [x, g.constant(READER)], (1, 10), FULLY_CONNECTED)]


def of_lengths(*lengths: int, keys: tuple[str, ...] = ()) -> bytes:
    """`bag_of_words` as a graph for each of several fixed lengths, with their signatures."""
    whole = Graph()
    graphs = []
    for i, length in enumerate(lengths):
        part = Graph(buffers=whole.buffers, codes=whole.codes)
        _masked(part, length)
        key = keys[i] if keys else f"tokens_{length}"
        part.signature = {"key": key, "inputs": ["ids"], "outputs": ["logits"]}
        graphs.append(part)
    return tb.together(graphs)


def attention() -> Graph:
    """A layer of attention over 6 tokens, with what normalisation and masks are made of."""
    g = Graph()
    wide = (1, 6, WIDTH)
    x = g.input((1, 6), INT32, "ids", open_shape=(1, -1))
    table = np.random.default_rng(1).integers(-127, 128, (WORDS, WIDTH)).astype(np.int8)
    x = g.add("GATHER", [g.constant(table, Quant(0.01)), x], wide, (23, {}), INT8, Quant(0.01), 2)
    x = g.add("DEQUANTIZE", [x], wide, (38, {}), version=2)
    square = g.constant(_weights(WIDTH, WIDTH, seed=9))
    keys = g.add("FULLY_CONNECTED", [x, square, -1], wide, (8, {2: ("?", True)}), version=5)
    heads = g.add("RESHAPE", [keys, _whole(g, 1, -1, 2, 4)], (1, 6, 2, 4), tb.RESHAPE)
    heads = g.add("TRANSPOSE", [heads, _whole(g, 0, 2, 1, 3)], (1, 2, 6, 4), (26, {}))
    scores = g.add("BATCH_MATMUL", [heads, heads], (1, 2, 6, 6), (101, {1: ("?", True)}))
    scores = g.add("SOFTMAX", [scores], (1, 2, 6, 6), tb.SOFTMAX)
    mixed = g.add("BATCH_MATMUL", [scores, heads], (1, 2, 6, 4), (101, {}))
    mixed = g.add("TRANSPOSE", [mixed, _whole(g, 0, 2, 1, 3)], (1, 6, 2, 4), (26, {}))
    mixed = g.add("RESHAPE", [mixed, _whole(g, 1, -1, WIDTH)], wide, tb.RESHAPE)
    x = g.add("ADD", [mixed, x], wide, tb.ADD)
    middle = g.add("MEAN", [x, _whole(g, 2)], (1, 6, 1), tb.KEEP_DIMS)
    spread = g.add("SQUARED_DIFFERENCE", [x, middle], wide, (76, {}))
    spread = g.add(
        "RSQRT", [g.add("MEAN", [spread, _whole(g, 2)], (1, 6, 1), tb.KEEP_DIMS)], (1, 6, 1)
    )
    x = g.add("MUL", [g.add("SUB", [x, middle], wide, (28, {})), spread], wide, tb.MUL)
    x = g.add("MEAN", [g.add("GELU", [x], wide, (116, {})), _whole(g, 1)], (1, WIDTH), tb.DROP_DIMS)
    g.outputs = [g.add("FULLY_CONNECTED", [x, g.constant(READER)], (1, 10), FULLY_CONNECTED)]
    return g


def rearranging() -> Graph:
    """What cuts, joins and pads."""
    g = Graph()
    x = g.input((1, 4, 4, 6), name="x")
    sides = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    x = g.add("PAD", [x, g.constant(sides)], (1, 6, 6, 6), (22, {}))
    x = g.add("PADV2", [x, g.constant(sides), g.constant(np.float32(1))], (1, 8, 8, 6), (43, {}))
    x = g.add("SLICE", [x, _whole(g, 0, 1, 1, 0), _whole(g, 1, 4, 4, -1)], (1, 4, 4, 6), (48, {}))
    cut = [_whole(g, 0, 0, 1, 0), _whole(g, 1, 4, 4, 6), _whole(g, 1, 2, 1, 3)]
    x = g.add("STRIDED_SLICE", [x, *cut], (1, 2, 3, 2), (32, {}))
    halves = [g.tensor((1, 2, 3, 1)) for _ in range(2)]
    g.operator("SPLIT", [_whole(g, 3), x], halves, (35, {0: ("i", 2)}))
    x = g.add("CONCATENATION", halves, (1, 2, 3, 2), (10, {0: ("i", 3)}))
    rows = [g.tensor((1, 3, 2)) for _ in range(2)]
    g.operator("UNPACK", [x], rows, (64, {0: ("i", 2), 1: ("i", 1)}))
    x = g.add("PACK", rows, (1, 2, 3, 2), (59, {0: ("i", 2), 1: ("i", 1)}))
    x = g.add("BROADCAST_TO", [x, _whole(g, 3, 2, 3, 2)], (3, 2, 3, 2), (104, {}), version=2)
    x = g.add("REDUCE_MAX", [x, _whole(g, 0, 2)], (2, 2), tb.DROP_DIMS)
    small = g.add("LESS", [x, g.constant(np.float32(0))], (2, 2), (41, {}), tb.BOOL)
    x = g.add("SELECT_V2", [small, x, g.constant(np.float32(2))], (2, 2), (98, {}))
    x = g.add("EXPAND_DIMS", [x, _whole(g, 0)], (1, 2, 2), (52, {}))
    x = g.add("SQUEEZE", [x], (2, 2), (30, {0: tb.numbers("i", [0])}))
    g.outputs = [g.add("RESHAPE", [x, _whole(g, 1, 4)], (1, 4), tb.RESHAPE)]
    return g


FILES: dict[str, Callable[[], bytes]] = {
    "attention": lambda: attention().bytes(),
    "bag_of_words": lambda: bag_of_words().bytes(),
    "cnn": lambda: cnn().bytes(),
    "int8_cnn": lambda: int8_cnn().bytes(),
    "of_lengths": lambda: of_lengths(4, 8),
    "rearranging": lambda: rearranging().bytes(),
}
