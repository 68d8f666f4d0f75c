"""WAV files: every format gives the right samples, and anything else one sentence."""

from __future__ import annotations

import io
import math
import struct
import tracemalloc
import warnings
import wave
from fractions import Fraction

import numpy as np
import pytest

from edgedistill_runtime import wav
from edgedistill_runtime.errors import InputError

GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def form(kind: int, channels: int, rate: int, bits: int) -> bytes:
    width = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * width % 2**32, width, bits)


def file_of(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def made(sound: bytes, kind: int = 1, channels: int = 1, bits: int = 16, rate: int = 8000) -> bytes:
    return file_of(chunk(b"fmt ", form(kind, channels, rate, bits)), chunk(b"data", sound))


@pytest.fixture
def read(tmp_path):
    def read(content: bytes):
        path = tmp_path / "sound.wav"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return wav.read(path)

    return read


@pytest.fixture
def samples(read):
    return lambda content: read(content)[0].tolist()


def to_bytes(values: list[int], bits: int) -> bytes:
    if bits == 8:
        return bytes(v + 128 for v in values)
    return b"".join(v.to_bytes(bits // 8, "little", signed=True) for v in values)


def average(frame: list[Fraction]) -> int:
    """Of one frame, in steps of 16 bits: halves to even, clipped."""
    return max(-32768, min(32767, round(sum(frame) / len(frame))))


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integers_are_averaged_exactly(samples, bits, channels):
    most = 1 << (bits - 1)
    rng = np.random.default_rng(bits * channels)
    values = rng.integers(-most, most, 300 * channels).tolist()
    values[: 2 * channels] = [most - 1] * channels + [-most] * channels
    near = (rng.integers(-9, 9, 300 * channels) * most // 65536).tolist()  # many halves
    frames = np.reshape(values + near, (-1, channels)).tolist()
    expected = [average([Fraction(v * 32768, most) for v in frame]) for frame in frames]
    assert samples(made(to_bytes(values + near, bits), 1, channels, bits)) == expected


@pytest.mark.parametrize(("bits", "code"), [(32, "f"), (64, "d")])
@pytest.mark.parametrize("channels", [1, 2])
def test_floats_of_one_are_the_loudest_and_louder_ones_are_clipped(samples, bits, code, channels):
    rng = np.random.default_rng(bits)
    values = rng.uniform(-1.2, 1.2, 100 * channels).astype(f"<f{bits // 8}").tolist()
    values += np.repeat([1.0, -1.0, 0.5 / 32768, 1.5 / 32768, 1e30, -1e30], channels).tolist()
    sound = struct.pack(f"<{len(values)}{code}", *values)
    frames = np.reshape(values, (-1, channels)).tolist()
    expected = [average([Fraction(v) * 32768 for v in frame]) for frame in frames]
    assert expected[-6:] == [32767, -32768, 0, 2, 32767, -32768]
    assert samples(made(sound, 3, channels, bits)) == expected


def test_the_loudest_float_of_all_is_clipped(samples):
    assert samples(made(struct.pack("<2d", 1.7e308, -1.7e308), 3, 1, 64)) == [32767, -32768]


def test_what_python_writes_is_read(read):
    values = np.random.default_rng(1).integers(-32768, 32768, 700_001).astype("<i2")  # some blocks
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(values.tobytes())
    found, rate = read(target.getvalue())
    assert rate == 44_100
    assert found.dtype == np.int16
    assert np.array_equal(found, values)


def test_stereo_of_several_blocks_is_read_in_order(samples):
    left = np.random.default_rng(2).integers(-30_000, 30_000, 300_007).astype("<i2")
    content = made(np.repeat(left, 2).tobytes(), channels=2)
    assert samples(content) == left.tolist()


def extensible(kind: int, guid: bytes, bits: int = 16) -> bytes:
    head = form(0xFFFE, 1, 8000, bits) + struct.pack("<HHIH", 22, bits, 4, kind) + guid
    return file_of(chunk(b"fmt ", head), chunk(b"data", b"\1\0\2\0\3\0\4\0"))


def test_the_extensible_format_is_read(samples):
    assert samples(extensible(1, GUID)) == [1, 2, 3, 4]
    assert len(samples(extensible(3, GUID, 32))) == 2


def test_an_extensible_format_of_another_kind_is_refused(read):
    with pytest.raises(InputError, match="format 65534 with 16 bits"):
        read(extensible(1, bytes(14)))
    with pytest.raises(InputError, match="format 2 with 16 bits"):
        read(extensible(2, GUID))


def test_other_chunks_are_passed_over_odd_ones_with_their_padding(samples):
    content = file_of(
        chunk(b"LIST", b"odd"),
        chunk(b"fmt ", form(1, 1, 8000, 16) + b"\0\0"),
        chunk(b"fact", bytes(4)),
        chunk(b"data", b"\5\0"),
        chunk(b"id3 ", bytes(33)),
    )
    assert samples(content) == [5]


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFFFFF, 7])
def test_a_recording_that_was_cut_off_is_read_to_its_end(samples, declared):
    content = made(b"\1\0\2\0\3\0")
    place = content.index(b"data") + 4
    content = content[:place] + struct.pack("<I", declared) + content[place + 4 :]
    assert samples(content) == [1, 2, 3]


def test_an_incomplete_last_frame_is_left_out(samples):
    assert samples(made(b"\1\0\3\0\5\0", channels=2)) == [2]


FORMAT = chunk(b"fmt ", form(1, 1, 8000, 16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a WAV file"),
        (b"RIFF", "not a WAV file"),
        (b"fLaC" + bytes(100), "not a WAV file"),
        (b"RIFX\0\0\0\0WAVE" + bytes(100), "not a WAV file"),
        (file_of(), "no format, or no data"),
        (file_of(FORMAT), "no format, or no data"),
        (file_of(chunk(b"data", bytes(8))), "no format, or no data"),
        (file_of(chunk(b"fmt ", bytes(15)), chunk(b"data", bytes(8))), "no format, or no data"),
        (file_of(chunk(b"data", bytes(8)), FORMAT), "no format, or no data"),
        (file_of(FORMAT, chunk(b"junk", b"") * 999, chunk(b"data", bytes(8))), "no format"),
        (made(b""), "without a sample"),
        (made(b"\0"), "without a sample"),
        (made(bytes(8), bits=12), "format 1 with 12 bits"),
        (made(bytes(8), bits=0), "format 1 with 0 bits"),
        (made(bytes(8), bits=64), "format 1 with 64 bits"),
        (made(bytes(8), kind=3, bits=16), "format 3 with 16 bits"),
        (made(bytes(8), kind=2), "format 2 with 16 bits"),
        (made(bytes(8), kind=0x55), "format 85 with 16 bits"),
        (made(bytes(8), channels=0), "0 channels"),
        (made(bytes(800), channels=65), "65 channels"),
        (made(bytes(8), rate=0), "0 Hz"),
        (made(struct.pack("<2f", 0, math.nan), kind=3, bits=32), "not finite"),
        (made(struct.pack("<2d", -math.inf, 0), kind=3, bits=64), "not finite"),
        (made(b"\x01\x00\xa0\x7f", kind=3, bits=32), "not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_anything_else_is_refused_in_one_sentence(read, content, message):
    with pytest.raises(InputError, match=rf"sound\.wav: .*{message}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_of_the_head_gives_samples_or_one_sentence(read):
    content = made(bytes(range(64)), channels=2)
    for place in range(44):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            try:
                found, rate = read(damaged)
            except InputError:
                continue
            assert len(found)
            assert rate


def test_too_long_a_recording_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(made(b"")[:-4] + struct.pack("<I", 0xFFFFFFFF))
        file.truncate((1 << 29) + 100)  # a hole: takes no place
    with pytest.raises(InputError, match="so split it"):
        wav.read(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        wav.read(tmp_path / "none.wav")


def test_memory_is_that_of_the_samples(tmp_path):
    """A minute of studio sound is read where there is little memory."""
    path = tmp_path / "studio.wav"
    path.write_bytes(made(bytes(6 * 2_000_000), channels=2, bits=24, rate=96_000))
    tracemalloc.start()
    wav.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2_000_000 + (12 << 20)
