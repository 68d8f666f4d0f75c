"""Weights as bytes, and what of a setting goes into a key."""

from __future__ import annotations

import hashlib

import msgspec
import safetensors.torch
from torch import nn


def weights_of(module: nn.Module) -> bytes:
    state = {name: value.contiguous().cpu().clone() for name, value in module.state_dict().items()}
    return safetensors.torch.save(state)


def load_weights(module: nn.Module, weights: bytes) -> None:
    module.load_state_dict(safetensors.torch.load(weights))


def state_digest(module: nn.Module) -> str:
    return hashlib.sha256(weights_of(module)).hexdigest()


def plain(settings: msgspec.Struct) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(settings)
    return plain
