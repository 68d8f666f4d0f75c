"""Fake quantization: a network in float that rounds as its int8 file will, and learns with that.

Weights are rounded to int8, with a scale an output channel (a row, for an embedding table), and the
inputs of layers to uint8.  Static: with a range that follows what training sees, and that the
file takes over.  Dynamic: with the range of the sample at hand, as the file does.  Rounding passes
gradients on as they are, and clipping stops them (Jacob et al. 2018, section 3,
https://arxiv.org/abs/1712.05877).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, parametrize

from edgedistill.samples import Inputs

MOMENTUM = 0.99
"""Of a range that follows the ranges of batches."""
LEAST = 1e-12
_INT8, _UINT8 = 127, 255
LAYERS = {
    "static": (nn.Conv1d, nn.Conv2d, nn.Linear),
    "dynamic": (nn.Linear, nn.Embedding),
}
"""What int8 means for a network, by its family's `quantization`."""


def fake_quantized(module: nn.Module, quantization: str) -> nn.Module:
    """A copy of a trained module whose layers round their weights and inputs.

    Batch norms right behind a convolution, in an nn.Sequential, are folded into it.  Paths of
    modules stay as they are.
    """
    network = folded(module)
    for layer in _layers(network, LAYERS[quantization]):
        parametrize.register_parametrization(layer, "weight", RoundedWeights())
        if not isinstance(layer, nn.Embedding):
            layer.input_range = LearnedRange() if quantization == "static" else SampleRange()
            layer.register_forward_pre_hook(_round_input)
    return network.eval()


def observe(network: nn.Module, batches: Iterable[Inputs]) -> None:
    """Let learned ranges begin where these batches, on the network's device, have them."""
    network.eval()
    for _, learned in _learned(network):
        learned.train()
    with torch.no_grad():
        for inputs in batches:
            network(*inputs)
    network.eval()


def plain(network: nn.Module, original: nn.Module) -> nn.Module:
    """The network as it is exported: with the weights that were learned, and no rounding.

    original: the module that `fake_quantized` made it from.
    """
    found = folded(original)
    state = {
        name.replace(".parametrizations.weight.original", ".weight"): value
        for name, value in network.state_dict().items()
        if ".input_range." not in name
    }
    found.load_state_dict(state)
    return found


def learned_ranges(network: nn.Module) -> dict[str, tuple[float, int]]:
    """Scale and zero point of the input of each layer that has learned one, by the layer's path."""
    found = {}
    for path, learned in _learned(network):
        scale, zero = learned.step()
        found[path.removesuffix(".input_range")] = (float(scale), int(zero))
    return found


def folded(module: nn.Module) -> nn.Module:
    """A copy in which batch norms behind a convolution have become part of it."""
    network = copy.deepcopy(module).eval()
    for block in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for place in range(len(block) - 1):
            first, second = block[place], block[place + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                block[place] = fuse_conv_bn_eval(first, second)
                block[place + 1] = nn.Identity()
    return network


class RoundedWeights(nn.Module):
    """Weights as int8 has them, -127 to 127, with a scale for each of the first axis."""

    def forward(self, weight: Tensor) -> Tensor:
        axes = tuple(range(1, weight.ndim))
        scale = (weight.detach().abs().amax(axes, keepdim=True) / _INT8).clamp_min(LEAST)
        return _straight(weight, (weight / scale).round() * scale)


class LearnedRange(nn.Module):
    """Rounds to uint8 over a range that, in training, follows what it sees."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                low, high = values.amin().clamp_max(0), values.amax().clamp_min(0)
                keep = torch.where(self.high > self.low, MOMENTUM, 0.0)
                self.low.mul_(keep).add_((1 - keep) * low)
                self.high.mul_(keep).add_((1 - keep) * high)
        return _uint8(values, *self.step())

    def step(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point; zero is one of the numbers."""
        return _step(self.low, self.high)


class SampleRange(nn.Module):
    """Rounds to uint8 over the range of each sample: (batch, …)."""

    def forward(self, values: Tensor) -> Tensor:
        axes = tuple(range(1, values.ndim))
        seen = values.detach()
        low, high = seen.amin(axes, keepdim=True), seen.amax(axes, keepdim=True)
        return _uint8(values, *_step(low.clamp_max(0), high.clamp_min(0)))


def _step(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    scale = ((high - low) / _UINT8).clamp_min(LEAST)
    return scale, (-low / scale).round()


def _uint8(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    inside = values.clamp(-zero * scale, (_UINT8 - zero) * scale)
    return _straight(inside, (inside / scale).round() * scale)


def _straight(values: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `values`."""
    return values + (rounded - values).detach()


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    assert isinstance(layer.input_range, nn.Module)
    return (layer.input_range(inputs[0]), *inputs[1:])


def _layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, kinds)]


def _learned(network: nn.Module) -> Iterator[tuple[str, LearnedRange]]:
    for path, module in network.named_modules():
        if isinstance(module, LearnedRange):
            yield path, module
