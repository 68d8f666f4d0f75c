"""Boards over SSH: a real sshd on loopback where there is one, and a made-up `ssh` for what fails.

The board is this machine with another PATH and another home, so nothing here times anything.
"""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.runtime.runtime_support import tiny_manifest

from edgedistill import boards
from edgedistill import calibrate as calibration
from edgedistill.boards import Address, Board, BoardError, ConnectionLost, Facts, Needs, connection
from edgedistill.boards import wheels as wheeling
from edgedistill.calibrate import folder as packs_folder
from edgedistill.calibrate import remote
from edgedistill.cli import main
from edgedistill.errors import SettingsError
from edgedistill.progress import Silent
from edgedistill_runtime import bundle
from edgedistill_runtime import calibrate as runtime_calibrate
from edgedistill_runtime.store import Store

WAIT_SECONDS = 20
AGENT_BYTES = Path(boards.__file__).with_name("agent.py").stat().st_size


@dataclass(frozen=True)
class Fake:
    """A board of this machine: where its home is, and how it is reached."""

    url: str
    home: Path

    @property
    def store(self) -> Store:
        return Store(self.home / "state/edgedistill")

    @property
    def wheels(self) -> list[str]:
        folder = self.home / "cache/edgedistill/wheels"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def left_over(self) -> list[str]:
        """What is in the folder for temporary files, once the board has tidied up."""
        end = time.monotonic() + WAIT_SECONDS
        while (found := os.listdir(self.home / "tmp")) and time.monotonic() < end:
            time.sleep(0.02)
        return found


def environment(home: Path, path: str) -> dict[str, str]:
    for name in ("tmp", "state", "cache"):
        (home / name).mkdir(parents=True, exist_ok=True)
    return {
        "HOME": str(home),
        "PATH": path,
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_STATE_HOME": str(home / "state"),
        "EDGEDISTILL_STATE": str(home / "state/edgedistill"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A PATH whose python3 has no packages."""
    folder = tmp_path_factory.mktemp("bare") / "python"
    venv.create(folder, symlinks=True)
    return f"{folder / 'bin'}:/usr/bin:/bin"


READY = f"{Path(sys.executable).parent}:/usr/bin:/bin"
"""A PATH whose python3 has the runtime and an engine: the one that runs these tests."""


@pytest.fixture(scope="session")
def sshd(tmp_path_factory, bare):
    """A server with a key for each board: `ready`, `bare`, `second`, `broken`."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here; on Debian: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it wants this folder, and makes none itself
    folder = tmp_path_factory.mktemp("sshd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys, hosts = [], []
    paths = {"ready": READY, "second": READY, "bare": bare, "broken": str(folder / "nothing")}
    for name in ("host", *paths):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    for name, path in paths.items():
        home = folder / f"home-{name}"
        variables = environment(home, path)
        options = ",".join(f'environment="{k}={v}"' for k, v in variables.items())
        keys.append(f"{options} {(folder / f'{name}.pub').read_text()}")
        hosts.append(
            f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder / name}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder / 'known'}\n  GlobalKnownHostsFile /dev/null\n"
        )
    hosts.append(hosts[0].replace("Host ready", "Host stranger").replace("/known", "/unknown"))
    hosts.append("Host nobody\n  HostName 127.0.0.1\n  Port 1\n")
    (folder / "keys").write_text("".join(keys))
    public = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (folder / "config").write_text("".join(hosts))
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'keys'}\nPermitUserEnvironment yes\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\nUsePAM no\n"
    )
    with (folder / "log").open("wb") as log:
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + WAIT_SECONDS
        while b"listening on" not in (folder / "log").read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                pytest.skip(f"sshd does not run here: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.02)
        yield folder
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@pytest.fixture
def reach(sshd, monkeypatch):
    """A board of the server by name, with nothing on it."""
    monkeypatch.setenv("EDGEDISTILL_SSH_CONFIG", str(sshd / "config"))

    def reach(name):
        home = sshd / f"home-{name}"
        for folder in ("tmp", "state", "cache"):
            shutil.rmtree(home / folder, ignore_errors=True)
            (home / folder).mkdir(parents=True)
        return Fake(f"ssh://{name}", home)

    return reach


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put a program of this Python source in the place of `ssh`."""
    folder = tmp_path / "ssh-bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def ssh(source):
        path = folder / "ssh"
        path.write_text(f"#!{sys.executable} -I\nimport json, os, subprocess, sys, time\n{source}")
        path.chmod(0o755)
        return "ssh://board"

    return ssh


LOCAL = """
environment, cut = {environment!r}, {cut!r}
child = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, env=environment)
sent = 0
while data := os.read(0, 4096):
    if cut is not None and sent + len(data) > cut:
        child.stdin.write(data[: cut - sent])
        child.stdin.close()
        print("client_loop: send disconnect: Broken pipe", file=sys.stderr)
        os._exit(255)
    sent += len(data)
    child.stdin.write(data)
    child.stdin.flush()
