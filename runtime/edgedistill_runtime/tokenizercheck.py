"""What a tokenizer.json may hold, checked before `tokenizers` sees a byte of it.

Standard library only.  A closed list of models, components and keys: whatever is not on it is
refused by name.  Regular expressions are not: who writes the file would choose the pattern, and an
engine that backtracks can be made to take hours for a short text.  The other limits keep a text
from growing beyond bounds, and the parser behind this one from ending the process.
Keys: those that tokenizers 0.21 to 0.23 write, and those of old files that they still read.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill_runtime.errors import BundleError, unknown
from edgedistill_runtime.manifest import no_twins

MAX_BYTES = 1 << 24
MAX_VOCABULARY = 1 << 20
MAX_ADDED_TOKENS = 10_000
MAX_CHARACTERS = 256  # of a token, pattern or word: a search for the longest takes their square
MAX_COMPONENTS, MAX_DEPTH = 16, 4
MAX_REPLACEMENT = 64  # bytes that a character may become in a table of replacements
SPACES = {"Regex": " {2,}"}
"""The one regular expression that is let through: every converted SentencePiece model has it."""

_SECTIONS = "version truncation padding added_tokens"
_ADDED_TOKEN = "id content single_word lstrip rstrip normalized special"
_BYTE_LEVEL = "add_prefix_space trim_offsets use_regex"  # its expression is not in the file
_METASPACE = "replacement add_prefix_space prepend_scheme split str_rep"
_MODELS = {
    "WordPiece": "vocab unk_token continuing_subword_prefix max_input_chars_per_word",
    "BPE": "vocab merges dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk "
    "byte_fallback ignore_merges",
    "Unigram": "vocab unk_id byte_fallback",
}
# section -> the key of its sequences; its components with their keys
_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "normalizer": (
        "normalizers",
        {
            "BertNormalizer": "clean_text handle_chinese_chars strip_accents lowercase",
            "Precompiled": "precompiled_charsmap",
            "Prepend": "prepend",
            "Replace": "pattern content",
            "Strip": "strip_left strip_right",
            **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"), ""),
        },
    ),
    "pre_tokenizer": (
        "pretokenizers",
        {
            "ByteLevel": _BYTE_LEVEL,
            "Digits": "individual_digits",
            "Metaspace": _METASPACE,
            "Punctuation": "behavior",
            "Split": "pattern behavior invert",
            **dict.fromkeys(("BertPreTokenizer", "Whitespace", "WhitespaceSplit"), ""),
        },
    ),
    "post_processor": (
        "processors",
        {
            "BertProcessing": "sep cls",
            "ByteLevel": _BYTE_LEVEL,
            "RobertaProcessing": "sep cls trim_offsets add_prefix_space",
            "TemplateProcessing": "single pair special_tokens",
        },
    ),
    "decoder": (  # nothing is decoded on a board, but it is parsed
        "decoders",
        {
            "BPEDecoder": "suffix",
            "ByteLevel": _BYTE_LEVEL,
            "Metaspace": _METASPACE,
            "Replace": "pattern content",
            "Strip": "content start stop",
            "WordPiece": "prefix cleanup",
            **dict.fromkeys(("ByteFallback", "Fuse"), ""),
        },
    ),
}
_ONCE = frozenset(("ByteLevel", "Metaspace", "Precompiled", "Prepend"))  # each makes a text longer


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer.json says of its ids, which are 0 to size − 1."""

    size: int
    pad_id: int
    unknown_id: int
    special: tuple[str, ...]
    """Texts that are a token of their own wherever they stand."""
    lower_case: bool
    """Whether the normalizer makes nothing but lower case of printable ASCII."""


def check_tokenizer(data: bytes) -> Vocabulary:
    """Raises BundleError, which names what a tokenizer in a bundle must not hold."""
    if len(data) > MAX_BYTES:
        raise BundleError(f"the tokenizer has {len(data)} bytes; at most {MAX_BYTES}")
    try:
        table = json.loads(data.decode(), object_pairs_hook=no_twins)
        return _check(table)
    except json.JSONDecodeError as error:
        raise BundleError(f"the tokenizer is not valid JSON ({error})") from error
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise BundleError(f"the tokenizer is not in the form of one ({error})") from error


