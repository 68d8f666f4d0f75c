"""`edgedistill-run bench`: the verdict, its exit code, and whose measurement it is."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from itertools import islice
from threading import Event

import numpy as np
import onnxruntime
import pytest
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import (
    KINDS,
    answers,
    golden_images,
    kind_parts,
    run_cli,
    tiny_manifest,
)
from tests.runtime.zip_bytes import zip_bytes

from edgedistill_runtime import arrays, bundle, energy, processes, telemetry, verdict
from edgedistill_runtime import bench as bench_module
from edgedistill_runtime.bench import Settings
from edgedistill_runtime.telemetry import Watch

BOARD = "Raspberry Pi 4 Model B Rev 1.4"


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """One whole bench that passes, with a limit of every kind."""
    path = tmp_path_factory.mktemp("bench") / "model.edge"
    bundle.write(path, *tiny_manifest("tiny_int8"))
    return run_cli("bench", path, "--json", "--max-seconds", 1, "--cold-start-ms", 60_000)


def test_within_the_budget_exits_0(passed):
    assert passed.code == 0, passed.err
    assert passed.err.splitlines()[-1] == "PASS: within the budget"


def test_the_last_line_on_stdout_is_the_result(passed):
    [line] = passed.out.splitlines()
    result = json.loads(line)
    assert result["verdict"] == "PASS"
    assert result["golden_difference"] < 1e-2
    assert result["size_mib"] < 0.1
    assert result["engine"] == f"onnxruntime {onnxruntime.__version__}"
    timing = result["latency_ms"]
    assert 0 < timing["p50"] <= timing["p95"] <= timing["p99"]
    assert timing["runs"] >= 59
    assert len(timing["processes"]) >= 3
    assert sum(count for _, count in timing["histogram"]) == timing["runs"]
    assert timing["warm_up_runs"] > 0
    assert 10 < result["peak_ram_mib"] < 4096
    assert 10 < result["cold_start_ms"] < 60_000


def test_every_limit_has_a_line(passed):
    lines = json.loads(passed.out)["budget"]
    names = ["latency_ms p95", "peak_ram_mib", "size_mib", "cold_start_ms"]
    assert [line["name"] for line in lines] == names
    assert all(line["ok"] is True for line in lines)
    assert all(name in passed.err for name in names)


def test_another_machine_than_the_profiles_is_measured_elsewhere(passed):
    result = json.loads(passed.out)
    assert result["standing"] == "measured elsewhere"
    assert {line["standing"] for line in result["budget"]} == {"measured elsewhere"}


@pytest.mark.parametrize(
    ("option", "limit", "line"),
    [
        ("--latency-ms", "0.000001", "latency_ms p95 is "),
        ("--size-mib", "0.0001", "size_mib is "),
        ("--peak-ram-mib", "1", "peak_ram_mib is "),
    ],
)
def test_a_limit_that_cannot_hold_exits_1_and_is_named(run, edge, option, limit, line):
    said = run("bench", edge, "--json", "--max-seconds", 1, option, limit)
    assert said.code == 1
    last = said.err.splitlines()[-1]
    assert last.startswith(f"FAIL: {line}")
    assert "over its limit of" in last
    result = json.loads(said.out)
    assert result["verdict"] == "FAIL"
    assert [line["ok"] for line in result["budget"]].count(False) == 1


def test_too_few_runs_decide_nothing_and_exit_3(run, pack):
    """A network too slow for the first look at 100 runs within its time."""
    nodes = [ox.node("Concat", ["image"] * 64, "wide", ox.attribute("axis", 1))]
    nodes += [ox.node("Concat", ["wide"] * 64, "t0", ox.attribute("axis", 1))]
    nodes += [ox.node("Erf", [f"t{i}"], f"t{i + 1}") for i in range(8)]
    nodes += [ox.node("ReduceMean", ["t8", "one"], "c"), *ox.head("c")]
    model = ox.model(ox.graph(nodes, [*ox.HEAD, ox.ints("one", (1,), [1])]))
    golden = arrays.encode(answers(model, golden_images()))
    edge = pack(files={"model.onnx": model, "golden_outputs.npy": golden})
    said = run("bench", edge, "--json", "--max-seconds", 0.1)
    assert said.code == 3, said.err
    result = json.loads(said.out)
    assert result["verdict"] == "INCONCLUSIVE"
    assert "give more time with --max-seconds" in said.err.splitlines()[-1]


def test_a_bundle_that_disappears_is_one_sentence(run, tmp_path):
    said = run("bench", tmp_path / "absent.edge")
    assert said.code == 2
    assert "No such file" in said.sentence()


# --- what follows from the measurements, without measuring


class FakeBoard:
    """A folder in the place of /, and measurements that are made up while it is watched."""

    def __init__(self, root, monkeypatch):
        self.root, self.kinds = root, []
        monkeypatch.setattr(telemetry, "ROOT", root)
        monkeypatch.setattr(processes, "measure", self.measure)
        self.latencies_ms = [1.0] * 90
        self.engine_version = "1.27.0"
        self.during = lambda: None
        """What happens while the latency is measured."""
        self.energy = {"meter": None}
        self.write("proc/device-tree/model", BOARD + "\0")

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(str(text))

    def throttled(self, bits):
        self.write("sys/devices/platform/soc/soc:firmware/get_throttled", f"{bits:x}\n")

    def governor(self, name):
        self.write("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", f"{name}\n")

    def measure(self, kind, path, *arguments, timeout_s=None):
        self.kinds.append(kind)
        if kind == "latency":
            return self.latency(*arguments)
        return {
            "golden": {
                "difference": 0.0,
                "engine": "onnxruntime",
                "engine_version": self.engine_version,
            },
            "memory": {"peak_ram_mib": 50.0},
            "load_for": {"minutes": [], "runs": 7},
            "energy": self.energy,
        }[kind]

    def latency(self, work):
        made = verdict.plan(len(self.latencies_ms), work["percentile"])
        if not work.get("count"):
            self.left = iter(self.latencies_ms)
            self.during()
        count = work.get("count") or made.parts[0]
        return {
            "latencies_ms": list(islice(self.left, count)),
            "seconds": 1.0,
            "warm_up_runs": 5,
            "steady": True,
            "late": 0,
            "stride": 1,
            "plan": dataclasses.asdict(made),
        }


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return FakeBoard(tmp_path / "board", monkeypatch)


@pytest.fixture
def measured(edge, fake):
    def bench(settings=None, **overrides):
        return bench_module.bench(edge, overrides, settings=settings)

    return bench


def test_the_profiles_board_and_engine_verify(measured):
    assert measured().standing == "verified"


@pytest.mark.parametrize("board", ["", "Raspberry Pi 5 Model B Rev 1.0"])
def test_another_board_is_measured_elsewhere(measured, fake, board):
    fake.write("proc/device-tree/model", board)
    assert measured().standing == "measured elsewhere"


def test_another_engine_is_measured_elsewhere(measured, fake):
    fake.engine_version = "1.26.0"
    assert measured().standing == "measured elsewhere"


@pytest.mark.parametrize("told", ["etc/edgedistill-emulated", "proc/sys/kernel/arch"])
def test_an_emulator_is_found_out_and_verifies_nothing(measured, fake, monkeypatch, told):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    fake.write(told, "x86_64\n")
    result = measured()
    assert (result.emulated, result.standing) == (True, "measured elsewhere")
    assert any("emulated" in note for note in result.notes)


@pytest.mark.parametrize("bits", [(0, 0x40000), (0, 0x50005), (0x50000, 0x50005), (4, 4)])
def test_a_board_that_throttles_measures_nothing(measured, fake, bits):
    fake.throttled(bits[0])
    fake.during = lambda: fake.throttled(bits[1])
    result = measured()
    assert (result.verdict, result.exit_code) == ("INVALID", 3)
    assert "throttled" in result.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_trace_with_a_rising_throttle_bit_never_passes(measured, fake, seed):
    rng = np.random.default_rng(seed)
    bit = int(rng.choice([0, 1, 2, 3, 16, 17, 18, 19]))
    fake.latencies_ms = rng.lognormal(0, 0.3, int(rng.integers(60, 2000))).tolist()
    fake.throttled(0)
    fake.during = lambda: fake.throttled(1 << bit)
    assert measured(latency_ms=float(rng.choice([0.1, 1.6, 100]))).verdict == "INVALID"


@pytest.mark.parametrize("bits", [0, 0x50000])
def test_what_happened_before_the_runs_does_not_count(measured, fake, bits):
    fake.throttled(bits)
    assert measured().verdict == "PASS"


def test_a_board_that_is_hot_on_purpose_is_measured_as_it_is(measured, fake):
    """With --sustained: throttled before the runs and in them; still never without voltage."""
    hot = Settings(sustained_minutes=10)
    fake.throttled(0x40004)
    result = measured(hot)
    assert result.verdict == "PASS"
    assert any("throttled" in note for note in result.notes)
    assert fake.kinds.index("load_for") < fake.kinds.index("latency")
    fake.during = lambda: fake.throttled(0x50005)
    assert measured(hot).verdict == "INVALID"


def test_a_governor_that_changes_measures_nothing(measured, fake):
    fake.governor("performance")
    assert measured().verdict == "PASS"
    fake.during = lambda: fake.governor("powersave")
    result = measured()
    assert result.verdict == "INVALID"
    assert "governor changed during the runs (performance to powersave)" in result.reason


@pytest.mark.parametrize(("khz", "verdict"), [(1_800_000, "PASS"), (1_700_000, "INVALID")])
def test_a_slow_clock_measures_nothing(measured, fake, monkeypatch, khz, verdict):
    monkeypatch.setattr(bench_module, "Watch", partial(Watch, period_s=0.001))
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    fake.write(f"{policy}/cpuinfo_max_freq", 1_800_000)
    fake.write(f"{policy}/scaling_cur_freq", khz)
    looked = Event()
    real = telemetry.snapshot

    def snapshot():
        looked.count = getattr(looked, "count", 0) + 1
        if looked.count > 3:
            looked.set()
        return real()

    monkeypatch.setattr(telemetry, "snapshot", snapshot)
    fake.during = lambda: looked.wait(10)
    result = measured()
    assert result.verdict == verdict
    assert result.telemetry["clock_mhz"] == khz / 1000
    assert verdict == "PASS" or "94% of its highest" in result.reason
    assert measured(Settings(rate_hz=5)).verdict == "PASS", "paced calls let the clock fall"


def test_a_cpu_quota_measures_nothing(measured, fake):
    fake.write("proc/self/cgroup", "0::/jobs/one\n")
    fake.write("sys/fs/cgroup/jobs/one/cpu.stat", "nr_periods 5\nnr_throttled 5\n")
    fake.during = lambda: fake.write("sys/fs/cgroup/jobs/one/cpu.stat", "nr_throttled 8\n")
    result = measured()
    assert result.verdict == "INVALID"
    assert "CPU quota stopped the runs 3 times" in result.reason


@pytest.fixture
def busy(fake):
    """Other programs take all processors for as long as a test lasts."""
    fake.write("proc/stat", "cpu 0 0 0 0 0 0 0 0 0 0\n")
    fake.during = lambda: fake.write("proc/stat", f"cpu {10**9} 0 0 0 0 0 0 0 0 0\n")


@pytest.mark.usefixtures("busy")
def test_other_programs_leave_a_pass_and_say_so(measured):
    result = measured()
    assert result.verdict == "PASS"
    assert any("other programs kept" in note for note in result.notes)


@pytest.mark.usefixtures("busy")
def test_other_programs_take_back_a_fail(measured, fake):
    fake.latencies_ms = [1.0, 3.0] * 100
    result = measured(latency_ms=2.0)
    assert (result.verdict, result.exit_code) == ("INVALID", 3)
    assert "other programs" in result.reason
    assert measured(latency_ms=0.5).verdict == "FAIL", "the quickest runs too are over it"
    assert measured(latency_ms=2.0, size_mib=1e-6).verdict == "FAIL", "a size is a size"


def test_paced_calls_are_said(measured):
    result = measured(Settings(rate_hz=5))
    assert any(note == "paced: 5 calls a second" for note in result.notes)
    assert result.latency_ms["rate_hz"] == 5


def test_a_latency_over_its_limit_fails(measured, fake):
    fake.latencies_ms = [3.0] * 90
    result = measured(latency_ms=2.0)
    assert (result.verdict, result.exit_code) == ("FAIL", 1)
    assert result.reason == "latency_ms p95 is 3, over its limit of 2 by 50%"


def test_the_runs_come_from_several_processes(measured, fake):
    fake.latencies_ms = [1.0] * 6400
    timing = measured().latency_ms
    assert [p["runs"] for p in timing["processes"]] == [533, 533, 534]
    assert fake.kinds.count("latency") == 3
    assert timing["runs"] == 1600


def test_where_the_first_look_does_not_decide_the_next_does(measured, fake):
    rng = np.random.default_rng(0)
    fake.latencies_ms = rng.lognormal(0, 0.5, 6400).tolist()
    timing = measured(latency_ms=2.45).latency_ms
    assert timing["runs"] > timing["looks"][0]
    assert timing["runs"] in timing["looks"]


def test_the_histogram_has_every_run(measured, fake):
    fake.latencies_ms = [0.5, 1.0, 1.01, 1.0, 40.0] * 20
    histogram = measured().latency_ms["histogram"]
    assert histogram == [
        (0.5, 20),
        (1.0, 40),
        (pytest.approx(2**0.125), 20),
        (pytest.approx(2 ** (43 / 8)), 20),
    ]


def test_a_given_limit_replaces_the_bundles(measured):
    result = measured(peak_ram_mib=51.0)
    assert result.budget[1].limit == 51.0
    assert (result.verdict, result.exit_code) == ("PASS", 0)


def test_a_miss_says_by_how_much(measured):
    result = measured(peak_ram_mib=40.0)
    assert (result.verdict, result.exit_code) == ("FAIL", 1)
    assert result.reason == "peak_ram_mib is 50, over its limit of 40 by 25%"


# --- energy


def test_energy_that_cannot_be_measured_is_unknown(measured):
    result = measured(energy_mj=5)
    assert (result.verdict, result.exit_code) == ("INCONCLUSIVE", 3)
    assert "no meter" in result.reason
    assert (result.budget[-1].standing, result.budget[-1].value) == ("unknown", None)


@pytest.mark.parametrize(("limit", "verdict"), [(3, "PASS"), (1, "FAIL"), (2, "INCONCLUSIVE")])
def test_a_limit_of_energy_is_of_what_an_inference_adds(measured, fake, limit, verdict):
    fake.energy = {
        "meter": "ina219",
        "gross_mj": [9.0, 9.1, 9.2],
        "net_mj": [1.9, 2.0, 2.1],
        "idle_w": [2.0, 2.0, 2.0],
    }
    result = measured(energy_mj=limit)
    assert result.verdict == verdict
    assert (result.energy_mj["net"], result.energy_mj["gross"]) == (2.0, 9.1)


@pytest.mark.usefixtures("fake")
def test_a_bundles_own_limit_of_energy_is_judged_and_promised(pack):
    result = bench_module.bench(pack({"budget.energy_mj": 5.0}), {})
    assert (result.budget[-1].name, result.budget[-1].limit) == ("energy_mj", 5)
    assert result.promised["budget"]["energy_mj"] == 5
    assert result.verdict == "INCONCLUSIVE"


def chip(fake, number, name, **files):
    for file, value in {"name": name, **files}.items():
        fake.write(f"sys/class/hwmon/hwmon{number}/{file}", value)


def test_a_power_monitor_is_found_by_name(fake):
    chip(fake, 0, "cpu_thermal", temp1_input=50_000)
    assert energy.meter() is None
    chip(fake, 3, "ina226", power1_input=2_500_000)
    meter = energy.meter()
    assert meter.name.startswith("ina226")
    with energy.Metered(meter) as metered:
        pass
    assert metered.joules == pytest.approx(2.5 * metered.seconds)


def test_a_monitor_without_power_is_asked_for_voltage_and_current(fake):
    chip(fake, 1, "ina3221", in1_input=3300, curr1_input=10, in1_label="VDD_CPU")
    chip(fake, 1, "ina3221", in2_input=5000, curr2_input=400, in2_label="VDD_IN")
    assert energy.meter().watts() == pytest.approx(2.0)


def test_an_energy_counter_may_begin_again(fake):
    zone = "sys/class/powercap/intel-rapl:0"
    fake.write(f"{zone}/name", "package-0")
    fake.write(f"{zone}/max_energy_range_uj", 10_000_000)
    fake.write(f"{zone}/energy_uj", 9_000_000)
    with energy.Metered(energy.meter()) as metered:
        fake.write(f"{zone}/energy_uj", 500_000)
    assert metered.joules == pytest.approx(1.5)


def test_a_power_chips_rails_are_added_up():
    text = """
     3V3_SYS_A current(1)=0.10000000A
     1V8_SYS_A current(2)=0.20000000A
     HDMI_A current(22)=0.05000000A
     3V3_SYS_V volt(9)=3.30000000V
     1V8_SYS_V volt(10)=1.80000000V
     EXT5V_V volt(24)=5.10000000V
    """
    assert energy.rails_watts(text) == pytest.approx(0.33 + 0.36)
    assert energy.rails_watts("VCHI initialization failed") is None


# --- paced, and for long, for real


def test_paced_calls_come_at_their_rate(run, edge):
    said = run("bench", edge, "--json", "--max-seconds", 1, "--rate", 100)
    assert said.code in (0, 3), said.err
    timing = json.loads(said.out)["latency_ms"]
    assert timing["runs"] <= 100
    assert "paced: 100 calls a second" in said.err


def test_a_sustained_load_comes_first(run, edge):
    said = run("bench", edge, "--json", "--max-seconds", 0.5, "--sustained", 0.01)
    assert said.code in (0, 3), said.err
    sustained = json.loads(said.out)["sustained"]
    assert sustained["runs"] > 0
    assert sustained["minutes"][0]["p50"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sample_is_measured(run, tmp_path, kind):
    """Without a limit for the latency, which a busy machine may leave undecided."""
    parts = kind_parts(kind).changed(manifest={"budget.latency_ms": None})
    (tmp_path / "model.edge").write_bytes(zip_bytes(parts.entries()))
    said = run("bench", tmp_path / "model.edge", "--json", "--max-seconds", 0.5)
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["verdict"] == "PASS"
    assert 0 < result["latency_ms"]["p50"] < 1000
