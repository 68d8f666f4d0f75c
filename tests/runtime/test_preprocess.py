"""The steps before the model: what they compute, and what they refuse."""

from __future__ import annotations

import itertools
import math
import operator
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from edgedistill_runtime import preprocess
from edgedistill_runtime.errors import BundleError, InputError

NORMALIZE = {"op": "normalize", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
FIRST = {"op": "channels_first"}
STEPS = [NORMALIZE, FIRST]


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (6, 4, 5, 3), np.uint8)


def test_normalize_is_its_definition(images):
    normalized = preprocess.build([NORMALIZE])(images)
    expected = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    assert normalized.dtype == np.float32
    assert np.allclose(normalized, expected, rtol=0, atol=1e-6)


def test_channels_first_moves_the_last_axis(images):
    moved = preprocess.build([FIRST])(images)
    assert moved.shape == (6, 3, 4, 5)
    assert moved.flags.c_contiguous
    assert np.array_equal(moved[2, 1], images[2, :, :, 1])


def test_a_batch_is_its_samples(images):
    """The host prepares whole splits, the board one sample: the very same numbers."""
    run = preprocess.build(STEPS)
    assert np.array_equal(run(images), np.stack([run(image) for image in images]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_every_number_type_becomes_float32(images, dtype):
    assert preprocess.build(STEPS)(images.astype(dtype)).dtype == np.float32


def test_no_steps_change_nothing(images):
    assert preprocess.build([])(images) is images


def test_the_input_stays_as_it_was(images):
    before = images.copy()
    preprocess.build(STEPS)(images)
    assert np.array_equal(images, before)


def test_a_misspelt_step_gets_a_hint():
    with pytest.raises(BundleError, match="named 'normalise'; did you mean 'normalize'"):
        preprocess.build([{"op": "normalise"}])


@pytest.mark.parametrize("step", [{}, {"op": None}, {"op": ["normalize"]}, {"op": {}}, {"op": ""}])
def test_a_step_without_a_name_is_refused(step):
    with pytest.raises(BundleError, match="no preprocessing step"):
        preprocess.build([step])


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0, 1, 1]},
        {"std": [-1, 1, 1]},
        {"std": [1, 1]},
        {"std": []},
        {"mean": []},
        {"mean": 0.5, "std": 0.5},
        {"mean": [[0.5]], "std": [[0.5]]},
        {"mean": "abc", "std": "abc"},
        {"mean": [None] * 3},
        {"mean": ["1", "2", "3"]},
        {"mean": {"0": 1}, "std": {"0": 1}},
        {"scale": None},
        {"scale": "1"},
        {"scale": [1, 2, 3]},
        {"scale": 1e300},
        {"mean": [1e300, 0, 0]},
        {"std": [1e300, 1, 1]},
        {"std": [1e-300, 1, 1]},
        {"stdd": [1, 1, 1]},
    ],
)
def test_wrong_arguments_are_refused(changes):
    with pytest.raises(BundleError, match="the preprocessing step 'normalize' has wrong arguments"):
        preprocess.build([{**NORMALIZE, **changes}])


def test_more_means_than_channels_are_an_error_and_no_broadcast(images):
    with pytest.raises(ValueError, match="3 means for 1 channels"):
        preprocess.build([NORMALIZE])(images[..., :1])


def test_a_step_that_needs_a_file_says_which():
    step = {"op": "tokenize", "file": "tokenizer.json", "max_length": 8, "max_characters": 8}
    with pytest.raises(BundleError, match=r"'tokenize' lacks its file 'tokenizer\.json'"):
        preprocess.build([step])


# --- sensors


def test_standardize_is_its_definition_to_the_bit():
    """Double precision holds every step exactly enough for one rounding to single."""
    x = np.random.default_rng(8).normal(0, 9, (5, 3, 40)).astype(np.float32)
    mean, std = [0.1, -2.5, 3e-3], [0.7, 11.0, 1e-2]
    made = preprocess.build([{"op": "standardize", "mean": mean, "std": std}])(x)
    centre, width = (np.float32(n).astype(float)[:, None] for n in (mean, std))
    expected = ((x - centre).astype(np.float32) / width).astype(np.float32)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert np.array_equal(made, expected)


def test_standardize_takes_every_number_type():
    x = np.arange(6, dtype=np.int16).reshape(2, 3)
    made = preprocess.build([{"op": "standardize", "mean": [1, 4], "std": [2, 0.5]}])(x)
    assert made.tolist() == [[-0.5, 0, 0.5], [-2, 0, 2]]


