"""The reference network for images: a conditioned ResNet without downsampling."""

from typing import cast

import torch
from torch import Tensor, nn

from ncsn.levels import geometric
from ncsn.networks.base import ScoreNetwork


class NoiseLevelTable(nn.Module):
    """One learned vector for each noise level: an ``nn.Embedding`` on the levels of the ladder.

    Between two levels it is linear in log sigma, and outside the ladder that of the nearest level,
    so that samplers may use other levels than training did.

    Args:
        dim: Size of a vector.
        noise_levels: The ladder, shape ``(num_levels,)``, descending; its first level has row 0.
    """

    def __init__(self, dim: int, noise_levels: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(noise_levels), dim)
        self.rising = nn.Buffer(-noise_levels.log(), persistent=False)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed ``sigma`` of shape ``(batch,)``; returns ``(batch, dim)``."""
        return self.at(*self.locate(sigma))

    def locate(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The rows before ``sigma``, and the shares of the way to the next; ``(batch,)`` each."""
        if len(self.rising) == 1:
            return torch.zeros_like(sigma, dtype=torch.long), torch.zeros_like(sigma)
        position = -sigma.log()
        row = torch.searchsorted(self.rising, position, right=True) - 1
        row = row.clamp(0, len(self.rising) - 2)
        low, high = self.rising[row], self.rising[row + 1]
        width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)  # in bfloat16 it may be 0
        return row, ((position - low) / width).clamp(0, 1)

    def at(self, row: Tensor, share: Tensor) -> Tensor:
        """The embedding at a place that :meth:`locate` found in a table of the same levels."""
        following = (row + 1).clamp(max=len(self.rising) - 1)
        return torch.lerp(self.table(row), self.table(following), share[:, None])


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

    def forward(self, x: Tensor, row: Tensor, share: Tensor) -> Tensor:
        """Return x + f(x + e(sigma)), with sigma as :meth:`NoiseLevelTable.locate` finds it."""
        # The embedding is float32; without the cast, autocast would take the stream back there.
        e = self.embedding.at(row, share).to(x.dtype)[:, :, None, None]
        return x + self.f(x + e)


class ConditionedResNet(ScoreNetwork):
    """The conditioned ResNet: conv3x3 + ReLU, residual blocks, ReLU + conv3x3.

    Every block has its own table of learned embeddings, one for each noise level, broadcast over
    space. The spatial size never changes, so any image size works. Until the module calls
    :meth:`set_noise_levels`, the tables are those of 10 levels from 1 to 0.01.

    Args:
        channels: Channels of the images.
        filters: Width of the network; the reference stays below 128.
        num_blocks: Number N of residual blocks; the reference stays below 8.
    """

    def __init__(self, channels: int = 1, filters: int = 64, num_blocks: int = 7) -> None:
        super().__init__()
        if min(channels, filters, num_blocks) < 1:
            raise ValueError(
                "ConditionedResNet needs channels, filters and num_blocks of at least 1, "
                f"got {channels}, {filters} and {num_blocks}"
            )
        self.conv_in = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
        self.noise_levels = geometric(1.0, 0.01, 10)
        self.blocks = nn.ModuleList(
            ConditionedBlock(filters, self.noise_levels) for _ in range(num_blocks)
        )
        self.conv_out = nn.Conv2d(filters, channels, kernel_size=3, padding=1)
        self.to(memory_format=torch.channels_last)  # convolutions run faster

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
        row, share = cast(ConditionedBlock, self.blocks[0]).embedding.locate(sigma)
        for block in self.blocks:
            h = block(h, row, share)
        return self.conv_out(h.relu())
