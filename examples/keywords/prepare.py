"""Make recordings of ten spoken words, of other words and of silence, with a speech synthesizer.

Writes FOLDER/{train,validation,test}/WORD/*.wav: one second each, 16 kHz, mono.  The voices of one
split are in no other, and neither are its other words.

The synthesizer is eSpeak NG, under the GPL, from a package on PyPI: it is unpacked into a temporary
folder, runs in processes of its own (speak.py), and nothing of it is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import wave
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

sys.path.insert(0, str(Path(__file__).parents[1]))
from preparing import Example, Package, PrepareError, fetched, run, sample

PACKAGE = Package(
    "espeakng-loader==0.2.4",
    (
        "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",  # Linux, x86-64
        "d1e798141b46a050cdb75fcf3c17db969bb2c40394f3f4a48910655d547508b9",  # Linux, arm64
        "b77477ae2ddf62a748e04e49714eabb2f3a24f344166200b00539083bd669904",  # macOS, x86-64
        "d27cdca31112226e7299d8562e889d3e38a1e48055c9ee381b45d669072ee59f",  # macOS, arm64
    ),
)
VOICES = "espeakng_loader/espeak-ng-data/voices/!v/"
ACCENTS = (
    "en-us",
    "en-us-nyc",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-scotland",
    "en-029",
)  # speak.py stops at a name that is none: "en-gb" is one that the library does not take
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = {
    "train": (
        "bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow", "zero",
        "one", "two", "three", "four", "green", "water", "table", "window", "music", "apple",
        "book", "chair", "door", "evening", "father", "ground", "hello", "island", "jump", "king",
        "light", "money", "night", "orange", "people", "queen", "rain", "school", "train", "under",
        "voice",
    ),
    "validation": ("five", "six", "seven", "blue", "paper", "garden", "letter", "morning"),
    "test": ("eight", "nine", "ten", "red", "river", "kitchen", "summer", "doctor"),
}  # fmt: skip
OTHER, SILENCE = "other", "silence"
SHARES = {"test": 0.2, "validation": 0.16}  # of the voices; the rest is for training
RENDITIONS = 3
RATE_HZ = 16_000
LENGTH = RATE_HZ
WORDS_PER_MINUTE = (130, 230)
PITCHES = (25, 75)  # of eSpeak NG's 0 to 99
SIGNAL_TO_NOISE_DB = (5, 30)
LEVELS_DB = (-30, -12)  # of the speech, or of a silence's noise, below full scale


@dataclass(frozen=True)
class Clip:
    split: str
    label: str
    text: str
    """Empty for silence."""
    voice: str
    """One of the library's variants; empty for silence."""
    number: int

    @property
    def name(self) -> str:
        voice = self.voice.replace(" ", "-") or "noise"
        return f"{self.split}/{self.label}/{voice}-{self.number}.wav"

    @property
    def random(self) -> np.random.RandomState:
        """Its own, so that a clip is the same whichever others are made."""
        digest = hashlib.sha256(self.name.encode()).digest()
        return np.random.RandomState(int.from_bytes(digest[:4], "big"))


def make(folder: Path, limit: int | None) -> str:
    if sys.platform == "win32":
        raise PrepareError("speak.py loads the library as Linux and macOS do; run this in WSL")
    with fetched(PACKAGE) as wheel, tempfile.TemporaryDirectory(prefix="espeak-ng-") as unpacked:
        names = [name for name in wheel.namelist() if name.startswith("espeakng_loader/")]
        wheel.extractall(unpacked, names)
        voices = [name.removeprefix(VOICES) for name in names if name.startswith(VOICES)]
        clips = planned(sorted(filter(None, voices)))
        clips = [clips[row] for row in sample([f"{c.split} {c.label}" for c in clips], limit)]
        library = Path(unpacked) / "espeakng_loader"
        for clip, speech in spoken(clips, library):
            _write(folder / clip.name, mixed(speech, clip.random))
    heard = {clip.voice for clip in clips if clip.voice}
    return (
        f"{len(clips):,} recordings of 1 s, {len(WORDS)} words, {OTHER!r} and {SILENCE!r},"
        f" in {len(heard)} voices"
    )


