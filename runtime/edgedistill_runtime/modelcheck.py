"""What an ONNX file may hold, checked on the raw protobuf before an engine sees a byte of it.

Standard library only.  The walk follows a closed list of messages and fields: whatever is not on
it (functions, subgraphs, sparse tensors, external data, training info, fields of a later ONNX) is
refused by name.  None of the listed messages can contain itself: there is nothing to recurse into.
Field numbers: onnx/onnx.proto at ONNX 1.23 (IR version 13).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgedistill_runtime.errors import BundleError

MAX_FIELDS = 300_000
MAX_TENSOR_ELEMENTS = 1 << 29
MAX_WINDOW = 4096  # no kernel, stride, dilation, pad or group of a real network is larger
MIN_OPSET, MAX_OPSET = 13, 25
MAX_IR_VERSION = 13

_STANDARD = """
    Add AveragePool Cast Clip Concat Constant Conv DequantizeLinear Div Dropout
    DynamicQuantizeLinear Erf Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool
    HardSigmoid HardSwish Identity LayerNormalization LeakyRelu MatMul MatMulInteger MaxPool Mul
    Pow QuantizeLinear ReduceMean Relu Reshape Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub
    Tanh Transpose Unsqueeze Where
"""
_MICROSOFT = """
    DequantizeLinear DynamicQuantizeMatMul MatMulNBits QGemm QLinearAdd QLinearConcat
    QLinearGlobalAveragePool QLinearMul QuantizeLinear
"""
OPERATORS = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
"""What our exporters and quantizers emit, by domain."""
_OPERATOR_ALIASES = {"ai.onnx": ""}

# field number -> (name, kind); a kind is a message's name, or one of the scalars below
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ModelProto": {
        1: ("ir_version", "int"),
        2: ("producer_name", "text"),
        3: ("producer_version", "text"),
        4: ("domain", "text"),
        5: ("model_version", "int"),
        6: ("doc_string", "text"),
        7: ("graph", "GraphProto"),
        8: ("opset_import", "OperatorSetIdProto"),
        14: ("metadata_props", "StringStringEntryProto"),
    },
    "OperatorSetIdProto": {1: ("domain", "text"), 2: ("version", "int")},
    "StringStringEntryProto": {1: ("key", "text"), 2: ("value", "text")},
    "GraphProto": {
        1: ("node", "NodeProto"),
        2: ("name", "text"),
        5: ("initializer", "TensorProto"),
        10: ("doc_string", "text"),
        11: ("input", "ValueInfoProto"),
        12: ("output", "ValueInfoProto"),
        13: ("value_info", "ValueInfoProto"),
        16: ("metadata_props", "StringStringEntryProto"),
    },
    "NodeProto": {
        1: ("input", "text"),
        2: ("output", "text"),
        3: ("name", "text"),
        4: ("op_type", "text"),
        5: ("attribute", "AttributeProto"),
        6: ("doc_string", "text"),
        7: ("domain", "text"),
        8: ("overload", "text"),
        9: ("metadata_props", "StringStringEntryProto"),
    },
    "AttributeProto": {
        1: ("name", "text"),
        2: ("f", "float"),
        3: ("i", "int"),
        4: ("s", "bytes"),
        5: ("t", "TensorProto"),
        7: ("floats", "float"),
        8: ("ints", "int"),
        9: ("strings", "bytes"),
        13: ("doc_string", "text"),
        20: ("type", "int"),
    },
    "TensorProto": {
        1: ("dims", "int"),
        2: ("data_type", "int"),
        4: ("float_data", "float"),
        5: ("int32_data", "int"),
        7: ("int64_data", "int"),
        8: ("name", "text"),
        9: ("raw_data", "bytes"),
        10: ("double_data", "double"),
        11: ("uint64_data", "int"),
        12: ("doc_string", "text"),
        14: ("data_location", "int"),
    },
    "ValueInfoProto": {
        1: ("name", "text"),
        2: ("type", "TypeProto"),
        3: ("doc_string", "text"),
        4: ("metadata_props", "StringStringEntryProto"),
    },
    "TypeProto": {1: ("tensor_type", "TensorType"), 6: ("denotation", "text")},
    "TensorType": {1: ("elem_type", "int"), 2: ("shape", "TensorShapeProto")},
    "TensorShapeProto": {1: ("dim", "Dimension")},
    "Dimension": {1: ("dim_value", "int"), 2: ("dim_param", "text"), 3: ("denotation", "text")},
}
# refused by name, so that the sentence says what was found
_REFUSED = {
    ("ModelProto", 20): "training information",
    ("ModelProto", 25): "model-local functions",
    ("ModelProto", 26): "a device configuration",
    ("GraphProto", 15): "a sparse initializer",
    ("GraphProto", 14): "quantization annotations",
    ("NodeProto", 10): "a device configuration",
    ("AttributeProto", 6): "a subgraph",
    ("AttributeProto", 11): "subgraphs",
    ("AttributeProto", 22): "a sparse tensor",
    ("AttributeProto", 23): "sparse tensors",
    ("AttributeProto", 21): "a reference to a function's attribute",
    ("TensorProto", 13): "external data",
    ("TensorProto", 3): "a segmented tensor",
    ("TensorProto", 6): "strings in a tensor",
    ("TypeProto", 4): "a sequence type",
    ("TypeProto", 5): "a map type",
    ("TypeProto", 8): "a sparse tensor type",
    ("TypeProto", 9): "an optional type",
}
# all others may stand once: protobuf would merge or overrule them after we have looked
_REPEATED = frozenset(("node", "initializer", "input", "output", "value_info", "attribute"))
_REPEATED |= {"opset_import", "metadata_props", "dim", "dims", "ints", "floats", "strings"}
_REPEATED |= {"float_data", "double_data", "int32_data", "int64_data", "uint64_data"}
_WIRE_TYPES = {"int": 0, "float": 5, "double": 1}  # of one value; repeated ones may be packed
_ELEMENT_BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
}
_ELEMENT_BITS |= {16: 16, 21: 4, 22: 4}  # bfloat16, uint4, int4
_INTEGERS = frozenset((2, 3, 4, 5, 6, 7, 12, 13, 21, 22))
# which outputs are integers whatever goes in: indices; numbers and their zero, but not the scale
_INTEGER_OUTPUTS = {"MaxPool": slice(1, None), "DynamicQuantizeLinear": slice(0, None, 2)}
_INTEGER_OUTPUTS |= dict.fromkeys(("MatMulInteger", "Shape"), slice(None))
_NONE = slice(0)
_LEAST_WINDOW = {"kernel_shape": 1, "pads": 0, "strides": 1, "dilations": 1, "group": 1}

Message = dict[str, list[Any]]
"""A parsed message: field name -> its values, in order.

