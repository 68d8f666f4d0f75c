"""What may import what, seen from outside, and the versions of the two distributions."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgedistill
import edgedistill_runtime

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "sklearn", "scipy"}


def imported(tmp_path: Path, code: str, *arguments: str) -> set[str]:
    """Top-level packages in sys.modules after `code` ran in a fresh interpreter."""
    found = tmp_path / "modules.json"
    ending = (
        "import atexit, json, pathlib, sys\n"
        f"atexit.register(lambda: pathlib.Path({str(found)!r})"
        ".write_text(json.dumps(sorted(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", ending + code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(found.read_text(encoding="utf-8"))}


def run(tmp_path: Path, *arguments: str) -> set[str]:
    """Packages that `edgedistill` with these arguments imports."""
    return imported(tmp_path, "from edgedistill.cli import main; main()", *arguments)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["profiles"], ["profiles", "rpi4"]], ids=" ".join
)
def test_help_and_profiles_import_nothing_heavy(tmp_path, arguments):
    packages = run(tmp_path, *arguments)
    assert "edgedistill" in packages
    assert not HEAVY & packages


@pytest.mark.parametrize("command", ["fit", "profiles"])
def test_a_commands_help_imports_nothing_heavy(tmp_path, command):
    assert not HEAVY & run(tmp_path, command, "--help")


def test_a_plan_is_made_without_torch(tmp_path):
    packages = run(tmp_path, "fit", "--profile", "rpi4", "--plan", "--json")
    assert "sklearn" in packages  # the digits are its
    assert not {"torch", "onnx", "onnxruntime", "transformers"} & packages


def test_a_plan_leaves_nothing_behind(tmp_path):
    run(tmp_path, "fit", "--profile", "rpi4", "--plan")
    assert [path.name for path in tmp_path.iterdir()] == ["modules.json"]


def test_profiles_and_recipes_are_read_without_torch(tmp_path):
    packages = imported(
        tmp_path,
        "import edgedistill\n"
        "edgedistill.DeviceProfile.load('rpi4')\n"
        "edgedistill.Recipe.build(None, {'profile': 'rpi4'})\n",
    )
    assert not HEAVY & packages


def test_the_package_itself_imports_none_of_its_dependencies(tmp_path):
    packages = imported(tmp_path, "import edgedistill")
    assert not (HEAVY | {"numpy", "click", "msgspec", "rich", "edgedistill_runtime"}) & packages


@pytest.mark.parametrize("package", [edgedistill, edgedistill_runtime], ids=lambda p: p.__name__)
def test_every_public_name_can_be_imported(package):
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_the_function_fit_wins_over_the_module_of_its_name(tmp_path):
    imported(
        tmp_path,
        "import edgedistill\n"
        "from edgedistill import fit\n"
        "assert callable(fit) and callable(edgedistill.fit)\n"
        "from edgedistill import fit\n"
        "assert callable(fit)\n",
    )


@pytest.mark.parametrize("package", [edgedistill, edgedistill_runtime], ids=lambda p: p.__name__)
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute"):
        _ = package.quantise


@pytest.mark.parametrize("package", [edgedistill, edgedistill_runtime], ids=lambda p: p.__name__)
def test_every_module_can_be_imported(package):
    folder = Path(package.__file__).parent
    names = [path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py")]
    for parts in names:
        if parts[-1] not in ("__init__", "__main__"):
            importlib.import_module(".".join([package.__name__, *parts]))


def test_versions_pin_and_changelog_agree():
    host = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    device = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
    version = edgedistill.__version__
    assert edgedistill_runtime.__version__ == version
    assert host["version"] == version
    assert device["project"]["version"] == version
    assert f"edgedistill-runtime=={version}" in host["dependencies"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert next(entry for entry in entries if entry != "Unreleased") == version
