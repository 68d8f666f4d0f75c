"""Distil a small BERT inside `transformers.Trainer`, with each of EdgeDistill's losses in turn.

Everything is made here, without network: texts, tokenizer, and a teacher that is trained first.

    python distil.py                 every loss
    python distil.py soft_targets    one of them
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from edgedistill import losses

ON_LOGITS = {  # those that `distillation` mixes with the labels
    "soft_targets": losses.soft_targets,
    "decoupled": losses.decoupled,
    "correlation": losses.correlation,
}
NAMES = ("hard_labels", *ON_LOGITS, "hint", "attention", "relation")
ALPHA, TEMPERATURE = 0.9, 2.0


class DistillationLoss:
    """A `compute_loss_func` of Trainer: the teacher sees what the student has just seen."""

    inputs: dict[str, Tensor]

    def __init__(self, student: nn.Module, teacher: nn.Module, name: str) -> None:
        self.teacher, self.name = teacher.eval(), name
        # Trainer passes on the student's outputs and the labels, but not the inputs
        student.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)
        self.own, self.other = Features(student), Features(teacher)
        if name == "hint":  # part of the student, so that Trainer's optimizer trains it too
            student.regressor = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
            self.regressor = student.regressor

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        with torch.no_grad():
            teacher_logits = self.teacher(**self.inputs).logits
        loss = self.mean(outputs.logits, teacher_logits, labels)
        if num_items_in_batch is None:
            return loss
        # Trainer adds up what this returns for the batches of one step, and divides by nothing:
        # num_items_in_batch is the number of samples in all of them
        return loss * len(labels) / num_items_in_batch

    def mean(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of one batch.  student, teacher: logits."""
        if self.name == "hard_labels":
            return losses.hard_labels(student, labels)
        soft = ON_LOGITS.get(self.name, losses.soft_targets)
        logits = losses.distillation(student, teacher, labels, ALPHA, TEMPERATURE, soft=soft)
        own, other, mask = self.own, self.other, self.inputs["attention_mask"]
        if self.name == "hint":
            return logits + losses.hint(self.regressor(own.hidden), other.hidden, mask)
        if self.name == "attention":
            return logits + 0.1 * losses.attention(own.scores, other.scores, mask)
        if self.name == "relation":
            pairs = ((own.query, other.query), (own.key, other.key), (own.value, other.value))
            return logits + sum(losses.relation(s, t, mask, heads=4) for s, t in pairs)
        return logits

    def _keep_inputs(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.inputs = {name: kwargs[name] for name in ("input_ids", "attention_mask")}


class Features:
    """What the last layer of a BERT computed in its latest call; the model stays as it is."""

    query: Tensor
    key: Tensor
    value: Tensor
    hidden: Tensor  # all (batch, tokens, hidden size)

    def __init__(self, model: nn.Module) -> None:
        layer = model.bert.encoder.layer[-1]
        self.heads = model.config.num_attention_heads
        modules = {name: getattr(layer.attention.self, name) for name in ("query", "key", "value")}
        for name, module in {**modules, "hidden": layer.output}.items():
            module.register_forward_hook(
                lambda _, args, output, name=name: setattr(self, name, output)
            )

    @property
    def scores(self) -> Tensor:
        """Attention before its softmax.  (batch, heads, tokens, tokens)"""
        query, key = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.query, self.key)
        )
        return query @ key.mT / query.shape[-1] ** 0.5


# What follows is the toy: texts with topics, two sizes of BERT, and a table of results.

SYLLABLES = [a + b for a in "bdlmnrst" for b in "ao"]
TOPICS = 4


def make_texts(count: int) -> list[tuple[str, int]]:
    """Texts with their topic: 3 to 5 words belong to it, 2 to another topic, 5 to 8 to none."""
    words = ["".join(pair) for pair in itertools.product(SYLLABLES, repeat=2)]
    random.shuffle(words)
    share = len(words) // (TOPICS + 1)
    found = []
    for _ in range(count):
        topic, other = random.sample(range(TOPICS), 2)
        text = [
            words[group * share + random.randrange(share)]
            for group, least, most in ((topic, 3, 5), (other, 2, 2), (TOPICS, 5, 8))
            for _ in range(random.randint(least, most))
        ]
        random.shuffle(text)
        found.append((" ".join(text), topic))
    return found


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


def make_bert(vocabulary: int, layers: int, hidden: int) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 16,
        intermediate_size=2 * hidden,
        max_position_embeddings=32,
        num_labels=TOPICS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,  # so small a network hardly starts from BERT's 0.02
    )
    return BertForSequenceClassification(config)


def train(
    model: nn.Module,
    samples: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerFast,
    loss: DistillationLoss | None = None,
    **arguments: Any,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                **({"per_device_train_batch_size": 32} | arguments),
                warmup_steps=20,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=samples,
            compute_loss_func=loss,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


@torch.no_grad()
def answers(
    model: nn.Module, samples: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast
) -> Tensor:
    inputs = [{name: s[name] for name in ("input_ids", "attention_mask")} for s in samples]
    return model.eval()(**tokenizer.pad(inputs, return_tensors="pt")).logits.argmax(-1)


def main() -> int:
    names = sys.argv[1:] or NAMES
    for name in names:
        if name not in NAMES:
            print(f"no loss named {name!r}; choose from {', '.join(NAMES)}", file=sys.stderr)  # noqa: T201
            return 2
    torch.set_num_threads(1)
    set_seed(0)
    texts = make_texts(2100)
    tokenizer = make_tokenizer([text for text, _ in texts])
    samples = [
        {**tokenizer(text, return_token_type_ids=False), "labels": topic} for text, topic in texts
    ]
    test, labelled = samples[:500], samples[500:]
    # the teacher learns from 1,600 labels; of the student's texts only one in four has its label
    few = [s if i % 4 == 0 else {**s, "labels": -1} for i, s in enumerate(labelled)]
    topics = torch.tensor([s["labels"] for s in test])

    def share(found: Tensor, wanted: Tensor) -> float:
        return (found == wanted).float().mean().item()

    teacher = make_bert(len(tokenizer), layers=3, hidden=64)
    train(teacher, labelled, tokenizer, num_train_epochs=6, learning_rate=2e-3)
    teachers = answers(teacher, test, tokenizer)
    print(f"teacher: accuracy {share(teachers, topics):.3f} on {len(test)} texts")  # noqa: T201
    print(f"{'loss':14}{'before':>8}{'after':>8}{'agreement with teacher':>24}")  # noqa: T201
    for name in names:
        set_seed(1)
        student = make_bert(len(tokenizer), layers=1, hidden=32)
        before = share(answers(student, test, tokenizer), topics)
        loss = DistillationLoss(student, teacher, name)
        train(student, few, tokenizer, loss, num_train_epochs=4, learning_rate=5e-3)
        found = answers(student, test, tokenizer)
        row = f"{name:14}{before:8.3f}{share(found, topics):8.3f}{share(found, teachers):24.3f}"
        print(row, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
