"""Emulated boards for the tests: started by `board.sh`, reached over SSH like a real one."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

SCRIPT = Path(__file__).with_name("board.sh")
RUNTIME = Path(__file__).parents[2] / "runtime" / "edgedistill_runtime"
REMOTE = "edgedistill-run"  # in the board's home; no name that Python could take for a package
CANNOT = 77  # board.sh: this machine cannot have such a board


@dataclass(frozen=True)
class Board:
    ssh_config: Path

    def run(
        self, *words: str, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the board; its exit code is never raised."""
        # Without the `exit`, ssh answers 255 for a command that was killed, and not 128 + signal.
        remote = f"{shlex.join(words)}; exit $?"
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), "--", "board", remote],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    def put(self, local: Path, remote: str) -> None:
        """Copy a file or folder to the board, relative to the home folder."""
        subprocess.run(
            ["scp", "-q", "-r", "-F", str(self.ssh_config), "--", str(local), f"board:{remote}"],
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )

    def runtime(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`edgedistill-run ARGS`, from the copied package: the board has no pip."""
        return self.python("-m", "edgedistill_runtime", *args, timeout=timeout)

    def python(self, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """The board's Python, which finds the copied package."""
        return self.run("env", f"PYTHONPATH={REMOTE}", "python3", *args, timeout=timeout)


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest, runtime_copy: Path) -> Iterator[Board]:
    """A 64-bit board with onnxruntime."""
    with emulated_board(request, runtime_copy, arch="arm64") as started:
        yield started


@pytest.fixture(scope="session")
def small_board(request: pytest.FixtureRequest, runtime_copy: Path) -> Iterator[Board]:
    """A 64-bit board that kills what takes more than 256 MiB in all."""
    with emulated_board(request, runtime_copy, arch="arm64", ram_mib=256) as started:
        yield started


@pytest.fixture(scope="session")
def armhf_board(request: pytest.FixtureRequest, runtime_copy: Path) -> Iterator[Board]:
    """A 32-bit board: numpy is the system's own, and there is no onnxruntime."""
    with emulated_board(request, runtime_copy, arch="armhf") as started:
        yield started


@pytest.fixture(scope="session")
def runtime_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's sources alone, for the boards."""
    folder = tmp_path_factory.mktemp("board") / REMOTE
    shutil.copytree(RUNTIME, folder / RUNTIME.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextmanager
def emulated_board(
    request: pytest.FixtureRequest, runtime: Path, arch: str, ram_mib: int = 0
) -> Iterator[Board]:
    required = request.config.getoption("--require-boards")
    # With the process id in its name and a free port, test runs do not meet.
    env = os.environ | {
        "BOARD_ARCH": arch,
        "BOARD_NAME": f"{arch}-{ram_mib}-{os.getpid()}",
        "BOARD_PORT": str(_free_port()),
        "BOARD_MEM": str(ram_mib),
    }
    if importlib.util.find_spec("pip"):
        env.setdefault("BOARD_PYTHON", sys.executable)

    # Only who asks for boards gets packages installed on the machine.
    for step in ["make"] if required else ["check", "make"]:
        done = subprocess.run(
            ["bash", str(SCRIPT), step],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode == CANNOT and not required:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        if done.returncode != 0:
            _fail(step, done.stderr)

    # The board lives as long as the pipe to its keeper: it ends even where pytest is killed.  A
    # session of its own keeps Ctrl-C from it, so that it is stopped once, by the `finally`.
    keeper = subprocess.Popen(
        ["bash", str(SCRIPT), "hold"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        assert keeper.stdout is not None
        ssh_config = keeper.stdout.readline().strip()
        if not ssh_config:
            _fail("hold", keeper.communicate()[1])
        started = Board(Path(ssh_config))
        started.put(runtime, REMOTE)
        yield started
    finally:
        keeper.communicate()


def _fail(step: str, stderr: str) -> NoReturn:
    pytest.fail(f"board.sh {step}: {stderr.strip()}", pytrace=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