child.stdin.close()
sys.exit(child.wait())
"""


@pytest.fixture
def here(ssh, tmp_path):
    """A board that a made-up `ssh` reaches; its connection drops after `cut` bytes."""

    def here(cut=None, path=READY):
        home = tmp_path / "home"
        return Fake(ssh(LOCAL.format(environment=environment(home, path), cut=cut)), home)

    return here


@pytest.fixture
def edge(tmp_path):
    """Write a small bundle of some version; returns its path."""

    def edge(version=1, name="tiny", **changes):
        manifest, files = tiny_manifest("tiny")
        path = tmp_path / f"{name}-{version}.edge"
        bundle.write(path, dataclasses.replace(manifest, version=version, **changes), files)
        return path

    return edge


@pytest.fixture
def run(monkeypatch, capfd):
    """`edgedistill ARGUMENTS` in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgedistill", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Wheels of what is installed here: the same files, without the network."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("numpy", "click", "onnxruntime"):
        found = importlib.metadata.distribution(name)
        tags = [
            line.removeprefix("Tag: ")
            for line in (found.read_text("WHEEL") or "").splitlines()
            if line.startswith("Tag: ")
        ]
        with zipfile.ZipFile(folder / f"{name}-{found.version}-{tags[0]}.whl", "w") as wheel:
            for file in found.files or []:
                path = Path(str(found.locate_file(file)))
                if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                    wheel.write(path, str(file))
    return folder


# --- addresses, and what reaches a shell


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://garden", ["--", "garden"]),
        ("ssh://pi@garden.local/", ["-l", "pi", "--", "garden.local"]),
        ("ssh://pi@10.0.0.7:2222", ["-l", "pi", "-p", "2222", "--", "10.0.0.7"]),
        ("ssh://a@b@garden", ["-l", "a@b", "--", "garden"]),
        ("ssh://pi@[fe80::1%eth0]:22", ["-l", "pi", "-p", "22", "--", "fe80::1%eth0"]),
    ],
)
def test_an_address_becomes_words_for_ssh(text, words):
    address = Address.parse(text)
    assert address.words() == words
    assert Address.parse(str(address)) == address


HOSTILE = ["a b", "a'b", 'a"b', "$(id)", "`id`", "a\nb", "-oProxyCommand=id", "a;b", "a&b", "é", ""]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["ssh://{}", "ssh://{}@garden", "ssh://garden:{}", "{}"])
def test_no_other_words_are_an_address(place, text):
    if (place, text) == ("ssh://{}@garden", ""):
        return  # no user: the configuration's
    with pytest.raises(SettingsError):
        Address.parse(place.format(text))


@pytest.mark.parametrize("port", ["0", "65536", "x", "22 "])
def test_a_port_is_a_number(port):
    with pytest.raises(SettingsError, match="is no port"):
        Address.parse(f"ssh://garden:{port}")


