"""Samples from a command that never needs to end: a camera's, a microphone's, a sensor's.

A thread reads what the command writes and splits it into frames: images, windows, lines.  Between
it and the classification is room for one frame, so that memory stays the same however late that is.
"""

from __future__ import annotations

import contextlib
import csv
import os
import queue
import re
import selectors
import signal
import subprocess
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import EdgeDistillError, InputError
from edgedistill_runtime.inputs import Item, csv_step, text_line
from edgedistill_runtime.manifest import MAX_PIXELS, Sample
from edgedistill_runtime.wav import MAX_CHANNELS

Frames = Iterator[bytes | InputError]
"""What a stream consists of, or the sentence that says why a piece of it is no frame."""

CHUNK_BYTES = 1 << 16
MAX_IMAGE_BYTES = 1 << 25
MAX_LINE_BYTES = 1 << 20
MAX_BETWEEN_BYTES = 1 << 16
"""Between two images, such as the headers of an HTTP camera's stream, before somebody hears."""
GRACE_S = 3.0
"""From SIGTERM to SIGKILL."""
TICK_S = 0.5
SILENCE_S = {"image": 30.0, "audio": 30.0}
"""How long a source may write nothing; those of texts and sensors may for ever."""
WAITING_KINDS = ("text",)
"""Whose sources wait for a late classification; of others, the newest frame counts."""
FRAMINGS = {
    "audio": ("s16le", "s16le:CHANNELS"),
    "image": ("images", "rgb24:WIDTHxHEIGHT"),
    "sensor": ("csv", "f32le"),
    "text": ("lines",),
}
"""By the kind of the sample; the first is what "auto" means."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_IMAGE_START = re.compile(rb"\xff\xd8\xff|" + _PNG_START)
_SCAN_END = re.compile(rb"\xff(?:[\xc4\xd9-\xdd\xfe]|\xd8\xff)")
"""What may follow a JPEG's pixels; other markers there are damage, which the decoder judges."""


class SourceError(EdgeDistillError):
    """The source's command cannot be started, failed, or fell silent."""


@dataclass(frozen=True)
class Framing:
    """How the bytes of a stream become samples."""

    split: Callable[[Iterator[bytes]], Frames]
    decode: Callable[[str, bytes], NDArray[Any] | str]
    """The sample of a frame, whose name is the first argument.  Raises InputError."""


def framing(name: str, spec: Sample) -> Framing:
    """The framing of that name ("auto" or one of `FRAMINGS`) for a model that takes `spec`.

    Raises InputError if there is none, or it does not lead to what the model takes.
    """
    known = FRAMINGS[spec.kind]
    name = known[0] if name == "auto" else name
    kind, _, detail = name.partition(":")
    if spec.kind == "audio" and kind == "s16le":
        return _pcm(spec, _channels(detail or "1"))
    if spec.kind == "image" and kind == "rgb24":
        return _raw_images(spec, *_size(detail))
    if name not in known:
        raise InputError(
            f"the framing {name!r} is none for samples of kind {spec.kind}; "
            f"give --framing {' or '.join(known)}"
        )
    if name == "images":
        return Framing(images, partial(_image, spec))
    if name == "lines":
        return Framing(_texts, text_line)
    return _sensor(spec, as_text=name == "csv")


# --- what samples frames become


def _pcm(spec: Sample, channels: int) -> Framing:
    """16-bit samples, little endian, of one channel after the other."""

    def decode(_: str, frame: bytes) -> NDArray[Any]:
        samples = np.frombuffer(frame, "<i2")
        if channels > 1:  # as those of a WAV file
            together = samples.reshape(-1, channels).sum(axis=1, dtype=np.float64)
            samples = np.rint(together / channels)
        return samples.astype(np.int16, copy=False)

    return Framing(partial(_windows_of, spec, 2 * channels), decode)


def _sensor(spec: Sample, as_text: bool) -> Framing:
    """Steps of one number a channel."""
    channels = spec.shape[0]
    stored = "=f4" if as_text else "<f4"

    def decode(_: str, frame: bytes) -> NDArray[Any]:
        steps = np.frombuffer(frame, stored).reshape(-1, channels)
        return steps.T.astype(np.float32)  # (channels, steps)

    def split(chunks: Iterator[bytes]) -> Frames:
        steps = _csv_steps(lines(chunks), channels) if as_text else chunks
        return _windows_of(spec, 4 * channels, steps)

    return Framing(split, decode)


