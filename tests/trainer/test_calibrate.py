"""Calibration on the host: packs that a board runs, results that are read, a profile kept whole."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.calibration_support import ABOUT, CALL_US, floor_us, law_us, measured

from edgedistill import calibrate as calibration
from edgedistill import profiles
from edgedistill.calibrate import folder as packs_folder
from edgedistill.calibrate import packs as packing
from edgedistill.calibrate import pieces, saving
from edgedistill.cli import main
from edgedistill.cost import fitting, latency, memory
from edgedistill.cost.graph import kernels_of
from edgedistill.errors import SettingsError
from edgedistill.profiles import DeviceProfile
from edgedistill.progress import Silent
from edgedistill_runtime import bundle, modelcheck, preprocess
from edgedistill_runtime import calibrate as runtime
from edgedistill_runtime.model import Model

COUNT = 40
BASE_MIB, PREDICT_US = 48.0, 33.0
COLD_MS = (150.0, 8.0, 0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small folder of packs, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return packs_folder.prepare(Silent(), count=COUNT)


@pytest.fixture(scope="module")
def known(folder):
    return packs_folder.known(folder)


@pytest.fixture
def quick(folder, monkeypatch):
    """The small folder instead of the whole one, and few trees."""
    monkeypatch.setattr(packs_folder, "prepare", lambda progress: folder)
    monkeypatch.setattr(fitting, "ROUNDS", 5)


@pytest.fixture
def results(folder, known, tmp_path):
    """Write what a made-up board would have measured, with changes; returns the file."""

    def results(changes=None, slower=1.0, leave_out=0, path=tmp_path / "results.jsonl"):
        index = runtime.read_index(folder)
        about = ABOUT | {"packs": index.digest, "emulated": False} | (changes or {})
        rng = np.random.default_rng(4)
        rows = [about]
        rows += [{"kind": "step", "name": s["name"], "floor_us": 5.0} for s in pieces.steps()]
        rows += [{"kind": "call", "name": "call", "floor_us": 50.0, "inside_us": 50 - PREDICT_US}]
        for turn in range(2):
            for pack in index.packs[leave_out:]:
                each = known[pack.name]
                noise = np.exp(0.01 * rng.standard_normal(len(each.kernels)))
                own = slower * np.array([law_us(k) for k in each.kernels]) * noise
                seen = own + 1.5 + 0.3 * np.array(each.inputs)
                nodes = [[k.op, us] for k, us in zip(each.kernels, seen.tolist(), strict=True)]
                row = {"kind": "pack", "name": pack.name, "pass": turn, "nodes": nodes}
                row |= {"floor_us": slower * CALL_US + float(own.sum())}
                if pack.jitter:
                    row["jitter"] = {"50": 1.1, "95": 1.5, "99": 3.0}
                if pack.memory and not turn:
                    row["memory"] = process(each)
                rows.append(row)
        rows.append({"kind": "end", "state": {}})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return results


def process(each):
    """Peak memory and cold start of a made-up process."""
    mib = memory.weight_bytes(each.kernels, each.precision) / 2**20
    peak = memory.network_mib(each.kernels, each.precision, memory.DEFAULT)
    start = COLD_MS[0] + COLD_MS[1] * mib + COLD_MS[2] * len(each.kernels)
    return {"peak_mib": peak + BASE_MIB - memory.DEFAULT.base_mib, "cold_start_ms": start}


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one sentence with which `edgedistill ARGUMENTS` exits 2, after its stages."""

    def refused(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgedistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert (stop.value.code, out) == (2, ""), err
        *stages, last = err.splitlines()
        assert last.startswith("edgedistill: ")
        assert all(" s  " in line for line in stages if line), err
        return last

    return refused


def tree():
    """Every file of the user's profiles, with its bytes."""
    return {p.name: p.read_bytes() for p in sorted(profiles.user_folder().glob("*"))}


def calibrated(results, name="mine", profile="host", **changes):
    return calibration.from_results(name, results(**changes), profile=profile)


def rows_of(name="mine"):
    return {row.key()[1:]: row for row in DeviceProfile.load(name).rates}


def priced(kernels, name="mine", threads=1):
    (found,) = latency.estimate_all([kernels], DeviceProfile.load(name), "float32", threads)
    return found


# Packs


def test_a_seed_is_always_the_same_packs(folder):
    again = {pack.name: pack for pack in packing.packs(18)}
    listed = {pack.name: pack for pack in runtime.read_index(folder).packs}
    for name, pack in again.items():
        assert (folder / f"{name}.onnx").read_bytes() == pack.model
        assert listed[name].length == pack.length
    assert next(packing.packs(1, seed=1)).model != again["000-separable-float32"].model


def test_styles_and_precisions_take_turns_as_packs_are_made():
    combinations = {(style, p) for style in packing.STYLES for p in ("float32", "int8")}
    made = [(p.style, p.precision) for p in packing.packs(len(combinations))]
    assert set(made) == combinations


def kinds(names):
    """Style and precision of packs."""
    return [name.split("-", 1)[1] for name in names]


def test_the_order_lists_every_pack_once_the_telling_ones_first(folder, known):
    packs = runtime.read_index(folder).packs
    assert sorted(pack.name for pack in packs) == sorted(known)
    assert len(known) == COUNT
    names = list(known)
    order = packs_folder.most_useful_first(list(known.values()), kinds(names))
    assert sorted(order) == list(range(COUNT))
    assert [pack.name for pack in packs] == [names[place] for place in order]
    every = set(kinds(names))
    assert set(kinds([pack.name for pack in packs][: len(every)])) == every


def test_a_beginning_of_the_order_covers_more_than_one_drawn_at_random(known):
    found = list(known.values())
    order = packs_folder.most_useful_first(found, [""] * len(found))

    def cells(places):
        return len(set().union(*(packs_folder._cells(found[p].kernels) for p in places)))

    drawn = [cells(random.Random(n).sample(range(COUNT), 10)) for n in range(9)]
    assert cells(order[:10]) > sorted(drawn)[4]


@pytest.mark.parametrize("number", range(18))
def test_every_pack_is_one_that_a_board_runs(folder, known, number, monkeypatch):
    name = next(name for name in known if name.startswith(f"{number:03d}-"))
    monkeypatch.setattr(runtime, "FLOOR_SECONDS", 1e-4)
    monkeypatch.setattr(runtime, "PROFILE_SECONDS", 1e-4)
    monkeypatch.setattr(runtime, "PROFILE_RUNS", (3, 3))
    pack = next(p for p in runtime.read_index(folder).packs if p.name == name)
    data = (folder / pack.file).read_bytes()
    modelcheck.check_onnx(data)
    row = runtime.measure(data, 1, pack.length)
    each = known[name]
    assert [op for op, _ in row["nodes"]] == [k.op for k in each.kernels]
    assert len(each.inputs) == len(each.kernels)
    assert each.kernels == kernels_of(data, pack.length)
    assert each.precision == name.rpartition("-")[2]
    words = ("QLinear", "QGemm", "Integer", "DynamicQuantize")
    integer = any(word in k.op for k in each.kernels for word in words)
    assert integer == (each.precision == "int8")


def test_memory_is_measured_from_small_to_large_in_both_precisions(folder, known):
    weighed = [pack.name for pack in runtime.read_index(folder).packs if pack.memory]
    assert len(weighed) >= memory.FEWEST_NETWORKS
    assert {known[name].precision for name in weighed} == {"float32", "int8"}
    timed = [known[p.name].precision for p in runtime.read_index(folder).packs if p.jitter]
    assert sorted(timed) == ["float32", "int8"]


def test_every_step_can_be_run_and_the_call_answers(folder):
    index = runtime.read_index(folder)
    assert {s.steps[0]["op"] for s in index.steps} == set(preprocess.STEPS) - {"crop"}
    assert len({s.name for s in index.steps}) == len(index.steps)
    model = Model(bundle.read(folder / index.call))
    assert model.check_golden() < 1e-5


def test_a_folder_is_made_once_and_left_whole(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def packs(count):
        made.append(count)
        if len(made) == 1:
            raise KeyboardInterrupt
        return packing.packs(count)

    monkeypatch.setattr(packs_folder, "packs", packs)
    with pytest.raises(KeyboardInterrupt):
        packs_folder.prepare(Silent(), count=4)
    assert list((tmp_path / "edgedistill" / "calibrate").iterdir()) == []
    first = packs_folder.prepare(Silent(), count=4)
    assert packs_folder.prepare(Silent(), count=4) == first
    assert made == [4, 4]


def test_packs_to_carry_are_a_copy_without_what_the_host_knows(quick, folder, tmp_path):
    calibration.write_packs(tmp_path / "packs")
    copied = {path.name for path in (tmp_path / "packs").iterdir()}
    assert copied == {path.name for path in folder.iterdir()} - {packs_folder.KERNELS}
    with pytest.raises(SettingsError, match="is not empty"):
        calibration.write_packs(tmp_path / "packs")


# Results and what is made of them


def test_results_become_a_profile_that_prices_by_the_law(quick, results, known):
    made = calibrated(results)
    assert made.profile == profiles.user_folder() / "mine.toml"
    rates = latency.rates_of(DeviceProfile.load("mine"), "int8", 1)
    assert rates == made.rates
    errors = [
        abs(priced(k.kernels).p50_ms * 1e3 / 1.1 / floor_us(k.kernels) - 1) for k in known.values()
    ]
    assert np.median(errors) < 0.05
    assert rates.predict_us == pytest.approx(PREDICT_US)
    assert rates.jitter == {"50": 1.1, "95": 1.5, "99": 3.0}
    assert rates.memory["base_mib"] == pytest.approx(BASE_MIB)
    assert rates.cold_start_ms == pytest.approx(COLD_MS, rel=0.05)
    assert set(rates.steps) == set(preprocess.STEPS) - {"crop"}
    assert rates.about["cpu"] == "made up"
    assert {q["networks"] for q in rates.quality.values()} == {COUNT / 2}


def test_of_two_passes_the_lower_time_counts(quick, results, folder):
    path = results()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in lines:
        if row.get("pass") == 1 and row["kind"] == "pack":
            row["floor_us"] *= 3
            row["nodes"] = [[op, us * 3] for op, us in row["nodes"]]
    before = calibration.read(folder, path)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    after = calibration.read(folder, path)
    for one, other in zip(before.measured, after.measured, strict=True):
        assert one.floor_us <= other.floor_us < 1.1 * one.floor_us


def test_a_line_that_was_cut_off_and_a_line_twice_do_no_harm(quick, results, folder):
    path = results()
    whole = calibration.read(folder, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-2], lines[-2][:99]]))
    assert calibration.read(folder, path) == whole


