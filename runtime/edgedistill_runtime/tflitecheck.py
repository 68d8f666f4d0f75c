"""What a TFLite file may hold, checked on the raw flatbuffer before an engine sees a byte of it.

Standard library only.  The engines follow offsets, shapes and options without looking: a damaged
file ends the process.  So every reference is followed here first, by a closed list of tables and
fields, and the shape and type of every result are computed and compared with what the file says.
What is not on a list is refused.  Field numbers: TFLite's schema.fbs, version 3, of LiteRT 2.3.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.modelcheck import MAX_TENSOR_ELEMENTS, MAX_WINDOW

IDENTIFIER = b"TFL3"
MAX_FILE_BYTES = (1 << 31) - 1
MAX_ITEMS = 20_000
"""Of any list of tables: tensors, buffers, operators."""
MAX_NUMBERS = 1 << 16
"""Of any list of numbers: scales of the channels are the longest."""
MAX_PORTS = 256
"""Inputs or outputs of one operator."""
MAX_TEXT_BYTES = 4096
MAX_RANK = 5
MAX_BROADCAST_RANK = 4  # more than four are not looked at, and not refused, by the kernels
MAX_LIVE_BYTES = 1 << 30
"""All tensors that are computed, together."""
MAX_SUBGRAPHS = 16
LENGTH_KEY = re.compile(r"tokens_([1-9][0-9]{0,5})")
"""Key of the signature of a graph for texts of up to so many tokens; −1 stands for none."""
_OTHER_LENGTH = 13
"""Graphs with an open length are looked at with this one too."""

FLOAT32, FLOAT16, INT32, UINT8, INT64, BOOL, INT16, INT8 = 0, 1, 2, 3, 4, 6, 7, 9
_KINDS = {
    FLOAT32: ("float32", 4),
    FLOAT16: ("float16", 2),
    INT32: ("int32", 4),
    UINT8: ("uint8", 1),
    INT64: ("int64", 8),
    BOOL: ("bool", 1),
    INT16: ("int16", 2),
    INT8: ("int8", 1),
}
_ZERO_POINTS = {INT8: (-128, 127), UINT8: (0, 255)}
"""Of all other types it is 0."""
_BYTES = (INT8, UINT8)
_WHOLE = (INT32, INT64)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    dtype: str
    shape: Shape
    """−1 is a size that the file leaves open; the batch is 1 whatever it says."""
    index: int
    """Of the tensor."""


@dataclass(frozen=True)
class Entry:
    """A graph that can be run."""

    key: str
    """Of its signature; empty if it has none."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    last: str
    """The operator that makes the first output; what converts its type does not count."""


@dataclass(frozen=True)
class Checked:
    """What a reader needs to know of a file that it may load."""

    entries: tuple[Entry, ...]
    """One; or one for each of several lengths of a text, the shortest first."""
    hybrid: str
    """An operator with floats around weights that have an int8 scale for each row, if there is one:
    not every engine computes it."""


def check_tflite(data: bytes) -> Checked:
    """Raises BundleError, which names what a TFLite model in a bundle must not hold."""
    if len(data) > MAX_FILE_BYTES or len(data) < 8 or data[4:8] != IDENTIFIER:
        raise BundleError("the model is not a TFLite file")
    file = _File(data)
    try:
        return _check_model(file, _Table(file, file.follow(0), "Model"))
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise BundleError(f"the TFLite model is damaged ({error})") from None


# --- the flatbuffer


_FIELDS: dict[str, tuple[str, ...]] = {
    "Model": (
        *("version:I", "operator_codes", "subgraphs", "description", "buffers"),
        *("metadata_buffer", "metadata", "signature_defs", "!external_buffer_groups"),
        "!external_buffers",
    ),
    "OperatorCode": ("deprecated_builtin_code:b", "!custom_code", "version:i=1", "builtin_code:i"),
    "SubGraph": ("tensors", "inputs", "outputs", "operators", "name", "debug_metadata_index:i=-1"),
    "Tensor": (
        *("shape", "type:b", "buffer:I", "name", "quantization", "!is_variable:?", "!sparsity"),
        *("shape_signature", "has_rank:?", "!variant_tensors", "!external_buffer:I"),
    ),
    "QuantizationParameters": (
        *("min", "max", "scale", "zero_point", "!details_type:B", "!details"),
        "quantized_dimension:i",
    ),
    "Operator": (
        *("opcode_index:I", "inputs", "outputs", "builtin_options_type:B", "builtin_options"),
        *("!custom_options", "!custom_options_format:b", "mutating_variable_inputs"),
        *("!intermediates", "!large_custom_options_offset:Q", "!large_custom_options_size:Q"),
        *("!builtin_options_2_type:B", "!builtin_options_2", "debug_metadata_index:i=-1"),
    ),
    "Buffer": ("data", "!offset:Q", "!size:Q"),
    "SignatureDef": ("inputs", "outputs", "signature_key", "!unused", "subgraph_index:I"),
    "TensorMap": ("name", "tensor_index:I"),
    "Metadata": ("name", "buffer:I"),
}
"""Fields by number: with a struct format if it is a number, and its default if that is not 0.

What begins with ! may not be there, or is 0.
"""


