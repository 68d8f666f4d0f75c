"""Finalists measured on a target: what is measured decides, whatever was predicted."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.trainer import test_boards

from edgedistill import budget, report
from edgedistill.boards import agent
from edgedistill.cli import main
from edgedistill.errors import SettingsError
from edgedistill.pipeline import fit, plan
from edgedistill.profiles import DeviceProfile
from edgedistill.recipe import Recipe
from edgedistill.search import FEWEST, measured_plan
from edgedistill.search.ranking import CLASS_STEP, capacity_class
from edgedistill.target import Line, Measurement, Timing

bare, sshd, reach = test_boards.bare, test_boards.sshd, test_boards.reach  # a real server
SEED = 17
MOST_MEASURED = 30
MARGIN = 1.7
"""Between what surely fits and its limit: three standard deviations of the scatter."""
PROFILE = """
[board]
name = "a board that is not what it says"
soc = "unknown"
arch = "native"
models = ["Testboard"]
[[cluster]]
core = "core"
count = 1
mhz = {mhz}
[[os]]
name = "this system"
arch = "native"
engines = [{{ name = "onnxruntime", version = "1.32.0" }}]
[budget]
latency_ms = 20
peak_ram_mib = 512
[sources]
"cluster.count" = "made up"
"cluster.mhz" = "made up"
"""
SLOW_MHZ, FAST_MHZ = 5, 300_000
"""Clocks from which predictions follow that are much too long, and much too short."""
RECIPE = """
size_mib = 0.09375
min_retention = 0.1
student = "convnet"
spec = { block = "dense", width = 16, growth = 1.0, stages = 1, depth = 1 }
calibrate = false
[training]
epochs = 2
trial_epochs = 1
views = [1]
alpha = [0.5]
gate = [false]
[teacher_training]
epochs = 2
views = 1
"""


def measurement(latency_ms, peak_ram_mib=50.0, **changes):
    timing = Timing(latency_ms, latency_ms, latency_ms, latency_ms, 100)
    made = Measurement(
        "PASS", "no limits were given", (), "measured elsewhere", None, "onnxruntime 1.32.0",
        False, timing, peak_ram_mib, None, (), {},
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Bench:
    """A board whose latencies are the predicted ones times a factor, and some scatter."""

    def __init__(self, factor, scatter=0.2):
        self.factor, self.scatter = factor, scatter
        self.asked = []

    def truth_ms(self, candidate):
        key = f"{SEED} {candidate.family} {candidate.spec} {candidate.precision}"
        spread = random.Random(key).lognormvariate(0, self.scatter)
        return self.factor(candidate) * candidate.latency.p50_ms * spread

    def __call__(self, candidate):
        self.asked.append((candidate.family, candidate.spec, candidate.precision))
        found = measurement(self.truth_ms(candidate))
        exported_mib = candidate.costs["size_mib"]
        return dataclasses.replace(candidate, measured=found, exported_mib=exported_mib)


def planned(**options):
    return plan(Recipe.build(None, {"profile": "rpi4", "size_mib": 0.2} | options))


FACTORS = {
    "right": lambda c: 1.0,
    "10 times too fast": lambda c: 10.0,
    "10 times too slow": lambda c: 0.1,
    "int8 is slower": lambda c: 10.0 if c.precision == "int8" else 1.0,
    "one family is slower": lambda c: 20.0 if c.family == "convnet" else 1.0,
    "large ones are slower": lambda c: (c.macs / 1e5) ** 0.5,
}


# What is measured decides


@pytest.mark.parametrize("limit_ms", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("wrong", FACTORS)
def test_what_is_measured_decides_and_little_is_measured(wrong, limit_ms):
    found = planned(latency_ms=limit_ms)
    bench = Bench(FACTORS[wrong])
    made = measured_plan(found, bench)
    assert max(Counter(bench.asked).values()) == 1
    assert len(bench.asked) <= MOST_MEASURED
    surely = [
        c
        for c in found.space
        if MARGIN * bench.truth_ms(c) <= limit_ms and not _too_large(c, found)
    ]
    for candidate in made.fitting:
        assert candidate.measured.latency_ms.p50 == bench.truth_ms(candidate) <= limit_ms
    assert {c.spec for c in made.fitting} <= {spec for _, spec, _ in bench.asked}
    if surely:
        best = max(c.expected for c in surely)
        assert made.fitting[0].expected >= best / CLASS_STEP**2


def _too_large(candidate, found):
    return bool({"size_mib", "peak_ram_mib"} & set(candidate.over(found.budget)))


def test_a_wrong_prediction_neither_keeps_out_what_fits_nor_lets_in_what_does_not():
    strict = planned(latency_ms=0.2)
    assert not strict.fitting
    assert measured_plan(strict, Bench(FACTORS["10 times too slow"])).fitting
    roomy = planned(latency_ms=2)
    first = roomy.fitting[0]
    bench = Bench(lambda c: 100.0)
    made = measured_plan(roomy, bench)
    assert bench.truth_ms(first) > 2
    assert first.spec not in [c.spec for c in made.fitting]


def test_of_two_precisions_that_learn_as_much_the_faster_measured_one_ships():
    options = {"latency_ms": 50, "size_mib": 10, "student": "convnet"}
    specs = {}
    for candidate in planned(**options).space:
        specs.setdefault(candidate.spec, []).append(capacity_class(candidate.expected))
    alike = next(spec for spec, classes in specs.items() if len(set(classes)) == 1)
    for slower, faster in (("int8", "float32"), ("float32", "int8")):
        bench = Bench(lambda c, slower=slower: 5.0 if c.precision == slower else 0.5, scatter=0)
        made = measured_plan(planned(**options, spec=dataclasses.asdict(alike)), bench)
        assert {precision for _, _, precision in bench.asked} == {"float32", "int8"}
        assert [c.precision for c in made.fitting] == [faster, slower]


def test_where_nothing_measured_fits_the_sentence_says_so():
    made = measured_plan(planned(latency_ms=1), Bench(lambda c: 1e5))
    assert not made.fitting
    assert made.measured
    assert made.binding == "latency_ms"
    assert "(measured)" in made.infeasible()
    assert "\n" not in made.infeasible()


def test_a_limit_that_no_measurement_changes_is_told_without_any():
    found = planned(size_mib=0.0001)
    bench = Bench(FACTORS["right"])
    assert measured_plan(found, bench) is found
    assert bench.asked == []


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_when_the_time_is_up_nothing_more_is_measured(rounds):
    left = iter(range(rounds))
    bench = Bench(FACTORS["right"])
    made = measured_plan(planned(), bench, 8, lambda: next(left, None) is not None)
    assert len(bench.asked) == 1 + rounds
    assert len(made.measured) == 1 + rounds


def test_the_finalists_are_of_every_family_and_no_near_twins():
    bench = Bench(FACTORS["right"], scatter=0)
    made = measured_plan(planned(latency_ms=50, size_mib=10), bench)
    assert {c.family for c in made.fitting} == {"convnet", "vit"}
    assert len({(c.family, c.spec) for c in made.fitting}) >= FEWEST


# The budget's lines


def test_the_budgets_lines_are_those_of_the_target():
    lines = (Line("latency_ms p95", 2.0, 3.0, "verified", False),)
    there = measurement(3.0, verdict="FAIL", reason="too slow", budget=lines)
    limit = budget.Limit("latency_ms", 2.0, 1.0, "predicted", True)
    size = budget.Limit("size_mib", 1.0, 0.5, "verified", True)
    made = [report.measured(each, there) for each in (limit, size)]
    assert made == [budget.Limit("latency_ms", 2.0, 3.0, "verified", False), size]
    assert report.verdict(made, there)[0] == "over budget"
    invalid = msgspec.structs.replace(there, verdict="INVALID", reason="it throttled")
    made = [report.measured(each, invalid) for each in (limit, size)]
    assert made[0].ok is None
    assert report.verdict(made, invalid) == ("invalid", "it throttled")
    result = report.FitResult(Path("x"), {"verdict": "invalid"}, tuple(made))
    assert result.exit_code == 3


# Targets


@pytest.fixture
def profile(tmp_path):
    def write(mhz):
        path = tmp_path / "testboard.toml"
        path.write_text(PROFILE.format(mhz=mhz), encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """`edgedistill fit RECIPE --profile … ARGUMENTS` here: exit code, stdout, stderr."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")

    def run(profile, *arguments, out="out"):
        words = ["--profile", str(profile), "--out", str(tmp_path / out), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", ["edgedistill", "fit", str(recipe), *words])
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code, *capfd.readouterr())

    return run