def test_insert_axis_is_a_place_in_the_result():
    x = np.zeros((7, 3, 40), np.float32)
    assert preprocess.build([{"op": "insert_axis", "axis": -2}])(x).shape == (7, 3, 1, 40)
    assert preprocess.build([{"op": "insert_axis", "axis": -3}])(x).shape == (7, 1, 3, 40)


@pytest.mark.parametrize("axis", [-1, 0, -4, 2, -2.0, True, None, "-2", [-2], float("nan")])
def test_no_other_axis_can_be_inserted(axis):
    with pytest.raises(BundleError, match="axis must be -2 or -3"):
        preprocess.build([{"op": "insert_axis", "axis": axis}])


# --- the size of images


def resize(height, width, fit="stretch"):
    return preprocess.build([{"op": "resize", "height": height, "width": width, "fit": fit}])


def resized_line(pixels, wanted):
    """By the formulas of docs/bundle-format.md, in Python's whole numbers."""
    size, made = len(pixels), []
    for i in range(wanted):
        reach = 2 * max(size, wanted)
        weights = [
            max(0, reach - abs((2 * x + 1) * wanted - (2 * i + 1) * size)) for x in range(size)
        ]
        total, sums = sum(weights), [0, *itertools.accumulate(weights)]
        steps = [(2 * s * 2**14 + total) // (2 * total) for s in sums]
        shares = [b - a for a, b in itertools.pairwise(steps)]
        assert sum(shares) == 2**14
        made.append((sum(s * p for s, p in zip(shares, pixels, strict=True)) + 2**13) >> 14)
    return made


def resized(image, height, width):
    def rows(x):
        lines = [resized_line(x[:, j, c].tolist(), height) for j, c in np.ndindex(x.shape[1:])]
        return np.array(lines).T.reshape(height, *x.shape[1:])

    def columns(x):
        lines = [resized_line(x[i, :, c].tolist(), width) for i, c in np.ndindex(x.shape[0::2])]
        return np.array(lines).reshape(x.shape[0], x.shape[2], width).swapaxes(1, 2)

    return columns(rows(image)) if len(image) >= height else rows(columns(image))


def sizes(seed, count, most):
    """Pairs of (height, width), some of them tiny."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        h, w, height, width = (int(most ** rng.random()) + int(rng.integers(2)) for _ in "hwHW")
        yield (h, w), (height, width)


def test_resize_is_its_formula_in_whole_numbers():
    rng = np.random.default_rng(11)
    for (h, w), (height, width) in sizes(12, 60, 30):
        image = rng.integers(0, 256, (h, w, 2), np.uint8)
        expected = image if (h, w) == (height, width) else resized(image, height, width)
        made = resize(height, width)(image)
        assert made.dtype == np.uint8
        assert made.flags.c_contiguous
        assert np.array_equal(made, expected), (h, w, height, width)


@pytest.mark.parametrize("smooth", [False, True])
def test_resize_is_within_a_level_of_pillow(smooth):
    images = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(13)
    for (h, w), (height, width) in [*sizes(14, 150, 300), ((480, 640), (96, 96)), ((1, 1), (9, 7))]:
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        if smooth:
            y, x = np.ogrid[:h, :w]
            image = 127 + 127 * np.sin(y / 9 + x / 7 + np.arange(3)[:, None, None])
            image = np.moveaxis(image, 0, -1).astype(np.uint8)
        theirs = images.fromarray(image).resize((width, height), images.Resampling.BILINEAR)
        difference = np.asarray(theirs).astype(int) - resize(height, width)(image)
        assert np.abs(difference).max() <= 1, (h, w, height, width)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_an_image_of_the_size_stays_as_it_is(fit):
    image = np.random.default_rng(15).integers(0, 256, (2, 13, 21, 3), np.uint8)
    assert np.array_equal(resize(13, 21, fit)(image), image)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_batch_of_images_is_resized_as_each_alone(fit):
    rng = np.random.default_rng(16)
    for (h, w), (height, width) in sizes(17, 30, 40):
        batch = rng.integers(0, 256, (2, 3, h, w, 3), np.uint8)
        made = resize(height, width, fit)(batch)
        alone = [resize(height, width, fit)(image) for image in batch.reshape(-1, h, w, 3)]
        assert made.shape == (2, 3, height, width, 3)
        assert np.array_equal(made.reshape(-1, height, width, 3), np.stack(alone))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_an_even_colour_stays_the_same(value):
    for (h, w), (height, width) in [*sizes(18, 20, 200), ((1, 60_000), (3, 2))]:
        image = np.full((h, w, 1), value, np.uint8)
        assert (resize(height, width)(image) == value).all(), (h, w, height, width)


def test_crop_to_fit_keeps_the_middle_in_proportion():
    image = np.random.default_rng(19).integers(0, 256, (480, 640, 3), np.uint8)
    expected = resize(96, 96)(image[:, 80:560])
    assert np.array_equal(resize(96, 96, "crop")(image), expected)
    tall = image.swapaxes(0, 1)
    assert np.array_equal(resize(96, 96, "crop")(tall), resize(96, 96)(tall[80:560]))


def test_pad_to_fit_keeps_all_with_black_around():
    image = np.random.default_rng(20).integers(1, 256, (480, 640, 3), np.uint8)
    made = resize(96, 96, "pad")(image)
    assert np.array_equal(made[12:84], resize(72, 96)(image))
    assert not made[:12].any()
    assert not made[84:].any()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_images_are_resized(fit, shape):
    made = resize(8, 8, fit)(np.full((*shape, 1), 200, np.uint8))
    assert made.shape == (8, 8, 1)
    assert made.max() == 200


@pytest.mark.parametrize(
    ("h", "w", "height", "width"),
    [(1, 65_536, 4096, 1), (65_536, 1, 1, 4096), (2, 30_000, 2048, 2048)],
)
def test_no_proportions_take_much_memory(h, w, height, width):
    image = np.zeros((h, w, 1), np.uint8)
    tracemalloc.start()
    resize(height, width)(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20


def test_an_image_with_too_long_a_side_is_refused():
    with pytest.raises(InputError, match=r"65537×1 has a side of over 65,536 pixels"):
        resize(8, 8)(np.zeros((1, 65_537, 1), np.uint8))


def test_crop_takes_the_middle():
    image = np.arange(7 * 8 * 3, dtype=np.uint8).reshape(7, 8, 3)
    crop = preprocess.build([{"op": "crop", "height": 4, "width": 2}])
    assert np.array_equal(crop(image), image[1:5, 3:5])
    assert np.array_equal(crop(np.stack([image] * 2)), np.stack([image[1:5, 3:5]] * 2))
    with pytest.raises(ValueError, match="an image of 1×8 has no middle of 2×4"):
        crop(np.zeros((8, 1, 3), np.uint8))


SIDES = [0, -1, 4097, 1 << 40, 10**400, 8.0, True, None, "8", [8], float("nan"), float("inf")]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: str(side)[:8])
@pytest.mark.parametrize("op", ["resize", "crop"])
@pytest.mark.parametrize("name", ["height", "width"])
def test_other_sizes_are_refused(op, name, side):
    with pytest.raises(BundleError, match=f"'{op}' has wrong arguments"):
        preprocess.build([{"op": op, "height": 8, "width": 8, name: side}])


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 4096, "width": 1025},
        {"fit": "cover"},
        {"fit": None},
        {"fit": ["crop"]},
        {"fit": {}},
        {"filter": "box"},
    ],
)
def test_other_arguments_of_resize_are_refused(changes):
    with pytest.raises(BundleError, match="'resize' has wrong arguments"):
        preprocess.build([{"op": "resize", "height": 8, "width": 8, **changes}])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros(8, np.uint8),
    ],
)
@pytest.mark.parametrize("op", ["resize", "crop"])
def test_what_is_no_image_is_refused(op, image):
    with pytest.raises(ValueError, match="an image is uint8"):
        preprocess.build([{"op": op, "height": 4, "width": 4}])(image)


# --- sound

MEL = {
    "op": "log_mel", "rate_hz": 16_000, "frame": 512, "step": 256, "bands": 40, "low_hz": 20.0,
    "high_hz": 8000.0,
}  # fmt: skip


def edges(mel):
    """Of the filters, Hz, by the formula of the mel scale."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (mel["low_hz"], mel["high_hz"]))
    parts = mel["bands"] + 1
    return [700 * (10 ** ((low + (high - low) * j / parts) / 2595) - 1) for j in range(parts + 1)]


def filters(mel):
    """(bands, frequencies), by the formulas of docs/bundle-format.md."""
    hertz = [k * mel["rate_hz"] / mel["frame"] for k in range(mel["frame"] // 2 + 1)]
    made = []
    for a, b, c in zip(*(edges(mel)[i:] for i in range(3)), strict=False):
        weights = [max(0.0, min((f - a) / (b - a), (c - f) / (c - b))) for f in hertz]
        row = [round(w * 2**15) / 2**15 for w in weights]
        if not any(row):
            row[min(range(len(hertz)), key=lambda k: abs(hertz[k] - b))] = 1.0
        made.append(row)
    return made


def log2(v):
    m, e = math.frexp(v)
    s = (m - 0.7071067811865476) / (m + 0.7071067811865476)
    q = s * s
    p = ((((q * (1 / 11) + 1 / 9) * q + 1 / 7) * q + 1 / 5) * q + 1 / 3) * q + 1
    return (e - 0.5) + (s * p) * 2.8853900817779268


def spectrogram(x, mel):
    """One sound, in Python's whole numbers and floats: (bands, frames)."""
    size, banks = mel["frame"], filters(mel)
    turn = [2 * math.pi * n / size for n in range(size)]
    window = [(0.5 - 0.5 * math.cos(t)) * 2**14 for t in turn]
    tables = [
        [
            [round(f(turn[n * k % size]) * window[n]) for n in range(size)]
            for k in range(size // 2 + 1)
        ]
        for f in (math.cos, math.sin)
    ]
    made = []
    for start in range(0, len(x) - size + 1, mel["step"]):
        frame = x[start : start + size].tolist()
        sums = [[float(sum(map(operator.mul, row, frame))) for row in t] for t in tables]
        energy = [(a * a + b * b) * 2.0**-58 for a, b in zip(*sums, strict=True)]
        bands = []
        for bank in banks:
            total = 0.0
            for e, w in zip(energy, bank, strict=True):
                total += e * w
            bands.append(np.float32(log2(total + 2.0**-24)))
        made.append(bands)
    return np.array(made).T


def random_mel(rng, most):
    rate = int(rng.choice([4000, 8000, 11_025, 16_000, 22_050, 44_100, 48_000]))
    frame = int(rng.integers(16, most))
    low = float(rng.uniform(0, rate / 8))
    return {
        "op": "log_mel", "rate_hz": rate, "frame": frame, "step": int(rng.integers(1, 2 * frame)),
        "bands": int(rng.integers(1, 60)), "low_hz": low,
        "high_hz": float(rng.uniform(low + 100, rate / 2)),
    }  # fmt: skip


def test_log_mel_is_its_formula_to_the_bit():
    """Sums in whole numbers and in another order, sines and powers of another library."""
    rng = np.random.default_rng(21)
    for i in range(40):
        mel = random_mel(rng, 80)
        most = (32_768, 300, 4, 1)[i % 4]
        samples = mel["frame"] + int(rng.integers(0, 4 * mel["step"]))
        x = rng.integers(-most, most, samples).astype(np.int16)
        made = preprocess.build([mel])(x)
        assert made.dtype == np.float32
        assert made.flags.c_contiguous
        assert np.array_equal(made, spectrogram(x, mel)), mel


def test_a_long_frame_is_exact_to_the_bit():
    """So many sines that one which is not precise is rounded to another whole number."""
    mel = {**MEL, "frame": 1000}
    x = np.random.default_rng(24).integers(-32_768, 32_768, 1000).astype(np.int16)
    assert np.array_equal(preprocess.build([mel])(x), spectrogram(x, mel))


@pytest.mark.parametrize("extreme", [-32_768, 32_767])
def test_the_loudest_sound_is_still_exact(extreme):
    mel = {**MEL, "frame": 160, "step": 80, "low_hz": 0}
    for x in (np.full(240, extreme), np.where(np.arange(240) % 4 < 2, extreme, ~extreme)):
        x = x.astype(np.int16)
        assert np.array_equal(preprocess.build([mel])(x), spectrogram(x, mel))


@pytest.mark.parametrize("frame", [16, 17, 400, 511, 512, 1411, 2048])
def test_log_mel_is_near_a_fourier_transform(frame):
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(frame)
    x = (rng.normal(0, 3000, 6000) + 9000 * np.sin(np.arange(6000) * 0.7)).astype(np.int16)
    mel = {**MEL, "frame": frame, "step": 200, "high_hz": 7000}
    starts = range(0, len(x) - frame + 1, 200)
    frames = np.stack([x[i : i + frame] for i in starts]) / 32_768
    energy = np.abs(np.fft.rfft(frames * signal.get_window("hann", frame))) ** 2
    expected = (energy @ np.array(filters(mel)).T + 2.0**-24).T
    found = np.exp2(preprocess.build([mel])(x).astype(float))
    difference = np.abs(np.sqrt(found) - np.sqrt(expected)).max()
    assert difference < 3e-5 * np.sqrt(expected.max())  # -90 dB


def test_silence_is_the_floor():
    assert (preprocess.build([MEL])(np.zeros(16_000, np.int16)) == -24).all()


def test_a_tone_is_loudest_in_its_band():
    x = (8000 * np.sin(np.arange(16_000) * 2 * np.pi * 1000 / 16_000)).astype(np.int16)
    made = preprocess.build([MEL])(x)
    middles = np.array(edges(MEL)[1:-1])
    assert (made.argmax(0) == np.abs(middles - 1000).argmin()).all()


@pytest.mark.parametrize(("samples", "count"), [(512, 1), (767, 1), (768, 2), (16_000, 61)])
def test_frames_begin_at_every_step(samples, count):
    made = preprocess.build([MEL])(np.zeros((2, samples), np.int16))
    assert made.shape == (2, 40, count)


def test_a_batch_of_sounds_is_each_alone():
    rng = np.random.default_rng(22)
    batch = rng.integers(-9999, 9999, (2, 3, 5000)).astype(np.int16)
    run = preprocess.build([MEL, {"op": "standardize", "mean": [-9] * 40, "std": [4] * 40}])
    alone = [run(x) for x in batch.reshape(6, -1)]
    assert np.array_equal(run(batch).reshape(6, 40, -1), np.stack(alone))


def test_a_long_sound_is_its_frames():
    """More than is worked on at once."""
    x = np.random.default_rng(23).integers(-9999, 9999, 400_000).astype(np.int16)
    run = preprocess.build([MEL])
    made = run(x)
    for i in (0, 511, 512, 513, 1024, made.shape[1] - 1):
        assert np.array_equal(made[:, i : i + 1], run(x[i * 256 : i * 256 + 512])), i


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("frame", "step", "bands") for value in (0, -1, 2049, 1 << 60)),
        *({name: value} for name in ("frame", "step", "bands") for value in (8.0, True, None, "8")),
        *(
            {name: value}
            for name in ("rate_hz", "low_hz", "high_hz")
            for value in (-1, None, "8", True, [1], float("nan"), float("inf"), 10**400)
        ),
        {"frame": 15},
        {"bands": 257},
        {"rate_hz": 0},
        {"rate_hz": 192_001},
        {"rate_hz": 5e-324, "low_hz": 0, "high_hz": 0},
        {"rate_hz": 1e-300, "low_hz": 0, "high_hz": 1e-301},
        {"high_hz": 8000.1},
        {"low_hz": 8000},
        {"low_hz": 1000, "high_hz": 1000.0000000000001},
        {"power": 1},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_other_arguments_of_log_mel_are_refused(changes):
    with pytest.raises(BundleError, match="'log_mel' has wrong arguments"):
        preprocess.build([{**MEL, **changes}])


def test_a_missing_argument_is_refused():
    with pytest.raises(BundleError, match="'log_mel' has wrong arguments"):
        preprocess.build([{"op": "log_mel", "rate_hz": 16_000}])


@pytest.mark.parametrize(
    "sound",
    [np.zeros(511, np.int16), np.zeros(16_000, np.float32), np.int16(5), np.zeros(0, np.int16)],
)
def test_what_is_no_sound_is_refused(sound):
    with pytest.raises(ValueError, match="sound is int16 of 512 samples or more"):
        preprocess.build([MEL])(np.asarray(sound))


@pytest.mark.parametrize(("frame", "bands", "samples"), [(2048, 9, 12_000), (16, 256, 1 << 18)])
def test_too_many_frames_are_refused_before_they_are_made(frame, bands, samples):
    x = np.zeros(samples, np.int16)
    tracemalloc.start()
    with pytest.raises(ValueError, match="are too many"):
        preprocess.build([{**MEL, "frame": frame, "step": 1, "bands": bands}])(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_steps_that_cannot_follow_each_other_make_no_tables():
    mel = {**MEL, "frame": 2048, "bands": 256}
    tracemalloc.start()
    run = preprocess.build([mel] * 16)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    with pytest.raises(ValueError, match="sound is int16"):
        run(np.zeros(16_000, np.int16))
    assert tracemalloc.get_traced_memory()[1] < 160 << 20
    tracemalloc.stop()


# --- start


def test_a_board_for_images_loads_nothing_for_sounds():
    program = f"""
import sys
from edgedistill_runtime import preprocess
preprocess.build({[{"op": "resize", "height": 8, "width": 8}, *STEPS]})
parts = [n for n in sys.modules if n.startswith("edgedistill_runtime.")]
print(*(n.rpartition(".")[2] for n in parts), "decimal" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    found = set(done.stdout.split())
    assert "preprocess" in found
    assert not found & {"sound", "wav", "windows", "tokenize", "True"}
