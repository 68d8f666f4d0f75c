"""Building blocks shared by the student families and the teachers that are trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill.students.textmodules import Attention

POSITION_STD = 0.5
"""About the size of a patch's vector.  With the usual 0.02 a short training learns places late:
88 % of scikit-learn's digits after 20 epochs, and 95 % with 0.5."""


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


class Patches(nn.Module):
    """A vector a patch, plus one a position."""

    def __init__(self, channels: int, size: tuple[int, int], patch: int, dim: int) -> None:
        """size: the image's height and width; patches at its edge are padded."""
        super().__init__()
        height, width = size
        padding = (-height % patch + 1) // 2, (-width % patch + 1) // 2
        patches = math.ceil(height / patch) * math.ceil(width / patch)
        self.project = nn.Conv2d(channels, dim, patch, patch, padding)
        self.positions = nn.Parameter(torch.empty(patches, dim))
        nn.init.normal_(self.positions, std=POSITION_STD)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.project(image)  # (batch, dim, rows, columns)
        return patches.flatten(2).transpose(1, 2) + self.positions  # (batch, patches, dim)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each of the normalised states and added to them."""

    def __init__(self, dim: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attention(self.attention_norm(states))
        changed: Tensor = self.down(F.gelu(self.up(self.norm(states))))
        return states + changed


class VisionTransformer(nn.Module):
    """Patches, encoder layers, the mean over patches, one linear layer."""

    def __init__(
        self, embeddings: Patches, layers: Sequence[EncoderLayer], dim: int, classes: int
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, image: Tensor) -> Tensor:
        states = self.embeddings(image)  # (batch, patches, dim)
        for layer in self.layers:
            states = layer(states)
        logits: Tensor = self.head(self.norm(states).mean(1))  # (batch, classes)
        return logits
