"""Files that no runtime may load, by family: each is a function from a good bundle's parts to
(what is wrong, the file's bytes).  Where a family is not about digests, every digest is right.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import (
    KINDS,
    MISSING,
    STEPS,
    Parts,
    fields,
    fits,
    kind_parts,
    kind_samples,
)
from tests.runtime.zip_bytes import Entry, zip_bytes

Files = Iterator[tuple[str, bytes]]
SEED = 23


# --- damage: any byte of a good bundle


def flipped_bytes(parts: Parts) -> Files:
    """One bit of every byte, central directory and end record included."""
    good, rng = zip_bytes(parts.entries()), random.Random(SEED)
    for i in range(len(good)):
        bad = bytearray(good)
        bad[i] ^= 1 << rng.randrange(8)
        yield f"byte {i}", bytes(bad)


def truncations(parts: Parts) -> Files:
    good = zip_bytes(parts.entries())
    for i in range(len(good)):
        yield f"{i} bytes", good[:i]


def lost_bytes(parts: Parts) -> Files:
    good = zip_bytes(parts.entries())
    for i in range(0, len(good), 3):
        yield f"without byte {i}", good[:i] + good[i + 1 :]


def added_bytes(parts: Parts) -> Files:
    good = zip_bytes(parts.entries())
    for byte in range(256):
        yield f"{byte} behind", good + bytes([byte])
        yield f"{byte} in front", bytes([byte]) + good
    for i in range(0, len(good), 11):
        yield f"zero at {i}", good[:i] + b"\0" + good[i:]
    yield "twice", good + good
    yield "page of zeros", good + bytes(4096)
    yield "a program in front", b"#!/bin/sh\nexec true\n" + good


def noise(parts: Parts) -> Files:
    good, rng = zip_bytes(parts.entries()), random.Random(SEED)
    for i in range(150):
        yield f"noise {i}", rng.randbytes(rng.randrange(3000))
        yield f"noise behind a header {i}", good[:30] + rng.randbytes(rng.randrange(3000))
        start = rng.randrange(len(good) - 64)
        yield f"noise at {start}", good[:start] + rng.randbytes(64) + good[start + 64 :]


# --- zips that are not the writer's


def altered_entries(parts: Parts) -> Files:
    """Every field of every entry's headers, and what other zip tools write into them."""
    entries = parts.entries()
    zip64 = struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40)
    changes: list[dict[str, Any]] = [
        *({"version": v} for v in (0, 10, 45, 63)),
        *({"made_by": v} for v in (0, 0x0314, 0x0A14)),
        *({"flags": 1 << bit} for bit in range(16)),
        *({"method": m} for m in (1, 8, 9, 12, 14, 93, 95, 99)),
        *({"time": t, "date": d} for t, d in ((1, 0x21), (0, 0), (0, 0x5A21), (0xFFFF, 0xFFFF))),
        *({"crc": c} for c in (0, 1, 0xFFFFFFFF)),
        *({"size": s} for s in (0, 1, 1 << 20, 1 << 31, 0xFFFFFFFF)),
        *({"compressed_size": s} for s in (0, 1, 1 << 20, 1 << 31, 0xFFFFFFFF)),
        *({"size": s, "compressed_size": s} for s in (0, 1, 1 << 20, 1 << 31, 0xFFFFFFFF)),
        {"size": 0xFFFFFFFF, "compressed_size": 0xFFFFFFFF, "local_extra": zip64},
        *({"local_extra": x} for x in (b"\0", zip64, b"up\0\0", b"UT\5\0\1\0\0\0\0", bytes(65535))),
        *({"central_extra": x} for x in (b"\0", zip64, b"up\0\0", bytes(65535))),
        *({"comment": c} for c in (b"x", b"PK\5\6", bytes(1000))),
        *({"internal": i} for i in (1, 0xFFFF)),
        *({"external": mode << 16} for mode in (0o120777, 0o100644, 0o104755, 0o040755, 0o010644)),
        *({"external": e} for e in (0x10, 1)),
        *({"offset": o} for o in (1, 1 << 20, 0xFFFFFFFF)),
        *({"before": b} for b in (b"\0", b"PK\3\4", bytes(30))),
        *({"after": b} for b in (b"\0", b"PK\7\x08" + bytes(12), bytes(12), bytes(4096))),
        {"flags": 8, "after": b"PK\7\x08" + bytes(12), "crc": 0},
        *({"local_name": n} for n in ("x", "", "../x", "/etc/passwd", "model.onnx\0")),
    ]
    for (i, entry), change in itertools.product(enumerate(entries), changes):
        bad = replace(entry, **change)
        if bad != entry and not (change == {"local_name": entry.name} or change == {"offset": 0}):
            yield f"{entry.name} {change}", zip_bytes([*entries[:i], bad, *entries[i + 1 :]])


def compressed_entries(parts: Parts) -> Files:
    entries = parts.entries()
    for i, entry in enumerate(entries):
        for level in (0, 1, 9):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15)
            stored = packer.compress(entry.data) + packer.flush()
            bad = replace(entry, stored=stored, method=8)
            yield f"{entry.name} deflated", zip_bytes([*entries[:i], bad, *entries[i + 1 :]])
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(16 << 20)) + packer.flush()
    for size in (1 << 20, 1 << 24, 0xFFFFFFFF):
        bad = replace(entries[0], stored=bomb, method=8, size=size)
        yield f"a bomb of {size}", zip_bytes([bad, *entries[1:]])
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for entry in entries:
                archive.writestr(entry.name, entry.data)
        yield f"Python's zipfile, method {method}", file.getvalue()


NAMES = [
    *("../model.onnx", "../../etc/passwd", "/etc/passwd", "./model.onnx", "a/model.onnx"),
    *("..", ".", "/", "\\\\host\\share", "C:\\model.onnx", "..\\model.onnx", "model.onnx/"),
    *("MODEL.ONNX", "model.onnx ", " model.onnx", "model.onnx\0", "model\n.onnx", "mödel.onnx"),
    *("mоdel.onnx", "model.onnx\u202e", "x" * 65, "x" * 5000, "", "con:", "manifest.json"),
    *("manifest.sig", "%2e%2e", "~/model.onnx", "-rf", "model.onnx;true", "$(true)", "\x1b[2J"),
]