def test_networks_measured_once_are_left_out(quick, results, folder):
    path = results()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-11]))
    assert len(calibration.read(folder, path).measured) == COUNT - 10


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"packs": "0" * 64}, "is of other packs"),
        ({"machine": "riscv64"}, "was measured on riscv64, and host is a board of"),
        ({"emulated": True}, "an emulated board, whose times mean nothing"),
        ({"kind": "pack"}, "is no result of a calibration"),
        ({"threads": 0}, "is no result of a calibration"),
        ({"engine": "tflite"}, "is no result of a calibration"),
        ({"engine_version": "1.32.0.dev1"}, "is no result of a calibration"),
        ({"date": "yesterday"}, "is no result of a calibration"),
        ({"emulated": "no"}, "is no result of a calibration"),
    ],
)
def test_results_of_something_else_are_refused_and_the_profile_stays(
    quick, results, refused, changes, sentence
):
    calibrated(results)
    before = tree()
    path = results(changes)
    said = refused("calibrate", "--results", path, "--profile", "host", "--save", "mine")
    assert sentence in said
    assert tree() == before


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"\n",
        b"notes\n",
        b"[]\n",
        b"7\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"kind": "about"}\n',
        b'{"kind": "about"',
    ],
)
def test_a_file_of_no_results_is_refused_and_the_profile_stays(
    quick, results, refused, tmp_path, data
):
    calibrated(results)
    before, path = tree(), tmp_path / "none"
    if data is not None:
        path.write_bytes(data)
    said = refused("calibrate", "--results", path, "--profile", "host", "--save", "mine")
    assert "is no result of a calibration" in said
    assert len(said) < 600
    assert tree() == before


