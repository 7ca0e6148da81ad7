"""What a classifier makes of samples."""

import torch
from torch import Tensor


def class_divergence(logits: Tensor, shares: Tensor) -> float:
    """KL(p ‖ q) of the classes of samples from those of the training set, in nats.

    It is 0 if all classes occur as often as they should, log(10) if only one of ten does, and
    infinite if there are samples of a class whose share q is 0.

    Args:
        logits: Of the samples, shape ``(n, num_classes)``.
        shares: q, the share of each class in the training set, shape ``(num_classes,)``.
    """
    p = torch.bincount(logits.argmax(1), minlength=len(shares)).to(shares) / len(logits)
    return (torch.xlogy(p, p) - torch.xlogy(p, shares)).sum().item()


def class_shares(labels: Tensor, num_classes: int) -> Tensor:
    """The share of each class in a training set, shape ``(num_classes,)``.

    A class without an example counts as half of one: its share is not known to be zero, and a
    single sample of it should not make the divergence infinite.

    Args:
        labels: Of the training set, shape ``(n,)``.
        num_classes: Number of classes; more, if there are larger labels.
    """
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=0.5)
    return counts / counts.sum()


def confidence(logits: Tensor) -> float:
    """The mean probability of the most likely class, from logits of shape ``(n, num_classes)``."""
    return logits.softmax(1).amax(1).mean().item()