class _File:
    """Bytes of which nothing is believed."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, kind: str, at: int) -> Any:
        """One number, which lies in the file at a multiple of its size, as engines read it."""
        width = struct.calcsize(kind)
        if at < 0 or at + width > len(self.data) or at % width:
            _damaged(f"a number at byte {at}")
        return struct.unpack_from("<" + kind, self.data, at)[0]

    def follow(self, at: int) -> int:
        """Where the reference at `at` points to.  They point forwards: there are no cycles."""
        distance = self.number("I", at)
        if distance < 4 or at + distance + 4 > len(self.data):
            _damaged(f"a reference at byte {at}")
        return int(at + distance)

    def span(self, at: int, width: int) -> tuple[int, int]:
        """First byte, and number of items, of a vector."""
        count = self.number("I", at)
        if at + 4 + count * width > len(self.data) or (at + 4) % width:
            _damaged(f"a list at byte {at}")
        return at + 4, int(count)

    def text(self, at: int) -> str:
        start, size = self.span(at, 1)
        if size > MAX_TEXT_BYTES or self.data[start + size : start + size + 1] != b"\0":
            _damaged(f"a text at byte {at}")
        value = self.data[start : start + size].decode()
        if "\0" in value:  # engines stop there
            _damaged(f"a text at byte {at}")
        return value


class _Table:
    """A table of a kind in `_FIELDS`, or an operator's options."""

    def __init__(
        self, file: _File, at: int, kind: str, fields: tuple[str, ...] | None = None
    ) -> None:
        self.file, self.at, self.kind = file, at, kind
        vtable = at - file.number("i", at)
        size, length = file.number("H", vtable), file.number("H", vtable + 2)
        if size < 4 or size % 2 or vtable + size > len(file.data):
            _damaged(f"the fields of a {kind}")
        if length < 4 or at + length > len(file.data):
            _damaged(f"a {kind}")
        offsets = struct.unpack_from(f"<{(size - 4) // 2}H", file.data, vtable + 4)
        known = _FIELDS[kind] if fields is None else fields
        if any(offsets[len(known) :]):
            raise BundleError(f"the model holds an unknown field in a {kind}")
        self.values: dict[str, Any] = {}
        """Numbers; of everything else, where it stands."""
        for entry, offset in zip(known, offsets, strict=False):
            name, _, what = entry.partition(":")
            width = struct.calcsize(what[0]) if what else 4
            if offset and not 4 <= offset <= length - width:
                _damaged(f"a {kind}")
            if offset:
                value = file.number(what[0], at + offset) if what else file.follow(at + offset)
                self._put(name, value)
        for entry in known:
            name, _, what = entry.partition(":")
            if what:
                self.values.setdefault(name, int(what[2:] or 0))

    def _put(self, name: str, value: Any) -> None:
        if not name.startswith("!"):
            self.values[name] = value
        elif value:
            word = name[1:].replace("_", " ")
            raise BundleError(f"the model's {self.kind} has {word}, which bundles may not hold")

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def text(self, name: str) -> str:
        return self.file.text(self.values[name]) if name in self.values else ""

    def numbers(self, name: str, kind: str, most: int = MAX_NUMBERS) -> tuple[Any, ...]:
        if name not in self.values:
            return ()
        start, count = self.file.span(self.values[name], struct.calcsize(kind))
        if count > most:
            raise BundleError(f"the model's {self.kind} has {count} numbers as {name}")
        return struct.unpack_from(f"<{count}{kind}", self.file.data, start)

    def tables(self, name: str, kind: str, most: int = MAX_ITEMS) -> list[_Table]:
        if name not in self.values:
            return []
        start, count = self.file.span(self.values[name], 4)
        if count > most:
            raise BundleError(f"the model's {self.kind} has {count} {name}; at most {most}")
        return [_Table(self.file, self.file.follow(start + 4 * i), kind) for i in range(count)]

    def table(self, name: str, kind: str, fields: tuple[str, ...] | None = None) -> _Table | None:
        if name not in self.values:
            return None
        return _Table(self.file, self.values[name], kind, fields)


def _damaged(what: str) -> NoReturn:
    raise BundleError(f"the TFLite model is damaged: {what} is not within the file")


# --- the model


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: int
    shape: Shape
    opened: Shape
    """The shape with −1 for what the file leaves open."""
    data: bytes | None
    """None: it is computed."""
    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int
    """Along which there are several scales."""

    def ints(self) -> tuple[int, ...]:
        """The values of a constant of whole numbers."""
        code = "i" if self.kind == INT32 else "q"
        data = self.data or b""
        return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)

    @property
    def same_numbers(self) -> tuple[Any, ...]:
        """What two tensors share whose stored values mean the same."""
        return self.kind, self.scales, self.zeros


@dataclass(frozen=True)
class _Code:
    rule: Rule
    version: int


def _check_model(file: _File, model: _Table) -> Checked:
    if model["version"] != 3:
        raise BundleError(f"the model's version is {model['version']}, not 3")
    model.text("description")
    buffers = [_buffer(each) for each in model.tables("buffers", "Buffer")]
    _check_metadata(model, len(buffers))
    codes = [_code(each) for each in model.tables("operator_codes", "OperatorCode")]
    graphs = model.tables("subgraphs", "SubGraph", MAX_SUBGRAPHS)
    signatures = _signatures(model, len(graphs))
    entries, hybrid, live = [], "", 0
    for number, graph in enumerate(graphs):
        walk = _Walk(graph, buffers, codes)
        walk.check()
        entries.append(_entry(walk, signatures.get(number)))
        hybrid, live = hybrid or walk.hybrid, live + walk.live_bytes
    if live > MAX_LIVE_BYTES:
        raise BundleError(f"the model computes {live} bytes of tensors; at most {MAX_LIVE_BYTES}")
    return Checked(_ordered(entries), hybrid)


def _buffer(table: _Table) -> bytes | None:
    if "data" not in table.values:
        return None
    start, size = table.file.span(table["data"], 1)
    return table.file.data[start : start + size] or None


def _check_metadata(model: _Table, buffers: int) -> None:
    """Engines look there for names that they know."""
    numbers = [each["buffer"] for each in model.tables("metadata", "Metadata")]
    for each in model.tables("metadata", "Metadata"):
        each.text("name")
        if "name" not in each.values:
            raise BundleError("the model has metadata without a name")
    numbers += model.numbers("metadata_buffer", "i")
    if not all(0 <= number < buffers for number in numbers):
        raise BundleError("the model's metadata refer to a buffer that is not there")


def _code(table: _Table) -> _Code:
    old, new = table["deprecated_builtin_code"], table["builtin_code"]
    number, version = max(old, new), table["version"]  # the older field ends at 127
    if number not in RULES:
        name = _REFUSED.get(number, f"number {number}")
        raise BundleError(f"the model has the operator {name}, which bundles may not hold")
    rule = RULES[number]
    if old not in (min(number, 127), 0) or new not in (number, 0):
        raise BundleError(f"the model has two numbers for the operator {rule.name}")
    if not 1 <= version <= rule.versions:
        raise BundleError(
            f"the model has version {version} of {rule.name}; bundles have 1 to {rule.versions}"
        )
    return _Code(rule, version)


@dataclass(frozen=True)
class _Signature:
    key: str
    inputs: dict[int, str]
    outputs: dict[int, str]


def _signatures(model: _Table, graphs: int) -> dict[int, _Signature]:
    """By the graph that each is for."""
    found: dict[int, _Signature] = {}
    for table in model.tables("signature_defs", "SignatureDef", MAX_SUBGRAPHS):
        number, maps = table["subgraph_index"], []
        for side in ("inputs", "outputs"):
            ports = table.tables(side, "TensorMap", MAX_PORTS)
            if not all("name" in port.values for port in ports):
                raise BundleError("the model has a signature with nameless tensors")
            names = {port["tensor_index"]: port.text("name") for port in ports}
            if len(set(names.values())) != len(ports):
                raise BundleError("the model has a signature that names a tensor twice")
            maps.append(names)
        if number >= graphs or number in found or "signature_key" not in table.values:
            raise BundleError("the model has a signature that is for no graph of its own")
        found[number] = _Signature(table.text("signature_key"), *maps)
    return found