SSH = f"""#!{sys.executable} -I
import os, subprocess, sys
environment, cut = {{environment!r}}, {{cut!r}}
child = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, env=environment)
sent = 0
while data := os.read(0, 1024):
    if cut is not None and sent + len(data) > cut:
        child.stdin.close()
        os._exit(255)
    sent += len(data)
    child.stdin.write(data)
    child.stdin.flush()
child.stdin.close()
sys.exit(child.wait())
"""
PRETEND = """
from pathlib import Path
from edgedistill_runtime import telemetry
telemetry.ROOT = Path({root!r})
"""


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A board behind a made-up `ssh`, which says of itself what stands below a folder.

    cut: bytes after which the connection drops.
    """
    home, programs, root = (tmp_path / name for name in ("home", "programs", "root"))
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    environment = test_boards.environment(home, test_boards.READY)
    (home / "sitecustomize.py").write_text(PRETEND.format(root=str(root)), encoding="utf-8")
    environment["PYTHONPATH"] = str(home)

    def board(says=None, cut=None):
        for path, text in (says or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        ssh = programs / "ssh"
        ssh.write_text(SSH.format(environment=environment, cut=cut), encoding="utf-8")
        ssh.chmod(0o755)
        return "ssh://pi@board"

    return board


QUICK = ("--target-seconds", 20, "--json")


@pytest.mark.slow
def test_a_second_plan_measures_nothing_again(run, profile, tmp_path):
    path = profile(SLOW_MHZ)
    options = ("--plan", "--latency-ms", 40, "--percentile", 50, "--json")
    code, out, err = run(path, *options)
    assert code == 1, err  # so it is predicted
    code, out, err = run(path, *options, "--target", "local", "--target-seconds", 20)
    assert code == 0, err
    made = json.loads(out.splitlines()[-1])
    assert made["measured"]
    for row in made["candidates"]:
        there = row["measured"]
        assert there["latency_ms"]["at_percentile"] == there["latency_ms"]["p50"] <= 40
        assert row["predicted"]["latency_ms"]["bound"] > 40
        assert (there["standing"], there["engine"]) == ("measured elsewhere", "onnxruntime 1.32.0")
        assert there["date"].endswith("Z")
    assert "of them fit\n" in err
    code, again, err = run(path, *options, "--target", "local", "--target-seconds", 20)
    assert (code, again) == (0, out), err
    assert not (tmp_path / "out/model.edge").exists()


def test_a_board_that_is_lost_keeps_what_was_measured(run, profile, board, tmp_path):
    path = profile(FAST_MHZ)
    options = ("--plan", "--latency-ms", 40, "--percentile", 50, *QUICK)
    sizes = test_boards.AGENT_BYTES + 14_000
    code, _, err = run(path, *options, "--target", board(cut=sizes))
    assert code == 2
    assert err.splitlines()[-1].startswith("edgedistill: the connection to ssh://pi@board was lost")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/work").glob("measured-*.json")}
    contents = {p: p.read_bytes() for p in kept}
    assert kept
    code, out, err = run(path, *options, "--target", board())
    assert code == 0, err
    assert len(json.loads(out.splitlines()[-1])["measured"]) > len(kept)
    assert {p: p.read_bytes() for p in kept} == contents


REFUSED = {
    "throttled": (
        {"sys/devices/platform/soc/soc:firmware/get_throttled": "4\n"},
        "the board throttled or lacked voltage during the runs (throttled)",
    ),
    "emulated": (
        {"etc/edgedistill-emulated": ""},
        "is an emulated board, whose times mean nothing",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_board_whose_times_mean_nothing_is_refused_in_a_sentence(run, profile, board, why):
    says, sentence = REFUSED[why]
    code, _, err = run(profile(FAST_MHZ), "--plan", *QUICK, "--target", board(says))
    assert code == 2
    assert sentence in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("edgedistill: ssh://pi@board")
    assert "Traceback" not in err


def test_an_emulated_machine_is_no_target(run, profile, monkeypatch, tmp_path):
    monkeypatch.setattr(agent, "EMULATED", str(profile(FAST_MHZ)))
    code, _, err = run(profile(FAST_MHZ), "--target", "local")
    assert code == 2
    assert "this machine is an emulated board, whose times mean nothing" in err
    assert not (tmp_path / "out/model.edge").exists()


def test_a_board_of_another_architecture_is_refused(run):
    other = "rpi4" if agent.facts([])["machine"] == "x86_64" else "n100"
    code, _, err = run(other, "--plan", "--target", "local")
    assert code == 2
    assert f"and {other} is a board of" in err
    assert "give the right one with --profile" in err


@pytest.mark.parametrize("text", ["garden", "ssh://-x", "Local", "ssh://a b"])
def test_a_target_that_is_none_is_refused_before_anything_is_done(text, tmp_path):
    with pytest.raises(SettingsError, match=r"is not 'local'|is no host"):
        fit(profile="host", target=text, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_only_a_target_uses_is_refused_without_one():
    with pytest.raises(SettingsError, match="give target too"):
        Recipe.build(None, {"profile": "host", "target_seconds": 9})
    for target in ("", "local"):
        with pytest.raises(SettingsError, match="wheels is for a board"):
            Recipe.build(None, {"profile": "host", "wheels": "wheels", "target": target})


def test_where_it_is_measured_is_no_part_of_what_is_made():
    one, other = (
        Recipe.build(None, {"profile": "host", "target": target, "target_seconds": seconds})
        for target, seconds in (("", None), ("local", 9))
    )
    assert one.unplaced == other.unplaced


def test_another_engine_is_named_where_it_would_fit(tmp_path):
    import numpy as np

    x = np.random.default_rng(SEED).integers(0, 255, (40, 48, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=x, y=np.arange(40) % 4)
    options = {"data": str(tmp_path / "noise.npz"), "student": "convnet", "spec": {"width": 64}}
    options |= {"profile": "rpi4", "size_mib": 10, "latency_ms": 20}
    found = plan(Recipe.build(None, options))
    assert not found.fitting
    another = DeviceProfile.load("rpi4").engine("tflite")
    assert f"--backend tflite ({another.name} {another.version})" in found.infeasible()
    assert plan(Recipe.build(None, options | {"backend": "tflite"})).fitting


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_fit_on_a_board_of_a_real_server_is_judged_by_what_the_board_says(run, profile, request):
    board = request.getfixturevalue("reach")("ready")
    path, limit = profile(SLOW_MHZ), ("--latency-ms", 100)
    code, _, err = run(path, *limit)
    assert code == 1, err
    code, out, err = run(path, *limit, "--target", board.url, *QUICK)
    assert code == 0, err
    made = json.loads(out)
    standings = {row["name"]: row["standing"] for row in made["budget"]}
    assert standings["latency_ms"] == standings["peak_ram_mib"] == "measured elsewhere"
    assert made["target"]["target"] == board.url
    assert made["target"]["bench"]["verdict"] == "PASS"
    specs = [row["spec"] for row in made["target"]["finalists"]]
    assert made["student"]["spec"] in specs
    assert made["precision_reason"] == f"by the latencies measured on {board.url}"
    assert (board.left_over(), board.wheels) == ([], [])


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_board_that_is_lost_at_the_end_keeps_the_bundle_and_is_gone_on_with(
    run, profile, board, tmp_path
):
    path, options = profile(FAST_MHZ), ("--latency-ms", 100, *QUICK)
    code, _, err = run(path, *options, "--plan", "--target", board())
    assert code == 0, err
    bundle = tmp_path / "out/model.edge"
    lost = board({"proc/device-tree/model": "Testboard 1"}, cut=test_boards.AGENT_BYTES + 4000)
    code, _, err = run(path, *options, "--target", lost)
    assert code == 2
    said = err.splitlines()[-1]
    assert said.startswith("edgedistill: the connection to ssh://pi@board was lost")
    assert f"{bundle} is packed" in said
    packed = bundle.read_bytes()
    code, out, err = run(path, *options, "--target", board())
    assert code == 0, err
    assert bundle.read_bytes() == packed
    made = json.loads(out)
    assert made["seconds"]["distil"] < 5
    assert {row["name"]: row["standing"] for row in made["budget"]}["latency_ms"] == "verified"
    assert made["target"]["bench"]["board"] == "Testboard 1"
    code, out, err = run(path, "--latency-ms", 100, "--json")
    assert code == 0, err
    assert json.loads(out)["target"] is None
    assert bundle.read_bytes() == packed
