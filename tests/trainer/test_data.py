"""Data become fixed, stratified splits, or a sentence that says what is wrong with them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from edgedistill import data
from edgedistill.data import Decoding
from edgedistill.errors import DataError
from edgedistill_runtime import preprocess
from edgedistill_runtime.manifest import Sample

SEED = 11
IMAGE = Sample("image", "uint8", (4, 4, 1))


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


def splits(found):
    return found.train, found.validation, found.test


def whole(found):
    """The bytes of every sample, once."""
    return {sample.tobytes() for part in splits(found) for sample in part.x}


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
    x = np.zeros((80, 4, 4), np.uint8)
    x[:, 0, 0], x[:, 1, 1] = labels(80, 4), np.arange(80)
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
        with pytest.raises(DataError, match=r"holds images; columns are for tables$"):
            data.load(source, data.Columns(text="text"))


SETTINGS = [
    ("image", "image_size", {"image_size": (8, 8)}),
    ("image", "image_fit", {"image_fit": "pad"}),
    ("image", "image_colours", {"image_colours": "grey"}),
    ("audio", "sample_rate_hz", {"rate_hz": 8000}),
    ("audio", "window_s", {"window_s": 1.0}),
    ("audio", "hop_s", {"hop_s": 1.0}),
    ("audio", "mel_bands", {"mel_bands": 20}),
    ("sensor", "window", {"window": 64}),
    ("sensor", "hop", {"hop": 64}),
]
HELD = {"image": "images", "audio": "sound", "sensor": "sensor data", "text": "texts"}


@pytest.mark.parametrize(
    ("kind", "whose", "name", "given"),
    [(kind, *setting) for setting in SETTINGS for kind in HELD if kind != setting[0]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_for_another_kind_of_data_are_refused(tmp_path, save, kind, whose, name, given):
    if kind == "text":
        source = tmp_path / "texts.csv"
        source.write_text("text,label\ngood,a\nbad,b\n", encoding="utf-8")
    elif kind == "sensor":
        source = save(x=np.zeros((40, 3, 8), np.float32), y=labels())
    elif kind == "audio":
        source = save(x=np.zeros((40, 800), np.int16), y=labels())
    else:
        source = save(x=images(), y=labels())
    with pytest.raises(DataError) as caught:
        data.load(str(source), decoding=Decoding(**given))
    assert str(caught.value) == f"{source}: holds {HELD[kind]}; {name} is for {HELD[whose]}"


def test_the_digits_are_brought_to_the_size_asked_for():
    found = data.load("digits", decoding=Decoding(image_size=(16, 12)))
    assert (found.sample.shape, found.input_shape) == ((-1, -1, 1), (1, 16, 12))
    assert found.train.x.shape == (1077, 16, 12, 1)


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
        f"cats.npz: no array '{name}'; the file needs x (samples) and y (labels)"
    )


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (images().astype(bool), "x is bool of shape [40, 8, 8]"),
        (images().astype(complex), "x is complex128 of shape [40, 8, 8]"),
        (images(shape=(64,)).astype(np.float32), "x is float32 of shape [40, 64]"),
        (images(shape=(64,)).astype(np.int32), "x is int32 of shape [40, 64]"),
        (images(shape=(8, 8, 3)).astype(np.int16), "x is int16 of shape [40, 8, 8, 3]"),
        (images(shape=(64,)), "x is uint8 of shape [40, 64]"),
        (images(shape=(8, 8, 2)), "x is uint8 of shape [40, 8, 8, 2]"),
        (images(shape=(8, 8, 1, 1)), "x is uint8 of shape [40, 8, 8, 1, 1]"),
        (np.uint8(3), "x is uint8 of shape []"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_samples_of_no_kind_are_refused_with_what_was_found(save, x, found):
    sentence = refusal(save(x=x, y=labels()))
    assert f"cats.npz: {found}; images are uint8 of shape [n, height, width]" in sentence


def test_images_too_small_for_any_network_are_refused(save):
    sentence = refusal(save(x=images(shape=(3, 40)), y=labels()))
    assert sentence.endswith("the images are 40×3; at least 4×4, or give image_size")


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


# Sound and sensors


def sounds(count=40, samples=4000):
    return np.random.default_rng(SEED).integers(-999, 999, (count, samples), np.int16)


def readings(count=40, shape=(3, 16)):
    return np.random.default_rng(SEED).normal(size=(count, *shape)).astype(np.float32)


def test_int16_of_two_dimensions_are_sound(save):
    found = data.load(save(x=sounds(), y=labels(), rate=8000), decoding=Decoding(rate_hz=8000))
    assert found.task == "audio-classification"
    assert found.sample == Sample("audio", "int16", (4000,), 8000.0, None)
    assert found.train.x.dtype == np.int16
    assert whole(found) == {clip.tobytes() for clip in sounds()}
    (mel,) = found.features
    assert (mel["op"], mel["rate_hz"], mel["bands"]) == ("log_mel", 8000, 40)
    spectra = preprocess.build(found.features)(found.train.x)
    assert found.input_shape == (1, *spectra.shape[1:])
    assert spectra.shape[1] == 40


def test_sound_without_a_rate_has_the_one_asked_for(save):
    found = data.load(save(x=sounds(), y=labels()), decoding=Decoding(rate_hz=11025))
    assert (found.sample.rate_hz, found.sample.shape) == (11025.0, (4000,))


def test_sound_of_another_rate_is_resampled(save):
    found = data.load(save(x=sounds(), y=labels(), rate=np.array([8000.0])))
    assert (found.sample.rate_hz, found.sample.shape) == (16000.0, (8000,))


def test_the_digest_of_sound_changes_with_its_rate(save):
    source = save(x=sounds(), y=labels())
    ways = [Decoding(), Decoding(rate_hz=8000), Decoding(mel_bands=20)]
    assert len({data.load(source, decoding=way).digest for way in ways}) == 3


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.int16, np.int64])
def test_other_numbers_of_three_dimensions_are_sensor_data(save, kind):
    x = (readings() * 40).astype(kind)
    found = data.load(save(x=x, y=labels(), rate=50))
    assert found.task == "sensor-classification"
    assert found.sample == Sample("sensor", "float32", (3, 16), 50.0, None)
    assert (found.input_shape, found.features, found.decode) == ((3, 1, 16), (), ())
    assert found.train.x.dtype == np.float32
    assert whole(found) == {window.tobytes() for window in x.astype(np.float32)}


def test_sensor_data_need_no_rate_and_keep_their_groups(save):
    found = data.load(save(x=readings(120), y=labels(120), group=np.arange(120) // 6))
    assert found.sample.rate_hz is None
    group_of = {window.tobytes(): i // 6 for i, window in enumerate(readings(120))}
    parts = [{group_of[window.tobytes()] for window in part.x} for part in splits(found)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20


def test_equal_bytes_of_another_shape_have_another_digest(save):
    digests = [
        data.load(save(x=readings().reshape(40, *shape), y=labels())).digest
        for shape in ((3, 16), (6, 8))
    ]
    assert len(set(digests)) == 2


@pytest.mark.parametrize(
    ("rate", "found"),
    [
        (np.array([8000, 8000]), "rate is int64 of shape [2]; it is one number"),
        (np.array("8000"), "rate is str128 of shape []; it is one number"),
        (0, "rate is 0; it is over 0 and at most 1e+09"),
        (-8000.0, "rate is -8000; it is over 0"),
        (np.nan, "rate is nan; it is over 0"),
        (np.inf, "rate is inf; it is over 0"),
    ],
    ids=["two", "text", "zero", "negative", "nan", "infinite"],
)
def test_a_rate_that_is_none_is_refused(save, rate, found):
    assert f"cats.npz: {found}" in refusal(save(x=sounds(), y=labels(), rate=rate))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_readings_that_are_no_numbers_are_refused(save, bad):
    x = readings()
    x[7, 1, 3] = bad
    assert "cats.npz: x[7, 1, 3] is " in refusal(save(x=x, y=labels()))


@pytest.mark.parametrize("x", [sounds(samples=0), readings(shape=(3, 0)), readings(shape=(0, 9))])
def test_samples_without_content_are_refused(save, x):
    assert f"cats.npz: x has the shape {list(x.shape)}; there " in refusal(save(x=x, y=labels()))


# Tables


def table(path, header, rows):
    lines = [",".join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def steps(label=lambda i: "ab"[i // 40 % 2], count=1600):
    random = np.random.default_rng(SEED)
    return [(*random.normal(size=3).round(3), label(i)) for i in range(count)]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("x", "y", "z", "label"), data.Columns()),
        (("x", "y", "z", "activity"), data.Columns()),
        (("one", "two", "three", "doing"), data.Columns(label="doing")),
        (("timestamp", "one", "two", "Class"), data.Columns()),
    ],
)
def test_a_table_of_numbers_is_sensor_data(tmp_path, header, columns):
    rows = steps()
    if "timestamp" in header:
        rows = [(f"2024-05-01 {i // 60:02}:{i % 60:02}", *row[1:]) for i, row in enumerate(rows)]
    source = table(tmp_path / "walks.csv", header, rows)
    found = data.load(source, columns, Decoding(window=16))
    channels = 2 if "timestamp" in header else 3
    assert (found.name, found.task) == ("walks", "sensor-classification")
    assert found.input_shape == (channels, 1, 16)
    assert found.labels == ("a", "b")


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (("n", "m", "label", "words"), data.Columns()),
        (("n", "m", "text", "label"), data.Columns()),
        (("n", "m", "k", "said"), data.Columns(text="said", label="k")),
    ],
)
def test_a_table_with_texts_is_of_texts(tmp_path, header, columns):
    rows = [(i, i % 3, i % 2, f"some words {i}") for i in range(60)]
    if header[3] == "label":
        rows = [(i, k, words, n) for i, k, n, words in rows]
    source = table(tmp_path / "said.csv", header, rows)
    assert data.load(source, columns).task == "text-classification"


def test_a_text_may_be_a_number(tmp_path):
    """A column that is named like texts holds texts."""
    source = table(tmp_path / "said.csv", ("text", "label"), [(i, i % 2) for i in range(60)])
    assert data.load(source).task == "text-classification"


# Duplicates and groups


def test_of_equal_images_one_is_kept(save):
    x, y = images(60), labels(60)
    found = data.load(save(x=np.concatenate([x, x[:25]]), y=np.concatenate([y, y[:25]])))
    assert whole(found) == {image.tobytes() for image in x}
    assert sum(map(len, splits(found))) == 60
    assert found.notes[0] == "25 duplicate images left out"
    assert found.notes[1] == "test (15) and validation (9) held out of 60 images"


def test_equal_images_with_other_labels_are_all_left_out(save):
    x, y = images(60), labels(60)
    found = data.load(save(x=np.concatenate([x, x[:3]]), y=np.concatenate([y, 1 - y[:3]])))
    assert whole(found) == {image.tobytes() for image in x[3:]}
    assert found.notes[0] == "6 images with conflicting labels left out"


def test_a_class_that_is_small_without_its_duplicates_is_refused_and_told_why(save):
    x = images(40)
    x[3::2] = x[1]
    assert refusal(save(x=x, y=labels())).startswith(
        "cats (19 duplicate images left out): the class '1' has 1 sample; at least 8 are needed"
    )


@pytest.mark.parametrize("kind", [int, str])
def test_no_group_is_in_two_splits(save, kind):
    x, group = images(240), np.arange(240) // 8
    found = data.load(save(x=x, y=labels(240, 3), group=group.astype(kind)))
    group_of = {image.tobytes(): g for image, g in zip(x, group, strict=True)}
    parts = [{group_of[image.tobytes()] for image in part.x} for part in splits(found)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert whole(found) == {image.tobytes() for image in x}
    assert all(set(part.y) == {0, 1, 2} for part in splits(found))
    assert 40 <= len(found.test) <= 80


def test_samples_of_groups_do_not_stand_class_after_class(save):
    y = np.sort(labels(240, 3))
    found = data.load(save(x=images(240), y=y, group=np.arange(240) // 4))
    assert (np.diff(found.train.y) != 0).sum() > 20


def test_a_class_of_one_group_is_learned_and_missed_in_the_other_splits(save):
    y = np.r_[np.zeros(80, int), np.ones(80, int), np.full(20, 2)]
    group = np.r_[np.arange(160) // 8, np.full(20, 99)]
    found = data.load(save(x=images(180), y=y, group=group))
    assert set(found.train.y) == {0, 1, 2}
    assert {"the test split has no '2'", "the validation split has no '2'"} <= set(found.notes)


def test_too_few_groups_are_refused(save):
    sentence = refusal(save(x=images(), y=labels(), group=np.arange(40) // 20))
    assert sentence == ("cats: 2 groups; at least 3 are needed, since none may be in two splits")
    sentence = refusal(save(x=images(), y=np.arange(40) // 10, group=np.arange(40) // 10))
    assert "has no sample left to train with: it stands in 1 group (a recording is one)" in sentence


@pytest.mark.parametrize(
    ("group", "found"),
    [
        (labels()[:39], "group is int64 of shape [39]"),
        (labels() / 2, "group is float64 of shape [40]"),
        (np.int64(3), "group is int64 of shape []"),
    ],
    ids=["short", "float", "scalar"],
)
def test_groups_of_the_wrong_kind_are_refused_with_what_was_found(save, group, found):
    sentence = refusal(save(x=images(), y=labels(), group=group))
    assert f"cats.npz: {found}; it holds one integer or text group for each of the 40" in sentence


# Splits that are given


def given(count=60, seed=1):
    x = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)
    return x, labels(count, 3)


def test_a_given_test_split_stays_and_nothing_of_it_is_trained_with():
    (x, y), (test_x, test_y) = given(), given(20, seed=2)
    test_x[:5] = x[:5]
    found = data.split("x", x, y, tuple("abc"), IMAGE, test=(test_x, test_y))
    assert {i.tobytes() for i in found.test.x} == {i.tobytes() for i in test_x}
    assert whole(found) == {i.tobytes() for i in [*x, *test_x]}
    assert sum(map(len, splits(found))) == 75
    assert found.notes == (
        "5 train images left out, standing in the test split too",
        "validation (11) held out of 55 images",
    )


def test_splits_that_are_all_given_stay_apart():
    (x, y), (valid_x, valid_y), (test_x, test_y) = given(), given(20, seed=2), given(20, seed=3)
    valid_x[0], x[:2], x[2] = test_x[0], test_x[:2], valid_x[3]
    found = data.split(
        "x", x, y, tuple("abc"), IMAGE, validation=(valid_x, valid_y), test=(test_x, test_y)
    )
    assert [len(part) for part in splits(found)] == [57, 19, 20]
    assert len(whole(found)) == 96
    assert {i.tobytes() for i in found.train.x} == {i.tobytes() for i in x[3:]}
    assert found.train.x.tobytes() != x[3:].tobytes()  # in another order
    assert found.notes[0] == "1 validation image left out, standing in the test split too"


def test_a_given_split_without_samples_is_refused():
    x, y = given()
    with pytest.raises(DataError, match=r"^x: the test split has no samples$"):
        data.split("x", x, y, tuple("abc"), IMAGE, test=(x[:0], y[:0]))


def test_a_validation_split_that_is_a_copy_of_the_test_split_is_refused():
    (x, y), copy = given(), given(20, seed=2)
    with pytest.raises(DataError) as caught:
        data.split("x", x, y, tuple("abc"), IMAGE, validation=copy, test=copy)
    assert str(caught.value) == (
        "x (20 validation images left out, standing in the test split too): "
        "the validation split has no samples"
    )


def test_a_class_without_a_test_sample_is_told():
    (x, y), (test_x, test_y) = given(), given(20, seed=2)
    found = data.split("x", x, y, tuple("abc"), IMAGE, test=(test_x, test_y % 2))
    assert "the test split has no 'c'" in found.notes


# Images of another size


def test_images_are_brought_to_the_size_asked_for(save):
    x = images(40, (8, 8, 3))
    source = save(x=x, y=labels())
    found = data.load(source, decoding=Decoding(image_size=(12, 10)))
    assert found.sample == Sample("image", "uint8", (-1, -1, 3))
    assert found.decode == ({"op": "resize", "height": 12, "width": 10, "fit": "crop"},)
    assert (found.train.x.shape[1:], found.input_shape) == ((12, 10, 3), (3, 12, 10))
    assert whole(found) == {image.tobytes() for image in preprocess.build(found.decode)(x)}
    assert found.digest != data.load(source).digest


def test_images_of_one_pixel_are_brought_to_the_size_asked_for(save):
    x = np.arange(40, dtype=np.uint8).reshape(40, 1, 1)
    found = data.load(save(x=x, y=labels()), decoding=Decoding(image_size=(8, 8)))
    assert whole(found) == {bytes([i] * 64) for i in range(40)}


def test_arrays_keep_their_colours(save):
    with pytest.raises(DataError, match="image_colours is 'rgb' and the images have 1 chan"):
        data.load(save(x=images(), y=labels()), decoding=Decoding(image_colours="rgb"))


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
