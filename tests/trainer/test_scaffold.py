"""`edgedistill init`: what it finds in somebody's data, and that its recipe is one for `fit`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import kinds

from edgedistill import cli, pipeline
from edgedistill.errors import SettingsError
from edgedistill.pipeline import plan
from edgedistill.profiles import DeviceProfile
from edgedistill.recipe import Recipe

SEED = 20_261_124


def arrays(path, shape, dtype, **more):
    random = np.random.default_rng(SEED)
    x = random.normal(0, 90, (60, *shape))
    x = np.abs(x).clip(0, 255) if dtype == np.uint8 else x
    np.savez(path, x=x.astype(dtype), y=np.arange(60) % 3, **more)


def images(path, sizes, classes=("cat", "dog"), count=20):
    random = np.random.default_rng(SEED)
    for i in range(count):
        for label in classes:
            width, height = sizes[i % len(sizes)]
            file = Path(path) / label / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(file)


def texts(path, names="text,label,user", words=6):
    filler = " ".join(f"word{i}" for i in range(words - 2))
    lines = [names]
    lines += [f"{filler} number {i},{'good' if i % 3 else 'bad'},u{i % 9}" for i in range(90)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def recordings(folder, steps=96):
    random = np.random.default_rng(SEED)
    for i in range(40):
        file = Path(folder) / ("walk", "rest")[i % 2] / f"{i}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = random.normal(0, 1, (steps, 2))
        lines = ["ax,ay", *(f"{a:.3f},{b:.3f}" for a, b in rows)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


DATA = {
    "photos": lambda: images("photos", [(40, 30), (90, 60), (30, 30)]),
    "sounds": lambda: kinds.folder_of_sounds(Path("sounds"), 30),
    "recordings": lambda: recordings("recordings"),
    "readings.csv": lambda: kinds.table_of_readings(Path("readings.csv")),
    "texts.csv": lambda: texts("texts.csv"),
    "images.npz": lambda: arrays("images.npz", (12, 8, 3), np.uint8),
    "sound.npz": lambda: arrays("sound.npz", (4000,), np.int16, rate=8000),
    "sensors.npz": lambda: arrays("sensors.npz", (3, 48), np.float32),
    "digits": lambda: None,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def init(monkeypatch, capsys):
    """`edgedistill init` in this process -> (exit code, stdout, stderr)."""

    def init(*words):
        monkeypatch.setattr(sys, "argv", ["edgedistill", "init", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return init


@pytest.fixture
def recipe(init):
    """The recipe that is written for some data, as TOML and as text."""

    def recipe(*words):
        code, _, error = init(*words, "--force")
        assert code == 0, error
        text = Path("recipe.toml").read_text(encoding="utf-8")
        return tomllib.loads(text), text

    return recipe


@pytest.fixture
def refusal(init):
    def refusal(*words):
        code, out, error = init(*words)
        assert (code, out) == (2, "")
        (line,) = error.splitlines()
        return line

    return refusal


@pytest.mark.parametrize("source", DATA)
def test_the_recipe_is_one_that_fit_can_start_with(init, source):
    DATA[source]()
    code, out, error = init(source)
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith(f"{source}: ")
    assert lines[-1] == "wrote recipe.toml; next: edgedistill fit recipe.toml"
    made = Recipe.load("recipe.toml")
    assert (made.profile, made.data, made.teacher) == ("rpi4", source, "auto")
    assert plan(made).require()
    written = Path("recipe.toml").read_text(encoding="utf-8")
    assert max(map(len, written.splitlines())) <= 100


@pytest.mark.parametrize("source", DATA)
def test_what_is_off_can_be_switched_on(recipe, source):
    DATA[source]()
    _, text = recipe(source)
    on = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert on != text
    Path("on.toml").write_text(on, encoding="utf-8")
    Recipe.load("on.toml")


def test_images_of_several_sizes_get_one_size(recipe):
    images("photos", [(640, 480), (30, 20)])
    table, text = recipe("photos")
    assert (table["image_size"], table["image_fit"]) == (64, "crop")
    assert "your 40 images are 30×20 to 640×480; larger keeps more detail" in text
    assert "40 images of 2 classes: cat (20), dog (20)" in text


def test_small_images_of_one_size_keep_it_and_large_ones_do_not(recipe):
    images("small", [(32, 24)])
    images("large", [(300, 300)], count=8)
    assert "image_size" not in recipe("small")[0]
    table, text = recipe("large")
    assert table["image_size"] == 64
    assert "your 16 images are 300×300" in text


def test_sound_keeps_the_rate_of_its_files_up_to_16_khz(recipe):
    kinds.folder_of_sounds(Path("sounds"), 30)
    table, text = recipe("sounds")
    assert (table["sample_rate_hz"], table["window_s"]) == (8000, 0.5)
    assert "your recordings have 8,000 Hz" in text
    for i in range(16):
        sound = kinds.tone(i % 2, np.random.default_rng(i), 5)
        kinds.write_wav(Path("music") / "ab"[i % 2] / f"{i}.wav", sound, 44_100)
    assert recipe("music")[0]["sample_rate_hz"] == 16_000
    arrays("sound.npz", (4000,), np.int16, rate=8000)
    assert recipe("sound.npz")[0]["sample_rate_hz"] == 8000


def test_a_limit_that_no_student_keeps_is_replaced_by_one_that_some_keep(recipe):
    arrays("readings.npz", (6, 200), np.float32)
    path = Path(DeviceProfile.load("rpi4").path)
    tight = re.sub(r"(?m)^latency_ms = .*$", "latency_ms = 0.1", path.read_text(encoding="utf-8"))
    Path("tight.toml").write_text(tight, encoding="utf-8")
    table, text = recipe("readings.npz", "--profile", "tight.toml")
    assert table["latency_ms"] > 0.1
    assert "and the nearest student for these data is estimated to need" in " ".join(
        text.replace("\n# ", " ").split()
    )
    assert plan(Recipe.load("recipe.toml")).require()


def test_columns_of_readings_are_found(recipe):
    kinds.table_of_readings(Path("readings.csv"))
    table, _ = recipe("readings.csv")
    assert (table["label_column"], table["group_column"]) == ("activity", "subject")
    assert (table["window"], table["hop"]) == (64, 32)  # its recordings have 96 steps


def test_columns_that_are_named_are_taken(recipe):
    texts("t.csv", names="what,which,user")
    table, text = recipe("t.csv", "--text-column", "what", "--label-column", "which")
    assert (table["text_column"], table["label_column"]) == ("what", "which")
    assert '# group_column = "user"' in text
    table, _ = recipe(
        "t.csv", "--text-column", "what", "--group-column", "user", "--label-column", "which"
    )
    assert table["group_column"] == "user"


def test_columns_of_texts_are_found_and_long_texts_get_more_tokens(recipe):
    texts("short.csv")
    table, text = recipe("short.csv")
    assert (table["text_column"], table["label_column"]) == ("text", "label")
    assert (table["student"], table["max_length"]) == ("transformer", 64)
    assert "95% of yours have at most 6" in text
    texts("long.csv", words=80)
    assert recipe("long.csv")[0]["max_length"] == 128


def test_uneven_classes_are_worth_a_word(recipe):
    images("photos", [(20, 20)])
    for i in range(100):
        Image.new("RGB", (20, 20), (i, i, 200)).save(f"photos/cat/more{i}.png")
    _, text = recipe("photos")
    assert '# class_weights = "balanced"' in text
    assert "the largest class has 6 times the samples of the smallest" in text


def test_a_recipe_that_is_there_stays_unless_forced(init, refusal):
    Path("recipe.toml").write_text("mine", encoding="utf-8")
    assert "recipe.toml: exists already" in refusal("digits")
    assert Path("recipe.toml").read_text(encoding="utf-8") == "mine"
    assert init("digits", "--force")[0] == 0
    assert Recipe.load("recipe.toml").data == "digits"


def test_the_recipe_can_go_elsewhere_and_its_paths_stay(init):
    arrays("a b.npz", (12, 8, 3), np.uint8)
    Path("made").mkdir()
    code, out, _ = init("./a b.npz", "--out", "made/my recipe.toml", "--profile", "rpi5")
    assert code == 0
    assert out.splitlines()[-1].endswith("next: edgedistill fit 'made/my recipe.toml'")
    made = Recipe.load("made/my recipe.toml")
    assert (made.data, made.profile) == ("./a b.npz", "rpi5")
    assert plan(made).require()


def test_names_of_any_script_and_with_quotes_stay_as_they_are(recipe):
    images('my "pets" \\ 🐕', [(20, 20)], classes=("猫 = 1", "пёс # x"))
    table, text = recipe('my "pets" \\ 🐕')
    assert table["data"] == 'my "pets" \\ 🐕'
    assert "猫 = 1 (20)" in text


def test_without_data_it_says_what_data_may_be(init):
    code, out, error = init()
    assert (code, out) == (2, "")
    assert 4 <= len(error.splitlines()) <= 10
    for form in ("photos/", "texts.csv", "readings.csv", "arrays.npz", ".wav", "digits"):
        assert form in error
    assert not Path("recipe.toml").exists()


def test_data_that_fit_would_refuse_are_refused(refusal):
    assert "no data set named 'digts'; did you mean 'digits'?" in refusal("digts")
    images("few", [(20, 20)], count=3)
    assert "the class 'cat' has 3 samples; at least 8 are needed" in refusal("few")
    images("bad", [(20, 20)])
    Path("bad/cat/0.png").write_bytes(b"no image")
    assert f"{Path('bad/cat/0.png')}: not a readable image" in refusal("bad")
    kinds.folder_of_sounds(Path("sounds"), 30)
    Path("sounds/low/0.wav").write_bytes(b"no sound")
    assert f"{Path('sounds/low/0.wav')}: not a WAV file" in refusal("sounds")
    Path("empty").mkdir()
    assert "empty: " in refusal("empty")
    assert not Path("recipe.toml").exists()


def test_a_profile_without_an_engine_is_refused(refusal):
    assert "coral-dev has no engine for ONNX bundles" in refusal("digits", "--profile", "coral-dev")
    assert "no device profile named 'rpi44'" in refusal("digits", "--profile", "rpi44")


@pytest.mark.parametrize("source", ["photos", "texts.csv"])
def test_torch_is_not_imported(source, folder):
    DATA[source]()
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'onnx' in sys.modules))\n"
        "from edgedistill.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "init", source],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CONFIG_HOME": str(folder)},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.fixture
def fit(monkeypatch, capsys):
    """`edgedistill fit` with options -> the recipe that it plans for, or its sentence."""

    def fit(*words):
        asked = []

        def planned(recipe):
            asked.append(recipe)
            raise SettingsError("planned")

        monkeypatch.setattr(pipeline, "plan", planned)
        command = ["edgedistill", "fit", "--profile", "rpi4", "--plan", *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            cli.main()
        return asked[0] if asked else capsys.readouterr().err

    return fit


def test_fit_takes_every_key_of_how_files_become_samples_and_answers(fit):
    given = {
        "image_fit": "pad",
        "image_colours": "grey",
        "sample_rate_hz": 8000,
        "window_s": 1.5,
        "hop_s": 0.5,
        "mel_bands": 32,
        "window": 64,
        "hop": 16,
        "unknown": 0.98,
        "top_k": 3,
    }
    words = [w for key, value in given.items() for w in (f"--{key.replace('_', '-')}", str(value))]
    recipe = fit(*words, "--no-calibrate")
    assert {key: getattr(recipe, key) for key in given} == given
    assert recipe.calibrate is False
    assert fit().calibrate is True


def test_fit_takes_a_side_or_height_and_width_of_images(fit):
    assert fit("--image-size", "96").image_size == 96
    assert fit("--image-size", "48x64").image_size == (48, 64)
    assert "'4x5x6' is no size; give a side (64) or HEIGHTxWIDTH" in fit("--image-size", "4x5x6")
    assert "image_size is 2; a side has 4 to 1024 pixels" in fit("--image-size", "2")
