"""A certificate: what a bundle promised, what `bench` measured, on which board, with what.

A JSON file that anybody can read.  An OpenSSH signature in `FILE.sig` says who vouches for it; its
keys are specified in `docs/bench.md`.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill_runtime.bench import EXIT_CODES, BenchResult
from edgedistill_runtime.bundle import MAX_SIGNATURE_BYTES
from edgedistill_runtime.errors import BundleError
from edgedistill_runtime.files import write_atomically

KIND = "edgedistill-certificate"
"""Also the namespace of its signature."""
FORMAT_VERSION = 1
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Certificate:
    """A certificate that was checked."""

    verdict: str
    standing: str
    board: str | None
    date: str
    signer: str | None
    """The name that the signers' file gives; None: there is no signature."""


def signature_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def refuse_other_files(path: Path) -> None:
    """Raises BundleError if `path` is there and is not a certificate: it will be replaced."""
    if path.exists():
        try:
            _read(path)
        except BundleError as error:
            raise BundleError(f"{error}; give --certificate the name of a new file") from None
    elif not path.parent.is_dir():
        raise BundleError(f"no folder {path.parent}; make it, then bench again")


def write(path: Path, result: BenchResult, key: Path | None = None) -> None:
    """Write the certificate of a bench to `path`, and its signature beside it if there is a key.

    Raises BundleError (the key does not sign) or OSError; what was at `path` is then still there.
    The signature of what was there before does not stay: a power cut in between leaves one that
    fits nothing, and is refused.
    """
    data = encode(result)
    signed = None
    if key is not None:
        from edgedistill_runtime import signing

        signed = signing.sign(data, key, KIND)
    write_atomically(path, data)
    if signed is None:
        signature_path(path).unlink(missing_ok=True)
    else:
        write_atomically(signature_path(path), signed)


def encode(result: BenchResult) -> bytes:
    timing = {k: v for k, v in result.latency_ms.items() if k not in ("before", "after")}
    watched = {k: v for k, v in result.telemetry.items() if k != "samples"}
    table = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bundle": {"id": result.bundle, "name": result.name, "version": result.version},
        "verdict": result.verdict,
        "reason": result.reason,
        "notes": result.notes,
        "standing": result.standing,
        "promised": result.promised,
        "measured": {
            "latency_ms": {k: v for k, v in timing.items() if k != "histogram"},
            "peak_ram_mib": result.peak_ram_mib,
            "cold_start_ms": result.cold_start_ms,
            "energy_mj": result.energy_mj,
            "size_mib": result.size_mib,
            "golden_difference": result.golden_difference,
            "sustained": result.sustained,
        },
        "budget": [dataclasses.asdict(line) for line in result.budget],
        "board": {
            "profile": result.profile,
            "model": result.board,
            "emulated": result.emulated,
            **result.machine,
        },
        "telemetry": watched,
        "versions": result.versions,
        "histogram": timing["histogram"],
    }
    text = json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "replace") + b"\n"


def check(path: Path, bundle_id: str, signers: Path | None) -> Certificate:
    """Whether the certificate at `path` is one, of this bundle, and by whom.

    signers: an OpenSSH allowed_signers file.  With it there must be a signature; a signature
    without it cannot be checked.
    Raises BundleError with what is wrong.
    """
    data, table = _read(path)
    signer = _signer(path, data, signers)
    of = table["bundle"]["id"]
    if of != bundle_id:
        raise BundleError(
            f"{path} is the certificate of another bundle ({of[:12]}, this one is "
            f"{bundle_id[:12]}); bench this one"
        )
    _check_agreement(path, table)
    board = table["board"].get("model") or table["board"].get("cpu")
    return Certificate(table["verdict"], table["standing"], board, table["date"], signer)


def _signer(path: Path, data: bytes, signers: Path | None) -> str | None:
    beside = signature_path(path)
    if not beside.exists():
        if signers is not None:
            raise BundleError(f"{path} is not signed: there is no {beside.name}; bench with --key")
        return None
    if signers is None:
        raise BundleError(
            f"{path} is signed and nobody says by whom it may be; give --signers, an OpenSSH "
            "allowed_signers file"
        )
    from edgedistill_runtime import signing

    try:
        with beside.open("rb") as file:
            signature = file.read(MAX_SIGNATURE_BYTES + 1)
        return signing.verify(data, signature, KIND, signers)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None


def _check_agreement(path: Path, table: dict[str, Any]) -> None:
    """What the certificate says twice, it must say the same."""
    runs = sum(count for _, count in table["histogram"])
    met = [line.get("ok") for line in table["budget"]]
    if (
        table["verdict"] not in EXIT_CODES
        or runs != table["measured"]["latency_ms"]["runs"]
        or (table["verdict"] == "PASS" and met.count(True) != len(met))
    ):
        raise BundleError(f"{path} contradicts itself; it was altered: bench again")


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    wrong = f"{path} is not a certificate of edgedistill-run bench"
    try:
        table = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or table.get("kind") != KIND:
        raise BundleError(wrong)
    version = table.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has the format {version!r} and this runtime reads {FORMAT_VERSION}; "
            "upgrade with: pip install -U edgedistill-runtime"
        )
    if not _has_shape(table):
        raise BundleError(f"{wrong}: something is missing or of another type")
    return data, table


def _has_shape(table: dict[str, Any]) -> bool:
    """What `check` reads is there."""
    try:
        texts = [table["verdict"], table["standing"], table["date"], table["bundle"]["id"]]
        pairs = [(float(edge), count) for edge, count in table["histogram"]]
        return (
            all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count > 0 for _, count in pairs)
            and type(table["measured"]["latency_ms"]["runs"]) is int
            and isinstance(table["board"], dict)
            and all(isinstance(line, dict) for line in table["budget"])
        )
    except (KeyError, TypeError, ValueError):
        return False
