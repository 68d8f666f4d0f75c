"""Can this board run bundles, or this one?  Each finding says what to do.

Standard library only: it has to work where nothing else does.  Engines and numpy are imported in
processes of their own, because some builds kill the process that imports them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedistill_runtime import bundle, processes, store, telemetry
from edgedistill_runtime.bundle import Bundle
from edgedistill_runtime.errors import EdgeDistillError

OK, WARNING, PROBLEM = "ok", "warning", "problem"
LEAST_PYTHON = (3, 11)
ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
LEAST_FREE_MIB = 64
"""On the disk of the installed bundles, beside two copies of the bundle."""
MAX_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    level: str
    """"ok", "warning" (it runs, but not as it should) or "problem" (it does not run)."""
    name: str
    found: str
    advice: str = ""
    """What to do; "" where nothing is."""


@dataclass(frozen=True)
class Engine:
    """A package that can run models, and where it exists (`docs/bench.md` has the sources)."""

    package: str
    module: str
    backend: str
    glibc: tuple[int, int]
    """The oldest that its current wheels run on."""
    armv7: bool
    """Whether there is one for 32-bit ARM."""
    last_python: tuple[int, int] = (99, 0)
    """The newest that it has wheels for."""


ENGINES = (
    Engine("onnxruntime", "onnxruntime", "onnx", (2, 28), armv7=False),
    Engine("ai-edge-litert", "ai_edge_litert.interpreter", "tflite", (2, 27), armv7=False),
    Engine("tflite-runtime", "tflite_runtime.interpreter", "tflite", (2, 34), True, (3, 11)),
)


def exit_code(findings: list[Finding]) -> int:
    """2 if something keeps it from running."""
    return 2 if any(finding.level == PROBLEM for finding in findings) else 0


def examine(path: Path | None = None) -> list[Finding]:
    """Everything there is to say about this board, and about a bundle on it.

    path: the bundle's file, or the name of one that is installed
    """
    opened, findings = None, []
    if path is not None:
        try:
            opened = bundle.read(store.locate(path))
            m = opened.manifest
            findings.append(
                Finding(OK, "bundle", f"{m.name} version {m.version}, for {m.backend.name}")
            )
        except (EdgeDistillError, OSError) as error:
            findings.append(
                Finding(PROBLEM, "bundle", f"{path}: {_sentence(error)}", "copy it here again")
            )
    numpy = processes.probe("numpy")
    findings += [
        _architecture(),
        _width(),
        _python(),
        _libc(),
        *_cpu(opened),
        _numpy(numpy),
        *_engines(opened, numpy),
        *_extras(opened),
        *_memory(opened),
        _cap(),
        _disk(opened),
        _throttling(),
        _clock(path),
        _ssh_keygen(opened),
    ]
    if path is not None and opened is not None and not exit_code(findings):
        findings.append(_golden(path))
    return findings


def _architecture() -> Finding:
    machine = platform.machine()
    cpu = telemetry.cpu_name()
    found = f"{machine}{f' ({cpu})' if cpu else ''}, {telemetry.board_model() or 'board unnamed'}"
    if telemetry.emulated():
        return Finding(
            WARNING, "architecture", f"{found}, emulated", "believe answers here, but no times"
        )
    if machine in ("armv8l", "armv6l") or machine not in ARCHITECTURES:
        return Finding(
            WARNING,
            "architecture",
            found,
            f"there are engines for {', '.join(ARCHITECTURES)}; build one yourself, or use another "
            "board",
        )
    return Finding(OK, "architecture", found)


def _width() -> Finding:
    bits = 8 * struct.calcsize("P")
    kernel64 = platform.machine() in ("x86_64", "aarch64")
    if bits == 32 and kernel64:
        return Finding(
            WARNING,
            "width",
            "a 32-bit Python under a 64-bit kernel",
            "install the 64-bit system: engines for 32 bits are few and old",
        )
    if bits == 32:
        return Finding(
            WARNING,
            "width",
            "32 bits",
            "onnxruntime has no wheel for it; use a TFLite bundle, or the 64-bit system if the "
            "processor has 64 bits",
        )
    return Finding(OK, "width", f"{bits} bits")


def _python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        return Finding(
            PROBLEM, "python", found, f"install Python {wanted} or newer, or a newer system"
        )
    return Finding(OK, "python", found)


def _glibc() -> tuple[int, int] | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    match = re.fullmatch(r"glibc (\d+)\.(\d+).*", text)
    return (int(match[1]), int(match[2])) if match else None


def _libc() -> Finding:
    version = _glibc()
    if version is None:
        return Finding(
            WARNING,
            "libc",
            "not glibc (musl?)",
            "engines' wheels are built for glibc; use a Debian-like system",
        )
    lacking = [e.package for e in ENGINES if version < e.glibc]
    found = f"glibc {version[0]}.{version[1]}"
    if lacking:
        return Finding(
            WARNING,
            "libc",
            f"{found}, too old for current wheels of {', '.join(lacking)}",
            "upgrade the system, or install an older version of the engine",
        )
    return Finding(OK, "libc", found)


def _cpu(opened: Bundle | None) -> Iterator[Finding]:
    flags, machine = telemetry.cpu_flags(), platform.machine()
    if not flags:
        yield Finding(WARNING, "cpu", "/proc/cpuinfo lists no features", "bench before you rely")
        return
    if machine == "armv7l" and "neon" not in flags:
        yield Finding(PROBLEM, "cpu", "no NEON", "use a board with NEON: engines need it")
        return
    if machine == "x86_64" and "avx2" not in flags:
        yield Finding(WARNING, "cpu", "no AVX2", "it runs, several times slower; bench it")
        return
    int8 = opened is None or opened.manifest.precision.startswith("int8")
    dot = {"aarch64": "asimddp", "armv7l": "asimddp", "x86_64": "avx_vnni"}.get(machine, "")
    if dot in flags or (machine == "x86_64" and "avx512_vnni" in flags):
        yield Finding(OK, "cpu", "has int8 dot products: int8 pays most here")
    elif machine in ("aarch64", "armv7l"):
        what = "no int8 dot product" + (" (ARMv8.0)" if machine == "aarch64" else " (ARMv7)")
        advice = "int8 is smaller here, and not always faster: let bench decide" if int8 else ""
        yield Finding(OK, "cpu", what, advice)
    else:
        yield Finding(OK, "cpu", "AVX2, no int8 dot product")


def _numpy(probed: processes.Probe) -> Finding:
    if probed.works:
        return Finding(OK, "numpy", probed.version)
    if probed.missing:
        return Finding(
            PROBLEM,
            "numpy",
            "not installed",
            "pip install numpy; on 32-bit ARM: apt install python3-numpy, and a venv with "
            "--system-site-packages",
        )
    return Finding(
        PROBLEM,
        "numpy",
        probed.reason,
        "install a build for this processor: apt install python3-numpy",
    )


def _engines(opened: Bundle | None, numpy: processes.Probe) -> Iterator[Finding]:
    """Those of the bundle's backend must be a problem if none works; without a bundle, all."""
    backend = None if opened is None else opened.manifest.backend.name
    wanted = [e for e in ENGINES if backend in (None, e.backend)]
    if not wanted:
        yield Finding(WARNING, "engine", f"the backend {backend!r} is another package's", "")
        return
    results = [_engine(engine, numpy) for engine in wanted]
    works = any(finding.level != PROBLEM for finding in results if finding is not None)
    for finding in results:
        if finding is not None and finding.level == PROBLEM and works:
            yield Finding(WARNING, finding.name, finding.found, finding.advice)
        elif finding is not None:
            yield finding
    if works:
        if opened is not None:
            yield from _other_version(opened)
        return
    possible = [e for e in wanted if _has_wheel(e)]
    if not possible:
        names = " or ".join(e.package for e in wanted)
        yield Finding(
            PROBLEM,
            "engine",
            f"no wheel of {names} is for this system",
            "install a 64-bit system, or fit the bundle for another backend",
        )
    elif not any(results):
        yield Finding(PROBLEM, "engine", "none is installed", f"pip install {possible[0].package}")


