"""Distillation losses against values that numpy computes from their papers' definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistill import losses

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