def test_ssh_gets_the_host_after_two_dashes_and_one_quoted_command(ssh, tmp_path):
    seen = tmp_path / "seen.json"
    ssh(f"json.dump(sys.argv[1:], open({str(seen)!r}, 'w')); sys.exit(255)")
    with pytest.raises(BoardError):
        Board(Address.parse("ssh://pi@garden:2222"))
    *words, remote_command = json.loads(seen.read_text())
    assert words == ["-T", "-o", "BatchMode=yes", "-l", "pi", "-p", "2222", "--", "garden"]
    python, dash_c, program, size = shlex.split(remote_command.removeprefix("exec "))
    assert (python, dash_c) == ("python3", "-c")
    compile(program, "program", "exec")
    assert int(size) > 1000


@pytest.mark.parametrize("text", ["a b", "a'b", 'a"b', "$(touch x)", "a\nb", "-x", "a;b"])
def test_a_hostile_path_is_only_a_path(here, edge, run, tmp_path, monkeypatch, text):
    board = here()
    folder = tmp_path / "bundles" / text
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    hostile = edge().rename(folder / f"{text}.edge")
    code, _, err = run("deploy", hostile, "--target", board.url)
    assert code == 0, err
    assert board.store.names() == ["tiny"]
    assert os.listdir(folder) == [hostile.name]


@pytest.mark.parametrize("name", ["$(touch x)", "a b", "-x", "../a", "a\nb"])
def test_a_hostile_name_is_refused_by_the_board_and_by_no_shell(here, edge, run, name):
    board = here()
    code, _, err = run("deploy", edge(), "--target", board.url, f"--as={name}")
    assert code == 2
    assert "cannot be one here" in err
    assert board.store.names() == []
    assert not (board.home / "x").exists()


# --- which wheels


def facts(**changes):
    plain = Facts("aarch64", 64, (3, 11), "CPython", "glibc 2.36", "", False, {})
    return dataclasses.replace(plain, **changes)


def test_every_older_manylinux_is_listed_because_pip_adds_none():
    tags = wheeling.platforms(facts(libc="glibc 2.28"))
    assert tags[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64", "any"} <= set(tags)
    assert not any("2_29" in tag for tag in tags)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"python": (3, 9)}, "it has Python 3.9"),
        ({"machine": "armv6l", "bits": 32}, "no wheels for armv6l"),
        ({"machine": "x86_64", "bits": 32}, "no wheels for i686"),
        ({"libc": ""}, "glibc"),
        ({"implementation": "PyPy"}, "PyPy"),
    ],
)
def test_a_board_that_can_never_have_the_runtime_is_told_why(changes, sentence):
    with pytest.raises(boards.WheelError, match=sentence):
        wheeling.check(facts(**changes))


def test_a_32_bit_user_land_on_a_64_bit_kernel_is_armv7l():
    assert facts(bits=32).architecture == "armv7l"


def test_what_a_board_has_is_not_copied():
    missing = wheeling.wanted(facts(), Needs("onnx", engine_version="1.30.0", extras=("text",)))
    assert [row.split("=")[0].rstrip(">") for row in missing] == [
        "onnxruntime",
        "numpy",
        "click",
        "tokenizers",
    ]
    has = {"numpy": "1.24.2", "onnxruntime": "1.26.0"}
    assert [row[:5] for row in wheeling.wanted(facts(installed=has), Needs())] == ["click"]
    old = has | {"numpy": "1.23.5"}
    assert [row[:5] for row in wheeling.wanted(facts(installed=old), Needs())] == ["numpy", "click"]


def test_32_bit_arm_gets_the_older_engine_and_the_numpy_that_it_works_with():
    arm, tflite = facts(bits=32), Needs("tflite", "ai-edge-litert", "2.3.0")
    has = {"numpy": "1.24.2", "click": "8.1.3"}
    (engine,) = wheeling.wanted(dataclasses.replace(arm, installed=has), tflite)
    assert engine.startswith("tflite-runtime")
    assert "==" not in engine
    new = dataclasses.replace(arm, installed=has | {"numpy": "2.1.0"})
    assert wheeling.wanted(new, tflite)[-1] == "numpy>=1.24,<2"
    (engine,) = wheeling.wanted(facts(installed=has), tflite)
    assert engine == "ai-edge-litert==2.3.0"


