"""Fits the published rates of the Raspberry Pi 4 with TFLite, and says how good they are.

    python benchmarks/published_rates.py            # print; compare with what is shipped
    python benchmarks/published_rates.py --write    # and write the coefficients and the JSON

Errors are of the mean latency, relative to it.  "Leave one out" predicts each row from the others,
"V1 → V2" all of V2 from V1 alone.  The held-out families were never fitted.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from published_networks import named
from scipy.optimize import nnls

from edgedistill.cost import published
from edgedistill.cost.published import TERMS
from edgedistill.profiles import DeviceProfile

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "device_profiles" / "published" / "rpi4_tflite_mobilenet.csv"
SHIPPED = ROOT / "device_profiles" / "published" / "rpi4_tflite.json"
RESULT = ROOT / "benchmarks" / "results" / "published_rates.json"
SOURCE = "MLPerf Inference v1.0, v2.0 and v2.1, open division, Krai; mean of 1024 or more queries"
NOISE = 0.03
"""Relative error of a row about the model, against which the spread of a prior is weighed."""
COVERAGE = 0.95
DIGITS = 6

V1_0 = "mlcommons/inference_results_v1.0: {}/Krai/results/rpi4coral-fan.on-tflite-v2.4.1-ruy/"
V2_1 = "mlcommons/inference_results_v2.1: {}/Krai/results/rpi4-tflite-v2.7.1-ruy/"
OPEN_V1_0, CLOSED_V1_0 = V1_0.format("open"), V1_0.format("closed")
OPEN_V2_1, CLOSED_V2_1 = V2_1.format("open"), V2_1.format("closed")
# version, MHz, network, precision, mean ms, where.  "ranging" is the run that finds the power
# meter's range, of the same length; it stands in where the other run's log was not at hand.
HELD_OUT = (
    ("2.4.1", 1500, "efficientnet-lite0", "float32", 70.509, OPEN_V1_0 + "ranging"),
    ("2.4.1", 1500, "efficientnet-lite1", "float32", 101.354, OPEN_V1_0 + "run_1"),
    ("2.4.1", 1500, "efficientnet-lite2", "float32", 136.073, OPEN_V1_0 + "ranging"),
    ("2.4.1", 1500, "resnet50", "float32", 592.612, CLOSED_V1_0 + "run_1"),
    ("2.4.1", 1500, "efficientnet-lite0", "int8", 32.597, OPEN_V1_0 + "run_1"),
    ("2.4.1", 1500, "efficientnet-lite2", "int8", 66.241, OPEN_V1_0 + "ranging"),
    ("2.4.1", 1500, "mobilenet-v3-large", "float32", 52.911, OPEN_V1_0 + "run_1"),
    ("2.4.1", 1500, "mobilenet-v3-small", "float32", 21.548, OPEN_V1_0 + "ranging"),
    ("2.4.1", 1500, "mobilenet-v3-large", "int8", 27.994, OPEN_V1_0 + "run_1"),
    ("2.4.1", 1500, "mobilenet-v3-small", "int8", 11.231, OPEN_V1_0 + "run_1"),
    ("2.7.1", 1800, "efficientnet-lite1", "float32", 104.854, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "efficientnet-lite4", "float32", 355.998, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "mobilenet-v3-large", "float32", 55.910, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "mobilenet-v3-small", "float32", 22.426, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "resnet50", "float32", 575.256, CLOSED_V2_1 + "run_1"),
    ("2.7.1", 1800, "efficientnet-lite1", "int8", 43.810, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "efficientnet-lite3", "int8", 88.770, OPEN_V2_1 + "run_1"),
    ("2.7.1", 1800, "efficientnet-lite4", "int8", 152.110, OPEN_V2_1 + "run_1"),
)
METER = "two minutes of the meter's log of run_1, times the mean latency"
CHECKER = "power metric of the submission checker's log"
# network, precision, mJ, how; TFLite 2.4.1 at 1500 MHz
HELD_OUT_ENERGY = (
    ("efficientnet-lite0", "float32", 485.8, METER),
    ("mobilenet-v3-large", "float32", 360.7, CHECKER),
    ("mobilenet-v3-small", "float32", 139.3, CHECKER),
    ("resnet50", "float32", 3970.5, METER),
    ("efficientnet-lite0", "int8", 243.5, METER),
    ("mobilenet-v3-large", "int8", 202.3, CHECKER),
    ("mobilenet-v3-small", "int8", 80.8, CHECKER),
)
HELD_OUT_ENERGY_VERSION = "2.4.1"


@dataclass(frozen=True)
class Row:
    version: str
    mhz: int
    network: str
    precision: str
    mean_ms: float
    energy_mj: float | None

    @property
    def family(self) -> str:
        return self.network[: len("mobilenet-v1")]


def rows() -> list[Row]:
    with ROWS.open(encoding="utf-8", newline="") as file:
        return [_row(each) for each in csv.DictReader(file)]


def _row(each: dict[str, str]) -> Row:
    clock = re.search(r"([\d.]+)GHz", each["soc"])
    version = re.search(r"v([\d.]+)", each["runtime_version"])
    assert clock
    assert version
    return Row(
        version[1],
        round(float(clock[1]) * 1000),
        each["model"],
        {"fp32": "float32", "int8": "int8"}[each["precision"]],
        float(each["value"]),
        float(each["energy_mJ"]) if each["energy_mJ"] else None,
    )


@cache
def _units(network: str, precision: str) -> tuple[float, ...]:
    return tuple(published.units(named(network), precision))


def _matrix(some: Sequence[Row]) -> np.ndarray:
    """Share of a row's latency that a unit cost of each term makes up: (rows, terms)."""
    one = [1.0] * len(TERMS)
    return np.array(
        [
            np.array(_units(row.network, row.precision))
            * published.milliseconds(one, row.mhz / 1e3)
            / row.mean_ms
            for row in some
        ]
    )


