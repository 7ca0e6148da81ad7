"""Images as they are stored, uint8, and as networks see them, float32 in [-1, 1]."""

from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8: x / 2 + 1/2, clamped to [0, 1], times 255."""
    return (images / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
