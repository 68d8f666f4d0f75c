"""Writing a file: the old one stays until the new one is whole, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from edgedistill_runtime import bundle, files
from edgedistill_runtime.files import write_atomically

ROOT = os.geteuid() == 0


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "model.edge"
    path.write_bytes(b"old")
    return path


def only(path):
    """Nothing else is in the folder: no temporary file was left."""
    return [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_is_written(tmp_path):
    path = tmp_path / "new.bin"
    write_atomically(path, [b"one ", memoryview(b"two")])
    assert path.read_bytes() == b"one two"
    assert only(path)


def test_an_old_file_is_replaced(old):
    write_atomically(old, b"new")
    assert old.read_bytes() == b"new"
    assert only(old)


def test_a_reader_of_the_old_file_keeps_the_old_one(old):
    with old.open("rb") as reader:
        write_atomically(old, b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_is_that_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), ValueError(), KeyboardInterrupt()]
)
def test_a_failure_midway_keeps_the_old_file(old, error):
    def chunks():
        yield b"half of the new"
        raise error

    with pytest.raises(type(error)):
        write_atomically(old, chunks())
    assert old.read_bytes() == b"old"
    assert only(old)


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_failure_of_any_step_keeps_the_old_file(old, monkeypatch, step):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(old, b"new")
    assert old.read_bytes() == b"old"
    assert only(old)


def test_the_data_is_on_disk_before_the_name_is_and_the_name_before_the_return(old, monkeypatch):
    """The order that survives a power cut: write, fsync, rename, fsync of the folder."""
    done = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)

        def record(*arguments, step=step, real=real):
            is_folder = step == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("fsync folder" if is_folder else step)
            return real(*arguments)

        monkeypatch.setattr(files.os, step, record)
    write_atomically(old, b"new")
    assert done == ["fsync", "replace", "fsync folder"]


def test_a_folder_in_the_way_is_an_error(tmp_path):
    (tmp_path / "model.edge").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "model.edge", b"new")
    assert only(tmp_path / "model.edge")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "model.edge", b"new")


@pytest.fixture
def nobodys_folder():
    """A folder that this process may read and not write: without root's rights, if it had them."""
    folder = Path(tempfile.mkdtemp())
    (folder / "model.edge").write_bytes(b"old")
    folder.chmod(0o555)
    if ROOT:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if ROOT:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_folder_keeps_the_old_file(nobodys_folder):
    path = nobodys_folder / "model.edge"
    with pytest.raises(PermissionError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert only(path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB with the old file on it."""
    if not ROOT:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path):
    """Take all space that is left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_keeps_the_old_file(small_disk):
    path = small_disk / "model.edge"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, (bytes(4096) for _ in range(100)))
    assert path.read_bytes() == b"old"
    assert only(path)


def test_a_bundle_that_does_not_fit_the_disk_keeps_the_one_that_worked(small_disk, tiny):
    path = small_disk / "model.edge"
    bundle.write(path, *tiny)
    fill(small_disk / "log")
    with pytest.raises(OSError, match="No space left on device"):
        bundle.write(path, *tiny)
    assert bundle.read(path).manifest == tiny[0]
    assert not [p for p in small_disk.iterdir() if p.suffix == ".tmp"]
