"""A bundle works where the kernel gives its process no more memory than its own peak."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.cgroups import memory_limit
from tests.runtime import small_bundles
from tests.runtime.runtime_support import environment

from edgedistill_runtime import health, load

BUNDLES = ("images", "images, int8", "sound", "texts", "texts, TFLite")


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_runs_within_its_own_peak(name, tmp_path):
    if name not in small_bundles.names():
        pytest.skip(f"a bundle of {name} needs what is not installed here")
    path = small_bundles.write(name, tmp_path / "model.edge")
    lines = _labelled_lines(path, tmp_path / "split.jsonl")
    peak = health.check(path, None).peak_ram_mib
    assert peak
    program = (sys.executable, "-m", "edgedistill_runtime")
    with memory_limit(peak) as group:
        predicted = _run(group.running(*program, "predict", path, lines))
        evaluated = _run(group.running(*program, "evaluate", path, lines, "--json"))
    assert predicted.returncode == 0, predicted.stderr
    assert len(predicted.stdout.splitlines()) == len(lines.read_text("utf-8").splitlines())
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["value"] == 1


def test_and_what_needs_more_is_stopped():
    with memory_limit(24) as group:
        done = _run(group.running(sys.executable, "-c", f"x = bytearray(b'1') * {48 << 20}"))
    assert done.returncode == -9


def _labelled_lines(path, to):
    model = load(path)
    rows = [
        {
            "input": sample if isinstance(sample, str) else sample.tolist(),
            "label": model.predict(sample).label,
        }
        for sample in model.golden_samples()
    ]
    to.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return to


def _run(command):
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment()
    )
