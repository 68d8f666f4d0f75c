"""What the runtime's tests share: a small bundle, its parts, the command line without a process.

Needs what a board has: numpy, click, onnxruntime.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.runtime import onnx_bytes as ox
from tests.runtime.zip_bytes import Entry

from edgedistill_runtime import arrays, cli, preprocess
from edgedistill_runtime import manifest as contract
from edgedistill_runtime.backends.onnx import open_session

DATA = Path(__file__).parent.parent / "data"
SEED = 11
LABELS = tuple("0123456789")
STEPS: tuple[dict[str, Any], ...] = (
    {"op": "normalize", "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
    {"op": "channels_first"},
)
RATE_HZ, WINDOW = 8000, 1600
KINDS: dict[str, tuple[contract.Sample, tuple[dict[str, Any], ...]]] = {
    "any_size": (
        contract.Sample("image", "uint8", (-1, -1, 1)),
        ({"op": "resize", "height": 8, "width": 8, "fit": "crop"}, *STEPS),
    ),
    "audio": (
        contract.Sample("audio", "int16", (WINDOW,), float(RATE_HZ), 800),
        (
            {
                "op": "log_mel",
                "rate_hz": RATE_HZ,
                "frame": 256,
                "step": 192,  # 8 frames of a window
                "bands": 8,
                "low_hz": 20,
                "high_hz": 4000,
            },
            {"op": "standardize", "mean": [20.0] * 8, "std": [5.0] * 8},
            {"op": "insert_axis", "axis": -3},
        ),
    ),
    "sensor": (
        contract.Sample("sensor", "float32", (8, 8), 50.0, 4),
        (
            {"op": "standardize", "mean": [0.5] * 8, "std": [2.0] * 8},
            {"op": "insert_axis", "axis": -2},
        ),
    ),
}
"""Samples and steps of small bundles: images of any size, audio, sensors."""
MISSING = object()
"""As a change to a manifest: leave the key out."""


@dataclass(frozen=True)
class Result:
    """What a command line said."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def sentence(self) -> str:
        """The one line on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].strip()
        return lines[0]


def run_cli(*arguments: str | Path, stdin: bytes = b"") -> Result:
    """`edgedistill-run ARGUMENTS` in this process; an unexpected error is raised."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    sys.argv = ["edgedistill-run", *map(str, arguments)]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        return Result(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv, sys.stdin = before
    raise AssertionError("main() returned")


