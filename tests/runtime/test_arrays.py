"""`.npy` members: numpy reads what is written, and nothing but the declared array is read."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from edgedistill_runtime import arrays
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.manifest import DTYPE_SIZES

SHAPES = [(), (1,), (0,), (3, 8, 8, 1), (2, 1, 3, 1, 2), (12345,)]


@pytest.fixture
def numbers():
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", sorted(DTYPE_SIZES))
def test_numpy_reads_what_is_written(dtype, shape):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    read = np.load(io.BytesIO(arrays.encode(array)), allow_pickle=False)
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", sorted(DTYPE_SIZES))
def test_what_is_written_is_read(dtype, shape):
    array = np.random.default_rng(2).integers(0, 100, shape).astype(dtype)
    read = arrays.decode("x.npy", arrays.encode(array), dtype, shape)
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert np.array_equal(read, array)


def test_numpys_own_file_is_read(numbers):
    file = io.BytesIO()
    np.save(file, numbers)
    assert np.array_equal(arrays.decode("x.npy", file.getvalue(), "float32", (2, 3, 4)), numbers)


def test_order_and_endianness_in_memory_do_not_change_the_file(numbers):
    expected = arrays.encode(numbers)
    assert arrays.encode(np.asfortranarray(numbers)) == expected
    assert arrays.encode(numbers.astype(">f4")) == expected
    assert arrays.encode(np.repeat(numbers, 2, 0)[::2]) == expected


def test_nothing_is_copied(numbers):
    data = arrays.encode(numbers)
    view = arrays.decode("x.npy", data, "float32", (2, 3, 4))
    assert np.shares_memory(view, np.frombuffer(data, np.uint8))
    assert not view.flags.writeable


def header(text: str) -> bytes:
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4), }"
BODY = np.arange(24, dtype="<f4").tobytes()


def test_the_hand_made_header_is_the_one_that_numpy_writes(numbers):
    assert header(GOOD) + BODY == arrays.encode(numbers)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        header(GOOD)[:-1],
        header(GOOD),
        header(GOOD) + BODY[:-1],
        header(GOOD) + BODY + b"\0",
        header(GOOD.replace("(2, 3, 4)", "(4, 3, 2)")) + BODY,
        header(GOOD.replace("(2, 3, 4)", "(24,)")) + BODY,
        header(GOOD.replace("(2, 3, 4)", "(99999999999, 3, 4)")) + BODY,
        header(GOOD.replace("(2, 3, 4)", "(-2, 3, 4)")) + BODY,
        header(GOOD.replace("False", "True")) + BODY,
        header(GOOD.replace("<f4", ">f4")) + BODY,
        header(GOOD.replace("<f4", "<i4")) + BODY,
        header(GOOD.replace("<f4", "|O")) + pickle.dumps([1] * 24),
        header(GOOD.replace("(2, 3, 4)", "__import__('os').abort()")) + BODY,
        header(GOOD.replace("{", "{  ")) + BODY,
        header(GOOD).replace(b"\x01\x00v", b"\x02\x00v") + BODY,
        pickle.dumps(np.arange(24, dtype="<f4")),
    ],
)
def test_a_header_that_lies_is_refused(data):
    with pytest.raises(BundleError, match=r"x\.npy is not an array of float32 with the shape"):
        arrays.decode("x.npy", data, "float32", (2, 3, 4))


def test_a_huge_declared_shape_allocates_nothing():
    with pytest.raises(BundleError):
        arrays.decode("x.npy", header(GOOD) + BODY, "float32", (1 << 28, 1 << 28, 1 << 28))
