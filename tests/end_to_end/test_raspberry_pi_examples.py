"""The programs for the Raspberry Pi, on recorded sound, pictures and readings: no hardware."""

from __future__ import annotations

import importlib.util
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import wave
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ROOT
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import KINDS, RATE_HZ, WINDOW, answers, kind_parts, run_cli
from tests.runtime.zip_bytes import zip_bytes

from edgedistill_runtime import arrays, cli, preprocess, service

EXAMPLES = ROOT / "examples" / "raspberry_pi"
SEED = 5


def linear_bundle(path, kind, labels, samples, targets, shape=None):
    """A bundle of one of `KINDS` that knows the labels: least squares on what its steps make.

    shape: of the samples, where the bundle takes no other.
    """
    steps = tuple(step for step in KINDS[kind][1] if shape is None or step["op"] != "resize")
    features = preprocess.build(steps)(samples)
    columns = np.c_[features.reshape(len(samples), -1), np.ones(len(samples))]
    wanted = 8.0 * np.eye(len(labels))[targets]
    ridge = 1e-3 * len(samples) * np.eye(columns.shape[1])
    found = np.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted)
    nodes = [
        ox.node("Reshape", ["sample", "shape"], "flat"),
        ox.node("MatMul", ["flat", "weight"], "product"),
        ox.node("Add", ["product", "bias"], "logits"),
    ]
    weights = [
        ox.ints("shape", (2,), (1, 64)),
        ox.floats("weight", (64, len(labels)), found[:-1].ravel()),
        ox.floats("bias", (len(labels),), found[-1]),
    ]
    inputs = [ox.value("sample", (1, *features.shape[1:]))]
    outputs = [ox.value("logits", (1, len(labels)))]
    model = ox.model(ox.graph(nodes, weights, inputs, outputs))
    golden = samples[:4]
    files = {
        "model.onnx": model,
        "golden_inputs.npy": arrays.encode(golden),
        "golden_outputs.npy": arrays.encode(answers(model, golden, steps)),
    }
    changes = {
        "labels": list(labels),
        "inputs.0.name": "sample",
        "outputs.0.shape": [1, len(labels)],
        "preprocess": list(steps),
    }
    if shape is not None:
        changes["sample"] = asdict(KINDS[kind][0]) | {"shape": list(shape)}
    path.write_bytes(zip_bytes(kind_parts(kind).changed(changes, files).entries()))
    return path


def sound(rng, hz, seconds):
    """A tone in noise, or noise alone (0 Hz).  (seconds · RATE_HZ,), int16"""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = 6000 * np.sin(2 * np.pi * (hz * time + rng.uniform())) if hz else 0
    return (tone + rng.normal(0, 60, len(time))).astype(np.int16)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A bundle that hears two words, here tones, and silence."""
    rng, hz = np.random.default_rng(SEED), (500, 2500, 0)
    windows = np.stack([sound(rng, f, WINDOW / RATE_HZ) for f in hz for _ in range(40)])
    path = tmp_path_factory.mktemp("words") / "words.edge"
    return linear_bundle(
        path, "audio", ("low", "high", "silence"), windows, np.repeat(range(3), 40)
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """low … high … high, each of 0.4 s, in silence.  A WAV file with a header of 44 bytes."""
    rng = np.random.default_rng(SEED + 1)
    parts = [(0, 0.7), (500, 0.4), (0, 0.9), (2500, 0.4), (0, 0.9), (2500, 0.4), (0, 0.7)]
    path = tmp_path_factory.mktemp("recording") / "said.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.concatenate([sound(rng, *part) for part in parts]).tobytes())
    return path


def shaking(rng, scale, steps):
    """Readings of eight channels.  (steps, 8)"""
    return rng.normal(0, scale, (steps, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A bundle that tells a tilted sensor from a level one."""
    rng = np.random.default_rng(SEED)
    level = np.stack([shaking(rng, 0.2, 8).T for _ in range(80)])
    level[40:] += 2
    path = tmp_path_factory.mktemp("machine") / "machine.edge"
    return linear_bundle(path, "sensor", ("level", "tilted"), level, np.repeat(range(2), 40))


