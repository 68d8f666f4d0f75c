"""Thousands of files that are no bundles: none is loaded, none crashes, none takes long.

Each ends with exit code 2 and exactly one sentence on stderr, in under 2 seconds.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.runtime import hostile
from tests.runtime.runtime_support import DATA, environment, run_cli
from tests.runtime.zip_bytes import zip_bytes

SECONDS = 2.0
LEAST = 5_000
LONGEST_SENTENCE = 1_100


def complaint(path):
    """What is wrong with the answer to a hostile file; None if nothing is."""
    start = time.process_time()
    try:
        said = run_cli("verify", path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    lines = said.err.splitlines()
    if said.code != 2:
        return f"exit code {said.code} ({said.err})"
    if said.out or len(lines) != 1 or not lines[0].startswith("edgedistill-run: "):
        return f"{said.out!r} on stdout, {lines} on stderr"
    if len(said.err) > LONGEST_SENTENCE:
        return f"a sentence of {len(said.err)} characters"
    return f"{seconds:.1f} s" if seconds > SECONDS else None


@pytest.fixture(scope="module")
def path():
    """Where the files are written one after another: in memory, if there is such a folder."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "model.edge"


@pytest.mark.parametrize("family", hostile.FAMILIES)
def test_no_file_of_this_family_is_loaded(parts, path, family):
    wrong = {}
    for what, data in hostile.FAMILIES[family](parts):
        path.write_bytes(data)
        if (found := complaint(path)) is not None:
            wrong[what] = found
    assert not wrong, f"{len(wrong)}: {dict(itertools.islice(wrong.items(), 20))}"


def test_there_are_thousands_of_them(parts):
    counts = {name: sum(1 for _ in family(parts)) for name, family in hostile.FAMILIES.items()}
    assert sum(counts.values()) >= LEAST, counts
    assert min(counts.values()) >= 10, counts


def test_the_bundle_that_they_were_made_from_is_good(edge):
    assert run_cli("verify", edge).code == 0


def test_a_sample_of_them_in_processes_of_their_own(parts, path):
    """Nothing is printed behind Python's back, and no process is killed."""
    for family in hostile.FAMILIES.values():
        for what, data in itertools.islice(family(parts), 3, 40, 30):
            path.write_bytes(data)
            done = verify(path)
            assert done.returncode == 2, (what, done.stderr)
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("model", ["tiny", "tiny_int8"])
def test_a_model_with_any_byte_altered_never_crashes(parts, path, model):
    """Digests are right: this is a model that somebody made.  A name may differ harmlessly."""
    good = (DATA / f"{model}.onnx").read_bytes()
    for i in range(0, len(good), 1 if model == "tiny" else 5):
        altered = good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :]
        path.write_bytes(zip_bytes(parts.changed(files={"model.onnx": altered}).entries()))
        said = run_cli("verify", path)
        assert said.code in (0, 2)
        assert len(said.err.splitlines()) == 1


def verify(path, **options):
    command = [sys.executable, "-m", "edgedistill_runtime", "verify", str(path)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env=environment(),
        **options,
    )


# --- what is not even a file


def test_a_folder(tmp_path):
    assert complaint(tmp_path) is None


def test_a_pipe_that_nobody_writes_to(tmp_path):
    os.mkfifo(tmp_path / "pipe.edge")
    assert complaint(tmp_path / "pipe.edge") is None


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.edge")
        assert complaint(Path("socket.edge")) is None


@pytest.mark.parametrize(
    "device", ["/dev/null", "/dev/zero", "/proc/self/status", "/proc/self/mem"]
)
def test_a_device(device):
    assert complaint(device) is None


@pytest.mark.parametrize(
    "name", ["absent.edge", "a/b/c.edge", "x" * 5000, "", "-", "%s%n", "\udcff"]
)
def test_a_path_to_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert complaint(name) is None


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.edge").touch()
    assert complaint(tmp_path / "empty.edge") is None


def test_links_to_nothing_and_in_circles(tmp_path):
    (tmp_path / "nothing.edge").symlink_to(tmp_path / "absent")
    (tmp_path / "circle.edge").symlink_to(tmp_path / "circle.edge")
    assert complaint(tmp_path / "nothing.edge") is None
    assert complaint(tmp_path / "circle.edge") is None


def test_a_file_without_permission(edge, monkeypatch):
    """Without root's rights, which would override the file's mode."""
    monkeypatch.chdir(edge.parent)
    edge.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        said = run_cli("verify", edge.name)
    finally:
        os.seteuid(user)
    assert said.code == 2
    assert said.sentence() == "edgedistill-run: model.edge: Permission denied"


def test_a_sparse_file_of_a_tebibyte(edge):
    os.truncate(edge, 1 << 40)
    assert complaint(edge) is None
