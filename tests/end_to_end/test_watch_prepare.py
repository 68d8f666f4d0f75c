"""The watch's prepare step, with a small wheel in place of the package."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
from tests import examples_support

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def prepare(monkeypatch):
    return examples_support.script("watch", monkeypatch)


def pickled(value: object) -> bytes:
    """As the package has it: one object in a `.npy` file, in the pickles of numpy 1."""
    file = io.BytesIO()
    array = np.array(value, dtype=object)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    data = pickle.dumps(array, protocol=2)
    return file.getvalue() + data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def recordings() -> dict[str, object]:
    steps = [np.arange(n, dtype=np.float64)[:, None] + 1000 * np.arange(6) for n in (127, 128, 256)]
    return {
        "X": steps,
        "y": np.array([0, 1, 6]),
        "subject": np.array([4, 5, 5]),
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
    }


def test_windows_follow_each_other_by_half_and_know_their_subject(prepare, tmp_path, monkeypatch):
    examples_support.use_wheel(
        prepare, tmp_path / "wheels", {prepare.PICKLE: pickled(recordings())}, monkeypatch
    )
    assert examples_support.run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    with np.load(tmp_path / "out" / "watch.npz", allow_pickle=False) as file:
        x, y, group, rate = (file[name] for name in ("x", "y", "group", "rate"))
    assert x.dtype == np.float32
    assert x.shape == (4, 6, 128)  # the recording of 127 steps has no window
    assert x[:, 0, 0].tolist() == [0, 0, 64, 128]
    assert x[3, 5].tolist() == [5128 + step for step in range(128)]
    assert y.tolist() == ["abduction", *["upright row"] * 3]
    assert group.tolist() == [5, 5, 5, 5]
    assert rate == 50


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_runs_anything_is_refused(prepare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = recordings() | {"more": Harmful()}
    examples_support.use_wheel(
        prepare, tmp_path / "wheels", {prepare.PICKLE: pickled(found)}, monkeypatch
    )
    assert examples_support.run(prepare, monkeypatch, "--out", tmp_path / "out") == 2
    assert "nothing was run" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "out").exists()
