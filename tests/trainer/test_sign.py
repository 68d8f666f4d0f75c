"""`edgedistill sign`: a bundle gets its owner's signature, or stays as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from tests.runtime.runtime_support import tiny_manifest

from edgedistill_runtime import bundle, signing

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen on this machine"
)


@pytest.fixture
def edge(tmp_path):
    path = tmp_path / "model.edge"
    bundle.write(path, *tiny_manifest("tiny"))
    return path


def sign(*arguments):
    command = [sys.executable, "-m", "edgedistill.cli", "sign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_bundle_is_signed_by_the_key(edge, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "signers").write_text(
        "me " + (tmp_path / "key.pub").read_text(encoding="ascii"), encoding="ascii"
    )
    before = bundle.read(edge)
    done = sign(edge, "--key", key)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{edge}: tiny version 3 is signed\n"
    signed = bundle.read(edge)
    assert signed.id == before.id
    who = signing.verify(
        signed.manifest_json, signed.signature, signing.BUNDLE, tmp_path / "signers"
    )
    assert who == "me"


def test_without_a_key_the_bundle_stays_as_it_is(edge, tmp_path):
    before = edge.read_bytes()
    done = sign(edge, "--key", tmp_path / "absent")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no key" in done.stderr
    assert edge.read_bytes() == before
