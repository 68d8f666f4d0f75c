"""`edgedistill-run doctor`: what would keep a bundle from running here, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.runtime.runtime_support import environment

from edgedistill_runtime import doctor, processes, telemetry

GIB = "MemTotal: {0} kB\nMemAvailable: {0} kB\n"


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A quiet Raspberry Pi 4 with every file that the doctor reads; write others over them."""
    root = tmp_path / "board"
    monkeypatch.setattr(telemetry, "ROOT", root)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setenv("EDGEDISTILL_STATE", str(tmp_path / "state"))

    def write(path, text):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    write("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write("proc/cpuinfo", "processor : 0\nFeatures : fp asimd evtstrm crc32 cpuid\n")
    write("proc/meminfo", GIB.format(900 * 1024))
    write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    return write


@pytest.fixture
def installed(monkeypatch):
    """What can be imported here: module -> version, or why it cannot be; the rest is missing."""
    packages = {"numpy": "2.4.6", "onnxruntime": "1.27.0"}

    def probe(module, timeout_s=0):
        found = packages.get(module.split(".")[0])
        if found is None:
            return processes.Probe(False, "", True, f"No module named {module!r}")
        if found.startswith("SIG"):
            return processes.Probe(False, "", False, f"{found}: {processes.MEANINGS[found]}")
        return processes.Probe(True, found, False, "")

    def version(package):
        found = packages.get(package.replace("-", "_"))
        return "0.1" if found and found.startswith("SIG") else found

    monkeypatch.setattr(processes, "probe", probe)
    monkeypatch.setattr(doctor, "_installed", version)
    return packages


def finding(name, path=None):
    """The worst finding of that name."""
    order = [doctor.OK, doctor.WARNING, doctor.PROBLEM]
    found = [f for f in doctor.examine(path) if f.name == name]
    return max(found, key=lambda f: order.index(f.level))


def test_this_machine_runs_the_bundle(run, edge):
    said = run("doctor", edge, "--json")
    assert said.code == 0, said.err
    [row] = said.rows
    assert row["runs"] is True
    assert {f["level"] for f in row["findings"]} <= {"ok", "warning"}
    names = [f["name"] for f in row["findings"]]
    assert {"bundle", "python", "numpy", "onnxruntime", "memory", "disk", "golden"} <= set(names)
    assert "nothing keeps it from running here" in said.err


@pytest.mark.usefixtures("board", "installed")
def test_a_quiet_board_has_nothing_to_do(edge):
    findings = doctor.examine(edge)
    assert doctor.exit_code(findings) == 0
    assert {f.name for f in findings if f.level != "ok"} <= {"pillow"}


@pytest.mark.usefixtures("board", "installed")
def test_whatever_is_wrong_says_what_to_do(board, installed, edge):
    installed.clear()
    board("proc/meminfo", GIB.format(1024))
    board("sys/fs/cgroup/cgroup.controllers", "cpu")
    board("sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    findings = doctor.examine(edge)
    assert doctor.exit_code(findings) == 2
    wrong = [f for f in findings if f.level != "ok"]
    assert len(wrong) >= 5
    assert all(f.advice and "\n" not in f.found + f.advice for f in wrong)


def test_a_bundle_that_is_damaged_is_a_problem(run, edge):
    edge.write_bytes(edge.read_bytes()[:-1])
    said = run("doctor", edge)
    assert said.code == 2
    assert "it cannot run here" in said.err


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize("signal", ["SIGILL", "SIGABRT"])
def test_an_engine_that_kills_its_process_is_named(installed, edge, signal):
    installed["onnxruntime"] = signal
    found = finding("onnxruntime", edge)
    assert found.level == "problem"
    assert signal in found.found


@pytest.mark.usefixtures("board")
def test_without_a_bundle_one_engine_is_enough(installed):
    installed["ai_edge_litert"] = "SIGILL"
    assert doctor.exit_code(doctor.examine()) == 0
    assert finding("ai-edge-litert").level == "warning"
    del installed["onnxruntime"]
    assert doctor.exit_code(doctor.examine()) == 2


@pytest.mark.usefixtures("board")
def test_an_engine_of_another_backend_does_not_help(installed, edge):
    del installed["onnxruntime"]
    installed["ai_edge_litert"] = "2.3.0"
    found = finding("engine", edge)
    assert found.level == "problem"
    assert "onnxruntime" in found.advice


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(("numpy", "level"), [("2.4.6", "problem"), ("1.26.4", "ok")])
def test_tflite_runtime_does_not_go_with_numpy_2(installed, numpy, level):
    del installed["onnxruntime"]
    installed |= {"tflite_runtime": "2.14.0", "numpy": numpy}
    found = finding("tflite-runtime")
    assert found.level == level
    assert level == "ok" or "numpy<2" in found.advice


@pytest.mark.usefixtures("board")
def test_another_version_than_the_bundles_is_a_warning(installed, edge):
    installed["onnxruntime"] = "1.32.0"
    found = finding("engine", edge)
    assert found.level == "warning"
    assert "onnxruntime==1.27.0" in found.advice


@pytest.mark.usefixtures("board", "installed")
def test_a_32_bit_python_under_a_64_bit_kernel_is_named(monkeypatch):
    monkeypatch.setattr(doctor.struct, "calcsize", lambda _: 4)
    found = finding("width")
    assert found.level == "warning"
    assert "32-bit Python under a 64-bit kernel" in found.found


@pytest.mark.usefixtures("board")
def test_a_32_bit_system_without_a_wheel_is_told_so(installed, edge, monkeypatch):
    monkeypatch.setattr(doctor.struct, "calcsize", lambda _: 4)
    monkeypatch.setattr("platform.machine", lambda: "armv7l")
    del installed["onnxruntime"]
    found = finding("engine", edge)
    assert found.level == "problem"
    assert "64-bit system" in found.advice


@pytest.mark.usefixtures("board", "installed")
@pytest.mark.parametrize(("version", "level"), [("glibc 2.28", "warning"), (None, "warning")])
def test_an_old_libc_or_another_is_a_warning(monkeypatch, version, level):
    monkeypatch.setattr(os, "confstr", lambda _: version)
    assert finding("libc").level == level


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("machine", "features", "level", "says"),
    [
        ("aarch64", "fp asimd", "ok", "ARMv8.0"),
        ("aarch64", "fp asimd asimdhp asimddp", "ok", "int8 dot products"),
        ("armv7l", "half thumb vfpv3", "problem", "no NEON"),
        ("armv7l", "neon vfpv4", "ok", "ARMv7"),
        ("x86_64", "sse4_2", "warning", "no AVX2"),
        ("x86_64", "avx2", "ok", "no int8 dot product"),
        ("x86_64", "avx2 avx_vnni", "ok", "int8 dot products"),
    ],
)
def test_what_the_processor_can_do(board, monkeypatch, machine, features, level, says):
    monkeypatch.setattr("platform.machine", lambda: machine)
    board("proc/cpuinfo", f"Features : {features}\n")
    found = finding("cpu")
    assert found.level == level
    assert says in found.found


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("total_mib", "free_mib", "level"),
    [(900, 800, "ok"), (900, 40, "warning"), (50, 40, "problem")],
)
def test_memory_is_compared_with_the_bundles(board, edge, total_mib, free_mib, level):
    """It was predicted to take 60 MiB."""
    board("proc/meminfo", f"MemTotal: {total_mib << 10} kB\nMemAvailable: {free_mib << 10} kB\n")
    assert finding("memory", edge).level == level


