"""What any model will cost on a board: an ONNX or TFLite file, or a bundle, ours or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgedistill.cost import board, latency
from edgedistill.cost.board import Around, Cost
from edgedistill.cost.features import kernel_class
from edgedistill.cost.kernels import Kernel, total_macs, total_parameters, weight_bytes
from edgedistill.cost.latency import LatencyEstimate
from edgedistill.cost.preprocessing import CHARACTERS_A_TOKEN
from edgedistill.errors import ExportError, SettingsError
from edgedistill.profiles import DeviceProfile

MIB = 2**20
LENGTH = 64
"""Tokens of a text, or whatever dimension a model leaves open, where nobody says."""
INTEGER_SHARE = 0.5
"""Share of the multiply-accumulates in integer kernels from which a model counts as int8."""


@dataclass(frozen=True)
class Share:
    """One class of kernels in a model."""

    kernels: str
    count: int
    macs: int
    ms: float
    share: float
    measured: bool
    """False: priced without having been measured; the interval is wider for it."""


@dataclass(frozen=True)
class Estimate:
    model: str
    profile: str
    engine: str
    precision: str
    threads: int
    whole_call: bool
    """Whether pre- and postprocessing are in the latency: they are for a bundle."""
    latency: LatencyEstimate
    peak_ram_mib: float
    peak_ram_bound_mib: float
    cold_start_ms: float | None
    """Process start to first answer; None where the board was not calibrated."""
    size_mib: float
    macs: int
    parameters: int
    energy_mj: float | None
    energy_bound_mj: float | None
    table: tuple[Share, ...]
    """What costs, the most expensive first."""

    def to_json(self) -> dict[str, Any]:
        latency = self.latency
        tables = asdict(replace(self, latency=None))  # type: ignore[arg-type]
        del tables["latency"]
        return tables | {
            "latency_ms": {
                "p50": latency.p50_ms,
                "low": latency.low_ms,
                "bound": latency.bound_ms,
                **{f"p{p}_bound": latency.bound_at(p) for p in (95, 99)},
            },
            "standing": latency.standing,
            "basis": latency.basis,
            "unseen": list(latency.unseen),
        }


def estimate(
    path: Path, profile: str, *, threads: int | None = None, length: int | None = None
) -> Estimate:
    """What the model in a file costs on a board.

    threads: of the engine; a bundle's own, else the profile's.  length: what an open dimension of
    the input is taken to be.
    Raises SettingsError, ExportError (no model that can be priced), BundleError.
    """
    device = DeviceProfile.load(profile)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; give an .onnx, .tflite or .edge") from error
    if path.suffix == ".edge":
        return _of_bundle(path, device, threads, length or LENGTH)
    threads = threads or device.budget.threads
    if path.suffix == ".tflite":
        return _of_tflite(path, data, device, threads)
    if path.suffix != ".onnx":
        raise SettingsError(
            f"{path}: {path.suffix or 'no suffix'}; give an .onnx, .tflite or .edge"
        )
    kernels = _onnx_kernels(path, data, length or LENGTH)
    return _estimate(path, len(data), kernels, precision_of(kernels), device, threads)


def precision_of(kernels: Sequence[Kernel]) -> str:
    """By where most of the work is done."""
    integer = sum(k.macs for k in kernels if k.op.startswith("Q") or "Integer" in k.op)
    integer += sum(k.macs for k in kernels if k.op == "DynamicQuantizeMatMul")
    return "int8" if integer > INTEGER_SHARE * total_macs(tuple(kernels)) else "float32"


def _onnx_kernels(path: Path, data: bytes, length: int) -> tuple[Kernel, ...]:
    from edgedistill.cost.graph import kernels_of

    try:
        return kernels_of(data, length)
    except Exception as error:  # onnx and onnxruntime raise a dozen types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(f"{path}: onnxruntime cannot run this model: {reason}") from error


def _of_bundle(path: Path, device: DeviceProfile, threads: int | None, length: int) -> Estimate:
    from edgedistill_runtime import bundle

    opened = bundle.read(path)
    manifest = opened.manifest
    characters = round(length * CHARACTERS_A_TOKEN) if manifest.sample.kind == "text" else 0
    around = Around(manifest.preprocess, manifest.sample.shape, characters)
    kernels = _onnx_kernels(path, opened.files[manifest.model], length)
    return _estimate(
        path,
        opened.size,
        kernels,
        manifest.precision,
        device,
        threads or manifest.backend.threads,
        around,
    )


def _of_tflite(path: Path, data: bytes, device: DeviceProfile, threads: int) -> Estimate:
    from edgedistill.cost import tflite

    try:
        kernels, precision = tflite.kernels_of(data), tflite.precision_of(data)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error
    choice = device.engine("tflite")
    if choice is None:
        raise SettingsError(f"{device.name} has no engine for TFLite; give an .onnx")
    return _estimate(path, len(data), kernels, precision, device, threads, engine=choice.name)


def _estimate(
    path: Path,
    size: int,
    kernels: tuple[Kernel, ...],
    precision: str,
    device: DeviceProfile,
    threads: int,
    around: Around | None = None,
    engine: str = "onnxruntime",
) -> Estimate:
    from edgedistill.cost import published

    (cost,) = board.price([kernels], device, precision, threads, around, engine)
    energy = published.energy_mj(kernels, device, precision, threads, engine)
    return Estimate(
        str(path),
        device.name,
        engine,
        precision,
        threads,
        around is not None,
        cost.latency,
        cost.peak_ram_mib,
        cost.peak_ram_bound_mib,
        _cold_start_ms(kernels, precision, device, threads, engine),
        size / MIB,
        total_macs(kernels),
        total_parameters(kernels),
        energy.mean_mj if energy else None,
        energy.bound_mj if energy else None,
        _table(kernels, cost),
    )


def _cold_start_ms(
    kernels: Sequence[Kernel], precision: str, device: DeviceProfile, threads: int, engine: str
) -> float | None:
    found = latency.rates_of(device, precision, threads, engine)
    if not found or not found.cold_start_ms:
        return None
    mib = weight_bytes(tuple(kernels), precision) / MIB
    terms = (1.0, mib, float(len(kernels)))
    return sum(c * t for c, t in zip(found.cold_start_ms, terms, strict=True))


def _table(kernels: Sequence[Kernel], cost: Cost) -> tuple[Share, ...]:
    times = cost.latency.kernels_ms
    rows: dict[str, list[float]] = {}
    for kernel, ms in zip(kernels, times, strict=True):
        row = rows.setdefault(kernel_class(kernel), [0, 0, 0.0])
        row[0] += 1
        row[1] += kernel.macs
        row[2] += ms
    total = sum(times)
    unseen = set(cost.latency.unseen)
    seen = {kernel_class(k): not {k.op, kernel_class(k)} & unseen for k in kernels}
    return tuple(
        Share(name, int(count), int(macs), ms, ms / total, seen[name])
        for name, (count, macs, ms) in sorted(rows.items(), key=lambda item: -item[1][2])
    )


__all__ = ["Estimate", "Share", "estimate", "precision_of"]
