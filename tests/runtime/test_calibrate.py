"""`edgedistill-run calibrate`: it can be stopped at any moment, and refuses what would mislead."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.runtime.runtime_support import DATA, environment, tiny_manifest

from edgedistill_runtime import bundle, calibrate, telemetry
from edgedistill_runtime.errors import EngineError, InputError

NAMES = [f"{i}-{model}" for i in range(3) for model in ("tiny", "tiny_int8")]
TURNS = {(name, turn) for name in NAMES for turn in range(2)}
QUICK = {"FLOOR_SECONDS": 1e-4, "PROFILE_SECONDS": 1e-4, "PROFILE_RUNS": (3, 3), "JITTER_RUNS": 9}


@pytest.fixture
def quick(monkeypatch):
    """Next to no time for each network, on a board that is quiet."""
    for name, value in QUICK.items():
        monkeypatch.setattr(calibrate, name, value)
    monkeypatch.setattr(telemetry, "busy_processors", lambda: 0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six networks, two steps, and a call, as a host ships them."""
    folder = tmp_path_factory.mktemp("made") / "packs"
    folder.mkdir()
    rows = []
    for name in NAMES:
        data = (DATA / f"{name.partition('-')[2]}.onnx").read_bytes()
        (folder / f"{name}.onnx").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        rows.append({"name": name, "file": f"{name}.onnx", "sha256": digest, "jitter": True})
    steps = [
        {"name": f"first {i}", "steps": [{"op": "channels_first"}]}
        | {"dtype": "float32", "shape": [8, 8, i]}
        for i in (1, 3)
    ]
    bundle.write(folder / "call.edge", *tiny_manifest("tiny"))
    index = {"format": 1, "packs": rows, "steps": steps, "call": "call.edge"}
    (folder / "packs.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.fixture
def packs(made, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "packs"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results.jsonl"


@pytest.fixture
def counted(monkeypatch):
    """How many networks were measured."""
    calls, measured = [], calibrate._measured

    def count(folder, pack, turn, threads):
        calls.append((pack.name, turn))
        return measured(folder, pack, turn, threads)

    monkeypatch.setattr(calibrate, "_measured", count)
    return calls


def rows(path, kind=None):
    """Its lines, every one of which must be whole."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    return found if kind is None else [row for row in found if row["kind"] == kind]


def turns(path):
    return [(row["name"], row["pass"]) for row in rows(path, "pack")]


def change(packs, **changes):
    """Other values in the first network's row of the index, or in the index itself."""
    index = json.loads((packs / "packs.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        (index if key in index else index["packs"][0])[key] = value
    (packs / "packs.json").write_text(json.dumps(index), encoding="utf-8")


# What is measured


def test_every_network_is_measured_twice_and_every_node_timed(made, out, quick):
    assert calibrate.calibrate(made, out) == len(NAMES)
    assert sorted(turns(out)) == sorted(TURNS)
    for row in rows(out, "pack"):
        assert row["floor_us"] > 0
        assert row["load_us"] > 0
        assert row["nodes"]
        assert all(isinstance(op, str) and us >= 0 for op, us in row["nodes"])
        assert 1 <= row["jitter"]["50"] <= row["jitter"]["95"] <= row["jitter"]["99"]
    of_each = {row["name"]: [op for op, _ in row["nodes"]] for row in rows(out, "pack")}
    assert "QLinearConv" in of_each["0-tiny_int8"]
    assert "QLinearConv" not in of_each["0-tiny"]


def test_the_first_line_says_what_was_measured_with(made, out, quick):
    calibrate.calibrate(made, out, threads=2)
    about = rows(out)[0]
    assert (about["kind"], about["threads"], about["engine"]) == ("about", 2, "onnxruntime")
    assert about["packs"] == calibrate.read_index(made).digest
    assert {"engine_version", "machine", "date", "emulated", "state"} <= about.keys()
    assert rows(out)[-1]["kind"] == "end"


def test_steps_and_the_call_are_timed_once(made, out, quick):
    calibrate.calibrate(made, out)
    assert {row["name"]: row["floor_us"] > 0 for row in rows(out, "step")} == {
        "first 1": True,
        "first 3": True,
    }
    (call,) = rows(out, "call")
    assert call["inside_us"] > 0
    assert call["floor_us"] > 0


def test_memory_is_that_of_a_process_of_its_own(made, packs, out, quick):
    change(packs, memory=True)
    calibrate.calibrate(packs, out)
    measured = [row for row in rows(out, "pack") if "memory" in row]
    assert [(row["name"], row["pass"]) for row in measured] == [(NAMES[0], 0)]
    assert 20 < measured[0]["memory"]["peak_mib"] < 500
    assert measured[0]["memory"]["cold_start_ms"] > 1


def test_the_first_pass_of_a_stretch_comes_before_its_second():
    packs = [calibrate.Pack(str(i), "", "") for i in range(200)]
    order = [(pack.name, turn) for turn, pack in calibrate._turns(packs)]
    assert Counter(order) == Counter((pack.name, turn) for pack in packs for turn in range(2))
    half = calibrate.STRETCH // 2
    beginning = {str(i) for i in range(half)}
    assert {name for name, turn in order[:half]} == beginning
    assert {turn for _, turn in order[:half]} == {0}
    assert {name for name, turn in order[half : 2 * half]} == beginning
    assert [name for name, _ in order[:half]] != [name for name, _ in order[half : 2 * half]]
    for place, (name, turn) in enumerate(order):  # both passes are near
        assert turn == 0 or place - order.index((name, 0)) < 2 * calibrate.STRETCH


# Interrupted


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The results of a calibration that was not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "results.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setattr(calibrate, name, value)
        patch.setattr(telemetry, "busy_processors", lambda: 0.0)
        calibrate.calibrate(made, path)
    return path.read_bytes()


def cuts(data):
    """Places to cut a file: around the ends of lines, and anywhere."""
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    near = [end + by for end in ends[::6] for by in (-1, 0, 1)]
    places = {0, 1, 10, *near, *random.Random(5).sample(range(len(data)), 8)}
    return sorted(place for place in places if place < len(data))


def test_cut_off_anywhere_it_goes_on_and_ends_whole(made, out, whole, quick, counted):
    for place in cuts(whole):
        out.write_bytes(whole[:place])
        kept = whole[: whole[:place].rfind(b"\n") + 1]
        had = {(r["name"], r["pass"]) for r in map(json.loads, kept.splitlines()) if "pass" in r}
        counted.clear()
        assert calibrate.calibrate(made, out) == len(NAMES)
        assert out.read_bytes().startswith(kept), place
        assert sorted(turns(out)) == sorted(TURNS), place
        assert set(counted) == TURNS - had, place
        assert len(rows(out, "call")) == 1
        assert len(rows(out, "step")) == 2
        assert len(rows(out, "about")) == 1


def test_a_killed_process_goes_on_where_it_was(made, out, quick, counted):
    script = (
        "import sys; from pathlib import Path; from edgedistill_runtime import calibrate, telemetry"
        f"\nfor name, value in {QUICK!r}.items(): setattr(calibrate, name, value)"
        "\ntelemetry.busy_processors = lambda: 0.0"
        "\ncalibrate.calibrate(Path(sys.argv[1]), Path(sys.argv[2]),"
        " progress=lambda *done: print(*done, flush=True))"
    )
    for measured in (1, 3, 6, 11):
        command = [sys.executable, "-c", script, str(made), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
            for line in process.stdout:
                if int(line.split()[0]) == measured:
                    process.kill()
                    break
    before = out.read_bytes()
    had = {
        (row["name"], row["pass"])
        for row in map(json.loads, before[: before.rfind(b"\n") + 1].splitlines())
        if row["kind"] == "pack"
    }
    assert len(had) >= 11
    assert calibrate.calibrate(made, out) == len(NAMES)
    assert set(counted) == TURNS - had
    assert sorted(turns(out)) == sorted(TURNS)


def test_a_finished_one_started_again_measures_nothing(made, out, whole, quick, counted):
    out.write_bytes(whole)
    assert calibrate.calibrate(made, out) == len(NAMES)
    assert counted == []


def test_time_that_runs_out_ends_it_and_the_next_start_goes_on(made, out, quick, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(calibrate.time, "monotonic", lambda: now[0])
    measured = calibrate._measured

    def slow(*arguments):
        now[0] += 10
        return measured(*arguments)

    monkeypatch.setattr(calibrate, "_measured", slow)
    said = []
    assert calibrate.calibrate(made, out, max_seconds=35, progress=lambda *a: said.append(a)) == 0
    assert len(turns(out)) == 4  # begun at 0, 10, 20 and 30 seconds
    assert rows(out)[-1]["kind"] == "end"
    assert said[0] == (0, len(TURNS), 0.0)
    calibrate.calibrate(made, out, max_seconds=35)
    assert len(turns(out)) == 8
    assert calibrate.calibrate(made, out, max_seconds=1000) == len(NAMES)
    assert sorted(turns(out)) == sorted(TURNS)


def test_each_line_is_on_the_disk_before_the_next_network(made, out, quick, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))
    calibrate.calibrate(made, out)
    assert len(synced) == len(rows(out)) + 1  # and the folder, once


# Refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threads": 2}, "measured with 2 thread"),
        ({"packs": "0" * 64}, "measured with other packs"),
        ({"engine_version": "1.0.0"}, "measured with onnxruntime 1.0.0"),
        ({"machine": "pdp11"}, "measured with a processor of pdp11"),
        ({"board": "Toaster"}, "measured with the board 'Toaster'"),
        ({"kind": "pack"}, "is not the results of a calibration"),
    ],
)
def test_results_of_another_calibration_stay_as_they_are(made, out, whole, quick, change, sentence):
    first, rest = whole.split(b"\n", 1)
    data = json.dumps(json.loads(first) | change).encode() + b"\n" + rest
    out.write_bytes(data)
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        calibrate.calibrate(made, out)
    assert out.read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"my notes\n",
        b"my notes",
        b"123\n",
        b'{"kind": "pack"',
        b"[]\n[]\n",
        b"\xff\x00\n" * 3,
        b'{"kind": "about", not JSON\n{}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_file_that_is_something_else_is_refused_untouched(made, out, quick, data):
    out.write_bytes(data)
    with pytest.raises(InputError, match="is not the results of a calibration"):
        calibrate.calibrate(made, out)
    assert out.read_bytes() == data


def test_a_line_damaged_in_the_middle_is_refused_untouched(made, out, whole, quick):
    lines = whole.splitlines(keepends=True)
    lines[3] = b"\0" * 40 + b"\n"
    out.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match="is not the results"):
        calibrate.calibrate(made, out)
    assert out.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no readable packs.json"),
        ("{", "no readable packs.json"),
        ("[]", "no readable packs.json"),
        ("[" * 100_000, "no readable packs.json"),
        ('{"format": 1}', "no readable packs.json"),
        ('{"format": 2, "packs": [], "steps": [], "call": ""}', "has format 2"),
        ('{"format": 1, "packs": [], "steps": [], "call": ""}', "no readable packs.json"),
        ('{"format": 1, "packs": [7], "steps": [], "call": ""}', "no readable packs.json"),
    ],
)
def test_a_folder_without_a_good_index_is_refused(packs, out, run, text, sentence):
    (packs / "packs.json").unlink()
    if text is not None:
        (packs / "packs.json").write_text(text, encoding="utf-8")
    said = run("calibrate", packs, "--out", out)
    assert said.code == 2
    assert sentence in said.sentence()
    assert not out.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 5},
        {"file": None},
        {"length": 0},
        {"length": "long"},
        {"length": 1.5},
        {"memory": "yes"},
        {"call": 3},
        {"steps": [{"name": "a", "steps": [], "dtype": "float128", "shape": [1]}]},
        {"steps": [{"name": "a", "steps": [], "dtype": "uint8", "shape": [-1]}]},
        {"steps": [{"name": "a", "steps": [], "dtype": "text", "shape": [], "files": [1]}]},
    ],
)
def test_a_value_that_an_index_cannot_have_is_refused(packs, out, run, changes):
    change(packs, **changes)
    said = run("calibrate", packs, "--out", out)
    assert said.code == 2
    assert "no readable packs.json" in said.sentence()


