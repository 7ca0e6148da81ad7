"""The reference network for images: a conditioned ResNet without downsampling."""

from torch import Tensor, nn

from ncsn.networks.base import ScoreNetwork
from ncsn.networks.embeddings import NoiseLevelTable

__all__ = ["ConditionedResNet"]


class ConditionedBlock(nn.Module):
    """Residual block ``x + f(x + e(sigma))``, f = conv1x1, ReLU, conv3x3, ReLU, conv1x1."""

    def __init__(self, filters: int, embedding: NoiseLevelTable) -> None:
        super().__init__()
        self.embedding = embedding
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
    space. The spatial size never changes, so any image size works.

    Args:
        channels: Channels of the images.
        filters: Width of the network; the reference stays below 128.
        num_blocks: Number N of residual blocks; the reference stays below 8.
        num_levels: Number of noise levels T. From the command line it is linked to the model's.
        sigma_min: Smallest noise level. From the command line it is linked to the model's.
        sigma_max: Largest noise level. From the command line it is linked to the model's.
    """

    def __init__(
        self,
        channels: int = 1,
        filters: int = 64,
        num_blocks: int = 7,
        num_levels: int = 10,
        sigma_min: float = 0.01,
        sigma_max: float = 1.0,
    ) -> None:
        super().__init__()
        if min(channels, filters, num_blocks) < 1:
            raise ValueError(
                "ConditionedResNet needs channels, filters and num_blocks of at least 1, "
                f"got {channels}, {filters} and {num_blocks}"
            )
        self.conv_in = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            ConditionedBlock(filters, NoiseLevelTable(filters, num_levels, sigma_min, sigma_max))
            for _ in range(num_blocks)
        )
        self.conv_out = nn.Conv2d(filters, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :class:`ScoreNetwork`; ``x`` has shape ``(batch, channels, height, width)``."""
        h = self.conv_in(x).relu()
        for block in self.blocks:
            h = block(h, sigma)
        return self.conv_out(h.relu())