def names(parts: Parts) -> Files:
    """Entries renamed in the zip alone, and in the manifest as well."""
    entries = parts.entries()
    for (i, entry), name in itertools.product(enumerate(entries), NAMES):
        if name != entry.name:
            renamed = [*entries[:i], replace(entry, name=name), *entries[i + 1 :]]
            yield f"{entry.name} as {name!r}", zip_bytes(renamed)
    for i, name in itertools.product(range(3), NAMES):
        old = parts.manifest["files"][i]["name"]
        files = {(name if n == old else n): data for n, data in parts.files.items()}
        if len(files) < 3:
            continue
        moved = {
            k: name
            for k in ("golden.inputs", "golden.outputs", "model")
            if _at(parts.manifest, k) == old
        }
        listed = [
            {**f, "name": name if f["name"] == old else f["name"]} for f in parts.manifest["files"]
        ]
        changed = Parts(parts.changed(manifest={**moved, "files": listed}).manifest, files)
        yield f"{old} listed as {name!r}", zip_bytes(changed.entries())


def _at(table: Any, path: str) -> Any:
    for key in path.split("."):
        table = table[key]
    return table


def orders(parts: Parts) -> Files:
    """Entries in another order, missing, twice, or more than the manifest lists."""
    entries = parts.entries()
    for order in itertools.permutations(entries):
        if list(order) != entries:
            yield f"order {[e.name for e in order]}", zip_bytes(order)
    extras = [
        Entry("extra.bin", b"x"),
        Entry("manifest.json", parts.manifest_json()),
        Entry("model.onnx", b""),
        Entry("folder/", b"", external=0x10),
        Entry("link", b"/etc/passwd", external=0o120777 << 16),
        Entry("__main__.py", b"raise SystemExit(0)"),
    ]
    for i in range(len(entries) + 1):
        if i < len(entries):
            yield f"without {entries[i].name}", zip_bytes(entries[:i] + entries[i + 1 :])
        for extra in [*entries, *extras]:
            inserted = [*entries[:i], extra, *entries[i:]]
            yield f"{extra.name} at {i}", zip_bytes(inserted)
    signature = Entry("manifest.sig", b"-----BEGIN SSH SIGNATURE-----")
    for i in range(len(entries)):
        yield f"signature at {i}", zip_bytes([*entries[:i], signature, *entries[i:]])
    yield "two signatures", zip_bytes([*entries, signature, signature])
    yield "behind a signature", zip_bytes([*entries, signature, extras[0]])
    yield "a huge signature", zip_bytes([*entries, replace(signature, data=bytes(1 << 17))])
    yield "nothing", zip_bytes([])
    yield "a bundle in a bundle", zip_bytes([Entry("model.edge", zip_bytes(entries))])


def altered_ends(parts: Parts) -> Files:
    """The central directory and its end record."""
    entries = parts.entries()
    locator = b"PK\6\7" + struct.pack("<LQL", 0, 0, 1)
    record = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 4, 4, 0, 0)
    for change in [
        *({"before_directory": b} for b in (b"\0", b"PK\1\2", bytes(4096), record)),
        *({"before_end": b} for b in (b"\0", locator, record + locator, b"PK\5\6" + bytes(18))),
        *({"comment": c} for c in (b"x", b"PK\5\6" + bytes(18), bytes(65535))),
        *({"disk": d} for d in (1, 0xFFFF)),
        *({"count": c} for c in (0, 1, 3, 5, 0xFFFF)),
        *({"directory_size": s} for s in (0, 1, 0xFFFFFFFF)),
        *({"directory_offset": o} for o in (0, 1, 0xFFFFFFFF)),
    ]:
        yield f"{change}", zip_bytes(entries, **change)


# --- manifests


def wrong_types(parts: Parts) -> Files:
    """Every field left out, and every field with a value of every other type."""
    values = (None, True, -1, 1.5, "x", [], [[]], [None], {}, {"x": 1}, "0" * 5000, 1 << 62)
    for path, hint, has_default in fields():
        if not has_default:
            yield f"without {path}", _with(parts, path, MISSING)
        for value in values:
            if not fits(hint, value) and not _may_be_empty(path, value):
                yield f"{path} = {str(value)[:20]}", _with(parts, path, value)


def _may_be_empty(path: str, value: Any) -> bool:
    """A list of nothing is right where nothing follows from it; an int where a fraction may be."""
    lists = ("board.models", "postprocess")
    numbers = ("latency_ms", "p50", "bound", "_mib", "_ms", "_mj", "student", "teacher")
    numbers += ("min_retention",)
    numbers += ("low",) if isinstance(value, int) and value < 0 else ("high",)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return (path in lists and value == []) or (is_number and path.endswith(numbers))


SOFTMAX = {"op": "softmax"}
UNSURE = {"op": "threshold", "value": 0.5, "label": "unknown"}
BEST = {"op": "top_k", "k": 3}

