"""What the engine does besides running a model."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.runtime.runtime_support import environment


@pytest.mark.parametrize("command", ["verify", "predict"])
def test_the_engine_leaves_no_file_behind_and_has_nothing_to_report(edge, tmp_path, command):
    """onnxruntime 1.32 keeps an id of the device, a data base and a session file by itself."""
    home = tmp_path / "home"
    home.mkdir()
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(home))
    there = environment() | places
    there.pop("ORT_DISABLE_TELEMETRY", None)  # a host that ran in this process has set it
    words = [sys.executable, "-m", "edgedistill_runtime", command, str(edge)]
    words += ["-"] if command == "predict" else []
    done = subprocess.run(words, env=there, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
