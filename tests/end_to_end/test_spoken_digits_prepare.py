"""The spoken digits' prepare step, with a small wheel in place of the package."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tests import examples_support

pytestmark = pytest.mark.end_to_end


def test_recordings_are_padded_with_zeros_at_their_end(tmp_path, monkeypatch):
    prepare = examples_support.script("spoken_digits", monkeypatch)
    lengths = np.array([2, 5, 3])
    frames = np.arange(1, 10 * 13 + 1, dtype=np.float32).reshape(10, 13)
    arrays = io.BytesIO()
    np.savez(arrays, X=frames, y=np.array([7, 1, 7]), lengths=lengths)
    examples_support.use_wheel(
        prepare, tmp_path / "wheels", {prepare.ARRAYS: arrays.getvalue()}, monkeypatch
    )
    assert examples_support.run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    with np.load(tmp_path / "out" / "spoken_digits.npz") as file:
        assert set(file) == {"x", "y"}  # nobody knows who spoke
        x, y = file["x"], file["y"]
    assert x.dtype == np.float32
    assert x.shape == (3, 13, 5)
    assert y.tolist() == [7, 1, 7]
    for recording, begin, length in zip(x, (0, 2, 7), lengths, strict=True):
        np.testing.assert_array_equal(recording[:, :length], frames[begin : begin + length].T)
        assert not recording[:, length:].any()
