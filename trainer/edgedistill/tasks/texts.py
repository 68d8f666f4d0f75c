"""Texts: tokens of a vocabulary that follows from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgedistill.data import Dataset
from edgedistill.samples import TokenSamples
from edgedistill.students import vocabulary
from edgedistill.tasks.base import Array, Classification, Preprocessing
from edgedistill_runtime.tokenize import TextEncoder

MAX_CHARACTERS = 10_000
TOKENIZER = "tokenizer.json"
WORD_DROPOUT = 0.15


class TextClassification(Classification):
    """One label a text, or several."""

    name = "text-classification"
    max_characters = MAX_CHARACTERS

    def __init__(self, data: Dataset, metric: str = "", max_length: int = 64) -> None:
        super().__init__(data, metric)
        self.max_length = max_length

    def preprocessing(self, spec: Any, tokenizer: bytes | None) -> Preprocessing:
        """The teacher's tokenizer trimmed to the spec's vocabulary, or one trained on the texts."""
        texts = list(self.data.train.x)
        token_ids = None
        if tokenizer is None:
            trimmed = vocabulary.train(texts, spec.vocabulary)
        else:
            trimmed, token_ids = vocabulary.trim(tokenizer, texts, spec.vocabulary)
        step = {
            "op": "tokenize",
            "file": TOKENIZER,
            "max_length": self.max_length,
            "max_characters": MAX_CHARACTERS,
        }
        encoder = TextEncoder.build(trimmed, self.max_length, MAX_CHARACTERS)
        return Preprocessing((step,), {TOKENIZER: trimmed}, encoder, token_ids)

    def views(self, x: Array, count: int, seed: int) -> list[Array]:
        """Texts; of the augmented ones each word is left out with a chance of 15 %."""
        generator = np.random.default_rng(seed)
        split = [str(text).split() for text in x]
        made = [x]
        for _ in range(count - 1):
            view = np.empty(len(x), object)
            for i, words in enumerate(split):
                kept = generator.random(len(words)) >= WORD_DROPOUT
                view[i] = " ".join(w for w, keep in zip(words, kept, strict=True) if keep) or x[i]
            made.append(view)
        return made

    def samples(self, views: Sequence[Array], encoder: Any) -> TokenSamples:
        texts = [str(text) for view in views for text in view]
        return TokenSamples(encoder.encode_batch(texts), encoder.pad_id)
