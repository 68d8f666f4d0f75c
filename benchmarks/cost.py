"""How good the cost model is, on whole networks that no calibration saw.

    python benchmarks/cost.py                    (eleven minutes; nothing else may run)
    python benchmarks/cost.py --profile my-pc    (judge a profile that was calibrated before)

Calibrates this machine with one thread, measures every network of the zoo (`zoo.py`) in the same
settings, and compares the predictions with the least time of each, its peak memory in fresh
processes, and the whole calls of bundles.  Writes benchmarks/results/cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))
import truth
import zoo

from edgedistill.calibrate import calibrate
from edgedistill.cost import memory, rates
from edgedistill.cost.graph import kernels_of
from edgedistill.cost.latency import rates_of
from edgedistill.cost.memory import MemoryRates
from edgedistill.estimate import estimate
from edgedistill.profiles import DeviceProfile
from edgedistill.provenance import versions
from edgedistill_runtime import bundle, preprocess
from edgedistill_runtime.calibrate import least_us
from edgedistill_runtime.files import write_atomically
from edgedistill_runtime.model import Model

RESULTS = Path(__file__).parent / "results" / "cost.json"
CLOSE, MEMORY_SHARE, MEMORY_MIB = 0.10, 0.05, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="a calibrated profile; otherwise a new one is made")
    parser.add_argument("--allow-busy", action="store_true")
    parser.add_argument("bundles", nargs="*", type=Path, help="whole calls of these are judged too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as folder:
        seconds: dict[str, float] = {}
        if given.profile is None:
            os.environ["XDG_CONFIG_HOME"] = folder
            networks = list(zoo.networks())  # exported before anything is timed
            made = calibrate("bench", fresh=True, allow_busy=given.allow_busy)
            seconds = {"measuring": made.seconds_measuring, "fitting": made.seconds_fitting}
            profile = "bench"
        else:
            profile, networks = given.profile, list(zoo.networks())
        device = DeviceProfile.load(profile)
        found = rates_of(device, "float32", 1)
        if found is None:
            parser.error(f"{profile} has no rates for one thread; calibrate it")
        result = {
            "machine": {"cpu": found.about.get("cpu"), "system": platform.platform()},
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": seconds,
            "left_out": found.quality,
            "bound": found.bound,
            "jitter": found.jitter,
            **judged(networks, found),
            "whole_calls": [whole_call(path, profile) for path in given.bundles],
        }
    write_atomically(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    show(result)


def judged(networks: Sequence[zoo.Network], found: rates.Rates) -> dict[str, Any]:
    """Predictions against the truth, network by network and in groups."""
    kernels = [kernels_of(each.model, each.length) for each in networks]
    priced = rates.price(kernels, found)
    fitted = MemoryRates.of(found.memory) if found.memory else memory.DEFAULT
    runtime_mib = memory.DEFAULT.base_mib - memory.ENGINE.base_mib
    rows = []
    for each, own, price, true in zip(
        networks, kernels, priced, truth.measure(networks), strict=True
    ):
        us = 1e3 * true.floor_ms
        rows.append(
            {
                "name": each.name,
                "family": each.family,
                "precision": each.precision,
                "floor_us": us,
                "p50_us": 1e3 * true.p50_ms,
                "predicted_us": price.floor_us,
                "low_us": price.low_us,
                "bound_us": price.bound_us,
                "error": price.floor_us / us - 1,
                "unseen": list(price.unseen),
                "peak_mib": true.peak_mib,
                "predicted_peak_mib": memory.network_mib(own, each.precision, fitted) - runtime_mib,
            }
        )
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        inside = row["family"] != zoo.OUT_OF_RANGE
        for name in ("in range" if inside else "out of range", *_groups(row)):
            groups[name].append(row)
    return {"groups": {name: summary(of) for name, of in groups.items()}, "networks": rows}


def _groups(row: dict[str, Any]) -> tuple[str, ...]:
    return row["precision"], f"{row['family']} {row['precision']}"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    errors = np.abs([row["error"] for row in rows])
    true = np.array([row["floor_us"] for row in rows])
    bounds = np.array([row["bound_us"] for row in rows])
    lows = np.array([row["low_us"] for row in rows])
    peaks = np.array([row["peak_mib"] for row in rows])
    off = np.abs(np.array([row["predicted_peak_mib"] for row in rows]) - peaks)
    made = {
        "networks": len(rows),
        "mean_error": float(errors.mean()),
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
        "within_10": float((errors <= CLOSE).mean()),
        "outside_20": int((errors > 2 * CLOSE).sum()),
        "bias": float(np.mean([row["error"] for row in rows])),
        "bound_covers": float((true <= bounds).mean()),
        "interval_covers": float(((lows <= true) & (true <= bounds)).mean()),
        "bound_over_truth": float((bounds / true).mean()),
        "memory_close": float((off <= np.maximum(MEMORY_SHARE * peaks, MEMORY_MIB)).mean()),
        "memory_mean_error_mib": float(off.mean()),
    }
    if len(rows) > 2:
        predicted = [row["predicted_us"] for row in rows]
        made["rank_correlation"] = float(spearmanr(predicted, true).statistic)
    return made


def whole_call(path: Path, profile: str) -> dict[str, Any]:
    """A bundle's predicted call against the least time of its golden samples."""
    opened = bundle.read(path)
    model, manifest = Model(opened), opened.manifest
    tokens = preprocess.build(manifest.preprocess, opened.files)
    samples = model.golden_samples()
    lengths = [len(tokens(one)) if manifest.sample.kind == "text" else 1 for one in samples]
    floors = [least_us(partial(model.predict, one)) for one in samples]
    priced = {n: estimate(path, profile, length=n).latency.p50_ms for n in set(lengths)}
    predicted = [1e3 * priced[n] / _typical(profile) for n in lengths]
    return {
        "bundle": manifest.name,
        "floor_us": float(np.mean(floors)),
        "predicted_us": float(np.mean(predicted)),
        "error": float(np.mean(predicted) / np.mean(floors) - 1),
    }


def _typical(profile: str) -> float:
    """p50 over the least time, which is in an estimate."""
    found = rates_of(DeviceProfile.load(profile), "float32", 1)
    return found.jitter["50"] if found else 1.0


def show(result: dict[str, Any]) -> None:
    lines = [
        f"seconds {result['seconds']}, bound {result['bound']:.3f}",
        "group                        n  mean median   max in10 out20 cover bound   rank  memory",
    ]
    lines += [
        f"{name:26} {row['networks']:>3} {row['mean_error']:>5.1%} {row['median_error']:>6.1%} "
        f"{row['largest_error']:>5.0%} {row['within_10']:>4.0%} {row['outside_20']:>5} "
        f"{row['bound_covers']:>5.0%} {row['bound_over_truth']:>5.2f} "
        f"{row.get('rank_correlation', float('nan')):>6.3f} {row['memory_close']:>7.0%}"
        for name, row in result["groups"].items()
    ]
    lines += [
        f"{row['bundle']}: {row['predicted_us']:.1f} µs predicted, {row['floor_us']:.1f} "
        f"measured ({row['error']:+.1%})"
        for row in result["whole_calls"]
    ]
    sys.stderr.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
