"""The reference network for images: a conditioned ResNet without downsampling."""

import torch
from torch import Tensor, nn

from ncsn.networks.base import ScoreNetwork
from ncsn.networks.embeddings import NoiseLevelTable
from ncsn.noise import geometric_noise_levels

__all__ = ["ConditionedResNet"]


class ConditionedBlock(nn.Module):
    """Residual block ``x + f(x + e(sigma))``, f = conv1x1, ReLU, conv3x3, ReLU, conv1x1."""

    def __init__(self, filters: int, noise_levels: Tensor) -> None:
        super().__init__()
        self.embedding = NoiseLevelTable(filters, noise_levels)
        self.f = nn.Sequential(
            nn.Conv2d(filters, filters, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, kernel_size=1),
        )

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        # The embedding is float32; without the cast, autocast would take the stream back there.
        e = self.embedding(sigma).to(x.dtype)[:, :, None, None]
        return x + self.f(x + e)


class ConditionedResNet(ScoreNetwork):
    """The conditioned ResNet: conv3x3 + ReLU, residual blocks, ReLU + conv3x3.

    Every block has its own table of learned embeddings, one for each noise level, broadcast over
    space. The spatial size never changes, so any image size works. The tables are those of the
    ladder from 1 to 0.01 with 10 levels until :meth:`set_noise_levels` is called, as the modules
    do.

    Args:
        channels: Channels of the images.
        filters: Width of the network; the reference stays below 128.
        num_blocks: Number N of residual blocks; the reference stays below 8.
    """

    def __init__(
        self,
        channels: int = 1,
        filters: int = 64,
        num_blocks: int = 7,
    ) -> None:
        super().__init__()
        if min(channels, filters, num_blocks) < 1:
            raise ValueError(
                "ConditionedResNet needs channels, filters and num_blocks of at least 1, "
                f"got {channels}, {filters} and {num_blocks}"
            )
        self.conv_in = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
        self.noise_levels = geometric_noise_levels(1.0, 0.01, 10)
        self.blocks = nn.ModuleList(
            ConditionedBlock(filters, self.noise_levels) for _ in range(num_blocks)
        )
        self.conv_out = nn.Conv2d(filters, channels, kernel_size=3, padding=1)

    def set_noise_levels(self, noise_levels: Tensor) -> None:
        """Make new tables for another ladder; see :meth:`ScoreNetwork.set_noise_levels`."""
        if torch.equal(noise_levels, self.noise_levels):
            return  # the tables may have been trained
        self.noise_levels = noise_levels
        for block in self.blocks:
            block.embedding = NoiseLevelTable(self.conv_in.out_channels, noise_levels)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :class:`ScoreNetwork`; ``x`` has shape ``(batch, channels, height, width)``."""
        h = self.conv_in(x).relu()
        for block in self.blocks:
            h = block(h, sigma)
        return self.conv_out(h.relu())
