"""What is known about a board and its systems, read strictly from one TOML file a board.

Nothing is guessed: a number that nobody measured or specified is left out, and one that stands in a
file without its source is an error.  `docs/adding-a-board.md` says how a profile is written.
"""

from __future__ import annotations

import datetime
import difflib
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgedistill import settings
from edgedistill.errors import SettingsError, unknown

NATIVE = "native"
"""Architecture that is looked up on the machine that loads the profile."""

ENGINES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}
"""Engines that serve a backend, the preferred one first."""

PRECISIONS = ("float32", "float16", "int8", "int4")

# An operating system for the second runs on a board of the first.
_RUNS = {
    "aarch64": ("aarch64", "armv7l"),
    "armv7l": ("armv7l",),
    "x86_64": ("x86_64",),
}

_MACHINES = {"arm64": "aarch64", "AMD64": "x86_64", "armv8l": "armv7l"}

# Class, architecture and the flags it takes, the richest first.  Kernels of one class are the same
# code; figures of a board may stand in for those of another one of its class.
_ISA_CLASSES: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("armv8.6-i8mm", "aarch64", frozenset({"asimddp", "i8mm"})),
    ("armv8.2-dotprod", "aarch64", frozenset({"asimddp"})),
    ("armv8.0", "aarch64", frozenset()),
    ("armv7-neon-vfpv4", "armv7l", frozenset({"neon", "vfpv4"})),
    ("armv7-neon", "armv7l", frozenset({"neon"})),
    ("armv7", "armv7l", frozenset()),
    ("x86-64-avx512-vnni", "x86_64", frozenset({"avx512_vnni"})),
    ("x86-64-avx2", "x86_64", frozenset({"avx2"})),
    ("x86-64", "x86_64", frozenset()),
)

# Tables whose numbers need no entry under [sources]: policy, and rows that carry their own.
_UNSOURCED = ("budget", "published", "rates", "sources")

_DOTTED = re.compile(r"\d+(\.\d+)*")

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(gt=0, le=1_000_000)]
Amount = Annotated[float, Meta(gt=0, le=1e9)]
Fraction = Annotated[float, Meta(gt=0, le=1)]


class Board(settings.Settings, frozen=True):
    name: Text
    soc: Text
    arch: str
    flags: tuple[str, ...] = ()
    """As /proc/cpuinfo writes them."""
    models: tuple[Text, ...] = ()
    """Beginnings of /proc/device-tree/model that only this board has."""
    throttle_c: Amount | None = None
    """Temperature at which the firmware or kernel begins to lower the clock."""
    notes: str = ""

    def __post_init__(self) -> None:
        _one_of("architecture", self.arch, (*_RUNS, NATIVE))


class Cluster(settings.Settings, frozen=True):
    """Equal cores that share a clock."""

    core: Text
    count: Count
    mhz: Count | None = None
    l1d_kib: Count | None = None
    """Per core."""
    l2_kib: Count | None = None
    """What one core can use: its own, or the whole where cores share it.  So is L3."""
    l3_kib: Count | None = None


class Memory(settings.Settings, frozen=True):
    total_mib: Count | None = None
    """As Linux reports it; what is fitted where nobody reported that (the source says which)."""
    available_mib: Count | None = None
    """After boot, nothing else running."""
    copy_mb_s: Amount | None = None
    """memcpy by one thread, each byte counted once."""
    read_mb_s: Amount | None = None


class Engine(settings.Settings, frozen=True):
    name: str
    version: str

    def __post_init__(self) -> None:
        _one_of("engine", self.name, _all_engines())
        _dotted("version", self.version)


