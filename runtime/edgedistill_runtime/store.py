"""The bundles that are installed on this board, and which of them runs.

    STATE/lock                       held by whoever changes something
    STATE/signers                    whose bundles are taken (OpenSSH's allowed_signers), if pinned
    STATE/staging/*.edge             what is coming in
    STATE/models/NAME/ID.edge        bundles whose every byte was checked
    STATE/models/NAME/state.json     which one runs, which one ran before, which one is being tried

A bundle comes in beside the others, is synced to the disk, renamed, tried in a process of its own,
and runs from the moment at which a new state.json replaces the old one.  So whatever stops an
install, and whenever, state.json names a bundle that was whole and passed its check.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgedistill_runtime import bundle, health, signing
from edgedistill_runtime.bundle import MAX_SIGNATURE_BYTES, Bundle
from edgedistill_runtime.disk import Disk
from edgedistill_runtime.errors import BundleError, EdgeDistillError, unknown
from edgedistill_runtime.health import Health
from edgedistill_runtime.intake import Intake
from edgedistill_runtime.manifest import no_twins

logger = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
SYSTEM = Path("/var/lib/edgedistill")
VARIABLE = "EDGEDISTILL_STATE"
SPARE_BYTES = 1 << 20
"""Left free: the disk's own tables and our state.json need some."""
WAIT_SECONDS = 60.0
MAX_SIGNERS_BYTES = 1 << 20
_ID = re.compile(r"[0-9a-f]{64}")
_STAGED = re.compile(r"[0-9a-f]{16}\.edge")
_PIN_DRAFT = re.compile(r"signers\.[0-9a-f]{16}\.tmp")
_OURS = re.compile(r"[0-9a-f]{64}\.edge|state\.json\.[0-9a-f]{16}\.tmp")


class StoreError(EdgeDistillError):
    """The store cannot do what was asked; it is as it was before."""


@dataclass(frozen=True)
class Installed:
    """A bundle of the store."""

    id: str
    version: int
    size: int
    """Bytes."""
    signer: str | None
    """Who signed it, if signers were pinned when it was installed."""


@dataclass(frozen=True)
class State:
    """Which bundles of one name there are."""

    active: Installed | None = None
    previous: Installed | None = None
    """The one that ran before: what a rollback goes back to."""
    trying: str | None = None
    """Id of one whose health check began and did not end."""
    floor: int = 0
    """Highest version that was installed; a lower one is a downgrade."""

    @property
    def kept(self) -> tuple[Installed, ...]:
        return tuple(entry for entry in (self.active, self.previous) if entry is not None)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode() + b"\n"

    @staticmethod
    def from_json(data: bytes) -> State:
        """Raises ValueError."""
        table = json.loads(data, object_pairs_hook=no_twins)
        active, previous = _entry(table["active"]), _entry(table["previous"])
        trying, floor = table["trying"], table["floor"]
        if not (trying is None or _is_id(trying)) or type(floor) is not int:
            raise ValueError("wrong types")
        return State(active, previous, trying, floor)


@dataclass(frozen=True)
class Change:
    """What a command changed."""

    name: str
    active: Installed
    previous: Installed | None
    health: Health


def state_folder(given: Path | None = None) -> Path:
    """Where this user's store is: as given, or $EDGEDISTILL_STATE, or the usual place."""
    told = given or os.environ.get(VARIABLE)
    if told:
        return Path(told).absolute()
    if os.geteuid() == 0:
        return SYSTEM
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local/state") / "edgedistill"


def folders() -> list[Path]:
    """Where to look for an installed bundle: this user's store, then the system's."""
    own = state_folder()
    return [own] if os.environ.get(VARIABLE) or own == SYSTEM else [own, SYSTEM]


def of(name: str) -> Store:
    """The store that has a bundle of that name.  Raises StoreError if none has."""
    stores = [Store(folder) for folder in folders()]
    for store in stores:
        if name in store.names():
            return store
    known = [known for store in stores for known in store.names()]
    if not known:
        raise StoreError(f"no file {name}, and no bundle is installed; see edgedistill-run install")
    raise StoreError(f"no file {name}, and {unknown('installed bundle', name, known)}")


def locate(given: Path) -> Path:
    """The file of a bundle: `given`, or that of the active one installed under this name.

    Raises StoreError if there is none.
    """
    name = str(given)
    return given if bundle.is_path(given) else of(name).active_path(name)


