"""What stands around a network in a call, to be timed on a board: preprocessing and `predict`."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import edgedistill_runtime.manifest as contract
from edgedistill.calibrate.graphs import INPUT, OUTPUT, Graph, Value
from edgedistill_runtime import arrays, bundle

WORDS = 4000
TEXT_WORDS = (2, 8, 32, 128)
SIDES = (8, 48, 160)
TOKENIZER = "tokenizer.json"
MEL = {
    "rate_hz": 16_000.0,
    "frame": 512,
    "step": 160,
    "bands": 40,
    "low_hz": 20.0,
    "high_hz": 8000.0,
}


def steps() -> list[dict[str, Any]]:
    """Each kind of preprocessing in several sizes, as rows of the packs' index."""
    found: list[dict[str, Any]] = []

    def add(op: dict[str, Any], dtype: str, *shapes: tuple[int, ...]) -> None:
        found.extend(
            {"name": f"{op['op']} {i}", "steps": [op], "dtype": dtype, "shape": list(shape)}
            for i, shape in enumerate(shapes)
        )

    images = [(side, side, 3) for side in SIDES]
    three = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    add({"op": "normalize", "scale": 1 / 255, **three}, "uint8", *images)
    add({"op": "channels_first"}, "float32", *images)
    add({"op": "insert_axis", "axis": -3}, "float32", *[shape[1:] for shape in images])
    for size in ((48, 64), (240, 320), (480, 640)):
        for side in (32, 96, 224):
            op = {"op": "resize", "height": side, "width": side, "fit": "crop"}
            found.append(
                {"name": f"resize {size[0]} {side}", "steps": [op], "dtype": "uint8"}
                | {"shape": [*size, 3]}
            )
    add({"op": "standardize", **three}, "float32", (3, 32), (3, 256), (3, 2048))
    add({"op": "log_mel", **MEL}, "int16", (4000,), (16_000,), (32_000,))
    words = _words()
    op = {"op": "tokenize", "file": TOKENIZER, "max_length": 512, "max_characters": 4096}
    rng = np.random.default_rng(0)
    for count in TEXT_WORDS:
        text = " ".join(words[i] for i in rng.integers(0, WORDS, count))
        found.append(
            {"name": f"tokenize {count}", "steps": [op], "dtype": "text", "shape": []}
            | {"text": text, "files": [TOKENIZER]}
        )
    return found


def tokenizer() -> bytes:
    """A WordPiece tokenizer of made-up words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = special + letters + [f"##{c}" for c in letters] + _words()
    made = {
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "special": True,
                "normalized": False,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
            }
            for i, token in enumerate(special)
        ],
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }
    return json.dumps(made).encode()


def write_call(path: Path) -> None:
    """A bundle for images of 8×8 whose network does next to nothing."""
    start = Value(INPUT, (1, 1, 8, 8))
    graph = Graph(start)
    answer = graph.gemm(graph.mean(start), 10)
    model = graph.model(answer).SerializeToString(deterministic=True)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    bias = np.resize(graph.constants["c2"], (1, 10))
    files = {
        "model.onnx": model,
        "golden_inputs.npy": arrays.encode(images),
        "golden_outputs.npy": arrays.encode(bias.astype(np.float32)),
    }
    manifest = contract.Manifest(
        format_version=contract.FORMAT_VERSION,
        name="call",
        version=1,
        task="image-classification",
        backend=contract.Backend("onnx"),
        model="model.onnx",
        files=tuple(
            contract.File(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        ),
        sample=contract.Sample("image", "uint8", (8, 8, 1)),
        inputs=(contract.Tensor(INPUT, "float32", (1, 1, 8, 8)),),
        outputs=(contract.Tensor(OUTPUT, "float32", (1, 10)),),
        preprocess=(
            {"op": "normalize", "scale": 1 / 255, "mean": [0.0], "std": [1.0]},
            {"op": "channels_first"},
        ),
        postprocess=({"op": "softmax"},),
        labels=tuple(map(str, range(10))),
        golden=contract.Golden("golden_inputs.npy", "golden_outputs.npy", 1, 1e-3),
        precision="float32",
        budget=contract.Budget(),
        board=contract.Board("none"),
        predicted=contract.Predicted("unknown"),
        accuracy=contract.Accuracy("accuracy", 0.0, None, 1),
        provenance={},
    )
    bundle.write(path, manifest, files)


@functools.cache
def _words() -> list[str]:
    rng = np.random.default_rng(1)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["".join(rng.choice(letters, rng.integers(3, 10)))] = None
    return list(found)
