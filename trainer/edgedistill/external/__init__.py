"""`pack`: a model that was trained elsewhere gets a budget, golden samples, and a bundle.

Nothing is trained.  The file is packed as it is, but for its batch, which becomes one; where a
bundle may not hold what is in it, it is simplified, and must then answer as before.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgedistill_runtime.manifest as contract
from edgedistill import budget as budgets
from edgedistill import pack as packing
from edgedistill import report, verify
from edgedistill.budget import Limit
from edgedistill.cache import digest
from edgedistill.cost import memory
from edgedistill.cost import tflite as tflite_cost
from edgedistill.cost.board import Around, price
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.kernels import Kernel, total_macs, total_parameters, weight_bytes
from edgedistill.cost.latency import LatencyEstimate
from edgedistill.cost.preprocessing import CHARACTERS_A_TOKEN
from edgedistill.errors import DataError, ExportError, SettingsError, unknown
from edgedistill.external import network as networks
from edgedistill.external import samples as test_split
from edgedistill.external import steps as preprocessings
from edgedistill.external import tflite
from edgedistill.external.network import Network
from edgedistill.external.samples import Samples
from edgedistill.external.steps import Steps
from edgedistill.profiles import Choice, DeviceProfile
from edgedistill.provenance import versions
from edgedistill.recipe import Recipe
from edgedistill.report import FitResult
from edgedistill_runtime.backends import opener
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.metrics import METRICS
from edgedistill_runtime.model import load

__all__ = ["TASKS", "Order", "pack"]

TASKS = tuple(f"{kind}-classification" for kind in test_split.KINDS)
PRICED_QUANTILE = 0.95
"""Latency is priced at the length that so many of the texts do not exceed, as in `fit`."""
_VERSIONS = ("python", "edgedistill", "edgedistill-runtime", "numpy")
_FORMATS = {"onnx": "ONNX", "tflite": "TFLite"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Order:
    """What to pack."""

    model: Path
    labels: str
    """A file with a name a line, or a JSON list, or the names with commas between."""
    recipe: Recipe
    """Task, test split (`data`), profile, limits, and how files become samples."""
    preprocess: str = ""
    """A TOML or JSON file of the steps; empty: what the model's input asks for."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str = ""
    """The tokenizer.json of a model for texts."""
    out: Path = Path("model.edge")


@dataclass(frozen=True)
class _Board:
    profile: DeviceProfile
    engine: Choice
    backend: contract.Backend


@dataclass(frozen=True)
class _Costs:
    kernels: tuple[Kernel, ...]
    latency: LatencyEstimate
    peak_ram_mib: float
    """The upper end of the estimate."""


def pack(order: Order) -> FitResult:
    """Pack a model, and judge it against its budget.  `exit_code` is 1 if it misses a limit.

    Raises EdgeDistillError, in one sentence, if the model, the data or an option will not do.
    """
    recipe = order.recipe
    if recipe.task not in TASKS:
        raise SettingsError(unknown("task", recipe.task, TASKS))
    if not recipe.data:
        raise SettingsError(
            "data are missing; give a labelled test split with --data, on which the packed model's "
            "accuracy is measured"
        )
    if order.out.resolve() == order.model.resolve():
        raise SettingsError(f"{order.out}: is the model itself; write the bundle to another file")
    kind = recipe.task.removesuffix("-classification")
    board = _board(recipe, "tflite" if order.model.suffix.lower() == ".tflite" else "onnx")
    labels = networks.read_labels(order.labels)
    network = _network(order, kind, len(labels), board)
    files = preprocessings.files(kind, order.tokenizer)
    if order.preprocess:
        steps = preprocessings.read(Path(order.preprocess), kind, order.mean, order.std)
    else:
        steps = preprocessings.default(kind, network.input, recipe, order.mean, order.std)
    samples = test_split.read(recipe, kind, steps, network.input, labels)
    inputs = preprocessings.prepared(steps, files, samples.x, network.input)
    logits = _logits(network, inputs, board.backend)  # (n, classes)
    costs = _costs(network, inputs, steps, samples, board)
    metric = recipe.metric or "accuracy"
    value = METRICS[metric](logits, samples.y)
    rows = _golden_rows(inputs, recipe.seed)
    contents = packing.Contents(
        name=recipe.name or f"{order.model.stem}-{recipe.profile_name}",
        version=recipe.version,
        task=recipe.task,
        model=network.model,
        precision=network.precision,
        backend=board.backend,
        sample=samples.sample,
        labels=labels,
        preprocess=steps,
        postprocess=() if network.softmax else ({"op": "softmax"},),
        files=files,
        golden_inputs=samples.x[rows],
        golden_outputs=logits[rows],
        golden_atol=verify.golden_tolerance(network.precision, logits[rows]),
        budget=replace(budgets.combine(recipe, board.profile), min_retention=None),
        predicted=contract.Predicted(
            costs.latency.standing,
            contract.Latency(costs.latency.p50_ms, costs.latency.bound_ms),
            costs.peak_ram_mib,
        ),
        accuracy=contract.Accuracy(metric, value, None, len(samples.y)),
        provenance=_provenance(order, labels, samples, board.backend.name),
    )
    bundle_id = _write(order.out, contents, board)
    return _result(order, bundle_id, contents, costs, samples)


def _board(recipe: Recipe, backend: str) -> _Board:
    profile = DeviceProfile.load(recipe.profile)
    engine = profile.engine(backend)
    if engine is None:
        raise SettingsError(
            f"{profile.name} has no engine for {_FORMATS[backend]} bundles; choose another profile "
            f"({' '.join(profile.why_no_engine().split())})"
        )
    return _Board(profile, engine, contract.Backend(backend, threads=profile.budget.threads))


