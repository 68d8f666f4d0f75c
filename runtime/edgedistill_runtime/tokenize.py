"""From a text to token ids: `tokenizers`, behind a check of its file.

The host trains on the ids of this very class, so that a board computes the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill_runtime.errors import BundleError, EngineError, InputError
from edgedistill_runtime.tokenizercheck import Vocabulary, check_tokenizer

MAX_LENGTH = 1 << 16
MAX_CHARACTERS = 1 << 17


class TextEncoder:
    """Turns texts into token ids: cut, tokenized, special tokens added, never padded."""

    vocabulary_size: int
    """Ids are 0 to vocabulary_size − 1."""
    pad_id: int
    """What to pad a batch with on the host: the tokenizer's padding token, else 0."""

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary, max_characters: int) -> None:
        self._tokenizer = tokenizer
        self._lower = _without_normalizer(tokenizer) if vocabulary.lower_case else None
        self._special = vocabulary.special
        self._max_characters = max_characters
        self._nothing = [vocabulary.unknown_id]
        self.vocabulary_size, self.pad_id = vocabulary.size, vocabulary.pad_id

    @staticmethod
    def build(data: bytes, max_length: int, max_characters: int) -> TextEncoder:
        """An encoder from the bytes of a tokenizer.json.

        max_length: most tokens, special ones included; text beyond is cut, and they stay.
        max_characters: of a text; what is beyond is not looked at.
        Raises BundleError (not a tokenizer that bundles may hold) or EngineError (no tokenizers).
        """
        for name, value, most in (
            ("max_length", max_length, MAX_LENGTH),
            ("max_characters", max_characters, MAX_CHARACTERS),
        ):
            if type(value) is not int or not 1 <= value <= most:
                raise BundleError(f"the {name} of texts is {value!r}, not 1 to {most}")
        vocabulary = check_tokenizer(data)
        tokenizer = _parsed(data)
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if special >= max_length:
            raise BundleError(
                f"the tokenizer adds {special} special tokens to every text; a max_length of "
                f"{max_length} leaves no room for the text"
            )
        found = tokenizer.get_vocab_size(with_added_tokens=True)
        if found != vocabulary.size:
            raise BundleError(
                f"the tokenizer has {found} tokens, and its file lists {vocabulary.size}"
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        return TextEncoder(tokenizer, vocabulary, max_characters)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text's tokens.  -> (tokens,), at least one.  Raises InputError."""
        return self.encode_batch((text,))[0]

    __call__ = encode
    """As a preprocessing step."""

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The same for several texts in one call."""
        texts = [text[: self._max_characters] for text in texts]
        tokenizer = self._tokenizer
        if self._lower is not None and all(map(self._is_plain, texts)):
            texts, tokenizer = [text.lower() for text in texts], self._lower
        try:
            rows = tokenizer.encode_batch_fast(texts)
        except BaseException as error:
            raise InputError(f"the text cannot be tokenized ({_said(error)})") from None
        return [np.array(row.ids or self._nothing, np.int64) for row in rows]

    def _is_plain(self, text: str) -> bool:
        """Whether lower case is all that the normalizer would make of the text."""
        if not (isinstance(text, str) and text.isascii() and text.isprintable()):
            return False
        return not any(token in text for token in self._special)


def _without_normalizer(tokenizer: Any) -> Any:
    """The same tokenizer for texts that are normalised: that is a third of its time.

    The model, which has the vocabulary, is shared.
    """
    made = type(tokenizer)(tokenizer.model)
    made.pre_tokenizer = tokenizer.pre_tokenizer
    if tokenizer.post_processor is not None:
        made.post_processor = tokenizer.post_processor
    made.enable_truncation(tokenizer.truncation["max_length"])
    return made


def _parsed(data: bytes) -> Any:
    # threads are slower for one text, and would have to be left behind in a fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EngineError(
            f"tokenizers cannot be imported ({error}); "
            "install it with: pip install 'edgedistill-runtime[text]'"
        ) from error
    try:
        return Tokenizer.from_buffer(data)
    except BaseException as error:
        raise BundleError(f"tokenizers does not accept the tokenizer ({_said(error)})") from None


def _said(error: BaseException) -> str:
    """What an error of tokenizers says.  A panic there is a BaseException without a public name."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
