"""The bundle that `fit` makes works where the kernel gives no more memory than it says to need."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.cgroups import memory_limit
from tests.conftest import Fitted

from edgedistill_runtime import bundle

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("fit")]


def test_the_fitted_bundle_runs_within_the_memory_that_it_predicts(
    fitted: Fitted, board_python: Path
) -> None:
    predicted = bundle.read(fitted.bundle).manifest.predicted
    assert predicted is not None
    assert predicted.peak_ram_mib
    program = (board_python, "-m", "edgedistill_runtime")
    with memory_limit(predicted.peak_ram_mib) as group:
        done = subprocess.run(
            group.running(*program, "evaluate", "--json", fitted.bundle, fitted.test_split),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["value"] == fitted.report["student"]["metric"]
