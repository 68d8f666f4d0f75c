"""The pages that say what to type name only commands, options and pages that there are."""

from __future__ import annotations

import re

import click
import pytest
from tests.conftest import ROOT

from edgedistill import cli as host
from edgedistill_runtime import cli as runtime

PAGES = ("docs/adding-a-board.md", "docs/troubleshooting.md", "examples/raspberry_pi/README.md")
PROGRAMS = {"edgedistill": host.cli, "edgedistill-run": runtime.cli}


def typed(text: str) -> list[str]:
    """What stands in backticks, or on indented lines, those that go on put together."""
    text = text.replace("\\\n", " ")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"^    (\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)


def calls(text: str) -> list[tuple[list[click.Group], str, set[str]]]:
    """Of each command: the programs that may be meant, its name and options.

    `bench --rate 5` alone may be either program's.
    """
    found = []
    for line in typed(text):
        unquoted = re.sub(r"""'[^']*'|"[^"]*\"""", "QUOTED", line)
        words = re.split(r"[#|]", unquoted)[0].split()
        names = [word.rpartition("/")[2] if "=" not in word else "" for word in words]
        at = next((i for i, name in enumerate(names) if name in PROGRAMS), None)
        programs = list(PROGRAMS.values()) if at is None else [PROGRAMS[names[at]]]
        command = words[at + 1 :] if at is not None else words
        if at is None and not any(command[0] in p.commands for p in programs):
            continue
        if command:
            options = {w.partition("=")[0] for w in command[1:] if w.startswith("--")}
            found.append((programs, command[0], options))
    return found


def takes(program: click.Group, name: str, options: set[str]) -> bool:
    names = {name, "predict"} if name == "service" else {name}  # it passes those of predict on
    commands = [program.commands[n] for n in names if n in program.commands]
    known = {opt for command in commands for option in command.params for opt in option.opts}
    return name in program.commands and options <= known


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_and_options_exist(page: str) -> None:
    found = calls((ROOT / page).read_text(encoding="utf-8"))
    assert len(found) >= 8
    for programs, name, options in found:
        assert any(takes(program, name, options) for program in programs), (name, options)


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        place, _, anchor = target.partition("#")
        other = path.parent / place if place else path
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in anchors, target