OUT_OF_RANGE: dict[str, list[Any]] = {
    "format_version": [0, -1, 2, 1 << 40],
    "version": [-1, 1 << 60],
    "backend.name": ["", "onx", "tflite", "../onnx", "os:system"],
    "backend.graph_optimization": ["", "ALL", "__class__"],
    "backend.threads": [0, -1, 257, 1 << 40],
    "model": ["", "absent", "golden_inputs.npy", "golden_outputs.npy", "manifest.json", "../x"],
    "golden.inputs": ["", "absent", "model.onnx", "golden_outputs.npy", "manifest.json"],
    "golden.outputs": ["", "absent", "model.onnx", "golden_inputs.npy", "manifest.json"],
    "golden.count": [0, -1, 1, 3, 5, 1024, 1025, 1 << 40],
    "golden.atol": [-1e-9, -1, 1e10, 1e300],
    "files.0.size": [-1, 0, 756, 758, 1 << 31, 1 << 32, 1 << 62],
    "files.0.sha256": ["", "0" * 64, "0" * 63, "A" * 64, "g" * 64, "0" * 65],
    "sample.kind": ["", "audio", "Image", "text", "__class__"],
    "sample.dtype": ["", "text", "object", "O", "float64", "U8", "uint16", "float32", "V99999999"],
    "sample.shape": [
        [],
        [8, 8],
        [8, 8, 0],
        [8, 8, -1],
        [8, 8, 3],
        [8, 8, 4],
        [64],
        [1] * 9,
        [1 << 28] * 3,
        [1 << 62] * 3,
        [1 << 40, 8, 1],
    ],
    "sample.rate_hz": [0, 30, 1e300, -1],
    "sample.hop": [0, 1, -1, 1 << 40],
    "inputs": [[]],
    "inputs.0.name": ["", "picture", "\0", "image "],
    "inputs.0.dtype": ["", "object", "uint8", "float64"],
    "inputs.0.shape": [[], [1, 8, 8], [1, 1, 8, 9], [2, 1, 8, 8], [1, 1, 8, 0], [1 << 60] * 4],
    "outputs": [[]],
    "outputs.0.name": ["", "scores"],
    "outputs.0.dtype": ["", "object", "int8", "int64"],
    "outputs.0.shape": [[], [10], [1, 11], [2, 10], [1, 1, 10], [10, 1], [1, -10]],
    "labels": [[], ["0"], list("012345678"), list("0123456788"), list("0123456789a")],
    "preprocess": [
        [],
        [{}],
        [{"op": "exec"}],
        [{"op": "channels_first"}],
        [{"op": 1}],
        [{"op": "channels_first"}] * 17,
        [{"op": "channels_first"}] * 40_000,
        [{"op": "tokenize", "file": "model.onnx", "max_length": 8, "max_characters": 8}],
    ],
    "preprocess.0.op": ["", "normalise", "__import__", None, 1, []],
    "preprocess.0.scale": [None, "1", [1], {}, 1e300, -1e300],
    "preprocess.0.mean": [None, 1, "1", [], [0.5, 0.5], ["0"], [None], [[0.5]], [1e300], {"0": 1}],
    "preprocess.0.std": [None, 1, "1", [], [0], [-1], [0.5, 0.5], ["1"], [1e300], [1e-300]],
    "preprocess.0.unknown": [1],
    "preprocess.1.axis": [0],
    "postprocess": [
        [{}],
        [{"op": "argmax"}],
        [{"op": None}],
        [{"op": "softmax"}] * 17,
        *([step] for step in (UNSURE, BEST)),
        *([step, SOFTMAX] for step in (UNSURE, BEST)),
        *([SOFTMAX, step, step] for step in (UNSURE, BEST)),
        *([SOFTMAX, step, SOFTMAX] for step in (UNSURE, BEST)),
        *([SOFTMAX, {**UNSURE, "value": v}] for v in (None, True, "0.5", [], 0, 1, -1, 1e300)),
        *([SOFTMAX, {**UNSURE, "label": v}] for v in (None, True, 5, [], {}, "", " ", "7")),
        *([SOFTMAX, {**UNSURE, "label": v}] for v in ("x" * 65, "x" * 4096, "\u202eabc", "\u200b")),
        *([SOFTMAX, {**BEST, "k": v}] for v in (None, True, "1", [], 0, -1, 1.0, 11, 1 << 62)),
        *([SOFTMAX, {**step, "x": 1}] for step in (UNSURE, BEST)),
        *([SOFTMAX, {"op": op}] for op in ("threshold", "top_k")),
        [SOFTMAX, {"op": "threshold", "value": 0.5}],
        [SOFTMAX, {"op": "threshold", "label": "unknown"}],
    ],
    "postprocess.0.temperature": [None, True, "1", [], {}, 0, -1, 1e300, 1e-300, -1e-300],
    "postprocess.0.axis": [1],
    "accuracy.control.low": [0.02, 1e300],
    "accuracy.control.high": [0, -1e300],
    "accuracy.control.gain": [-1, 1],
    "accuracy.control.seeds": [0, -3, 1 << 40],
    "budget.percentile": [0, 100, -1, 1 << 40],
    "budget.latency_ms": [0, -1, -1e300],
    "budget.peak_ram_mib": [0, -1],
    "budget.size_mib": [0, -0.5],
    "budget.cold_start_ms": [0, -1],
    "budget.energy_mj": [0, -1],
    "budget.min_retention": [0, -1],
    "board.models": [[""], ["Raspberry Pi 4", ""]],
}


def out_of_range(parts: Parts) -> Files:
    for path, values in OUT_OF_RANGE.items():
        for value in values:
            yield f"{path} = {str(value)[:40]}", _with(parts, path, value)
    one = parts.manifest["files"][0]
    for many in (65, 10_000):
        yield (
            f"{many} files",
            _with(parts, "files", [{**one, "name": f"f{i}"} for i in range(many)]),
        )
    yield "a file listed twice", _with(parts, "files", [*parts.manifest["files"], one])
    sizes = [{**f, "size": 1 << 31} for f in parts.manifest["files"]]
    yield "6 GiB listed", _with(parts, "files", sizes)


def _with(parts: Parts, path: str, value: Any) -> bytes:
    return zip_bytes(parts.changed(manifest={path: value}).entries())


OUT_OF_RANGE_OF: dict[str, dict[str, list[Any]]] = {
    "any_size": {
        "sample.kind": ["audio", "sensor", "text", "images"],
        "sample.shape": [
            *([-1, 8, 1], [8, -1, 1], [-1, -1, -1], [-1, -1, 0], [-1, -1, 3], [-1, -1]),
            *([-1], [-2, -2, 1], [-1, -1, 1, 1], [0, 0, 1], [16, 16, 1]),
        ],
        "sample.rate_hz": [30, 0, -1],
        "sample.hop": [1, 0],
        "preprocess": [
            [],
            list(STEPS),
            [*STEPS, {"op": "resize", "height": 8, "width": 8, "fit": "crop"}],
            [{"op": "crop", "height": 8, "width": 8}, *STEPS],
            [{"op": "resize"}, *STEPS],
            [{"op": "resize", "height": 9, "width": 8, "fit": "crop"}, *STEPS],
            [{"op": "resize", "height": 8, "width": 8, "fit": "crop", "filter": "box"}, *STEPS],
            *(
                [{"op": "resize", "height": n, "width": n, "fit": "crop"}, *STEPS]
                for n in (1 << 12, 1 << 14, 1 << 20, 1 << 40)
            ),
        ],
        "preprocess.0.fit": ["", "cover", None, 1, True, [], {}],
    },
    "audio": {
        "sample.kind": ["image", "sensor", "text", "Audio", "sound"],
        "sample.dtype": ["uint8", "int8", "float32", "int32", "text", "object"],
        "sample.shape": [
            *([], [0], [-1], [1], [255], [1599], [1792], [1, 1600], [1600, 1], [1 << 28]),
            *([1 << 40], [1600, 2]),
        ],
        "sample.rate_hz": [None, MISSING, 0, -8000, 7999.5, 1e300, 1 << 62, "8000", True],
        "sample.hop": [0, -1, 1 << 40, 0.5, "800", True],
        "preprocess": [[], list(STEPS)],
        "preprocess.2.axis": [0, 1, -1, -2, -4, 1 << 40, None, True, 1.0, "x", []],
    },
    "sensor": {
        "sample.kind": ["image", "audio", "text", "sensors"],
        "sample.dtype": ["uint8", "int16", "float64", "int32", "text", "object"],
        "sample.shape": [
            *([], [8], [8, 0], [0, 8], [8, -1], [8, 9], [9, 8], [4, 16], [64, 1], [1, 8, 8]),
            *([1 << 20, 1 << 20], [1 << 28, 8]),
        ],
        "sample.rate_hz": [0, -50, 1e300, 1 << 62, "50", True],
        "sample.hop": [0, -1, 1 << 40, 0.5, "4", True],
        "preprocess": [[], list(STEPS)],
        "preprocess.1.axis": [0, 1, -1, -3, 1 << 40, None, True, 1.0, "x", []],
    },
}
WRONG_ARGUMENTS = (None, True, "x", [], {}, [None], [[]], [True] * 8, ["1"] * 8, -1, 1e300, 1 << 62)


