"""Distillation losses against values that numpy computes from their papers' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill import losses
from edgedistill.errors import EdgeDistillError

BATCH, CLASSES = 5, 7


def softmax(logits, temperature=1.0):
    """q_i = exp(z_i / T) / Σ_j exp(z_j / T)  (Hinton et al. 2015, equation 1)."""
    exponentials = np.exp(logits.astype(np.float64) / temperature)
    return exponentials / exponentials.sum(-1, keepdims=True)


def divergence(student, teacher, temperature):
    """T² · mean over the batch of Σ_i q_i (log q_i − log p_i)."""
    p, q = softmax(student, temperature), softmax(teacher, temperature)
    return temperature**2 * np.mean(np.sum(q * (np.log(q) - np.log(p)), axis=-1))


def cross_entropy(student, labels):
    return -np.mean(np.log(softmax(student)[np.arange(len(labels)), labels]))


@pytest.fixture
def logits():
    """Student's and teacher's, and labels."""
    random = np.random.default_rng(3)
    student, teacher = random.normal(scale=3, size=(2, BATCH, CLASSES)).astype(np.float32)
    return student, teacher, random.integers(0, CLASSES, BATCH)


def gradient(loss, student):
    leaf = torch.from_numpy(student).clone().requires_grad_()
    loss(leaf).backward()
    return leaf.grad.numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_targets_are_the_papers_divergence_times_the_temperature_squared(logits, temperature):
    student, teacher, _ = logits
    found = losses.soft_targets(*map(torch.from_numpy, (student, teacher)), temperature)
    assert found.shape == ()
    assert float(found) == pytest.approx(divergence(student, teacher, temperature), rel=1e-4)


def test_the_temperature_is_four_if_none_is_given(logits):
    student, teacher = map(torch.from_numpy, logits[:2])
    assert losses.soft_targets(student, teacher) == losses.soft_targets(student, teacher, 4.0)


def test_soft_targets_of_two_classes_have_the_value_computed_by_hand():
    # at T = 1: q = (3/4, 1/4), p = (1/2, 1/2); KL = 3/4 log 3/2 + 1/4 log 1/2
    teacher = torch.tensor([[np.log(3.0), 0.0]])
    student = torch.zeros(1, 2)
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(losses.soft_targets(student, teacher, 1.0)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_no_gradient(logits, temperature):
    teacher = torch.from_numpy(logits[1])
    for student in (teacher, teacher + 5):  # softmax knows no common offset
        assert float(losses.soft_targets(student, teacher, temperature)) == pytest.approx(
            0, abs=1e-5
        )
        slope = gradient(lambda z: losses.soft_targets(z, teacher, temperature), student.numpy())
        assert np.abs(slope).max() < 1e-5


def test_soft_targets_are_the_teachers_divergence_and_not_the_students(logits):
    student, teacher = map(torch.from_numpy, logits[:2])
    one, other = (losses.soft_targets(a, b) for a, b in ((student, teacher), (teacher, student)))
    assert float(one) != pytest.approx(float(other), rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_papers(logits, temperature):
    """Equation 2 times T²: ∂C/∂z_i = T (p_i − q_i), over the batch's size."""
    student, teacher, _ = logits
    found = gradient(
        lambda z: losses.soft_targets(z, torch.from_numpy(teacher), temperature), student
    )
    p, q = softmax(student, temperature), softmax(teacher, temperature)
    np.testing.assert_allclose(found, temperature * (p - q) / BATCH, rtol=1e-3, atol=1e-6)


def test_at_high_temperatures_the_gradient_is_that_of_matching_logits(logits):
    """Equation 4: for zero-mean logits it tends to (z_i − v_i) / N."""
    student, teacher = (z - z.mean(-1, keepdims=True) for z in logits[:2])
    found = gradient(lambda z: losses.soft_targets(z, torch.from_numpy(teacher), 500.0), student)
    expected = (student - teacher) / CLASSES / BATCH
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_the_gradients_size_hardly_depends_on_the_temperature(logits):
    student, teacher, _ = logits
    sizes = [
        np.linalg.norm(
            gradient(lambda z, t=t: losses.soft_targets(z, torch.from_numpy(teacher), t), student)
        )
        for t in (4.0, 8.0, 16.0, 32.0)
    ]
    assert max(sizes) < 1.5 * min(sizes)  # without T² it would fall 64-fold


