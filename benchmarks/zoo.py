"""Whole networks on which the cost model is judged; none is ever used to fit it.

Published families by their `transformers` configurations, or by small modules of their own, and a
few specs of the student families, each in float32 and in int8 by the product's own recipe.  The
weights are random and seeded: what a call costs does not depend on them.

    python benchmarks/zoo.py        (exports all of them into the cache: about ten minutes)
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill import quantize
from edgedistill.export import onnx as exporter
from edgedistill.students import FAMILIES
from edgedistill.students.convnet import ConvNetSpec
from edgedistill.students.modules import as_if_trained
from edgedistill.students.static import StaticSpec
from edgedistill.students.textmodules import MASKED
from edgedistill.students.transformer import TransformerSpec
from edgedistill.students.vit import ViTSpec
from edgedistill_runtime.files import write_atomically

VERSION = 1
"""To be raised when a network of a name becomes another one."""
PRECISIONS = ("float32", "int8")
CLASSES, PHOTO_CLASSES = 10, 1000
CALIBRATION_SAMPLES = 4
SETTLING_SAMPLES = 2
OUT_OF_RANGE = "convnext"
"""The family with kernels that no calibration measures."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    name: str
    family: str
    precision: str
    model: bytes
    """ONNX, batch 1."""
    length: int = 1
    """Tokens that a text is judged with; 1 where nothing is open."""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.precision}"


@dataclass(frozen=True)
class Entry:
    """How a network is made."""

    name: str
    family: str
    shape: Shape
    """One sample; (tokens,) for texts."""
    build: Callable[[], nn.Module]
    quantization: str = "static"

    @property
    def text(self) -> bool:
        return len(self.shape) == 1

    @property
    def length(self) -> int:
        return self.shape[0] if self.text else 1


def networks(only: Collection[str] = (), folder: Path | None = None) -> Iterator[Network]:
    """Every network in both precisions, exported once and then read from the cache.

    only: names, where not all are wanted.
    """
    for entry in CATALOGUE:
        if only and entry.name not in only:
            continue
        for precision in PRECISIONS:
            model = _cached(entry, precision, folder or cache_folder())
            yield Network(entry.name, entry.family, precision, model, entry.length)


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "edgedistill" / "zoo" / str(VERSION)


def _cached(entry: Entry, precision: str, folder: Path) -> bytes:
    path = folder / f"{entry.name}-{precision}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _make(entry, precision, folder))
    return path.read_bytes()


def _make(entry: Entry, precision: str, folder: Path) -> bytes:
    seed = zlib.crc32(entry.name.encode())
    if precision == "float32":
        torch.manual_seed(seed)
        module = _settle(as_if_trained(entry.build()), entry.shape)
        return exporter.export(module, entry.shape, entry.text)
    float32 = _cached(entry, "float32", folder)
    if entry.quantization == "dynamic":
        return quantize.dynamic_int8(float32)
    random = np.random.default_rng(seed)
    samples = random.normal(size=(CALIBRATION_SAMPLES, *entry.shape)).astype(np.float32)
    return quantize.static_int8(float32, exporter.INPUT, samples)


def _settle(module: nn.Module, shape: Shape) -> nn.Module:
    """Give batch norms the statistics of their own input: values neither vanish nor explode."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return module
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(torch.randn(SETTLING_SAMPLES, *shape))
    return module.eval()


# Families of `transformers`


class _Logits(nn.Module):
    """Only the logits of a network of `transformers`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).logits
        return logits


