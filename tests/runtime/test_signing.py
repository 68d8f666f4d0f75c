"""Signatures: who signed is found out by OpenSSH, and anybody else is refused in a sentence."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from edgedistill_runtime import bundle, signing
from edgedistill_runtime.errors import BundleError

DATA = b'{"what": "is signed"}\n'
needs_ssh = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen on this machine"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys, and a file that names the first one's owner."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True)
    public = (folder / "mine.pub").read_text(encoding="ascii").split()[:2]
    (folder / "signers").write_text(f"me@example.com {' '.join(public)}\n", encoding="ascii")
    return folder


@needs_ssh
def test_a_signature_names_its_signer(keys):
    signature = signing.sign(DATA, keys / "mine", signing.BUNDLE)
    assert signing.verify(DATA, signature, signing.BUNDLE, keys / "signers") == "me@example.com"


@needs_ssh
@pytest.mark.parametrize(
    "line",
    [
        "ann,me@example.com",
        'me@example.com namespaces="edgedistill-bundle"',
        "*@example.com",
    ],
)
def test_the_forms_of_openssh_are_read(keys, tmp_path, line):
    public = (keys / "mine.pub").read_text(encoding="ascii").split()[:2]
    signers = tmp_path / "signers"
    signers.write_text(f"# who may\n\n{line} {' '.join(public)}\n", encoding="ascii")
    signature = signing.sign(DATA, keys / "mine", signing.BUNDLE)
    name = signing.verify(DATA, signature, signing.BUNDLE, signers)
    assert name == line.split()[0].split(",")[0]


@needs_ssh
def test_what_is_not_signed_by_a_known_key_for_this_use_is_refused(keys, tmp_path):
    good = signing.sign(DATA, keys / "mine", signing.BUNDLE)
    unknown = signing.sign(DATA, keys / "other", signing.BUNDLE)
    elsewhere = signing.sign(DATA, keys / "mine", signing.CERTIFICATE)
    garbled = good[:80] + b"AAAA" + good[84:]
    expired, public = tmp_path / "expired", (keys / "mine.pub").read_text(encoding="ascii")
    expired.write_text(f'me valid-before="20200101" {public}', encoding="ascii")
    narrow = tmp_path / "narrow"
    narrow.write_text(f'me namespaces="{signing.CERTIFICATE}" {public}', encoding="ascii")
    for data, signature, signers, sentence in [
        (DATA + b" ", good, keys / "signers", "they were altered"),
        (DATA, unknown, keys / "signers", "by nobody in"),
        (DATA, elsewhere, keys / "signers", "not one of these bytes for edgedistill-bundle"),
        (DATA, garbled, keys / "signers", "signature"),
        (DATA, b"", keys / "signers", "by nobody in"),
        (DATA, b"x" * ((1 << 16) + 1), keys / "signers", "at most 65536"),
        (DATA, good, tmp_path / "absent", "no file"),
        (DATA, good, keys / "other.pub", "by nobody in"),
        (DATA, good, expired, "signature"),
        (DATA, good, narrow, "signature"),
    ]:
        with pytest.raises(BundleError, match=sentence) as refused:
            signing.verify(data, signature, signing.BUNDLE, signers)
        assert "\n" not in str(refused.value)


@needs_ssh
def test_a_key_that_cannot_sign_is_a_sentence(keys, tmp_path):
    with pytest.raises(BundleError, match="no key"):
        signing.sign(DATA, tmp_path / "absent", signing.BUNDLE)
    (tmp_path / "key").write_text("not a key\n", encoding="ascii")
    with pytest.raises(BundleError, match="ssh-keygen does not sign with"):
        signing.sign(DATA, tmp_path / "key", signing.BUNDLE)


def test_without_ssh_keygen_nothing_is_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "signers").write_text("me ssh-ed25519 AAAA\n", encoding="ascii")
    with pytest.raises(BundleError, match="ssh-keygen, which is not here"):
        signing.verify(DATA, b"anything", signing.BUNDLE, tmp_path / "signers")


def test_an_old_ssh_keygen_is_called_old(tmp_path, monkeypatch):
    program = tmp_path / "ssh-keygen"
    program.write_text('#!/bin/sh\necho "unknown option -- Y" >&2\nexit 1\n', encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "signers").write_text("me ssh-ed25519 AAAA\n", encoding="ascii")
    with pytest.raises(BundleError, match=r"older than OpenSSH 8\.2"):
        signing.verify(DATA, b"anything", signing.BUNDLE, tmp_path / "signers")


@needs_ssh
def test_a_bundle_is_signed_in_place_and_stays_the_same_bundle(edge, keys):
    before = bundle.read(edge)
    signing.sign_bundle(edge, keys / "other")
    signed = signing.sign_bundle(edge, keys / "mine")  # in the place of the old signature
    assert (signed.id, dict(signed.files)) == (before.id, dict(before.files))
    assert signed == bundle.read(edge)
    assert signing.standing(signed, keys / "signers") == "yes, by me@example.com"


@needs_ssh
def test_a_bundle_that_cannot_be_signed_is_as_it_was(edge, tmp_path):
    before = edge.read_bytes()
    with pytest.raises(BundleError, match="no key"):
        signing.sign_bundle(edge, tmp_path / "absent")
    assert edge.read_bytes() == before


@needs_ssh
def test_inspect_says_whose_a_bundle_is(run, edge, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDISTILL_STATE", str(tmp_path / "state"))

    def signed():
        lines = run("inspect", edge).out.splitlines()
        return next(line for line in lines if line.startswith("signed")).split(maxsplit=1)[1]

    assert signed() == "no"
    signing.sign_bundle(edge, keys / "mine")
    assert signed().startswith("yes; by whom was not checked")
    (tmp_path / "state").mkdir()
    shutil.copy(keys / "signers", tmp_path / "state" / "signers")
    assert signed() == "yes, by me@example.com"
    signing.sign_bundle(edge, keys / "other")
    assert signed().startswith("yes, but the signature is by nobody in")
