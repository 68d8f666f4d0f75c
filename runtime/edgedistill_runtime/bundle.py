"""Open a bundle and make sure its files are the ones that were packed; write one.

A bundle is a zip in one canonical form: entries stored, in the manifest's order, fixed times, no
extra fields, flags, comments or gaps.  So the reader parses nothing twice: it walks the file once,
builds the headers that the writer would have written, and compares bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    Manifest,
    bundle_id,
)

MAX_SIGNATURE_BYTES = 1 << 16
DOS_DATE = 0x21  # 1 January 1980, the earliest a zip can say
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte has been checked, in memory."""

    manifest: Manifest
    id: str
    """SHA-256 of manifest.json."""
    files: Mapping[str, bytes]
    size: int
    """Bytes of the whole file."""
    signature: bytes | None
    manifest_json: bytes


def write(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> str:
    """Pack `files`, which `manifest` lists, atomically into `path`.  Returns the bundle's id."""
    manifest_json = manifest.to_json()
    entries = [(MANIFEST_NAME, manifest_json)] + [(f.name, files[f.name]) for f in manifest.files]
    write_atomically(path, encode(entries))
    return bundle_id(manifest_json)


def read(path: Path | str) -> Bundle:
    """Read the whole bundle and check every byte of it.

    Raises BundleError (altered, damaged, not canonical, a newer format) or OSError.
    """
    with _open_regular(Path(path)) as file:
        try:
            return _Reader(file).bundle()
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from None


def is_path(given: Path | str) -> bool:
    """Whether this names a file, and not a bundle that is installed; a file goes first."""
    return os.sep in str(given) or str(given).endswith(".edge") or os.path.isfile(given)


def _open_regular(path: Path) -> BinaryIO:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block us
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError(f"{path}: not a file; give the path of a bundle (model.edge)")
    return os.fdopen(handle, "rb")


class _Reader:
    """Walks one bundle from the first byte to the last."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0
        self.central: list[bytes] = []

    def bundle(self) -> Bundle:
        manifest_json = self._manifest()
        manifest = Manifest.from_json(manifest_json)
        left = self.size - self.position
        if sum(f.size for f in manifest.files) > left:
            raise BundleError(
                "the manifest promises more bytes than the file has; it was cut short"
            )
        files = {}
        for entry in manifest.files:
            data = self._entry(entry.name, entry.size)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise BundleError(f"{entry.name} is not the file that was packed (SHA-256 differs)")
            files[entry.name] = data
        signature = self._signature()
        self._end()
        return Bundle(
            manifest, bundle_id(manifest_json), files, self.size, signature, manifest_json
        )

    def _manifest(self) -> bytes:
        header = self._take(_LOCAL.size)
        if header[:4] != b"PK\x03\x04":
            raise BundleError("not a bundle (it does not begin as one)")
        size = _LOCAL.unpack(header)[8]
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(f"the manifest claims {size} bytes; at most {MAX_MANIFEST_BYTES}")
        return self._body(MANIFEST_NAME, size, header)

    def _entry(self, name: str, size: int) -> bytes:
        return self._body(name, size, self._take(_LOCAL.size))

    def _body(self, name: str, size: int, header: bytes) -> bytes:
        """The entry's bytes, if its header is the one that the writer gives such an entry."""
        offset = self.position - _LOCAL.size
        header += self._take(len(name.encode()))
        data = self._take(size)
        local, central = _headers(name, data, offset)
        if header != local:
            raise BundleError(f"the entry of {name} is not as the writer makes it; it was altered")
        self.central.append(central)
        return data

    def _signature(self) -> bytes | None:
        here = self.position
        header = self.file.read(_LOCAL.size)
        self.file.seek(here)
        if header[:4] != b"PK\x03\x04" or len(header) < _LOCAL.size:
            return None
        size = _LOCAL.unpack(header)[8]
        if size > MAX_SIGNATURE_BYTES:
            raise BundleError(f"the signature claims {size} bytes; at most {MAX_SIGNATURE_BYTES}")
        return self._entry(SIGNATURE_NAME, size)

    def _end(self) -> None:
        directory = b"".join(_directory(self.central, self.position))
        if self._take(len(directory)) != directory or self.file.read(1):
            raise BundleError("the zip directory is not as the writer makes it; it was altered")

    def _take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise BundleError("the file ends too early; it was cut short")
        data = self.file.read(count)
        if len(data) != count:
            raise BundleError("the file shrank while it was read")
        self.position += count
        return data


def encode(entries: list[tuple[str, bytes]]) -> Iterator[bytes]:
    central, position = [], 0
    for name, data in entries:
        local, header = _headers(name, data, position)
        central.append(header)
        position += len(local) + len(data)
        yield local
        yield data
    yield from _directory(central, position)


def _headers(name: str, data: bytes, offset: int) -> tuple[bytes, bytes]:
    """Local and central header of one stored entry (APPNOTE 4.3.7 and 4.3.12)."""
    encoded, crc, size = name.encode(), zlib.crc32(data), len(data)
    local = _LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, DOS_DATE, crc, size, size, len(encoded), 0)
    central = _CENTRAL.pack(
        *(b"PK\x01\x02", 20, 20, 0, 0, 0, DOS_DATE, crc, size, size, len(encoded)),
        *(0, 0, 0, 0, 0, offset),
    )
    return local + encoded, central + encoded


def _directory(central: list[bytes], offset: int) -> list[bytes]:
    """Central directory and its end record (APPNOTE 4.3.16)."""
    size = sum(map(len, central))
    count = len(central)
    return [*central, _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)]