class _Bert(nn.Module):
    """BERT's classifier with a float mask of its own; 0 is the id of padding."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor) -> Tensor:
        real = ids.clamp(0, 1).float()  # (batch, tokens)
        added = MASKED * (1 - real)[:, None, None, :]
        logits: Tensor = self.network(input_ids=ids, attention_mask=added).logits
        return logits


class _Pooled(nn.Module):
    """Layers, the mean over the image, one linear layer."""

    def __init__(self, layers: nn.Module, features: int) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(features, PHOTO_CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(image).mean((2, 3)))
        return logits


class _EfficientLayers(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.embeddings, self.encoder = network.embeddings, network.encoder

    def forward(self, image: Tensor) -> Tensor:
        states: Tensor = self.encoder(self.embeddings(image)).last_hidden_state
        return states


def _mobilenet_v1(width: float, side: int, tf_padding: bool = False) -> nn.Module:
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    config = MobileNetV1Config(
        depth_multiplier=width, image_size=side, tf_padding=tf_padding, num_labels=PHOTO_CLASSES
    )
    return _Logits(MobileNetV1ForImageClassification(config))


def _mobilenet_v2(width: float, side: int) -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(
        depth_multiplier=width, image_size=side, tf_padding=False, num_labels=PHOTO_CLASSES
    )
    return _Logits(MobileNetV2ForImageClassification(config))


def _resnet(layer: str, stem: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=stem,
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_type=layer,
        num_labels=PHOTO_CLASSES,
    )
    return _Logits(ResNetForImageClassification(config))


def _efficientnet(width: float, depth: float, side: int) -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetModel

    config = EfficientNetConfig(
        image_size=side,
        width_coefficient=width,
        depth_coefficient=depth,
        hidden_dim=int(1280 * width),
    )
    return _Pooled(_EfficientLayers(EfficientNetModel(config)), config.hidden_dim)


def _bert(layers: int, hidden: int, ffn: int, vocabulary: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=12 if hidden == 312 else hidden // 64,
        intermediate_size=ffn,
        max_position_embeddings=128,
        num_labels=CLASSES,
        attn_implementation="eager",
    )
    return _Bert(BertForSequenceClassification(config))


def _vit(side: int, patch: int, hidden: int, layers: int, heads: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=side,
        patch_size=patch,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        num_labels=PHOTO_CLASSES,
        attn_implementation="eager",
    )
    return _Logits(ViTForImageClassification(config))


def _convnext(widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=list(widths),
        depths=list(depths),
        layer_scale_init_value=0.1,
        num_labels=PHOTO_CLASSES,
    )
    return _Logits(ConvNextForImageClassification(config))


# Families that `transformers` does not have


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, states: Tensor) -> Tensor:
        scale = states.mean((2, 3), keepdim=True)  # (batch, channels, 1, 1)
        scaled: Tensor = states * F.hardsigmoid(self.up(F.relu(self.down(scale))))
        return scaled


class _InvertedResidual(nn.Module):
    """MobileNetV3's block (Howard et al. 2019, https://arxiv.org/abs/1905.02244)."""

    def __init__(
        self, inputs: int, wide: int, outputs: int, kernel: int, stride: int, se: bool, hard: bool
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        layers = [*_conv(inputs, wide, 1), activation()] if wide != inputs else []
        layers += [*_conv(wide, wide, kernel, stride, wide), activation()]
        if se:
            layers.append(_SqueezeExcite(wide, _eighth(wide / 4)))
        self.layers = nn.Sequential(*layers, *_conv(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.layers(states)
        return states + found if self.residual else found


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def _eighth(channels: float) -> int:
    """Rounded to a multiple of 8, as MobileNets do."""
    return max(8, int(channels + 4) // 8 * 8)


# kernel, expanded, out, squeeze-excite, hard-swish, stride
_V3_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)
_V3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class _Head(nn.Module):
    """MobileNetV3's end: the mean, a hidden layer, the classes."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(features, hidden), nn.Linear(hidden, PHOTO_CLASSES)

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(F.hardswish(self.hidden(states.mean((2, 3)))))
        return logits


def _mobilenet_v3(rows: tuple[Any, ...], width: float, hidden: int) -> nn.Module:
    inputs = _eighth(16 * width)
    layers: list[nn.Module] = [*_conv(3, inputs, 3, 2), nn.Hardswish()]
    for kernel, wide, outputs, se, hard, stride in rows:
        out = _eighth(outputs * width)
        layers.append(
            _InvertedResidual(inputs, _eighth(wide * width), out, kernel, stride, se, hard)
        )
        inputs = out
    layers += [*_conv(inputs, 6 * inputs, 1), nn.Hardswish(), _Head(6 * inputs, hidden)]
    return nn.Sequential(*layers)


class _Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016, https://arxiv.org/abs/1602.07360)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one = nn.Conv2d(squeezed, expanded, 1)
        self.three = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, states: Tensor) -> Tensor:
        states = F.relu(self.squeeze(states))
        return torch.cat([F.relu(self.one(states)), F.relu(self.three(states))], 1)


class _SqueezeNet(nn.Module):
    """Version 1.1; `width` scales every channel."""

    def __init__(self, width: float) -> None:
        super().__init__()
        inputs = int(64 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, inputs, 3, 2), nn.ReLU()]
        for squeezed in (16, 32, 48, 64):
            if squeezed < 64:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            expanded = int(4 * squeezed * width)
            for _ in range(2):
                layers.append(_Fire(inputs, int(squeezed * width), expanded))
                inputs = 2 * expanded
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, PHOTO_CLASSES, 1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image).mean((2, 3))
        return logits


# The student families


def _own(family: str, shape: Shape, spec: Any) -> Entry:
    values = "-".join(str(value) for value in vars(spec).values())
    name = f"{family}-{'x'.join(map(str, shape))}-{values}"
    build = partial(FAMILIES[family].build, spec, shape, CLASSES)
    return Entry(name, family, shape, build, FAMILIES[family].quantization)


def _photo(family: str, variant: str, side: int, build: Callable[[], nn.Module]) -> Entry:
    return Entry(f"{family}-{variant}-{side}", family, (3, side, side), build)


def _text(tokens: int, layers: int, hidden: int, ffn: int, vocabulary: int = 30522) -> Entry:
    build = partial(_bert, layers, hidden, ffn, vocabulary)
    return Entry(f"bert-{layers}-{hidden}-{tokens}", "bert", (tokens,), build, "dynamic")


def _patches(side: int, patch: int, hidden: int, layers: int, heads: int) -> Entry:
    build = partial(_vit, side, patch, hidden, layers, heads)
    name = f"hf-vit-{layers}-{hidden}-{side}"
    return Entry(name, "hf-vit", (3, side, side), build, "dynamic")


CATALOGUE: tuple[Entry, ...] = (
    _photo("mobilenet-v1", "0.25", 128, partial(_mobilenet_v1, 0.25, 128)),
    _photo("mobilenet-v1", "0.5", 160, partial(_mobilenet_v1, 0.5, 160)),
    _photo("mobilenet-v1", "0.75", 192, partial(_mobilenet_v1, 0.75, 192)),
    _photo("mobilenet-v1", "1.0", 224, partial(_mobilenet_v1, 1.0, 224)),
    _photo("mobilenet-v1", "0.5-tf", 192, partial(_mobilenet_v1, 0.5, 192, True)),
    _photo("mobilenet-v2", "0.35", 96, partial(_mobilenet_v2, 0.35, 96)),
    _photo("mobilenet-v2", "0.5", 160, partial(_mobilenet_v2, 0.5, 160)),
    _photo("mobilenet-v2", "0.75", 192, partial(_mobilenet_v2, 0.75, 192)),
    _photo("mobilenet-v2", "1.0", 128, partial(_mobilenet_v2, 1.0, 128)),
    _photo("mobilenet-v2", "1.0", 224, partial(_mobilenet_v2, 1.0, 224)),
    _photo("mobilenet-v3", "small-0.75", 160, partial(_mobilenet_v3, _V3_SMALL, 0.75, 1024)),
    _photo("mobilenet-v3", "small-1.0", 224, partial(_mobilenet_v3, _V3_SMALL, 1.0, 1024)),
    _photo("mobilenet-v3", "large-0.75", 192, partial(_mobilenet_v3, _V3_LARGE, 0.75, 1280)),
    _photo("resnet", "18", 112, partial(_resnet, "basic", 64, (64, 128, 256, 512), (2, 2, 2, 2))),
    _photo("resnet", "10-half", 96, partial(_resnet, "basic", 32, (32, 64, 128, 256), (1,) * 4)),
    _photo(
        "resnet",
        "26-half",
        128,
        partial(_resnet, "bottleneck", 32, (128, 256, 512, 1024), (2,) * 4),
    ),
    _photo("squeezenet", "1.0", 224, partial(_SqueezeNet, 1.0)),
    _photo("squeezenet", "0.5", 128, partial(_SqueezeNet, 0.5)),
    _photo("efficientnet", "0.5-0.5", 128, partial(_efficientnet, 0.5, 0.5, 128)),
    _photo("efficientnet", "b0", 160, partial(_efficientnet, 1.0, 1.0, 160)),
    _text(16, 1, 128, 512, 8000),
    _text(128, 2, 128, 512),
    _text(32, 2, 256, 1024),
    _text(64, 4, 256, 1024),
    _text(64, 4, 312, 1200),
    _text(32, 6, 256, 1024, 16000),
    _patches(96, 16, 128, 4, 4),
    _patches(160, 16, 192, 6, 3),
    _patches(64, 8, 96, 3, 3),
    _own("convnet", (3, 32, 32), ConvNetSpec("separable", 32, 1.5, 4, 2, 3)),
    _own("convnet", (3, 32, 32), ConvNetSpec("dense", 32, 2.0, 3, 2, 3)),
    _own("convnet", (3, 96, 96), ConvNetSpec("separable", 24, 2.0, 5, 3, 3, 2)),
    _own("convnet", (1, 40, 61), ConvNetSpec("separable", 48, 1.5, 4, 3, 5)),
    _own("convnet", (6, 1, 128), ConvNetSpec("separable", 64, 1.5, 4, 2, 9)),
    _own("convnet", (2, 1, 1000), ConvNetSpec("dense", 32, 1.5, 5, 2, 5, 2)),
    _own("vit", (3, 64, 64), ViTSpec(8, 96, 4, 3, 384)),
    _own("vit", (1, 40, 61), ViTSpec(4, 64, 2, 4, 128)),
    _own("static", (128,), StaticSpec(8000, 64, 128)),
    _own("static", (64,), StaticSpec(30000, 128, 256)),
    _own("transformer", (32,), TransformerSpec(8000, 32, 2, 128, 4, 256)),
    _own("transformer", (64,), TransformerSpec(16000, 64, 4, 192, 6, 768)),
    _own("transformer", (128,), TransformerSpec(4000, 256, 6, 256, 8, 1024)),
    _photo("convnext", "half", 128, partial(_convnext, (48, 96, 192, 384), (2, 2, 4, 2))),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of the networks alone")
    options = parser.parse_args()
    known = {entry.name for entry in CATALOGUE}
    unknown = sorted(set(options.names) - known)
    if unknown:
        parser.error(f"no network {unknown[0]!r} (known: {', '.join(sorted(known))})")
    start = time.monotonic()
    for network in networks(options.names):
        size_mib = len(network.model) / 2**20
        sys.stdout.write(f"{time.monotonic() - start:5.0f} s  {network.id}  {size_mib:.2f} MiB\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
