"""How much noise int8 adds to each layer of a network, measured in one pass over samples.

Every layer, with the nodes behind it up to the next layer, is computed four times on the true
activations: as it is, with its input quantized, with its weights, and with what it computes.  What
the answers are off by, over the size of the true one, is its noise.  Nothing is said of what later
layers make of it: an evaluation has to confirm that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.float32]
Ranges = dict[str, tuple[Array, NDArray[np.uint8]]]
"""Scale and zero point of tensors by name."""
_WEIGHT_AT = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
LEAST = 1e-30
_KINDS = _SIGNAL, _INPUT, _WEIGHTS, _INSIDE = "signal", "input", "weights", "inside"


@dataclass(frozen=True)
class Layer:
    """A node with weights, and what depends on it alone."""

    name: str
    """Of its weights' module, such as blocks.0.0; the node's own where the file has lost that."""
    node: str
    nodes: tuple[str, ...]
    """The nodes that have to stay float32 with it."""
    before: tuple[str, ...]
    """Nodes of the layers that its input comes from."""
    input_noise: float
    """Mean square of what quantizing the input changes, over that of the answer."""
    weight_noise: float
    inside_noise: float
    """Of quantizing what the layer computes."""

    @property
    def noise(self) -> float:
        return self.input_noise + self.weight_noise + self.inside_noise

    @property
    def kept(self) -> tuple[str, ...]:
        """Nodes to keep float32 so that the largest noise is gone: an input is float32 only if what
        makes it is."""
        by_input = self.input_noise > max(self.weight_noise, self.inside_noise)
        return (*self.nodes, *self.before) if by_input else self.nodes


def sensitivities(
    model: bytes,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    operators: Collection[str],
    int8: bytes | None = None,
) -> list[Layer]:
    """The layers of a float32 model, the one with most noise first.

    operators: those that are quantized where they have weights.  int8: the model as static QDQ,
    whose ranges are used; without it each call has its own.
    """
    import onnx

    proto = onnx.load_from_string(model)
    graph = _Graph(proto, operators)
    ranges = None if int8 is None else _ranges(onnx.load_from_string(int8))
    nodes = [node for node in proto.graph.node if graph.is_layer(node)]
    power = _measure(proto, graph, nodes, ranges, feeds)

    def layer(place: int, node: onnx.NodeProto) -> Layer:
        signal = max(power[place, _SIGNAL], LEAST)
        static = ranges is not None
        return Layer(
            graph.name(node),
            node.name,
            tuple(graph.follow(node)) if static else (node.name,),
            tuple(graph.precede(node)) if static else (),
            *(power[place, kind] / signal for kind in (_INPUT, _WEIGHTS, _INSIDE)),
        )

    return sorted((layer(i, node) for i, node in enumerate(nodes)), key=lambda x: -x.noise)


class _Graph:
    """Who makes a tensor and who takes it."""

    def __init__(self, model: onnx.ModelProto, operators: Collection[str]) -> None:
        from onnx import numpy_helper

        self.operators = operators
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.constants = {t.name: t for t in model.graph.initializer}
        self.array = numpy_helper.to_array
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.takers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def is_layer(self, node: onnx.NodeProto) -> bool:
        """Whether it has weights, and is among the operators."""
        if node.op_type not in self.operators:
            return False
        tensor = self.constants.get(node.input[_WEIGHT_AT[node.op_type]])
        return tensor is not None and len(tensor.dims) > 1

    def weight(self, node: onnx.NodeProto) -> Array:
        weight: Array = self.array(self.constants[node.input[_WEIGHT_AT[node.op_type]]])
        return weight

    def name(self, node: onnx.NodeProto) -> str:
        after = [name for out in node.output for n in self.takers.get(out, ()) for name in n.input]
        for name in (*node.input, *after):
            module, dot, last = name.rpartition(".")
            if dot and name in self.constants and last in ("weight", "bias"):
                return str(module)
        return str(node.name)

    def follow(self, node: onnx.NodeProto) -> list[str]:
        """The node and those behind it, up to the next layers."""
        return [node.name, *(each.name for each in self.behind(node))]

    def behind(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Those that follow, in the graph's order."""
        found, rest = set[str](), [n for out in node.output for n in self.takers.get(out, ())]
        while rest:
            next_ = rest.pop()
            if next_.name not in found and not self.is_layer(next_):
                found.add(next_.name)
                rest += [n for out in next_.output for n in self.takers.get(out, ())]
        return [each for each in self.nodes if each.name in found]

    def ends(self, nodes: list[onnx.NodeProto]) -> list[str]:
        """The tensors that others take from these nodes."""
        own = {each.name for each in nodes}
        made = [name for each in nodes for name in each.output]
        return [
            name
            for name in made
            if name in self.outputs or any(n.name not in own for n in self.takers.get(name, ()))
        ]

    def precede(self, node: onnx.NodeProto) -> list[str]:
        """Nodes of the layers that the node's input comes from."""
        found: list[str] = []
        rest = [self.maker[name] for name in node.input if name in self.maker]
        while rest:
            before = rest.pop()
            if before.name in found:
                continue
            if self.is_layer(before):
                found += [name for name in self.follow(before) if name not in found]
            else:
                rest += [self.maker[name] for name in before.input if name in self.maker]
        return found


