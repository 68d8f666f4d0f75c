"""The contract between host and board: what `manifest.json` says, as frozen dataclasses.

Standard library only.  Written by the host with these classes and read by the board with them.
The JSON is a program's: unknown keys are passed over, a newer `format_version` is refused, and a
known key of the wrong type is an error that names it.  `docs/bundle-format.md` specifies it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgedistill_runtime.errors import BundleError, unknown

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MAX_MANIFEST_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_TEXT = 4096
MAX_FILES = 64
MAX_STEPS = 16
MAX_SEEDS = 10_000
MAX_FILE_BYTES = 1 << 31
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # or half of a surrogate pair
FILE_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
DTYPE_SIZES = {"float32": 4, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
MAX_ELEMENTS = 1 << 28
MAX_PIXELS = 1 << 26
"""Of an image of any size: 64 megapixels."""
MAX_RATE_HZ = 1e9
ANY_SIZE = (-1, -1)
"""Height and width of images that may have any."""


@dataclass(frozen=True)
class File:
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model file.  Shapes are fixed, batch 1 included.

    But one: the number of a text's tokens, −1 in the shape of its ids.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """What `predict` takes: one decoded sample, before preprocessing."""

    kind: str
    """"image", "audio", "sensor" or "text"."""
    dtype: str
    """"uint8" for an image, "int16" for audio, "float32" for a sensor, "text" for a text."""
    shape: tuple[int, ...]
    """(height, width, channels) of an image, (samples,) of audio, (channels, steps) of a sensor, ()
    of a text.  A height and width of −1 is any size: `resize` is then the first step."""
    rate_hz: float | None = None
    """Samples or steps a second; always known of audio."""
    hop: int | None = None
    """Samples or steps from one window of a longer recording to the next; None: the window's."""

    @property
    def any_size(self) -> bool:
        """Whether images of every height and width are taken."""
        return self.kind == "image" and self.shape[:2] == ANY_SIZE


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
    energy_mj: float | None = None
    """Of one inference, over what the idle board takes."""
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
class Control:
    """What the teacher was worth: the student's metric minus that of students without a teacher."""

    gain: float
    low: float
    """95 % interval of the gain."""
    high: float
    seeds: int
    """Students trained with the teacher, and as many without."""


@dataclass(frozen=True)
class Accuracy:
    """The packed file's metric and the teacher's, on the same test split."""

    metric: str
    student: float
    teacher: float | None
    """None: it has none, as a model that was trained elsewhere."""
    samples: int
    control: Control | None = None


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

    @property
    def golden_shape(self) -> tuple[int, ...]:
        """Shape of one golden sample; of images of any size, the size that they are brought to."""
        if not self.sample.any_size:
            return self.sample.shape
        first = self.preprocess[0]
        return first["height"], first["width"], self.sample.shape[2]

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
            table = json.loads(
                data.decode(),
                object_pairs_hook=no_twins,
                parse_constant=_number,
                parse_float=_number,
                parse_int=_integer,
            )
            _check_json(table, MAX_DEPTH)
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


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For JSON's `object_pairs_hook`: readers disagree on which of two equal keys counts."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return table


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:32]} is not a finite number")
    return number


def _integer(text: str) -> int:
    if not -(1 << 63) <= (number := int(text)) < 1 << 63:
        raise ValueError(f"{text[:20]}… does not fit 64 bits")
    return number