def picture(rng, grey, height=60, width=80):
    """(height, width), uint8."""
    return np.clip(rng.normal(grey, 8, (height, width)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["any size", "one size"])
def day(request, tmp_path_factory):
    """A bundle that tells day from night: of pictures of any size, and of 8×8 pixels alone."""
    rng = np.random.default_rng(SEED)
    samples = np.stack([picture(rng, grey, 8, 8) for grey in (40, 210) for _ in range(40)])
    path = tmp_path_factory.mktemp("day") / "day.edge"
    shape = None if request.param == "any size" else (8, 8, 1)
    return linear_bundle(
        path, "any_size", ("night", "day"), samples[..., None], np.repeat(range(2), 40), shape
    )


@pytest.fixture
def jpeg(tmp_path):
    rng = np.random.default_rng(SEED + 2)

    def write(name, grey):
        Image.fromarray(np.repeat(picture(rng, grey)[..., None], 3, -1)).save(tmp_path / name)
        return shlex.quote(str(tmp_path / name))

    return write


@pytest.fixture
def program(monkeypatch, capsys):
    """Run one of the programs here, or give its module where there are no arguments."""

    def run(name, *arguments, stdin=""):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # where dataclasses look for their names
        spec.loader.exec_module(module)
        if not arguments:
            return module
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        module.main()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def refusal(program, capsys):
    """What a program says that cannot do what is asked."""

    def run(name, *arguments):
        with pytest.raises(SystemExit) as stop:
            program(name, *arguments)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


def labels(lines):
    return [json.loads(line)["label"] for line in lines]


# --- keywords


def test_each_spoken_word_is_one_line(program, words, recording):
    predicted = run_cli("predict", words, recording)
    assert len(predicted.rows) > 40  # a word is in several windows
    heard = program("keywords", "--ignore", "silence", stdin=predicted.out)
    assert labels(heard) == ["low", "high", "high"]
    assert all(json.loads(line)["score"] > 0.6 for line in heard)


def scores(*values):
    return [{"scores": {"yes": value, "no": 0.1}} for value in values]


def test_one_sure_window_is_no_word_and_two_half_sure_ones_are(program):
    spot = program("keywords").spot
    assert list(spot(scores(0, 0, 0.9, 0, 0), smooth=2, threshold=0.6, pause=0)) == []
    (word,) = spot(scores(0, 0.7, 0.7, 0), smooth=2, threshold=0.6, pause=0)
    assert word == {"label": "yes", "score": pytest.approx(0.7)}


def test_a_word_is_not_heard_twice_within_the_pause(program):
    spot = program("keywords").spot
    long = scores(*[0.9] * 10)
    assert len(list(spot(long, smooth=1, threshold=0.6, pause=9))) == 1
    assert len(list(spot(long, smooth=1, threshold=0.6, pause=4))) == 2
    assert list(spot(long, smooth=1, threshold=0.6, pause=4, ignore=["yes"])) == []


def test_what_is_no_answer_is_passed_over_and_errors_are_told(program, capsys):
    module = program("keywords")
    lines = ["Started edgedistill-keywords.service\n", "[1]\n", '{"id": "x", "error": "too short"}']
    assert list(module.answers([*lines, json.dumps(scores(0.9)[0])])) == scores(0.9)
    assert capsys.readouterr().err == "too short\n"


@pytest.mark.parametrize(("name", "option"), [("keywords", "--smooth"), ("motion", "--agree")])
def test_no_windows_at_all_are_refused(program, capsys, name, option):
    with pytest.raises(SystemExit) as stop:
        program(name, option, "0")
    assert stop.value.code == 2
    assert f"{option} is at least 1" in capsys.readouterr().err


def test_the_readmes_pipe_switches_on_at_the_word(words, recording):
    """`predict` with a microphone's command, here one that plays a recording, to the pin."""
    source = f"tail -c +45 {shlex.quote(str(recording))}"
    stages = [
        [*RUN, "predict", words, "--source-cmd", source, "--when-late", "wait"],
        [sys.executable, EXAMPLES / "keywords.py", "--ignore", "silence"],
        [sys.executable, EXAMPLES / "react.py", "--label", "high", "--hold-s", "60"],
    ]
    command = " | ".join(shlex.join(map(str, stage)) for stage in stages)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\noff\n", "")


RUN = (sys.executable, "-m", "edgedistill_runtime")


# --- motion


def test_a_recorded_change_is_told_once(program, machine, tmp_path):
    rng = np.random.default_rng(SEED + 3)
    readings = shaking(rng, 0.2, 240)
    readings[80:160] += 2
    path = tmp_path / "recorded.csv"
    header = ",".join("abcdefgh")
    np.savetxt(path, readings, delimiter=",", header=header, comments="")
    predicted = run_cli("predict", machine, path)
    changes = [json.loads(line) for line in program("motion", "--agree", 2, stdin=predicted.out)]
    assert [c["label"] for c in changes] == ["level", "tilted", "level"]
    assert [c["before"] for c in changes] == [None, "level", "tilted"]


def test_a_single_window_that_differs_is_no_change(program):
    rows = [{"label": label, "score": 0.9} for label in "aaabaabbba"]
    found = list(program("motion").changes(rows, agree=3))
    assert [(c["before"], c["label"]) for c in found] == [(None, "a"), ("a", "b")]


# --- the kernel's sensors


@pytest.fixture
def device(tmp_path):
    """What the kernel shows of an accelerometer."""
    folder = tmp_path / "iio:device0"
    folder.mkdir()
    files = {"accel_x_raw": 150, "accel_y_raw": -50, "accel_scale": 0.01, "accel_x_offset": 50}
    files |= {"temp_raw": 340, "temp_scale": 0.1}
    for name, value in files.items():
        (folder / f"in_{name}").write_text(f"{value}\n", encoding="ascii")
    return folder


def test_raw_readings_become_units(program, device):
    said = program(
        "iio", device, "--channels", "accel_x,accel_y,temp", "--rate-hz", 1000, "--steps", 2
    )
    assert said == ["accel_x,accel_y,temp", "2,-0.5,34", "2,-0.5,34"]


def test_predict_takes_the_readings_as_they_come(machine, device):
    """150 + 50 at 0.01 is 2 m/s²: tilted."""
    channels = ",".join(["accel_x"] * 8)
    words = [sys.executable, EXAMPLES / "iio.py", device, "--channels", channels]
    source = shlex.join(map(str, [*words, "--rate-hz", 1000, "--steps", 12]))
    said = run_cli("predict", machine, "--source-cmd", source, "--when-late", "wait")
    assert (said.code, said.err) == (0, "")
    assert [row["label"] for row in said.rows] == ["tilted", "tilted"]


def test_a_channel_that_is_not_there_is_named_with_those_that_are(refusal, device):
    said = refusal("iio", device, "--channels", "anglvel_x", "--rate-hz", 10)
    assert said.endswith("has no channel anglvel_x; it has accel_x, accel_y, temp")
    said = refusal("iio", device / "no", "--channels", "anglvel_x", "--rate-hz", 10)
    assert "list the devices: ls" in said


def test_a_sensor_that_falls_behind_ends_it(program, monkeypatch):
    module = program("iio")
    monkeypatch.setattr(module, "LATE_S", 0.0)
    with pytest.raises(module.SensorError, match="too slow for 1e\\+09 readings a second"):
        list(module.steps([lambda: 0.0], 1e9))


# --- the camera


@pytest.mark.parametrize(("grey", "label"), [(40, "night"), (210, "day")])
def test_the_commands_pictures_are_classified(program, day, jpeg, grey, label):
    command = f"cat {jpeg('now.jpg', grey)}"
    said = program("camera", day, "--command", command, "--every-s", 0, "--count", 2)
    assert labels(said) == [label, label]


def test_a_damaged_picture_is_an_error_and_not_the_end(program, day, jpeg):
    command = f"head -c 300 {jpeg('now.jpg', 40)}"
    said = program("camera", day, "--command", command, "--every-s", 0, "--count", 2)
    assert len(said) == 2
    assert all("not a readable image" in json.loads(line)["error"] for line in said)


def test_a_frame_is_cut_in_its_middle(program, day):
    """Where the bundle takes one size alone; else it cuts itself."""
    from edgedistill_runtime import load

    frame = np.full((480, 640, 3), 230, np.uint8)
    frame[:, 80:560] = 40
    assert program("camera").classify(load(day), frame)["label"] == "night"


def test_what_a_camera_lacks_is_one_sentence(refusal, day, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "picamera2", None)
    assert "picamera2" in refusal("camera", day, "--count", 1)
    assert "No such file" in refusal("camera", day, "--command", "no-such-camera", "--count", 1)
    assert "non-zero exit status 1" in refusal("camera", day, "--command", "false", "--count", 1)
    assert "takes no images" in refusal("camera", words, "--command", "true", "--count", 1)
    assert "missing.edge" in refusal("camera", "missing.edge", "--command", "true")


# --- the pin


@pytest.fixture
def reaction(program):
    """A reaction, and the list of what it switched."""
    before = signal.getsignal(signal.SIGALRM)
    switched = []

    def make(*labels, **options):
        return program("react").Reaction(switched.append, list(labels), **options), switched

    yield make
    signal.signal(signal.SIGALRM, before)


def line(label, score=0.9):
    return json.dumps({"label": label, "score": score})


def test_the_pin_follows_the_label(reaction):
    watching, switched = reaction("cat", "dog", threshold=0.8)
    watching.follow([line("fox"), line("cat"), line("dog"), line("dog", 0.7), line("cat")])
    assert switched == ["on", "off", "on", "off"]  # at the end too


def test_lines_that_are_no_answers_change_nothing(reaction):
    watching, switched = reaction("cat")
    for bad in ("", "Stopped.", "[]", '{"error": "x"}', '{"label": "cat"}', line("cat", None)):
        watching.hear(bad)
    assert switched == []
    watching.hear(line("cat"))
    watching.hear("Stopped.")
    assert switched == ["on"]


def test_the_pin_goes_off_in_time_although_no_line_comes(reaction):
    watching, switched = reaction("yes", hold_s=0.02)
    off = threading.Event()

    def switch(state):
        switched.append(state)
        if state == "off":
            off.set()

    def lines():
        yield line("yes")
        assert off.wait(30)
        yield line("no")
        assert switched == ["on", "off"]

    watching.switch = switch
    watching.follow(lines())
    assert switched == ["on", "off"]


def test_with_a_time_to_hold_another_label_is_no_reason(reaction):
    watching, switched = reaction("yes", hold_s=60)
    for label in ("yes", "no", "yes"):
        watching.hear(line(label))
    assert switched == ["on"]
    watching.follow([])
    assert switched == ["on", "off"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_nothing_stays_on_after_sigterm():
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "react.py", "--label", "yes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        running.stdin.write(line("yes") + "\n")
        running.stdin.flush()
        assert running.stdout.readline() == "on\n"
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=60)[0] == "off\n"
    assert running.returncode == 0


def test_without_gpiozero_a_pin_is_refused(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    said = refusal("react", "--label", "yes", "--pin", 17)
    assert "gpiozero" in said
    assert "without --pin it only prints" in said


@pytest.mark.parametrize("active_low", [False, True])
def test_gpiozeros_pins_are_switched(program, monkeypatch, active_low):
    gpiozero = pytest.importorskip("gpiozero", reason="gpiozero is not installed")
    from gpiozero.pins.mock import MockFactory

    monkeypatch.setattr(gpiozero.Device, "pin_factory", MockFactory())
    switch = program("react").gpio(17, active_low)
    pin = gpiozero.Device.pin_factory.pin(17)
    levels = [pin.state]
    for state in ("on", "off"):
        switch(state)
        levels.append(pin.state)
    assert [bool(level) for level in levels] == [active_low, not active_low, active_low]


# --- as a service

SOURCE = "arecord -q -t raw -f S16_LE -r 16000 -c 1"


def test_the_unit_is_the_one_that_service_prints(monkeypatch, tmp_path):
    """As for user pi, with the environment ~/edge and a budget of 128 MiB."""
    home = Path("/home/pi")
    arguments = ["--source-cmd", SOURCE]
    with cli.predict.make_context("predict", ["keywords", *arguments]):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", f"{home}/edge/bin/python")
        patch.setattr(sys, "prefix", f"{home}/edge")
        patch.setattr(sys, "base_prefix", "/usr")
        package = home / "edge/lib/python3.13/site-packages/edgedistill_runtime/__init__.py"
        patch.setattr(service.edgedistill_runtime, "__file__", str(package))
        patch.setattr(service, "_is_group", lambda name: True)
        state = home / ".local/state/edgedistill"
        unit = service.unit("keywords", arguments, state, 128, 16)
    now = tmp_path / "edgedistill-keywords.service"
    now.write_text(unit, encoding="utf-8")
    example = (EXAMPLES / now.name).read_text(encoding="utf-8")
    assert example == unit, f"if the change is wanted, take {now}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_finds_nothing_wrong_with_the_lamps_unit():
    path = EXAMPLES / "keywords-lamp.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert [said for said in done.stderr.splitlines() if path.name in said] == []


def test_the_lamps_unit_runs_programs_that_are_here():
    unit = (EXAMPLES / "keywords-lamp.service").read_text(encoding="utf-8")
    (command,) = [w for w in unit.splitlines() if w.startswith("ExecStart=")]
    shell = shlex.split(command.removeprefix("ExecStart="))[-1]
    programs = [Path(word) for word in shlex.split(shell) if word.endswith(".py")]
    assert [p.name for p in programs] == ["keywords.py", "react.py"]
    assert all((EXAMPLES / p.name).exists() for p in programs)
    assert "-u edgedistill-keywords " in shell