def test_large_logits_give_a_finite_loss_and_gradient():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert torch.isfinite(losses.soft_targets(student, teacher, 1.0))
    assert np.isfinite(
        gradient(lambda z: losses.soft_targets(z, teacher, 1.0), student.numpy())
    ).all()


def test_hard_labels_are_the_cross_entropy(logits):
    student, _, labels = logits
    found = losses.hard_labels(torch.from_numpy(student), torch.from_numpy(labels))
    assert float(found) == pytest.approx(cross_entropy(student, labels), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_distillation_mixes_soft_and_hard_by_alpha(logits, alpha):
    student, teacher, labels = logits
    found = losses.distillation(*map(torch.from_numpy, logits), alpha, 4.0)
    expected = alpha * divergence(student, teacher, 4.0)
    expected += (1 - alpha) * cross_entropy(student, labels)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_with_alpha_zero_the_teacher_has_no_say_even_if_it_answers_nonsense(logits):
    student, teacher, labels = map(torch.from_numpy, logits)
    nonsense = torch.full_like(teacher, float("nan"))
    found = losses.distillation(student, nonsense, labels, 0.0, 4.0)
    assert float(found) == float(losses.hard_labels(student, labels))


# --- the papers' definitions, in loops ------------------------------------------------------------


def tckd_and_nckd(student, teacher, labels, temperature):
    """Zhao et al. 2022, section 3.1: by sample, KL of (label, others) and KL among the others."""
    tckd, nckd = [], []
    for z, v, y in zip(student, teacher, labels, strict=True):
        p, q = softmax(z, temperature), softmax(v, temperature)
        others = [c for c in range(len(p)) if c != y]
        tckd.append(q[y] * math.log(q[y] / p[y]))
        tckd[-1] += (1 - q[y]) * math.log((1 - q[y]) / (1 - p[y]))
        p_hat, q_hat = softmax(z[others], temperature), softmax(v[others], temperature)
        nckd.append(sum(b * math.log(b / a) for a, b in zip(p_hat, q_hat, strict=True)))
    return np.array(tckd), np.array(nckd)


def pearson(a, b):
    """Covariance over the product of standard deviations."""
    covariance = np.mean((a - a.mean()) * (b - b.mean()))
    return covariance / math.sqrt(np.mean((a - a.mean()) ** 2) * np.mean((b - b.mean()) ** 2))


def dist(student, teacher, temperature, inter, intra):
    p, q = softmax(student, temperature), softmax(teacher, temperature)
    rows = np.mean([1 - pearson(p[i], q[i]) for i in range(len(p))])
    columns = np.mean([1 - pearson(p[:, c], q[:, c]) for c in range(p.shape[1])])
    return temperature**2 * (inter * rows + intra * columns)


def bernoulli(student, teacher, temperature):
    """By sample and class, T² KL of a coin with the teacher's odds and one with the student's."""
    found = np.zeros(student.shape)
    for i, c in np.ndindex(*student.shape):
        p, q = (1 / (1 + math.exp(-z[i, c] / temperature)) for z in (student, teacher))
        found[i, c] = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    return temperature**2 * found


def binary_entropy(student, labels):
    """By sample and class, −log of the probability of the answer."""
    found = np.zeros(student.shape)
    for i, c in np.ndindex(*student.shape):
        found[i, c] = math.log(1 + math.exp(-student[i, c] if labels[i, c] else student[i, c]))
    return found


def lengths(mask):
    return [int(row.sum()) for row in mask]


def features_mse(student, teacher, mask):
    per_text = []
    for s, t, n in zip(student, teacher, lengths(mask), strict=True):
        per_text.append(np.mean([(s[i, d] - t[i, d]) ** 2 for i, d in np.ndindex(n, s.shape[-1])]))
    return np.mean(per_text)


def features_cosine(student, teacher, mask):
    per_text = []
    for s, t, n in zip(student, teacher, lengths(mask), strict=True):
        cosines = [s[i] @ t[i] / math.sqrt(s[i] @ s[i]) / math.sqrt(t[i] @ t[i]) for i in range(n)]
        per_text.append(1 - np.mean(cosines))
    return np.mean(per_text)


def tinybert(student, teacher, mask):
    """Equation 7, mean over texts; every text without its padding."""
    per_text = []
    for s, t, n in zip(student, teacher, lengths(mask), strict=True):
        squares = [np.mean((a[:n, :n] - b[:n, :n]) ** 2) for a, b in zip(s, t, strict=True)]
        per_text.append(sum(squares) / len(squares))
    return np.mean(per_text)


def shrunk(image, size):
    """Every pixel is the mean of those that it covers, in part or whole."""
    found = np.zeros(size)
    for i, j in np.ndindex(*size):
        rows, columns = (
            slice(k * old // new, -(-(k + 1) * old // new))
            for k, old, new in zip((i, j), image.shape, size, strict=True)
        )
        found[i, j] = image[rows, columns].mean()
    return found


def attention_transfer(student, teacher):
    """Equation 2 with p = 2, the norm squared."""
    per_image = []
    for s, t in zip(student, teacher, strict=True):
        own, other = (sum(np.abs(channel) ** 2 for channel in x) for x in (s, t))
        other = shrunk(other, own.shape)
        difference = own / np.linalg.norm(own) - other / np.linalg.norm(other)
        per_image.append(np.linalg.norm(difference) ** 2)
    return np.mean(per_image)


def minilm(student, teacher, mask, heads):
    """1 / (R |x|) Σ_r Σ_t KL(teacher's row ∥ student's row), mean over texts."""
    per_text = []
    for s, t, n in zip(student, teacher, lengths(mask), strict=True):
        total = 0.0
        for r in range(heads):
            rows = []
            for x in (s, t):
                width = x.shape[-1] // heads
                part = x[:n, r * width : (r + 1) * width]
                rows.append(softmax(part @ part.T / math.sqrt(width)))
            p, q = rows
            total += sum(q[i, j] * math.log(q[i, j] / p[i, j]) for i, j in np.ndindex(n, n))
        per_text.append(total / heads / n)
    return np.mean(per_text)


# --- each loss, by its definition and by what all must hold ---------------------------------------

TOKENS, HEADS = 6, 4
MASK = np.arange(TOKENS) < np.array([6, 3, 1, 5, 4])[:, None]  # (BATCH, TOKENS)
LABELS = np.array([3, 0, 6, 2, 2])


def sample(*shape, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(BATCH, *shape))


@dataclass(frozen=True)
class Case:
    """A loss with its options, what the paper says that it is, and the shapes of its inputs."""

    name: str
    definition: Callable
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    options: dict = field(default_factory=dict)
    masked: bool = False
    labelled: bool = False

    def __str__(self):
        return "-".join([self.name, *map(str, self.options.values())])

    def inputs(self):
        return sample(*self.student, seed=1), sample(*self.teacher, seed=2)

    def loss(self, student, teacher, rows=slice(None)):
        """Of tensors: the batch's, or that of some of its samples."""
        extra = {}
        if self.masked:
            extra["mask"] = torch.from_numpy(MASK[rows].astype(np.float32))
        if self.labelled:
            extra["labels"] = torch.from_numpy(LABELS[rows])
        return losses.LOSSES[self.name](student[rows], teacher[rows], **extra, **self.options)


ALL = np.ones_like(MASK)
LOGITS = (CLASSES,), (CLASSES,)
SEQUENCES = (TOKENS, 8), (TOKENS, 8)
MATRICES = (HEADS, TOKENS, TOKENS), (HEADS, TOKENS, TOKENS)


def dkd(student, teacher, temperature=4.0, target=1.0, non_target=8.0):
    tckd, nckd = tckd_and_nckd(student, teacher, LABELS, temperature)
    return temperature**2 * np.mean(target * tckd + non_target * nckd)


def image_rows(x):
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


def head_mean(x):
    return x.mean(1, keepdims=True)


CASES = [
    *(
        Case("soft_targets", lambda s, t, k=k: divergence(s, t, k), *LOGITS, {"temperature": k})
        for k in (0.5, 4.0)
    ),
    *(
        Case(
            "soft_targets_multi",
            lambda s, t, k=k: bernoulli(s, t, k).sum(1).mean(),
            *LOGITS,
            {"temperature": k},
        )
        for k in (1.0, 4.0)
    ),
    Case("decoupled", dkd, *LOGITS, labelled=True),
    Case(
        "decoupled",
        lambda s, t: dkd(s, t, 1.0, 2.0, 0.5),
        *LOGITS,
        {"temperature": 1.0, "target": 2.0, "non_target": 0.5},
        labelled=True,
    ),
    Case("correlation", lambda s, t: dist(s, t, 1.0, 1.0, 1.0), *LOGITS),
    Case(
        "correlation",
        lambda s, t: dist(s, t, 4.0, 2.0, 0.5),
        *LOGITS,
        {"temperature": 4.0, "inter": 2.0, "intra": 0.5},
    ),
    Case("hint", lambda s, t: features_mse(s, t, MASK), *SEQUENCES, masked=True),
    Case("hint", lambda s, t: features_mse(s, t, ALL), *SEQUENCES, {"kind": "mse"}),
    Case("hint", lambda s, t: np.mean((s - t) ** 2), (8,), (8,)),
    Case("hint", lambda s, t: np.mean((s - t) ** 2), (3, 4, 2), (3, 4, 2)),
    Case(
        "hint",
        lambda s, t: features_cosine(s, t, MASK),
        *SEQUENCES,
        {"kind": "cosine"},
        masked=True,
    ),
    Case(
        "hint",
        lambda s, t: features_cosine(image_rows(s), image_rows(t), np.ones((BATCH, 8))),
        (3, 4, 2),
        (3, 4, 2),
        {"kind": "cosine"},
    ),
    Case(
        "hint",
        lambda s, t: features_cosine(s[:, None], t[:, None], np.ones((BATCH, 1))),
        (8,),
        (8,),
        {"kind": "cosine"},
    ),
    Case("attention", lambda s, t: tinybert(s, t, MASK), *MATRICES, masked=True),
    Case("attention", lambda s, t: tinybert(s, t, ALL), *MATRICES),
    Case(
        "attention",
        lambda s, t: tinybert(head_mean(s), head_mean(t), MASK),
        (2, TOKENS, TOKENS),
        (3, TOKENS, TOKENS),
        masked=True,
    ),
    Case("attention_maps", attention_transfer, (3, 4, 5), (6, 4, 5)),
    Case("attention_maps", attention_transfer, (3, 4, 5), (6, 8, 7)),
    Case("attention_maps", attention_transfer, (3, 5, 4), (2, 3, 2)),
    Case(
        "relation",
        lambda s, t: minilm(s, t, MASK, 4),
        (TOKENS, 8),
        (TOKENS, 12),
        {"heads": 4},
        masked=True,
    ),
    Case("relation", lambda s, t: minilm(s, t, ALL, 8), (TOKENS, 16), (TOKENS, 24)),
]
each_loss = pytest.mark.parametrize("case", CASES, ids=str)
each_masked_loss = pytest.mark.parametrize("case", [c for c in CASES if c.masked], ids=str)


def tensors(*arrays, dtype=torch.float64):
    return tuple(torch.from_numpy(a).to(dtype) for a in arrays)


def test_every_loss_has_a_case():
    assert {c.name for c in CASES} | {"hard_labels"} == set(losses.LOSSES)


@each_loss
def test_a_loss_is_what_its_paper_defines(case):
    student, teacher = case.inputs()
    found = case.loss(*tensors(student, teacher))
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(case.definition(student, teacher), rel=1e-9)
    single = case.loss(*tensors(student, teacher, dtype=torch.float32))
    assert float(single) == pytest.approx(case.definition(student, teacher), rel=1e-4)


@each_loss
def test_a_loss_is_positive_and_zero_for_a_student_like_its_teacher(case):
    student, teacher = tensors(*case.inputs())
    assert case.loss(student, teacher) > 0
    if student.shape == teacher.shape:
        leaf = teacher.clone().requires_grad_()
        found = case.loss(leaf, teacher)
        found.backward()
        assert found.item() == pytest.approx(0, abs=1e-12)
        assert float(leaf.grad.abs().max()) < 1e-7


@each_loss
def test_the_gradient_of_a_loss_is_that_of_its_value(case):
    student, teacher = tensors(*case.inputs())
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: case.loss(s, teacher), (student,))


@each_loss
def test_the_order_of_a_batch_does_not_matter(case):
    student, teacher = tensors(*case.inputs())
    order = [3, 0, 4, 2, 1]
    assert float(case.loss(student, teacher, order)) == pytest.approx(
        float(case.loss(student, teacher)), rel=1e-12
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "correlation"], ids=str)
def test_the_loss_of_a_batch_is_the_mean_of_its_samples(case):
    """So that two processes, or accumulated steps, see the loss of one."""
    student, teacher = tensors(*case.inputs())
    alone = [float(case.loss(student, teacher, slice(i, i + 1))) for i in range(BATCH)]
    assert float(case.loss(student, teacher)) == pytest.approx(np.mean(alone), rel=1e-12)


