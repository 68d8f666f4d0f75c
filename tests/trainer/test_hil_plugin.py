"""The pytest plug-in, in a pytest of its own, with this machine in the place of the boards.

A made-up `ssh` starts what a board would run; the board's lock is this machine's, so these tests
wait for one another.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ROOT
from tests.runtime.runtime_support import golden_images, tiny_manifest

from edgedistill.boards import Address, Board
from edgedistill_runtime import bundle

pytestmark = pytest.mark.xdist_group("board")

SSH = """#!/bin/sh
for word; do host=$command command=$word; done
if [ "$host" = off ]; then
  echo "ssh: connect to host off port 22: No route to host" >&2
  exit 255
fi
HOME={home} TMPDIR={home} PATH={home}/bin:{python}:/usr/bin:/bin exec sh -c "$command"
"""
BOARDS = """
[garden]
host = "ssh://pi@garden.local"
profile = "rpi4"
tags = ["camera"]
[shed]
host = "ssh://shed"
"""
BROUGHT = """
from pathlib import Path
def test_it(board):
    assert board.run("verify", board.bring(Path("model.edge"))).exit_code == 0
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's project with a bundle; its boards are reached by a made-up `ssh`."""
    home = tmp_path / "board"
    (home / "bin").mkdir(parents=True)
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(home=home, python=Path(sys.executable).parent))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    folder = tmp_path / "project"
    folder.mkdir()
    manifest, files = tiny_manifest("tiny")
    bundle.write(folder / "model.edge", manifest, files)
    (folder / "boards.toml").write_text(BOARDS)
    return folder


@pytest.fixture
def run(project):
    """`pytest` with these options, on this text of tests: exit code and what it said."""

    def run(text, *options):
        (project / "test_it.py").write_text(text)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "edgedistill.hil",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*command, "-rs", "-v", "--strict-markers", "-W", "error", *options],
            cwd=project,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


ON_BOARDS = ("--boards", "boards.toml", "--board-wait", "60")
XUNIT1 = ("-o", "junit_family=xunit1")


def test_pytest_finds_the_plug_in_in_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = declared["entry-points"]["pytest11"].items()
    plugin = metadata.EntryPoint(name, value, "pytest11").load()
    assert callable(plugin.pytest_addoption)


def test_a_test_runs_on_each_board_and_the_report_says_on_which(run, project):
    code, said = run(BROUGHT, *ON_BOARDS, "--junit-xml", "report.xml", *XUNIT1)
    assert code == 0, said
    assert re.findall(r"test_it\[(\w+)\] PASSED", said) == ["garden", "shed"]
    report = ElementTree.parse(project / "report.xml")
    rows = [
        {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in report.iter("testcase")
    ]
    assert [row["board"] for row in rows] == ["garden", "shed"]
    assert [row["board_address"] for row in rows] == ["ssh://pi@garden.local", "ssh://shed"]
    assert rows[0]["board_profile"] == "rpi4"
    assert rows[0]["board_emulated"] == "False"
    assert f"Python 3.{sys.version_info[1]}" in rows[0]["board_system"]
    assert os.listdir(project.parent / "board") == ["bin"], "nothing is left on the board"


CHOOSING = """
import pytest
def test_any(board_member): pass
@pytest.mark.board(profile="rpi4")
def test_profile(board_member): pass
@pytest.mark.board(needs="camera")
class TestCamera:
    def test_tag(self, board_member): pass
    @pytest.mark.board(needs=["microphone"])
    def test_both(self, board_member): pass
@pytest.mark.board(profile="rpi5", needs=["camera"])
def test_none(board_member): pass
def test_without(): pass
"""


def test_a_test_says_which_boards_will_do(run):
    code, said = run(CHOOSING, "--boards", "boards.toml")
    assert code == 0, said
    rows = re.findall(r"(test_\w+)\[([\w ]+)\] (\w+)", said)
    assert sorted(rows) == [  # where those without a board come depends on the version of pytest
        ("test_any", "garden", "PASSED"),
        ("test_any", "shed", "PASSED"),
        ("test_both", "no board", "SKIPPED"),
        ("test_none", "no board", "SKIPPED"),
        ("test_profile", "garden", "PASSED"),
        ("test_tag", "garden", "PASSED"),
    ]
    assert [row for row in rows if row[1] == "garden"] == rows[:3]  # one board after the other
    assert (
        "boards.toml has no board with the tags camera, microphone (it has: garden [rpi4, camera], "
        "shed)" in said
    )
    assert "no board of profile rpi5 and with the tags camera" in said
    _, said = run(CHOOSING, "--boards", "boards.toml:camera", "-k", "any", "--collect-only")
    assert "test_any[garden]" in said
    assert "shed" not in said
    _, said = run(CHOOSING, "--boards", "boards.toml", "-m", "not board")
    assert re.findall(r"(test_\w+) PASSED", said) == ["test_without"]


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        (BROUGHT, (), "there are no boards; name them with --boards boards.toml"),
        (BROUGHT, ("--boards", "off.toml"), "cannot reach ssh://off: .*No route to host"),
    ],
)
def test_a_board_that_cannot_be_had_is_a_skip_or_where_boards_are_required_a_failure(
    run, project, text, options, why
):
    (project / "off.toml").write_text('[away]\nhost = "ssh://off"\n')
    code, said = run(text, *options)
    assert (code, said.count("1 skipped")) == (0, 1), said
    assert re.search(rf"SKIPPED .*{why}", said), said
    code, said = run(text, *options, "--require-boards")
    assert code == 1
    assert re.search(why, said), said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        (BROUGHT, ("--boards", "none.toml"), "none.toml: cannot be read"),
        (BROUGHT, ("--boards", "boards.toml:outside"), "no board has the tag 'outside'"),
        (
            BROUGHT.replace("def test", "import pytest\n@pytest.mark.board(tag='x')\ndef test"),
            ("--boards", "boards.toml"),
            r"test_it.py::test_it: the marker board takes profile='rpi4' and needs=\['camera'\]",
        ),
    ],
)
def test_bad_usage_is_one_sentence(run, text, options, why):
    code, said = run(text, *options)
    assert code in (2, 4), "interrupted, or bad usage"
    assert re.search(why, said), said
    assert "Traceback" not in said