def fit(some: Sequence[Row]) -> np.ndarray:
    """Non-negative least squares of the relative error, held near the hardware's figures."""
    precision = some[0].precision
    prior = np.array([term.prior(precision) for term in TERMS.values()])
    spread = np.array([term.spread for term in TERMS.values()])
    left = np.vstack([_matrix(some) / NOISE, np.diag(1 / (spread * prior))])
    right = np.concatenate([np.full(len(some), 1 / NOISE), 1 / spread])
    return np.asarray(nnls(left, right)[0])


def errors(cost: np.ndarray, some: Sequence[Row]) -> np.ndarray:
    return np.asarray(_matrix(some) @ cost - 1)


def leave_one_out(some: Sequence[Row]) -> np.ndarray:
    """A network's rows at both clocks are left out together."""
    found = np.empty(len(some))
    for name in {row.network for row in some}:
        cost = fit([row for row in some if row.network != name])
        mine = [i for i, row in enumerate(some) if row.network == name]
        found[mine] = errors(cost, [some[i] for i in mine])
    return found


def across(some: Sequence[Row], known: str) -> np.ndarray:
    """Errors on the other family of a fit to `known` alone."""
    cost = fit([row for row in some if row.family == known])
    return errors(cost, [row for row in some if row.family != known])


def conformal(residuals: np.ndarray) -> float:
    """Factor up from the price that covers COVERAGE of rows from a family left out."""
    ratios = np.sort(1 / (1 + residuals))
    return float(ratios[min(len(ratios), math.ceil((len(ratios) + 1) * COVERAGE)) - 1])


def measured(some: Sequence[Row]) -> list[Row]:
    """Those with an energy."""
    return [row for row in some if row.energy_mj]


def watts(some: Sequence[Row]) -> float:
    """Mean power at the mains while a network runs."""
    return math.exp(statistics.fmean(math.log(_energy(row) / row.mean_ms) for row in some))


