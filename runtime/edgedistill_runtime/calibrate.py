"""Measure the small networks from which the host learns how fast this board's kernels are.

A folder of packs holds `packs.json` and one ONNX file a network; the host makes it (`edgedistill
calibrate`).  What is measured goes to a JSON Lines file, a line as soon as it is known, so that an
interrupted calibration goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill_runtime import processes, telemetry
from edgedistill_runtime.errors import EngineError, InputError
from edgedistill_runtime.files import sync_folder
from edgedistill_runtime.manifest import Backend
from edgedistill_runtime.verdict import quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX = "packs.json"
FORMAT = 1
PASSES = 2
STRETCH = 48
"""Networks between two passes of one: noise that lasts for seconds should spoil one of them."""
FLOOR_SECONDS, MIN_RUNS = 0.12, 5
"""A network's latency is its least over so much time, and so many runs at least."""
PROFILE_SECONDS, PROFILE_RUNS = 0.15, (8, 30)
QUIETEST = 0.3
"""Share of a kernel's runs, the shortest ones, whose mean counts."""
JITTER_RUNS = 300
MEMORY_RUNS = 3
BUSY_LOAD = 0.3
"""Load of other programs, in processors, over which a board is not calibrated."""
DTYPES = ("float32", "int16", "text", "uint8")
SETTINGS = {"graph_optimization": "extended", "arena": False, "spinning": False}

Progress = Callable[[int, int, float], None]
"""Networks done, of how many, and seconds spent."""


@dataclass(frozen=True)
class Pack:
    """One network to measure, as the index lists it."""

    name: str
    file: str
    sha256: str
    length: int = 1
    """What an open dimension of its input is, such as the tokens of a text."""
    jitter: bool = False
    """Whether its latency's percentiles are measured too."""
    memory: bool = False
    """Whether a process that loads it is measured too."""


@dataclass(frozen=True)
class Step:
    """Preprocessing to time: its steps, as a manifest has them, and a sample for it."""

    name: str
    steps: list[dict[str, Any]]
    dtype: str
    shape: list[int]
    text: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    packs: list[Pack]
    """Most useful first: time may run out."""
    steps: list[Step]
    call: str
    """A bundle of almost nothing, to see what `predict` itself takes."""

    @property
    def digest(self) -> str:
        """Of the networks, in whatever order: results of others are not to be mixed with theirs."""
        lines = sorted(f"{pack.name} {pack.sha256} {pack.length}" for pack in self.packs)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def calibrate(
    folder: Path,
    results: Path,
    threads: int = 1,
    max_seconds: float = 360,
    allow_busy: bool = False,
    progress: Progress = lambda done, count, seconds: None,
) -> int:
    """Measure the networks of `folder` into `results`; returns how many were measured twice.

    Those that stand in `results` already are not measured again.  Raises EngineError where the
    board is throttled or busy, InputError where folder or results cannot be used.
    """
    index = read_index(folder)
    packs = index.packs
    about = _about(threads, index)
    done = _read_results(results, about)
    _refuse_throttled()
    _refuse_busy(allow_busy)
    start = time.monotonic()
    with results.open("a", encoding="utf-8") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

        if not done:
            write(about)
            sync_folder(results.absolute().parent)
        call = Call(folder / index.call)
        for step in index.steps:
            if (step.name, 0) not in done:
                row = {"kind": "step", "name": step.name, "pass": 0}
                write({**row, "floor_us": _step_us(folder, step, call)})
        if ("call", 0) not in done:
            write({"kind": "call", "name": "call", "pass": 0, **call.measure(threads)})
        for number, (turn, pack) in enumerate(_turns(packs)):
            seconds = time.monotonic() - start
            progress(number, PASSES * len(packs), seconds)
            if seconds > max_seconds:
                break
            if (pack.name, turn) not in done:
                row = _measured(folder, pack, turn, threads)
                _refuse_throttled()  # before the row is written: its times would be too long
                write(row)
                done.add((pack.name, turn))
        progress(PASSES * len(packs), PASSES * len(packs), time.monotonic() - start)
        write({"kind": "end", **_state()})
    return sum((pack.name, PASSES - 1) in done for pack in packs)


