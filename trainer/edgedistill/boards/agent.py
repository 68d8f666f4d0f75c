"""What runs on the board while a host is connected: it takes files, runs the runtime, cleans up.

Its text is sent over the connection and never installed.  Frames are a line of JSON, and as many
bytes as its "size" says; they come in on stdin and go out on stdout.  When stdin closes, or nothing
comes for SILENCE seconds, what runs is stopped and the folder that was made is removed.

Standard library of Python 3.7 or newer: an older board than the runtime's must be able to say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

SILENCE = 60.0
BEAT = 10.0
PATIENCE = 5.0
"""Seconds that a program has to end by itself."""
CHUNK = 1 << 16
SPARE_BYTES = 8 << 20
DAY = 86_400
LOOK = 0.5
"""Seconds between two looks at a file that grows."""
EMULATED = "/etc/edgedistill-emulated"
MODELS = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
LOCKS = ("/run/lock", "/tmp")
LOCK = "edgedistill.lock"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
DIGEST = re.compile(r"[0-9a-f]{64}")


class Gone(Exception):
    """The host is not there any more."""


class Refused(Exception):
    """What was asked cannot be done, in one sentence."""


class Host:
    """The other end.  Frames of several threads do not mix."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)  # whatever prints here must not end up between frames
        self._buffer = b""
        self._writing = threading.Lock()

    def send(self, kind: str, data: bytes = b"", **more: object) -> None:
        head = json.dumps(dict(more, kind=kind, size=len(data))).encode() + b"\n"
        with self._writing:
            left = memoryview(head + data)
            while left:
                try:
                    left = left[os.write(self._out, left) :]
                except OSError:
                    raise Gone from None

    def waiting(self) -> bool:
        return bool(self._buffer)

    def frame(self) -> dict[str, object]:
        while b"\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, object] = json.loads(line)
        return found

    def take(self, size: int):  # type: ignore[no-untyped-def]
        """The bytes that follow a frame, piece by piece."""
        while size:
            if not self._buffer:
                self._fill()
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            yield piece

    @contextlib.contextmanager
    def beating(self):  # type: ignore[no-untyped-def]
        """Say something now and then while nothing else may be said for long.

        There is no such thread when a process is started: under qemu, a fork beside one hangs.
        """
        over = threading.Event()

        def beat() -> None:
            with contextlib.suppress(Gone):
                while not over.wait(BEAT):
                    self.send("alive")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE)

    def _fill(self) -> None:
        end = time.monotonic() + SILENCE
        while not select.select([0], [], [], BEAT)[0]:
            if time.monotonic() > end:
                raise Gone
            self.send("alive")
        data = os.read(0, CHUNK)
        if not data:
            raise Gone
        self._buffer += data


