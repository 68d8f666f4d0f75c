"""Building blocks shared by the student families and the teachers that are trained here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_block(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1, flat: bool = False
) -> nn.Sequential:
    """Convolution, batch norm (folded into it at export), ReLU (fused into it by the engine).

    flat: for inputs of height one, 1×kernel and with a stride along the width alone.
    """
    size, steps, padding = (1, kernel), (1, stride), (0, kernel // 2)
    if not flat:
        size, steps, padding = (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, steps, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Classifier(nn.Module):
    """Convolution blocks, global average, linear layer."""

    def __init__(self, blocks: Sequence[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(features, classes)

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(image)  # (batch, channels, height, width)
        logits: Tensor = self.head(features.mean((2, 3)))  # (batch, classes)
        return logits


def as_if_trained(module: nn.Module) -> nn.Module:
    """Give an untrained module's norms weights and statistics such as training leaves.

    An exporter leaves out biases of zero and scales of one, so the file of a fresh module is
    smaller than the trained one's.  Uses torch's global random state.
    """
    with torch.no_grad():
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (norm.running_mean, norm.bias):
                tensor.normal_()
            for tensor in (norm.running_var, norm.weight):
                tensor.uniform_(0.5, 2.0)
        for layer_norm in (m for m in module.modules() if isinstance(m, nn.LayerNorm)):
            layer_norm.weight.uniform_(0.5, 2.0)
            layer_norm.bias.normal_()
    return module.eval()
