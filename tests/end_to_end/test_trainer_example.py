"""The losses work inside `transformers.Trainer`, as the example shows."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "transformers_trainer"
ROW = re.compile(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+)$", re.MULTILINE)

pytestmark = pytest.mark.end_to_end


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "distil.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )


def test_every_loss_makes_a_student_better_and_more_like_its_teacher(tmp_path: Path) -> None:
    done = run(home=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^teacher: accuracy ([\d.]+) on 500 texts$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert float(found[1]) > 0.85
    rows = {name: tuple(map(float, numbers)) for name, *numbers in ROW.findall(done.stdout)}
    shown = ROW.findall((EXAMPLE / "README.md").read_text(encoding="utf-8"))
    assert list(rows) == [name for name, *_ in shown]
    assert len(rows) == 7
    for name, (before, after, agreement) in rows.items():
        assert before < 0.4, name  # one of four topics is right by chance
        assert after > before + 0.15, name
        if name != "hard_labels":
            assert after > rows["hard_labels"][1], name
            assert agreement > 0.7, name


def test_an_unknown_loss_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = run("soft_target", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("no loss named 'soft_target'; choose from hard_labels, ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trainer_example", EXAMPLE / "distil.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accumulated_batches_train_as_one_batch_of_their_size(
    example: ModuleType, tmp_path: Path
) -> None:
    example.set_seed(0)
    texts = example.make_texts(64)
    tokenizer = example.make_tokenizer([text for text, _ in texts])
    samples = [
        {**tokenizer(text, return_token_type_ids=False), "labels": topic if i % 4 else -1}
        for i, (text, topic) in enumerate(texts)
    ]
    teacher = example.make_bert(len(tokenizer), layers=2, hidden=32)
    trained = []
    for batch, accumulated in ((32, 1), (8, 4)):
        example.set_seed(1)
        student = example.make_bert(len(tokenizer), layers=1, hidden=32)
        loss = example.DistillationLoss(student, teacher, "soft_targets")
        example.train(
            student,
            samples,
            tokenizer,
            loss,
            num_train_epochs=2,
            optim="sgd",
            max_grad_norm=0,  # clipping would hide a gradient of the wrong size
            learning_rate=0.1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
        )
        trained.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    example.set_seed(1)
    fresh = example.make_bert(len(tokenizer), layers=1, hidden=32)
    start = torch.cat([p.detach().flatten() for p in fresh.parameters()])
    whole, parts = (t - start for t in trained)
    assert whole.norm() > 1e-3
    assert (parts - whole).norm() < 0.02 * whole.norm()
