"""Rates: how fast one board's engine runs each class of kernels, as a calibration fitted them.

A kernel's time is a non-negative sum over its work and bytes, times what boosted trees make of its
shape and of the working set around it.  `edgedistill calibrate` writes the file, `fitting` makes
it; docs/cost-model.md has the method and how good it is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgedistill.cost import features
from edgedistill.cost.features import Array
from edgedistill.cost.kernels import Kernel
from edgedistill.errors import SettingsError

if TYPE_CHECKING:
    import lightgbm

FORMAT = 1
LEAST_US = 0.05
BEYOND = 2.0
"""A size outside of what was measured by more than this factor is not trusted."""
MOST_DOUBT = 8.0
UNSEEN_FACTOR = 4.0
"""How far off a kernel of a class that was never measured may be, to either side."""

Size = Annotated[float, Meta(ge=0)]
Sizes = Annotated[tuple[Size, ...], Meta(min_length=14, max_length=14)]


class ClassRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one class of kernels."""

    coefficients: tuple[Size, Size, Size, Size, Size]
    """Microseconds for each of `features.LINEAR`."""
    least: Sizes
    most: Sizes
    """Range of `features.sizes` in what was measured."""
    kernels: Annotated[int, Meta(ge=1)]
    trees: str = ""
    """Name of its trees, shared with other classes; none where too few kernels were measured."""
    number: int = 0
    """Of the class, among those that share the trees."""


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that one calibration found out."""

    format: int
    engine: str
    engine_version: str
    threads: Annotated[int, Meta(ge=1)]
    date: str
    machine: str
    """Architecture that it was measured on."""
    about: dict[str, Any]
    """The board, as it described itself: processor, Python, numpy, governor, temperature, load."""
    call_us: Size
    """Of a call of the engine, whatever the network."""
    predict_us: Size
    """What `predict` adds to the engine's call and the preprocessing."""
    classes: Annotated[dict[str, ClassRates], Meta(min_length=1)]
    trees: dict[str, str]
    """LightGBM's text form, by name: trees for the logarithm of what the linear part misses."""
    bound: Annotated[float, Meta(ge=1)]
    """Factor from a prediction to its bound: 95 % split-conformal, over networks left out."""
    jitter: dict[str, Annotated[float, Meta(ge=1)]]
    """p50, p95 and p99 of a call over its least time, on the calibrated board."""
    steps: dict[str, Annotated[tuple[Size, ...], Meta(min_length=3, max_length=3)]]
    """Preprocessing: microseconds a call, and for each unit of its work; see `preprocessing`."""
    memory: dict[str, Any]
    """See `memory.MemoryRates`; empty where too few processes were measured."""
    cold_start_ms: tuple[Size, ...]
    """From a process's start to its first answer: always, for a MiB of weights, for a kernel."""
    quality: dict[str, Any]
    """Errors over networks that were left out of the fit, by precision."""

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @property
    def boosters(self) -> dict[str, lightgbm.Booster]:
        return _boosters(tuple(self.trees.items()))


@dataclass(frozen=True)
class Priced:
    """One network on the calibrated board, in microseconds of its least time."""

    floor_us: float
    low_us: float
    bound_us: float
    kernels_us: tuple[float, ...]
    """Of each kernel, in order."""
    unseen: tuple[str, ...]
    """Classes, or ranges of them, that were never measured."""


@functools.lru_cache(maxsize=8)
def load(path: Path, sha256: str) -> Rates:
    """The rates in a file with that digest.  Raises SettingsError in one sentence."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: the profile's rates cannot be read ({error.strerror}); calibrate again"
        ) from error
    if digest(data) != sha256:
        raise SettingsError(
            f"{path}: not the rates that the profile names (their SHA-256 differs); put the file "
            "back, or calibrate again"
        )
    try:
        rates = msgspec.json.decode(data, type=Rates)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"{path}: no rates ({error}); calibrate again") from error
    if rates.format != FORMAT:
        raise SettingsError(
            f"{path}: rates of format {rates.format}, and this version reads {FORMAT}; calibrate "
            "again"
        )
    for problem in _problems(rates):
        raise SettingsError(f"{path}: {problem}; calibrate again")
    return rates


def _problems(rates: Rates) -> Iterator[str]:
    """What types alone do not say."""
    for name in sorted({c.trees for c in rates.classes.values() if c.trees} - rates.trees.keys()):
        yield f"lacks the trees {name!r}"
    if "50" not in rates.jitter:
        yield "lacks the jitter of p50"
    if len(rates.cold_start_ms) not in (0, 3):
        yield f"cold_start_ms has {len(rates.cold_start_ms)} numbers, and not 3"
    try:
        for name, booster in rates.boosters.items():
            if booster.num_feature() != len(features.TREES):
                yield f"the trees {name!r} are of other features"
    except ValueError as error:
        yield str(error)


@functools.lru_cache(maxsize=8)
def _boosters(trees: tuple[tuple[str, str], ...]) -> dict[str, lightgbm.Booster]:
    lightgbm = load_lightgbm()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it raises
            return {name: lightgbm.Booster(model_str=text) for name, text in trees}
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"its trees cannot be read ({error})") from error


def price(networks: Sequence[Sequence[Kernel]], rates: Rates) -> list[Priced]:
    """Each network's least time for a call, batch 1."""
    rows: dict[tuple[str, tuple[float, ...], float], int] = {}
    places: list[list[int]] = []
    of_kernel: dict[Kernel, tuple[str, tuple[float, ...]]] = {}
    for kernels in networks:
        around = features.working_set(kernels)
        mine = []
        for kernel in kernels:
            key = of_kernel.get(kernel)
            if key is None:
                key = features.kernel_class(kernel), features.sizes(kernel)
                of_kernel[kernel] = key
            mine.append(rows.setdefault((*key, around), len(rows)))
        places.append(mine)
    names = [name for name, _, _ in rows]
    x = np.array([sizes for _, sizes, _ in rows])
    sets = np.array([around for _, _, around in rows])
    times, doubt = _times_us(names, x, sets, rates)
    return [
        _network(kernels, np.array(mine, int), times, doubt, names, rates)
        for kernels, mine in zip(networks, places, strict=True)
    ]