def _check_json(value: Any, depth: int) -> None:
    """Raises ValueError where JSON's reader is more lenient than what prints or stores it again."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"a text of {len(value)} characters; at most {MAX_TEXT}")
        if _UNPRINTABLE.search(value):
            raise ValueError(f"the text {value[:64]!r} has a control character")
    elif isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_json(item, depth - 1)


T = TypeVar("T")


def _read(kind: type[T], value: Any, path: str) -> T:
    """Build the dataclass `kind` from a JSON object, checking every type."""
    if not isinstance(value, dict):
        raise BundleError(f"the manifest's {path} is not an object")
    fields = {}
    dataclass: Any = kind
    for name, hint, required in _fields(dataclass):
        where = f"{path}.{name}" if path else name
        if name in value:
            fields[name] = _convert(hint, value[name], where)
        elif required:
            raise BundleError(f"the manifest lacks {where}")
    return kind(**fields)


@functools.cache
def _fields(kind: type) -> list[tuple[str, Any, bool]]:
    """Name, type, and whether it must be there, of each of the dataclass's fields."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return [(f.name, hints[f.name], f.default is missing) for f in dataclasses.fields(kind)]


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _read(typing.cast(type, hint), value, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise BundleError(f"the manifest's {path} is not a list")
        item = typing.get_args(hint)[0]
        # of a generator CPython makes a longer tuple and cuts it, and keeps up to 2,000 of those
        return tuple([_convert(item, v, f"{path}[{i}]") for i, v in enumerate(value)])
    if typing.get_origin(hint) is types.UnionType:
        return None if value is None else _convert(typing.get_args(hint)[0], value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if typing.get_origin(hint) is dict else hint
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise BundleError(f"the manifest's {path} is not of type {plain.__name__}")
    return value


def _check(m: Manifest) -> None:
    """What types cannot say: names, sizes, digests, shapes and references between keys."""
    _check_files(m)
    _check_tensors(m)
    for what, value, low, high in (
        ("version", m.version, 0, 2**53),
        ("number of threads", m.backend.threads, 1, 256),
        ("number of golden samples", m.golden.count, 1, 1024),
        ("golden tolerance", m.golden.atol, 0, 1e9),
        ("budget's percentile", m.budget.percentile, 1, 99),
        ("number of preprocessing steps", len(m.preprocess), 0, MAX_STEPS),
        ("number of postprocessing steps", len(m.postprocess), 0, MAX_STEPS),
    ):
        if not low <= value <= high:
            raise BundleError(f"the manifest's {what} is {value}, not {low} to {high:g}")
    for name, limit in vars(m.budget).items():
        if limit is not None and limit <= 0:
            raise BundleError(f"the manifest's budget.{name} is {limit:g}; a limit is over 0")
    control = m.accuracy.control
    if control is not None and not (control.low <= control.gain <= control.high):
        raise BundleError("the manifest's accuracy.control has a gain outside of its interval")
    if control is not None and not 1 <= control.seeds <= MAX_SEEDS:
        raise BundleError(
            f"the manifest's number of seeds is {control.seeds}, not 1 to {MAX_SEEDS}"
        )
    if "" in m.board.models:  # every board's model begins with it
        raise BundleError("the manifest's board.models has an empty text")


def _check_files(m: Manifest) -> None:
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
    if sum(f.size for f in m.files) > MAX_FILE_BYTES:
        raise BundleError(f"the manifest lists more than {MAX_FILE_BYTES} bytes")
    for name in (m.model, m.golden.inputs, m.golden.outputs):
        if name not in names:
            raise BundleError(f"the manifest refers to {name!r}, which it does not list")


def _check_tensors(m: Manifest) -> None:
    if not m.inputs or not m.outputs:
        raise BundleError("the manifest names no input or no output")
    if len(m.inputs) > 1:
        raise BundleError(f"the manifest names {len(m.inputs)} inputs; a sample fills one")
    if m.sample.kind not in SAMPLES:
        raise BundleError(unknown("kind of sample", m.sample.kind, SAMPLES))
    SAMPLES[m.sample.kind](m)
    for tensor in m.outputs:
        check_array(f"tensor {tensor.name!r}", tensor.dtype, tensor.shape)
    scores = m.outputs[0]
    if (scores.dtype, scores.shape) != ("float32", (1, len(m.labels))):
        raise BundleError(
            f"the manifest's first output is {scores.dtype} {list(scores.shape)} and "
            f"there are {len(m.labels)} labels; it must be float32 [1, labels]"
        )
    if len(set(m.labels)) != len(m.labels):
        raise BundleError("the manifest gives two classes the same label")


def _check_image(m: Manifest) -> None:
    sample = m.sample
    _check_no_windows(m)
    if sample.dtype != "uint8":
        raise BundleError(f"the manifest's images are {sample.dtype[:64]!r}, not uint8")
    if len(sample.shape) != 3 or sample.shape[2] not in (1, 3):
        raise BundleError(
            f"the manifest's images have the shape {list(sample.shape)}, "
            "not [height, width, 1 or 3 channels]"
        )
    if sample.any_size:
        _check_resize(m)
    check_array("sample", sample.dtype, m.golden_shape)
    _check_input(m)


def _check_resize(m: Manifest) -> None:
    """Images of any size become those of one size, or no engine could take them."""
    first = m.preprocess[0] if m.preprocess else {}
    sizes = [first.get("height"), first.get("width")]
    if first.get("op") != "resize" or not all(type(n) is int and n >= 1 for n in sizes):
        raise BundleError(
            "the manifest's images have any size, and its first preprocessing step is not "
            "'resize' with a height and a width of at least 1"
        )


def _check_audio(m: Manifest) -> None:
    sample = m.sample
    if sample.dtype != "int16" or len(sample.shape) != 1:
        raise BundleError(
            f"the manifest's audio is {sample.dtype[:64]!r} of shape {list(sample.shape)}, "
            "not int16 of shape [samples]"
        )
    if sample.rate_hz is None or not sample.rate_hz.is_integer():
        raise BundleError(
            f"the manifest's sample.rate_hz is {_number_text(sample.rate_hz)}; "
            "audio has a whole number of samples a second"
        )
    for step in m.preprocess:
        if step.get("op") == "log_mel" and step.get("rate_hz") != sample.rate_hz:
            raise BundleError(
                f"the manifest's audio has {sample.rate_hz:g} samples a second, and its step "
                f"'log_mel' takes {str(step.get('rate_hz'))[:32]}"
            )
    _check_windows(m)
    _check_input(m)


def _check_sensor(m: Manifest) -> None:
    sample = m.sample
    if sample.dtype != "float32" or len(sample.shape) != 2:
        raise BundleError(
            f"the manifest's sensor data is {sample.dtype[:64]!r} of shape {list(sample.shape)}, "
            "not float32 of shape [channels, steps]"
        )
    _check_windows(m)
    _check_input(m)


def _check_windows(m: Manifest) -> None:
    sample = m.sample
    check_array("sample", sample.dtype, sample.shape)
    if sample.rate_hz is not None and not 0 < sample.rate_hz <= MAX_RATE_HZ:
        raise BundleError(
            f"the manifest's sample.rate_hz is {sample.rate_hz:g}; "
            f"a rate is over 0 and at most {MAX_RATE_HZ:g}"
        )
    if sample.hop is not None and not 1 <= sample.hop <= MAX_ELEMENTS:
        raise BundleError(
            f"the manifest's sample.hop is {sample.hop}, not 1 to {MAX_ELEMENTS}, or null"
        )


def _check_no_windows(m: Manifest) -> None:
    for key in ("rate_hz", "hop"):
        value = getattr(m.sample, key)
        if value is not None:
            raise BundleError(
                f"the manifest's sample.{key} is {value:g}; only audio and sensors have one"
            )


def _check_input(m: Manifest) -> None:
    tensor = m.inputs[0]
    check_array(f"tensor {tensor.name!r}", tensor.dtype, tensor.shape)


def _number_text(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"


def _check_text(m: Manifest) -> None:
    sample, tensor = m.sample, m.inputs[0]
    _check_no_windows(m)
    if (sample.dtype, sample.shape) != ("text", ()):
        raise BundleError(
            f"the manifest's texts are {sample.dtype[:64]!r} of shape {list(sample.shape)}, "
            "not 'text' of shape []"
        )
    ids = "int32" if m.backend.name == "tflite" else "int64"
    if (tensor.dtype, tensor.shape) != (ids, (1, -1)):
        raise BundleError(
            f"the manifest's input {tensor.name!r} is {tensor.dtype[:64]} {list(tensor.shape)}; "
            f"token ids are {ids} [1, -1]"
        )
    if [step.get("op") for step in m.preprocess] != ["tokenize"]:
        raise BundleError(
            "the manifest's preprocess is not the one step 'tokenize' that texts take"
        )


SAMPLES: dict[str, Callable[[Manifest], None]] = {
    "audio": _check_audio,
    "image": _check_image,
    "sensor": _check_sensor,
    "text": _check_text,
}


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
