"""Where a board is: `ssh://user@host[:port]`, or a name of the user's own SSH configuration.

Host and user are words of few characters, so that no shell, `ProxyCommand` or option of `ssh` can
take them for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgedistill.errors import SettingsError

SCHEME = "ssh://"
_HOST = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:%-]{0,254}")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]{0,63}")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class Address:
    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises SettingsError for what is not ssh://[user@]host[:port]."""
        if not text.startswith(SCHEME):
            raise SettingsError(f"{text!r} is no board; write ssh://user@host or ssh://host:port")
        user, at, place = text.removeprefix(SCHEME).removesuffix("/").rpartition("@")
        if place.startswith("["):
            host, bracket, port = place[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise SettingsError(f"{text!r}: an IPv6 address stands in [ ]")
            colon, port = port[:1], port[1:]
        else:
            host, colon, port = place.partition(":")
        if not _HOST.fullmatch(host):
            raise SettingsError(
                f"{text!r}: {host!r} is no host; a host has letters, digits, '.', '_' and '-', and "
                "does not begin with '-'"
            )
        if at and not _USER.fullmatch(user):
            raise SettingsError(
                f"{text!r}: {user!r} is no user; a user has letters, digits, '.', '_', '+' and '-',"
                " and does not begin with '-'"
            )
        if colon and not (_PORT.fullmatch(port) and 0 < int(port) < 65_536):
            raise SettingsError(f"{text!r}: {port!r} is no port; give one of 1 to 65535")
        return cls(host, user or None, int(port) if port else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{SCHEME}{self.user + '@' if self.user else ''}{host}{port}"

    def words(self) -> list[str]:
        """What `ssh` is given."""
        user = [] if self.user is None else ["-l", self.user]
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*user, *port, "--", self.host]
