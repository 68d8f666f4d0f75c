"""Sound: WAV files of any rate become windows of one rate and length."""

from __future__ import annotations

from collections import deque
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
from edgedistill.data.splits import count_of
from edgedistill.errors import DataError
from edgedistill_runtime import wav, windows
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import Sample
from edgedistill_runtime.preprocess.sound import MAX_BANDS, MAX_ELEMENTS, MAX_FRAME, frames_of

if TYPE_CHECKING:
    from edgedistill.data.arrays import Arrays

MAX_DEFAULT_S = 2.0
"""Longest window that is taken without being asked for."""
MIN_RATE_HZ, MAX_RATE_HZ = 1000, 1_000_000
"""Of what is read: a header that lies would be resampled to a sound that fills the memory."""
FRAME_S, STEP_S = 0.032, 0.016
MIN_STEPS = 3
"""From the first frame of a window to its last, at least."""
LOW_HZ, HIGH_HZ = 20.0, 8000.0

Clip = NDArray[np.int16]


@dataclass(frozen=True)
class _Windows:
    x: Clip
    """(n, window)"""
    y: NDArray[np.int64]
    recording: NDArray[np.int64]
    """Which recording each window is from, (n,)."""


def read_folder(folder: Path, decoding: Decoding) -> Recordings:
    """Every WAV file in the class folders, as windows.  Raises DataError, which names the file."""
    tree = folders.find(folder, "audio")
    paths = [path for files in tree.splits.values() for path in files.paths]
    read = in_parallel(lambda path: _read(path, decoding.rate_hz), paths)
    clips = deque(clip for clip, _ in read)
    resampled = sum(rate != decoding.rate_hz for _, rate in read)
    del read
    lengths = list(map(len, clips))
    window, hop = _window(str(folder), max(lengths[: len(tree.splits["train"])]), decoding)
    features = (log_mel(str(folder), window, decoding.rate_hz, decoding.mel_bands),)
    parts = {
        name: _cut([clips.popleft() for _ in files.paths], files.labels, window, hop)
        for name, files in tree.splits.items()
    }
    train = parts["train"]
    given = {name: (part.x, part.y) for name, part in parts.items()}
    count = sum(len(part.x) for part in parts.values())
    return Recordings(
        train.x,
        train.y,
        tree.labels,
        train.recording,
        _sample(window, hop, decoding),
        features,
        (*_notes(lengths, count, resampled, window, decoding), *tree.notes),
        given.get("test"),
        given.get("validation"),
    )


def of_arrays(found: Arrays, decoding: Decoding) -> Recordings:
    """Clips of one length, (n, samples) int16, brought to the rate that is asked for.

    Without a `rate` in the file they have it already.  Samples of one group stay together; without
    groups, the windows of one clip do.  Raises DataError, which names the file.
    """
    place = str(found.path)
    if not found.x.size:
        raise DataError(f"{place}: x has the shape {list(found.x.shape)}; there is no sound in it")
    rate = decoding.rate_hz if found.rate_hz is None else _whole(place, found.rate_hz)
    clips = in_parallel(lambda clip: _resampled(clip, rate, decoding.rate_hz), list(found.x))
    lengths = list(map(len, clips))
    window, hop = _window(place, lengths[0], decoding)
    features = (log_mel(place, window, decoding.rate_hz, decoding.mel_bands),)
    made = _cut(clips, found.y.tolist(), window, hop)
    resampled = len(lengths) if rate != decoding.rate_hz else 0
    groups = made.recording if found.groups is None else found.groups[made.recording]
    return Recordings(
        made.x,
        made.y,
        found.labels,
        None if found.groups is None and len(made.x) == len(lengths) else groups,
        _sample(window, hop, decoding),
        features,
        tuple(_notes(lengths, len(made.x), resampled, window, decoding)),
    )


