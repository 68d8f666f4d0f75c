"""TFLite files written by hand: a flatbuffer writer of the standard library, and a small graph.

It writes what it is told, right or wrong, so that hostile files can be made with it too.
Field numbers: TFLite's schema.fbs at version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FLOAT32, FLOAT16, INT32, UINT8, INT64, STRING, BOOL, INT16, _, INT8 = range(10)
KINDS = {
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float16): FLOAT16,
    np.dtype(np.int32): INT32,
    np.dtype(np.uint8): UINT8,
    np.dtype(np.int64): INT64,
    np.dtype(np.bool_): BOOL,
    np.dtype(np.int16): INT16,
    np.dtype(np.int8): INT8,
}
SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
CODES = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "DEQUANTIZE": 6,
    "EMBEDDING_LOOKUP": 7,
    "FULLY_CONNECTED": 9,
    "LOGISTIC": 14,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "RELU": 19,
    "RELU6": 21,
    "RESHAPE": 22,
    "SOFTMAX": 25,
    "TANH": 28,
    "PAD": 34,
    "GATHER": 36,
    "TRANSPOSE": 39,
    "MEAN": 40,
    "SUB": 41,
    "DIV": 42,
    "SQUEEZE": 43,
    "STRIDED_SLICE": 45,
    "EXP": 47,
    "SPLIT": 49,
    "CAST": 53,
    "MAXIMUM": 55,
    "MINIMUM": 57,
    "LESS": 58,
    "NEG": 59,
    "PADV2": 60,
    "GREATER": 61,
    "GREATER_EQUAL": 62,
    "LESS_EQUAL": 63,
    "SELECT": 64,
    "SLICE": 65,
    "EXPAND_DIMS": 70,
    "EQUAL": 71,
    "NOT_EQUAL": 72,
    "SUM": 74,
    "SQRT": 75,
    "RSQRT": 76,
    "POW": 78,
    "REDUCE_MAX": 82,
    "PACK": 83,
    "LOGICAL_AND": 86,
    "UNPACK": 88,
    "SQUARE": 92,
    "LEAKY_RELU": 98,
    "SQUARED_DIFFERENCE": 99,
    "ABS": 101,
    "QUANTIZE": 114,
    "HARD_SWISH": 117,
    "SELECT_V2": 123,
    "BATCH_MATMUL": 126,
    "BROADCAST_TO": 130,
    "GELU": 150,
}
"""Operators by name; a number stands for itself."""


@dataclass
class Table:
    """Field number -> (struct format, number), another Table, Vector or text; None is left out."""

    slots: Mapping[int, Any]


@dataclass
class Vector:
    """Numbers of one struct format as bytes, or tables and texts."""

    items: Sequence[Any] | bytes
    width: int = 4
    """Of a number; ignored for tables."""
    align: int = 4


def numbers(kind: str, values: Iterable[Any]) -> Vector:
    values = list(values)
    width = struct.calcsize(kind)
    return Vector(struct.pack(f"<{len(values)}{kind}", *values), width, max(4, width))


def finish(root: Table, identifier: bytes = b"TFL3") -> bytes:
    """The file: parents before what they refer to, as references only point forwards."""
    out = bytearray(struct.pack("<I", 0) + identifier)
    waiting: list[tuple[int, Any]] = [(0, root)]
    placed: dict[int, int] = {}  # a table that is referred to twice stands once
    while waiting:
        where, node = waiting.pop(0)
        if id(node) not in placed:
            placed[id(node)] = _place(out, node, waiting)
        struct.pack_into("<I", out, where, placed[id(node)] - where)
    return bytes(out)


def _pad(out: bytearray, align: int, ahead: int = 0) -> None:
    out.extend(b"\0" * (-(len(out) + ahead) % align))


def _place(out: bytearray, node: Any, waiting: list[tuple[int, Any]]) -> int:
    if isinstance(node, str):
        data = node.encode()
        _pad(out, 4)
        at = len(out)
        out.extend(struct.pack("<I", len(data)) + data + b"\0")
        return at
    if isinstance(node, Vector):
        return _place_vector(out, node, waiting)
    slots = {number: value for number, value in node.slots.items() if value is not None}
    fields, size = [0] * (max(slots, default=-1) + 1), 4
    for number, value in slots.items():
        width = struct.calcsize(value[0]) if isinstance(value, tuple) else 4
        size += -size % width
        fields[number] = size
        size += width
    _pad(out, 8)
    vtable = struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), size, *fields)
    out.extend(vtable)
    _pad(out, 8)
    at = len(out)
    out.extend(bytes(size))
    struct.pack_into("<i", out, at, at - (at - len(vtable) - (-len(vtable) % 8)))
    for number, value in slots.items():
        if isinstance(value, tuple):
            struct.pack_into("<" + value[0], out, at + fields[number], value[1])
        else:
            waiting.append((at + fields[number], value))
    return at


def _place_vector(out: bytearray, node: Vector, waiting: list[tuple[int, Any]]) -> int:
    _pad(out, max(4, node.align), 4)
    at = len(out)
    if isinstance(node.items, bytes):
        out.extend(struct.pack("<I", len(node.items) // node.width) + node.items)
        return at
    out.extend(struct.pack("<I", len(node.items)) + bytes(4 * len(node.items)))
    waiting.extend((at + 4 + 4 * i, item) for i, item in enumerate(node.items))
    return at


@dataclass
class Quant:
    """scale and zero point of a tensor, or of each slice along `axis`."""

    scale: Any
    zero_point: Any = 0
    axis: int = 0

    def table(self) -> Table:
        scales = np.atleast_1d(np.asarray(self.scale, np.float32))
        zeros = np.broadcast_to(np.asarray(self.zero_point), scales.shape)
        return Table(
            {
                2: numbers("f", scales.tolist()),
                3: numbers("q", zeros.tolist()),
                6: ("i", self.axis) if self.axis else None,
            }
        )


@dataclass
class Graph:
    """A graph that grows operator by operator; `bytes` is the file."""

    tensors: list[dict[int, Any]] = field(default_factory=list)
    buffers: list[dict[int, Any]] = field(default_factory=lambda: [{}])
    operators: list[dict[int, Any]] = field(default_factory=list)
    codes: list[tuple[int, int]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    signature: Mapping[str, Any] | None = None
    """key, and the names of the inputs and of the outputs."""
    more: dict[int, Any] = field(default_factory=dict)
    """Other fields of the Model."""

    def tensor(
        self,
        shape: Sequence[int],
        kind: int = FLOAT32,
        name: str = "",
        quant: Quant | None = None,
        buffer: int = 0,
        open_shape: Sequence[int] | None = None,
    ) -> int:
        self.tensors.append(
            {
                0: numbers("i", shape),
                1: ("b", kind),
                2: ("I", buffer),
                3: name or f"t{len(self.tensors)}",
                4: quant.table() if quant else None,
                7: numbers("i", open_shape) if open_shape else None,
            }
        )
        return len(self.tensors) - 1

    def input(self, *args: Any, **named: Any) -> int:
        self.inputs.append(self.tensor(*args, **named))
        return self.inputs[-1]

    def constant(self, values: Any, quant: Quant | None = None, name: str = "") -> int:
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self.buffers.append({0: Vector(np.ascontiguousarray(array).tobytes(), 1, 16)})
        return self.tensor(
            array.shape, KINDS[array.dtype], name, quant, buffer=len(self.buffers) - 1
        )

    def add(
        self,
        op: str | int,
        inputs: Sequence[int],
        shape: Sequence[int],
        options: tuple[int, Mapping[int, Any]] | None = None,
        kind: int = FLOAT32,
        quant: Quant | None = None,
        version: int = 1,
        name: str = "",
        open_shape: Sequence[int] | None = None,
    ) -> int:
        """An operator with one output.  options: number of the table's type, and its fields."""
        out = self.tensor(shape, kind, name, quant, open_shape=open_shape)
        self.operator(op, inputs, [out], options, version)
        return out

    def operator(
        self,
        op: str | int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: tuple[int, Mapping[int, Any]] | None = None,
        version: int = 1,
    ) -> None:
        code = (CODES[op] if isinstance(op, str) else op, version)
        if code not in self.codes:
            self.codes.append(code)
        self.operators.append(
            {
                0: ("I", self.codes.index(code)),
                1: numbers("i", inputs),
                2: numbers("i", outputs),
                3: ("B", options[0]) if options else None,
                4: Table(options[1]) if options else None,
            }
        )

    def model(self) -> dict[int, Any]:
        """The fields of the Model, to be changed."""
        return _model([self]) | self.more

    def table(self) -> Table:
        """The fields of the SubGraph."""
        return Table(
            {
                0: Vector([Table(each) for each in self.tensors]),
                1: numbers("i", self.inputs),
                2: numbers("i", self.outputs),
                3: Vector([Table(each) for each in self.operators]),
                4: "main",
            }
        )

    def signature_table(self, graph: int) -> Table:
        assert self.signature is not None
        maps = [
            Vector(
                [
                    Table({0: name, 1: ("I", index)})
                    for name, index in zip(self.signature[side], places, strict=True)
                ]
            )
            for side, places in (("inputs", self.inputs), ("outputs", self.outputs))
        ]
        return Table({0: maps[0], 1: maps[1], 2: self.signature["key"], 4: ("I", graph)})

    def bytes(self) -> bytes:
        return finish(Table(self.model()))