def fit_energy(some: Sequence[Row]) -> np.ndarray:
    """Cost of a unit in nanojoules a nanosecond or cycle: the same fit, to energy."""
    drawn = watts(some)  # gives the priors their size
    return fit([replace(row, mean_ms=_energy(row) / drawn) for row in some]) * drawn


def energy_across(some: Sequence[Row], known: str, by_power: bool) -> np.ndarray:
    """Errors in mJ on the other family: latency times power, or a fit to the energy itself."""
    inside = [row for row in measured(some) if row.family == known]
    other = [row for row in measured(some) if row.family != known]
    cost = fit(inside) * watts(inside) if by_power else fit_energy(inside)
    return errors(cost, [replace(row, mean_ms=_energy(row)) for row in other])


def _energy(row: Row) -> float:
    assert row.energy_mj
    return row.energy_mj


def series(some: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows of a version and a precision; a version measured at two clocks is one fit."""
    keys = sorted({(row.version, row.precision) for row in some})
    return {key: [r for r in some if (r.version, r.precision) == key] for key in keys}


def coefficients(some: Sequence[Row]) -> dict[str, Any]:
    """What is shipped."""
    rates = []
    for (version, precision), mine in series(some).items():
        outside = np.concatenate([across(mine, f) for f in ("mobilenet-v1", "mobilenet-v2")])
        rates.append(
            {
                "engine": f"TFLite {version} (ruy)",
                "version": version,
                "precision": precision,
                "threads": published.THREADS,
                "mhz": sorted({row.mhz for row in mine}),
                "rows": len(mine),
                "bound": _rounded(conformal(outside)),
                "cost": _by_term(fit(mine)),
                "energy": _energy_rates(mine),
            }
        )
    return {"source": SOURCE, "made_by": "benchmarks/published_rates.py", "rates": rates}


def _energy_rates(some: Sequence[Row]) -> dict[str, Any]:
    having = measured(some)
    outside = [energy_across(having, f, False) for f in ("mobilenet-v1", "mobilenet-v2")]
    (mhz,) = {row.mhz for row in having}
    return {
        "mhz": mhz,
        "rows": len(having),
        "bound": _rounded(conformal(np.concatenate(outside))),
        "cost": _by_term(fit_energy(having)),
    }


def _by_term(cost: np.ndarray) -> dict[str, float]:
    return {name: _rounded(each) for name, each in zip(TERMS, cost.tolist(), strict=True)}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _summary(found: np.ndarray) -> dict[str, float]:
    return {
        "mean_error": round(float(np.mean(np.abs(found))), 4),
        "bias": round(float(np.mean(found)), 4),
        "within_10_percent": round(float(np.mean(np.abs(found) <= 0.1)), 3),
        "rows": len(found),
    }


def judged(some: Sequence[Row]) -> dict[str, Any]:
    """Errors inside the families, across them, and on families that were never fitted."""
    inside = []
    for (version, precision), mine in series(some).items():
        entry: dict[str, Any] = {"version": version, "precision": precision}
        entry["fit"] = _summary(errors(fit(mine), mine))
        entry["leave_one_out"] = _summary(leave_one_out(mine))
        entry["v1_to_v2"] = _summary(across(mine, "mobilenet-v1"))
        entry["v2_to_v1"] = _summary(across(mine, "mobilenet-v2"))
        for name, by_power in (("energy_by_power", True), ("energy_by_terms", False)):
            entry[name] = {
                "v1_to_v2": _summary(energy_across(mine, "mobilenet-v1", by_power)),
                "v2_to_v1": _summary(energy_across(mine, "mobilenet-v2", by_power)),
            }
        inside.append(entry)
    return {
        "published_families": inside,
        "held_out": held_out(),
        "held_out_energy": held_out_energy(),
    }


def held_out() -> dict[str, Any]:
    """The shipped rates on families that are not in the file, through the public function."""
    board = DeviceProfile.load("rpi4")
    each = []
    for version, mhz, name, precision, mean_ms, source in HELD_OUT:
        found = published.price(
            named(name),
            board,
            precision,
            published.THREADS,
            "ai-edge-litert",
            version=version,
            mhz=mhz,
        )
        assert found
        each.append(
            {
                "version": version,
                "mhz": mhz,
                "network": name,
                "precision": precision,
                "measured_ms": mean_ms,
                "priced_ms": round(found.p50_ms, 1),
                "bound_ms": round(found.bound_ms, 1),
                "error": round(found.p50_ms / mean_ms - 1, 4),
                "covered": mean_ms <= found.bound_ms,
                "source": source,
            }
        )
    missed = np.array([e["error"] for e in each])
    return {
        **_summary(missed),
        "covered_by_bound": round(float(np.mean([e["covered"] for e in each])), 3),
        "bound_over_measured": round(
            float(np.mean([e["bound_ms"] / e["measured_ms"] for e in each])), 3
        ),
        "networks": each,
    }


def held_out_energy() -> dict[str, Any]:
    board = DeviceProfile.load("rpi4")
    each = []
    for name, precision, truth, how in HELD_OUT_ENERGY:
        found = published.energy_mj(
            named(name),
            board,
            precision,
            published.THREADS,
            "ai-edge-litert",
            version=HELD_OUT_ENERGY_VERSION,
        )
        assert found
        each.append(
            {
                "network": name,
                "precision": precision,
                "measured_mj": truth,
                "priced_mj": round(found.mean_mj, 1),
                "bound_mj": round(found.bound_mj, 1),
                "error": round(found.mean_mj / truth - 1, 4),
                "source": how,
            }
        )
    return {**_summary(np.array([e["error"] for e in each])), "networks": each}


def table(result: dict[str, Any]) -> str:
    def percent(part: dict[str, float]) -> str:
        return f"{100 * part['mean_error']:.1f} %"

    lines = ["mean error    fit     left out  V1→V2   V2→V1   energy V1→V2, V2→V1"]
    for entry in result["published_families"]:
        parts = [entry[n] for n in ("fit", "leave_one_out", "v1_to_v2", "v2_to_v1")]
        energy = [
            percent(entry[n][way])
            for n in ("energy_by_power", "energy_by_terms")
            for way in ("v1_to_v2", "v2_to_v1")
        ]
        lines.append(
            f"{entry['version']} {entry['precision']:7}"
            + "".join(f" {percent(p):>7}" for p in parts)
            + "   by power {}, {}; by terms {}, {}".format(*energy)
        )
    held = result["held_out"]
    lines += [
        f"{e['version']} {e['mhz']} {e['precision']:7} {e['network']:18} measured "
        f"{e['measured_ms']:6.1f} ms, priced {e['priced_ms']:6.1f} ({100 * e['error']:+5.1f} %), "
        f"bound {e['bound_ms']:6.1f}{'' if e['covered'] else ', NOT COVERED'}"
        for e in held["networks"]
    ]
    lines.append(
        f"held out: mean error {percent(held)}, within 10 %: {held['within_10_percent']:.0%}, "
        f"covered {held['covered_by_bound']:.0%}, bound over measured {held['bound_over_measured']}"
    )
    lines += [
        f"energy {e['precision']:7} {e['network']:18} measured {e['measured_mj']:7.1f} mJ, priced "
        f"{e['priced_mj']:7.1f} ({100 * e['error']:+5.1f} %), bound {e['bound_mj']:7.1f}"
        for e in result["held_out_energy"]["networks"]
    ]
    lines.append(f"held out, energy: mean error {percent(result['held_out_energy'])}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write coefficients and result")
    write = parser.parse_args().write
    some = rows()
    made = json.dumps(coefficients(some), indent=1) + "\n"
    if write:
        SHIPPED.write_text(made, encoding="utf-8")
    elif made != SHIPPED.read_text(encoding="utf-8"):
        sys.stderr.write(f"{SHIPPED} is not what the rows give; run with --write\n")
        return 1
    result = judged(some)
    sys.stdout.write(table(result))
    if write:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
