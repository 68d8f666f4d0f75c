"""Distillation losses: functions of tensors, each with its formula, shapes and paper."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def hard_labels(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels.

    student: logits, (batch, classes); labels: class indices, (batch,).  Returns a scalar.
    """
    return F.cross_entropy(student, labels)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence KL(teacher ∥ student) of the softened classes, times T².

    T² keeps the gradient's size the same whatever the temperature
    (Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531).

    student, teacher: logits, (batch, classes).  Returns a scalar.
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def distillation(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, temperature: float
) -> Tensor:
    """α · soft_targets + (1 − α) · hard_labels; shapes as there."""
    hard = hard_labels(student, labels)
    if not alpha:
        return hard
    return alpha * soft_targets(student, teacher, temperature) + (1 - alpha) * hard
