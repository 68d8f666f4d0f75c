"""Sign bytes, and find out who signed them, with OpenSSH's own program.

Boards that are reached over SSH have `ssh-keygen`, users own such keys, and so the runtime needs no
cryptography of its own.  The namespace keeps a signature of one kind from passing for another.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from edgedistill_runtime import bundle
from edgedistill_runtime.bundle import MAX_SIGNATURE_BYTES, Bundle
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.manifest import MANIFEST_NAME, SIGNATURE_NAME

BUNDLE = "edgedistill-bundle"
CERTIFICATE = "edgedistill-certificate"
MAX_SECONDS = 300
"""A person may have to type a passphrase or touch a key."""
_PASSED_ON = ("HOME", "SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY")
"""What an agent or a passphrase needs; nothing of it reaches `verify`."""


def sign(data: bytes, key: Path, namespace: str) -> bytes:
    """An OpenSSH signature of `data`, as text with a header and a footer.

    key: a private key's file, or a public one whose private half an agent holds.
    Raises BundleError (no ssh-keygen, no such key, it cannot be used).
    """
    if not key.is_file():
        raise BundleError(f"no key {key}; give the file of an SSH key, or make one: ssh-keygen")
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    done = _run(["sign", "-f", str(key), "-n", namespace], data, passed_on)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise BundleError(f"ssh-keygen does not sign with {key}: {_reason(done)}")
    return done.stdout


def verify(data: bytes, signature: bytes, namespace: str, signers: Path) -> str:
    """The name that the file `signers` gives to the key by which `data` was signed.

    signers: an OpenSSH allowed_signers file; its options (namespaces, valid-before) count.
    Raises BundleError: nobody of that file signed these bytes for this namespace, or no ssh-keygen.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise BundleError(
            f"the signature has {len(signature)} bytes; at most {MAX_SIGNATURE_BYTES}"
        )
    if not signers.is_file():
        raise BundleError(f"no file {signers}; it has to name the signers (allowed_signers)")
    handle = os.memfd_create("signature")  # no file: a full or read-only disk must not matter
    try:
        os.write(handle, signature)
        common = ["-s", f"/proc/self/fd/{handle}", "-f", str(signers)]
        found = _run(["find-principals", *common], b"", {}, handle)
        names = found.stdout.decode("utf-8", "replace").replace(",", "\n").split("\n")
        for name in filter(None, names if not found.returncode else []):
            check = ["verify", *common, "-n", namespace, "-I", name]
            if not _run(check, data, {}, handle).returncode:
                return name
    finally:
        os.close(handle)
    if found.returncode:
        raise BundleError(f"the signature is by nobody in {signers}: {_reason(found)}")
    raise BundleError(f"the signature is not one of these bytes for {namespace}; they were altered")


def sign_bundle(path: Path, key: Path) -> Bundle:
    """Put a signature into the bundle at `path`, atomically, in the place of an old one.

    What is signed is the manifest, which lists the digest of every file; so the id stays.
    """
    opened = bundle.read(path)
    entries = [(MANIFEST_NAME, opened.manifest_json), *opened.files.items()]
    entries.append((SIGNATURE_NAME, sign(opened.manifest_json, key, BUNDLE)))
    write_atomically(path, bundle.encode(entries))
    return bundle.read(path)


def standing(opened: Bundle, signers: Path | None) -> str:
    """Whether a bundle is signed, and by whom, for people."""
    if opened.signature is None:
        return "no"
    if signers is None:
        return "yes; by whom was not checked, because no signers are pinned here"
    try:
        return f"yes, by {verify(opened.manifest_json, opened.signature, BUNDLE, signers)}"
    except BundleError as error:
        return f"yes, but {error}"


def _run(
    arguments: list[str], data: bytes, environment: dict[str, str], handle: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise BundleError(
            "signatures need ssh-keygen, which is not here; install OpenSSH's client "
            "(Debian: apt install openssh-client)"
        )
    try:
        return subprocess.run(
            [program, "-Y", *arguments],
            input=data,
            capture_output=True,
            check=False,
            env={"LC_ALL": "C", "PATH": os.defpath, **environment},
            pass_fds=() if handle is None else (handle,),
            timeout=MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"ssh-keygen gave no answer in {MAX_SECONDS} s") from None


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """ssh-keygen's own last words, or what an old one without -Y means by its usage."""
    text = done.stderr.decode("utf-8", "replace")
    if "option -- Y" in text or "option -- 'Y'" in text:
        return "it is older than OpenSSH 8.2; signatures need that"
    lines = [line.strip() for line in text.splitlines() if line.strip(" \r@")]
    lines = [line for line in lines if not line.startswith("Signing ")]
    return (lines[-1] if lines else f"exit status {done.returncode}").rstrip(".")[:200]