class Agent:
    def __init__(self, host: Host, work: str) -> None:
        self.host = host
        self.work = work
        self.path: list[str] = []
        """Folders of wheels, for PYTHONPATH."""
        self.store = ""
        self.refusal: str | None = None
        """Of a file that could not be written; said when something is asked."""
        self.lock: int | None = None

    def serve(self) -> None:
        while True:
            frame = self.host.frame()
            op = frame.pop("op")
            if op == "bye":
                return
            try:
                getattr(self, "do_" + str(op))(**frame)
            except Refused as error:
                self.host.send("refused", str(error).encode())

    def do_alive(self) -> None:
        pass

    def do_facts(self, names: list[str]) -> None:
        self.host.send("facts", json.dumps(facts(names)).encode())

    def do_hold(self) -> None:
        """Whether the board is this connection's now, to its end, among those that ask."""
        try:
            self.lock = open_lock() if self.lock is None else self.lock
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        except OSError as error:
            raise Refused(f"the board's lock cannot be opened: {error.strerror}") from None
        self.host.send("held", json.dumps(held).encode())

    def do_wheels(self, digests: list[str], keep: bool) -> None:
        """Which wheels are missing; the others are used from now on."""
        self.store = wheel_folder(self.work) if keep else os.path.join(self.work, "wheels")
        places = {digest: os.path.join(self.store, checked(DIGEST, digest)) for digest in digests}
        self.path = list(places.values())
        missing = [digest for digest, place in places.items() if not os.path.isdir(place)]
        self.host.send("missing", json.dumps(missing).encode())

    def do_wheel(self, digest: str, size: int, unpacked: int) -> None:
        """Unpack a wheel beside its place, and rename it: it is there whole, or not at all."""
        pieces = self.host.take(size)
        place = os.path.join(self.store, checked(DIGEST, digest))
        try:
            os.makedirs(self.store, exist_ok=True)
            free = shutil.disk_usage(self.store).free
            needed = size + unpacked + SPARE_BYTES
            if free < needed:
                raise Refused(
                    f"{self.store} has {free / 2**20:.0f} MiB free, and a wheel needs "
                    f"{needed / 2**20:.0f}; make room on the board"
                )
            made = tempfile.mkdtemp(prefix=".new-", dir=self.store)
            try:
                wheel = os.path.join(made, "wheel")
                with open(wheel, "wb") as file:
                    total = hashlib.sha256()
                    for piece in pieces:
                        total.update(piece)
                        file.write(piece)
                if total.hexdigest() != digest:
                    raise Refused("a wheel arrived damaged; try again")
                content = os.path.join(made, "content")
                with self.host.beating():
                    unpack(wheel, content)
                    os.remove(wheel)
                    os.sync()  # a power cut after the rename must not leave empty files
                with contextlib.suppress(OSError):  # another host was faster
                    os.rename(content, place)
            finally:
                shutil.rmtree(made, ignore_errors=True)
            if not os.path.isdir(place):
                raise Refused(f"cannot write {place}")
        except OSError as error:
            raise Refused(f"cannot write to {self.store}: {error.strerror}") from None
        finally:
            for _ in pieces:
                pass
        self.host.send("done")

    def do_put(self, path: str, size: int) -> None:
        pieces = self.host.take(size)
        try:
            target = self.inside(path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            self.refusal = f"cannot write {path} to {self.work}: {error.strerror}"
        finally:
            for _ in pieces:
                pass

    def do_drop(self, paths: list[str]) -> None:
        for path in paths:
            with contextlib.suppress(OSError):
                os.remove(self.inside(path))

    def inside(self, path: str) -> str:
        parts = path.split("/")
        return os.path.join(self.work, *[checked(NAME, part) for part in parts])

    def do_run(
        self,
        words: list[str],
        size: int = 0,
        follow: str | None = None,
        offset: int = 0,
        root: dict[str, str] | None = None,
    ) -> None:
        """The runtime's command line; what it says is sent as it comes, then its exit status."""
        pieces = self.host.take(size)
        if self.refusal is not None:
            for _ in pieces:
                pass
            text, self.refusal = self.refusal, None
            raise Refused(text)
        python_path = self.path + [p for p in [os.environ.get("PYTHONPATH")] if p]
        places = dict.fromkeys(("TMPDIR", "XDG_CACHE_HOME"), os.path.join(self.work, "tmp"))
        os.makedirs(places["TMPDIR"], exist_ok=True)  # engines leave files there
        variables = dict(places, PYTHONPATH=os.pathsep.join(python_path), **(root or {}))
        command = [sys.executable, "-m", "edgedistill_runtime", *words]
        if root is not None and os.geteuid() != 0:
            if shutil.which("sudo") is None:
                raise Refused("this needs root, and there is no sudo; log in as root")
            command = ["sudo", "-n", "env", *[f"{k}={v}" for k, v in variables.items()], *command]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if size else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.work,
            env=dict(os.environ, **variables),
            start_new_session=True,
        )
        ended, end = os.pipe()
        pumps = [
            threading.Thread(target=self.pump, args=(kind, stream), daemon=True)
            for kind, stream in (("out", child.stdout), ("err", child.stderr))
        ]

        def wait() -> None:
            child.wait()
            os.close(end)

        waiter = threading.Thread(target=wait, daemon=True)
        for thread in (*pumps, waiter):
            thread.start()
        try:
            with self.host.beating():
                if size:
                    self.feed(child, pieces)
                offset = self.watch(ended, follow, offset)
        except BaseException:
            stop(child)
            raise
        finally:
            waiter.join(PATIENCE)
            os.close(ended)
        for thread in pumps:
            thread.join(PATIENCE)
        self.look(follow, offset)
        self.host.send("exit", status=child.returncode)

    def pump(self, kind: str, stream) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(Gone):
            while True:
                data = os.read(stream.fileno(), CHUNK)
                if not data:
                    return
                self.host.send(kind, data)

    def feed(self, child, pieces) -> None:  # type: ignore[no-untyped-def]
        """The program's stdin.  One that does not read to the end says why itself."""
        for piece in pieces:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(piece)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()

    def watch(self, ended: int, follow: str | None, offset: int) -> int:
        """Until the program ends.  Raises Gone when the host does."""
        heard = time.monotonic()
        while True:
            ready = select.select([0, ended], [], [], SILENCE if follow is None else LOOK)[0]
            offset = self.look(follow, offset)
            if 0 in ready or self.host.waiting():
                heard = time.monotonic()
                if self.host.frame()["op"] != "alive":
                    raise Gone
            elif ended in ready:
                return offset
            elif time.monotonic() - heard > SILENCE:
                raise Gone

    def look(self, follow: str | None, offset: int) -> int:
        """Send what a file has grown by; a connection may drop before the program ends."""
        if follow is None:
            return offset
        try:
            with open(self.inside(follow), "rb") as file:
                file.seek(offset)
                for data in iter(lambda: file.read(CHUNK), b""):
                    offset += len(data)
                    self.host.send("file", data)
        except OSError:  # not there yet
            pass
        return offset


