"""Muon, an optimizer for networks of matrices and convolutions."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.swa_utils import get_ema_multi_avg_fn


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """About U Vᵀ for each matrix M = U S Vᵀ, by a Newton–Schulz iteration.

    X ← aX + (bA + cA²) X with A = X Xᵀ, from X = M / ‖M‖. It changes the singular values alone.
    The coefficients raise small ones fastest: five steps take those above ‖M‖ / 500 to about 0.7
    to 1.2, which is as good as 1, and smaller ones part of the way.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    Args:
        matrices: Shape ``(number, rows, columns)``.
        steps: Number of iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=tiny)  # whatever the unit of the loss
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Adam):
    """Steps of equal length in all directions of a matrix: its momentum, orthogonalised.

    A convolution is a matrix of its output channels by all the rest. Vectors, such as biases, are
    left to Adam. The source leaves embeddings and the last layer to Adam as well; here they are
    matrices like any other. (``torch.optim.Muon`` takes matrices only, and leaves all else to the
    caller.)

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    Args:
        params: The parameters, or groups of them.
        lr: Learning rate of the vectors, >= 0.
        betas: Adam's decays, in [0, 1).
        matrix_lr_ratio: Learning rate of the matrices as a multiple of ``lr``, >= 0.
        momentum: Decay of the momentum of the matrices, in [0, 1); Nesterov's. Schedules such as
            ``OneCycleLR``, which cycle a momentum, cycle the first of ``betas`` instead.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        matrix_lr_ratio: float = 10.0,
        momentum: float = 0.95,
    ) -> None:
        if matrix_lr_ratio < 0:
            raise ValueError(f"matrix_lr_ratio must be at least 0, got {matrix_lr_ratio}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        super().__init__(params, lr, betas)
        own = {"matrix_lr_ratio": matrix_lr_ratio, "momentum": momentum}
        self.defaults |= own  # for groups that are added later
        for group in self.param_groups:
            group.update(own | group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the loss of ``closure``, which computes the gradients, if given."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        gradients: dict[Tensor, Tensor | None] = {}
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.ndim > 1 and p.grad is not None]
            gradients |= {p: p.grad for p in matrices}
            if matrices:
                self._step_matrices(matrices, group)
        for parameter in gradients:  # Adam passes over parameters without a gradient
            parameter.grad = None
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        return loss

    def _step_matrices(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in matrices:
            if parameter not in self.state:  # Adam expects "step" in every state
                new = {"momentum_buffer": torch.zeros_like(parameter), "step": torch.tensor(0.0)}
                self.state[parameter] = new
        momenta = [self.state[p]["momentum_buffer"] for p in matrices]
        gradients = [p.grad for p in matrices if p.grad is not None]
        get_ema_multi_avg_fn(group["momentum"])(momenta, gradients, 0)  # all in one call
        by_shape = defaultdict(list)
        for each in zip(matrices, gradients, momenta, strict=True):
            by_shape[each[0].shape].append(each)
        for shape, same in by_shape.items():  # all of a shape at once
            parameters, *pair = zip(*same, strict=True)
            gradient, momentum = map(torch.stack, pair)
            ahead = gradient.lerp(momentum, group["momentum"])
            updates = orthogonalise(ahead.flatten(2))
            rows, columns = updates.shape[1:]
            length = group["lr"] * group["matrix_lr_ratio"] * max(1, rows / columns) ** 0.5
            for parameter, update in zip(parameters, updates.reshape(-1, *shape), strict=True):
                parameter.sub_(update, alpha=length)
