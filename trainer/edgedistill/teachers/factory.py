"""A teacher that the user's own code builds: a module, or the function that makes it, named as
`package.module:function` or by an entry point."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edgedistill.errors import TeacherError, unknown
from edgedistill.teachers.inputs import Readings, Unnormalized
from edgedistill.teachers.loaded import LoadedTeacher, logits_of, state_digest
from edgedistill.teachers.request import Request
from edgedistill.teachers.text import TeacherEncoder

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(source: str) -> bool:
    return REFERENCE.fullmatch(source) is not None


class _Network(nn.Module):
    """The user's network, fed as he expects it, its answer checked."""

    def __init__(self, model: nn.Module, inputs: nn.Module | None) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *batch: Tensor) -> Tensor:
        inputs = batch if self.inputs is None else (self.inputs(*batch),)
        return logits_of(self.model(*inputs), batch[0].shape[0])


def load(request: Request) -> LoadedTeacher:
    """What `package.module:function` returns."""
    path, _, name = request.source.partition(":")
    with _working_folder_first():
        try:
            module = importlib.import_module(path)
        except Exception as error:  # the user's code may raise anything
            raise TeacherError(
                f"{request.source}: {path!r} cannot be imported ({_told(error)}); give "
                "module:function of an installed package or of a file in this folder"
            ) from error
        function = getattr(module, name, None)
        if not callable(function):
            known = [n for n, value in vars(module).items() if inspect.isfunction(value)]
            raise TeacherError(f"{request.source}: {unknown('function', name, known)}")
        return made_by(function, request)


def made_by(function: Callable[[], Any], request: Request) -> LoadedTeacher:
    """Call the function without arguments; it returns the network."""
    try:
        model = function()
    except Exception as error:
        raise TeacherError(
            f"{request.source}: the function failed ({_told(error)}); it is called "
            "without arguments and returns a torch.nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise TeacherError(
            f"{request.source}: the function returned a {type(model).__name__}; it must return a "
            "torch.nn.Module"
        )
    return of(model, request, inspect.getmodule(function))


def of(model: nn.Module, request: Request, module: ModuleType | None = None) -> LoadedTeacher:
    """The user's network itself.  module: where it was made, if known.

    Text: called with (ids, mask) of the tokens of its attribute `tokenizer` (a fast one).  Images:
    with pixels of 0 to 1.  Audio: with waveforms of −1 to 1, at its attribute `sample_rate_hz` if
    it has one, else at the data's rate.  Sensors: with readings (batch, channels, steps).  An
    attribute `labels` names its classes.
    """
    model = model.float()
    encoder = inputs = None
    if request.task == "text-classification":
        encoder = _encoder(request, model)
    elif request.task != "audio-classification":
        assert request.norm is not None, "the teacher needs the student's normalisation"
        images = request.task == "image-classification"
        inputs = Unnormalized(request.norm) if images else Readings(request.norm)
    digest = hashlib.sha256(state_digest(model) + _code(model, module))
    if encoder is not None:
        digest.update(encoder.json + f" {encoder.max_length} {encoder.pad_id}".encode())
    return LoadedTeacher(
        name=request.source,
        digest=digest.hexdigest(),
        labels=_labels(request.source, model),
        trained=True,
        network=_Network(model, inputs).eval(),
        encoder=encoder,
        tokenizer_json=None if encoder is None else encoder.json,
        body=_body(model),
        sample_rate_hz=_rate(request.source, model),
    )


@contextmanager
def _working_folder_first() -> Iterator[None]:
    """As `python -m` does: a file in this folder can be imported."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _told(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _encoder(request: Request, model: nn.Module) -> TeacherEncoder | None:
    from tokenizers import Tokenizer

    given: Any = getattr(model, "tokenizer", None)
    if given is None:
        return None
    backend = getattr(given, "backend_tokenizer", given)
    if not isinstance(backend, Tokenizer):
        raise TeacherError(
            f"{request.source}: its attribute 'tokenizer' is a {type(given).__name__}; it must be "
            "a tokenizers.Tokenizer or a fast tokenizer of transformers"
        )
    pad_id = getattr(given, "pad_token_id", None)
    return TeacherEncoder(backend, request.max_length, pad_id)


def _labels(source: str, model: nn.Module) -> tuple[str, ...] | None:
    labels: Any = getattr(model, "labels", None)
    if labels is None:
        return None
    if not isinstance(labels, list | tuple) or not all(isinstance(x, str) for x in labels):
        raise TeacherError(f"{source}: its attribute 'labels' must be a list of class names")
    return tuple(labels)


def _rate(source: str, model: nn.Module) -> int | None:
    rate: Any = getattr(model, "sample_rate_hz", None)
    if rate is not None and (not isinstance(rate, int) or not 1000 <= rate <= 192_000):
        raise TeacherError(
            f"{source}: its attribute 'sample_rate_hz' is {rate!r}; it must be a number of samples "
            "a second, 1,000 to 192,000"
        )
    return rate


def _body(model: nn.Module) -> nn.Module | None:
    """The base model, where the network is one of transformers."""
    body: Any = getattr(model, "base_model", None)
    return body if isinstance(body, nn.Module) and hasattr(model, "config") else None


def _code(model: nn.Module, module: ModuleType | None) -> bytes:
    """SHA-256 over the code that answers: the module of the function, and every class in use."""
    total = hashlib.sha256(f"{torch.__version__}\n{model}".encode())
    classes = {f"{type(m).__module__}.{type(m).__qualname__}": type(m) for m in model.modules()}
    things: list[Any] = [classes[name] for name in sorted(classes)]
    if module is not None:
        things.insert(0, module)
    for thing in things:
        try:
            total.update(inspect.getsource(thing).encode())
        except (OSError, TypeError):  # no file, as in a notebook
            total.update(repr(thing).encode())
    return total.digest()