@pytest.mark.parametrize("rubbish", [1e4, -np.inf, np.nan], ids=str)
@each_masked_loss
def test_padding_never_changes_a_loss_or_its_gradient(case, rubbish):
    def padded(x):
        if case.name == "attention":
            pairs = torch.from_numpy(MASK[:, None, None, :] & MASK[:, None, :, None])
            return x.masked_fill(~pairs, rubbish)
        return x.masked_fill(~torch.from_numpy(MASK)[..., None], rubbish)

    student, teacher = tensors(*case.inputs())
    clean, dirty = (s.requires_grad_() for s in (student.clone(), padded(student)))
    expected, found = case.loss(clean, teacher), case.loss(dirty, padded(teacher))
    expected.backward()
    found.backward()
    assert found.item() == expected.item()
    assert torch.equal(dirty.grad, clean.grad)


@each_masked_loss
def test_a_text_of_padding_alone_has_no_loss_and_no_gradient(case, monkeypatch):
    monkeypatch.setattr(f"{__name__}.MASK", np.zeros_like(MASK))
    student, teacher = tensors(*case.inputs())
    student.requires_grad_()
    found = case.loss(student, teacher)
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("k", [0.5, 3.0])
@pytest.mark.parametrize("name", ["soft_targets", "soft_targets_multi", "decoupled", "correlation"])
def test_logits_and_temperature_times_k_give_a_loss_times_k_squared(name, k):
    case = Case(name, dkd, *LOGITS, labelled=name == "decoupled")
    student, teacher = tensors(*case.inputs())
    at = [
        Case(name, dkd, *LOGITS, {"temperature": t}, labelled=case.labelled).loss(s, v)
        for t, s, v in ((2.0, student, teacher), (2.0 * k, student * k, teacher * k))
    ]
    assert float(at[1]) == pytest.approx(k**2 * float(at[0]), rel=1e-10)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_what_float32_gives_for_the_same_numbers(case, dtype):
    student, teacher = tensors(*case.inputs(), dtype=dtype)
    assert float(case.loss(student, teacher)) == float(case.loss(student.float(), teacher.float()))


