"""What a text student copies from a teacher before it is trained.

`encoder` cuts a BERT-like teacher down to the student: layers evenly spread (DistilBERT, Sanh et
al. 2019, https://arxiv.org/abs/1910.01108); hidden dimensions, heads and feed-forward units by how
much they do on some data (Minitron, Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679);
token vectors by their main components where the student's are narrower.  `token_vectors` gives a
bag of tokens what the teacher makes of each token.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.students.bertlike import LayerActivity, TeacherEncoder, TeacherLayer, activity
from edgedistill.students.source import Source, uniform_layers
from edgedistill.students.textmodules import Attention, Bag, Embeddings, Layer, TextTransformer

TOKEN_BATCH = 512
VECTOR_RMS = 0.5
"""Size of the entries of adopted token vectors, over the data.  0.4 and 0.8 do equally well on
tweets, 0.2 costs a point."""
NOTHING = "nothing taken over: "


# A bag of tokens


def token_vectors(student: nn.Module, source: Source) -> str:
    """Each token's vector: the teacher's mean output for that token alone, its main components."""
    assert isinstance(student, Bag)
    if source.teacher is None or source.token_ids is None:
        return NOTHING + "there is no teacher that shares the student's vocabulary"
    base = getattr(source.teacher, "base_model", None)
    if base is None:
        return NOTHING + "the teacher is no network of transformers"
    counts, first, last = _survey(source)
    outputs = _alone(base, source.token_ids, first, last)  # (vocabulary, width)
    weights = torch.from_numpy(counts + 1.0).float()
    components, centre = _components(outputs, weights, student.tokens.embedding_dim)
    vectors = (outputs - centre) @ components.T
    size = ((vectors**2).mean(1) * weights).sum() / weights.sum()
    taken = vectors.shape[1]
    with torch.no_grad():
        student.tokens.weight[:, :taken] = vectors * (VECTOR_RMS / size.sqrt())
    return (
        f"vectors of {len(outputs):,} tokens, {taken} main components of the teacher's "
        f"{outputs.shape[1]}"
    )


def _survey(source: Source) -> tuple[Any, list[int], list[int]]:
    """How often each of the student's tokens is in the data, and the special ids around a text."""
    assert source.token_ids is not None
    counts = np.zeros(int(source.token_ids.max()) + 1, np.int64)
    first: set[int] = set()
    last: set[int] = set()
    for ids, mask in source.batches():
        kept = ids[mask > 0]
        counts += np.bincount(kept[kept < len(counts)].cpu().numpy(), minlength=len(counts))
        ends = mask.sum(1).long() - 1
        first |= set(ids[:, 0].tolist())
        last |= set(ids[torch.arange(len(ids)), ends].tolist())
    always = (list(ends) if len(ends) == 1 else [] for ends in (first, last))
    return counts[source.token_ids], next(always), next(always)


