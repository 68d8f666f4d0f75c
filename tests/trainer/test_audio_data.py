"""Sounds of any rate become windows of one rate and length, or a sentence that names the file."""

from __future__ import annotations

import io
import os
import random
import wave

import numpy as np
import pytest

from edgedistill import data
from edgedistill.data import Decoding, audio
from edgedistill.errors import DataError
from edgedistill_runtime import inputs, preprocess
from edgedistill_runtime.manifest import Sample

SEED = 7
RATE_HZ = 8000
AT_8K = Decoding(rate_hz=RATE_HZ)
SPLITS = ("train", "validation", "test")


def noise(seed, samples=2000):
    return np.random.default_rng([SEED, seed]).integers(-9999, 9999, samples, np.int16)


def tone(hertz, rate_hz, seconds=0.5, loud=9000):
    return np.rint(loud * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate_hz)) / rate_hz))


def save(path, sound, rate_hz=RATE_HZ, channels=1):
    """sound: (n,), or the channels' one after the other, (n, channels)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.asarray(sound, "<i2").tobytes())
    return path


def fill(folder, classes=("cat", "dog"), each=10, samples=2000, seed=0):
    """WAV files, every one with a sound of its own; -> bytes of the sound -> name of its class."""
    made = {}
    for i, name in enumerate(classes):
        for j in range(each):
            sound = noise(1000 * seed + 100 * i + j, samples)
            save(folder / name / f"{j}.wav", sound)
            made[sound.tobytes()] = name
    return made


def samples(found):
    parts = [getattr(found, name) for name in SPLITS]
    return {x.tobytes(): found.labels[y] for p in parts for x, y in zip(p.x, p.y, strict=True)}


def refusal(source, decoding=AT_8K):
    with pytest.raises(DataError) as caught:
        data.load(str(source), decoding=decoding)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def test_the_folders_are_the_classes(tmp_path):
    made = fill(tmp_path / "pets")
    found = data.load(str(tmp_path / "pets"), decoding=AT_8K)
    assert samples(found) == made
    assert (found.name, found.task, found.labels) == (
        "pets",
        "audio-classification",
        ("cat", "dog"),
    )
    assert found.sample == Sample("audio", "int16", (2000,), 8000.0, None)
    assert found.notes[0] == "20 recordings, 20 windows of 0.25 s"
    spectra = preprocess.build(found.features)(found.train.x)
    assert (1, *spectra.shape[1:]) == found.input_shape


def test_several_channels_are_averaged(tmp_path):
    fill(tmp_path)
    pair = np.stack([noise(1), noise(2)], 1)
    save(tmp_path / "cat" / "pair.wav", pair, channels=2)
    mean = np.rint(pair.mean(1)).astype(np.int16)
    assert samples(data.load(str(tmp_path), decoding=AT_8K))[mean.tobytes()] == "cat"


def test_splits_and_digest_do_not_hang_on_the_order_that_the_disk_gives(tmp_path, monkeypatch):
    fill(tmp_path)
    listdir, digests = os.listdir, set()
    for seed in range(3):
        mixed = random.Random(seed)
        monkeypatch.setattr(
            os, "listdir", lambda path, m=mixed: m.sample(n := listdir(path), len(n))
        )
        digests.add(data.load(str(tmp_path), decoding=AT_8K).digest)
    assert len(digests) == 1


def test_given_splits_stay_and_are_cut_like_the_training_split(tmp_path):
    fill(tmp_path / "train")
    given = fill(tmp_path / "test", each=2, samples=4000, seed=1)
    fill(tmp_path / "val", each=2, samples=1500, seed=2)
    found = data.load(str(tmp_path), decoding=AT_8K)
    halves = {half: name for whole, name in given.items() for half in (whole[:4000], whole[4000:])}
    assert {
        x.tobytes(): found.labels[y] for x, y in zip(found.test.x, found.test.y, strict=True)
    } == halves
    assert (len(found.train), found.validation.x.shape) == (20, (4, 2000))
    assert not found.validation.x[:, 1500:].any()


def test_other_files_are_passed_over_and_counted(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("loud")
    (tmp_path / "list.csv").write_text("name\n")
    notes = data.load(str(tmp_path), decoding=AT_8K).notes
    assert any("2 other files passed over" in note for note in notes)


# Windows


def test_a_window_is_the_longest_clip_up_to_two_seconds(tmp_path):
    fill(tmp_path, samples=3000)
    save(tmp_path / "cat" / "long.wav", noise(5, 7000))
    assert data.load(str(tmp_path), decoding=AT_8K).sample.shape == (7000,)
    save(tmp_path / "cat" / "longer.wav", noise(6, 50_000))
    found = data.load(str(tmp_path), decoding=AT_8K)
    assert found.sample.shape == (16_000,)
    assert "22 recordings, 24 windows of 2.00 s" in found.notes
    assert "21 recordings shorter than a window, filled with silence" in found.notes


def test_short_sounds_are_followed_by_silence(tmp_path):
    made = fill(tmp_path)
    save(tmp_path / "dog" / "short.wav", short := noise(9, 700))
    found = data.load(str(tmp_path), decoding=AT_8K)
    made[short.tobytes() + bytes(2 * 1300)] = "dog"
    assert samples(found) == made
    assert "1 recording shorter than a window, filled with silence" in found.notes


def test_long_recordings_are_cut_every_hop_as_on_the_board(tmp_path):
    fill(tmp_path, samples=10_500)
    decoding = Decoding(rate_hz=RATE_HZ, window_s=0.5, hop_s=0.25)
    found = data.load(str(tmp_path), decoding=decoding)
    assert found.sample == Sample("audio", "int16", (4000,), 8000.0, 2000)
    cut = {
        item.sample.tobytes(): path.parent.name
        for path in sorted(tmp_path.glob("*/*.wav"))
        for item in inputs.read_items(str(path), io.BytesIO(), found.sample)
    }
    assert len(cut) == 100
    assert samples(found) == cut


def test_windows_of_one_recording_never_stand_in_two_splits(tmp_path):
    made = fill(tmp_path, each=12, samples=16_000)
    found = data.load(str(tmp_path), decoding=Decoding(rate_hz=RATE_HZ, window_s=0.5))
    of = {whole[i : i + 8000]: whole for whole in made for i in range(0, 32_000, 8000)}
    parts = [{of[x.tobytes()] for x in getattr(found, name).x} for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 24
    assert [len(getattr(found, name)) for name in SPLITS] == [4 * len(part) for part in parts]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"window_s": 0.3}, "window_s is 0.3 and the longest recording has 0.25 s; give a shorter"),
        ({"window_s": float("inf")}, "window_s is inf and the longest recording has 0.25 s"),
        ({"window_s": float("nan")}, "window_s is nan and the longest recording has 0.25 s"),
        ({"window_s": 0.05}, "a window of 400 samples (0.050 s) is too short; give window_s of at"),
        ({"hop_s": 0.3}, "hop_s is 0.3 and a window has 0.25 s; a hop is over 0 and at most a"),
        ({"hop_s": 0.0}, "hop_s is 0 and a window has 0.25 s"),
        ({"mel_bands": 0}, "mel_bands is 0; it is from 1 to 256"),
        ({"mel_bands": 999}, "mel_bands is 999; it is from 1 to 256"),
    ],
)
def test_windows_that_cannot_be_are_refused(tmp_path, fields, told):
    fill(tmp_path)
    assert refusal(tmp_path, Decoding(rate_hz=RATE_HZ, **fields)).startswith(f"{tmp_path}: {told}")


def test_recordings_too_short_for_a_spectrogram_are_refused_whatever_the_window(tmp_path):
    fill(tmp_path, samples=500)
    assert refusal(tmp_path) == (
        f"{tmp_path}: the longest recording has 0.062 s; at least 0.08 are needed, so give longer "
        "ones"
    )


def test_a_window_too_long_for_a_spectrogram_is_refused():
    with pytest.raises(
        DataError, match=r"sea: a window of 1200 s is too long; give window_s of at"
    ):
        audio.log_mel("sea", 1200 * 16_000, 16_000, 40)


# Rates


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000])
def test_sounds_of_another_rate_sound_the_same(tmp_path, rate_hz):
    fill(tmp_path, samples=8000)
    save(tmp_path / "cat" / "tone.wav", tone(1000, rate_hz), rate_hz)
    found = audio.read_folder(tmp_path, Decoding())
    (row,) = np.flatnonzero(np.abs(found.x[:, 8000:]).max(1) == 0)  # half as long as the others
    made, expected = found.x[row, 200:7800].astype(float), tone(1000, 16_000)[200:7800]
    assert np.abs(made - expected).max() < 90  # 1 %


def test_the_number_of_resampled_recordings_is_told(tmp_path):
    fill(tmp_path)
    save(tmp_path / "cat" / "a.wav", noise(1), 16_000)
    save(tmp_path / "dog" / "b.wav", noise(2), 44_100)
    assert "2 recordings resampled to 8,000 Hz" in data.load(str(tmp_path), decoding=AT_8K).notes


def test_what_is_louder_after_resampling_is_clipped(tmp_path):
    fill(tmp_path, samples=8000)
    square = np.where(np.arange(8000) // 20 % 2, 32_767, -32_768)
    save(tmp_path / "cat" / "square.wav", square)
    found = audio.read_folder(tmp_path, Decoding())
    row = int(np.abs(found.x.astype(int)).mean(1).argmax())
    middles = found.x[row].reshape(-1, 40)[:, 10:30].astype(int)  # between the edges
    signs = np.where(np.arange(len(middles)) % 2, 1, -1)[:, None]
    assert (middles * signs > 28_000).all()
    assert found.x[row].max() == 32_767


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001, 2**32 - 1])
def test_a_header_with_a_rate_that_no_sound_has_is_refused_at_once(tmp_path, rate_hz):
    fill(tmp_path)
    path = save(tmp_path / "cat" / "3.wav", noise(3))
    content = bytearray(path.read_bytes())
    content[24:28] = rate_hz.to_bytes(4, "little")
    path.write_bytes(content)
    assert refusal(tmp_path).startswith(f"{path}: a rate of {rate_hz:,} Hz; sound has a whole")


@pytest.mark.parametrize(
    "rate_hz", [1000, 4000, 8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]
)
@pytest.mark.parametrize("bands", [8, 128])
def test_every_rate_of_a_recipe_has_its_spectrogram(rate_hz, bands):
    step = audio.log_mel("rain", rate_hz, rate_hz, bands)
    assert step["step"] <= step["frame"]  # every sample is heard
    spectrum = preprocess.build((step,))(noise(rate_hz, rate_hz))
    assert spectrum.shape == (bands, 1 + (rate_hz - step["frame"]) // step["step"])
    assert np.isfinite(spectrum).all()
    assert spectrum.std() > 0


# What is no sound


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a sound at all " * 9], ids=len)
def test_a_file_that_is_no_wav_is_refused_by_its_name(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "dog" / "bad.wav").write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path / 'dog' / 'bad.wav'}: ")


def test_a_wav_without_a_sample_is_refused_by_its_name(tmp_path):
    fill(tmp_path)
    path = save(tmp_path / "dog" / "empty.wav", [])
    assert refusal(tmp_path).startswith(f"{path}: ")


def test_a_link_to_nothing_is_refused_by_its_name(tmp_path):
    fill(tmp_path)
    (tmp_path / "dog" / "gone.wav").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path / 'dog' / 'gone.wav'}: " in refusal(tmp_path)


def test_one_class_and_a_class_without_sounds_are_refused(tmp_path):
    fill(tmp_path, classes=("cat",))
    assert "only one class" in refusal(tmp_path)
    (tmp_path / "dog").mkdir()
    assert f"{tmp_path / 'dog'}: no .wav file" in refusal(tmp_path)


def test_a_class_of_one_long_recording_is_told_to_stand_in_one_split(tmp_path):
    fill(tmp_path)
    save(tmp_path / "owl" / "night.wav", noise(77, 40_000))
    found = data.load(str(tmp_path), decoding=Decoding(rate_hz=RATE_HZ, window_s=0.25))
    owls = [int((getattr(found, name).y == found.labels.index("owl")).sum()) for name in SPLITS]
    assert owls == [20, 0, 0]
    assert "the test split has no 'owl'" in found.notes


# Arrays


@pytest.fixture
def array(tmp_path):
    def array(**arrays):
        path = tmp_path / "clips.npz"
        made = {"x": np.stack([noise(i, 8000) for i in range(40)]), "y": np.arange(40) % 2}
        np.savez(path, **made | arrays)
        return str(path)

    return array


def clips_of(found):
    """The clips that each split's windows of 2000 samples are from."""
    of = {
        noise(i, 8000)[j : j + 2000].tobytes(): i for i in range(40) for j in range(0, 8000, 2000)
    }
    return [[of[x.tobytes()] for x in getattr(found, name).x] for name in SPLITS]


