"""Write zip files byte by byte (APPNOTE 4.3), to make those that no library would."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One entry; the defaults are what a bundle has.  None: what the data says."""

    name: str
    data: bytes
    stored: bytes | None = None
    """What stands in the file instead of the data, such as its compressed form."""
    version: int = 20
    made_by: int = 20
    flags: int = 0
    method: int = 0
    time: int = 0
    date: int = 0x21
    crc: int | None = None
    compressed_size: int | None = None
    size: int | None = None
    local_name: str | None = None
    local_extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    internal: int = 0
    external: int = 0
    offset: int | None = None
    before: bytes = b""
    """Bytes in front of the local header."""
    after: bytes = b""
    """Bytes behind the data, such as a data descriptor."""


def zip_bytes(
    entries: Sequence[Entry],
    *,
    before_directory: bytes = b"",
    before_end: bytes = b"",
    comment: bytes = b"",
    disk: int = 0,
    count: int | None = None,
    directory_size: int | None = None,
    directory_offset: int | None = None,
) -> bytes:
    """The whole file; None: what the entries say."""
    out, central = b"", b""
    for e in entries:
        out += e.before
        offset = len(out) if e.offset is None else e.offset
        data = e.data if e.stored is None else e.stored
        sizes = (
            zlib.crc32(e.data) if e.crc is None else e.crc,
            len(data) if e.compressed_size is None else e.compressed_size,
            len(e.data) if e.size is None else e.size,
        )
        same = (e.flags, e.method, e.time, e.date, *sizes)
        local_name = (e.name if e.local_name is None else e.local_name).encode()
        lengths = (len(local_name), len(e.local_extra))
        out += struct.pack("<4s5H3L2H", b"PK\3\4", e.version, *same, *lengths)
        out += local_name + e.local_extra + data + e.after
        name = e.name.encode()
        lengths = (len(name), len(e.central_extra), len(e.comment))
        central += struct.pack("<4s6H3L3H", b"PK\1\2", e.made_by, e.version, *same, *lengths)
        central += struct.pack("<2H2L", 0, e.internal, e.external, offset)
        central += name + e.central_extra + e.comment
    out += before_directory
    many = len(entries) if count is None else count
    size = len(central) if directory_size is None else directory_size
    start = len(out) if directory_offset is None else directory_offset
    end = struct.pack("<4s4H2LH", b"PK\5\6", disk, 0, many, many, size, start, len(comment))
    return out + central + before_end + end + comment
