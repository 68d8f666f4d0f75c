"""Latency and energy on boards for which somebody published whole families of networks.

The Raspberry Pi 4 has 225 published rows of MobileNet V1 and V2 with TFLite (MLPerf, by Krai).  A
plain fit of multiply-accumulates to them is 6 % off inside those families and 24 to 43 % off
outside, so an operator is priced here by what its kernel does: blocks of a matrix product, copying
into columns, packing, taps of a depthwise filter, bytes that miss the cache.  What the rows cannot
tell apart stays near what the hardware says (`TERMS`).  `docs/published-rates.md` has the method,
its errors on families that it was not fitted on, and the sources; `benchmarks/published_rates.py`
makes the coefficients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from edgedistill.cost.kernels import WEIGHT_BYTES, Kernel
from edgedistill.cost.latency import SPEED_UP_EXPONENT, SPREAD, LatencyEstimate
from edgedistill.errors import SettingsError, unknown
from edgedistill.profiles import ENGINES, DeviceProfile

FILES = {"rpi4": "published/rpi4_tflite.json"}
"""Profile whose board was measured, and its coefficients, beside the profile."""
THREADS = 4
"""Of the published rows: all the cores."""
ARCHITECTURE = "aarch64"

L1_BYTES, L2_BYTES = 32 << 10, 1 << 20
"""Data caches of the Cortex-A72 in the BCM2711: a core's, and the one that all four share."""
LANES = {"float32": 8, "int8": 4}
"""Rows and columns of a block of ruy's matrix product on ARMv8.0 ..."""
DEPTH = {"float32": 1, "int8": 16}
"""... and the step in its depth: what is narrower is padded."""
PEAK = {"float32": 4, "int8": 8}
"""Multiply-accumulates a cycle and core: one 128-bit FMLA; SMULL or SMLAL2, of eight, without the
dot-product instruction."""

UNSEEN_MARGIN = 0.5
"""What kernels of a kind or size that the fit never saw may cost more, as a share of their price
(assumed)."""
UNKNOWN_MARGIN = 4.0
"""The same for operators that are priced by memory traffic only: five times (assumed: an
elementary function takes five to ten times as long as a copy)."""
THREADS_MARGIN = 1.15
"""Further factor for another number of threads: the exponent is another engine's."""
CLASS_MARGIN = SPREAD["class"] / SPREAD["own"]
"""Further factor for another board of the instruction set's class."""
DEEPEST_SEEN, DEPTHWISE_TAPS_SEEN, DEPTH_OF_STEM = 1792, 9, 27
"""Largest depth of a product, the depthwise filter, and the depth of the only dense filter larger
than one, among the published networks."""


@dataclass(frozen=True)
class Term:
    """A kind of work, and what a unit of it should cost by the hardware."""

    float32: float
    int8: float
    spread: float
    """How far the fit may go from there, as a share: the less is known, the more."""
    cycles: bool = True
    """Cost in cycles of the clock; else in nanoseconds (memory keeps its own clock)."""

    def prior(self, precision: str) -> float:
        return self.float32 if precision == "float32" else self.int8


TERMS = {
    # cycles at peak of one core of four: 70 to 75 % of the peak is usual for large blocks
    "product": Term(1 / 0.75, 1 / 0.7, 0.3),
    # the same, where two panels of a block leave the level-1 cache: four cores then share the L2
    "product_l2": Term(0.7, 0.3, 0.5),
    # an output of a product: bias, clamp, store; in int8 also the requantization
    "output": Term(0.5, 2.0, 1.0),
    # an element packed into blocks; weights are packed again at every call unless the product has
    # no more columns than one block (ruy's cache policy)
    "pack_data": Term(1.5, 0.8, 0.7),
    "pack_weights": Term(1.5, 0.8, 1.0),
    # a byte of data that misses the level-2 cache: memcpy at 2326 MB/s moves each byte twice
    "memory": Term(0.215, 0.215, 0.4, cycles=False),
    # a byte of weights, which are always cold in a network larger than the cache
    "cold_weights": Term(0.215, 0.215, 1.0, cycles=False),
    # a tap of a depthwise filter: three 128-bit loads and a store for four lanes
    "tap": Term(1.0, 1.0, 0.2),
    # an output of a depthwise filter: setting its row up, reading rows again, storing
    "depthwise": Term(5.0, 10.0, 2.0),
    # a run of elements, or a byte, copied into columns by one thread
    "column": Term(50.0, 50.0, 1.0),
    "column_byte": Term(0.43, 0.43, 0.2, cycles=False),
    # an element read or written by one thread; in int8 it is rescaled
    "element": Term(1.0, 3.0, 0.3),
    # an output of hard-swish; of an exponential (a table in int8): one thread
    "hard_swish": Term(2.0, 6.0, 0.3),
    "exponential": Term(6.0, 3.0, 0.3),
    # an operator's dispatch, and waking and joining the threads of a product
    "operator": Term(8000.0, 8000.0, 1.0),
    "threads": Term(8000.0, 8000.0, 1.0),
}