A submessage is a Message, text a str; floats stay bytes, several of them packed in one.
"""


def check_onnx(data: bytes) -> None:
    """Raises BundleError, which names what an ONNX model in a bundle must not hold."""
    model = _Walk().message(memoryview(data), "ModelProto")
    if len(model.get("graph", ())) != 1:
        raise BundleError("the model has no graph, or more than one")
    if not 1 <= _only(model, "ir_version", 0) <= MAX_IR_VERSION:
        raise BundleError(f"the model's IR version is not 1 to {MAX_IR_VERSION}")
    for opset in model.get("opset_import", ()):
        domain, version = _only(opset, "domain", ""), _only(opset, "version", 0)
        if domain in ("", "ai.onnx") and not MIN_OPSET <= version <= MAX_OPSET:
            raise BundleError(f"the model's opset {version} is not {MIN_OPSET} to {MAX_OPSET}")
    graph = model["graph"][0]
    for tensor in graph.get("initializer", ()):
        _check_tensor(tensor)
    for node in graph.get("node", ()):
        _check_node(node)
    _check_divisions(graph)


def _check_node(node: Message) -> None:
    operator, domain = _only(node, "op_type", ""), _only(node, "domain", "")
    domain = _OPERATOR_ALIASES.get(domain, domain)
    if operator not in OPERATORS.get(domain, ()):
        name = f"{domain}.{operator}" if domain else operator
        raise BundleError(f"the model has the operator {name!r}, which bundles may not hold")
    for attribute in node.get("attribute", ()):
        for tensor in attribute.get("t", ()):
            _check_tensor(tensor)
        if operator != "Constant":
            _check_numbers(operator, attribute)


def _check_numbers(operator: str, attribute: Message) -> None:
    name = _only(attribute, "name", "")
    values = attribute.get("i", []) + attribute.get("ints", [])
    least, most = -(1 << 31), (1 << 31) - 1  # engines cut the rest off, after they checked it
    if name in _LEAST_WINDOW:
        least, most = _LEAST_WINDOW[name], MAX_WINDOW
    if len(values) > 16 or not all(least <= value <= most for value in values):
        raise BundleError(f"{operator} has {name} {values[:16]}; it may be {least} to {most}")


def _check_divisions(graph: Message) -> None:
    """Refuse Div of integers: the least one by −1 kills the process (SIGFPE in onnxruntime 1.32).

    An output has the type of the first input, but for the operators named in `_makes_integers`.
    No network here has a use for such a division.
    """
    made, integers = {""}, set[str]()
    for tensor in graph.get("initializer", ()):
        made.add(name := _only(tensor, "name", ""))
        if _only(tensor, "data_type", 0) in _INTEGERS:
            integers.add(name)
    for value in graph.get("input", ()):
        made.add(name := _only(value, "name", ""))
        kind = _only(_only(value, "type", {}), "tensor_type", {})
        if _only(kind, "elem_type", 0) in _INTEGERS:
            integers.add(name)
    for node in graph.get("node", ()):
        inputs, outputs = node.get("input", []), node.get("output", [])
        operator = _only(node, "op_type", "")
        if not made.issuperset(inputs):
            raise BundleError(f"the model's {operator} uses a tensor that nothing before it makes")
        if operator == "Div" and not integers.isdisjoint(inputs):
            raise BundleError("the model has a Div of integers, which bundles may not hold")
        made.update(outputs)
        if _makes_integers(node, operator, integers):
            integers.update(outputs)
        integers.update(outputs[_INTEGER_OUTPUTS.get(operator, _NONE)])


def _makes_integers(node: Message, operator: str, integers: set[str]) -> bool:
    attributes = node.get("attribute", [])
    if operator == "Cast":
        return any(_only(a, "i", 0) in _INTEGERS for a in attributes)
    if operator == "Constant":
        kinds = [_only(t, "data_type", 0) for a in attributes for t in a.get("t", ())]
        names = {_only(a, "name", "") for a in attributes}
        return bool(_INTEGERS.intersection(kinds) or names & {"value_int", "value_ints"})
    if operator == "Where":
        return not integers.isdisjoint(node.get("input", [])[1:])
    return operator != "DequantizeLinear" and not integers.isdisjoint(node.get("input", [])[:1])


def _check_tensor(tensor: Message) -> None:
    name = _only(tensor, "name", "")
    if any(tensor.get("data_location", ())):
        raise BundleError(f"the tensor {name!r} has external data; everything must be in the file")
    bits = _ELEMENT_BITS.get(_only(tensor, "data_type", 0))
    if bits is None:
        raise BundleError(f"the tensor {name!r} has a data type that bundles may not hold")
    dims, elements = tensor.get("dims", []), 1
    for size in dims:
        elements *= size
        if not 0 <= size <= MAX_TENSOR_ELEMENTS >= elements or len(dims) > 8:
            raise BundleError(f"the tensor {name!r} has the shape {dims[:9]}")
    raw = tensor.get("raw_data")
    if raw is not None:
        if len(raw) != 1 or len(raw[0]) != (elements * bits + 7) // 8:
            raise BundleError(f"the tensor {name!r} has not as many bytes as its shape says")
        return
    stored = sum(len(tensor.get(k, ())) for k in ("int32_data", "int64_data", "uint64_data"))
    stored += sum(map(len, tensor.get("float_data", ()))) // 4
    stored += sum(map(len, tensor.get("double_data", ()))) // 8
    if stored != (elements if bits > 4 else (elements + 1) // 2):  # two 4-bit ones in a number
        raise BundleError(f"the tensor {name!r} has {stored} elements, its shape says {elements}")


def _only(message: Message, field: str, default: Any) -> Any:
    """The value of a field that stands at most once."""
    return message.get(field, [default])[0]


class _Walk:
    """Parses messages by the closed list above, with one count of fields over the whole file."""

    def __init__(self) -> None:
        self.fields = 0

    def message(self, data: memoryview, kind: str) -> Message:
        known = _MESSAGES[kind]
        result: Message = {}
        for number, wire, value in self._fields(data, kind):
            if (kind, number) in _REFUSED:
                raise BundleError(
                    f"the model holds {_REFUSED[kind, number]}, which bundles may not"
                )
            if number not in known:
                raise BundleError(f"the model holds the unknown field {number} in a {kind}")
            name, what = known[number]
            values = result.setdefault(name, [])
            if values and name not in _REPEATED:
                raise BundleError(f"the model's {kind}.{name} stands twice")
            single = _WIRE_TYPES.get(what, 2)
            if wire != single and (wire != 2 or name not in _REPEATED):
                raise BundleError(f"the model's {kind}.{name} is not encoded as its type says")
            if what in _MESSAGES:
                values.append(self.message(value, what))
            elif what == "text":
                values.append(_text(value, kind, name))
            elif what == "int":
                values.extend(self._packed(value) if wire == 2 else [_signed(value)])
            else:
                values.append(value)
        return result

    def _fields(self, data: memoryview, kind: str) -> Iterator[tuple[int, int, Any]]:
        position, end = 0, len(data)
        while position < end:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise BundleError(f"the model has more than {MAX_FIELDS} protobuf fields")
            tag, position = _varint(data, position)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, position = _varint(data, position)
                yield number, wire, value
                continue
            if wire == 2:
                size, position = _varint(data, position)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise BundleError(f"the model's {kind} is not valid protobuf (wire type {wire})")
            if size > end - position:
                raise BundleError(f"the model's {kind} ends too early; it was cut short")
            yield number, wire, data[position : position + size]
            position += size

    def _packed(self, data: memoryview) -> list[int]:
        values, position = [], 0
        while position < len(data):
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise BundleError(f"the model has more than {MAX_FIELDS} protobuf fields")
            value, position = _varint(data, position)
            values.append(_signed(value))
        return values


def _text(value: memoryview, kind: str, name: str) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"the model's {kind}.{name} is not UTF-8") from error


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise BundleError("the model is not valid protobuf (a number does not end)")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
