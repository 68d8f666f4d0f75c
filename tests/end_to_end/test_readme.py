"""What the README shows is what a reader gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("fit")]


def blocks() -> list[tuple[str, list[str]]]:
    """Each command of the README's console blocks with the lines that it shows."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() not in ("", "…"):
                found[-1][1].append(line)
    return found


def shape(line: str) -> str:
    """The line with every number alike: timings and accuracies differ between machines."""
    return " ".join(re.sub(r"\d[\d.,e-]*", "#", line).split())


def test_the_commands_print_what_the_readme_shows(tmp_path: Path, cache: Path) -> None:
    commands = [(c, lines) for c, lines in blocks() if not c.startswith(("make ", "pip ", "git "))]
    assert len(commands) >= 4
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command, lines in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout
        printed = {shape(line) for line in done.stdout.splitlines()}
        for line in lines:
            assert shape(line) in printed, f"{command}: {line!r} is not in\n{done.stdout}"


def test_the_python_example_runs(tmp_path: Path, cache: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            env=os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_map_names_only_what_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Map") :]
    for path in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE):
        assert (ROOT / path).exists(), path
