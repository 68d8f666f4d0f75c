"""Data become fixed, stratified splits, or a sentence that says what is wrong with them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from edgedistill import data
from edgedistill.errors import DataError

SEED = 11


def images(count=40, shape=(8, 8)):
    return np.random.default_rng(SEED).integers(0, 256, (count, *shape), np.uint8)


def labels(count=40, classes=2):
    return np.arange(count) % classes


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        path = tmp_path / "cats.npz"
        np.savez(path, **arrays)
        return str(path)

    return save


def refusal(source):
    with pytest.raises(DataError) as caught:
        data.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Splits


def test_the_digits_have_1797_samples_in_three_splits():
    digits = data.load("digits")
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1077, 270, 450]
    assert digits.labels == tuple("0123456789")
    assert digits.sample.shape == (8, 8, 1)
    assert digits.input_shape == (1, 8, 8)
    assert digits.train.x.dtype == np.uint8
    assert (digits.train.x.min(), digits.train.x.max()) == (0, 255)


def test_every_class_has_its_share_of_every_split():
    digits = data.load("digits")
    splits = (digits.train, digits.validation, digits.test)
    whole = np.bincount(np.concatenate([s.y for s in splits]), minlength=10)
    for split in splits:
        expected = whole * len(split) / whole.sum()
        assert np.abs(np.bincount(split.y, minlength=10) - expected).max() <= 1


def test_no_sample_is_in_two_splits_and_none_is_lost(save):
    count = 200
    x = np.zeros((count, 4, 4), np.uint8)
    x[:, 0, 0] = np.arange(count)  # every image is another
    found = data.load(save(x=x, y=labels(count, 4)))
    parts = [set(s.x[:, 0, 0, 0].tolist()) for s in (found.train, found.validation, found.test)]
    assert set.union(*parts) == set(range(count))
    assert sum(map(len, parts)) == count


def test_images_keep_their_labels(save):
    x = np.repeat(labels(80, 4).astype(np.uint8), 16).reshape(80, 4, 4)
    found = data.load(save(x=x, y=np.array(["cat", "dog", "eel", "fox"])[labels(80, 4)]))
    assert found.labels == ("cat", "dog", "eel", "fox")
    for split in (found.train, found.validation, found.test):
        assert (split.x[:, 0, 0, 0] == split.y).all()


def test_splits_are_the_same_in_every_call_whatever_was_random_before():
    one = data.load("digits")
    np.random.default_rng().random()
    other = data.load("digits")
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(one, name).x, getattr(other, name).x)
        np.testing.assert_array_equal(getattr(one, name).y, getattr(other, name).y)
    assert one.digest == other.digest


def test_images_know_their_task_and_have_one_label_each():
    digits = data.load("digits")
    assert digits.task == "image-classification"
    assert not digits.multi_label
    assert digits.unlabelled is None


def test_columns_are_refused_for_images(save):
    for source in ("digits", save(x=images(), y=labels())):
        with pytest.raises(DataError, match="holds images; columns are for tables of texts"):
            data.load(source, data.Columns(text="text"))


# Digests


def test_the_digest_changes_with_every_pixel_label_and_name_of_a_label(save):
    x, y = images(), labels()
    digests = [data.load(save(x=x, y=y)).digest]
    pixel = x.copy()
    pixel[7, 3, 3] ^= 1
    digests.append(data.load(save(x=pixel, y=y)).digest)
    swapped = y.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    digests.append(data.load(save(x=x, y=swapped)).digest)
    digests.append(data.load(save(x=x, y=y + 1)).digest)
    assert len(set(digests)) == 4


def test_the_digest_of_the_digits_stays():
    whole = data.load("digits").digest
    assert whole == "24b086b094b0b27750a45051ef10f5b3990bfda853a24e5a8d3ab3b3101ba444"


def test_the_digest_does_not_depend_on_the_files_name(tmp_path):
    for name in ("one", "other"):
        np.savez(tmp_path / f"{name}.npz", x=images(), y=labels())
    one, other = (data.load(str(tmp_path / f"{name}.npz")) for name in ("one", "other"))
    assert one.digest == other.digest
    assert (one.name, other.name) == ("one", "other")


# Files


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (5, 9, 3)])
def test_grey_and_rgb_images_of_any_shape_are_read(save, shape):
    found = data.load(save(x=images(shape=shape), y=labels()))
    channels = shape[2] if len(shape) == 3 else 1
    assert found.sample.shape == (*shape[:2], channels)
    assert found.input_shape == (channels, *shape[:2])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64, str])
def test_labels_are_integers_of_any_type_or_texts(save, kind):
    y = np.array([3, 10, 200])[labels(48, 3)].astype(kind)
    found = data.load(save(x=images(48), y=y))
    numeric = ("3", "10", "200")
    assert found.labels == (tuple(sorted(numeric)) if kind is str else numeric)


def test_a_compressed_file_is_read_as_a_plain_one(tmp_path, save):
    np.savez_compressed(tmp_path / "small.npz", x=images(), y=labels())
    plain = data.load(save(x=images(), y=labels()))
    assert data.load(str(tmp_path / "small.npz")).digest == plain.digest


def test_arrays_beside_x_and_y_are_passed_over(save):
    assert len(data.load(save(x=images(), y=labels(), note=np.arange(3))).test) == 10


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_file_without_one_of_its_arrays_is_refused(save, name):
    arrays = {"x": images(), "y": labels()}
    del arrays[name]
    assert refusal(save(**arrays)).endswith(
        f"cats.npz: no array '{name}'; the file needs x (images) and y (labels)"
    )


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (images().astype(np.float32), "x is float32 of shape [40, 8, 8]"),
        (images().astype(np.int64), "x is int64 of shape [40, 8, 8]"),
        (images(shape=(64,)), "x is uint8 of shape [40, 64]"),
        (images(shape=(8, 8, 2)), "x is uint8 of shape [40, 8, 8, 2]"),
        (images(shape=(8, 8, 1, 1)), "x is uint8 of shape [40, 8, 8, 1, 1]"),
        (np.uint8(3), "x is uint8 of shape []"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_of_the_wrong_kind_are_refused_with_what_was_found(save, x, found):
    sentence = refusal(save(x=x, y=labels()))
    assert f"cats.npz: {found}; images are uint8 of shape [n, height, width]" in sentence


def test_images_too_small_for_any_network_are_refused(save):
    sentence = refusal(save(x=images(shape=(3, 40)), y=labels()))
    assert sentence.endswith("the images are 40×3; at least 4×4")


@pytest.mark.parametrize(
    ("y", "found"),
    [
        (labels().astype(np.float32), "y is float32 of shape [40]"),
        (labels().astype(bool), "y is bool of shape [40]"),
        (labels()[:39], "y is int64 of shape [39]"),
        (labels().reshape(40, 1), "y is int64 of shape [40, 1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_of_the_wrong_kind_are_refused_with_what_was_found(save, y, found):
    sentence = refusal(save(x=images(), y=y))
    assert f"cats.npz: {found}; it holds one integer or text label for each of the 40" in sentence


@pytest.mark.parametrize("name", ["x", "y"])
def test_objects_are_never_unpickled(save, tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    arrays = {"x": images(), "y": labels(), name: np.array([Bomb()] * 40, object)}
    sentence = refusal(save(**arrays))
    assert sentence.endswith("(it holds Python objects; only arrays of numbers and texts are read)")
    assert not (tmp_path / "exploded").exists()


def test_one_class_is_refused(save):
    sentence = refusal(save(x=images(), y=labels() * 0))
    assert sentence == "cats: only one class; a classifier needs two classes or more"


def test_no_sample_at_all_is_refused(save):
    assert refusal(save(x=images(0), y=labels(0))).startswith("cats: no samples; ")


def test_a_tiny_class_is_refused_by_its_name(save):
    y = np.array(["cat"] * 33 + ["dog"] * 7)
    sentence = refusal(save(x=images(), y=y))
    assert sentence.startswith("cats: the class 'dog' has 7 samples; at least 8 are needed")


def test_many_classes_of_the_least_size_are_split(save):
    found = data.load(save(x=images(8 * 30), y=labels(8 * 30, 30)))
    for split in (found.train, found.validation, found.test):
        assert set(split.y) == set(range(30))


# What is no such file


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06"], ids=["empty", "text", "zip"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "cats.npz"
    path.write_bytes(content)
    assert refusal(str(path)) == f"{path}: not an .npz file, as numpy.savez writes it"


def test_a_bare_array_is_refused(tmp_path):
    path = tmp_path / "cats.npz"
    with path.open("wb") as file:
        np.save(file, images())
    assert refusal(str(path)) == f"{path}: not an .npz file, as numpy.savez writes it"


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "cats.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", "not an array")
    assert refusal(str(path)).startswith(f"{path}: no array 'y'")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    path = tmp_path / "cats.npz"
    assert refusal(str(path)) == f"{path}: cannot be read (No such file or directory)"
    folder = tmp_path / "dogs.npz"
    folder.mkdir()
    assert refusal(str(folder)) == f"{folder}: cannot be read (Is a directory)"


def test_a_misspelt_name_is_told_with_the_nearest_one():
    assert refusal("digts") == (
        "no data set named 'digts'; did you mean 'digits'? (known: digits); "
        "or give the path of a file or folder"
    )


def test_a_damaged_file_is_read_whole_or_refused_in_a_sentence(tmp_path):
    """Single flipped bits and cut ends: never another kind of exception, never other data."""
    random = np.random.default_rng(SEED)
    path = tmp_path / "cats.npz"
    for write in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        write(buffer, x=images(), y=labels())
        good = buffer.getvalue()
        path.write_bytes(good)
        whole = data.load(str(path)).digest
        for place in random.choice(len(good), 200, replace=False):
            damaged = bytearray(good)
            damaged[place] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
            _read_or_refused(path, whole)
        for end in random.choice(len(good), 50, replace=False):
            path.write_bytes(good[:end])
            _read_or_refused(path, whole)


def _read_or_refused(path, whole):
    try:
        found = data.load(str(path)).digest
    except DataError as error:
        found, sentence = None, str(error)
    assert found == whole or sentence.startswith(f"{path}: ")
