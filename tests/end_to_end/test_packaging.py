"""The wheels hold what they must, and work where only they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.conftest import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("packaging")]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, ROOT / "runtime"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
        subprocess.run(
            [*command, "--outdir", str(folder), str(source)], check=True, capture_output=True
        )
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def installed(wheel: Path, folder: Path) -> dict[str, str]:
    """An environment in which the wheel, unpacked into `folder`, comes before everything else."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return os.environ | {"PYTHONPATH": str(folder)}


def test_the_host_wheel_finds_its_profiles_and_recipe(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    environment = installed(wheels["edgedistill"], tmp_path)
    script = "import edgedistill.profiles as p; print(p.DeviceProfile.load('rpi4').path)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    command = [sys.executable, "-m", "edgedistill.cli", "fit", "--profile", "rpi4", "--plan"]
    subprocess.run(command, env=environment, capture_output=True, check=True, cwd=tmp_path)


def test_the_runtime_wheel_works_alone_and_is_slim(
    wheels: dict[str, Path], tmp_path: Path, board_python: Path
) -> None:
    wheel = wheels["edgedistill_runtime"]
    environment = installed(wheel, tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 2**20
    script = "import edgedistill_runtime as r; print(r.__file__)"
    done = subprocess.run(
        [board_python, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
    command = [board_python, "-m", "edgedistill_runtime", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "bench" in done.stdout


def test_the_wheels_hold_no_tests_and_are_typed(wheels: dict[str, Path]) -> None:
    for name, wheel in wheels.items():
        files = zipfile.ZipFile(wheel).namelist()
        assert f"{name}/py.typed" in files
        assert not [f for f in files if "test" in f]
