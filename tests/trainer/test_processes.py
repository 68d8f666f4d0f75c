"""Training in several processes: one network, one bundle, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.distill.processes import Processes
from edgedistill.errors import SettingsError
from edgedistill_runtime.model import load

ROOT = Path(__file__).parents[2]
TOGETHER = """
import hashlib, json, sys
from pathlib import Path
import torch
from torch import nn
from edgedistill.distill import loop
from edgedistill.distill.loop import Loop, Rows, Schedule, Score
from edgedistill.distill.processes import Processes
from edgedistill.samples import ArraySamples
from tests.training_support import Stopped, Watching

folder = Path(sys.argv[1])
processes = Processes("auto", "no", "tensorboard", folder / "logs")
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE, loop.PROGRESS_SECONDS = -1.0, 0, -1.0
torch.manual_seed(1)
x = torch.randn(41, 3)
y = x.sum(1, keepdim=True)
told = {"rank": processes.rank, "count": processes.count, "kinds": [], "rows": 0}

def loss(network, rows):
    told["kinds"].append(type(network).__name__)
    told["rows"] += len(rows)
    return (network(x[rows]) - y[rows]).pow(2).mean()

def train(name, progress):
    torch.manual_seed(5 + processes.rank)  # the first process's weights are everybody's
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    epochs = []
    def validate(network):  # judged otherwise in each process, as batch norm has it
        epochs.append(1)
        return Score(1.0 if processes.main and len(epochs) < 3 else -len(epochs), -len(epochs))
    Loop(network, loss, Rows(ArraySamples(x), 41, 41, 1), Schedule(9, 8, 0.01, 0.0, 4), name=name,
         seed=3, checkpoint=folder / f"{name}.checkpoint", processes=processes, progress=progress,
         validate=validate).run()
    state = b"".join(v.detach().numpy().tobytes() for v in network.parameters())
    return hashlib.sha256(state).hexdigest(), progress.advances[-1]

told["weights"], told["last"] = train("whole", Watching())
told["steps"] = len(told["kinds"])
try:
    train("stopped", Watching(stop_after=6))
except Stopped:
    told["again"], _ = train("stopped", Watching())
(folder / f"{processes.rank}.json").write_text(json.dumps(told))
"""


# multi_gpu is what accelerate calls several processes; without a GPU they meet over gloo
LAUNCH = ["-m", "accelerate.commands.accelerate_cli", "launch"]
LAUNCH += ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]


def launched(*arguments, folder, launch=LAUNCH):
    """Two processes on this machine, ended if they hang."""
    return subprocess.run(
        [sys.executable, *launch, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        },
    )


@pytest.mark.slow
def test_two_processes_train_one_network_and_stop_together(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    done = launched(str(script), str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-6000:]
    first, second = (
        json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert (first["count"], second["count"]) == (2, 2)
    assert {*first["kinds"], *second["kinds"]} == {"DistributedDataParallel"}
    # each has half of every batch but the last, which is one row and left out
    assert first["steps"] == second["steps"]
    assert first["rows"] == second["rows"]
    assert first["weights"] == second["weights"]
    assert first["last"] == second["last"] == [5, 9]
    assert first["again"] == second["again"] == first["weights"]
    assert not list(tmp_path.glob("*.checkpoint"))


@pytest.mark.slow
@pytest.mark.end_to_end
def test_two_processes_fit_one_bundle_as_good_as_one_process(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = random.integers(0, 120, (240, 8, 8, 1)).astype(np.uint8)
    x[y == 0, :4] += 100
    x[y == 1, 4:] += 100
    x[y == 2, :, :4] += 100
    np.savez(tmp_path / "stripes.npz", x=x, y=y)
    recipe = """
        profile = "rpi4"
        data = "stripes.npz"
        distill = "hint-then-soft"
        size_mib = 0.03
        [training]
        epochs = 6
        views = [1, 2]
        alpha = [0.5]
        gate = [false]
        trial_epochs = 1
        patience = 2
        [teacher_training]
        epochs = 2
        views = 1
        """
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    fit = ["-m", "edgedistill.cli", "fit", "recipe.toml", "--device", "cpu", "--out"]
    done = launched(*fit, "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stderr.count("wrote out/model.edge") == 1
    assert len(list(tmp_path.rglob("*.edge"))) == 1
    alone = launched(*fit, "alone", folder=tmp_path, launch=[])
    assert alone.returncode == 0, alone.stderr[-6000:]
    report, by_one = (
        json.loads((tmp_path / out / "report.json").read_text(encoding="utf-8"))
        for out in ("out", "alone")
    )
    assert report["student"]["metric"] == pytest.approx(by_one["student"]["metric"], abs=0.05)
    assert report["teacher"]["metric"] == pytest.approx(by_one["teacher"]["metric"], abs=0.05)
    model = load(tmp_path / "out" / "model.edge")
    assert model.predict(x[0]).label == "0"


def test_a_device_that_is_not_here_is_one_sentence(tmp_path):
    if torch.backends.mps.is_available():
        pytest.skip("this machine has that device")
    with pytest.raises(SettingsError) as caught:
        Processes("mps", "no", "", tmp_path)
    assert str(caught.value) == "this machine has no mps device; leave --device out"


def test_one_process_agrees_with_itself(tmp_path):
    made = Processes("cpu", "no", "", tmp_path)
    assert (made.rank, made.count, made.main) == (0, 1, True)
    assert made.agree({"a": 1}) == {"a": 1}
    made.wait()


def test_one_fit_after_another_may_have_another_precision(tmp_path):
    for precision in ("no", "bf16", "no"):
        made = Processes("cpu", precision, "", tmp_path)
        assert made.accelerator.mixed_precision == precision