def checked(form, text: str) -> str:  # type: ignore[no-untyped-def]
    if not form.fullmatch(text):
        raise Refused(f"{text[:80]!r} is no name")
    return text


def stop(child) -> None:  # type: ignore[no-untyped-def]
    """As Ctrl-C does, so that it can tidy up; then for good, with all that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(child.pid, number)
        end = time.monotonic() + PATIENCE
        while child.poll() is None and time.monotonic() < end:
            time.sleep(0.05)


def unpack(wheel: str, folder: str) -> None:
    """As an installer would, without scripts.  Raises Refused if it is no wheel."""
    try:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)  # takes no path out of the folder
    except (zipfile.BadZipFile, RuntimeError):
        raise Refused("a wheel is damaged") from None
    for name in os.listdir(folder):
        if name.endswith(".data"):
            for kind in ("purelib", "platlib"):
                inner = os.path.join(folder, name, kind)
                for entry in os.listdir(inner) if os.path.isdir(inner) else []:
                    os.rename(os.path.join(inner, entry), os.path.join(folder, entry))


def wheel_folder(work: str) -> str:
    """Where wheels are kept for the next time; in the work folder where nothing can be kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(base, "edgedistill", "wheels")
    try:
        os.makedirs(folder, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=".new-", dir=folder))
        for name in os.listdir(folder):  # of connections that ended in a power cut
            path = os.path.join(folder, name)
            if name.startswith(".new-") and os.path.getmtime(path) < time.time() - DAY:
                shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return os.path.join(work, "wheels")
    return folder


def facts(names: list[str]) -> dict[str, object]:
    """What decides which wheels this board takes, and what it has already."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        libc = ""
    return {
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "python": list(sys.version_info[:2]),
        "implementation": platform.python_implementation(),
        "libc": libc,
        "model": model(),
        "emulated": os.path.exists(EMULATED),
        "installed": installed(names),
    }


def model() -> str:
    for path in MODELS:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return file.read(200).rstrip(b"\0").decode("utf-8", "replace").strip()
    return ""


def installed(names: list[str]) -> dict[str, str]:
    try:
        from importlib import metadata
    except ImportError:
        return {}
    found = {}
    for name in names:
        with contextlib.suppress(Exception):  # broken metadata of others are none
            found[name] = metadata.version(name)
    return found


def open_lock() -> int:
    """One for all users; the system refuses to create what another one has, but not to open it."""
    path = os.path.join(next(folder for folder in LOCKS if os.path.isdir(folder)), LOCK)
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)


def work_folder() -> str:
    """Fresh, and on a disk: /tmp may be memory, and a board has little of it."""
    places = [os.environ.get("TMPDIR"), "/var/tmp", None]
    for place in places[:-1]:
        with contextlib.suppress(OSError):
            if place:
                return tempfile.mkdtemp(prefix="edgedistill-", dir=place)
    return tempfile.mkdtemp(prefix="edgedistill-")


def leave(number: int, frame: object) -> None:
    raise Gone


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    host, work = Host(), None
    try:
        host.send("hello")
        work = work_folder()
        Agent(host, work).serve()
    except OSError as error:
        with contextlib.suppress(Gone):
            host.send("refused", f"cannot make a folder: {error.strerror}".encode())
    except (Gone, KeyboardInterrupt):
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