def read_index(folder: Path) -> Index:
    """What a folder has to measure."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise InputError(
                f"{folder / INDEX} has format {index['format']}, and this runtime reads {FORMAT}; "
                "install the same versions of edgedistill and edgedistill-runtime"
            )
        packs = [Pack(**_fields(Pack, row)) for row in index["packs"]]
        steps = [Step(**_fields(Step, row)) for row in index["steps"]]
        if not packs or not isinstance(index["call"], str):
            raise ValueError("it lists no networks, or no call")
        return Index(packs, steps, index["call"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder} has no readable {INDEX} ({error}); make one with: edgedistill calibrate"
        ) from error


def _fields(kind: type[Pack | Step], row: dict[str, Any]) -> dict[str, Any]:
    """The fields that this runtime knows.  Raises ValueError for a value that none can have."""
    found = {field.name: row[field.name] for field in fields(kind) if field.name in row}
    for field in fields(kind):
        wanted = {"str": str, "int": int, "bool": bool}.get(str(field.type), list)
        if field.name in found and type(found[field.name]) is not wanted:
            raise ValueError(f"{field.name!r} is {found[field.name]!r:.80}")
    sizes = [found.get("length", 1), *found.get("shape", [])]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError("a size is not a number over 0")
    if found.get("dtype", "text") not in DTYPES or not all(map(_is_name, found.get("files", []))):
        raise ValueError("a step has an unknown 'dtype', or no names for 'files'")
    return found


def _is_name(value: object) -> bool:
    return isinstance(value, str)


def _turns(packs: list[Pack]) -> Iterator[tuple[int, Pack]]:
    """Both passes of a stretch of networks before the next stretch: time may run out.

    The first stretch is short: on a slow board it may be all that is measured twice.
    """
    import random

    for first in (0, *range(STRETCH // 2, len(packs), STRETCH)):
        part = packs[first : first + (STRETCH if first else STRETCH // 2)]
        for turn in range(PASSES):
            yield from ((turn, pack) for pack in random.Random(turn).sample(part, len(part)))


def _measured(folder: Path, pack: Pack, turn: int, threads: int) -> dict[str, Any]:
    data = (folder / pack.file).read_bytes()
    if hashlib.sha256(data).hexdigest() != pack.sha256:
        raise InputError(f"{folder / pack.file} is not the file that {INDEX} lists; copy it again")
    row: dict[str, Any] = {"kind": "pack", "name": pack.name, "pass": turn}
    row |= measure(data, threads, pack.length, pack.jitter)
    if pack.memory and not turn:
        row["memory"] = _memory(folder / pack.file, pack.length, threads)
    return row


def measure(data: bytes, threads: int, length: int = 1, jitter: bool = False) -> dict[str, Any]:
    """One network: load time, latency's floor, and the time of each node, all in microseconds."""
    from edgedistill_runtime.backends.onnx import OnnxSession

    settings = Backend("onnx", threads=threads, **SETTINGS)  # type: ignore[arg-type]
    start = time.perf_counter()
    session = OnnxSession(data, settings)
    load_us = (time.perf_counter() - start) * 1e6
    inputs = _inputs(session, length)
    times = _times(session, inputs, FLOOR_SECONDS, MIN_RUNS)
    floor_us = min(times)
    row = {
        "load_us": load_us,
        "floor_us": floor_us,
        "nodes": _profile(data, settings, inputs, floor_us),
    }
    if jitter:
        for _ in range(JITTER_RUNS - len(times)):
            times += _times(session, inputs, 0, 1)
        row["jitter"] = {str(p): quantile(times, p) / min(times) for p in (50, 95, 99)}
    return row


def _inputs(session: Any, length: int) -> dict[str, NDArray[Any]]:
    """Some of everything, without numpy.random: the processes that are weighed do not import it."""
    import numpy as np

    made: dict[str, NDArray[Any]] = {}
    for tensor in session.inputs:
        shape = [size if size > 0 else length for size in tensor.shape]
        values = np.resize(np.arange(4099) * 37 % 101, shape)  # 0 to 100
        made[tensor.name] = values if tensor.dtype == "int64" else _spread(values, tensor.dtype)
    return made


