"""What an ONNX file in a bundle may hold, and by what name the rest is refused."""

from __future__ import annotations

import struct

import pytest
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import DATA

from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.modelcheck import MAX_FIELDS, MAX_WINDOW, OPERATORS, check_onnx

SCALAR = ox.floats("one", (), [1.0])


def with_nodes(*nodes, more=()):
    """A model of `nodes`, from "image" to "c", and then the usual head."""
    return ox.model(ox.graph([*nodes, *ox.head("c")], [*ox.HEAD, SCALAR, *more]))


def with_initializer(tensor):
    return ox.model(ox.graph(ox.head(), [*ox.HEAD, tensor]))


def with_attribute(attribute, operator="Relu"):
    return with_nodes(ox.node(operator, ["image"], "c", attribute))


def refused(data):
    with pytest.raises(BundleError) as caught:
        check_onnx(data)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "tiny_int8"])
def test_real_models_are_accepted(name):
    check_onnx((DATA / f"{name}.onnx").read_bytes())


def test_the_hand_made_model_is_accepted():
    check_onnx(ox.plain())


@pytest.mark.parametrize(
    "tensor",
    [
        ox.message((1, 3), (2, 1), (8, "t"), (4, struct.pack("<3f", 1, 2, 3))),
        ox.message((1, 2), (2, 11), (8, "t"), (10, struct.pack("<2d", 1, 2))),
        ox.message((1, 3), (2, 6), (8, "t"), (5, b"\x01\x02\x03")),
        ox.message((1, 3), (2, 6), (8, "t"), (5, 1), (5, 2), (5, -3)),
        ox.message((1, b"\x03"), (2, 6), (8, "t"), (5, b"\x01\x02\x03")),
        ox.message((1, 1), (1, 2), (2, 7), (8, "t"), (7, b"\x01"), (7, 2)),
        ox.message((1, 5), (2, 22), (8, "t"), (5, b"\x21\x43\x05")),  # as onnx.helper packs int4
        ox.tensor("t", (5,), 22, bytes(3)),
        ox.tensor("t", (0, 7), 1, b""),
        ox.message((1, 0), (2, 1), (8, "t")),
        ox.tensor("t", (2,), 1, bytes(8), (14, 0)),
    ],
)
def test_every_way_to_store_a_tensor_is_accepted(tensor):
    check_onnx(with_initializer(tensor))


EXTERNAL = ox.message((1, "location"), (2, "/etc/passwd"))
OUTSIDE = ox.message((1, 1), (2, 1), (8, "t"), (13, EXTERNAL), (14, 1))
SPARSE = ox.message((1, ox.floats("v", (1,), [1.0])), (2, ox.ints("i", (1,), [0])), (3, 4))
SUBGRAPH = ox.graph([ox.node("Identity", ["image"], "x")], [OUTSIDE], [], [ox.value("x", ())])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (with_initializer(OUTSIDE), "external data"),
        (with_initializer(ox.tensor("t", (1,), 1, bytes(4), (14, 1))), "external data"),
        (with_initializer(ox.tensor("t", (1,), 1, bytes(4), (13, EXTERNAL))), "external data"),
        (with_attribute(ox.message((1, "value"), (5, OUTSIDE)), "Constant"), "external data"),
        (ox.model(ox.graph(ox.head(), ox.HEAD, (), (), (15, SPARSE))), "a sparse initializer"),
        (with_attribute(ox.message((1, "sparse_value"), (22, SPARSE))), "a sparse tensor"),
        (with_attribute(ox.message((1, "sparse_values"), (23, SPARSE))), "sparse tensors"),
        (with_attribute(ox.message((1, "then_branch"), (6, SUBGRAPH))), "a subgraph"),
        (with_attribute(ox.message((1, "body"), (11, SUBGRAPH))), "subgraphs"),
        (with_attribute(ox.message((1, "x"), (21, "y"))), "a function's attribute"),
        (with_attribute(ox.message((1, "x"), (10, OUTSIDE))), "unknown field 10"),
        (with_attribute(ox.message((1, "x"), (14, b""))), "unknown field 14"),
        (ox.model(ox.graph(ox.head(), ox.HEAD), (25, ox.message((1, "f")))), "functions"),
        (ox.model(ox.graph(ox.head(), ox.HEAD), (20, b"")), "training information"),
        (ox.model(ox.graph(ox.head(), ox.HEAD), (26, b"")), "a device configuration"),
        (ox.model(ox.graph(ox.head(), ox.HEAD, (), (), (14, b""))), "quantization annotations"),
        (with_initializer(ox.message((3, b""))), "a segmented tensor"),
        (with_initializer(ox.message((6, b"x"))), "strings in a tensor"),
    ],
)
def test_what_bundles_may_not_hold_is_named(data, sentence):
    assert sentence in refused(data)