def _raw_images(spec: Sample, width: int, height: int) -> Framing:
    """Frames of one byte for each of red, green and blue, a row after the other."""
    if not spec.any_size and spec.shape[:2] != (height, width):
        raise InputError(
            f"frames of {width}×{height} pixels; the model takes {spec.shape[1]}×{spec.shape[0]}, "
            "so let the source scale them"
        )

    def decode(_: str, frame: bytes) -> NDArray[Any]:
        pixels = np.frombuffer(frame, np.uint8).reshape(height, width, 3)
        if spec.shape[2] == 3:
            return pixels
        grey = pixels @ np.array([19595, 38470, 7471], np.uint32)  # as Pillow weighs them
        return ((grey + 32768) >> 16).astype(np.uint8)[..., None]

    return Framing(partial(blocks, size=3 * width * height), decode)


def _image(spec: Sample, name: str, frame: bytes) -> NDArray[Any]:
    import io

    from edgedistill_runtime import images as decoder

    size = None if spec.any_size else (spec.shape[0], spec.shape[1])
    return decoder.decode(io.BytesIO(frame), name, spec.shape[2], size)


def _channels(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?", text) or int(text) > MAX_CHANNELS:
        raise InputError(
            f"the framing s16le:{text} has no number of channels from 1 to {MAX_CHANNELS}"
        )
    return int(text)


def _size(text: str) -> tuple[int, int]:
    """(width, height)."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not found:
        raise InputError(f"the framing rgb24:{text} has no size; give one such as rgb24:640x480")
    width, height = int(found[1]), int(found[2])
    if width * height > MAX_PIXELS:
        raise InputError(f"frames of {width}×{height} are more than {MAX_PIXELS} pixels")
    return width, height


# --- how a stream is split


def windows(pieces: Frames | Iterator[bytes], size: int, hop: int, step: int) -> Frames:
    """Windows of `size` bytes, one every `hop`, as `windows.cut` would cut the whole recording.

    step: bytes of a step; a last part of one is left away.  No window goes over a gap, which an
    InputError among the pieces is.
    """
    data, skip, had, first = bytearray(), 0, 0, True
    for piece in pieces:
        if isinstance(piece, InputError):
            data, skip, had, first = bytearray(), 0, 0, False
            yield piece
            continue
        data += piece
        while True:
            gone = min(skip, len(data))
            del data[:gone]
            skip -= gone
            if skip or len(data) < size:
                break
            yield bytes(data[:size])
            skip, had, first = hop, max(0, size - hop), False
    left = len(data) // step * step
    if left > had and (first or 2 * left >= size):
        yield bytes(data[:left]).ljust(size, b"\0")


def _windows_of(spec: Sample, step: int, pieces: Frames | Iterator[bytes]) -> Frames:
    window = spec.shape[-1]
    return windows(pieces, window * step, (spec.hop or window) * step, step)


def blocks(chunks: Iterator[bytes], size: int) -> Frames:
    """Pieces of `size` bytes."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        while len(data) >= size:
            yield bytes(data[:size])
            del data[:size]
    if data:
        yield InputError(f"the stream ended after {len(data)} of a frame's {size} bytes")


def lines(chunks: Iterator[bytes]) -> Frames:
    """Lines without their end."""
    data, too_long = bytearray(), False
    for chunk in chunks:
        start = len(data)
        data += chunk
        while (end := data.find(b"\n", start)) >= 0:
            line = bytes(data[:end])
            del data[: end + 1]
            start = 0
            if not too_long:
                yield line
            too_long = False
        if len(data) > MAX_LINE_BYTES:
            if not too_long:
                yield InputError(f"a line of more than {MAX_LINE_BYTES} bytes")
            too_long = True
            data.clear()
    if data and not too_long:
        yield bytes(data)


def _texts(chunks: Iterator[bytes]) -> Frames:
    return (line for line in lines(chunks) if isinstance(line, InputError) or line.strip())


def _csv_steps(given: Frames, channels: int) -> Frames:
    """A step a line, as floats of the machine; the first line may be a header."""
    for number, line in enumerate(given, 1):
        if isinstance(line, InputError):
            yield line
            continue
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = next(csv.reader([line.decode("utf-8-sig")]))
            if number == 1 and not any(map(_is_number, row)):
                continue  # a header
            yield array("f", csv_step(where, row, channels)).tobytes()
        except (UnicodeDecodeError, csv.Error) as error:
            yield InputError(f"{where}: not a readable line of .csv ({error})")
        except InputError as error:
            yield error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def images(chunks: Iterator[bytes]) -> Frames:
    """JPEG and PNG images, one after the other; what stands between them is passed over.

    Boundaries are found by walking through an image's segments, so that the thumbnail in a
    segment, a whole JPEG itself, is none.
    """
    stream = _Bytes(chunks)
    told = False  # of the bytes that are passed over here
    with contextlib.suppress(EOFError):
        while True:
            if _pass_over(stream, told):
                told = True
                yield InputError(
                    f"{MAX_BETWEEN_BYTES} bytes of the stream are no JPEG and no PNG image; give "
                    "what they are with --framing, or let the source write such images"
                )
                continue
            try:
                end = (_jpeg_end if stream.data[0] == 0xFF else _png_end)(stream)
            except _DamagedError as damage:
                yield InputError(damage.reason)
                told = True
                del stream.data[: damage.at]
            else:
                told = False
                yield bytes(stream.data[:end])
                del stream.data[:end]
    if _IMAGE_START.match(stream.data):
        yield InputError(f"the stream ended within an image, after {len(stream.data)} bytes")


class _Bytes:
    """The bytes of a stream that are not used up."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.data = bytearray()
        self._chunks = chunks

    def reach(self, count: int) -> None:
        """Read until there are `count`.  Raises EOFError where the stream ends before."""
        if count > MAX_IMAGE_BYTES:
            raise _DamagedError(f"an image of more than {MAX_IMAGE_BYTES} bytes", len(self.data))
        while len(self.data) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise EOFError
            self.data += chunk


class _DamagedError(Exception):
    def __init__(self, reason: str, at: int) -> None:
        self.reason = reason
        self.at = at
        """How many bytes are of no more use."""


def _pass_over(stream: _Bytes, told: bool) -> bool:
    """Go to the next image's first byte; True after too much that is none, if nobody was told."""
    passed = 0
    while not (found := _IMAGE_START.search(stream.data)):
        useless = max(0, len(stream.data) - 7)  # a start may be cut in two
        passed += useless
        del stream.data[:useless]
        if passed > MAX_BETWEEN_BYTES and not told:
            return True
        stream.reach(len(stream.data) + 1)
    del stream.data[: found.start()]
    return False


def _jpeg_end(stream: _Bytes) -> int:
    """Where the JPEG at the first byte ends (ITU T.81, annex B)."""
    data, at = stream.data, 2
    while True:
        stream.reach(at + 2)
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xD8):
            raise _cut_off("JPEG", at)
        if marker == 0xD9:
            return at + 2
        if marker == 0xFF:  # any number of these may stand before a marker
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            stream.reach(at + 4)
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == 0xDA:
                at = _scan_end(stream, at)