def test_another_version_of_the_engine_will_not_do_for_a_calibration():
    has = {"numpy": "2.0", "click": "8.2", "onnxruntime": "1.26.0"}
    exact = Needs("onnx", "onnxruntime", "1.32.0", exactly=True)
    assert wheeling.wanted(facts(installed=has), exact) == ["onnxruntime==1.32.0"]
    assert wheeling.wanted(facts(installed=has | {"onnxruntime": "1.32.0"}), exact) == []


def test_a_folder_without_the_wheel_is_named_with_what_was_wanted(tmp_path):
    board = facts(machine="armv7l", bits=32, installed={"numpy": "1.24.2", "click": "8.1.3"})
    with pytest.raises(boards.WheelError) as refusal:
        wheeling.find(board, Needs("onnx", "onnxruntime", "1.32.0"), tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path} has no wheel of onnxruntime>=1.24 for Python 3.11 on armv7l with glibc 2.36"
    )


def test_the_runtimes_wheel_is_this_hosts_runtime_and_always_the_same(tmp_path):
    made = wheeling.runtime_wheel()
    before = made.read_bytes()
    made.unlink()
    assert wheeling.runtime_wheel().read_bytes() == before
    with zipfile.ZipFile(made) as wheel:
        wheel.extractall(tmp_path)
    program = (
        "import importlib.metadata as m, edgedistill_runtime as r;"
        "print(r.__version__ == m.version('edgedistill-runtime'), r.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", str(tmp_path / "edgedistill_runtime/__init__.py")]


# --- a fleet's file


@pytest.fixture
def fleet(tmp_path):
    def fleet(text):
        path = tmp_path / "boards.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return fleet


TWO = """
[garden]
host = "ssh://pi@garden"
profile = "rpi4"
tags = ["camera", "outside"]
[shed]
host = "shed"
"""


def test_a_fleet_is_a_table_a_board(fleet):
    path = fleet(TWO)
    garden, shed = boards.read(path)
    assert (garden.name, str(garden.address), garden.profile) == (
        "garden",
        "ssh://pi@garden",
        "rpi4",
    )
    assert (shed.name, str(shed.address), shed.profile) == ("shed", "ssh://shed", None)
    assert boards.read(f"{path}:outside") == [garden]


@pytest.mark.parametrize(
    ("text", "tag", "sentence"),
    [
        (TWO.replace("tags", "tag"), "", "garden: unknown key 'tag'; did you mean 'tags'"),
        (TWO.replace("ssh://pi@garden", "-oProxyCommand=id"), "", "garden: .* is no host"),
        ("[garden]\n", "", "garden: key 'host' is missing"),
        ("garden = 1\n", "", "a board is a table"),
        ("", "", "has no boards"),
        (TWO, ":inside", r"no board has the tag 'inside' \(known: camera, outside\)"),
    ],
)
def test_a_fleet_is_read_strictly(fleet, text, tag, sentence):
    with pytest.raises(SettingsError, match=sentence):
        boards.read(fleet(text) + tag)


# --- a real server


def test_bench_passes_on_what_the_board_says_and_leaves_nothing(reach, edge, run):
    board = reach("ready")
    options = ["--target", board.url, "--max-seconds", "0.2", "--latency-ms", "1000", "--json"]
    code, out, err = run("bench", edge(), *options)
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["verdict"], result["standing"]) == ("PASS", "measured elsewhere")
    assert "PASS: within the budget" in err
    assert (board.left_over(), board.wheels, board.store.names()) == ([], [], [])
    code, out, _ = run("bench", edge(), *options, "--size-mib", "0.0001")
    assert code == 1
    assert json.loads(out.splitlines()[-1])["verdict"] == "FAIL"


