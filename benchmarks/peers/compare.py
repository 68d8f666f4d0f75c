"""Run one job with EdgeDistill and with every peer, one after the other, for several seeds.

Every run is a process of its own; with each seed another tool goes first.  Exit 2 if a tool cannot
run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from job import Job, JobError

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
RESULT = ROOT / "benchmarks" / "results" / "distillation_peers.json"
WORK = ROOT / "build" / "peers"
DEFAULT_ROWS = 4000
OURS = "edgedistill"
HOW = (
    "One process a run, one run at a time, the tools in turn for each seed. Seconds are those of "
    "the whole training: for edgedistill caching the teacher's answers and all epochs, for the "
    "others all epochs with the teacher in the loop; loading and evaluation are left out. "
    "cpu_seconds are the process's processor time, less disturbed by what else the machine does; "
    "samples_per_second are training samples times epochs over wall seconds. Given are medians "
    "over the seeds, and the accuracy's mean and standard deviation. times_slower compares the "
    "processor times of one seed with those of edgedistill, and is the median of that; "
    "times_slower_wall the same by the wall clock."
)


@dataclass(frozen=True)
class Tool:
    name: str
    python: Path
    script: str
    options: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "job",
        type=Path,
        nargs="?",
        help="JSON, as make_job.py writes it; without one, teacher and job are made of "
        f"{DEFAULT_ROWS} tweets under build/peers, where they are not there yet",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N - 1")
    parser.add_argument(
        "--torchdistill-python",
        type=Path,
        default=ROOT / ".venv-torchdistill" / "bin" / "python",
        metavar="FILE",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    try:
        report = compare(options)
    except JobError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    show(report["results"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Raises JobError."""
    if options.seeds < 1:
        raise JobError(f"--seeds {options.seeds} is not possible; give at least 1")
    other = options.torchdistill_python
    if not other.is_file():
        raise JobError(
            f"{other} is not there; make it with: {sys.executable} -m venv .venv-torchdistill && "
            ".venv-torchdistill/bin/pip install -r benchmarks/peers/requirements-torchdistill.txt, "
            "or name one with --torchdistill-python"
        )
    job = Job.load(options.job or default_job())
    own = Path(sys.executable)
    tools = (
        Tool(OURS, own, "edgedistill_run.py"),
        Tool("transformers.Trainer", own, "hf_trainer.py"),
        Tool("Trainer, by length", own, "hf_trainer.py", ("--group-by-length",)),
        Tool("torchdistill", other, "torchdistill_run.py"),
    )
    runs: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in tools}
    for seed in range(options.seeds):
        turn = seed % len(tools)
        for tool in (*tools[turn:], *tools[:turn]):
            result = run(tool, replace(job, seed=seed))
            sys.stderr.write(f"seed {seed}  {tool.name}: {result['seconds']:.1f} s\n")
            runs[tool.name].append(result)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "job": {**asdict(job), "teacher": Path(job.teacher).name, "data": Path(job.data).name}
        | {"seed": list(range(options.seeds))},
        "how": HOW,
        "results": [row(tool, runs[tool.name], runs[OURS]) for tool in tools],
    }


def default_job() -> Path:
    """The path of the job, made first unless it is there.  Raises JobError."""
    teacher, job = WORK / "teacher", WORK / "job"
    data = ("--data", ROOT / "data" / "tweets" / "tweets.csv")
    if not (teacher / "config.json").is_file():
        encoder = ROOT / "data" / "tweets" / "minilm"
        make("make_teacher.py", *data, "--encoder", encoder, "--out", teacher)
    if not (job / "job.json").is_file():
        size = ("--rows", DEFAULT_ROWS)
        make("make_job.py", *data, "--teacher", teacher, "--out", job, *size)
    return job / "job.json"


def make(script: str, *words: object) -> None:
    command = [sys.executable, str(FOLDER / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise JobError(
            f"{script} ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )


def run(tool: Tool, job: Job) -> dict[str, Any]:
    """What its script says.  Raises JobError."""
    plain = asdict(job)
    plain |= {key: str(Path(plain[key]).resolve()) for key in ("teacher", "data")}
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(plain), encoding="utf-8")
        command = [str(tool.python), str(FOLDER / tool.script), str(path), *tool.options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise JobError(
            f"{tool.name} ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def row(
    tool: Tool, runs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    def median(key: str) -> float:
        return round(statistics.median(float(each[key]) for each in runs), 3)

    def slower(key: str) -> float:
        pairs = zip(runs, ours, strict=True)
        return round(statistics.median(float(each[key] / own[key]) for each, own in pairs), 2)

    right = [each["accuracy"] for each in runs]
    cached = {"cached_seconds": median("cached_seconds")} if "cached_seconds" in runs[0] else {}
    return {
        "tool": tool.name,
        "seconds": median("seconds"),
        "cpu_seconds": median("cpu_seconds"),
        **cached,
        "samples_per_second": median("samples_per_second"),
        "times_slower": slower("cpu_seconds"),
        "times_slower_wall": slower("seconds"),
        "accuracy": round(statistics.mean(right), 5),
        "accuracy_deviation": round(statistics.stdev(right), 5) if len(right) > 1 else None,
        "steps": runs[0]["steps"],
        "options": runs[0]["options"],
        "versions": runs[0]["versions"],
        "runs": [
            {k: v for k, v in each.items() if k not in ("steps", "options", "versions")}
            for each in runs
        ],
    }


def show(rows: Sequence[dict[str, Any]]) -> None:
    line = "{:<22}{:>10}{:>10}{:>11}{:>14}{:>8}  {}\n"
    sys.stdout.write(
        line.format("", "seconds", "cpu s", "samples/s", "times slower", "(wall)", "accuracy")
    )
    for each in rows:
        spread = each["accuracy_deviation"]
        sys.stdout.write(
            line.format(
                each["tool"],
                f"{each['seconds']:.1f}",
                f"{each['cpu_seconds']:.1f}",
                f"{each['samples_per_second']:.0f}",
                f"{each['times_slower']:.2f}",
                f"{each['times_slower_wall']:.2f}",
                f"{each['accuracy']:.4f}" + ("" if spread is None else f" ± {spread:.4f}"),
            )
        )


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [
        x.partition(":")[2].strip() for x in cpuinfo.splitlines() if x.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
    }


if __name__ == "__main__":
    sys.exit(main())
