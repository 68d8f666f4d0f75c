"""What both comparison scripts share: the job file, the data, the student, and the answer.

Nothing here trains, and nothing but numpy, torch and transformers is imported, so that each peer
can have an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers import BertForSequenceClassification as Bert

Ints = NDArray[np.int64]
Row = dict[str, Tensor]


class JobError(Exception):
    """What was found, what was wanted, in one sentence."""


@dataclass(frozen=True)
class Job:
    teacher: str
    """Folder of a fine-tuned BERT sequence classifier."""
    student: dict[str, Any]
    """Fields of a BertConfig; the number of classes is the teacher's."""
    data: str
    """An .npz with {train,test}_{ids,mask,y}, int64, padded on the right."""
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 5e-4
    alpha: float = 0.5
    """Weight of the soft targets; the labels have 1 - alpha."""
    temperature: float = 2.0
    seed: int = 0
    threads: int = 1

    @staticmethod
    def load(path: Path) -> Job:
        """Read it; paths in it are relative to its folder.  Raises JobError."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JobError(f"{path} is not a readable JSON file ({error})") from None
        if not isinstance(table, dict):
            raise JobError(f"{path} holds no JSON object")
        known = {field.name for field in fields(Job)}
        wrong = sorted((table.keys() - known) | ({"teacher", "student", "data"} - table.keys()))
        if wrong:
            raise JobError(f"{path}: the key {wrong[0]!r} is missing or not known")
        job = Job(**table | {key: str(path.parent / table[key]) for key in ("teacher", "data")})
        if not 0 < job.alpha < 1:
            raise JobError(f"{path}: alpha is {job.alpha:g}; it must be between 0 and 1")
        if not (Path(job.teacher) / "config.json").is_file():
            raise JobError(f"{job.teacher} is no model folder: it has no config.json")
        return job


class Texts(Dataset[Row]):
    """Token ids of each text, as long as the text is: padding is for the batch to add."""

    def __init__(self, ids: Ints, mask: Ints, y: Ints) -> None:
        lengths = mask.sum(axis=1)
        if not (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all():
            raise JobError("the mask of the data has holes; pad on the right")
        self.y = torch.from_numpy(y)
        self.rows: list[Row] = [
            {"input_ids": torch.from_numpy(ids[i, :n].copy()), "labels": self.y[i]}
            for i, n in enumerate(lengths.tolist())
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def collate(rows: Sequence[Row]) -> Row:
    """A batch padded to its own longest text."""
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()  # (batch, tokens)
    labels = torch.stack([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclass(frozen=True)
class Setting:
    """Everything that is loaded before the clock starts."""

    teacher: nn.Module
    student: Bert
    train: Texts
    test: Texts


def setting(job: Job) -> Setting:
    """Load the models and the data; the same job gives the same untrained student."""
    torch.set_num_threads(job.threads)
    teacher = AutoModelForSequenceClassification.from_pretrained(job.teacher)  # in eval mode
    torch.manual_seed(job.seed)
    student = Bert(BertConfig(**job.student | {"num_labels": teacher.config.num_labels}))
    with np.load(job.data) as data:
        splits = [
            Texts(*(data[f"{split}_{part}"] for part in ("ids", "mask", "y")))
            for split in ("train", "test")
        ]
    return Setting(teacher, student, *splits)


@dataclass
class Clock:
    """A context: how long the block inside took, on the wall and of this process's processors."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all threads; less disturbed by what else the machine does."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of parts of it that are worth a name."""

    def __enter__(self) -> Clock:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu_seconds = time.process_time() - self._start[1]


@torch.inference_mode()
def accuracy(model: nn.Module, texts: Texts, batch_size: int = 256) -> float:
    model.eval()
    right = 0
    for start in range(0, len(texts), batch_size):
        batch = collate(texts.rows[start : start + batch_size])
        labels = batch.pop("labels")
        right += int((model(**batch).logits.argmax(dim=1) == labels).sum())
    return right / len(texts)


def run(
    doc: str | None,
    train: Callable[[Job, Setting, argparse.Namespace], Clock],
    packages: Sequence[str],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """A comparison script: read the job, `train` (which says how long it took), print one line."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("job", type=Path, help="JSON, as make_job.py writes it")
    options(parser)
    given = parser.parse_args()
    answer, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    try:
        job = Job.load(given.job)
        loaded = setting(job)
    except (JobError, OSError, KeyError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    clock = train(job, loaded, given)
    result = {
        "seconds": round(clock.seconds, 3),
        "cpu_seconds": round(clock.cpu_seconds, 3),
        **{key: round(value, 3) for key, value in clock.parts.items()},
        "samples_per_second": round(job.epochs * len(loaded.train) / clock.seconds, 2),
        "accuracy": round(accuracy(loaded.student, loaded.test), 5),
        "steps": job.epochs * -(-len(loaded.train) // job.batch_size),
        "options": {key: value for key, value in vars(given).items() if key != "job"},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", *packages)},
    }
    answer.write(json.dumps(result) + "\n")
    return 0
