"""Answers of an engine that this environment cannot have: tflite-runtime needs numpy 1.

It computes some files wrongly and dies of others, so what is made for a board that has it is run
by it, in a process of its own environment.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgedistill_runtime
from edgedistill.environments import TFLITE_RUNTIME
from edgedistill.errors import ExportError

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


def tflite_runtime(model: bytes, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """tflite-runtime's answers, one a call.  -> (n, classes)

    inputs: each (1, …) in the model's type.  Raises ExportError if the engine refuses the model, or
    dies of it; SettingsError if there is no such environment.
    """
    program, package = TFLITE_RUNTIME.python(), Path(edgedistill_runtime.__file__).parent
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