def _spread(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """0 to 100 -> −2 to 2, or as they are in integers."""
    return values.astype(dtype) if dtype != "float32" else (values / 25 - 2).astype(dtype)


def _times(session: Any, inputs: dict[str, Any], seconds: float, least: int) -> list[float]:
    """Microseconds of each run, after three that do not count."""
    for _ in range(3 if seconds else 0):
        session.run(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(inputs)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def _step_us(folder: Path, step: Step, call: Call) -> float:
    """Least time of preprocessing one sample, in microseconds, each after a whole call.

    As in the field: alone in a loop it would find its data and code in the cache.
    """
    import numpy as np

    from edgedistill_runtime import preprocess

    run = preprocess.build(step.steps, {name: (folder / name).read_bytes() for name in step.files})
    sample: Any = step.text
    if not sample:
        values = np.resize(np.arange(4099) * 37 % 101 / 101, step.shape)
        sample = (values * (1 if step.dtype == "float32" else 200)).astype(step.dtype)
    return least_us(lambda: run(sample), before=call)


class Call:
    """A whole call of the bundle of almost nothing."""

    def __init__(self, path: Path) -> None:
        from edgedistill_runtime import bundle
        from edgedistill_runtime.model import Model

        self._opened = bundle.read(path)
        self._model = Model(self._opened)
        self._sample = self._model.golden_samples()[0]

    def __call__(self) -> None:
        self._model.predict(self._sample)

    def measure(self, threads: int) -> dict[str, float]:
        """Its microseconds, and those of the preprocessing and the engine's call within it."""
        from edgedistill_runtime import preprocess

        manifest, files = self._opened.manifest, self._opened.files
        run = preprocess.build(manifest.preprocess, files)
        engine = measure(files[manifest.model], threads)["floor_us"]
        inside = engine + least_us(lambda: run(self._sample))
        return {"floor_us": least_us(self), "inside_us": inside}


def least_us(
    call: Callable[[], object],
    seconds: float = FLOOR_SECONDS / 2,
    before: Callable[[], object] | None = None,
) -> float:
    """Least time of a call, in microseconds; `before` is called before each, and not counted."""
    for _ in range(3):
        call()
    least, end, runs = float("inf"), time.perf_counter() + seconds, 0
    while runs < MIN_RUNS or time.perf_counter() < end:
        if before:
            before()
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
        runs += 1
    return least * 1e6


def _profile(
    data: bytes, settings: Backend, inputs: dict[str, Any], floor_us: float
) -> list[list[Any]]:
    """Operator and microseconds of each node, in the order of execution."""
    from edgedistill_runtime.backends.onnx import OnnxSession

    least, most = PROFILE_RUNS
    runs = int(min(most, max(least, PROFILE_SECONDS * 1e6 / floor_us)))
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        session = OnnxSession(data, settings, profile=str(Path(folder) / "profile"))
        for _ in range(runs + 2):
            session.run(inputs)
        events = json.loads(Path(session.end_profile()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}  # by the node's place in the graph: names can repeat
    operators: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            place = event["args"]["node_index"]
            times.setdefault(place, []).append(event["dur"])
            operators[place] = event["args"]["op_name"]
    return [[operators[place], _quiet_mean(durations[2:])] for place, durations in times.items()]


def _quiet_mean(durations: list[float]) -> float:
    kept = sorted(durations)[: max(1, round(QUIETEST * len(durations)))]
    return sum(kept) / len(kept)


def _memory(path: Path, length: int, threads: int) -> dict[str, float]:
    """Peak memory and time to first result of a process that loads one file."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "edgedistill_runtime.calibrate", str(path)]
    command += [str(length), str(threads)]
    environment = processes.environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        how = processes.ended(done.returncode, done.stderr)
        raise EngineError(f"a process that loads {path.name} ended early ({how})")
    return {"peak_mib": float(done.stdout), "cold_start_ms": seconds * 1e3}


def _about(threads: int, index: Index) -> dict[str, Any]:
    import platform

    import numpy as np

    from edgedistill_runtime.backends.onnx import engine

    try:
        onnxruntime = engine()
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}); "
            "install it with: pip install 'edgedistill-runtime[onnx]'"
        ) from error
    return {
        "kind": "about",
        "format": FORMAT,
        "packs": index.digest,
        "threads": threads,
        "engine": "onnxruntime",
        "engine_version": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "board": telemetry.board_model(),
        "cpu": telemetry.cpu_name(),
        "emulated": telemetry.emulated(),
        "settings": SETTINGS,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **_state(),
    }


def _state() -> dict[str, Any]:
    return {"state": telemetry.snapshot()}


def _refuse_throttled() -> None:
    if (telemetry.throttled_bits() or 0) & 0xF:
        raise EngineError(
            "the board is throttled or lacks voltage now; cool or power it, then calibrate again"
        )


def _refuse_busy(allow_busy: bool) -> None:
    load = telemetry.busy_processors()
    if load > BUSY_LOAD and not allow_busy:
        raise EngineError(
            f"other programs use {load:.1f} processors; stop them, or calibrate with --allow-busy"
        )


SAME = {
    "packs": "other packs",
    "threads": "{} thread(s)",
    "engine_version": "onnxruntime {}",
    "machine": "a processor of {}",
    "board": "the board {!r}",
}
"""What must be the same for a calibration to go on, and how a sentence says that it is not."""


def _read_results(path: Path, about: dict[str, Any]) -> set[tuple[str, int]]:
    """What was measured before.  A last line that is not whole is taken off.

    Raises InputError for a file that is something else, which stays as it is.
    """
    if not path.exists():
        return set()
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    rows = [_row(line) for line in (lines[:-1] if torn else lines)]
    start = b'{"kind": "about"'
    begun = data.startswith(start) if rows else start.startswith(data[: len(start)])
    if not begun or not all(rows):
        raise InputError(f"{path} is not the results of a calibration; give another file")
    for key, other in SAME.items():
        if rows and rows[0].get(key) != about[key]:
            raise InputError(
                f"{path} was measured with {other.format(rows[0].get(key))}; give another file, "
                "or remove it"
            )
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(data) - len(lines[-1]))
    return {(row.get("name", ""), row.get("pass", -1)) for row in rows}


def _row(line: bytes) -> dict[str, Any]:
    """Empty where the line has none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def main() -> None:
    """In a process of its own, with all of the runtime: load a file, answer, print the peak."""
    import edgedistill_runtime.model  # noqa: F401
    from edgedistill_runtime.backends.onnx import OnnxSession

    path, length, threads = sys.argv[1:]
    settings = Backend("onnx", threads=int(threads), **SETTINGS)  # type: ignore[arg-type]
    session = OnnxSession(Path(path).read_bytes(), settings)
    inputs = _inputs(session, int(length))
    for _ in range(MEMORY_RUNS):  # the allocator still grows in the second one
        session.run(inputs)
    sys.stdout.write(f"{telemetry.peak_ram_mib()}\n")


if __name__ == "__main__":
    main()
