"""`bench --certificate` and `verify --certificate`: whose it is, of what, and unaltered."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from tests.runtime.runtime_support import run_cli, tiny_manifest

from edgedistill_runtime import bundle

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, its certificate as bench wrote it, and what bench said."""
    folder = tmp_path_factory.mktemp("certified")
    bundle.write(folder / "model.edge", *tiny_manifest("tiny"))
    said = run_cli(
        "bench", folder / "model.edge", "--max-seconds", 0.5, "--latency-ms", 500,
        "--certificate", folder / "proof.json", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    return folder, json.loads(said.out)


@pytest.fixture
def certified(made, tmp_path, monkeypatch):
    """A copy of both to spoil; nothing is pinned here."""
    monkeypatch.setenv("EDGEDISTILL_STATE", str(tmp_path / "state"))
    for name in ("model.edge", "proof.json"):
        shutil.copy(made[0] / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def keys(tmp_path):
    """Two SSH keys, and a file that allows the first."""
    for name in ("mine", "theirs"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", tmp_path / name],
            check=True,
        )
    public = (tmp_path / "mine.pub").read_text()
    (tmp_path / "signers").write_text(f"me@example.org {public}")
    return tmp_path


def verify(folder, *more):
    return run_cli(
        "verify", folder / "model.edge", "--certificate", folder / "proof.json", "--json", *more
    )


def edit(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def sign(folder, key):
    """As `bench --key` does, without another bench."""
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", folder / key, "-n", "edgedistill-certificate",
         folder / "proof.json"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_certificate_says_what_was_promised_and_measured(made):
    folder, result = made
    table = json.loads((folder / "proof.json").read_text())
    assert table["bundle"] == {"id": result["bundle"], "name": "tiny", "version": 3}
    assert (table["verdict"], table["standing"]) == ("PASS", "measured elsewhere")
    assert table["promised"]["budget"]["latency_ms"] == 500
    assert table["measured"]["latency_ms"]["p95"] == result["latency_ms"]["p95"]
    assert sum(count for _, count in table["histogram"]) == result["latency_ms"]["runs"]
    assert {"python", "numpy", "onnxruntime", "edgedistill-runtime"} <= set(table["versions"])
    assert table["board"]["arch"]
    assert table["date"].endswith("Z")


def test_a_claim_can_be_tested_again_from_the_histogram(made):
    """Runs in buckets that begin over the limit are over it; those that end under it are not."""
    table = json.loads((made[0] / "proof.json").read_text())
    timing, p95 = table["measured"]["latency_ms"], table["measured"]["latency_ms"]["p95"]
    under = sum(count for edge, count in table["histogram"] if edge < p95)
    upto = sum(count for edge, count in table["histogram"] if edge < p95 * 2**0.125)
    assert under <= 0.95 * timing["runs"] <= upto


def test_it_is_the_certificate_of_this_bundle(certified):
    said = verify(certified)
    assert said.code == 0, said.err
    [row] = said.rows
    assert row["certificate"]["verdict"] == "PASS"
    assert row["certificate"]["signer"] is None
    assert "not signed" in said.err


def test_another_bundles_certificate_is_refused(certified):
    bundle.write(certified / "model.edge", *tiny_manifest("tiny_int8"))
    said = verify(certified)
    assert said.code == 2
    assert "certificate of another bundle" in said.sentence()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["histogram"].pop(),
        lambda t: t["budget"][0].update(ok=False),
        lambda t: t.update(verdict="GOOD"),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(certified, change):
    edit(certified / "proof.json", change)
    said = verify(certified)
    assert said.code == 2
    assert "contradicts itself" in said.sentence()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("kind"),
        lambda t: t.pop("bundle"),
        lambda t: t.update(bundle=[]),
        lambda t: t.update(histogram=[[1, "many"]]),
        lambda t: t.update(histogram=7),
        lambda t: t.update(budget=[3]),
        lambda t: t.update(board=None),
        lambda t: t["measured"].pop("latency_ms"),
    ],
)
def test_what_is_no_certificate_is_refused(certified, change):
    edit(certified / "proof.json", change)
    said = verify(certified)
    assert said.code == 2
    assert "not a certificate" in said.sentence()


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"[" * 100_000, b'"' + b"x" * (2 << 20)])
def test_hostile_bytes_are_refused(certified, data):
    (certified / "proof.json").write_bytes(data)
    said = verify(certified)
    assert said.code == 2
    assert "not a certificate" in said.sentence()


