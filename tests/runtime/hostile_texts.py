"""Bundles of texts that no runtime may load, as those of images in `hostile.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.runtime import onnx_bytes as ox
from tests.runtime.runtime_support import MISSING, Parts
from tests.runtime.text_support import (
    BPE,
    TOKENIZER,
    UNIGRAM,
    as_json,
    bare,
    changed,
    piece,
    special,
    template,
)
from tests.runtime.zip_bytes import zip_bytes

Files = Iterator[tuple[str, bytes]]
SEED = 29


def _with(parts: Parts, tokenizer: Any) -> bytes:
    """Any finite output would do, so that it is not the golden outputs that refuse the file."""
    data = tokenizer if isinstance(tokenizer, bytes) else as_json(tokenizer)
    altered = parts.changed(manifest={"golden.atol": 1e9}, files={"tokenizer.json": data})
    return zip_bytes(altered.entries())


EXPRESSIONS = [
    *("(a+)+$", "(a|a)*b", "(.*)*x", "(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "a{1,99999}"),
    *("(?R)", "((((((((((a*)*)*)*)*)*)*)*)*)*)*", "[", "(", "\\", "a" * 100_000, ".", "", " {2,} "),
]


def expressions(parts: Parts) -> Files:
    """Regular expressions in every place that could hold one."""
    for text in EXPRESSIONS:
        pattern = {"Regex": text}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        replace = {"type": "Replace", "pattern": pattern, "content": ""}
        yield f"normalizer {text[:20]}", _with(parts, changed(normalizer=replace))
        yield f"decoder {text[:20]}", _with(parts, changed(decoder=replace))
        yield f"pre-tokenizer {text[:20]}", _with(parts, changed(pre_tokenizer=split))
        for section, key, item in (
            ("normalizer", "normalizers", replace),
            ("pre_tokenizer", "pretokenizers", split),
            ("decoder", "decoders", replace),
        ):
            sequence = {"type": "Sequence", key: [item]}
            nested = {"type": "Sequence", key: [sequence]}
            yield f"in {section} {text[:20]}", _with(parts, changed(**{section: sequence}))
            yield f"deep in {section} {text[:20]}", _with(parts, changed(**{section: nested}))
        both = {"Regex": text, "String": "a"}
        yield f"both {text[:20]}", _with(parts, changed(normalizer={**replace, "pattern": both}))


UNKNOWN = [
    *("", "bert", "Lua", "CTC", "ByteFallback", "WordLevel", "UnicodeScripts", "FixedLength"),
    *("CharDelimiterSplit", "Sequence", "Replace ", "replace", "Template", "\0", "x" * 5000),
]


def unknown_components(parts: Parts) -> Files:
    for section in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for kind in (*UNKNOWN, None, 5, [], {}):
            if (section, kind) != ("decoder", "ByteFallback"):
                yield (
                    f"{section} {str(kind)[:20]}",
                    _with(parts, changed(**{section: {"type": kind}})),
                )
        for value in ("Lowercase", 5, [], {}, [{"type": "Lowercase"}], True):
            yield f"{section} = {value}", _with(parts, changed(**{section: value}))
    for kind in UNKNOWN:
        yield f"model {kind[:20]}", _with(parts, changed(model__type=kind))
    for key in ("x", "Version", "normaliser", "model ", ""):
        yield f"a section {key!r}", _with(parts, {**TOKENIZER, key: None})
        yield f"a key {key!r} of the model", _with(parts, changed(**{f"model__{key}": 1}))
        yield f"a key {key!r} of a part", _with(parts, changed(**{f"normalizer__{key}": 1}))


def vocabularies(parts: Parts) -> Files:
    """Ids that are missing, twice, not numbers or too many."""
    good = TOKENIZER["model"]["vocab"]
    for what, vocabulary in {
        "none": {},
        "a gap": {**good, "x": 21},
        "an id twice": {**good, "x": 0},
        "a negative id": {**good, "x": -1},
        "a huge id": {**good, "x": 1 << 62},
        "a larger id": {**good, "x": 1 << 80},
        "a fraction": {**good, "x": 20.5},
        "a text": {**good, "x": "20"},
        "no number": {**good, "x": None},
        "a list": {**good, "x": [20]},
        "an empty token": {**good, "": 20},
        "a long token": {**good, "x" * 100_000: 20},
        "a list of tokens": list(good),
        "one more than the table": {**good, "x": 20},
        "hundreds of thousands": {**good, **{f"{i:x}": i for i in range(20, 300_000)}},
    }.items():
        yield what, _with(parts, changed(model__vocab=vocabulary))
    twice = as_json(TOKENIZER).replace(b'"bad": 5', b'"good": 5')
    yield "a token twice", _with(parts, twice)
    for what, pieces in {
        "not pairs": ["a", "b"],
        "a piece twice": [["a", 0.0], ["a", 0.0]],
        "no scores": [["a", None]],
        "three": [["a", 0.0, 1]],
        "an object": {"a": 0},
    }.items():
        yield f"pieces: {what}", _with(parts, bare({**UNIGRAM, "vocab": pieces}))
    for unknown in (None, -1, 5, 1 << 70, "0", 0.5, True, []):
        yield f"unknown {unknown}", _with(parts, bare({**UNIGRAM, "unk_id": unknown}))
    for merges in (
        *([["a", "c"]], [["a"]], [[]], ["ab"], ["a b c"], [["a", 5]], [None], 5, {}, "ab"),
        [["a", "b"]] * 1_100_000,
    ):
        yield f"merges {str(merges)[:30]}", _with(parts, bare({**BPE, "merges": merges}))
    for prefix in ("#", "b", "bb", "é", "x" * 1000, 5):
        model = {**BPE, "continuing_subword_prefix": prefix, "merges": [["a", "ab"]]}
        yield f"prefix {str(prefix)[:20]}", _with(parts, bare(model))
    for count in (10_001, 100_000):
        yield f"{count} added", _with(parts, changed(added_tokens=[special("[PAD]")] * count))


def special_tokens(parts: Parts) -> Files:
    """Post-processors that add what is not there, or the text never or often."""
    text, start = piece("A", "Sequence"), piece("[CLS]")
    for single in (
        *([], [start], [text, text], [text] * 1000, [piece("B", "Sequence")], [piece("x"), text]),
        *([{}], [None], ["$A"], [{"Sequence": {}}], [{**text, **start}], [text, {"X": {}}], 5, {}),
        [text, *[start] * 100_000],
    ):
        table = {**template(), "single": single}
        yield f"{str(single)[:60]}", _with(parts, changed(post_processor=table))
    for ids in ([20], [-1], [1 << 40], ["2"], [2.5], [None], None, 5, [2] * 100_000):
        tokens = {"[CLS]": {"id": "[CLS]", "ids": ids, "tokens": ["[CLS]"]}}
        table = {**template([start, text]), "special_tokens": tokens}
        yield f"ids {str(ids)[:20]}", _with(parts, changed(post_processor=table))
    for kind in ("BertProcessing", "RobertaProcessing"):
        for value in (["x", 20], ["x", -1], ["x", "2"], ["x"], [], None, 5, "x2", ["x", 1 << 40]):
            table = {"type": kind, "sep": value, "cls": ["[CLS]", 2]}
            yield f"{kind} {value}", _with(parts, changed(post_processor=table))


def growing_texts(parts: Parts) -> Files:
    """Steps that would make a text long."""
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    prepend = {"type": "Prepend", "prepend": "a"}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    for count in (1, 2, 16, 17, 10_000):
        many = {"type": "Sequence", "normalizers": [double] * count}
        yield f"doubled {count} times", _with(parts, changed(normalizer=many))
    for section, key, item in (
        ("normalizer", "normalizers", prepend),
        ("pre_tokenizer", "pretokenizers", level),
        ("pre_tokenizer", "pretokenizers", space),
    ):
        for count in (2, 17, 10_000):
            many = {"type": "Sequence", key: [item] * count}
            yield f"{item['type']} {count} times", _with(parts, changed(**{section: many}))
    lower = {"type": "Lowercase"}
    for count in (17, 100_000):
        many = {"type": "Sequence", "normalizers": [lower] * count}
        yield f"{count} components", _with(parts, changed(normalizer=many))
    for depth in (5, 50, 130, 300, 100_000):
        start, end = b'{"type": "Sequence", "normalizers": [', b"]}"
        inside = start * depth + as_json(lower) + end * depth
        data = as_json(changed(normalizer="here")).replace(b'"here"', inside)
        yield f"{depth} deep", _with(parts, data)
    for size in (257, 1_000_000):
        yield (
            f"prepends {size}",
            _with(parts, changed(normalizer={**prepend, "prepend": "a" * size})),
        )
        table = {**double, "content": "b" * size}
        yield f"content of {size}", _with(parts, changed(normalizer=table))
        yield (
            f"prefix of {size}",
            _with(parts, changed(model__continuing_subword_prefix="#" * size)),
        )
        yield f"words of {size}", _with(parts, changed(model__max_input_chars_per_word=size))


def broken_json(parts: Parts) -> Files:
    good = as_json(TOKENIZER)
    rng = random.Random(SEED)
    for i in range(0, len(good), 5):
        yield f"{i} bytes", _with(parts, good[:i])
    for i in range(60):
        yield f"noise {i}", _with(parts, rng.randbytes(rng.randrange(500)))
    texts = [
        *(b"", b" ", b"null", b"[]", b"{}", b"1", b'"x"', b"[" * 400_000, b'{"a":' * 100_000),
        *(good + good, b"\xef\xbb\xbf" + good, good + b"\0", b"//\n" + good),
        *(good[:-1] + b',"x":' + n + b"}" for n in (b"1", b"NaN", b"9" * 5000, b"1e999")),
        *(good[:-1] + b',"version":"1.0"}', good.replace(b'"1.0"', b"1.0")),
        *(good.replace(b'"1.0"', b'"0.9"'), good.replace(b'"id": 0', b'"id": NaN')),
        *(good.decode().encode(code) for code in ("utf-16", "utf-32")),
        good + b" " * (1 << 24),
    ]
    for i, text in enumerate(texts):
        yield f"text {i}", _with(parts, text)


def changed_values(parts: Parts) -> Files:
    """Every value of the file, replaced by one of every other type."""
    values: list[Any] = [None, True, -1, 0.5, "x", [], {}, [[]], "y" * 5000, 1 << 62]
    kept = _kept()
    for path, old in _places(TOKENIZER):
        for value in values:
            if type(value) is not type(old) and path not in kept:
                yield f"{path} = {str(value)[:20]}", _with(parts, changed(**{path: value}))
        if path not in kept:
            yield f"without {path}", _with(parts, changed(**{path: MISSING}))


def _kept() -> set[str]:
    """What may be left out, or has a default, or is never looked at; and what stands in a list."""
    free = {"truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "decoder"}
    free |= {"post_processor", "padding__pad_token", "padding__pad_to_multiple_of"}
    free |= {f"truncation__{key}" for key in TOKENIZER["truncation"]}
    free |= {f"padding__{key}" for key in TOKENIZER["padding"]}
    free |= {f"normalizer__{key}" for key in TOKENIZER["normalizer"] if key != "type"}
    return free | {"decoder__prefix", "decoder__cleanup", "post_processor__pair", "version"}


def _places(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key in ("vocab", "special_tokens"):
            continue
        yield path + key, value
        if isinstance(value, dict):
            yield from _places(value, f"{path}{key}__")


def models(parts: Parts) -> Files:
    """Graphs that only a length of the text, or its ids, makes bad."""
    ids = [ox.value("ids", (1, "tokens"), ox.INT64)]
    logits = [ox.value("logits", (1, 3))]
    table, weight = ox.floats("table", (20, 3), [0.5] * 60), ox.floats("weight", (3, 3), [1.0] * 9)
    more = [ox.ints("axes", (1,), (1,)), ox.ints("zero", (1,), (0,)), ox.ints("one", (1,), (1,))]
    small = ox.floats("small", (19, 3), [0.5] * 57)
    mean = ox.node("ReduceMean", ["rows", "axes"], "logits", ox.attribute("keepdims", 0))
    gather = ox.node("Gather", ["table", "ids"], "rows")
    for what, nodes in {
        "a table too small": [ox.node("Gather", ["small", "ids"], "rows"), mean],
        "a division of lengths": [
            ox.node("Shape", ["ids"], "n"),
            ox.node("Div", ["n", "zero"], "d"),
            gather,
            mean,
        ],
        "a reshape to nothing": [
            gather,
            ox.node("Reshape", ["rows", "zero"], "logits"),
        ],
        "a range of lengths": [ox.node("Range", ["zero", "one", "one"], "r"), gather, mean],
        "an expansion": [
            ox.node("Shape", ["ids"], "n"),
            ox.node("Expand", ["table", "n"], "rows"),
            mean,
        ],
        "no numbers": [gather, ox.node("Div", ["rows", "none"], "x"), mean],
        "integers times floats": [ox.node("MatMulInteger", ["ids", "weight"], "logits")],
        "quantized integers": [ox.node("DynamicQuantizeLinear", ["ids"], ["logits", "b", "c"])],
        "two zeros": [
            gather,
            ox.node("DynamicQuantizeLinear", ["rows"], ["q", "by", "zeros"]),
            ox.node("MatMulInteger", ["q", "q", "zeros", "axes"], "logits"),
        ],
        "a slice behind the end": [
            ox.node("Shape", ["ids"], "n"),
            ox.node("Slice", ["table", "n", "n", "zero"], "logits"),
        ],
        "ids as they are": [ox.node("Cast", ["ids"], "logits", ox.attribute("to", ox.FLOAT))],
    }.items():
        data = ox.model(ox.graph(nodes, [table, small, weight, *more], ids, logits))
        altered = parts.changed(manifest={"golden.atol": 1e9}, files={"model.onnx": data})
        yield what, zip_bytes(altered.entries())


FAMILIES: dict[str, Callable[[Parts], Files]] = {
    family.__name__: family
    for family in (
        expressions,
        unknown_components,
        vocabularies,
        special_tokens,
        growing_texts,
        broken_json,
        changed_values,
        models,
    )
}
assert json.loads(as_json(TOKENIZER)) == TOKENIZER