def _network(order: Order, kind: str, classes: int, board: _Board) -> Network:
    if board.backend.name == "tflite":
        return tflite.read(order.model, kind, classes, board.engine, board.backend)
    return networks.read(order.model, kind, classes, order.recipe.max_length, board.backend)


def _logits(network: Network, inputs: Sequence[Array], backend: contract.Backend) -> Array:
    """-> (n, classes)"""
    session = opener(backend.name)(network.model, backend)
    logits = np.concatenate([session.run({network.input.name: each})[0] for each in inputs])
    strange = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(strange):
        raise DataError(
            f"the model's answer to sample {strange[0]} of the data is not a finite number "
            f"({len(strange):,} such samples); a board would refuse it"
        )
    return logits


def _golden_rows(inputs: Sequence[Array], seed: int) -> NDArray[np.int64]:
    """Seeded rows; of texts, rows of every length."""
    chosen = np.random.default_rng(seed).permutation(len(inputs))
    sizes = np.array([inputs[row].size for row in chosen])
    by_length = chosen[np.argsort(sizes, kind="stable")]  # of equal lengths, as drawn
    places = np.linspace(0, len(inputs) - 1, min(packing.GOLDEN_SAMPLES, len(inputs)))
    return np.sort(by_length[np.round(places).astype(int)])


def _costs(
    network: Network, inputs: Sequence[Array], steps: Steps, samples: Samples, board: _Board
) -> _Costs:
    length = ceil(np.quantile([each.shape[-1] for each in inputs], PRICED_QUANTILE))
    if board.backend.name == "tflite":
        found = tflite_cost.kernels_of(network.model)
    else:
        found = kernels_of(network.model, length)
    kernels = networks.priced(found)
    threads = board.backend.threads
    characters = round(length * CHARACTERS_A_TOKEN) if samples.sample.kind == "text" else 0
    around = Around(steps, samples.sample.shape, characters)
    # weights in operators that the cost model does not know count all the same
    known = weight_bytes(kernels, network.precision)
    others = max(0, len(network.model) - known) * memory.GEMM_FACTOR[network.precision]
    (cost,) = price(
        [kernels],
        board.profile,
        network.precision,
        threads,
        around,
        engine=board.engine.name,
        extra_mib=others / memory.MIB,
    )
    return _Costs(kernels, cost.latency, cost.peak_ram_bound_mib)


def _provenance(
    order: Order, labels: tuple[str, ...], samples: Samples, backend: str
) -> dict[str, Any]:
    found, x = versions(), samples.x
    names = (*_VERSIONS, "onnx", "onnxruntime") if backend == "onnx" else _VERSIONS
    plain = x.tolist() if x.dtype == object else np.ascontiguousarray(x).tobytes()
    return {
        "versions": {name: found[name] for name in names},
        "seed": order.recipe.seed,
        "model": hashlib.sha256(order.model.read_bytes()).hexdigest(),
        "data": digest(list(labels), plain, samples.y.tobytes()),
    }


def _write(path: Path, contents: packing.Contents, board: _Board) -> str:
    """Write the bundle, once the runtime has opened and checked it.  Returns its id."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        made = Path(folder) / "model.edge"
        bundle_id = packing.pack(made, contents, board.profile, board.engine)
        try:
            load(made).check_golden()
        except BundleError as error:
            reason = str(error).removeprefix(f"{made}: ")
            raise ExportError(f"the bundle would not be one that boards run: {reason}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, made.read_bytes())
    return bundle_id


def _result(
    order: Order, bundle_id: str, contents: packing.Contents, costs: _Costs, samples: Samples
) -> FitResult:
    latency, size_mib = costs.latency, order.out.stat().st_size / 2**20
    limits = _limits(
        contents.budget,
        {
            "latency_ms": (
                latency.bound_at(contents.budget.percentile),
                latency.standing,
            ),
            "peak_ram_mib": (costs.peak_ram_mib, latency.standing),
            "size_mib": (size_mib, "verified"),
            "cold_start_ms": (None, "unknown"),
            "energy_mj": (None, "unknown"),
        },
    )
    verdict, reason = report.verdict(limits)
    table = {
        "verdict": verdict,
        "reason": reason,
        "bundle": str(order.out),
        "bundle_id": bundle_id,
        "profile": order.recipe.profile_name,
        "task": contents.task,
        "metric": contents.accuracy.metric,
        "value": contents.accuracy.student,
        "test_samples": contents.accuracy.samples,
        "notes": list(samples.notes),
        "preprocess": list(contents.preprocess),
        "precision": contents.precision,
        "params": total_parameters(costs.kernels),
        "macs": total_macs(costs.kernels),
        "size_mib": size_mib,
        "predicted": {
            "latency_ms": {"p50": latency.p50_ms, "bound": latency.bound_ms},
            "peak_ram_mib": costs.peak_ram_mib,
            "cold_start_ms": None,
            "standing": latency.standing,
            "basis": latency.basis,
        },
        "budget": report.limits_json(limits),
    }
    return FitResult(order.out, table, tuple(limits))


def _limits(budget: contract.Budget, known: Mapping[str, tuple[float | None, str]]) -> list[Limit]:
    """Every limit that is set, with what is known about it."""
    return [
        Limit(name, limit, value, standing, None if value is None else value <= limit)
        for name, (value, standing) in known.items()
        if (limit := getattr(budget, name)) is not None
    ]