def out_of_range_kinds(parts: Parts) -> Files:
    """Bundles of images of any size, of audio and of sensors."""
    for kind, table in OUT_OF_RANGE_OF.items():
        good = kind_parts(kind)
        for path, values in table.items():
            for value in values:
                yield f"{kind} {path} = {str(value)[:40]}", _with(good, path, value)


def step_arguments(parts: Parts) -> Files:
    """Every argument of every step that is not for images alone: missing, or another thing."""
    for kind, (_, steps) in KINDS.items():
        good = kind_parts(kind)
        for i, step in enumerate(steps):
            yield f"{kind} {step['op']} with x", _with(good, f"preprocess.{i}.x", 1)
            for name in step.keys() - {"op"}:
                path = f"preprocess.{i}.{name}"
                if name != "fit":  # the only one that has a default
                    yield f"{kind} without {path}", _with(good, path, MISSING)
                for value in WRONG_ARGUMENTS:
                    yield f"{kind} {path} = {str(value)[:20]}", _with(good, path, value)


LARGE_STEPS: dict[str, list[dict[str, Any]]] = {
    "any_size": [
        {"op": "resize", "height": h, "width": w, "fit": fit}
        for h, w in ((1, 1), (1 << 14, 1 << 13), (1 << 28, 1), (1, 1 << 28), (1 << 62, 1 << 62))
        for fit in ("stretch", "crop", "pad")
    ],
    "audio": [
        {**KINDS["audio"][1][0], **change}
        for change in (
            *({"bands": n} for n in (0, 9, 1 << 12, 1 << 20, 1 << 31)),
            *({"frame": n} for n in (0, 1, 2, 1601, 1 << 20, 1 << 31)),
            *({"step": n} for n in (0, 1, 193, 1 << 31)),
            *({"rate_hz": n} for n in (0, 1, 16000, 1 << 31)),
            *({"low_hz": n} for n in (4000, 4001, 1e9)),
            *({"high_hz": n} for n in (0, 20, 4001, 1e9)),
        )
    ],
    "sensor": [
        {"op": "standardize", "mean": [0.5] * n, "std": [2.0] * n} for n in (0, 1, 7, 9, 10_000)
    ]
    + [
        {"op": "standardize", "mean": [0.5] * 8, "std": [value] * 8}
        for value in (0, -1, 1e-300, 1e300)
    ],
}


def large_steps(parts: Parts) -> Files:
    """First steps whose arguments have the right types, and lead elsewhere or nowhere."""
    for kind, steps in LARGE_STEPS.items():
        good = kind_parts(kind)
        for step in steps:
            yield f"{kind} {str(step)[:80]}", _with(good, "preprocess.0", step)
    fixed = [{"op": "resize", "height": 1 << 14, "width": 1 << 14, "fit": "stretch"}, *STEPS]
    yield "images of one size, made large", _with(parts, "preprocess", fixed)
    fixed = [{"op": "insert_axis", "axis": -3}] * 16
    yield "an axis many times", _with(parts, "preprocess", fixed)


def golden_of_other_kinds(parts: Parts) -> Files:
    """Golden samples of another type or shape than the sample's, or of no numbers."""
    kinds = {"any_size": np.uint8, "audio": np.int16, "sensor": np.float32}
    for kind in kinds:
        good, samples = kind_parts(kind), kind_samples(kind)
        shapes = [samples[:3], samples[..., :-1], samples[None], samples.reshape(-1), samples[0]]
        types = [samples.astype(t) for t in ("u1", "i2", "f4", "i8") if t != samples.dtype.str[1:]]
        for i, other in enumerate([*shapes, *types]):
            changed = good.changed(files={"golden_inputs.npy": _npy(other)})
            yield f"{kind} {i}", zip_bytes(changed.entries())
    good, samples = kind_parts("sensor"), kind_samples("sensor")
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, -1):
            bad = samples.copy()
            bad.reshape(-1)[place] = value
            changed = good.changed(files={"golden_inputs.npy": _npy(bad)})
            yield f"a sensor's {value} at {place}", zip_bytes(changed.entries())


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    sizes = ", ".join(map(str, array.shape)) + "," * (array.ndim == 1)
    return npy(array.dtype.str, f"({sizes})", np.ascontiguousarray(array).tobytes())