@pytest.mark.parametrize(
    "spoilt",
    [
        {"floor_us": -3.0},
        {"floor_us": 0},
        {"floor_us": "fast"},
        {"nodes": None},
        {"nodes": [["Conv"]]},
        {"nodes": [["Conv", -1]]},
        {"nodes": [[1, 1]]},
        {"pass": 2},
        {"name": None},
        {"memory": {}},
        {"memory": {"peak_mib": -1, "cold_start_ms": 3}},
        {"jitter": {"50": 1.0}},
    ],
)
def test_a_line_that_no_board_wrote_is_refused(quick, results, refused, spoilt):
    path = results()
    first, line, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    pack = next(row for row in map(json.loads, rest) if row["kind"] == "pack")
    path.write_text(first + line + json.dumps(pack | spoilt) + "\n", encoding="utf-8")
    said = refused("calibrate", "--results", path, "--profile", "host", "--save", "mine")
    assert "is no result of a calibration" in said
    assert tree() == {}


def test_an_engine_that_builds_other_graphs_is_named(quick, results, refused):
    path = results()
    text = path.read_text(encoding="utf-8").replace('["FusedConv"', '["NhwcConv"')
    path.write_text(text.replace('["QLinearConv"', '["NhwcConv"'), encoding="utf-8")
    said = refused("calibrate", "--results", path, "--profile", "host", "--save", "mine")
    assert "builds other graphs than this machine's" in said