def test_keys_that_a_later_version_adds_are_passed_over(packs):
    known = calibrate.read_index(packs)
    change(packs, colour="blue")
    assert calibrate.read_index(packs) == known


@pytest.mark.parametrize("what", ["altered", "missing", "call", "step"])
def test_a_folder_with_altered_files_is_refused(packs, out, run, quick, what):
    file = packs / f"{NAMES[0]}.onnx"
    if what == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    elif what == "missing":
        file.unlink()
    elif what == "call":
        (packs / "call.edge").write_bytes(b"PK nothing")
    else:
        change(
            packs, steps=[{"name": "a", "steps": [{"op": "fly"}], "dtype": "uint8", "shape": []}]
        )
    said = run("calibrate", packs, "--out", out)
    assert said.code == 2
    assert said.sentence()
    sentence = {"altered": "is not the file that packs.json lists", "missing": "No such file"}
    assert sentence.get(what, "") in said.sentence()


def test_the_order_of_an_index_does_not_make_other_packs_of_it(made):
    index = calibrate.read_index(made)
    turned = dataclasses.replace(index, packs=index.packs[::-1])
    fewer = dataclasses.replace(index, packs=index.packs[1:])
    assert turned.digest == index.digest != fewer.digest


def test_a_throttled_board_is_not_calibrated(made, out, run, quick, monkeypatch):
    monkeypatch.setattr(telemetry, "throttled_bits", lambda: 0x50004)
    said = run("calibrate", made, "--out", out, "--allow-busy")
    assert said.code == 2
    assert "throttled" in said.sentence()
    assert not out.exists()


