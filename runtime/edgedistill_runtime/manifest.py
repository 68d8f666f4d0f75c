"""The contract between host and board: what `manifest.json` says, as frozen dataclasses.

Standard library only.  Written by the host with these classes and read by the board with them.
The JSON is a program's: unknown keys are passed over, a newer `format_version` is refused, and a
known key of the wrong type is an error that names it.  `docs/bundle-format.md` is the specification.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from edgedistill_runtime.errors import BundleError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64
MAX_FILE_BYTES = 1 << 31
FILE_NAME = re.compile(r"[a-z0-9._-]{1,64}")
DTYPE_SIZES = {"float32": 4, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class File:
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model file.  Shapes are fixed, batch 1 included."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """What `predict` takes: one decoded sample, before preprocessing."""

    kind: str
    """"image" (height, width, channels)."""
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Backend:
    """The inference engine, and how it is set up."""

    name: str
    threads: int = 1
    graph_optimization: str = "extended"
    spinning: bool = False
    arena: bool = False


@dataclass(frozen=True)
class Golden:
    """Samples with the model's outputs on the machine that packed them."""

    inputs: str
    outputs: str
    count: int
    atol: float
    """Largest difference that another machine's arithmetic may make."""


@dataclass(frozen=True)
class Budget:
    """The limits this bundle was fitted to; None is no limit."""

    latency_ms: float | None = None
    percentile: int = 95
    peak_ram_mib: float | None = None
    size_mib: float | None = None
    cold_start_ms: float | None = None
    min_retention: float | None = None


@dataclass(frozen=True)
class Board:
    """The board that the budget is about, and the engine that it was fitted for."""

    profile: str
    models: tuple[str, ...] = ()
    """Beginnings of the device-tree model that this board reports."""
    engine: str = ""
    engine_version: str = ""


@dataclass(frozen=True)
class Latency:
    p50: float
    bound: float


@dataclass(frozen=True)
class Predicted:
    """What the cost model said before anything was trained."""

    standing: str
    """"estimated" (no matching rates) or "predicted"."""
    latency_ms: Latency | None = None
    peak_ram_mib: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """The packed file's metric and the teacher's, on the same test split."""

    metric: str
    student: float
    teacher: float
    samples: int


@dataclass(frozen=True)
class Manifest:
    format_version: int
    name: str
    version: int
    task: str
    backend: Backend
    model: str
    files: tuple[File, ...]
    sample: Sample
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocess: tuple[dict[str, Any], ...]
    postprocess: tuple[dict[str, Any], ...]
    labels: tuple[str, ...]
    golden: Golden
    precision: str
    budget: Budget
    board: Board
    predicted: Predicted
    accuracy: Accuracy
    provenance: dict[str, Any]

    def to_json(self) -> bytes:
        text = json.dumps(
            dataclasses.asdict(self), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return text.encode() + b"\n"

    @staticmethod
    def from_json(data: bytes) -> Manifest:
        """Raises BundleError: not JSON, a newer format, a missing key, a wrong type or value."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(f"the manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES}")
        try:
            table = json.loads(data, object_pairs_hook=_no_twins, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the manifest is not valid JSON ({error})") from error
        if not isinstance(table, dict):
            raise BundleError("the manifest is not a JSON object")
        version = table.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise BundleError("the manifest has no format_version")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"bundle format {version} is newer than this runtime reads ({FORMAT_VERSION}); "
                "upgrade with: pip install -U edgedistill-runtime"
            )
        manifest = _read(Manifest, table, "")
        _check(manifest)
        return manifest


def bundle_id(manifest_json: bytes) -> str:
    """The identity of a bundle: everything in it hangs on its manifest's digest."""
    return hashlib.sha256(manifest_json).hexdigest()


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


T = TypeVar("T")


def _read(kind: type[T], value: Any, path: str) -> T:
    """Build the dataclass `kind` from a JSON object, checking every type."""
    if not isinstance(value, dict):
        raise BundleError(f"the manifest's {path} is not an object")
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        where = f"{path}.{field.name}" if path else field.name
        if field.name in value:
            fields[field.name] = _convert(hints[field.name], value[field.name], where)
        elif field.default is dataclasses.MISSING:
            raise BundleError(f"the manifest lacks {where}")
    return kind(**fields)


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(typing.cast(type, hint), value, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise BundleError(f"the manifest's {path} is not a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value))
    if typing.get_origin(hint) is types.UnionType:
        return None if value is None else _convert(typing.get_args(hint)[0], value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise BundleError(f"the manifest's {path} is too large a number") from error
    plain = dict if typing.get_origin(hint) is dict else hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise BundleError(f"the manifest's {path} is not of type {plain.__name__}")
    return value


def _check(m: Manifest) -> None:
    """What types cannot say: names, sizes, digests, shapes and references between keys."""
    names = [f.name for f in m.files]
    if len(names) > MAX_FILES:
        raise BundleError(f"the manifest lists {len(names)} files; at most {MAX_FILES}")
    for file in m.files:
        if not FILE_NAME.fullmatch(file.name) or file.name in (MANIFEST_NAME, SIGNATURE_NAME):
            raise BundleError(f"the manifest lists a file with the name {file.name!r}")
        if not 0 <= file.size <= MAX_FILE_BYTES:
            raise BundleError(f"the manifest gives {file.name} a size of {file.size} bytes")
        if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise BundleError(f"the manifest's digest of {file.name} is not a SHA-256")
    if len(set(names)) != len(names):
        raise BundleError("the manifest lists a file twice")
    for name in (m.model, m.golden.inputs, m.golden.outputs):
        if name not in names:
            raise BundleError(f"the manifest refers to {name!r}, which it does not list")
    for what, tensor in (
        [("sample", m.sample)]
        + [(f"input {t.name!r}", t) for t in m.inputs]
        + [(f"output {t.name!r}", t) for t in m.outputs]
    ):
        check_array(what, tensor.dtype, tensor.shape)  # type: ignore[attr-defined]
    if not m.inputs or not m.outputs:
        raise BundleError("the manifest names no input or no output")
    if not m.labels or m.outputs[0].shape[-1:] != (len(m.labels),):
        raise BundleError(f"the manifest has {len(m.labels)} labels for another number of outputs")
    if not 1 <= m.backend.threads <= 256:
        raise BundleError(f"the manifest asks for {m.backend.threads} threads")
    if not 1 <= m.golden.count <= 1024 or not 0 <= m.golden.atol < 1e9:
        raise BundleError("the manifest's golden count or tolerance is out of range")
    if not 1 <= m.budget.percentile <= 99:
        raise BundleError(f"the manifest's budget is at percentile {m.budget.percentile}")
    if m.version < 0:
        raise BundleError(f"the manifest's version is {m.version}")


def check_array(what: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse unknown types and shapes that no real sample has.  Raises BundleError."""
    if dtype not in DTYPE_SIZES:
        raise BundleError(f"the manifest's {what} has an unknown type {dtype!r}")
    count = 1
    for size in shape:
        if not 1 <= size <= MAX_ELEMENTS:
            raise BundleError(f"the manifest's {what} has the shape {list(shape)}")
        count *= size
    if len(shape) > 8 or count > MAX_ELEMENTS:
        raise BundleError(f"the manifest's {what} has the shape {list(shape)}")
