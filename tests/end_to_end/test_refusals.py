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

import pytest
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
        (["--precision", "int9"], "precision is 'int9'; expected one of: auto, float32, int8"),
        (["--latency-ms", "-1"], "latency_ms is -1.0; expected float > 0"),
        (["--latency-ms", "soon"], "'soon' is not a valid float"),
        (["--percentile", "96"], "percentile is 96; expected one of: 50, 95, 99"),
        (["--profile", "coral-dev"], "coral-dev has no engine"),
        (["--profile", "stm32mp157"], "stm32mp157 has no engine for ONNX bundles"),
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
