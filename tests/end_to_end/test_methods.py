"""Every way to distil, on texts and on images, through `fit`; and killed at any moment."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests import opinions
from tests.conftest import ROOT, fit_environment
from tests.opinions import CONVNET, ENCODER, recipe, write_toml

from edgedistill import Recipe, fit
from edgedistill.distill.methods import METHODS
from edgedistill.recipe import GivenTraining, Stage
from edgedistill_runtime import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("methods")]

LARGER = {"text": {"layers": 2, "hidden": 64, "ffn": 128, "embedding": 32}}
LARGER |= {"image": {"stages": 1, "width": 12, "block": "dense"}}
STAGES = {
    "soft": ["soft"],
    "hint-then-soft": ["soft"],
    "attention": ["soft"],
    "relation": ["soft"],
    "assistant": ["soft"],
    "finetune": ["teacher", "labels"],
}
"""Stages of each method in which the teacher's answers have a weight."""


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def task(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of a fit, with a teacher that knows its labels."""
    if kind == "text":
        options = recipe(request.getfixturevalue("texts"), "transformer", ENCODER)
        return options | {"teacher": str(request.getfixturevalue("text_teacher"))}
    options = recipe(request.getfixturevalue("pictures"), "convnet", CONVNET)
    return options | {"teacher": request.getfixturevalue("image_teacher")}


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_in_a_bundle(method, kind, tmp_path, request) -> None:
    options = task(kind, request)
    if method == "assistant":
        options["assistant"] = LARGER[kind]
    result = fit(**options, distill=method, out=str(tmp_path / "out"))
    student = result.report["student"]
    assert student["distill"] == method
    assert list(student["choices"]) == STAGES.get(method, list(student["choices"]))
    assert ("layers=2" in student["assistant"] or "width=12" in student["assistant"]) == (
        method == "assistant"
    )
    assert student["metric"] > 0.4  # one of three classes is right by chance
    assert load(result.bundle).check_golden() >= 0
    assert result.exit_code == 0


def test_stages_may_be_spelt_out_with_layers_by_hand(texts, text_teacher, tmp_path) -> None:
    stages = (
        Stage(
            name="first",
            features={"hint": 1.0, "attention": 0.5},
            layers={"layers.0": "bert.encoder.layer.1"},
            epochs=1,
        ),
        Stage(name="second", soft="decoupled", alpha=(0.3, 0.9), learning_rate=0.01),
        Stage(name="third", features={"relation": 0.1}, soft="correlation", alpha=(0.5,)),
    )
    made = recipe(texts, "transformer", ENCODER, stages=stages, teacher=str(text_teacher))
    report = fit(**made, out=str(tmp_path / "out")).report
    choices = report["student"]["choices"]
    assert choices.keys() == {"second", "third"}
    assert choices["second"]["alpha"] in (0.3, 0.9)
    assert {t["stage"] for t in report["student"]["trials"]} == {"second"}
    assert report["student"]["metric"] > 0.5


def test_a_recipe_file_and_python_mean_the_same_stages(tmp_path) -> None:
    text = """
profile = "rpi4"
[training]
alpha = [0.5]
[[stages]]
name = "hints"
features = {hint = 1.0}
layers = {"features.3" = "body.2"}
epochs = 2
[[stages]]
name = "answers"
soft = "correlation"
alpha = [0.0, 0.5]
"""
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    stages = (
        Stage(name="hints", features={"hint": 1.0}, layers={"features.3": "body.2"}, epochs=2),
        Stage(name="answers", soft="correlation", alpha=(0.0, 0.5)),
    )
    made = Recipe(profile="rpi4", training=GivenTraining(alpha=(0.5,)), stages=stages)
    assert Recipe.load(tmp_path / "recipe.toml") == made


@pytest.mark.repeated
def test_a_killed_run_of_several_stages_ends_in_the_same_bytes(
    texts, text_teacher, tmp_path, request
) -> None:
    training = {"epochs": 12, "batch_size": 8, "views": [1], "alpha": [0.0, 0.9], "gate": [False]}
    options = recipe(
        texts, "transformer", ENCODER, distill="attention", training=training | {"trial_epochs": 2}
    )
    # a bare encoder, so that a kill may fall into the teacher's training too
    options["teacher"] = str(opinions.encoder(tmp_path / "encoder"))
    options["teacher_training"] |= {"epochs": 6}
    toml = write_toml(tmp_path / "recipe.toml", options)

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgedistill.cli", "fit", toml, "--out"]
        return subprocess.Popen(
            [*command, tmp_path / name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=fit_environment(tmp_path / f"{name}-cache"),
        )

    begin = time.monotonic()
    assert start("whole").wait() == 0
    seconds = time.monotonic() - begin
    chance = random.Random(1)
    for _ in range(request.config.getoption("--kills")):  # each comes further than the one before
        process = start("killed")
        try:
            process.wait(chance.uniform(0.2, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start("killed").wait() == 0
    bundles = [(tmp_path / name / "model.edge").read_bytes() for name in ("whole", "killed")]
    assert bundles[0] == bundles[1]
    assert not list(tmp_path.rglob("*.checkpoint"))
    assert not list(tmp_path.rglob("*.tmp"))


def shown() -> dict[str, str]:
    """Recipes of docs/distillation.md by the name in their first line."""
    text = (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```toml\n# ([^\n]+)\n(.*?)```", text, re.DOTALL))


def test_the_document_has_a_recipe_for_every_method() -> None:
    assert METHODS.keys() <= shown().keys()
    for name in METHODS:
        assert f"| `{name}` |" in (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shown())
def test_the_documents_recipe_runs(name, text_teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = opinions.sentences(150)
    opinions.write_csv(tmp_path / "opinions.csv", rows)
    opinions.write_csv(
        tmp_path / "more.csv", [(t,) for t, _ in opinions.sentences(40, 9)], ("text",)
    )
    by = [(text, label, f"author {i % 20}") for i, (text, label) in enumerate(rows)]
    opinions.write_csv(tmp_path / "by-author.csv", by, ("words", "said", "author"))
    (tmp_path / "recipe.toml").write_text(f'profile = "rpi4"\n{shown()[name]}', encoding="utf-8")
    made = Recipe.load("recipe.toml")
    spec = opinions.STATIC if made.student == "static" else ENCODER
    training = msgspec.to_builtins(made.training) | {"epochs": 1, "batch_size": 32}
    short = {"spec": spec, "training": training | {"trial_epochs": 1}, "min_retention": 0.01}
    if name not in ("choices", "by hand"):
        short["training"] |= {"views": [1], "alpha": [0.5], "gate": [False]}
    result = fit(made, **short, teacher=str(text_teacher), out="out")
    assert result.bundle.exists()
    if name == "choices":
        tried = result.report["student"]["trials"]
        assert {t["alpha"] for t in tried} == {0.0, 0.5, 0.9}
        assert {t["views"] for t in tried} == {1, 3}
    if name == "finetune":
        assert any("unlabelled texts" in note for note in result.report["notes"])
