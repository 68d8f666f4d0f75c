"""Make a job for the comparison scripts: tweets, a teacher, a small BERT to train.

`--random-teacher` writes an untrained two-layer teacher first: enough to see the scripts run.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from job import Ints, JobError
from tokenizers import Tokenizer

SPLITS = ("train", "test")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/tweets/tweets.csv"))
    parser.add_argument("--teacher", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--random-teacher", type=Path, metavar="TOKENIZER_JSON")
    parser.add_argument("--out", type=Path, default=Path("build/peers"), metavar="FOLDER")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="about so many, of both splits together; default: all"
    )
    parser.add_argument("--test-share", type=float, default=0.2)
    parser.add_argument("--max-length", type=int, default=64, help="in tokens")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the soft targets")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        path = make(options)
    except (JobError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


def make(options: argparse.Namespace) -> Path:
    """Write job.json and data.npz.  Raises JobError."""
    texts, labels = read(options.data)
    names = sorted(set(labels))
    if options.random_teacher:
        write_random_teacher(options.teacher, options.random_teacher, names)
    config = json.loads((options.teacher / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(options.teacher / "tokenizer.json"))
    y = np.array([class_of(config, names)[label] for label in labels], dtype=np.int64)
    chosen = split(y, options.rows or len(y), options.test_share, options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Ints] = {}
    for name, rows in zip(SPLITS, chosen, strict=True):
        tokens = encode(tokenizer, [texts[i] for i in rows], options.max_length)
        arrays |= {f"{name}_ids": tokens[0], f"{name}_mask": tokens[1], f"{name}_y": y[rows]}
    np.savez_compressed(options.out / "data.npz", allow_pickle=False, **arrays)
    job = {
        "teacher": str(options.teacher.resolve()),
        "student": {
            "vocab_size": config["vocab_size"],
            "hidden_size": options.width,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.heads,
            "intermediate_size": 4 * options.width,
            "max_position_embeddings": options.max_length,
        },
        "data": "data.npz",
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "alpha": options.alpha,
        "temperature": options.temperature,
        "seed": options.seed,
        "threads": options.threads,
    }
    path: Path = options.out / "job.json"
    path.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[list[str], list[str]]:
    """Texts and labels; repeated texts once, texts with two labels not at all."""
    found: dict[str, set[str]] = defaultdict(set)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"text", "label"} <= set(rows.fieldnames or ()):
            raise JobError(f"{path} has the columns {rows.fieldnames}; wanted: text, label")
        for row in rows:
            found[row["text"]].add(row["label"])
    pairs = [(text, labels.pop()) for text, labels in found.items() if len(labels) == 1]
    return [text for text, _ in pairs], [label for _, label in pairs]


def class_of(config: dict[str, Any], names: list[str]) -> dict[str, int]:
    """The teacher's own order of the labels, or the alphabet's where it has no names."""
    order = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    known = [order[str(i)] for i in range(len(order))]
    if all(name.startswith("LABEL_") for name in known) and len(known) == len(names):
        known = names
    if sorted(known) != names:
        raise JobError(
            f"the teacher knows the labels {sorted(known)}, the data has {names};"
            " give a teacher that is fine-tuned on this data"
        )
    return {name: i for i, name in enumerate(known)}


def split(y: Ints, rows: int, test_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers of the training and the test split, each with the labels' shares."""
    if not 0 < rows <= len(y):
        raise JobError(f"--rows {rows} is not possible: the data has {len(y)} different texts")
    rng = np.random.default_rng(seed)
    train: list[int] = []
    test: list[int] = []
    for label in np.unique(y):
        of_label = rng.permutation(np.flatnonzero(y == label)).tolist()
        of_label = of_label[: round(rows * len(of_label) / len(y))]
        border = round(test_share * len(of_label))
        test += of_label[:border]
        train += of_label[border:]
    if not train or not test:
        raise JobError(f"--rows {rows} with --test-share {test_share:g} leaves a split empty")
    return rng.permutation(train).tolist(), rng.permutation(test).tolist()


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int) -> tuple[Ints, Ints]:
    """Ids and mask, (texts, tokens), padded to the longest."""
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    ids = np.array([text.ids for text in encoded], dtype=np.int64)
    return ids, np.array([text.attention_mask for text in encoded], dtype=np.int64)


def write_random_teacher(folder: Path, tokenizer_json: Path, names: list[str]) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
