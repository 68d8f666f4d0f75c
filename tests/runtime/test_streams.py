"""`predict --source-cmd`: frames of live streams, what is late, and how a source ends."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.runtime_support import (
    KINDS,
    RATE_HZ,
    WINDOW,
    environment,
    kind_manifest,
    kind_samples,
    run_cli,
    tiny_manifest,
)
from tests.runtime.text_support import text_manifest

from edgedistill_runtime import bundle, load, streams, windows
from edgedistill_runtime.errors import InputError
from edgedistill_runtime.manifest import Sample

HOP = 800
PNG = b"\x89PNG\r\n\x1a\n"
GREY_8X8 = Sample("image", "uint8", (8, 8, 1))


@pytest.fixture(scope="module")
def edges(tmp_path_factory):
    """The paths of good bundles, by kind."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {kind: kind_manifest(kind) for kind in KINDS}
    made |= {"image": tiny_manifest("tiny"), "text": text_manifest()}
    for kind, parts in made.items():
        bundle.write(folder / f"{kind}.edge", *parts)
    return {kind: folder / f"{kind}.edge" for kind in made}


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def python(code):
    """A source: a program that may call `out(bytes)`."""
    head = "import os, sys, time\nout = lambda b: (sys.stdout.buffer.write(b), sys.stdout.flush())"
    return shlex.join([sys.executable, "-c", f"{head}\n{code}"])


def cat(path):
    return shlex.join(["cat", str(path)])


def follow(edge, command, *options):
    return run_cli("predict", edge, "--source-cmd", command, *options)


def waiting(edge, command, *options):
    return follow(edge, command, "--when-late", "wait", *options)


def scores(edge, samples):
    model = load(edge)
    return [model.predict(x if isinstance(x, str) else x.copy()).scores for x in samples]


def cut(stream, rng, most=400):
    """The bytes in chunks of random sizes."""
    at = 0
    while at < len(stream):
        end = at + int(rng.integers(1, most + 1))
        yield stream[at:end]
        at = end


def split(found):
    """Frames, and the errors' sentences in their places."""
    return [str(frame) if isinstance(frame, InputError) else frame for frame in found]


# --- images: JPEG and PNG made by hand, for boards without Pillow


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def pixels(rng, size):
    """Entropy-coded data: FF only as FF 00 or as a restart marker."""
    data = rng.integers(0, 256, size, np.uint8).tobytes().replace(b"\xff", b"\xff\x00")
    return data + b"\xff" + bytes([0xD0 + int(rng.integers(8))]) + b"\x12"


def jpeg(rng, thumbnail=True):
    """Structure as cameras write it: EXIF with a thumbnail, tables, one scan or several."""
    inner = jpeg(rng, thumbnail=False) if thumbnail else b"none"
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")
    scans = b"".join(
        segment(0xC4, bytes(20)) + scan + pixels(rng, int(rng.integers(1, 3000)))
        for _ in range(int(rng.integers(1, 4)))
    )
    head = segment(0xE1, b"Exif\0\0" + inner) + b"\xff\xff" + segment(0xDB, bytes(65))[1:]
    return b"\xff\xd8" + head + segment(0xC0, bytes(15)) + scans + b"\xff\xd9"


def png(rng):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + b"crc!"

    body = rng.integers(0, 256, int(rng.integers(1, 2000)), np.uint8).tobytes()
    return PNG + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", body + jpeg(rng)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("most", [1, 7, 400, 100_000])
def test_images_are_found_whatever_the_chunks_are(most):
    rng = np.random.default_rng(most)
    made = [(jpeg if rng.random() < 0.7 else png)(rng) for _ in range(6 if most == 1 else 40)]
    assert split(streams.images(cut(b"".join(made), rng, most))) == made


def test_headers_between_images_are_passed_over():
    rng = np.random.default_rng(2)
    made = [jpeg(rng) for _ in range(10)]
    head = b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    assert split(streams.images(cut(head + head.join(made) + head, rng))) == made