def _scan_end(stream: _Bytes, at: int) -> int:
    while True:
        stream.reach(at)
        if found := _SCAN_END.search(stream.data, at):
            return found.start()
        at = max(at, len(stream.data) - 2)  # a marker may be cut in two
        stream.reach(len(stream.data) + 1)


def _png_end(stream: _Bytes) -> int:
    """Where the PNG at the first byte ends (ISO/IEC 15948, 5.3)."""
    data, at, searched = stream.data, 8, 8
    while True:
        stream.reach(at + 8)
        name = bytes(data[at + 4 : at + 8])
        if not name.isalpha():  # the next image may begin within these bytes
            raise _cut_off("PNG", max(8, at - 4))
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        while (other := data.find(_PNG_START, searched)) < 0 and len(data) < at:
            searched = max(searched, len(data) - 7)
            stream.reach(len(data) + 1)
        if 0 <= other < at:  # no such bytes are in an image
            raise _cut_off("PNG", other)
        if name == b"IEND":
            return at


def _cut_off(form: str, at: int) -> _DamagedError:
    return _DamagedError(f"a {form} image that is damaged or cut off after {at} bytes", at)


# --- the command


class Source:
    """A running command, and the samples that it writes: `with Source(…) as source: for item in …`.

    On leaving it is ended, with all that it started.
    """

    def __init__(
        self,
        command: Sequence[str],
        spec: Sample,
        form: str = "auto",
        when_late: str | None = None,
        silence_s: float | None = None,
        undisturbed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """command: its words.  form: the name of its framing.

        when_late: "drop" to take the newest frame where several came meanwhile, "wait" to let the
        command wait; None: by the kind of `spec`, and so is silence_s.
        silence_s: how long the command may write nothing; 0 is for ever.
        undisturbed: within which no signal's handler raises.
        Raises InputError if there is no such framing.
        """
        self._command, self._name = list(command), os.path.basename(command[0])
        self._framing = framing(form, spec)
        waits = spec.kind in WAITING_KINDS if when_late is None else when_late == "wait"
        self._drop = not waits
        self._silence_s = SILENCE_S.get(spec.kind, 0) if silence_s is None else silence_s
        self._undisturbed = undisturbed
        self._frames: queue.SimpleQueue[tuple[int, bytes | InputError] | _End] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = self._abandoned = False
        self._said = b""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Source:
        """Start it.  Raises SourceError if it cannot be."""
        try:
            with self._undisturbed():
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._undisturbed():
            self._stop()

    def __iter__(self) -> Iterator[Item]:
        """The samples; frames that are none have an error.  Raises SourceError at a bad end."""
        last = -1
        while not isinstance(taken := self._frames.get(), _End):
            if not self._drop:
                self._room.put(None)
            number, frame = taken
            name, dropped, last = f"stream[{number}]", number - last - 1, number
            if isinstance(frame, InputError):
                yield Item(name, None, f"{name}: {frame}", dropped)
                continue
            try:
                sample = self._framing.decode(name, frame)
            except InputError as error:
                yield Item(name, None, str(error), dropped)
            else:
                yield Item(name, sample, None, dropped)
        if taken.error is not None:
            raise taken.error
        if last < 0:
            raise SourceError(f"the source {self._name} ended and had written nothing to classify")

    def _start(self) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a group of its own, to be ended together
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(
                f"the source {self._command[0]} cannot be started ({reason}); is it installed, and "
                "the first word of --source-cmd?"
            ) from None
        self._process = process
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        """SIGTERM to all that it started, `GRACE_S` to end, then SIGKILL."""
        process = self._process
        if process is None:
            return
        self._closed = True
        self._room.put(None)
        _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while process.poll() is None or self._thread.is_alive():  # till the last has closed stdout
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        _signal_group(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one of another user goes on
            process.wait(GRACE_S)
        self._thread.join(GRACE_S)
        self._abandoned = True

    # --- in the thread

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        error: BaseException | None = None
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            with process.stdout as stdout, process.stderr as stderr:
                chunks = self._chunks(process, stdout, stderr)
                for number, frame in enumerate(self._framing.split(chunks)):
                    self._put(number, frame)
                    if self._closed:
                        break
                for _ in chunks:  # let it end in peace, not of a broken pipe
                    pass
        except BaseException as caught:
            error = caught
        self._frames.put(_End(error))

    def _put(self, number: int, frame: bytes | InputError) -> None:
        if self._drop:
            with contextlib.suppress(queue.Empty):
                self._frames.get_nowait()
        elif number:
            self._room.get()
        self._frames.put((number, frame))

    def _chunks(
        self, process: subprocess.Popen[bytes], stdout: IO[bytes], stderr: IO[bytes]
    ) -> Iterator[bytes]:
        """What it writes.  Raises SourceError if it is silent for too long or ends badly."""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            heard = time.monotonic()
            while not self._abandoned:
                for key, _ in selector.select(TICK_S):
                    data = os.read(key.fd, CHUNK_BYTES)
                    if key.fileobj is stdout:
                        if not data:
                            self._require_good_end(process, stderr)
                            return
                        yield data
                        heard = time.monotonic()  # not while nobody took it
                    elif data:
                        self._hear(data)
                    else:
                        selector.unregister(stderr)
                if self._silence_s and time.monotonic() - heard > self._silence_s:
                    raise SourceError(
                        f"the source {self._name} wrote nothing for {self._silence_s:g} s"
                        f"{self._last_words()}"
                    )

    def _require_good_end(self, process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(GRACE_S)
        os.set_blocking(stderr.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(stderr.fileno(), CHUNK_BYTES):
                self._hear(data)
        if code:
            how = f"with exit status {code}" if code > 0 else f"by {_signal_name(-code)}"
            raise SourceError(f"the source {self._name} ended {how}{self._last_words()}")

    def _hear(self, data: bytes) -> None:
        self._said = (self._said + data)[-4096:]

    def _last_words(self) -> str:
        said = [line.strip() for line in self._said.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(said) if line), "")[:300]
        printable = "".join(c if c.isprintable() else " " for c in last)
        return f"; the last that it said: {printable}" if last else ""


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
