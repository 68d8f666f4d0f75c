"""Recipes, commands and environments of the end-to-end tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import opinions

ROOT = Path(__file__).parents[2]

SHORT = """
size_mib = 0.09375
min_retention = 0.5
[training]
epochs = 12
trial_epochs = 3
views = [2]
[teacher_training]
epochs = 6
views = 2
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def short_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that passes through every stage in a few seconds."""
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    path.write_text(SHORT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def board_python() -> Path:
    """An environment with the runtime and no torch; `make` builds it."""
    python = ROOT / ".venv-runtime" / "bin" / "python"
    assert python.exists(), "run the tests with `make test`, which makes .venv-runtime"
    return python


@pytest.fixture
def board(board_python: Path) -> Callable[..., list[dict[str, Any]]]:
    """`edgedistill-run` in that environment; gives the JSON lines of stdout."""

    def run(*arguments: str | Path) -> list[dict[str, Any]]:
        done = subprocess.run(
            [board_python, "-m", "edgedistill_runtime", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> Command:
    """`edgedistill` with these arguments, without the seconds that a process takes to start."""
    from edgedistill.cli import main

    def run(*arguments: str | Path, cache: Path = cache) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(sys, "argv", ["edgedistill", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred and forty opinions, in three classes."""
    folder = tmp_path_factory.mktemp("texts")
    return opinions.write_csv(folder / "opinions.csv", opinions.sentences(240))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return opinions.images(tmp_path_factory.mktemp("images") / "sides.npz")


@pytest.fixture(scope="session")
def text_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers that knows the opinions."""
    return opinions.classifier(tmp_path_factory.mktemp("teachers") / "bert")


@pytest.fixture(scope="session")
def image_teacher(pictures: Path) -> opinions.Sides:
    return opinions.Sides(pictures)