def _entry(walk: _Walk, signature: _Signature | None) -> Entry:
    sides = []
    for side, places in (("inputs", walk.inputs), ("outputs", walk.outputs)):
        names = getattr(signature, side) if signature else {i: walk.tensors[i].name for i in places}
        if set(names) != set(places):
            raise BundleError(f"the model has a signature with other {side} than its graph")
        sides.append(tuple(_port(walk.tensors[i], names[i], i) for i in places))
    inputs, outputs = sides
    key = signature.key if signature else ""
    return Entry(key, inputs, outputs, walk.last(walk.outputs[0]))


def _port(tensor: _Tensor, name: str, index: int) -> Port:
    shape = tensor.opened
    if shape and shape[0] == -1 and tensor.shape[0] == 1:
        shape = (1, *shape[1:])
    return Port(name, _KINDS[tensor.kind][0], shape, index)


def _ordered(entries: list[Entry]) -> tuple[Entry, ...]:
    """One graph, or one for each length of a text."""
    if not entries:
        raise BundleError("the model has no graph")
    lengths = {}
    for entry in entries:
        match = LENGTH_KEY.fullmatch(entry.key)
        if match is None:
            if len(entries) == 1:
                return (entry,)
            raise BundleError(
                f"the model has {len(entries)} graphs; several are for texts, with signatures "
                "tokens_16, tokens_32 and so on"
            )
        _check_length(entry, int(match[1]), entries[0])
        lengths[int(match[1])] = entry
    if len(lengths) != len(entries):
        raise BundleError("the model has two graphs for one length")
    return tuple(lengths[length] for length in sorted(lengths))


def _check_length(entry: Entry, length: int, first: Entry) -> None:
    shapes = [port.shape for port in entry.inputs]
    if shapes != [(1, length)] or entry.inputs[0].dtype != "int32":
        raise BundleError(f"the model's graph {entry.key} does not take int32 [1, {length}]")
    named = [
        [(p.name, p.dtype) for p in each.inputs]
        + [(p.name, p.dtype, p.shape) for p in each.outputs]
        for each in (entry, first)
    ]
    if named[0] != named[1]:
        raise BundleError("the model's graphs for several lengths have not the same results")


# --- one graph


class _Walk:
    """A graph's tensors and operators, and what is computed."""

    def __init__(self, graph: _Table, buffers: list[bytes | None], codes: list[_Code]) -> None:
        graph.text("name")
        self.tensors = [_tensor(t, buffers) for t in graph.tables("tensors", "Tensor")]
        self.inputs = self._places(graph, "inputs")
        self.outputs = self._places(graph, "outputs")
        if not self.inputs or not self.outputs:
            raise BundleError("the model has a graph without inputs or without outputs")
        self.operators = [
            _Operator.read(table, codes, self.tensors)
            for table in graph.tables("operators", "Operator")
        ]
        if not self.operators:
            raise BundleError("the model has a graph without operators")
        self.makers: dict[int, _Operator] = {}
        self.live_bytes = sum(_size(t) for t in self.tensors if t.data is None)
        self.hybrid = next((op.rule.name for op in self.operators if op.is_hybrid()), "")

    def _places(self, graph: _Table, name: str) -> tuple[int, ...]:
        places = graph.numbers(name, "i", MAX_PORTS)
        if not all(0 <= place < len(self.tensors) for place in places):
            raise BundleError(f"the model's {name} refer to a tensor that is not there")
        if len(set(places)) != len(places):
            raise BundleError(f"the model's {name} name a tensor twice")
        return places

    def check(self) -> None:
        """The graph as it stands, then with another length if it has an open one."""
        made = set(self.inputs)
        if any(self.tensors[i].data is not None for i in self.inputs):
            raise BundleError("the model has an input with a value")
        for op in self.operators:
            op.check_order(made)
            for place in op.outputs:
                self.makers[place] = op
            made.update(op.outputs)
        if not self.makers.keys() >= set(self.outputs):
            raise BundleError("the model has an output that no operator makes")
        shapes = {place: t.shape for place, t in enumerate(self.tensors)}
        self._infer(dict(shapes), declared=True)
        opened = {
            i: tuple(
                _OTHER_LENGTH if open_size == -1 and place else size
                for place, (size, open_size) in enumerate(
                    zip(self.tensors[i].shape, self.tensors[i].opened, strict=True)
                )
            )
            for i in self.inputs
        }
        if any(shapes[i] != shape for i, shape in opened.items()):
            self._infer(shapes | opened, declared=False)

    def _infer(self, shapes: dict[int, Shape], declared: bool) -> None:
        for op in self.operators:
            results = op.results(shapes)
            for place, shape in zip(op.outputs, results, strict=True):
                if declared and shape != shapes[place]:
                    op.refuse(f"makes {list(shape)}, and the file says {list(shapes[place])}")
                _check_shape(self.tensors[place].name, shape)
                shapes[place] = shape

    def last(self, place: int) -> str:
        while self.makers[place].rule.name == "DEQUANTIZE":
            source = self.makers[place].inputs[0]
            if source not in self.makers:
                break
            place = source
        return self.makers[place].rule.name


def _tensor(table: _Table, buffers: list[bytes | None]) -> _Tensor:
    name, kind, place = table.text("name"), table["type"], table["buffer"]
    if kind not in _KINDS:
        raise BundleError(f"the tensor {name!r} has a data type that bundles may not hold")
    shape = table.numbers("shape", "i", MAX_RANK)
    _check_shape(name, shape)
    opened = table.numbers("shape_signature", "i", MAX_RANK) or shape
    if len(opened) != len(shape) or any(
        o not in (n, -1) for o, n in zip(opened, shape, strict=True)
    ):
        raise BundleError(f"the tensor {name!r} has a second shape that does not fit the first")
    if place >= len(buffers):
        raise BundleError(f"the tensor {name!r} refers to a buffer that is not there")
    data = buffers[place]
    quantization = _quantization(table, name, kind, shape, data is not None)
    tensor = _Tensor(name, kind, shape, opened, data, *quantization)
    if data is not None and len(data) != _size(tensor):
        raise BundleError(f"the tensor {name!r} has not as many bytes as its shape says")
    return tensor


