"""A small bundle of texts, made without a tokenizer library, and its parts to be changed."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import MISSING, SEED, listed

from edgedistill_runtime import arrays, texts
from edgedistill_runtime import manifest as contract
from edgedistill_runtime.backends.onnx import open_session
from edgedistill_runtime.tokenize import TextEncoder

TOKENS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "a", "the", "day", "film", "was", "it"),
    *("!", ".", ",", "##s", "##ly", "##ness", "not", "very"),
)
IDS = {token: i for i, token in enumerate(TOKENS)}
MOODS = ("negative", "neutral", "positive")
GOLDEN = ("Good day!", "the film was not very good, it was bad.", "", "čudno", "badly  goodness")
DIM, MAX_LENGTH, MAX_CHARACTERS = 4, 8, 200
STEP = {
    "op": "tokenize",
    "file": "tokenizer.json",
    "max_length": MAX_LENGTH,
    "max_characters": MAX_CHARACTERS,
}


def special(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": IDS[token], "content": token, "special": True, **flags}


def piece(token: str, of: str = "SpecialToken") -> dict[str, Any]:
    return {of: {"id": token, "type_id": 0}}


def template(single: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A post-processor: [CLS] text [SEP]."""
    both = {t: {"id": t, "ids": [IDS[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")}
    usual = [piece("[CLS]"), piece("A", "Sequence"), piece("[SEP]")]
    return {
        "type": "TemplateProcessing",
        "single": usual if single is None else list(single),
        "pair": [piece("A", "Sequence"), piece("B", "Sequence")],
        "special_tokens": both,
    }


TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
    "added_tokens": [special(token) for token in TOKENS[:4]],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": template(),
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": IDS,
    },
}
"""A tokenizer.json as trainers write it.  Its own padding and truncation count for nothing."""

BPE: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "[UNK]",
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": {t: i for i, t in enumerate(("[UNK]", "a", "b", "c", "ab", "abc"))},
    "merges": [["a", "b"], ["ab", "c"]],
}
UNIGRAM: dict[str, Any] = {
    "type": "Unigram",
    "unk_id": 0,
    "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5], ["▁", -3.0]],
    "byte_fallback": False,
}


def changed(table: Mapping[str, Any] = TOKENIZER, **changes: Any) -> dict[str, Any]:
    """A tokenizer with other values, by path with two underscores for a dot."""
    result: dict[str, Any] = copy.deepcopy(dict(table))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = result
        for key in parents:
            place = place[key]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value
    return result


def bare(model: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """A tokenizer of a model and the sections that are given."""
    parts = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], **parts, **sections, "model": dict(model)}


def as_json(table: Any) -> bytes:
    return json.dumps(table, ensure_ascii=False).encode()


def encoder(
    table: Any = TOKENIZER, max_length: int = MAX_LENGTH, max_characters: int = MAX_CHARACTERS
) -> TextEncoder:
    data = table if isinstance(table, bytes) else as_json(table)
    return TextEncoder.build(data, max_length, max_characters)


# --- models from ids to three logits

_RNG = np.random.default_rng(SEED)
TABLE = _RNG.normal(0, 1, (len(TOKENS), DIM)).astype(np.float32)
WEIGHT = _RNG.normal(0, 1, (DIM, 3)).astype(np.float32)
ANY_LENGTH = [ox.value("ids", (1, "tokens"), ox.INT64)]
LOGITS = [ox.value("logits", (1, 3))]
AXES = ox.ints("axes", (1,), (1,))
POOL = ox.node("ReduceMean", ["vectors", "axes"], "mean", ox.attribute("keepdims", 0))


def floats(name: str, array: np.ndarray[Any, Any]) -> bytes:
    return ox.tensor(name, array.shape, ox.FLOAT, array.astype("<f4").tobytes())


def text_model(rows: int = len(TOKENS)) -> bytes:
    """The mean of the tokens' vectors, times a matrix."""
    nodes = [
        ox.node("Gather", ["table", "ids"], "vectors"),
        POOL,
        ox.node("MatMul", ["mean", "weight"], "logits"),
    ]
    constants = [floats("table", TABLE[:rows]), floats("weight", WEIGHT), AXES]
    return ox.model(ox.graph(nodes, constants, ANY_LENGTH, LOGITS))


