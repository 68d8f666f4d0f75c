"""Distil with torchdistill, configured as its own GLUE samples are."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import library


def allow_torchvision() -> None:
    """Make `import torchvision` possible beside a CPU build of torch, where it is not.

    torchdistill imports torchvision for its image networks, and so does transformers where it is
    installed.  torchvision's wheel on PyPI is made for CUDA: without libtorch_cuda.so its operators
    cannot be loaded, and the import fails when it describes two of them that do not exist.
    Declaring these two is enough; nothing here calls them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(f"torchvision::{name}", schema)


allow_torchvision()

from job import Clock, Job, Setting, collate, run  # noqa: E402
from torch.utils.data import RandomSampler  # noqa: E402
from torchdistill.core.distillation import get_distillation_box  # noqa: E402
from torchdistill.datasets.registry import register_collate_func  # noqa: E402
from torchdistill.misc.log import MetricLogger, SmoothedValue  # noqa: E402
from torchdistill.optim.registry import register_scheduler  # noqa: E402
from transformers import get_linear_schedule_with_warmup  # noqa: E402


def configuration(job: Job, steps: int) -> dict[str, Any]:
    """The `train` part of a torchdistill YAML file."""
    logits = {"forward_hook": {"input": [], "output": ["classifier"]}}
    network = {"forward_proc": "forward_batch_only_as_kwargs"} | logits
    return {
        "num_epochs": job.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "collate_fn": "collate",
            "requires_supp": False,
            "kwargs": {"batch_size": job.batch_size, "num_workers": 0, "drop_last": False},
        },
        "teacher": network | {"requires_grad": False},
        "student": network | {"requires_grad": True},
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": job.learning_rate, "weight_decay": 0.0, "fused": True},
            "max_grad_norm": 1.0,
            "grad_accum_step": 1,
        },
        "scheduler": {
            "key": "get_linear_schedule_with_warmup",
            "kwargs": {"num_warmup_steps": 0, "num_training_steps": steps},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": "classifier",
                                "student_module_io": "output",
                                "teacher_module_path": "classifier",
                                "teacher_module_io": "output",
                                "temperature": job.temperature,
                                "alpha": 1 - job.alpha,  # theirs is the weight of the labels
                                "reduction": "batchmean",
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
    }


def train(job: Job, loaded: Setting, options: argparse.Namespace) -> Clock:
    register_collate_func(collate)
    register_scheduler(get_linear_schedule_with_warmup)
    steps = job.epochs * -(-len(loaded.train) // job.batch_size)
    box = get_distillation_box(
        loaded.teacher,
        loaded.student,
        {"train": loaded.train},
        configuration(job, steps),
        torch.device("cpu"),
        device_ids=None,
        distributed=False,
        lr_factor=1,
    )
    with Clock() as clock:
        for epoch in range(box.num_epochs):
            box.pre_epoch_process(epoch=epoch)
            # the loop of their examples, with the labels given to the loss
            meters = MetricLogger(delimiter="  ")
            meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
            for batch in meters.log_every(box.train_data_loader, 1000, f"Epoch: [{epoch}]"):
                labels = batch.pop("labels")
                loss = box.forward_process(batch, labels, None)
                box.post_forward_process(loss=loss)
                meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
            box.post_epoch_process()
    return clock


if __name__ == "__main__":
    sys.exit(run(__doc__, train, ("torchdistill", "torchvision", "numpy")))
