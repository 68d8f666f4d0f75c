"""Pythons of other environments: for packages that exclude what this package needs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgedistill.errors import SettingsError


@dataclass(frozen=True)
class Environment:
    """An environment, and how it is found and made."""

    variable: str
    """Environment variable with the path of its Python."""
    name: str
    """Of its folder, in the working folder or beside this environment."""
    pins: tuple[str, ...]
    why: str
    """A sentence's beginning, for whoever has none."""
    here: str = ""
    """The package with which this environment will do; empty: it never does."""

    def python(self) -> str:
        """Its Python.  Raises SettingsError, which says how to make one."""
        if given := os.environ.get(self.variable):
            if not os.access(given, os.X_OK):
                raise SettingsError(f"{self.variable} is {given}, and no program is there")
            return given
        if self.here and find_spec(self.here):
            return sys.executable
        for folder in (Path.cwd(), Path(sys.prefix).parent):
            python = folder / self.name / "bin" / "python"
            if python.is_file():
                return str(python)
        pins = " ".join(f"'{pin}'" for pin in self.pins)
        raise SettingsError(
            f"{self.why}; make an environment for it: python3 -m venv {self.name} && "
            f"{self.name}/bin/pip install {pins} (or say where it is with "
            f"{self.variable}=PATH/bin/python)"
        )


LITERT = Environment(
    "EDGEDISTILL_LITERT",
    ".venv-litert",
    ("litert-torch==0.10.0", "torch==2.13.0"),
    "TFLite files are made by litert-torch, whose pins exclude this environment's",
    here="litert_torch",
)
TFLITE_RUNTIME = Environment(
    "EDGEDISTILL_TFLITE_RUNTIME",
    ".venv-tflite-runtime",
    ("tflite-runtime==2.14.0", "numpy<2"),
    "the board's engine is tflite-runtime, which computes some models wrongly, so that each is "
    "checked with it here, and it needs numpy 1 and Python 3.11 or older",
)
