"""Options and fixtures of the whole test suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import forked

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="of a fit; other trials grow with it")


@dataclass(frozen=True)
class Fitted:
    """What `edgedistill fit` left behind."""

    out: Path
    report: dict[str, Any]
    stdout: str
    stderr: str

    @property
    def bundle(self) -> Path:
        return self.out / "model.edge"

    @property
    def test_split(self) -> Path:
        return self.out / "test.npz"


def run_fit(
    out: Path, cache: Path, *options: str, check: bool = True, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """`edgedistill fit --profile rpi4` in a process of its own.

    fresh: one that Python has started for it, and not a fork that has the imports already.
    """
    arguments = ["fit", "--profile", "rpi4", "--out", str(out), "--json", *options]
    env = fit_environment(cache)
    if fresh:
        command = [sys.executable, "-m", "edgedistill.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    else:
        done = forked.run(arguments, env)
    if check:
        done.check_returncode()
    return done


def fit_environment(cache: Path) -> dict[str, str]:
    """A cache of its own, and one thread, so that two test workers do not slow each other."""
    return os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own for the session: nothing of the user's is read or written."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Fitted:
    """The README's command, run once."""
    out = tmp_path_factory.mktemp("fitted") / "out"
    done = run_fit(out, cache, fresh=True)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Fitted(out, report, done.stdout, done.stderr)
