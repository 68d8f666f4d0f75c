"""Does a process that predicts, or that loads bundles, for long keep its memory and descriptors?

    .venv-runtime/bin/python benchmarks/soak.py

Of small bundles of each engine and kind of sample: a thousand loads, each with a prediction, and a
million predictions, in a process each.  Exit 1 if memory grows by more than the limits.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "soak.json"
LOADS, PREDICTIONS = 1000, 1_000_000
WARM_UP_LOADS = 100
LIMIT_KIB = 1.0
"""Slope of memory, for each load past the first hundred."""
LIMIT_GROWTH_KIB = 1024
"""From a tenth of the predictions to the last."""
HOW = (
    "One process a bundle for the loads (load, predict one golden sample, drop) and one for the "
    "predictions (the golden samples in turn). Memory is what the process shares with no other "
    "(private clean and dirty of /proc/self/smaps_rollup), looked at after each load and 100 times "
    "during the predictions, each time after malloc_trim(0): what glibc holds free would take in a "
    "leak for long. slope_kib: least-squares slope in KiB a load past the first 100 loads. "
    "growth_kib: the last look at the predictions less the first one past a tenth of them. "
    "more_descriptors: the largest number of open ones less the first."
)
PACKAGES = ("edgedistill-runtime", "numpy", "onnxruntime", "ai-edge-litert", "tokenizers")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.runtime import small_bundles

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BUNDLE", help="default: all")
    parser.add_argument("--loads", type=int, default=LOADS)
    parser.add_argument("--predictions", type=int, default=PREDICTIONS)
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    known = small_bundles.names()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no bundle {unknown[0]!r} (known: {', '.join(known)})")
    if options.loads <= WARM_UP_LOADS + 1 or options.predictions < WARM_UP_LOADS:
        parser.error(f"more than {WARM_UP_LOADS + 1} loads and {WARM_UP_LOADS} predictions, please")

    rows = []
    for name in options.names or known:
        rows.append(_row(name, options.loads, options.predictions))
        _print(rows[-1])
        _write(options, rows)  # a run takes long: what is known is kept
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "versions": {"python": platform.python_version()} | _versions(),
        "how": HOW,
        "loads": options.loads,
        "predictions": options.predictions,
        "limits": {"slope_kib": LIMIT_KIB, "growth_kib": LIMIT_GROWTH_KIB, "more_descriptors": 0},
        "results": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _row(name: str, loads: int, predictions: int) -> dict[str, Any]:
    from tests.runtime import small_bundles
    from tests.runtime.soaking import soak

    with tempfile.TemporaryDirectory() as folder:
        path = small_bundles.write(name, Path(folder) / "soak.edge")
        loaded, predicted = soak("loads", path, loads), soak("predictions", path, predictions)
    slope = round(loaded.slope_kib(WARM_UP_LOADS), 3)
    growth = predicted.growth_kib(predictions // 10)
    more = max(loaded.more_descriptors(), predicted.more_descriptors())
    return {
        "bundle": name,
        "slope_kib": slope,
        "growth_kib": growth,
        "more_descriptors": more,
        "ok": slope < LIMIT_KIB and growth < LIMIT_GROWTH_KIB and more == 0,
        "loads": _thinned(loaded),
        "predictions": _thinned(predicted),
    }


def _thinned(found: Any) -> dict[str, Any]:
    """Ten looks, evenly, and the last."""
    last = len(found.done) - 1
    kept = [round(last * i / 10) for i in range(11)]
    series = ("done", "rss_kib", "uss_kib", "descriptors")
    return {key: [getattr(found, key)[i] for i in kept] for key in series} | {
        "seconds": found.seconds
    }


def _versions() -> dict[str, str]:
    modules = {name: name.replace("-", "_") for name in PACKAGES}
    return {name: version(name) for name, module in modules.items() if find_spec(module)}


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(
        f"{row['bundle']:<22}{row['slope_kib']:>8.3f} KiB a load{row['growth_kib']:>7} KiB in the "
        f"predictions{row['more_descriptors']:>4} descriptors  {'ok' if row['ok'] else 'MISSED'}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