def text_model_int8() -> bytes:
    """The same as dynamic quantization writes it: int8 weights, and activations as they come."""
    scale = float(np.abs(TABLE).max()) / 127
    scales = np.abs(WEIGHT).max(0) / 127
    table, weight = np.round(TABLE / scale), np.round(WEIGHT / scales)
    nodes = [
        ox.node("Gather", ["table", "ids"], "rows"),
        ox.node("DequantizeLinear", ["rows", "scale", "zero"], "vectors"),
        POOL,
        ox.node("DynamicQuantizeLinear", ["mean"], ["whole", "by", "least"]),
        ox.node("MatMulInteger", ["whole", "weight", "least", "zeros"], "sums"),
        ox.node("Cast", ["sums"], "products", ox.attribute("to", ox.FLOAT)),
        ox.node("Mul", ["by", "scales"], "both"),
        ox.node("Mul", ["products", "both"], "logits"),
    ]
    constants = [
        ox.tensor("table", table.shape, ox.INT8, table.astype(np.int8).tobytes()),
        ox.floats("scale", (), [scale]),
        ox.tensor("zero", (), ox.INT8, b"\0"),
        ox.tensor("weight", weight.shape, ox.INT8, weight.astype(np.int8).tobytes()),
        ox.tensor("zeros", (3,), ox.INT8, bytes(3)),
        ox.tensor("scales", (3,), ox.FLOAT, struct.pack("<3f", *scales)),
        AXES,
    ]
    return ox.model(ox.graph(nodes, constants, ANY_LENGTH, LOGITS))


def text_model_positions() -> bytes:
    """With vectors of the first tokens' places, as many as there are tokens."""
    nodes = [
        ox.node("Gather", ["table", "ids"], "words"),
        ox.node("Shape", ["ids"], "sizes"),
        ox.node("Gather", ["sizes", "one"], "tokens"),
        ox.node("Slice", ["places", "zero", "tokens", "zero"], "here"),
        ox.node("Add", ["words", "here"], "vectors"),
        POOL,
        ox.node("MatMul", ["mean", "weight"], "logits"),
    ]
    constants = [
        *(floats("table", TABLE), floats("weight", WEIGHT), floats("places", TABLE[:MAX_LENGTH])),
        *(AXES, ox.ints("zero", (1,), (0,)), ox.ints("one", (1,), (1,))),
    ]
    return ox.model(ox.graph(nodes, constants, ANY_LENGTH, LOGITS))


MODELS = {"float32": text_model, "int8": text_model_int8, "positions": text_model_positions}


def text_answers(model: bytes, samples: Sequence[str] = GOLDEN) -> np.ndarray[Any, Any]:
    """What the model says to texts.  -> (n, 3)"""
    session = open_session(model, contract.Backend("onnx"))
    rows = encoder().encode_batch(samples)
    return np.concatenate([session.run({"ids": ids[None]})[0] for ids in rows])


def text_manifest(model: str = "float32") -> tuple[contract.Manifest, dict[str, bytes]]:
    """Manifest and files of a good bundle of texts."""
    data, backend = MODELS[model](), contract.Backend("onnx")
    session = open_session(data, backend)
    files = {
        "model.onnx": data,
        "tokenizer.json": as_json(TOKENIZER),
        "golden_inputs.json": texts.encode(GOLDEN),
        "golden_outputs.npy": arrays.encode(text_answers(data)),
    }
    return (
        contract.Manifest(
            format_version=contract.FORMAT_VERSION,
            name="moods",
            version=1,
            task="text-classification",
            backend=backend,
            model="model.onnx",
            files=listed(files),
            sample=contract.Sample("text", "text", ()),
            inputs=session.inputs,
            outputs=session.outputs,
            preprocess=(STEP,),
            postprocess=({"op": "softmax"},),
            labels=MOODS,
            golden=contract.Golden("golden_inputs.json", "golden_outputs.npy", len(GOLDEN), 1e-2),
            precision="int8" if model == "int8" else "float32",
            budget=contract.Budget(latency_ms=1000.0, peak_ram_mib=4096.0, size_mib=1.0),
            board=contract.Board("rpi4", ("Raspberry Pi 4",), "onnxruntime", "1.27.0"),
            predicted=contract.Predicted("estimated", contract.Latency(0.1, 0.2), 60.0),
            accuracy=contract.Accuracy(
                "f1_macro", 0.7, 0.72, 1000, contract.Control(0.02, 0.01, 0.03, 3)
            ),
            provenance={"seed": SEED},
        ),
        files,
    )
