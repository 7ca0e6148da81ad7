"""What a classifier makes of samples."""

import torch
from torch import Tensor


def class_divergence(logits: Tensor, shares: Tensor) -> float:
    """KL(p ‖ q) of the classes of samples from those of the training set, in nats.

    It is 0 if all classes occur as often as they should, and log(10) if only one of ten does.

    Args:
        logits: Of the samples, shape ``(n, num_classes)``.
        shares: q, the share of each class in the training set, > 0, shape ``(num_classes,)``.
    """
    p = torch.bincount(logits.argmax(1), minlength=len(shares)).to(shares) / len(logits)
    return torch.special.xlogy(p, p / shares).sum().item()


def confidence(logits: Tensor) -> float:
    """The mean probability of the most likely class, shape ``(n, num_classes)`` of logits."""
    return logits.softmax(1).amax(1).mean().item()
