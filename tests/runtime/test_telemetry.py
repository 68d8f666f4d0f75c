"""What a board says about itself, read from a folder that stands for its /."""

from __future__ import annotations

import sys
from threading import Event

import pytest

from edgedistill_runtime import telemetry

POLICIES = "sys/devices/system/cpu/cpufreq"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Put a file under the board's /."""
    monkeypatch.setattr(telemetry, "ROOT", tmp_path)

    def put(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(str(text))

    return put


@pytest.mark.usefixtures("write")
def test_a_board_that_says_nothing_is_unknown():
    found = telemetry.snapshot()
    assert {k: v for k, v in found.items() if k != "load_1min" and v is not None} == {}
    assert telemetry.board_model() is None
    assert telemetry.memory_cap_mib() is None
    assert telemetry.quota_stops() is None
    assert telemetry.cpu_flags() == frozenset()
    with telemetry.Watch() as watch:
        pass
    assert watch.result.clock_share is None
    assert watch.result.throttled_rose == 0
    assert watch.result.busy_processors is None


def test_the_warmest_zone_counts(write):
    for i, temperature in enumerate([41_000, 62_500, 55_000]):
        write(f"sys/class/thermal/thermal_zone{i}/temp", temperature)
    assert telemetry.temperature_c() == 62.5


def test_of_two_kinds_of_core_the_busy_one_gives_the_clock(write):
    for policy, now, most in [("policy0", 600_000, 1_800_000), ("policy4", 2_400_000, 2_400_000)]:
        write(f"{POLICIES}/{policy}/scaling_cur_freq", now)
        write(f"{POLICIES}/{policy}/cpuinfo_max_freq", most)
    found = telemetry.snapshot()
    assert (found["clock_mhz"], found["clock_share"]) == (2400, 1.0)


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"base_frequency": 1_000_000}, 1.5),
        ({"scaling_driver": "amd-pstate-epp"}, None),
        ({"scaling_driver": "cpufreq-dt"}, 0.5),
    ],
)
def test_a_boost_is_no_clock_to_hold(write, files, share):
    files = {"scaling_cur_freq": 1_500_000, "cpuinfo_max_freq": 3_000_000, **files}
    for name, value in files.items():
        write(f"{POLICIES}/policy0/{name}", value)
    assert telemetry.snapshot()["clock_share"] == share


@pytest.mark.parametrize(
    ("before", "during", "rose"),
    [(0, 0, 0), (0, 0x4, 0x4), (0, 0x40000, 0x4), (0x50000, 0x50005, 0x5), (0x10001, 0x10001, 0)],
)
def test_bits_that_rise_are_seen_even_if_they_fall_again(write, before, during, rose):
    word = "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(word, f"{before:x}")
    with telemetry.Watch() as watch:
        write(word, f"{during:x}")
    assert watch.result.throttled_rose == rose


def test_a_watch_looks_from_beside(write, monkeypatch):
    write("sys/class/thermal/thermal_zone0/temp", 40_000)
    looked = Event()
    real = telemetry.snapshot
    seen = []

    def snapshot():
        seen.append(real())
        if len(seen) == 5:
            write("sys/class/thermal/thermal_zone0/temp", 70_000)
            looked.set()
        return seen[-1]

    monkeypatch.setattr(telemetry, "snapshot", snapshot)
    with telemetry.Watch(period_s=0.001) as watch:
        assert looked.wait(10)
    assert watch.result.temperature_c == (40, 70)
    assert len(watch.result.samples) >= 6


def test_a_watch_counts_what_others_use(write):
    write("proc/stat", "cpu 100 0 0 900 0 0 0 0 0 0")
    with telemetry.Watch() as watch:
        write("proc/stat", "cpu 100000 0 0 1900 0 0 0 0 0 0")
    assert watch.result.busy_processors > 1


@pytest.mark.parametrize(
    ("kernel", "machine", "emulated"),
    [
        ("x86_64", "aarch64", True),
        ("x86_64", "armv7l", True),
        ("aarch64", "armv7l", False),
        ("aarch64", "aarch64", False),
        ("x86_64", "x86_64", False),
        ("riscv64", "riscv64", False),
        ("", "aarch64", False),
    ],
)
def test_a_kernel_of_another_architecture_is_an_emulator(
    write, monkeypatch, kernel, machine, emulated
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    write("proc/sys/kernel/arch", f"{kernel}\n")
    assert telemetry.emulated() is emulated


def test_the_tightest_memory_cap_counts(write):
    write("proc/self/cgroup", "0::/system.slice/model.service\n")
    write("sys/fs/cgroup/system.slice/memory.max", "max\n")
    assert telemetry.memory_cap_mib() is None
    write("sys/fs/cgroup/system.slice/memory.max", 512 << 20)
    write("sys/fs/cgroup/system.slice/model.service/memory.max", 256 << 20)
    assert telemetry.memory_cap_mib() == 256


def test_an_old_kernels_memory_cap_is_read_too(write):
    write("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/jobs\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert telemetry.memory_cap_mib() is None
    write("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", 100 << 20)
    assert telemetry.memory_cap_mib() == 100


def test_the_systems_own_name(write):
    write("etc/os-release", 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    assert telemetry.os_name() == "Debian GNU/Linux 12 (bookworm)"


def test_the_bits_have_names():
    assert telemetry.throttled_words(0x5) == "under-voltage, throttled"
    assert telemetry.throttled_words(0) == "none"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_look_costs_less_than_a_hundredth_of_the_time():
    """It happens once a second, in another process than what is timed."""
    start = telemetry.own_seconds()
    for _ in range(100):
        telemetry.snapshot()
    assert (telemetry.own_seconds() - start) / 100 < 0.01