@pytest.mark.parametrize("field", [4, 5, 8, 9])
def test_inputs_other_than_tensors_are_refused(field):
    value = ox.message((1, "x"), (2, ox.message((field, b""))))
    sentence = refused(ox.model(ox.graph(ox.head(), ox.HEAD, [value])))
    assert sentence.endswith("type, which bundles may not")


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "StringSplit", "Evil", "relu", ""])
def test_an_operator_that_is_not_on_the_list_is_refused(operator):
    assert f"the operator {operator!r}" in refused(with_nodes(ox.node(operator, ["image"], "c")))


@pytest.mark.parametrize("domain", ["evil.example", "ai.onnx.ml", "com.microsoft", " ", "ai.onnx "])
def test_an_operator_of_another_domain_is_refused(domain):
    data = with_nodes(ox.node("Relu", ["image"], "c", domain=domain))
    assert f"the operator '{domain}.Relu'" in refused(data)


def test_an_operator_that_reads_beyond_its_table_is_refused():
    """onnxruntime 1.32 takes any id for it, without an error."""
    data = with_nodes(ox.node("GatherBlockQuantized", ["image"], "c", domain="com.microsoft"))
    assert "'com.microsoft.GatherBlockQuantized', which bundles may not hold" in refused(data)


def test_the_default_domain_has_two_names():
    check_onnx(with_nodes(ox.node("Relu", ["image"], "c", domain="ai.onnx")))


def test_no_operator_with_a_subgraph_is_on_the_list():
    assert not OPERATORS[""] & {"If", "Loop", "Scan", "SequenceMap"}


@pytest.mark.parametrize(
    ("attribute", "allowed"),
    [
        (ox.attribute("pads", [0, 0, MAX_WINDOW, 0]), True),
        (ox.attribute("pads", [MAX_WINDOW + 1, 0, 0, 0]), False),
        (ox.attribute("pads", [1 << 62, 0, 0, 0]), False),
        (ox.attribute("pads", [-1, 0, 0, 0]), False),
        (ox.attribute("pads", [0] * 17), False),
        (ox.attribute("kernel_shape", [MAX_WINDOW + 1, 1]), False),
        (ox.attribute("kernel_shape", [0, 1]), False),
        (ox.attribute("strides", [0, 1]), False),
        (ox.attribute("strides", [1 << 40, 1]), False),
        (ox.attribute("dilations", [0, 1]), False),
        (ox.attribute("dilations", [-1, 1]), False),
        (ox.attribute("group", 0), False),
        (ox.attribute("group", -1), False),
        (ox.attribute("group", 1), True),
        (ox.attribute("group", 1 << 40), False),
        (ox.attribute("axis", -(1 << 31)), True),
        (ox.attribute("axis", 1 << 31), False),
        (ox.attribute("axis", 1 << 63), False),
    ],
)
def test_numbers_are_of_a_size_that_real_networks_have(attribute, allowed):
    data = with_nodes(ox.node("Conv", ["image", "one"], "c", attribute))
    if allowed:
        check_onnx(data)
    else:
        assert refused(data).startswith("Conv has ")


def test_a_constant_may_be_any_integer():
    """Exporters end a slice at the largest one."""
    ends = ox.node("Constant", [], "ends", ox.attribute("value_ints", [(1 << 63) - 1]))
    check_onnx(with_nodes(ends, ox.node("Relu", ["image"], "c")))