@pytest.mark.slow
def test_a_bare_board_gets_what_it_needs_once(reach, edge, run, wheels):
    board = reach("bare")
    options = ["--target", board.url, "--max-seconds", "0.1", "--wheels", wheels]
    code, _, err = run("bench", edge(), *options)
    assert code in (0, 1, 3), err
    assert len(board.wheels) == 4
    times = [
        path.stat().st_mtime_ns for path in (board.home / "cache/edgedistill/wheels").iterdir()
    ]
    assert run("bench", edge(), *options)[0] in (0, 1, 3)
    again = [
        path.stat().st_mtime_ns for path in (board.home / "cache/edgedistill/wheels").iterdir()
    ]
    assert (again, board.left_over()) == (times, [])
    with Board(Address.parse(board.url)) as connected:
        assert connected.provide(Needs(), wheels) == []
        assert connected.run("--version").exit_code == 0


@pytest.mark.slow
def test_without_the_cache_nothing_at_all_is_left(reach, edge, run, wheels):
    board = reach("bare")
    options = ["--target", board.url, "--max-seconds", "0.1", "--wheels", wheels, "--no-cache"]
    assert run("bench", edge(), *options)[0] in (0, 1, 3)
    assert (board.left_over(), board.wheels, os.listdir(board.home / "cache")) == ([], [], [])


def test_deploy_installs_and_a_second_one_copies_nothing(reach, edge, run):
    board = reach("ready")
    code, out, err = run("deploy", edge(), "--target", board.url, "--json")
    assert code == 0, err
    first = json.loads(out)["boards"][0]
    assert (first["status"], first["copied"]) == ("installed", ["tiny-1.edge"])
    assert board.store.open_active("tiny").id == json.loads(out)["bundle"]
    _, out, _ = run("deploy", edge(), "--target", board.url, "--json")
    second = json.loads(out)["boards"][0]
    assert (second["status"], second["copied"]) == ("unchanged", [])
    assert board.left_over() == []


def test_a_bundle_that_fails_on_the_board_does_not_replace_the_one_that_worked(reach, edge, run):
    board = reach("ready")
    assert run("deploy", edge(), "--target", board.url)[0] == 0
    budget = dataclasses.replace(tiny_manifest("tiny")[0].budget, peak_ram_mib=1.0)
    code, out, err = run("deploy", edge(2, budget=budget), "--target", board.url, "--json")
    assert code == 2
    assert "peak_ram_mib" in err
    assert json.loads(out)["boards"][0]["status"] == "failed"
    assert board.store.open_active("tiny").manifest.version == 1
    assert run("deploy", edge(0), "--target", board.url)[0] == 2, "a downgrade"
    assert run("deploy", edge(0), "--target", board.url, "--allow-downgrade")[0] == 0
    assert board.store.open_active("tiny").manifest.version == 0


def test_a_fleet_with_a_broken_board_is_deployed_to_the_others(reach, edge, run, fleet):
    good, broken, second = reach("ready"), reach("broken"), reach("second")
    text = "".join(f'[{b.url[6:]}]\nhost = "{b.url}"\n' for b in (good, broken, second))
    text += '[other]\nhost = "ssh://nobody"\nprofile = "rpi-zero-2w"\n'
    code, out, err = run("deploy", edge(), "--targets", fleet(text), "--json")
    assert code == 1
    made = json.loads(out)
    assert made["count"] == {"installed": 2, "unchanged": 0, "failed": 2, "not started": 0}
    rows = {row["board"]: row for row in made["boards"]}
    assert list(rows) == ["ready", "broken", "second", "other"]
    assert "no python3" in rows["broken"]["reason"]
    assert "is a rpi-zero-2w" in rows["other"]["reason"]
    assert err.count("\nready ") == 1, "a row of the table"
    assert good.store.names() == second.store.names() == ["tiny"]


