"""A tokenizer with only the entries that a task needs, as `tokenizer.json`.

Most of a small text model is its embedding table.  `trim` keeps the entries of a teacher's
tokenizer that the task's texts use most, so that every row still has a teacher's vector; a text
whose entries all stay is split exactly as before.  `train` makes a tokenizer where no teacher has
one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import DataError

KINDS = ("WordPiece", "BPE", "Unigram")
PAD, UNKNOWN, PREFIX = "[PAD]", "[UNK]", "##"
SPECIAL = (PAD, UNKNOWN)
TEXTS_AT_ONCE = 4096
ALPHABET = 500
"""Most different characters of a trained vocabulary."""

PLAIN: dict[str, None] = {"truncation": None, "padding": None, "decoder": None}
"""Sections that no board needs: texts are cut by the encoder, never padded, never decoded."""


def trim(tokenizer_json: bytes, texts: Sequence[str], size: int) -> tuple[bytes, NDArray[np.int64]]:
    """The tokenizer with `size` entries, and the old id of each new one.

    First the special tokens that it puts around a text, padding and the unknown token; then every
    character of what the texts use; then what they use most; what they do not use only if `size`
    is larger than `available` says.  Raises DataError.
    """
    tokenizer = _Tokenizer.read(tokenizer_json)
    kept = _Kept(tokenizer, size)
    for token in (*tokenizer.ranked(texts), *tokenizer.rest()):
        kept.add(token)
    if not kept.tokens.issuperset(tokenizer.special):
        raise DataError(
            f"a vocabulary of {size:,} has no room for the tokenizer's special tokens "
            f"({', '.join(tokenizer.special)}); ask for a larger one"
        )
    if len(kept.tokens) < size:
        raise DataError(
            f"the teacher's tokenizer has {len(kept.tokens):,} entries that can be kept, and the "
            f"student has {size:,}; give spec = {{vocabulary = …}} if the family has a smaller "
            "one, or choose a teacher with a larger tokenizer"
        )
    own = tokenizer.own()  # what was added to the model is numbered after it
    tokens = sorted(kept.tokens, key=lambda token: (token not in own, tokenizer.ids[token]))
    return tokenizer.only(tokens), np.array([tokenizer.ids[t] for t in tokens], np.int64)


def available(tokenizer_json: bytes | None, texts: Sequence[str]) -> int:
    """How many entries the texts use: a larger vocabulary has rows that nothing trains.

    None: of a tokenizer that is trained on the texts.
    """
    if tokenizer_json is None:
        size: int = _trained(texts, 1 << 20).get_vocab_size()
        return size
    tokenizer = _Tokenizer.read(tokenizer_json)
    kept = _Kept(tokenizer, len(tokenizer.ids))
    for token in tokenizer.ranked(texts):
        kept.add(token)
    return len(kept.tokens)


def train(texts: Sequence[str], size: int) -> bytes:
    """A WordPiece tokenizer in lower case with `size` entries, made from the texts.

    Texts that do not have so many are filled up with entries that no text uses.
    """
    document = json.loads(_trained(texts, size).to_str())
    vocabulary: dict[str, int] = document["model"]["vocab"]
    for i in range(size - len(vocabulary)):
        vocabulary[f"[unused{i}]"] = len(vocabulary)
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] in SPECIAL]
    return _dump(document | PLAIN)


def _trained(texts: Sequence[str], size: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    everywhere: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            everywhere.update(word)
            inside.update(word[1:])
    most = min(ALPHABET, size // 3)
    alphabet = sorted(everywhere, key=lambda character: (-everywhere[character], character))[:most]
    # the trainer numbers the characters inside words by chance, and breaks ties by number; told
    # that they are special it takes them in this order
    numbered = [PREFIX + character for character in alphabet if character in inside]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *numbered],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class _Tokenizer:
    """A `tokenizer.json` taken apart."""

    document: dict[str, Any]
    ids: dict[str, int]
    """Every entry, those added to the model included."""
    special: tuple[str, ...]
    """What must stay whatever the texts are."""

    @staticmethod
    def read(data: bytes) -> _Tokenizer:
        from tokenizers import Tokenizer

        try:
            document = json.loads(data)
            ids = Tokenizer.from_str(data.decode()).get_vocab(with_added_tokens=True)
        except Exception as error:  # tokenizers raises bare exceptions
            raise DataError(f"this is no tokenizer.json of a fast tokenizer: {error}") from error
        model = document["model"]
        if model["type"] not in KINDS:
            raise DataError(
                f"a tokenizer of the kind {model['type']!r} cannot be trimmed (known: "
                f"{', '.join(KINDS)}); choose another teacher"
            )
        if model["type"] == "BPE" and (
            model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        ):
            raise DataError(
                "a BPE tokenizer with marks inside or at the end of words cannot be trimmed; "
                "choose another teacher"
            )
        return _Tokenizer(document, ids, tuple(_special(document)))

    @property
    def model(self) -> dict[str, Any]:
        model: dict[str, Any] = self.document["model"]
        return model

    def own(self) -> set[str]:
        """The model's entries."""
        vocabulary = self.model["vocab"]
        return {t for t, _ in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)

    def ranked(self, texts: Sequence[str]) -> Iterator[str]:
        """Special entries, then the characters of what the texts use, then that, by frequency."""
        counts = self._counts(texts)
        characters: Counter[str] = Counter()
        for token, count in counts.items():
            for character in self.characters(token):
                characters[character] += count
        yield from self.special
        for counted in (characters, counts):
            yield from sorted(counted, key=lambda token: (-counted[token], self.ids[token]))

    def rest(self) -> Iterator[str]:
        """The model's entries in the order of their ids, those that stand for nothing last."""
        added = {token["content"] for token in self.document["added_tokens"]}
        unused = re.compile(r"\[unused\d+\]")
        yield from sorted(
            self.own() - added, key=lambda token: (bool(unused.fullmatch(token)), self.ids[token])
        )

    def characters(self, token: str) -> Iterator[str]:
        """The entries for single characters that the token can be put together from."""
        prefix = self.model.get("continuing_subword_prefix") or ""
        inside = bool(prefix) and token.startswith(prefix)
        for i, character in enumerate(token.removeprefix(prefix) if inside else token):
            entry = prefix + character if inside or i else character
            if entry in self.ids:
                yield entry

    def only(self, tokens: Sequence[str]) -> bytes:
        """The document with these entries alone, numbered in this order."""
        new = {token: i for i, token in enumerate(tokens)}
        added = [
            token | {"id": new[token["content"]]}
            for token in self.document["added_tokens"]
            if token["content"] in new
        ]
        changed = {
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            "model": _only_model(self.model, new),
            "post_processor": _renumbered(self.document.get("post_processor"), new),
        }
        return _dump(self.document | changed | PLAIN)

    def _counts(self, texts: Sequence[str]) -> Counter[str]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(_dump(self.document | PLAIN).decode())
        counts = np.zeros(max(self.ids.values()) + 1, np.int64)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = list(texts[start : start + TEXTS_AT_ONCE])
            for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
                np.add.at(counts, encoding.ids, 1)
        return Counter({token: int(counts[i]) for token, i in self.ids.items() if counts[i]})


