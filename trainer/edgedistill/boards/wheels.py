"""Which wheels a board takes: found on the host, so that the board needs no pip and no network.

They come from a folder of wheels, or from the package index through `pip download`, and are kept
in the user's cache.  The runtime's own wheel is made from the runtime that this host uses.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.cache import digest, user_cache
from edgedistill.errors import EdgeDistillError
from edgedistill_runtime.files import write_atomically

RUNTIME = "edgedistill-runtime"
ALWAYS = ("numpy", "click")
ENGINES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert", "tflite-runtime")}
NAMES = (RUNTIME, *ALWAYS, *(name for names in ENGINES.values() for name in names))
EXTRAS = {"text": "tokenizers", "image": "pillow"}
OLDEST_PYTHON = (3, 11)
ARCHITECTURES = ("aarch64", "armv7l", "x86_64")
_OLD_NAMES = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_GLIBC = re.compile(r"glibc (\d+)\.(\d+)")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[.*?\])?\s*\(?>=\s*([0-9][0-9.]*)")
MOST_PIP_SECONDS = 600


class WheelError(EdgeDistillError):
    """A board cannot have the runtime, or its wheels cannot be found."""


@dataclass(frozen=True)
class Facts:
    """What a board says of itself."""

    machine: str
    bits: int
    """Of the user land; 32 on many boards whose kernel has 64."""
    python: tuple[int, int]
    implementation: str
    libc: str
    model: str
    """From the device tree; "" where there is none."""
    emulated: bool
    installed: dict[str, str]
    """Versions of packages that its python3 can import."""

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Facts:
        """Raises ValueError, KeyError or TypeError."""
        major, minor = table["python"]
        texts = [table[key] for key in ("machine", "implementation", "libc", "model")]
        found = dict(table["installed"])
        numbers = (major, minor, table["bits"])
        if not all(isinstance(x, str) for x in [*texts, *found.keys(), *found.values()]):
            raise TypeError("not texts")
        if not all(type(x) is int for x in numbers):
            raise TypeError("not numbers")
        machine, implementation, libc, model = texts
        emulated = bool(table["emulated"])
        python = (major, minor)
        bits = table["bits"]
        return cls(machine, bits, python, implementation, libc, model, emulated, found)

    @property
    def architecture(self) -> str:
        """Of the user land, as wheels name it."""
        if self.bits == 32:
            return {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(
                self.machine, self.machine
            )
        return {"arm64": "aarch64", "AMD64": "x86_64"}.get(self.machine, self.machine)

    @property
    def glibc(self) -> tuple[int, int] | None:
        found = _GLIBC.match(self.libc)
        return None if found is None else (int(found[1]), int(found[2]))

    def __str__(self) -> str:
        version = ".".join(map(str, self.python))
        libc = "another C library than glibc" if self.glibc is None else self.libc
        return f"Python {version} on {self.architecture} with {libc}"


@dataclass(frozen=True)
class Needs:
    """What has to run on a board."""

    backend: str = "onnx"
    engine: str = ""
    """The engine that a bundle was fitted for; "" is the backend's first one."""
    engine_version: str = ""
    """The version wanted; another one that the runtime takes stands in for it."""
    exactly: bool = False
    """Whether no other version of the engine will do."""
    extras: tuple[str, ...] = ()