def test_a_board_is_one_connections_at_a_time(run, project):
    options = ("--boards", "boards.toml", "-k", "garden")
    with Board(Address.parse("ssh://pi@garden.local")) as other:
        while not other.hold():
            pass
        assert other.hold(), "it stays with who has it"
        code, said = run(BROUGHT, *options)
        assert (code, said.count("1 skipped")) == (0, 1), said
        assert (
            "others are testing on ssh://pi@garden.local; wait for them with --board-wait" in said
        )
        waiting = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "edgedistill.hil", *options, *ON_BOARDS[2:]],
            cwd=project,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    said, _ = waiting.communicate(timeout=60)
    assert "1 passed" in said, said


QUIET = """
import sys
def heavy():
    names = {"torch", "transformers", "edgedistill.boards", "edgedistill_runtime", "msgspec"}
    return names & set(sys.modules)
def test_before(): assert not heavy()
def test_with(board): assert not heavy() & {"torch", "transformers"}
"""


def test_a_run_without_boards_imports_nothing_and_one_with_them_no_torch(run):
    code, said = run(QUIET, "-k", "before")
    assert code == 0, said
    code, said = run(QUIET, *ON_BOARDS, "-k", "with and garden")
    assert code == 0, said


POWER = """
import pytest
def note(text):
    with open("log", "a") as log:
        log.write(text + "\\n")
@pytest.fixture(scope="session")
def board_power(board_member):
    note(f"{board_member.name} on")
    yield
    note(f"{board_member.name} off")
@pytest.fixture
def noted(board):
    note(f"{board.member.name} is tested")
"""


def test_a_board_is_switched_on_before_it_is_reached_and_off_after_its_tests(run, project):
    (project / "conftest.py").write_text(POWER)
    code, said = run("def test_a(noted): pass\ndef test_b(noted): pass\n", *ON_BOARDS)
    assert code == 0, said
    assert (project / "log").read_text().splitlines() == [
        f"{name} {what}"
        for name in ("garden", "shed")
        for what in ("on", "is tested", "is tested", "off")
    ]


def test_the_pages_example_works(run, project):
    page = (ROOT / "docs/hardware-in-the-loop.md").read_text(encoding="utf-8")
    (fleet,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tests, power = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (project / "boards.toml").write_text(fleet)
    (project / "build").mkdir()
    (project / "model.edge").rename(project / "build/model.edge")
    np.save(project / "sample.npy", golden_images()[0])
    Image.fromarray(golden_images()[0][..., 0]).save(project / "seen.png")
    for name, does in (("relay", "echo $* >> log"), ("rpicam-jpeg", f"cat {project / 'seen.png'}")):
        for folder in ("bin", "board/bin"):
            program = project.parent / folder / name
            program.write_text(f"#!/bin/sh\n{does}\n")
            program.chmod(0o755)
    (project / "conftest.py").write_text(power)
    assert '"--max-seconds", "5"' in tests
    quick = tests.replace('"--max-seconds", "5"', '"--max-seconds", "0.2"')
    options = ("--require-boards", "--junit-xml", "report.xml", *XUNIT1)
    code, said = run(quick, *ON_BOARDS, *options)
    assert code == 0, said
    assert said.count("[garden]") == 3
    assert (project / "log").read_text().splitlines() == ["on garden", "off garden"]
    report = ElementTree.parse(project / "report.xml")
    rows = {p.get("name"): p.get("value") for p in report.iter("property")}
    assert json.loads(rows["latency_ms_p95"]) > 0
