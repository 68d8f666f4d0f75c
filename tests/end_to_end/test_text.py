"""Text from a table to a bundle that a board without torch runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import opinions
from tests.conftest import fit_environment
from tests.opinions import ENCODER, LABELS, STATIC, recipe, write_toml

from edgedistill_runtime import load

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("text")]

SPECS = {"static": STATIC, "transformer": ENCODER}
QUESTIONS = ["loved the great film", "awful, hated it", "", "☃ " * 3000, "good " * 20_000]


@dataclass(frozen=True)
class Fit:
    out: Path
    report: dict[str, Any]
    stderr: str

    @property
    def bundle(self) -> Path:
        return self.out / "model.edge"


def fitted(command, path: Path, data: Path, family: str, *options: str | Path, **keys: Any) -> Fit:
    """One fit by the command; `keys` stand in the recipe."""
    toml = write_toml(path / "recipe.toml", recipe(data, family, SPECS[family], **keys))
    done = command("fit", toml, "--out", path / "out", "--json", *options)
    assert done.returncode == 0, done.stderr
    report = json.loads((path / "out" / "report.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout.splitlines()[-1]) == report
    return Fit(path / "out", report, done.stderr)


@pytest.mark.parametrize(
    ("family", "teacher", "precision"),
    [
        ("static", "auto", "float32"),
        ("static", "classifier", "int8"),
        ("transformer", "auto", "int8"),
        ("transformer", "encoder", "float32"),
    ],
)
def test_a_table_of_texts_becomes_a_bundle_that_runs_without_torch(
    family, teacher, precision, command, board, texts, text_teacher, tmp_path
) -> None:
    sources = {"auto": "auto", "classifier": text_teacher}
    source = sources.get(teacher) or opinions.encoder(tmp_path / "encoder")
    options = ["--teacher", source, "--precision", precision]
    keys = {}
    if teacher == "encoder":  # it knows nothing yet
        keys["teacher_training"] = {"epochs": 20, "batch_size": 8, "learning_rate": 3e-3}
    made = fitted(command, tmp_path, texts, family, *options, **keys)
    report, bundle = made.report, made.bundle
    assert report["precision"] == precision
    assert report["task"] == "text-classification"
    assert report["student"]["metrics"].keys() == {"accuracy", "f1_macro"}
    assert report["student"]["choices"]["soft"] == {"alpha": 0.5, "gate": False, "views": 2}
    assert report["teacher"]["metric"] > 0.6
    assert report["student"]["adopted"]
    expected = "trained here" if teacher == "auto" else "bert, 2 layers of 64"
    assert report["teacher"]["name"] == expected
    assert report["teacher_quantized"]["size_mib"] < report["teacher"]["size_mib"]

    (verified,) = board("verify", bundle, "--json")
    assert verified["id"] == report["bundle_id"]
    (answer,) = board("evaluate", bundle, made.out / "test.jsonl", "--json")
    assert answer["value"] == report["student"]["metric"]
    assert answer["samples"] == report["test_samples"] == 60
    lines = [json.dumps({"id": str(i), "input": text}) for i, text in enumerate(QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = board("predict", bundle, tmp_path / "questions.jsonl")
    model = load(bundle)
    assert [row["label"] for row in rows] == [model.predict(text).label for text in QUESTIONS]
    assert {row["label"] for row in rows} <= set(LABELS)


def test_two_fresh_runs_give_the_same_bytes(texts, text_teacher, tmp_path) -> None:
    keys = {"teacher": str(text_teacher), "training": TRIALS}
    toml = write_toml(tmp_path / "recipe.toml", recipe(texts, "static", STATIC, **keys))
    bundles = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "edgedistill.cli", "fit", toml, "--out"]
        done = subprocess.run(
            [*command, tmp_path / name / "out"],
            capture_output=True,
            text=True,
            check=False,
            env=fit_environment(tmp_path / name / "cache"),
        )
        assert done.returncode == 0, done.stderr
        bundles.append((tmp_path / name / "out" / "model.edge").read_bytes())
    assert bundles[0] == bundles[1]


TRIALS = {"epochs": 3, "batch_size": 16, "trial_epochs": 1, "views": [1, 2], "alpha": [0, 0.9]}


def test_alpha_gate_and_views_are_chosen_by_trials_that_the_report_lists(
    command, texts, text_teacher, tmp_path
) -> None:
    made = fitted(command, tmp_path, texts, "static", teacher=str(text_teacher), training=TRIALS)
    trials = made.report["student"]["trials"]
    choice = made.report["student"]["choices"]["soft"]
    assert [t["alpha"] for t in trials[:2]] == [0.0, 0.9]
    assert {t["views"] for t in trials} == {1, 2}
    assert {t["stage"] for t in trials} == {"soft"}
    best = max(trials, key=lambda t: (t["metric"], -t["cross_entropy"]))
    assert choice == {key: best[key] for key in ("alpha", "gate", "views")}
    assert f"alpha {best['alpha']:g}" in made.stderr


def test_a_text_may_have_several_labels(command, board, tmp_path) -> None:
    chance = random.Random(0)
    rows = []
    for text, label in opinions.sentences(240):
        other = chance.choice(LABELS)
        if other != label and chance.random() < 0.4:
            text = f"{text} {chance.choice(opinions.OPINIONS[other])}"
            label = f"{label}|{other}"
        rows.append((text, label))
    data = opinions.write_csv(tmp_path / "several.csv", rows, ("text", "labels"))
    made = fitted(
        command, tmp_path, data, "static", "--label-separator", "|", label_column="labels"
    )
    assert made.report["metric"] == "f1_macro"
    assert made.report["student"]["metrics"].keys() == {"f1_macro"}
    (answer,) = board("evaluate", made.bundle, made.out / "test.jsonl", "--json")
    assert answer["value"] == made.report["student"]["metric"]
    (tmp_path / "one.txt").write_text("a film\n", encoding="utf-8")
    (row,) = board("predict", made.bundle, tmp_path / "one.txt")
    assert row["scores"].keys() == set(LABELS)
    assert abs(sum(row["scores"].values()) - 1) > 1e-3  # each of them stands alone


def test_groups_unlabelled_texts_class_weights_macro_f1_and_logs(
    command, text_teacher, tmp_path
) -> None:
    rows = [
        (text, label, f"author {i % 17}")
        for i, (text, label) in enumerate(opinions.sentences(300))
        if label != "neutral" or i % 2
    ]
    data = opinions.write_csv(tmp_path / "by.csv", rows, ("words", "said", "author"))
    more = [(text,) for text, _ in opinions.sentences(80, seed=7)]
    extra = opinions.write_csv(tmp_path / "more.csv", more, ("words",))
    names = ["--text-column", "words", "--label-column", "said", "--group-column", "author"]
    options = [*names, "--unlabelled", extra, "--class-weights", "balanced"]
    options += ["--metric", "f1_macro", "--log", "tensorboard", "--teacher", text_teacher]
    made = fitted(command, tmp_path, data, "static", *options)
    report = made.report
    assert report["metric"] == "f1_macro"
    assert report["student"]["metric"] == report["student"]["metrics"]["f1_macro"]
    assert any(note.startswith("80 unlabelled texts") for note in report["notes"])
    test = (made.out / "test.jsonl").read_text(encoding="utf-8").splitlines()
    authors = {author: set() for _, _, author in rows}
    for text, _, author in rows:
        authors[author].add(text)
    held = {json.loads(line)["input"] for line in test}
    for texts in authors.values():
        assert not held & texts or texts <= held, "an author stands on both sides"
    logs = list((made.out / "work" / "logs").rglob("events.out.tfevents.*"))
    assert logs
    assert "loss" in scalars(logs)


def scalars(logs: list[Path]) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: set[str] = set()
    for log in logs:
        events = EventAccumulator(str(log))
        events.Reload()
        found |= set(events.Tags()["scalars"])
    return found


def test_the_control_says_what_the_teacher_was_worth(
    command, board, texts, text_teacher, tmp_path
) -> None:
    made = fitted(command, tmp_path, texts, "static", "--control", "3", "--teacher", text_teacher)
    control = made.report["control"]
    assert len(control["student"]) == len(control["control"]) == 3
    assert control["student"][0] == made.report["student"]["metric"]
    gains = [s - c for s, c in zip(control["student"], control["control"], strict=True)]
    assert control["gain"] == pytest.approx(sum(gains) / 3)
    assert control["low"] <= control["gain"] <= control["high"]
    table = made.stderr[made.stderr.index("retention") :]
    assert control["sentence"] in table
    assert "95 % interval" in control["sentence"]
    inspected = board("inspect", made.bundle, "--json")[0]["accuracy"]["control"]
    assert inspected == {key: control[key] for key in ("gain", "low", "high")} | {"seeds": 3}


@pytest.mark.parametrize("kind", ["module:function", "onnx"])
def test_a_teacher_may_be_a_function_of_ones_own_or_an_onnx_file(
    kind, command, texts, tmp_path, monkeypatch
) -> None:
    if kind == "onnx":
        source = opinions.onnx_counts(tmp_path / "counts.onnx")
        name = "counts.onnx"
    else:
        source = name = "counting:teacher"
        code = "from tests.opinions import Counts\n\ndef teacher():\n    return Counts()\n"
        (tmp_path / "counting.py").write_text(code, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
    made = fitted(command, tmp_path, texts, "static", "--teacher", source)
    assert made.report["teacher"]["name"] == name
    assert made.report["teacher"]["metric"] == 1.0
    assert made.report["student"]["metric"] > 0.6


def test_few_different_words_are_enough(command, tmp_path) -> None:
    rows = [
        (" ".join(f"{word} x{'yz'[i % 2] * (i // 2 + 1)}" for i in range(n)), label)
        for label, words in opinions.OPINIONS.items()
        for word in words
        for n in range(1, 9)
    ]
    data = opinions.write_csv(tmp_path / "few.csv", rows)
    made = fitted(command, tmp_path, data, "static", min_retention=0.1)
    assert made.report["student"]["spec"]["vocabulary"] == 1000