@pytest.mark.parametrize(
    ("dims", "raw"),
    [
        ((1 << 62,), b""),
        ((1 << 33, 1 << 33), b""),
        ((1 << 32, 1 << 32), b""),
        ((0, 1 << 62), b""),
        ((1 << 29, 2), b""),
        ((-1,), b""),
        ((-1, -1), bytes(4)),
        ((1,) * 9, bytes(4)),
    ],
)
def test_a_shape_that_overflows_is_refused(dims, raw):
    assert "has the shape" in refused(with_initializer(ox.tensor("t", dims, ox.FLOAT, raw)))


@pytest.mark.parametrize("size", [0, 4, 11, 13, 16, 1000])
def test_more_or_fewer_bytes_than_the_shape_says_are_refused(size):
    tensor = ox.tensor("t", (3,), ox.FLOAT, bytes(size))
    assert "has not as many bytes as its shape says" in refused(with_initializer(tensor))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_more_or_fewer_numbers_than_the_shape_says_are_refused(count):
    tensor = ox.message((1, 3), (2, 1), (8, "t"), (4, bytes(4 * count)))
    assert f"has {count} elements, its shape says 3" in refused(with_initializer(tensor))


@pytest.mark.parametrize("kind", [0, 8, 14, 15, 17, 18, 19, 20, 23, 99, 1 << 32, (1 << 32) + 1, -1])
def test_a_type_of_tensor_that_no_student_has_is_refused(kind):
    tensor = ox.tensor("t", (1,), kind, bytes(4))
    assert "a data type that bundles may not hold" in refused(with_initializer(tensor))


INTEGERS = {
    "an initializer": [ox.node("Div", ["whole", "whole"], "c")],
    "a Cast": [ox.node("Cast", ["image"], "i", ox.attribute("to", 7)), ox.node("Div", "ii", "c")],
    "a Constant": [
        ox.node("Constant", [], "i", ox.attribute("value_int", 1)),
        ox.node("Div", "ii", "c"),
    ],
    "a Constant's tensor": [
        ox.node("Constant", [], "i", ox.message((1, "value"), (5, ox.ints("", (1,), [1])))),
        ox.node("Div", "ii", "c"),
    ],
    "the way through other operators": [
        ox.node("Identity", ["whole"], "i"),
        ox.node("Mul", "ii", "j"),
        ox.node("Where", ["image", "j", "j"], "k"),
        ox.node("Div", "kk", "c"),
    ],
    "indices": [
        ox.message((1, "image"), (2, "m"), (2, "i"), (4, "MaxPool")),
        ox.node("Div", "ii", "c"),
    ],
    "one side only": [ox.node("Div", ["image", "whole"], "c")],
}


@pytest.mark.parametrize("nodes", INTEGERS.values(), ids=INTEGERS)
def test_a_division_of_integers_is_refused(nodes):
    """The least integer divided by −1 ends the process, with no exception to catch."""
    data = with_nodes(*nodes, more=[ox.ints("whole", (1,), [-1])])
    assert "a Div of integers" in refused(data)


def test_a_division_of_an_integer_input_is_refused():
    graph = ox.graph(
        [ox.node("Div", ["image", "image"], "c")], (), [ox.value("image", (1,), ox.INT64)]
    )
    assert "a Div of integers" in refused(ox.model(graph))


def test_a_division_of_floats_is_accepted():
    check_onnx(with_nodes(ox.node("Div", ["image", "one"], "c")))
    cast = ox.node("Cast", ["whole"], "f", ox.attribute("to", ox.FLOAT))
    more = [ox.ints("whole", (1,), [3])]
    check_onnx(with_nodes(cast, ox.node("Div", ["image", "f"], "c"), more=more))


def test_dequantized_integers_are_floats():
    quantized = ox.tensor("q", (64,), ox.INT8, bytes(64))
    nodes = [
        ox.node("DequantizeLinear", ["q", "one"], "f"),
        ox.node("Div", ["image", "f"], "c"),
    ]
    check_onnx(with_nodes(*nodes, more=[quantized]))


