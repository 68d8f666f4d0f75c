"""Processes of our own for what may kill them, and how they ended: imports and measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill_runtime.errors import EngineError

MEANINGS = {
    "SIGILL": "it uses instructions that this processor does not have",
    "SIGABRT": "it gave up by itself",
    "SIGSEGV": "it crashed",
    "SIGBUS": "it crashed",
    "SIGKILL": "the system ended it, most likely for want of memory",
}
_PROGRAM = """
import importlib, sys
try:
    module = importlib.import_module(sys.argv[1])
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(getattr(module, "__version__", ""))
"""


@dataclass(frozen=True)
class Probe:
    """What became of an import."""

    works: bool
    version: str
    """"" where it does not say."""
    missing: bool
    """It is not installed at all."""
    reason: str
    """Why it does not work, for people."""


def probe(module: str, timeout_s: float = 120) -> Probe:
    """Import `module` in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, module],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        return Probe(False, "", False, f"its import gave no answer in {timeout_s:g} s")
    if not done.returncode:
        return Probe(True, done.stdout.strip(), False, "")
    missing = f"ModuleNotFoundError: No module named '{module}'" in done.stderr
    return Probe(False, "", missing, ended(done.returncode, done.stderr))


def measure(
    kind: str, path: Path, *arguments: Any, timeout_s: float | None = None
) -> dict[str, Any]:
    """The result of `edgedistill_runtime.measure`, in a fresh process.  Raises EngineError."""
    command = [sys.executable, "-m", "edgedistill_runtime.measure", kind, str(path)]
    command += [json.dumps(argument) for argument in arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment(),
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"the {kind} measurement gave no answer in {timeout_s:g} s") from None
    if done.returncode:
        detail = ended(done.returncode, done.stderr)
        raise EngineError(f"the {kind} measurement ended early ({detail})")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in result:
        raise EngineError(result["error"])
    return result


def ended(returncode: int, stderr: str) -> str:
    """How a process ended, in words: the signal that killed it, or its own last words."""
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"{name}: {MEANINGS.get(name, 'it was killed')}"
    return (stderr.strip().splitlines() or [f"exit status {returncode}"])[-1][:300]


def environment() -> dict[str, str]:
    """This process's, with which a child finds the modules that this process does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
