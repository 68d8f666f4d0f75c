"""The examples for the board run, on real files and without hardware."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT, Fitted

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("fit")]


def test_classify_names_the_digit_in_an_image_file(fitted: Fitted, tmp_path: Path) -> None:
    from PIL import Image

    with np.load(fitted.test_split) as split:
        image, digit = split["x"][0, :, :, 0], split["y"][0]
    Image.fromarray(image).save(tmp_path / "digit.png")
    command = [sys.executable, str(ROOT / "examples" / "raspberry_pi" / "classify.py")]
    done = subprocess.run(
        [*command, str(fitted.bundle), str(tmp_path / "digit.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{digit} (")
    wrong = subprocess.run(
        [*command, "missing.edge", "x.png"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