@each_loss
def test_large_half_precision_inputs_do_not_overflow(case):
    student, teacher = (x * 500 for x in tensors(*case.inputs(), dtype=torch.float16))
    student.requires_grad_()
    found = case.loss(student, teacher)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(student.grad).all()


@each_loss
def test_autocast_does_not_change_a_loss(case):
    student, teacher = tensors(*case.inputs(), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.loss(student, teacher)
    assert float(found) == pytest.approx(float(case.loss(student, teacher)), rel=1e-6)


# --- what is particular to one --------------------------------------------------------------------


def test_decoupled_with_the_teachers_own_weights_is_soft_targets():
    """Equation 6: KD = TCKD + (1 − b^T) NCKD."""
    student, teacher = sample(CLASSES, seed=1)[:1], sample(CLASSES, seed=2)[:1]
    weight = 1 - softmax(teacher, 3.0)[0, LABELS[0]]
    inputs = tensors(student, teacher)
    found = losses.decoupled(*inputs, torch.from_numpy(LABELS[:1]), 3.0, 1.0, float(weight))
    assert float(found) == pytest.approx(float(losses.soft_targets(*inputs, 3.0)), rel=1e-10)


def test_decoupled_takes_the_teachers_first_class_where_there_is_no_label():
    student, teacher = tensors(sample(CLASSES, seed=1), sample(CLASSES, seed=2))
    missing, first = torch.full((BATCH,), -1), teacher.argmax(-1)
    assert losses.decoupled(student, teacher, missing) == losses.decoupled(student, teacher, first)


def test_decoupled_of_two_classes_is_soft_targets():
    student, teacher = tensors(sample(2, seed=1), sample(2, seed=2))
    found = losses.decoupled(student, teacher, torch.tensor([0, 1, 1, 0, 1]))
    assert float(found) == pytest.approx(float(losses.soft_targets(student, teacher)), rel=1e-10)


def test_correlation_does_not_mind_how_sure_the_student_is():
    """Any p = a q + b with a > 0 is as good as q."""
    teacher = torch.from_numpy(sample(CLASSES, seed=2))
    unsure = (0.3 * teacher.softmax(-1) + 0.7 / CLASSES).log()
    assert float(losses.correlation(unsure, teacher)) == pytest.approx(0, abs=1e-12)
    assert float(losses.soft_targets(unsure, teacher, 1.0)) > 0.1


def test_correlation_of_one_sample_or_of_a_student_that_knows_nothing_is_finite():
    student, teacher = tensors(sample(CLASSES, seed=1), sample(CLASSES, seed=2))
    one = losses.correlation(student[:1], teacher[:1])
    assert float(one) == pytest.approx(float(losses.correlation(student[:1], teacher[:1], intra=0)))
    nothing = torch.zeros(BATCH, CLASSES, requires_grad=True)
    losses.correlation(nothing, teacher.float()).backward()
    assert torch.isfinite(nothing.grad).all()


def test_a_regressor_takes_a_hint_of_another_width():
    torch.manual_seed(0)
    teacher, student, regressor = torch.randn(8, 5, 12), torch.randn(8, 5, 6), nn.Linear(6, 12)
    step = torch.optim.Adam(regressor.parameters(), 0.05)
    before = losses.hint(regressor(student), teacher).item()
    for _ in range(50):
        step.zero_grad()
        losses.hint(regressor(student), teacher).backward()
        step.step()
    assert losses.hint(regressor(student), teacher).item() < 0.9 * before


def test_attention_maps_do_not_depend_on_scale_or_sign():
    student, teacher = tensors(sample(3, 4, 5, seed=1), sample(6, 4, 5, seed=2))
    found = losses.attention_maps(-10 * student, teacher / 7)
    assert float(found) == pytest.approx(float(losses.attention_maps(student, teacher)), rel=1e-10)
    assert 0 < float(found) <= 2


def test_attention_maps_of_signals_are_those_of_images_one_pixel_high():
    student, teacher = tensors(sample(3, 6, seed=1), sample(2, 9, seed=2))
    image = losses.attention_maps(student[:, :, None], teacher[:, :, None])
    assert float(losses.attention_maps(student, teacher)) == pytest.approx(float(image), rel=1e-12)


def test_relation_does_not_see_a_rotation_within_heads():
    """Scaled dot products are all that it compares."""
    teacher = torch.from_numpy(sample(TOKENS, 8, seed=2))
    turn, _ = torch.linalg.qr(torch.from_numpy(sample(4, 4, seed=3)[0]))
    turned = (teacher.reshape(BATCH, TOKENS, 2, 4) @ turn).reshape(BATCH, TOKENS, 8)
    assert float(losses.relation(turned, teacher, heads=2)) == pytest.approx(0, abs=1e-12)
    assert float(losses.relation(turned, teacher, heads=4)) > 1e-3


# --- labels ---------------------------------------------------------------------------------------


def weighted_entropy(student, labels, weights):
    total = weight = 0.0
    for z, y in zip(student, labels, strict=True):
        if y >= 0:
            total -= weights[y] * math.log(softmax(z)[y])
            weight += weights[y]
    return total / weight


WEIGHTS = np.linspace(0.2, 2, CLASSES)
SOME = np.array([3, -1, 6, -1, 2])
MULTI = (sample(CLASSES, seed=5) > 1).astype(np.int64)


def test_hard_labels_leave_out_samples_without_label(logits):
    student = logits[0].astype(np.float64)
    found = losses.hard_labels(*map(torch.from_numpy, (student, SOME)))
    expected = weighted_entropy(student, SOME, np.ones(CLASSES))
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_hard_labels_weigh_classes_and_the_weights_scale_does_not_matter(logits):
    student = torch.from_numpy(logits[0].astype(np.float64))
    for scale in (1, 10):
        found = losses.hard_labels(
            student, torch.from_numpy(SOME), torch.from_numpy(WEIGHTS * scale)
        )
        expected = weighted_entropy(logits[0], SOME, WEIGHTS)
        assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [None, torch.ones(CLASSES)], ids=["", "weights"])
