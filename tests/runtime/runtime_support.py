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


def answers(model: bytes, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says to images.  (n, 8, 8, 1) -> (n, 10)"""
    session = open_session(model, contract.Backend("onnx"))
    prepared = preprocess.build(STEPS)(images)
    return np.concatenate([session.run({"image": x[None]})[0] for x in prepared])


def environment(*first: Path) -> dict[str, str]:
    """This process's environment, with the same import path behind the folders `first`."""
    folders = [*map(str, first), *(p for p in sys.path if p)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


def tiny_manifest(model: str) -> tuple[contract.Manifest, dict[str, bytes]]:
    """Manifest and files of a good bundle around `tests/data/<model>.onnx`."""
    backend = contract.Backend("onnx")
    data = (DATA / f"{model}.onnx").read_bytes()
    session = open_session(data, backend)
    images = golden_images()
    outputs = answers(data, images)
    files = {
        "model.onnx": data,
        "golden_inputs.npy": arrays.encode(images),
        "golden_outputs.npy": arrays.encode(outputs),
    }
    return (
        contract.Manifest(
            format_version=contract.FORMAT_VERSION,
            name="tiny",
            version=3,
            task="image-classification",
            backend=backend,
            model="model.onnx",
            files=listed(files),
            sample=contract.Sample("image", "uint8", (8, 8, 1)),
            inputs=session.inputs,
            outputs=session.outputs,
            preprocess=STEPS,
            postprocess=({"op": "softmax"},),
            labels=LABELS,
            golden=contract.Golden("golden_inputs.npy", "golden_outputs.npy", len(images), 1e-2),
            precision="int8" if "int8" in model else "float32",
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