def _quantization(
    tensor: _Table, name: str, kind: int, shape: Shape, constant: bool
) -> tuple[tuple[float, ...], tuple[int, ...], int]:
    """Scales, zero points and axis."""
    table = tensor.table("quantization", "QuantizationParameters")
    if table is None:
        return (), (), 0
    table.numbers("min", "f")
    table.numbers("max", "f")
    scales, zeros = table.numbers("scale", "f"), table.numbers("zero_point", "q")
    low, high = _ZERO_POINTS.get(kind, (0, 0))
    axis = table["quantized_dimension"]
    wrong = (
        len(scales) != len(zeros)
        or not all(1e-30 < scale < 1e30 for scale in scales)  # NaN too
        or not all(low <= zero <= high for zero in zeros)
        or (bool(scales) and kind == FLOAT32)
    )
    if len(scales) > 1:  # one for each channel of a weight
        wrong |= not (0 <= axis < len(shape)) or len(scales) != shape[axis]
        wrong |= any(zeros) or not constant
    if wrong:
        raise BundleError(f"the tensor {name!r} has a quantization that bundles may not hold")
    return scales, zeros, axis


def _check_shape(name: str, shape: Shape) -> None:
    if not all(1 <= size <= MAX_TENSOR_ELEMENTS for size in shape) or (
        math.prod(shape) > MAX_TENSOR_ELEMENTS or len(shape) > MAX_RANK
    ):
        raise BundleError(f"the tensor {name!r} has the shape {list(shape)}")


def _size(tensor: _Tensor) -> int:
    return math.prod(tensor.shape) * _KINDS[tensor.kind][1]


# --- operators


@dataclass(frozen=True)
class Rule:
    """What an operator takes and makes."""

    name: str
    versions: int
    """The highest that is known."""
    infer: Callable[[_Operator], list[Shape]]
    inputs: tuple[int, int] = (1, 1)
    """Least and most."""
    options_type: int = 0
    fields: tuple[str, ...] = ()
    """Of its options, as in `_FIELDS`."""
    optional: tuple[int, ...] = ()
    """Inputs that may be left out."""
    outputs: tuple[int, int] = (1, 1)


@dataclass
class _Operator:
    rule: Rule
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]
    tensors: list[_Tensor]
    option_table: _Table | None
    shapes: dict[int, Shape] = field(default_factory=dict)

    @staticmethod
    def read(table: _Table, codes: list[_Code], tensors: list[_Tensor]) -> _Operator:
        if table["opcode_index"] >= len(codes):
            raise BundleError("the model has an operator of a kind that is not there")
        rule = codes[table["opcode_index"]].rule
        if any(table.numbers("mutating_variable_inputs", "?")):
            raise BundleError(f"the model's {rule.name} changes its inputs")
        sides = []
        for side in ("inputs", "outputs"):
            places, (least, most) = table.numbers(side, "i", MAX_PORTS), getattr(rule, side)
            if not least <= len(places) <= most:
                raise BundleError(f"the model's {rule.name} has {len(places)} {side}")
            absent = rule.optional if side == "inputs" else ()
            for number, place in enumerate(places):
                if not (0 <= place < len(tensors) or (place == -1 and number in absent)):
                    raise BundleError(f"the model's {rule.name} has {side} that are not there")
            sides.append(places)
        options = None
        if table["builtin_options_type"]:
            if table["builtin_options_type"] != rule.options_type:
                raise BundleError(f"the model's {rule.name} has the options of another operator")
            options = table.table("builtin_options", f"{rule.name}'s options", rule.fields)
        if options is None:  # an engine reads zeros, not the defaults
            values = {e.partition(":")[0]: 0 for e in rule.fields if ":" in e}
        else:
            values = options.values
        return _Operator(rule, sides[0], sides[1], values, tensors, options)

    def refuse(self, why: str) -> NoReturn:
        raise BundleError(f"the model's {self.rule.name} {why}")

    def need(self, holds: bool, why: str) -> None:
        if not holds:
            self.refuse(why)

    def check_order(self, made: set[int]) -> None:
        for place in self.inputs:
            if place >= 0 and place not in made and self.tensors[place].data is None:
                self.refuse("uses a tensor that nothing before it makes")
        for place in self.outputs:
            if place in made or self.tensors[place].data is not None:
                self.refuse("makes a tensor that is there already")
        if len(set(self.outputs)) != len(self.outputs):
            self.refuse("makes a tensor twice")

    def results(self, shapes: dict[int, Shape]) -> list[Shape]:
        self.shapes = shapes
        found = self.rule.infer(self)
        if len(found) != len(self.outputs):
            self.refuse(f"has {len(self.outputs)} outputs, and makes {len(found)}")
        return found

    def has(self, number: int) -> bool:
        return number < len(self.inputs) and self.inputs[number] >= 0

    def tensor(self, number: int) -> _Tensor:
        return self.tensors[self.inputs[number]]

    def shape(self, number: int) -> Shape:
        return self.shapes[self.inputs[number]]

    @property
    def out(self) -> _Tensor:
        return self.tensors[self.outputs[0]]

    def kinds(self, number: int, *allowed: int) -> int:
        kind = self.tensor(number).kind
        if kind not in allowed:
            self.refuse(f"has an input of type {_KINDS[kind][0]}")
        return kind

    def makes(self, kind: int) -> None:
        for place in self.outputs:
            if self.tensors[place].kind != kind:
                self.refuse(f"makes {_KINDS[kind][0]}, and the file says otherwise")

    def ints(self, number: int, *kinds: int) -> tuple[int, ...]:
        """A constant list of whole numbers: shapes, axes and the like hang on no data."""
        self.kinds(number, *(kinds or (INT32,)))
        tensor = self.tensor(number)
        if tensor.data is None or len(tensor.shape) > 1 or math.prod(tensor.shape) > 64:
            self.refuse(f"has an input {number} that is no short constant list")
        return tensor.ints()

    def axis(self, value: int, rank: int) -> int:
        if not -rank <= value < rank:
            self.refuse(f"has the axis {value} of {rank}")
        return value % rank

    def scaled(self, *tensors: _Tensor) -> None:
        """8-bit numbers have one scale, or the engine reads from nowhere."""
        for tensor in tensors:
            if tensor.kind in (*_BYTES, INT16) and len(tensor.scales) != 1:
                self.refuse(f"needs one scale of the tensor {tensor.name!r}")

    def unchanged(self, *numbers: int) -> None:
        """The output's values are those of the inputs: same type, same scale."""
        for number in numbers:
            if self.tensor(number).same_numbers != self.out.same_numbers:
                self.refuse("changes the type or scale of its input")

    def activation(self) -> None:
        if self.options["activation"] not in (0, 1, 2, 3):  # none, ReLU, −1 to 1, 0 to 6
            self.refuse(f"has the fused activation {self.options['activation']}")

    def is_hybrid(self) -> bool:
        """Whether floats come out of weights with an int8 scale for each row."""
        return (
            self.rule.name in ("BATCH_MATMUL", "CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED")
            and self.out.kind == FLOAT32
            and self.tensor(1).kind == INT8
            and len(self.tensor(1).scales) > 1
        )


