"""Fine-tune a teacher for the comparison: a BERT encoder's last layers and a new head, on tweets.

It learns from the training split that make_job.py makes with the same seed and test share (of
fewer rows, too), so that no job's test split has been seen.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from job import Clock, JobError, Texts, accuracy, collate
from make_job import encode, read, split
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

TESTED_ROWS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/tweets/tweets.csv"))
    parser.add_argument(
        "--encoder", type=Path, default=Path("data/tweets/minilm"), metavar="FOLDER"
    )
    parser.add_argument("--out", type=Path, default=Path("build/peers/teacher"), metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=3000, metavar="N", help="learned from")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--layers", type=int, default=2, help="last ones that learn with the head")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-length", type=int, default=64, help="in tokens")
    parser.add_argument("--test-share", type=float, default=0.2, help="as given to make_job.py")
    parser.add_argument("--seed", type=int, default=0, help="as given to make_job.py")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        make(options)
    except (JobError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{options.out}\n")
    return 0


def make(options: argparse.Namespace) -> None:
    """Write the model, its config with the labels' names, and its tokenizer.  Raises JobError."""
    torch.set_num_threads(options.threads)
    texts, labels = read(options.data)
    names = sorted(set(labels))
    y = np.array([names.index(label) for label in labels], dtype=np.int64)
    train, test = split(y, len(y), options.test_share, options.seed)
    if not 0 < options.rows <= len(train):
        raise JobError(f"--rows {options.rows} is not possible: {len(train)} texts are to train on")
    if not (options.encoder / "tokenizer.json").is_file():
        raise JobError(f"{options.encoder} has no tokenizer.json; run examples/tweets/prepare.py")
    tokenizer = Tokenizer.from_file(str(options.encoder / "tokenizer.json"))

    def some(rows: list[int]) -> Texts:
        return Texts(*encode(tokenizer, [texts[i] for i in rows], options.max_length), y[rows])

    torch.manual_seed(options.seed)
    auto: Any = AutoModelForSequenceClassification
    model = auto.from_pretrained(
        options.encoder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    freeze(model, options.layers)
    with Clock() as clock:
        fine_tune(model, some(train[: options.rows]), options)
    right = accuracy(model, some(test[:TESTED_ROWS]))
    sys.stderr.write(f"accuracy {right:.4f} after {clock.seconds:.0f} s\n")
    model.save_pretrained(options.out)
    shutil.copyfile(options.encoder / "tokenizer.json", options.out / "tokenizer.json")


def freeze(model: Any, layers: int) -> None:
    """All but the head, the pooler and the last layers of the encoder."""
    body = model.base_model
    body.requires_grad_(False)
    blocks = body.encoder.layer
    if not 0 <= layers <= len(blocks):
        raise JobError(f"--layers {layers} is not possible: the encoder has {len(blocks)}")
    for module in [body.pooler, *blocks[len(blocks) - layers :]]:
        module.requires_grad_(True)


def fine_tune(model: Any, texts: Texts, options: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(options.seed)
    batches = DataLoader(
        texts, options.batch_size, shuffle=True, collate_fn=collate, generator=generator
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, options.learning_rate, fused=True)
    steps = options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    for _ in range(options.epochs):
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


if __name__ == "__main__":
    sys.exit(main())
