"""What distillation reaches on tweets: teacher, students, controls, the teacher simply quantized.

    python examples/tweets/prepare.py
    python benchmarks/distillation.py

Fits each family with its control over several seeds, times whole calls (a text in, an answer out)
of all of them over the same texts in one process on one core, and compares the methods on a text
and an image task.  Everything that is finished is kept under build/bench, so that a run that was
stopped goes on.  Writes benchmarks/results/distillation.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill import Recipe, fit
from edgedistill.distill.methods import METHODS
from edgedistill.progress import Silent
from edgedistill.provenance import versions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "distillation.json"
FAMILIES: dict[str, dict[str, Any]] = {
    "static": {
        "precision": "int8",
        "student": "static",
        "spec": {"vocabulary": 8000, "dim": 128, "hidden": 256},
    },
    "static-small": {  # float32: of so small a network the int8 form is slower
        "precision": "float32",
        "student": "static",
        "spec": {"vocabulary": 4000, "dim": 32, "hidden": 128},
    },
    "transformer": {
        "precision": "int8",
        "student": "transformer",
        "spec": {"vocabulary": 8000, "embedding": 64, "layers": 2, "hidden": 128, "ffn": 512},
    },
}
TIMED_TEXTS = 300
PASSES = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "tweets")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method-rows", type=int, default=6000, help="tweets for the methods")
    parser.add_argument("--only", choices=("tweets", "methods"), help="one part alone")
    options = parser.parse_args()
    if not (options.data / "tweets.csv").exists():
        sys.stderr.write(
            f"{options.data} has no tweets.csv; run examples/tweets/prepare.py first\n"
        )
        return 2
    if options.only != "methods":
        keep(options.results, "tweets", tweets(options))
    if options.only != "tweets":
        keep(options.results, "image_methods", image_methods(options))
        keep(options.results, "text_methods", text_methods(options))
    return 0


def keep(path: Path, part: str, found: dict[str, Any]) -> None:
    """Write one part of the results; the others stay."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results |= {"machine": machine(), "versions": versions(), part: found}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((x.partition(":")[2].strip() for x in info.splitlines() if "model name" in x), "")
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform(terse=True)}


# Families against their controls