def _ranges(int8: onnx.ModelProto) -> Ranges:
    """Scale and zero point of each quantized tensor of a QDQ model, by name; constants too."""
    from onnx import numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in int8.graph.initializer}
    return {
        name.removesuffix("_scale"): (scale, constants[name.removesuffix("_scale") + "_zero_point"])
        for name, scale in constants.items()
        if name.endswith("_scale") and name.removesuffix("_scale") + "_zero_point" in constants
    }


def _measure(
    model: onnx.ModelProto,
    graph: _Graph,
    layers: list[onnx.NodeProto],
    ranges: Ranges | None,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
) -> dict[tuple[int, str], float]:
    """Sums of squares by layer: of its answer, and of its errors."""
    import onnxruntime as ort

    probe = _Probe(model, ranges)
    for i, node in enumerate(layers):
        behind = [] if ranges is None else graph.behind(node)
        ends = graph.ends([node, *behind])
        for name in ends:
            probe.square(name, (i, _SIGNAL))
        data, at = node.input[0], _WEIGHT_AT[node.op_type]
        if node.op_type != "Gather" and probe.is_rounded(data):
            made = probe.copies([node, *behind], {data: probe.rounded(data, data)})
            probe.differences(made, ends, (i, _INPUT))
        weights = probe.constant(rounded_weight(node, graph.weight(node)))
        made = probe.copies([node, *behind], {node.input[at]: weights})
        probe.differences(made, ends, (i, _WEIGHTS))
        if ranges is not None:
            inside = {name: probe.rounded(name, name) for name in node.output if name in ranges}
            made = probe.copies(behind, inside, rounding=True)
            probe.differences(made, ends, (i, _INSIDE))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    total = {(i, kind): 0.0 for i in range(len(layers)) for kind in _KINDS}
    for feed in feeds:
        values = session.run(list(probe.outputs), feed)
        for key, value in zip(probe.outputs.values(), values, strict=True):
            total[key] += float(value)
    return total


class _Probe:
    """Adds to a model what measures its layers."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges | None) -> None:
        self.model, self.ranges, self.count = model, ranges, 0
        self.outputs: dict[str, tuple[int, str]] = {}
        del model.graph.output[:]

    def constant(self, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._name()
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def square(self, tensor: str, key: tuple[int, str]) -> None:
        """The sum of a tensor's squares becomes an output."""
        import onnx

        (name,) = self._add("ReduceSumSquare", [tensor], keepdims=0)
        self.model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [])
        )
        self.outputs[name] = key

    def differences(
        self, made: Mapping[str, str], tensors: Iterable[str], key: tuple[int, str]
    ) -> None:
        """The squares of what these tensors' copies are off by."""
        for name in tensors:
            if name in made:
                (off,) = self._add("Sub", [made[name], name])
                self.square(off, key)

    def copies(
        self, nodes: Iterable[onnx.NodeProto], changed: Mapping[str, str], rounding: bool = False
    ) -> dict[str, str]:
        """The nodes again with other inputs.  -> copies of tensors by name

        rounding: whether their outputs are quantized too.
        """
        made = dict(changed)
        for node in nodes:
            copy = self.model.graph.node.add()
            copy.CopyFrom(node)
            copy.name = self._name()
            copy.input[:] = [made.get(name, name) for name in node.input]
            copy.output[:] = [self._name() for _ in node.output]
            for name, other in zip(node.output, copy.output, strict=True):
                to_round = rounding and self.is_rounded(name)
                made[name] = self.rounded(other, name) if to_round else other
        return made

    def is_rounded(self, tensor: str) -> bool:
        return self.ranges is None or tensor in self.ranges

    def rounded(self, tensor: str, like: str) -> str:
        """The tensor as uint8 has it, with the range of `like`, or of the call."""
        if self.ranges is None:
            quantized, scale, zero = self._add("DynamicQuantizeLinear", [tensor], outputs=3)
        else:
            scale, zero = (self.constant(each) for each in self.ranges[like])
            (quantized,) = self._add("QuantizeLinear", [tensor, scale, zero])
        (made,) = self._add("DequantizeLinear", [quantized, scale, zero])
        return made

    def _add(
        self, operator: str, inputs: list[str], outputs: int = 1, **attributes: Any
    ) -> list[str]:
        import onnx

        names = [self._name() for _ in range(outputs)]
        self.model.graph.node.append(
            onnx.helper.make_node(operator, inputs, names, self._name(), **attributes)
        )
        return names

    def _name(self) -> str:
        self.count += 1
        return f"probe:{self.count}"


def rounded_weight(node: onnx.NodeProto, weight: Array) -> Array:
    """A layer's weights as int8 has them: a scale a channel or column, one for a table."""
    if node.op_type == "Gather":
        low, high = min(0.0, float(weight.min())), max(0.0, float(weight.max()))
        scale = max((high - low) / 255, LEAST)
        return ((weight / scale).round() * scale).astype(np.float32)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(others, keepdims=True) / 127, LEAST)
    rounded: Array = ((weight / scales).round() * scales).astype(np.float32)
    return rounded