def test_windows_of_one_clip_stay_together(array):
    found = data.load(array(rate=8000), decoding=Decoding(rate_hz=8000, window_s=0.25))
    parts = clips_of(found)
    assert sum(map(len, parts)) == 160
    assert sum(len(set(part)) for part in parts) == 40
    assert "40 recordings, 160 windows of 0.25 s" in found.notes
    for part, clips in zip(SPLITS, parts, strict=True):
        assert list(getattr(found, part).y) == [i % 2 for i in clips]


def test_clips_of_one_group_stay_together(array):
    group = np.arange(40) // 4
    source = array(rate=8000, group=group)
    found = data.load(source, decoding=Decoding(rate_hz=8000, window_s=0.25))
    parts = [{int(group[i]) for i in part} for part in clips_of(found)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10


def test_resampled_arrays_are_as_resampled_files(tmp_path, array):
    made = data.load(array(rate=8000))
    for i in range(40):
        save(tmp_path / "files" / str(i % 2) / f"{i}.wav", noise(i, 8000))
    assert samples(made) == samples(data.load(str(tmp_path / "files")))
    assert "40 recordings resampled to 16,000 Hz" in made.notes


@pytest.mark.parametrize(
    ("rate", "told"), [(0.4, "0.4"), (11_025.5, "11,025.5"), (3e6, "3,000,000")]
)
def test_a_rate_that_no_sound_has_is_refused(array, rate, told):
    assert f"clips.npz: a rate of {told}" in refusal(array(rate=rate))
