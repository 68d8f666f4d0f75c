"""A small bundle of each engine and kind of sample, for tests of what holds for every bundle."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tests.runtime import tflite_bytes as tb
from tests.runtime import tflite_nets as nets
from tests.runtime.runtime_support import STEPS, kind_manifest, listed, tiny_manifest
from tests.runtime.text_support import DIM, MOODS, TOKENS, text_manifest

from edgedistill_runtime import arrays, bundle, load, preprocess
from edgedistill_runtime import manifest as contract
from edgedistill_runtime.backends import opener

ONNX = {
    "images": lambda: tiny_manifest("tiny"),
    "images, int8": lambda: tiny_manifest("tiny_int8"),
    "images of any size": lambda: kind_manifest("any_size"),
    "sound": lambda: kind_manifest("audio"),
    "sensors": lambda: kind_manifest("sensor"),
    "texts": text_manifest,
    "texts, int8": lambda: text_manifest("int8"),
}


def bag_of_words() -> bytes:
    """The mean of the tokens' vectors, then a matrix; for texts of any length."""
    rng = np.random.default_rng(0)
    g = tb.Graph()
    x = g.input((1, 1), tb.INT32, "ids", open_shape=(1, -1))
    table, head = rng.normal(0, 1, (len(TOKENS), DIM)), rng.normal(0, 1, (len(MOODS), DIM))
    x = g.add("GATHER", [g.constant(table), x], (1, 1, DIM), (23, {}))
    x = g.add("MEAN", [x, g.constant(np.array([1], np.int32))], (1, DIM), tb.DROP_DIMS)
    shape = (1, len(MOODS))
    g.outputs = [g.add("FULLY_CONNECTED", [x, g.constant(head)], shape, tb.FULLY_CONNECTED)]
    return g.bytes()


TFLITE = {
    "images, TFLite": ("images", lambda: nets.cnn().bytes(), STEPS[:1]),
    "images, TFLite int8": ("images, int8", lambda: nets.int8_cnn().bytes(), STEPS[:1]),
    "texts, TFLite": ("texts", bag_of_words, None),
}
"""The bundle whose place it takes, the model, and the steps where they are others."""


def names() -> list[str]:
    """The bundles that this environment can run."""
    found = list(ONNX)
    if find_spec("ai_edge_litert") or (find_spec("tflite_runtime") and np.__version__ < "2"):
        found += TFLITE
    has_tokenizers = find_spec("tokenizers") is not None
    return [name for name in found if has_tokenizers or not name.startswith("texts")]


def write(name: str, path: Path) -> Path:
    """Write the bundle of this name to `path`."""
    if name in ONNX:
        bundle.write(path, *ONNX[name]())
        return path
    like, model, steps = TFLITE[name]
    manifest, files = ONNX[like]()
    data, backend = model(), contract.Backend("tflite")
    steps = steps or manifest.preprocess
    session, prepare = opener("tflite")(data, backend), preprocess.build(steps, files)
    (port,) = session.inputs
    samples = load(write(like, path)).golden_samples()
    prepared = [prepare(sample)[None].astype(port.dtype) for sample in samples]
    contents = {other: held for other, held in files.items() if other != manifest.model}
    contents["model.tflite"] = data
    contents[manifest.golden.outputs] = arrays.encode(
        np.concatenate([session.run({port.name: x})[0] for x in prepared])
    )
    manifest = dataclasses.replace(
        manifest,
        backend=backend,
        model="model.tflite",
        files=listed(contents),
        inputs=session.inputs,
        outputs=session.outputs,
        preprocess=steps,
    )
    bundle.write(path, manifest, contents)
    return path
