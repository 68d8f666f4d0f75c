"""What is only tried on boards that are emulated: their limits, and several at once."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Fitted
from tests.hil.conftest import KINDS, run_there

from edgedistill.boards import Address, Board, Needs
from edgedistill.hil import HeldBoard
from edgedistill_runtime import bundle

pytestmark = [pytest.mark.hil, pytest.mark.board(needs=["emulated"])]
arm64 = pytest.mark.board(needs=["arm64"])
armhf = pytest.mark.board(needs=["armhf"])

CUTS = 50
MACHINES = {"arm64": "aarch64", "armhf": "armv7l"}
CONNECT = "import socket; socket.create_connection(('{}', {}), 2)"


def test_the_board_has_only_what_a_board_has(board: HeldBoard, shell: Any) -> None:
    (arch,) = set(MACHINES) & set(board.member.tags)
    assert shell("uname", "-m").out.strip() == MACHINES[arch] == board.facts.machine
    names = ["torch", "transformers", "onnx", "pip", "setuptools", "edgedistill"]
    find = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert shell("python3", "-c", find, *names).out.strip() == "[]"
    assert shell("sh", "-c", "command -v cc gcc clang make pip pip3").out == ""


def test_the_board_has_no_network_but_its_loopback(board: HeldBoard, shell: Any) -> None:
    assert shell("python3", "-c", CONNECT.format("127.0.0.1", 22)).code == 0
    outside = shell("python3", "-c", CONNECT.format("192.0.2.1", 22))
    assert outside.code == 1
    assert "Network is unreachable" in outside.err
    interfaces = shell("cat", "/proc/net/dev").out
    assert re.findall(r"^\s*(\S+):", interfaces, re.MULTILINE) == ["lo"]


def test_a_board_with_256_mib_has_no_more(small_board: Address) -> None:
    too_much = run_there(small_board, "python3", "-c", "bytearray(300 << 20)")
    assert too_much.code == 128 + signal.SIGKILL


@pytest.mark.parametrize("kind", KINDS)
def test_a_board_with_256_mib_takes_each_kind_of_bundle_and_evaluates(
    small_board: Address, made: Any, edgedistill: Any, kind: str
) -> None:
    fitted = made(kind)
    deployed = edgedistill("deploy", fitted.bundle, "--target", small_board, "--as", "small")
    assert deployed.code == 0, deployed.err
    split = fitted.out / "test.jsonl" if kind.startswith("text") else fitted.test_split
    with Board(small_board) as connected:
        connected.bring(fitted.bundle)
        connected.put(split.name, split)
        done = connected.run("evaluate", "small", split.name, "--json")
        assert connected.run("remove", "small").exit_code == 0
    assert done.exit_code == 0, done.stderr
    evaluated = json.loads(done.stdout)
    assert evaluated["value"] == pytest.approx(fitted.report["student"]["metric"], abs=0.002)


@arm64
def test_a_service_is_written_that_runs_what_was_deployed(
    board: HeldBoard, fitted: Fitted, edgedistill: Any
) -> None:
    source, refusal = "--source-cmd 'cat /dev/video0'", "it is installed, but not as a service: "
    root = dataclasses.replace(board.member.address, user="root")

    def deploy(address: Address, arguments: str) -> Any:
        options = ("--as", "served", "--service", arguments)
        return edgedistill("deploy", fitted.bundle, "--target", address, *options)

    sent = deploy(board.member.address, source)
    assert sent.code == 2
    assert refusal in sent.err
    assert "this needs root, and there is no sudo" in sent.err
    path = "/etc/systemd/system/edgedistill-served.service"
    sent = deploy(root, f"{source} --framing bad")
    assert sent.code == 2
    assert refusal in sent.err
    assert run_there(root, "ls", path).code != 0
    sent = deploy(root, f"{source} --extra-ram-mib 8")
    assert sent.code == 0, sent.err
    unit = run_there(root, "cat", path).out
    (start,) = re.findall("^ExecStart=(.*)", unit, re.MULTILINE)
    assert start.endswith('predict served --source-cmd "cat /dev/video0"')
    # with the unit's own environment, its program finds runtime, engine and bundle
    settings = re.findall("^Environment=(.*)", unit, re.MULTILINE)
    program = [*settings, *start.split(" predict ")[0].split()]
    there = run_there(root, "env", "-i", *program, "verify", "served")
    assert there.code == 0, there.err
    assert run_there(root, "env", "-i", *program, "remove", "served").code == 0
    board.bring(fitted.bundle)
    assert board.run("remove", "served").exit_code == 0


CUT = """#!/bin/sh
exec timeout --signal KILL --foreground "$CUT_AFTER" {ssh} "$@"
"""


@arm64
def test_a_connection_that_is_cut_at_any_moment_of_deploy_leaves_a_model_that_works(
    board: HeldBoard, fitted: Fitted, edgedistill: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    first, second = bundle.read(fitted.bundle), tmp_path / "second.edge"
    manifest = dataclasses.replace(first.manifest, version=first.manifest.version + 1)
    bundle.write(second, manifest, first.files)
    paths = {first.id: fitted.bundle, bundle.read(second).id: second}
    options = ("--target", board.member.address, "--as", "cut", "--allow-downgrade")
    assert edgedistill("deploy", fitted.bundle, *options).code == 0
    start = time.monotonic()
    assert edgedistill("deploy", second, *options).code == 0
    whole = time.monotonic() - start

    ssh = tmp_path / "ssh"
    ssh.write_text(CUT.format(ssh=shutil.which("ssh")))
    ssh.chmod(0o755)
    board.bring(fitted.bundle)
    chance, ends = random.Random(0), []
    for _ in range(CUTS):
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            patch.setenv("CUT_AFTER", f"{chance.uniform(0.1, 1.2) * whole:.2f}")
            active = json.loads(board.run("inspect", "cut", "--json").stdout)["id"]
            (other,) = paths.keys() - {active}
            sent = edgedistill("deploy", paths[other], *options)
        assert sent.code in (0, 2)
        if sent.code:
            assert len(sent.err.strip().splitlines()) == 1, sent.err
        # the board goes on to the end of what it had been told, or stops it
        now = json.loads(board.run("inspect", "cut", "--json").stdout)["id"]
        assert now == other if sent.code == 0 else now in paths
        ends.append(sent.code)
    assert set(ends) == {0, 2}
    assert board.run("verify", "cut").exit_code == 0
    assert edgedistill("deploy", fitted.bundle, *options).code == 0
    assert board.run("remove", "cut").exit_code == 0


@armhf
def test_a_32_bit_board_runs_the_command_line(board: HeldBoard, shell: Any) -> None:
    assert shell("python3", "-c", "import numpy").code == 0
    board.connected.provide(Needs("tflite"))
    done = board.run("--help")
    assert done.exit_code == 0, done.stderr
    assert "verify" in done.stdout


@armhf
def test_a_board_without_the_engine_says_so_in_one_sentence(
    board: HeldBoard, fitted: Fitted, edgedistill: Any
) -> None:
    board.connected.provide(Needs("tflite"))
    board.put("model.edge", fitted.bundle)
    done = board.run("verify", "model.edge")
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "onnxruntime" in done.stderr
    sent = edgedistill("bench", fitted.bundle, "--target", board.member.address)
    assert sent.code == 2
    assert len(sent.err.strip().splitlines()) == 1, sent.err
    assert "has no wheel of onnxruntime" in sent.err
    assert "armv7l" in sent.err


@pytest.mark.board(needs=["cortex-a8"])
def test_an_engine_that_is_built_for_newer_processors_is_refused_in_one_sentence(
    board: HeldBoard, tflite_bundle: Path, edgedistill: Any
) -> None:
    sent = edgedistill("deploy", tflite_bundle, "--target", board.member.address, "--json")
    assert sent.code == 2
    assert len(sent.err.strip().splitlines()) == 1, sent.err
    assert "uses instructions that this processor does not have" in sent.err
    board.connected.provide(Needs("tflite"))
    assert json.loads(board.run("list", "--json").stdout)["bundles"] == []


@arm64
def test_of_three_boards_a_broken_one_does_not_keep_the_others_from_the_bundle(
    board: HeldBoard, small_board: Address, fitted: Fitted, edgedistill: Any, tmp_path: Path
) -> None:
    hosts = {"first": board.member.address, "broken": "ssh://nobody", "second": small_board}
    fleet = tmp_path / "boards.toml"
    fleet.write_text("".join(f'[{name}]\nhost = "{host}"\n' for name, host in hosts.items()))
    sent = edgedistill("deploy", fitted.bundle, "--targets", fleet, "--as", "fleet", "--json")
    assert sent.code == 1, sent.err
    reasons = [row["reason"] for row in sent.row["boards"]]
    assert sent.row["count"] == {"installed": 2, "unchanged": 0, "failed": 1, "not started": 0}, (
        reasons
    )
    assert [row["board"] for row in sent.row["boards"]] == ["first", "broken", "second"]
    assert "cannot reach ssh://nobody" in reasons[1]
    table = sent.err[sent.err.rindex("\nfirst ") :].splitlines()[1:]
    assert [line.split()[0] for line in table[:3]] == ["first", "broken", "second"], sent.err


@arm64
def test_a_board_whose_times_mean_nothing_is_measured_and_not_believed(
    board: HeldBoard, edgedistill: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    options = ("--max-seconds", "2", "--allow-busy", "--fresh", "--save", "hil-test")
    sent = edgedistill("calibrate", "--target", board.member.address, *options)
    assert sent.code == 2, sent.err
    assert "emulated board, whose times mean nothing" in sent.err
    assert list(tmp_path.rglob("*.toml")) == []
