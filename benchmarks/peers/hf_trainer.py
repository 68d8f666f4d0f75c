"""Distil with transformers.Trainer, the teacher in the loop, as the usual tutorials do it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import torch
from job import Clock, Job, Setting, collate, run
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments


class DistillationTrainer(Trainer):
    def __init__(self, *, teacher: nn.Module, alpha: float, temperature: float, **rest: Any):
        super().__init__(**rest)
        self.teacher = teacher
        self.alpha = alpha
        self.temperature = temperature

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        outputs = model(**inputs)
        with torch.no_grad():
            teacher = self.teacher(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            )
        soft = self.temperature**2 * F.kl_div(
            F.log_softmax(outputs.logits / self.temperature, dim=-1),
            F.softmax(teacher.logits / self.temperature, dim=-1),
            reduction="batchmean",
        )
        loss = self.alpha * soft + (1 - self.alpha) * outputs.loss
        return (loss, outputs) if return_outputs else loss


def train(job: Job, loaded: Setting, options: argparse.Namespace) -> Clock:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            train_sampling_strategy="group_by_length" if options.group_by_length else "random",
            seed=job.seed,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = DistillationTrainer(
            model=loaded.student,
            args=arguments,
            train_dataset=loaded.train,
            data_collator=collate,
            teacher=loaded.teacher,
            alpha=job.alpha,
            temperature=job.temperature,
        )
        with Clock() as clock:
            trainer.train()
    return clock


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-by-length",
        action="store_true",
        help="batches of texts of about the same length; off by default in the Trainer, too",
    )


if __name__ == "__main__":
    sys.exit(run(__doc__, train, ("accelerate", "numpy"), add_options))
