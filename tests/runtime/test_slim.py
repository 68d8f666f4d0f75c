"""The runtime is small: a board downloads it over a bad line and keeps it on a small card."""

from __future__ import annotations

from pathlib import Path

import edgedistill_runtime

PACKAGE = Path(edgedistill_runtime.__file__).parent


def test_our_own_code_is_under_1_mib():
    files = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files) < 1 << 20


def test_it_is_python_and_nothing_else():
    kinds = {p.suffix for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert kinds <= {".py", ".typed"}
