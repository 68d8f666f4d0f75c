"""A BERT-like teacher, by parts that have the same names in BERT, RoBERTa and DistilBERT.

And how much each of its parts does on some data, from forward passes alone (Minitron, Muralidharan
et al. 2024, section 2.2, https://arxiv.org/abs/2407.14679).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

Measure = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TeacherLayer:
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm


@dataclass(frozen=True)
class TeacherEncoder:
    base: nn.Module
    tokens: Tensor
    """(vocabulary, width)"""
    positions: Tensor
    """(positions, width): the first row is the first token's, the token type's row added in."""
    norm: nn.LayerNorm
    layers: tuple[TeacherLayer, ...]
    num_heads: int

    @property
    def width(self) -> int:
        return self.tokens.shape[1]

    @staticmethod
    def of(teacher: nn.Module | None) -> TeacherEncoder | None:
        """The parts of a network of transformers; None if it is of another form."""
        base = getattr(teacher, "base_model", None)
        try:
            return None if base is None else _read(base)
        except AttributeError:
            return None


def _read(base: Any) -> TeacherEncoder | None:
    embeddings, config = base.embeddings, base.config
    table = embeddings.position_embeddings
    first = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from there
    positions = table.weight.detach()[first:]
    if hasattr(embeddings, "token_type_embeddings"):
        positions = positions + embeddings.token_type_embeddings.weight.detach()[0]
    if hasattr(base, "transformer"):
        layers, num_heads = map(_distilbert, base.transformer.layer), config.n_heads
    else:
        layers, num_heads = map(_bert, base.encoder.layer), config.num_attention_heads
    encoder = TeacherEncoder(
        base,
        embeddings.word_embeddings.weight.detach(),
        positions,
        embeddings.LayerNorm,
        tuple(layers),
        num_heads,
    )
    return encoder if encoder.width == encoder.layers[0].query.in_features else None


def _bert(layer: Any) -> TeacherLayer:
    attention, projections = layer.attention, layer.attention.self
    return TeacherLayer(
        projections.query,
        projections.key,
        projections.value,
        attention.output.dense,
        attention.output.LayerNorm,
        layer.intermediate.dense,
        layer.output.dense,
        layer.output.LayerNorm,
    )


def _distilbert(layer: Any) -> TeacherLayer:
    attention = layer.attention
    return TeacherLayer(
        attention.q_lin,
        attention.k_lin,
        attention.v_lin,
        attention.out_lin,
        layer.sa_layer_norm,
        layer.ffn.lin1,
        layer.ffn.lin2,
        layer.output_layer_norm,
    )


@dataclass(frozen=True)
class LayerActivity:
    """Sizes, summed over the real tokens of the data."""

    query: Tensor
    key: Tensor
    context: Tensor
    """Of what attention gathers, before the output projection."""
    heads: Tensor
    """Length of what each head adds to the hidden state."""
    units: Tensor
    """Of the feed-forward units, after the activation."""
    hidden: Tensor
    """Of the layer's two normalised states, summed."""


def activity(
    teacher: TeacherEncoder, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[LayerActivity, ...]:
    """How much the parts of each layer do.  batches: (ids, mask), both (batch, tokens)."""
    device = teacher.tokens.device
    sums: dict[tuple[int, str], Tensor] = {}
    hooks: list[Any] = []
    real = torch.zeros(0, dtype=torch.bool)

    def watch(
        key: tuple[int, str], module: nn.Module, before: bool, size: Measure = torch.abs
    ) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            states = (inputs[0] if before else output)[real].float()  # (real tokens, width)
            sums[key] = sums.get(key, 0) + size(states).sum(0)

        hooks.append(module.register_forward_hook(hook))

    for i, layer in enumerate(teacher.layers):
        watch((i, "query"), layer.query, before=False)
        watch((i, "key"), layer.key, before=False)
        watch((i, "context"), layer.output, before=True)
        watch((i, "heads"), layer.output, True, _head_lengths(layer.output, teacher.num_heads))
        watch((i, "units"), layer.down, before=True)
        watch((i, "hidden"), layer.attention_norm, before=False)
        watch((i, "hidden"), layer.norm, before=False)
    try:
        with torch.no_grad():
            for ids, mask in batches:
                real = mask.to(device) > 0
                teacher.base(input_ids=ids.to(device), attention_mask=real.long())
    finally:
        for hook in hooks:
            hook.remove()
    assert sums, "there must be some data to measure on"
    names = [f.name for f in fields(LayerActivity)]
    return tuple(
        LayerActivity(**{name: sums[i, name].cpu() for name in names})
        for i in range(len(teacher.layers))
    )


def _head_lengths(output: nn.Linear, num_heads: int) -> Measure:
    """From (tokens, width) before the output projection: length of each head's share after it."""
    weight = output.weight.detach().float()
    weight = weight.view(len(weight), num_heads, -1)  # (hidden, heads, width)
    gram = torch.einsum("dhw,dhv->hwv", weight, weight)

    def lengths(context: Tensor) -> Tensor:
        split = context.view(len(context), num_heads, -1)
        squares = torch.einsum("thw,hwv,thv->th", split, gram, split)
        return squares.clamp_min(0).sqrt()

    return lengths