def _elementwise(*kinds: int) -> Callable[[_Operator], list[Shape]]:
    """An operator that makes of each number another one."""

    def infer(op: _Operator) -> list[Shape]:
        op.makes(op.kinds(0, *kinds))
        op.scaled(op.tensor(0), op.out)
        for name in ("alpha", "beta"):
            if name in op.options:
                least = 0.0 if name == "beta" else -1e3
                op.need(least < op.options[name] <= 1e3, f"has {name} {op.options[name]}")
        return [op.shape(0)]

    return infer


def _softmax(op: _Operator) -> list[Shape]:
    op.need(len(op.shape(0)) >= 1, "has a single number as its input")
    return _elementwise(FLOAT32, INT8, UINT8)(op)


def _broadcast(op: _Operator, *shapes: Shape) -> Shape:
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    rank = max(map(len, shapes))
    op.need(rank <= MAX_BROADCAST_RANK, f"stretches tensors of {rank} dimensions")
    result = []
    for sizes in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        wide = {size for size in sizes if size != 1} or {1}
        op.need(len(wide) == 1, f"has inputs of the shapes {[list(s) for s in shapes]}")
        result.append(wide.pop())
    return tuple(result)


def _binary(*kinds: int) -> Callable[[_Operator], list[Shape]]:
    def infer(op: _Operator) -> list[Shape]:
        kind = op.kinds(0, *kinds)
        op.kinds(1, kind)
        op.makes(kind)
        op.scaled(op.tensor(0), op.tensor(1), op.out)
        if "activation" in op.options:
            op.activation()
        if kind in _BYTES:
            inputs = [op.tensor(0).scales[0], op.tensor(1).scales[0]]
            ratio = max(inputs) / op.out.scales[0]
            if op.rule.name == "SQUARED_DIFFERENCE":
                ratio *= 4 * max(inputs) * (1 << 5)
            # engines end the process where the output's scale is so much smaller: 2^19, 2^14
            op.need(
                ratio < 1 << 18 and min(inputs) / max(inputs) > 1e-9, "has scales too far apart"
            )
        return [_broadcast(op, op.shape(0), op.shape(1))]

    return infer


def _compare(*kinds: int) -> Callable[[_Operator], list[Shape]]:
    def infer(op: _Operator) -> list[Shape]:
        op.kinds(1, op.kinds(0, *kinds))
        op.makes(BOOL)
        return [_broadcast(op, op.shape(0), op.shape(1))]

    return infer


def _select(op: _Operator) -> list[Shape]:
    op.kinds(0, BOOL)
    kind = op.kinds(1, FLOAT32, *_WHOLE)
    op.kinds(2, kind)
    op.makes(kind)
    shapes = [op.shape(i) for i in range(3)]
    if op.rule.name == "SELECT":
        op.need(len(set(shapes)) == 1, "has inputs of several shapes")
    return [_broadcast(op, *shapes)]


def _weights(op: _Operator, out_axis: int) -> None:
    """Types and scales of a product with weights and biases."""
    x, w, channels = op.tensor(0), op.tensor(1), op.tensor(1).shape[out_axis]
    kind = op.kinds(0, FLOAT32, *_BYTES)
    op.makes(kind)
    op.kinds(1, *((FLOAT32, INT8) if kind == FLOAT32 else (kind,)))
    op.scaled(x, op.out)
    if w.kind in _BYTES:
        op.need(w.data is not None, "computes its own weights")
        several = channels if w.kind == INT8 else 1
        op.need(len(w.scales) in (1, several), "has weights without scales")
        op.need(w.kind == INT8 or kind == UINT8, "has weights of another type")
        if len(w.scales) > 1:
            op.need(w.axis == out_axis, "has scales along another axis")
    if op.has(2):
        op.kinds(2, FLOAT32 if kind == FLOAT32 else INT32)
        op.need(op.shape(2) == (channels,), f"has biases of the shape {list(op.shape(2))}")
        op.need(op.tensor(2).data is not None or kind == FLOAT32, "computes its own biases")