def test_no_more_boards_are_started_after_so_many_failures(reach, edge, run, fleet):
    good = reach("ready")
    text = '[a]\nhost = "ssh://nobody"\n[b]\nhost = "ssh://ready"\n[c]\nhost = "ssh://ready"\n'
    options = ["--targets", fleet(text), "--max-failures", "1", "--at-once", "1", "--json"]
    code, out, _ = run("deploy", edge(), *options)
    assert code == 1
    assert [row["status"] for row in json.loads(out)["boards"]] == [
        "failed",
        "not started",
        "not started",
    ]
    assert good.store.names() == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stranger", "the host key of ssh://stranger is not known"),
        ("nobody", "cannot reach ssh://nobody: .*refused"),
        ("broken", "ssh://broken has no python3"),
    ],
)
def test_a_board_that_cannot_be_used_is_one_sentence(reach, edge, run, sshd, name, sentence):
    reach("ready")
    code, out, err = run("bench", edge(), "--target", f"ssh://{name}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(sentence, err), err


# --- connections that drop


def deployed(board, edge, run):
    assert run("deploy", edge(1), "--target", board.url)[0] == 0


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 50))]
)
def test_a_connection_that_drops_at_any_moment_leaves_what_worked(here, edge, run, seed):
    deployed(here(), edge, run)
    whole = AGENT_BYTES + edge(2).stat().st_size
    board = here(cut=random.Random(seed).randrange(whole + 500))
    code, _, err = run("deploy", edge(2), "--target", board.url)
    assert board.left_over() == []
    version = board.store.open_active("tiny").manifest.version
    assert (code, version) in ((0, 2), (2, 1), (2, 2)), err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    code, _, err = run("deploy", edge(2), "--target", here().url)
    assert code == 0, err
    assert board.store.open_active("tiny").manifest.version == 2
    assert os.listdir(board.store.folder / "staging") == []


def test_what_runs_on_the_board_ends_with_the_connection(here, edge):
    """A pipe that nobody writes to keeps `predict` waiting until it is stopped."""
    board = here()
    connected = Board(Address.parse(board.url))
    connected.provide(Needs())
    connected.put("model.edge", edge())
    (name,) = os.listdir(board.home / "tmp")
    pipe = board.home / "tmp" / name / "forever.jsonl"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(connected.run, "predict", "model.edge", pipe.name)
        end = time.monotonic() + WAIT_SECONDS
        while (writer := opened(pipe)) is None and time.monotonic() < end:
            time.sleep(0.02)
        assert writer is not None, "predict reads"
        connected.close()
        assert isinstance(running.exception(WAIT_SECONDS), ConnectionLost)
    assert board.left_over() == []
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"is anybody there?")
    os.close(writer)