def test_a_tensor_that_no_node_before_makes_is_refused():
    assert "nothing before it makes" in refused(with_nodes(ox.node("Relu", ["later"], "c")))


@pytest.mark.parametrize(
    ("opset", "ir"), [(12, 10), (26, 10), (0, 10), (-1, 10), (20, 0), (20, 14)]
)
def test_a_version_that_is_too_old_or_too_new_is_refused(opset, ir):
    assert "is not" in refused(ox.model(ox.graph(ox.head()), opset=opset, ir_version=ir))


@pytest.mark.parametrize("graphs", [0, 2])
def test_a_model_has_one_graph(graphs):
    data = ox.message((1, 10), *((7, ox.graph(ox.head(), ox.HEAD)) for _ in range(graphs)))
    assert "graph" in refused(data)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (ox.plain() + ox.message((1, 10)), "ModelProto.ir_version"),
        (with_initializer(ox.message((2, 1), (2, 1))), "TensorProto.data_type"),
        (
            with_initializer(ox.tensor("t", (1,), 1, bytes(4), (9, bytes(4)))),
            "TensorProto.raw_data",
        ),
        (with_attribute(ox.message((1, "x"), (5, SCALAR), (5, SCALAR))), "AttributeProto.t"),
        (with_attribute(ox.message((1, "x"), (1, "pads"))), "AttributeProto.name"),
        (with_nodes(ox.message((4, "Relu"), (4, "Loop"))), "NodeProto.op_type"),
        (with_nodes(ox.message((4, "Relu"), (7, ""), (7, "evil"))), "NodeProto.domain"),
    ],
)
def test_a_field_that_protobuf_would_merge_or_overrule_stands_once(data, where):
    assert refused(data) == f"the model's {where} stands twice"


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of more than 64 bits
        b"\x08" + b"\x80" * 2000,  # a number that never ends
        b"\x80" * 2000,
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GiB
        b"\x3a\x05\x00",
        b"\x0b\x0c",  # a group (wire types 3 and 4)
        b"\x0c",
        b"\x0e",  # wire types 6 and 7 do not exist
        b"\x0f",
        b"\x0d\x00\x00\x00\x00",  # ir_version as 32 bits
        b"\x09" + bytes(8),  # ir_version as 64 bits
        b"\x0a\x01\x0a",  # ir_version packed
        b"\x00\x00",  # field 0
        b"\x38\x01",  # a graph that is a number
        ox.message((1, 10), (99, b"")),
        ox.message((1, 10), (99, 1)),
        ox.message((1 << 28, 1)),
    ],
)
def test_protobuf_that_is_none_is_refused(data):
    assert refused(data).startswith("the model")


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 100, 1000])
def test_a_truncated_model_is_refused(cut):
    refused(ox.plain()[:-cut])


def test_names_are_utf_8():
    bad = b"\xff\xfe"
    assert "ValueInfoProto.name is not UTF-8" in refused(
        ox.model(ox.graph(ox.head(), ox.HEAD, [ox.message((1, bad))]))
    )
    symbolic = ox.value("image", (bad, 1, 8, 8))
    assert "Dimension.dim_param is not UTF-8" in refused(
        ox.model(ox.graph(ox.head(), ox.HEAD, [symbolic]))
    )
    assert "not UTF-8" in refused(with_nodes(ox.message((4, bad))))


def nested(field, depth):
    data = b""
    for _ in range(depth):
        data = ox.message((field, data))
        if len(data) > 1 << 20:
            break
    return data


@pytest.mark.parametrize("field", [7, 1, 5, 6, 11, 25, 99])
def test_nesting_has_nothing_to_recurse_into(field):
    refused(ox.message((7, nested(field, 3000))))
    refused(nested(field, 3000))


def test_a_model_of_too_many_fields_is_refused():
    nodes = ox.message((1, b"")) * (MAX_FIELDS + 1)
    assert f"more than {MAX_FIELDS} protobuf fields" in refused(ox.message((7, nodes)))
    dims = ox.message((1, b"\x01" * (MAX_FIELDS + 1)))
    assert f"more than {MAX_FIELDS} protobuf fields" in refused(with_initializer(dims))
