"""The keywords example, prepared at small size and fitted for a moment."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests import examples_support

from edgedistill_runtime.wav import read

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("keywords")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return examples_support.prepared("keywords", tmp_path_factory.mktemp("keywords"), limit=300)


def test_the_examples_recipe_ends_in_a_bundle_that_answers(
    prepared, command, board, monkeypatch
) -> None:
    monkeypatch.chdir(prepared)
    recipe = examples_support.small_recipe("keywords", prepared, teacher_epochs=8)
    done = command("fit", recipe, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["task"] == "audio-classification"
    assert report["student"]["params"] == 40_556
    assert report["teacher"]["params"] > 8 * report["student"]["params"]
    clip = next((prepared / "data" / "keywords" / "test" / "yes").iterdir())
    (row,) = board("predict", prepared / "build" / "keywords" / "model.edge", clip)
    assert row["label"] in {place.name for place in clip.parents[1].iterdir()}


def test_the_real_clips_are_seconds_of_every_class_in_every_split(prepared) -> None:
    folder = prepared / "data" / "keywords"
    voices = {}
    for split in ("train", "validation", "test"):
        clips = sorted((folder / split).rglob("*.wav"))
        assert len({clip.parent.name for clip in clips}) == 12
        spoken = (clip.stem.rpartition("-")[0] for clip in clips)
        voices[split] = {voice for voice in spoken if voice != "noise"}
        for clip in clips:
            samples, rate_hz = read(clip)
            assert rate_hz == 16_000
            assert samples.shape == (16_000,)
            assert np.abs(samples).max() > 3
    assert not voices["train"] & (voices["validation"] | voices["test"])
    assert not voices["validation"] & voices["test"]


@pytest.fixture(scope="module")
def library(prepared, tmp_path_factory) -> Path:
    """The synthesizer, unpacked."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        prepare = examples_support.script("keywords", patch)
        with prepare.fetched(prepare.PACKAGE) as wheel:
            wheel.extractall(folder)
    return folder / "espeakng_loader"


def speak(library: Path, out: Path, voice: str) -> subprocess.CompletedProcess[str]:
    out.mkdir()
    job = {"voice": voice, "text": "left", "words_per_minute": 160, "pitch": 50}
    command = [sys.executable, examples_support.EXAMPLES / "keywords" / "speak.py", library, out]
    return subprocess.run(
        command, input=json.dumps([job]), capture_output=True, text=True, check=False
    )


def test_a_breathy_voice_says_the_same_again(library, tmp_path) -> None:
    for out in ("a", "b"):
        done = speak(library, tmp_path / out, "en-us+whisper")
        assert done.returncode == 0, done.stderr
        time.sleep(1.1)  # the library's own seed is the clock, in seconds
    assert (tmp_path / "a" / "0.wav").read_bytes() == (tmp_path / "b" / "0.wav").read_bytes()


def test_a_voice_that_the_library_does_not_take_is_refused(library, tmp_path) -> None:
    done = speak(library, tmp_path / "out", "en-gb+whisper")
    assert done.returncode != 0
    assert done.stderr == "eSpeak NG has no voice 'en-gb+whisper'\n"