@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, CLASSES)], ids=str)
def test_a_batch_without_labels_has_no_hard_loss_and_no_gradient(logits, shape, weights):
    student = torch.from_numpy(logits[0]).requires_grad_()
    found = losses.hard_labels(student, torch.full(shape, -1), weights)
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_hard_labels_of_multi_label_data_are_binary_entropies(dtype):
    student = sample(CLASSES, seed=1)
    labels = torch.from_numpy(MULTI.copy()).to(dtype)
    each = binary_entropy(student, MULTI)
    inputs = torch.from_numpy(student), labels
    assert float(losses.hard_labels(*inputs)) == pytest.approx(each.sum(1).mean(), rel=1e-10)
    weighted = (each * WEIGHTS / WEIGHTS.mean()).sum(1).mean()
    found = losses.hard_labels(*inputs, torch.from_numpy(WEIGHTS))
    assert float(found) == pytest.approx(weighted, rel=1e-6)
    labels[1] = -1  # a whole sample without labels
    found = losses.hard_labels(inputs[0], labels)
    assert float(found) == pytest.approx(np.delete(each, 1, 0).sum(1).mean(), rel=1e-10)


def test_hard_labels_gradients_are_right():
    student = torch.from_numpy(sample(CLASSES, seed=1)).requires_grad_()
    weights = torch.from_numpy(WEIGHTS)
    for labels in (torch.from_numpy(SOME), torch.from_numpy(MULTI)):
        assert torch.autograd.gradcheck(
            lambda s, y=labels: losses.hard_labels(s, y, weights), (student,)
        )