def test_too_few_networks_are_refused_with_what_to_do(quick, results, refused):
    path = results(leave_out=COUNT - 19)
    said = refused("calibrate", "--results", path, "--profile", "host", "--save", "mine")
    assert "19 networks were measured twice" in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rpi4", "'rpi4' is a built-in profile"),
        ("My Board", "is no name for a profile"),
        ("../up", "is no name for a profile"),
        ("", "is no name for a profile"),
        ("a" * 65, "is no name for a profile"),
    ],
)
def test_a_name_that_no_profile_of_the_users_can_have_is_refused(
    quick, results, refused, name, sentence
):
    said = refused("calibrate", "--results", results(), "--profile", "host", "--save", name)
    assert sentence in said
    assert tree() == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "local"], "--save"),
        (["--target", "pi@board", "--save", "mine"], "is not 'local'"),
        (["--results", "r", "--packs", "p"], "exclude one another"),
        (["--results", "r", "--save", "mine"], "--profile"),
        (["--results", "r", "--save", "mine", "--profile", "hots"], "did you mean 'host'?"),
        (["--save", "mine", "--max-seconds", "0"], "--max-seconds"),
    ],
)
def test_bad_usage_is_one_sentence(quick, refused, arguments, sentence):
    assert sentence in refused("calibrate", *arguments)