def planned(voices: list[str]) -> list[Clip]:
    """Every clip, by split and voice."""
    clips = []
    for split, names in split_voices(voices).items():
        for voice in names:
            for number in range(RENDITIONS):
                clips += [Clip(split, word, word, voice, number) for word in WORDS]
                other = Clip(split, OTHER, "", voice, number)
                text = other.random.choice(OTHER_WORDS[split])
                clips.append(Clip(split, OTHER, str(text), voice, number))
        silences = len(names) * RENDITIONS
        clips += [Clip(split, SILENCE, "", "", number) for number in range(silences)]
    return clips


def split_voices(voices: list[str]) -> dict[str, list[str]]:
    """Voices by split; those that differ by a number alone (steph, steph2) stay together."""
    families = defaultdict(list)
    for voice in voices:
        families[re.sub(r"\d+$", "", voice)].append(voice)
    order = sorted(families, key=lambda name: hashlib.sha256(name.encode()).digest())
    found: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for family in order:
        split = next((s for s, share in SHARES.items() if len(found[s]) < share * len(voices)), "")
        found[split or "train"] += families[family]
    return found


def spoken(clips: list[Clip], library: Path) -> Iterator[tuple[Clip, NDArray[np.float64]]]:
    """Each clip with its speech at 16 kHz, between -1 and 1, without the quiet around it."""
    by_voice = defaultdict(list)
    for clip in clips:
        by_voice[clip.voice].append(clip)
    for voice, of_voice in by_voice.items():
        if not voice:
            yield from ((clip, np.zeros(0)) for clip in of_voice)
            continue
        with tempfile.TemporaryDirectory(prefix="espeak-ng-") as out:
            _speak([_job(clip) for clip in of_voice], library, out)
            for number, clip in enumerate(of_voice):
                speech = _trimmed(_read(Path(out) / f"{number}.wav"))
                if not len(speech):
                    raise PrepareError(
                        f"eSpeak NG said nothing for {clip.text!r} in the voice {voice!r}; tell"
                        " the authors of this example"
                    )
                yield clip, speech


def _job(clip: Clip) -> dict[str, str | int]:
    random = clip.random
    return {
        "voice": f"{random.choice(ACCENTS)}+{clip.voice}",
        "text": clip.text,
        "words_per_minute": int(random.randint(*WORDS_PER_MINUTE)),
        "pitch": int(random.randint(*PITCHES)),
    }


def _speak(jobs: list[dict[str, str | int]], library: Path, out: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("speak.py")), str(library), out]
    done = subprocess.run(
        command, input=json.dumps(jobs), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise PrepareError(
            f"speak.py did not finish ({said[-1]}); the library needs Linux or macOS on x86-64 or"
            " arm64"
        )


def _read(path: Path) -> NDArray[np.float64]:
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        speech = resample_poly(samples, RATE_HZ, file.getframerate())
    return np.asarray(speech, np.float64)


def _trimmed(speech: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without what is 40 dB below the loudest sample, at both ends; at most a second."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max(initial=1e-4))
    return speech[loud[0] : loud[-1] + 1][:LENGTH] if len(loud) else speech[:0]


def mixed(speech: NDArray[np.float64], random: np.random.RandomState) -> NDArray[np.int16]:
    """A second with the speech at a random place and level, in noise; noise alone if it is empty.

    The noise is stationary, between white and brown (its power falls with frequency to the 0 to 2).
    """
    noise = _noise(random)
    level, snr_db = 10 ** (random.uniform(*LEVELS_DB) / 20), random.uniform(*SIGNAL_TO_NOISE_DB)
    if not len(speech):
        return _pcm(level * 10 ** (-snr_db / 20) * noise)
    clip = level * 10 ** (-snr_db / 20) * noise
    begin = random.randint(LENGTH - len(speech) + 1)
    clip[begin : begin + len(speech)] += level * speech / np.sqrt(np.mean(speech**2))
    return _pcm(clip)


def _noise(random: np.random.RandomState) -> NDArray[np.float64]:
    """Of mean square 1."""
    spectrum = np.fft.rfft(random.standard_normal(LENGTH))
    frequency = np.maximum(np.arange(len(spectrum)), 20.0)  # flat below 20 Hz
    noise = np.fft.irfft(spectrum * frequency ** (-random.uniform(0, 2) / 2), LENGTH)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def _pcm(samples: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


def _write(path: Path, samples: NDArray[np.int16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


EXAMPLE = Example("keywords", "recordings", version=1, make=make)

if __name__ == "__main__":
    sys.exit(run(EXAMPLE))
