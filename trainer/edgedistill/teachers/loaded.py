"""A teacher once loaded: its network, its classes, and which of its layers may be trained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.errors import TeacherError
from edgedistill.teachers.text import TeacherEncoder


class Network(nn.Module):
    """Student's batch -> the teacher's own preprocessing -> its model -> logits.

    inputs: a module that turns the batch into the model's inputs by name.
    model: called with those names; returns logits, or an object that has them.
    A part none of whose weights is trained stays in eval mode, whatever `train` says: its
    dropout is off and its batch norms keep their statistics.
    """

    def __init__(self, inputs: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        self.model = model

    def forward(self, *batch: Tensor) -> Tensor:
        return logits_of(self.model(**self.inputs(*batch)), batch[0].shape[0])

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for module in self.modules():
            weights = list(module.parameters())
            if weights and not any(w.requires_grad for w in weights):
                for part in module.modules():
                    part.training = False
        return self


def logits_of(answer: Any, count: int) -> Tensor:
    """The logits in a model's answer.  Raises TeacherError if they are not (count, classes)."""
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor):
        raise TeacherError(
            f"the teacher returned a {type(logits).__name__}; it must return logits, a tensor of "
            "shape [batch, classes]"
        )
    if logits.ndim != 2 or logits.shape[0] != count or not logits.is_floating_point():
        raise TeacherError(
            f"the teacher returned {str(logits.dtype).removeprefix('torch.')} of shape "
            f"{list(logits.shape)} for a batch of {count}; it must return float logits of shape "
            f"[{count}, classes]"
        )
    return logits


@dataclass(frozen=True)
class LoadedTeacher:
    name: str
    """For reports: "bert, 6 layers of 384", or the file's name."""
    digest: str
    """SHA-256 over weights, configuration and preprocessing: all that would change its answers.

    The fresh head of a bare encoder is left out."""
    labels: tuple[str, ...] | None
    """Its own class names in the order of its logits; None where they are not known."""
    trained: bool
    """False for a bare encoder, whose head must be trained first."""
    network: nn.Module
    """Called as network(*inputs) with the student's batch -> logits (batch, own classes)."""
    encoder: TeacherEncoder | None
    """Its own tokens.  None: not a text teacher, or it takes the student's ids."""
    tokenizer_json: bytes | None
    body: nn.Module | None
    """The base model of transformers, whose layers hooks and students may take from."""
    outputs: int | None = None
    """Number of its logits; None: known only once it has answered."""
    sample_rate_hz: int | None = None
    """Of the waveforms that an audio teacher takes."""

    @property
    def layers(self) -> int:
        """Layers of the base model."""
        return 0 if self.body is None else len(_anatomy(self.body)[0])

    def freeze(self, last_layers: int) -> None:
        """Let only the head and the last layers be trained; 0: the head alone.

        The head is everything that comes after the layers: also a last norm, or a pooler.
        Raises TeacherError.
        """
        if self.body is None:
            raise TeacherError(
                f"{self.name} has no encoder with layers to freeze; only teachers of transformers "
                "can be fine-tuned in part"
            )
        layers, after = _anatomy(self.body)
        if not 0 <= last_layers <= len(layers):
            raise TeacherError(
                f"{self.name} has {len(layers)} layers, the last {last_layers} cannot be trained; "
                f"give 0 to {len(layers)}"
            )
        trained = [*after, *layers[len(layers) - last_layers :]]
        for weight in self.body.parameters():
            weight.requires_grad_(False)
        inside = set(self.body.parameters())
        for weight in self.network.parameters():
            if weight not in inside:
                weight.requires_grad_(True)
        for module in trained:
            for weight in module.parameters():
                weight.requires_grad_(True)
        self.network.train(self.network.training)


def after_the_layers(body: nn.Module) -> set[str]:
    """Names of the weights of a base model that come after its layers."""
    modules = set(_anatomy(body)[1])
    return {
        f"{path}.{name}"
        for path, module in body.named_modules()
        if module in modules
        for name in module.state_dict()
    }


