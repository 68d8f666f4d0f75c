"""What `edgedistill-run` costs over the bare engine: memory, cold start, one call, installed size.

The other side is a script that somebody would write by hand for this one model (`BARE` below), run
by the same interpreter in the same environment.  The two sides take turns, so that a busy machine
slows both; compared are medians over the pairs.  Exit 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "runtime_overhead.json"
WARM_UP_PAIRS = 3  # fill the page cache and write the .pyc files
# a board has its .pyc files, so nothing here may keep the interpreter from writing them
ENVIRONMENT = {key: v for key, v in os.environ.items() if not key.startswith("PYTHON")}

HOW = (
    "Memory and cold start: pairs of processes that take turns in who goes first; same interpreter "
    "and environment, .pyc files written, PYTHON* variables unset. Peak memory is ru_maxrss of the "
    "ended process (its VmHWM), time is from spawn to exit. Bare and runtime are medians; excess "
    "is the median over the pairs of the difference or ratio; least compares the smallest of each "
    "side. Model.run: calls that take turns in one process, a session for each side; excess is "
    "the difference of the medians. Installed size: the package, its .pyc files, its metadata. "
    "All of it on this machine, which is no board."
)

BARE = """\
import sys
import zipfile

import numpy as np
import onnxruntime as ort

bundle, path = sys.argv[1:]
with zipfile.ZipFile(bundle) as file:
    model = file.read({model!r})
ort.set_default_logger_severity(4)
options = ort.SessionOptions()
options.intra_op_num_threads = {threads}
options.inter_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
options.enable_cpu_mem_arena = {arena}
options.log_severity_level = 4
options.add_session_config_entry("session.intra_op.allow_spinning", {spinning!r})
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
x = np.load(path)
{preprocess}
labels = {labels!r}
print(labels[session.run(None, {{{input!r}: x[None]}})[0][0].argmax()])
"""
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
STEPS = {
    "normalize": (
        "x = (x.astype(np.float32) * np.float32({scale}) - np.array({mean}, np.float32))"
        " / np.array({std}, np.float32)"
    ),
    "channels_first": "x = np.ascontiguousarray(np.moveaxis(x, -1, -3))",
}

# bundle, path of the sample to write -> what was found, as JSON
DESCRIBE = """\
import compileall, dataclasses, importlib.metadata, importlib.util, json, pathlib, platform
import sys, sysconfig
import numpy as np
import edgedistill_runtime
from edgedistill_runtime import load

model = load(sys.argv[1])
np.save(sys.argv[2], model.golden_samples()[0])
package = pathlib.Path(edgedistill_runtime.__file__).parent
compileall.compile_dir(package, quiet=2)  # as pip does when it installs
files = {p for p in package.rglob("*") if p.is_file() and p.parent.name != "__pycache__"}
compiled = (importlib.util.cache_from_source(str(p)) for p in files if p.suffix == ".py")
files |= {p for p in map(pathlib.Path, compiled) if p.exists()}
own = importlib.metadata.distribution("edgedistill-runtime")
files |= {p for p in (pathlib.Path(f.locate()) for f in own.files or ()) if p.is_file()}
names = ("click", "edgedistill-runtime", "numpy", "onnxruntime")
print(json.dumps({
    "manifest": dataclasses.asdict(model.manifest),
    "bundle_id": model.bundle_id,
    "installed_bytes": sum(p.stat().st_size for p in {p.resolve() for p in files}),
    "editable": not package.is_relative_to(sysconfig.get_path("purelib")),
    "versions": {"python": platform.python_version()}
    | {name: importlib.metadata.version(name) for name in names},
}))
"""

# bundle, level, number of calls -> nanoseconds of each call, as JSON
CALLS = """\
import gc, json, sys, time, zipfile
import numpy as np
import onnxruntime as ort
from edgedistill_runtime import load

path, level, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = load(path)
settings = model.manifest.backend
with zipfile.ZipFile(path) as file:
    data = file.read(model.manifest.model)
