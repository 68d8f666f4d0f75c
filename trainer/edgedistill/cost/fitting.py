"""From the times of a calibration to rates: the engine's overheads, then each class of kernels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedistill.cost import features
from edgedistill.cost.features import Array
from edgedistill.cost.kernels import Kernel
from edgedistill.cost.rates import FORMAT, LEAST_US, ClassRates, Rates, load_lightgbm, price
from edgedistill.errors import SettingsError

FOLDS = 5
LEAST_NETWORKS = 20
ENOUGH_FOR_TREES = 40
LEAST_KERNEL_US = 0.1
COVERAGE = 0.95
TREES = {
    "objective": "regression",
    "num_leaves": 15,
    "min_data_in_leaf": 5,
    "learning_rate": 0.05,
    "lambda_l2": 1.0,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 0,
    "verbose": -1,
}
ROUNDS = 600


@dataclass(frozen=True)
class Measured:
    """One network of a calibration."""

    name: str
    precision: str
    kernels: tuple[Kernel, ...]
    inputs: tuple[int, ...]
    """Of each kernel, constants included: the profiler takes longer to write more of them."""
    floor_us: float
    nodes_us: tuple[float, ...]


@dataclass(frozen=True)
class Overheads:
    call_us: float
    node_us: float
    """That the profiler adds to a node ..."""
    input_us: float
    """... and to each of its inputs."""


def overheads(measured: Sequence[Measured]) -> Overheads:
    """Weighted least squares: floor = call + Σ (duration − node − input · inputs)."""
    terms = np.array([[1.0, -len(m.kernels), -sum(m.inputs)] for m in measured])
    rest = np.array([m.floor_us - sum(m.nodes_us) for m in measured])
    weights = 1 / np.array([m.floor_us for m in measured])
    call, node, each = np.linalg.lstsq(terms * weights[:, None], rest * weights, rcond=None)[0]
    return Overheads(max(0.0, float(call)), float(node), float(each))


def kernel_times_us(measured: Measured, found: Overheads) -> Array:
    """Of each kernel, without the profiler's share, so that they add up to the floor."""
    raw = np.array(measured.nodes_us) - found.node_us - found.input_us * np.array(measured.inputs)
    raw = np.maximum(raw, LEAST_KERNEL_US)
    left = max(measured.floor_us - found.call_us, LEAST_KERNEL_US * len(raw))
    return np.asarray(np.maximum(raw * (left / raw.sum()), LEAST_KERNEL_US))


def fit(
    measured: Sequence[Measured],
    about: Mapping[str, Any],
    *,
    jitter: Mapping[str, float],
    predict_us: float = 0.0,
    steps: Mapping[str, tuple[float, ...]] | None = None,
    memory: Mapping[str, Any] | None = None,
    cold_start_ms: tuple[float, ...] = (),
) -> Rates:
    """The rates, with how good they are on networks that were left out.

    about: what the board said of itself.  Raises SettingsError for too few networks.
    """
    if len(measured) < LEAST_NETWORKS:
        raise SettingsError(
            f"{len(measured)} networks were measured twice, and rates take {LEAST_NETWORKS} at "
            "least; calibrate with more --max-seconds"
        )
    kept = {key: about[key] for key in about if key not in _OWN_FIELDS}
    plain = Rates(
        format=FORMAT,
        engine=about["engine"],
        engine_version=about["engine_version"],
        threads=about["threads"],
        date=about["date"],
        machine=about["machine"],
        about=kept,
        call_us=0.0,
        predict_us=predict_us,
        classes={},
        trees={},
        bound=1.0,
        jitter=dict(jitter),
        steps=dict(steps or {}),
        memory=dict(memory or {}),
        cold_start_ms=cold_start_ms,
        quality={},
    )
    fold = np.random.default_rng(0).permutation(len(measured)) % FOLDS
    ratios = np.ones(len(measured))
    for number in range(FOLDS):
        out = [m for m, f in zip(measured, fold, strict=True) if f == number]
        partial = _fitted(plain, [m for m, f in zip(measured, fold, strict=True) if f != number])
        priced = price([m.kernels for m in out], partial)
        ratios[fold == number] = [p.floor_us / m.floor_us for p, m in zip(priced, out, strict=True)]
    quality = {
        precision: _quality(ratios[[m.precision == precision for m in measured]])
        for precision in sorted({m.precision for m in measured})
    }
    return _replaced(_fitted(plain, measured), bound=_bound(ratios), quality=quality)


