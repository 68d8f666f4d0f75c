"""Boards for the tests: those of `--boards`, and else emulated ones, which `board.sh` starts.

An emulated board is an entry of a boards.toml like any other, and switched on when it is its turn.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tests import kinds, opinions
from tests.conftest import Fitted, run_fit
from tests.runtime import tflite_nets as nets
from tests.runtime.runtime_support import KINDS as SAMPLES
from tests.runtime.runtime_support import kind_manifest, kind_samples, listed

from edgedistill.boards import Address, Member
from edgedistill.boards.connection import CONFIG
from edgedistill.hil import HeldBoard
from edgedistill_runtime import arrays, bundle, preprocess
from edgedistill_runtime import manifest as contract

SCRIPT = Path(__file__).with_name("board.sh")
CANNOT = 77  # board.sh: this machine cannot have such a board
EMULATED = {
    "arm64": {"BOARD_ARCH": "arm64"},
    "cortex-a7": {"BOARD_ARCH": "armhf", "BOARD_CPU": "cortex-a7"},
    "cortex-a8": {"BOARD_ARCH": "armhf", "BOARD_CPU": "cortex-a8"},
}
"""What board.sh is told of each; their tags are `emulated`, the architecture and the name."""
KINDS = (
    *("image", "audio", "sensor", "text-static-float32", "text-static-int8"),
    *("text-transformer-float32", "text-transformer-int8"),
)
"""Of bundles, as `made` takes them."""
READINGS = kind_samples("sensor")
STEPS = (SAMPLES["sensor"][1][0], {"op": "insert_axis", "axis": -3})
FOLDER = pytest.StashKey[Path]()


@dataclass(frozen=True)
class Sent:
    """How a command ended that `ssh` or `edgedistill` ran."""

    code: int
    out: str
    err: str

    @property
    def row(self) -> dict[str, Any]:
        """The JSON line that comes last."""
        row: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return row


def pytest_configure(config: pytest.Config) -> None:
    """Without a boards.toml, one of emulated boards, and an ssh configuration that finds them."""
    if config.getoption("--boards", None) is not None:
        return
    folder = config.stash[FOLDER] = Path(tempfile.mkdtemp(prefix="edgedistill-boards-"))
    rows = [f'[{name}]\nhost = "{_host(name)}"\ntags = {_tags(name)}\n' for name in EMULATED]
    (folder / "boards.toml").write_text("".join(rows), encoding="utf-8")
    (folder / "ssh_config").write_text(
        f'Include "{folder}/run-*/ssh_config"\nHost nobody\n  HostName 127.0.0.1\n  Port 1\n',
        encoding="utf-8",
    )
    config.option.boards = str(folder / "boards.toml")
    os.environ[CONFIG] = str(folder / "ssh_config")


def pytest_unconfigure(config: pytest.Config) -> None:
    if FOLDER in config.stash:
        os.environ.pop(CONFIG, None)
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.fixture(scope="session")
def board_power(request: pytest.FixtureRequest, board_member: Member) -> Iterator[None]:
    if FOLDER in request.config.stash:
        with emulated(request.config, board_member.name):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def small_board(request: pytest.FixtureRequest) -> Iterator[Address]:
    """An emulated board that kills what takes more than 256 MiB in all, qemu included."""
    if FOLDER not in request.config.stash:
        pytest.skip("emulated boards are not started where others are given with --boards")
    with emulated(request.config, "small", {"BOARD_ARCH": "arm64", "BOARD_MEM": "256"}):
        yield Address.parse(_host("small"))


@pytest.fixture(scope="session")
def shell(board: HeldBoard) -> Callable[..., Sent]:
    """A command of the board's own, over SSH; its exit code is never raised."""
    return partial(run_there, board.member.address)


@pytest.fixture(scope="session")
def edgedistill() -> Callable[..., Sent]:
    """`edgedistill ARGUMENTS`, as a user starts it."""

    def edgedistill(*arguments: object, seconds: float = 300) -> Sent:
        command = [sys.executable, "-m", "edgedistill.cli", *map(str, arguments)]
        return _run(command, "", seconds)

    return edgedistill


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[[str], Fitted]:
    """A small bundle of a kind, fitted when it is asked for first."""
    known: dict[str, Fitted] = {}

    def made(kind: str) -> Fitted:
        if kind not in known:
            known[kind] = _fit(tmp_path_factory.mktemp("made"), cache, kind)
        return known[kind]

    return made