def json_bombs(parts: Parts) -> Files:
    """Manifests that JSON readers choke on, or read in two ways.  Sizes and CRCs are right."""
    good = parts.manifest_json().rstrip()
    open_end = good[:-1]
    texts = [
        *(b"", b" ", b"null", b"[]", b"1", b'"x"', b"{}", b"{", b"}", b"[" * 400_000),
        *(b'{"x":' * n + b"1" + b"}" * n for n in (17, 100, 990, 5000, 170_000)),
        *(open_end + b',"x":' + b"[" * n + b"]" * n + b"}" for n in (17, 500, 5000, 400_000)),
        *(open_end + b',"provenance":{"x":' + n + b"}}" for n in (b"1", b"2")),
        *(open_end + b',"x":' + n + b"}" for n in (b"NaN", b"Infinity", b"-Infinity", b"1e999")),
        *(open_end + b',"x":' + n + b"}" for n in (b"-1e999", b"9" * 20, b"9" * 5000, b"-" * 9)),
        *(open_end + b',"x":' + n + b"}" for n in (b"9" * 900_000, b"01", b"1.", b"+1", b"0x1")),
        *(
            open_end + b',"x":"' + s + b'"}'
            for s in (b"\\ud800", b"\\udfff", b"\xff", b"\xed\xa0\x80")
        ),
        *(
            open_end + b',"x":"' + s + b'"}'
            for s in (b"\n", b"\0", b"\\x41", b"a" * 5000, b"\\u001b[2J")
        ),
        *(open_end + b',"x":' + s for s in (b"", b"1", b"1,}", b"1}}", b"1}x", b"/*1*/1}")),
        open_end + b',"' + b"k" * 5000 + b'":1}',
        open_end + b',"\\ud800":1}',
        open_end + b',"name":"again"}',
        open_end + b',"x":{"y":1,"y":1}}',
        open_end.replace(b'"budget":{', b'"budget":{"percentile":50,'),
        good + b" " * (1 << 20),
        good + b" " * (2 << 20),
        b" " * (1 << 20) + good,
        open_end + b',"x":[' + b'"a",' * 500_000 + b'"a"]}',
        b"\xef\xbb\xbf" + good,
        *(good.decode().encode(code) for code in ("utf-16", "utf-16-le", "utf-32", "utf-32-be")),
        b"//\n" + good,
        good.replace(b'"', b"'"),
        good + good,
        b"\0" + good,
        good + b"\0",
        b"\x1f\x8b" + good,
        pickle.dumps(json.loads(good)),
        open_end
        + b',"files":'
        + json.dumps([{"name": "", "size": 0, "sha256": ""}] * 25_000).encode()
        + b"}",
    ]
    for i, text in enumerate(texts):
        yield f"text {i}: {text[:30]!r} … {text[-30:]!r}", zip_bytes(parts.entries(text))
    rng = random.Random(SEED)
    for i in range(100):
        yield f"noise {i}", zip_bytes(parts.entries(rng.randbytes(rng.randrange(2000))))
    for i in range(0, len(good), 7):
        yield f"manifest of {i} bytes", zip_bytes(parts.entries(good[:i]))


# --- arrays


def npy(descr: str, shape: str, body: bytes, order: str = "False", version: int = 1) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    length = struct.pack("<H" if version == 1 else "<L", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + body


def arrays_that_lie(parts: Parts) -> Files:
    for member, kind, shape in (
        ("golden_inputs.npy", "|u1", "(4, 8, 8, 1)"),
        ("golden_outputs.npy", "<f4", "(4, 10)"),
    ):
        good = parts.files[member]
        body = good[128:]
        assert npy(kind, shape, body) == good
        bad = [
            *(good[:i] for i in (0, 1, 6, 8, 10, 64, 127, 128, len(good) - 1)),
            *(good + extra for extra in (b"\0", bytes(4096), good)),
            *(
                npy(d, shape, body)
                for d in ("|O", "|V1", "<f8", ">f4", "|b1", "<U1", "<M8[s]", "|S1")
            ),
            *(
                npy(kind, s, body)
                for s in ("()", "(0,)", "(160,)", "(4,)", "(10, 4)", "(1, 4, 10)")
            ),
            *(
                npy(kind, s, body)
                for s in ("(99999999999,)", "(4611686018427387904, 4)", "(-4, 10)")
            ),
            *(
                npy(kind, s, body)
                for s in ("(2**40,)", "[4, 10]", "(4.0, 10)", "(True, 10)", "None")
            ),
            *(npy(kind, "(" * n + ")" * n, body) for n in (100, 10_000)),
            npy(kind, "__import__('os').abort()", body),
            npy(kind, shape, body, order="True"),
            npy(kind, shape, body, version=2),
            npy(kind, shape, body, version=3),
            npy(kind, shape, body, version=9),
            npy("|O", shape, pickle.dumps(Bomb())),
            pickle.dumps(np.zeros((4, 10), np.float32)),
            pickle.dumps(Bomb()),
            good.replace(b"NUMPY", b"NUMPZ"),
            zip_bytes([Entry("x.npy", good)]),
        ]
        for i, data in enumerate(bad):
            changed = parts.changed(files={member: data})
            yield f"{member} {i}: {data[:80]!r}", zip_bytes(changed.entries())
    rng = random.Random(SEED)
    for i in range(60):
        values = np.frombuffer(rng.randbytes(160), "<f4").tobytes()
        changed = parts.changed(files={"golden_outputs.npy": npy("<f4", "(4, 10)", values)})
        yield f"outputs of another model {i}", zip_bytes(changed.entries())
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38):
        values = np.full(40, value, "<f4").tobytes()
        changed = parts.changed(files={"golden_outputs.npy": npy("<f4", "(4, 10)", values)})
        yield f"outputs of {value}", zip_bytes(changed.entries())


