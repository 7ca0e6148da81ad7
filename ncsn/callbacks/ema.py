"""The exponential moving average of the weights."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ema_update"]

Weights = list[Tensor]


def ema_update(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """The update of an exponential moving average, for Lightning's ``WeightAveraging``.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first random weights
    are soon forgotten and early validations and pictures mean something.

    Source:
        The warm-up of TensorFlow's ``ExponentialMovingAverage``, argument ``num_updates``.

    Args:
        decay: The decay in the long run, in (0, 1).

    Returns:
        A function of the averaged weights, which it changes, the current weights, and the number
        of updates so far. It does not synchronise with the device.
    """

    @torch.no_grad()
    def update(averaged: Weights, current: Weights, num_averaged: Tensor | int) -> None:
        n = torch.as_tensor(num_averaged, dtype=torch.float32, device=averaged[0].device)
        d = ((1 + n) / (10 + n)).clamp(max=decay)
        torch._foreach_mul_(averaged, d)
        torch._foreach_add_(averaged, torch._foreach_mul(current, 1 - d))

    return update
