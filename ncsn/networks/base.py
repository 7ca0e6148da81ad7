"""What every network of this project has in common: it is called as ``network(x, sigma)``."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["ScoreNetwork"]


class ScoreNetwork(nn.Module, ABC):
    """A function of a noisy point and of its noise level, of the shape of the point.

    What the output means (the score, the noise, a correction to a Gaussian score) is decided by
    :mod:`ncsn.networks.preconditioning`, not by the network.
    """

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: Noisy data, shape ``(batch, *event)``.
            sigma: Noise level of each example, shape ``(batch,)``, > 0.

        Returns:
            A tensor of the shape of ``x``.
        """