def test_the_command_prints_how_good_the_rates_are(quick, results, monkeypatch, capsys):
    arguments = ["--results", str(results()), "--profile", "host", "--save", "mine", "--json"]
    monkeypatch.setattr(sys, "argv", ["edgedistill", "calibrate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 0
    said = json.loads(out)
    assert said["profile"].endswith("mine.toml")
    assert said["quality"].keys() == {"float32", "int8"}
    assert f"on {COUNT // 2} networks left out of the fit: mean error" in err
    assert "next: edgedistill fit --profile mine" in err


# The profile


@pytest.fixture(scope="module")
def rates(known):
    """Of a made-up board, fitted once."""
    rng = np.random.default_rng(0)
    found = [measured(name, k.precision, k.kernels, rng) for name, k in known.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "ROUNDS", 5)
        return fitting.fit(found, ABOUT, jitter={"50": 1.0, "95": 1.5, "99": 3.0})


@pytest.fixture
def save(rates):
    """Save a profile with these rates, where every call takes `call_us` longer."""

    def save(name="mine", profile="host", call_us=0.0, **changes):
        made = msgspec.structs.replace(rates, call_us=rates.call_us + call_us, **changes)
        return saving.save(name, DeviceProfile.load(profile), made)

    return save


def test_calibrating_again_replaces_its_own_rates_and_nothing_else(save):
    first = save()
    own = {row.file for row in rows_of().values()}
    stranger = first.parent / "mine-onnxruntime-1-00000000.json"
    stranger.write_bytes(b"not ours")
    save(call_us=5e3)
    files = {row.file for row in rows_of().values()}
    assert set(tree()) == {"mine.toml", stranger.name} | files
    assert not own & files
    assert stranger.read_bytes() == b"not ours"


def test_the_same_results_again_are_the_same_profile(save):
    save()
    before = tree()
    save()
    assert tree() == before


@pytest.mark.parametrize("profile", ["host", "mine"])
def test_rates_for_other_threads_stay(save, known, profile):
    save()
    kernels = known["004-dense-float32"].kernels
    one = priced(kernels)
    save(profile=profile, threads=2)
    assert set(rows_of()) == {(n, p) for n in (1, 2) for p in ("float32", "int8")}
    assert priced(kernels) == one
    assert priced(kernels, threads=2).standing == "predicted"
    save(profile=profile, call_us=5e3)
    assert priced(kernels).p50_ms > one.p50_ms
    assert len(rows_of()) == 4
    assert len(tree()) == 3


def test_a_copy_has_rates_of_its_own(save, known):
    kernels = known["004-dense-float32"].kernels
    save()
    one = priced(kernels)
    save(name="second", profile="mine", threads=2)
    save(call_us=5e3)  # takes away the file that `mine` had
    assert priced(kernels, "second") == one
    assert priced(kernels, "mine").p50_ms > one.p50_ms


def test_a_profile_with_a_lost_file_of_rates_can_be_calibrated_again(save, known):
    save()
    for row in rows_of().values():
        (profiles.user_folder() / row.file).unlink(missing_ok=True)
    kernels = known["004-dense-float32"].kernels
    with pytest.raises(SettingsError, match="cannot be read"):
        priced(kernels)
    save(profile="mine")
    assert priced(kernels).standing == "predicted"


def test_the_profile_names_the_engine_that_was_measured(save, known):
    save(engine_version="1.27.3")
    made = DeviceProfile.load("mine")
    assert made.engine("onnx").version == "1.27.3"
    assert priced(known["004-dense-float32"].kernels).standing == "predicted"


def test_what_a_user_wrote_into_a_profile_stays(quick, results, refused, save):
    path = profiles.user_folder() / "mine.toml"
    path.parent.mkdir(parents=True)
    host = Path(DeviceProfile.load("host").path).read_text(encoding="utf-8")
    own = host.replace("latency_ms = 20", "latency_ms = 7 # mine")
    path.write_text(own, encoding="utf-8")
    said = refused("calibrate", "--results", results(), "--profile", "host", "--save", "mine")
    assert "is not a copy of host; give --profile mine" in said
    assert path.read_text(encoding="utf-8") == own
    save(profile="mine")
    assert path.read_text(encoding="utf-8").startswith(own)
    assert DeviceProfile.load("mine").budget.latency_ms == 7
    assert len(rows_of()) == 2


def test_rates_that_a_user_wrote_by_hand_are_not_doubled(save):
    save()
    path = profiles.user_folder() / "mine.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(saving.MARK, "# by hand"), encoding="utf-8")
    save(profile="mine", call_us=5e3)
    assert len(rows_of()) == 2


class Killed(BaseException):
    """Stands for a process that ends there."""


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_of_writing_leaves_the_old_profile_or_the_new(
    save, known, monkeypatch, moment
):
    kernels = known["004-dense-float32"].kernels
    save()
    save(threads=2)
    old = priced(kernels)
    left = moment

    def counted(call):
        def count(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return call(*arguments, **options)

        return count

    with monkeypatch.context() as patch:
        for what in ("fsync", "replace", "unlink"):
            patch.setattr(f"os.{what}", counted(getattr(os, what)))
        try:
            save(call_us=5e3)
            ended = True
        except Killed:
            ended = False
    now, two = priced(kernels), priced(kernels, threads=2)
    assert now.standing == two.standing == "predicted"
    assert now == old or now.p50_ms == pytest.approx(old.p50_ms + 5)
    if ended:
        assert now != old
    save(call_us=5e3)  # and again, to the end
    assert priced(kernels).p50_ms == pytest.approx(old.p50_ms + 5)


def test_a_failure_between_the_two_files_leaves_the_old_profile(save, known, monkeypatch):
    save()
    before, kernels = tree(), known["004-dense-float32"].kernels
    old, written = priced(kernels), []

    def failing(path, data):
        written.append(path)
        if path.suffix == ".toml":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(saving, "write_atomically", failing)
    with pytest.raises(OSError, match="No space left"):
        save(call_us=5e3)
    assert len(written) == 2
    assert before.items() <= tree().items()
    assert priced(kernels) == old


# This machine


@pytest.fixture
def here(monkeypatch):
    """A calibration of this machine, with what its process does replaced."""

    def here(said="", code=0, act=lambda results: None):
        def run(folder, results, threads, *rest):
            results.parent.mkdir(parents=True, exist_ok=True)
            act(results)
            if code:
                raise SettingsError(said)

        monkeypatch.setattr(calibration, "_run_here", run)

    return here


def test_an_interrupted_calibration_of_this_machine_goes_on(quick, here, results):
    def part(path):
        results(path=path, leave_out=COUNT - 10)

    here(act=part)
    with pytest.raises(SettingsError, match="10 networks were measured twice"):
        calibration.calibrate("mine")
    (kept,) = (packs_folder.user_cache() / "calibrate").iterdir()
    seen = []

    def rest(path):
        seen.append(path.exists())
        results(path=path)

    here(act=rest)
    calibration.calibrate("mine")
    assert seen == [True]
    assert not kept.exists()
    here(act=part)
    with pytest.raises(SettingsError):
        calibration.calibrate("mine")
    here(act=rest)
    calibration.calibrate("mine", fresh=True)
    assert seen == [True, False]


def test_a_name_is_refused_before_anything_is_measured(quick, here):
    here(act=lambda path: pytest.fail("measured"))
    with pytest.raises(SettingsError, match="built-in"):
        calibration.calibrate("rpi4")


@pytest.mark.slow
def test_this_machine_is_calibrated_by_the_runtimes_own_command(
    quick, folder, monkeypatch, refused, tmp_path
):
    made = calibration.calibrate("mine", max_seconds=300, allow_busy=True)
    assert made.seconds_measuring > 1
    assert made.rates.about["settings"] == runtime.SETTINGS
    assert DeviceProfile.load("mine").rates
    assert 1 <= made.rates.bound < 3
    # what the command refuses reaches the user as it was said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "edgedistill" / "calibrate" / "mine-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("notes\n", encoding="utf-8")
    said = refused("calibrate", "--save", "mine", "--allow-busy")
    assert said == (f"edgedistill: {path} is not the results of a calibration; give another file")