def _has_wheel(engine: Engine) -> bool:
    narrow = struct.calcsize("P") == 4
    glibc = _glibc()
    return (
        (engine.armv7 or not narrow)
        and sys.version_info[:2] <= engine.last_python
        and glibc is not None
        and glibc >= engine.glibc
    )


def _engine(engine: Engine, numpy: processes.Probe) -> Finding | None:
    """None: it is not installed."""
    version = _installed(engine.package)
    probed = processes.probe(engine.module)
    if not probed.works and (version is None or probed.missing):
        return None
    version = version or probed.version
    name = engine.package
    if name == "tflite-runtime" and numpy.works and _major(numpy.version) >= 2:
        # it declares numpy>=1.23.2, pip is content, and each model then ends in SystemError
        return Finding(
            PROBLEM,
            name,
            f"{version} with numpy {numpy.version}, which it cannot use",
            "pip install 'numpy<2', or use ai-edge-litert",
        )
    if not probed.works:
        return Finding(
            PROBLEM,
            name,
            f"{version} cannot be imported ({probed.reason})",
            f"reinstall {name}, or take an older version",
        )
    if name == "tflite-runtime":
        return Finding(
            OK, name, version, "it computes some int8 schemes wrongly: verify each bundle here"
        )
    return Finding(OK, name, version)