# --- the mix --------------------------------------------------------------------------------------

SOFT = {
    "soft_targets": lambda s, t, y: divergence(s, t, 2.0),
    "decoupled": lambda s, t, y: (
        4 * np.mean(np.array([1, 8]) @ np.stack(tckd_and_nckd(s, t, y, 2.0)))
    ),
}


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("soft", SOFT)
@pytest.mark.parametrize("alpha", [0.3, 0.9, 1.0])
def test_each_sample_has_its_own_mix_of_soft_and_hard(alpha, soft, gate):
    student, teacher = sample(CLASSES, seed=1), sample(CLASSES, seed=2)
    first = teacher.argmax(1)
    labels = np.array([first[0], (first[1] + 1) % CLASSES, -1, first[3], -1])
    expected = []
    for i in range(BATCH):
        rows = slice(i, i + 1)
        target = labels[rows] if labels[i] >= 0 else first[rows]
        teachers = SOFT[soft](student[rows], teacher[rows], target)
        if labels[i] < 0:  # the teacher alone
            expected.append(teachers)
        else:
            own = -math.log(softmax(student[i])[labels[i]])
            wrong = first[i] != labels[i]
            expected.append(own if gate and wrong else alpha * teachers + (1 - alpha) * own)
    found = losses.distillation(
        *map(torch.from_numpy, (student, teacher, labels)),
        alpha,
        2.0,
        soft=losses.LOSSES[soft],
        gate=gate,
    )
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-10)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_multi_label_data_mix_and_gate_each_class_by_itself(alpha, gate):
    student, teacher = sample(CLASSES, seed=1), sample(CLASSES, seed=2)
    labels = MULTI.copy()
    labels[2] = -1
    soft, hard = bernoulli(student, teacher, 2.0), binary_entropy(student, labels)
    expected = 0.0
    for i, c in np.ndindex(BATCH, CLASSES):
        if labels[i, c] < 0:
            expected += soft[i, c]
        elif gate and (teacher[i, c] > 0) != (labels[i, c] == 1):
            expected += hard[i, c]
        else:
            expected += alpha * soft[i, c] + (1 - alpha) * hard[i, c]
    inputs = tensors(student, teacher)
    found = losses.distillation(*inputs, torch.from_numpy(labels), alpha, 2.0, gate=gate)
    assert float(found) == pytest.approx(expected / BATCH, rel=1e-10)


