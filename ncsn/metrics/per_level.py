"""Averages for each noise level."""

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MeanPerLevel"]


class MeanPerLevel(Metric):
    """The mean of a quantity at each noise level, over all batches and ranks.

    Args:
        num_levels: Number of noise levels T.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_levels), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_levels), dist_reduce_fx="sum")

    def update(self, levels: Tensor, values: Tensor) -> None:
        """Add values.

        Args:
            levels: Index of the noise level of each value, shape ``(batch,)``.
            values: Shape ``(batch,)``.
        """
        self.total.index_add_(0, levels, values.to(self.total.dtype))
        self.count.index_add_(0, levels, torch.ones_like(values, dtype=self.count.dtype))

    def compute(self) -> Tensor:
        """The means, shape ``(num_levels,)``; NaN at a level that no example had."""
        return self.total / self.count