def test_a_newer_format_is_refused(certified):
    edit(certified / "proof.json", lambda t: t.update(format_version=2))
    said = verify(certified)
    assert said.code == 2
    assert "upgrade with" in said.sentence()


@needs_ssh
def test_a_signature_names_its_signer(certified, keys):
    sign(certified, "mine")
    said = verify(certified, "--signers", keys / "signers")
    assert said.code == 0, said.err
    assert said.rows[0]["certificate"]["signer"] == "me@example.org"
    assert "signed by me@example.org" in said.err


@needs_ssh
def test_an_unknown_key_is_refused(certified, keys):
    sign(certified, "theirs")
    assert verify(certified, "--signers", keys / "signers").code == 2


@needs_ssh
def test_an_edited_certificate_is_refused(certified, keys):
    sign(certified, "mine")
    edit(certified / "proof.json", lambda t: t["measured"].update(peak_ram_mib=1))
    said = verify(certified, "--signers", keys / "signers")
    assert said.code == 2
    said.sentence()


@needs_ssh
def test_another_kinds_signature_is_refused(certified, keys):
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", keys / "mine", "-n", "edgedistill-bundle",
         certified / "proof.json"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert verify(certified, "--signers", keys / "signers").code == 2


@needs_ssh
def test_an_unsigned_certificate_is_refused_where_signers_are_given(certified, keys):
    said = verify(certified, "--signers", keys / "signers")
    assert said.code == 2
    assert "is not signed" in said.sentence()


@needs_ssh
def test_a_signature_that_nobody_can_check_is_refused(certified, keys):
    sign(certified, "mine")
    said = verify(certified)
    assert said.code == 2
    assert "--signers" in said.sentence()


@needs_ssh
def test_the_pinned_signers_are_the_default(certified, keys):
    sign(certified, "mine")
    (certified / "state").mkdir()
    shutil.copy(keys / "signers", certified / "state" / "signers")
    assert verify(certified).rows[0]["certificate"]["signer"] == "me@example.org"


@needs_ssh
def test_bench_signs_with_a_key(certified, keys):
    proof = certified / "proof.json"
    said = run_cli(
        "bench", certified / "model.edge", "--max-seconds", 0.5, "--latency-ms", 500,
        "--certificate", proof, "--key", keys / "mine",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert verify(certified, "--signers", keys / "signers").code == 0


def test_a_new_certificate_takes_the_old_signature_away(certified):
    (certified / "proof.json.sig").write_text("of the one before")
    said = run_cli(
        "bench", certified / "model.edge", "--max-seconds", 0.5,
        "--certificate", certified / "proof.json",
    )  # fmt: skip
    assert said.code in (0, 3), said.err
    assert not (certified / "proof.json.sig").exists()


def test_a_file_that_is_no_certificate_is_never_replaced(certified):
    (certified / "proof.json").write_text("my notes")
    said = run_cli("bench", certified / "model.edge", "--certificate", certified / "proof.json")
    assert said.code == 2
    assert "a new file" in said.sentence()
    assert (certified / "proof.json").read_text() == "my notes"


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_a_key_or_signers_without_a_certificate_is_bad_usage(edge, tmp_path, command):
    (tmp_path / "file").write_text("")
    option = {"bench": "--key", "verify": "--signers"}[command]
    said = run_cli(command, edge, option, tmp_path / "file")
    assert said.code == 2
    assert "--certificate" in said.err
