"""Killed at any moment and started again, a fit ends in the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import fit_environment, run_fit

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("killed")]


@pytest.mark.repeated
def test_a_killed_fit_ends_in_the_same_bytes(
    short_recipe: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    start = time.monotonic()
    run_fit(tmp_path / "whole", tmp_path / "cache", str(short_recipe))
    whole_seconds = time.monotonic() - start
    expected = (tmp_path / "whole" / "model.edge").read_bytes()
    chance = random.Random(0)
    for trial in range(request.config.getoption("--kills")):
        out, cache = tmp_path / f"out{trial}", tmp_path / f"cache{trial}"
        command = [sys.executable, "-m", "edgedistill.cli", "fit", str(short_recipe)]
        process = subprocess.Popen(
            [*command, "--profile", "rpi4", "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=fit_environment(cache),
        )
        try:
            process.wait(chance.uniform(0.1, 1.0) * whole_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        run_fit(out, cache, str(short_recipe))
        assert (out / "model.edge").read_bytes() == expected, f"trial {trial}"
        assert not list(out.rglob("*.tmp")), "a half-written file was left"
