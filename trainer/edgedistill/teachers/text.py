"""A text teacher's own tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


class TeacherEncoder:
    """Texts to the ids of a fast tokenizer, special tokens kept.

    Whatever truncation or padding the tokenizer's file asks for gives way to `max_length`.
    pad_id: to pad batches with; None: the tokenizer's own, or 0.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int, pad_id: int | None = None) -> None:
        from tokenizers import Tokenizer

        plain = json.loads(tokenizer.to_str())
        if pad_id is None:
            pad_id = _pad_id(tokenizer, plain)
        plain["truncation"] = plain["padding"] = None
        self.json = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()
        self.pad_id = pad_id
        self.max_length = max_length
        self._tokenizer = Tokenizer.from_str(self.json.decode())
        self.vocabulary_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self._unknown = _unknown_id(tokenizer, plain)
        self._tokenizer.enable_truncation(max_length)

    def encode(self, text: str) -> NDArray[np.int64]:
        """-> (tokens,), 1 to `max_length`; the unknown token where a text gives none at all."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        encoded = self._tokenizer.encode_batch(list(texts))
        return [np.array(e.ids or [self._unknown], np.int64) for e in encoded]


def _pad_id(tokenizer: Tokenizer, plain: dict[str, Any]) -> int:
    if plain.get("padding"):
        return int(plain["padding"]["pad_id"])
    known = (tokenizer.token_to_id(name) for name in PADDING)
    return next((i for i in known if i is not None), 0)


def _unknown_id(tokenizer: Tokenizer, plain: dict[str, Any]) -> int:
    model = plain["model"]
    by_name = tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None
    return int(by_name if by_name is not None else model.get("unk_id") or 0)


class TextInputs(nn.Module):
    """(ids, mask) -> the names that text models of transformers take."""

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"input_ids": ids, "attention_mask": mask.long()}