@dataclass(frozen=True)
class Parts:
    """A bundle taken apart."""

    manifest: dict[str, Any]
    files: Mapping[str, bytes]

    def changed(
        self,
        manifest: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> Parts:
        """Other files, with their digests; then other values in the manifest, by dotted path."""
        table, contents = copy.deepcopy(self.manifest), {**self.files, **(files or {})}
        table["files"] = [dataclasses.asdict(f) for f in listed(contents)]
        for path, value in (manifest or {}).items():
            *parents, last = path.split(".")
            place: Any = table
            for key in parents:
                place = place[int(key) if isinstance(place, list) else key]
            if value is MISSING:
                del place[last]
            else:
                place[int(last) if isinstance(place, list) else last] = value
        return Parts(table, contents)

    def manifest_json(self) -> bytes:
        text = json.dumps(self.manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass") + b"\n"

    def entries(self, manifest_json: bytes | None = None) -> list[Entry]:
        first = self.manifest_json() if manifest_json is None else manifest_json
        return [Entry("manifest.json", first), *(Entry(n, d) for n, d in self.files.items())]


def listed(files: Mapping[str, bytes]) -> tuple[contract.File, ...]:
    return tuple(
        contract.File(name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    )


def golden_images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The samples that are packed as references.  (4, 8, 8, 1)"""
    return np.random.default_rng(SEED).integers(0, 256, (4, 8, 8, 1), np.uint8)


def answers(
    model: bytes, samples: np.ndarray[Any, Any], steps: tuple[dict[str, Any], ...] = STEPS
) -> np.ndarray[Any, Any]:
    """What the model says to images, or to other samples.  (n, 8, 8, 1) -> (n, 10)"""
    session = open_session(model, contract.Backend("onnx"))
    name, prepared = session.inputs[0].name, preprocess.build(steps)(samples)
    return np.concatenate([session.run({name: x[None]})[0] for x in prepared])


def environment(*first: Path) -> dict[str, str]:
    """This process's environment, with the same import path behind the folders `first`."""
    folders = [*map(str, first), *(p for p in sys.path if p)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


def tiny_manifest(model: str) -> tuple[contract.Manifest, dict[str, bytes]]:
    """Manifest and files of a good bundle around `tests/data/<model>.onnx`."""
    sample = contract.Sample("image", "uint8", (8, 8, 1))
    data = (DATA / f"{model}.onnx").read_bytes()
    precision = "int8" if "int8" in model else "float32"
    return _manifest(sample, STEPS, data, golden_images(), precision)


def kind_manifest(kind: str) -> tuple[contract.Manifest, dict[str, bytes]]:
    """Manifest and files of a good bundle of one of `KINDS`."""
    sample, steps = KINDS[kind]
    data = (DATA / "tiny.onnx").read_bytes()
    if kind == "sensor":
        signal = [ox.value("signal", (1, 8, 1, 8))]
        data = ox.model(ox.graph(ox.head("signal"), ox.HEAD, signal))
    return _manifest(sample, steps, data, kind_samples(kind), "float32")


def kind_samples(kind: str, count: int = 4, seed: int = SEED) -> np.ndarray[Any, Any]:
    """Samples as they are packed as references.  (count, …)"""
    rng, sample = np.random.default_rng(seed), KINDS[kind][0]
    if kind == "any_size":
        return rng.integers(0, 256, (count, 8, 8, 1), np.uint8)
    if kind == "audio":
        return rng.integers(-(1 << 15), 1 << 15, (count, *sample.shape)).astype(np.int16)
    return rng.normal(0, 1, (count, *sample.shape)).astype(np.float32)


def kind_parts(kind: str) -> Parts:
    """A good bundle of one of `KINDS` taken apart."""
    manifest, files = kind_manifest(kind)
    return Parts(json.loads(manifest.to_json()), files)


def _manifest(
    sample: contract.Sample,
    steps: tuple[dict[str, Any], ...],
    data: bytes,
    golden: np.ndarray[Any, Any],
    precision: str,
) -> tuple[contract.Manifest, dict[str, bytes]]:
    backend = contract.Backend("onnx")
    session = open_session(data, backend)
    files = {
        "model.onnx": data,
        "golden_inputs.npy": arrays.encode(golden),
        "golden_outputs.npy": arrays.encode(answers(data, golden, steps)),
    }
    return (
        contract.Manifest(
            format_version=contract.FORMAT_VERSION,
            name="tiny",
            version=3,
            task=f"{sample.kind}-classification",
            backend=backend,
            model="model.onnx",
            files=listed(files),
            sample=sample,
            inputs=session.inputs,
            outputs=session.outputs,
            preprocess=steps,
            postprocess=({"op": "softmax"},),
            labels=LABELS,
            golden=contract.Golden("golden_inputs.npy", "golden_outputs.npy", len(golden), 1e-2),
            precision=precision,
            budget=contract.Budget(latency_ms=1000.0, peak_ram_mib=4096.0, size_mib=1.0),
            board=contract.Board("rpi4", ("Raspberry Pi 4",), "onnxruntime", "1.27.0"),
            predicted=contract.Predicted("estimated", contract.Latency(0.1, 0.2), 60.0),
            accuracy=contract.Accuracy(
                "accuracy", 0.9, 0.95, 100, contract.Control(0.01, -0.02, 0.04, 3)
            ),
            provenance={"seed": SEED, "versions": {"python": "3.11"}},
        ),
        files,
    )


def fields(kind: type = contract.Manifest, path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """(dotted path, type, has a default) of every field; the first item stands for a list's all."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        where, hint = f"{path}{field.name}", hints[field.name]
        yield where, hint, field.default is not dataclasses.MISSING
        if typing.get_origin(hint) is types.UnionType:
            hint = typing.get_args(hint)[0]
        if typing.get_origin(hint) is tuple:
            where, hint = f"{where}.0", typing.get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            yield from fields(hint, f"{where}.")


def fits(hint: Any, value: Any) -> bool:
    """Whether the manifest may have `value` where the type `hint` stands."""
    if typing.get_origin(hint) is types.UnionType:
        return any(fits(kind, value) for kind in typing.get_args(hint))
    if isinstance(value, dict):  # every limit may be left out of a budget
        return typing.get_origin(hint) is dict or hint is contract.Budget
    return type(value) is hint