def pinned_signers() -> Path | None:
    """The signers that are pinned on this board for this user."""
    return next((p for folder in folders() if (p := folder / "signers").is_file()), None)


class Store:
    """The bundles under one state folder.

    `check` is the health check, `disk` does what changes the folder.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk | None = None,
        check: Callable[[Path, float | None], Health] = health.check,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.folder = folder
        self._disk = Disk() if disk is None else disk
        self._check = check
        self._wait_seconds = wait_seconds
        self._models, self._staging = folder / "models", folder / "staging"
        self._signers = folder / "signers"

    # --- what is there: no lock, and nothing is written

    def names(self) -> list[str]:
        """Names under which something is installed, or was about to be."""
        try:
            found = sorted(p.name for p in self._models.iterdir() if NAME.fullmatch(p.name))
        except FileNotFoundError:
            return []
        return [name for name in found if (self._models / name / "state.json").exists()]

    def state(self, name: str) -> State:
        """Raises StoreError if it is not one that this store wrote."""
        path = self._models / name / "state.json"
        try:
            return State.from_json(path.read_bytes())
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StoreError(
                f"{path} is damaged; to start anew: edgedistill-run remove {name}, then install"
            ) from None

    def path(self, name: str, entry: Installed) -> Path:
        return self._models / name / f"{entry.id}.edge"

    def active_path(self, name: str) -> Path:
        """Raises StoreError if nothing of that name is active."""
        return self.path(name, self._active(name, self.state(name)))

    def open_active(self, name: str) -> Bundle:
        """The active bundle, every byte checked; the one before it, if the disk lost that one.

        Somebody may install meanwhile: what is read is the old one or the new one.
        """
        while True:
            state = self.state(name)
            self._active(name, state)
            problems = []
            for entry in state.kept:
                try:
                    opened = self._read(name, entry)
                except (BundleError, OSError) as error:
                    problems.append(str(error))
                    continue
                if problems:
                    logger.warning("%s; version %d runs instead", problems[0], entry.version)
                return opened
            if self.state(name) == state:
                raise StoreError(f"{problems[0]}; install {name} again")

    def _active(self, name: str, state: State) -> Installed:
        if state.active is None:
            raise StoreError(f"nothing named {name!r} is installed; see edgedistill-run list")
        return state.active

    def _read(self, name: str, entry: Installed) -> Bundle:
        path = self.path(name, entry)
        opened = bundle.read(path)
        if opened.id != entry.id:
            raise BundleError(f"{path}: another bundle than the one that was installed there")
        return opened

    # --- what changes it: one at a time

    def install(
        self,
        source: BinaryIO,
        name: str | None = None,
        allow_downgrade: bool = False,
        signers: Path | None = None,
    ) -> Change:
        """Take in the bundle that `source` gives, try it, and let it run.

        name: under which it is installed; default its own.
        signers: an allowed_signers file that is pinned from now on.
        Raises BundleError, StoreError or OSError; what ran before runs then as before.
        """
        intake = Intake(source)
        manifest = intake.manifest
        name = _valid_name(manifest.name if name is None else name, name is None)
        with self._locked():
            state = self._recovered(name)
            if manifest.version < state.floor and not allow_downgrade:
                raise StoreError(
                    f"version {manifest.version} of {name} is older than version {state.floor}, "
                    "which was installed before; to go back on purpose: --allow-downgrade"
                )
            pin = self._to_pin(signers)
            self._require_space(intake.size)
            with self._staged(intake) as staged:
                opened = _read_staged(staged)
                signer = self._signer(opened, self._signers if pin is None else signers)
                entry = Installed(opened.id, manifest.version, opened.size, signer)
                folder = self._models / name
                self._make_folders(folder)
                self._disk.rename(staged, self.path(name, entry))
                self._disk.sync_folder(folder)
            floor = manifest.version if allow_downgrade else max(state.floor, manifest.version)
            return self._switch(name, state, entry, floor, opened.manifest.budget.peak_ram_mib, pin)

    def activate(self, name: str, start_of_id: str) -> Change:
        """Let the kept bundle run whose id begins so."""
        with self._locked():
            state = self._recovered(name)
            found = [e for e in state.kept if start_of_id and e.id.startswith(start_of_id.lower())]
            if len(found) != 1:
                kept = ", ".join(f"{e.id[:12]} (version {e.version})" for e in state.kept)
                raise StoreError(
                    f"{len(found) or 'no'} bundles of {name!r} begin with {start_of_id!r}; "
                    f"there is: {kept or 'nothing'}"
                )
            return self._go_to(name, state, found[0])

    def rollback(self, name: str) -> Change:
        """Let the bundle run that ran before; called again, it goes forward again."""
        with self._locked():
            state = self._recovered(name)
            if state.previous is None:
                raise StoreError(
                    f"there is no bundle of {name!r} to go back to; see edgedistill-run list"
                )
            return self._go_to(name, state, state.previous)

    def remove(self, name: str, start_of_id: str | None = None) -> list[str]:
        """Remove all bundles of that name, or the one that does not run.  -> their ids"""
        with self._locked():
            folder = self._models / name
            if not NAME.fullmatch(name) or not (folder / "state.json").exists():
                raise StoreError(unknown("installed bundle", name, self.names()))
            if start_of_id is None:
                gone = sorted(p.stem for p in folder.iterdir() if _ID.fullmatch(p.stem))
                self._disk.remove(folder / "state.json")
                self._disk.sync_folder(folder)
                self._sweep(name, State())
                return gone
            state = self._recovered(name)
            last = state.previous
            if last is None or not start_of_id or not last.id.startswith(start_of_id.lower()):
                raise StoreError(
                    f"no bundle of {name!r} that does not run begins with {start_of_id!r}; the "
                    "active one goes only with all of them, or after a rollback"
                )
            state = dataclasses.replace(state, previous=None)
            self._write_state(name, state)
            self._sweep(name, state)
            return [last.id]

    def _go_to(self, name: str, state: State, entry: Installed) -> Change:
        opened = self._read(name, entry)
        entry = dataclasses.replace(entry, signer=self._signer(opened, self._signers))
        return self._switch(name, state, entry, state.floor, opened.manifest.budget.peak_ram_mib)

    def _switch(
        self,
        name: str,
        state: State,
        entry: Installed,
        floor: int,
        limit_mib: float | None,
        pin: bytes | None = None,
    ) -> Change:
        """Try the bundle, and let it run if it passes; else all is as it was."""
        before = state.active
        same = before is None or before.id == entry.id
        done = State(entry, state.previous if same else before, None, floor)
        try:
            self._write_state(name, dataclasses.replace(state, trying=entry.id))
            found = self._check(self.path(name, entry), limit_mib)
            if pin is not None:
                self._write(self._signers, pin)
            self._write_state(name, done)
        except BaseException:
            with contextlib.suppress(OSError):  # what could not be undone is at the next start
                self._write_state(name, state)
                self._sweep(name, state)
            raise
        with contextlib.suppress(OSError):  # it runs; what is left over goes at the next start
            self._sweep(name, done)
        return Change(name, entry, done.previous, found)

    def _recovered(self, name: str) -> State:
        """The committed state, after everything is gone that an interrupted command left."""
        if not NAME.fullmatch(name):
            raise StoreError(unknown("installed bundle", name, self.names()))
        for path in self._staging.iterdir():
            if _STAGED.fullmatch(path.name):
                self._disk.remove(path)
        for path in self.folder.iterdir():
            if _PIN_DRAFT.fullmatch(path.name):
                self._disk.remove(path)
        state = self.state(name)
        if state.trying is not None:
            logger.warning(
                "the last change of %s was interrupted while %s was tried; %s",
                name,
                state.trying[:12],
                "nothing runs" if state.active is None else f"version {state.active.version} runs",
            )
            state = dataclasses.replace(state, trying=None)
            self._write_state(name, state)
        self._sweep(name, state)
        return state

    def _sweep(self, name: str, state: State) -> None:
        """Remove what this store made under that name and no longer needs."""
        folder, kept = self._models / name, {f"{entry.id}.edge" for entry in state.kept}
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            if _OURS.fullmatch(path.name) and path.name not in kept:
                self._disk.remove(path)
        if not state.kept:
            with contextlib.suppress(FileNotFoundError):
                self._disk.remove(folder / "state.json")
            with contextlib.suppress(OSError):  # somebody else's files are in it
                self._disk.remove_folder(folder)
            self._disk.sync_folder(self._models)

    # --- who may, and what fits

    def _signer(self, opened: Bundle, signers: Path | None) -> str | None:
        """Who signed it, if it matters here.  Raises BundleError if it is nobody of the pinned."""
        if signers is None or not os.path.lexists(signers):
            return None
        if opened.signature is None:
            raise BundleError(
                f"{opened.manifest.name} is not signed, and only bundles by the signers in "
                f"{signers} are taken; sign it on the host: edgedistill sign BUNDLE --key FILE"
            )
        return signing.verify(opened.manifest_json, opened.signature, signing.BUNDLE, signers)

    def _to_pin(self, signers: Path | None) -> bytes | None:
        """What has to be written to pin them; None if they are pinned, or none are given."""
        if signers is None:
            return None
        with signers.open("rb") as file:
            wanted = file.read(MAX_SIGNERS_BYTES + 1)
        if len(wanted) > MAX_SIGNERS_BYTES:
            raise StoreError(f"{signers} has more than {MAX_SIGNERS_BYTES} bytes; no such file has")
        try:
            pinned = self._signers.read_bytes()
        except FileNotFoundError:
            return wanted
        if pinned != wanted:
            raise StoreError(
                f"other signers than those of {signers} are pinned already; to change them, edit "
                f"{self._signers}"
            )
        return None

    def _require_space(self, size: int) -> None:
        found = os.statvfs(self.folder)
        free = found.f_bavail * found.f_frsize
        needed = size + MAX_SIGNATURE_BYTES + SPARE_BYTES
        if free < needed:
            raise StoreError(
                f"the bundle needs {needed / 2**20:.1f} MiB beside those that are kept, and "
                f"{self.folder} has {free / 2**20:.1f} free; make room, for example with: "
                "edgedistill-run remove"
            )

    # --- the order of operations

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone; waits for another's change to end, at most `wait_seconds`."""
        try:
            self._make_folders(self._models)
            self._make_folders(self._staging)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.folder} ({error.strerror}); run as a user who may, or give "
                "another folder: --state DIR"
            ) from None
        try:
            deadline = time.monotonic() + self._wait_seconds
            while not _try_lock(handle):
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"another edgedistill-run has been changing {self.folder} for "
                        f"{self._wait_seconds:g} s; try again when it is done"
                    )
                time.sleep(0.05)
            yield
        finally:
            os.close(handle)

    def _make_folders(self, folder: Path) -> None:
        """Those that are missing, so that a power cut does not lose them."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            self._disk.make_folder(folder)
        self._disk.sync_folder(folder.parent)

    @contextlib.contextmanager
    def _staged(self, intake: Intake) -> Iterator[Path]:
        """The incoming bundle in a file that is on the disk; gone afterwards, if not renamed."""
        path = self._staging / f"{secrets.token_hex(8)}.edge"
        try:
            self._put(path, intake.chunks())
            yield path
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.remove(path)
            raise

    def _write_state(self, name: str, state: State) -> None:
        self._write(self._models / name / "state.json", state.to_json())

    def _write(self, path: Path, data: bytes) -> None:
        """The switch: a reader sees the old file or the new one, and so does one after a crash."""
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            self._put(draft, iter([data]))
            self._disk.rename(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._disk.remove(draft)
            raise
        self._disk.sync_folder(path.parent)

    def _put(self, path: Path, chunks: Iterator[bytes]) -> None:
        handle = self._disk.create(path)
        try:
            for chunk in chunks:
                self._disk.write(handle, chunk)
            self._disk.sync(handle)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise StoreError(f"cannot write to {self.folder}: {error.strerror}") from None
        finally:
            os.close(handle)


def _read_staged(path: Path) -> Bundle:
    try:
        return bundle.read(path)
    except BundleError as error:
        raise BundleError(str(error).removeprefix(f"{path}: ")) from None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _valid_name(name: str, is_its_own: bool) -> str:
    if NAME.fullmatch(name):
        return name
    whose = "the bundle's name" if is_its_own else "the name"
    raise StoreError(
        f"{whose} {name[:80]!r} cannot be one here; give one of a-z, 0-9, ., _ and -, "
        "of at most 64 characters: --as NAME"
    )


def _entry(table: Any) -> Installed | None:
    if table is None:
        return None
    entry = Installed(table["id"], table["version"], table["size"], table["signer"])
    if not _is_id(entry.id) or type(entry.version) is not int or type(entry.size) is not int:
        raise ValueError("wrong types")
    if entry.signer is not None and not isinstance(entry.signer, str):
        raise ValueError("wrong types")
    return entry


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