def test_a_jpeg_that_is_cut_off_in_its_pixels_costs_no_other():
    rng = np.random.default_rng(3)
    first, second, third = (jpeg(rng) for _ in range(3))
    start = first.rindex(b"\xff\xda") + 10
    for end in (*range(start, start + 20), len(first) - 2, len(first) - 1):
        found = split(streams.images(cut(first[:end] + second + third, rng)))
        assert "damaged or cut off" in found[0], end
        assert found[1:] == [second, third], end


def test_after_damage_anywhere_the_images_that_follow_are_found():
    rng = np.random.default_rng(4)
    for _ in range(60):
        bad, others = jpeg(rng), [jpeg(rng) for _ in range(6)]
        found = split(streams.images(cut(bad[: rng.integers(3, len(bad))] + b"".join(others), rng)))
        assert found[-3:] == others[-3:]  # a length that is cut off may swallow those behind it
        assert any(isinstance(frame, str) for frame in found)


def test_a_png_that_is_cut_off_anywhere_costs_no_other():
    rng = np.random.default_rng(4)
    for _ in range(60):
        bad, others = png(rng), [png(rng), jpeg(rng), png(rng)]
        found = split(streams.images(cut(bad[: rng.integers(8, len(bad))] + b"".join(others), rng)))
        assert "a PNG image that is damaged or cut off" in found[0]
        assert found[1:] == others


def test_a_damaged_byte_in_the_pixels_does_not_end_the_image():
    rng = np.random.default_rng(5)
    made = jpeg(rng)
    place = made.rindex(b"\xff\xda") + 11
    for damage in (b"\xff\xe1", b"\xff\x3a", b"\xff\xd8\x00", b"\xff\xff"):
        bad = made[:place] + damage + b"\x01" + made[place:]
        assert split(streams.images(cut(bad + made, rng))) == [bad, made]


def test_a_stream_of_no_images_is_told_once():
    rng = np.random.default_rng(6)
    noise, image = bytes(1_000_000), jpeg(rng)
    found = split(streams.images(cut(noise + image + noise, rng, 70_000)))
    assert [isinstance(frame, str) for frame in found] == [True, False, True]
    assert "no JPEG and no PNG image; give what they are with --framing" in found[0]
    assert found[1] == image


def test_an_endless_image_is_given_up(monkeypatch):
    monkeypatch.setattr(streams, "MAX_IMAGE_BYTES", 50_000)
    rng, good = np.random.default_rng(7), jpeg(np.random.default_rng(8), thumbnail=False)
    for start in (PNG + b"\xff\xff\xff\xffIDAT", good[:-2]):
        found = split(streams.images(cut(start + bytes(100_000) + good, rng, 100)))
        assert found[0] == "an image of more than 50000 bytes"
        assert found[-1] == good


def test_an_image_at_the_end_that_is_cut_off_is_an_error():
    whole = jpeg(np.random.default_rng(9))
    found = split(streams.images(iter([whole, whole[:-1]])))
    assert found == [whole, f"the stream ended within an image, after {len(whole) - 1} bytes"]


def camera_images(pillow, count):
    """Real images as a camera writes them, with a thumbnail: bytes, and what Pillow reads."""
    rng, made, seen = np.random.default_rng(11), [], []
    small = io.BytesIO()
    pillow.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(small, "jpeg")
    for i in range(count):
        file = io.BytesIO()
        image = pillow.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        thumbnail = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + small.getvalue()
        options = {} if i % 2 else {"exif": thumbnail, "progressive": i % 4 == 0}
        image.save(file, "png" if i % 2 else "jpeg", **options)
        made.append(file.getvalue())
        seen.append(np.asarray(pillow.open(file))[..., None])
    return made, seen


def test_a_cameras_images_are_classified_and_a_bad_one_is_one_error(edges, tmp_path, pillow):
    made, seen = camera_images(pillow, 6)
    made.insert(2, made[2][:-6])
    (tmp_path / "x").write_bytes(b"".join(made))
    said = waiting(edges["image"], cat(tmp_path / "x"))
    assert (said.code, said.err) == (2, "")
    assert [row["id"] for row in said.rows] == [f"stream[{i}]" for i in range(7)]
    rows = said.rows
    bad = rows.pop(2)
    assert bad.keys() == {"id", "dropped", "error"}
    assert bad["error"].startswith("stream[2]: a JPEG image that is damaged or cut off")
    assert [row["scores"] for row in rows] == scores(edges["image"], seen)
    assert {row["dropped"] for row in rows} == {0}


