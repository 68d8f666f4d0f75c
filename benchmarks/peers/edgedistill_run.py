"""Distil with EdgeDistill's own loop: the teacher answers once, then the student learns."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from job import Clock, Job, Setting, Texts, run
from torch import Tensor, nn

from edgedistill import losses
from edgedistill.distill import outputs
from edgedistill.distill.loop import Loop, Rows, Schedule
from edgedistill.distill.processes import Processes
from edgedistill.progress import Silent
from edgedistill.samples import Index, TokenSamples


class Logits(nn.Module):
    """A sequence classifier of transformers, called as EdgeDistill calls networks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).logits
        return logits


def train(job: Job, loaded: Setting, options: argparse.Namespace) -> Clock:
    samples, labels = rows_of(loaded.train), loaded.train.y
    with tempfile.TemporaryDirectory() as folder, Clock() as clock:
        processes = Processes("cpu", "no", "", Path(folder))
        start = time.perf_counter()
        answers = torch.from_numpy(
            outputs.answers(Logits(loaded.teacher), samples, processes.device)
        )
        clock.parts["cached_seconds"] = time.perf_counter() - start

        def loss(network: nn.Module, rows: Index) -> Tensor:
            at = torch.from_numpy(rows)
            logits = network(*samples.batch(rows))
            return losses.distillation(logits, answers[at], labels[at], job.alpha, job.temperature)

        Loop(
            Logits(loaded.student),
            loss,
            Rows(samples, stride=len(samples), count=len(samples), views=1),
            Schedule(job.epochs, job.batch_size, job.learning_rate, weight_decay=0.0),
            name="student",
            seed=job.seed,
            checkpoint=Path(folder) / "student.checkpoint",
            processes=processes,
            progress=Silent(),
        ).run()
    return clock


def rows_of(texts: Texts) -> TokenSamples:
    return TokenSamples([row["input_ids"].numpy() for row in texts.rows], pad=0)


if __name__ == "__main__":
    sys.exit(run(__doc__, train, ("edgedistill", "accelerate", "numpy")))