def _check(table: dict[str, Any]) -> Vocabulary:
    _only(table, "tokenizer", f"{_SECTIONS} {' '.join(_PARTS)} model")
    model = table["model"]
    ids = _vocabulary(model)
    unknown_id = _unknown_id(model, ids)
    _add_tokens(table.get("added_tokens") or (), ids)
    for part, (_, known) in _PARTS.items():
        components = list(_components(part, table.get(part)))
        kinds = [component["type"] for component in components]
        if len(kinds) > MAX_COMPONENTS:
            raise BundleError(f"the tokenizer's {part} has over {MAX_COMPONENTS} components")
        for kind, component in zip(kinds, components, strict=True):
            if kind not in known:
                raise BundleError(unknown(f"{part} in bundles", str(kind)[:64], known))
            _only(component, kind, f"type {known[kind]}")
            if kind in _ONCE and kinds.count(kind) > 1:
                raise BundleError(f"the tokenizer's {part} has {kind} twice")
            _check_component(component, len(ids))
    padding = table.get("padding") or {}
    pads = (padding.get("pad_token"), "[PAD]", "<pad>")
    pad_id = next((ids[token] for token in pads if token in ids), 0)
    special = tuple(token["content"] for token in table.get("added_tokens") or ())
    normalizer = table.get("normalizer") or {}
    lower_case = normalizer.get("type") == "BertNormalizer" and normalizer.get("lowercase") is True
    return Vocabulary(len(ids), pad_id, unknown_id, special, lower_case)


def _only(table: Mapping[str, Any], what: str, known: str) -> None:
    for key in table:
        if key not in known.split():
            raise BundleError(f"the tokenizer has {what}.{key[:64]}, which bundles may not hold")


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """The model's ids by token, after a check of the model."""
    kind = model["type"]
    if kind not in _MODELS:
        raise BundleError(unknown("tokenizer model in bundles", str(kind)[:64], _MODELS))
    _only(model, kind, f"type {_MODELS[kind]}")
    _check_options(model)
    vocabulary = model["vocab"]
    if len(vocabulary) > MAX_VOCABULARY:
        raise BundleError(f"the tokenizer has over {MAX_VOCABULARY} tokens")
    if kind == "Unigram":
        ids = {token: i for i, (token, _) in enumerate(vocabulary)}
        dense = len(ids) == len(vocabulary)
    else:
        ids = dict(vocabulary)
        dense = sorted(ids.values()) == list(range(len(ids)))
    if not dense or not ids:
        raise BundleError("the tokenizer's ids are not 0, 1, 2 and so on, each of one token")
    if not 1 <= min(map(len, ids)) <= max(map(len, ids)) <= MAX_CHARACTERS:
        raise BundleError(f"the tokenizer has a token of 0 or over {MAX_CHARACTERS} characters")
    if kind == "BPE":
        _check_merges(model, ids)
    return ids


def _check_options(model: dict[str, Any]) -> None:
    if model.get("dropout"):
        raise BundleError("the tokenizer has dropout: it would answer by chance")
    if not 1 <= model.get("max_input_chars_per_word", 1) <= MAX_CHARACTERS:
        raise BundleError(f"the tokenizer's max_input_chars_per_word is not 1 to {MAX_CHARACTERS}")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(model.get(affix) or "") > MAX_CHARACTERS:
            raise BundleError(f"the tokenizer's {affix} has over {MAX_CHARACTERS} characters")


def _check_merges(model: dict[str, Any], ids: Mapping[str, int]) -> None:
    """Merges of tokens that are there to one that is: the parser cuts texts without looking."""
    merges, prefix = model["merges"], model.get("continuing_subword_prefix") or ""
    if len(merges) > MAX_VOCABULARY:
        raise BundleError(f"the tokenizer has over {MAX_VOCABULARY} merges")
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        merged = first + second.removeprefix(prefix)
        if not second.startswith(prefix) or not ids.keys() >= {first, second, merged}:
            raise BundleError("the tokenizer merges tokens that it does not have")


def _unknown_id(model: dict[str, Any], ids: Mapping[str, int]) -> int:
    """The id of a text without tokens.  A model without one could not answer for every text."""
    if model["type"] == "Unigram":
        found = model.get("unk_id")
        if type(found) is int and 0 <= found < len(ids):
            return found
    else:
        token = model.get("unk_token")
        if token is None and model["type"] == "BPE":
            return 0
        if isinstance(token, str) and token in ids:
            return ids[token]
    raise BundleError("the tokenizer's unknown token is not in its vocabulary")


