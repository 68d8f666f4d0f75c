"""Read and write `.npy` members of a bundle without parsing: type and shape are known before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError


def encode(array: NDArray[Any]) -> bytes:
    """The array as a version-1.0 `.npy` file, in C order and little-endian."""
    plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return _header(plain.dtype.name, plain.shape) + plain.tobytes()


def decode(name: str, data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array that `encode` wrote, as a view on `data`.

    Raises BundleError if the file is anything but `dtype` and `shape`: the header is compared with
    the one that must stand there, never interpreted, and nothing is allocated.
    """
    header = _header(dtype, shape)
    kind = np.dtype(dtype).newbyteorder("<")
    count = int(np.prod(shape, dtype=object))
    if not data.startswith(header) or len(data) != len(header) + count * kind.itemsize:
        raise BundleError(f"{name} is not an array of {dtype} with the shape {list(shape)}")
    return np.frombuffer(data, kind, offset=len(header)).reshape(shape)


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': {np.dtype(dtype).newbyteorder('<').str!r}, 'fortran_order': False, "
    text += f"'shape': {shape!r}, }}"
    padded = len(text) + 1 + -(len(text) + 11) % 64  # magic 8 + length 2 + newline 1
    return (
        b"\x93NUMPY\x01\x00"
        + padded.to_bytes(2, "little")
        + text.ljust(padded - 1).encode()
        + b"\n"
    )
