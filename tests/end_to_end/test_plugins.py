"""One of each from outside the package, by the object and by entry point, as the documents show."""

from __future__ import annotations

import configparser
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import opinions
from tests.conftest import ROOT
from tests.opinions import CONVNET, STATIC, recipe, write_toml

from edgedistill import fit

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("plugins")]

ENTRY_POINTS = """
[edgedistill.losses]
absolute = absolute:absolute
cosine = absolute:cosine

[edgedistill.methods]
twice = twice:twice

[edgedistill.teachers]
bright = bright:teacher

[edgedistill.students]
patches = patches:Patches
"""


def blocks(name: str) -> dict[str, str]:
    """Each Python file that a document shows, by its name in the line before."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found, name
    return dict(found)


def example(name: str) -> str:
    """The Python block of a document that calls `fit` and stands under no file's name."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return next(
        code
        for before, code in re.findall(r"([^\n]*)\n\n```python\n(.*?)```", text, re.DOTALL)
        if "result = fit(" in code and not re.fullmatch(r".*`\w+\.py`:", before)
    )


@pytest.fixture
def own(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the documents' files, from which they can be imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = set()
    for document in ("adding-a-loss.md", "adding-a-teacher.md", "adding-a-student.md"):
        for name, code in blocks(document).items():
            (tmp_path / name).write_text(code, encoding="utf-8")
            names.add(name.removesuffix(".py"))
    importlib.invalidate_caches()
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def package(own: Path) -> Path:
    """The same folder as an installed package would be, with its entry points."""
    info = own / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    importlib.invalidate_caches()
    return own


STAGES = [
    {"name": "first", "features": {"cosine": 1.0}, "epochs": 1},
    {"name": "answers", "soft": "absolute", "alpha": [0.5]},
]


def test_a_loss_by_the_function(own, pictures, image_teacher) -> None:
    from absolute import absolute, cosine

    options = recipe(pictures, "convnet", CONVNET, stages=STAGES, teacher=image_teacher)
    result = fit(**options, losses={"absolute": absolute, "cosine": cosine}, out="out")
    assert result.report["student"]["choices"].keys() == {"answers"}
    assert result.report["student"]["metric"] > 0.5


def test_a_loss_by_entry_point(package, pictures, image_teacher) -> None:
    options = recipe(pictures, "convnet", CONVNET, stages=STAGES, teacher=image_teacher)
    result = fit(**options, out="out")
    assert result.report["student"]["alpha"] == 0.5


def test_a_method_by_its_stages_and_by_entry_point(package, command, pictures, image_teacher):
    from twice import twice

    from edgedistill.recipe import TRAINING

    options = recipe(pictures, "convnet", CONVNET)
    stages = twice(TRAINING["convnet"], "image-classification")
    by_hand = fit(**options, stages=stages, teacher=image_teacher, out="one")
    by_name = fit(**options, distill="twice", teacher=image_teacher, out="two")
    assert [*by_hand.report["student"]["choices"]] == ["rough", "fine"]
    for key in ("choices", "metric"):
        assert by_hand.report["student"][key] == by_name.report["student"][key]
    toml = write_toml(package / "recipe.toml", options)
    done = command("fit", toml, "--distill", "twise", "--out", package / "out")
    assert done.returncode == 2
    assert "no distillation method named 'twise'; did you mean 'twice'?" in done.stderr


def test_a_teacher_by_the_module_and_by_entry_point(package, command, own) -> None:
    from bright import teacher

    options = recipe("digits", "convnet", CONVNET | {"stages": 2, "growth": 1.0})
    options["training"] = options["training"] | {"epochs": 1, "alpha": [1.0]}
    result = fit(**options, teacher=teacher(), out="one")
    named = fit(**options, teacher="bright", out="two")
    assert result.report["teacher"]["name"] == "Bright"
    assert named.report["teacher"]["name"] == "bright"
    assert named.report["teacher"]["metric"] == result.report["teacher"]["metric"] > 0.5
    assert named.report["student"]["metric"] == result.report["student"]["metric"]


def test_a_text_teacher_by_the_module(own, texts) -> None:
    options = recipe(texts, "static", STATIC)
    result = fit(**options, teacher=opinions.Counts(), out="out")
    assert result.report["teacher"]["name"] == "Counts"
    assert result.report["teacher"]["metric"] == 1.0


def test_a_family_by_the_object_and_by_entry_point(package, pictures, image_teacher) -> None:
    from patches import Patches

    options = recipe(pictures, "", {}, teacher=image_teacher)
    del options["student"]
    by_object = fit(**options, student=Patches(), out="one")
    by_name = fit(**options, student="patches", out="two")
    assert by_object.report["student"]["family"] == "patches"
    assert by_object.report["student"]["spec"] == by_name.report["student"]["spec"]
    assert by_object.report["student"]["metric"] == by_name.report["student"]["metric"]


@pytest.mark.parametrize("name", ["adding-a-loss.md", "adding-a-teacher.md"])
def test_the_documents_example_runs(name, own) -> None:
    scope: dict[str, object] = {}
    exec(compile(example(name), name, "exec"), scope)
    assert scope["result"].bundle.exists()


def test_the_documents_show_these_entry_points() -> None:
    documents = {
        "adding-a-loss.md": ("losses", "methods"),
        "adding-a-teacher.md": ("teachers",),
        "adding-a-student.md": ("students",),
    }
    shown = {}
    for name, groups in documents.items():
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for group in groups:
            head = f'[project.entry-points."edgedistill.{group}"]\n'
            table = text[text.index(head) + len(head) :].split("\n```")[0].split("\n[")[0]
            shown[group] = dict(re.findall(r'(\w+) = "(.*)"', table))
    wanted = configparser.ConfigParser()
    wanted.read_string(ENTRY_POINTS)
    assert shown == {
        group.removeprefix("edgedistill."): dict(wanted[group]) for group in wanted.sections()
    }


def test_a_name_that_is_offered_twice_is_refused(package, command, pictures) -> None:
    second = package / "other-1.0.dist-info"
    second.mkdir()
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n", "utf-8")
    (second / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    importlib.invalidate_caches()
    options = recipe(pictures, "convnet", CONVNET)
    toml = write_toml(package / "recipe.toml", options)
    for option in (["--distill", "twice"], ["--student", "patches"], ["--teacher", "bright"]):
        done = command("fit", toml, *option, "--out", package / "out")
        assert done.returncode == 2
        assert f"{option[1]!r} is offered 2 times" in done.stderr
