"""A bundle as it comes in from a file or a pipe: its manifest first, then checked bytes.

Nothing is believed for longer than it takes to check it: sizes are those of the manifest and end
the reading, and a file whose digest differs stops it before the next one begins.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

from edgedistill_runtime.bundle import MAX_SIGNATURE_BYTES
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    Manifest,
    bundle_id,
)

LOCAL, CENTRAL, END = 30, 46, 22
"""Bytes of a bundle's headers without their names; `bundle` checks what is in them."""
_CHUNK = 1 << 16


class Intake:
    """The bundle that `source` gives.  Raises BundleError if it does not begin as one."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        header = self._take(LOCAL + len(MANIFEST_NAME))
        if header[:4] != b"PK\x03\x04":
            raise BundleError("not a bundle (it does not begin as one)")
        size = struct.unpack_from("<L", header, 22)[0]
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(f"the manifest claims {size} bytes; at most {MAX_MANIFEST_BYTES}")
        manifest_json = self._take(size)
        self._head = header + manifest_json
        self.manifest = Manifest.from_json(manifest_json)
        self.id = bundle_id(manifest_json)
        names = [MANIFEST_NAME, *(file.name for file in self.manifest.files)]
        contents = size + sum(file.size for file in self.manifest.files)
        self.size = contents + sum(LOCAL + CENTRAL + 2 * len(n) for n in names) + END
        """Bytes of the whole bundle, a signature not counted."""

    def chunks(self) -> Iterator[bytes]:
        """All bytes of the bundle, those of the manifest again first."""
        yield self._head
        for file in self.manifest.files:
            yield self._take(LOCAL + len(file.name))
            digest, left = hashlib.sha256(), file.size
            while left:
                chunk = self._take(min(left, _CHUNK))
                digest.update(chunk)
                left -= len(chunk)
                yield chunk
            if digest.hexdigest() != file.sha256:
                raise BundleError(f"{file.name} is not the file that was packed (SHA-256 differs)")
        names = [MANIFEST_NAME, SIGNATURE_NAME, *(file.name for file in self.manifest.files)]
        most = MAX_SIGNATURE_BYTES + LOCAL + len(SIGNATURE_NAME) + END
        most += sum(CENTRAL + len(name) for name in names)
        rest = self._source.read(most + 1)
        if len(rest) > most:
            raise BundleError("more bytes follow than a bundle has; it was altered")
        yield rest

    def _take(self, count: int) -> bytes:
        data = self._source.read(count)
        if len(data) != count:
            raise BundleError("the bundle ends too early; it was cut short")
        return data
