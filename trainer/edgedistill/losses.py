"""Distillation losses: functions of tensors, each with its formula, shapes and paper.

All return a scalar.  Those over token sequences average within a text first and then over texts,
so that the loss of a batch is the mean of its texts' losses, however the batch is split.
Half-precision inputs are widened to float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgedistill.errors import EdgeDistillError

UNLABELLED = -1


def hard_labels(student: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with the labels: −Σ_i w_{y_i} log p_i(y_i) / Σ_i w_{y_i}.

    For multi-label data Σ_c w_c BCE(p_c, y_c), mean over the batch, with w of mean 1.  Labels of −1
    are left out; a batch without any other has loss 0.

    student: logits, (batch, classes); labels: class indices, (batch,), or 0 and 1,
    (batch, classes); weights: (classes,).
    """
    labelled = (labels >= 0).reshape(len(labels), -1).any(-1)
    return _entropies(student, labels, weights).sum() / labelled.sum().clamp_min(1)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence KL(teacher ∥ student) of the softened classes, times T².

    T² keeps the gradient's size the same whatever the temperature
    (Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531).

    student, teacher: logits, (batch, classes).
    """
    student, teacher = _pair("soft_targets", student, teacher)
    log_p = F.log_softmax(student / temperature, dim=-1)
    log_q = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def soft_targets_multi(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """soft_targets where every class is a yes or no of its own: T² Σ_c KL(q_c ∥ p_c), with the
    Bernoulli probabilities p = σ(student / T) and q = σ(teacher / T); mean over the batch.

    student, teacher: logits, (batch, classes).
    """
    student, teacher = _pair("soft_targets_multi", student, teacher)
    return _bernoulli_divergences(student, teacher, temperature).sum(-1).mean()


def decoupled(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    target: float = 1.0,
    non_target: float = 8.0,
) -> Tensor:
    """T² (target · KL(b^T ∥ b^S) + non_target · KL(q̂^T ∥ q̂^S)), mean over the batch.

    b is the softened probability of the label's class and of all others together, q̂ the
    softened classes without the label's.  With non_target = 1 − b^T(label) it would be soft_targets
    (DKD: Zhao et al. 2022, equations 6 and 7, https://arxiv.org/abs/2203.08679; T² as in the
    authors' code).  A sample without label (−1) takes the teacher's first class for it.

    student, teacher: logits, (batch, classes); labels: class indices, (batch,).
    """
    student, teacher = _pair("decoupled", student, teacher)
    labels = torch.where(labels < 0, teacher.argmax(-1), labels)
    is_label = F.one_hot(labels, student.shape[-1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits / temperature, dim=-1)
        others = log_p[~is_label].view(len(log_p), -1)  # (batch, classes - 1)
        together = others.logsumexp(-1)
        return torch.stack([log_p[is_label], together], -1), others - together[:, None]

    (binary_s, others_s), (binary_t, others_t) = parts(student), parts(teacher)
    tckd = F.kl_div(binary_s, binary_t, reduction="batchmean", log_target=True)
    nckd = F.kl_div(others_s, others_t, reduction="batchmean", log_target=True)
    return temperature**2 * (target * tckd + non_target * nckd)


def correlation(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> Tensor:
    """T² (inter · mean_i (1 − ρ(p_i, q_i)) + intra · mean_c (1 − ρ(p_·c, q_·c))).

    ρ is Pearson's correlation of the softened classes p and q: of each sample over the classes
    (inter) and of each class over the batch (intra)
    (DIST: Huang et al. 2022, equations 8 to 10, https://arxiv.org/abs/2205.10536; T² as in the
    authors' code).  Where neither side varies, as in a batch of one, the term is 0.  The loss
    depends on which samples share a batch.

    student, teacher: logits, (batch, classes).
    """
    student, teacher = _pair("correlation", student, teacher)
    p = F.softmax(student / temperature, dim=-1)
    q = F.softmax(teacher / temperature, dim=-1)
    between = inter * _decorrelation(p, q).mean() + intra * _decorrelation(p.T, q.T).mean()
    return temperature**2 * between


def hint(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    kind: Literal["mse", "cosine"] = "mse",
) -> Tensor:
    """Mean squared difference of features, or 1 − cos of the feature vectors.

    FitNets, Romero et al. 2015, equation 3 (https://arxiv.org/abs/1412.6550), with the mean over
    elements for ½ Σ, so that its weight suits any width (as TinyBERT, equation 8); the cosine is
    DistilBERT's, Sanh et al. 2019, section 2 (https://arxiv.org/abs/1910.01108).  Where widths
    differ, put the paper's regressor behind the student's features first.

    student, teacher: (batch, tokens, d), (batch, channels, height, width) or (batch, d);
    mask: (batch, tokens), 1 for a token and 0 for padding, which is left out.
    """
    student, teacher = _pair("hint", student, teacher)
    if mask is not None and (student.ndim != 3 or mask.shape != student.shape[:2]):
        raise EdgeDistillError(
            f"hint: a mask of shape {tuple(mask.shape)} does not fit features of shape"
            f" {tuple(student.shape)}; it goes with (batch, tokens, d) and is (batch, tokens)"
        )
    if student.ndim == 2:
        student, teacher = student[:, None], teacher[:, None]
    elif student.ndim == 4:  # (b, c, h, w) -> (b, h · w, c)
        student, teacher = student.flatten(2).mT, teacher.flatten(2).mT
    real = None if mask is None else mask > 0
    if real is not None:
        student, teacher = (x.masked_fill(~real[..., None], 0) for x in (student, teacher))
    if kind == "mse":
        return _mean_of_real((student - teacher).pow(2).mean(-1), real)
    if kind == "cosine":
        return _mean_of_real(_one_minus_cosine(student, teacher), real)
    raise EdgeDistillError(f"hint: no kind named {kind!r}; choose mse or cosine")


def attention(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1/h Σ_i MSE(A_i^S, A_i^T) of attention matrices before their softmax, A = Q K^T / √d.

    TinyBERT, Jiao et al. 2020, equation 7 (https://arxiv.org/abs/1909.10351).  Where student and
    teacher have different numbers of heads, the mean of all heads is compared.  The MSE of a text
    is over its own rows and columns, not over padding.

    student, teacher: scores, (batch, heads, tokens, tokens); mask: (batch, tokens), 1 for a token
    and 0 for padding.
    """
    if student.shape[1] != teacher.shape[1]:
        # widened first: a mean of half-precision scores can overflow
        student, teacher = (_wide(x).mean(1, keepdim=True) for x in (student, teacher))
    student, teacher = _pair("attention", student, teacher)
    if mask is None:
        return (student - teacher).pow(2).mean()
    real = mask > 0
    pairs = (real[:, :, None] & real[:, None, :])[:, None]  # (batch, 1, tokens, tokens)
    # not multiplied by the mask: scores of padding are often -inf
    student, teacher = (x.masked_fill(~pairs, 0) for x in (student, teacher))
    sums = (student - teacher).pow(2).mean(1).sum((-1, -2))  # (batch,)
    return (sums / pairs.sum((-1, -2, -3)).clamp_min(1)).mean()


def attention_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Q^S / ‖Q^S‖ − Q^T / ‖Q^T‖‖² of activation maps Q = Σ_c |A_c|², mean over the batch.

    Zagoruyko & Komodakis 2017, equation 2 with p = 2 (https://arxiv.org/abs/1612.03928).  The norm
    is squared, as in the authors' code, so that its gradient is finite where maps agree; it is a
    sum over positions where their code has the mean, and so lies in [0, 2] whatever the map's size.
    Where sizes differ, the teacher's map takes the student's: each position is the mean of the
    teacher's positions that it covers.

    student, teacher: (batch, channels, height, width), or (batch, channels, length), each with
    its own channels.
    """
    student, teacher = (_wide(x).pow(2).mean(1, keepdim=True) for x in (student, teacher))
    if teacher.shape[2:] != student.shape[2:]:
        teacher = F.interpolate(teacher, size=student.shape[2:], mode="area")
    return 2 * _one_minus_cosine(student.flatten(1), teacher.flatten(1)).mean()


def relation(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, heads: int = 8
) -> Tensor:
    """1 / (R |x|) Σ_r Σ_t KL(softmax(X_r X_r^T / √d_r)_t of the teacher ∥ of the student).

    X is one of queries, keys or values, all attention heads side by side, cut anew into R
    relation heads of d_r dimensions: student and teacher may differ in width and heads
    (MiniLMv2, Wang et al. 2021, section 3.1 and equations 5 and 6,
    https://arxiv.org/abs/2012.15828).  The paper's loss is the sum over Q, K and V.

    student: (batch, tokens, d_s); teacher: (batch, tokens, d_t); mask: (batch, tokens), 1 for a
    token and 0 for padding, of which neither rows nor columns count.
    """
    for whose, x in (("student", student), ("teacher", teacher)):
        if x.shape[-1] % heads:
            raise EdgeDistillError(
                f"relation: {heads} relation heads do not divide the {whose}'s {x.shape[-1]}"
                f" dimensions; choose a divisor of both {student.shape[-1]} and {teacher.shape[-1]}"
            )
    real = None if mask is None else mask > 0

    def relations(x: Tensor) -> Tensor:
        """Log-softmax of each row.  (batch, R, tokens, tokens)"""
        x = _wide(x)
        if real is not None:
            x = x.masked_fill(~real[..., None], 0)
        x = x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # (batch, R, tokens, d_r)
        with torch.autocast(x.device.type, enabled=False):  # scores overflow in half precision
            scores = x @ x.mT / x.shape[-1] ** 0.5
        if real is not None:
            # the smallest number and not -inf, of which a difference would be nan
            smallest = torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~real[:, None, None, :], smallest)
        return F.log_softmax(scores, dim=-1)

    log_p, log_q = relations(student), relations(teacher)
    divergences = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    return _mean_of_real(divergences.mean(1), real)


def distillation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
    weights: Tensor | None = None,
    soft: Callable[..., Tensor] = soft_targets,
    gate: bool = False,
) -> Tensor:
    """α · soft + (1 − α) · hard_labels, mean over the batch; shapes as there.

    A sample without label (−1) has the soft term alone, with weight 1.  With `gate`, a sample of
    which the teacher's first class is not the label has the hard term alone, with weight 1.
    Multi-label data have soft_targets_multi, and each class of each sample is unlabelled or
    gated by itself.  With α = 0 the teacher has no say: samples without label are left out.

    soft: called as soft(student, teacher, temperature=…), and with labels=… where it takes them,
    on the samples that have a soft term; returns their mean.
    """
    if not alpha:
        return hard_labels(student, labels, weights)
    labelled = labels >= 0
    if labels.ndim == 2:
        if soft is not soft_targets:
            raise EdgeDistillError(
                f"{getattr(soft, '__name__', soft)} compares classes that exclude each other;"
                " use soft_targets for multi-label data"
            )
        student, teacher = _pair("distillation", student, teacher)
        right = ((teacher > 0) == (labels > 0)) if gate else torch.ones_like(labelled)
    else:
        right = (teacher.argmax(-1) == labels) if gate else torch.ones_like(labelled)
    entropies = _entropies(student, labels, weights)  # 0 where there is no label
    total = torch.where(right, (1 - alpha) * entropies, entropies).sum() / len(labels)
    if labels.ndim == 2:
        each = _bernoulli_divergences(student, teacher, temperature)
        each = torch.where(labelled, torch.where(right, alpha * each, 0), each)
        return total + each.sum() / len(labels)
    takes_labels = "labels" in inspect.signature(soft).parameters
    for chosen, share in ((labelled & right, alpha), (~labelled, 1.0)):
        if count := int(chosen.sum()):
            extra = {"labels": labels[chosen]} if takes_labels else {}
            mean = soft(student[chosen], teacher[chosen], temperature=temperature, **extra)
            total = total + share * count / len(labels) * mean
    return total


LOSSES: dict[str, Callable[..., Tensor]] = {
    "hard_labels": hard_labels,
    "soft_targets": soft_targets,
    "soft_targets_multi": soft_targets_multi,
    "decoupled": decoupled,
    "correlation": correlation,
    "hint": hint,
    "attention": attention,
    "attention_maps": attention_maps,
    "relation": relation,
}


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _pair(name: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both widened; broadcasting one to the other would hide a mistake."""
    if student.shape != teacher.shape:
        raise EdgeDistillError(
            f"{name}: the student's output has shape {tuple(student.shape)} and the teacher's"
            f" {tuple(teacher.shape)}; make them equal"
        )
    return _wide(student), _wide(teacher)


def _entropies(student: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy by sample, (batch,), or by sample and class; 0 where there is no label.

    Weighted so that the mean over the labelled samples is hard_labels.
    """
    student, labelled = _wide(student), labels >= 0
    weights = None if weights is None else weights.to(student)
    if labels.ndim == 2:
        weights = None if weights is None else weights / weights.mean()
        answers = labels.clamp_min(0).to(student.dtype)
        each = F.binary_cross_entropy_with_logits(student, answers, weights, reduction="none")
        return each * labelled
    each = F.cross_entropy(student, labels, weights, ignore_index=UNLABELLED, reduction="none")
    if weights is None:
        return each
    total = (weights[labels.clamp_min(0)] * labelled).sum()
    return each * labelled.sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def _bernoulli_divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL of each class's yes or no.  (batch, classes)"""
    student, teacher = student / temperature, teacher / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (yes + no)


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 − cos as ½ ‖a/‖a‖ − b/‖b‖‖²: exact near 0, and 0 for two vectors of zeros.

    a, b: (…, n).  Returns (…).
    """
    a, b = (F.normalize(x, dim=-1, eps=1e-8) for x in (a, b))
    return (a - b).pow(2).sum(-1) / 2


def _decorrelation(a: Tensor, b: Tensor) -> Tensor:
    """1 − Pearson's correlation of rows.  (rows, n) -> (rows,)"""
    return _one_minus_cosine(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True))


def _mean_of_real(values: Tensor, real: Tensor | None) -> Tensor:
    """Mean over each text's own tokens, then over texts.  values, real: (batch, tokens)"""
    if real is None:
        return values.mean()
    values = values.masked_fill(~real, 0)
    return (values.sum(-1) / real.sum(-1).clamp_min(1)).mean()