Options = tuple[int, dict[int, Any]]


def _model(graphs: Sequence[Graph]) -> dict[int, Any]:
    """Graphs share the buffers and the list of operators of the first."""
    codes = [
        Table({0: ("b", min(code, 127)), 2: ("i", version), 3: ("i", code)})
        for code, version in graphs[0].codes
    ]
    signatures = [g.signature_table(i) for i, g in enumerate(graphs) if g.signature]
    return {
        0: ("I", 3),
        1: Vector(codes),
        2: Vector([graph.table() for graph in graphs]),
        3: "made by hand",
        4: Vector([Table(each) for each in graphs[0].buffers]),
        7: Vector(signatures) if signatures else None,
    }


def together(graphs: Sequence[Graph]) -> bytes:
    """One file of several graphs."""
    return finish(Table(_model(graphs)))


def conv(
    padding: int = SAME, stride: int = 1, activation: int = NONE
) -> tuple[int, dict[int, Any]]:
    """Options of CONV_2D."""
    return 1, {
        0: ("b", padding),
        1: ("i", stride),
        2: ("i", stride),
        3: ("b", activation),
        4: ("i", 1),
        5: ("i", 1),
    }


def depthwise(
    padding: int = SAME, stride: int = 1, activation: int = NONE
) -> tuple[int, dict[int, Any]]:
    """Options of DEPTHWISE_CONV_2D, one output for each channel."""
    return 2, {
        0: ("b", padding),
        1: ("i", stride),
        2: ("i", stride),
        3: ("i", 1),
        4: ("b", activation),
        5: ("i", 1),
        6: ("i", 1),
    }


def pool(window: int, padding: int = VALID, stride: int = 0) -> tuple[int, dict[int, Any]]:
    """Options of a pooling; its steps are its window unless they are given."""
    step = ("i", stride or window)
    return 5, {0: ("b", padding), 1: step, 2: step, 3: ("i", window), 4: ("i", window)}


KEEP_DIMS = (27, {0: ("?", True)})
DROP_DIMS = (27, {0: ("?", False)})
FULLY_CONNECTED: tuple[int, dict[int, Any]] = (8, {})
SOFTMAX = (9, {0: ("f", 1.0)})
RESHAPE: tuple[int, dict[int, Any]] = (17, {})
ADD: tuple[int, dict[int, Any]] = (11, {})
MUL: tuple[int, dict[int, Any]] = (21, {})