class OperatingSystem(settings.Settings, frozen=True):
    name: Text
    arch: str
    python: str | None = None
    glibc: str | None = None
    engines: tuple[Engine, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _one_of("architecture", self.arch, (*_RUNS, NATIVE))
        _dotted("python", self.python)
        _dotted("glibc", self.glibc)
        if not self.engines and not self.note:
            raise ValueError(f"{self.name!r} has no engine; add a 'note' that says why")


class Power(settings.Settings, frozen=True):
    idle_w: Amount | None = None
    load_w: Amount | None = None
    """All cores busy."""


class Defaults(settings.Settings, frozen=True):
    """Limits where neither recipe nor command line gives one: policy, not measurement."""

    latency_ms: Amount | None = None
    percentile: int = 95
    peak_ram_mib: Amount | None = None
    size_mib: Amount | None = None
    cold_start_ms: Amount | None = None
    energy_mj: Amount | None = None
    min_retention: Fraction | None = None
    threads: Count = 1

    def __post_init__(self) -> None:
        if self.percentile not in (50, 95, 99):
            raise ValueError(f"percentile must be 50, 95 or 99, not {self.percentile}")


class Published(settings.Settings, frozen=True):
    """Somebody's latency of a well-known network on this board: an anchor for estimates."""

    engine: Text
    model: Text
    precision: str
    threads: Count
    latency_ms: Amount
    source: Text

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)


class Rates(settings.Settings, frozen=True):
    """What `calibrate` measured, and the engine for which it is valid."""

    engine: str
    versions: str
    """Such as ">=1.24,<2"."""
    threads: Count
    precision: str
    date: datetime.date
    file: Text
    """Fitted coefficients, beside the profile."""
    sha256: str

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, _all_engines())
        _one_of("precision", self.precision, PRECISIONS)
        _interval(self.versions)
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 {self.sha256!r} is not 64 hexadecimal digits")
        file = PurePosixPath(self.file)
        if file.is_absolute() or ".." in file.parts or "\\" in self.file:
            raise ValueError(f"file {self.file!r} must lie beside the profile or in a folder there")

    def key(self) -> tuple[str, int, str]:
        return self.engine, self.threads, self.precision


class Choice(settings.Settings, frozen=True):
    """The engine that a bundle for this board is made for, and the system that has it."""

    os: OperatingSystem
    name: str
    version: str


class DeviceProfile(settings.Settings, frozen=True):
    board: Board
    os: Annotated[tuple[OperatingSystem, ...], Meta(min_length=1)]
    """The default one first."""
    cluster: tuple[Cluster, ...] = ()
    memory: Memory = Memory()
    power: Power = Power()
    budget: Defaults = Defaults()
    published: tuple[Published, ...] = ()
    rates: tuple[Rates, ...] = ()
    sources: dict[str, Any] = msgspec.field(default_factory=dict)
    """Dotted path of a number to where it comes from, flat once loaded."""
    name: str = ""
    """The file's name without .toml; not a key of the file."""
    path: str = ""
    """Where the file was read; not a key of the file."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> DeviceProfile:
        """The profile of that name, or in that file.  Raises SettingsError in one sentence."""
        path = _find(name_or_path)
        profile = settings.load(path, cls)
        for key in ("name", "path"):
            if getattr(profile, key):
                raise SettingsError(f"{path}: unknown key {key!r}; a profile is named by its file")
        if not re.fullmatch(r"[a-z0-9._-]{1,64}", path.stem):
            raise SettingsError(
                f"{path}: a profile's file name may have only a-z, 0-9, '.', '_' and '-'"
            )
        try:
            profile = msgspec.structs.replace(
                _resolved(profile),
                sources=dict(_flat(profile.sources)),
                name=path.stem,
                path=str(path),
            )
            for problem in _problems(profile):
                raise ValueError(problem)
        except ValueError as error:
            raise SettingsError(f"{path}: {error}") from error
        return profile

    @property
    def isa(self) -> str:
        """Class of the instruction set, such as "armv8.2-dotprod"; see `_ISA_CLASSES`."""
        have = set(self.board.flags)
        return next(
            name for name, arch, flags in _ISA_CLASSES if arch == self.board.arch and flags <= have
        )

    @property
    def cores(self) -> int | None:
        return sum(cluster.count for cluster in self.cluster) or None

    def engine(self, backend: str) -> Choice | None:
        """The first system with an engine for `backend` ("onnx" or "tflite"); None if none has."""
        if backend not in ENGINES:
            raise SettingsError(unknown("backend", backend, ENGINES))
        for system in self.os:
            versions = {engine.name: engine.version for engine in system.engines}
            for name in ENGINES[backend]:
                if name in versions:
                    return Choice(os=system, name=name, version=versions[name])
        return None

    def why_no_engine(self) -> str:
        """A line for each system without an engine, with the reason."""
        return "\n".join(f"{each.name}: {each.note}" for each in self.os if not each.engines)

    def rates_for(self, engine: str, version: str, threads: int, precision: str) -> Rates | None:
        """The calibration made for exactly these; None where there is none."""
        if not _DOTTED.fullmatch(version):  # a pre-release or local build: unknown
            return None
        wanted = _release(version)
        for row in self.rates:
            low, high = _interval(row.versions)
            if row.key() == (engine, threads, precision) and low <= wanted < high:
                return row
        return None

    def source(self, path: str) -> str | None:
        """Where the number at a dotted path comes from ("cluster.0.mhz", "memory.total_mib")."""
        found = self.sources.get(path, self.sources.get(_without_index(path)))
        return None if found is None else str(found)

    def is_board(self, model: str) -> bool:
        """Whether a board with this text in /proc/device-tree/model is one of these."""
        return any(model.startswith(prefix) for prefix in self.board.models)


def names() -> list[str]:
    """Names that `DeviceProfile.load` takes: the built-in profiles and the user's own."""
    built_in, own = _files(_built_in_folder()), _files(user_folder())
    for name in sorted(built_in.keys() & own.keys()):
        raise SettingsError(_shadow(own[name], name))
    return sorted(built_in.keys() | own.keys())


