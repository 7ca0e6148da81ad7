"""What every network of this project has in common: it is called as ``network(x, sigma)``.

A class-conditional network also takes ``network(x, sigma, label)``.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ncsn.config import Configured


class ScoreNetwork(nn.Module, Configured, ABC):
    """A function of a noisy point and of its noise level, of the shape of the point.

    What the output means (the score, the noise, a correction to a Gaussian score) is decided by
    :mod:`ncsn.parametrisation`, not by the network.

    Attributes:
        num_classes: Number of classes of a class-conditional network; 0 if it takes no labels.
    """

    num_classes: int = 0

    def set_noise_levels(self, noise_levels: Tensor) -> None:
        """Tell the network its ladder; the module calls this once, before training.

        A network with parameters for each level creates them here; others do nothing.

        Args:
            noise_levels: The ladder, shape ``(num_levels,)``, descending.
        """

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the network.

        A class-conditional network takes a third argument ``label``, shape ``(batch,)``: classes,
        or −1 for "any"; without it, all examples are of any class.

        Args:
            x: Noisy data, shape ``(batch, *event)``.
            sigma: Noise level of each example, shape ``(batch,)``, > 0.

        Returns:
            A tensor of the shape of ``x``.
        """
