"""Recipes and environments of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHORT = """
size_mib = 0.09375
min_retention = 0.5
[training]
epochs = 12
alpha_epochs = 3
views = 2
[teacher_training]
epochs = 6
views = 2
"""


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
