"""Write ONNX files byte by byte, so that tests can write those that no library would.

A field is (number, value): an int becomes a varint, text and bytes a length and its bytes.
Field numbers are those of onnx/onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Field = tuple[int, "int | str | bytes"]
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: Field) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def tensor(name: str, dims: Sequence[int], kind: int, raw: bytes, *more: Field) -> bytes:
    """TensorProto."""
    return message(*((1, d) for d in dims), (2, kind), (8, name), (9, raw), *more)


def floats(name: str, dims: Sequence[int], values: Sequence[float]) -> bytes:
    return tensor(name, dims, FLOAT, struct.pack(f"<{len(values)}f", *values))


def ints(name: str, dims: Sequence[int], values: Sequence[int]) -> bytes:
    return tensor(name, dims, INT64, struct.pack(f"<{len(values)}q", *values))


def attribute(name: str, value: int | str | Sequence[int]) -> bytes:
    """AttributeProto of one integer, one string or several integers."""
    if isinstance(value, int):
        return message((1, name), (3, value), (20, 2))
    if isinstance(value, str):
        return message((1, name), (4, value), (20, 3))
    return message((1, name), *((8, v) for v in value), (20, 7))


def node(
    operator: str,
    inputs: Sequence[str],
    output: str | Sequence[str],
    *attributes: bytes,
    domain: str = "",
) -> bytes:
    """NodeProto with one output, or several."""
    names: list[Field] = [(1, i) for i in inputs]
    names += [(2, o) for o in ([output] if isinstance(output, str) else output)]
    return message(*names, (4, operator), *((5, a) for a in attributes), (7, domain))


def value(name: str, dims: Sequence[int | str | bytes], kind: int = FLOAT) -> bytes:
    """ValueInfoProto; a name among `dims` is a symbolic size."""
    sizes = [message((1, d) if isinstance(d, int) else (2, d)) for d in dims]
    shape = message(*((1, size) for size in sizes))
    return message((1, name), (2, message((1, message((1, kind), (2, shape))))))


def graph(
    nodes: Sequence[bytes],
    initializers: Sequence[bytes] = (),
    inputs: Sequence[bytes] = (value("image", (1, 1, 8, 8)),),
    outputs: Sequence[bytes] = (value("logits", (1, 10)),),
    *more: Field,
) -> bytes:
    """GraphProto."""
    parts: list[Field] = [(1, n) for n in nodes]
    parts += [(5, i) for i in initializers]
    parts += [(11, i) for i in inputs]
    parts += [(12, o) for o in outputs]
    return message(*parts, (2, "tiny"), *more)


def model(graph: bytes, *more: Field, ir_version: int = 10, opset: int = 20) -> bytes:
    """ModelProto."""
    return message((1, ir_version), (8, message((1, ""), (2, opset))), (7, graph), *more)


HEAD = [ints("shape", (2,), (1, 64)), floats("weight", (64, 10), [0.01 * i for i in range(640)])]


def head(source: str = "image") -> list[bytes]:
    """Nodes from an array of 64 values to 10 logits; they need the initializers HEAD."""
    return [
        node("Reshape", [source, "shape"], "flat"),
        node("MatMul", ["flat", "weight"], "logits"),
    ]


def plain() -> bytes:
    """A model that bundles may hold: (1, 1, 8, 8) to 10 logits."""
    return model(graph(head(), HEAD))