_ELEMENTWISE = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D AVERAGEPOOL BIASADD CAST CLIP CONCAT CONCATENATION DEPTH_TO_SPACE
    DEQUANTIZE DEQUANTIZELINEAR DIV EXPAND_DIMS FLATTEN GATHER GLOBALAVERAGEPOOL GLOBALMAXPOOL
    HARDSIGMOID IDENTITY LEAKY_RELU LEAKYRELU MAX_POOL_2D MAXIMUM MAXPOOL MEAN MINIMUM MUL PACK PAD
    PADV2 PRELU QLINEARADD QLINEARCONCAT QLINEARGLOBALAVERAGEPOOL QLINEARMUL QUANTIZE QUANTIZELINEAR
    REDUCE_MAX REDUCEMEAN RELU RELU6 RELU_N1_TO_1 RESHAPE SHAPE SLICE SPACE_TO_DEPTH SPLIT SQUEEZE
    STRIDED_SLICE SUB SUM TRANSPOSE UNPACK UNSQUEEZE
    """.split()  # noqa: SIM905 (a line an operator would be a page)
)
_HARD_SWISH = frozenset(("HARD_SWISH", "HARDSWISH"))
_EXPONENTIAL = frozenset(
    """
    BIASGELU ELU ERF EXP FASTGELU GELU LOG LOG_SOFTMAX LOGISTIC QLINEARSIGMOID QLINEARSOFTMAX
    QUICKGELU SIGMOID SILU SOFTMAX TANH
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Energy:
    """Energy of one inference, drawn at the mains."""

    mean_mj: float
    bound_mj: float
    standing: str
    basis: str


@dataclass(frozen=True)
class Work:
    """What a kernel does, in units of each term."""

    units: tuple[float, ...]
    """In the order of TERMS; cold weights as if none of them were in the cache."""
    unseen: bool
    """Of a kind or size that no published network had."""
    unknown: bool
    """Priced by its memory traffic alone."""


def price(
    kernels: Sequence[Kernel],
    profile: DeviceProfile,
    precision: str,
    threads: int,
    engine: str,
    *,
    version: str | None = None,
    mhz: float | None = None,
) -> LatencyEstimate | None:
    """Latency of one call, batch 1, from published rates; None where there are none.

    version, mhz: of the published measurement, where another than the newest version at the
    profile's clock is wanted ("2.4.1", 1500).
    """
    fitted = _fitted(profile, engine)
    if fitted is None or precision not in WEIGHT_BYTES:
        return None
    rates = fitted.rates(precision, version)
    clock, scale, factor = _board(profile, fitted)
    own, bound = _sums(kernels, precision, rates["cost"], (mhz or clock) / 1e3)
    if threads != THREADS:
        scale *= (THREADS / threads) ** SPEED_UP_EXPONENT[precision]
        factor *= THREADS_MARGIN
    where = "" if fitted.owner.board.soc == profile.board.soc else f" scaled to {profile.name}"
    cost = sum(own) * scale
    return LatencyEstimate(
        cost,
        bound * scale * factor * rates["bound"],
        "estimated",
        f"{rates['engine']} {precision} on {fitted.owner.name}{where} ({fitted.source})",
        cost / (factor * rates["bound"]),
        kernels_ms=tuple(ms * scale for ms in own),
        unseen=unpriced(kernels),
    )


def energy_mj(
    kernels: Sequence[Kernel],
    profile: DeviceProfile,
    precision: str,
    threads: int,
    engine: str,
    *,
    version: str | None = None,
) -> Energy | None:
    """Energy of one inference, from the published rows that have it; None where none match.

    It holds for the measured board with all its cores busy, at the clock of the measurement.
    """
    fitted = _fitted(profile, engine)
    if fitted is None or threads != THREADS or fitted.owner.board.soc != profile.board.soc:
        return None
    rates = fitted.rates(precision, version) if precision in WEIGHT_BYTES else {}
    energy = rates.get("energy")
    if energy is None:
        return None
    own, bound = _sums(kernels, precision, energy["cost"], energy["mhz"] / 1e3)
    return Energy(
        sum(own),
        bound * energy["bound"],
        "estimated",
        f"at the mains, {rates['engine']} {precision} on {fitted.owner.name} at {energy['mhz']} "
        f"MHz ({fitted.source})",
    )