def _add_tokens(added: Sequence[dict[str, Any]], ids: dict[str, int]) -> None:
    """Put the added tokens into `ids`; those that are not there already continue the count."""
    if len(added) > MAX_ADDED_TOKENS:
        raise BundleError(f"the tokenizer has over {MAX_ADDED_TOKENS} added tokens")
    for token in added:
        _only(token, "added_tokens", _ADDED_TOKEN)
        content = token["content"]
        if not 1 <= len(content) <= MAX_CHARACTERS:
            raise BundleError(f"the tokenizer has a token of 0 or over {MAX_CHARACTERS} characters")
        if token["id"] != ids.setdefault(content, len(ids)):
            raise BundleError("the tokenizer's ids are not 0, 1, 2 and so on, each of one token")


def _components(
    part: str, value: dict[str, Any] | None, depth: int = MAX_DEPTH
) -> Iterator[dict[str, Any]]:
    """A section's components, those of its sequences one after another."""
    if value is None:
        return
    key = _PARTS[part][0]
    if value["type"] != "Sequence":
        yield value
        return
    _only(value, "Sequence", f"type {key}")
    if not depth:
        raise BundleError(f"the tokenizer's {part} is nested more than {MAX_DEPTH} deep")
    for item in value[key]:
        yield from _components(part, item, depth - 1)


def _check_component(component: dict[str, Any], size: int) -> None:
    kind = component["type"]
    if kind in ("Replace", "Split"):
        _check_pattern(component)
    elif kind == "Prepend" and len(component["prepend"]) > MAX_CHARACTERS:
        raise BundleError(f"the tokenizer prepends over {MAX_CHARACTERS} characters")
    elif kind == "Precompiled":
        _check_replacements(component["precompiled_charsmap"])
    elif kind == "TemplateProcessing":
        _check_template(component, size)
    elif kind in ("BertProcessing", "RobertaProcessing"):
        _check_special([component["sep"][1], component["cls"][1]], size)


def _check_pattern(component: dict[str, Any]) -> None:
    """A plain text; what replaces it is not longer, so that no number of them is a bomb."""
    pattern = component["pattern"]
    if pattern == SPACES:
        text = "  "
    elif set(pattern) == {"String"}:
        text = pattern["String"]
    else:
        raise BundleError(
            f"the tokenizer's {component['type']} has a regular expression, which bundles may not "
            "hold"
        )
    if not 1 <= len(text) <= MAX_CHARACTERS or len(component.get("content", "")) > len(text):
        raise BundleError(
            f"the tokenizer's {component['type']} has a pattern of 0 or over {MAX_CHARACTERS} "
            "characters, or replaces it with more"
        )


def _check_template(template: dict[str, Any], size: int) -> None:
    """A text stands once among special tokens, all of which are defined: else the parser dies."""
    texts = 0
    for piece in template["single"]:
        [(what, value)] = piece.items()
        if what == "Sequence" and value["id"] == "A":
            texts += 1
        elif what != "SpecialToken" or value["id"] not in template["special_tokens"]:
            raise BundleError("the tokenizer's template has a piece that is nowhere defined")
    if texts != 1:
        raise BundleError(f"the tokenizer's template has the text {texts} times, not once")
    for token in template["special_tokens"].values():
        _check_special(token["ids"], size)


def _check_special(ids: list[int], size: int) -> None:
    if not all(type(i) is int and 0 <= i < size for i in ids):
        raise BundleError(f"the tokenizer adds an id that is not 0 to {size - 1}")


def _check_replacements(text: str) -> None:
    """A table of SentencePiece: a double-array trie by bytes, and the texts that its leaves name.

    Every place that a walk through the trie can reach must exist, because nothing looks again:
    offsets, units and labels as in darts-clone, https://github.com/s-yata/darts-clone.
    """
    data = base64.b64decode(text, validate=True)
    count = int.from_bytes(data[:4], "little") // 4
    packed, texts = data[4 : 4 + 4 * count], data[4 + 4 * count :]
    texts.decode()
    sound = len(packed) == 4 * count > 0 and max(map(len, texts.split(b"\0"))) <= MAX_REPLACEMENT
    units = struct.unpack(f"<{count}I", packed) if sound else ()
    for i, unit in enumerate(units):
        if unit >> 31:  # a leaf: where its text begins
            at = unit & 0x7FFFFFFF
            good = at == len(texts) or (at < len(texts) and texts[at] & 0xC0 != 0x80)
        else:
            base = i ^ (unit >> 10) << ((unit & 0x200) >> 6)
            good = base | 0xFF < count and (not unit & 0x100 or bool(units[base] >> 31))
        sound = sound and good
    if not sound:
        raise BundleError("the tokenizer's table of replacements (Precompiled) is damaged")
