"""Windows of a recording: which there are, what they hold, and that they cost no memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edgedistill_runtime import windows


def recording(length: int, *leading: int) -> np.ndarray:
    values = np.random.default_rng(length).integers(1, 30_000, (*leading, length))
    return values.astype(np.int16)


def expected(samples: list[int], window: int, hop: int) -> list[list[int]]:
    """From the rule in words."""
    made = [
        samples[start : start + window]
        for start in range(0, len(samples), hop)
        if start + window <= len(samples)
    ]
    covered = (len(made) - 1) * hop + window if made else 0
    rest = samples[len(made) * hop :]
    if not made or (covered < len(samples) and len(rest) >= window / 2):
        made.append(rest + [0] * (window - len(rest)))
    return made


@pytest.mark.parametrize("hop", [1, 2, 3, 5, 8, 9, 20])
@pytest.mark.parametrize("window", [1, 2, 7, 8])
def test_windows_are_as_the_rule_says(window, hop):
    for length in range(1, 45):
        samples = recording(length)
        made = windows.cut(samples, window, hop)
        assert made.tolist() == expected(samples.tolist(), window, hop), length
        assert made.dtype == np.int16


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (49, 1), (100, 1), (149, 1), (150, 2), (200, 2), (249, 2)]
)
def test_less_than_half_a_window_at_the_end_is_left_out(length, count):
    assert len(windows.cut(recording(length), 100, 100)) == count


def test_what_a_window_has_already_makes_no_other():
    assert len(windows.cut(recording(200), 100, 50)) == 3


def test_a_short_recording_is_followed_by_zeros():
    samples = recording(3, 2)
    made = windows.cut(samples, 8, 8)
    assert made.shape == (1, 2, 8)
    assert np.array_equal(made[0, :, :3], samples)
    assert not made[0, :, 3:].any()


def test_channels_are_cut_alike():
    channels = recording(95, 3)
    made = windows.cut(channels, 20, 7)
    assert made.shape == (12, 3, 20)
    for i in range(3):
        assert np.array_equal(made[:, i], windows.cut(channels[i], 20, 7))


def test_the_recording_stays_as_it_was_and_cannot_be_written_through_its_windows():
    samples = recording(50)
    before = samples.copy()
    made = windows.cut(samples, 20, 10)
    with pytest.raises(ValueError, match="read-only"):
        made[0, 0] = 1
    assert np.array_equal(samples, before)


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_a_window_at_every_sample_takes_no_memory_of_its_own(kind):
    samples = np.ones(1_000_001, kind)
    tracemalloc.start()
    made = windows.cut(samples, 16_000, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.shape == (984_002, 16_000)
    assert peak < 1 << 20
