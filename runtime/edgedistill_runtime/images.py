"""Read an image file into what models take: upright, grey or RGB, 8 bits.

One implementation for training and device; Pillow decodes.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"))
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""What a file is tried as, whatever its name; one of Pillow's others would start a program."""
_ORIENTATION = 0x0112
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def read(path: Path, channels: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The image in `path`, turned as its camera says.  (height, width, channels), uint8.

    channels: 1 (grey) or 3 (red, green, blue).  Behind what is transparent lies white; 16 bits a
    pixel become 8.
    size: the only (height, width) that is wanted; another is refused before it is decoded.
    Raises InputError: no readable image, another size, more than 64 megapixels, or no Pillow;
    OSError if the file cannot be opened.
    """
    with path.open("rb") as file:
        return decode(file, str(path), channels, size)


def decode(
    file: BinaryIO, name: str, channels: int, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """The image in an open file, which messages call `name`; else as `read`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            "image files need Pillow; install it with: pip install 'edgedistill-runtime[image]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, and of tags that matter not here
        try:
            with Image.open(file, formats=FORMATS) as image:
                _check_size(name, image.size, size)
                image.load()  # a TIFF is turned here
                pixels = _upright(_eight_bits(image, channels), image.getexif())
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error
        except Exception as error:  # decoders raise anything on damaged files
            raise InputError(f"{name}: not a readable image ({_first_line(error)})") from error
    if size is not None and pixels.shape[:2] != size:
        raise _other_size(name, pixels.shape[1], pixels.shape[0], size)
    return np.ascontiguousarray(pixels)


def _check_size(name: str, found: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    """found: (width, height), which a camera may have swapped."""
    width, height = found
    if wanted is not None and sorted(found) != sorted(wanted):
        raise _other_size(name, width, height, wanted)
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width}×{height}: ")
    if not width * height:
        raise InputError(f"{name}: the image has no pixels")


def _eight_bits(image: Image, channels: int) -> NDArray[np.uint8]:
    """(height, width, channels)."""
    if image.mode in _SIXTEEN_BITS:
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits; save it with 8 or 16")
        grey = ((wide.astype(np.int32) + 128) // 257).astype(np.uint8)  # 257 = 65535 / 255
        return np.repeat(grey[..., None], channels, -1)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = _on_white(image)
    elif image.mode not in ("1", "L", "P", "RGB"):
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def _on_white(image: Image) -> Image:
    from PIL import Image as images

    colours = image.convert("RGBA")
    paper = images.new("RGBA", colours.size, "white")
    return images.alpha_composite(paper, colours).convert("RGB")


def _upright(pixels: NDArray[np.uint8], exif: Any) -> NDArray[np.uint8]:
    """Turn and mirror as the EXIF orientation says; the camera may lie on its side."""
    orientation = exif.get(_ORIENTATION)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _too_large(name: str, size: str = "") -> InputError:
    return InputError(
        f"{name}: the image has {size}more than {MAX_PIXELS} pixels (64 megapixels); "
        "make it smaller"
    )


def _other_size(name: str, width: int, height: int, wanted: tuple[int, int]) -> InputError:
    return InputError(
        f"{name}: the image is {width}×{height} pixels; the model takes {wanted[1]}×{wanted[0]}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