def _other_version(opened: Bundle) -> Iterator[Finding]:
    expected = opened.manifest.board
    found = _installed(expected.engine) if expected.engine else None
    if found and found != expected.engine_version:
        yield Finding(
            WARNING,
            "engine",
            f"{expected.engine} {found}; the bundle was fitted for {expected.engine_version}",
            f"its figures count as measured elsewhere; pip install {expected.engine}=="
            f"{expected.engine_version} for verified ones",
        )


def _extras(opened: Bundle | None) -> Iterator[Finding]:
    """What the bundle's kind of sample needs beside."""
    if opened is None:
        return
    kind = opened.manifest.sample.kind
    if kind == "text":
        probed = processes.probe("tokenizers")
        if not probed.works:
            why = "not installed" if probed.missing else probed.reason
            yield Finding(
                PROBLEM, "tokenizers", why, "pip install 'edgedistill-runtime[text]': texts need it"
            )
        else:
            yield Finding(OK, "tokenizers", probed.version)
    if kind == "image":
        probed = processes.probe("PIL")
        if not probed.works:
            why = "not installed" if probed.missing else probed.reason
            yield Finding(
                WARNING,
                "pillow",
                why,
                "pip install 'edgedistill-runtime[image]' to read image files; arrays need none",
            )


def _memory(opened: Bundle | None) -> Iterator[Finding]:
    known = telemetry.memory_mib()
    total, free = known.get("MemTotal"), known.get("MemAvailable")
    if total is None or free is None:
        yield Finding(WARNING, "memory", "/proc/meminfo does not say", "bench before you rely")
        return
    found = f"{free:.0f} of {total:.0f} MiB available"
    cap = telemetry.memory_cap_mib()
    if cap is not None and cap < total:
        found += f", the control group allows {cap:.0f}"
        free, total = min(free, cap), cap
    need = None if opened is None else _peak_mib(opened)
    if need is None:
        yield Finding(OK, "memory", found)
    elif need > total:
        yield Finding(
            PROBLEM, "memory", f"{found}; the bundle may take {need:.0f}", "fit a smaller one"
        )
    elif need > free:
        yield Finding(
            WARNING,
            "memory",
            f"{found}; the bundle may take {need:.0f}",
            "end other programs first, or fit a smaller one",
        )
    else:
        yield Finding(OK, "memory", f"{found}; the bundle may take {need:.0f}")


