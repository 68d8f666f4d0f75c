"""One SSH connection to a board, and the frames that go over it (see `agent`).

The OpenSSH client does the rest, with the user's own configuration.  A board is not believed: what
it sends is capped, and what it does not send is waited for only so long.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Iterable
from importlib import resources
from typing import IO, Any

from edgedistill.boards.address import Address
from edgedistill.errors import EdgeDistillError

CONFIG = "EDGEDISTILL_SSH_CONFIG"
"""Environment variable with another configuration for `ssh`, as its -F."""
GREETING_SECONDS = 90.0
SILENCE_SECONDS = 60.0
"""The agent says something every 10."""
BEAT_SECONDS = 10.0
BYE_SECONDS = 10.0
MAX_CHATTER = 1 << 16
"""Bytes that a login may print before the agent speaks."""
MAX_LINE = 1 << 12
MAX_FRAME = 1 << 20
MAX_ALL = 256 << 20
MAX_SAID = 1 << 16
_HELLO = b'{"kind": "hello", "size": 0}\n'
_CHUNK = 1 << 16
_BOOT = (
    "import sys;sys.path=[p for p in sys.path if p];"
    'sys.version_info<(3,7) and sys.exit("edgedistill: python %d.%d"%sys.version_info[:2]);'
    'exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),"agent","exec"))'
)  # it may read too far, so nothing is sent before the agent's first word
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BoardError(EdgeDistillError):
    """A board cannot be reached or used, or the connection to it was lost."""


class ConnectionLost(BoardError):
    """The board was there, and is not any more."""


def printable(data: bytes) -> str:
    """Text of a board, without what a terminal would obey."""
    return _CONTROL.sub("", data.decode("utf-8", "replace"))


class Connection:
    """Open until `close`.  Raises BoardError if the board cannot be reached."""

    def __init__(self, address: Address) -> None:
        self.address = address
        agent = resources.files("edgedistill.boards").joinpath("agent.py").read_bytes()
        config = os.environ.get(CONFIG)
        remote = f"exec python3 -c {shlex.quote(_BOOT)} {len(agent)}"
        command = [
            *("ssh", "-T", "-o", "BatchMode=yes"),
            *(["-F", config] if config else []),
            *address.words(),
            remote,
        ]
        try:
            self._ssh = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except FileNotFoundError:
            raise BoardError("there is no ssh here; install the OpenSSH client") from None
        assert self._ssh.stdin
        assert self._ssh.stdout
        assert self._ssh.stderr
        self._stdin, self._stdout = self._ssh.stdin, self._ssh.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._said = bytearray()
        self._frames: queue.Queue[tuple[dict[str, Any], bytes] | BoardError] = queue.Queue()
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._greeted = False
        self._hearing = (
            threading.Thread(target=self._hear_ssh, args=(self._ssh.stderr,), daemon=True),
            threading.Thread(target=self._hear_board, daemon=True),
        )
        for thread in (*self._hearing, threading.Thread(target=self._beat, daemon=True)):
            thread.start()
        try:
            self._write([agent])
            self._next(GREETING_SECONDS)
        except BaseException:
            self.close()
            raise

    def send(self, op: str, data: Iterable[bytes] = (), **more: Any) -> None:
        """One frame; `size` in `more` says how many bytes of `data` follow."""
        head = json.dumps({"op": op, **more}).encode() + b"\n"
        self._write([head, *data] if isinstance(data, list) else _chain(head, data))

    def receive(self, seconds: float = SILENCE_SECONDS) -> tuple[dict[str, Any], bytes]:
        """The next frame that says something.  Raises BoardError."""
        deadline = time.monotonic() + seconds
        while True:
            head, data = self._next(min(SILENCE_SECONDS, max(0.0, deadline - time.monotonic())))
            if head["kind"] == "refused":
                raise BoardError(f"{self.address}: {printable(data)[:400]}")
            if head["kind"] != "alive":
                return head, data
            if time.monotonic() >= deadline:
                raise BoardError(
                    f"{self.address} did not finish in {seconds:.0f} s; it was stopped"
                )

    def close(self) -> None:
        """The agent tidies up once its stdin closes; it is given a while to do so."""
        if self._closed.is_set():
            return
        self._closed.set()
        held = self._writing.acquire(timeout=1)
        try:
            if held and self._greeted:
                os.write(self._stdin.fileno(), b'{"op": "bye"}\n')
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                self._stdin.close()
            if held:
                self._writing.release()
        try:
            self._ssh.wait(BYE_SECONDS if self._greeted else 1)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        for thread in self._hearing:
            thread.join(1)

    def _next(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        try:
            found = self._frames.get(timeout=seconds)
        except queue.Empty:
            what = "stopped answering" if self._greeted else "does not answer"
            found = ConnectionLost(f"{self.address} {what} ({seconds:.0f} s); see whether it is on")
        if isinstance(found, BoardError):
            self._frames.put(found)
            raise found
        return found

    def _write(self, pieces: Iterable[bytes]) -> None:
        """What a board said before it stopped listening is for `receive` to tell, in order."""
        with self._writing:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    ready = select.select([], [self._stdin], [], SILENCE_SECONDS)[1]
                    try:
                        sent = os.write(self._stdin.fileno(), left[:_CHUNK]) if ready else None
                    except BlockingIOError:
                        sent = 0
                    except OSError:
                        sent = None
                    if sent is None:
                        self._hearing[1].join(5)
                        if self._hearing[1].is_alive():
                            raise self._lost()
                        return
                    left = left[sent:]

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if not self._greeted:
                continue
            try:
                self.send("alive")
            except (BoardError, ValueError):
                return

    def _hear_ssh(self, stream: IO[bytes]) -> None:
        """A master connection may keep this open for long after `ssh` has ended."""
        with stream:
            while data := os.read(stream.fileno(), _CHUNK):
                self._said += data[: MAX_SAID - len(self._said)]

    def _hear_board(self) -> None:
        try:
            with self._stdout:
                rest = self._greeting()
                self._greeted = True
                self._frames.put(({"kind": "hello"}, b""))
                self._read_frames(rest)
        except BoardError as error:
            self._frames.put(error)
        except (OSError, ValueError):
            self._frames.put(ConnectionLost(f"the connection to {self.address} was closed"))

    def _greeting(self) -> bytearray:
        """Skip what a login prints.  -> what came after the agent's first word"""
        heard = bytearray()
        while _HELLO not in heard:
            data = os.read(self._stdout.fileno(), _CHUNK)
            if not data:
                raise self._lost()
            heard += data
            if len(heard) > MAX_CHATTER and _HELLO not in heard:
                raise BoardError(
                    f"{self.address} answers with something else than was asked for "
                    f"({printable(bytes(heard[:60]))!r}…); its shell must print nothing and run "
                    "the command that it is given"
                )
        return heard[heard.index(_HELLO) + len(_HELLO) :]

    def _read_frames(self, buffer: bytearray) -> None:
        total = 0

        def fill() -> None:
            nonlocal total
            data = os.read(self._stdout.fileno(), _CHUNK)
            if not data:
                raise self._lost()
            total += len(data)
            if total > MAX_ALL:
                raise BoardError(f"{self.address} sent more than {MAX_ALL >> 20} MiB; stopped")
            buffer.extend(data)

        while True:
            while b"\n" not in buffer[:MAX_LINE]:
                if len(buffer) >= MAX_LINE:
                    raise self._garbage()
                fill()
            line, _, rest = bytes(buffer[:MAX_LINE]).partition(b"\n")
            del rest
            try:
                head = json.loads(line)
                size = head["size"]
                known = isinstance(head["kind"], str) and type(size) is int
            except (ValueError, KeyError, TypeError, RecursionError):
                known = False
            if not known or not 0 <= size <= MAX_FRAME:
                raise self._garbage()
            del buffer[: len(line) + 1]
            while len(buffer) < size:
                fill()
            self._frames.put((head, bytes(buffer[:size])))
            del buffer[:size]

    def _garbage(self) -> BoardError:
        return BoardError(
            f"{self.address} sent what this version does not understand; stopped, try again"
        )

    def _lost(self) -> BoardError:
        """Why the connection ended, from what `ssh` said of it."""
        try:
            status = self._ssh.wait(5)
        except subprocess.TimeoutExpired:
            status = -1
        self._hearing[0].join(0.5)
        lines = [x for line in self._said.splitlines() if (x := printable(bytes(line)).strip())]
        said = lines[-1][:300] if lines else f"ssh ended with {status}"
        if self._greeted:
            return ConnectionLost(f"the connection to {self.address} was lost ({said})")
        return BoardError(_why(self.address, status, said, "\n".join(lines)))


def _why(address: Address, status: int, said: str, everything: str) -> str:
    if "edgedistill: python " in everything:
        version = everything.partition("edgedistill: python ")[2].split()[0]
        return f"{address} has Python {version}; the runtime needs 3.11 or newer"
    if status == 127 or "python3: not found" in everything:
        return f"{address} has no python3; install Python 3.11 or newer there ({said})"
    if "Host key verification failed" in everything:
        return (
            f"the host key of {address} is not known, or has changed; see that it is the right "
            f"board by logging in by hand once: ssh {' '.join(address.words())}"
        )
    if "Permission denied" in everything:
        return (
            f"{address} does not let this user in ({said}); it must work without a password: "
            "ssh-copy-id, or a key in the agent"
        )
    return f"cannot reach {address}: {said}"


def _chain(head: bytes, data: Iterable[bytes]) -> Iterable[bytes]:
    yield head
    yield from data
