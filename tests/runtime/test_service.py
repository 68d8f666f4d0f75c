"""The systemd unit: what it runs, what it may, and the words a service says to systemd."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from edgedistill_runtime import service
from edgedistill_runtime.errors import EdgeDistillError


@pytest.fixture
def installed(run, edge, tmp_path, monkeypatch):
    """A state folder with the small bundle in it, under its name "tiny"."""
    monkeypatch.setenv("EDGEDISTILL_STATE", str(tmp_path / "state"))
    assert run("install", edge).code == 0
    return tmp_path / "state"


def settings(text):
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {line.split("=", 1)[0]: line.split("=", 1)[1] for line in lines}


def test_the_unit_runs_predict_on_the_installed_bundle(run, installed):
    said = run("service", "tiny", "-")
    assert (said.code, said.err) == (0, "")
    found = settings(said.out)
    command = [sys.executable, "-m", "edgedistill_runtime", "predict", "tiny", "-"]
    assert shlex.split(found["ExecStart"]) == command
    assert found["Environment"] == f"EDGEDISTILL_STATE={installed}"
    assert (found["Type"], found["WatchdogSec"]) == ("notify", "30")


def test_the_budget_is_the_limit_of_memory(run, installed):
    assert settings(run("service", "tiny", "-").out)["MemoryMax"] == str(4096 * 2**20)
    more = run("service", "tiny", "-", "--extra-ram-mib", "4")
    assert settings(more.out)["MemoryMax"] == str(4100 * 2**20)
    assert "MemoryMax" not in service.unit("tiny", ["-"], installed, None)


def test_what_predict_refuses_is_refused_before_there_is_a_unit(run, installed):
    said = run("service", "tiny", "-", "--frobnicate")
    assert (said.code, said.out) == (2, "")
    assert "--frobnicate" in said.sentence()


def test_a_bundle_that_is_not_installed_has_no_unit(run, installed):
    said = run("service", "tinny", "-")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 'tiny'?" in said.sentence()


def test_camera_and_microphone_are_reachable_and_the_network_is_not(installed):
    text = service.unit("tiny", ["-"], installed, 64)
    for device in ("char-video4linux", "char-media", "char-alsa"):
        assert f"DeviceAllow={device} rw\n" in text
    assert "PrivateDevices" not in text
    found = settings(text)
    assert "AF_INET" not in found["RestrictAddressFamilies"]
    assert found["CapabilityBoundingSet"] == ""
    assert found["ProtectSystem"] == "strict"


def test_code_may_be_made_only_by_a_sources_command(installed):
    assert "MemoryDenyWriteExecute=yes" in service.unit("tiny", ["-"], installed, 64)
    with_source = service.unit("tiny", ["--source-cmd", "arecord"], installed, 64)
    assert "MemoryDenyWriteExecute" not in with_source


def test_a_source_runs_in_the_service(run, installed, tmp_path):
    program = tmp_path / "camera.py"  # /tmp is hidden from a service
    program.write_text("")
    command = f"python3 {program} --size 8x8"
    options = ["--source-cmd", command, "--framing", "rgb24:8x8", "--source-timeout", "5"]
    said = run("service", "tiny", *options)
    assert (said.code, said.err) == (0, "")
    assert shlex.split(settings(said.out)["ExecStart"])[5:] == options
    assert settings(said.out)["KillMode"] == "mixed"  # the program ends its source itself
    assert f"BindReadOnlyPaths={program}\n" in said.out
    joined = run("service", "tiny", f"--source-cmd={command}")
    assert f"BindReadOnlyPaths={program}\n" in joined.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Missing argument 'INPUTS...', or --source-cmd"),
        (("-", "--source-cmd", "cat"), "not both"),
        (("--source-cmd", "'cat"), "No closing quotation"),
        (("--source-cmd", "cat", "--framing", "s16le"), "'s16le' is none for samples of kind"),
    ],
)
def test_a_source_that_cannot_be_gives_no_unit(run, installed, options, sentence):
    said = run("service", "tiny", *options)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.sentence()


def test_what_systemd_would_read_into_a_word_stays_a_word(installed):
    words = ['a "b" $HOME %h \\ c', "d;e", ";"]
    line = settings(service.unit("tiny", words, installed, 64))["ExecStart"]
    assert line.endswith(' "a \\"b\\" $$HOME %%h \\\\ c" "d;e" ";"')
    with pytest.raises(EdgeDistillError, match="control characters"):
        service.unit("tiny", ["a\nExecStartPre=/bin/true"], installed, 64)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_finds_nothing_wrong_with_the_unit(installed, tmp_path):
    path = tmp_path / "edgedistill-tiny.service"
    text = service.unit("tiny", ["--source-cmd", "arecord -t 'raw' | cat"], installed, 64)
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert complaints == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs units")
def test_install_writes_what_was_printed(run, installed, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "UNITS", tmp_path)
    for _ in range(2):  # our own unit is replaced
        said = run("service", "tiny", "-", "--install")
        assert said.code == 0
        path = tmp_path / "edgedistill-tiny.service"
        assert path.read_text(encoding="utf-8") == said.out
        assert "systemctl daemon-reload" in said.err
    path.write_text("[Unit]\n", encoding="utf-8")
    said = run("service", "tiny", "-", "--install")
    assert said.code == 2
    assert "was not written by" in said.sentence()
    assert path.read_text(encoding="utf-8") == "[Unit]\n"


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A made-up one, which notes what it is told and ends as it is told to.  -> its notes"""
    notes = tmp_path / "notes"
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    how = 'echo "$@" >> "$NOTES"; [ "$1" != "$FAILS" ] || exec sh -c "$HOW"'
    program.write_text(f"#!/bin/sh\n{how}\n")
    program.chmod(0o755)
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "UNITS", tmp_path)
    monkeypatch.setattr(service, "BOOTED", tmp_path)
    monkeypatch.setattr(service.os, "geteuid", lambda: 0)
    return notes