_OWN_FIELDS = ("kind", "format", "engine", "engine_version", "threads", "date", "machine")


def _fitted(plain: Rates, measured: Sequence[Measured]) -> Rates:
    from scipy.optimize import nnls

    lightgbm = load_lightgbm()
    found = overheads(measured)
    x: list[tuple[float, ...]] = []
    times, sets, shares = [], [], []
    by_class: dict[str, list[int]] = defaultdict(list)
    for network in measured:
        around = features.working_set(network.kernels)
        own = kernel_times_us(network, found)
        for kernel, time in zip(network.kernels, own, strict=True):
            by_class[features.kernel_class(kernel)].append(len(x))
            x.append(features.sizes(kernel))
            times.append(time)
            sets.append(around)
            shares.append(time / own.sum())
    all_x, all_times, all_sets = np.array(x), np.array(times), np.array(sets)
    importance = np.sqrt(np.clip(shares, 1e-4, 1))  # a kernel counts as it does in its network
    classes: dict[str, ClassRates] = {}
    grown: dict[str, list[tuple[Array, Array, Array]]] = defaultdict(list)
    for name, places in sorted(by_class.items()):
        own_x, own_times = all_x[places], all_times[places]
        terms = features.linear_terms(own_x) / own_times[:, None]
        coefficients, _ = nnls(terms, np.ones(len(places)))
        group, number = "", 0
        if len(places) >= ENOUGH_FOR_TREES:
            group = features.tree_group(name)
            number = len(grown[group])
            base = np.maximum(own_times * (terms @ coefficients), LEAST_US)
            grown[group].append(
                (
                    features.tree_terms(own_x, all_sets[places], number),
                    np.log(own_times / base),
                    importance[places],
                )
            )
        classes[name] = ClassRates(
            tuple(coefficients.tolist()),
            tuple(own_x.min(0).tolist()),
            tuple(own_x.max(0).tolist()),
            len(places),
            group,
            number,
        )
    trees = {}
    for group, parts in grown.items():
        terms, targets, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        data = lightgbm.Dataset(
            terms,
            targets,
            weight=weights,
            categorical_feature=[features.TREES.index("class")],
            params={"verbose": -1},
        )
        monotone = [int(i == features.WORKING_SET) for i in range(len(features.TREES))]
        made = lightgbm.train({**TREES, "monotone_constraints": monotone}, data, ROUNDS)
        trees[group] = made.model_to_string(num_iteration=-1)
    return _replaced(plain, call_us=found.call_us, classes=classes, trees=trees)


def _replaced(rates: Rates, **changes: Any) -> Rates:
    import msgspec

    return msgspec.structs.replace(rates, **changes)


def _bound(ratios: Array) -> float:
    """Split-conformal: the factor that covers so many of the networks left out."""
    over = np.sort(1 / ratios)
    rank = min(len(over), math.ceil(COVERAGE * (len(over) + 1))) - 1
    return max(1.0, float(over[rank]))


def _quality(ratios: Array) -> dict[str, float]:
    off = np.abs(ratios - 1)
    return {
        "networks": len(off),
        "mean_error": float(off.mean()),
        "median_error": float(np.median(off)),
        "within_10": float((off <= 0.1).mean()),
        "within_20": float((off <= 0.2).mean()),
        "bias": float(ratios.mean() - 1),
    }