def test_correlation_as_the_soft_term_compares_the_samples_that_have_one():
    student, teacher = sample(CLASSES, seed=1), sample(CLASSES, seed=2)
    labels = teacher.argmax(1)
    labels[1] = (labels[1] + 1) % CLASSES
    kept = [0, 2, 3, 4]
    hard = -np.log(softmax(student)[np.arange(BATCH), labels])
    expected = (1 - 0.9) * hard[kept].sum() + hard[1]
    expected += 0.9 * 4 * dist(student[kept], teacher[kept], 2.0, 1.0, 1.0)
    found = losses.distillation(
        *map(torch.from_numpy, (student, teacher, labels)),
        0.9,
        2.0,
        soft=losses.correlation,
        gate=True,
    )
    assert float(found) == pytest.approx(expected / BATCH, rel=1e-10)


def test_class_weights_weigh_the_hard_term_alone():
    student, teacher = sample(CLASSES, seed=1), sample(CLASSES, seed=2)
    inputs = map(torch.from_numpy, (student, teacher, LABELS))
    found = losses.distillation(*inputs, 0.3, 2.0, weights=torch.from_numpy(WEIGHTS))
    expected = 0.3 * divergence(student, teacher, 2.0)
    expected += 0.7 * weighted_entropy(student, LABELS, WEIGHTS)
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_samples_without_label_are_distilled_even_with_no_other_in_the_batch():
    inputs = tensors(sample(CLASSES, seed=1), sample(CLASSES, seed=2))
    found = losses.distillation(*inputs, torch.full((BATCH,), -1), 0.5, 4.0, gate=True)
    assert float(found) == pytest.approx(float(losses.soft_targets(*inputs)), rel=1e-12)


