"""Intermediate outputs: where two networks have them, which belong together, and how they differ.

Outputs are reached by module path with hooks; the networks stay as they are.  Attention is computed
from the query and key projections, so any attention implementation will do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill import losses
from edgedistill.errors import SettingsError, unknown
from edgedistill.students.source import uniform_layers

FEATURES = ("embeddings", "hint", "attention", "relation")
"""Built-in losses on intermediate outputs, as a stage names them."""
RELATION_HEADS = 8
_PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)
_HEADS = ("num_attention_heads", "num_heads", "n_heads")

Grid = tuple[int, int]
FeatureLoss = Callable[..., Tensor]
"""(student, teacher) -> scalar, both (b, tokens, d) or (b, c, h, w) of the teacher's width; with
mask=… where it takes it"""


@dataclass(frozen=True)
class Attention:
    """Paths of one attention layer's projections."""

    query: str
    key: str
    value: str
    heads: int


@dataclass(frozen=True)
class Layout:
    """Where a network's intermediate outputs are, first layer first."""

    embeddings: str | None
    hidden: tuple[str, ...]
    attention: tuple[Attention, ...]
    """Of transformers; empty for convolutional networks."""
    grid: Grid | None = None
    """Rows and columns of a vision transformer's patches."""


def layout(network: nn.Module, inputs: tuple[Tensor, ...]) -> Layout:
    """Find a network's layers: the blocks of a transformer, or the last map of each size.

    inputs: some samples, to see what a convolutional network computes.
    """
    modules = dict(network.named_modules())
    attention = {
        path: found
        for path, module in modules.items()
        if (found := _attention(path, module)) is not None
    }
    blocks = [
        tuple(f"{path}.{i}" for i in range(len(module)))
        for path, module in modules.items()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    for layers in sorted(blocks, key=len, reverse=True):
        per_layer = [[p for p in attention if p.startswith(f"{layer}.")] for layer in layers]
        if layers and all(per_layer):
            names = [path for path in modules if path.rpartition(".")[2] == "embeddings"]
            of_layers = tuple(attention[paths[0]] for paths in per_layer)
            grid = _grid(network, inputs)
            return Layout(names[0] if names else None, layers, of_layers, grid)
    return Layout(None, _maps(network, inputs), ())


def _attention(path: str, module: nn.Module) -> Attention | None:
    children = dict(module.named_children())
    for names in _PROJECTIONS:
        if all(name in children for name in names):
            owners = (module, getattr(module, "config", None))
            heads = [getattr(o, name) for o in owners for name in _HEADS if hasattr(o, name)]
            if heads:
                query, key, value = (f"{path}.{name}" for name in names)
                return Attention(query, key, value, int(heads[0]))
    return None


def _maps(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Paths of the last module of each map size above 1×1, in the order of the computation."""
    last: dict[tuple[int, ...], str] = {}
    for path, size in _sizes(network, inputs, nn.Module):
        if max(size) > 1:
            last.pop(size, None)  # so that the order is that of the last ones
            last[size] = path
    return tuple(last.values())


def _grid(network: nn.Module, inputs: tuple[Tensor, ...]) -> Grid | None:
    """The map that a vision transformer's last convolution makes: its patches."""
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return None
    sizes = [size for _, size in _sizes(network, inputs, nn.Conv2d)]
    return sizes[-1] if sizes else None


def _sizes(
    network: nn.Module, inputs: tuple[Tensor, ...], kind: type[nn.Module]
) -> list[tuple[str, Grid]]:
    """Paths of modules that put out maps, and the maps' sizes, in the order of the computation."""
    found: list[tuple[str, Grid]] = []

    def hook(path: str) -> Callable[..., None]:
        def run(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                found.append((path, (output.shape[2], output.shape[3])))

        return run

    modules = [(p, m) for p, m in network.named_modules() if p and isinstance(m, kind)]
    handles = [module.register_forward_hook(hook(path)) for path, module in modules]
    training = network.training
    try:
        network.eval()
        with torch.no_grad():
            network(*inputs)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return found


@dataclass(frozen=True)
class Feature:
    """One intermediate output: a module's, or attention scores of two projections."""

    paths: tuple[str, ...]
    heads: int = 0
    """Attention scores, if over 0."""
    grids: tuple[Grid, Grid] | None = None
    """The patches of a sample, and the fewer that they are averaged to."""

    @property
    def key(self) -> str:
        to = f" {self.grids[0]} to {self.grids[1]}" if self.grids else ""
        return "+".join(self.paths) + to

    @property
    def token_axes(self) -> tuple[int, ...]:
        """Axes that are as long as the text, in a batch of texts."""
        return (2, 3) if self.heads else (1,)

    def of(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The output, or the scores before softmax: (b, heads, tokens, tokens)."""
        if not self.heads:
            return self._patches(outputs[self.paths[0]])
        query, key = (_split_heads(self._patches(outputs[p]), self.heads) for p in self.paths)
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])

    def _patches(self, states: Tensor) -> Tensor:
        """The means over patches, without class and other tokens, which stand before these.

        The scores of mean queries and keys are the mean scores of the patches.
        """
        if self.grids is None or states.ndim != 3 or states.shape[1] < math.prod(self.grids[0]):
            return states
        grid, fewer = self.grids
        patches = states[:, -math.prod(grid) :].transpose(1, 2)  # (b, d, patches)
        patches = patches.reshape(*patches.shape[:2], *grid)
        return F.adaptive_avg_pool2d(patches, fewer).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Pair:
    """A student's feature and the teacher's that it is held against."""

    loss: str
    weight: float
    student: Feature
    teacher: Feature


def pairs(
    wanted: Mapping[str, float],
    student: Layout,
    teacher: Layout,
    by_hand: Mapping[str, str],
    own: Mapping[str, FeatureLoss],
) -> tuple[Pair, ...]:
    """What belongs together.  Layers are mapped uniformly, as DistilBERT and TinyBERT map them:
    layer i of S learns from layer i · T / S of T.

    wanted: weights by loss name.  by_hand: hidden layers, student's path to teacher's.
    Raises SettingsError if a network has not what a loss needs.
    """
    made: list[Pair] = []
    for loss, weight in wanted.items():
        if loss not in FEATURES and loss not in own:
            raise SettingsError(unknown("loss on features", loss, [*FEATURES, *own]))
        found = list(_of_loss(loss, student, teacher, by_hand))
        if not found:
            who = "student" if _lacks(loss, student) else "teacher"
            raise SettingsError(
                f"the {who} has no layers for the loss {loss!r} (it needs "
                "layers of one kind in both); use --distill soft, or another teacher or family"
            )
        made += [Pair(loss, weight / len(found), s, t) for s, t in found]
    if student.grid is None or teacher.grid is None:
        return tuple(made)
    grids = student.grid, teacher.grid
    fewer = min(student.grid[0], teacher.grid[0]), min(student.grid[1], teacher.grid[1])
    return tuple(
        replace(
            pair,
            student=replace(pair.student, grids=(grids[0], fewer)),
            teacher=replace(pair.teacher, grids=(grids[1], fewer)),
        )
        for pair in made
    )


def _of_loss(
    loss: str, student: Layout, teacher: Layout, by_hand: Mapping[str, str]
) -> list[tuple[Feature, Feature]]:
    both = bool(student.attention and teacher.attention)
    if loss == "embeddings":
        if student.embeddings is None or teacher.embeddings is None:
            return []
        return [(Feature((student.embeddings,)), Feature((teacher.embeddings,)))]
    if loss == "relation" and both:
        s, t = student.attention[-1], teacher.attention[-1]
        return [
            (Feature((getattr(s, name),)), Feature((getattr(t, name),)))
            for name in ("query", "key", "value")
        ]
    if loss == "attention" and both:
        return [
            (Feature((s.query, s.key), s.heads), Feature((t.query, t.key), t.heads))
            for s, t in _uniform(student.attention, teacher.attention)
        ]
    if loss in ("attention", "relation") and (student.attention or teacher.attention):
        return []
    if loss == "relation":
        last = _uniform(student.hidden, teacher.hidden)[-1:]
        return [(Feature((s,)), Feature((t,))) for s, t in last]
    mapped = list(by_hand.items()) or _uniform(student.hidden, teacher.hidden)
    return [(Feature((s,)), Feature((t,))) for s, t in mapped]


def _lacks(loss: str, layout: Layout) -> bool:
    if loss == "embeddings":
        return layout.embeddings is None
    return not (layout.attention if loss in ("relation", "attention") else layout.hidden)


def _uniform(student: tuple[Any, ...], teacher: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    if not teacher:
        return []
    chosen = uniform_layers(len(student), len(teacher))
    return [(each, teacher[i]) for each, i in zip(student, chosen, strict=True)]


class Recorder:
    """Keeps what modules of a network put out, while it is attached."""

    def __init__(self, network: nn.Module, paths: set[str]) -> None:
        modules = dict(network.named_modules())
        for path in sorted(paths):
            if path not in modules:
                raise SettingsError(unknown("module path", path, filter(None, modules)))
        self.outputs: dict[str, Tensor] = {}
        self._handles = [modules[p].register_forward_hook(self._hook(p)) for p in sorted(paths)]

    def _hook(self, path: str) -> Callable[..., None]:
        def run(module: nn.Module, arguments: Any, output: Any) -> None:
            self.outputs[path] = output if isinstance(output, Tensor) else output[0]

        return run

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()


class WithFeatures(nn.Module):
    """A student that also gives its features, each through a learned regressor where the teacher's
    is wider or narrower (Romero et al. 2015, https://arxiv.org/abs/1412.6550)."""

    def __init__(
        self,
        student: nn.Module,
        made: tuple[Pair, ...],
        student_features: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
    ) -> None:
        """student_features, teacher_features: of some samples, to see the widths; the student's by
        module path."""
        super().__init__()
        self.student, self.pairs = student, made
        self.regressors = nn.ModuleDict()
        for i, pair in enumerate(made):
            if pair.loss in ("attention", "relation"):
                continue
            (path,), theirs = pair.student.paths, teacher_features[pair.teacher.key]
            mine = student_features[path]
            axis = 1 if mine.ndim == 4 else -1
            inputs, outputs = mine.shape[axis], theirs.shape[axis]
            if mine.ndim != theirs.ndim:
                raise SettingsError(
                    f"{pair.student.key!r} puts out {list(mine.shape)} and {pair.teacher.key!r} "
                    f"{list(theirs.shape)}; a hint needs layers of the same kind"
                )
            if inputs != outputs:
                self.regressors[str(i)] = (
                    nn.Conv2d(inputs, outputs, 1) if mine.ndim == 4 else nn.Linear(inputs, outputs)
                )
        self.recorder = Recorder(student, paths(made, "student"))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = self.student(*inputs)
        features = [pair.student.of(self.recorder.outputs) for pair in self.pairs]
        for i, regressor in self.regressors.items():
            features[int(i)] = regressor(features[int(i)])
        return logits, features


def paths(made: tuple[Pair, ...], who: str) -> set[str]:
    """Every module path that the pairs need of the student, or of the teacher."""
    return {path for pair in made for path in getattr(pair, who).paths}


def difference(
    pair: Pair,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    own: Mapping[str, FeatureLoss],
) -> Tensor:
    """The pair's loss; maps of different sizes are averaged down to the smaller sides first.

    mask: (b, tokens), 1 for a token; None for images.  A loss of one's own gets it where it takes
    it.
    """
    if pair.student.heads:
        return losses.attention(student, teacher, mask)
    if pair.loss == "attention":
        return losses.attention_maps(student, teacher)
    if student.ndim == 4 and student.shape[2:] != teacher.shape[2:]:
        side = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        student, teacher = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
    if pair.loss in own:
        takes_mask = "mask" in inspect.signature(own[pair.loss]).parameters
        return own[pair.loss](student, teacher, **({"mask": mask} if takes_mask else {}))
    if pair.loss == "relation":
        if student.ndim == 4:  # the places of a map are its tokens
            student, teacher = (x.flatten(2).transpose(1, 2) for x in (student, teacher))
            return losses.relation(student, teacher, heads=1)
        heads = math.gcd(math.gcd(student.shape[-1], teacher.shape[-1]), RELATION_HEADS)
        return losses.relation(student, teacher, mask, heads)
    return losses.hint(student, teacher, mask if student.ndim == 3 else None)


def own_path(network: nn.Module, path: str) -> str:
    """The path in a teacher of a module of the user's own model, which stands inside of it."""
    modules = dict(network.named_modules())
    inside = ("", "model.", "network.", "network.model.")
    return next((f"{place}{path}" for place in inside if f"{place}{path}" in modules), path)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, tokens, d) -> (b, heads, tokens, d / heads)"""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