def _anatomy(body: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The stack of layers, and the modules that are registered after it on the way down.

    The stack is the list with the most weights, as everywhere in transformers: `layer`, `layers`,
    `h`, `stages`.
    """
    paths = {m: path for path, m in body.named_modules() if isinstance(m, nn.ModuleList)}
    if not paths:
        return [body], []
    stack = max(paths, key=lambda m: sum(w.numel() for w in m.parameters()))
    after, parent = [], body
    for step in paths[stack].split("."):
        children = dict(parent.named_children())
        after += list(children.values())[list(children).index(step) + 1 :]
        parent = children[step]
    return list(stack), after


# Digest


def state_digest(module: nn.Module, without: Collection[str] = ()) -> bytes:
    """SHA-256 over a module's weights and buffers, but those named in `without`."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name in without or not isinstance(tensor, Tensor):
            continue
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(plain.view(torch.uint8).numpy().data)
    return total.digest()


# Labels


def columns(
    teacher_labels: Sequence[str] | None,
    data_labels: Sequence[str],
    outputs: int | None = None,
) -> NDArray[np.int64]:
    """Which of the teacher's logits belongs to each of the data's labels.

    `logits[:, columns(…)]` is in the data's order.  Names match if they are equal but for case,
    spaces and underscores; "LABEL_3" is "3".  Without names, the order is the data's, or that of
    the numbers if the data's labels are 0 to n − 1.
    outputs: number of the teacher's logits, where known.
    Raises TeacherError.
    """
    if teacher_labels is None:
        return _unnamed(data_labels, len(data_labels) if outputs is None else outputs)
    if outputs is not None and outputs != len(teacher_labels):
        raise TeacherError(
            f"the teacher names {len(teacher_labels)} classes ({_few(teacher_labels)}) and answers "
            f"with {outputs} logits; correct the id2label of its config.json"
        )
    chosen = []
    for label in data_labels:
        exact = [i for i, name in enumerate(teacher_labels) if name == label]
        found = exact or [i for i, name in enumerate(teacher_labels) if _key(name) == _key(label)]
        if not found:
            raise TeacherError(
                f"the teacher does not know the label {label!r}: it knows {_few(teacher_labels)}, "
                f"the data has {_few(data_labels)}; rename the labels of one of them"
            )
        if len(found) > 1 or found[0] in chosen:
            raise TeacherError(
                f"the label {label!r} does not tell the teacher's classes apart: it knows "
                f"{_few(teacher_labels)}, the data has {_few(data_labels)}; rename the labels of "
                "one of them"
            )
        chosen.append(found[0])
    return np.array(chosen, np.int64)


def _unnamed(data_labels: Sequence[str], outputs: int) -> NDArray[np.int64]:
    if outputs != len(data_labels):
        raise TeacherError(
            f"the teacher has {outputs} classes without names, the data has {len(data_labels)} "
            f"({_few(data_labels)}); name the teacher's in its config.json (id2label)"
        )
    wanted = {f"#{i}": i for i in range(outputs)}
    keys = [_key(label) for label in data_labels]
    if set(keys) == wanted.keys():
        return np.array([wanted[key] for key in keys], np.int64)
    return np.arange(outputs)


def own_names(names: Sequence[str]) -> tuple[str, ...] | None:
    """A teacher's class names, unless they are the LABEL_0, LABEL_1, … of no names."""
    unnamed = all(name == f"LABEL_{i}" for i, name in enumerate(names))
    return None if unnamed else tuple(names)


def _key(name: str) -> str:
    plain = re.sub(r"[\s_]", "", name.casefold())
    number = re.fullmatch(r"(?:label)?(\d+)", plain)
    return f"#{int(number[1])}" if number else plain


def _few(names: Sequence[str]) -> str:
    def shown() -> Iterator[str]:
        for name in names[:5]:
            yield repr(name if len(name) <= 40 else name[:39] + "…")
        if len(names) > 5:
            yield f"… {len(names)} in all"

    return ", ".join(shown())