def test_with_alpha_zero_samples_without_label_are_left_out(logits):
    student, teacher, _ = map(torch.from_numpy, logits)
    found = losses.distillation(student, teacher * np.nan, torch.from_numpy(SOME), 0.0, 4.0)
    assert float(found) == float(losses.hard_labels(student, torch.from_numpy(SOME)))


@pytest.mark.parametrize("gate", [False, True])
def test_the_gradient_of_the_mix_is_right(gate):
    student, teacher = tensors(sample(CLASSES, seed=1), sample(CLASSES, seed=2))
    student.requires_grad_()
    multi = torch.from_numpy(MULTI)
    for labels in (torch.from_numpy(SOME), teacher.argmax(-1), multi):
        assert torch.autograd.gradcheck(
            lambda s, y=labels: losses.distillation(s, teacher, y, 0.7, 2.0, gate=gate), (student,)
        )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: losses.soft_targets(torch.zeros(4, 3), torch.zeros(1, 3)),
            r"soft_targets: .* \(4, 3\) .* \(1, 3\); make them equal",
        ),
        (
            lambda: losses.hint(torch.zeros(4, 3), torch.zeros(4, 5)),
            r"hint: .* \(4, 3\) .* \(4, 5\); make them equal",
        ),
        (
            lambda: losses.hint(torch.zeros(4, 3), torch.zeros(4, 3), torch.ones(4, 3)),
            r"hint: a mask of shape \(4, 3\) does not fit .* \(4, 3\); it goes with \(batch",
        ),
        (
            lambda: losses.hint(torch.zeros(4, 3), torch.zeros(4, 3), kind="mae"),
            "hint: no kind named 'mae'; choose mse or cosine",
        ),
        (
            lambda: losses.relation(torch.zeros(1, 2, 12), torch.zeros(1, 2, 16), heads=8),
            "8 relation heads do not divide the student's 12 dimensions; choose a divisor of"
            " both 12 and 16",
        ),
        (
            lambda: losses.attention(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 5, 5)),
            r"attention: .* \(1, 1, 3, 3\) .* \(1, 1, 5, 5\)",
        ),
        (
            lambda: losses.distillation(
                torch.zeros(2, 3),
                torch.zeros(2, 3),
                torch.zeros(2, 3),
                0.5,
                1.0,
                soft=losses.correlation,
            ),
            "correlation compares classes that exclude each other; use soft_targets for multi",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(EdgeDistillError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
