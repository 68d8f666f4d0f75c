"""The bundle's file: what is written is read, and is a plain zip besides."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import pytest
from tests.runtime.zip_bytes import Entry, zip_bytes

from edgedistill_runtime import bundle
from edgedistill_runtime.errors import BundleError


def test_what_is_written_is_read(tiny, edge):
    manifest, files = tiny
    opened = bundle.read(edge)
    assert opened.manifest == manifest
    assert opened.files == files
    assert opened.size == edge.stat().st_size
    assert opened.signature is None


def test_the_id_is_the_digest_of_the_manifest(tiny, tmp_path):
    path = tmp_path / "model.edge"
    written = bundle.write(path, *tiny)
    opened = bundle.read(path)
    assert written == opened.id == hashlib.sha256(opened.manifest_json).hexdigest()


def test_the_same_content_gives_the_same_bytes(tiny, tmp_path):
    one, other = tmp_path / "one.edge", tmp_path / "other.edge"
    bundle.write(one, *tiny)
    bundle.write(other, *tiny)
    assert one.read_bytes() == other.read_bytes()


def test_the_writer_is_the_specification_byte_by_byte(parts, edge):
    """Against this test's own zip writer, so that neither is only its own measure."""
    assert edge.read_bytes() == zip_bytes(parts.entries())


def test_the_order_of_the_given_files_does_not_matter(tiny, edge, tmp_path):
    manifest, files = tiny
    other = tmp_path / "other.edge"
    bundle.write(other, manifest, dict(reversed(files.items())))
    assert other.read_bytes() == edge.read_bytes()


def test_pythons_zipfile_reads_a_bundle(tiny, edge):
    manifest, files = tiny
    with zipfile.ZipFile(edge) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *files]
        assert archive.read("manifest.json") == manifest.to_json()
        assert {name: archive.read(name) for name in files} == files


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip on this machine")
def test_unzip_finds_no_errors_in_a_bundle(edge):
    done = subprocess.run(["unzip", "-t", edge], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "No errors detected" in done.stdout


def test_a_signature_is_an_entry_that_the_manifest_does_not_list(parts, tiny, pack):
    manifest, _ = tiny
    signed = pack(raw=zip_bytes([*parts.entries(), Entry("manifest.sig", b"-----BEGIN SSH")]))
    opened = bundle.read(signed)
    assert opened.signature == b"-----BEGIN SSH"
    assert opened.manifest == manifest
    assert "manifest.sig" not in opened.files


def test_a_signature_of_more_than_64_kib_is_refused(parts, pack):
    path = pack(raw=zip_bytes([*parts.entries(), Entry("manifest.sig", bytes(1 << 17))]))
    with pytest.raises(BundleError, match="signature claims 131072 bytes"):
        bundle.read(path)


def test_an_altered_file_is_refused(parts, pack):
    """Every CRC of the zip is right: the digest in the manifest is what finds it."""
    altered = bytearray(parts.files["model.onnx"])
    altered[-1] ^= 1
    entries = [
        Entry(e.name, bytes(altered) if e.name == "model.onnx" else e.data) for e in parts.entries()
    ]
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that was packed"):
        bundle.read(pack(raw=zip_bytes(entries)))


def test_a_missing_file_is_refused(parts, pack):
    with pytest.raises(BundleError, match="cut short"):
        bundle.read(pack(raw=zip_bytes(parts.entries()[:-1])))


def test_a_file_that_is_not_listed_is_refused(parts, pack):
    path = pack(raw=zip_bytes([*parts.entries(), Entry("extra.bin", b"x")]))
    with pytest.raises(BundleError, match="altered"):
        bundle.read(path)


def test_the_message_names_the_bundle(edge):
    edge.write_bytes(b"no zip at all, but long enough to have been one")
    with pytest.raises(BundleError, match=f"^{edge}: not a bundle"):
        bundle.read(edge)


def test_an_ordinary_zip_of_the_same_files_is_refused(parts, pack):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for entry in parts.entries():
            archive.writestr(entry.name, entry.data)
    with pytest.raises(BundleError, match="not as the writer makes it"):
        bundle.read(pack(raw=packed.getvalue()))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a file"):
        bundle.read(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    pipe = tmp_path / "pipe.edge"
    os.mkfifo(pipe)
    with pytest.raises(BundleError, match="not a file"):
        bundle.read(pipe)


def test_a_socket_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 bytes only
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.edge")
        with pytest.raises(OSError, match=r"s\.edge"):
            bundle.read(Path("s.edge"))


def test_a_path_that_does_not_exist_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        bundle.read(tmp_path / "absent.edge")


def test_reading_leaves_no_file_open(edge, pack):
    before = len(os.listdir("/proc/self/fd"))
    bundle.read(edge)
    for bad in (pack(raw=b""), edge.parent):
        with pytest.raises(BundleError):
            bundle.read(bad)
    assert len(os.listdir("/proc/self/fd")) == before