def _window(op: _Operator, size: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Places of a window along an axis."""
    numbers = (kernel, stride, dilation)
    op.need(all(1 <= n <= MAX_WINDOW for n in numbers), f"has a window of {list(numbers)}")
    op.need(op.options["padding"] in (0, 1), f"has the padding {op.options['padding']}")
    if op.options["padding"] == 0:  # SAME
        return -(-size // stride)
    places = (size - (kernel - 1) * dilation - 1) // stride + 1
    op.need(places >= 1, f"has a window of {kernel} on {size}")
    return places


def _conv(op: _Operator) -> list[Shape]:
    x, w, options = op.shape(0), op.shape(1), op.options
    op.need((len(x), len(w)) == (4, 4), "has inputs that are no images")
    depthwise = op.rule.name == "DEPTHWISE_CONV_2D"
    if depthwise:
        many = options["depth_multiplier"]
        op.need(w[0] == 1 and 1 <= many <= MAX_WINDOW and w[3] == x[3] * many, "has other channels")
    else:
        op.need(w[3] == x[3], f"has {x[3]} channels, and weights for {w[3]}")
    op.activation()
    _weights(op, 3 if depthwise else 0)
    if depthwise and (op.out.kind, op.tensor(1).kind) == (FLOAT32, INT8):
        # engines look for so many, however many there are
        op.need(len(op.tensor(1).scales) == w[3], "has not a scale for each channel")
    height, width = (
        _window(op, x[1 + i], w[1 + i], options[f"stride_{n}"], options[f"dilation_{n}"])
        for i, n in enumerate("hw")
    )
    return [(x[0], height, width, w[3] if depthwise else w[0])]


def _pool(op: _Operator) -> list[Shape]:
    x, options = op.shape(0), op.options
    op.need(len(x) == 4, "has an input that is no image")
    op.activation()
    op.makes(op.kinds(0, FLOAT32, *_BYTES))
    op.scaled(op.tensor(0))
    op.unchanged(0)
    height, width = (
        _window(op, x[1 + i], options[f"filter_{n}"], options[f"stride_{n}"])
        for i, n in enumerate("hw")
    )
    return [(x[0], height, width, x[3])]


def _fully_connected(op: _Operator) -> list[Shape]:
    x, w = op.shape(0), op.shape(1)
    op.need(len(x) >= 1 and len(w) == 2, "has an input without dimensions")
    op.need(op.options["weights_format"] == 0, "has shuffled weights")
    op.activation()
    _weights(op, 0)
    op.need(x[-1] == w[1] or not op.options["keep_num_dims"], f"multiplies {list(x)} by {list(w)}")
    op.need(math.prod(x) % w[1] == 0, f"multiplies {list(x)} by {list(w)}")
    if op.options["keep_num_dims"]:
        return [(*x[:-1], w[0])]
    return [(math.prod(x) // w[1], w[0])]


def _batch_matmul(op: _Operator) -> list[Shape]:
    x, y = op.shape(0), op.shape(1)
    op.need(len(x) >= 2 and len(y) >= 2, "has an input that is no matrix")
    kind = op.kinds(0, FLOAT32, INT8)
    op.makes(kind)
    other = op.tensor(1)
    op.need(other.kind == kind or (other.kind == INT8 and other.data is not None), "mixes types")
    op.scaled(op.tensor(0), other, op.out)
    rows, inner = (x[-1], x[-2]) if op.options["adj_x"] else (x[-2], x[-1])
    deep, columns = (y[-1], y[-2]) if op.options["adj_y"] else (y[-2], y[-1])
    op.need(inner == deep, f"multiplies {list(x)} by {list(y)}")
    return [(*_broadcast(op, x[:-2], y[:-2]), rows, columns)]


def _gather(op: _Operator) -> list[Shape]:
    table, indices = op.shape(0), op.shape(1)
    op.kinds(0, FLOAT32, INT8, UINT8, *_WHOLE)
    op.kinds(1, *_WHOLE)
    op.need(len(table) >= 1 and op.options["batch_dims"] == 0, "has batches")
    op.unchanged(0)
    axis = op.axis(op.options["axis"], len(table))
    if op.tensor(1).data is not None:
        op.need(
            all(0 <= index < table[axis] for index in op.tensor(1).ints()),
            "has an index that is not there",
        )
    return [(*table[:axis], *indices, *table[axis + 1 :])]


def _embedding_lookup(op: _Operator) -> list[Shape]:
    ids, table = op.shape(0), op.shape(1)
    op.kinds(0, INT32)
    kind = op.kinds(1, FLOAT32, INT8)
    op.makes(FLOAT32)
    op.need(len(ids) == 1 and len(table) >= 2, "has inputs that are no list and no table")
    if kind == INT8:
        rows = op.tensor(1)
        op.need(rows.data is not None and len(rows.scales) in (1, table[0]), "has no scales")
        op.need(rows.axis == 0, "has scales along another axis")
    if op.tensor(0).data is not None:
        op.need(all(0 <= index < table[0] for index in op.tensor(0).ints()), "has a strange index")
    return [(*ids, *table[1:])]


def _reduce(op: _Operator) -> list[Shape]:
    x = op.shape(0)
    op.makes(op.kinds(0, FLOAT32, *_BYTES, *_WHOLE))
    op.scaled(op.tensor(0), op.out)
    if op.rule.name == "REDUCE_MAX":
        op.unchanged(0)
    axes = {op.axis(axis, len(x)) for axis in op.ints(1)}
    op.need(bool(axes), "reduces no axis")
    if op.options["keep_dims"]:
        return [tuple(1 if i in axes else size for i, size in enumerate(x))]
    return [tuple(size for i, size in enumerate(x) if i not in axes)]


def _reshape(op: _Operator) -> list[Shape]:
    op.unchanged(0)
    total = math.prod(op.shape(0))
    if op.has(1):
        wanted = op.ints(1)
    else:
        op.need(op.option_table is not None, "says no shape")
        assert op.option_table is not None
        wanted = op.option_table.numbers("new_shape", "i", MAX_RANK)
    op.need(all(size >= 1 or size == -1 for size in wanted), f"makes {list(wanted)[:8]}")
    known = math.prod(size for size in wanted if size != -1)
    if -1 in wanted:
        op.need(wanted.count(-1) == 1 and total % known == 0, f"makes {list(wanted)[:8]}")
        wanted = tuple(total // known if size == -1 else size for size in wanted)
    op.need(math.prod(wanted) == total, f"makes {list(wanted)[:8]} of {list(op.shape(0))}")
    return [tuple(wanted)]


def _transpose(op: _Operator) -> list[Shape]:
    x, order = op.shape(0), op.ints(1)
    op.unchanged(0)
    op.need(sorted(order) == list(range(len(x))), f"has the order {list(order)}")
    return [tuple(x[i] for i in order)]


def _squeeze(op: _Operator) -> list[Shape]:
    x = op.shape(0)
    op.unchanged(0)
    given = op.option_table.numbers("squeeze_dims", "i", MAX_RANK) if op.option_table else ()
    axes = {op.axis(axis, len(x)) for axis in given}
    if not axes:
        axes = {i for i, size in enumerate(x) if size == 1}
    op.need(all(x[i] == 1 for i in axes), "removes a dimension that is not one")
    return [tuple(size for i, size in enumerate(x) if i not in axes)]


def _expand_dims(op: _Operator) -> list[Shape]:
    x, axes = op.shape(0), op.ints(1, *_WHOLE)
    op.unchanged(0)
    op.need(len(axes) == 1, "has several axes")
    axis = op.axis(axes[0], len(x) + 1)
    return [(*x[:axis], 1, *x[axis:])]


def _slice(op: _Operator) -> list[Shape]:
    x, begin, size = op.shape(0), op.ints(1), op.ints(2)
    op.unchanged(0)
    op.need(len(begin) == len(size) == len(x), "has another number of axes")
    result = []
    for whole, first, count in zip(x, begin, size, strict=True):
        count = whole - first if count == -1 else count
        op.need(first >= 0 and 1 <= count <= whole - first, "reaches out of its input")
        result.append(count)
    return [tuple(result)]


def _strided_slice(op: _Operator) -> list[Shape]:
    x, begins, ends, steps = op.shape(0), op.ints(1), op.ints(2), op.ints(3)
    masks = op.options
    op.unchanged(0)
    op.need(not masks["ellipsis_mask"] and not masks["new_axis_mask"], "adds axes")
    op.need(len(begins) == len(ends) == len(steps) <= len(x), "has another number of axes")
    result = list(x)
    for i, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        bit = 1 << i
        if masks["shrink_axis_mask"] & bit:
            op.need(step == 1 and -x[i] <= begin < x[i], "takes an index that is not there")
            op.need(not masks["begin_mask"] & bit, "takes no index")
            result[i] = 0
            continue
        op.need(1 <= step <= MAX_WINDOW, f"has the step {step}")
        first = None if masks["begin_mask"] & bit else begin
        after = None if masks["end_mask"] & bit else end
        result[i] = len(range(*slice(first, after, step).indices(x[i])))
        op.need(result[i] >= 1, "leaves nothing")
    return [tuple(size for size in result if size)]


def _concatenation(op: _Operator) -> list[Shape]:
    shapes = [op.shape(i) for i in range(len(op.inputs))]
    op.need(op.options["activation"] == 0 and len(shapes[0]) >= 1, "does more than it may")
    op.unchanged(*range(len(shapes)))
    axis = op.axis(op.options["axis"], len(shapes[0]))
    rest = {(*shape[:axis], 0, *shape[axis + 1 :]) for shape in shapes}
    op.need(len(rest) == 1 and {len(s) for s in shapes} == {len(shapes[0])}, "has other shapes")
    joined = sum(shape[axis] for shape in shapes)
    return [(*shapes[0][:axis], joined, *shapes[0][axis + 1 :])]


def _pad(op: _Operator) -> list[Shape]:
    x, paddings = op.shape(0), op.tensor(1)
    op.kinds(0, FLOAT32, *_BYTES, *_WHOLE)
    op.kinds(1, INT32)
    op.scaled(op.tensor(0))
    op.unchanged(0)
    op.need(paddings.data is not None and paddings.shape == (len(x), 2), "has strange paddings")
    numbers = paddings.ints()
    op.need(all(0 <= n <= MAX_WINDOW for n in numbers), f"has the paddings {list(numbers)}")
    if op.has(2):
        op.unchanged(2)
        op.need(math.prod(op.shape(2)) == 1, "has several values")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [tuple(size + a + b for size, (a, b) in zip(x, pairs, strict=True))]


def _pack(op: _Operator) -> list[Shape]:
    shapes = {op.shape(i) for i in range(len(op.inputs))}
    op.unchanged(*range(len(op.inputs)))
    op.need(len(shapes) == 1 and op.options["values_count"] == len(op.inputs), "has other inputs")
    shape = shapes.pop()
    axis = op.axis(op.options["axis"], len(shape) + 1)
    return [(*shape[:axis], len(op.inputs), *shape[axis:])]


def _unpack(op: _Operator) -> list[Shape]:
    x = op.shape(0)
    _same_outputs(op, 0)
    axis = op.axis(op.options["axis"], len(x))
    op.need(op.options["num"] == x[axis] == len(op.outputs), "has other outputs")
    return [(*x[:axis], *x[axis + 1 :])] * len(op.outputs)


def _split(op: _Operator) -> list[Shape]:
    axes, x = op.ints(0), op.shape(1)
    _same_outputs(op, 1)
    op.need(len(axes) == 1, "has several axes")
    axis, parts = op.axis(axes[0], len(x)), len(op.outputs)
    op.need(op.options["num_splits"] == parts and x[axis] % parts == 0, "has other outputs")
    return [(*x[:axis], x[axis] // parts, *x[axis + 1 :])] * parts


def _same_outputs(op: _Operator, number: int) -> None:
    wanted = op.tensor(number).same_numbers
    op.need(all(op.tensors[i].same_numbers == wanted for i in op.outputs), "changes its input")


def _broadcast_to(op: _Operator) -> list[Shape]:
    x, wanted = op.shape(0), op.ints(1, *_WHOLE)
    op.unchanged(0)
    op.need(len(wanted) <= MAX_RANK and all(size >= 1 for size in wanted), "makes a strange shape")
    op.need(_broadcast(op, x, wanted) == wanted, f"makes {list(wanted)} of {list(x)}")
    return [wanted]


def _cast(op: _Operator) -> list[Shape]:
    kinds = (FLOAT32, BOOL, *_WHOLE)
    op.kinds(0, *kinds)
    op.need(op.out.kind in kinds, "makes another type")
    return [op.shape(0)]


def _quantize(op: _Operator) -> list[Shape]:
    op.kinds(0, FLOAT32, *_BYTES)
    op.need(op.out.kind in _BYTES, "makes another type")
    op.scaled(op.tensor(0), op.out)
    return [op.shape(0)]


def _dequantize(op: _Operator) -> list[Shape]:
    op.kinds(0, FLOAT16, *_BYTES)
    op.makes(FLOAT32)
    op.scaled(op.tensor(0))
    return [op.shape(0)]


_Row = tuple[int, str, int, tuple[int, ...], int, tuple[str, ...]]
"""Number, name, versions, types, and type and fields of the options."""


def _rules() -> Iterator[tuple[int, Rule]]:
    quantized = (FLOAT32, *_BYTES)
    arithmetic = (FLOAT32, *_BYTES, *_WHOLE)
    fused = ("activation:b",)
    with_scale16 = ("activation:b", "pot_scale_int16:?=1")
    strides = ("padding:b", "stride_w:i", "stride_h:i")
    dilations = ("dilation_w:i=1", "dilation_h:i=1")
    one: tuple[_Row, ...] = (
        (14, "LOGISTIC", 3, quantized, 0, ()),
        (19, "RELU", 3, quantized, 0, ()),
        (20, "RELU_N1_TO_1", 1, quantized, 0, ()),
        (21, "RELU6", 3, quantized, 0, ()),
        (28, "TANH", 3, quantized, 0, ()),
        (47, "EXP", 2, (FLOAT32,), 33, ()),
        (59, "NEG", 1, (FLOAT32, *_WHOLE), 42, ()),
        (66, "SIN", 2, (FLOAT32,), 0, ()),
        (73, "LOG", 2, (FLOAT32,), 0, ()),
        (75, "SQRT", 2, (FLOAT32,), 0, ()),
        (76, "RSQRT", 3, (FLOAT32,), 0, ()),
        (87, "LOGICAL_NOT", 1, (BOOL,), 63, ()),
        (92, "SQUARE", 1, (FLOAT32,), 66, ()),
        (98, "LEAKY_RELU", 2, quantized, 75, ("alpha:f",)),
        (101, "ABS", 5, (FLOAT32,), 78, ()),
        (108, "COS", 2, (FLOAT32,), 84, ()),
        (111, "ELU", 1, (FLOAT32,), 0, ()),
        (117, "HARD_SWISH", 1, quantized, 91, ()),
        (150, "GELU", 3, quantized, 116, ("approximate:?",)),
        (152, "RELU_0_TO_1", 1, quantized, 0, ()),
    )
    for code, name, versions, kinds, options_type, fields in one:
        yield code, Rule(name, versions, _elementwise(*kinds), (1, 1), options_type, fields)
    two: tuple[_Row, ...] = (
        (0, "ADD", 6, arithmetic, 11, with_scale16),
        (18, "MUL", 8, arithmetic, 21, fused),
        (41, "SUB", 5, arithmetic, 28, with_scale16),
        (42, "DIV", 2, (FLOAT32,), 29, fused),
        (55, "MAXIMUM", 4, arithmetic, 39, ()),
        (57, "MINIMUM", 4, arithmetic, 39, ()),
        (78, "POW", 1, (FLOAT32,), 56, ()),
        (84, "LOGICAL_OR", 1, (BOOL,), 60, ()),
        (86, "LOGICAL_AND", 1, (BOOL,), 62, ()),
        (99, "SQUARED_DIFFERENCE", 2, (FLOAT32, INT8, INT32), 76, ()),
    )
    for code, name, versions, kinds, options_type, fields in two:
        yield code, Rule(name, versions, _binary(*kinds), (2, 2), options_type, fields)
    compared = (
        (58, "LESS", 3, 41),
        (61, "GREATER", 2, 44),
        (62, "GREATER_EQUAL", 3, 45),
        (63, "LESS_EQUAL", 2, 46),
        (71, "EQUAL", 5, 53),
        (72, "NOT_EQUAL", 4, 54),
    )
    for code, name, versions, options_type in compared:
        rule = Rule(name, versions, _compare(FLOAT32, *_WHOLE), (2, 2), options_type)
        yield code, rule
    for code, name, versions, infer in (
        (40, "MEAN", 3, _reduce),
        (74, "SUM", 2, _reduce),
        (82, "REDUCE_MAX", 3, _reduce),
    ):
        yield code, Rule(name, versions, infer, (2, 2), 27, ("keep_dims:?",))
    pooling = (*strides, "filter_w:i", "filter_h:i", "activation:b")
    yield 1, Rule("AVERAGE_POOL_2D", 3, _pool, (1, 1), 5, pooling)
    yield 17, Rule("MAX_POOL_2D", 3, _pool, (1, 1), 5, pooling)
    # engines read the biases of a convolution whether there are any or not
    convolution = (*strides, "activation:b", *dilations, "quantized_bias_type:b")
    yield 3, Rule("CONV_2D", 8, _conv, (3, 3), 1, convolution)
    depthwise = (*strides, "depth_multiplier:i", "activation:b", *dilations)
    yield 4, Rule("DEPTHWISE_CONV_2D", 7, _conv, (3, 3), 2, depthwise)
    connected = (
        *("activation:b", "weights_format:b", "keep_num_dims:?"),
        *("asymmetric_quantize_inputs:?", "quantized_bias_type:b"),
    )
    yield 9, Rule("FULLY_CONNECTED", 14, _fully_connected, (2, 3), 8, connected, (2,))
    product = ("adj_x:?", "adj_y:?", "asymmetric_quantize_inputs:?")
    yield 126, Rule("BATCH_MATMUL", 4, _batch_matmul, (2, 2), 101, product)
    yield 36, Rule("GATHER", 8, _gather, (2, 2), 23, ("axis:i", "batch_dims:i"))
    yield 7, Rule("EMBEDDING_LOOKUP", 5, _embedding_lookup, (2, 2))
    yield 25, Rule("SOFTMAX", 4, _softmax, (1, 1), 9, ("beta:f",))
    yield 22, Rule("RESHAPE", 1, _reshape, (1, 2), 17, ("new_shape",))
    yield 39, Rule("TRANSPOSE", 9, _transpose, (2, 2), 26)
    yield 43, Rule("SQUEEZE", 2, _squeeze, (1, 1), 30, ("squeeze_dims",))
    yield 70, Rule("EXPAND_DIMS", 1, _expand_dims, (2, 2), 52)
    yield 65, Rule("SLICE", 8, _slice, (3, 3), 48)
    masks = tuple(f"{n}_mask:i" for n in ("begin", "end", "ellipsis", "new_axis", "shrink_axis"))
    yield 45, Rule("STRIDED_SLICE", 8, _strided_slice, (4, 4), 32, (*masks, "!offset:?"))
    joining = ("axis:i", "activation:b")
    yield 2, Rule("CONCATENATION", 7, _concatenation, (1, MAX_PORTS), 10, joining)
    yield 34, Rule("PAD", 6, _pad, (2, 2), 22)
    yield 60, Rule("PADV2", 6, _pad, (3, 3), 43)
    yield 83, Rule("PACK", 5, _pack, (1, MAX_PORTS), 59, ("values_count:i", "axis:i"))
    many = (1, MAX_PORTS)
    yield 88, Rule("UNPACK", 6, _unpack, (1, 1), 64, ("num:i", "axis:i"), outputs=many)
    yield 49, Rule("SPLIT", 5, _split, (2, 2), 35, ("num_splits:i",), outputs=many)
    yield 130, Rule("BROADCAST_TO", 4, _broadcast_to, (2, 2), 104)
    yield 53, Rule("CAST", 9, _cast, (1, 1), 37, ("in_type:b", "out_type:b"))
    yield 114, Rule("QUANTIZE", 6, _quantize, (1, 1), 89)
    yield 6, Rule("DEQUANTIZE", 9, _dequantize, (1, 1), 38)
    yield 64, Rule("SELECT", 4, _select, (3, 3), 47)
    yield 123, Rule("SELECT_V2", 2, _select, (3, 3), 98)


RULES = dict(_rules())
"""Operators that bundles may hold, by number."""
_REFUSED = {32: "CUSTOM", 51: "DELEGATE", 118: "IF", 119: "WHILE", 129: "CALL_ONCE"}
_REFUSED |= {31: "CALL", 107: "GATHER_ND", 206: "STABLEHLO_COMPOSITE", 77: "SHAPE"}
