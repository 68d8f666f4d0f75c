"""litert-torch and tflite-runtime live elsewhere: found, or said how to make."""

from __future__ import annotations

import sys

import pytest

from edgedistill.environments import LITERT, TFLITE_RUNTIME
from edgedistill.errors import SettingsError
from edgedistill.export import tflite


@pytest.fixture(params=[LITERT, TFLITE_RUNTIME], ids=lambda environment: environment.name)
def wanted(request, monkeypatch, tmp_path):
    """Nothing is beside this environment nor in the working folder."""
    monkeypatch.delenv(request.param.variable, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere" / ".venv"))
    monkeypatch.chdir(tmp_path)
    return request.param


def test_without_it_the_sentence_says_how_to_make_it(wanted) -> None:
    how = rf"python3 -m venv {wanted.name} && .*{wanted.variable}="
    with pytest.raises(SettingsError, match=how):
        wanted.python()


@pytest.mark.parametrize("place", [".", "elsewhere"])
def test_it_is_found_by_its_name(wanted, place, tmp_path) -> None:
    python = tmp_path / place / wanted.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert wanted.python() == str(python)


def test_the_variable_wins(wanted, monkeypatch) -> None:
    monkeypatch.setenv(wanted.variable, sys.executable)
    assert wanted.python() == sys.executable


def test_a_variable_that_names_nothing_is_refused(wanted, monkeypatch) -> None:
    monkeypatch.setenv(wanted.variable, "/nowhere/python")
    how = f"{wanted.variable} is /nowhere/python, and no program"
    with pytest.raises(SettingsError, match=how):
        wanted.python()


def test_lengths_are_powers_of_two_and_the_longest() -> None:
    assert tflite.lengths(64) == (8, 16, 32, 64)
    assert tflite.lengths(100) == (8, 16, 32, 64, 100)
    assert tflite.lengths(5) == (5,)