def check(facts: Facts) -> None:
    """Raises WheelError for a board that can never have the runtime."""
    if facts.python < OLDEST_PYTHON:
        version = ".".join(map(str, facts.python))
        raise WheelError(
            f"it has Python {version}, and the runtime needs 3.11 or newer (Raspberry Pi OS "
            "Bookworm has that)"
        )
    if facts.architecture not in ARCHITECTURES:
        raise WheelError(
            f"there are no wheels for {facts.architecture}; boards must be one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    if facts.implementation != "CPython" or facts.glibc is None:
        raise WheelError(
            f"there are no wheels for {facts.implementation} with {facts.libc or 'musl'}; a board "
            "needs CPython and glibc"
        )


def wanted(facts: Facts, needs: Needs) -> list[str]:
    """What a board lacks, as pip writes requirements, the engine first; empty if it has all.

    What it has and the runtime takes is used as it is.  The runtime itself is not in the list.
    """
    least = _least_versions()
    missing = []
    names = ENGINES[needs.backend]
    if needs.engine in names and (needs.exactly or facts.architecture != "armv7l"):
        names = (needs.engine, *(name for name in names if name != needs.engine))
    elif facts.architecture == "armv7l":  # only the older engine is built for it
        names = names[::-1]
    serving = [name for name in names if _serves(facts, name, needs, least)]
    if not serving:
        pinned = needs.engine_version if needs.engine in ("", names[0]) else ""
        missing.append(names[0] + (f"=={pinned}" if pinned else _at_least(names[0], least)))
    old_numpy = [*serving, names[0]][0] == "tflite-runtime"  # it fails with 2, and declares nothing
    for name in (*ALWAYS, *(EXTRAS[extra] for extra in needs.extras)):
        has, limit = facts.installed.get(name), ",<2" if name == "numpy" and old_numpy else ""
        if not _is_new_enough(has, least.get(name, "0")) or (limit and _is_new_enough(has, "2")):
            missing.append(name + _at_least(name, least) + limit)
    return missing


def has_runtime(facts: Facts) -> bool:
    """Whether the board's own runtime is this host's."""
    return facts.installed.get(RUNTIME) == importlib.metadata.version(RUNTIME)


def find(facts: Facts, needs: Needs, folder: Path | None) -> list[Path]:
    """Files of the wheels that a board lacks, the runtime's own among them.

    folder: of wheels, used alone; None is the package index.  Raises WheelError.
    """
    check(facts)
    requirements = wanted(facts, needs)
    if not requirements and has_runtime(facts):
        return []
    made = [runtime_wheel()]
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        try:
            made.append(_wheel(facts, requirement, folder))
        except WheelError:
            if not version or needs.exactly:
                raise
            made.append(_wheel(facts, name + _at_least(name, _least_versions()), folder))
    return made


def platforms(facts: Facts) -> list[str]:
    """All tags that this board takes, the newest glibc first: pip does not add the older ones."""
    assert facts.glibc is not None
    major, minor = facts.glibc
    arch = facts.architecture
    tags = []
    for number in range(minor, 4, -1):
        tags.append(f"manylinux_{major}_{number}_{arch}")
        if number in _OLD_NAMES and (arch == "x86_64" or number == 17):
            tags.append(f"{_OLD_NAMES[number]}_{arch}")
    return [*tags, f"linux_{arch}", "any"]


def runtime_wheel() -> Path:
    """The runtime that this host uses, as a wheel: the same code gives the same bytes."""
    import edgedistill_runtime

    package = Path(edgedistill_runtime.__path__[0])
    name, version = RUNTIME.replace("-", "_"), importlib.metadata.version(RUNTIME)
    about = importlib.metadata.distribution(RUNTIME).read_text("METADATA") or ""
    files = {
        f"{name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = f"{name}-{version}.dist-info"
    files[f"{info}/METADATA"] = about.encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: edgedistill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{path},{_hash(data)},{len(data)}\n" for path, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for place, data in files.items():
            entry = zipfile.ZipInfo(place, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data, zipfile.ZIP_DEFLATED)
    made = content.getvalue()
    kept = _cache() / digest(made)[:16] / f"{name}-{version}-py3-none-any.whl"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, made)
    return kept


def _wheel(facts: Facts, requirement: str, folder: Path | None) -> Path:
    """One wheel, from the user's cache if it was found before."""
    listing = [] if folder is None else _listing(folder)
    key = digest(requirement, facts.architecture, facts.libc, list(facts.python), listing)
    place = _cache() / key[:16]
    kept = sorted(place.glob("*.whl"))
    if kept:
        return kept[0]
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as name:
        making = Path(name) / "wheels"
        making.mkdir()
        _pip(facts, requirement, folder, making)
        if not place.exists():
            shutil.move(making, place)
    return next(iter(sorted(place.glob("*.whl"))))


def _pip(facts: Facts, requirement: str, folder: Path | None, target: Path) -> None:
    major, minor = facts.python
    source = [] if folder is None else ["--no-index", "--find-links", str(folder.absolute())]
    abis = [f"cp{major}{minor}", "abi3", "none"]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--only-binary", ":all:", "--no-deps", "--dest", str(target), *source),
        *("--implementation", "cp", "--python-version", f"{major}.{minor}"),
        *(word for abi in abis for word in ("--abi", abi)),
        *(word for tag in platforms(facts) for word in ("--platform", tag)),
        requirement,
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=MOST_PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise WheelError(
            f"pip did not find {requirement} in {MOST_PIP_SECONDS} s; give a folder of wheels with "
            "--wheels"
        ) from None
    if done.returncode == 0 and any(target.glob("*.whl")):
        return
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    if "No module named pip" in done.stderr:
        raise WheelError("this Python has no pip to find wheels with; python -m ensurepip adds it")
    where = "the package index" if folder is None else str(folder)
    offline = "onnection" in done.stderr or "Retrying" in done.stderr
    if any("No matching distribution" in line for line in said) and not offline:
        hint = ""
        if facts.architecture == "armv7l" and requirement.startswith("numpy"):
            hint = "; on 32-bit ARM it is the system's: apt-get install python3-numpy"
        raise WheelError(f"{where} has no wheel of {requirement} for {facts}{hint}")
    raise WheelError(
        f"cannot get {requirement} from {where} ({said[-1][:200] if said else 'no message'}); give "
        "a folder of wheels with --wheels"
    )


def _listing(folder: Path) -> list[Any]:
    if not folder.is_dir():
        raise WheelError(f"{folder} is no folder of wheels")
    found = sorted(folder.glob("*.whl"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def _serves(facts: Facts, name: str, needs: Needs, least: dict[str, str]) -> bool:
    version = facts.installed.get(name)
    if needs.exactly:
        return name == needs.engine and version == needs.engine_version
    return _is_new_enough(version, least.get(name, "0"))


def _least_versions() -> dict[str, str]:
    """Of what the runtime requires, extras included, as its metadata say."""
    rows = importlib.metadata.requires(RUNTIME) or []
    return {found[1].lower(): found[2] for row in rows if (found := _REQUIREMENT.match(row))}


def _at_least(name: str, least: dict[str, str]) -> str:
    return f">={least[name]}" if name in least else ""


def _is_new_enough(version: str | None, least: str) -> bool:
    return version is not None and _numbers(version) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _hash(data: bytes) -> str:
    value = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={value.decode()}"


def _cache() -> Path:
    return user_cache() / "wheels"


__all__: Sequence[str] = ["Facts", "Needs", "WheelError", "find", "platforms", "runtime_wheel"]
