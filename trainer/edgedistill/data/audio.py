"""Sound: WAV files of any rate become windows of one rate and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedistill.data import folders
from edgedistill.data.images import in_parallel
from edgedistill.data.sets import Decoding, Recordings
from edgedistill.errors import DataError
from edgedistill_runtime import wav, windows
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import Sample
from edgedistill_runtime.preprocess.sound import MAX_FRAME

if TYPE_CHECKING:
    from edgedistill.data.arrays import Arrays

MAX_DEFAULT_S = 2.0
"""Longest window that is taken without being asked for."""
FRAME_S, STEP_S = 0.032, 0.016
LOW_HZ, HIGH_HZ = 20.0, 8000.0

Clip = NDArray[np.int16]


@dataclass(frozen=True)
class _Sound:
    clip: Clip
    """At the rate that is asked for, (n,)."""
    resampled: bool


def read_folder(folder: Path, decoding: Decoding) -> Recordings:
    """Every WAV file in the class folders, as windows.  Raises DataError, which names the file."""
    tree = folders.find(folder, "audio")
    paths = [path for files in tree.splits.values() for path in files.paths]
    sounds = in_parallel(lambda path: _read(path, decoding.rate_hz), paths)
    clips = [sound.clip for sound in sounds]
    window, hop = _window(str(folder), clips[: len(tree.splits["train"])], decoding)
    parts, start = {}, 0
    for name, files in tree.splits.items():
        parts[name] = _cut(clips[start : start + len(files)], files.labels, window, hop)
        start += len(files)
    x, y, groups = parts["train"]
    given = {name: part[:2] for name, part in parts.items()}
    count = sum(len(part[0]) for part in parts.values())
    return Recordings(
        x,
        y,
        tree.labels,
        groups,
        Sample("audio", "int16", (window,), float(decoding.rate_hz), _hop(window, hop)),
        (log_mel(str(folder), window, decoding.rate_hz, decoding.mel_bands),),
        (*_notes(sounds, window, count, decoding), *tree.notes),
        given.get("test"),
        given.get("validation"),
    )


def of_arrays(found: Arrays, decoding: Decoding) -> Recordings:
    """Clips of one length, (n, samples) int16, brought to the rate that is asked for.

    Without a `rate` in the file they have it already.  Samples of one group stay together; without
    groups, the windows of one clip do.
    """
    place = str(found.path)
    if not found.x.size:
        raise DataError(f"{place}: x has the shape {list(found.x.shape)}; there is no sound in it")
    rate = decoding.rate_hz if found.rate_hz is None else round(found.rate_hz)
    clips = [_resampled(clip, rate, decoding.rate_hz) for clip in found.x]
    window, hop = _window(place, clips, decoding)
    x, y, recording = _cut(clips, found.y.tolist(), window, hop)
    groups = recording if found.groups is None else found.groups[recording]
    return Recordings(
        x,
        y,
        found.labels,
        None if found.groups is None and len(x) == len(clips) else groups,
        Sample("audio", "int16", (window,), float(decoding.rate_hz), _hop(window, hop)),
        (log_mel(place, window, decoding.rate_hz, decoding.mel_bands),),
        tuple(
            _notes([_Sound(c, rate != decoding.rate_hz) for c in clips], window, len(x), decoding)
        ),
    )


def log_mel(place: str, window: int, rate_hz: int, bands: int) -> dict[str, float | int | str]:
    """The step that makes a spectrogram: frames of 32 ms, one every 16 ms.

    Raises DataError where the window is too short for it, or the bands are too many.
    """
    frame, step = min(round(FRAME_S * rate_hz), MAX_FRAME), round(STEP_S * rate_hz)
    if window < frame + 3 * step:
        raise DataError(
            f"{place}: a window of {window:,} samples ({window / rate_hz:.3f} s) is too short; "
            f"give window_s of at least {(frame + 3 * step) / rate_hz:.2f}"
        )
    return {
        "op": "log_mel",
        "rate_hz": rate_hz,
        "frame": frame,
        "step": step,
        "bands": bands,
        "low_hz": LOW_HZ,
        "high_hz": min(HIGH_HZ, rate_hz / 2),
    }


def _read(path: Path, rate_hz: int) -> _Sound:
    try:
        clip, rate = wav.read(path)
    except InputError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _Sound(_resampled(clip, rate, rate_hz), rate != rate_hz)


def _resampled(clip: Clip, rate: int, wanted: int) -> Clip:
    if rate == wanted:
        return clip
    from scipy.signal import resample_poly

    divisor = gcd(rate, wanted)
    made = resample_poly(clip.astype(np.float64), wanted // divisor, rate // divisor)
    clipped: Clip = np.clip(np.rint(made), -32768, 32767).astype(np.int16)
    return clipped


def _window(place: str, clips: Sequence[Clip], decoding: Decoding) -> tuple[int, int]:
    """Samples of a window, and from one to the next."""
    longest = max(len(clip) for clip in clips)
    window = min(longest, round(MAX_DEFAULT_S * decoding.rate_hz))
    if decoding.window_s is not None:
        window = round(decoding.window_s * decoding.rate_hz)
        if window > longest:
            raise DataError(
                f"{place}: window_s is {decoding.window_s:g} and the longest recording has "
                f"{longest / decoding.rate_hz:.2f} s; give a shorter window"
            )
    hop = window if decoding.hop_s is None else round(decoding.hop_s * decoding.rate_hz)
    if not 1 <= hop <= window:
        raise DataError(
            f"{place}: hop_s is {decoding.hop_s:g} and a window has {window / decoding.rate_hz:.2f}"
            " s; a hop is over 0 and at most a window"
        )
    return window, hop


def _hop(window: int, hop: int) -> int | None:
    return None if hop == window else hop


def _cut(
    clips: Sequence[Clip], labels: Sequence[int], window: int, hop: int
) -> tuple[Clip, NDArray[np.int64], NDArray[np.int64]]:
    """Windows (n, window), the label of each, and which recording each is from."""
    parts = [windows.cut(clip, window, hop) for clip in clips]
    counts = [len(part) for part in parts]
    recording = np.repeat(np.arange(len(clips)), counts)
    return np.concatenate(parts), np.repeat(np.array(labels, np.int64), counts), recording


def _notes(sounds: Sequence[_Sound], window: int, count: int, decoding: Decoding) -> list[str]:
    seconds = window / decoding.rate_hz
    padded = sum(len(sound.clip) < window for sound in sounds)
    resampled = sum(sound.resampled for sound in sounds)
    notes = [f"{len(sounds):,} recordings, {count:,} windows of {seconds:.2f} s"]
    if padded:
        notes.append(f"{padded:,} recordings are shorter, and silence follows them")
    if resampled:
        notes.append(f"{resampled:,} recordings resampled to {decoding.rate_hz:,} Hz")
    return notes