@torch.no_grad()
def _alone(base: nn.Module, token_ids: Any, first: list[int], last: list[int]) -> Tensor:
    """The teacher's mean output for each token between the special ones."""
    device = next(base.parameters()).device
    rows = [[*first, int(token), *last] for token in token_ids]
    made = []
    for start in range(0, len(rows), TOKEN_BATCH):
        ids = torch.tensor(rows[start : start + TOKEN_BATCH], device=device)
        states = base(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        made.append(states.float().mean(1).cpu())
    return torch.cat(made)


def _components(rows: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The main directions of weighted rows, largest first (count, width), and their centre."""
    centre = (rows * weights[:, None]).sum(0) / weights.sum()
    centred = (rows - centre).double()
    covariance = centred.T @ (centred * weights[:, None])
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).T[:count]
    largest = directions.abs().argmax(1)  # the sign is arbitrary: make the largest entry positive
    signs = directions[torch.arange(len(directions)), largest].sign()
    return (directions * signs[:, None]).float(), centre


# An encoder


def encoder(student: nn.Module, source: Source) -> str:
    """The teacher, cut down to the student."""
    assert isinstance(student, TextTransformer)
    teacher = TeacherEncoder.of(source.teacher)
    if teacher is None:
        return NOTHING + "the teacher is no encoder such as BERT, RoBERTa or DistilBERT"
    into = [cast(Layer, layer) for layer in student.layers]
    hidden, units = into[0].norm.normalized_shape[0], into[0].up.out_features
    if teacher.width < hidden:
        return NOTHING + f"the teacher has {teacher.width} hidden dimensions, the student {hidden}"
    chosen = uniform_layers(len(into), len(teacher.layers))
    measured = activity(teacher, source.batches())
    dims = _top(torch.stack([layer.hidden for layer in measured]).sum(0), hidden)
    with torch.no_grad():
        _cut_embeddings(student.embeddings, teacher, dims, source)
        for layer, index in zip(into, chosen, strict=True):
            _cut_layer(layer, teacher.layers[index], teacher.num_heads, dims, measured[index])
    of_units, heads = teacher.layers[0].up.out_features, into[0].attention.num_heads
    words = "" if source.token_ids is not None else "; token vectors start at random"
    return (
        f"layers {', '.join(str(i + 1) for i in chosen)} of {len(teacher.layers)}, "
        f"{hidden} of {teacher.width} hidden dimensions, "
        f"{min(heads, teacher.num_heads)} of {teacher.num_heads} heads, "
        f"{min(units, of_units)} of {of_units} feed-forward units{words}"
    )


def _cut_embeddings(
    into: Embeddings, teacher: TeacherEncoder, dims: Tensor, source: Source
) -> None:
    positions = teacher.positions[:, dims][: len(into.positions)]
    into.positions[: len(positions)] = positions
    _copy(into.norm, teacher.norm, dims)
    if source.token_ids is None:
        return
    rows = teacher.tokens[torch.from_numpy(source.token_ids)][:, dims].float().cpu()
    if isinstance(into.project, nn.Identity):
        into.tokens.weight.copy_(rows)
        return
    counts, _, _ = _survey(source)
    directions, centre = _components(
        rows, torch.from_numpy(counts + 1.0).float(), into.tokens.embedding_dim
    )
    into.positions.add_(centre)  # every token has it
    into.tokens.weight.copy_((rows - centre) @ directions.T)
    cast(nn.Linear, into.project).weight.copy_(directions.T)


def _cut_layer(
    into: Layer, layer: TeacherLayer, of_heads: int, dims: Tensor, measured: LayerActivity
) -> None:
    attention = into.attention
    scores, values = _heads(layer, of_heads, attention, dims, measured)
    width = attention.query.out_features // attention.num_heads
    rescale = (width * of_heads / layer.query.out_features) ** 0.5  # undone by the student's root
    _place(attention.query, layer.query, scores, dims, rescale)
    _silence(attention.query, scores)
    _place(attention.key, layer.key, scores, dims)
    _place(attention.value, layer.value, values, dims)
    _place(attention.output, layer.output, dims, values)
    _copy(into.attention_norm, layer.attention_norm, dims)
    work = measured.units * layer.down.weight[dims].norm(dim=0).cpu()
    units = _padded(_top(work, into.up.out_features), into.up.out_features)
    _place(into.up, layer.up, units, dims)
    _place(into.down, layer.down, dims, units)
    _copy(into.norm, layer.norm, dims)


def _heads(
    layer: TeacherLayer, of_heads: int, into: Attention, dims: Tensor, measured: LayerActivity
) -> tuple[Tensor, Tensor]:
    """The teacher's place of each of the student's units: of query and key, of value."""
    width = into.query.out_features // into.num_heads
    of_width = layer.query.out_features // of_heads
    heads = _top(measured.heads, into.num_heads)

    def within(importance: Tensor) -> Tensor:
        split = importance.view(of_heads, of_width)
        units = [_padded(h * of_width + _top(split[h], width), width) for h in heads]
        return _padded(torch.cat(units), into.query.out_features)

    weight = layer.output.weight[dims].norm(dim=0).cpu()
    return within(measured.query * measured.key), within(measured.context * weight)


def _place(into: nn.Linear, of: nn.Linear, rows: Tensor, columns: Tensor, by: float = 1.0) -> None:
    """Copy weights and biases.

    rows, columns: the teacher's place of each of the student's, -1 where it has none: such a row
    stays as it is, and such a column is 0, so that it changes nothing until it is trained.
    """
    here = rows >= 0
    weight = of.weight[rows][:, columns] * (columns >= 0).to(of.weight) * by
    into.weight[here] = weight[here].to(into.weight)
    into.bias[here] = (of.bias[rows] * by)[here].to(into.bias)


def _silence(query: nn.Linear, rows: Tensor) -> None:
    """Queries that the teacher does not have ask for nothing."""
    query.weight[rows < 0] = 0
    query.bias[rows < 0] = 0


def _copy(into: nn.LayerNorm, of: nn.LayerNorm, dims: Tensor) -> None:
    into.weight.copy_(of.weight[dims])
    into.bias.copy_(of.bias[dims])


def _top(importance: Tensor, count: int) -> Tensor:
    """Places of the largest, at most `count`, in their own order."""
    return importance.topk(min(count, len(importance))).indices.sort().values


def _padded(places: Tensor, count: int) -> Tensor:
    return torch.cat([places, places.new_full((count - len(places),), -1)])
