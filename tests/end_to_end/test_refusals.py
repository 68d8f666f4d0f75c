"""What cannot be done is said in one sentence, with the right exit code, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import forked, opinions
from tests.conftest import run_fit

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("refusals")]


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr that is not progress."""
    assert "Traceback" not in done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("edgedistill: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_an_impossible_budget_names_what_binds_and_what_would_fit(
    tmp_path: Path, cache: Path
) -> None:
    forked.server()  # what Python takes to import is not in it
    start = time.monotonic()
    done = run_fit(tmp_path / "out", cache, "--latency-ms", "0.0001", check=False)
    assert done.returncode == 1
    assert time.monotonic() - start < 15
    text = sentence(done)
    assert "latency_ms p95 binds" in text
    assert re.search(r"needs [\d.]+ ms \(estimated\), [\d.e+]+ times the limit of 0.0001", text)
    assert not (tmp_path / "out").exists()
    nearest = re.search(r"the nearest budget that fits: --latency-ms ([\d.]+)$", text)
    assert nearest
    fits = run_fit(tmp_path / "out", cache, "--plan", "--latency-ms", nearest[1])
    assert json.loads(fits.stdout)["candidates"]


def test_a_plan_lists_candidates_and_what_binds_and_trains_nothing(
    tmp_path: Path, cache: Path
) -> None:
    done = run_fit(tmp_path / "out", cache, "--plan")
    plan = json.loads(done.stdout.splitlines()[-1])
    assert len(plan["candidates"]) >= 200
    assert plan["binding"] == "size_mib"
    assert {"family", "spec", "precision", "predicted"} <= plan["candidates"][0].keys()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "rpi44"], "no device profile named 'rpi44'; did you mean 'rpi4'?"),
        (["--profile", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--student", "convet"], "no student family named 'convet'; did you mean 'convnet'?"),
        (["--data", "digit"], "no data set named 'digit'; did you mean 'digits'?"),
        (["--data", "missing.npz"], "missing.npz: cannot be read"),
        (["--precision", "int9"], "precision is 'int9'; expected one of: auto, float16, "),
        (["--latency-ms", "-1"], "latency_ms is -1.0; expected float > 0"),
        (["--latency-ms", "soon"], "'soon' is not a valid float"),
        (["--percentile", "96"], "percentile is 96; expected one of: 50, 95, 99"),
        (["--profile", "coral-dev"], "coral-dev has no engine"),
        (["--profile", "stm32mp157", "--backend", "onnx"], "stm32mp157 has no engine for onnx"),
        (["--backend", "tensorrt"], "backend is 'tensorrt'; expected one of: auto, onnx, tflite"),
        (["--latancy-ms", "3"], "Did you mean '--latency-ms'?"),
        (["missing.toml"], "missing.toml: cannot be read"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    options: list[str], words: str, tmp_path: Path, cache: Path
) -> None:
    done = run_fit(tmp_path / "out", cache, *options, check=False)
    assert done.returncode == 2
    assert words in sentence(done)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_key_in_a_recipe_is_named(tmp_path: Path, cache: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nepocs = 3\n", encoding="utf-8")
    done = run_fit(tmp_path / "out", cache, str(recipe), check=False)
    assert done.returncode == 2
    assert "unknown key 'training.epocs'; did you mean 'training.epochs'?" in sentence(done)


def test_another_recipes_folder_is_refused_and_keeps_what_it_holds(
    short_recipe: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "out"
    run_fit(out, cache, str(short_recipe))
    before = (out / "model.edge").read_bytes()
    done = run_fit(out, cache, str(short_recipe), "--seed", "7", check=False)
    assert done.returncode == 2
    assert "seed was 0 and is 7" in sentence(done)
    assert (out / "model.edge").read_bytes() == before
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "model.edge").write_text("mine", encoding="utf-8")
    done = run_fit(foreign, cache, str(short_recipe), check=False)
    assert done.returncode == 2
    assert "not empty, and not made by fit" in sentence(done)
    assert (foreign / "model.edge").read_text(encoding="utf-8") == "mine"


def test_a_folder_without_permission_is_one_sentence(
    short_recipe: Path, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    done = run_fit(tmp_path / "file" / "out", cache, str(short_recipe), check=False)
    assert done.returncode == 2
    assert "Not a directory" in sentence(done)
    done = run_fit(Path("/proc/edgedistill"), cache, str(short_recipe), check=False)
    assert done.returncode == 2
    assert "/proc/edgedistill" in sentence(done)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_full_disk_is_one_sentence_and_the_old_bundle_stays(
    short_recipe: Path, tmp_path: Path, cache: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        run_fit(disk / "out", cache, str(short_recipe))
        before = (disk / "out" / "model.edge").read_bytes()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        (disk / "filler").write_bytes(b"x" * (free - 20_000))
        done = run_fit(disk / "second", cache, str(short_recipe), check=False)
        assert done.returncode == 2
        assert "No space left on device" in sentence(done)
        assert not list((disk / "second").rglob("*.tmp"))
        assert (disk / "out" / "model.edge").read_bytes() == before
        (disk / "filler").unlink()
        shutil.rmtree(disk / "out" / "work")  # room for the second one
        run_fit(disk / "second", cache, str(short_recipe))
        assert (disk / "second" / "model.edge").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_profiles_are_listed_and_shown_with_their_sources() -> None:
    command = [sys.executable, "-m", "edgedistill.cli", "profiles"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "rpi4 " in listed.stdout
    shown = subprocess.run([*command, "rpi4"], capture_output=True, text=True, check=True)
    assert "4 × Cortex-A72 at 1800 MHz  [sbc-bench" in shown.stdout
    wrong = subprocess.run([*command, "rpi6"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no device profile named 'rpi6'" in sentence(wrong)


# Texts, teachers, methods


def text_fit(command, path: Path, data: Path, *options: str | Path, **keys: Any):
    """A fit of the static family by the command."""
    toml = opinions.write_toml(
        path / "recipe.toml", opinions.recipe(data, "static", opinions.STATIC, **keys)
    )
    return command("fit", toml, "--out", path / "out", *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text-column", "txt"], "no column named 'txt'; did you mean 'text'?"),
        (["--label-column", "lable"], "no column named 'lable'; did you mean 'label'?"),
        (["--group-column", "author"], "no column named 'author'"),
        (["--task", "image-classification"], "are for text-classification, not for image-"),
        (["--task", "text-clasification"], "did you mean 'text-classification'?"),
        (["--distill", "atention"], "no distillation method named 'atention'; did you mean 'att"),
        (["--student", "statik"], "no student family named 'statik'; did you mean 'static'?"),
        (["--student", "convnet"], "'convnet' is for image-classification, audio-classification, "),
        (["--control", "2"], "control needs at least 3 seeds"),
        (["--metric", "recall"], "metric is 'recall'; expected one of: , accuracy, f1_macro"),
        (["--unlabelled", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_a_wrong_option_of_a_text_fit_is_one_sentence(
    options, words, command, texts, tmp_path
) -> None:
    done = text_fit(command, tmp_path, texts, *options)
    assert done.returncode == 2
    assert words in sentence(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("good", "yes")] * 20, "only one class"),
        (
            [(f"good {i}", "yes") for i in range(20)] + [("bad", "no")],
            "the class 'no' has 1 sample",
        ),
        ([(f"good {i}", "yes") for i in range(20)] + [("", "no")], "line 22: the text is empty"),
        ([("good", "yes"), ("bad", "")], "line 3: no label"),
    ],
)
def test_data_that_cannot_be_used_are_one_sentence(rows, words, command, tmp_path) -> None:
    data = opinions.write_csv(tmp_path / "some.csv", rows)
    done = text_fit(command, tmp_path, data)
    assert done.returncode == 2
    assert words in sentence(done)
    assert "some.csv" in sentence(done)
    assert not (tmp_path / "out").exists()


def test_a_text_of_100_000_characters_is_handled(command, tmp_path, board) -> None:
    rows = opinions.sentences(120)
    long = ("good great loved " * 6000)[:100_000]
    rows[2] = (long, "positive")
    data = opinions.write_csv(tmp_path / "long.csv", rows)
    done = text_fit(command, tmp_path, data, min_retention=0.1)
    assert done.returncode == 0, done.stderr
    (tmp_path / "long.txt").write_text(long + "\n", encoding="utf-8")
    (row,) = board("predict", tmp_path / "out" / "model.edge", tmp_path / "long.txt")
    assert row["label"] in opinions.LABELS


def test_a_teacher_that_cannot_teach_is_one_sentence_and_the_folder_stays_free(
    command, texts, text_teacher, tmp_path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(text_teacher, strange)
    config = json.loads((strange / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {"0": "spam", "1": "eggs", "2": "ham"}
    (strange / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bare = tmp_path / "bare"
    shutil.copytree(text_teacher, bare)
    (bare / "model.safetensors").unlink()
    wrong = tmp_path / "wrong"  # knows the labels, in another order
    shutil.copytree(text_teacher, wrong)
    config["id2label"] = {"0": "neutral", "1": "positive", "2": "negative"}
    (wrong / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for teacher, words in (
        (strange, "the teacher does not know the label 'negative': it knows 'spam'"),
        (bare, "no weights; the folder needs model.safetensors"),
        (wrong, "is at chance on the validation split (balanced accuracy 0.0"),
        ("os:getcwd", "the function returned a str; it must return a torch.nn.Module"),
        ("nowhere/at-all", "neither a folder here nor to be had from the hub"),
    ):
        done = text_fit(command, tmp_path, texts, "--teacher", teacher)
        assert done.returncode == 2
        assert words in sentence(done)
        assert not (tmp_path / "out" / "model.edge").exists()
    # the last correction needs no --fresh
    done = text_fit(command, tmp_path, texts, "--teacher", text_teacher)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"distill": "attention"}, "the student has no layers for the loss 'embeddings'"),
        ({"distill": "relation"}, "the student has no layers for the loss 'relation'"),
        (
            {"stages": [{"name": "one", "soft": "decupled"}]},
            "no loss named 'decupled'; did you mean 'decoupled'?",
        ),
        (
            {"stages": [{"name": "one", "features": {"hnt": 1.0}}, {"name": "two"}]},
            "no loss named 'hnt'; did you mean 'hint'?",
        ),
        ({"stages": [{"name": "one", "features": {"hint": 1.0}}]}, "has no loss on the answers"),
        ({"stages": [{"name": "one"}, {"name": "one"}]}, "two stages have the same name"),
        (
            {"mixed_precision": "fp16"},
            "'fp16' is not possible on a CPU; use bf16 or no",
        ),
        ({"device": "cuda"}, "this machine has no cuda device; leave --device out"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    keys, words, command, texts, text_teacher, tmp_path
) -> None:
    if keys.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a cuda device")
    done = text_fit(command, tmp_path, texts, teacher=str(text_teacher), **keys)
    assert done.returncode == 2
    assert words in sentence(done)
    assert not (tmp_path / "out" / "model.edge").exists()


def test_an_attention_teacher_of_another_kind_is_one_sentence(
    command, texts, tmp_path, monkeypatch
) -> None:
    code = "from tests.opinions import Counts as teacher\n"
    (tmp_path / "layerless.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = opinions.recipe(texts, "transformer", opinions.ENCODER, distill="relation")
    toml = opinions.write_toml(tmp_path / "recipe.toml", options)
    done = command("fit", toml, "--teacher", "layerless:teacher", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "the teacher has no layers for the loss 'relation'" in sentence(done)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
def test_a_full_cache_is_one_sentence_and_nothing_half_written_stays(
    command, texts, tmp_path, monkeypatch, text_teacher
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        toml = opinions.write_toml(
            tmp_path / "recipe.toml",
            opinions.recipe(
                texts, "transformer", opinions.ENCODER, distill="attention",
                teacher=str(text_teacher),
            ),
        )  # fmt: skip
        arguments = ("fit", toml, "--out", tmp_path / "out")
        (disk / "filler").write_bytes(b"x" * (2**20 - 64 * 1024))
        done = command(*arguments, cache=disk)
        assert done.returncode == 2
        assert "No space left on device" in sentence(done)
        assert not list(disk.rglob("*.tmp"))
        assert not (tmp_path / "out" / "model.edge").exists()
        (disk / "filler").unlink()
        done = command(*arguments, cache=disk)
        assert done.returncode == 0, done.stderr
        assert list((disk / "edgedistill").rglob("features-*.f16"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
