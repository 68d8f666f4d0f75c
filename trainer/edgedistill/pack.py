"""Put everything the board needs into one bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgedistill_runtime.manifest as contract
from edgedistill.profiles import Choice, DeviceProfile
from edgedistill.samples import Samples
from edgedistill_runtime import arrays, bundle, texts
from edgedistill_runtime.backends import opener

GOLDEN_SAMPLES = 20
OVERHEAD_BYTES = 4096
"""What manifest, headers and array headers take, generously."""


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle, except what follows from it."""

    name: str
    version: int
    task: str
    model: bytes
    precision: str
    backend: contract.Backend
    sample: contract.Sample
    labels: tuple[str, ...]
    preprocess: tuple[dict[str, Any], ...]
    postprocess: tuple[dict[str, Any], ...]
    files: Mapping[str, bytes]
    """What preprocessing needs, by the names in its steps."""
    golden_inputs: NDArray[Any]
    golden_outputs: NDArray[np.float32]
    golden_atol: float
    budget: contract.Budget
    predicted: contract.Predicted
    accuracy: contract.Accuracy
    provenance: Mapping[str, Any]


def pack(path: Path, contents: Contents, profile: DeviceProfile, choice: Choice) -> str:
    """Write the bundle atomically.  Returns its id."""
    session = opener(contents.backend.name)(contents.model, contents.backend)
    model = f"model.{contents.backend.name}"
    if contents.sample.kind == "text":
        golden, encoded = "golden_inputs.json", texts.encode(contents.golden_inputs.tolist())
    else:
        golden, encoded = "golden_inputs.npy", arrays.encode(contents.golden_inputs)
    files = {
        model: contents.model,
        **contents.files,
        golden: encoded,
        "golden_outputs.npy": arrays.encode(contents.golden_outputs),
    }
    manifest = contract.Manifest(
        format_version=contract.FORMAT_VERSION,
        name=contents.name,
        version=contents.version,
        task=contents.task,
        backend=contents.backend,
        model=model,
        files=tuple(
            contract.File(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        ),
        sample=contents.sample,
        inputs=session.inputs,
        outputs=session.outputs,
        preprocess=contents.preprocess,
        postprocess=contents.postprocess,
        labels=contents.labels,
        golden=contract.Golden(
            golden,
            "golden_outputs.npy",
            len(contents.golden_inputs),
            contents.golden_atol,
        ),
        precision=contents.precision,
        budget=contents.budget,
        board=contract.Board(profile.name, profile.board.models, choice.name, choice.version),
        predicted=contents.predicted,
        accuracy=contents.accuracy,
        provenance=dict(contents.provenance),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return bundle.write(path, manifest, files)


def golden_rows(samples: Samples, seed: int) -> NDArray[np.int64]:
    """Which validation samples become golden ones: texts of every length, or any images."""
    chosen = np.random.default_rng(seed).permutation(len(samples))
    if samples.lengths is not None:
        by_length = chosen[np.argsort(samples.lengths[chosen], kind="stable")]
        places = np.linspace(0, len(samples) - 1, min(GOLDEN_SAMPLES, len(samples)))
        return np.sort(by_length[np.round(places).astype(int)])
    return np.sort(chosen[:GOLDEN_SAMPLES])
