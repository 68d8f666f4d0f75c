"""An image teacher's own preprocessing, from the student's normalised batch.

Read from `preprocessor_config.json` and done with torch on whole batches, so that augmented views
go through it too.  Sizes, crops and filters follow the image processors of transformers; those
round to whole pixel values after resizing, this does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill.errors import TeacherError
from edgedistill.teachers.inputs import Normalization, Unnormalized

FILTERS = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # by PIL's numbers
SQUARE = ("ViT", "DeiT", "Beit", "EfficientNet", "Siglip", "Blip")  # a bare size means both sides
OTHERS = ("Bit", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "MobileViT")


@dataclass(frozen=True)
class Steps:
    resize: tuple[int, int] | int | None
    """(height, width), or the shorter side."""
    filter: str
    crop: tuple[int, int] | None
    """(height, width) of the middle; zeros around an image that is smaller."""
    scale: float
    """Of pixels of 0 to 1."""
    shift: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    swap: bool
    """BGR."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def read(config: dict[str, Any], side: int | None) -> Steps:
    """The steps that a `preprocessor_config.json` asks for.

    side: of the model's images, where the file gives no size.
    Raises TeacherError for a processor whose rules are not known here.
    """
    kind = _kind(config)
    resize, crop = _sizes(config, kind, side)
    number = config.get("resample", 2 if kind == "ViT" else 3)
    if resize is not None and number not in FILTERS:
        raise TeacherError(f"resample {number!r} is not a filter known here; use 2 (bilinear)")
    scaled = config.get("do_rescale", True)
    scale = float(config.get("rescale_factor") or 1 / 255) * 255 if scaled else 255.0
    mean, std = _normalization(config, kind)
    if kind == "EfficientNet" and config.get("include_top", True):
        std = tuple(s * s for s in _triple(config["image_std"]))  # divided by it twice
    shift = -1.0 if config.get("rescale_offset") else 0.0
    swap = bool(config.get("do_flip_channel_order", kind == "MobileViT"))
    return Steps(resize, FILTERS.get(number, "bilinear"), crop, scale, shift, mean, std, swap)


def _kind(config: dict[str, Any]) -> str:
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    kind = name
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(suffix)
    if kind and kind not in SQUARE + OTHERS:
        known = ", ".join(sorted(SQUARE + OTHERS))
        raise TeacherError(
            f"the rules of its image processor {name!r} are not known here (known: {known}); wrap "
            "the model in a function and give module:function"
        )
    return kind


def _sizes(
    config: dict[str, Any], kind: str, side: int | None
) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None]:
    resize = crop = None
    if config.get("do_resize", True):
        resize = _size(config.get("size", side), kind in SQUARE)
    if config.get("do_center_crop", "crop_size" in config):
        crop = _pair(_size(config.get("crop_size", side), True))
    if kind == "ConvNext" and isinstance(resize, int):
        if resize >= 384:
            return (resize, resize), crop
        return int(resize / float(config.get("crop_pct") or 224 / 256)), (resize, resize)
    return resize, crop


def _size(value: Any, square: bool) -> tuple[int, int] | int:
    if isinstance(value, int) and value > 0:
        return (value, value) if square else value
    if isinstance(value, dict):
        if {"height", "width"} <= value.keys():
            return int(value["height"]), int(value["width"])
        if value.get("shortest_edge") and not value.get("longest_edge"):
            return int(value["shortest_edge"])
    raise TeacherError(
        f"the image size {value!r} is not known here; give height and width, or shortest_edge"
    )


def _pair(size: tuple[int, int] | int) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _normalization(
    config: dict[str, Any], kind: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    asked = config.get("do_normalize", "image_mean" in config)
    if not asked or kind == "MobileViT":  # never does, though its file may name a mean
        return (0.0,) * 3, (1.0,) * 3
    if "image_mean" not in config or "image_std" not in config:
        raise TeacherError("it asks for normalised images and gives no image_mean and image_std")
    return _triple(config["image_mean"]), _triple(config["image_std"])


def _triple(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(map(float, value))


class ImageInputs(nn.Module):
    """The student's batch -> {"pixel_values": (batch, own channels, own height, own width)}."""

    mean: Tensor
    std: Tensor

    def __init__(self, steps: Steps, norm: Normalization, name: str = "pixel_values") -> None:
        super().__init__()
        self.steps, self.name = steps, name
        self.pixels = Unnormalized(norm)
        for key, values in (("mean", steps.mean), ("std", steps.std)):
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        steps, pixels = self.steps, self.pixels(image)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, len(steps.mean), -1, -1)  # grey to RGB
        if steps.resize is not None:
            pixels = _resized(pixels, steps.resize, steps.filter)
        if steps.crop is not None:
            pixels = _middle(pixels, steps.crop)
        pixels = (pixels * steps.scale + steps.shift - self.mean) / self.std
        return {self.name: pixels.flip(1) if steps.swap else pixels}


def _resized(image: Tensor, size: tuple[int, int] | int, kernel: str) -> Tensor:
    height, width = image.shape[-2:]
    if isinstance(size, int):
        short = min(height, width)
        size = (int(size * height / short), int(size * width / short))
    if size == (height, width):
        return image
    smooth = kernel != "nearest-exact"
    return F.interpolate(image, size, mode=kernel, antialias=smooth).clamp(0, 1)


def _middle(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of an image; zeros around one that is smaller."""
    tall, wide = (max(0, want - have) for want, have in zip(size, image.shape[-2:], strict=True))
    if tall or wide:
        image = F.pad(image, (wide - wide // 2, wide // 2, tall - tall // 2, tall // 2))
    top, left = ((have - want) // 2 for want, have in zip(size, image.shape[-2:], strict=True))
    return image[..., top : top + size[0], left : left + size[1]]