def opened(pipe):
    """The pipe to write to, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_a_lost_connection_says_so(here, edge):
    connected = Board(Address.parse(here(cut=200_000).url))
    connected.provide(Needs())
    big = edge().with_name("big")
    big.write_bytes(bytes(400_000))
    with connected:
        connected.put("big", big)
        with pytest.raises(ConnectionLost, match="was lost"):
            connected.run("list")


DEAF = 'os.close(0); sys.stdout.write(\'{"kind": "hello", "size": 0}\\n\');'
HELLO = 'sys.stdout.write(\'{"kind": "hello", "size": 0}\\n\');'


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("sys.exit('Host key verification failed.')", "the host key of ssh://board"),
        ("sys.exit('pi@board: Permission denied (publickey).')", "does not let this user in"),
        ("sys.exit('ssh: Could not resolve hostname board')", "Could not resolve"),
        ("print('sh: 1: exec: python3: not found', file=sys.stderr); sys.exit(127)", "no python3"),
        ("sys.exit('edgedistill: python 3.5')", "has Python 3.5"),
        ("sys.exit(7)", "ssh ended with 7"),
        ("print('x' * 10**6)", "its shell must print nothing"),
        ("sys.exit('\\x1b[2Jgone')", r"\[2Jgone$"),
        (HELLO + "print('garbage')", "does not understand"),
        (HELLO + "print('[' * 4000)", "does not understand"),
        (HELLO + "print('y' * 10**6)", "does not understand"),
        (HELLO + "print(json.dumps({'kind': 'facts', 'size': 10**9}))", "does not understand"),
        (HELLO + "print(json.dumps({'kind': 'facts', 'size': -1}))", "does not understand"),
        (HELLO + "print(json.dumps({'kind': 'facts', 'size': 2}) + '\\n{}')", "strangely"),
        (HELLO + "print(json.dumps({'kind': 'exit', 'size': 0}))", "strangely"),
        (HELLO, "was lost"),
        # it does not listen any more when the first frame is written
        (DEAF + "print('garbage')", "does not understand"),
        (DEAF + "print(json.dumps({'kind': 'refused', 'size': 4}) + '\\nfull')", "board: full$"),
        (DEAF + "print(json.dumps({'kind': 'facts', 'size': 2}) + '\\n{}')", "strangely"),
        (DEAF + "print(json.dumps({'kind': 'exit', 'size': 0}))", "strangely"),
        (DEAF + "sys.exit('client_loop: disconnect')", r"was lost \(client_loop: disconnect\)"),
    ],
)
def test_whatever_answers_the_end_is_one_sentence(ssh, edge, run, source, sentence):
    code, out, err = run("bench", edge(), "--target", ssh(source))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(sentence, err.strip()), err
    assert "\x1b" not in err


@pytest.mark.parametrize(("greeting", "what"), [("", "does not answer"), (HELLO, "stopped")])
def test_a_board_that_says_nothing_is_not_waited_for_for_ever(ssh, monkeypatch, greeting, what):
    monkeypatch.setattr(connection, "GREETING_SECONDS", 5 if greeting else 0.5)
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "BYE_SECONDS", 0.1)
    url = ssh(f"{greeting}sys.stdout.flush(); time.sleep(60)")
    with pytest.raises(ConnectionLost, match=what):
        Board(Address.parse(url))


def test_a_board_that_says_too_much_is_stopped(ssh, monkeypatch, edge):
    monkeypatch.setattr(connection, "MAX_ALL", 1 << 20)
    frame = "json.dumps({'kind': 'alive', 'size': 60000}) + '\\n' + 'x' * 60000"
    with pytest.raises(BoardError, match="more than 1 MiB"):
        Board(Address.parse(ssh(f"{HELLO}\nwhile True: sys.stdout.write({frame})")))


def test_what_a_login_prints_is_passed_over(here, edge, run):
    board = here()
    path = Path(os.environ["PATH"].split(":")[0]) / "ssh"
    path.write_text(
        path.read_text().replace(
            "environment, cut", 'print("Welcome!", flush=True)\nenvironment, cut', 1
        )
    )
    with Board(Address.parse(board.url)) as connected:
        assert connected.facts.python == sys.version_info[:2]


def test_a_board_without_room_is_told_before_anything_is_copied(here, wheels, bare, monkeypatch):
    board = here(path=bare)
    real = Path(boards.__file__).with_name("agent.py").read_text()
    full = real.replace("SPARE_BYTES = 8 << 20", "SPARE_BYTES = 1 << 60")
    monkeypatch.setattr(connection.resources, "files", lambda package: _Text(full))
    with Board(Address.parse(board.url)) as connected, pytest.raises(BoardError, match="MiB free"):
        connected.provide(Needs(), wheels)
    assert (board.wheels, board.left_over()) == ([], [])


@dataclass(frozen=True)
class _Text:
    text: str

    def joinpath(self, name):
        return self

    def read_bytes(self):
        return self.text.encode()


# --- as a service


def test_what_cannot_be_a_service_is_installed_all_the_same(here, edge, run):
    board = here()
    options = ("--target", board.url, "--service", "- --frobnicate", "--json")
    code, out, err = run("deploy", edge(), *options)
    assert code == 2
    (row,) = json.loads(out)["boards"]
    assert (row["status"], row["exit_code"]) == ("failed", 2)
    assert row["reason"].startswith("it is installed, but not as a service: No such option")
    assert board.store.open_active("tiny").manifest.name == "tiny"
    assert "Traceback" not in err


def test_a_login_that_is_not_root_writes_services_by_sudo(here, edge, run, tmp_path, monkeypatch):
    """A made-up sudo, which notes what it is to run and refuses."""
    notes, programs = tmp_path / "notes", tmp_path / "programs"
    programs.mkdir()
    refuses = f'printf "%s\\n" "$@" > {notes}; echo sudo: a password is required >&2; exit 1'
    (programs / "sudo").write_text(f"#!/bin/sh\n{refuses}\n")
    (programs / "sudo").chmod(0o755)
    agent = Path(boards.__file__).with_name("agent.py").read_text()
    agent = agent.replace("os.geteuid() != 0", "True")
    monkeypatch.setattr(connection.resources, "files", lambda package: _Text(agent))
    board = here(path=f"{programs}:{READY}")
    options = ("--target", board.url, "--service", "--source-cmd 'cat a b' --extra-ram-mib 8")
    code, out, _ = run("deploy", edge(), *options, "--json")
    assert code == 2
    reason = json.loads(out)["boards"][0]["reason"]
    assert reason == "it is installed, but not as a service: sudo: a password is required"
    words = notes.read_text().splitlines()
    assert words[:2] == ["-n", "env"]
    assert f"EDGEDISTILL_STATE={board.store.folder}" in words
    end = ["service", "tiny", "--install", "--now", "--source-cmd", "cat a b"]
    assert words[-8:] == [*end, "--extra-ram-mib", "8"]


def test_a_service_line_that_no_shell_would_take_is_refused_before_anything(edge, run):
    code, out, err = run("deploy", edge(), "--target", "ssh://board", "--service", "'open")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--service" in err


# --- calibration


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A few packs in two stretches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return packs_folder.prepare(Silent(), count=runtime_calibrate.STRETCH // 2 + 2)


def measure(board, packs, results, max_seconds=120.0):
    with Board(Address.parse(board.url)) as connected:
        connected.provide(remote.needs())
        remote.measure(connected, packs, results, 1, max_seconds, True, Silent())


@pytest.mark.slow
def test_a_board_is_measured_stretch_by_stretch_and_gone_on_with(here, packs, tmp_path):
    """The connection drops while the second stretch is copied: the first one is kept."""
    results = tmp_path / "results.jsonl"
    index = runtime_calibrate.read_index(packs)
    first, second = index.packs[: len(index.packs) - 2], index.packs[-2:]
    last = sum((packs / pack.file).stat().st_size for pack in second)
    kept_here = packs_folder.KERNELS
    rest = sum(path.stat().st_size for path in packs.iterdir() if path.name != kept_here)
    cut = AGENT_BYTES + rest - last // 2
    with pytest.raises(ConnectionLost):
        measure(here(cut=cut), packs, results)
    kept = results.read_bytes()
    rows = [json.loads(line) for line in kept.splitlines()]
    assert rows[0]["kind"] == "about"
    measured = sorted(row["name"] for row in rows if row["kind"] == "pack")
    assert measured == sorted(2 * [pack.name for pack in first])
    with results.open("ab") as file:
        file.write(b'{"kind": "pack", "name": "to')  # as a host leaves it that was cut off
    board = here()
    measure(board, packs, results)
    assert results.read_bytes().startswith(kept)
    assert len(calibration.read(packs, results).measured) == len(index.packs)
    assert board.left_over() == []


def test_a_board_of_another_architecture_is_not_measured(here, run):
    board = here()
    code, _, err = run("calibrate", "--target", board.url, "--profile", "rpi4", "--save", "mine")
    if Facts.architecture.fget(facts(machine=os.uname().machine)) == "aarch64":
        pytest.skip("this machine is one of rpi4's architecture")
    assert code == 2
    assert "rpi4 is a board of aarch64; give the right one with --profile" in err


def test_bad_usage_is_one_sentence(run, edge, tmp_path):
    for arguments, sentence in (
        (("deploy", edge()), "either --target or --targets"),
        (("deploy", edge(), "--target", "a", "--targets", "b"), "either --target or --targets"),
        (("calibrate", "--target", "garden", "--save", "x"), "is not 'local' or ssh://"),
        (("calibrate", "--wheels", tmp_path, "--save", "x"), "--wheels needs a board"),
        (("bench", edge(), "--target", "garden"), "'garden' is no board"),
        (("deploy", edge(), "--targets", tmp_path / "none.toml"), "cannot be read"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert sentence in err
