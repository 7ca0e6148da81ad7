"""Linear measurements of images and points: masks, frequencies, downsampling, blur.

See :mod:`ncsn.sampling.linear` for what an operator is, and for matrices.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ncsn.levels import expand_as
from ncsn.sampling.linear import LinearOperator, measured_variances


class Mask(LinearOperator):
    """A subset of the values, as a vector; A Aᵀ = I.

    Args:
        shape: Shape of an example.
        known: True where a value is measured, of a shape that expands to ``shape``; or the path
            of a ``.npy`` with it.

    Raises:
        ValueError: If the mask does not fit the shape, or measures nothing.
        OSError: If there is no such file.
    """

    selects = True

    def __init__(self, shape: tuple[int, ...], known: Tensor | str) -> None:
        super().__init__(shape)
        name = "known"
        if isinstance(known, str):
            name = known
            try:
                known = torch.from_numpy(np.load(known, allow_pickle=False))
            except (ValueError, EOFError, TypeError) as error:
                raise ValueError(f"{name} is not an array of numbers (.npy): {error}") from error
        try:
            everywhere = known.bool().expand(self.shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} has the shape {tuple(known.shape)}, and the data has {self.shape}"
            ) from error
        self.rows = everywhere.flatten().nonzero().flatten()
        if not len(self.rows):
            raise ValueError(f"{name} has no value that is measured")

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return x.flatten(1)[:, self.rows.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """See :class:`LinearOperator`: zero where nothing is measured."""
        flat = y.new_zeros(len(y), *self.shape).flatten(1)
        return flat.index_copy(1, self.rows.to(y.device), y).view(-1, *self.shape)

    def solve(self, y: Tensor, noise: float, sigma: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return y / (noise**2 + expand_as(sigma, y) ** 2)


class HiddenBox(Mask):
    """An image without a rectangle.

    Args:
        shape: ``(channels, height, width)``.
        top, left: The first row and the first column that are hidden, >= 0.
        height, width: How many of them, >= 1; by default, all that follow.

    Raises:
        ValueError: If the rectangle is not inside the image, or is all of it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        top: int = 0,
        left: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        rows, columns = _image_size(shape, "HiddenBox")
        height = rows - top if height is None else height
        width = columns - left if width is None else width
        inside = min(top, left) >= 0 and top + height <= rows and left + width <= columns
        if not inside or min(height, width) < 1 or (height, width) == (rows, columns):
            raise ValueError(
                f"HiddenBox must hide a part of {rows}x{columns} pixels, got top={top}, "
                f"left={left}, height={height}, width={width}"
            )
        known = torch.ones(rows, columns, dtype=torch.bool)
        known[top : top + height, left : left + width] = False
        super().__init__(shape, known)


class RandomMask(Mask):
    """Random places, the same in all channels.

    Args:
        shape: Shape of an example: ``(channels, height, width)``, or ``(dim,)``.
        share: Share of the places that are measured, in (0, 1].
        seed: Seed of the choice.
    """

    def __init__(self, shape: tuple[int, ...], share: float = 0.5, seed: int = 0) -> None:
        _check_share("RandomMask", share)
        keys = torch.rand(_places(shape), generator=torch.Generator().manual_seed(seed))
        super().__init__(shape, _smallest(keys, share))


class SubsampledFourier(Mask):
    """Some frequencies, more of the low ones than of the high ones; A Aᵀ = I.

    The Fourier coefficients of real data at f and at −f are conjugate. Here both or none are
    measured, as Hartley coefficients Re − Im: an orthonormal basis in which they are as many real
    numbers, with the same information and white noise.

    Args:
        shape: ``(channels, height, width)``, or ``(dim,)``.
        share: Share of the frequencies that are measured, in (0, 1].
        seed: Seed of the choice; the chance of a frequency f falls as 1 / ‖f‖.
    """

    selects = False

    def __init__(self, shape: tuple[int, ...], share: float = 0.25, seed: int = 0) -> None:
        _check_share("SubsampledFourier", share)
        places = _places(shape)
        self.axes = tuple(range(-len(places), 0))
        axes = (torch.fft.fftfreq(size) for size in places)
        frequency = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
        keys = torch.rand(places, generator=torch.Generator().manual_seed(seed)) * frequency
        mirrored = keys.flip(self.axes).roll([1] * len(places), self.axes)  # at −f
        super().__init__(shape, _smallest(torch.minimum(keys, mirrored), share))

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return super().__call__(self._hartley(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return self._hartley(super().adjoint(y))

    def _hartley(self, x: Tensor) -> Tensor:
        """The Hartley transform, which is its own inverse."""
        z = torch.fft.fftn(x, dim=self.axes, norm="ortho")
        return z.real - z.imag


class Downsampling(LinearOperator):
    """Means over square blocks of pixels; A Aᵀ = I / factor².

    Args:
        shape: ``(channels, height, width)``.
        factor: Side of a block, >= 2, which must divide the height and the width.
    """

    def __init__(self, shape: tuple[int, ...], factor: int = 2) -> None:
        super().__init__(shape)
        height, width = _image_size(shape, "Downsampling")
        if factor < 2 or height % factor or width % factor:
            raise ValueError(
                f"factor must be at least 2 and divide {height}x{width} pixels, got {factor}"
            )
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        wide = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return wide / self.factor**2

    def solve(self, y: Tensor, noise: float, sigma: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return y / (noise**2 + expand_as(sigma, y) ** 2 / self.factor**2)


class Blur(LinearOperator):
    """Convolution with a Gaussian, periodic at the edges: it scales each frequency.

    Args:
        shape: ``(channels, height, width)``, or ``(dim,)``.
        std: Standard deviation of the Gaussian in pixels, > 0.
    """

    def __init__(self, shape: tuple[int, ...], std: float = 1.0) -> None:
        super().__init__(shape)
        if not 0 < std < math.inf:
            raise ValueError(f"std must be a positive number, got {std}")
        places = _places(shape)
        self.axes = tuple(range(-len(places), 0))
        squares = [torch.fft.fftfreq(size, dtype=torch.float64) ** 2 for size in places]
        total = torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0)
        self.transfer = (-2 * (math.pi * std) ** 2 * total).exp()

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return self._scale(x, self.transfer.to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """See :class:`LinearOperator`: A is symmetric."""
        return self(y)

    def solve(self, y: Tensor, noise: float, sigma: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        power = self.transfer.to(y) ** 2
        return self._scale(y, 1 / measured_variances(noise, expand_as(sigma, y), power))

    def _scale(self, x: Tensor, by: Tensor) -> Tensor:
        return torch.fft.ifftn(by * torch.fft.fftn(x, dim=self.axes), dim=self.axes).real


def _smallest(keys: Tensor, share: float) -> Tensor:
    """True at a share of the places, those with the smallest keys; at least at one."""
    num = max(1, round(share * keys.numel()))
    return keys <= keys.flatten().kthvalue(num).values


def _places(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of an image, or the number of values of a point."""
    return tuple(shape[1:] or shape)


def _image_size(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    try:
        _, rows, columns = shape
    except ValueError:
        text = f"{name} is for images, and the data has the shape {tuple(shape)}"
        raise ValueError(text) from None
    return rows, columns


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share of {name} must be in (0, 1], got {share}")