def _peak_mib(opened: Bundle) -> float | None:
    """What was predicted, else what the budget allows."""
    m = opened.manifest
    return m.predicted.peak_ram_mib or m.budget.peak_ram_mib


def _cap() -> Finding:
    """Raspberry Pi's kernels start with the memory controller off."""
    v2 = telemetry.text_of("sys/fs/cgroup/cgroup.controllers")
    v1 = re.search(r"^memory\s+\d+\s+\d+\s+1$", telemetry.text_of("proc/cgroups") or "", re.M)
    if (v2 is not None and "memory" in v2.split()) or v1:
        return Finding(OK, "memory cap", "the kernel can hold programs to one")
    return Finding(
        WARNING,
        "memory cap",
        "the kernel has no memory control group",
        "MemoryMax of services will not hold; on a Raspberry Pi add cgroup_enable=memory to "
        "/boot/firmware/cmdline.txt and reboot",
    )


def _disk(opened: Bundle | None) -> Finding:
    folder = store.state_folder()
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**20
    size = 0.0 if opened is None else opened.size / 2**20
    found = f"{free:.0f} MiB free for installed bundles ({folder})"
    if free < 2 * size + LEAST_FREE_MIB:
        return Finding(
            WARNING,
            "disk",
            found,
            f"make {2 * size + LEAST_FREE_MIB:.0f} MiB free: two versions are kept",
        )
    if not os.access(place, os.W_OK):
        return Finding(
            WARNING, "disk", f"{place} cannot be written", "to install bundles, run as another user"
        )
    return Finding(OK, "disk", found)


def _throttling() -> Finding:
    bits = telemetry.throttled_bits()
    warm = telemetry.temperature_c()
    heat = "" if warm is None else f", {warm:.0f} °C"
    if bits is None:
        return Finding(OK, "throttling", f"this board does not say{heat}")
    if bits & telemetry.UNDER_VOLTAGE:
        return Finding(
            WARNING,
            "throttling",
            f"under-voltage now{heat}",
            "use the maker's power supply and cable",
        )
    if bits & 0xF:
        return Finding(
            WARNING, "throttling", f"{telemetry.throttled_words(bits)} now{heat}", "cool the board"
        )
    if bits >> 16 & 0xF:
        return Finding(
            WARNING,
            "throttling",
            f"none now{heat}; since it was started: {telemetry.throttled_words(bits >> 16)}",
            "look at cooling and power before you rely on bench",
        )
    return Finding(OK, "throttling", f"none{heat}")


def _clock(path: Path | None) -> Finding:
    """Boards without a battery begin in 1970, or when they were last shut down."""
    now = time.time()
    newest = max(p.stat().st_mtime for p in Path(__file__).parent.glob("*.py"))
    if path is not None and path.exists():
        newest = max(newest, path.stat().st_mtime)
    said = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now < newest - 86_400:
        return Finding(
            WARNING,
            "clock",
            f"{said}, before the files here were written",
            "set it (timedatectl set-ntp true): certificates get wrong dates and TLS fails",
        )
    return Finding(OK, "clock", said)


def _ssh_keygen(opened: Bundle | None) -> Finding:
    program = shutil.which("ssh-keygen")
    if program:
        return Finding(OK, "ssh-keygen", program)
    signed = opened is not None and opened.signature is not None
    what = "the bundle's signature cannot be checked" if signed else "signatures cannot be checked"
    return Finding(WARNING, "ssh-keygen", f"not here: {what}", "apt install openssh-client")


def _golden(path: Path) -> Finding:
    """The proof of all the rest: load it and answer, in a process that may die."""
    try:
        result = processes.measure("golden", path, timeout_s=MAX_SECONDS)
    except EdgeDistillError as error:
        return Finding(
            PROBLEM,
            "golden",
            str(error),
            "take the engine's version that the bundle was fitted for, or fit it again",
        )
    return Finding(OK, "golden", f"outputs agree within {result['difference']:.2g}")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _major(version: str) -> int:
    head = version.split(".")[0]
    return int(head) if head.isdigit() else 0


def _sentence(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