@pytest.fixture(scope="session")
def tflite_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network written by hand, for readings of sensors; its golden outputs are numpy's."""
    manifest, files = kind_manifest("sensor")
    contents = {
        "model.tflite": nets.cnn(channels_last=False).bytes(),
        "golden_inputs.npy": files["golden_inputs.npy"],
        "golden_outputs.npy": arrays.encode(numpy_answers()),
    }
    manifest = dataclasses.replace(
        manifest,
        backend=contract.Backend("tflite"),
        model="model.tflite",
        files=listed(contents),
        inputs=(contract.Tensor("image", "float32", (1, 1, 8, 8)),),
        outputs=(contract.Tensor("logits", "float32", (1, 10)),),
        preprocess=STEPS,
    )
    path = tmp_path_factory.mktemp("tflite") / "tflite.edge"
    bundle.write(path, manifest, contents)
    return path


def numpy_answers() -> np.ndarray[Any, Any]:
    """What the hand-made network makes of READINGS.  -> (samples, 10)"""
    images = preprocess.build(STEPS)(READINGS)  # (samples, 1, 8, 8)
    answers = [nets.cnn_answer(image[..., None]) for image in images]
    return np.concatenate(answers).astype(np.float32)


def _fit(folder: Path, cache: Path, kind: str) -> Fitted:
    """kind: image, audio, sensor, or text-FAMILY-PRECISION."""
    name, _, how = kind.partition("-")
    if name == "text":
        family, _, precision = how.partition("-")
        data = opinions.write_csv(folder / "opinions.csv", opinions.sentences(240))
        spec = opinions.STATIC if family == "static" else opinions.ENCODER
        teacher = "tests.opinions:Counts"  # one that nobody has to train
        options = opinions.recipe(data, family, spec, teacher=teacher, precision=precision)
        recipe = opinions.write_toml(folder / "recipe.toml", options)
    else:
        recipe = kinds.recipe(folder, kind, precision="int8")
    done = run_fit(folder / "out", cache, str(recipe))
    report = json.loads((folder / "out/report.json").read_text(encoding="utf-8"))
    return Fitted(folder / "out", report, done.stdout, done.stderr)


def run_there(address: Address, *words: str, stdin: str = "", seconds: float = 120) -> Sent:
    """A command in a shell of the board."""
    # Without the `exit`, ssh answers 255 for a command that was killed, and not 128 + signal.
    remote = f"{shlex.join(words)}; exit $?"
    config = os.environ.get(CONFIG)
    command = ["ssh", "-o", "BatchMode=yes", *(["-F", config] if config else [])]
    return _run([*command, *address.words(), remote], stdin, seconds)


@contextmanager
def emulated(config: pytest.Config, name: str, how: dict[str, str] | None = None) -> Iterator[None]:
    """An emulated board that runs, and is stopped again."""
    required = config.getoption("--require-boards")
    env = os.environ | (how or EMULATED[name])
    env |= {"BOARD_NAME": Address.parse(_host(name)).host}
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

    found = config.stash[FOLDER] / f"run-{name}"
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
        found.symlink_to(Path(ssh_config).parent)
        yield
    finally:
        found.unlink(missing_ok=True)
        keeper.communicate()


def _tags(name: str) -> list[str]:
    return sorted({"emulated", EMULATED[name]["BOARD_ARCH"], name})


def _host(name: str) -> str:
    """With the process id in its name, test runs do not meet."""
    return f"ssh://{name}-{os.getpid()}"


def _fail(step: str, stderr: str) -> NoReturn:
    pytest.fail(f"board.sh {step}: {stderr.strip()}", pytrace=False)


def _run(command: list[str], stdin: str, seconds: float) -> Sent:
    done = subprocess.run(
        command, input=stdin, capture_output=True, encoding="utf-8", timeout=seconds, check=False
    )
    return Sent(done.returncode, done.stdout, done.stderr)
