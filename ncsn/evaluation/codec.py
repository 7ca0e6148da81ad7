"""Images as they are stored, uint8, and as networks see them, float32 in [-1, 1]."""

from PIL import Image
from torch import Tensor


def is_deep(image: Image.Image) -> bool:
    """Whether an image that was opened has more than 8 bits a channel.

    PIL says so of grey images alone; it cuts colours to 8 bits as it reads them.
    """
    tiles = getattr(image, "tile", [])
    return image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in tiles)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8: x / 2 + 1/2, clamped to [0, 1], times 255."""
    return (images / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