def log_mel(place: str, window: int, rate_hz: int, bands: int) -> dict[str, float | int | str]:
    """The step that makes a spectrogram: frames of 32 ms, one every 16 ms; shorter above 64 kHz.

    Raises DataError where the window is too short or too long for it, or the bands are too many.
    """
    frame, step = _frame(rate_hz)
    if window < _least(rate_hz):
        raise DataError(
            f"{place}: a window of {window:,} samples ({window / rate_hz:.3f} s) is too short; "
            f"give window_s of at least {_least(rate_hz) / rate_hz:.2f}"
        )
    if frames_of(window, frame, step) * frame > MAX_ELEMENTS:
        most = (MAX_ELEMENTS // frame - 1) * step + frame
        raise DataError(
            f"{place}: a window of {window / rate_hz:.0f} s is too long; give window_s of at most "
            f"{most / rate_hz:.0f}"
        )
    if not 1 <= bands <= MAX_BANDS:
        raise DataError(f"{place}: mel_bands is {bands}; it is from 1 to {MAX_BANDS}")
    return {
        "op": "log_mel",
        "rate_hz": rate_hz,
        "frame": frame,
        "step": step,
        "bands": bands,
        "low_hz": LOW_HZ,
        "high_hz": min(HIGH_HZ, rate_hz / 2),
    }


def _frame(rate_hz: int) -> tuple[int, int]:
    """Samples of a frame, and from one to the next: never more than half a frame, about."""
    return min(round(FRAME_S * rate_hz), MAX_FRAME), min(round(STEP_S * rate_hz), MAX_FRAME // 2)


def _least(rate_hz: int) -> int:
    """Samples of the shortest window."""
    frame, step = _frame(rate_hz)
    return frame + MIN_STEPS * step


def _read(path: Path, rate_hz: int) -> tuple[Clip, int]:
    """The sound at the rate that is asked for, and the file's own rate."""
    try:
        clip, rate = wav.read(path)
    except InputError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _resampled(clip, _whole(str(path), rate), rate_hz), rate


def _whole(place: str, rate_hz: float) -> int:
    if rate_hz != int(rate_hz) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise DataError(
            f"{place}: a rate of {rate_hz:,} Hz; sound has a whole number of samples a second, "
            f"from {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,}"
        )
    return int(rate_hz)


def _resampled(clip: Clip, rate: int, wanted: int) -> Clip:
    if rate == wanted:
        return clip
    from scipy.signal import resample_poly

    divisor = gcd(rate, wanted)
    made = resample_poly(clip.astype(np.float64), wanted // divisor, rate // divisor)
    clipped: Clip = np.clip(np.rint(made), -32768, 32767).astype(np.int16)
    return clipped


def _window(place: str, longest: int, decoding: Decoding) -> tuple[int, int]:
    """Samples of a window, and from one to the next.

    longest: samples of the longest recording
    """
    rate_hz, window_s, hop_s = decoding.rate_hz, decoding.window_s, decoding.hop_s
    if window_s is None:
        window, least = min(longest, round(MAX_DEFAULT_S * rate_hz)), _least(rate_hz)
        if longest < least:
            raise DataError(
                f"{place}: the longest recording has {longest / rate_hz:.3f} s; at least "
                f"{least / rate_hz:.2f} are needed, so give longer ones"
            )
    elif not window_s * rate_hz <= longest + 0.5:  # infinity and NaN included
        raise DataError(
            f"{place}: window_s is {window_s:g} and the longest recording has "
            f"{longest / rate_hz:.2f} s; give a shorter window"
        )
    else:
        window = round(window_s * rate_hz)
    if hop_s is not None and not 1 <= hop_s * rate_hz <= window + 0.5:
        raise DataError(
            f"{place}: hop_s is {hop_s:g} and a window has {window / rate_hz:.2f} s; a hop is over "
            "0 and at most a window"
        )
    return window, window if hop_s is None else min(window, round(hop_s * rate_hz))


def _cut(clips: list[Clip], labels: Sequence[int], window: int, hop: int) -> _Windows:
    """Windows of every recording.  Takes the clips out of the list, so that none is held twice."""
    for i, clip in enumerate(clips):
        clips[i] = windows.cut(clip, window, hop)
    counts = list(map(len, clips))
    recording = np.repeat(np.arange(len(clips)), counts)
    return _Windows(np.concatenate(clips), np.array(labels, np.int64)[recording], recording)


def _sample(window: int, hop: int, decoding: Decoding) -> Sample:
    every = None if hop == window else hop
    return Sample("audio", "int16", (window,), float(decoding.rate_hz), every)


def _notes(
    lengths: Sequence[int], count: int, resampled: int, window: int, decoding: Decoding
) -> list[str]:
    clips, cut = count_of(len(lengths), "recording"), count_of(count, "window")
    notes = [f"{clips}, {cut} of {window / decoding.rate_hz:.2f} s"]
    short = sum(length < window for length in lengths)
    if short:
        notes.append(f"{count_of(short, 'recording')} shorter than a window, filled with silence")
    if resampled:
        notes.append(f"{count_of(resampled, 'recording')} resampled to {decoding.rate_hz:,} Hz")
    return notes
