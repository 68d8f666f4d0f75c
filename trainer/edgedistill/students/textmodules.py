"""The networks of the text families.

Each is called as `module(ids, mask)`: ids (batch, tokens) int64, mask (batch, tokens) float32, 1
for a token and 0 for padding.  Without a mask every position counts, which is the form that ships.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1
MASKED = -1e4
"""Added to the score of a padding position: its exponential is 0, in float16 too."""

EMBEDDING_STD = 0.02
BAG_STD = 0.1


class Bag(nn.Module):
    """The mean of weighted token vectors, then linear layers with ReLU between them."""

    def __init__(self, vocabulary: int, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, sizes[0])
        self.weights = nn.Embedding(vocabulary, 1)
        nn.init.normal_(self.tokens.weight, std=BAG_STD)
        nn.init.ones_(self.weights.weight)
        self.dropout = nn.Dropout(DROPOUT)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        vectors = self.tokens(ids) * self.weights(ids)  # (batch, tokens, dim)
        return _classify(self, mean(vectors, mask))

    def folded(self) -> nn.Module:
        """The same function with the tokens' weights inside their vectors: the form that ships."""
        return FoldedBag(self)


class FoldedBag(nn.Module):
    """A `Bag` in which each token's weight has been multiplied into its vector."""

    def __init__(self, bag: Bag) -> None:
        super().__init__()
        table = (bag.tokens.weight * bag.weights.weight).detach()
        self.tokens = nn.Embedding(len(table), table.shape[1], _weight=table)
        self.dropout, self.hidden, self.head = bag.dropout, bag.hidden, bag.head

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return _classify(self, mean(self.tokens(ids), mask))


def _classify(bag: Bag | FoldedBag, features: Tensor) -> Tensor:
    for layer in bag.hidden:
        features = F.relu(layer(bag.dropout(features)))
    return cast(Tensor, bag.head(bag.dropout(features)))


def mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over real tokens: (batch, tokens, d) -> (batch, d)."""
    if mask is None:
        return states.mean(1)
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


class Embeddings(nn.Module):
    """A vector a token, widened if it is narrow, plus one a position, normalised."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, positions: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, embedding)
        self.project: nn.Module = nn.Identity()
        if embedding != hidden:
            self.project = nn.Linear(embedding, hidden, bias=False)
        self.positions = nn.Parameter(torch.empty(positions, hidden))
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(DROPOUT)
        for table in (self.tokens.weight, self.positions):
            nn.init.normal_(table, std=EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.project(self.tokens(ids)) + self.positions[: ids.shape[1]]
        return cast(Tensor, self.dropout(self.norm(states)))


class Attention(nn.Module):
    """Scaled dot-product attention in plain operations, which every engine has."""

    def __init__(self, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(hidden, hidden) for _ in range(4)
        )

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = (  # (batch, heads, tokens, width)
            layer(states).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        if mask is not None:
            scores = scores + MASKED * (1 - mask[:, None, None, :])
        mixed = scores.softmax(-1) @ value
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))


class Layer(nn.Module):
    """An encoder layer of BERT: attention and feed-forward, each added and then normalised."""

    def __init__(self, hidden: int, num_heads: int, ffn: int) -> None:
        super().__init__()
        self.attention = Attention(hidden, num_heads)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.up, self.down = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        states = self.attention_norm(states + self.attention(states, mask))
        return cast(Tensor, self.norm(states + self.down(F.gelu(self.up(states)))))


class TextTransformer(nn.Module):
    """Embeddings, encoder layers, the mean over tokens, one linear layer."""

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        layers: int,
        hidden: int,
        num_heads: int,
        ffn: int,
        positions: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, embedding, hidden, positions)
        self.layers = nn.ModuleList(Layer(hidden, num_heads, ffn) for _ in range(layers))
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(hidden, classes)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        states = self.embeddings(ids)  # (batch, tokens, hidden)
        for layer in self.layers:
            states = layer(states, mask)
        return cast(Tensor, self.head(self.dropout(mean(states, mask))))
