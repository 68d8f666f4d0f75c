"""Image files of every kind that users have become upright uint8 arrays, or one sentence."""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
import pytest

from edgedistill_runtime import images
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import MAX_PIXELS

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

RNG = np.random.default_rng(3)
COLOURS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)


@pytest.fixture
def saved(tmp_path):
    """Save a Pillow image and return its path."""

    def save(image, name="x.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def refused(path, channels=3, **options):
    with pytest.raises(InputError) as caught:
        images.read(path, channels, **options)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


# --- colours


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.PNG", "x.gif", "x.webp"])
def test_grey_is_read_as_it_is(saved, name):
    path = saved(Image.fromarray(GREY), name, lossless=True)
    found = images.read(path, 1)
    assert (found.dtype, found.shape) == (np.uint8, (5, 7, 1))
    assert np.array_equal(found[..., 0], GREY)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.webp"])
def test_colours_are_read_as_they_are(saved, name):
    assert np.array_equal(
        images.read(saved(Image.fromarray(COLOURS), name, lossless=True), 3), COLOURS
    )


def test_grey_as_colours_is_the_same_three_times(saved):
    assert np.array_equal(images.read(saved(Image.fromarray(GREY)), 3), np.stack([GREY] * 3, -1))


def test_colours_as_grey_are_their_luma(saved):
    red, green, blue = COLOURS.astype(np.int64).transpose(2, 0, 1)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    found = images.read(saved(Image.fromarray(COLOURS)), 1)
    assert np.array_equal(found[..., 0], luma)


def test_a_jpeg_is_close_to_what_was_saved(saved):
    smooth = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
    found = images.read(saved(Image.fromarray(smooth), "x.jpg", quality=95), 1)
    assert np.abs(found[..., 0].astype(int) - smooth).max() < 8


def test_black_and_white_is_0_and_255(saved):
    found = images.read(saved(Image.fromarray(GREY > 127)), 1)
    assert np.array_equal(found[..., 0], np.where(GREY > 127, 255, 0))


def test_a_palette_is_looked_up(saved):
    few = Image.fromarray(COLOURS).quantize(8)
    assert few.mode == "P"
    assert np.array_equal(images.read(saved(few), 3), np.asarray(few.convert("RGB")))


def test_what_is_transparent_is_white(saved):
    alpha = np.zeros((5, 7), np.uint8)
    alpha[:, 3:] = 255
    seen = np.where(alpha[..., None] > 0, COLOURS, 255)
    path = saved(Image.fromarray(np.dstack([COLOURS, alpha])))
    assert np.array_equal(images.read(path, 3), seen)
    grey = Image.fromarray(GREY).convert("LA")
    grey.putalpha(Image.fromarray(alpha))
    assert np.array_equal(images.read(saved(grey), 1)[..., 0], np.where(alpha, GREY, 255))


def test_half_transparent_is_half_white(saved):
    black = np.zeros((2, 2, 4), np.uint8)
    black[..., 3] = 128
    found = images.read(saved(Image.fromarray(black)), 3)
    assert np.abs(found.astype(int) - 127).max() <= 1


def test_a_transparent_colour_of_a_palette_is_white(saved):
    few = Image.new("P", (2, 1))
    few.putpalette([10, 20, 30, 40, 50, 60])
    few.putpixel((1, 0), 1)
    found = images.read(saved(few, transparency=0), 3)
    assert found[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_sixteen_bits_become_eight(saved):
    deep = np.array([[0, 128, 129, 257, 32768, 65535, 65407]], np.uint16)
    for name in ("x.png", "x.tif"):
        found = images.read(saved(Image.fromarray(deep), name), 1)
        assert found[0, :, 0].tolist() == np.round(deep[0] / 257).tolist()
        assert images.read(saved(Image.fromarray(deep), name), 3).shape == (1, 7, 3)


def test_more_than_sixteen_bits_are_refused(saved):
    path = saved(Image.fromarray(np.array([[70000]], np.int32)), "x.tif")
    assert "more than 16 bits" in refused(path)
    path = saved(Image.fromarray(np.array([[0.5]], np.float32)), "y.tif")
    assert "floating-point" in refused(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_printing_colours_are_converted(saved, channels):
    ink = Image.fromarray(COLOURS).convert("CMYK")
    expected = np.asarray(ink.convert("RGB").convert("L" if channels == 1 else "RGB"))
    found = images.read(saved(ink, "x.tif"), channels)
    assert np.array_equal(found, expected.reshape(5, 7, channels))


# --- orientation


UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x.T, 2),
    8: np.rot90,
}
"""What undoes each orientation: EXIF 2.3, tag 274."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_every_orientation_of_a_camera_is_turned_upright(saved, orientation, name):
    """On pixels that survive a JPEG."""
    squares = np.zeros((32, 48), np.uint8)
    squares[:16, :16], squares[:16, 16:32] = 255, 120
    image = Image.fromarray(squares)
    exif = image.getexif()
    exif[0x0112] = orientation
    found = images.read(saved(image, name, exif=exif), 1)[..., 0]
    expected = UPRIGHT[orientation](squares)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_an_orientation_that_does_not_exist_turns_nothing(saved):
    image = Image.fromarray(GREY)
    exif = image.getexif()
    exif[0x0112] = 99
    assert np.array_equal(images.read(saved(image, exif=exif), 1)[..., 0], GREY)


def test_sixteen_bits_are_turned_too(saved):
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    exif = image.getexif()
    exif[0x0112] = 6
    assert np.array_equal(images.read(saved(image, exif=exif), 1)[..., 0], np.rot90(GREY, -1))


# --- sizes


def test_one_pixel_is_an_image(saved):
    assert images.read(saved(Image.new("RGB", (1, 1), (1, 2, 3))), 3).tolist() == [[[1, 2, 3]]]


def test_a_wanted_size_is_checked_before_and_after_turning(saved):
    image = Image.fromarray(GREY)  # 7 × 5
    assert images.read(saved(image), 1, (5, 7)).shape == (5, 7, 1)
    assert "the image is 7×5 pixels; the model takes 8×8" in refused(saved(image), 1, size=(8, 8))
    assert "the image is 7×5 pixels; the model takes 5×7" in refused(saved(image), 1, size=(7, 5))
    exif = image.getexif()
    exif[0x0112] = 6
    assert images.read(saved(image, exif=exif), 1, (7, 5)).shape == (7, 5, 1)


@pytest.mark.parametrize("width", [10_000, 20_000])
def test_more_than_64_megapixels_are_refused_undecoded(saved, width):
    """20,000 is beyond what Pillow itself opens."""
    sentence = refused(saved(Image.new("1", (width, width)), optimize=False))
    assert f"more than {MAX_PIXELS} pixels (64 megapixels); make it smaller" in sentence


# --- damaged files


def test_no_part_of_an_image_is_an_image(saved):
    path = saved(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)))
    data = path.read_bytes()
    for size in range(0, len(data) - 100, 7):  # the last bytes are checksums and the end
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("data", [b"", b"text", b"GIF89a", b"\xff\xd8\xff", b"RIFF____WEBPVP8 "])
def test_what_is_no_image_is_refused(tmp_path, data):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    assert "not a readable image" in refused(path)


def test_a_format_that_starts_a_program_is_not_tried(tmp_path):
    """Pillow hands PostScript to Ghostscript, whatever the file's name is."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "EPS")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    assert "not a readable image" in refused(tmp_path / "x.png")


def test_damaged_bytes_are_an_image_or_one_sentence(saved):
    path = saved(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)), "x.jpg")
    data, rng = path.read_bytes(), np.random.default_rng(4)
    for place in rng.integers(0, len(data), 200):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(bad))
        with contextlib.suppress(InputError):
            assert images.read(path, 3).dtype == np.uint8


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        images.read(tmp_path / "absent.png", 3)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'edgedistill-runtime\[image\]'"):
        images.read(tmp_path / "x.png", 3)