def test_an_image_of_another_size_is_an_error_and_the_stream_goes_on(edges, tmp_path, pillow):
    (good, *_), _ = camera_images(pillow, 1)
    file = io.BytesIO()
    pillow.new("L", (9, 8)).save(file, "png")
    (tmp_path / "x").write_bytes(file.getvalue() + good)
    bad, answered = waiting(edges["image"], cat(tmp_path / "x")).rows
    assert bad["error"] == "stream[0]: the image is 9×8 pixels; the model takes 8×8"
    assert answered["label"]


# --- frames of raw pixels


def test_raw_frames_are_grey_as_pillow_makes_them(edges, tmp_path, pillow):
    frames = np.random.default_rng(12).integers(0, 256, (5, 8, 8, 3), np.uint8)
    (tmp_path / "x").write_bytes(frames.tobytes() + b"rest")
    said = waiting(edges["image"], cat(tmp_path / "x"), "--framing", "rgb24:8x8")
    grey = [np.asarray(pillow.fromarray(frame).convert("L"))[..., None] for frame in frames]
    *answered, last = said.rows
    assert [row["scores"] for row in answered] == scores(edges["image"], grey)
    assert last["error"] == "stream[5]: the stream ended after 4 of a frame's 192 bytes"


def test_raw_frames_of_any_size_are_taken_where_the_model_scales(edges, tmp_path):
    frame = np.random.default_rng(13).integers(0, 256, (12, 20, 1), np.uint8)
    (tmp_path / "x").write_bytes(np.repeat(frame, 3, 2).tobytes())
    said = waiting(edges["any_size"], cat(tmp_path / "x"), "--framing", "rgb24:20x12")
    assert [row["scores"] for row in said.rows] == scores(edges["any_size"], [frame])


def test_colours_stay_colours():
    colours = Sample("image", "uint8", (2, 3, 3))
    frame = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    form = streams.framing("rgb24:3x2", colours)
    assert np.array_equal(form.decode("x", frame.tobytes()), frame)


# --- audio


