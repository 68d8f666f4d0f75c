"""What a teacher puts out for training samples, computed once and kept on disk, memory-mapped.

A key is the digest of the network and of the very rows it was shown, so outputs for other data or
of another teacher are never found.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.distill.features import Feature, Recorder
from edgedistill.samples import (
    ACCELERATOR_TOKENS,
    EVALUATION_TOKENS,
    Index,
    Inputs,
    Samples,
    evaluation_batches,
)
from edgedistill_runtime.files import write_atomically

FEATURE_BATCH = 64
FLOAT16_MAX = 65504.0


def answers(
    network: nn.Module,
    samples: Samples,
    device: torch.device,
    tell: Callable[[float], None] = lambda done: None,
) -> NDArray[np.float32]:
    """The network's logits for every row, in batches.  -> (n, classes)"""
    network.to(device).eval()
    made: NDArray[np.float32] | None = None
    done = 0
    tokens = EVALUATION_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS
    with torch.no_grad():
        for rows in evaluation_batches(samples, tokens):
            inputs = (x.to(device) for x in samples.batch(rows))
            logits = network(*inputs).float().cpu().numpy()
            if made is None:
                made = np.empty((len(samples), *logits.shape[1:]), np.float32)
            made[rows] = logits
            done += len(rows)
            tell(done / len(samples))
    network.cpu()
    assert made is not None
    return made


def fingerprint(samples: Samples) -> str:
    """Digest of all rows."""
    total = hashlib.sha256()
    for start in range(0, len(samples), 512):
        rows = np.arange(start, min(start + 512, len(samples)))
        for tensor in samples.batch(rows):
            total.update(str(tuple(tensor.shape)).encode())
            total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class FeatureSource:
    """A teacher's features for rows of samples: read from the disk once they are stored there.

    On the disk a row is its features one after the other in float16, without padding.
    """

    def __init__(
        self,
        network: nn.Module,
        features: tuple[Feature, ...],
        samples: Samples,
        adapt: Callable[[Inputs], Inputs],
        device: torch.device,
    ) -> None:
        """samples: the student's; the network is called with `adapt(inputs)`."""
        self.network, self.features, self.samples = network, features, samples
        self.adapt, self.device = adapt, device
        self._stored: NDArray[np.float16] | None = None
        of_tokens = samples.lengths is not None
        self._shapes = [
            tuple(
                0 if of_tokens and value.ndim > 2 and axis in feature.token_axes else size
                for axis, size in enumerate(value.shape[1:], 1)
            )
            for feature, value in zip(features, self.compute(np.arange(2)).values(), strict=True)
        ]
        """Of each feature of one row, 0 for the axes of tokens."""
        lengths = np.ones(len(samples), np.int64) if samples.lengths is None else samples.lengths
        sizes = sum(
            np.prod([n for n in shape if n], dtype=np.int64) * lengths ** shape.count(0)
            for shape in self._shapes
        )
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def size(self) -> int:
        """Bytes that all rows take on the disk."""
        return 2 * int(self._starts[-1])

    def compute(self, rows: Index) -> dict[str, Tensor]:
        """Features by key, by the network itself; texts are padded to the longest of the rows."""
        network = self.network.to(self.device).eval()
        recorder = Recorder(network, {path for f in self.features for path in f.paths})
        try:
            with torch.no_grad():
                inputs = self.adapt(tuple(x.to(self.device) for x in self.samples.batch(rows)))
                network(*inputs)
                return {f.key: f.of(recorder.outputs).float() for f in self.features}
        finally:
            recorder.detach()

    def store(self, path: Path, tell: Callable[[float], None]) -> None:
        """Write all rows, unless they are there."""
        if path.exists():
            os.utime(path)  # used: not yet to be evicted
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self._rows(tell))

    def read_from(self, path: Path) -> None:
        """Take features from the disk from now on."""
        self._stored = np.memmap(path, np.float16, "r")

    def of(self, rows: Index) -> dict[str, Tensor]:
        """Features by key: (b, …) float32, padded with zeros."""
        if self._stored is None:
            return self.compute(rows)
        lengths = [1] * len(rows) if self.samples.lengths is None else self.samples.lengths[rows]
        longest = int(max(lengths))
        made = [np.zeros((len(rows), *_full(s, longest)), np.float16) for s in self._shapes]
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            values, at = self._stored[self._starts[row] : self._starts[row + 1]], 0
            for shape, batch in zip(self._shapes, made, strict=True):
                full = _full(shape, int(length))
                count = math.prod(full)
                batch[i][_slices(full)] = values[at : at + count].reshape(full)
                at += count
        return {
            feature.key: torch.from_numpy(batch).to(self.device).float()
            for feature, batch in zip(self.features, made, strict=True)
        }

    def _rows(self, tell: Callable[[float], None]) -> Iterator[bytes]:
        for start in range(0, len(self.samples), FEATURE_BATCH):
            rows = np.arange(start, min(start + FEATURE_BATCH, len(self.samples)))
            values = [
                v.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu().numpy()
                for v in self.compute(rows).values()
            ]
            for i, row in enumerate(rows):
                length = 1 if self.samples.lengths is None else int(self.samples.lengths[row])
                for shape, value in zip(self._shapes, values, strict=True):
                    yield value[i][_slices(_full(shape, length))].tobytes()
            tell((start + len(rows)) / len(self.samples))


def _full(shape: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    return tuple(n or tokens for n in shape)


def _slices(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def translated(token_ids: NDArray[np.int64] | None) -> Callable[[Inputs], Inputs]:
    """Turns a student's token ids into the teacher's, so that both see the same tokens."""
    if token_ids is None:
        return lambda inputs: inputs
    table = torch.from_numpy(token_ids)

    def adapt(inputs: Inputs) -> Inputs:
        ids, mask = inputs
        return table.to(ids.device)[ids], mask

    return adapt
