"""What a TFLite model may hold, tried on models that somebody made to be wrong."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from tests.runtime import tflite_bytes as tb
from tests.runtime import tflite_nets as nets
from tests.runtime.tflite_bytes import INT8, INT32, Graph, Quant, Table, Vector

from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.tflitecheck import RULES, check_tflite


def refusal(data: bytes) -> str:
    """The one sentence with which a file is refused; nothing if it is not."""
    said = ""
    try:
        check_tflite(data)
    except BundleError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000
    return said


def one(op, inputs, shape, options=None, **named):
    """A graph of one operator: inputs are shapes, or arrays of constants."""
    g = Graph()
    places = [
        g.input(each) if isinstance(each, tuple) else g.constant(each) if each is not None else -1
        for each in inputs
    ]
    if not g.inputs:
        g.input((1, 1))
    g.outputs = [g.add(op, places, shape, options, **named)]
    return g


def ints(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("name", nets.FILES)
def test_real_networks_are_allowed(name):
    assert refusal(nets.FILES[name]()) == ""


def test_what_goes_in_and_comes_out_is_known():
    (entry,) = check_tflite(nets.cnn().bytes()).entries
    assert [(p.name, p.dtype, p.shape) for p in entry.inputs] == [
        ("image", "float32", (1, 8, 8, 1))
    ]
    assert [(p.name, p.dtype, p.shape) for p in entry.outputs] == [("logits", "float32", (1, 10))]
    assert entry.last == "FULLY_CONNECTED"
    (entry,) = check_tflite(nets.bag_of_words().bytes()).entries
    assert (entry.inputs[0].dtype, entry.inputs[0].shape) == ("int32", (1, -1))


def test_names_are_those_of_the_signature():
    g = nets.cnn()
    g.signature = {"key": "serving_default", "inputs": ["pixels"], "outputs": ["scores"]}
    (entry,) = check_tflite(g.bytes()).entries
    assert (entry.inputs[0].name, entry.outputs[0].name) == ("pixels", "scores")


def test_graphs_for_several_lengths_come_the_shortest_first():
    entries = check_tflite(nets.of_lengths(8, 4, 16)).entries
    assert [entry.key for entry in entries] == ["tokens_4", "tokens_8", "tokens_16"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a TFLite file"),
        (b"TFL3", "not a TFLite file"),
        (b"\x10\0\0\0TFL2" + bytes(40), "not a TFLite file"),
        (b"PK\x03\x04" + bytes(60), "not a TFLite file"),
        (struct.pack("<I", 0) + b"TFL3" + bytes(8), "damaged"),
        (struct.pack("<I", 1 << 31) + b"TFL3" + bytes(8), "damaged"),
    ],
)
def test_another_file_is_refused(data, words):
    assert words in refusal(data)


@pytest.mark.parametrize("name", nets.FILES)
def test_every_truncation_is_refused(name):
    whole = nets.FILES[name]()
    wrong = [size for size in range(len(whole)) if not refusal(whole[:size])]
    assert [size for size in wrong if size < len(whole) - 8] == []  # the padding of the last list


@pytest.mark.parametrize("name", nets.FILES)
def test_references_to_anywhere_are_refused_or_harmless(name):
    """Numbers in turn point to the end, behind it, to themselves, or round the world."""
    whole = nets.FILES[name]()
    refused = 0
    for at in range(0, len(whole) - 4, 4 if len(whole) < 3000 else 12):
        for value in (0, len(whole) - at, 0x7FFFFFFF, 0xFFFFFFFC):
            altered = bytearray(whole)
            struct.pack_into("<I", altered, at, value & 0xFFFFFFFF)
            refused += bool(refusal(bytes(altered)))
    assert refused > len(whole) / 12


@pytest.mark.parametrize("name", nets.FILES)
def test_two_thousand_random_changes_are_refused_or_allowed(name):
    whole, chance = nets.FILES[name](), random.Random(5)
    refused = 0
    for _ in range(2000):
        altered = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            altered[chance.randrange(len(whole))] = chance.choice((0, 1, 127, 128, 255))
        refused += bool(refusal(bytes(altered)))
    assert refused > 500


# --- tables and fields


def changed(fields):
    g = nets.cnn()
    g.more = fields
    return g.bytes()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({0: ("I", 2)}, "version is 2"),
        ({2: Vector([])}, "no graph"),
        ({4: Vector([])}, "a buffer that is not there"),
        ({8: Vector([])}, "external buffer groups"),
        ({9: Vector([])}, "external buffers"),
        ({12: ("I", 1)}, "unknown field"),
        ({1: Vector([])}, "a kind that is not there"),
        ({5: tb.numbers("i", [99])}, "a buffer that is not there"),
        ({6: Vector([Table({0: "x", 1: ("I", 99)})])}, "a buffer that is not there"),
        ({6: Vector([Table({1: ("I", 0)})])}, "without a name"),
        ({3: "x" * 5000}, "damaged: a text"),
        ({2: Vector([Table({})])}, "without inputs"),
    ],
)
def test_a_model_with_other_fields_is_refused(fields, words):
    assert words in refusal(changed(fields))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (1, ("b", 5), "data type"),  # text
        (1, ("b", 13), "data type"),  # a resource
        (0, tb.numbers("i", [4, 3, 3, -1]), "has the shape"),
        (0, tb.numbers("i", [4, 3, 3, 0]), "has the shape"),
        (0, tb.numbers("i", [1 << 30, 1 << 30]), "has the shape"),
        (0, tb.numbers("i", [1] * 6), "numbers as shape"),
        (0, tb.numbers("i", [4, 3, 3, 2]), "not as many bytes"),
        (0, tb.numbers("i", [4, 3, 1, 3]), "channels"),
        (2, ("I", 0), "nothing before it makes"),
        (2, ("I", 77), "a buffer that is not there"),
        (5, ("?", True), "is variable"),
        (6, Table({}), "sparsity"),
        (7, tb.numbers("i", [4, 3, 3, 7]), "second shape"),
        (9, Vector([]), "variant tensors"),
        (10, ("I", 3), "external buffer"),
        (4, Table({4: ("B", 1), 5: Table({})}), "details"),
        (4, Quant(0.5).table(), "quantization"),  # of floats
    ],
)
def test_a_tensor_with_other_fields_is_refused(field, value, words):
    g = nets.cnn()
    g.tensors[0][field] = value  # the weights of the first convolution
    assert words in refusal(g.bytes())


@pytest.mark.parametrize(
    ("quant", "words"),
    [
        (Quant(float("nan")), "quantization"),
        (Quant(0.0), "quantization"),
        (Quant(-1.0), "quantization"),
        (Quant(float("inf")), "quantization"),
        (Quant(1.0, 300), "quantization"),
        (Quant([1.0, 1.0], 0), "quantization"),
        (Quant([1.0] * 4, 0, 9), "quantization"),
        (Quant([1.0] * 4, 3), "quantization"),
        (None, "without scales"),
    ],
)
def test_weights_with_other_scales_are_refused(quant, words):
    g = nets.int8_cnn()
    place = next(i for i, t in enumerate(g.tensors) if t[1] == ("b", INT8) and t[2] != ("I", 0))
    g.tensors[place][4] = quant.table() if quant else None
    assert words in refusal(g.bytes())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({1: ("Q", 4096), 2: ("Q", 16)}, "offset"),
        ({}, "nothing before it makes"),
        ({0: Vector(b"", 1)}, "nothing before it makes"),
        ({0: Vector(b"\0" * 143, 1, 16)}, "not as many bytes"),
    ],
)
def test_a_buffer_that_is_not_the_tensors_is_refused(data, words):
    g = nets.cnn()
    g.buffers[1] = data
    assert words in refusal(g.bytes())


# --- operators


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (32, "CUSTOM"),
        (51, "DELEGATE"),
        (118, "IF"),
        (119, "WHILE"),
        (129, "CALL_ONCE"),
        (206, "STABLEHLO_COMPOSITE"),
        (107, "GATHER_ND"),
        (142, "number 142"),
        (5000, "number 5000"),
    ],
)
def test_an_operator_that_is_not_on_the_list_is_refused(code, words):
    said = refusal(one(code, [(1, 4)], (1, 4)).bytes())
    assert words in said
    assert "bundles may not hold" in said


def test_every_operator_has_a_highest_version():
    for code, rule in RULES.items():
        assert f"version {rule.versions + 1} of {rule.name}" in refusal(
            one(code, [(1, 4)] * rule.inputs[0], (1, 4), version=rule.versions + 1).bytes()
        )


def test_an_operator_by_a_name_is_refused():
    g = nets.cnn()
    g.more = {1: Vector([Table({0: ("b", 3), 1: "anything", 3: ("i", 3)})])}
    assert "custom code" in refusal(g.bytes())


def test_two_numbers_for_one_operator_are_refused():
    """Engines of different ages would read another one."""
    g = nets.cnn()
    g.more = {
        1: Vector([Table({0: ("b", 0), 3: ("i", 3)})] * 1 + [Table({0: ("b", 9), 3: ("i", 3)})])
    }
    assert "numbers for the operator" in refusal(g.bytes())


CONV = dict(tb.conv()[1])
POOL = dict(tb.pool(2)[1])
WRONG = {
    "a convolution without options": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        None,
        "window",
    ),
    "no steps": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        (1, CONV | {1: ("i", 0)}),
        "window of",
    ),
    "steps backwards": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        (1, CONV | {2: ("i", -1)}),
        "window of",
    ),
    "a wide dilation": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        (1, CONV | {0: ("b", 1), 4: ("i", 4000)}),
        "window of 3 on 8",
    ),
    "another padding": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        (1, CONV | {0: ("b", 7)}),
        "padding",
    ),
    "another activation": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        (1, CONV | {3: ("b", 99)}),
        "activation",
    ),
    "options of another operator": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(4)],
        tb.pool(2),
        "options of another",
    ),
    "other channels": (
        "CONV_2D",
        [(1, 8, 8, 2), nets.CNN["stem"], np.ones(4)],
        tb.conv(),
        "channels",
    ),
    "too many biases": (
        "CONV_2D",
        [(1, 8, 8, 1), nets.CNN["stem"], np.ones(5)],
        tb.conv(),
        "biases",
    ),
    "a vector for an image": (
        "CONV_2D",
        [(8,), nets.CNN["stem"], np.ones(4)],
        tb.conv(),
        "no images",
    ),
    "one input too few": ("CONV_2D", [(1, 8, 8, 1)], tb.conv(), "has 1 inputs"),
    "no data": ("CONV_2D", [None, nets.CNN["stem"], np.ones(4)], tb.conv(), "are not there"),
    "a convolution without biases": (
        "DEPTHWISE_CONV_2D",
        [(1, 8, 8, 4), nets.CNN["depthwise"]],
        tb.depthwise(),
        "has 2 inputs",
    ),
    "a pool without a window": (
        "MAX_POOL_2D",
        [(1, 8, 8, 1)],
        (5, POOL | {3: ("i", 0)}),
        "window of",
    ),
    "a pool beyond the image": ("AVERAGE_POOL_2D", [(1, 8, 8, 1)], tb.pool(9), "on 8"),
    "another matrix": ("FULLY_CONNECTED", [(1, 8), np.ones((4, 7))], tb.FULLY_CONNECTED, "multipl"),
    "a cube for a matrix": ("FULLY_CONNECTED", [(1, 8), np.ones((4, 8, 1))], None, "dimensions"),
    "shuffled weights": (
        "FULLY_CONNECTED",
        [(1, 8), np.ones((4, 8))],
        (8, {1: ("b", 1)}),
        "shuffled",
    ),
    "an axis that is not there": ("MEAN", [(1, 8), ints(2)], tb.KEEP_DIMS, "axis 2 of 2"),
    "an axis far below": ("MEAN", [(1, 8), ints(-(1 << 31))], tb.KEEP_DIMS, "axis"),
    "a computed axis": ("MEAN", [(1, 8), (1,)], tb.KEEP_DIMS, "of type float32"),
    "another number of elements": ("RESHAPE", [(1, 8), ints(1, 9)], tb.RESHAPE, "makes [1, 9]"),
    "two open sizes": ("RESHAPE", [(1, 8), ints(-1, -1)], tb.RESHAPE, "makes"),
    "a huge shape": ("RESHAPE", [(1, 8), ints(1 << 30, 1 << 30)], tb.RESHAPE, "makes"),
    "no shape": ("RESHAPE", [(1, 8)], None, "says no shape"),
    "not an order": ("TRANSPOSE", [(1, 8), ints(0, 0)], (26, {}), "order"),
    "an order of more": ("TRANSPOSE", [(1, 8), ints(0, 1, 2)], (26, {}), "order"),
    "a row that is not there": ("GATHER", [np.ones((4, 8)), ints(4)], (23, {}), "not there"),
    "a row before the first": ("GATHER", [np.ones((4, 8)), ints(-1)], (23, {}), "not there"),
    "rows by real numbers": ("GATHER", [np.ones((4, 8)), (1,)], (23, {}), "of type float32"),
    "batches": ("GATHER", [np.ones((4, 8)), ints(0)], (23, {1: ("i", 9)}), "batches"),
    "a cut beyond the end": ("SLICE", [(1, 8), ints(0, 1), ints(1, 8)], (48, {}), "reaches out"),
    "a cut before the start": ("SLICE", [(1, 8), ints(0, -1), ints(1, 8)], (48, {}), "reaches out"),
    "no step": (
        "STRIDED_SLICE",
        [(1, 8), ints(0, 0), ints(1, 8), ints(1, 0)],
        (32, {}),
        "step 0",
    ),
    "nothing left": (
        "STRIDED_SLICE",
        [(1, 8), ints(0, 8), ints(1, 8), ints(1, 1)],
        (32, {}),
        "leaves nothing",
    ),
    "a negative padding": ("PAD", [(1, 8), np.full((2, 2), -1, np.int32)], (22, {}), "paddings"),
    "a padding for more": ("PAD", [(1, 8), np.ones((3, 2), np.int32)], (22, {}), "paddings"),
    "sizes that do not match": ("ADD", [(1, 8), (1, 7)], tb.ADD, "shapes"),
    "more than four dimensions": ("ADD", [(2, 1, 1, 1, 8), (1, 8)], tb.ADD, "5 dimensions"),
    "text and numbers": ("ADD", [(1, 8), ints(1)], tb.ADD, "of type int32"),
    "a division of integers": ("DIV", [ints(1), ints(0)], (29, {}), "of type int32"),
    "matrices that do not match": ("BATCH_MATMUL", [(1, 2, 3), (1, 2, 3)], (101, {}), "multiplies"),
    "a softmax of a number": ("SOFTMAX", [()], tb.SOFTMAX, "single number"),
    "a softmax of no warmth": ("SOFTMAX", [(1, 8)], (9, {0: ("f", 0.0)}), "beta"),
    "a softmax of not a number": ("SOFTMAX", [(1, 8)], (9, {0: ("f", float("nan"))}), "beta"),
    "a dimension that is not one": (
        "SQUEEZE",
        [(1, 8)],
        (30, {0: tb.numbers("i", [1])}),
        "not one",
    ),
    "another count": ("PACK", [(1, 8), (1, 8)], (59, {0: ("i", 3)}), "other inputs"),
    "uneven parts": ("SPLIT", [ints(1), (1, 7)], (35, {0: ("i", 2)}), "outputs"),
    "an unknown option": ("ADD", [(1, 8), (1, 8)], (11, {7: ("i", 1)}), "unknown field"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_operator_that_would_read_or_write_elsewhere_is_refused(name):
    op, inputs, options, words = WRONG[name]
    assert words in refusal(one(op, inputs, (1, 8), options).bytes())


def test_a_result_of_another_shape_than_computed_is_refused():
    g = nets.cnn()
    g.tensors[g.outputs[0]][0] = tb.numbers("i", [1, 11])
    assert "makes [1, 10], and the file says [1, 11]" in refusal(g.bytes())


def test_a_result_of_another_type_is_refused():
    g = nets.cnn()
    g.tensors[g.outputs[0]][1] = ("b", INT32)
    assert "FULLY_CONNECTED makes float32" in refusal(g.bytes())


@pytest.mark.parametrize(
    ("op", "options", "scale"),
    [("ADD", tb.ADD, 1e-8), ("SUB", (28, {}), 1e-8), ("SQUARED_DIFFERENCE", (76, {}), 1e-8)],
)
def test_scales_at_which_engines_end_the_process_are_refused(op, options, scale):
    g = Graph()
    x = g.input((1, 8))
    x = g.add("QUANTIZE", [x], (1, 8), (89, {}), INT8, Quant(0.02))
    x = g.add(op, [x, x], (1, 8), options, INT8, Quant(scale), version=2)
    g.outputs = [g.add("DEQUANTIZE", [x], (1, 8), (38, {}), version=2)]
    assert "scales too far apart" in refusal(g.bytes())


# --- the order of things


def test_a_cycle_is_refused():
    g = Graph()
    x = g.input((1, 4))
    later = g.tensor((1, 4))
    first = g.add("ADD", [x, later], (1, 4), tb.ADD)
    g.operator("ABS", [first], [later])
    g.outputs = [first]
    assert "nothing before it makes" in refusal(g.bytes())


def test_an_operator_that_feeds_itself_is_refused():
    g = Graph()
    g.input((1, 4))
    out = g.tensor((1, 4))
    g.operator("ABS", [out], [out])
    g.outputs = [out]
    assert "nothing before it makes" in refusal(g.bytes())


def test_a_tensor_that_is_made_twice_is_refused():
    g = Graph()
    x = g.input((1, 4))
    out = g.add("ABS", [x], (1, 4))
    g.operator("NEG", [x], [out])
    g.outputs = [out]
    assert "there already" in refusal(g.bytes())


def test_writing_over_the_input_or_a_constant_is_refused():
    for constant in (False, True):
        g = Graph()
        x = g.input((1, 4))
        target = g.constant(np.ones((1, 4))) if constant else x
        g.operator("ABS", [x], [target])
        g.outputs = [g.add("NEG", [x], (1, 4))]
        assert "there already" in refusal(g.bytes())


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("places", [[], [99], [-1], [0, 0]])
def test_a_graph_with_strange_ends_is_refused(side, places):
    g = nets.cnn()
    setattr(g, side, places)
    assert refusal(g.bytes())


def test_an_output_that_is_a_constant_is_refused():
    g = nets.cnn()
    g.outputs = [0]
    assert "no operator makes" in refusal(g.bytes())


def test_tensors_of_gibibytes_are_refused():
    g = Graph()
    x = g.input((1, 1))
    for _ in range(3):
        x = g.add(
            "BROADCAST_TO", [x, g.constant(ints(1 << 13, 1 << 14))], (1 << 13, 1 << 14), (104, {})
        )
    g.outputs = [g.add("SUM", [x, g.constant(ints(0, 1))], (), tb.DROP_DIMS)]
    assert "bytes of tensors" in refusal(g.bytes())


def test_another_length_is_looked_at_too():
    """The file is right for its own length, and no other would do."""
    g = Graph()
    ids = g.input((1, 4), INT32, open_shape=(1, -1))
    x = g.add("GATHER", [g.constant(nets.TABLE), ids], (1, 4, nets.WIDTH), (23, {}))
    x = g.add("RESHAPE", [x, g.constant(ints(4, nets.WIDTH))], (4, nets.WIDTH), tb.RESHAPE)
    g.outputs = [g.add("SUM", [x, g.constant(ints(0))], (nets.WIDTH,), tb.DROP_DIMS)]
    assert "RESHAPE makes [4, 8]" in refusal(g.bytes())


# --- several graphs


@pytest.mark.parametrize(
    ("lengths", "keys", "words"),
    [
        ((4, 8), ("tokens_4", "other"), "several are for texts"),
        ((4, 8), ("tokens_4", "tokens_9"), "does not take int32 [1, 9]"),
        ((4, 4), (), "two graphs for one length"),
        ((4, 8), ("", ""), "several are for texts"),
    ],
)
def test_graphs_that_are_not_for_several_lengths_are_refused(lengths, keys, words):
    assert words in refusal(nets.of_lengths(*lengths, keys=keys))


@pytest.mark.parametrize(
    "signature",
    [
        {"key": "a", "inputs": ["image"], "outputs": []},
        {"key": "a", "inputs": [], "outputs": ["logits"]},
    ],
)
def test_a_signature_that_leaves_tensors_out_is_refused(signature):
    g = nets.cnn()
    maps = [
        Vector(
            [
                Table({0: name, 1: ("I", place)})
                for name, place in zip(signature[side], at, strict=False)
            ]
        )
        for side, at in (("inputs", g.inputs), ("outputs", g.outputs))
    ]
    g.more = {7: Vector([Table({0: maps[0], 1: maps[1], 2: "a", 4: ("I", 0)})])}
    assert "a signature with other" in refusal(g.bytes())