def _network(
    kernels: Sequence[Kernel],
    mine: Array,
    times: Array,
    doubt: Array,
    names: Sequence[str],
    rates: Rates,
) -> Priced:
    own, factor = times[mine], doubt[mine]
    floor = rates.call_us + float(own.sum())
    seen = rates.call_us + float(own[factor == 1].sum())
    unseen = sorted({names[i] for i, f in zip(mine, factor, strict=True) if f > 1})
    return Priced(
        floor,
        seen / rates.bound + float((own / factor)[factor > 1].sum()) / rates.bound,
        (seen + float((own * factor)[factor > 1].sum())) * rates.bound,
        tuple(own.tolist()),
        tuple(unseen),
    )


def _times_us(names: Sequence[str], x: Array, sets: Array, rates: Rates) -> tuple[Array, Array]:
    """Microseconds of each kernel, and the factor of doubt for what was never measured."""
    times, doubt = np.zeros(len(x)), np.ones(len(x))
    by_class: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_class.setdefault(name, []).append(place)
    for name, members in by_class.items():
        own, around = x[members], sets[members]
        known = rates.classes.get(name)
        if known is None:
            times[members], doubt[members] = _unseen_us(own, rates), UNSEEN_FACTOR
            continue
        doubt[members] = _doubt(own, known)
        times[members] = class_times_us(own, around, known, rates.boosters)
    return times, doubt


def class_times_us(
    x: Array, sets: Array, known: ClassRates, boosters: dict[str, lightgbm.Booster]
) -> Array:
    """The model itself.  x: (n, 14), sets: (n,) -> (n,)"""
    base: Array = np.maximum(features.linear_terms(x) @ np.array(known.coefficients), LEAST_US)
    if not known.trees:
        return base
    terms = features.tree_terms(x, sets, known.number)
    factor = boosters[known.trees].predict(terms, num_threads=1)
    times: Array = base * np.exp(factor)
    return times


def _doubt(x: Array, known: ClassRates) -> Array:
    """1 inside of what was measured; the further outside, the more."""
    least, most = np.array(known.least), np.array(known.most)
    sized = [features.ROWS, features.COLUMNS, features.DEPTH, features.READ, features.WEIGHTS]
    own = np.maximum(1, x[:, sized])
    above = own / np.maximum(1, most[sized])
    below = np.maximum(1, least[sized]) / own
    beyond = np.maximum(above, below).max(1)
    doubt: Array = np.minimum(MOST_DOUBT, np.sqrt(np.maximum(1, beyond / BEYOND)))
    return doubt


def _unseen_us(x: Array, rates: Rates) -> Array:
    """A class that was never measured: as the middle one of those that were, by their bytes."""
    terms = features.linear_terms(x)
    computes = x[:, features.DEPTH] > 0
    found = np.zeros(len(x))
    for with_macs in (False, True):
        like = [
            np.array(c.coefficients)
            for c in rates.classes.values()
            if (c.most[features.DEPTH] > 0) == with_macs
        ]
        if like:
            middle = np.median([terms @ coefficients for coefficients in like], 0)
            found = np.where(computes == with_macs, middle, found)
    return np.maximum(found, LEAST_US)


def load_lightgbm() -> Any:
    """The module, whose wheels lack one library.  Raises SettingsError."""
    try:
        import lightgbm
    except OSError as error:
        raise SettingsError(
            f"LightGBM cannot be loaded ({error}); install the system's OpenMP library, on Debian "
            "with: apt-get install libgomp1"
        ) from error
    return lightgbm


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


__all__ = [
    "FORMAT",
    "ClassRates",
    "Priced",
    "Rates",
    "class_times_us",
    "digest",
    "load",
    "price",
]