def test_one_that_was_throttled_since_boot_and_is_not_now_is(made, out, run, quick, monkeypatch):
    monkeypatch.setattr(telemetry, "throttled_bits", lambda: 0x50000)
    assert run("calibrate", made, "--out", out).code == 0


def test_what_was_measured_while_the_board_became_throttled_is_not_kept(
    made, out, quick, counted, monkeypatch
):
    monkeypatch.setattr(telemetry, "throttled_bits", lambda: 4 if len(counted) == 3 else 0)
    with pytest.raises(EngineError, match="throttled"):
        calibrate.calibrate(made, out)
    assert len(turns(out)) == 2
    counted[:] = [None] * 10
    assert calibrate.calibrate(made, out) == len(NAMES)
    assert sorted(turns(out)) == sorted(TURNS)


def test_a_busy_board_is_not_calibrated_unless_that_is_asked_for(
    made, out, run, quick, monkeypatch
):
    monkeypatch.setattr(telemetry, "busy_processors", lambda: 0.8)
    said = run("calibrate", made, "--out", out)
    assert said.code == 2
    assert "other programs use 0.8 processors" in said.sentence()
    assert not out.exists()
    assert run("calibrate", made, "--out", out, "--allow-busy").code == 0
    assert sorted(turns(out)) == sorted(TURNS)


def test_a_board_without_the_engine_is_told_how_to_install_it(made, out, run, quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = run("calibrate", made, "--out", out)
    assert said.code == 2
    assert "pip install 'edgedistill-runtime[onnx]'" in said.sentence()


@pytest.mark.parametrize("path", ["missing/results.jsonl", "."])
def test_results_that_cannot_be_written_are_one_sentence(made, tmp_path, run, quick, path):
    said = run("calibrate", made, "--out", tmp_path / path)
    assert said.code == 2
    assert said.sentence()


def test_the_command_says_how_many_and_what_comes_next(made, out, run, quick):
    said = run("calibrate", made, "--out", out)
    assert said.code == 0
    assert f"{len(NAMES)} networks measured" in said.err
    assert "edgedistill calibrate --results" in said.err