def built_in_names() -> list[str]:
    """Names that no profile of the user's may have."""
    return sorted(_files(_built_in_folder()))


def user_folder() -> Path:
    """Where the user's own profiles are looked for; it need not exist."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "edgedistill" / "profiles"


def _built_in_folder() -> Path:
    from importlib import resources

    packaged = resources.files("edgedistill").joinpath("device_profiles")
    if isinstance(packaged, Path) and packaged.is_dir():
        return packaged
    return Path(__file__).parents[2] / "device_profiles"  # a checkout


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob("*.toml")}


def _find(name_or_path: str | Path) -> Path:
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in name or os.sep in name or name.endswith(".toml"):
        return Path(name_or_path)
    built_in, own = _files(_built_in_folder()), _files(user_folder())
    if name in built_in and name in own:
        raise SettingsError(_shadow(own[name], name))
    try:
        return (built_in | own)[name]
    except KeyError:
        raise SettingsError(unknown("device profile", name, built_in | own)) from None


def _shadow(path: Path, name: str) -> str:
    return f"{path}: hides the built-in profile {name!r}; give the file another name"


def _one_of(kind: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(unknown(kind, value, known))


def _dotted(key: str, version: str | None) -> None:
    if version is not None and not _DOTTED.fullmatch(version):
        raise ValueError(f"{key} {version!r} must be numbers with dots between, such as '3.11'")


def _all_engines() -> tuple[str, ...]:
    return tuple(name for engines in ENGINES.values() for name in engines)


def _resolved(profile: DeviceProfile) -> DeviceProfile:
    """The profile with "native" replaced by what this machine is."""
    board = profile.board
    if NATIVE not in (board.arch, *(each.arch for each in profile.os)):
        return profile
    here = _MACHINES.get(platform.machine(), platform.machine())
    if here == "aarch64" and sys.maxsize < 2**32:  # 32-bit Python under a 64-bit kernel
        here = "armv7l"
    if here not in _RUNS:
        raise ValueError(unknown("architecture", here, _RUNS))
    if board.arch == NATIVE:
        flags = board.flags or _cpu_flags()
        board = msgspec.structs.replace(board, arch=here, flags=flags)
    systems = tuple(
        msgspec.structs.replace(each, arch=here) if each.arch == NATIVE else each
        for each in profile.os
    )
    return msgspec.structs.replace(profile, board=board, os=systems)


def _cpu_flags() -> tuple[str, ...]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return tuple(found[1].split()) if found else ()


def _problems(profile: DeviceProfile) -> Iterator[str]:
    """What contradicts itself or has no source, a sentence each."""
    yield from _contradictions(profile)
    yield from _doubles(profile)
    yield from _unsourced(profile)


def _contradictions(profile: DeviceProfile) -> Iterator[str]:
    memory, budget, cores = profile.memory, profile.budget, profile.cores
    total, available = memory.total_mib, memory.available_mib
    if total and available and available > total:
        yield f"memory.available_mib ({available}) is more than memory.total_mib ({total})"
    usable = available or total
    if usable and budget.peak_ram_mib and budget.peak_ram_mib > usable:
        yield f"budget.peak_ram_mib ({budget.peak_ram_mib:g}) is more than the memory ({usable})"
    if cores and budget.threads > cores:
        yield f"budget.threads ({budget.threads}) is more than the board's cores ({cores})"
    power = profile.power
    if power.idle_w and power.load_w and power.idle_w > power.load_w:
        yield f"power.idle_w ({power.idle_w:g}) is more than power.load_w ({power.load_w:g})"
    runs = _RUNS[profile.board.arch]
    for each in profile.os:
        if each.arch not in runs:
            yield (
                f"os {each.name!r}: arch {each.arch!r} does not run on board.arch "
                f"{profile.board.arch!r} (it runs {', '.join(runs)})"
            )


def _doubles(profile: DeviceProfile) -> Iterator[str]:
    for each in profile.os:
        if len({engine.name for engine in each.engines}) < len(each.engines):
            yield f"os {each.name!r}: engines names one engine twice"
    if len({each.name for each in profile.os}) < len(profile.os):
        yield "os: two systems have the same name"
    for place, row in enumerate(profile.rates):
        low, high = _interval(row.versions)
        for other in profile.rates[:place]:
            other_low, other_high = _interval(other.versions)
            if row.key() == other.key() and max(low, other_low) < min(high, other_high):
                yield (
                    f"rates: {row.engine}, {row.threads} threads, {row.precision} stands twice "
                    f"for versions that overlap ({other.versions!r} and {row.versions!r})"
                )


def _unsourced(profile: DeviceProfile) -> Iterator[str]:
    tables = msgspec.to_builtins(profile)
    numbers = {
        path
        for path, value in _leaves({k: v for k, v in tables.items() if k not in _UNSOURCED})
        if isinstance(value, int | float)
    }
    for path in sorted(numbers):
        if profile.source(path) is None:
            yield f"{path} has no source; add one under [sources] or leave the number out"
    known = numbers | {_without_index(path) for path in numbers}
    for path in profile.sources:
        if path not in known:
            near = difflib.get_close_matches(path, sorted(known), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"sources: there is no number {path!r} in the file{hint}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything below a table, list places as numbers."""
    if isinstance(value, dict):
        pairs: Any = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        yield path, value
        return
    for key, below in pairs:
        yield from _leaves(below, f"{path}.{key}" if path else str(key))


def _flat(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, text in _leaves(sources):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"sources.{path} must be a text that names where the number is from")
        yield path, text


def _without_index(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", "", path)


def _release(version: str) -> tuple[float, ...]:
    """A version that compares as it should: 1.24 equals 1.24.0."""
    parts = [int(part) for part in version.split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _interval(versions: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """First version inside and first one beyond, of a range such as ">=1.24,<2" or "==2.14.0"."""
    low: tuple[float, ...] = (0,)
    high: tuple[float, ...] = (float("inf"),)
    for clause in versions.split(","):
        found = re.fullmatch(r"\s*(>=|<|==)\s*(\d+(?:\.\d+)*)\s*", clause)
        if not found:
            raise ValueError(f"versions {versions!r} is not a range such as '>=1.24,<2'")
        release = _release(found[2])
        if found[1] in (">=", "=="):
            low = max(low, release)
        if found[1] in ("<", "=="):
            # (…, 0) lies just behind the version itself: no release ends in a zero
            high = min(high, (*release, 0) if found[1] == "==" else release)
    if not low < high:
        raise ValueError(f"versions {versions!r} holds no version")
    return low, high