@pytest.mark.usefixtures("installed")
def test_a_control_groups_limit_counts_as_the_memory(board, edge):
    board("proc/self/cgroup", "0::/small\n")
    board("sys/fs/cgroup/small/memory.max", str(32 << 20))
    assert finding("memory", edge).level == "problem"


@pytest.mark.usefixtures("installed")
def test_a_kernel_without_a_memory_cap_says_how_to_get_one(board):
    board("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")
    found = finding("memory cap")
    assert found.level == "warning"
    assert "cgroup_enable=memory" in found.advice


@pytest.mark.usefixtures("board", "installed")
def test_a_full_disk_is_a_warning(monkeypatch):
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20})()
    )
    assert finding("disk").level == "warning"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("bits", "level", "says"),
    [
        ("0", "ok", "none"),
        ("1", "warning", "under-voltage"),
        ("4", "warning", "throttled"),
        ("50000", "warning", "since it was started: under-voltage, throttled"),
    ],
)
def test_throttling_now_and_before(board, bits, level, says):
    board("sys/devices/platform/soc/soc:firmware/get_throttled", bits)
    found = finding("throttling")
    assert found.level == level
    assert says in found.found


@pytest.mark.usefixtures("board", "installed")
def test_a_clock_that_stands_before_the_bundle_is_a_warning(monkeypatch, edge):
    assert finding("clock", edge).level == "ok"
    week = 7 * 86_400
    os.utime(edge, (time.time() + week,) * 2)
    assert finding("clock", edge).level == "warning"
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert finding("clock").found.startswith("1970-01-01")
    assert finding("clock").level == "warning"


@pytest.mark.usefixtures("board", "installed")
def test_without_ssh_keygen_signatures_cannot_be_checked(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = finding("ssh-keygen")
    assert found.level == "warning"
    assert "openssh-client" in found.advice


def test_an_emulator_is_said(board, installed):
    board("etc/edgedistill-emulated", "")
    assert "emulated" in finding("architecture").found


# --- processes that die


def module(folder: Path, code: str) -> None:
    (folder / "fragile.py").write_text(code)


@pytest.mark.parametrize("signal", ["SIGILL", "SIGABRT", "SIGKILL"])
def test_an_import_that_kills_is_survived(tmp_path, monkeypatch, signal):
    module(tmp_path, f"import os, signal\nos.kill(os.getpid(), signal.{signal})\n")
    monkeypatch.syspath_prepend(tmp_path)
    probed = processes.probe("fragile")
    assert (probed.works, probed.missing) == (False, False)
    assert probed.reason.startswith(signal)


def test_an_import_that_fails_gives_its_reason(tmp_path, monkeypatch):
    module(tmp_path, "raise SystemError('a module of another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    assert processes.probe("fragile").reason == "SystemError: a module of another numpy"


def test_what_is_not_there_is_missing(tmp_path, monkeypatch):
    assert processes.probe("no_such_module_anywhere").missing
    module(tmp_path, "import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    assert not processes.probe("fragile").missing, "what it needs is missing, it is not"


def test_an_import_that_works_has_a_version(tmp_path, monkeypatch):
    module(tmp_path, "__version__ = '7.1'")
    monkeypatch.syspath_prepend(tmp_path)
    assert processes.probe("fragile") == processes.Probe(True, "7.1", False, "")


def test_it_works_where_nothing_is_installed(tmp_path):
    """Neither numpy nor an engine: only click and the standard library."""
    blocked = tmp_path / "blocked"
    for name in ("numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        )
    done = subprocess.run(
        [sys.executable, "-m", "edgedistill_runtime", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(blocked),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install numpy" in done.stderr