class _Kept:
    """Entries that stay, up to a number of them, with what a BPE needs to put each together."""

    def __init__(self, tokenizer: _Tokenizer, size: int) -> None:
        self.tokens: set[str] = set()
        self.size = size
        model = tokenizer.model
        pairs = _pairs(model.get("merges", ())) if model["type"] == "BPE" else ()
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.never = len(self.ranks)

    def add(self, token: str) -> None:
        """Keep the token, if it and its parts still find a place."""
        if token in self.tokens:
            return
        wanted = ({token} | self._parts(token)) - self.tokens
        if len(self.tokens) + len(wanted) <= self.size:
            self.tokens |= wanted

    def _parts(self, token: str) -> set[str]:
        """What a BPE goes through on the way to the token; nothing if it is not made by merges."""
        parts = list(token)
        through = set(parts)
        while len(parts) > 1:
            ranked = [
                (self.ranks.get(pair, self.never), i) for i, pair in enumerate(pairwise(parts))
            ]
            rank, i = min(ranked)
            if rank == self.never:
                return set()
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            through.add(parts[i])
        return through


def _pairs(merges: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Merges as pairs; older files join the two by a space."""
    for merge in merges:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        yield first, second


def _special(document: dict[str, Any]) -> Iterator[str]:
    """The unknown token, padding, and what stands around a text."""
    model = document["model"]
    unknown_id = model.get("unk_id")
    if unknown_id is not None:
        yield model["vocab"][unknown_id][0]
    if model.get("unk_token"):
        yield model["unk_token"]
    padding = (document.get("padding") or {}).get("pad_token")
    added = [token["content"] for token in document["added_tokens"]]
    yield from (token for token in added if token in (padding, PAD, "<pad>"))
    yield from _around(document.get("post_processor"))


def _around(processor: dict[str, Any] | None) -> Iterator[str]:
    """The special tokens that a post-processor adds."""
    for part in (processor or {}).get("processors", [processor or {}]):
        for special in part.get("special_tokens", {}).values():
            yield from special["tokens"]
        yield from (part[key][0] for key in ("cls", "sep") if key in part)


def _renumbered(processor: dict[str, Any] | None, new: dict[str, int]) -> dict[str, Any] | None:
    """A post-processor with the new ids of its special tokens."""
    if processor is None:
        return None
    if "processors" in processor:
        inner = [_renumbered(part, new) for part in processor["processors"]]
        return processor | {"processors": inner}
    changed: dict[str, Any] = {
        key: [processor[key][0], new[processor[key][0]]]
        for key in ("cls", "sep")
        if key in processor
    }
    if "special_tokens" in processor:
        changed["special_tokens"] = {
            name: special | {"ids": [new[token] for token in special["tokens"]]}
            for name, special in processor["special_tokens"].items()
        }
    return processor | changed


def _only_model(model: dict[str, Any], new: dict[str, int]) -> dict[str, Any]:
    """The model with the entries of `new` alone."""
    if model["type"] == "Unigram":
        unknown_id = model.get("unk_id")
        unknown = None if unknown_id is None else new[model["vocab"][unknown_id][0]]
        left = sorted((pair for pair in model["vocab"] if pair[0] in new), key=lambda p: new[p[0]])
        return model | {"unk_id": unknown, "vocab": left}
    changed: dict[str, Any] = {
        "vocab": {token: i for token, i in new.items() if token in model["vocab"]}
    }
    if model["type"] == "BPE":
        changed["merges"] = [
            [first, second]
            for first, second in _pairs(model["merges"])
            if first in new and second in new and first + second in new
        ]
    return model | changed


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