def test_systemd_is_told_to_run_it_now_and_at_every_boot(run, installed, systemctl):
    said = run("service", "tiny", "-", "--install", "--now")
    assert said.code == 0
    assert "it runs" in said.err
    unit = "edgedistill-tiny.service"
    told = systemctl.read_text().splitlines()
    assert told == ["daemon-reload", f"enable {unit}", f"restart {unit}"]


def test_where_systemd_does_not_run_the_unit_is_written_and_waits(
    run, installed, systemctl, monkeypatch, tmp_path
):
    monkeypatch.setattr(service, "BOOTED", tmp_path / "no")
    said = run("service", "tiny", "-", "--install", "--now")
    assert said.code == 0
    assert "systemd does not run here" in said.err
    assert not systemctl.exists()
    assert (tmp_path / "edgedistill-tiny.service").exists()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            "echo Job failed. >&2; exit 1",
            "systemctl restart edgedistill-tiny.service: Job failed.;",
        ),
        ("exit 4", "it ended with 4; see journalctl -u edgedistill-tiny.service"),
    ],
)
def test_a_unit_that_does_not_start_is_one_sentence(
    run, installed, systemctl, monkeypatch, how, sentence
):
    monkeypatch.setenv("FAILS", "restart")
    monkeypatch.setenv("HOW", how)
    said = run("service", "tiny", "-", "--install", "--now")
    assert said.code == 2
    assert sentence in said.err.splitlines()[-1]


def test_now_is_for_what_is_written(run, installed):
    said = run("service", "tiny", "-", "--now")
    assert (said.code, said.out) == (2, "")
    assert "give --install too" in said.sentence()


def test_a_runtime_that_was_copied_and_not_installed_is_found_by_the_unit(installed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/home/pi/.cache/a:relative:/opt/b c")
    text = service.unit("tiny", ["-"], installed, 64)
    assert 'Environment="PYTHONPATH=/home/pi/.cache/a:/opt/b c"\n' in text
    assert "BindReadOnlyPaths=/home/pi/.cache/a\n" in text
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in service.unit("tiny", ["-"], installed, 64)


def test_install_is_roots(run, installed, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "UNITS", tmp_path)
    monkeypatch.setattr(service.os, "geteuid", lambda: 1000)
    said = run("service", "tiny", "-", "--install")
    assert said.code == 2
    assert "only root may write" in said.sentence()
    assert not list(tmp_path.glob("*.service"))


@pytest.mark.parametrize("kind", ["file", "abstract"])
def test_systemd_hears_what_is_said(tmp_path, monkeypatch, kind):
    address = str(tmp_path / "s") if kind == "file" else f"@edgedistill-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0", 1) if kind == "abstract" else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert service.notify("READY=1")
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens"])
def test_nobody_has_to_listen(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not service.notify("READY=1")


def _told(path, seconds):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    listener.settimeout(seconds)
    return listener


def test_a_service_tells_that_it_is_ready_and_ends_cleanly_on_sigterm(tmp_path, edge):
    with _told(tmp_path / "notify", 60) as listener:
        service = subprocess.Popen(
            [sys.executable, "-m", "edgedistill_runtime", "predict", str(edge), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        assert listener.recv(64) == b"READY=1"
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=60)
        assert service.returncode == 0
        assert listener.recv(64) == b"STOPPING=1"