options = ort.SessionOptions()
options.intra_op_num_threads = settings.threads
options.inter_op_num_threads = 1
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
options.enable_cpu_mem_arena = settings.arena
options.log_severity_level = 4
options.add_session_config_entry(
    "session.intra_op.allow_spinning", "1" if settings.spinning else "0"
)
session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
feed = {
    t.name: rng.standard_normal(t.shape).astype(t.dtype) if t.dtype == "float32"
    else rng.integers(0, 100, t.shape).astype(t.dtype)
    for t in model.manifest.inputs
}
clock = time.perf_counter_ns
bare, runtime = [], []
for i in range(calls + 200):
    sides = [(bare, lambda: session.run(None, feed)), (runtime, lambda: model.run(feed))]
    for times, call in sides if i % 2 else sides[::-1]:
        start = clock()
        call()
        times.append(clock() - start)
print(json.dumps({"bare": bare[200:], "runtime": runtime[200:]}))
"""


@dataclass(frozen=True)
class Process:
    """One process from start to exit."""

    ms: float
    peak_mib: float
    stdout: str


@dataclass(frozen=True)
class Row:
    """One target: what each side took, how much more the runtime took, and how much it may."""

    name: str
    unit: str
    bare: float | None
    runtime: float
    excess: float
    """Difference in `unit`, or a ratio where `unit_of_excess` is "x"."""
    unit_of_excess: str
    least: float | None
    """The same excess between the smallest value of each side; shown, not judged."""
    target: float

    @property
    def ok(self) -> bool:
        return self.excess <= self.target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), metavar="FILE")
    parser.add_argument("--bundle", type=Path, help="default: fit one under build/bench")
    parser.add_argument("--pairs", type=int, default=60, help="processes of each side")
    parser.add_argument("--calls", type=int, default=5000, help="calls of each side")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()

    work = ROOT / "build" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    bundle = options.bundle or _fit(work)
    python = options.python.absolute()  # not resolved: a venv's python is a link
    found = json.loads(_run([python, "-c", DESCRIBE, bundle, work / "sample.npy"]).stdout)
    manifest = found["manifest"]
    (work / "bare.py").write_text(_bare(manifest), encoding="utf-8")

    pairs = _pairs(
        [python, work / "bare.py", bundle, work / "sample.npy"],
        [python.with_name("edgedistill-run"), "predict", bundle, work / "sample.npy"],
        options.pairs,
    )
    level = LEVELS[manifest["backend"]["graph_optimization"]]
    calls = json.loads(_run([python, "-c", CALLS, bundle, level, options.calls]).stdout)
    rows = _rows(pairs, calls, found["installed_bytes"])
    _print(rows)
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **_commit(),
        "machine": _machine(),
        "versions": found["versions"],
        "editable_install": found["editable"],
        "bundle": {
            "id": found["bundle_id"],
            "name": manifest["name"],
            "precision": manifest["precision"],
            "size_bytes": bundle.stat().st_size,
        },
        "pairs": options.pairs,
        "calls": options.calls,
        "how": HOW,
        "results": [_rounded(row) | {"ok": row.ok} for row in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(row.ok for row in rows) else 1)


def _fit(out: Path) -> Path:
    """The default student for a Raspberry Pi 4, by the host package of this interpreter."""
    program = Path(sys.executable).with_name("edgedistill")
    command = [program, "fit", "--profile", "rpi4", "--out", out / "fit"]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"edgedistill fit ended with status {done.returncode}; give a file with --bundle")
    return out / "fit" / "model.edge"


def _bare(manifest: dict[str, Any]) -> str:
    """The script of somebody who knows the model: every setting a literal, nothing checked."""
    steps = []
    for step in manifest["preprocess"]:
        if step["op"] not in STEPS:
            sys.exit(f"the bare script has no preprocessing step {step['op']!r}")
        steps.append(STEPS[step["op"]].format_map(step))
    settings = manifest["backend"]
    return BARE.format(
        model=manifest["model"],
        threads=settings["threads"],
        level=LEVELS[settings["graph_optimization"]],
        arena=settings["arena"],
        spinning="1" if settings["spinning"] else "0",
        preprocess="\n".join(steps),
        labels=manifest["labels"],
        input=manifest["inputs"][0]["name"],
    )


def _pairs(
    bare: Sequence[object], runtime: Sequence[object], count: int
) -> list[tuple[Process, Process]]:
    pairs = []
    for i in range(count + WARM_UP_PAIRS):
        pair = (_run(bare), _run(runtime)) if i % 2 else (_run(runtime), _run(bare))[::-1]
        labels = (pair[0].stdout.strip(), json.loads(pair[1].stdout)["label"])
        if labels[0] != labels[1]:
            sys.exit(f"the two sides do not do the same: {labels[0]!r} and {labels[1]!r}")
        pairs.append(pair)
    return pairs[WARM_UP_PAIRS:]


def _run(command: Sequence[object]) -> Process:
    """Run it to its end.

    ru_maxrss is at least what its parent had when it started: this process must stay smaller than
    what it measures, so it imports neither numpy nor an engine.
    """
    words = [str(word) for word in command]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        stdout = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        ms = (time.perf_counter() - start) * 1e3
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{Path(str(command[0])).name} ended with status {process.returncode}")
    return Process(ms, usage.ru_maxrss / 1024, stdout)


def _rows(
    pairs: list[tuple[Process, Process]], calls: dict[str, list[int]], installed_bytes: int
) -> list[Row]:
    median = statistics.median
    peaks = [(a.peak_mib, b.peak_mib) for a, b in pairs]
    times = [(a.ms, b.ms) for a, b in pairs]
    bare_us, runtime_us = ([ns / 1e3 for ns in calls[side]] for side in ("bare", "runtime"))
    return [
        Row(
            name="peak memory",
            unit="MiB",
            bare=median(a for a, _ in peaks),
            runtime=median(b for _, b in peaks),
            excess=median(b - a for a, b in peaks),
            unit_of_excess="MiB",
            least=min(b for _, b in peaks) - min(a for a, _ in peaks),
            target=10,
        ),
        Row(
            name="cold start",
            unit="ms",
            bare=median(a for a, _ in times),
            runtime=median(b for _, b in times),
            excess=median(b / a for a, b in times),
            unit_of_excess="x",
            least=min(b for _, b in times) / min(a for a, _ in times),
            target=1.3,
        ),
        Row(
            name="Model.run",
            unit="us",
            bare=median(bare_us),
            runtime=median(runtime_us),
            excess=median(runtime_us) - median(bare_us),
            unit_of_excess="us",
            least=min(runtime_us) - min(bare_us),
            target=20,
        ),
        Row(
            name="installed size",
            unit="MiB",
            bare=None,
            runtime=installed_bytes / 2**20,
            excess=installed_bytes / 2**20,
            unit_of_excess="MiB",
            least=None,
            target=1,
        ),
    ]


def _rounded(row: Row) -> dict[str, Any]:
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(row).items()}


def _print(rows: list[Row]) -> None:
    line = "{:<16}{:>10}{:>10}  {:<4}{:>10}{:>10}{:>8} {:<4}ok"
    sys.stdout.write(
        line.format("", "bare", "runtime", "", "excess", "least", "target", "").rstrip() + "\n"
    )
    for row in rows:
        bare, least = (f"{v:.2f}" if v is not None else "-" for v in (row.bare, row.least))
        text = line.format(
            row.name,
            bare,
            f"{row.runtime:.2f}",
            row.unit,
            f"{row.excess:.2f}",
            least,
            f"{row.target:g}",
            row.unit_of_excess,
        )
        sys.stdout.write(text.removesuffix("ok") + ("yes" if row.ok else "NO") + "\n")


def _commit() -> dict[str, Any]:
    measured = ("runtime", "benchmarks/runtime_overhead.py")
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", *measured)) if commit else None
    return {"commit": commit or None, "changed_since_commit": changed}


def _git(*words: str) -> str:
    """What git says, or nothing: a source archive has no history, and a board no git."""
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [
        line.partition(":")[2].strip()
        for line in cpuinfo.splitlines()
        if line.startswith(("model name", "Model"))
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
    }


if __name__ == "__main__":
    main()
