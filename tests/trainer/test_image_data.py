"""Folders of image files become arrays of one size, or a sentence that names the file at fault."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import unicodedata
import warnings
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image

from edgedistill import data
from edgedistill.data import Columns, Decoding
from edgedistill.errors import DataError
from edgedistill_runtime import images, preprocess

SEED = 5
SPLITS = ("train", "validation", "test")


def pixels(seed, shape=(8, 8, 3)):
    seeds = np.atleast_1d(seed)
    return np.random.default_rng([SEED, *seeds]).integers(0, 256, shape, np.uint8)


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path, **options)
    return path


def fill(folder, classes=("cat", "dog"), each=10, shape=(8, 8, 3), seed=0):
    """PNG files, every one with pixels of its own; -> path -> array."""
    made = {}
    for name in classes:
        for j in range(each):
            array = pixels((seed, zlib.crc32(name.encode("utf-8", "surrogateescape")), j), shape)
            made[save(folder / name / f"{j}.png", array)] = array
    return made


def splits(found):
    return [getattr(found, name) for name in SPLITS]


def samples(found):
    """Bytes of every sample -> name of its label."""
    return {
        x.tobytes(): found.labels[y]
        for part in splits(found)
        for x, y in zip(part.x, part.y, strict=True)
    }


def refusal(folder, decoding=None):
    with pytest.raises(DataError) as caught:
        data.load(str(folder), decoding=decoding or Decoding())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Class folders


def test_the_folders_are_the_classes(tmp_path):
    made = fill(tmp_path / "pets", ("dog", "cat", "eel"))
    found = data.load(str(tmp_path / "pets"))
    assert (found.name, found.labels) == ("pets", ("cat", "dog", "eel"))
    assert found.task == "image-classification"
    assert samples(found) == {array.tobytes(): path.parent.name for path, array in made.items()}
    assert [len(part) for part in splits(found)] == [17, 5, 8]
    assert found.sample.shape == (8, 8, 3)
    assert found.decode == found.features == ()
    assert found.input_shape == (3, 8, 8)


@pytest.mark.parametrize(
    "names",
    [
        ("a cat", " dog ", "eel, or: 'snake'"),
        ("кот", "собака", "рыба"),
        ("猫", "犬", "魚"),
        ("قط", "كلب", "سمكة"),
        ("🐈", "🐕", "#1 [x]"),
        ("10", "9", "-1"),
    ],
    ids=["spaces", "russian", "japanese", "arabic", "emoji", "numbers"],
)
def test_classes_may_have_any_name(tmp_path, names):
    made = fill(tmp_path, names)
    found = data.load(str(tmp_path))
    assert found.labels == tuple(sorted(names))
    assert samples(found) == {array.tobytes(): path.parent.name for path, array in made.items()}


def test_names_of_classes_are_composed(tmp_path):
    """As macOS decomposes them: the same folder has the same label everywhere."""
    name = unicodedata.normalize("NFD", "été")
    fill(tmp_path, (name, "hiver"))
    assert data.load(str(tmp_path)).labels == ("hiver", "été")
    fill(tmp_path, ("été",))
    assert refusal(tmp_path) == f"{tmp_path}: two folders are named 'été'; merge them"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\nb", "a control character in the class's name; rename it"),
        ("bad\udcff", "the folder's name is not UTF-8; rename it"),
    ],
    ids=["control", "bytes"],
)
def test_a_name_that_no_label_can_have_is_refused(tmp_path, name, fault):
    fill(tmp_path, ("cat", name))
    assert refusal(tmp_path).endswith(fault)


def test_an_empty_class_is_refused_by_its_name(tmp_path):
    fill(tmp_path)
    (tmp_path / "eel").mkdir()
    wanted = f"{tmp_path / 'eel'}: no image in this class's folder; add some, or remove the folder"
    assert refusal(tmp_path) == wanted
    (tmp_path / "eel" / "list.txt").write_text("none", encoding="utf-8")
    assert refusal(tmp_path) == wanted


def test_one_class_and_a_tiny_class_are_refused(tmp_path):
    fill(tmp_path, ("cat",))
    assert refusal(tmp_path).endswith("only one class; a classifier needs two classes or more")
    fill(tmp_path, ("dog",), each=7)
    assert "the class 'dog' has 7 samples; at least 8 are needed" in refusal(tmp_path)


def test_folders_below_a_class_are_read_too(tmp_path):
    made = fill(tmp_path, ("cat", "dog/small", "dog/large/old"))
    found = data.load(str(tmp_path))
    assert found.labels == ("cat", "dog")
    wanted = {a.tobytes(): path.relative_to(tmp_path).parts[0] for path, a in made.items()}
    assert samples(found) == wanted


def test_other_files_are_passed_over_and_counted(tmp_path):
    made = fill(tmp_path)
    for name in ("cat/notes.txt", "cat/.hidden.png", "dog/list.txt", "dog/x", "read.me", "a.csv"):
        (tmp_path / name).write_text("nothing", encoding="utf-8")
    save(tmp_path / "stray.png", pixels(7))
    for folder in (".git", "__MACOSX"):
        save(tmp_path / folder / "x.png", pixels(8))
    found = data.load(str(tmp_path))
    assert samples(found).keys() == {array.tobytes() for array in made.values()}
    assert (
        "9 other files passed over (hidden: 3, .txt: 2, .csv: 1, .me: 1, "
        "image outside of the classes' folders: 1, no suffix: 1)"
    ) in found.notes


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    made = fill(tmp_path)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert samples(data.load(str(tmp_path))).keys() == {a.tobytes() for a in made.values()}


@pytest.mark.parametrize("suffix", ["PNG", "bmp", "gif", "tif", "TIFF", "webp"])
def test_kinds_of_files_are_told_by_their_suffix_in_any_case(tmp_path, suffix):
    for i in range(20):
        grey = pixels(i, (8, 8))
        save(tmp_path / "ab"[i % 2] / f"{i}.{suffix}", grey, lossless=True)
    found = data.load(str(tmp_path))
    assert sum(map(len, splits(found))) == 20
    assert pixels(3, (8, 8)).tobytes() in {x[..., 0].tobytes() for s in splits(found) for x in s.x}


def test_photographs_are_read(tmp_path):
    for i in range(20):
        save(tmp_path / "ab"[i % 2] / f"{i}.jpeg", pixels(i, (16, 16, 3)), quality=90)
    assert data.load(str(tmp_path)).train.x.shape[1:] == (16, 16, 3)


# Splits


def test_given_splits_stay(tmp_path):
    parts = {
        name: fill(tmp_path / folder, seed=seed)
        for name, folder, seed in (("train", "train", 0), ("validation", "val", 100))
    }
    parts["test"] = fill(tmp_path / "Test", each=3, seed=200)
    found = data.load(str(tmp_path))
    for name, made in parts.items():
        part = getattr(found, name)
        assert {x.tobytes() for x in part.x} == {array.tobytes() for array in made.values()}
        assert len(part) == len(made)
    assert samples(found) == {
        a.tobytes(): path.parent.name for made in parts.values() for path, a in made.items()
    }


def test_a_validation_split_is_held_out_where_only_the_test_split_is_given(tmp_path):
    fill(tmp_path / "train", each=20)
    made = fill(tmp_path / "test", seed=200)
    found = data.load(str(tmp_path))
    assert {x.tobytes() for x in found.test.x} == {array.tobytes() for array in made.values()}
    assert [len(part) for part in splits(found)] == [32, 8, 20]


def test_the_test_split_may_lack_a_class_and_not_have_another(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", ("cat",), seed=200)
    assert "the test split has no 'dog'" in data.load(str(tmp_path)).notes
    fill(tmp_path / "test", ("eel",), seed=300)
    assert refusal(tmp_path) == f"{tmp_path / 'test'}: the class 'eel' has no folder in train"


def test_both_names_of_one_split_are_refused(tmp_path):
    for name in ("train", "val", "dev"):
        fill(tmp_path / name)
    assert refusal(tmp_path) == f"{tmp_path}: both dev and val; keep one of the two"


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ("car", "train", "tram"))
    assert data.load(str(tmp_path)).labels == ("car", "train", "tram")
    fill(tmp_path, ("test",))
    assert data.load(str(tmp_path)).labels == ("car", "test", "train", "tram")


def test_a_class_with_folders_may_be_called_train(tmp_path):
    fill(tmp_path, ("car", "train/steam", "train/diesel"))
    assert data.load(str(tmp_path)).labels == ("car", "train")


def test_the_training_split_alone_may_be_given(tmp_path):
    made = fill(tmp_path / "train")
    found = data.load(str(tmp_path))
    assert found.labels == ("cat", "dog")
    assert samples(found).keys() == {array.tobytes() for array in made.values()}


def test_folders_beside_the_splits_are_passed_over_and_counted(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", seed=200)
    fill(tmp_path / "raw", seed=300)
    (tmp_path / "README.txt").write_text("pets", encoding="utf-8")
    found = data.load(str(tmp_path))
    assert found.labels == ("cat", "dog")
    assert "2 other files passed over (.txt: 1, the folder 'raw': 1)" in found.notes


def test_an_image_is_never_in_two_splits(tmp_path):
    """As copies, under other names, in another format, or with other data in the file."""
    fill(tmp_path / "train", each=12)
    made = fill(tmp_path / "test", seed=200)
    first, second, *_ = (path for path in made if path.parent.name == "cat")
    shutil.copy(first, tmp_path / "train" / "cat" / "copy.png")
    save(tmp_path / "train" / "cat" / "second.bmp", made[second])
    save(tmp_path / "train" / "dog" / "lie.png", made[second], compress_level=0)
    found = data.load(str(tmp_path))
    assert sum(map(len, splits(found))) == len(samples(found)) == 24 + 20
    assert len(found.test) == 20
    assert "1 train image left out, standing in the test split too" in found.notes
    assert "2 images with conflicting labels left out" in found.notes


def test_splits_and_digest_do_not_hang_on_the_order_that_the_disk_gives(tmp_path, monkeypatch):
    fill(tmp_path / "one", shape=(9, 9, 3))
    order = random.Random(SEED)
    for path in order.sample(sorted((tmp_path / "one").rglob("*.png")), 20):
        target = tmp_path / "two" / path.relative_to(tmp_path / "one")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, two = data.load(str(tmp_path / "one")), data.load(str(tmp_path / "two"))
    assert one.digest == two.digest
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    assert data.load(str(tmp_path / "one")).digest == one.digest


# Sizes


def test_images_of_mixed_sizes_are_brought_to_one(tmp_path):
    shapes = [(8, 8, 3), (300, 20, 3), (64, 64, 3), (5, 90, 3), (1, 1, 3)]
    made = {}
    for i in range(40):
        array = pixels(i, shapes[i // 2 % 5])
        made[save(tmp_path / "ab"[i % 2] / f"{i}.png", array)] = array
    found = data.load(str(tmp_path))
    assert found.sample.shape == (-1, -1, 3)
    assert found.decode == ({"op": "resize", "height": 64, "width": 64, "fit": "crop"},)
    assert found.input_shape == (3, 64, 64)
    resize = preprocess.build(found.decode)
    wanted = {resize(array).tobytes(): path.parent.name for path, array in made.items()}
    assert samples(found) == wanted
    assert found.notes[0] == "40 RGB images of 5 sizes, brought to 64×64 (the middle kept)"


def test_the_boards_steps_leave_the_samples_as_they_are(tmp_path):
    fill(tmp_path, shape=(30, 70, 3))
    found = data.load(str(tmp_path), decoding=Decoding(image_size=(20, 24)))
    assert found.train.x.shape[1:] == (20, 24, 3)
    np.testing.assert_array_equal(preprocess.build(found.decode)(found.train.x), found.train.x)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_size_and_fit_are_those_asked_for(tmp_path, fit):
    made = fill(tmp_path, shape=(12, 24, 3))
    found = data.load(str(tmp_path), decoding=Decoding(image_size=(8, 10), image_fit=fit))
    step = {"op": "resize", "height": 8, "width": 10, "fit": fit}
    assert (found.sample.shape, found.decode) == ((-1, -1, 3), (step,))
    resize = preprocess.build([step])
    assert samples(found).keys() == {resize(array).tobytes() for array in made.values()}


def test_digests_tell_how_images_were_brought_to_size(tmp_path):
    fill(tmp_path, shape=(8, 8, 3))
    ways = [Decoding(), Decoding(image_size=(8, 8)), Decoding(image_size=(8, 8), image_fit="pad")]
    assert len({data.load(str(tmp_path), decoding=way).digest for way in ways}) == 3


def test_large_images_of_one_size_are_made_small(tmp_path):
    fill(tmp_path, shape=(257, 8, 3), each=8)
    found = data.load(str(tmp_path))
    assert (found.sample.shape, found.input_shape) == ((-1, -1, 3), (3, 64, 64))


def test_images_of_one_pixel_are_made_large(tmp_path):
    for i in range(40):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", np.full((1, 1), i, np.uint8))
    found = data.load(str(tmp_path))
    assert found.input_shape == (1, 64, 64)
    assert samples(found).keys() == {bytes([i] * 64 * 64) for i in range(40)}


# Colours


def test_images_are_grey_if_all_files_are(tmp_path):
    for i in range(20):
        grey = Image.fromarray(pixels(i, (8, 8)))
        place = tmp_path / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        made = [grey, grey.convert("1"), grey.convert("LA"), grey.convert("P")][i // 2 % 4]
        made.save(place / f"{i}.png")
    found = data.load(str(tmp_path))
    assert found.sample.shape == (8, 8, 1)
    assert pixels(0, (8, 8)).tobytes() in samples(found)
    save(tmp_path / "a" / "colour.png", pixels(90))
    found = data.load(str(tmp_path))
    assert found.sample.shape == (8, 8, 3)
    assert np.repeat(pixels(0, (8, 8, 1)), 3, -1).tobytes() in samples(found)


def test_palettes_of_colours_are_not_grey(tmp_path):
    for i in range(20):
        place = tmp_path / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels(i)).quantize(4).save(place / f"{i}.png")
    assert data.load(str(tmp_path)).sample.shape == (8, 8, 3)


@pytest.mark.parametrize(("colours", "channels"), [("auto", 3), ("rgb", 3), ("grey", 1)])
def test_colours_are_those_asked_for(tmp_path, colours, channels):
    made = fill(tmp_path)
    found = data.load(str(tmp_path), decoding=Decoding(image_colours=colours))
    assert found.sample.shape == (8, 8, channels)
    assert samples(found).keys() == {images.read(path, channels).tobytes() for path in made}


def test_a_choice_that_does_not_exist_is_refused(tmp_path):
    fill(tmp_path)
    sentence = refusal(tmp_path, Decoding(image_colours="gray"))
    assert sentence.startswith("no choice of colours named 'gray'; did you mean 'grey'?")


def test_palettes_alpha_and_16_bits_become_what_they_look_like(tmp_path):
    red, white, black = (255, 0, 0), (255, 255, 255), (0, 0, 0)
    fill(tmp_path)
    odd = tmp_path / "cat"
    palette = Image.new("P", (8, 8), 7)
    palette.putpalette([*black * 7, *red])
    palette.save(odd / "palette.png")
    Image.new("RGBA", (8, 8), (0, 0, 255, 0)).save(odd / "clear.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 51)).save(odd / "pale.png")
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(odd / "deep.png")
    Image.new("CMYK", (8, 8), (255, 255, 255, 255)).save(odd / "print.tif")
    found = samples(data.load(str(tmp_path)))
    for colour in (red, white, (204, 204, 204), (128, 128, 128), black):
        assert found[bytes(colour) * 64] == "cat"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_their_camera_says(tmp_path, orientation):
    upright = pixels(1, (6, 9, 3))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    fill(tmp_path, shape=(6, 9, 3), seed=50)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "dog" / "turned.png", np.ascontiguousarray(stored), exif=exif)
    found = data.load(str(tmp_path))
    assert found.sample.shape == (6, 9, 3)
    assert samples(found)[upright.tobytes()] == "dog"


def test_images_of_one_size_that_lie_otherwise_have_no_common_size(tmp_path):
    fill(tmp_path, ("cat",), shape=(6, 9, 3))
    fill(tmp_path, ("dog",), shape=(9, 6, 3))
    assert data.load(str(tmp_path)).sample.shape == (-1, -1, 3)


# Files that are no images


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["0", "text", "head"]
)
def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "dog" / "bad.png").write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path / 'dog' / 'bad.png'}: not a readable image (")


def test_cut_images_are_refused_by_the_first_of_them_with_their_number(tmp_path):
    fill(tmp_path, shape=(40, 40, 3))
    for name in ("cat/3.png", "dog/1.png", "dog/7.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    sentence = refusal(tmp_path)
    assert sentence.startswith(f"{tmp_path / 'cat' / '3.png'}: not a readable image (")
    assert sentence.endswith(") (and 2 more)")


def test_a_link_to_nothing_is_refused_by_its_name(tmp_path):
    fill(tmp_path)
    (tmp_path / "dog" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'dog' / 'lost.png'}: cannot be read (No such file or directory)"
    )


def bomb(width, height):
    """A PNG file of a few bytes that claims so many pixels."""

    def chunk(name, content):
        body = name + content
        return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (1 << 16, 1025)])
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, size):
    fill(tmp_path)
    path = tmp_path / "cat" / "bomb.png"
    path.write_bytes(bomb(*size))
    sentence = refusal(tmp_path)
    assert sentence.startswith(f"{path}: the image has ")
    assert sentence.endswith("pixels (64 megapixels); make it smaller")


def test_a_few_images_are_read_at_once_and_no_more(tmp_path, monkeypatch):
    fill(tmp_path, each=20)
    read, eight, nine = images.read, threading.Barrier(8), threading.Barrier(9)
    met = []

    def meeting(path, channels):
        for barrier, seconds in ((eight, 5), (nine, 0.5)):
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(seconds)
                met.append(barrier)
        return read(path, channels)

    monkeypatch.setattr(images, "read", meeting)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    data.load(str(tmp_path), decoding=Decoding(image_size=(8, 8)))
    assert eight in met
    assert nine not in met


def test_a_whole_image_is_gone_when_the_next_is_read(tmp_path, monkeypatch):
    fill(tmp_path, shape=(30, 30, 3))
    read, alive = images.read, weakref.WeakSet()

    class Whole(np.ndarray):
        """An array that a set can hold."""

        __hash__ = object.__hash__

    most = 0

    def watched(path, channels):
        nonlocal most
        array = read(path, channels).view(Whole)
        alive.add(array)
        most = max(most, len(alive))
        return array

    monkeypatch.setattr(images, "read", watched)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    data.load(str(tmp_path), decoding=Decoding(image_size=(8, 8)))
    assert 0 < most <= 2


def test_reading_leaves_the_settings_of_warnings_alone(tmp_path):
    fill(tmp_path, each=40)
    before = list(warnings.filters)
    data.load(str(tmp_path))
    assert warnings.filters == before


# Folders that are something else


def test_images_without_folders_of_classes_are_refused(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", pixels(i))
    assert refusal(tmp_path) == (
        f"{tmp_path}: 3 images and no folders of classes; put the files of each class into a "
        "folder with the class's name"
    )


def test_images_beside_sounds_are_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "dog" / "bark.wav").write_bytes(b"RIFF")
    assert refusal(tmp_path) == (
        f"{tmp_path}: both images (20) and .wav files (1); keep one kind in a folder"
    )


def test_folders_of_nothing_known_are_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("miaow", encoding="utf-8")
    assert refusal(tmp_path).startswith(
        f"{tmp_path}: no images, .wav or .csv files in its folders, and no table train.csv"
    )


def test_a_table_beside_folders_of_images_is_a_folder_of_texts(tmp_path):
    fill(tmp_path)
    rows = "\n".join(f"text number {i},{'ab'[i % 2]}" for i in range(40))
    (tmp_path / "train.csv").write_text(f"text,label\n{rows}\n", encoding="utf-8")
    assert data.load(str(tmp_path)).task == "text-classification"


def test_columns_are_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(DataError, match="holds images; columns are for tables"):
        data.load(str(tmp_path), Columns(label="label"))
