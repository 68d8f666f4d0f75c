"""litert-torch and tflite-runtime live elsewhere: found, or said how to make."""

from __future__ import annotations

import sys

import pytest

from edgedistill import engines
from edgedistill.errors import SettingsError
from edgedistill.export import tflite

FINDERS = {
    "litert": (tflite.converter, tflite.CONVERTER, tflite.BESIDE),
    "tflite-runtime": (engines.python, engines.ENVIRONMENT, engines.BESIDE),
}


@pytest.fixture(params=FINDERS)
def finder(request, monkeypatch, tmp_path):
    """Nothing is beside this environment nor in the working folder."""
    find, variable, folder = FINDERS[request.param]
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere" / ".venv"))
    monkeypatch.chdir(tmp_path)
    return find, variable, folder


def test_without_it_the_sentence_says_how_to_make_it(finder) -> None:
    find, variable, folder = finder
    with pytest.raises(SettingsError, match=rf"python3 -m venv {folder} && .*{variable}="):
        find()


@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_it_is_found_by_its_name(finder, place, tmp_path) -> None:
    find, _, folder = finder
    python = tmp_path / place / folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert find() == str(python)


def test_the_variable_wins(finder, monkeypatch) -> None:
    find, variable, _ = finder
    monkeypatch.setenv(variable, sys.executable)
    assert find() == sys.executable


def test_a_variable_that_names_nothing_is_refused(finder, monkeypatch) -> None:
    find, variable, _ = finder
    monkeypatch.setenv(variable, "/nowhere/python")
    with pytest.raises(SettingsError, match=f"{variable} is /nowhere/python, and no program"):
        find()


def test_lengths_are_powers_of_two_and_the_longest() -> None:
    assert tflite.lengths(64) == (8, 16, 32, 64)
    assert tflite.lengths(100) == (8, 16, 32, 64, 100)
    assert tflite.lengths(5) == (5,)
