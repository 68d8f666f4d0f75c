"""A systemd unit that keeps an installed bundle running, and the words that a service says to it.

The unit may read the bundle, use camera and microphone, and do little else: see docs/security.md.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import click

import edgedistill_runtime
from edgedistill_runtime.errors import EdgeDistillError
from edgedistill_runtime.files import write_atomically

T = TypeVar("T")
R = TypeVar("R")

PING_S, HANGS_S = 5.0, 20.0
"""Under the 30 seconds of the unit's watchdog."""
UNITS = Path("/etc/systemd/system")
BOOTED = Path("/run/systemd/system")
"""There while systemd runs the machine (sd_booted(3))."""
MARK = (
    "# Written by `edgedistill-run service`; what is changed here is lost when it is run again.\n"
)
GROUPS = ("video", "audio", "render", "gpio")
"""Who may use cameras, microphones and pins on a Debian; those that this board has are taken."""
DEVICES = (
    "char-video4linux",
    "char-media",
    "char-alsa",
    "char-dma_heap",
    "char-drm",
    "char-gpiochip",
)
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Folders that a unit made here does not see, apart from what it needs."""
_TEMPLATE = """\
{mark}
[Unit]
Description=EdgeDistill model {name}
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
ExecStart={command}
{environment}Restart=on-failure
# the program ends its source itself
KillMode=mixed
RestartSec=2
WatchdogSec=30
TimeoutStartSec=120
{memory}
# a user of its own, that may use camera and microphone
DynamicUser=yes
{groups}DevicePolicy=closed
{devices}
# nothing to write to, no other processes, no network
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
{binds}ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_NETLINK
IPAddressDeny=any
UMask=0077

# no way to more rights
CapabilityBoundingSet=
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
KeyringMode=private
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{execute}
[Install]
WantedBy=multi-user.target
"""


def unit(
    name: str,
    arguments: Sequence[str],
    state: Path,
    limit_mib: float | None,
    extra_ram_mib: float = 0,
) -> str:
    """The unit that runs `edgedistill-run predict NAME ARGUMENTS` on the store in `state`.

    limit_mib: the budget of the bundle's own process; extra_ram_mib: for what it starts besides.
    """
    command = [sys.executable, "-m", "edgedistill_runtime", "predict", name, *arguments]
    variables = {"EDGEDISTILL_STATE": str(state)}
    if _python_path():  # the runtime was copied here and is not installed
        variables["PYTHONPATH"] = os.pathsep.join(_python_path())
    memory = ""
    if limit_mib is not None:
        memory = f"MemoryMax={int((limit_mib + extra_ram_mib) * 2**20)}\nMemorySwapMax=0\n"
    groups = " ".join(group for group in GROUPS if _is_group(group))
    return _TEMPLATE.format(
        mark=MARK,
        name=name,
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        environment="".join(f"Environment={_quoted(f'{k}={v}')}\n" for k, v in variables.items()),
        memory=memory,
        groups=f"SupplementaryGroups={groups}\n" if groups else "",
        devices="".join(f"DeviceAllow={device} rw\n" for device in DEVICES),
        binds="".join(f"BindReadOnlyPaths={_quoted(p)}\n" for p in _needed(arguments, state)),
        # a camera's command may compile code while it runs; the engines here do not
        execute="" if _source_words(arguments) else "MemoryDenyWriteExecute=yes\n",
    )


def install(text: str, name: str) -> Path:
    """Write the unit where systemd looks for it.  Raises EdgeDistillError if it is not ours to."""
    path = UNITS / f"edgedistill-{name}.service"
    if os.geteuid() != 0:
        raise EdgeDistillError(f"only root may write {path}; run it again with sudo")
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise EdgeDistillError(
            f"{path} was not written by edgedistill-run service; move it away first"
        )
    write_atomically(path, text.encode())
    return path


def start(path: Path) -> bool:
    """Let systemd run the unit from now on, anew if it runs; False where systemd does not run.

    Raises EdgeDistillError if it does not start.
    """
    if not BOOTED.is_dir():
        return False
    for words in (("daemon-reload",), ("enable", path.name), ("restart", path.name)):
        try:
            done = subprocess.run(
                ["systemctl", *words], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise EdgeDistillError(f"systemctl cannot be run: {error.strerror}") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0]
            raise EdgeDistillError(
                f"systemctl {' '.join(words)}: {said}; see journalctl -u {path.name} -n 20"
            )
    return True


def notify(state: str) -> bool:
    """Tell systemd "READY=1", "WATCHDOG=1" or "STOPPING=1"; False where nobody wants to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # a name without a file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(state.encode())
    except OSError:
        return False
    return True


class Serving:
    """While it lasts, systemd knows that the service runs; `signals` end it with exit code 0.

    The watchdog hears nothing while one call takes longer than `HANGS_S`: systemd then starts the
    service anew.  Waiting for input is no hanging.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals
        self._since: float | None = None
        self._over = threading.Event()
        self._asked = self._held = self._left = False

    def __enter__(self) -> Serving:
        self._before = {number: signal.signal(number, self._end) for number in self._signals}
        if notify("READY=1"):
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A signal that comes meanwhile ends the service only at the end of this."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._leave()

    def write(self, line: str) -> None:
        """Print a line, whole even if a signal comes meanwhile."""
        with self.undisturbed():
            # what is left of a write that a signal interrupted is lost (seen with Python 3.11)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
            try:
                click.echo(line)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def call(self, function: Callable[[T], R], argument: T) -> R:
        """`function(argument)`, under the watchdog's eye."""
        self._since = time.monotonic()
        try:
            return function(argument)
        finally:
            self._since = None

    def _watch(self) -> None:
        while not self._over.wait(PING_S):
            since = self._since
            if since is None or time.monotonic() - since < HANGS_S:
                notify("WATCHDOG=1")

    def _end(self, number: int, frame: object) -> None:
        if not self._asked:
            notify("STOPPING=1")
        self._asked = True
        self._leave()

    def _leave(self) -> None:
        """Once: what is done while the service ends is not disturbed by a second signal."""
        if self._asked and not self._held and not self._left:
            self._left = True
            raise SystemExit(0)


def _needed(arguments: Sequence[str], state: Path) -> list[str]:
    """What the service reads of the folders that are hidden from it."""
    package = Path(edgedistill_runtime.__file__).resolve().parents[1]
    paths = {sys.prefix, sys.base_prefix, str(package), str(state), *_python_path()}
    words = [*arguments, *_source_words(arguments)]
    paths |= {word for word in words if word.startswith("/") and os.path.exists(word)}
    return sorted(p for p in paths if any(p.startswith(f"{folder}/") for folder in HIDDEN))


def _python_path() -> list[str]:
    """Where this program's packages come from besides Python's own folders."""
    return [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p.startswith("/")]


def _source_words(arguments: Sequence[str]) -> list[str]:
    """The words of the source's command, if there is one."""
    option = "--source-cmd"
    for i, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return shlex.split(argument.removeprefix(f"{option}="))
        if argument == option:
            return shlex.split(arguments[i + 1])
    return []


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _quoted(word: str) -> str:
    """One word of a unit's line (systemd.syntax(7), systemd.service(5))."""
    if re.search(r"[\x00-\x1f\x7f]", word):
        raise EdgeDistillError(f"a unit cannot hold the control characters of {word!r}")
    word = word.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return word if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", word) else f'"{word}"'
