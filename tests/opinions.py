"""A small text task of generated sentences, teachers for it, and a small image task."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests import teachers_support as support

SEED = 20_261_124
OPINIONS = {
    "negative": ("bad", "awful", "hated"),
    "neutral": ("plain", "usual", "average"),
    "positive": ("good", "great", "loved"),
}
LABELS = tuple(OPINIONS)
TELLING = [word for words in OPINIONS.values() for word in words]
SYLLABLES = ("ba", "de", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu")
FILLERS = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

STATIC = {"vocabulary": 1000, "dim": 16, "hidden": 0}
ENCODER = {"vocabulary": 1000, "embedding": 32, "layers": 1, "hidden": 64, "ffn": 128}
CONVNET = {"block": "dense", "width": 8, "growth": 1.0, "stages": 1, "depth": 2}


# Texts


def sentences(count: int, seed: int = SEED) -> list[tuple[str, str]]:
    """Text and label: one or two words of an opinion among words that mean nothing."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        label = LABELS[i % len(LABELS)]
        words = chance.choices(OPINIONS[label], k=chance.randint(1, 2))
        words += chance.choices(FILLERS[:60], k=chance.randint(3, 6))
        chance.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def write_csv(
    path: Path, rows: Iterable[Sequence[str]], columns: Sequence[str] = ("text", "label")
) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path


def images(path: Path, count: int = 150) -> Path:
    """Noisy 8×8 images: bright above, bright below, or bright on the left."""
    chance = np.random.default_rng(SEED)
    y = np.arange(count) % 3
    x = chance.integers(0, 150, (count, 8, 8, 1), np.uint8)
    x[y == 0, :4] += 100
    x[y == 1, 4:] += 100
    x[y == 2, :, :4] += 100
    np.savez(path, x=x, y=np.array(["above", "below", "left"])[y])
    return path


# Teachers


def tokenizer() -> Any:
    """A fast tokenizer with an entry for every word."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = [*SPECIAL, *TELLING, *FILLERS, *letters, *(f"##{c}" for c in letters)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    return BertTokenizer(vocab=vocabulary, model_max_length=48)


def encoder(folder: Path) -> Path:
    """A bare BERT of 2 layers of 64 with its tokenizer, as save_pretrained writes it."""
    return _save(folder, "AutoModel")


def classifier(folder: Path, labels: Sequence[str] = LABELS, steps: int = 60) -> Path:
    """The same with a head for these labels, trained for a moment (0 steps: not at all)."""
    return _save(folder, "AutoModelForSequenceClassification", labels, steps)


def _save(folder: Path, auto: str, labels: Sequence[str] = (), steps: int = 0) -> Path:
    import transformers

    made = tokenizer()
    make: Any = transformers.BertConfig
    config = make(
        vocab_size=made.vocab_size, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=48, hidden_dropout_prob=0.0,
        initializer_range=0.1,
    )  # fmt: skip
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: Any = getattr(transformers, auto).from_config(config)
        if steps:
            _train(model, made, steps)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def _train(model: Any, made: Any, steps: int) -> None:
    rows = sentences(32 * steps, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(steps):
        texts, labels = zip(*rows[32 * step : 32 * (step + 1)], strict=True)
        batch = made(list(texts), padding=True, return_tensors="pt")
        wanted = torch.tensor([LABELS.index(label) for label in labels])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**batch).logits, wanted).backward()
        optimizer.step()


class Counts(nn.Module):
    """Counts the words of each opinion: a teacher that nobody had to train."""

    def __init__(self, strength: float = 4.0) -> None:
        super().__init__()
        self.tokenizer, self.labels = tokenizer(), list(LABELS)
        self.votes = nn.Embedding.from_pretrained(votes(self.tokenizer, strength))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return (self.votes(ids) * mask[..., None]).sum(1)


def votes(made: Any, strength: float = 4.0) -> Tensor:
    """-> (entries, classes)"""
    table = torch.zeros(len(made), len(LABELS))
    for place, words in enumerate(OPINIONS.values()):
        table[made.convert_tokens_to_ids(list(words)), place] = strength
    return table


def onnx_counts(path: Path) -> Path:
    """`Counts` as a file, with what Optimum writes beside it."""
    from onnx import helper

    made = tokenizer()
    made.save_pretrained(path.parent)
    support.write_json(path.parent / "config.json", {"id2label": dict(enumerate(LABELS))})
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["all"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=support.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["all", "column"], ["votes"]),
        helper.make_node("ReduceSum", ["votes", "tokens"], ["logits"], keepdims=0),
    ]
    weights = {"table": votes(made).numpy(), "tokens": np.array([1]), "last": np.array([-1])}
    shape = ("batch", "tokens")
    taken = [
        helper.make_tensor_value_info(name, support.TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask")
    ]
    support.write_onnx(path, nodes, taken, ("batch", len(LABELS)), weights)
    return path


class Sides(nn.Module):
    """A convolutional network for `images`, trained for a moment on the pixels of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.labels = ["above", "below", "left"]
        with torch.random.fork_rng(devices=[]), np.load(path) as file:
            torch.manual_seed(SEED)
            self.body = nn.Sequential(
                nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(),
                nn.Conv2d(12, 12, 3, 2, padding=1), nn.ReLU(),
            )  # fmt: skip
            self.head = nn.Linear(12 * 16, 3)
            x = torch.from_numpy(file["x"]).permute(0, 3, 1, 2) / 255
            y = torch.tensor([self.labels.index(label) for label in file["y"]])
            optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
            for _ in range(40):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self(x), y).backward()
                optimizer.step()
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pixels).flatten(1))
        return logits


# Recipes


def recipe(data: Path, family: str, spec: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Options of a fit that passes through every stage in a few seconds."""
    training = {
        "epochs": 5, "batch_size": 16, "learning_rate": 0.02, "views": (2,), "alpha": (0.5,),
        "gate": (False,), "trial_epochs": 1,
    }  # fmt: skip
    teacher = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-3, "views": 1}
    return {
        "profile": "rpi4", "data": str(data), "student": family, "spec": spec, "device": "cpu",
        "min_retention": 0.3, "training": training, "teacher_training": teacher,
    } | options  # fmt: skip


def write_toml(path: Path, options: dict[str, Any]) -> Path:
    """Options as a recipe; tables come last."""
    options = {k: v for k, v in options.items() if v is not None}
    plain = [f"{k} = {_toml(v)}" for k, v in options.items() if not isinstance(v, dict)]
    tables = [f"{k} = {_toml(v)}" for k, v in options.items() if isinstance(v, dict)]
    path.write_text("\n".join([*plain, *tables]) + "\n", encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
