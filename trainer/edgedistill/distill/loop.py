"""The one training loop: resumable at any step to the same bytes, in one process or several.

Every random choice comes from the seed and the step's number, and the learning rate from the
step's number, so a checkpoint holds weights, optimizer state and where it stands.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.distill.processes import Processes
from edgedistill.errors import TrainingError
from edgedistill.progress import Progress
from edgedistill.samples import Index, Samples, training_batches
from edgedistill_runtime.files import write_atomically

CHECKPOINT_SECONDS = 2.0
CHECKPOINT_SHARE = 20
"""Checkpoints take at most one part in so many of the time."""
PROGRESS_SECONDS = 0.5
WARM_UP_SHARE = 0.15

Loss = Callable[[nn.Module, Index], Tensor]
"""(network, rows of the samples) -> scalar"""


@dataclass(frozen=True)
class Schedule:
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int | None = None
    """Epochs without a better validation score that end the training."""


@dataclass(frozen=True)
class Rows:
    """What an epoch is made of."""

    samples: Samples
    stride: int
    """Samples of one view."""
    count: int
    """How many of them, the first ones, are trained on."""
    views: int
    """How many views, the first ones, are chosen from."""


@dataclass(frozen=True, order=True)
class Score:
    """How good a network is on the validation split; greater is better."""

    metric: float
    minus_cross_entropy: float


class Loop:
    """Trains one network in place.

    validate: judges the network after each epoch; the best epoch's weights are kept.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        rows: Rows,
        schedule: Schedule,
        *,
        name: str,
        seed: int,
        checkpoint: Path,
        processes: Processes,
        progress: Progress,
        validate: Callable[[nn.Module], Score] | None = None,
    ) -> None:
        self.network, self.loss, self.rows, self.schedule = network, loss, rows, schedule
        self.name, self.seed, self.checkpoint = name, seed, checkpoint
        self.processes, self.progress, self.validate = processes, progress, validate
        self.epoch = self.step = self.waited = 0
        self.score: Score | None = None
        self.best_score: Score | None = None
        self.best: dict[str, Tensor] | None = None
        self.saved, self.pause, self.told = time.monotonic(), CHECKPOINT_SECONDS, 0.0

    def run(self) -> None:
        """Raises TrainingError if the loss is not a number any more."""
        network, processes, epochs = self.network, self.processes, self.schedule.epochs
        network.to(processes.device).train()
        optimizer: Any = torch.optim.AdamW(
            [p for p in network.parameters() if p.requires_grad],
            self.schedule.learning_rate,
            weight_decay=self.schedule.weight_decay,
            fused=True,  # or half of a small network's step goes here
        )
        self._resume(optimizer)
        wrapped, scaling = processes.prepare(network, optimizer)
        # accelerate's optimizer scales the gradients of float16, and costs a tenth of a small step
        self.optimizer = optimizer if processes.accelerator.scaler is None else scaling
        processes.start_log(self.name)
        with _deterministic(processes.device):
            while self.epoch < epochs:
                self._run_epoch(wrapped)
                self.epoch, self.step = self.epoch + 1, 0
                self.progress.advance(self.epoch, epochs)
                if self._runs_out_of_patience():
                    break
                if self.epoch < epochs:
                    self._save_if_due()
        processes.end_log()
        processes.release(network)
        if self.best is not None:
            network.load_state_dict(self.best)
        network.cpu().eval()
        processes.wait()
        if processes.main:
            self.checkpoint.unlink(missing_ok=True)

    def _run_epoch(self, network: nn.Module) -> None:
        rows, schedule, processes = self.rows, self.schedule, self.processes
        batches = training_batches(
            rows.samples,
            rows.stride,
            rows.count,
            rows.views,
            schedule.batch_size,
            np.random.default_rng([self.seed, self.epoch]),
        )
        steps, value, rate = len(batches), torch.zeros(()), 0.0
        while self.step < steps:
            done = self.epoch * steps + self.step
            _seed((self.seed * 1_000_003 + done) * processes.count + processes.rank, network)
            rate = learning_rate(schedule, done, schedule.epochs * steps)
            if len(batches[self.step]) >= 2 * processes.count:  # one has no variance: batch norm
                value = self._take_step(network, batches[self.step], rate)
            self.step += 1
            if self.step < steps:
                self._tell(self.epoch + self.step / steps)
                self._save_if_due()
        if not math.isfinite(float(value)):
            raise TrainingError(
                f"the stage {self.name!r} came to a loss of {float(value)} in epoch "
                f"{self.epoch + 1}; lower its learning rate"
            )
        if self.validate is not None:
            # batch norm has seen other samples in each process: one of them decides
            self.score = processes.agree(self.validate(self.network))
            self.network.train()
        curves = {"loss": float(value), "learning_rate": rate}
        if self.score:
            curves |= {"validation": self.score.metric}
        processes.log(curves, self.epoch + 1)

    def _take_step(self, network: nn.Module, batch: Index, rate: float) -> Tensor:
        accelerator = self.processes.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        with accelerator.autocast():
            value = self.loss(network, batch[self.processes.rank :: self.processes.count])
        accelerator.backward(value)
        self.optimizer.step()
        return value.detach()

    def _runs_out_of_patience(self) -> bool:
        if self.score is None:
            return False
        if self.best_score is None or self.score > self.best_score:
            self.best_score, self.waited = self.score, 0
            state = self.network.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in state.items()}
            return False
        self.waited += 1
        return self.schedule.patience is not None and self.waited >= self.schedule.patience

    def _tell(self, done: float) -> None:
        now = time.monotonic()
        if now - self.told > PROGRESS_SECONDS and self.told:
            self.progress.advance(done, self.schedule.epochs)
        if now - self.told > PROGRESS_SECONDS:
            self.told = now

    def _save_if_due(self) -> None:
        """Write a checkpoint now and then, never so often that it slows the training."""
        start = time.monotonic()
        if not self.processes.main or start - self.saved <= self.pause:
            return
        best = self.best_score
        buffer = io.BytesIO()
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "waited": self.waited,
                "best": self.best,
                "best_score": best and [best.metric, best.minus_cross_entropy],
            },
            buffer,
        )
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.checkpoint, buffer.getvalue())
        self.saved = time.monotonic()
        self.pause = max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * (self.saved - start))

    def _resume(self, optimizer: Any) -> None:
        """Go on where the first process's checkpoint stands, if there is one."""
        own = self.processes.main and self.checkpoint.exists()
        data = self.processes.agree(self.checkpoint.read_bytes() if own else None)
        if data is None:
            return
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.waited = state["epoch"], state["step"], state["waited"]
        self.best = state["best"]
        self.best_score = Score(*state["best_score"]) if state["best_score"] else None


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a thousandth (Loshchilov & Hutter 2017)."""
    warm_up = max(1, int(WARM_UP_SHARE * steps))
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return schedule.learning_rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * done)))


def _seed(value: int, network: nn.Module) -> None:
    """Seed what dropout draws from.  torch.manual_seed does too, and takes 50 µs."""
    torch.default_generator.manual_seed(value)
    if next(network.parameters()).is_cuda:
        torch.cuda.manual_seed(value)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # costs a tenth, and no kernel here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
