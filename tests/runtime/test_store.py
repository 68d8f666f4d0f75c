"""The store: whatever stops an install, and whenever, a bundle that passed its check still runs."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.crash import Cut, Recorder, lay_out
from tests.runtime.runtime_support import environment
from tests.runtime.zip_bytes import zip_bytes

from edgedistill_runtime import bundle, health, load, signing, store
from edgedistill_runtime.disk import Disk
from edgedistill_runtime.errors import BundleError, EdgeDistillError
from edgedistill_runtime.store import Store, StoreError

ROOT = os.geteuid() == 0
needs_ssh = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="no ssh-keygen on this machine"
)


def healthy(path, limit_mib):
    """A health check without a process: these tests are about files."""
    bundle.read(path)
    return health.Health(0.0, "none", 1.0, None)


def sick(path, limit_mib):
    raise BundleError("its health check failed: it is sick")


@pytest.fixture(scope="session")
def versions(parts):
    """Good bundles of the versions 1 to 4, as bytes."""
    return {v: zip_bytes(parts.changed({"version": v}).entries()) for v in (1, 2, 3, 4)}


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The folder of an empty store, which all commands use."""
    monkeypatch.setenv("EDGEDISTILL_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def quick(state):
    """A store that checks health without a process."""
    return Store(state, check=healthy)


def install(opened, data, **options):
    return opened.install(io.BytesIO(data), **options)


def active(folder, name="tiny"):
    """Version of what runs, every byte of it checked; None if nothing is installed."""
    opened = Store(folder)
    if name not in opened.names() or opened.state(name).active is None:
        return None
    return opened.open_active(name).manifest.version


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- what the commands do


def test_an_installed_bundle_is_found_by_its_name(run, edge, state, images):
    said = run("install", edge, "--json")
    assert said.code == 0, said.err
    assert "tiny version 3 (" in said.sentence()
    assert said.rows[0]["active"]["id"] == bundle.read(edge).id
    assert said.rows[0]["health"]["peak_ram_mib"] > 5
    found = load("tiny")
    assert found.bundle_id == bundle.read(edge).id
    assert found.predict(images[0]).label == load(edge).predict(images[0]).label


def test_a_bundle_is_installed_from_stdin(run, edge, state):
    assert run("install", "-", stdin=edge.read_bytes()).code == 0
    assert active(state) == 3


def test_predict_takes_the_name(run, edge, state, images, tmp_path):
    assert run("install", edge).code == 0
    np.save(tmp_path / "x.npy", images[0])
    said = run("predict", "tiny", tmp_path / "x.npy")
    assert (said.code, len(said.rows)) == (0, 1)


def test_inspect_and_bench_take_the_name(run, edge, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("install", edge)
    for command in (["inspect", "tiny"], ["bench", "tiny", "--max-seconds", "0.2"]):
        said = run(*command, "--json")
        assert said.code in (0, 3)
        row = said.rows[-1]
        assert (row["name"], row["version"]) == ("tiny", 3)
        unknown = run(command[0], "tinny")
        assert unknown.code == 2
        assert "did you mean 'tiny'?" in unknown.sentence()


def test_doctor_takes_the_name(run, edge, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("install", edge)
    about = {f["name"]: f for f in run("doctor", "tiny", "--json").rows[-1]["findings"]}
    assert (about["bundle"]["level"], about["bundle"]["found"][:14]) == ("ok", "tiny version 3")
    about = {f["name"]: f for f in run("doctor", "tinny", "--json").rows[-1]["findings"]}
    assert about["bundle"]["level"] == "problem"
    assert "did you mean 'tiny'?" in about["bundle"]["found"]


def test_another_name_can_be_given(run, edge, state, parts, pack):
    assert run("install", edge, "--as", "digits").code == 0
    assert active(state, "digits") == 3
    said = run("install", pack({"name": "Digits! of mine"}))
    assert said.code == 2
    assert "--as NAME" in said.sentence()
    assert run("install", edge, "--as", "../x").code == 2


def test_two_versions_are_kept_and_a_third_goes(quick, state, versions):
    for version in (1, 2, 3):
        install(quick, versions[version])
    found = quick.state("tiny")
    assert (found.active.version, found.previous.version) == (3, 2)
    assert len(list((state / "models/tiny").glob("*.edge"))) == 2
    assert not list((state / "staging").iterdir())


def test_rollback_goes_back_and_forth(run, quick, state, versions):
    install(quick, versions[1])
    install(quick, versions[2])
    assert run("rollback", "tiny").code == 0
    assert active(state) == 1
    assert run("rollback", "tiny").code == 0
    assert active(state) == 2


def test_activate_takes_the_beginning_of_an_id(run, quick, state, versions):
    first = install(quick, versions[1]).active.id
    install(quick, versions[2])
    assert run("activate", "tiny", first[:8]).code == 0
    assert active(state) == 1
    for wrong in ("", "x", first[:-1] + ("0" if first[-1] != "0" else "1")):
        said = run("activate", "tiny", wrong)
        assert said.code == 2
        assert "(version 2)" in said.sentence()


def test_list_says_what_runs(run, quick, state, versions):
    assert run("list").err == f"nothing is installed in {state}\n"
    install(quick, versions[1])
    install(quick, versions[2])
    said = run("list")
    assert [line.split()[:4] for line in said.out.splitlines()] == [
        ["tiny", "active", "version", "2,"],
        ["tiny", "previous", "version", "1,"],
    ]
    [row] = run("list", "--json").rows[0]["bundles"]
    assert (row["name"], row["active"]["version"], row["floor"]) == ("tiny", 2, 2)


def test_remove_takes_all_or_the_one_that_does_not_run(run, quick, state, versions):
    first = install(quick, versions[1]).active.id
    second = install(quick, versions[2]).active.id
    assert run("remove", "tiny", second[:8]).code == 2
    assert run("remove", "tiny", first[:8]).code == 0
    assert (active(state), quick.state("tiny").previous) == (2, None)
    assert run("remove", "tiny").code == 0
    assert not list((state / "models").iterdir())
    said = run("remove", "tiny")
    assert said.code == 2
    assert "no installed bundle named 'tiny'" in said.sentence()


def test_what_somebody_else_put_there_is_not_removed(quick, state, versions):
    install(quick, versions[1])
    (state / "models/tiny/notes.txt").write_text("mine", encoding="ascii")
    (state / "staging/notes.edge").write_text("mine", encoding="ascii")
    install(quick, versions[2])
    install(quick, versions[3])
    quick.remove("tiny")
    assert files(state) == ["lock", "models/tiny/notes.txt", "staging/notes.edge"]


def test_a_file_goes_before_an_installed_name(quick, state, versions, edge, tmp_path, monkeypatch):
    install(quick, versions[1])
    monkeypatch.chdir(tmp_path)
    assert load("tiny").manifest.version == 1
    shutil.copy(edge, tmp_path / "tiny")
    assert load("tiny").manifest.version == 3


def test_nothing_of_that_name_is_a_sentence(run, state, edge):
    said = run("verify", "digits")
    assert said.code == 2
    assert "no file digits, and no bundle is installed" in said.sentence()
    assert run("install", edge).code == 0
    assert "did you mean 'tiny'?" in run("verify", "tinny").sentence()
    assert "to go back to" in run("rollback", "tiny").sentence()


def test_where_the_store_is(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGEDISTILL_STATE", raising=False)
    monkeypatch.setattr(store.os, "geteuid", lambda: 0)
    assert store.state_folder() == Path("/var/lib/edgedistill")
    assert store.state_folder(tmp_path) == tmp_path
    monkeypatch.setattr(store.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert store.state_folder() == tmp_path / "xdg/edgedistill"
    assert store.folders() == [tmp_path / "xdg/edgedistill", Path("/var/lib/edgedistill")]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.state_folder() == tmp_path / ".local/state/edgedistill"


# --- what is refused, with the state before intact


@pytest.fixture
def kept(quick, state, versions):
    """A store with version 2; afterwards it has version 2 and nothing else."""
    install(quick, versions[2])
    before = {name: (state / name).read_bytes() for name in files(state)}
    yield quick
    assert {name: (state / name).read_bytes() for name in files(state)} == before


def test_a_downgrade_is_refused_unless_told(run, quick, state, versions):
    install(quick, versions[3])
    said = run("install", "-", stdin=versions[2])
    assert said.code == 2
    assert "--allow-downgrade" in said.sentence()
    assert active(state) == 3
    assert run("install", "-", "--allow-downgrade", stdin=versions[2]).code == 0
    assert active(state) == 2


def test_a_rollback_does_not_open_the_way_to_older_versions(quick, state, versions):
    install(quick, versions[1])
    install(quick, versions[3])
    quick.rollback("tiny")
    with pytest.raises(StoreError, match="older than version 3"):
        install(quick, versions[2])
    assert active(state) == 1


def test_altered_and_cut_bundles_are_refused_while_they_come_in(kept, versions):
    data = versions[3]
    rng = np.random.default_rng(5)
    for place in [0, 5, 60, *rng.integers(0, len(data), 60)]:
        altered = bytearray(data)
        altered[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(EdgeDistillError) as refused:
            install(kept, bytes(altered))
        assert "\n" not in str(refused.value)
        assert "staging" not in str(refused.value)
    for cut in [0, 10, 60, *rng.integers(0, len(data), 20)]:
        with pytest.raises(BundleError):
            install(kept, data[:cut])
    with pytest.raises(BundleError, match="altered"):
        install(kept, data + bytes(1 << 20))


def test_an_endless_bundle_ends_at_what_the_manifest_lists(kept, versions):
    class Endless(io.RawIOBase):
        sent = 0

        def read(self, count):
            start, self.sent = self.sent, self.sent + count
            return versions[3][start : self.sent].ljust(count, b"\0")

    source = Endless()
    with pytest.raises(BundleError, match="more bytes follow"):
        kept.install(source)
    assert source.sent < len(versions[3]) + (1 << 17)


def test_a_bundle_that_does_not_fit_the_disk_is_refused_before_it_is_written(
    kept, versions, monkeypatch
):
    found = os.statvfs("/")
    small = os.statvfs_result([4096, 4096, 10, 10, 10, *found[5:10]])
    monkeypatch.setattr(store.os, "statvfs", lambda path: small)
    with pytest.raises(StoreError, match=r"needs 1\.\d MiB .* has 0\.0 free; make room"):
        install(kept, versions[3])


def test_a_bundle_that_fails_its_check_does_not_run(state, kept, versions):
    with pytest.raises(BundleError, match="it is sick"):
        install(Store(state, check=sick), versions[3])
    with pytest.raises(BundleError, match="it is sick"):
        install(Store(state, check=sick), versions[2])  # the one that runs


def test_a_first_bundle_that_fails_its_check_leaves_nothing(state, versions):
    with pytest.raises(BundleError, match="it is sick"):
        install(Store(state, check=sick), versions[3])
    assert files(state) == ["lock"]
    assert active(state) is None


def test_wrong_golden_outputs_fail_the_check(run, kept, parts):
    wrong = bytearray(parts.files["golden_outputs.npy"])
    wrong[-1] ^= 0x7F
    changed = parts.changed({"version": 3}, {"golden_outputs.npy": bytes(wrong)})
    said = run("install", "-", stdin=zip_bytes(changed.entries()))
    assert said.code == 2
    assert "-: its health check failed: golden outputs differ" in said.sentence()


def test_more_memory_than_the_budget_fails_the_check(run, kept, parts):
    changed = parts.changed({"version": 3, "budget.peak_ram_mib": 8.0})
    said = run("install", "-", stdin=zip_bytes(changed.entries()))
    assert said.code == 2
    assert "over its budget of 8 (peak_ram_mib)" in said.sentence()


def test_a_board_that_cannot_judge_memory_warns(run, state, parts, monkeypatch, tmp_path):
    monkeypatch.setattr(health.telemetry, "emulated", lambda: True)
    changed = parts.changed({"budget.peak_ram_mib": 8.0})
    said = run("install", "-", stdin=zip_bytes(changed.entries()))
    assert said.code == 0
    assert "warning: its memory was not judged, because this board is emulated" in said.err


@pytest.mark.parametrize("works", [True, False])
def test_systemd_enforces_the_memory_where_it_can(run, state, edge, tmp_path, monkeypatch, works):
    """A stand-in for systemd-run, which writes down how it was called."""
    program = tmp_path / "bin" / "systemd-run"
    program.parent.mkdir()
    run_rest = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"' if works else "exit 1"
    text = f'#!/bin/sh\necho "$@" > {tmp_path}/called\n{run_rest}\n'
    program.write_text(text, encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(health, "_SYSTEMD", tmp_path)
    assert run("install", edge).code == 0
    assert f"MemoryMax={4096 << 20}" in (tmp_path / "called").read_text(encoding="ascii")


def test_a_bundle_that_hangs_or_dies_fails_the_check(run, kept, versions, monkeypatch, tmp_path):
    program = tmp_path / "python"
    monkeypatch.setattr(health.sys, "executable", str(program))
    for script, seconds, sentence in [
        ("exec sleep 100", 0.05, "no answer in 0.05 s"),
        ("kill -SEGV $$", 100, "the process ended early"),
        ("echo no JSON", 100, "the process ended early"),
    ]:
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        program.chmod(0o755)
        monkeypatch.setattr(health, "MAX_SECONDS", seconds)
        said = run("install", "-", stdin=versions[3])
        assert said.code == 2
        assert sentence in said.sentence()


def test_a_folder_and_an_absent_file_are_sentences(run, state, tmp_path):
    assert "not a file" in run("install", tmp_path).sentence()
    assert "No such file" in run("install", tmp_path / "absent").sentence()


def test_a_state_folder_that_cannot_be_written_is_a_sentence(versions):
    folder = Path(tempfile.mkdtemp())
    install(Store(folder, check=healthy), versions[1])
    for path in [folder, *(p for p in folder.rglob("*"))]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if ROOT:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"cannot write to .* --state DIR"):
            install(Store(folder), versions[3])
        assert active(folder) == 1  # and whoever may read may run
    finally:
        if ROOT:
            os.seteuid(0)
        for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_damaged_state_is_a_sentence_and_can_be_removed(run, quick, state, versions):
    install(quick, versions[1])
    for data in (b"", b"{}", b"[" * 100_000, b"\xff", b'{"active": 1}'):
        (state / "models/tiny/state.json").write_bytes(data)
        for command in (["install", "-"], ["list"], ["rollback", "tiny"], ["verify", "tiny"]):
            said = run(*command, stdin=versions[2])
            assert said.code == 2
            assert "is damaged" in said.sentence()
    assert run("remove", "tiny").code == 0
    assert run("install", "-", stdin=versions[1]).code == 0


# --- signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(command, check=True)
        public = (folder / f"{name}.pub").read_text(encoding="ascii")
        (folder / f"{name}.signers").write_text(f"{name}@home {public}", encoding="ascii")
    return folder


@pytest.fixture
def signed(keys, tmp_path, versions):
    """Bytes of a version, signed by a key."""

    def make(version, key):
        path = tmp_path / "signed.edge"
        path.write_bytes(versions[version])
        signing.sign_bundle(path, keys / key)
        return path.read_bytes()

    return make


@needs_ssh
def test_pinned_signers_decide_from_then_on(run, state, keys, signed, versions):
    pin = ("--signers", keys / "mine.signers")
    assert "by nobody in" in run("install", "-", *pin, stdin=signed(1, "other")).sentence()
    assert active(state) is None
    assert not (state / "signers").exists()
    assert run("install", "-", *pin, stdin=signed(1, "mine")).code == 0
    assert "signed by mine@home" in run("list").out
    assert "is not signed" in run("install", "-", stdin=versions[2]).sentence()
    assert "by nobody in" in run("install", "-", stdin=signed(2, "other")).sentence()
    other = run("install", "-", "--signers", keys / "other.signers", stdin=signed(2, "other"))
    assert "other signers" in other.sentence()
    assert active(state) == 1
    assert run("install", "-", *pin, stdin=signed(2, "mine")).code == 0
    assert active(state) == 2


@needs_ssh
def test_a_signature_of_another_bundle_is_refused(quick, state, keys, signed, parts, tmp_path):
    """Somebody moves a good signature onto a manifest of his own."""
    install(quick, signed(1, "mine"), signers=keys / "mine.signers")
    donor = tmp_path / "donor.edge"
    donor.write_bytes(signed(1, "mine"))
    entries = parts.changed({"version": 2, "labels.0": "harmless"}).entries()
    entry = dataclasses.replace(
        entries[0], name="manifest.sig", data=bundle.read(donor).signature or b""
    )
    with pytest.raises(BundleError, match="they were altered"):
        install(quick, zip_bytes([*entries, entry]))
    assert active(state) == 1


@needs_ssh
def test_pinned_signers_without_ssh_keygen_refuse(
    quick, state, keys, signed, tmp_path, monkeypatch
):
    install(quick, signed(1, "mine"), signers=keys / "mine.signers")
    second = signed(2, "mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BundleError, match="ssh-keygen, which is not here"):
        install(quick, second)
    assert active(state) == 1


@needs_ssh
def test_an_unsigned_bundle_from_before_does_not_come_back(quick, state, keys, signed, versions):
    install(quick, versions[1])
    install(quick, signed(2, "mine"), signers=keys / "mine.signers")
    with pytest.raises(BundleError, match="is not signed"):
        quick.rollback("tiny")
    assert active(state) == 2


# --- several at once


def test_a_second_install_waits_or_says_so(state, quick, versions):
    install(quick, versions[1])
    inside, go_on, results = threading.Event(), threading.Event(), []

    def slow(path, limit_mib):
        inside.set()
        assert go_on.wait(30)
        return healthy(path, limit_mib)

    first = threading.Thread(
        target=lambda: results.append(install(Store(state, check=slow), versions[2]))
    )
    first.start()
    assert inside.wait(30)
    with pytest.raises(StoreError, match="another edgedistill-run has been changing"):
        install(Store(state, check=healthy, wait_seconds=0), versions[3])
    assert active(state) == 1  # what is being tried does not run
    second = threading.Thread(
        target=lambda: results.append(install(Store(state, check=healthy), versions[3]))
    )
    second.start()
    go_on.set()
    first.join(30)
    second.join(30)
    assert [change.active.version for change in results] == [2, 3]
    assert active(state) == 3


def test_a_reader_sees_a_whole_bundle_whatever_is_installed_meanwhile(quick, state, versions):
    install(quick, versions[1])
    seen, stop, problems = set(), threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                seen.add(active(state))
            except Exception as error:
                problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        install(quick, versions[turn % 3 + 1], allow_downgrade=True)
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert seen <= {1, 2, 3}


def test_the_one_before_runs_where_the_disk_lost_the_active_one(quick, state, versions, caplog):
    install(quick, versions[1])
    path = quick.path("tiny", install(quick, versions[2]).active)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert active(state) == 1
    assert "version 1 runs instead" in caplog.text
    install(quick, versions[2])
    assert active(state) == 2


# --- power cuts, kills, and disks that fail


class Stop(BaseException):
    """Not an error that anybody handles."""


class Careless(Disk):
    """Where nothing is cut off, syncing only takes time."""

    def sync(self, handle):
        pass

    def sync_folder(self, path):
        pass


class Failing(Disk):
    """The n-th operation fails."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def _step(self):
        self.left -= 1
        if self.left == 0:
            raise self.error


def _counted(name):
    def operation(self, *arguments):
        self._step()
        return getattr(Disk, name)(self, *arguments)

    return operation


OPERATIONS = [name for name in vars(Disk) if not name.startswith("_")]
for _name in OPERATIONS:
    setattr(Failing, _name, _counted(_name))


def test_an_error_at_any_operation_leaves_a_bundle_that_runs(tmp_path, versions):
    ends = set()
    for code in (errno.ENOSPC, errno.EIO):
        for at in range(1, 200):
            folder = tmp_path / f"{code}-{at}"
            for version in (1, 2):
                install(Store(folder, Careless(), healthy), versions[version])
            disk = Failing(at, OSError(code, os.strerror(code)))
            try:
                install(Store(folder, disk, healthy), versions[3])
                done = True
            except (OSError, StoreError):
                done = False
            assert active(folder) in ({3} if done else {2, 3})
            ends.add((done, active(folder)))
            install(Store(folder, Careless(), healthy), versions[4])  # and the next one works
            assert active(folder) == 4
            assert len(list((folder / "models/tiny").iterdir())) == 3
            shutil.rmtree(folder)
            if disk.left > 0:
                break
        else:
            raise AssertionError("an install has not that many operations")
        assert at > 15
    assert {(True, 3), (False, 2)} <= ends


def test_a_disk_that_stays_full_keeps_what_ran(tmp_path, versions):
    """From the n-th write on, nothing can be written any more."""

    class Full(Disk):
        def __init__(self, at):
            self.left = at

        def write(self, handle, data):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(handle, data)

    for at in range(100):
        folder = tmp_path / str(at)
        install(Store(folder, check=healthy), versions[1])
        full, said = Full(at), ""
        try:
            install(Store(folder, full, healthy), versions[2])
        except StoreError as error:
            said = str(error)
        if full.left >= 0:
            break
        assert "No space left on device" in said
        assert active(folder) == 1
    assert at > 5
    assert active(folder) == 2


def test_a_short_write_is_finished(tmp_path, monkeypatch, versions):
    real = os.write
    monkeypatch.setattr("edgedistill_runtime.disk.os.write", lambda h, d: real(h, d[:100]))
    install(Store(tmp_path, check=healthy), versions[1])
    assert active(tmp_path) == 1


KILLED = """
import io, os, signal, sys
from edgedistill_runtime import bundle, health
from edgedistill_runtime.disk import Disk
from edgedistill_runtime.store import Store
folder, path, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
left = at
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
class Killed(Disk):
    pass
def wrap(name):
    def operation(self, *arguments):
        step()
        return getattr(Disk, name)(self, *arguments)
    setattr(Killed, name, operation)
for name in [n for n in vars(Disk) if not n.startswith("_")]:
    wrap(name)
def check(path, limit):
    step()
    return health.Health(0.0, "none", 1.0, None)
from pathlib import Path
with open(path, "rb") as source:
    Store(Path(folder), Killed(), check).install(source)
print("done")
"""


@pytest.mark.slow
def test_kill_9_at_any_operation_leaves_a_bundle_that_runs(tmp_path, versions):
    new = tmp_path / "new.edge"
    new.write_bytes(versions[3])
    ends = []
    for at in range(1, 200):
        folder = tmp_path / str(at)
        for version in (1, 2):
            install(Store(folder, check=healthy), versions[version])
        done = subprocess.run(
            [sys.executable, "-c", KILLED, folder, new, str(at)],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        finished = done.stdout == "done\n"
        assert finished or done.returncode == -signal.SIGKILL, done.stderr
        ends.append(active(folder))
        install(Store(folder, check=healthy), versions[4])
        assert active(folder) == 4
        assert len(list((folder / "models/tiny").iterdir())) == 3
        assert not list((folder / "staging").iterdir())
        if finished:
            break
    assert ends == sorted(ends)  # the old one up to some operation, then the new one
    assert set(ends) == {2, 3}


@pytest.mark.slow
@pytest.mark.repeated
def test_kill_9_at_random_moments_of_real_installs(tmp_path, versions, request):
    """200 of them in CI, else 30."""
    folder, rng, ends = tmp_path / "state", random.Random(7), []
    old, new = tmp_path / "1.edge", tmp_path / "2.edge"
    old.write_bytes(versions[1])
    new.write_bytes(versions[2])
    command = [sys.executable, "-m", "edgedistill_runtime", "install", "--state", folder]
    command += ["--allow-downgrade"]
    start = time.monotonic()
    subprocess.run([*command, old], check=True, capture_output=True, env=environment())
    whole = time.monotonic() - start
    runs = 1
    for _ in range(10 * request.config.getoption("--kills")):
        process = subprocess.Popen(
            [*command, new if runs == 1 else old],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            process.wait(rng.uniform(0.2, 1.8) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        found = active(folder)
        assert found in (1, 2)
        ends.append(found != runs)
        runs = found
    assert len(set(ends)) == 2  # some were stopped in time, some were not


@pytest.mark.parametrize("most", [2, pytest.param(64, marks=pytest.mark.slow)])
def test_every_disk_that_a_power_cut_can_leave_has_a_bundle_that_runs(tmp_path, versions, most):
    """All operations are recorded; each prefix, with each choice of what was not synced, is tried.

    What has to be there: once a command has returned, what it promised; while one runs, what was
    promised before or what it is about to promise.
    """
    root = tmp_path / "recorded"
    root.mkdir()
    disk = Recorder(root)
    opened = Store(root / "var/state", disk, healthy)
    for version in (1, 2, 3):
        install(opened, versions[version])
        disk.mark(version)
    opened.rollback("tiny")
    disk.mark(2)
    with pytest.raises(BundleError):
        Store(root / "var/state", disk, sick).install(io.BytesIO(versions[4]))
    disk.mark(2)
    install(opened, versions[4])
    disk.mark(4)
    opened.remove("tiny", opened.state("tiny").previous.id)
    disk.mark(4)
    opened.remove("tiny")
    disk.mark(None)

    rng, cut, promised, tried = random.Random(3), Cut(), None, 0
    seen: set[int] = set()
    for i, step in enumerate(disk.log):
        if step[0] == "mark":
            promised = step[1]
        else:
            cut.apply(step)
        coming = next(s[1] for s in [*disk.log[i:], ("mark", None)] if s[0] == "mark")
        for layout in cut.disks(rng, most):
            tried += 1
            key = hash((promised, coming, tuple(sorted(layout.items()))))
            if key in seen:
                continue
            seen.add(key)
            folder = tmp_path / "cut"
            folder.mkdir()
            lay_out(layout, folder)
            found = active(folder / "var/state")
            assert found in {promised, coming}, (i, step, sorted(layout))
            if len(seen) % 10 == 0:  # and the store goes on from there
                install(Store(folder / "var/state", Careless(), healthy), versions[4])
                assert active(folder / "var/state") == 4
                left = {p.name for p in (folder / "var/state/staging").iterdir()}
                assert left == set()
            shutil.rmtree(folder)
    assert tried >= (1000 if most > 2 else 300)
    assert len(seen) > 100


def test_an_interrupted_trial_is_said_and_undone(quick, state, versions, caplog):
    install(quick, versions[1])

    class Dead(Disk):
        """Nothing can be undone any more: the power is gone."""

        alive = True

        def create(self, path):
            if not self.alive:
                raise Stop
            return super().create(path)

    disk = Dead()

    def cut(path, limit_mib):
        disk.alive = False
        raise Stop

    with pytest.raises(Stop):
        install(Store(state, disk, cut), versions[2])
    assert quick.state("tiny").trying is not None
    assert active(state) == 1
    install(quick, versions[3])
    assert "was interrupted while" in caplog.text
    assert "version 1 runs" in caplog.text
    assert json.loads((state / "models/tiny/state.json").read_bytes())["trying"] is None