def tweets(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, choice in FAMILIES.items():
        out = options.build / name
        result = fit(
            profile="host",
            data=str(options.data / "tweets.csv"),
            teacher=str(options.data / "minilm"),
            control=options.seeds,
            min_retention=0.5,
            out=str(out),
            progress=Told(name),
            **choice,
        )
        rows[name] = result.report
    return table_of(options, rows)


def table_of(options: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    """One row a model, from the reports of the fits and the times of whole calls."""
    timed = whole_calls(options, rows)
    teacher_ms, teacher_mib = timed["teacher"]["p50_ms"], rows["static"]["teacher"]["size_mib"]
    table = {
        "teacher": {
            "accuracy": rows["static"]["teacher"]["metric"],
            "name": rows["static"]["teacher"]["name"],
            "model_mib": teacher_mib,
            "call_ms": timed["teacher"],
        },
        "teacher int8": {
            "accuracy": rows["static"]["teacher_quantized"]["metric"],
            "model_mib": rows["static"]["teacher_quantized"]["size_mib"],
            "call_ms": timed["teacher int8"],
            "times_faster": teacher_ms / timed["teacher int8"]["p50_ms"],
        },
    }
    for name, report in rows.items():
        table[name] = {
            "accuracy": report["student"]["metric"],
            "accuracy_float32": report["student"]["metric_float"],
            "retention": report["retention"],
            "retention_by_seed": [
                metric / report["teacher"]["metric"] for metric in report["control"]["student"]
            ],
            "spec": report["student"]["spec"],
            "params": report["student"]["params"],
            "choices": report["student"]["choices"],
            "adopted": report["student"]["adopted"],
            "control": report["control"],
            "model_mib": timed[name]["model_mib"],
            "bundle_mib": report["size_mib"],
            "times_smaller": teacher_mib / timed[name]["model_mib"],
            "call_ms": timed[name],
            "times_faster": teacher_ms / timed[name]["p50_ms"],
            "test_samples": report["test_samples"],
            "seconds": report["seconds"],
        }
    show(table)
    return table


def show(table: dict[str, Any]) -> None:
    sys.stderr.write(
        f"{'':14}{'accuracy':>9}{'retention':>10}{'MiB':>8}{'call ms':>9}{'faster':>8}\n"
    )
    for name, row in table.items():
        sys.stderr.write(
            f"{name:14}{row['accuracy']:>9.4f}{row.get('retention', 1):>10.4f}"
            f"{row['model_mib']:>8.3f}{row['call_ms']['p50_ms']:>9.4f}"
            f"{row.get('times_faster', 1):>8.1f}\n"
        )
        if row.get("control"):
            mean = statistics.fmean(row["retention_by_seed"])
            sys.stderr.write(f"{'':14}retention {mean:.4f} over the seeds; ")
            sys.stderr.write(f"{row['control']['sentence']}\n")


def whole_calls(options: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    """p50 of whole calls, tokenizer included, of every model over the same texts."""
    folder = options.build / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    write_teacher(options, folder)
    bundles = {name: row["bundle"] for name, row in rows.items()}
    split = str(Path(bundles["static"]).with_name("test.jsonl"))
    command = [
        sys.executable,
        __file__,
        "--timing-child",
        json.dumps([str(folder), bundles, split]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    timed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return timed


def write_teacher(options: argparse.Namespace, folder: Path) -> None:
    """The teacher as ONNX files, and its tokenizer."""
    from edgedistill.delivery import Delivery
    from edgedistill.distill.processes import Processes
    from edgedistill.setting import Setting
    from edgedistill.workspace import open_workspace

    recipe = Recipe.build(
        None,
        {
            "profile": "host",
            "data": str(options.data / "tweets.csv"),
            "teacher": str(options.data / "minilm"),
            "student": "static",
            "out": str(folder / "out"),
        },
    )
    with open_workspace(recipe, False) as work:
        processes = Processes("auto", "no", "", folder)
        delivery = Delivery(Setting.of(recipe), work, processes, Silent())
        teacher = delivery.teacher()
        float32, int8 = delivery.teacher_files(teacher)
    (folder / "teacher.onnx").write_bytes(float32)
    (folder / "teacher int8.onnx").write_bytes(int8)
    (folder / "tokenizer.json").write_bytes(teacher.tokenizer or b"")


def timing_child(arguments: str) -> None:
    """In a process of its own, on one core, without torch: prints one JSON line."""
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    from edgedistill_runtime import bundle, load

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder, bundles, split = json.loads(arguments)
    lines = Path(split).read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // TIMED_TEXTS)
    texts = [json.loads(line)["input"] for line in lines[::step]]
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    calls: dict[str, Callable[[str], Any]] = {}
    for name in ("teacher", "teacher int8"):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(Path(folder) / f"{name}.onnx", options)

        def call(text: str, session: Any = session) -> Any:
            ids = tokenizer.encode_batch_fast([text])[0].ids
            logits = session.run(None, {"ids": np.array([ids], np.int64)})[0][0]
            exp = np.exp(logits - logits.max())
            return exp / exp.sum()

        calls[name] = call
    for name, path in bundles.items():
        calls[name] = load(path).predict
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(PASSES + 1):
        for name, call in calls.items():  # in blocks: the teacher would empty the caches
            for text in texts:
                start = time.perf_counter_ns()
                call(text)
                if turn:  # the first one warms up
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    timed = {
        name: {
            "p50_ms": statistics.median(values),
            "mean_ms": statistics.fmean(values),
            "calls": len(values),
        }
        for name, values in times.items()
    }
    for name, path in bundles.items():
        timed[name]["model_mib"] = len(bundle.read(path).files["model.onnx"]) / 2**20
    sys.stdout.write(json.dumps(timed) + "\n")


# Methods


def text_methods(options: argparse.Namespace) -> dict[str, Any]:
    """Every method on a part of the tweets, with the text transformer."""
    folder = options.build / "tweets-part"
    if not (folder / "tweets.csv").exists():
        command = [sys.executable, str(ROOT / "examples" / "tweets" / "prepare.py")]
        rows = str(options.method_rows)
        subprocess.run([*command, "--out", str(folder), "--rows", rows], check=True)
    return methods(
        options,
        "text",
        data=str(folder / "tweets.csv"),
        teacher=str(options.data / "minilm"),
        student="transformer",
        spec={"vocabulary": 4000, "embedding": 64, "layers": 2, "hidden": 128, "ffn": 512},
        training={"views": [1], "epochs": 6},
    )


def image_methods(options: argparse.Namespace) -> dict[str, Any]:
    """Every method on scikit-learn's digits, with a small convolutional network."""
    return methods(
        options,
        "image",
        data="digits",
        student="convnet",
        spec={"block": "dense", "width": 4, "growth": 2.0, "stages": 2, "depth": 2},
        training={"views": [4], "epochs": 20},
    )


def methods(options: argparse.Namespace, kind: str, **recipe: Any) -> dict[str, Any]:
    """Test accuracy by method and seed; one alpha for all, so that only the method differs."""
    training = recipe.pop("training") | {"alpha": [0.5], "gate": [False]}
    found: dict[str, list[float]] = {}
    for method in METHODS:
        for seed in range(options.seeds):
            result = fit(
                profile="host",
                precision="float32",
                min_retention=0.1,
                distill=method,
                training=training,
                seed=seed,
                out=str(options.build / kind / f"{method}-{seed}"),
                progress=Told(f"{kind} {method} seed {seed}"),
                **recipe,
            )
            found.setdefault(method, []).append(result.report["student"]["metric"])
            teacher = result.report["teacher"]["metric"]
    soft = found["soft"]
    table: dict[str, Any] = {}
    for method, values in found.items():
        gains = [a - b for a, b in zip(values, soft, strict=True)]
        table[method] = {"accuracy": values, "gain_over_soft": statistics.fmean(gains)}
        sys.stderr.write(f"{kind:6}{method:16}{statistics.fmean(values):.4f}")
        sys.stderr.write(f"  gain over soft {100 * statistics.fmean(gains):+.2f} points\n")
    shown = {k: v.replace(f"{ROOT}/", "") if isinstance(v, str) else v for k, v in recipe.items()}
    return {"teacher": teacher, "recipe": shown | {"training": training}, "methods": table}


class Told(Silent):
    """One line a stage."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = time.monotonic()

    def stage(self, name: str, detail: str = "") -> None:
        sys.stderr.write(f"{time.monotonic() - self.start:7.1f} s  {self.name}: {name} {detail}\n")

    def note(self, text: str) -> None:
        sys.stderr.write(f"           {text}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--timing-child"]:
        timing_child(sys.argv[2])
        sys.exit(0)
    sys.exit(main())
