"""Answers of an engine that this environment cannot have: tflite-runtime needs numpy 1.

It computes some files wrongly and dies of others, so what is made for a board that has it is run
by it, in a process of its own environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgedistill_runtime
from edgedistill.errors import ExportError, SettingsError

ENVIRONMENT = "EDGEDISTILL_TFLITE_RUNTIME"
"""Environment variable with the Python of the environment that has tflite-runtime."""
BESIDE = ".venv-tflite-runtime"
PINS = ("tflite-runtime==2.14.0", "numpy<2")
SECONDS = 600
_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from edgedistill_runtime.backends.tflite import open_session
from edgedistill_runtime.errors import EdgeDistillError
from edgedistill_runtime.manifest import Backend
try:
    session = open_session(open("model.tflite", "rb").read(), Backend("tflite", threads=1))
    name = session.inputs[0].name
    with np.load("inputs.npz") as rows:
        answers = [session.run({name: rows[key]})[0] for key in rows.files]
    np.save("answers.npy", np.concatenate(answers))
except EdgeDistillError as error:
    sys.exit(str(error))
"""


def python() -> str:
    """The Python with tflite-runtime.  Raises SettingsError, which says how to make one."""
    if given := os.environ.get(ENVIRONMENT):
        if not os.access(given, os.X_OK):
            raise SettingsError(f"{ENVIRONMENT} is {given}, and no program is there")
        return given
    for folder in (Path.cwd(), Path(sys.prefix).parent):
        found = folder / BESIDE / "bin" / "python"
        if found.is_file():
            return str(found)
    pins = " ".join(f"'{pin}'" for pin in PINS)
    raise SettingsError(
        "the board's engine is tflite-runtime, which computes some models wrongly, so that each is "
        "checked with it here; make an environment for it with Python 3.11 or older: "
        f"python3 -m venv {BESIDE} && {BESIDE}/bin/pip install {pins} (or say where it is with "
        f"{ENVIRONMENT}=PATH/bin/python)"
    )


def tflite_runtime(model: bytes, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """tflite-runtime's answers, one a call.  -> (n, classes)

    inputs: each (1, …) in the model's type.  Raises ExportError if the engine refuses the model, or
    dies of it.
    """
    program, package = python(), Path(edgedistill_runtime.__file__).parent
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as name:
        folder = Path(name)
        # only this package: beside it may lie a numpy and engines that must not be found
        shutil.copytree(
            package, folder / "with" / package.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        (folder / "model.tflite").write_bytes(model)
        np.savez(folder / "inputs.npz", *inputs)
        try:
            done = subprocess.run(
                [program, "-I", "-c", _RUN, str(folder / "with")],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"tflite-runtime did not answer in {SECONDS} s") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
            how = f"signal {-done.returncode}" if done.returncode < 0 else "an error"
            raise ExportError(
                f"tflite-runtime ended with {how} on this model, and would on the board: "
                f"{said[-1][:300]}"
            )
        answers: NDArray[np.float32] = np.load(folder / "answers.npy")
        return answers