def recording(length):
    return kind_samples("audio", -(-length // WINDOW), 21).reshape(-1)[:length]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("hop", [1, 3, 8, 11])
def test_windows_are_those_of_a_file(size, hop):
    rng, window = np.random.default_rng(14), 8
    for length in range(1, 60):
        data = rng.integers(0, 256, (length, size), np.uint8)
        expected = windows.cut(data.T, window, hop)  # (n, size, window)
        pieces = cut(data.tobytes() + bytes(size - 1), rng, 30)
        found = list(streams.windows(pieces, window * size, hop * size, size))
        assert found == [w.T.tobytes() for w in expected]


def test_a_microphones_windows_are_those_of_a_recording(edges, tmp_path):
    pcm = recording(WINDOW + 3 * HOP + 500)
    np.save(tmp_path / "x.npy", pcm)
    pcm.astype("<i2").tofile(tmp_path / "x")
    live, filed = (
        waiting(edges["audio"], cat(tmp_path / "x")),
        run_cli("predict", edges["audio"], tmp_path / "x.npy"),
    )
    assert (live.code, live.err) == (0, "")
    assert [row["scores"] for row in live.rows] == [row["scores"] for row in filed.rows]


def test_several_channels_become_one_as_those_of_a_wav_file(edges, tmp_path):
    both = np.stack([recording(WINDOW), recording(2 * WINDOW)[WINDOW:]], 1).astype("<i2")
    both.tofile(tmp_path / "x")
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(both.tobytes())
    live = waiting(edges["audio"], cat(tmp_path / "x"), "--framing", "s16le:2")
    filed = run_cli("predict", edges["audio"], tmp_path / "x.wav")
    assert [row["scores"] for row in live.rows] == [row["scores"] for row in filed.rows]


# --- sensors and texts


def sensor_steps(count):
    return kind_samples("sensor", -(-count // 8), 31).transpose(0, 2, 1).reshape(-1, 8)[:count]


def csv_lines(steps):
    return "".join(",".join(repr(float(v)) for v in step) + "\n" for step in steps)


@pytest.mark.parametrize("form", ["csv", "f32le", "auto"])
def test_a_sensors_windows_are_those_of_a_recording(edges, tmp_path, form):
    steps = sensor_steps(18)
    np.save(tmp_path / "x.npy", steps.T)
    if form == "f32le":
        steps.astype("<f4").tofile(tmp_path / "x")
    else:
        head = "" if form == "csv" else "a,b,c,d,e,f,g,h\n"
        (tmp_path / "x").write_text(head + csv_lines(steps))
    live = waiting(edges["sensor"], cat(tmp_path / "x"), "--framing", form)
    filed = run_cli("predict", edges["sensor"], tmp_path / "x.npy")
    assert live.code == 0
    assert [row["scores"] for row in live.rows] == [row["scores"] for row in filed.rows]


def test_no_window_goes_over_a_bad_line(edges, tmp_path):
    steps = sensor_steps(20)
    text = csv_lines(steps[:12]) + "1,2,x,4,5,6,7,8\n" + csv_lines(steps[12:])
    (tmp_path / "x").write_text(text)
    said = waiting(edges["sensor"], cat(tmp_path / "x"))
    expected = [steps[0:8].T, steps[4:12].T, steps[12:20].T]
    first, second, bad, last = said.rows
    assert [row["scores"] for row in (first, second, last)] == scores(edges["sensor"], expected)
    assert bad["error"].startswith("stream[2]: line 13: not a number")


def test_numbers_that_are_not_finite_are_an_error(edges, tmp_path):
    steps = sensor_steps(12)
    steps[10, 3] = np.nan
    steps.astype("<f4").tofile(tmp_path / "x")
    good, bad = waiting(edges["sensor"], cat(tmp_path / "x"), "--framing", "f32le").rows
    assert good["label"]
    assert "not finite numbers" in bad["error"]


def test_a_text_is_a_line(edges, tmp_path):
    texts = ["Good day!", "the film was bad", "čudno"]
    (tmp_path / "x").write_bytes("\r\n\n".join(texts).encode() + b"\n\xff\n")
    *answered, bad = follow(edges["text"], cat(tmp_path / "x")).rows
    assert [row["scores"] for row in answered] == scores(edges["text"], texts)
    assert bad["error"].startswith("stream[3]: not UTF-8")


def test_lines_are_found_whatever_the_chunks_are_and_an_endless_one_is_passed_over(monkeypatch):
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 1000)
    rng = np.random.default_rng(15)
    made = [b"x" * int(rng.integers(0, 900)) for _ in range(50)]
    stream = b"\n".join([*made[:25], b"y" * 5000, *made[25:]])
    found = split(streams.lines(cut(stream, rng, 90)))
    assert found == [*made[:25], "a line of more than 1000 bytes", *made[25:]]


# --- what is late


def frames(count):
    """A source of grey frames of 8×8 pixels, each of one value; it tells where it is in a file."""
    return (
        f"for i in range({count}):\n"
        "    out(bytes([i % 256]) * 192)\n    if not i % 100: progress(i)\n"
        "progress('end')"
    )


def counting(path, count):
    code = f"progress = lambda x: open({str(path)!r}, 'w').write(str(x))\n{frames(count)}"
    return shlex.split(python(code))


def text_of(path):
    return path.read_text() if path.exists() else ""


def until(met, seconds=60):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_late_frames_are_dropped_and_counted_and_the_newest_is_answered(tmp_path):
    command = counting(tmp_path / "n", 3000)
    with streams.Source(command, GREY_8X8, "rgb24:8x8") as source:
        items = iter(source)
        first = next(items)
        until(lambda: text_of(tmp_path / "n") == "end")
        rest = list(items)
    assert rest[-1].id == "stream[2999]"
    assert rest[-1].sample[0, 0, 0] == 2999 % 256
    assert sum(item.dropped + 1 for item in (first, *rest)) == 3000
    assert len(rest) <= 50  # the pipe's last bytes


def test_a_source_may_have_to_wait_and_then_nothing_is_dropped(tmp_path):
    command = counting(tmp_path / "n", 3000)
    with streams.Source(command, GREY_8X8, "rgb24:8x8", "wait") as source:
        items = iter(source)
        taken = [next(items)]
        before = None
        while (now := text_of(tmp_path / "n")) != before or not now:  # until it stands still
            before = now
            time.sleep(0.3)
        assert int(now) * 192 < 300_000  # the pipe, a chunk, two frames
        taken += items
    assert [item.id for item in taken] == [f"stream[{i}]" for i in range(3000)]
    assert {item.dropped for item in taken} == {0}


def memory_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


@contextlib.contextmanager
def predicting(edge, command, *options):
    words = ["predict", str(edge), "--source-cmd", command, *options]
    with subprocess.Popen(
        [sys.executable, "-m", "edgedistill_runtime", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as child:
        try:
            yield child
        finally:
            child.kill()  # only where a test failed


def in_pipe(file):
    """Bytes that nobody has read."""
    return struct.unpack("i", fcntl.ioctl(file, termios.FIONREAD, bytes(4)))[0]


def gone(pid):
    """Whether it ended, be it that nobody waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] == "Z"
    except OSError:
        return True


def test_memory_stays_the_same_however_late_it_is(edges, tmp_path):
    flood = python(
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "for i in range(10**9):\n    out(bytes(960_000))\n"
        f"    open({str(tmp_path / 'n')!r}, 'w').write(str(i))"
    )
    with predicting(edges["image"], flood, "--framing", "rgb24:8x8") as child:
        until(lambda: text_of(tmp_path / "n"))
        until(lambda: in_pipe(child.stdout) > 60_000)  # nobody reads: it can print no more
        before = memory_kib(child.pid)
        start = int(text_of(tmp_path / "n") or 0)
        until(lambda: int(text_of(tmp_path / "n") or 0) > start + 100)  # 96 MB
        assert memory_kib(child.pid) - before < 10_000
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")
    assert out.endswith(b"\n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert sum(row["dropped"] for row in rows) > 0
    assert gone(int(text_of(tmp_path / "pid")))


def all_gone(numbers):
    until(lambda: all(map(gone, numbers)), seconds=1)  # SIGKILL takes a moment
    return len(numbers) == 2


# --- how it ends

ENDLESS = "while True:\n    out(bytes(192))\n    time.sleep(0.001)"


def family(folder, stubborn=False):
    """A source that has a child of its own, and writes both numbers."""
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    return python(
        f"{ignore}import subprocess\n"
        f"child = subprocess.Popen(['sleep', '1000'])\n"
        f"open({str(folder / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n{ENDLESS}"
    )


def pids(folder):
    return [int(word) for word in (folder / "pids").read_text(encoding="utf-8").split()]


@pytest.mark.parametrize("stubborn", [False, True])
def test_once_is_one_answer_and_leaves_no_process(edges, tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr(streams, "GRACE_S", 0.2 if stubborn else 3)
    command = family(tmp_path, stubborn)
    said = follow(edges["image"], command, "--framing", "rgb24:8x8", "--once")
    assert (said.code, said.err) == (0, "")
    assert len(said.rows) == 1
    assert all_gone(pids(tmp_path))


def test_once_goes_on_after_a_bad_frame(edges, tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\ngood\nbad\n")
    bad, good = follow(edges["text"], cat(tmp_path / "x"), "--once").rows
    assert "error" in bad
    assert good["label"]


def test_once_is_for_files_too(edges, tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\ngood\nbad\n")
    said = run_cli("predict", edges["text"], tmp_path / "x.txt", "--once")
    assert said.code == 0
    assert ["error" in row for row in said.rows] == [True, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_its_source(edges, tmp_path, number):
    with predicting(edges["image"], family(tmp_path), "--framing", "rgb24:8x8") as child:
        assert json.loads(child.stdout.readline())["label"]
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")
    assert all(json.loads(line)["label"] for line in out.splitlines())
    assert all_gone(pids(tmp_path))


def test_a_signal_ends_it_while_the_source_is_silent(edges, tmp_path):
    silent = python(
        f"open({str(tmp_path / 'pids')!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)"
    )
    with predicting(edges["text"], silent) as child:
        until(lambda: text_of(tmp_path / "pids"))
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=60) == (b"", b"")
        assert child.returncode == 0
    assert gone(pids(tmp_path)[0])


def test_a_signal_cuts_no_line_in_two(pack):
    edge = pack({"labels": [f"{i}" * 4000 for i in range(10)]})  # two lines fill the pipe
    with predicting(edge, python(ENDLESS), "--framing", "rgb24:8x8") as child:
        until(lambda: in_pipe(child.stdout) > 60_000)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")
    assert out.endswith(b"\n")
    assert all(json.loads(line)["label"] for line in out.splitlines())


def test_a_reader_that_stops_reading_ends_it_quietly(edges, tmp_path):
    with predicting(edges["image"], family(tmp_path), "--framing", "rgb24:8x8") as child:
        assert json.loads(child.stdout.readline())["label"]
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == 141
    assert all_gone(pids(tmp_path))


@pytest.mark.parametrize(
    ("code", "options", "sentence"),
    [
        ("sys.exit('no\\x1b[1m camera\\n\\n')", (), "ended with exit status 1; the last that it "
        "said: no [1m camera"),
        ("sys.exit(3)", (), "ended with exit status 3"),
        ("os.kill(os.getpid(), 9)", (), "ended by SIGKILL"),
        ("pass", (), "ended and had written nothing to classify"),
        (
            "print('waiting for the device', file=sys.stderr, flush=True); time.sleep(1000)",
            ("--source-timeout", "0.2"),
            "wrote nothing for 0.2 s; the last that it said: waiting for the device",
        ),
    ],
)  # fmt: skip
def test_a_source_that_fails_is_one_sentence(edges, code, options, sentence):
    said = follow(edges["text"], python(code), *options)
    assert (said.code, said.out) == (2, "")
    assert said.sentence() == f"edgedistill-run: the source {Path(sys.executable).name} {sentence}"


def test_what_came_before_a_source_failed_is_answered(edges):
    said = follow(edges["text"], python("out(b'good\\nday'); sys.exit('unplugged')"))
    assert said.code == 2
    assert [row["id"] for row in said.rows] == ["stream[0]"]  # half a line is none
    assert said.sentence().endswith("the last that it said: unplugged")


def test_a_talkative_source_does_not_stop(edges):
    code = "sys.stderr.write('fps\\n' * 200_000); out(b'good\\n')"
    said = follow(edges["text"], python(code))
    assert (said.code, said.err, len(said.rows)) == (0, "", 1)


def test_a_source_that_is_not_there_is_one_sentence(edges):
    said = follow(edges["text"], "no-such-camera -t 0")
    assert (said.code, said.out) == (2, "")
    assert "the source no-such-camera cannot be started (No such file" in said.sentence()


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("text", ("x.txt", "--source-cmd", "cat"), "INPUTS or --source-cmd, not both"),
        ("text", (), "Missing argument 'INPUTS...', or --source-cmd"),
        ("text", ("-", "--framing", "lines"), "--framing is about a command"),
        ("text", ("-", "--when-late", "drop"), "--when-late is about a command"),
        ("text", ("-", "--source-timeout", "0"), "--source-timeout is about a command"),
        ("text", ("--source-cmd", "'cat"), "is no command line (No closing quotation)"),
        ("text", ("--source-cmd", " "), "give a command"),
        ("text", ("--source-cmd", "cat", "--framing", "csv"), "'csv' is none for samples of kind "
        "text; give --framing lines"),
        ("audio", ("--source-cmd", "cat", "--framing", "s16le:0"), "s16le:0 has no number"),
        ("audio", ("--source-cmd", "cat", "--framing", "s16le:65"), "from 1 to 64"),
        ("image", ("--source-cmd", "cat", "--framing", "rgb24"), "give one such as rgb24:640x480"),
        ("image", ("--source-cmd", "cat", "--framing", "rgb24:9x8"), "the model takes 8×8"),
        ("any_size", ("--source-cmd", "cat", "--framing", "rgb24:9999x9999"), "more than 67108864"),
        ("image", ("--source-cmd", "cat", "--framing", "images:2"), "'images:2' is none"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_sentence(edges, kind, options, sentence):
    said = run_cli("predict", edges[kind], *options)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.sentence()
