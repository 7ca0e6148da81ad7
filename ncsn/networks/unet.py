"""A small U-Net that trains on MNIST on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncsn.networks.base import ScoreNetwork


class NoiseLevelEmbedding(nn.Module):
    """Sines and cosines of log σ, followed by a small MLP.

    The frequencies are fixed, in geometric progression from 1/8 to 8, so that the embedding is
    smooth over several decades of sigma and still tells neighbouring levels apart.

    Source: Tancik et al. 2020 (arXiv 2006.10739); on log σ: Song et al. 2021 (arXiv 2011.13456).

    Args:
        dim: Size of the embedding, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(torch.logspace(-3, 3, dim // 2, base=2.0), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed ``sigma`` of shape ``(batch,)``; returns ``(batch, dim)``."""
        angles = sigma.log()[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))


class ClassEmbedding(nn.Module):
    """One learned vector of size ``dim`` for each class, and one for "any class"."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, dim)

    def forward(self, label: Tensor) -> Tensor:
        """Embed ``label`` of shape ``(batch,)``, −1 for any class; returns ``(batch, dim)``."""
        return self.table(label + 1)


def zero_(layer: nn.Module) -> None:
    """Zero-initialise a layer."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with group norm; the noise level scales and shifts the second norm."""

    def __init__(self, channels_in: int, channels_out: int, dim_embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
        self.scale_shift = nn.Linear(dim_embedding, 2 * channels_out)
        self.norm2 = nn.GroupNorm(8, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip = nn.Conv2d(channels_in, channels_out, kernel_size=1)
        # Each block starts as the identity, which lets a deep network train from the first step.
        zero_(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Take features of shape ``(batch, channels_in, height, width)`` to channels_out."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.scale_shift(embedding)[:, :, None, None].to(h.dtype).chunk(2, dim=1)
        h = self.conv2(F.silu(torch.addcmul(shift, self.norm2(h), scale + 1)))
        return self.skip(x) + h


class UNet(ScoreNetwork):
    """Residual blocks at several resolutions with skip connections, conditioned on log sigma.

    With ``patch_size=2`` the image is first rearranged to half the resolution and four times the
    channels (pixel-unshuffle), so that the layers work on a quarter of the positions.

    Source: Ho et al. 2020 (arXiv 2006.11239), appendix B; scale and shift by the noise level as in
    Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3.1. Reduced to what small images need.

    Args:
        channels: Channels of the images.
        filters: Width at the first resolution, a multiple of 8.
        multipliers: Width at each resolution, as multiples of ``filters``; each further one
            halves the resolution.
        num_blocks: Residual blocks at each resolution, on the way down and on the way up.
        patch_size: 1, or 2 to work at half resolution. The image's height and width must be
            multiples of it.
        num_classes: Number of classes of a class-conditional network; 0 for one without labels.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        channels: int = 1,
        filters: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        num_blocks: int = 2,
        patch_size: int = 2,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        if min(channels, num_blocks, patch_size, len(multipliers), *multipliers) < 1:
            raise ValueError(
                "UNet needs channels, num_blocks, patch_size and multipliers of at least 1, "
                f"got {channels}, {num_blocks}, {patch_size} and {multipliers}"
            )
        if filters < 8 or filters % 8:
            raise ValueError(f"filters must be a multiple of 8 (group norm), got {filters}")
        widths = [filters * multiplier for multiplier in multipliers]
        dim_embedding = 4 * filters
        self.patch_size, self.num_classes = patch_size, num_classes
        self.embedding = NoiseLevelEmbedding(dim_embedding)
        if num_classes:
            self.class_embedding = ClassEmbedding(num_classes, dim_embedding)
        self.conv_in = nn.Conv2d(channels * patch_size**2, widths[0], kernel_size=3, padding=1)

        self.down = nn.ModuleList()
        width, skip_widths = widths[0], [widths[0]]
        for level, next_width in enumerate(widths):
            if level > 0:
                self.down.append(nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1))
                skip_widths.append(width)
            for _ in range(num_blocks):
                self.down.append(ResBlock(width, next_width, dim_embedding))
                width = next_width
                skip_widths.append(width)

        self.middle = ResBlock(width, width, dim_embedding)

        self.up = nn.ModuleList()
        for next_width in reversed(widths):
            for _ in range(num_blocks + 1):
                self.up.append(ResBlock(width + skip_widths.pop(), next_width, dim_embedding))
                width = next_width

        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, channels * patch_size**2, kernel_size=3, padding=1)
        zero_(self.conv_out)
        self.to(memory_format=torch.channels_last)  # convolutions run faster

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """See :class:`ScoreNetwork`; ``x`` has shape ``(batch, channels, height, width)``."""
        embedding = self.embedding(sigma)
        if self.num_classes:
            any_class = torch.full_like(sigma, -1, dtype=torch.long)
            embedding = embedding + self.class_embedding(any_class if label is None else label)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
            skips.append(h)
        h = self.middle(h, embedding)
        for block in self.up:
            skip = skips.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, size=skip.shape[-2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), embedding)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, self.patch_size)