class Bomb:
    """Pickled, this ends whoever loads it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        import os

        return os._exit, (86,)


# --- models


def models(parts: Parts) -> Files:
    for kind in MODELS:
        for what, data in kind():
            yield what, _with_model(parts, data)


def truncated_models(parts: Parts) -> Files:
    good = parts.files["model.onnx"]
    rng = random.Random(SEED)
    for i in range(len(good)):
        yield f"model of {i} bytes", _with_model(parts, good[:i])
    for i in range(150):
        noise = rng.randbytes(rng.randrange(1, 600))
        yield f"noise {i}", _with_model(parts, noise)
        yield f"noise as a graph {i}", _with_model(parts, ox.model(noise))
        yield f"noise behind {i}", _with_model(parts, good + noise)


def _with_model(parts: Parts, data: bytes) -> bytes:
    """Any finite output would do, so that it is not the golden outputs that refuse the model."""
    changed = parts.changed(manifest={"golden.atol": 1e9}, files={"model.onnx": data})
    return zip_bytes(changed.entries())


SCALAR = ox.floats("one", (), [1.0])


def between(*nodes: bytes, more: tuple[bytes, ...] = ()) -> bytes:
    """A model of `nodes` from "image" to "c", then the usual head."""
    domains = (8, ox.message((1, "com.microsoft"), (2, 1)))
    return ox.model(ox.graph([*nodes, *ox.head("c")], [*ox.HEAD, SCALAR, *more]), domains)


def with_tensor(tensor: bytes) -> bytes:
    return ox.model(ox.graph(ox.head(), [*ox.HEAD, tensor]))


def in_model(*more: ox.Field) -> bytes:
    return ox.model(ox.graph(ox.head(), ox.HEAD), *more)


def in_graph(*more: ox.Field) -> bytes:
    return ox.model(
        ox.graph(
            ox.head(),
            ox.HEAD,
            [ox.value("image", (1, 1, 8, 8))],
            [ox.value("logits", (1, 10))],
            *more,
        )
    )


def forbidden_models() -> Files:
    """What ONNX may hold and bundles may not: other files, code, subgraphs, unlisted operators."""
    for place in ("/etc/passwd", "../x", "weights.bin", "", "file:///etc/passwd", "//host/x"):
        where = [(13, ox.message((1, "location"), (2, place)))]
        where += [
            (13, ox.message((1, "offset"), (2, "-1"))),
            (13, ox.message((1, "length"), (2, "9"))),
        ]
        for tensor in (
            ox.message((1, 1), (2, 1), (8, "t"), *where, (14, 1)),
            ox.message((1, 1), (2, 1), (8, "t"), *where),
            ox.message((1, 1), (2, 1), (8, "t"), (14, 1)),
            ox.message((1, 1), (2, 1), (8, "t"), (9, bytes(4)), *where, (14, 1)),
            ox.message((1, 1), (2, 1), (8, "t"), (9, bytes(4)), (14, 1)),
            ox.message((1, 1), (2, 1), (8, "t"), (9, bytes(4)), (14, 1 << 32)),
            ox.message((1, 1), (2, 1), (8, "t"), (9, bytes(4)), (14, 1), (14, 0)),
        ):
            sparse = ox.message((1, tensor), (2, ox.ints("i", (1,), [0])), (3, 4))
            sparse_indices = ox.message((1, SCALAR), (2, tensor), (3, 4))
            inner = ox.graph([ox.node("Identity", ["t"], "x")], [tensor], [], [ox.value("x", (1,))])
            constant = ox.node("Constant", [], "k", ox.message((1, "value"), (5, tensor), (20, 4)))
            function = ox.message((1, "F"), (4, "k"), (7, constant), (10, "evil"))
            relu = ox.node("Relu", ["image"], "c")
            yield f"initializer {place}", with_tensor(tensor)
            yield f"attribute {place}", between(constant, relu)
            yield f"tensors {place}", between(_relu(ox.message((1, "x"), (10, tensor), (20, 9))))
            yield f"sparse initializer {place}", in_graph((15, sparse))
            yield f"sparse indices {place}", in_graph((15, sparse_indices))
            for field, kind in ((22, 11), (23, 12)):
                value = ox.message((1, "sparse_value"), (field, sparse), (20, kind))
                yield f"Constant sparse {place}", between(ox.node("Constant", [], "k", value), relu)
            for operator, names in (("If", ("then_branch", "else_branch")), ("Loop", ("body",))):
                attributes = [ox.message((1, n), (6, inner), (20, 5)) for n in names]
                yield f"{operator} {place}", between(ox.node(operator, ["one"], "c", *attributes))
                yield f"Relu with {names}", between(_relu(*attributes))
            yield f"graphs {place}", between(_relu(ox.message((1, "x"), (11, inner), (20, 10))))
            yield f"function {place}", in_model((25, function))
            yield f"training {place}", in_model((20, ox.message((1, inner))))
    for operator in UNLISTED:
        yield f"operator {operator}", between(ox.node(operator, ["image"], "c"))
    for domain in (
        "evil",
        "ai.onnx.ml",
        "ai.onnx.training",
        "com.microsoft",
        "ai.onnx.preview",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "ai.onnx.contrib",
        "AI.ONNX",
        "\0",
    ):
        for operator in ("Relu", "Evil", "Conv", "TreeEnsemble"):
            yield f"{domain}.{operator}", between(ox.node(operator, ["image"], "c", domain=domain))
    yield "device configuration", in_model((26, b""))
    yield "quantization annotation", in_graph((14, b""))
    yield "device configuration of a node", between(ox.message((4, "Relu"), (10, b"")))
    yield "reference to a function's attribute", between(_relu(ox.message((1, "x"), (21, "y"))))
    yield "strings in a tensor", with_tensor(ox.message((1, 1), (2, 8), (6, "x")))
    yield "segment", with_tensor(ox.message((1, 1), (2, 1), (3, ox.message((1, 0), (2, 1)))))
    for field in (4, 5, 8, 9):
        value = ox.message((1, "x"), (2, ox.message((field, ox.message((1, b""))))))
        yield f"type {field}", ox.model(ox.graph(ox.head(), ox.HEAD, [value]))


UNLISTED = [
    *(
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
        "SequenceAt",
        "SequenceConstruct",
        "Optional",
        "StringConcat",
    ),
    *(
        "StringSplit",
        "StringNormalizer",
        "RegexFullMatch",
        "TfIdfVectorizer",
        "ImageDecoder",
    ),
    *("Expand", "Tile", "ConstantOfShape", "Range", "RandomNormal", "RandomUniform", "Multinomial"),
    *(
        "Resize",
        "Upsample",
        "Pad",
        "EyeLike",
        "NonZero",
        "TopK",
        "Unique",
        "OneHot",
        "Compress",
        "RNN",
    ),
    *(
        "LSTM",
        "GRU",
        "Einsum",
        "ScatterND",
        "GatherND",
        "NonMaxSuppression",
        "RoiAlign",
        "DFT",
        "STFT",
    ),
    *(
        "PyOp",
        "EPContext",
        "SVMClassifier",
        "relu",
        "RELU",
        "Relu ",
        "",
        "\0",
        "Relu\0",
        "a" * 100_000,
    ),
]


def _relu(*attributes: bytes) -> bytes:
    return ox.node("Relu", ["image"], "c", *attributes)


def fields_out_of_place() -> Files:
    """Fields that stand twice, are unknown, or have the wrong wire type."""
    good = ox.plain()
    for field in (1, 7, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, *range(20, 40)):
        for value in (0, b"", b"\x08\x01"):
            data = ox.message((field, value))
            yield f"field {field} of a model again", good + data
            yield f"model of field {field}", data
    for field in (2, 3, 4, 6, 7, 8, 9, 14, 15, *range(17, 40)):
        for value in (0, b"", b"\x08\x01"):
            yield f"field {field} of a graph again", in_graph((field, value))
    for field in (27, 100, 1000, 19_000, (1 << 29) - 1, 1 << 29, 1 << 40):
        yield f"unknown field {field}", in_model((field, 1))
        yield f"unknown field {field} in a graph", in_graph((field, b"x"))
        yield f"unknown field {field} in a tensor", with_tensor(ox.message((field, 1)))
        yield f"unknown field {field} in a node", between(ox.message((4, "Relu"), (field, 1)))
    bodies = (b"", b"\0", bytes(4), bytes(8), b"\xff" * 12)
    for field, wire, body in itertools.product((0, 1, 2, 3, 7, 8, 14, 99), range(8), bodies):
        data = ox.varint(field << 3 | wire) + body
        yield f"field {field}, wire type {wire}, {len(body)} bytes", data
        yield f"and behind a model: {field}, {wire}, {len(body)}", good + data + b"\xff"
    for twice in [((2, 1), (2, 1)), ((8, "t"), (8, "t")), ((9, bytes(4)), (9, bytes(4)))]:
        yield f"twice in a tensor: {twice}", with_tensor(ox.message((1, 1), *twice))
    two = ox.message((1, "x"), (5, SCALAR), (5, SCALAR))
    yield "two tensors in an attribute", between(_relu(two))
    yield "two types of an input", in_graph((11, ox.message((1, "x"), (2, b""), (2, b""))))
    yield "a packed type", with_tensor(ox.message((1, 1), (2, b"\1"), (9, bytes(4))))
    yield "two graphs", good + ox.message((7, ox.graph(ox.head(), ox.HEAD)))
    yield "no graph", ox.message((1, 10), (8, ox.message((2, 20))))
    yield "no opset", ox.message((1, 10), (7, ox.graph(ox.head(), ox.HEAD)))
    yield "an empty file", b""


def endless_protobuf() -> Files:
    """Numbers that never end, lengths beyond the end, groups, nesting, millions of fields."""
    good = ox.plain()
    for size in (11, 1000, 1 << 20):
        yield f"a number of {size} bytes", b"\x08" + b"\x80" * size
        yield f"a number of {size} bytes that ends", b"\x08" + b"\x80" * size + b"\0" + good
        yield f"a tag of {size} bytes", b"\x88" + b"\x80" * size + b"\0" + good
        yield f"a length of {size} bytes", b"\x3a" + b"\x80" * size + b"\0" + good
    for length in (1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 64) - 1):
        yield f"a length of {length}", b"\x3a" + ox.varint(length)
        yield f"a name of {length} bytes", ox.model(b"\x12" + ox.varint(length))
    for data in (b"\x0b" * 5000, b"\x0b" * 5000 + b"\x0c" * 5000, b"\x3b" + good + b"\x3c"):
        yield "groups", data
        yield "groups in a graph", ox.model(data)
    for field, depth in itertools.product((1, 2, 5, 6, 7, 9, 11, 12, 20, 25), (50, 101, 3000)):
        data = nested(field, depth)
        yield f"field {field}, {depth} deep", data
        yield f"field {field}, {depth} deep in a graph", ox.model(data)
        yield f"field {field}, {depth} deep in a node", between(data)
        yield f"field {field}, {depth} deep in a type", in_graph((11, ox.message((2, data))))
    body = b""
    for _ in range(500):  # a graph in an attribute in a node in a graph …
        body = ox.message((1, ox.message((5, ox.message((6, body))))))
    yield "subgraphs in subgraphs", ox.model(body)
    many = 3_000_000
    yield "millions of empty nodes", ox.model(b"\x0a\0" * many)
    yield "millions of opsets", b"\x42\0" * many
    yield "millions of properties", b"\x72\0" * many
    yield "millions of packed sizes", with_tensor(ox.message((1, b"\1" * many)))
    yield "millions of sizes", with_tensor(b"\x08\1" * many)
    yield "millions of packed numbers", with_tensor(ox.message((7, b"\1" * many)))
    yield "millions of floats", with_tensor(b"\x25\0\0\0\0" * (many // 2))
    yield "millions of inputs", between(b"\x0a\0" * many)
    yield "millions of strings", between(_relu(b"\x4a\0" * many))


def nested(field: int, depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = ox.message((field, data))
    return data


def names_that_are_no_text() -> Files:
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"):
        size = [ox.value("image", (bad, 1, 8, 8))]
        yield "an operator", ox.model(ox.graph([ox.message((4, bad))]))
        yield "a domain", between(ox.message((4, "Relu"), (7, bad)))
        yield "a node's input", between(ox.message((1, bad), (4, "Relu")))
        yield "a size", ox.model(ox.graph(ox.head(), ox.HEAD, size))
        yield "an input", ox.model(ox.graph(ox.head(), ox.HEAD, [ox.message((1, bad))]))
        yield "a tensor", with_tensor(ox.message((8, bad)))
        yield "a property", in_model((14, ox.message((1, bad))))


def tensors_that_lie() -> Files:
    for dims, raw in [
        *(((n,), b"") for n in (1, 2, 1 << 20, 1 << 31, 1 << 32, 1 << 62, -1, -(1 << 63))),
        *(((n, n), b"") for n in (1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 33, -1)),
        *(((0, n), b"") for n in (1 << 40, 1 << 62, -1)),
        *(((3,), bytes(n)) for n in (0, 1, 4, 11, 13, 16, 4096)),
        ((1 << 16,) * 8, b""),
        ((1,) * 9, bytes(4)),
        ((1,) * 5000, bytes(4)),
    ]:
        tensor = ox.tensor("t", dims, 1, raw)
        constant = ox.node("Constant", [], "k", ox.message((1, "value"), (5, tensor), (20, 4)))
        yield f"a tensor of {dims[:9]} in {len(raw)} bytes", with_tensor(tensor)
        yield f"a constant of {dims[:9]} in {len(raw)} bytes", between(constant, _relu())
    widths = {4: 4, 5: 1, 7: 1, 10: 8, 11: 1}
    for kind, size, field in itertools.product((1, 6, 7, 11), (0, 1, 4, 5), widths):
        body = (b"\1" if widths[field] == 1 else bytes(widths[field])) * size
        tensor = ox.message((1, 3), (2, kind), (8, "t"), (field, body))
        yield f"{size} of 3 numbers in field {field} for type {kind}", with_tensor(tensor)
    for kind in (0, 8, 14, 15, 17, 18, 19, 20, 23, 24, 25, 99, -1, 1 << 31, (1 << 32) + 1):
        yield f"a tensor of type {kind}", with_tensor(ox.tensor("t", (1,), kind, bytes(4)))


def numbers_out_of_range() -> Files:
    """Attributes and versions that no network has."""
    large = (1 << 31, 1 << 62, -(1 << 63))
    attributes: list[tuple[str, Any]] = [
        *(("pads", [n] * 4) for n in (4097, -1, *large)),
        *(
            (name, [n] * 2)
            for name in ("kernel_shape", "strides", "dilations")
            for n in (0, -1, 4097, *large)
        ),
        *(("group", n) for n in (0, -1, 4097, *large)),
        ("pads", [0] * 100),
    ]
    weight = ox.floats("w", (1, 1, 1, 1), [1.0])
    for (name, values), operator in itertools.product(
        attributes, ("Conv", "MaxPool", "AveragePool")
    ):
        inputs = ["image", "w"] if operator == "Conv" else ["image"]
        node = ox.node(operator, inputs, "c", ox.attribute(name, values))
        yield f"{operator} {name} {values}", between(node, more=(weight,))
    for operator, axis in itertools.product(
        ("Softmax", "Concat", "Gather", "Split", "LayerNormalization"), (4, -5, 1 << 33, *large)
    ):
        inputs = ["image", "one"] if operator in ("Gather", "LayerNormalization") else ["image"]
        node = ox.node(operator, inputs, "c", ox.attribute("axis", axis))
        yield f"{operator} along axis {axis}", between(node)
    for perm in ([9, 9, 9, 9], [0, 0, 0, 0], [0], [-1, -2, -3, -4], [1 << 40] * 4):
        node = ox.node("Transpose", ["image"], "c", ox.attribute("perm", perm))
        yield f"transposed {perm}", between(node)
    for opset in (0, 1, 12, 26, 1 << 40, -1):
        yield f"opset {opset}", ox.model(ox.graph(ox.head(), ox.HEAD), opset=opset)
    for version in (0, 14, 1 << 40, -1):
        yield f"IR version {version}", ox.model(ox.graph(ox.head(), ox.HEAD), ir_version=version)
    for block in (0, -32, 1, 31, 1 << 31):
        yield f"blocks of {block}", ox.model(*four_bits(block))


def four_bits(block: int) -> tuple[bytes, ox.Field]:
    """A graph whose weights are quantized in blocks, and its second operator set."""
    sizes = {"K": 64, "N": 10, "bits": 4, "block_size": block}
    attributes = [ox.attribute(name, size) for name, size in sizes.items()]
    inputs = ["flat", "q", "scale"]
    node = ox.node("MatMulNBits", inputs, "logits", *attributes, domain="com.microsoft")
    more = [ox.tensor("q", (10, 2, 16), 2, bytes(320)), ox.floats("scale", (20,), [1.0] * 20)]
    operators = (8, ox.message((1, "com.microsoft"), (2, 1)))
    return ox.graph([ox.head()[0], node], [*ox.HEAD, *more]), operators


def other_inputs_and_outputs() -> Files:
    """Good models, and not what the manifest says."""
    image, logits = ox.value("image", (1, 1, 8, 8)), ox.value("logits", (1, 10))
    for inputs in (
        [],
        [ox.value("picture", (1, 1, 8, 8))],
        [image, ox.value("second", (1,))],
        [ox.value("second", (1,)), image],
        [image, image],
        [ox.value("image", (1, 8, 8))],
        [ox.value("image", ("batch", 1, 8, 8))],
        [ox.value("image", (1, 1, 8, -8))],
        [ox.value("image", (1, 1, 8, 0))],
        [ox.value("image", (1 << 62, 1, 8, 8))],
        *([ox.value("image", (1, 1, 8, 8), kind)] for kind in (0, 2, 7, 8, 10, 99)),
        [ox.message((1, "image"))],
        [ox.message((1, "image"), (2, b""))],
    ):
        yield "other inputs", ox.model(ox.graph(ox.head(), ox.HEAD, inputs))
    for outputs in (
        [],
        [ox.value("scores", (1, 10))],
        [ox.value("flat", (1, 64))],
        [logits, ox.value("flat", (1, 64))],
        [ox.value("logits", (10,))],
        [ox.value("logits", (1, 10), 7)],
    ):
        yield "other outputs", ox.model(ox.graph(ox.head(), ox.HEAD, [image], outputs))


def graphs_that_cannot_be() -> Files:
    """What only shows when the engine puts the graph together, or runs it."""
    yield "the head in the wrong order", ox.model(ox.graph(ox.head()[::-1], ox.HEAD))
    yield "a circle", between(ox.node("Add", ["image", "c"], "c"))
    yield "a node for nothing", between(ox.node("Relu", ["nothing"], "c"))
    yield "no nodes", ox.model(ox.graph([], ox.HEAD))
    yield "a name made twice", between(_relu(), _relu())
    whole, minus = ox.ints("whole", (1,), [-(1 << 63)]), ox.ints("minus", (1,), [-1])
    nodes = [
        ox.node("Div", ["whole", "minus"], "d"),
        ox.node("Cast", ["d"], "f", ox.attribute("to", 1)),
        ox.node("Add", ["image", "f"], "c"),
    ]
    yield "a division that kills", between(*nodes, more=(whole, minus))
    zero, huge = ox.ints("zero", (1,), [0]), ox.ints("huge", (1,), [1 << 62])
    step = ox.node("Slice", ["image", "zero", "huge", "zero", "zero"], "c")
    yield "a slice of step 0", between(step, more=(zero, huge))
    for target in ([1 << 62, 1 << 62], [-1, -1], [-2, 32], [1 << 31, 1 << 33]):
        node = ox.node("Reshape", ["image", "to"], "c")
        yield f"a reshape to {target}", between(node, more=(ox.ints("to", (2,), target),))
    for index in (8, -9, 1 << 40, -(1 << 63)):
        gather = ox.node("Gather", ["image", "at"], "c", ox.attribute("axis", 3))
        yield f"a gather at {index}", between(gather, more=(ox.ints("at", (8,), [index] * 8),))


MODELS = (
    forbidden_models,
    fields_out_of_place,
    endless_protobuf,
    names_that_are_no_text,
    tensors_that_lie,
    numbers_out_of_range,
    other_inputs_and_outputs,
    graphs_that_cannot_be,
)
FAMILIES: dict[str, Callable[[Parts], Files]] = {
    family.__name__: family
    for family in (
        flipped_bytes,
        truncations,
        lost_bytes,
        added_bytes,
        noise,
        altered_entries,
        compressed_entries,
        names,
        orders,
        altered_ends,
        wrong_types,
        out_of_range,
        out_of_range_kinds,
        step_arguments,
        large_steps,
        golden_of_other_kinds,
        json_bombs,
        arrays_that_lie,
        models,
        truncated_models,
    )
}
