"""`edgedistill-run bench`: the verdict, its exit code, and whose measurement it is."""

from __future__ import annotations

import json

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

from edgedistill_runtime import arrays, bundle, telemetry
from edgedistill_runtime import bench as bench_module

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
    assert timing["runs"] >= 100
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


@pytest.fixture
def measured(edge, monkeypatch):
    """Bench with given measurements on a given board."""

    def bench(board=BOARD, version="1.27.0", throttled=(0, 0), emulated=False, **overrides):
        timing = {"decision": "PASS", "runs": 100, "warm_up_runs": 10, "at_percentile": 1.0}
        timing |= {"p50": 1.0, "p95": 1.0, "p99": 1.0}
        timing |= {"before": {"throttled": throttled[0]}, "after": {"throttled": throttled[1]}}
        canned = {
            "golden": {"difference": 0.0, "engine": "onnxruntime", "engine_version": version},
            "latency": timing,
            "memory": {"peak_ram_mib": 50.0},
        }
        monkeypatch.setattr(bench_module, "_child", lambda kind, *_: canned[kind])
        monkeypatch.setattr(telemetry, "board_model", lambda: board)
        monkeypatch.setattr(telemetry, "emulated", lambda: emulated)
        return bench_module.bench(edge, overrides)

    return bench


def test_the_profiles_board_and_engine_verify(measured):
    assert measured().standing == "verified"


@pytest.mark.parametrize(
    "machine",
    [
        {"board": None},
        {"board": "Raspberry Pi 5 Model B Rev 1.0"},
        {"version": "1.26.0"},
        {"emulated": True},
    ],
)
def test_any_difference_from_the_profile_is_measured_elsewhere(measured, machine):
    assert measured(**machine).standing == "measured elsewhere"


@pytest.mark.parametrize("throttled", [(0, 0x40000), (0, 0x50005), (0x50000, 0x50005), (4, 4)])
def test_a_board_that_throttles_measures_nothing(measured, throttled):
    result = measured(throttled=throttled)
    assert (result.verdict, result.exit_code) == ("INVALID", 3)
    assert "throttled" in result.reason


@pytest.mark.parametrize("throttled", [(None, None), (0, 0), (0x50000, 0x50000)])
def test_what_happened_before_the_runs_does_not_count(measured, throttled):
    assert measured(throttled=throttled).verdict == "PASS"


def test_a_given_limit_replaces_the_bundles(measured):
    result = measured(peak_ram_mib=51.0)
    assert result.budget[1].limit == 51.0
    assert (result.verdict, result.exit_code) == ("PASS", 0)


def test_a_miss_says_by_how_much(measured):
    result = measured(peak_ram_mib=40.0)
    assert (result.verdict, result.exit_code) == ("FAIL", 1)
    assert result.reason == "peak_ram_mib is 50, over its limit of 40 by 25%"


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