def unpriced(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    """Operators without a rate of their own, each once; they are priced by memory traffic."""
    return tuple(dict.fromkeys(k.op for k in kernels if work(k, "float32").unknown))


def units(kernels: Sequence[Kernel], precision: str) -> list[float]:
    """Work of a network, in the order of TERMS."""
    cold = _cold(kernels, precision)
    sums = [0.0] * len(TERMS)
    for kernel in kernels:
        for place, amount in enumerate(work(kernel, precision).units):
            sums[place] += amount * (cold if place == _COLD else 1.0)
    return sums


def milliseconds(costs: Sequence[float], ghz: float) -> list[float]:
    """Cost of a unit of each term, in the order of TERMS, from cycles or nanoseconds."""
    return [
        cost / (ghz if term.cycles else 1.0) / 1e6
        for cost, term in zip(costs, TERMS.values(), strict=True)
    ]


@lru_cache(maxsize=65536)
def work(kernel: Kernel, precision: str) -> Work:
    """What TFLite's kernel does for one call."""
    amounts = dict.fromkeys(TERMS, 0.0)
    amounts["operator"] = 1.0
    unseen = unknown = False
    if kernel.depthwise:
        unseen = _depthwise(kernel, precision, amounts)
    elif kernel.macs:
        unseen = _product(kernel, precision, amounts)
    else:
        unseen, unknown = _pointwise(kernel, precision, amounts)
    return Work(tuple(amounts.values()), unseen, unknown)


_COLD = list(TERMS).index("cold_weights")


def _depthwise(kernel: Kernel, precision: str, amounts: dict[str, float]) -> bool:
    outputs = math.prod(kernel.output)
    amounts["tap"] = kernel.macs / THREADS
    amounts["depthwise"] = outputs / THREADS
    amounts["memory"] = _missed(kernel, precision)
    return kernel.macs > DEPTHWISE_TAPS_SEEN * outputs


def _product(kernel: Kernel, precision: str, amounts: dict[str, float]) -> bool:
    """A convolution or matrix product: (rows × depth) · (depth × columns), as ruy computes it."""
    size, lane = WEIGHT_BYTES[precision], LANES[precision]
    image = "CONV" in kernel.op.upper() and len(kernel.output) > 2
    outputs = math.prod(kernel.output)
    rows = kernel.output[1 if image else -1] if kernel.output else 1
    columns = max(1, outputs // max(1, rows))
    depth = max(1, round(kernel.macs / max(1, rows * columns)))
    wide, tall, deep = _up(columns, lane), _up(rows, lane), _up(depth, DEPTH[precision])
    cycles = wide * tall * deep / (PEAK[precision] * THREADS)
    amounts["product"] = cycles
    panels = 2 * lane * deep * size
    amounts["product_l2"] = cycles * max(0.0, 1 - L1_BYTES / panels)
    amounts["output"] = wide * tall / THREADS
    amounts["pack_data"] = wide * deep / THREADS
    once = columns <= lane  # packed when the model is loaded
    amounts["pack_weights"] = 0.0 if once else tall * deep / THREADS
    amounts["cold_weights"] = kernel.weights * size * (1 if once else 3)  # read, write, read
    amounts["threads"] = 1.0
    spread = 0
    if image:
        channels = max(1, kernel.input[1])
        places = math.prod(kernel.input) // channels
        if depth != channels or places != columns:
            spread = columns * depth * size
            amounts["column"] = columns * math.sqrt(max(1.0, depth / channels))
            amounts["column_byte"] = spread
    amounts["memory"] = _missed(kernel, precision, packed=wide * deep * size, spread=spread)
    return depth > DEEPEST_SEEN or (spread > 0 and depth != DEPTH_OF_STEM)


def _pointwise(kernel: Kernel, precision: str, amounts: dict[str, float]) -> tuple[bool, bool]:
    """An operator without multiply-accumulates: whether it is of an unseen kind, or unknown."""
    name = kernel.op.upper()
    looked_up = name in ("GATHER", "EMBEDDING_LOOKUP")
    read = math.prod(kernel.output if looked_up else kernel.input)
    written = math.prod(kernel.output)
    amounts["memory"] = _missed(kernel, precision)
    if name in _HARD_SWISH:
        amounts["hard_swish"] = written
        return True, False
    if name in _EXPONENTIAL:
        amounts["exponential"] = written
        return True, False
    amounts["element"] = read + written
    unknown = name not in _ELEMENTWISE and not looked_up
    return name not in ("ADD", "AVERAGE_POOL_2D", "RESHAPE"), unknown


def _missed(kernel: Kernel, precision: str, packed: int = 0, spread: int = 0) -> float:
    """Bytes of data that a call moves past the level-2 cache: none if all it touches fits."""
    size = WEIGHT_BYTES[precision]
    moved = size * (math.prod(kernel.input) + math.prod(kernel.output)) + packed
    return moved * max(0.0, 1 - L2_BYTES / max(1, moved + spread))


def _cold(kernels: Sequence[Kernel], precision: str) -> float:
    """Share of the weights that the rest of the network has pushed out of the cache."""
    stored = WEIGHT_BYTES[precision] * sum(k.weights for k in kernels if k.macs)
    return max(0.0, 1 - L2_BYTES / max(1, stored))


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _sums(
    kernels: Sequence[Kernel], precision: str, cost: Mapping[str, float], ghz: float
) -> tuple[list[float], float]:
    """Milliseconds (or mJ) of each kernel, and the sum if unseen and unknown ones cost more."""
    each = milliseconds([cost[name] for name in TERMS], ghz)
    cold = _cold(kernels, precision)
    own: list[float] = []
    extra = 0.0
    for kernel in kernels:
        done = work(kernel, precision)
        spent = sum(a * b for a, b in zip(done.units, each, strict=True) if a)
        spent -= done.units[_COLD] * each[_COLD] * (1 - cold)
        own.append(spent)
        if done.unknown:
            extra += spent * UNKNOWN_MARGIN
        elif done.unseen:
            extra += spent * UNSEEN_MARGIN
    return own, sum(own) + extra


@dataclass(frozen=True)
class Fitted:
    """The coefficients of one measured board, and the board."""

    owner: DeviceProfile
    source: str
    rows: tuple[dict[str, Any], ...]

    def rates(self, precision: str, version: str | None) -> dict[str, Any]:
        """Of a version, or the newest."""
        mine = [row for row in self.rows if row["precision"] == precision]
        if version is None:
            return max(mine, key=lambda row: _release(row["version"]))
        known = {row["version"]: row for row in mine}
        if version not in known:
            raise SettingsError(unknown("published version", version, known))
        return known[version]


def _fitted(profile: DeviceProfile, engine: str) -> Fitted | None:
    """The measured board that this one is, or the first of its class."""
    if engine not in ENGINES["tflite"] or profile.board.arch != ARCHITECTURE:
        return None
    having = [each.arch for each in profile.os if engine in (e.name for e in each.engines)]
    if having and ARCHITECTURE not in having:  # the engine is only in a 32-bit system
        return None
    candidates = [_load(name) for name in FILES]
    own = [each for each in candidates if each.owner.board.soc == profile.board.soc]
    same = [each for each in candidates if each.owner.isa == profile.isa]
    return next(iter(own + same), None)


@cache
def _load(name: str) -> Fitted:
    owner = DeviceProfile.load(name)
    path = Path(owner.path).parent / FILES[name]
    data = json.loads(path.read_text(encoding="utf-8"))
    return Fitted(owner, data["source"], tuple(data["rates"]))


def _board(profile: DeviceProfile, fitted: Fitted) -> tuple[float, float, float]:
    """Clock to price at in MHz, and for another board what it is slower by, and the margin."""
    owner = fitted.owner
    if profile.board.soc == owner.board.soc:
        return _mhz(profile) or _mhz(owner) or 1500.0, 1.0, 1.0
    clock = _mhz(owner) or 1500.0
    both = {
        (row.engine, row.model, row.precision, row.threads): row.latency_ms
        for row in owner.published
    }
    ratios = sorted(
        row.latency_ms / both[key]
        for row in profile.published
        if (key := (row.engine, row.model, row.precision, row.threads)) in both
    )
    slower = ratios[len(ratios) // 2] if ratios else clock / (_mhz(profile) or clock)
    return clock, slower, CLASS_MARGIN


def _mhz(profile: DeviceProfile) -> float | None:
    return max((c.mhz for c in profile.cluster if c.mhz), default=None)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
