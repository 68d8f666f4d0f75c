"""Try a bundle before anything depends on it: golden outputs and memory, in a process that may die.

    python -m edgedistill_runtime.health BUNDLE

The limit is the bundle's own: the peak of resident memory (VmHWM) that its budget allows.  It is
watched from outside, and where systemd runs the kernel enforces it as well.  A limit on address
space would be none of it: engines reserve far more than they use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill_runtime import processes, telemetry
from edgedistill_runtime.errors import BundleError, EdgeDistillError

MAX_SECONDS = 120
_LOOK_SECONDS = 0.01
_SYSTEMD = Path("/run/systemd/system")
"""There if systemd runs this machine (sd_booted(3))."""


@dataclass(frozen=True)
class Health:
    """What a bundle that passed said and needed."""

    golden_difference: float
    engine: str
    peak_ram_mib: float | None
    warning: str | None
    """What could not be judged, and why."""


def check(path: Path, limit_mib: float | None) -> Health:
    """Load the bundle at `path` and answer its golden samples, in a child under `limit_mib`.

    Raises BundleError if it fails, needs more memory, or gives no answer in MAX_SECONDS.
    """
    emulated = telemetry.emulated()
    limit = None if emulated else limit_mib
    result = _child(path, limit)
    if "error" in result:
        raise BundleError(f"its health check failed: {result['error']}")
    peak = result["peak_ram_mib"]
    if limit is not None and peak is not None and peak > limit:
        raise _too_much(limit, peak)
    warning = None
    if limit_mib is not None and emulated:
        warning = "its memory was not judged, because this board is emulated"
    elif limit is not None and peak is None:
        warning = "its memory was not judged, because the kernel does not say it (VmHWM)"
    return Health(result["golden_difference"], result["engine"], peak, warning)


def _child(path: Path, limit_mib: float | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgedistill_runtime.health", str(path)]
    done = None
    if limit_mib is not None and _SYSTEMD.exists() and shutil.which("systemd-run"):
        scope = ["systemd-run", "--scope", "--quiet", "--collect"]
        scope += [] if os.geteuid() == 0 else ["--user"]
        properties = [f"MemoryMax={int(limit_mib * 2**20)}", "MemorySwapMax=0"]
        done = _run([*scope, *(f"--property={p}" for p in properties), "--", *command], limit_mib)
        if done.returncode > 0 and not done.stdout.strip():
            done = None  # it could not make a scope, and started nothing
    if done is None:
        done = _run(command, limit_mib)
    try:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        within = "" if limit_mib is None else f" within {limit_mib:.4g} MiB"
        raise BundleError(
            f"its health check failed: the process ended early{within} "
            f"({processes.ended(done.returncode, done.stderr)})"
        ) from None
    return result


def _run(command: list[str], limit_mib: float | None) -> subprocess.CompletedProcess[str]:
    """Run to the end, or until it needs more than `limit_mib` or MAX_SECONDS."""
    deadline = time.monotonic() + MAX_SECONDS
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=processes.environment(),
    ) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    pass
                peak = telemetry.peak_ram_of(process.pid)
                if limit_mib is not None and peak is not None and peak > limit_mib:
                    raise _too_much(limit_mib, peak)
                if time.monotonic() > deadline:
                    raise BundleError(
                        f"its health check failed: it gave no answer in {MAX_SECONDS} s"
                    )
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _too_much(limit_mib: float, peak_mib: float) -> BundleError:
    return BundleError(
        f"its health check failed: it needs {peak_mib:.4g} MiB of memory or more, over its budget "
        f"of {limit_mib:.4g} (peak_ram_mib)"
    )


def main() -> None:
    """The child."""
    result: dict[str, Any]
    try:
        from edgedistill_runtime import bundle
        from edgedistill_runtime.model import Model

        model = Model(bundle.read(sys.argv[1]))
        difference = model.check_golden()
        for sample in model.golden_samples():
            model.predict(sample)
        result = {
            "golden_difference": difference,
            "engine": f"{model.engine} {model.engine_version}",
            "peak_ram_mib": telemetry.peak_ram_of(os.getpid()),
        }
    except EdgeDistillError as error:
        result = {"error": str(error).removeprefix(f"{sys.argv[1]}: ")}
    except MemoryError:
        result = {"error": "out of memory"}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
