"""The keywords' prepare step: which clips it plans, and how it mixes them."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from tests import examples_support

pytestmark = pytest.mark.end_to_end

VOICES = ["adam", "f1", "f2", "f3", "Mr serious", "steph", "steph2", "steph3", "zac"]
VOICES += [f"other-{letter}" for letter in "abcdefghijklmnopqrst"]


@pytest.fixture
def prepare(monkeypatch):
    return examples_support.script("keywords", monkeypatch)


def test_no_voice_nor_one_of_its_family_is_in_two_splits(prepare):
    splits = prepare.split_voices(VOICES)
    assert sorted(chain(*splits.values())) == sorted(VOICES)
    assert all(len(voices) >= 4 for voices in splits.values())
    where = Counter()
    for voices in splits.values():
        where.update({re.sub(r"\d+$", "", voice) for voice in voices})
    assert set(where.values()) == {1}


def test_every_split_has_every_class_as_often(prepare):
    clips = prepare.planned(VOICES)
    counts = Counter((clip.split, clip.label) for clip in clips)
    for split, voices in prepare.split_voices(VOICES).items():
        per_class = {counts[split, label] for label in (*prepare.WORDS, "other", "silence")}
        assert per_class == {len(voices) * prepare.RENDITIONS}
    assert len({clip.name for clip in clips}) == len(clips)


def test_other_words_are_never_a_class_nor_in_two_splits(prepare):
    words = [*prepare.WORDS, *chain(*prepare.OTHER_WORDS.values())]
    assert len(words) == len(set(words))
    for clip in prepare.planned(VOICES):
        if clip.label == "other":
            assert clip.text in prepare.OTHER_WORDS[clip.split]


def test_a_clip_is_a_second_of_speech_in_noise_of_the_level_drawn(prepare):
    speech = np.sin(np.arange(8000) * 0.3)
    ratios = []
    for seed in range(40):
        clip = prepare.mixed(speech, np.random.RandomState(seed)) / 32768
        noise = prepare.mixed(np.zeros(0), np.random.RandomState(seed)) / 32768
        assert clip.shape == (16_000,)
        power, floor = np.mean((clip - noise) ** 2) * 2, np.mean(noise**2)  # half of it is speech
        assert -30.5 < 10 * np.log10(power) < -11.5
        ratios.append(10 * np.log10(power / floor))
    assert 4 < min(ratios) < 8
    assert 27 < max(ratios) < 31


def test_the_quiet_around_a_word_is_cut_off(prepare):
    word = np.sin(np.arange(1000) * 0.3)
    padded = np.concatenate([np.zeros(500), word, np.full(700, 0.001)])
    assert abs(len(prepare._trimmed(padded)) - 1000) < 5
    assert len(prepare._trimmed(np.tile(word, 20))) == 16_000
    assert len(prepare._trimmed(np.zeros(100))) == 0
